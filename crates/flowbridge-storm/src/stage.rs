//! What a payment goes through, as one byte each: a storm of an hour is told of millions of events.
//!
//! Which state may follow which is written down here a second time, by hand: an oracle that asked the domain would believe
//! whatever the domain believes. A test takes every payment through everything that can happen to it, and says where the two
//! differ.

use std::fmt;

const NAMES: [&str; 8] =
    ["accepted", "initiated", "held", "settled", "cancelling", "under_review", "completed", "failed"];

/// A state that a payment enters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stage(u8);

/// What was told of one payment, in order.
pub(crate) type Story = Vec<Stage>;

impl Stage {
    pub(crate) const ACCEPTED: Self = Self(0);
    pub(crate) const INITIATED: Self = Self(1);
    pub(crate) const HELD: Self = Self(2);
    pub(crate) const SETTLED: Self = Self(3);
    pub(crate) const CANCELLING: Self = Self(4);
    pub(crate) const UNDER_REVIEW: Self = Self(5);
    pub(crate) const COMPLETED: Self = Self(6);
    pub(crate) const FAILED: Self = Self(7);

    /// From the name of a state, or the kind of the event that tells of it.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let name = name.strip_prefix("payment.").unwrap_or(name);
        let place = NAMES.iter().position(|known| *known == name)?;
        u8::try_from(place).ok().map(Self)
    }

    /// Those that are not the end.
    pub(crate) fn unfinished() -> impl Iterator<Item = &'static str> {
        NAMES.into_iter().filter(|name| Self::parse(name).is_some_and(|stage| !stage.is_end()))
    }

    pub(crate) fn is_end(self) -> bool {
        matches!(self, Self::COMPLETED | Self::FAILED)
    }

    /// How this state may be followed by that one.
    pub(crate) fn followed_by(self, next: Self) -> Move {
        match MOVES.iter().find(|(from, ..)| *from == self) {
            Some((_, onward, _)) if onward.contains(&next) => Move::Onward,
            Some((_, _, back)) if back.contains(&next) => Move::Back,
            Some(_) | None => Move::Illegal,
        }
    }
}

/// How one state follows another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Move {
    /// As a payment's life goes.
    Onward,
    /// As it goes only when a reorganisation has taken back what the chain had said.
    Back,
    /// Never.
    Illegal,
}

/// Each state with those that may follow it, and those that may only when a reorganisation has taken something back. What has
/// ended stays so, unless the chain contradicts it: then a person is asked, and a person may decide anything.
static MOVES: [(Stage, &[Stage], &[Stage]); 8] = [
    (Stage::ACCEPTED, &[Stage::INITIATED, Stage::CANCELLING, Stage::UNDER_REVIEW, Stage::FAILED], &[]),
    (
        Stage::INITIATED,
        &[Stage::HELD, Stage::SETTLED, Stage::CANCELLING, Stage::UNDER_REVIEW],
        &[Stage::ACCEPTED],
    ),
    (
        Stage::HELD,
        &[Stage::SETTLED, Stage::CANCELLING, Stage::UNDER_REVIEW, Stage::FAILED],
        &[Stage::ACCEPTED],
    ),
    (
        Stage::SETTLED,
        &[Stage::COMPLETED, Stage::UNDER_REVIEW],
        &[Stage::INITIATED, Stage::HELD, Stage::CANCELLING],
    ),
    (Stage::CANCELLING, &[Stage::SETTLED, Stage::UNDER_REVIEW, Stage::FAILED], &[]),
    (
        Stage::UNDER_REVIEW,
        &[
            Stage::ACCEPTED,
            Stage::INITIATED,
            Stage::HELD,
            Stage::SETTLED,
            Stage::CANCELLING,
            Stage::UNDER_REVIEW,
            Stage::COMPLETED,
            Stage::FAILED,
        ],
        &[],
    ),
    (Stage::COMPLETED, &[Stage::UNDER_REVIEW], &[]),
    (Stage::FAILED, &[Stage::UNDER_REVIEW], &[]),
];

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAMES.get(usize::from(self.0)).copied().unwrap_or("?"))
    }
}

#[cfg(test)]
mod tests {
    use super::{Move, NAMES, Stage};
    use flowbridge_domain::bank::{BankStep, HoldMode, ReasonCode};
    use flowbridge_domain::id::{AccountId, ParticipantId, PaymentId};
    use flowbridge_domain::money::{Currency, Money};
    use flowbridge_domain::party::BankCode;
    use flowbridge_domain::payment::{
        ChainLog, Decision, Event, Funding, Initiation, Kind, Party, Payment, PaymentNumber, Payout,
        SetAside, State, Terms, accept, step,
    };
    use flowbridge_domain::time::Timestamp;
    use std::collections::{BTreeSet, HashSet};

    type Pairs = BTreeSet<(Stage, Stage)>;

    /// Before anything is due, and from each of a payment's limits on.
    const NOW: [Timestamp; 4] = [
        Timestamp::from_secs(1_000),
        Timestamp::from_secs(1_060),
        Timestamp::from_secs(1_240),
        Timestamp::from_secs(1_300),
    ];
    const HOLD_UNTIL: Timestamp = Timestamp::from_secs(1_900);

    fn terms(funding: Funding, payout: Payout, hold_mode: HoldMode) -> Terms {
        let [accepted_at, initiate_before, settle_before, expires_at] = NOW;
        let euro = |units| Money::new(units, Currency::parse("EUR").unwrap());
        let party = |number: u8, bank: &str| Party {
            account: AccountId::generate(accepted_at, [number; 10]),
            participant: ParticipantId::generate(accepted_at, [number; 10]),
            bank: BankCode::parse(bank).unwrap(),
        };
        Terms {
            id: PaymentId::generate(accepted_at, [7; 10]),
            number: PaymentNumber(7),
            kind: Kind::Transfer,
            funding,
            payout,
            amount: euro(100),
            fee: euro(2),
            debtor: party(1, "alpha"),
            creditor: party(2, "beta"),
            hold_mode,
            execute_at: accepted_at,
            initiate_before,
            settle_before,
            expires_at,
            hold_until: HOLD_UNTIL,
        }
    }

    fn every_event() -> Vec<Event> {
        let logs = [
            ChainLog::Initiated,
            ChainLog::InitiationSetAside(SetAside::NotFunded),
            ChainLog::Settled,
            ChainLog::SettlementSetAside(SetAside::Frozen),
            ChainLog::Cancelled,
            ChainLog::Reclaimed,
            ChainLog::RedemptionBurned,
            ChainLog::RedemptionReleased,
        ];
        let others = [
            Event::CancelRequested { initiation: Initiation::NeverSigned },
            Event::CancelRequested { initiation: Initiation::MaybeSigned },
            Event::InitiateWindowClosed,
            Event::SettleWindowClosing,
            Event::InitiationRefused(SetAside::Unauthorized),
            Event::HoldPlaced { until: HOLD_UNTIL },
            Event::HoldPlaced { until: Timestamp::from_secs(1_899) },
            Event::HoldDeclined(ReasonCode::INSUFFICIENT_FUNDS),
            Event::HoldExpired,
            Event::Captured,
            Event::CaptureDeclined(ReasonCode::CLOSED_ACCOUNT),
            Event::Released,
            Event::Credited,
            Event::CreditDeclined(ReasonCode::BLOCKED_ACCOUNT),
            Event::BankRefused(BankStep::Capture),
            Event::BankRefused(BankStep::Release),
            Event::BankRefused(BankStep::Credit),
            Event::Reviewed(Decision::Resume),
            Event::Reviewed(Decision::Cancel),
            Event::Reviewed(Decision::CloseCompleted),
            Event::Reviewed(Decision::CloseFailed),
        ];
        logs.into_iter().flat_map(|log| [Event::Chain(log), Event::ChainRemoved(log)]).chain(others).collect()
    }

    fn stage(state: State) -> Stage {
        Stage::parse(state.as_str()).unwrap()
    }

    /// Every two states that the domain enters one after the other, whatever of these events happens to a payment and when.
    fn told_by_the_domain(events: &[Event]) -> Pairs {
        let mut pairs = Pairs::new();
        for funding in [Funding::Bank, Funding::Token] {
            for payout in [Payout::Token, Payout::Bank] {
                for hold_mode in [HoldMode::Native, HoldMode::Escrow, HoldMode::ConfirmOnly] {
                    explore(&terms(funding, payout, hold_mode), events, &mut pairs);
                }
            }
        }
        pairs
    }

    fn explore(terms: &Terms, events: &[Event], pairs: &mut Pairs) {
        let first = accept(terms).next;
        let (mut seen, mut waiting) = (HashSet::from([first]), vec![first]);
        while let Some(progress) = waiting.pop() {
            let payment = Payment { terms: terms.clone(), progress };
            for (event, now) in events.iter().flat_map(|event| NOW.map(|now| (*event, now))) {
                let Ok(taken) = step(&payment, event, now) else { continue };
                let mut from = stage(progress.state);
                for state in &taken.entered {
                    pairs.insert((from, stage(*state)));
                    from = stage(*state);
                }
                let mut next = taken.next;
                // The second round is like every later one.
                next.legs.round = next.legs.round.min(1);
                if seen.insert(next) {
                    waiting.push(next);
                }
            }
        }
    }

    fn written_here(which: Move) -> Pairs {
        let stages: Vec<Stage> = NAMES.into_iter().filter_map(Stage::parse).collect();
        let pairs = stages.iter().flat_map(|from| stages.iter().map(move |next| (*from, *next)));
        pairs.filter(|(from, next)| from.followed_by(*next) == which).collect()
    }

    #[test]
    fn what_may_follow_what_is_what_the_domain_tells() {
        let is_removal = |event: &Event| matches!(event, Event::ChainRemoved(_));
        let every = every_event();
        let without: Vec<Event> = every.iter().copied().filter(|event| !is_removal(event)).collect();
        let (all, onward) = (told_by_the_domain(&every), told_by_the_domain(&without));
        let back: Pairs = all.difference(&onward).copied().collect();
        assert_eq!(written_here(Move::Onward), onward);
        assert_eq!(written_here(Move::Back), back);
    }
}
