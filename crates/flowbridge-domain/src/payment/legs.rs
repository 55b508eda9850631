//! The facts of a payment: what chain and banks have done, each on a leg of its own.
//!
//! A leg only moves along its own line, so a repeated fact is recognised and an impossible one is seen at once. Where money
//! moved, the fact brings its journal entries with it.

use super::{ChainLog, Event, Funding, Payout, Terms};
use crate::bank::{BankStep, HoldMode};
use crate::ledger::{HoldMovement, JournalEntry, LedgerAccount, LedgerHold, Moment};
use crate::money::Money;

/// The payment's two status bits on chain, as last seen at policy finality.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChainLeg {
    /// Not there.
    Unused,
    /// Initiated.
    Open,
    /// Paid.
    Settled,
    /// Set aside, cancelled or reclaimed, its redemption burned or released.
    Closed,
}

/// The hold at the debtor's bank. With token funding there is none, and the leg is [`HoldLeg::NotAsked`] as long as the debtor's
/// tokens are reserved or taken as the chain says, [`HoldLeg::Released`] once they are freed because the chain never opened the
/// payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HoldLeg {
    /// None is needed yet, or ever.
    NotAsked,
    /// Asked for; it may or may not exist.
    Asked,
    /// It exists.
    Placed,
    /// The bank declined: none exists.
    Declined,
    /// Its capture is asked for.
    CaptureAsked,
    /// The funds are ours.
    Captured,
    /// The bank declined the capture.
    CaptureDeclined,
    /// Its release (or the return of captured funds) is asked for.
    ReleaseAsked {
        /// The funds had been captured: their return is an entry.
        captured: bool,
    },
    /// It is gone.
    Released,
}

/// The payout at the creditor's bank, and the tokens in redemption escrow behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PayoutLeg {
    /// Not yet, or not by bank.
    NotDue,
    /// The bank is asked to pay.
    CreditAsked,
    /// It did; the burn is asked for.
    BurnAsked,
    /// Burned.
    Burned,
    /// It declined; the release to the creditor's wallet is asked for.
    ReleaseAsked,
    /// Released.
    Released,
}

/// All facts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Legs {
    /// On chain.
    pub chain: ChainLeg,
    /// At the debtor's bank.
    pub hold: HoldLeg,
    /// At the creditor's bank.
    pub payout: PayoutLeg,
    /// How often a reorganisation took a settlement back; tells the entries of one settlement from those of the next.
    pub round: u16,
}

/// What learning a fact brings with it.
#[derive(Debug, Default)]
pub(super) struct Learned {
    pub(super) entries: Vec<JournalEntry>,
    pub(super) hold: Option<LedgerHold>,
}

/// Why a fact moves no leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotLearned {
    /// The leg is there already, or past it.
    Repeat,
    /// It cannot be, given what was said before.
    Contradiction,
    /// Not a fact, but a wish, a timer or a decision.
    NoFact,
}

impl Legs {
    /// The legs of a payment that has just been accepted.
    pub const NEW: Self =
        Self { chain: ChainLeg::Unused, hold: HoldLeg::NotAsked, payout: PayoutLeg::NotDue, round: 0 };

    /// Moves the leg that `event` speaks of, and says what to post.
    pub(super) fn learn(&mut self, terms: &Terms, event: Event) -> Result<Learned, NotLearned> {
        match event {
            Event::Chain(log) => self.learn_chain(terms, log),
            Event::ChainRemoved(log) => self.learn_removed(terms, log),
            Event::HoldPlaced { .. } => self.learn_hold(&[HoldLeg::Asked], HoldLeg::Placed),
            Event::HoldDeclined(_) => match self.hold {
                // A release is under way because the answer was not known; it settles the matter either way.
                HoldLeg::ReleaseAsked { captured: false } => Err(NotLearned::Repeat),
                HoldLeg::Asked | HoldLeg::Declined | HoldLeg::Released => {
                    self.learn_hold(&[HoldLeg::Asked], HoldLeg::Declined)
                }
                HoldLeg::NotAsked
                | HoldLeg::Placed
                | HoldLeg::CaptureAsked
                | HoldLeg::Captured
                | HoldLeg::CaptureDeclined
                | HoldLeg::ReleaseAsked { captured: true } => Err(NotLearned::Contradiction),
            },
            Event::HoldExpired => match self.hold {
                HoldLeg::Placed => self.learn_hold(&[HoldLeg::Placed], HoldLeg::Released),
                // Capture or release is under way and will tell.
                HoldLeg::CaptureAsked
                | HoldLeg::Captured
                | HoldLeg::CaptureDeclined
                | HoldLeg::ReleaseAsked { .. }
                | HoldLeg::Released => Err(NotLearned::Repeat),
                HoldLeg::NotAsked | HoldLeg::Asked | HoldLeg::Declined => Err(NotLearned::Contradiction),
            },
            Event::Captured => {
                let mut learned = self.learn_hold(&[HoldLeg::CaptureAsked], HoldLeg::Captured)?;
                learned.entries.push(self.captured_entry(terms));
                Ok(learned)
            }
            Event::CaptureDeclined(_) => {
                let mut learned = self.learn_hold(&[HoldLeg::CaptureAsked], HoldLeg::CaptureDeclined)?;
                if self.chain == ChainLeg::Settled {
                    learned.entries.push(self.loss_entry(terms));
                }
                Ok(learned)
            }
            Event::Released => {
                let returned = self.hold == HoldLeg::ReleaseAsked { captured: true };
                let asked =
                    [HoldLeg::ReleaseAsked { captured: true }, HoldLeg::ReleaseAsked { captured: false }];
                let mut learned = self.learn_hold(&asked, HoldLeg::Released)?;
                if returned {
                    learned.entries.push(self.captured_entry(terms).corrected_by(Moment::Returned));
                }
                Ok(learned)
            }
            Event::Credited => {
                let mut learned = self.learn_payout(PayoutLeg::CreditAsked, PayoutLeg::BurnAsked)?;
                learned.entries.extend([self.credited_entry(terms)?, self.burn_due_entry(terms)?]);
                Ok(learned)
            }
            Event::CreditDeclined(_) => self.learn_payout(PayoutLeg::CreditAsked, PayoutLeg::ReleaseAsked),
            Event::CancelRequested { .. }
            | Event::InitiateWindowClosed
            | Event::SettleWindowClosing
            | Event::InitiationRefused(_)
            | Event::BankRefused(_)
            | Event::Reviewed(_) => Err(NotLearned::NoFact),
        }
    }

    fn learn_hold(&mut self, from: &[HoldLeg], to: HoldLeg) -> Result<Learned, NotLearned> {
        if from.contains(&self.hold) {
            self.hold = to;
            return Ok(Learned::default());
        }
        // Each operation has one outcome: hearing it when the leg is beyond it is hearing it again, the other one is news.
        let is_repeat = self.hold == to || reached(self.hold) > reached(to);
        Err(if is_repeat { NotLearned::Repeat } else { NotLearned::Contradiction })
    }

    fn learn_payout(&mut self, from: PayoutLeg, to: PayoutLeg) -> Result<Learned, NotLearned> {
        if self.payout == from {
            self.payout = to;
            return Ok(Learned::default());
        }
        let paid = |leg| matches!(leg, PayoutLeg::BurnAsked | PayoutLeg::Burned);
        let unpaid = |leg| matches!(leg, PayoutLeg::ReleaseAsked | PayoutLeg::Released);
        let same_branch = paid(self.payout) && paid(to) || unpaid(self.payout) && unpaid(to);
        Err(if same_branch { NotLearned::Repeat } else { NotLearned::Contradiction })
    }

    fn learn_chain(&mut self, terms: &Terms, log: ChainLog) -> Result<Learned, NotLearned> {
        match (self.chain, log) {
            (ChainLeg::Unused, ChainLog::Initiated) => {
                self.chain = ChainLeg::Open;
                Ok(Learned { hold: self.reserve_again(terms)?, ..Learned::default() })
            }
            (ChainLeg::Unused, ChainLog::InitiationSetAside(_)) => {
                self.chain = ChainLeg::Closed;
                Ok(Learned { hold: self.free_reserved(terms), ..Learned::default() })
            }
            (ChainLeg::Open, ChainLog::Settled) => {
                self.chain = ChainLeg::Settled;
                Ok(Learned {
                    entries: self.settlement_entries(terms),
                    hold: self.ledger_hold(terms, HoldMovement::Capture),
                })
            }
            (ChainLeg::Open, ChainLog::Cancelled | ChainLog::Reclaimed) => {
                self.chain = ChainLeg::Closed;
                Ok(Learned { hold: self.ledger_hold(terms, HoldMovement::Release), ..Learned::default() })
            }
            (ChainLeg::Open, ChainLog::SettlementSetAside(_)) => Ok(Learned::default()),
            (ChainLeg::Settled, ChainLog::RedemptionBurned) => {
                let mut learned = self.learn_payout(PayoutLeg::BurnAsked, PayoutLeg::Burned)?;
                learned.entries.push(self.burn_due_entry(terms)?.corrected_by(Moment::Burned));
                self.move_chain(ChainLeg::Closed).map(|_| learned)
            }
            (ChainLeg::Settled, ChainLog::RedemptionReleased) => {
                let mut learned = self.learn_payout(PayoutLeg::ReleaseAsked, PayoutLeg::Released)?;
                learned.entries.push(self.redemption_released_entry(terms)?);
                self.move_chain(ChainLeg::Closed).map(|_| learned)
            }
            (ChainLeg::Open | ChainLeg::Settled | ChainLeg::Closed, ChainLog::Initiated)
            | (ChainLeg::Settled, ChainLog::Settled | ChainLog::SettlementSetAside(_))
            | (ChainLeg::Closed, ChainLog::InitiationSetAside(_) | ChainLog::SettlementSetAside(_)) => {
                Err(NotLearned::Repeat)
            }
            // A redemption is settled before it is closed; anything else that is closed was cancelled or set aside.
            (ChainLeg::Closed, ChainLog::Settled) if self.was_redeemed() => Err(NotLearned::Repeat),
            (ChainLeg::Closed, ChainLog::Cancelled | ChainLog::Reclaimed) if !self.was_redeemed() => {
                Err(NotLearned::Repeat)
            }
            (ChainLeg::Closed, ChainLog::RedemptionBurned) if self.payout == PayoutLeg::Burned => {
                Err(NotLearned::Repeat)
            }
            (ChainLeg::Closed, ChainLog::RedemptionReleased) if self.payout == PayoutLeg::Released => {
                Err(NotLearned::Repeat)
            }
            (
                ChainLeg::Unused,
                ChainLog::Settled
                | ChainLog::SettlementSetAside(_)
                | ChainLog::Cancelled
                | ChainLog::Reclaimed
                | ChainLog::RedemptionBurned
                | ChainLog::RedemptionReleased,
            )
            | (
                ChainLeg::Open,
                ChainLog::InitiationSetAside(_) | ChainLog::RedemptionBurned | ChainLog::RedemptionReleased,
            )
            | (
                ChainLeg::Settled,
                ChainLog::InitiationSetAside(_) | ChainLog::Cancelled | ChainLog::Reclaimed,
            )
            | (
                ChainLeg::Closed,
                ChainLog::Settled
                | ChainLog::Cancelled
                | ChainLog::Reclaimed
                | ChainLog::RedemptionBurned
                | ChainLog::RedemptionReleased,
            ) => Err(NotLearned::Contradiction),
        }
    }

    /// A reorganisation undoes the newest log first, so each is undone from just the position that it led to. What is
    /// undone belongs to the round that ends here; what is reserved anew belongs to the next.
    fn learn_removed(&mut self, terms: &Terms, log: ChainLog) -> Result<Learned, NotLearned> {
        let was_never_open = terms.funding == Funding::Token && self.hold == HoldLeg::Released;
        let entries = match (self.chain, log) {
            (ChainLeg::Open, ChainLog::Initiated) => return self.move_chain(ChainLeg::Unused),
            (ChainLeg::Closed, ChainLog::InitiationSetAside(_))
                if !self.was_redeemed() && (was_never_open || terms.funding == Funding::Bank) =>
            {
                self.chain = ChainLeg::Unused;
                vec![]
            }
            (ChainLeg::Settled, ChainLog::Settled) => {
                self.chain = ChainLeg::Open;
                self.settlement_entries(terms).into_iter().rev().map(removed).collect()
            }
            (ChainLeg::Closed, ChainLog::Cancelled | ChainLog::Reclaimed)
                if !self.was_redeemed() && !was_never_open =>
            {
                self.chain = ChainLeg::Open;
                vec![]
            }
            (ChainLeg::Closed, ChainLog::RedemptionBurned) if self.payout == PayoutLeg::Burned => {
                (self.chain, self.payout) = (ChainLeg::Settled, PayoutLeg::BurnAsked);
                vec![removed(self.burn_due_entry(terms)?.corrected_by(Moment::Burned))]
            }
            (ChainLeg::Closed, ChainLog::RedemptionReleased) if self.payout == PayoutLeg::Released => {
                (self.chain, self.payout) = (ChainLeg::Settled, PayoutLeg::ReleaseAsked);
                vec![removed(self.redemption_released_entry(terms)?)]
            }
            (
                ChainLeg::Unused | ChainLeg::Open | ChainLeg::Settled | ChainLeg::Closed,
                ChainLog::Initiated
                | ChainLog::InitiationSetAside(_)
                | ChainLog::Settled
                | ChainLog::SettlementSetAside(_)
                | ChainLog::Cancelled
                | ChainLog::Reclaimed
                | ChainLog::RedemptionBurned
                | ChainLog::RedemptionReleased,
            ) => return Err(NotLearned::Repeat),
        };
        self.round = self.round.checked_add(1).ok_or(NotLearned::Contradiction)?;
        let hold = match log {
            // The escrow is there again.
            ChainLog::Settled | ChainLog::Cancelled | ChainLog::Reclaimed => {
                self.ledger_hold(terms, HoldMovement::Place)
            }
            // Tokens that were freed are reserved when the chain opens the payment after all.
            ChainLog::InitiationSetAside(_)
            | ChainLog::Initiated
            | ChainLog::SettlementSetAside(_)
            | ChainLog::RedemptionBurned
            | ChainLog::RedemptionReleased => None,
        };
        Ok(Learned { entries, hold })
    }

    /// Frees the reserved tokens of a payment that is not on chain; the hold leg remembers that it is done.
    pub(super) fn free_reserved(&mut self, terms: &Terms) -> Option<LedgerHold> {
        if terms.funding == Funding::Bank || self.hold == HoldLeg::Released {
            return None;
        }
        self.hold = HoldLeg::Released;
        self.ledger_hold(terms, HoldMovement::Release)
    }

    /// The chain opened a payment that had been given up: its tokens are in escrow, so they are reserved in a new round.
    fn reserve_again(&mut self, terms: &Terms) -> Result<Option<LedgerHold>, NotLearned> {
        if terms.funding == Funding::Bank || self.hold != HoldLeg::Released {
            return Ok(None);
        }
        self.round = self.round.checked_add(1).ok_or(NotLearned::Contradiction)?;
        self.hold = HoldLeg::NotAsked;
        Ok(self.ledger_hold(terms, HoldMovement::Place))
    }

    /// What a bank was asked for and has not answered.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = BankStep> {
        let hold = match self.hold {
            HoldLeg::Asked => Some(BankStep::PlaceHold),
            HoldLeg::CaptureAsked => Some(BankStep::Capture),
            HoldLeg::ReleaseAsked { .. } => Some(BankStep::Release),
            HoldLeg::NotAsked
            | HoldLeg::Placed
            | HoldLeg::Declined
            | HoldLeg::Captured
            | HoldLeg::CaptureDeclined
            | HoldLeg::Released => None,
        };
        let credit = (self.payout == PayoutLeg::CreditAsked).then_some(BankStep::Credit);
        hold.into_iter().chain(credit)
    }

    /// Has bank money moved, or may it, that only settlement justifies? A confirm-only bank's capture comes before settlement.
    pub(super) fn bank_money_moved(&self, terms: &Terms) -> bool {
        let captured = matches!(self.hold, HoldLeg::CaptureAsked | HoldLeg::Captured);
        captured && terms.hold_mode != HoldMode::ConfirmOnly || self.payout != PayoutLeg::NotDue
    }

    fn move_chain(&mut self, to: ChainLeg) -> Result<Learned, NotLearned> {
        self.chain = to;
        Ok(Learned::default())
    }

    fn was_redeemed(&self) -> bool {
        matches!(self.payout, PayoutLeg::Burned | PayoutLeg::Released)
    }
}

/// How far along a hold is, on the line of the outcomes that a bank can tell us.
fn reached(hold: HoldLeg) -> u8 {
    match hold {
        HoldLeg::NotAsked => 0,
        HoldLeg::Asked => 1,
        HoldLeg::Placed | HoldLeg::Declined => 2,
        HoldLeg::CaptureAsked => 3,
        HoldLeg::Captured | HoldLeg::CaptureDeclined => 4,
        HoldLeg::ReleaseAsked { .. } => 5,
        HoldLeg::Released => 6,
    }
}

impl From<crate::money::MoneyError> for NotLearned {
    /// The amounts were checked when the payment was accepted; if they no longer fit, the row is not what we wrote.
    fn from(_: crate::money::MoneyError) -> Self {
        Self::Contradiction
    }
}

/// The entry that takes back what a reorganisation has undone.
fn removed(entry: JournalEntry) -> JournalEntry {
    let moment = match entry.moment {
        Moment::Settled => Moment::SettlementRemoved,
        Moment::Fee => Moment::FeeRemoved,
        Moment::Loss => Moment::LossRemoved,
        Moment::Burned => Moment::BurnRemoved,
        Moment::RedemptionReleased => Moment::RedemptionReleaseRemoved,
        // No chain log brings these.
        other @ (Moment::Captured
        | Moment::Returned
        | Moment::Credited
        | Moment::BurnDue
        | Moment::CustodyTransfer
        | Moment::CustodyTransferRemoved
        | Moment::SettlementRemoved
        | Moment::FeeRemoved
        | Moment::LossRemoved
        | Moment::BurnRemoved
        | Moment::RedemptionReleaseRemoved
        | Moment::Correction) => other,
    };
    entry.corrected_by(moment)
}

/// What each moment posts; the table of the chart of accounts.
impl Legs {
    fn entry(
        &self,
        moment: Moment,
        debit: LedgerAccount,
        credit: LedgerAccount,
        amount: Money,
    ) -> JournalEntry {
        JournalEntry { moment, round: self.round, debit, credit, amount }
    }

    /// Payment and fee; and where the bank has declined the capture before a resettlement, the loss.
    fn settlement_entries(&self, terms: &Terms) -> Vec<JournalEntry> {
        let debit = match terms.funding {
            Funding::Bank => LedgerAccount::BankReceivable(terms.debtor.participant),
            Funding::Token => LedgerAccount::Wallet(terms.debtor.account),
        };
        let creditor = match terms.payout {
            Payout::Token => LedgerAccount::Wallet(terms.creditor.account),
            Payout::Bank => LedgerAccount::Redemption(terms.creditor.participant),
        };
        let mut entries = vec![self.entry(Moment::Settled, debit, creditor.clone(), terms.amount)];
        if !terms.fee.is_zero() {
            entries.push(self.entry(Moment::Fee, creditor, LedgerAccount::WalletHouse, terms.fee));
        }
        if self.hold == HoldLeg::CaptureDeclined {
            entries.push(self.loss_entry(terms));
        }
        entries
    }

    fn captured_entry(&self, terms: &Terms) -> JournalEntry {
        let receivable = LedgerAccount::BankReceivable(terms.debtor.participant);
        self.entry(
            Moment::Captured,
            LedgerAccount::Reserve(terms.debtor.bank.clone()),
            receivable,
            terms.amount,
        )
    }

    fn loss_entry(&self, terms: &Terms) -> JournalEntry {
        let debtor = terms.debtor.participant;
        self.entry(
            Moment::Loss,
            LedgerAccount::Loss(debtor),
            LedgerAccount::BankReceivable(debtor),
            terms.amount,
        )
    }

    fn credited_entry(&self, terms: &Terms) -> Result<JournalEntry, NotLearned> {
        let redemption = LedgerAccount::Redemption(terms.creditor.participant);
        let reserve = LedgerAccount::Reserve(terms.creditor.bank.clone());
        Ok(self.entry(Moment::Credited, redemption, reserve, net(terms)?))
    }

    fn burn_due_entry(&self, terms: &Terms) -> Result<JournalEntry, NotLearned> {
        let (outstanding, pending) = (LedgerAccount::BurnOutstanding, LedgerAccount::BurnPending);
        Ok(self.entry(Moment::BurnDue, outstanding, pending, net(terms)?))
    }

    fn redemption_released_entry(&self, terms: &Terms) -> Result<JournalEntry, NotLearned> {
        let redemption = LedgerAccount::Redemption(terms.creditor.participant);
        let wallet = LedgerAccount::Wallet(terms.creditor.account);
        Ok(self.entry(Moment::RedemptionReleased, redemption, wallet, net(terms)?))
    }

    /// The debtor's own tokens are reserved in the ledger from acceptance to the end; bank money is not ours to reserve.
    pub(super) fn ledger_hold(&self, terms: &Terms, movement: HoldMovement) -> Option<LedgerHold> {
        match terms.funding {
            Funding::Token => Some(LedgerHold {
                account: terms.debtor.account,
                movement,
                round: self.round,
                amount: terms.amount,
            }),
            Funding::Bank => None,
        }
    }
}

/// What reaches the creditor.
fn net(terms: &Terms) -> Result<Money, NotLearned> {
    Ok(terms.amount.checked_sub(terms.fee)?)
}

/// Does the bank have to give something back when the payment is undone?
pub(super) fn release_due(terms: &Terms, hold: HoldLeg) -> Option<HoldLeg> {
    match hold {
        HoldLeg::Asked | HoldLeg::Placed => Some(HoldLeg::ReleaseAsked { captured: false }),
        HoldLeg::Captured if terms.hold_mode == HoldMode::ConfirmOnly => {
            Some(HoldLeg::ReleaseAsked { captured: true })
        }
        HoldLeg::NotAsked
        | HoldLeg::Declined
        | HoldLeg::CaptureAsked
        | HoldLeg::Captured
        | HoldLeg::CaptureDeclined
        | HoldLeg::ReleaseAsked { .. }
        | HoldLeg::Released => None,
    }
}
