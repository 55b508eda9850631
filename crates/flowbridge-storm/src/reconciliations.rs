//! Reconciliations while everything is killed, and one of everything at rest.
//!
//! Now and then somebody asks for one, so that the audit log is written while those who write it die. What such a run finds in the middle
//! of a storm is nobody's business: banks and ledger differ for moments. At rest all is reconciled once more, and nothing may differ
//! (I12 where nothing was spoiled; that what was spoiled is found, `flowbridge bench reconciliation` judges).

use crate::api::{Api, Call};
use crate::oracle::{list, text};
use crate::{INSTITUTIONS, api};
use anyhow::{Context as _, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const RUNS: &str = "/v1/reconciliations";
/// A run is asked for in each round with a number that this divides.
const EVERY: u64 = 4;
/// How long runs may take to end: one whose process was killed is taken up again when its lease is over.
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Asks that a bank be reconciled while the round goes on, in some rounds. Whoever gets no answer at one gateway asks once more at the
/// other, and lets it be.
pub(crate) async fn ask_beside(api: &Api, round: u64) {
    if !round.is_multiple_of(EVERY) {
        return;
    }
    let turn = usize::try_from(round / EVERY).unwrap_or(0) % INSTITUTIONS.len();
    let (key, body) = (format!("storm-reconciliation-{round}"), json!({ "scope": INSTITUTIONS.get(turn) }));
    for gateway in 0..2 {
        if ask(api, gateway, &key, &body).await.is_ok_and(|answer| answer.status == 202) {
            return;
        }
    }
}

async fn ask(api: &Api, gateway: usize, key: &str, body: &Value) -> Result<api::Answer> {
    let call = Call { who: "operator", method: &Method::POST, path: RUNS, key: Some(key), body: Some(body) };
    api.call(gateway, call).await
}

/// Waits for what was asked for, reconciles everything once more, and gives what differs.
pub(crate) async fn at_rest(api: &Api) -> Result<Vec<String>> {
    all_ended(api).await?;
    let asked = ask(api, 0, "storm-reconciliation-at-rest", &json!({})).await?;
    ensure!(asked.status == 202, "no reconciliation can be asked for: {} {}", asked.status, asked.body);
    let asked = asked.json()?;
    let asked: Vec<&str> = list(&asked, "data").iter().map(|run| text(run, "id")).collect();
    let runs = all_ended(api).await?;
    let mut wrong = Vec::new();
    for id in asked {
        let run = runs.iter().find(|run| text(run, "id") == id).context("a run that was asked for")?;
        wrong.extend(differences(run).map(|what| format!("I12: {}: {what}", text(run, "scope"))));
    }
    let open = api.read("operator", "/v1/exceptions?state=open&limit=100").await?;
    wrong.extend(list(&open, "data").iter().map(|open| format!("I12: an exception is open at rest: {open}")));
    Ok(wrong)
}

/// Waits until no run is asked for or under way; all of them.
async fn all_ended(api: &Api) -> Result<Vec<Value>> {
    let began = Instant::now();
    loop {
        let runs = runs(api).await?;
        let open: Vec<&Value> =
            runs.iter().filter(|run| matches!(text(run, "state"), "asked" | "running")).collect();
        if open.is_empty() {
            return Ok(runs);
        }
        ensure!(began.elapsed() < PATIENCE, "these runs had not ended after {PATIENCE:?}: {open:?}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn runs(api: &Api) -> Result<Vec<Value>> {
    let (mut runs, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.read("operator", &format!("{RUNS}?limit=100{cursor}")).await?;
        runs.extend_from_slice(list(&page, "data"));
        match page.get("next_cursor").and_then(Value::as_str) {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(runs),
        }
    }
}

/// Why a run of books that are at rest is not one that found nothing.
fn differences(run: &Value) -> Option<String> {
    let summary = run.get("summary").unwrap_or(&Value::Null);
    let none = |name: &str| summary.get(name).and_then(Value::as_u64).unwrap_or(0) == 0;
    let is_clean = text(run, "state") == "done"
        && summary.get("is_whole") == Some(&json!(true))
        && summary.get("breaks") == Some(&json!({}))
        // A run over the chain has nothing in transit, and does not say so.
        && none("in_transit")
        && none("under_way");
    (!is_clean).then(|| run.to_string())
}
