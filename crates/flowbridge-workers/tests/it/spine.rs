//! A payment through all its steps: a real PostgreSQL, a real chain node with the contracts, real banks over HTTP.

use crate::stage::{Shape, Stage, next};
use flowbridge_bank::simulator::{Fault, Target};

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
    stage.reorganise(3).await;
    let later = stage.accept(Shape::BankToToken, 500).await;
    stage.reaches(later, "completed").await;
    assert_eq!(stage.state(payment).await, "completed");
    stage.holds_eventually().await;
    assert_eq!(stage.tokens_of_creditor().await, 35_000_000);
}
