//! llama-server's small endpoints: tokens, templates, properties, and the requests at work.

use crate::harness::{CHAT, CONTEXT, MODEL, PATIENCE, engine, get, post, say, saying, send, speak, state, text};
use axum::{body::Body, http::Request as HttpRequest};
use hesper::{
    api::Settings,
    engine::request::{Event, FinishReason, Request, Token},
};
use serde_json::{Value, json};
use std::sync::mpsc;

#[tokio::test]
async fn text_becomes_tokens_and_text_again() {
    let state = saying("");
    let ask = async |path: &str, body: Value| {
        let answer = post(&state, path, &body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    };
    for content in ["", "Hello, world", "Ñandú 🦤 東京", "<|im_start|>user\nHi<|im_end|>\n"] {
        let tokens = ask("/tokenize", json!({"content": content})).await["tokens"].clone();
        assert_eq!(tokens, json!(text().encode(content, true)));
        assert_eq!(ask("/detokenize", json!({"tokens": tokens, "model": MODEL})).await, json!({"content": content}));
    }
    let plain = ask("/tokenize", json!({"content": "<|im_end|>", "parse_special": false})).await;
    assert_eq!(plain, json!({"tokens": text().encode("<|im_end|>", false)}));
    let whole = ask("/tokenize", json!({"content": "Hi", "add_special": true})).await;
    assert_eq!(whole, json!({"tokens": text().encode_prompt("Hi", true)}));
    let pieces = ask("/tokenize", json!({"content": "Hi 🦤", "with_pieces": true})).await;
    let mut bytes = Vec::new();
    for token in pieces["tokens"].as_array().unwrap() {
        match &token["piece"] {
            Value::String(piece) => bytes.extend_from_slice(piece.as_bytes()),
            piece => bytes.extend(piece.as_array().unwrap().iter().map(|byte| byte.as_u64().unwrap() as u8)),
        }
        assert!(token["id"].is_u64());
    }
    assert_eq!(String::from_utf8(bytes).unwrap(), "Hi 🦤");
    assert!(pieces.to_string().contains("[240"), "a part of a character is shown by its bytes: {pieces}");
}

#[tokio::test]
async fn a_template_is_applied_as_a_chat_applies_it() {
    let (sender, prompts) = mpsc::channel();
    let handle = engine(1, move |request: Request| {
        sender.send(text().decode(&request.tokens, true)).unwrap();
        speak(&request, &[], 0);
    });
    let state = state(Settings::default(), handle);
    let body = json!({
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "tools": [{"type": "function", "function": {"name": "f"}}],
    });
    let prompt = post(&state, "/apply-template", &body).await.json();
    post(&state, CHAT, &body).await;
    assert_eq!(prompt, json!({"prompt": prompts.recv().unwrap()}));
}

#[tokio::test]
async fn properties_are_true_and_hold_no_path() {
    let props = get(&saying(""), "/props").await.json();
    assert_eq!(props["default_generation_settings"]["n_ctx"], CONTEXT);
    assert_eq!((&props["model_alias"], &props["total_slots"]), (&json!(MODEL), &json!(1)));
    assert!(props["chat_template"].as_str().unwrap().contains("<|im_start|>"));
    assert_eq!(props["eos_token"], "<|im_end|>");
    assert!(props.get("model_path").is_none());
    insta::assert_json_snapshot!("props_settings", props["default_generation_settings"]);
    let missing = get(&saying(""), "/props?model=other").await;
    assert_eq!((missing.status.as_u16(), missing.error_param().as_deref()), (404, Some("model")));
}

#[tokio::test]
async fn slots_show_what_is_at_work() {
    let (go, wait) = mpsc::channel::<()>();
    let handle = engine(4, move |request: Request| {
        let send = |event| drop(request.events.send(event));
        wait.recv().unwrap();
        send(Event::Started { cached_tokens: 4 });
        wait.recv().unwrap();
        for id in text().encode("One two", true) {
            send(Event::Token { choice: 0, token: Token { id, logprobs: None } });
        }
        wait.recv().unwrap();
        send(Event::Finished { choice: 0, reason: FinishReason::Stop });
    });
    let settings = Settings { api_keys: vec!["k".into()], ..Settings::default() };
    let state = state(settings, handle);
    let with_key = async |method: &str, path: &str, body: Value| {
        let request = HttpRequest::builder().method(method).uri(path).header("x-api-key", "k");
        send(&state, request.body(Body::from(body.to_string())).unwrap()).await.json()
    };
    let slots = async || with_key("GET", "/slots", Value::Null).await.as_array().unwrap().clone();
    assert!(slots().await.is_empty());
    let body = json!({"messages": [{"role": "user", "content": "A secret"}]});
    let asking = with_key("POST", CHAT, body);
    let watching = async {
        for expected in ["waiting", "evaluating", "generating"] {
            let begin = std::time::Instant::now();
            let slot = loop {
                assert!(begin.elapsed() < PATIENCE);
                match slots().await.pop() {
                    Some(slot) if slot["state"] == expected => break slot,
                    _ => tokio::time::sleep(std::time::Duration::from_millis(1)).await,
                }
            };
            assert_eq!(
                (&slot["model"], &slot["client"], &slot["choices"]),
                (&json!(MODEL), &json!("key-1"), &json!(1))
            );
            assert_eq!(slot["cached_tokens"], if expected == "waiting" { 0 } else { 4 });
            assert!(slot["prompt_tokens"].as_u64().unwrap() > 5 && slot["age_s"].as_f64().unwrap() >= 0.0);
            assert_eq!(slot["generated_tokens"].as_u64().unwrap() > 0, expected == "generating");
            assert!(!slot.to_string().contains("secret"));
            go.send(()).unwrap();
        }
    };
    let (answer, ()) = tokio::join!(asking, watching);
    assert_eq!(answer["choices"][0]["message"]["content"], "One two");
    assert!(slots().await.is_empty(), "what is done is gone");
}

#[tokio::test]
async fn wrong_fields_are_named() {
    let state = state(Settings::default(), engine(8, say("no")));
    for (path, body, param) in [
        ("/tokenize", json!({}), "content"),
        ("/tokenize", json!({"content": 1}), "content"),
        ("/tokenize", json!({"content": "a", "x": 1}), "x"),
        ("/tokenize", json!({"content": "a", "with_pieces": 1}), "with_pieces"),
        ("/tokenize", json!({"content": "a", "model": 1}), "model"),
        ("/detokenize", json!({}), "tokens"),
        ("/detokenize", json!({"tokens": [1, -1]}), "tokens[1]"),
        ("/detokenize", json!({"tokens": [100_000_000]}), "tokens[0]"),
        ("/apply-template", json!({"messages": []}), "messages"),
        ("/apply-template", json!({"messages": [{"role": "user", "content": "a"}], "x": 1}), "x"),
    ] {
        let answer = post(&state, path, &body).await;
        assert_eq!((answer.status.as_u16(), answer.error_param().as_deref()), (400, Some(param)), "{path} {body}");
    }
    for path in ["/slots?x=1", "/props?x=1"] {
        assert_eq!(get(&state, path).await.error_param().as_deref(), Some("x"));
    }
}
