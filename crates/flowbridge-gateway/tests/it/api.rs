//! The partners' API over real HTTP and a real PostgreSQL: what it promises when clients hurry, repeat, err or pry.

use crate::webhooks::database;
use flowbridge_domain::bank::HoldMode;
use flowbridge_domain::id::{AccountId, ModelProposalId, ParticipantId, PaymentId};
use flowbridge_domain::money::Currency;
use flowbridge_domain::party::{BankCode, EvmAddress, Iban};
use flowbridge_domain::payment::{ChainLog, Event, SetAside};
use flowbridge_domain::time::{Clock, ManualClock, Timestamp};
use flowbridge_gateway::reconciliations::StatementRefusal;
use flowbridge_gateway::webhooks::WebhookLimits;
use flowbridge_gateway::{
    ClientQuota, GatewayParts, GatewaySettings, ProofSource, ServeLimits, openapi_json, router, serve,
};
use flowbridge_security::client_assertion;
use flowbridge_security::cursor::CursorKey;
use flowbridge_security::jose::Algorithm;
use flowbridge_security::keys::{KeyFolder, SigningKey};
use flowbridge_security::oauth::token_form;
use flowbridge_security::scope::{Scope, ScopeSet};
use flowbridge_security::sealing::SealingKeys;
use flowbridge_security::token::{TokenIssuer, TokenVerifier};
use flowbridge_store::Db;
use flowbridge_store::accept::PaymentPolicy;
use flowbridge_store::access::{self, OauthClient};
use flowbridge_store::lifecycle::{self, Occurrence, Outcome};
use flowbridge_store::party::{self, Account, Participant};
use flowbridge_store::wake::Wake;
use reqwest::header::HeaderMap;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
pub(crate) const ISSUER: &str = "https://api.flowbridge.example";
pub(crate) const REQUEST_BYTES_MAX: usize = 65_536;
/// What judges until people have decided otherwise.
const SHIPPED_MODEL: &str = "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a";

#[tokio::test]
async fn a_client_signs_in_with_its_key_and_each_assertion_once() {
    let api = Api::start().await;
    let key = SigningKey::generate(Algorithm::EdDsa).unwrap();
    let client_id = format!("client-{}", hex(flowbridge_security::random_bytes::<8>().unwrap()));
    let client = OauthClient {
        client_id: client_id.clone(),
        participant: Some(api.alpha.participant),
        name: "Tests".to_owned(),
        scopes: vec!["payments:read".to_owned(), "accounts:read".to_owned()],
        jwks: json!({ "keys": [key.public()] }),
        active: true,
    };
    access::register_client(&api.db, &client, NOW).await.unwrap();
    let sign_in = async |form: String| {
        let request = api.http.post(format!("{}/oauth/token", api.url));
        let request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
        Reply::of(request.send().await.unwrap()).await
    };

    let assertion = client_assertion::make(&client_id, ISSUER, &key, NOW).unwrap();
    let form = token_form(&assertion, Some(ScopeSet::EMPTY.with(Scope::PaymentsRead)));
    let granted = sign_in(form.expose_secret().to_owned()).await;
    assert_eq!(granted.status, 200, "{}", granted.body);
    let token = granted.body["access_token"].as_str().unwrap().to_owned();
    assert_eq!(api.send("GET", "/v1/payments", &token, None, None).await.status, 200);
    let narrowed = api.send("GET", "/v1/accounts", &token, None, None).await;
    assert_eq!((narrowed.status, narrowed.code()), (403, "insufficient_scope"));

    let again = sign_in(form.expose_secret().to_owned()).await;
    assert_eq!((again.status, &again.body["error"]), (401, &json!("invalid_client")));
    let stranger = SigningKey::generate(Algorithm::EdDsa).unwrap();
    let forged = client_assertion::make(&client_id, ISSUER, &stranger, NOW).unwrap();
    assert_eq!(sign_in(token_form(&forged, None).expose_secret().to_owned()).await.status, 401);

    api.clock.advance(Duration::from_secs(301));
    assert_eq!(api.send("GET", "/v1/payments", &token, None, None).await.status, 401, "it has expired");
}

#[tokio::test]
async fn sixty_four_parallel_requests_with_one_key_make_one_payment() {
    let api = Api::start().await;
    let body = api.payment(1_250).to_string();
    let replies =
        futures_util::future::join_all((0..64).map(|_| api.create(&api.alpha, "one-key", &body))).await;
    let first = &replies[0];
    assert_eq!(first.status, 201, "{}", first.body);
    assert!(replies.iter().all(|reply| (reply.status, &reply.body) == (201, &first.body)));
    assert_eq!(replies.iter().filter(|reply| !reply.replayed).count(), 1);
    let listed = api.get(&api.alpha, "/v1/payments").await;
    assert_eq!(listed.body["data"], json!([first.body]), "read after write, and no second payment");

    let quoted = api.create(&api.alpha, "\"one-key\"", &body).await;
    assert_eq!((quoted.replayed, &quoted.body), (true, &first.body), "a quoted key is the same key");
    let other = api.create(&api.alpha, "one-key", &api.payment(1_251).to_string()).await;
    assert_eq!((other.status, other.code()), (422, "idempotency_key_reused"));
    let elsewhere = api.create(&api.beta, "one-key", &body).await;
    assert_eq!(elsewhere.code(), "debtor_account_unknown", "keys are each client's own");
}

#[tokio::test]
async fn a_key_that_another_gateway_is_at_is_waited_for_and_answered_as_there() {
    let api = Api::start().await;
    let body = api.payment(1_250).to_string();
    let first = api.create(&api.alpha, "a-key", &body).await;
    let (sql, connection) =
        tokio_postgres::connect(&crate::webhooks::server_url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let other = "insert into idempotency_key
        select client_id, route, 'the same', fingerprint, status, body, created_at from idempotency_key
            where client_id = $1 and key = 'a-key'";
    sql.batch_execute("begin").await.unwrap();
    assert_eq!(sql.execute(other, &[&format!("client-{}", api.alpha.participant)]).await.unwrap(), 1);
    let commits_when_waited_for = async {
        let waits =
            "select from pg_locks where not granted and pg_backend_pid() = any(pg_blocking_pids(pid))";
        while sql.query(waits, &[]).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        sql.batch_execute("commit").await.unwrap();
    };
    let patience = Duration::from_secs(20);
    let (second, waited) = tokio::join!(
        api.create(&api.alpha, "the same", &body),
        tokio::time::timeout(patience, commits_when_waited_for)
    );
    assert!(waited.is_ok(), "it was carried out beside the other: {}", second.body);
    assert_eq!((second.status, second.replayed, &second.body), (201, true, &first.body));
}

#[tokio::test]
async fn a_reference_pays_once_even_when_its_key_is_forgotten() {
    let api = Api::start().await;
    let mut body = api.payment(500);
    body["end_to_end_id"] = json!("INVOICE-1");
    let body = body.to_string();
    let keys: Vec<String> = (0..16).map(|key| format!("reference-{key}")).collect();
    let replies =
        futures_util::future::join_all(keys.iter().map(|key| api.create(&api.alpha, key, &body))).await;
    let paid: Vec<&Reply> = replies.iter().filter(|reply| reply.status == 201).collect();
    assert_eq!(paid.len(), 1);
    let id = paid[0].body["id"].as_str().unwrap();
    for reply in replies.iter().filter(|reply| reply.status != 201) {
        assert_eq!((reply.status, reply.code()), (409, "end_to_end_id_used"));
        assert!(reply.body["detail"].as_str().unwrap().contains(id), "the payment is named: {}", reply.body);
    }
}

#[tokio::test]
async fn parallel_refunds_never_exceed_the_payment() {
    let api = Api::start().await;
    let paid = api.create(&api.alpha, "original", &api.payment(1_000).to_string()).await;
    let id = paid.body["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/payments/{id}/refunds");
    let body = json!({ "instructed_amount": { "amount": 300, "currency": "EUR" } }).to_string();
    let early = api.post(&api.beta, &path, "too-early", &body).await;
    assert_eq!((early.status, early.code()), (422, "not_refundable"));

    api.complete(&id).await;
    let keys: Vec<String> = (0..20).map(|key| format!("refund-{key}")).collect();
    let replies =
        futures_util::future::join_all(keys.iter().map(|key| api.post(&api.beta, &path, key, &body))).await;
    let made = replies.iter().filter(|reply| reply.status == 201).count();
    assert_eq!(made, 3, "{:?}", replies.iter().map(Reply::code).collect::<Vec<_>>());
    assert!(
        replies
            .iter()
            .filter(|reply| reply.status != 201)
            .all(|reply| reply.code() == "refund_exceeds_payment")
    );
    let original = api.get(&api.alpha, &format!("/v1/payments/{id}")).await;
    assert_eq!(original.body["refunded"], 900);
    let balances = api.get(&api.beta, &format!("/v1/accounts/{}/balances", api.beta.account)).await;
    assert_eq!(balances.body, json!({ "currency": "EUR", "posted": 1_000, "held": 900, "available": 100 }));
}

#[tokio::test]
async fn which_client_asked_for_a_payment_is_kept_and_not_told_to_the_other_side() {
    let api = Api::start().await;
    let paid = api.create(&api.alpha, "ours", &api.payment(700).to_string()).await;
    let timeline = format!("/v1/payments/{}/timeline", paid.body["id"].as_str().unwrap());
    let ours = format!("client-{}", api.alpha.participant);
    let (sql, connection) =
        tokio_postgres::connect(&crate::webhooks::server_url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let forget = "delete from idempotency_key where client_id = $1";
    assert_eq!(sql.execute(forget, &[&ours]).await.unwrap(), 1, "as it is after a while");

    assert_eq!(api.get(&api.alpha, &timeline).await.body["client_id"], ours);
    assert_eq!(api.send("GET", &timeline, &api.operator(), None, None).await.body["client_id"], ours);
    let theirs = api.get(&api.beta, &timeline).await;
    assert_eq!((theirs.status, theirs.body.get("client_id")), (200, None), "it is theirs to receive");
}

#[tokio::test]
async fn payments_for_a_later_day_do_not_all_come_due_in_one_instant() {
    let api = Api::start().await;
    let mut payment = api.payment(10);
    payment["requested_execution_date"] = json!("2028-01-01");
    let expiring = json!("2028-01-01T00:10:00Z");
    for place in 0..20 {
        payment["expires_at"] = if place % 2 == 0 { Value::Null } else { expiring.clone() };
        let made = api.create(&api.alpha, &format!("dated-{place}"), &payment.to_string()).await;
        assert_eq!(made.status, 201, "{}", made.body);
    }
    let (sql, connection) =
        tokio_postgres::connect(&crate::webhooks::server_url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let spread = "select count(distinct execute_at), min(execute_at) >= '2028-01-01T00:00:00Z'
                and max(execute_at) < '2028-01-01T01:00:00Z', bool_and(initiate_before < settle_before)
            from payment where debtor_participant = $1";
    let row = sql.query_one(spread, &[&api.alpha.participant.as_uuid()]).await.unwrap();
    assert_eq!((row.get(0), row.get(1), row.get(2)), (20_i64, true, true));
}

#[tokio::test]
async fn a_signature_over_tokens_is_taken_only_where_tokens_fund() {
    let api = Api::start().await;
    let word = format!("0x{}", "5a".repeat(32));
    let mut payment = api.payment(700);
    payment["authorization"] = json!({ "valid_after": 0, "valid_before": 2_000_000_000, "nonce": word, "v": 27, "r": word, "s": word });
    let of_the_bank = api.create(&api.alpha, "signed", &payment.to_string()).await;
    let told = (of_the_bank.status, of_the_bank.code(), of_the_bank.pointers());
    assert_eq!(told, (422, "kind_not_applicable", vec!["/authorization"]));
    payment["funding"] = json!("token");
    let of_tokens = api.create(&api.alpha, "signed, of tokens", &payment.to_string()).await;
    assert_eq!(of_tokens.code(), "insufficient_funds", "the signature is no reason: {}", of_tokens.body);
}

#[tokio::test]
async fn a_payment_is_refused_whose_signature_is_not_valid_when_it_is_executed() {
    let api = Api::start().await;
    let word = format!("0x{}", "5a".repeat(32));
    let now = NOW.as_secs_down();
    let mut payment = api.payment(700);
    payment["funding"] = json!("token");
    // Executed within two minutes from now, or in the first hour of the first of February, which is 16 to 17 days from now.
    let (later, day) = (json!("2027-02-01"), 86_400);
    for (place, (date, after, before, told)) in [
        (Value::Null, 0, now, "/authorization/valid_before"),
        (Value::Null, 0, now + 1, "/instructed_amount"),
        (Value::Null, now + 120, now + day, "/authorization/valid_after"),
        (Value::Null, now + 119, now + day, "/instructed_amount"),
        (Value::Null, now + 60, now + 60, "/authorization/valid_before"),
        (later.clone(), 0, now + 16 * day, "/authorization/valid_before"),
        (later.clone(), now + 18 * day, now + 19 * day, "/authorization/valid_after"),
        (later, now + 16 * day, now + 18 * day, "/instructed_amount"),
    ]
    .into_iter()
    .enumerate()
    {
        payment["requested_execution_date"] = date;
        payment["authorization"] = json!({ "valid_after": after, "valid_before": before, "nonce": word, "v": 27, "r": word, "s": word });
        let refused = api.create(&api.alpha, &format!("signed-{place}"), &payment.to_string()).await;
        let code = if told == "/instructed_amount" { "insufficient_funds" } else { "expires_too_soon" };
        let answered = (refused.status, refused.code(), refused.pointers());
        assert_eq!(answered, (422, code, vec![told]), "{place}: {}", refused.body);
    }
}

#[tokio::test]
async fn a_payment_is_dated_for_a_year_ahead_and_no_later() {
    let api = Api::start().await;
    let mut payment = api.payment(10);
    // It is 08:00 on 2027-01-15.
    payment["requested_execution_date"] = json!("2028-01-16");
    assert_eq!(api.create(&api.alpha, "a year", &payment.to_string()).await.status, 201);
    payment["requested_execution_date"] = json!("2028-01-17");
    let refused = api.create(&api.alpha, "a day more", &payment.to_string()).await;
    assert_eq!((refused.status, refused.pointers()), (400, vec!["/requested_execution_date"]));
}

#[tokio::test]
async fn nobody_sees_or_moves_what_is_another_s() {
    let api = Api::start().await;
    let stranger = api.party(ScopeSet::from_iter(Scope::ALL.iter().copied())).await;
    let paid = api.create(&api.alpha, "secret", &api.payment(700).to_string()).await;
    let (payment, account) = (paid.body["id"].as_str().unwrap(), api.alpha.account.to_string());
    let participant = api.alpha.participant.to_string();
    let amount = json!({ "instructed_amount": { "amount": 1, "currency": "EUR" } }).to_string();
    for (method, path, body) in [
        ("GET", format!("/v1/payments/{payment}"), None),
        ("GET", format!("/v1/payments/{payment}/timeline"), None),
        ("POST", format!("/v1/payments/{payment}/cancel"), None),
        ("GET", format!("/v1/accounts/{account}"), None),
        ("GET", format!("/v1/accounts/{account}/balances"), None),
        ("GET", format!("/v1/participants/{participant}"), None),
        ("POST", format!("/v1/payments/{payment}/refunds"), Some(amount.as_str())),
    ] {
        let key = (method == "POST").then_some("prying");
        let reply = api.send(method, &path, &stranger.token, key, body).await;
        assert_eq!(reply.status, 404, "{method} {path}: {}", reply.body);
        let mut told = reply.body.clone();
        told["instance"] = Value::Null;
        assert!(!told.to_string().contains(&participant), "nothing but what was asked: {told}");
    }
    for (path, rows) in [("/v1/payments", 0), ("/v1/events", 0), ("/v1/accounts", 1), ("/v1/participants", 1)]
    {
        let seen = api.get(&stranger, path).await;
        assert_eq!(seen.body["data"].as_array().map(Vec::len), Some(rows), "{path}: only its own");
    }
    let debit = api.create(&stranger, "theft", &api.payment(700).to_string()).await;
    assert_eq!((debit.status, debit.code()), (422, "debtor_account_unknown"));
    assert_eq!(api.get(&stranger, "/v1/proof").await.status, 403, "it covers every participant");
    let untouched = api.get(&api.alpha, &format!("/v1/payments/{payment}")).await;
    assert_eq!(untouched.body, paid.body);
    let creditor_s = api.get(&api.beta, &format!("/v1/payments/{payment}")).await;
    assert_eq!(creditor_s.status, 200, "the creditor's side is a side of it");
    let revoked = api.post(&api.beta, &format!("/v1/payments/{payment}/cancel"), "not-mine", "").await;
    assert_eq!(revoked.status, 404, "only who pays may revoke");
}

#[tokio::test]
async fn whatever_is_wrong_is_refused_with_its_place() {
    let api = Api::start().await;
    let with = |member: &str, value: Value| {
        let mut body = api.payment(100);
        body[member] = value;
        body.to_string()
    };
    let amount = |amount: Value| with("instructed_amount", json!({ "amount": amount, "currency": "EUR" }));
    let good = api.payment(100).to_string();
    let doubled = good.replacen('{', "{\"kind\":\"transfer\",\"kind\":\"transfer\",", 1);
    let huge = good.replacen("100", "99999999999999999999999999", 1);
    for (body, pointer) in [
        (String::new(), ""),
        ("{".to_owned(), ""),
        ("[]".to_owned(), ""),
        ("null".to_owned(), ""),
        (doubled, "/kind"),
        ("[".repeat(5_000), &"/0".repeat(16)),
        (good.replacen("100", "nul", 1), "/instructed_amount/amount"),
        ("{}".to_owned(), "/debtor"),
        (amount(json!(-1)), "/instructed_amount/amount"),
        (amount(json!(0)), "/instructed_amount/amount"),
        (amount(json!(1.5)), "/instructed_amount/amount"),
        (amount(json!(1e3)), "/instructed_amount/amount"),
        (amount(json!("100")), "/instructed_amount/amount"),
        (amount(json!(9_007_199_254_740_992_i64)), "/instructed_amount/amount"),
        (amount(json!(i64::MAX)), "/instructed_amount/amount"),
        (huge, "/instructed_amount/amount"),
        (with("instructed_amount", json!({ "amount": 1, "currency": "XYZ" })), "/instructed_amount/currency"),
        (with("instructed_amount", json!({ "amount": 1, "currency": "eur" })), "/instructed_amount/currency"),
        (with("instructed_amount", json!([1])), "/instructed_amount"),
        (with("debtor", json!({ "iban": "DE00370400440532013000" })), "/debtor/iban"),
        (with("debtor", json!({ "account_id": "pay_01h455vb4pex5vsknk084sn02q" })), "/debtor/account_id"),
        (with("debtor", json!("me")), "/debtor"),
        (with("kind", json!("gift")), "/kind"),
        (with("end_to_end_id", json!("x".repeat(36))), "/end_to_end_id"),
        (with("end_to_end_id", json!("a\u{0}b")), "/end_to_end_id"),
        (with("uetr", json!("not-a-uuid")), "/uetr"),
        (with("requested_execution_date", json!("2026-02-30")), "/requested_execution_date"),
        (with("expires_at", json!("soon")), "/expires_at"),
        (with("priority", json!("high")), "/priority"),
        (with("a/b~c", json!(1)), "/a~1b~0c"),
    ] {
        let reply = api.create(&api.alpha, "hostile", &body).await;
        assert_eq!(reply.status, 400, "{body:.200}: {}", reply.body);
        assert!(reply.pointers().contains(&pointer), "{body:.200}: {}", reply.body);
        assert_eq!(reply.body["type"], format!("{ISSUER}/errors/FB1001"));
        assert_eq!(reply.body["trace_id"].as_str().map(str::len), Some(32));
    }
    let oversized = api.create(&api.alpha, "hostile", &" ".repeat(REQUEST_BYTES_MAX + 1)).await;
    assert_eq!((oversized.status, oversized.code()), (413, "request_too_large"));
    assert_eq!(oversized.body["errors"][0]["pointer"], "");
    for key in [String::new(), "x".repeat(256), "a\tb".to_owned(), "\"open".to_owned()] {
        let reply = api.create(&api.alpha, &key, &good).await;
        assert_eq!((reply.status, reply.code()), (400, "idempotency_key_invalid"), "{key:?}");
    }
    let keyless = api.send("POST", "/v1/payments", &api.alpha.token, None, Some(&good)).await;
    assert_eq!((keyless.status, keyless.code()), (400, "idempotency_key_invalid"));
    for (method, path, status) in [
        ("GET", "/v1/nothing", 404),
        ("DELETE", "/v1/payments", 405),
        ("GET", "/v1/payments/bulk", 405),
        ("GET", "/v1/payments?limit=0", 400),
        ("GET", "/v1/payments?limit=x", 400),
        ("GET", "/v1/payments?state=%00", 400),
        ("GET", "/v1/payments?state=gone", 400),
        ("GET", "/v1/payments?kind=gift", 400),
        ("GET", "/v1/payments?colour=red", 400),
        ("GET", "/v1/payments?created_from=yesterday", 400),
        ("GET", "/v1/payments?created_to=2026-13-01T00:00:00Z", 400),
        ("GET", "/v1/payments/%00", 400),
        ("GET", "/v1/payments/%ff", 400),
        ("GET", "/v1/events?after=-1", 400),
    ] {
        let reply = api.send(method, path, &api.alpha.token, None, None).await;
        assert_eq!(reply.status, status, "{method} {path}: {}", reply.body);
        assert_eq!(reply.body["status"], status, "{method} {path}: a problem as every other");
    }
    for (query, named) in [("limit=x", "limit"), ("colour=red", "colour")] {
        let reply = api.get(&api.alpha, &format!("/v1/payments?{query}")).await;
        assert!(reply.body["detail"].as_str().unwrap().contains(named), "{query}: {}", reply.body);
    }
    for token in ["", "x", &format!("{}x", api.alpha.token)] {
        let reply = api.send("GET", "/v1/payments", token, None, None).await;
        assert_eq!((reply.status, reply.code()), (401, "unauthenticated"));
    }
    let sound = api.create(&api.alpha, "hostile", &good).await;
    assert_eq!(sound.status, 201, "no refusal of what cannot be read uses up a key: {}", sound.body);
}

#[tokio::test]
async fn pages_hold_every_payment_once_and_cursors_cannot_be_bent() {
    let api = Api::start().await;
    for place in 0..5 {
        api.clock.advance(Duration::from_millis(2));
        api.create(&api.alpha, &format!("page-{place}"), &api.payment(100 + place).to_string()).await;
    }
    let first = api.get(&api.alpha, "/v1/payments?limit=2").await;
    let cursor = first.body["next_cursor"].as_str().unwrap().to_owned();
    let mut amounts = amounts_of(&first);
    let mut next = Some(cursor.clone());
    while let Some(cursor) = next {
        let page = api.get(&api.alpha, &format!("/v1/payments?limit=2&cursor={cursor}")).await;
        amounts.extend(amounts_of(&page));
        next = page.body["next_cursor"].as_str().map(str::to_owned);
    }
    assert_eq!(amounts, [104, 103, 102, 101, 100], "newest first, none twice, none left out");

    let mut bent = cursor.clone().into_bytes();
    bent[5] = if bent[5] == b'A' { b'B' } else { b'A' };
    let bent = String::from_utf8(bent).unwrap();
    for (who, query) in [
        (&api.alpha, format!("cursor={bent}")),
        (&api.alpha, "cursor=AAAA".to_owned()),
        (&api.alpha, format!("cursor={cursor}&kind=refund")),
        (&api.beta, format!("cursor={cursor}")),
    ] {
        let reply = api.get(who, &format!("/v1/payments?{query}")).await;
        assert_eq!((reply.status, reply.code()), (400, "cursor_invalid"), "{query}");
    }
}

#[tokio::test]
async fn each_line_of_a_bulk_has_its_own_outcome_and_repeats_change_nothing() {
    let api = Api::start().await;
    let mut reference = api.payment(30);
    reference["end_to_end_id"] = json!("LINE-2");
    let lines = json!([
        api.payment(10),
        { "amount": 1 },
        reference,
        reference,
        { "debtor": { "account_id": api.beta.account.to_string() }, "creditor": { "account_id": api.alpha.account.to_string() },
          "instructed_amount": { "amount": 1, "currency": "EUR" } },
    ])
    .to_string();
    let reply = api.post(&api.alpha, "/v1/payments/bulk", "bulk", &lines).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let outcomes = reply.body["outcomes"].as_array().unwrap();
    let statuses: Vec<_> = outcomes.iter().map(|outcome| outcome["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [201, 400, 201, 409, 422], "{}", reply.body);
    let repeated = api.post(&api.alpha, "/v1/payments/bulk", "bulk", &lines).await;
    for place in [0, 2, 3, 4] {
        assert_eq!(repeated.body["outcomes"][place]["body"], outcomes[place]["body"], "line {place}");
    }
    assert_eq!(amounts_of(&api.get(&api.alpha, "/v1/payments").await).len(), 2);

    let ndjson = format!("{}\n\n{{\n{}\r\n", api.payment(70), api.payment(80));
    let request = api.http.post(format!("{}/v1/payments/bulk", api.url)).bearer_auth(&api.alpha.token);
    let request = request.header("idempotency-key", "lines").header("content-type", "application/x-ndjson");
    let reply = Reply::of(request.body(ndjson).send().await.unwrap()).await;
    let statuses: Vec<_> =
        reply.body["outcomes"].as_array().unwrap().iter().map(|outcome| outcome["status"].as_u64()).collect();
    assert_eq!(statuses, [Some(201), Some(400), Some(201)], "one bad line: {}", reply.body);
    for body in ["{}", "[]", "1"] {
        assert_eq!(api.post(&api.alpha, "/v1/payments/bulk", "bulk-2", body).await.status, 400, "{body}");
    }
    // A small body that would be a large answer, or a large value, is not read to its end.
    let too_many = format!("[[{}0]]", "0,".repeat(1_000_000));
    let reply = api.post(&api.alpha, "/v1/payments/bulk", "bulk-3", &too_many).await;
    assert_eq!((reply.status, &reply.body["errors"][0]["code"]), (400, &json!("too_many_values")));
    let too_long = format!("[{} and what nobody reads", "0,".repeat(10_001));
    let reply = api.post(&api.alpha, "/v1/payments/bulk", "bulk-4", &too_long).await;
    assert_eq!(
        (reply.status, &reply.body["errors"][0]["code"]),
        (400, &json!("not_valid")),
        "{}",
        reply.body
    );
    let request = api.http.post(format!("{}/v1/payments/bulk", api.url)).bearer_auth(&api.alpha.token);
    let request = request.header("idempotency-key", "many").header("content-type", "application/x-ndjson");
    let reply = Reply::of(request.body("x\n".repeat(2_000_000)).send().await.unwrap()).await;
    assert_eq!((reply.status, reply.pointers()), (400, vec![""]), "{}", reply.body);
    assert_eq!(reply.body["errors"][0]["detail"], "1 to 10000 payments");
}

#[tokio::test]
async fn a_payment_nobody_has_begun_is_cancelled_at_once() {
    let api = Api::start().await;
    let paid = api.create(&api.alpha, "regret", &api.payment(900).to_string()).await;
    let path = format!("/v1/payments/{}/cancel", paid.body["id"].as_str().unwrap());
    let cancelled = api.post(&api.alpha, &path, "revoke", "").await;
    assert_eq!((cancelled.status, &cancelled.body["state"]), (202, &json!("failed")), "{}", cancelled.body);
    let again = api.post(&api.alpha, &path, "revoke", "").await;
    assert_eq!((again.replayed, &again.body), (true, &cancelled.body));
    // The log is told up to the oldest transaction on the server, and the other tests share the server.
    let mut kinds = Vec::new();
    let told = tokio::time::timeout(Duration::from_secs(60), async {
        while kinds.len() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let events = api.get(&api.alpha, "/v1/events").await;
            let listed = events.body["data"].as_array().cloned().unwrap_or_default();
            kinds = listed.into_iter().map(|mut event| event["type"].take()).collect();
        }
    });
    assert!(told.await.is_ok(), "both are told");
    assert_eq!(kinds, ["payment.accepted", "payment.failed"]);
}

#[tokio::test]
async fn tokens_that_are_not_there_cannot_be_paid() {
    let api = Api::start().await;
    let mut body = api.payment(1);
    body["funding"] = json!("token");
    let reply = api.create(&api.alpha, "broke", &body.to_string()).await;
    assert_eq!((reply.status, reply.code()), (422, "insufficient_funds"));
    assert_eq!(amounts_of(&api.get(&api.alpha, "/v1/payments").await), Vec::<u64>::new(), "and no payment");
}

#[tokio::test]
async fn the_document_that_is_served_is_the_one_in_docs() {
    let api = Api::start().await;
    let served = api.send("GET", "/openapi.json", "", None, None).await;
    let text = openapi_json();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), served.body);
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let current = Path::new(env!("CARGO_TARGET_TMPDIR")).join("openapi.json");
    std::fs::write(&current, &text).unwrap();
    let is_same =
        std::fs::read_to_string(&committed).is_ok_and(|committed| committed.trim_end() == text.trim_end());
    assert!(
        is_same,
        "the API has changed; if it should have: cp {} {}",
        current.display(),
        committed.display()
    );
}

#[tokio::test]
async fn a_payment_under_review_goes_on_when_two_people_say_so_and_not_when_one_does() {
    let api = Api::start().await;
    let paid = api.create(&api.alpha, "to-review", &api.payment(1_000).to_string()).await;
    let id = paid.body["id"].as_str().unwrap().to_owned();
    let reviews = format!("/v1/payments/{id}/reviews");
    let (one, other) = (api.operator(), api.operator_named("another operator"));
    let propose = async |token: &str, key: &str, decision: &str| {
        let body = json!({ "decision": decision, "note": "the wallet was set free" }).to_string();
        api.send("POST", &reviews, token, Some(key), Some(&body)).await
    };
    let answer = async |token: &str, key: &str, review: &str, verdict: &str| {
        let path = format!("{reviews}/{review}/{verdict}");
        api.send("POST", &path, token, Some(key), None).await
    };
    assert_eq!(propose(&one, "1", "resume").await.code(), "conflict", "it is not under review");
    api.observe(
        &id,
        &[
            Event::Chain(ChainLog::Initiated),
            Event::HoldPlaced { until: NOW.plus(Duration::from_secs(100_000)) },
            Event::Chain(ChainLog::SettlementSetAside(SetAside::Frozen)),
        ],
    )
    .await;
    assert_eq!(propose(&api.alpha.token, "2", "resume").await.code(), "insufficient_scope");

    let made = propose(&one, "3", "cancel").await;
    assert_eq!((made.status, &made.body["state"]), (201, &json!("proposed")), "{}", made.body);
    let first = made.body["id"].as_str().unwrap().to_owned();
    assert_eq!(propose(&other, "4", "resume").await.code(), "conflict", "one at a time");
    assert_eq!(answer(&one, "5", &first, "confirm").await.code(), "second_person_required");
    assert_eq!(answer(&one, "6", &first, "reject").await.body["state"], "rejected");
    assert_eq!(answer(&other, "7", &first, "confirm").await.code(), "conflict", "it was rejected");

    let second = propose(&one, "8", "resume").await.body["id"].as_str().unwrap().to_owned();
    let confirmed = answer(&other, "9", &second, "confirm").await;
    assert_eq!((confirmed.status, &confirmed.body["answered_by"]), (200, &json!("another operator")));
    let again = answer(&other, "9", &second, "confirm").await;
    assert!(again.replayed && again.body == confirmed.body, "a repeat does nothing more");
    assert_eq!(api.get(&api.alpha, &format!("/v1/payments/{id}")).await.body["state"], "held");
    let timeline = format!("/v1/payments/{id}/timeline");
    let seen = api.send("GET", &timeline, &one, None, None).await;
    assert_eq!(seen.body["reviews"].as_array().map(Vec::len), Some(2));
    assert!(
        api.get(&api.alpha, &timeline).await.body.get("reviews").is_none(),
        "operators' notes are theirs"
    );
}

#[tokio::test]
async fn what_was_proposed_before_a_payment_changed_can_only_be_rejected() {
    let api = Api::start().await;
    let paid = api.create(&api.alpha, "changes", &api.payment(1_000).to_string()).await;
    let payment = format!("/v1/payments/{}", paid.body["id"].as_str().unwrap());
    let (one, other) = (api.operator(), api.operator_named("another operator"));
    let happens = async |events: &[Event]| api.observe(paid.body["id"].as_str().unwrap(), events).await;
    let propose = async |key: &str, decision: &str| {
        let body = json!({ "decision": decision, "note": "the wallet was set free" }).to_string();
        let made = api.send("POST", &format!("{payment}/reviews"), &one, Some(key), Some(&body)).await;
        format!("{payment}/reviews/{}", made.body["id"].as_str().unwrap())
    };
    let answer = async |review: &str, verdict: &str| {
        api.send("POST", &format!("{review}/{verdict}"), &other, Some(verdict), None).await
    };
    happens(&[
        Event::Chain(ChainLog::Initiated),
        Event::HoldPlaced { until: NOW.plus(Duration::from_secs(100_000)) },
        Event::Chain(ChainLog::SettlementSetAside(SetAside::Frozen)),
    ])
    .await;
    let for_a_frozen_wallet = propose("1", "resume").await;
    api.clock.advance(Duration::from_secs(1));
    happens(&[Event::Released]).await;
    let changed = api.get(&api.alpha, &payment).await.body;
    assert_eq!((&changed["state"], &changed["reason"]), (&json!("under_review"), &json!("contradiction")));

    let confirmed = answer(&for_a_frozen_wallet, "confirm").await;
    assert_eq!((confirmed.status, confirmed.code()), (409, "conflict"), "{}", confirmed.body);
    assert!(confirmed.body["detail"].as_str().unwrap().contains("changed"), "{}", confirmed.body);
    assert_eq!(api.get(&api.alpha, &payment).await.body, changed);
    assert_eq!(answer(&for_a_frozen_wallet, "reject").await.status, 200);
    let anew = propose("2", "close_failed").await;
    let confirmed = answer(&anew, "confirm").await;
    assert_eq!(
        (confirmed.status, &confirmed.body["state"]),
        (200, &json!("confirmed")),
        "{}",
        confirmed.body
    );
}

#[tokio::test]
async fn a_model_judges_when_two_people_say_so_and_not_when_one_does() {
    let api = Api::start().await;
    let (one, other) = (api.operator(), api.operator_named("another operator"));
    let (models, model) = ("/v1/reconciliation-models", "c".repeat(64));
    let judgement =
        json!({ "coverage": 0.9, "precision": 1.0, "precision_down": 0.999, "coverage_at_999": 0.9 });
    let comparison = json!({ "split_on": "2026-11-15", "learned": 5_000, "judged": 900, "champion": judgement,
        "challenger": judgement, "is_better": true });
    let propose = async |token: &str, key: &str, (model, champion): (&str, &str), comparison: &Value| {
        let path = format!("{models}/{model}/proposals");
        let body = json!({ "champion": champion, "comparison": comparison, "reason": "+7 points" });
        api.send("POST", &path, token, Some(key), Some(&body.to_string())).await
    };
    let answer = async |token: &str, key: &str, (model, proposal): (&str, &str), verdict: &str| {
        let path = format!("{models}/{model}/proposals/{proposal}/{verdict}");
        api.send("POST", &path, token, Some(key), None).await
    };
    let in_force = async || api.send("GET", models, &one, None, None).await.body["in_force"].clone();
    let new = (model.as_str(), SHIPPED_MODEL);
    assert_eq!(api.get(&api.alpha, models).await.code(), "insufficient_scope");
    assert_eq!(propose(&api.alpha.token, "m0", new, &comparison).await.code(), "insufficient_scope");
    assert_eq!(in_force().await, SHIPPED_MODEL);

    assert_eq!(propose(&one, "m1", new, &Value::Null).await.code(), "conflict", "compared with nothing");
    let stale = propose(&one, "m2", (&model, &"d".repeat(64)), &comparison).await;
    assert_eq!(stale.code(), "conflict", "compared with what is not in force");
    let mut wrong = comparison.clone();
    wrong["challenger"]["coverage"] = json!(1.1);
    assert_eq!(propose(&one, "m3", new, &wrong).await.pointers(), ["/comparison"]);

    let made = propose(&one, "m4", new, &comparison).await;
    assert_eq!((made.status, &made.body["comparison"]), (201, &comparison), "{}", made.body);
    let first = made.body["id"].as_str().unwrap().to_owned();
    assert_eq!(propose(&other, "m5", new, &comparison).await.code(), "conflict", "one at a time");
    assert_eq!(answer(&one, "m6", (&model, &first), "confirm").await.code(), "second_person_required");
    let (sql, connection) =
        tokio_postgres::connect(&crate::webhooks::server_url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let id = ModelProposalId::parse(&first).unwrap().as_uuid();
    let alone = format!(
        "insert into recon_model_verdict (promotion_id, proposed_by, verdict, given_by, given_at)
            values ('{id}', 'operator', 'confirmed', 'operator', now())"
    );
    assert!(sql.batch_execute(&alone).await.is_err(), "nor by another way");
    let elsewhere = answer(&other, "m7", (SHIPPED_MODEL, &first), "confirm").await;
    assert_eq!((elsewhere.status, in_force().await), (404, json!(SHIPPED_MODEL)));

    let confirmed = answer(&other, "m8", (&model, &first), "confirm").await;
    assert_eq!((confirmed.status, &confirmed.body["answered_by"]), (200, &json!("another operator")));
    assert!(answer(&other, "m8", (&model, &first), "confirm").await.replayed, "a repeat does nothing more");
    assert_eq!(in_force().await, model.as_str());
    assert_eq!(propose(&one, "m9", (&model, &model), &comparison).await.code(), "conflict", "it is in force");

    let back = propose(&other, "m10", (SHIPPED_MODEL, &model), &Value::Null).await;
    let second = back.body["id"].as_str().unwrap().to_owned();
    assert_eq!(answer(&one, "m11", (SHIPPED_MODEL, &second), "confirm").await.status, 200);
    assert_eq!(in_force().await, SHIPPED_MODEL);
    let told = "select kind from event where key = $1 and topic = 'reconciliation' order by xid, seq";
    let told = sql.query(told, &[&id]).await.unwrap();
    let told: Vec<&str> = told.iter().map(|row| row.get(0)).collect();
    assert_eq!(told, ["model.proposed", "model.answered"], "what was refused has not happened");
    let changed = sql.batch_execute("update recon_model_promotion set reason = 'another'").await;
    assert!(changed.is_err(), "what was said stays said");
}

#[tokio::test]
async fn the_vault_is_for_operators_and_not_found_where_none_governs() {
    let api = Api::start().await;
    let own = api.get(&api.alpha, "/v1/vault").await;
    assert_eq!((own.status, own.code()), (403, "insufficient_scope"));
    for path in ["/v1/vault", "/v1/vault/proposals", "/v1/vault/proposals/vpr_01h455vb4pex5vsknk084sn02q"] {
        let none = api.send("GET", path, &api.operator(), None, None).await;
        assert_eq!((none.status, none.code()), (404, "not_found"), "{path}");
    }
    let body = json!({ "kind": "cancellation", "note": "why" }).to_string();
    let none = api.send("POST", "/v1/vault/proposals", &api.operator(), Some("1"), Some(&body)).await;
    assert!(none.body["detail"].as_str().unwrap().contains("no vault governs"), "{}", none.body);
}

#[tokio::test]
async fn a_suspended_participant_pays_nothing_until_an_operator_lets_it() {
    let api = Api::start().await;
    let operator = api.operator();
    let of = |action: &str| format!("/v1/participants/{}/{action}", api.alpha.participant);
    let why = json!({ "reason": "its bank did not pay" }).to_string();
    let own = api.post(&api.alpha, &of("suspend"), "own", &why).await;
    assert_eq!((own.status, own.code()), (403, "insufficient_scope"), "not by a participant itself");

    let suspended = api.send("POST", &of("suspend"), &operator, Some("suspend"), Some(&why)).await;
    assert_eq!(suspended.body["status_reason"], "its bank did not pay", "{}", suspended.body);
    let body = api.payment(100).to_string();
    let refused = api.create(&api.alpha, "while-suspended", &body).await;
    assert_eq!((refused.status, refused.code()), (422, "participant_suspended"));

    let active = api.send("POST", &of("activate"), &operator, Some("activate"), None).await;
    assert_eq!((&active.body["status"], &active.body["status_reason"]), (&json!("active"), &Value::Null));
    let again = api.create(&api.alpha, "while-suspended", &body).await;
    assert_eq!(
        (again.replayed, again.code()),
        (true, "participant_suspended"),
        "its page says: with a new key"
    );
    assert_eq!(api.create(&api.alpha, "afterwards", &body).await.status, 201);
}

// ---------------------------------------------------------------------------------------------------------------- stage

/// An institution of a test's own, with an account and a token.
pub(crate) struct Client {
    pub(crate) participant: ParticipantId,
    pub(crate) account: AccountId,
    pub(crate) token: String,
}

/// A gateway with two institutions.
pub(crate) struct Api {
    pub(crate) db: Db,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) tokens: TokenIssuer,
    pub(crate) http: reqwest::Client,
    pub(crate) url: String,
    pub(crate) alpha: Client,
    pub(crate) beta: Client,
    /// Tells the server to stop.
    pub(crate) stop: CancellationToken,
    /// Ends when the server has stopped.
    pub(crate) served: JoinHandle<()>,
    _keys: tempfile::TempDir,
}

/// What a test wants otherwise than usual.
pub(crate) struct Setup {
    pub(crate) db: Db,
    pub(crate) proof: ProofSource,
    pub(crate) client_quota: ClientQuota,
    pub(crate) request_timeout: Duration,
    pub(crate) limits: ServeLimits,
}

impl Setup {
    pub(crate) async fn usual() -> Self {
        Self {
            db: database().await,
            proof: Arc::new(|| Box::pin(async { Err("there are no banks here".to_owned()) })),
            client_quota: ClientQuota {
                requests: NonZeroU32::new(1_000_000).unwrap(),
                window: Duration::from_secs(1),
            },
            request_timeout: Duration::from_secs(30),
            limits: ServeLimits {
                connections_max: 1_000,
                header_read_max: Duration::from_secs(20),
                header_bytes_max: 16_384,
                drain_max: Duration::from_secs(20),
            },
        }
    }
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
    pub(crate) replayed: bool,
}

impl Reply {
    pub(crate) async fn of(response: reqwest::Response) -> Self {
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let replayed = headers.contains_key("idempotent-replayed");
        let text = response.text().await.unwrap();
        Self { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::Null), replayed }
    }

    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Where the faults are.
    pub(crate) fn pointers(&self) -> Vec<&str> {
        let errors = self.body["errors"].as_array().into_iter().flatten();
        errors.filter_map(|error| error["pointer"].as_str()).collect()
    }
}

impl Api {
    pub(crate) async fn start() -> Self {
        Self::set_up(Setup::usual().await).await
    }

    pub(crate) async fn set_up(setup: Setup) -> Self {
        let db = setup.db;
        let clock = Arc::new(ManualClock::at(NOW));
        let folder = tempfile::tempdir().unwrap();
        let keys = KeyFolder::new(folder.path().join("keys"));
        let key_set = keys.load_or_create().unwrap();
        let issuer = |key| TokenIssuer::new(ISSUER, ISSUER, Duration::from_secs(300), key);
        let parts = GatewayParts {
            db: db.clone(),
            accept_db: db.clone(),
            clock: clock.clone() as Arc<dyn Clock>,
            wake: Wake::default(),
            verifier: TokenVerifier::new(ISSUER, ISSUER, key_set.public_keys().unwrap(), Arc::default()),
            jwks: key_set.jwks(),
            tokens: issuer(key_set.current),
            cursors: CursorKey::new(&keys.cursor_key().unwrap()),
            sealing: Arc::new(SealingKeys::load_or_create(&keys).unwrap()),
            proof: setup.proof,
            statements: Arc::new(|_| Box::pin(async { Err(StatementRefusal::Unavailable) })),
            shipped_model: SHIPPED_MODEL.to_owned(),
            vault: None,
        };
        let settings = GatewaySettings {
            issuer: ISSUER.to_owned(),
            request_bytes_max: REQUEST_BYTES_MAX,
            bulk_bytes_max: 1 << 24,
            bulk_lines_max: 10_000,
            statement_bytes_max: 1 << 24,
            client_quota: setup.client_quota,
            request_timeout: setup.request_timeout,
            accept_slice_max: 100,
            accept_pace: Duration::ZERO,
            execution_days_max: 366,
            policy: PaymentPolicy {
                execution_spread: Duration::from_secs(3_600),
                initiate_window: Duration::from_secs(120),
                expiry: Duration::from_secs(600),
                settle_margin: Duration::from_secs(30),
                hold_margin: Duration::from_secs(3_600),
            },
            webhooks: WebhookLimits::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (router, stop) = (router(parts, settings), CancellationToken::new());
        let served = tokio::spawn(serve(listener, router, setup.limits, stop.clone().cancelled_owned()));
        let tokens = issuer(keys.load().unwrap().current);
        let scopes = ScopeSet::from_iter(Scope::ALL.iter().copied());
        let (alpha, beta) = (client(&db, &tokens, scopes).await, client(&db, &tokens, scopes).await);
        let http = reqwest::Client::new();
        Self { db, clock, tokens, http, url, alpha, beta, stop, served, _keys: folder }
    }

    pub(crate) async fn party(&self, scopes: ScopeSet) -> Client {
        client(&self.db, &self.tokens, scopes).await
    }

    /// From alpha's account to beta's.
    pub(crate) fn payment(&self, minor_units: i64) -> Value {
        json!({
            "debtor": { "account_id": self.alpha.account.to_string() },
            "creditor": { "account_id": self.beta.account.to_string() },
            "instructed_amount": { "amount": minor_units, "currency": "EUR" },
        })
    }

    pub(crate) async fn create(&self, client: &Client, key: &str, body: &str) -> Reply {
        self.post(client, "/v1/payments", key, body).await
    }

    pub(crate) async fn post(&self, client: &Client, path: &str, key: &str, body: &str) -> Reply {
        self.send("POST", path, &client.token, Some(key), Some(body)).await
    }

    pub(crate) async fn get(&self, client: &Client, path: &str) -> Reply {
        self.send("GET", path, &client.token, None, None).await
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        token: &str,
        key: Option<&str>,
        body: Option<&str>,
    ) -> Reply {
        let mut request =
            self.http.request(method.parse().unwrap(), format!("{}{path}", self.url)).bearer_auth(token);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_owned());
        }
        Reply::of(request.send().await.unwrap()).await
    }

    /// A token of one of our own operators.
    pub(crate) fn operator(&self) -> String {
        self.operator_named("operator")
    }

    pub(crate) fn operator_named(&self, client_id: &str) -> String {
        let scopes = ScopeSet::from_iter(Scope::ALL.iter().copied());
        self.tokens.issue(client_id, None, scopes, NOW).unwrap().token.expose_secret().to_owned()
    }

    /// What chain and bank would report of a payment that goes well.
    pub(crate) async fn complete(&self, id: &str) {
        let held_until = NOW.plus(Duration::from_secs(100_000));
        let well = [
            Event::Chain(ChainLog::Initiated),
            Event::HoldPlaced { until: held_until },
            Event::Chain(ChainLog::Settled),
            Event::Captured,
        ];
        self.observe(id, &well).await;
    }

    /// What chain and bank would report of a payment.
    pub(crate) async fn observe(&self, id: &str, events: &[Event]) {
        let payment_id = PaymentId::parse(id).unwrap();
        let occurrences: Vec<Occurrence> =
            events.iter().map(|event| Occurrence { payment_id, event: *event }).collect();
        let tx = self.db.begin().await.unwrap();
        let outcomes = lifecycle::apply(&tx, &occurrences, self.clock.now()).await.unwrap();
        tx.commit().await.unwrap();
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Applied { .. })), "{outcomes:?}");
    }
}

async fn client(db: &Db, tokens: &TokenIssuer, scopes: ScopeSet) -> Client {
    let random = || flowbridge_security::random_bytes::<10>().unwrap();
    let participant = Participant {
        id: ParticipantId::generate(NOW, random()),
        name: "An institution of this test's own".to_owned(),
        lei: None,
        active: true,
        status_reason: None,
        fee_basis_points: 0,
        created_at: NOW,
    };
    let bank = BankCode::parse("alpha").unwrap();
    let account = Account {
        id: AccountId::generate(NOW, random()),
        participant: participant.id,
        bank: bank.clone(),
        currency: Currency::parse("EUR").unwrap(),
        iban: iban(u64::from_be_bytes(flowbridge_security::random_bytes().unwrap())),
        wallet: EvmAddress::from_bytes(flowbridge_security::random_bytes().unwrap()),
        name: "A customer of this test's own".to_owned(),
        active: true,
        created_at: NOW,
    };
    party::save_bank(db, &bank, "Alpha", HoldMode::Native, NOW).await.unwrap();
    let tx = db.begin().await.unwrap();
    party::add_participant(&tx, &participant).await.unwrap();
    party::add_account(&tx, &account).await.unwrap();
    tx.commit().await.unwrap();
    let client_id = format!("client-{}", participant.id);
    let issued = tokens.issue(&client_id, Some(participant.id), scopes, NOW).unwrap();
    Client {
        participant: participant.id,
        account: account.id,
        token: issued.token.expose_secret().to_owned(),
    }
}

/// A German IBAN with the right check digits (ISO 7064, mod 97-10; D and E read as 13 and 14).
pub(crate) fn iban(number: u64) -> Iban {
    let bban = format!("{:018}", number % 1_000_000_000_000_000_000);
    let rest =
        format!("{bban}131400").bytes().fold(0, |rest, digit| (rest * 10 + u32::from(digit - b'0')) % 97);
    Iban::parse(&format!("DE{:02}{bban}", 98 - rest)).unwrap()
}

fn amounts_of(page: &Reply) -> Vec<u64> {
    let rows = page.body["data"].as_array().unwrap();
    rows.iter().map(|payment| payment["instructed_amount"]["amount"].as_u64().unwrap()).collect()
}

fn hex(bytes: [u8; 8]) -> String {
    format!("{:016x}", u64::from_be_bytes(bytes))
}
