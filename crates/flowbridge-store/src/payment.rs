//! Payments as rows.

use crate::db::{StoreError, Tx};
use crate::sql::{At, columns, statements};
use flowbridge_domain::bank::HoldMode;
use flowbridge_domain::id::{AccountId, ParticipantId, PaymentId};
use flowbridge_domain::money::{Currency, Money};
use flowbridge_domain::party::BankCode;
use flowbridge_domain::payment::{
    ChainLeg, Funding, HoldLeg, Kind, Legs, Party, Payment, PaymentNumber, Payout, PayoutLeg, Progress,
    State, Terms,
};
use flowbridge_domain::time::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

statements! {
    /// Locks payments against any other decision, in the order of ids so that two slices never wait in a circle.
    LOCK = concat!("select ", payment_columns!(), ", coalesce(payment.log_xid > pg_current_xact_id()::text::bigint, false) as overtaken
        from payment where id = any($1) order by id for no key update");

    SAVE_PROGRESS = "update payment set
            state = new.state, reason = new.reason, chain_leg = new.chain_leg, hold_leg = new.hold_leg,
            payout_leg = new.payout_leg, round = new.round, log_xid = pg_current_xact_id()::text::bigint,
            state_since = case when payment.state = new.state and payment.reason is not distinct from new.reason
                then payment.state_since else $8 end
        from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::smallint[])
            as new (id, state, reason, chain_leg, hold_leg, payout_leg, round)
        where payment.id = new.id";
}

/// The columns that [`StoredPayment::from_row`] reads; statements in this crate put it behind `select`.
macro_rules! payment_columns {
    () => {
        "payment.id, payment.number, payment.participant_id, payment.kind, payment.refund_of, payment.funding, \
         payment.payout, payment.currency, payment.amount, payment.fee, payment.debtor_account, \
         payment.debtor_participant, payment.debtor_bank, payment.creditor_account, payment.creditor_participant, \
         payment.creditor_bank, payment.hold_mode, payment.end_to_end_id, payment.uetr, \
         payment.remittance_information, payment.execute_at, payment.initiate_before, payment.settle_before, \
         payment.expires_at, payment.hold_until, payment.accepted_at, payment.traceparent, payment.state, \
         payment.reason, payment.state_since, payment.chain_leg, payment.hold_leg, payment.payout_leg, \
         payment.round, payment.refunded"
    };
}
pub(crate) use payment_columns;

/// A payment with all that its row says beside terms and progress.
#[derive(Debug, Clone)]
pub struct StoredPayment {
    /// Terms and progress.
    pub payment: Payment,
    /// Whose client asked for it.
    pub participant: ParticipantId,
    /// The client's own reference, unique per participant.
    pub end_to_end_id: Option<String>,
    /// The global tracking id (UUIDv4).
    pub uetr: Uuid,
    /// What the debtor tells the creditor.
    pub remittance_information: Option<String>,
    /// When it was committed.
    pub accepted_at: Timestamp,
    /// The W3C trace context that everything about it continues.
    pub traceparent: String,
    /// Since when it is in its state.
    pub state_since: Timestamp,
    /// How much of it refunds have taken or reserved, in minor units.
    pub refunded: i128,
}

impl StoredPayment {
    /// Reads a row selected by `payment_columns!()`.
    pub(crate) fn from_row(row: &Row) -> Result<Self, StoreError> {
        let text = |column: &str| -> Result<String, StoreError> { Ok(row.try_get(column)?) };
        let at = |column: &str| -> Result<Timestamp, StoreError> { Ok(row.try_get::<_, At>(column)?.0) };
        let id = PaymentId::from_uuid(row.try_get("id")?);
        let corrupt = |column: &str| StoreError::Corrupt(format!("{column} of payment {id}"));

        let currency = Currency::parse(&text("currency")?).map_err(|_| corrupt("currency"))?;
        let money = |column: &str| -> Result<Money, StoreError> {
            Ok(Money::new(row.try_get::<_, i64>(column)?.into(), currency))
        };
        let party = |side: &str| -> Result<Party, StoreError> {
            Ok(Party {
                account: AccountId::from_uuid(row.try_get(format!("{side}_account").as_str())?),
                participant: ParticipantId::from_uuid(row.try_get(format!("{side}_participant").as_str())?),
                bank: BankCode::parse(&text(&format!("{side}_bank"))?).map_err(|_| corrupt("bank"))?,
            })
        };
        let kind = match (text("kind")?.as_str(), row.try_get::<_, Option<Uuid>>("refund_of")?) {
            ("transfer", None) => Kind::Transfer,
            ("issuance", None) => Kind::Issuance,
            ("redemption", None) => Kind::Redemption,
            ("refund", Some(of)) => Kind::Refund { of: PaymentId::from_uuid(of) },
            _ => return Err(corrupt("kind")),
        };
        let reason: Option<String> = row.try_get("reason")?;
        let terms = Terms {
            id,
            number: PaymentNumber(
                u64::try_from(row.try_get::<_, i64>("number")?).map_err(|_| corrupt("number"))?,
            ),
            kind,
            funding: Funding::parse(&text("funding")?).ok_or_else(|| corrupt("funding"))?,
            payout: Payout::parse(&text("payout")?).ok_or_else(|| corrupt("payout"))?,
            amount: money("amount")?,
            fee: money("fee")?,
            debtor: party("debtor")?,
            creditor: party("creditor")?,
            hold_mode: named(&HOLD_MODES, &text("hold_mode")?).ok_or_else(|| corrupt("hold_mode"))?,
            execute_at: at("execute_at")?,
            initiate_before: at("initiate_before")?,
            settle_before: at("settle_before")?,
            expires_at: at("expires_at")?,
            hold_until: at("hold_until")?,
        };
        let legs = Legs {
            chain: named(&CHAIN_LEGS, &text("chain_leg")?).ok_or_else(|| corrupt("chain_leg"))?,
            hold: named(&HOLD_LEGS, &text("hold_leg")?).ok_or_else(|| corrupt("hold_leg"))?,
            payout: named(&PAYOUT_LEGS, &text("payout_leg")?).ok_or_else(|| corrupt("payout_leg"))?,
            round: u16::try_from(row.try_get::<_, i16>("round")?).map_err(|_| corrupt("round"))?,
        };
        let state = State::parse(&text("state")?, reason.as_deref()).ok_or_else(|| corrupt("state"))?;
        Ok(Self {
            payment: Payment { terms, progress: Progress { state, legs } },
            participant: ParticipantId::from_uuid(row.try_get("participant_id")?),
            end_to_end_id: row.try_get("end_to_end_id")?,
            uetr: row.try_get("uetr")?,
            remittance_information: row.try_get("remittance_information")?,
            accepted_at: at("accepted_at")?,
            traceparent: text("traceparent")?,
            state_since: at("state_since")?,
            refunded: row.try_get::<_, i64>("refunded")?.into(),
        })
    }
}

/// Reads payments and locks them until the transaction ends. Unknown ids are left out.
///
/// A transaction has its place in the log from its first write on. If it then waits for a payment that a later one moves, what
/// it would tell of that payment stood before what happened first: [`StoreError::Overtaken`], and the same work in a new
/// transaction stands behind.
pub(crate) async fn lock(tx: &Tx, ids: &[PaymentId]) -> Result<Vec<StoredPayment>, StoreError> {
    let ids: Vec<Uuid> = ids.iter().map(PaymentId::as_uuid).collect();
    let rows = tx.query(LOCK, &[&ids]).await?;
    for row in &rows {
        if row.try_get("overtaken")? {
            return Err(StoreError::Overtaken);
        }
    }
    rows.iter().map(StoredPayment::from_row).collect()
}

/// Writes how far payments are now.
pub(crate) async fn save_progress(
    tx: &Tx,
    changed: &[(PaymentId, Progress)],
    now: Timestamp,
) -> Result<(), StoreError> {
    if changed.is_empty() {
        return Ok(());
    }
    let (ids, states, reasons, chain, hold, payout, rounds) = columns!(
        changed,
        |(id, progress)| id.as_uuid(),
        progress.state.as_str(),
        progress.state.reason(),
        chain_leg_name(progress.legs.chain),
        hold_leg_name(progress.legs.hold),
        payout_leg_name(progress.legs.payout),
        i16::try_from(progress.legs.round).unwrap_or(i16::MAX)
    );
    let saved = tx
        .execute(SAVE_PROGRESS, &[&ids, &states, &reasons, &chain, &hold, &payout, &rounds, &At(now)])
        .await?;
    if usize::try_from(saved).is_ok_and(|saved| saved == changed.len()) {
        Ok(())
    } else {
        Err(StoreError::Lost)
    }
}

const HOLD_MODES: [(HoldMode, &str); 3] =
    [(HoldMode::Native, "native"), (HoldMode::Escrow, "escrow"), (HoldMode::ConfirmOnly, "confirm_only")];

const CHAIN_LEGS: [(ChainLeg, &str); 4] = [
    (ChainLeg::Unused, "unused"),
    (ChainLeg::Open, "open"),
    (ChainLeg::Settled, "settled"),
    (ChainLeg::Closed, "closed"),
];

const HOLD_LEGS: [(HoldLeg, &str); 10] = [
    (HoldLeg::NotAsked, "not_asked"),
    (HoldLeg::Asked, "asked"),
    (HoldLeg::Placed, "placed"),
    (HoldLeg::Declined, "declined"),
    (HoldLeg::CaptureAsked, "capture_asked"),
    (HoldLeg::Captured, "captured"),
    (HoldLeg::CaptureDeclined, "capture_declined"),
    (HoldLeg::ReleaseAsked { captured: false }, "release_asked"),
    (HoldLeg::ReleaseAsked { captured: true }, "return_asked"),
    (HoldLeg::Released, "released"),
];

const PAYOUT_LEGS: [(PayoutLeg, &str); 6] = [
    (PayoutLeg::NotDue, "not_due"),
    (PayoutLeg::CreditAsked, "credit_asked"),
    (PayoutLeg::BurnAsked, "burn_asked"),
    (PayoutLeg::Burned, "burned"),
    (PayoutLeg::ReleaseAsked, "release_asked"),
    (PayoutLeg::Released, "released"),
];

/// The name of a hold mode in tables.
pub fn hold_mode_name(mode: HoldMode) -> &'static str {
    name_of(&HOLD_MODES, mode)
}

/// Reads the name of a hold mode.
pub fn parse_hold_mode(name: &str) -> Option<HoldMode> {
    named(&HOLD_MODES, name)
}

/// The name of a chain leg in tables and timelines.
pub fn chain_leg_name(leg: ChainLeg) -> &'static str {
    name_of(&CHAIN_LEGS, leg)
}

/// The name of a hold leg in tables and timelines.
pub fn hold_leg_name(leg: HoldLeg) -> &'static str {
    name_of(&HOLD_LEGS, leg)
}

/// The name of a payout leg in tables and timelines.
pub fn payout_leg_name(leg: PayoutLeg) -> &'static str {
    name_of(&PAYOUT_LEGS, leg)
}

fn named<T: Copy>(names: &[(T, &str)], text: &str) -> Option<T> {
    names.iter().find(|(_, name)| *name == text).map(|(value, _)| *value)
}

fn name_of<T: Copy + PartialEq>(names: &[(T, &'static str)], value: T) -> &'static str {
    names.iter().find(|(known, _)| *known == value).map_or("", |(_, name)| name)
}
