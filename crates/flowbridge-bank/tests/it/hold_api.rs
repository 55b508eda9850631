//! The internal API in front of two banks: order, authentication, and what a bad bank costs the good one.

use crate::bench::{Bench, START, bank_code, capture, connector_to, done, new_payment, place, reason};
use flowbridge_bank::auth::bearer_token;
use flowbridge_bank::breaker::{BreakerConfig, BreakerState};
use flowbridge_bank::connector::{BankConnector, Operation, Outcome, QueryOutcome};
use flowbridge_bank::hold_api::{self, CallerVerifier, HoldApiClient};
use flowbridge_bank::registry::{BankDesk, BankRegistry, GuardConfig};
use flowbridge_bank::simulator::{Fault, FaultRule};
use flowbridge_domain::bank::HoldMode;
use flowbridge_domain::party::BankCode;
use flowbridge_domain::time::Clock;
use serde_json::json;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use url::Url;

fn beta() -> BankCode {
    BankCode::parse("beta").unwrap()
}

/// `alpha` is the bench's bank; `beta` is a bank at whose address nobody listens.
fn registry(bench: &Bench, guard: GuardConfig) -> Arc<BankRegistry> {
    let nowhere: Url = "http://127.0.0.1:1/".parse().unwrap();
    let banks: [(BankCode, Arc<dyn BankConnector>); 2] =
        [(bank_code(), Arc::clone(&bench.bank)), (beta(), connector_to(&nowhere, HoldMode::Native))];
    let clock: Arc<dyn Clock> = bench.clock.clone();
    Arc::new(BankRegistry::new(banks, guard, &clock, None))
}

async fn serve(desk: Arc<BankRegistry>) -> Url {
    let verify: CallerVerifier = Arc::new(|headers| match bearer_token(headers) {
        Some("tier-token") => Ok(()),
        _ => Err("not a tier of ours".into()),
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let root = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move { axum::serve(listener, hold_api::router(desk, verify)).await });
    root
}

fn client(root: &Url, token: &'static str) -> HoldApiClient {
    HoldApiClient::new(root, Arc::new(move || Ok(token.to_owned())), Duration::from_secs(10)).unwrap()
}

#[tokio::test]
async fn a_slice_for_several_banks_is_answered_in_order() {
    let bench = Bench::start(HoldMode::Native).await;
    let registry = registry(&bench, GuardConfig::default());
    let root = serve(Arc::clone(&registry)).await;
    let desks: [Arc<dyn BankDesk>; 2] = [registry, Arc::new(client(&root, "tier-token"))];
    for desk in desks {
        let (first, second) = (new_payment(), new_payment());
        let unknown = BankCode::parse("omega").unwrap();
        let slice = [
            (bank_code(), place(first, 10)),
            (beta(), place(second, 10)),
            (bank_code(), capture(first, 11)),
            (unknown, place(new_payment(), 10)),
            (bank_code(), place(new_payment(), 10)),
        ];
        let outcomes = desk.execute(&slice).await;
        let [Outcome::Done(_), Outcome::NotSent { .. }, wrong, Outcome::NotSent { .. }, Outcome::Done(_)] =
            &outcomes[..]
        else {
            panic!("{outcomes:?}")
        };
        assert_eq!(reason(wrong), "AM09");
        assert_eq!(desk.execute(&slice[..1]).await, outcomes[..1], "a repeat is answered alike");

        let keys: Vec<_> = slice.iter().map(|(bank, operation)| (bank.clone(), operation.key())).collect();
        let asked = desk.query(&keys).await;
        assert!(
            matches!(
                asked[..],
                [
                    QueryOutcome::Done { .. },
                    QueryOutcome::Unanswered { .. },
                    QueryOutcome::Declined(_),
                    QueryOutcome::Unanswered { .. },
                    QueryOutcome::Done { .. }
                ]
            ),
            "{asked:?}"
        );
    }
}

#[tokio::test]
async fn one_item_that_means_nothing_does_not_stop_its_neighbours() {
    let bench = Bench::start(HoldMode::Native).await;
    let root = serve(registry(&bench, GuardConfig::default())).await;
    let good = |payment| {
        json!({"bank": "alpha", "key": place(payment, 5).key().to_string(),
            "account": crate::bench::debtor().as_str(), "amount": {"amount": 5, "currency": "EUR"},
            "until_us": START.plus(Duration::from_secs(9)).as_micros()})
    };
    let mut bad = good(new_payment());
    bad["account"] = json!("CH00");
    let body = json!({"operations": [good(new_payment()), bad, good(new_payment())]});
    let post = |token: &'static str, body: serde_json::Value| {
        let request = reqwest::Client::new().post(root.join(hold_api::PATH).unwrap());
        async move { request.bearer_auth(token).json(&body).send().await.unwrap() }
    };
    let response = post("tier-token", body.clone()).await;
    let outcomes: serde_json::Value = response.json().await.unwrap();
    let told: Vec<_> = outcomes["outcomes"].as_array().unwrap().iter().map(|item| &item["outcome"]).collect();
    assert_eq!(told, ["done", "unprocessable", "done"], "{outcomes:#}");

    assert_eq!(post("stolen", body.clone()).await.status(), 401);
    assert_eq!(post("tier-token", json!({"operations": 7})).await.status(), 400);
    let many = json!({"operations": vec![&body["operations"][0]; hold_api::SLICE_MAX + 1]});
    assert_eq!(post("tier-token", many).await.status(), 413);
    let huge = json!({"operations": [{"bank": "x".repeat(5 << 20), "key": ""}]});
    assert_eq!(post("tier-token", huge).await.status(), 413);
    let refused = client(&root, "stolen").execute(&[(bank_code(), place(new_payment(), 1))]).await;
    assert!(matches!(refused[..], [Outcome::NotSent { .. }]), "{refused:?}");
}

#[tokio::test]
async fn a_bank_that_is_down_opens_its_own_circuit_only() {
    let bench = Bench::start(HoldMode::Native).await;
    let open_for = Duration::from_secs(5);
    let guard = GuardConfig {
        breaker: BreakerConfig { failures_to_open: 2, open_for, open_for_max: open_for },
        ..GuardConfig::default()
    };
    let banks: [(BankCode, Arc<dyn BankConnector>); 1] = [(bank_code(), Arc::clone(&bench.bank))];
    let changes = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&changes);
    let hook: flowbridge_bank::registry::CircuitHook =
        Arc::new(move |bank, state| log.lock().unwrap().push((bank.clone(), state.as_str())));
    let clock: Arc<dyn Clock> = bench.clock.clone();
    let registry = BankRegistry::new(banks, guard, &clock, Some(&hook));
    let bank = registry.get(&bank_code()).unwrap();

    bench.admin.fault(FaultRule::always(Fault::Unavailable { after_execution: false }).times(2)).await;
    let operation = [place(new_payment(), 10)];
    for _ in 0..2 {
        assert!(matches!(bank.execute(&operation).await[..], [Outcome::Unknown { .. }]));
    }
    let until = START.plus(open_for);
    assert_eq!(bank.breaker_state(), BreakerState::Open { until });
    let [Outcome::NotSent { retry_at: Some(retry_at), .. }] = bank.execute(&operation).await[..] else {
        panic!("turned away, and told until when")
    };
    assert_eq!(retry_at, until);
    bench.clock.set(until);
    done(bank.execute(&operation).await.pop().unwrap());
    let expected = ["open", "half_open", "closed"].map(|state| (bank_code(), state));
    assert_eq!(*changes.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_slow_bank_holds_up_only_so_many_calls() {
    let bench = Bench::start(HoldMode::Native).await;
    let guard = GuardConfig { calls_max: 1, wait_max: Duration::from_millis(50), ..GuardConfig::default() };
    let registry = registry(&bench, guard);
    bench.admin.fault(FaultRule::always(Fault::Latency { ms: 1_000, jitter_ms: 0 }).times(1)).await;
    let slow: [(BankCode, Operation); 1] = [(bank_code(), place(new_payment(), 10))];
    let turned_away = [(bank_code(), place(new_payment(), 10))];
    let (slow, turned_away) = tokio::join!(registry.execute(&slow), registry.execute(&turned_away));
    assert!(matches!(slow[..], [Outcome::Done(_)]), "{slow:?}");
    assert!(matches!(turned_away[..], [Outcome::NotSent { .. }]), "{turned_away:?}");
}
