//! `flowbridge bench chain`: payments through the transaction manager and the watcher alone, on a chain node and a PostgreSQL of
//! its own.
//!
//! Payments are there before the clock runs, each with the instant from which it may be initiated; latency counts from that
//! instant to when its settlement was read from the log, so a manager that falls behind cannot hide it. What stands in for
//! orchestrator and banks asks for the settlement of whatever has been initiated, and does nothing else. The proof: each payment
//! was initiated and settled once, no log was missed, the creditors' wallets hold what was paid, and no nonce is left behind.

use super::chain_stage::{self, AMOUNT_UNITS, CHAIN_ID, SLICE, Servers, Stage, at};
use super::journal::{Latencies, Latency};
use super::report::{PROVEN, Progress};
use super::usage::{self, Origin, Processes};
use super::{each, per_second, proof::Faults};
use crate::clock::SystemClock;
use crate::commands::say;
use anyhow::{Result, ensure};
use clap::Args;
use flowbridge_chain::deploy;
use flowbridge_chain::plan::FeePolicy;
use flowbridge_chain::watch::Bell;
use flowbridge_chain::{At, Signer};
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::time::{Clock as _, Timestamp};
use flowbridge_embedded::EmbeddedAnvil;
use flowbridge_store::chain as rows;
use flowbridge_store::event_log::{self, Offset, topic};
use flowbridge_store::measure;
use flowbridge_store::wake::Work;
use flowbridge_store::{Db, DbSettings};
use flowbridge_workers::chain::{COUNTS_EVERY, ChainRole, ChainSettings};
use flowbridge_workers::context::Context;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How long payments under way may go without any of them being settled.
const STANDSTILL_MAX: Duration = Duration::from_secs(30);
/// From when everything is prepared to the first payment.
const LEAD: Duration = Duration::from_secs(1);
/// Above the 400 that are asked for: what is offered bounds what can be done.
const RATE_SINGLE: u32 = 420;
const RATE_BATCHED: u32 = 5_000;

#[derive(Debug, Args)]
pub(crate) struct ChainArgs {
    /// Payments in one transaction at most; 1 measures single payments
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=500))]
    batch: u32,
    /// Payments a second; without it 420 when single, 5000 in batches
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// Keys that send, half of them to initiate and half to settle
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(2..=16))]
    lanes: u8,
    /// Time between blocks
    #[arg(long, value_name = "MS", default_value_t = 250)]
    block_ms: u64,
    /// How long is measured, such as 20s
    #[arg(long, default_value = "20s", value_parser = super::duration)]
    duration: Duration,
    /// How long the load lasts before that
    #[arg(long, default_value = "5s", value_parser = super::duration)]
    warmup: Duration,
    /// What accounts are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A chain node and a PostgreSQL of its own in a temporary folder; there is no other way
    #[arg(long)]
    embedded: bool,
    /// Print one JSON object on the last line
    #[arg(long)]
    json: bool,
}

impl ChainArgs {
    fn rate(&self) -> u32 {
        self.rate.unwrap_or(if self.batch == 1 { RATE_SINGLE } else { RATE_BATCHED })
    }

    fn count(&self) -> u32 {
        let time = self.warmup.saturating_add(self.duration);
        u32::try_from(u128::from(self.rate()).saturating_mul(time.as_millis()) / 1_000).unwrap_or(u32::MAX)
    }
}

/// The figures: rates per second, latencies in milliseconds.
#[derive(Debug, Serialize)]
struct Figures {
    bench: &'static str,
    proof: String,
    payments_per_s: f64,
    offered_per_s: u32,
    latency_ms: Latencies,
    batch: u32,
    lanes: u8,
    block_ms: u64,
    duration_s: f64,
    transactions: u64,
    cpu_us_per_payment: BTreeMap<&'static str, f64>,
    wal_bytes_per_payment: f64,
    settings: BTreeMap<String, String>,
    #[serde(flatten)]
    origin: Origin,
}

pub(super) async fn run(args: ChainArgs) -> Result<ExitCode> {
    ensure!(args.rate() > 0, "--rate is at least 1");
    let progress = Progress::start();
    progress.say("starting a private PostgreSQL and a chain node");
    let servers = Servers::start(Duration::from_millis(args.block_ms)).await?;
    let measured = servers.measured(async |servers| measure_chain(&args, servers, &progress).await).await;
    drop(progress);
    print(&measured?, args.json)
}

async fn measure_chain(
    args: &ChainArgs,
    Servers { postgres, anvil, .. }: &Servers,
    progress: &Progress,
) -> Result<Figures> {
    let db = Db::new(&DbSettings::new(postgres.url()))?;
    db.migrate().await?;
    let stage = Stage::set(args.lanes, anvil, &db).await?;
    progress.say(format!("preparing {} payments", args.count()));
    let payments = stage.prepare(args.count(), args.rate(), args.seed, &db).await?;
    let from = event_log::end(&db, &[topic::CHAIN]).await?;
    let began = SystemClock.now().plus(LEAD);
    let due: HashMap<PaymentId, Timestamp> =
        (0u32..).zip(&payments).map(|(n, payment)| (payment.id, began.plus(at(n, args.rate())))).collect();
    let mut asked: Vec<(PaymentId, Timestamp)> = due.iter().map(|(id, due)| (*id, *due)).collect();
    asked.sort_by_key(|(_, due)| *due);
    for some in asked.chunks(SLICE) {
        measure::ask_for(&db, "initiate", some).await?;
    }

    let context = chain_stage::context(&db);
    let stop = CancellationToken::new();
    let role = role(&stage, args, anvil);
    let running = tokio::spawn(flowbridge_workers::chain::run(context.clone(), role, stop.clone()));
    let processes = Processes::of_chain(&anvil.rpc_url(), &db).await?;
    let mut reader = StandIn { context, from, due, seen: HashMap::new(), settled: 0, contradictions: 0 };
    let window = (began.plus(args.warmup), began.plus(args.warmup.saturating_add(args.duration)));
    reader.follow_until(window.0, progress).await?;
    let before = (processes.cpu(), measure::counters(&db).await?);
    reader.follow_until(window.1, progress).await?;
    let after = (processes.cpu(), measure::counters(&db).await?);
    reader.drain(progress).await?;
    wait_until_closed(&stage, &db).await?;
    progress.say("proving that nothing was lost");
    let faults = prove(&stage, &db, &reader, payments.len()).await?;
    stop.cancel();
    running.await?;

    let (settled, latency) = reader.between(window);
    let wal = usize::try_from(after.1.wal_bytes - before.1.wal_bytes).unwrap_or(0);
    Ok(Figures {
        bench: "chain",
        proof: faults.verdict(),
        payments_per_s: per_second(settled, args.duration),
        offered_per_s: args.rate(),
        latency_ms: latency,
        batch: args.batch,
        lanes: args.lanes,
        block_ms: args.block_ms,
        duration_s: args.duration.as_secs_f64(),
        transactions: stage.nonces(At::Latest).await?.iter().sum(),
        cpu_us_per_payment: usage::cpu_us_each(&before.0, &after.0, settled),
        wal_bytes_per_payment: each(per_second(wal, Duration::from_secs(1)), settled),
        settings: measure::settings(&db).await?.into_iter().collect(),
        origin: Origin::find()?,
    })
}

fn role(stage: &Stage, args: &ChainArgs, anvil: &EmbeddedAnvil) -> ChainRole {
    let signers = stage.keys.iter().map(|(lane, key)| (*lane, Arc::new(key.clone()) as Arc<dyn Signer>));
    let batch = usize::try_from(args.batch).unwrap_or(usize::MAX);
    ChainRole {
        chain: stage.chain.clone(),
        contracts: vec![stage.contracts],
        signers: signers.collect(),
        bell: Some(Bell::at(anvil.ws_url(), Duration::from_secs(30))),
        settings: ChainSettings {
            chain_id: CHAIN_ID,
            batch_size_max: batch,
            batch_delay: if batch == 1 { Duration::ZERO } else { Duration::from_millis(20) },
            in_flight_max: if batch == 1 { 256 } else { 32 },
            gas_per_tx_max: 16_000_000,
            gas_margin_percent: 25,
            fees: FeePolicy {
                bump_after: Duration::from_secs(10),
                rebroadcast_after: Duration::from_secs(5),
                fee_per_gas_max: 500_000_000_000,
            },
            watch: chain_stage::WATCH,
            start: stage.start,
            poll: Duration::from_millis(200),
            pace: Duration::from_millis(5),
            counts_every: COUNTS_EVERY,
            lease: Duration::from_secs(10),
        },
    }
}

/// How long the last transactions may take to be closed.
const CLOSED_WITHIN: Duration = Duration::from_secs(30);

/// A lane closes a transaction some blocks after its last log was read. One that stays open is for the proof to tell.
async fn wait_until_closed(stage: &Stage, db: &Db) -> Result<()> {
    let began = Instant::now();
    for lane in stage.keys.keys() {
        while !rows::open_txs(db, *lane, 1).await?.is_empty() && began.elapsed() < CLOSED_WITHIN {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

async fn prove(stage: &Stage, db: &Db, reader: &StandIn, count: usize) -> Result<Faults> {
    let mut faults = Faults::default();
    let settled = reader.seen.values().filter(|seen| seen.settled.is_some()).count();
    faults.equal(("settled payments", settled), ("payments", count));
    if settled != count {
        faults.add(format!("not announced as settled: {:?}", measure::unsettled(db).await?));
    }
    faults.none_of(reader.contradictions, "payments were initiated or settled twice, or otherwise ended");
    let holes = rows::count_holes(db).await?;
    faults.none_of(usize::try_from(holes).unwrap_or(usize::MAX), "jumps in what the contracts count");
    let mut held = 0u64;
    for (_, wallet) in &stage.accounts {
        held = held.saturating_add(deploy::balance(&*stage.chain, &stage.contracts, wallet).await?);
    }
    let paid = AMOUNT_UNITS.saturating_mul(u64::try_from(count)?);
    faults.equal(("token units held", usize::try_from(held)?), ("paid", usize::try_from(paid)?));
    for lane in stage.keys.keys() {
        faults.none_of(rows::open_txs(db, *lane, 1_000).await?.len(), "transactions are under way still");
    }
    if stage.nonces(At::Latest).await? != stage.nonces(At::Pending).await? {
        faults.none_of(1, "lane has nonces that wait");
    }
    Ok(faults)
}

/// Stands in for orchestrator and banks: what is initiated is asked to be settled. And keeps what it read.
struct StandIn {
    context: Context,
    from: Offset,
    due: HashMap<PaymentId, Timestamp>,
    seen: HashMap<PaymentId, Seen>,
    settled: usize,
    contradictions: usize,
}

#[derive(Default)]
struct Seen {
    is_initiated: bool,
    settled: Option<Timestamp>,
}

impl StandIn {
    /// As many as an orchestrator takes together by default: what they ask for is begun while the next are read.
    const PAGE: i64 = 1_000;
    const POLL: Duration = Duration::from_millis(50);

    async fn follow_until(&mut self, until: Timestamp, progress: &Progress) -> Result<()> {
        while self.context.now() < until {
            self.read(progress).await?;
        }
        Ok(())
    }

    /// Follows until everything is settled, or nothing moves any more.
    async fn drain(&mut self, progress: &Progress) -> Result<()> {
        let mut last = (self.settled, self.context.now());
        while self.settled < self.due.len() && self.context.now().since(last.1) < STANDSTILL_MAX {
            self.read(progress).await?;
            if self.settled > last.0 {
                last = (self.settled, self.context.now());
            }
        }
        Ok(())
    }

    async fn read(&mut self, progress: &Progress) -> Result<()> {
        let db = &self.context.db;
        let events = measure::chain_events(db, self.from, Self::PAGE).await?;
        let Some(last) = events.last() else {
            progress.say(format!("{} of {} payments are settled", self.settled, self.due.len()));
            self.context.wake.wait(Work::Observations, Self::POLL).await;
            return Ok(());
        };
        self.from = last.offset;
        let now = self.context.now();
        let mut initiated = Vec::new();
        for event in events {
            let seen = self.seen.entry(event.payment).or_default();
            match event.kind.as_str() {
                "chain.initiated" if !seen.is_initiated => {
                    seen.is_initiated = true;
                    initiated.push((event.payment, now));
                }
                "chain.settled" if seen.is_initiated && seen.settled.is_none() => {
                    seen.settled = Some(now);
                    self.settled += 1;
                }
                _ => self.contradictions += 1,
            }
        }
        measure::ask_for(db, "settle", &initiated).await?;
        self.context.wake.ring(Work::ChainEffects);
        Ok(())
    }

    /// How many were settled between two instants, and how long those took that were due then.
    fn between(&self, (from, to): (Timestamp, Timestamp)) -> (usize, Latencies) {
        let mut latency = Latency::new();
        let mut count = 0;
        for (payment, due) in &self.due {
            let Some(settled) = self.seen.get(payment).and_then(|seen| seen.settled) else { continue };
            count += usize::from(from <= settled && settled < to);
            if from <= *due && *due < to {
                latency.record(settled.since(*due));
            }
        }
        (count, latency.latencies())
    }
}

fn print(figures: &Figures, as_json: bool) -> Result<ExitCode> {
    if as_json {
        say(serde_json::to_string(figures)?);
    } else {
        let line = |name: &str, value: String| say(format_args!("  {name:<22}{value}"));
        say(format_args!(
            "\nchain for {:.0} s: up to {} payments a transaction, {} lanes, a block every {} ms",
            figures.duration_s, figures.batch, figures.lanes, figures.block_ms
        ));
        if figures.proof != PROVEN {
            say(format_args!("  THE PROOF FAILED: {}\n  What follows is no figure.", figures.proof));
        }
        let Latencies { p50, p95, p99, max } = figures.latency_ms;
        line("settled", format!("{:.0}/s of {} offered", figures.payments_per_s, figures.offered_per_s));
        line("from due to settled", format!("p50 {p50:.0}  p95 {p95:.0}  p99 {p99:.0}  max {max:.0} ms"));
        line("transactions", figures.transactions.to_string());
        let cpu: Vec<String> =
            figures.cpu_us_per_payment.iter().map(|(name, micros)| format!("{name} {micros:.0}")).collect();
        line("processor", format!("{} µs per payment", cpu.join(", ")));
        line("write-ahead log", format!("{:.0} bytes per payment", figures.wal_bytes_per_payment));
        line("proof", figures.proof.clone());
        for (name, value) in figures.origin.lines() {
            line(name, value);
        }
    }
    Ok(if figures.proof == PROVEN { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
