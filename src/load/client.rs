//! One server and how it is asked.

use super::answer::{self, Said, Usage};
use super::sse::SseParser;
use futures_util::StreamExt;
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde_json::{Value, json};
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bytes that one answer may have, in pieces or whole.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Bytes of an error's body that are read.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// What is the same for all requests.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The server, with or without `/v1` behind it.
    pub url: String,
    /// None takes the first model that the server lists.
    pub model: Option<String>,
    pub api_key: Option<String>,
    pub max_tokens: u32,
    pub stream: bool,
    /// How long one request may take, from sending it to its answer's last byte.
    pub timeout: Duration,
}

/// Why a server cannot be measured at all.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{url} is no address of a server: {problem}; give one as http://127.0.0.1:8080")]
    Url { url: String, problem: String },
    #[error("no HTTP client can be made: {0}")]
    Build(String),
    #[error("{url}: {failure}; check that the server runs there and speaks OpenAI's API")]
    Models { url: String, failure: Failure },
    #[error("{url} lists no model; name one with --model")]
    NoModel { url: String },
    #[error("{url}, model {model:?}: a first request failed: {failure}")]
    Probe { url: String, model: String, failure: Failure },
}

/// How a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    Refused,
    /// No connection for another reason: a name that is unknown, no route, TLS.
    Unreachable,
    Timeout,
    Status(u16),
    /// The connection ended before there was an answer.
    Lost,
    /// The answer ended, or its connection did, before it was complete.
    Truncated,
    /// The server reported an error within its answer.
    Reported,
    /// The answer is none of OpenAI's API, or is larger than any should be.
    Garbage,
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            FailureKind::Refused => f.write_str("connection refused"),
            FailureKind::Unreachable => f.write_str("no connection"),
            FailureKind::Timeout => f.write_str("timeout"),
            FailureKind::Status(status) => write!(f, "status {status}"),
            FailureKind::Lost => f.write_str("connection lost"),
            FailureKind::Truncated => f.write_str("truncated answer"),
            FailureKind::Reported => f.write_str("error in the stream"),
            FailureKind::Garbage => f.write_str("not understood"),
        }
    }
}

/// A request that failed, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {detail}")]
pub struct Failure {
    pub kind: FailureKind,
    pub detail: String,
}

impl Failure {
    fn new(kind: FailureKind, detail: impl Into<String>) -> Failure {
        Failure { kind, detail: detail.into() }
    }
}

impl From<Said> for Failure {
    fn from(said: Said) -> Failure {
        match said {
            Said::Error(text) => Failure::new(FailureKind::Reported, text),
            Said::Garbage(text) => Failure::new(FailureKind::Garbage, text),
        }
    }
}

/// An answer that came whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// From sending the request to the answer's last byte.
    pub latency: Duration,
    /// From sending the request to the first chunk with content; none without a stream or without content.
    pub first_token: Option<Duration>,
    /// Between chunks with content.
    pub gaps: Vec<Duration>,
    pub chunks: u64,
    pub prompt_tokens: Option<u64>,
    pub output_tokens: Option<u64>,
    /// The tokens are the server's count; otherwise chunks were counted.
    pub from_usage: bool,
    /// The request was sent twice: see [`Client::ask`].
    pub sent_again: bool,
}

pub type Outcome = Result<Sample, Failure>;

/// One server. It is asked by as many requests at a time as its users make.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    /// Opens a connection for each request.
    fresh: reqwest::Client,
    base: Url,
    settings: Settings,
    model: String,
    /// The server takes `stream_options`, by which it is asked to count tokens.
    asks_usage: AtomicBool,
}

impl Client {
    /// Finds out the model, unless it is given, and asks for one token, unmeasured: a server that cannot answer is known
    /// before anything is measured, and so is whether it takes `stream_options`.
    pub async fn connect(settings: Settings, first: &Value) -> Result<Client, ClientError> {
        let base = base_url(&settings.url)?;
        let http = http_client(&base, &settings, usize::MAX)?;
        let fresh = http_client(&base, &settings, 0)?;
        let model = settings.model.clone().unwrap_or_default();
        let mut client = Client { http, fresh, base, asks_usage: AtomicBool::new(settings.stream), settings, model };
        if client.settings.model.is_none() {
            client.model = client.first_model().await?;
        }
        let mut outcome = client.ask_for(first, 1).await;
        let refused = |outcome: &Outcome| {
            outcome.as_ref().is_err_and(|failure| matches!(failure.kind, FailureKind::Status(400 | 422)))
        };
        if client.asks_usage.load(Ordering::Relaxed) && refused(&outcome) {
            client.asks_usage.store(false, Ordering::Relaxed);
            outcome = client.ask_for(first, 1).await;
        }
        match outcome {
            Ok(_) => Ok(client),
            Err(failure) => Err(ClientError::Probe { url: client.base.to_string(), model: client.model, failure }),
        }
    }

    pub fn model(&self) -> &str {
        &self.model
    }

    pub fn url(&self) -> &Url {
        &self.base
    }

    /// The server refused `stream_options`, so that it counts no tokens for streams.
    pub fn refuses_usage(&self) -> bool {
        self.settings.stream && !self.asks_usage.load(Ordering::Relaxed)
    }

    /// Sends one request and reads all of its answer. A connection that was kept open may be closed by the server just
    /// when the next request is sent on it (llama-server does so); a request that is lost without a byte of an answer is
    /// therefore sent once more, on a connection of its own, and its sample says so.
    pub async fn ask(&self, messages: &Value) -> Outcome {
        self.ask_for(messages, self.settings.max_tokens).await
    }

    async fn ask_for(&self, messages: &Value, max_tokens: u32) -> Outcome {
        let mut body = json!({
            "model": self.model,
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": self.settings.stream,
        });
        if self.asks_usage.load(Ordering::Relaxed) {
            body["stream_options"] = json!({"include_usage": true});
        }
        let send = async |http: &reqwest::Client| -> Result<Response, Failure> {
            let request = self.authorized(http.post(self.endpoint("chat/completions"))).json(&body);
            request.send().await.map_err(|error| sending(&error))
        };
        let exchange = async {
            let start = Instant::now();
            let (response, sent_again) = match send(&self.http).await {
                Err(failure) if failure.kind == FailureKind::Lost => (send(&self.fresh).await?, true),
                sent => (sent?, false),
            };
            let response = checked(response).await?;
            let sample =
                if self.settings.stream { stream(response, start).await? } else { whole(response, start).await? };
            Ok(Sample { sent_again, ..sample })
        };
        self.in_time(exchange).await
    }

    async fn first_model(&self) -> Result<String, ClientError> {
        let request = self.authorized(self.http.get(self.endpoint("models")));
        let exchange = async {
            let response = checked(request.send().await.map_err(|error| sending(&error))?).await?;
            body(response).await
        };
        let url = || self.endpoint("models").to_string();
        let listed = self.in_time(exchange).await.map_err(|failure| ClientError::Models { url: url(), failure })?;
        answer::first_model(&listed).ok_or_else(|| ClientError::NoModel { url: url() })
    }

    async fn in_time<T>(&self, exchange: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let late =
            |_| Failure::new(FailureKind::Timeout, format!("no end after {} s", self.settings.timeout.as_secs_f64()));
        tokio::time::timeout(self.settings.timeout, exchange).await.map_err(late)?
    }

    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.settings.api_key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    fn endpoint(&self, name: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{name}", self.base.path().trim_end_matches('/')));
        url
    }
}

/// The address below which `chat/completions` lies: `/v1` is added to an address without a path.
fn base_url(text: &str) -> Result<Url, ClientError> {
    let wrong = |problem: String| ClientError::Url { url: text.to_owned(), problem };
    let mut url = Url::parse(text).map_err(|error| wrong(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("it begins neither with http:// nor with https://".to_owned()));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("it has a query or a fragment".to_owned()));
    }
    let path = url.path().trim_end_matches('/').trim_end_matches("/chat/completions").to_owned();
    url.set_path(if path.is_empty() { "/v1" } else { &path });
    Ok(url)
}

/// A client that keeps so many idle connections open.
fn http_client(base: &Url, settings: &Settings, idle_connections: usize) -> Result<reqwest::Client, ClientError> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("hesper/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(settings.timeout)
        .pool_max_idle_per_host(idle_connections)
        // A request that is sent again, or sent elsewhere, would be measured as one.
        .retry(reqwest::retry::never())
        .redirect(reqwest::redirect::Policy::none());
    let local = base.host_str().is_some_and(|host| matches!(host, "localhost" | "127.0.0.1" | "[::1]"));
    if local {
        // What runs on this machine is never behind a proxy.
        builder = builder.no_proxy();
    }
    with_tls(builder, base).build().map_err(|error| ClientError::Build(root(&error)))
}

/// The TLS that a client of this address needs: without it there need be no certificates on this machine.
pub fn with_tls(builder: reqwest::ClientBuilder, address: &Url) -> reqwest::ClientBuilder {
    // Whoever came first has set the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if address.scheme() == "http" { builder.tls_certs_only([]) } else { builder }
}

/// A failure to send, or to get the answer's head.
fn sending(error: &reqwest::Error) -> Failure {
    let refused = causes(error).any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    });
    let kind = match () {
        () if error.is_timeout() => FailureKind::Timeout,
        () if refused => FailureKind::Refused,
        () if error.is_connect() => FailureKind::Unreachable,
        () => FailureKind::Lost,
    };
    Failure::new(kind, root(error))
}

/// A failure while the answer's body came.
fn reading(error: &reqwest::Error) -> Failure {
    let kind = if error.is_timeout() { FailureKind::Timeout } else { FailureKind::Truncated };
    Failure::new(kind, root(error))
}

fn causes<'a>(error: &'a reqwest::Error) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error as &(dyn Error + 'static)), |error| (**error).source())
}

/// The text of the innermost cause, which says what happened.
fn root(error: &reqwest::Error) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

/// Passes an answer with status 200 on.
async fn checked(response: Response) -> Result<Response, Failure> {
    let status = response.status();
    if status == StatusCode::OK {
        return Ok(response);
    }
    // A body that breaks off still tells what it can.
    let mut bytes = Vec::new();
    let mut pieces = response.bytes_stream();
    while let Some(Ok(piece)) = pieces.next().await {
        bytes.extend_from_slice(&piece);
        if bytes.len() > ERROR_BYTES_MAX {
            break;
        }
    }
    Err(Failure::new(FailureKind::Status(status.as_u16()), answer::error_text(&String::from_utf8_lossy(&bytes))))
}

fn too_large() -> Failure {
    Failure::new(FailureKind::Garbage, format!("the answer has more than {ANSWER_BYTES_MAX} bytes"))
}

async fn body(response: Response) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let mut pieces = response.bytes_stream();
    while let Some(piece) = pieces.next().await {
        bytes.extend_from_slice(&piece.map_err(|error| reading(&error))?);
        if bytes.len() > ANSWER_BYTES_MAX {
            return Err(too_large());
        }
    }
    String::from_utf8(bytes).map_err(|_| Failure::new(FailureKind::Garbage, "the answer is not UTF-8"))
}

async fn whole(response: Response, start: Instant) -> Outcome {
    let text = body(response).await?;
    let latency = start.elapsed();
    let sample = Sample { latency, ..Sample::default() };
    Ok(match answer::whole(&text)? {
        Some(usage) => sample.with_usage(usage),
        None => sample,
    })
}

impl Sample {
    fn with_usage(self, usage: Usage) -> Sample {
        let (prompt, output) = (Some(usage.prompt_tokens), Some(usage.output_tokens));
        Sample { prompt_tokens: prompt, output_tokens: output, from_usage: true, ..self }
    }
}

/// Reads a stream to its end: `[DONE]`, or the connection's after a reason to finish, since not every server sends both.
async fn stream(response: Response, start: Instant) -> Outcome {
    let (mut parser, mut pieces) = (SseParser::default(), response.bytes_stream());
    let (mut sample, mut usage, mut last) = (Sample::default(), None, None);
    let (mut bytes, mut finished, mut done) = (0, false, false);
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| reading(&error))?;
        let now = Instant::now();
        bytes += piece.len();
        if bytes > ANSWER_BYTES_MAX {
            return Err(too_large());
        }
        let events = parser.push(&piece).map_err(|error| Failure::new(FailureKind::Garbage, error.to_string()))?;
        for data in events {
            if done {
                return Err(Failure::new(FailureKind::Garbage, "there is data behind [DONE]"));
            }
            if data == "[DONE]" {
                done = true;
                continue;
            }
            let chunk = answer::chunk(&data)?;
            if chunk.content {
                sample.chunks += 1;
                match last.replace(now) {
                    None => sample.first_token = Some(now - start),
                    Some(before) => sample.gaps.push(now - before),
                }
            }
            finished |= chunk.finished;
            usage = chunk.usage.or(usage);
        }
    }
    if !done && !finished {
        let detail =
            format!("the stream ended after {} chunks, with neither a finish_reason nor [DONE]", sample.chunks);
        let kind = if bytes == 0 || sample.chunks > 0 { FailureKind::Truncated } else { FailureKind::Garbage };
        return Err(Failure::new(kind, detail));
    }
    sample.latency = start.elapsed();
    sample.output_tokens = Some(sample.chunks);
    Ok(match usage {
        Some(usage) => sample.with_usage(usage),
        None => sample,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_and_without_a_path() {
        let base = |text: &str| base_url(text).map(|url| url.to_string()).map_err(|error| error.to_string());
        for text in ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/", "http://h:1/v1/chat/completions"] {
            assert_eq!(base(text).as_deref(), Ok("http://h:1/v1"), "{text}");
        }
        assert_eq!(base("https://h/openai/v1").as_deref(), Ok("https://h/openai/v1"));
        for wrong in ["", "h", "127.0.0.1:8080", "ftp://h", "http://", "http://h/?a=b", "http://h/#a"] {
            assert!(base(wrong).expect_err(wrong).contains("http://127.0.0.1:8080"), "{wrong}");
        }
    }
}
