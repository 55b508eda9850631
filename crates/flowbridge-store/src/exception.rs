//! Exceptions: differences that wait for people, and what people decide about them.
//!
//! An exception is one scope, kind and subject, so a run that finds the same difference again finds the same exception, and one
//! that no longer finds it closes it as explained. What a person decided stays decided: a run neither opens it again nor
//! undoes it. One operator proposes, another confirms, and only then is a correcting entry posted, in the transaction of the
//! verdict; what a run has found explained in between is closed, and nothing is posted. Decisions, verdicts and comments are
//! never changed, and the log tells of each (`reconciliation` topic).

use crate::db::{Db, StoreError, Tx};
use crate::event_data::{EventData, sha256_of};
use crate::event_log::{self, NewEvent, topic};
use crate::ledger;
use crate::reconciliation::{ClaimedRun, Findings, NewMatch, RecordKey, save_matches};
use crate::review::{GivenVerdict, Verdict};
use crate::sql::{At, columns, statements};
use flowbridge_domain::id::{DecisionId, ExceptionId, PaymentId, ReconciliationId, StatementEntryId};
use flowbridge_domain::ledger::{Contra, Moment};
use flowbridge_domain::money::{Currency, Money};
use flowbridge_domain::party::BankCode;
use flowbridge_domain::time::Timestamp;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use tokio_postgres::Row;
use uuid::Uuid;

/// Rows of one statement.
const SLICE: usize = 2_000;
/// Comments and decisions of one exception that are shown at most.
const SHOWN_MAX: i64 = 200;
/// Lines that are suggested for one exception at most.
pub const SUGGESTIONS_MAX: usize = 3;

statements! {
    KNOWN = "select count(*) as known from recon_exception
        where scope = $1 and state <> 'explained' and (kind, subject) in (select * from unnest($2::text[], $3::text[]))";

    FIND = "insert into recon_exception (id, scope, kind, subject, currency, amount, owner, advice, about, contra, correction,
            is_lasting, since, opened_in, opened_at, seen_in, suggestions)
        select new.id, $1, new.kind, new.subject, new.currency, new.amount, new.owner, new.advice, new.about, new.contra,
                new.correction, new.is_lasting, new.since, $2, $3, $2, new.suggestions
            from unnest($4::uuid[], $5::text[], $6::text[], $7::text[], $8::bigint[], $9::text[], $10::text[], $11::jsonb[],
                    $12::text[], $13::bigint[], $14::timestamptz[], $15::bool[], $16::jsonb[])
                as new (id, kind, subject, currency, amount, owner, advice, about, contra, correction, since, is_lasting,
                    suggestions)
        on conflict (scope, kind, subject) do update
            set seen_in = excluded.seen_in, amount = excluded.amount, about = excluded.about, contra = excluded.contra,
                correction = excluded.correction, suggestions = excluded.suggestions, state = 'open', closed_at = null
            where recon_exception.state <> 'decided'";

    // What waits for a second person is left to that person where it is about records: each of those is matched once, whoever confirms what.
    // Nothing but this keeps an entry from being posted for a balance that no longer differs.
    EXPLAIN = "update recon_exception found set state = 'explained', closed_at = $3
        where scope = $1 and state = 'open' and not is_lasting and seen_in <> $2 and not (
            coalesce(about -> 'records', '[]') <> '[]' and exists (
                select from recon_decision decision where decision.exception_id = found.id and not exists (
                    select from recon_verdict verdict where verdict.decision_id = decision.id)))";

    // What matches leave over and no entry has put right yet, per currency; what does not fit is a difference beyond every account.
    LEFT_OVER = "select currency, least(greatest(coalesce(sum(correction), 0), -9223372036854775808),
            9223372036854775807)::bigint as amount from recon_exception found
        where scope = $1 and is_lasting and not exists (
            select from journal_entry entry where entry.source_id = found.id and entry.moment = 'correction')
        group by currency";

    OPEN_SUBJECTS = "select subject from recon_exception where scope = $1 and state = 'open' order by id limit $2";

    REFUSED_PAIRS = "select subject from recon_exception found where scope = $1 and kind = $2 and state = 'decided'
        and exists (select from recon_decision decision join recon_verdict verdict on verdict.decision_id = decision.id
            where decision.exception_id = found.id and decision.decision = 'reject' and verdict.verdict = 'confirmed')";

    DECIDED = "select subject from recon_exception where scope = $1 and kind = $2 and state = 'decided'";

    BOOKED = "select subject from recon_exception found where scope = $1 and kind = $2 and state = 'decided'
        and exists (select from journal_entry entry where entry.source_id = found.id and entry.moment = 'correction')";

    RULED = "select found.kind, found.subject, found.about, found.contra is not null and found.correction <> 0 as has_entry,
            decision.decision, decision.partner, decision.reason,
            decision.proposed_by, verdict.given_at
        from recon_verdict verdict join recon_decision decision on decision.id = verdict.decision_id
            join recon_exception found on found.id = decision.exception_id
        where found.scope = $1 and verdict.verdict = 'confirmed' order by verdict.given_at, decision.id";

    LIST = concat!("select ", exception_columns!(), " from recon_exception
        where ($1::text is null or scope = $1) and ($2::text is null or state = $2) and ($3::text is null or kind = $3)
            and ($4::uuid is null or id < $4) and ($5::uuid is null or id = $5)
        order by id desc limit $6");

    SUGGESTED = "select line.id, line.currency, line.amount, line.booked_on::text as booked_on, line.reference,
            line.bank_reference, line.counterparty, line.text,
            (suggested.told ->> 'probability')::double precision as probability
        from recon_exception found
            cross join lateral jsonb_array_elements(found.suggestions) with ordinality as suggested (told, place)
            join statement_entry line on line.id = (suggested.told ->> 'line')::uuid
        where found.id = $1 and found.state = 'open' and exists (
            select from recon_open still where still.side = 'bank' and still.source_id = line.id)
        order by suggested.place";

    LOCK = concat!("select ", exception_columns!(), " from recon_exception where id = $1 for update");

    ASSIGN = "update recon_exception set assigned_to = $2 where id = $1 and state = 'open' returning id";

    COMMENT = "insert into recon_comment (id, exception_id, written_by, written_at, text) values ($1, $2, $3, $4, $5)";

    COMMENTS = "select written_by, written_at, text from recon_comment where exception_id = $1 order by id limit $2";

    PROPOSE = "insert into recon_decision (id, exception_id, decision, partner, reason, proposed_by, proposed_at)
        values ($1, $2, $3, $4, $5, $6, $7)";

    DECISIONS = "select decision.id, decision.decision, decision.partner, decision.reason, decision.proposed_by,
            decision.proposed_at, verdict.verdict, verdict.given_by, verdict.given_at
        from recon_decision decision left join recon_verdict verdict on verdict.decision_id = decision.id
        where decision.exception_id = $1 and ($2::uuid is null or decision.id = $2) order by decision.id desc limit $3";

    GIVE_VERDICT = "insert into recon_verdict (decision_id, proposed_by, verdict, given_by, given_at)
        values ($1, $2, $3, $4, $5)";

    DECIDE = "update recon_exception set state = 'decided', closed_at = $2 where id = $1";

    // What a record that has no partner yet changes the reserve by.
    OPEN_AMOUNT = "select line.currency, line.amount from recon_open still join statement_entry line on line.id = still.source_id
            where still.side = 'bank' and $1 = 'bank' and still.source_id = $2 and still.scope = $5
        union all
        select entry.currency, case when debit.kind = 'reserve' and debit.owner = $5 then entry.amount else -entry.amount end
            from recon_open still
                join journal_entry entry on entry.source_id = still.source_id and entry.moment = still.moment
                    and entry.round = still.round
                join ledger_account debit on debit.id = entry.debit_account
            where still.side = 'ledger' and $1 = 'ledger' and still.source_id = $2 and still.moment = $3 and still.round = $4
                and still.scope = $5
                and not exists (select from recon_match_item item where item.side = 'ledger' and item.source_id = entry.source_id
                    and item.moment = entry.moment and item.round = entry.round)";
}

macro_rules! exception_columns {
    () => {
        "id, scope, kind, subject, currency, amount, owner, advice, about, contra, correction, state, assigned_to, since, \
         opened_in, opened_at, seen_in, closed_at"
    };
}
use exception_columns;

/// A difference that a run found.
#[derive(Debug, Clone)]
pub struct Found {
    /// Such as `unposted_bank_fee`.
    pub kind: String,
    /// About what: a record, several, or an account. With scope and kind, what it is known by.
    pub subject: String,
    /// Its currency.
    pub currency: String,
    /// How much is in question, in minor units.
    pub amount: i64,
    /// Whose desk it is for.
    pub owner: String,
    /// What would put it right, in words.
    pub advice: String,
    /// Evidence for people.
    pub about: Value,
    /// The records without a partner that it is about: a decision closes them.
    pub records: Vec<RecordKey>,
    /// The lines that its entry may be, likeliest first, [`SUGGESTIONS_MAX`] at most.
    pub suggestions: Vec<Suggested>,
    /// Where the other leg of the correcting entry goes; none where no entry is proposed.
    pub contra: Option<Contra>,
    /// What an entry would add to the reserve.
    pub correction: i64,
    /// Its records are matched, so only a decision closes it.
    pub is_lasting: bool,
    /// Since when it is so.
    pub since: Timestamp,
}

/// A statement line that an exception's ledger entry may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Suggested {
    /// The line.
    pub line: StatementEntryId,
    /// How likely it is, from 0 to 1, as the model says.
    pub probability: f64,
}

/// The same as people see it: with what the statement says.
#[derive(Debug, Clone)]
pub struct Suggestion {
    /// Which line, and how likely it is.
    pub suggested: Suggested,
    /// The line's currency.
    pub currency: String,
    /// Signed minor units, credits positive.
    pub amount: i64,
    /// The day it was booked, as `2026-11-28`.
    pub booked_on: Option<String>,
    /// End-to-end id or the customer's reference.
    pub reference: String,
    /// The bank's own reference.
    pub bank_reference: String,
    /// The other party.
    pub counterparty: String,
    /// Whatever else the bank writes.
    pub text: String,
}

/// An exception.
#[derive(Debug, Clone)]
pub struct Exception {
    /// Its id.
    pub id: ExceptionId,
    /// A bank's code, or `chain:EUR`.
    pub scope: String,
    /// Such as `unposted_bank_fee`.
    pub kind: String,
    /// About what.
    pub subject: String,
    /// Its currency.
    pub currency: String,
    /// Minor units.
    pub amount: i64,
    /// Whose desk it is for.
    pub owner: String,
    /// What would put it right, in words.
    pub advice: String,
    /// Evidence.
    pub about: Value,
    /// Where the other leg of the correcting entry goes.
    pub contra: Option<Contra>,
    /// What that entry would add to the reserve.
    pub correction: i64,
    /// `open`, `explained` or `decided`.
    pub state: String,
    /// Who works on it.
    pub assigned_to: Option<String>,
    /// Since when it is so.
    pub since: Timestamp,
    /// The run that opened it.
    pub opened_in: ReconciliationId,
    /// When.
    pub opened_at: Timestamp,
    /// The last run that found it.
    pub seen_in: ReconciliationId,
    /// When it was closed.
    pub closed_at: Option<Timestamp>,
}

/// What can be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecisionKind {
    /// Do what is proposed: post the entry, or take the suggested match.
    Accept,
    /// It is none, or nothing is to be done.
    Reject,
    /// It belongs to another record.
    Rematch,
    /// Post it as a loss or gain.
    WriteOff,
}

const DECISIONS_NAMED: [(DecisionKind, &str); 4] = [
    (DecisionKind::Accept, "accept"),
    (DecisionKind::Reject, "reject"),
    (DecisionKind::Rematch, "rematch"),
    (DecisionKind::WriteOff, "write_off"),
];

impl DecisionKind {
    /// The name in tables and on the wire.
    pub fn as_str(self) -> &'static str {
        DECISIONS_NAMED.iter().find(|(known, _)| *known == self).map_or("", |(_, name)| name)
    }

    /// Reads [`DecisionKind::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        DECISIONS_NAMED.iter().find(|(_, name)| *name == text).map(|(kind, _)| *kind)
    }
}

/// What one person has proposed, and what another has said to it.
#[derive(Debug, Clone)]
pub struct Decision {
    /// Its id.
    pub id: DecisionId,
    /// What.
    pub kind: DecisionKind,
    /// The record that it belongs to, for a rematch.
    pub partner: Option<String>,
    /// Why.
    pub reason: String,
    /// The client who proposed it.
    pub proposed_by: String,
    /// When.
    pub proposed_at: Timestamp,
    /// What came of it.
    pub verdict: Option<GivenVerdict>,
}

/// A comment.
#[derive(Debug, Clone)]
pub struct Comment {
    /// Who.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// What.
    pub text: String,
}

/// What two people have decided about an exception: evidence for the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruled {
    /// The exception's kind.
    pub kind: String,
    /// What it is known by.
    pub subject: String,
    /// The records without a partner that it was about.
    pub records: Vec<RecordKey>,
    /// Would accepting it post an entry, because they have no partner?
    pub has_entry: bool,
    /// What was decided.
    pub decision: DecisionKind,
    /// The record that they belong to, for a rematch.
    pub partner: Option<RecordKey>,
    /// Why.
    pub reason: String,
    /// Who proposed it.
    pub by: String,
    /// When it was confirmed.
    pub at: Timestamp,
}

/// Why nothing was proposed or decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecisionRefusal {
    /// There is no such exception or proposal.
    Unknown,
    /// It is closed.
    Closed,
    /// There is a proposal that nobody has answered.
    AlreadyProposed,
    /// It has its verdict.
    Answered,
    /// Who proposes does not confirm.
    SamePerson,
    /// There is no entry that would put it right.
    NothingToPost,
    /// The partner is no record without a partner on the other side of the same bank.
    NoSuchPartner,
    /// The records do not add up to nothing, or are in several currencies: only equal ones belong together.
    AmountsDiffer,
}

/// The kind of exception that is a match for a person to confirm.
pub const TO_CONFIRM: &str = "to_confirm";

/// The kind of exception that is a match taken without a person, for people to look at afterwards.
pub const TO_AUDIT: &str = "to_audit";

/// Opens what a run found, and closes what it no longer found.
pub(crate) async fn record(
    tx: &Tx,
    run: &ClaimedRun,
    findings: &Findings,
    now: Timestamp,
) -> Result<crate::reconciliation::Changed, StoreError> {
    let id = run.id.as_uuid();
    let mut changed = crate::reconciliation::Changed::default();
    let exceptions = folded(&findings.exceptions);
    for found in exceptions.chunks(SLICE) {
        let (kinds, subjects) = columns!(found, |found| found.kind.as_str(), found.subject.as_str());
        let known: i64 = match tx.query(KNOWN, &[&run.scope, &kinds, &subjects]).await?.first() {
            Some(row) => row.try_get("known")?,
            None => 0,
        };
        changed.opened += found.len().saturating_sub(usize::try_from(known).unwrap_or(usize::MAX));
    }
    open(tx, (&run.scope, id), &exceptions, now).await?;
    if findings.is_whole {
        let explained = tx.execute(EXPLAIN, &[&run.scope, &id, &At(now)]).await?;
        changed.explained = usize::try_from(explained).unwrap_or(usize::MAX);
    }
    Ok(changed)
}

/// Each kind and subject once, as one statement writes a row once: what is found of one more than once is in question together.
fn folded(exceptions: &[Found]) -> Cow<'_, [Found]> {
    let mut known = HashSet::with_capacity(exceptions.len());
    if exceptions.iter().all(|found| known.insert((&found.kind, &found.subject))) {
        return Cow::Borrowed(exceptions);
    }
    let mut places: HashMap<(&str, &str), usize> = HashMap::new();
    let mut folded: Vec<Found> = Vec::with_capacity(exceptions.len());
    for found in exceptions {
        let place = *places.entry((&found.kind, &found.subject)).or_insert(folded.len());
        match folded.get_mut(place) {
            Some(known) => {
                known.amount = known.amount.saturating_add(found.amount);
                known.correction = known.correction.saturating_add(found.correction);
                let more = found.records.iter().filter(|record| !known.records.contains(record));
                let more: Vec<RecordKey> = more.cloned().collect();
                known.records.extend(more);
            }
            None => folded.push(found.clone()),
        }
    }
    Cow::Owned(folded)
}

/// Opens exceptions of a run, each kind and subject once; what is open already is told anew.
async fn open(
    tx: &Tx,
    (scope, run): (&str, Uuid),
    exceptions: &[Found],
    now: Timestamp,
) -> Result<(), StoreError> {
    for found in exceptions.chunks(SLICE) {
        let (kinds, subjects) = columns!(found, |found| found.kind.as_str(), found.subject.as_str());
        let (ids, currencies, amounts, owners, advice, about) = columns!(
            found,
            |found| ExceptionId::generate(now, rand::random()).as_uuid(),
            found.currency.as_str(),
            found.amount,
            found.owner.as_str(),
            found.advice.as_str(),
            with_records(found)
        );
        let (contras, corrections, since, lasting, suggestions) = columns!(
            found,
            |found| found.contra.map(Contra::as_str),
            found.correction,
            At(found.since),
            found.is_lasting,
            suggestions_of(found)
        );
        tx.execute(
            FIND,
            &[
                &scope,
                &run,
                &At(now),
                &ids,
                &kinds,
                &subjects,
                &currencies,
                &amounts,
                &owners,
                &advice,
                &about,
                &contras,
                &corrections,
                &since,
                &lasting,
                &suggestions,
            ],
        )
        .await?;
    }
    Ok(())
}

fn with_records(found: &Found) -> Value {
    let mut about = found.about.clone();
    if let Some(object) = about.as_object_mut() {
        object.insert(
            "records".to_owned(),
            json!(found.records.iter().map(RecordKey::text).collect::<Vec<_>>()),
        );
    }
    about
}

fn suggestions_of(found: &Found) -> Value {
    let suggested = found.suggestions.iter().take(SUGGESTIONS_MAX);
    suggested
        .map(|suggested| json!({ "line": suggested.line.as_uuid(), "probability": suggested.probability }))
        .collect()
}

/// Writes into a question what is open when its answer is yes: what the records of the pair differ by.
pub fn leave(question: &mut Value, left: &[Found]) {
    let Some(object) = question.as_object_mut().filter(|_| !left.is_empty()) else { return };
    let left: Vec<Value> = left
        .iter()
        .map(|found| {
            json!({
                "kind": found.kind, "subject": found.subject, "currency": found.currency, "amount": found.amount,
                "owner": found.owner, "advice": found.advice, "about": found.about,
                "contra": found.contra.map(Contra::as_str), "correction": found.correction,
                "since_micros": found.since.as_micros(),
            })
        })
        .collect();
    object.insert("left".to_owned(), Value::from(left));
}

/// Reads [`leave`]; none if one of them is not what it writes.
fn left_by(question: &Value) -> Option<Vec<Found>> {
    let left = question.get("left").and_then(Value::as_array).into_iter().flatten();
    left.map(|found| {
        let text = |name: &str| found.get(name).and_then(Value::as_str).map(str::to_owned);
        let number = |name: &str| found.get(name).and_then(Value::as_i64);
        Some(Found {
            kind: text("kind")?,
            subject: text("subject")?,
            currency: text("currency")?,
            amount: number("amount")?,
            owner: text("owner")?,
            advice: text("advice")?,
            about: found.get("about")?.clone(),
            records: Vec::new(),
            suggestions: Vec::new(),
            contra: text("contra").and_then(|name| Contra::parse(&name)),
            correction: number("correction")?,
            // Its records are matched, so only a decision closes it.
            is_lasting: true,
            since: Timestamp::from_micros(number("since_micros")?),
        })
    })
    .collect()
}

/// What of a kind two people have decided about in a scope.
pub async fn decided(db: &Db, scope: &str, kind: &str) -> Result<BTreeSet<String>, StoreError> {
    let rows = db.query(DECIDED, &[&scope, &kind]).await?;
    rows.iter().map(|row| Ok(row.try_get("subject")?)).collect()
}

/// What of a kind two people have put right in a scope by an entry.
pub async fn booked(db: &Db, scope: &str, kind: &str) -> Result<BTreeSet<String>, StoreError> {
    let rows = db.query(BOOKED, &[&scope, &kind]).await?;
    rows.iter().map(|row| Ok(row.try_get("subject")?)).collect()
}

/// Suggested matches that people have refused: a run does not suggest them again.
pub async fn refused_pairs(db: &Db, scope: &str) -> Result<Vec<String>, StoreError> {
    db.query(REFUSED_PAIRS, &[&scope, &TO_CONFIRM])
        .await?
        .iter()
        .map(|row| Ok(row.try_get("subject")?))
        .collect()
}

/// What two people have decided in a scope, oldest first.
pub(crate) async fn ruled(tx: &Tx, scope: &str) -> Result<Vec<Ruled>, StoreError> {
    let mut ruled = Vec::new();
    for row in tx.query(RULED, &[&scope]).await? {
        let decision: &str = row.try_get("decision")?;
        let partner: Option<&str> = row.try_get("partner")?;
        ruled.push(Ruled {
            kind: row.try_get("kind")?,
            subject: row.try_get("subject")?,
            records: records_in(&row.try_get("about")?),
            has_entry: row.try_get("has_entry")?,
            decision: DecisionKind::parse(decision)
                .ok_or_else(|| StoreError::Corrupt(format!("decision {decision} in scope {scope}")))?,
            partner: partner.and_then(RecordKey::parse),
            reason: row.try_get("reason")?,
            by: row.try_get("proposed_by")?,
            at: row.try_get::<_, At>("given_at")?.0,
        });
    }
    Ok(ruled)
}

/// What matches leave over and no entry has put right yet, per currency.
pub(crate) async fn left_over(tx: &Tx, scope: &str) -> Result<Vec<(String, i64)>, StoreError> {
    let rows = tx.query(LEFT_OVER, &[&scope]).await?;
    rows.iter().map(|row| Ok((row.try_get("currency")?, row.try_get("amount")?))).collect()
}

/// What the open exceptions of a scope are about, the oldest first, and `max` of them at most.
pub async fn open_subjects(db: &Db, scope: &str, max: usize) -> Result<Vec<String>, StoreError> {
    let max = i64::try_from(max).unwrap_or(i64::MAX);
    db.query(OPEN_SUBJECTS, &[&scope, &max]).await?.iter().map(|row| Ok(row.try_get("subject")?)).collect()
}

/// Which exceptions.
#[derive(Debug, Clone, Default)]
pub struct ExceptionFilter {
    /// Only of this scope.
    pub scope: Option<String>,
    /// Only in this state.
    pub state: Option<String>,
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only those before this one.
    pub before: Option<Uuid>,
}

/// Exceptions, newest first.
pub async fn list(db: &Db, filter: &ExceptionFilter, limit: i64) -> Result<Vec<Exception>, StoreError> {
    let none = None::<Uuid>;
    db.query(LIST, &[&filter.scope, &filter.state, &filter.kind, &filter.before, &none, &limit])
        .await?
        .iter()
        .map(read)
        .collect()
}

/// An exception with its comments and decisions.
pub async fn get(
    db: &Db,
    id: ExceptionId,
) -> Result<Option<(Exception, Vec<Comment>, Vec<Decision>)>, StoreError> {
    let none = None::<String>;
    let rows = db.query(LIST, &[&none, &none, &none, &None::<Uuid>, &Some(id.as_uuid()), &1_i64]).await?;
    let Some(exception) = rows.first().map(read).transpose()? else { return Ok(None) };
    let comments = db
        .query(COMMENTS, &[&id.as_uuid(), &SHOWN_MAX])
        .await?
        .iter()
        .map(|row| {
            Ok(Comment {
                by: row.try_get("written_by")?,
                at: row.try_get::<_, At>("written_at")?.0,
                text: row.try_get("text")?,
            })
        })
        .collect::<Result<_, StoreError>>()?;
    let decisions = db.query(DECISIONS, &[&id.as_uuid(), &None::<Uuid>, &SHOWN_MAX]).await?;
    let decisions = decisions.iter().map(read_decision).collect::<Result<_, _>>()?;
    Ok(Some((exception, comments, decisions)))
}

/// The lines that an open exception's ledger entry may be by the last run that found it, likeliest first; those that have a match by
/// now are left out.
pub async fn suggestions(db: &Db, id: ExceptionId) -> Result<Vec<Suggestion>, StoreError> {
    let rows = db.query(SUGGESTED, &[&id.as_uuid()]).await?;
    rows.iter()
        .map(|row| {
            Ok(Suggestion {
                suggested: Suggested {
                    line: StatementEntryId::from_uuid(row.try_get("id")?),
                    probability: row.try_get("probability")?,
                },
                currency: row.try_get("currency")?,
                amount: row.try_get("amount")?,
                booked_on: row.try_get("booked_on")?,
                reference: row.try_get("reference")?,
                bank_reference: row.try_get("bank_reference")?,
                counterparty: row.try_get("counterparty")?,
                text: row.try_get("text")?,
            })
        })
        .collect()
}

/// Writes into the log what people did with an exception.
async fn tell(
    tx: &Tx,
    id: ExceptionId,
    (kind, data): (&str, Value),
    now: Timestamp,
) -> Result<(), StoreError> {
    let event = NewEvent {
        topic: topic::RECONCILIATION,
        key: PaymentId::from_uuid(id.as_uuid()),
        kind: format!("exception.{kind}"),
        participants: None,
        traceparent: String::new(),
        data: EventData::of(&data),
    };
    event_log::append(tx, &[event], now).await
}

/// Says who works on it; nobody, if `to` is none. False if there is no such open one.
pub async fn assign(
    tx: &Tx,
    id: ExceptionId,
    to: Option<&str>,
    by: &str,
    now: Timestamp,
) -> Result<bool, StoreError> {
    if tx.query(ASSIGN, &[&id.as_uuid(), &to]).await?.is_empty() {
        return Ok(false);
    }
    tell(tx, id, ("assigned", json!({ "exception": id.to_string(), "to": to, "by": by })), now).await?;
    Ok(true)
}

/// Adds a comment. False if there is no such exception.
pub async fn comment(
    tx: &Tx,
    id: ExceptionId,
    by: &str,
    text: &str,
    now: Timestamp,
) -> Result<bool, StoreError> {
    if tx.query(LOCK, &[&id.as_uuid()]).await?.is_empty() {
        return Ok(false);
    }
    let comment = DecisionId::generate(now, rand::random()).as_uuid();
    tx.execute(COMMENT, &[&comment, &id.as_uuid(), &by, &At(now), &text]).await?;
    // What it says is for those who may read it there.
    tell(
        tx,
        id,
        ("commented", json!({ "exception": id.to_string(), "by": by, "text_sha256": sha256_of(text) })),
        now,
    )
    .await?;
    Ok(true)
}

/// Proposes a decision.
pub async fn propose(
    tx: &Tx,
    id: ExceptionId,
    decision: &Decision,
) -> Result<Result<(), DecisionRefusal>, StoreError> {
    let rows = tx.query(LOCK, &[&id.as_uuid()]).await?;
    let Some(exception) = rows.first().map(read).transpose()? else {
        return Ok(Err(DecisionRefusal::Unknown));
    };
    if exception.state != "open" {
        return Ok(Err(DecisionRefusal::Closed));
    }
    let before = tx.query(DECISIONS, &[&id.as_uuid(), &None::<Uuid>, &1_i64]).await?;
    if let Some(last) = before.first().map(read_decision).transpose()?
        && last.verdict.is_none()
    {
        return Ok(Err(DecisionRefusal::AlreadyProposed));
    }
    if let Err(refusal) = what_follows(tx, &exception, decision).await? {
        return Ok(Err(refusal));
    }
    tx.execute(
        PROPOSE,
        &[
            &decision.id.as_uuid(),
            &id.as_uuid(),
            &decision.kind.as_str(),
            &decision.partner,
            &decision.reason,
            &decision.proposed_by,
            &At(decision.proposed_at),
        ],
    )
    .await?;
    let said = json!({
        "exception": id.to_string(), "scope": exception.scope, "kind": exception.kind, "subject": exception.subject,
        "decision": decision.kind.as_str(), "by": decision.proposed_by, "partner": decision.partner,
        "reason_sha256": sha256_of(&decision.reason),
    });
    tell(tx, id, ("proposed", said), decision.proposed_at).await?;
    Ok(Ok(()))
}

/// Answers a proposal. Confirmed by a second person, it is carried out in the same transaction.
pub async fn answer(
    tx: &Tx,
    (id, decision): (ExceptionId, DecisionId),
    verdict: Verdict,
    by: &str,
    now: Timestamp,
) -> Result<Result<Decision, DecisionRefusal>, StoreError> {
    let rows = tx.query(LOCK, &[&id.as_uuid()]).await?;
    let Some(exception) = rows.first().map(read).transpose()? else {
        return Ok(Err(DecisionRefusal::Unknown));
    };
    let rows = tx.query(DECISIONS, &[&id.as_uuid(), &Some(decision.as_uuid()), &1_i64]).await?;
    let Some(mut decision) = rows.first().map(read_decision).transpose()? else {
        return Ok(Err(DecisionRefusal::Unknown));
    };
    if decision.verdict.is_some() {
        return Ok(Err(DecisionRefusal::Answered));
    }
    if verdict == Verdict::Confirmed {
        if decision.proposed_by == by {
            return Ok(Err(DecisionRefusal::SamePerson));
        }
        if exception.state != "open" {
            return Ok(Err(DecisionRefusal::Closed));
        }
        match what_follows(tx, &exception, &decision).await? {
            Ok(follows) => carry_out(tx, &exception, &decision, follows, now).await?,
            Err(refusal) => return Ok(Err(refusal)),
        }
    }
    tx.execute(
        GIVE_VERDICT,
        &[&decision.id.as_uuid(), &decision.proposed_by, &verdict.as_str(), &by, &At(now)],
    )
    .await?;
    let said = json!({
        "exception": id.to_string(), "scope": exception.scope, "kind": exception.kind, "subject": exception.subject,
        "decision": decision.kind.as_str(), "verdict": verdict.as_str(), "proposed_by": decision.proposed_by, "by": by,
    });
    tell(tx, id, ("answered", said), now).await?;
    decision.verdict = Some(GivenVerdict { verdict, by: by.to_owned(), at: now });
    Ok(Ok(decision))
}

/// What a decision brings about, once it is confirmed.
enum Follows {
    /// Nothing but that it is closed.
    Nothing,
    /// An entry that adds so much to the reserve.
    Entry(Contra, i64),
    /// These records belong together.
    Match(Vec<RecordKey>),
}

async fn what_follows(
    tx: &Tx,
    exception: &Exception,
    decision: &Decision,
) -> Result<Result<Follows, DecisionRefusal>, StoreError> {
    let records = records_of(exception);
    Ok(match decision.kind {
        DecisionKind::Reject => Ok(Follows::Nothing),
        DecisionKind::Accept if exception.kind == TO_CONFIRM => Ok(Follows::Match(records)),
        DecisionKind::Accept => Ok(match exception.contra {
            Some(contra) if exception.correction != 0 => Follows::Entry(contra, exception.correction),
            Some(_) | None => Follows::Nothing,
        }),
        DecisionKind::WriteOff if exception.correction == 0 || BankCode::parse(&exception.scope).is_err() => {
            Err(DecisionRefusal::NothingToPost)
        }
        DecisionKind::WriteOff => Ok(Follows::Entry(Contra::Charges, exception.correction)),
        DecisionKind::Rematch => rematch(tx, exception, records, decision.partner.as_deref()).await?,
    })
}

/// The records of the exception and its partner, if they are worth the same on both sides.
async fn rematch(
    tx: &Tx,
    exception: &Exception,
    mut records: Vec<RecordKey>,
    partner: Option<&str>,
) -> Result<Result<Follows, DecisionRefusal>, StoreError> {
    let Some(partner) = partner.and_then(RecordKey::parse) else {
        return Ok(Err(DecisionRefusal::NoSuchPartner));
    };
    if records.is_empty() || records.contains(&partner) {
        return Ok(Err(DecisionRefusal::NoSuchPartner));
    }
    records.push(partner);
    let mut sum = 0_i64;
    let mut currencies = BTreeSet::new();
    for record in &records {
        let rows = tx
            .query(
                OPEN_AMOUNT,
                &[&record.side, &record.source, &record.moment, &record.round, &exception.scope],
            )
            .await?;
        let Some(row) = rows.first() else { return Ok(Err(DecisionRefusal::NoSuchPartner)) };
        let amount: i64 = row.try_get("amount")?;
        sum = sum.saturating_add(if record.side == "bank" { amount } else { -amount });
        currencies.insert(row.try_get::<_, String>("currency")?);
    }
    let are_equal = sum == 0 && currencies.len() == 1;
    Ok(if are_equal { Ok(Follows::Match(records)) } else { Err(DecisionRefusal::AmountsDiffer) })
}

async fn carry_out(
    tx: &Tx,
    exception: &Exception,
    decision: &Decision,
    follows: Follows,
    now: Timestamp,
) -> Result<(), StoreError> {
    let source = exception.id.as_uuid();
    let records = match follows {
        Follows::Nothing => Vec::new(),
        Follows::Match(records) => records,
        Follows::Entry(contra, change) => {
            let corrupt = |what: &str| StoreError::Corrupt(format!("{what} of exception {}", exception.id));
            let bank = BankCode::parse(&exception.scope).map_err(|_| corrupt("scope"))?;
            let currency = Currency::parse(&exception.currency).map_err(|_| corrupt("currency"))?;
            let entry = contra
                .entry(&bank, Money::new(change.into(), currency))
                .ok_or_else(|| corrupt("correction"))?;
            ledger::post(tx, &[(source, entry)], &[], now).await?;
            let mut records = records_of(exception);
            records.push(RecordKey::entry(source, Moment::Correction.as_str().to_owned(), 0));
            records
        }
    };
    let left = match decision.kind {
        DecisionKind::Accept if exception.kind == TO_CONFIRM => left_by(&exception.about)
            .ok_or_else(|| StoreError::Corrupt(format!("what exception {} leaves", exception.id)))?,
        DecisionKind::Accept | DecisionKind::Reject | DecisionKind::Rematch | DecisionKind::WriteOff => {
            Vec::new()
        }
    };
    if !records.is_empty() {
        let found = NewMatch {
            how: "person".to_owned(),
            difference: left.iter().fold(0_i64, |sum, left| sum.saturating_add(left.correction)),
            explanation: format!("{}: {}", decision.kind.as_str(), decision.reason),
            records,
        };
        save_matches(tx, (None, &exception.scope), &[found], now).await?;
    }
    open(tx, (&exception.scope, exception.seen_in.as_uuid()), &folded(&left), now).await?;
    tx.execute(DECIDE, &[&source, &At(now)]).await?;
    Ok(())
}

fn records_of(exception: &Exception) -> Vec<RecordKey> {
    records_in(&exception.about)
}

fn records_in(about: &Value) -> Vec<RecordKey> {
    let records = about.get("records").and_then(Value::as_array).into_iter().flatten();
    records.filter_map(Value::as_str).filter_map(RecordKey::parse).collect()
}

fn read(row: &Row) -> Result<Exception, StoreError> {
    let contra: Option<&str> = row.try_get("contra")?;
    Ok(Exception {
        id: ExceptionId::from_uuid(row.try_get("id")?),
        scope: row.try_get("scope")?,
        kind: row.try_get("kind")?,
        subject: row.try_get("subject")?,
        currency: row.try_get("currency")?,
        amount: row.try_get("amount")?,
        owner: row.try_get("owner")?,
        advice: row.try_get("advice")?,
        about: row.try_get("about")?,
        contra: contra.and_then(Contra::parse),
        correction: row.try_get("correction")?,
        state: row.try_get("state")?,
        assigned_to: row.try_get("assigned_to")?,
        since: row.try_get::<_, At>("since")?.0,
        opened_in: ReconciliationId::from_uuid(row.try_get("opened_in")?),
        opened_at: row.try_get::<_, At>("opened_at")?.0,
        seen_in: ReconciliationId::from_uuid(row.try_get("seen_in")?),
        closed_at: row.try_get::<_, Option<At>>("closed_at")?.map(|at| at.0),
    })
}

fn read_decision(row: &Row) -> Result<Decision, StoreError> {
    let id = DecisionId::from_uuid(row.try_get("id")?);
    let corrupt = |what: &str| StoreError::Corrupt(format!("{what} of decision {id}"));
    Ok(Decision {
        id,
        kind: DecisionKind::parse(row.try_get("decision")?).ok_or_else(|| corrupt("kind"))?,
        partner: row.try_get("partner")?,
        reason: row.try_get("reason")?,
        proposed_by: row.try_get("proposed_by")?,
        proposed_at: row.try_get::<_, At>("proposed_at")?.0,
        verdict: GivenVerdict::read(row)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_twice_of_one_subject_is_one_exception_of_both_amounts() {
        let found = |subject: &str, amount: i64, record: u128| Found {
            kind: "statement_gap".to_owned(),
            subject: subject.to_owned(),
            currency: "EUR".to_owned(),
            amount,
            owner: String::new(),
            advice: String::new(),
            about: json!({}),
            records: vec![RecordKey::line(Uuid::from_u128(record))],
            suggestions: Vec::new(),
            contra: None,
            correction: -amount,
            is_lasting: false,
            since: Timestamp::EPOCH,
        };
        let once = [found("a", 1, 1), found("b", 2, 2)];
        assert!(matches!(folded(&once), Cow::Borrowed(_)));
        let twice = [found("a", 1, 1), found("b", 2, 2), found("a", 4, 3), found("a", 8, 1)];
        let both = folded(&twice);
        let told: Vec<_> = both
            .iter()
            .map(|found| (found.subject.as_str(), found.amount, found.correction, found.records.len()))
            .collect();
        assert_eq!(told, [("a", 13, -13, 2), ("b", 2, -2, 1)]);
    }
}
