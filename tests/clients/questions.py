"""Asks a server the demo model's questions greedily and counts the answers that are equal to the expected ones.

Usage: questions.py BASE_URL [--questions FILE] [--threshold 0.99] [--stream] [--api-key KEY]

BASE_URL ends in /v1. Needs the `openai` package. Exits with 1 when the share of equal answers is below the threshold.
Equal means: the same content, or for a question with `expect_tool_call`, one call with this name and these arguments.
"""

import argparse
import collections
import json
import pathlib
import sys

import openai


def whole(client, request):
    """The content and the calls (name, arguments as text) of an answer that is not streamed."""
    message = client.chat.completions.create(**request).choices[0].message
    calls = [(call.function.name, call.function.arguments) for call in message.tool_calls or []]
    return message.content, calls


def streamed(client, request):
    """The content and the calls that a stream's deltas add up to."""
    content, calls = None, []
    for chunk in client.chat.completions.create(stream=True, **request):
        for choice in chunk.choices:
            if choice.delta.content:
                content = (content or "") + choice.delta.content
            for call in choice.delta.tool_calls or []:
                if call.index == len(calls):
                    calls.append((call.function.name, ""))
                name, arguments = calls[call.index]
                calls[call.index] = (name, arguments + (call.function.arguments or ""))
    return content, calls


def parsed(calls):
    """The name and parsed arguments of the only call, or None."""
    if len(calls) != 1:
        return None
    name, arguments = calls[0]
    try:
        return {"name": name, "arguments": json.loads(arguments)}
    except json.JSONDecodeError:
        return None


def answer(client, model, question, stream):
    request = {"model": model, "messages": question["messages"], "temperature": 0, "max_tokens": 200}
    if question.get("tools"):
        request["tools"] = question["tools"]
    content, calls = streamed(client, request) if stream else whole(client, request)
    expected_call = question.get("expect_tool_call")
    if expected_call is not None:
        call = parsed(calls)
        return call == expected_call and not content, call or content, expected_call
    return content == question["expect"] and not calls, content, question["expect"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base_url")
    default = pathlib.Path(__file__).resolve().parents[2] / "models" / "questions.jsonl"
    parser.add_argument("--questions", type=pathlib.Path, default=default)
    parser.add_argument("--threshold", type=float, default=0.99)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--api-key", default="none")
    options = parser.parse_args()

    client = openai.OpenAI(base_url=options.base_url, api_key=options.api_key, timeout=120)
    model = client.models.list().data[0].id
    lines = options.questions.read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line) for line in lines if line.strip()]
    if not questions:
        sys.exit(f"{options.questions} holds no question")

    equal = collections.Counter()
    asked = collections.Counter()
    for question in questions:
        same, got, expected = answer(client, model, question, options.stream)
        category = question["category"]
        asked[category] += 1
        equal[category] += same
        if not same:
            prompt = question["messages"][-1]["content"]
            print(f"differs ({category}): {prompt!r}\n  expected {expected!r}\n  got      {got!r}")
    for category in sorted(asked):
        if equal[category] != asked[category]:
            print(f"{category}: {equal[category]}/{asked[category]}")
    share = equal.total() / asked.total()
    print(f"{equal.total()} of {asked.total()} answers equal: {share:.4f} (threshold {options.threshold})")
    sys.exit(0 if share >= options.threshold else 1)


if __name__ == "__main__":
    main()
