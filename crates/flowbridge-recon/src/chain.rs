//! Ledger against chain, by the payment id that stands in both.
//!
//! An event counts once, by transaction and log index, and only when its block is final and was not taken back. Nothing
//! is inferred here: a payment id is random and 128 bits long, so equality is proof and everything else is a break.

use crate::record::Record;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What the watcher saw of one settlement event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainEvent {
    /// The transaction's hash.
    pub tx_hash: Box<str>,
    /// Place of the log in its transaction.
    pub log_index: u32,
    /// The payment that was settled.
    pub payment_id: Box<str>,
    /// Settled amount in minor units of the ledger's currency, with the ledger's sign.
    pub minor_units: i128,
    /// Is its block final?
    pub is_final: bool,
    /// Was its block taken back by a reorganisation?
    pub is_removed: bool,
    /// Did the transaction fail?
    pub is_failed: bool,
}

/// What was found about one payment. Positions are those of the given slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChainFinding {
    /// Ledger entry and event agree.
    Settled {
        /// Position of the ledger entry.
        ledger: u32,
        /// Position of the event.
        event: u32,
    },
    /// Both exist with different amounts.
    Amount {
        /// Position of the ledger entry.
        ledger: u32,
        /// Position of the event.
        event: u32,
    },
    /// The ledger says settled; the chain knows nothing, or its transaction failed.
    LedgerOnly {
        /// Position of the ledger entry.
        ledger: u32,
    },
    /// The chain settled what the ledger does not know.
    ChainOnly {
        /// Position of the event.
        event: u32,
    },
    /// The ledger relied on a block that is not final, or was taken back.
    NotFinal {
        /// Position of the ledger entry.
        ledger: u32,
        /// Position of the event.
        event: u32,
    },
}

/// Compares settled ledger entries, named by their payment's id, with events.
pub fn compare(ledger: &[Record], events: &[ChainEvent]) -> Vec<ChainFinding> {
    let mut seen = BTreeSet::new();
    let mut by_payment: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for (position, event) in events.iter().enumerate() {
        // The same log reported twice (after a re-index) is the same log; taken back and seen again is two.
        if seen.insert((&event.tx_hash, event.log_index, event.is_removed)) {
            by_payment.entry(&event.payment_id).or_default().push(position as u32);
        }
    }
    let mut entries: HashMap<&str, u32> = HashMap::new();
    for (position, record) in ledger.iter().enumerate() {
        entries.entry(&record.id).or_insert(position as u32);
    }
    let mut findings = Vec::new();
    for (payment, positions) in &by_payment {
        let of = |wanted: fn(&ChainEvent) -> bool| {
            positions.iter().copied().filter(move |position| wanted(&events[*position as usize]))
        };
        let mut settled = of(|event| event.is_final && !event.is_removed && !event.is_failed);
        let shaky = of(|event| (event.is_removed || !event.is_final) && !event.is_failed).next();
        let Some(entry) = entries.remove(payment) else {
            findings.extend(settled.map(|event| ChainFinding::ChainOnly { event }));
            continue;
        };
        let agrees = |event: u32| ledger[entry as usize].minor_units == events[event as usize].minor_units;
        findings.push(match (settled.next(), shaky) {
            (Some(event), _) if agrees(event) => ChainFinding::Settled { ledger: entry, event },
            (Some(event), _) => ChainFinding::Amount { ledger: entry, event },
            (None, Some(event)) => ChainFinding::NotFinal { ledger: entry, event },
            (None, None) => ChainFinding::LedgerOnly { ledger: entry },
        });
        // The ledger knows one settlement of a payment.
        findings.extend(settled.map(|event| ChainFinding::ChainOnly { event }));
    }
    findings.extend(entries.into_values().map(|ledger| ChainFinding::LedgerOnly { ledger }));
    findings.sort_unstable();
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::date::Date;
    use flowbridge_domain::money::Currency;
    use std::sync::Arc;

    fn entry(id: &str) -> Record {
        Record {
            id: id.into(),
            account: Arc::from("chain:EUR"),
            currency: Currency::parse("EUR").unwrap(),
            minor_units: 500,
            booked_on: Date::from_epoch_days(0),
            value_on: None,
            reference: id.into(),
            batch: "".into(),
            counterparty_iban: "".into(),
            counterparty: "".into(),
            text: "".into(),
            rail: "".into(),
            is_return: false,
        }
    }

    fn settled(tx_hash: &str, payment: &str) -> ChainEvent {
        ChainEvent {
            tx_hash: tx_hash.into(),
            log_index: 0,
            payment_id: payment.into(),
            minor_units: 500,
            is_final: true,
            is_removed: false,
            is_failed: false,
        }
    }

    #[test]
    fn each_further_settlement_of_a_payment_is_reported() {
        let events = [settled("0x1", "a"), settled("0x2", "a"), settled("0x2", "a"), settled("0x3", "a")];
        let (second, third) = (ChainFinding::ChainOnly { event: 1 }, ChainFinding::ChainOnly { event: 3 });
        let first = ChainFinding::Settled { ledger: 0, event: 0 };
        assert_eq!(compare(&[entry("a")], &events), [first, second, third]);
        assert_eq!(compare(&[], &events), [ChainFinding::ChainOnly { event: 0 }, second, third]);
    }
}
