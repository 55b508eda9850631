//! The owners of the vault at work, on the command line and through the API, against a running FlowBridge.

use crate::running::{Running, until};
use flowbridge_chain::Key;
use serde_json::{Value, json};

const PAYMENT: &str = r#"{"debtor":{"iban":"DE02120300000000202051"},"creditor":{"iban":"FR1420041010050500013M02606"},
    "instructed_amount":{"amount":1250,"currency":"EUR"}}"#;
const OPERATOR: [&str; 2] = ["--client", "operator"];

/// Puts a motion to the owners; its id.
fn propose(running: &Running, what: &[&str]) -> String {
    let said = running.command(&[&["vault"], what].concat());
    said.split_whitespace().next().unwrap().to_owned()
}

fn owner(number: u8) -> String {
    format!(".flowbridge/keys/owners/owner-{number}.key")
}

fn approve(running: &Running, id: &str, owners: [u8; 2]) {
    for number in owners {
        running.command(&["vault", "approve", id, "--owner-key", &owner(number)]);
    }
}

fn execute(id: &str) -> [&str; 5] {
    ["vault", "execute", id, "--key", ".flowbridge/keys/admin.key"]
}

fn post(running: &Running, path: &str, body: &Value) -> Value {
    running.json(&[&["api", "POST", path, &body.to_string()], &OPERATOR[..]].concat())
}

fn refused_post(running: &Running, path: &str, body: &Value) -> String {
    running.refusal(&[&["api", "POST", path, &body.to_string()], &OPERATOR[..]].concat())
}

/// What a wallet would answer for the proposal's typed data.
fn signature(running: &Running, proposal: &Value, number: u8) -> String {
    let digest = proposal["digest"].as_str().unwrap();
    let mut bytes = [0; 32];
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digest[2 + place * 2..4 + place * 2], 16).unwrap();
    }
    let signed = Key::read(&running.file(&owner(number))).unwrap().sign_recoverably(&bytes).unwrap();
    signed.iter().fold("0x".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

async fn lane_stops(running: &Running) -> f64 {
    let metrics = reqwest::get(&running.metrics_url).await.unwrap().text().await.unwrap();
    let line = metrics.lines().find(|line| line.starts_with("chain_lane_stopped_total{lane=\"settler\"}"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
}

#[tokio::test]
async fn an_exhausted_mint_allowance_stops_the_lane_until_the_owners_raise_it() {
    let running = Running::start("vault-minting", &[]).await;
    let verified = running.command(&["contracts", "verify"]);
    assert!(verified.contains("EUR: every address, code and role is as recorded and as built"), "{verified}");

    let wallet = "0x00000000000000000000000000000000000000aa";
    let register =
        |currency, key| ["contracts", "register", "--currency", currency, "--registrar-key", key, wallet];
    let admin = ".flowbridge/keys/admin.key";
    assert!(running.command(&register("EUR", admin)).contains("may hold EUR"));
    let unknown = running.refusal(&register("USD", admin));
    assert!(unknown.contains("no contracts are deployed for USD, but for "), "{unknown}");
    let stranger = running.refusal(&register("EUR", &owner(1)));
    assert!(stranger.contains("is it the key that deployed?"), "{stranger}");
    assert!(stranger.contains("the sender lacks the role"), "{stranger}");

    let govern = ["contracts", "govern", "--currency", "EUR", "--admin-key", admin, "--owner", wallet];
    let others = running.refusal(&govern);
    assert!(others.contains("differs in --owner (recorded: "), "one vault, whoever is named: {others}");
    let govern = ["contracts", "govern", "--currency", "EUR", "--admin-key", admin, "--threshold", "3"];
    let otherwise = running.refusal(&[&govern[..], &["--mint-cap", "7"]].concat());
    assert!(otherwise.contains(" units of the token)"), "{otherwise}");
    assert!(
        otherwise.contains("differs in --threshold (recorded: 2), --mint-cap (recorded: "),
        "{otherwise}"
    );

    let nothing = propose(&running, &["propose", "mint-allowance", "--currency", "EUR", "--amount", "0"]);
    let too_early = running.refusal(&execute(&nothing));
    assert!(too_early.contains("0 of 3 owners have approved, 2 must"), "{too_early}");
    approve(&running, &nothing, [1, 3]);
    let again = running.refusal(&["vault", "approve", &nothing, "--owner-key", &owner(1)]);
    assert!(again.contains("has approved this motion already"), "{again}");
    let stranger =
        running.refusal(&["vault", "approve", &nothing, "--owner-key", ".flowbridge/keys/admin.key"]);
    assert!(stranger.contains("no owner of the vault"), "{stranger}");
    assert!(running.command(&execute(&nothing)).contains("carried out in block"));
    let replayed = running.refusal(&execute(&nothing));
    assert!(replayed.contains("the motion is executed"), "{replayed}");

    let payment = running.json(&["api", "POST", "/v1/payments", PAYMENT])["id"].as_str().unwrap().to_owned();
    until(async || lane_stops(&running).await > 0.0).await;
    assert!(running.command(&["vault", "show"]).contains("EUR: the manager may mint 0.000000 more"));
    assert_eq!(running.json(&["api", "GET", &format!("/v1/payments/{payment}")])["state"], "held");

    // Two motions by the API: the second may not overtake the first.
    let mut list = running.json(&[&["api", "GET", "/v1/vault/proposals"], &OPERATOR[..]].concat());
    let past = list["data"].as_array().unwrap().iter().find(|known| known["id"] == nothing.as_str()).unwrap();
    assert_eq!(past["state"], "executed");
    let mut call = past["calls"][0].clone();
    let data = call["data"].as_str().unwrap();
    call =
        json!({ "to": call["to"], "data": format!("{}{:064x}", &data[..data.len() - 64], 500_000_000_u64) });
    let wanted = json!({ "kind": "operation", "calls": [call], "note": "the day's volume" });
    let raise = post(&running, "/v1/vault/proposals", &wanted);
    let words = raise["calls"][0]["in_words"].as_str().unwrap();
    assert!(words.contains("mint 500.000000 EUR"), "{words}");
    let later = post(&running, "/v1/vault/proposals", &wanted);
    assert_eq!(later["nonce"].as_u64().unwrap(), raise["nonce"].as_u64().unwrap() + 1);
    let (raised, overtaking) = (raise["id"].as_str().unwrap(), later["id"].as_str().unwrap());
    let approvals = |id: &str| format!("/v1/vault/proposals/{id}/approvals");
    let foreign = json!({ "signature": signature(&running, &later, 1) });
    let refused = refused_post(&running, &approvals(raised), &foreign);
    assert!(refused.contains("vault_approval_refused"), "a signature is over one motion: {refused}");
    for number in [1, 2] {
        for proposal in [&raise, &later] {
            let body = json!({ "signature": signature(&running, proposal, number) });
            post(&running, &approvals(proposal["id"].as_str().unwrap()), &body);
        }
    }
    let twice = json!({ "signature": signature(&running, &raise, 2) });
    let refused = refused_post(&running, &approvals(raised), &twice);
    assert!(refused.contains("already_exists"), "{refused}");
    let out_of_order = running.refusal(&execute(overtaking));
    assert!(out_of_order.contains("in the order of their nonces"), "{out_of_order}");

    running.command(&execute(raised));
    running.reaches(&payment, "completed").await;
    list = running.json(&[&["api", "GET", "/v1/vault"], &OPERATOR[..]].concat());
    let left =
        list["minting"].as_array().unwrap().iter().find(|minting| minting["currency"] == "EUR").unwrap();
    assert_eq!(left["allowance"], "487500000", "12.50 of 500.00 were minted");
    let as_participant = running.refusal(&["api", "GET", "/v1/vault"]);
    assert!(as_participant.contains("insufficient_scope"), "{as_participant}");
    running.stop().await;
}

fn in_half_an_hour() -> String {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    (since.as_secs() + 1_800).to_string()
}

#[tokio::test]
async fn what_must_wait_is_scheduled_and_can_be_cancelled_meanwhile() {
    let running = Running::start("vault-waiting", &[]).await;
    let delay = propose(&running, &["propose", "delay", "3600"]);
    approve(&running, &delay, [2, 3]);
    running.command(&execute(&delay));
    assert!(running.command(&["vault", "show"]).contains("large operations wait 3600 s"));
    let verified = running.refusal(&["contracts", "verify"]);
    assert!(
        verified.contains("large operations of the vault wait 3600 s, the record says 0 s"),
        "{verified}"
    );
    // Repeated, when all of it is done: nothing is left to hand over.
    let again = ["contracts", "govern", "--currency", "EUR", "--admin-key", ".flowbridge/keys/admin.key"];
    assert!(running.command(&again).contains("\"governance\""));
    let soon = in_half_an_hour();
    let void = running.refusal(&["vault", "propose", "threshold", "3", "--deadline", &soon]);
    assert!(void.contains("ends before the vault's delay of 3600 s"), "{void}");

    let all = propose(&running, &["propose", "threshold", "3"]);
    approve(&running, &all, [1, 2]);
    let scheduled = running.command(&execute(&all));
    assert!(scheduled.contains("scheduled: give the command again from"), "{scheduled}");
    let waits = running.refusal(&execute(&all));
    assert!(waits.contains("it waits for the vault's delay, until"), "{waits}");
    let instead = propose(&running, &["cancel"]);
    approve(&running, &instead, [1, 3]);
    running.command(&execute(&instead));
    assert!(running.command(&["vault", "show", &all]).contains(": cancelled"));
    let gone = running.refusal(&["vault", "approve", &all, "--owner-key", &owner(3)]);
    assert!(gone.contains("the motion is cancelled"), "{gone}");
    let typed = running.json(&["vault", "show", &all, "--typed-data"]);
    assert_eq!(typed["primaryType"], "Operation");
    running.stop().await;
}
