//! Webhooks from the event log to a receiver: a real PostgreSQL, a real HTTP server, a clock turned by hand.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use flowbridge_domain::id::{
    DecisionId, DeliveryId, ExceptionId, ParticipantId, PaymentId, ReconciliationId, WebhookEndpointId,
};
use flowbridge_domain::time::{Clock, ManualClock, Timestamp};
use flowbridge_embedded::EmbeddedPostgres;
use flowbridge_security::egress::EgressPolicy;
use flowbridge_security::keys::KeyFolder;
use flowbridge_security::sealing::SealingKeys;
use flowbridge_security::webhook::{EndpointKeys, Verifier};
use flowbridge_store::event_data::EventData;
use flowbridge_store::event_log::{self, NewEvent};
use flowbridge_store::exception::{self, Decision, DecisionKind, ExceptionFilter, Found};
use flowbridge_store::party::{self, Participant};
use flowbridge_store::reconciliation::{self, Findings};
use flowbridge_store::review::Verdict;
use flowbridge_store::segment::Learned;
use flowbridge_store::wake::Wake;
use flowbridge_store::webhook::{
    self as store, Delivery, DeliveryState, EndpointOwner, NewEndpoint, SealedKeys,
};
use flowbridge_store::{Db, DbSettings};
use flowbridge_workers::context::{Context, Turn};
use flowbridge_workers::webhook::{
    Deliverer, DeliverySettings, FanOut, FanOutSettings, Patience, WebhookSettings, run, seal_anew, tidy,
};
use rcgen::{CertificateParams, KeyPair};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

// ---------------------------------------------------------------------------------------------------------------------
// The tests

#[tokio::test]
async fn each_side_hears_each_event_once_signed_and_in_the_payment_s_trace() {
    let mut stage = Stage::new().await;
    let receiver = Receiver::start(|_| Reply::ok()).await;
    let (debtor, creditor) = (stage.participant().await, stage.participant().await);
    let (_, debtor_keys) = stage.endpoint(debtor, &receiver.url("/debtor"), &[]).await;
    stage.endpoint(creditor, &receiver.url("/creditor"), &["payment.settled"]).await;
    let payment = stage.payment();
    stage.happened(payment, (debtor, creditor), &["payment.accepted", "payment.settled"]).await;
    stage.work().await;
    stage.work().await;

    let heard = receiver.heard();
    let kinds = |path: &str| -> Vec<String> {
        heard
            .iter()
            .filter(|heard| heard.path == path)
            .map(|heard| heard.event["type"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(kinds("/debtor"), ["payment.accepted", "payment.settled"]);
    assert_eq!(kinds("/creditor"), ["payment.settled"]);

    let first = heard.iter().find(|heard| heard.path == "/debtor").unwrap();
    assert_eq!(first.signers(&[&keys(), &debtor_keys], stage.clock.now()), [1]);
    assert_eq!(first.header("webhook-id"), first.event["id"]);
    assert_eq!(first.header("content-type"), "application/cloudevents+json; charset=utf-8");
    assert_eq!(first.event["specversion"], "1.0");
    assert_eq!(first.event["source"], "https://flowbridge.example");
    assert_eq!(first.event["subject"], payment.to_string());
    assert_eq!(first.event["data"]["note"], "payment.accepted");
    assert!(first.event["time"].as_str().unwrap().ends_with('Z'));
    let trace = first.header("traceparent");
    assert!(trace.starts_with(&format!("00-{TRACE}-")) && trace != traceparent(), "{trace}");
}

#[tokio::test]
async fn a_slice_that_is_too_much_for_one_statement_is_taken_in_parts() {
    let mut stage = Stage::new().await;
    stage.fan_out =
        FanOut::new(stage.context.clone(), FanOutSettings { slice_max: 8, ..FanOutSettings::default() });
    let owner = stage.participant().await;
    let (endpoint, _) = stage.endpoint(owner, "https://example.com/", &[]).await;
    // As the database ends a statement that takes too long.
    let too_much = "create function too_much() returns trigger language plpgsql as $$
        begin
            if (select count(*) from made) > 2 then raise 'too much' using errcode = 'query_canceled'; end if;
            return null;
        end $$;
        create trigger too_much after insert on webhook_delivery referencing new table as made
            for each statement execute function too_much()";
    sql(&stage.url, too_much).await;
    stage.happened(stage.payment(), (owner, owner), &["payment.settled"; 8]).await;

    let mut queued = Vec::new();
    for turn in 0..5 {
        if turn == 3 {
            sql(&stage.url, "drop trigger too_much on webhook_delivery").await;
        }
        while stage.fan_out.turn().await.is_ok_and(|turn| turn == Turn::Idle) {}
        queued.push(stage.due(endpoint).await);
    }
    assert_eq!(queued, [0, 0, 2, 6, 8], "halves until it succeeds, and then twice as much each time");
}

#[tokio::test]
async fn order_within_a_payment_is_kept_while_one_of_its_events_fails() {
    let mut stage = Stage::new().await;
    let unlucky = stage.payment();
    let lucky = stage.payment();
    let fails = unlucky.to_string();
    let receiver = Receiver::start(move |heard| {
        let first_two = heard.event["subject"] == fails.as_str() && heard.nth_of_event < 2;
        Reply::status(if first_two { 500 } else { 204 })
    })
    .await;
    let owner = stage.participant().await;
    stage.endpoint(owner, &receiver.url("/"), &[]).await;
    for kind in ["payment.accepted", "payment.settled", "payment.completed"] {
        stage.happened(unlucky, (owner, owner), &[kind]).await;
        stage.happened(lucky, (owner, owner), &[kind]).await;
    }
    stage.work().await;
    assert_eq!(receiver.kinds_of(lucky), ["payment.accepted", "payment.settled", "payment.completed"]);
    assert_eq!(receiver.kinds_of(unlucky), ["payment.accepted"], "the rest waits for the first");

    stage.clock.advance(Duration::from_secs(5));
    stage.work().await;
    stage.clock.advance(Duration::from_secs(300));
    stage.work().await;
    // Each event succeeds at its third attempt, and none is tried before the one ahead of it has been heard.
    let mut expected = vec!["payment.accepted"; 3];
    expected.push("payment.settled");
    assert_eq!(receiver.kinds_of(unlucky), expected);
    for _ in 0..4 {
        stage.clock.advance(Duration::from_secs(300));
        stage.work().await;
    }
    expected.extend([
        "payment.settled",
        "payment.settled",
        "payment.completed",
        "payment.completed",
        "payment.completed",
    ]);
    assert_eq!(receiver.kinds_of(unlucky), expected);
}

#[tokio::test]
async fn what_waits_behind_a_refused_event_is_due_with_it_and_not_before() {
    let mut stage = Stage::new().await;
    let works = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&works);
    let refusing =
        Receiver::start(move |_| Reply::status(if switch.load(Ordering::SeqCst) { 200 } else { 500 })).await;
    let prompt = Receiver::start(|_| Reply::ok()).await;
    let (one, other) = (stage.participant().await, stage.participant().await);
    let (endpoint, _) = stage.endpoint(one, &refusing.url("/"), &[]).await;
    stage.endpoint(other, &prompt.url("/"), &[]).await;
    let payments: Vec<PaymentId> = (0..10).map(|_| stage.payment()).collect();
    for payment in &payments {
        stage.happened(*payment, (one, other), &["payment.accepted", "payment.held"]).await;
    }
    stage.work().await;
    assert_eq!(stage.due(endpoint).await, 0, "a claim has nothing to look at");
    for payment in &payments {
        stage.happened(*payment, (one, other), &["payment.settled"]).await;
    }
    stage.fan_out().await;
    assert_eq!(stage.due(endpoint).await, 0, "what comes later queues up behind");
    stage.work().await;
    assert_eq!((refusing.heard().len(), prompt.heard().len()), (10, 30));

    stage.clock.advance(Duration::from_secs(5));
    assert_eq!(stage.due(endpoint).await, 30);
    stage.work().await;
    assert_eq!((refusing.heard().len(), stage.due(endpoint).await), (20, 0));

    // It works again: who is heard is followed by the rest of its payment at once.
    works.store(true, Ordering::SeqCst);
    stage.clock.advance(Duration::from_secs(300));
    stage.work().await;
    for payment in payments {
        let refused = ["payment.accepted"; 2];
        let heard = ["payment.accepted", "payment.held", "payment.settled"];
        assert_eq!(refusing.kinds_of(payment), [refused.as_slice(), &heard].concat());
    }
}

#[tokio::test]
async fn what_comes_later_waits_behind_a_refused_event_also_where_other_payments_are_taken() {
    let mut stage = Stage::new().await;
    let (refused, taken) = (stage.payment(), stage.payment());
    let fails = refused.to_string();
    let receiver = Receiver::start(move |heard| {
        Reply::status(if heard.event["subject"] == fails.as_str() { 500 } else { 200 })
    })
    .await;
    let owner = stage.participant().await;
    let (endpoint, _) = stage.endpoint(owner, &receiver.url("/"), &[]).await;
    for payment in [refused, taken] {
        stage.happened(payment, (owner, owner), &["payment.accepted"]).await;
        stage.work().await;
    }
    let shown = store::get(&stage.context.db, of(owner), endpoint).await.unwrap().unwrap();
    assert_eq!(shown.failure_streak, 0);

    for payment in [refused, taken] {
        stage.happened(payment, (owner, owner), &["payment.settled"]).await;
    }
    stage.fan_out().await;
    assert_eq!(stage.due(endpoint).await, 1, "a claim has nothing to look at that it may not take");
    stage.work().await;
    stage.clock.advance(Duration::from_secs(5));
    assert_eq!(stage.due(endpoint).await, 2);
}

#[tokio::test]
async fn what_is_sent_again_ahead_of_its_time_brings_forward_what_waits_behind_it() {
    let mut stage = Stage::new().await;
    let receiver = Receiver::start(|heard| Reply::status(if heard.nth < 2 { 500 } else { 200 })).await;
    let owner = stage.participant().await;
    let (endpoint, _) = stage.endpoint(owner, &receiver.url("/"), &[]).await;
    let payment = stage.payment();
    stage.happened(payment, (owner, owner), &["payment.accepted", "payment.held"]).await;
    stage.work().await;
    stage.happened(payment, (owner, owner), &["payment.settled"]).await;
    stage.clock.advance(Duration::from_secs(5));
    stage.work().await;
    assert_eq!(stage.due(endpoint).await, 0);

    let all = store::deliveries(&stage.context.db, endpoint, &DeliveryState::ALL, None, 10).await.unwrap();
    let first = all.iter().find(|delivery| delivery.event_kind == "payment.accepted").unwrap();
    assert!(stage.redeliver(of(owner), endpoint, first.id).await);
    stage.work().await;
    let heard = ["payment.accepted", "payment.held", "payment.settled"];
    assert_eq!(receiver.kinds_of(payment)[2..], heard);
}

#[tokio::test]
async fn what_was_missed_behind_one_that_waits_is_due_with_it_and_comes_forward_with_it() {
    let mut stage = Stage::new().await;
    let receiver = Receiver::start(|_| Reply::status(500)).await;
    let owner = stage.participant().await;
    let (endpoint, _) = stage.endpoint(owner, &receiver.url("/"), &[]).await;
    let (payment, began) = (stage.payment(), stage.clock.now());
    stage.happened(payment, (owner, owner), &["payment.accepted"]).await;
    stage.work().await;
    stage.set_disabled(owner, endpoint, Some("maintenance")).await;
    stage.happened(payment, (owner, owner), &["payment.settled"]).await;
    stage.fan_out().await;
    stage.set_disabled(owner, endpoint, None).await;

    let after = store::offset_since(&stage.context.db, began).await.unwrap();
    let now = stage.clock.now();
    let tx = stage.context.db.begin().await.unwrap();
    let first = store::recover(&tx, of(owner), endpoint, after, 1, now).await.unwrap().more_after.unwrap();
    tx.rollback().await.unwrap();
    let recover = async |after| {
        let tx = stage.context.db.begin().await.unwrap();
        let recovered = store::recover(&tx, of(owner), endpoint, after, 100, now).await.unwrap();
        tx.commit().await.unwrap();
        (recovered.queued, stage.due(endpoint).await)
    };
    assert_eq!(recover(first).await, (1, 0), "what is ahead of it is not asked for");
    assert_eq!(recover(after).await, (2, 2));
    assert_eq!(recover(after).await, (0, 2), "what is due is left alone");
}

#[tokio::test]
async fn a_receiver_that_never_answers_does_not_delay_another() {
    let mut stage = Stage::new().await;
    let silent = Receiver::start(|_| Reply::Never).await;
    let prompt = Receiver::start(|_| Reply::ok()).await;
    let (one, other) = (stage.participant().await, stage.participant().await);
    stage.endpoint(one, &silent.url("/"), &[]).await;
    stage.endpoint(other, &prompt.url("/"), &[]).await;
    const PAYMENTS: usize = 40;
    for _ in 0..PAYMENTS {
        stage.happened(stage.payment(), (one, other), &["payment.settled"]).await;
    }
    stage.fan_out().await;

    tokio::select! {
        () = stage.deliverer().run(CancellationToken::new()) => panic!("nobody told it to stop"),
        () = prompt.wait_for(PAYMENTS) => {}
    }
    assert!(silent.heard().len() <= 4, "no more at once than an endpoint may have");
}

#[tokio::test]
async fn receivers_that_take_their_time_do_not_take_every_place() {
    let mut stage = Stage::new().await;
    // Four endpoints with four deliveries each: all places that there are, for longer than anybody waits here.
    (stage.settings.in_flight_max, stage.settings.in_flight_reserved) = (16, 2);
    stage.settings.timeout = Duration::from_secs(600);
    let slow = Receiver::start(|_| Reply::Never).await;
    let prompt = Receiver::start(|_| Reply::ok()).await;
    let owner = stage.participant().await;
    for _ in 0..4 {
        stage.endpoint(owner, &slow.url("/"), &[]).await;
    }
    let (late, _) = stage.endpoint(owner, &prompt.url("/"), &[]).await;
    let timed_out = "update webhook_endpoint set failure_streak = 1, unanswered_streak = 1 where id = ";
    sql(&stage.url, &format!("{timed_out}'{}'", late.as_uuid())).await;
    const PAYMENTS: usize = 20;
    for _ in 0..PAYMENTS {
        stage.happened(stage.payment(), (owner, owner), &["payment.settled"]).await;
    }
    stage.fan_out().await;

    tokio::select! {
        () = stage.deliverer().run(CancellationToken::new()) => panic!("nobody told it to stop"),
        () = prompt.wait_for(PAYMENTS) => {}
    }
    assert!(slow.heard().len() <= 14, "the last places are not theirs");
}

#[tokio::test]
async fn the_role_that_is_told_to_stop_waits_for_what_is_under_way() {
    let stage = Stage::new().await;
    let answer = Arc::new(tokio::sync::Notify::new());
    let held_back = Arc::clone(&answer);
    let receiver = Receiver::start(move |_| Reply::After(Arc::clone(&held_back), StatusCode::OK)).await;
    let owner = stage.participant().await;
    let (endpoint, _) = stage.endpoint(owner, &receiver.url("/"), &[]).await;
    stage.happened(stage.payment(), (owner, owner), &["payment.settled"]).await;

    let stop = CancellationToken::new();
    let settings = WebhookSettings { delivery: stage.settings.clone(), ..WebhookSettings::default() };
    let role = tokio::spawn(run(stage.context.clone(), settings, stage.sealing.clone(), stop.clone()));
    receiver.wait_for(1).await;
    stop.cancel();
    answer.notify_one();
    role.await.unwrap().unwrap();
    assert_eq!(stage.only_delivery(endpoint).await.state, DeliveryState::Delivered);
}

#[tokio::test]
async fn failing_deliveries_at_their_limit_do_not_block_newer_payments() {
    let mut stage = Stage::new().await;
    let stuck: Vec<PaymentId> = (0..10).map(|_| stage.payment()).collect();
    let refused: Vec<String> = stuck.iter().map(ToString::to_string).collect();
    let receiver = Receiver::start(move |heard| {
        let refused = refused.iter().any(|payment| heard.event["subject"] == payment.as_str());
        Reply::status(if refused { 500 } else { 200 })
    })
    .await;
    let owner = stage.participant().await;
    stage.endpoint(owner, &receiver.url("/"), &[]).await;
    for payment in &stuck {
        stage.happened(*payment, (owner, owner), &["payment.settled"]).await;
    }
    stage.work().await;
    let newer = stage.payment();
    stage.happened(newer, (owner, owner), &["payment.settled"]).await;
    stage.work().await;
    assert_eq!(receiver.kinds_of(newer), ["payment.settled"]);
}

#[tokio::test]
async fn the_schedule_is_followed_to_its_end_and_no_further() {
    let mut stage = Stage::new().await;
    let receiver = Receiver::start(|_| Reply::status(500)).await;
    let owner = stage.participant().await;
    let (endpoint, _) = stage.endpoint(owner, &receiver.url("/"), &[]).await;
    stage.happened(stage.payment(), (owner, owner), &["payment.settled"]).await;
    stage.work().await;
    let schedule = stage.settings.schedule.clone();
    for (made, wait) in schedule.iter().enumerate().skip(1) {
        assert_eq!(receiver.heard().len(), made);
        stage.clock.advance(*wait - Duration::from_secs(1));
        stage.work().await;
        assert_eq!(receiver.heard().len(), made, "attempt {} came too early", made + 1);
        stage.clock.advance(Duration::from_secs(1));
        stage.work().await;
    }
    assert_eq!(receiver.heard().len(), schedule.len());
    let delivery = stage.only_delivery(endpoint).await;
    assert_eq!(delivery.state, DeliveryState::Exhausted);
    assert_eq!(delivery.attempt_log.len(), schedule.len());
    assert!(delivery.attempt_log.iter().all(|attempt| attempt.status == Some(500)));
    let ids: Vec<String> =
        receiver.heard().iter().map(|heard| heard.header("webhook-id").to_owned()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "one id over all attempts");
    let mut times: Vec<String> =
        receiver.heard().iter().map(|heard| heard.header("webhook-timestamp").to_owned()).collect();
    times.dedup();
    assert_eq!(times.len(), schedule.len(), "a new time for each attempt");
}

#[tokio::test]
async fn a_receiver_that_asks_for_a_pause_gets_it() {
    let mut stage = Stage::new().await;
    let receiver =
        Receiver::start(|heard| if heard.nth == 0 { Reply::retry_after(429, 60) } else { Reply::ok() }).await;
    let owner = stage.participant().await;
    stage.endpoint(owner, &receiver.url("/"), &[]).await;
    stage.happened(stage.payment(), (owner, owner), &["payment.settled"]).await;
    stage.work().await;
    stage.happened(stage.payment(), (owner, owner), &["payment.settled"]).await;
    stage.clock.advance(Duration::from_secs(59));
    stage.work().await;
    assert_eq!(receiver.heard().len(), 1, "nothing in the pause, not even of other payments");
    stage.clock.advance(Duration::from_secs(1));
    stage.work().await;
    assert_eq!(receiver.heard().len(), 3);
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_is_not_followed() {
    let mut stage = Stage::new().await;
    let elsewhere = Receiver::start(|_| Reply::ok()).await;
    let location = elsewhere.url("/");
    let receiver = Receiver::start(move |_| Reply::redirect(&location)).await;
    let owner = stage.participant().await;
    let (endpoint, _) = stage.endpoint(owner, &receiver.url("/"), &[]).await;
    stage.happened(stage.payment(), (owner, owner), &["payment.settled"]).await;
    stage.work().await;
    assert_eq!(stage.only_delivery(endpoint).await.state, DeliveryState::Pending);
    assert_eq!((receiver.heard().len(), elsewhere.heard().len()), (1, 0));
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_a_failure_that_says_what_to_do() {
    let mut stage = Stage::new().await;
    let owner = stage.participant().await;
    let in_plain = Receiver::start(|_| Reply::ok()).await;
    let cases = [
        (
            certified_by_itself(2100).await,
            "its certificate leads to no authority that is trusted here: use another, and send the whole chain",
        ),
        (certified_by_itself(2020).await, "its certificate has expired: renew it"),
        (
            in_plain.url("/").replace("http:", "https:"),
            "no TLS connection came about: TLS 1.2 or 1.3 has to be spoken at this address",
        ),
    ];
    for (url, refusal) in cases {
        let (endpoint, _) = stage.endpoint(owner, &url, &[]).await;
        stage.happened(stage.payment(), (owner, owner), &["payment.settled"]).await;
        stage.work().await;
        let delivery = stage.only_delivery(endpoint).await;
        let attempt = &delivery.attempt_log[0];
        assert_eq!((attempt.status, attempt.error.as_deref()), (None, Some(refusal)));
        let again = stage.clock.now().plus(stage.settings.schedule[1]);
        assert_eq!((delivery.state, delivery.next_attempt_at), (DeliveryState::Pending, Some(again)));
        stage.set_disabled(owner, endpoint, Some("seen")).await;
    }
    assert!(in_plain.heard().is_empty());
}

#[tokio::test]
async fn a_rotation_signs_with_both_keys_until_its_window_ends() {
    let mut stage = Stage::new().await;
    let receiver = Receiver::start(|_| Reply::ok()).await;
    let owner = stage.participant().await;
    let (endpoint, old) = stage.endpoint(owner, &receiver.url("/"), &[]).await;
    let new = keys();
    let now = stage.clock.now();
    let until = now.plus(Duration::from_secs(60));
    let tx = stage.context.db.begin().await.unwrap();
    store::rotate_keys(&tx, of(owner), endpoint, &stage.sealed(&new, endpoint), until, now)
        .await
        .unwrap()
        .unwrap();
    tx.commit().await.unwrap();

    stage.happened(stage.payment(), (owner, owner), &["payment.settled"]).await;
    stage.work().await;
    stage.clock.set(until);
    stage.happened(stage.payment(), (owner, owner), &["payment.settled"]).await;
    stage.work().await;
    let heard = receiver.heard();
    assert_eq!(heard[0].signers(&[&new, &old], now), [0, 1]);
    assert_eq!(heard[1].signers(&[&new, &old], until), [0]);
}

#[tokio::test]
async fn keys_are_sealed_in_the_database_and_follow_the_sealing_key() {
    let mut stage = Stage::new().await;
    let receiver = Receiver::start(|_| Reply::ok()).await;
    let owner = stage.participant().await;
    let (endpoint, old) = stage.endpoint(owner, &receiver.url("/"), &[]).await;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();

    // As a version before wrote it: in plain, with a rotation under way.
    let (new, now) = (keys(), stage.clock.now());
    let plain = format!(
        "update webhook_endpoint set hmac_key = '\\x{}', ed25519_seed = '\\x{}', previous_hmac_key = '\\x{}', \
            previous_seed = '\\x{}', previous_until = now() + interval '1 hour'",
        hex(new.secret_bytes()),
        hex(new.seed()),
        hex(old.secret_bytes()),
        hex(old.seed())
    );
    sql(&stage.url, &plain).await;
    let in_plain = [new.secret_bytes(), new.seed(), old.secret_bytes(), old.seed()].map(hex);
    let rows = stage.endpoint_rows().await;
    assert!(in_plain.iter().all(|secret| rows.contains(secret)), "the search itself works");
    stage.happened(stage.payment(), (owner, owner), &["payment.held"]).await;
    stage.work().await;

    assert_eq!(seal_anew(&stage.context, &stage.sealing).await.unwrap(), 1);
    assert_eq!(seal_anew(&stage.context, &stage.sealing).await.unwrap(), 0, "once is enough");
    let rows = stage.endpoint_rows().await;
    assert!(!in_plain.iter().any(|secret| rows.contains(secret)), "{rows}");
    stage.happened(stage.payment(), (owner, owner), &["payment.settled"]).await;
    stage.work().await;

    let first = stage.sealing.newest();
    let second = stage.keys.rotate_sealing_key().unwrap();
    assert_eq!(seal_anew(&stage.context, &stage.sealing).await.unwrap(), 1);
    let rows = stage.endpoint_rows().await;
    assert!(rows.contains(&second) && !rows.contains(&first), "the old key is not needed any more");
    // A process that started before finds the new key by itself, and one that has lost the old one works, too.
    stage.sealing = Arc::new(SealingKeys::load_or_create(&stage.keys).unwrap());
    stage.happened(stage.payment(), (owner, owner), &["payment.completed"]).await;
    stage.work().await;
    let heard = receiver.heard();
    assert_eq!(heard.len(), 3);
    assert!(
        heard.iter().all(|heard| heard.signers(&[&new, &old], now) == [0, 1]),
        "signed alike all the way"
    );
    let delivered =
        store::deliveries(&stage.context.db, endpoint, &[DeliveryState::Delivered], None, 10).await.unwrap();
    assert_eq!(delivered.len(), 3);
}

#[tokio::test]
async fn a_key_that_comes_while_others_are_sealed_anew_opens_what_it_has_sealed() {
    let mut stage = Stage::new().await;
    let receiver = Receiver::start(|_| Reply::ok()).await;
    let owner = stage.participant().await;
    let (_, keys) = stage.endpoint(owner, &receiver.url("/"), &[]).await;
    stage.keys.rotate_sealing_key().unwrap();

    let (mut client, connection) = tokio_postgres::connect(&stage.url, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let tx = client.transaction().await.unwrap();
    tx.execute("select from webhook_endpoint for update", &[]).await.unwrap();
    let (context, sealing) = (stage.context.clone(), stage.sealing.clone());
    let sealed = tokio::spawn(async move { seal_anew(&context, &sealing).await });
    let waits = "select from pg_locks join pg_database on pg_database.oid = pg_locks.database
        where locktype = 'tuple' and datname = current_database()";
    while tx.query(waits, &[]).await.unwrap().is_empty() {}
    // It has asked for what is not sealed with the key of before.
    let third = stage.keys.rotate_sealing_key().unwrap();
    stage.sealing.reload().unwrap();
    tx.commit().await.unwrap();
    assert_eq!(sealed.await.unwrap().unwrap(), 1);
    drop(client);
    connection.await.unwrap().unwrap();

    assert!(stage.endpoint_rows().await.contains(&third));
    stage.happened(stage.payment(), (owner, owner), &["payment.settled"]).await;
    stage.work().await;
    assert_eq!(receiver.heard()[0].signers(&[&keys], stage.clock.now()), [0]);
}

#[tokio::test]
async fn deliveries_are_forgotten_a_day_at_a_time() {
    let mut stage = Stage::new().await;
    let receiver = Receiver::start(|_| Reply::ok()).await;
    let owner = stage.participant().await;
    let (endpoint, _) = stage.endpoint(owner, &receiver.url("/"), &[]).await;
    let (now, day) = (stage.clock.now(), Duration::from_secs(24 * 3_600));
    // One day has a partition of its own, the other has none.
    sql(&stage.url, "select ensure_daily_partitions(current_date - 40, current_date - 40)").await;
    for days in [40, 50, 0] {
        stage.clock.set(now.minus(day * days));
        stage.happened(stage.payment(), (owner, owner), &["payment.settled"]).await;
    }
    stage.clock.set(now);
    stage.work().await;
    let left = async || {
        let found = store::deliveries(&stage.context.db, endpoint, &DeliveryState::ALL, None, 10).await;
        found.unwrap().len()
    };
    assert_eq!(left().await, 3);
    assert_eq!(store::forget_deliveries(&stage.context.db, now.minus(day * 60)).await.unwrap(), 0);
    assert_eq!(left().await, 3);
    assert_eq!(store::forget_deliveries(&stage.context.db, now.minus(day * 30)).await.unwrap(), 1);
    assert_eq!(left().await, 1);
}

#[tokio::test]
async fn a_crash_between_sending_and_recording_sends_again_under_the_same_id() {
    let mut stage = Stage::new().await;
    let receiver = Receiver::start(|heard| if heard.nth == 0 { Reply::Never } else { Reply::ok() }).await;
    let owner = stage.participant().await;
    let (endpoint, _) = stage.endpoint(owner, &receiver.url("/"), &[]).await;
    stage.happened(stage.payment(), (owner, owner), &["payment.settled"]).await;
    stage.fan_out().await;
    tokio::select! {
        () = stage.deliverer().run(CancellationToken::new()) => panic!("nobody told it to stop"),
        // Dropped in the middle, with all it knows.
        () = receiver.wait_for(1) => {}
    }

    stage.work().await;
    assert_eq!(receiver.heard().len(), 1, "the claim of the dead worker still holds");
    stage.clock.advance(stage.settings.timeout + Duration::from_secs(30));
    stage.work().await;
    let heard = receiver.heard();
    assert_eq!(heard.len(), 2);
    assert_eq!(heard[0].header("webhook-id"), heard[1].header("webhook-id"));
    assert_eq!(heard[0].body, heard[1].body);
    assert_eq!(stage.only_delivery(endpoint).await.state, DeliveryState::Delivered);
}

#[tokio::test]
async fn a_late_result_of_a_lost_claim_changes_nothing() {
    let mut stage = Stage::new().await;
    let owner = stage.participant().await;
    let (endpoint, _) = stage.endpoint(owner, "https://example.com/", &[]).await;
    stage.happened(stage.payment(), (owner, owner), &["payment.settled"]).await;
    stage.fan_out().await;
    let claim = async |now| {
        let request = store::ClaimRequest {
            slice_max: 10,
            reserved: 0,
            in_flight_per_endpoint_max: 1,
            unanswered_until_one_at_a_time: 5,
            in_flight: &std::collections::BTreeMap::new(),
            lease: Duration::from_secs(10),
        };
        store::claim(&stage.context.db, &request, now).await.unwrap()
    };
    let zombie = claim(stage.clock.now()).await.remove(0);
    assert!(claim(stage.clock.now()).await.is_empty());
    stage.clock.advance(Duration::from_secs(10));
    let heir = claim(stage.clock.now()).await.remove(0);
    assert_eq!((heir.id, heir.attempts), (zombie.id, 2));
    let result = store::DeliveryResult {
        id: zombie.id,
        fence: zombie.fence,
        attempt: store::Attempt { at: stage.clock.now(), status: Some(500), error: None, latency_ms: 1 },
        next: store::DeliveryNext::Exhausted,
    };
    let tx = stage.context.db.begin().await.unwrap();
    assert!(store::record(&tx, &[result], stage.clock.now()).await.unwrap().is_empty());
    tx.commit().await.unwrap();
    assert_eq!(stage.only_delivery(endpoint).await.state, DeliveryState::Claimed);
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_disabled_and_the_participant_s_others_hear_of_it() {
    let mut stage = Stage::new().await;
    let gone = Receiver::start(|_| Reply::status(410)).await;
    let other = Receiver::start(|_| Reply::ok()).await;
    let owner = stage.participant().await;
    let (endpoint, _) = stage.endpoint(owner, &gone.url("/"), &["payment.settled"]).await;
    stage.endpoint(owner, &other.url("/"), &["webhook_endpoint.disabled"]).await;
    for _ in 0..2 {
        stage.happened(stage.payment(), (owner, owner), &["payment.settled"]).await;
        stage.work().await;
    }
    assert_eq!(gone.heard().len(), 1);
    let shown = store::get(&stage.context.db, of(owner), endpoint).await.unwrap().unwrap();
    assert_eq!(shown.disabled_reason.as_deref(), Some("the receiver answered 410 Gone"));
    let notice = &other.heard()[0];
    assert_eq!(notice.event["type"], "webhook_endpoint.disabled");
    assert_eq!(notice.event["subject"], endpoint.to_string());
    assert_eq!(notice.event["data"]["reason"], "the receiver answered 410 Gone");
    assert!(
        stage.only_delivery(endpoint).await.state == DeliveryState::Exhausted,
        "what happens while it is disabled is not queued"
    );
}

#[tokio::test]
async fn a_late_answer_from_the_address_before_says_nothing_about_the_new_one() {
    let mut stage = Stage::new().await;
    let answer = Arc::new(tokio::sync::Notify::new());
    let held_back = Arc::clone(&answer);
    let before = Receiver::start(move |_| Reply::After(Arc::clone(&held_back), StatusCode::GONE)).await;
    let now = Receiver::start(|_| Reply::ok()).await;
    let owner = stage.participant().await;
    let (endpoint, _) = stage.endpoint(owner, &before.url("/"), &[]).await;
    stage.happened(stage.payment(), (owner, owner), &["payment.settled"]).await;
    stage.fan_out().await;
    let moves = async {
        before.wait_for(1).await;
        let tx = stage.context.db.begin().await.unwrap();
        let url = now.url("/");
        store::update(&tx, of(owner), endpoint, Some(&url), None, stage.clock.now()).await.unwrap().unwrap();
        tx.commit().await.unwrap();
        answer.notify_one();
        now.wait_for(1).await;
    };
    tokio::select! {
        () = stage.deliverer().run(CancellationToken::new()) => panic!("nobody told it to stop"),
        () = moves => {}
    }
    let shown = store::get(&stage.context.db, of(owner), endpoint).await.unwrap().unwrap();
    assert_eq!((shown.disabled_reason, shown.failure_streak), (None, 0));
    assert_eq!(before.heard().len(), 1);
}

#[tokio::test]
async fn an_endpoint_is_disabled_when_patience_ends() {
    let mut stage = Stage::new().await;
    stage.settings.patience.exhausted_until_disabled = 2;
    stage.settings.schedule = vec![Duration::ZERO, Duration::from_secs(5)];
    let receiver = Receiver::start(|_| Reply::status(500)).await;
    let owner = stage.participant().await;
    let (endpoint, _) = stage.endpoint(owner, &receiver.url("/"), &[]).await;
    for _ in 0..3 {
        stage.happened(stage.payment(), (owner, owner), &["payment.settled"]).await;
        stage.work().await;
        stage.clock.advance(Duration::from_secs(5));
        stage.work().await;
    }
    let shown = store::get(&stage.context.db, of(owner), endpoint).await.unwrap().unwrap();
    assert_eq!(shown.disabled_reason.as_deref(), Some("2 deliveries in a row were given up"));
    assert_eq!(receiver.heard().len(), 4);
}

#[tokio::test]
async fn what_was_delivered_given_up_or_missed_can_be_sent_again() {
    let mut stage = Stage::new().await;
    stage.settings.schedule = vec![Duration::ZERO];
    let works = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&works);
    let receiver =
        Receiver::start(move |_| Reply::status(if switch.load(Ordering::SeqCst) { 200 } else { 500 })).await;
    let owner = stage.participant().await;
    let (endpoint, _) = stage.endpoint(owner, &receiver.url("/"), &[]).await;
    let began = stage.clock.now();
    let given_up = stage.payment();
    stage.happened(given_up, (owner, owner), &["payment.settled"]).await;
    stage.work().await;
    stage.set_disabled(owner, endpoint, Some("maintenance")).await;
    let missed = stage.payment();
    stage.happened(missed, (owner, owner), &["payment.settled"]).await;
    stage.work().await;
    works.store(true, Ordering::SeqCst);
    stage.set_disabled(owner, endpoint, None).await;
    stage.work().await;
    assert_eq!(receiver.heard().len(), 1, "enabling alone sends nothing that was given up or missed");

    let after = store::offset_since(&stage.context.db, began).await.unwrap();
    let tx = stage.context.db.begin().await.unwrap();
    let recovered = store::recover(&tx, of(owner), endpoint, after, 100, stage.clock.now()).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!((recovered.queued, recovered.more_after), (2, None));
    stage.work().await;
    assert_eq!(receiver.kinds_of(missed).len(), 1);
    assert_eq!(receiver.kinds_of(given_up).len(), 2);

    let all = store::deliveries(&stage.context.db, endpoint, &DeliveryState::ALL, None, 10).await.unwrap();
    assert!(all.iter().all(|delivery| delivery.state == DeliveryState::Delivered));
    let again = all[0].id;
    assert!(stage.redeliver(of(owner), endpoint, again).await);
    let stranger = stage.participant().await;
    assert!(!stage.redeliver(of(stranger), endpoint, again).await, "only its owner's");
    stage.work().await;
    assert_eq!(receiver.heard().len(), 4);
}

#[tokio::test]
async fn a_deleted_endpoint_hears_nothing_more() {
    let mut stage = Stage::new().await;
    let receiver = Receiver::start(|_| Reply::status(500)).await;
    let owner = stage.participant().await;
    let (endpoint, _) = stage.endpoint(owner, &receiver.url("/"), &[]).await;
    stage.happened(stage.payment(), (owner, owner), &["payment.settled"]).await;
    stage.work().await;
    let tx = stage.context.db.begin().await.unwrap();
    assert!(store::delete(&tx, of(owner), endpoint, stage.clock.now()).await.unwrap());
    tx.commit().await.unwrap();
    let stop = CancellationToken::new();
    tidy(&stage.context, &stop).await.unwrap();
    stage.happened(stage.payment(), (owner, owner), &["payment.settled"]).await;
    stage.clock.advance(Duration::from_secs(3_600));
    stage.work().await;
    assert_eq!(receiver.heard().len(), 1);
    assert_eq!(stage.only_delivery(endpoint).await.state, DeliveryState::Cancelled);
    assert_eq!(store::get(&stage.context.db, of(owner), endpoint).await.unwrap(), None);

    // What comes up is dropped as well, until a look a minute later finds nothing; then nobody looks any more.
    let comes_up = "update webhook_delivery set state = 'pending'";
    sql(&stage.url, comes_up).await;
    tidy(&stage.context, &stop).await.unwrap();
    assert_eq!(stage.only_delivery(endpoint).await.state, DeliveryState::Cancelled);
    sql(&stage.url, comes_up).await;
    tidy(&stage.context, &stop).await.unwrap();
    assert_eq!(stage.only_delivery(endpoint).await.state, DeliveryState::Pending);
}

#[tokio::test]
async fn the_operator_hears_of_reconciliation_in_order_and_participants_do_not() {
    let mut stage = Stage::new().await;
    let receiver = Receiver::start(|_| Reply::ok()).await;
    let institution = stage.participant().await;
    let (operator, began) = (EndpointOwner::Operator, stage.clock.now());
    stage.endpoint(institution, &receiver.url("/institution"), &[]).await;
    let (_, operator_keys) = stage.endpoint_of(operator, &receiver.url("/operator"), &[]).await;
    let payment = stage.payment();
    stage.happened(payment, (institution, institution), &["payment.settled"]).await;
    let (run, exception) = stage.reconciled().await;
    stage.work().await;
    stage.decided(exception).await;
    stage.work().await;

    let (run, exception) = (run.to_string(), exception.to_string());
    let settled = ("payment.settled".to_owned(), payment.to_string());
    assert_eq!(receiver.told("/institution"), [settled]);
    let told = [
        ("reconciliation.completed", &run),
        ("reconciliation.break_found", &run),
        ("exception.commented", &exception),
        ("exception.proposed", &exception),
        ("exception.answered", &exception),
    ]
    .map(|(kind, subject)| (kind.to_owned(), subject.clone()));
    assert_eq!(receiver.told("/operator"), told);
    for heard in receiver.heard().iter().filter(|heard| heard.path == "/operator") {
        assert_eq!(heard.signers(&[&keys(), &operator_keys], stage.clock.now()), [1]);
    }

    // What was missed can be asked for, as participants can; and each owner for its own alone.
    let (late, _) = stage.endpoint_of(operator, &receiver.url("/late"), &[]).await;
    let after = store::offset_since(&stage.context.db, began).await.unwrap();
    let tx = stage.context.db.begin().await.unwrap();
    let strangers = store::recover(&tx, of(institution), late, after, 100, began).await.unwrap();
    let recovered = store::recover(&tx, operator, late, after, 100, began).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!((strangers.queued, recovered.queued, recovered.more_after), (0, 5, None));
    stage.work().await;
    assert_eq!(receiver.told("/late").len(), 5);
    let delivered = store::deliveries(&stage.context.db, late, &DeliveryState::ALL, None, 1).await.unwrap();
    assert!(!stage.redeliver(of(institution), late, delivered[0].id).await);
    assert!(stage.redeliver(operator, late, delivered[0].id).await);
    stage.work().await;
    assert_eq!(receiver.told("/late").len(), 6);
}

#[tokio::test]
async fn an_operator_s_endpoint_that_is_gone_is_disabled_and_its_others_hear_of_it() {
    let mut stage = Stage::new().await;
    let gone = Receiver::start(|_| Reply::status(410)).await;
    let other = Receiver::start(|_| Reply::ok()).await;
    let institution = stage.participant().await;
    let disabled = ["webhook_endpoint.disabled"];
    stage.endpoint(institution, &other.url("/institution"), &disabled).await;
    let (endpoint, _) = stage.endpoint_of(EndpointOwner::Operator, &gone.url("/"), &[]).await;
    stage.endpoint_of(EndpointOwner::Operator, &other.url("/operator"), &disabled).await;
    stage.reconciled().await;
    stage.work().await;
    assert_eq!(other.told("/operator"), [(disabled[0].to_owned(), endpoint.to_string())]);
    assert!(other.told("/institution").is_empty());
}

#[tokio::test]
async fn production_settings_never_connect_inside() {
    let mut stage = Stage::new().await;
    stage.settings.egress = DeliverySettings::default().egress;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let owner = stage.participant().await;
    // As if they had been registered while the ranges were open, or by hand in the database.
    for (host, refusal) in [
        ("http://127.0.0.1", "the address must begin with https://"),
        ("https://127.0.0.1", "the host does not have an address that may be called"),
        ("https://2130706433", "the host does not have an address that may be called"),
        ("https://0x7f.1", "the host does not have an address that may be called"),
        ("https://[::ffff:127.0.0.1]", "the host does not have an address that may be called"),
        ("https://[::1]", "the host does not have an address that may be called"),
        ("https://169.254.169.254", "the host does not have an address that may be called"),
        // Only its resolution shows where it leads.
        ("https://localhost", "the host does not have an address that may be called"),
    ] {
        let (endpoint, _) = stage.endpoint(owner, &format!("{host}:{port}/"), &[]).await;
        stage.happened(stage.payment(), (owner, owner), &["payment.settled"]).await;
        stage.work().await;
        let attempt = &stage.only_delivery(endpoint).await.attempt_log[0];
        assert_eq!((attempt.status, attempt.error.as_deref()), (None, Some(refusal)), "{host}");
        stage.set_disabled(owner, endpoint, Some("seen")).await;
    }
    let nobody = listener.accept().map(|_| ()).unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
}

// ---------------------------------------------------------------------------------------------------------------------
// The stage

/// A database of its own, a clock, and the loops turned by hand.
struct Stage {
    context: Context,
    clock: Arc<ManualClock>,
    settings: DeliverySettings,
    fan_out: FanOut,
    fan_out_to_operator: FanOut,
    url: String,
    keys: KeyFolder,
    sealing: Arc<SealingKeys>,
    _home: tempfile::TempDir,
}

impl Stage {
    async fn new() -> Self {
        let clock =
            Arc::new(ManualClock::at(Timestamp::from_micros(jiff::Timestamp::now().as_microsecond())));
        let (url, home) = (database().await, tempfile::tempdir().unwrap());
        let keys = KeyFolder::new(home.path().join("keys"));
        let sealing = Arc::new(SealingKeys::load_or_create(&keys).unwrap());
        let context = Context {
            db: Db::new(&DbSettings::new(url.clone())).unwrap(),
            clock: clock.clone(),
            wake: Wake::default(),
            instance: "webhook test".to_owned(),
        };
        let settings = DeliverySettings {
            source: "https://flowbridge.example".to_owned(),
            in_flight_per_endpoint_max: 4,
            jitter_percent_max: 0,
            egress: EgressPolicy::new(vec!["127.0.0.0/8".parse().unwrap()]),
            patience: Patience::default(),
            ..DeliverySettings::default()
        };
        let fan_out = FanOut::new(context.clone(), FanOutSettings::default());
        let fan_out_to_operator = FanOut::for_operator(context.clone());
        Self { context, clock, settings, fan_out, fan_out_to_operator, url, keys, sealing, _home: home }
    }

    fn deliverer(&self) -> Deliverer {
        Deliverer::new(self.context.clone(), self.settings.clone(), self.sealing.clone()).unwrap()
    }

    /// Takes in all that has happened. The log shows nothing above the oldest transaction that runs on the whole server, so
    /// another test's may hold it back for a moment.
    async fn fan_out(&mut self) {
        loop {
            while self.fan_out.turn().await.unwrap() == Turn::Busy {}
            while self.fan_out_to_operator.turn().await.unwrap() == Turn::Busy {}
            let lag = event_log::lag(&self.context.db).await.unwrap();
            if lag.iter().all(|(_, _, behind)| *behind == 0) {
                return;
            }
        }
    }

    /// Does all that is to be done at this instant.
    async fn work(&mut self) {
        self.fan_out().await;
        self.deliverer().run_due().await.unwrap();
        // What deliveries caused (a notice that an endpoint was disabled) goes out too.
        self.fan_out().await;
        self.deliverer().run_due().await.unwrap();
    }

    async fn participant(&self) -> ParticipantId {
        let participant = Participant {
            id: ParticipantId::generate(self.clock.now(), rand::random()),
            name: "An institution".to_owned(),
            lei: None,
            active: true,
            status_reason: None,
            fee_basis_points: 0,
            created_at: self.clock.now(),
        };
        let tx = self.context.db.begin().await.unwrap();
        party::add_participant(&tx, &participant).await.unwrap();
        tx.commit().await.unwrap();
        participant.id
    }

    fn payment(&self) -> PaymentId {
        PaymentId::generate(self.clock.now(), rand::random())
    }

    async fn endpoint(
        &self,
        owner: ParticipantId,
        url: &str,
        kinds: &[&str],
    ) -> (WebhookEndpointId, EndpointKeys) {
        self.endpoint_of(of(owner), url, kinds).await
    }

    async fn endpoint_of(
        &self,
        owner: EndpointOwner,
        url: &str,
        kinds: &[&str],
    ) -> (WebhookEndpointId, EndpointKeys) {
        let keys = keys();
        let id = WebhookEndpointId::generate(self.clock.now(), rand::random());
        let new = NewEndpoint {
            id,
            owner,
            url: url.to_owned(),
            event_kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
            keys: self.sealed(&keys, id),
        };
        let tx = self.context.db.begin().await.unwrap();
        store::create(&tx, &new, 10, self.clock.now()).await.unwrap().unwrap();
        tx.commit().await.unwrap();
        (new.id, keys)
    }

    fn sealed(&self, keys: &EndpointKeys, id: WebhookEndpointId) -> SealedKeys {
        let sealed = keys.seal(id, &self.sealing).unwrap();
        SealedKeys { key_id: sealed.key_id, bytes: sealed.bytes }
    }

    /// Everything that the database has about endpoints, as text.
    async fn endpoint_rows(&self) -> String {
        let (client, connection) = tokio_postgres::connect(&self.url, tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        let row =
            client.query_one("select string_agg(e::text, ' ') from webhook_endpoint e", &[]).await.unwrap();
        drop(client);
        connection.await.unwrap().unwrap();
        row.get(0)
    }

    async fn happened(&self, payment: PaymentId, parties: (ParticipantId, ParticipantId), kinds: &[&str]) {
        let events: Vec<NewEvent> = kinds
            .iter()
            .map(|kind| NewEvent {
                topic: "payments",
                key: payment,
                kind: (*kind).to_owned(),
                participants: Some(parties),
                traceparent: traceparent(),
                data: EventData::of(&json!({ "note": kind })),
            })
            .collect();
        let tx = self.context.db.begin().await.unwrap();
        event_log::append(&tx, &events, self.clock.now()).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// A run of a bank finds one difference.
    async fn reconciled(&self) -> (ReconciliationId, ExceptionId) {
        let (db, now, scopes) = (&self.context.db, self.clock.now(), ["alpha".to_owned()]);
        let tx = db.begin().await.unwrap();
        reconciliation::ask(&tx, &scopes, (false, "2026-11-23"), "ana", now).await.unwrap();
        tx.commit().await.unwrap();
        let lease = Duration::from_secs(60);
        let run = reconciliation::claim(db, &scopes, "the test", now, lease).await.unwrap().unwrap();
        let found = Found {
            kind: "unposted_bank_fee".to_owned(),
            subject: "a line".to_owned(),
            currency: "EUR".to_owned(),
            amount: 150,
            owner: "treasury".to_owned(),
            advice: "Ask the bank.".to_owned(),
            about: json!({}),
            suggestions: vec![],
            records: vec![],
            contra: None,
            correction: 0,
            is_lasting: false,
            since: now,
        };
        let findings = Findings {
            as_of: None,
            ledger_until: now,
            manifest_sha256: String::new(),
            summary: json!({}),
            matches: vec![],
            open: vec![],
            exceptions: vec![found],
            reports: vec![],
            learned: Learned::default(),
            is_whole: true,
            proven: vec![],
        };
        reconciliation::finish(db, &run, &findings, &traceparent(), now).await.unwrap();
        let open = exception::list(db, &ExceptionFilter::default(), 1).await.unwrap();
        (run.id, open[0].id)
    }

    /// One person comments and proposes, another confirms.
    async fn decided(&self, id: ExceptionId) {
        let now = self.clock.now();
        let decision = Decision {
            id: DecisionId::generate(now, rand::random()),
            kind: DecisionKind::Reject,
            partner: None,
            reason: "the bank was right".to_owned(),
            proposed_by: "ana".to_owned(),
            proposed_at: now,
            verdict: None,
        };
        let tx = self.context.db.begin().await.unwrap();
        assert!(exception::comment(&tx, id, "ana", "I have asked the bank.", now).await.unwrap());
        exception::propose(&tx, id, &decision).await.unwrap().unwrap();
        let verdict = Verdict::Confirmed;
        exception::answer(&tx, (id, decision.id), verdict, "ben", now).await.unwrap().unwrap();
        tx.commit().await.unwrap();
    }

    async fn only_delivery(&self, endpoint: WebhookEndpointId) -> Delivery {
        let mut all =
            store::deliveries(&self.context.db, endpoint, &DeliveryState::ALL, None, 10).await.unwrap();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    /// How many deliveries to an endpoint a claim would look at.
    async fn due(&self, endpoint: WebhookEndpointId) -> i64 {
        let (client, connection) = tokio_postgres::connect(&self.url, tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        let due = "select count(*) from webhook_delivery
            where endpoint_id = $1 and is_open and next_attempt_at <= to_timestamp($2::bigint / 1000000.0)";
        let now = self.clock.now().as_micros();
        let row = client.query_one(due, &[&endpoint.as_uuid(), &now]).await.unwrap();
        drop(client);
        connection.await.unwrap().unwrap();
        row.get(0)
    }

    async fn set_disabled(&self, owner: ParticipantId, endpoint: WebhookEndpointId, reason: Option<&str>) {
        let tx = self.context.db.begin().await.unwrap();
        store::set_disabled(&tx, of(owner), endpoint, reason, self.clock.now()).await.unwrap().unwrap();
        tx.commit().await.unwrap();
    }

    async fn redeliver(&self, owner: EndpointOwner, endpoint: WebhookEndpointId, id: DeliveryId) -> bool {
        let tx = self.context.db.begin().await.unwrap();
        let done = store::redeliver(&tx, owner, endpoint, id, self.clock.now()).await.unwrap();
        tx.commit().await.unwrap();
        done
    }
}

fn of(participant: ParticipantId) -> EndpointOwner {
    EndpointOwner::Participant(participant)
}

fn traceparent() -> String {
    format!("00-{TRACE}-00f067aa0ba902b7-01")
}

fn keys() -> EndpointKeys {
    EndpointKeys::generate().unwrap()
}

/// A database made from a migrated template; returns its URL.
async fn database() -> String {
    static SERVER: OnceLock<EmbeddedPostgres> = OnceLock::new();
    static TEMPLATE: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let server = SERVER.get_or_init(|| EmbeddedPostgres::temporary().unwrap());
    TEMPLATE
        .get_or_init(async || {
            sql(&server.url(), "create database webhook_template").await;
            Db::new(&DbSettings::new(server.url_of("webhook_template"))).unwrap().migrate().await.unwrap();
        })
        .await;
    let name = format!("webhook_{}", NEXT.fetch_add(1, Ordering::SeqCst));
    sql(&server.url(), &format!("create database {name} template webhook_template")).await;
    server.url_of(&name)
}

async fn sql(url: &str, statement: &str) {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute(statement).await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
}

// ---------------------------------------------------------------------------------------------------------------------
// The receiver

/// A request that the receiver got.
#[derive(Debug, Clone)]
struct Heard {
    path: String,
    headers: HeaderMap,
    body: Bytes,
    event: Value,
    /// Its place among all requests, and among those of its event, from 0.
    nth: usize,
    nth_of_event: usize,
}

impl Heard {
    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// Which of these keys it is signed with, by both kinds of signature: `v1` as the reference library checks it, `v1a`
    /// with the public key.
    fn signers(&self, candidates: &[&EndpointKeys], now: Timestamp) -> Vec<usize> {
        let signed_by = |keys: &EndpointKeys| {
            let by_secret = standardwebhooks::Webhook::new(keys.secret_text().expose_secret()).unwrap();
            let v1 = by_secret.verify(&self.body, &self.headers).is_ok();
            let (id, timestamp, signatures) = (
                self.header("webhook-id"),
                self.header("webhook-timestamp"),
                self.header("webhook-signature"),
            );
            let by_public_key = Verifier::parse(&keys.public_text()).unwrap();
            let v1a = by_public_key.verify(id, timestamp, signatures, &self.body, now).is_ok();
            assert_eq!(v1, v1a, "both kinds or none");
            v1
        };
        candidates.iter().enumerate().filter(|(_, keys)| signed_by(keys)).map(|(place, _)| place).collect()
    }
}

enum Reply {
    Answer(StatusCode, Option<(header::HeaderName, String)>),
    Never,
    After(Arc<tokio::sync::Notify>, StatusCode),
}

impl Reply {
    fn ok() -> Self {
        Self::status(200)
    }

    fn status(status: u16) -> Self {
        Self::Answer(StatusCode::from_u16(status).unwrap(), None)
    }

    fn retry_after(status: u16, seconds: u32) -> Self {
        Self::Answer(StatusCode::from_u16(status).unwrap(), Some((header::RETRY_AFTER, seconds.to_string())))
    }

    fn redirect(location: &str) -> Self {
        Self::Answer(StatusCode::TEMPORARY_REDIRECT, Some((header::LOCATION, location.to_owned())))
    }
}

type Replies = Arc<dyn Fn(&Heard) -> Reply + Send + Sync>;

/// A real HTTP server that remembers what it heard.
struct Receiver {
    origin: String,
    heard: Arc<Mutex<Vec<Heard>>>,
    bell: tokio::sync::Mutex<mpsc::UnboundedReceiver<()>>,
}

#[derive(Clone)]
struct Memory {
    heard: Arc<Mutex<Vec<Heard>>>,
    bell: mpsc::UnboundedSender<()>,
    replies: Replies,
}

impl Receiver {
    async fn start(replies: impl Fn(&Heard) -> Reply + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (ring, bell) = mpsc::unbounded_channel();
        let memory = Memory { heard: Arc::clone(&heard), bell: ring, replies: Arc::new(replies) };
        let app = Router::new().fallback(hear).with_state(memory);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { origin, heard, bell: tokio::sync::Mutex::new(bell) }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }

    fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// The kinds of the events of a payment, as they came in.
    fn kinds_of(&self, payment: PaymentId) -> Vec<String> {
        let of_payment = |heard: &Heard| heard.event["subject"] == payment.to_string();
        let kind = |heard: Heard| heard.event["type"].as_str().unwrap().to_owned();
        self.heard().into_iter().filter(of_payment).map(kind).collect()
    }

    /// What came in at a path: the kind and the subject of each event.
    fn told(&self, path: &str) -> Vec<(String, String)> {
        let text = |heard: &Heard, name: &str| heard.event[name].as_str().unwrap().to_owned();
        let heard = self.heard().into_iter().filter(|heard| heard.path == path);
        heard.map(|heard| (text(&heard, "type"), text(&heard, "subject"))).collect()
    }

    /// Waits until so many more requests have come in.
    async fn wait_for(&self, requests: usize) {
        let mut bell = self.bell.lock().await;
        let all = async {
            for _ in 0..requests {
                bell.recv().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(30), all).await.expect("the receiver hears in time");
    }
}

/// A server over TLS whose certificate, good until a year, nobody else has signed; returns its URL.
async fn certified_by_itself(until: i32) -> String {
    let key = KeyPair::generate().unwrap();
    let mut about = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    about.not_after = rcgen::date_time_ymd(until, 1, 1);
    let certificate = about.self_signed(&key).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.into()], key.into())
        .unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            drop(acceptor.accept(client).await);
        }
    });
    url
}

async fn hear(
    State(memory): State<Memory>,
    uri: axum::http::Uri,
    headers: HeaderMap,
    body: Bytes,
) -> axum::response::Response {
    let event: Value = serde_json::from_slice(&body).unwrap();
    let reply = {
        let mut all = memory.heard.lock().unwrap();
        let nth_of_event = all.iter().filter(|heard| heard.event["id"] == event["id"]).count();
        let heard = Heard { path: uri.path().to_owned(), headers, body, event, nth: all.len(), nth_of_event };
        let reply = (memory.replies)(&heard);
        all.push(heard);
        reply
    };
    memory.bell.send(()).unwrap();
    match reply {
        Reply::Answer(status, None) => status.into_response(),
        Reply::Answer(status, Some((name, value))) => (status, [(name, value)]).into_response(),
        Reply::Never => std::future::pending().await,
        Reply::After(bell, status) => {
            bell.notified().await;
            status.into_response()
        }
    }
}
