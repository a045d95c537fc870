//! Who asks.

use axum::{extract::FromRequestParts, http::request::Parts};
use std::{convert::Infallible, sync::Arc};

/// The name of the key that a request brought, which is left among the request's extensions. Empty where none is asked
/// for: then all clients are one.
#[derive(Clone, Debug, Default)]
pub struct KeyName(pub Arc<str>);

impl<S: Send + Sync> FromRequestParts<S> for KeyName {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<KeyName, Infallible> {
        Ok(parts.extensions.get::<KeyName>().cloned().unwrap_or_default())
    }
}
