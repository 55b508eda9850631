//! Statements as the banks told them: taken in once, never changed.
//!
//! One intake of a bank at a time, under the lock of its row in `statement_source`. The same file changes nothing; a
//! statement that the bank names like one that is here, and that says something else, is refused. A gap to the statement
//! before is accepted and told, because the missing one may come later. Lines that are alike are all kept, and counted. A bank
//! that tells a day more than once (what is booked so far, and at the end everything) tells lines again: each such line names
//! the one that it repeats, and stands for no booking of its own. What is booked on the account of our reserve is open until a
//! run has found its partner, and a closing balance there waits until a run has proven it.

use crate::db::{Db, StoreError, Tx};
use crate::sql::{At, columns, statements};
use flowbridge_domain::id::{StatementEntryId, StatementId};
use flowbridge_domain::party::BankCode;
use flowbridge_domain::time::Timestamp;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use tokio_postgres::Row;
use uuid::Uuid;

/// Lines written with one statement.
const LINES_PER_STATEMENT: usize = 2_000;

statements! {
    ENSURE_SOURCE = "insert into statement_source (bank_code, kind) select code, $2 from bank where code = $1
        on conflict (bank_code) do nothing";

    LOCK_SOURCE = "select kind, cursor, reserve_accounts from statement_source where bank_code = $1 for update";

    SET_SOURCE_KIND = "update statement_source set kind = $2 where bank_code = $1 and kind <> $2 returning kind";

    MOVE_SOURCE = "update statement_source set cursor = $2, reserve_accounts = $3 where bank_code = $1";

    CURSOR = "select cursor from statement_source where bank_code = $1";

    KNOWN_FILE = concat!("select ", statement_columns!(), " from statement
        where bank_code = $1 and file_sha256 = $2 order by place");

    KNOWN_NAME = "select id from statement
        where bank_code = $1 and account = $2 and currency = $3 and bank_statement_id = $4 and bank_statement_id <> ''
            and coalesce(sequence, -1) = coalesce($5::bigint, -1)
            and coalesce(closes_on, 'epoch') = coalesce($6::text::date, 'epoch')";

    // Of the statement before the one that covers a day or tells everything up to an instant; of the newest without either.
    LAST_CLOSING = concat!("select closing from statement, lateral (
            select coalesce($4, ($5::text::date + 1)::timestamp at time zone 'UTC', 'infinity') as moment) later
        where bank_code = $1 and account = $2 and currency = $3 and closing is not null
            and (", covers!(), " < later.moment
                or ", covers!(), " = later.moment and coalesce(sequence < $6::bigint, true))
        order by ", covers!(), " desc, sequence desc nulls last, id desc limit 1");

    // Of the statement that a connector told last: the next one goes on from there, whatever the bank's clock says.
    LAST_TOLD = "select closing, as_of from statement where bank_code = $1 and account = $2 and currency = $3 and closing is not null
        order by id desc limit 1";

    // What other files have told of these days. A statement that leads from an opening to a closing balance tells each booking once: it
    // repeats only what was told without both, and that only once. One without both repeats whatever is there: what is downloaded for any
    // days overlaps, and OFX has a closing balance all the same.
    HELD = "select line.id, line.booked_on::text as booked_on, line.amount, line.reference, line.bank_reference,
            line.counterparty_iban, line.text, line.is_return
        from statement_entry line join statement told on told.id = line.statement_id
        where line.bank_code = $1 and line.account = $2 and line.currency = $3 and line.booked_on = any($4::text[]::date[])
            and line.same_as is null and not line.is_pending and told.file_sha256 <> $5
            and ($6 or (told.opening is null or told.closing is null) and not exists (
                select from statement_entry later join statement whole on whole.id = later.statement_id
                    where later.same_as = line.id and whole.opening is not null and whole.closing is not null))
        order by line.id";

    INSERT = "insert into statement (id, bank_code, channel, file_sha256, place, format, name, bank_statement_id, account,
            currency, sequence, opening, closing, closes_on, as_of, entries, repeated, already_held, gap, received_by, received_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14::text::date, $15, $16, $17, $18, $19, $20, $21)";

    INSERT_LINES = "insert into statement_entry (id, statement_id, place, bank_code, account, currency, amount, booked_on,
            value_on, booked_at, bank_sequence, operation_key, reference, bank_reference, batch, counterparty,
            counterparty_iban, text, code, is_return, is_pending, occurrence, same_as)
        select new.id, $1, new.place, $2, $3, $4, new.amount, new.booked_on::date, new.value_on::date, new.booked_at,
                new.bank_sequence, new.operation_key, new.reference, new.bank_reference, new.batch, new.counterparty,
                new.counterparty_iban, new.text, new.code, new.is_return, new.is_pending, new.occurrence, new.same_as
            from unnest($5::uuid[], $6::int[], $7::bigint[], $8::text[], $9::text[], $10::timestamptz[], $11::bigint[],
                    $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::text[], $18::text[], $19::text[],
                    $20::bool[], $21::bool[], $22::int[], $23::uuid[])
                as new (id, place, amount, booked_on, value_on, booked_at, bank_sequence, operation_key, reference,
                    bank_reference, batch, counterparty, counterparty_iban, text, code, is_return, is_pending, occurrence,
                    same_as)";

    TO_PROVE = "insert into statement_to_prove (statement_id, bank_code) values ($1, $2)";

    OPEN_LINES = "insert into recon_open (side, source_id, moment, round, scope, since)
        select 'bank', id, '', 0, bank_code, $2 from statement_entry
            where statement_id = $1 and not is_pending and same_as is null";

    LIST = concat!("select ", statement_columns!(), " from statement
        where ($1::text is null or bank_code = $1) and ($2::uuid is null or id < $2) order by id desc limit $3");
}

macro_rules! statement_columns {
    () => {
        "id, bank_code, channel, format, name, bank_statement_id, account, currency, sequence, opening, closing, \
         closes_on::text as closes_on, as_of, entries, repeated, already_held, gap, received_by, received_at"
    };
}
use statement_columns;

/// Up to when a statement tells everything: the instant that the bank says, or the end of its day.
macro_rules! covers {
    () => {
        "coalesce(as_of, (closes_on + 1)::timestamp at time zone 'UTC', received_at)"
    };
}
pub(crate) use covers;

/// A statement to take in.
#[derive(Debug, Clone, Default)]
pub struct NewStatement {
    /// The bank's id of it; empty where it has none.
    pub bank_statement_id: String,
    /// The account.
    pub account: String,
    /// Its currency.
    pub currency: String,
    /// Its number.
    pub sequence: Option<i64>,
    /// Booked before the first line, in minor units.
    pub opening: Option<i64>,
    /// Booked after the last line.
    pub closing: Option<i64>,
    /// The last day that it tells of, as `2026-11-28`.
    pub closes_on: Option<String>,
    /// The instant, where the bank says it.
    pub as_of: Option<Timestamp>,
    /// The lines.
    pub lines: Vec<NewLine>,
}

/// A line of a statement to take in.
#[derive(Debug, Clone, Default)]
pub struct NewLine {
    /// What it says.
    pub line: StatementLine,
    /// The instant it was booked, where the bank says it.
    pub booked_at: Option<Timestamp>,
    /// The bank's running number, where it has one.
    pub bank_sequence: Option<i64>,
    /// Only announced.
    pub is_pending: bool,
    /// How many equal lines came before it.
    pub occurrence: i32,
}

/// What a line of a statement says. Days are written `2026-11-28`.
#[derive(Debug, Clone, Default)]
pub struct StatementLine {
    /// Signed minor units, credits positive.
    pub amount: i64,
    /// The day it was booked.
    pub booked_on: Option<String>,
    /// The day it counts from.
    pub value_on: Option<String>,
    /// The operation of ours that it is, where the bank says so.
    pub operation_key: Option<String>,
    /// End-to-end id or the customer's reference.
    pub reference: String,
    /// The bank's own reference.
    pub bank_reference: String,
    /// The batch it was booked in.
    pub batch: String,
    /// The other party.
    pub counterparty: String,
    /// The other party's account.
    pub counterparty_iban: String,
    /// Whatever else the bank writes.
    pub text: String,
    /// The bank's code.
    pub code: String,
    /// A return or reversal.
    pub is_return: bool,
}

/// Where statements come from.
#[derive(Debug, Clone)]
pub struct Intake {
    /// Whose they are.
    pub bank: BankCode,
    /// `api`, `folder` or `connector`.
    pub channel: &'static str,
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
    /// What it is written in.
    pub format: String,
    /// What it is called.
    pub name: String,
    /// Who brought it.
    pub by: String,
    /// Which of a connector's numbers it has read; none for files.
    pub numbers: Option<Numbers>,
}

/// A stretch of a connector's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// The last that was here when the reading began.
    pub after: i64,
    /// The last that it has read.
    pub last: i64,
}

/// A statement that was taken in.
#[derive(Debug, Clone)]
pub struct TakenStatement {
    /// Its id.
    pub id: StatementId,
    /// The bank.
    pub bank: String,
    /// `api`, `folder` or `connector`.
    pub channel: String,
    /// What it was written in.
    pub format: String,
    /// The file.
    pub name: String,
    /// The bank's id of it.
    pub bank_statement_id: String,
    /// The account.
    pub account: String,
    /// Its currency.
    pub currency: String,
    /// Its number.
    pub sequence: Option<i64>,
    /// Minor units.
    pub opening: Option<i64>,
    /// Minor units.
    pub closing: Option<i64>,
    /// The day it closes on.
    pub closes_on: Option<String>,
    /// The instant, where the bank says it.
    pub as_of: Option<Timestamp>,
    /// How many lines.
    pub lines: i32,
    /// How many of them equal an earlier one.
    pub repeated: i32,
    /// How many of them another statement had told.
    pub already_held: i32,
    /// What its opening differed by, when it came, from the closing before.
    pub gap: Option<i64>,
    /// Who brought it.
    pub received_by: String,
    /// When.
    pub received_at: Timestamp,
}

/// What came of an intake.
#[derive(Debug, Clone)]
pub enum Taken {
    /// It is new, and in.
    New(Vec<TakenStatement>),
    /// The same file is here, or another has read on from where this reading of a connector began; nothing changed.
    Repeat(Vec<TakenStatement>),
    /// There is no such bank.
    UnknownBank,
    /// The bank's statements come by the other way, from which these would be taken in a second time.
    OtherSource(String),
    /// A statement of that name is here and says something else.
    NamedAlready {
        /// Which statement of the file, counted from 1.
        place: usize,
        /// The one that is here.
        known: StatementId,
    },
}

/// Takes in the statements of one file, or of one reading of a connector, all or none.
pub async fn take(
    db: &Db,
    intake: &Intake,
    statements: &[NewStatement],
    now: Timestamp,
) -> Result<Taken, StoreError> {
    let tx = db.begin().await?;
    let taken = take_in(&tx, intake, statements, now).await?;
    match taken {
        Taken::New(_) => tx.commit().await?,
        Taken::Repeat(_) | Taken::UnknownBank | Taken::OtherSource(_) | Taken::NamedAlready { .. } => {
            tx.rollback().await?;
        }
    }
    Ok(taken)
}

async fn take_in(
    tx: &Tx,
    intake: &Intake,
    statements: &[NewStatement],
    now: Timestamp,
) -> Result<Taken, StoreError> {
    let bank = intake.bank.as_str();
    let kind = if intake.numbers.is_some() { "connector" } else { "file" };
    tx.execute(ENSURE_SOURCE, &[&bank, &kind]).await?;
    let rows = tx.query(LOCK_SOURCE, &[&bank]).await?;
    let Some(source) = rows.first() else { return Ok(Taken::UnknownBank) };
    let known = tx.query(KNOWN_FILE, &[&bank, &intake.sha256.to_vec()]).await?;
    if !known.is_empty() {
        return Ok(Taken::Repeat(known.iter().map(read).collect::<Result<_, _>>()?));
    }
    let expected: &str = source.try_get("kind")?;
    if expected != kind {
        return Ok(Taken::OtherSource(expected.to_owned()));
    }
    let here: i64 = source.try_get("cursor")?;
    if intake.numbers.is_some_and(|numbers| numbers.after != here) {
        return Ok(Taken::Repeat(Vec::new()));
    }
    let cursor = intake.numbers.map_or(here, |numbers| numbers.last);
    let mut reserves: BTreeMap<String, String> = serde_json::from_value(source.try_get("reserve_accounts")?)
        .map_err(|_| StoreError::Corrupt(format!("the reserve accounts at {bank}")))?;
    let mut taken = Vec::with_capacity(statements.len());
    for (place, statement) in statements.iter().enumerate() {
        let name = [&statement.account, &statement.currency, &statement.bank_statement_id];
        let named = tx
            .query(KNOWN_NAME, &[&bank, name[0], name[1], name[2], &statement.sequence, &statement.closes_on])
            .await?;
        if let Some(row) = named.first() {
            let known = StatementId::from_uuid(row.try_get("id")?);
            return Ok(Taken::NamedAlready { place: place + 1, known });
        }
        let reserve = reserves.entry(statement.currency.clone()).or_insert_with(|| statement.account.clone());
        let is_reserve = *reserve == statement.account;
        taken.push(write(tx, intake, (place, statement), is_reserve, now).await?);
    }
    let reserves = serde_json::to_value(&reserves).unwrap_or(Value::Null);
    tx.execute(MOVE_SOURCE, &[&bank, &cursor, &reserves]).await?;
    Ok(Taken::New(taken))
}

async fn write(
    tx: &Tx,
    intake: &Intake,
    (place, statement): (usize, &NewStatement),
    is_reserve: bool,
    now: Timestamp,
) -> Result<TakenStatement, StoreError> {
    let bank = intake.bank.as_str();
    let as_of = statement.as_of.map(At);
    let last = if intake.numbers.is_some() {
        tx.query(LAST_TOLD, &[&bank, &statement.account, &statement.currency]).await?
    } else {
        tx.query(
            LAST_CLOSING,
            &[
                &bank,
                &statement.account,
                &statement.currency,
                &as_of,
                &statement.closes_on,
                &statement.sequence,
            ],
        )
        .await?
    };
    let last: Option<i64> = match last.first() {
        Some(row) => row.try_get("closing")?,
        None => None,
    };
    let same_as = told_already(tx, intake, statement).await?;
    let gap = match (last, statement.opening) {
        (Some(last), Some(opening)) => Some(opening.saturating_sub(last)).filter(|gap| *gap != 0),
        (None, _) | (_, None) => None,
    };
    let id = StatementId::generate(now, rand::random());
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let taken = TakenStatement {
        id,
        bank: bank.to_owned(),
        channel: intake.channel.to_owned(),
        format: intake.format.clone(),
        name: intake.name.clone(),
        bank_statement_id: statement.bank_statement_id.clone(),
        account: statement.account.clone(),
        currency: statement.currency.clone(),
        sequence: statement.sequence,
        opening: statement.opening,
        closing: statement.closing,
        closes_on: statement.closes_on.clone(),
        as_of: statement.as_of,
        lines: count(statement.lines.len()),
        repeated: count(statement.lines.iter().filter(|line| line.occurrence > 0).count()),
        already_held: count(same_as.iter().flatten().count()),
        gap,
        received_by: intake.by.clone(),
        received_at: now,
    };
    tx.execute(
        INSERT,
        &[
            &id.as_uuid(),
            &bank,
            &intake.channel,
            &intake.sha256.to_vec(),
            &count(place),
            &intake.format,
            &intake.name,
            &statement.bank_statement_id,
            &statement.account,
            &statement.currency,
            &statement.sequence,
            &statement.opening,
            &statement.closing,
            &statement.closes_on,
            &statement.as_of.map(At),
            &taken.lines,
            &taken.repeated,
            &taken.already_held,
            &gap,
            &intake.by,
            &At(now),
        ],
    )
    .await?;
    let pages = statement.lines.chunks(LINES_PER_STATEMENT).zip(same_as.chunks(LINES_PER_STATEMENT));
    for (page, (lines, same_as)) in pages.enumerate() {
        let first = page * LINES_PER_STATEMENT;
        write_lines(tx, intake, (id, statement), (first, lines, same_as), now).await?;
    }
    if is_reserve {
        tx.execute(OPEN_LINES, &[&id.as_uuid(), &At(now)]).await?;
    }
    if is_reserve && statement.closing.is_some() {
        tx.execute(TO_PROVE, &[&id.as_uuid(), &bank]).await?;
    }
    Ok(taken)
}

/// For each line the one of another statement that tells the same booking. Connectors number what they tell, and repeat
/// nothing.
async fn told_already(
    tx: &Tx,
    intake: &Intake,
    statement: &NewStatement,
) -> Result<Vec<Option<Uuid>>, StoreError> {
    let mut same_as = vec![None; statement.lines.len()];
    let days: BTreeSet<&str> =
        statement.lines.iter().filter_map(|new| new.line.booked_on.as_deref()).collect();
    if intake.numbers.is_some() || days.is_empty() {
        return Ok(same_as);
    }
    let rows = tx
        .query(
            HELD,
            &[
                &intake.bank.as_str(),
                &statement.account,
                &statement.currency,
                &Vec::from_iter(days),
                &intake.sha256.to_vec(),
                &(statement.opening.is_none() || statement.closing.is_none()),
            ],
        )
        .await?;
    let mut held: HashMap<Booking, VecDeque<Uuid>> = HashMap::new();
    for row in rows {
        let line = StatementLine {
            amount: row.try_get("amount")?,
            booked_on: row.try_get("booked_on")?,
            reference: row.try_get("reference")?,
            bank_reference: row.try_get("bank_reference")?,
            counterparty_iban: row.try_get("counterparty_iban")?,
            text: row.try_get("text")?,
            is_return: row.try_get("is_return")?,
            ..StatementLine::default()
        };
        held.entry(Booking::of(&line)).or_default().push_back(row.try_get("id")?);
    }
    for (new, same_as) in statement.lines.iter().zip(&mut same_as).filter(|(new, _)| !new.is_pending) {
        *same_as = held.get_mut(&Booking::of(&new.line)).and_then(VecDeque::pop_front);
    }
    Ok(same_as)
}

/// What two statements of a bank say alike of one booking: the bank's own reference, or without one everything that names it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Booking {
    day: Option<String>,
    amount: i64,
    is_return: bool,
    named: Vec<String>,
}

impl Booking {
    fn of(line: &StatementLine) -> Self {
        Self {
            day: line.booked_on.clone(),
            amount: line.amount,
            is_return: line.is_return,
            named: if line.bank_reference.is_empty() {
                vec![line.reference.clone(), line.counterparty_iban.clone(), line.text.clone()]
            } else {
                vec![line.bank_reference.clone()]
            },
        }
    }
}

async fn write_lines(
    tx: &Tx,
    intake: &Intake,
    (id, statement): (StatementId, &NewStatement),
    (first, lines, same_as): (usize, &[NewLine], &[Option<Uuid>]),
    now: Timestamp,
) -> Result<(), StoreError> {
    let placed: Vec<(i32, &NewLine)> = lines
        .iter()
        .enumerate()
        .map(|(place, line)| (i32::try_from(first + place).unwrap_or(i32::MAX), line))
        .collect();
    let ids: Vec<Uuid> =
        placed.iter().map(|_| StatementEntryId::generate(now, rand::random()).as_uuid()).collect();
    let (places, amounts, booked, counted, instants, numbers, keys, references) = columns!(
        placed,
        |(place, new)| *place,
        new.line.amount,
        new.line.booked_on.as_deref(),
        new.line.value_on.as_deref(),
        new.booked_at.map(At),
        new.bank_sequence,
        new.line.operation_key.as_deref(),
        new.line.reference.as_str()
    );
    let (theirs, batches, parties, ibans, texts, codes, returns, pending, occurrences) = columns!(
        placed,
        |(_, new)| new.line.bank_reference.as_str(),
        new.line.batch.as_str(),
        new.line.counterparty.as_str(),
        new.line.counterparty_iban.as_str(),
        new.line.text.as_str(),
        new.line.code.as_str(),
        new.line.is_return,
        new.is_pending,
        new.occurrence
    );
    tx.execute(
        INSERT_LINES,
        &[
            &id.as_uuid(),
            &intake.bank.as_str(),
            &statement.account,
            &statement.currency,
            &ids,
            &places,
            &amounts,
            &booked,
            &counted,
            &instants,
            &numbers,
            &keys,
            &references,
            &theirs,
            &batches,
            &parties,
            &ibans,
            &texts,
            &codes,
            &returns,
            &pending,
            &occurrences,
            &same_as,
        ],
    )
    .await?;
    Ok(())
}

/// Says by which way a bank's statements come. True if that is new.
pub async fn set_source(db: &Db, bank: &BankCode, is_connector: bool) -> Result<bool, StoreError> {
    let kind = if is_connector { "connector" } else { "file" };
    db.query(ENSURE_SOURCE, &[&bank.as_str(), &kind]).await?;
    Ok(!db.query(SET_SOURCE_KIND, &[&bank.as_str(), &kind]).await?.is_empty())
}

/// The last number of a bank's statement that has been taken in.
pub async fn cursor(db: &Db, bank: &BankCode) -> Result<i64, StoreError> {
    match db.query(CURSOR, &[&bank.as_str()]).await?.first() {
        Some(row) => Ok(row.try_get("cursor")?),
        None => Ok(0),
    }
}

/// What a connector told last of an account: its closing balance, and up to when it told everything.
pub async fn last_told(
    db: &Db,
    bank: &BankCode,
    (account, currency): (&str, &str),
) -> Result<Option<(i64, Option<Timestamp>)>, StoreError> {
    match db.query(LAST_TOLD, &[&bank.as_str(), &account, &currency]).await?.first() {
        Some(row) => {
            let as_of: Option<At> = row.try_get("as_of")?;
            Ok(Some((row.try_get("closing")?, as_of.map(|at| at.0))))
        }
        None => Ok(None),
    }
}

/// Statements, newest first, before one of them.
pub async fn list(
    db: &Db,
    bank: Option<&str>,
    before: Option<Uuid>,
    limit: i64,
) -> Result<Vec<TakenStatement>, StoreError> {
    db.query(LIST, &[&bank, &before, &limit]).await?.iter().map(read).collect()
}

fn read(row: &Row) -> Result<TakenStatement, StoreError> {
    Ok(TakenStatement {
        id: StatementId::from_uuid(row.try_get("id")?),
        bank: row.try_get("bank_code")?,
        channel: row.try_get("channel")?,
        format: row.try_get("format")?,
        name: row.try_get("name")?,
        bank_statement_id: row.try_get("bank_statement_id")?,
        account: row.try_get("account")?,
        currency: row.try_get("currency")?,
        sequence: row.try_get("sequence")?,
        opening: row.try_get("opening")?,
        closing: row.try_get("closing")?,
        closes_on: row.try_get("closes_on")?,
        as_of: row.try_get::<_, Option<At>>("as_of")?.map(|at| at.0),
        lines: row.try_get("entries")?,
        repeated: row.try_get("repeated")?,
        already_held: row.try_get("already_held")?,
        gap: row.try_get("gap")?,
        received_by: row.try_get("received_by")?,
        received_at: row.try_get::<_, At>("received_at")?.0,
    })
}
