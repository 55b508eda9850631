//! The ledger's rules: which accounts there are, what a journal entry is, what each moment of a payment posts.
//!
//! Double entry, immutable, balanced by construction: an entry names one account to debit, one to credit and one amount,
//! so it cannot be unbalanced; a moment with more legs is several entries. A mistake is put right by a further entry,
//! never by a change. The key of an entry (payment, [`Moment`], round) is unique in the database, so that no moment
//! is ever posted twice.

use crate::id::{AccountId, ParticipantId};
use crate::money::{Money, MoneyError};
use crate::party::BankCode;
use std::collections::BTreeMap;

/// The side on which an account grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Assets and expenses.
    Debit,
    /// What we owe.
    Credit,
}

/// An account of the chart, within one currency.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LedgerAccount {
    /// Our money at a bank. Debit side.
    Reserve(BankCode),
    /// Settled for this debtor's institution, its hold not yet captured. Debit side.
    BankReceivable(ParticipantId),
    /// Tokenized cash that the holder of a customer account owns. Credit side; never below zero.
    Wallet(AccountId),
    /// Tokenized cash that is ours: fees. Credit side.
    WalletHouse,
    /// Tokens in escrow, to be paid out by the creditor's bank. Credit side.
    Redemption(ParticipantId),
    /// Tokens whose bank payout is done and whose burn is not yet seen. Credit side.
    BurnPending,
    /// The other half of the memo pair with [`LedgerAccount::BurnPending`]. Debit side.
    BurnOutstanding,
    /// Settled, but the bank declined the capture. Debit side.
    Loss(ParticipantId),
    /// Chain movements outside our contracts' payments, until a person has named them. Credit side.
    Suspense,
    /// Money on our account at a bank whose owner nobody has named yet, or that is missing there. Credit side.
    BankSuspense(BankCode),
    /// What a bank keeps for its services. Debit side.
    BankCharges(BankCode),
}

impl LedgerAccount {
    /// The side on which it grows.
    pub const fn normal_side(&self) -> Side {
        match self {
            Self::Reserve(_)
            | Self::BankReceivable(_)
            | Self::BurnOutstanding
            | Self::Loss(_)
            | Self::BankCharges(_) => Side::Debit,
            Self::Wallet(_)
            | Self::WalletHouse
            | Self::Redemption(_)
            | Self::BurnPending
            | Self::Suspense
            | Self::BankSuspense(_) => Side::Credit,
        }
    }

    /// The kind in tables and reports.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Reserve(_) => "reserve",
            Self::BankReceivable(_) => "bank_receivable",
            Self::Wallet(_) => "wallet",
            Self::WalletHouse => "wallet_house",
            Self::Redemption(_) => "redemption",
            Self::BurnPending => "burn_pending",
            Self::BurnOutstanding => "burn_outstanding",
            Self::Loss(_) => "loss",
            Self::Suspense => "suspense",
            Self::BankSuspense(_) => "bank_suspense",
            Self::BankCharges(_) => "bank_charges",
        }
    }

    /// Whose it is, as text: a bank code, a participant, an account, or empty where there is only one per currency.
    pub fn owner(&self) -> String {
        match self {
            Self::Reserve(bank) | Self::BankSuspense(bank) | Self::BankCharges(bank) => {
                bank.as_str().to_owned()
            }
            Self::BankReceivable(participant) | Self::Redemption(participant) | Self::Loss(participant) => {
                participant.to_string()
            }
            Self::Wallet(account) => account.to_string(),
            Self::WalletHouse | Self::BurnPending | Self::BurnOutstanding | Self::Suspense => String::new(),
        }
    }
}

/// What happened that an entry records. Unique per payment and round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Moment {
    /// The chain settled it.
    Settled,
    /// Our fee, a leg of the same settlement.
    Fee,
    /// The debtor's bank took the money for us.
    Captured,
    /// Captured money went back to the debtor: a confirm-only bank, and no settlement.
    Returned,
    /// The creditor's bank paid.
    Credited,
    /// The tokens of that payout are to be burned.
    BurnDue,
    /// They are.
    Burned,
    /// The creditor's bank declined: the tokens went to the creditor's wallet.
    RedemptionReleased,
    /// The debtor's bank declined to capture what is settled.
    Loss,
    /// Tokens moved on chain outside our payments.
    CustodyTransfer,
    /// A reorganisation took such a movement back.
    CustodyTransferRemoved,
    /// A reorganisation took the settlement back.
    SettlementRemoved,
    /// A reorganisation took the fee leg back.
    FeeRemoved,
    /// It also took back what a declined capture had made a loss.
    LossRemoved,
    /// A reorganisation took the burn back.
    BurnRemoved,
    /// A reorganisation took the release of a redemption back.
    RedemptionReleaseRemoved,
    /// Two people decided that our books have to follow the bank's.
    Correction,
}

impl Moment {
    /// Every moment.
    pub const ALL: [Self; 17] = [
        Self::Settled,
        Self::Fee,
        Self::Captured,
        Self::Returned,
        Self::Credited,
        Self::BurnDue,
        Self::Burned,
        Self::RedemptionReleased,
        Self::Loss,
        Self::CustodyTransfer,
        Self::CustodyTransferRemoved,
        Self::SettlementRemoved,
        Self::FeeRemoved,
        Self::LossRemoved,
        Self::BurnRemoved,
        Self::RedemptionReleaseRemoved,
        Self::Correction,
    ];

    /// The name in tables and timelines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Fee => "fee",
            Self::Captured => "captured",
            Self::Returned => "returned",
            Self::Credited => "credited",
            Self::BurnDue => "burn_due",
            Self::Burned => "burned",
            Self::RedemptionReleased => "redemption_released",
            Self::Loss => "loss",
            Self::CustodyTransfer => "custody_transfer",
            Self::CustodyTransferRemoved => "custody_transfer_removed",
            Self::SettlementRemoved => "settlement_removed",
            Self::FeeRemoved => "fee_removed",
            Self::LossRemoved => "loss_removed",
            Self::BurnRemoved => "burn_removed",
            Self::RedemptionReleaseRemoved => "redemption_release_removed",
            Self::Correction => "correction",
        }
    }
}

/// One balanced entry: `amount` to the debit of one account and to the credit of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// What it records.
    pub moment: Moment,
    /// Which life of the payment it belongs to: zero, and one more after each reorganisation that took something back.
    pub round: u16,
    /// The account debited.
    pub debit: LedgerAccount,
    /// The account credited.
    pub credit: LedgerAccount,
    /// Always more than zero.
    pub amount: Money,
}

impl JournalEntry {
    /// The entry that offsets this one, under the moment that says why.
    #[must_use]
    pub fn corrected_by(self, moment: Moment) -> Self {
        Self { moment, round: self.round, debit: self.credit, credit: self.debit, amount: self.amount }
    }
}

/// Where the other leg of a correcting entry at a bank goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Contra {
    /// What the bank keeps for its services.
    Charges,
    /// Nobody knows yet whose it is.
    Suspense,
}

impl Contra {
    /// The name in tables and on the wire: the kind of its account.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Charges => "bank_charges",
            Self::Suspense => "bank_suspense",
        }
    }

    /// Reads [`Contra::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Charges, Self::Suspense].into_iter().find(|contra| contra.as_str() == text)
    }

    /// The entry that changes our reserve at `bank` by `change`, which may be negative; none when it changes nothing.
    pub fn entry(self, bank: &BankCode, change: Money) -> Option<JournalEntry> {
        let other = match self {
            Self::Charges => LedgerAccount::BankCharges(bank.clone()),
            Self::Suspense => LedgerAccount::BankSuspense(bank.clone()),
        };
        let reserve = LedgerAccount::Reserve(bank.clone());
        let units = change.minor_units();
        let (debit, credit) = if units > 0 { (reserve, other) } else { (other, reserve) };
        let amount = Money::new(units.checked_abs()?, change.currency());
        (units != 0).then_some(JournalEntry { moment: Moment::Correction, round: 0, debit, credit, amount })
    }
}

/// What becomes of funds reserved in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HoldMovement {
    /// Reserved: no longer available, still the owner's.
    Place,
    /// Taken: the entry that moves them follows in the same breath.
    Capture,
    /// Given back.
    Release,
}

impl HoldMovement {
    /// The name in tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Place => "place",
            Self::Capture => "capture",
            Self::Release => "release",
        }
    }
}

/// A movement of reserved funds on a debtor's wallet account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerHold {
    /// Whose funds.
    pub account: AccountId,
    /// What becomes of them.
    pub movement: HoldMovement,
    /// As in [`JournalEntry::round`]: in each round funds are placed once and resolved at most once.
    pub round: u16,
    /// How much.
    pub amount: Money,
}

/// The two balances of an account and what is left of them, in minor units on the account's normal side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Balances {
    /// Final.
    pub posted: i128,
    /// Reserved by holds.
    pub held: i128,
}

impl Balances {
    /// What can still be used.
    pub const fn available(self) -> i128 {
        self.posted.saturating_sub(self.held)
    }
}

/// Decides a slice of holds in order, on running balances: one that would overdraw its account is refused and its
/// neighbours go on. Returns, per hold, whether it is covered; `balances` are left as after the covered ones.
///
/// All of one slice are of one currency per account, as accounts are.
pub fn cover_holds(
    holds: &[LedgerHold],
    balances: &mut BTreeMap<AccountId, Balances>,
) -> Vec<Result<(), MoneyError>> {
    holds
        .iter()
        .map(|hold| {
            let account = balances.entry(hold.account).or_default();
            if hold.amount.minor_units() <= 0 {
                return Err(MoneyError::NotPositive);
            }
            if account.available() < hold.amount.minor_units() {
                return Err(MoneyError::TooLarge);
            }
            account.held = account.held.checked_add(hold.amount.minor_units()).ok_or(MoneyError::TooLarge)?;
            Ok(())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::Currency;
    use crate::time::Timestamp;

    #[test]
    fn a_correction_moves_the_reserve_and_nothing_else_of_ours() {
        let bank = BankCode::parse("alpha").unwrap();
        let change = |units| Contra::Charges.entry(&bank, Money::new(units, Currency::parse("EUR").unwrap()));
        let (reserve, charges) =
            (LedgerAccount::Reserve(bank.clone()), LedgerAccount::BankCharges(bank.clone()));
        let fee = change(-150).unwrap();
        assert_eq!((&fee.debit, &fee.credit, fee.amount.minor_units()), (&charges, &reserve, 150));
        let back = change(150).unwrap();
        assert_eq!((&back.debit, &back.credit, back.amount.minor_units()), (&reserve, &charges, 150));
        assert_eq!(change(0), None);
    }

    #[test]
    fn holds_of_one_slice_see_each_other() {
        let euro = |units| Money::new(units, Currency::parse("EUR").unwrap());
        let account = AccountId::generate(Timestamp::EPOCH, [1; 10]);
        let hold =
            |units| LedgerHold { account, movement: HoldMovement::Place, round: 0, amount: euro(units) };
        let mut balances = BTreeMap::from([(account, Balances { posted: 100, held: 30 })]);
        let covered = cover_holds(&[hold(50), hold(21), hold(20), hold(1)], &mut balances);
        assert_eq!(covered.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true, false]);
        assert_eq!(balances.get(&account), Some(&Balances { posted: 100, held: 100 }));
    }
}
