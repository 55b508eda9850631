//! `flowbridge bench idle`: what a stack costs while nothing happens, and by how much a day of that makes it grow.
//!
//! The chain goes on mining (a block every five seconds), the watcher goes on reading, leases are renewed, health is looked at.
//! Whatever grows without an event grows for ever, so what a day would add is told by part.

use super::report::Progress;
use super::stack::{Stack, StackArgs};
use super::usage::{self, Origin};
use crate::commands::{say, stop_signal};
use crate::roles::Role;
use anyhow::{Result, bail};
use clap::Args;
use flowbridge_store::measure;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// What all processes together may use of one processor.
const PERCENT_MAX: f64 = 2.0;
const DAY: Duration = Duration::from_secs(86_400);
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct IdleArgs {
    #[command(flatten)]
    stack: StackArgs,
    /// How long is measured, such as 60s
    #[arg(long, default_value = "60s", value_parser = super::duration)]
    duration: Duration,
    /// How long nothing happens before that
    #[arg(long, default_value = "30s", value_parser = super::duration)]
    warmup: Duration,
    /// Print one JSON object on the last line
    #[arg(long)]
    json: bool,
}

/// The figures of a run.
#[derive(Debug, Serialize)]
struct Figures {
    bench: &'static str,
    /// Of one processor, by process.
    cpu_percent: BTreeMap<&'static str, f64>,
    cpu_percent_total: f64,
    /// What a day like this would add, by part.
    grown_bytes_per_day: BTreeMap<&'static str, i64>,
    /// What lies in the folder, once the run is over.
    stored_bytes: BTreeMap<&'static str, u64>,
    duration_s: f64,
    #[serde(flatten)]
    origin: Origin,
}

pub(super) async fn run(mut args: IdleArgs) -> Result<ExitCode> {
    args.stack.keep_chain();
    let progress = Progress::start();
    progress.say("starting the stack");
    let mut stack = Stack::open(&args.stack, &Role::ALL).await?;
    let measured = tokio::select! {
        measured = Box::pin(measure_idle(&mut stack, &args, &progress)) => measured,
        () = stop_signal() => bail!("stopped before there was a figure"),
    };
    drop(progress);
    stack.close().await?;
    let figures = measured?;
    if args.json {
        say(serde_json::to_string(&figures)?)
    } else {
        table(&figures)
    }
    Ok(if figures.cpu_percent_total < PERCENT_MAX { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn measure_idle(stack: &mut Stack, args: &IdleArgs, progress: &Progress) -> Result<Figures> {
    let processes = stack.processes().await?;
    rest(stack, args.warmup, "nothing happens", progress).await?;
    let before = (processes.cpu(), stored(stack).await?);
    rest(stack, args.duration, "measuring that nothing happens", progress).await?;
    let after = (processes.cpu(), stored(stack).await?);
    let cpu_percent: BTreeMap<&'static str, f64> = after
        .0
        .iter()
        .filter(|(name, _)| **name != usage::CLIENT)
        .map(|(name, used)| {
            let used = used.saturating_sub(before.0.get(name).copied().unwrap_or_default());
            (*name, 100.0 * used.as_secs_f64() / args.duration.as_secs_f64())
        })
        .collect();
    let days = DAY.as_secs_f64() / args.duration.as_secs_f64();
    Ok(Figures {
        bench: "idle",
        cpu_percent_total: cpu_percent.values().sum(),
        cpu_percent,
        grown_bytes_per_day: after
            .1
            .iter()
            .map(|(name, bytes)| (*name, a_day(bytes.cast_signed() - before.1[name].cast_signed(), days)))
            .collect(),
        stored_bytes: after.1,
        duration_s: args.duration.as_secs_f64(),
        origin: Origin::find()?,
    })
}

async fn rest(stack: &mut Stack, time: Duration, what: &str, progress: &Progress) -> Result<()> {
    let end = tokio::time::Instant::now() + time;
    progress.say(what);
    while tokio::time::Instant::now() < end {
        stack.require_alive()?;
        tokio::time::sleep_until(end.min(tokio::time::Instant::now() + LOOK_INTERVAL)).await;
    }
    Ok(())
}

/// What is kept, by part. PostgreSQL's own log of changes is recycled, and is left out.
async fn stored(stack: &Stack) -> Result<BTreeMap<&'static str, u64>> {
    Ok(BTreeMap::from([
        ("chain", size_of(&stack.folder.join("chain"))),
        ("database", measure::database_bytes(&stack.db).await?.cast_unsigned()),
        ("logs", logs_in(&stack.folder)),
    ]))
}

fn size_of(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .filter_map(|file| {
            let about = file.metadata().ok()?;
            Some(if about.is_dir() { size_of(&file.path()) } else { about.len() })
        })
        .sum()
}

fn logs_in(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .filter(|file| file.path().extension().is_some_and(|ending| ending == "log"))
        .filter_map(|file| Some(file.metadata().ok()?.len()))
        .sum()
}

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "an estimate for people")]
fn a_day(bytes: i64, days: f64) -> i64 {
    (bytes as f64 * days) as i64
}

fn table(figures: &Figures) {
    let line = |name: &str, value: String| say(format_args!("  {name:<22}{value}"));
    say(format_args!("\nidle for {:.0} s", figures.duration_s));
    for (name, percent) in &figures.cpu_percent {
        line(name, format!("{percent:.2} % of a processor"));
    }
    line("in all", format!("{:.2} %, {PERCENT_MAX} asked", figures.cpu_percent_total));
    for (name, bytes) in &figures.grown_bytes_per_day {
        line(name, format!("{:.1} MB more a day", megabytes(*bytes)));
    }
    for (name, value) in figures.origin.lines() {
        line(name, value);
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn megabytes(bytes: i64) -> f64 {
    bytes as f64 / 1e6
}
