//! One request: what is counted, and which failure is which.

use crate::server::{Reply, Server, content, done, error, finish, good_stream, http, is_probe, stream, usage, whole};
use hesper::load::client::{ClientError, FailureKind, Outcome};
use hesper::load::sse::LINE_BYTES_MAX;
use hesper::load::{Client, Settings};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Nothing here takes long but what is made to.
const PATIENCE: Duration = Duration::from_secs(60);

fn messages() -> Value {
    json!([{"role": "user", "content": "Hello"}])
}

fn settings(url: String) -> Settings {
    let model = Some("demo".to_owned());
    Settings { url, model, api_key: None, max_tokens: 8, stream: true, timeout: PATIENCE }
}

/// What one request to a server gives that answers the first one well and then with `reply`.
async fn ask(reply: impl Fn() -> Reply + Send + Sync + 'static) -> Outcome {
    ask_with(PATIENCE, reply).await
}

async fn ask_with(timeout: Duration, reply: impl Fn() -> Reply + Send + Sync + 'static) -> Outcome {
    let script = move |body: &Value| if is_probe(body) { Reply::Bytes(good_stream()) } else { reply() };
    let server = Server::start(1, script).await;
    let client = Client::connect(settings(server.url()), &messages()).await.unwrap();
    // The first request had all the time it needs; this one has less, where a test wants it to run out.
    let client = match timeout == PATIENCE {
        true => client,
        false => Client::connect(Settings { timeout, ..settings(server.url()) }, &messages()).await.unwrap(),
    };
    client.ask(&messages()).await
}

async fn failure(bytes: Vec<u8>) -> (FailureKind, String) {
    let failure = ask(move || Reply::Bytes(bytes.clone())).await.unwrap_err();
    (failure.kind, failure.detail)
}

#[tokio::test]
async fn a_stream_is_counted_by_the_servers_usage() {
    let sample = ask(|| Reply::Bytes(good_stream())).await.unwrap();
    assert_eq!((sample.prompt_tokens, sample.output_tokens, sample.from_usage), (Some(4), Some(6), true));
    assert_eq!((sample.chunks, sample.gaps.len()), (3, 2));
    let first = sample.first_token.unwrap();
    assert!(first + sample.gaps.iter().sum::<Duration>() <= sample.latency, "{sample:?}");
}

#[tokio::test]
async fn without_usage_chunks_with_content_are_counted() {
    let role = json!({"choices": [{"delta": {"role": "assistant", "content": ""}}]}).to_string();
    let bytes = stream(&[role, content("a"), content("b"), finish(), done()]);
    let sample = ask(move || Reply::Bytes(bytes.clone())).await.unwrap();
    assert_eq!((sample.prompt_tokens, sample.output_tokens, sample.from_usage), (None, Some(2), false));
}

#[tokio::test]
async fn requests_say_what_is_wanted_and_bring_the_key() {
    let server = Server::start(1, |_| Reply::Bytes(good_stream())).await;
    let settings = Settings { api_key: Some("secret".to_owned()), ..settings(server.url()) };
    let client = Client::connect(settings, &messages()).await.unwrap();
    client.ask(&messages()).await.unwrap();
    let wanted = json!({
        "model": "demo", "messages": messages(), "max_tokens": 8, "temperature": 0, "stream": true,
        "stream_options": {"include_usage": true},
    });
    assert_eq!(server.asked.bodies.lock().unwrap()[1], wanted);
    let head = server.asked.heads.lock().unwrap()[1].clone();
    assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1"), "{head}");
    assert!(head.to_lowercase().contains("authorization: bearer secret"), "{head}");
}

#[tokio::test]
async fn a_server_that_refuses_stream_options_is_asked_without() {
    for status in ["400 Bad Request", "422 Unprocessable Entity"] {
        let server = Server::start(1, move |body| match body.get("stream_options") {
            Some(_) => Reply::Bytes(error(status, "unknown field stream_options")),
            None => Reply::Bytes(stream(&[content("a"), finish(), done()])),
        })
        .await;
        let client = Client::connect(settings(server.url()), &messages()).await.unwrap();
        assert!(client.refuses_usage());
        let sample = client.ask(&messages()).await.unwrap();
        assert_eq!((sample.output_tokens, sample.from_usage), (Some(1), false));
        assert_eq!(server.asked.count(), 3);
    }
}

#[tokio::test]
async fn a_stream_is_whole_with_a_reason_to_finish_or_the_mark_of_its_end() {
    for events in [vec![content("a"), finish()], vec![content("a"), done()], vec![done()]] {
        let bytes = stream(&events);
        ask(move || Reply::Bytes(bytes.clone())).await.unwrap();
    }
}

#[tokio::test]
async fn truncated_answers() {
    let (kind, detail) = failure(stream(&[content("a"), content("b")])).await;
    assert_eq!(kind, FailureKind::Truncated);
    assert!(detail.contains("after 2 chunks"), "{detail}");
    assert_eq!(failure(stream(&[])).await.0, FailureKind::Truncated);
    // The connection ends before the length that was promised, and before the last chunk of the transfer.
    let good = good_stream();
    assert_eq!(failure(good[..good.len() - 5].to_vec()).await.0, FailureKind::Truncated);
    let event = format!("data: {}\n\n", content("a"));
    let chunked = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{event}\r\n", event.len());
    assert_eq!(failure(chunked.into_bytes()).await.0, FailureKind::Truncated);
}

#[tokio::test]
async fn statuses_are_told_with_the_servers_words() {
    let (kind, detail) = failure(error("429 Too Many Requests", "the queue is full")).await;
    assert_eq!((kind, detail.as_str()), (FailureKind::Status(429), "the queue is full"));
    let (kind, detail) = failure(http("502 Bad Gateway", "text/html", b"<html>bad\ngateway")).await;
    assert_eq!((kind, detail.as_str()), (FailureKind::Status(502), "<html>bad gateway"));
    // A redirect is not followed: another server would be measured.
    let moved = b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /v2\r\ncontent-length: 0\r\n\r\n".to_vec();
    assert_eq!(failure(moved).await.0, FailureKind::Status(307));
}

#[tokio::test]
async fn answers_that_are_none() {
    let event = |bytes: &[u8]| http("200 OK", "text/event-stream", &[b"data: ", bytes, b"\n\n"].concat());
    let long = vec![b'x'; LINE_BYTES_MAX + 1];
    for (bytes, part) in [
        (event(b"{"), "not JSON"),
        (event(b"[]"), "not a JSON object"),
        (event(b"{}"), "`choices`"),
        (event(b"\xff"), "not UTF-8"),
        (event(&long), "a line of the event stream"),
        (whole(&json!({"choices": [{"message": {"content": "in one piece"}}]})), "neither a finish_reason nor [DONE]"),
        (stream(&[done(), content("a")]), "behind [DONE]"),
        (stream(&[content("a"), json!({"choices": [], "usage": {}}).to_string(), done()]), "`usage`"),
    ] {
        let (kind, detail) = failure(bytes).await;
        assert!(kind == FailureKind::Garbage && detail.contains(part), "{part}: {kind:?} {detail}");
    }
    let said = json!({"error": {"message": "out of memory"}}).to_string();
    let (kind, detail) = failure(stream(&[content("a"), said])).await;
    assert_eq!((kind, detail.as_str()), (FailureKind::Reported, "out of memory"));
}

#[tokio::test]
async fn connections_that_fail() {
    assert_eq!(failure(Vec::new()).await.0, FailureKind::Lost);
    let server = Server::start(1, |_| Reply::Bytes(good_stream())).await;
    let url = server.url();
    let client = Client::connect(settings(url.clone()), &messages()).await.unwrap();
    server.end().await;
    assert_eq!(client.ask(&messages()).await.unwrap_err().kind, FailureKind::Refused);
    let error = Client::connect(settings(url), &messages()).await.unwrap_err().to_string();
    assert!(error.contains("a first request failed: connection refused"), "{error}");
}

#[tokio::test]
async fn a_request_that_is_lost_is_sent_once_more() {
    let lost = AtomicUsize::new(0);
    let sample = ask(move || match lost.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::Bytes(Vec::new()),
        _ => Reply::Bytes(good_stream()),
    })
    .await
    .unwrap();
    assert!(sample.sent_again && sample.output_tokens == Some(6), "{sample:?}");
    let server = Server::start(1, |body| Reply::Bytes(if is_probe(body) { good_stream() } else { Vec::new() })).await;
    let client = Client::connect(settings(server.url()), &messages()).await.unwrap();
    assert_eq!(client.ask(&messages()).await.unwrap_err().kind, FailureKind::Lost);
    assert_eq!(server.asked.count(), 3);
    // What was answered in part is not asked again.
    assert!(!ask(|| Reply::Bytes(good_stream())).await.unwrap().sent_again);
    let server = Server::start(1, |body| {
        Reply::Bytes(if is_probe(body) { good_stream() } else { good_stream()[..200].to_vec() })
    })
    .await;
    let client = Client::connect(settings(server.url()), &messages()).await.unwrap();
    assert_eq!(client.ask(&messages()).await.unwrap_err().kind, FailureKind::Truncated);
    assert_eq!(server.asked.count(), 2);
}

#[tokio::test]
async fn a_server_that_stalls_runs_into_the_time_limit() {
    let patience = Duration::from_secs(3);
    let head_only = ask_with(patience, || Reply::Stall(Vec::new())).await.unwrap_err();
    assert_eq!((head_only.kind, head_only.detail.as_str()), (FailureKind::Timeout, "no end after 3 s"));
    let half = ask_with(patience, || Reply::Stall(good_stream()[..200].to_vec())).await.unwrap_err();
    assert_eq!(half.kind, FailureKind::Timeout);
}

#[tokio::test]
async fn answers_in_one_piece() {
    for (usage, tokens) in [(json!({"prompt_tokens": 1, "completion_tokens": 7}), Some(7)), (Value::Null, None)] {
        let answer = json!({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}], "usage": usage});
        let server = Server::start(1, move |_| Reply::Bytes(whole(&answer))).await;
        let client = Client::connect(Settings { stream: false, ..settings(server.url()) }, &messages()).await.unwrap();
        let sample = client.ask(&messages()).await.unwrap();
        assert_eq!((sample.output_tokens, sample.first_token, sample.gaps.len()), (tokens, None, 0));
        let body = server.asked.bodies.lock().unwrap()[1].clone();
        assert!(body["stream"] == false && body.get("stream_options").is_none(), "{body}");
        assert!(!client.refuses_usage());
    }
}

#[tokio::test]
async fn the_model_is_the_first_that_is_listed() {
    let script = |models: Value| {
        move |body: &Value| {
            Reply::Bytes(if body.is_null() { whole(&models) } else { stream(&[content("a"), usage(1, 1), done()]) })
        }
    };
    let unnamed = |server: &Server| Settings { model: None, ..settings(server.url()) };
    let server = Server::start(1, script(json!({"data": [{"id": "one"}, {"id": "two"}]}))).await;
    let client = Client::connect(unnamed(&server), &messages()).await.unwrap();
    assert_eq!(client.model(), "one");
    assert_eq!(server.asked.bodies.lock().unwrap()[1]["model"], "one");
    let server = Server::start(1, script(json!({"data": []}))).await;
    let error = Client::connect(unnamed(&server), &messages()).await.unwrap_err();
    assert!(matches!(error, ClientError::NoModel { .. }), "{error}");
    let server = Server::start(1, |_| Reply::Bytes(error_404())).await;
    let error = Client::connect(unnamed(&server), &messages()).await.unwrap_err().to_string();
    assert!(error.contains("/v1/models: status 404: no such page"), "{error}");
}

fn error_404() -> Vec<u8> {
    error("404 Not Found", "no such page")
}
