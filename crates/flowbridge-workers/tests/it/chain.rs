//! The chain role under faults: nodes that die, sockets that say nothing, fees that rise, keys that others use, payments that
//! the contracts refuse, and cancellations that race settlements. Each ends with every payment in one place and the proof.

use crate::stage::{Shape, Stage, Tuning, key, next};
use flowbridge_bank::simulator::{Fault, FaultRule, Target};
use flowbridge_chain::deploy::Admin;
use flowbridge_chain::leaf::LeafTerms;
use flowbridge_chain::signer::Unsigned;
use flowbridge_chain::watch::Bell;
use flowbridge_chain::{At, Leaf, call, vault};
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::party::EvmAddress;
use flowbridge_embedded::shim::{Shim, Weather};
use flowbridge_store::chain::{self as rows, Duty, Lane};
use flowbridge_store::{breaker, event_log, lifecycle, query};
use flowbridge_workers::chain::{self, ChainRole};
use flowbridge_workers::context::Context;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Places in the list of funded accounts.
const DEPLOYER: usize = 0;
const INITIATOR: usize = 1;
const GUARDIAN: usize = 4;
const HOUSE: usize = 5;
const DEBTOR: usize = 6;
const CREDITOR: usize = 7;

const PATIENCE: Duration = Duration::from_secs(120);
const GWEI: u64 = 1_000_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payments_complete_around_one_that_the_router_refuses() {
    let stage = Stage::new(vec![]).await;
    let payments = stage.accept_together(5, Some(2)).await;
    for (place, payment) in payments.iter().enumerate() {
        if place == 2 {
            stage.reaches(*payment, "failed").await;
            assert_eq!(stage.reason(*payment).await, "not_valid");
        } else {
            stage.reaches(*payment, "completed").await;
        }
    }
    stage.requires_proof().await;
}

async fn in_an_hour(stage: &Stage) -> u64 {
    let newest = stage.chain.block(At::Latest).await.unwrap().unwrap();
    u64::try_from(newest.time.as_secs_down()).unwrap() + 3_600
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payments_complete_around_one_whose_number_somebody_else_used() {
    let stage = Stage::new(vec![]).await;
    let foreign = Leaf {
        number: 3,
        payment_id: PaymentId::generate(stage.context.now(), rand::random()),
        debtor: stage.creditor_wallet,
        creditor: stage.creditor_wallet,
        amount: 1,
        fee: 0,
        expires_at: in_an_hour(&stage).await,
        terms: LeafTerms { token_funded: false, paid_out_by_bank: false },
    };
    let thief = key(INITIATOR);
    let admin = Admin { chain: &*stage.chain, chain_id: 31337, key: &thief, patience: PATIENCE };
    admin.send(Some(&stage.contracts.router), &call::initiate_batch(&[foreign], u64::MAX)).await.unwrap();
    let payments = stage.accept_together(5, None).await;
    for place in [0, 1, 3, 4] {
        stage.reaches(payments[place], "completed").await;
    }
    assert_eq!(stage.state(payments[2]).await, "accepted", "asked for until its window closes");
    assert_eq!(stage.tokens_of_creditor().await, 40_000_000);
    stage.requires_proof().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_creditor_waits_for_a_person_and_its_neighbours_do_not() {
    let stage = Stage::new(vec![]).await;
    stage.guardian(stage.contracts.token, call::freeze(&stage.creditor_wallet)).await;
    let frozen = stage.accept(Shape::BankToToken, 1_000).await;
    let neighbour = stage.accept(Shape::Back, 2_000).await;
    stage.reaches(neighbour, "completed").await;
    stage.reaches(frozen, "under_review").await;
    assert_eq!(stage.reason(frozen).await, "creditor_blocked");
    stage.requires_proof().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_and_comes_back_costs_time_only() {
    let mut stage = Stage::new(vec![slow_hold()]).await;
    let before = stage.accept(Shape::BankToToken, 1_000).await;
    stage.reaches(before, "initiated").await;
    stage.anvil.kill();
    let during = stage.accept(Shape::BankToToken, 2_000).await;
    stage.anvil.restart().unwrap();
    stage.reaches(before, "completed").await;
    stage.reaches(during, "completed").await;
    assert_eq!(stage.tokens_of_creditor().await, 30_000_000);
    stage.requires_proof().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_never_says_anything_costs_latency_only() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", silent.local_addr().unwrap());
    let bell = Some(Bell::at(url, Duration::from_secs(1)));
    let stage = Stage::tuned(vec![], Tuning { bell, ..Tuning::default() }).await;
    let payment = stage.accept(Shape::BankToToken, 1_000).await;
    stage.reaches(payment, "completed").await;
    assert!(
        tokio::time::timeout(PATIENCE, silent.accept()).await.is_ok(),
        "it was listened to all the while"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_offers_too_little_is_replaced_by_one_that_offers_more() {
    let tuning = Tuning { bump_after: Duration::from_secs(1), ..Tuning::default() };
    let stage = Stage::tuned(vec![], tuning).await;
    stage.anvil.freeze();
    let payment = stage.accept(Shape::BankToToken, 1_000).await;
    stage.until_found("select 1 from chain_tx where state = 'broadcast'").await;
    stage.node("anvil_setNextBlockBaseFeePerGas", json!(["0x174876e800"])).await;
    stage.anvil.thaw();
    stage.reaches(payment, "completed").await;
    stage.until_found("select 1 from chain_tx where purpose = 'initiate' and versions > 1").await;
    stage.requires_proof().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_at_the_cap_that_the_node_forgot_goes_on_when_the_market_falls() {
    let stage = Stage::tuned(vec![], Tuning { chain: false, ..Tuning::default() }).await;
    let mut role = stage.chain_role(Tuning::quick());
    // The first version offers all that it may.
    role.settings.fees.fee_per_gas_max = GWEI;
    stage.run_chain_role("capped", role);
    stage.anvil.freeze();
    let payment = stage.accept(Shape::BankToToken, 1_000).await;
    stage.until_found("select 1 from chain_tx where state = 'broadcast'").await;
    stage.node("anvil_setNextBlockBaseFeePerGas", json!([format!("{:#x}", 2 * GWEI)])).await;
    stage.node("anvil_dropAllTransactions", json!([])).await;
    // Longer than it would wait for a higher fee.
    stage.until_found("select 1 from chain_tx where signed_at < now() - interval '3 seconds'").await;
    // Each empty block takes an eighth off the market.
    stage.anvil.thaw();
    stage.reaches(payment, "completed").await;
    let initiations =
        "select 1 from chain_tx where purpose = 'initiate' having count(*) = 1 and max(versions) = 1";
    stage.until_found(initiations).await;
    stage.requires_proof().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nonce_that_somebody_else_used_is_noticed_and_the_payment_signed_anew() {
    let stage = Stage::new(vec![]).await;
    stage.anvil.freeze();
    let payment = stage.accept(Shape::BankToToken, 1_000).await;
    stage.until_found("select 1 from chain_tx where state = 'broadcast'").await;
    let thief = key(INITIATOR);
    let own = thief.address();
    let nonce = stage.chain.nonce(&own, At::Latest).await.unwrap();
    let stolen = Unsigned {
        chain_id: 31337,
        nonce,
        to: Some(&own),
        calldata: &[],
        value: 0,
        gas_limit: 21_000,
        fee_per_gas: 100_000_000_000,
        priority_fee: 50_000_000_000,
    };
    stage.chain.send(&thief.sign(&stolen).unwrap().raw).await.unwrap();
    stage.anvil.thaw();
    stage.reaches(payment, "completed").await;
    let nonces = stage.chain.nonce(&own, At::Latest).await.unwrap();
    assert_eq!(nonces, nonce + 2, "the stolen one and one of ours, and no hole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nonce_whose_receipt_comes_a_moment_later_is_nobody_elses() {
    let stage = Stage::tuned(vec![], Tuning { spoiled: true, ..Tuning::default() }).await;
    stage.anvil.freeze();
    let payment = stage.accept(Shape::BankToToken, 1_000).await;
    stage.until_found("select 1 from chain_tx where state = 'broadcast'").await;
    for shim in stage.shims() {
        shim.set(Weather::NoReceipts);
    }
    stage.node("evm_mine", json!([])).await;
    let missing = || stage.shims().iter().map(Shim::receipts_missing).sum::<u32>();
    stage.until(async || missing() > 0).await;
    for shim in stage.shims() {
        shim.set(Weather::Fair);
    }
    stage.anvil.thaw();
    stage.reaches(payment, "completed").await;
    let sent_once = "select 1 from chain_tx where purpose = 'initiate'
        having count(*) = 1 and bool_and(state in ('included', 'confirmed', 'finalized'))";
    stage.until_found(sent_once).await;
    stage.requires_proof().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lanes_new_key_waits_for_what_the_old_one_signed_and_takes_what_it_did_not() {
    let stage = Stage::tuned(vec![], Tuning { chain: false, ..Tuning::default() }).await;
    let (old, new) = (key(INITIATOR).address(), key(HOUSE).address());
    let deployer = key(DEPLOYER);
    let admin = Admin { chain: &*stage.chain, chain_id: 31337, key: &deployer, patience: PATIENCE };
    let grant = vault::grant_role(&stage.contracts.router, "INITIATOR_ROLE", &new);
    admin.send(Some(&grant.to), &grant.data).await.unwrap();

    let (stop, running) = stage.run_chain_role("with the old key", stage.chain_role(Tuning::quick()));
    stage.anvil.freeze();
    let signed = stage.accept(Shape::BankToToken, 1_000).await;
    stage.until_found("select 1 from chain_tx where state = 'broadcast'").await;
    stage.signer_down.store(true, Ordering::Relaxed);
    let unsigned = stage.accept(Shape::BankToToken, 2_000).await;
    stage.until_found("select 1 from chain_tx where state = 'numbered'").await;
    stop.cancel();
    running.await.unwrap();
    stage.signer_down.store(false, Ordering::Relaxed);

    // The node forgets what would be offered more by now, if anybody could sign for it.
    stage.until_found("select 1 from chain_tx where signed_at < now() - interval '1 second'").await;
    stage.node("anvil_dropAllTransactions", json!([])).await;
    let used = stage.chain.nonce(&old, At::Latest).await.unwrap();
    let mut role = stage.chain_role(Tuning::quick());
    role.signers.insert(Lane::first(Duty::Initiator), Arc::new(key(HOUSE)));
    stage.run_chain_role("with the new key", role);
    stage.until(async || stage.chain.nonce(&old, At::Pending).await.unwrap() > used).await;
    stage.anvil.thaw();
    stage.reaches(signed, "completed").await;
    stage.reaches(unsigned, "completed").await;
    assert_eq!(stage.chain.nonce(&old, At::Latest).await.unwrap(), used + 1);
    assert_eq!(stage.chain.nonce(&new, At::Latest).await.unwrap(), 1);
    stage.requires_proof().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancellation_that_races_a_settlement_ends_as_the_chain_decided() {
    let stage = Stage::new(vec![slow_hold()]).await;
    let payment = stage.accept(Shape::BankToToken, 1_000).await;
    stage.reaches(payment, "initiated").await;
    stage.anvil.freeze();
    stage.until_found("select 1 from chain_tx where purpose = 'settle' and state = 'broadcast'").await;
    stage.cancel(payment).await;
    stage.until_found("select 1 from chain_tx where purpose = 'cancel' and state = 'broadcast'").await;
    stage.anvil.thaw();
    stage.until_found("select 1 from payment where state in ('completed', 'failed')").await;
    let settled = stage.state(payment).await == "completed";
    assert_eq!(stage.tokens_of_creditor().await, if settled { 10_000_000 } else { 0 });
    stage.until_found("select 1 from chain_log where kind = 'skipped'").await;
    stage.requires_proof().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancellation_ahead_of_a_settlement_wins_and_the_settlement_moves_nothing() {
    let stage = Stage::new(vec![]).await;
    stage.guardian(stage.contracts.manager, call::pause()).await;
    let payment = stage.accept(Shape::BankToToken, 1_000).await;
    stage.until_found("select 1 from chain_tx where purpose = 'settle' and state = 'intended'").await;
    stage.cancel(payment).await;
    stage.reaches(payment, "failed").await;
    stage.guardian(stage.contracts.manager, call::unpause()).await;
    stage.until_found("select 1 from chain_log where kind = 'skipped'").await;
    assert_eq!(stage.state(payment).await, "failed");
    assert_eq!(stage.tokens_of_creditor().await, 0);
    stage.requires_proof().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_put_together_and_has_no_nonce_is_held_back_by_the_breaker() {
    let stage = Stage::new(vec![]).await;
    stage.guardian(stage.contracts.manager, call::pause()).await;
    let payment = stage.accept(Shape::BankToToken, 1_000).await;
    stage.until_found("select 1 from chain_tx where purpose = 'settle' and state = 'intended'").await;
    let (db, now) = (&stage.context.db, stage.context.now());
    breaker::trip(db, "the proof fails", "prover", now, now).await.unwrap();
    stage.until_found("select 1 from chain_tx where purpose = 'settle' and state = 'abandoned'").await;
    stage.guardian(stage.contracts.manager, call::unpause()).await;
    stage.blocks_pass(4).await;
    assert_eq!((stage.state(payment).await.as_str(), stage.tokens_of_creditor().await), ("held", 0));
    let tx = db.begin().await.unwrap();
    let now = stage.context.now();
    let proposal = breaker::propose_reset(&tx, "it holds again", "maker", now).await.unwrap().unwrap();
    breaker::answer_reset(&tx, proposal, true, "checker", now).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    stage.reaches(payment, "completed").await;
    stage.requires_proof().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stragglers_of_a_batch_settle_when_their_bank_has_answered() {
    let stage = Stage::new(vec![slow_hold()]).await;
    let mut payments = Vec::new();
    for _ in 0..4 {
        payments.push(stage.accept(Shape::BankToToken, 1_000).await);
    }
    for payment in payments {
        stage.reaches(payment, "completed").await;
    }
    stage.requires_proof().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reorganisation_in_mid_life_is_healed_by_the_same_bytes() {
    let stage = Stage::new(vec![slow_hold()]).await;
    let payment = stage.accept(Shape::BankToToken, 1_000).await;
    stage.reaches(payment, "initiated").await;
    stage.take_back_newest_log().await;
    stage.until_found("select 1 from event where kind = 'chain.initiated.removed'").await;
    stage.reaches(payment, "completed").await;
    let initiations =
        "select 1 from chain_tx where purpose = 'initiate' having count(*) = 1 and max(versions) = 1";
    stage.until_found(initiations).await;
    assert_eq!(stage.tokens_of_creditor().await, 10_000_000);
    stage.holds_eventually().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reorganisation_deeper_than_the_limit_is_healed_once_a_person_raises_it() {
    let stage = Stage::tuned(vec![], Tuning { chain: false, ..Tuning::default() }).await;
    let mut role = stage.chain_role(Tuning::quick());
    role.settings.watch.reorg_depth_blocks_max = 2;
    let (stop, running) = stage.run_chain_role("with a low limit", role);
    let payment = stage.accept(Shape::BankToToken, 1_000).await;
    stage.reaches(payment, "completed").await;
    stage.until_found("select 1 from chain_tx having count(*) = 2 and bool_and(state = 'finalized')").await;
    stop.cancel();
    running.await.unwrap();

    // All that was ours is gone, and no node has it any more.
    stage.anvil.freeze();
    stage.anvil.mine(1).unwrap();
    let oldest = "select min(included_number) from chain_tx";
    let oldest: i64 = stage.sql.query_one(oldest, &[]).await.unwrap().get(0);
    let head = stage.chain.block(At::Latest).await.unwrap().unwrap().number;
    stage.reorganise(head + 1 - u64::try_from(oldest).unwrap()).await;
    stage.node("anvil_dropAllTransactions", json!([])).await;
    assert_eq!(stage.tokens_of_creditor().await, 0);
    stage.anvil.thaw();

    // Nothing is undone before a person knows how deep it went.
    let at = "select block_number, epoch from chain_cursor";
    let at = async || -> (i64, i64) {
        let row = stage.sql.query_one(at, &[]).await.unwrap();
        (row.get(0), row.get(1))
    };
    let (place, epoch) = at().await;
    let mut role = stage.chain_role(Tuning::quick());
    role.settings.watch.reorg_depth_blocks_max = 2;
    let (stop, running) = stage.run_chain_role("with the low limit still", role);
    stage.until(async || at().await.1 > epoch).await;
    let looked_at = stage.chain.block(At::Latest).await.unwrap().unwrap().number + 5;
    stage.until(async || stage.chain.block(At::Latest).await.unwrap().unwrap().number >= looked_at).await;
    let undone = "select 1 from event where kind like 'chain.%.removed'";
    assert!(stage.sql.query(undone, &[]).await.unwrap().is_empty());
    assert_eq!(at().await.0, place);
    stop.cancel();
    running.await.unwrap();

    // The blocks below are forgotten; the one before the contracts is in the deployment's record.
    let mut role = stage.chain_role(Tuning::quick());
    role.settings.watch.reorg_depth_blocks_max = 1_000;
    stage.run_chain_role("with a higher one", role);
    stage.until_found("select 1 from event where kind = 'chain.settled.removed'").await;
    stage.until_found("select 1 from event where kind = 'chain.settled' having count(*) = 2").await;
    stage.reaches(payment, "completed").await;
    assert_eq!(stage.tokens_of_creditor().await, 10_000_000);
    stage.holds_eventually().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_one_slice_escrows_twice_were_reserved_once() {
    let stage = Stage::new(vec![]).await;
    let funding = stage.accept(Shape::BankToToken, 1_000).await;
    stage.reaches(funding, "completed").await;
    let holder = key(CREDITOR);
    let admin = Admin { chain: &*stage.chain, chain_id: 31337, key: &holder, patience: PATIENCE };
    let allowed = call::approve(&stage.contracts.manager, u64::MAX);
    admin.send(Some(&stage.contracts.token), &allowed).await.unwrap();
    // What is reorganised does not reach the allowance.
    stage.blocks_pass(4).await;
    // All that there is, so that nothing else's reservation hides a mistake.
    let payment = stage.accept(Shape::TokenBack, 1_000).await;
    stage.until_found("select 1 from effect where kind = 'settle' and state <> 'done'").await;
    stage.keep_from_orchestrators(true).await;
    stage.until_found("select 1 from event where kind = 'chain.settled' having count(*) = 2").await;
    stage.take_back_newest_log().await;
    stage.until_found("select 1 from event where kind = 'chain.settled' having count(*) = 3").await;
    assert_eq!(stage.state(payment).await, "held");
    stage.keep_from_orchestrators(false).await;
    stage.reaches(payment, "completed").await;
    assert_eq!(stage.tokens_of_creditor().await, 0);
    stage.holds_eventually().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_move_past_us_are_an_entry_of_their_own() {
    let stage = Stage::new(vec![]).await;
    let payment = stage.accept(Shape::BankToToken, 1_000).await;
    stage.reaches(payment, "completed").await;
    let holder = key(CREDITOR);
    let admin = Admin { chain: &*stage.chain, chain_id: 31337, key: &holder, patience: PATIENCE };
    let gift = call::transfer(&key(DEBTOR).address(), 4_000_000);
    admin.send(Some(&stage.contracts.token), &gift).await.unwrap();
    stage.until_found("select 1 from journal_entry where moment like 'custody%' and amount = 400").await;
    assert_eq!(stage.tokens_of_creditor().await, 6_000_000);
    stage.requires_proof().await;
    stage.take_back_newest_log().await;
    stage.until_found("select 1 from journal_entry where moment = 'custody_transfer_removed'").await;
    stage.holds_eventually().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_role_that_is_killed_again_and_again_sends_everything_once() {
    let stage = Stage::tuned(vec![], Tuning { chain: false, ..Tuning::default() }).await;
    let mut payments = Vec::new();
    for life in 0..12u64 {
        for _ in 0..5 {
            payments.push(stage.accept(Shape::BankToToken, 1_000).await);
        }
        let mortal = stage.start_chain_role(life);
        // Any point of a turn; blocks come every 250 ms.
        tokio::time::sleep(Duration::from_millis(60 + 37 * life)).await;
        mortal.abort();
    }
    stage.start_chain_role(99);
    for payment in payments {
        stage.reaches(payment, "completed").await;
    }
    assert_eq!(stage.tokens_of_creditor().await, 600_000_000, "60 payments of 10 EUR");
    stage.until_found("select 1 from chain_totals").await;
    stage.requires_proof().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_contracts_stop_waits_as_effects_but_for_one_transaction_that_is_tried() {
    let stage = Stage::new(vec![]).await;
    stage.guardian(stage.contracts.manager, call::pause()).await;
    let mut payments = Vec::new();
    for _ in 0..4 {
        // One after the other, so that each would be settled by a transaction of its own.
        let payment = stage.accept(Shape::BankToToken, 1_000).await;
        stage.reaches(payment, "held").await;
        payments.push(payment);
    }
    let tried = "select 1 from chain_tx where purpose = 'settle' and state = 'intended' having count(*) = 1";
    stage.until_found(tried).await;
    let waiting = "select 1 from effect where kind = 'settle' and state = 'ready' and next_attempt_at > now() having count(*) = 3";
    stage.until_found(waiting).await;
    stage.guardian(stage.contracts.manager, call::unpause()).await;
    for payment in payments {
        stage.reaches(payment, "completed").await;
    }
    stage.requires_proof().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payments_that_cannot_be_put_into_a_call_keep_no_other_from_the_chain() {
    let stage = Stage::tuned(vec![], Tuning { chain: false, ..Tuning::default() }).await;
    let misplaces = "create function misplace() returns trigger language plpgsql
            as 'begin new.place := 7; return new; end';
        create trigger misplace before insert on chain_leaf for each row execute function misplace()";
    stage.sql.batch_execute(misplaces).await.unwrap();
    let elsewhere = stage.accept(Shape::BankToToken, 1_000).await;
    let change = "update payment set currency = 'JPY' where id = $1";
    stage.sql.execute(change, &[&elsewhere.as_uuid()]).await.unwrap();
    // One unit of the token more than a row can hold.
    let endless = stage.accept(Shape::BankToToken, 922_337_203_685_478).await;
    let unsound = stage.accept(Shape::BankToToken, 1_000).await;
    stage.run_chain_role("carries", stage.chain_role(Tuning::quick()));
    let put_off =
        "select 1 from effect where state = 'ready' and next_attempt_at > now() having count(*) = 2";
    stage.until_found(put_off).await;
    stage.reaches(endless, "failed").await;
    assert_eq!(stage.reason(endless).await, "not_valid");
    stage.sql.batch_execute("drop trigger misplace on chain_leaf").await.unwrap();
    let neighbour = stage.accept(Shape::BankToToken, 2_000).await;
    stage.reaches(neighbour, "completed").await;
    assert_eq!(
        (stage.state(elsewhere).await, stage.state(unsound).await),
        ("accepted".into(), "held".into())
    );
    let mended = "update chain_leaf set place = 0 where place = 7; update payment set currency = 'EUR';
        update effect set next_attempt_at = now() where state = 'ready'";
    stage.sql.batch_execute(mended).await.unwrap();
    stage.reaches(unsound, "completed").await;
    stage.reaches(elsewhere, "completed").await;
    stage.requires_proof().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_the_node_refuses_in_its_own_words_is_taken_apart_while_it_takes_others() {
    let tuning = || Tuning { chain: false, spoiled: true, ..Tuning::default() };
    let stage = Stage::tuned(vec![], tuning()).await;
    // Three payments fit, five do not.
    for shim in stage.shims() {
        shim.set(Weather::TooLong(1_200));
    }
    let mut payments = Vec::new();
    for _ in 0..6 {
        payments.push(stage.accept(Shape::BankToToken, 1_000).await);
    }
    let mut role = stage.chain_role(tuning());
    role.settings.batch_size_max = 5;
    stage.run_chain_role("carries", role);
    for payment in payments {
        stage.reaches(payment, "completed").await;
    }
    let taken_apart = "select 1 from chain_tx where state = 'abandoned' and outcome = 'split'";
    stage.until_found(taken_apart).await;
    stage.requires_proof().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_endpoint_leaves_out_shows_by_the_contracts_count_and_another_tells_it() {
    let stage = Stage::tuned(vec![], Tuning { spoiled: true, ..Tuning::default() }).await;
    let [first, second] = stage.shims();
    first.set(Weather::LeavesOut(u64::MAX));
    second.set(Weather::LeavesOut(u64::MAX));
    let hidden = stage.accept(Shape::BankToToken, 1_000).await;
    let missed = "select from chain_hole, chain_cursor where kind = 'batch_initiated' and announced_number >= to_block";
    stage.until_found(missed).await;
    let history = stage.history(hidden).await;
    assert!(!history.contains(&"payment.initiated".to_owned()), "nobody has told of it: {history:?}");
    // The first never tells.
    let head = stage.chain.block(At::Latest).await.unwrap().unwrap().number;
    first.set(Weather::LeavesOut(head));
    second.set(Weather::Fair);
    stage.reaches(hidden, "completed").await;
    let next = stage.accept(Shape::BankToToken, 2_000).await;
    stage.reaches(next, "completed").await;
    stage.until_found("select 1 where not exists (select from chain_hole)").await;
    stage.requires_proof().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_takes_and_passes_on_to_nobody_is_offered_to_the_others() {
    let stage = Stage::tuned(vec![], Tuning { spoiled: true, ..Tuning::quick() }).await;
    let [first, _] = stage.shims();
    first.set(Weather::KeepsToItself);
    let payment = stage.accept(Shape::BankToToken, 1_000).await;
    stage.reaches(payment, "completed").await;
    stage.requires_proof().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_mint_more_than_may_be_minted_waits_and_what_fits_is_settled() {
    let stage = Stage::tuned(vec![], Tuning { chain: false, ..Tuning::default() }).await;
    let deployer = key(DEPLOYER);
    let admin = Admin { chain: &*stage.chain, chain_id: 31337, key: &deployer, patience: PATIENCE };
    let may_mint = async |units: u128| {
        let allow = vault::mint_allowance(&stage.contracts.token, &stage.contracts.manager, units);
        admin.send(Some(&allow.to), &allow.data).await.unwrap();
    };
    let grant = vault::grant_role(&stage.contracts.token, "MINTER_ADMIN_ROLE", &deployer.address());
    admin.send(Some(&grant.to), &grant.data).await.unwrap();
    may_mint(15_000_000).await;
    let mut payments = Vec::new();
    for minor_units in [2_000, 1_000, 500] {
        payments.push(stage.accept(Shape::BankToToken, minor_units).await);
    }
    // Initiated in one batch, and settled in one if nobody settles before all are held.
    let (stop, running) = stage.run_chain_role("opens", stage.chain_role(Tuning::quick()));
    stage
        .until_found("select 1 from effect where kind = 'initiate' and state = 'done' having count(*) = 3")
        .await;
    stop.cancel();
    running.await.unwrap();
    stage.until_found("select 1 from effect where kind = 'settle' having count(*) = 3").await;
    stage.run_chain_role("settles", stage.chain_role(Tuning::quick()));
    stage.reaches(payments[1], "completed").await;
    stage.reaches(payments[2], "completed").await;
    assert_eq!(stage.state(payments[0]).await, "held");
    let later = stage.accept(Shape::BankToToken, 100).await;
    stage.reaches(later, "held").await;
    may_mint(1_000_000).await;
    stage.reaches(later, "completed").await;
    assert_eq!(stage.state(payments[0]).await, "held", "it stands in nobody's way");
    may_mint(1_000_000_000).await;
    stage.reaches(payments[0], "completed").await;
    stage.requires_proof().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_that_a_process_filled_is_known_to_the_next_when_what_was_there_comes_back() {
    let stage = Stage::tuned(vec![], Tuning { chain: false, ..Tuning::default() }).await;
    let (stop, running) = stage.run_chain_role("fills", stage.chain_role(Tuning::quick()));
    let own = key(INITIATOR).address();
    stage.anvil.freeze();
    let lost = stage.accept(Shape::BankToToken, 1_000).await;
    stage.until_found("select 1 from chain_tx where state = 'broadcast'").await;
    let nonce = stage.chain.nonce(&own, At::Latest).await.unwrap();
    // As if it were final and the chain had gone back behind it: no row waits with its nonce, and no node has it.
    stage.sql.batch_execute("update chain_tx set state = 'finalized'").await.unwrap();
    stage.node("anvil_dropAllTransactions", json!([])).await;
    let above = stage.accept(Shape::BankToToken, 500).await;
    stage.until_found("select 1 from chain_filler").await;
    stage.anvil.thaw();
    stage.reaches(above, "completed").await;
    stop.cancel();
    running.await.unwrap();

    let filled = rows::fillers(&stage.context.db, &own, &[nonce, nonce + 1]).await.unwrap();
    let [(place, hash)] = filled.as_slice() else { panic!("one hole, filled once: {filled:?}") };
    assert_eq!(*place, nonce);
    assert!(stage.chain.receipt(*hash).await.unwrap().is_some_and(|receipt| receipt.succeeded));
    let back =
        format!("update chain_tx set state = 'broadcast' where nonce = {nonce} and purpose = 'initiate'");
    assert_eq!(stage.sql.execute(&back, &[]).await.unwrap(), 1);
    stage.run_chain_role("comes after it", stage.chain_role(Tuning::quick()));
    stage.reaches(lost, "completed").await;
    assert_eq!(stage.tokens_of_creditor().await, 15_000_000, "each once");
    stage.requires_proof().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_reverts_in_its_block_stays_on_the_timeline_and_another_one_pays() {
    let stage = Stage::new(vec![]).await;
    stage.anvil.freeze();
    let payment = stage.accept(Shape::BankToToken, 1_000).await;
    stage.until_found("select 1 from chain_tx where state = 'broadcast'").await;
    // The simulation went through; where it is included, the router refuses whatever it is called with.
    let router = stage.contracts.router;
    let mut code = "0x".to_owned();
    for byte in stage.chain.code(&router).await.unwrap() {
        write!(code, "{byte:02x}").unwrap();
    }
    stage.node("anvil_setCode", json!([router.to_string(), "0x60006000fd"])).await;
    stage.anvil.mine(1).unwrap();
    stage.node("anvil_setCode", json!([router.to_string(), code])).await;
    stage.until_found("select 1 from chain_tx where state = 'reverted'").await;
    stage.anvil.thaw();
    stage.reaches(payment, "completed").await;
    let included = "select 1 from chain_tx where purpose = 'initiate' and state in ('included', 'confirmed', 'finalized')";
    stage.until_found(included).await;
    let sent = query::transactions(&stage.context.db, payment).await.unwrap();
    let initiations: Vec<&str> =
        sent.iter().filter(|sent| sent.purpose == "initiate").map(|sent| sent.state.as_str()).collect();
    assert_eq!(initiations.first(), Some(&"reverted"), "{sent:?}");
    assert!(matches!(initiations.last(), Some(&("included" | "confirmed" | "finalized"))), "{sent:?}");
    let reverted = sent.iter().find(|sent| sent.state == "reverted").unwrap();
    assert!(reverted.tx_hash.is_some() && reverted.finality.is_none(), "{reverted:?}");
    assert_eq!(stage.tokens_of_creditor().await, 10_000_000);
    stage.requires_proof().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_chain_says_carries_how_final_it_is_and_what_it_takes_back_does_not() {
    let stage = Stage::new(vec![slow_hold()]).await;
    let payment = stage.accept(Shape::BankToToken, 1_000).await;
    stage.reaches(payment, "initiated").await;
    stage.take_back_newest_log().await;
    stage.until_found("select 1 from event where kind = 'chain.initiated.removed'").await;
    stage.reaches(payment, "completed").await;
    let refused = stage.accept_together(1, Some(0)).await;
    stage.reaches(refused[0], "failed").await;
    let mut kinds = Vec::new();
    for payment in [payment, refused[0]] {
        for event in event_log::read_key(&stage.context.db, payment, 1_000).await.unwrap() {
            if event.topic == "chain" {
                let data: Value = event.data.read().unwrap();
                conforms(&event.kind, &data);
                kinds.push(event.kind);
            }
        }
    }
    for kind in ["chain.initiated", "chain.initiated.removed", "chain.settled", "chain.initiation_refused"] {
        assert!(kinds.iter().any(|found| found == kind), "{kind} is not among {kinds:?}");
    }
}

/// Is this what `docs/schemas/chain-event-1.json` says of such an event? By the part of JSON Schema that it uses.
fn conforms(kind: &str, data: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schemas/chain-event-1.json");
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let told = match kind {
        "chain.initiation_refused" => "refused",
        _ if kind.ends_with(".removed") => "taken_back",
        _ => "seen",
    };
    let schema = &schema["$defs"][told];
    for name in schema["required"].as_array().unwrap() {
        assert!(data.get(name.as_str().unwrap()).is_some(), "{kind} lacks {name}: {data}");
    }
    for (name, value) in data.as_object().unwrap() {
        let field = &schema["properties"][name];
        let is_type = match field["type"].as_str() {
            Some("integer") => value.is_u64(),
            Some("string") => value.is_string(),
            other => panic!("{kind}: {name} is not in the schema, or of type {other:?}"),
        };
        let is_listed = field["enum"].as_array().is_none_or(|allowed| allowed.contains(value));
        assert!(is_type && is_listed, "{kind}: {name} is {value}");
    }
}

/// The bank takes its time for one hold.
fn slow_hold() -> FaultRule {
    next(Fault::Latency { ms: 3_000, jitter_ms: 0 }, Target::PlaceHold)
}

impl Stage {
    /// Payments of 10 EUR in one batch; one of them, if so wished, has expired before the router hears of it.
    pub(crate) async fn accept_together(&self, count: usize, expired: Option<usize>) -> Vec<PaymentId> {
        self.sql.batch_execute("begin").await.unwrap();
        let mut payments = Vec::new();
        for _ in 0..count {
            payments.push(self.accept(Shape::BankToToken, 1_000).await);
        }
        if let Some(place) = expired {
            let expire = "update payment set expires_at = now() - interval '1 hour' where id = $1";
            self.sql.execute(expire, &[&payments[place].as_uuid()]).await.unwrap();
        }
        self.sql.batch_execute("commit").await.unwrap();
        payments
    }

    /// Nobody reads the log, so that what comes meanwhile is one slice; or the orchestrator may again.
    async fn keep_from_orchestrators(&self, kept: bool) {
        let until = if kept { "infinity" } else { "-infinity" };
        let seize = format!(
            "update consumer_offset set epoch = epoch + 1, lease_until = '{until}', owner = 'the test'
                where consumer_group = 'orchestrator'"
        );
        self.sql.batch_execute(&seize).await.unwrap();
    }

    async fn cancel(&self, payment: PaymentId) {
        let tx = self.context.db.begin().await.unwrap();
        lifecycle::cancel(&tx, &[payment], self.context.now()).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Another process with a chain role. Leases of one that died are short.
    fn start_chain_role(&self, name: u64) -> JoinHandle<()> {
        let role = self.chain_role(Tuning { lease: Duration::from_millis(100), ..Tuning::default() });
        self.run_chain_role(&format!("life {name}"), role).1
    }

    /// Another process with this chain role, until it is told to stop.
    fn run_chain_role(&self, process: &str, role: ChainRole) -> (CancellationToken, JoinHandle<()>) {
        let context = Context { instance: process.to_owned(), ..self.context.clone() };
        let stop = CancellationToken::new();
        (stop.clone(), tokio::spawn(chain::run(context, role, stop)))
    }

    async fn guardian(&self, to: EvmAddress, calldata: Vec<u8>) {
        let key = key(GUARDIAN);
        let admin = Admin { chain: &*self.chain, chain_id: 31337, key: &key, patience: PATIENCE };
        admin.send(Some(&to), &calldata).await.unwrap();
    }

    /// Waits until a query finds something.
    pub(crate) async fn until_found(&self, query: &str) {
        let found = tokio::time::timeout(PATIENCE, async {
            while self.sql.query(query, &[]).await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        assert!(found.await.is_ok(), "nothing came of: {query}");
    }
}
