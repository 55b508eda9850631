//! Answers: JSON, or a problem; with the trace that a partner can name to us.

use crate::Gateway;
use crate::allowance::StandingSlot;
use axum::body::{Body, to_bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use flowbridge_api::problem::{ErrorCode, Fault, Occasion, Problem};
use flowbridge_api::trace::{TRACEPARENT, TraceParent};
use flowbridge_store::StoreError;
use flowbridge_store::accept::KeptAnswer;
use serde::{Deserialize, Serialize};
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

    /// A part of the address that is none of its kind.
    pub(crate) fn parameter(error: impl std::fmt::Display) -> Self {
        Self::new(ErrorCode::InvalidParameter).detail(error.to_string())
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
    pub(crate) fn problem(&self, occasion: Occasion<'_>) -> Problem {
        let problem = Problem::new(self.code, occasion).errors(self.errors.clone());
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
        if matches!(error, StoreError::UnderWay(_)) {
            return Self::new(ErrorCode::InProgress);
        }
        // Load that is shed is counted by its status; a line for each request would be more load.
        if matches!(error, StoreError::Busy | StoreError::Away) {
            return Self::new(ErrorCode::Unavailable);
        }
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

/// An answer that was kept under a key. What was created under an id is found below `collection`.
pub(crate) fn kept(answer: KeptAnswer, replayed: bool, collection: &str) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = if status.is_success() { "application/json" } else { "application/problem+json" };
    let location = (status == StatusCode::CREATED).then(|| location(&answer.body, collection)).flatten();
    let mut response = bytes_answer(status, kind, answer.body);
    if let Some(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    if replayed {
        response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
    }
    response
}

fn location(body: &[u8], collection: &str) -> Option<HeaderValue> {
    #[derive(Deserialize)]
    struct Created<'a> {
        id: &'a str,
    }
    let Created { id } = serde_json::from_slice(body).ok()?;
    HeaderValue::from_str(&format!("{collection}/{id}")).ok()
}

fn bytes_answer(status: StatusCode, kind: &'static str, bytes: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")], bytes).into_response()
}

/// Where a request is in a trace: below the client's span, or at the beginning of a new trace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trace {
    /// The client's own span, if it told us one.
    pub(crate) parent: Option<TraceParent>,
    /// The request's.
    pub(crate) span: TraceParent,
}

impl Trace {
    fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let given = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
        let parent = given.and_then(TraceParent::parse);
        let span = match parent {
            Some(parent) => parent.child(random()?),
            None => TraceParent::generate(random()?),
        };
        Ok(Self { parent, span })
    }

    /// Another span beside this one, for another payment of the same request.
    pub(crate) fn sibling(self) -> Result<Self, Refusal> {
        Ok(Self { span: self.span.child(random()?), ..self })
    }
}

/// Random bytes. Without them there are no ids, so nothing is begun.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Refusal> {
    flowbridge_security::random_bytes::<N>().map_err(|error| {
        tracing::error!(%error, "the system gave no random bytes");
        Refusal::new(ErrorCode::Internal)
    })
}

/// Gives each request its trace, counts it, and writes refusals out as problems that name the trace.
pub(crate) async fn observe(State(gateway): State<Gateway>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let base = gateway.settings.issuer.as_str();
    let trace = match Trace::of(request.headers()) {
        Ok(trace) => trace,
        Err(refusal) => {
            let mut response = Response::default();
            write_problem(&mut response, &refusal.problem(Occasion { base, path: &path, trace_id: "" }));
            return response;
        }
    };
    let standing = StandingSlot::default();
    request.extensions_mut().insert(trace);
    request.extensions_mut().insert(standing.clone());
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let method = known_method(request.method());
    let began = tokio::time::Instant::now();
    let mut response = next.run(request).await;
    gateway.allowances.tell(&standing, response.headers_mut());
    let status = response.status();
    let trace_id = trace.span.trace_id_hex();
    let occasion = Occasion { base, path: &path, trace_id: &trace_id };
    metrics::counter!("http_requests_total", "route" => route.clone(), "method" => method, "status" => status.as_u16().to_string()).increment(1);
    metrics::histogram!("http_request_seconds", "route" => route, "method" => method)
        .record(began.elapsed().as_secs_f64());
    if let Some(refusal) = response.extensions_mut().remove::<std::sync::Arc<Refusal>>() {
        write_problem(&mut response, &refusal.problem(occasion));
    } else if !status.is_success() && !response.headers().contains_key(header::CONTENT_TYPE)
        || response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"))
    {
        // What the framework refuses by itself.
        let code = match status {
            StatusCode::SERVICE_UNAVAILABLE => ErrorCode::Unavailable,
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
        let problem = Problem::new(code, occasion);
        let problem = match said(&mut response, status).await {
            Some(detail) => problem.detail(detail),
            None => problem,
        };
        write_problem(&mut response, &problem);
    }
    traced(response, &trace_id)
}

/// The method as a label of a metric. What else a client writes there is its own invention, and would be kept for ever.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// What the framework says of a parameter that it cannot read: which, and why.
async fn said(response: &mut Response, status: StatusCode) -> Option<String> {
    if status != StatusCode::BAD_REQUEST {
        return None;
    }
    let bytes = to_bytes(std::mem::take(response.body_mut()), SAID_BYTES_MAX).await.ok()?;
    let text = String::from_utf8(bytes.to_vec()).ok()?;
    (!text.trim().is_empty()).then_some(text)
}

const SAID_BYTES_MAX: usize = 1_000;

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
