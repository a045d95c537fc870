//! Which other web pages may read answers. A browser keeps them from all others; other clients do not care.

use axum::http::{HeaderName, HeaderValue, Method, Uri, header};
use std::time::Duration;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

/// How long a browser may remember what it was allowed.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// `text` if it is an origin as browsers send it, or `*`.
///
/// # Errors
/// What an origin looks like.
pub fn check_origin(text: &str) -> Result<String, String> {
    const WRONG: &str = "give an origin as https://chat.example.org or http://localhost:3000, without a path, or *";
    if text == "*" {
        return Ok(text.to_owned());
    }
    let uri: Uri = text.parse().map_err(|_| WRONG.to_owned())?;
    let plain = |authority: &str| !authority.contains('@') && authority.bytes().all(|b| !b.is_ascii_uppercase());
    match (uri.scheme_str(), uri.authority()) {
        (Some(scheme), Some(authority))
            if plain(authority.as_str()) && text == format!("{scheme}://{authority}") && scheme.starts_with("http") =>
        {
            Ok(text.to_owned())
        }
        _ => Err(WRONG.to_owned()),
    }
}

/// Answers what browsers ask before they send a page's request, and names the pages that may read the answer.
pub fn layer(origins: &[String]) -> CorsLayer {
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
    };
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([HeaderName::from_static("x-request-id"), header::RETRY_AFTER, header::WARNING])
        .max_age(REMEMBERED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_what_browsers_send() {
        for right in ["*", "https://a.example", "http://localhost:3000", "http://[::1]:80"] {
            assert_eq!(check_origin(right), Ok(right.to_owned()));
        }
        for wrong in
            ["", "a.example", "https://a.example/", "https://a/b", "https://u@a", "ftp://a", "HTTPS://a", "https://A"]
        {
            check_origin(wrong).expect_err(wrong);
        }
    }
}
