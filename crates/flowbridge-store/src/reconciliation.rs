//! Runs: asked for, claimed under a lease and a fence, and recorded in one transaction; and both sides of what they compare.
//!
//! A run reads one instant of the database, works outside any transaction, and writes what it found with its end: matches,
//! what is still open, exceptions, reports. A worker that lost its lease finds its fence outdated and writes nothing. A record
//! is matched once for ever: the primary key of `recon_match_item` says so, whatever a run or a person tries.

use crate::db::{Db, StoreError, Tx};
use crate::event_data::EventData;
use crate::event_log::{self, NewEvent, topic};
use crate::exception::{self, Found};
use crate::segment::{self, Learned};
use crate::sql::{At, columns, statements};
use crate::statement::{StatementLine, covers};
use flowbridge_domain::bank::{BankStep, OperationKey};
use flowbridge_domain::id::{PaymentId, ReconciliationId, StatementEntryId, StatementId};
use flowbridge_domain::ledger::Moment;
use flowbridge_domain::time::Timestamp;
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

/// Rows of one statement.
const SLICE: usize = 5_000;

statements! {
    ASK = "insert into reconciliation (id, scope, kind, day, asked_by, asked_at, next_attempt_at)
        select new.id, new.scope, $1, $2::text::date, $3, $4, $4 from unnest($5::uuid[], $6::text[]) as new (id, scope)
        on conflict do nothing returning id, scope";

    SCOPES = "select code as scope from bank union all select 'chain:' || currency from chain_contract order by scope";

    // Whoever claims sees what those before have claimed: a statement of its own, as each sees what was committed when it began.
    CLAIM_LOCK = "select from pg_advisory_xact_lock(4661012)";

    CLAIM = "update reconciliation set state = 'running', attempts = attempts + 1, fence = fence + 1, lease_owner = $2,
            lease_until = $4, started_at = $3, stage = 'begun', cause = null
        where id = (
            select id from reconciliation due
                where next_attempt_at <= $3 and (state = 'asked' or state = 'running' and lease_until <= $3)
                    and scope = any($1) and not exists (
                        select from reconciliation other where other.scope = due.scope and other.id <> due.id
                            and other.state = 'running' and other.lease_until > $3)
                order by next_attempt_at, id limit 1 for update skip locked)
        returning id, scope, kind, day::text as day, fence, attempts, asked_by";

    STAGE = "update reconciliation set stage = $3, lease_until = $4 where id = $1 and fence = $2 and state = 'running'
        returning id";

    AGAIN = "update reconciliation set state = $3, cause = $4, next_attempt_at = $5, lease_until = null, stage = $6,
            finished_at = case when $3 = 'failed' then $7::timestamptz end
        where id = $1 and fence = $2 and state = 'running' returning id";

    FINISH = "update reconciliation set state = 'done', stage = 'done', finished_at = $3, lease_until = null, as_of = $4,
            ledger_until = $5, manifest_sha256 = $6, summary = $7
        where id = $1 and fence = $2 and state = 'running' returning id";

    LIST = concat!("select ", run_columns!(), " from reconciliation
        where ($1::text is null or scope = $1) and ($2::uuid is null or id < $2) order by id desc limit $3");

    GET = concat!("select ", run_columns!(), " from reconciliation where id = $1");

    REPORT = "select body from reconciliation_report where reconciliation_id = $1 and format = $2";

    SAVE_REPORT = "insert into reconciliation_report (reconciliation_id, format, body) values ($1, $2, $3)
        returning encode(sha256(body), 'hex') as sha256";

    LOOKED_UNTIL = "select max(ledger_until) as until from reconciliation where scope = $1 and state = 'done'";

    // Whatever moved money was drawn before it was posted.
    FIRST_SOURCE = "select source_id from journal_entry order by source_id limit 1";

    RESERVE_ACCOUNTS = "select id, currency, posted_debits - posted_credits as balance from ledger_account
        where kind = 'reserve' and owner = $1";

    // What a bank operation brought into the journal, with what the bank said of it. Matched ones are not told again.
    LEDGER_SLICE = concat!("select ", entry_columns!(), entry_joins!(), "
        where entry.posted_at > $2 and entry.posted_at <= $3
            and (entry.debit_account = any($1) or entry.credit_account = any($1))
            and not exists (select from recon_match_item item where item.side = 'ledger' and item.source_id = entry.source_id
                and item.moment = entry.moment and item.round = entry.round)
            and not exists (select from recon_open still where still.side = 'ledger' and still.source_id = entry.source_id
                and still.moment = entry.moment and still.round = entry.round)
        limit $4");

    // Newest first, as lines are: old ones that nothing explains never stand in the way of new ones. What people matched while a run was
    // under way may have been left open by its end, and is matched all the same.
    LEDGER_OPEN = concat!("select ", entry_columns!(), entry_joins!(), "
            join recon_open still on still.source_id = entry.source_id and still.moment = entry.moment and still.round = entry.round
        where still.scope = $2 and still.side = 'ledger' and still.source_id < $3
            and (entry.debit_account = any($1) or entry.credit_account = any($1))
            and not exists (select from recon_match_item item where item.side = 'ledger' and item.source_id = entry.source_id
                and item.moment = entry.moment and item.round = entry.round)
        order by entry.source_id desc limit $4");

    // The entries of these sources and moments, whenever they were posted.
    LEDGER_NAMED = concat!("select ", entry_columns!(), entry_joins!(), "
        where (entry.source_id, entry.moment) in (select * from unnest($2::uuid[], $3::text[]))
            and (entry.debit_account = any($1) or entry.credit_account = any($1))
            and not exists (select from recon_match_item item where item.side = 'ledger' and item.source_id = entry.source_id
                and item.moment = entry.moment and item.round = entry.round)");

    // The operations that a bank confirmed under these references of its own, around the days on which its lines say that it booked them.
    CONFIRMED = "select payment_id, kind from effect
        where bank_code = $1 and reference = any($4)
            and booked_at >= ($2::text::date - 10)::timestamp at time zone 'UTC'
            and booked_at < ($3::text::date + 3)::timestamp at time zone 'UTC'";

    BANK_OPEN = concat!("select ", line_columns!(), "
        from recon_open still join statement_entry line on line.id = still.source_id
        where still.scope = $1 and still.side = 'bank' and still.source_id < $2 order by still.source_id desc limit $3");

    // What people put together, or what waits for one: the rest was clear without a model, which has nothing to learn from it.
    LINES_TO_LEARN = concat!("select ", line_columns!(), "
        from statement_entry line where line.bank_code = $1 and (
            exists (select from recon_open still where still.side = 'bank' and still.source_id = line.id)
            or exists (select from recon_match_item item join recon_match found on found.id = item.match_id
                where item.side = 'bank' and item.source_id = line.id and found.how in ('person', 'model')))
        order by line.id desc limit $2");

    ENTRIES_TO_LEARN = concat!("select ", entry_columns!(), entry_joins!(), "
        where (entry.debit_account = any($1) or entry.credit_account = any($1)) and entry.moment <> 'correction' and (
            exists (select from recon_open still where still.side = 'ledger' and still.source_id = entry.source_id
                    and still.moment = entry.moment and still.round = entry.round)
                and not exists (select from recon_match_item item where item.side = 'ledger' and item.source_id = entry.source_id
                    and item.moment = entry.moment and item.round = entry.round)
            or exists (select from recon_match_item item join recon_match found on found.id = item.match_id
                where item.side = 'ledger' and item.source_id = entry.source_id and item.moment = entry.moment
                    and item.round = entry.round and found.how in ('person', 'model')))
        order by entry.posted_at desc, entry.source_id limit $2");

    // What tells of the latest moment; of several that do, one with a balance.
    HEADS = concat!("select account, currency, sequence, opening, closing, as_of, closes_on, channel,
            (select coalesce(sum(amount), 0)::bigint from statement_entry line
                where line.statement_id = newest.id and not is_pending) as moved
        from (
            select distinct on (account, currency) id, account, currency, sequence, opening, closing, ", covers!(), " as as_of,
                    closes_on::text as closes_on, channel
                from statement where bank_code = $1 and (closing is not null or as_of is not null or closes_on is not null)
                    and exists (
                        select from statement_source source where source.bank_code = statement.bank_code
                            and source.reserve_accounts ->> statement.currency = statement.account)
                order by account, currency, ", covers!(), " desc, closing is null, sequence desc nulls last, id desc
        ) newest
        order by account, currency");

    // Statements that do not open with what the one before closes with; only the newest are looked at.
    GAPS = concat!("select account, currency, covers, day, name, opening, closing_before from (
            select account, currency, covers, day, name, opening,
                    lag(closing) over (partition by account, currency order by covers, sequence nulls last, id) as closing_before
                from (
                    select id, account, currency, sequence, opening, closing, ", covers!(), " as covers,
                            coalesce(closes_on, (received_at at time zone 'UTC')::date)::text as day,
                            coalesce(nullif(bank_statement_id, ''), name) || coalesce(' ' || sequence, '') as name
                        from statement where bank_code = $1 and opening is not null and closing is not null and exists (
                            select from statement_source source where source.bank_code = statement.bank_code
                                and source.reserve_accounts ->> statement.currency = statement.account)
                        order by covers desc limit $2
                ) told
            ) following
        where closing_before <> opening order by account, currency, covers");

    // The statements from the earliest that waits for its proof to the newest, newest first as HEADS has them; from each account's newest
    // with a closing balance, where none waits, because what differs there still does until one says otherwise. What one moves leads from
    // its opening to its closing. Without both it is the sum of its lines, and a booking that several tell moves the balance once: at the
    // earliest of those with a closing balance. What none of these has told yet may belong to any statement from its day on.
    TO_PROVE = concat!("select statement.id, account, currency, until.moment as covers,
            coalesce(nullif(bank_statement_id, ''), name) || coalesce(' ' || sequence, '') as name, opening, closing,
            waiting.statement_id is not null as is_waiting, lines.moved, lines.begins
        from statement left join statement_to_prove waiting on waiting.statement_id = statement.id
            cross join lateral (select ", covers!(), " as moment) until
            cross join lateral (
                select coalesce(sum(line.amount), 0)::bigint as moved,
                        min(case when statement.closing is null then line.booked_on end)::timestamp at time zone 'UTC' as begins
                    from statement_entry line
                    where (statement.opening is null or statement.closing is null) and line.statement_id = statement.id
                        and not line.is_pending and (statement.closing is not null or line.same_as is null)
                        and not exists (
                            select from statement_entry told join statement other on other.id = told.statement_id
                                where (told.id = line.same_as or told.same_as = coalesce(line.same_as, line.id))
                                    and other.closing is not null and (statement.closing is null
                                        or (", covers!(), ", coalesce(other.sequence, 0), other.id)
                                            < (until.moment, coalesce(statement.sequence, 0), statement.id)))
            ) lines
        where statement.bank_code = $1 and ", covers!(), " >= (
                select min(wanted.covers) from (
                    select ", covers!(), " as covers
                        from statement_to_prove unproven join statement told on told.id = unproven.statement_id
                        where unproven.bank_code = $1
                    union all
                    select max(", covers!(), ") from statement told
                        where told.bank_code = $1 and told.closing is not null and exists (
                            select from statement_source source where source.bank_code = told.bank_code
                                and source.reserve_accounts ->> told.currency = told.account)
                        group by told.account, told.currency
                ) wanted where wanted.covers > $2)
            and exists (
                select from statement_source source where source.bank_code = statement.bank_code
                    and source.reserve_accounts ->> statement.currency = statement.account)
        order by covers desc, closing is null, sequence desc nulls last, statement.id desc limit $3");

    // What a stretch of time added to the reserves, by how many of the instants lie at or before it.
    POSTED = "select currency, width_bucket(posted_at, $4::timestamptz[]) as place,
            sum(case when debit_account = any($1) then amount else -amount end)::bigint as change
        from journal_entry
        where posted_at > $2 and posted_at <= $3 and (debit_account = any($1) or credit_account = any($1))
        group by currency, place";

    // What was proven, and what is too old to be.
    PROVEN = concat!("delete from statement_to_prove waiting using statement told
        where told.id = waiting.statement_id and waiting.bank_code = $1 and (told.id = any($2) or ", covers!(), " <= $3)");

    // A line whose operation we have not finished reading about is on its way into our books: no difference yet.
    UNDER_WAY = "select payment_id, kind from effect
        where (payment_id, kind) in (select * from unnest($1::uuid[], $2::text[]))
            and (state in ('ready', 'claimed', 'sent', 'unknown') or exists (
                select from event join consumer_offset o on o.consumer_group = 'orchestrator' and o.topic = event.topic
                        and o.partition = event.partition
                    where event.key = effect.payment_id and event.topic = 'bank' and (event.xid, event.seq) > (o.xid, o.seq)
                        and (event.xid, event.seq) > (o.seen_xid, o.seen_seq)))";

    SAVE_MATCHES = "insert into recon_match (id, reconciliation_id, scope, how, difference, explanation, matched_at)
        select new.id, $1, $2, new.how, new.difference, new.explanation, $3
            from unnest($4::uuid[], $5::text[], $6::bigint[], $7::text[]) as new (id, how, difference, explanation)";

    SAVE_ITEMS = "insert into recon_match_item (side, source_id, moment, round, match_id)
        select * from unnest($1::text[], $2::uuid[], $3::text[], $4::smallint[], $5::uuid[])";

    CLOSE_ITEMS = "delete from recon_open still using unnest($1::text[], $2::uuid[], $3::text[], $4::smallint[])
            as done (side, source_id, moment, round)
        where still.side = done.side and still.source_id = done.source_id and still.moment = done.moment
            and still.round = done.round";

    // People may have matched it since the run read it.
    OPEN_ITEMS = "insert into recon_open (side, source_id, moment, round, scope, since)
        select 'ledger', new.source_id, new.moment, new.round, $1, $2
            from unnest($3::uuid[], $4::text[], $5::smallint[]) as new (source_id, moment, round)
            where not exists (select from recon_match_item item where item.side = 'ledger' and item.source_id = new.source_id
                and item.moment = new.moment and item.round = new.round)
        on conflict do nothing";

    SETTLED = concat!(settled_in_ledger!(), " and source_id > $2 and source_id < uuid_floor($3)
        group by source_id order by source_id limit $4");

    SETTLED_OF = concat!(settled_in_ledger!(), " and source_id = any($2) group by source_id order by source_id");

    SETTLED_ON_CHAIN = concat!(settled_on_chain!(), " and log.payment_id > $2 and log.payment_id <= $3
        order by log.payment_id, log.block_number, log.log_index");

    SETTLED_ON_CHAIN_OF = concat!(settled_on_chain!(), " and log.payment_id = any($2)
        order by log.payment_id, log.block_number, log.log_index");

    // Payments that were accepted long before they were settled, as those are that were dated ahead.
    SETTLED_LATE = "select source_id from journal_entry
        where currency = $1 and moment in ('settled', 'settlement_removed') and source_id <= $2
            and posted_at > $3 and posted_at <= $4
        limit $5";

    // The block of the first settlement that was announced after an instant.
    BLOCK_SINCE = "select (data ->> 'block_number')::bigint as block_number from event
        where id >= uuid_floor($1) and topic = 'chain' and kind = 'chain.settled' order by id limit 1";

    // Of such payments those that the chain has settled in the next logs, so many and no more, and the ledger not since an instant. Hardly
    // any log is of one: a limit on what is found would have each statement read all logs there are.
    SETTLED_LATE_ON_CHAIN_ALONE = "with slice as materialized (
            select payment_id, block_number, log_index, currency, kind, data ->> 'kind' as told from chain_log
                where (block_number, log_index) > ($2, $3) order by block_number, log_index limit $6)
        select last.block_number, last.log_index, (
                select array_agg(log.payment_id) from slice log
                    where log.currency = $1 and log.kind = 'payment' and log.told = 'chain.settled' and log.payment_id <= $4
                        and not exists (
                            select from journal_entry entry where entry.source_id = log.payment_id and entry.moment = 'settled'
                                and entry.posted_at > $5)) as late
            from (select block_number, log_index from slice order by block_number desc, log_index desc limit 1) last";

    // Payments whose events the orchestrator has not read yet: their ledger is behind the chain for a moment.
    UNREAD_PAYMENTS = "select distinct event.key from consumer_offset o
            join event on event.topic = o.topic and event.partition = o.partition and (event.xid, event.seq) > (o.xid, o.seq)
                and (event.xid, event.seq) > (o.seen_xid, o.seen_seq)
        where o.consumer_group = 'orchestrator'";

    MATCHED = "select source_id, moment from recon_match_item
        where side = 'ledger' and (source_id, moment) in (select * from unnest($1::uuid[], $2::text[]))";

    // One that was cut off has not looked at the balance.
    LAST_SUMMARIES = "select summary from reconciliation
        where scope = $1 and state = 'done' and (summary -> 'is_whole')::boolean order by id desc limit $2";

    WAITING = "select state as kind, count(*) as waiting, min(asked_at) as oldest from reconciliation
        where state in ('asked', 'running') group by state
        union all
        select 'exception' as kind, count(*), min(since) from recon_exception where state = 'open'";
}

/// The settled amount of each payment as the ledger has it: what was settled less what a reorganisation took back.
macro_rules! settled_in_ledger {
    () => {
        "select source_id, sum(case when moment = 'settled' then amount else -amount end)::bigint as amount, \
             max(posted_at) as posted_at \
         from journal_entry where currency = $1 and moment in ('settled', 'settlement_removed')"
    };
}
use settled_in_ledger;

/// What is announced, and so final enough for policy, is what lies up to the cursor's place.
macro_rules! settled_on_chain {
    () => {
        "select log.payment_id, log.tx_hash, log.log_index, leaf.amount, contract.token_decimals, \
             log.block_number <= coalesce((select announced_number from chain_cursor), 0) as announced \
         from chain_log log \
             join chain_contract contract on contract.currency = log.currency \
             left join chain_leaf leaf on leaf.payment_id = log.payment_id \
         where log.currency = $1 and log.kind = 'payment' and log.data ->> 'kind' = 'chain.settled'"
    };
}
use settled_on_chain;

macro_rules! run_columns {
    () => {
        "id, scope, kind, day::text as day, state, stage, attempts, asked_by, asked_at, started_at, finished_at, cause, as_of, \
         manifest_sha256, summary, (
            select archived_at from reconciliation_archive archive where archive.reconciliation_id = reconciliation.id
         ) as archived_at"
    };
}
use run_columns;

macro_rules! line_columns {
    () => {
        "line.id, line.account, line.currency, line.amount, line.booked_on::text as booked_on, line.value_on::text as value_on, \
         line.booked_at, line.operation_key, line.reference, line.bank_reference, line.batch, line.counterparty, \
         line.counterparty_iban, line.text, line.code, line.is_return"
    };
}
use line_columns;

macro_rules! entry_columns {
    () => {
        "entry.source_id, entry.moment, entry.round, entry.currency, entry.amount, entry.debit_account, entry.posted_at, \
         effect.booked_at, effect.reference as bank_reference, payment.end_to_end_id, payment.remittance_information, \
         party.iban as counterparty_iban, party.name as counterparty"
    };
}
use entry_columns;

macro_rules! entry_joins {
    () => {
        " from journal_entry entry
            left join effect on effect.payment_id = entry.source_id and effect.kind = case entry.moment
                when 'captured' then 'capture' when 'credited' then 'credit' when 'returned' then 'release' end
            left join payment on payment.id = entry.source_id
            left join account party on party.id = case when entry.moment = 'credited' then payment.creditor_account
                else payment.debtor_account end"
    };
}
use entry_joins;

/// A run as people see it.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its id.
    pub id: ReconciliationId,
    /// A bank's code, or `chain:EUR`.
    pub scope: String,
    /// `nightly` or `asked`.
    pub kind: String,
    /// The day that it is for.
    pub day: String,
    /// `asked`, `running`, `done` or `failed`.
    pub state: String,
    /// What it is at.
    pub stage: String,
    /// How often it was begun.
    pub attempts: i32,
    /// Who asked.
    pub asked_by: String,
    /// When.
    pub asked_at: Timestamp,
    /// When it was last begun.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Why it did not succeed.
    pub cause: Option<String>,
    /// The instant of the statement that was compared.
    pub as_of: Option<Timestamp>,
    /// The hash of all that went in.
    pub manifest_sha256: Option<String>,
    /// What it found, in figures.
    pub summary: Option<Value>,
    /// When its reports came into the archive, if they have.
    pub archived_at: Option<Timestamp>,
}

/// A run that is ours to do.
#[derive(Debug, Clone)]
pub struct ClaimedRun {
    /// Its id.
    pub id: ReconciliationId,
    /// What it compares.
    pub scope: String,
    /// Did the clock ask for it?
    pub is_nightly: bool,
    /// The day that it is for.
    pub day: String,
    /// Who asked.
    pub asked_by: String,
    /// The fence of the claim.
    pub fence: i64,
    /// Which attempt this is.
    pub attempts: i32,
}

/// Who asks for the rest of a run that was cut off.
pub const CONTINUATION: &str = "continuation";

impl ClaimedRun {
    /// Does it go on where one before it was cut off?
    pub fn is_continuation(&self) -> bool {
        self.asked_by == CONTINUATION
    }
}

/// What runs can be asked for: each bank, and the chain in each currency.
pub async fn scopes(db: &Db) -> Result<Vec<String>, StoreError> {
    db.query(SCOPES, &[]).await?.iter().map(|row| Ok(row.try_get("scope")?)).collect()
}

/// Asks for a run of a day in each scope. A nightly one is asked for once: what is told are the new ones, by scope.
pub async fn ask(
    tx: &Tx,
    scopes: &[String],
    (is_nightly, day): (bool, &str),
    by: &str,
    now: Timestamp,
) -> Result<Vec<(String, ReconciliationId)>, StoreError> {
    let ids: Vec<Uuid> =
        scopes.iter().map(|_| ReconciliationId::generate(now, rand::random()).as_uuid()).collect();
    let kind = if is_nightly { "nightly" } else { "asked" };
    let rows = tx.query(ASK, &[&kind, &day, &by, &At(now), &ids, &scopes]).await?;
    let mut asked = rows
        .iter()
        .map(|row| Ok((row.try_get("scope")?, ReconciliationId::from_uuid(row.try_get("id")?))))
        .collect::<Result<Vec<_>, StoreError>>()?;
    asked.sort();
    Ok(asked)
}

/// Claims the run that has waited longest, of these scopes; of one scope one at a time.
pub async fn claim(
    db: &Db,
    scopes: &[String],
    owner: &str,
    now: Timestamp,
    lease: Duration,
) -> Result<Option<ClaimedRun>, StoreError> {
    let tx = db.begin().await?;
    tx.query(CLAIM_LOCK, &[]).await?;
    let rows = tx.query(CLAIM, &[&scopes, &owner, &At(now), &At(now.plus(lease))]).await?;
    tx.commit().await?;
    rows.first()
        .map(|row| {
            Ok(ClaimedRun {
                id: ReconciliationId::from_uuid(row.try_get("id")?),
                scope: row.try_get("scope")?,
                is_nightly: row.try_get::<_, &str>("kind")? == "nightly",
                day: row.try_get("day")?,
                asked_by: row.try_get("asked_by")?,
                fence: row.try_get("fence")?,
                attempts: row.try_get("attempts")?,
            })
        })
        .transpose()
}

/// Says what the run is at, and keeps it ours.
pub async fn note_stage(
    db: &Db,
    run: &ClaimedRun,
    stage: &str,
    now: Timestamp,
    lease: Duration,
) -> Result<(), StoreError> {
    ours(&db.query(STAGE, &[&run.id.as_uuid(), &run.fence, &stage, &At(now.plus(lease))]).await?)
}

/// Gives a run back that did not succeed: to be tried at `again_at`, or without it as failed.
pub async fn give_back(
    db: &Db,
    run: &ClaimedRun,
    cause: &str,
    again_at: Option<Timestamp>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let (state, stage) =
        if again_at.is_some() { ("asked", "waiting to be tried again") } else { ("failed", "failed") };
    let due = At(again_at.unwrap_or(now));
    // A bank's words may be in it, and no text of the database has a zero: the run would stay as if it went on.
    let cause = cause.replace('\0', " ");
    ours(&db.query(AGAIN, &[&run.id.as_uuid(), &run.fence, &state, &cause, &due, &stage, &At(now)]).await?)
}

fn ours(rows: &[Row]) -> Result<(), StoreError> {
    if rows.is_empty() { Err(StoreError::Lost) } else { Ok(()) }
}

/// Runs, newest first, before one of them.
pub async fn list(
    db: &Db,
    scope: Option<&str>,
    before: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Run>, StoreError> {
    db.query(LIST, &[&scope, &before, &limit]).await?.iter().map(read_run).collect()
}

/// A run.
pub async fn get(db: &Db, id: ReconciliationId) -> Result<Option<Run>, StoreError> {
    db.query(GET, &[&id.as_uuid()]).await?.first().map(read_run).transpose()
}

/// A report of a run: `html`, `json`, `matches_csv`, `breaks_csv`, `pdf` or `camt`.
pub async fn report(db: &Db, id: ReconciliationId, format: &str) -> Result<Option<Vec<u8>>, StoreError> {
    match db.query(REPORT, &[&id.as_uuid(), &format]).await?.first() {
        Some(row) => Ok(Some(row.try_get("body")?)),
        None => Ok(None),
    }
}

fn read_run(row: &Row) -> Result<Run, StoreError> {
    let at = |column: &str| Ok::<_, StoreError>(row.try_get::<_, Option<At>>(column)?.map(|at| at.0));
    Ok(Run {
        id: ReconciliationId::from_uuid(row.try_get("id")?),
        scope: row.try_get("scope")?,
        kind: row.try_get("kind")?,
        day: row.try_get("day")?,
        state: row.try_get("state")?,
        stage: row.try_get("stage")?,
        attempts: row.try_get("attempts")?,
        asked_by: row.try_get("asked_by")?,
        asked_at: row.try_get::<_, At>("asked_at")?.0,
        started_at: at("started_at")?,
        finished_at: at("finished_at")?,
        cause: row.try_get("cause")?,
        as_of: at("as_of")?,
        manifest_sha256: row.try_get("manifest_sha256")?,
        summary: row.try_get("summary")?,
        archived_at: at("archived_at")?,
    })
}

// ---------------------------------------------------------------------------------------------------------------------
// Both sides

/// Which record: of the journal, or a line of a statement.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey {
    /// `ledger` or `bank`.
    pub side: &'static str,
    /// The journal entry's source, or the line.
    pub source: Uuid,
    /// The moment of a journal entry; empty for a line.
    pub moment: String,
    /// The round of a journal entry; zero for a line.
    pub round: i16,
}

impl RecordKey {
    /// A line of a statement.
    pub const fn line(id: Uuid) -> Self {
        Self { side: "bank", source: id, moment: String::new(), round: 0 }
    }

    /// A journal entry.
    pub const fn entry(source: Uuid, moment: String, round: i16) -> Self {
        Self { side: "ledger", source, moment, round }
    }

    /// As people and exceptions name it: `sti_…`, or `pay_…/captured/0`.
    pub fn text(&self) -> String {
        if self.side == "bank" {
            return StatementEntryId::from_uuid(self.source).to_string();
        }
        format!("{}/{}/{}", PaymentId::from_uuid(self.source), self.moment, self.round)
    }

    /// Reads [`RecordKey::text`].
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(line) = StatementEntryId::parse(text) {
            return Some(Self::line(line.as_uuid()));
        }
        let mut parts = text.split('/');
        let source = PaymentId::parse(parts.next()?).ok()?.as_uuid();
        let (moment, round) = (parts.next()?.to_owned(), parts.next()?.parse().ok()?);
        parts.next().is_none().then_some(Self::entry(source, moment, round))
    }
}

/// The moment that a bank operation is posted as on our reserve; none where it moves nothing there.
pub const fn posted_as(step: BankStep) -> Option<Moment> {
    match step {
        BankStep::PlaceHold => None,
        BankStep::Capture => Some(Moment::Captured),
        BankStep::Credit => Some(Moment::Credited),
        BankStep::Release => Some(Moment::Returned),
    }
}

/// A journal entry on our reserve at a bank.
#[derive(Debug, Clone)]
pub struct OurEntry {
    /// Which.
    pub key: RecordKey,
    /// Its currency.
    pub currency: String,
    /// What it adds to the reserve, in minor units.
    pub change: i64,
    /// When it was posted.
    pub posted_at: Timestamp,
    /// When the bank says it booked it.
    pub booked_at: Option<Timestamp>,
    /// What the bank calls it.
    pub bank_reference: Option<String>,
    /// The client's reference.
    pub end_to_end_id: Option<String>,
    /// What the debtor tells the creditor.
    pub remittance_information: Option<String>,
    /// The other party's account.
    pub counterparty_iban: Option<String>,
    /// The other party.
    pub counterparty: Option<String>,
}

/// A line of a statement that has no partner yet.
#[derive(Debug, Clone)]
pub struct TheirLine {
    /// Which.
    pub key: RecordKey,
    /// The account.
    pub account: String,
    /// Its currency.
    pub currency: String,
    /// What it says.
    pub line: StatementLine,
}

impl TheirLine {
    /// The operation of ours that it names by its key, in whichever field the bank has room for that.
    pub fn named_operation(&self) -> Option<OperationKey> {
        match self.line.operation_key.as_deref() {
            Some(key) => OperationKey::parse(key),
            None => OperationKey::parse(&self.line.reference),
        }
    }

    /// What the bank calls it: some banks have one column for references, and their own stands in it.
    pub fn named_by_bank(&self) -> Option<&str> {
        [&self.line.bank_reference, &self.line.reference]
            .into_iter()
            .find(|named| !named.is_empty())
            .map(String::as_str)
    }
}

/// The newest statement of a reserve account.
#[derive(Debug, Clone)]
pub struct LastStatement {
    /// The account.
    pub account: String,
    /// Its currency.
    pub currency: String,
    /// Its number.
    pub sequence: Option<i64>,
    /// Minor units.
    pub opening: Option<i64>,
    /// Minor units; none where the bank tells lines only.
    pub closing: Option<i64>,
    /// The sum of its lines.
    pub moved: i64,
    /// Up to when it tells everything.
    pub as_of: Timestamp,
    /// The day it closes on.
    pub closes_on: Option<String>,
    /// Did a connector bring it?
    pub from_connector: bool,
}

/// A statement that does not follow from the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The account.
    pub account: String,
    /// Its currency.
    pub currency: String,
    /// Up to when the later statement tells everything.
    pub as_of: Timestamp,
    /// The day that it closes on, or on which it came.
    pub day: String,
    /// The later statement.
    pub name: String,
    /// What it opens with, in minor units.
    pub opening: i64,
    /// What the one before closes with.
    pub closing_before: i64,
}

impl Gap {
    /// What is missing between them, in minor units.
    pub const fn amount(&self) -> i64 {
        self.opening.saturating_sub(self.closing_before)
    }

    /// What people decide about. With its day: some banks call every statement alike.
    pub fn subject(&self) -> String {
        let Self { name, account, currency, day, .. } = self;
        format!("statement {name} of {account} {currency} on {day}: {}", self.amount())
    }

    /// Have people decided about it, also while its day was no part of the subject?
    fn is_decided(&self, decided: &BTreeSet<String>) -> bool {
        let without_day =
            || format!("statement {} of {} {}: {}", self.name, self.account, self.currency, self.amount());
        decided.contains(&self.subject()) || decided.contains(&without_day())
    }

    /// Is it missing below what this statement tells?
    fn is_before(&self, cut: &Cut) -> bool {
        self.account == cut.account && self.currency == cut.currency && self.as_of <= cut.as_of
    }
}

/// A statement with a closing balance, at the instant up to which it tells everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The statement.
    pub statement: StatementId,
    /// What the bank calls it, with its number; or the file's name.
    pub name: String,
    /// The account.
    pub account: String,
    /// Its currency.
    pub currency: String,
    /// The instant.
    pub as_of: Timestamp,
    /// What the bank says is there, in minor units.
    pub closing: i64,
    /// What the statements after it have moved, in minor units.
    pub moved_since: i64,
    /// What was posted on our reserve after the instant, in minor units.
    pub posted_since: i64,
}

/// What a bank and our books say, at one instant of the database.
#[derive(Debug, Clone)]
pub struct Sides {
    /// Journal entries on the reserve without a partner.
    pub ours: Vec<OurEntry>,
    /// Statement lines without a partner.
    pub theirs: Vec<TheirLine>,
    /// The newest statement of each account.
    pub statements: Vec<LastStatement>,
    /// Where a statement is missing.
    pub gaps: Vec<Gap>,
    /// The statements that no run has proven yet, and the newest of each account; none after a gap, and none when it was cut off. Oldest
    /// first.
    pub cuts: Vec<Cut>,
    /// The reserve per currency, as the ledger has it.
    pub reserves: Vec<(String, i64)>,
    /// What matches leave over and no entry has put right yet, per currency.
    pub left_over: Vec<(String, i64)>,
    /// Entries posted until then were looked at.
    pub until: Timestamp,
    /// Of our entries, how many no run had looked at before.
    pub newly_read: usize,
    /// More was there than may be looked at in one run: the rest is for the next. Of what was not read, the entries that a line names are
    /// here all the same.
    pub cut_off: bool,
}

/// Statements that are looked at for a missing one, and for those to prove.
const STATEMENTS_MAX: i64 = 1_000;
/// Statements of one account that are proven in one run: the newest; the others wait for the next.
const CUTS_MAX: usize = 100;
/// Older than this, a statement is proven by the newest alone: the journal is not read from further back for it.
const CUT_AGE_MAX: Duration = Duration::from_secs(31 * 24 * 3600);
/// How far back a run looks again, for entries whose transaction ended after a later one's.
const OVERLAP: Duration = Duration::from_secs(3600);
/// The journal is read in stretches of time, so that an index of blocks finds them.
const STRETCH: Duration = Duration::from_secs(3600);
/// The shortest stretch, by halving one that has more entries than there is room for.
const STRETCH_MIN: Duration = Duration::from_secs(1);
/// More entries on reserves than one source ever has.
const ENTRIES_PER_SOURCE_MAX: i64 = 16;

/// Reads both sides of a bank, `records_max` records at most of each; where there are more, beside them the entries that the lines name.
/// Gaps whose subject people have decided about are none.
pub async fn sides(
    db: &Db,
    bank: &str,
    now: Timestamp,
    records_max: usize,
    decided: &BTreeSet<String>,
) -> Result<Sides, StoreError> {
    let tx = db.snapshot().await?;
    let read = read_sides(&tx, bank, now, records_max, decided).await;
    tx.rollback().await?;
    read
}

/// The records of a bank that a model can learn from: what people put together, and what waits for one. The newest
/// `records_max` of each side.
pub async fn to_learn(db: &Db, bank: &str, now: Timestamp, records_max: usize) -> Result<Sides, StoreError> {
    let tx = db.snapshot().await?;
    let read = read_to_learn(&tx, bank, now, records_max).await;
    tx.rollback().await?;
    read
}

async fn read_to_learn(tx: &Tx, bank: &str, now: Timestamp, records_max: usize) -> Result<Sides, StoreError> {
    let (mut sides, accounts) = read_heads(tx, bank, now).await?;
    let limit = i64::try_from(records_max).unwrap_or(i64::MAX);
    let lines = tx.query(LINES_TO_LEARN, &[&bank, &limit]).await?;
    sides.theirs = lines.iter().map(read_line).collect::<Result<_, _>>()?;
    let entries = tx.query(ENTRIES_TO_LEARN, &[&accounts, &limit]).await?;
    sides.ours = entries.iter().map(|row| read_entry(row, &accounts)).collect::<Result<_, _>>()?;
    Ok(sides)
}

/// Sides without records yet, and our reserve accounts at the bank.
async fn read_heads(tx: &Tx, bank: &str, now: Timestamp) -> Result<(Sides, Vec<i64>), StoreError> {
    let mut sides = Sides {
        ours: Vec::new(),
        theirs: Vec::new(),
        statements: Vec::new(),
        gaps: Vec::new(),
        cuts: Vec::new(),
        reserves: Vec::new(),
        left_over: Vec::new(),
        until: now,
        newly_read: 0,
        cut_off: false,
    };
    let mut accounts: Vec<i64> = Vec::new();
    for row in tx.query(RESERVE_ACCOUNTS, &[&bank]).await? {
        accounts.push(row.try_get("id")?);
        sides.reserves.push((row.try_get("currency")?, row.try_get("balance")?));
    }
    for row in tx.query(HEADS, &[&bank]).await? {
        sides.statements.push(LastStatement {
            account: row.try_get("account")?,
            currency: row.try_get("currency")?,
            sequence: row.try_get("sequence")?,
            opening: row.try_get("opening")?,
            closing: row.try_get("closing")?,
            moved: row.try_get("moved")?,
            as_of: row.try_get::<_, At>("as_of")?.0,
            closes_on: row.try_get("closes_on")?,
            from_connector: row.try_get::<_, &str>("channel")? == "connector",
        });
    }
    for row in tx.query(GAPS, &[&bank, &STATEMENTS_MAX]).await? {
        sides.gaps.push(Gap {
            account: row.try_get("account")?,
            currency: row.try_get("currency")?,
            as_of: row.try_get::<_, At>("covers")?.0,
            day: row.try_get("day")?,
            name: row.try_get("name")?,
            opening: row.try_get("opening")?,
            closing_before: row.try_get("closing_before")?,
        });
    }
    Ok((sides, accounts))
}

async fn read_sides(
    tx: &Tx,
    bank: &str,
    now: Timestamp,
    records_max: usize,
    decided: &BTreeSet<String>,
) -> Result<Sides, StoreError> {
    let (mut sides, accounts) = read_heads(tx, bank, now).await?;
    sides.gaps.retain(|gap| !gap.is_decided(decided));
    read_open_lines(tx, bank, records_max, &mut sides).await?;
    read_open_entries(tx, (bank, &accounts), records_max, &mut sides).await?;
    read_new_entries(tx, (bank, &accounts), records_max, &mut sides).await?;
    if sides.cut_off {
        read_named_entries(tx, (bank, &accounts), &mut sides).await?;
    }
    sides.left_over = exception::left_over(tx, bank).await?;
    if !sides.cut_off {
        sides.cuts = read_cuts(tx, bank, now).await?;
        let gaps = &sides.gaps;
        sides.cuts.retain(|cut| !gaps.iter().any(|gap| gap.is_before(cut)));
        read_posted_since(tx, &accounts, now, &mut sides.cuts).await?;
    }
    Ok(sides)
}

/// Rows of the next page, one more than there is room for: it says that there are more.
fn page_of(room: usize) -> i64 {
    i64::try_from(SLICE.min(room.saturating_add(1))).unwrap_or(i64::MAX)
}

async fn read_open_lines(
    tx: &Tx,
    bank: &str,
    records_max: usize,
    sides: &mut Sides,
) -> Result<(), StoreError> {
    let mut before = Uuid::max();
    loop {
        let limit = page_of(records_max.saturating_sub(sides.theirs.len()));
        let rows = tx.query(BANK_OPEN, &[&bank, &before, &limit]).await?;
        sides.theirs.extend(rows.iter().map(read_line).collect::<Result<Vec<_>, _>>()?);
        if sides.theirs.len() > records_max {
            sides.theirs.truncate(records_max);
            sides.cut_off = true;
            return Ok(());
        }
        match sides.theirs.last() {
            Some(last) if i64::try_from(rows.len()).unwrap_or(i64::MAX) == limit => before = last.key.source,
            Some(_) | None => return Ok(()),
        }
    }
}

async fn read_open_entries(
    tx: &Tx,
    (bank, accounts): (&str, &[i64]),
    records_max: usize,
    sides: &mut Sides,
) -> Result<(), StoreError> {
    // Keyed by source alone, and a source has few entries on a reserve: a page that ends within one is followed by one that begins with it.
    let mut before = Uuid::max();
    loop {
        let limit =
            page_of(records_max.saturating_sub(sides.ours.len())).saturating_add(ENTRIES_PER_SOURCE_MAX);
        let rows = tx.query(LEDGER_OPEN, &[&accounts, &bank, &before, &limit]).await?;
        let mut page = rows.iter().map(|row| read_entry(row, accounts)).collect::<Result<Vec<_>, _>>()?;
        let is_last = i64::try_from(page.len()).unwrap_or(i64::MAX) < limit;
        if let Some(last) = page.last().map(|entry| entry.key.source).filter(|_| !is_last) {
            page.retain(|entry| entry.key.source != last);
            before = page.last().map_or(last, |entry| entry.key.source);
        }
        sides.ours.extend(page);
        if sides.ours.len() > records_max {
            sides.ours.truncate(records_max);
            sides.cut_off = true;
            return Ok(());
        }
        if is_last {
            return Ok(());
        }
    }
}

/// What has been walked over of an account, from its newest statement back.
#[derive(Default)]
struct Walked {
    moved: i64,
    cuts: usize,
    /// The first day of lines that no statement with a balance has told yet: which balances from then on have them, nobody knows.
    begins: Option<Timestamp>,
}

/// The statements to prove, with what the later ones have moved.
async fn read_cuts(tx: &Tx, bank: &str, now: Timestamp) -> Result<Vec<Cut>, StoreError> {
    let oldest = At(now.minus(CUT_AGE_MAX));
    let mut walked: HashMap<(String, String), Walked> = HashMap::new();
    let mut cuts = Vec::new();
    for row in tx.query(TO_PROVE, &[&bank, &oldest, &STATEMENTS_MAX]).await? {
        let (account, currency): (String, String) = (row.try_get("account")?, row.try_get("currency")?);
        let (opening, closing): (Option<i64>, Option<i64>) =
            (row.try_get("opening")?, row.try_get("closing")?);
        let (as_of, begins): (At, Option<At>) = (row.try_get("covers")?, row.try_get("begins")?);
        let is_waiting: bool = row.try_get("is_waiting")?;
        let lines: i64 = row.try_get("moved")?;
        let so_far = walked.entry((account.clone(), currency.clone())).or_default();
        let is_wanted = so_far.cuts == 0 || is_waiting && so_far.cuts < CUTS_MAX;
        let is_clear = so_far.begins.is_none_or(|begins| as_of.0 <= begins);
        if let Some(closing) = closing.filter(|_| is_wanted) {
            so_far.cuts += 1;
            if is_clear {
                cuts.push(Cut {
                    statement: StatementId::from_uuid(row.try_get("id")?),
                    name: row.try_get("name")?,
                    account,
                    currency,
                    as_of: as_of.0,
                    closing,
                    moved_since: so_far.moved,
                    posted_since: 0,
                });
            }
        }
        let moved = match (opening, closing) {
            (Some(opening), Some(closing)) => closing.saturating_sub(opening),
            (None, _) | (_, None) => lines,
        };
        so_far.moved = so_far.moved.saturating_add(moved);
        so_far.begins = so_far.begins.into_iter().chain(begins.map(|begins| begins.0)).min();
    }
    cuts.reverse();
    Ok(cuts)
}

/// Fills in what was posted on our reserve after each statement's instant.
async fn read_posted_since(
    tx: &Tx,
    accounts: &[i64],
    now: Timestamp,
    cuts: &mut [Cut],
) -> Result<(), StoreError> {
    let mut instants: Vec<Timestamp> = cuts.iter().map(|cut| cut.as_of).collect();
    instants.sort_unstable();
    instants.dedup();
    let Some(first) = instants.first() else { return Ok(()) };
    // What was posted at the very instant is not after it.
    let after: Vec<At> = instants.iter().map(|instant| At(instant.plus(Duration::from_micros(1)))).collect();
    let (mut from, end) = (*first, now.plus(OVERLAP));
    while from < end {
        let to = from.plus(STRETCH).min(end);
        for row in tx.query(POSTED, &[&accounts, &At(from), &At(to), &after]).await? {
            let (currency, change): (&str, i64) = (row.try_get("currency")?, row.try_get("change")?);
            let place = usize::try_from(row.try_get::<_, i32>("place")?).unwrap_or(0);
            let since = place.checked_sub(1).and_then(|last| instants.get(last).copied());
            for cut in cuts.iter_mut().filter(|cut| cut.currency == currency && Some(cut.as_of) <= since) {
                cut.posted_since = cut.posted_since.saturating_add(change);
            }
        }
        from = to;
    }
    Ok(())
}

async fn read_new_entries(
    tx: &Tx,
    (bank, accounts): (&str, &[i64]),
    records_max: usize,
    sides: &mut Sides,
) -> Result<(), StoreError> {
    let looked: Option<At> = match tx.query(LOOKED_UNTIL, &[&bank]).await?.first() {
        Some(row) => row.try_get("until")?,
        None => None,
    };
    let mut from = match looked {
        Some(until) => until.0.minus(OVERLAP),
        None => match first_entry(tx).await? {
            Some(first) => first,
            None => return Ok(()),
        },
    };
    // The snapshot, from which the balance is, was taken after `until`, and other machines' clocks may be ahead.
    let end = sides.until.plus(OVERLAP);
    let mut stretch = STRETCH;
    while from < end {
        let to = from.plus(stretch).min(end);
        let room = records_max.saturating_sub(sides.ours.len());
        let limit = i64::try_from(room).unwrap_or(i64::MAX).saturating_add(1);
        let rows = tx.query(LEDGER_SLICE, &[&accounts, &At(from), &At(to), &limit]).await?;
        let fits = rows.len() <= room;
        if !fits && room > 0 && stretch > STRETCH_MIN {
            stretch /= 2;
            continue;
        }
        for row in rows.iter().take(room) {
            sides.ours.push(read_entry(row, accounts)?);
            sides.newly_read += 1;
        }
        if !fits {
            // Of the shortest stretch as many as there is room for, whichever they are: from now on they are matched or open, and not told
            // again, so that the next run reads others, also where more was posted at one instant than a run may look at.
            sides.until = from;
            sides.cut_off = true;
            return Ok(());
        }
        from = to;
    }
    Ok(())
}

/// No entry was posted before that; none where there is none. Read from the ids, as nothing is kept in the order of posting.
async fn first_entry(tx: &Tx) -> Result<Option<Timestamp>, StoreError> {
    let rows = tx.query(FIRST_SOURCE, &[]).await?;
    let first = rows.first().map(|row| row.try_get("source_id")).transpose()?;
    Ok(first.map(|source| PaymentId::from_uuid(source).drawn_at().minus(OVERLAP)))
}

/// The entries that lines name and that were not read: by the operation's key, or by the reference under which the bank confirmed it. With
/// them a run that was cut off has done with each line that it has read, whatever was posted before and after.
async fn read_named_entries(
    tx: &Tx,
    (bank, accounts): (&str, &[i64]),
    sides: &mut Sides,
) -> Result<(), StoreError> {
    let mut named: BTreeSet<(Uuid, &'static str)> = BTreeSet::new();
    let mut name = |payment: Uuid, step: Option<BankStep>| {
        named.extend(step.and_then(posted_as).map(|moment| (payment, moment.as_str())));
    };
    let (mut references, mut days): (Vec<&str>, BTreeSet<&str>) = (Vec::new(), BTreeSet::new());
    for their in &sides.theirs {
        if let Some(key) = their.named_operation() {
            name(key.payment_id.as_uuid(), Some(key.step));
        } else if let Some((reference, day)) = their.named_by_bank().zip(their.line.booked_on.as_deref()) {
            references.push(reference);
            days.insert(day);
        }
    }
    if let (Some(first), Some(last)) = (days.first(), days.last()) {
        for references in references.chunks(SLICE) {
            for row in tx.query(CONFIRMED, &[&bank, first, last, &references]).await? {
                name(row.try_get("payment_id")?, BankStep::parse(row.try_get("kind")?));
            }
        }
    }
    let mut known: HashSet<RecordKey> = sides.ours.iter().map(|entry| entry.key.clone()).collect();
    let named: Vec<(Uuid, &'static str)> = named.into_iter().collect();
    for named in named.chunks(SLICE) {
        let (sources, moments) = columns!(named, |(source, moment)| *source, *moment);
        for row in tx.query(LEDGER_NAMED, &[&accounts, &sources, &moments]).await? {
            let entry = read_entry(&row, accounts)?;
            if known.insert(entry.key.clone()) {
                sides.ours.push(entry);
            }
        }
    }
    Ok(())
}

fn read_entry(row: &Row, accounts: &[i64]) -> Result<OurEntry, StoreError> {
    let amount: i64 = row.try_get("amount")?;
    let is_debit = accounts.contains(&row.try_get("debit_account")?);
    Ok(OurEntry {
        key: RecordKey::entry(row.try_get("source_id")?, row.try_get("moment")?, row.try_get("round")?),
        currency: row.try_get("currency")?,
        change: if is_debit { amount } else { -amount },
        posted_at: row.try_get::<_, At>("posted_at")?.0,
        booked_at: row.try_get::<_, Option<At>>("booked_at")?.map(|at| at.0),
        bank_reference: row.try_get("bank_reference")?,
        end_to_end_id: row.try_get("end_to_end_id")?,
        remittance_information: row.try_get("remittance_information")?,
        counterparty_iban: row.try_get("counterparty_iban")?,
        counterparty: row.try_get("counterparty")?,
    })
}

fn read_line(row: &Row) -> Result<TheirLine, StoreError> {
    Ok(TheirLine {
        key: RecordKey::line(row.try_get("id")?),
        account: row.try_get("account")?,
        currency: row.try_get("currency")?,
        line: StatementLine {
            amount: row.try_get("amount")?,
            booked_on: row.try_get("booked_on")?,
            value_on: row.try_get("value_on")?,
            operation_key: row.try_get("operation_key")?,
            reference: row.try_get("reference")?,
            bank_reference: row.try_get("bank_reference")?,
            batch: row.try_get("batch")?,
            counterparty: row.try_get("counterparty")?,
            counterparty_iban: row.try_get("counterparty_iban")?,
            text: row.try_get("text")?,
            code: row.try_get("code")?,
            is_return: row.try_get("is_return")?,
        },
    })
}

/// Which of these operations are still on their way into our books.
pub async fn under_way(
    db: &Db,
    operations: &[(Uuid, &'static str)],
) -> Result<Vec<(Uuid, String)>, StoreError> {
    let mut found = Vec::new();
    for slice in operations.chunks(SLICE) {
        let (payments, kinds) = columns!(slice, |(payment, kind)| *payment, *kind);
        for row in db.query(UNDER_WAY, &[&payments, &kinds]).await? {
            found.push((row.try_get("payment_id")?, row.try_get("kind")?));
        }
    }
    Ok(found)
}

/// Which of these journal entries, by source and moment, have a partner already.
pub async fn matched(db: &Db, entries: &[(Uuid, &'static str)]) -> Result<Vec<(Uuid, String)>, StoreError> {
    let mut found = Vec::new();
    for slice in entries.chunks(SLICE) {
        let (sources, moments) = columns!(slice, |(source, moment)| *source, *moment);
        for row in db.query(MATCHED, &[&sources, &moments]).await? {
            found.push((row.try_get("source_id")?, row.try_get("moment")?));
        }
    }
    Ok(found)
}

/// The figures of a scope's last runs that have looked at everything, newest first.
pub async fn last_summaries(db: &Db, scope: &str, limit: i64) -> Result<Vec<Value>, StoreError> {
    db.query(LAST_SUMMARIES, &[&scope, &limit]).await?.iter().map(|row| Ok(row.try_get("summary")?)).collect()
}

/// A payment as ledger and chain have it settled.
#[derive(Debug, Clone, Default)]
pub struct Settled {
    /// In the ledger: minor units, and when.
    pub ledger: Vec<(PaymentId, i64, Timestamp)>,
    /// On chain: the payment, transaction, place, whether it is final, token units and decimals.
    pub chain: Vec<ChainSettlement>,
    /// There was more than may be looked at in one run: payments accepted or settled from then on are for the next.
    pub cut_off_at: Option<Timestamp>,
}

impl Settled {
    fn add_ledger(&mut self, rows: &[Row]) -> Result<(), StoreError> {
        for row in rows {
            let amount: i64 = row.try_get("amount")?;
            if amount != 0 {
                let payment = PaymentId::from_uuid(row.try_get("source_id")?);
                self.ledger.push((payment, amount, row.try_get::<_, At>("posted_at")?.0));
            }
        }
        Ok(())
    }

    fn add_chain(&mut self, rows: &[Row]) -> Result<(), StoreError> {
        for row in rows {
            self.chain.push(ChainSettlement {
                payment: PaymentId::from_uuid(row.try_get("payment_id")?),
                tx_hash: row.try_get("tx_hash")?,
                log_index: row.try_get("log_index")?,
                is_final: row.try_get("announced")?,
                units: row.try_get("amount")?,
                token_decimals: row.try_get("token_decimals")?,
            });
        }
        Ok(())
    }
}

/// A settlement on chain.
#[derive(Debug, Clone)]
pub struct ChainSettlement {
    /// The payment.
    pub payment: PaymentId,
    /// Its transaction.
    pub tx_hash: Vec<u8>,
    /// Its place in the block.
    pub log_index: i32,
    /// Old enough for policy.
    pub is_final: bool,
    /// What was settled, in token units; none where we know no such leaf.
    pub units: Option<i64>,
    /// The token's decimals.
    pub token_decimals: i16,
}

/// What of the payments is compared.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Those that were accepted from then on, and
    pub from: Timestamp,
    /// until then;
    pub to: Timestamp,
    /// and those that were accepted until then, and settled from `from` on.
    pub late_before: Timestamp,
}

/// Both sides of the chain in a currency, and the payments whose news is still unread: for the payments of a window, and for those of
/// `again` that are older.
pub async fn settled(
    db: &Db,
    currency: &str,
    window: Window,
    again: &[PaymentId],
    records_max: usize,
) -> Result<(Settled, Vec<Uuid>), StoreError> {
    let tx = db.snapshot().await?;
    let read = read_settled(&tx, currency, window, again, records_max).await;
    tx.rollback().await?;
    read
}

/// Up to when a scope's runs have looked at everything; none before the first that was done.
pub async fn looked_until(db: &Db, scope: &str) -> Result<Option<Timestamp>, StoreError> {
    let rows = db.query(LOOKED_UNTIL, &[&scope]).await?;
    let until = rows.first().map(|row| row.try_get::<_, Option<At>>("until")).transpose()?;
    Ok(until.flatten().map(|at| at.0))
}

async fn read_settled(
    tx: &Tx,
    currency: &str,
    window: Window,
    again: &[PaymentId],
    records_max: usize,
) -> Result<(Settled, Vec<Uuid>), StoreError> {
    let mut settled = Settled::default();
    let page = SLICE.min(records_max.max(1));
    let limit = i64::try_from(page).unwrap_or(i64::MAX);
    let mut after = PaymentId::generate(window.from, [0; 10]).as_uuid();
    let mut older: BTreeSet<Uuid> = again.iter().map(PaymentId::as_uuid).filter(|id| *id <= after).collect();
    let (late, late_until) = settled_late(tx, currency, window, records_max).await?;
    older.extend(late);
    settled.cut_off_at = late_until;
    let to = late_until.unwrap_or(window.to);
    let end = PaymentId::generate(to, [255; 10]).as_uuid();
    let older: Vec<Uuid> = older.into_iter().collect();
    for slice in older.chunks(SLICE) {
        settled.add_ledger(&tx.query(SETTLED_OF, &[&currency, &slice]).await?)?;
        settled.add_chain(&tx.query(SETTLED_ON_CHAIN_OF, &[&currency, &slice]).await?)?;
    }
    let room = settled.ledger.len().saturating_add(records_max);
    loop {
        let rows = tx.query(SETTLED, &[&currency, &after, &At(to), &limit]).await?;
        settled.add_ledger(&rows)?;
        let is_last = rows.len() < page;
        let up_to = match rows.last() {
            Some(row) if !is_last => row.try_get("source_id")?,
            Some(_) | None => end,
        };
        settled.add_chain(&tx.query(SETTLED_ON_CHAIN, &[&currency, &after, &up_to]).await?)?;
        if is_last {
            break;
        }
        if settled.ledger.len() >= room {
            settled.cut_off_at = Some(PaymentId::from_uuid(up_to).drawn_at());
            break;
        }
        after = up_to;
    }
    let unread = tx
        .query(UNREAD_PAYMENTS, &[])
        .await?
        .iter()
        .map(|row| Ok(row.try_get("key")?))
        .collect::<Result<_, StoreError>>()?;
    Ok((settled, unread))
}

/// The payments of a window that were settled long after they were accepted: as many as one run may look at, and until when they were
/// settled, if there are more. As many again are compared that were accepted in it.
async fn settled_late(
    tx: &Tx,
    currency: &str,
    window: Window,
    records_max: usize,
) -> Result<(BTreeSet<Uuid>, Option<Timestamp>), StoreError> {
    let mut late = BTreeSet::new();
    let Some(first) = first_entry(tx).await?.filter(|first| *first <= window.late_before) else {
        return Ok((late, None));
    };
    let up_to = PaymentId::generate(window.late_before, [0; 10]).as_uuid();
    // What comes after a part that was cut off was looked through with that part.
    if window.from <= window.late_before {
        late.extend(settled_late_on_chain_alone(tx, currency, (up_to, window.from), records_max).await?);
    }
    let (mut begin, mut stretch) = (window.from.max(first), STRETCH);
    let mut room = records_max;
    while begin < window.to {
        if room == 0 {
            return Ok((late, Some(begin)));
        }
        let end = begin.plus(stretch).min(window.to);
        // The shortest stretch is taken whole, so that each run gets further.
        let is_shortest = stretch <= STRETCH_MIN;
        let limit = if is_shortest { usize::MAX } else { room.saturating_add(1) };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = tx.query(SETTLED_LATE, &[&currency, &up_to, &At(begin), &At(end), &limit]).await?;
        if rows.len() > room && !is_shortest {
            stretch /= 2;
            continue;
        }
        for row in &rows {
            late.insert(row.try_get("source_id")?);
        }
        room = room.saturating_sub(rows.len());
        begin = end;
    }
    Ok((late, None))
}

/// Those that the ledger has not settled since: seldom any, and the first `records_max` where there are more.
async fn settled_late_on_chain_alone(
    tx: &Tx,
    currency: &str,
    (up_to, from): (Uuid, Timestamp),
    records_max: usize,
) -> Result<Vec<Uuid>, StoreError> {
    let since: Option<i64> = match tx.query(BLOCK_SINCE, &[&At(from)]).await?.first() {
        Some(row) => row.try_get("block_number")?,
        None => None,
    };
    let Some(since) = since else { return Ok(Vec::new()) };
    let (mut block, mut place) = (since, -1_i32);
    let limit = i64::try_from(SLICE).unwrap_or(i64::MAX);
    let mut late: Vec<Uuid> = Vec::new();
    while late.len() < records_max {
        let params: [&(dyn ToSql + Sync); 6] = [&currency, &block, &place, &up_to, &At(from), &limit];
        let rows = tx.query(SETTLED_LATE_ON_CHAIN_ALONE, &params).await?;
        let Some(row) = rows.first() else { break };
        (block, place) = (row.try_get("block_number")?, row.try_get("log_index")?);
        late.extend(row.try_get::<_, Option<Vec<Uuid>>>("late")?.into_iter().flatten());
    }
    late.truncate(records_max);
    Ok(late)
}

// ---------------------------------------------------------------------------------------------------------------------
// What came of it

/// Records that belong together.
#[derive(Debug, Clone)]
pub struct NewMatch {
    /// `reference`, `group`, `model` or `person`.
    pub how: String,
    /// What the bank has more than the ledger.
    pub difference: i64,
    /// One sentence.
    pub explanation: String,
    /// The records.
    pub records: Vec<RecordKey>,
}

/// What a run found.
#[derive(Debug, Clone)]
pub struct Findings {
    /// The statement's instant.
    pub as_of: Option<Timestamp>,
    /// Journal entries posted until then were looked at.
    pub ledger_until: Timestamp,
    /// The hash of all that went in.
    pub manifest_sha256: String,
    /// Figures.
    pub summary: Value,
    /// Records that belong together.
    pub matches: Vec<NewMatch>,
    /// Journal entries without a partner.
    pub open: Vec<RecordKey>,
    /// Differences.
    pub exceptions: Vec<Found>,
    /// Reports by format.
    pub reports: Vec<(&'static str, Vec<u8>)>,
    /// What it adds to what is known of segments and nights.
    pub learned: Learned,
    /// The run has looked at everything that is open in its scope, so what it did not find again is explained.
    pub is_whole: bool,
    /// Statements at whose instant the balance was proven, or found to differ.
    pub proven: Vec<StatementId>,
}

/// How many exceptions a run opened and closed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changed {
    /// Opened, or opened again.
    pub opened: usize,
    /// Explained since.
    pub explained: usize,
}

/// Writes what a run found and ends it, in one transaction under its fence.
pub async fn finish(
    db: &Db,
    run: &ClaimedRun,
    findings: &Findings,
    traceparent: &str,
    now: Timestamp,
) -> Result<Changed, StoreError> {
    let tx = db.begin().await?;
    let id = run.id.as_uuid();
    ours(
        &tx.query(
            FINISH,
            &[
                &id,
                &run.fence,
                &At(now),
                &findings.as_of.map(At),
                &At(findings.ledger_until),
                &findings.manifest_sha256,
                &findings.summary,
            ],
        )
        .await?,
    )?;
    for matches in findings.matches.chunks(SLICE) {
        save_matches(&tx, (Some(run.id), &run.scope), matches, now).await?;
    }
    for open in findings.open.chunks(SLICE) {
        let (sources, moments, rounds) = columns!(open, |key| key.source, key.moment.as_str(), key.round);
        tx.execute(OPEN_ITEMS, &[&run.scope, &At(now), &sources, &moments, &rounds]).await?;
    }
    let proven: Vec<Uuid> = findings.proven.iter().map(|statement| statement.as_uuid()).collect();
    tx.execute(PROVEN, &[&run.scope, &proven, &At(now.minus(CUT_AGE_MAX))]).await?;
    let changed = exception::record(&tx, run, findings, now).await?;
    segment::record(&tx, run, &findings.learned).await?;
    let mut reports = Map::new();
    for (format, body) in &findings.reports {
        for row in tx.query(SAVE_REPORT, &[&id, format, body]).await? {
            reports.insert((*format).to_owned(), Value::String(row.try_get("sha256")?));
        }
    }
    let event = |kind: &str, data: &Value| NewEvent {
        topic: topic::RECONCILIATION,
        key: PaymentId::from_uuid(id),
        kind: kind.to_owned(),
        participants: None,
        traceparent: traceparent.to_owned(),
        data: EventData::of(data),
    };
    let about = |count: usize| json!({ "reconciliation": run.id.to_string(), "scope": run.scope, "day": run.day, "count": count });
    // Whoever keeps the log can show later that a report is the one that this run wrote.
    let mut completed = findings.summary.clone();
    completed["manifest_sha256"] = json!(findings.manifest_sha256);
    completed["reports"] = Value::Object(reports);
    let mut events = vec![event("reconciliation.completed", &completed)];
    if changed.opened > 0 {
        events.push(event("reconciliation.break_found", &about(changed.opened)));
    }
    event_log::append(&tx, &events, now).await?;
    tx.commit().await?;
    Ok(changed)
}

/// Writes matches, and takes their records from what is open.
pub(crate) async fn save_matches(
    tx: &Tx,
    (run, scope): (Option<ReconciliationId>, &str),
    matches: &[NewMatch],
    now: Timestamp,
) -> Result<(), StoreError> {
    if matches.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = matches.iter().map(|_| Uuid::from_u128(match_id(now))).collect();
    let (hows, differences, explanations) =
        columns!(matches, |found| found.how.as_str(), found.difference, found.explanation.as_str());
    let run = run.map(|run| run.as_uuid());
    tx.execute(SAVE_MATCHES, &[&run, &scope, &At(now), &ids, &hows, &differences, &explanations]).await?;
    let records: Vec<(&RecordKey, Uuid)> = matches
        .iter()
        .zip(&ids)
        .flat_map(|(found, id)| found.records.iter().map(|record| (record, *id)))
        .collect();
    let (sides, sources, moments, rounds, of) = columns!(
        records,
        |(record, id)| record.side,
        record.source,
        record.moment.as_str(),
        record.round,
        *id
    );
    tx.execute(SAVE_ITEMS, &[&sides, &sources, &moments, &rounds, &of]).await?;
    tx.execute(CLOSE_ITEMS, &[&sides, &sources, &moments, &rounds]).await?;
    Ok(())
}

fn match_id(now: Timestamp) -> u128 {
    ReconciliationId::generate(now, rand::random()).as_uuid().as_u128()
}

/// What waits, for the monitor: runs by state, open exceptions; each with its count and its oldest.
pub async fn waiting(db: &Db) -> Result<Vec<(String, i64, Option<Timestamp>)>, StoreError> {
    db.query(WAITING, &[])
        .await?
        .iter()
        .map(|row| {
            let oldest: Option<At> = row.try_get("oldest")?;
            Ok((row.try_get("kind")?, row.try_get("waiting")?, oldest.map(|at| at.0)))
        })
        .collect()
}
