//! `hesper health` as a container's health check meets it: exit codes and texts, against servers in every state.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

const OK: &str =
    r#"{"status":"ok","device":{"name":"llvmpipe","driver":"llvmpipe","software":true},"model":{"id":"demo"}}"#;

/// A server that answers its only caller with these bytes, and then says nothing more.
fn server(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a caller");
        let mut request = [0; 4096];
        let read = stream.read(&mut request).expect("a request");
        assert!(request[..read].starts_with(b"GET /health HTTP/1.1\r\n"), "{:?}", &request[..read]);
        // A caller that has read enough closes.
        let _ = stream.write_all(&answer);
        thread::sleep(Duration::from_secs(10));
    });
    address
}

fn answer(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn health(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hesper"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HESPER_")) {
        command.env_remove(name);
    }
    // A proxy that is not there: a server's own health is never asked through one.
    command.env("http_proxy", "http://127.0.0.1:9").env("HTTP_PROXY", "http://127.0.0.1:9");
    // Nor do images always have certificates.
    command.env("SSL_CERT_FILE", "/nonexistent").env("SSL_CERT_DIR", "/nonexistent");
    command.arg("health").args(arguments).envs(variables.iter().copied()).stdin(Stdio::null());
    command.output().expect("the program starts")
}

/// The one paragraph of a check that must fail.
fn fail(arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = health(arguments, &[]);
    let stderr = String::from_utf8(stderr).expect("text");
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stdout.is_empty());
    let paragraph = stderr.strip_prefix("error: ").unwrap_or_else(|| panic!("{stderr}"));
    assert_eq!(paragraph.trim_end().lines().count(), 1, "{stderr}");
    paragraph.to_owned()
}

#[test]
fn a_ready_server_is_found_by_the_variables_of_serve() {
    let line = "ok: demo on llvmpipe (llvmpipe, software)\n";
    for host in ["0.0.0.0", "127.0.0.1"] {
        let port = server(answer("200 OK", OK)).port().to_string();
        let output = health(&[], &[("HESPER_HOST", host), ("HESPER_PORT", &port)]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stdout), line);
    }
    let url = format!("http://{}/v1", server(answer("200 OK", OK)));
    let output = health(&["--url", &url], &[("HESPER_PORT", "1")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_server_that_is_not_ready_fails_the_check_and_says_why() {
    let unready = |word: &str| answer("503 Service Unavailable", &format!("{{\"status\":\"{word}\"}}"));
    let long = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(100 << 10)).into_bytes();
    let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 400\r\n\r\n{".to_vec();
    for (bytes, part) in [
        (unready("loading"), "still loading"),
        (unready("draining"), "ending"),
        (unready("stopped"), "stopped"),
        (answer("200 OK", "<html>hello</html>"), "not as Hesper does"),
        (answer("302 Found\r\nlocation: http://127.0.0.1:9/", OK), "not ready"),
        (long, "longer than 64 KiB"),
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "is this its address?"),
        (cut, "no answer within 1 s"),
        (Vec::new(), "no answer within 1 s"),
    ] {
        let address = server(bytes).to_string();
        let paragraph = fail(&["--url", &format!("http://{address}"), "--timeout", "1"]);
        assert!(paragraph.contains(&address) && paragraph.contains(part), "{part:?} is not in: {paragraph}");
    }
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let paragraph = fail(&["--port", &port.to_string()]);
    for part in [format!("http://127.0.0.1:{port}/health").as_str(), "refused", "is the server running"] {
        assert!(paragraph.contains(part), "{part:?} is not in: {paragraph}");
    }
}

#[test]
fn a_wrong_address_is_a_wrong_use() {
    for arguments in [["--url", "127.0.0.1:8080"], ["--url", "ftp://a"], ["--port", "70000"], ["--timeout", "0"]] {
        assert_eq!(health(&arguments, &[]).status.code(), Some(2), "{arguments:?}");
    }
}
