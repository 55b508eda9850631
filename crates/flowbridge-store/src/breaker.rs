//! The breaker that stops minting and payouts when the proof fails.
//!
//! It is tripped by a role that proves, once; it stays so until one operator has proposed to reset it and another has confirmed.
//! What happened to it is a row each, never changed; the last row says how it stands. Whoever changes it holds a lock, so that two
//! do not trip or reset it twice.

use crate::db::{Db, StoreError, Tx};
use crate::sql::{At, statements};
use flowbridge_domain::time::Timestamp;
use tokio_postgres::Row;

statements! {
    LAST = "select seq, kind, cause, by, proposed_by, at from breaker_event order by seq desc limit 1";

    LOCK = "select from pg_advisory_xact_lock(4661007)";

    TRIPPED_FOR = "select cause, at from breaker_event where kind = 'tripped' order by seq desc limit 1";

    NOTE = "insert into breaker_event (kind, cause, by, proposed_by, at) values ($1, $2, $3, $4, $5) returning seq";

    HISTORY = "select seq, kind, cause, by, proposed_by, at from breaker_event order by seq desc limit $1";
}

/// Something that happened to the breaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerEvent {
    /// Its number; a later one is greater.
    pub seq: i64,
    /// `tripped`, `reset_proposed`, `reset_rejected` or `reset`.
    pub kind: String,
    /// Why.
    pub cause: String,
    /// Who did it: a process, or an operator's client.
    pub by: String,
    /// Who had proposed it.
    pub proposed_by: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// How the breaker stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Breaker {
    /// Money may be minted and paid out.
    Closed,
    /// It may not.
    Tripped {
        /// Why it was tripped.
        cause: String,
        /// When.
        since: Timestamp,
        /// What is proposed, and waits for a second person.
        proposal: Option<ResetProposal>,
    },
}

/// A proposal to reset the breaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResetProposal {
    /// Which: whoever confirms it says so, and confirms nothing that came after it.
    pub id: i64,
    /// Who has proposed it.
    pub by: String,
    /// Why.
    pub reason: String,
}

impl Breaker {
    /// May money be minted and paid out?
    pub const fn is_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }
}

/// Why it stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerRefusal {
    /// It is not tripped.
    NotTripped,
    /// Somebody has proposed to reset it: that has to be confirmed or rejected first.
    AlreadyProposed,
    /// Nobody has proposed to reset it, or what was proposed has been answered.
    NotProposed,
    /// Who proposes does not confirm.
    SamePerson,
}

/// How it stands.
pub async fn state(db: &Db) -> Result<Breaker, StoreError> {
    let Some(last) = db.query(LAST, &[]).await?.first().map(read).transpose()? else {
        return Ok(Breaker::Closed);
    };
    let tripped = db.query(TRIPPED_FOR, &[]).await?;
    stands(last, tripped.first())
}

async fn locked(tx: &Tx) -> Result<Breaker, StoreError> {
    tx.query(LOCK, &[]).await?;
    let Some(last) = tx.query(LAST, &[]).await?.first().map(read).transpose()? else {
        return Ok(Breaker::Closed);
    };
    let tripped = tx.query(TRIPPED_FOR, &[]).await?;
    stands(last, tripped.first())
}

fn stands(last: BreakerEvent, tripped: Option<&Row>) -> Result<Breaker, StoreError> {
    if last.kind == "reset" {
        return Ok(Breaker::Closed);
    }
    let Some(tripped) = tripped else {
        return Err(StoreError::Corrupt(format!("a breaker that is {} and was never tripped", last.kind)));
    };
    Ok(Breaker::Tripped {
        cause: tripped.try_get("cause")?,
        since: tripped.try_get::<_, At>("at")?.0,
        proposal: (last.kind == "reset_proposed").then_some(ResetProposal {
            id: last.seq,
            by: last.by,
            reason: last.cause,
        }),
    })
}

/// Trips it, if it is not. True if it was closed. Evidence from before it was last reset has been dealt with by those who reset
/// it, and trips it no more.
pub async fn trip(
    db: &Db,
    cause: &str,
    by: &str,
    seen_at: Timestamp,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let tx = db.begin().await?;
    let is_closed = locked(&tx).await?.is_closed();
    let last = tx.query(LAST, &[]).await?.first().map(read).transpose()?;
    if !is_closed || last.is_some_and(|reset| seen_at <= reset.at) {
        tx.rollback().await?;
        return Ok(false);
    }
    note(&tx, "tripped", cause, (by, None), now).await?;
    tx.commit().await?;
    Ok(true)
}

/// Proposes to reset it. Returns the proposal's id.
pub async fn propose_reset(
    tx: &Tx,
    reason: &str,
    by: &str,
    now: Timestamp,
) -> Result<Result<i64, BreakerRefusal>, StoreError> {
    match locked(tx).await? {
        Breaker::Closed => Ok(Err(BreakerRefusal::NotTripped)),
        Breaker::Tripped { proposal: Some(_), .. } => Ok(Err(BreakerRefusal::AlreadyProposed)),
        Breaker::Tripped { proposal: None, .. } => {
            Ok(Ok(note(tx, "reset_proposed", reason, (by, None), now).await?))
        }
    }
}

/// Answers a proposal to reset it.
pub async fn answer_reset(
    tx: &Tx,
    id: i64,
    confirmed: bool,
    by: &str,
    now: Timestamp,
) -> Result<Result<(), BreakerRefusal>, StoreError> {
    match locked(tx).await? {
        Breaker::Closed => Ok(Err(BreakerRefusal::NotTripped)),
        Breaker::Tripped { proposal, .. } => match proposal.filter(|proposal| proposal.id == id) {
            None => Ok(Err(BreakerRefusal::NotProposed)),
            Some(proposal) if confirmed && proposal.by == by => Ok(Err(BreakerRefusal::SamePerson)),
            Some(proposal) => {
                let kind = if confirmed { "reset" } else { "reset_rejected" };
                note(tx, kind, &proposal.reason, (by, Some(proposal.by.as_str())), now).await?;
                Ok(Ok(()))
            }
        },
    }
}

/// What happened to it, newest first.
pub async fn history(db: &Db, limit: i64) -> Result<Vec<BreakerEvent>, StoreError> {
    db.query(HISTORY, &[&limit]).await?.iter().map(read).collect()
}

async fn note(
    tx: &Tx,
    kind: &str,
    cause: &str,
    (by, proposed_by): (&str, Option<&str>),
    now: Timestamp,
) -> Result<i64, StoreError> {
    let rows = tx.query(NOTE, &[&kind, &cause, &by, &proposed_by, &At(now)]).await?;
    let row = rows.first().ok_or_else(|| StoreError::Corrupt("a row that was not written".into()))?;
    Ok(row.try_get("seq")?)
}

fn read(row: &Row) -> Result<BreakerEvent, StoreError> {
    Ok(BreakerEvent {
        seq: row.try_get("seq")?,
        kind: row.try_get("kind")?,
        cause: row.try_get("cause")?,
        by: row.try_get("by")?,
        proposed_by: row.try_get("proposed_by")?,
        at: row.try_get::<_, At>("at")?.0,
    })
}
