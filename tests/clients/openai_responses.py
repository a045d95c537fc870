"""Exercises /v1/responses, and chat completions that are stored, through the `openai` Python client.

Usage: openai_responses.py BASE_URL --api-key KEY
"""

import json
from typing import Literal

import openai
from pydantic import BaseModel

import support

GET_TIME = {
    "type": "function",
    "name": "get_time",
    "description": None,
    "strict": False,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "City name"}},
        "required": ["city"],
    },
}
DAKAR = "What time is it in Dakar?"


def a_long_answer(booleans):
    """What makes an answer long, whatever the model has to say."""
    listed = {"type": "array", "items": {"type": "boolean"}, "minItems": booleans, "maxItems": booleans}
    schema = {"type": "object", "properties": {"list": listed}, "required": ["list"], "additionalProperties": False}
    return {"input": "good evening", "text": {"format": {"type": "json_schema", "name": "long", "schema": schema}}}


class Weather(BaseModel):
    city: Literal["Oslo", "Dakar"]
    windy: bool


def client(server, **options):
    settings = {"base_url": server.base_url, "api_key": server.api_key, "timeout": 60, "max_retries": 0}
    return openai.OpenAI(**{**settings, **options})


def respond(server, **fields):
    return client(server).responses.create(**{"model": server.model, "temperature": 0, **fields})


def a_response_is_made(server):
    answer = respond(server, input="What is the capital of Norway?", store=False)
    assert answer.output_text == "Oslo." and answer.status == "completed" and answer.error is None, answer
    assert answer.object == "response" and answer.id.startswith("resp_") and answer.model == server.model
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens > 5
    parts = [{"role": "user", "content": [{"type": "input_text", "text": "What is the capital of Norway?"}]}]
    assert respond(server, input=parts).output_text == "Oslo."


def a_response_can_end_early(server):
    answer = respond(server, max_output_tokens=16, **a_long_answer(100))
    assert answer.status == "incomplete" and answer.incomplete_details.reason == "max_output_tokens", answer
    assert answer.usage.output_tokens == 16


def events_come_in_order_and_add_up(server):
    whole = respond(server, max_output_tokens=200, **a_long_answer(150))
    events = support.arrives_bit_by_bit(
        lambda: respond(server, max_output_tokens=200, stream=True, **a_long_answer(150)))
    kinds = [event.type for event in events]
    assert kinds[0] == "response.created" and kinds[-1] == "response.incomplete", kinds
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text == events[-1].response.output_text
    places = [kinds.index(f"response.{kind}") for kind in (
        "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.done",
        "content_part.done", "output_item.done")]
    assert places == sorted(places), kinds


def the_stream_helper_accumulates(server):
    fields = {"model": server.model, "input": "What is the capital of Norway?", "temperature": 0}
    with client(server).responses.stream(**fields) as stream:
        assert stream.get_final_response().output_text == "Oslo."


def a_tool_is_called_and_its_result_used(server):
    first = respond(server, input=DAKAR, tools=[GET_TIME])
    call = next(item for item in first.output if item.type == "function_call")
    assert call.name == "get_time" and json.loads(call.arguments) == {"city": "Dakar"}, first
    result = {"type": "function_call_output", "call_id": call.call_id, "output": '{"time": "12:01"}'}
    stateless = [{"role": "user", "content": DAKAR}, *first.output, result]
    assert "12:01" in respond(server, input=stateless, tools=[GET_TIME]).output_text
    stored = respond(server, input=[result], previous_response_id=first.id, tools=[GET_TIME])
    assert "12:01" in stored.output_text, stored


def arguments_are_streamed(server):
    events = list(respond(server, input=DAKAR, tools=[GET_TIME], stream=True))
    pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    done = next(event for event in events if event.type == "response.function_call_arguments.done")
    assert "".join(pieces) == done.arguments and json.loads(done.arguments) == {"city": "Dakar"} and len(pieces) > 1


def a_tool_can_be_required_or_named(server):
    for choice in ("required", {"type": "function", "name": "get_time"}):
        answer = respond(server, input=DAKAR, tools=[GET_TIME], tool_choice=choice, max_output_tokens=200)
        assert [item.name for item in answer.output if item.type == "function_call"], (choice, answer)


def a_schema_is_kept_and_parsed(server):
    answer = client(server).responses.parse(
        model=server.model, input="What is the capital of Norway?", text_format=Weather, temperature=0)
    assert isinstance(answer.output_parsed, Weather), answer


def a_conversation_is_continued(server):
    first = respond(server, input="What is the capital of Norway?")
    again = respond(server, input="What is the capital of Japan?", previous_response_id=first.id)
    assert again.output_text == "Tokyo." and again.previous_response_id == first.id, again
    assert again.usage.input_tokens > first.usage.input_tokens, "the first turn is part of the prompt"


def what_is_stored_can_be_fetched_and_deleted(server):
    responses = client(server).responses
    kept, left = respond(server, input="hello"), respond(server, input="hello", store=False)
    assert responses.retrieve(kept.id).output_text == kept.output_text
    assert len(responses.input_items.list(kept.id).data) == 1
    support.raises(openai.NotFoundError, lambda: responses.retrieve(left.id))
    responses.delete(kept.id)
    support.raises(openai.NotFoundError, lambda: responses.retrieve(kept.id))
    support.raises(openai.BadRequestError, lambda: respond(server, input="hello", previous_response_id="resp_none"))


def chat_completions_are_stored(server):
    completions = client(server).chat.completions
    request = {"model": server.model, "messages": support.NORWAY, "temperature": 0}
    kept = completions.create(**request, store=True, metadata={"color": "green"})
    assert completions.retrieve(kept.id).choices[0].message.content == "Oslo."
    assert kept.id in [entry.id for entry in completions.list(metadata={"color": "green"})]
    assert kept.id not in [entry.id for entry in completions.list(metadata={"color": "red"})]
    assert [message.content for message in completions.messages.list(kept.id)] == [support.NORWAY[0]["content"]]
    assert completions.update(kept.id, metadata={"color": "red"}).metadata == {"color": "red"}
    assert completions.delete(kept.id).deleted
    support.raises(openai.NotFoundError, lambda: completions.retrieve(kept.id))


def errors_name_the_field(server):
    def refused(param, **fields):
        error = support.raises(openai.BadRequestError, lambda: respond(server, **{"input": "hello", **fields}))
        assert error.param == param and error.type == "invalid_request_error", error.body
        return error

    refused("temperature", temperature=3)
    refused("temprature", extra_body={"temprature": 1})
    assert refused("input", input=support.OVERLONG[0]["content"]).code == "context_length_exceeded"
    support.raises(openai.NotFoundError, lambda: respond(server, input="hello", model="gpt-4o"))
    support.raises(openai.AuthenticationError, lambda: client(server, api_key="wrong").responses.create(
        model=server.model, input="hello"))


def a_stream_can_be_left(server):
    with server.sees_a_client_leave():
        stream = respond(server, stream=True, **a_long_answer(500))
        next(event for event in stream if event.type == "response.output_text.delta")
        stream.close()


CHECKS = [
    a_response_is_made,
    a_response_can_end_early,
    events_come_in_order_and_add_up,
    the_stream_helper_accumulates,
    a_tool_is_called_and_its_result_used,
    arguments_are_streamed,
    a_tool_can_be_required_or_named,
    a_schema_is_kept_and_parsed,
    a_conversation_is_continued,
    what_is_stored_can_be_fetched_and_deleted,
    chat_completions_are_stored,
    errors_name_the_field,
    a_stream_can_be_left,
]

if __name__ == "__main__":
    support.main(__doc__, CHECKS)
