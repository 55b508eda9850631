//! The orchestrator: reads what chain and banks said, and what time has overtaken, and has the payments decide.
//!
//! It promises that each observation is taken into account exactly once, in order per payment: the offset moves in the
//! transaction that holds what the observations caused, and only under the lease. What cannot be taken in is parked with
//! its cause, its payment's later events queue up behind it, and everybody else's go on. A slice that the database
//! refuses is cut in half until the one item at fault stands alone.

use crate::context::{Context, IdleTurns, RESTING_POLL, RESTS_AFTER, Rhythm, Turn, Worker, chain, run_loop};
use crate::membership::Membership;
use crate::step::{Step, trace_id};
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::payment::State;
use flowbridge_domain::time::Timestamp;
use flowbridge_store::event_log::{self, Held, LoggedEvent, Offset, Reader, Resolution, topic};
use flowbridge_store::lifecycle::{self, Looked, Occurrence, Outcome};
use flowbridge_store::wake::Work;
use flowbridge_store::{Db, StoreError, Tx, observation, query};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The group whose offsets the orchestrator moves.
pub const GROUP: &str = "orchestrator";

/// How often a slice is tried whose payments somebody else moves meanwhile.
const OVERTAKEN_TRIES: usize = 5;

/// Limits of the orchestrator.
#[derive(Debug, Clone)]
pub struct OrchestratorSettings {
    /// Observations taken into one transaction at most.
    pub slice_max: i64,
    /// How often to look for work that nobody rang for.
    pub poll: Duration,
    /// How far apart turns are at least, so that slices fill.
    pub pace: Duration,
    /// How long a partition stays ours without renewal.
    pub lease: Duration,
    /// How often to look for payments that time has overtaken.
    pub timer_interval: Duration,
}

impl Default for OrchestratorSettings {
    fn default() -> Self {
        Self {
            slice_max: 1_000,
            poll: Duration::from_millis(100),
            pace: Duration::from_millis(10),
            lease: Duration::from_secs(5),
            timer_interval: Duration::from_millis(500),
        }
    }
}

/// Runs until told to stop.
pub async fn run(context: Context, settings: OrchestratorSettings, stop: CancellationToken) {
    tokio::join!(observe(&context, &settings, &stop), watch_the_time(&context, &settings, &stop));
}

async fn observe(context: &Context, settings: &OrchestratorSettings, stop: &CancellationToken) {
    let reader = Reader {
        group: GROUP,
        topics: &[topic::CHAIN, topic::BANK],
        owner: context.instance.clone(),
        lease: settings.lease,
    };
    let mut observer = Observer {
        context: context.clone(),
        settings: settings.clone(),
        membership: Membership::new(reader),
    };
    let rhythm = Rhythm {
        bell: Work::Observations,
        poll: settings.poll,
        rests_after: RESTS_AFTER,
        resting_poll: RESTING_POLL,
        pace: settings.pace,
    };
    run_loop("orchestrator", context, rhythm, stop, &mut observer).await;
    observer.membership.leave(context).await;
}

/// Reads the partitions that are ours.
struct Observer {
    context: Context,
    settings: OrchestratorSettings,
    membership: Membership,
}

impl Worker for Observer {
    /// A slice of all partitions that are ours, together: they meet at the ledger's accounts anyway, and one transaction
    /// of many payments costs little more than one of few.
    async fn turn(&mut self) -> Result<Turn, StoreError> {
        self.membership.keep(&self.context).await?;
        let now = self.context.now();
        let (reader, held) = (&self.membership.reader, self.membership.held());
        let moved = take_slice(&self.context, reader, held, self.settings.slice_max)
            .await
            .inspect_err(|_| self.membership.start_again(now))?;
        if moved.is_empty() {
            return Ok(Turn::Idle);
        }
        self.membership.moved(moved);
        Ok(Turn::Busy)
    }
}

/// Takes in one slice of the partitions held. Returns what moved, and where to.
async fn take_slice(
    context: &Context,
    reader: &Reader,
    held: &[Held],
    slice_max: i64,
) -> Result<Vec<(Held, Offset)>, StoreError> {
    if held.is_empty() {
        return Ok(vec![]);
    }
    let each = slice_max / i64::try_from(held.len()).unwrap_or(i64::MAX);
    let mut slice = event_log::read_held(&context.db, held, each.max(1)).await?;
    let moved: Vec<(Held, Offset)> = held
        .iter()
        .filter_map(|held| {
            let is_there =
                |event: &&LoggedEvent| event.topic == held.topic && event.partition == held.partition;
            Some((held.clone(), slice.iter().rev().find(is_there)?.offset))
        })
        .collect();
    if moved.is_empty() {
        return Ok(vec![]);
    }
    let read = slice.len();
    slice.retain(|event| !was_seen(held, event));
    if slice.len() < read {
        tracing::info!(
            events = read - slice.len(),
            "passed over what was taken in before the group was set back"
        );
    }
    let mut taken = take_in(context, reader, &moved, &slice, &[]).await;
    for _ in 1..OVERTAKEN_TRIES {
        if !matches!(taken, Err(StoreError::Overtaken)) {
            break;
        }
        taken = take_in(context, reader, &moved, &slice, &[]).await;
    }
    match taken {
        Ok(()) => {}
        Err(error) if is_of_all(&error) => return Err(error),
        Err(error) => {
            tracing::error!(
                events = slice.len(),
                error = chain(&error),
                "the database refused a slice; looking for the item at fault"
            );
            let occurrences: Vec<Occurrence> = slice.iter().filter_map(occurrence).collect();
            let at_fault = find_at_fault(context, &occurrences).await?;
            take_in(context, reader, &moved, &slice, &at_fault).await?;
        }
    }
    Ok(moved)
}

/// Was this event read before the group was set back? What the chain took back then has been put right since: said again, late, it
/// would send a payment to a person.
fn was_seen(held: &[Held], event: &LoggedEvent) -> bool {
    held.iter().any(|held| {
        event.topic == held.topic && event.partition == held.partition && event.offset <= held.seen
    })
}

/// One transaction: decide, write, park what has to be, move the offsets.
async fn take_in(
    context: &Context,
    reader: &Reader,
    moved: &[(Held, Offset)],
    slice: &[LoggedEvent],
    at_fault: &[(PaymentId, String)],
) -> Result<(), StoreError> {
    let now = context.now();
    let tx = context.db.begin().await?;
    let keys: Vec<PaymentId> = slice.iter().map(|event| event.key).collect();
    let mut parked = reader.parked_keys(&tx, &keys).await?;
    let mut letters: Vec<(&LoggedEvent, String)> = Vec::new();
    let mut occurrences = Vec::new();
    let mut sources = Vec::new();
    for event in slice {
        let cause = if parked.contains(&event.key) {
            Some("an earlier event of this payment is parked".to_owned())
        } else if let Some((_, cause)) = at_fault.iter().find(|(key, _)| *key == event.key) {
            Some(cause.clone())
        } else {
            match occurrence(event) {
                Some(decoded) => {
                    occurrences.push(decoded);
                    sources.push(event);
                    None
                }
                None => Some(format!("cannot be read as an observation: {}", event.kind)),
            }
        };
        if let Some(cause) = cause {
            parked.insert(event.key);
            letters.push((event, cause));
        }
    }
    let outcomes = lifecycle::apply(&tx, &occurrences, now).await?;
    for (event, outcome) in sources.iter().zip(&outcomes) {
        if *outcome == Outcome::UnknownPayment {
            letters.push((event, "there is no such payment".to_owned()));
        }
    }
    reader.park(&tx, &letters, now).await?;
    reader.advance(&tx, moved).await?;
    tx.commit().await?;
    announce(context, sources.iter().map(|event| Cause::of(event)), &outcomes);
    tell(&sources, &outcomes, context.now());
    for (event, cause) in letters {
        metrics::counter!("dead_letters_total", "group" => GROUP).increment(1);
        tracing::error!(payment.id = %event.key, trace_id = trace_id(&event.traceparent), event.kind = event.kind, cause, "parked an event; its payment waits for a person");
    }
    Ok(())
}

/// Tells what was taken in: from when chain or bank had said it.
fn tell(sources: &[&LoggedEvent], outcomes: &[Outcome], now: Timestamp) {
    for (event, outcome) in sources.iter().zip(outcomes) {
        let bank = if event.topic == topic::BANK { observation::bank(&event.data) } else { None };
        let step = Step {
            // The kinds of observations are a list of ours: what cannot be read was parked.
            name: &event.kind,
            outcome: match outcome {
                Outcome::Applied { .. } => "applied",
                Outcome::Rejected(_) => "without_effect",
                Outcome::UnknownPayment => "unknown_payment",
            },
            payment: event.key,
            traceparent: &event.traceparent,
            times: (event.recorded_at, now),
            bank: bank.as_deref(),
            attempt: None,
        };
        step.tell();
    }
}

/// What an event says; none where it cannot be read as an observation.
fn occurrence(event: &LoggedEvent) -> Option<Occurrence> {
    let decoded = observation::decode(&event.kind, &event.data)?;
    Some(Occurrence { payment_id: event.key, event: decoded })
}

/// An error that no single payment is at fault for: what was tried is to be tried again.
fn is_of_all(error: &StoreError) -> bool {
    error.is_retryable() || matches!(error, StoreError::Lost)
}

/// Tries halves in transactions that are rolled back, until the payments at fault stand alone.
async fn find_at_fault(
    context: &Context,
    occurrences: &[Occurrence],
) -> Result<Vec<(PaymentId, String)>, StoreError> {
    let mut by_payment: Vec<PaymentId> = occurrences.iter().map(|occurrence| occurrence.payment_id).collect();
    by_payment.sort_unstable();
    by_payment.dedup();
    let mut at_fault = Vec::new();
    let mut suspects = vec![by_payment];
    while let Some(mut payments) = suspects.pop() {
        let suspected: Vec<Occurrence> = occurrences
            .iter()
            .filter(|occurrence| payments.contains(&occurrence.payment_id))
            .copied()
            .collect();
        let tx = context.db.begin().await?;
        match lifecycle::apply(&tx, &suspected, context.now()).await {
            Ok(_) => tx.rollback().await?,
            Err(error) if error.is_retryable() => return Err(error),
            Err(error) => match payments.as_slice() {
                [alone] => at_fault.push((*alone, chain(&error))),
                _ => {
                    let other = payments.split_off(payments.len() / 2);
                    suspects.extend([payments, other]);
                }
            },
        }
    }
    Ok(at_fault)
}

async fn watch_the_time(context: &Context, settings: &OrchestratorSettings, stop: &CancellationToken) {
    let mut looked = Looked::default();
    let mut idle = IdleTurns::new();
    while !stop.is_cancelled() {
        match timers(context, &mut looked, settings.slice_max).await {
            Ok(Turn::Busy) => {
                idle = IdleTurns::new();
                continue;
            }
            Ok(Turn::Idle) => {}
            Err(StoreError::Overtaken) => continue,
            Err(error) => tracing::error!(error = chain(&error), "could not look for payments that are due"),
        }
        tokio::select! {
            () = tokio::time::sleep(idle.pause(settings.timer_interval, RESTS_AFTER, RESTING_POLL)) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Tells payments what time has overtaken them. One that the database refuses stays due, and stops nobody else's. What could not be
/// told is looked for again.
async fn timers(context: &Context, looked: &mut Looked, slice_max: i64) -> Result<Turn, StoreError> {
    let now = context.now();
    let mut further = *looked;
    let mut due = lifecycle::due(&context.db, &mut further, now, slice_max).await?;
    if due.is_empty() {
        *looked = further;
        return Ok(Turn::Idle);
    }
    let told = tell_the_time(context, &due, now).await;
    let outcomes = match told {
        Err(error) if !is_of_all(&error) => {
            let at_fault = find_at_fault(context, &due).await?;
            for (payment, cause) in &at_fault {
                tracing::error!(payment.id = %payment, cause, "the database refuses what time makes of a payment");
            }
            due.retain(|due| at_fault.iter().all(|(payment, _)| *payment != due.payment_id));
            tell_the_time(context, &due, now).await?
        }
        told => told?,
    };
    *looked = further;
    let overdue = due.iter().map(|due| Cause { payment: due.payment_id, kind: "timer", traceparent: "" });
    announce(context, overdue, &outcomes);
    // Rejections leave a payment due; going on at once would only find it again.
    let applied = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Applied { .. }));
    Ok(if applied { Turn::Busy } else { Turn::Idle })
}

async fn tell_the_time(
    context: &Context,
    due: &[Occurrence],
    now: Timestamp,
) -> Result<Vec<Outcome>, StoreError> {
    let tx = context.db.begin().await?;
    let outcomes = lifecycle::apply(&tx, due, now).await?;
    tx.commit().await?;
    Ok(outcomes)
}

/// What made a payment decide.
struct Cause<'a> {
    payment: PaymentId,
    kind: &'a str,
    traceparent: &'a str,
}

impl<'a> Cause<'a> {
    fn of(event: &'a LoggedEvent) -> Self {
        Self { payment: event.key, kind: &event.kind, traceparent: &event.traceparent }
    }
}

/// Rings for those who have work now, and counts.
fn announce<'a>(context: &Context, causes: impl Iterator<Item = Cause<'a>>, outcomes: &[Outcome]) {
    let mut entered_any = false;
    for (cause, outcome) in causes.zip(outcomes) {
        match outcome {
            Outcome::Applied { entered } => {
                for state in entered {
                    entered_any = true;
                    metrics::counter!("payments_total", "state" => state.as_str()).increment(1);
                    if let State::UnderReview(reason) = state {
                        tracing::warn!(
                            payment.id = %cause.payment,
                            trace_id = trace_id(cause.traceparent),
                            reason = reason.as_str(),
                            cause = cause.kind,
                            "a payment waits for a person"
                        );
                    }
                }
            }
            Outcome::Rejected(rejected) => {
                metrics::counter!("observations_without_effect_total", "why" => rejected.to_string())
                    .increment(1);
            }
            Outcome::UnknownPayment => {}
        }
    }
    context.wake.ring(Work::ChainEffects);
    context.wake.ring(Work::BankEffects);
    if entered_any {
        context.wake.ring(Work::PaymentEvents);
    }
}

/// Takes the dead letters of a payment in again, in order, in one transaction. Those that fail stay where they are.
pub async fn retry_letters(db: &Db, key: PaymentId, context: &Context) -> Result<usize, StoreError> {
    let now = context.now();
    let tx: Tx = db.begin().await?;
    let letters = event_log::lock_letters(&tx, GROUP, key).await?;
    let mut occurrences = Vec::new();
    for (_, event) in &letters {
        let Some(decoded) = observation::decode(&event.kind, &event.data) else {
            return Err(StoreError::Corrupt(format!("event {} cannot be read as an observation", event.id)));
        };
        occurrences.push(Occurrence { payment_id: event.key, event: decoded });
    }
    let outcomes = lifecycle::apply(&tx, &occurrences, now).await?;
    if outcomes.contains(&Outcome::UnknownPayment) {
        return Err(StoreError::Corrupt(format!("there is no payment {key}")));
    }
    let ids: Vec<_> = letters.iter().map(|(id, _)| *id).collect();
    event_log::resolve_letters(&tx, &ids, Resolution::Retried, now).await?;
    tx.commit().await?;
    announce(context, letters.iter().map(|(_, event)| Cause::of(event)), &outcomes);
    Ok(letters.len())
}

/// Drops the dead letters of a payment that is not here, for a reason that is kept: whoever has looked into them knows that nobody's
/// money is concerned. What chain and banks said of a payment of ours is not dropped: its books would not be those of the world.
pub async fn drop_letters(
    db: &Db,
    key: PaymentId,
    reason: &str,
    context: &Context,
) -> Result<Dropped, StoreError> {
    let tx: Tx = db.begin().await?;
    let letters = event_log::lock_letters(&tx, GROUP, key).await?;
    if query::payment_in(&tx, key).await?.is_some() {
        tx.rollback().await?;
        return Ok(Dropped::IsOurs);
    }
    let ids: Vec<_> = letters.iter().map(|(id, _)| *id).collect();
    event_log::resolve_letters(&tx, &ids, Resolution::Dropped(reason), context.now()).await?;
    tx.commit().await?;
    Ok(Dropped::All(ids.len()))
}

/// What became of letters that somebody wanted dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// So many are.
    All(usize),
    /// None: there is such a payment.
    IsOurs,
}
