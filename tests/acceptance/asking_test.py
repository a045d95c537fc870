"""What the acceptance scripts' client says of answers that are not whole: it must see every way to cut one."""

import asyncio
import json
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts" / "acceptance"))
import asking  # noqa: E402

STREAM = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def chunks(*events, end="0\r\n\r\n"):
    lines = (f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n" for event in events)
    return STREAM + "".join(f"{len(line):x}\r\n{line}\r\n" for line in lines) + end


def event(finish=None, index=0):
    return {"choices": [{"index": index, "text": "a", "finish_reason": finish}]}


def document(finish, length=None):
    body = json.dumps({"choices": [{"finish_reason": finish}], "usage": {}})
    return f"HTTP/1.1 200 OK\r\ncontent-length: {length or len(body)}\r\n\r\n{body}"


async def answer_to(request, reply):
    """What `asking.ask` makes of a server that sends `reply` and closes the connection."""
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply.encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        return await asking.ask(server.sockets[0].getsockname()[1], request)


class Answers(unittest.TestCase):
    def check(self, reply, fault, status=200, **request):
        answer = asyncio.run(answer_to(request, reply))
        self.assertEqual(answer.status, status)
        if fault is None:
            self.assertIsNone(answer.fault)
        else:
            self.assertIn(fault, answer.fault or "no fault was seen")
        return answer

    def test_a_whole_stream_has_no_fault(self):
        answer = self.check(chunks(event(), event("length"), "[DONE]"), None, stream=True)
        self.assertIsNotNone(answer.first_s)
        self.check(chunks(event("stop"), event("stop", 1), "[DONE]"), None, stream=True, n=2)

    def test_a_cut_stream_is_seen(self):
        whole = chunks(event(), event("length"), "[DONE]")
        for length in range(len(STREAM), len(whole)):
            self.check(whole[:length], "cut", stream=True)

    def test_a_stream_that_ends_too_soon_is_seen(self):
        self.check(chunks(event("length")), "no [DONE]", stream=True)
        self.check(chunks(), "no [DONE]", stream=True)
        self.check(chunks(event(), "[DONE]"), "0 of 1 answers", stream=True)
        self.check(chunks(event("stop"), "[DONE]"), "1 of 2 answers", stream=True, n=2)
        self.check(chunks(event(), {"error": {"message": "no"}}, "[DONE]"), "an error in the stream", stream=True)

    def test_a_document_is_whole_or_not(self):
        self.check(document("stop"), None)
        self.check(document(None), "finish_reason")
        self.check(document("stop", 1000), "cut")

    def test_no_answer_has_no_status(self):
        self.check("", "cut", status=None)
        self.check("HTTP/1.1 200", "cut", status=None)

    def test_a_refusal_is_kept_with_its_headers(self):
        reply = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3\r\ncontent-length: 0\r\n\r\n"
        answer = self.check(reply, None, status=429)
        self.assertEqual(answer.headers["retry-after"], "3")


if __name__ == "__main__":
    unittest.main()
