//! What goes wrong, drawn from a seed, so that the same seed brings the same weather.
//!
//! A fault says whether it struck. One that found nothing to spoil, such as a dropped pool that was empty, counts as none, and
//! one that became another counts as that.

mod chain;
pub(crate) mod commits;
mod crowd;
pub(crate) mod database;
mod deck;
mod meanwhile;

pub(crate) use chain::lose_tail;
pub(crate) use deck::Deck;

use crate::api::Api;
use crate::load::Load;
use crate::oracle::{list, text};
use crate::process::Process;
use crate::proxy::{Proxy, Weather};
use crate::sink::{Manner, Sink};
use crate::world::{PROCESSES, World};
use anyhow::{Context as _, Result};
use commits::Commit;
use reqwest::Method;
use serde_json::{Value, json};
use std::fmt;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::time::sleep;

/// The rows of the fault matrix that a storm knows. That of the full disk takes a file system of PostgreSQL's own.
const ROWS: [u8; 23] = [1, 3, 4, 5, 6, 7, 10, 11, 13, 14, 15, 16, 17, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31];
/// The row of the full disk.
const ROW_DISK_FULL: u8 = 13;

/// How long a process may take to the commit at which it is to crash.
const CRASH_PATIENCE: Duration = Duration::from_secs(8);
/// How long what goes on beside a fault may take in a storm that is not exact.
const BESIDE_PATIENCE: Duration = Duration::from_secs(60);
/// A line that is silent for as long as this is a partition: its connections are dead when it is over.
const PARTITION_MIN: Duration = Duration::from_secs(5);

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
    /// Aborts just before or just after its nth commit of a sort.
    CrashAtCommit { process: usize, commit: &'static Commit, after: bool, nth: u32 },
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
    /// Every connection of a line is torn.
    Cut(Line),
    /// A bank follows this rule of the simulator's for the time.
    Bank(&'static str, BankFault, Duration),
    /// The WebSocket is open and says nothing for the time; payments go through by polling.
    SocketSilent(Duration),
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
    /// That to an endpoint of the receiver of webhooks.
    Receiver(&'static str),
}

const LINES: [Line; 9] = [
    Line::Database,
    Line::DatabaseOfTwo,
    Line::Rpc,
    Line::NewHeads,
    Line::Banks,
    Line::Gateway1,
    Line::Gateway2,
    Line::Receiver("alpha"),
    Line::Receiver("beta"),
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
            Self::SocketSilent(_) => "WebSocket silent".to_owned(),
            Self::NodeAway(..) => "first of two nodes away".to_owned(),
            Self::Cut(line) => format!("line to {line} cut"),
            Self::Bank(_, fault, _) => format!("bank: {fault:?}"),
            Self::BankDown(..) => "bank down".to_owned(),
            Self::Receiver(_, manner, _) => match manner {
                Manner::Slow(_) => "webhook receiver: Slow".to_owned(),
                other @ (Manner::Polite
                | Manner::Broken
                | Manner::BrokenUpTo(_)
                | Manner::Liar
                | Manner::Redirects
                | Manner::Untrusted) => {
                    format!("webhook receiver: {other:?}")
                }
            },
        }
    }

    /// The commit at which it struck, if it was one.
    pub(crate) fn commit(&self) -> Option<String> {
        if let Self::CrashAtCommit { commit, after, .. } = self { Some(commit.name(*after)) } else { None }
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
            Self::Network(Line::NewHeads, ..) | Self::SocketSilent(_) => (24, Some(2_000)),
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
            Self::Receiver(..) | Self::Network(Line::Receiver(_), ..) | Self::Cut(Line::Receiver(_)) => {
                (31, None)
            }
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

    /// Lets it happen, and makes it good again.
    pub(crate) async fn strike(&self, field: &Field<'_>) -> Result<Struck> {
        let world = field.world;
        let mut found = vec![];
        let has_struck = match self {
            Self::Kill(index, down) => {
                let mut process = process_at(world, *index)?.lock().await;
                process.kill().await?;
                sleep(*down).await;
                process.start()?;
                true
            }
            Self::Pause(index, still) => {
                let mut process = process_at(world, *index)?.lock().await;
                process.pause();
                sleep(*still).await;
                process.resume();
                true
            }
            Self::Restart(index) => {
                let mut process = process_at(world, *index)?.lock().await;
                process.terminate().await?;
                process.start()?;
                true
            }
            Self::RollingRestart => {
                found = meanwhile::roll_gateways(field).await?;
                true
            }
            Self::Skew { process, secs, lasting } => {
                let mut process = process_at(world, *process)?.lock().await;
                process.terminate().await?;
                process.start_with(&[("FLOWBRIDGE_CLOCK_OFFSET_SECS", &secs.to_string())])?;
                sleep(*lasting).await;
                process.terminate().await?;
                process.start()?;
                true
            }
            Self::CrashAtCommit { process, commit, after, nth } => {
                if !commits::crash(world, *process, (*commit, *after), *nth, CRASH_PATIENCE).await? {
                    let killed = Self::Kill(*process, Duration::ZERO);
                    return Ok(Struck { fault: Some(killed), found });
                }
                true
            }
            Self::DatabaseBackend => database::kill_backend(world).await,
            Self::DatabaseCrash(down) => {
                let mut postgres = world.postgres.lock().await;
                tokio::task::block_in_place(|| postgres.crash());
                sleep(*down).await;
                tokio::task::block_in_place(|| postgres.restart())?;
                true
            }
            Self::DatabaseLock(held) => database::lock_payments(world, "exclusive", *held).await,
            Self::Deadlocks(lasting) => database::lock_out_of_order(world, *lasting).await,
            Self::ConnectionsTaken(lasting) => database::take_connections(world, *lasting).await,
            Self::DiskFull(lasting) => database::fill_disk(world, *lasting).await?,
            Self::Overload => {
                let (has_locked, told) = crowd::overload(field).await?;
                found = told;
                has_locked
            }
            Self::IdleClients(lasting) => {
                let (has_connected, told) = crowd::idle(field, *lasting).await?;
                found = told;
                has_connected
            }
            Self::Poison => database::poison_log(world).await,
            Self::NodeKill(down) => {
                let mut anvil = world.anvil.lock().await;
                tokio::task::block_in_place(|| anvil.kill());
                sleep(*down).await;
                tokio::task::block_in_place(|| anvil.restart())?;
                true
            }
            Self::NodeTail(blocks) => {
                let mut anvil = world.anvil.lock().await;
                tokio::task::block_in_place(|| anvil.kill());
                lose_tail(world, *blocks)?;
                tokio::task::block_in_place(|| anvil.restart())?;
                true
            }
            Self::NodeStill(still) => {
                let anvil = world.anvil.lock().await;
                tokio::task::block_in_place(|| anvil.freeze());
                drop(anvil);
                sleep(*still).await;
                world.anvil.lock().await.thaw();
                true
            }
            Self::Reorganisation(depth) => chain::reorganise(world, *depth).await,
            Self::PoolDropped => chain::drop_pool(world).await?,
            Self::NonceGap => chain::drop_first_nonce(world).await?,
            Self::Underpriced => {
                chain::raise_base_fee(world).await?;
                true
            }
            Self::Network(line, weather, lasting) => spoil(line_of(field, *line)?, *weather, *lasting).await,
            Self::Cut(line) => {
                let line = line_of(field, *line)?;
                let is_used = line.connections() > 0;
                line.cut();
                is_used
            }
            Self::Bank(bank, fault, lasting) => misbehave(world, bank, &fault.rule(), *lasting).await,
            Self::SocketSilent(lasting) => {
                let is_used = world.socket_line.connections() > 0;
                found = meanwhile::socket_silent(field, *lasting).await?;
                is_used
            }
            Self::NodeAway(weather, lasting) => {
                found = meanwhile::node_away(field, *weather, *lasting).await?;
                true
            }
            Self::BankDown(bank, lasting) => {
                let (is_met, told) = meanwhile::bank_down(field, bank, *lasting).await?;
                found = told;
                is_met
            }
            Self::Receiver(endpoint, manner, lasting) => {
                let (is_met, told) =
                    meanwhile::receiver_misbehaves(field, endpoint, *manner, *lasting).await?;
                found = told;
                is_met
            }
        };
        Ok(Struck { fault: has_struck.then(|| self.clone()), found })
    }
}

/// The rows of the fault matrix that a storm knows, with a file system of PostgreSQL's own or without.
pub(crate) fn rows(can_fill_disk: bool) -> impl Iterator<Item = u8> {
    ROWS.into_iter().filter(move |row| can_fill_disk || *row != ROW_DISK_FULL)
}

/// What came of a fault.
#[derive(Debug)]
pub(crate) struct Struck {
    /// What it was in the end: a crash whose commit never came is a kill. None if there was nothing to spoil.
    pub(crate) fault: Option<Fault>,
    /// What should not have come of it, if it was alone.
    pub(crate) found: Vec<String>,
}

/// All that faults strike, and those who notice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field<'a> {
    pub(crate) world: &'a World,
    pub(crate) sink: &'a Sink,
    pub(crate) api: &'a Api,
    pub(crate) load: &'a Load,
    /// How long a payment takes in fair weather, with nothing beside it.
    pub(crate) usual: Duration,
    /// The chain's pace.
    pub(crate) block_time: Duration,
    /// Whether what goes on beside a fault is held to its time, as on a machine that does nothing else.
    pub(crate) is_exact: bool,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Database | Self::DatabaseOfTwo => "PostgreSQL",
            Self::Rpc => "chain (RPC)",
            Self::NewHeads => "chain (WebSocket)",
            Self::Banks => "banks",
            Self::Gateway1 | Self::Gateway2 => "gateway",
            Self::Receiver(_) => "receiver",
        })
    }
}

fn line_of<'a>(field: &Field<'a>, line: Line) -> Result<&'a Proxy> {
    let world = field.world;
    Ok(match line {
        Line::Database => &world.postgres_lines[0],
        Line::DatabaseOfTwo => &world.postgres_lines[1],
        Line::Rpc => &world.rpc_line,
        Line::NewHeads => &world.socket_line,
        Line::Banks => &world.bank_line,
        Line::Gateway1 => &world.gateway_lines[0],
        Line::Gateway2 => &world.gateway_lines[1],
        Line::Receiver(endpoint) => field.sink.line(endpoint)?,
    })
}

/// Makes all weather fair again.
pub(crate) async fn heal(field: &Field<'_>) -> Result<()> {
    let Field { world, sink, .. } = *field;
    for line in LINES {
        line_of(field, line)?.set(Weather::Fair);
    }
    world.first_node_line.set(Weather::Fair);
    sink.behave(Manner::Polite);
    world.revive().await?;
    for bank in ["alpha", "beta"] {
        let path = format!("{bank}/faults");
        let mut tries = 0;
        while let Err(error) = world.simulator(Method::DELETE, &path, None).await {
            tries += 1;
            if tries > 100 {
                return Err(error).context("the bank simulator does not answer");
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

/// A line has this weather for the time. False if nobody used it.
async fn spoil(line: &Proxy, weather: Weather, lasting: Duration) -> bool {
    let before = line.connections();
    line.set(weather);
    if matches!(weather, Weather::Refuse | Weather::Status(_)) {
        line.cut();
    }
    sleep(lasting).await;
    let is_used = before > 0 || line.connections() > 0;
    line.set(Weather::Fair);
    // What a partition has swallowed never comes.
    if weather == Weather::Stall && lasting >= PARTITION_MIN {
        line.cut();
    }
    is_used
}

/// A bank follows a rule of the simulator's for the time. False if nobody met it: the simulator itself may be down.
async fn misbehave(world: &World, bank: &str, rule: &Value, lasting: Duration) -> bool {
    let path = format!("{bank}/faults");
    let made = world.simulator(Method::POST, &path, Some(rule)).await;
    sleep(lasting).await;
    let is_met = match made {
        Ok(made) => was_met(world, bank, &made).await.unwrap_or(false),
        Err(_) => false,
    };
    let _ = world.simulator(Method::DELETE, &path, None).await;
    is_met
}

/// Whether anybody has met a rule that was made at a bank.
async fn was_met(world: &World, bank: &str, made: &Value) -> Result<bool> {
    let rules = world.simulator(Method::GET, &format!("{bank}/faults"), None).await?;
    let number = |rule: &Value, name: &str| rule.get(name).and_then(Value::as_u64);
    let id = number(made, "id").context("the rule has no number")?;
    let ours = list(&rules, "faults").iter().find(|rule| number(rule, "id") == Some(id));
    Ok(ours.and_then(|rule| number(rule, "times")).is_some_and(|times| times > 0))
}

impl Field<'_> {
    /// A payment from its posting to its end: any, or one between accounts of an institution.
    pub(crate) async fn get_through(&self, within: Option<&str>) -> Result<Duration> {
        let began = Instant::now();
        // On the heap: what a payment goes through is large, and would be part of every fault that it is measured in.
        let id = Box::pin(self.load.probe(within)).await?;
        loop {
            let payment = self.api.read("operator", &format!("/v1/payments/{id}")).await?;
            if matches!(text(&payment, "state"), "completed" | "failed") {
                return Ok(began.elapsed());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The same, or none if it takes longer than `patience`.
    async fn get_through_within(&self, within: Option<&str>, patience: Duration) -> Result<Option<Duration>> {
        match tokio::time::timeout(patience, self.get_through(within)).await {
            Ok(took) => took.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// How long a payment takes in fair weather beside the load: just now, or before the storm, whichever was longer.
    async fn usual_under_load(&self) -> Result<Duration> {
        Ok(self.get_through(None).await?.max(self.usual))
    }

    /// How long something may take that goes on beside a fault: this exactly, or, where the storm is one of the tests of whatever
    /// machine, so long that only what never comes is missed.
    const fn patience(&self, exact: Duration) -> Duration {
        if self.is_exact || exact.as_secs() >= BESIDE_PATIENCE.as_secs() { exact } else { BESIDE_PATIENCE }
    }
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
