//! `GET /metrics`: what it shows while a model loads, while requests wait, and after each way that one may end.

use crate::harness::{COMPLETIONS, PATIENCE, engine, get, post, say, served_model, state, text};
use hesper::{
    api::{Settings, State},
    engine::{
        queue::queue,
        request::{DeviceLabel, Event, Request, ServedModel},
    },
};
use serde_json::json;
use std::{collections::BTreeMap, sync::mpsc, time::Duration};

/// The samples of a page by name and labels. Every family must be announced once, before its samples.
fn samples(page: &str) -> BTreeMap<String, u64> {
    let mut kinds = BTreeMap::new();
    let mut samples = BTreeMap::new();
    let mut helped = "";
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            helped = help.split_once(' ').expect("a help text").0;
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a type");
            assert_eq!(name, helped);
            assert!(name.starts_with("hesper_"), "{name}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let name = series.split('{').next().unwrap();
            assert!(kinds.contains_key(name), "{line} is not announced");
            assert!(samples.insert(series.to_owned(), value.parse().expect("a number")).is_none(), "{line} twice");
        }
    }
    samples
}

async fn metrics(state: &State) -> BTreeMap<String, u64> {
    let answer = get(state, "/metrics").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert!(answer.body.ends_with('\n'));
    samples(&answer.body)
}

async fn finished(state: &State) -> [u64; 4] {
    let samples = metrics(state).await;
    ["completed", "cancelled", "failed", "refused"]
        .map(|outcome| samples[&format!("hesper_requests_finished_total{{outcome=\"{outcome}\"}}")])
}

#[tokio::test]
async fn a_loading_server_says_that_it_is_not_ready() {
    let state = State::new(Settings { api_keys: vec!["secret".into()], ..Settings::default() });
    let loading = metrics(&state).await;
    assert_eq!(loading["hesper_ready"], 0);
    assert_eq!(loading[concat!("hesper_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}")], 1);
    assert_eq!(loading.len(), 2);

    let (handle, inbox) = queue(3);
    let device = DeviceLabel { name: "A \"GPU\" \\ of\ntwo lines".into(), driver: "test".into(), software: false };
    state.ready(handle, text(), ServedModel { device, ..served_model() });
    let ready = metrics(&state).await;
    assert_eq!(ready["hesper_ready"], 1);
    assert_eq!(ready["hesper_queue_capacity_requests"], 3);
    assert_eq!(ready["hesper_context_capacity_tokens"], 512);
    assert_eq!(ready["hesper_model_info{model=\"demo\"}"], 1);
    let device = r#"hesper_device_info{device="A \"GPU\" \\ of\ntwo lines",driver="test",software="false"}"#;
    assert_eq!(ready[device], 1);
    drop(inbox);
    assert_eq!(metrics(&state).await["hesper_ready"], 0);
}

#[tokio::test]
async fn requests_are_counted_where_they_are_and_how_they_end() {
    let (release, blocked) = mpsc::channel::<()>();
    let mut say = say("ok");
    let handle = engine(1, move |request| {
        blocked.recv().unwrap();
        say(request);
    });
    let state = state(Settings::default(), handle.clone());
    let ask = || {
        let state = state.clone();
        tokio::spawn(async move { post(&state, COMPLETIONS, &json!({"prompt": "One"})).await.status.as_u16() })
    };
    let until = async |holds: &dyn Fn() -> bool| {
        let wait = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("it happens in time");
    };
    let first = ask();
    until(&|| handle.running() == 1).await;
    let second = ask();
    until(&|| handle.waiting() == 1).await;
    let busy = metrics(&state).await;
    assert_eq!((busy["hesper_requests_running"], busy["hesper_requests_waiting"]), (1, 1));
    assert_eq!(ask().await.unwrap(), 429);
    assert_eq!(finished(&state).await, [0, 0, 0, 1]);

    // The second's client goes away while it waits.
    second.abort();
    assert!(second.await.unwrap_err().is_cancelled());
    assert_eq!(finished(&state).await, [0, 1, 0, 1]);
    release.send(()).unwrap();
    assert_eq!(first.await.unwrap(), 200);
    assert_eq!(finished(&state).await, [1, 1, 0, 1]);

    // One request of two prompts; the second waits for its place, which is no refusal.
    until(&|| handle.waiting() == 0).await;
    release.send(()).unwrap();
    release.send(()).unwrap();
    let two = json!({"prompt": ["One", "Two"]});
    assert_eq!(post(&state, COMPLETIONS, &two).await.status, 200);
    assert_eq!(finished(&state).await, [3, 1, 0, 1]);
}

#[tokio::test]
async fn an_engine_that_fails_is_counted() {
    let fail = |request: Request| request.events.send(Event::Failed("device lost".into())).unwrap();
    let failing = state(Settings::default(), engine(1, fail));
    assert_eq!(post(&failing, COMPLETIONS, &json!({"prompt": "One"})).await.status, 503);
    assert_eq!(finished(&failing).await, [0, 0, 1, 0]);
}
