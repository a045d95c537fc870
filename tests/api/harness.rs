//! A server over a scripted engine: a thread that takes requests from the queue and answers as a test tells it.

use axum::{
    body::Body,
    http::{HeaderMap, Method, Request as HttpRequest, StatusCode},
};
use hesper::{
    api::{Settings, State, router},
    engine::{
        queue::{Handle, queue},
        request::{DeviceLabel, Event, FinishReason, Logprobs, Request, ServedModel, Token},
    },
    gguf::Gguf,
    text::Text,
};
use serde_json::Value;
use std::{path::Path, sync::LazyLock, thread, time::Duration};
use tower::ServiceExt;

pub const MODEL: &str = "demo";
pub const CONTEXT: u32 = 512;

/// Nothing here takes long; what takes this long hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

static TEXT: LazyLock<Text> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/hesper-demo-Q8_0.gguf");
    let gguf = Gguf::open(path).expect("the demo model opens");
    Text::from_gguf(&gguf).expect("the demo model has a tokenizer")
});

/// The demo model's tokenizer and chat template.
pub fn text() -> Text {
    TEXT.clone()
}

pub fn served_model() -> ServedModel {
    ServedModel {
        id: MODEL.into(),
        created_s: 1_700_000_000,
        context_tokens: CONTEXT,
        vocabulary: text().vocabulary_size() as u32,
        device: DeviceLabel { name: "Scripted".into(), driver: "test".into(), software: true },
    }
}

/// An engine thread that hands each request to `script`. It ends when the last handle is gone.
pub fn engine(capacity: usize, mut script: impl FnMut(Request) + Send + 'static) -> Handle {
    let (handle, mut inbox) = queue(capacity);
    thread::spawn(move || {
        while let Some(request) = inbox.wait() {
            if request.events.is_closed() {
                inbox.dropped();
                continue;
            }
            inbox.started();
            script(request);
            inbox.finished();
        }
    });
    handle
}

/// A script that answers every choice of every request with `answer`, token by token.
pub fn say(answer: &str) -> impl FnMut(Request) + Send + 'static {
    let tokens = text().encode(answer, true);
    move |request| {
        speak(&request, &tokens, 3);
    }
}

/// Sends `tokens` as every choice's answer, cut at the request's `max_tokens`.
pub fn speak(request: &Request, tokens: &[u32], cached_tokens: u32) {
    // A client that is gone is no concern of the script's.
    let send = |event| drop(request.events.send(event));
    send(Event::Started { cached_tokens });
    let end = tokens.iter().position(|id| request.stop_tokens.contains(id)).unwrap_or(tokens.len());
    let sent = &tokens[..end.min(request.max_tokens as usize)];
    for &id in sent {
        for choice in 0..request.choices {
            send(Event::Token { choice, token: token(request, id) });
        }
    }
    let reason = if sent.len() == end { FinishReason::Stop } else { FinishReason::Length };
    for choice in 0..request.choices {
        send(Event::Finished { choice, reason });
    }
}

/// A token with made-up log-probabilities if the request asks for them.
pub fn token(request: &Request, id: u32) -> Token {
    let top = |count: u8| (0..u32::from(count)).map(|place| (id + place, -0.5 - place as f32)).collect();
    Token { id, logprobs: request.logprobs.map(|count| Logprobs { chosen: -0.5, top: top(count) }) }
}

/// A server that is ready, over `engine`.
pub fn state(settings: Settings, engine: Handle) -> State {
    let state = State::new(settings);
    state.ready(engine, text(), served_model());
    state
}

pub fn saying(answer: &str) -> State {
    state(Settings::default(), engine(8, say(answer)))
}

/// An answer as a client sees it.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }

    /// The data of a stream's events. The last must be `[DONE]`, which is left out.
    pub fn chunks(&self) -> Vec<Value> {
        let mut data = self.events();
        assert_eq!(data.pop().as_deref(), Some("[DONE]"), "{}", self.body);
        data.iter().map(|data| serde_json::from_str(data).expect("a chunk is JSON")).collect()
    }

    pub fn events(&self) -> Vec<String> {
        assert_eq!(self.headers["content-type"], "text/event-stream");
        let event = |event: &str| event.strip_prefix("data: ").map(str::to_owned);
        self.body.split_terminator("\n\n").filter_map(event).collect()
    }

    /// The names and data of a stream whose events have names.
    pub fn named_events(&self) -> Vec<(String, Value)> {
        assert_eq!(self.headers["content-type"], "text/event-stream");
        let event = |event: &str| {
            let (name, data) = event.strip_prefix("event: ")?.split_once("\ndata: ")?;
            Some((name.to_owned(), serde_json::from_str(data).expect("an event's data is JSON")))
        };
        self.body.split_terminator("\n\n").filter_map(event).collect()
    }

    /// Checks the error object's shape; answers its `param`.
    pub fn error_param(&self) -> Option<String> {
        let body = self.json();
        let object = body.as_object().expect("an object");
        assert_eq!(object.keys().collect::<Vec<_>>(), ["error"]);
        let error = object["error"].as_object().expect("an error object");
        assert_eq!(error.keys().collect::<Vec<_>>(), ["message", "type", "param", "code"]);
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{error:?}");
        assert!(error["type"].is_string() && (error["code"].is_string() || error["code"].is_null()), "{error:?}");
        error["param"].as_str().map(str::to_owned)
    }
}

/// Sends one request through the router.
pub async fn send(state: &State, request: HttpRequest<Body>) -> Answer {
    let answer = async {
        let response = router(state.clone()).oneshot(request).await.expect("the router cannot fail");
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 64 << 20).await.expect("the body can be read");
        let body = String::from_utf8(bytes.to_vec()).expect("the body is UTF-8");
        Answer { status: parts.status, headers: parts.headers, body }
    };
    tokio::time::timeout(PATIENCE, answer).await.expect("the server answers in time")
}

pub async fn get(state: &State, path: &str) -> Answer {
    send(state, HttpRequest::get(path).body(Body::empty()).unwrap()).await
}

/// Posts bytes as JSON.
pub async fn post_bytes(state: &State, path: &str, body: impl Into<Body>) -> Answer {
    let request = HttpRequest::builder().method(Method::POST).uri(path).header("content-type", "application/json");
    send(state, request.body(body.into()).unwrap()).await
}

pub async fn post(state: &State, path: &str, body: &Value) -> Answer {
    post_bytes(state, path, body.to_string()).await
}

pub const CHAT: &str = "/v1/chat/completions";
pub const COMPLETIONS: &str = "/v1/completions";

/// Replaces what differs from run to run: ids, times and the fingerprint.
pub fn redact(mut value: Value) -> Value {
    fn walk(value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (key, value) in map.iter_mut() {
                    match key.as_str() {
                        "id" | "item_id" | "call_id" if value.is_string() => {
                            let text = value.as_str().unwrap_or_default();
                            let end = text.find(['-', '_']).map_or(0, |end| end + 1);
                            *value = format!("{}[id]", &text[..end]).into();
                        }
                        "created" | "created_at" => *value = "[time]".into(),
                        "completed_at" if value.is_number() => *value = "[time]".into(),
                        "system_fingerprint" => {
                            assert!(value.as_str().is_some_and(|text| text.starts_with("fp_")));
                            *value = "[fingerprint]".into();
                        }
                        _ => walk(value),
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(walk),
            _ => {}
        }
    }
    walk(&mut value);
    value
}
