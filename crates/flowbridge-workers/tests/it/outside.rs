//! Tokens that move without us, in amounts that no bank knows, and tokens that their owner cannot be given: whatever holders,
//! strangers and compliance do on chain, payments go on and the ledger is equal to the chain.

use crate::stage::{Shape, Stage, key};
use flowbridge_chain::call;
use flowbridge_chain::deploy::Admin;
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::party::EvmAddress;
use flowbridge_store::lifecycle;
use std::time::Duration;

/// Places in the list of funded accounts.
const COMPLIANCE: usize = 0;
const GUARDIAN: usize = 4;
const DEBTOR: usize = 6;
const CREDITOR: usize = 7;

const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_unit_that_moves_past_us_stops_nobody() {
    let stage = Stage::new(vec![]).await;
    let before = stage.accept(Shape::BankToToken, 1_000).await;
    stage.reaches(before, "completed").await;
    let (token, other) = (stage.contracts.token, key(DEBTOR).address());
    send(&stage, CREDITOR, token, call::transfer(&other, 1)).await;
    stage.until_found("select 1 from journal_entry where moment = 'custody_transfer' and amount = 1").await;
    let after = stage.accept(Shape::BankToToken, 1_000).await;
    stage.reaches(after, "completed").await;
    assert_eq!(stage.tokens_of_creditor().await, 19_999_999);
    stage.requires_proof().await;

    // The rest of the cent follows, until a reorganisation takes it back.
    send(&stage, CREDITOR, token, call::transfer(&other, 9_999)).await;
    let whole = "select 1 from ledger_account where kind = 'suspense' and posted_debits = posted_credits";
    stage.until_found(whole).await;
    is_whole_through_a_reorganisation(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_come_to_the_manager_for_no_payment_are_in_suspense_until_they_are_sent_on() {
    let stage = Stage::new(vec![]).await;
    let payment = stage.accept(Shape::BankToToken, 1_000).await;
    stage.reaches(payment, "completed").await;
    for to in [stage.contracts.manager, stage.contracts.house] {
        send(&stage, CREDITOR, stage.contracts.token, call::transfer(&to, 15_000)).await;
    }
    let ours = "select 1 from ledger_account where kind = 'wallet_house' and posted_credits = 1";
    stage.until_found(ours).await;
    stage.requires_proof().await;
    let sent_on = call::release_surplus(&key(DEBTOR).address());
    send(&stage, COMPLIANCE, stage.contracts.manager, sent_on).await;
    stage.until_found("select 1 from ledger_account where kind = 'suspense' and posted_debits = 1").await;
    stage.requires_proof().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_frozen_wallet_cannot_be_given_back_is_its_own_until_compliance_sends_it_on() {
    let (stage, payment) = waiting_for_settlement().await;
    let (token, manager) = (stage.contracts.token, stage.contracts.manager);
    send(&stage, GUARDIAN, token, call::freeze(&stage.creditor_wallet)).await;
    cancel(&stage, payment).await;
    stage.reaches(payment, "failed").await;
    stage.until_found("select 1 from chain_quarantine where units = 10000000").await;
    assert_eq!(stage.tokens_of_creditor().await, 0);
    stage.requires_proof().await;

    let sent_on = call::release_quarantine(&stage.creditor_wallet, &key(DEBTOR).address());
    send(&stage, COMPLIANCE, manager, sent_on).await;
    let named = "select 1 from journal_entry where moment = 'custody_transfer' and amount = 1000";
    stage.until_found(named).await;
    is_whole_through_a_reorganisation(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proof_counts_what_a_failed_payment_has_in_escrow_again() {
    let (stage, payment) = waiting_for_settlement().await;
    // What is reorganised reaches the cancellation and not the initiation.
    stage.blocks_pass(4).await;
    cancel(&stage, payment).await;
    stage.reaches(payment, "failed").await;
    stage.anvil.freeze();
    stage.take_back_newest_log().await;
    stage.until_found("select 1 from payment where state = 'failed' and chain_leg = 'open'").await;
    stage.requires_proof().await;
    stage.anvil.thaw();
    stage.until_found("select 1 from payment where state = 'failed' and chain_leg = 'closed'").await;
    stage.holds_eventually().await;
}

/// A payment of all the tokens that the creditor's wallet has, in escrow while settlement is stopped.
async fn waiting_for_settlement() -> (Stage, PaymentId) {
    let stage = Stage::new(vec![]).await;
    let funding = stage.accept(Shape::BankToToken, 1_000).await;
    stage.reaches(funding, "completed").await;
    let (token, manager) = (stage.contracts.token, stage.contracts.manager);
    send(&stage, CREDITOR, token, call::approve(&manager, u64::MAX)).await;
    send(&stage, GUARDIAN, manager, call::pause()).await;
    let payment = stage.accept(Shape::TokenBack, 1_000).await;
    stage.reaches(payment, "held").await;
    (stage, payment)
}

/// What has just moved past us is proven, is proven when a reorganisation takes it back, and in the end.
async fn is_whole_through_a_reorganisation(stage: &Stage) {
    stage.anvil.freeze();
    stage.requires_proof().await;
    stage.take_back_newest_log().await;
    stage.until_found("select 1 from journal_entry where moment = 'custody_transfer_removed'").await;
    stage.requires_proof().await;
    stage.anvil.thaw();
    stage.holds_eventually().await;
}

async fn cancel(stage: &Stage, payment: PaymentId) {
    let tx = stage.context.db.begin().await.unwrap();
    lifecycle::cancel(&tx, &[payment], stage.context.now()).await.unwrap();
    tx.commit().await.unwrap();
}

async fn send(stage: &Stage, from: usize, to: EvmAddress, calldata: Vec<u8>) {
    let key = key(from);
    let admin = Admin { chain: &*stage.chain, chain_id: 31337, key: &key, patience: PATIENCE };
    admin.send(Some(&to), &calldata).await.unwrap();
}
