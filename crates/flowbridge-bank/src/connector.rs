//! The seam to a bank: what we may ask, what it can answer, and what an answer allows us to do next.
//!
//! The one danger here is money moved twice, or moved and forgotten. So an answer is never a `Result`: it is an
//! [`Outcome`], and the only way on from it is [`NextMove`]:
//!
//! - `Done` and `Declined` are the bank's last word under that key and are recorded.
//! - `Pending` and `Unknown` may have moved money: they are resolved by asking, never by assuming.
//! - `NotSent` says that *this* call had no effect. An earlier one under the same key may have had.
//! - `Unprocessable` says that the bank knows the key with other content, or that the operation cannot be expressed to it.
//!   It is neither done nor declined: a person must look.
//!
//! "Not found" in answer to a query proves nothing before the bank's `query_conclusive_after` has passed since the operation
//! was last sent: until then it may still be on its way. Only then may it be sent again, under the same key; at once
//! to a bank with `idempotent_ops`, where the late one and the repeat are one operation. It is never a reason to
//! take the operation for failed: what is no longer wanted is released, which leaves a tombstone.

use crate::personal::Personal;
use async_trait::async_trait;
use flowbridge_domain::bank::{BankStep, HoldMode, OperationKey, ReasonCode};
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::money::{Currency, Money};
use flowbridge_domain::party::{BankCode, Iban};
use flowbridge_domain::time::Timestamp;
use std::fmt;
use std::time::Duration;

/// A bank, as FlowBridge sees it. One implementation per protocol.
///
/// An implementation answers every operation of a slice, in the slice's order; it never retries by itself; and it answers
/// `Unknown` whenever it cannot prove otherwise (time-out, connection lost after sending, 5xx, unreadable answer).
#[async_trait]
pub trait BankConnector: Send + Sync + fmt::Debug {
    /// What this bank can do. Constant for the life of the connector.
    fn capabilities(&self) -> Capabilities;

    /// Asks for a slice of at most `operations_max` operations in one call. The bank carries them out in order.
    async fn execute(&self, operations: &[Operation]) -> Vec<Outcome>;

    /// Asks what became of operations, at most `operations_max` in one call.
    async fn query(&self, keys: &[OperationKey]) -> Vec<QueryOutcome>;

    /// Could `account` pay `amount` now? Reserves nothing.
    async fn confirm_funds(&self, account: &Iban, amount: Money) -> Result<bool, ReadError>;

    /// What we own at this bank, per currency.
    async fn balances(&self) -> Result<Balances, ReadError>;

    /// A page of what was booked on our accounts at this bank: complete within its bounds, or an error.
    async fn statement(&self, request: StatementRequest) -> Result<StatementPage, ReadError>;
}

/// What a bank can do, as data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// How it reserves funds.
    pub hold_mode: HoldMode,
    /// It answers a repeated key with the first outcome instead of doing it again.
    pub idempotent_ops: bool,
    /// How long after sending a query that finds nothing proves that nothing arrived.
    pub query_conclusive_after: Duration,
    /// How many operations or keys one call may carry.
    pub operations_max: usize,
    /// The longest it keeps a hold.
    pub hold_ttl_max: Duration,
}

/// One thing asked of a bank for one payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// The payment it belongs to.
    pub payment_id: PaymentId,
    /// What is asked for.
    pub kind: OperationKind,
}

impl Operation {
    /// The key under which the bank knows it: payment and step, so that content and key cannot disagree about the step.
    pub const fn key(&self) -> OperationKey {
        OperationKey { payment_id: self.payment_id, step: self.kind.step() }
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperationKind {
    /// Reserve `amount` on `account`.
    PlaceHold {
        /// The debtor's account.
        account: Iban,
        /// How much.
        amount: Money,
        /// Until when; the bank may keep it shorter and says so in its receipt.
        until: Timestamp,
    },
    /// Take what was reserved, whole, into our reserve account.
    Capture {
        /// The debtor's account.
        account: Iban,
        /// How much: exactly what was reserved.
        amount: Money,
    },
    /// Give back what was reserved. Asked for before the hold arrived, it keeps the hold from ever being placed.
    Release,
    /// Pay the creditor from our reserve account.
    Credit {
        /// The creditor's account.
        account: Iban,
        /// How much.
        amount: Money,
        /// The debtor's reference, carried unchanged.
        end_to_end_id: Option<String>,
        /// What the debtor tells the creditor.
        remittance_information: Option<Personal>,
    },
}

impl OperationKind {
    /// Which step of the payment this is.
    pub const fn step(&self) -> BankStep {
        match self {
            Self::PlaceHold { .. } => BankStep::PlaceHold,
            Self::Capture { .. } => BankStep::Capture,
            Self::Release => BankStep::Release,
            Self::Credit { .. } => BankStep::Credit,
        }
    }
}

/// What a bank answered when it was asked to do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It did. Final.
    Done(Receipt),
    /// It did not and, under this key, never will. Final.
    Declined(Decline),
    /// It has the operation and will decide later.
    Pending {
        /// The bank's reference, when it gave one.
        reference: Option<String>,
    },
    /// It may or may not have done it. Never a failure: ask.
    Unknown {
        /// What went wrong, for the log.
        cause: String,
    },
    /// This call provably changed nothing: the connection was never made, or the bank (or we) turned the request away before
    /// reading its operations. An earlier call with the same key may still have arrived.
    NotSent {
        /// Why, for the log.
        cause: String,
        /// When to try again at the earliest, if that is known (an open circuit breaker).
        retry_at: Option<Timestamp>,
    },
    /// Nothing was done this time, and nothing will be while the operation is as it is: the bank knows its key with other
    /// content, or it cannot be put into the bank's format. A mistake of ours that a person has to resolve: recording
    /// it as declined could lose what was done under the key before.
    Unprocessable {
        /// What is wrong.
        text: String,
    },
}

/// The bank's proof that it did something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The bank's reference.
    pub reference: String,
    /// When the bank booked it. For the simulator strictly increasing, and comparable with [`Balances::as_of`].
    pub booked_at: Timestamp,
    /// When the bank lets go of a hold by itself. Only for a hold that reserves something.
    pub hold_expires_at: Option<Timestamp>,
}

impl Receipt {
    /// Until when the reserved funds are certain; [`Timestamp::MAX`] where nothing can expire (a confirm-only bank).
    pub fn hold_lasts_until(&self) -> Timestamp {
        self.hold_expires_at.unwrap_or(Timestamp::MAX)
    }
}

/// Why the bank said no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decline {
    /// ISO 20022 external status reason.
    pub reason: ReasonCode,
    /// The bank's words, for people.
    pub text: String,
}

/// What became of an operation, as far as the bank can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueryOutcome {
    /// Done. Final.
    Done {
        /// The proof.
        receipt: Receipt,
        /// For a placed hold: what has become of it since, by the bank's account.
        hold: Option<HoldStatus>,
    },
    /// Declined. Final.
    Declined(Decline),
    /// Still undecided.
    Pending {
        /// The bank's reference, when it gave one.
        reference: Option<String>,
    },
    /// The bank has no such operation *yet*.
    NotFound,
    /// The question itself was not answered; nothing is known that was not known before.
    Unanswered {
        /// What went wrong, for the log.
        cause: String,
        /// When to ask again at the earliest, if that is known.
        retry_at: Option<Timestamp>,
    },
}

/// What has become of a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HoldStatus {
    /// The funds are reserved (confirm-only bank: were confirmed).
    Active,
    /// We took them.
    Captured,
    /// We gave them back.
    Released,
    /// The bank let go of them.
    Expired,
}

/// How much may have happened before a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Earlier {
    /// No call with this key has ever left us. Only a durable note made *before* each call can say so.
    NeverSent,
    /// One may have: the last at this instant.
    MaybeSent(Timestamp),
}

/// What may be done next about one operation. There is no other safe way on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextMove {
    /// It is done: record it.
    RecordDone(Receipt),
    /// It is declined: record it.
    RecordDeclined(Decline),
    /// Ask the bank by key, not before the instant if one is given.
    Query(Option<Timestamp>),
    /// Send it (again), under the same key, not before the instant if one is given.
    Send(Option<Timestamp>),
    /// Stop, and show it to a person.
    Escalate(String),
}

impl Outcome {
    /// What may follow this outcome, given what happened `before` the call that it answers.
    pub fn next_move(self, before: Earlier) -> NextMove {
        match (self, before) {
            (Self::Done(receipt), _) => NextMove::RecordDone(receipt),
            (Self::Declined(decline), _) => NextMove::RecordDeclined(decline),
            (Self::Pending { .. } | Self::Unknown { .. }, _) => NextMove::Query(None),
            (Self::NotSent { retry_at, .. }, Earlier::NeverSent) => NextMove::Send(retry_at),
            (Self::NotSent { retry_at, .. }, Earlier::MaybeSent(_)) => NextMove::Query(retry_at),
            (Self::Unprocessable { text }, _) => NextMove::Escalate(text),
        }
    }

    /// Did the call fail as a whole, so that it says something about the bank's health rather than about the operation?
    pub(crate) const fn is_transport_failure(&self) -> bool {
        match self {
            Self::Unknown { .. } | Self::NotSent { .. } => true,
            Self::Done(_) | Self::Declined(_) | Self::Pending { .. } | Self::Unprocessable { .. } => false,
        }
    }
}

impl QueryOutcome {
    /// What may follow this answer about an operation that was last sent at `last_sent_at`. `asked_at` is when the question was *sent*.
    pub fn next_move(
        self,
        capabilities: &Capabilities,
        last_sent_at: Timestamp,
        asked_at: Timestamp,
    ) -> NextMove {
        let conclusive_at = last_sent_at.plus(capabilities.query_conclusive_after);
        match self {
            Self::Done { receipt, .. } => NextMove::RecordDone(receipt),
            Self::Declined(decline) => NextMove::RecordDeclined(decline),
            Self::Pending { .. } => NextMove::Query(None),
            // It may still arrive, but a bank that knows its keys will then do it once all the same.
            Self::NotFound if capabilities.idempotent_ops || asked_at >= conclusive_at => {
                NextMove::Send(None)
            }
            Self::NotFound => NextMove::Query(Some(conclusive_at)),
            Self::Unanswered { retry_at, .. } => NextMove::Query(retry_at),
        }
    }

    pub(crate) const fn is_transport_failure(&self) -> bool {
        match self {
            Self::Unanswered { .. } => true,
            Self::Done { .. } | Self::Declined(_) | Self::Pending { .. } | Self::NotFound => false,
        }
    }
}

/// Which of our own accounts at a bank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnAccount {
    /// What backs the tokens: captures come in here, credits go out.
    Reserve,
    /// Where an escrow bank keeps funds that are held, neither the debtor's nor ours.
    Escrow,
}

/// What is on our accounts at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balances {
    /// Every statement entry with `booked_at` up to and including this instant is contained, and no other.
    pub as_of: Timestamp,
    /// One line per account and currency.
    pub accounts: Vec<(OwnAccount, Money)>,
}

impl Balances {
    /// The reserve in `currency`; zero when there is no such account.
    pub fn reserve(&self, currency: Currency) -> Money {
        self.accounts
            .iter()
            .find(|(account, money)| *account == OwnAccount::Reserve && money.currency() == currency)
            .map_or(Money::zero(currency), |(_, money)| *money)
    }
}

/// Which part of a statement is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatementRequest {
    /// Entries after this sequence number; 0 starts at the beginning. The cursor: hand in `next_after` of the last page.
    pub after: u64,
    /// Only entries booked up to and including this instant.
    pub booked_until: Timestamp,
    /// At most so many entries.
    pub entries_max: usize,
}

/// Consecutive entries of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementPage {
    /// In order of booking, without a gap.
    pub entries: Vec<StatementEntry>,
    /// The cursor of the next page.
    pub next_after: u64,
    /// Is there more within the range?
    pub has_more: bool,
}

/// One booking on one of our accounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementEntry {
    /// Position in the bank's books: consecutive, so that a missing entry shows.
    pub sequence: u64,
    /// Which account.
    pub account: OwnAccount,
    /// What it changed: positive came in, negative went out.
    pub change: Money,
    /// When it was booked; strictly increasing.
    pub booked_at: Timestamp,
    /// The operation it belongs to; none for funding of the account itself.
    pub key: Option<OperationKey>,
    /// The bank's reference, the same as in the receipt.
    pub reference: String,
    /// What the bank writes beside it; empty for most.
    pub text: String,
    /// From when it counts, where that is not when it was booked.
    pub value_at: Option<Timestamp>,
    /// A return of an earlier entry.
    pub is_return: bool,
}

/// Why a bank's records could not be read. Reading again is always safe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No answer, or none that can be read: try again later.
    #[error("bank {} did not answer: {cause}", bank.as_str())]
    Unavailable {
        /// Which bank.
        bank: BankCode,
        /// What went wrong.
        cause: String,
    },
    /// The answer lacks something that it should contain: try again later, and count it as a break when it persists.
    #[error("the answer of bank {} is incomplete: {what}", bank.as_str())]
    Incomplete {
        /// Which bank.
        bank: BankCode,
        /// What is missing.
        what: String,
    },
    /// The bank says no, and will say so again.
    #[error("bank {} refuses: {text}", bank.as_str())]
    Refused {
        /// Which bank.
        bank: BankCode,
        /// Its words.
        text: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPABILITIES: Capabilities = Capabilities {
        hold_mode: HoldMode::Native,
        idempotent_ops: false,
        query_conclusive_after: Duration::from_secs(30),
        operations_max: 100,
        hold_ttl_max: Duration::from_secs(3600),
    };

    #[test]
    fn an_operation_is_sent_again_only_when_nothing_can_have_arrived() {
        let sent = Timestamp::from_secs(100);
        let not_sent = || Outcome::NotSent { cause: String::new(), retry_at: None };
        assert_eq!(not_sent().next_move(Earlier::NeverSent), NextMove::Send(None));
        assert_eq!(not_sent().next_move(Earlier::MaybeSent(sent)), NextMove::Query(None));
        for before in [Earlier::NeverSent, Earlier::MaybeSent(sent)] {
            let unknown = Outcome::Unknown { cause: String::new() };
            assert_eq!(unknown.next_move(before), NextMove::Query(None));
        }

        let not_found =
            |asked_at| QueryOutcome::NotFound.next_move(&CAPABILITIES, sent, Timestamp::from_secs(asked_at));
        assert_eq!(
            not_found(129),
            NextMove::Query(Some(Timestamp::from_secs(130))),
            "it may still be on its way"
        );
        assert_eq!(not_found(130), NextMove::Send(None));
        let idempotent = Capabilities { idempotent_ops: true, ..CAPABILITIES };
        assert_eq!(QueryOutcome::NotFound.next_move(&idempotent, sent, sent), NextMove::Send(None));
        let later = Timestamp::from_secs(1_000);
        for capabilities in [&CAPABILITIES, &idempotent] {
            let unanswered = QueryOutcome::Unanswered { cause: String::new(), retry_at: Some(later) };
            assert_eq!(
                unanswered.next_move(capabilities, sent, later),
                NextMove::Query(Some(later)),
                "a question without an answer says nothing, however late it was asked"
            );
        }
    }

    #[test]
    fn a_key_known_with_other_content_is_neither_done_nor_declined() {
        let conflict = Outcome::Unprocessable { text: "other amount".into() };
        assert_eq!(conflict.next_move(Earlier::NeverSent), NextMove::Escalate("other amount".into()));
    }
}
