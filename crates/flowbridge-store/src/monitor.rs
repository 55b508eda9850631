//! What is waiting, and since when: nothing may be stuck without being seen. And the little housekeeping that keeps tables small.

use crate::db::{Db, StoreError};
use crate::sql::{At, Statement, statements};
use crate::webhook;
use flowbridge_domain::time::Timestamp;
use std::time::Duration;

statements! {
    // One that is for a later day waits from that day on.
    OPEN_PAYMENTS = "select state, count(*) as waiting, min(greatest(state_since, execute_at)) as oldest from payment
        where is_open group by state";

    // Lane by lane, as what waits is indexed.
    OPEN_EFFECTS = "select lane, kind, state, count(*) as waiting, min(state_since) as oldest from effect
            where is_waiting and lane = 'bank' group by lane, kind, state
        union all select lane, kind, state, count(*), min(state_since) from effect
            where is_waiting and lane = 'chain' group by lane, kind, state";

    // Effects that were sent to the chain wait as its transactions do.
    OPEN_TXS = "select lane, purpose, chain_tx.state, count(*) as waiting, min(chain_tx.created_at) as oldest from chain_tx
        where chain_tx.state in ('intended', 'numbered', 'signed', 'broadcast', 'dropped')
        group by lane, purpose, chain_tx.state";

    OPEN_DEAD_LETTERS = "select consumer_group, count(*) as waiting, min(parked_at) as oldest from dead_letter
        where resolved_at is null group by consumer_group";

    LEDGER_IMBALANCE = "select coalesce(sum(abs(imbalance)), 0)::bigint as imbalance from (
            select sum(posted_debits)::bigint - sum(posted_credits)::bigint as imbalance
                from ledger_account group by currency) by_currency";

    // The oldest first, and so many at most: however much has served its time, each statement ends in time.
    FORGET_ASSERTIONS = "delete from used_assertion where ctid = any(array(
            select ctid from used_assertion where expires_at < $1 order by expires_at limit $2))";

    FORGET_KEYS = "delete from idempotency_key where ctid = any(array(
            select ctid from idempotency_key where created_at < $1 order by created_at limit $2))";
}

/// A kind of work that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// What it is, such as `payment`, `effect`, `chain_tx` or `dead_letter`.
    pub what: &'static str,
    /// Which kind of it: a state, or `lane.kind.state`.
    pub kind: String,
    /// How many.
    pub count: i64,
    /// How long the oldest has waited.
    pub oldest: Duration,
}

/// Everything that waits, and by how much the ledger is out of balance (always zero).
pub async fn waiting(db: &Db, now: Timestamp) -> Result<(Vec<Waiting>, i64), StoreError> {
    let mut found = Vec::new();
    for (what, statement, columns) in [
        ("payment", OPEN_PAYMENTS, &["state"][..]),
        ("effect", OPEN_EFFECTS, &["lane", "kind", "state"][..]),
        ("chain_tx", OPEN_TXS, &["lane", "purpose", "state"][..]),
        ("dead_letter", OPEN_DEAD_LETTERS, &["consumer_group"][..]),
    ] {
        for row in db.query(statement, &[]).await? {
            let parts: Result<Vec<&str>, _> =
                columns.iter().map(|column| row.try_get::<_, &str>(column)).collect();
            found.push(Waiting {
                what,
                kind: parts?.join("."),
                count: row.try_get("waiting")?,
                oldest: now.since(row.try_get::<_, At>("oldest")?.0),
            });
        }
    }
    let imbalance = match db.query(LEDGER_IMBALANCE, &[]).await?.first() {
        Some(row) => row.try_get("imbalance")?,
        None => 0,
    };
    Ok((found, imbalance))
}

/// How long is kept what only serves for a while.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    /// Answers under their idempotency keys.
    pub idempotency: Duration,
    /// Webhook deliveries, from their event on.
    pub deliveries: Duration,
}

/// Prepares the coming days and months and forgets what has served its time.
pub async fn keep_house(db: &Db, now: Timestamp, kept: Kept) -> Result<(), StoreError> {
    db.ensure_partitions().await?;
    webhook::forget_deliveries(db, now.minus(kept.deliveries)).await?;
    forget(db, FORGET_ASSERTIONS, now.minus(ASSERTIONS_KEPT)).await?;
    forget(db, FORGET_KEYS, now.minus(kept.idempotency)).await
}

/// Used assertions are remembered so long after they have expired: a gateway whose clock is behind ours takes them until then.
const ASSERTIONS_KEPT: Duration = Duration::from_secs(60);

/// Rows forgotten in one transaction at most.
pub(crate) const FORGOTTEN_MAX: i64 = 10_000;

/// Forgets what is older than `before`, a slice after the other.
pub(crate) async fn forget(db: &Db, statement: Statement, before: Timestamp) -> Result<(), StoreError> {
    loop {
        let tx = db.begin().await?;
        let forgotten = tx.execute(statement, &[&At(before), &FORGOTTEN_MAX]).await?;
        tx.commit().await?;
        if i64::try_from(forgotten).unwrap_or(i64::MAX) < FORGOTTEN_MAX {
            return Ok(());
        }
    }
}
