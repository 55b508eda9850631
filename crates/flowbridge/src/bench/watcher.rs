//! `flowbridge bench watcher`: how fast the watcher catches up with a chain that went on without it.
//!
//! First the chain's past is made, by real calls to the real contracts: payments are initiated and settled in batches while
//! nobody looks. The clock runs from the watcher's start, at the block before the contracts, to when it has taken in the
//! newest block; the chain stands still meanwhile. The payments are in the database and their effects are asked for, so that
//! all that follows from a log follows. The proof: of each payment was told once that it was initiated, then once that it was
//! settled; the contracts' sequence has no gap; every wallet has in the database what it has on chain.

use super::chain_stage::{self, AMOUNT_UNITS, CHAIN_ID, SLICE, Servers, Stage};
use super::proof::Faults;
use super::report::{PROVEN, Progress, mega};
use super::usage::{self, Origin, Processes};
use super::{each, per_second};
use crate::clock::SystemClock;
use crate::commands::say;
use anyhow::{Context as _, Result, bail};
use clap::Args;
use flowbridge_chain::call::{self, OnLeaves};
use flowbridge_chain::deploy;
use flowbridge_chain::leaf::LeafTerms;
use flowbridge_chain::plan::FeePolicy;
use flowbridge_chain::signer::Unsigned;
use flowbridge_chain::{At, Key, Leaf};
use flowbridge_domain::id::AccountId;
use flowbridge_domain::party::EvmAddress;
use flowbridge_domain::time::Clock as _;
use flowbridge_embedded::EmbeddedAnvil;
use flowbridge_store::chain::{self as rows, Duty, Lane};
use flowbridge_store::measure::{self, StagedPayment};
use flowbridge_store::{Db, DbSettings};
use flowbridge_workers::chain::{COUNTS_EVERY, ChainRole, ChainSettings};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Payments in one transaction, while the node remembers that many blocks.
const BATCH: usize = 100;
/// Batches at most: the node forgets the logs of blocks that are 2,048 behind its newest.
const BATCHES_MAX: usize = 900;
/// Beyond what any batch takes.
const GAS_LIMIT: u64 = 40_000_000;
/// When payments of the benchmark expire: long after it.
const EXPIRY_SECS: u64 = 30 * 86_400;
/// How many payments were accepted a second, in what their ids say.
const RATE: u32 = 5_000;
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long the watcher may stand still.
const STANDSTILL_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(crate) struct WatcherArgs {
    /// Payments that were initiated and settled meanwhile; each leaves about three logs
    #[arg(long, value_name = "N", default_value_t = 75_000, value_parser = clap::value_parser!(u32).range(1..=400_000))]
    payments: u32,
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

/// The figures. An event is a log of our contracts.
#[derive(Debug, Serialize)]
struct Figures {
    bench: &'static str,
    proof: String,
    events_per_s: f64,
    events: usize,
    payments: usize,
    blocks: u64,
    duration_s: f64,
    rss_bytes_max: u64,
    cpu_us_per_event: BTreeMap<&'static str, f64>,
    wal_bytes_per_event: f64,
    settings: BTreeMap<String, String>,
    #[serde(flatten)]
    origin: Origin,
}

pub(super) async fn run(args: WatcherArgs) -> Result<ExitCode> {
    let progress = Progress::start();
    progress.say("starting a private PostgreSQL and a chain node");
    let servers = Servers::start(Duration::from_millis(50)).await?;
    let measured = servers.measured(async |servers| measure_watcher(&args, servers, &progress).await).await;
    drop(progress);
    print(&measured?, args.json)
}

async fn measure_watcher(
    args: &WatcherArgs,
    Servers { postgres, anvil, .. }: &Servers,
    progress: &Progress,
) -> Result<Figures> {
    let db = Db::new(&DbSettings::new(postgres.url()))?;
    db.migrate().await?;
    let stage = Stage::set(2, anvil, &db).await?;
    progress.say(format!("preparing {} payments", args.payments));
    let payments = stage.prepare(args.payments, RATE, args.seed, &db).await?;
    for some in payments.chunks(SLICE) {
        let due: Vec<_> = some.iter().map(|payment| (payment.id, SystemClock.now())).collect();
        measure::ask_for(&db, "initiate", &due).await?;
        measure::ask_for(&db, "settle", &due).await?;
    }
    anvil.freeze();
    make_past(&stage, anvil, &payments, progress).await?;
    let newest = stage.chain.block(At::Latest).await?.context("the chain has no newest block")?.number;

    progress.say("catching up");
    let context = chain_stage::context(&db);
    let stop = CancellationToken::new();
    let processes = Processes::of_chain(&anvil.rpc_url(), &db).await?;
    usage::forget_rss_max()?;
    let before = (processes.cpu(), measure::counters(&db).await?);
    let began = Instant::now();
    let running = tokio::spawn(flowbridge_workers::chain::run(context, role(&stage), stop.clone()));
    let caught_up = catch_up(&db, newest).await;
    let duration = began.elapsed();
    let after = (processes.cpu(), measure::counters(&db).await?);
    let rss_bytes_max = processes.rss_bytes_max();
    stop.cancel();
    running.await?;
    caught_up?;

    progress.say("proving that everything arrived once");
    let watched = measure::watched(&db).await?;
    let faults = prove(&stage, &db, &watched, payments.len()).await?;
    let events = usize::try_from(watched.logs)?;
    let wal = usize::try_from(after.1.wal_bytes - before.1.wal_bytes).unwrap_or(0);
    Ok(Figures {
        bench: "watcher",
        proof: faults.verdict(),
        events_per_s: per_second(events, duration),
        events,
        payments: payments.len(),
        blocks: newest - stage.start.0,
        duration_s: duration.as_secs_f64(),
        rss_bytes_max,
        cpu_us_per_event: usage::cpu_us_each(&before.0, &after.0, events),
        wal_bytes_per_event: each(per_second(wal, Duration::from_secs(1)), events),
        settings: measure::settings(&db).await?.into_iter().collect(),
        origin: Origin::find()?,
    })
}

/// Initiates and settles the payments, a batch after the other, each call in a block of its own.
async fn make_past(
    stage: &Stage,
    anvil: &EmbeddedAnvil,
    payments: &[StagedPayment],
    progress: &Progress,
) -> Result<()> {
    let wallets: HashMap<AccountId, EvmAddress> = stage.accounts.iter().copied().collect();
    let wallet = |account: &AccountId| wallets.get(account).copied().context("an account without a wallet");
    let mut initiator = Caller::of(stage, Duty::Initiator).await?;
    let mut settler = Caller::of(stage, Duty::Settler).await?;
    let mut numbers = 0u64..;
    let expires_at = u64::try_from(SystemClock.now().as_secs_down())?.saturating_add(EXPIRY_SECS);
    for some in payments.chunks(payments.len().div_ceil(BATCHES_MAX).max(BATCH)) {
        let batch = some
            .iter()
            .zip(&mut numbers)
            .map(|(payment, number)| {
                Ok(Leaf {
                    number,
                    payment_id: payment.id,
                    debtor: wallet(&payment.debtor)?,
                    creditor: wallet(&payment.creditor)?,
                    amount: AMOUNT_UNITS,
                    fee: 0,
                    expires_at,
                    terms: LeafTerms { token_funded: false, paid_out_by_bank: false },
                })
            })
            .collect::<Result<Vec<Leaf>>>()?;
        let places: Vec<usize> = (0..batch.len()).collect();
        let settle =
            call::on_leaves(OnLeaves::Settle, &batch, &places).context("a batch without payments")?;
        initiator.call(stage, &stage.contracts.router, &call::initiate_batch(&batch, expires_at)).await?;
        tokio::task::block_in_place(|| anvil.mine(1))?;
        settler.call(stage, &stage.contracts.manager, &settle).await?;
        tokio::task::block_in_place(|| anvil.mine(1))?;
        progress.say(format!("{} of {} payments are on chain", numbers.start, payments.len()));
    }
    Ok(())
}

/// A key that calls without asking what it costs.
struct Caller {
    key: Key,
    nonce: u64,
    fee_per_gas: u64,
}

impl Caller {
    async fn of(stage: &Stage, duty: Duty) -> Result<Self> {
        let key = stage.keys.get(&Lane::first(duty)).context("no such key")?.clone();
        let nonce = stage.chain.nonce(&key.address(), At::Latest).await?;
        let fee_per_gas = stage.chain.fees().await?.base.saturating_mul(2);
        Ok(Self { key, nonce, fee_per_gas })
    }

    async fn call(&mut self, stage: &Stage, to: &EvmAddress, calldata: &[u8]) -> Result<()> {
        let unsigned = Unsigned {
            chain_id: CHAIN_ID,
            nonce: self.nonce,
            to: Some(to),
            calldata,
            value: 0,
            gas_limit: GAS_LIMIT,
            fee_per_gas: self.fee_per_gas,
            priority_fee: 0,
        };
        self.nonce += 1;
        Ok(stage.chain.send(&self.key.sign(&unsigned)?.raw).await?)
    }
}

/// The chain role without a lane: only its watcher has something to do.
fn role(stage: &Stage) -> ChainRole {
    ChainRole {
        chain: stage.chain.clone(),
        contracts: vec![stage.contracts],
        signers: BTreeMap::new(),
        bell: None,
        settings: ChainSettings {
            chain_id: CHAIN_ID,
            batch_size_max: BATCH,
            batch_delay: Duration::ZERO,
            in_flight_max: 0,
            gas_per_tx_max: GAS_LIMIT,
            gas_margin_percent: 0,
            fees: FeePolicy {
                bump_after: Duration::MAX,
                rebroadcast_after: Duration::MAX,
                fee_per_gas_max: 0,
            },
            watch: chain_stage::WATCH,
            start: stage.start,
            poll: Duration::from_millis(200),
            pace: Duration::ZERO,
            counts_every: COUNTS_EVERY,
            lease: Duration::from_secs(10),
        },
    }
}

/// Waits until the watcher has taken in the newest block.
async fn catch_up(db: &Db, newest: u64) -> Result<()> {
    let newest = i64::try_from(newest)?;
    let mut last = (None, Instant::now());
    loop {
        let place = measure::read_up_to(db).await?;
        if place.is_some_and(|place| place >= newest) {
            return Ok(());
        }
        if place > last.0 {
            last = (place, Instant::now());
        }
        if last.1.elapsed() > STANDSTILL_MAX {
            bail!("the watcher stands still at block {place:?} of {newest}");
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

async fn prove(stage: &Stage, db: &Db, watched: &measure::Watched, count: usize) -> Result<Faults> {
    let mut faults = Faults::default();
    let of = |count: i64| usize::try_from(count).unwrap_or(usize::MAX);
    faults.equal(("payments told of once", of(watched.told_once)), ("payments", count));
    faults.equal(("effects done", of(watched.effects_done)), ("asked for", count.saturating_mul(2)));
    let holes = rows::count_holes(db).await?;
    faults.none_of(of(holes), "jumps in what the contracts count");
    let mut differing = 0;
    for (_, wallet) in &stage.accounts {
        let on_chain = deploy::balance(&*stage.chain, &stage.contracts, wallet).await?;
        let known = watched.wallets.get(wallet.as_bytes().as_slice()).copied().unwrap_or(0);
        differing += usize::from(u64::try_from(known) != Ok(on_chain));
    }
    faults.none_of(differing, "wallets hold something else on chain");
    Ok(faults)
}

fn print(figures: &Figures, as_json: bool) -> Result<ExitCode> {
    if as_json {
        say(serde_json::to_string(figures)?);
    } else {
        let line = |name: &str, value: String| say(format_args!("  {name:<22}{value}"));
        say(format_args!(
            "\nwatcher catching up: {} events of {} payments in {} blocks",
            figures.events, figures.payments, figures.blocks
        ));
        if figures.proof != PROVEN {
            say(format_args!("  THE PROOF FAILED: {}\n  What follows is no figure.", figures.proof));
        }
        line("events", format!("{:.0}/s, {:.1} s", figures.events_per_s, figures.duration_s));
        line("memory", format!("{:.0} MB at most", mega(figures.rss_bytes_max)));
        let cpu: Vec<String> =
            figures.cpu_us_per_event.iter().map(|(name, micros)| format!("{name} {micros:.1}")).collect();
        line("processor", format!("{} µs per event", cpu.join(", ")));
        line("write-ahead log", format!("{:.0} bytes per event", figures.wal_bytes_per_event));
        line("proof", figures.proof.clone());
        for (name, value) in figures.origin.lines() {
            line(name, value);
        }
    }
    Ok(if figures.proof == PROVEN { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
