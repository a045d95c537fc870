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

    async fn event(&self, event: Event) -> Result<(), Broken> {
        match timeout(self.write_limit, self.events.send(Ok(event))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Broken::Gone),
        }
    }
}

/// A response whose events `produce` sends. When the client goes, the future that `produce` made is dropped at its
/// next wait, and with it whatever it owns.
pub fn respond<F>(settings: &Settings, produce: impl FnOnce(Sink) -> F) -> Response
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
            Ok(sink) => sink.event(Event::default().data("[DONE]")).await,
            Err(Broken::Failed(error)) => Sink { events: last, write_limit }.send(&error.body()).await,
            Err(Broken::Gone) => Ok(()),
        };
    }));
    let keep_alive = KeepAlive::new().interval(settings.keep_alive);
    let mut response = Sse::new(ReceiverStream::new(receiver)).keep_alive(keep_alive).into_response();
    // Proxies that buffer would turn a stream into one late answer.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
