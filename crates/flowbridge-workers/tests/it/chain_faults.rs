//! The fault suite of the chain's client: faults drawn by seed, on a real node, while payments are under way.
//!
//! After each fault everything is well again, and then: every payment has completed, no transaction is under way, no nonce is
//! left behind, what the creditor holds is what was paid, once, and ledger, chain and banks agree. The seed is printed;
//! `FLOWBRIDGE_SEED=n` repeats a run.

use crate::stage::{Shape, Stage, Tuning, key};
use flowbridge_chain::At;
use flowbridge_chain::signer::Unsigned;
use flowbridge_domain::id::PaymentId;
use flowbridge_embedded::shim::{SocketWeather, Weather};
use flowbridge_workers::chain;
use flowbridge_workers::context::Context;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;

const LANE_KEYS: [usize; 3] = [1, 2, 3];
const MINOR_UNITS: i64 = 100;
const TOKEN_UNITS: u64 = 1_000_000;
const DEPTH_MAX: u64 = 20;
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
enum Fault {
    NodeKilled,
    SocketCut,
    SocketStalls,
    SocketRepeats,
    EndpointStalls,
    EndpointCut,
    EndpointLimited,
    StaleHead,
    LogsLeftOut,
    Reorganisation,
    NonceStolen,
    FeeSpike,
    PoolDropped,
    SignerDown,
    TwoInstances,
}

const FAULTS: [Fault; 15] = [
    Fault::NodeKilled,
    Fault::SocketCut,
    Fault::SocketStalls,
    Fault::SocketRepeats,
    Fault::EndpointStalls,
    Fault::EndpointCut,
    Fault::EndpointLimited,
    Fault::StaleHead,
    Fault::LogsLeftOut,
    Fault::Reorganisation,
    Fault::NonceStolen,
    Fault::FeeSpike,
    Fault::PoolDropped,
    Fault::SignerDown,
    Fault::TwoInstances,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_of_the_chain_loses_doubles_or_wedges_a_payment() {
    run(1, 20_261_128).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes; part of --long"]
async fn no_fault_of_the_chain_loses_doubles_or_wedges_a_payment_at_length() {
    run(8, rand::random()).await;
}

#[expect(clippy::print_stdout, reason = "who repeats a run needs its seed")]
/// Each fault once in every round, in an order, at moments and to an extent that the seed decides.
async fn run(rounds: u32, seed: u64) {
    let given = std::env::vars().find_map(|(name, value)| (name == "FLOWBRIDGE_SEED").then_some(value));
    let seed = given.and_then(|text| text.parse().ok()).unwrap_or(seed);
    println!("FLOWBRIDGE_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut stage = Stage::tuned(vec![], Tuning { spoiled: true, ..Tuning::quick() }).await;
    // What is reorganised does not reach the deployment.
    stage.anvil.mine(32).unwrap();
    let mut paid = 0;
    for _ in 0..rounds {
        let mut faults = FAULTS;
        faults.shuffle(&mut random);
        for fault in faults {
            println!("{fault:?}");
            paid += strike(&mut stage, fault, &mut random).await;
            is_whole(&stage, fault, paid).await;
        }
    }
}

/// Payments before, while and after something goes wrong. Returns how many.
async fn strike(stage: &mut Stage, fault: Fault, random: &mut StdRng) -> u64 {
    let mut payments = some(stage, random).await;
    // Any point of their lives: they take about a second, and blocks come every 250 ms.
    tokio::time::sleep(Duration::from_millis(random.random_range(0..900))).await;
    let while_spoiled = Duration::from_millis(random.random_range(300..1_500));
    match fault {
        Fault::NodeKilled => {
            stage.anvil.kill();
            payments.extend(some(stage, random).await);
            stage.anvil.restart().unwrap();
            // A node that came back from its journal has no state of the blocks before, so it cannot reorganise them.
            stage.anvil.mine(u32::try_from(DEPTH_MAX).unwrap() + 1).unwrap();
        }
        Fault::SocketCut => payments.extend(socket(stage, SocketWeather::Cut, while_spoiled, random).await),
        Fault::SocketStalls => {
            payments.extend(socket(stage, SocketWeather::Stall, while_spoiled, random).await)
        }
        Fault::SocketRepeats => {
            payments.extend(socket(stage, SocketWeather::Twice, while_spoiled, random).await)
        }
        Fault::EndpointStalls => {
            payments.extend(endpoint(stage, Weather::Stall, while_spoiled, random).await)
        }
        Fault::EndpointCut => payments.extend(endpoint(stage, Weather::Cut, while_spoiled, random).await),
        Fault::EndpointLimited => {
            payments.extend(endpoint(stage, Weather::Limited(1), while_spoiled, random).await)
        }
        Fault::StaleHead => {
            let head = stage.chain.block(At::Latest).await.unwrap().unwrap().number;
            payments.extend(endpoint(stage, Weather::Stale(head), while_spoiled, random).await);
        }
        Fault::LogsLeftOut => {
            // What comes afterwards tells that something is missing.
            payments.extend(endpoint(stage, Weather::LeavesOut(u64::MAX), while_spoiled, random).await);
        }
        Fault::Reorganisation => {
            stage.reorganise(random.random_range(1..=DEPTH_MAX)).await;
            payments.extend(some(stage, random).await);
        }
        Fault::NonceStolen => steal(stage, *LANE_KEYS.get(random.random_range(0..2)).unwrap()).await,
        Fault::FeeSpike => {
            let gwei = random.random_range(20..200u64);
            let fee = json!([format!("{:#x}", gwei * 1_000_000_000)]);
            stage.node("anvil_setNextBlockBaseFeePerGas", fee).await;
        }
        Fault::PoolDropped => payments.extend(drop_pool(stage, random).await),
        Fault::SignerDown => {
            stage.signer_down.store(true, Ordering::Relaxed);
            payments.extend(some(stage, random).await);
            tokio::time::sleep(while_spoiled).await;
            stage.signer_down.store(false, Ordering::Relaxed);
        }
        Fault::TwoInstances => {
            let context =
                Context { instance: format!("twin {}", random.random::<u64>()), ..stage.context.clone() };
            let role = stage.chain_role(Tuning { spoiled: true, ..Tuning::quick() });
            let twin = tokio::spawn(chain::run(context, role, CancellationToken::new()));
            payments.extend(some(stage, random).await);
            tokio::time::sleep(while_spoiled).await;
            twin.abort();
        }
    }
    payments.extend(some(stage, random).await);
    for payment in &payments {
        stage.reaches(*payment, "completed").await;
    }
    u64::try_from(payments.len()).unwrap()
}

/// Payments while the node's socket is spoiled.
async fn socket(
    stage: &Stage,
    weather: SocketWeather,
    time: Duration,
    random: &mut StdRng,
) -> Vec<PaymentId> {
    stage.socket().set(weather);
    let payments = some(stage, random).await;
    tokio::time::sleep(time).await;
    stage.socket().set(SocketWeather::Fair);
    payments
}

/// Payments while the first endpoint is spoiled.
async fn endpoint(stage: &Stage, weather: Weather, time: Duration, random: &mut StdRng) -> Vec<PaymentId> {
    stage.shims()[0].set(weather);
    let payments = some(stage, random).await;
    tokio::time::sleep(time).await;
    stage.shims()[0].set(Weather::Fair);
    payments
}

/// Payments whose transaction waits at the node when that forgets all that waits: it is told again, or offered more.
async fn drop_pool(stage: &Stage, random: &mut StdRng) -> Vec<PaymentId> {
    stage.anvil.freeze();
    let payments = some(stage, random).await;
    let broadcast = "select state_since from chain_tx join chain_tx_item item on item.chain_tx = chain_tx.id
        where payment_id = $1 and state = 'broadcast'";
    let broadcast_at = async || -> Option<SystemTime> {
        let rows = stage.sql.query(broadcast, &[&payments[0].as_uuid()]).await.unwrap();
        rows.first().map(|row| row.get(0))
    };
    stage.until(async || broadcast_at().await.is_some()).await;
    let before = broadcast_at().await;
    stage.node("anvil_dropAllTransactions", json!([])).await;
    // It is broadcast again after it was dropped, or replaced: either is a state of its own in between.
    stage.until(async || broadcast_at().await > before).await;
    stage.anvil.thaw();
    payments
}

async fn some(stage: &Stage, random: &mut StdRng) -> Vec<PaymentId> {
    let mut payments = Vec::new();
    for _ in 0..random.random_range(1..=4) {
        payments.push(stage.accept(Shape::BankToToken, MINOR_UNITS).await);
    }
    payments
}

/// Somebody else sends with a lane's key, ahead of whatever waits there.
async fn steal(stage: &Stage, lane: usize) {
    let thief = key(lane);
    let own = thief.address();
    let stolen = Unsigned {
        chain_id: 31337,
        nonce: stage.chain.nonce(&own, At::Latest).await.unwrap(),
        to: Some(&own),
        calldata: &[],
        value: 0,
        gas_limit: 21_000,
        fee_per_gas: 400_000_000_000,
        priority_fee: 50_000_000_000,
    };
    // Refused if a block came in between: then nothing is stolen this time.
    let _ = stage.chain.send(&thief.sign(&stolen).unwrap().raw).await;
}

/// Nothing is under way, no nonce is left behind, everything was paid once, and the books agree.
async fn is_whole(stage: &Stage, fault: Fault, paid: u64) {
    let whole = tokio::time::timeout(PATIENCE, async {
        loop {
            let open = "select 1 from chain_tx where state in ('intended', 'numbered', 'signed', 'broadcast', 'dropped')";
            let mut is_quiet = stage.sql.query(open, &[]).await.unwrap().is_empty();
            for lane in LANE_KEYS {
                let own = key(lane).address();
                let used = stage.chain.nonce(&own, At::Latest).await.unwrap();
                is_quiet &= stage.chain.nonce(&own, At::Pending).await.unwrap() == used;
            }
            if is_quiet && stage.tokens_of_creditor().await == paid * TOKEN_UNITS {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    if whole.await.is_err() {
        let txs = "select lane, state, nonce, purpose, outcome from chain_tx where state not in ('finalized', 'confirmed')";
        let rows = stage.sql.query(txs, &[]).await.unwrap();
        panic!(
            "after {fault:?}: {} tokens for {paid} payments; not settled: {:?}",
            stage.tokens_of_creditor().await,
            rows.iter()
                .map(|row| (row.get::<_, String>(0), row.get::<_, String>(1), row.get::<_, Option<i64>>(2)))
                .collect::<Vec<_>>()
        );
    }
    let twice = "select key from event where kind = 'payment.completed' group by key having count(*) > 1";
    assert!(
        stage.sql.query(twice, &[]).await.unwrap().is_empty(),
        "a payment completed twice after {fault:?}"
    );
    stage.holds_eventually().await;
}
