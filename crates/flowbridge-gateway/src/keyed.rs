//! Requests other than payments that change something: done once per key, answered alike for ever after.

use crate::Gateway;
use crate::answer::{Answer, Refusal, kept};
use axum::http::StatusCode;
use flowbridge_api::problem::ErrorCode;
use flowbridge_store::accept::{KeptAnswer, Keyed, KeyedRequest, keep, take_key};
use flowbridge_store::{StoreError, Tx};
use serde::Serialize;

/// Does `work` in the transaction that keeps its answer; what it creates is found below `collection`. A refusal is not
/// kept: nothing was done.
pub(crate) async fn once<T: Serialize>(
    gateway: &Gateway,
    key: &KeyedRequest,
    (status, collection): (StatusCode, &str),
    work: impl AsyncFnOnce(&Tx) -> Result<T, Refusal>,
) -> Answer {
    let tx = gateway.parts.db.begin().await?;
    match take_key(&tx, key, gateway.now()).await? {
        Keyed::Replay(answer) => return Ok(kept(answer, true, collection)),
        Keyed::UsedOtherwise => return Err(Refusal::new(ErrorCode::KeyReused)),
        Keyed::Start => {}
    }
    let body = work(&tx).await?;
    let body = serde_json::to_vec(&body).map_err(|error| {
        tracing::error!(%error, "an answer cannot be written as JSON");
        Refusal::new(ErrorCode::Internal)
    })?;
    let answer = KeptAnswer { status: status.as_u16(), body };
    keep(&tx, key, &answer).await?;
    tx.commit().await?;
    Ok(kept(answer, false, collection))
}

/// What exists already is the client's to know; everything else is ours.
pub(crate) fn unless_it_exists(error: StoreError) -> Refusal {
    match error.constraint() {
        Some(constraint) => Refusal::new(ErrorCode::AlreadyExists).detail(match constraint {
            "account_iban_currency_key" => "an account with this IBAN and currency exists",
            "account_wallet_currency_key" => "an account with this wallet and currency exists",
            "account_bank_code_fkey" => "there is no such bank",
            "account_participant_id_fkey" => "there is no such participant",
            "participant_lei_key" => "a participant with this LEI exists",
            _ => "it exists",
        }),
        None => error.into(),
    }
}
