//! The deliveries of one payment to one endpoint, between two workers, with a receiver that takes, refuses, takes without
//! saying so, or never answers.
//!
//! Mirrors `CLAIM` (its choice of the oldest event that is still open), `RECORD` (under the fence) and the end of a lease. Here
//! they are always due; when they are is another model (`webhook_line`). What counts is what the receiver hears: each event at
//! least once unless it was given up, and none for the first time after a later one. (One that was given up may still arrive
//! from a worker that slept through it all.)

use stateright::{Checker, HasDiscoveries, Model, Property};

const EVENTS: usize = 3;
const ATTEMPTS_MAX: u8 = 2;
const FENCE_MAX: u8 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum State {
    Pending,
    Claimed,
    Delivered,
    Exhausted,
}

/// A row of `webhook_delivery`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Delivery {
    state: State,
    attempts: u8,
    fence: u8,
}

/// A request under way, or its answer on the way to be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Attempt {
    event: usize,
    fence: u8,
    attempts: u8,
    /// `None` while the receiver has not dealt with it.
    taken: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    deliveries: [Delivery; EVENTS],
    workers: [Option<Attempt>; 2],
    /// What the receiver has heard, in order.
    heard: Vec<usize>,
    /// What has been recorded as delivered.
    delivered: [bool; EVENTS],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    Claim(usize, usize),
    /// The receiver takes it; its answer may be lost or say otherwise.
    Hear {
        worker: usize,
        says_so: bool,
    },
    Refuse(usize),
    Record(usize),
    /// The lease of a claim runs out; whoever had it sleeps on.
    LeaseEnds(usize),
    /// A worker dies with what it had under way.
    Die(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// What is claimed no longer holds back later events.
    ClaimedCountsAsGone,
    /// Deliveries are chosen by when they are due, whatever their payment.
    NoOrder,
    /// A result is recorded whoever has the claim.
    NoFence,
}

struct Endpoint {
    flaw: Flaw,
}

impl World {
    fn may_claim(&self, flaw: Flaw, event: usize) -> bool {
        let is_open = |delivery: &Delivery| match flaw {
            Flaw::None | Flaw::NoFence => matches!(delivery.state, State::Pending | State::Claimed),
            Flaw::ClaimedCountsAsGone => delivery.state == State::Pending,
            Flaw::NoOrder => false,
        };
        self.deliveries[event].state == State::Pending && !self.deliveries[..event].iter().any(is_open)
    }

    fn record(&mut self, flaw: Flaw, worker: usize) {
        let Some(Attempt { event, fence, attempts, taken: Some(taken) }) = self.workers[worker].take() else {
            return;
        };
        let delivery = &mut self.deliveries[event];
        let is_ours = delivery.fence == fence && delivery.state == State::Claimed;
        if is_ours || flaw == Flaw::NoFence {
            delivery.state = match taken {
                true => State::Delivered,
                false if attempts >= ATTEMPTS_MAX => State::Exhausted,
                false => State::Pending,
            };
            self.delivered[event] |= taken;
        }
    }

    fn heard_first(&self) -> Vec<usize> {
        let mut first: Vec<usize> = Vec::new();
        for event in &self.heard {
            let was_given_up = self.deliveries[*event].state == State::Exhausted;
            if !was_given_up && !first.contains(event) {
                first.push(*event);
            }
        }
        first
    }
}

impl Model for Endpoint {
    type State = World;
    type Action = Move;

    fn init_states(&self) -> Vec<World> {
        let new = Delivery { state: State::Pending, attempts: 0, fence: 0 };
        vec![World {
            deliveries: [new; EVENTS],
            workers: [None; 2],
            heard: vec![],
            delivered: [false; EVENTS],
        }]
    }

    fn actions(&self, world: &World, moves: &mut Vec<Move>) {
        for (number, worker) in world.workers.iter().enumerate() {
            match worker {
                None => moves.extend(
                    (0..EVENTS)
                        .filter(|event| world.may_claim(self.flaw, *event))
                        .filter(|event| world.deliveries[*event].fence < FENCE_MAX)
                        .map(|event| Move::Claim(number, event)),
                ),
                Some(Attempt { taken: None, .. }) => moves.extend([
                    Move::Hear { worker: number, says_so: true },
                    Move::Hear { worker: number, says_so: false },
                    Move::Refuse(number),
                    Move::Die(number),
                ]),
                Some(Attempt { taken: Some(_), .. }) => {
                    moves.extend([Move::Record(number), Move::Die(number)])
                }
            }
        }
        let claimed = |event: &usize| world.deliveries[*event].state == State::Claimed;
        moves.extend((0..EVENTS).filter(claimed).map(Move::LeaseEnds));
    }

    fn next_state(&self, world: &World, made: Move) -> Option<World> {
        let mut next = world.clone();
        match made {
            Move::Claim(worker, event) => {
                let delivery = &mut next.deliveries[event];
                *delivery = Delivery {
                    state: State::Claimed,
                    attempts: delivery.attempts + 1,
                    fence: delivery.fence + 1,
                };
                next.workers[worker] =
                    Some(Attempt { event, fence: delivery.fence, attempts: delivery.attempts, taken: None });
            }
            Move::Hear { worker, says_so } => {
                let attempt = next.workers[worker].as_mut().unwrap();
                attempt.taken = Some(says_so);
                next.heard.push(attempt.event);
            }
            Move::Refuse(worker) => next.workers[worker].as_mut().unwrap().taken = Some(false),
            Move::Record(worker) => next.record(self.flaw, worker),
            Move::LeaseEnds(event) => next.deliveries[event].state = State::Pending,
            Move::Die(worker) => next.workers[worker] = None,
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ORDER, |_, world: &World| world.heard_first().is_sorted()),
            Property::always(HEARD, |_, world: &World| {
                let is_heard = |event: &usize| world.heard.contains(event);
                (0..EVENTS)
                    .filter(|event| world.deliveries[*event].state == State::Delivered)
                    .all(|event| is_heard(&event))
            }),
            Property::always(DONE, |_, world: &World| {
                let states = world.deliveries.iter().map(|delivery| delivery.state);
                states.zip(world.delivered).all(|(state, delivered)| !delivered || state == State::Delivered)
            }),
            Property::sometimes("all are delivered", |_, world: &World| {
                world.deliveries.iter().all(|delivery| delivery.state == State::Delivered)
            }),
            Property::sometimes("one is given up, and the next is heard", |_, world: &World| {
                world.deliveries[0].state == State::Exhausted && world.heard.contains(&1)
            }),
        ]
    }
}

const ORDER: &str = "no event is heard for the first time after a later one of its payment";
const HEARD: &str = "what is delivered was heard";
const DONE: &str = "what was recorded as delivered stays so";

#[test]
fn the_deliveries_of_a_payment_keep_their_order() {
    let checked = Endpoint { flaw: Flaw::None }.checker().threads(2).spawn_bfs().join();
    checked.assert_properties();
}

#[test]
fn an_event_under_way_that_holds_nothing_back_is_overtaken() {
    refute(Flaw::ClaimedCountsAsGone, ORDER);
}

#[test]
fn deliveries_chosen_without_order_arrive_without_order() {
    refute(Flaw::NoOrder, ORDER);
}

#[test]
fn a_late_result_without_a_fence_opens_what_was_delivered() {
    refute(Flaw::NoFence, DONE);
}

fn refute(flaw: Flaw, promise: &'static str) {
    let enough = HasDiscoveries::AnyOf([promise].into());
    let checked = Endpoint { flaw }.checker().finish_when(enough).spawn_bfs().join();
    assert!(checked.discovery(promise).is_some(), "{flaw:?} was not found out");
}
