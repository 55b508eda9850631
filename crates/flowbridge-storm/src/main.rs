//! `cargo xtask storm`: the whole system as real processes under load, while everything around it is killed, and
//! afterwards the question whether any money was created or lost.
//!
//! A round lets one to three faults (`--at-once`) happen at the same time, makes them good, and measures how long it takes until a payment
//! posted after that completes. Rounds follow each other until there were enough faults; load goes on all the time. A long
//! storm goes on at least until every row of the fault matrix was in it, and each fault that lasts minutes.
//! Then everything comes to rest and the oracle judges, and at last has the system read its log again; interrupted, it does so
//! after the round that it is in. The seed repeats the faults and the payments; how the machine interleaves them is its own
//! affair.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for people and CI, on a terminal")]

mod api;
mod disk;
mod faults;
mod load;
mod named;
mod oracle;
mod process;
mod proxy;
mod reconciliations;
mod report;
mod sink;
mod stage;
mod tls;
mod world;

use crate::api::{Api, Call};
use crate::faults::{Deck, Fault, Field, Struck};
use crate::load::Load;
use crate::oracle::{Baseline, Evidence, Replay, Witness, text};
use crate::report::Report;
use crate::sink::Sink;
use crate::world::{Conditions, World};
use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use futures_util::FutureExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long a payment posted in fair weather may take before the system counts as not recovered. A build without optimisation, which
/// runs with the tests on whatever machine there is, has longer.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 300 } else { 90 });
/// How long everything may take to come to its end once the storm is over.
const REST_PATIENCE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 300 } else { 120 });

/// Those that are told of their payments.
const INSTITUTIONS: [&str; 2] = ["alpha", "beta"];

/// From here on a storm has time for faults that last minutes.
const LONG: Duration = Duration::from_secs(600);
/// Of a long storm so much is read again from the log, from its end back; of a short one all.
const READ_AGAIN_MAX: Duration = Duration::from_secs(300);
/// What is kept of a payment on disk, bytes: measured, and rounded up.
const PAYMENT_BYTES: u64 = 40_000;
/// What the storm takes before the first payment, and PostgreSQL's own log at its largest.
const STAGE_BYTES: u64 = 4 << 30;

/// Kills everything while payments flow, then proves that nothing was lost or doubled.
#[derive(Debug, Parser)]
struct Args {
    /// Draws the faults and the payments; by default from the time
    #[arg(long)]
    seed: Option<u64>,
    /// Payments a second
    #[arg(long, default_value_t = 40)]
    rate: u32,
    /// At least this many faults
    #[arg(long, default_value_t = 60)]
    faults: usize,
    /// At most so many at the same time; every other round has one only
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=8))]
    at_once: u8,
    /// Go on at least this long: `90s`, `60m`, `1h`
    #[arg(long, value_parser = parse_duration, default_value = "0s")]
    duration: Duration,
    /// Begin no further round after so long, with however many faults there were, which is told
    #[arg(long, value_parser = parse_duration)]
    at_most: Option<Duration>,
    /// Go on for at least this many payments
    #[arg(long, default_value_t = 0)]
    payments: u64,
    /// The chain's pace; four blocks a second keep a short storm short
    #[arg(long, default_value_t = 250)]
    block_time_ms: u64,
    /// The program under test: a debug build, or one with the feature `failpoints`
    #[arg(long)]
    binary: PathBuf,
    /// Where data and logs go; emptied first
    #[arg(long)]
    folder: PathBuf,
    /// Instead of a storm: each fault by name, one after the other, and what comes of it
    #[arg(long)]
    named: bool,
    /// Only faults whose name contains this; in a storm by the names in its table, each alone in its round
    #[arg(long, default_value = "")]
    only: String,
    /// Print one JSON object on the last line
    #[arg(long)]
    json: bool,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(['s', 'm', 'h']);
    let secs_each = match text.get(digits.len()..) {
        Some("" | "s") => 1,
        Some("m") => 60,
        Some("h") => 3_600,
        _ => return Err("a duration is a number with s, m or h behind it".to_owned()),
    };
    let number: u64 =
        digits.parse().map_err(|_| "a duration is a number with s, m or h behind it".to_owned())?;
    Ok(Duration::from_secs(number * secs_each))
}

#[tokio::main]
async fn main() -> ExitCode {
    flowbridge_embedded::allow_open_files();
    match run(Args::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("storm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<bool> {
    if args.named { named(&args).await } else { storm_and_judge(&args).await }
}

/// Every fault by its name.
async fn named(args: &Args) -> Result<bool> {
    let conditions = Conditions {
        settings: &named::SETTINGS,
        block_time: Duration::from_millis(args.block_time_ms),
        disk_bytes: 0,
    };
    let (world, api) = set_up(args, conditions).await?;
    let is_good = named::run(&world, &api, &args.only).await?;
    if !is_good {
        println!("logs are in {}", world.home.join("logs").display());
    }
    world.stop().await?;
    Ok(is_good)
}

async fn set_up(args: &Args, conditions: Conditions<'_>) -> Result<(World, Api)> {
    disk::clear(&args.folder)?;
    if args.folder.exists() {
        std::fs::remove_dir_all(&args.folder)?;
    }
    std::fs::create_dir_all(&args.folder)?;
    let home = args.folder.canonicalize()?;
    let world = World::start(&args.binary.canonicalize()?, &home, conditions).await?;
    let gateways = world.gateway_lines.each_ref().map(|line| format!("http://{}", line.authority()));
    let api = Api::new(&home, &world.issuer, gateways)?;
    Ok((world, api))
}

async fn storm_and_judge(args: &Args) -> Result<bool> {
    let seed = args.seed.unwrap_or_else(|| rand::random_range(1..1_000_000));
    let data_bytes = expected_bytes(args);
    println!(
        "storm with seed {seed}: at least {} faults, {} s and {} payments, {} payments/s; it takes up to {} GB",
        args.faults,
        args.duration.as_secs(),
        args.payments,
        args.rate,
        data_bytes >> 30
    );
    println!(
        "SKIPPED: the half of I12 that what differs is found; `flowbridge bench reconciliation` judges it"
    );
    std::fs::create_dir_all(&args.folder)?;
    let free = disk::free_bytes(&args.folder)?;
    ensure!(
        free > data_bytes,
        "{} GB are free, and this storm may take {}: give another --folder, or ask for less",
        free >> 30,
        data_bytes >> 30
    );
    let conditions = Conditions {
        settings: &[],
        block_time: Duration::from_millis(args.block_time_ms),
        disk_bytes: data_bytes,
    };
    let (world, api) = set_up(args, conditions).await?;
    let (world, api, home) = (Arc::new(world), Arc::new(api), args.folder.canonicalize()?);
    let sink = Sink::start(&world.authority, &INSTITUTIONS).await?;
    let endpoints = open_endpoints(&api, &sink).await?;
    let baseline = Baseline::take(&world, &api).await?;
    let witness = Arc::new(Witness::new(&world).await?);
    let acknowledgements = home.join("acknowledged.jsonl");
    let load = Load::new(api.clone(), &acknowledgements, seed)?;
    let block_time = conditions.block_time;
    let field = Field {
        world: &world,
        sink: &sink,
        api: &api,
        load: &load,
        usual: Duration::ZERO,
        block_time,
        is_exact: is_long(args),
    };
    let field = Field { usual: usual(&field).await?, ..field };
    let mut report = Report::new(field.usual, faults::rows(world.disk.is_some()));
    let (stop, stopped) = watch::channel(false);
    let posting = tokio::spawn(load.clone().run((args.rate, field.is_exact), stopped));
    let keeper = tokio::spawn(keep(world.clone(), witness.clone()));

    let is_whole = storm(args, seed, &field, &mut report).await?;
    if is_whole && is_long(args) && args.only.is_empty() {
        let missing = report.rows_not_struck();
        report.findings.extend(missing.iter().map(|row| format!("R{row}: no fault of this row has struck")));
    }
    let (over, was_long) = (jiff::Timestamp::now(), report.began.elapsed() >= LONG);
    println!(
        "the storm is over after {:.0} s; everything comes to rest",
        report.began.elapsed().as_secs_f64()
    );
    stop.send_replace(true);
    faults::heal(&field).await?;
    posting.await??;
    report.rest = oracle::wait_all_ended(&api, REST_PATIENCE).await?;
    if report.rest >= REST_PATIENCE {
        report.findings.push(format!("I14: not every payment had ended {REST_PATIENCE:?} after the storm"));
    }
    wait_webhooks(&api, &endpoints).await?;
    report.findings.append(&mut reconciliations::at_rest(&api).await?);
    keeper.abort();
    let _ = keeper.await;
    report.look(&world).await;
    let judging = Instant::now();
    let mut verdict = {
        let mut book = load.look(std::mem::take);
        let on_disk = BufReader::new(File::open(&acknowledgements)?);
        let mut differences = load::read_back(on_disk, &mut book, seed)?;
        let evidence = Evidence { baseline: &baseline, witness: &witness, sink: &sink, book: &book, seed };
        report.asked(&book, sink.deliveries(None));
        let since = was_long.then(|| over - READ_AGAIN_MAX);
        let from = since.map_or("the beginning".to_owned(), |instant| format!("{instant:.0}"));
        println!("it is judged, and its log is read again from {from} on");
        let replay = Replay { since, endpoints: &endpoints };
        let mut verdict = oracle::judge(&world, &api, &evidence, &replay).await?;
        verdict.violations.append(&mut differences);
        verdict
    };
    report.judged = judging.elapsed();
    report.stale_writes = stale_writes(&home)?;
    verdict.violations.append(&mut report.findings);
    verdict.violations.extend(api.failures());

    report.print(&verdict);
    let is_kept = verdict.violations.is_empty();
    if !is_kept {
        println!("logs are in {}", home.join("logs").display());
    }
    if args.json {
        println!("{}", report.json(seed, &verdict));
    }
    let world = Arc::into_inner(world).context("somebody still holds the world")?;
    world.stop().await?;
    Ok(is_kept)
}

/// An endpoint for each institution, with its id.
async fn open_endpoints(api: &Api, sink: &Sink) -> Result<Vec<(&'static str, String)>> {
    let mut endpoints = Vec::new();
    for who in INSTITUTIONS {
        let body = json!({ "url": sink.url(who)? });
        let create = Call {
            who,
            method: &Method::POST,
            path: "/v1/webhook-endpoints",
            key: Some("storm-endpoint"),
            body: Some(&body),
        };
        let created = api.call(0, create).await?.json()?;
        sink.expect(who, text(&created, "secret"));
        endpoints.push((who, text(&created, "id").to_owned()));
    }
    Ok(endpoints)
}

/// How much room a storm may take: what PostgreSQL keeps of each payment, its log, the chain and everybody's logs.
fn expected_bytes(args: &Args) -> u64 {
    let by_time = args.duration.as_secs().max(args.faults as u64 * 4) * u64::from(args.rate);
    by_time.max(args.payments) * PAYMENT_BYTES + STAGE_BYTES
}

/// How long a payment takes in fair weather, alone.
async fn usual(field: &Field<'_>) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..5 {
        times.push(field.get_through(None).await?);
    }
    times.sort_unstable();
    Ok(times.get(2).copied().unwrap_or_default())
}

/// Whether a storm has time for faults that last minutes.
fn is_long(args: &Args) -> bool {
    args.duration >= LONG
}

/// Round after round until there were enough. False if it was interrupted, or its time was over.
async fn storm(args: &Args, seed: u64, field: &Field<'_>, report: &mut Report) -> Result<bool> {
    let world = field.world;
    let mut deck = Deck::new(seed, is_long(args), world.disk.is_some(), usize::from(args.at_once));
    let posted = || field.load.look(|book| book.orders.len() as u64);
    let is_enough = |report: &Report, deck: &Deck| {
        report.faults >= args.faults
            && report.began.elapsed() >= args.duration
            && posted() >= args.payments
            && (deck.is_through() || !is_long(args))
    };
    let interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let mut interrupted = interrupted.fuse();
    while !is_enough(report, &deck) {
        if let Some(outcome) = (&mut interrupted).now_or_never() {
            outcome?;
            println!("interrupted: what has been so far is judged");
            return Ok(false);
        }
        if args.at_most.is_some_and(|at_most| report.began.elapsed() >= at_most) {
            let missing = report.rows_not_struck();
            println!(
                "SKIPPED: rows {missing:?}; the time is over after {} faults of {}: what has been so far is judged",
                report.faults, args.faults
            );
            return Ok(false);
        }
        let round = if args.only.is_empty() { deck.round() } else { vec![deck.only(&args.only)?] };
        let names: Vec<String> = round.iter().map(Fault::class).collect();
        reconciliations::ask_beside(field.api, report.rounds).await;
        let struck = futures_util::future::try_join_all(round.iter().map(|fault| fault.strike(field)));
        let struck = struck.await.with_context(|| format!("in a round of {names:?}"))?;
        faults::heal(field).await?;
        let healed = Instant::now();
        let Ok(recovered) = tokio::time::timeout(RECOVERY_PATIENCE, field.get_through(None)).await else {
            bail!(
                "no payment completed within {RECOVERY_PATIENCE:?} after {names:?}; logs are in {}",
                world.home.join("logs").display()
            );
        };
        recovered?;
        let took = healed.elapsed();
        let outcomes: Vec<String> =
            names.iter().zip(&struck).map(|(name, struck)| outcome(name, struck)).collect();
        report.add(&round, struck, took);
        println!("{:>4} {:>6.1} s  {}", report.rounds, took.as_secs_f64(), outcomes.join(" + "));
        report.look(world).await;
    }
    Ok(true)
}

/// What became of a fault, for people.
fn outcome(name: &str, struck: &Struck) -> String {
    match struck.fault.as_ref().map(Fault::class) {
        Some(class) if class == name => class,
        Some(class) => format!("{name}, which became: {class}"),
        None => format!("{name}, which found nothing to spoil"),
    }
}

/// How often a process that came too late, after its lease, was refused.
fn stale_writes(home: &Path) -> Result<usize> {
    let mut count = 0;
    for log in std::fs::read_dir(home.join("logs"))? {
        let log = BufReader::new(File::open(log?.path())?);
        count += log
            .lines()
            .map_while(Result::ok)
            .filter(|line| line.contains("lost a lease to another worker"))
            .count();
    }
    Ok(count)
}

/// Starts again what has died by itself, as an operator's supervisor would, and reads the chain while it is there.
async fn keep(world: Arc<World>, witness: Arc<Witness>) {
    let mut clock = tokio::time::interval(Duration::from_millis(250));
    for turn in 0_u64.. {
        clock.tick().await;
        match world.revive().await {
            Ok(revived) => {
                for name in revived {
                    println!("     {name} had ended by itself and runs again");
                }
            }
            Err(error) => eprintln!("storm: {error:#}"),
        }
        if turn.is_multiple_of(40) {
            // A node that is down is read the next time.
            let _ = witness.read_on(&world, false).await;
        }
    }
}

/// Waits until no delivery is outstanding. One whose next attempt is minutes away, because the receiver failed it
/// twice, is asked for again, as an operator would.
async fn wait_webhooks(api: &Api, endpoints: &[(&'static str, String)]) -> Result<()> {
    let began = Instant::now();
    for (who, endpoint) in endpoints {
        for state in ["claimed", "pending"] {
            loop {
                let outstanding = deliveries(api, who, endpoint, state).await?;
                if outstanding.is_empty() || began.elapsed() > REST_PATIENCE {
                    break;
                }
                for delivery in outstanding.iter().filter(|_| state == "pending") {
                    let id = text(delivery, "id");
                    let path = format!("/v1/webhook-endpoints/{endpoint}/deliveries/{id}/redeliver");
                    let again = Call { who, method: &Method::POST, path: &path, key: None, body: None };
                    // One that is under way by now needs no asking.
                    let _ = api.call(0, again).await;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }
    Ok(())
}

/// A page of the deliveries to an endpoint that are in this state.
async fn deliveries(api: &Api, who: &'static str, endpoint: &str, state: &str) -> Result<Vec<Value>> {
    let path = format!("/v1/webhook-endpoints/{endpoint}/deliveries?state={state}&limit=100");
    Ok(oracle::list(&api.read(who, &path).await?, "data").to_vec())
}
