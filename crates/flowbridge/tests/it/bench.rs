//! The benchmarks themselves: a short run of each ends with its proof, and with every figure that it promises.

use serde_json::Value;
use std::process::Command;

/// Runs a benchmark on a stack of its own; gives its last line.
fn bench(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_flowbridge"))
        .args(["bench"])
        .args(arguments)
        .args(["--embedded", "--json"])
        .output()
        .unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    serde_json::from_str(said.lines().last().unwrap()).unwrap()
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
        "/accept_ms/p99",
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
