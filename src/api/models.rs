//! What is served and how it is: models, health, version.

use super::{State, error::ApiError, fields::shown};
use crate::engine::{queue::Handle, request::ServedModel};
use axum::{
    Json,
    extract::{self, Path},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

fn description(model: &ServedModel) -> Value {
    json!({
        "id": model.id,
        "object": "model",
        "created": model.created_s,
        "owned_by": "hesper",
        "context_length": model.context_tokens,
    })
}

/// 404 for a model that is not the one served.
pub fn not_served(name: &str, model: &ServedModel) -> ApiError {
    let message = format!("the model {:?} is not served here; {:?} is", shown(name), model.id);
    ApiError { status: StatusCode::NOT_FOUND, ..ApiError::field("model", message).code("model_not_found") }
}

pub async fn list(extract::State(state): extract::State<State>) -> Result<Json<Value>, ApiError> {
    let service = state.loaded()?;
    Ok(Json(json!({"object": "list", "data": [description(&service.model)]})))
}

pub async fn one(
    extract::State(state): extract::State<State>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let service = state.loaded()?;
    if id != service.model.id {
        return Err(not_served(&id, &service.model));
    }
    Ok(Json(description(&service.model)))
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

/// 200 only when a request sent now would be queued.
pub async fn health(extract::State(state): extract::State<State>) -> Response {
    let Some(service) = state.service() else {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "loading"}))).into_response();
    };
    let word = condition(&service.engine);
    let status = if word == READY { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let model = &service.model;
    let body = json!({
        "status": word,
        "device": {
            "name": model.device.name,
            "driver": model.device.driver,
            "software": model.device.software,
        },
        "model": {"id": model.id, "context_tokens": model.context_tokens, "vocabulary": model.vocabulary},
        "queue": {"waiting": service.engine.waiting(), "running": service.engine.running()},
    });
    (status, Json(body)).into_response()
}

pub async fn version() -> Json<Value> {
    Json(json!({"name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION")}))
}
