"""A server of the acceptance scripts' own: started, watched from outside, ended."""

import argparse
import contextlib
import os
import pathlib
import resource
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEMO = "models/hesper-demo-Q8_0.gguf"
STARTED = []  # servers that may still run


class Failed(Exception):
    """What was to be shown is not so."""


def arguments(about, **numbers):
    """The options that all scripts have, and `numbers`: options with their defaults."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hesper", default=os.environ.get("HESPER", "target/release/hesper"),
                        help="the program, perhaps of several words (%(default)s)")
    parser.add_argument("--model", default=DEMO, help="a GGUF file (%(default)s)")
    for name, default in numbers.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, help="(%(default)s)")
    options = parser.parse_args()
    os.chdir(ROOT)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 8192) if most != resource.RLIM_INFINITY else 8192, most))
    return options


def run(script):
    """Calls `script`; a failure is a message and exit code 1. SIGTERM ends it with its servers."""
    signal.signal(signal.SIGTERM, end_all)
    try:
        script()
    except Failed as failure:
        sys.exit(f"error: {failure}")


def end_all(*_):
    """An exception would not do: raised in the midst of asyncio's loop it may leave a task that never ends."""
    for server in STARTED:
        server.signal(signal.SIGKILL)
    print("error: ended by SIGTERM", file=sys.stderr, flush=True)
    os._exit(1)


def check(true, message):
    if not true:
        raise Failed(message)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """A process that answers on `port`. Its group is its own: a command of several words may have children."""

    def __init__(self, command, port):
        self.port = port
        self.log = tempfile.TemporaryFile(mode="w+b")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                        start_new_session=True)
        STARTED.append(self)

    def wait_until_ready(self, seconds=600):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            check(self.process.poll() is None, f"the server ended with {self.process.returncode}:\n{self.output()}")
            with contextlib.suppress(OSError), urllib.request.urlopen(self.url("/health"), timeout=5) as answer:
                if answer.status == 200:
                    return self
            time.sleep(0.1)
        raise Failed(f"the server was not ready after {seconds} s:\n{self.output()}")

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    def output(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-4000:]

    def metric(self, name, label=""):
        """The sum of a metric's samples; of those that have LABEL, as it is written, if one is given."""
        with urllib.request.urlopen(self.url("/metrics"), timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        found = [line for line in lines if line.startswith((f"{name}{{", f"{name} ")) and label in line]
        check(found, f"/metrics has no {name} with {label}")
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)

    def idle(self, seconds):
        """Waits until nothing waits, runs or holds a block of the cache; fails after so many seconds."""
        end = time.monotonic() + seconds
        while True:
            left = {
                "waiting": self.metric("hesper_requests_waiting"),
                "running": self.metric("hesper_requests_running"),
                "blocks held": self.metric("hesper_kv_cache_blocks", 'state="held"'),
            }
            if not any(left.values()):
                return
            check(time.monotonic() < end, f"after {seconds} s the server is still not idle: {left}")
            time.sleep(0.05)

    def resident_kib(self):
        """Memory of the process that is in RAM now."""
        shown = subprocess.run(["ps", "-o", "rss=", "-p", str(self.process.pid)], capture_output=True, text=True, check=True)
        return int(shown.stdout)

    def signal(self, number):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def end(self, seconds=60):
        """SIGTERM, as an operator would; the exit status."""
        self.signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"the server still ran {seconds} s after SIGTERM:\n{self.output()}") from None

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.wait()
        if self in STARTED:
            STARTED.remove(self)

    def kill_after(self, seconds):
        """Kills what is left of it so long after a signal."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        self.kill()


@contextlib.contextmanager
def hesper(options, *flags, port=None):
    """`hesper serve` with the model and these flags, ready; killed at the block's end if it still runs."""
    port = port or free_port()
    command = [*shlex.split(options.hesper), "serve", "-m", options.model, "--port", str(port), "--allow-software",
               "--skip-self-test", *flags]
    server = Server(command, port)
    try:
        yield server.wait_until_ready()
    finally:
        server.kill()
