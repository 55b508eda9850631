//! The proof over the internal API: taken by the role that knows the banks, shown by the gateway.

use anyhow::{Context as _, Result};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use flowbridge_bank::hold_api::{CallerVerifier, TokenSource};
use flowbridge_bank::registry::BankRegistry;
use flowbridge_store::StoreError;
use flowbridge_store::breaker::{self, Breaker};
use flowbridge_workers::context::Context;
use flowbridge_workers::proof::{Proof, prove};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::Mutex;
use url::Url;

/// Where the proof is taken.
const PATH: &str = "/internal/proof";

/// What a proof is taken of.
#[derive(Clone)]
struct Prover {
    context: Context,
    banks: Arc<BankRegistry>,
    verify: CallerVerifier,
    /// One after the other.
    turn: Arc<Mutex<()>>,
}

/// `GET /internal/proof`, for our own roles.
pub(crate) fn router(context: Context, banks: Arc<BankRegistry>, verify: CallerVerifier) -> Router {
    let prover = Prover { context, banks, verify, turn: Arc::default() };
    Router::new().route(PATH, get(take)).with_state(prover)
}

async fn take(State(prover): State<Prover>, headers: HeaderMap) -> Response {
    let Prover { context, banks, verify, turn } = prover;
    if let Err(why) = verify(&headers) {
        return (StatusCode::UNAUTHORIZED, why).into_response();
    }
    let turn = turn.lock_owned().await;
    // To its end, also if its caller hangs up: a bank that is asked and not heard counts as one that did not answer.
    let taken = tokio::spawn(async move {
        let _turn = turn;
        prove_and_look(&context, &banks).await
    });
    let Ok(taken) = taken.await else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    match taken {
        Ok((proof, breaker)) => Json(shown(&proof, &breaker)).into_response(),
        Err(error) => {
            tracing::warn!(error = %error, "could not take a cut for the proof");
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
    }
}

async fn prove_and_look(context: &Context, banks: &BankRegistry) -> Result<(Proof, Breaker), StoreError> {
    Ok((prove(context, banks).await?, breaker::state(&context.db).await?))
}

fn shown(proof: &Proof, breaker: &Breaker) -> Value {
    let stands = match breaker {
        Breaker::Closed => json!({ "state": "closed" }),
        Breaker::Tripped { cause, since, .. } => {
            json!({ "state": "tripped", "cause": cause, "since_micros": since.as_micros() })
        }
    };
    let lines: Vec<Value> = proof
        .lines
        .iter()
        .map(|line| {
            let units = |side: i128| i64::try_from(side).unwrap_or(i64::MAX);
            json!({
                "what": line.what,
                "currency": line.currency.code(),
                "ledger": units(line.ledger),
                "other": units(line.other),
                "holds": line.holds(),
            })
        })
        .collect();
    json!({
        "holds": proof.holds(),
        "at_micros": proof.at.as_micros(),
        "block": proof.block,
        "in_flight": proof.unread,
        "lines": lines,
        "missing": proof.missing,
        "breaker": stands,
    })
}

/// Asks the role that knows the banks.
pub(crate) async fn ask(http: &reqwest::Client, bank_url: &Url, token: &TokenSource) -> Result<Value> {
    let url = bank_url.join(PATH)?;
    let token = token().map_err(anyhow::Error::msg)?;
    let response = http.get(url).bearer_auth(token).send().await.context("the bank role does not answer")?;
    Ok(response.error_for_status()?.json().await?)
}
