//! Hugging Face: a hub of its own with a few repositories.

use super::server::{Content, Reply, Server};
use super::{Models, assert_holds, fail, succeed};
use serde_json::{Value, json};
use std::process::Command;
use std::sync::OnceLock;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn sibling(path: &str, content: &Content) -> Value {
    let (bytes, sha256) = (content.bytes, content.sha256());
    json!({"rfilename": path, "size": bytes, "blobId": "0", "lfs": {"sha256": sha256, "size": bytes, "pointerSize": 134}})
}

/// The content of a seed from 0 to 5, made once.
fn small(seed: u64) -> &'static Content {
    static CONTENTS: OnceLock<Vec<Content>> = OnceLock::new();
    &CONTENTS.get_or_init(|| (0..6).map(|seed| Content::new(3 << 20, seed)).collect())[seed as usize]
}

/// Paths of the repository `good/model-GGUF` and the seeds of their contents.
const FILES: [(&str, u64); 5] = [
    ("model-Q8_0.gguf", 1),
    ("model-Q4_K_M.gguf", 2),
    ("BF16/model-BF16-00001-of-00002.gguf", 3),
    ("BF16/model-BF16-00002-of-00002.gguf", 4),
    ("mmproj-model-f16.gguf", 5),
];

/// A listing of `good/model-GGUF` to which other repositories add their faults.
fn listing() -> Value {
    let siblings: Vec<Value> = FILES.iter().map(|(path, seed)| sibling(path, small(*seed))).collect();
    json!({"id": "good/model-GGUF", "sha": COMMIT, "siblings": siblings, "unknown": [1, 2]})
}

fn hub() -> Server {
    let good = listing();
    Server::start(move |request| {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        if let Some(rest) = path.strip_prefix("/api/models/") {
            let Some(name) = rest.strip_suffix("/revision/main") else { return Reply::text(404, "") };
            let mut changed = good.clone();
            match name {
                "good/model-GGUF" | "gated/model" => assert_eq!(query, "blobs=true"),
                "bad/digest" => changed["siblings"][1]["lfs"]["sha256"] = json!("ab".repeat(32)),
                "bad/size" => changed["siblings"][1]["lfs"]["size"] = json!(5),
                "bad/vast" => changed["siblings"][1]["lfs"]["size"] = json!(1u64 << 60),
                "bad/traversal" => {
                    changed["siblings"] = json!([
                        sibling("../../../etc/m-Q4_0.gguf", small(1)),
                        sibling("a/..\\..\\m-Q4_0.gguf", small(1)),
                        sibling("/tmp/m-Q4_0.gguf", small(1)),
                    ])
                }
                "bad/name" => changed["siblings"] = json!([sibling("a/.ssh-Q4_0.gguf", small(1))]),
                "bad/device" => changed["siblings"] = json!([sibling("con.gguf", small(1))]),
                "bad/commit" => changed["sha"] = json!("../../x"),
                "bad/json" => return Reply::text(200, "<html>"),
                "bad/shape" => return Reply::text(200, "{\"sha\": 5}"),
                "bad/endless" => return Reply::text(200, " ".repeat(17 << 20)),
                "empty/repository" => changed["siblings"] = json!([{"rfilename": "README.md", "size": 3}]),
                _ => return Reply::text(if request.header("authorization").is_some() { 404 } else { 401 }, ""),
            }
            return Reply::text(200, changed.to_string());
        }
        if path == "/api/models" {
            assert!(query.contains("filter=gguf"), "{query}");
            return Reply::text(200, json!([{"id": "good/model-GGUF"}, {"id": "other/thing"}]).to_string());
        }
        let file = |(path, seed): &(&str, u64)| request.path.ends_with(&format!("/{path}")).then(|| small(*seed));
        match FILES.iter().find_map(file) {
            Some(_) if path.starts_with("/gated/") && request.header("authorization") != Some("Bearer right") => {
                Reply::text(403, "")
            }
            Some(content) if path.contains(&format!("/resolve/{COMMIT}/")) => Reply::file(request, content),
            _ => Reply::text(404, ""),
        }
    })
}

fn pull(models: &Models, hub: &Server, source: &str) -> Command {
    let mut command = models.pull(source);
    command.env("HESPER_HF_ENDPOINT", hub.url("/"));
    command
}

#[test]
fn the_usual_quantization_is_taken_and_said() {
    let (models, hub) = (Models::new(), hub());
    let (printed, notes) = succeed(pull(&models, &hub, "hf://good/model-GGUF"));
    assert_holds(&notes, &["good/model-GGUF: taking Q4_K_M"]);
    assert_holds(
        &printed,
        &["Pulled model-Q4_K_M", small(2).sha256(), "as stated by the source", "serve -m model-Q4_K_M"],
    );
    models.assert_pulled("model-Q4_K_M", small(2));
    let count = hub.count();
    assert_holds(&succeed(pull(&models, &hub, "hf://good/model-GGUF")).0, &["there and unchanged"]);
    assert_eq!(hub.count(), count + 1, "the list alone says so");
    succeed(pull(&models, &hub, "hf://good/model-GGUF:q8_0"));
    assert!(models.path("model-Q8_0.gguf").exists());
    let mut named = pull(&models, &hub, "hf://good/model-GGUF/model-Q8_0.gguf");
    named.args(["--name", "mine"]);
    succeed(named);
    assert_holds(&succeed(models.hesper(&["list"])).0, &["mine", "hf://good/model-GGUF/model-Q8_0.gguf", "3.1 MB"]);
}

#[test]
fn a_split_model_comes_whole() {
    let (models, hub) = (Models::new(), hub());
    succeed(pull(&models, &hub, "hf://good/model-GGUF/BF16/model-BF16-00001-of-00002.gguf"));
    let names = ["model-BF16-00001-of-00002.gguf", "model-BF16-00002-of-00002.gguf", "model-BF16.hesper.json"];
    assert_eq!(models.files(), names);
    for (file, seed) in [(names[0], 3), (names[1], 4)] {
        super::assert_content(&models.path(file), small(seed));
    }
    // A part that was lost is pulled again, and only that.
    std::fs::remove_file(models.path(names[1])).expect("it is there");
    assert_holds(&succeed(models.hesper(&["list"])).0, &["incomplete: 1 of 2 parts"]);
    let (printed, _) = succeed(pull(&models, &hub, "hf://good/model-GGUF/BF16/model-BF16-00001-of-00002.gguf"));
    assert_holds(&printed, &["Pulled model-BF16: 6.3 MB, 3.1 MB of them now"]);
    assert_eq!(models.files(), names);
    assert_holds(&succeed(models.hesper(&["rm", "model-BF16"])).0, &["Removed model-BF16 (6.3 MB)"]);
    assert_eq!(models.files(), Vec::<String>::new());
}

#[test]
fn what_is_absent_is_named_with_what_is_near() {
    let (models, hub) = (Models::new(), hub());
    for (source, parts) in [
        ("hf://good/model-GGUF:Q6_K", &["nothing quantized as Q6_K", "it has BF16, Q4_K_M, Q8_0"][..]),
        ("hf://good/model-GGUF/model-Q8_1.gguf", &["no file model-Q8_1.gguf", "near it are model-Q8_0.gguf"]),
        ("hf://good/model-GUF", &["no repository good/model-GUF", "401", "near it are good/model-GGUF", "HF_TOKEN"]),
        ("hf://empty/repository", &["no .gguf file", "-GGUF"]),
    ] {
        assert_holds(&fail(pull(&models, &hub, source)), parts);
    }
    assert_eq!(models.files(), Vec::<String>::new());
}

#[test]
fn tokens_open_what_is_gated() {
    let (models, hub) = (Models::new(), hub());
    assert_holds(&fail(pull(&models, &hub, "hf://gated/model:Q8_0")), &["403", "private or gated", "HF_TOKEN"]);
    let mut wrong = pull(&models, &hub, "hf://gated/model:Q8_0");
    wrong.env("HF_TOKEN", "wrong-token");
    let error = fail(wrong);
    assert_holds(&error, &["403", "may not read it"]);
    assert!(!error.contains("wrong-token"));
    let mut right = pull(&models, &hub, "hf://gated/model:Q8_0");
    right.env("HF_TOKEN", "right");
    succeed(right);
    models.assert_pulled("model-Q8_0", small(1));
}

#[test]
fn lists_that_lie_are_refused() {
    let (models, hub) = (Models::new(), hub());
    for (source, parts) in [
        ("hf://bad/digest", &["model-Q4_K_M.gguf", small(2).sha256(), "abababab"][..]),
        ("hf://bad/size", &["the server has 3145728 bytes, but the source states 5"]),
        ("hf://bad/vast", &["the source states 1152921504606846976"]),
        ("hf://bad/traversal", &["no .gguf file"]),
        ("hf://bad/name", &["\".ssh-Q4_0\" cannot be a model's name", "--name"]),
        ("hf://bad/device", &["\"con\" cannot be a model's name", "reserve"]),
        ("hf://bad/commit", &["names no commit"]),
        ("hf://bad/json", &["not what this service answers"]),
        ("hf://bad/shape", &["not what this service answers"]),
        ("hf://bad/endless", &["longer than 16777216 bytes"]),
    ] {
        assert_holds(&fail(pull(&models, &hub, source)), parts);
        assert_eq!(models.files(), Vec::<String>::new(), "{source}");
    }
}
