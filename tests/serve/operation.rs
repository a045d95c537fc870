//! What an operator does to a server and reads of it: keys and certificates replaced while it runs, log lines, traces,
//! and an end under load that cuts no answer.

use crate::harness::{MODEL, PATIENCE, Server, plain, whole, with_device};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const COMPLETIONS: &str = "/v1/completions";
/// In no answer and no other line of a log.
const SECRET: &str = "the xylophone in the attic";

fn request(stream: bool) -> Value {
    json!({"prompt": SECRET, "max_tokens": 8, "temperature": 0, "ignore_eos": true, "stream": stream})
}

/// A request with further header lines: its status.
fn status(server: &Server, headers: &str) -> u16 {
    let mut stream = TcpStream::connect(&server.address).expect("it listens");
    let request = format!("GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status")
}

#[cfg(unix)]
#[test]
fn keys_are_read_again_and_a_bad_file_changes_nothing() {
    if !with_device() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys");
    fs::write(&file, "ann:alpha\n").expect("a file");
    let server = Server::start(&["-m", MODEL, "--api-keys", plain(&file)]);
    assert!(server.said().contains("every user of this machine can read the keys"), "{}", server.said());
    let may = |key: &str| status(&server, &format!("x-api-key: {key}\r\n")) == 200;
    assert_eq!((may("alpha"), may("beta"), status(&server, "")), (true, false, 401));
    fs::write(&file, "bob:beta\n").expect("a file");
    server.signal("-HUP");
    server.until_it_says("read again");
    assert_eq!((may("alpha"), may("beta")), (false, true));
    for (bad, why) in [("# none\n", "it holds no key"), ("bob\n", "line 1")] {
        fs::write(&file, bad).expect("a file");
        server.signal("-HUP");
        server.until_it_says(why);
        assert!(may("beta"), "{bad:?}");
    }
    server.signal("-TERM");
    let (code, said) = server.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("alpha") && !said.contains("beta"), "{said}");
    let line = said.lines().find(|line| line.contains("status=200") && line.contains("ann")).expect("a line of ann's");
    assert!(line.contains("/v1/models"), "{line}");
}

#[test]
fn a_request_is_one_line_without_what_was_asked() {
    if !with_device() {
        return;
    }
    for prompts in [false, true] {
        let mut arguments = vec!["-m", MODEL, "--log-format", "json", "--api-key", "alpha", "--alias", "demo"];
        arguments.extend(prompts.then_some("--log-prompts"));
        let server = Server::start(&arguments);
        for stream in [false, true] {
            let headers = "x-api-key: alpha\r\nx-request-id: mine";
            let answer = whole(
                TcpStream::connect(&server.address).expect("it listens"),
                "POST",
                &format!("{COMPLETIONS} HTTP/1.1\r\n{headers}\r\nx-rest:"),
                &request(stream).to_string(),
            );
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        server.signal("-TERM");
        let (code, said) = server.end();
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(said.contains(SECRET), prompts, "{said}");
        let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let lines: Vec<Value> = lines.filter(|line| line["target"] == "hesper::request").collect();
        assert_eq!(lines.len(), 2, "{said}");
        for line in lines {
            for (field, value) in [
                ("id", json!("mine")),
                ("key", json!("key-1")),
                ("model", json!("demo")),
                ("method", json!("POST")),
                ("path", json!(COMPLETIONS)),
                ("status", json!(200)),
                ("completion_tokens", json!(8)),
                ("finish", json!("length")),
            ] {
                assert_eq!(line[field], value, "{field} of {line}");
            }
            let number = |field: &str| line[field].as_f64().unwrap_or_else(|| panic!("{field} of {line}"));
            assert!(number("prompt_tokens") > 2.0 && number("cached_tokens") >= 0.0, "{line}");
            assert!(
                number("queue_ms") <= number("first_token_ms") && number("first_token_ms") <= number("total_ms"),
                "{line}"
            );
        }
    }
}

/// A collector that keeps what it is sent.
fn collector() -> (String, mpsc::Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (sender, received) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut bytes = Vec::new();
            let (head, body) = loop {
                let mut part = [0; 4096];
                let read = stream.read(&mut part).expect("a request");
                assert!(read > 0, "a request that ends early");
                bytes.extend_from_slice(&part[..read]);
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let Some(end) = text.find("\r\n\r\n") else { continue };
                let length = text.to_ascii_lowercase().lines().find_map(|line| {
                    line.strip_prefix("content-length:").and_then(|length| length.trim().parse::<usize>().ok())
                });
                // The head is ASCII, so it is as long in bytes.
                if bytes.len() >= end + 4 + length.expect("a length") {
                    break (text[..end].to_owned(), bytes[end + 4..].to_vec());
                }
            };
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            // The test may have seen enough.
            let _ = sender.send((head, body));
        }
    });
    (url, received)
}

#[test]
fn traces_continue_the_callers() {
    if !with_device() {
        return;
    }
    let (url, received) = collector();
    let server = Server::start(&["-m", MODEL, "--otlp-endpoint", &url, "--alias", "demo"]);
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let path = format!("{COMPLETIONS} HTTP/1.1\r\ntraceparent: {traceparent}\r\nx-rest:");
    let answer =
        whole(TcpStream::connect(&server.address).expect("it listens"), "POST", &path, &request(false).to_string());
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    server.signal("-TERM");
    assert_eq!(server.end().0, Some(0));
    let (head, body) = received.recv_timeout(PATIENCE).expect("the traces come before the end");
    assert!(head.starts_with("POST /v1/traces ") && head.to_lowercase().contains("application/x-protobuf"), "{head}");
    let holds = |bytes: &[u8]| body.windows(bytes.len()).any(|window| window == bytes);
    let hex = |text: &str| -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("digits")).collect()
    };
    assert!(holds(&hex("0af7651916cd43dd8448eb211c80319c")), "the caller's trace");
    assert!(holds(&hex("b7ad6b7169203331")), "the caller's span is the parent");
    for text in ["POST /v1/completions", "gen_ai.usage.output_tokens", "demo", "hesper"] {
        assert!(holds(text.as_bytes()), "{text}");
    }
    assert!(!holds(SECRET.as_bytes()), "what was asked is not told");
}

/// A collector that takes connections and never answers.
#[test]
fn a_dead_collector_slows_no_request() {
    if !with_device() {
        return;
    }
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", silent.local_addr().expect("an address"));
    let server = Server::start(&["-m", MODEL, "--otlp-endpoint", &url, "--log", "error"]);
    assert_eq!(server.post(COMPLETIONS, &request(false)).0, 200);
    let begin = Instant::now();
    for _ in 0..3000 {
        assert_eq!(server.get("/version").0, 200);
    }
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
    server.signal("-TERM");
    let begin = Instant::now();
    assert_eq!(server.end().0, Some(0));
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
}

#[cfg(unix)]
#[test]
fn an_end_under_load_cuts_no_answer() {
    if !with_device() {
        return;
    }
    let server = Server::start(&["-m", MODEL, "--max-queue", "8", "--log", "error"]);
    let answers = Arc::new(Mutex::new(Vec::new()));
    let clients: Vec<_> = (0..12)
        .map(|client: usize| {
            let (address, answers) = (server.address.clone(), answers.clone());
            std::thread::spawn(move || {
                // Until nobody listens any more.
                while let Ok(stream) = TcpStream::connect(&address) {
                    let streamed = client.is_multiple_of(2);
                    answers.lock().unwrap().push((streamed, exchange(stream, &request(streamed))));
                }
            })
        })
        .collect();
    let begin = Instant::now();
    while answers.lock().unwrap().len() < 50 {
        assert!(begin.elapsed() < PATIENCE && clients.iter().all(|client| !client.is_finished()));
        std::thread::sleep(Duration::from_millis(5));
    }
    server.signal("-TERM");
    let (code, said) = server.end();
    assert_eq!(code, Some(0), "{said}");
    clients.into_iter().for_each(|client| client.join().expect("a client"));
    let answers = answers.lock().unwrap();
    let mut whole = 0;
    for (streamed, answer) in answers.iter() {
        let Some((head, body)) = answer.split_once("\r\n\r\n") else {
            assert!(answer.is_empty(), "half a head: {answer}");
            continue;
        };
        match head.split(' ').nth(1) {
            Some("200") if *streamed => {
                assert!(body.contains("data: [DONE]") && body.ends_with("0\r\n\r\n"), "{answer}")
            }
            Some("200") => {
                let answer: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
                assert_eq!(answer["usage"]["completion_tokens"], 8);
            }
            Some("429" | "503") => continue,
            other => panic!("{other:?}: {answer}"),
        }
        whole += 1;
    }
    assert!(whole > 10, "{whole} of {} were answered", answers.len());
}

/// What comes back; nothing, from a server that has closed before it read.
fn exchange(mut stream: TcpStream, body: &Value) -> String {
    let body = body.to_string();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length:";
    if stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).is_err() {
        return String::new();
    }
    let mut bytes = Vec::new();
    // A reset tells of itself by what is missing.
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8(bytes).expect("text")
}

#[test]
fn a_deadline_ends_a_request_wherever_it_stands() {
    if !with_device() {
        return;
    }
    let server = Server::start(&["-m", MODEL, "--request-timeout", "60", "--ctx", "2000", "--chunk", "4"]);
    // A prompt and an answer that take longer than a tenth of a second on any device that tests run on.
    let body = |stream: bool| json!({"prompt": "a b c d ".repeat(200), "max_tokens": 1000, "ignore_eos": true, "logprobs": 5, "stream": stream});
    let ask = |stream: bool| {
        let path = format!("{COMPLETIONS} HTTP/1.1\r\nx-request-timeout: 0.1\r\nx-rest:");
        let begin = Instant::now();
        let connection = TcpStream::connect(&server.address).expect("it listens");
        let answer = whole(connection, "POST", &path, &body(stream).to_string());
        assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
        answer
    };
    let answer = ask(false);
    assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("deadline_exceeded"), "{answer}");
    let answer = ask(true);
    assert!(answer.contains("deadline_exceeded") && !answer.contains("[DONE]"), "{answer}");
    let begin = Instant::now();
    while server.get("/health").1["queue"] != json!({"waiting": 0, "running": 0}) {
        assert!(begin.elapsed() < PATIENCE, "they go on");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(server.post(COMPLETIONS, &request(false)).0, 200);
}

#[test]
fn tls_is_served_and_its_health_asked() {
    if !with_device() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let made = rcgen::generate_simple_self_signed(["models.example".to_owned()]).expect("a certificate");
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    fs::write(&cert, made.cert.pem()).expect("a file");
    fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
    let arguments = ["-m", MODEL, "--tls-cert", plain(&cert), "--tls-key", plain(&key), "--path-prefix", "/hesper"];
    let server = Server::start(&arguments);
    let (address, prefix) = server.address.split_once('/').expect("the prefix is said");
    assert_eq!(prefix, "hesper");
    let port = address.rsplit_once(':').expect("a port").1;
    let health = |variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hesper"));
        let output = command.arg("health").env("HESPER_PORT", port).envs(variables.iter().copied()).output();
        output.expect("it starts").status.code()
    };
    let as_served = [("HESPER_TLS_CERT", plain(&cert)), ("HESPER_PATH_PREFIX", "/hesper")];
    assert_eq!(health(&as_served), Some(0));
    assert_eq!((health(&as_served[..1]), health(&as_served[1..])), (Some(1), Some(1)));
    fs::write(&key, "no key").expect("a file");
    server.signal("-HUP");
    server.until_it_says("what was in use before stays");
    assert_eq!(health(&as_served), Some(0));
    server.signal("-TERM");
    assert_eq!(server.end().0, Some(0));
    let wrong = Command::new(env!("CARGO_BIN_EXE_hesper"))
        .args(["serve", "--port", "0"])
        .args(arguments)
        .output()
        .expect("it starts");
    assert_eq!(wrong.status.code(), Some(1), "a key that is none is found at start");
}
