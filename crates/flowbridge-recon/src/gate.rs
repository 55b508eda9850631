//! Gates before matching: is there a statement for every day, do the sums agree, is every token backed?
//!
//! Lines can match perfectly while a whole statement is missing, so these are checked first and reported as breaks of
//! the account. Integers throughout; a sum that does not fit counts as one that does not agree.

use crate::break_kind::BreakKind;
use crate::engine::{Break, Subject};
use flowbridge_domain::money::Currency;
use std::collections::BTreeMap;

/// What a statement says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementHead {
    /// The bank account.
    pub account: String,
    /// Its currency.
    pub currency: Currency,
    /// Number of the statement, where the bank counts them.
    pub sequence: Option<u64>,
    /// Booked balance before the first entry.
    pub opening_minor_units: i128,
    /// Booked balance after the last entry.
    pub closing_minor_units: i128,
    /// Signed sum of the entries.
    pub entries_minor_units: i128,
}

/// Tokens in being and the money held for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserve {
    /// The reserve account.
    pub account: String,
    /// Tokens in being, in minor units of the reserve.
    pub supply_minor_units: i128,
    /// Money held.
    pub held_minor_units: i128,
}

/// Accounts whose statements do not follow from each other, or whose entries do not lead from opening to closing.
/// Heads are in the order of the statements.
pub fn statement_gaps(heads: &[StatementHead]) -> Vec<Break> {
    let mut accounts: BTreeMap<(&str, &str), Vec<&StatementHead>> = BTreeMap::new();
    for head in heads {
        accounts.entry((&head.account, head.currency.code())).or_default().push(head);
    }
    let mut breaks = Vec::new();
    for ((account, _), heads) in accounts {
        let mut off: Option<i128> = None;
        for head in &heads {
            let reached = head.opening_minor_units.checked_add(head.entries_minor_units);
            if reached != Some(head.closing_minor_units) {
                off.get_or_insert(
                    head.closing_minor_units.saturating_sub(reached.unwrap_or(head.opening_minor_units)),
                );
            }
        }
        for pair in heads.windows(2) {
            let skips =
                matches!((pair[0].sequence, pair[1].sequence), (Some(a), Some(b)) if b > a.saturating_add(1));
            if skips || pair[0].closing_minor_units != pair[1].opening_minor_units {
                off.get_or_insert(pair[1].opening_minor_units.saturating_sub(pair[0].closing_minor_units));
            }
        }
        breaks.extend(off.map(|minor_units| Break {
            kind: BreakKind::StatementGap,
            subject: Subject::Account(account.to_owned()),
            minor_units,
            age_days: 0,
        }));
    }
    breaks
}

/// Reserves that do not hold exactly what is in being.
pub fn unbacked(reserves: &[Reserve]) -> Vec<Break> {
    reserves
        .iter()
        .filter(|reserve| reserve.supply_minor_units != reserve.held_minor_units)
        .map(|reserve| Break {
            kind: BreakKind::SupplyNotReserve,
            subject: Subject::Account(reserve.account.clone()),
            minor_units: reserve.supply_minor_units.saturating_sub(reserve.held_minor_units),
            age_days: 0,
        })
        .collect()
}
