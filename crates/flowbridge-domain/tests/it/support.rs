//! Payments of every shape, the events that can meet them, and the books that their steps are posted to.

use flowbridge_domain::bank::{BankStep, HoldMode, ReasonCode};
use flowbridge_domain::id::{AccountId, ParticipantId, PaymentId};
use flowbridge_domain::ledger::{HoldMovement, JournalEntry, LedgerAccount, LedgerHold, Moment};
use flowbridge_domain::money::{Currency, Money};
use flowbridge_domain::party::BankCode;
use flowbridge_domain::payment::{
    ChainLog, Decision, Effect, Event, Funding, Initiation, Kind, Party, Payment, PaymentNumber, Payout,
    Progress, Rejected, SetAside, State, Step, Terms, accept, step,
};
use flowbridge_domain::time::Timestamp;
use std::collections::BTreeSet;

pub(crate) const AMOUNT: i128 = 100;
pub(crate) const FEE: i128 = 2;
pub(crate) const NET: i128 = AMOUNT - FEE;

pub(crate) const ACCEPTED_AT: Timestamp = Timestamp::from_secs(1_000);
pub(crate) const INITIATE_BEFORE: Timestamp = Timestamp::from_secs(1_060);
pub(crate) const SETTLE_BEFORE: Timestamp = Timestamp::from_secs(1_240);
pub(crate) const EXPIRES_AT: Timestamp = Timestamp::from_secs(1_300);
pub(crate) const HOLD_UNTIL: Timestamp = Timestamp::from_secs(1_900);
/// What the banks of these tests grant: longer than is needed.
pub(crate) const LONG_HOLD: Timestamp = Timestamp::from_secs(4_600);
pub(crate) const SHORT_HOLD: Timestamp = Timestamp::from_secs(1_899);

/// Where the money comes from, where it goes, and how the debtor's bank reserves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) funding: Funding,
    pub(crate) payout: Payout,
    pub(crate) hold_mode: HoldMode,
}

const fn shape(name: &'static str, funding: Funding, payout: Payout, hold_mode: HoldMode) -> Shape {
    Shape { name, funding, payout, hold_mode }
}

pub(crate) const BANK_TO_TOKEN: Shape =
    shape("bank to token", Funding::Bank, Payout::Token, HoldMode::Native);
pub(crate) const BANK_TO_BANK: Shape = shape("bank to bank", Funding::Bank, Payout::Bank, HoldMode::Native);
pub(crate) const TOKEN_TO_TOKEN: Shape =
    shape("token to token", Funding::Token, Payout::Token, HoldMode::Native);
pub(crate) const TOKEN_TO_BANK: Shape =
    shape("token to bank", Funding::Token, Payout::Bank, HoldMode::Native);
pub(crate) const CONFIRM_ONLY_TO_TOKEN: Shape =
    shape("confirm-only bank to token", Funding::Bank, Payout::Token, HoldMode::ConfirmOnly);
pub(crate) const CONFIRM_ONLY_TO_BANK: Shape =
    shape("confirm-only bank to bank", Funding::Bank, Payout::Bank, HoldMode::ConfirmOnly);

pub(crate) const SHAPES: [Shape; 6] =
    [BANK_TO_TOKEN, BANK_TO_BANK, TOKEN_TO_TOKEN, TOKEN_TO_BANK, CONFIRM_ONLY_TO_TOKEN, CONFIRM_ONLY_TO_BANK];

const DEBTOR: u8 = 1;
const CREDITOR: u8 = 2;
const DEBTORS_BANK: &str = "alpha";
const CREDITORS_BANK: &str = "beta";

fn account_of(party: u8) -> AccountId {
    AccountId::generate(ACCEPTED_AT, [party; 10])
}

fn participant_of(party: u8) -> ParticipantId {
    ParticipantId::generate(ACCEPTED_AT, [party; 10])
}

pub(crate) fn terms(shape: Shape) -> Terms {
    let euro = |units| Money::new(units, Currency::parse("EUR").unwrap());
    let party = |party: u8, bank: &str| Party {
        account: account_of(party),
        participant: participant_of(party),
        bank: BankCode::parse(bank).unwrap(),
    };
    Terms {
        id: PaymentId::generate(ACCEPTED_AT, [7; 10]),
        number: PaymentNumber(7),
        kind: Kind::Transfer,
        funding: shape.funding,
        payout: shape.payout,
        amount: euro(AMOUNT),
        fee: euro(FEE),
        debtor: party(DEBTOR, DEBTORS_BANK),
        creditor: party(CREDITOR, CREDITORS_BANK),
        hold_mode: shape.hold_mode,
        execute_at: ACCEPTED_AT,
        initiate_before: INITIATE_BEFORE,
        settle_before: SETTLE_BEFORE,
        expires_at: EXPIRES_AT,
        hold_until: HOLD_UNTIL,
    }
}

pub(crate) const REVOKED_UNSIGNED: Event = Event::CancelRequested { initiation: Initiation::NeverSigned };
pub(crate) const REVOKED: Event = Event::CancelRequested { initiation: Initiation::MaybeSigned };
pub(crate) const INITIATED: Event = Event::Chain(ChainLog::Initiated);
pub(crate) const SETTLED: Event = Event::Chain(ChainLog::Settled);
pub(crate) const CANCELLED: Event = Event::Chain(ChainLog::Cancelled);
pub(crate) const CREDITOR_FROZEN: Event = Event::Chain(ChainLog::SettlementSetAside(SetAside::Frozen));
pub(crate) const HOLD_PLACED: Event = Event::HoldPlaced { until: LONG_HOLD };
pub(crate) const HOLD_DECLINED: Event = Event::HoldDeclined(ReasonCode::INSUFFICIENT_FUNDS);
pub(crate) const CAPTURE_DECLINED: Event = Event::CaptureDeclined(ReasonCode::CLOSED_ACCOUNT);
pub(crate) const CREDIT_DECLINED: Event = Event::CreditDeclined(ReasonCode::BLOCKED_ACCOUNT);

pub(crate) const fn removed(log: ChainLog) -> Event {
    Event::ChainRemoved(log)
}

pub(crate) const CHAIN_LOGS: [ChainLog; 8] = [
    ChainLog::Initiated,
    ChainLog::InitiationSetAside(SetAside::NotFunded),
    ChainLog::Settled,
    ChainLog::SettlementSetAside(SetAside::Frozen),
    ChainLog::Cancelled,
    ChainLog::Reclaimed,
    ChainLog::RedemptionBurned,
    ChainLog::RedemptionReleased,
];

/// Everything that can happen, one of each kind, in the order of the table.
pub(crate) fn every_event() -> Vec<Event> {
    let wishes = [
        REVOKED_UNSIGNED,
        REVOKED,
        Event::InitiateWindowClosed,
        Event::SettleWindowClosing,
        Event::InitiationRefused(SetAside::Unauthorized),
    ];
    let bank = [
        HOLD_PLACED,
        Event::HoldPlaced { until: SHORT_HOLD },
        HOLD_DECLINED,
        Event::HoldExpired,
        Event::Captured,
        CAPTURE_DECLINED,
        Event::Released,
        Event::Credited,
        CREDIT_DECLINED,
        Event::BankRefused(BankStep::Capture),
        Event::BankRefused(BankStep::Release),
        Event::BankRefused(BankStep::Credit),
    ];
    let decisions = [Decision::Resume, Decision::Cancel, Decision::CloseCompleted, Decision::CloseFailed];
    wishes
        .into_iter()
        .chain(CHAIN_LOGS.map(Event::Chain))
        .chain(CHAIN_LOGS.map(Event::ChainRemoved))
        .chain(bank)
        .chain(decisions.map(Event::Reviewed))
        .collect()
}

/// One payment as it goes through events, with all that its steps posted and asked for.
#[derive(Debug, Clone)]
pub(crate) struct Story {
    pub(crate) payment: Payment,
    pub(crate) now: Timestamp,
    pub(crate) books: Books,
    /// Every moment posted, with its round, in order.
    pub(crate) journal: Vec<(Moment, u16)>,
    /// Every effect, as often as it was asked for.
    pub(crate) asked: Vec<Effect>,
    /// Every state that was entered.
    pub(crate) entered: Vec<State>,
}

/// A payment of this shape, just accepted.
pub(crate) fn payment(shape: Shape) -> Story {
    let terms = terms(shape);
    let step = accept(&terms);
    let mut story = Story {
        payment: Payment { terms, progress: step.next },
        now: ACCEPTED_AT,
        books: Books::default(),
        journal: vec![],
        asked: vec![],
        entered: vec![],
    };
    story.take_in(&step);
    story
}

impl Story {
    /// Tells the payment, which has to take it in.
    #[must_use]
    pub(crate) fn after(mut self, events: impl IntoIterator<Item = Event>) -> Self {
        for event in events {
            let told = self.tell(event);
            assert!(told.is_ok(), "{event:?} was rejected ({told:?}) at {:?}", self.payment.progress);
        }
        self
    }

    /// Turns the clock.
    #[must_use]
    pub(crate) fn at(mut self, now: Timestamp) -> Self {
        self.now = now;
        self
    }

    /// Tells the payment; what its step says is carried out.
    pub(crate) fn tell(&mut self, event: Event) -> Result<Step, Rejected> {
        let step = step(&self.payment, event, self.now)?;
        self.payment.progress = step.next;
        self.take_in(&step);
        Ok(step)
    }

    fn take_in(&mut self, step: &Step) {
        self.books.post(step).unwrap();
        self.journal.extend(step.entries.iter().map(|entry| (entry.moment, entry.round)));
        self.asked.extend(&step.effects);
        self.entered.extend(&step.entered);
    }

    pub(crate) fn state(&self) -> State {
        self.payment.progress.state
    }

    pub(crate) fn has_asked(&self, effect: Effect) -> bool {
        self.asked.contains(&effect)
    }

    pub(crate) fn progress(&self) -> Progress {
        self.payment.progress
    }
}

/// What a posting is to, without whose it is: each kind of account occurs once per payment, but for wallets and reserves,
/// which the debtor and the creditor have one each of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Account {
    ReserveAtDebtorsBank,
    ReserveAtCreditorsBank,
    BankReceivable,
    DebtorsWallet,
    CreditorsWallet,
    HouseWallet,
    Redemption,
    BurnPending,
    BurnOutstanding,
    Loss,
    Suspense,
}

impl Account {
    pub(crate) const ALL: [Self; 11] = [
        Self::ReserveAtDebtorsBank,
        Self::ReserveAtCreditorsBank,
        Self::BankReceivable,
        Self::DebtorsWallet,
        Self::CreditorsWallet,
        Self::HouseWallet,
        Self::Redemption,
        Self::BurnPending,
        Self::BurnOutstanding,
        Self::Loss,
        Self::Suspense,
    ];

    fn of(account: &LedgerAccount) -> Self {
        match account {
            LedgerAccount::Reserve(bank) if bank.as_str() == DEBTORS_BANK => Self::ReserveAtDebtorsBank,
            LedgerAccount::Reserve(bank) if bank.as_str() == CREDITORS_BANK => Self::ReserveAtCreditorsBank,
            LedgerAccount::Wallet(owner) if *owner == account_of(DEBTOR) => Self::DebtorsWallet,
            LedgerAccount::Wallet(owner) if *owner == account_of(CREDITOR) => Self::CreditorsWallet,
            LedgerAccount::BankReceivable(owner) if *owner == participant_of(DEBTOR) => Self::BankReceivable,
            LedgerAccount::Loss(owner) if *owner == participant_of(DEBTOR) => Self::Loss,
            LedgerAccount::Redemption(owner) if *owner == participant_of(CREDITOR) => Self::Redemption,
            LedgerAccount::Reserve(_)
            | LedgerAccount::Wallet(_)
            | LedgerAccount::BankReceivable(_)
            | LedgerAccount::Loss(_)
            | LedgerAccount::Redemption(_) => panic!("the wrong party's account: {account:?}"),
            LedgerAccount::WalletHouse => Self::HouseWallet,
            LedgerAccount::BurnPending => Self::BurnPending,
            LedgerAccount::BurnOutstanding => Self::BurnOutstanding,
            LedgerAccount::Suspense => Self::Suspense,
            LedgerAccount::BankSuspense(_) | LedgerAccount::BankCharges(_) => {
                panic!("no payment posts to {account:?}")
            }
        }
    }
}

/// A ledger that refuses what the database refuses. Entries name a debit and a credit account, so it balances by itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Books {
    /// Per account, credits less debits.
    credit: [i128; Account::ALL.len()],
    posted: BTreeSet<(Moment, u16)>,
    placed: BTreeSet<u16>,
    resolved: BTreeSet<u16>,
    held: i128,
}

impl Books {
    /// Posts all that the step says, or says why the database would refuse it.
    pub(crate) fn post(&mut self, step: &Step) -> Result<(), &'static str> {
        if let Some(hold) = &step.hold {
            self.move_hold(hold)?;
        }
        step.entries.iter().try_for_each(|entry| self.post_entry(entry))
    }

    fn post_entry(&mut self, entry: &JournalEntry) -> Result<(), &'static str> {
        let amount = entry.amount.minor_units();
        if amount <= 0 {
            return Err("an entry of nothing");
        }
        if !self.posted.insert((entry.moment, entry.round)) {
            return Err("a moment posted twice in a round");
        }
        self.credit[Account::of(&entry.debit) as usize] -= amount;
        self.credit[Account::of(&entry.credit) as usize] += amount;
        Ok(())
    }

    fn move_hold(&mut self, hold: &LedgerHold) -> Result<(), &'static str> {
        assert_eq!(hold.account, account_of(DEBTOR));
        assert_eq!(hold.amount.minor_units(), AMOUNT);
        match hold.movement {
            HoldMovement::Place if !self.placed.insert(hold.round) => Err("a hold placed twice in a round"),
            HoldMovement::Place if self.held > 0 => Err("a hold placed beside another"),
            HoldMovement::Place => {
                self.held += AMOUNT;
                Ok(())
            }
            HoldMovement::Capture | HoldMovement::Release if !self.placed.contains(&hold.round) => {
                Err("a hold resolved that was never placed")
            }
            HoldMovement::Capture | HoldMovement::Release if !self.resolved.insert(hold.round) => {
                Err("a hold resolved twice in a round")
            }
            HoldMovement::Capture | HoldMovement::Release => {
                self.held -= AMOUNT;
                Ok(())
            }
        }
    }

    /// The balance on the account's normal side.
    pub(crate) fn balance(&self, account: Account) -> i128 {
        let credit = self.credit[account as usize];
        match account {
            Account::ReserveAtDebtorsBank
            | Account::ReserveAtCreditorsBank
            | Account::BankReceivable
            | Account::BurnOutstanding
            | Account::Loss => -credit,
            Account::DebtorsWallet
            | Account::CreditorsWallet
            | Account::HouseWallet
            | Account::Redemption
            | Account::BurnPending
            | Account::Suspense => credit,
        }
    }

    /// What of the debtor's tokens is reserved.
    pub(crate) fn held(&self) -> i128 {
        self.held
    }
}
