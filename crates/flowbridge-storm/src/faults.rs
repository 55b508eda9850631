//! What goes wrong, drawn from a seed before the storm begins, so that the same seed brings the same weather.

use crate::process::Process;
use crate::proxy::{Proxy, Weather};
use crate::sink::{Manner, Sink};
use crate::world::{PROCESSES, World};
use anyhow::{Context as _, Result};
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use std::fmt;
use std::io::Write as _;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::sleep;

/// Those that write to the database, and so can crash at a commit.
const WRITERS: [usize; 7] = [1, 2, 3, 4, 5, 6, 7];

/// One fault, with how long it lasts where it lasts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fault {
    /// SIGKILL; started again after the time.
    Kill(usize, Duration),
    /// SIGSTOP for the time: beyond its lease, the process wakes up a zombie.
    Pause(usize, Duration),
    /// SIGTERM, drained, started again.
    Restart(usize),
    /// Aborts just before or just after its nth commit.
    CrashAtCommit { process: usize, after: bool, nth: u32 },
    /// SIGKILL for one server process of PostgreSQL, which makes it recover.
    DatabaseBackend,
    /// SIGKILL for all of PostgreSQL; started again after the time.
    DatabaseCrash(Duration),
    /// Somebody holds a lock on the payments for the time.
    DatabaseLock(Duration),
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
    /// A line of the network has this weather for the time.
    Network(Line, Weather, Duration),
    /// Every connection of a line is closed.
    Cut(Line),
    /// A bank follows this rule of the simulator's for the time.
    Bank(&'static str, BankFault, Duration),
    /// The receiver of webhooks behaves like this for the time.
    Receiver(Manner, Duration),
}

/// A line of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    Database,
    Rpc,
    NewHeads,
    Banks,
    Gateway1,
    Gateway2,
}

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
            Self::DatabaseBackend => "PostgreSQL backend killed".to_owned(),
            Self::DatabaseCrash(_) => "PostgreSQL crashed".to_owned(),
            Self::DatabaseLock(_) => "payments locked".to_owned(),
            Self::NodeKill(_) => "chain node killed".to_owned(),
            Self::NodeTail(_) => "chain node killed, tail lost".to_owned(),
            Self::NodeStill(_) => "no blocks".to_owned(),
            Self::Reorganisation(_) => "reorganisation".to_owned(),
            Self::PoolDropped => "pool dropped".to_owned(),
            Self::Network(line, weather, _) => {
                let what = match weather {
                    Weather::Delay(_) => "slow",
                    Weather::Stall => "silent",
                    Weather::Refuse => "refused",
                    Weather::Duplicate => "doubled",
                    Weather::Fair => "fair",
                };
                format!("line to {line} {what}")
            }
            Self::Cut(line) => format!("line to {line} cut"),
            Self::Bank(_, fault, _) => format!("bank: {fault:?}"),
            Self::Receiver(manner, _) => match manner {
                Manner::Slow(_) => "webhook receiver: slow".to_owned(),
                other @ (Manner::Polite | Manner::Broken | Manner::Liar) => {
                    format!("webhook receiver: {other:?}")
                }
            },
        }
    }

    fn draw(rng: &mut StdRng) -> Self {
        let mut short = |least: u64, most: u64| Duration::from_millis(rng.random_range(least..=most));
        let (blink, moment, beyond_lease) = (short(0, 1_500), short(500, 4_000), short(6_000, 9_000));
        let any = rng.random_range(0..PROCESSES.len());
        let writer = WRITERS[rng.random_range(0..WRITERS.len())];
        let bank = if rng.random() { "alpha" } else { "beta" };
        match rng.random_range(0..100) {
            0..=21 => Self::Kill(any, blink),
            22..=27 => Self::Pause(any, moment),
            28..=31 => Self::Pause(writer, beyond_lease),
            32..=36 => Self::Restart(any),
            37..=50 => {
                Self::CrashAtCommit { process: writer, after: rng.random(), nth: rng.random_range(1..=40) }
            }
            51..=52 => Self::DatabaseBackend,
            53..=56 => Self::DatabaseCrash(blink),
            57..=58 => Self::DatabaseLock(moment),
            59..=62 => Self::NodeKill(blink),
            63..=65 => Self::NodeTail(rng.random_range(1..=6)),
            66..=67 => Self::NodeStill(moment),
            68..=73 => Self::Reorganisation(rng.random_range(1..=8)),
            74..=75 => Self::PoolDropped,
            76..=83 => Self::Network(
                [Line::Database, Line::Rpc, Line::NewHeads, Line::Banks, Line::Gateway1, Line::Gateway2]
                    [rng.random_range(0..6)],
                match rng.random_range(0..3) {
                    0 => Weather::Delay(Duration::from_millis(rng.random_range(5..=80))),
                    1 => Weather::Stall,
                    _ => Weather::Refuse,
                },
                moment,
            ),
            84..=85 => Self::Network(
                [Line::Rpc, Line::Banks, Line::Gateway1][rng.random_range(0..3)],
                Weather::Duplicate,
                moment,
            ),
            86..=90 => Self::Cut(
                [Line::Database, Line::Rpc, Line::NewHeads, Line::Banks, Line::Gateway1, Line::Gateway2]
                    [rng.random_range(0..6)],
            ),
            91..=96 => Self::Bank(
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
            _ => Self::Receiver(
                [Manner::Broken, Manner::Slow(Duration::from_secs(3)), Manner::Liar][rng.random_range(0..3)],
                moment,
            ),
        }
    }

    /// Lets it happen, and makes it good again.
    pub(crate) async fn strike(&self, world: &World, sink: &Sink) -> Result<()> {
        match self {
            Self::Kill(index, down) => {
                let mut process = world.processes.get(*index).context("a process")?.lock().await;
                process.kill().await?;
                sleep(*down).await;
                process.start(None)
            }
            Self::Pause(index, still) => {
                let mut process = world.processes.get(*index).context("a process")?.lock().await;
                process.pause();
                sleep(*still).await;
                process.resume();
                Ok(())
            }
            Self::Restart(index) => {
                let mut process = world.processes.get(*index).context("a process")?.lock().await;
                process.terminate().await?;
                process.start(None)
            }
            Self::CrashAtCommit { process, after, nth } => {
                let mut process = world.processes.get(*process).context("a process")?.lock().await;
                let when = if *after { "after" } else { "before" };
                process.terminate().await?;
                process.start(Some(&format!("{when}:{nth}")))?;
                // A role that has little to do may never get there.
                for _ in 0..100 {
                    if process.has_ended() {
                        break;
                    }
                    sleep(Duration::from_millis(50)).await;
                }
                process.kill().await?;
                process.start(None)
            }
            Self::DatabaseBackend => kill_backend(world).await,
            Self::DatabaseCrash(down) => {
                let mut postgres = world.postgres.lock().await;
                tokio::task::block_in_place(|| postgres.crash());
                sleep(*down).await;
                tokio::task::block_in_place(|| postgres.restart())
            }
            Self::DatabaseLock(held) => lock_payments(world, *held).await,
            Self::NodeKill(down) => {
                let mut anvil = world.anvil.lock().await;
                tokio::task::block_in_place(|| anvil.kill());
                sleep(*down).await;
                tokio::task::block_in_place(|| anvil.restart())
            }
            Self::NodeTail(blocks) => {
                let mut anvil = world.anvil.lock().await;
                tokio::task::block_in_place(|| anvil.kill());
                lose_tail(world, *blocks)?;
                tokio::task::block_in_place(|| anvil.restart())
            }
            Self::NodeStill(still) => {
                world.anvil.lock().await.freeze();
                sleep(*still).await;
                world.anvil.lock().await.thaw();
                Ok(())
            }
            Self::Reorganisation(depth) => {
                let _anvil = world.anvil.lock().await;
                if let Err(error) = world.rpc("anvil_reorg", json!([depth, []])).await {
                    // A node goes back no further than to its own start.
                    println!("     no reorganisation by {depth} blocks so soon after a restart: {error:#}");
                }
                Ok(())
            }
            Self::PoolDropped => {
                let _anvil = world.anvil.lock().await;
                world.rpc("anvil_dropAllTransactions", json!([])).await.map(drop)
            }
            Self::Network(line, weather, lasting) => {
                let line = line_of(world, *line);
                line.set(*weather);
                if *weather == Weather::Refuse {
                    line.cut();
                }
                sleep(*lasting).await;
                line.set(Weather::Fair);
                Ok(())
            }
            Self::Cut(line) => {
                line_of(world, *line).cut();
                Ok(())
            }
            Self::Bank(bank, fault, lasting) => {
                // The simulator itself may be down: then this bank is as wrong as it gets.
                let path = format!("{bank}/faults");
                let _ = world.simulator(reqwest::Method::POST, &path, Some(&fault.rule())).await;
                sleep(*lasting).await;
                let _ = world.simulator(reqwest::Method::DELETE, &path, None).await;
                Ok(())
            }
            Self::Receiver(manner, lasting) => {
                sink.behave(*manner);
                sleep(*lasting).await;
                sink.behave(Manner::Polite);
                Ok(())
            }
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Database => "PostgreSQL",
            Self::Rpc => "chain (RPC)",
            Self::NewHeads => "chain (WebSocket)",
            Self::Banks => "banks",
            Self::Gateway1 | Self::Gateway2 => "gateway",
        })
    }
}

/// The storm: rounds of one to three faults at the same time.
pub(crate) fn draw_round(rng: &mut StdRng) -> Vec<Fault> {
    // Every other round has one fault only, so that recovery can be told by its class.
    let count = if rng.random() { 1 } else { rng.random_range(2..=3) };
    (0..count).map(|_| Fault::draw(rng)).collect()
}

fn line_of(world: &World, line: Line) -> &Proxy {
    match line {
        Line::Database => &world.postgres_line,
        Line::Rpc => &world.rpc_line,
        Line::NewHeads => &world.socket_line,
        Line::Banks => &world.bank_line,
        Line::Gateway1 => &world.gateway_lines[0],
        Line::Gateway2 => &world.gateway_lines[1],
    }
}

/// Makes all weather fair again.
pub(crate) async fn heal(world: &World, sink: &Sink) -> Result<()> {
    for line in [Line::Database, Line::Rpc, Line::NewHeads, Line::Banks, Line::Gateway1, Line::Gateway2] {
        line_of(world, line).set(Weather::Fair);
    }
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

/// The server processes of FlowBridge's connections are children of the postmaster; one of them dies.
async fn kill_backend(world: &World) -> Result<()> {
    // One that cannot be asked is down already, by another fault of the round.
    let Ok((client, connection)) = tokio_postgres::connect(&world.database_url, tokio_postgres::NoTls).await
    else {
        return Ok(());
    };
    let connection = tokio::spawn(connection);
    let rows = client
        .query("select pid from pg_stat_activity where application_name = 'flowbridge' limit 1", &[])
        .await;
    let pid: Option<i32> = rows.ok().and_then(|rows| rows.first().map(|row| row.get(0)));
    if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    connection.abort();
    Ok(())
}

async fn lock_payments(world: &World, held: Duration) -> Result<()> {
    let Ok((client, connection)) = tokio_postgres::connect(&world.database_url, tokio_postgres::NoTls).await
    else {
        return Ok(());
    };
    let connection = tokio::spawn(connection);
    if client
        .batch_execute("set lock_timeout = '2s'; begin; lock table payment in exclusive mode")
        .await
        .is_ok()
    {
        sleep(held).await;
    }
    drop(client);
    connection.abort();
    Ok(())
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
