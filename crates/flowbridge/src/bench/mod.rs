//! `flowbridge bench`: what this program does a second, on this machine, with everything on it.
//!
//! A run starts from institutions, accounts and banks, sends real signed-in requests, waits for the webhooks, and ends with
//! the proof that nothing was lost: ledger, chain and banks are equal, each payment ended once, each endpoint heard of it once.
//! A run that fails the proof has no figure and exit code 1. What was measured, and under which policy, is printed
//! with it.

mod api;
mod cast;
mod chain;
mod chain_stage;
mod idle;
mod journal;
mod ledger;
mod load;
mod past;
mod payments;
mod proof;
mod receiver;
mod reconciliation;
mod report;
mod stack;
mod usage;
mod watcher;
mod yardstick;

use crate::bench::payments::RunArgs;
use crate::bench::report::Progress;
use crate::bench::stack::Stack;
use anyhow::{Result, ensure};
use clap::Subcommand;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Payments from the request to the last webhook
    Payments(payments::PaymentsArgs),
    /// Transfers straight into the ledger
    Ledger(ledger::LedgerArgs),
    /// Payments through the transaction manager and the watcher alone
    Chain(chain::ChainArgs),
    /// The watcher alone, with everything that happened on the chain meanwhile before it
    Watcher(watcher::WatcherArgs),
    /// Requests to pay, up to the answer
    Api(api::ApiArgs),
    /// What a stack costs while nothing happens
    Idle(idle::IdleArgs),
    /// A day with everything a bank can do wrong, and whether the reconciliation finds it
    Reconciliation(reconciliation::ReconciliationArgs),
}

/// Runs a benchmark.
pub(crate) async fn run(command: BenchCommand) -> Result<ExitCode> {
    match command {
        BenchCommand::Payments(args) => payments::run(args).await,
        BenchCommand::Ledger(args) => ledger::run(args).await,
        BenchCommand::Chain(args) => chain::run(args).await,
        BenchCommand::Watcher(args) => watcher::run(args).await,
        BenchCommand::Api(args) => api::run(args).await,
        BenchCommand::Idle(args) => idle::run(args).await,
        BenchCommand::Reconciliation(args) => reconciliation::run(args).await,
    }
}

/// What `pgbench` does on the stack's server, unless it is not wanted or not installed.
async fn yardstick_of(
    stack: &Stack,
    args: &RunArgs,
    duration: Duration,
    progress: &Progress,
) -> Result<Option<f64>> {
    if args.no_yardstick {
        return Ok(None);
    }
    progress.say("measuring the yardstick: pgbench");
    yardstick::tpc_b(&stack.config.database.url, duration).await
}

/// Reads a duration such as `60s`, `500ms` or `2m`.
fn duration(text: &str) -> Result<Duration> {
    let read: jiff::SignedDuration = text.parse()?;
    ensure!(read.is_positive(), "a duration is positive, such as 60s");
    Ok(read.unsigned_abs())
}

/// So many a second; zero in no time.
#[expect(clippy::cast_precision_loss, reason = "a rate is a float, and no count comes near 2^53")]
fn per_second(count: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

/// A total shared out among so many; among none, the total itself.
#[expect(clippy::cast_precision_loss, reason = "a share is a float, and no count comes near 2^53")]
fn each(total: f64, count: usize) -> f64 {
    total / count.max(1) as f64
}
