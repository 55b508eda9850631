//! Which entry would make our books follow the bank's, kind by kind.
//!
//! Only a proposal: an entry is posted when two people want it. Where a question to the bank or a look at the chain comes
//! first, there is none.

use crate::break_kind::BreakKind;
use flowbridge_domain::ledger::Contra;

/// Where the other leg goes, and what the entry adds to the reserve; none where an entry is not what puts it right.
pub const fn proposed(kind: BreakKind, minor_units: i128) -> Option<(Contra, i128)> {
    match kind {
        BreakKind::UnpostedBankFee | BreakKind::FeeDeducted | BreakKind::FxRounding => {
            Some((Contra::Charges, minor_units))
        }
        BreakKind::UnexpectedReceipt
        | BreakKind::UnexpectedDebit
        | BreakKind::ReturnNotPosted
        | BreakKind::DuplicateBankLine
        | BreakKind::FxSpread
        | BreakKind::OtherAmount
        | BreakKind::TransposedDigits
        | BreakKind::BatchSum
        | BreakKind::WrongAccount
        | BreakKind::WrongCurrency => Some((Contra::Suspense, minor_units)),
        BreakKind::DuplicateLedgerEntry => Some((Contra::Suspense, minor_units.saturating_neg())),
        BreakKind::InTransit
        | BreakKind::OverdueAtBank
        | BreakKind::ValueDate
        | BreakKind::InstalmentIncomplete
        | BreakKind::ChainWithoutLedger
        | BreakKind::LedgerWithoutChain
        | BreakKind::ChainAmount
        | BreakKind::NotFinal
        | BreakKind::SupplyNotReserve
        | BreakKind::StatementGap
        | BreakKind::AmbiguousTwin => None,
    }
}

/// What an entry would add to the reserve if the difference were written off: where none is proposed, what the bank does
/// not have is taken out of our books.
pub fn written_off(kind: BreakKind, minor_units: i128) -> i128 {
    match proposed(kind, minor_units) {
        Some((_, change)) => change,
        None if matches!(kind, BreakKind::OverdueAtBank | BreakKind::InstalmentIncomplete) => {
            minor_units.saturating_neg()
        }
        None => 0,
    }
}
