//! `flowbridge bench ledger`: transfers straight into the ledger, through the function that payments go through.
//!
//! Always on a PostgreSQL of its own: an entry is there for ever, and transfers that belong to no payment have no place in a
//! ledger that means something.

use super::report::{PROVEN, Progress};
use super::usage::Origin;
use super::{per_second, proof, yardstick};
use crate::clock::SystemClock;
use crate::commands::{say, stop_signal};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use flowbridge_domain::id::{AccountId, PaymentId};
use flowbridge_domain::ledger::{JournalEntry, LedgerAccount, Moment};
use flowbridge_domain::money::{Currency, Money};
use flowbridge_domain::time::{Clock as _, Timestamp};
use flowbridge_embedded::EmbeddedPostgres;
use flowbridge_store::{Db, DbSettings, ledger, measure};
use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

const CURRENCY: &str = "EUR";
const YARDSTICK: Duration = Duration::from_secs(5);
/// The check adds up millions of rows.
const CHECK_TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Debug, Args)]
pub(crate) struct LedgerArgs {
    /// Accounts that transfers are between, drawn uniformly
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..))]
    accounts: u32,
    /// Transfers in one commit
    #[arg(long, value_name = "N", default_value_t = 8_000, value_parser = clap::value_parser!(u32).range(1..))]
    slice: u32,
    /// Slices under way at the same time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: u32,
    /// How long is measured, such as 20s
    #[arg(long, default_value = "20s", value_parser = super::duration)]
    duration: Duration,
    /// What accounts and amounts are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A PostgreSQL of its own in a temporary folder; there is no other way
    #[arg(long)]
    embedded: bool,
    /// Print one JSON object on the last line
    #[arg(long)]
    json: bool,
    /// Leave out pgbench
    #[arg(long)]
    no_yardstick: bool,
}

/// The figures: rates per second, latencies of a slice in milliseconds.
#[derive(Debug, Serialize)]
struct Figures {
    bench: &'static str,
    proof: String,
    transfers_per_s: f64,
    slice_ms_p50: f64,
    slice_ms_p99: f64,
    accounts: u32,
    slice: u32,
    concurrency: u32,
    duration_s: f64,
    wal_bytes_per_transfer: f64,
    settings: BTreeMap<String, String>,
    yardstick_tpc_b_per_s: Option<f64>,
    #[serde(flatten)]
    origin: Origin,
}

pub(super) async fn run(args: LedgerArgs) -> Result<ExitCode> {
    let progress = Progress::start();
    progress.say("starting a private PostgreSQL");
    let folder = tempfile::Builder::new()
        .prefix("flowbridge-bench-")
        .permissions(Permissions::from_mode(0o711))
        .tempdir()?;
    let path = folder.path().to_owned();
    let server = tokio::task::spawn_blocking(move || EmbeddedPostgres::start(&path, None)).await??;
    let url = server.url();
    let measured = tokio::select! {
        measured = Box::pin(measure_ledger(&args, &url, &progress)) => measured,
        () = stop_signal() => bail!("stopped before there was a figure"),
    };
    drop(progress);
    tokio::task::spawn_blocking(move || drop((server, folder))).await?;
    print(&measured?, args.json)
}

async fn measure_ledger(args: &LedgerArgs, url: &str, progress: &Progress) -> Result<Figures> {
    let settings = DbSettings { statement_timeout: CHECK_TIMEOUT, ..DbSettings::new(url) };
    let db = Db::new(&settings)?;
    db.migrate().await?;
    let yardstick = if args.no_yardstick {
        None
    } else {
        progress.say("measuring the yardstick: pgbench");
        yardstick::tpc_b(url, YARDSTICK).await?
    };
    let accounts: Arc<[LedgerAccount]> = (0..args.accounts)
        .map(|n| {
            let mut random = [0; 10];
            random.iter_mut().zip(n.to_be_bytes()).for_each(|(place, byte)| *place = byte);
            LedgerAccount::Wallet(AccountId::generate(Timestamp::EPOCH, random))
        })
        .collect();
    open_accounts(&db, &accounts).await?;
    progress.say(format!("posting in slices of {}", args.slice));
    let opened = measure::add_up_ledger(&db).await?.entries;
    let before = measure::counters(&db).await?;
    let began = Instant::now();
    let posters: Vec<_> = (0..args.concurrency)
        .map(|place| {
            let poster = Poster {
                db: db.clone(),
                accounts: accounts.clone(),
                slice: args.slice,
                random: StdRng::seed_from_u64(args.seed.wrapping_add(u64::from(place))),
                until: began + args.duration,
            };
            tokio::spawn(poster.run())
        })
        .collect();
    let mut latencies = Histogram::<u64>::new_with_bounds(1, 600_000_000, 3)?;
    let mut transfers = 0;
    for poster in posters {
        let posted = poster.await??;
        transfers += posted.transfers;
        latencies.add(posted.latencies)?;
    }
    let time = began.elapsed();
    let after = measure::counters(&db).await?;

    progress.say("adding the ledger up");
    let state = measure::add_up_ledger(&db).await?;
    let count = |count: i64| usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
    let mut faults = proof::Faults::default();
    faults.equal(("entries stored", count(state.entries - opened)), ("posted", transfers));
    faults.none_of(count(state.differing), "balances are not the sum of their entries");
    faults.none_of(count(state.imbalance), "minor units out of balance");
    faults.none_of(usize::from(!measure::entries_are_immutable(&db).await?), "entry could be changed");
    let ms = |micros: u64| Duration::from_micros(micros).as_secs_f64() * 1_000.0;
    let wal = usize::try_from(after.wal_bytes - before.wal_bytes).unwrap_or(0);
    Ok(Figures {
        bench: "ledger",
        proof: faults.verdict(),
        transfers_per_s: per_second(transfers, time),
        slice_ms_p50: ms(latencies.value_at_quantile(0.5)),
        slice_ms_p99: ms(latencies.value_at_quantile(0.99)),
        accounts: args.accounts,
        slice: args.slice,
        concurrency: args.concurrency,
        duration_s: time.as_secs_f64(),
        wal_bytes_per_transfer: per_second(wal, Duration::from_secs(1))
            / per_second(transfers.max(1), Duration::from_secs(1)),
        settings: measure::settings(&db).await?.into_iter().collect(),
        yardstick_tpc_b_per_s: yardstick,
        origin: Origin::find()?,
    })
}

/// Every account gets a first entry, so that none is opened while the clock runs.
async fn open_accounts(db: &Db, accounts: &[LedgerAccount]) -> Result<()> {
    let now = SystemClock.now();
    let amount = Money::new(1, Currency::parse(CURRENCY)?);
    for some in accounts.chunks(1_000) {
        let entries: Vec<(Uuid, JournalEntry)> = some
            .iter()
            .map(|account| (source(now), entry(LedgerAccount::Suspense, account.clone(), amount)))
            .collect();
        ledger::post_slice(db, &entries, now).await?;
    }
    Ok(())
}

fn source(now: Timestamp) -> Uuid {
    PaymentId::generate(now, rand::random()).as_uuid()
}

fn entry(debit: LedgerAccount, credit: LedgerAccount, amount: Money) -> JournalEntry {
    JournalEntry { moment: Moment::CustodyTransfer, round: 0, debit, credit, amount }
}

struct Poster {
    db: Db,
    accounts: Arc<[LedgerAccount]>,
    slice: u32,
    random: StdRng,
    until: Instant,
}

struct Posted {
    transfers: usize,
    latencies: Histogram<u64>,
}

impl Poster {
    async fn run(mut self) -> Result<Posted> {
        let currency = Currency::parse(CURRENCY)?;
        let mut posted = Posted { transfers: 0, latencies: Histogram::new_with_bounds(1, 600_000_000, 3)? };
        while Instant::now() < self.until {
            let now = SystemClock.now();
            let entries: Vec<(Uuid, JournalEntry)> = (0..self.slice)
                .map(|_| Ok((source(now), self.transfer(currency)?)))
                .collect::<Result<_>>()?;
            let began = Instant::now();
            ledger::post_slice(&self.db, &entries, now).await?;
            posted.latencies.saturating_record(u64::try_from(began.elapsed().as_micros())?);
            posted.transfers += entries.len();
        }
        Ok(posted)
    }

    fn transfer(&mut self, currency: Currency) -> Result<JournalEntry> {
        let count = self.accounts.len();
        let debit = self.random.random_range(0..count);
        let credit = (debit + self.random.random_range(1..count)) % count;
        let account = |place: usize| self.accounts.get(place).cloned().context("no such account");
        let amount = Money::new(self.random.random_range(1..10_000), currency);
        Ok(entry(account(debit)?, account(credit)?, amount))
    }
}

fn print(figures: &Figures, as_json: bool) -> Result<ExitCode> {
    if as_json {
        say(serde_json::to_string(figures)?);
    } else {
        let line = |name: &str, value: String| say(format_args!("  {name:<22}{value}"));
        say(format_args!(
            "\nledger for {:.0} s: {} accounts, slices of {}, {} at a time",
            figures.duration_s, figures.accounts, figures.slice, figures.concurrency
        ));
        if figures.proof != PROVEN {
            say(format_args!("  THE PROOF FAILED: {}\n  What follows is no figure.", figures.proof));
        }
        line("transfers", format!("{:.0}/s", figures.transfers_per_s));
        line("slice", format!("p50 {:.1}  p99 {:.1} ms", figures.slice_ms_p50, figures.slice_ms_p99));
        line("write-ahead log", format!("{:.0} bytes per transfer", figures.wal_bytes_per_transfer));
        if let Some(tpc_b) = figures.yardstick_tpc_b_per_s {
            line("pgbench TPC-B", format!("{tpc_b:.0} transactions/s on the same server"));
        }
        line("proof", figures.proof.clone());
        for (name, value) in figures.origin.lines() {
            line(name, value);
        }
        let settings: Vec<String> =
            figures.settings.iter().map(|(name, value)| format!("{name} {value}")).collect();
        line("settings", settings.join(", "));
    }
    Ok(if figures.proof == PROVEN { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
