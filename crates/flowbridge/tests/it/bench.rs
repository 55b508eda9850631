//! The benchmarks themselves: a short run of each ends with its proof, and with every figure that it promises.

use serde_json::Value;
use std::process::Command;

/// Runs a benchmark on a stack of its own, which has to succeed; gives its last line.
fn bench(arguments: &[&str]) -> Value {
    let (figures, is_success, said) = run(arguments);
    assert!(is_success, "{said}");
    for field in ["machine", "version", "commit"] {
        assert!(figures.get(field).is_some(), "{field}: {said}");
    }
    figures
}

fn run(arguments: &[&str]) -> (Value, bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_flowbridge"))
        .args(["bench"])
        .args(arguments)
        .args(["--embedded", "--json"])
        .output()
        .unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let said = format!("{complained}\n{said}");
    let figures = said.lines().last().and_then(|line| serde_json::from_str(line).ok());
    (figures.unwrap_or_else(|| panic!("no figures: {said}")), output.status.success(), said)
}

fn positive(figures: &Value, pointer: &str) {
    let figure = figures.pointer(pointer).and_then(Value::as_f64);
    assert!(figure.is_some_and(|figure| figure > 0.0), "{pointer} in {figures:#}");
}

#[test]
fn payments_after_a_past_of_others_end_with_their_proof_and_every_figure() {
    let run = ["payments", "--duration", "4s", "--warmup", "4s", "--rate", "20", "--no-yardstick"];
    let figures = bench(&[&run[..], &["--prefill", "2000"]].concat());
    assert_eq!(figures["proof"], "ok");
    let past = figures["policy"]["past_payments"].as_str().and_then(|count| count.parse().ok());
    assert!(past.is_some_and(|count: u64| count >= 2_000), "{figures:#}");
    for pointer in [
        "/completed_per_s",
        "/accepted_per_s",
        "/accept_ms/p50",
        "/accept_ms/p95",
        "/accept_ms/p99",
        "/accept_ms/max",
        "/end_to_end_ms/p99",
        "/cpu_us_per_payment/flowbridge",
        "/cpu_us_per_payment/postgresql",
        "/wal_bytes_per_payment",
        "/rss_bytes_max",
    ] {
        positive(&figures, pointer);
    }
}

#[test]
fn requests_alone_are_all_there_afterwards() {
    let figures =
        bench(&["api", "--duration", "2s", "--warmup", "1s", "--concurrency", "4", "--no-yardstick"]);
    assert_eq!(figures["proof"], "ok");
    positive(&figures, "/accepted_per_s");
}

#[test]
fn single_payments_over_four_keys_settle_once_each() {
    let run = ["chain", "--batch", "1", "--lanes", "4", "--rate", "20", "--duration", "3s", "--warmup", "1s"];
    let figures = bench(&run);
    assert_eq!((&figures["proof"], &figures["lanes"]), (&"ok".into(), &4.into()));
    positive(&figures, "/payments_per_s");
    positive(&figures, "/latency_ms/p99");
}

#[test]
fn what_a_stack_costs_at_rest_is_told_by_its_parts() {
    // How much that is depends on the build: only an optimised one has to stay below the limit.
    let (figures, is_success, said) = run(&["idle", "--duration", "6s", "--warmup", "2s"]);
    let total = figures["cpu_percent_total"].as_f64().unwrap();
    assert_eq!(is_success, total < 2.0, "{said}");
    for pointer in ["/stored_bytes/chain", "/stored_bytes/database"] {
        positive(&figures, pointer);
    }
    for pointer in ["/cpu_percent/flowbridge", "/cpu_percent/postgresql", "/grown_bytes_per_day/chain"] {
        assert!(figures.pointer(pointer).is_some(), "{pointer}: {said}");
    }
}

#[test]
fn transfers_add_up_and_cannot_be_changed() {
    let figures =
        bench(&["ledger", "--accounts", "10", "--slice", "100", "--duration", "1s", "--no-yardstick"]);
    assert_eq!(figures["proof"], "ok");
    positive(&figures, "/transfers_per_s");
}

#[test]
fn a_watcher_that_catches_up_has_everything_once() {
    let figures = bench(&["watcher", "--payments", "250"]);
    assert_eq!(figures["proof"], "ok");
    positive(&figures, "/events_per_s");
    positive(&figures, "/rss_bytes_max");
}
