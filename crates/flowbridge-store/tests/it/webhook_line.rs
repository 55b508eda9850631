//! When the deliveries of one payment to one endpoint are due, while the receiver refuses, the fan-out queues further ones and a person
//! asks for one again.
//!
//! Mirrors `FAN_OUT` (the due time of what queues up), `CLAIM`, `RECORD` with `WAIT_IN_LINE`, and `REDELIVER` with `COME_FORWARD`.
//! A transaction is taken apart where another may come between: it locks the delivery that it is about, a later statement sees what
//! is committed by then, and all that it changes shows when it is committed. A person asks for what has nothing open ahead of it.
//! In what order they are heard is the other model's.

use stateright::{Checker, HasDiscoveries, Model, Property};

const EVENTS: usize = 3;
const TIME_MAX: u8 = 3;
const ATTEMPTS_MAX: u8 = 3;
const REDELIVERIES_MAX: u8 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum State {
    Pending,
    Claimed,
    /// Delivered or given up.
    Over,
}

/// A row of `webhook_delivery`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Delivery {
    state: State,
    attempts: u8,
    due: u8,
    /// Nobody who has put off what is ahead of it has seen it yet, or since a person brought it forward.
    is_new: bool,
}

/// A transaction that changes one delivery and then those behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Change {
    event: usize,
    to: Delivery,
    /// What comes behind moves with it, back or forward: how many there were to be seen.
    line: Option<usize>,
    is_redelivery: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct World {
    time: u8,
    deliveries: Vec<Delivery>,
    /// The fan-out has read which delivery is ahead, if it could lock one, and when the new one is due.
    queueing: Option<(Option<usize>, u8)>,
    recording: Option<Change>,
    redelivering: Option<Change>,
    redeliveries: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    Tick,
    ReadAhead,
    Queue,
    Claim(usize),
    Record {
        taken: bool,
    },
    Redeliver(usize),
    /// The second statement of the recording, or of the redelivery.
    Follow {
        is_redelivery: bool,
    },
    Commit {
        is_redelivery: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    NoWaitInLine,
    NoComeForward,
    /// The fan-out reads when the one ahead is due and does not hold it still.
    NoLock,
}

struct Line {
    flaw: Flaw,
}

impl World {
    fn first_open(&self) -> Option<usize> {
        self.deliveries.iter().position(|delivery| delivery.state != State::Over)
    }

    fn changes(&self) -> impl Iterator<Item = &Change> {
        self.recording.iter().chain(&self.redelivering)
    }

    fn is_locked(&self, event: usize) -> bool {
        self.changes().any(|change| change.event == event)
            || self.queueing.is_some_and(|(ahead, _)| ahead == Some(event))
    }

    fn change(&mut self, is_redelivery: bool) -> &mut Option<Change> {
        if is_redelivery { &mut self.redelivering } else { &mut self.recording }
    }

    fn read_ahead(&self, flaw: Flaw) -> (Option<usize>, u8) {
        match self.first_open() {
            Some(head) if flaw == Flaw::NoLock => (None, self.deliveries[head].due.max(self.time)),
            Some(head) if !self.is_locked(head) => (Some(head), self.deliveries[head].due.max(self.time)),
            Some(_) | None => (None, self.time),
        }
    }

    fn commit(&mut self, flaw: Flaw, change: Change) {
        let Change { event, to, line, is_redelivery } = change;
        self.deliveries[event] = to;
        if to.state == State::Over {
            return;
        }
        for behind in &mut self.deliveries[event + 1..line.unwrap()] {
            let moves = match is_redelivery {
                true => flaw != Flaw::NoComeForward && behind.due > to.due && behind.attempts == 0,
                false => flaw != Flaw::NoWaitInLine && behind.due < to.due,
            };
            if behind.state == State::Pending && moves {
                behind.due = to.due;
            }
            behind.is_new = is_redelivery && (behind.is_new || moves);
        }
    }
}

impl Model for Line {
    type State = World;
    type Action = Move;

    fn init_states(&self) -> Vec<World> {
        vec![World::default()]
    }

    fn actions(&self, world: &World, moves: &mut Vec<Move>) {
        if world.time < TIME_MAX {
            moves.push(Move::Tick);
        }
        match world.queueing {
            None if world.deliveries.len() < EVENTS => moves.push(Move::ReadAhead),
            None => {}
            Some(_) => moves.push(Move::Queue),
        }
        if let Some(first) = world.first_open()
            && !world.is_locked(first)
        {
            let delivery = world.deliveries[first];
            match delivery.state {
                State::Pending if delivery.due <= world.time => moves.push(Move::Claim(first)),
                State::Claimed => moves.extend([true, false].map(|taken| Move::Record { taken })),
                State::Pending | State::Over => {}
            }
        }
        if world.redelivering.is_none() && world.redeliveries < REDELIVERIES_MAX {
            let last = world.first_open().map_or(world.deliveries.len(), |first| first + 1);
            let idle =
                |event: &usize| world.deliveries[*event].state != State::Claimed && !world.is_locked(*event);
            moves.extend((0..last).filter(idle).map(Move::Redeliver));
        }
        for change in world.changes() {
            let is_redelivery = change.is_redelivery;
            moves.push(match change.line {
                None => Move::Follow { is_redelivery },
                Some(_) => Move::Commit { is_redelivery },
            });
        }
    }

    fn next_state(&self, world: &World, made: Move) -> Option<World> {
        let mut next = world.clone();
        match made {
            Move::Tick => next.time += 1,
            Move::ReadAhead => next.queueing = Some(world.read_ahead(self.flaw)),
            Move::Queue => {
                let (_, due) = next.queueing.take().unwrap();
                next.deliveries.push(Delivery { state: State::Pending, attempts: 0, due, is_new: true });
            }
            Move::Claim(event) => {
                let claimed = &mut next.deliveries[event];
                *claimed = Delivery { state: State::Claimed, attempts: claimed.attempts + 1, ..*claimed };
            }
            Move::Record { taken } => {
                let event = world.first_open().unwrap();
                let from = world.deliveries[event];
                let to = match taken || from.attempts >= ATTEMPTS_MAX {
                    true => Delivery { state: State::Over, ..from },
                    false => Delivery { state: State::Pending, due: world.time + 1, ..from },
                };
                next.recording = Some(Change { event, to, line: None, is_redelivery: false });
            }
            Move::Redeliver(event) => {
                let from = world.deliveries[event];
                let to = Delivery { state: State::Pending, attempts: 0, due: world.time, ..from };
                next.redelivering = Some(Change { event, to, line: None, is_redelivery: true });
                next.redeliveries += 1;
            }
            Move::Follow { is_redelivery } => {
                next.change(is_redelivery).as_mut().unwrap().line = Some(world.deliveries.len());
            }
            Move::Commit { is_redelivery } => {
                let change = next.change(is_redelivery).take().unwrap();
                next.commit(self.flaw, change);
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(PROMPT, |_, world: &World| {
                let is_idle = world.changes().next().is_none();
                let first = world.first_open().map(|first| world.deliveries[first]);
                let is_untried =
                    first.is_some_and(|first| first.state == State::Pending && first.attempts == 0);
                !is_idle || !is_untried || first.is_some_and(|first| first.due <= world.time)
            }),
            Property::always(PATIENT, |_, world: &World| {
                let Some(first) = world.first_open() else { return true };
                let head = world.deliveries[first];
                let waits = |behind: &&Delivery| behind.state == State::Pending && !behind.is_new;
                let is_put_off = head.state == State::Pending && head.due > world.time;
                !is_put_off
                    || world.deliveries[first + 1..].iter().filter(waits).all(|behind| behind.due >= head.due)
            }),
            Property::sometimes(
                "one is put off with what waits behind it, and all are heard or given up",
                |_, world: &World| {
                    world.deliveries.len() == EVENTS
                        && world.first_open().is_none()
                        && world.deliveries[0].attempts > 1
                },
            ),
        ]
    }
}

const PROMPT: &str = "what has nothing ahead of it and was never tried is due";
const PATIENT: &str = "what waits behind one that was put off is not due before it";

#[test]
fn what_waits_in_line_is_due_when_its_turn_comes_and_not_before() {
    let checked = Line { flaw: Flaw::None }.checker().threads(2).spawn_bfs().join();
    checked.assert_properties();
}

#[test]
fn what_does_not_wait_in_line_is_looked_at_by_every_claim() {
    refute(Flaw::NoWaitInLine, PATIENT);
}

#[test]
fn what_does_not_come_forward_sleeps_on_when_the_one_ahead_was_heard_early() {
    refute(Flaw::NoComeForward, PROMPT);
}

#[test]
fn what_queues_up_behind_one_that_is_not_held_still_may_sleep_on() {
    refute(Flaw::NoLock, PROMPT);
}

fn refute(flaw: Flaw, promise: &'static str) {
    let enough = HasDiscoveries::AnyOf([promise].into());
    let checked = Line { flaw }.checker().finish_when(enough).spawn_bfs().join();
    assert!(checked.discovery(promise).is_some(), "{flaw:?} was not found out");
}
