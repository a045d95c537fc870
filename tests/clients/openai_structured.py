"""Exercises structured output, the choice of tools, retries and limits through the `openai` Python client.

Usage: openai_structured.py BASE_URL --api-key KEY

What of the client needs neither constraints nor keys is in openai_client.py.
"""

import asyncio
import json
from typing import Literal

import openai
from pydantic import BaseModel

import support

SET_ALARM = {
    "type": "function",
    "function": {
        "name": "set_alarm",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"hour": {"type": "integer", "minimum": 0, "maximum": 23}, "on": {"type": "boolean"}},
            "required": ["hour", "on"],
            "additionalProperties": False,
        },
    },
}
GET_TIME = {
    "type": "function",
    "function": {
        "name": "get_time",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Weather(BaseModel):
    city: Literal["Oslo", "Dakar"]
    sky: Literal["clear", "cloudy", "rain"]
    windy: bool


def client(server, **options):
    settings = {"base_url": server.base_url, "api_key": server.api_key, "timeout": 60, "max_retries": 0}
    return openai.OpenAI(**{**settings, **options})


def chat(server, messages=tuple(support.NORWAY), **fields):
    request = {"model": server.model, "messages": list(messages), "temperature": 0, "max_tokens": 200, **fields}
    return client(server).chat.completions.create(**request)


def a_schema_is_kept_and_parsed(server):
    request = {"model": server.model, "messages": support.NORWAY, "response_format": Weather}
    for temperature in (0, 1.5):
        answer = client(server).chat.completions.parse(temperature=temperature, seed=3, **request)
        assert isinstance(answer.choices[0].message.parsed, Weather), answer
        assert answer.choices[0].finish_reason == "stop"
    with client(server).chat.completions.stream(temperature=0, **request) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion().choices[0].message
    assert isinstance(final.parsed, Weather) and "".join(pieces) == final.content and len(pieces) > 2


def every_choice_keeps_the_schema_on_its_own(server):
    schema = {"name": "weather", "strict": True, "schema": {**Weather.model_json_schema(), "additionalProperties": False}}
    answer = chat(server, n=4, temperature=1.5, seed=1, logprobs=True, top_logprobs=2,
                  response_format={"type": "json_schema", "json_schema": schema})
    for choice in answer.choices:
        Weather.model_validate_json(choice.message.content)
        # Thoughts, which are no part of the content, may come before it
        assert "".join(token.token for token in choice.logprobs.content).endswith(choice.message.content), choice
    assert len({choice.message.content for choice in answer.choices}) > 1, "four choices, all the same"


def json_mode_gives_an_object(server):
    answer = chat(server, response_format={"type": "json_object"}, stop=None, max_tokens=400)
    choice = answer.choices[0]
    assert choice.message.content.lstrip().startswith("{"), choice
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict), choice
    else:
        assert choice.finish_reason == "length", choice


def a_call_can_be_required_named_or_forbidden(server):
    tools = [GET_TIME, SET_ALARM]
    for choice in ("required", {"type": "function", "function": {"name": "set_alarm"}}):
        message = chat(server, tools=tools, tool_choice=choice, messages=[support.DAKAR]).choices[0]
        assert message.finish_reason in ("tool_calls", "stop") and not message.message.content, message
        for call in message.message.tool_calls:
            arguments = json.loads(call.function.arguments)
            if call.function.name == "set_alarm":
                assert set(arguments) == {"hour", "on"} and 0 <= arguments["hour"] <= 23, arguments
        if isinstance(choice, dict):
            assert {call.function.name for call in message.message.tool_calls} == {"set_alarm"}, message
    forbidden = chat(server, tools=tools, tool_choice="none", messages=[support.DAKAR]).choices[0]
    assert not forbidden.message.tool_calls and forbidden.message.content, forbidden


def one_call_at_a_time_if_asked(server):
    answer = chat(server, tools=[GET_TIME, SET_ALARM], tool_choice="required", parallel_tool_calls=False,
                  messages=[support.DAKAR], temperature=1.5, seed=2)
    assert len(answer.choices[0].message.tool_calls) == 1, answer


def arguments_of_a_required_call_are_streamed(server):
    name, arguments, pieces = None, "", 0
    for chunk in chat(server, tools=[SET_ALARM], tool_choice="required", stream=True):
        for choice in chunk.choices:
            for delta in choice.delta.tool_calls or []:
                assert delta.index == 0, delta
                name = name or delta.function.name
                arguments += delta.function.arguments or ""
                pieces += bool(delta.function.arguments)
    assert name == "set_alarm" and set(json.loads(arguments)) == {"hour", "on"} and pieces > 1, (arguments, pieces)


def a_wrong_schema_is_named(server):
    broken = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {"type": "no such type"}}}
    error = support.raises(openai.BadRequestError, lambda: chat(server, response_format=broken))
    assert error.param.startswith("response_format"), error.body
    unknown = {"type": "function", "function": {"name": "no_such_tool"}}
    error = support.raises(openai.BadRequestError, lambda: chat(server, tools=[GET_TIME], tool_choice=unknown))
    assert error.param.startswith("tool_choice"), error.body


def many_are_answered_at_once(server):
    async def ask():
        settings = {"base_url": server.base_url, "api_key": server.api_key, "timeout": 60, "max_retries": 0}
        async with openai.AsyncOpenAI(**settings) as asynchronous:
            request = {"model": server.model, "messages": support.NORWAY, "temperature": 0}
            tasks = [asynchronous.chat.completions.create(**request) for _ in range(32)]
            return {answer.choices[0].message.content for answer in await asyncio.gather(*tasks)}

    assert asyncio.run(ask()) == {"Oslo."}


def a_stream_comes_bit_by_bit(server):
    def stream():
        chunks = chat(server, messages=support.GREETING, stream=True, extra_body=support.ENDLESS)
        return (chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.content)

    chunks = support.arrives_bit_by_bit(stream)
    whole = chat(server, messages=support.GREETING, extra_body=support.ENDLESS)
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == whole.choices[0].message.content


def a_wrong_key_is_refused(server):
    wrong = client(server, api_key="wrong")
    error = support.raises(openai.AuthenticationError, wrong.models.list)
    assert error.code == "invalid_api_key" and error.request_id, error.body


def failures_are_tried_again(server):
    def ask(root, retries):
        asking = client(server, base_url=f"{root}/v1", max_retries=retries)
        answer = asking.chat.completions.create(model=server.model, messages=support.NORWAY, temperature=0)
        assert answer.choices[0].message.content == "Oslo.", answer

    support.client_retries(server, ask, openai.RateLimitError)
    with support.failing_once(server, 429, {"retry-after": "0"}) as (root, times):
        asking = client(server, base_url=f"{root}/v1", max_retries=3)
        support.raises(openai.BadRequestError, lambda: asking.chat.completions.create(
            model=server.model, messages=support.NORWAY, temperature=3))
        assert len(times) == 2, "a mistake of the client's is sent once, the 429 before it aside"


def a_client_that_gives_up_frees_the_server(server):
    with server.sees_a_client_leave():
        impatient = client(server, timeout=0.3)
        request = {"model": server.model, "messages": support.GREETING, "extra_body": support.ENDLESS, "n": 8}
        support.raises(openai.APITimeoutError, lambda: impatient.chat.completions.create(**request))
    with server.sees_a_client_leave():
        stream = chat(server, messages=support.GREETING, stream=True, extra_body=support.ENDLESS, max_tokens=None)
        next(iter(stream))
        stream.close()


CHECKS = [
    a_schema_is_kept_and_parsed,
    every_choice_keeps_the_schema_on_its_own,
    json_mode_gives_an_object,
    a_call_can_be_required_named_or_forbidden,
    one_call_at_a_time_if_asked,
    arguments_of_a_required_call_are_streamed,
    a_wrong_schema_is_named,
    many_are_answered_at_once,
    a_stream_comes_bit_by_bit,
    a_wrong_key_is_refused,
    failures_are_tried_again,
    a_client_that_gives_up_frees_the_server,
]

if __name__ == "__main__":
    support.main(__doc__, CHECKS)
