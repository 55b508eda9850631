//! `flowbridge bench payments`: the whole path, from the request to the last webhook.

use super::cast::{ACCOUNTS_EACH, PARTICIPANTS, SLOW_HOLD, SlowHolds};
use super::journal::{Journal, Window};
use super::load::{Load, LoadArgs, Shape, Until};
use super::receiver::Receiver;
use super::report::{self, Figures, Progress};
use super::stack::{Stack, StackArgs};
use super::usage::{Origin, Processes};
use super::{past, per_second, proof};
use crate::clock::SystemClock;
use crate::commands::stop_signal;
use crate::roles::Role;
use anyhow::{Result, bail};
use clap::Args;
use flowbridge_domain::time::Clock as _;
use flowbridge_store::measure::{self, Counters};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// What the figures are called.
pub(super) const NAME: &str = "payments";

/// Of the target for one machine of two cores.
const RATE_DEFAULT: u32 = 1_000;
/// How long payments under way may go without any of them ending.
const STANDSTILL_MAX: Duration = Duration::from_secs(30);
/// How long `pgbench` runs.
const YARDSTICK: Duration = Duration::from_secs(5);
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct PaymentsArgs {
    #[command(flatten)]
    stack: StackArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    run: RunArgs,
    /// So many payments that ended in the days before, copied from real ones
    #[arg(long, value_name = "N", requires = "embedded")]
    prefill: Option<u64>,
}

/// How long, and how to tell.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// How long is measured, such as 60s
    #[arg(long, default_value = "60s", value_parser = super::duration)]
    pub(super) duration: Duration,
    /// How long the load lasts before that, until as many payments end as begin
    #[arg(long, default_value = "10s", value_parser = super::duration)]
    pub(super) warmup: Duration,
    /// Print one JSON object on the last line
    #[arg(long)]
    pub(super) json: bool,
    /// Leave out pgbench
    #[arg(long)]
    pub(super) no_yardstick: bool,
}

pub(super) async fn run(args: PaymentsArgs) -> Result<ExitCode> {
    let progress = Progress::start();
    progress.say("starting the stack, registering who takes part");
    let mut stack = Stack::open(&args.stack, &Role::ALL).await?;
    args.prefill.map_or(Ok(()), |wanted| past::require_room(&stack, wanted))?;
    let measured = tokio::select! {
        measured = Box::pin(measure_payments(&mut stack, &args, &progress)) => measured,
        () = stop_signal() => bail!("stopped before there was a figure"),
    };
    drop(progress);
    stack.close().await?;
    report::print(&measured?, args.run.json)
}

async fn measure_payments(stack: &mut Stack, args: &PaymentsArgs, progress: &Progress) -> Result<Figures> {
    let yardstick = super::yardstick_of(stack, &args.run, YARDSTICK, progress).await?;
    let past = match args.prefill {
        Some(wanted) => past::write(stack, wanted, progress).await?,
        None => 0,
    };
    let since = SystemClock.now();
    let run = format!("B{}", since.as_micros());
    let journal = Arc::new(Journal::new());
    let receiver = Receiver::start(stack, journal.clone(), &run).await?;
    let slow = SlowHolds::begin(&stack.config).await?;

    let shape = args.load.shape(Shape::Rate(RATE_DEFAULT));
    let load = Load::start(stack, &journal, &run, (shape, Until::Ended, args.load.seed))?;
    let span = watch(stack, &journal, &args.run, progress).await?;
    load.stop().await;
    drain(stack, &journal, progress).await?;
    slow.end().await?;

    progress.say("proving that nothing was lost");
    let mut faults = proof::of_ends(stack, &journal, since).await?;
    faults.none_of(receiver.unbelieved(), "webhooks had no valid signature");
    proof::of_conservation(stack, &mut faults).await?;
    receiver.end().await?;
    let window = journal.window(span.from, span.to);
    Ok(figures(stack, NAME, &span, (&window, &journal), faults.verdict())
        .await?
        .load(shape, args.load.seed)
        .past(past)
        .yardstick(yardstick))
}

/// What the kernel and the server counted between two instants.
pub(super) struct Span {
    pub(super) from: Duration,
    pub(super) to: Duration,
    cpu: BTreeMap<&'static str, Duration>,
    wal_bytes: i64,
    commits: i64,
    rss_bytes_max: u64,
}

/// Lets the load run, and looks at the counters before and after what is measured.
pub(super) async fn watch(
    stack: &mut Stack,
    journal: &Journal,
    args: &RunArgs,
    progress: &Progress,
) -> Result<Span> {
    let processes = stack.processes().await?;
    look_on(stack, journal, journal.now() + args.warmup, progress).await?;
    let (from, before) = (journal.now(), Snapshot::take(stack, &processes).await?);
    look_on(stack, journal, from + args.duration, progress).await?;
    let (to, after) = (journal.now(), Snapshot::take(stack, &processes).await?);
    let cpu = after.cpu.iter().map(|(name, used)| {
        let used_before = before.cpu.get(name).copied().unwrap_or_default();
        (*name, used.saturating_sub(used_before))
    });
    Ok(Span {
        from,
        to,
        cpu: cpu.collect(),
        wal_bytes: after.counters.wal_bytes - before.counters.wal_bytes,
        commits: after.counters.commits - before.counters.commits,
        rss_bytes_max: processes.rss_bytes_max(),
    })
}

struct Snapshot {
    cpu: BTreeMap<&'static str, Duration>,
    counters: Counters,
}

impl Snapshot {
    async fn take(stack: &Stack, processes: &Processes) -> Result<Self> {
        Ok(Self { cpu: processes.cpu(), counters: measure::counters(&stack.db).await? })
    }
}

/// Says how it goes until an instant.
async fn look_on(stack: &mut Stack, journal: &Journal, until: Duration, progress: &Progress) -> Result<()> {
    let mut before = (journal.now(), journal.counts());
    while journal.now() < until {
        tokio::time::sleep(LOOK_INTERVAL.min(until.saturating_sub(journal.now()))).await;
        stack.require_alive()?;
        let (now, counts) = (journal.now(), journal.counts());
        let (then, earlier) = before;
        let time = now.saturating_sub(then);
        progress.say(format!(
            "accepted {:.0}/s, ended {:.0}/s, {} under way, {} refused",
            per_second(counts.accepted - earlier.accepted, time),
            per_second(counts.ended - earlier.ended, time),
            counts.accepted - counts.ended,
            journal.refusals().len(),
        ));
        before = (now, counts);
    }
    Ok(())
}

/// Waits until everything that was accepted has ended and been told of.
pub(super) async fn drain(stack: &mut Stack, journal: &Journal, progress: &Progress) -> Result<()> {
    let mut least = (journal.open(), journal.now());
    loop {
        let open = journal.open();
        if open == 0 || journal.now().saturating_sub(least.1) > STANDSTILL_MAX {
            return Ok(());
        }
        if open < least.0 {
            least = (open, journal.now());
        }
        progress.say(format!("waiting for {open} payments to end"));
        stack.require_alive()?;
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Puts together what was measured.
pub(super) async fn figures(
    stack: &Stack,
    bench: &'static str,
    span: &Span,
    (window, journal): (&Window, &Journal),
    proof: String,
) -> Result<Figures> {
    let time = span.to.saturating_sub(span.from);
    let payments = if bench == NAME { window.completed + window.failed } else { window.accepted };
    let each = |total: f64| total / share(payments);
    let micros = |used: &Duration| used.as_secs_f64() * 1e6;
    Ok(Figures {
        bench,
        proof,
        completed_per_s: per_second(window.completed, time),
        accepted_per_s: per_second(window.accepted, time),
        declined_per_s: per_second(window.failed, time),
        accept_ms: window.accept,
        end_to_end_ms: window.end_to_end,
        decline_ms: window.decline,
        cpu_us_per_payment: span.cpu.iter().map(|(name, used)| (*name, each(micros(used)))).collect(),
        wal_bytes_per_payment: each(float(span.wal_bytes)),
        commits_per_payment: each(float(span.commits)),
        rss_bytes_max: span.rss_bytes_max,
        refused: journal.refusals().len(),
        load: String::new(),
        duration_s: time.as_secs_f64(),
        policy: policy(stack).await?,
        yardstick_tpc_b_per_s: None,
        origin: Origin::find()?,
    })
}

impl Figures {
    pub(super) fn load(mut self, shape: Shape, seed: u64) -> Self {
        self.load = format!("{shape}, seed {seed}");
        self
    }

    /// How many payments had ended before the run.
    fn past(mut self, payments: i64) -> Self {
        self.policy.insert("past_payments".to_owned(), payments.to_string());
        self
    }

    pub(super) fn yardstick(mut self, per_second: Option<f64>) -> Self {
        self.yardstick_tpc_b_per_s = per_second;
        self
    }
}

/// What the figure was measured under.
async fn policy(stack: &Stack) -> Result<BTreeMap<String, String>> {
    let config = &stack.config;
    let mut policy: BTreeMap<String, String> = measure::settings(&stack.db).await?.into_iter().collect();
    let mut add = |name: &str, value: String| policy.insert(name.to_owned(), value);
    add("chain.finality", config.chain.finality.clone());
    add("chain.batch_size_max", config.chain.batch_size_max.to_string());
    add("chain.batch_delay_ms", config.chain.batch_delay_ms.to_string());
    add("accounts", (ACCOUNTS_EACH * PARTICIPANTS.len()).to_string());
    add("declined", "5 %".to_owned());
    add("slow_holds", format!("1 % by {SLOW_HOLD:?}"));
    add("funding", "bank".to_owned());
    add("payout", "token".to_owned());
    if let Some(time) = stack.block_time() {
        add("block_time", format!("{time:?}"));
    }
    for switch in &stack.switches {
        if let Some((name, value)) = switch.split_once('=') {
            add(name, value.to_owned());
        }
    }
    Ok(policy)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn float(count: i64) -> f64 {
    count as f64
}

/// What a total is divided by; of no payments, the total itself.
fn share(payments: usize) -> f64 {
    per_second(payments.max(1), Duration::from_secs(1))
}
