//! What can be wrong, who looks after it, and what would put it right.
//!
//! A proposal is never posted by this crate: it is a sentence with an amount for a person to approve.

use serde::{Deserialize, Serialize};

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $code:literal, $owner:literal, $proposal:literal;)*) => {
        /// A kind of difference that remains after matching.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum BreakKind { $($(#[$doc])* $kind,)* }

        impl BreakKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The name in reports.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$kind => $code,)* }
            }

            /// Whose desk it is for.
            pub const fn owner(self) -> &'static str {
                match self { $(Self::$kind => $owner,)* }
            }

            /// What would put it right.
            pub const fn proposal(self) -> &'static str {
                match self { $(Self::$kind => $proposal,)* }
            }
        }
    };
}

kinds! {
    /// Entered in the ledger days ago at most; the bank will follow.
    InTransit = "in_transit", "nobody", "wait for the bank";
    /// The bank should have booked it by now.
    OverdueAtBank = "overdue_at_bank", "payments", "ask the bank for the payment's status";
    /// Money came that nobody expected.
    UnexpectedReceipt = "unexpected_receipt", "receivables", "post to suspense and find its owner";
    /// Money left that nobody ordered.
    UnexpectedDebit = "unexpected_debit", "treasury", "ask the bank; recall if it was not ours";
    /// The bank charged a fee that is not in the ledger.
    UnpostedBankFee = "unposted_bank_fee", "treasury", "post the fee to bank charges";
    /// A bank on the way took its fee out of the amount.
    FeeDeducted = "fee_deducted", "receivables", "post the difference to bank charges";
    /// Rounding of a conversion.
    FxRounding = "fx_rounding", "receivables", "post the difference to rounding";
    /// The rate differed a little from ours.
    FxSpread = "fx_spread", "treasury", "post the difference to exchange differences";
    /// Two neighbouring digits exchanged.
    TransposedDigits = "transposed_digits", "accounting", "correct the ledger entry";
    /// Another amount, for no reason that shows.
    OtherAmount = "other_amount", "receivables", "ask the other party; keep the difference open";
    /// The bank booked the same line twice.
    DuplicateBankLine = "duplicate_bank_line", "treasury", "ask the bank to reverse one line";
    /// The ledger holds the same entry twice.
    DuplicateLedgerEntry = "duplicate_ledger_entry", "accounting", "reverse one entry";
    /// The bank returned a payment; the ledger does not know.
    ReturnNotPosted = "return_not_posted", "payments", "post the return against the payment";
    /// It arrived on another of our accounts.
    WrongAccount = "wrong_account", "treasury", "post a transfer between the accounts";
    /// It arrived in another currency.
    WrongCurrency = "wrong_currency", "treasury", "post the conversion";
    /// The bank counts it from another day.
    ValueDate = "value_date", "treasury", "claim or pay the interest";
    /// A batch was booked with another sum than its parts have.
    BatchSum = "batch_sum", "payments", "find the part that was left out";
    /// Instalments do not reach the whole yet.
    InstalmentIncomplete = "instalment_incomplete", "receivables", "keep the rest open";
    /// The chain settled a payment that the ledger does not know.
    ChainWithoutLedger = "chain_without_ledger", "operations", "stop minting; post only after the cause is known";
    /// The ledger says settled; the chain does not.
    LedgerWithoutChain = "ledger_without_chain", "operations", "reverse the settlement or submit again";
    /// The chain settled another amount.
    ChainAmount = "chain_amount", "operations", "stop minting; correct by an entry";
    /// Settled in a block that is not final or was taken back.
    NotFinal = "not_final", "operations", "wait for finality; reverse if it does not come";
    /// Tokens in being differ from the money held for them.
    SupplyNotReserve = "supply_not_reserve", "operations", "stop minting and payouts";
    /// A statement is missing or does not follow from the one before.
    StatementGap = "statement_gap", "treasury", "ask the bank for the missing statement";
    /// Two records are alike in everything; which is which cannot be known.
    AmbiguousTwin = "ambiguous_twin", "nobody", "either pairing is right; confirm once";
}
