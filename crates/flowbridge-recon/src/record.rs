//! The canonical record: whatever a ledger, a chain or a bank reports, as one shape that can be compared.
//!
//! Amounts are signed minor units, credits to the account positive, never floats. What a source does not know is empty,
//! never guessed. Records are compared only within a shard: the same account in the same currency.

use crate::date::Date;
use flowbridge_domain::money::Currency;
use std::sync::Arc;

/// One line of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The source's own id of the line, unique within the source.
    pub id: Box<str>,
    /// The account the line is on; shared between the lines of that account.
    pub account: Arc<str>,
    /// The account's currency.
    pub currency: Currency,
    /// What the line adds to the account, in minor units; negative when it takes away.
    pub minor_units: i128,
    /// The day it was booked (bank) or entered (ledger).
    pub booked_on: Date,
    /// The day from which it counts, where the source says so.
    pub value_on: Option<Date>,
    /// End-to-end id, UETR or whatever else names this one payment. Empty when unknown.
    pub reference: Box<str>,
    /// Id of the batch the line was sent or booked in. Empty when it stands alone.
    pub batch: Box<str>,
    /// The other party's account. Empty when unknown.
    pub counterparty_iban: Box<str>,
    /// The other party's name. Empty when unknown.
    pub counterparty: Box<str>,
    /// Free text: remittance information, invoice numbers.
    pub text: Box<str>,
    /// How it travelled: a bank's transaction code, a rail's name. Empty when unknown.
    pub rail: Box<str>,
    /// A return or reversal of an earlier line.
    pub is_return: bool,
}

impl Record {
    /// Which records it may be compared with.
    pub fn shard(&self) -> (&str, Currency) {
        (&self.account, self.currency)
    }
}

/// Where the records of one shard lie in the two sources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shard {
    /// Positions in the ledger's records.
    pub ledger: Vec<u32>,
    /// Positions in the bank's records.
    pub bank: Vec<u32>,
}

/// Puts records into shards, in the order of account and currency, and each shard's records in an order of their own
/// contents: what comes out must not depend on the order in which records came in.
pub fn shards(ledger: &[Record], bank: &[Record]) -> Vec<Shard> {
    let mut shards: std::collections::BTreeMap<(&str, &str), Shard> = std::collections::BTreeMap::new();
    for (index, record) in ledger.iter().enumerate() {
        shards.entry((&record.account, record.currency.code())).or_default().ledger.push(index as u32);
    }
    for (index, record) in bank.iter().enumerate() {
        shards.entry((&record.account, record.currency.code())).or_default().bank.push(index as u32);
    }
    let mut shards: Vec<Shard> = shards.into_values().collect();
    for shard in &mut shards {
        order_by_contents(ledger, &mut shard.ledger);
        order_by_contents(bank, &mut shard.bank);
    }
    shards
}

fn order_by_contents(records: &[Record], positions: &mut [u32]) {
    positions.sort_by(|a, b| {
        let (a, b) = (&records[*a as usize], &records[*b as usize]);
        (a.booked_on, a.minor_units, &a.id, &a.reference, &a.counterparty, &a.text).cmp(&(
            b.booked_on,
            b.minor_units,
            &b.id,
            &b.reference,
            &b.counterparty,
            &b.text,
        ))
    });
}
