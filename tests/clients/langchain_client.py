"""Exercises a Hesper server that serves the demo model through LangChain's ChatOpenAI.

Usage: langchain_client.py BASE_URL --api-key KEY
"""

from typing import Literal

import openai
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

import support

NORWAY, GREETING, DAKAR = (HumanMessage(text) for text in (
    "What is the capital of Norway?", "good evening", "What time is it in Dakar?"))


@tool
def get_time(city: str) -> str:
    """The time in a city."""
    return f'{{"time": "12:01", "city": "{city}"}}'


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Oslo", "Dakar"]
    sky: Literal["clear", "cloudy", "rain"]
    windy: bool


def chat(server, **options):
    settings = {"model": server.model, "base_url": server.base_url, "api_key": server.api_key}
    return ChatOpenAI(**{**settings, "temperature": 0, "max_retries": 0, "timeout": 60, **options})


def a_question_is_answered(server):
    answer = chat(server).invoke([NORWAY])
    assert answer.content == "Oslo.", answer
    usage = answer.usage_metadata
    assert usage["input_tokens"] > 5 and usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert answer.response_metadata["finish_reason"] == "stop"


def a_stream_comes_bit_by_bit_with_its_usage(server):
    model = chat(server, max_tokens=200, stream_usage=True, extra_body=support.ENDLESS)
    chunks = support.arrives_bit_by_bit(lambda: model.stream([GREETING]))
    whole = sum(chunks[1:], chunks[0])
    assert whole.content == model.invoke([GREETING]).content
    assert whole.usage_metadata["output_tokens"] == 200, whole.usage_metadata
    assert whole.response_metadata["finish_reason"] == "length"


def a_batch_is_answered_in_order(server):
    questions = ["What is the capital of Norway?", "What is the capital of Japan?"] * 8
    answers = [answer.content for answer in chat(server).batch(questions)]
    assert answers == ["Oslo.", "Tokyo."] * 8, answers


def a_tool_is_called_and_its_result_used(server):
    model = chat(server).bind_tools([get_time])
    call = model.invoke([DAKAR])
    assert [(one["name"], one["args"]) for one in call.tool_calls] == [("get_time", {"city": "Dakar"})], call
    result = get_time.invoke(call.tool_calls[0])
    assert isinstance(result, ToolMessage)
    assert "12:01" in model.invoke([DAKAR, call, result]).content


def a_streamed_tool_call_adds_up(server):
    chunks = list(chat(server).bind_tools([get_time]).stream([DAKAR]))
    whole = sum(chunks[1:], chunks[0])
    assert [(one["name"], one["args"]) for one in whole.tool_calls] == [("get_time", {"city": "Dakar"})], whole
    assert sum(1 for chunk in chunks if chunk.tool_call_chunks) > 1, "the arguments come in pieces"


def a_tool_can_be_required_or_named(server):
    for choice in ("any", "get_time"):
        answer = chat(server, max_tokens=200).bind_tools([get_time], tool_choice=choice).invoke([DAKAR])
        assert [one["name"] for one in answer.tool_calls] == ["get_time"], (choice, answer)
        assert isinstance(answer.tool_calls[0]["args"]["city"], str)
    assert not chat(server).bind_tools([get_time], tool_choice="none").invoke([DAKAR]).tool_calls


def structured_output_is_parsed(server):
    for method in ("json_schema", "function_calling"):
        weather = chat(server).with_structured_output(Weather, method=method).invoke([NORWAY])
        assert isinstance(weather, Weather), (method, weather)


def seeds_and_log_probabilities_are_passed_on(server):
    model = chat(server, temperature=1.2, seed=7, max_tokens=12)
    assert model.invoke([GREETING]).content == model.invoke([GREETING]).content
    answer = chat(server, logprobs=True, top_logprobs=2).invoke([NORWAY])
    tokens = answer.response_metadata["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == "Oslo.", tokens
    result = chat(server, n=3, temperature=1.2, seed=7, max_tokens=12).generate([[GREETING]])
    assert len(result.generations[0]) == 3


def the_responses_api_answers_too(server):
    answer = chat(server, use_responses_api=True).invoke([NORWAY])
    assert isinstance(answer, AIMessage) and answer.text == "Oslo.", answer


def errors_reach_the_caller(server):
    def failure(kind, messages=(NORWAY,), **options):
        return support.raises(kind, lambda: chat(server, **options).invoke(list(messages)))

    assert failure(openai.BadRequestError, temperature=3).param == "temperature"
    assert failure(openai.BadRequestError, extra_body={"temprature": 1}).param == "temprature"
    overlong = failure(openai.BadRequestError, [HumanMessage(support.OVERLONG[0]["content"])])
    assert overlong.code == "context_length_exceeded", overlong.body
    assert failure(openai.NotFoundError, model="gpt-4o").code == "model_not_found"
    assert failure(openai.AuthenticationError, api_key="wrong").code == "invalid_api_key"


def failures_are_tried_again(server):
    def ask(root, retries):
        answer = chat(server, base_url=f"{root}/v1", max_retries=retries).invoke([NORWAY])
        assert answer.content == "Oslo.", answer

    support.client_retries(server, ask, openai.RateLimitError)


def a_stream_can_be_left(server):
    with server.sees_a_client_leave():
        stream = chat(server, extra_body=support.ENDLESS).stream([GREETING])
        next(stream)
        stream.close()


CHECKS = [
    a_question_is_answered,
    a_stream_comes_bit_by_bit_with_its_usage,
    a_batch_is_answered_in_order,
    a_tool_is_called_and_its_result_used,
    a_streamed_tool_call_adds_up,
    a_tool_can_be_required_or_named,
    structured_output_is_parsed,
    seeds_and_log_probabilities_are_passed_on,
    the_responses_api_answers_too,
    errors_reach_the_caller,
    failures_are_tried_again,
    a_stream_can_be_left,
]

if __name__ == "__main__":
    support.main(__doc__, CHECKS)
