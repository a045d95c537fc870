//! The document against the parsers. From each request's schema come bodies that must be taken, one for every
//! documented value, edge and alternative, and bodies that must be refused; what the parsers asked for on the way must
//! be exactly what is documented.

use super::{document, samples::Document};
use crate::api::{
    chat_request::ChatRequest,
    completion_request::CompletionRequest,
    error::ApiError,
    fields::{Unknown, asked},
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const VOCABULARY: u32 = 1000;

/// A request's schema, its parser, and what certain values of fields need beside them.
struct Request {
    schema: &'static str,
    parse: fn(Value, &mut Unknown) -> Result<(), ApiError>,
    companions: fn(&str, &Value) -> Value,
}

const REQUESTS: &[Request] = &[
    Request {
        schema: "ChatCompletionRequest",
        parse: |body, unknown| ChatRequest::parse(body, VOCABULARY, unknown).map(drop),
        companions: |name, _| match name {
            "top_logprobs" => json!({"logprobs": true}),
            "stream_options" => json!({"stream": true}),
            _ => json!({}),
        },
    },
    Request {
        schema: "CompletionRequest",
        parse: |body, unknown| CompletionRequest::parse(body, VOCABULARY, unknown).map(drop),
        companions: |name, value| match name {
            "best_of" => json!({"n": value}),
            "stream_options" => json!({"stream": true}),
            _ => json!({}),
        },
    },
];

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
fn asked_paths() -> BTreeSet<String> {
    let plain = |path: String| path.split(|c: char| c.is_ascii_digit()).collect::<Vec<_>>().concat();
    let indexed = |path: &String| path.contains('[');
    let (indexed, named): (Vec<String>, Vec<String>) = asked::take().into_iter().partition(indexed);
    indexed.into_iter().map(plain).chain(named).collect()
}

#[test]
fn what_is_documented_is_taken_and_the_rest_is_refused() {
    let document = parsed();
    for request in REQUESTS {
        let schema = document.named(request.schema);
        let (good, bad) = (document.good_objects(schema), document.bad_objects(schema));
        assert!(good.len() > 50 && bad.len() > 100, "{}: {} and {} bodies", request.schema, good.len(), bad.len());
        asked::take();
        for body in good {
            let body = with_companions(request, body);
            assert!(document.fits(schema, &body), "{}: {body} does not fit its schema", request.schema);
            let taken = (request.parse)(body.clone(), &mut Unknown::default());
            assert_eq!(taken.err().map(|error| error.message), None, "{}: {body}", request.schema);
        }
        let mut documented = BTreeSet::new();
        document.paths(schema, "", &mut documented);
        assert_eq!(asked_paths(), documented, "asked for (left) and documented (right): {}", request.schema);
        for body in bad {
            let body = with_companions(request, body);
            let refused = (request.parse)(body.clone(), &mut Unknown::default());
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
    let held: BTreeSet<String> = REQUESTS.iter().map(|request| request.schema.to_owned()).collect();
    assert_eq!(held, bodies);
}
#[test]
fn dump() {
    std::fs::write("/tmp/openapi.json", document().to_pretty_json().unwrap()).unwrap();
}
