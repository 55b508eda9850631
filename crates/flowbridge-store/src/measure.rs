//! What a benchmark asks the database: its counters, its settings, and what became of the payments that were made.

use crate::db::{Db, StoreError};
use crate::event_log::Offset;
use crate::sql::{At, columns, statements};
use flowbridge_domain::id::{AccountId, ParticipantId, PaymentId};
use flowbridge_domain::party::BankCode;
use flowbridge_domain::time::Timestamp;
use std::collections::HashMap;
use std::time::Duration;
use uuid::Uuid;

statements! {
    COUNTERS = "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint as wal_bytes,
            (select xact_commit from pg_stat_database where datname = current_database()) as commits,
            pg_backend_pid() as backend";

    SETTINGS = "select name, setting from pg_settings
        where name in ('server_version', 'fsync', 'synchronous_commit', 'full_page_writes', 'wal_level') order by name";

    DATABASE_BYTES = "select pg_database_size(current_database()) as bytes";

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

    STAGE_PAYMENTS = "insert into payment (id, number, participant_id, kind, funding, payout, currency, amount, fee, debtor_account,
            debtor_participant, debtor_bank, creditor_account, creditor_participant, creditor_bank, hold_mode, uetr,
            execute_at, initiate_before, settle_before, expires_at, hold_until, accepted_at, traceparent, state,
            state_since, chain_leg, hold_leg, payout_leg)
        select new.id, nextval('payment_number'), $4, 'transfer', 'bank', 'token', $6, $7, 0, new.debtor, $4, $5, new.creditor, $4,
                $5, 'native', gen_random_uuid(), $8, $9, $9, $9, $9, $8, '', 'accepted', $8, 'unused', 'not_asked', 'not_due'
            from unnest($1::uuid[], $2::uuid[], $3::uuid[]) as new (id, debtor, creditor)";

    ASK_FOR = "insert into effect (payment_id, kind, lane, next_attempt_at, state_since, traceparent)
        select new.id, $2, 'chain', new.due, new.due, '' from unnest($1::uuid[], $3::timestamptz[]) as new (id, due)";

    WATCHED = "select (select count(*) from chain_log) as logs,
            (select count(*) from (
                select from event where topic = 'chain' group by key
                    having array_agg(kind order by xid, seq) = array['chain.initiated', 'chain.settled']) payment) as told_once,
            (select count(*) from effect where lane = 'chain' and state = 'done') as effects_done";

    // What the last effect of each payment waits for, and the last transaction that carried it.
    UNSETTLED = "select asked.kind, asked.state, asked.outcome, sent.state as chain_tx, count(*) as payments
        from payment
            left join lateral (
                select effect.kind, effect.state, effect.outcome from effect
                    where effect.payment_id = payment.id and effect.lane = 'chain' order by effect.state_since desc limit 1
            ) asked on true
            left join lateral (
                select chain_tx.state from chain_tx_item item join chain_tx on chain_tx.id = item.chain_tx
                    where item.payment_id = payment.id order by chain_tx.created_at desc limit 1
            ) sent on true
        where not exists (
            select from event where event.key = payment.id and event.topic = 'chain' and event.kind = 'chain.settled')
        group by asked.kind, asked.state, asked.outcome, sent.state order by payments desc limit 20";

    // What a benchmark needs of the chain's events, and nothing of what they say.
    CHAIN_EVENTS = "select event.key, event.kind, event.xid, event.seq
        from installation, generate_series(0, log_partitions - 1) as partition,
            lateral (
                select key, kind, xid, seq from event
                    where topic = 'chain' and event.partition = partition.partition
                        and (event.xid, event.seq) > ($1, $2)
                        and event.xid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
                    order by event.xid, event.seq limit $3
            ) event
        order by event.xid, event.seq limit $3";

    READ_UP_TO = "select block_number from chain_cursor";

    WALLETS = "select wallet, units from chain_wallet";

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

/// How much room the database takes, in bytes.
pub async fn database_bytes(db: &Db) -> Result<i64, StoreError> {
    let rows = db.query(DATABASE_BYTES, &[]).await?;
    Ok(rows.first().ok_or_else(|| StoreError::Corrupt("database size".into()))?.try_get("bytes")?)
}

/// The settings that decide what a commit promises, by name.
pub async fn settings(db: &Db) -> Result<Vec<(String, String)>, StoreError> {
    let rows = db.query(SETTINGS, &[]).await?;
    rows.iter().map(|row| Ok((row.try_get("name")?, row.try_get("setting")?))).collect()
}

/// A payment that a benchmark of the chain begins with.
#[derive(Debug, Clone, Copy)]
pub struct StagedPayment {
    /// Its id.
    pub id: PaymentId,
    /// Who pays.
    pub debtor: AccountId,
    /// Who is paid.
    pub creditor: AccountId,
}

/// How long the payments of a benchmark may take.
const STAGED_FOR: Duration = Duration::from_secs(3_600);

/// Writes payments as they are when they have been accepted, all of one institution, bank, currency and amount. Nothing is
/// asked for them yet, and there is no event: for benchmarks on a database of their own.
pub async fn stage_payments(
    db: &Db,
    payments: &[StagedPayment],
    (participant, bank, currency, amount): (ParticipantId, &BankCode, &str, i64),
    now: Timestamp,
) -> Result<(), StoreError> {
    let (ids, debtors, creditors) = columns!(
        payments,
        |payment| payment.id.as_uuid(),
        payment.debtor.as_uuid(),
        payment.creditor.as_uuid()
    );
    let until = At(now.plus(STAGED_FOR));
    let participant = participant.as_uuid();
    db.query(
        STAGE_PAYMENTS,
        &[&ids, &debtors, &creditors, &participant, &bank.as_str(), &currency, &amount, &At(now), &until],
    )
    .await?;
    Ok(())
}

/// Asks the chain for an effect of each payment, from its instant on. For benchmarks, which have nobody else who asks.
pub async fn ask_for(db: &Db, kind: &str, payments: &[(PaymentId, Timestamp)]) -> Result<(), StoreError> {
    if payments.is_empty() {
        return Ok(());
    }
    let (ids, due) = columns!(payments, |(payment, due)| payment.as_uuid(), At(*due));
    db.query(ASK_FOR, &[&ids, &kind, &due]).await?;
    Ok(())
}

/// An event of the chain's topic: where it stands, of which payment it is, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainEvent {
    /// Its place in the log.
    pub offset: Offset,
    /// The payment.
    pub payment: PaymentId,
    /// What happened, such as `chain.settled`.
    pub kind: String,
}

/// A page of the chain's events after an offset, in the order of the log.
pub async fn chain_events(db: &Db, after: Offset, limit: i64) -> Result<Vec<ChainEvent>, StoreError> {
    let rows = db.query(CHAIN_EVENTS, &[&after.xid, &after.seq, &limit]).await?;
    rows.iter()
        .map(|row| {
            Ok(ChainEvent {
                offset: Offset { xid: row.try_get("xid")?, seq: row.try_get("seq")? },
                payment: PaymentId::from_uuid(row.try_get("key")?),
                kind: row.try_get("kind")?,
            })
        })
        .collect()
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
    // Each payment's events are looked up. Not in a snapshot, where whole tables may be read: of one that has just been filled the
    // planner may still think it empty, and would read it whole for each payment.
    let rows = db.query(ENDS, &[&ids, &At(since)]).await?;
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

/// How far the watcher has read; `None` before it began.
pub async fn read_up_to(db: &Db) -> Result<Option<i64>, StoreError> {
    let rows = db.query(READ_UP_TO, &[]).await?;
    Ok(rows.first().map(|row| row.try_get("block_number")).transpose()?)
}

/// What payments wait for of which no settlement was announced, in words.
pub async fn unsettled(db: &Db) -> Result<Vec<String>, StoreError> {
    let tx = db.snapshot().await?;
    let rows = tx.query(UNSETTLED, &[]).await?;
    tx.rollback().await?;
    rows.iter()
        .map(|row| {
            let text =
                |column: &str| Ok::<_, StoreError>(row.try_get::<_, Option<&str>>(column)?.unwrap_or("-"));
            let payments: i64 = row.try_get("payments")?;
            let (kind, state, outcome) = (text("kind")?, text("state")?, text("outcome")?);
            Ok(format!("{payments} with {kind} {state} ({outcome}), sent: {}", text("chain_tx")?))
        })
        .collect()
}

/// What the watcher has made of a chain on which payments were initiated and settled, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// Logs taken in.
    pub logs: i64,
    /// Payments of which was told that they were initiated, then that they were settled, and nothing else.
    pub told_once: i64,
    /// Effects on the chain that are done.
    pub effects_done: i64,
    /// Token units by wallet.
    pub wallets: HashMap<Vec<u8>, i64>,
}

/// Adds up what the watcher wrote. Reads everything.
pub async fn watched(db: &Db) -> Result<Watched, StoreError> {
    let tx = db.snapshot().await?;
    let (rows, wallets) = (tx.query(WATCHED, &[]).await?, tx.query(WALLETS, &[]).await?);
    tx.rollback().await?;
    let row = rows.first().ok_or_else(|| StoreError::Corrupt("watched".into()))?;
    Ok(Watched {
        logs: row.try_get("logs")?,
        told_once: row.try_get("told_once")?,
        effects_done: row.try_get("effects_done")?,
        wallets: wallets
            .iter()
            .map(|row| Ok((row.try_get("wallet")?, row.try_get("units")?)))
            .collect::<Result<_, StoreError>>()?,
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
