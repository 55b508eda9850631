//! Whole payments on a chain that commits and executes blocks in batches, by the simulation of one (`flowbridge_embedded::shim`):
//! policy waits for `safe`, calls run out of the chain's own resources before they are sent and when they are included, connections
//! break, a proxy wants its token, and every block begins with a system transaction.

use crate::stage::{Shape, Stage, Tuning};
use flowbridge_chain::watch::Finality;
use flowbridge_domain::id::PaymentId;
use flowbridge_embedded::shim::{Batches, Shim, Weather, Zks};
use flowbridge_store::event_log;
use flowbridge_store::query::{self, TimelineTransaction};
use serde_json::Value;

const PAYMENTS: usize = 24;
const TOKEN_UNITS: u64 = 10_000_000;
/// A call for one payment takes less, pubdata included, and one for all of them more.
const GAS_FOR_SOME: u64 = 320_000;
const ZKS: Zks = Zks {
    batches: Batches::Era,
    batch_blocks: 4,
    commit_lag: 1,
    execute_lag: 3,
    pubdata_percent: 60,
    estimate_percent: 100,
    gas_max: u64::MAX,
    logs_max: 1_000,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payments_go_through_the_stages_of_finality_while_resources_run_out_and_connections_break() {
    let zks = Zks { gas_max: GAS_FOR_SOME, ..ZKS };
    let stage = Stage::on_zksync(zks, Tuning::default().gas_per_tx_max).await;
    stage.anvil.freeze();
    let payments = stage.accept_together(PAYMENTS, None).await;
    stage.until(async || stage.all(&payments, |sent| sent.state == "broadcast").await).await;
    stage.anvil.mine(1).unwrap();
    stage.until(async || stage.all(&payments, |sent| is(sent, "included")).await).await;
    for payment in &payments {
        let told = stage.history(*payment).await;
        assert!(!told.contains(&"payment.initiated".to_owned()), "nothing is committed yet: {told:?}");
    }
    stage.mine_until(async || stage.all(&payments, |sent| is(sent, "safe")).await).await;
    stage.until(async || stage.all(&payments, is_committed).await).await;
    for payment in &payments {
        assert!(stage.history(*payment).await.contains(&"payment.initiated".to_owned()));
        let sent = stage.initiation(*payment).await.unwrap();
        assert!(is(&sent, "safe") && sent.l1_txs[2].is_none(), "not executed yet: {sent:?}");
        let events = event_log::read_key(&stage.context.db, *payment, 100).await.unwrap();
        let initiated = events.iter().find(|event| event.kind == "chain.initiated").unwrap();
        assert_eq!(initiated.data.read::<Value>().unwrap()["finality"], "safe");
    }

    let asked = || stage.shims().iter().map(Shim::questions).sum::<u64>();
    let before = asked();
    stage.spoil(Weather::Cut);
    stage.anvil.thaw();
    stage.until(async || asked() >= before + 10).await;
    stage.spoil(Weather::Fair);
    for payment in &payments {
        stage.reaches(*payment, "completed").await;
    }
    stage.until(async || stage.all(&payments, |sent| is(sent, "finalized") && is_executed(sent)).await).await;
    assert!(stage.shims().iter().any(|shim| shim.out_of_resources() > 0), "the limit was met");
    for purpose in ["initiate", "settle"] {
        let split = format!("select from chain_tx where outcome = 'split' and purpose = '{purpose}'");
        stage.until_found(&split).await;
    }
    assert!(stage.shims().iter().all(|shim| shim.whole_blocks() == 0), "nobody could read one");
    stage.has_paid_once().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ran_out_of_resources_when_it_was_included_is_sent_again_with_more() {
    // Not even with the configured margin does what an estimate says suffice.
    let zks = Zks { pubdata_percent: 0, estimate_percent: 45, ..ZKS };
    let tuning = Tuning { spoiled: true, zks: Some(zks), ..Tuning::default() };
    let stage = Stage::tuned(vec![], tuning).await;
    let payment = stage.accept(Shape::BankToToken, 1_000).await;
    stage.reaches(payment, "completed").await;
    for purpose in ["initiate", "settle"] {
        let limits = "select state, gas_limit from chain_tx where purpose = $1 order by created_at, id";
        let sent = stage.sql.query(limits, &[&purpose]).await.unwrap();
        let sent: Vec<(String, i64)> = sent.iter().map(|row| (row.get(0), row.get(1))).collect();
        let (last, others) = sent.split_last().unwrap();
        assert!(last.0 != "reverted" && !others.is_empty(), "{purpose}: {sent:?}");
        assert!(others.iter().all(|(state, _)| state == "reverted"), "{purpose}: {sent:?}");
        assert!(sent.is_sorted_by(|(_, less), (_, more)| less < more), "{purpose}: {sent:?}");
    }
    assert_eq!(stage.tokens_of_creditor().await, TOKEN_UNITS);
    stage.holds_eventually().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_that_names_no_l1_transactions_still_says_the_batch_of_a_payment() {
    let stage = Stage::on_zksync(Zks { batches: Batches::Os, ..ZKS }, Tuning::default().gas_per_tx_max).await;
    let payment = stage.accept(Shape::BankToToken, 1_000).await;
    stage.reaches(payment, "completed").await;
    let has_batch = |sent: &TimelineTransaction| sent.l1_batch.is_some() && is(sent, "finalized");
    stage.until(async || stage.all(&[payment], has_batch).await).await;
    let sent = stage.initiation(payment).await.unwrap();
    assert_eq!(sent.l1_txs, [None, None, None]);
    let asked_for_ever = "select from chain_l1_block where batch_number is not null and execute_tx is null";
    assert!(stage.sql.query(asked_for_ever, &[]).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_transaction_may_take_more_gas_than_the_cap() {
    let stage = Stage::on_zksync(ZKS, GAS_FOR_SOME).await;
    let payments = stage.accept_together(PAYMENTS, None).await;
    for payment in &payments {
        stage.reaches(*payment, "completed").await;
    }
    stage.until_found("select from chain_tx where outcome = 'split'").await;
    let cap = i64::try_from(GAS_FOR_SOME).unwrap();
    let beyond = stage.sql.query("select from chain_tx where gas_limit > $1", &[&cap]).await.unwrap();
    assert!(beyond.is_empty());
    stage.has_paid_once().await;
}

fn is(sent: &TimelineTransaction, finality: &str) -> bool {
    sent.finality.as_deref() == Some(finality)
}

fn is_committed(sent: &TimelineTransaction) -> bool {
    sent.l1_batch.is_some() && sent.l1_txs[0].is_some()
}

fn is_executed(sent: &TimelineTransaction) -> bool {
    sent.l1_txs.iter().all(Option::is_some)
}

impl Stage {
    async fn on_zksync(zks: Zks, gas_per_tx_max: u64) -> Self {
        let finality = Finality::Safe;
        let tuning = Tuning { spoiled: true, zks: Some(zks), finality, gas_per_tx_max, ..Tuning::default() };
        Self::tuned(vec![], tuning).await
    }

    fn spoil(&self, weather: Weather) {
        for shim in self.shims() {
            shim.set(weather);
        }
    }

    /// The transaction that initiates the payment, as its public timeline has it; not one that made way for it.
    async fn initiation(&self, payment: PaymentId) -> Option<TimelineTransaction> {
        let sent = query::transactions(&self.context.db, payment).await.unwrap();
        let mut standing =
            sent.into_iter().filter(|sent| sent.purpose == "initiate" && sent.state != "abandoned");
        let initiation = standing.next();
        assert!(standing.next().is_none(), "initiated twice");
        initiation
    }

    /// Is this so of every payment's initiation?
    async fn all(&self, payments: &[PaymentId], is_so: impl Fn(&TimelineTransaction) -> bool) -> bool {
        for payment in payments {
            if !self.initiation(*payment).await.is_some_and(|sent| is_so(&sent)) {
                return false;
            }
        }
        true
    }

    /// Makes blocks one by one, each once the watcher has taken in the one before, until the condition holds.
    async fn mine_until(&self, mut condition: impl AsyncFnMut() -> bool) {
        self.until(async || {
            if condition().await {
                return true;
            }
            let before = self.place().await;
            self.anvil.mine(1).unwrap();
            self.until(async || self.place().await > before).await;
            false
        })
        .await;
    }

    /// The creditor has the tokens of every payment once, and ledger, chain and banks agree.
    async fn has_paid_once(&self) {
        assert_eq!(self.tokens_of_creditor().await, TOKEN_UNITS * u64::try_from(PAYMENTS).unwrap());
        self.holds_eventually().await;
    }
}
