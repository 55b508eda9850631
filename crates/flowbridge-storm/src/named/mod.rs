//! Each fault that a payment must survive, by name, through the public API, on the real system; each ends with the proof.
//!
//! Where the storm asks whether anything at all can go wrong, these say what comes of one thing that does, and each makes
//! sure that it did: a rule at a bank has struck, a reorganisation has taken payments back, both transactions of a race are
//! in the pool. Faults of a bank are told apart by account and run side by side; those of the chain hit everything and run
//! one after the other.

mod banks;
mod chain;
mod commits;
mod kinds;
mod known;
mod webhooks;

use crate::api::{Api, Call};
use crate::faults::process_named;
use crate::oracle::{PROOF_PATIENCE, list, text};
use crate::sink::Sink;
use crate::world::World;
use anyhow::{Context as _, Result, ensure};
use futures_util::future::{BoxFuture, join_all, try_join_all};
use reqwest::Method;
use serde_json::{Value, json};
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
const ROBERT_QR: &str = "CH7730000001250094239";

/// How long a payment may take once what was wrong is mended.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long between two looks at something that will change.
const LOOK_AGAIN: Duration = Duration::from_millis(40);

/// Settings under which expiry comes within seconds instead of minutes.
pub(crate) const SETTINGS: [(&str, &str); 5] = [
    ("PAYMENTS__SETTLE_MARGIN_SECS", "2"),
    ("PAYMENTS__HOLD_MARGIN_SECS", "4"),
    ("PAYMENTS__INITIATE_WINDOW_SECS", "120"),
    ("CHAIN__LEASE_MS", "2000"),
    // Who is slow twice is left alone for five minutes, and here nobody means to be slow.
    ("WEBHOOKS__TIMEOUT_MS", "15000"),
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
        vec![$(($title, (|desk| Box::pin(desk.$run())) as for<'a> fn(&'a Desk<'a>) -> BoxFuture<'a, Result<()>>)),+] as Vec<Scenario>
    };
}

/// Runs those whose name contains `only`; true if every one ended as it should.
pub(crate) async fn run(world: &World, api: &Api, only: &str) -> Result<bool> {
    let desk = Desk { world, api, next: AtomicU64::new(1) };
    let kinds = scenarios! {
        "issuance: a bank deposit becomes tokens" => issuance,
        "token funding: tokens already owned, under a standing allowance" => token_funded,
        "token funding: by the debtor's signature (ERC-3009), good once" => signed_funding,
        "redemption: tokens become a bank credit" => redemption,
    };
    let known = scenarios! {
        "known of others: refunds at once that together exceed the payment" => refunds_together,
        "known of others: holds that ignore other holds" => holds_together,
        "known of others: a rejected hold committed later" => rejected_then_committed,
        "known of others: 201, then 404" => created_then_missing,
        "known of others: one key, many payments" => one_key_at_once,
        "known of others: the same failure under different codes" => same_failure_same_code,
        "known of others: nonces drift after a failed broadcast" => nonce_drift,
        "known of others: a time-out that never releases" => never_released,
        "known of others: a poison event that stops a stream" => poison,
        "known of others: refused webhooks that block newer ones" => refused_block_newer,
        "known of others: a deleted listener told for ever" => deleted_listener,
    };
    let banks = scenarios! {
        "bank declines the hold" => bank_declines,
        "bank answers 30 s late" => bank_late,
        "bank holds for less time than settlement takes" => hold_too_short,
        "bank loses replies, then is fine" => bank_loses_replies,
        "bank answers twice" => bank_answers_twice,
        "bank answers 503 for a minute" => bank_unavailable,
        "bank credit unknown after settlement" => credit_unknown,
        "bank declines the credit after settlement" => credit_declined,
    };
    let chain = scenarios! {
        "chain node restarts" => node_restarts,
        "chain node restarts without its last blocks" => node_loses_tail,
        "WebSocket dropped" => socket_dropped,
        "WebSocket silent" => socket_silent,
        "reorganisation below settled payments" => reorganisation,
        "transaction stuck, underpriced" => underpriced,
        "somebody else uses a lane's key" => key_used_elsewhere,
        "frozen creditor inside a batch" => frozen_creditor,
        "cancel racing settle, both ways" => cancel_race,
        "hold expires before settlement" => hold_expires,
    };
    let last = scenarios! {
        "webhook receiver shows a certificate that nobody trusts" => receiver_untrusted,
        "a role crashes before and after each of its commits" => crash_at_each_commit,
        "capture declined after settlement" => capture_declined,
    };
    let wanted = |scenario: &Scenario| scenario.0.contains(only);
    let mut is_good = true;
    for scenario in kinds.into_iter().chain(known).filter(wanted) {
        is_good &= report(scenario.0, desk.one(scenario).await);
    }
    let banks = banks.into_iter().filter(wanted).map(async |one| (one.0, desk.alone(one).await));
    for (title, outcome) in join_all(banks).await {
        is_good &= report(title, outcome);
    }
    is_good &= report("and after all these banks, the proof", desk.timed(desk.proof()).await);
    for scenario in chain.into_iter().chain(last).filter(wanted) {
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

    /// Opens an endpoint of the receiver's for webhooks to alpha, and says its id.
    async fn open_endpoint(&self, sink: &Sink, name: &str) -> Result<String> {
        let body = json!({ "url": sink.url(name)? });
        let (status, made) = self.post("/v1/webhook-endpoints", "alpha", &body).await?;
        ensure!(status == 201, "the endpoint was refused: {status} {made}");
        sink.expect(name, text(&made, "secret"));
        Ok(text(&made, "id").to_owned())
    }

    async fn payment(&self, id: &str) -> Result<Value> {
        self.api.read("operator", &format!("/v1/payments/{id}")).await
    }

    /// Waits until the payment is in one of these states.
    async fn until(&self, id: &str, states: &[&str]) -> Result<Value> {
        self.until_within(id, states, PATIENCE).await
    }

    async fn until_within(&self, id: &str, states: &[&str], patience: Duration) -> Result<Value> {
        eventually(patience, || async {
            let payment = self.payment(id).await?;
            let (state, reason) = (text(&payment, "state"), text(&payment, "reason"));
            let missing = format!("{id} is {state} ({reason}), not {states:?}");
            Ok(if states.contains(&state) { Ok(payment) } else { Err(missing) })
        })
        .await
    }

    async fn timeline(&self, id: &str) -> Result<Value> {
        self.api.read("operator", &format!("/v1/payments/{id}/timeline")).await
    }

    /// Two operators decide on a payment under review.
    async fn decide(&self, id: &str, decision: &str) -> Result<()> {
        let path = format!("/v1/payments/{id}/reviews");
        let proposal = json!({ "decision": decision, "note": "as the scenario has it" });
        let (status, made) = self.post(&path, "operator", &proposal).await?;
        ensure!(status == 201, "{decision} was not taken: {status} {made}");
        let path = format!("{path}/{}/confirm", text(&made, "id"));
        let (status, answer) = self.post(&path, "operator-2", &Value::Null).await?;
        ensure!(status == 200, "{decision} was not confirmed: {status} {answer}");
        Ok(())
    }

    /// Whether the timeline of a payment has this event.
    async fn has_seen(&self, id: &str, event: &str) -> Result<bool> {
        let timeline = self.timeline(id).await?;
        Ok(list(&timeline, "events").iter().any(|seen| text(seen, "event") == event))
    }

    /// Whether the ledger has an entry of this moment for a payment.
    async fn is_booked(&self, id: &str, moment: &str) -> Result<bool> {
        let timeline = self.timeline(id).await?;
        Ok(list(&timeline, "journal_entries").iter().any(|entry| text(entry, "moment") == moment))
    }

    async fn completes(&self, ids: &[String]) -> Result<()> {
        for id in ids {
            self.until(id, &["completed"]).await?;
        }
        Ok(())
    }

    /// Ledger, chain and banks agree, and settled once on chain is settled once.
    async fn proof(&self) -> Result<()> {
        eventually(PROOF_PATIENCE, || async {
            let proof = self.api.read("operator", "/v1/proof").await?;
            let holds = proof.get("holds") == Some(&Value::Bool(true));
            Ok(if holds { Ok(()) } else { Err(format!("the proof does not hold: {proof}")) })
        })
        .await
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

    /// Makes a bank do wrong, until [`Rule::lift`].
    async fn fault(&self, bank: &'static str, rule: Value) -> Result<Rule<'_>> {
        let made = self.world.simulator(Method::POST, &format!("{bank}/faults"), Some(&rule)).await?;
        let id = made.get("id").and_then(Value::as_u64).context("the rule has no number")?;
        Ok(Rule { world: self.world, bank, id })
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

    // ------------------------------------------------------------------------------------------------------- outside

    /// Completed, and the chain has one settlement of it.
    async fn settled_once(&self, ids: &[String]) -> Result<()> {
        for id in ids {
            self.until(id, &["completed"]).await?;
            eventually(PATIENCE, || async {
                let count = crate::oracle::settlements_of(self.world, id).await?;
                Ok(if count == 1 { Ok(()) } else { Err(format!("{id} is settled {count} times on chain")) })
            })
            .await?;
        }
        Ok(())
    }

    /// What a counter of a process says, over all its labels.
    async fn metric(&self, process: &str, name: &str) -> Result<u64> {
        let url = process_named(self.world, process)?.lock().await.recipe.metrics_url()?;
        let metrics = self.world.http.get(url).send().await?.text().await?;
        let values = metrics.lines().filter(|line| line.starts_with(name));
        Ok(values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum())
    }

    /// What the record of the deployment says of a currency.
    fn contracts(&self, currency: &str) -> Result<Value> {
        let file = self.world.home.join(".flowbridge/contracts.json");
        let contracts: Value = serde_json::from_str(&std::fs::read_to_string(file)?)?;
        let found = contracts.as_array().into_iter().flatten().find(|set| text(set, "currency") == currency);
        found.cloned().with_context(|| format!("no contracts for {currency}"))
    }
}

/// A rule at a bank, struck or not.
struct Rule<'a> {
    world: &'a World,
    bank: &'static str,
    id: u64,
}

impl Rule<'_> {
    /// Waits until it has struck so often.
    async fn struck(&self, times: u64) -> Result<()> {
        eventually(PATIENCE, || async {
            let rules = self.world.simulator(Method::GET, &format!("{}/faults", self.bank), None).await?;
            let number = |rule: &Value, name: &str| rule.get(name).and_then(Value::as_u64);
            let ours = list(&rules, "faults").iter().find(|rule| number(rule, "id") == Some(self.id));
            let struck = ours.and_then(|rule| number(rule, "times")).context("the rule is gone")?;
            let missing = format!("the fault struck {struck} times, not {times}");
            Ok(if struck >= times { Ok(()) } else { Err(missing) })
        })
        .await
    }

    /// Waits until it has struck so often, and takes it back.
    async fn lift(self, times: u64) -> Result<()> {
        self.struck(times).await?;
        let path = format!("{}/faults/{}", self.bank, self.id);
        self.world.simulator(Method::DELETE, &path, None).await.map(drop)
    }
}

/// Looks until there is something to see; after `patience` the error is what was missing last.
async fn eventually<T, F>(patience: Duration, look: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<Result<T, String>>>,
{
    let began = Instant::now();
    loop {
        match look().await? {
            Ok(found) => return Ok(found),
            Err(missing) => ensure!(began.elapsed() < patience, "after {patience:?}: {missing}"),
        }
        sleep(LOOK_AGAIN).await;
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

/// A rule of the simulator for one account.
fn rule(fault: Value, account: &str, targets: &[&str]) -> Value {
    json!({ "fault": fault, "account": account, "targets": targets })
}
