//! Effects: rows that say what to ask the outside for. Claimed in slices under a lease, acted on, recorded.
//!
//! A claim carries a fence: a worker that lost its lease finds its fence outdated and records nothing. An effect is inserted
//! with the step that asks for it, under payment and kind, so that it exists once however often it is asked for.

use crate::db::{Db, StoreError, Tx};
use crate::sql::{At, columns, statements};
use flowbridge_domain::bank::BankStep;
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::money::{Currency, Money};
use flowbridge_domain::party::Iban;
use flowbridge_domain::payment::{Effect, Terms};
use flowbridge_domain::time::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_postgres::Row;
use uuid::Uuid;

statements! {
    // What was set aside or refused may be asked for again (a wallet is no longer frozen), and what was left to people, of which the
    // bank is asked first what became of it; the rest is asked for once.
    // What is asked for a later day waits from that day on.
    INSERT = "insert into effect (payment_id, kind, lane, bank_code, next_attempt_at, state_since, traceparent)
        select new.payment_id, new.kind, new.lane, new.bank_code, new.next_attempt_at,
                greatest($7::timestamptz, new.next_attempt_at), new.traceparent
            from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[])
                as new (payment_id, kind, lane, bank_code, next_attempt_at, traceparent)
        on conflict (payment_id, kind) do update
            set state = case effect.state when 'escalated' then 'unknown' else 'ready' end, attempts = 0,
                next_attempt_at = excluded.next_attempt_at, fence = effect.fence + 1, outcome = null,
                state_since = excluded.state_since
            where effect.state in ('refused', 'escalated')";

    // Takes back what no worker has begun; says which it was in time for.
    REVOKE = "update effect set state = 'revoked', state_since = $3
        where payment_id = any($1) and kind = $2 and state = 'ready' and attempts = 0
        returning payment_id";

    // Who claimed it to send it, and never recorded an answer, may have sent it as long as the lease lasted; who claimed it to ask sent
    // nothing.
    CLAIM_BANK = "update effect set state = 'claimed', attempts = effect.attempts + 1, fence = effect.fence + 1,
            lease_owner = $3, lease_until = $5,
            sent_at = case when due.state = 'ready' then $4
                when due.state = 'claimed' and effect.sent_at = effect.state_since then effect.lease_until else effect.sent_at end,
            state_since = case when effect.state = 'claimed' then effect.state_since else $4 end
        from (
            select payment_id, kind, state, attempts from effect
                where is_waiting and lane = 'bank' and bank_code = $1 and next_attempt_at <= $4
                    and (state in ('ready', 'unknown') or state = 'claimed' and lease_until <= $4)
                order by next_attempt_at limit $2
                for update skip locked
        ) due
        where effect.payment_id = due.payment_id and effect.kind = due.kind
        returning effect.payment_id, effect.kind, effect.attempts, effect.fence, effect.sent_at, effect.traceparent,
            due.state as state_before";

    // What a bank has to know of a payment. Joined by key, one look-up for the whole slice.
    BANK_DETAILS = "select payment.id, payment.currency, payment.amount, payment.fee, payment.hold_until, payment.end_to_end_id,
            payment.remittance_information, debtor.iban as debtor_iban, creditor.iban as creditor_iban
        from payment
            join account debtor on debtor.id = payment.debtor_account
            join account creditor on creditor.id = payment.creditor_account
        where payment.id = any($1)";

    BANKS_WITH_WORK = "select code from bank where exists (
            select from effect where is_waiting and lane = 'bank' and bank_code = bank.code and next_attempt_at <= $1
                and (state in ('ready', 'unknown') or state = 'claimed' and lease_until <= $1))";

    // A row whose fence has moved on is somebody else's: it is left alone, and the caller is told by its absence.
    FINISH = "update effect set state = new.state, reference = coalesce(new.reference, effect.reference),
            outcome = new.outcome, booked_at = new.booked_at, sent_at = coalesce(new.sent_by, effect.sent_at),
            next_attempt_at = case new.state when 'escalated' then 'infinity'
                else coalesce(new.next_attempt_at, effect.next_attempt_at) end,
            lease_owner = null, lease_until = null, state_since = $8
        from unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], $9::timestamptz[], $10::timestamptz[])
            as new (payment_id, kind, fence, state, reference, outcome, next_attempt_at, booked_at, sent_by)
        where effect.payment_id = new.payment_id and effect.kind = new.kind and effect.fence = new.fence
            and effect.state = 'claimed'
        returning effect.payment_id, effect.kind";
}

/// An effect to insert.
#[derive(Debug, Clone)]
pub(crate) struct NewEffect {
    pub(crate) payment_id: PaymentId,
    pub(crate) effect: Effect,
    pub(crate) bank_code: Option<String>,
    pub(crate) not_before: Timestamp,
    pub(crate) traceparent: String,
}

impl NewEffect {
    /// The effect that a step of this payment asks for.
    pub(crate) fn of(terms: &Terms, effect: Effect, traceparent: &str, now: Timestamp) -> Self {
        let bank = match effect {
            Effect::Bank(BankStep::PlaceHold | BankStep::Capture | BankStep::Release) => {
                Some(&terms.debtor.bank)
            }
            Effect::Bank(BankStep::Credit) => Some(&terms.creditor.bank),
            Effect::InitiateOnChain
            | Effect::SettleOnChain
            | Effect::CancelOnChain
            | Effect::BurnRedeemed
            | Effect::ReleaseRedemption => None,
        };
        Self {
            payment_id: terms.id,
            effect,
            bank_code: bank.map(|bank| bank.as_str().to_owned()),
            not_before: if effect == Effect::InitiateOnChain { terms.execute_at.max(now) } else { now },
            traceparent: traceparent.to_owned(),
        }
    }
}

/// Inserts effects; one that exists is left as it is, unless it was refused, or left to people, and is now asked for anew. What one slice asks
/// for twice (its payment was initiated, taken back and initiated again) is asked for once, as it would be in two slices.
pub(crate) async fn insert(tx: &Tx, effects: &[NewEffect], now: Timestamp) -> Result<(), StoreError> {
    let mut first: BTreeMap<(PaymentId, Effect), &NewEffect> = BTreeMap::new();
    for new in effects {
        first.entry((new.payment_id, new.effect)).or_insert(new);
    }
    if first.is_empty() {
        return Ok(());
    }
    let (ids, kinds, lanes, banks, due, traces) = columns!(
        first,
        |((payment_id, effect), new)| payment_id.as_uuid(),
        effect.as_str(),
        if new.bank_code.is_some() { "bank" } else { "chain" },
        new.bank_code.as_deref(),
        At(new.not_before),
        new.traceparent.as_str()
    );
    tx.execute(INSERT, &[&ids, &kinds, &lanes, &banks, &due, &traces, &At(now)]).await?;
    Ok(())
}

/// Takes back initiations that nobody has begun. What comes back was never signed and never will be.
pub(crate) async fn revoke_initiation(
    tx: &Tx,
    payments: &[PaymentId],
    now: Timestamp,
) -> Result<Vec<PaymentId>, StoreError> {
    let ids: Vec<Uuid> = payments.iter().map(PaymentId::as_uuid).collect();
    let rows = tx.query(REVOKE, &[&ids, &Effect::InitiateOnChain.as_str(), &At(now)]).await?;
    rows.iter().map(|row| Ok(PaymentId::from_uuid(row.try_get(0)?))).collect()
}

/// A claimed bank effect.
#[derive(Debug, Clone)]
pub struct ClaimedBankEffect {
    /// The payment.
    pub payment_id: PaymentId,
    /// What to ask the bank for.
    pub step: BankStep,
    /// How often it has been tried, this time included.
    pub attempts: i32,
    /// Proves, when recording, that the lease is still ours.
    pub fence: i64,
    /// Nothing of an earlier attempt was sent after this; the claim, if this is the first. A bank's silence is counted from it.
    pub sent_at: Timestamp,
    /// An earlier attempt may have reached the bank: ask, before asking for it again.
    pub may_have_run: bool,
    /// The trace it continues.
    pub traceparent: String,
}

/// Claims up to `slice_max` due effects at one bank for `lease`.
pub async fn claim_bank(
    db: &Db,
    bank_code: &str,
    slice_max: i64,
    owner: &str,
    now: Timestamp,
    lease: Duration,
) -> Result<Vec<ClaimedBankEffect>, StoreError> {
    let rows =
        db.query(CLAIM_BANK, &[&bank_code, &slice_max, &owner, &At(now), &At(now.plus(lease))]).await?;
    rows.iter()
        .map(|row| {
            let kind: String = row.try_get("kind")?;
            let Some(Effect::Bank(step)) = Effect::parse(&kind) else {
                return Err(StoreError::Corrupt(format!("a bank effect of kind {kind}")));
            };
            let before: String = row.try_get("state_before")?;
            Ok(ClaimedBankEffect {
                payment_id: PaymentId::from_uuid(row.try_get("payment_id")?),
                step,
                attempts: row.try_get("attempts")?,
                fence: row.try_get("fence")?,
                sent_at: row.try_get::<_, At>("sent_at")?.0,
                may_have_run: before != "ready",
                traceparent: row.try_get("traceparent")?,
            })
        })
        .collect()
}

/// What became of a claimed effect.
#[derive(Debug, Clone)]
pub struct EffectResult {
    /// The payment.
    pub payment_id: PaymentId,
    /// The effect.
    pub effect: Effect,
    /// The fence it was claimed with.
    pub fence: i64,
    /// Where it goes.
    pub next: EffectNext,
    /// What the outside calls it.
    pub reference: Option<String>,
    /// One word for timelines: `done`, `AM04`, `timeout`.
    pub outcome: String,
    /// When the outside booked it.
    pub booked_at: Option<Timestamp>,
    /// It was sent, at this instant at the latest, and no answer came.
    pub sent_by: Option<Timestamp>,
}

/// Where an effect goes after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EffectNext {
    /// Finished, one way or the other; the observation says which.
    Done,
    /// It certainly did not run: try again at the instant given.
    Again(Timestamp),
    /// It may have run: ask at the instant given.
    Ask(Timestamp),
    /// Only a person can tell.
    Escalated,
}

impl EffectNext {
    const fn state(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Again(_) => "ready",
            Self::Ask(_) => "unknown",
            Self::Escalated => "escalated",
        }
    }

    /// When a worker looks at it again. Where none does the instant stays as it was, because it is indexed.
    const fn due(self) -> Option<Timestamp> {
        match self {
            Self::Again(at) | Self::Ask(at) => Some(at),
            Self::Done | Self::Escalated => None,
        }
    }
}

/// What a bank has to know of a payment.
#[derive(Debug, Clone)]
pub struct BankDetails {
    /// Where a hold is placed and captured.
    pub debtor_iban: Iban,
    /// Where a credit goes.
    pub creditor_iban: Iban,
    /// What the debtor pays.
    pub amount: Money,
    /// What the creditor gets.
    pub net_amount: Money,
    /// Until when a hold has to last.
    pub hold_until: Timestamp,
    /// The debtor's reference.
    pub end_to_end_id: Option<String>,
    /// What the debtor tells the creditor.
    pub remittance_information: Option<Remittance>,
}

/// What the debtor tells the creditor: personal, so it has no debug output.
#[derive(Clone)]
pub struct Remittance(pub String);

impl std::fmt::Debug for Remittance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// Reads the bank details of payments. What cannot be read of one, which takes a person's hand or another release's idea of an IBAN, is
/// said of that one.
pub async fn bank_details(
    db: &Db,
    payments: &[PaymentId],
) -> Result<BTreeMap<PaymentId, Result<BankDetails, &'static str>>, StoreError> {
    let ids: Vec<Uuid> = payments.iter().map(PaymentId::as_uuid).collect();
    let rows = db.query(BANK_DETAILS, &[&ids]).await?;
    rows.iter().map(|row| Ok((PaymentId::from_uuid(row.try_get("id")?), read_details(row)?))).collect()
}

fn read_details(row: &Row) -> Result<Result<BankDetails, &'static str>, StoreError> {
    let (amount, fee): (i64, i64) = (row.try_get("amount")?, row.try_get("fee")?);
    let debtor_iban = Iban::parse(row.try_get("debtor_iban")?);
    let creditor_iban = Iban::parse(row.try_get("creditor_iban")?);
    let (Ok(debtor_iban), Ok(creditor_iban)) = (debtor_iban, creditor_iban) else {
        return Ok(Err("the IBAN of an account cannot be read"));
    };
    let Ok(currency) = Currency::parse(row.try_get("currency")?) else {
        return Ok(Err("its currency cannot be read"));
    };
    let amount = Money::new(amount.into(), currency);
    let Ok(net_amount) = amount.checked_sub(Money::new(fee.into(), currency)) else {
        return Ok(Err("its fee is more than its amount"));
    };
    Ok(Ok(BankDetails {
        debtor_iban,
        creditor_iban,
        amount,
        net_amount,
        hold_until: row.try_get::<_, At>("hold_until")?.0,
        end_to_end_id: row.try_get("end_to_end_id")?,
        remittance_information: row.try_get::<_, Option<String>>("remittance_information")?.map(Remittance),
    }))
}

/// The banks that some effect is due at.
pub async fn banks_with_work(db: &Db, now: Timestamp) -> Result<Vec<String>, StoreError> {
    let rows = db.query(BANKS_WITH_WORK, &[&At(now)]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Records a slice of results in the caller's transaction, beside the observations they bring. Returns those that were
/// still ours; the others were claimed by another worker meanwhile and must bring no observation.
pub async fn finish(
    tx: &Tx,
    results: &[EffectResult],
    now: Timestamp,
) -> Result<Vec<(PaymentId, Effect)>, StoreError> {
    let (ids, kinds, fences, states, references, outcomes, due, booked, sent) = columns!(
        results,
        |result| result.payment_id.as_uuid(),
        result.effect.as_str(),
        result.fence,
        result.next.state(),
        result.reference.as_deref(),
        result.outcome.as_str(),
        result.next.due().map(At),
        result.booked_at.map(At),
        result.sent_by.map(At)
    );
    let rows = tx
        .query(
            FINISH,
            &[&ids, &kinds, &fences, &states, &references, &outcomes, &due, &At(now), &booked, &sent],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let kind: String = row.try_get("kind")?;
            let effect = Effect::parse(&kind)
                .ok_or_else(|| StoreError::Corrupt(format!("an effect of kind {kind}")))?;
            Ok((PaymentId::from_uuid(row.try_get("payment_id")?), effect))
        })
        .collect()
}
