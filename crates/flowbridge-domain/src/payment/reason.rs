//! Why a payment is undone, failed, or waits for a person.

use super::{Decision, SetAside};
use crate::bank::ReasonCode;
use std::fmt;

/// Why a payment does not go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// The client, or an operator, revoked it.
    Revoked,
    /// It was not settled in time.
    Expired,
    /// It was not initiated on chain in time.
    NotInitiated,
    /// The debtor's bank declined.
    HoldDeclined(ReasonCode),
    /// The bank's hold would not outlive settlement.
    HoldTooShort,
    /// The bank let go of the hold before settlement.
    HoldExpired,
    /// The chain closed it at initiation, or would have.
    SetAside(SetAside),
    /// The debtor took the escrow back after expiry.
    Reclaimed,
    /// A person decided so.
    Reviewed,
}

const SET_ASIDE: [(SetAside, &str); 5] = [
    (SetAside::NotFunded, "not_funded"),
    (SetAside::Frozen, "wallet_frozen"),
    (SetAside::Unregistered, "wallet_unregistered"),
    (SetAside::Unauthorized, "not_authorized"),
    (SetAside::Invalid, "not_valid"),
];

const PLAIN: [(EndReason, &str); 7] = [
    (EndReason::Revoked, "revoked"),
    (EndReason::Expired, "expired"),
    (EndReason::NotInitiated, "not_initiated"),
    (EndReason::HoldTooShort, "hold_too_short"),
    (EndReason::HoldExpired, "hold_expired"),
    (EndReason::Reclaimed, "reclaimed"),
    (EndReason::Reviewed, "reviewed"),
];

const HOLD_DECLINED: &str = "hold_declined:";

impl EndReason {
    /// Reads the text form.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(code) = text.strip_prefix(HOLD_DECLINED) {
            return ReasonCode::parse(code).map(Self::HoldDeclined);
        }
        let plain = PLAIN.iter().find(|(_, name)| *name == text).map(|(reason, _)| *reason);
        plain.or_else(|| SetAside::parse(text).map(Self::SetAside))
    }
}

/// `revoked`, `hold_declined:AM04`, `wallet_frozen`…
impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HoldDeclined(code) => write!(f, "{HOLD_DECLINED}{code}"),
            Self::SetAside(why) => f.write_str(why.as_str()),
            Self::Revoked
            | Self::Expired
            | Self::NotInitiated
            | Self::HoldTooShort
            | Self::HoldExpired
            | Self::Reclaimed
            | Self::Reviewed => f.write_str(name_in(&PLAIN, self)),
        }
    }
}

impl SetAside {
    /// The name in tables and on the wire.
    pub fn as_str(self) -> &'static str {
        name_in(&SET_ASIDE, &self)
    }

    /// Reads the name.
    pub fn parse(text: &str) -> Option<Self> {
        SET_ASIDE.iter().find(|(_, name)| *name == text).map(|(why, _)| *why)
    }
}

/// Why a person has to look at a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReviewReason {
    /// Chain or bank said something that cannot be, given what they said before.
    Contradiction,
    /// The creditor's wallet cannot receive; the payment was set aside at settlement.
    CreditorBlocked,
    /// Settled on chain, but the debtor's bank declined the capture.
    CaptureFailed,
    /// A bank neither does what it was asked for nor says that it will not.
    BankRefused,
    /// Bank money moved, but the settlement that it was for is gone.
    FundsMovedWithoutSettlement,
}

const REVIEW: [(ReviewReason, &str); 5] = [
    (ReviewReason::Contradiction, "contradiction"),
    (ReviewReason::CreditorBlocked, "creditor_blocked"),
    (ReviewReason::CaptureFailed, "capture_failed"),
    (ReviewReason::BankRefused, "bank_refused"),
    (ReviewReason::FundsMovedWithoutSettlement, "funds_moved_without_settlement"),
];

impl ReviewReason {
    /// The name in tables and on the wire.
    pub fn as_str(self) -> &'static str {
        name_in(&REVIEW, &self)
    }

    /// Reads the name.
    pub fn parse(text: &str) -> Option<Self> {
        REVIEW.iter().find(|(_, name)| *name == text).map(|(why, _)| *why)
    }
}

const DECISIONS: [(Decision, &str); 4] = [
    (Decision::Resume, "resume"),
    (Decision::Cancel, "cancel"),
    (Decision::CloseCompleted, "close_completed"),
    (Decision::CloseFailed, "close_failed"),
];

impl Decision {
    /// The name in tables and on the wire.
    pub fn as_str(self) -> &'static str {
        name_in(&DECISIONS, &self)
    }

    /// Reads the name.
    pub fn parse(text: &str) -> Option<Self> {
        DECISIONS.iter().find(|(_, name)| *name == text).map(|(decision, _)| *decision)
    }
}

fn name_in<T: PartialEq>(names: &[(T, &'static str)], value: &T) -> &'static str {
    names.iter().find(|(known, _)| known == value).map_or("", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_its_text() {
        let declined = EndReason::HoldDeclined(ReasonCode::INSUFFICIENT_FUNDS);
        let reasons = PLAIN
            .map(|(reason, _)| reason)
            .into_iter()
            .chain(SET_ASIDE.map(|(why, _)| EndReason::SetAside(why)));
        for reason in reasons.chain([declined]) {
            assert_eq!(EndReason::parse(&reason.to_string()), Some(reason));
        }
        assert_eq!(declined.to_string(), "hold_declined:AM04");
        assert_eq!(EndReason::parse(""), None);
    }
}
