//! What is served and how it is: models, health, version.

use super::{
    State,
    error::ApiError,
    fields::Fields,
    guard::{read_json, warn},
    loading::service_for,
    registry::{Loading, Model, Slot},
};
use crate::engine::{queue::Handle, request::DeviceLabel};
use axum::{
    Json,
    body::Body,
    extract::{self, Path},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use std::time::Duration;

/// How long a model that is to be unloaded may be held by what only looks at it.
const UNLOAD_PATIENCE: Duration = Duration::from_millis(500);
const UNLOAD_PAUSE: Duration = Duration::from_millis(10);

fn description(model: &Model) -> Value {
    let mut status = json!({"value": model.status()});
    if let Slot::Loading(loading) = &model.slot {
        status["progress"] = progress(loading);
    }
    if let Some(failure) = &model.failure {
        status["error"] = json!(failure);
    }
    let served = model.service().map(|service| &service.model);
    let mut value = json!({
        "id": model.entry.id,
        "object": "model",
        "created": served.map_or(model.entry.created_s, |served| served.created_s),
        "owned_by": "hesper",
    });
    // Known once it is loaded.
    if let Some(served) = served {
        value["context_length"] = json!(served.context_tokens);
    }
    value["aliases"] = json!(model.entry.aliases);
    value["status"] = status;
    value
}

fn progress(loading: &Loading) -> Value {
    let (phase, done_bytes, total_bytes) = loading.progress.now();
    json!({"phase": phase, "done_bytes": done_bytes, "total_bytes": total_bytes})
}

pub async fn list(extract::State(state): extract::State<State>) -> Result<Json<Value>, ApiError> {
    if state.is_starting() {
        return Err(ApiError::loading());
    }
    let data: Vec<Value> = state.registry().models().iter().map(description).collect();
    Ok(Json(json!({"object": "list", "data": data})))
}

pub async fn one(
    extract::State(state): extract::State<State>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    if state.is_starting() {
        return Err(ApiError::loading());
    }
    let index = state.registry().find(Some(&id))?;
    Ok(Json(description(&state.registry().models()[index])))
}

/// `POST /v1/models/load`: answers when the model is loaded.
pub async fn load(
    extract::State(state): extract::State<State>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (name, warned) = named(&state, &headers, body).await?;
    service_for(&state, Some(&name)).await?;
    described(&state, &name).map(warned)
}

/// `POST /v1/models/unload`: frees the memory of a model that nobody uses, or gives up loading it.
pub async fn unload(
    extract::State(state): extract::State<State>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (name, warned) = named(&state, &headers, body).await?;
    let index = state.registry().find(Some(&name))?;
    if state.registry().models()[index].entry.pinned {
        return Err(conflict(&name, "is pinned: it stays loaded for as long as the server runs", "model_pinned"));
    }
    let until = tokio::time::Instant::now() + UNLOAD_PATIENCE;
    while !state.registry().unload(index) {
        if tokio::time::Instant::now() >= until {
            return Err(conflict(&name, "is answering requests; unload it when they are done", "model_in_use"));
        }
        tokio::time::sleep(UNLOAD_PAUSE).await;
    }
    described(&state, &name).map(warned)
}

fn conflict(name: &str, why: &str, code: &'static str) -> ApiError {
    let message = format!("the model {:?} {why}", super::fields::shown(name));
    ApiError { status: StatusCode::CONFLICT, ..ApiError::field("model", message) }.code(code)
}

/// The model that a body of only that names, and what names the fields that were ignored.
async fn named(
    state: &State,
    headers: &HeaderMap,
    body: Body,
) -> Result<(String, impl FnOnce(Response) -> Response), ApiError> {
    let mut fields = Fields::of(read_json(state, headers, body).await?, "")?;
    let mut unknown = state.unknown();
    let name = fields.string("model")?;
    let name = fields.require("model", name)?;
    fields.finish(&mut unknown)?;
    Ok((name, move |response| warn(&unknown, response)))
}

fn described(state: &State, name: &str) -> Result<Response, ApiError> {
    let index = state.registry().find(Some(name))?;
    Ok(Json(description(&state.registry().models()[index])).into_response())
}

/// The one condition in which a request sent now would be queued.
pub const READY: &str = "ok";

/// How an engine is, in a word.
pub fn condition(engine: &Handle) -> &'static str {
    if engine.is_stopped() {
        "stopped"
    } else if engine.is_restarting() {
        "restarting"
    } else if engine.is_draining() {
        "draining"
    } else {
        READY
    }
}

/// How the server is, in a word: as the first model that has to be there and is not well.
pub fn overall(state: &State) -> &'static str {
    if state.is_starting() {
        return "loading";
    }
    let models = state.registry().models();
    let needed = models.iter().filter(|model| model.entry.pinned).filter_map(Model::service);
    let unwell = needed.map(|service| condition(&service.engine)).find(|word| *word != READY);
    unwell.unwrap_or(if state.registry().is_draining() { "draining" } else { READY })
}

/// 200 only when a request sent now would be queued, or would have its model loaded.
pub async fn health(extract::State(state): extract::State<State>) -> Response {
    let word = overall(&state);
    let status = if word == READY { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let models = state.registry().models();
    let mut body = json!({"status": word});
    let loading = models.iter().find_map(|model| match &model.slot {
        Slot::Loading(loading) => Some(loading),
        _ => None,
    });
    if let Some(loading) = loading {
        body["progress"] = progress(loading);
    }
    let services = || models.iter().filter_map(Model::service);
    let device = services().next().map(|service| service.model.device.clone());
    if let Some(device) = device.or_else(|| Some(state.loader()?.device())) {
        body["device"] = shown_device(&device);
    }
    if let [model] = &models[..]
        && let Some(service) = model.service()
    {
        let served = &service.model;
        body["model"] =
            json!({"id": served.id, "context_tokens": served.context_tokens, "vocabulary": served.vocabulary});
    }
    if models.len() > 1 {
        let list = models.iter().map(|model| json!({"id": model.entry.id, "status": model.status()}));
        body["models"] = list.collect();
    }
    if services().next().is_some() {
        let sum = |count: fn(&Handle) -> usize| services().map(|service| count(&service.engine)).sum::<usize>();
        body["queue"] = json!({"waiting": sum(Handle::waiting), "running": sum(Handle::running)});
    }
    (status, Json(body)).into_response()
}

fn shown_device(device: &DeviceLabel) -> Value {
    json!({"name": device.name, "driver": device.driver, "software": device.software})
}

pub async fn version() -> Json<Value> {
    Json(json!({"name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION")}))
}
