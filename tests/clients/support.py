"""What the Python client scripts of this folder share: how they are run, and a server that fails once.

Every script is used as SCRIPT BASE_URL --api-key KEY, where BASE_URL ends in /v1 and the server asks for that key. Each
check prints a line; the first that fails ends the script with a traceback and exit code 1.
"""

import argparse
import contextlib
import http.server
import json
import threading
import time
import urllib.error
import urllib.request

NORWAY = [{"role": "user", "content": "What is the capital of Norway?"}]
GREETING = [{"role": "user", "content": "good evening"}]
OVERLONG = [{"role": "user", "content": "word " * 100_000}]
DAKAR = {"role": "user", "content": "What time is it in Dakar?"}
# An answer to this goes on for as long as the context lasts, if it may not end: a client can leave in its midst.
ENDLESS = {"ignore_eos": True}


class Server:
    """The server that is asked, as its operator sees it."""

    def __init__(self, base_url, api_key):
        self.base_url, self.api_key = base_url.rstrip("/"), api_key
        self.root = self.base_url.removesuffix("/v1")
        models = urllib.request.Request(f"{self.base_url}/models", headers={"authorization": f"Bearer {api_key}"})
        with urllib.request.urlopen(models, timeout=30) as answer:
            self.model = json.load(answer)["data"][0]["id"]

    def metric(self, name, label=""):
        """The sum of a metric's samples; of those that have LABEL, as it is written, if one is given."""
        with urllib.request.urlopen(f"{self.root}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        lines = [line for line in lines if line.startswith((f"{name}{{", f"{name} ")) and label in line]
        assert lines, f"there is no metric {name} with {label}"
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    @contextlib.contextmanager
    def sees_a_client_leave(self, seconds=5):
        """The block leaves an answer unfinished; the server must notice, and have nothing left to do."""
        cancelled = ("hesper_requests_finished_total", 'outcome="cancelled"')
        before = self.metric(*cancelled)
        yield
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            busy = self.metric("hesper_requests_running") + self.metric("hesper_requests_waiting")
            if self.metric(*cancelled) == before + 1 and busy == 0:
                return
            time.sleep(0.02)
        raise AssertionError(f"after {seconds} s: {self.metric(*cancelled) - before} cancelled, {busy} under way")


@contextlib.contextmanager
def failing_once(server, status, headers):
    """A server before the server: it answers the first POST with `status`, and passes on the others.

    Yields its address, as the server's own would be, and a list of the times at which requests came.
    """
    times = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            times.append(time.monotonic())
            if len(times) == 1:
                error = {"type": "server_error", "message": "once", "param": None, "code": None}
                self.answer(status, headers, json.dumps({"type": "error", "error": error}).encode())
                return
            sent = {name: self.headers[name] for name in self.headers if name.lower() not in ("host", "connection")}
            request = urllib.request.Request(server.root + self.path, data=body, headers=sent)
            try:
                with urllib.request.urlopen(request, timeout=60) as reply:
                    self.answer(reply.status, {"content-type": reply.headers["content-type"]}, reply.read())
            except urllib.error.HTTPError as error:
                self.answer(error.code, {"content-type": error.headers["content-type"]}, error.read())

        def answer(self, status, headers, body):
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as proxy:
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_port}", times
        proxy.shutdown()


def client_retries(server, ask, refused):
    """`ask(root, retries)` puts a question through a client. A 429 must be asked again when `retry-after` says so, and a
    503 too; without retries the first must raise `refused`."""
    with failing_once(server, 429, {"retry-after": "1"}) as (root, times):
        ask(root, 2)
        assert len(times) == 2 and 0.95 < times[1] - times[0] < 5, times
    with failing_once(server, 503, {}) as (root, times):
        ask(root, 2)
        assert len(times) == 2, times
    with failing_once(server, 429, {"retry-after": "1"}) as (root, times):
        try:
            ask(root, 0)
            raise AssertionError("a 429 without retries is an answer")
        except refused:
            assert len(times) == 1, times


def arrives_bit_by_bit(ask, attempts=3):
    """The pieces of an answer that `ask` begins. Fails unless many come, and over the time that the answer takes.

    A server, or a client, that gathers an answer and gives it out at its end fails every time; a machine that is busy
    elsewhere, hardly ever several times in a row.
    """
    begin = time.monotonic()
    read, times = [], []
    for piece in ask():
        read.append(piece)
        times.append(time.monotonic() - begin)
    assert len(times) >= 50, f"only {len(times)} pieces"
    first, last = times[0], times[-1]
    early = sum(1 for at in times if at < (first + last) / 2)
    if last - first > last / 5 and early > len(times) / 10:
        return read
    seen = f"the first at {first:.2f} s, the last at {last:.2f} s, {early} of {len(times)} before the middle"
    assert attempts > 1, seen
    return arrives_bit_by_bit(ask, attempts - 1)


def raises(kind, call):
    """The error, which must be of this kind."""
    try:
        answer = call()
    except kind as error:
        return error
    raise AssertionError(f"answered, where {kind.__name__} was due: {answer}")


def main(about, checks):
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("base_url")
    parser.add_argument("--api-key", required=True)
    options = parser.parse_args()
    server = Server(options.base_url, options.api_key)
    for check in checks:
        check(server)
        print(f"ok: {check.__name__.replace('_', ' ')}", flush=True)
