//! Reconciliation on the command line, against a running FlowBridge.

use crate::running::Running;
use std::fs;
use std::path::PathBuf;

const STATEMENT: &str = ":20:STARTUMS\r\n:25:DE02120300000000202051\r\n:28C:1/1\r\n:60F:C261101EUR100,00\r\n\
    :61:2611021102C50,00NTRFNONREF//SAME\r\n:86:RENT\r\n:62F:C261102EUR150,00\r\n-\r\n";

#[tokio::test]
async fn banks_and_chain_are_reconciled_and_what_does_not_belong_is_refused() {
    let running = Running::start("reconciliation", &[("FLOWBRIDGE__RECONCILIATION__NIGHTLY_AT", "")]).await;
    let started = running.command(&["recon", "start"]);
    for scope in ["alpha", "beta", "chain:EUR"] {
        let line = started.lines().find(|line| line.contains(scope));
        assert!(line.is_some_and(|line| line.contains("done")), "{scope}: {started}");
    }
    assert!(!started.contains("unexplained -") && started.contains("unexplained 0"), "{started}");
    assert!(running.command(&["recon", "exceptions", "--state", "all"]).contains("no exceptions"));
    let listed = running.command(&["recon", "list", "--scope", "alpha"]);
    let id = listed.split_whitespace().next().unwrap();
    let log = ["api", "GET", "/v1/events?topic=reconciliation&limit=100", "--client"];
    let told = running.json(&[&log[..], &["operator"]].concat())["data"].as_array().unwrap().clone();
    assert!(
        told.iter().any(|event| event["type"] == "reconciliation.completed" && event["subject"] == id),
        "{told:?}"
    );
    assert!(running.refusal(&[&log[..], &["alpha"]].concat()).contains("only operators"));
    let report = running.json(&["recon", "report", id]);
    assert_eq!((&report["summary"]["scope"], &report["summary"]["matched"]), (&"alpha".into(), &1.into()));
    assert!(running.command(&["recon", "report", id, "--format", "html"]).starts_with("<!doctype html>"));
    let manifest = report["manifest_sha256"].as_str().unwrap();
    assert!(running.command(&["recon", "report", id, "--format", "camt"]).contains(manifest));
    let paper = running.file("report.pdf");
    running.command(&["recon", "report", id, "--format", "pdf", "--out", paper.to_str().unwrap()]);
    let paper = fs::read(paper).unwrap();
    assert!(paper.starts_with(b"%PDF") && paper.windows(64).any(|part| part == manifest.as_bytes()));
    let taught = running.refusal(&[
        "recon",
        "retrain",
        "--from-database",
        "--split-on",
        "2100-01-01",
        "--models",
        running.file("models").to_str().unwrap(),
    ]);
    assert!(taught.contains("only 0 decisions"), "{taught}");

    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (good, bad) = (folder.join("good.sta"), folder.join("bad.sta"));
    fs::write(&good, STATEMENT).unwrap();
    fs::write(&bad, STATEMENT.replace("EUR150,00", "EUR151,00")).unwrap();
    let import = |file: &PathBuf, bank: &str| {
        let (file, bank) = (file.to_str().unwrap().to_owned(), bank.to_owned());
        running.refusal(&["recon", "import", &file, "--bank", &bank])
    };
    assert!(import(&good, "alpha").contains("statement_source"), "its connector reads it already");
    assert!(import(&bad, "alpha").contains("statement_does_not_add_up"));
    assert!(import(&good, "nobody").contains("there is no such bank"));

    let breaker = running.json(&["breaker", "show"]);
    assert_eq!(breaker["state"], "closed");
    let refused = running.refusal(&["breaker", "reset", "--reason", "none"]);
    assert!(refused.contains("the breaker is closed"), "{refused}");
    assert_eq!(running.json(&["proof", "--client", "operator"])["breaker"]["state"], "closed");
}
