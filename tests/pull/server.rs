//! An HTTP/1.1 server that answers as it is told to, wrongly too. It counts and keeps what it was asked.

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// Bytes that are written to a connection at once.
const BLOCK_BYTES: u64 = 64 << 10;
const MIB: usize = 1 << 20;

/// A file of any length that is made while it is read: a GGUF file's first bytes, then noise that differs from mebibyte
/// to mebibyte and from seed to seed.
#[derive(Clone)]
pub struct Content {
    pub bytes: u64,
    noise: Arc<Vec<u8>>,
    sha256: Arc<OnceLock<String>>,
}

impl Content {
    pub fn new(bytes: u64, seed: u64) -> Content {
        // splitmix64
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        };
        let noise = (0..2 * MIB / 8).flat_map(|_| next().to_le_bytes()).collect();
        Content { bytes, noise: Arc::new(noise), sha256: Arc::default() }
    }

    /// The bytes of `range`, which lies in one mebibyte.
    fn within(&self, range: Range<u64>) -> Vec<u8> {
        let (page, at) = (range.start / MIB as u64, (range.start % MIB as u64) as usize);
        let shift = (page as usize * 7919) % MIB;
        let mut bytes = self.noise[shift + at..][..(range.end - range.start) as usize].to_vec();
        for (byte, magic) in bytes.iter_mut().zip((b"GGUF".iter()).skip(range.start as usize)) {
            *byte = *magic;
        }
        bytes
    }

    /// Gives `range` to `out` piece by piece.
    pub fn each(&self, range: Range<u64>, mut out: impl FnMut(&[u8]) -> std::io::Result<()>) -> std::io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let end = (at + BLOCK_BYTES).min(range.end).min((at / MIB as u64 + 1) * MIB as u64);
            out(&self.within(at..end))?;
            at = end;
        }
        Ok(())
    }

    /// In hexadecimal; computed once.
    pub fn sha256(&self) -> &str {
        self.sha256.get_or_init(|| self.hash())
    }

    fn hash(&self) -> String {
        use sha2::Digest;
        let mut hash = sha2::Sha256::new();
        self.each(0..self.bytes, |bytes| {
            hash.update(bytes);
            Ok(())
        })
        .expect("hashing cannot fail");
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[derive(Clone, Debug)]
pub struct Request {
    /// With its query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// How many requests came before.
    pub number: u64,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// First and last byte that are asked for.
    pub fn range(&self) -> Option<(u64, u64)> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    }
}

pub enum Body {
    Text(String),
    File(Content, Range<u64>),
}

pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Body,
    /// Ends the connection after so many bytes of the body.
    pub cut: Option<u64>,
    /// Falls silent, with the connection open, after so many bytes of the body.
    pub stall: Option<u64>,
    /// Sends more bytes than its length says.
    pub excess: bool,
    /// Bytes a second at most.
    pub rate: Option<u64>,
}

impl Reply {
    pub fn text(status: u16, text: impl Into<String>) -> Reply {
        let (headers, body) = (Vec::new(), Body::Text(text.into()));
        Reply { status, headers, body, cut: None, stall: None, excess: false, rate: None }
    }

    pub fn redirect(location: &str) -> Reply {
        Reply::text(302, "").with("location", location)
    }

    /// The file, or the range of it that is asked for, as servers do.
    pub fn file(request: &Request, content: &Content) -> Reply {
        let mut reply = Reply::text(200, "");
        reply.body = Body::File(content.clone(), 0..content.bytes);
        let Some((first, last)) = request.range() else { return reply };
        reply.status = 206;
        reply.body = Body::File(content.clone(), first..last + 1);
        reply.with("content-range", &format!("bytes {first}-{last}/{}", content.bytes))
    }

    pub fn with(mut self, name: &str, value: &str) -> Reply {
        self.headers.retain(|(key, _)| key != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn length(&self) -> u64 {
        match &self.body {
            Body::Text(text) => text.len() as u64,
            Body::File(_, range) => range.end - range.start,
        }
    }
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// A running server. It ends with the process; tests are short.
pub struct Server {
    pub port: u16,
    pub requests: Arc<Mutex<Vec<Request>>>,
    /// Bytes of bodies that were sent.
    pub sent_bytes: Arc<AtomicU64>,
}

impl Server {
    pub fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
        Server::listen(None, handler)
    }

    /// A server with encryption, if it has a certificate.
    pub fn listen(
        tls: Option<Arc<ServerConfig>>,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let server = Server { port, requests: Arc::default(), sent_bytes: Arc::default() };
        let (requests, sent, handler) = (server.requests.clone(), server.sent_bytes.clone(), Arc::new(handler));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                stream.set_nodelay(true).expect("an open socket");
                let (requests, sent, handler, tls) = (requests.clone(), sent.clone(), handler.clone(), tls.clone());
                // A client may hang up at any time, which is no concern here.
                std::thread::spawn(move || match tls {
                    None => drop(converse(stream, &requests, &sent, handler.as_ref())),
                    Some(tls) => {
                        let connection = ServerConnection::new(tls).expect("a configuration");
                        let stream = StreamOwned::new(connection, stream);
                        drop(converse(stream, &requests, &sent, handler.as_ref()));
                    }
                });
            }
        });
        server
    }

    /// Serves one file, with an ETag.
    pub fn of(content: &Content) -> Server {
        let content = content.clone();
        Server::start(move |request| Reply::file(request, &content).with("etag", "\"one\""))
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn count(&self) -> usize {
        self.requests.lock().expect("no test panics with it").len()
    }
}

fn converse(
    mut stream: impl Read + Write,
    requests: &Mutex<Vec<Request>>,
    sent: &AtomicU64,
    handler: &Handler,
) -> std::io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).map_err(std::io::Error::other)?;
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let lines = head.lines().filter_map(|line| line.split_once(':'));
        let headers = lines.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        let request = {
            let mut requests = requests.lock().expect("no test panics with it");
            let request = Request { path, headers, number: requests.len() as u64 };
            requests.push(request.clone());
            request
        };
        if !send(&mut stream, &handler(&request), sent)? {
            return Ok(());
        }
    }
}

/// False when the connection is to be closed.
fn send(stream: &mut impl Write, reply: &Reply, sent: &AtomicU64) -> std::io::Result<bool> {
    let mut head = format!("HTTP/1.1 {} Status\r\n", reply.status);
    if !reply.headers.iter().any(|(name, _)| name == "content-length" || name == "transfer-encoding") {
        head.push_str(&format!("content-length: {}\r\n", reply.length()));
    }
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    let limit = reply.cut.or(reply.stall).unwrap_or(u64::MAX).min(reply.length());
    let mut write = |bytes: &[u8]| {
        stream.write_all(bytes)?;
        sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if let Some(rate) = reply.rate {
            std::thread::sleep(Duration::from_secs_f64(bytes.len() as f64 / rate as f64));
        }
        Ok(())
    };
    match &reply.body {
        Body::Text(text) => write(&text.as_bytes()[..limit as usize])?,
        Body::File(content, range) => content.each(range.start..range.start + limit, &mut write)?,
    }
    if reply.excess {
        write(&[b'x'; 1000])?;
    }
    if reply.stall.is_some() {
        // Longer than any limit of a test; the client hangs up before.
        std::thread::sleep(Duration::from_secs(60));
    }
    Ok(reply.cut.is_none() && !reply.excess && reply.stall.is_none())
}
