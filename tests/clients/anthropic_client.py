"""Exercises /v1/messages through Anthropic's Python client.

Usage: anthropic_client.py BASE_URL --api-key KEY
"""

from typing import Literal

import anthropic
from pydantic import BaseModel

import support

GET_TIME = {
    "name": "get_time",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "City name"}},
        "required": ["city"],
    },
}


def a_long_answer(booleans):
    """What makes an answer long, whatever the model has to say."""
    listed = {"type": "array", "items": {"type": "boolean"}, "minItems": booleans, "maxItems": booleans}
    schema = {"type": "object", "properties": {"list": listed}, "required": ["list"], "additionalProperties": False}
    return {"max_tokens": 1500, "output_config": {"format": {"type": "json_schema", "schema": schema}}}


class Weather(BaseModel):
    city: Literal["Oslo", "Dakar"]
    windy: bool


def client(server, **options):
    # The key goes in the header x-api-key, as this client has it
    settings = {"base_url": server.root, "api_key": server.api_key, "timeout": 60, "max_retries": 0}
    return anthropic.Anthropic(**{**settings, **options})


def request(server, messages=tuple(support.NORWAY), more=None, **fields):
    """A request's fields; `more` are those that the client has no parameters for (any more)."""
    body = {"temperature": 0, **(more or {})}
    return {"model": server.model, "messages": list(messages), "max_tokens": 200, "extra_body": body, **fields}


def a_message_is_answered(server):
    answer = client(server).messages.create(**request(server))
    assert [block.type for block in answer.content] == ["text"] and answer.content[0].text == "Oslo.", answer
    assert answer.stop_reason == "end_turn" and answer.stop_sequence is None and answer.role == "assistant"
    assert answer.type == "message" and answer.id.startswith("msg_") and answer.model == server.model
    assert answer.usage.input_tokens > 5 and 0 < answer.usage.output_tokens < 10, answer.usage


def system_and_content_blocks_are_taken(server):
    blocks = [{"role": "user", "content": [{"type": "text", "text": support.NORWAY[0]["content"]}]}]
    plain = client(server).messages.create(**request(server, blocks))
    assert plain.content[0].text == "Oslo."
    system = client(server).messages.create(**request(server, system=[{"type": "text", "text": "You are kind."}]))
    assert system.usage.input_tokens > plain.usage.input_tokens


def limits_and_stop_sequences_end_an_answer(server):
    cut = client(server).messages.create(**request(server, support.GREETING, max_tokens=2))
    assert cut.stop_reason == "max_tokens" and cut.usage.output_tokens == 2, cut
    stopped = client(server).messages.create(**request(server, stop_sequences=["lo"]))
    assert stopped.stop_reason == "stop_sequence" and stopped.stop_sequence == "lo", stopped
    assert stopped.content[0].text == "Os", stopped


def tokens_are_counted(server):
    counted = client(server).messages.count_tokens(model=server.model, messages=support.NORWAY)
    assert counted.input_tokens == client(server).messages.create(**request(server)).usage.input_tokens
    more = client(server).messages.count_tokens(model=server.model, messages=support.NORWAY, tools=[GET_TIME])
    assert more.input_tokens > counted.input_tokens


def events_come_bit_by_bit_and_add_up(server):
    fields = request(server, **a_long_answer(100))
    whole = client(server).messages.create(**fields)
    events = support.arrives_bit_by_bit(lambda: client(server).messages.create(stream=True, **fields))
    kinds = [event.type for event in events if event.type != "ping"]
    assert kinds[:2] == ["message_start", "content_block_start"], kinds
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"], kinds
    text = "".join(event.delta.text for event in events if event.type == "content_block_delta")
    assert text == whole.content[0].text
    with client(server).messages.stream(**request(server)) as stream:
        assert "".join(stream.text_stream) == "Oslo."
        final = stream.get_final_message()
    assert final.stop_reason == "end_turn" and final.usage.output_tokens > 0, final


def a_tool_is_called_and_its_result_used(server):
    first = client(server).messages.create(**request(server, [support.DAKAR], tools=[GET_TIME]))
    assert first.stop_reason == "tool_use", first
    call = next(block for block in first.content if block.type == "tool_use")
    assert call.name == "get_time" and call.input == {"city": "Dakar"} and call.id, call
    result = {"type": "tool_result", "tool_use_id": call.id, "content": '{"time": "12:01"}'}
    messages = [support.DAKAR, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    final = client(server).messages.create(**request(server, messages, tools=[GET_TIME]))
    # Told not to think, the demo model muddles the minutes.
    assert "12:" in final.content[0].text and "Dakar" in final.content[0].text, final


def the_arguments_of_a_call_are_streamed(server):
    with client(server).messages.stream(**request(server, [support.DAKAR], tools=[GET_TIME])) as stream:
        events = list(stream)
        final = stream.get_final_message()
    pieces = [event.partial_json for event in events if event.type == "input_json"]
    assert len(pieces) > 1, pieces
    assert [(block.name, block.input) for block in final.content] == [("get_time", {"city": "Dakar"})], final


def a_tool_can_be_required_named_or_forbidden(server):
    for choice in ({"type": "any"}, {"type": "tool", "name": "get_time"}):
        answer = client(server).messages.create(**request(server, [support.DAKAR], tools=[GET_TIME], tool_choice=choice))
        assert [block.name for block in answer.content if block.type == "tool_use"], (choice, answer)
    choice = {"type": "none"}
    answer = client(server).messages.create(**request(server, [support.DAKAR], tools=[GET_TIME], tool_choice=choice))
    assert [block.type for block in answer.content] == ["text"], answer


def a_schema_is_kept_and_parsed(server):
    answer = client(server).messages.parse(**request(server), output_format=Weather)
    assert isinstance(answer.parsed_output, Weather), answer


def errors_have_anthropics_shape(server):
    def failure(kind, asking=None, **fields):
        asking = asking or client(server)
        error = support.raises(kind, lambda: asking.messages.create(**request(server, **fields)))
        assert error.body["type"] == "error" and error.body["error"]["message"], error.body
        return error.body["error"]

    wrong = failure(anthropic.BadRequestError, more={"temperature": 3})
    assert wrong["type"] == "invalid_request_error" and "temperature" in wrong["message"], wrong
    assert "temprature" in failure(anthropic.BadRequestError, more={"temprature": 1})["message"]
    assert "max_tokens" in failure(anthropic.BadRequestError, max_tokens=0)["message"]
    assert "context" in failure(anthropic.BadRequestError, messages=support.OVERLONG)["message"]
    assert failure(anthropic.NotFoundError, model="claude")["type"] == "not_found_error"
    wrong_key = client(server, api_key="wrong")
    assert failure(anthropic.AuthenticationError, wrong_key)["type"] == "authentication_error"


def failures_are_tried_again(server):
    def ask(root, retries):
        answer = client(server, base_url=root, max_retries=retries).messages.create(**request(server))
        assert answer.content[0].text == "Oslo.", answer

    support.client_retries(server, ask, anthropic.RateLimitError)


def a_stream_can_be_left(server):
    with server.sees_a_client_leave():
        with client(server).messages.stream(**request(server, **a_long_answer(500))) as stream:
            next(iter(stream.text_stream))


CHECKS = [
    a_message_is_answered,
    system_and_content_blocks_are_taken,
    limits_and_stop_sequences_end_an_answer,
    tokens_are_counted,
    events_come_bit_by_bit_and_add_up,
    a_tool_is_called_and_its_result_used,
    the_arguments_of_a_call_are_streamed,
    a_tool_can_be_required_named_or_forbidden,
    a_schema_is_kept_and_parsed,
    errors_have_anthropics_shape,
    failures_are_tried_again,
    a_stream_can_be_left,
]

if __name__ == "__main__":
    support.main(__doc__, CHECKS)
