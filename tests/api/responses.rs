//! OpenAI's responses over the scripted engine.

use crate::harness::{Answer, PATIENCE, engine, get, post, redact, say, saying, send, speak, state, text};
use axum::{body::Body, http::Request as HttpRequest};
use hesper::{
    api::{Settings, State},
    engine::request::{Event, Request},
};
use serde_json::{Value, json};
use std::sync::mpsc;

const RESPONSES: &str = "/v1/responses";

fn body(extra: Value) -> Value {
    let mut body = json!({"model": "demo", "input": "What is the capital of Norway?"});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

async fn ok(state: &State, extra: Value) -> Answer {
    let answer = post(state, RESPONSES, &body(extra)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer
}

/// A stream's events, whose names and numbers are checked.
fn events(answer: &Answer) -> Vec<Value> {
    let named = answer.named_events();
    for (number, (name, data)) in named.iter().enumerate() {
        assert_eq!((&data["type"], data["sequence_number"].as_u64()), (&json!(name), Some(number as u64)));
    }
    named.into_iter().map(|(_, data)| data).collect()
}

fn weather() -> Value {
    json!([{"type": "function", "name": "get_weather", "description": null, "strict": false,
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}])
}

const CALL: &str =
    "I look.\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>";

#[tokio::test]
async fn whole_and_streamed() {
    let state = saying("Oslo.");
    let whole = ok(&state, json!({"metadata": {"k": "v"}, "instructions": "Be brief.", "temperature": 0.7})).await;
    insta::assert_json_snapshot!("response_whole", redact(whole.json()));
    let streamed = ok(&state, json!({"stream": true})).await;
    let events: Vec<Value> = events(&streamed).into_iter().map(redact).collect();
    insta::assert_json_snapshot!("response_streamed", events);
}

#[tokio::test]
async fn calls_are_items() {
    let state = saying(CALL);
    let whole = ok(&state, json!({"tools": weather(), "tool_choice": "auto"})).await.json();
    insta::assert_json_snapshot!("response_call_output", redact(whole["output"].clone()));
    let events = events(&ok(&state, json!({"tools": weather(), "stream": true})).await);
    let names: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(names[..2], ["response.created", "response.in_progress"]);
    assert_eq!(names.last(), Some(&"response.completed"));
    let mut open = None;
    let mut arguments = String::new();
    for event in &events {
        let index = event["output_index"].as_u64();
        match event["type"].as_str().unwrap() {
            "response.output_item.added" => {
                assert_eq!((open.take(), event["item"]["status"].as_str()), (None, Some("in_progress")))
            }
            "response.output_item.done" => assert_eq!(open, index),
            "response.function_call_arguments.delta" => arguments.push_str(event["delta"].as_str().unwrap()),
            "response.function_call_arguments.done" => assert_eq!(event["arguments"], json!(arguments)),
            _ => {}
        }
        open = index.filter(|_| event["type"] != "response.output_item.done");
    }
    assert_eq!(serde_json::from_str::<Value>(&arguments).unwrap(), json!({"city": "Oslo"}));
    let done: Vec<&Value> = events
        .iter()
        .filter(|event| event["type"] == "response.output_item.done")
        .map(|event| &event["item"])
        .collect();
    assert_eq!(json!(done), events.last().unwrap()["response"]["output"], "the whole is what was streamed");
}

#[tokio::test]
async fn reasoning_is_an_item_of_its_own() {
    let state = saying("<think>\nNorway. Hm.\n</think>\n\nOslo.");
    let whole = ok(&state, json!({"reasoning": {"effort": "low"}})).await.json();
    let reasoning = &whole["output"][0];
    assert_eq!((&reasoning["type"], &reasoning["summary"]), (&json!("reasoning"), &json!([])));
    assert_eq!(reasoning["content"], json!([{"type": "reasoning_text", "text": "Norway. Hm."}]));
    assert_eq!(whole["output"][1]["content"][0]["text"], "Oslo.");
    assert!(whole["usage"]["output_tokens_details"]["reasoning_tokens"].as_u64().unwrap() > 3);
    let events = events(&ok(&state, json!({"reasoning": {"effort": "low"}, "stream": true})).await);
    let join = |name: &str| {
        events
            .iter()
            .filter(|event| event["type"] == name)
            .map(|event| event["delta"].as_str().unwrap())
            .collect::<String>()
    };
    assert_eq!(join("response.reasoning_text.delta"), "Norway. Hm.");
    assert_eq!(join("response.output_text.delta"), "Oslo.");
    let parts: Vec<&Value> = events
        .iter()
        .filter(|event| event["type"] == "response.content_part.added")
        .map(|event| &event["part"]["type"])
        .collect();
    assert_eq!(json!(parts), json!(["reasoning_text", "output_text"]));
}

#[tokio::test]
async fn a_cut_response_is_incomplete() {
    let state = saying("One two three.");
    let whole = ok(&state, json!({"max_output_tokens": 2})).await.json();
    assert_eq!(
        (&whole["status"], &whole["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );
    assert_eq!(whole["output"][0]["status"], "incomplete");
    let events = events(&ok(&state, json!({"max_output_tokens": 2, "stream": true})).await);
    let last = events.last().unwrap();
    assert_eq!((&last["type"], &last["response"]["status"]), (&json!("response.incomplete"), &json!("incomplete")));
}

#[tokio::test]
async fn log_probabilities_come_when_asked_for() {
    let state = saying("Oslo.");
    let asked = json!({"include": ["message.output_text.logprobs"], "top_logprobs": 2});
    let whole = ok(&state, asked.clone()).await.json();
    let tokens = whole["output"][0]["content"][0]["logprobs"].as_array().unwrap().clone();
    assert_eq!(tokens.iter().map(|token| token["token"].as_str().unwrap()).collect::<String>(), "Oslo.");
    assert!(tokens.iter().all(|token| token["top_logprobs"].as_array().unwrap().len() == 2));
    let mut streamed = asked;
    streamed["stream"] = json!(true);
    let deltas: Vec<Value> = events(&ok(&state, streamed).await)
        .iter()
        .filter(|event| event["type"] == "response.output_text.delta")
        .flat_map(|event| event["logprobs"].as_array().unwrap().clone())
        .collect();
    assert_eq!(deltas, tokens);
    let without = ok(&state, json!({})).await.json();
    assert_eq!(without["output"][0]["content"][0]["logprobs"], json!([]));
}

#[tokio::test]
async fn a_response_is_found_listed_and_deleted() {
    let state = saying("Oslo.");
    let made = ok(&state, json!({})).await.json();
    let path = format!("{RESPONSES}/{}", made["id"].as_str().unwrap());
    assert_eq!(get(&state, &path).await.json(), made);
    let items = get(&state, &format!("{path}/input_items?limit=5")).await.json();
    assert_eq!(items["data"][0]["content"][0], json!({"type": "input_text", "text": "What is the capital of Norway?"}));
    assert_eq!((items["data"].as_array().unwrap().len(), &items["first_id"]), (1, &items["data"][0]["id"]));
    let cancelled = post(&state, &format!("{path}/cancel"), &json!({})).await;
    assert_eq!(cancelled.status, 400);
    let request = HttpRequest::delete(&path).body(Body::empty()).unwrap();
    assert_eq!(send(&state, request).await.json(), json!({"id": made["id"], "object": "response", "deleted": true}));
    for gone in [get(&state, &path).await, get(&state, &format!("{path}/input_items")).await] {
        assert_eq!(gone.status, 404);
        gone.error_param();
    }
    let unstored = ok(&state, json!({"store": false})).await.json();
    assert_eq!(get(&state, &format!("{RESPONSES}/{}", unstored["id"].as_str().unwrap())).await.status, 404);
    let streamed = events(&ok(&state, json!({"stream": true})).await).pop().unwrap()["response"].clone();
    assert_eq!(get(&state, &format!("{RESPONSES}/{}", streamed["id"].as_str().unwrap())).await.json(), streamed);
}

/// An engine that remembers the prompts that it is given, and answers all alike.
fn listening(answer: &str) -> (State, mpsc::Receiver<String>) {
    let (sender, receiver) = mpsc::channel();
    let tokens = text().encode(answer, true);
    let handle = engine(8, move |request| {
        sender.send(text().decode(&request.tokens, true)).unwrap();
        speak(&request, &tokens, 0);
    });
    (state(Settings::default(), handle), receiver)
}

#[tokio::test]
async fn a_conversation_goes_on_from_a_stored_response() {
    let (state, prompts) = listening(CALL);
    let first = ok(&state, json!({"instructions": "Be brief.", "tools": weather()})).await.json();
    let call_id = first["output"][1]["call_id"].as_str().unwrap();
    let second = json!({
        "previous_response_id": first["id"], "instructions": "Be long.", "tools": weather(), "stream": true,
        "input": [{"type": "function_call_output", "call_id": call_id, "output": "rain"}],
    });
    let second = events(&ok(&state, second).await).pop().unwrap()["response"].clone();
    // What came before it is not needed any more.
    let path = format!("{RESPONSES}/{}", first["id"].as_str().unwrap());
    send(&state, HttpRequest::delete(&path).body(Body::empty()).unwrap()).await;
    ok(&state, json!({"previous_response_id": second["id"], "input": "Thanks"})).await;
    let prompts: Vec<String> = prompts.try_iter().collect();
    assert_eq!(prompts.len(), 3);
    insta::assert_snapshot!("response_conversation", prompts[2]);
    assert!(prompts[1].contains("Be long.") && !prompts[1].contains("Be brief."), "instructions are of one request");
}

#[tokio::test]
async fn another_keys_response_is_not_found() {
    let settings = Settings { api_keys: vec!["ann".into(), "bob".into()], ..Settings::default() };
    let state = state(settings, engine(8, say("Oslo.")));
    let as_key = async |key: &str, path: &str, body: Value| {
        let method = if body.is_null() { "GET" } else { "POST" };
        let request = HttpRequest::builder().method(method).uri(path).header("x-api-key", key);
        send(&state, request.body(Body::from(body.to_string())).unwrap()).await
    };
    let made = as_key("ann", RESPONSES, body(json!({}))).await.json();
    let path = format!("{RESPONSES}/{}", made["id"].as_str().unwrap());
    assert_eq!(as_key("ann", &path, Value::Null).await.status, 200);
    assert_eq!(as_key("bob", &path, Value::Null).await.status, 404);
    let goes_on = body(json!({"previous_response_id": made["id"]}));
    assert_eq!(as_key("ann", RESPONSES, goes_on.clone()).await.status, 200);
    let refused = as_key("bob", RESPONSES, goes_on).await;
    assert_eq!((refused.status.as_u16(), refused.error_param().as_deref()), (400, Some("previous_response_id")));
}

#[tokio::test]
async fn every_item_reaches_the_template() {
    let (state, prompts) = listening("ok");
    ok(&state, json!({
        "instructions": "Be brief.",
        "input": [
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": [{"type": "input_text", "text": "Weather"}, {"type": "input_text", "text": "in Oslo?"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
            {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
             "content": [{"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}]},
            {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "get_weather",
             "arguments": "{\"city\": \"Oslo\"}", "status": "completed"},
            {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "rain"}]},
            {"role": "user", "content": "And now?"},
        ],
        "text": {"format": {"type": "text"}}, "truncation": "disabled", "include": ["reasoning.encrypted_content"],
        "top_k": 3, "user": "u", "background": false,
    }))
    .await;
    insta::assert_snapshot!("response_prompt", prompts.try_recv().unwrap());
}

#[tokio::test]
async fn wrong_fields_are_named() {
    let state = saying("no");
    let item = |item: Value| json!({"input": [item]});
    for (extra, param) in [
        (json!({"input": null}), "input"),
        (item(json!({"role": "user", "content": "a", "caller": {}})), "input[0].caller"),
        (json!({"input": []}), "input"),
        (json!({"input": 7}), "input"),
        (item(json!("a")), "input[0]"),
        (item(json!({"type": "item_reference", "id": "x"})), "input[0].type"),
        (item(json!({"role": "robot", "content": "a"})), "input[0].role"),
        (item(json!({"role": "user"})), "input[0].content"),
        (item(json!({"role": "user", "content": [{"type": "input_image"}]})), "input[0].content[0].type"),
        (item(json!({"role": "user", "content": "a", "x": 1})), "input[0].x"),
        (item(json!({"type": "function_call", "name": "f", "arguments": "{}"})), "input[0].call_id"),
        (item(json!({"type": "function_call_output", "call_id": "c"})), "input[0].output"),
        (json!({"input": "word ".repeat(600)}), "input"),
        (json!({"max_output_tokens": 0}), "max_output_tokens"),
        (json!({"temperature": 3}), "temperature"),
        (json!({"max_tokens": 5}), "max_tokens"),
        (json!({"messages": []}), "messages"),
        (json!({"n": 2}), "n"),
        (json!({"background": true}), "background"),
        (json!({"conversation": "c"}), "conversation"),
        (json!({"previous_response_id": "resp_0"}), "previous_response_id"),
        (json!({"previous_response_id": 1}), "previous_response_id"),
        (json!({"include": ["file_search_call.results"]}), "include[0]"),
        (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
        (json!({"tools": [{"type": "function", "name": "f g"}]}), "tools[0].name"),
        (json!({"tools": [{"type": "function", "name": "f", "x": 1}]}), "tools[0].x"),
        (json!({"tool_choice": {"type": "mcp"}}), "tool_choice.type"),
        (json!({"tool_choice": {"type": "function"}}), "tool_choice.name"),
        (json!({"text": {"format": {"type": "xml"}}}), "text.format.type"),
        (json!({"reasoning": {"summary": "detailed"}}), "reasoning.summary"),
        (json!({"truncation": "some"}), "truncation"),
        (json!({"store": "yes"}), "store"),
        (json!({"metadata": {"a": 1}}), "metadata.a"),
        (json!({"stream_options": {"include_usage": true}}), "stream_options.include_usage"),
    ] {
        let refused = post(&state, RESPONSES, &body(extra.clone())).await;
        assert_eq!(refused.status, 400, "{extra} {}", refused.body);
        assert_eq!(refused.error_param().as_deref(), Some(param), "{extra} {}", refused.body);
    }
}

#[tokio::test]
async fn a_stream_that_fails_says_so() {
    let handle = engine(1, |request: Request| {
        request.events.send(Event::Failed("the device is on fire".into())).unwrap();
    });
    let events = events(&ok(&state(Settings::default(), handle), json!({"stream": true})).await);
    let last = events.last().unwrap();
    assert_eq!((&last["type"], &last["response"]["status"]), (&json!("response.failed"), &json!("failed")));
    assert_eq!(last["response"]["error"]["code"], "server_error");
    assert!(last["response"]["error"]["message"].as_str().unwrap().contains("on fire"));
}

/// A client that leaves ends the generation, and nothing is stored.
#[tokio::test]
async fn a_client_that_leaves_ends_it() {
    let (sender, gone) = mpsc::channel();
    let handle = engine(1, move |request: Request| {
        let begin = std::time::Instant::now();
        while !request.events.is_closed() && begin.elapsed() < PATIENCE {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        sender.send(request.events.is_closed()).unwrap();
    });
    let server = state(Settings::default(), handle);
    let body = body(json!({}));
    let asked = post(&server, RESPONSES, &body);
    assert!(tokio::time::timeout(std::time::Duration::from_millis(100), asked).await.is_err());
    assert!(tokio::task::spawn_blocking(move || gone.recv_timeout(PATIENCE)).await.unwrap().unwrap());
}
