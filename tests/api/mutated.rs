//! Mutated requests: whatever is sent is answered, never with a 5xx, never with silence.

use crate::harness::{Answer, CHAT, COMPLETIONS, engine, get, post_bytes, say, state};
use hesper::api::Settings;
use serde_json::{Value, json};

/// SplitMix64: the same mutations on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

fn valid() -> Vec<(&'static str, Value)> {
    let tool = json!({"type": "function", "function": {"name": "f", "description": "d",
        "parameters": {"type": "object", "properties": {"x": {"type": "string"}}}}});
    let call = json!([{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": \"1\"}"}}]);
    vec![
        (
            CHAT,
            json!({
                "model": "demo",
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
                    {"role": "assistant", "content": null, "tool_calls": call},
                    {"role": "tool", "tool_call_id": "call_1", "content": "fine"},
                ],
                "tools": [tool], "tool_choice": "auto", "temperature": 0.7, "top_p": 0.9, "seed": 42, "n": 2,
                "stop": ["\n", "end"], "logprobs": true, "top_logprobs": 3, "logit_bias": {"5": -1.5},
                "stream": true, "stream_options": {"include_usage": true}, "max_completion_tokens": 20,
            }),
        ),
        (CHAT, json!({"messages": [{"role": "user", "content": "Capital of Norway? 🇳🇴"}], "max_tokens": 8})),
        (
            COMPLETIONS,
            json!({
                "prompt": ["One two", "three"], "max_tokens": 9, "echo": true, "n": 2, "top_k": 5, "min_p": 0.1,
                "repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": -0.5, "stop": "x",
                "user": "u", "metadata": {"k": "v"}, "best_of": 2, "cache_prompt": true, "truncate": "left",
            }),
        ),
        (COMPLETIONS, json!({"prompt": [[1, 2, 3], [4]], "logprobs": 2, "stream": true, "stop_token_ids": [7]})),
    ]
    .into_iter()
    .chain(dialects())
    .collect()
}

const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";

fn dialects() -> Vec<(&'static str, Value)> {
    let schema = json!({"type": "object", "properties": {"x": {"type": "string"}}});
    let message = json!({
        "model": "demo", "max_tokens": 20, "system": [{"type": "text", "text": "Be brief."}],
        "messages": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "Hm", "signature": ""},
                {"type": "text", "text": "I ask"},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": "1"}},
            ]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "fine"}]},
        ],
        "tools": [{"name": "f", "description": "d", "input_schema": schema}], "tool_choice": {"type": "auto"},
        "stop_sequences": ["end"], "temperature": 0.5, "top_k": 5, "top_p": 0.9, "stream": true,
        "metadata": {"user_id": "u"}, "thinking": {"type": "disabled"},
    });
    let response = json!({
        "input": [
            {"role": "developer", "content": "Be kind."},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "fine"},
        ],
        "tools": [{"type": "function", "name": "f", "parameters": schema}], "tool_choice": "auto", "store": true,
        "instructions": "Be brief.", "metadata": {"k": "v"}, "max_output_tokens": 9, "top_logprobs": 2,
        "text": {"format": {"type": "text"}}, "truncation": "auto", "include": ["message.output_text.logprobs"],
        "stream": true,
    });
    let counted = json!({"model": "demo", "messages": message["messages"], "tools": message["tools"]});
    let chat = json!({"messages": [{"role": "user", "content": "Hello"}], "store": true, "metadata": {"k": "v"}});
    vec![
        (MESSAGES, message),
        (RESPONSES, response),
        (MESSAGES, json!({"max_tokens": 5, "messages": [{"role": "user", "content": "Hello"}]})),
        (RESPONSES, json!({"input": "Hello", "store": false})),
        ("/v1/messages/count_tokens", counted),
        (CHAT, chat.clone()),
        ("/apply-template", chat),
        ("/tokenize", json!({"content": "Hello", "add_special": true, "with_pieces": true})),
        ("/detokenize", json!({"tokens": [5, 6, 7]})),
    ]
}

fn odd_value(random: &mut Random) -> Value {
    let long = "Ω".repeat(5_000);
    let mut deep = json!(1);
    for _ in 0..100 {
        deep = json!([deep]);
    }
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1e308),
        json!(-0.0),
        json!(4.9e-324),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(""),
        json!("\u{0}"),
        json!("<|im_end|>"),
        json!("{% for x in y %}"),
        json!(long),
        deep,
        json!([]),
        json!({}),
        json!([[]]),
        json!({"": {}}),
        json!([null]),
        json!(2),
        json!("auto"),
        json!({"type": "text"}),
    ];
    values[random.below(values.len())].clone()
}

/// Changes one value somewhere in the tree: replaces, removes, renames, doubles.
fn mutate_value(value: &mut Value, random: &mut Random) {
    if random.below(4) != 0 {
        match value {
            Value::Object(map) if !map.is_empty() => {
                let key = map.keys().nth(random.below(map.len())).unwrap().clone();
                match random.below(8) {
                    0 => drop(map.remove(&key)),
                    1 => {
                        let moved = map.remove(&key).unwrap();
                        map.insert(format!("{key}_"), moved);
                    }
                    _ => mutate_value(&mut map[&key], random),
                }
                return;
            }
            Value::Array(items) if !items.is_empty() => {
                let index = random.below(items.len());
                match random.below(8) {
                    0 => drop(items.remove(index)),
                    1 => items.push(items[index].clone()),
                    _ => mutate_value(&mut items[index], random),
                }
                return;
            }
            _ => {}
        }
    }
    *value = odd_value(random);
}

/// Changes the text itself: flips, cuts, doubles, inserts.
fn mutate_bytes(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len().max(1)).min(bytes.len().saturating_sub(1));
        match random.below(5) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 => bytes.truncate(at),
            2 => bytes.splice(at..at, [b"{}[]\",:\\\x00\xff"[random.below(10)]]).for_each(drop),
            3 => bytes.extend_from_within(at..),
            _ if !bytes.is_empty() => drop(bytes.remove(at)),
            _ => {}
        }
    }
}

/// Any answer is a success in its form or an error in its shape.
fn check(path: &str, answer: &Answer, body: &[u8]) {
    let status = answer.status.as_u16();
    let shown = String::from_utf8_lossy(&body[..body.len().min(400)]);
    match status {
        200 if answer.headers["content-type"] == "text/event-stream" => {
            let named = [RESPONSES, MESSAGES].contains(&path);
            let events = if named { answer.named_events().len() } else { answer.chunks().len() };
            assert!(events > 0, "{shown}");
        }
        200 if path.starts_with("/v1/") => {
            let answer = answer.json();
            assert!(answer["usage"].is_object() || answer["input_tokens"].is_u64(), "{shown}");
        }
        200 => assert!(answer.json().is_object(), "{shown}"),
        400..=499 if path.starts_with(MESSAGES) => {
            let body = answer.json();
            assert!(body["type"] == "error" && body["error"]["message"].is_string(), "{shown}");
        }
        400..=499 => drop(answer.error_param()),
        _ => panic!("{status} {} for {shown}", answer.body),
    }
}

#[tokio::test]
async fn mutated_requests_are_answered() {
    let state = state(Settings::default(), engine(8, say("An answer, the end.")));
    let mut random = Random(1);
    let (mut taken, mut refused) = (0, 0);
    for round in 0..3000 {
        let mut valid = valid();
        let (path, mut body) = valid.swap_remove(round % valid.len());
        let bytes = if round % 3 == 0 {
            let mut bytes = body.to_string().into_bytes();
            mutate_bytes(&mut bytes, &mut random);
            bytes
        } else {
            for _ in 0..=random.below(2) {
                mutate_value(&mut body, &mut random);
            }
            body.to_string().into_bytes()
        };
        let answer = post_bytes(&state, path, bytes.clone()).await;
        check(path, &answer, &bytes);
        if answer.status == 200 { taken += 1 } else { refused += 1 }
    }
    assert!(taken > 150 && refused > 900, "mutations both keep and break requests: {taken} and {refused}");
}

#[tokio::test]
async fn unmutated_requests_are_taken() {
    let state = state(Settings::default(), engine(8, say("An answer, the end.")));
    for (path, body) in valid() {
        let bytes = body.to_string().into_bytes();
        let answer = post_bytes(&state, path, bytes.clone()).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        check(path, &answer, &bytes);
    }
}

/// Paths and query strings of all kinds, some of which hold an id that is there.
#[tokio::test]
async fn mutated_queries_are_answered() {
    let state = state(Settings::default(), engine(8, say("An answer, the end.")));
    let mut ids = Vec::new();
    for (path, body) in [
        (CHAT, json!({"store": true, "messages": [{"role": "user", "content": "Hi"}]})),
        (RESPONSES, json!({"input": "Hi"})),
    ] {
        let made = post_bytes(&state, path, body.to_string()).await.json();
        ids.push(format!("{path}/{}", made["id"].as_str().unwrap()));
    }
    let paths = [
        format!("{CHAT}?limit=2&order=asc&after=chatcmpl-1&metadata[k]=v&model=demo"),
        format!("{}/messages?limit=2&order=desc", ids[0]),
        format!("{}/input_items?limit=2&order=desc", ids[1]),
        format!("{}?stream=false", ids[1]),
        ids[0].clone(),
        "/props?model=demo".to_owned(),
        "/slots?a=b".to_owned(),
    ];
    let mut random = Random(2);
    let mut taken = 0;
    for round in 0..2000 {
        let mut bytes = paths[round % paths.len()].clone().into_bytes();
        if round >= paths.len() {
            mutate_bytes(&mut bytes, &mut random);
        }
        // A client cannot send others: they are no part of a request line.
        bytes.retain(|byte| byte.is_ascii_graphic() && !b"#\"<>\\^`{|}".contains(byte));
        let path = format!("/{}", String::from_utf8(bytes).unwrap().trim_start_matches('/'));
        if path.parse::<axum::http::Uri>().is_err() {
            continue;
        }
        let answer = get(&state, &path).await;
        match answer.status.as_u16() {
            200 => taken += 1,
            400..=499 => {}
            status => panic!("{status} {} for {path}", answer.body),
        }
    }
    assert!(taken > 20, "{taken}");
}
