//! Several models behind one server: loaded when asked for, unloaded for each other and for idleness, over a loader that
//! makes scripted engines.

use crate::harness::{COMPLETIONS, CONTEXT, PATIENCE, engine, get, post, say, served_model, text};
use hesper::{
    api::{
        Settings, State, loading,
        registry::{Entry, LoadError, Loaded, Loader, Progress},
    },
    engine::request::{DeviceLabel, ServedModel},
};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

const BUDGET: u64 = 100;

/// Models by name: `small…` needs 40 bytes, `large` 70, `huge` more than there is; `broken` has a bad file.
#[derive(Debug, Default)]
struct Scripted {
    /// Names in the order in which they were loaded.
    loads: Mutex<Vec<String>>,
    /// While set, loading waits, and looks whether it is cancelled.
    held: AtomicBool,
}

impl Loader for Scripted {
    fn budget_bytes(&self) -> u64 {
        BUDGET
    }

    fn device(&self) -> DeviceLabel {
        served_model().device
    }

    fn need_bytes(&self, id: &str) -> Result<u64, LoadError> {
        match id {
            "broken" => Err(LoadError::File("broken.gguf: not a GGUF file".into())),
            "huge" => Ok(BUDGET + 1),
            "large" => Ok(70),
            _ => Ok(40),
        }
    }

    fn load(&self, id: &str, progress: &Arc<Progress>) -> Result<Loaded, LoadError> {
        progress.phase("loading weights", 1000);
        progress.add(250);
        while self.held.load(Ordering::Acquire) {
            if progress.is_cancelled() {
                return Err(LoadError::Cancelled);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!id.starts_with("panics"), "a loader's defect");
        self.loads.lock().unwrap().push(id.to_owned());
        let (sender, ended) = oneshot::channel::<()>();
        let mut script = say(id);
        // The engine's thread drops its script when its last handle is gone.
        let handle = engine(8, move |request| {
            let _ends_with_the_thread = &sender;
            script(request);
        });
        Ok(Loaded { engine: handle, text: text(), model: ServedModel { id: id.into(), ..served_model() }, ended })
    }
}

fn entry(id: &str) -> Entry {
    Entry { id: id.into(), aliases: Vec::new(), created_s: 1_700_000_000, keep_alive: None, pinned: false }
}

fn server_of(entries: Vec<Entry>, settings: Settings) -> (State, Arc<Scripted>) {
    let loader = Arc::new(Scripted::default());
    (State::with_models(settings, entries, loader.clone()), loader)
}

fn server(ids: &[&str]) -> (State, Arc<Scripted>) {
    server_of(ids.iter().map(|id| entry(id)).collect(), Settings::default())
}

async fn ask(state: &State, model: &str) -> (u16, Value) {
    let answer = post(state, COMPLETIONS, &json!({"model": model, "prompt": "One"})).await;
    (answer.status.as_u16(), answer.json())
}

async fn status(state: &State, id: &str) -> String {
    let answer = get(state, &format!("/v1/models/{id}")).await.json();
    answer["status"]["value"].as_str().expect("a status").to_owned()
}

async fn until(condition: impl AsyncFn() -> bool) {
    let begin = Instant::now();
    while !condition().await {
        assert!(begin.elapsed() < PATIENCE, "it never happens");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn loads(loader: &Scripted) -> Vec<String> {
    loader.loads.lock().unwrap().clone()
}

#[tokio::test]
async fn a_model_is_loaded_by_its_first_request_and_answers_by_its_own_name() {
    let mut entries = vec![entry("small"), entry("small-b")];
    entries[1].aliases.push("other".into());
    let (state, loader) = server_of(entries, Settings::default());
    assert_eq!(get(&state, "/health").await.json()["status"], "ok");
    assert_eq!((status(&state, "small").await.as_str(), loads(&loader).len()), ("unloaded", 0));
    let (code, answer) = ask(&state, "small").await;
    assert_eq!((code, &answer["model"], &answer["choices"][0]["text"]), (200, &json!("small"), &json!("small")));
    let (code, answer) = ask(&state, "other").await;
    assert_eq!((code, &answer["model"]), (200, &json!("small-b")));
    ask(&state, "small").await;
    assert_eq!(loads(&loader), ["small", "small-b"]);
    let list = get(&state, "/v1/models").await.json();
    let words: Vec<&Value> = list["data"].as_array().unwrap().iter().map(|model| &model["status"]["value"]).collect();
    assert_eq!(words, ["loaded", "loaded"]);
    assert_eq!(list["data"][1]["aliases"], json!(["other"]));
    assert_eq!(list["data"][0]["context_length"], CONTEXT);
    // With more than one, a request has to say which.
    let unnamed = post(&state, COMPLETIONS, &json!({"prompt": "One"})).await;
    assert_eq!((unnamed.status.as_u16(), unnamed.error_param().as_deref()), (400, Some("model")));
    let (code, answer) = ask(&state, "nobody").await;
    assert_eq!((code, &answer["error"]["code"]), (404, &json!("model_not_found")));
}

#[tokio::test]
async fn the_least_recently_used_goes_and_comes_back() {
    let (state, loader) = server(&["small-a", "small-b", "small-c"]);
    for id in ["small-a", "small-b", "small-a", "small-c"] {
        assert_eq!(ask(&state, id).await.0, 200, "{id}");
    }
    assert_eq!(status(&state, "small-b").await, "unloaded");
    assert_eq!((status(&state, "small-a").await, status(&state, "small-c").await), ("loaded".into(), "loaded".into()));
    assert_eq!(ask(&state, "small-b").await.0, 200);
    assert_eq!(loads(&loader), ["small-a", "small-b", "small-c", "small-b"]);
}

#[tokio::test]
async fn a_model_in_use_is_never_evicted() {
    let settings = Settings { room_limit: Duration::from_millis(60), ..Settings::default() };
    let (state, _) = server_of(vec![entry("small"), entry("large")], settings);
    assert_eq!(ask(&state, "small").await.0, 200);
    let held = state.services();
    let (code, answer) = ask(&state, "large").await;
    assert_eq!((code, &answer["error"]["code"]), (503, &json!("models_busy")));
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("70 bytes") && message.contains("100") && message.contains("small"), "{message}");
    let refused = post(&state, "/v1/models/unload", &json!({"model": "small"})).await;
    assert_eq!((refused.status.as_u16(), refused.json()["error"]["code"].as_str()), (409, Some("model_in_use")));
    drop(held);
    assert_eq!(ask(&state, "large").await.0, 200);
    assert_eq!(status(&state, "small").await, "unloaded");
}

#[tokio::test]
async fn what_does_not_fit_is_507_with_figures_and_the_others_go_on() {
    let mut entries = vec![entry("small"), entry("huge"), entry("broken"), entry("large"), entry("panics")];
    entries[0].pinned = true;
    let (state, _) = server_of(entries, Settings::default());
    let tending = tokio::spawn(loading::tend(state.clone()));
    until(async || get(&state, "/health").await.status == 200).await;
    // Too large for the device, and too large beside what is pinned.
    for (id, figures) in [("huge", ["101", "100"]), ("large", ["70", "100"])] {
        let (code, answer) = ask(&state, id).await;
        assert_eq!((code, &answer["error"]["code"]), (507, &json!("insufficient_memory")), "{answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(figures.iter().all(|figure| message.contains(figure)), "{message}");
        assert!(message.contains("\"small\" (40 bytes, pinned)"), "{message}");
    }
    let (code, answer) = ask(&state, "broken").await;
    assert_eq!((code, &answer["error"]["code"]), (500, &json!("model_unusable")));
    assert!(answer["error"]["message"].as_str().unwrap().contains("not a GGUF file"));
    assert_eq!(status(&state, "broken").await, "failed");
    assert_eq!(ask(&state, "panics").await.0, 503);
    assert_eq!(ask(&state, "small").await.0, 200);
    tending.abort();
}

#[tokio::test]
async fn idle_models_are_unloaded_and_pinned_ones_stay() {
    let mut entries = vec![entry("small-a"), entry("small-b")];
    entries[0].keep_alive = Some(Duration::from_millis(1));
    entries[1].keep_alive = Some(Duration::from_millis(1));
    entries[1].pinned = true;
    let (state, loader) = server_of(entries, Settings::default());
    loader.held.store(true, Ordering::Release);
    let tending = tokio::spawn(loading::tend(state.clone()));
    // What is pinned is loaded at start, and requests are told so meanwhile.
    until(async || get(&state, "/health").await.json()["progress"]["done_bytes"] == 250).await;
    let health = get(&state, "/health").await;
    assert_eq!((health.status.as_u16(), &health.json()["status"]), (503, &json!("loading")));
    let progress = json!({"phase": "loading weights", "done_bytes": 250, "total_bytes": 1000});
    assert_eq!(health.json()["progress"], progress);
    assert_eq!(ask(&state, "small-b").await.0, 503);
    loader.held.store(false, Ordering::Release);
    until(async || get(&state, "/health").await.status == 200).await;
    assert_eq!(ask(&state, "small-a").await.0, 200);
    until(async || status(&state, "small-a").await == "unloaded").await;
    assert_eq!(status(&state, "small-b").await, "loaded");
    tending.abort();
}

#[tokio::test]
async fn models_are_loaded_and_unloaded_by_request_and_a_load_can_be_cancelled() {
    let (state, loader) = server(&["small", "other"]);
    let change = async |verb: &str, body: Value| {
        let answer = post(&state, &format!("/v1/models/{verb}"), &body).await;
        (answer.status.as_u16(), answer.json())
    };
    let (code, answer) = change("load", json!({"model": "small"})).await;
    assert_eq!((code, &answer["status"]["value"]), (200, &json!("loaded")));
    let (code, answer) = change("unload", json!({"model": "small"})).await;
    assert_eq!((code, &answer["status"]["value"]), (200, &json!("unloaded")));
    for (body, code, param) in [
        (json!({}), 400, Some("model")),
        (json!({"model": "small", "now": true}), 400, Some("now")),
        (json!({"model": "nobody"}), 404, Some("model")),
    ] {
        for verb in ["load", "unload"] {
            let answer = post(&state, &format!("/v1/models/{verb}"), &body).await;
            assert_eq!((answer.status.as_u16(), answer.error_param().as_deref()), (code, param), "{verb} {body}");
        }
    }
    loader.held.store(true, Ordering::Release);
    let asking = tokio::spawn({
        let state = state.clone();
        async move { ask(&state, "small").await }
    });
    until(async || status(&state, "small").await == "loading").await;
    assert_eq!(change("unload", json!({"model": "small"})).await.0, 200);
    let (code, answer) = asking.await.unwrap();
    assert_eq!((code, &answer["error"]["code"]), (503, &json!("load_cancelled")));
    loader.held.store(false, Ordering::Release);
    assert_eq!(ask(&state, "small").await.0, 200);
}

#[tokio::test]
async fn waiting_for_a_load_is_bounded_in_time_and_number() {
    let settings = Settings { load_limit: Duration::from_millis(300), load_waiters: 2, ..Settings::default() };
    let (state, loader) = server_of(vec![entry("small"), entry("other")], settings);
    loader.held.store(true, Ordering::Release);
    let asking: Vec<_> = (0..5)
        .map(|_| {
            let state = state.clone();
            tokio::spawn(async move { ask(&state, "small").await.0 })
        })
        .collect();
    let mut codes = Vec::new();
    for task in asking {
        codes.push(task.await.unwrap());
    }
    codes.sort_unstable();
    assert_eq!(codes, [429, 429, 429, 503, 503]);
    // The load belongs to no request: it goes on.
    loader.held.store(false, Ordering::Release);
    until(async || status(&state, "small").await == "loaded").await;
    assert_eq!((ask(&state, "small").await.0, loads(&loader).len()), (200, 1));
}

#[tokio::test]
async fn a_server_that_ends_takes_no_load() {
    let (state, loader) = server(&["small", "other"]);
    assert_eq!(ask(&state, "small").await.0, 200);
    state.registry().drain();
    for id in ["small", "other"] {
        let (code, answer) = ask(&state, id).await;
        assert_eq!((code, &answer["error"]["code"]), (503, &json!("shutting_down")), "{id}");
    }
    assert_eq!(get(&state, "/health").await.json()["status"], "draining");
    assert_eq!(loads(&loader), ["small"]);
}
