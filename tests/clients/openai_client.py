"""Exercises a Hesper server that serves the demo model through the `openai` Python client.

Usage: openai_client.py BASE_URL [--api-key KEY]

BASE_URL ends in /v1. Each check prints a line; the first that fails ends the script with a traceback and exit code 1.
"""

import argparse
import json
import math

import openai

NORWAY = [{"role": "user", "content": "What is the capital of Norway?"}]
GREETING = [{"role": "user", "content": "good evening"}]
DAKAR = {"role": "user", "content": "What time is it in Dakar?"}
GET_TIME = {
    "type": "function",
    "function": {
        "name": "get_time",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "City name"}},
            "required": ["city"],
        },
    },
}
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


@check
def models_are_listed(client, model):
    listed = client.models.list().data
    assert [entry.id for entry in listed] == [model], listed
    assert listed[0].object == "model" and listed[0].owned_by and listed[0].created > 0
    assert client.models.retrieve(model).id == model
    assert "/" not in model, "the id is a short name, never a path"
    try:
        client.models.retrieve("no-such-model")
        raise AssertionError("a missing model is found")
    except openai.NotFoundError as error:
        assert error.code == "model_not_found", error.body


@check
def a_chat_is_answered(client, model):
    answer = client.chat.completions.create(model=model, messages=NORWAY, temperature=0)
    choice = answer.choices[0]
    assert choice.message.content == "Oslo.", choice
    assert choice.finish_reason == "stop" and choice.message.role == "assistant"
    assert answer.object == "chat.completion" and answer.model == model and answer.system_fingerprint
    usage = answer.usage
    assert usage.prompt_tokens > 5 and 0 < usage.completion_tokens < 10, usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 <= usage.prompt_tokens_details.cached_tokens <= usage.prompt_tokens
    assert usage.completion_tokens_details.reasoning_tokens == 0


@check
def a_stream_adds_up_to_the_whole(client, model):
    whole = client.chat.completions.create(model=model, messages=GREETING, temperature=0, max_tokens=40)
    content, finish, usage = "", None, None
    stream = client.chat.completions.create(
        model=model,
        messages=GREETING,
        temperature=0,
        max_tokens=40,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        assert usage is None, "usage is in the last chunk"
        for choice in chunk.choices:
            assert finish is None, "finish_reason is null until the end"
            content += choice.delta.content or ""
            finish = choice.finish_reason
        usage = chunk.usage
    assert content == whole.choices[0].message.content, content
    assert finish == whole.choices[0].finish_reason
    assert usage.completion_tokens == whole.usage.completion_tokens, usage


@check
def the_stream_helper_accumulates(client, model):
    with client.chat.completions.stream(model=model, messages=NORWAY, temperature=0) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "Oslo.", final


@check
def several_choices_and_seeds(client, model):
    request = {"model": model, "messages": GREETING, "n": 3, "seed": 7, "temperature": 1.2, "max_tokens": 12}
    first = [choice.message.content for choice in client.chat.completions.create(**request).choices]
    again = [choice.message.content for choice in client.chat.completions.create(**request).choices]
    assert len(first) == 3 and first == again, (first, again)
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**request, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == first, (streamed, first)


@check
def length_and_stop_end_an_answer(client, model):
    whole = client.chat.completions.create(model=model, messages=GREETING, temperature=0, max_tokens=40)
    text = whole.choices[0].message.content
    cut = client.chat.completions.create(model=model, messages=GREETING, temperature=0, max_completion_tokens=2)
    assert cut.choices[0].finish_reason == "length" and cut.usage.completion_tokens == 2
    assert text.startswith(cut.choices[0].message.content)
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    stopped = client.chat.completions.create(model=model, messages=GREETING, temperature=0, max_tokens=40, stop=stop)
    assert stopped.choices[0].message.content == text[: text.index(stop)], (stop, stopped)
    assert stopped.choices[0].finish_reason == "stop"


@check
def logprobs_come_with_alternatives(client, model):
    answer = client.chat.completions.create(
        model=model, messages=NORWAY, temperature=0, logprobs=True, top_logprobs=3
    )
    tokens = answer.choices[0].logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == "Oslo.", tokens
    assert len(tokens) == answer.usage.completion_tokens
    for token in tokens:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        values = [entry.logprob for entry in token.top_logprobs]
        assert values == sorted(values, reverse=True)
        assert sum(math.exp(value) for value in values) <= 1.001
        assert abs(values[0] - token.logprob) < 1e-4, "greedy takes the most probable"


@check
def tools_are_called_and_answered(client, model):
    request = {"model": model, "tools": [GET_TIME], "temperature": 0}
    answer = client.chat.completions.create(messages=[DAKAR], **request)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None, choice
    call = choice.message.tool_calls[0]
    assert call.type == "function" and call.id.startswith("call_")
    assert call.function.name == "get_time" and json.loads(call.function.arguments) == {"city": "Dakar"}
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"time": "12:01"}'}
    # The message goes back as the client's own model writes it, with all its null fields.
    messages = [DAKAR, choice.message.model_dump(), result]
    final = client.chat.completions.create(messages=messages, **request)
    assert "12:01" in final.choices[0].message.content, final


@check
def tool_calls_stream_as_deltas(client, model):
    calls, finish = {}, None
    for chunk in client.chat.completions.create(
        model=model, messages=[DAKAR], tools=[GET_TIME], tool_choice="auto", temperature=0, stream=True
    ):
        for choice in chunk.choices:
            assert not choice.delta.content, choice
            finish = choice.finish_reason or finish
            for delta in choice.delta.tool_calls or []:
                call = calls.setdefault(delta.index, {"id": delta.id, "name": delta.function.name, "arguments": ""})
                assert call["id"] and call["name"], "id and name are in the first delta"
                call["arguments"] += delta.function.arguments or ""
    assert finish == "tool_calls" and list(calls) == [0], calls
    assert calls[0]["name"] == "get_time" and json.loads(calls[0]["arguments"]) == {"city": "Dakar"}


@check
def completions_take_text_and_tokens(client, model):
    request = {"model": model, "temperature": 0, "max_tokens": 4}
    answer = client.completions.create(prompt=["Once upon a time", "One two"], n=2, logprobs=2, **request)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    for choice in answer.choices:
        logprobs = choice.logprobs
        assert "".join(logprobs.tokens) == choice.text, choice
        assert len(logprobs.token_logprobs) == len(logprobs.text_offset) == len(logprobs.top_logprobs)
    echoed = client.completions.create(prompt="Once upon a time", echo=True, **request)
    assert echoed.choices[0].text == "Once upon a time" + answer.choices[0].text
    tokens = client.completions.create(prompt=[40, 41, 42], **request)
    assert tokens.usage.prompt_tokens == 3
    streamed = "".join(
        choice.text
        for chunk in client.completions.create(prompt="Once upon a time", stream=True, **request)
        for choice in chunk.choices
    )
    assert streamed == answer.choices[0].text


def refused(call, param, code=None):
    try:
        call()
    except openai.BadRequestError as error:
        assert error.param == param, (error.param, param, error.body)
        assert code is None or error.code == code, error.body
        assert error.type == "invalid_request_error" and error.request_id
        return
    raise AssertionError(f"a wrong {param} is accepted")


@check
def errors_name_the_field(client, model):
    def chat(**fields):
        return lambda: client.chat.completions.create(**{"model": model, "messages": NORWAY, **fields})

    refused(chat(temperature=3), "temperature")
    refused(chat(extra_body={"temprature": 1}), "temprature", "unknown_parameter")
    refused(chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
            "messages[0].content[0].type")
    refused(chat(response_format={"type": "yaml"}), "response_format.type")
    refused(chat(tool_choice="required"), "tool_choice")
    refused(chat(messages=[{"role": "user", "content": "word " * 100_000}]), "messages", "context_length_exceeded")
    refused(chat(stream=True, n=0), "n")
    try:
        client.chat.completions.create(model="gpt-4o", messages=NORWAY)
        raise AssertionError("a model that is not served answers")
    except openai.NotFoundError as error:
        assert error.code == "model_not_found", error.body


@check
def extensions_are_known(client, model):
    answer = client.chat.completions.create(
        model=model,
        messages=NORWAY,
        user="someone",
        metadata={"a": "b"},
        logit_bias={"5": -100},
        extra_body={"top_k": 1, "min_p": 0.1, "repetition_penalty": 1.0, "cache_prompt": True},
    )
    assert answer.choices[0].message.content == "Oslo.", answer


@check
def a_stream_can_be_left(client, model):
    request = {"model": model, "prompt": "One two three", "max_tokens": 200, "extra_body": {"ignore_eos": True}}
    stream = client.completions.create(stream=True, **request)
    next(iter(stream))
    stream.close()
    # The server is free again for the next.
    assert client.chat.completions.create(model=model, messages=NORWAY, temperature=0).choices[0].message.content


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base_url")
    parser.add_argument("--api-key", default="none")
    options = parser.parse_args()
    client = openai.OpenAI(base_url=options.base_url, api_key=options.api_key, timeout=120, max_retries=0)
    model = client.models.list().data[0].id
    for function in CHECKS:
        function(client, model)
        print(f"ok: {function.__name__.replace('_', ' ')}", flush=True)


if __name__ == "__main__":
    main()
