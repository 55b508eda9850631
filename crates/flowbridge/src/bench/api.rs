//! `flowbridge bench api`: requests to pay, up to the answer. In a stack of its own nothing but the gateway runs.

use super::journal::Journal;
use super::load::{Load, LoadArgs, Shape, Until};
use super::payments::{self, RunArgs};
use super::report::{self, Progress};
use super::stack::{Stack, StackArgs};
use super::{cast, proof};
use crate::clock::SystemClock;
use crate::commands::stop_signal;
use crate::roles::Role;
use anyhow::{Result, bail};
use clap::Args;
use flowbridge_domain::time::Clock as _;
use flowbridge_store::{measure, monitor};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

const NAME: &str = "api";
/// Enough for slices to fill.
const CLIENTS_DEFAULT: u32 = 64;
const YARDSTICK: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(crate) struct ApiArgs {
    #[command(flatten)]
    stack: StackArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    run: RunArgs,
}

pub(super) async fn run(args: ApiArgs) -> Result<ExitCode> {
    let progress = Progress::start();
    progress.say("starting the gateway, registering who takes part");
    let mut stack = Stack::open(&args.stack, &[Role::Gateway]).await?;
    let measured = tokio::select! {
        measured = Box::pin(measure_api(&mut stack, &args, &progress)) => measured,
        () = stop_signal() => bail!("stopped before there was a figure"),
    };
    drop(progress);
    stack.close().await?;
    report::print(&measured?, args.run.json)
}

async fn measure_api(stack: &mut Stack, args: &ApiArgs, progress: &Progress) -> Result<report::Figures> {
    let yardstick = super::yardstick_of(stack, &args.run, YARDSTICK, progress).await?;
    let since = SystemClock.now();
    let run = format!("B{}", since.as_micros());
    let journal = Arc::new(Journal::new());
    let shape = args.load.shape(Shape::Clients(CLIENTS_DEFAULT));
    let load = Load::start(stack, &journal, &run, (shape, Until::Accepted, args.load.seed))?;
    let span = payments::watch(stack, &journal, &args.run, progress).await?;
    load.stop().await;

    // Nothing has moved yet: what can be proven is that what was acknowledged is there, once, and the ledger in balance.
    let mut faults = proof::Faults::default();
    let stored = measure::ends(&stack.db, &cast::participants(), since).await?.payments;
    let (stored, accepted) = (usize::try_from(stored).unwrap_or(usize::MAX), journal.counts().accepted);
    faults.equal(("stored payments", stored), ("accepted", accepted));
    let (_, imbalance) = monitor::waiting(&stack.db, SystemClock.now()).await?;
    faults.none_of(
        usize::try_from(imbalance.unsigned_abs()).unwrap_or(usize::MAX),
        "minor units out of balance",
    );
    let window = journal.window(span.from, span.to);
    Ok(payments::figures(stack, NAME, &span, (&window, &journal), faults.verdict())
        .await?
        .load(shape, args.load.seed)
        .yardstick(yardstick))
}
