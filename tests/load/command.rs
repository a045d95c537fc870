//! `hesper load` as its users meet it: what is printed, and the exit code.

use crate::server::{Reply, Server, content, done, error, finish, good_stream, is_probe, stream};
use serde_json::Value;
use std::process::{Output, Stdio};
use tokio::process::Command;

fn hesper(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hesper"));
    command.arg("load").args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HESPER_")) {
        command.env_remove(name);
    }
    // A machine without certificates asks a server without TLS all the same.
    command.env("SSL_CERT_FILE", "/nonexistent").env("SSL_CERT_DIR", "/nonexistent");
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("output is UTF-8")
}

async fn run(arguments: &[&str]) -> Output {
    hesper(arguments).output().await.expect("the program starts")
}

fn models(body: &Value) -> bool {
    body.is_null()
}

async fn good() -> Server {
    let list = || crate::server::whole(&serde_json::json!({"data": [{"id": "demo"}]}));
    Server::start(0, move |body| Reply::Bytes(if models(body) { list() } else { good_stream() })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_as_a_table() {
    let server = good().await;
    let output = run(&["--url", &server.url(), "--requests", "5", "--concurrency", "2", "--warmup", "2"]).await;
    let out = text(&output.stdout);
    assert!(output.status.success(), "{out}{}", text(&output.stderr));
    for part in [
        "5 requests, 2 at a time",
        " QPS |",
        "100.0 %",
        "P95 ms",
        "| between tokens |",
        "5 of 5 answers whole; tokens are",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    // The list of models, one token, the warm-up, and what is measured.
    assert_eq!(server.asked.count(), 1 + 1 + 2 + 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_by_turns_as_json() {
    let (first, second) = (
        good().await,
        Server::start(0, |body| match body.get("stream_options") {
            Some(_) => Reply::Bytes(error("400 Bad Request", "unknown field")),
            None => Reply::Bytes(stream(&[content("a"), finish(), done()])),
        })
        .await,
    );
    let (a, b) = (format!("native={}", first.url()), format!("container={}", second.url()));
    let output = run(&["--compare", &a, &b, "--model", "demo", "--requests", "4", "--warmup", "0", "-o", "json"]).await;
    let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(json["ratios"][0]["name"], "container / native");
    for (server, by_usage, by_chunks, tokens) in [(0, 4, 0, 24), (1, 0, 4, 4)] {
        let server = &json["servers"][server];
        let rounds = server["rounds"].as_array().unwrap();
        assert_eq!(rounds.len(), 3, "{server}");
        for round in rounds {
            assert_eq!((&round["succeeded"], &round["success_rate"]), (&Value::from(4), &Value::from(1.0)), "{round}");
            assert_eq!(
                (&round["counted_by_usage"], &round["counted_by_chunks"]),
                (&by_usage.into(), &by_chunks.into())
            );
            assert_eq!(round["output_tokens"], tokens);
        }
    }
    assert_eq!(json["servers"][1]["refuses_usage"], true);
    assert_eq!((first.asked.count(), second.asked.count()), (1 + 12, 2 + 12));
    // Both were asked the same.
    let asked = |server: &Server, skip: usize| -> Vec<Value> {
        server.asked.bodies.lock().unwrap()[skip..].iter().map(|body| body["messages"].clone()).collect()
    };
    assert_eq!(asked(&first, 1), asked(&second, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_only_fails_is_reported_and_the_exit_code_is_1() {
    let script = |body: &Value| match is_probe(body) {
        true => Reply::Bytes(good_stream()),
        false => Reply::Bytes(error("429 Too Many Requests", "the queue is full")),
    };
    let server = Server::start(0, script).await;
    let output = run(&["--url", &server.url(), "--model", "demo", "--requests", "3"]).await;
    assert_eq!(output.status.code(), Some(1));
    let out = text(&output.stdout);
    assert!(out.contains("0 of 3 answers whole") && out.contains("3 × status 429, as: the queue is full"), "{out}");
    let output = run(&["--url", &server.url(), "--model", "demo", "--requests", "3", "-o", "csv"]).await;
    let out = text(&output.stdout);
    assert!(out.lines().count() == 2 && out.contains("\"3 × status 429\""), "{out}");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_prints_what_there_is() {
    // Two answers come, the third never does.
    let script = |body: &Value| match body["messages"][0]["content"].as_str() {
        Some(text) if text.contains("evening star") => Reply::Stall(Vec::new()),
        _ => Reply::Bytes(good_stream()),
    };
    let server = Server::start(0, script).await;
    let mut command = hesper(&["--url", &server.url(), "--model", "demo", "--warmup", "0", "-o", "json"]);
    let child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
    let id = child.id().expect("it runs").to_string();
    server.asked.until(4).await;
    let status = Command::new("kill").args(["-INT", &id]).status().await.expect("kill");
    assert!(status.success());
    let output = child.wait_with_output().await.expect("it ends");
    assert_eq!(output.status.code(), Some(130));
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["interrupted"], true);
    let round = &json["servers"][0]["rounds"][0];
    assert_eq!((&round["succeeded"], &round["unfinished"]), (&2.into(), &1.into()), "{round}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_one_paragraph() {
    let folder = tempfile::tempdir().expect("a folder");
    let dataset = folder.path().join("prompts.jsonl");
    std::fs::write(&dataset, "{\"prompt\": \"a\"}\n{\"prompt\": 1}\n").expect("a file");
    let dataset = dataset.to_str().expect("a plain path");
    let server = good().await;
    let url = server.url();
    for (arguments, part) in [
        (vec!["--url", "127.0.0.1:1"], "is no address of a server"),
        (vec!["--url", "http://127.0.0.1:1"], "connection refused"),
        (vec!["--url", url.as_str(), "--dataset", dataset], "prompts.jsonl line 2: `prompt` is not a text"),
        (vec!["--compare", url.as_str(), url.as_str()], "two servers are called"),
    ] {
        let output = run(&arguments).await;
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        assert!(error.starts_with("error: ") && error.trim_end().lines().count() == 1, "{error}");
        assert!(error.contains(part), "{arguments:?}: {error}");
    }
    for wrong in [vec![], vec!["--url", "http://h", "--rate", "0"], vec!["--compare", "http://h"]] {
        assert_eq!(run(&wrong).await.status.code(), Some(2), "{wrong:?}");
    }
}
