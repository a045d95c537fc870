//! The pages for people: a chat at `/`, the API's description at `/docs` and, for programs, `/openapi.json`.
//!
//! They are files of this folder, part of the binary. They hold no data, ask no other host for anything and run no
//! script but their own, which the content security policy holds.

use super::{State, error::ApiError, guard, identifiers::fingerprint, openapi};
use axum::{
    Router,
    extract::OriginalUri,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use std::sync::LazyLock;

/// Nothing but this server's own files and API; no string becomes HTML or a script.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Path, media type and content of each file.
const FILES: &[(&str, &str, &str)] = &[
    ("/", HTML, include_str!("index.html")),
    ("/docs", HTML, include_str!("docs.html")),
    ("/page/icon.svg", SVG, include_str!("icon.svg")),
    ("/page/base.css", CSS, include_str!("base.css")),
    ("/page/chat.css", CSS, include_str!("chat.css")),
    ("/page/docs.css", CSS, include_str!("docs.css")),
    ("/page/theme.js", SCRIPT, include_str!("theme.js")),
    ("/page/dom.js", SCRIPT, include_str!("dom.js")),
    ("/page/markdown.js", SCRIPT, include_str!("markdown.js")),
    ("/page/client.js", SCRIPT, include_str!("client.js")),
    ("/page/store.js", SCRIPT, include_str!("store.js")),
    ("/page/settings.js", SCRIPT, include_str!("settings.js")),
    ("/page/messages.js", SCRIPT, include_str!("messages.js")),
    ("/page/chat.js", SCRIPT, include_str!("chat.js")),
    ("/page/docs.js", SCRIPT, include_str!("docs.js")),
];

/// The document always; the pages only where they are wanted.
pub fn routes(pages: bool) -> Router<State> {
    let mut router = Router::new().route("/openapi.json", get(describe));
    for (path, kind, content) in FILES.iter().filter(|_| pages) {
        let etag = etag(content);
        router = match *path {
            "/" => router.route(
                path,
                get(async move |OriginalUri(uri): OriginalUri, headers: HeaderMap| {
                    root(&uri, &headers, kind, content, &etag)
                }),
            ),
            path => router.route(path, get(async move |headers: HeaderMap| file(&headers, kind, content, &etag))),
        };
    }
    router.method_not_allowed_fallback(guard::no_such_method)
}

/// The chat page below a prefix: at `PREFIX/`, so that what it names relative to itself is found, and `PREFIX` leads there.
pub fn at_prefix(prefix: &str, pages: bool) -> Router<State> {
    let chat = FILES.iter().find(|(path, ..)| *path == "/").filter(|_| pages);
    let Some((_, kind, content)) = chat else { return Router::new() };
    let etag = etag(content);
    Router::new()
        .route(&format!("{prefix}/"), get(async move |headers: HeaderMap| file(&headers, kind, content, &etag)))
}

/// Names a file's content.
fn etag(content: &str) -> String {
    format!("\"{}\"", fingerprint(&[content]))
}

/// The page, or the way to where its address ends in `/`.
fn root(uri: &Uri, headers: &HeaderMap, kind: &'static str, content: &'static str, etag: &str) -> Response {
    if uri.path().ends_with('/') {
        return file(headers, kind, content, etag);
    }
    Redirect::permanent(&format!("{}/", uri.path())).into_response()
}

/// Written once.
static DOCUMENT: LazyLock<Result<String, serde_json::Error>> = LazyLock::new(|| openapi::document().to_json());

async fn describe() -> Result<Response, ApiError> {
    let written = DOCUMENT.as_ref();
    let text = written.map_err(|error| ApiError::internal(format!("the document could not be written: {error}")))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text.as_str()).into_response())
}

/// A file, or 304 to who has it already.
fn file(headers: &HeaderMap, kind: &'static str, content: &'static str, etag: &str) -> Response {
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|value| value.as_bytes() == etag.as_bytes());
    let mut response = if known { StatusCode::NOT_MODIFIED.into_response() } else { content.into_response() };
    let fixed = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // Asked for again each time, so that page and server are of one build.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    for (name, value) in fixed {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    if let Ok(value) = HeaderValue::try_from(etag) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}
