//! What reaches the engine of a request's fields.

use crate::harness::{CHAT, COMPLETIONS, CONTEXT, engine, post, state, text};
use hesper::{
    api::Settings,
    engine::request::{Event, FinishReason, Request, SamplingParameters},
};
use serde_json::{Value, json};
use std::sync::mpsc;

/// The request that the engine gets for `body`, which must be answered 200.
async fn reaches(path: &str, body: Value) -> Request {
    let (sender, receiver) = mpsc::channel();
    let handle = engine(1, move |request| {
        for choice in 0..request.choices {
            request.events.send(Event::Finished { choice, reason: FinishReason::Stop }).unwrap();
        }
        sender.send(request).unwrap();
    });
    let answer = post(&state(Settings::default(), handle), path, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    receiver.recv().unwrap()
}

fn chat(extra: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "Hello"}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn defaults_are_openais() {
    let request = reaches(CHAT, chat(json!({}))).await;
    let seed = request.sampling.seed;
    assert_eq!(request.sampling, SamplingParameters { seed, ..SamplingParameters::default() });
    assert_eq!(request.tokens, text().encode("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", true));
    assert_eq!(request.max_tokens, CONTEXT - request.tokens.len() as u32, "all that fits the context");
    assert_eq!((request.choices, request.logprobs), (1, None));
    assert_eq!(request.stop_tokens, text().stop_tokens());
    assert_ne!(reaches(CHAT, chat(json!({}))).await.sampling.seed, seed, "seeds are drawn anew");
    let completion = reaches(COMPLETIONS, json!({"prompt": "Hello"})).await;
    assert_eq!((completion.max_tokens, completion.tokens), (16, text().encode("Hello", true)));
}

#[tokio::test]
async fn a_prediction_arrives_as_tokens() {
    let parts = json!([{"type": "text", "text": "Hello"}, {"type": "text", "text": "you"}]);
    for (content, expected) in [(json!("Hello you"), "Hello you"), (parts, "Hello\nyou")] {
        let request = reaches(CHAT, chat(json!({"prediction": {"type": "content", "content": content}}))).await;
        assert_eq!(request.prediction, text().encode(expected, false));
    }
    let none = reaches(CHAT, chat(json!({"prediction": null}))).await;
    assert!(none.prediction.is_empty() && none.speculate);
    // More than an answer can have is of no use.
    let long = reaches(CHAT, chat(json!({"prediction": {"type": "content", "content": "a b ".repeat(20_000)}}))).await;
    assert_eq!(long.prediction.len(), CONTEXT as usize);
}

#[tokio::test]
async fn every_field_arrives() {
    let request = reaches(
        CHAT,
        chat(json!({
            "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repeat_penalty": 1.25,
            "presence_penalty": -2, "frequency_penalty": 2, "logit_bias": {"7": -100, "8": 1.5}, "seed": -3,
            "n": 4, "max_completion_tokens": 12, "stop_token_ids": [9], "logprobs": true, "top_logprobs": 20,
            "user": "u", "metadata": {"a": "b"}, "service_tier": "auto", "safety_identifier": "s", "store": true,
            "prompt_cache_key": "k", "cache_prompt": true, "response_format": {"type": "text"}, "tool_choice": "auto",
            "parallel_tool_calls": true, "typical_p": 1, "mirostat": 0, "min_tokens": 0, "functions": null,
        })),
    )
    .await;
    let expected = SamplingParameters {
        temperature: 0.5,
        top_k: 40,
        top_p: 0.9,
        min_p: 0.05,
        repetition_penalty: 1.25,
        presence_penalty: -2.0,
        frequency_penalty: 2.0,
        logit_bias: vec![(7, -100.0), (8, 1.5)],
        seed: -3i64 as u64,
    };
    assert_eq!(request.sampling, expected);
    assert_eq!((request.choices, request.max_tokens, request.logprobs), (4, 12, Some(20)));
    assert_eq!(request.stop_tokens, [&[9][..], &text().stop_tokens()].concat());
}

#[tokio::test]
async fn extremes_are_brought_into_the_engines_ranges() {
    let sampling = reaches(CHAT, chat(json!({"temperature": 1e-40, "top_k": -1, "seed": i64::MAX}))).await.sampling;
    assert_eq!((sampling.temperature, sampling.top_k, sampling.seed), (0.0, 0, i64::MAX as u64));
    let sampling = reaches(CHAT, chat(json!({"temperature": 0, "top_k": 1_000_000}))).await.sampling;
    assert_eq!((sampling.temperature, sampling.top_k), (0.0, 0));
    assert_eq!(reaches(CHAT, chat(json!({"max_tokens": 4_000_000_000u32}))).await.max_tokens, CONTEXT - 9);
    assert!(reaches(CHAT, chat(json!({"ignore_eos": true}))).await.stop_tokens.is_empty());
}

#[tokio::test]
async fn several_prompts_have_seeds_of_their_own() {
    let (sender, receiver) = mpsc::channel();
    let handle = engine(1, move |request| {
        sender.send(request.sampling.seed).unwrap();
        for choice in 0..request.choices {
            request.events.send(Event::Finished { choice, reason: FinishReason::Stop }).unwrap();
        }
    });
    let body = json!({"prompt": ["a", "b", "c"], "n": 2, "seed": 10});
    assert_eq!(post(&state(Settings::default(), handle), COMPLETIONS, &body).await.status, 200);
    assert_eq!(receiver.iter().take(3).collect::<Vec<_>>(), [10, 12, 14]);
}

#[tokio::test]
async fn messages_reach_the_template() {
    let body = json!({
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}]},
            {"role": "user", "content": "Weather in Oslo?", "name": "ann"},
            {"role": "assistant", "content": null, "refusal": null, "annotations": [], "tool_calls": [
                {"id": "call_1", "type": "function",
                 "function": {"name": "get_weather", "arguments": "{\"city\": \"Oslo\"}"}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        ],
        "tools": [{"type": "function", "function": {"name": "get_weather", "description": null, "strict": false,
            "parameters": {"type": "object", "properties": {}}}}],
        "chat_template_kwargs": {"enable_thinking": false},
    });
    let prompt = text().decode(&reaches(CHAT, body).await.tokens, true);
    insta::assert_snapshot!(prompt);
}
