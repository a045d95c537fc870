"""What schemathesis cannot know from the document: which models the server has, and that time is short.

Only valid values are replaced, and by valid ones, so that a request that must be refused stays one that must be.
`HESPER_MODEL_ID` is the served model's id.
"""

import os

import schemathesis

MODEL = os.environ["HESPER_MODEL_ID"]

# Most tokens of an answer and most answers, by the fields that ask for them; some answers would take minutes.
ANSWER_LIMITS = ["max_completion_tokens", "max_output_tokens", "max_tokens"]
LIMITS = {**dict.fromkeys(ANSWER_LIMITS, 8), "n": 2, "best_of": 2}


def is_integer(value):
    return isinstance(value, int) and not isinstance(value, bool)


@schemathesis.hook
def map_body(context, body):
    if not isinstance(body, dict):
        return body
    if isinstance(body.get("model"), str):
        body["model"] = MODEL
    schema = context.operation.definition.raw["requestBody"]["content"].get("application/json", {}).get("schema", {})
    name = schema.get("$ref", "").rsplit("/")[-1]
    known = context.operation.schema.raw_schema["components"]["schemas"].get(name, {})
    for name, most in LIMITS.items():
        # What is beyond the documented range must be refused.
        allowed = known.get("properties", {}).get(name, {}).get("maximum", 0)
        if is_integer(body.get(name)) and most < body[name] <= allowed:
            body[name] = most
    names = [name for name in ANSWER_LIMITS if name in known.get("properties", {})]
    # Where it is required, its absence is what is tested.
    if names and not any(name in body or name in known.get("required", []) for name in names):
        body[names[0]] = LIMITS[names[0]]
    return body
