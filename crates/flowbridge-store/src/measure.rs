//! What a benchmark asks the database: its counters, its settings, and what became of the payments that were made.

use crate::db::{Db, StoreError};
use crate::sql::{At, statements};
use flowbridge_domain::id::ParticipantId;
use flowbridge_domain::time::Timestamp;
use uuid::Uuid;

statements! {
    COUNTERS = "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint as wal_bytes,
            (select xact_commit from pg_stat_database where datname = current_database()) as commits,
            pg_backend_pid() as backend";

    SETTINGS = "select name, setting from pg_settings
        where name in ('server_version', 'fsync', 'synchronous_commit', 'full_page_writes', 'wal_level') order by name";

    ENDS = "select count(*) as payments,
            count(*) filter (where payment.state = 'completed') as completed,
            count(*) filter (where payment.state = 'failed') as failed,
            count(*) filter (where ends.told <> 1) as not_ended_once
        from payment, lateral (
            select count(*) as told from event
                where event.key = payment.id and event.topic = 'payments' and event.kind in ('payment.completed', 'payment.failed')
        ) ends
        where payment.participant_id = any($1) and payment.id >= uuid_floor($2)";

    BALANCES_AGAINST_ENTRIES = "select (select count(*) from journal_entry) as entries,
            count(*) filter (where coalesce(posted.debits, 0) <> account.posted_debits
                or coalesce(posted.credits, 0) <> account.posted_credits) as differing,
            coalesce(sum(account.posted_debits - account.posted_credits), 0)::bigint as imbalance
        from ledger_account account left join (
            select account, sum(debits) as debits, sum(credits) as credits from (
                select debit_account as account, amount as debits, 0 as credits from journal_entry
                union all
                select credit_account, 0, amount from journal_entry) leg
            group by account) posted on posted.account = account.id";

    TOUCH_ENTRY = "update journal_entry set amount = amount + 1 where source_id = (select source_id from journal_entry limit 1)";
}

/// Counters of the server, to be read before and after.
#[derive(Debug, Clone, Copy)]
pub struct Counters {
    /// Bytes of write-ahead log, ever.
    pub wal_bytes: i64,
    /// Transactions committed in this database; the server adds them up with a delay of about a second.
    pub commits: i64,
    /// The process that answered: its parent is the server.
    pub backend: i32,
}

/// Reads the counters.
pub async fn counters(db: &Db) -> Result<Counters, StoreError> {
    let rows = db.query(COUNTERS, &[]).await?;
    let row = rows.first().ok_or_else(|| StoreError::Corrupt("counters".into()))?;
    Ok(Counters {
        wal_bytes: row.try_get("wal_bytes")?,
        commits: row.try_get("commits")?,
        backend: row.try_get("backend")?,
    })
}

/// The settings that decide what a commit promises, by name.
pub async fn settings(db: &Db) -> Result<Vec<(String, String)>, StoreError> {
    let rows = db.query(SETTINGS, &[]).await?;
    rows.iter().map(|row| Ok((row.try_get("name")?, row.try_get("setting")?))).collect()
}

/// What became of payments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// How many there are.
    pub payments: i64,
    /// In their final state.
    pub completed: i64,
    /// In the other final state.
    pub failed: i64,
    /// Those that do not have exactly one final event in the log.
    pub not_ended_once: i64,
}

/// What became of the payments that clients of these participants have made since an instant.
pub async fn ends(db: &Db, participants: &[ParticipantId], since: Timestamp) -> Result<Ends, StoreError> {
    let ids: Vec<Uuid> = participants.iter().map(ParticipantId::as_uuid).collect();
    // Reads everything, so in a snapshot: as all that does.
    let tx = db.snapshot().await?;
    let rows = tx.query(ENDS, &[&ids, &At(since)]).await?;
    tx.rollback().await?;
    let row = rows.first().ok_or_else(|| StoreError::Corrupt("ends".into()))?;
    Ok(Ends {
        payments: row.try_get("payments")?,
        completed: row.try_get("completed")?,
        failed: row.try_get("failed")?,
        not_ended_once: row.try_get("not_ended_once")?,
    })
}

/// What a look at the whole ledger found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerState {
    /// Journal entries, ever.
    pub entries: i64,
    /// Accounts whose balance is not the sum of their postings.
    pub differing: i64,
    /// Debits less credits over all accounts, in minor units.
    pub imbalance: i64,
}

/// Adds every posting up and compares with the balances. Reads the whole ledger.
pub async fn add_up_ledger(db: &Db) -> Result<LedgerState, StoreError> {
    let tx = db.snapshot().await?;
    let rows = tx.query(BALANCES_AGAINST_ENTRIES, &[]).await?;
    tx.rollback().await?;
    let row = rows.first().ok_or_else(|| StoreError::Corrupt("ledger".into()))?;
    Ok(LedgerState {
        entries: row.try_get("entries")?,
        differing: row.try_get("differing")?,
        imbalance: row.try_get("imbalance")?,
    })
}

/// Does the database refuse to change an entry? Tries, and undoes it if it could.
pub async fn entries_are_immutable(db: &Db) -> Result<bool, StoreError> {
    let tx = db.begin().await?;
    match tx.execute(TOUCH_ENTRY, &[]).await {
        Err(StoreError::Refused { .. }) => Ok(true),
        Err(error) => Err(error),
        Ok(_) => {
            tx.rollback().await?;
            Ok(false)
        }
    }
}
