"""A client for many connections at once: it trusts nothing, and says of an answer how it came."""

import asyncio
import dataclasses
import json
import socket
import statistics
import struct
import time


@dataclasses.dataclass
class Answer:
    """What came of a request. `status` is None where not even a status line came; `fault` says what a 200 lacks."""

    status: int | None = None
    headers: dict = dataclasses.field(default_factory=dict)
    body: bytes = b""
    fault: str | None = None
    usage: dict | None = None
    first_s: float | None = None
    seconds: float = 0.0


def completion(prompt="One two three", **fields):
    """The body of a request to /v1/completions that has no end of its own."""
    return {"prompt": prompt, "temperature": 0, "ignore_eos": True, **fields}


async def connect(port, body, path="/v1/completions"):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    text = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(text)}\r\n\r\n".encode() + text)
    await writer.drain()
    return reader, writer


async def read_head(reader, answer):
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    answer.status = int(lines[0].split(" ")[1])
    pairs = (line.split(":", 1) for line in lines[1:] if line)
    answer.headers = {name.lower(): value.strip() for name, value in pairs}


async def read_chunks(reader):
    """The pieces of a body with `transfer-encoding: chunked`. One that is cut off ends in IncompleteReadError."""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)


def whole_object(body, choices):
    try:
        document = json.loads(body)
    except ValueError as error:
        return f"the body is no JSON: {error}", None
    finished = [choice["finish_reason"] for choice in document["choices"]]
    if len(finished) != choices or None in finished:
        return f"finish_reason {finished}, of {choices} answers", None
    return None, document["usage"]


def whole_stream(body, choices):
    """Why a stream of events is not complete, or None; and its usage, where it tells."""
    events = [line.removeprefix(b"data: ") for line in body.split(b"\n") if line.startswith(b"data: ")]
    if not events or events[-1] != b"[DONE]":
        return f"no [DONE] after {len(events)} events: {events[-1:]}", None
    finished, usage = {}, None
    for event in map(json.loads, events[:-1]):
        if "error" in event:
            return f"an error in the stream: {event['error']}", None
        usage = event.get("usage") or usage
        finished.update({choice["index"]: True for choice in event["choices"] if choice["finish_reason"]})
    return (None if len(finished) == choices else f"{len(finished)} of {choices} answers have a finish_reason"), usage


async def ask(port, body, path="/v1/completions"):
    """Sends a request and reads its answer to the end, whatever happens to it."""
    begin, answer, pieces = time.monotonic(), Answer(), []
    writer = None
    try:
        reader, writer = await connect(port, body, path)
        await read_head(reader, answer)
        if answer.headers.get("transfer-encoding") == "chunked":
            async for piece in read_chunks(reader):
                if answer.first_s is None and piece.startswith(b"data: "):
                    answer.first_s = time.monotonic() - begin
                pieces.append(piece)
        else:
            pieces.append(await reader.readexactly(int(answer.headers["content-length"])))
    except (OSError, asyncio.IncompleteReadError, ValueError) as error:
        answer.fault = f"cut: {type(error).__name__} {error}"
    finally:
        if writer:
            writer.close()
    answer.body, answer.seconds = b"".join(pieces), time.monotonic() - begin
    if answer.status == 200 and not answer.fault:
        whole = whole_stream if body.get("stream") else whole_object
        answer.fault, answer.usage = whole(answer.body, body.get("n", 1))
    return answer


async def begin_and_vanish(port, body, events, reset):
    """Reads so many events of a stream, and is gone: by a reset (RST), or as a process that ends (FIN). Without an event to
    read it goes while it waits. The status that it saw, or None."""
    answer = Answer()
    reader, writer = await connect(port, body)
    try:
        if not events:
            await asyncio.sleep(1)
        else:
            await read_head(reader, answer)
            if answer.status != 200:
                return answer.status
            pieces = read_chunks(reader)
            for _ in range(events):
                await anext(pieces)
    finally:
        if reset:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        else:
            writer.close()
    return answer.status


def latency_ms(port, body, times):
    """The median time that one client, alone, waits for an answer; milliseconds."""
    async def alone():
        answers = [await ask(port, body) for _ in range(times)]
        faults = [answer for answer in answers if answer.status != 200 or answer.fault]
        if faults:
            raise RuntimeError(f"one client, alone, got {faults[0]}")
        return statistics.median(answer.seconds for answer in answers) * 1000

    return asyncio.run(alone())
