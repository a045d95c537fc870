//! Real connections: clients that go away, that are slow, and a server that ends.

use crate::harness::{PATIENCE, engine, say, state, text, token};
use hesper::{
    api::{Settings, State, serve},
    engine::request::{Event, FinishReason, Request},
};
use std::{
    future::Future,
    net::SocketAddr,
    sync::mpsc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};

struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    served: JoinHandle<usize>,
}

async fn start(state: State) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async { drop(stopped.await) };
    Server { address, stop, served: tokio::spawn(serve(listener, state, shutdown)) }
}

impl Server {
    /// Asks the server to end; answers how many connections were cut.
    async fn end(self) -> usize {
        drop(self.stop);
        in_time(self.served).await.unwrap()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("in time")
}

async fn until(condition: impl Fn() -> bool) {
    in_time(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

async fn ask(stream: &mut TcpStream, body: &str) {
    let head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length:";
    stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A connection that is reset has nothing more to say either.
    let _ = in_time(stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

const WHOLE: &str = r#"{"prompt": "a", "max_tokens": 500}"#;
const STREAMED: &str = r#"{"prompt": "a", "max_tokens": 500, "stream": true}"#;

/// A script that sends a token every few milliseconds until nobody listens, then tells how many it sent.
fn endless(told: mpsc::Sender<usize>) -> impl FnMut(Request) + Send + 'static {
    let id = text().encode(" and", true)[0];
    move |request| {
        let begin = Instant::now();
        let mut count = 0;
        while request.events.send(Event::Token { choice: 0, token: token(&request, id) }).is_ok() {
            count += 1;
            std::thread::sleep(Duration::from_millis(2));
            assert!(begin.elapsed() < PATIENCE, "the client's leaving is never noticed");
        }
        told.send(count).unwrap();
    }
}

async fn told(receiver: mpsc::Receiver<usize>) -> (usize, mpsc::Receiver<usize>) {
    let wait = move || (receiver.recv_timeout(PATIENCE).expect("the engine notices"), receiver);
    tokio::task::spawn_blocking(wait).await.unwrap()
}

#[tokio::test]
async fn a_client_that_leaves_stops_its_generation() {
    let (sender, mut receiver) = mpsc::channel();
    let handle = engine(4, endless(sender));
    let server = start(state(Settings::default(), handle.clone())).await;
    for body in [WHOLE, STREAMED] {
        let mut stream = server.connect().await;
        ask(&mut stream, body).await;
        until(|| handle.running() == 1).await;
        drop(stream);
        let count;
        (count, receiver) = told(receiver).await;
        assert!(count > 0, "{body}");
        until(|| handle.running() == 0).await;
    }
    assert_eq!(server.end().await, 0);
}

#[tokio::test]
async fn a_client_that_leaves_the_queue_is_never_run() {
    let (sender, receiver) = mpsc::channel();
    let handle = engine(4, endless(sender));
    let server = start(state(Settings::default(), handle.clone())).await;
    let mut first = server.connect().await;
    ask(&mut first, STREAMED).await;
    let mut bytes = [0; 256];
    assert!(in_time(first.read(&mut bytes)).await.unwrap() > 0);
    let mut second = server.connect().await;
    ask(&mut second, WHOLE).await;
    until(|| handle.waiting() == 1).await;
    drop(second);
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(first);
    let (_, receiver) = told(receiver).await;
    until(|| handle.waiting() + handle.running() == 0).await;
    assert!(receiver.try_recv().is_err(), "only the first request ran");
    assert_eq!(server.end().await, 0);
}

#[tokio::test]
async fn a_stop_string_ends_the_engines_work() {
    let (sender, receiver) = mpsc::channel();
    let server = start(state(Settings::default(), engine(4, endless(sender)))).await;
    let mut stream = server.connect().await;
    ask(&mut stream, r#"{"prompt": "a", "max_tokens": 500, "stop": "and and", "stream": true}"#).await;
    let (count, _) = told(receiver).await;
    assert!(count < 100, "{count}");
    drop(stream);
    assert_eq!(server.end().await, 0);
}

/// Sends half of an answer, waits to be told, sends the rest.
fn halting(began: mpsc::Sender<()>, go_on: mpsc::Receiver<()>) -> impl FnMut(Request) + Send + 'static {
    let ids = text().encode("One two", true);
    move |request| {
        let send = |event| request.events.send(event).unwrap();
        send(Event::Started { cached_tokens: 0 });
        send(Event::Token { choice: 0, token: token(&request, ids[0]) });
        began.send(()).unwrap();
        if go_on.recv().is_err() {
            return;
        }
        for &id in &ids[1..] {
            send(Event::Token { choice: 0, token: token(&request, id) });
        }
        send(Event::Finished { choice: 0, reason: FinishReason::Stop });
    }
}

#[tokio::test]
async fn shutdown_lets_running_requests_finish() {
    for body in [WHOLE, STREAMED] {
        let (began, running) = mpsc::channel();
        let (go_on, halted) = mpsc::channel();
        let handle = engine(4, halting(began, halted));
        let server = start(state(Settings::default(), handle.clone())).await;
        let mut stream = server.connect().await;
        let mut idle = server.connect().await;
        ask(&mut stream, body).await;
        tokio::task::spawn_blocking(move || running.recv_timeout(PATIENCE)).await.unwrap().unwrap();
        let address = server.address;
        let ended = tokio::spawn(server.end());
        until(|| handle.is_draining()).await;
        assert_eq!(rest(&mut idle).await, "", "idle connections are closed");
        assert!(TcpStream::connect(address).await.is_err(), "no connection is accepted any more");
        go_on.send(()).unwrap();
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"stop\""), "{answer}");
        assert_eq!(answer.contains("[DONE]"), body == STREAMED, "{answer}");
        assert_eq!(in_time(ended).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn shutdown_cuts_what_takes_too_long() {
    let (began, running) = mpsc::channel();
    let (_go_on, halted) = mpsc::channel();
    let settings = Settings { drain_limit: Duration::from_millis(100), ..Settings::default() };
    let server = start(state(settings, engine(4, halting(began, halted)))).await;
    let mut stream = server.connect().await;
    ask(&mut stream, STREAMED).await;
    tokio::task::spawn_blocking(move || running.recv_timeout(PATIENCE)).await.unwrap().unwrap();
    assert_eq!(server.end().await, 1);
    assert!(!rest(&mut stream).await.contains("[DONE]"));
}

#[tokio::test]
async fn slow_headers_are_cut() {
    let settings = Settings { read_limit: Duration::from_millis(100), ..Settings::default() };
    let server = start(state(settings, engine(4, say("ok")))).await;
    let mut stream = server.connect().await;
    stream.write_all(b"POST /v1/completions HTTP/1.1\r\nhost:").await.unwrap();
    assert!(!rest(&mut stream).await.contains("200 OK"));
    assert_eq!(server.end().await, 0);
}

#[tokio::test]
async fn connections_are_bounded() {
    let settings = Settings { connections: 2, ..Settings::default() };
    let server = start(state(settings, engine(4, say("ok")))).await;
    let get = b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = server.connect().await;
        stream.write_all(get).await.unwrap();
        let mut bytes = [0; 1024];
        assert!(in_time(stream.read(&mut bytes)).await.unwrap() > 0);
        open.push(stream);
    }
    let mut third = server.connect().await;
    third.write_all(get).await.unwrap();
    let mut bytes = [0; 1024];
    let waits = timeout(Duration::from_millis(200), third.read(&mut bytes)).await;
    assert!(waits.is_err(), "the third waits");
    open.pop();
    assert!(in_time(third.read(&mut bytes)).await.unwrap() > 0, "until another leaves");
    drop((open, third));
    assert_eq!(server.end().await, 0);
}

#[tokio::test]
async fn garbage_is_not_served() {
    let server = start(state(Settings::default(), engine(4, say("ok")))).await;
    for garbage in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"GET\r\n\r\n", b"\xff\xff\xff\xff\r\n\r\n"] {
        let mut stream = server.connect().await;
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        assert!(!rest(&mut stream).await.contains("200 OK"));
    }
    let mut stream = server.connect().await;
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 200 OK"));
    assert_eq!(server.end().await, 0);
}

#[tokio::test]
async fn a_client_that_sends_too_much_reads_why() {
    let settings = Settings { body_limit_bytes: 1 << 20, ..Settings::default() };
    let server = start(state(settings, engine(4, say("ok")))).await;
    let mut stream = server.connect().await;
    ask(&mut stream, &format!("{{\"prompt\": \"{}\"}}", "a".repeat(5 << 20))).await;
    let mut bytes = [0; 4096];
    let read = in_time(stream.read(&mut bytes)).await.unwrap();
    let answer = String::from_utf8_lossy(&bytes[..read]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("body_too_large"), "{answer}");
    drop(stream);
    assert_eq!(server.end().await, 0);
}
