//! The vocabulary of a bank leg: what we ask a bank for, under which key, and why it may say no.

use crate::id::PaymentId;
use std::fmt;

/// How a bank reserves funds; said by its connector's capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HoldMode {
    /// The bank has a hold of its own: funds stay on the account, reserved.
    Native,
    /// Funds move to an escrow account of ours at the bank; a release sends them back.
    Escrow,
    /// The bank only confirms that funds are there: they are captured before settlement, and sent back if it fails.
    ConfirmOnly,
}

/// One of the operations that a payment asks of a bank. Each is asked for at most once per payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BankStep {
    /// Reserve the debtor's funds.
    PlaceHold,
    /// Take the reserved funds into our account at the debtor's bank.
    Capture,
    /// Give the reserved (with [`HoldMode::ConfirmOnly`]: the captured) funds back. Leaves a tombstone: a hold placed later is refused.
    Release,
    /// Pay the creditor from our account at the creditor's bank.
    Credit,
}

impl BankStep {
    /// All steps, in the order of a payment's life.
    pub const ALL: [Self; 4] = [Self::PlaceHold, Self::Capture, Self::Release, Self::Credit];

    /// The name in keys, tables and events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PlaceHold => "place_hold",
            Self::Capture => "capture",
            Self::Release => "release",
            Self::Credit => "credit",
        }
    }

    /// Reads [`BankStep::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.as_str() == text)
    }
}

/// The key under which a bank knows an operation: payment and step, never the attempt. Asking twice under one key is
/// asking once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationKey {
    /// The payment.
    pub payment_id: PaymentId,
    /// What is asked for.
    pub step: BankStep,
}

impl OperationKey {
    /// Reads the text form.
    pub fn parse(text: &str) -> Option<Self> {
        let (payment, step) = text.split_once('.')?;
        Some(Self { payment_id: PaymentId::parse(payment).ok()?, step: BankStep::parse(step)? })
    }
}

/// `pay_….capture`
impl fmt::Display for OperationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.payment_id, self.step.as_str())
    }
}

/// An ISO 20022 `ExternalStatusReason1Code`, such as `AM04` (insufficient funds): why a bank or we refuse.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReasonCode([u8; 4]);

impl ReasonCode {
    /// `AC01`: the account number is not valid.
    pub const INCORRECT_ACCOUNT_NUMBER: Self = Self(*b"AC01");
    /// `AC03`: the creditor's account number is not valid.
    pub const INVALID_CREDITOR_ACCOUNT: Self = Self(*b"AC03");
    /// `AC04`: the account is closed.
    pub const CLOSED_ACCOUNT: Self = Self(*b"AC04");
    /// `AC06`: the account is blocked.
    pub const BLOCKED_ACCOUNT: Self = Self(*b"AC06");
    /// `AM04`: not enough funds.
    pub const INSUFFICIENT_FUNDS: Self = Self(*b"AM04");
    /// `AM05`: a duplicate.
    pub const DUPLICATION: Self = Self(*b"AM05");
    /// `MS03`: no reason given.
    pub const NOT_SPECIFIED: Self = Self(*b"MS03");

    /// Reads a code: exactly four upper-case letters or digits.
    pub fn parse(text: &str) -> Option<Self> {
        let code: [u8; 4] = text.as_bytes().try_into().ok()?;
        code.iter().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit()).then_some(Self(code))
    }

    /// The code.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
