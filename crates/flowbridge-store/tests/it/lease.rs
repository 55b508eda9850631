//! A partition of the log between two readers: leases by clocks that nobody can trust, epochs and offsets that everybody can.
//!
//! Mirrors `ACQUIRE`, `RENEW`, `ADVANCE` and `REWIND` of the event log, and of a reader what `take_in` does: read what follows
//! its offset, decide, and write effects and offset in one transaction. Each reader's clock is right, far ahead or far behind,
//! and it may sleep at any moment for as long as it likes (SIGSTOP). Lanes of sending and the watcher's place are held the
//! same way (`LEASE_LANE` and `GUARD_LANE`, `LEASE_WATCHER` and `MOVE_CURSOR`).

use stateright::{Checker, HasDiscoveries, Model, Property};

const EVENTS: u8 = 3;
const LEASE: i8 = 2;
const TIME_MAX: i8 = 4;
const EPOCH_MAX: u8 = 4;

/// The row of `consumer_offset`, and what the transactions that moved it have written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    time: i8,
    owner: Option<usize>,
    epoch: u8,
    lease_until: i8,
    offset: u8,
    /// The events whose effects are written, in order.
    written: Vec<u8>,
    readers: [Reader; 2],
    rewinds: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Reader {
    held: Option<Held>,
    /// It has read the event after its offset, and decided.
    has_read: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Held {
    epoch: u8,
    offset: u8,
    /// By its own clock.
    until: i8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    Tick,
    /// `RENEW`, or `ACQUIRE` where there is nothing to renew.
    Lease(usize),
    Read(usize),
    /// Effects and `ADVANCE`.
    Write(usize),
    /// The same, and the answer to the commit is lost: the reader does not know that it happened.
    WriteUnheard(usize),
    /// A crash: it comes back as somebody else.
    Die(usize),
    /// A person sets the group back, after which what was written is to be written again.
    Rewind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// The offset moves whoever holds the partition.
    NoFence,
    /// A reader trusts its own clock to know whether it still holds the partition.
    TrustsItsClock,
    /// The offset is moved after the effects are committed, not with them.
    OffsetMovedLater,
    /// The epoch is compared, the offset is not.
    OffsetNotCompared,
}

struct Partition {
    flaw: Flaw,
    /// How wrong each reader's clock is.
    skew: [i8; 2],
}

impl World {
    fn now(&self, partition: &Partition, reader: usize) -> i8 {
        self.time + partition.skew[reader]
    }

    fn lease(&mut self, partition: &Partition, reader: usize) {
        let now = self.now(partition, reader);
        let until = now + LEASE;
        if self.owner == Some(reader) && self.lease_until > now {
            self.lease_until = until;
        } else if self.lease_until <= now {
            (self.owner, self.lease_until) = (Some(reader), until);
            self.epoch += 1;
        } else {
            self.readers[reader] = Reader::default();
            return;
        }
        self.readers[reader] =
            Reader { held: Some(Held { epoch: self.epoch, offset: self.offset, until }), has_read: false };
    }

    fn write(&mut self, partition: &Partition, reader: usize) {
        let Reader { held: Some(held), has_read: true } = self.readers[reader] else { return };
        self.readers[reader].has_read = false;
        let is_ours = match partition.flaw {
            Flaw::NoFence => true,
            Flaw::TrustsItsClock => held.until > self.now(partition, reader),
            Flaw::OffsetNotCompared => held.epoch == self.epoch,
            Flaw::None | Flaw::OffsetMovedLater => held.epoch == self.epoch && held.offset == self.offset,
        };
        if !is_ours {
            // Lost: nothing is written, and the reader starts again from what the row says.
            self.readers[reader].held = None;
            return;
        }
        self.written.push(held.offset);
        if partition.flaw != Flaw::OffsetMovedLater {
            self.offset = held.offset + 1;
            self.readers[reader].held = Some(Held { offset: self.offset, ..held });
        }
    }

    /// The events whose effects are there, each once and in order.
    fn is_once_and_in_order(&self) -> bool {
        self.written.iter().zip(0..).all(|(written, expected)| *written == expected)
    }
}

impl Model for Partition {
    type State = World;
    type Action = Move;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            time: 0,
            owner: None,
            epoch: 0,
            lease_until: i8::MIN,
            offset: 0,
            written: vec![],
            readers: [Reader::default(); 2],
            rewinds: 1,
        }]
    }

    fn actions(&self, world: &World, moves: &mut Vec<Move>) {
        if world.time < TIME_MAX {
            moves.push(Move::Tick);
        }
        for (number, reader) in world.readers.iter().enumerate() {
            if world.epoch < EPOCH_MAX {
                moves.push(Move::Lease(number));
            }
            match reader {
                Reader { held: Some(held), has_read: false } if held.offset < EVENTS => {
                    moves.push(Move::Read(number));
                }
                Reader { held: Some(_), has_read: true } => {
                    moves.extend([Move::Write(number), Move::WriteUnheard(number), Move::Die(number)]);
                }
                Reader { .. } => {}
            }
        }
        if world.rewinds > 0 && world.offset > 0 {
            moves.push(Move::Rewind);
        }
    }

    fn next_state(&self, world: &World, made: Move) -> Option<World> {
        let mut next = world.clone();
        match made {
            Move::Tick => next.time += 1,
            Move::Lease(reader) => next.lease(self, reader),
            Move::Read(reader) => next.readers[reader].has_read = true,
            Move::Write(reader) => next.write(self, reader),
            Move::WriteUnheard(reader) => {
                let before = next.readers[reader].held;
                next.write(self, reader);
                next.readers[reader].held = before;
            }
            Move::Die(reader) => next.readers[reader] = Reader::default(),
            Move::Rewind => {
                next.rewinds -= 1;
                next.offset = 0;
                // What is written from here on is compared with the log from its beginning.
                next.written.clear();
                (next.epoch, next.owner, next.lease_until) = (next.epoch + 1, None, i8::MIN);
            }
        }
        (next != *world && next.written.len() <= usize::from(EVENTS) + 1).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONCE, |_, world: &World| world.is_once_and_in_order()),
            Property::always(TOGETHER, |_, world: &World| {
                world.written.len() == usize::from(world.offset) || !world.is_once_and_in_order()
            }),
            Property::sometimes("everything is read", |_, world: &World| world.offset == EVENTS),
            Property::sometimes("the partition changes hands", |_, world: &World| world.epoch > 2),
        ]
    }
}

const ONCE: &str = "each event has its effects once, in the order of the log";
const TOGETHER: &str = "the offset says what is written";

#[test]
fn a_partition_keeps_its_promises_whatever_the_clocks_say() {
    for skew in [[0, 0], [4, 0], [-4, 0], [4, -4]] {
        let checked = Partition { flaw: Flaw::None, skew }.checker().threads(2).spawn_bfs().join();
        checked.assert_properties();
    }
}

#[test]
fn a_zombie_without_a_fence_writes_twice() {
    refute(Flaw::NoFence, [0, 0], ONCE);
}

#[test]
fn a_reader_that_trusts_its_clock_writes_twice() {
    refute(Flaw::TrustsItsClock, [0, -4], ONCE);
}

#[test]
fn an_offset_that_is_moved_later_is_lost_with_its_reader() {
    refute(Flaw::OffsetMovedLater, [0, 0], TOGETHER);
}

#[test]
fn an_offset_that_is_not_compared_is_passed_twice_when_an_answer_is_lost() {
    refute(Flaw::OffsetNotCompared, [0, 0], ONCE);
}

fn refute(flaw: Flaw, skew: [i8; 2], promise: &'static str) {
    let enough = HasDiscoveries::AnyOf([promise].into());
    let checked = Partition { flaw, skew }.checker().finish_when(enough).spawn_bfs().join();
    assert!(checked.discovery(promise).is_some(), "{flaw:?} was not found out");
}
