//! A past for benchmarks: payments that have ended, copied into the days before, until there are millions.
//!
//! What is copied is what the system itself wrote for some real payments, in every table, so that the past has the shape that it
//! would have. A copy has ids of its own time, an own number, and offsets that every group has read. Every other copy goes the
//! other way, from creditor to debtor, so that all of them together move nothing: balances stay those of chain and banks, and
//! the proof covers the past as well. What the events of a copy say is what those of its original said.
//!
//! It is written by `insert … select`, in transactions of some ten thousand payments, past the triggers: entries are
//! copied beside the balances, and what they add to both sides of an account is added once. Two connections write at the same
//! time, each its own tables, so that half of the tables may be ahead of the others until the end; a past that could not be
//! written whole leaves a database of no use.

use crate::db::{Db, StoreError};
use crate::sql::At;
use flowbridge_domain::time::Timestamp;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio_postgres::Client;
use uuid::Uuid;

/// The past begins so long ago: everything of it is still kept, answers under their keys too.
const SPAN: Duration = Duration::from_secs(70 * 3_600);
/// Payments copied in one transaction, about.
const SLICE: i64 = 20_000;

/// What of a table belongs to the payments that are copied, and what differs in a copy. Times differ in every table; `t` is the
/// row, `k` the copy: the further back, the larger.
struct Copied {
    table: &'static str,
    of: &'static str,
    differing: &'static [(&'static str, &'static str)],
}

const TABLES: [Copied; 13] = [
    Copied {
        table: "payment",
        of: "t.id in (select id from original)",
        differing: &[
            ("id", "pg_temp.at_past(t.id, k)"),
            ("number", "pg_temp.number_past(t.number, k)"),
            ("uetr", "gen_random_uuid()"),
            ("end_to_end_id", "t.end_to_end_id || '-' || k"),
            ("funding", "case when pg_temp.is_back(k) then t.payout else t.funding end"),
            ("payout", "case when pg_temp.is_back(k) then t.funding else t.payout end"),
            (
                "debtor_account",
                "case when pg_temp.is_back(k) then t.creditor_account else t.debtor_account end",
            ),
            (
                "debtor_participant",
                "case when pg_temp.is_back(k) then t.creditor_participant else t.debtor_participant end",
            ),
            ("debtor_bank", "case when pg_temp.is_back(k) then t.creditor_bank else t.debtor_bank end"),
            (
                "creditor_account",
                "case when pg_temp.is_back(k) then t.debtor_account else t.creditor_account end",
            ),
            (
                "creditor_participant",
                "case when pg_temp.is_back(k) then t.debtor_participant else t.creditor_participant end",
            ),
            ("creditor_bank", "case when pg_temp.is_back(k) then t.debtor_bank else t.creditor_bank end"),
        ],
    },
    Copied {
        table: "idempotency_key",
        of: "t.created_at >= (select min(accepted_at) from original)",
        differing: &[("key", "t.key || '-' || k")],
    },
    Copied {
        table: "journal_entry",
        of: "t.source_id in (select id from original)",
        differing: &[
            ("source_id", "pg_temp.at_past(t.source_id, k)"),
            ("debit_account", "case when pg_temp.is_back(k) then t.credit_account else t.debit_account end"),
            ("credit_account", "case when pg_temp.is_back(k) then t.debit_account else t.credit_account end"),
        ],
    },
    Copied {
        table: "hold_movement",
        of: "t.source_id in (select id from original)",
        differing: &[("source_id", "pg_temp.at_past(t.source_id, k)")],
    },
    Copied {
        table: "event",
        of: "t.key in (select id from original)",
        differing: &[
            ("id", "pg_temp.at_past(t.id, k)"),
            ("key", "pg_temp.at_past(t.key, k)"),
            ("xid", "1"),
            ("seq", "pg_temp.seq_past(t.seq, k)"),
        ],
    },
    Copied {
        table: "effect",
        of: "t.payment_id in (select id from original)",
        differing: &[("payment_id", "pg_temp.at_past(t.payment_id, k)")],
    },
    Copied {
        table: "webhook_delivery",
        of: "t.subject_id in (select id from original)",
        differing: &[
            ("id", "webhook_delivery_id(pg_temp.at_past(t.event_id, k), t.endpoint_id)"),
            ("event_id", "pg_temp.at_past(t.event_id, k)"),
            ("subject_id", "pg_temp.at_past(t.subject_id, k)"),
            ("xid", "1"),
            ("seq", "pg_temp.seq_past(t.seq, k)"),
        ],
    },
    Copied {
        table: "chain_tx",
        of: "t.id in (select chain_tx from original_tx)",
        differing: &[
            ("id", "pg_temp.at_past(t.id, k)"),
            ("nonce", "t.nonce - k * 1000000"),
            ("tx_hash", "pg_temp.hash_past(t.tx_hash, k)"),
            ("state", "case when t.state in ('reverted', 'abandoned') then t.state else 'finalized' end"),
            ("included_number", "t.included_number - k * 1000000"),
        ],
    },
    Copied {
        table: "chain_tx_version",
        of: "t.chain_tx in (select chain_tx from original_tx)",
        differing: &[
            ("tx_hash", "pg_temp.hash_past(t.tx_hash, k)"),
            ("chain_tx", "pg_temp.at_past(t.chain_tx, k)"),
        ],
    },
    Copied {
        table: "chain_tx_item",
        of: "t.payment_id in (select id from original)",
        differing: &[
            ("payment_id", "pg_temp.at_past(t.payment_id, k)"),
            ("chain_tx", "pg_temp.at_past(t.chain_tx, k)"),
        ],
    },
    Copied {
        table: "chain_batch",
        of: "t.chain_tx in (select chain_tx from original_tx)",
        differing: &[
            ("root", "pg_temp.hash_past(t.root, k)"),
            ("chain_tx", "pg_temp.at_past(t.chain_tx, k)"),
        ],
    },
    Copied {
        table: "chain_leaf",
        of: "t.payment_id in (select id from original)",
        differing: &[
            ("payment_id", "pg_temp.at_past(t.payment_id, k)"),
            ("number", "pg_temp.number_past(t.number, k)"),
            ("root", "pg_temp.hash_past(t.root, k)"),
        ],
    },
    Copied {
        table: "chain_log",
        of: "t.payment_id in (select id from original)",
        differing: &[
            ("block_number", "t.block_number - k * 1000000"),
            ("tx_hash", "pg_temp.hash_past(t.tx_hash, k)"),
            ("payment_id", "pg_temp.at_past(t.payment_id, k)"),
        ],
    },
];

/// Takes as long to write as all other tables together.
const LARGEST: &str = "event";

/// What the copies are made of: payments that are over in every respect, and the transactions that carried them.
const OVER: &str = "select id from payment
    where not is_open and id >= uuid_floor($1)
        and not exists (select from effect where payment_id = payment.id and is_waiting)
        and not exists (select from webhook_delivery where subject_id = payment.id and is_open)";

async fn over_since(db: &Db, since: Timestamp) -> Result<Vec<Uuid>, StoreError> {
    let (client, _connection) = db.connect_for_maintenance().await?;
    let rows = client.query(OVER, &[&At(since)]).await?;
    rows.iter().map(|row| Ok(row.try_get("id")?)).collect()
}

/// Sets them apart for one connection. Which they are was read once, for all connections.
fn set_apart(originals: &[Uuid]) -> String {
    let ids: Vec<String> = originals.iter().map(Uuid::to_string).collect();
    format!(
        "create temp table original as
            select id, number, accepted_at from payment where id = any('{{{}}}'::uuid[]);
        create temp table original_tx as
            select distinct chain_tx from chain_tx_item where payment_id in (select id from original);
        analyze original, original_tx;",
        ids.join(",")
    )
}

/// How many copies there will be of how many originals, and how far from each other they lie: in time, and in the numbers of payments
/// and events.
struct Spread {
    originals: i64,
    copies: i64,
    step_ms: i64,
    /// The lowest number of an original, how many numbers they span, and the first that a copy may have.
    numbers: (i64, i64, i64),
    /// The lowest sequence number of their events, and how many they span.
    seqs: (i64, i64),
}

const SPAN_OF_ORIGINALS: &str = "select count(*) as originals, coalesce(min(number), 0) as number,
        coalesce(max(number) - min(number) + 1, 0) as numbers, (select last_value from payment_number) + 1 as first_number,
        (select coalesce(min(seq), 0) from event where key in (select id from original)) as seq,
        (select coalesce(max(seq) - min(seq) + 1, 0) from event where key in (select id from original)) as seqs
    from original";

impl Spread {
    async fn of(client: &Client, wanted: u64) -> Result<Self, StoreError> {
        let row = client.query_one(SPAN_OF_ORIGINALS, &[]).await?;
        let originals: i64 = row.try_get("originals")?;
        if originals == 0 {
            return Err(StoreError::Corrupt("no payment has ended that could be copied".into()));
        }
        // An even number: there and back.
        let copies = (i64::try_from(wanted).unwrap_or(i64::MAX) / originals / 2 + 1) * 2;
        Ok(Self {
            originals,
            copies,
            step_ms: (i64::try_from(SPAN.as_millis()).unwrap_or(i64::MAX) / copies).max(1),
            numbers: (row.try_get("number")?, row.try_get("numbers")?, row.try_get("first_number")?),
            seqs: (row.try_get("seq")?, row.try_get("seqs")?),
        })
    }

    /// Whatever a copy has of its own; each is a single expression that is put in where it is called.
    fn functions(&self) -> String {
        let Self { copies, step_ms, numbers: (number, numbers, first_number), seqs: (seq, seqs), .. } = self;
        format!(
            "create function pg_temp.is_back(k bigint) returns boolean language sql immutable as 'select k % 2 = 0';
            create function pg_temp.time_past(t timestamptz, k bigint) returns timestamptz language sql immutable as
                $$ select t - k * interval '{step_ms} milliseconds' $$;
            create function pg_temp.at_past(id uuid, k bigint) returns uuid language sql immutable as
                $$ select (lpad(to_hex(('x' || left(id::text, 8) || substr(id::text, 10, 4))::bit(48)::bigint - k * {step_ms}), 12, '0')
                    || substr(id::text, 15))::uuid $$;
            create function pg_temp.number_past(number bigint, k bigint) returns bigint language sql immutable as
                'select {first_number} + ({copies} - k) * {numbers} + number - {number}';
            create function pg_temp.seq_past(seq bigint, k bigint) returns bigint language sql immutable as
                'select ({copies} - k) * {seqs} + seq - {seq}';
            create function pg_temp.hash_past(hash bytea, k bigint) returns bytea language sql immutable as
                $$ select sha256(hash || k::text::bytea) $$;"
        )
    }

    /// Both sides of each account grow by what half of the copies, and the half that goes back, move.
    fn balances(&self) -> String {
        let Self { copies, numbers: (_, numbers, first_number), .. } = self;
        format!(
            "update ledger_account account
                set posted_debits = account.posted_debits + grown.amount, posted_credits = account.posted_credits + grown.amount
                from (
                    select leg.account, sum(leg.amount)::bigint * ({copies} / 2) as amount from (
                        select debit_account as account, amount from journal_entry where source_id in (select id from original)
                        union all
                        select credit_account, amount from journal_entry where source_id in (select id from original)) leg
                    group by leg.account
                ) grown
                where account.id = grown.account;
            select setval('payment_number', {first_number} + {copies} * {numbers});"
        )
    }
}

/// The columns of a table that are written, with `true` beside those that hold a time.
const COLUMNS: &str = "select attname::text, atttypid = 'timestamptz'::regtype
    from pg_attribute where attrelid = $1::text::regclass and attnum > 0 and not attisdropped and attgenerated = ''
    order by attnum";

/// Copies the payments that were accepted since `since` and are over, until there are `wanted` more, and returns how many were
/// written. Says now and then how many there are. For a database that nothing else has a use for.
pub async fn write(
    db: &Db,
    since: Timestamp,
    wanted: u64,
    progress: &(dyn Fn(i64) + Sync),
) -> Result<i64, StoreError> {
    let over = over_since(db, since).await?;
    let client = connect(db, &over).await?;
    client
        .batch_execute("select ensure_daily_partitions((now() - interval '71 hours')::date, now()::date)")
        .await?;
    let spread = Spread::of(&client, wanted).await?;
    let (largest, others): (Vec<&Copied>, Vec<&Copied>) =
        TABLES.iter().partition(|copied| copied.table == LARGEST);
    let done = [AtomicI64::new(0), AtomicI64::new(0)];
    let say = |part: usize, copies: i64| {
        done[part].store(copies, Ordering::Relaxed);
        let whole = done.iter().map(|part| part.load(Ordering::Relaxed)).min().unwrap_or(0);
        progress(whole * spread.originals);
    };
    tokio::try_join!(
        write_tables(db, &over, &spread, &largest, |copies| say(0, copies)),
        write_tables(db, &over, &spread, &others, |copies| say(1, copies)),
    )?;
    client.batch_execute(&spread.balances()).await?;
    client.batch_execute("checkpoint").await?;
    Ok(spread.copies * spread.originals)
}

/// A connection on which triggers rest, and which knows what is copied. It ends with its client.
async fn connect(db: &Db, originals: &[Uuid]) -> Result<Client, StoreError> {
    let (client, _connection) = db.connect_for_maintenance().await?;
    client.batch_execute("set session_replication_role = replica").await?;
    client.batch_execute(&set_apart(originals)).await?;
    Ok(client)
}

/// Writes all copies in some of the tables, the oldest first, and says how many there are.
async fn write_tables(
    db: &Db,
    over: &[Uuid],
    spread: &Spread,
    tables: &[&Copied],
    progress: impl Fn(i64),
) -> Result<(), StoreError> {
    let Spread { originals, copies, .. } = *spread;
    let client = connect(db, over).await?;
    client.batch_execute(&spread.functions()).await?;
    let mut inserts = String::new();
    for table in tables {
        client.batch_execute(&table.originals()).await?;
        inserts.push_str(&table.insert(&client).await?);
    }
    let each = (SLICE / originals).max(1);
    let mut left = copies;
    while left > 0 {
        let last = (left - each).max(0);
        let from_to = format!(
            "create or replace view pg_temp.slice as select k from generate_series({left}::bigint, {}, -1) k;",
            last + 1
        );
        client.batch_execute(&format!("begin; {from_to} {inserts} commit;")).await?;
        left = last;
        progress(copies - left);
    }
    for table in tables {
        client.batch_execute(&format!("vacuum (analyze) {}", table.table)).await?;
    }
    Ok(())
}

impl Copied {
    /// Sets the rows aside that are copied: the table itself grows, and is not searched again.
    fn originals(&self) -> String {
        let Self { table, of, .. } = self;
        format!("create temp table original_{table} as select t.* from {table} t where {of};")
    }

    async fn insert(&self, client: &Client) -> Result<String, StoreError> {
        let mut columns = Vec::new();
        let mut values = Vec::new();
        for row in client.query(COLUMNS, &[&self.table]).await? {
            let (column, is_time): (String, bool) = (row.try_get(0)?, row.try_get(1)?);
            let differing = self.differing.iter().find(|(name, _)| *name == column);
            values.push(match differing {
                Some((_, value)) => (*value).to_owned(),
                None if is_time => format!("pg_temp.time_past(t.\"{column}\", k)"),
                None => format!("t.\"{column}\""),
            });
            columns.push(format!("\"{column}\""));
        }
        // Looked at for each copy anew, so that they come in the order of time and nothing is sorted.
        Ok(format!(
            "insert into {table} ({}) select {} from pg_temp.slice
                cross join lateral (select * from pg_temp.original_{table} where k > 0 offset 0) t;",
            columns.join(", "),
            values.join(", "),
            table = self.table
        ))
    }
}
