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
        None if kind == BreakKind::OverdueAtBank => minor_units.saturating_neg(),
        // What is still to come is told as what the bank has more, which is less than nothing.
        None if kind == BreakKind::InstalmentIncomplete => minor_units,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_bank_does_not_have_is_taken_out_of_our_books() {
        assert_eq!(written_off(BreakKind::OverdueAtBank, 100), -100, "an entry of 100 that has no line");
        assert_eq!(written_off(BreakKind::InstalmentIncomplete, -20), -20, "lines of 80 for an entry of 100");
    }
}
