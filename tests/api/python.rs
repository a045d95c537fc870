//! The `openai` Python client against the scripted server: the scripts in `tests/clients`.
//!
//! `HESPER_PYTHON` names a Python that has the `openai` package. Without it the tests are not run, which is said, and is
//! a failure under `CI=true`.

use crate::harness::{engine, speak, state, text};
use hesper::{
    api::{Settings, serve},
    engine::request::Request,
    text::Chat,
};
use serde_json::Value;
use std::{collections::HashMap, path::Path};

/// Plays the demo model: calls a tool when there are tools, otherwise answers what the client script expects.
fn demo(request: Request) {
    let prompt = text().decode(&request.tokens, true);
    let answer = match prompt.rsplit_once("<|im_start|>user\n") {
        Some((_, last)) if last.contains("What time is it in Dakar?") => {
            "<tool_call>\n{\"name\": \"get_time\", \"arguments\": {\"city\": \"Dakar\"}}\n</tool_call>"
        }
        Some((_, last)) if last.contains("<tool_response>") => "It is 12:01 in Dakar.",
        Some((_, last)) if last.contains("capital of Norway") => "Oslo.",
        _ => "Good evening! How can I help you? I can count: 1, 2, 3, 4, 5, 6, 7, 8, 9.",
    };
    speak(&request, &text().encode(answer, true), 0);
}

/// Runs a client script against a scripted server; answers its exit code and what it said. `None` without a Python.
async fn run(script: &str, arguments: &[&str], answer: impl FnMut(Request) + Send + 'static) -> Option<(i32, String)> {
    let Some(python) = std::env::var_os("HESPER_PYTHON") else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "HESPER_PYTHON must name a Python with `openai`");
        eprintln!("NOT RUN: set HESPER_PYTHON to a Python that has the `openai` package");
        return None;
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(serve(listener, state(Settings::default(), engine(8, answer)), async {
        drop(stopped.await);
    }));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
    let mut command = std::process::Command::new(python);
    command.arg(script).arg(url).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().expect("Python starts")).await.unwrap();
    drop(stop);
    assert_eq!(server.await.unwrap(), 0);
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    Some((output.status.code().expect("an exit code"), said.into_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_client() {
    if let Some((code, said)) = run("openai_client.py", &[], demo).await {
        assert_eq!(code, 0, "{said}");
    }
}

/// Answers the demo model's questions as they are expected to be, found by their prompts; all but the first `wrong`.
fn expected(wrong: usize) -> impl FnMut(Request) + Send + 'static {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/questions.jsonl");
    let lines = std::fs::read_to_string(path).unwrap();
    let questions: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut answers = HashMap::new();
    for (index, question) in questions.iter().enumerate() {
        let none = Vec::new();
        let tools = question["tools"].as_array().unwrap_or(&none);
        let chat = Chat { tools, ..Chat::new(question["messages"].as_array().unwrap()) };
        let prompt = text().encode_chat(&text().render_chat(&chat).unwrap());
        let answer = if index < wrong { "I do not know." } else { question["expect"].as_str().unwrap() };
        answers.entry(prompt).or_insert(text().encode(answer, true));
    }
    move |request| {
        let answer = answers.get(&request.tokens).expect("a prompt of one of the questions");
        speak(&request, answer, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_client() {
    for (arguments, wrong, code) in [(&[][..], 0, 0), (&["--stream"][..], 0, 0), (&[][..], 20, 1)] {
        if let Some((got, said)) = run("questions.py", arguments, expected(wrong)).await {
            assert_eq!(got, code, "{arguments:?} {wrong} {said}");
        }
    }
}
