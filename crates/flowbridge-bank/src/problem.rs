//! An answer that says why not (RFC 9457), as our HTTP servers in this crate give it.

use crate::wire::{ProblemBody, WireError};
use axum::Json;
use axum::body::Bytes;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

/// A problem to be answered.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into() }
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", detail)
    }

    pub(crate) fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
    }
}

impl From<WireError> for Problem {
    fn from(error: WireError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = ProblemBody {
            title: self.status.canonical_reason().unwrap_or("problem").to_owned(),
            status: self.status.as_u16(),
            detail: self.detail,
            code: self.code.to_owned(),
        };
        let mut response =
            (self.status, [(header::CONTENT_TYPE, "application/problem+json")], Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = header::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

/// The body as JSON of a shape.
pub(crate) fn read_json<T: DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::invalid(error.to_string()))
}

/// Refuses a slice that is too long.
pub(crate) fn check_slice(items: usize, items_max: usize) -> Result<(), Problem> {
    if items > items_max {
        let detail = format!("at most {items_max} items in one request");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "slice_too_large", detail));
    }
    Ok(())
}
