//! Anthropic's dialect: `POST /v1/messages` and `/v1/messages/count_tokens`.
//! <https://docs.anthropic.com/en/api/messages>
//!
//! A request is translated into a chat's ([`request`]), an answer's blocks into content blocks ([`events`]). Errors of
//! every kind at these paths, also those found before a handler runs, are worded as Anthropic's clients read them.

mod events;
pub mod request;

use super::{
    Service, State,
    blocks::Blocks,
    dialect::{Ready, ready},
    error::ApiError,
    fields::Unknown,
    generate::Generation,
    guard::{read_json, warn},
    identifiers::identifier,
    loading::service_of,
    stream::{self, Protocol},
};
use axum::{
    Json,
    body::Body,
    extract,
    http::{HeaderMap, HeaderName, HeaderValue},
    response::{IntoResponse, Response},
};
use events::Message;
use request::{NAMES, Purpose, Translated};
use serde_json::{Value, json};

const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

const EVENTS: Protocol = Protocol {
    end: None,
    failure: |error| (Some("error"), error_body(error, None)),
    ping: Some(("ping", r#"{"type": "ping"}"#)),
};

/// Whether what is at `path` speaks this dialect.
pub fn is_path(path: &str) -> bool {
    // Before it may stand the prefix of all paths.
    path.split_once("/v1/messages").is_some_and(|(_, rest)| rest.is_empty() || rest.starts_with('/'))
}

/// The response as this dialect has it: with the header `request-id`, an error in its own words.
pub fn dress(mut response: Response, id: &HeaderValue) -> Response {
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let body = error_body(&error, id.to_str().ok());
        let (mut parts, _) = response.into_parts();
        let (json, body) = Json(body).into_response().into_parts();
        // The old body's length, above all.
        for name in [axum::http::header::CONTENT_LENGTH, axum::http::header::CONTENT_TYPE] {
            parts.headers.remove(&name);
        }
        parts.headers.extend(json.headers);
        response = Response::from_parts(parts, body);
    }
    response.headers_mut().insert(REQUEST_ID, id.clone());
    response
}

fn error_body(error: &ApiError, id: Option<&str>) -> Value {
    let kind = match error.status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        504 => "timeout_error",
        500..=599 => "api_error",
        _ => "invalid_request_error",
    };
    let mut body = json!({"type": "error", "error": {"type": kind, "message": error.message}});
    if let Some(id) = id {
        body["request_id"] = json!(id);
    }
    body
}

pub async fn handle(
    extract::State(state): extract::State<State>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = read_json(&state, &headers, body).await?;
    let service = service_of(&state, &body).await?;
    let (asked, unknown) = (service.clone(), state.unknown());
    let (ready, unknown) = state.prepare(move || prepare(&asked, body, Purpose::Answer, unknown)).await?;
    let generation = Generation::submit(&service, &ready.job, ready.tokens, 0)?;
    let message = Message {
        id: identifier("msg_"),
        model: service.model.id.clone(),
        stop_sequences: ready.job.parameters.stop.clone(),
    };
    let response = if ready.job.parameters.stream {
        stream::respond(state.settings(), EVENTS, |sink| events::send(sink, message, generation))
    } else {
        Json(collect(message, generation).await?).into_response()
    };
    Ok(warn(&unknown, response))
}

/// The tokens of the prompt that a message would be answered from.
pub async fn count_tokens(
    extract::State(state): extract::State<State>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = read_json(&state, &headers, body).await?;
    let service = service_of(&state, &body).await?;
    let unknown = state.unknown();
    let (ready, unknown) = state.prepare(move || prepare(&service, body, Purpose::Count, unknown)).await?;
    Ok(warn(&unknown, Json(json!({"input_tokens": ready.tokens.len()})).into_response()))
}

fn prepare(
    service: &Service,
    body: Value,
    purpose: Purpose,
    mut unknown: Unknown,
) -> Result<(Ready, Unknown), ApiError> {
    let Translated { chat } = request::translate(body, purpose, &mut unknown)?;
    let ready = ready(service, chat, &mut unknown, &NAMES)?;
    Ok((ready, unknown))
}

async fn collect(message: Message, mut generation: Generation) -> Result<Value, ApiError> {
    let (mut blocks, mut end) = (Blocks::default(), None);
    while let Some(update) = generation.next().await? {
        end = message.end(&update).or(end);
        blocks.push(update.piece);
    }
    Ok(message.whole(&blocks.all, end, generation.usage))
}
