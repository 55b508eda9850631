//! The edge itself: where things are, what refusals explain, pages, slow and oversized clients, and the end.

use crate::api::{Api, Client, ISSUER, NOW, Reply, Setup};
use flowbridge_api::problem::ErrorCode;
use flowbridge_domain::bank::ReasonCode;
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::money::{Currency, Money};
use flowbridge_domain::party::EvmAddress;
use flowbridge_domain::payment::{ChainLog, Event};
use flowbridge_gateway::ClientQuota;
use flowbridge_security::scope::{Scope, ScopeSet};
use flowbridge_security::webhook::EndpointKeys;
use flowbridge_store::accept::{
    AcceptRefusal, Decision, Instruction, KeptAnswer, KeyedRequest, NewPayment, PaymentPolicy, accept, keep,
    take_key,
};
use flowbridge_store::chain::{Contracts, save_contracts};
use flowbridge_store::{Db, DbSettings, proof};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

#[tokio::test]
async fn what_was_created_says_where_it_is_also_when_repeated() {
    let api = Api::start().await;
    let paid = api.create(&api.alpha, "where", &api.payment(500).to_string()).await;
    let payment = format!("/v1/payments/{}", paid.body["id"].as_str().unwrap());
    assert_eq!(paid.header("location"), Some(&*payment));
    assert_eq!(api.get(&api.alpha, &payment).await.body, paid.body);
    let again = api.create(&api.alpha, "where", &api.payment(500).to_string()).await;
    assert_eq!((again.replayed, again.header("location")), (true, Some(&*payment)));

    api.complete(paid.body["id"].as_str().unwrap()).await;
    let amount = json!({ "instructed_amount": { "amount": 1, "currency": "EUR" } }).to_string();
    let account =
        json!({ "bank": "alpha", "currency": "CHF", "iban": api.iban(), "wallet": wallet(), "name": "Asha" });
    for (path, collection, body, token) in [
        (format!("{payment}/refunds"), "/v1/payments", amount, &api.beta.token),
        (
            "/v1/participants".to_owned(),
            "/v1/participants",
            json!({ "name": "New" }).to_string(),
            &api.operator(),
        ),
        ("/v1/accounts".to_owned(), "/v1/accounts", account.to_string(), &api.alpha.token),
        (
            "/v1/webhook-endpoints".to_owned(),
            "/v1/webhook-endpoints",
            json!({ "url": "https://bank.example/" }).to_string(),
            &api.alpha.token,
        ),
    ] {
        let made = api.send("POST", &path, token, Some("created"), Some(&body)).await;
        assert_eq!(made.status, 201, "{path}: {}", made.body);
        let id = made.body["id"].as_str().unwrap();
        assert_eq!(made.header("location"), Some(&*format!("{collection}/{id}")));
        let found = api.send("GET", made.header("location").unwrap(), token, None, None).await;
        assert_eq!(found.body["id"], id);
    }
    let refused = api.create(&api.alpha, "nowhere", &api.payment(0).to_string()).await;
    assert_eq!((refused.status, refused.header("location")), (400, None));
}

#[tokio::test]
async fn a_refusal_says_what_was_asked_for_and_links_to_a_page_that_is_there() {
    let api = Api::start().await;
    let unknown = PaymentId::generate(NOW, [7; 10]);
    let path = format!("/v1/payments/{unknown}");
    let missing = api.get(&api.alpha, &format!("{path}?secret=1")).await;
    assert_eq!(
        (missing.status, &missing.body["instance"]),
        (404, &json!(path)),
        "no query: {}",
        missing.body
    );
    assert_eq!(missing.body["type"], format!("{ISSUER}/errors/FB1201"));

    let mut broke = api.payment(1);
    broke["funding"] = json!("token");
    let kept = api.create(&api.alpha, "broke", &broke.to_string()).await;
    assert_eq!((kept.code(), &kept.body["instance"]), ("insufficient_funds", &json!("/v1/payments")));
    let lines = api.post(&api.alpha, "/v1/payments/bulk", "lines", &json!([broke, 1]).to_string()).await;
    for line in [0, 1] {
        assert_eq!(lines.body["outcomes"][line]["body"]["instance"], "/v1/payments/bulk", "{}", lines.body);
    }
    let paid = api.create(&api.alpha, "early", &api.payment(5).to_string()).await;
    let path = format!("/v1/payments/{}/refunds", paid.body["id"].as_str().unwrap());
    let amount = json!({ "instructed_amount": { "amount": 1, "currency": "EUR" } }).to_string();
    let early = api.post(&api.beta, &path, "early", &amount).await;
    assert_eq!((early.code(), &early.body["instance"]), ("not_refundable", &json!(path)));

    for code in ErrorCode::ALL {
        let page = api.http.get(format!("{}/errors/{}", api.url, code.number())).send().await.unwrap();
        assert_eq!(
            (page.status().as_u16(), &page.headers()["content-type"]),
            (200, &"text/html; charset=utf-8".parse().unwrap())
        );
        let html = page.text().await.unwrap();
        assert!(
            html.contains(&format!("<code>{}</code>", code.code())) && html.contains("What to do"),
            "{html}"
        );
    }
    for nowhere in ["FB0000", "fb1001", "..%2fREADME", "%00"] {
        let none = api.send("GET", &format!("/errors/{nowhere}"), "", None, None).await;
        assert_eq!((none.status, none.code()), (404, "not_found"), "{nowhere}");
    }
}

#[tokio::test]
async fn whatever_is_wrong_with_any_body_is_refused_with_its_place() {
    let api = Api::start().await;
    let paid = api.create(&api.alpha, "original", &api.payment(5).to_string()).await;
    let refunds = format!("/v1/payments/{}/refunds", paid.body["id"].as_str().unwrap());
    let made =
        api.post(&api.alpha, "/v1/webhook-endpoints", "hook", r#"{"url":"https://bank.example/"}"#).await;
    let endpoint = format!("/v1/webhook-endpoints/{}", made.body["id"].as_str().unwrap());
    let (disable, recover) = (format!("{endpoint}/disable"), format!("{endpoint}/recover"));
    let (alpha, operator) = (&api.alpha.token, &api.operator());
    for (method, path, token, body, status, pointer) in [
        (
            "POST",
            &*refunds,
            alpha,
            r#"{"instructed_amount":{"amount":-1,"currency":"EUR"}}"#,
            400,
            "/instructed_amount/amount",
        ),
        (
            "POST",
            &refunds,
            alpha,
            r#"{"instructed_amount":{"amount":1,"currency":"XXX"}}"#,
            400,
            "/instructed_amount/currency",
        ),
        (
            "POST",
            &refunds,
            alpha,
            r#"{"instructed_amount":{"amount":1,"amount":2}}"#,
            400,
            "/instructed_amount/amount",
        ),
        (
            "POST",
            &refunds,
            alpha,
            r#"{"instructed_amount":{"amount":1e400,"currency":"EUR"}}"#,
            400,
            "/instructed_amount/amount",
        ),
        ("POST", &refunds, alpha, "[]", 400, ""),
        ("POST", "/v1/accounts", alpha, "{}", 400, "/iban"),
        ("POST", "/v1/accounts", alpha, r#"{"currency":"EU"}"#, 400, "/currency"),
        ("POST", "/v1/accounts", alpha, r#"{"wallet":"0x12"}"#, 400, "/wallet"),
        ("POST", "/v1/accounts", alpha, r#"{"wallet":null,"iban":[[[1]]]}"#, 400, "/iban"),
        ("POST", "/v1/participants", operator, "{}", 400, "/name"),
        (
            "POST",
            "/v1/participants",
            operator,
            r#"{"name":"A","fee_basis_points":-1}"#,
            400,
            "/fee_basis_points",
        ),
        (
            "POST",
            "/v1/participants",
            operator,
            r#"{"name":"A","fee_basis_points":99999999999999999999}"#,
            400,
            "/fee_basis_points",
        ),
        ("POST", "/v1/participants", operator, r#"{"name":"A","lei":"x"}"#, 400, "/lei"),
        ("POST", "/v1/webhook-endpoints", alpha, "[null,null]", 400, ""),
        ("POST", "/v1/webhook-endpoints", alpha, "{}", 400, "/url"),
        ("POST", "/v1/webhook-endpoints", alpha, r#"{"url":1}"#, 400, "/url"),
        ("POST", "/v1/webhook-endpoints", alpha, r#"{"url":"https://10.0.0.1/"}"#, 422, "/url"),
        (
            "POST",
            "/v1/webhook-endpoints",
            alpha,
            r#"{"url":"https://a.example","event_kinds":{"a":1}}"#,
            400,
            "/event_kinds",
        ),
        (
            "POST",
            "/v1/webhook-endpoints",
            alpha,
            r#"{"url":"https://a.example","event_kinds":["payment.held",1]}"#,
            400,
            "/event_kinds/1",
        ),
        (
            "POST",
            "/v1/webhook-endpoints",
            alpha,
            r#"{"url":"https://a.example","event_kinds":["party"]}"#,
            422,
            "/event_kinds/0",
        ),
        ("PATCH", &endpoint, alpha, r#"[null,null]"#, 400, ""),
        ("PATCH", &endpoint, alpha, r#"{"uri":"https://a.example"}"#, 400, "/uri"),
        ("POST", &disable, alpha, r#"{"reason":" "}"#, 422, "/reason"),
        ("POST", &disable, alpha, r#"{"reason":7}"#, 400, "/reason"),
        ("POST", &recover, alpha, r#"{"since":"then"}"#, 422, "/since"),
        ("POST", &recover, alpha, r#"{"since":"2026-01-01T00:00:00Z","after":"x"}"#, 422, "/after"),
        ("POST", "/v1/payments/bulk", alpha, r#"[{"a":1,"a":2}]"#, 400, "/0/a"),
        ("POST", "/v1/payments/bulk", alpha, r#"{"a":1}"#, 400, ""),
    ] {
        let reply = api.send(method, path, token, Some("wrong"), Some(body)).await;
        assert_eq!(reply.status, status, "{method} {path} {body}: {}", reply.body);
        assert!(reply.pointers().contains(&pointer), "{method} {path} {body}: {}", reply.body);
    }
}

#[tokio::test]
async fn payments_are_listed_by_when_they_were_accepted() {
    let api = Api::start().await;
    for units in [100, 101, 102, 103] {
        api.create(&api.alpha, &format!("at-{units}"), &api.payment(units).to_string()).await;
        api.clock.advance(Duration::from_secs(60));
    }
    // NOW is 2027-01-15T08:00:00Z, and each payment a minute after the one before.
    for (query, wanted) in [
        ("created_from=2027-01-15T08:01:00Z", vec![103, 102, 101]),
        ("created_to=2027-01-15T08:01:00Z", vec![100]),
        ("created_from=2027-01-15T08:01:00Z&created_to=2027-01-15T10:03:00%2B02:00", vec![102, 101]),
        ("created_from=2027-01-15T08:02:00.001Z&state=accepted&kind=transfer", vec![103]),
        ("created_from=2027-01-15T08:02:30Z&created_to=2027-01-15T08:02:30Z", vec![]),
        ("created_from=2100-01-01T00:00:00Z", vec![]),
        ("created_to=0001-01-01T00:00:00Z", vec![]),
        ("created_to=1970-01-01T00:00:00Z", vec![]),
        ("created_from=1970-01-01T00:00:00Z", vec![103, 102, 101, 100]),
        ("created_from=0001-01-01T00:00:00Z", vec![103, 102, 101, 100]),
        ("created_from=-009000-01-01T00:00:00Z", vec![103, 102, 101, 100]),
    ] {
        for token in [&api.alpha, &api.beta] {
            let page = api.get(token, &format!("/v1/payments?{query}")).await;
            assert_eq!(amounts(&page), wanted, "{query}: {}", page.body);
        }
    }
    let query = "created_from=2027-01-15T08:01:00Z";
    let first = api.get(&api.alpha, &format!("/v1/payments?limit=2&{query}")).await;
    let next = first.header("link").unwrap();
    let next = next.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap();
    let second = api.get(&api.alpha, next).await;
    assert_eq!((amounts(&first), amounts(&second)), (vec![103, 102], vec![101]));
    assert_eq!((second.header("link"), &second.body["next_cursor"]), (None, &Value::Null));
    let bent = next.replace("T08", "T07");
    assert_eq!(api.get(&api.alpha, &bent).await.code(), "cursor_invalid", "the range is part of the query");
}

#[tokio::test]
async fn payments_are_listed_by_state_and_kind_to_those_whose_they_are() {
    let api = Api::start().await;
    let stranger = api.party(ScopeSet::from_iter(Scope::ALL.iter().copied())).await;
    // The other tests' payments, which an operator sees as well, are earlier.
    api.clock.advance(Duration::from_secs(250));
    let until = NOW.plus(Duration::from_secs(100_000));
    let (initiated, held) = (Event::Chain(ChainLog::Initiated), Event::HoldPlaced { until });
    let declined = Event::HoldDeclined(ReasonCode::parse("AM04").unwrap());
    let mut ids = Vec::new();
    for (units, events) in [
        (100, vec![]),
        (101, vec![initiated]),
        (102, vec![initiated, held]),
        (103, vec![initiated, declined, Event::Chain(ChainLog::Cancelled)]),
        (104, vec![initiated, held, Event::Chain(ChainLog::Settled), Event::Captured]),
    ] {
        let made = api.create(&api.alpha, &format!("in-{units}"), &api.payment(units).to_string()).await;
        api.clock.advance(Duration::from_secs(1));
        ids.push(made.body["id"].as_str().unwrap().to_owned());
        api.observe(&ids[ids.len() - 1], &events).await;
    }
    let refund = json!({ "instructed_amount": { "amount": 4, "currency": "EUR" } }).to_string();
    api.post(&api.beta, &format!("/v1/payments/{}/refunds", ids[4]), "refund", &refund).await;
    for (query, wanted) in [
        ("", vec![4, 104, 103, 102, 101, 100]),
        ("state=accepted", vec![4, 100]),
        ("state=accepted&kind=transfer", vec![100]),
        ("state=initiated", vec![101]),
        ("state=held", vec![102]),
        ("state=failed", vec![103]),
        ("state=failed&kind=refund", vec![]),
        ("state=completed", vec![104]),
        ("state=completed&kind=refund", vec![]),
        ("state=settled", vec![]),
        ("kind=refund", vec![4]),
        ("kind=transfer", vec![104, 103, 102, 101, 100]),
        ("kind=issuance", vec![]),
    ] {
        let path = format!("/v1/payments?{query}");
        for who in [&api.alpha, &api.beta] {
            assert_eq!(amounts(&api.get(who, &path).await), wanted, "{query}");
        }
        assert_eq!(amounts(&api.get(&stranger, &path).await), Vec::<u64>::new(), "{query}");
        let all = format!("{path}&limit=100&created_from=2027-01-15T08:04:10Z");
        let all = api.send("GET", &all, &api.operator(), None, None).await;
        let theirs = all.body["data"].as_array().unwrap().iter().filter(|payment| {
            let debtor = payment["debtor"]["account_id"].as_str();
            debtor == Some(&api.alpha.account.to_string()) || debtor == Some(&api.beta.account.to_string())
        });
        let theirs: Vec<u64> =
            theirs.map(|payment| payment["instructed_amount"]["amount"].as_u64().unwrap()).collect();
        assert_eq!(theirs, wanted, "an operator sees them all: {query}");
    }
}

#[tokio::test]
async fn the_proof_counts_a_completed_payment_whose_settlement_a_reorganisation_took_back() {
    let api = Api::start().await;
    let made = api.create(&api.alpha, "taken-back", &api.payment(700).to_string()).await;
    let id = made.body["id"].as_str().unwrap();
    api.complete(id).await;
    let removed = |log| Event::ChainRemoved(log);
    for (event, owed) in [
        (removed(ChainLog::Settled), -700),
        (removed(ChainLog::Initiated), -700),
        (Event::Chain(ChainLog::Initiated), -700),
        (Event::Chain(ChainLog::Settled), 0),
    ] {
        api.observe(id, &[event]).await;
        let (cut, _) = proof::cut(&api.db, &[], NOW).await.unwrap();
        let what = format!("receivable from {}, by live holds", api.alpha.participant);
        let line = cut.receivables.iter().find(|line| line.what == what).unwrap();
        assert_eq!((line.ledger, line.other), (owed, owed), "{event:?}");
        let shown = api.get(&api.alpha, &format!("/v1/payments/{id}")).await;
        assert_eq!(shown.body["state"], "completed", "it is sent again by itself");
    }
}

#[tokio::test]
async fn a_contract_of_ours_is_nobodys_wallet() {
    let api = Api::start().await;
    let address = |digit: u8| EvmAddress::parse(&format!("0x{}", format!("{digit:02x}").repeat(20))).unwrap();
    let contracts = Contracts {
        currency: Currency::parse("CHF").unwrap(),
        token: address(0x11),
        token_decimals: 6,
        router: address(0x22),
        manager: address(0x33),
        house: address(0x44),
    };
    save_contracts(&api.db, &contracts).await.unwrap();
    for ours in [0x11, 0x22, 0x33, 0x44] {
        let wallet = address(ours).to_string();
        let account = json!({ "bank": "alpha", "currency": "CHF", "iban": api.iban(), "wallet": wallet, "name": "Asha" });
        let refused = api.post(&api.alpha, "/v1/accounts", &wallet, &account.to_string()).await;
        assert_eq!(
            (refused.status, &refused.body["errors"][0]["pointer"]),
            (400, &json!("/wallet")),
            "{}",
            refused.body
        );
    }
}

#[tokio::test]
async fn a_refusal_names_what_there_is_not_and_costs_no_database_connection() {
    let api = Api::start().await;
    let account = json!({ "bank": "nobody", "currency": "CHF", "iban": api.iban(), "wallet": wallet(), "name": "Asha" });
    let connections = api.db.pool_use().0;
    for key in ["first", "second"] {
        let refused = api.post(&api.alpha, "/v1/accounts", key, &account.to_string()).await;
        assert_eq!((refused.status, refused.code()), (400, "invalid_request"), "{}", refused.body);
        assert_eq!(refused.body["errors"][0]["pointer"], "/bank");
    }
    assert_eq!(api.db.pool_use().0, connections);
}

#[tokio::test]
async fn every_list_pages_by_cursors_that_only_we_make() {
    let api = Api::start().await;
    for place in 0..2 {
        let account = json!({ "bank": "alpha", "currency": "CHF", "iban": api.iban(), "wallet": wallet(), "name": "Asha" });
        let made = api.post(&api.alpha, "/v1/accounts", &format!("a-{place}"), &account.to_string()).await;
        assert_eq!(made.status, 201, "{}", made.body);
        let hook = json!({ "url": format!("https://bank.example/{place}") }).to_string();
        api.post(&api.alpha, "/v1/webhook-endpoints", &format!("w-{place}"), &hook).await;
    }
    let operator = api.operator();
    for (path, token, stranger) in [
        ("/v1/accounts", &api.alpha.token, &api.beta.token),
        ("/v1/webhook-endpoints", &api.alpha.token, &api.beta.token),
        ("/v1/participants", &operator, &api.beta.token),
    ] {
        let first = api.send("GET", &format!("{path}?limit=1"), token, None, None).await;
        assert_eq!(
            (&first.body["has_more"], first.body["data"].as_array().unwrap().len()),
            (&json!(true), 1)
        );
        let cursor = first.body["next_cursor"].as_str().unwrap();
        assert!(first.header("link").unwrap().contains(cursor));
        let second = api.send("GET", &format!("{path}?limit=1&cursor={cursor}"), token, None, None).await;
        assert_ne!(second.body["data"][0]["id"], first.body["data"][0]["id"], "{path}");
        for (token, cursor) in [(stranger, cursor), (token, "AAAA"), (token, &cursor[1..])] {
            let refused = api.send("GET", &format!("{path}?cursor={cursor}"), token, None, None).await;
            assert_eq!((refused.status, refused.code()), (400, "cursor_invalid"), "{path}?cursor={cursor}");
        }
        let elsewhere = api.send("GET", &format!("/v1/payments?cursor={cursor}"), token, None, None).await;
        assert_eq!(elsewhere.code(), "cursor_invalid", "a cursor of {path} is one of {path} only");
    }
}

#[tokio::test]
async fn a_request_that_panics_or_takes_too_long_is_answered_with_a_problem() {
    let setup =
        Setup { proof: Arc::new(|| Box::pin(async { panic!("on purpose") })), ..Setup::usual().await };
    let api = Api::set_up(setup).await;
    let broken = api.send("GET", "/v1/proof", &api.operator(), None, None).await;
    assert_eq!(
        (broken.status, broken.code(), &broken.body["instance"]),
        (500, "internal", &json!("/v1/proof"))
    );
    assert!(!broken.body.to_string().contains("on purpose"), "why is for us to know: {}", broken.body);
    assert_eq!(api.get(&api.alpha, "/v1/payments").await.status, 200, "and everybody else is served");

    let setup = Setup {
        proof: Arc::new(|| Box::pin(std::future::pending())),
        request_timeout: Duration::from_millis(200),
        ..Setup::usual().await
    };
    let api = Api::set_up(setup).await;
    let slow = api.send("GET", "/v1/proof", &api.operator(), None, None).await;
    assert_eq!((slow.status, slow.code(), &slow.body["instance"]), (504, "timeout", &json!("/v1/proof")));
}

#[tokio::test]
async fn a_key_that_is_being_worked_on_is_told_to_come_back_and_then_finds_the_answer() {
    let mut setup = Setup::usual().await;
    let url = crate::webhooks::server_url();
    let settings = DbSettings { lock_timeout: Duration::from_millis(100), ..DbSettings::new(url) };
    setup.db = Db::new(&settings).unwrap();
    let api = Api::set_up(setup).await;
    let made = r#"{"url":"https://bank.example/"}"#;
    for (path, key, body) in [
        ("/v1/payments", "slow-payment", api.payment(1).to_string()),
        ("/v1/webhook-endpoints", "slow-endpoint", made.to_owned()),
    ] {
        let client_id = format!("client-{}", api.alpha.participant);
        let identity = flowbridge_security::fingerprint::RequestIdentity {
            method: "POST",
            route: path,
            path_params: &[],
            body_digest: flowbridge_security::sha256(body.as_bytes()),
            client_id: &client_id,
        };
        let fingerprint = identity.fingerprint();
        let request = KeyedRequest {
            client_id: client_id.clone(),
            route: format!("POST {path}"),
            key: key.to_owned(),
            fingerprint,
        };
        // Another process of ours has begun on it.
        let other = api.db.begin().await.unwrap();
        take_key(&other, &request, NOW).await.unwrap();
        let asked = api.post(&api.alpha, path, key, &body).await;
        assert_eq!((asked.status, asked.code()), (409, "request_in_progress"), "{}", asked.body);
        assert_eq!(asked.header("retry-after"), Some("1"));
        let neighbour =
            api.create(&api.alpha, &format!("{key}-neighbour"), &api.payment(2).to_string()).await;
        assert_eq!(neighbour.status, 201, "{}", neighbour.body);

        let answer = KeptAnswer { status: 201, body: br#"{"id":"made-elsewhere"}"#.to_vec() };
        keep(&other, &request, &answer).await.unwrap();
        other.commit().await.unwrap();
        let asked = api.post(&api.alpha, path, key, &body).await;
        assert_eq!((asked.status, asked.replayed, &asked.body["id"]), (201, true, &json!("made-elsewhere")));
    }
}

/// The database by one connection: whoever holds that keeps everybody else waiting, up to so long.
fn with_one_connection(pool_wait_max: Duration) -> Db {
    let url = crate::webhooks::server_url();
    Db::new(&DbSettings { pool_size_max: 1, pool_wait_max, ..DbSettings::new(url) }).unwrap()
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_not_carried_out_ahead_of_those_who_wait() {
    let mut setup = Setup::usual().await;
    setup.db = with_one_connection(Duration::from_secs(60));
    let api = Api::set_up(setup).await;
    // The database stands still: each of the two that commit has a request, and gets no further.
    let still = api.db.begin().await.unwrap();
    let post = |key: &'static str, units| {
        let request = api.http.post(format!("{}/v1/payments", api.url)).bearer_auth(&api.alpha.token);
        request.header("idempotency-key", key).json(&api.payment(units))
    };
    let mut waiting = Vec::new();
    for (place, (key, units)) in [("first", 1), ("second", 2)].into_iter().enumerate() {
        waiting.push(tokio::spawn(post(key, units).send()));
        while api.db.pool_use().1 <= place {
            tokio::task::yield_now().await;
        }
    }
    // Clients that give up, and one that does not.
    let gone = (0..20).map(|_| post("gone", 3).timeout(Duration::from_millis(100)).send());
    assert!(futures_util::future::join_all(gone).await.iter().all(Result::is_err));
    waiting.push(tokio::spawn(post("patient", 4).send()));
    for _ in 0..3 {
        assert!(api.http.get(format!("{}/livez", api.url)).send().await.unwrap().status().is_success());
    }
    still.rollback().await.unwrap();
    for answer in waiting {
        assert_eq!(answer.await.unwrap().unwrap().status().as_u16(), 201);
    }
    let mut made = amounts(&api.get(&api.alpha, "/v1/payments").await);
    made.sort_unstable();
    assert_eq!(made, [1, 2, 4], "whoever went away asks again, under the same key");
    assert_eq!(post("gone", 3).send().await.unwrap().status().as_u16(), 201);
}

#[tokio::test]
async fn however_many_lines_of_bulk_requests_wait_there_is_room_for_who_pays_one_by_one() {
    let mut setup = Setup::usual().await;
    setup.db = with_one_connection(Duration::from_secs(60));
    let api = Api::set_up(setup).await;
    // The database stands still, and bulk requests come and go, a slice of each into the queue: more than it takes.
    let still = api.db.begin().await.unwrap();
    let lines = json!(vec![api.payment(1); 100]);
    let bulk = || {
        let request = api.http.post(format!("{}/v1/payments/bulk", api.url)).bearer_auth(&api.alpha.token);
        request.header("idempotency-key", "bulk").json(&lines).timeout(Duration::from_millis(100)).send()
    };
    let mut given_up = 0;
    while given_up < 100 {
        let (one, other) = tokio::join!(bulk(), bulk());
        given_up += usize::from(one.is_err()) + usize::from(other.is_err());
    }
    let payment = api.payment(2).to_string();
    let mut single = std::pin::pin!(api.create(&api.alpha, "single", &payment));
    let early = tokio::time::timeout(Duration::from_millis(200), single.as_mut()).await;
    assert!(early.is_err(), "turned away: {}", early.unwrap().body);
    still.rollback().await.unwrap();
    assert_eq!(single.await.status, 201);
}

#[tokio::test]
async fn a_gateway_is_ready_while_it_is_busy_and_not_when_its_database_is_away() {
    let mut setup = Setup::usual().await;
    setup.db = with_one_connection(Duration::from_millis(100));
    let api = Api::set_up(setup).await;
    let ready =
        async |api: &Api| api.raw("GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let busy = api.db.begin().await.unwrap();
    let asked = api.get(&api.alpha, "/v1/payments").await;
    assert_eq!((asked.status, ready(&api).await), (503, 200), "{}", asked.body);
    busy.rollback().await.unwrap();
    assert_eq!(ready(&api).await, 200);
    api.db.close();
    assert_eq!(ready(&api).await, 503);
}

#[tokio::test]
async fn a_webhook_secret_is_answered_alike_when_repeated_and_is_nowhere_in_the_database() {
    let api = Api::start().await;
    let body = r#"{"url":"https://bank.example/"}"#;
    let made = api.post(&api.alpha, "/v1/webhook-endpoints", "made", body).await;
    let rotate = format!("/v1/webhook-endpoints/{}/rotate", made.body["id"].as_str().unwrap());
    let rotated = api.send("POST", &rotate, &api.alpha.token, Some("rotated"), None).await;
    assert_eq!((made.status, rotated.status), (201, 200), "{} {}", made.body, rotated.body);
    assert_ne!(made.body["secret"], rotated.body["secret"]);
    for (path, key, body, first) in
        [("/v1/webhook-endpoints", "made", Some(body), &made), (&rotate, "rotated", None, &rotated)]
    {
        let again = api.send("POST", path, &api.alpha.token, Some(key), body).await;
        assert_eq!((again.status, again.replayed, &again.body), (first.status, true, &first.body));
    }
    let (client, connection) =
        tokio_postgres::connect(&crate::webhooks::server_url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let rows = client
        .query(
            "select e::text as row from webhook_endpoint e union all select encode(body, 'escape') from idempotency_key where client_id = $1",
            &[&format!("client-{}", api.alpha.participant)],
        )
        .await
        .unwrap();
    assert!(rows.len() > 2);
    for secret in [&made, &rotated].map(|reply| reply.body["secret"].as_str().unwrap().to_owned()) {
        let bytes: Vec<u8> =
            EndpointKeys::parse(&secret, "whsk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
                .unwrap()
                .secret_bytes()
                .to_vec();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        for row in &rows {
            let row: String = row.get("row");
            assert!(!row.contains(&secret) && !row.contains(&hex), "{row}");
        }
    }
}

#[tokio::test]
async fn operators_and_participants_have_webhook_endpoints_each_of_their_own() {
    let api = Api::start().await;
    let (operator, alpha) = (api.operator(), api.alpha.token.clone());
    let all = "/v1/webhook-endpoints";
    let body = |kind: &str| json!({ "url": "https://hooks.example/", "event_kinds": [kind] }).to_string();
    let ours = api.send("POST", all, &operator, Some("own"), Some(&body("exception.proposed"))).await;
    let theirs = api.send("POST", all, &alpha, Some("own"), Some(&body("payment.settled"))).await;
    assert_eq!((ours.status, theirs.status), (201, 201), "{} {}", ours.body, theirs.body);
    let (ours, theirs) = (ours.body["id"].as_str().unwrap(), theirs.body["id"].as_str().unwrap());
    for (token, kind) in [(&operator, "payment.settled"), (&alpha, "exception.proposed")] {
        let refused = api.send("POST", all, token, Some("other"), Some(&body(kind))).await;
        assert_eq!((refused.status, refused.pointers()), (422, vec!["/event_kinds/0"]), "{kind}");
    }
    let reads_only = ScopeSet::EMPTY.with(Scope::WebhooksRead);
    let reader = api.tokens.issue("reader", None, reads_only, NOW).unwrap().token;
    let reader = api.send("GET", all, reader.expose_secret(), None, None).await;
    assert_eq!((reader.status, reader.code()), (403, "insufficient_scope"), "ours, but no operator");

    let why = json!({ "reason": "maintenance" }).to_string();
    let since = json!({ "since": "2027-01-15T08:00:00Z" }).to_string();
    let url = json!({ "url": "https://hooks.example/new" }).to_string();
    for (method, action, body) in [
        ("GET", "", None),
        ("PATCH", "", Some(url.as_str())),
        ("POST", "/rotate", None),
        ("POST", "/recover", Some(since.as_str())),
        ("GET", "/deliveries", None),
        ("POST", "/disable", Some(why.as_str())),
        ("POST", "/enable", None),
        ("DELETE", "", None),
    ] {
        let owners = [(ours, theirs, &operator), (theirs, ours, &alpha)];
        let to = |id: &str| format!("{all}/{id}{action}");
        let key = (method != "GET").then(|| format!("{method}{action}"));
        for (own, others, token) in owners {
            let prying = api.send(method, &to(others), token, key.as_deref(), body).await;
            assert_eq!(prying.status, 404, "{method} {action}: {}", prying.body);
            let listed = api.send("GET", &format!("{all}?limit=100"), token, None, None).await;
            assert!(listed.body.to_string().contains(own), "{}", listed.body);
            assert!(!listed.body.to_string().contains(others), "{}", listed.body);
        }
        for (own, _, token) in owners {
            let done = api.send(method, &to(own), token, key.as_deref(), body).await;
            assert_eq!(done.status, 200, "{method} {action}: {}", done.body);
        }
    }
}

#[tokio::test]
async fn a_refund_that_is_refused_leaves_its_share_to_its_neighbours() {
    let api = Api::start().await;
    let paid = api.create(&api.alpha, "original", &api.payment(1_000).to_string()).await;
    api.complete(paid.body["id"].as_str().unwrap()).await;
    let mut spent = api.payment(600);
    spent["funding"] = json!("token");
    (spent["debtor"], spent["creditor"]) = (spent["creditor"].clone(), spent["debtor"].clone());
    assert_eq!(api.create(&api.beta, "spent", &spent.to_string()).await.status, 201);

    let of = PaymentId::parse(paid.body["id"].as_str().unwrap()).unwrap();
    let refund = |key: &str, units| NewPayment {
        id: PaymentId::generate(NOW, flowbridge_security::random_bytes().unwrap()),
        participant: Some(api.beta.participant),
        instruction: Instruction::Refund { of },
        amount: Money::new(units, Currency::parse("EUR").unwrap()),
        end_to_end_id: Some("SAME-REFERENCE".to_owned()),
        uetr: uuid::Uuid::nil(),
        remittance_information: None,
        authorization: None,
        execute_at: NOW,
        expires_at: None,
        traceparent: String::new(),
        key: KeyedRequest {
            client_id: api.beta.participant.to_string(),
            route: "POST /v1/payments/{id}/refunds".to_owned(),
            key: key.to_owned(),
            fingerprint: [0; 32],
        },
    };
    let policy = PaymentPolicy {
        execution_spread: Duration::from_secs(3_600),
        initiate_window: Duration::from_secs(120),
        expiry: Duration::from_secs(600),
        settle_margin: Duration::from_secs(30),
        hold_margin: Duration::from_secs(3_600),
    };
    let decided = Mutex::new(Vec::new());
    let note = |_: &NewPayment, decision: &Decision| {
        decided.lock().unwrap().push(match decision {
            Decision::Accepted(_) => Ok(()),
            Decision::Refused(refusal) => Err(*refusal),
        });
        KeptAnswer { status: 201, body: b"{}".to_vec() }
    };
    // 400 of the 1,000 are left in the wallet.
    let slice = [refund("too-much", 700), refund("enough", 400), refund("no-more", 1)];
    accept(&api.db, &slice, &policy, NOW, &note).await.unwrap();
    let decided = decided.into_inner().unwrap();
    assert_eq!(
        decided[..2],
        [Err(AcceptRefusal::InsufficientFunds), Ok(())],
        "neither quota nor reference was used up"
    );
    assert!(matches!(decided[2], Err(AcceptRefusal::ReferenceUsed(_))), "{decided:?}");
}

#[tokio::test]
async fn slow_silent_and_bloated_clients_are_cut_off() {
    let mut setup = Setup::usual().await;
    setup.limits.header_read_max = Duration::from_millis(300);
    let api = Api::set_up(setup).await;
    for begun in ["", "P", "PRI * HTTP/2.0", "GET /livez HTTP/1.1\r\nHost: a\r\nX-Slow: "] {
        let mut socket = api.socket().await;
        socket.write_all(begun.as_bytes()).await.unwrap();
        let mut said = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), socket.read_to_end(&mut said)).await;
        assert!(read.is_ok(), "{begun:?}: the server hung up");
        assert!(!said.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&said));
    }
    let api = Api::start().await;
    let bloated = format!("GET /livez HTTP/1.1\r\nHost: a\r\nX-Big: {}\r\n\r\n", "x".repeat(40_000));
    assert_eq!(api.raw(&bloated).await, 431);
    let many = (0..500).map(|place| format!("X-{place}: 1\r\n")).collect::<String>();
    assert_eq!(api.raw(&format!("GET /livez HTTP/1.1\r\nHost: a\r\n{many}\r\n")).await, 431);
    assert_eq!(api.raw("GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await, 200);
}

#[tokio::test]
async fn who_asks_nothing_more_or_does_not_take_the_answer_makes_room_for_others() {
    let mut setup = Setup::usual().await;
    setup.limits.header_read_max = Duration::from_millis(300);
    setup.limits.connections_max = 1;
    let api = Api::set_up(setup).await;

    // Whoever speaks HTTP/2 and says that it is there, each time it is asked, after one request.
    let mut idle = api.socket().await;
    let headers = [&[0x82, 0x86, 0x04, 6][..], b"/livez", &[0x01, 1], b"a"].concat();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let length = u8::try_from(headers.len()).unwrap();
    let request = [&[0, 0, length, 1, 5, 0, 0, 0, 1][..], &headers].concat();
    idle.write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..], &request].concat()).await.unwrap();
    let told = async {
        let mut answers = 0;
        let mut head = [0; 9];
        while idle.read_exact(&mut head).await.is_ok() {
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            if idle.read_exact(&mut payload).await.is_err() {
                break;
            }
            let (kind, flags) = (head[3], head[4]);
            answers += u32::from(kind == 1);
            if kind == 6 && flags == 0 {
                let pong = [&[0, 0, 8, 6, 1, 0, 0, 0, 0][..], &payload].concat();
                let _ = idle.write_all(&pong).await;
            }
        }
        answers
    };
    let answers = tokio::time::timeout(Duration::from_secs(10), told).await.expect("it is let go");
    assert_eq!(answers, 1);

    // Whoever asks for megabytes and reads nothing.
    let mut full = api.socket().await;
    let asked = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1_000);
    // As many of them as the sockets take.
    let _ = tokio::time::timeout(Duration::from_millis(500), full.write_all(&asked)).await;
    let mut next = api.socket().await;
    next.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut said = [0; 12];
    let served = tokio::time::timeout(Duration::from_secs(10), next.read_exact(&mut said)).await;
    served.expect("it gets the place").unwrap();
    assert_eq!(&said, b"HTTP/1.1 200");
}

#[tokio::test]
async fn a_client_that_asks_for_too_much_is_told_when_to_go_on_and_is_the_only_one() {
    let mut setup = Setup::usual().await;
    setup.client_quota =
        ClientQuota { requests: NonZeroU32::new(2).unwrap(), window: Duration::from_secs(7_200) };
    let api = Api::set_up(setup).await;
    let payment = api.payment(1_000).to_string();
    let created = api.create(&api.alpha, "the first", &payment).await;
    assert_eq!((created.status, created.header("ratelimit")), (201, Some("\"client\";r=1")));
    assert_eq!(created.header("ratelimit-policy"), Some("\"client\";q=2;w=7200"));
    assert_eq!(
        api.get(&api.alpha, "/v1/payments/no-such-thing").await.header("ratelimit"),
        Some("\"client\";r=0")
    );
    let refused = api.create(&api.alpha, "the second", &payment).await;
    assert_eq!((refused.status, refused.code()), (429, "quota_exceeded"));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((3_000..=3_600).contains(&wait), "one of two comes back in an hour, not {wait} s");
    assert_eq!(refused.header("ratelimit"), Some(format!("\"client\";r=0;t={wait}").as_str()));
    let scopes = ScopeSet::from_iter(Scope::ALL.iter().copied());
    let colleague = api.tokens.issue("a colleague", Some(api.alpha.participant), scopes, NOW).unwrap();
    let seen = api.send("GET", "/v1/payments", colleague.token.expose_secret(), None, None).await;
    assert_eq!(seen.body["data"].as_array().map(Vec::len), Some(1), "nothing came of what was refused");
    let stranger = api.send("GET", "/v1/payments", "no token", None, None).await;
    assert_eq!((stranger.status, stranger.header("ratelimit")), (401, None));
}

#[tokio::test]
async fn each_payment_of_a_bulk_counts_as_a_request() {
    let mut setup = Setup::usual().await;
    setup.client_quota =
        ClientQuota { requests: NonZeroU32::new(5).unwrap(), window: Duration::from_secs(18_000) };
    let api = Api::set_up(setup).await;
    let bulk = |lines: usize| json!(vec![api.payment(10); lines]).to_string();
    let made = api.post(&api.alpha, "/v1/payments/bulk", "three", &bulk(3)).await;
    assert_eq!((made.status, made.header("ratelimit")), (200, Some("\"client\";r=2")), "{}", made.body);
    let refused = api.post(&api.alpha, "/v1/payments/bulk", "three more", &bulk(3)).await;
    assert_eq!((refused.status, refused.code()), (429, "quota_exceeded"));
    assert!(refused.header("retry-after").is_some());
    let others = api.post(&api.beta, "/v1/payments/bulk", "all", &bulk(9)).await;
    assert_eq!((others.status, others.header("ratelimit")), (200, Some("\"client\";r=0")));
    let listed = api.get(&api.alpha, "/v1/payments").await;
    assert_eq!(amounts(&listed), [10, 10, 10], "nothing came of what was refused");
}

#[tokio::test]
async fn bulk_requests_beyond_their_places_are_turned_away_before_they_are_read_and_none_takes_all_places() {
    let api = Api::start().await;
    let stranger = api.party(ScopeSet::from_iter(Scope::ALL.iter().copied())).await;
    let begun = async |token: &str| {
        let mut socket = api.socket().await;
        let header = format!(
            "POST /v1/payments/bulk HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n["
        );
        socket.write_all(header.as_bytes()).await.unwrap();
        socket
    };
    let line = async |client: &Client| api.post(client, "/v1/payments/bulk", "line", "[1]").await;
    let becomes = async |client: &Client, status: u16| {
        let waited = tokio::time::timeout(Duration::from_secs(20), async {
            while line(client).await.status != status {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        waited.await.unwrap();
    };
    let slow = [begun(&api.alpha.token).await, begun(&api.alpha.token).await];
    becomes(&api.alpha, 503).await;
    let turned_away = line(&api.alpha).await;
    assert_eq!(turned_away.code(), "temporarily_unavailable");
    assert_eq!(turned_away.header("retry-after"), Some("1"));
    assert_eq!(line(&api.beta).await.status, 200, "half of the places are left to the others");
    let more = [begun(&api.beta.token).await, begun(&api.beta.token).await];
    becomes(&stranger, 503).await;
    assert_eq!(api.create(&api.alpha, "single", &api.payment(1).to_string()).await.status, 201);
    drop((slow, more));
    for client in [&api.alpha, &api.beta, &stranger] {
        becomes(client, 200).await;
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_their_turn() {
    let mut setup = Setup::usual().await;
    setup.limits.connections_max = 1;
    let api = Api::set_up(setup).await;
    let first = api.socket().await;
    let mut second = api.socket().await;
    second.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut said = [0; 12];
    let early = tokio::time::timeout(Duration::from_millis(200), second.read_exact(&mut said)).await;
    assert!(early.is_err(), "the first has the only place");
    drop(first);
    second.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"HTTP/1.1 200");
}

#[tokio::test]
async fn at_the_end_what_is_under_way_is_answered_and_what_hangs_is_dropped() {
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let mut setup = Setup::usual().await;
    setup.limits.drain_max = Duration::from_secs(60);
    let (begin, wait) = (begun.clone(), go_on.clone());
    setup.proof = Arc::new(move || {
        let (begin, wait) = (begin.clone(), wait.clone());
        Box::pin(async move {
            begin.notify_one();
            wait.notified().await;
            Ok(json!({ "holds": true }))
        })
    });
    let api = Api::set_up(setup).await;
    let operator = api.operator();
    let under_way = async { api.send("GET", "/v1/proof", &operator, None, None).await };
    let stopping = async {
        begun.notified().await;
        api.stop.cancel();
        // Nobody new is let in, while the one who is in is waited for.
        while TcpStream::connect(api.address()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!api.served.is_finished());
        go_on.notify_one();
    };
    let (answered, ()) = tokio::join!(under_way, stopping);
    assert_eq!((answered.status, &answered.body["holds"]), (200, &json!(true)));
    api.served.await.unwrap();

    let mut setup = Setup::usual().await;
    setup.limits.drain_max = Duration::from_millis(200);
    let begin = begun.clone();
    setup.proof = Arc::new(move || {
        begin.notify_one();
        Box::pin(std::future::pending())
    });
    let api = Api::set_up(setup).await;
    let request = api.http.get(format!("{}/v1/proof", api.url)).bearer_auth(api.operator());
    let hanging = tokio::spawn(async move { request.send().await });
    begun.notified().await;
    api.stop.cancel();
    tokio::time::timeout(Duration::from_secs(10), api.served).await.unwrap().unwrap();
    assert!(hanging.await.unwrap().is_err(), "the connection was closed");
}

fn amounts(page: &Reply) -> Vec<u64> {
    let rows = page.body["data"].as_array().unwrap();
    rows.iter().map(|payment| payment["instructed_amount"]["amount"].as_u64().unwrap()).collect()
}

fn wallet() -> String {
    let bytes: [u8; 20] = flowbridge_security::random_bytes().unwrap();
    bytes.iter().fold("0x".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

impl Api {
    fn address(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    async fn socket(&self) -> TcpStream {
        TcpStream::connect(self.address()).await.unwrap()
    }

    /// An IBAN that nobody else has.
    fn iban(&self) -> String {
        crate::api::iban(u64::from_be_bytes(flowbridge_security::random_bytes().unwrap())).as_str().to_owned()
    }

    /// The status that bytes are answered with.
    async fn raw(&self, request: &str) -> u16 {
        let mut socket = self.socket().await;
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut said = [0; 12];
        socket.read_exact(&mut said).await.unwrap();
        String::from_utf8_lossy(&said[9..]).parse().unwrap()
    }
}
