//! Stored chat completions: `/v1/chat/completions` and what is below it.
//!
//! A completion asked for with `store: true` is kept under the name of the key that asked, and found with that key alone.

use super::{
    State,
    caller::KeyName,
    chat_request::ChatRequest,
    error::ApiError,
    fields::{Fields, shown},
    guard::{read_json, warn},
    parameters,
    query::{self, Pairs},
};
use crate::store::{Head, Kind, Record, StoreError};
use axum::{
    Json,
    body::Body,
    extract::{self, Path},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

/// Fields of the request that a stored completion repeats.
const REPEATED: [&str; 8] = [
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "tools",
    "tool_choice",
    "response_format",
];

/// What is kept of a request beside its answer.
pub struct Keep {
    state: State,
    owner: KeyName,
    metadata: Map<String, Value>,
    messages: Vec<Value>,
    repeated: Map<String, Value>,
}

/// The fields that are repeated, while the body is whole.
pub fn repeated(body: &Value) -> Map<String, Value> {
    let field = |name: &&str| Some(((*name).to_owned(), body.get(name).filter(|value| !value.is_null())?.clone()));
    REPEATED.iter().filter_map(field).collect()
}

impl Keep {
    /// `None` when the request does not ask for it.
    pub fn of(state: &State, owner: KeyName, request: &ChatRequest, repeated: Map<String, Value>) -> Option<Keep> {
        let metadata = request.parameters.metadata.clone();
        request.store.then(|| Keep {
            state: state.clone(),
            owner,
            metadata,
            messages: request.messages.clone(),
            repeated,
        })
    }

    /// Returns once the completion is kept.
    pub async fn keep(self, completion: &Value) -> Result<(), ApiError> {
        let text = |name: &str| completion[name].as_str().unwrap_or_default().to_owned();
        let head = Head {
            kind: Kind::ChatCompletion,
            id: text("id"),
            owner: self.owner.0.to_string(),
            model: text("model"),
            metadata: self.metadata,
            bytes: 0,
        };
        let mut completion = completion.clone();
        for (name, value) in self.repeated {
            completion[name] = value;
        }
        let body = json!({"completion": completion, "messages": self.messages});
        self.state.stored(move |store| store.put(head, &body)).await
    }
}

/// The answer to a failure of the store: never the client's fault.
pub fn failure(error: &StoreError) -> ApiError {
    tracing::error!(%error, "the store failed");
    match error {
        StoreError::TooLarge { .. } => {
            ApiError::new(StatusCode::INSUFFICIENT_STORAGE, error.to_string()).code("too_large_to_store")
        }
        _ => ApiError::internal("the server could not read or write its store; its log says why").code("store_failed"),
    }
}

pub fn not_found(what: &str, id: &str) -> ApiError {
    let message = format!("there is no {what} {:?} of this key's here; it was never stored, or is gone", shown(id));
    ApiError::new(StatusCode::NOT_FOUND, message).code("not_found")
}

fn show(record: Record) -> Value {
    let Record { head, mut body } = record;
    let mut completion = body["completion"].take();
    completion["metadata"] = Value::Object(head.metadata);
    completion
}

async fn find(state: &State, owner: KeyName, id: String) -> Result<Record, ApiError> {
    let missing = not_found("stored chat completion", &id);
    state.stored(move |store| store.get(Kind::ChatCompletion, &owner.0, &id)).await?.ok_or(missing)
}

pub async fn list(
    extract::State(state): extract::State<State>,
    owner: KeyName,
    pairs: Pairs,
) -> Result<Response, ApiError> {
    let mut unknown = state.unknown();
    let mut fields = query::fields(pairs)?;
    let mut query = query::page(&mut fields, false)?;
    query.model = fields.string("model")?;
    let metadata = parameters::metadata(&mut fields)?;
    query.metadata =
        metadata.iter().filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect();
    fields.finish(&mut unknown)?;
    let page = state.stored(move |store| store.list(Kind::ChatCompletion, &owner.0, &query)).await?;
    Ok(warn(&unknown, Json(query::records(page, show)?).into_response()))
}

pub async fn one(
    extract::State(state): extract::State<State>,
    owner: KeyName,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(show(find(&state, owner, id).await?)))
}

/// Replaces the metadata.
pub async fn update(
    extract::State(state): extract::State<State>,
    owner: KeyName,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let mut unknown = state.unknown();
    let mut fields = Fields::of(read_json(&state, &headers, body).await?, "")?;
    let given = fields.has("metadata").then(|| parameters::metadata(&mut fields)).transpose()?;
    let metadata = fields.require("metadata", given)?;
    fields.finish(&mut unknown)?;
    let missing = not_found("stored chat completion", &id);
    let changed = state.stored(move |store| store.set_metadata(Kind::ChatCompletion, &owner.0, &id, metadata)).await?;
    Ok(warn(&unknown, Json(show(changed.ok_or(missing)?)).into_response()))
}

pub async fn delete(
    extract::State(state): extract::State<State>,
    owner: KeyName,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let (missing, named) = (not_found("stored chat completion", &id), id.clone());
    if !state.stored(move |store| store.delete(Kind::ChatCompletion, &owner.0, &named)).await? {
        return Err(missing);
    }
    Ok(Json(json!({"object": "chat.completion.deleted", "id": id, "deleted": true})))
}

/// The messages that the completion answers.
pub async fn messages(
    extract::State(state): extract::State<State>,
    owner: KeyName,
    Path(id): Path<String>,
    pairs: Pairs,
) -> Result<Response, ApiError> {
    let mut unknown = state.unknown();
    let mut fields = query::fields(pairs)?;
    let query = query::page(&mut fields, false)?;
    fields.finish(&mut unknown)?;
    let mut record = find(&state, owner, id.clone()).await?;
    let messages = record.body["messages"].as_array_mut().map(std::mem::take).unwrap_or_default();
    let with_id = |(index, mut message): (usize, Value)| {
        message["id"] = json!(format!("{id}-{index}"));
        message["content_parts"] = Value::Null;
        message
    };
    let messages = messages.into_iter().enumerate().map(with_id).collect();
    Ok(warn(&unknown, Json(query::part(messages, &query)?).into_response()))
}
