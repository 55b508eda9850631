//! Failures that other systems of this field are known for, each by its name: what must not happen, and does not.

use super::{ALPINE, ASHA, BIRK, Desk, HANSE, PATIENCE, eventually, payment, rule, with};
use crate::api::Call;
use crate::faults::database::write_poison;
use crate::oracle::text;
use crate::proxy::Weather;
use crate::sink::{Manner, Sink};
use crate::stage::Stage;
use anyhow::{Context as _, Result, bail, ensure};
use flowbridge_domain::id::PaymentId;
use futures_util::future::try_join_all;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::time::sleep_until;

/// How many do the same thing at once.
const CROWD: usize = 16;
/// More payments than one endpoint is told of at once (`in_flight_per_endpoint_max`).
const REFUSED: usize = 140;
/// How late a hold comes that nobody waits for any more.
const LATE: Duration = Duration::from_secs(30);

impl Desk<'_> {
    pub(super) async fn refunds_together(&self) -> Result<()> {
        let id = self.pay(ASHA, BIRK, 1_000).await?;
        self.until(&id, &["completed"]).await?;
        let path = format!("/v1/payments/{id}/refunds");
        let refund = json!({ "instructed_amount": { "amount": 300, "currency": "EUR" } });
        let answers = try_join_all((0..6).map(|_| self.post(&path, "beta", &refund))).await?;
        let made: Vec<&Value> =
            answers.iter().filter(|(status, _)| *status == 201).map(|(_, body)| body).collect();
        ensure!(made.len() == 3, "of six refunds of 300, three fit into 1,000: {answers:?}");
        ensure!(
            answers.iter().all(|(status, _)| matches!(status, 201 | 422)),
            "the others are refused for what they are: {answers:?}"
        );
        for refund in made {
            self.until(text(refund, "id"), &["completed"]).await?;
        }
        let refunded = self.payment(&id).await?.get("refunded").and_then(Value::as_i64);
        ensure!(refunded == Some(900), "refunded is {refunded:?}");
        Ok(())
    }

    /// Tokens that are held for one payment are not there for the next, however many ask at once.
    pub(super) async fn holds_together(&self) -> Result<()> {
        let issued = self.create(with(payment(ASHA, ASHA, 5_000), &[("kind", json!("issuance"))])).await?;
        self.completes(&[issued]).await?;
        let before = self.wallet(ASHA).await?;
        // Two of these fit, three do not.
        let amount = before * 2 / 5;
        let body = with(payment(ASHA, BIRK, amount), &[("funding", json!("token"))]);
        let answers = try_join_all((0..CROWD).map(|_| self.post("/v1/payments", "alpha", &body))).await?;
        let (taken, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|(status, _)| *status == 201);
        ensure!(taken.len() == 2, "{} payments were taken where two are covered", taken.len());
        for (status, answer) in refused {
            ensure!(
                (*status, text(answer, "code")) == (422, "insufficient_funds"),
                "the others were answered {status} {answer}"
            );
        }
        for (_, made) in &taken {
            self.until(text(made, "id"), &["completed"]).await?;
        }
        ensure!(self.wallet(ASHA).await? == before - 2 * amount, "other tokens moved than were paid");
        Ok(())
    }

    /// The payment was undone while its hold was on the way: when the hold comes to the bank at last, it is refused.
    pub(super) async fn rejected_then_committed(&self) -> Result<()> {
        let (before, _) = self.at_bank(ALPINE).await?;
        let late = json!({ "kind": "latency", "ms": LATE.as_millis() });
        let fault = self.fault("alpha", rule(late, ALPINE, &["place_hold"])).await?;
        let id = self.pay(ALPINE, HANSE, 450).await?;
        fault.struck(1).await?;
        let carried_out = Instant::now() + LATE;
        let (status, answer) = self.post(&format!("/v1/payments/{id}/cancel"), "alpha", &json!({})).await?;
        ensure!(status == 202, "cancelling was answered {status} {answer}");
        self.until(&id, &["failed"]).await?;
        ensure!(Instant::now() < carried_out, "the hold was not on the way any more");
        sleep_until((carried_out + Duration::from_secs(1)).into()).await;
        fault.lift(1).await?;
        self.booked_once(ALPINE, before, 0).await
    }

    /// What one gateway has said yes to, the other knows at once.
    pub(super) async fn created_then_missing(&self) -> Result<()> {
        try_join_all((0..CROWD).map(async |_| {
            let id = self.pay(ASHA, BIRK, 10).await?;
            let path = format!("/v1/payments/{id}");
            let read = Call { who: "alpha", method: &Method::GET, path: &path, key: None, body: None };
            eventually(PATIENCE, || async {
                match self.api.call(1, read).await {
                    Ok(answer) if answer.status < 500 => {
                        ensure!(answer.status == 200, "{id} was answered {} elsewhere", answer.status);
                        Ok(Ok(()))
                    }
                    other => Ok(Err(format!("{id} had no answer: {other:?}"))),
                }
            })
            .await
        }))
        .await
        .map(drop)
    }

    /// At both gateways at once: one payment, and whoever was told to come back finds it.
    pub(super) async fn one_key_at_once(&self) -> Result<()> {
        let body = payment(ASHA, BIRK, 70);
        let key = format!("crowd-{:032x}", rand::random::<u128>());
        let create = Call {
            who: "alpha",
            method: &Method::POST,
            path: "/v1/payments",
            key: Some(&key),
            body: Some(&body),
        };
        let ids = try_join_all((0..4 * CROWD).map(|nth| {
            eventually(PATIENCE, move || async move {
                match self.api.call(nth, create).await {
                    Ok(answer) if answer.status == 201 => Ok(Ok(text(&answer.json()?, "id").to_owned())),
                    Ok(answer) if answer.status == 409 => Ok(Err("the key is never free".to_owned())),
                    Ok(answer) if answer.status < 500 => {
                        bail!("the key was answered {} {}", answer.status, answer.body)
                    }
                    other => Ok(Err(format!("the key had no answer: {other:?}"))),
                }
            })
        }))
        .await?;
        let made: BTreeSet<&String> = ids.iter().collect();
        ensure!(made.len() == 1, "one key has made {} payments", made.len());
        self.completes(&ids[..1]).await
    }

    /// Whoever is first, and whenever the others come: the same refusal.
    pub(super) async fn same_failure_same_code(&self) -> Result<()> {
        let reference = format!("SAME-{:016x}", rand::random::<u64>());
        let body = with(payment(ASHA, BIRK, 20), &[("end_to_end_id", json!(reference))]);
        let mut answers = try_join_all((0..CROWD).map(|_| self.post("/v1/payments", "alpha", &body))).await?;
        answers.push(self.post("/v1/payments", "alpha", &body).await?);
        let taken: Vec<&Value> =
            answers.iter().filter(|(status, _)| *status == 201).map(|(_, made)| made).collect();
        ensure!(taken.len() == 1, "one reference has made {} payments", taken.len());
        self.until(text(taken[0], "id"), &["completed"]).await?;
        answers.push(self.post("/v1/payments", "alpha", &body).await?);
        let codes: BTreeSet<(u16, &str)> = answers
            .iter()
            .filter(|(status, _)| *status != 201)
            .map(|(status, answer)| (*status, text(answer, "code")))
            .collect();
        ensure!(codes == BTreeSet::from([(409, "end_to_end_id_used")]), "they were refused with {codes:?}");
        Ok(())
    }

    /// Nothing reaches the node for a while, so that broadcasts fail; no nonce is lost by it, and none used twice.
    pub(super) async fn nonce_drift(&self) -> Result<()> {
        let before = self.metric("chain", "chain_errors_total").await?;
        self.world.rpc_line.set(Weather::Refuse);
        self.world.rpc_line.cut();
        let made = self.some(3).await;
        let failed = eventually(PATIENCE, || async {
            let errors = self.metric("chain", "chain_errors_total").await?;
            Ok(if errors > before { Ok(()) } else { Err("nothing failed".to_owned()) })
        })
        .await;
        self.world.rpc_line.set(Weather::Fair);
        failed?;
        let ids = made?;
        self.completes(&ids).await?;
        let more = self.some(3).await?;
        self.completes(&more).await?;
        self.settled_once(&ids).await?;
        self.settled_once(&more).await
    }

    /// The bank holds the money, never says so, and cannot be asked: when the payment's time is over, the hold goes with it.
    pub(super) async fn never_released(&self) -> Result<()> {
        let (before, _) = self.at_bank(ALPINE).await?;
        let mute = json!({ "kind": "unavailable", "after_execution": true });
        let place = self.fault("alpha", rule(mute, ALPINE, &["place_hold"])).await?;
        let away = json!({ "fault": { "kind": "unavailable" }, "targets": ["query"] });
        let query = self.fault("alpha", away).await?;
        let expires = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(30);
        let id = self
            .create(with(payment(ALPINE, HANSE, 330), &[("expires_at", json!(format!("{expires:.3}")))]))
            .await?;
        place.lift(1).await?;
        let ended = self.until(&id, &["failed"]).await;
        query.lift(0).await?;
        ensure!(text(&ended?, "reason") == "expired", "it ended otherwise");
        self.booked_once(ALPINE, before, 0).await
    }

    /// Somebody has written what nobody can take in: it is set aside, seen, and everything else goes on.
    pub(super) async fn poison(&self) -> Result<()> {
        let nobody = write_poison(self.world, "bank.captured", &json!({})).await?;
        let nobody = nobody.as_uuid().to_string();
        let (database, connection) =
            tokio_postgres::connect(&self.world.database_url, tokio_postgres::NoTls).await?;
        let connection = tokio::spawn(connection);
        let ids = self.some(CROWD).await?;
        self.completes(&ids).await?;
        let read =
            "select id::text, cause from dead_letter where key = $1::text::uuid and resolved_at is null";
        let letter = eventually(PATIENCE, || async {
            let letter = database.query_opt(read, &[&nobody]).await?;
            Ok(letter.ok_or_else(|| "it was not set aside".to_owned()))
        })
        .await?;
        let cause: &str = letter.try_get("cause")?;
        ensure!(cause.contains("no such payment"), "it was set aside for {cause}");
        self.drops(letter.try_get("id")?).await?;
        let left = database.query(read, &[&nobody]).await?;
        ensure!(left.is_empty(), "an operator cannot be rid of it");
        drop(database);
        Ok(connection.await??)
    }

    /// An operator drops a letter, who has to say why, and whoever looks later reads it.
    async fn drops(&self, letter: &str) -> Result<()> {
        let silent = self.world.command(&["dlq", "drop", letter]).await?;
        ensure!(!silent.status.success(), "it was dropped without a reason");
        let dropped = self.world.command(&["dlq", "drop", letter, "--reason", "Asha: nobody's"]).await?;
        let said = String::from_utf8_lossy(&dropped.stderr);
        ensure!(dropped.status.success(), "it was not dropped: {said}");
        let listed = self.world.command(&["dlq", "list", "--all"]).await?;
        let listed = String::from_utf8_lossy(&listed.stdout);
        ensure!(listed.contains("dropped (Asha: nobody's)"), "nobody can see why it was dropped: {listed}");
        Ok(())
    }

    /// An endpoint refuses more payments than it may be told of at once, again and again: what is newer is heard all the same.
    pub(super) async fn refused_block_newer(&self) -> Result<()> {
        let sink = Sink::start(&self.world.authority, &["choosy"]).await?;
        self.open_endpoint(&sink, "choosy").await?;
        sink.behave(Manner::Broken);
        let refused = self.some(REFUSED).await?;
        self.completes(&refused).await?;
        eventually(PATIENCE, || async {
            let met = sink.met("choosy");
            let is_met = met >= REFUSED as u64;
            Ok(if is_met { Ok(()) } else { Err(format!("only {met} deliveries were refused")) })
        })
        .await?;
        let refused = refused.iter().map(|id| PaymentId::parse(id)).collect::<Result<Vec<_>, _>>()?;
        let last = refused.iter().max().context("none was refused")?;
        sink.behave(Manner::BrokenUpTo(*last));
        let newer = self.pay(ASHA, BIRK, 30).await?;
        let newer = PaymentId::parse(&newer)?;
        eventually(PATIENCE, || async {
            let wrong = sink.wrong();
            ensure!(wrong.is_empty(), "{wrong:?}");
            let story = sink.story("choosy", newer);
            let is_told = story.contains(&Stage::COMPLETED);
            Ok(if is_told { Ok(()) } else { Err(format!("of the newer payment only {story:?} was heard")) })
        })
        .await?;
        let told = refused.iter().filter(|payment| !sink.story("choosy", **payment).is_empty()).count();
        ensure!(told == 0, "{told} payments were told that were refused");
        Ok(())
    }

    /// What is left of an endpoint that was deleted while it was failing: nothing is sent to it, and others go on.
    pub(super) async fn deleted_listener(&self) -> Result<()> {
        let sink = Sink::start(&self.world.authority, &["kept", "deleted"]).await?;
        self.open_endpoint(&sink, "kept").await?;
        let deleted = self.open_endpoint(&sink, "deleted").await?;
        sink.behave(Manner::Broken);
        let first = self.pay(ASHA, BIRK, 30).await?;
        self.until(&first, &["completed"]).await?;
        let path = format!("/v1/webhook-endpoints/{deleted}");
        let key = format!("deleted-{:032x}", rand::random::<u128>());
        let delete = Call { who: "alpha", method: &Method::DELETE, path: &path, key: Some(&key), body: None };
        let gone = self.api.call(0, delete).await?;
        ensure!(gone.status < 300, "deleting was answered {} {}", gone.status, gone.body);
        sink.behave(Manner::Polite);
        let second = self.pay(ASHA, BIRK, 30).await?;
        eventually(PATIENCE, || async {
            let wrong = sink.wrong();
            ensure!(wrong.is_empty(), "{wrong:?}");
            ensure!(sink.deliveries(Some("deleted")) == 0, "a deleted endpoint was told something");
            for payment in [&first, &second] {
                let story = sink.story("kept", PaymentId::parse(payment)?);
                if !story.contains(&Stage::COMPLETED) {
                    return Ok(Err(format!("of {payment} the other endpoint has heard only {story:?}")));
                }
            }
            Ok(Ok(()))
        })
        .await
    }
}
