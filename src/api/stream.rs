//! Server-sent events: a task produces them and ends as soon as nobody reads.

use super::{Settings, caller, error::ApiError};
use axum::{
    http::HeaderValue,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use serde_json::Value;
use std::{convert::Infallible, future::Future, time::Duration};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;

/// Events that may wait for a slow reader.
const BUFFERED_EVENTS: usize = 16;

/// Why a stream ends before its last event.
#[derive(Debug)]
pub enum Broken {
    /// The client went away or takes nothing.
    Gone,
    /// Sent as the last event.
    Failed(ApiError),
}

impl From<ApiError> for Broken {
    fn from(error: ApiError) -> Broken {
        Broken::Failed(error)
    }
}

/// What a dialect's streams have of their own. A pair is an event's name and its data.
#[derive(Clone, Copy)]
pub struct Protocol {
    /// Sent after the last event.
    pub end: Option<&'static str>,
    pub failure: fn(&ApiError) -> (Option<&'static str>, Value),
    /// Sent while there is nothing else; a comment, if there is none.
    pub ping: Option<(&'static str, &'static str)>,
}

/// Chats' and completions': events without names.
pub const CHUNKS: Protocol = Protocol { end: Some("[DONE]"), failure: |error| (None, error.body()), ping: None };

/// Where a stream's producer puts its chunks.
pub struct Sink {
    events: mpsc::Sender<Result<Event, Infallible>>,
    write_limit: Duration,
}

impl Sink {
    /// Sends one chunk; waits while the reader is behind.
    pub async fn send(&self, chunk: &Value) -> Result<(), Broken> {
        self.event(Event::default().data(chunk.to_string())).await
    }

    /// Sends an event that has a name.
    pub async fn send_named(&self, name: &str, data: &Value) -> Result<(), Broken> {
        self.event(Event::default().event(name).data(data.to_string())).await
    }

    async fn event(&self, event: Event) -> Result<(), Broken> {
        match timeout(self.write_limit, self.events.send(Ok(event))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Broken::Gone),
        }
    }
}

/// A response whose events `produce` sends. When the client goes, the future that `produce` made is dropped at its
/// next wait, and with it whatever it owns.
pub fn respond<F>(settings: &Settings, protocol: Protocol, produce: impl FnOnce(Sink) -> F) -> Response
where
    F: Future<Output = Result<Sink, Broken>> + Send + 'static,
{
    let (events, receiver) = mpsc::channel(BUFFERED_EVENTS);
    let (watched, last) = (events.clone(), events.clone());
    let write_limit = settings.write_limit;
    let producer = produce(Sink { events, write_limit });
    tokio::spawn(caller::carried(async move {
        let outcome = tokio::select! {
            () = watched.closed() => return,
            outcome = producer => outcome,
        };
        // Whoever is gone by now needs no word.
        let _ = match outcome {
            Ok(sink) => match protocol.end {
                Some(end) => sink.event(Event::default().data(end)).await,
                None => Ok(()),
            },
            Err(Broken::Failed(error)) => {
                let sink = Sink { events: last, write_limit };
                match (protocol.failure)(&error) {
                    (Some(name), data) => sink.send_named(name, &data).await,
                    (None, data) => sink.send(&data).await,
                }
            }
            Err(Broken::Gone) => Ok(()),
        };
    }));
    let mut keep_alive = KeepAlive::new().interval(settings.keep_alive);
    if let Some((name, data)) = protocol.ping {
        keep_alive = keep_alive.event(Event::default().event(name).data(data));
    }
    let mut response = Sse::new(ReceiverStream::new(receiver)).keep_alive(keep_alive).into_response();
    // Proxies that buffer would turn a stream into one late answer.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
