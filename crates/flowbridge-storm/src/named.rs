//! Each fault that a payment must survive, by name, through the public API, on the real system; each ends with the proof.
//!
//! Where the storm asks whether anything at all can go wrong, these say what comes of one thing that does. Faults of a bank
//! are told apart by account and run side by side; those of the chain hit everything and run one after the other.

use crate::api::{Api, Call};
use crate::faults::{lose_tail, process_named};
use crate::oracle::{PROOF_PATIENCE, list, text};
use crate::proxy::Weather;
use crate::world::World;
use anyhow::{Context as _, Result, bail, ensure};
use futures_util::future::{BoxFuture, join_all, try_join_all};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::time::sleep;

const ASHA: &str = "DE02120300000000202051";
const BIRK: &str = "FR1420041010050500013M02606";
const ALPINE: &str = "CH9300762011623852957";
const HANSE: &str = "DE89370400440532013000";
const LAGO: &str = "CH5604835012345678009";
const MUSTER: &str = "CH0309000000250090342";
const BEISPIEL: &str = "CH5109000000250092291";
const ROBERT: &str = "CH2909000000250094239";

/// How long a payment may take once what was wrong is mended.
const PATIENCE: Duration = Duration::from_secs(60);
/// `freeze(address)` and `unfreeze(address)` of the token.
const FREEZE: &str = "0x8d1fdf2f";
const UNFREEZE: &str = "0x45c8b1a6";

/// Settings under which expiry comes within seconds instead of minutes.
pub(crate) const SETTINGS: [(&str, &str); 3] = [
    ("PAYMENTS__SETTLE_MARGIN_SECS", "2"),
    ("PAYMENTS__HOLD_MARGIN_SECS", "4"),
    ("PAYMENTS__INITIATE_WINDOW_SECS", "120"),
];

/// The system and a partner's view of it.
pub(crate) struct Desk<'a> {
    pub(crate) world: &'a World,
    pub(crate) api: &'a Api,
    next: AtomicU64,
}

type Scenario = (&'static str, for<'a> fn(&'a Desk<'a>) -> BoxFuture<'a, Result<()>>);

macro_rules! scenarios {
    ($($title:literal => $run:ident),+ $(,)?) => {
        [$(($title, (|desk| Box::pin(desk.$run())) as for<'a> fn(&'a Desk<'a>) -> BoxFuture<'a, Result<()>>)),+]
    };
}

/// Runs them all; true if every one ended as it should.
pub(crate) async fn run(world: &World, api: &Api) -> Result<bool> {
    let desk = Desk { world, api, next: AtomicU64::new(1) };
    let kinds: [Scenario; 4] = scenarios! {
        "issuance: a bank deposit becomes tokens" => issuance,
        "token funding: tokens already owned, under a standing allowance" => token_funded,
        "redemption: tokens become a bank credit" => redemption,
        "refunds: together never above the payment, however many at once" => refunds,
    };
    let banks: [Scenario; 6] = scenarios! {
        "bank declines the hold" => bank_declines,
        "bank answers 30 s late" => bank_late,
        "bank loses replies, then is fine" => bank_loses_replies,
        "bank answers twice" => bank_answers_twice,
        "bank answers 503 for a minute" => bank_unavailable,
        "bank credit unknown after settlement" => credit_unknown,
    };
    let chain: [Scenario; 9] = scenarios! {
        "chain node restarts" => node_restarts,
        "chain node restarts without its last blocks" => node_loses_tail,
        "WebSocket dropped" => socket_dropped,
        "WebSocket silent" => socket_silent,
        "reorganisation of 3 blocks" => reorganisation,
        "transaction stuck, underpriced" => underpriced,
        "frozen creditor inside a batch" => frozen_creditor,
        "cancel racing settle, both ways" => cancel_race,
        "hold expires before settlement" => hold_expires,
    };
    let last: [Scenario; 1] = scenarios! { "capture declined after settlement" => capture_declined };
    let mut is_good = true;
    for scenario in kinds {
        is_good &= report(scenario.0, desk.one(scenario).await);
    }
    for (title, outcome) in join_all(banks.map(async |one| (one.0, desk.alone(one).await))).await {
        is_good &= report(title, outcome);
    }
    is_good &= report("and after all these banks, the proof", desk.timed(desk.proof()).await);
    for scenario in chain.into_iter().chain(last) {
        is_good &= report(scenario.0, desk.one(scenario).await);
    }
    Ok(is_good)
}

#[expect(clippy::print_stdout, reason = "the report goes to the terminal")]
fn report(title: &str, outcome: Result<Duration>) -> bool {
    match outcome {
        Ok(took) => println!("  ok      {:>5.1} s  {title}", took.as_secs_f64()),
        Err(error) => {
            println!("  FAILED           {title}: {error:#}");
            return false;
        }
    }
    true
}

impl Desk<'_> {
    async fn timed(&self, work: impl Future<Output = Result<()>>) -> Result<Duration> {
        let began = Instant::now();
        work.await?;
        Ok(began.elapsed())
    }

    async fn alone(&self, (_, scenario): Scenario) -> Result<Duration> {
        self.timed(scenario(self)).await
    }

    async fn one(&self, (_, scenario): Scenario) -> Result<Duration> {
        self.timed(async {
            scenario(self).await?;
            self.proof().await
        })
        .await
    }

    // ------------------------------------------------------------------------------------------------ what a partner does

    async fn post(&self, path: &str, who: &'static str, body: &Value) -> Result<(u16, Value)> {
        let key = format!("named-{}", self.next.fetch_add(1, Ordering::Relaxed));
        let call = Call { who, method: &Method::POST, path, key: Some(&key), body: Some(body) };
        let began = Instant::now();
        loop {
            match self.api.call(0, call).await {
                Ok(answer) if answer.status < 500 => return Ok((answer.status, answer.json()?)),
                other => ensure!(began.elapsed() < PATIENCE, "POST {path} had no answer: {other:?}"),
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn create(&self, body: Value) -> Result<String> {
        let debtor = body.pointer("/debtor/iban").and_then(Value::as_str).unwrap_or_default();
        let (status, answer) = self.post("/v1/payments", participant(debtor), &body).await?;
        ensure!(status == 201, "the payment was refused: {status} {answer}");
        Ok(text(&answer, "id").to_owned())
    }

    async fn pay(&self, debtor: &str, creditor: &str, amount: i64) -> Result<String> {
        self.create(payment(debtor, creditor, amount)).await
    }

    async fn some(&self, count: usize) -> Result<Vec<String>> {
        try_join_all((0..count).map(|_| self.pay(ASHA, BIRK, 120))).await
    }

    async fn payment(&self, id: &str) -> Result<Value> {
        self.api.read("operator", &format!("/v1/payments/{id}")).await
    }

    /// Waits until the payment is in one of these states.
    async fn until(&self, id: &str, states: &[&str]) -> Result<Value> {
        self.until_within(id, states, PATIENCE).await
    }

    async fn until_within(&self, id: &str, states: &[&str], patience: Duration) -> Result<Value> {
        let began = Instant::now();
        loop {
            let payment = self.payment(id).await?;
            let state = text(&payment, "state");
            if states.contains(&state) {
                return Ok(payment);
            }
            let is_over = matches!(state, "completed" | "failed" | "under_review");
            if is_over
                && !states.iter().any(|wanted| !matches!(*wanted, "completed" | "failed" | "under_review"))
            {
                // A reorganisation can still bring it back; a moment later it has the last word.
                sleep(Duration::from_millis(500)).await;
            }
            ensure!(
                began.elapsed() < patience,
                "{id} is {state} ({}) after {patience:?}, not {states:?}",
                text(&payment, "reason")
            );
            sleep(Duration::from_millis(40)).await;
        }
    }

    async fn completes(&self, ids: &[String]) -> Result<()> {
        for id in ids {
            self.until(id, &["completed"]).await?;
        }
        Ok(())
    }

    /// Ledger, chain and banks agree, and settled once on chain is settled once.
    async fn proof(&self) -> Result<()> {
        let began = Instant::now();
        loop {
            let proof = self.api.read("operator", "/v1/proof").await?;
            if proof.get("holds") == Some(&Value::Bool(true)) {
                return Ok(());
            }
            ensure!(began.elapsed() < PROOF_PATIENCE, "the proof does not hold: {proof}");
            sleep(Duration::from_millis(250)).await;
        }
    }

    /// What the bank has booked for an account, and what is held, minor units.
    async fn at_bank(&self, iban: &str) -> Result<(i64, i64)> {
        let path = format!("{}/accounts/{iban}", participant(iban));
        let account = self.world.simulator(Method::GET, &path, None).await?;
        let number = |name: &str| account.get(name).and_then(Value::as_i64).with_context(|| name.to_owned());
        Ok((number("posted")?, number("held")?))
    }

    async fn wallet(&self, iban: &str) -> Result<i64> {
        let account = self.account(iban).await?;
        let path = format!("/v1/accounts/{}/balances", text(&account, "id"));
        let balances = self.api.read("operator", &path).await?;
        balances.get("posted").and_then(Value::as_i64).context("posted")
    }

    async fn account(&self, iban: &str) -> Result<Value> {
        let accounts = self.api.read("operator", "/v1/accounts?limit=100").await?;
        let found = list(&accounts, "data").iter().find(|account| text(account, "iban") == iban);
        found.cloned().with_context(|| format!("no account {iban}"))
    }

    async fn fault(&self, bank: &str, rule: Value) -> Result<()> {
        self.world.simulator(Method::POST, &format!("{bank}/faults"), Some(&rule)).await.map(drop)
    }

    /// What the bank did for one payment shows in its books once: `amount` less, nothing held.
    async fn booked_once(&self, iban: &str, before: i64, amount: i64) -> Result<()> {
        let (posted, held) = self.at_bank(iban).await?;
        ensure!(
            (before - posted, held) == (amount, 0),
            "the bank booked {} for {iban}, with {held} held",
            before - posted
        );
        Ok(())
    }

    // ------------------------------------------------------------------------------------------------------- kinds

    async fn issuance(&self) -> Result<()> {
        let before = self.wallet(ASHA).await?;
        let id = self.create(with(payment(ASHA, ASHA, 5_000), &[("kind", json!("issuance"))])).await?;
        self.completes(&[id]).await?;
        ensure!(self.wallet(ASHA).await? == before + 5_000, "the tokens are not there");
        Ok(())
    }

    async fn token_funded(&self) -> Result<()> {
        let (asha, birk) = (self.wallet(ASHA).await?, self.wallet(BIRK).await?);
        let (deposit, _) = self.at_bank(ASHA).await?;
        let id = self.create(with(payment(ASHA, BIRK, 1_500), &[("funding", json!("token"))])).await?;
        self.completes(&[id]).await?;
        ensure!(
            (self.wallet(ASHA).await?, self.wallet(BIRK).await?) == (asha - 1_500, birk + 1_500),
            "the tokens did not move"
        );
        self.booked_once(ASHA, deposit, 0).await
    }

    async fn redemption(&self) -> Result<()> {
        let (tokens, (deposit, _)) = (self.wallet(ASHA).await?, self.at_bank(ASHA).await?);
        let id = self.create(with(payment(ASHA, ASHA, 2_000), &[("kind", json!("redemption"))])).await?;
        self.completes(&[id]).await?;
        ensure!(self.wallet(ASHA).await? == tokens - 2_000, "the tokens are still there");
        self.booked_once(ASHA, deposit, -2_000).await
    }

    async fn refunds(&self) -> Result<()> {
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

    // ------------------------------------------------------------------------------------------------------- banks

    async fn bank_declines(&self) -> Result<()> {
        let (before, _) = self.at_bank(ASHA).await?;
        let decline = json!({ "kind": "decline", "reason": "AM04" });
        self.fault("alpha", rule(decline, ASHA, &["place_hold"])).await?;
        let id = self.pay(ASHA, BIRK, 700).await?;
        let ended = self.until(&id, &["failed"]).await?;
        ensure!(text(&ended, "reason").contains("AM04"), "the reason is {}", text(&ended, "reason"));
        self.booked_once(ASHA, before, 0).await
    }

    async fn bank_late(&self) -> Result<()> {
        let (before, _) = self.at_bank(ALPINE).await?;
        let late = json!({ "kind": "latency", "ms": 30_000 });
        self.fault("alpha", rule(late, ALPINE, &["place_hold"])).await?;
        let id = self.pay(ALPINE, HANSE, 700).await?;
        self.until_within(&id, &["completed"], Duration::from_secs(120)).await?;
        self.booked_once(ALPINE, before, 700).await
    }

    async fn bank_loses_replies(&self) -> Result<()> {
        let (before, _) = self.at_bank(MUSTER).await?;
        for step in ["place_hold", "capture"] {
            self.fault("alpha", rule(json!({ "kind": "lost_reply" }), MUSTER, &[step])).await?;
        }
        let id = self.pay(MUSTER, LAGO, 700).await?;
        self.until_within(&id, &["completed"], Duration::from_secs(120)).await?;
        self.booked_once(MUSTER, before, 700).await
    }

    async fn bank_answers_twice(&self) -> Result<()> {
        let (before, _) = self.at_bank(BEISPIEL).await?;
        let mut twice = rule(json!({ "kind": "duplicate_outcome" }), BEISPIEL, &[]);
        if let Some(rule) = twice.as_object_mut() {
            rule.remove("times_max");
        }
        self.fault("alpha", twice).await?;
        let id = self.pay(BEISPIEL, LAGO, 700).await?;
        self.until_within(&id, &["completed"], Duration::from_secs(120)).await?;
        self.booked_once(BEISPIEL, before, 700).await
    }

    async fn bank_unavailable(&self) -> Result<()> {
        let (before, _) = self.at_bank(HANSE).await?;
        self.fault("beta", json!({ "fault": { "kind": "unavailable" }, "duration_ms": 60_000 })).await?;
        let ids = try_join_all((0..3).map(|_| self.pay(HANSE, ALPINE, 100))).await?;
        let began = Instant::now();
        for id in &ids {
            self.until_within(id, &["completed"], Duration::from_secs(150)).await?;
        }
        ensure!(began.elapsed() > Duration::from_secs(50), "the bank was not away");
        self.booked_once(HANSE, before, 300).await
    }

    /// The creditor's bank pays and does not say so: nothing is burned before it has been asked.
    async fn credit_unknown(&self) -> Result<()> {
        // Beta's own customer has filled what we have at beta.
        let filling = self.pay(ROBERT, LAGO, 5_000).await?;
        self.until_within(&filling, &["completed"], Duration::from_secs(150)).await?;
        let (before, _) = self.at_bank(ROBERT).await?;
        self.fault("beta", rule(json!({ "kind": "lost_reply" }), ROBERT, &["credit"])).await?;
        let body = with(payment(BEISPIEL, ROBERT, 900), &[("payout", json!("bank"))]);
        let id = self.create(body).await?;
        self.until_within(&id, &["completed"], Duration::from_secs(150)).await?;
        self.booked_once(ROBERT, before, -900).await
    }

    // ------------------------------------------------------------------------------------------------------- chain

    async fn node_restarts(&self) -> Result<()> {
        let ids = self.some(3).await?;
        let mut anvil = self.world.anvil.lock().await;
        tokio::task::block_in_place(|| anvil.kill());
        let more = self.some(3).await?;
        tokio::task::block_in_place(|| anvil.restart())?;
        drop(anvil);
        self.completes(&ids).await?;
        self.completes(&more).await
    }

    async fn node_loses_tail(&self) -> Result<()> {
        let ids = self.some(3).await?;
        self.completes(&ids).await?;
        let mut anvil = self.world.anvil.lock().await;
        tokio::task::block_in_place(|| anvil.kill());
        lose_tail(self.world, 3)?;
        tokio::task::block_in_place(|| anvil.restart())?;
        drop(anvil);
        let more = self.some(1).await?;
        self.completes(&more).await?;
        self.settled_once(&ids).await
    }

    async fn socket_dropped(&self) -> Result<()> {
        let before = self.some(1).await?;
        self.world.socket_line.cut();
        self.completes(&before).await?;
        let after = self.some(2).await?;
        self.completes(&after).await
    }

    async fn socket_silent(&self) -> Result<()> {
        self.world.socket_line.set(Weather::Stall);
        let ids = self.some(3).await?;
        let done = self.completes(&ids).await;
        self.world.socket_line.set(Weather::Fair);
        done
    }

    async fn reorganisation(&self) -> Result<()> {
        let settled = self.some(3).await?;
        self.completes(&settled).await?;
        let under_way = self.some(3).await?;
        // Whatever state these are in, and those completed, the blocks they are in are gone.
        self.world.rpc("anvil_reorg", json!([3, []])).await?;
        self.completes(&under_way).await?;
        self.settled_once(&settled).await?;
        self.settled_once(&under_way).await
    }

    async fn underpriced(&self) -> Result<()> {
        let before = self.bumps().await?;
        let anvil = self.world.anvil.lock().await;
        anvil.freeze();
        let ids = self.some(1).await?;
        let began = Instant::now();
        loop {
            let pool = self.world.rpc("txpool_status", json!([])).await?;
            if text(&pool, "pending") != "0x0" {
                break;
            }
            ensure!(began.elapsed() < PATIENCE, "nothing was sent");
            sleep(Duration::from_millis(20)).await;
        }
        // What waits offers twice the old price at most.
        self.world.rpc("anvil_setNextBlockBaseFeePerGas", json!(["0x174876e800"])).await?;
        anvil.thaw();
        drop(anvil);
        self.completes(&ids).await?;
        ensure!(self.bumps().await? > before, "it was not offered more");
        Ok(())
    }

    async fn frozen_creditor(&self) -> Result<()> {
        let wallet = text(&self.account(LAGO).await?, "wallet").to_owned();
        self.on_token(FREEZE, &wallet).await?;
        let (frozen, first, second) = tokio::try_join!(
            self.pay(ALPINE, LAGO, 400),
            self.pay(ALPINE, HANSE, 400),
            self.pay(MUSTER, HANSE, 400)
        )?;
        self.completes(&[first, second]).await?;
        let stuck = self.until(&frozen, &["under_review"]).await?;
        ensure!(text(&stuck, "reason") == "creditor_blocked", "the reason is {}", text(&stuck, "reason"));
        self.proof().await?;
        self.on_token(UNFREEZE, &wallet).await
    }

    /// Twenty-four cancellations from at once to long after: the chain decides each, and both ways happen.
    async fn cancel_race(&self) -> Result<()> {
        let (before, _) = self.at_bank(ASHA).await?;
        let ended = try_join_all((0..24_u64).map(async |nth| {
            let id = self.pay(ASHA, BIRK, 10).await?;
            sleep(Duration::from_millis(nth * 90)).await;
            let path = format!("/v1/payments/{id}/cancel");
            let (status, answer) = self.post(&path, "alpha", &json!({})).await?;
            ensure!(matches!(status, 202 | 409 | 422), "cancelling was answered {status} {answer}");
            let ended = self.until(&id, &["completed", "failed"]).await?;
            Ok(text(&ended, "state").to_owned())
        }))
        .await?;
        let ways: BTreeSet<&str> = ended.iter().map(String::as_str).collect();
        ensure!(ways.len() == 2, "all {} ended the same way: {ways:?}", ended.len());
        let completed = i64::try_from(ended.iter().filter(|state| *state == "completed").count())?;
        self.booked_once(ASHA, before, completed * 10).await
    }

    /// The chain stands still until both the payment's time and the bank's hold are over.
    async fn hold_expires(&self) -> Result<()> {
        let (before, _) = self.at_bank(ASHA).await?;
        let expires = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(10);
        let id = self
            .create(with(payment(ASHA, BIRK, 800), &[("expires_at", json!(format!("{expires:.3}")))]))
            .await?;
        self.until(&id, &["held"]).await?;
        let anvil = self.world.anvil.lock().await;
        anvil.freeze();
        while jiff::Timestamp::now() < expires + jiff::SignedDuration::from_secs(6) {
            sleep(Duration::from_millis(100)).await;
        }
        anvil.thaw();
        drop(anvil);
        let ended = self.until(&id, &["failed", "completed"]).await?;
        let paid = if text(&ended, "state") == "completed" { 800 } else { 0 };
        self.booked_once(ASHA, before, paid).await
    }

    /// A loss for somebody, and a person's business.
    async fn capture_declined(&self) -> Result<()> {
        let decline = json!({ "kind": "decline", "reason": "AC06" });
        self.fault("alpha", rule(decline, MUSTER, &["capture"])).await?;
        let id = self.pay(MUSTER, LAGO, 600).await?;
        let stuck = self.until(&id, &["under_review"]).await?;
        ensure!(
            text(&stuck, "reason").starts_with("capture_failed"),
            "the reason is {}",
            text(&stuck, "reason")
        );
        Ok(())
    }

    // ------------------------------------------------------------------------------------------------------- outside

    /// Completed, and the chain has one settlement of it.
    async fn settled_once(&self, ids: &[String]) -> Result<()> {
        for id in ids {
            self.until(id, &["completed"]).await?;
            let began = Instant::now();
            loop {
                let count = crate::oracle::settlements_of(self.world, id).await?;
                if count == 1 {
                    break;
                }
                ensure!(began.elapsed() < PATIENCE, "{id} is settled {count} times on chain");
                sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }

    /// How often the chain role has offered more for a transaction.
    async fn bumps(&self) -> Result<u64> {
        let process = process_named(self.world, "chain")?.lock().await;
        let listen = process.recipe.environment.iter().find(|(name, _)| name.ends_with("METRICS_LISTEN"));
        let url =
            format!("http://{}/metrics", listen.map(|(_, address)| address.as_str()).context("metrics")?);
        drop(process);
        let metrics = self.world.http.get(url).send().await?.text().await?;
        let values = metrics.lines().filter(|line| line.starts_with("chain_fee_bumps_total"));
        Ok(values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum())
    }

    /// A call of the guardian's on the token in francs.
    async fn on_token(&self, selector: &str, wallet: &str) -> Result<()> {
        let contracts: Value = serde_json::from_str(&std::fs::read_to_string(
            self.world.home.join(".flowbridge/contracts.json"),
        )?)?;
        let set = contracts.as_array().into_iter().flatten().find(|set| text(set, "currency") == "CHF");
        let set = set.context("no contracts for francs")?;
        let guardian = set.pointer("/roles/guardian").and_then(Value::as_str).context("no guardian")?;
        let token = set.pointer("/token/address").and_then(Value::as_str).context("no token")?;
        let data = format!("{selector}{:0>64}", wallet.trim_start_matches("0x"));
        // The guardian's is one of the accounts that the node signs for.
        let call = json!([{ "from": guardian, "to": token, "data": data, "gas": "0x30d40" }]);
        let hash = self.world.rpc("eth_sendTransaction", call).await?;
        let began = Instant::now();
        loop {
            let receipt = self.world.rpc("eth_getTransactionReceipt", json!([hash])).await?;
            match text(&receipt, "status") {
                "0x1" => return Ok(()),
                "" => ensure!(began.elapsed() < PATIENCE, "the guardian's call is in no block"),
                status => bail!("the guardian's call was reverted: {status}"),
            }
            sleep(Duration::from_millis(40)).await;
        }
    }
}

fn participant(iban: &str) -> &'static str {
    crate::load::PARTIES.iter().find(|party| party.iban == iban).map_or("alpha", |party| party.participant)
}

fn payment(debtor: &str, creditor: &str, amount: i64) -> Value {
    let currency =
        crate::load::PARTIES.iter().find(|party| party.iban == debtor).map_or("EUR", |party| party.currency);
    json!({
        "debtor": { "iban": debtor },
        "creditor": { "iban": creditor },
        "instructed_amount": { "amount": amount, "currency": currency },
    })
}

fn with(mut body: Value, fields: &[(&str, Value)]) -> Value {
    for (name, value) in fields {
        body[*name] = value.clone();
    }
    body
}

/// A rule of the simulator for one account, once.
fn rule(fault: Value, account: &str, targets: &[&str]) -> Value {
    json!({ "fault": fault, "account": account, "targets": targets, "times_max": 1 })
}
