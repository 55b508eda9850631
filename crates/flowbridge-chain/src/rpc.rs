//! JSON-RPC over HTTP: one question, one answer, within a time and a size.
//!
//! Whoever carries questions to nodes stands behind [`Transport`]; [`Http`] carries them to one. What an endpoint says about
//! itself (too many requests, a token it does not take, a method it does not allow) is an error by its remedy, what the node says
//! about the question is the node's. A token that is refused is looked up again, once for each question.

use crate::bearer::Bearer;
use crate::error::{ChainError, Refusal};
use alloy::rpc::json_rpc::ErrorPayload;
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Response, StatusCode, Url, redirect};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Carries questions to a node.
#[async_trait::async_trait]
pub trait Transport: Send + Sync + Debug {
    /// Asks, and returns the `result`.
    async fn ask(&self, method: &'static str, params: Value) -> Result<Box<RawValue>, ChainError>;

    /// What was answered last cannot be read: whoever said it is asked last for a while.
    fn blame(&self, _error: &ChainError) {}

    /// One node to put questions to that belong together; `None` if there is only one anyway.
    fn pinned(&self) -> Option<Arc<dyn Transport>> {
        None
    }

    /// Every node that may be asked; empty if there is only one anyway.
    fn each(&self) -> Vec<Arc<dyn Transport>> {
        Vec::new()
    }

    /// The nodes besides the one that is asked first, but for those that are left alone. What they do not allow is nothing against them.
    fn others(&self) -> Vec<Arc<dyn Transport>> {
        Vec::new()
    }
}

/// A node reached by HTTP.
#[derive(Debug)]
pub struct Http {
    url: Url,
    client: Client,
    timeout: Duration,
    bearer: Option<Bearer>,
    last_id: AtomicU64,
}

/// An answer that is longer is refused, as a node refuses a range that is too wide.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How long an endpoint is left alone that asks for it without saying how long.
const PAUSE_DEFAULT: Duration = Duration::from_secs(1);
/// However long an endpoint asks to be left alone, it is looked at again after this.
const PAUSE_MAX: Duration = Duration::from_secs(300);

impl Http {
    /// A node at `url`, which takes the token of `bearer` if it wants one. Each call may take `timeout`.
    pub fn new(url: &str, bearer: Option<Bearer>, timeout: Duration) -> Result<Self, ChainError> {
        let wrong = |error: &dyn std::fmt::Display| {
            ChainError::Wrong(format!("{url:?} is no URL of a node: {error}"))
        };
        let parsed: Url = url.parse().map_err(|error| wrong(&error))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(wrong(&"http or https is expected"));
        }
        // A redirect would carry the token elsewhere.
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(timeout)
            .pool_idle_timeout(IDLE_MAX)
            .build()
            .map_err(|error| wrong(&error))?;
        Ok(Self { url: parsed, client, timeout, bearer, last_id: AtomicU64::new(0) })
    }

    async fn carry(&self, method: &'static str, params: Value) -> Result<Box<RawValue>, ChainError> {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed);
        let body = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let token = self.bearer.as_ref().map(Bearer::token);
        let mut response = self.post(method, &body, token.as_ref()).await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && let Some(newer) = self.newer_than(token.as_ref()).await
        {
            tracing::info!("the chain's endpoint refused our token; its file has a newer one");
            response = self.post(method, &body, Some(&newer)).await?;
        }
        let status = response.status();
        match status {
            StatusCode::TOO_MANY_REQUESTS => return Err(ChainError::Limited(pause_of(&response))),
            StatusCode::UNAUTHORIZED => {
                return Err(ChainError::Wrong(format!(
                    "the chain's endpoint does not take our token for {method} (HTTP {status}): renew it"
                )));
            }
            StatusCode::FORBIDDEN => return Err(ChainError::Forbidden(method)),
            _ => {}
        }
        let body = read(response, method).await?;
        match serde_json::from_slice::<Answer>(&body) {
            Ok(Answer { error: Some(error), .. }) => Err(read_error(method, &error)),
            Ok(Answer { result: Some(result), .. }) if status.is_success() => Ok(result),
            Ok(Answer { .. }) | Err(_) if !status.is_success() => {
                Err(ChainError::Unavailable(format!("{method} was answered HTTP {status}")))
            }
            Ok(Answer { .. }) => RawValue::from_string("null".to_owned())
                .map_err(|error| ChainError::Unreadable(error.to_string())),
            Err(error) => Err(ChainError::Unreadable(format!("{method}: {error}"))),
        }
    }

    async fn post(
        &self,
        method: &str,
        body: &Value,
        token: Option<&SecretString>,
    ) -> Result<Response, ChainError> {
        let mut request = self.client.post(self.url.clone()).json(body);
        if let Some(token) = token {
            request = request.bearer_auth(token.expose_secret());
        }
        request.send().await.map_err(|error| {
            // Its address may hold a key of the provider's.
            ChainError::Unavailable(format!("{method}: {}", error_text(&error.without_url())))
        })
    }

    /// What the token's file has, if that is not what was refused.
    async fn newer_than(&self, refused: Option<&SecretString>) -> Option<SecretString> {
        let newest = self.bearer.as_ref()?.newest().await;
        (newest.expose_secret() != refused?.expose_secret()).then_some(newest)
    }
}

const IDLE_MAX: Duration = Duration::from_secs(30);

#[async_trait::async_trait]
impl Transport for Http {
    async fn ask(&self, method: &'static str, params: Value) -> Result<Box<RawValue>, ChainError> {
        tokio::time::timeout(self.timeout, self.carry(method, params))
            .await
            .map_err(|_| ChainError::Unavailable(format!("{method} took longer than {:?}", self.timeout)))?
    }
}

#[derive(Deserialize)]
struct Answer {
    result: Option<Box<RawValue>>,
    error: Option<ErrorPayload>,
}

async fn read(mut response: Response, method: &str) -> Result<Vec<u8>, ChainError> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= ANSWER_BYTES_MAX => body.extend_from_slice(&chunk),
            Ok(Some(_)) => {
                return Err(ChainError::Refused(format!(
                    "{method}: an answer of more than {ANSWER_BYTES_MAX} bytes"
                )));
            }
            Ok(None) => return Ok(body),
            Err(error) => {
                return Err(ChainError::Unavailable(format!(
                    "{method}: {}",
                    error_text(&error.without_url())
                )));
            }
        }
    }
}

/// `Retry-After` in seconds; a date, or nothing, is the default.
fn pause_of(response: &Response) -> Duration {
    let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    seconds.map_or(PAUSE_DEFAULT, Duration::from_secs).min(PAUSE_MAX)
}

/// An error with what caused it: "connection refused" stands at the end of the chain.
fn error_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn read_error(method: &str, error: &ErrorPayload) -> ChainError {
    let message = error.message.to_string();
    let text = message.to_lowercase();
    // -32005 is also said of a range with too many logs, which has another remedy.
    if text.contains("too many requests") || error.code == -32005 && text.contains("rate") {
        return ChainError::Limited(PAUSE_DEFAULT);
    }
    if method == "eth_estimateGas" || method == "eth_call" {
        if ["out of native", "exceeds block gas limit", "gas required exceeds"]
            .iter()
            .any(|it| text.contains(it))
        {
            return ChainError::Reverted(Refusal::TooMuch);
        }
        let data = error.as_revert_data();
        if data.is_some() || message.contains("revert") {
            return ChainError::Reverted(Refusal::decode(&data.unwrap_or_default(), &message));
        }
    }
    ChainError::Refused(format!("{method}: {message}"))
}
