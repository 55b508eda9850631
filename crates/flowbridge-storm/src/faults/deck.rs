//! Which faults a storm has, and in which order: a deck of cards, shuffled by the seed.
//!
//! In the first deck lies one card of each sort, and between them cards that are one fault each: those without which a row of the
//! fault matrix would be left to chance, and in a long storm those that last half a minute or more. They come out between the
//! others, never two in a row, and each is alone in its round. The decks after that have as many cards of each sort as the sort
//! deserves, and what lasts is drawn now and then.

use super::commits::{self, Commit};
use super::{BankFault, Fault, LINES, Line};
use crate::proxy::Weather;
use crate::sink::Manner;
use crate::world::PROCESSES;
use anyhow::{Result, bail};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use std::time::Duration;

/// Those that write to the database under leases and epochs, or ahead of an answer.
const WRITERS: [usize; 7] = [1, 2, 3, 4, 5, 6, 7];
/// Those whose clock may be wrong: orchestrators, chain and bank.
const SKEWED: [usize; 4] = [3, 4, 5, 6];
/// How wrong.
const SKEW_SECS: i64 = 300;
const GATEWAY: usize = 1;
const ORCHESTRATOR: usize = 3;
/// The role with the longest lease.
const BANK: usize = 6;

/// Rounds that are drawn until there is a fault of a class. The rarest is in one of a few hundred.
const DRAWN_MAX: usize = 20_000;

/// Before or after a commit.
type Point = (&'static Commit, bool);

/// The faults of a storm, in rounds.
#[derive(Debug)]
pub(crate) struct Deck {
    rng: StdRng,
    /// The next is the last.
    cards: Vec<Card>,
    /// The commits that were not drawn yet, each before and after.
    commits: Vec<Point>,
    is_first: bool,
    is_long: bool,
    can_fill_disk: bool,
    at_once_max: usize,
}

#[derive(Debug, Clone, PartialEq)]
enum Card {
    /// Any fault of the sort.
    Any(Sort),
    /// This one.
    This(Fault),
}

impl Card {
    fn is_alone(&self) -> bool {
        match self {
            Self::Any(sort) => sort.is_alone(),
            Self::This(_) => true,
        }
    }
}

impl Deck {
    pub(crate) fn new(seed: u64, is_long: bool, can_fill_disk: bool, at_once_max: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut sorts: Vec<Card> = SORTS.iter().map(|(sort, _)| Card::Any(*sort)).collect();
        sorts.shuffle(&mut rng);
        let lasting = if is_long { long_ones() } else { vec![] };
        let mut single: Vec<Card> = for_each_row().into_iter().chain(lasting).map(Card::This).collect();
        single.shuffle(&mut rng);
        let cards = between(sorts, single);
        Self { rng, cards, commits: vec![], is_first: true, is_long, can_fill_disk, at_once_max }
    }

    /// One to `at_once_max` faults at the same time; every other round has one only, so that recovery can be told by class.
    pub(crate) fn round(&mut self) -> Vec<Fault> {
        let is_single = self.at_once_max < 2 || self.rng.random();
        let count = if is_single { 1 } else { self.rng.random_range(2..=self.at_once_max) };
        let mut round = Vec::new();
        while round.len() < count {
            let card = self.card();
            let is_alone = card.is_alone();
            if is_alone && !round.is_empty() {
                self.cards.push(card);
                break;
            }
            round.push(match card {
                Card::Any(sort) => {
                    draw(sort, (&mut self.rng, &mut self.commits), self.is_long && !self.is_first)
                }
                Card::This(fault) => fault,
            });
            if is_alone || self.is_first && self.cards.is_empty() {
                break;
            }
        }
        round
    }

    /// The next fault whose class contains this; the others are passed over.
    pub(crate) fn only(&mut self, class: &str) -> Result<Fault> {
        for _ in 0..DRAWN_MAX {
            let drawn = self.round().into_iter().find(|fault| fault.class().contains(class));
            if let Some(fault) = drawn {
                return Ok(fault);
            }
        }
        bail!(
            "no fault is called {class:?}: their names are in the table at the end of a storm, and in docs/RELIABILITY.md"
        )
    }

    /// Whether every card of the first deck has been dealt.
    pub(crate) fn is_through(&self) -> bool {
        !self.is_first || self.cards.is_empty()
    }

    fn card(&mut self) -> Card {
        loop {
            let Some(card) = self.cards.pop() else {
                let all =
                    SORTS.iter().flat_map(|(sort, count)| std::iter::repeat_n(Card::Any(*sort), *count));
                self.cards = all.collect();
                self.cards.shuffle(&mut self.rng);
                self.is_first = false;
                continue;
            };
            if card != Card::Any(Sort::DiskFull) || self.can_fill_disk {
                return card;
            }
        }
    }
}

/// Lays `single` cards between the others, as far apart as they can be.
fn between(others: Vec<Card>, single: Vec<Card>) -> Vec<Card> {
    let apart = (others.len() / single.len().max(1)).max(1);
    let mut single = single.into_iter();
    let mut laid = Vec::new();
    for (place, card) in others.into_iter().enumerate() {
        laid.push(card);
        if place.is_multiple_of(apart) {
            laid.extend(single.next());
        }
    }
    laid.extend(single);
    laid
}

/// Faults of those rows of the fault matrix in which no sort is sure to be, and of row 31 the one that stops a delivery before it
/// is made.
fn for_each_row() -> [Fault; 8] {
    let moment = Duration::from_secs(4);
    [
        Fault::Kill(GATEWAY, Duration::from_secs(1)),
        Fault::Pause(ORCHESTRATOR, Duration::from_secs(8)),
        Fault::Network(Line::Database, Weather::Delay(Duration::from_millis(200)), moment),
        Fault::Network(Line::Database, Weather::Resets(10), moment),
        Fault::Cut(Line::NewHeads),
        Fault::Bank("alpha", BankFault::LosesReplies, moment),
        Fault::Bank("beta", BankFault::RepeatsOutcomes, moment),
        Fault::Receiver("beta", Manner::Untrusted, moment),
    ]
}

/// What lasts too long for a short storm.
fn long_ones() -> Vec<Fault> {
    let (half_a_minute, minute) = (Duration::from_secs(30), Duration::from_secs(60));
    vec![
        Fault::Network(Line::Database, Weather::Stall, half_a_minute),
        Fault::Network(Line::Database, Weather::Stall, 2 * minute),
        Fault::Network(Line::DatabaseOfTwo, Weather::Stall, half_a_minute),
        Fault::Network(Line::DatabaseOfTwo, Weather::Stall, 2 * minute),
        Fault::DatabaseLock(half_a_minute),
        Fault::NodeAway(Weather::Stall, minute),
        Fault::BankDown("alpha", minute),
        Fault::Receiver("beta", Manner::Slow(half_a_minute), half_a_minute),
    ]
}

/// A sort of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Kill,
    Pause,
    Zombie,
    Restart,
    RollingRestart,
    CrashAtCommit,
    Skew,
    DatabaseBackend,
    DatabaseCrash,
    DatabaseLock,
    Deadlocks,
    ConnectionsTaken,
    DiskFull,
    Overload,
    IdleClients,
    Poison,
    NodeKill,
    NodeTail,
    NodeStill,
    Reorganisation,
    PoolDropped,
    NonceGap,
    Underpriced,
    Network,
    Doubled,
    Partition,
    TurnedAway,
    SocketSilent,
    NodeAway,
    Cut,
    Bank,
    BankDown,
    Receiver,
}

/// Each sort, with how many cards of it are in a deck.
const SORTS: [(Sort, usize); 33] = [
    (Sort::Kill, 40),
    (Sort::Pause, 12),
    (Sort::Zombie, 12),
    (Sort::Restart, 8),
    (Sort::RollingRestart, 4),
    (Sort::CrashAtCommit, 26),
    (Sort::Skew, 3),
    (Sort::DatabaseBackend, 4),
    (Sort::DatabaseCrash, 7),
    (Sort::DatabaseLock, 4),
    (Sort::Deadlocks, 4),
    (Sort::ConnectionsTaken, 3),
    (Sort::DiskFull, 3),
    (Sort::Overload, 3),
    (Sort::IdleClients, 3),
    (Sort::Poison, 4),
    (Sort::NodeKill, 7),
    (Sort::NodeTail, 5),
    (Sort::NodeStill, 4),
    (Sort::Reorganisation, 12),
    (Sort::PoolDropped, 3),
    (Sort::NonceGap, 3),
    (Sort::Underpriced, 3),
    (Sort::Network, 20),
    (Sort::Doubled, 4),
    (Sort::Partition, 4),
    (Sort::TurnedAway, 6),
    (Sort::SocketSilent, 3),
    (Sort::NodeAway, 3),
    (Sort::Cut, 10),
    (Sort::Bank, 14),
    (Sort::BankDown, 2),
    (Sort::Receiver, 8),
];

impl Sort {
    /// What it is about shows only when nothing else goes wrong, or nothing else may.
    const fn is_alone(self) -> bool {
        matches!(
            self,
            Self::RollingRestart
                | Self::DiskFull
                | Self::Overload
                | Self::IdleClients
                | Self::SocketSilent
                | Self::NodeAway
                | Self::BankDown
                | Self::Receiver
        )
    }
}

/// A crash at each commit once before any is drawn twice.
fn crash(rng: &mut StdRng, commits: &mut Vec<Point>) -> Fault {
    let (commit, after) = loop {
        if let Some(point) = commits.pop() {
            break point;
        }
        commits.extend(commits::each());
        commits.shuffle(rng);
    };
    let processes = commit.processes();
    let process = processes[rng.random_range(0..processes.len())];
    Fault::CrashAtCommit { process, commit, after, nth: rng.random_range(1..=3) }
}

/// A fault of the sort; with `can_last`, now and then one that lasts.
fn draw(sort: Sort, (rng, commits): (&mut StdRng, &mut Vec<Point>), can_last: bool) -> Fault {
    let mut short = |least: u64, most: u64| Duration::from_millis(rng.random_range(least..=most));
    let (blink, moment, while_) = (short(0, 1_500), short(500, 4_000), short(3_000, 6_000));
    let (beyond_lease, beyond_bank_lease) = (short(6_000, 9_000), short(11_000, 13_000));
    let any = rng.random_range(0..PROCESSES.len());
    let writer = WRITERS[rng.random_range(0..WRITERS.len())];
    let bank = if rng.random() { "alpha" } else { "beta" };
    let line = LINES[rng.random_range(0..LINES.len())];
    let seldom = can_last && rng.random_ratio(1, 6);
    match sort {
        Sort::Kill => Fault::Kill(any, blink),
        Sort::Pause => Fault::Pause(any, moment),
        Sort::Zombie if writer == BANK => Fault::Pause(writer, beyond_bank_lease),
        Sort::Zombie => Fault::Pause(writer, beyond_lease),
        Sort::Restart => Fault::Restart(any),
        Sort::RollingRestart => Fault::RollingRestart,
        Sort::CrashAtCommit => crash(rng, commits),
        Sort::Skew => Fault::Skew {
            process: SKEWED[rng.random_range(0..SKEWED.len())],
            secs: if rng.random() { SKEW_SECS } else { -SKEW_SECS },
            lasting: while_,
        },
        Sort::DatabaseBackend => Fault::DatabaseBackend,
        Sort::DatabaseCrash => Fault::DatabaseCrash(blink),
        Sort::DatabaseLock if seldom => Fault::DatabaseLock(Duration::from_secs(30)),
        Sort::DatabaseLock => Fault::DatabaseLock(moment),
        Sort::Deadlocks => Fault::Deadlocks(moment),
        Sort::ConnectionsTaken => Fault::ConnectionsTaken(moment),
        Sort::DiskFull => Fault::DiskFull(while_),
        Sort::Overload => Fault::Overload,
        Sort::IdleClients => Fault::IdleClients(while_),
        Sort::Poison => Fault::Poison,
        Sort::NodeKill => Fault::NodeKill(blink),
        Sort::NodeTail => Fault::NodeTail(rng.random_range(1..=6)),
        Sort::NodeStill => Fault::NodeStill(moment),
        Sort::Reorganisation => {
            let deep = rng.random_ratio(1, 4);
            Fault::Reorganisation(if deep { rng.random_range(9..=20) } else { rng.random_range(1..=8) })
        }
        Sort::PoolDropped => Fault::PoolDropped,
        Sort::NonceGap => Fault::NonceGap,
        Sort::Underpriced => Fault::Underpriced,
        Sort::Network => {
            let weather = match rng.random_range(0..4) {
                0 => Weather::Delay(Duration::from_millis(rng.random_range(10..=500))),
                1 => Weather::Stall,
                2 => Weather::Resets(10),
                _ => Weather::Refuse,
            };
            Fault::Network(line, weather, moment)
        }
        Sort::Doubled => {
            let line = [Line::Rpc, Line::Banks, Line::Gateway1][rng.random_range(0..3)];
            Fault::Network(line, Weather::Duplicate, moment)
        }
        Sort::Partition => {
            let secs = match (seldom, rng.random_ratio(1, 5)) {
                (true, true) => 120,
                (true, false) => 30,
                (false, _) => 5,
            };
            let line = if rng.random() { Line::Database } else { Line::DatabaseOfTwo };
            Fault::Network(line, Weather::Stall, Duration::from_secs(secs))
        }
        Sort::TurnedAway => {
            let line = [Line::Rpc, Line::Rpc, Line::Banks, Line::Receiver(bank)][rng.random_range(0..4)];
            let status = [429, 500, 503][rng.random_range(0..3)];
            Fault::Network(line, Weather::Status(status), moment)
        }
        Sort::SocketSilent => Fault::SocketSilent(while_),
        Sort::NodeAway => {
            let weather = [Weather::Stall, Weather::Refuse, Weather::Status(429), Weather::Status(503)]
                [rng.random_range(0..4)];
            Fault::NodeAway(weather, Duration::from_secs(if seldom { 60 } else { 12 }))
        }
        Sort::Cut => Fault::Cut(line),
        Sort::Bank => Fault::Bank(
            bank,
            [
                BankFault::Declines,
                BankFault::Latency,
                BankFault::LosesReplies,
                BankFault::Unavailable,
                BankFault::UnavailableAfterDoing,
                BankFault::RepeatsOutcomes,
                BankFault::OmitsOutcomes,
                BankFault::Slow,
            ][rng.random_range(0..8)],
            moment,
        ),
        Sort::BankDown => Fault::BankDown(bank, Duration::from_secs(if seldom { 60 } else { 10 })),
        Sort::Receiver => {
            let manner = [
                Manner::Broken,
                Manner::Slow(Duration::from_secs(if seldom { 30 } else { 3 })),
                Manner::Liar,
                Manner::Redirects,
                Manner::Untrusted,
            ][rng.random_range(0..5)];
            Fault::Receiver(bank, manner, while_)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Deck, long_ones};
    use crate::faults::{Fault, rows};
    use std::collections::BTreeSet;

    /// All that is dealt until the first deck is through.
    fn first_deck(seed: u64, is_long: bool, can_fill_disk: bool) -> Vec<Vec<Fault>> {
        let mut deck = Deck::new(seed, is_long, can_fill_disk, 3);
        let mut rounds = Vec::new();
        while !deck.is_through() {
            rounds.push(deck.round());
        }
        rounds
    }

    #[test]
    fn every_row_of_the_fault_matrix_is_in_the_first_deck() {
        for seed in 0..50 {
            for (is_long, can_fill_disk) in [(false, false), (true, false), (true, true)] {
                let dealt = first_deck(seed, is_long, can_fill_disk).concat();
                let struck: BTreeSet<u8> = dealt.iter().map(|fault| fault.target().0).collect();
                let known: BTreeSet<u8> = rows(can_fill_disk).collect();
                let missing: Vec<&u8> = known.difference(&struck).collect();
                assert!(missing.is_empty(), "seed {seed} leaves out {missing:?}");
            }
        }
    }

    #[test]
    fn no_round_has_more_faults_than_may_happen_at_the_same_time() {
        for at_once_max in [1, 3, 6] {
            let mut deck = Deck::new(7, true, true, at_once_max);
            let most = (0..1_000).map(|_| deck.round().len()).max();
            assert_eq!(most, Some(at_once_max));
        }
    }

    #[test]
    fn in_a_long_storm_each_fault_that_lasts_comes_once_alone_and_never_two_in_a_row() {
        for seed in 0..50 {
            let rounds = first_deck(seed, true, true);
            let long = long_ones();
            let is_long: Vec<bool> =
                rounds.iter().map(|round| round.iter().any(|fault| long.contains(fault))).collect();
            for fault in &long {
                let alone = rounds.iter().filter(|round| round.as_slice() == [fault.clone()]).count();
                assert_eq!(alone, 1, "seed {seed}: {fault:?}");
            }
            assert!(!is_long.windows(2).any(|pair| pair == [true, true]), "seed {seed}: {rounds:?}");
        }
    }
}
