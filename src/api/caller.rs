//! Who asks, until when, and what came of it: one record for each request, which goes with its task and is told in one
//! line of the log when the last byte of its answer is sent.

use super::{Settings, error::ApiError, trace};
use axum::{
    body::{Body, Bytes, HttpBody},
    extract::FromRequestParts,
    http::{HeaderMap, Method, StatusCode, request::Parts},
};
use hyper::body::{Frame, SizeHint};
use std::{
    convert::Infallible,
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tracing::Span;

/// Seconds, with a fraction or not, after which a client has no use for an answer.
pub const TIMEOUT_HEADER: &str = "x-request-timeout";
/// Longest time that a client may ask for; more means nothing.
const TIMEOUT_MAX_S: f64 = 1e6;

/// Paths that are asked every few seconds by what watches a server.
const WATCHED: [&str; 2] = ["/health", "/metrics"];

tokio::task_local! {
    static CURRENT: Arc<Record>;
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// A request, from its head to its answer's last byte.
#[derive(Debug)]
pub struct Record {
    pub id: String,
    method: Method,
    path: String,
    begin: Instant,
    /// The name of its key.
    key: OnceLock<Arc<str>>,
    /// Whom its share of the device is for: a key's name, or an address.
    client: OnceLock<Arc<str>>,
    deadline: OnceLock<Instant>,
    figures: Mutex<Figures>,
    span: Span,
}

/// What is known of an answer, more from step to step. Times are from the request's head on.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub status: Option<u16>,
    pub model: Option<String>,
    pub prompt_tokens: Option<u64>,
    pub cached_tokens: Option<u64>,
    pub completion_tokens: Option<u64>,
    /// Time in the engine's queue.
    pub queue: Option<Duration>,
    pub first_token: Option<Duration>,
    pub finish: Option<&'static str>,
}

impl Record {
    /// `span` ends with it.
    pub fn new(id: String, method: Method, path: String, span: Span) -> Record {
        Record {
            id,
            method,
            path,
            begin: Instant::now(),
            key: OnceLock::new(),
            client: OnceLock::new(),
            deadline: OnceLock::new(),
            figures: Mutex::default(),
            span,
        }
    }

    pub fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn begin(&self) -> Instant {
        self.begin
    }

    /// Settles who asks and until when. `key` is the name of the key that was given.
    ///
    /// # Errors
    /// 400 for a time limit that is none.
    pub fn admit(
        &self,
        settings: &Settings,
        key: Option<Arc<str>>,
        peer: Option<SocketAddr>,
        headers: &HeaderMap,
    ) -> Result<(), ApiError> {
        let address = || match forwarded(headers, settings.trusted_proxies).or(peer.map(|peer| peer.ip())) {
            Some(address) => address.to_canonical().to_string().into(),
            None => Arc::from(""),
        };
        // Each is set once, by the one guard that all requests pass.
        let _ = self.client.set(key.clone().unwrap_or_else(address));
        if let Some(key) = key {
            let _ = self.key.set(key);
        }
        let limit = timeout_of(headers)?.into_iter().chain(settings.request_limit).min();
        if let Some(deadline) = limit.and_then(|limit| self.begin.checked_add(limit)) {
            let _ = self.deadline.set(deadline);
        }
        Ok(())
    }
}

/// The address that the outermost of `trusted` proxies saw. Each appends the one that it was asked by, so what stands
/// further left may be invented by the client.
fn forwarded(headers: &HeaderMap, trusted: usize) -> Option<IpAddr> {
    let lines: Vec<&str> = headers.get_all("x-forwarded-for").iter().filter_map(|line| line.to_str().ok()).collect();
    let addresses: Vec<&str> = lines.iter().flat_map(|line| line.split(',')).map(str::trim).collect();
    let place = addresses.len().checked_sub(trusted.max(1)).filter(|_| trusted > 0)?;
    let text = addresses[place];
    text.parse::<IpAddr>().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))
}

fn timeout_of(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let Some(value) = headers.get(TIMEOUT_HEADER) else { return Ok(None) };
    let seconds = value.to_str().ok().and_then(|text| text.trim().parse::<f64>().ok());
    match seconds {
        Some(seconds) if seconds > 0.0 => Ok(Some(Duration::from_secs_f64(seconds.min(TIMEOUT_MAX_S)))),
        _ => {
            let message = format!("the header `{TIMEOUT_HEADER}` must be a number of seconds above 0");
            Err(ApiError::field(TIMEOUT_HEADER, message))
        }
    }
}

/// The record of the request that this task works for.
pub fn current() -> Option<Arc<Record>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// Whom the running request is for; empty for none.
pub fn client() -> Arc<str> {
    current().and_then(|record| record.client.get().cloned()).unwrap_or_else(|| "".into())
}

/// The name of the key that a request brought: whose is what it stores. Empty where no key is asked for; then all clients
/// are one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyName(pub Arc<str>);

impl<S: Send + Sync> FromRequestParts<S> for KeyName {
    type Rejection = Infallible;

    async fn from_request_parts(_: &mut Parts, _: &S) -> Result<KeyName, Infallible> {
        Ok(KeyName(current().and_then(|record| record.key.get().cloned()).unwrap_or_else(|| "".into())))
    }
}

/// When the running request is given up.
pub fn deadline() -> Option<Instant> {
    current()?.deadline.get().copied()
}

/// `work` for the request of `record`.
pub async fn within<T>(record: Arc<Record>, work: impl Future<Output = T>) -> T {
    CURRENT.scope(record, work).await
}

/// `work` for the request that this task works for, on whatever task it runs.
pub fn carried<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    let record = current();
    async move {
        match record {
            Some(record) => CURRENT.scope(record, work).await,
            None => work.await,
        }
    }
}

/// What a request is answered with that was not complete in time.
pub fn timed_out() -> ApiError {
    let message = "the answer was not complete at the request's deadline";
    ApiError::new(StatusCode::GATEWAY_TIMEOUT, message).code("deadline_exceeded")
}

impl Drop for Record {
    fn drop(&mut self) {
        let figures = self.figures.get_mut().unwrap_or_else(PoisonError::into_inner);
        trace::end(&self.span, figures);
        let ms = |time: Duration| time.as_micros() as f64 / 1000.0;
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    target: "hesper::request",
                    $level,
                    id = self.id,
                    key = self.key.get().map(|key| &**key),
                    method = self.method.as_str(),
                    path = self.path,
                    model = figures.model.as_deref(),
                    status = figures.status,
                    prompt_tokens = figures.prompt_tokens,
                    cached_tokens = figures.cached_tokens,
                    completion_tokens = figures.completion_tokens,
                    queue_ms = figures.queue.map(ms),
                    first_token_ms = figures.first_token.map(ms),
                    total_ms = ms(self.begin.elapsed()),
                    finish = figures.finish,
                    "answered"
                )
            };
        }
        if WATCHED.contains(&self.path.as_str()) { line!(tracing::Level::DEBUG) } else { line!(tracing::Level::INFO) }
    }
}

/// An answer's body, which keeps the record until it is sent or given up.
pub struct Recorded {
    pub body: Body,
    pub _record: Arc<Record>,
}

impl HttpBody for Recorded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    fn headers(name: &'static str, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn only_trusted_proxies_say_who_asks() {
        let of = |values: &[&str], trusted| forwarded(&headers("x-forwarded-for", values), trusted);
        let address = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        assert_eq!(of(&["1.2.3.4"], 0), None);
        assert_eq!(of(&["6.6.6.6, 1.2.3.4"], 1), address("1.2.3.4"), "what the client sent itself is not believed");
        assert_eq!(of(&["6.6.6.6, 1.2.3.4", "10.0.0.1"], 2), address("1.2.3.4"));
        assert_eq!(of(&["1.2.3.4"], 2), None);
        assert_eq!(of(&["1.2.3.4:80"], 1), address("1.2.3.4"));
        assert_eq!(of(&["2001:db8::1"], 1), address("2001:db8::1"));
        assert_eq!(of(&["unknown"], 1), None);
        assert_eq!(of(&[], 1), None);
    }

    #[test]
    fn the_earlier_deadline_counts() {
        let deadline = |limit: Option<u64>, sent: &[&str]| {
            let settings = Settings { request_limit: limit.map(Duration::from_secs), ..Settings::default() };
            let record = Record::new(String::new(), Method::GET, String::new(), Span::none());
            record.admit(&settings, None, None, &headers(TIMEOUT_HEADER, sent))?;
            Ok(record.deadline.get().map(|deadline| (*deadline - record.begin).as_secs_f64()))
        };
        assert_eq!(deadline(None, &[]), Ok(None));
        assert_eq!(deadline(Some(5), &[]), Ok(Some(5.0)));
        assert_eq!(deadline(Some(5), &["2.5"]), Ok(Some(2.5)));
        assert_eq!(deadline(Some(5), &["60"]), Ok(Some(5.0)));
        for wrong in ["", "0", "-1", "soon", "NaN"] {
            let error: ApiError = deadline(None, &[wrong]).unwrap_err();
            assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some(TIMEOUT_HEADER)), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(text in "[ -~]{0,60}", trusted in 0usize..4) {
            let record = Record::new(String::new(), Method::GET, String::new(), Span::none());
            let mut all = headers("x-forwarded-for", &[&text]);
            all.append(TIMEOUT_HEADER, HeaderValue::from_str(&text).unwrap());
            let settings = Settings { trusted_proxies: trusted, ..Settings::default() };
            let _ = record.admit(&settings, None, None, &all);
        }
    }
}
