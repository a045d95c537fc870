//! Answers that must have a form: a scripted engine samples at random what the constraint allows, or is told what to say.

use crate::harness::{Answer, CHAT, COMPLETIONS, engine, post, saying, state, text, token};
use hesper::{
    api::{Settings, State},
    engine::request::{Allowed, Event, FinishReason, Request},
};
use serde_json::{Value, json};

/// SplitMix64: the same answers on every run.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Answers every choice with tokens drawn from those that the constraint allows; half of the time from those that end
/// something, so that answers do.
fn draw(request: Request) {
    let vocabulary = text().vocabulary_size() as u32;
    let send = |event| drop(request.events.send(event));
    send(Event::Started { cached_tokens: 0 });
    for choice in 0..request.choices {
        let mut constraint = request.constraint.as_ref().map(|constraints| (constraints.0)());
        let mut seed = request.sampling.seed.wrapping_add(choice.into());
        let (mut last, mut reason) = (None, FinishReason::Length);
        for _ in 0..request.max_tokens {
            let mut mask = vec![0; vocabulary.div_ceil(32) as usize];
            let allowed = match constraint.as_mut().map(|constraint| constraint(last, &mut mask)) {
                None | Some(Ok(Allowed::Any)) => (0..vocabulary).collect(),
                Some(Ok(Allowed::Masked)) => {
                    (0..vocabulary).filter(|id| mask[*id as usize / 32] >> (id % 32) & 1 == 1).collect::<Vec<u32>>()
                }
                Some(Err(error)) => return send(Event::Failed(error)),
            };
            let ends = |id: &u32| {
                request.stop_tokens.contains(id) || matches!(text().token_bytes(*id)[..], [b'"' | b'}' | b']'])
            };
            let near: Vec<u32> = allowed.iter().copied().filter(ends).collect();
            let from = if near.is_empty() || random(&mut seed).is_multiple_of(2) { &allowed } else { &near };
            let id = from[(random(&mut seed) % from.len() as u64) as usize];
            if request.stop_tokens.contains(&id) {
                reason = FinishReason::Stop;
                break;
            }
            if request.ended.is_ended(choice) {
                break;
            }
            send(Event::Token { choice, token: token(&request, id) });
            last = Some(id);
        }
        send(Event::Finished { choice, reason });
    }
}

fn drawing() -> State {
    state(Settings::default(), engine(8, draw))
}

/// A chat whose prompt closes the reasoning, so that the answer begins at once.
fn chat(extra: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "Hello"}], "seed": 3, "max_tokens": 300,
        "reasoning_effort": "none"});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

async fn ok(state: &State, path: &str, body: Value) -> Answer {
    let answer = post(state, path, &body).await;
    assert_eq!(answer.status, 200, "{body} {}", answer.body);
    answer
}

fn person() -> Value {
    json!({"type": "object", "required": ["name", "age"], "additionalProperties": false, "properties": {
        "name": {"type": "string", "maxLength": 10}, "age": {"type": "integer", "minimum": 0, "maximum": 150}}})
}

#[tokio::test]
async fn every_choice_satisfies_the_schema() {
    let format = json!({"type": "json_schema", "json_schema": {"name": "person", "strict": true, "schema": person()}});
    let body = chat(json!({"response_format": format, "n": 4, "logprobs": true, "top_logprobs": 1}));
    let whole = ok(&drawing(), CHAT, body.clone()).await.json();
    let mut contents = Vec::new();
    for choice in whole["choices"].as_array().unwrap() {
        assert_eq!(choice["finish_reason"], "stop");
        let content = choice["message"]["content"].as_str().unwrap();
        let value: Value = serde_json::from_str(content).unwrap();
        assert!(jsonschema::is_valid(&person(), &value), "{content}");
        let said: String = choice["logprobs"]["content"]
            .as_array()
            .unwrap()
            .iter()
            .map(|token| token["token"].as_str().unwrap())
            .collect();
        assert_eq!(said, content);
        contents.push(content.to_owned());
    }
    assert_eq!(contents.len(), 4);
    assert!(contents.iter().any(|content| *content != contents[0]), "choices are drawn on their own");
    // The same in a stream.
    let mut streamed = body;
    streamed["stream"] = json!(true);
    let chunks = ok(&drawing(), CHAT, streamed).await.chunks();
    for (index, content) in contents.iter().enumerate() {
        let of_choice = chunks.iter().map(|chunk| &chunk["choices"][0]).filter(|choice| choice["index"] == index);
        let found: String = of_choice.filter_map(|choice| choice["delta"]["content"].as_str()).collect();
        assert_eq!(found, *content);
    }
    // Cut short it is what it is, and says so.
    let cut = ok(&drawing(), CHAT, chat(json!({"response_format": format, "max_tokens": 2}))).await.json();
    assert_eq!(cut["choices"][0]["finish_reason"], "length");
    assert!(serde_json::from_str::<Value>(cut["choices"][0]["message"]["content"].as_str().unwrap()).is_err());
}

#[tokio::test]
async fn every_field_that_demands_a_form_gets_it() {
    let digits = |text: &str| text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    let colour = |text: &str| ["red", "blue"].contains(&text);
    let object = |text: &str| serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_object());
    let typed =
        |text: &str| serde_json::from_str::<Value>(text).is_ok_and(|value| jsonschema::is_valid(&person(), &value));
    let colours = "root ::= \"red\" | \"blue\"";
    let lark = "start: \"red\" | \"blue\"";
    type Check<'c> = &'c dyn Fn(&str) -> bool;
    let table: Vec<(Value, Check)> = vec![
        (json!({"response_format": {"type": "json_object"}}), &object),
        (json!({"response_format": {"type": "json_object", "schema": person()}}), &typed),
        (json!({"response_format": {"type": "json_schema", "json_schema": {"schema": person()}}}), &typed),
        (json!({"response_format": {"type": "regex", "pattern": "[0-9]{3}"}}), &digits),
        (json!({"response_format": {"type": "grammar", "grammar": colours}}), &colour),
        (json!({"response_format": {"type": "lark", "value": lark}}), &colour),
        (json!({"json_schema": person()}), &typed),
        (json!({"guided_json": person()}), &typed),
        (json!({"guided_json": person().to_string()}), &typed),
        (json!({"guided_regex": "[0-9]{3}"}), &digits),
        (json!({"guided_choice": ["red", "blue"]}), &colour),
        (json!({"guided_grammar": lark}), &colour),
        (json!({"grammar": colours}), &colour),
        (json!({"structured_outputs": {"json": person()}}), &typed),
        (json!({"structured_outputs": {"json_object": true}}), &object),
        (json!({"structured_outputs": {"regex": "[0-9]{3}"}}), &digits),
        (json!({"structured_outputs": {"choice": ["red", "blue"]}}), &colour),
        (json!({"structured_outputs": {"grammar": colours}}), &colour),
    ];
    let server = drawing();
    for (fields, check) in &table {
        let answer = ok(&server, CHAT, chat(fields.clone())).await.json();
        let content = answer["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(answer["choices"][0]["finish_reason"] == "length" || check(content), "{fields}: {content}");
        let mut body = json!({"prompt": "Hello", "seed": 4, "max_tokens": 300});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let answer = ok(&server, COMPLETIONS, body).await.json();
        let found = answer["choices"][0]["text"].as_str().unwrap();
        assert!(answer["choices"][0]["finish_reason"] == "length" || check(found), "{fields}: {found}");
    }
}

fn tools() -> Value {
    json!([
        {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object",
            "properties": {"city": {"type": "string", "maxLength": 8}}, "required": ["city"], "additionalProperties": false}}},
        {"type": "function", "function": {"name": "now"}},
    ])
}

#[tokio::test]
async fn calls_that_are_demanded_come() {
    let server = drawing();
    for seed in 0..6 {
        let body =
            chat(json!({"tools": tools(), "tool_choice": "required", "seed": seed, "parallel_tool_calls": false}));
        let answer = ok(&server, CHAT, body).await.json();
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
        assert_eq!(choice["message"]["content"], Value::Null);
        let calls = choice["message"]["tool_calls"].as_array().unwrap();
        assert_eq!(calls.len(), 1);
        assert!(calls[0]["id"].as_str().unwrap().starts_with("call_"));
        let arguments: Value = serde_json::from_str(calls[0]["function"]["arguments"].as_str().unwrap()).unwrap();
        match calls[0]["function"]["name"].as_str().unwrap() {
            "get_weather" => assert!(arguments["city"].is_string() && arguments.as_object().unwrap().len() == 1),
            "now" => assert_eq!(arguments, json!({})),
            other => panic!("{other}"),
        }
        let named = json!({"type": "function", "function": {"name": "get_weather"}});
        let body = chat(json!({"tools": tools(), "tool_choice": named, "seed": seed, "stream": true}));
        let chunks = ok(&server, CHAT, body).await.chunks();
        let deltas: Vec<&Value> =
            chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].get(0)).collect();
        assert_eq!(deltas[0]["function"], json!({"name": "get_weather", "arguments": ""}));
        assert!(deltas.iter().all(|delta| delta["index"] == 0));
        assert!(deltas[1..].iter().all(|delta| delta.get("id").is_none() && delta["function"].get("name").is_none()));
        let arguments: String = deltas.iter().map(|delta| delta["function"]["arguments"].as_str().unwrap()).collect();
        assert!(serde_json::from_str::<Value>(&arguments).unwrap()["city"].is_string(), "{arguments}");
        assert!(chunks.iter().all(|chunk| chunk["choices"][0]["delta"]["content"].as_str().is_none_or(str::is_empty)));
    }
}

#[tokio::test]
async fn one_call_ends_the_answer_where_no_more_may_come() {
    let call = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    let server = saying(&format!("Let me see.\n{call}\n{call} and more"));
    let answer = ok(&server, CHAT, chat(json!({"tools": tools(), "parallel_tool_calls": false}))).await.json();
    let message = &answer["choices"][0]["message"];
    assert_eq!(
        (message["content"].as_str(), message["tool_calls"].as_array().unwrap().len()),
        (Some("Let me see."), 1)
    );
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
    let answer = ok(&server, CHAT, chat(json!({"tools": tools()}))).await.json();
    assert_eq!(answer["choices"][0]["message"]["tool_calls"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn reasoning_is_told_apart() {
    let server = saying("<think>\nTwo and two.\n</think>\n\nFour.");
    let body = |extra: Value| {
        let mut body = json!({"messages": [{"role": "user", "content": "2+2?"}]});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    let whole = ok(&server, CHAT, body(json!({}))).await.json();
    let message = &whole["choices"][0]["message"];
    assert_eq!((&message["reasoning_content"], &message["content"]), (&json!("Two and two."), &json!("Four.")));
    let details = whole["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap();
    let thought = text().encode("<think>\nTwo and two.\n</think>", true).len() as u64;
    assert_eq!(details, thought, "its tags are counted");
    assert!(whole["usage"]["completion_tokens"].as_u64().unwrap() > details);
    let options = json!({"stream": true, "logprobs": true, "stop": ["and", "."]});
    let chunks = ok(&server, CHAT, body(options)).await.chunks();
    let part =
        |name: &str| chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"][name].as_str()).collect::<String>();
    assert_eq!(
        (part("reasoning_content"), part("content")),
        ("Two and two.".into(), "Four".into()),
        "thoughts are not stopped"
    );
    let bytes = |chunk: &Value| chunk["choices"][0]["logprobs"]["content"].as_array().cloned().unwrap_or_default();
    let said: String = chunks.iter().flat_map(bytes).map(|token| token["token"].as_str().unwrap().to_owned()).collect();
    assert!("<think>\nTwo and two.\n</think>\n\nFour.".starts_with(&said) && said.ends_with("Four"), "{said:?}");
    let hidden = ok(&server, CHAT, body(json!({"include_reasoning": false}))).await.json();
    assert!(hidden["choices"][0]["message"].get("reasoning_content").is_none());
    assert_eq!(
        (
            &hidden["choices"][0]["message"]["content"],
            &hidden["usage"]["completion_tokens_details"]["reasoning_tokens"]
        ),
        (&json!("Four."), &json!(thought))
    );
    let raw = ok(&server, CHAT, body(json!({"reasoning_format": "none"}))).await.json();
    assert_eq!(raw["choices"][0]["message"]["content"], "<think>\nTwo and two.\n</think>\n\nFour.");
}

#[tokio::test]
async fn budgets_end_reasoning() {
    let schema = json!({"type": "boolean"});
    for (fields, most) in [
        (json!({"reasoning": {"max_tokens": 4}}), 4),
        (
            json!({"thinking_budget_tokens": 2, "response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}),
            2,
        ),
        (json!({"thinking_token_budget": 0}), 0),
        (json!({"reasoning_effort": "none"}), 0),
        (json!({"enable_thinking": false}), 0),
    ] {
        // Thinks for ever, unless it is told what to write.
        let endless = |request: Request| {
            let words = text().encode("<think>a b c d e f g h i j k l m n", true);
            let mut constraint = request.constraint.as_ref().map(|constraints| (constraints.0)());
            let mut last = None;
            for step in 0..30 {
                let mut mask = vec![0; text().vocabulary_size().div_ceil(32)];
                let masked = constraint.as_mut().map(|constraint| constraint(last, &mut mask).unwrap());
                let wish = words[step.min(words.len() - 1)];
                let may = |id: u32| masked != Some(Allowed::Masked) || mask[id as usize / 32] >> (id % 32) & 1 == 1;
                let id = if may(wish) { wish } else { (0..).find(|id| may(*id)).unwrap() };
                if request.stop_tokens.contains(&id) {
                    break;
                }
                request.events.send(Event::Token { choice: 0, token: token(&request, id) }).unwrap();
                last = Some(id);
            }
            request.events.send(Event::Finished { choice: 0, reason: FinishReason::Stop }).unwrap();
        };
        let mut body = json!({"messages": [{"role": "user", "content": "2+2?"}]});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let answer = ok(&state(Settings::default(), engine(1, endless)), CHAT, body).await.json();
        let message = &answer["choices"][0]["message"];
        let thought = message["reasoning_content"].as_str().unwrap_or_default();
        assert!(text().encode(thought, true).len() <= most, "{thought:?} for {fields}");
        assert_eq!(thought.is_empty(), most == 0, "{message}");
        assert!(!message["content"].as_str().unwrap().is_empty(), "{message}");
    }
}

#[tokio::test]
async fn what_cannot_be_followed_is_refused_by_its_field() {
    let server = saying("no");
    let schema = |schema: Value| json!({"type": "json_schema", "json_schema": {"name": "s", "schema": schema}});
    let strict = json!([{"type": "function", "function": {"name": "a"}},
        {"type": "function", "function": {"name": "b", "strict": true, "parameters": {"type": "array", "uniqueItems": true}}}]);
    for (fields, field) in [
        (json!({"response_format": schema(json!({"not": {}}))}), "response_format.json_schema.schema"),
        (json!({"response_format": schema(json!({"type": "nonsense"}))}), "response_format.json_schema.schema"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "s"}}}),
            "response_format.json_schema.schema",
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}}),
            "response_format.json_schema.name",
        ),
        (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
        (json!({"response_format": {"type": "regex", "pattern": "("}}), "response_format.pattern"),
        (json!({"response_format": {"type": "json_object"}, "grammar": "root ::= \"a\""}), "grammar"),
        (json!({"grammar": "root ::= x"}), "grammar"),
        (json!({"guided_json": "[1"}), "guided_json"),
        (json!({"guided_json": 7}), "guided_json"),
        (json!({"guided_choice": []}), "guided_choice"),
        (json!({"guided_choice": ["a", 1]}), "guided_choice[1]"),
        (json!({"guided_regex": "a{2,1}"}), "guided_regex"),
        (json!({"structured_outputs": {}}), "structured_outputs"),
        (json!({"structured_outputs": {"regex": "a", "choice": ["a"]}}), "structured_outputs.choice"),
        (json!({"structured_outputs": {"backend": "x"}}), "structured_outputs.backend"),
        (json!({"response_format": {"type": "json_object"}, "ignore_eos": true}), "ignore_eos"),
        (json!({"tools": strict}), "tools[1].function.parameters"),
        (json!({"tools": strict, "tool_choice": "required"}), "tools[1].function.parameters"),
        (json!({"tools": tools(), "grammar": "root ::= \"a\""}), "grammar"),
        (
            json!({"tools": tools(), "tool_choice": {"type": "function", "function": {"name": "c"}}}),
            "tool_choice.function.name",
        ),
        (json!({"tools": tools(), "tool_choice": {"type": "function"}}), "tool_choice.function"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"parallel_tool_calls": 1}), "parallel_tool_calls"),
        (json!({"reasoning_effort": "some"}), "reasoning_effort"),
        (json!({"reasoning": {"effort": "low", "x": 1}}), "reasoning.x"),
        (json!({"reasoning": {"max_tokens": 3}, "thinking_budget": 4}), "reasoning.max_tokens"),
        (json!({"reasoning_effort": "low", "reasoning": {"effort": "low"}}), "reasoning.effort"),
        (json!({"reasoning_format": "deepseek-legacy"}), "reasoning_format"),
    ] {
        let mut body = json!({"messages": [{"role": "user", "content": "Hello"}]});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let answer = post(&server, CHAT, &body).await;
        assert_eq!(answer.status, 400, "{fields} {}", answer.body);
        assert_eq!(answer.error_param().as_deref(), Some(field), "{fields} {}", answer.body);
    }
}
