//! What goes wrong, drawn from a seed, so that the same seed brings the same weather.

pub(crate) mod crowd;
pub(crate) mod database;

use crate::api::Api;
use crate::load::Load;
use crate::oracle::text;
use crate::process::Process;
use crate::proxy::{Proxy, Weather};
use crate::sink::{Manner, Sink};
use crate::world::{PROCESSES, World};
use anyhow::{Context as _, Result};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use std::fmt;
use std::io::Write as _;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::time::sleep;

/// Those that write to the database, and so can crash at a commit.
const WRITERS: [usize; 7] = [1, 2, 3, 4, 5, 6, 7];

/// Those whose clock may be wrong: orchestrators, chain and bank.
const SKEWED: [usize; 4] = [3, 4, 5, 6];
/// How wrong.
const SKEW_SECS: i64 = 300;
/// The role with the longest lease.
const BANK: usize = 6;
/// A line that is silent for as long as this is a partition: its connections are dead when it is over.
const PARTITION_MIN: Duration = Duration::from_secs(5);
/// A hundred gwei: what waits offers twice the old price at most.
const UNDERPRICED_BASE_FEE: &str = "0x174876e800";

/// One fault, with how long it lasts where it lasts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fault {
    /// SIGKILL; started again after the time.
    Kill(usize, Duration),
    /// SIGSTOP for the time: beyond its lease, the process wakes up a zombie.
    Pause(usize, Duration),
    /// SIGTERM, drained, started again.
    Restart(usize),
    /// SIGTERM for one gateway after the other, under load: nobody notices who asks again at once at the other.
    RollingRestart,
    /// Its clock is wrong by so many seconds for the time.
    Skew { process: usize, secs: i64, lasting: Duration },
    /// Aborts just before or just after its nth commit.
    CrashAtCommit { process: usize, after: bool, nth: u32 },
    /// SIGKILL for one server process of PostgreSQL, which makes it recover.
    DatabaseBackend,
    /// SIGKILL for all of PostgreSQL; started again after the time.
    DatabaseCrash(Duration),
    /// Somebody holds a lock on the payments for the time.
    DatabaseLock(Duration),
    /// Somebody locks payments against the order that everybody else keeps.
    Deadlocks(Duration),
    /// Somebody has taken every connection that PostgreSQL gives.
    ConnectionsTaken(Duration),
    /// Not a byte of PostgreSQL's disk is free for the time.
    DiskFull(Duration),
    /// Every connection of a gateway's pool waits, and a crowd asks.
    Overload,
    /// Clients with nothing to say, or saying it a byte at a time.
    IdleClients(Duration),
    /// Events that nobody can take in are in the log.
    Poison,
    /// SIGKILL for the chain node; it comes back by its journal.
    NodeKill(Duration),
    /// The same, with the last blocks missing in the journal.
    NodeTail(u32),
    /// No blocks for the time.
    NodeStill(Duration),
    /// The last blocks are made anew without what was in them.
    Reorganisation(u32),
    /// The node forgets what waits to be included.
    PoolDropped,
    /// The node forgets one transaction, and those after it wait for its nonce.
    NonceGap,
    /// A block costs a hundred times what is offered.
    Underpriced,
    /// A line of the network has this weather for the time.
    Network(Line, Weather, Duration),
    /// Every connection of a line is closed.
    Cut(Line),
    /// A bank follows this rule of the simulator's for the time.
    Bank(&'static str, BankFault, Duration),
    /// The first of two chain nodes cannot be used, in this way, for the time; payments go through by the second.
    NodeAway(Weather, Duration),
    /// A bank answers nothing for the time; payments between accounts of the other go through.
    BankDown(&'static str, Duration),
    /// The receiver of webhooks behaves like this at one endpoint for the time; the other is told all the same.
    Receiver(&'static str, Manner, Duration),
}

/// A line of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    Database,
    /// That of one gateway and one orchestrator.
    DatabaseOfTwo,
    Rpc,
    NewHeads,
    Banks,
    Gateway1,
    Gateway2,
    Receiver,
}

const LINES: [Line; 8] = [
    Line::Database,
    Line::DatabaseOfTwo,
    Line::Rpc,
    Line::NewHeads,
    Line::Banks,
    Line::Gateway1,
    Line::Gateway2,
    Line::Receiver,
];

/// What a bank does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BankFault {
    Declines,
    Latency,
    LosesReplies,
    Unavailable,
    UnavailableAfterDoing,
    RepeatsOutcomes,
    OmitsOutcomes,
    Slow,
}

impl BankFault {
    fn rule(self) -> Value {
        match self {
            Self::Declines => {
                json!({"fault": {"kind": "decline", "reason": "AM04"}, "targets": ["place_hold"], "per_million": 300_000})
            }
            Self::Latency => {
                json!({"fault": {"kind": "latency", "ms": 800, "jitter_ms": 3_000}, "per_million": 500_000})
            }
            Self::LosesReplies => {
                json!({"fault": {"kind": "lost_reply"}, "targets": ["place_hold", "capture", "release"], "per_million": 500_000})
            }
            Self::Unavailable => json!({"fault": {"kind": "unavailable"}, "per_million": 900_000}),
            Self::UnavailableAfterDoing => {
                json!({"fault": {"kind": "unavailable", "after_execution": true}, "per_million": 500_000})
            }
            Self::RepeatsOutcomes => json!({"fault": {"kind": "duplicate_outcome"}}),
            Self::OmitsOutcomes => json!({"fault": {"kind": "omit_outcome"}, "per_million": 400_000}),
            Self::Slow => {
                json!({"fault": {"kind": "slow", "ms": 1_500}, "targets": ["place_hold", "capture"], "per_million": 500_000})
            }
        }
    }
}

impl Fault {
    /// What recovery times are told by.
    pub(crate) fn class(&self) -> String {
        let process = |index: &usize| {
            PROCESSES.get(*index).map_or("?", |(name, _)| name.trim_end_matches(['-', '1', '2'])).to_owned()
        };
        match self {
            Self::Kill(index, _) => format!("{} killed", process(index)),
            Self::Pause(index, _) => format!("{} stopped (SIGSTOP)", process(index)),
            Self::Restart(index) => format!("{} restarted (SIGTERM)", process(index)),
            Self::CrashAtCommit { process: index, after, .. } => {
                format!("{} crashed {} a commit", process(index), if *after { "after" } else { "before" })
            }
            Self::RollingRestart => "gateways rolled (SIGTERM)".to_owned(),
            Self::Skew { process: index, .. } => format!("{} clock wrong by 300 s", process(index)),
            Self::DatabaseBackend => "PostgreSQL backend killed".to_owned(),
            Self::DatabaseCrash(_) => "PostgreSQL crashed".to_owned(),
            Self::DatabaseLock(_) => "payments locked".to_owned(),
            Self::Deadlocks(_) => "deadlocks".to_owned(),
            Self::ConnectionsTaken(_) => "connections taken".to_owned(),
            Self::DiskFull(_) => "PostgreSQL disk full".to_owned(),
            Self::Overload => "pool exhausted".to_owned(),
            Self::IdleClients(_) => "idle and slow clients".to_owned(),
            Self::Poison => "poison in the log".to_owned(),
            Self::NodeKill(_) => "chain node killed".to_owned(),
            Self::NodeTail(_) => "chain node killed, tail lost".to_owned(),
            Self::NodeStill(_) => "no blocks".to_owned(),
            Self::Reorganisation(_) => "reorganisation".to_owned(),
            Self::PoolDropped => "pool dropped".to_owned(),
            Self::NonceGap => "nonce gap".to_owned(),
            Self::Underpriced => "underpriced".to_owned(),
            Self::Network(line, weather, _) => {
                let what = match weather {
                    Weather::Delay(_) => "slow",
                    Weather::Stall => "silent",
                    Weather::Refuse => "refused",
                    Weather::Duplicate => "doubled",
                    Weather::Resets(_) => "resets",
                    Weather::Status(_) => "turned away",
                    Weather::Fair => "fair",
                };
                format!("line to {line} {what}")
            }
            Self::NodeAway(..) => "first of two nodes away".to_owned(),
            Self::Cut(line) => format!("line to {line} cut"),
            Self::Bank(_, fault, _) => format!("bank: {fault:?}"),
            Self::BankDown(..) => "bank down".to_owned(),
            Self::Receiver(_, manner, _) => match manner {
                Manner::Slow(_) => "webhook receiver: Slow".to_owned(),
                other @ (Manner::Polite | Manner::Broken | Manner::Liar | Manner::Redirects) => {
                    format!("webhook receiver: {other:?}")
                }
            },
        }
    }

    /// Its row in the fault matrix, and how soon after it everything is as usual again, where the matrix has a target.
    pub(crate) fn target(&self) -> (u8, Option<Duration>) {
        let (row, millis) = match self {
            Self::Kill(index, _) | Self::Pause(index, _) if is_gateway(*index) => (1, Some(1_000)),
            Self::Restart(index) if is_gateway(*index) => (3, Some(1_000)),
            Self::RollingRestart => (3, Some(1_000)),
            Self::IdleClients(_) => (4, None),
            Self::Kill(..) | Self::Restart(_) | Self::CrashAtCommit { .. } => (5, Some(10_000)),
            Self::Pause(..) => (6, Some(10_000)),
            Self::Skew { .. } => (7, None),
            Self::DatabaseBackend => (10, Some(1_000)),
            Self::DatabaseCrash(_) => (11, Some(3_000)),
            Self::DiskFull(_) => (13, None),
            Self::DatabaseLock(_) | Self::Deadlocks(_) => (14, None),
            Self::ConnectionsTaken(_) | Self::Overload => (17, None),
            Self::Poison => (22, None),
            Self::Cut(Line::NewHeads) => (23, Some(2_000)),
            Self::Network(Line::NewHeads, ..) => (24, Some(2_000)),
            Self::Reorganisation(_) | Self::NodeTail(_) => (25, None),
            Self::Network(Line::Rpc, ..)
            | Self::Cut(Line::Rpc)
            | Self::NodeStill(_)
            | Self::NodeKill(_)
            | Self::NodeAway(..) => (26, Some(3_000)),
            Self::PoolDropped | Self::NonceGap | Self::Underpriced => (27, None),
            Self::Network(Line::Banks, ..) | Self::Cut(Line::Banks) => (28, None),
            Self::Bank(_, fault, _) => match fault {
                BankFault::RepeatsOutcomes | BankFault::Slow | BankFault::Declines => (29, None),
                BankFault::Latency
                | BankFault::LosesReplies
                | BankFault::Unavailable
                | BankFault::UnavailableAfterDoing
                | BankFault::OmitsOutcomes => (28, None),
            },
            Self::BankDown(..) => (30, None),
            Self::Receiver(..) | Self::Network(Line::Receiver, ..) | Self::Cut(Line::Receiver) => (31, None),
            Self::Network(Line::Database | Line::DatabaseOfTwo, Weather::Stall | Weather::Refuse, _) => {
                (15, Some(5_000))
            }
            Self::Network(Line::Database | Line::DatabaseOfTwo, ..)
            | Self::Cut(Line::Database | Line::DatabaseOfTwo) => (16, None),
            Self::Network(Line::Gateway1 | Line::Gateway2, ..)
            | Self::Cut(Line::Gateway1 | Line::Gateway2) => (4, None),
        };
        (row, millis.map(Duration::from_millis))
    }

    fn draw(sort: Sort, rng: &mut StdRng, is_long: bool) -> Self {
        let mut short = |least: u64, most: u64| Duration::from_millis(rng.random_range(least..=most));
        let (blink, moment, while_) = (short(0, 1_500), short(500, 4_000), short(3_000, 6_000));
        let (beyond_lease, beyond_bank_lease) = (short(6_000, 9_000), short(11_000, 13_000));
        let any = rng.random_range(0..PROCESSES.len());
        let writer = WRITERS[rng.random_range(0..WRITERS.len())];
        let bank = if rng.random() { "alpha" } else { "beta" };
        let line = LINES[rng.random_range(0..LINES.len())];
        let seldom = is_long && rng.random_ratio(1, 6);
        match sort {
            Sort::Kill => Self::Kill(any, blink),
            Sort::Pause => Self::Pause(any, moment),
            Sort::Zombie if writer == BANK => Self::Pause(writer, beyond_bank_lease),
            Sort::Zombie => Self::Pause(writer, beyond_lease),
            Sort::Restart => Self::Restart(any),
            Sort::RollingRestart => Self::RollingRestart,
            Sort::CrashAtCommit => {
                Self::CrashAtCommit { process: writer, after: rng.random(), nth: rng.random_range(1..=40) }
            }
            Sort::Skew => Self::Skew {
                process: SKEWED[rng.random_range(0..SKEWED.len())],
                secs: if rng.random() { SKEW_SECS } else { -SKEW_SECS },
                lasting: while_,
            },
            Sort::DatabaseBackend => Self::DatabaseBackend,
            Sort::DatabaseCrash => Self::DatabaseCrash(blink),
            Sort::DatabaseLock if seldom => Self::DatabaseLock(Duration::from_secs(30)),
            Sort::DatabaseLock => Self::DatabaseLock(moment),
            Sort::Deadlocks => Self::Deadlocks(moment),
            Sort::ConnectionsTaken => Self::ConnectionsTaken(moment),
            Sort::DiskFull => Self::DiskFull(while_),
            Sort::Overload => Self::Overload,
            Sort::IdleClients => Self::IdleClients(while_),
            Sort::Poison => Self::Poison,
            Sort::NodeKill => Self::NodeKill(blink),
            Sort::NodeTail => Self::NodeTail(rng.random_range(1..=6)),
            Sort::NodeStill => Self::NodeStill(moment),
            Sort::Reorganisation => {
                let deep = rng.random_ratio(1, 4);
                Self::Reorganisation(if deep { rng.random_range(9..=20) } else { rng.random_range(1..=8) })
            }
            Sort::PoolDropped => Self::PoolDropped,
            Sort::NonceGap => Self::NonceGap,
            Sort::Underpriced => Self::Underpriced,
            Sort::Network => {
                let weather = match rng.random_range(0..4) {
                    0 => Weather::Delay(Duration::from_millis(rng.random_range(10..=500))),
                    1 => Weather::Stall,
                    2 => Weather::Resets(10),
                    _ => Weather::Refuse,
                };
                Self::Network(line, weather, moment)
            }
            Sort::Doubled => {
                let line = [Line::Rpc, Line::Banks, Line::Gateway1][rng.random_range(0..3)];
                Self::Network(line, Weather::Duplicate, moment)
            }
            Sort::Partition => {
                let secs = match (seldom, rng.random_ratio(1, 5)) {
                    (true, true) => 120,
                    (true, false) => 30,
                    (false, _) => 5,
                };
                let line = if rng.random() { Line::Database } else { Line::DatabaseOfTwo };
                Self::Network(line, Weather::Stall, Duration::from_secs(secs))
            }
            Sort::TurnedAway => {
                let line = [Line::Rpc, Line::Rpc, Line::Banks, Line::Receiver][rng.random_range(0..4)];
                let status = [429, 500, 503][rng.random_range(0..3)];
                Self::Network(line, Weather::Status(status), moment)
            }
            Sort::NodeAway => {
                let weather = [Weather::Stall, Weather::Refuse, Weather::Status(429), Weather::Status(503)]
                    [rng.random_range(0..4)];
                Self::NodeAway(weather, Duration::from_secs(12))
            }
            Sort::Cut => Self::Cut(line),
            Sort::Bank => Self::Bank(
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
            Sort::BankDown => Self::BankDown(bank, Duration::from_secs(if seldom { 60 } else { 10 })),
            Sort::Receiver => {
                let manner = [
                    Manner::Broken,
                    Manner::Slow(Duration::from_secs(if seldom { 30 } else { 3 })),
                    Manner::Liar,
                    Manner::Redirects,
                ][rng.random_range(0..4)];
                Self::Receiver(bank, manner, while_)
            }
        }
    }

    /// Lets it happen, and makes it good again. Gives what should not have come of it, for a fault that was alone.
    pub(crate) async fn strike(&self, field: &Field<'_>) -> Result<Vec<String>> {
        let Field { world, sink, .. } = *field;
        match self {
            Self::Kill(index, down) => {
                let mut process = process_at(world, *index)?.lock().await;
                process.kill().await?;
                sleep(*down).await;
                process.start()?;
            }
            Self::Pause(index, still) => {
                let mut process = process_at(world, *index)?.lock().await;
                process.pause();
                sleep(*still).await;
                process.resume();
            }
            Self::Restart(index) => {
                let mut process = process_at(world, *index)?.lock().await;
                process.terminate().await?;
                process.start()?;
            }
            Self::RollingRestart => return roll_gateways(field).await,
            Self::Skew { process, secs, lasting } => {
                let mut process = process_at(world, *process)?.lock().await;
                process.terminate().await?;
                process.start_with(&[("FLOWBRIDGE_CLOCK_OFFSET_SECS", &secs.to_string())])?;
                sleep(*lasting).await;
                process.terminate().await?;
                process.start()?;
            }
            Self::CrashAtCommit { process, after, nth } => {
                let mut process = process_at(world, *process)?.lock().await;
                let when = if *after { "after" } else { "before" };
                process.terminate().await?;
                process.start_with(&[("FLOWBRIDGE_CRASH", &format!("{when}:{nth}"))])?;
                // A role that has little to do may never get there.
                for _ in 0..100 {
                    if process.has_ended() {
                        break;
                    }
                    sleep(Duration::from_millis(50)).await;
                }
                process.kill().await?;
                process.start()?;
            }
            Self::DatabaseBackend => database::kill_backend(world).await,
            Self::DatabaseCrash(down) => {
                let mut postgres = world.postgres.lock().await;
                tokio::task::block_in_place(|| postgres.crash());
                sleep(*down).await;
                tokio::task::block_in_place(|| postgres.restart())?;
            }
            Self::DatabaseLock(held) => database::lock_payments(world, "exclusive", *held).await,
            Self::Deadlocks(lasting) => database::lock_out_of_order(world, *lasting).await,
            Self::ConnectionsTaken(lasting) => database::take_connections(world, *lasting).await,
            Self::DiskFull(lasting) => database::fill_disk(world, *lasting).await?,
            Self::Overload => return crowd::overload(field).await,
            Self::IdleClients(lasting) => crowd::idle(field, *lasting).await,
            Self::Poison => database::poison_log(world).await,
            Self::NodeKill(down) => {
                let mut anvil = world.anvil.lock().await;
                tokio::task::block_in_place(|| anvil.kill());
                sleep(*down).await;
                tokio::task::block_in_place(|| anvil.restart())?;
            }
            Self::NodeTail(blocks) => {
                let mut anvil = world.anvil.lock().await;
                tokio::task::block_in_place(|| anvil.kill());
                lose_tail(world, *blocks)?;
                tokio::task::block_in_place(|| anvil.restart())?;
            }
            Self::NodeStill(still) => {
                world.anvil.lock().await.freeze();
                sleep(*still).await;
                world.anvil.lock().await.thaw();
            }
            Self::Reorganisation(depth) => {
                let _anvil = world.anvil.lock().await;
                if let Err(error) = world.rpc("anvil_reorg", json!([depth, []])).await {
                    // A node goes back no further than to its own start.
                    println!("     no reorganisation by {depth} blocks so soon after a restart: {error:#}");
                }
            }
            Self::PoolDropped => {
                let _anvil = world.anvil.lock().await;
                world.rpc("anvil_dropAllTransactions", json!([])).await?;
            }
            Self::NonceGap => drop_first_nonce(world).await?,
            Self::Underpriced => {
                let _anvil = world.anvil.lock().await;
                world.rpc("anvil_setNextBlockBaseFeePerGas", json!([UNDERPRICED_BASE_FEE])).await?;
            }
            Self::Network(line, weather, lasting) => {
                let line = line_of(field, *line);
                line.set(*weather);
                if matches!(weather, Weather::Refuse | Weather::Status(_)) {
                    line.cut();
                }
                sleep(*lasting).await;
                line.set(Weather::Fair);
                // What a partition has swallowed never comes.
                if *weather == Weather::Stall && *lasting >= PARTITION_MIN {
                    line.cut();
                }
            }
            Self::Cut(line) => line_of(field, *line).cut(),
            Self::Bank(bank, fault, lasting) => {
                // The simulator itself may be down: then this bank is as wrong as it gets.
                let path = format!("{bank}/faults");
                let _ = world.simulator(reqwest::Method::POST, &path, Some(&fault.rule())).await;
                sleep(*lasting).await;
                let _ = world.simulator(reqwest::Method::DELETE, &path, None).await;
            }
            Self::NodeAway(weather, lasting) => return node_away(field, *weather, *lasting).await,
            Self::BankDown(bank, lasting) => return bank_down(field, bank, *lasting).await,
            Self::Receiver(endpoint, manner, lasting) => {
                sink.behave_at(endpoint, *manner);
                let other = if *endpoint == "alpha" { "beta" } else { "alpha" };
                let before = sink.deliveries(Some(other));
                sleep(*lasting).await;
                let told = sink.deliveries(Some(other)) > before;
                sink.behave(Manner::Polite);
                if !told {
                    return Ok(vec![format!(
                        "R31: {other} was told nothing while {endpoint} was {manner:?}"
                    )]);
                }
            }
        }
        Ok(vec![])
    }
}

/// All that faults strike, and those who notice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field<'a> {
    pub(crate) world: &'a World,
    pub(crate) sink: &'a Sink,
    pub(crate) api: &'a Api,
    pub(crate) load: &'a Load,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Database | Self::DatabaseOfTwo => "PostgreSQL",
            Self::Rpc => "chain (RPC)",
            Self::NewHeads => "chain (WebSocket)",
            Self::Banks => "banks",
            Self::Gateway1 | Self::Gateway2 => "gateway",
            Self::Receiver => "receiver",
        })
    }
}

/// A sort of fault, with how many of its kind are in the deck.
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
    NodeAway,
    Cut,
    Bank,
    BankDown,
    Receiver,
}

const SORTS: [(Sort, usize); 32] = [
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
                | Self::NodeAway
                | Self::BankDown
                | Self::Receiver
        )
    }
}

/// The faults of a storm, in rounds: first one of each sort, then as often as it is in the deck.
#[derive(Debug)]
pub(crate) struct Deck {
    rng: StdRng,
    cards: Vec<Sort>,
    is_long: bool,
    can_fill_disk: bool,
}

impl Deck {
    pub(crate) fn new(seed: u64, is_long: bool, can_fill_disk: bool) -> Self {
        let mut deck = Self { rng: StdRng::seed_from_u64(seed), cards: Vec::new(), is_long, can_fill_disk };
        deck.cards = SORTS.iter().map(|(sort, _)| *sort).collect();
        deck.cards.shuffle(&mut deck.rng);
        deck
    }

    /// One to three faults at the same time; every other round has one only, so that recovery can be told by class.
    pub(crate) fn round(&mut self) -> Vec<Fault> {
        let count = if self.rng.random() { 1 } else { self.rng.random_range(2..=3) };
        let mut round = Vec::new();
        while round.len() < count {
            let sort = self.card();
            if sort.is_alone() && !round.is_empty() {
                self.cards.push(sort);
                break;
            }
            round.push(Fault::draw(sort, &mut self.rng, self.is_long));
            if sort.is_alone() {
                break;
            }
        }
        round
    }

    fn card(&mut self) -> Sort {
        loop {
            let Some(sort) = self.cards.pop() else {
                let all = SORTS.iter().flat_map(|(sort, count)| std::iter::repeat_n(*sort, *count));
                self.cards = all.collect();
                self.cards.shuffle(&mut self.rng);
                continue;
            };
            if sort != Sort::DiskFull || self.can_fill_disk {
                return sort;
            }
        }
    }
}

fn line_of<'a>(field: &Field<'a>, line: Line) -> &'a Proxy {
    let world = field.world;
    match line {
        Line::Database => &world.postgres_lines[0],
        Line::DatabaseOfTwo => &world.postgres_lines[1],
        Line::Rpc => &world.rpc_line,
        Line::NewHeads => &world.socket_line,
        Line::Banks => &world.bank_line,
        Line::Gateway1 => &world.gateway_lines[0],
        Line::Gateway2 => &world.gateway_lines[1],
        Line::Receiver => &field.sink.line,
    }
}

/// Makes all weather fair again.
pub(crate) async fn heal(field: &Field<'_>) -> Result<()> {
    let Field { world, sink, .. } = *field;
    for line in LINES {
        line_of(field, line).set(Weather::Fair);
    }
    world.first_node_line.set(Weather::Fair);
    sink.behave(Manner::Polite);
    world.revive().await?;
    for bank in ["alpha", "beta"] {
        let path = format!("{bank}/faults");
        let mut tries = 0;
        while let Err(error) = world.simulator(reqwest::Method::DELETE, &path, None).await {
            tries += 1;
            if tries > 100 {
                return Err(error).context("the bank simulator does not answer");
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

/// One gateway after the other is told to end, drains, and is started again.
async fn roll_gateways(field: &Field<'_>) -> Result<Vec<String>> {
    let began = Instant::now();
    for (index, _) in PROCESSES.iter().enumerate().filter(|(index, _)| is_gateway(*index)) {
        let mut process = process_at(field.world, index)?.lock().await;
        process.terminate().await?;
        process.start()?;
        drop(process);
        field.world.wait_ready().await?;
    }
    // Who asked last has had an answer by now, or never will.
    sleep(Duration::from_secs(1)).await;
    Ok(match field.load.look(|book| book.unlucky.iter().filter(|asked| **asked >= began).count()) {
        0 => vec![],
        failed => vec![format!("R3: {failed} requests failed at both gateways while these were rolled")],
    })
}

/// The first of two nodes is out of reach, silent, or turns everybody away; payments go through by the second.
async fn node_away(field: &Field<'_>, weather: Weather, lasting: Duration) -> Result<Vec<String>> {
    let line = &field.world.first_node_line;
    let began = Instant::now();
    line.set(weather);
    line.cut();
    let through = tokio::time::timeout(lasting, field.get_through(None)).await;
    sleep(lasting.saturating_sub(began.elapsed())).await;
    line.set(Weather::Fair);
    line.cut();
    match through {
        Ok(went) => went.map(|_| vec![]),
        Err(_) => {
            Ok(vec![format!("R26: nothing went through while the first of two nodes was away ({weather:?})")])
        }
    }
}

/// A bank answers nothing, and payments that it has no part in go through all the same.
async fn bank_down(field: &Field<'_>, bank: &'static str, lasting: Duration) -> Result<Vec<String>> {
    let path = format!("{bank}/faults");
    let down = json!({ "fault": { "kind": "unavailable" } });
    field.world.simulator(reqwest::Method::POST, &path, Some(&down)).await?;
    let began = Instant::now();
    let other = if bank == "alpha" { "beta" } else { "alpha" };
    // The circuit opens first.
    sleep(lasting / 4).await;
    let through = tokio::time::timeout(lasting - lasting / 4, field.get_through(Some(other))).await;
    sleep(lasting.saturating_sub(began.elapsed())).await;
    field.world.simulator(reqwest::Method::DELETE, &path, None).await?;
    match through {
        Ok(went) => went.map(|_| vec![]),
        Err(_) => Ok(vec![format!("R30: nothing went through at {other} while {bank} was down")]),
    }
}

impl Field<'_> {
    /// A payment from its posting to its end: any, or one between accounts of an institution.
    pub(crate) async fn get_through(&self, within: Option<&str>) -> Result<Duration> {
        let began = Instant::now();
        let id = self.load.probe(within).await?;
        loop {
            let payment = self.api.read("operator", &format!("/v1/payments/{id}")).await?;
            if matches!(text(&payment, "state"), "completed" | "failed") {
                return Ok(began.elapsed());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The node forgets the transaction that is due next in one of its lanes; those behind it wait for its nonce.
async fn drop_first_nonce(world: &World) -> Result<()> {
    let anvil = world.anvil.lock().await;
    anvil.freeze();
    for _ in 0..60 {
        let pool = world.rpc("txpool_content", json!([])).await?;
        let lanes = pool.get("pending").and_then(Value::as_object);
        let firsts = lanes.into_iter().flat_map(|lanes| lanes.values()).filter_map(|lane| {
            let nonce = |text: &str| text.parse::<u64>().unwrap_or(u64::MAX);
            let (_, first) = lane.as_object()?.iter().min_by_key(|(number, _)| nonce(number))?;
            first.get("hash").cloned()
        });
        if let Some(hash) = firsts.into_iter().next() {
            world.rpc("anvil_dropTransaction", json!([hash])).await?;
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    anvil.thaw();
    Ok(())
}

fn is_gateway(index: usize) -> bool {
    PROCESSES.get(index).is_some_and(|(_, role)| *role == "gateway")
}

fn process_at(world: &World, index: usize) -> Result<&Mutex<Process>> {
    world.processes.get(index).context("a process")
}

/// A process by its name.
pub(crate) fn process_named<'a>(world: &'a World, name: &str) -> Result<&'a Mutex<Process>> {
    let place = PROCESSES.iter().position(|(known, _)| *known == name);
    place.and_then(|place| world.processes.get(place)).with_context(|| format!("no process {name}"))
}

/// Cuts blocks off the end of the node's journal, as if they had not reached the disk.
pub(crate) fn lose_tail(world: &World, blocks: u32) -> Result<()> {
    let path = world.home.join(".flowbridge/chain/journal.jsonl");
    let text = std::fs::read_to_string(&path)?;
    let lines: Vec<&str> = text.lines().collect();
    // The first line is the genesis.
    let kept = lines.len().saturating_sub(usize::try_from(blocks)?).max(1);
    let mut file = std::fs::File::create(&path)?;
    for line in lines.into_iter().take(kept) {
        writeln!(file, "{line}")?;
    }
    Ok(file.sync_all()?)
}
