//! Wrong requests: each is a 4xx in the one shape, and names its field.

use crate::harness::{Answer, CHAT, COMPLETIONS, CONTEXT, get, post, post_bytes, saying, send, state};
use axum::{body::Body, http::Request};
use hesper::api::{Settings, State};
use serde_json::{Value, json};

/// A chat with fields put over it, and what they are refused with: status and `param`.
fn chat_table() -> Vec<(Value, u16, Option<&'static str>)> {
    let mut table = vec![
        (json!({"messages": null}), 400, Some("messages")),
        (json!({"messages": []}), 400, Some("messages")),
        (json!({"messages": "hello"}), 400, Some("messages")),
        (json!({"messages": ["hello"]}), 400, Some("messages[0]")),
        (json!({"messages": [{"content": "hello"}]}), 400, Some("messages[0].role")),
        (json!({"messages": [{"role": "robot", "content": "hello"}]}), 400, Some("messages[0].role")),
        (json!({"messages": [{"role": 1, "content": "hello"}]}), 400, Some("messages[0].role")),
        (json!({"model": 5}), 400, Some("model")),
        (json!({"model": "gpt-4o"}), 404, Some("model")),
        (json!({"functions": []}), 400, Some("functions")),
        (json!({"function_call": {"name": "f"}}), 400, Some("function_call")),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {}}}),
            400,
            Some("response_format.json_schema.schema"),
        ),
        (json!({"response_format": {"type": "xml"}}), 400, Some("response_format.type")),
        (json!({"response_format": {}}), 400, Some("response_format.type")),
        (json!({"response_format": {"type": "text", "x": 1}}), 400, Some("response_format.x")),
        (json!({"response_format": "text"}), 400, Some("response_format")),
        (json!({"logprobs": 5}), 400, Some("logprobs")),
        (json!({"top_logprobs": 3}), 400, Some("top_logprobs")),
        (json!({"logprobs": true, "top_logprobs": 21}), 400, Some("top_logprobs")),
        (json!({"chat_template_kwargs": []}), 400, Some("chat_template_kwargs")),
        (json!({"chat_template": "{{ x }}"}), 400, Some("chat_template")),
        (json!({"modalities": ["text", "audio"]}), 400, Some("modalities")),
        (json!({"audio": {}}), 400, Some("audio")),
        (json!({"web_search_options": {}}), 400, Some("web_search_options")),
        (json!({"verbosity": "low"}), 400, Some("verbosity")),
        (json!({"store": 1}), 400, Some("store")),
        (json!({"echo": true}), 400, Some("echo")),
        (json!({"tool_choice": "required"}), 400, Some("tool_choice")),
        (json!({"tool_choice": "any"}), 400, Some("tool_choice")),
        (json!({"tool_choice": 1}), 400, Some("tool_choice")),
        (json!({"prompt": "hello"}), 400, Some("prompt")),
    ];
    table.extend(message_table());
    table.extend(tool_table());
    table
}

fn message_table() -> Vec<(Value, u16, Option<&'static str>)> {
    let user = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    let assistant = |calls: Value| json!({"messages": [{"role": "assistant", "content": null, "tool_calls": calls}]});
    let call = |function: Value| assistant(json!([{"id": "c", "type": "function", "function": function}]));
    let image = json!([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:"}}]);
    vec![
        (user(Value::Null), 400, Some("messages[0].content")),
        (user(json!(7)), 400, Some("messages[0].content")),
        (user(json!([])), 400, Some("messages[0].content")),
        (user(json!(["text"])), 400, Some("messages[0].content[0]")),
        (user(json!([{"text": "a"}])), 400, Some("messages[0].content[0].type")),
        (user(json!([{"type": "text"}])), 400, Some("messages[0].content[0].text")),
        (user(json!([{"type": "text", "text": "a", "x": 0}])), 400, Some("messages[0].content[0].x")),
        (user(image), 400, Some("messages[0].content[1].type")),
        (user(json!([{"type": "input_audio"}])), 400, Some("messages[0].content[0].type")),
        (json!({"messages": [{"role": "user", "content": "a", "mood": 1}]}), 400, Some("messages[0].mood")),
        (
            json!({"messages": [{"role": "user", "content": "a", "tool_calls": []}]}),
            400,
            Some("messages[0].tool_calls"),
        ),
        (json!({"messages": [{"role": "tool", "content": "a"}]}), 400, Some("messages[0].tool_call_id")),
        (json!({"messages": [{"role": "assistant"}]}), 400, Some("messages[0].content")),
        (assistant(json!([])), 400, Some("messages[0].content")),
        (assistant(json!([{"type": "function"}])), 400, Some("messages[0].tool_calls[0].id")),
        (assistant(json!([{"id": "c"}])), 400, Some("messages[0].tool_calls[0].function")),
        (assistant(json!([{"id": "c", "type": "custom"}])), 400, Some("messages[0].tool_calls[0].type")),
        (call(json!({"name": "f"})), 400, Some("messages[0].tool_calls[0].function.arguments")),
        (call(json!({"name": "f g", "arguments": "{}"})), 400, Some("messages[0].tool_calls[0].function.name")),
        (call(json!({"name": "f", "arguments": {}})), 400, Some("messages[0].tool_calls[0].function.arguments")),
        (json!({"messages": [{"role": "user", "content": "word ".repeat(600)}]}), 400, Some("messages")),
    ]
}

fn tool_table() -> Vec<(Value, u16, Option<&'static str>)> {
    let tool = |function: Value| json!({"tools": [{"type": "function", "function": function}]});
    let named = |name: String| json!({"type": "function", "function": {"name": name}});
    vec![
        (json!({"tools": {}}), 400, Some("tools")),
        (json!({"tools": [1]}), 400, Some("tools[0]")),
        (json!({"tools": [{}]}), 400, Some("tools[0].type")),
        (json!({"tools": [{"type": "custom"}]}), 400, Some("tools[0].type")),
        (json!({"tools": [{"type": "function"}]}), 400, Some("tools[0].function")),
        (tool(json!({})), 400, Some("tools[0].function.name")),
        (tool(json!({"name": ""})), 400, Some("tools[0].function.name")),
        (tool(json!({"name": "get weather"})), 400, Some("tools[0].function.name")),
        (tool(json!({"name": "x".repeat(65)})), 400, Some("tools[0].function.name")),
        (tool(json!({"name": "f", "description": 1})), 400, Some("tools[0].function.description")),
        (tool(json!({"name": "f", "parameters": "none"})), 400, Some("tools[0].function.parameters")),
        (tool(json!({"name": "f", "x": 1})), 400, Some("tools[0].function.x")),
        (json!({"tools": [named("f".into()), named("f".into())]}), 400, Some("tools[1].function.name")),
        (json!({"tools": (0..129).map(|i| named(format!("f{i}"))).collect::<Vec<_>>()}), 400, Some("tools")),
    ]
}

/// Fields that chat and completions share.
fn shared_table() -> Vec<(Value, u16, Option<&'static str>)> {
    let biases: serde_json::Map<String, Value> = (0..1025).map(|id| (id.to_string(), json!(1))).collect();
    vec![
        (json!({"temprature": 1}), 400, Some("temprature")),
        (json!({"temperature": "hot"}), 400, Some("temperature")),
        (json!({"temperature": -0.1}), 400, Some("temperature")),
        (json!({"temperature": 2.1}), 400, Some("temperature")),
        (json!({"top_p": 0}), 400, Some("top_p")),
        (json!({"top_p": 1.5}), 400, Some("top_p")),
        (json!({"top_k": -2}), 400, Some("top_k")),
        (json!({"top_k": 1.5}), 400, Some("top_k")),
        (json!({"min_p": 1.1}), 400, Some("min_p")),
        (json!({"repetition_penalty": 0}), 400, Some("repetition_penalty")),
        (json!({"repetition_penalty": 1.1, "repeat_penalty": 1.1}), 400, Some("repeat_penalty")),
        (json!({"presence_penalty": 3}), 400, Some("presence_penalty")),
        (json!({"frequency_penalty": -3}), 400, Some("frequency_penalty")),
        (json!({"logit_bias": []}), 400, Some("logit_bias")),
        (json!({"logit_bias": {"Oslo": 1}}), 400, Some("logit_bias")),
        (json!({"logit_bias": {"1000000": 1}}), 400, Some("logit_bias")),
        (json!({"logit_bias": {"1": 101}}), 400, Some("logit_bias.1")),
        (json!({"logit_bias": {"1": "a"}}), 400, Some("logit_bias.1")),
        (json!({"logit_bias": {"1": 1, "01": 1}}), 400, Some("logit_bias.1")),
        (json!({"logit_bias": biases}), 400, Some("logit_bias")),
        (json!({"seed": 0.5}), 400, Some("seed")),
        (json!({"seed": 9_223_372_036_854_775_808u64}), 400, Some("seed")),
        (json!({"n": 0}), 400, Some("n")),
        (json!({"n": 129}), 400, Some("n")),
        (json!({"n": true}), 400, Some("n")),
        (json!({"max_tokens": 0}), 400, Some("max_tokens")),
        (json!({"max_tokens": 5, "max_completion_tokens": 6}), 400, Some("max_tokens")),
        (json!({"max_completion_tokens": "many"}), 400, Some("max_completion_tokens")),
        (json!({"stop": 1}), 400, Some("stop")),
        (json!({"stop": ""}), 400, Some("stop")),
        (json!({"stop": ["a", 1]}), 400, Some("stop[1]")),
        (json!({"stop": vec!["a"; 17]}), 400, Some("stop")),
        (json!({"stop": "a".repeat(1025)}), 400, Some("stop")),
        (json!({"stop_token_ids": [1, -1]}), 400, Some("stop_token_ids[1]")),
        (json!({"stop_token_ids": vec![1; 65]}), 400, Some("stop_token_ids")),
        (json!({"stream": "yes"}), 400, Some("stream")),
        (json!({"stream_options": {"include_usage": true}}), 400, Some("stream_options")),
        (json!({"stream": true, "stream_options": {"include_usage": 1}}), 400, Some("stream_options.include_usage")),
        (json!({"stream": true, "stream_options": {"x": 1}}), 400, Some("stream_options.x")),
        (json!({"stream": true, "stream_options": true}), 400, Some("stream_options")),
        (json!({"user": 1}), 400, Some("user")),
        (json!({"metadata": "x"}), 400, Some("metadata")),
        (json!({"cache_prompt": 1}), 400, Some("cache_prompt")),
        (json!({"prediction": "text"}), 400, Some("prediction")),
        (json!({"prediction": {"type": "tokens", "content": "x"}}), 400, Some("prediction.type")),
        (json!({"prediction": {"type": "content"}}), 400, Some("prediction.content")),
        (json!({"prediction": {"type": "content", "content": "x", "y": 1}}), 400, Some("prediction.y")),
        (json!({"ignore_eos": "no"}), 400, Some("ignore_eos")),
        (json!({"mirostat": 2}), 400, Some("mirostat")),
        (json!({"typical_p": 0.9}), 400, Some("typical_p")),
        (json!({"min_tokens": 5}), 400, Some("min_tokens")),
        (json!({"bad_words": ["x"]}), 400, Some("bad_words")),
        (json!({"dry_multiplier": 0.8}), 400, Some("dry_multiplier")),
        (json!({"xtc_probability": 0.5}), 400, Some("xtc_probability")),
        (json!({"grammar": "root ::= x"}), 400, Some("grammar")),
        (json!({"skip_special_tokens": false}), 400, Some("skip_special_tokens")),
    ]
}

fn completion_table() -> Vec<(Value, u16, Option<&'static str>)> {
    vec![
        (json!({"prompt": null}), 400, Some("prompt")),
        (json!({"prompt": ""}), 400, Some("prompt")),
        (json!({"prompt": []}), 400, Some("prompt")),
        (json!({"prompt": 7}), 400, Some("prompt")),
        (json!({"prompt": [1, "a"]}), 400, Some("prompt[1]")),
        (json!({"prompt": ["a", 1]}), 400, Some("prompt[1]")),
        (json!({"prompt": [[1], []]}), 400, Some("prompt")),
        (json!({"prompt": [1, 1_000_000]}), 400, Some("prompt[1]")),
        (json!({"prompt": [[1], [1.5]]}), 400, Some("prompt[1][0]")),
        (json!({"prompt": vec![1; CONTEXT as usize]}), 400, Some("prompt")),
        (json!({"prompt": vec!["a"; 129]}), 400, Some("prompt")),
        (json!({"prompt": vec!["a"; 3], "n": 100}), 400, Some("prompt")),
        (json!({"suffix": "end"}), 400, Some("suffix")),
        (json!({"store": true}), 400, Some("store")),
        (json!({"best_of": 3}), 400, Some("best_of")),
        (json!({"logprobs": 6}), 400, Some("logprobs")),
        (json!({"logprobs": true}), 400, Some("logprobs")),
        (json!({"logprobs": 1, "echo": true}), 400, Some("echo")),
        (json!({"echo": "yes"}), 400, Some("echo")),
        (json!({"messages": []}), 400, Some("messages")),
    ]
}

async fn refused(path: &str, base: &Value, table: Vec<(Value, u16, Option<&str>)>) -> usize {
    let state = saying("no");
    for (fields, status, param) in &table {
        let mut body = base.clone();
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let answer = post(&state, path, &body).await;
        assert_eq!(answer.status.as_u16(), *status, "{fields} {}", answer.body);
        assert_eq!(answer.error_param().as_deref(), *param, "{fields} {}", answer.body);
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
    }
    table.len()
}

#[tokio::test]
async fn each_wrong_field_is_named() {
    let chat = json!({"messages": [{"role": "user", "content": "Hello"}]});
    let completion = json!({"prompt": "Hello"});
    let mut count = refused(CHAT, &chat, chat_table()).await;
    count += refused(CHAT, &chat, shared_table()).await;
    count += refused(COMPLETIONS, &completion, shared_table()).await;
    count += refused(COMPLETIONS, &completion, completion_table()).await;
    assert!(count >= 60, "{count}");
}

#[tokio::test]
async fn an_overlong_prompt_is_refused_with_the_counts() {
    let answer = post(&saying(""), COMPLETIONS, &json!({"prompt": vec![5; 600]})).await.json();
    insta::assert_json_snapshot!(answer);
}

#[tokio::test]
async fn bodies_that_are_not_json() {
    let state = saying("no");
    for (body, param) in [
        (&b""[..], None),
        (b"{", None),
        (b"[1, 2]", None),
        (b"\"text\"", None),
        (b"null", None),
        (b"{\"messages\": [], \"messages\": []}", Some("messages")),
        (
            b"{\"messages\": [{\"role\": \"user\", \"content\": \"a\", \"content\": \"b\"}]}",
            Some("messages[0].content"),
        ),
        (b"{\"prompt\": \"\xff\xfe\"}", None),
        (b"{\"prompt\": \"a\"} trailing", None),
        (b"{\"temperature\": NaN}", None),
        (b"{\"seed\": 1e400}", None),
        (b"{\"prompt\": \"\\ud800\"}", None),
    ] {
        for path in [CHAT, COMPLETIONS] {
            let answer = post_bytes(&state, path, body.to_vec()).await;
            assert_eq!(answer.status, 400, "{body:?}");
            assert_eq!(answer.error_param().as_deref(), param, "{body:?}");
        }
    }
    let deep = post_bytes(&state, CHAT, "{\"messages\":".repeat(10_000)).await;
    assert_eq!(deep.status, 400);
}

async fn with_type(state: &State, kind: Option<&str>) -> Answer {
    let mut request = Request::post(COMPLETIONS);
    if let Some(kind) = kind {
        request = request.header("content-type", kind);
    }
    send(state, request.body(Body::from(r#"{"prompt": "a"}"#)).unwrap()).await
}

#[tokio::test]
async fn content_types() {
    let state = saying("yes");
    for kind in [None, Some("application/json"), Some("Application/JSON; charset=utf-8")] {
        assert_eq!(with_type(&state, kind).await.status, 200, "{kind:?}");
    }
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
        let answer = with_type(&state, Some(kind)).await;
        assert_eq!((answer.status.as_u16(), answer.error_param()), (415, None), "{kind:?}");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods() {
    let state = saying("");
    for path in ["/page", "/v1", "/v1/chat", "/v1/embeddings", "/health/x"] {
        let answer = get(&state, path).await;
        assert_eq!((answer.status.as_u16(), answer.error_param()), (404, None), "{path}");
    }
    let wrong = [
        ("PUT", CHAT, "POST"),
        ("DELETE", "/v1/models", "GET"),
        ("POST", "/health", "GET"),
        ("POST", "/", "GET"),
        ("POST", "/openapi.json", "GET"),
    ];
    for (method, path, allowed) in wrong {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let answer = send(&state, request).await;
        assert_eq!((answer.status.as_u16(), answer.error_param()), (405, None), "{path}");
        assert!(answer.headers["allow"].to_str().unwrap().contains(allowed), "{:?}", answer.headers);
    }
}

#[tokio::test]
async fn a_lenient_server_warns_instead() {
    let settings = Settings { lenient: true, ..Settings::default() };
    let state = state(settings, crate::harness::engine(4, crate::harness::say("ok")));
    for stream in [false, true] {
        let body = json!({
            "messages": [{"role": "user", "content": "a", "mood": 1}], "temprature": 1, "ev\"il\n": 2, "stream": stream,
        });
        let answer = post(&state, CHAT, &body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let warning = answer.headers["warning"].to_str().unwrap();
        assert_eq!(warning, "299 hesper \"unknown fields ignored: messages[0].mood, ev?il?, temprature\"");
    }
    let wrong = post(&state, CHAT, &json!({"messages": [{"role": "user", "content": "a"}], "temperature": 9})).await;
    assert_eq!(wrong.status, 400, "a wrong value of a known field is still refused");
}
