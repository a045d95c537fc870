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

/// The samples of a page by name and labels, read strictly. Every family must be announced once, before its samples,
/// which stand together; a histogram's buckets grow and end at its count.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let mut kinds: BTreeMap<String, String> = BTreeMap::new();
    let mut samples = BTreeMap::new();
    let (mut helped, mut family) = ("", String::new());
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            helped = help.split_once(' ').expect("a help text").0;
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a type");
            assert_eq!(name, helped);
            assert!(name.starts_with("hesper_"), "{name}");
            assert!(matches!(kind, "gauge" | "counter" | "histogram"), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
            name.clone_into(&mut family);
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let name = series.split('{').next().unwrap();
            let rest = name.strip_prefix(&family).unwrap_or_else(|| panic!("{line} is not announced"));
            let histogram = kinds[&family] == "histogram";
            assert!(if histogram { matches!(rest, "_sum" | "_count" | "_bucket") } else { rest.is_empty() }, "{line}");
            assert!(samples.insert(series.to_owned(), value.parse().expect("a number")).is_none(), "{line} twice");
        }
    }
    buckets_add_up(page, &samples);
    samples
}

fn buckets_add_up(page: &str, samples: &BTreeMap<String, f64>) {
    let mut last: Option<(String, f64)> = None;
    for line in page.lines().filter(|line| line.contains("_bucket{")) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let count: f64 = value.parse().unwrap();
        let (name, labels) = series.split_once("_bucket{le=\"").expect("a bound");
        let (bound, labels) = labels.split_once("\",").expect("more labels");
        let total = format!("{name}_count{{{labels}");
        if let Some((same, below)) = &last {
            assert!(*same == total && *below <= count, "{line} is below the one before");
        }
        last = Some((total.clone(), count));
        if bound == "+Inf" {
            assert_eq!(samples.get(&total), Some(&count), "{total}");
            last = None;
        }
    }
    assert!(last.is_none(), "a histogram without +Inf");
}

async fn metrics(state: &State) -> BTreeMap<String, f64> {
    let answer = get(state, "/metrics").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert!(answer.body.ends_with('\n'));
    samples(&answer.body)
}

async fn finished(state: &State) -> [u64; 4] {
    let samples = metrics(state).await;
    ["completed", "cancelled", "failed", "refused"].map(|outcome| {
        samples[&format!("hesper_requests_finished_total{{outcome=\"{outcome}\",model=\"demo\"}}")] as u64
    })
}

/// The sample of the demo model.
fn demo(samples: &BTreeMap<String, f64>, name: &str) -> f64 {
    let series = format!("{name}{{model=\"demo\"}}");
    *samples.get(&series).unwrap_or_else(|| panic!("{series} is not there"))
}

#[tokio::test]
async fn a_loading_server_says_that_it_is_not_ready() {
    let state = State::new(Settings { api_keys: vec!["secret".into()], ..Settings::default() });
    let loading = metrics(&state).await;
    assert_eq!(loading["hesper_ready"], 0.0);
    assert_eq!(loading[concat!("hesper_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}")], 1.0);
    assert_eq!(loading.len(), 2);

    let (handle, inbox) = queue(3);
    let device = DeviceLabel { name: "A \"GPU\" \\ of\ntwo lines".into(), driver: "test".into(), software: false };
    state.ready(handle, text(), ServedModel { device, ..served_model() });
    let ready = metrics(&state).await;
    assert_eq!(ready["hesper_ready"], 1.0);
    assert_eq!(demo(&ready, "hesper_queue_capacity_requests"), 3.0);
    assert_eq!(demo(&ready, "hesper_context_capacity_tokens"), 512.0);
    assert_eq!(demo(&ready, "hesper_model_info"), 1.0);
    let device = r#"hesper_device_info{device="A \"GPU\" \\ of\ntwo lines",driver="test",software="false"}"#;
    assert_eq!(ready[device], 1.0);
    drop(inbox);
    assert_eq!(metrics(&state).await["hesper_ready"], 0.0);
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
    assert_eq!((demo(&busy, "hesper_requests_running"), demo(&busy, "hesper_requests_waiting")), (1.0, 1.0));
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

#[tokio::test]
async fn what_is_timed_and_counted_adds_up() {
    let state = state(Settings::default(), engine(4, say("One two three four")));
    let before = metrics(&state).await;
    assert_eq!(demo(&before, "hesper_time_to_first_token_seconds_count"), 0.0);
    let mut usage = [0.0; 3];
    for stream in [false, true] {
        let body = json!({"prompt": "One", "stream": stream, "n": 2});
        let answer = post(&state, COMPLETIONS, &body).await;
        assert_eq!(answer.status, 200);
        if !stream {
            let told = &answer.json()["usage"];
            let count = |value: &serde_json::Value| value.as_f64().expect("a count") * 2.0;
            usage = [
                count(&told["prompt_tokens"]),
                count(&told["prompt_tokens_details"]["cached_tokens"]),
                count(&told["completion_tokens"]),
            ];
        }
    }
    let after = metrics(&state).await;
    let names = ["hesper_prompt_tokens_total", "hesper_cached_prompt_tokens_total", "hesper_generation_tokens_total"];
    assert_eq!(names.map(|name| demo(&after, name)), usage);
    for (name, count) in [
        ("hesper_time_to_first_token_seconds", 2.0),
        ("hesper_request_duration_seconds", 2.0),
        ("hesper_queue_time_seconds", 2.0),
        // Two requests of two answers each, whose first tokens have none before them.
        ("hesper_inter_token_latency_seconds", usage[2] - 4.0),
    ] {
        assert_eq!(demo(&after, &format!("{name}_count")), count, "{name}");
        let sum = demo(&after, &format!("{name}_sum"));
        assert!((0.0..60.0).contains(&sum), "{name} {sum}");
    }
}

#[tokio::test]
async fn the_engines_figures_are_shown() {
    let handle = engine(4, say("ok"));
    let stats = handle.stats();
    stats.blocks.set(10);
    stats.blocks_held.set(4);
    stats.blocks_cached.set(5);
    stats.prefix_tokens.set(100);
    stats.prefix_hit_tokens.set(60);
    stats.preemptions.add(2);
    stats.drafted_tokens.add(30);
    stats.accepted_tokens.add(20);
    stats.device_bytes.set(1 << 30);
    for sequences in [1, 2, 3, 1000] {
        stats.count_step(sequences);
    }
    let shown = metrics(&state(Settings::default(), handle.clone())).await;
    for (name, value) in [
        ("hesper_kv_cache_utilization", 0.4),
        ("hesper_prefix_cache_queries_total", 100.0),
        ("hesper_prefix_cache_hits_total", 60.0),
        ("hesper_preemptions_total", 2.0),
        ("hesper_drafted_tokens_total", 30.0),
        ("hesper_accepted_draft_tokens_total", 20.0),
        ("hesper_device_memory_bytes", 1073741824.0),
        ("hesper_batch_size_count", 4.0),
        ("hesper_batch_size_sum", 1006.0),
    ] {
        assert_eq!(demo(&shown, name), value, "{name}");
    }
    for (state, count) in [("held", 4.0), ("cached", 5.0), ("free", 1.0)] {
        assert_eq!(shown[&format!("hesper_kv_cache_blocks{{model=\"demo\",state=\"{state}\"}}")], count);
    }
    // As the Gateway API Inference Extension's endpoint picker reads it.
    let config = "hesper_cache_config_info{model=\"demo\",block_size=\"32\",num_gpu_blocks=\"10\"}";
    assert_eq!(shown[config], 1.0);
    let bucket = |bound: &str| {
        let place = |series: &&String| series.starts_with("hesper_batch_size_bucket") && series.contains(bound);
        shown[shown.keys().find(place).expect("a bucket")]
    };
    assert_eq!(["\"1.0\"", "\"2.0\"", "\"4.0\"", "\"128.0\"", "\"+Inf\""].map(bucket), [1.0, 2.0, 3.0, 3.0, 4.0]);
}

#[tokio::test]
async fn open_metrics_are_given_to_those_who_ask() {
    let state = state(Settings::default(), engine(4, say("ok")));
    let request = axum::http::Request::get("/metrics")
        .header("accept", "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.3");
    let answer = crate::harness::send(&state, request.body(axum::body::Body::empty()).unwrap()).await;
    assert_eq!(answer.headers["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(answer.body.ends_with("# EOF\n") && answer.body.contains("# TYPE hesper_requests_finished counter\n"));
}
