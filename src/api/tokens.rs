//! What a client may want to know of a model's text, in llama-server's shapes: `/tokenize`, `/detokenize`,
//! `/apply-template` and `/props`.

use super::{
    Service, State,
    chat_request::ChatRequest,
    error::ApiError,
    fields::{Fields, Unknown},
    guard::{read_json, warn},
    loading::{service_for, service_of},
    parameters::token_ids,
    prepare::render,
    query::{self, Pairs},
};
use crate::engine::request::SamplingParameters;
use axum::{
    Json,
    body::Body,
    extract,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use std::sync::Arc;

/// Reads a body and answers what `work` makes of it.
async fn answer(
    state: State,
    headers: HeaderMap,
    body: Body,
    work: impl FnOnce(&Service, Value, &mut Unknown) -> Result<Value, ApiError> + Send + 'static,
) -> Result<Response, ApiError> {
    let body = read_json(&state, &headers, body).await?;
    let service = service_of(&state, &body).await?;
    let mut unknown = state.unknown();
    let done = state.prepare(move || work(&service, body, &mut unknown).map(|value| (value, unknown)));
    let (value, unknown) = done.await?;
    Ok(warn(&unknown, Json(value).into_response()))
}

/// The fields of a body, without the model's name, which [`service_of`] has read.
fn fields(body: Value) -> Result<Fields, ApiError> {
    let mut fields = Fields::of(body, "")?;
    fields.string("model")?;
    Ok(fields)
}

pub async fn tokenize(
    extract::State(state): extract::State<State>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    answer(state, headers, body, |service, body, unknown| {
        let mut fields = fields(body)?;
        let content = fields.string("content")?;
        let content = fields.require("content", content)?;
        let add_special = fields.boolean("add_special")?.unwrap_or(false);
        let parse_special = fields.boolean("parse_special")?.unwrap_or(true);
        let with_pieces = fields.boolean("with_pieces")?.unwrap_or(false);
        fields.finish(unknown)?;
        let text = &service.text;
        let tokens = match add_special {
            true => text.encode_prompt(&content, parse_special),
            false => text.encode(&content, parse_special),
        };
        // A token that is no text by itself is shown by its bytes.
        let piece = |id: &u32| match String::from_utf8(text.token_bytes(*id)) {
            Ok(piece) => json!({"id": id, "piece": piece}),
            Err(error) => json!({"id": id, "piece": error.into_bytes()}),
        };
        Ok(match with_pieces {
            true => json!({"tokens": tokens.iter().map(piece).collect::<Vec<Value>>()}),
            false => json!({"tokens": tokens}),
        })
    })
    .await
}

pub async fn detokenize(
    extract::State(state): extract::State<State>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    answer(state, headers, body, |service, body, unknown| {
        let mut fields = fields(body)?;
        let tokens = fields.array("tokens")?;
        let tokens = token_ids(&fields.require("tokens", tokens)?, "tokens", service.model.vocabulary)?;
        fields.finish(unknown)?;
        Ok(json!({"content": service.text.decode(&tokens, true)}))
    })
    .await
}

/// The prompt that a chat request would be answered from.
pub async fn apply_template(
    extract::State(state): extract::State<State>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    answer(state, headers, body, |service, body, unknown| {
        let request = ChatRequest::parse(body, service.model.vocabulary, unknown)?;
        Ok(json!({"prompt": render(&service.text, &request, &request.messages)?}))
    })
    .await
}

/// What holds for the model that `model` names, or for the only one.
pub async fn props(extract::State(state): extract::State<State>, pairs: Pairs) -> Result<Response, ApiError> {
    let mut unknown = state.unknown();
    let mut fields = query::fields(pairs)?;
    let model = fields.string("model")?;
    fields.finish(&mut unknown)?;
    let service = service_for(&state, model.as_deref()).await?;
    Ok(warn(&unknown, Json(properties(&service)).into_response()))
}

fn properties(service: &Arc<Service>) -> Value {
    let text = &service.text;
    let default = SamplingParameters::default();
    let token = |id: Option<u32>| id.and_then(|id| text.tokenizer().vocabulary_text(id)).unwrap_or_default();
    json!({
        "default_generation_settings": {
            "n_ctx": service.model.context_tokens,
            "params": {
                "temperature": default.temperature,
                "top_k": default.top_k,
                "top_p": default.top_p,
                "min_p": default.min_p,
                "repeat_penalty": default.repetition_penalty,
                "presence_penalty": default.presence_penalty,
                "frequency_penalty": default.frequency_penalty,
                "stop": [],
                "stream": false,
            },
        },
        "total_slots": service.engine.stats().sequences.get().max(1),
        "model_alias": service.model.id,
        "chat_template": text.chat_template(),
        "bos_token": token(text.tokenizer().bos()),
        "eos_token": token(text.tokenizer().eos()),
        "modalities": {"vision": false, "audio": false},
        "build_info": concat!("hesper-", env!("CARGO_PKG_VERSION")),
    })
}
