//! Whether every promise was kept, judged from outside: by the client's own list of what was acknowledged, the banks' own
//! books, the chain, and what the receiver of webhooks was told. The system's own answers are only ever compared with
//! these.
//!
//! The invariants have the names I1 to I14. I11 (the audit log has no gap) and I12 (reconciliation reports exactly what
//! differs) are judged where audit log and reconciliation are.

use crate::api::Api;
use crate::load::{Book, Fate, PARTIES, Party};
use crate::sink::{Sink, Stories};
use crate::world::World;
use anyhow::{Context as _, Result, bail};
use flowbridge_domain::id::PaymentId;
use serde_json::{Value, json};
use sha3::{Digest as _, Keccak256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Pages of lists, as large as the API gives them.
const PAGE: usize = 100;
/// Blocks this far below the head are not reorganised by any fault of ours.
const SAFE_DEPTH: u64 = 64;
/// Token units for one minor unit: six decimals against two.
const UNITS: u128 = 10_000;
/// How long the system may take, once all is well, to prove itself equal.
pub(crate) const PROOF_PATIENCE: Duration = Duration::from_secs(60);

/// What there was before the storm.
#[derive(Debug)]
pub(crate) struct Baseline {
    ids: BTreeMap<Party, String>,
    wallets: BTreeMap<Party, (String, String)>,
    tokens: BTreeMap<Party, u128>,
    deposits: BTreeMap<Party, i128>,
}

impl Baseline {
    pub(crate) async fn take(world: &World, api: &Api) -> Result<Self> {
        let accounts = api.read("operator", &format!("/v1/accounts?limit={PAGE}")).await?;
        let contracts: Value =
            serde_json::from_str(&std::fs::read_to_string(world.home.join(".flowbridge/contracts.json"))?)?;
        let mut baseline = Self {
            ids: BTreeMap::new(),
            wallets: BTreeMap::new(),
            tokens: BTreeMap::new(),
            deposits: BTreeMap::new(),
        };
        for party in PARTIES {
            let account = list(&accounts, "data")
                .iter()
                .find(|account| text(account, "iban") == party.iban)
                .with_context(|| format!("no account {}", party.iban))?;
            let token = contracts
                .as_array()
                .into_iter()
                .flatten()
                .find(|set| text(set, "currency") == party.currency)
                .and_then(|set| set.pointer("/token/address")?.as_str())
                .context("no token")?;
            baseline.ids.insert(party, text(account, "id").to_owned());
            baseline.wallets.insert(party, (token.to_owned(), text(account, "wallet").to_owned()));
            baseline.tokens.insert(party, baseline.tokens_of(world, party).await?);
            baseline.deposits.insert(party, deposit_of(world, party).await?.0);
        }
        Ok(baseline)
    }

    /// Whether the payment's side (`/debtor` or `/creditor`) is this account.
    fn is(&self, payment: &Value, side: &str, party: &Party) -> bool {
        let id = payment.pointer(side).map(|side| text(side, "account_id"));
        id.is_some() && id == self.ids.get(party).map(String::as_str)
    }

    async fn tokens_of(&self, world: &World, party: Party) -> Result<u128> {
        let (token, wallet) = self.wallets.get(&party).context("a party")?;
        // balanceOf(address)
        let data = format!("0x70a08231{:0>64}", wallet.trim_start_matches("0x"));
        let answer = world.rpc("eth_call", json!([{ "to": token, "data": data }, "latest"])).await?;
        hex_number(answer.as_str().unwrap_or_default())
    }
}

/// Posted and held at the bank, minor units.
async fn deposit_of(world: &World, party: Party) -> Result<(i128, i128)> {
    let path = format!("{}/accounts/{}", party.participant, party.iban);
    let account = world.simulator(reqwest::Method::GET, &path, None).await?;
    let number = |name: &str| account.get(name).and_then(Value::as_i64).map(i128::from);
    Ok((number("posted").context("posted")?, number("held").context("held")?))
}

/// Reads the settlements off the chain while it is there: the node forgets old logs.
#[derive(Debug)]
pub(crate) struct Witness {
    managers: Vec<String>,
    topic: String,
    seen: Mutex<(u64, BTreeMap<String, u32>)>,
}

impl Witness {
    pub(crate) async fn new(world: &World) -> Result<Self> {
        let contracts: Value =
            serde_json::from_str(&std::fs::read_to_string(world.home.join(".flowbridge/contracts.json"))?)?;
        let managers = contracts
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|set| Some(set.pointer("/manager/address")?.as_str()?.to_owned()))
            .collect();
        let head = hex_number(world.rpc("eth_blockNumber", json!([])).await?.as_str().unwrap_or_default())?;
        Ok(Self {
            managers,
            topic: settled_topic()?,
            seen: Mutex::new((u64::try_from(head)?, BTreeMap::new())),
        })
    }

    /// Reads on, up to where nothing changes any more, or to the end.
    pub(crate) async fn read_on(&self, world: &World, to_the_end: bool) -> Result<()> {
        let head = hex_number(world.rpc("eth_blockNumber", json!([])).await?.as_str().unwrap_or_default())?;
        let head = u64::try_from(head)?;
        let until = if to_the_end { head } else { head.saturating_sub(SAFE_DEPTH) };
        let from = self.seen.lock().map_or(0, |seen| seen.0) + 1;
        if from > until {
            return Ok(());
        }
        let filter = json!([{
            "fromBlock": format!("{from:#x}"), "toBlock": format!("{until:#x}"),
            "address": self.managers, "topics": [self.topic],
        }]);
        let logs = world.rpc("eth_getLogs", filter).await?;
        let Ok(mut seen) = self.seen.lock() else { bail!("a reader of the chain has failed") };
        for log in logs.as_array().into_iter().flatten() {
            let id =
                log.pointer("/topics/1").and_then(Value::as_str).context("a settlement without a payment")?;
            let id = id.get(2..34).context("a payment id of 16 bytes")?.to_owned();
            *seen.1.entry(id).or_default() += 1;
        }
        seen.0 = until;
        Ok(())
    }
}

/// How often one payment is settled on the chain as it is now.
pub(crate) async fn settlements_of(world: &World, id: &str) -> Result<usize> {
    let id = PaymentId::parse(id)?.as_uuid().simple().to_string();
    let filter = json!([{ "fromBlock": "0x0", "toBlock": "latest", "topics": [settled_topic()?, format!("0x{id:0<64}")] }]);
    Ok(world.rpc("eth_getLogs", filter).await?.as_array().map_or(0, Vec::len))
}

/// The event's topic, from the ABI that is committed.
fn settled_topic() -> Result<String> {
    let artifact =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contracts/artifacts/SettlementManager.json");
    let artifact: Value = serde_json::from_str(&std::fs::read_to_string(artifact)?)?;
    let event = list(&artifact, "abi")
        .iter()
        .find(|item| text(item, "type") == "event" && text(item, "name") == "PaymentSettled")
        .context("the ABI has no PaymentSettled")?;
    let types: Vec<&str> = list(event, "inputs").iter().map(|input| text(input, "type")).collect();
    let hash = Keccak256::digest(format!("PaymentSettled({})", types.join(",")));
    Ok(hash.iter().fold("0x".to_owned(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    }))
}

/// What was found, in numbers and in violations.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) payments: usize,
    pub(crate) completed: usize,
    pub(crate) failed: usize,
    pub(crate) events: usize,
    pub(crate) violations: Vec<String>,
}

/// Waits until every payment has ended, at most `patience`.
pub(crate) async fn wait_all_ended(api: &Api, patience: Duration) -> Result<(Vec<Value>, Duration)> {
    let began = Instant::now();
    loop {
        let payments = all_payments(api, "operator").await?;
        if payments.iter().all(|payment| matches!(text(payment, "state"), "completed" | "failed")) {
            return Ok((payments, began.elapsed()));
        }
        if began.elapsed() > patience {
            return Ok((payments, began.elapsed()));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// What the system is compared with: all that was seen from outside.
#[derive(Debug)]
pub(crate) struct Evidence<'a> {
    pub(crate) baseline: &'a Baseline,
    pub(crate) witness: &'a Witness,
    pub(crate) sink: &'a Sink,
    pub(crate) book: &'a Book,
}

/// Judges everything, on a system that has come to rest.
pub(crate) async fn judge(
    world: &World,
    api: &Api,
    evidence: &Evidence<'_>,
    payments: &[Value],
) -> Result<Verdict> {
    let Evidence { baseline, witness, sink, book } = *evidence;
    let mut verdict = Verdict { payments: payments.len(), ..Verdict::default() };
    verdict.violations.extend(book.wrong.iter().cloned());
    acknowledged(baseline, book, payments, &mut verdict);
    ended(payments, &mut verdict);
    proof(api, &mut verdict).await?;
    let ours = totals(book, payments);
    money(world, api, baseline, &ours, &mut verdict).await?;
    settlements(world, witness, book, payments, &mut verdict).await?;
    let events = all_events(api, "operator", PAGE).await?;
    verdict.events = events.len();
    let told = histories(&events, payments, &mut verdict);
    webhooks(sink, book, payments, &told, &mut verdict);
    same_when_read_again(api, &events, &mut verdict).await?;
    visible(api, baseline, payments, &mut verdict).await?;
    dead_letters(world, &mut verdict).await?;
    Ok(verdict)
}

/// I1: every acknowledged payment exists once, as it was asked for; one without an answer at most once; a refused one not.
fn acknowledged(baseline: &Baseline, book: &Book, payments: &[Value], verdict: &mut Verdict) {
    let by_id: BTreeMap<&str, &Value> =
        payments.iter().map(|payment| (text(payment, "id"), payment)).collect();
    let mut by_reference: BTreeMap<&str, u32> = BTreeMap::new();
    for payment in payments {
        *by_reference.entry(text(payment, "end_to_end_id")).or_default() += 1;
    }
    for order in book.orders.values() {
        let count = by_reference.get(order.reference.as_str()).copied().unwrap_or(0);
        let wanted = match &order.fate {
            Fate::Acknowledged { id, .. } => {
                let is_as_asked = by_id.get(id.as_str()).is_some_and(|payment| {
                    payment.pointer("/instructed_amount/amount").and_then(Value::as_i64) == Some(order.amount)
                        && baseline.is(payment, "/debtor", &order.debtor)
                        && baseline.is(payment, "/creditor", &order.creditor)
                        && text(payment, "end_to_end_id") == order.reference
                });
                if !is_as_asked {
                    verdict
                        .violations
                        .push(format!("I1: {} was acknowledged as {id} and is not there so", order.key));
                }
                1..=1
            }
            Fate::Refused(_) => 0..=0,
            Fate::Unknown => 0..=1,
        };
        if !wanted.contains(&count) {
            verdict.violations.push(format!("I1: {} ({:?}) exists {count} times", order.key, order.fate));
        }
    }
}

/// I14: nothing is stuck.
fn ended(payments: &[Value], verdict: &mut Verdict) {
    for payment in payments {
        match text(payment, "state") {
            "completed" => verdict.completed += 1,
            "failed" => verdict.failed += 1,
            state => verdict.violations.push(format!(
                "I14: {} is {state} ({}) since {}",
                text(payment, "id"),
                text(payment, "reason"),
                text(payment, "state_since")
            )),
        }
    }
}

/// I3: the ledger balances, and equals chain and banks.
async fn proof(api: &Api, verdict: &mut Verdict) -> Result<()> {
    let began = Instant::now();
    loop {
        let proof = api.read("operator", "/v1/proof").await?;
        if proof.get("holds") == Some(&Value::Bool(true)) {
            return Ok(());
        }
        if began.elapsed() > PROOF_PATIENCE {
            verdict.violations.push(format!("I3: the proof does not hold: {proof}"));
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// What completed payments took from debtors and gave to creditors, minor units.
struct Totals {
    paid: BTreeMap<Party, i128>,
    received: BTreeMap<Party, i128>,
}

fn totals(book: &Book, payments: &[Value]) -> Totals {
    let completed: BTreeSet<&str> = payments
        .iter()
        .filter(|payment| text(payment, "state") == "completed")
        .map(|payment| text(payment, "end_to_end_id"))
        .collect();
    let mut totals = Totals { paid: BTreeMap::new(), received: BTreeMap::new() };
    for order in book.orders.values().filter(|order| completed.contains(order.reference.as_str())) {
        *totals.paid.entry(order.debtor).or_default() += i128::from(order.amount);
        *totals.received.entry(order.creditor).or_default() += i128::from(order.amount);
    }
    totals
}

/// I4 and I5: each completed payment moved money once, at the bank, on the chain and in the ledger; no other did.
async fn money(
    world: &World,
    api: &Api,
    baseline: &Baseline,
    totals: &Totals,
    verdict: &mut Verdict,
) -> Result<()> {
    for party in PARTIES {
        let paid = totals.paid.get(&party).copied().unwrap_or(0);
        let received = totals.received.get(&party).copied().unwrap_or(0);
        let (posted, held) = deposit_of(world, party).await?;
        let before = baseline.deposits.get(&party).copied().unwrap_or(0);
        if before - posted != paid || held != 0 {
            verdict.violations.push(format!(
                "I4: {} paid {paid}, and its bank booked {} with {held} held",
                party.iban,
                before - posted
            ));
        }
        let tokens = baseline.tokens_of(world, party).await?;
        let grown = tokens.saturating_sub(baseline.tokens.get(&party).copied().unwrap_or(0));
        if grown != u128::try_from(received)? * UNITS {
            verdict.violations.push(format!(
                "I4: {} received {received}, and its wallet grew by {grown} token units",
                party.iban
            ));
        }
        let id = baseline.ids.get(&party).context("an account")?;
        let balances = api.read("operator", &format!("/v1/accounts/{id}/balances")).await?;
        let in_ledger = balances.get("posted").and_then(Value::as_i64).context("posted")?;
        if u128::try_from(in_ledger)? * UNITS != tokens {
            verdict.violations.push(format!(
                "I5: the ledger has {in_ledger} for {}, its wallet {tokens} token units",
                party.iban
            ));
        }
    }
    Ok(())
}

/// I4: one settlement on the chain for each completed payment, none for any other.
async fn settlements(
    world: &World,
    witness: &Witness,
    book: &Book,
    payments: &[Value],
    verdict: &mut Verdict,
) -> Result<()> {
    witness.read_on(world, true).await?;
    let ours: BTreeSet<&str> = book.orders.values().map(|order| order.reference.as_str()).collect();
    let Ok(seen) = witness.seen.lock() else { bail!("a reader of the chain has failed") };
    let mut known = 0;
    for payment in payments.iter().filter(|payment| ours.contains(text(payment, "end_to_end_id"))) {
        let id = PaymentId::parse(text(payment, "id"))?.as_uuid().simple().to_string();
        let settled = seen.1.get(&id).copied().unwrap_or(0);
        known += settled;
        let wanted = u32::from(text(payment, "state") == "completed");
        if settled != wanted {
            verdict.violations.push(format!(
                "I4: {} is {} and was settled {settled} times on chain",
                text(payment, "id"),
                text(payment, "state")
            ));
        }
    }
    let all: u32 = seen.1.values().sum();
    if all != known {
        verdict.violations.push(format!("I4: {} settlements on chain belong to no payment", all - known));
    }
    Ok(())
}

/// I6: one beginning, one end, nothing after it. Gives each payment's history.
fn histories(events: &[Value], payments: &[Value], verdict: &mut Verdict) -> BTreeMap<String, Vec<String>> {
    let mut histories: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in events {
        histories.entry(text(event, "subject").to_owned()).or_default().push(text(event, "type").to_owned());
    }
    for payment in payments {
        let id = text(payment, "id");
        let history = histories.get(id).map(Vec::as_slice).unwrap_or_default();
        let is_end = |kind: &String| kind == "payment.completed" || kind == "payment.failed";
        let ends = history.iter().filter(|kind| is_end(kind)).count();
        let begins = history.iter().filter(|kind| *kind == "payment.accepted").count();
        let last = history.last().cloned().unwrap_or_default();
        if history.first().is_none_or(|kind| kind != "payment.accepted")
            || begins == 0
            || last != format!("payment.{}", text(payment, "state"))
            || (ends != 1 && !was_reorganised(history))
        {
            verdict.violations.push(format!("I6: {id} is {} after {history:?}", text(payment, "state")));
        }
    }
    histories
}

/// A reorganisation below a settled payment brings it back to where it was before, and it ends once more.
fn was_reorganised(history: &[String]) -> bool {
    let count = |wanted: &str| history.iter().filter(|kind| *kind == wanted).count();
    count("payment.held") > 1 || count("payment.accepted") > 1 || count("payment.settled") > 1
}

/// I7 and I10: each endpoint was told every event of its payments, signed, in the order in which they happened.
fn webhooks(
    sink: &Sink,
    book: &Book,
    payments: &[Value],
    histories: &BTreeMap<String, Vec<String>>,
    verdict: &mut Verdict,
) {
    let (stories, wrong): (Stories, _) = sink.stories();
    verdict.violations.extend(wrong.into_iter().map(|what| format!("I10: {what}")));
    let references: BTreeMap<&str, (&str, &str)> = book
        .orders
        .values()
        .map(|order| (order.reference.as_str(), (order.debtor.participant, order.creditor.participant)))
        .collect();
    for payment in payments {
        let Some((debtor, creditor)) = references.get(text(payment, "end_to_end_id")) else { continue };
        let id = text(payment, "id");
        let history = histories.get(id).cloned().unwrap_or_default();
        for endpoint in BTreeSet::from([*debtor, *creditor]) {
            let story = stories.get(&(endpoint.to_owned(), id.to_owned())).cloned().unwrap_or_default();
            if story != history {
                verdict
                    .violations
                    .push(format!("I10: {endpoint} was told {story:?} of {id}, and it was {history:?}"));
            }
        }
    }
}

/// I8: the log read again, in pages of another size, is the same.
async fn same_when_read_again(api: &Api, events: &[Value], verdict: &mut Verdict) -> Result<()> {
    if all_events(api, "operator", 83).await? != events {
        verdict.violations.push("I8: the event log read twice is not the same".to_owned());
    }
    Ok(())
}

/// I13: nobody sees another's payments, and everybody sees all of theirs.
async fn visible(api: &Api, baseline: &Baseline, payments: &[Value], verdict: &mut Verdict) -> Result<()> {
    for who in ["alpha", "beta"] {
        let seen: BTreeSet<String> =
            all_payments(api, who).await?.iter().map(|payment| text(payment, "id").to_owned()).collect();
        let is_theirs = |payment: &&Value| {
            ["/debtor", "/creditor"].into_iter().any(|side| {
                PARTIES.iter().any(|party| party.participant == who && baseline.is(payment, side, party))
            })
        };
        let theirs: BTreeSet<String> =
            payments.iter().filter(is_theirs).map(|payment| text(payment, "id").to_owned()).collect();
        if seen != theirs {
            verdict.violations.push(format!(
                "I13: {who} sees {} payments and has {}",
                seen.len(),
                theirs.len()
            ));
        }
    }
    Ok(())
}

/// I9: no poison was injected, so there are no dead letters.
async fn dead_letters(world: &World, verdict: &mut Verdict) -> Result<()> {
    let binary = world.processes.first().context("a process")?.lock().await.recipe.binary.clone();
    let output =
        tokio::process::Command::new(binary).args(["dlq", "list"]).current_dir(&world.home).output().await?;
    let listed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || listed != "no dead letters" {
        verdict.violations.push(format!("I9: dead letters without poison: {listed}"));
    }
    Ok(())
}

async fn all_payments(api: &Api, who: &'static str) -> Result<Vec<Value>> {
    let mut payments = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = api.read(who, &format!("/v1/payments?limit={PAGE}{cursor}")).await?;
        payments.extend_from_slice(list(&page, "data"));
        match page.get("next_cursor").and_then(Value::as_str) {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(payments),
        }
    }
}

async fn all_events(api: &Api, who: &'static str, page: usize) -> Result<Vec<Value>> {
    let mut events = Vec::new();
    let mut after = String::new();
    loop {
        let read = api.read(who, &format!("/v1/events?limit={page}{after}")).await?;
        let data = list(&read, "data");
        if data.is_empty() {
            return Ok(events);
        }
        events.extend_from_slice(data);
        after = format!("&after={}", text(&read, "next"));
    }
}

pub(crate) fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

pub(crate) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn hex_number(text: &str) -> Result<u128> {
    let digits = text.trim_start_matches("0x").trim_start_matches('0');
    if digits.is_empty() {
        return Ok(0);
    }
    u128::from_str_radix(digits, 16).with_context(|| format!("{text:?} is no number"))
}
