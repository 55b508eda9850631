//! The JSON of operations and outcomes, one shape for the simulator's API and for `/internal/hold`.
//!
//! Amounts are whole minor units, instants are microseconds since 1970 (`…_at_us`), keys are `pay_….capture`. Each outcome
//! names its key, so that an answer with items missing, doubled or out of order is recognised instead of being
//! attributed to the wrong payment.

use crate::connector::{
    Decline, HoldStatus, Operation, OperationKind, Outcome, OwnAccount, QueryOutcome, Receipt,
};
use crate::personal::Personal;
use flowbridge_domain::bank::{BankStep, OperationKey, ReasonCode};
use flowbridge_domain::money::{Currency, Money};
use flowbridge_domain::party::Iban;
use flowbridge_domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Longest accepted `end_to_end_id` (ISO 20022 `Max35Text`).
pub const END_TO_END_ID_CHARS_MAX: usize = 35;
/// Longest accepted remittance information (ISO 20022 `Max140Text`).
pub const REMITTANCE_CHARS_MAX: usize = 140;

/// An item whose JSON is well formed but means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct WireError {
    /// Which member.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

fn wrong(field: &'static str, problem: impl ToString) -> WireError {
    WireError { field, problem: problem.to_string() }
}

/// An amount of money.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoneyBody {
    /// Minor units.
    pub amount: i64,
    /// ISO 4217.
    pub currency: String,
}

impl MoneyBody {
    /// For the wire. An amount beyond what JSON readers hold exactly is refused.
    pub fn of(money: Money) -> Result<Self, WireError> {
        let amount =
            i64::try_from(money.minor_units()).map_err(|_| wrong("amount", "too large for the wire"))?;
        Ok(Self { amount, currency: money.currency().code().to_owned() })
    }

    /// Any amount, such as a balance.
    pub fn read(&self) -> Result<Money, WireError> {
        let currency = Currency::parse(&self.currency).map_err(|error| wrong("currency", error))?;
        Ok(Money::new(i128::from(self.amount), currency))
    }

    /// An amount that may be moved.
    pub fn read_payable(&self) -> Result<Money, WireError> {
        let money = self.read()?;
        Money::payable(money.minor_units(), money.currency()).map_err(|error| wrong("amount", error))
    }
}

/// One operation.
#[derive(Clone, Serialize, Deserialize)]
pub struct OperationBody {
    /// Payment and step, such as `pay_….capture`.
    pub key: String,
    /// The customer's account; not for a release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The amount; not for a release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<MoneyBody>,
    /// When the hold may end; for `place_hold`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_us: Option<i64>,
    /// For `credit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_to_end_id: Option<String>,
    /// For `credit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remittance_information: Option<String>,
}

impl std::fmt::Debug for OperationBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OperationBody").field("key", &self.key).finish_non_exhaustive()
    }
}

impl OperationBody {
    /// For the wire. What the other side would not read is refused here, so that it does not spoil a whole slice there.
    pub fn of(operation: &Operation) -> Result<Self, WireError> {
        let blank = Self {
            key: operation.key().to_string(),
            account: None,
            amount: None,
            until_us: None,
            end_to_end_id: None,
            remittance_information: None,
        };
        Ok(match &operation.kind {
            OperationKind::PlaceHold { account, amount, until } => Self {
                account: Some(account.as_str().to_owned()),
                amount: Some(MoneyBody::of(*amount)?),
                until_us: Some(until.as_micros()),
                ..blank
            },
            OperationKind::Capture { account, amount } => Self {
                account: Some(account.as_str().to_owned()),
                amount: Some(MoneyBody::of(*amount)?),
                ..blank
            },
            OperationKind::Release => blank,
            OperationKind::Credit { account, amount, end_to_end_id, remittance_information } => Self {
                account: Some(account.as_str().to_owned()),
                amount: Some(MoneyBody::of(*amount)?),
                end_to_end_id: at_most("end_to_end_id", end_to_end_id.as_deref(), END_TO_END_ID_CHARS_MAX)?,
                remittance_information: at_most(
                    "remittance_information",
                    remittance_information.as_ref().map(Personal::reveal),
                    REMITTANCE_CHARS_MAX,
                )?,
                ..blank
            },
        })
    }

    /// Reads it.
    pub fn read(&self) -> Result<Operation, WireError> {
        let key = read_key(&self.key)?;
        let account = || {
            let text = self.account.as_deref().ok_or_else(|| wrong("account", "missing"))?;
            Iban::parse(text).map_err(|error| wrong("account", error))
        };
        let amount = || self.amount.as_ref().ok_or_else(|| wrong("amount", "missing"))?.read_payable();
        let kind = match key.step {
            BankStep::PlaceHold => OperationKind::PlaceHold {
                account: account()?,
                amount: amount()?,
                until: self
                    .until_us
                    .map(Timestamp::from_micros)
                    .ok_or_else(|| wrong("until_us", "missing"))?,
            },
            BankStep::Capture => OperationKind::Capture { account: account()?, amount: amount()? },
            BankStep::Release => OperationKind::Release,
            BankStep::Credit => OperationKind::Credit {
                account: account()?,
                amount: amount()?,
                end_to_end_id: at_most(
                    "end_to_end_id",
                    self.end_to_end_id.as_deref(),
                    END_TO_END_ID_CHARS_MAX,
                )?,
                remittance_information: at_most(
                    "remittance_information",
                    self.remittance_information.as_deref(),
                    REMITTANCE_CHARS_MAX,
                )?
                .map(Personal::new),
            },
        };
        Ok(Operation { payment_id: key.payment_id, kind })
    }
}

fn at_most(field: &'static str, text: Option<&str>, chars_max: usize) -> Result<Option<String>, WireError> {
    match text {
        Some(text) if text.chars().count() > chars_max => {
            Err(wrong(field, format!("more than {chars_max} characters")))
        }
        text => Ok(text.map(str::to_owned)),
    }
}

/// Reads a key.
pub fn read_key(text: &str) -> Result<OperationKey, WireError> {
    OperationKey::parse(text).ok_or_else(|| wrong("key", "not a payment id and step such as pay_….capture"))
}

/// The outcome of one operation or query.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OutcomeBody {
    /// Which operation.
    pub key: String,
    /// What came of it.
    #[serde(flatten)]
    pub result: ResultBody,
}

/// What came of an operation.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum ResultBody {
    /// Done.
    Done {
        /// The bank's reference.
        reference: String,
        /// When it was booked.
        booked_at_us: i64,
        /// When the bank lets go of the hold.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hold_expires_at_us: Option<i64>,
        /// In answer to a query for a placed hold.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hold: Option<HoldBody>,
    },
    /// Declined.
    Declined {
        /// ISO 20022 reason.
        reason: String,
        /// For people.
        text: String,
    },
    /// Will be decided.
    Pending {
        /// The bank's reference.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reference: Option<String>,
    },
    /// Only from `/internal/hold`: the bank may or may not have done it.
    Unknown {
        /// What went wrong.
        cause: String,
    },
    /// Only from `/internal/hold`: this call had no effect.
    NotSent {
        /// Why.
        cause: String,
        /// When to try again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_at_us: Option<i64>,
    },
    /// The key is known with other content, or the item means nothing.
    Unprocessable {
        /// For people.
        text: String,
    },
    /// In answer to a query: no such operation so far.
    NotFound,
    /// In answer to a query, only from `/internal/hold`: the bank could not be asked.
    Unanswered {
        /// What went wrong.
        cause: String,
        /// When to try again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_at_us: Option<i64>,
    },
}

/// What has become of a hold.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum HoldBody {
    /// Reserved.
    Active,
    /// Taken.
    Captured,
    /// Given back.
    Released,
    /// Let go by the bank.
    Expired,
}

impl From<HoldStatus> for HoldBody {
    fn from(status: HoldStatus) -> Self {
        match status {
            HoldStatus::Active => Self::Active,
            HoldStatus::Captured => Self::Captured,
            HoldStatus::Released => Self::Released,
            HoldStatus::Expired => Self::Expired,
        }
    }
}

impl From<HoldBody> for HoldStatus {
    fn from(body: HoldBody) -> Self {
        match body {
            HoldBody::Active => Self::Active,
            HoldBody::Captured => Self::Captured,
            HoldBody::Released => Self::Released,
            HoldBody::Expired => Self::Expired,
        }
    }
}

impl From<Outcome> for ResultBody {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done(receipt) => done(receipt, None),
            Outcome::Declined(decline) => declined(decline),
            Outcome::Pending { reference } => Self::Pending { reference },
            Outcome::Unknown { cause } => Self::Unknown { cause },
            Outcome::NotSent { cause, retry_at } => {
                Self::NotSent { cause, retry_at_us: retry_at.map(Timestamp::as_micros) }
            }
            Outcome::Unprocessable { text } => Self::Unprocessable { text },
        }
    }
}

impl From<QueryOutcome> for ResultBody {
    fn from(outcome: QueryOutcome) -> Self {
        match outcome {
            QueryOutcome::Done { receipt, hold } => done(receipt, hold.map(HoldBody::from)),
            QueryOutcome::Declined(decline) => declined(decline),
            QueryOutcome::Pending { reference } => Self::Pending { reference },
            QueryOutcome::NotFound => Self::NotFound,
            QueryOutcome::Unanswered { cause, retry_at } => {
                Self::Unanswered { cause, retry_at_us: retry_at.map(Timestamp::as_micros) }
            }
        }
    }
}

fn done(receipt: Receipt, hold: Option<HoldBody>) -> ResultBody {
    ResultBody::Done {
        reference: receipt.reference,
        booked_at_us: receipt.booked_at.as_micros(),
        hold_expires_at_us: receipt.hold_expires_at.map(Timestamp::as_micros),
        hold,
    }
}

fn declined(decline: Decline) -> ResultBody {
    ResultBody::Declined { reason: decline.reason.as_str().to_owned(), text: decline.text }
}

impl ResultBody {
    /// As the outcome of an operation. What makes no sense as one is `Unknown`: the operation was sent.
    pub fn into_outcome(self) -> Outcome {
        match self {
            Self::Done { reference, booked_at_us, hold_expires_at_us, .. } => {
                Outcome::Done(receipt(reference, booked_at_us, hold_expires_at_us))
            }
            Self::Declined { reason, text } => Outcome::Declined(decline(&reason, text)),
            Self::Pending { reference } => Outcome::Pending { reference },
            Self::Unknown { cause } => Outcome::Unknown { cause },
            Self::NotSent { cause, retry_at_us } => {
                Outcome::NotSent { cause, retry_at: retry_at_us.map(Timestamp::from_micros) }
            }
            Self::Unprocessable { text } => Outcome::Unprocessable { text },
            Self::NotFound | Self::Unanswered { .. } => {
                Outcome::Unknown { cause: "the answer belongs to a query".into() }
            }
        }
    }

    /// As the answer to a query. What makes no sense as one answers nothing.
    pub fn into_query_outcome(self) -> QueryOutcome {
        match self {
            Self::Done { reference, booked_at_us, hold_expires_at_us, hold } => QueryOutcome::Done {
                receipt: receipt(reference, booked_at_us, hold_expires_at_us),
                hold: hold.map(HoldStatus::from),
            },
            Self::Declined { reason, text } => QueryOutcome::Declined(decline(&reason, text)),
            Self::Pending { reference } => QueryOutcome::Pending { reference },
            Self::NotFound => QueryOutcome::NotFound,
            Self::Unanswered { cause, retry_at_us } => {
                QueryOutcome::Unanswered { cause, retry_at: retry_at_us.map(Timestamp::from_micros) }
            }
            Self::Unknown { cause } | Self::NotSent { cause, .. } => {
                QueryOutcome::Unanswered { cause, retry_at: None }
            }
            Self::Unprocessable { text } => QueryOutcome::Unanswered { cause: text, retry_at: None },
        }
    }
}

fn receipt(reference: String, booked_at_us: i64, hold_expires_at_us: Option<i64>) -> Receipt {
    Receipt {
        reference,
        booked_at: Timestamp::from_micros(booked_at_us),
        hold_expires_at: hold_expires_at_us.map(Timestamp::from_micros),
    }
}

/// A reason that is not an ISO code still declines; its text keeps what the bank said.
fn decline(reason: &str, text: String) -> Decline {
    match ReasonCode::parse(reason) {
        Some(reason) => Decline { reason, text },
        None => Decline { reason: ReasonCode::NOT_SPECIFIED, text: format!("{reason}: {text}") },
    }
}

/// A slice of operations.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperationsRequest {
    /// Carried out in this order.
    pub operations: Vec<OperationBody>,
}

/// A slice of keys to ask about.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryRequest {
    /// The keys.
    pub keys: Vec<String>,
}

/// An outcome for each item.
#[derive(Debug, Serialize, Deserialize)]
pub struct OutcomesResponse {
    /// Each names its key.
    pub outcomes: Vec<OutcomeBody>,
}

impl OutcomesResponse {
    /// The result for each of `keys`, in their order. None for a key that is missing, or that is answered in two ways.
    pub fn by_key(self, keys: &[OperationKey]) -> Vec<Option<ResultBody>> {
        let mut results: HashMap<String, Option<ResultBody>> = HashMap::with_capacity(self.outcomes.len());
        for OutcomeBody { key, result } in self.outcomes {
            results
                .entry(key)
                .and_modify(|known| {
                    if known.as_ref() != Some(&result) {
                        *known = None;
                    }
                })
                .or_insert(Some(result));
        }
        keys.iter().map(|key| results.get(&key.to_string()).cloned().flatten()).collect()
    }
}

/// The name of one of our own accounts.
pub const fn own_account_name(account: OwnAccount) -> &'static str {
    match account {
        OwnAccount::Reserve => "reserve",
        OwnAccount::Escrow => "escrow",
    }
}

/// Reads [`own_account_name`].
pub fn read_own_account(name: &str) -> Result<OwnAccount, WireError> {
    [OwnAccount::Reserve, OwnAccount::Escrow]
        .into_iter()
        .find(|account| own_account_name(*account) == name)
        .ok_or_else(|| wrong("account", "neither reserve nor escrow"))
}

/// What is on our accounts.
#[derive(Debug, Serialize, Deserialize)]
pub struct BalancesBody {
    /// The instant.
    pub as_of_us: i64,
    /// One line per account and currency.
    pub accounts: Vec<OwnBalanceBody>,
}

/// One of our accounts.
#[derive(Debug, Serialize, Deserialize)]
pub struct OwnBalanceBody {
    /// `reserve` or `escrow`.
    pub account: String,
    /// What is posted on it.
    pub posted: MoneyBody,
}

/// A page of the statement.
#[derive(Debug, Serialize, Deserialize)]
pub struct StatementBody {
    /// In order.
    pub entries: Vec<EntryBody>,
    /// Cursor of the next page.
    pub next_after: u64,
    /// Is there more?
    pub has_more: bool,
}

/// One entry.
#[derive(Debug, Serialize, Deserialize)]
pub struct EntryBody {
    /// Position, without gaps.
    pub sequence: u64,
    /// `reserve` or `escrow`.
    pub account: String,
    /// Signed change.
    pub change: MoneyBody,
    /// When.
    pub booked_at_us: i64,
    /// Which operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The bank's reference.
    pub reference: String,
    /// What the bank writes beside it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// From when it counts, where that is not when it was booked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_at_us: Option<i64>,
    /// A return of an earlier entry.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_return: bool,
}

/// A question for funds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FundsRequest {
    /// The customer's account.
    pub account: String,
    /// How much.
    pub amount: MoneyBody,
}

impl std::fmt::Debug for FundsRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FundsRequest").field("amount", &self.amount).finish_non_exhaustive()
    }
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct FundsResponse {
    /// Are they there?
    pub funds_available: bool,
}

/// An RFC 9457 problem.
#[derive(Debug, Serialize, Deserialize)]
pub struct ProblemBody {
    /// Short and stable.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// This case.
    pub detail: String,
    /// Stable code.
    pub code: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_attributed_by_key_and_two_answers_are_none() {
        let keys = ["pay_01h455vb4pex5vsknk084sn02q.capture", "pay_01h455vb4pex5vsknk084sn02q.credit"];
        let parsed = keys.map(|key| read_key(key).unwrap());
        let answer = |json: &str| serde_json::from_str::<OutcomesResponse>(json).unwrap().by_key(&parsed);
        let item = |key: &str, outcome: &str| format!(r#"{{"key":"{key}","outcome":"{outcome}"}}"#);
        let swapped =
            format!(r#"{{"outcomes":[{},{}]}}"#, item(keys[1], "pending"), item(keys[0], "not_found"));
        assert_eq!(
            answer(&swapped),
            [Some(ResultBody::NotFound), Some(ResultBody::Pending { reference: None })]
        );
        let doubled = format!(r#"{{"outcomes":[{0},{0}]}}"#, item(keys[0], "pending"));
        assert_eq!(answer(&doubled), [Some(ResultBody::Pending { reference: None }), None]);
        let torn = format!(r#"{{"outcomes":[{},{}]}}"#, item(keys[0], "pending"), item(keys[0], "not_found"));
        assert_eq!(answer(&torn), [None, None]);
    }
}
