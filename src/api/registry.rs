//! The models that may be served: which are loaded, what they take, and which has to go when another one comes. It knows
//! names, bytes and whether a model is in use; how one gets onto a device is the [`Loader`]'s business.

use super::{
    Service,
    error::ApiError,
    fields::shown,
    measures::Measures,
    room::{Holding, Room, room},
};
use crate::engine::{
    queue::{Handle, Refused},
    request::{DeviceLabel, ServedModel},
};
use crate::text::Text;
use axum::http::StatusCode;
use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{oneshot, watch};

/// A model that may be asked for, loaded or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Short name, never a path.
    pub id: String,
    /// Further names that requests may use.
    pub aliases: Vec<String>,
    /// Unix time in seconds of its file.
    pub created_s: u64,
    /// How long it stays loaded after its last request; `None`: until its memory is needed.
    pub keep_alive: Option<Duration>,
    /// Loaded at start, and never unloaded for another one or for idleness.
    pub pinned: bool,
}

/// Brings models onto the device. All of its functions may block for as long as a disk or a device takes.
pub trait Loader: fmt::Debug + Send + Sync {
    /// Bytes of device memory that all loaded models may take together.
    fn budget_bytes(&self) -> u64;
    fn device(&self) -> DeviceLabel;
    /// Bytes that the model `id` will take, known before it is loaded.
    fn need_bytes(&self, id: &str) -> Result<u64, LoadError>;
    /// Comes back when requests can be answered, or early once `progress` is cancelled.
    fn load(&self, id: &str, progress: &Arc<Progress>) -> Result<Loaded, LoadError>;
}

/// A model that a loader has brought onto the device.
#[derive(Debug)]
pub struct Loaded {
    /// When its last clone is gone the engine ends.
    pub engine: Handle,
    pub text: Text,
    pub model: ServedModel,
    /// Sent or closed when the engine's thread has ended and its memory is free.
    pub ended: oneshot::Receiver<()>,
}

/// Why a model was not loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// It needs more than all models together may take. The text has the figures.
    #[error("{0}")]
    TooLarge(String),
    /// The server's file is missing, damaged or not a model that can be served.
    #[error("{0}")]
    File(String),
    /// The device refused or failed.
    #[error("{0}")]
    Device(String),
    #[error("loading was cancelled")]
    Cancelled,
}

/// How far a load has come. The loader writes it, `/health` and `/v1/models` show it.
#[derive(Debug, Default)]
pub struct Progress {
    phase: Mutex<&'static str>,
    done_bytes: AtomicU64,
    total_bytes: AtomicU64,
    cancelled: AtomicBool,
}

impl Progress {
    /// A new phase, of `total_bytes` (0: not measured in bytes).
    pub fn phase(&self, name: &'static str, total_bytes: u64) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = name;
        self.done_bytes.store(0, Ordering::Relaxed);
        self.total_bytes.store(total_bytes, Ordering::Relaxed);
    }

    pub fn add(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Phase, bytes done, bytes in all.
    pub fn now(&self) -> (&'static str, u64, u64) {
        let phase = *self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        (phase, self.done_bytes.load(Ordering::Relaxed), self.total_bytes.load(Ordering::Relaxed))
    }

    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }
}

/// What a load came to, for all who wait for it; `None` until then.
pub type Outcome = Option<Result<(), ApiError>>;

/// A load under way.
#[derive(Clone, Debug)]
pub struct Loading {
    pub progress: Arc<Progress>,
    pub outcome: watch::Receiver<Outcome>,
}

#[derive(Debug)]
pub enum Slot {
    Unloaded,
    Loading(Loading),
    Loaded(Arc<Service>),
}

#[derive(Debug)]
pub struct Model {
    pub entry: Entry,
    pub slot: Slot,
    /// Why it was last not loaded, or ended by itself.
    pub failure: Option<String>,
    pub measures: Arc<Measures>,
    /// Bytes that it takes, or will while it is loading.
    bytes: u64,
    last_used: Instant,
    /// Requests that wait for it to be loaded.
    waiting: usize,
}

impl Model {
    fn new(entry: Entry) -> Model {
        Model {
            entry,
            slot: Slot::Unloaded,
            failure: None,
            measures: Arc::default(),
            bytes: 0,
            last_used: Instant::now(),
            waiting: 0,
        }
    }

    pub fn service(&self) -> Option<&Arc<Service>> {
        match &self.slot {
            Slot::Loaded(service) => Some(service),
            _ => None,
        }
    }

    /// A request holds the service or is at work. Nobody can get hold of it while the registry is locked.
    fn in_use(&self) -> bool {
        self.service().is_some_and(|service| Arc::strong_count(service) > 1)
    }

    /// Requests that wait for it: to be loaded, or in its engine's queue.
    pub fn waiting(&self) -> usize {
        self.waiting + self.service().map_or(0, |service| service.engine.waiting())
    }

    /// In a word, as `/v1/models` shows it.
    pub fn status(&self) -> &'static str {
        match (&self.slot, &self.failure) {
            (Slot::Loaded(_), _) => "loaded",
            (Slot::Loading(_), _) => "loading",
            (Slot::Unloaded, Some(_)) => "failed",
            (Slot::Unloaded, None) => "unloaded",
        }
    }
}

/// The models and what is known of them. Every lock is held for moments only.
#[derive(Debug, Default)]
pub struct Registry {
    models: Mutex<Vec<Model>>,
    /// Bytes of engines that are ending.
    leaving_bytes: AtomicU64,
    closed: AtomicBool,
}

/// What a request finds.
pub enum Found {
    Service(Arc<Service>),
    Loading(Loading),
    /// The caller has to start the load, whose outcome it sends here.
    Start(Loading, watch::Sender<Outcome>),
}

impl Registry {
    pub fn new(entries: Vec<Entry>) -> Registry {
        let models = entries.into_iter().map(Model::new).collect();
        Registry { models: Mutex::new(models), ..Registry::default() }
    }

    pub fn models(&self) -> MutexGuard<'_, Vec<Model>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of a model by its name or an alias; a request that names none means the only one there is.
    pub fn find(&self, name: Option<&str>) -> Result<usize, ApiError> {
        let models = self.models();
        let Some(name) = name else {
            return match models.len() {
                0 => Err(ApiError::loading()),
                1 => Ok(0),
                _ => {
                    let message = format!("`model` is required: this server has {}", names(&models));
                    Err(ApiError::field("model", message).code("missing_required_parameter"))
                }
            };
        };
        let named = |model: &Model| model.entry.id == name || model.entry.aliases.iter().any(|alias| alias == name);
        match models.iter().position(named) {
            Some(index) => Ok(index),
            None if models.is_empty() => Err(ApiError::loading()),
            None => {
                let verb = if models.len() == 1 { "is" } else { "are" };
                let message = format!("the model {:?} is not served here; {} {verb}", shown(name), names(&models));
                let error = ApiError::field("model", message).code("model_not_found");
                Err(ApiError { status: StatusCode::NOT_FOUND, ..error })
            }
        }
    }

    /// Puts a model there that was loaded elsewhere. It stays: nothing could load it again.
    pub fn insert(&self, service: Arc<Service>) {
        let mut models = self.models();
        let id = &service.model.id;
        if models.iter().any(|model| model.entry.id == *id) {
            // What was answered first stays true.
            return;
        }
        let entry = Entry {
            id: id.clone(),
            aliases: Vec::new(),
            created_s: service.model.created_s,
            keep_alive: None,
            pinned: true,
        };
        let measures = service.measures.clone();
        models.push(Model { slot: Slot::Loaded(service), measures, ..Model::new(entry) });
    }

    /// What there is of a model for a request; a load that is found or begun is one more that is waited for.
    ///
    /// # Errors
    /// 503 when the server is shutting down, 429 when `waiters_max` requests already wait for the model.
    pub fn take(&self, index: usize, waiters_max: usize) -> Result<Found, ApiError> {
        let closed = self.closed.load(Ordering::Acquire);
        let mut models = self.models();
        let model = &mut models[index];
        model.last_used = Instant::now();
        // What ended by itself may be loaded again; only where nothing could do that it stays, and says so.
        if let Slot::Loaded(service) = &model.slot {
            return Ok(Found::Service(service.clone()));
        }
        if closed {
            return Err(Refused::ShuttingDown.into());
        }
        if model.waiting >= waiters_max {
            return Err(Refused::Full { capacity: waiters_max, retry_after_s: 1 }.into());
        }
        model.waiting += 1;
        if let Slot::Loading(loading) = &model.slot {
            return Ok(Found::Loading(loading.clone()));
        }
        let (sender, outcome) = watch::channel(None);
        let loading = Loading { progress: Arc::default(), outcome };
        model.slot = Slot::Loading(loading.clone());
        model.bytes = 0;
        Ok(Found::Start(loading, sender))
    }

    /// A request waits no more.
    pub fn waited(&self, index: usize) {
        let mut models = self.models();
        models[index].waiting = models[index].waiting.saturating_sub(1);
    }

    /// What must happen before `need_bytes` can be had. [`Room::Evict`] has happened already.
    pub fn make_room(&self, need_bytes: u64, budget_bytes: u64) -> Room {
        let mut models = self.models();
        let loaded = models.iter().enumerate().filter(|(_, model)| model.service().is_some());
        let holdings: Vec<Holding> = loaded
            .map(|(index, model)| Holding {
                index,
                bytes: model.bytes,
                pinned: model.entry.pinned,
                in_use: model.in_use(),
                last_used: model.last_used,
            })
            .collect();
        let room = room(&holdings, self.leaving_bytes.load(Ordering::Acquire), need_bytes, budget_bytes);
        if let Room::Evict(index) = room {
            self.remove(&mut models[index]);
        }
        room
    }

    /// What is loaded and how much it takes, in words.
    pub fn held(&self) -> String {
        let models = self.models();
        let loaded = models.iter().filter(|model| model.service().is_some());
        let words = |model: &Model| {
            let pinned = if model.entry.pinned { ", pinned" } else { "" };
            format!("{:?} ({} bytes{pinned})", model.entry.id, model.bytes)
        };
        let list: Vec<String> = loaded.map(words).collect();
        if list.is_empty() { "nothing".to_owned() } else { list.join(", ") }
    }

    /// The load of a model has ended. A server that is shutting down takes it no more.
    pub fn loaded(&self, index: usize, outcome: Result<(Arc<Service>, u64), String>) {
        let closed = self.closed.load(Ordering::Acquire);
        let mut models = self.models();
        let model = &mut models[index];
        model.last_used = Instant::now();
        model.failure = outcome.as_ref().err().cloned();
        model.slot = match outcome {
            Ok((service, bytes)) if !closed => {
                model.bytes = bytes;
                Slot::Loaded(service)
            }
            _ => Slot::Unloaded,
        };
    }

    /// The engine of `service` has ended. If nobody told it to, its model is loaded again for whoever asks next.
    pub fn ended(&self, index: usize, service: &std::sync::Weak<Service>, bytes: u64) {
        let mut models = self.models();
        let model = &mut models[index];
        match model.service() {
            Some(current) if std::ptr::eq(Arc::as_ptr(current), service.as_ptr()) => {
                model.slot = Slot::Unloaded;
                model.failure = Some("its engine ended by itself; the server's log says why".to_owned());
            }
            _ => {
                self.leaving_bytes.fetch_sub(bytes, Ordering::AcqRel);
            }
        }
    }

    /// Unloads a model that is idle, or cancels its load; `false` when it is in use.
    pub fn unload(&self, index: usize) -> bool {
        let mut models = self.models();
        let model = &mut models[index];
        if model.in_use() {
            return false;
        }
        match &model.slot {
            Slot::Loading(loading) => loading.progress.cancel(),
            Slot::Loaded(_) => self.remove(model),
            Slot::Unloaded => model.failure = None,
        }
        true
    }

    /// Unloads what nobody has asked for longer than it is to be kept.
    pub fn unload_idle(&self) {
        for model in self.models().iter_mut() {
            if model.in_use() {
                model.last_used = Instant::now();
            }
            let kept =
                model.entry.pinned || model.entry.keep_alive.is_none_or(|limit| model.last_used.elapsed() < limit);
            if model.service().is_some() && !model.in_use() && !kept {
                tracing::info!(model = model.entry.id, "unloaded: nobody asked for it");
                self.remove(model);
            }
        }
    }

    /// The engine ends when its last handle is gone; until then its bytes are leaving.
    fn remove(&self, model: &mut Model) {
        self.leaving_bytes.fetch_add(model.bytes, Ordering::AcqRel);
        model.slot = Slot::Unloaded;
    }

    /// No further request is taken, no load goes on; what runs may finish.
    pub fn drain(&self) {
        self.closed.store(true, Ordering::Release);
        for model in self.models().iter() {
            match &model.slot {
                Slot::Loaded(service) => service.engine.drain(),
                Slot::Loading(loading) => loading.progress.cancel(),
                Slot::Unloaded => {}
            }
        }
    }

    pub fn is_draining(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Lets go of every engine. Those that a request still holds end with it.
    pub fn clear(&self) {
        self.drain();
        for model in self.models().iter_mut() {
            if model.service().is_some() {
                self.remove(model);
            }
        }
    }
}

fn names(models: &[Model]) -> String {
    const SHOWN_MAX: usize = 16;
    let mut list: Vec<String> = models.iter().take(SHOWN_MAX).map(|model| format!("{:?}", model.entry.id)).collect();
    if models.len() > SHOWN_MAX {
        list.push(format!("{} more", models.len() - SHOWN_MAX));
    }
    list.join(", ")
}
