//! What every request passes: its id, its key, its body's limits, and errors for what no route takes.

use super::{
    State, anthropic,
    caller::{self, Peer, Record, Recorded},
    error::ApiError,
    fields::Unknown,
    identifiers::identifier,
    json, trace,
};
use axum::{
    body::{Body, Bytes},
    extract::{self, Request},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt;
use serde_json::Value;
use std::{any::Any, sync::Arc};

const REQUEST_ID: &str = "x-request-id";
const MAX_REQUEST_ID: usize = 128;

/// How many times the body limit is read, and thrown away, before the connection is cut.
const DISCARD_FACTOR: usize = 8;

/// Answers with the client's `x-request-id`, or one made here, and keeps the request's record, which is logged when its
/// answer is sent. What clients send stays out of the log.
pub async fn identify(request: Request, next: Next) -> Response {
    let sent = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(|id| {
        let bytes = id.as_bytes();
        !bytes.is_empty() && bytes.len() <= MAX_REQUEST_ID && bytes.iter().all(u8::is_ascii_graphic)
    });
    let id = sent.map_or_else(|| identifier("req_"), str::to_owned);
    let span = trace::begin(&id, &request);
    let record = Arc::new(Record::new(id.clone(), request.method().clone(), request.uri().path().to_owned(), span));
    let anthropic = anthropic::is_path(request.uri().path());
    let mut response = caller::within(record.clone(), next.run(request)).await;
    record.figures().status = Some(response.status().as_u16());
    if let Ok(id) = HeaderValue::try_from(id) {
        if anthropic {
            response = anthropic::dress(response, &id);
        }
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response.map(|body| Body::new(Recorded { body, _record: record }))
}

/// Refuses a request without one of the keys, if there are keys, and settles who asks and until when.
pub async fn authorize(extract::State(state): extract::State<State>, request: Request, next: Next) -> Response {
    let keys = state.keys();
    let open = keys.is_empty() || matches!(request.uri().path(), "/health" | "/metrics" | "/version");
    let name = given_key(request.headers()).and_then(|key| keys.name_of(key.as_bytes()));
    if name.is_none() && !open {
        let message = match given_key(request.headers()) {
            Some(_) => "the API key is not one of this server's",
            None => "send an API key: `Authorization: Bearer KEY`, or `x-api-key: KEY`",
        };
        let mut response = ApiError::new(StatusCode::UNAUTHORIZED, message).code("invalid_api_key").into_response();
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return response;
    }
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    if let Some(record) = caller::current()
        && let Err(error) = record.admit(state.settings(), name, peer, request.headers())
    {
        return error.into_response();
    }
    next.run(request).await
}

/// A bearer token, or the header that Anthropic's clients send.
fn given_key(headers: &HeaderMap) -> Option<&str> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then_some(key.trim());
    }
    headers.get("x-api-key")?.to_str().ok().map(str::trim)
}

pub async fn no_such_path(uri: Uri) -> ApiError {
    let message = format!("there is nothing at {}", super::fields::shown(uri.path()));
    ApiError::new(StatusCode::NOT_FOUND, message).code("unknown_url")
}

pub async fn no_such_method(method: Method, uri: Uri) -> ApiError {
    let message = format!("{} does not take {method}", super::fields::shown(uri.path()));
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message).code("method_not_allowed")
}

/// A defect of this server's: the client sees a 500, the log what went wrong.
pub fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(panic = text.unwrap_or("unknown"), "a request handler panicked");
    ApiError::internal("the server failed to handle this request; its log says why").into_response()
}

/// Reads a JSON body within the limits of size and time. A missing content type is taken for JSON.
pub async fn read_json(state: &State, headers: &HeaderMap, body: Body) -> Result<Value, ApiError> {
    if let Some(kind) = headers.get(header::CONTENT_TYPE) {
        let kind = kind.to_str().unwrap_or("");
        let essence = kind.split(';').next().unwrap_or("").trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let message = format!("the content type must be application/json, not {:?}", super::fields::shown(kind));
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message).code("unsupported_media_type"));
        }
    }
    let bytes = read(state, headers, body).await?;
    if state.settings().log_prompts {
        let id = caller::current().map_or_else(String::new, |record| record.id.clone());
        tracing::info!(target: "hesper::prompt", id, body = %String::from_utf8_lossy(&bytes), "asked");
    }
    json::parse(&bytes)
}

async fn read(state: &State, headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
    let settings = state.settings();
    let limit = settings.body_limit_bytes;
    let too_large = || {
        let message = format!("the body is larger than {limit} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message).code("body_too_large")
    };
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > limit.saturating_mul(DISCARD_FACTOR)) {
        return Err(too_large());
    }
    match tokio::time::timeout(settings.read_limit, read_up_to(limit, body)).await {
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => Err(too_large()),
        Ok(Err(_)) => Err(ApiError::new(StatusCode::BAD_REQUEST, "the body could not be read to its end")),
        Err(_) => {
            let message = format!("the body did not arrive within {} s", settings.read_limit.as_secs());
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message))
        }
    }
}

/// The body, or `None` if it is larger. Clients read no answer before they have sent everything, so what is too much
/// is thrown away up to [`DISCARD_FACTOR`] times the limit.
async fn read_up_to(limit: usize, mut body: Body) -> Result<Option<Bytes>, axum::Error> {
    let mut bytes = Vec::new();
    let mut total = 0usize;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        total = total.saturating_add(data.len());
        if total <= limit {
            bytes.extend_from_slice(&data);
        } else if total > limit.saturating_mul(DISCARD_FACTOR) {
            break;
        } else {
            bytes = Vec::new();
        }
    }
    Ok((total <= limit).then(|| bytes.into()))
}

/// Tells of what was left out of the prompt, and names the fields that a lenient server ignored.
pub fn warn(unknown: &Unknown, mut response: Response) -> Response {
    for warning in &unknown.warnings {
        if let Ok(value) = HeaderValue::try_from(format!("299 hesper \"{warning}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    if unknown.ignored.is_empty() {
        return response;
    }
    let safe = |c: char| if c.is_ascii_graphic() && c != '"' && c != '\\' { c } else { '?' };
    let names: Vec<String> = unknown.ignored.iter().map(|path| path.chars().map(safe).collect()).collect();
    let text = format!("299 hesper \"unknown fields ignored: {}\"", names.join(", "));
    if let Ok(value) = HeaderValue::try_from(text) {
        response.headers_mut().append(header::WARNING, value);
    }
    response
}
