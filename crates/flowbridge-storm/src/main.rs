//! `cargo xtask storm`: the whole system as real processes under load, while everything around it is killed, and
//! afterwards the question whether any money was created or lost.
//!
//! A round lets one to three faults happen at the same time, makes them good, and measures how long it takes until a payment
//! posted after that completes. Rounds follow each other until there were enough faults; load goes on all the time.
//! Then everything comes to rest and the oracle judges. The seed repeats the faults and the payments; how the machine
//! interleaves them is its own affair.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for people and CI, on a terminal")]

mod api;
mod faults;
mod load;
mod named;
mod oracle;
mod process;
mod proxy;
mod sink;
mod world;

use crate::api::{Api, Call};
use crate::load::Load;
use crate::oracle::{Baseline, Evidence, Witness, text};
use crate::sink::Sink;
use crate::world::World;
use anyhow::{Context as _, Result, bail};
use clap::Parser;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use reqwest::Method;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long a payment posted in fair weather may take before the system counts as not recovered.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(90);
/// How long everything may take to come to its end once the storm is over.
const REST_PATIENCE: Duration = Duration::from_secs(120);

/// Violations of one invariant that are printed.
const SHOWN_MAX: usize = 6;

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
    /// Go on at least this long, seconds
    #[arg(long, default_value_t = 0)]
    duration: u64,
    /// The program under test: a debug build, or one with the feature `failpoints`
    #[arg(long)]
    binary: PathBuf,
    /// Where data and logs go; emptied first
    #[arg(long)]
    folder: PathBuf,
    /// Instead of a storm: each fault by name, one after the other, and what comes of it
    #[arg(long)]
    named: bool,
    /// With `--named`: only those whose name contains this
    #[arg(long, default_value = "", requires = "named")]
    only: String,
    /// Print one JSON object on the last line
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
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
    let (world, api) = set_up(args, &named::SETTINGS).await?;
    let is_good = named::run(&world, &api, &args.only).await?;
    if !is_good {
        println!("logs are in {}", world.home.join("logs").display());
    }
    world.stop().await?;
    Ok(is_good)
}

async fn set_up(args: &Args, settings: &[(&str, &str)]) -> Result<(World, Api)> {
    if args.folder.exists() {
        std::fs::remove_dir_all(&args.folder)?;
    }
    std::fs::create_dir_all(&args.folder)?;
    let home = args.folder.canonicalize()?;
    let world = World::start(&args.binary.canonicalize()?, &home, settings).await?;
    let gateways = world.gateway_lines.each_ref().map(|line| format!("http://{}", line.authority()));
    let api = Api::new(&home, &world.issuer, gateways)?;
    Ok((world, api))
}

async fn storm_and_judge(args: &Args) -> Result<bool> {
    let seed = args.seed.unwrap_or_else(|| rand::random_range(1..1_000_000));
    println!("storm with seed {seed}: {} faults at least, {} payments/s", args.faults, args.rate);
    println!("I11 and I12 are not judged: there is no audit log and no reconciliation yet");
    println!("PostgreSQL's disk is not filled: that needs a file system of its own");
    let (world, api) = set_up(args, &[]).await?;
    let (world, api, home) = (Arc::new(world), Arc::new(api), args.folder.canonicalize()?);
    let sink = Sink::start().await?;
    let mut endpoints = Vec::new();
    for who in ["alpha", "beta"] {
        let body = json!({ "url": sink.url(who) });
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
    let baseline = Baseline::take(&world, &api).await?;
    let witness = Arc::new(Witness::new(&world).await?);
    let load = Load::new(api.clone(), &home.join("acknowledged.jsonl"), seed)?;
    let (stop, stopped) = watch::channel(false);
    let posting = tokio::spawn(load.clone().run(args.rate, stopped));
    let keeper = tokio::spawn(keep(world.clone(), witness.clone()));

    let began = Instant::now();
    let weather = storm(args, seed, &world, &api, &sink, &load).await?;
    println!("the storm is over after {:.0} s; everything comes to rest", began.elapsed().as_secs_f64());
    stop.send_replace(true);
    faults::heal(&world, &sink).await?;
    posting.await??;
    let (payments, rest) = oracle::wait_all_ended(&api, REST_PATIENCE).await?;
    wait_webhooks(&api, &endpoints).await?;
    keeper.abort();
    let book = load.look(std::mem::take);
    let evidence = Evidence { baseline: &baseline, witness: &witness, sink: &sink, book: &book };
    let verdict = oracle::judge(&world, &api, &evidence, &payments).await?;

    println!(
        "\n{:<34} {:>6} {:>9} {:>9} {:>9}",
        "fault (recovery when alone)", "times", "alone", "median s", "most s"
    );
    let mut most = Duration::ZERO;
    for (class, seen) in &weather.classes {
        let mut alone = seen.alone.clone();
        alone.sort_unstable();
        let shown = |time: Option<&Duration>| {
            time.map_or("-".to_owned(), |time| format!("{:.1}", time.as_secs_f64()))
        };
        println!(
            "{class:<34} {:>6} {:>9} {:>9} {:>9}",
            seen.times,
            alone.len(),
            shown(alone.get(alone.len() / 2)),
            shown(alone.last())
        );
        most = most.max(alone.last().copied().unwrap_or_default());
    }
    println!(
        "\n{} faults in {} rounds, {} payments ({} completed, {} failed), {} events, {} deliveries, {} requests of which {} had to be repeated; at rest after {:.1} s",
        weather.faults,
        weather.rounds,
        verdict.payments,
        verdict.completed,
        verdict.failed,
        verdict.events,
        sink.deliveries(),
        book.tries,
        book.failed_tries,
        rest.as_secs_f64()
    );
    let mut shown: BTreeMap<&str, usize> = BTreeMap::new();
    for violation in &verdict.violations {
        let count = shown.entry(violation.get(..3).unwrap_or_default()).or_default();
        *count += 1;
        if *count <= SHOWN_MAX {
            println!("  VIOLATED {violation}");
        }
    }
    let is_kept = verdict.violations.is_empty();
    println!(
        "{}",
        if is_kept {
            "0 lost, 0 doubled, 0 stuck: every invariant holds".to_owned()
        } else {
            format!("{} violations; logs are in {}", verdict.violations.len(), home.join("logs").display())
        }
    );
    if args.json {
        println!(
            "{}",
            json!({
                "seed": seed, "faults": weather.faults, "rounds": weather.rounds, "payments": verdict.payments,
                "completed": verdict.completed, "failed": verdict.failed, "events": verdict.events,
                "recovery_s_max": most.as_secs_f64(), "rest_s": rest.as_secs_f64(),
                "memory_bytes_max": weather.memory_max, "violations": verdict.violations.len(),
            })
        );
    }
    let world = Arc::into_inner(world).context("somebody still holds the world")?;
    world.stop().await?;
    Ok(is_kept)
}

/// What the storm was like.
#[derive(Debug, Default)]
struct Weather {
    faults: usize,
    rounds: u64,
    classes: BTreeMap<String, Seen>,
    memory_max: u64,
}

#[derive(Debug, Default)]
struct Seen {
    times: usize,
    /// Recovery times of rounds in which it was the only fault.
    alone: Vec<Duration>,
}

async fn storm(
    args: &Args,
    seed: u64,
    world: &Arc<World>,
    api: &Api,
    sink: &Sink,
    load: &Load,
) -> Result<Weather> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut weather = Weather::default();
    let began = Instant::now();
    while weather.faults < args.faults || began.elapsed() < Duration::from_secs(args.duration) {
        let round = faults::draw_round(&mut rng);
        let names: Vec<String> = round.iter().map(faults::Fault::class).collect();
        weather.rounds += 1;
        weather.faults += round.len();
        let struck = round.iter().map(|fault| fault.strike(world, sink));
        futures_util::future::try_join_all(struck)
            .await
            .with_context(|| format!("in a round of {names:?}"))?;
        faults::heal(world, sink).await?;
        let healed = Instant::now();
        let recovered = tokio::time::timeout(RECOVERY_PATIENCE, recover(api, load, weather.rounds)).await;
        let Ok(recovered) = recovered else {
            bail!(
                "no payment completed within {RECOVERY_PATIENCE:?} after {names:?}; logs are in {}",
                world.home.join("logs").display()
            );
        };
        recovered?;
        let took = healed.elapsed();
        println!("{:>4} {:>6.1} s  {}", weather.rounds, took.as_secs_f64(), names.join(" + "));
        for name in &names {
            let seen = weather.classes.entry(name.clone()).or_default();
            seen.times += 1;
            if names.len() == 1 {
                seen.alone.push(took);
            }
        }
        for process in &world.processes {
            weather.memory_max = weather.memory_max.max(process.lock().await.memory_max());
        }
    }
    Ok(weather)
}

/// A payment posted in fair weather, to its end.
async fn recover(api: &Api, load: &Load, number: u64) -> Result<()> {
    let id = load.probe(number).await?;
    loop {
        let payment = api.read("operator", &format!("/v1/payments/{id}")).await?;
        if matches!(text(&payment, "state"), "completed" | "failed") {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
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
                let path = format!("/v1/webhook-endpoints/{endpoint}/deliveries?state={state}&limit=100");
                let page = api.read(who, &path).await?;
                let outstanding = oracle::list(&page, "data");
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
