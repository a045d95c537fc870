"""Tells a server to end while it streams an answer, and checks that the answer still arrives whole.

Usage: drain.py BASE_URL -- COMMAND...

BASE_URL ends in /v1. COMMAND sends the signal and may return before the server has ended. The answer is as long as the
model's context allows, in several choices, so that it takes longer than the command: an answer that ended before the
server was seen to drain proves nothing and is a failure too. Python's standard library alone: the `openai` client takes
longer over a token than the server.
"""

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

CHOICES = 2


def drains(health_url):
    """Whether the server says that it is ending, or takes no connection any more."""
    try:
        with urllib.request.urlopen(health_url, timeout=5):
            return False
    except urllib.error.HTTPError as error:
        return error.code == 503 and b"draining" in error.read()
    except OSError:
        return True


def watch(health_url, command, seen):
    """Runs the command, then notes when the server was first seen to drain."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    while not drains(health_url):
        time.sleep(0.01)
    seen.append(time.monotonic())


def events(base_url, request):
    """The JSON of a stream's events. Fails when the stream ends without the mark of its end."""
    body = json.dumps(request).encode()
    headers = {"content-type": "application/json"}
    post = urllib.request.Request(base_url + "/completions", data=body, headers=headers)
    with urllib.request.urlopen(post, timeout=120) as stream:
        for line in stream:
            data = line.strip().removeprefix(b"data: ")
            if data == b"[DONE]":
                return
            if data:
                yield json.loads(data)
    sys.exit("the stream was cut: it has no [DONE]")


def main():
    if len(sys.argv) < 4 or sys.argv[2] != "--":
        sys.exit(__doc__)
    base_url, command = sys.argv[1], sys.argv[3:]
    with urllib.request.urlopen(base_url + "/models", timeout=30) as answer:
        model = json.load(answer)["data"][0]
    tokens = model["context_length"] - 16
    request = {
        "model": model["id"],
        "prompt": "One two three",
        "n": CHOICES,
        "max_tokens": tokens,
        "seed": 1,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    seen, finished, usage, watcher = [], {}, None, None
    for event in events(base_url, request):
        if watcher is None:
            begin = time.monotonic()
            arguments = (base_url.removesuffix("/v1") + "/health", command, seen)
            watcher = threading.Thread(target=watch, args=arguments, daemon=True)
            watcher.start()
        for choice in event["choices"]:
            if choice["finish_reason"]:
                finished[choice["index"]] = choice["finish_reason"]
        usage = event.get("usage") or usage
    ended = time.monotonic()
    if not seen or seen[0] > ended:
        sys.exit(f"{CHOICES} answers of {tokens} tokens ended before the server was seen to drain: nothing is proved")
    wanted = {index: "length" for index in range(CHOICES)}
    if finished != wanted or usage is None or usage["completion_tokens"] != CHOICES * tokens:
        sys.exit(f"the answer was cut: {finished}, usage {usage}, of {CHOICES} answers of {tokens} tokens")
    print(
        f"ok: a stream of {CHOICES * tokens} tokens in {ended - begin:.1f} s is whole, "
        f"though the server began to drain {ended - seen[0]:.1f} s before its end"
    )


if __name__ == "__main__":
    main()
