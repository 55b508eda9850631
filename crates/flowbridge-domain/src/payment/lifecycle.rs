//! Where a payment goes: the second half of a decision.
//!
//! Three directions serve every state. [`forward`] reads from the legs how far the payment is and asks for what is next;
//! [`cancel`] turns it round and asks the chain to close it; [`wind_down`] follows once the chain has closed it (or
//! can never open it) and gives back what the bank holds. Each state's function says which events lead in which direction.

use super::legs::{Learned, NotLearned, release_due};
use super::{
    ChainLeg, ChainLog, Decision, Effect, EndReason, Event, Funding, HoldLeg, Initiation, Legs, Payment,
    Payout, PayoutLeg, Progress, Rejected, ReviewReason, State, Step, Terms,
};
use crate::bank::{BankStep, HoldMode, ReasonCode};
use crate::ledger::{HoldMovement, LedgerHold};
use crate::time::Timestamp;

/// What a newly accepted payment is, reserves and asks for. The caller has checked limits and covers the hold.
pub fn accept(terms: &Terms) -> Step {
    let next = Progress { state: State::Accepted, legs: Legs::NEW };
    Step {
        next,
        entered: vec![State::Accepted],
        entries: vec![],
        hold: next.legs.ledger_hold(terms, HoldMovement::Place),
        effects: vec![Effect::InitiateOnChain],
        suspends_debtor: false,
    }
}

/// Decides what one event does to one payment at `now`. Pure: no clock, no I/O.
pub fn step(payment: &Payment, event: Event, now: Timestamp) -> Result<Step, Rejected> {
    let Payment { terms, progress } = payment;
    let mut legs = progress.legs;
    let (learned, direction) = match legs.learn(terms, event) {
        Ok(learned) => (learned, after_fact(payment, &legs, event, now)),
        Err(NotLearned::NoFact) => {
            (Learned::default(), on_request(progress.state, terms, &legs, event, now)?)
        }
        Err(NotLearned::Repeat) => return Err(Rejected::Repeat),
        Err(NotLearned::Contradiction) if progress.state == CONTRADICTION => return Err(Rejected::Repeat),
        Err(NotLearned::Contradiction) => {
            legs = progress.legs;
            (Learned::default(), Direction::Stay(CONTRADICTION))
        }
    };

    let is_resumed = event == Event::Reviewed(Decision::Resume);
    let mut travel =
        Travel { terms, from: progress.state, is_resumed, legs, now, effects: vec![], released: None };
    let route = match direction {
        Direction::Stay(state) => vec![state],
        Direction::Forward => travel.forward(),
        Direction::Cancel(reason) => travel.cancel(reason),
        Direction::WindDown(reason) => travel.wind_down(reason),
        Direction::Close(reason) => travel.close(reason),
    };
    let state = route.last().copied().unwrap_or(progress.state);
    if matches!(event, Event::Reviewed(Decision::Resume | Decision::Cancel)) {
        // Whatever comes next waits for the bank's answer. Its refusal may have come before or after the reason that the payment
        // stands under, so it is asked again whatever the reason; what is on its way all the same is not asked for twice.
        let asked_again = legs.unanswered().filter(|step| is_awaited(terms, state, *step));
        travel.effects.extend(asked_again.map(Effect::Bank));
    }
    let next = Progress { state, legs: travel.legs };
    let entered: Vec<State> = route.into_iter().filter(|entered| *entered != progress.state).collect();
    if next == *progress && learned.hold.is_none() && travel.effects.is_empty() {
        return Err(Rejected::Repeat);
    }
    Ok(Step {
        next,
        suspends_debtor: entered.contains(&State::UnderReview(ReviewReason::CaptureFailed)),
        entered,
        entries: learned.entries,
        hold: learned.hold.or(travel.released),
        effects: travel.effects,
    })
}

/// Does a payment that people have sent to this state wait for the bank's answer to this step there? What it no longer wants it has not
/// done either: a hold for what is cancelled, money for what the chain has closed, a release of what is settled.
fn is_awaited(terms: &Terms, state: State, step: BankStep) -> bool {
    match state {
        State::Accepted | State::Held | State::Settled => {
            matches!(step, BankStep::Capture | BankStep::Credit)
        }
        State::Initiated => step != BankStep::Release,
        // What a confirm-only bank has taken is given back; what another has, or was paid, is for people once the chain has closed it.
        State::Cancelling(_) => match step {
            BankStep::Release => true,
            BankStep::Capture => terms.hold_mode == HoldMode::ConfirmOnly,
            BankStep::PlaceHold | BankStep::Credit => false,
        },
        State::Completed | State::Failed(_) | State::UnderReview(_) => false,
    }
}

const CONTRADICTION: State = State::UnderReview(ReviewReason::Contradiction);
const FUNDS_MOVED: State = State::UnderReview(ReviewReason::FundsMovedWithoutSettlement);

/// Where the next state comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// The state is this one.
    Stay(State),
    /// Wherever the legs say.
    Forward,
    /// Undo it, chain first.
    Cancel(EndReason),
    /// The chain is done with it: undo the rest.
    WindDown(EndReason),
    /// It has failed, whatever the chain knows of it: a reorganisation changed that, or people have dealt with the rest.
    Close(EndReason),
}

/// A leg has moved: what does that mean in this state?
fn after_fact(before: &Payment, legs: &Legs, event: Event, now: Timestamp) -> Direction {
    let Payment { terms, progress: Progress { state, legs: legs_before } } = before;
    match *state {
        State::Accepted | State::Initiated | State::Held | State::Settled => on_the_way(terms, legs, event),
        // What was set aside is open still: the chain may settle or close it all the same, the bank may let go.
        State::UnderReview(ReviewReason::CreditorBlocked)
            if !matches!(event, Event::Captured | Event::Credited | Event::CreditDeclined(_)) =>
        {
            on_the_way(terms, legs, event)
        }
        State::Cancelling(reason) => match event {
            // The chain decides races.
            Event::Chain(ChainLog::Settled) => Direction::Forward,
            Event::Chain(ChainLog::Initiated) => Direction::Cancel(reason),
            // Open again, whoever had closed it.
            Event::ChainRemoved(ChainLog::Cancelled | ChainLog::Reclaimed) => Direction::Cancel(reason),
            // A release is only asked for once the chain is done with the payment.
            Event::Released => Direction::WindDown(reason),
            Event::Chain(_)
            | Event::ChainRemoved(_)
            | Event::HoldPlaced { .. }
            | Event::HoldDeclined(_)
            | Event::HoldExpired
            | Event::Captured
            | Event::CaptureDeclined(_)
            | Event::Credited
            | Event::CreditDeclined(_)
            | Event::CancelRequested { .. }
            | Event::InitiateWindowClosed
            | Event::SettleWindowClosing
            | Event::InitiationRefused(_)
            | Event::BankRefused(_)
            | Event::Reviewed(_) => {
                if legs.chain == ChainLeg::Closed {
                    Direction::WindDown(reason)
                } else {
                    Direction::Stay(*state)
                }
            }
        },
        // A reorganisation below a completed payment is sent again by itself; only its loss is for a person: here if it is seen
        // at once, else a timer tells.
        State::Completed => match event {
            Event::Chain(
                ChainLog::Cancelled
                | ChainLog::Reclaimed
                | ChainLog::InitiationSetAside(_)
                | ChainLog::SettlementSetAside(_),
            ) => Direction::Stay(FUNDS_MOVED),
            Event::ChainRemoved(_) if is_too_late_to_send_again(terms, legs, now) => {
                Direction::Stay(FUNDS_MOVED)
            }
            Event::Chain(
                ChainLog::Initiated
                | ChainLog::Settled
                | ChainLog::RedemptionBurned
                | ChainLog::RedemptionReleased,
            )
            | Event::ChainRemoved(_)
            | Event::HoldPlaced { .. }
            | Event::HoldDeclined(_)
            | Event::HoldExpired
            | Event::Captured
            | Event::CaptureDeclined(_)
            | Event::Released
            | Event::Credited
            | Event::CreditDeclined(_)
            | Event::CancelRequested { .. }
            | Event::InitiateWindowClosed
            | Event::SettleWindowClosing
            | Event::InitiationRefused(_)
            | Event::BankRefused(_)
            | Event::Reviewed(_) => Direction::Stay(State::Completed),
        },
        State::Failed(_) if matches!(event, Event::Chain(ChainLog::Settled)) => {
            Direction::Stay(CONTRADICTION)
        }
        // After a reorganisation an initiation is seen again; the first time, a failed payment can have none.
        State::Failed(_) if event == Event::Chain(ChainLog::Initiated) && legs_before.round == 0 => {
            Direction::Stay(CONTRADICTION)
        }
        State::Failed(reason)
            if matches!(event, Event::Chain(ChainLog::Initiated) | Event::ChainRemoved(_)) =>
        {
            Direction::Close(reason)
        }
        State::Failed(_) => Direction::Stay(*state),
        State::UnderReview(_) => Direction::Stay(*state),
    }
}

/// The contract would refuse what a reorganisation took back.
fn is_too_late_to_send_again(terms: &Terms, legs: &Legs, now: Timestamp) -> bool {
    match legs.chain {
        ChainLeg::Unused => now >= terms.initiate_before,
        ChainLeg::Open => now >= terms.expires_at,
        ChainLeg::Settled | ChainLeg::Closed => false,
    }
}

fn on_the_way(terms: &Terms, legs: &Legs, event: Event) -> Direction {
    match event {
        Event::HoldPlaced { until } if until < terms.hold_until => Direction::Cancel(EndReason::HoldTooShort),
        Event::HoldDeclined(code) => Direction::Cancel(EndReason::HoldDeclined(code)),
        Event::HoldExpired => Direction::Cancel(EndReason::HoldExpired),
        Event::CaptureDeclined(_) if legs.chain == ChainLeg::Settled => Direction::Forward,
        Event::CaptureDeclined(code) => Direction::Cancel(EndReason::HoldDeclined(code)),
        Event::Chain(ChainLog::InitiationSetAside(why)) => Direction::WindDown(EndReason::SetAside(why)),
        Event::Chain(ChainLog::SettlementSetAside(_)) => {
            Direction::Stay(State::UnderReview(ReviewReason::CreditorBlocked))
        }
        Event::Chain(ChainLog::Cancelled) => Direction::WindDown(EndReason::Expired),
        Event::Chain(ChainLog::Reclaimed) => Direction::WindDown(EndReason::Reclaimed),
        Event::Chain(
            ChainLog::Initiated
            | ChainLog::Settled
            | ChainLog::RedemptionBurned
            | ChainLog::RedemptionReleased,
        )
        | Event::ChainRemoved(_)
        | Event::HoldPlaced { .. }
        | Event::Captured
        | Event::Released
        | Event::Credited
        | Event::CreditDeclined(_)
        | Event::CancelRequested { .. }
        | Event::InitiateWindowClosed
        | Event::SettleWindowClosing
        | Event::InitiationRefused(_)
        | Event::BankRefused(_)
        | Event::Reviewed(_) => Direction::Forward,
    }
}

/// A wish, a timer or a decision: may it be followed in this state?
fn on_request(
    state: State,
    terms: &Terms,
    legs: &Legs,
    event: Event,
    now: Timestamp,
) -> Result<Direction, Rejected> {
    let waits_for_chain = legs.chain == ChainLeg::Unused;
    match (event, state) {
        // A reorganisation took the settlement back, not what banks have paid on it: it is sent again.
        (Event::CancelRequested { .. }, State::Accepted | State::Initiated | State::Held)
            if legs.bank_money_moved(terms) =>
        {
            Err(Rejected::TooLate)
        }
        (Event::CancelRequested { initiation }, State::Accepted) => Ok(match initiation {
            Initiation::NeverSigned if waits_for_chain => Direction::WindDown(EndReason::Revoked),
            Initiation::NeverSigned | Initiation::MaybeSigned => Direction::Cancel(EndReason::Revoked),
        }),
        (
            Event::CancelRequested { .. },
            State::Initiated | State::Held | State::UnderReview(ReviewReason::CreditorBlocked),
        ) => Ok(Direction::Cancel(EndReason::Revoked)),
        (Event::SettleWindowClosing, _) if now < terms.settle_before => Err(Rejected::NotApplicable),
        (
            Event::SettleWindowClosing,
            State::Accepted
            | State::Initiated
            | State::Held
            | State::UnderReview(ReviewReason::CreditorBlocked),
        ) => Ok(Direction::Cancel(EndReason::Expired)),
        (Event::CancelRequested { .. } | Event::SettleWindowClosing, State::Cancelling(_)) => {
            Err(Rejected::Repeat)
        }
        // A reorganisation took the settlement back, and the chain has closed the window in which it could come again.
        (Event::InitiateWindowClosed, State::Completed) if waits_for_chain => {
            Ok(Direction::Stay(FUNDS_MOVED))
        }
        (Event::SettleWindowClosing, State::Completed)
            if legs.chain == ChainLeg::Open && now >= terms.expires_at =>
        {
            Ok(Direction::Stay(FUNDS_MOVED))
        }
        (Event::InitiateWindowClosed, State::Accepted) if waits_for_chain => {
            Ok(Direction::WindDown(EndReason::NotInitiated))
        }
        (Event::InitiationRefused(why), State::Accepted) if waits_for_chain => {
            Ok(Direction::WindDown(EndReason::SetAside(why)))
        }
        (Event::InitiateWindowClosed | Event::InitiationRefused(_), State::Cancelling(reason))
            if waits_for_chain =>
        {
            Ok(Direction::WindDown(reason))
        }
        (Event::Reviewed(decision), State::UnderReview(_)) => Ok(match decision {
            Decision::Resume => Direction::Forward,
            Decision::Cancel => Direction::Cancel(EndReason::Reviewed),
            Decision::CloseCompleted => Direction::Stay(State::Completed),
            // No decision leaves tokens in escrow, or reserved, for what has failed.
            Decision::CloseFailed => Direction::Close(EndReason::Reviewed),
        }),
        (Event::Reviewed(_), _) => Err(Rejected::NotApplicable),
        (
            Event::BankRefused(step),
            State::Initiated | State::Held | State::Settled | State::Cancelling(_),
        ) if legs.unanswered().any(|asked| asked == step) => {
            Ok(Direction::Stay(State::UnderReview(ReviewReason::BankRefused)))
        }
        (Event::BankRefused(_), State::UnderReview(_)) => Err(Rejected::Repeat),
        (
            Event::CancelRequested { .. }
            | Event::SettleWindowClosing
            | Event::InitiateWindowClosed
            | Event::InitiationRefused(_)
            | Event::BankRefused(_),
            State::Accepted
            | State::Initiated
            | State::Held
            | State::Settled
            | State::Cancelling(_)
            | State::Completed
            | State::Failed(_)
            | State::UnderReview(_),
        ) => Err(Rejected::TooLate),
        (
            Event::Chain(_)
            | Event::ChainRemoved(_)
            | Event::HoldPlaced { .. }
            | Event::HoldDeclined(_)
            | Event::HoldExpired
            | Event::Captured
            | Event::CaptureDeclined(_)
            | Event::Released
            | Event::Credited
            | Event::CreditDeclined(_),
            _,
        ) => Err(Rejected::NotApplicable),
    }
}

/// A payment on its way to its next state: the legs as they change, and what is asked for on the way. Each direction returns
/// the states passed through, the last of which is where the payment stands.
struct Travel<'a> {
    terms: &'a Terms,
    from: State,
    /// Two people want it to go on.
    is_resumed: bool,
    legs: Legs,
    now: Timestamp,
    effects: Vec<Effect>,
    /// Reserved tokens that no chain log gives back, because the payment never came to the chain.
    released: Option<LedgerHold>,
}

impl Travel<'_> {
    fn forward(&mut self) -> Vec<State> {
        match self.legs.chain {
            ChainLeg::Unused => vec![State::Accepted],
            ChainLeg::Open => self.secure_funds(),
            ChainLeg::Settled => self.pay_out(),
            ChainLeg::Closed => match self.legs.payout {
                PayoutLeg::Burned | PayoutLeg::Released => vec![State::Completed],
                PayoutLeg::NotDue
                | PayoutLeg::CreditAsked
                | PayoutLeg::BurnAsked
                | PayoutLeg::ReleaseAsked => self.wind_down(EndReason::Reviewed),
            },
        }
    }

    /// Open on chain: the debtor's funds have to be certain before we settle.
    fn secure_funds(&mut self) -> Vec<State> {
        if self.terms.funding == Funding::Token {
            return self.settle();
        }
        let confirm_only = self.terms.hold_mode == HoldMode::ConfirmOnly;
        match self.legs.hold {
            HoldLeg::NotAsked => {
                self.legs.hold = HoldLeg::Asked;
                self.effects.push(Effect::Bank(BankStep::PlaceHold));
                vec![State::Initiated]
            }
            HoldLeg::Asked => vec![State::Initiated],
            HoldLeg::Placed if confirm_only => {
                self.legs.hold = HoldLeg::CaptureAsked;
                self.effects.push(Effect::Bank(BankStep::Capture));
                vec![State::Initiated]
            }
            HoldLeg::CaptureAsked if confirm_only => vec![State::Initiated],
            // Captured or about to be: a reorganisation took the settlement back, and it is sent again.
            HoldLeg::Placed | HoldLeg::CaptureAsked | HoldLeg::Captured => self.settle(),
            HoldLeg::Declined | HoldLeg::CaptureDeclined => {
                self.cancel(EndReason::HoldDeclined(ReasonCode::NOT_SPECIFIED))
            }
            HoldLeg::ReleaseAsked { .. } | HoldLeg::Released => self.cancel(EndReason::HoldExpired),
        }
    }

    fn settle(&mut self) -> Vec<State> {
        if self.now >= self.terms.settle_before {
            return self.cancel(EndReason::Expired);
        }
        if self.from == State::Held {
            return vec![State::Held];
        }
        self.effects.push(Effect::SettleOnChain);
        if self.from == State::Accepted { vec![State::Initiated, State::Held] } else { vec![State::Held] }
    }

    /// Settled on chain: take the debtor's money, pay the creditor's bank if that is where it goes.
    fn pay_out(&mut self) -> Vec<State> {
        if self.terms.funding == Funding::Bank {
            match self.legs.hold {
                HoldLeg::Captured => {}
                HoldLeg::Placed => {
                    self.legs.hold = HoldLeg::CaptureAsked;
                    self.effects.push(Effect::Bank(BankStep::Capture));
                    return vec![State::Settled];
                }
                HoldLeg::CaptureAsked => return vec![State::Settled],
                // The loss is booked, and whose it is has nothing to do with the creditor: people may pay on.
                HoldLeg::CaptureDeclined
                    if self.terms.payout == Payout::Bank
                        && (self.is_resumed || self.legs.payout != PayoutLeg::NotDue) => {}
                HoldLeg::CaptureDeclined => {
                    return vec![State::Settled, State::UnderReview(ReviewReason::CaptureFailed)];
                }
                HoldLeg::NotAsked
                | HoldLeg::Asked
                | HoldLeg::Declined
                | HoldLeg::ReleaseAsked { .. }
                | HoldLeg::Released => return vec![State::Settled, CONTRADICTION],
            }
        }
        if self.terms.payout == Payout::Token {
            return vec![State::Settled, State::Completed];
        }
        match self.legs.payout {
            PayoutLeg::NotDue => {
                self.legs.payout = PayoutLeg::CreditAsked;
                self.effects.push(Effect::Bank(BankStep::Credit));
            }
            PayoutLeg::BurnAsked => self.effects.push(Effect::BurnRedeemed),
            PayoutLeg::ReleaseAsked => self.effects.push(Effect::ReleaseRedemption),
            PayoutLeg::CreditAsked | PayoutLeg::Burned | PayoutLeg::Released => {}
        }
        vec![State::Settled]
    }

    fn cancel(&mut self, reason: EndReason) -> Vec<State> {
        match self.legs.chain {
            // It may still be initiated: then it is cancelled; or its window closes: then it is over.
            ChainLeg::Unused => vec![State::Cancelling(reason)],
            ChainLeg::Open => {
                self.effects.push(Effect::CancelOnChain);
                vec![State::Cancelling(reason)]
            }
            ChainLeg::Settled => self.pay_out(),
            ChainLeg::Closed => self.wind_down(reason),
        }
    }

    fn wind_down(&mut self, reason: EndReason) -> Vec<State> {
        match self.legs.chain {
            ChainLeg::Unused | ChainLeg::Closed => {}
            ChainLeg::Open | ChainLeg::Settled => return self.cancel(reason),
        }
        if self.legs.bank_money_moved(self.terms) {
            return vec![FUNDS_MOVED];
        }
        match self.legs.hold {
            // The answer is awaited, and says what is to be given back.
            HoldLeg::CaptureAsked | HoldLeg::ReleaseAsked { .. } => return vec![State::Cancelling(reason)],
            HoldLeg::NotAsked
            | HoldLeg::Asked
            | HoldLeg::Placed
            | HoldLeg::Declined
            | HoldLeg::Captured
            | HoldLeg::CaptureDeclined
            | HoldLeg::Released => {}
        }
        if let Some(asked) = release_due(self.terms, self.legs.hold) {
            self.legs.hold = asked;
            self.effects.push(Effect::Bank(BankStep::Release));
            return vec![State::Cancelling(reason)];
        }
        if self.legs.chain == ChainLeg::Unused {
            self.released = self.legs.free_reserved(self.terms);
        }
        vec![State::Failed(reason)]
    }

    /// What is open on chain is closed there, which gives back what it escrows; what is not on chain is not reserved for.
    fn close(&mut self, reason: EndReason) -> Vec<State> {
        match self.legs.chain {
            ChainLeg::Unused => self.released = self.legs.free_reserved(self.terms),
            ChainLeg::Open => self.effects.push(Effect::CancelOnChain),
            ChainLeg::Settled | ChainLeg::Closed => {}
        }
        vec![State::Failed(reason)]
    }
}
