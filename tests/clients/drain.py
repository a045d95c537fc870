"""Tells a server to end while it streams an answer, and checks that the answer still arrives whole.

Usage: drain.py BASE_URL -- COMMAND...

BASE_URL ends in /v1. COMMAND sends the signal and may return before the server has ended. The answer is as long as the
model's context allows and in several choices, so that it takes longer than the command: what ended before the server
was seen to drain proves nothing and is a failure too.
"""

import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import openai

CHOICES = 8
PROMPT = "One two three"


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


def main():
    if len(sys.argv) < 4 or sys.argv[2] != "--":
        sys.exit(__doc__)
    base_url, command = sys.argv[1], sys.argv[3:]
    client = openai.OpenAI(base_url=base_url, api_key="none", timeout=120, max_retries=0)
    model = client.models.list().data[0]
    tokens = model.context_length - 16
    stream = client.completions.create(
        model=model.id,
        prompt=PROMPT,
        n=CHOICES,
        max_tokens=tokens,
        temperature=1,
        seed=1,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    seen, finished, usage, watcher = [], {}, None, None
    for chunk in stream:
        if watcher is None:
            arguments = (base_url.removesuffix("/v1") + "/health", command, seen)
            watcher = threading.Thread(target=watch, args=arguments, daemon=True)
            watcher.start()
        for choice in chunk.choices:
            if choice.finish_reason:
                finished[choice.index] = choice.finish_reason
        usage = chunk.usage or usage
    ended = time.monotonic()
    if not seen or seen[0] > ended:
        sys.exit(f"{CHOICES} answers of {tokens} tokens ended before the server was seen to drain: nothing is proved")
    wanted = {index: "length" for index in range(CHOICES)}
    if finished != wanted or usage is None or usage.completion_tokens != CHOICES * tokens:
        sys.exit(f"the answer was cut: {finished}, usage {usage}, of {CHOICES} answers of {tokens} tokens")
    print(f"ok: {usage.completion_tokens} tokens arrived, the last {ended - seen[0]:.1f} s after the server began to drain")


if __name__ == "__main__":
    main()
