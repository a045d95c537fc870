//! The OpenAI-compatible HTTP interface: strict JSON in, JSON or server-sent events out.
//!
//! It knows requests, text and the engine's queue. It knows nothing of devices, models' insides or files, and it does
//! not bind ports: the caller hands it a listener.

pub mod answer;
pub mod chat;
pub mod chat_request;
pub mod completion_request;
pub mod completions;
pub mod error;
pub mod fields;
pub mod generate;
mod guard;
mod identifiers;
pub mod json;
mod logprobs;
mod messages;
mod metrics;
mod models;
pub mod openapi;
mod page;
pub mod parameters;
mod serve;
mod stream;

pub use serve::serve;

use crate::{
    engine::{queue::Handle, request::ServedModel},
    text::Text,
};
use axum::{
    Router, middleware,
    routing::{get, post},
};
use error::ApiError;
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::sync::Semaphore;

/// How the server behaves, whatever model it serves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bearer keys, one of which every request but `/health`, `/metrics` and `/version` must bring; none: open to all.
    pub api_keys: Vec<String>,
    /// Ignore unknown request fields, and name them in a `warning` header, instead of refusing them.
    pub lenient: bool,
    /// Largest request body.
    pub body_limit_bytes: usize,
    /// How long a client may take to send its headers, and then its body.
    pub read_limit: Duration,
    /// How long a stream may wait for its client to take an event before it is given up.
    pub write_limit: Duration,
    /// How long running requests may go on after shutdown is asked for.
    pub drain_limit: Duration,
    /// Between comments that keep an idle stream's connection open.
    pub keep_alive: Duration,
    /// Connections served at once; more wait to be accepted.
    pub connections: usize,
    /// Serve the chat page at `/` and the API's description at `/docs`.
    pub page: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            api_keys: Vec::new(),
            lenient: false,
            body_limit_bytes: 4 << 20,
            read_limit: Duration::from_secs(30),
            write_limit: Duration::from_secs(60),
            drain_limit: Duration::from_secs(30),
            keep_alive: Duration::from_secs(15),
            connections: 1024,
            page: true,
        }
    }
}

/// What answers requests once a model is loaded.
#[derive(Debug)]
pub struct Service {
    pub engine: Handle,
    pub text: Text,
    pub model: ServedModel,
    /// How requests ended.
    pub outcomes: metrics::Outcomes,
    /// Names the build, model and device, which an answer depends on besides its request.
    pub fingerprint: String,
}

/// What all requests share. Cloning gives another handle to the same.
#[derive(Clone, Debug)]
pub struct State(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    service: OnceLock<Arc<Service>>,
    /// Requests that are rendered and tokenized at once: half the cores, so that long prompts leave the engine its own.
    preparing: Arc<Semaphore>,
}

impl State {
    /// A server whose model is still loading: `/health` and requests answer 503 until [`State::ready`].
    pub fn new(settings: Settings) -> State {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let preparing = Arc::new(Semaphore::new(cores.div_ceil(2)));
        State(Arc::new(Inner { settings, service: OnceLock::new(), preparing }))
    }

    /// The model is loaded and the engine takes requests. Only the first call counts.
    pub fn ready(&self, engine: Handle, text: Text, model: ServedModel) {
        let device = model.device.to_string();
        let fingerprint = identifiers::fingerprint(&[env!("CARGO_PKG_VERSION"), &model.id, &device]);
        // A second model is not served: what was answered first stays true.
        let _ = self.0.service.set(Arc::new(Service {
            engine,
            text,
            model,
            outcomes: metrics::Outcomes::default(),
            fingerprint,
        }));
    }

    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// `None` while the model loads.
    pub fn service(&self) -> Option<Arc<Service>> {
        self.0.service.get().cloned()
    }

    /// Runs `work` where it may take its time: long prompts take long to render and tokenize.
    async fn prepare<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        // The permit goes with the work, which ends only by itself. The semaphore is never closed.
        let permit = self.0.preparing.clone().acquire_owned().await;
        let joined = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        joined.await.unwrap_or_else(|error| {
            tracing::error!(%error, "preparing a request failed");
            Err(ApiError::internal("the server failed to handle this request; its log says why"))
        })
    }

    fn loaded(&self) -> Result<Arc<Service>, ApiError> {
        self.service().ok_or_else(ApiError::loading)
    }
}

/// All routes, with authorization, request ids and errors in the form that clients read.
pub fn router(state: State) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::handle))
        .route("/v1/completions", post(completions::handle))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/health", get(models::health))
        .route("/metrics", get(metrics::handle))
        .route("/version", get(models::version))
        .fallback(guard::no_such_path)
        .method_not_allowed_fallback(guard::no_such_method)
        .layer(middleware::from_fn_with_state(state.clone(), guard::authorize))
        // After the keys: what they serve is the same for everyone, and a browser asks for it without one.
        .merge(page::routes(state.settings().page))
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(guard::panicked))
        .layer(middleware::from_fn(guard::identify))
        .with_state(state)
}
