//! Carrying out decisions: the dull part around [`flowbridge_domain::payment::step`].
//!
//! A slice of occurrences is decided on payments that are locked together in the order of their ids, and all that follows
//! (progress, journal entries, holds, events, effects) is written by a constant number of statements in the caller's
//! transaction. Whether the occurrences came from the log, a timer or a client makes no difference here.

use crate::db::{Db, StoreError, Tx};
use crate::effect::NewEffect;
use crate::event_data::EventData;
use crate::event_log::{NewEvent, topic};
use crate::payment::StoredPayment;
use crate::sql::{At, Statement, statements};
use crate::{effect, event_log, ledger, payment};
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::money::Money;
use flowbridge_domain::payment::{
    Event, Initiation, Kind, Party, Payment, Progress, Rejected, State, Step, Terms, step,
};
use flowbridge_domain::time::Timestamp;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

statements! {
    // Before its refunds are counted, so that no other transaction adds one or ends one meanwhile.
    LOCK_REFUNDED = "select from payment where id = any($1) order by id for no key update";

    // Counted anew instead of added and taken away: a refund may fail, turn out paid after all, and be closed as failed. Where another
    // was accepted in between, together they are more than there is, and nothing is left.
    COUNT_REFUNDS = "update payment set refunded = least(payment.amount, (
            select coalesce(sum(refund.amount), 0)::bigint from payment refund
                where refund.refund_of = payment.id and refund.state <> 'failed'))
        where payment.id = any($1)";

    SUSPEND = "update participant set status = 'suspended', status_reason = $2 where id = any($1) and status = 'active'";

    // A page of what is open past a deadline, in the order of the deadlines, and which of it there is something to do about. Whatever
    // lies unread: this only asks the chain, which decides.
    SETTLE_DUE = "select id, settle_before as deadline,
            state in ('accepted', 'initiated', 'held') or (state = 'under_review' and reason = 'creditor_blocked') as is_due
        from payment
        where is_open and (settle_before, id) > ($1, $2) and settle_before <= $3
        order by settle_before, id limit $4";

    FINALIZED_TIME = "select finalized_time from chain_head";

    INITIATE_DUE = concat!("select id, initiate_before as deadline,
            chain_leg = 'unused' and state in ('accepted', 'cancelling') and hold_leg not in ('release_asked', 'return_asked')
                and ", all_is_read!(), " as is_due
        from payment
        where is_open and (initiate_before, id) > ($1, $2) and initiate_before <= $3
        order by initiate_before, id limit $4");

    // Completed in time, its settlement taken back by a reorganisation, and the chain has closed the window in which it could come
    // again. What is completed only since then is so because people have dealt with it.
    TAKEN_BACK_DUE = concat!("select id, chain_leg from (
            select id, chain_leg, state_since, currency, accepted_at, expires_at, case chain_leg when 'unused' then initiate_before else expires_at end as deadline
                from payment where is_taken_back) payment
        where state_since < deadline and deadline <= (select finalized_time from chain_head) and ", all_is_read!(), "
        order by id limit $1");
}

/// The orchestrator has read all that the chain had said by the time of its finalized block, and none of it waits for a person: what
/// the payment has missed may lie there. The watcher writes head and log in one transaction, so whoever sees the head sees the log;
/// but for what a node has left out, which is waited for until the payment's expiry.
macro_rules! all_is_read {
    () => {
        "not exists (
                select from event
                    join consumer_offset o on o.consumer_group = 'orchestrator' and o.topic = 'chain'
                        and o.partition = event.partition
                    where event.key = payment.id and event.topic = 'chain' and (event.xid, event.seq) > (o.xid, o.seq)
                        and (event.xid, event.seq) > (o.seen_xid, o.seen_seq)
                    offset 0)
            and not exists (
                select from dead_letter
                    where dead_letter.consumer_group = 'orchestrator' and dead_letter.key = payment.id
                        and dead_letter.resolved_at is null
                    offset 0)
            and not exists (
                select from chain_hole
                    where chain_hole.currency = payment.currency and chain_hole.found_at > payment.accepted_at
                        and payment.expires_at > (select finalized_time from chain_head)
                    offset 0)"
    };
}
use all_is_read;

/// One thing that happened to one payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occurrence {
    /// To which payment.
    pub payment_id: PaymentId,
    /// What.
    pub event: Event,
}

/// What came of an occurrence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It changed the payment; these states were entered.
    Applied {
        /// In order; empty when only a leg moved.
        entered: Vec<State>,
    },
    /// It changes nothing, and that is in order.
    Rejected(Rejected),
    /// There is no such payment: for the dead letters.
    UnknownPayment,
}

/// Decides a slice in order and writes all that follows. One outcome per occurrence, in the same order.
pub async fn apply(tx: &Tx, occurrences: &[Occurrence], now: Timestamp) -> Result<Vec<Outcome>, StoreError> {
    let ids: BTreeSet<PaymentId> = occurrences.iter().map(|occurrence| occurrence.payment_id).collect();
    let locked = payment::lock(tx, &Vec::from_iter(ids)).await?;
    let mut payments: BTreeMap<PaymentId, StoredPayment> =
        locked.into_iter().map(|stored| (stored.payment.terms.id, stored)).collect();

    let mut slice = Slice::default();
    let outcomes = occurrences
        .iter()
        .map(|occurrence| match payments.get_mut(&occurrence.payment_id) {
            None => Outcome::UnknownPayment,
            Some(stored) => match step(&stored.payment, occurrence.event, now) {
                Err(rejected) => Outcome::Rejected(rejected),
                Ok(step) => {
                    let before = std::mem::replace(&mut stored.payment.progress, step.next);
                    let entered = step.entered.clone();
                    slice.recount_refunds(stored, before.state);
                    slice.add(stored, step, now);
                    Outcome::Applied { entered }
                }
            },
        })
        .collect();
    slice.write(tx, now).await?;
    Ok(outcomes)
}

/// Locks payments before anything else is written, so that a transaction that goes on to move them is a later one than whoever
/// moved them before.
pub async fn hold_still(tx: &Tx, ids: &[PaymentId]) -> Result<(), StoreError> {
    payment::lock(tx, ids).await.map(drop)
}

/// Asks for payments to be undone, on behalf of their clients. What no worker has begun to initiate is taken back for good
/// in the same transaction; the rest is for the chain to decide.
pub async fn cancel(tx: &Tx, ids: &[PaymentId], now: Timestamp) -> Result<Vec<Outcome>, StoreError> {
    // Payments before effects, as everywhere, so that no two transactions wait for each other.
    payment::lock(tx, ids).await?;
    let never_signed = effect::revoke_initiation(tx, ids, now).await?;
    let occurrences: Vec<Occurrence> = ids
        .iter()
        .map(|id| {
            let initiation =
                if never_signed.contains(id) { Initiation::NeverSigned } else { Initiation::MaybeSigned };
            Occurrence { payment_id: *id, event: Event::CancelRequested { initiation } }
        })
        .collect();
    apply(tx, &occurrences, now).await
}

/// How far it was looked for what time has overtaken. A payment may stay open for days after its deadlines, while its bank is down;
/// of all these a look reads a page.
#[derive(Debug, Clone, Copy, Default)]
pub struct Looked {
    settle: Walk,
    initiate: Walk,
}

/// Finds what time has overtaken: payments too near their expiry to be settled, and those that the chain has closed a window to
/// for good, by the time of its newest finalized block: they were not initiated in it, or not settled again. Whose deadline has
/// passed since the last look is found at once; who came to be due long after it (by a reorganisation, or a person), once it is
/// reached on the way through all that is open.
pub async fn due(
    db: &Db,
    looked: &mut Looked,
    now: Timestamp,
    limit: i64,
) -> Result<Vec<Occurrence>, StoreError> {
    let mut due = Vec::new();
    for payment_id in looked.settle.go_on(db, SETTLE_DUE, now, limit).await? {
        due.push(Occurrence { payment_id, event: Event::SettleWindowClosing });
    }
    if let Some(row) = db.query(FINALIZED_TIME, &[]).await?.first() {
        let At(finalized) = row.try_get("finalized_time")?;
        for payment_id in looked.initiate.go_on(db, INITIATE_DUE, finalized, limit).await? {
            due.push(Occurrence { payment_id, event: Event::InitiateWindowClosed });
        }
    }
    for row in db.query(TAKEN_BACK_DUE, &[&limit]).await? {
        let event = match row.try_get::<_, &str>("chain_leg")? {
            "unused" => Event::InitiateWindowClosed,
            _ => Event::SettleWindowClosing,
        };
        due.push(Occurrence { payment_id: PaymentId::from_uuid(row.try_get("id")?), event });
    }
    Ok(due)
}

/// Pages that a look reads at most of what has passed its deadline since the last.
const PAGES_MAX: usize = 100;

/// A place in the order of deadlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place(Timestamp, Uuid);

impl Default for Place {
    fn default() -> Self {
        Self(Timestamp::EPOCH, Uuid::nil())
    }
}

/// Two ways through what is open past a deadline: one keeps up with the time, the other goes round and round.
#[derive(Debug, Clone, Copy, Default)]
struct Walk {
    newest: Place,
    round: Place,
}

impl Walk {
    async fn go_on(
        &mut self,
        db: &Db,
        page: Statement,
        until: Timestamp,
        limit: i64,
    ) -> Result<BTreeSet<PaymentId>, StoreError> {
        let enough = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut due = BTreeSet::new();
        let begins = self.round == Place::default();
        if begins {
            self.round = look(db, page, self.round, until, limit, &mut due).await?.unwrap_or_default();
            // A round that ends on the page on which it begins has met the newest as well.
            if self.round == Place::default() {
                self.newest = Place(until, Uuid::max());
                return Ok(due);
            }
        }
        for _ in 0..PAGES_MAX {
            let reached = look(db, page, self.newest, until, limit, &mut due).await?;
            self.newest = reached.unwrap_or(Place(until, Uuid::max()));
            if reached.is_none() || due.len() >= enough {
                break;
            }
        }
        // Who has enough to do goes round another time.
        if !begins && due.len() < enough {
            self.round = look(db, page, self.round, until, limit, &mut due).await?.unwrap_or_default();
        }
        Ok(due)
    }
}

/// Reads a page from a place on. Returns where it ends; none where there is no more.
async fn look(
    db: &Db,
    page: Statement,
    from: Place,
    until: Timestamp,
    limit: i64,
    due: &mut BTreeSet<PaymentId>,
) -> Result<Option<Place>, StoreError> {
    let rows = db.query(page, &[&At(from.0), &from.1, &At(until), &limit]).await?;
    for row in &rows {
        if row.try_get("is_due")? {
            due.insert(PaymentId::from_uuid(row.try_get("id")?));
        }
    }
    match rows.last() {
        Some(last) if i64::try_from(rows.len()).unwrap_or(i64::MAX) >= limit => {
            Ok(Some(Place(last.try_get::<_, At>("deadline")?.0, last.try_get("id")?)))
        }
        Some(_) | None => Ok(None),
    }
}

/// All that a slice of steps asks to be written.
#[derive(Debug, Default)]
pub(crate) struct Slice {
    progress: BTreeMap<PaymentId, Progress>,
    entries: Vec<(Uuid, flowbridge_domain::ledger::JournalEntry)>,
    holds: Vec<(Uuid, flowbridge_domain::ledger::LedgerHold)>,
    events: Vec<NewEvent>,
    effects: Vec<NewEffect>,
    refunded: BTreeSet<Uuid>,
    suspended: BTreeSet<Uuid>,
}

impl Slice {
    /// Adds one step of one payment, which already stands where the step led.
    pub(crate) fn add(&mut self, stored: &StoredPayment, step: Step, now: Timestamp) {
        let Payment { terms, .. } = &stored.payment;
        let id = terms.id.as_uuid();
        self.progress.insert(terms.id, step.next);
        self.entries.extend(step.entries.into_iter().map(|entry| (id, entry)));
        self.holds.extend(step.hold.map(|hold| (id, hold)));
        self.effects.extend(
            step.effects.into_iter().map(|effect| NewEffect::of(terms, effect, &stored.traceparent, now)),
        );
        for state in step.entered {
            self.events.push(NewEvent {
                topic: topic::PAYMENTS,
                key: terms.id,
                kind: format!("payment.{}", state.as_str()),
                participants: Some((terms.debtor.participant, terms.creditor.participant)),
                traceparent: stored.traceparent.clone(),
                data: event_data(stored, state),
            });
        }
        if step.suspends_debtor {
            self.suspended.insert(terms.debtor.participant.as_uuid());
        }
    }

    /// A refund that fails takes nothing of its payment any more, until it turns out not to have failed.
    fn recount_refunds(&mut self, stored: &StoredPayment, before: State) {
        let has_failed = |state: State| matches!(state, State::Failed(_));
        if let Kind::Refund { of } = stored.payment.terms.kind
            && has_failed(before) != has_failed(stored.payment.progress.state)
        {
            self.refunded.insert(of.as_uuid());
        }
    }

    /// Adds a payment whose row is new and already says where it stands.
    pub(crate) fn add_new(&mut self, stored: &StoredPayment, step: Step, now: Timestamp) {
        self.add(stored, step, now);
        self.progress.remove(&stored.payment.terms.id);
    }

    /// Writes everything; the ledger last, because all slices meet at the accounts of banks and institutions, and whoever has
    /// those locked should have nothing left to do but commit.
    pub(crate) async fn write(self, tx: &Tx, now: Timestamp) -> Result<(), StoreError> {
        payment::save_progress(tx, &Vec::from_iter(self.progress), now).await?;
        effect::insert(tx, &self.effects, now).await?;
        event_log::append(tx, &self.events, now).await?;
        if !self.refunded.is_empty() {
            let ids = Vec::from_iter(self.refunded);
            tx.query(LOCK_REFUNDED, &[&ids]).await?;
            tx.execute(COUNT_REFUNDS, &[&ids]).await?;
        }
        if !self.suspended.is_empty() {
            let ids = Vec::from_iter(self.suspended);
            tx.execute(SUSPEND, &[&ids, &"its bank declined to capture what was settled"]).await?;
        }
        ledger::post(tx, &self.entries, &self.holds, now).await
    }
}

/// What partners are told with each state: the payment as it is at that moment.
fn event_data(stored: &StoredPayment, state: State) -> EventData {
    let Terms { id, number, kind, funding, payout, amount, fee, debtor, creditor, .. } =
        &stored.payment.terms;
    let refund_of = match kind {
        Kind::Refund { of } => Some(of.to_string()),
        Kind::Transfer | Kind::Issuance | Kind::Redemption => None,
    };
    EventData::of(&PaymentData {
        id: id.to_string(),
        number: number.0,
        kind: kind.as_str(),
        state: state.as_str(),
        reason: state.reason(),
        instructed_amount: MoneyData::of(amount),
        fee: MoneyData::of(fee),
        debtor: PartyData::of(debtor),
        creditor: PartyData::of(creditor),
        end_to_end_id: stored.end_to_end_id.as_deref(),
        uetr: stored.uetr.to_string(),
        funding: funding.as_str(),
        payout: payout.as_str(),
        refund_of,
    })
}

#[derive(Serialize)]
struct PaymentData<'a> {
    id: String,
    number: u64,
    kind: &'static str,
    state: &'static str,
    reason: Option<String>,
    instructed_amount: MoneyData,
    fee: MoneyData,
    debtor: PartyData,
    creditor: PartyData,
    end_to_end_id: Option<&'a str>,
    uetr: String,
    funding: &'static str,
    payout: &'static str,
    refund_of: Option<String>,
}

#[derive(Serialize)]
struct MoneyData {
    amount: i64,
    currency: String,
}

impl MoneyData {
    fn of(money: &Money) -> Self {
        Self {
            amount: i64::try_from(money.minor_units()).unwrap_or(i64::MAX),
            currency: money.currency().code().to_owned(),
        }
    }
}

#[derive(Serialize)]
struct PartyData {
    account_id: String,
    participant_id: String,
}

impl PartyData {
    fn of(party: &Party) -> Self {
        Self { account_id: party.account.to_string(), participant_id: party.participant.to_string() }
    }
}
