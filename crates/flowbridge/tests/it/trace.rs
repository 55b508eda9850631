//! One trace per payment, and everything else that is told of one: timeline, log lines, metrics.

use crate::running::{Running, until};
use axum::Router;
use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT_SPAN: &str = "00f067aa0ba902b7";

/// The seven steps: accepted, initiated on chain and seen there, held by the bank, settled on chain and seen there, and what
/// follows of it for bank, ledger and webhooks.
const STEPS: [&str; 10] = [
    "accept",
    "initiate",
    "chain.initiated",
    "place_hold",
    "bank.hold_placed",
    "settle",
    "chain.settled",
    "capture",
    "bank.captured",
    "webhook",
];
/// The events of a payment that goes well.
const EVENTS: [&str; 5] =
    ["payment.accepted", "payment.initiated", "payment.held", "payment.settled", "payment.completed"];

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_and_one_timeline_from_the_client_to_the_webhook() {
    let spans: Arc<Mutex<Vec<Span>>> = Arc::default();
    let webhooks: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
    let (collected, received) = (spans.clone(), webhooks.clone());
    let collect = async move |body: Bytes| {
        let export = ExportTraceServiceRequest::decode(body).unwrap();
        let scopes = export.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        collected.lock().unwrap().extend(scopes.flat_map(|scope| scope.spans));
    };
    let receive = async move |headers: HeaderMap| received.lock().unwrap().push(headers);
    let router = Router::new().route("/v1/traces", post(collect)).route("/webhooks", post(receive));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });

    let settings = [
        ("FLOWBRIDGE__OBSERVABILITY__OTLP_ENDPOINT", &*address),
        ("FLOWBRIDGE__OBSERVABILITY__LOG_FORMAT", "json"),
        ("FLOWBRIDGE__OBSERVABILITY__LOG_FILTER", "warn,flowbridge::step=debug"),
    ];
    let running = Running::start("trace", &settings).await;
    let endpoint = json!({ "url": format!("{address}/webhooks") }).to_string();
    running.json(&["api", "POST", "/v1/webhook-endpoints", &endpoint]);
    let payment = json!({
        "debtor": { "iban": "DE02120300000000202051" }, "creditor": { "iban": "FR1420041010050500013M02606" },
        "instructed_amount": { "amount": 4_200, "currency": "EUR" },
    });
    let answer = reqwest::Client::new()
        .post(format!("{}/v1/payments", running.url))
        .bearer_auth(running.command(&["token"]))
        .header("idempotency-key", "traced")
        .header("traceparent", format!("00-{TRACE}-{CLIENT_SPAN}-01"))
        .json(&payment)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201);
    let answer: Value = answer.json().await.unwrap();
    let id = answer["id"].as_str().unwrap();
    running.reaches(id, "completed").await;
    let ours = || -> Vec<Span> {
        let spans = spans.lock().unwrap();
        spans.iter().filter(|span| attribute(span, "payment.id").as_deref() == Some(id)).cloned().collect()
    };
    until(async || {
        let spans = ours();
        let heard = spans.iter().filter(|span| span.name == "webhook").count();
        heard == EVENTS.len() && STEPS.iter().all(|step| spans.iter().any(|span| span.name == *step))
    })
    .await;

    // One trace, under the client's span: its acceptance, and under that everything else.
    let spans = ours();
    let names: BTreeSet<&str> = spans.iter().map(|span| &*span.name).collect();
    assert_eq!(names, BTreeSet::from(STEPS));
    let accept = spans.iter().find(|span| span.name == "accept").unwrap();
    assert_eq!(hex(&accept.parent_span_id), CLIENT_SPAN);
    for span in &spans {
        assert_eq!(hex(&span.trace_id), TRACE, "{}", span.name);
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano && span.start_time_unix_nano > 0);
        assert!(span.name == "accept" || span.parent_span_id == accept.span_id, "{}", span.name);
    }
    let called: BTreeSet<String> =
        spans.iter().filter(|span| span.name == "webhook").map(|span| hex(&span.span_id)).collect();
    let told: BTreeSet<String> = webhooks
        .lock()
        .unwrap()
        .iter()
        .map(|headers| {
            let traceparent = headers["traceparent"].to_str().unwrap();
            traceparent.strip_prefix(&format!("00-{TRACE}-")).unwrap().strip_suffix("-01").unwrap().to_owned()
        })
        .collect();
    assert_eq!(called, told, "the receiver continues the span that called it");

    timeline_has_it_all(&running, id);
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/payments.jsonl");
    let table = running.command(&["payments", "submit", example]);
    assert_eq!(table.matches("completed").count(), 3, "the example in the README: {table}");
    let metrics = reqwest::get(&running.metrics_url).await.unwrap().text().await.unwrap();
    for line in [
        "payments_total{state=\"accepted\"}",
        "payments_total{state=\"completed\"}",
        "bank_operations_total{bank=\"alpha\",step=\"place_hold\",outcome=\"done\"}",
        "bank_operation_seconds_count{bank=\"alpha\",step=\"capture\"}",
        "step_seconds_count{step=\"settle\",outcome=\"batched\"}",
        "step_seconds_count{step=\"chain.settled\",outcome=\"applied\"}",
        "webhook_deliveries_total{outcome=\"delivered\"}",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }

    let log = running.stop().await;
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for step in STEPS {
        let line = lines.iter().find(|line| line["step"] == step && line["payment.id"] == id);
        assert_eq!(line.unwrap_or_else(|| panic!("no line of {step}: {log}"))["trace_id"], TRACE);
    }
    let complaint = lines.iter().find(|line| line["level"] == "WARN" || line["level"] == "ERROR");
    assert_eq!(complaint, None, "nothing went wrong");
    for secret in ["DE02120300000000202051", "FR1420041010050500013M02606", "whsec_", "traced"] {
        assert!(!log.contains(secret), "{secret} must not be logged");
    }
}

fn timeline_has_it_all(running: &Running, id: &str) {
    let timeline = running.json(&["api", "GET", &format!("/v1/payments/{id}/timeline")]);
    let list = |name: &str| timeline[name].as_array().unwrap().clone();
    let texts = |name: &str, member: &str| -> Vec<String> {
        list(name).iter().map(|row| row[member].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(texts("chain_transactions", "purpose"), ["initiate", "settle"]);
    assert!(texts("chain_transactions", "tx_hash").iter().all(|hash| hash.len() == 66));
    assert_eq!(texts("journal_entries", "moment"), ["settled", "captured"]);
    assert_eq!(texts("webhook_deliveries", "event"), EVENTS);
    assert!(texts("webhook_deliveries", "state").iter().all(|state| state == "delivered"));
    let held = list("effects").into_iter().find(|effect| effect["effect"] == "place_hold").unwrap();
    assert!(held["reference"].as_str().unwrap().starts_with("ALPHA-"), "{held}");

    let shown = running.command(&["payments", "show", id]);
    let mut hashes = texts("chain_transactions", "tx_hash");
    hashes.extend(["ledger: captured", "webhook: payment.completed", "reference ALPHA-"].map(str::to_owned));
    for part in hashes {
        assert!(shown.contains(&part), "{part} is not in {shown}");
    }
    let creditor_s =
        running.json(&["api", "--client", "beta", "GET", &format!("/v1/payments/{id}/timeline")]);
    assert_eq!(creditor_s["webhook_deliveries"], json!([]), "what another institution is sent is not shown");
}

fn attribute(span: &Span, name: &str) -> Option<String> {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    let found = span.attributes.iter().find(|attribute| attribute.key == name)?;
    let value = found.value.as_ref()?.value.as_ref()?;
    if let Value::StringValue(text) = value { Some(text.clone()) } else { None }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
