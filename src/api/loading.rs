//! Gets the model that a request asks for: at once if it is loaded, else by loading it, for which memory may have to be
//! made free. A load belongs to no request: when its clients leave it goes on.

use super::{
    Service, State, caller,
    error::ApiError,
    fields::wrong_type,
    registry::{Found, LoadError, Loaded, Loader, Outcome, Progress},
    room::Room,
};
use crate::engine::queue::Refused;
use axum::http::StatusCode;
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

/// Between looks at whether a model that is in the way has become idle.
const ROOM_PAUSE: Duration = Duration::from_millis(20);
/// Between looks for models that nobody has asked for.
const IDLE_PAUSE: Duration = Duration::from_millis(250);

/// The model that `name` means (`None`: the only one), loaded.
///
/// # Errors
/// 404 for a name that is not known, 507 for a model that does not fit, 500 for one whose file cannot be served, and 503
/// when it is not loaded within [`super::Settings::load_limit`].
pub async fn service_for(state: &State, name: Option<&str>) -> Result<Arc<Service>, ApiError> {
    let index = state.registry().find(name)?;
    let service = match state.registry().take(index, state.settings().load_waiters)? {
        Found::Service(service) => service,
        Found::Loading(loading) => wait(state, index, loading.outcome).await?,
        Found::Start(loading, sender) => {
            start(state, index, loading.progress, sender);
            wait(state, index, loading.outcome).await?
        }
    };
    if service.engine.is_stopped() {
        return Err(Refused::Stopped.into());
    }
    Ok(service)
}

/// The model that a request's body names.
pub async fn service_of(state: &State, body: &Value) -> Result<Arc<Service>, ApiError> {
    match body.get("model") {
        None | Some(Value::Null) => service_for(state, None).await,
        Some(Value::String(name)) => service_for(state, Some(name)).await,
        Some(other) => Err(wrong_type("model", "a string", other)),
    }
}

/// Waits for a load's end.
async fn wait(state: &State, index: usize, mut outcome: watch::Receiver<Outcome>) -> Result<Arc<Service>, ApiError> {
    // Also when the client leaves.
    let _waiting = Waiting(state, index);
    let starting = state.is_starting();
    if starting {
        return Err(ApiError::loading());
    }
    let limit = Instant::now() + state.settings().load_limit;
    let deadline = caller::deadline().map(Instant::from_std);
    let until = deadline.map_or(limit, |deadline| deadline.min(limit));
    match timeout_at(until, outcome.wait_for(Option::is_some)).await {
        Err(_) if until < limit => return Err(caller::timed_out()),
        Err(_) => return Err(ApiError::loading()),
        Ok(Err(_)) => return Err(ApiError::internal("the model could not be loaded; the server's log says why")),
        Ok(Ok(outcome)) => outcome.clone().unwrap_or(Ok(()))?,
    }
    let models = state.registry().models();
    // It may have been unloaded again in between.
    models[index].service().cloned().ok_or_else(ApiError::loading)
}

struct Waiting<'a>(&'a State, usize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.registry().waited(self.1);
    }
}

fn start(state: &State, index: usize, progress: Arc<Progress>, sender: watch::Sender<Outcome>) {
    let state = state.clone();
    tokio::spawn(async move {
        let id = state.registry().models()[index].entry.id.clone();
        let work = tokio::spawn(load(state.clone(), index, id.clone(), progress));
        // A panic is in the log; whoever waits must not wait for ever.
        let defect = || Err(ApiError::internal("loading the model failed: this is a defect of Hesper"));
        let outcome = work.await.unwrap_or_else(|_| defect());
        let (slot, told) = match outcome {
            Ok(loaded) => (Ok(loaded), Ok(())),
            Err(error) => {
                match error.code {
                    Some("load_cancelled" | "shutting_down") => tracing::info!(model = id, "loading was cancelled"),
                    _ => tracing::error!(model = id, error = error.message, "a model was not loaded"),
                }
                (Err(error.message.clone()), Err(error))
            }
        };
        state.registry().loaded(index, slot);
        // Those who waited may have left.
        let _ = sender.send(Some(told));
    });
}

/// One model at a time: two would take each other's memory.
async fn load(
    state: State,
    index: usize,
    id: String,
    progress: Arc<Progress>,
) -> Result<(Arc<Service>, u64), ApiError> {
    let Some(loader) = state.loader() else { return Err(ApiError::loading()) };
    progress.phase("waiting", 0);
    let _turn = state.turn().await;
    let (shared, name) = (loader.clone(), id.clone());
    let need_bytes = blocking(move || shared.need_bytes(&name)).await.map_err(|error| refusal(&state, &id, error))?;
    make_room(&state, loader.as_ref(), &id, need_bytes, &progress).await?;
    let (shared, name, shown) = (loader.clone(), id.clone(), progress.clone());
    let loaded = blocking(move || shared.load(&name, &shown)).await.map_err(|error| refusal(&state, &id, error))?;
    let Loaded { engine, text, model, ended } = loaded;
    let measures = state.registry().models()[index].measures.clone();
    let service = Arc::new(Service::new(engine, text, model, measures));
    let (watched, watching) = (Arc::downgrade(&service), state.clone());
    tokio::spawn(async move {
        // Sent or closed, it has ended.
        let _ = ended.await;
        watching.registry().ended(index, &watched, need_bytes);
    });
    Ok((service, need_bytes))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LoadError> + Send + 'static,
) -> Result<T, LoadError> {
    let defect = |_| LoadError::Device("loading failed: this is a defect of Hesper".to_owned());
    tokio::task::spawn_blocking(work).await.map_err(defect)?
}

async fn make_room(
    state: &State,
    loader: &dyn Loader,
    id: &str,
    need_bytes: u64,
    progress: &Progress,
) -> Result<(), ApiError> {
    let budget_bytes = loader.budget_bytes();
    let until = Instant::now() + state.settings().room_limit;
    progress.phase("waiting for memory", 0);
    let needs = || format!("the model {id:?} needs {need_bytes} bytes of device memory, the budget is {budget_bytes}");
    loop {
        if progress.is_cancelled() {
            return Err(refusal(state, id, LoadError::Cancelled));
        }
        match state.registry().make_room(need_bytes, budget_bytes) {
            Room::Free => return Ok(()),
            Room::Evict(_) => {}
            Room::Never => return Err(refusal(state, id, LoadError::TooLarge(needs()))),
            Room::Wait if Instant::now() >= until => {
                let message = format!("{}; loaded and in use: {}", needs(), state.registry().held());
                let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message).code("models_busy");
                return Err(ApiError { retry_after_s: Some(5), ..error });
            }
            Room::Wait => sleep(ROOM_PAUSE).await,
        }
    }
}

/// A load that failed is never the client's mistake, apart from the name of the model, which was known.
fn refusal(state: &State, id: &str, error: LoadError) -> ApiError {
    let text = error.to_string();
    match error {
        LoadError::TooLarge(_) => {
            let message = format!("{text}; loaded: {}", state.registry().held());
            ApiError::new(StatusCode::INSUFFICIENT_STORAGE, message).code("insufficient_memory")
        }
        LoadError::File(_) => {
            ApiError::internal(format!("the model {id:?} cannot be served: {text}")).code("model_unusable")
        }
        LoadError::Device(_) => {
            let message = format!("the model {id:?} could not be loaded: {text}");
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message).code("load_failed")
        }
        LoadError::Cancelled if state.registry().is_draining() => Refused::ShuttingDown.into(),
        LoadError::Cancelled => {
            let message = format!("loading the model {id:?} was cancelled");
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message).code("load_cancelled")
        }
    }
}

/// Begins to load what is pinned, and from then on unloads what nobody has asked for. Never ends by itself.
pub async fn tend(state: State) {
    let pinned: Vec<usize> = {
        let models = state.registry().models();
        models.iter().enumerate().filter(|(_, model)| model.entry.pinned).map(|(index, _)| index).collect()
    };
    for index in pinned {
        if let Ok(Found::Start(loading, sender)) = state.registry().take(index, usize::MAX) {
            start(&state, index, loading.progress, sender);
        }
        state.registry().waited(index);
    }
    loop {
        sleep(IDLE_PAUSE).await;
        state.registry().unload_idle();
    }
}
