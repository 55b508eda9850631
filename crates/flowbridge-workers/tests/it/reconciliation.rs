//! Reconciliation against real servers: what a bank books wrongly is found, named, and put right by two people.

use crate::bucket::TestBucket;
use crate::stage::{Shape, Stage, Tuning, next};
use axum::http::Uri;
use axum::routing::get;
use axum::{Json, Router};
use flowbridge_bank::auth::BearerKey;
use flowbridge_bank::connector::BankConnector;
use flowbridge_bank::registry::{BankRegistry, GuardConfig};
use flowbridge_bank::simulator::{Fault, FaultRule, Target};
use flowbridge_bank::simulator_client::{SimulatorClient, SimulatorClientConfig};
use flowbridge_domain::bank::HoldMode;
use flowbridge_domain::id::{DecisionId, ExceptionId, ModelProposalId};
use flowbridge_domain::ledger::Contra;
use flowbridge_domain::party::BankCode;
use flowbridge_domain::time::{ManualClock, Timestamp};
use flowbridge_recon::Model;
use flowbridge_recon::anomaly::Memory;
use flowbridge_recon::feedback::Verdict as Ruled;
use flowbridge_recon::record::Record;
use flowbridge_recon::report;
use flowbridge_store::breaker::{self, Breaker, BreakerRefusal};
use flowbridge_store::exception::{
    self, Decision, DecisionKind, DecisionRefusal, Exception, ExceptionFilter, Found,
};
use flowbridge_store::promotion::{self, ModelProposal};
use flowbridge_store::reconciliation::{self as rows, Findings, RecordKey, Run};
use flowbridge_store::review::Verdict;
use flowbridge_store::segment::{self, Learned};
use flowbridge_store::statement::{self, Intake, NewLine, NewStatement, Numbers, StatementLine, Taken};
use flowbridge_workers::context::Context;
use flowbridge_workers::place::Place;
use flowbridge_workers::reconciliation::intake::{self, Upload, UploadError, Uploaded};
use flowbridge_workers::reconciliation::{self, Settings, learning};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_bank_keeps_is_named_and_two_people_put_it_right() {
    let kept = next(Fault::Kept { minor_units: 250 }, Target::Capture);
    let stage = Stage::new(vec![kept]).await;
    let short = stage.accept(Shape::BankToToken, 25_907).await;
    stage.reaches(short, "completed").await;
    let whole = stage.accept(Shape::BankToToken, 10_000).await;
    stage.reaches(whole, "completed").await;

    let run = stage.reconcile("alpha").await;
    let summary = run.summary.unwrap();
    assert_eq!(
        (&summary["matched"], &summary["balance"][0]["unexplained"]),
        (&2.into(), &0.into()),
        "{summary}"
    );
    let open = open(&stage).await;
    let [found] = open.as_slice() else { panic!("one difference: {open:#?}") };
    assert_eq!((found.kind.as_str(), found.amount), ("fee_deducted", -250));
    assert_eq!((found.contra, found.correction), (Some(Contra::Charges), -250));
    assert!(found.about["operation"].as_str().unwrap().starts_with(&short.to_string()), "{}", found.about);

    let again = stage.reconcile("alpha").await;
    let still = self::open(&stage).await;
    assert_eq!(still.len(), 1, "found again, it is the same");
    assert_eq!(
        (still[0].id, again.summary.unwrap()["balance"][0]["unexplained"].clone()),
        (found.id, 0.into())
    );

    let decision = propose(&stage, found.id, DecisionKind::Accept).await.unwrap();
    assert_eq!(answer(&stage, (found.id, decision), "maker").await, Err(DecisionRefusal::SamePerson));
    answer(&stage, (found.id, decision), "checker").await.unwrap();
    let told = "select array_agg(kind order by xid, seq) from event where kind like 'exception.%'";
    let told: Vec<String> = stage.sql.query_one(told, &[]).await.unwrap().get(0);
    assert_eq!(told, ["exception.proposed", "exception.answered"], "what was refused has not happened");
    let after = stage.reconcile("alpha").await.summary.unwrap();
    assert_eq!(after["balance"][0]["unexplained"], 0, "{after}");
    assert_eq!(after["balance"][0]["ledger"], after["balance"][0]["statement"], "the books follow the bank");
    assert!(self::open(&stage).await.is_empty());
    stage.requires_proof().await;
    assert!(
        rows::report(&stage.context.db, again.id, "html").await.unwrap().unwrap().starts_with(b"<!doctype")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reconciler_that_is_killed_again_and_again_says_everything_once() {
    let stage = Stage::new(vec![next(Fault::BookedTwice, Target::Capture)]).await;
    for minor_units in [25_907, 14_059, 1_000, 2_000, 3_000] {
        let payment = stage.accept(Shape::BankToToken, minor_units).await;
        stage.reaches(payment, "completed").await;
    }
    let db = &stage.context.db;
    let tx = db.begin().await.unwrap();
    let scope = [debtors_bank().as_str().to_owned()];
    rows::ask(&tx, &scope, (false, "2026-11-28"), "stage", stage.context.now()).await.unwrap();
    tx.commit().await.unwrap();
    let lease = Duration::from_secs(10);
    let settings = Settings {
        poll: Duration::from_millis(5),
        lease,
        retry: Duration::from_millis(1),
        attempts_max: i32::MAX,
        ..Settings::default()
    };
    let began = stage.context.now();
    let mut lives = 0;
    while !nothing_waits(&stage).await {
        // Each comes when the lease of the one before is over, and goes a few waits for the database or the bank further.
        let clock = Arc::new(ManualClock::at(began.plus(lease * (lives + 1))));
        let context = Context { clock, instance: format!("life {lives}"), ..stage.context.clone() };
        let alpha = vec![debtors_bank()];
        let stop = CancellationToken::new();
        let mut life = pin!(reconciliation::run(context, stage.banks.clone(), alpha, settings.clone(), stop));
        let mut waits_left = 4 * lives;
        poll_fn(|task| {
            if waits_left == 0 || life.as_mut().poll(task).is_ready() {
                return Poll::Ready(());
            }
            waits_left -= 1;
            Poll::Pending
        })
        .await;
        lives += 1;
    }
    let runs = rows::list(db, Some("alpha"), None, 100).await.unwrap();
    let [run] = runs.as_slice() else { panic!("the run that was asked for, and no other: {runs:?}") };
    assert!(done(run) && run.attempts > 2, "it was begun again: {run:?}");
    assert_eq!(run.summary.as_ref().unwrap()["matched"], 5);
    let once = [("duplicate_bank_line".to_owned(), 1)];
    assert_eq!(ever_opened(&stage).await, once);
    let again = stage.reconcile("alpha").await.summary.unwrap();
    assert_eq!(again["balance"][0]["unexplained"], 0, "{again}");
    assert_eq!(ever_opened(&stage).await, once, "a run that nobody disturbs has nothing to add");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_line_of_a_capture_is_a_repeat_and_what_people_reject_is_not_opened_again() {
    let stage = Stage::new(vec![next(Fault::BookedTwice, Target::Capture)]).await;
    let payment = stage.accept(Shape::BankToToken, 14_059).await;
    stage.reaches(payment, "completed").await;
    stage.reconcile("alpha").await;
    let open = open(&stage).await;
    let [found] = open.as_slice() else { panic!("one difference: {open:#?}") };
    assert_eq!((found.kind.as_str(), found.correction), ("duplicate_bank_line", 14_059));
    let nothing = Some("pay_nothing".to_owned());
    let rematch = Decision { partner: nothing, ..decision(DecisionKind::Rematch, &stage) };
    let tx = stage.context.db.begin().await.unwrap();
    let refused = exception::propose(&tx, found.id, &rematch).await.unwrap();
    assert_eq!(refused, Err(DecisionRefusal::NoSuchPartner));
    tx.rollback().await.unwrap();
    let decision = propose(&stage, found.id, DecisionKind::Reject).await.unwrap();
    answer(&stage, (found.id, decision), "checker").await.unwrap();
    stage.reconcile("alpha").await;
    assert!(self::open(&stage).await.is_empty(), "a run never undoes what people decided");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_people_match_while_a_run_is_under_way_is_not_open_again_when_it_ends() {
    let stage = Stage::new(vec![next(Fault::Unbooked, Target::Capture)]).await;
    let payment = stage.accept(Shape::BankToToken, 12_071).await;
    stage.reaches(payment, "completed").await;
    stage.reconcile("alpha").await;
    let (db, now) = (&stage.context.db, stage.context.now());
    let scope = ["alpha".to_owned()];
    let tx = db.begin().await.unwrap();
    rows::ask(&tx, &scope, (false, "2026-11-28"), "stage", now).await.unwrap();
    tx.commit().await.unwrap();
    let run = rows::claim(db, &scope, "stage", now, Duration::from_secs(60)).await.unwrap().unwrap();
    let entries = async || -> Vec<RecordKey> {
        let sides = rows::sides(db, "alpha", now, 100, &BTreeSet::new()).await.unwrap();
        sides.ours.into_iter().map(|entry| entry.key).collect()
    };
    let seen = entries().await;
    assert_eq!(seen, [RecordKey::entry(payment.as_uuid(), "captured".to_owned(), 0)]);

    let found = open(&stage).await.remove(0);
    let decision = propose(&stage, found.id, DecisionKind::WriteOff).await.unwrap();
    answer(&stage, (found.id, decision), "checker").await.unwrap();
    let findings = Findings { open: seen, ..nothing_found(now) };
    rows::finish(db, &run, &findings, "", now).await.unwrap();
    let waiting = "select count(*) from recon_open where side = 'ledger'";
    assert_eq!(stage.sql.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0), 0);

    // As a run leaves it whose own write waited for that of the people.
    let left = "insert into recon_open (side, source_id, moment, round, scope, since)
        select side, source_id, moment, round, 'alpha', now() from recon_match_item where side = 'ledger'";
    assert!(stage.sql.execute(left, &[]).await.unwrap() > 0);
    assert!(entries().await.is_empty(), "it has its match");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_bank_confirmed_and_never_booked_trips_the_breaker_and_is_written_off() {
    let stage = Stage::new(vec![next(Fault::Unbooked, Target::Capture)]).await;
    let payment = stage.accept(Shape::BankToToken, 12_071).await;
    stage.reaches(payment, "completed").await;
    stage.prove_continuously();
    stage.until(async || !breaker::state(&stage.context.db).await.unwrap().is_closed()).await;

    // Nothing is minted, half a second later at most: the chain goes on, and the payment does not.
    let mut waiting = stage.accept(Shape::BankToToken, 500).await;
    stage
        .until(async || {
            stage.blocks_pass(4).await;
            let is_held_back = stage.state(waiting).await == "accepted";
            if !is_held_back {
                waiting = stage.accept(Shape::BankToToken, 500).await;
            }
            is_held_back
        })
        .await;

    stage.reconcile("alpha").await;
    let open = open(&stage).await;
    let [found] = open.as_slice() else { panic!("one difference: {open:#?}") };
    assert_eq!((found.kind.as_str(), found.contra, found.correction), ("overdue_at_bank", None, -12_071));
    let decision = propose(&stage, found.id, DecisionKind::WriteOff).await.unwrap();
    answer(&stage, (found.id, decision), "checker").await.unwrap();

    let tx = stage.context.db.begin().await.unwrap();
    let now = stage.context.now();
    let proposal = breaker::propose_reset(&tx, "written off", "maker", now).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    let tx = stage.context.db.begin().await.unwrap();
    let alone = breaker::answer_reset(&tx, proposal, true, "maker", now).await.unwrap();
    assert_eq!(alone, Err(BreakerRefusal::SamePerson));
    let other = breaker::answer_reset(&tx, proposal + 1, true, "checker", now).await.unwrap();
    assert_eq!(other, Err(BreakerRefusal::NotProposed), "only what the second person has read");
    breaker::answer_reset(&tx, proposal, true, "checker", now).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    stage.reaches(waiting, "completed").await;
    stage.holds_eventually().await;
    assert_eq!(breaker::state(&stage.context.db).await.unwrap(), Breaker::Closed, "the proof holds again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ledger_and_chain_agree_payment_by_payment_through_a_reorganisation() {
    let stage = Stage::new(vec![]).await;
    let payment = stage.accept(Shape::BankToToken, 3_000).await;
    stage.reaches(payment, "completed").await;
    stage.take_back_newest_log().await;
    let later = stage.accept(Shape::BankToToken, 500).await;
    stage.reaches(later, "completed").await;
    stage.holds_eventually().await;
    let summary = stage.reconcile("chain:EUR").await.summary.unwrap();
    assert_eq!((&summary["matched"], &summary["settled"]["ledger"]), (&2.into(), &3_500.into()), "{summary}");
    assert_eq!(summary["settled"]["chain"], 3_500);
    assert!(open(&stage).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_file_counts_once_and_is_refused_when_it_does_not_add_up() {
    let stage = Stage::new(vec![]).await;
    reads_files(&stage).await;
    let take = async |number: u32, opening: &str, closing: &str| {
        upload(&stage, "a.sta", mt940(number, opening, closing), None).await
    };
    let taken = take(1, "100,00", "200,00").await.unwrap();
    let [first] = taken.statements.as_slice() else { panic!("{taken:?}") };
    assert_eq!(
        (first.lines, first.repeated, first.gap),
        (2, 1, None),
        "two equal lines are two, and counted"
    );
    assert!(take(1, "100,00", "200,00").await.unwrap().is_repeat, "the same file changes nothing");
    let wrong = take(2, "200,00", "310,00").await;
    assert!(matches!(&wrong, Err(UploadError::DoesNotAddUp { place: 1, .. })), "{wrong:?}");
    let named = take(1, "150,00", "250,00").await;
    assert!(matches!(&named, Err(UploadError::NamedAlready { .. })), "{named:?}");
    let gap = take(3, "300,00", "400,00").await.unwrap();
    assert_eq!(gap.statements[0].gap, Some(10_000), "a gap is accepted, and told");

    let kinds = async || -> Vec<String> {
        stage.reconcile_files("alpha").await;
        open(&stage).await.into_iter().map(|found| found.kind).collect()
    };
    let without = kinds().await;
    let receipts =
        without.iter().filter(|kind| *kind == "unexpected_receipt" || *kind == "duplicate_bank_line");
    assert_eq!(receipts.count(), 4, "nobody expected these: {without:?}");
    assert!(without.contains(&"statement_gap".to_owned()), "a statement is missing: {without:?}");
    assert!(!without.contains(&"supply_not_reserve".to_owned()), "nothing is proven without it: {without:?}");

    let missing = take(2, "200,00", "300,00").await.unwrap();
    assert_eq!(missing.statements[0].gap, None, "files may arrive in any order");
    let whole = kinds().await;
    assert!(!whole.contains(&"statement_gap".to_owned()), "none is missing any more: {whole:?}");
    assert!(whole.contains(&"supply_not_reserve".to_owned()), "there was money before: {whole:?}");
    let all = open(&stage).await;
    let before = all.iter().find(|found| found.kind == "supply_not_reserve").unwrap();
    assert_eq!((before.contra, before.correction), (Some(Contra::Suspense), 10_000));
    let decision = propose(&stage, before.id, DecisionKind::Accept).await.unwrap();
    answer(&stage, (before.id, decision), "checker").await.unwrap();
    let summary = stage.reconcile_files("alpha").await.summary.unwrap();
    assert_eq!(summary["balance"][0]["unexplained"], 0, "what was there before is booked: {summary}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_statement_is_proven_at_its_instant_and_what_the_next_run_still_finds_trips_the_breaker() {
    let stage = Stage::new(vec![]).await;
    reads_files(&stage).await;
    let payment = stage.accept(Shape::BankToToken, 10_000).await;
    stage.reaches(payment, "completed").await;
    let captured = "select reference from effect where kind = 'capture'";
    let captured: String = stage.sql.query_one(captured, &[]).await.unwrap().get(0);
    stage.reconcile_files("alpha").await;

    // The day of the capture and those before it, whenever midnight is.
    let days = "select ((posted_at at time zone 'UTC')::date - ago)::text
        from journal_entry, generate_series(0, 8) ago where moment = 'captured' order by ago";
    let days: Vec<String> = stage.sql.query(days, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    let take = async |days_ago: usize, line: (&str, i64), closing: i64| {
        let day = &days[days_ago];
        upload(&stage, &format!("{day}.ofx"), ofx(day, line, closing), None).await.unwrap();
    };
    let of = |summary: &Value, name: &str| -> Vec<i64> {
        summary["proofs"].as_array().unwrap().iter().map(|at| at[name].as_i64().unwrap()).collect()
    };
    let differing = async || -> Vec<Exception> {
        open(&stage).await.into_iter().filter(|found| found.kind == "supply_not_reserve").collect()
    };

    take(8, ("A1", 4_107), 4_107).await;
    take(7, ("A2", 6_011), 10_118).await;
    take(6, ("A3", 1_200), 11_318).await;
    let run = stage.reconcile_files("alpha").await;
    let summary = run.summary.unwrap();
    assert_eq!(of(&summary, "closing"), [4_107, 10_118, 11_318], "{summary}");
    assert_eq!(of(&summary, "unexplained"), [0, 0, 0], "{summary}");
    let html = rows::report(&stage.context.db, run.id, "html").await.unwrap().unwrap();
    assert!(String::from_utf8(html).unwrap().contains("Proof of balance at each statement"));

    take(5, ("B1", 1_000), 12_318).await;
    take(4, ("B2", 2_000), 14_318 + 500).await;
    take(3, ("B3", 3_000), 17_318).await;
    let summary = stage.reconcile_files("alpha").await.summary.unwrap();
    assert_eq!(of(&summary, "unexplained"), [0, 500, 0], "{summary}");
    let found = differing().await;
    let [passed] = found.as_slice() else { panic!("it is told: {found:#?}") };
    assert_eq!((passed.amount, passed.contra, passed.correction), (500, None, 0), "nothing is to be posted");
    assert!(breaker::state(&stage.context.db).await.unwrap().is_closed(), "a matter of time");

    take(2, ("C1", 4_100), 21_418).await;
    take(1, ("C2", 500), 21_918 + 700).await;
    take(0, (captured.as_str(), 10_000), 31_918 + 700).await;
    let summary = stage.reconcile_files("alpha").await.summary.unwrap();
    assert_eq!(of(&summary, "unexplained"), [0, 700, 700], "{summary}");
    assert_eq!(of(&summary, "ledger"), [0, 0, 10_000], "as posted at each instant: {summary}");
    let found = differing().await;
    let [standing] = found.as_slice() else { panic!("the other one is closed: {found:#?}") };
    assert_eq!((standing.contra, standing.correction), (Some(Contra::Suspense), 700));
    let state = breaker::state(&stage.context.db).await.unwrap();
    assert!(state.is_closed(), "a statement that has not come yet looks the same: people are asked first");
    stage.reconcile_files("alpha").await;
    let Breaker::Tripped { cause, .. } = breaker::state(&stage.context.db).await.unwrap() else {
        panic!("the next run still found it")
    };
    assert!(cause.contains("700 EUR"), "{cause}");

    let waiting = "select count(*) from statement_to_prove";
    let waiting: i64 = stage.sql.query_one(waiting, &[]).await.unwrap().get(0);
    assert_eq!(waiting, 0, "each has its proof");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_difference_stands_and_trips_the_breaker_while_later_lines_have_no_balance() {
    let stage = Stage::new(vec![]).await;
    reads_files(&stage).await;
    let day = days_before(&stage);
    upload(&stage, "evening.ofx", ofx(&day(3), ("A1", 1_000), 1_000 + 700), None).await.unwrap();
    stage.reconcile_files("alpha").await;
    assert!(breaker::state(&stage.context.db).await.unwrap().is_closed(), "people are asked first");
    let mapping = r#"{"account": "DE02120300000000202051", "currency": "EUR",
        "columns": {"booked_on": "day", "amount": "amount", "bank_reference": "bank reference"}}"#;
    let noon = format!("day,amount,bank reference\n{},20.00,A2\n", day(1));
    upload(&stage, "noon.csv", noon, Some(mapping)).await.unwrap();
    let summary = stage.reconcile_files("alpha").await.summary.unwrap();
    assert_eq!(summary["balance"][0]["is_told"], false, "{summary}");
    assert_eq!(summary["proofs"][0]["unexplained"], 700, "{summary}");
    let standing = open(&stage).await.into_iter().find(|found| found.kind == "supply_not_reserve").unwrap();
    assert_eq!((standing.contra, standing.correction), (Some(Contra::Suspense), 700));
    assert!(
        !breaker::state(&stage.context.db).await.unwrap().is_closed(),
        "it is there in the next run, too"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reconciler_that_is_killed_while_it_trips_the_breaker_has_not_ended_its_run() {
    let stage = Stage::new(vec![]).await;
    reads_files(&stage).await;
    let day = intake::day(stage.context.now().minus(Duration::from_secs(24 * 3600)));
    upload(&stage, "evening.ofx", ofx(&day, ("A1", 1_000), 1_000 + 700), None).await.unwrap();
    stage.reconcile_files("alpha").await;
    let tx = stage.context.db.begin().await.unwrap();
    let scope = ["alpha".to_owned()];
    rows::ask(&tx, &scope, (false, "2026-11-28"), "stage", stage.context.now()).await.unwrap();
    tx.commit().await.unwrap();
    let settings = Settings { poll: Duration::from_millis(20), ..Settings::default() };
    let works = |context: Context| {
        let (banks, stop) = (stage.banks.clone(), stage.stop.clone());
        tokio::spawn(reconciliation::run(context, banks, vec![], settings.clone(), stop))
    };

    // Somebody else is at the breaker.
    stage.sql.execute("select pg_advisory_lock(4661007)", &[]).await.unwrap();
    let killed = works(stage.context.clone());
    let waits = "select count(*) from pg_locks join pg_database on pg_database.oid = pg_locks.database
        where datname = current_database() and locktype = 'advisory' and objid = 4661007 and not granted";
    stage.until(async || stage.sql.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) > 0).await;
    killed.abort();
    assert!(killed.await.unwrap_err().is_cancelled());
    stage.sql.execute("select pg_advisory_unlock(4661007)", &[]).await.unwrap();
    assert!(!nothing_waits(&stage).await, "the run is still to be done");

    let clock = Arc::new(ManualClock::at(stage.context.now().plus(settings.lease)));
    let working = works(Context { clock, instance: "another".to_owned(), ..stage.context.clone() });
    stage.until(async || nothing_waits(&stage).await).await;
    assert!(!breaker::state(&stage.context.db).await.unwrap().is_closed());
    working.abort();
}

/// The days before this moment, by how many ago they were.
fn days_before(stage: &Stage) -> impl Fn(u64) -> String + use<> {
    let now = stage.context.now();
    move |days_ago| intake::day(now.minus(Duration::from_secs(days_ago * 24 * 3600)))
}

/// Takes the statement of a day in: one line, and what it closes with.
async fn takes(stage: &Stage, day: String, line: (&str, i64), closing: i64) {
    upload(stage, &format!("{day}.ofx"), ofx(&day, line, closing), None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_balance_that_no_longer_differs_is_not_put_right_by_an_old_proposal() {
    let stage = Stage::new(vec![]).await;
    reads_files(&stage).await;
    let day = days_before(&stage);
    let take = async |days_ago: u64, line: (&str, i64), closing: i64| {
        takes(&stage, day(days_ago), line, closing).await;
        stage.reconcile_files("alpha").await;
    };
    take(3, ("A1", 1_000), 1_000 + 700).await;
    let standing = open(&stage).await.into_iter().find(|found| found.kind == "supply_not_reserve").unwrap();
    let decision = propose(&stage, standing.id, DecisionKind::Accept).await.unwrap();
    take(2, ("A2", 2_000), 3_000).await;
    let confirmed = answer(&stage, (standing.id, decision), "checker").await;
    assert_eq!(confirmed, Err(DecisionRefusal::Closed), "the bank has put its balance right");
    let posted = "select count(*) from journal_entry where moment = 'correction'";
    assert_eq!(stage.sql.query_one(posted, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_balance_that_differs_by_the_same_again_after_its_entry_is_asked_about_again() {
    let stage = Stage::new(vec![]).await;
    reads_files(&stage).await;
    let day = days_before(&stage);
    let asked = async |days_ago: u64, line: (&str, i64), closing: i64| -> Option<Exception> {
        takes(&stage, day(days_ago), line, closing).await;
        stage.reconcile_files("alpha").await;
        open(&stage).await.into_iter().find(|found| found.kind == "supply_not_reserve")
    };
    let decide = async |found: &Exception, kind: DecisionKind| {
        let decision = propose(&stage, found.id, kind).await.unwrap();
        answer(&stage, (found.id, decision), "checker").await.unwrap();
    };
    let first = asked(6, ("A1", 1_000), 1_000 + 700).await.unwrap();
    decide(&first, DecisionKind::Accept).await;
    assert!(asked(5, ("A2", 2_000), 3_000 + 700).await.is_none(), "it is in the books");
    let again = asked(4, ("A3", 4_000), 7_000 + 1_400).await.unwrap();
    assert_eq!((again.amount, again.correction), (700, 700));
    let still = asked(3, ("A4", 8_000), 15_000 + 1_400).await.unwrap();
    assert_eq!(still.id, again.id, "as long as it stands it is one");
    decide(&still, DecisionKind::Reject).await;
    assert!(
        asked(2, ("A5", 9_000), 24_000 + 1_400).await.is_none(),
        "they know, and have posted nothing for it"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_no_balance_has_told_yet_accuses_no_statement_after_its_day() {
    let stage = Stage::new(vec![]).await;
    reads_files(&stage).await;
    let day = days_before(&stage);
    let take = async |days_ago, line, closing| takes(&stage, day(days_ago), line, closing).await;
    let proven = async || -> Value {
        let summary = stage.reconcile_files("alpha").await.summary.unwrap();
        let proofs = summary["proofs"].as_array().unwrap();
        proofs.iter().map(|at| json!([at["closing"], at["unexplained"]])).collect()
    };
    let mapping = r#"{"account": "DE02120300000000202051", "currency": "EUR",
        "columns": {"booked_on": "day", "amount": "amount", "bank_reference": "bank reference"}}"#;
    let week =
        format!("day,amount,bank reference\n{},10.00,D4\n{},20.00,D3\n{},40.00,D1\n", day(4), day(3), day(1));
    upload(&stage, "week.csv", week, Some(mapping)).await.unwrap();
    take(4, ("D4", 1_000), 1_000).await;
    take(2, ("D2", 3_000), 6_000).await;
    assert_eq!(proven().await, json!([[1_000, 0]]), "that of the third day is missing, and nothing says so");
    take(3, ("D3", 2_000), 3_000).await;
    assert_eq!(proven().await, json!([[3_000, 0], [6_000, 0]]));
    assert!(open(&stage).await.iter().all(|found| found.kind != "supply_not_reserve"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_without_a_balance_are_compared_and_told_again_at_the_end_of_the_day_they_are_the_same() {
    let stage = Stage::new(vec![]).await;
    reads_files(&stage).await;
    for minor_units in [10_000, 15_907] {
        let payment = stage.accept(Shape::BankToToken, minor_units).await;
        stage.reaches(payment, "completed").await;
    }
    let captured = "select reference, amount from effect join payment on payment.id = effect.payment_id
        where effect.kind = 'capture' order by amount";
    let captured: Vec<(String, i64)> =
        stage.sql.query(captured, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
    let today = intake::day(stage.context.now());
    let mut so_far = "day,amount,bank reference\n".to_owned();
    let mut day_end = String::new();
    let (short, month_day) = (&today.replace('-', "")[2..], &today.replace('-', "")[4..]);
    for (reference, amount) in &captured {
        so_far.push_str(&format!("{today},{}.{:02},{reference}\n", amount / 100, amount % 100));
        day_end.push_str(&format!(
            ":61:{short}{month_day}C{},{:02}NTRFNONREF//{reference}\r\n",
            amount / 100,
            amount % 100
        ));
    }
    let mapping = r#"{"account": "DE02120300000000202051", "currency": "EUR",
        "columns": {"booked_on": "day", "amount": "amount", "bank_reference": "bank reference"}}"#;
    let take = async |name, text, mapping| upload(&stage, name, text, mapping).await.unwrap().statements;
    let first = take("so-far.csv", so_far, Some(mapping)).await;
    assert_eq!((first[0].lines, first[0].closing), (2, None));
    let summary = stage.reconcile_files("alpha").await.summary.unwrap();
    assert_eq!(
        (&summary["matched"], &summary["balance"][0]["statement"]),
        (&2.into(), &Value::Null),
        "{summary}"
    );
    assert!(open(&stage).await.is_empty());

    let whole = format!(
        ":20:STARTUMS\r\n:25:DE02120300000000202051\r\n:28C:1/1\r\n:60F:C{short}EUR0,00\r\n{day_end}:62F:C{short}EUR259,07\r\n-\r\n"
    );
    let second = take("day.sta", whole, None).await;
    assert_eq!((second[0].lines, second[0].already_held), (2, 2), "they were told before");
    let summary = stage.reconcile_files("alpha").await.summary.unwrap();
    assert_eq!(summary["balance"][0]["unexplained"], 0, "{summary}");
    assert!(open(&stage).await.is_empty(), "and are no second booking");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn downloads_that_overlap_tell_each_booking_once_in_whatever_order_they_come() {
    for is_backwards in [false, true] {
        let stage = Stage::new(vec![]).await;
        reads_files(&stage).await;
        let now = stage.context.now();
        let [one, two, three] =
            [3, 2, 1].map(|days_ago| intake::day(now.minus(Duration::from_secs(days_ago * 24 * 3600))));
        let mut files = [
            ofx_of(&[(one.as_str(), "A1", 1_000), (two.as_str(), "A2", 2_000)], 3_000),
            ofx_of(&[(two.as_str(), "A2", 2_000), (three.as_str(), "A3", 4_000)], 7_000),
        ];
        if is_backwards {
            files.reverse();
        }
        let mut already_held = Vec::new();
        for (place, file) in files.into_iter().enumerate() {
            let taken = upload(&stage, &format!("{place}.ofx"), file, None).await.unwrap();
            already_held.push(taken.statements[0].already_held);
        }
        assert_eq!(already_held, [0, 1]);
        let summary = stage.reconcile_files("alpha").await.summary.unwrap();
        let proofs = summary["proofs"].as_array().unwrap();
        let proven: Value = proofs.iter().map(|at| json!([at["closing"], at["unexplained"]])).collect();
        assert_eq!(proven, json!([[3_000, 0], [7_000, 0]]), "{summary}");
        let lines = "select count(*) from recon_open where side = 'bank'";
        let lines: i64 = stage.sql.query_one(lines, &[]).await.unwrap().get(0);
        assert_eq!(lines, 3, "a line that was told again is no second booking");
        stage.reconcile_files("alpha").await;
        assert!(breaker::state(&stage.context.db).await.unwrap().is_closed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_two_currencies_never_belong_together() {
    let stage = Stage::new(vec![]).await;
    reads_files(&stage).await;
    let mapping = r#"{"account": "DE02120300000000202051", "columns": {"booked_on": "day", "amount": "amount",
        "currency": "currency", "bank_reference": "bank reference"}}"#;
    let today = intake::day(stage.context.now());
    let lines = format!(
        "day,amount,currency,bank reference\n{today},50.00,EUR,A1\n{today},-50.00,USD,A2\n{today},-50.00,EUR,A3\n"
    );
    upload(&stage, "a.csv", lines, Some(mapping)).await.unwrap();
    stage.reconcile_files("alpha").await;
    let named = async |reference: &str| -> String {
        let line = "select id from statement_entry where bank_reference = $1";
        RecordKey::line(stage.sql.query_one(line, &[&reference]).await.unwrap().get(0)).text()
    };
    let receipt = named("A1").await;
    let found = open(&stage).await.into_iter().find(|found| found.subject == receipt).unwrap();
    let belongs_to = async |partner: String| {
        let rematch = Decision { partner: Some(partner), ..decision(DecisionKind::Rematch, &stage) };
        let tx = stage.context.db.begin().await.unwrap();
        let answer = exception::propose(&tx, found.id, &rematch).await.unwrap();
        tx.rollback().await.unwrap();
        answer
    };
    assert_eq!(belongs_to(named("A2").await).await, Err(DecisionRefusal::AmountsDiffer));
    assert_eq!(belongs_to(named("A3").await).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_confirmed_pair_differs_by_is_the_next_question() {
    let stage = Stage::new(vec![]).await;
    reads_files(&stage).await;
    let payment = stage.accept(Shape::BankToToken, 10_000).await;
    stage.reaches(payment, "completed").await;
    let today = intake::day(stage.context.now()).replace('-', "");
    let (today, month_day) = (&today[2..], &today[4..]);
    let file = format!(
        ":20:STARTUMS\r\n:25:DE02120300000000202051\r\n:28C:1/1\r\n:60F:C{today}EUR0,00\r\n\
         :61:{today}{month_day}C99,00NTRFNONREF//A1\r\n:86:SOMETHING ELSE\r\n:62F:C{today}EUR99,00\r\n-\r\n"
    );
    upload(&stage, "a.sta", file, None).await.unwrap();
    let run = stage.reconcile_files("alpha").await;
    // A likely pair, as a model would ask it.
    let line: Uuid = stage.sql.query_one("select id from statement_entry", &[]).await.unwrap().get(0);
    let line = RecordKey::line(line).text();
    let entry = RecordKey::entry(payment.as_uuid(), "captured".to_owned(), 0).text();
    let mut question = json!({ "records": [&entry, &line], "difference": -100 });
    let left = Found {
        kind: "other_amount".to_owned(),
        subject: line,
        currency: "EUR".to_owned(),
        amount: -100,
        owner: "accounting".to_owned(),
        advice: "ask the bank".to_owned(),
        about: json!({}),
        records: vec![],
        suggestions: vec![],
        contra: Some(Contra::Suspense),
        correction: -100,
        is_lasting: true,
        since: stage.context.now(),
    };
    exception::leave(&mut question, &[left]);
    let id = ExceptionId::generate(stage.context.now(), rand::random());
    let ask = "insert into recon_exception (id, scope, kind, subject, currency, amount, owner, advice, about, since, opened_in,
            opened_at, seen_in)
        values ($1, 'alpha', 'to_confirm', 'a pair', 'EUR', 9900, 'accounting', '', $2, now(), $3, now(), $3)";
    stage.sql.execute(ask, &[&id.as_uuid(), &question, &run.id.as_uuid()]).await.unwrap();

    let decision = propose(&stage, id, DecisionKind::Accept).await.unwrap();
    answer(&stage, (id, decision), "checker").await.unwrap();
    let summary = stage.reconcile_files("alpha").await.summary.unwrap();
    assert_eq!(
        (&summary["balance"][0]["unexplained"], &summary["balance"][0]["differences"]),
        (&0.into(), &(-100).into())
    );
    let open = open(&stage).await;
    let [next] = open.as_slice() else { panic!("one question is left: {open:#?}") };
    assert_eq!((next.kind.as_str(), next.correction), ("other_amount", -100));
    let decision = propose(&stage, next.id, DecisionKind::Accept).await.unwrap();
    answer(&stage, (next.id, decision), "checker").await.unwrap();
    let after = stage.reconcile_files("alpha").await.summary.unwrap();
    assert_eq!(
        after["balance"][0]["ledger"], after["balance"][0]["statement"],
        "the books follow the bank: {after}"
    );
    assert!(self::open(&stage).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_no_line_fits_shows_the_lines_that_it_may_be() {
    let stage = Stage::new(vec![next(Fault::Unbooked, Target::Capture)]).await;
    for minor_units in [120_071, 500] {
        let payment = stage.accept(Shape::BankToToken, minor_units).await;
        stage.reaches(payment, "completed").await;
    }
    let overdue = async || {
        stage.reconcile("alpha").await;
        let found = open(&stage).await.into_iter().find(|found| found.kind == "overdue_at_bank").unwrap();
        let suggestions = exception::suggestions(&stage.context.db, found.id).await.unwrap();
        (found.id, suggestions)
    };
    let (id, suggestions) = overdue().await;
    assert!(suggestions.is_empty(), "no line is left: {suggestions:?}");

    // A quarter is missing, so that it is no match by itself; and somebody else's payment.
    let lines = [
        ("OTHERS", 62_000, "FR1420041010050500013M02606", "somebody else"),
        ("RIGHT", 90_000, "DE89370400440532013000", "somebody"),
    ];
    tells(&stage, &lines).await;
    let (again, suggestions) = overdue().await;
    let best = suggestions.first().unwrap();
    assert_eq!((again, best.bank_reference.as_str(), best.amount), (id, "RIGHT", 90_000), "{suggestions:?}");
    let probabilities: Vec<f64> = suggestions.iter().map(|shown| shown.suggested.probability).collect();
    assert!(probabilities.iter().all(|probability| (0.0..=1.0).contains(probability)), "{suggestions:?}");
    assert!(probabilities.is_sorted_by(|one, next| one >= next), "{suggestions:?}");

    let partner = Some(best.suggested.line.to_string());
    let rematch = Decision { partner, ..decision(DecisionKind::Rematch, &stage) };
    let tx = stage.context.db.begin().await.unwrap();
    let refused = exception::propose(&tx, id, &rematch).await.unwrap();
    assert_eq!(refused, Err(DecisionRefusal::AmountsDiffer), "it is a partner, of another amount");
    tx.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_bank_cannot_have_meant_is_asked_about_and_keeps_no_later_run_from_its_statement() {
    let stage = Stage::new(vec![]).await;
    let teller = Teller::start(&stage).await;
    let now = stage.context.now();
    let second = move |seconds: i64| now.as_micros() + (seconds - 100) * 1_000_000;
    let entry = |number: u64, amount: i64, booked_at: i64| {
        json!({ "sequence": number, "account": "reserve", "change": { "amount": amount, "currency": "EUR" },
            "booked_at_us": booked_at, "reference": format!("A\0{number}"), "text": "a\0b" })
    };
    let only =
        |entry: Value| json!({ "entries": [&entry], "next_after": entry["sequence"], "has_more": false });
    let gaps = async |balance: (i64, i64), statement: Value| -> Vec<String> {
        teller.tells(balance, move |_| statement.clone());
        teller.reconcile(&stage, 1_000).await;
        let open = open(&stage).await.into_iter().filter(|found| found.kind == "statement_gap");
        open.map(|found| found.about["explanation"].as_str().unwrap().to_owned()).collect()
    };
    let is_asked = async |balance: (i64, i64), statement: Value, why: &str| {
        let gaps = gaps(balance, statement).await;
        assert!(matches!(gaps.as_slice(), [gap] if gap.contains(why)), "{why}: {gaps:?}");
    };

    assert!(gaps((500, second(0)), only(entry(1, 500, second(-1)))).await.is_empty());
    is_asked((700, second(-3)), only(entry(2, 200, second(-4))), "its clock went back").await;
    let two_days = 2 * 24 * 3600;
    is_asked((700, second(two_days)), only(entry(2, 200, second(2))), "and today is").await;
    let unread = json!({ "entries": [], "next_after": 1, "has_more": true });
    is_asked((700, second(3)), unread, "does not tell it").await;
    is_asked((700, second(3)), only(entry(2, 200, -300_000_000_000_000_000)), "a time that cannot be").await;
    let mut keyed = entry(2, 200, second(2));
    keyed["key"] = json!("somebody's");
    is_asked((700, second(3)), only(keyed), "entry 2 cannot be read").await;
    assert!(gaps((700, second(4)), only(entry(2, 200, second(2)))).await.is_empty(), "it says what it means");

    teller.tells((700, second(6)), move |after| {
        json!({ "entries": [entry(after + 1, 1, second(5))], "next_after": after + 1, "has_more": true })
    });
    teller.reconcile(&stage, 4).await;
    let told = "select array_agg(distinct text), max(bank_reference), count(*) from statement_entry";
    let told = stage.sql.query_one(told, &[]).await.unwrap();
    let read: (Vec<String>, String, i64) = (told.get(0), told.get(1), told.get(2));
    assert_eq!(read, (vec!["a b".to_owned()], "A 6".to_owned(), 2 + 4), "a run ends, however much there is");
    let closings = "select array_agg(closing order by id) from statement where account = 'reserve'";
    let closings: Vec<i64> = stage.sql.query_one(closings, &[]).await.unwrap().get(0);
    assert_eq!(closings, [500, 700, 704], "each goes on from the one told before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_one_bank_one_run_is_claimed_at_a_time_however_many_look_and_no_reading_goes_back() {
    let stage = Stage::tuned(vec![], Tuning { chain: false, others: false, ..Tuning::default() }).await;
    let (db, now) = (&stage.context.db, stage.context.now());
    let (scope, lease) = (["alpha".to_owned()], Duration::from_secs(60));
    for _ in 0..50 {
        let tx = db.begin().await.unwrap();
        for _ in 0..3 {
            rows::ask(&tx, &scope, (false, "2026-11-28"), "stage", now).await.unwrap();
        }
        tx.commit().await.unwrap();
        let look = |owner| rows::claim(db, &scope, owner, now, lease);
        let claimed = tokio::join!(look("a"), look("b"), look("c"), look("d"));
        let claimed = [claimed.0, claimed.1, claimed.2, claimed.3].into_iter().filter_map(Result::unwrap);
        assert_eq!(claimed.count(), 1);
        stage.sql.execute("update reconciliation set state = 'done'", &[]).await.unwrap();
    }

    // One of two that read the bank is slow.
    statement::set_source(db, &debtors_bank(), true).await.unwrap();
    let told = |closing: i64| NewStatement {
        account: "reserve".to_owned(),
        currency: "EUR".to_owned(),
        opening: Some(0),
        closing: Some(closing),
        as_of: Some(now),
        ..NewStatement::default()
    };
    let first = statement::take(db, &reading(Numbers { after: 0, last: 5 }, 1), &[told(500)], now).await;
    assert!(matches!(first, Ok(Taken::New(_))), "{first:?}");
    let slow = statement::take(db, &reading(Numbers { after: 0, last: 3 }, 2), &[told(300)], now).await;
    assert!(matches!(slow, Ok(Taken::Repeat(_))), "{slow:?}");
    assert_eq!(statement::cursor(db, &debtors_bank()).await.unwrap(), 5);
    assert_eq!(statement::list(db, Some("alpha"), None, 10).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_records_than_a_run_may_look_at_are_matched_by_several_and_none_is_accused() {
    let stage = Stage::new(vec![]).await;
    let mut payments = Vec::new();
    for number in 0..12 {
        payments.push(stage.accept(Shape::BankToToken, 1_000 + 107 * number).await);
    }
    for payment in payments {
        stage.reaches(payment, "completed").await;
    }
    let runs = reconcile_in_parts(&stage, vec![debtors_bank()], 4).await;
    let summaries: Vec<&Value> = runs.iter().map(|run| run.summary.as_ref().unwrap()).collect();
    let (last, cut_off) = summaries.split_last().unwrap();
    assert!(
        cut_off.len() >= 2 && cut_off.iter().all(|summary| summary["is_whole"] == false),
        "{summaries:?}"
    );
    let matched: i64 = summaries.iter().map(|summary| summary["matched"].as_i64().unwrap()).sum();
    assert_eq!((matched, ever_opened(&stage).await), (12, vec![]), "{summaries:?}");
    assert_eq!((&last["is_whole"], &last["balance"][0]["is_told"]), (&true.into(), &true.into()), "{last}");
    assert_eq!(last["balance"][0]["unexplained"], 0, "{last}");
    let waiting = "select count(*) from recon_open";
    assert_eq!(stage.sql.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0), 0);
    let by: Vec<&str> = runs.iter().skip(1).map(|run| run.asked_by.as_str()).collect();
    assert!(by.iter().all(|by| *by == rows::CONTINUATION), "{by:?}");
    let night = segment::evidence(&stage.context.db, "alpha").await.unwrap();
    assert!(night.memory.is_none(), "a part of a night is held against no other");

    // The log says which report each of them wrote.
    let first = &runs[0];
    let html = rows::report(&stage.context.db, first.id, "html").await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&html).contains("More was there than one run may look at"));
    let told = "select data ->> 'manifest_sha256', data -> 'reports' ->> 'html' from event
        where kind = 'reconciliation.completed' and key = $1";
    let told = stage.sql.query_one(told, &[&first.id.as_uuid()]).await.unwrap();
    assert_eq!((told.get(0), told.get(1)), (first.manifest_sha256.clone(), Some(report::sha256(&html))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_more_lines_than_a_run_may_look_at_is_done_in_parts_and_only_the_last_names_what_is_strange()
 {
    let stage = Stage::new(vec![]).await;
    reads_files(&stage).await;
    let mut payments = Vec::new();
    for number in 0..7 {
        payments.push(stage.accept(Shape::BankToToken, 1_000 + 107 * number).await);
    }
    for payment in payments {
        stage.reaches(payment, "completed").await;
    }
    // All at one instant, at which no run may look at all of them.
    let at_once = "set session_replication_role = replica;
        update journal_entry set posted_at = (select max(posted_at) from journal_entry);
        set session_replication_role = origin";
    stage.sql.batch_execute(at_once).await.unwrap();
    let captured = "select reference, amount from effect join payment on payment.id = effect.payment_id
        where effect.kind = 'capture' order by amount";
    let captured = stage.sql.query(captured, &[]).await.unwrap();
    let captured: Vec<(String, i64)> = captured.iter().map(|row| (row.get(0), row.get(1))).collect();
    let today = intake::day(stage.context.now());
    let mut lines: Vec<(&str, &str, i64)> =
        captured.iter().map(|(reference, amount)| (today.as_str(), reference.as_str(), *amount)).collect();
    lines.extend([(today.as_str(), "STRANGE-1", 61_000), (today.as_str(), "STRANGE-2", 73_000)]);
    let closing = lines.iter().map(|(.., amount)| amount).sum();
    upload(&stage, "day.ofx", ofx_of(&lines, closing), None).await.unwrap();

    let runs = reconcile_in_parts(&stage, vec![], 3).await;
    let summaries: Vec<&Value> = runs.iter().map(|run| run.summary.as_ref().unwrap()).collect();
    let matched: i64 = summaries.iter().map(|summary| summary["matched"].as_i64().unwrap()).sum();
    assert_eq!(matched, 7, "{summaries:?}");
    assert_eq!(ever_opened(&stage).await, [("unexpected_receipt".to_owned(), 2)], "{summaries:?}");
    let last = summaries.last().unwrap();
    assert_eq!((&last["is_whole"], &last["balance"][0]["unexplained"]), (&true.into(), &0.into()), "{last}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_bank_does_wrongly_is_found_once_by_runs_that_do_it_in_parts() {
    for (fault, kind, left_over) in [
        (Fault::Kept { minor_units: 250 }, "fee_deducted", -500),
        (Fault::BookedTwice, "duplicate_bank_line", 0),
    ] {
        let twice = FaultRule { times_max: Some(2), ..next(fault, Target::Capture) };
        let stage = Stage::new(vec![twice]).await;
        for minor_units in [25_907, 14_059, 1_000, 1_107, 1_214, 1_321, 1_428] {
            let payment = stage.accept(Shape::BankToToken, minor_units).await;
            stage.reaches(payment, "completed").await;
        }
        let runs = reconcile_in_parts(&stage, vec![debtors_bank()], 3).await;
        let summaries: Vec<&Value> = runs.iter().map(|run| run.summary.as_ref().unwrap()).collect();
        assert!(summaries.len() > 2, "{summaries:?}");
        assert_eq!(ever_opened(&stage).await, [(kind.to_owned(), 2)], "{summaries:?}");
        let last = summaries.last().unwrap();
        let balance = &last["balance"][0];
        assert_eq!((&last["is_whole"], &balance["unexplained"]), (&true.into(), &0.into()), "{last}");
        assert_eq!(balance["differences"], left_over, "what a part has left over is not forgotten: {last}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_that_nothing_explains_and_that_are_too_many_do_not_have_runs_follow_each_other_for_ever() {
    let stage = Stage::new(vec![]).await;
    reads_files(&stage).await;
    let day = intake::day(stage.context.now().minus(Duration::from_secs(24 * 3600)));
    let lines = ["S1", "S2", "S3"].map(|reference| (day.as_str(), reference, 1_000));
    upload(&stage, "day.ofx", ofx_of(&lines, 3_000), None).await.unwrap();
    let runs = reconcile_in_parts(&stage, vec![], 2).await;
    let [only] = runs.as_slice() else { panic!("the next would get no further: {runs:?}") };
    assert_eq!(only.summary.as_ref().unwrap()["is_whole"], false);
    assert!(ever_opened(&stage).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_file_is_taken_in_once_and_a_bad_one_is_put_aside_with_its_reason() {
    let stage = Stage::new(vec![]).await;
    reads_files(&stage).await;
    let folder = tempfile::tempdir().unwrap();
    let of_bank = folder.path().join("alpha");
    fs::create_dir(&of_bank).unwrap();
    stage.take_in_from(Place::Folder(folder.path().to_owned()));
    let drop = |name: &str, text: String| {
        // It has its name only when it is whole.
        let unfinished = of_bank.join(format!("{name}.part"));
        fs::write(&unfinished, text).unwrap();
        fs::rename(unfinished, of_bank.join(name)).unwrap();
    };
    drop("monday.sta", mt940(1, "100,00", "200,00"));
    stage.until(async || of_bank.join("processed/monday.sta").exists()).await;
    drop("monday.sta", mt940(1, "100,00", "200,00"));
    stage.until(async || of_bank.join("processed/2-monday.sta").exists()).await;
    drop("tuesday.sta", mt940(2, "200,00", "310,00"));
    stage.until(async || of_bank.join("refused/tuesday.sta").exists()).await;
    let reason = fs::read_to_string(of_bank.join("refused/tuesday.sta.reason.txt")).unwrap();
    assert!(reason.contains("do not lead to closing 31000"), "{reason}");
    let taken = statement::list(&stage.context.db, Some("alpha"), None, 10).await.unwrap();
    let [only] = taken.as_slice() else { panic!("one statement: {taken:?}") };
    assert_eq!((only.channel.as_str(), only.name.as_str()), ("folder", "monday.sta"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_dropped_into_a_bucket_is_taken_in_once_and_a_bad_one_is_put_aside_with_its_reason() {
    let bucket = TestBucket::start().await;
    let stage = Stage::new(vec![]).await;
    reads_files(&stage).await;
    // As a console makes a folder.
    bucket.put("drop/alpha/", String::new()).await;
    stage.take_in_from(bucket.place("drop"));
    let is_there = async |key: &str| bucket.get(&format!("drop/alpha/{key}")).await.is_some();
    bucket.put("drop/alpha/monday.sta", mt940(1, "100,00", "200,00")).await;
    stage.until(async || is_there("processed/monday.sta").await && !is_there("monday.sta").await).await;
    // As whoever is stopped between copying and deleting leaves it.
    bucket.put("drop/alpha/monday.sta", mt940(1, "100,00", "200,00")).await;
    stage.until(async || is_there("processed/2-monday.sta").await && !is_there("monday.sta").await).await;
    bucket.put("drop/alpha/tuesday.sta", mt940(2, "200,00", "310,00")).await;
    bucket.put("drop/alpha/lines.csv", "booked_on;amount\n".to_owned()).await;
    for (name, why) in [("tuesday.sta", "do not lead to closing 31000"), ("lines.csv", "mapping")] {
        let refused = format!("refused/{name}");
        stage.until(async || is_there(&refused).await && !is_there(name).await).await;
        let reason = bucket.get(&format!("drop/alpha/{refused}.reason.txt")).await.unwrap();
        assert!(reason.contains(why), "{reason}");
    }
    let taken = statement::list(&stage.context.db, Some("alpha"), None, 10).await.unwrap();
    let [only] = taken.as_slice() else { panic!("one statement: {taken:?}") };
    assert_eq!((only.channel.as_str(), only.name.as_str()), ("folder", "monday.sta"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_people_decide_about_a_likely_match_is_counted_remembered_and_taught() {
    let stage = Stage::new(vec![]).await;
    reads_files(&stage).await;
    for minor_units in [10_000, 15_907] {
        let payment = stage.accept(Shape::BankToToken, minor_units).await;
        stage.reaches(payment, "completed").await;
    }
    // One line for both, without a word of which: their sum, and the debtor's account.
    let today = intake::day(stage.context.now()).replace('-', "");
    let (today, month_day) = (&today[2..], &today[4..]);
    let file = |number: u32, opening: &str, amount: &str, closing: &str| {
        format!(
            ":20:STARTUMS{number}\r\n:25:DE02120300000000202051\r\n:28C:{number}/1\r\n:60F:C{today}EUR{opening}\r\n\
             :61:{today}{month_day}C{amount}NTRFNONREF//A{number}\r\n\
             :86:166?00CREDIT?20RENT?31DE89370400440532013000?32DEBTOR\r\n:62F:C{today}EUR{closing}\r\n-\r\n"
        )
    };
    upload(&stage, "a.sta", file(1, "0,00", "259,07", "259,07"), None).await.unwrap();
    let run = stage.reconcile_files("alpha").await;
    let open = open(&stage).await;
    let [found] = open.as_slice() else { panic!("one question: {open:#?}") };
    assert_eq!(found.kind, exception::TO_CONFIRM);
    for (format, begins) in [("pdf", "%PDF"), ("camt", "<?xml")] {
        let body = rows::report(&stage.context.db, run.id, format).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&body);
        assert!(text.starts_with(begins) && text.contains(run.manifest_sha256.as_ref().unwrap()), "{format}");
    }

    let evidence = segment::evidence(&stage.context.db, "alpha").await.unwrap();
    let [judged] = evidence.judged.as_slice() else { panic!("{evidence:?}") };
    assert_eq!((judged.route.as_str(), judged.segment.how.as_str()), ("person", "group_sum"));
    assert_eq!(judged.model, Some(Model::shipped_sha256()), "by its run");
    assert_eq!(judged.segment.rail, "NTRF");
    assert!(evidence.ruled.is_empty());
    let decision = propose(&stage, found.id, DecisionKind::Accept).await.unwrap();
    let lessons = learning::read(&stage.context.db, stage.context.now(), 100).await.unwrap();
    assert!(lessons.rulings.is_empty(), "one person alone teaches nothing");
    answer(&stage, (found.id, decision), "checker").await.unwrap();
    let lessons = learning::read(&stage.context.db, stage.context.now(), 100).await.unwrap();
    let [ruling] = lessons.rulings.as_slice() else { panic!("{lessons:?}") };
    assert_eq!((ruling.verdict, ruling.by.as_str()), (Ruled::Accept, "maker"));
    let ids = |records: &[Record]| -> BTreeSet<String> {
        records.iter().map(|record| record.id.to_string()).collect()
    };
    assert_eq!(ruling.ledger.iter().cloned().collect::<BTreeSet<_>>(), ids(&lessons.ledger));
    assert_eq!((ruling.bank.iter().cloned().collect(), lessons.ledger.len()), (ids(&lessons.bank), 2));

    assert!(evidence.memory.is_none(), "what is asked for in between is no night");
    let first_night = stage.reconcile_night("alpha").await.id;
    let html = rows::report(&stage.context.db, first_night, "html").await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&html).contains("Too few nights yet: 0 earlier runs"));
    let night = segment::evidence(&stage.context.db, "alpha").await.unwrap();
    let nights: Memory = serde_json::from_slice(&night.memory.unwrap()).unwrap();
    assert_eq!((nights.runs.len(), night.ruled.len()), (1, 1));
    assert_eq!(nights.runs[0].model, Some(Model::shipped_sha256()));
    assert!(self::open(&stage).await.is_empty(), "a run never undoes what people decided");

    // What people put in force and nobody can read is told of, and the last good model judges.
    let lost = "a".repeat(64);
    put_in_force(&stage, &lost).await;
    for minor_units in [12_003, 17_041] {
        let payment = stage.accept(Shape::BankToToken, minor_units).await;
        stage.reaches(payment, "completed").await;
    }
    upload(&stage, "b.sta", file(2, "259,07", "290,44", "549,51"), None).await.unwrap();
    let run = stage.reconcile_files("alpha").await;
    let model = &run.summary.unwrap()["model"];
    assert_eq!(model["sha256"], Model::shipped_sha256(), "{model}");
    assert_eq!(model["passed_over"][0]["sha256"], lost, "{model}");
    let waiting = self::open(&stage).await;
    assert_eq!(waiting.iter().map(|found| found.kind.as_str()).collect::<Vec<_>>(), [exception::TO_CONFIRM]);
    let judged = segment::evidence(&stage.context.db, "alpha").await.unwrap().judged;
    assert_eq!(judged.len(), 1, "what stands in proves nothing for the one in force");

    // What stands of a segment is its last stage, and when it was last taken back.
    let moves =
        "insert into recon_stage (scope, account, rail, how, stage, decided, errors, audited, audit_errors,
            reconciliation_id, since)
        select 'alpha', 'DE02', 'NTRF', 'model', stage, 0, 0, 0, 0, $1, to_timestamp(seconds)
            from unnest(array['auto', 'suggest', 'auto'], array[1, 2, 3]) as moved (stage, seconds)";
    stage.sql.execute(moves, &[&run.id.as_uuid()]).await.unwrap();
    let stages = segment::evidence(&stage.context.db, "alpha").await.unwrap().stages;
    let [stands] = stages.as_slice() else { panic!("{stages:?}") };
    let seconds = (stands.since.as_secs_down(), stands.demoted_at.map(Timestamp::as_secs_down));
    assert_eq!((stands.stage.as_str(), seconds), ("auto", (3, Some(2))));
    assert_eq!(stands.model, Some(Model::shipped_sha256()), "by the run that moved it");
}

/// Two people put a model in force, which was never measured here.
async fn put_in_force(stage: &Stage, model: &str) {
    let (now, shipped) = (stage.context.now(), Model::shipped_sha256());
    let proposal = ModelProposal {
        id: ModelProposalId::generate(now, rand::random()),
        model: model.to_owned(),
        champion: shipped.clone(),
        comparison: Some(json!({})),
        reason: "it posts more".to_owned(),
        proposed_by: "maker".to_owned(),
        proposed_at: now,
        verdict: None,
    };
    let tx = stage.context.db.begin().await.unwrap();
    promotion::propose(&tx, &proposal, &shipped).await.unwrap().unwrap();
    let (of, given) = ((model, proposal.id), (Verdict::Confirmed, "checker"));
    promotion::answer(&tx, of, given, &shipped, now).await.unwrap().unwrap();
    tx.commit().await.unwrap();
}

/// From now on the debtor's bank tells its statements by files.
async fn reads_files(stage: &Stage) {
    statement::set_source(&stage.context.db, &debtors_bank(), false).await.unwrap();
}

fn debtors_bank() -> BankCode {
    BankCode::parse("alpha").unwrap()
}

/// Somebody brings a file of that bank.
async fn upload(
    stage: &Stage,
    name: &str,
    text: String,
    mapping: Option<&str>,
) -> Result<Uploaded, UploadError> {
    let upload = Upload {
        bank: debtors_bank(),
        channel: "api",
        name: name.to_owned(),
        by: "maker".to_owned(),
        mapping: mapping.map(str::to_owned),
        file: text.into_bytes(),
    };
    intake::file(&stage.context, upload).await
}

/// The debtor's bank tells more lines: its reference, the amount, whose account and whose name.
async fn tells(stage: &Stage, lines: &[(&str, i64, &str, &str)]) {
    let (db, now) = (&stage.context.db, stage.context.now());
    let account = "select reserve_accounts ->> 'EUR' from statement_source where bank_code = 'alpha'";
    let account: String = stage.sql.query_one(account, &[]).await.unwrap().get(0);
    let line = |(reference, amount, iban, name): &(&str, i64, &str, &str)| StatementLine {
        amount: *amount,
        booked_on: Some(intake::day(now)),
        bank_reference: (*reference).to_owned(),
        counterparty: (*name).to_owned(),
        counterparty_iban: (*iban).to_owned(),
        ..StatementLine::default()
    };
    let told = NewStatement {
        account,
        currency: "EUR".to_owned(),
        as_of: Some(now),
        lines: lines.iter().map(|of| NewLine { line: line(of), ..NewLine::default() }).collect(),
        ..NewStatement::default()
    };
    let here = statement::cursor(db, &debtors_bank()).await.unwrap();
    let reading = reading(Numbers { after: here, last: here }, 1);
    let taken = statement::take(db, &reading, &[told], now).await.unwrap();
    assert!(matches!(taken, Taken::New(_)), "{taken:?}");
}

/// Who read these numbers of the debtor's bank, as one reading and no other.
fn reading(numbers: Numbers, which: u8) -> Intake {
    Intake {
        bank: debtors_bank(),
        channel: "connector",
        sha256: [which; 32],
        format: "connector".to_owned(),
        name: "more lines".to_owned(),
        by: "stage".to_owned(),
        numbers: Some(numbers),
    }
}

/// A statement of one day with one line, its bank's reference and minor units, and without an opening balance.
fn ofx(day: &str, (reference, amount): (&str, i64), closing: i64) -> String {
    ofx_of(&[(day, reference, amount)], closing)
}

/// A download of several days, each line with its day; the balance is the last one's.
fn ofx_of(lines: &[(&str, &str, i64)], closing: i64) -> String {
    let shown = |units: i64| format!("{}.{:02}", units / 100, units % 100);
    let compact = |day: &str| day.replace('-', "");
    let line = |(day, reference, amount): &(&str, &str, i64)| {
        let (day, amount) = (compact(day), shown(*amount));
        format!(
            "<STMTTRN><TRNTYPE>CREDIT<DTPOSTED>{day}<TRNAMT>{amount}<FITID>{reference}<NAME>SOMEBODY</STMTTRN>"
        )
    };
    let last = lines.last().map_or_else(String::new, |(day, ..)| compact(day));
    let (lines, closing): (String, String) = (lines.iter().map(line).collect(), shown(closing));
    format!(
        "<OFX><STMTRS><CURDEF>EUR<BANKACCTFROM><ACCTID>DE02120300000000202051</BANKACCTFROM><BANKTRANLIST>{lines}\
         </BANKTRANLIST><LEDGERBAL><BALAMT>{closing}<DTASOF>{last}</LEDGERBAL></STMTRS></OFX>"
    )
}

fn mt940(number: u32, opening: &str, closing: &str) -> String {
    let line = ":61:2611021102C50,00NTRFNONREF//SAME\r\n:86:RENT\r\n";
    format!(
        ":20:STARTUMS\r\n:25:DE02120300000000202051\r\n:28C:{number}/1\r\n:60F:C261101EUR{opening}\r\n{line}{line}:62F:C261102EUR{closing}\r\n-\r\n"
    )
}

async fn open(stage: &Stage) -> Vec<Exception> {
    let filter = ExceptionFilter { state: Some("open".to_owned()), ..ExceptionFilter::default() };
    exception::list(&stage.context.db, &filter, 100).await.unwrap()
}

fn decision(kind: DecisionKind, stage: &Stage) -> Decision {
    Decision {
        id: DecisionId::generate(stage.context.now(), rand::random()),
        kind,
        partner: None,
        reason: "the bank says so".to_owned(),
        proposed_by: "maker".to_owned(),
        proposed_at: stage.context.now(),
        verdict: None,
    }
}

async fn propose(stage: &Stage, id: ExceptionId, kind: DecisionKind) -> Result<DecisionId, DecisionRefusal> {
    let tx = stage.context.db.begin().await.unwrap();
    let decision = decision(kind, stage);
    exception::propose(&tx, id, &decision).await.unwrap()?;
    tx.commit().await.unwrap();
    Ok(decision.id)
}

async fn answer(stage: &Stage, of: (ExceptionId, DecisionId), by: &str) -> Result<(), DecisionRefusal> {
    let tx = stage.context.db.begin().await.unwrap();
    exception::answer(&tx, of, Verdict::Confirmed, by, stage.context.now()).await.unwrap()?;
    tx.commit().await.unwrap();
    Ok(())
}

/// What a run writes that was cut off before it found anything.
fn nothing_found(now: Timestamp) -> Findings {
    Findings {
        as_of: None,
        ledger_until: now,
        manifest_sha256: String::new(),
        summary: json!({ "is_whole": false }),
        matches: vec![],
        open: vec![],
        exceptions: vec![],
        reports: vec![],
        learned: Learned::default(),
        is_whole: false,
        proven: vec![],
    }
}

/// Is every run that was asked for done?
pub(crate) async fn nothing_waits(stage: &Stage) -> bool {
    let waiting = "select count(*) from reconciliation where state in ('asked', 'running')";
    stage.sql.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 0
}

/// A night of that bank and the runs that follow it, each of which may look at so many records of a side; oldest first.
async fn reconcile_in_parts(stage: &Stage, connectors: Vec<BankCode>, records_max: usize) -> Vec<Run> {
    reconcile_all(stage, (stage.banks.clone(), connectors), true, records_max).await
}

/// A run of that bank and those that follow it; all that there have been, oldest first.
async fn reconcile_all(
    stage: &Stage,
    (banks, connectors): (Arc<BankRegistry>, Vec<BankCode>),
    is_nightly: bool,
    records_max: usize,
) -> Vec<Run> {
    let (db, scope) = (&stage.context.db, debtors_bank().as_str().to_owned());
    let tx = db.begin().await.unwrap();
    rows::ask(&tx, &[scope], (is_nightly, "2026-11-28"), "stage", stage.context.now()).await.unwrap();
    tx.commit().await.unwrap();
    let (context, stop) = (stage.context.clone(), CancellationToken::new());
    let settings = Settings { poll: Duration::from_millis(20), records_max, ..Settings::default() };
    let working = tokio::spawn(reconciliation::run(context, banks, connectors, settings, stop.clone()));
    stage.until(async || nothing_waits(stage).await).await;
    stop.cancel();
    working.await.unwrap();
    let mut runs = rows::list(db, Some("alpha"), None, 100).await.unwrap();
    assert!(runs.iter().all(done));
    runs.reverse();
    runs
}

/// What a bank answers: its balances, and its statement after an entry.
type Told = (Value, Box<dyn Fn(u64) -> Value + Send>);

/// The debtor's bank, by answers that the test writes.
struct Teller {
    told: Arc<Mutex<Told>>,
    banks: Arc<BankRegistry>,
}

impl Teller {
    async fn start(stage: &Stage) -> Self {
        let told: Arc<Mutex<Told>> = Arc::new(Mutex::new((Value::Null, Box::new(|_| Value::Null))));
        let (balances, statement) = (told.clone(), told.clone());
        let after = |uri: &Uri| {
            let mut wanted = uri.query().unwrap_or_default().split('&');
            wanted.find_map(|pair| pair.strip_prefix("after=")?.parse().ok()).unwrap()
        };
        let router = Router::new()
            .route("/banks/alpha/balances", get(async move || Json(balances.lock().unwrap().0.clone())))
            .route(
                "/banks/alpha/statement",
                get(async move |uri: Uri| Json((statement.lock().unwrap().1)(after(&uri)))),
            );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(axum::serve(listener, router).into_future());
        let config =
            SimulatorClientConfig::new(debtors_bank(), url, BearerKey::new("client"), HoldMode::Native);
        let connector: Arc<dyn BankConnector> = Arc::new(SimulatorClient::new(config).unwrap());
        let bank = [(debtors_bank(), connector)];
        let banks = BankRegistry::new(bank, GuardConfig::default(), &stage.context.clock, None);
        Self { told, banks: Arc::new(banks) }
    }

    /// From now on: so much on the reserve at that instant, and this statement.
    fn tells(&self, (amount, as_of): (i64, i64), statement: impl Fn(u64) -> Value + Send + 'static) {
        let line = json!({ "account": "reserve", "posted": { "amount": amount, "currency": "EUR" } });
        let balances = json!({ "as_of_us": as_of, "accounts": [line] });
        *self.told.lock().unwrap() = (balances, Box::new(statement));
    }

    async fn reconcile(&self, stage: &Stage, records_max: usize) {
        reconcile_all(stage, (self.banks.clone(), vec![debtors_bank()]), false, records_max).await;
    }
}

/// What every run together has opened, whatever became of it, by kind.
async fn ever_opened(stage: &Stage) -> Vec<(String, i64)> {
    let opened = "select kind, count(*) from recon_exception group by kind order by kind";
    stage.sql.query(opened, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// A run that is done.
pub(crate) fn done(run: &Run) -> bool {
    assert_ne!(run.state, "failed", "{:?}", run.cause);
    run.state == "done"
}
