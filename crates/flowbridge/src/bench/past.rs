//! `--prefill`: payments that ended in the days before, so that what is measured is a system that has been at work.

use super::journal::Journal;
use super::load::{Load, Shape, Until};
use super::proof::{self, Faults};
use super::receiver::Receiver;
use super::report::Progress;
use super::stack::Stack;
use crate::clock::SystemClock;
use anyhow::{Context as _, Result, ensure};
use flowbridge_domain::time::Clock as _;
use flowbridge_store::{Db, DbSettings, history, measure};
use std::sync::Arc;
use std::time::Duration;

/// Real payments, which the past is copied from.
const ORIGINALS: u32 = 200;
const SEED: u64 = 1;
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// What a payment takes on disk, with what PostgreSQL keeps of its own log meanwhile: measured, and rounded up.
const PAYMENT_BYTES: u64 = 20_000;
const LOG_BYTES: u64 = 2 << 30;

/// What statfs calls file systems that may compress what is written, which copies take to well.
const MAY_COMPRESS: [u64; 2] = [0x9123_683e /* btrfs */, 0x2fc1_2fc1 /* zfs */];

/// What copies shrink to there, at best.
const COMPRESSED: u64 = 6;

/// Fails if there is no room for so many payments, as far as can be seen before they are written.
pub(super) fn require_room(stack: &Stack, wanted: u64) -> Result<()> {
    let needed = wanted.saturating_mul(PAYMENT_BYTES).saturating_add(LOG_BYTES);
    let unseen = "cannot see how much room is left";
    let seen = rustix::fs::statvfs(&stack.folder).context(unseen)?;
    let free = seen.f_bavail.saturating_mul(seen.f_frsize);
    let kind = rustix::fs::statfs(&stack.folder).context(unseen)?.f_type;
    let may_compress = u64::try_from(kind).is_ok_and(|kind| MAY_COMPRESS.contains(&kind));
    let at_least = if may_compress { needed / COMPRESSED } else { needed };
    let giga = |bytes: u64| bytes.div_ceil(1 << 30);
    crate::commands::say(format_args!(
        "{wanted} payments take up to {} GB in {}, where {} are free{}",
        giga(needed),
        stack.folder.display(),
        giga(free),
        if may_compress { " before compression" } else { "" }
    ));
    ensure!(
        at_least <= free,
        "no room for a past of {wanted} payments: give another --folder, on a file system that compresses if need be, \
         or a smaller --prefill"
    );
    Ok(())
}

/// Lets some payments run through the stack and copies them into the days before. Returns how many were written.
pub(super) async fn write(stack: &mut Stack, wanted: u64, progress: &Progress) -> Result<i64> {
    progress.say("letting the payments run that the past is copied from");
    let since = SystemClock.now();
    let run = format!("P{}", since.as_micros());
    let journal = Arc::new(Journal::new());
    let receiver = Receiver::start(stack, journal.clone(), &run).await?;
    let load = Load::start(stack, &journal, &run, (Shape::Clients(ORIGINALS), Until::Ended, SEED))?;
    while journal.counts().accepted < ORIGINALS as usize {
        stack.require_alive()?;
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    load.stop().await;
    super::payments::drain(stack, &journal, progress).await?;
    receiver.end().await?;
    let mut faults = Faults::default();
    proof::of_conservation(stack, &mut faults).await?;
    ensure!(faults.verdict() == super::report::PROVEN, "before there is a past: {}", faults.verdict());
    let written = history::write(&stack.db, since, wanted, &|done| {
        progress.say(format!("writing the past: {done} of {wanted} payments"));
    })
    .await
    .context("the past could not be written")?;
    progress.say("adding the ledger up");
    let patient = DbSettings { statement_timeout: proof::CHECK_TIMEOUT, ..stack.config.database() };
    let ledger = measure::add_up_ledger(&Db::new(&patient)?).await?;
    ensure!(
        ledger.differing == 0 && ledger.imbalance == 0,
        "the past does not add up: {} balances are not the sum of their entries, {} minor units out of balance",
        ledger.differing,
        ledger.imbalance
    );
    Ok(written)
}
