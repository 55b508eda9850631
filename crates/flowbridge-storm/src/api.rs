//! A client of the API as a partner writes it: signs in, repeats under the same key what had no answer, at either gateway.
//!
//! Whatever goes wrong around a gateway, it says so: with 409, 429 or 503. An HTTP 500 is a gateway that does not know what
//! has happened to it, and is noted whoever asked and whatever was answered when they asked again.

use anyhow::{Context as _, Result, bail};
use flowbridge_domain::time::Timestamp;
use flowbridge_security::client_assertion;
use flowbridge_security::keys::{SigningKey, load_pem};
use flowbridge_security::oauth::token_form;
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Mutex;

/// A token is renewed so long after it was issued; it lives for 300 s.
const TOKEN_USE: Duration = Duration::from_secs(200);
/// How long one try may take; a build without optimisation has more than a gateway gives itself.
const TRY_PATIENCE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 15 } else { 5 });
/// How long a question is repeated.
const ASK_PATIENCE: Duration = Duration::from_secs(60);
/// Answers 500 are kept up to this many.
const FAILURES_MAX: usize = 1_000;

/// Somebody who may call.
#[derive(Debug)]
struct Caller {
    name: &'static str,
    key: SigningKey,
    token: Mutex<Option<(String, Instant)>>,
}

/// The API behind its two gateways.
#[derive(Debug)]
pub(crate) struct Api {
    http: reqwest::Client,
    /// `http://host:port` of each gateway's line.
    gateways: [String; 2],
    issuer: String,
    callers: Vec<Caller>,
    /// Reads take turns at the gateways.
    turn: AtomicUsize,
    /// What was answered with 500, and how.
    failures: std::sync::Mutex<Vec<String>>,
}

/// An answer, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("{} {}", self.status, self.body))
    }
}

/// A call that changes something, under its key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) who: &'static str,
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    pub(crate) key: Option<&'a str>,
    pub(crate) body: Option<&'a Value>,
}

impl Api {
    pub(crate) fn new(home: &Path, issuer: &str, gateways: [String; 2]) -> Result<Self> {
        let callers = ["alpha", "beta", "operator", "operator-2"]
            .into_iter()
            .map(|name| {
                let key = load_pem(&home.join(".flowbridge/clients").join(format!("{name}.pem")))?;
                Ok(Caller { name, key, token: Mutex::new(None) })
            })
            .collect::<Result<_>>()?;
        // Connections are used again as a partner's client would; a cut one shows as a failed try.
        let http = reqwest::Client::builder().no_proxy().timeout(TRY_PATIENCE).build()?;
        let (issuer, turn) = (issuer.to_owned(), AtomicUsize::new(0));
        Ok(Self { http, gateways, issuer, callers, turn, failures: std::sync::Mutex::default() })
    }

    /// What any gateway has answered with 500 so far.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_failure(&self, status: StatusCode, what: impl FnOnce() -> String) {
        if status != StatusCode::INTERNAL_SERVER_ERROR {
            return;
        }
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() < FAILURES_MAX {
            failures.push(format!("500: {}", what()));
        }
    }

    /// One try at one gateway. An error is no answer: what was asked for may have happened.
    pub(crate) async fn call(&self, gateway: usize, call: Call<'_>) -> Result<Answer> {
        let token = self.token(gateway, call.who).await?;
        let url = format!("{}{}", self.gateway(gateway), call.path);
        let mut request = self.http.request(call.method.clone(), url).bearer_auth(token);
        if let Some(key) = call.key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = call.body {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let status = answer.status();
        let body = answer.text().await;
        self.note_failure(status, || {
            let said = body.as_deref().unwrap_or("nothing that could be read");
            format!("{} {} under the key {:?} was answered {said}", call.method, call.path, call.key)
        });
        Ok(Answer { status: status.as_u16(), body: body? })
    }

    /// Reads, at one gateway or the other, until there is an answer.
    pub(crate) async fn read(&self, who: &'static str, path: &str) -> Result<Value> {
        let began = Instant::now();
        let mut gateway = self.turn.fetch_add(1, Ordering::Relaxed);
        loop {
            let call = Call { who, method: &Method::GET, path, key: None, body: None };
            match self.call(gateway, call).await {
                Ok(answer) if answer.status == 200 => return answer.json(),
                Ok(answer) if answer.status < 500 && answer.status != 429 => {
                    bail!("GET {path}: {} {}", answer.status, answer.body)
                }
                other => {
                    if began.elapsed() > ASK_PATIENCE {
                        bail!("GET {path} had no answer for {ASK_PATIENCE:?}: {other:?}");
                    }
                }
            }
            gateway += 1;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn gateway(&self, number: usize) -> &str {
        let [one, other] = &self.gateways;
        if number.is_multiple_of(2) { one } else { other }
    }

    /// A token for somebody, to be sent by hand.
    pub(crate) async fn token(&self, gateway: usize, who: &str) -> Result<String> {
        let caller = self.callers.iter().find(|caller| caller.name == who).context("an unknown caller")?;
        let mut held = caller.token.lock().await;
        if let Some((token, since)) = held.as_ref()
            && since.elapsed() < TOKEN_USE
        {
            return Ok(token.clone());
        }
        #[expect(clippy::disallowed_methods, reason = "a partner has the machine's clock")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let now = Timestamp::from_micros(i64::try_from(now.as_micros())?);
        let assertion = client_assertion::make(&format!("{who}-client"), &self.issuer, &caller.key, now)?;
        let answer = self
            .http
            .post(format!("{}/oauth/token", self.gateway(gateway)))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(token_form(&assertion, None).expose_secret().to_owned())
            .send()
            .await?;
        self.note_failure(answer.status(), || format!("{who} was given no token"));
        let body: Value = answer.error_for_status()?.json().await?;
        let token = body.get("access_token").and_then(Value::as_str).context("no token")?.to_owned();
        *held = Some((token.clone(), Instant::now()));
        Ok(token)
    }
}
