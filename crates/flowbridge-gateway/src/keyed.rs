//! Requests other than payments that change something: done once per key, answered alike for ever after.

use crate::Gateway;
use crate::answer::{Answer, Refusal, kept};
use crate::caller::Caller;
use axum::http::{HeaderMap, StatusCode};
use flowbridge_api::problem::{ErrorCode, Fault};
use flowbridge_domain::id::PaymentId;
use flowbridge_security::sealing::{Sealed, SealingKeys};
use flowbridge_store::accept::{KeptAnswer, Keyed, KeyedRequest, keep, take_key};
use flowbridge_store::review::Verdict;
use flowbridge_store::{StoreError, Tx, lifecycle};
use serde::Serialize;

/// What is answered when all went well.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Made<'a> {
    pub(crate) status: StatusCode,
    /// What is created is found below it.
    pub(crate) collection: &'a str,
    /// Whether the answer holds a secret, so that it is kept sealed.
    pub(crate) is_secret: bool,
}

/// Does `work` in the transaction that keeps its answer. A refusal is not kept: nothing was done.
pub(crate) async fn once<T: Serialize>(
    gateway: &Gateway,
    key: &KeyedRequest,
    made: Made<'_>,
    work: impl AsyncFnOnce(&Tx) -> Result<T, Refusal>,
) -> Answer {
    once_on(gateway, &[], (key, made), work).await
}

/// The same for what moves these payments.
pub(crate) async fn once_on<T: Serialize>(
    gateway: &Gateway,
    payments: &[PaymentId],
    (key, made): (&KeyedRequest, Made<'_>),
    work: impl AsyncFnOnce(&Tx) -> Result<T, Refusal>,
) -> Answer {
    let tx = gateway.parts.db.begin().await?;
    // Before the key, whose row is a write.
    if !payments.is_empty() {
        lifecycle::hold_still(&tx, payments).await?;
    }
    match take_key(&tx, key, gateway.now()).await? {
        Keyed::Replay(answer) => {
            tx.rollback().await?;
            return Ok(kept(opened(&gateway.parts.sealing, key, answer)?, true, made.collection));
        }
        Keyed::UsedOtherwise => {
            tx.rollback().await?;
            return Err(Refusal::new(ErrorCode::KeyReused));
        }
        Keyed::Start => {}
    }
    let body = match work(&tx).await {
        Ok(body) => body,
        Err(refusal) => {
            // The connection goes back to its pool; dropped, it would be closed. If it cannot, that is what happens to it.
            drop(tx.rollback().await);
            return Err(refusal);
        }
    };
    let body = serde_json::to_vec(&body).map_err(|error| {
        tracing::error!(%error, "an answer cannot be written as JSON");
        Refusal::new(ErrorCode::Internal)
    })?;
    let answer = KeptAnswer { status: made.status.as_u16(), body };
    if made.is_secret {
        keep(&tx, key, &sealed(&gateway.parts.sealing, key, &answer)?).await?;
    } else {
        keep(&tx, key, &answer).await?;
    }
    tx.commit().await?;
    Ok(kept(answer, false, made.collection))
}

/// Answers what somebody has proposed, at the route for yes or the one for no. `ids` are those in the route: which proposal.
pub(crate) async fn answer_proposal<T: Serialize>(
    gateway: &Gateway,
    (caller, headers): (&Caller, &HeaderMap),
    [confirm, reject]: [&str; 2],
    ids: &[&str],
    verdict: Verdict,
    work: impl AsyncFnOnce(&Tx) -> Result<T, Refusal>,
) -> Answer {
    let route = if verdict == Verdict::Confirmed { confirm } else { reject };
    let key = caller.keyed(headers, ("POST", route), ids, &[])?;
    let made = Made { status: StatusCode::OK, collection: route, is_secret: false };
    once(gateway, &key, made, work).await
}

/// The first byte of a sealed answer; JSON never begins with it. The id of its key and what is sealed follow.
const SEALED: u8 = 1;
const KEY_ID_BYTES: usize = 16;

fn place(key: &KeyedRequest) -> Vec<u8> {
    [b"kept answer ", &key.fingerprint[..]].concat()
}

fn sealed(keys: &SealingKeys, key: &KeyedRequest, answer: &KeptAnswer) -> Result<KeptAnswer, Refusal> {
    let sealed = keys.seal(&place(key), &answer.body).map_err(|error| {
        tracing::error!(%error, "an answer cannot be sealed");
        Refusal::new(ErrorCode::Internal)
    })?;
    let body = [&[SEALED], sealed.key_id.as_bytes(), &sealed.bytes[..]].concat();
    Ok(KeptAnswer { status: answer.status, body })
}

fn opened(keys: &SealingKeys, key: &KeyedRequest, answer: KeptAnswer) -> Result<KeptAnswer, Refusal> {
    let Some((&SEALED, rest)) = answer.body.split_first() else { return Ok(answer) };
    let Some((key_id, bytes)) = rest.split_at_checked(KEY_ID_BYTES) else { return Ok(answer) };
    let sealed = Sealed { key_id: String::from_utf8_lossy(key_id).into_owned(), bytes: bytes.to_vec() };
    let body = keys.open(&place(key), &sealed).map_err(|error| {
        tracing::error!(%error, "a kept answer cannot be opened");
        Refusal::new(ErrorCode::Internal)
    })?;
    Ok(KeptAnswer { status: answer.status, body: body.to_vec() })
}

/// What exists already, and what it names that does not, is the client's to know; everything else is ours.
pub(crate) fn unless_it_exists(error: StoreError) -> Refusal {
    let exists = |what| Refusal::new(ErrorCode::AlreadyExists).detail(what);
    let unknown = |member, what| Refusal::from(vec![Fault::new(member, "not_valid", what)]);
    match error.constraint() {
        Some("account_iban_currency_key") => exists("an account with this IBAN and currency exists"),
        Some("account_wallet_currency_key") => exists("an account with this wallet and currency exists"),
        Some("participant_lei_key") => exists("a participant with this LEI exists"),
        Some("account_bank_code_fkey") => unknown("/bank", "there is no such bank"),
        Some("account_participant_id_fkey") => unknown("/participant_id", "there is no such participant"),
        Some(_) | None => error.into(),
    }
}
