//! The simulator misbehaves exactly as it is told.

use crate::bench::{
    Bench, START, capture, connector_to, credit, creditor, debtor, done, new_payment, place, reason,
};
use flowbridge_bank::connector::{Outcome, QueryOutcome, ReadError, StatementRequest};
use flowbridge_bank::simulator::{Fault, FaultRule, Target};
use flowbridge_domain::bank::{BankStep, HoldMode};
use flowbridge_domain::time::Timestamp;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn a_capture_is_declined_on_request_and_for_one_account_only() {
    let bench = Bench::start(HoldMode::Native).await;
    let rule = json!({
        "fault": {"kind": "decline", "reason": "AC06", "text": "frozen by a court"},
        "targets": ["capture"], "account": debtor().as_str(), "times_max": 1,
    });
    let added = bench.admin.send(reqwest::Method::POST, "faults", rule).await;
    assert_eq!(added.status(), 201, "{}", added.text().await.unwrap());
    let payment = new_payment();
    done(bench.execute(place(payment, 10)).await);
    done(bench.execute(credit(payment, 10)).await);
    assert_eq!(reason(&bench.execute(capture(payment, 10)).await), "AC06");
    assert_eq!(reason(&bench.execute(capture(payment, 10)).await), "AC06", "for ever");
    bench.assert_consistent().await;
}

#[tokio::test]
async fn a_slow_hold_is_pending_until_its_time() {
    let bench = Bench::start(HoldMode::Native).await;
    bench.admin.fault(FaultRule::always(Fault::Slow { ms: 5_000 }).only(&[Target::PlaceHold])).await;
    let operation = place(new_payment(), 10);
    let Outcome::Pending { reference: Some(reference) } = bench.execute(operation.clone()).await else {
        panic!("pending, with a reference")
    };
    bench.clock.advance(Duration::from_millis(4_999));
    assert!(matches!(bench.query(operation.key()).await, QueryOutcome::Pending { .. }));
    bench.clock.advance(Duration::from_millis(1));
    let QueryOutcome::Done { receipt, .. } = bench.query(operation.key()).await else { panic!("decided") };
    assert_eq!(receipt.reference, reference);
    assert_eq!(done(bench.execute(operation).await).reference, reference);
    bench.assert_consistent().await;
}

#[tokio::test]
async fn a_short_hold_says_when_it_ends_and_is_gone_by_then() {
    let bench = Bench::start(HoldMode::Native).await;
    bench.admin.fault(FaultRule::always(Fault::ShortHold { ms: 2_000 })).await;
    let payment = new_payment();
    let receipt = done(bench.execute(place(payment, 10)).await);
    assert_eq!(receipt.hold_lasts_until(), START.plus(Duration::from_secs(2)));
    bench.clock.advance(Duration::from_secs(2));
    assert!(matches!(bench.execute(capture(payment, 10)).await, Outcome::Declined(_)), "nothing is held");
    bench.assert_consistent().await;
}

#[tokio::test]
async fn a_credit_without_an_outcome_was_paid_all_the_same() {
    let bench = Bench::start(HoldMode::Native).await;
    bench.admin.fault(FaultRule::always(Fault::OmitOutcome).only(&[Target::Credit]).times(1)).await;
    let slice = [credit(new_payment(), 10), credit(new_payment(), 20)];
    let outcomes = bench.bank.execute(&slice).await;
    assert!(matches!(outcomes[..], [Outcome::Unknown { .. }, Outcome::Done(_)]), "{outcomes:?}");
    assert!(matches!(bench.query(slice[0].key()).await, QueryOutcome::Done { .. }));
    assert_eq!(bench.admin.account(creditor().as_str()).await.0, 30);
}

#[tokio::test]
async fn a_doubled_outcome_is_taken_once() {
    let bench = Bench::start(HoldMode::Native).await;
    bench.admin.fault(FaultRule::always(Fault::DuplicateOutcome)).await;
    let slice = [place(new_payment(), 1), place(new_payment(), 2)];
    let outcomes = bench.bank.execute(&slice).await;
    assert!(matches!(outcomes[..], [Outcome::Done(_), Outcome::Done(_)]), "{outcomes:?}");
}

#[tokio::test]
async fn a_late_request_is_carried_out_though_its_client_has_given_up() {
    let bench = Bench::start(HoldMode::Native).await;
    let late = Fault::Latency { ms: 2_000, jitter_ms: 0 };
    bench.admin.fault(FaultRule::always(late).only(&[Target::Credit]).times(1)).await;
    let operation = credit(new_payment(), 10);
    let (bank, asked_for) = (Arc::clone(&bench.bank), operation.clone());
    let client = tokio::spawn(async move { bank.execute(&[asked_for]).await });
    // The delay is the network's, so real time passes: polled, with a bound.
    let has_arrived = async || bench.admin.get("faults").await["faults"][0]["times"] == 1;
    eventually(has_arrived, "the request arrives").await;
    client.abort();
    assert_eq!(bench.query(operation.key()).await, QueryOutcome::NotFound, "not yet");
    let is_done = async || matches!(bench.query(operation.key()).await, QueryOutcome::Done { .. });
    eventually(is_done, "what the client gave up is carried out").await;
}

async fn eventually(holds: impl AsyncFn() -> bool, what: &str) {
    for _ in 0..1_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("in vain: {what}");
}

#[tokio::test]
async fn a_partial_statement_is_recognised_and_whole_again_later() {
    let bench = Bench::start(HoldMode::Native).await;
    for _ in 0..10 {
        done(bench.execute(credit(new_payment(), 1)).await);
    }
    let rule = FaultRule::always(Fault::PartialStatement { dropped_per_million: 400_000 });
    bench.admin.fault(FaultRule { duration_ms: Some(1_000), ..rule }).await;
    let all = StatementRequest { after: 0, booked_until: Timestamp::MAX, entries_max: 100 };
    let partial = bench.bank.statement(all).await;
    assert!(matches!(partial, Err(ReadError::Incomplete { .. })), "{partial:?}");
    bench.clock.set(START.plus(Duration::from_secs(1)));
    assert_eq!(bench.reserve_changes(BankStep::Credit).await, -10);
}

#[tokio::test]
async fn silence_is_unknown_after_the_time_out() {
    let bench = Bench::start(HoldMode::Native).await;
    let operation = place(new_payment(), 10);
    bench.admin.fault(FaultRule::always(Fault::LostReply { silent_ms: 30_000 }).times(1)).await;
    let mut config = flowbridge_bank::simulator_client::SimulatorClientConfig::new(
        crate::bench::bank_code(),
        bench.root.clone(),
        flowbridge_bank::auth::BearerKey::new("client-key"),
        bench.mode,
    );
    config.timeout = Duration::from_secs(3);
    let impatient = flowbridge_bank::simulator_client::SimulatorClient::new(config).unwrap();
    use flowbridge_bank::connector::BankConnector as _;
    let outcomes = impatient.execute(std::slice::from_ref(&operation)).await;
    assert!(matches!(outcomes[..], [Outcome::Unknown { .. }]), "{outcomes:?}");
    assert!(matches!(bench.query(operation.key()).await, QueryOutcome::Done { .. }));
}

#[tokio::test]
async fn the_two_doors_have_a_key_each_and_bad_requests_change_nothing() {
    let bench = Bench::start(HoldMode::Native).await;
    let http = reqwest::Client::new();
    let operations = bench.root.join("banks/alpha/operations").unwrap();
    for (path, key, expected) in [
        ("banks/alpha/balances", "admin-key", 401),
        ("banks/alpha/balances", "", 401),
        ("admin/banks/alpha/audit", "client-key", 401),
        ("banks/omega/balances", "client-key", 404),
        ("banks/alpha/balances", "client-key", 200),
        ("nowhere", "client-key", 404),
        ("readyz", "", 200),
    ] {
        let status = http.get(bench.root.join(path).unwrap()).bearer_auth(key).send().await.unwrap().status();
        assert_eq!(status, expected, "{path} {key}");
    }
    let valid = json!({"key": place(new_payment(), 5).key().to_string(), "account": debtor().as_str(),
        "amount": {"amount": 5, "currency": "EUR"}, "until_us": START.plus(Duration::from_secs(9)).as_micros()});
    let with = |member: &str, value: serde_json::Value| {
        let mut operation = valid.clone();
        operation[member] = value;
        json!({"operations": [valid, operation]})
    };
    for body in [
        json!({"operations": "all"}),
        json!({"operations": [], "more": 1}),
        with("key", json!("pay_1.capture")),
        with("account", json!("CH9300762011623852958")),
        with("amount", json!({"amount": -5, "currency": "EUR"})),
        with("amount", json!({"amount": 5.5, "currency": "EUR"})),
        with("amount", json!({"amount": 5, "currency": "eur"})),
        with("until_us", json!(null)),
    ] {
        let response =
            http.post(operations.clone()).bearer_auth("client-key").json(&body).send().await.unwrap();
        assert_eq!(response.status(), 400, "{body}");
    }
    assert_eq!(bench.admin.get("operations").await["operations"], json!([]), "no neighbour was carried out");
    let fault = json!({"fault": {"kind": "latency", "ms": 1}, "per_million": 1_000_001});
    assert_eq!(bench.admin.send(reqwest::Method::POST, "faults", fault).await.status(), 400);
    drop(connector_to(&bench.root, bench.mode));
}
