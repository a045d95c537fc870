//! What right requests are answered.

use crate::harness::{
    Answer, CHAT, COMPLETIONS, PATIENCE, engine, get, post, redact, saying, speak, state, text, token,
};
use hesper::{
    api::{Settings, State},
    engine::request::{Event, FinishReason, Request},
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn chat(extra: Value) -> Value {
    let mut body =
        json!({"model": "demo", "messages": [{"role": "user", "content": "What is the capital of Norway?"}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

fn completion(extra: Value) -> Value {
    let mut body = json!({"model": "demo", "prompt": "One two", "max_tokens": 50});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

async fn ok(state: &State, path: &str, body: Value) -> Answer {
    let answer = post(state, path, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer
}

fn weather_tool() -> Value {
    json!([{"type": "function", "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }}])
}

const CALL: &str = "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>";

/// The content and finish reason of choice `index`, put together from a stream's chunks.
fn streamed(chunks: &[Value], index: usize) -> (String, Value) {
    let mut content = String::new();
    let mut finish = Value::Null;
    for choice in chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap()) {
        if choice["index"] == index {
            assert!(finish.is_null(), "nothing follows the last chunk");
            content.push_str(choice["delta"]["content"].as_str().or(choice["text"].as_str()).unwrap_or(""));
            finish = choice["finish_reason"].clone();
        }
    }
    (content, finish)
}

#[tokio::test]
async fn chat_whole() {
    let answer = ok(&saying("Oslo."), CHAT, chat(json!({}))).await;
    insta::assert_json_snapshot!(redact(answer.json()));
}

#[tokio::test]
async fn chat_streamed() {
    let body = chat(json!({"stream": true, "stream_options": {"include_usage": true}}));
    let answer = ok(&saying("Oslo."), CHAT, body).await;
    assert_eq!(answer.headers["cache-control"], "no-cache");
    let chunks: Vec<Value> = answer.chunks().into_iter().map(redact).collect();
    insta::assert_json_snapshot!(chunks);
    assert_eq!(streamed(&chunks, 0), ("Oslo.".into(), json!("stop")));
}

#[tokio::test]
async fn a_stream_tells_usage_only_when_asked() {
    let chunks = ok(&saying("Oslo."), CHAT, chat(json!({"stream": true}))).await.chunks();
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none() && chunk["choices"] != json!([])));
}

#[tokio::test]
async fn chat_tool_call_whole() {
    let answer = ok(&saying(CALL), CHAT, chat(json!({"tools": weather_tool()}))).await;
    insta::assert_json_snapshot!(redact(answer.json())["choices"]);
}

#[tokio::test]
async fn chat_tool_calls_streamed() {
    let state = saying(&format!("Let me see.\n{CALL}\n{CALL}"));
    let body = chat(json!({"tools": weather_tool(), "stream": true, "parallel_tool_calls": true}));
    let chunks: Vec<Value> = ok(&state, CHAT, body).await.chunks();
    let ids: Vec<&str> =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"][0]["id"].as_str()).collect();
    assert!(ids.len() == 2 && ids[0] != ids[1], "{ids:?}");
    let deltas: Vec<Value> = chunks.into_iter().map(|chunk| redact(chunk)["choices"][0].clone()).collect();
    insta::assert_json_snapshot!(deltas);
}

#[tokio::test]
async fn tool_calls_are_text_without_tools() {
    for extra in [json!({}), json!({"tools": weather_tool(), "tool_choice": "none"})] {
        let answer = ok(&saying(CALL), CHAT, chat(extra)).await.json();
        assert_eq!(answer["choices"][0]["message"]["content"], CALL);
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        assert!(answer["choices"][0]["message"].get("tool_calls").is_none());
    }
}

#[tokio::test]
async fn chat_logprobs() {
    let asked = json!({"logprobs": true, "top_logprobs": 2});
    let whole = redact(ok(&saying("Oslo."), CHAT, chat(asked)).await.json())["choices"][0]["logprobs"].clone();
    insta::assert_json_snapshot!(whole);
    let asked = json!({"logprobs": true, "top_logprobs": 2, "stream": true});
    let chunks = ok(&saying("Oslo."), CHAT, chat(asked)).await.chunks();
    let streamed: Vec<Value> = chunks
        .iter()
        .flat_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array().cloned().unwrap_or_default())
        .collect();
    assert_eq!(json!(streamed), whole["content"]);
    let without = ok(&saying("Oslo."), CHAT, chat(json!({}))).await.json();
    assert_eq!(without["choices"][0].get("logprobs"), Some(&Value::Null), "the key is there");
}

#[tokio::test]
async fn logprobs_with_tools_cover_every_token() {
    let asked = json!({"logprobs": true, "tools": weather_tool(), "stream": true});
    let chunks = ok(&saying(CALL), CHAT, chat(asked)).await.chunks();
    let tokens = chunks
        .iter()
        .flat_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array().cloned().unwrap_or_default());
    let bytes: Vec<u8> = tokens
        .flat_map(|token| token["bytes"].as_array().unwrap().clone())
        .map(|byte| byte.as_u64().unwrap() as u8)
        .collect();
    assert_eq!(String::from_utf8(bytes).unwrap(), CALL);
}

#[tokio::test]
async fn stop_strings_span_tokens_and_never_show() {
    let said = "One two three four five six.";
    for (stop, expected) in [
        (json!("three"), "One two "),
        (json!("e fo"), "One two thre"),
        (json!(["zzz", "five six", "r five"]), "One two three fou"),
        (json!(["One"]), ""),
        (json!(["six.x"]), said),
    ] {
        let reason = "stop";
        let whole = ok(&saying(said), CHAT, chat(json!({"stop": stop}))).await.json();
        assert_eq!(whole["choices"][0]["message"]["content"], expected, "{stop}");
        assert_eq!(whole["choices"][0]["finish_reason"], reason);
        let chunks = ok(&saying(said), CHAT, chat(json!({"stop": stop, "stream": true}))).await.chunks();
        assert_eq!(streamed(&chunks, 0), (expected.into(), json!(reason)), "{stop}");
        let whole = ok(&saying(said), COMPLETIONS, completion(json!({"stop": stop, "logprobs": 0}))).await.json();
        assert_eq!(whole["choices"][0]["text"], expected, "{stop}");
        let logprobs = &whole["choices"][0]["logprobs"];
        let tokens: String = logprobs["tokens"].as_array().into_iter().flatten().flat_map(Value::as_str).collect();
        assert!(tokens.starts_with(expected) && tokens.len() < expected.len() + 8, "{tokens:?} for {stop}");
    }
}

#[tokio::test]
async fn characters_are_never_cut() {
    let said = "Ñandú 🦤🇳🇴 東京 ok";
    let chunks = ok(&saying(said), CHAT, chat(json!({"stream": true, "max_tokens": 400}))).await.chunks();
    assert_eq!(streamed(&chunks, 0).0, said);
    assert!(text().encode(said, true).len() > said.chars().count(), "characters span tokens here");
}

#[tokio::test]
async fn choices_are_told_apart() {
    let script = |request: Request| {
        assert_eq!(request.choices, 3);
        for (choice, word) in ["alpha", "beta", "gamma"].into_iter().enumerate().rev() {
            for id in text().encode(word, true) {
                let token = token(&request, id);
                request.events.send(Event::Token { choice: choice as u32, token }).unwrap();
            }
            let reason = if choice == 1 { FinishReason::Length } else { FinishReason::Stop };
            request.events.send(Event::Finished { choice: choice as u32, reason }).unwrap();
        }
    };
    let server = || state(Settings::default(), engine(1, script));
    let whole = ok(&server(), CHAT, chat(json!({"n": 3}))).await.json();
    let contents: Vec<&Value> =
        whole["choices"].as_array().unwrap().iter().map(|choice| &choice["message"]["content"]).collect();
    assert_eq!(json!(contents), json!(["alpha", "beta", "gamma"]));
    assert_eq!(whole["choices"][1]["finish_reason"], "length");
    let chunks = ok(&server(), COMPLETIONS, completion(json!({"n": 3, "stream": true}))).await.chunks();
    for (index, expected) in [("alpha", "stop"), ("beta", "length"), ("gamma", "stop")].into_iter().enumerate() {
        assert_eq!(streamed(&chunks, index), (expected.0.into(), json!(expected.1)));
    }
}

/// A stop string is found by the client's side of the queue; the engine sees it at the token that completes it, and goes on
/// with the other answers.
#[tokio::test]
async fn a_stop_string_ends_one_choice_in_the_engine() {
    for stream in [false, true] {
        let (sender, told) = std::sync::mpsc::channel();
        let script = move |request: Request| {
            let send = |choice: u32, id: u32| {
                let token = token(&request, id);
                request.events.send(Event::Token { choice, token }).unwrap();
            };
            let begin = Instant::now();
            let words = text().encode("One two three", true);
            words.iter().for_each(|id| send(0, *id));
            while !request.ended.is_ended(0) {
                assert!(begin.elapsed() < PATIENCE, "the engine is never told that the answer ended");
                std::thread::sleep(Duration::from_millis(1));
            }
            // A token that was in flight; nobody sees it.
            send(0, words[0]);
            request.events.send(Event::Finished { choice: 0, reason: FinishReason::Stop }).unwrap();
            text().encode("One four", true).iter().for_each(|id| send(1, *id));
            request.events.send(Event::Finished { choice: 1, reason: FinishReason::Length }).unwrap();
            sender.send(request.ended.is_ended(1)).unwrap();
        };
        let server = state(Settings::default(), engine(1, script));
        let answer = ok(&server, CHAT, chat(json!({"n": 2, "stop": "three", "stream": stream}))).await;
        let found = if stream {
            let chunks = answer.chunks();
            [0, 1].map(|index| streamed(&chunks, index))
        } else {
            let choices = answer.json()["choices"].clone();
            [0, 1].map(|index| {
                let content = choices[index]["message"]["content"].as_str().unwrap().to_owned();
                (content, choices[index]["finish_reason"].clone())
            })
        };
        assert_eq!(found, [("One two ".into(), json!("stop")), ("One four".into(), json!("length"))]);
        assert!(!told.recv_timeout(PATIENCE).unwrap(), "the other choice is not ended");
    }
}

#[tokio::test]
async fn completion_whole() {
    let body = completion(json!({"logprobs": 1}));
    insta::assert_json_snapshot!(redact(ok(&saying(" three"), COMPLETIONS, body).await.json()));
}

#[tokio::test]
async fn completion_streamed() {
    let body = completion(json!({"stream": true, "stream_options": {"include_usage": true}, "echo": true}));
    let chunks = ok(&saying(" three"), COMPLETIONS, body).await.chunks();
    insta::assert_json_snapshot!(chunks.into_iter().map(redact).collect::<Vec<_>>());
}

/// Answers with the prompt's own tokens, so that prompts can be told apart.
fn repeat(request: Request) {
    let tokens = request.tokens.clone();
    speak(&request, &tokens, 0);
}

#[tokio::test]
async fn prompts_are_answered_in_order() {
    let server = || state(Settings::default(), engine(1, repeat));
    let ids = text().encode("two", true);
    for (prompt, texts) in [
        (json!(["one", "two", "three"]), json!(["one", "one", "two", "two", "three", "three"])),
        (json!(ids), json!(["two", "two"])),
        (json!([ids, ids]), json!(["two", "two", "two", "two"])),
    ] {
        let whole = ok(&server(), COMPLETIONS, completion(json!({"prompt": prompt, "n": 2}))).await.json();
        let choices = whole["choices"].as_array().unwrap();
        assert_eq!(json!(choices.iter().map(|choice| &choice["text"]).collect::<Vec<_>>()), texts);
        let indices: Vec<u64> = choices.iter().map(|choice| choice["index"].as_u64().unwrap()).collect();
        assert_eq!(indices, (0..choices.len() as u64).collect::<Vec<_>>());
        let chunks = ok(&server(), COMPLETIONS, completion(json!({"prompt": prompt, "n": 2, "stream": true}))).await;
        for (index, text) in texts.as_array().unwrap().iter().enumerate() {
            assert_eq!(json!(streamed(&chunks.chunks(), index).0), *text);
        }
    }
    let echoed = ok(&server(), COMPLETIONS, completion(json!({"prompt": ids, "echo": true}))).await.json();
    assert_eq!(echoed["choices"][0]["text"], "twotwo");
}

#[tokio::test]
async fn models_health_and_version() {
    let state = saying("");
    insta::assert_json_snapshot!("models", get(&state, "/v1/models").await.json());
    insta::assert_json_snapshot!("health", get(&state, "/health").await.json());
    assert_eq!(get(&state, "/v1/models/demo").await.json(), get(&state, "/v1/models").await.json()["data"][0]);
    let missing = get(&state, "/v1/models/some/other").await;
    assert_eq!((missing.status.as_u16(), missing.error_param().as_deref()), (404, Some("model")));
    assert_eq!(get(&state, "/version").await.json()["version"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn request_ids_are_echoed_or_made() {
    let state = saying("");
    let made = get(&state, "/health").await;
    assert!(made.headers["x-request-id"].to_str().unwrap().starts_with("req_"));
    for path in ["/health", "/nowhere"] {
        let request = axum::http::Request::get(path).header("x-request-id", "mine-7");
        let answer = crate::harness::send(&state, request.body(axum::body::Body::empty()).unwrap()).await;
        assert_eq!(answer.headers["x-request-id"], "mine-7");
    }
}
