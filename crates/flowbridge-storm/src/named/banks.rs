//! What a bank does wrong, each on accounts that no other of these uses.

use super::{
    ALPINE, ASHA, BEISPIEL, BIRK, Desk, HANSE, LAGO, MUSTER, ROBERT, ROBERT_QR, payment, rule, with,
};
use crate::oracle::{list, text};
use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::time::sleep_until;

/// How late the late bank is.
const LATE: Duration = Duration::from_secs(30);
/// How long a payment may take beside a bank that is away for a minute.
const LONG_PATIENCE: Duration = Duration::from_secs(150);

impl Desk<'_> {
    pub(super) async fn bank_declines(&self) -> Result<()> {
        let (before, _) = self.at_bank(ASHA).await?;
        let decline = json!({ "kind": "decline", "reason": "AM04" });
        let fault = self.fault("alpha", rule(decline, ASHA, &["place_hold"])).await?;
        let id = self.pay(ASHA, BIRK, 700).await?;
        let ended = self.until(&id, &["failed"]).await?;
        fault.lift(1).await?;
        ensure!(text(&ended, "reason").contains("AM04"), "the reason is {}", text(&ended, "reason"));
        self.booked_once(ASHA, before, 0).await
    }

    /// A hold that may end before we capture is as good as none: nothing is settled on it, and it is released.
    pub(super) async fn hold_too_short(&self) -> Result<()> {
        let (before, _) = self.at_bank(BIRK).await?;
        let fault =
            self.fault("beta", rule(json!({ "kind": "short_hold", "ms": 20_000 }), BIRK, &[])).await?;
        let id = self.pay(BIRK, ASHA, 700).await?;
        let ended = self.until_within(&id, &["failed"], LONG_PATIENCE).await?;
        fault.lift(1).await?;
        ensure!(text(&ended, "reason") == "hold_too_short", "the reason is {}", text(&ended, "reason"));
        ensure!(crate::oracle::settlements_of(self.world, &id).await? == 0, "it was settled");
        self.booked_once(BIRK, before, 0).await
    }

    /// We give up, ask, and send again, long before the first request is carried out: then it must hold nothing more.
    pub(super) async fn bank_late(&self) -> Result<()> {
        let (before, _) = self.at_bank(ALPINE).await?;
        let late = json!({ "kind": "latency", "ms": LATE.as_millis() });
        let fault = self.fault("alpha", rule(late, ALPINE, &["place_hold"])).await?;
        let id = self.pay(ALPINE, HANSE, 700).await?;
        fault.lift(1).await?;
        let carried_out = Instant::now() + LATE;
        self.until_within(&id, &["completed"], LONG_PATIENCE).await?;
        sleep_until((carried_out + Duration::from_secs(1)).into()).await;
        self.booked_once(ALPINE, before, 700).await
    }

    pub(super) async fn bank_loses_replies(&self) -> Result<()> {
        let (before, _) = self.at_bank(MUSTER).await?;
        let lost = |step| self.fault("alpha", rule(json!({ "kind": "lost_reply" }), MUSTER, &[step]));
        let (hold, capture) = (lost("place_hold").await?, lost("capture").await?);
        let id = self.pay(MUSTER, LAGO, 700).await?;
        hold.lift(1).await?;
        capture.lift(1).await?;
        self.until_within(&id, &["completed"], LONG_PATIENCE).await?;
        self.booked_once(MUSTER, before, 700).await
    }

    pub(super) async fn bank_answers_twice(&self) -> Result<()> {
        let (before, _) = self.at_bank(BEISPIEL).await?;
        let twice = json!({ "kind": "duplicate_outcome" });
        let fault = self.fault("alpha", rule(twice, BEISPIEL, &["place_hold", "capture"])).await?;
        let id = self.pay(BEISPIEL, LAGO, 700).await?;
        self.until_within(&id, &["completed"], LONG_PATIENCE).await?;
        fault.lift(2).await?;
        self.booked_once(BEISPIEL, before, 700).await
    }

    pub(super) async fn bank_unavailable(&self) -> Result<()> {
        let (before, _) = self.at_bank(HANSE).await?;
        let away = json!({ "fault": { "kind": "unavailable" }, "duration_ms": 60_000 });
        let fault = self.fault("beta", away).await?;
        let began = Instant::now();
        let ids = try_join_all((0..3).map(|_| self.pay(HANSE, ALPINE, 100))).await?;
        fault.struck(1).await?;
        for id in &ids {
            self.until_within(id, &["completed"], LONG_PATIENCE).await?;
        }
        ensure!(began.elapsed() > Duration::from_secs(60), "the bank was not away");
        self.booked_once(HANSE, before, 300).await
    }

    /// The creditor's bank pays, does not say so, and cannot be asked: until it can, nothing is burned.
    pub(super) async fn credit_unknown(&self) -> Result<()> {
        self.fill_beta(5_000).await?;
        let (before, _) = self.at_bank(ROBERT).await?;
        let lost = self.fault("beta", rule(json!({ "kind": "lost_reply" }), ROBERT, &["credit"])).await?;
        let silent = json!({ "fault": { "kind": "unavailable" }, "targets": ["query"] });
        let silent = self.fault("beta", silent).await?;
        let body = with(payment(LAGO, ROBERT, 900), &[("payout", json!("bank"))]);
        let id = self.create(body).await?;
        lost.lift(1).await?;
        silent.struck(2).await?;
        let timeline = self.timeline(&id).await?;
        ensure!(self.at_bank(ROBERT).await?.0 == before + 900, "the bank has not paid");
        ensure!(
            text(&self.payment(&id).await?, "state") == "settled"
                && !list(&timeline, "effects").iter().any(|effect| text(effect, "effect") == "burn"),
            "we went on without knowing: {timeline}"
        );
        silent.lift(2).await?;
        self.until_within(&id, &["completed"], LONG_PATIENCE).await?;
        ensure!(self.is_booked(&id, "burned").await?, "the tokens that were paid out are still there");
        self.booked_once(ROBERT, before, -900).await
    }

    /// The creditor's bank does not take the money: the tokens are the creditor's.
    pub(super) async fn credit_declined(&self) -> Result<()> {
        let ((before, _), tokens) = (self.at_bank(ROBERT_QR).await?, self.wallet(ROBERT_QR).await?);
        let decline = json!({ "kind": "decline", "reason": "AC04" });
        let fault = self.fault("beta", rule(decline, ROBERT_QR, &["credit"])).await?;
        let body = with(payment(LAGO, ROBERT_QR, 350), &[("payout", json!("bank"))]);
        let id = self.create(body).await?;
        self.until_within(&id, &["completed"], LONG_PATIENCE).await?;
        fault.lift(1).await?;
        ensure!(self.wallet(ROBERT_QR).await? == tokens + 350, "the creditor has no tokens");
        self.booked_once(ROBERT_QR, before, 0).await
    }

    /// What we have at a bank is what its own customers have paid.
    async fn fill_beta(&self, amount: i64) -> Result<()> {
        let filling = self.pay(ROBERT, LAGO, amount).await?;
        self.until_within(&filling, &["completed"], LONG_PATIENCE).await.map(drop)
    }

    /// A loss for somebody, a person's business, and an end to what this institution sends.
    pub(super) async fn capture_declined(&self) -> Result<()> {
        let decline = json!({ "kind": "decline", "reason": "AC06" });
        let fault = self.fault("alpha", rule(decline, MUSTER, &["capture"])).await?;
        let id = self.pay(MUSTER, LAGO, 600).await?;
        let stuck = self.until(&id, &["under_review"]).await?;
        fault.lift(1).await?;
        let reason = text(&stuck, "reason");
        ensure!(reason.starts_with("capture_failed"), "the reason is {reason}");
        ensure!(self.is_booked(&id, "loss").await?, "the loss is in no account");
        let (status, answer) = self.post("/v1/payments", "alpha", &payment(ASHA, BIRK, 100)).await?;
        ensure!(
            (status, text(&answer, "code")) == (422, "participant_suspended"),
            "an institution whose bank does not pay goes on paying: {status} {answer}"
        );
        self.decide(&id, "close_completed").await?;
        self.until(&id, &["completed"]).await.map(drop)
    }
}
