//! Reconciliation on the running system: statements taken in, runs done, exceptions opened and explained.
//!
//! A run is a row that somebody, or the clock, has asked for. The role that knows the banks claims it under a lease, takes the
//! bank's statement in, reads both sides at one instant, lets the engine work outside any transaction, and writes all that it
//! found with the run's end, under the claim's fence: a run that is cut off leaves nothing, and is done again. A run decides
//! nothing about money: it opens exceptions, on which two people decide.

mod books;
mod chain;
mod cuts;
mod folder;
pub mod intake;
pub mod learning;
pub mod models;
mod policy;
mod run;

use crate::context::{
    Context, RESTING_POLL_OF_SLOW, RESTS_AFTER, Rhythm, Turn, Worker, chain as causes, run_loop,
};
use crate::place::Place;
use flowbridge_bank::registry::BankRegistry;
use flowbridge_domain::money::Currency;
use flowbridge_domain::party::BankCode;
use flowbridge_domain::time::Timestamp;
use flowbridge_store::reconciliation::{self as rows, ClaimedRun, Findings};
use flowbridge_store::wake::Work;
use flowbridge_store::{StoreError, breaker};
use run::{Compared, RunError};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Limits of reconciliation. See `config/default.toml`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How often to look for runs, for files, and at the clock.
    pub poll: Duration,
    /// How long a claim of a run lasts. Longer than the engine may take.
    pub lease: Duration,
    /// How often a run is begun before it counts as failed.
    pub attempts_max: i32,
    /// The pause before a run is tried again.
    pub retry: Duration,
    /// Records of each side in one run at most, and entries that it reads of a connector's statement; a run that was cut off is followed at
    /// once by the next, while that gets further.
    pub records_max: usize,
    /// Entries of one page of a connector's statement.
    pub page_entries_max: usize,
    /// Lines of one statement that a connector's entries are stored as.
    pub statement_lines_max: usize,
    /// Days that a bank whose statements have no instant may take before an entry is overdue.
    pub transit_days_max: i32,
    /// Threads of the engine.
    pub threads: usize,
    /// Suggested matches above this are never taken without a person.
    pub auto_minor_units_max: i128,
    /// Are likely matches first judged in silence, until people's own decisions have shown that the engine is worth asking?
    pub shadow_first: bool,
    /// How many in a million of the matches that are taken without a person are looked at all the same.
    pub audit_ppm: u32,
    /// Where models live that people taught; none: the shipped one judges.
    pub models: Option<PathBuf>,
    /// How far back payments are compared with the chain.
    pub chain_lookback: Duration,
    /// When in the night, in UTC, runs of the day before are asked for; none: never by themselves.
    pub nightly_at: Option<Duration>,
    /// Where files are dropped: a folder per bank; none: nowhere.
    pub folder: Option<Place>,
    /// Does a failed proof stop minting and payouts?
    pub breaker_pauses: bool,
    /// By how many minor units a reserve may differ without stopping anything.
    pub breaker_bears: BTreeMap<Currency, u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(1),
            lease: Duration::from_secs(600),
            attempts_max: 5,
            retry: Duration::from_secs(30),
            records_max: 1_000_000,
            page_entries_max: 1_000,
            statement_lines_max: 50_000,
            transit_days_max: 5,
            threads: 2,
            auto_minor_units_max: 1_000_000_000,
            shadow_first: false,
            audit_ppm: 15_000,
            models: None,
            chain_lookback: Duration::from_secs(2 * 24 * 3600),
            nightly_at: None,
            folder: None,
            breaker_pauses: true,
            breaker_bears: BTreeMap::new(),
        }
    }
}

/// Runs until told to stop: claims runs, one at a time, and takes in what is dropped. `connectors` are the banks whose
/// statements come from their connectors; those of the others come as files.
pub async fn run(
    context: Context,
    banks: Arc<BankRegistry>,
    connectors: Vec<BankCode>,
    settings: Settings,
    stop: CancellationToken,
) {
    let rhythm = Rhythm {
        bell: Work::Reconciliations,
        poll: settings.poll,
        rests_after: RESTS_AFTER,
        resting_poll: RESTING_POLL_OF_SLOW,
        pace: PACE,
    };
    let mut worker = Reconciler {
        context: context.clone(),
        banks,
        connectors,
        settings: settings.clone(),
        scopes: Vec::new(),
        shown_at: None,
    };
    let dropped = folder::watch(&context, &settings, &stop);
    let runs = run_loop("reconciliation", &context, rhythm, &stop, &mut worker);
    tokio::join!(runs, dropped);
}

/// Asks for the runs of each day when its night comes, until told to stop. Several may do so: a day is asked for once.
pub async fn schedule(context: Context, settings: Settings, stop: CancellationToken) {
    let Some(nightly_at) = settings.nightly_at else { return };
    while !stop.is_cancelled() {
        let now = context.now();
        if let Err(error) = ask_for_the_night(&context, nightly_at, now).await {
            tracing::error!(error = causes(&error), "could not ask for the nightly runs");
        }
        tokio::select! {
            () = tokio::time::sleep(settings.poll.max(CLOCK_POLL)) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// How often the clock is looked at: a night begins soon enough.
const CLOCK_POLL: Duration = Duration::from_secs(10);
/// How often what waits is shown, and what there is to reconcile is read anew.
const SHOWN_EVERY: Duration = Duration::from_secs(10);
/// How far apart looks for runs are at least.
const PACE: Duration = Duration::from_millis(100);
const DAY: Duration = Duration::from_secs(24 * 3600);

async fn ask_for_the_night(
    context: &Context,
    nightly_at: Duration,
    now: Timestamp,
) -> Result<(), StoreError> {
    let today = now.as_secs_down().rem_euclid(i64::try_from(DAY.as_secs()).unwrap_or(i64::MAX));
    if u64::try_from(today).unwrap_or(0) < nightly_at.as_secs() {
        return Ok(());
    }
    let day = intake::day(now.minus(DAY));
    let scopes = rows::scopes(&context.db).await?;
    let tx = context.db.begin().await?;
    let asked = rows::ask(&tx, &scopes, (true, &day), "schedule", now).await?;
    tx.commit().await?;
    for (scope, id) in asked {
        tracing::info!(reconciliation.id = %id, scope, day, "asked for the nightly run");
    }
    Ok(())
}

struct Reconciler {
    context: Context,
    banks: Arc<BankRegistry>,
    connectors: Vec<BankCode>,
    settings: Settings,
    /// What this process can do: its own banks, and the chain.
    scopes: Vec<String>,
    /// When they were read, and what waits was shown.
    shown_at: Option<Timestamp>,
}

impl Worker for Reconciler {
    async fn turn(&mut self) -> Result<Turn, StoreError> {
        let (now, owner) = (self.context.now(), self.context.instance.as_str());
        if self.shown_at.is_none_or(|at| now.since(at) >= SHOWN_EVERY) {
            self.show_waiting().await?;
            self.scopes = rows::scopes(&self.context.db).await?;
            self.scopes.retain(|scope| {
                scope.starts_with(chain::SCOPE)
                    || BankCode::parse(scope).is_ok_and(|bank| self.banks.get(&bank).is_some())
            });
            self.shown_at = Some(now);
        }
        let claimed = rows::claim(&self.context.db, &self.scopes, owner, now, self.settings.lease).await?;
        let Some(run) = claimed else {
            return Ok(Turn::Idle);
        };
        let began = self.context.now();
        let outcome = self.reconcile(&run).await;
        let (id, scope) = (run.id, run.scope.as_str());
        let seconds = self.context.now().since(began).as_secs_f64();
        metrics::histogram!("reconciliation_seconds", "scope" => run.scope.clone()).record(seconds);
        let result = match outcome {
            Ok(()) => "done",
            Err(RunError::Store(StoreError::Lost)) => return Err(StoreError::Lost),
            Err(error) => {
                let again_at = (run.attempts < self.settings.attempts_max)
                    .then(|| self.context.now().plus(self.settings.retry));
                let cause = causes(&error);
                tracing::warn!(reconciliation.id = %id, scope, attempt = run.attempts, error = cause, "a run did not succeed");
                rows::give_back(&self.context.db, &run, &cause, again_at, self.context.now()).await?;
                if again_at.is_some() { "again" } else { "failed" }
            }
        };
        metrics::counter!("reconciliations_total", "scope" => run.scope.clone(), "result" => result)
            .increment(1);
        Ok(Turn::Busy)
    }
}

impl Reconciler {
    async fn reconcile(&self, run: &ClaimedRun) -> Result<(), RunError> {
        let began = self.context.now();
        let Compared { findings, goes_on } = match run.scope.strip_prefix(chain::SCOPE) {
            Some(currency) => chain::compare(&self.context, run, currency, &self.settings).await?,
            None => {
                let code = BankCode::parse(&run.scope)
                    .map_err(|_| StoreError::Corrupt(format!("scope {} of run {}", run.scope, run.id)))?;
                let bank = self.banks.get(&code).filter(|_| self.connectors.contains(&code));
                run::reconcile(&self.context, run, (&code, bank.map(|bank| &**bank)), &self.settings).await?
            }
        };
        if goes_on {
            self.ask_for_the_rest(run).await?;
        }
        let before = rows::last_summaries(&self.context.db, &run.scope, cuts::LOOKS_BEFORE).await?;
        let now = self.context.now();
        if let Some(cause) = cuts::lasting(&before, &findings.summary) {
            // Before the run ends: whoever is killed in between does it again, and trips nothing twice. And only while it is ours: where
            // another has done it, what that one saw would count as the look before.
            rows::note_stage(&self.context.db, run, "tripping the breaker", now, self.settings.lease).await?;
            trip(&self.context, &self.settings, &format!("{}: {cause}", run.scope), began).await?;
        }
        let traceparent = traceparent();
        let changed = rows::finish(&self.context.db, run, &findings, &traceparent, now).await?;
        tell(run, &findings, changed);
        if !findings.is_whole && !goes_on {
            tracing::error!(
                scope = run.scope,
                records_max = self.settings.records_max,
                "more is open than a run may look at, and the next would get no further: nothing new is said to differ until some of it \
                 is settled, or [reconciliation] records_max raised"
            );
        }
        self.context.wake.ring(Work::ReconciliationEvents);
        Ok(())
    }

    /// Asked for before the run ends, and begun after it, as one scope has one run at a time: whoever is stopped in between leaves one too
    /// many, not one too few.
    async fn ask_for_the_rest(&self, run: &ClaimedRun) -> Result<(), StoreError> {
        let tx = self.context.db.begin().await?;
        let scope = std::slice::from_ref(&run.scope);
        rows::ask(&tx, scope, (false, &run.day), rows::CONTINUATION, self.context.now()).await?;
        tx.commit().await?;
        tracing::info!(reconciliation.id = %run.id, scope = run.scope, "a run was cut off; asked for the rest");
        Ok(())
    }

    async fn show_waiting(&self) -> Result<(), StoreError> {
        let now = self.context.now();
        for (kind, count, oldest) in rows::waiting(&self.context.db).await? {
            let oldest = oldest.map_or(0.0, |oldest| now.since(oldest).as_secs_f64());
            let what = if kind == "exception" { "exception" } else { "reconciliation" };
            metrics::gauge!("waiting", "what" => what, "kind" => kind.clone())
                .set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
            metrics::gauge!("waiting_oldest_seconds", "what" => what, "kind" => kind).set(oldest);
        }
        Ok(())
    }
}

fn traceparent() -> String {
    let mut random = [0_u8; 24];
    rand::fill(&mut random);
    flowbridge_api::trace::TraceParent::generate(random).to_string()
}

fn tell(run: &ClaimedRun, findings: &Findings, changed: rows::Changed) {
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    for found in &findings.exceptions {
        *kinds.entry(found.kind.as_str()).or_default() += 1;
    }
    for (kind, count) in kinds {
        metrics::counter!("reconciliation_breaks_total", "scope" => run.scope.clone(), "kind" => kind.to_owned())
            .increment(count);
    }
    run::alarm(&run.scope, &findings.summary);
    tracing::info!(
        reconciliation.id = %run.id,
        scope = run.scope,
        day = run.day,
        matches = findings.matches.len(),
        breaks = findings.exceptions.len(),
        opened = changed.opened,
        explained = changed.explained,
        "a run is done"
    );
}

/// Stops minting and payouts, or only says that they should be, and raises the alarm either way. `seen_at`: of when the oldest
/// evidence is.
pub(crate) async fn trip(
    context: &Context,
    settings: &Settings,
    cause: &str,
    seen_at: Timestamp,
) -> Result<(), StoreError> {
    metrics::counter!("breaker_trips_total").increment(1);
    if !settings.breaker_pauses {
        tracing::error!(
            cause,
            "the proof fails; minting and payouts go on, because [breaker] pauses is false"
        );
        return Ok(());
    }
    if breaker::trip(&context.db, cause, &context.instance, seen_at, context.now()).await? {
        tracing::error!(
            cause,
            "the proof fails: minting and payouts are stopped until two operators reset the breaker"
        );
    }
    Ok(())
}
