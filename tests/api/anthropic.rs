//! Anthropic's messages over the scripted engine.

use crate::harness::{Answer, PATIENCE, engine, get, post, post_bytes, redact, say, saying, send, speak, state, text};
use axum::{body::Body, http::Request as HttpRequest};
use hesper::{
    api::{Settings, State},
    engine::request::{Event, Request},
};
use serde_json::{Value, json};
use std::{sync::mpsc, time::Duration};

const MESSAGES: &str = "/v1/messages";
const COUNT: &str = "/v1/messages/count_tokens";

fn body(extra: Value) -> Value {
    let mut body = json!({
        "model": "demo", "max_tokens": 100,
        "messages": [{"role": "user", "content": "What is the capital of Norway?"}],
    });
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

async fn ok(state: &State, extra: Value) -> Answer {
    let answer = post(state, MESSAGES, &body(extra)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer
}

/// A stream's events: names and data, which must agree.
fn events(answer: &Answer) -> Vec<Value> {
    let named = answer.named_events();
    for (name, data) in &named {
        assert_eq!(data["type"], **name);
    }
    named.into_iter().map(|(_, data)| data).collect()
}

/// Checks an error's shape; answers its type and message.
fn error(answer: &Answer) -> (String, String) {
    let body = answer.json();
    let object = body.as_object().expect("an object");
    assert_eq!(object.keys().collect::<Vec<_>>(), ["type", "error", "request_id"]);
    assert_eq!(
        (&body["type"], body["request_id"].as_str()),
        (&json!("error"), answer.headers["request-id"].to_str().ok())
    );
    let error = object["error"].as_object().expect("an error object");
    assert_eq!(error.keys().collect::<Vec<_>>(), ["type", "message"]);
    (error["type"].as_str().unwrap().to_owned(), error["message"].as_str().unwrap().to_owned())
}

fn tool() -> Value {
    json!([{"name": "get_weather", "description": "Weather now", "input_schema":
        {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}])
}

const CALL: &str =
    "I look.\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>";

#[tokio::test]
async fn whole_and_streamed() {
    let state = saying("Oslo.");
    let whole = ok(&state, json!({})).await;
    assert!(whole.headers["request-id"] == whole.headers["x-request-id"]);
    insta::assert_json_snapshot!("message_whole", redact(whole.json()));
    let streamed = ok(&state, json!({"stream": true})).await;
    let events: Vec<Value> = events(&streamed).into_iter().map(redact).collect();
    insta::assert_json_snapshot!("message_streamed", events);
}

#[tokio::test]
async fn calls_are_blocks() {
    let state = saying(CALL);
    let whole = ok(&state, json!({"tools": tool(), "tool_choice": {"type": "auto"}})).await.json();
    insta::assert_json_snapshot!("message_call_whole", redact(whole));
    let streamed = ok(&state, json!({"tools": tool(), "stream": true})).await;
    let events = events(&streamed);
    let mut arguments = String::new();
    let mut open = None;
    for event in &events {
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert_eq!(open, None);
                open = event["index"].as_u64();
            }
            "content_block_stop" => assert_eq!(open.take(), event["index"].as_u64()),
            "content_block_delta" => {
                assert_eq!(open, event["index"].as_u64());
                arguments.push_str(event["delta"]["partial_json"].as_str().unwrap_or(""));
            }
            _ => assert_eq!(open, None),
        }
    }
    assert_eq!(serde_json::from_str::<Value>(&arguments).unwrap(), json!({"city": "Oslo"}));
    let end = events.iter().find(|event| event["type"] == "message_delta").unwrap();
    assert_eq!(end["delta"]["stop_reason"], "tool_use");
    assert_eq!(events.last().unwrap()["type"], "message_stop");
}

#[tokio::test]
async fn thinking_is_a_block_of_its_own() {
    let state = saying("<think>\nNorway. Hm.\n</think>\n\nOslo.");
    let thinking = json!({"type": "enabled", "budget_tokens": 50});
    let whole = ok(&state, json!({"thinking": thinking})).await.json();
    let expected = json!([
        {"type": "thinking", "thinking": "Norway. Hm.", "signature": ""},
        {"type": "text", "text": "Oslo."},
    ]);
    assert_eq!(whole["content"], expected);
    let events = events(&ok(&state, json!({"thinking": thinking, "stream": true})).await);
    let join = |name: &str| events.iter().filter_map(|event| event["delta"][name].as_str()).collect::<String>();
    assert_eq!((join("thinking"), join("text")), ("Norway. Hm.".into(), "Oslo.".into()));
    let begun: Vec<&Value> = events
        .iter()
        .filter(|event| event["type"] == "content_block_start")
        .map(|event| &event["content_block"])
        .collect();
    let empty = json!([{"type": "thinking", "thinking": "", "signature": ""}, {"type": "text", "text": ""}]);
    assert_eq!(json!(begun), empty);
}

#[tokio::test]
async fn an_end_has_its_reason() {
    let state = saying("One two three.");
    for (extra, reason, sequence, said) in [
        (json!({}), "end_turn", Value::Null, "One two three."),
        (json!({"max_tokens": 1}), "max_tokens", Value::Null, "O"),
        (json!({"stop_sequences": ["x", "two"]}), "stop_sequence", json!("two"), "One "),
    ] {
        let whole = ok(&state, extra.clone()).await.json();
        let found = (&whole["stop_reason"], &whole["stop_sequence"], &whole["content"][0]["text"]);
        assert_eq!(found, (&json!(reason), &sequence, &json!(said)), "{extra}");
        let mut extra = extra;
        extra["stream"] = json!(true);
        let events = events(&ok(&state, extra).await);
        let delta = &events[events.len() - 2]["delta"];
        assert_eq!((&delta["stop_reason"], &delta["stop_sequence"]), (&json!(reason), &sequence));
        let text: String = events.iter().filter_map(|event| event["delta"]["text"].as_str()).collect();
        assert_eq!(text, said);
    }
}

/// The request that the engine gets.
async fn reaches(extra: Value) -> Request {
    let (sender, receiver) = mpsc::channel();
    let handle = engine(1, move |request| {
        speak(&request, &[], 0);
        sender.send(request).unwrap();
    });
    ok(&state(Settings::default(), handle), extra).await;
    receiver.recv_timeout(PATIENCE).unwrap()
}

#[tokio::test]
async fn every_field_arrives() {
    let request = reaches(json!({
        "temperature": 0.5, "top_k": 40, "top_p": 0.9, "max_tokens": 12, "metadata": {"user_id": "u"},
        "service_tier": "auto", "thinking": {"type": "disabled"}, "cache_control": {"type": "ephemeral"},
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        "messages": [
            {"role": "user", "content": "Weather"},
            {"role": "user", "content": [{"type": "text", "text": "in Oslo?"}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": ""},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Oslo"}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "is_error": false,
                 "content": [{"type": "text", "text": "rain"}]},
                {"type": "text", "text": "And now?"},
            ]},
        ],
        "tools": tool(),
    }))
    .await;
    let sampling = &request.sampling;
    assert_eq!((sampling.temperature, sampling.top_k, sampling.top_p), (0.5, 40, 0.9));
    assert_eq!(request.max_tokens, 12);
    insta::assert_snapshot!("message_prompt", text().decode(&request.tokens, true));
}

#[tokio::test]
async fn tokens_are_counted_as_they_are_answered() {
    let state = saying("Oslo.");
    let extra = json!({"system": "Be brief.", "tools": tool()});
    let mut counted = body(extra.clone());
    counted.as_object_mut().unwrap().shift_remove("max_tokens");
    let count = post(&state, COUNT, &counted).await;
    let usage = ok(&state, extra).await.json()["usage"].clone();
    let prompt = usage["input_tokens"].as_u64().unwrap() + usage["cache_read_input_tokens"].as_u64().unwrap();
    assert_eq!(count.json(), json!({"input_tokens": prompt}));
    let refused = post(&state, COUNT, &body(json!({}))).await;
    assert_eq!(refused.status, 400);
    assert!(error(&refused).1.contains("`max_tokens`"));
}

#[tokio::test]
async fn wrong_fields_are_named() {
    let state = saying("no");
    let user = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    let named = |tool: Value| json!({"tools": [tool]});
    for (extra, field) in [
        (json!({"max_tokens": null}), "max_tokens"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"messages": null}), "messages"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": [{"role": "tool", "content": "a"}]}), "messages[0].role"),
        (user(json!([])), "messages[0].content"),
        (user(json!([{"type": "image", "source": {}}])), "messages[0].content[0].type"),
        (user(json!([{"type": "text", "text": "a", "x": 1}])), "messages[0].content[0].x"),
        (user(json!([{"type": "tool_result"}])), "messages[0].content[0].tool_use_id"),
        (json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}), "messages"),
        (json!({"stop_sequences": "x"}), "stop_sequences"),
        (json!({"stop_sequences": [""]}), "stop_sequences[0]"),
        (json!({"temperature": 3}), "temperature"),
        (json!({"top_k": 1.5}), "top_k"),
        (json!({"temprature": 1}), "temprature"),
        (json!({"n": 2}), "n"),
        (json!({"system": [{"type": "image"}]}), "system[0].type"),
        (named(json!({"name": "f"})), "tools[0].input_schema"),
        (named(json!({"name": "f g", "input_schema": {}})), "tools[0].name"),
        (named(json!({"type": "bash_20250124", "name": "bash"})), "tools[0].type"),
        (json!({"tool_choice": {"type": "some"}}), "tool_choice.type"),
        (json!({"tool_choice": {"type": "tool"}}), "tool_choice.name"),
        (json!({"thinking": {"type": "enabled"}}), "thinking.budget_tokens"),
        (json!({"cache_control": {"type": "forever"}}), "cache_control.type"),
        (json!({"container": "c"}), "container"),
    ] {
        let refused = post(&state, MESSAGES, &body(extra.clone())).await;
        assert_eq!(refused.status, 400, "{extra} {}", refused.body);
        let (kind, message) = error(&refused);
        assert_eq!(kind, "invalid_request_error");
        assert!(message.contains(&format!("`{field}`")), "{extra} {message}");
    }
}

#[tokio::test]
async fn an_overlong_prompt_is_refused_with_the_counts() {
    let long = json!({"messages": [{"role": "user", "content": "word ".repeat(600)}]});
    let refused = post(&saying("no"), MESSAGES, &body(long)).await;
    let (kind, message) = error(&refused);
    assert_eq!((refused.status.as_u16(), kind.as_str()), (400, "invalid_request_error"));
    assert!(message.contains("the context holds 512"), "{message}");
}

#[tokio::test]
async fn every_error_has_the_dialects_shape() {
    let state = saying("no");
    for (answer, status, kind) in [
        (post(&state, MESSAGES, &body(json!({"model": "other"}))).await, 404, "not_found_error"),
        (post(&state, "/v1/messages/batches", &json!({})).await, 404, "not_found_error"),
        (get(&state, MESSAGES).await, 405, "invalid_request_error"),
        (post_bytes(&state, MESSAGES, "{").await, 400, "invalid_request_error"),
        (post_bytes(&state, MESSAGES, " ".repeat(5 << 20)).await, 413, "request_too_large"),
        (post(&State::new(Settings::default()), MESSAGES, &body(json!({}))).await, 503, "overloaded_error"),
    ] {
        assert_eq!((answer.status.as_u16(), error(&answer).0.as_str()), (status, kind), "{}", answer.body);
    }
}

#[tokio::test]
async fn keys_come_in_either_header() {
    let settings = Settings { api_keys: vec!["secret".into()], ..Settings::default() };
    let state = state(settings, engine(8, say("Oslo.")));
    for (header, value, status) in [
        ("x-api-key", "secret", 200),
        ("authorization", "Bearer secret", 200),
        ("x-api-key", "other", 401),
        ("x-nothing", "secret", 401),
    ] {
        let request = HttpRequest::post(MESSAGES).header(header, value).header("anthropic-version", "2023-06-01");
        let answer = send(&state, request.body(Body::from(body(json!({})).to_string())).unwrap()).await;
        assert_eq!(answer.status.as_u16(), status, "{header}: {value}");
        if status == 401 {
            assert_eq!(error(&answer).0, "authentication_error");
        }
    }
}

#[tokio::test]
async fn a_stream_that_fails_says_so_and_a_slow_one_pings() {
    let settings = Settings { keep_alive: Duration::from_millis(20), ..Settings::default() };
    let handle = engine(1, |request: Request| {
        std::thread::sleep(Duration::from_millis(200));
        request.events.send(Event::Failed("the device is on fire".into())).unwrap();
    });
    let answer = ok(&state(settings, handle), json!({"stream": true})).await;
    let events = events(&answer);
    assert!(events.iter().filter(|event| event["type"] == "ping").count() > 2, "{}", answer.body);
    let last = events.last().unwrap();
    assert_eq!((&last["type"], &last["error"]["type"]), (&json!("error"), &json!("overloaded_error")));
}
