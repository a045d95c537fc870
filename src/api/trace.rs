//! The span of a request, as OpenTelemetry's conventions for HTTP and generative models name its fields. Whoever wants
//! spans subscribes to their target; for nobody they cost nothing.

use super::caller::Figures;
use axum::{
    extract::{MatchedPath, Request},
    http::HeaderMap,
};
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::{Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Headers, as a `traceparent` is looked up in them.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|name| name.as_str()).collect()
    }
}

/// A span for `request`, inside that of a caller who sent one.
pub fn begin(id: &str, request: &Request) -> Span {
    let method = request.method().as_str();
    // What a client makes up is no name of a span.
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let span = tracing::info_span!(
        target: "hesper::span",
        "request",
        "otel.name" = route.map_or(method.to_owned(), |route| format!("{method} {route}")),
        "otel.kind" = "server",
        "otel.status_code" = Empty,
        "http.request.method" = method,
        "http.route" = route,
        "http.response.status_code" = Empty,
        "hesper.request.id" = id,
        "gen_ai.request.model" = Empty,
        "gen_ai.usage.input_tokens" = Empty,
        "gen_ai.usage.output_tokens" = Empty,
        "gen_ai.response.finish_reason" = Empty,
        "hesper.queue_seconds" = Empty,
        "hesper.first_token_seconds" = Empty,
    );
    if !span.is_disabled() && request.headers().contains_key("traceparent") {
        let parent = TraceContextPropagator::new().extract(&Headers(request.headers()));
        // It fails where nobody subscribes to spans as OpenTelemetry has them.
        let _ = span.set_parent(parent);
    }
    span
}

/// What is known when the answer is sent.
pub fn end(span: &Span, figures: &Figures) {
    if span.is_disabled() {
        return;
    }
    span.record("http.response.status_code", figures.status);
    span.record("gen_ai.request.model", figures.model.as_deref());
    span.record("gen_ai.usage.input_tokens", figures.prompt_tokens);
    span.record("gen_ai.usage.output_tokens", figures.completion_tokens);
    span.record("gen_ai.response.finish_reason", figures.finish);
    span.record("hesper.queue_seconds", figures.queue.map(|time| time.as_secs_f64()));
    span.record("hesper.first_token_seconds", figures.first_token.map(|time| time.as_secs_f64()));
    if figures.status.is_none_or(|status| status >= 500) {
        span.record("otel.status_code", "ERROR");
    }
}
