//! A payment through all its steps: a real PostgreSQL, a real chain node with the contracts, real banks over HTTP.

use crate::stage::{Shape, Stage, Tuning, next};
use flowbridge_bank::connector::{Operation, Outcome, QueryOutcome};
use flowbridge_bank::registry::{BankDesk, BankRegistry};
use flowbridge_bank::simulator::{Fault, Target};
use flowbridge_chain::At;
use flowbridge_domain::bank::{BankStep, OperationKey};
use flowbridge_domain::id::{PaymentId, ReviewId};
use flowbridge_domain::party::BankCode;
use flowbridge_domain::payment::Decision;
use flowbridge_domain::time::Timestamp;
use flowbridge_store::event_log::{self, Offset, ReplayFrom};
use flowbridge_store::reconciliation as runs;
use flowbridge_store::review::{self, Review, Verdict};
use flowbridge_workers::orchestrator;
use std::sync::{Arc, OnceLock};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bank_funded_payment_is_held_settled_and_captured() {
    let stage = Stage::new(vec![]).await;
    let payment = stage.accept(Shape::BankToToken, 25_000).await;
    stage.reaches(payment, "completed").await;
    assert_eq!(
        stage.history(payment).await,
        ["payment.initiated", "payment.held", "payment.settled", "payment.completed"]
    );
    assert_eq!(stage.tokens_of_creditor().await, 250_000_000, "six decimals");
    stage.requires_proof().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bank_payout_is_credited_and_its_tokens_are_burned() {
    let stage = Stage::new(vec![]).await;
    // The creditor's bank pays out of what we have there.
    let funding = stage.accept(Shape::Back, 50_000).await;
    stage.reaches(funding, "completed").await;
    let payment = stage.accept(Shape::BankToBank, 12_000).await;
    stage.reaches(payment, "completed").await;
    assert_eq!(stage.tokens_of_creditor().await, 0, "a bank payout reaches no wallet");
    stage.requires_proof().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payout_that_the_bank_declines_goes_to_the_creditor_s_wallet() {
    // Nothing has been captured at the creditor's bank, so it has nothing to pay out of.
    let stage = Stage::new(vec![]).await;
    let payment = stage.accept(Shape::BankToBank, 8_000).await;
    stage.reaches(payment, "completed").await;
    assert_eq!(stage.tokens_of_creditor().await, 80_000_000);
    stage.requires_proof().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_declined_hold_cancels_the_payment_on_chain() {
    let stage = Stage::new(vec![]).await;
    let payment = stage.accept(Shape::BankToToken, 100_000_000).await;
    stage.reaches(payment, "failed").await;
    assert_eq!(stage.reason(payment).await, "hold_declined:AM04");
    assert_eq!(stage.tokens_of_creditor().await, 0);
    stage.requires_proof().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_reply_to_a_capture_is_resolved_by_asking_and_captured_once() {
    let stage = Stage::new(vec![next(Fault::LostReply { silent_ms: 0 }, Target::Capture)]).await;
    let payment = stage.accept(Shape::BankToToken, 1_000).await;
    stage.reaches(payment, "completed").await;
    stage.requires_proof().await;
}

/// The banks, but for what one of them says of the first capture that it is asked for: a column cannot hold it.
#[derive(Debug)]
struct Garbled {
    banks: Arc<BankRegistry>,
    first: OnceLock<OperationKey>,
}

#[async_trait::async_trait]
impl BankDesk for Garbled {
    async fn execute(&self, operations: &[(BankCode, Operation)]) -> Vec<Outcome> {
        let mut outcomes = self.banks.execute(operations).await;
        for ((_, operation), outcome) in operations.iter().zip(&mut outcomes) {
            let is_capture = operation.key().step == BankStep::Capture;
            if let Outcome::Done(receipt) = outcome
                && is_capture
                && *self.first.get_or_init(|| operation.key()) == operation.key()
            {
                receipt.reference = "ALPHA\0".to_owned();
            }
        }
        outcomes
    }

    async fn query(&self, keys: &[(BankCode, OperationKey)]) -> Vec<QueryOutcome> {
        self.banks.query(keys).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_bank_says_that_cannot_be_written_down_stops_no_neighbour_and_people_have_it_asked_again() {
    let stage = Stage::tuned(vec![], Tuning { others: false, ..Tuning::default() }).await;
    let garbled = Arc::new(Garbled { banks: stage.banks.clone(), first: OnceLock::new() });
    stage.start_others(garbled.clone());
    let payments = stage.accept_together(4, None).await;
    let waiting = "select 1 from payment where state = 'under_review'";
    stage.until_found(waiting).await;
    let said = garbled.first.get().unwrap().payment_id;
    for payment in payments {
        stage.reaches(payment, if payment == said { "under_review" } else { "completed" }).await;
    }
    assert_eq!(stage.reason(said).await, "bank_refused");

    let now = stage.context.now();
    let review = Review {
        id: ReviewId::generate(now, rand::random()),
        payment: said,
        decision: Decision::Resume,
        note: "it is booked, says the bank".to_owned(),
        proposed_by: "maker".to_owned(),
        proposed_at: now,
        verdict: None,
    };
    let tx = stage.context.db.begin().await.unwrap();
    review::propose(&tx, &review).await.unwrap().unwrap();
    review::answer(&tx, (said, review.id), Verdict::Confirmed, "checker", now).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    stage.reaches(said, "completed").await;
    stage.requires_proof().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_declined_after_settlement_is_a_loss_that_a_person_looks_at() {
    let decline = Fault::Decline { reason: Some("AC06".into()), text: None };
    let stage = Stage::new(vec![next(decline, Target::Capture)]).await;
    let payment = stage.accept(Shape::BankToToken, 1_000).await;
    stage.reaches(payment, "under_review").await;
    assert_eq!(stage.reason(payment).await, "capture_failed");
    stage.requires_proof().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reorganisation_below_a_settled_payment_ends_in_the_same_place() {
    let stage = Stage::new(vec![]).await;
    let payment = stage.accept(Shape::BankToToken, 3_000).await;
    stage.reaches(payment, "completed").await;
    stage.take_back_newest_log().await;
    let later = stage.accept(Shape::BankToToken, 500).await;
    stage.reaches(later, "completed").await;
    assert_eq!(stage.state(payment).await, "completed");
    stage.holds_eventually().await;
    assert_eq!(stage.tokens_of_creditor().await, 35_000_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_is_set_back_reads_again_and_changes_nothing() {
    let stage = Stage::new(vec![]).await;
    let payment = stage.accept(Shape::BankToToken, 1_000).await;
    stage.reaches(payment, "completed").await;
    stage
        .until_found("select 1 from chain_tx where purpose = 'settle' and included_number is not null")
        .await;
    stage.anvil.freeze();
    let settled = "select included_number from chain_tx where purpose = 'settle'";
    let settled: i64 = stage.sql.query_one(settled, &[]).await.unwrap().get(0);
    let head = stage.chain.block(At::Latest).await.unwrap().unwrap().number;
    stage.reorganise(head + 1 - u64::try_from(settled).unwrap()).await;
    stage.until_found("select 1 from event where kind = 'chain.settled.removed'").await;
    stage.anvil.thaw();
    stage.until_found("select 1 from event where kind = 'chain.settled' having count(*) = 2").await;
    stage.holds_eventually().await;

    // Said now for the first time, that the settlement is gone would send it to a person: it is too late to settle it again.
    let late = "update payment set initiate_before = now() - interval '2 min', expires_at = now() - interval '1 min'";
    stage.sql.execute(late, &[]).await.unwrap();
    let before = stage.history(payment).await;
    let set_to = async |offset| {
        let db = &stage.context.db;
        event_log::replay(db, orchestrator::GROUP, ReplayFrom::After(offset)).await.unwrap().unwrap();
        stage
            .until(async || {
                let lag = event_log::lag(db).await.unwrap();
                lag.iter().all(|(group, _, behind)| group != orchestrator::GROUP || *behind == 0)
            })
            .await;
    };
    set_to(Offset::START).await;
    assert_eq!((stage.state(payment).await.as_str(), stage.history(payment).await), ("completed", before));

    let db = &stage.context.db;
    let nobodys = ReplayFrom::Payment(PaymentId::generate(stage.context.now(), [7; 10]));
    let stands = event_log::replay(db, orchestrator::GROUP, nobodys).await.unwrap().unwrap();
    assert!(stands.xid > 0, "where there is no such event, nothing is read again");
    // Set back, and nobody is there to read: what was taken in counts as taken in.
    let set_back = "update consumer_offset set xid = 0, seq = 0, epoch = epoch + 1, owner = 'the test',
            lease_until = 'infinity' where consumer_group = 'orchestrator'";
    stage.sql.execute(set_back, &[]).await.unwrap();
    stage.requires_proof().await;
    let (from, to) = (Timestamp::from_secs(0), stage.context.now());
    let all = runs::Window { from, to, late_before: from };
    let (_, unread) = runs::settled(db, "EUR", all, &[], 10).await.unwrap();
    assert!(unread.is_empty(), "{unread:?}");

    // Never forward: what it has not read yet is read.
    set_to(Offset { xid: i64::MAX, seq: i64::MAX }).await;
    let next = stage.accept(Shape::BankToToken, 500).await;
    stage.reaches(next, "completed").await;
    stage.holds_eventually().await;
}
