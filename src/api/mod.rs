//! The OpenAI-compatible HTTP interface: strict JSON in, JSON or server-sent events out.
//!
//! It knows requests, text and the engine's queue. It knows nothing of devices, models' insides or files, and it does
//! not bind ports: the caller hands it a listener.

pub mod answer;
pub mod anthropic;
mod blocks;
mod caller;
pub mod chat;
pub mod chat_request;
mod clock;
pub mod completion_request;
pub mod completions;
pub mod cors;
mod dialect;
pub mod error;
pub mod fields;
pub mod generate;
mod guard;
mod identifiers;
pub mod json;
pub mod keys;
pub mod loading;
mod logprobs;
pub mod measures;
mod messages;
mod metrics;
mod models;
pub mod openapi;
pub mod output_format;
mod page;
pub mod parameters;
pub mod prepare;
mod query;
pub mod reasoning_fields;
pub mod registry;
pub mod responses;
mod room;
mod serve;
mod slots;
mod stored;
mod stream;
pub mod tls;
mod tokens;
pub mod tool_fields;
mod trace;
mod truncate;

pub use serve::serve;

use crate::{
    engine::{queue::Handle, request::ServedModel},
    store::{Limits, Store, StoreError},
    text::Text,
};
use axum::{
    Router, middleware,
    routing::{get, post},
};
use error::ApiError;
use fields::Unknown;
use keys::Keys;
use measures::Measures;
use registry::{Entry, Loader, Registry};
use std::{
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::Duration,
};
use tokio::sync::{Mutex, MutexGuard, Semaphore};

/// Between looks at whether the models are there that have to be.
const STARTED_PAUSE: Duration = Duration::from_millis(5);

/// How the server behaves, whatever model it serves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Keys, one of which every request but `/health`, `/metrics` and `/version` must bring; none: open to all.
    /// [`State::set_keys`] replaces them.
    pub api_keys: Vec<String>,
    /// Proxies between clients and this server whose `x-forwarded-for` is believed.
    pub trusted_proxies: usize,
    /// Origins of other web pages that browsers may let read answers, as `https://chat.example.org`; `*` is all of them.
    pub cors_origins: Vec<String>,
    /// Before every path, as `/hesper`; empty for none.
    pub path_prefix: String,
    /// Log what is asked. It is private, so it is off.
    pub log_prompts: bool,
    /// How long a request may take in all.
    pub request_limit: Option<Duration>,
    /// Ignore unknown request fields, and name them in a `warning` header, instead of refusing them.
    pub lenient: bool,
    /// Largest request body.
    pub body_limit_bytes: usize,
    /// Largest head of a request, and most header lines.
    pub header_limit_bytes: usize,
    pub header_lines: usize,
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
    /// How long a request waits for its model to be loaded.
    pub load_limit: Duration,
    /// How long a load waits for models in use to become idle, where there is no room beside them.
    pub room_limit: Duration,
    /// Requests that may wait for one model to be loaded; further ones are refused with status 429.
    pub load_waiters: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            api_keys: Vec::new(),
            trusted_proxies: 0,
            cors_origins: Vec::new(),
            path_prefix: String::new(),
            log_prompts: false,
            request_limit: None,
            lenient: false,
            body_limit_bytes: 4 << 20,
            header_limit_bytes: 64 << 10,
            header_lines: 100,
            read_limit: Duration::from_secs(30),
            write_limit: Duration::from_secs(60),
            drain_limit: Duration::from_secs(30),
            keep_alive: Duration::from_secs(15),
            connections: 1024,
            page: true,
            load_limit: Duration::from_secs(300),
            room_limit: Duration::from_secs(60),
            load_waiters: 64,
        }
    }
}

/// What answers requests for one loaded model. Whoever holds it keeps the model loaded.
#[derive(Debug)]
pub struct Service {
    pub engine: Handle,
    pub text: Text,
    pub model: ServedModel,
    /// What is counted of its requests; stays when the model is unloaded.
    pub measures: Arc<Measures>,
    /// Requests at work.
    slots: Arc<slots::Slots>,
    /// Names the build, model and device, which an answer depends on besides its request.
    pub fingerprint: String,
}

impl Service {
    pub fn new(engine: Handle, text: Text, model: ServedModel, measures: Arc<Measures>) -> Service {
        let device = model.device.to_string();
        let fingerprint = identifiers::fingerprint(&[env!("CARGO_PKG_VERSION"), &model.id, &device]);
        Service { engine, text, model, measures, slots: Arc::default(), fingerprint }
    }
}

/// What all requests share. Cloning gives another handle to the same.
#[derive(Clone, Debug)]
pub struct State(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    keys: RwLock<Arc<Keys>>,
    /// Without it the server speaks plain HTTP.
    tls: RwLock<Option<Arc<rustls::ServerConfig>>>,
    registry: Registry,
    loader: Option<Arc<dyn Loader>>,
    /// Whose holder may load a model.
    turn: Mutex<()>,
    /// Made at the first use where the caller gives none.
    store: OnceLock<Arc<Store>>,
    /// Requests that are rendered and tokenized at once: half the cores, so that long prompts leave the engine its own.
    preparing: Arc<Semaphore>,
}

impl State {
    /// A server whose model is still loading: `/health` and requests answer 503 until [`State::ready`].
    pub fn new(settings: Settings) -> State {
        State::build(settings, Vec::new(), None)
    }

    /// A server of several models, which `loader` brings onto the device as they are asked for; those that are pinned at
    /// once, until which `/health` and requests answer 503.
    pub fn with_models(settings: Settings, entries: Vec<Entry>, loader: Arc<dyn Loader>) -> State {
        State::build(settings, entries, Some(loader))
    }

    fn build(settings: Settings, entries: Vec<Entry>, loader: Option<Arc<dyn Loader>>) -> State {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let preparing = Arc::new(Semaphore::new(cores.div_ceil(2)));
        State(Arc::new(Inner {
            keys: RwLock::new(Arc::new(Keys::unnamed(&settings.api_keys))),
            tls: RwLock::default(),
            settings,
            registry: Registry::new(entries),
            loader,
            turn: Mutex::new(()),
            store: OnceLock::new(),
            preparing,
        }))
    }

    /// A model is loaded and its engine takes requests. Only the first of a name counts.
    pub fn ready(&self, engine: Handle, text: Text, model: ServedModel) {
        self.0.registry.insert(Arc::new(Service::new(engine, text, model, Arc::default())));
    }

    /// Where clients' records are kept; without this, in memory. Only the first call counts, before any request.
    pub fn keep_in(&self, store: Store) {
        let _ = self.0.store.set(Arc::new(store));
    }

    /// Runs `work` on the store, where it may wait for the disk.
    async fn stored<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let inner = self.0.clone();
        let joined = tokio::task::spawn_blocking(move || {
            let store = match inner.store.get() {
                Some(store) => store.clone(),
                None => {
                    let store = Arc::new(Store::in_memory(Limits::MEMORY)?);
                    inner.store.get_or_init(|| store).clone()
                }
            };
            work(&store)
        });
        let done = joined.await.unwrap_or_else(|error| Err(StoreError::Ended(error.to_string())));
        done.map_err(|error| stored::failure(&error))
    }

    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    fn keys(&self) -> Arc<Keys> {
        self.0.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on these keys are asked for.
    pub fn set_keys(&self, keys: Keys) {
        *self.0.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    fn tls(&self) -> Option<Arc<rustls::ServerConfig>> {
        self.0.tls.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on connections are encrypted, with this certificate.
    pub fn set_tls(&self, config: Arc<rustls::ServerConfig>) {
        *self.0.tls.write().unwrap_or_else(PoisonError::into_inner) = Some(config);
    }

    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    fn loader(&self) -> Option<Arc<dyn Loader>> {
        self.0.loader.clone()
    }

    async fn turn(&self) -> MutexGuard<'_, ()> {
        self.0.turn.lock().await
    }

    /// The models that are loaded now.
    pub fn services(&self) -> Vec<Arc<Service>> {
        self.0.registry.models().iter().filter_map(|model| model.service().cloned()).collect()
    }

    /// No model is there yet, or one that has to be is loading for the first time.
    fn is_starting(&self) -> bool {
        let models = self.0.registry.models();
        models.is_empty()
            || models.iter().any(|model| model.entry.pinned && model.failure.is_none() && model.service().is_none())
    }

    /// Completes when no model is missing any more that has to be there.
    pub async fn started(&self) {
        while self.is_starting() {
            tokio::time::sleep(STARTED_PAUSE).await;
        }
    }

    /// What to do about fields that are not known.
    fn unknown(&self) -> Unknown {
        Unknown { lenient: self.0.settings.lenient, ..Unknown::default() }
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
}

/// All routes, with authorization, request ids and errors in the form that clients read.
pub fn router(state: State) -> Router {
    let routes = Router::new()
        .route("/v1/chat/completions", post(chat::handle).get(stored::list))
        .route("/v1/chat/completions/{id}", get(stored::one).post(stored::update).delete(stored::delete))
        .route("/v1/chat/completions/{id}/messages", get(stored::messages))
        .route("/v1/completions", post(completions::handle))
        .route("/v1/messages", post(anthropic::handle))
        .route("/v1/messages/count_tokens", post(anthropic::count_tokens))
        .route("/v1/responses", post(responses::create))
        .route("/v1/responses/{id}", get(responses::one).delete(responses::delete))
        .route("/v1/responses/{id}/cancel", post(responses::cancel))
        .route("/v1/responses/{id}/input_items", get(responses::input_items))
        .route("/v1/models", get(models::list))
        .route("/v1/models/load", post(models::load))
        .route("/v1/models/unload", post(models::unload))
        .route("/v1/models/{*id}", get(models::one))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/apply-template", post(tokens::apply_template))
        .route("/props", get(tokens::props))
        .route("/slots", get(slots::handle))
        .route("/health", get(models::health))
        .route("/metrics", get(metrics::handle))
        .route("/version", get(models::version))
        .fallback(guard::no_such_path)
        .method_not_allowed_fallback(guard::no_such_method)
        .layer(middleware::from_fn_with_state(state.clone(), guard::authorize))
        // After the keys: what they serve is the same for everyone, and a browser asks for it without one.
        .merge(page::routes(state.settings().page))
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(guard::panicked));
    let prefix = state.settings().path_prefix.as_str();
    let mut app = match prefix {
        "" => routes,
        prefix => Router::new()
            .nest(prefix, routes)
            .merge(page::at_prefix(prefix, state.settings().page))
            .fallback(guard::no_such_path),
    };
    if !state.settings().cors_origins.is_empty() {
        app = app.layer(cors::layer(&state.settings().cors_origins));
    }
    app.layer(middleware::from_fn(guard::identify)).with_state(state)
}
