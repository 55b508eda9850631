//! The Standard Webhooks libraries of npm and PyPI verify deliveries that a receiver recorded, and must refuse each of them
//! once a byte of its body, its id or its secret is changed: a verifier that accepts anything proves nothing.
//!
//! The file holds JSON: `[{"secret": "whsec_…", "public_key": "whpk_…", "headers": {"webhook-id": …, …}, "body": "…"}]`. The
//! libraries refuse time stamps older than five minutes, so verify soon after recording.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::stage::{Receiver, Stage};
use crate::{setup, shell};

/// What the debtor's institution hears of a payment that goes well: accepted, initiated, held, settled, completed.
const EVENTS_OF_A_PAYMENT: usize = 5;

/// Verifies every delivery in `file` with both libraries.
pub(crate) fn verify(file: &Path) -> Result<()> {
    setup::peers()?;
    let file = file.canonicalize().with_context(|| format!("there is no file {}", file.display()))?;
    let file = file.display().to_string();
    shell::run(shell::command("node", &["tools/verify-webhooks.mjs", &file]))?;
    let python = shell::root().join(".tools/python/bin/python");
    shell::run(shell::command(python, &["tools/verify_webhooks.py", &file]))
}

/// Has a payment of `stage` announced to a receiver, and another one after the keys were rotated, and verifies what came:
/// after the rotation with the new keys and with the old ones.
pub(crate) fn record_and_verify(stage: &Stage) -> Result<()> {
    let receiver = Receiver::start(EVENTS_OF_A_PAYMENT)?;
    let endpoint =
        call(stage, &["POST", "/v1/webhook-endpoints", &json!({ "url": receiver.url }).to_string()])?;
    let id = endpoint["id"].as_str().context("an endpoint without an id")?;
    pay(stage, "WEBHOOKS-1")?;
    let first = receiver.deliveries()?;

    let receiver = Receiver::start(EVENTS_OF_A_PAYMENT)?;
    let path = format!("/v1/webhook-endpoints/{id}");
    call(stage, &["PATCH", &path, &json!({ "url": receiver.url }).to_string()])?;
    let rotated = call(stage, &["POST", &format!("{path}/rotate")])?;
    pay(stage, "WEBHOOKS-2")?;
    let second = receiver.deliveries()?;

    let mut recorded = Vec::new();
    for (deliveries, keys) in [(&first, &endpoint), (&second, &rotated), (&second, &endpoint)] {
        let deliveries = deliveries.as_array().context("the deliveries as an array")?;
        ensure!(deliveries.len() == EVENTS_OF_A_PAYMENT, "{} deliveries came", deliveries.len());
        recorded.extend(deliveries.iter().map(|delivery| {
            json!({
                "secret": keys["secret"], "public_key": keys["public_key"],
                "headers": delivery["headers"], "body": delivery["body"],
            })
        }));
    }
    let file = stage.file("webhooks.json");
    fs::write(&file, serde_json::to_string(&recorded)?)?;
    verify(&file)
}

fn call(stage: &Stage, arguments: &[&str]) -> Result<Value> {
    let answer = shell::output(stage.flowbridge(&[&["api"], arguments].concat()))?;
    serde_json::from_str(&answer).context("an answer of the API is no JSON")
}

/// From a customer of the development stage to another, followed to its end.
fn pay(stage: &Stage, reference: &str) -> Result<()> {
    let payment = json!({
        "debtor": { "iban": "DE02120300000000202051" }, "creditor": { "iban": "FR1420041010050500013M02606" },
        "instructed_amount": { "amount": 1_250, "currency": "EUR" }, "end_to_end_id": reference,
    });
    let file = stage.file("payment.jsonl");
    fs::write(&file, payment.to_string())?;
    shell::output(stage.flowbridge(&["payments", "submit", &file.display().to_string()])).map(drop)
}
