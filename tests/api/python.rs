//! The `openai` Python client against the scripted server, by `tests/clients/openai_client.py`.
//!
//! `HESPER_PYTHON` names a Python that has the `openai` package. Without it the test is not run, which is said, and is
//! a failure under `CI=true`.

use crate::harness::{engine, speak, state, text};
use hesper::{
    api::{Settings, serve},
    engine::request::Request,
};
use std::path::Path;

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

#[tokio::test(flavor = "multi_thread")]
async fn openai_client() {
    let Some(python) = std::env::var_os("HESPER_PYTHON") else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "HESPER_PYTHON must name a Python with `openai`");
        eprintln!("NOT RUN: set HESPER_PYTHON to a Python that has the `openai` package");
        return;
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(serve(listener, state(Settings::default(), engine(8, demo)), async {
        drop(stopped.await);
    }));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/openai_client.py");
    let run = move || std::process::Command::new(python).arg(script).arg(url).output().expect("Python starts");
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    drop(stop);
    assert_eq!(server.await.unwrap(), 0);
}
