//! What operators do on the command line, against a running FlowBridge.

use crate::running::{Running, until};
use serde_json::Value;

#[tokio::test]
async fn clients_are_registered_and_kept_out_and_participants_suspended_and_let_go_on() {
    let running = Running::start("operators", &[]).await;
    let registered = [
        "clients",
        "register",
        "auditor-client",
        "--name",
        "The auditor",
        "--operator",
        "--scope",
        "participants:read",
    ];
    let key = ["--new-key", ".flowbridge/clients/auditor.pem"];
    running.command(&[&registered[..], &key[..]].concat());
    assert!(!running.command(&["token", "--client", "auditor"]).is_empty(), "it signs in");
    let again = running.refusal(&[&registered[..], &key[..]].concat());
    assert!(again.contains("a key is not written over"), "{again}");

    let participants = running.command(&["participants", "list", "--client", "auditor"]);
    let alpha = participants.lines().find(|line| line.contains("alpha")).unwrap();
    let alpha = alpha.split_whitespace().next().unwrap();
    let suspend = ["participants", "suspend", alpha, "--reason", "its bank did not pay", "--client"];
    let refused = running.refusal(&[&suspend[..], &["auditor"]].concat());
    assert!(refused.contains("participants:write"), "{refused}");
    let suspended = running.command(&[&suspend[..], &["operator"]].concat());
    assert!(suspended.contains("suspended  alpha pay (its bank did not pay)"), "{suspended}");
    let body = r#"{"debtor":{"iban":"DE02120300000000202051"},"creditor":{"iban":"FR1420041010050500013M02606"},
        "instructed_amount":{"amount":1250,"currency":"EUR"}}"#;
    let refused = running.refusal(&["api", "POST", "/v1/payments", body]);
    assert!(refused.contains("participant_suspended"), "{refused}");
    running.command(&["participants", "activate", alpha, "--client", "operator"]);
    let paid: Value = serde_json::from_str(&running.command(&["api", "POST", "/v1/payments", body])).unwrap();
    assert_eq!(paid["state"], "accepted");

    let held = running.command(&["token", "--client", "auditor"]);
    let listed = format!("{}/v1/participants", running.url);
    let asks = async || reqwest::Client::new().get(&listed).bearer_auth(&held).send().await.unwrap().status();
    assert_eq!(asks().await, 200);
    running.command(&["clients", "disable", "auditor-client"]);
    until(async || asks().await == 401).await;
    assert!(running.command(&["clients", "list"]).contains("disabled"), "it shows");
    let kept_out = running.refusal(&["token", "--client", "auditor"]);
    assert!(kept_out.contains("client authentication failed"), "{kept_out}");
}
