//! Keys, sizes, the queue, loading and shutting down, and an engine that fails.

use crate::harness::{
    Answer, CHAT, COMPLETIONS, PATIENCE, engine, get, post, post_bytes, say, saying, send, served_model, state, text,
    token,
};
use axum::{body::Body, http::Request as HttpRequest};
use hesper::{
    api::{Settings, State},
    engine::{
        queue::queue,
        request::{Event, Request},
    },
};
use serde_json::{Value, json};
use std::{sync::mpsc, time::Duration};

fn prompt() -> Value {
    json!({"prompt": "One", "max_tokens": 5})
}

#[tokio::test]
async fn a_full_queue_is_429_with_retry_after() {
    let (release, blocked) = mpsc::channel::<()>();
    let (began, running) = mpsc::channel();
    let mut say = say("ok");
    let handle = engine(2, move |request| {
        // Only the first is waited for.
        let _ = began.send(());
        blocked.recv().unwrap();
        say(request);
    });
    let state = state(Settings::default(), handle.clone());
    let ask = |state: &State| {
        let state = state.clone();
        tokio::spawn(async move { post(&state, COMPLETIONS, &prompt()).await })
    };
    let first = ask(&state);
    tokio::task::spawn_blocking(move || running.recv_timeout(PATIENCE)).await.unwrap().unwrap();
    let waiting = [ask(&state), ask(&state)];
    while handle.waiting() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..3 {
        let refused = post(&state, COMPLETIONS, &prompt()).await;
        assert_eq!(refused.status, 429);
        assert_eq!(refused.headers["retry-after"], "1");
        refused.error_param();
        assert_eq!(refused.json()["error"]["type"], "rate_limit_error");
    }
    assert_eq!(get(&state, "/health").await.json()["queue"], json!({"waiting": 2, "running": 1}));
    for _ in 0..3 {
        release.send(()).unwrap();
    }
    assert_eq!(first.await.unwrap().status, 200);
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap().status, 200);
    }
    assert_eq!(handle.waiting(), 0);
}

#[tokio::test]
async fn a_device_that_is_started_again_is_503() {
    let (handle, mut inbox) = queue(1);
    let state = state(Settings::default(), handle);
    inbox.set_restarting(true);
    let health = get(&state, "/health").await;
    assert_eq!((health.status.as_u16(), health.json()["status"].as_str()), (503, Some("restarting")));
    let refused = post(&state, CHAT, &json!({"messages": [{"role": "user", "content": "hi"}]})).await;
    assert_eq!((refused.status.as_u16(), &refused.headers["retry-after"]), (503, &"5".parse().unwrap()));
    assert_eq!(refused.json()["error"]["code"], "device_lost");
    inbox.set_restarting(false);
    assert_eq!(get(&state, "/health").await.status, 200);
}

#[tokio::test]
async fn loading_stopped_and_draining_are_503() {
    let state = State::new(Settings::default());
    for path in ["/health", "/v1/models"] {
        assert_eq!(get(&state, path).await.status, 503, "{path}");
    }
    assert_eq!(get(&state, "/health").await.json(), json!({"status": "loading"}));
    let loading = post(&state, CHAT, &json!({})).await;
    assert_eq!((loading.status.as_u16(), &loading.headers["retry-after"]), (503, &"1".parse().unwrap()));
    loading.error_param();

    let (handle, inbox) = queue(1);
    state.ready(handle.clone(), text(), served_model());
    assert_eq!(get(&state, "/health").await.status, 200);
    handle.drain();
    assert_eq!(get(&state, "/health").await.json()["status"], "draining");
    let draining = post(&state, COMPLETIONS, &prompt()).await;
    assert_eq!((draining.status.as_u16(), draining.error_param()), (503, None));
    drop(inbox);
    let health = get(&state, "/health").await;
    assert_eq!((health.status.as_u16(), health.json()["status"].as_str()), (503, Some("stopped")));
    assert_eq!(post(&state, COMPLETIONS, &prompt()).await.status, 503);
}

#[tokio::test]
async fn keys_are_asked_for() {
    let settings = Settings { api_keys: vec!["first".into(), "second".into()], ..Settings::default() };
    let state = state(settings, engine(4, say("ok")));
    let ask = async |path: &str, header: Option<&str>| {
        let mut request = HttpRequest::get(path);
        if let Some(value) = header {
            request = request.header("authorization", value);
        }
        send(&state, request.body(Body::empty()).unwrap()).await
    };
    for header in [Some("Bearer first"), Some("bearer second")] {
        assert_eq!(ask("/v1/models", header).await.status, 200, "{header:?}");
    }
    for header in [None, Some("Bearer third"), Some("Bearer "), Some("Basic first"), Some("first"), Some("Bearer firs")]
    {
        for path in ["/v1/models", CHAT, "/nowhere"] {
            let answer = ask(path, header).await;
            assert_eq!((answer.status.as_u16(), answer.error_param()), (401, None), "{header:?}");
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
        }
    }
    for path in ["/health", "/metrics", "/version"] {
        assert_eq!(ask(path, None).await.status, 200);
    }
}

#[tokio::test]
async fn large_bodies_are_413() {
    let settings = Settings { body_limit_bytes: 1000, ..Settings::default() };
    let state = state(settings, engine(4, say("ok")));
    let large = format!("{{\"prompt\": \"{}\"}}", "a".repeat(1000));
    assert_eq!(post_bytes(&state, COMPLETIONS, large.clone()).await.error_param(), None);
    assert_eq!(post_bytes(&state, COMPLETIONS, large.clone()).await.status, 413);
    // A length that is not announced is found out while reading.
    let chunks = tokio_stream::iter([Ok::<_, std::io::Error>(large)]);
    assert_eq!(post_bytes(&state, COMPLETIONS, Body::from_stream(chunks)).await.status, 413);
    assert_eq!(post(&state, COMPLETIONS, &prompt()).await.status, 200);
}

#[tokio::test]
async fn a_body_that_never_comes_is_408() {
    let settings = Settings { read_limit: Duration::from_millis(50), ..Settings::default() };
    let state = state(settings, engine(4, say("ok")));
    let body = Body::from_stream(tokio_stream::pending::<Result<String, std::io::Error>>());
    let answer = post_bytes(&state, COMPLETIONS, body).await;
    assert_eq!((answer.status.as_u16(), answer.error_param()), (408, None));
}

/// An engine that sends one token and then what `end` does.
fn breaking(end: fn(&Request)) -> State {
    let script = move |request: Request| {
        request.events.send(Event::Started { cached_tokens: 0 }).unwrap();
        let id = text().encode("ok", true)[0];
        request.events.send(Event::Token { choice: 0, token: token(&request, id) }).unwrap();
        end(&request);
    };
    state(Settings::default(), engine(1, script))
}

fn last_event(answer: &Answer) -> Value {
    let events = answer.events();
    assert!(events.iter().all(|event| event != "[DONE]"), "{events:?}");
    serde_json::from_str(events.last().unwrap()).unwrap()
}

#[tokio::test]
async fn an_engine_that_fails_is_an_error_also_in_a_stream() {
    let fail: fn(&Request) = |request| request.events.send(Event::Failed("device lost".into())).unwrap();
    for end in [fail, |_| ()] {
        let whole = post(&breaking(end), COMPLETIONS, &prompt()).await;
        assert_eq!((whole.status.as_u16(), whole.error_param()), (503, None));
        for (path, body) in [
            (COMPLETIONS, json!({"prompt": "One", "stream": true})),
            (CHAT, json!({"messages": [{"role": "user", "content": "One"}], "stream": true})),
        ] {
            let streamed = post(&breaking(end), path, &body).await;
            assert_eq!(streamed.status, 200);
            assert_eq!(last_event(&streamed), whole.json());
        }
    }
    let failed = post(&breaking(fail), COMPLETIONS, &prompt()).await;
    assert!(failed.json()["error"]["message"].as_str().unwrap().contains("device lost"));
}

#[tokio::test]
async fn an_idle_stream_is_kept_alive() {
    let settings = Settings { keep_alive: Duration::from_millis(20), ..Settings::default() };
    let mut say = say("ok");
    let handle = engine(1, move |request| {
        std::thread::sleep(Duration::from_millis(200));
        say(request);
    });
    let answer = post(&state(settings, handle), COMPLETIONS, &json!({"prompt": "a", "stream": true})).await;
    assert!(answer.body.matches("\n:").count() + usize::from(answer.body.starts_with(':')) >= 2, "{:?}", answer.body);
    assert!(!answer.chunks().is_empty());
}

#[tokio::test]
async fn a_fingerprint_names_the_build_model_and_device() {
    let of = async |state: &State| post(state, COMPLETIONS, &prompt()).await.json()["system_fingerprint"].clone();
    let first = of(&saying("a")).await;
    assert_eq!(of(&saying("b")).await, first);
    let other = State::new(Settings::default());
    let model = hesper::engine::request::ServedModel { id: "other".into(), ..served_model() };
    other.ready(engine(1, say("a")), text(), model);
    assert_ne!(of(&other).await, first);
}
