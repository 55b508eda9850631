//! `POST /internal/hold`: the tier that talks to banks, offered to the tiers that do not.
//!
//! A slice of operations for any banks goes in, an outcome for each comes out, in the same order; `/internal/hold/query` asks
//! what became of some. Who may call is decided by a [`CallerVerifier`] that the binary passes in. The same request may be
//! made again: operations are known by their keys, at the bank. A request that is refused (4xx) had no effect; any other
//! failure on the way makes all its outcomes `Unknown`, and the client says so.

use crate::connector::{Operation, Outcome, QueryOutcome};
use crate::http_call::{CallError, call, client, execute_slice, query_answers};
use crate::problem::{Problem, check_slice, read_json};
use crate::registry::BankDesk;
use crate::wire::{OperationBody, OutcomeBody, OutcomesResponse, ResultBody, read_key};
use async_trait::async_trait;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use flowbridge_domain::bank::OperationKey;
use flowbridge_domain::party::BankCode;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Where operations are posted.
pub const PATH: &str = "/internal/hold";
/// Where questions are posted.
pub const QUERY_PATH: &str = "/internal/hold/query";
/// Most operations or keys in one request.
pub const SLICE_MAX: usize = 2_000;
/// Largest request body.
const BODY_BYTES_MAX: usize = 4 << 20;

/// Decides by its headers whether a request comes from a tier that may move money. Says why not, for the answer.
pub type CallerVerifier = Arc<dyn Fn(&HeaderMap) -> Result<(), String> + Send + Sync>;

/// An operation and the bank it is for.
#[derive(Debug, Serialize, Deserialize)]
pub struct HoldOperation {
    /// The bank's code.
    pub bank: String,
    /// What is asked for.
    #[serde(flatten)]
    pub operation: OperationBody,
}

/// A slice of operations.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldRequest {
    /// Those for one bank are carried out in this order.
    pub operations: Vec<HoldOperation>,
}

/// A key and the bank to ask.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldKey {
    /// The bank's code.
    pub bank: String,
    /// Payment and step.
    pub key: String,
}

/// A slice of questions.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldQuery {
    /// What to ask about.
    pub keys: Vec<HoldKey>,
}

#[derive(Clone)]
struct Api {
    desk: Arc<dyn BankDesk>,
    verify: CallerVerifier,
}

/// The routes, complete with their paths and limits.
pub fn router(desk: Arc<dyn BankDesk>, verify: CallerVerifier) -> Router {
    Router::new()
        .route(PATH, post(execute))
        .route(QUERY_PATH, post(query))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(Api { desk, verify })
}

async fn execute(State(api): State<Api>, headers: HeaderMap, body: Bytes) -> Result<Response, Problem> {
    (api.verify)(&headers).map_err(Problem::unauthorized)?;
    let request: HoldRequest = read_json(&body)?;
    check_slice(request.operations.len(), SLICE_MAX)?;
    // An item that means nothing has its own outcome; the others go on.
    let mut operations = Vec::with_capacity(request.operations.len());
    let mut answered = Vec::with_capacity(request.operations.len());
    for item in &request.operations {
        match read_item(item) {
            Ok(operation) => {
                operations.push(operation);
                answered.push(None);
            }
            Err(text) => answered.push(Some(ResultBody::Unprocessable { text })),
        }
    }
    // In a task of its own: a caller that gives up must not cut off a call to a bank half-way.
    let executed = tokio::spawn(async move { api.desk.execute(&operations).await }).await;
    let mut executed = executed.map_err(|_| failed())?.into_iter();
    let unsaid = || ResultBody::Unknown { cause: "the desk gave no outcome".into() };
    let outcomes = request
        .operations
        .into_iter()
        .zip(answered)
        .map(|(item, answered)| OutcomeBody {
            key: item.operation.key,
            result: answered.unwrap_or_else(|| executed.next().map_or_else(unsaid, ResultBody::from)),
        })
        .collect();
    Ok(Json(OutcomesResponse { outcomes }).into_response())
}

fn read_item(item: &HoldOperation) -> Result<(BankCode, Operation), String> {
    let bank = BankCode::parse(&item.bank).map_err(|error| error.to_string())?;
    Ok((bank, item.operation.read().map_err(|error| error.to_string())?))
}

async fn query(State(api): State<Api>, headers: HeaderMap, body: Bytes) -> Result<Response, Problem> {
    (api.verify)(&headers).map_err(Problem::unauthorized)?;
    let request: HoldQuery = read_json(&body)?;
    check_slice(request.keys.len(), SLICE_MAX)?;
    let keys = request
        .keys
        .iter()
        .enumerate()
        .map(|(index, item)| {
            let bank = BankCode::parse(&item.bank).map_err(|error| invalid_key(index, &error))?;
            Ok((bank, read_key(&item.key).map_err(|error| invalid_key(index, &error))?))
        })
        .collect::<Result<Vec<_>, Problem>>()?;
    let answers = tokio::spawn(async move {
        let answers = api.desk.query(&keys).await;
        let body = |((_, key), answer): (&(BankCode, OperationKey), QueryOutcome)| OutcomeBody {
            key: key.to_string(),
            result: answer.into(),
        };
        keys.iter().zip(answers).map(body).collect()
    });
    let outcomes = answers.await.map_err(|_| failed())?;
    Ok(Json(OutcomesResponse { outcomes }).into_response())
}

fn failed() -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the request failed")
}

fn invalid_key(index: usize, error: &dyn fmt::Display) -> Problem {
    Problem::invalid(format!("/keys/{index}: {error}"))
}

/// Gives the bearer token for a call, or says why it cannot.
pub type TokenSource = Arc<dyn Fn() -> Result<String, String> + Send + Sync>;

/// The internal API as seen by a worker in another process.
pub struct HoldApiClient {
    http: reqwest::Client,
    execute_url: Url,
    query_url: Url,
    token: TokenSource,
}

/// The client could not be built.
#[derive(Debug, thiserror::Error)]
#[error("the client of the hold API cannot be built: {0}")]
pub struct BuildClientError(String);

impl HoldApiClient {
    /// A client of the tier at `base_url`. `timeout` must be longer than the banks' own, or answers are lost that are on their way.
    pub fn new(base_url: &Url, token: TokenSource, timeout: Duration) -> Result<Self, BuildClientError> {
        let join = |path| base_url.join(path).map_err(|error| BuildClientError(error.to_string()));
        let http =
            client(Duration::from_secs(2), timeout).map_err(|error| BuildClientError(error.to_string()))?;
        Ok(Self { http, execute_url: join(PATH)?, query_url: join(QUERY_PATH)?, token })
    }

    async fn post<T: Serialize + Sync>(&self, url: &Url, body: &T) -> Result<OutcomesResponse, CallError> {
        let token = (self.token)().map_err(CallError::NotSent)?;
        call(self.http.post(url.clone()).bearer_auth(token).json(body)).await
    }
}

impl fmt::Debug for HoldApiClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HoldApiClient").field("url", &self.execute_url.as_str()).finish_non_exhaustive()
    }
}

#[async_trait]
impl BankDesk for HoldApiClient {
    async fn execute(&self, operations: &[(BankCode, Operation)]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(operations.len());
        for slice in operations.chunks(SLICE_MAX) {
            let bodies = slice.iter().map(|(bank, operation)| {
                let body = OperationBody::of(operation)
                    .map(|operation| HoldOperation { bank: bank.as_str().to_owned(), operation });
                (operation.key(), body)
            });
            let send = async |operations| self.post(&self.execute_url, &HoldRequest { operations }).await;
            outcomes.extend(execute_slice(bodies.collect(), send).await);
        }
        outcomes
    }

    async fn query(&self, keys: &[(BankCode, OperationKey)]) -> Vec<QueryOutcome> {
        let mut outcomes = Vec::with_capacity(keys.len());
        for slice in keys.chunks(SLICE_MAX) {
            let wanted = slice
                .iter()
                .map(|(bank, key)| HoldKey { bank: bank.as_str().to_owned(), key: key.to_string() })
                .collect();
            let answer = self.post(&self.query_url, &HoldQuery { keys: wanted }).await;
            let keys: Vec<_> = slice.iter().map(|(_, key)| *key).collect();
            outcomes.extend(query_answers(&keys, answer));
        }
        outcomes
    }
}
