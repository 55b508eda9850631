//! The nightly schedule: every bank and currency once for each day, not before the hour, however often it is started.

use crate::reconciliation::{done, nothing_waits};
use crate::stage::{Shape, Stage, Tuning};
use flowbridge_bank::registry::{BankRegistry, GuardConfig};
use flowbridge_domain::time::{Clock, ManualClock, Timestamp};
use flowbridge_store::reconciliation as runs;
use flowbridge_workers::context::Context;
use flowbridge_workers::reconciliation::{self, Settings};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// 2026-11-28, counted from 1970-01-01.
const FIRST_DAY: i64 = 20_785;
const DAY: Duration = Duration::from_secs(24 * 3_600);
const CHAIN: &str = "chain:EUR";
const SCOPES: [&str; 3] = ["alpha", "beta", CHAIN];

/// A clock that is looked at once: whoever does so is told to stop after that.
#[derive(Debug)]
struct OneLook {
    at: Timestamp,
    stop: CancellationToken,
}

impl Clock for OneLook {
    fn now(&self) -> Timestamp {
        self.stop.cancel();
        self.at
    }
}

/// Days after the first, hours and minutes.
fn at(days: i64, hours: i64, minutes: i64) -> Timestamp {
    Timestamp::from_secs(((FIRST_DAY + days) * 24 + hours) * 3_600 + minutes * 60)
}

/// Starts the schedule, lets it look at the clock once, and stops it.
async fn look(stage: &Stage, at: Timestamp, nightly_at: Option<Duration>) {
    let stop = CancellationToken::new();
    let clock = Arc::new(OneLook { at, stop: stop.clone() });
    let context = Context { clock, ..stage.context.clone() };
    reconciliation::schedule(context, Settings { nightly_at, ..Settings::default() }, stop).await;
}

/// The days that runs were asked for by the clock, each with its scopes.
async fn nights(stage: &Stage) -> Vec<(String, Vec<String>)> {
    let nights =
        "select day::text, array_agg(scope order by scope) from reconciliation where kind = 'nightly'
        group by day order by day";
    let rows = stage.sql.query(nights, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_day_is_asked_for_once_and_one_that_was_slept_through_is_left_to_the_next() {
    let stage = Stage::tuned(vec![], Tuning { chain: false, others: false, ..Tuning::default() }).await;
    let one = Some(Duration::from_secs(3_600));
    let mut wanted: Vec<(String, Vec<String>)> = Vec::new();
    let mut told = |day: &str| {
        wanted.push((day.to_owned(), SCOPES.map(str::to_owned).to_vec()));
        wanted.clone()
    };

    look(&stage, at(0, 2, 0), None).await;
    look(&stage, at(0, 0, 59), one).await;
    assert!(nights(&stage).await.is_empty(), "not when nobody wants it, and not before the hour");
    look(&stage, at(0, 1, 0), one).await;
    let first = told("2026-11-27");
    assert_eq!(nights(&stage).await, first, "each bank and currency, for the day before");
    for again in [at(0, 1, 0), at(0, 23, 59), at(1, 0, 59)] {
        look(&stage, again, one).await;
    }
    assert_eq!(nights(&stage).await, first, "started anew, it asks for nothing twice");

    // At the hour it was down.
    tokio::join!(look(&stage, at(1, 15, 0), one), look(&stage, at(1, 15, 0), one));
    assert_eq!(nights(&stage).await, told("2026-11-28"), "later on the day, and once though two look");
    // It was down for two days altogether.
    look(&stage, at(4, 1, 1), one).await;
    assert_eq!(nights(&stage).await, told("2026-12-01"), "what was not looked at before is in this run");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_days_without_a_run_have_settled_is_compared_with_the_chain_by_the_next() {
    let stage = Stage::new(vec![]).await;
    stage.reconcile(CHAIN).await;
    let payment = stage.accept(Shape::BankToToken, 3_000).await;
    stage.reaches(payment, "completed").await;
    stage.holds_eventually().await;

    let summary = reconcile_in(&stage, 5 * DAY).await;
    assert_eq!((&summary["matched"], &summary["settled"]["chain"]), (&1.into(), &3_000.into()), "{summary}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payments_that_were_dated_ahead_are_compared_with_the_chain_when_they_are_settled() {
    let stage = Stage::new(vec![]).await;
    stage.reconcile(CHAIN).await;
    let drawn_at = stage.context.now().minus(5 * DAY);
    let mut payments = Vec::new();
    for minor_units in [3_000, 4_000, 5_000] {
        payments.push(stage.accept_drawn(drawn_at, Shape::BankToToken, minor_units).await);
    }
    for payment in &payments {
        stage.reaches(*payment, "completed").await;
    }
    stage.holds_eventually().await;
    let summary = stage.reconcile(CHAIN).await.summary.unwrap();
    assert_eq!((&summary["matched"], &summary["settled"]["chain"]), (&3.into(), &12_000.into()), "{summary}");

    // More of them than a run may compare.
    let first = reconcile_parts_in(&stage, Duration::from_secs(3_600), 2).await;
    let runs = runs::list(&stage.context.db, Some(CHAIN), None, 100).await.unwrap();
    let rest = runs.iter().find(|run| run.asked_by == runs::CONTINUATION).unwrap();
    let rest = rest.summary.as_ref().unwrap();
    assert_eq!((&first["is_whole"], &rest["is_whole"]), (&false.into(), &true.into()), "{first} {rest}");
    let matched = |part: &Value| part["matched"].as_i64().unwrap();
    assert_eq!(matched(&first) + matched(rest), 3, "{first} {rest}");

    // The chain has settled one, and the books do not say so.
    let lose = "set session_replication_role = replica; delete from journal_entry where source_id = '$1' and moment = 'settled';
        set session_replication_role = origin";
    stage.sql.batch_execute(&lose.replace("$1", &payments[1].as_uuid().to_string())).await.unwrap();
    stage.reconcile(CHAIN).await;
    let found = "select kind, subject, amount from recon_exception where state = 'open'";
    let found = stage.sql.query_one(found, &[]).await.unwrap();
    let told: (String, String, i64) = (found.get(0), found.get(1), found.get(2));
    assert_eq!(told, ("chain_without_ledger".to_owned(), payments[1].to_string(), 4_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_more_than_a_run_may_compare_with_the_chain_is_compared_by_those_that_follow_at_once() {
    let stage = Stage::new(vec![]).await;
    let mut payments = Vec::new();
    for minor_units in [1_000, 2_000, 3_000, 4_000, 5_000] {
        payments.push(stage.accept(Shape::BankToToken, minor_units).await);
        // An id says the millisecond, by which runs follow each other.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for payment in payments {
        stage.reaches(payment, "completed").await;
    }
    stage.holds_eventually().await;
    let first = reconcile_parts_in(&stage, DAY, 2).await;
    assert_eq!((&first["is_whole"], &first["matched"]), (&false.into(), &2.into()), "{first}");
    let runs = runs::list(&stage.context.db, Some(CHAIN), None, 100).await.unwrap();
    let summaries: Vec<&Value> = runs.iter().filter_map(|run| run.summary.as_ref()).collect();
    assert!(summaries.len() == runs.len() && runs.len() > 1, "the rest was asked for, and is done: {runs:?}");
    let whole: Vec<_> = summaries.iter().filter(|summary| summary["is_whole"] == true).collect();
    let [last] = whole.as_slice() else { panic!("one gets to the end: {summaries:?}") };
    assert!(last["settled"]["ledger"].as_i64().unwrap() >= 5_000, "where the newest is: {summaries:?}");
    let breaks = "select count(*) from recon_exception";
    let breaks: i64 = stage.sql.query_one(breaks, &[]).await.unwrap().get(0);
    assert_eq!(breaks, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_open_is_looked_at_again_however_old_it_is_and_nothing_else_is() {
    let stage = Stage::new(vec![]).await;
    let [lost, other] = [3_000, 500].map(|minor_units| stage.accept(Shape::BankToToken, minor_units));
    let (lost, other) = (lost.await, other.await);
    for payment in [lost, other] {
        stage.reaches(payment, "completed").await;
    }
    stage.holds_eventually().await;
    let lose = "create table lost as select * from chain_log where payment_id = $1 and data ->> 'kind' = 'chain.settled'";
    stage.sql.batch_execute(&lose.replace("$1", &format!("'{}'", lost.as_uuid()))).await.unwrap();
    let gone = "delete from chain_log log using lost where (log.tx_hash, log.log_index) = (lost.tx_hash, lost.log_index)";
    assert_eq!(stage.sql.execute(gone, &[]).await.unwrap(), 1);
    let open = async || -> i64 {
        let open = "select count(*) from recon_exception where state = 'open'";
        stage.sql.query_one(open, &[]).await.unwrap().get(0)
    };
    for later in [DAY, 30 * DAY, 60 * DAY] {
        reconcile_in(&stage, later).await;
        assert_eq!(open().await, 1, "the chain still does not have it");
    }
    let back = "insert into chain_log select * from lost";
    stage.sql.execute(back, &[]).await.unwrap();
    let summary = reconcile_in(&stage, 90 * DAY).await;
    assert_eq!((&summary["matched"], open().await), (&1.into(), 0), "only the one that was open: {summary}");
}

/// A run that is asked for and carried out so much later; its summary.
async fn reconcile_in(stage: &Stage, later: Duration) -> Value {
    reconcile_parts_in(stage, later, Settings::default().records_max).await
}

/// The same where one run may look at so many payments, and those that follow it.
async fn reconcile_parts_in(stage: &Stage, later: Duration, records_max: usize) -> Value {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(stage.context.now().plus(later)));
    let context = Context { clock: clock.clone(), ..stage.context.clone() };
    let tx = context.db.begin().await.unwrap();
    let asked =
        runs::ask(&tx, &[CHAIN.to_owned()], (false, "2026-12-02"), "stage", context.now()).await.unwrap();
    tx.commit().await.unwrap();
    let (id, stop) = (asked[0].1, CancellationToken::new());
    let nowhere = Arc::new(BankRegistry::new([], GuardConfig::default(), &clock, None));
    let settings = Settings { poll: Duration::from_millis(20), records_max, ..Settings::default() };
    let working = tokio::spawn(reconciliation::run(context.clone(), nowhere, vec![], settings, stop.clone()));
    let run = async || runs::get(&context.db, id).await.unwrap().unwrap();
    stage.until(async || done(&run().await)).await;
    stage.until(async || nothing_waits(stage).await).await;
    stop.cancel();
    working.await.unwrap();
    run().await.summary.unwrap()
}
