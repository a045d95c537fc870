//! Prompts that are too long, cut because the request asks for it.

use crate::harness::{Answer, CHAT, COMPLETIONS, CONTEXT, engine, post, speak, state, text};
use hesper::{api::Settings, engine::request::Request};
use serde_json::{Value, json};
use std::sync::mpsc;

/// The answer to `body` and the prompt that reached the engine.
async fn asked(path: &str, body: &Value) -> (Answer, Request) {
    let (sender, receiver) = mpsc::channel();
    let handle = engine(1, move |request: Request| {
        speak(&request, &text().encode("ok", true), 0);
        sender.send(request).unwrap();
    });
    let answer = post(&state(Settings::default(), handle), path, body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    (answer, receiver.recv().unwrap())
}

/// A chat of a system message and eight turns of about 120 tokens each.
fn long_chat() -> Vec<Value> {
    let turn = |number: usize| {
        [
            json!({"role": "user", "content": format!("Question {number}: {}", "why ".repeat(20))}),
            json!({"role": "assistant", "content": format!("Answer {number}: {}", "so ".repeat(20))}),
        ]
    };
    let mut messages = vec![json!({"role": "system", "content": "Be brief."})];
    messages.extend((1..=8).flat_map(turn));
    messages.push(json!({"role": "user", "content": "The last question"}));
    messages
}

fn prompt(request: &Request) -> String {
    text().decode(&request.tokens, true)
}

#[tokio::test]
async fn a_chat_loses_its_oldest_turns_or_those_in_the_middle() {
    for (truncate, first_stays) in [("left", false), ("middle", true)] {
        let body = json!({"messages": long_chat(), "truncate": truncate, "max_tokens": 100});
        let (answer, request) = asked(CHAT, &body).await;
        let prompt = prompt(&request);
        assert!(prompt.contains("Be brief.") && prompt.contains("The last question"), "{prompt}");
        assert_eq!(prompt.contains("Question 1:"), first_stays, "{prompt}");
        assert_eq!(prompt.matches("Question").count(), prompt.matches("Answer").count(), "whole turns: {prompt}");
        assert!(request.tokens.len() <= CONTEXT as usize - 100);
        assert_eq!(request.max_tokens, 100);
        let warning = answer.headers["warning"].to_str().unwrap();
        assert!(warning.starts_with("299 hesper \"prompt truncated: ") && warning.ends_with(" messages left out\""));
    }
}

#[tokio::test]
async fn one_long_message_loses_tokens() {
    let messages = json!([{"role": "user", "content": format!("Begin {} end", "word ".repeat(600))}]);
    let (answer, request) = asked(CHAT, &json!({"messages": messages, "truncate": "middle"})).await;
    assert_eq!(request.tokens.len(), CONTEXT as usize - CONTEXT as usize / 4);
    let prompt = prompt(&request);
    assert!(
        prompt.starts_with("<|im_start|>user\nBegin") && prompt.ends_with(" end<|im_end|>\n<|im_start|>assistant\n")
    );
    assert!(answer.headers["warning"].to_str().unwrap().contains("tokens left out"));
}

#[tokio::test]
async fn a_completion_loses_tokens() {
    let tokens: Vec<u32> = (100..100 + 2 * CONTEXT).collect();
    let count = tokens.len();
    for truncate in ["left", "middle"] {
        let body = json!({"prompt": tokens, "truncate": truncate, "max_tokens": 12, "echo": true});
        let (answer, request) = asked(COMPLETIONS, &body).await;
        let room = CONTEXT as usize - 12;
        let expected = match truncate {
            "left" => tokens[count - room..].to_vec(),
            _ => [&tokens[..room / 2], &tokens[count - room / 2..]].concat(),
        };
        assert_eq!(request.tokens, expected);
        let echoed = answer.json()["choices"][0]["text"].as_str().unwrap().to_owned();
        assert_eq!(echoed, text().decode(&expected, true) + "ok");
        assert!(answer.headers.contains_key("warning"));
    }
}

#[tokio::test]
async fn what_fits_stays_whole() {
    let body = json!({"messages": [{"role": "user", "content": "Hi"}], "truncate": "left", "max_tokens": 100_000});
    let (answer, request) = asked(CHAT, &body).await;
    assert!(!answer.headers.contains_key("warning"));
    assert_eq!(request.max_tokens, CONTEXT - request.tokens.len() as u32);
}

#[tokio::test]
async fn a_response_is_truncated_in_the_middle() {
    let body = json!({"input": long_chat(), "truncation": "auto"});
    let (answer, request) = asked("/v1/responses", &body).await;
    assert!(prompt(&request).contains("Question 1:") && answer.headers.contains_key("warning"));
    assert_eq!(answer.json()["truncation"], "auto");
}

#[tokio::test]
async fn the_cache_is_left_alone_when_asked() {
    for (cache_prompt, expected) in [(json!(false), false), (json!(true), true), (Value::Null, true)] {
        let body = json!({"messages": [{"role": "user", "content": "Hi"}], "cache_prompt": cache_prompt});
        assert_eq!(asked(CHAT, &body).await.1.reuse_prefix, expected);
    }
}
