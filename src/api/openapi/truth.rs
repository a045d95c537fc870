//! The document against the parsers. From each request's schema come bodies that must be taken, one for every
//! documented value, edge and alternative, and bodies that must be refused; what the parsers asked for on the way must
//! be exactly what is documented.

use super::{document, samples::Document};
use crate::api::{
    anthropic::request::{Purpose, translate},
    chat_request::ChatRequest,
    completion_request::CompletionRequest,
    dialect::{ChatBody, Messages},
    error::ApiError,
    fields::{Unknown, asked},
    responses,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const VOCABULARY: u32 = 1000;

/// A request's schema, its parser, and what certain values of fields need beside them.
struct Request {
    schema: &'static str,
    parse: fn(Value) -> Result<BTreeSet<String>, ApiError>,
    companions: fn(&str, &Value) -> Value,
}

/// What a parser made of a body, and the paths that it asked for.
fn asking<T>(parsed: Result<T, ApiError>) -> Result<BTreeSet<String>, ApiError> {
    let asked = asked::take();
    parsed.map(|_| asked)
}

/// For a dialect: its own parser's paths, if the chat that it makes of the body is one.
fn dialect(translated: Result<ChatBody, ApiError>) -> Result<BTreeSet<String>, ApiError> {
    let asked = asked::take();
    let ChatBody(chat) = translated?;
    let parsed = ChatRequest::parse(Value::Object(chat), VOCABULARY, &mut Unknown::default());
    // The chat's own fields are not the dialect's.
    asked::take();
    parsed.map(|_| asked)
}

/// A function of the name that the document's examples have.
fn with_tools(name: &str, value: &Value) -> Value {
    let needed = value == "required" || value.is_object();
    match name {
        "tool_choice" if needed => {
            let function = json!({"name": "get_time"});
            json!({"tools": [{"type": "function", "function": function}]})
        }
        "top_logprobs" => json!({"logprobs": true}),
        "stream_options" => json!({"stream": true}),
        _ => json!({}),
    }
}

/// The last turn is the user's.
fn with_user(name: &str, value: &Value) -> Value {
    match name {
        "messages" => {
            let ended = value.as_array().filter(|turns| turns.last().is_some_and(|turn| turn["role"] == "assistant"));
            let user = json!({"role": "user", "content": "Go on"});
            ended.map_or(json!({}), |turns| {
                let all = [&turns[..], &[user]].concat();
                json!({"messages": all})
            })
        }
        "tool_choice" if ["any", "tool"].iter().any(|kind| value["type"] == *kind) => {
            json!({"tools": [{"name": "get_time", "input_schema": {}}]})
        }
        _ => json!({}),
    }
}

const REQUESTS: &[Request] = &[
    Request {
        schema: "ChatCompletionRequest",
        parse: |body| asking(ChatRequest::parse(body, VOCABULARY, &mut Unknown::default())),
        companions: with_tools,
    },
    Request {
        schema: "CompletionRequest",
        parse: |body| asking(CompletionRequest::parse(body, VOCABULARY, &mut Unknown::default())),
        companions: |name, value| match name {
            "best_of" => json!({"n": value}),
            _ => with_tools(name, value),
        },
    },
    Request {
        schema: "ResponsesRequest",
        parse: |body| {
            let translated = responses::request::translate(body, Messages::default(), &mut Unknown::default());
            dialect(translated.map(|translated| translated.chat))
        },
        companions: |name, value| match name {
            "tool_choice" if value == "required" || value.is_object() => {
                json!({"tools": [{"type": "function", "name": "get_time"}]})
            }
            _ => json!({}),
        },
    },
    Request { schema: "MessagesRequest", parse: |body| anthropic(body, Purpose::Answer), companions: with_user },
    Request { schema: "CountTokensRequest", parse: |body| anthropic(body, Purpose::Count), companions: with_user },
];

/// Requests of a few fields, which their handlers read themselves: schemathesis puts them to a server.
const SMALL: [&str; 4] = ["DetokenizeRequest", "MetadataRequest", "ModelName", "TokenizeRequest"];

fn anthropic(body: Value, purpose: Purpose) -> Result<BTreeSet<String>, ApiError> {
    dialect(translate(body, purpose, &mut Unknown::default()).map(|translated| translated.chat))
}

fn with_companions(request: &Request, (name, mut body): (String, Value)) -> Value {
    let companions = (request.companions)(&name, &body[&name]);
    if let (Some(body), Value::Object(companions)) = (body.as_object_mut(), companions) {
        body.extend(companions);
    }
    body
}

fn parsed() -> Document {
    Document(serde_json::to_value(document()).expect("the document can be written"))
}

/// Paths as the document has them: without indices.
fn plain(paths: BTreeSet<String>) -> BTreeSet<String> {
    let digits = |path: &String| path.split(|c: char| c.is_ascii_digit()).collect::<Vec<_>>().concat();
    paths.iter().map(|path| if path.contains('[') { digits(path) } else { path.clone() }).collect()
}

#[test]
fn what_is_documented_is_taken_and_the_rest_is_refused() {
    let document = parsed();
    for request in REQUESTS {
        let schema = document.named(request.schema);
        let (good, bad) = (document.good_objects(schema), document.bad_objects(schema));
        assert!(good.len() > 50 && bad.len() > 100, "{}: {} and {} bodies", request.schema, good.len(), bad.len());
        let mut asked = BTreeSet::new();
        asked::take();
        for body in good {
            let body = with_companions(request, body);
            assert!(document.fits(schema, &body), "{}: {body} does not fit its schema", request.schema);
            let taken = (request.parse)(body.clone());
            asked.extend(taken.unwrap_or_else(|error| panic!("{}: {}: {body}", request.schema, error.message)));
        }
        let mut documented = BTreeSet::new();
        document.paths(schema, "", &mut documented);
        let asked = plain(asked);
        let (only_asked, only_documented) = (&asked - &documented, &documented - &asked);
        assert!(
            only_asked.is_empty() && only_documented.is_empty(),
            "{}: asked for, not documented: {only_asked:?}; documented, not asked for: {only_documented:?}",
            request.schema
        );
        for body in bad {
            let body = with_companions(request, body);
            let refused = (request.parse)(body.clone());
            assert_eq!(refused.err().map(|error| error.status.as_u16()), Some(400), "{}: {body}", request.schema);
        }
    }
}

/// Every type of the document that is named as a request has its parser in the list above.
#[test]
fn every_request_is_held_against_its_parser() {
    let document = parsed();
    let mut bodies = BTreeSet::new();
    for operation in
        document.0["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values())
    {
        if let Some(reference) = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str() {
            bodies.insert(reference.rsplit('/').next().unwrap().to_owned());
        }
    }
    let schemas = REQUESTS.iter().map(|request| request.schema).chain(SMALL);
    let held: BTreeSet<String> = schemas.map(str::to_owned).collect();
    assert_eq!(held, bodies);
}
