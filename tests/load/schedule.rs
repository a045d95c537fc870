//! Many requests: which are sent when, as far as that can be told without a clock.

use crate::server::{Reply, Server, good_stream, is_probe};
use hesper::load::{Arrival, Batch, Client, Dataset, Schedule, Settings, run};
use serde_json::Value;
use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

async fn connect(server: &Server, dataset: &Dataset) -> Arc<Client> {
    let settings = Settings {
        url: server.url(),
        model: Some("demo".to_owned()),
        api_key: None,
        max_tokens: 8,
        stream: true,
        timeout: Duration::from_secs(60),
    };
    Arc::new(Client::connect(settings, dataset.messages(0)).await.unwrap())
}

async fn run_all(server: &Server, requests: usize, first: usize, arrival: Arrival) -> Batch {
    let dataset = Arc::new(Dataset::built_in(None));
    let client = connect(server, &dataset).await;
    let mut ended = 0;
    let batch = run::run(&client, &dataset, Schedule { requests, first, arrival }, pending(), || ended += 1).await;
    assert_eq!((ended, batch.unfinished), (batch.outcomes.len(), 0));
    batch
}

/// The questions that were asked, the unmeasured one left out.
fn questions(server: &Server) -> Vec<String> {
    let bodies = server.asked.bodies.lock().unwrap();
    bodies[1..].iter().map(|body| body["messages"][0]["content"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn one_at_a_time_asks_the_prompts_in_their_order() {
    let server = Server::start(0, |_| Reply::Bytes(good_stream())).await;
    let batch = run_all(&server, 14, 3, Arrival::Concurrency(1)).await;
    assert!(batch.outcomes.iter().all(Result::is_ok), "{batch:?}");
    let dataset = Dataset::built_in(None);
    let wanted: Vec<String> =
        (3..17).map(|index| dataset.messages(index)[0]["content"].as_str().unwrap().to_owned()).collect();
    assert_eq!(questions(&server), wanted);
}

#[tokio::test]
async fn as_many_are_under_way_as_are_asked_for() {
    // The answers wait for the first unmeasured request and four more: fewer at a time would never get one.
    let answer = |body: &Value| match is_probe(body) {
        true => Reply::Bytes(good_stream()),
        false => Reply::WhenAllCame(good_stream()),
    };
    let server = Server::start(5, answer).await;
    let batch = run_all(&server, 9, 0, Arrival::Concurrency(4)).await;
    assert_eq!(batch.outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 9);
    assert_eq!(questions(&server).into_iter().collect::<BTreeSet<_>>().len(), 9);
}

#[tokio::test]
async fn no_more_are_under_way_than_are_asked_for() {
    let dataset = Arc::new(Dataset::built_in(None));
    let stall = |body: &Value| if is_probe(body) { Reply::Bytes(good_stream()) } else { Reply::Stall(Vec::new()) };
    let server = Server::start(0, stall).await;
    let client = connect(&server, &dataset).await;
    let schedule = Schedule { requests: 50, first: 0, arrival: Arrival::Concurrency(3) };
    let asked = server.asked.clone();
    // Stopped once three have come and nothing else can.
    let stop = async move { asked.until(4).await };
    let batch = run::run(&client, &dataset, schedule, stop, || ()).await;
    assert_eq!((batch.outcomes.len(), batch.unfinished), (0, 3));
    assert_eq!(server.asked.count(), 4);
}

#[tokio::test]
async fn an_open_loop_does_not_wait_for_answers() {
    let answer = |body: &Value| match is_probe(body) {
        true => Reply::Bytes(good_stream()),
        false => Reply::WhenAllCame(good_stream()),
    };
    let server = Server::start(21, answer).await;
    let batch = run_all(&server, 20, 0, Arrival::PerSecond(500.0)).await;
    assert_eq!(batch.outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 20);
}

#[tokio::test]
async fn failures_are_outcomes_and_the_rest_goes_on() {
    let server = Server::start(0, |body| match body["messages"][0]["content"].as_str() {
        Some(text) if !is_probe(body) && text.contains("capital") => Reply::Bytes(Vec::new()),
        _ => Reply::Bytes(good_stream()),
    })
    .await;
    let batch = run_all(&server, 24, 0, Arrival::Concurrency(2)).await;
    assert_eq!(batch.outcomes.iter().filter(|outcome| outcome.is_err()).count(), 2);
    assert_eq!(batch.outcomes.len(), 24);
}

#[tokio::test]
async fn nothing_to_send_is_nothing_measured() {
    let server = Server::start(0, |_| Reply::Bytes(good_stream())).await;
    assert_eq!(run_all(&server, 0, 0, Arrival::Concurrency(1)).await.outcomes.len(), 0);
}
