//! The shared bearer keys of the simulator: told apart in constant time, never shown.

use axum::http::{HeaderMap, header};
use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;

/// A secret that a caller shows as `Authorization: Bearer …`.
#[derive(Debug, Clone)]
pub struct BearerKey(SecretString);

impl BearerKey {
    /// Wraps a key.
    pub fn new(key: impl Into<String>) -> Self {
        Self(SecretString::from(key.into()))
    }

    /// Does the request carry this key? An empty key opens nothing.
    pub fn opens(&self, headers: &HeaderMap) -> bool {
        let expected = self.0.expose_secret().as_bytes();
        bearer_token(headers)
            .is_some_and(|shown| !expected.is_empty() && bool::from(shown.as_bytes().ct_eq(expected)))
    }

    /// The key, to be put into a header.
    pub(crate) fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

/// The bearer token of a request, if it has exactly one `Authorization` header of that scheme.
pub fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (values.next().is_none() && scheme.eq_ignore_ascii_case("bearer")).then(|| token.trim())
}
