//! Answers: JSON, or a problem; with the trace that a partner can name to us.

use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use flowbridge_api::problem::{ErrorCode, Fault, Problem};
use flowbridge_api::trace::TraceParent;
use flowbridge_store::StoreError;
use flowbridge_store::accept::KeptAnswer;
use serde::Serialize;
use std::any::Any;

/// The answer to a request.
pub type Answer = Result<Response, Refusal>;

/// A problem on its way to the client.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub(crate) code: ErrorCode,
    pub(crate) detail: Option<String>,
    pub(crate) errors: Vec<Fault>,
}

impl Refusal {
    pub(crate) const fn new(code: ErrorCode) -> Self {
        Self { code, detail: None, errors: Vec::new() }
    }

    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub(crate) fn errors(mut self, errors: Vec<Fault>) -> Self {
        self.errors = errors;
        self
    }

    /// The problem's body.
    pub(crate) fn problem(&self, trace_id: &str) -> Problem {
        let problem = Problem::new(self.code, trace_id).errors(self.errors.clone());
        match &self.detail {
            Some(detail) => problem.detail(detail),
            None => problem,
        }
    }
}

impl From<Vec<Fault>> for Refusal {
    fn from(errors: Vec<Fault>) -> Self {
        Self::new(ErrorCode::InvalidRequest).errors(errors)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        if error.is_retryable() {
            tracing::warn!(error = %error, "the database could not serve a request");
            return Self::new(ErrorCode::Unavailable);
        }
        tracing::error!(error = ?error, "a request failed");
        Self::new(ErrorCode::Internal)
    }
}

/// The trace is put in by [`observe`], which sees every answer.
impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        if let Ok(status) = StatusCode::from_u16(self.code.status()) {
            *response.status_mut() = status;
        }
        if self.code == ErrorCode::Unauthenticated {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer error=\"invalid_token\""));
        }
        if matches!(self.code, ErrorCode::InProgress | ErrorCode::Unavailable) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response.extensions_mut().insert(std::sync::Arc::new(self));
        response
    }
}

/// JSON with a status.
pub(crate) fn json<T: Serialize>(status: StatusCode, body: &T) -> Answer {
    match serde_json::to_vec(body) {
        Ok(bytes) => Ok(bytes_answer(status, "application/json", bytes)),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written as JSON");
            Err(Refusal::new(ErrorCode::Internal))
        }
    }
}

/// An answer that was kept under a key.
pub(crate) fn kept(answer: KeptAnswer, replayed: bool) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = if status.is_success() { "application/json" } else { "application/problem+json" };
    let mut response = bytes_answer(status, kind, answer.body);
    if replayed {
        response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
    }
    response
}

fn bytes_answer(status: StatusCode, kind: &'static str, bytes: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")], bytes).into_response()
}

/// The trace of a request: the client's, or a new one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trace(pub(crate) TraceParent);

impl Trace {
    fn of(headers: &HeaderMap) -> Self {
        let given =
            headers.get("traceparent").and_then(|value| value.to_str().ok()).and_then(TraceParent::parse);
        Self(given.map_or_else(|| TraceParent::generate(random()), |given| given.child(random())))
    }
}

/// Bytes that only have to differ, not to be secret.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    flowbridge_security::random_bytes::<N>().unwrap_or([7; N])
}

/// Gives each request its trace, counts it, and writes refusals out as problems that name the trace.
pub(crate) async fn observe(mut request: Request, next: Next) -> Response {
    let trace = Trace::of(request.headers());
    request.extensions_mut().insert(trace);
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let method = request.method().as_str().to_owned();
    let began = tokio::time::Instant::now();
    let mut response = next.run(request).await;
    let status = response.status();
    let trace_id = trace.0.trace_id_hex();
    metrics::counter!("http_requests_total", "route" => route.clone(), "method" => method.clone(), "status" => status.as_u16().to_string()).increment(1);
    metrics::histogram!("http_request_seconds", "route" => route, "method" => method)
        .record(began.elapsed().as_secs_f64());
    if let Some(refusal) = response.extensions_mut().remove::<std::sync::Arc<Refusal>>() {
        write_problem(&mut response, &refusal.problem(&trace_id));
    } else if !status.is_success() && !response.headers().contains_key(header::CONTENT_TYPE)
        || response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"))
    {
        // What the framework refuses by itself.
        let code = match status {
            StatusCode::PAYLOAD_TOO_LARGE => ErrorCode::TooLarge,
            StatusCode::GATEWAY_TIMEOUT => ErrorCode::Timeout,
            StatusCode::METHOD_NOT_ALLOWED => ErrorCode::MethodNotAllowed,
            StatusCode::NOT_FOUND => ErrorCode::NotFound,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => ErrorCode::UnsupportedMediaType,
            StatusCode::BAD_REQUEST => ErrorCode::InvalidParameter,
            _ if status.is_client_error() => ErrorCode::InvalidRequest,
            _ if status.is_server_error() => ErrorCode::Internal,
            _ => return traced(response, &trace_id),
        };
        write_problem(&mut response, &Problem::new(code, &trace_id));
    }
    traced(response, &trace_id)
}

fn traced(mut response: Response, trace_id: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(trace_id) {
        response.headers_mut().insert("trace-id", value);
    }
    response
}

fn write_problem(response: &mut Response, problem: &Problem) {
    if let Ok(status) = StatusCode::from_u16(problem.status) {
        *response.status_mut() = status;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.remove(header::CONTENT_LENGTH);
    *response.body_mut() = Body::from(serde_json::to_vec(problem).unwrap_or_default());
}

pub(crate) async fn no_such_route() -> Refusal {
    Refusal::new(ErrorCode::NotFound)
}

pub(crate) async fn no_such_method() -> Refusal {
    Refusal::new(ErrorCode::MethodNotAllowed)
}

pub(crate) fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    tracing::error!("a request made the program panic");
    Refusal::new(ErrorCode::Internal).into_response()
}
