//! Several models on one device, of which two have room.

use crate::harness::{MODEL, Server, plain, with_device};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const COMPLETIONS: &str = "/v1/completions";

fn request(model: &str) -> Value {
    json!({"model": model, "prompt": "The capital of", "max_tokens": 4, "temperature": 0})
}

/// Three times the demo model, and a file that is none.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join(MODEL);
    for name in ["first", "second", "third"] {
        fs::copy(&demo, folder.path().join(format!("{name}.gguf"))).expect("a copy");
    }
    fs::write(folder.path().join("broken.gguf"), "GGUF, but no more than that").expect("a file");
    let list = "[[model]]\nname = \"one\"\nfile = \"first.gguf\"\naliases = [\"gpt-4o\"]\n\n\
                [[model]]\nname = \"wide\"\nfile = \"first.gguf\"\nctx = 1000000\n";
    fs::write(folder.path().join("models.toml"), list).expect("a list");
    folder
}

/// MiB that one of the models takes at least, as a server says that has no room for it; with room, its cache is larger.
fn need_mib(folder: &Path) -> f64 {
    let server =
        Server::start(&["--models", plain(folder), "--ctx", "512", "--parallel", "4", "--memory-budget", "1M"]);
    let (code, answer) = server.post(COMPLETIONS, &request("second"));
    assert_eq!((code, &answer["error"]["code"]), (507, &json!("insufficient_memory")), "{answer}");
    let message = answer["error"]["message"].as_str().expect("a message");
    assert!(message.contains("of 1.0 MiB") && message.contains("loaded: nothing"), "{message}");
    assert_eq!(server.get("/health").0, 200, "which is no crash");
    let figure = message.split("total ").nth(1).and_then(|rest| rest.split(' ').next());
    figure.and_then(|figure| figure.parse().ok()).unwrap_or_else(|| panic!("no figure in {message}"))
}

fn status(server: &Server, id: &str) -> String {
    let (code, model) = server.get(&format!("/v1/models/{id}"));
    assert_eq!(code, 200, "{model}");
    model["status"]["value"].as_str().expect("a status").to_owned()
}

#[test]
fn models_come_and_go_on_one_device() {
    if !with_device() {
        return;
    }
    let folder = folder();
    let budget = format!("{:.0}M", need_mib(folder.path()) * 2.75);
    // Few sequences, so that a cache has no more than their whole contexts.
    let sizes = ["--ctx", "512", "--parallel", "4", "--memory-budget", &budget];
    let arguments = [&["--models", plain(folder.path()), "--keep-alive", "-1"], &sizes[..]].concat();
    let server = Server::start(&arguments);
    let (code, list) = server.get("/v1/models");
    let names: Vec<&str> =
        list["data"].as_array().expect("a list").iter().filter_map(|model| model["id"].as_str()).collect();
    assert_eq!((code, names), (200, vec!["one", "wide", "broken", "second", "third"]));

    let (code, first) = server.post(COMPLETIONS, &request("gpt-4o"));
    assert_eq!((code, &first["model"]), (200, &json!("one")), "{first}");
    // All are the same model, so all say the same.
    for name in ["second", "third", "one"] {
        let (code, answer) = server.post(COMPLETIONS, &request(name));
        assert_eq!((code, &answer["model"]), (200, &json!(name)), "{answer}");
        assert_eq!(answer["choices"][0]["text"], first["choices"][0]["text"], "{name}");
    }
    let loaded = ["one", "second", "third"].map(|name| status(&server, name));
    assert_eq!(loaded, ["loaded", "unloaded", "loaded"], "two have room, and the second was used longest ago");

    let (code, broken) = server.post(COMPLETIONS, &request("broken"));
    assert_eq!((code, &broken["error"]["code"]), (500, &json!("model_unusable")), "{broken}");
    let (code, wide) = server.post(COMPLETIONS, &request("wide"));
    assert_eq!((code, &wide["error"]["code"]), (500, &json!("model_unusable")), "{wide}");
    assert!(wide["error"]["message"].as_str().is_some_and(|text| text.contains("1000000")), "{wide}");
    assert_eq!(server.post("/v1/models/unload", &json!({"model": "one"})).0, 200);
    assert_eq!(status(&server, "one"), "unloaded");
    assert_eq!(server.post(COMPLETIONS, &request("third")).0, 200, "the others go on");
    server.signal("-TERM");
    let (code, said) = server.end();
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn an_idle_model_gives_its_memory_back() {
    if !with_device() {
        return;
    }
    let folder = folder();
    let server = Server::start(&["--models", plain(folder.path()), "--keep-alive", "0", "--ctx", "512"]);
    assert_eq!(server.post(COMPLETIONS, &request("second")).0, 200);
    let begin = std::time::Instant::now();
    while status(&server, "second") != "unloaded" {
        assert!(begin.elapsed() < crate::harness::PATIENCE, "it stays loaded");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(server.post(COMPLETIONS, &request("second")).0, 200, "and is loaded again");
}
