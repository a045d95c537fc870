//! A server on a free port of this machine that speaks just enough HTTP to be wrong in every way.

use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// What the server does with a request.
pub enum Reply {
    /// These bytes, then the end of the connection.
    Bytes(Vec<u8>),
    /// These bytes once all requests that the server waits for have come.
    WhenAllCame(Vec<u8>),
    /// These bytes, then nothing, and the connection stays open.
    Stall(Vec<u8>),
}

pub struct Server {
    pub address: SocketAddr,
    pub asked: Arc<Asked>,
    accepting: JoinHandle<()>,
}

/// What the server was asked.
#[derive(Default)]
pub struct Asked {
    /// Bodies of requests, in the order in which they came; null where there was none.
    pub bodies: Mutex<Vec<Value>>,
    /// Heads of requests.
    pub heads: Mutex<Vec<String>>,
    came: Notify,
}

impl Asked {
    pub fn count(&self) -> usize {
        self.bodies.lock().unwrap().len()
    }

    /// Waits until `count` requests have come.
    pub async fn until(&self, count: usize) {
        loop {
            let came = self.came.notified();
            if self.count() >= count {
                return;
            }
            came.await;
        }
    }
}

impl Server {
    /// Answers each request with what `script` says; `WhenAllCame` waits for `all` requests. Must be called in a runtime.
    pub async fn start(all: usize, script: impl Fn(&Value) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, script) = (Arc::new(Asked::default()), Arc::new(script));
        let record = asked.clone();
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (record, script) = (record.clone(), script.clone());
                tokio::spawn(async move { answer(stream, all, &record, &*script).await });
            }
        });
        Server { address, asked, accepting }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Nobody listens any more when this returns.
    pub async fn end(self) {
        self.accepting.abort();
        drop(self.accepting.await);
    }
}

async fn answer(mut stream: TcpStream, all: usize, asked: &Asked, script: &(dyn Fn(&Value) -> Reply + Send + Sync)) {
    let Some((head, body)) = request(&mut stream).await else { return };
    let reply = script(&body);
    asked.heads.lock().unwrap().push(head);
    asked.bodies.lock().unwrap().push(body);
    asked.came.notify_waiters();
    let (bytes, stall) = match reply {
        Reply::Bytes(bytes) => (bytes, false),
        Reply::Stall(bytes) => (bytes, true),
        Reply::WhenAllCame(bytes) => {
            asked.until(all).await;
            (bytes, false)
        }
    };
    // The client may have gone; that is its business.
    drop(stream.write_all(&bytes).await);
    if stall {
        std::future::pending::<()>().await;
    }
    drop(stream.shutdown().await);
}

/// Reads one request: its head, and its body, null where it has none.
async fn request(stream: &mut TcpStream) -> Option<(String, Value)> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.to_lowercase().lines().find_map(|line| Some(line.strip_prefix("content-length: ")?.to_owned()));
            let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
            if body.len() >= length {
                let body = if length == 0 { Value::Null } else { serde_json::from_str(body).unwrap() };
                return Some((head.to_owned(), body));
            }
        }
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}

/// An answer of HTTP with its length.
pub fn http(status: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

pub fn error(status: &str, message: &str) -> Vec<u8> {
    http(status, "application/json", json!({"error": {"message": message}}).to_string().as_bytes())
}

pub fn whole(body: &Value) -> Vec<u8> {
    http("200 OK", "application/json", body.to_string().as_bytes())
}

/// A stream of these texts as events.
pub fn stream(events: &[String]) -> Vec<u8> {
    let body: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    http("200 OK", "text/event-stream", body.as_bytes())
}

pub fn content(text: &str) -> String {
    json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]}).to_string()
}

pub fn finish() -> String {
    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}).to_string()
}

pub fn usage(prompt: u64, output: u64) -> String {
    let usage = json!({"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output});
    json!({"choices": [], "usage": usage}).to_string()
}

pub fn done() -> String {
    "[DONE]".to_owned()
}

/// A plain stream of three chunks that a server counts as six tokens.
pub fn good_stream() -> Vec<u8> {
    stream(&[content("a"), content("b"), content("c"), finish(), usage(4, 6), done()])
}

/// The unmeasured request by which the client gets to know the server.
pub fn is_probe(body: &Value) -> bool {
    body["max_tokens"] == 1
}
