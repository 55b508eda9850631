//! One HTTP call, and what its failure proves.
//!
//! "It did not happen" is claimed in two cases only: the connection was never made (refused, no route, connect time-out, or no
//! request could be built), so not a byte of the request left; or the other side answered with a status that it gives before it
//! reads any operation (see [`refused_unread`]). Everything else, also a broken or unreadable answer, proves nothing.
//!
//! The client neither follows redirects nor uses a proxy, and nothing retries: a repeat is the caller's decision.

use crate::connector::{Outcome, QueryOutcome};
use crate::wire::{OutcomesResponse, WireError};
use flowbridge_domain::bank::OperationKey;
use reqwest::{RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;
use std::time::Duration;

/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Why a call brought no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CallError {
    /// Provably without effect.
    NotSent(String),
    /// It may have had its effect.
    Unknown(String),
}

impl CallError {
    pub(crate) fn into_cause(self) -> String {
        match self {
            Self::NotSent(cause) | Self::Unknown(cause) => cause,
        }
    }
}

/// A client with a pool of its own, so that one slow party does not use up another's connections.
pub(crate) fn client(
    connect_timeout: Duration,
    timeout: Duration,
) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .connect_timeout(connect_timeout)
        .timeout(timeout)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .tcp_nodelay(true)
        .user_agent(concat!("flowbridge/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Sends and reads a JSON answer.
pub(crate) async fn call<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, CallError> {
    let mut response = request.send().await.map_err(|error| classify(&error))?;
    let status = response.status();
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(None) => break,
            Ok(Some(chunk)) if body.len().saturating_add(chunk.len()) <= ANSWER_BYTES_MAX => {
                body.extend_from_slice(&chunk);
            }
            Ok(Some(_)) => return Err(CallError::Unknown("the answer is too large".into())),
            Err(_) if refused_unread(status) => break,
            Err(error) => return Err(CallError::Unknown(describe(&error))),
        }
    }
    if status.is_success() {
        return serde_json::from_slice(&body)
            .map_err(|error| CallError::Unknown(format!("the answer cannot be read: {error}")));
    }
    let excerpt: String = String::from_utf8_lossy(&body).chars().take(200).collect();
    let cause = format!("HTTP {}: {excerpt}", status.as_u16());
    Err(if refused_unread(status) { CallError::NotSent(cause) } else { CallError::Unknown(cause) })
}

/// Sends those operations of a slice that can be put on the wire; an outcome for each, in order.
pub(crate) async fn execute_slice<B>(
    slice: Vec<(OperationKey, Result<B, WireError>)>,
    send: impl AsyncFnOnce(Vec<B>) -> Result<OutcomesResponse, CallError>,
) -> Vec<Outcome> {
    let mut bodies = Vec::with_capacity(slice.len());
    let mut sent = Vec::with_capacity(slice.len());
    let mut problems = Vec::with_capacity(slice.len());
    for (key, body) in slice {
        match body {
            Ok(body) => {
                bodies.push(body);
                sent.push(key);
                problems.push(None);
            }
            Err(problem) => problems.push(Some(problem.to_string())),
        }
    }
    let outcomes: Vec<Outcome> = match send(bodies).await {
        Ok(answer) => {
            let missing = || Outcome::Unknown { cause: MISSING.into() };
            let results = answer.by_key(&sent).into_iter();
            results.map(|result| result.map_or_else(missing, |result| result.into_outcome())).collect()
        }
        Err(CallError::NotSent(cause)) => vec![Outcome::NotSent { cause, retry_at: None }; sent.len()],
        Err(CallError::Unknown(cause)) => vec![Outcome::Unknown { cause }; sent.len()],
    };
    let mut outcomes = outcomes.into_iter();
    let unsaid = || Outcome::Unknown { cause: MISSING.into() };
    problems
        .into_iter()
        .map(|problem| match problem {
            Some(text) => Outcome::Unprocessable { text },
            None => outcomes.next().unwrap_or_else(unsaid),
        })
        .collect()
}

/// Reads the answer to a slice of questions; an answer for each key, in order.
pub(crate) fn query_answers(
    keys: &[OperationKey],
    answer: Result<OutcomesResponse, CallError>,
) -> Vec<QueryOutcome> {
    match answer {
        Ok(answer) => {
            let missing = || QueryOutcome::Unanswered { cause: MISSING.into(), retry_at: None };
            let results = answer.by_key(keys).into_iter();
            results.map(|result| result.map_or_else(missing, |result| result.into_query_outcome())).collect()
        }
        Err(error) => {
            vec![QueryOutcome::Unanswered { cause: error.into_cause(), retry_at: None }; keys.len()]
        }
    }
}

const MISSING: &str = "the answer does not say, or says two things";

/// Statuses that our counterparts give before they carry out anything of a request: it is malformed as a whole, not
/// authorised, not addressed to anyone, too large, or one too many. 408, 409 and every 5xx are not among them.
fn refused_unread(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 401 | 403 | 404 | 405 | 413 | 415 | 429)
}

fn classify(error: &reqwest::Error) -> CallError {
    let cause = describe(error);
    if error.is_connect() || error.is_builder() {
        CallError::NotSent(cause)
    } else {
        CallError::Unknown(cause)
    }
}

/// The chain of causes, without the address: it may carry what should not be logged.
fn describe(error: &reqwest::Error) -> String {
    let kind = if error.is_connect() {
        "no connection"
    } else if error.is_timeout() {
        "no answer in time"
    } else {
        "the exchange broke off"
    };
    let mut text = kind.to_owned();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
