//! The error object that OpenAI's clients read, and the statuses that tell them whether to try again.
//!
//! A client's mistake is never a 5xx: the client libraries retry those.

use crate::engine::queue::Refused;
use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

/// An answer that is an error: `{"error": {"message", "type", "param", "code"}}`, all four keys always there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    pub status: StatusCode,
    pub message: String,
    /// Path of the field that is wrong, for instance `messages[0].content`.
    pub param: Option<String>,
    pub code: Option<&'static str>,
    /// For the `retry-after` header, in seconds.
    pub retry_after_s: Option<u32>,
}

impl ApiError {
    pub fn new(status: StatusCode, message: impl Into<String>) -> ApiError {
        ApiError { status, message: message.into(), param: None, code: None, retry_after_s: None }
    }

    /// 400 that names the field at `param`.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError { param: Some(param.into()), ..ApiError::new(StatusCode::BAD_REQUEST, message) }
    }

    /// 400 for a field whose value is well formed but asks for what this server cannot do.
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError::field(param, message).code("unsupported_value")
    }

    pub fn code(mut self, code: &'static str) -> ApiError {
        self.code = Some(code);
        self
    }

    pub fn internal(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    pub fn loading() -> ApiError {
        let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the model is still loading; try again soon");
        ApiError { retry_after_s: Some(1), ..error.code("loading") }
    }

    fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            429 => "rate_limit_error",
            503 => "unavailable_error",
            500..=599 => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The body, also sent as an event when a stream has begun.
    pub fn body(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.kind(), "param": self.param, "code": self.code}})
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> ApiError {
        let message = refused.to_string();
        match refused {
            Refused::Full { retry_after_s, .. } => ApiError {
                retry_after_s: Some(retry_after_s),
                ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, message).code("queue_full")
            },
            Refused::Restarting { retry_after_s } => ApiError {
                retry_after_s: Some(retry_after_s),
                ..ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message).code("device_lost")
            },
            Refused::ShuttingDown => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message).code("shutting_down"),
            Refused::Stopped => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message).code("engine_stopped"),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        // For dialects that word it otherwise.
        response.extensions_mut().insert(self);
        response
    }
}
