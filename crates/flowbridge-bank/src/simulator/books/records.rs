//! What the books are written in: records, the keys they stand under, and the codes of currencies and reasons.

use super::decide::Case;
use super::{BooksError, Result};
use crate::connector::{Decline, Operation, OperationKind, OwnAccount, Receipt};
use flowbridge_domain::bank::{BankStep, OperationKey, ReasonCode};
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::money::{Currency, Money};
use flowbridge_domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A customer's or one of our own accounts.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(in crate::simulator) struct Account {
    pub(super) currency: [u8; 3],
    pub(in crate::simulator) posted: i128,
    pub(in crate::simulator) held: i128,
    pub(in crate::simulator) frozen: bool,
    pub(in crate::simulator) closed: bool,
}

impl Account {
    pub(super) fn new(currency: Currency) -> Self {
        Self { currency: code_of(currency), posted: 0, held: 0, frozen: false, closed: false }
    }

    pub(in crate::simulator) fn currency(&self) -> Result<Currency> {
        currency_of(self.currency)
    }

    pub(in crate::simulator) fn available(&self) -> i128 {
        self.posted.saturating_sub(self.held)
    }
}

/// What is kept of an operation: enough to answer it again and to notice other content under the same key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct OperationRecord {
    pub(super) content: [u8; 16],
    pub(super) reference: u64,
    pub(super) answer: Answer,
    /// What to do when it is decided later.
    pub(super) deferred: Option<Request>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Answer {
    Done { booked_at: i64, hold_expires_at: Option<i64> },
    Declined { reason: [u8; 4], text: String },
    Pending,
}

/// An operation as far as the books are concerned.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Request {
    PlaceHold { account: String, amount: i128, currency: [u8; 3], until: i64 },
    Capture { account: String, amount: i128, currency: [u8; 3] },
    Release,
    Credit { account: String, amount: i128, currency: [u8; 3] },
}

impl Request {
    /// The same; a hold ends at `end` at the latest.
    pub(super) fn held_until(mut self, end: Timestamp) -> Self {
        if let Self::PlaceHold { until, .. } = &mut self {
            *until = (*until).min(end.as_micros());
        }
        self
    }

    pub(super) fn of(kind: &OperationKind) -> Self {
        let money = |amount: &Money| (amount.minor_units(), code_of(amount.currency()));
        match kind {
            OperationKind::PlaceHold { account, amount, until } => {
                let (amount, currency) = money(amount);
                Self::PlaceHold {
                    account: account.as_str().into(),
                    amount,
                    currency,
                    until: until.as_micros(),
                }
            }
            OperationKind::Capture { account, amount } => {
                let (amount, currency) = money(amount);
                Self::Capture { account: account.as_str().into(), amount, currency }
            }
            OperationKind::Release => Self::Release,
            OperationKind::Credit { account, amount, .. } => {
                let (amount, currency) = money(amount);
                Self::Credit { account: account.as_str().into(), amount, currency }
            }
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Hold {
    pub(super) account: String,
    pub(super) amount: i128,
    pub(super) currency: [u8; 3],
    pub(super) expires_at: i64,
    pub(super) status: Status,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Status {
    Active,
    Captured,
    Released,
    Expired,
    /// Released before it was placed.
    Tombstone,
}

/// A booking on one of our own accounts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::simulator) struct Entry {
    pub(super) escrow: bool,
    pub(super) change: i128,
    pub(super) currency: [u8; 3],
    pub(in crate::simulator) booked_at: i64,
    pub(super) key: Option<[u8; 17]>,
    pub(super) reference: u64,
}

impl Entry {
    /// What an operation did to one of our accounts; booked when it is written.
    pub(super) fn of(account: OwnAccount, change: i128, currency: [u8; 3], case: Case) -> Self {
        let key = Some(key_bytes(case.key));
        Self {
            escrow: account == OwnAccount::Escrow,
            change,
            currency,
            booked_at: 0,
            key,
            reference: case.reference,
        }
    }

    /// Money that came to our reserve from outside.
    pub(super) fn funding(change: i128, currency: [u8; 3], reference: u64) -> Self {
        Self { escrow: false, change, currency, booked_at: 0, key: None, reference }
    }

    pub(in crate::simulator) fn account(&self) -> OwnAccount {
        if self.escrow { OwnAccount::Escrow } else { OwnAccount::Reserve }
    }

    pub(in crate::simulator) fn change(&self) -> Result<Money> {
        Ok(Money::new(self.change, currency_of(self.currency)?))
    }

    pub(in crate::simulator) fn key(&self) -> Result<Option<OperationKey>> {
        self.key.map(key_of).transpose()
    }

    pub(in crate::simulator) fn reference(&self) -> u64 {
        self.reference
    }
}

pub(super) fn code_of(currency: Currency) -> [u8; 3] {
    currency.code().as_bytes().try_into().unwrap_or_default()
}

pub(super) fn currency_of(code: [u8; 3]) -> Result<Currency> {
    let code = std::str::from_utf8(&code).map_err(|_| BooksError::Corrupt("a currency code is not text"))?;
    Currency::parse(code).map_err(|_| BooksError::Corrupt("an account has a currency that does not exist"))
}

pub(super) fn receipt(reference: String, booked_at: i64, hold_expires_at: Option<i64>) -> Receipt {
    Receipt {
        reference,
        booked_at: Timestamp::from_micros(booked_at),
        hold_expires_at: hold_expires_at.map(Timestamp::from_micros),
    }
}

pub(super) fn decline(reason: &[u8; 4], text: &str) -> Result<Decline> {
    let reason = std::str::from_utf8(reason).ok().and_then(ReasonCode::parse);
    Ok(Decline {
        reason: reason.ok_or(BooksError::Corrupt("a reason that is no code"))?,
        text: text.to_owned(),
    })
}

pub(super) fn declined(reason: ReasonCode, text: impl Into<String>) -> Answer {
    Answer::Declined { reason: reason.as_str().as_bytes().try_into().unwrap_or(*b"MS03"), text: text.into() }
}

pub(super) fn reserve_id(currency: Currency) -> String {
    format!("reserve:{currency}")
}

pub(super) fn escrow_id(currency: Currency) -> String {
    format!("escrow:{currency}")
}

/// Which of our own accounts an id means; none for a customer's. No IBAN contains a colon.
pub(in crate::simulator) fn own_account(id: &str) -> Option<OwnAccount> {
    match id.split_once(':')?.0 {
        "reserve" => Some(OwnAccount::Reserve),
        "escrow" => Some(OwnAccount::Escrow),
        _ => None,
    }
}

pub(super) fn key_bytes(key: OperationKey) -> [u8; 17] {
    let mut bytes = [0; 17];
    bytes[..16].copy_from_slice(key.payment_id.as_uuid().as_bytes());
    bytes[16] = match key.step {
        BankStep::PlaceHold => 0,
        BankStep::Capture => 1,
        BankStep::Release => 2,
        BankStep::Credit => 3,
    };
    bytes
}

pub(super) fn key_of(bytes: [u8; 17]) -> Result<OperationKey> {
    let [payment @ .., step] = bytes;
    let step = BankStep::ALL.get(usize::from(step)).copied();
    Ok(OperationKey {
        payment_id: payment_of(payment),
        step: step.ok_or(BooksError::Corrupt("a key of no step"))?,
    })
}

pub(super) fn payment_of(bytes: [u8; 16]) -> PaymentId {
    PaymentId::from_uuid(uuid::Uuid::from_bytes(bytes))
}

/// Half a SHA-256 over everything an operation says, with lengths so that no two contents run together.
pub(super) fn fingerprint(operation: &Operation) -> [u8; 16] {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    };
    let amount_of = |amount: &Money| {
        [amount.minor_units().to_be_bytes().as_slice(), amount.currency().code().as_bytes()].concat()
    };
    match &operation.kind {
        OperationKind::PlaceHold { account, amount, until } => {
            add(account.as_str().as_bytes());
            add(&amount_of(amount));
            add(&until.as_micros().to_be_bytes());
        }
        OperationKind::Capture { account, amount } => {
            add(account.as_str().as_bytes());
            add(&amount_of(amount));
        }
        OperationKind::Release => {}
        OperationKind::Credit { account, amount, end_to_end_id, remittance_information } => {
            add(account.as_str().as_bytes());
            add(&amount_of(amount));
            add(end_to_end_id.as_deref().unwrap_or_default().as_bytes());
            add(remittance_information.as_ref().map_or("", |text| text.reveal()).as_bytes());
        }
    }
    let digest = hash.finalize();
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    half
}

pub(super) fn encode(record: &impl Serialize) -> Result<Vec<u8>> {
    Ok(postcard::to_allocvec(record)?)
}
