//! The world that one payment lives in: a contract, two banks, and our own rows, logs and workers around [`step`].
//!
//! Chain and banks are written from their contracts and know nothing of the payment's states. They keep their word: the
//! contract closes a payment once and by the block's time, a bank gives one outcome per operation key. Beyond that, anything goes:
//! answers come late, twice, or after a worker has died; the chain forgets its newest logs; creditors are frozen; banks
//! decline; clients revoke at any moment. Each such misfortune has a budget, so that every life comes to rest.
//!
//! Our side has the guarantees that the store gives, and no more: a step and all that follows from it is one write; a worker
//! claims, calls and records in three, and may die between any two.

use crate::support::{
    ACCEPTED_AT, AMOUNT, Account, Books, CAPTURE_DECLINED, CREDIT_DECLINED, EXPIRES_AT, FEE, HOLD_DECLINED,
    HOLD_PLACED, INITIATE_BEFORE, NET, SETTLE_BEFORE, SHORT_HOLD, Shape, terms,
};
use flowbridge_domain::bank::{BankStep, HoldMode};
use flowbridge_domain::payment::{
    ChainLeg, ChainLog, Decision, Effect, Event, Funding, Initiation, Payment, Payout, Progress,
    ReviewReason, SetAside, State, Step, Terms, accept, step,
};
use flowbridge_domain::time::Timestamp;
use std::collections::{BTreeMap, VecDeque};

/// How many misfortunes of each kind may still come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    /// A worker dies between two writes.
    pub(crate) crashes: u8,
    /// A message comes once more.
    pub(crate) repeats: u8,
    /// The chain forgets its newest log.
    pub(crate) reorgs: u8,
    /// A bank declines, or its hold is too short.
    pub(crate) declines: u8,
    /// The chain sets the payment aside, or its simulation refuses it.
    pub(crate) set_asides: u8,
    /// The bank lets go of its hold too early.
    pub(crate) early_expiries: u8,
    /// The client revokes.
    pub(crate) revocations: u8,
    /// A person decides what is under review.
    pub(crate) reviews: u8,
}

/// What is built wrongly, to see that it is found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Flaw {
    /// Nothing.
    None,
    /// Effects are written after the step's transaction, not in it.
    EffectsWrittenLater,
    /// A worker that asks a bank again does so under a new key.
    NewKeyPerAttempt,
    /// The timer of the initiation window does not wait until all that the chain said before has been read.
    TimerAheadOfTheLog,
    /// The hold is released when cancellation is asked for, not when the chain has cancelled.
    ReleaseBeforeCancelled,
}

/// What never changes in a world.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) shape: Shape,
    pub(crate) terms: Terms,
    pub(crate) budget: Budget,
    pub(crate) flaw: Flaw,
}

impl Setting {
    pub(crate) fn new(shape: Shape, budget: Budget) -> Self {
        Self { shape, terms: terms(shape), budget, flaw: Flaw::None }
    }

    pub(crate) fn with(self, flaw: Flaw) -> Self {
        Self { flaw, ..self }
    }
}

/// The logs that the payment reads, each in its own order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Topic {
    Chain,
    DebtorsBank,
    CreditorsBank,
}

const TOPICS: [Topic; 3] = [Topic::Chain, Topic::DebtorsBank, Topic::CreditorsBank];

fn topic_of(step: BankStep) -> Topic {
    match step {
        BankStep::PlaceHold | BankStep::Capture | BankStep::Release => Topic::DebtorsBank,
        BankStep::Credit => Topic::CreditorsBank,
    }
}

/// Something to do outside, as a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Row {
    Ready,
    /// A worker has it; what it sends may arrive at any time from here on, even after the worker has died.
    Claimed,
    /// Its worker died. The next one cannot know how far it came.
    Abandoned,
    Done,
    /// Taken back before anybody began.
    Revoked,
}

/// One move of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// The orchestrator takes the next message in: one transaction.
    TakeIn(Topic),
    /// It gets the next message, and will get it again.
    TakeInAndAgain(Topic),
    /// The bank tells an outcome once more, however late.
    TellAgain(BankStep),
    /// (Flaw) the effects of the last step are written at last.
    WriteEffects,
    /// (Flaw) they never are.
    LoseEffects,
    ClientRevokes,
    SettleTimer,
    InitiateTimer,
    Review(Decision),
    Claim(Effect),
    WorkerDies(Effect),
    /// The worker writes what it learned and that it is done: one transaction.
    Record(Effect),
    InitiationRefused,
    /// The contract carries out what somebody has sent.
    Mine(ChainLog),
    Reorganise,
    /// The watcher reads the next log, or sees one gone: one transaction.
    Watch,
    Bank(BankStep, Answer),
    HoldExpires,
    TimePasses,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    Yes,
    No,
    /// A hold, but not for long enough.
    Short,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum BankHold {
    None,
    Held,
    Captured,
    Gone,
}

/// The debtor's and the creditor's bank.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Banks {
    pub(crate) hold: BankHold,
    /// A hold asked for after its release is refused.
    tombstone: bool,
    /// How often the debtor's bank has taken the amount for us, and given it back.
    pub(crate) captures: i128,
    pub(crate) returns: i128,
    /// How often the creditor's bank has paid.
    pub(crate) credits: i128,
    /// The outcome of each operation, by its key.
    outcomes: BTreeMap<BankStep, Event>,
    /// Requests that have not reached the bank yet.
    on_the_wire: BTreeMap<BankStep, u8>,
}

/// The time when so many of the payment's deadlines have passed.
pub(crate) fn after_deadlines(passed: u8) -> Timestamp {
    match passed {
        0 => ACCEPTED_AT,
        1 => INITIATE_BEFORE,
        2 => SETTLE_BEFORE,
        _ => EXPIRES_AT,
    }
}

/// Everything, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) progress: Progress,
    pub(crate) books: Books,
    /// Why the database refused a posting; it never should.
    pub(crate) books_refused: Option<&'static str>,
    rows: BTreeMap<Effect, Row>,
    unwritten: Vec<Effect>,
    topics: BTreeMap<Topic, VecDeque<Event>>,
    /// The canonical logs.
    pub(crate) logs: Vec<ChainLog>,
    /// How many of them the watcher has told.
    watched: usize,
    /// The settlement was asked for again after it had been set aside.
    settle_asked_anew: bool,
    pub(crate) banks: Banks,
    /// How many deadlines have passed: to initiate, to ask for settlement, to settle.
    deadlines_passed: u8,
    pub(crate) left: Budget,
}

impl World {
    /// A payment has just been accepted.
    pub(crate) fn new(setting: &Setting) -> Self {
        let accepted = accept(&setting.terms);
        let mut world = Self {
            progress: accepted.next,
            books: Books::default(),
            books_refused: None,
            rows: BTreeMap::new(),
            unwritten: vec![],
            topics: BTreeMap::from(TOPICS.map(|topic| (topic, VecDeque::new()))),
            logs: vec![],
            watched: 0,
            settle_asked_anew: false,
            banks: Banks {
                hold: BankHold::None,
                tombstone: false,
                captures: 0,
                returns: 0,
                credits: 0,
                outcomes: BTreeMap::new(),
                on_the_wire: BTreeMap::new(),
            },
            deadlines_passed: 0,
            left: setting.budget,
        };
        world.write(setting, accepted);
        world.write_effects();
        world
    }

    fn now(&self) -> Timestamp {
        after_deadlines(self.deadlines_passed)
    }

    /// What has to happen sooner or later: nobody may sit on it for ever.
    pub(crate) fn due(&self, setting: &Setting) -> Vec<Action> {
        let mut due = Vec::new();
        if !self.unwritten.is_empty() {
            return vec![Action::WriteEffects];
        }
        due.extend(TOPICS.into_iter().filter(|topic| !self.topics[topic].is_empty()).map(Action::TakeIn));
        for (effect, row) in &self.rows {
            match (row, effect) {
                (Row::Ready | Row::Abandoned, _) => due.push(Action::Claim(*effect)),
                (Row::Claimed, Effect::Bank(step)) if self.banks.outcomes.contains_key(step) => {
                    due.push(Action::Record(*effect));
                }
                (Row::Claimed | Row::Done | Row::Revoked, _) => {}
            }
        }
        due.extend(self.banks.on_the_wire.keys().map(|step| Action::Bank(*step, Answer::Yes)));
        due.extend(self.minable(setting).into_iter().map(Action::Mine));
        if self.watched < self.logs.len() {
            due.push(Action::Watch);
        }
        if self.settle_timer_is_due(setting) && self.hears(setting, Event::SettleWindowClosing) {
            due.push(Action::SettleTimer);
        }
        if self.initiate_timer_is_due(setting) && self.hears(setting, Event::InitiateWindowClosed) {
            due.push(Action::InitiateTimer);
        }
        due
    }

    /// What may happen besides, or may never.
    pub(crate) fn possible(&self, setting: &Setting) -> Vec<Action> {
        let left = self.left;
        let mut may = Vec::new();
        if !self.unwritten.is_empty() {
            return if left.crashes > 0 { vec![Action::LoseEffects] } else { may };
        }
        if left.repeats > 0 {
            may.extend(
                TOPICS.into_iter().filter(|topic| !self.topics[topic].is_empty()).map(Action::TakeInAndAgain),
            );
            let recorded = |step: &&BankStep| self.rows.get(&Effect::Bank(**step)) == Some(&Row::Done);
            may.extend(self.banks.outcomes.keys().filter(recorded).map(|step| Action::TellAgain(*step)));
        }
        if left.crashes > 0 {
            may.extend(
                self.rows
                    .iter()
                    .filter(|(effect, row)| matches!((effect, row), (Effect::Bank(_), Row::Claimed)))
                    .map(|(effect, _)| Action::WorkerDies(*effect)),
            );
        }
        if left.reorgs > 0 && !self.logs.is_empty() {
            may.push(Action::Reorganise);
        }
        if left.declines > 0 {
            for step in self.banks.on_the_wire.keys() {
                match step {
                    BankStep::PlaceHold => {
                        may.push(Action::Bank(*step, Answer::No));
                        may.push(Action::Bank(*step, Answer::Short));
                    }
                    BankStep::Capture | BankStep::Credit => may.push(Action::Bank(*step, Answer::No)),
                    BankStep::Release => {}
                }
            }
        }
        if left.set_asides > 0 {
            let unused = self.chain_leg() == ChainLeg::Unused;
            match self.rows.get(&Effect::InitiateOnChain) {
                Some(Row::Ready) => may.push(Action::InitiationRefused),
                Some(Row::Claimed) if unused && self.deadlines_passed < 1 => {
                    may.push(Action::Mine(ChainLog::InitiationSetAside(SetAside::NotFunded)));
                }
                _ => {}
            }
            if self.minable(setting).contains(&ChainLog::Settled) && !self.is_settlement_set_aside() {
                may.push(Action::Mine(ChainLog::SettlementSetAside(SetAside::Frozen)));
            }
        }
        let hold_is_recorded = self.rows.get(&Effect::Bank(BankStep::PlaceHold)) == Some(&Row::Done);
        if left.early_expiries > 0
            && self.banks.hold == BankHold::Held
            && hold_is_recorded
            && setting.shape.hold_mode != HoldMode::ConfirmOnly
        {
            may.push(Action::HoldExpires);
        }
        if left.revocations > 0 {
            may.push(Action::ClientRevokes);
        }
        if left.reviews > 0 && matches!(self.progress.state, State::UnderReview(_)) {
            may.extend([Decision::Resume, Decision::Cancel].map(Action::Review));
        }
        if self.deadlines_passed < 3 {
            may.push(Action::TimePasses);
        }
        may
    }

    /// A timer rings on; only its first ring is news.
    fn hears(&self, setting: &Setting, event: Event) -> bool {
        let payment = Payment { terms: setting.terms.clone(), progress: self.progress };
        step(&payment, event, self.now()).is_ok()
    }

    fn settle_timer_is_due(&self, setting: &Setting) -> bool {
        match self.progress.state {
            State::Accepted
            | State::Initiated
            | State::Held
            | State::UnderReview(ReviewReason::CreditorBlocked) => self.deadlines_passed >= 2,
            // What a reorganisation took back can be settled until it expires.
            State::Completed => {
                self.deadlines_passed >= 3
                    && self.progress.legs.chain == ChainLeg::Open
                    && self.log_is_read(setting)
            }
            State::Settled | State::Cancelling(_) | State::Failed(_) | State::UnderReview(_) => false,
        }
    }

    fn initiate_timer_is_due(&self, setting: &Setting) -> bool {
        self.deadlines_passed >= 1
            && self.progress.legs.chain == ChainLeg::Unused
            && matches!(self.progress.state, State::Accepted | State::Cancelling(_) | State::Completed)
            && self.log_is_read(setting)
    }

    /// "A finalized block's time has reached the deadline" is only known of blocks whose logs have been taken in.
    fn log_is_read(&self, setting: &Setting) -> bool {
        let is_read = self.topics[&Topic::Chain].is_empty() && self.watched == self.logs.len();
        is_read || setting.flaw == Flaw::TimerAheadOfTheLog
    }

    /// What the contract would do now with what has been sent to it.
    fn minable(&self, setting: &Setting) -> Vec<ChainLog> {
        let sent = |effect| self.rows.get(&effect) == Some(&Row::Claimed);
        let expired = self.deadlines_passed >= 3;
        let mut minable = Vec::new();
        match self.chain_leg() {
            ChainLeg::Unused => {
                if sent(Effect::InitiateOnChain) && self.deadlines_passed < 1 {
                    minable.push(ChainLog::Initiated);
                }
            }
            ChainLeg::Open => {
                let spent = self.is_settlement_set_aside() && !self.settle_asked_anew;
                if sent(Effect::SettleOnChain) && !expired && !spent {
                    minable.push(ChainLog::Settled);
                }
                // From expiry on anybody may close it, whatever we think of the payment.
                if sent(Effect::CancelOnChain) || expired {
                    minable.push(ChainLog::Cancelled);
                }
                if expired && setting.shape.funding == Funding::Token {
                    minable.push(ChainLog::Reclaimed);
                }
            }
            ChainLeg::Settled => {
                if sent(Effect::BurnRedeemed) {
                    minable.push(ChainLog::RedemptionBurned);
                }
                if sent(Effect::ReleaseRedemption) {
                    minable.push(ChainLog::RedemptionReleased);
                }
            }
            ChainLeg::Closed => {}
        }
        minable
    }

    fn is_settlement_set_aside(&self) -> bool {
        self.logs.iter().any(|log| matches!(log, ChainLog::SettlementSetAside(_)))
    }

    /// The contract's status bits.
    pub(crate) fn chain_leg(&self) -> ChainLeg {
        self.logs.iter().fold(ChainLeg::Unused, |leg, log| match log {
            ChainLog::Initiated => ChainLeg::Open,
            ChainLog::Settled => ChainLeg::Settled,
            ChainLog::SettlementSetAside(_) => leg,
            ChainLog::InitiationSetAside(_)
            | ChainLog::Cancelled
            | ChainLog::Reclaimed
            | ChainLog::RedemptionBurned
            | ChainLog::RedemptionReleased => ChainLeg::Closed,
        })
    }

    /// Makes one move.
    #[must_use]
    pub(crate) fn act(&self, setting: &Setting, action: Action) -> Self {
        let mut world = self.clone();
        let left = &mut world.left;
        match action {
            Action::TakeInAndAgain(_) | Action::TellAgain(_) => left.repeats -= 1,
            Action::LoseEffects | Action::WorkerDies(_) => left.crashes -= 1,
            Action::Reorganise => left.reorgs -= 1,
            Action::Bank(_, Answer::No | Answer::Short) => left.declines -= 1,
            Action::InitiationRefused
            | Action::Mine(ChainLog::InitiationSetAside(_) | ChainLog::SettlementSetAside(_)) => {
                left.set_asides -= 1;
            }
            Action::HoldExpires => left.early_expiries -= 1,
            Action::ClientRevokes => left.revocations -= 1,
            Action::Review(_) => left.reviews -= 1,
            Action::TakeIn(_)
            | Action::WriteEffects
            | Action::SettleTimer
            | Action::InitiateTimer
            | Action::Claim(_)
            | Action::Record(_)
            | Action::Mine(_)
            | Action::Watch
            | Action::Bank(_, Answer::Yes)
            | Action::TimePasses => {}
        }
        world.carry_out(setting, action);
        world
    }

    fn carry_out(&mut self, setting: &Setting, action: Action) {
        match action {
            Action::TakeIn(topic) => {
                if let Some(event) = self.topics.get_mut(&topic).unwrap().pop_front() {
                    self.tell(setting, event);
                }
            }
            Action::TakeInAndAgain(topic) => {
                if let Some(event) = self.topics[&topic].front().copied() {
                    self.tell(setting, event);
                }
            }
            Action::TellAgain(step) => self.send(topic_of(step), self.banks.outcomes[&step]),
            Action::WriteEffects => self.write_effects(),
            Action::LoseEffects => self.unwritten.clear(),
            Action::ClientRevokes => self.revoke(setting),
            Action::SettleTimer => self.tell(setting, Event::SettleWindowClosing),
            Action::InitiateTimer => self.tell(setting, Event::InitiateWindowClosed),
            Action::Review(decision) => self.tell(setting, Event::Reviewed(decision)),
            Action::Claim(effect) => {
                self.rows.insert(effect, Row::Claimed);
                if let Effect::Bank(step) = effect {
                    // Under one key, asking again is asking once.
                    if setting.flaw == Flaw::NewKeyPerAttempt || !self.banks.outcomes.contains_key(&step) {
                        let requests = self.banks.on_the_wire.entry(step).or_default();
                        *requests = if setting.flaw == Flaw::NewKeyPerAttempt { *requests + 1 } else { 1 };
                    }
                }
            }
            Action::WorkerDies(effect) => {
                self.rows.insert(effect, Row::Abandoned);
            }
            Action::Record(effect) => {
                self.rows.insert(effect, Row::Done);
                if let Effect::Bank(step) = effect {
                    self.send(topic_of(step), self.banks.outcomes[&step]);
                }
            }
            Action::InitiationRefused => {
                self.rows.insert(Effect::InitiateOnChain, Row::Done);
                self.send(Topic::Chain, Event::InitiationRefused(SetAside::NotFunded));
            }
            Action::Mine(log) => {
                if matches!(log, ChainLog::SettlementSetAside(_)) {
                    self.settle_asked_anew = false;
                }
                self.logs.push(log);
            }
            Action::Reorganise => {
                if let Some(log) = self.logs.pop()
                    && self.watched > self.logs.len()
                {
                    self.watched -= 1;
                    self.send(Topic::Chain, Event::ChainRemoved(log));
                }
            }
            Action::Watch => {
                let log = self.logs[self.watched];
                self.watched += 1;
                self.send(Topic::Chain, Event::Chain(log));
            }
            Action::Bank(step, answer) => self.bank(setting, step, answer),
            Action::HoldExpires => {
                self.banks.hold = BankHold::Gone;
                self.send(Topic::DebtorsBank, Event::HoldExpired);
            }
            Action::TimePasses => self.deadlines_passed += 1,
        }
    }

    fn send(&mut self, topic: Topic, event: Event) {
        self.topics.entry(topic).or_default().push_back(event);
    }

    /// A request reaches a bank, which carries it out as its contract says.
    fn bank(&mut self, setting: &Setting, asked: BankStep, answer: Answer) {
        let banks = &mut self.banks;
        match banks.on_the_wire.get_mut(&asked) {
            Some(requests) if *requests > 1 => *requests -= 1,
            _ => {
                banks.on_the_wire.remove(&asked);
            }
        }
        let confirms_only = setting.shape.hold_mode == HoldMode::ConfirmOnly;
        let outcome = match asked {
            BankStep::PlaceHold if banks.tombstone || answer == Answer::No => HOLD_DECLINED,
            BankStep::PlaceHold => {
                banks.hold = BankHold::Held;
                if answer == Answer::Short { Event::HoldPlaced { until: SHORT_HOLD } } else { HOLD_PLACED }
            }
            BankStep::Capture if answer == Answer::Yes && banks.hold != BankHold::Gone => {
                banks.hold = BankHold::Captured;
                banks.captures += 1;
                Event::Captured
            }
            BankStep::Capture => {
                banks.hold = BankHold::Gone;
                CAPTURE_DECLINED
            }
            BankStep::Release => {
                if banks.hold == BankHold::Captured && confirms_only {
                    banks.returns += 1;
                }
                banks.hold = BankHold::Gone;
                banks.tombstone = true;
                Event::Released
            }
            BankStep::Credit if answer == Answer::Yes => {
                banks.credits += 1;
                Event::Credited
            }
            BankStep::Credit => CREDIT_DECLINED,
        };
        banks.outcomes.entry(asked).or_insert(outcome);
    }

    fn revoke(&mut self, setting: &Setting) {
        let initiation = self.rows.get_mut(&Effect::InitiateOnChain);
        let initiation = match initiation {
            Some(row) if *row == Row::Ready => {
                *row = Row::Revoked;
                Initiation::NeverSigned
            }
            _ => Initiation::MaybeSigned,
        };
        self.tell(setting, Event::CancelRequested { initiation });
    }

    /// One transaction: the step, what it posts and what it asks for.
    fn tell(&mut self, setting: &Setting, event: Event) {
        let payment = Payment { terms: setting.terms.clone(), progress: self.progress };
        if let Ok(step) = step(&payment, event, self.now()) {
            self.progress = step.next;
            self.write(setting, step);
            if setting.flaw != Flaw::EffectsWrittenLater {
                self.write_effects();
            }
        }
    }

    fn write(&mut self, setting: &Setting, step: Step) {
        if let Err(refused) = self.books.post(&step) {
            self.books_refused = Some(refused);
        }
        self.unwritten = step.effects;
        let cancels = self.unwritten.contains(&Effect::CancelOnChain);
        if setting.flaw == Flaw::ReleaseBeforeCancelled && cancels && setting.shape.funding == Funding::Bank {
            self.unwritten.push(Effect::Bank(BankStep::Release));
        }
    }

    fn write_effects(&mut self) {
        for effect in std::mem::take(&mut self.unwritten) {
            self.settle_asked_anew |= effect == Effect::SettleOnChain && self.is_settlement_set_aside();
            self.rows.entry(effect).or_insert(Row::Ready);
        }
    }

    // What an onlooker sees, who trusts neither our rows nor our books.

    /// Nothing is under way any more, and no deadline is ahead.
    pub(crate) fn is_at_rest(&self, setting: &Setting) -> bool {
        self.deadlines_passed >= 3 && self.due(setting).is_empty()
    }

    pub(crate) fn has_reorganised(&self, setting: &Setting) -> bool {
        self.left.reorgs < setting.budget.reorgs
    }

    pub(crate) fn tokens(&self, setting: &Setting) -> Tokens {
        let mut tokens = Tokens::default();
        let fund = |tokens: &mut Tokens, back: bool| {
            if setting.shape.funding == Funding::Token {
                let amount = if back { -AMOUNT } else { AMOUNT };
                tokens.debtor -= amount;
                tokens.escrow += amount;
            }
        };
        for log in &self.logs {
            match log {
                ChainLog::Initiated => fund(&mut tokens, false),
                ChainLog::Cancelled | ChainLog::Reclaimed => fund(&mut tokens, true),
                ChainLog::Settled => {
                    match setting.shape.funding {
                        Funding::Token => tokens.escrow -= AMOUNT,
                        Funding::Bank => tokens.minted += AMOUNT,
                    }
                    match setting.shape.payout {
                        Payout::Token => tokens.creditor += NET,
                        Payout::Bank => tokens.redemption += NET,
                    }
                    tokens.house += FEE;
                }
                ChainLog::RedemptionBurned => tokens.redemption -= NET,
                ChainLog::RedemptionReleased => {
                    tokens.redemption -= NET;
                    tokens.creditor += NET;
                }
                ChainLog::InitiationSetAside(_) | ChainLog::SettlementSetAside(_) => {}
            }
        }
        tokens
    }

    /// What the creditor has got, in tokens and at the bank.
    pub(crate) fn creditor_got(&self, setting: &Setting) -> i128 {
        self.tokens(setting).creditor + self.banks.credits * NET
    }

    /// What the debtor has given for good, in tokens and at the bank.
    pub(crate) fn debtor_gave(&self, setting: &Setting) -> i128 {
        (self.banks.captures - self.banks.returns) * AMOUNT - self.tokens(setting).debtor
    }

    /// Does the ledger say what chain and banks say? Asked when the world is at rest.
    pub(crate) fn books_agree(&self, setting: &Setting) -> Result<(), String> {
        let tokens = self.tokens(setting);
        let captured = (self.banks.captures - self.banks.returns) * AMOUNT;
        let books = |account| self.books.balance(account);
        let expected = [
            ("debtor's wallet", books(Account::DebtorsWallet), tokens.debtor + tokens.escrow),
            ("creditor's wallet", books(Account::CreditorsWallet), tokens.creditor),
            ("house", books(Account::HouseWallet), tokens.house),
            ("redemption", books(Account::Redemption) + books(Account::BurnPending), tokens.redemption),
            ("burn memo", books(Account::BurnOutstanding), books(Account::BurnPending)),
            ("debtor's bank", books(Account::ReserveAtDebtorsBank), captured),
            ("creditor's bank", books(Account::ReserveAtCreditorsBank), -self.banks.credits * NET),
            (
                "receivable and loss",
                books(Account::BankReceivable) + books(Account::Loss),
                tokens.minted - captured,
            ),
            ("suspense", books(Account::Suspense), 0),
        ];
        match expected.iter().find(|(_, ours, theirs)| ours != theirs) {
            Some((what, ours, theirs)) => Err(format!("{what}: {ours} in the ledger, {theirs} in the world")),
            None if self.progress.state.is_terminal() && self.books.held() != tokens.escrow => {
                Err(format!("{} reserved in the ledger, {} in escrow", self.books.held(), tokens.escrow))
            }
            None => Ok(()),
        }
    }

    /// Is the payment where its story should have ended? Asked when the world is at rest.
    pub(crate) fn has_ended_well(&self, setting: &Setting) -> Result<(), String> {
        let state = self.progress.state;
        let declined = |step| {
            matches!(
                self.banks.outcomes.get(&step),
                Some(Event::HoldDeclined(_) | Event::CaptureDeclined(_) | Event::CreditDeclined(_))
            )
        };
        let hold_was_lost = self.left.early_expiries < setting.budget.early_expiries;
        let reorganised = self.has_reorganised(setting);
        let ended = match state {
            State::Completed => {
                // People may pay the creditor although the debtor's bank declined: the loss is ours.
                let debtor_owes = if declined(BankStep::Capture) { 0 } else { AMOUNT };
                self.creditor_got(setting) == NET
                    && self.debtor_gave(setting) == debtor_owes
                    && matches!(self.chain_leg(), ChainLeg::Settled | ChainLeg::Closed)
            }
            State::Failed(_) => {
                self.creditor_got(setting) == 0
                    && self.debtor_gave(setting) == 0
                    && matches!(self.chain_leg(), ChainLeg::Unused | ChainLeg::Closed)
                    && (self.banks.hold != BankHold::Held || setting.shape.hold_mode == HoldMode::ConfirmOnly)
            }
            State::UnderReview(ReviewReason::CaptureFailed) => declined(BankStep::Capture),
            State::UnderReview(ReviewReason::FundsMovedWithoutSettlement) => reorganised,
            State::UnderReview(ReviewReason::Contradiction) => reorganised || hold_was_lost,
            State::UnderReview(ReviewReason::CreditorBlocked | ReviewReason::BankRefused)
            | State::Accepted
            | State::Initiated
            | State::Held
            | State::Settled
            | State::Cancelling(_) => false,
        };
        if ended { Ok(()) } else { Err(format!("at rest, but {state:?} with {:?}", self.progress.legs)) }
    }

    /// A bank hold is given back only when the chain can no longer settle; only a reorganisation gets between the two.
    pub(crate) fn no_hold_is_released_too_early(&self, setting: &Setting) -> bool {
        let settled = matches!(self.chain_leg(), ChainLeg::Settled) || self.banks.credits > 0;
        !(self.banks.tombstone && settled) || self.has_reorganised(setting)
    }

    /// Nobody gets or gives the money twice.
    pub(crate) fn nobody_pays_or_is_paid_twice(&self, setting: &Setting) -> bool {
        (0..=NET).contains(&self.creditor_got(setting)) && (0..=AMOUNT).contains(&self.debtor_gave(setting))
    }

    /// Once all that the chain said has been taken in, what has failed is not paid, and what the creditor has is not given back.
    pub(crate) fn nothing_is_both_settled_and_cancelled(&self) -> bool {
        let log_is_read = self.watched == self.logs.len() && self.topics[&Topic::Chain].is_empty();
        let paid = self.logs.contains(&ChainLog::Settled);
        let closed = self.logs.iter().any(|log| matches!(log, ChainLog::Cancelled | ChainLog::Reclaimed));
        let failed = log_is_read && matches!(self.progress.state, State::Failed(_));
        !(paid && (closed || failed))
    }

    /// What is settled stays backed: by a hold, by captured money, or a person knows that the bank declined.
    pub(crate) fn minted_tokens_are_backed(&self, setting: &Setting) -> bool {
        let excused = self.has_reorganised(setting)
            || self.left.early_expiries < setting.budget.early_expiries
            || matches!(self.banks.outcomes.get(&BankStep::Capture), Some(Event::CaptureDeclined(_)));
        self.tokens(setting).minted == 0
            || matches!(self.banks.hold, BankHold::Held | BankHold::Captured)
            || excused
    }
}

/// What the chain holds because of this payment; the debtor's wallet as a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tokens {
    pub(crate) debtor: i128,
    pub(crate) escrow: i128,
    pub(crate) creditor: i128,
    pub(crate) house: i128,
    pub(crate) redemption: i128,
    pub(crate) minted: i128,
}
