//! Whether every promise was kept, judged from outside: by the client's own list of what was acknowledged, the banks' own
//! books, the chain, and what the receiver of webhooks was told. The system's own answers are only ever compared with
//! these.
//!
//! The invariants have the names I1 to I14. I11 (the audit log has no gap) and I12 (reconciliation reports exactly what
//! differs) are judged where audit log and reconciliation are.
//!
//! A storm of an hour leaves half a million payments and millions of events: everything is read page by page, once, and of
//! each only a few bytes are kept.

use crate::api::Api;
use crate::load::{Book, Fate, Name, PARTIES, Party};
use crate::sink::Sink;
use crate::stage::{Stage, Story};
use crate::world::World;
use anyhow::{Context as _, Result, bail};
use flowbridge_domain::id::PaymentId;
use serde_json::{Value, json};
use sha2::Sha256;
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

    /// Whose account is on this side (`/debtor` or `/creditor`) of the payment.
    fn party(&self, payment: &Value, side: &str) -> Option<Party> {
        let id = text(payment.pointer(side)?, "account_id");
        self.ids.iter().find(|(_, known)| *known == id).map(|(party, _)| *party)
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
    seen: Mutex<(u64, BTreeMap<[u8; 16], u32>)>,
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
            let id = id.get(2..34).context("a payment id of 16 bytes")?;
            *seen.1.entry(u128::from_str_radix(id, 16)?.to_be_bytes()).or_default() += 1;
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

/// A payment as the API shows it in the end.
#[derive(Debug)]
struct Seen {
    id: PaymentId,
    /// None for one that the stage had before.
    name: Option<Name>,
    amount: i64,
    debtor: Option<Party>,
    creditor: Option<Party>,
    state: Stage,
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
pub(crate) async fn wait_all_ended(api: &Api, patience: Duration) -> Result<Duration> {
    let began = Instant::now();
    while began.elapsed() < patience {
        let mut unfinished = 0;
        for state in Stage::unfinished() {
            let page = api.read("operator", &format!("/v1/payments?state={state}&limit=1")).await?;
            unfinished += list(&page, "data").len();
        }
        if unfinished == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(began.elapsed())
}

/// What the system is compared with: all that was seen from outside.
#[derive(Debug)]
pub(crate) struct Evidence<'a> {
    pub(crate) baseline: &'a Baseline,
    pub(crate) witness: &'a Witness,
    pub(crate) sink: &'a Sink,
    pub(crate) book: &'a Book,
    pub(crate) seed: u64,
}

/// Judges everything, on a system that has come to rest.
pub(crate) async fn judge(world: &World, api: &Api, evidence: &Evidence<'_>) -> Result<Verdict> {
    let Evidence { baseline, witness, sink, book, seed } = *evidence;
    let mut verdict = Verdict::default();
    verdict.violations.extend(book.wrong.iter().cloned());
    let mut stuck = Vec::new();
    let (payments, alpha, beta, log, again) = tokio::try_join!(
        payments(api, baseline, seed, &mut stuck),
        visible_to(api, "alpha"),
        visible_to(api, "beta"),
        read_log(api, PAGE),
        read_log(api, PAGE - 17),
    )?;
    verdict.payments = payments.len();
    verdict.events = log.events;
    verdict.violations.append(&mut stuck);
    ended(&payments, &mut verdict);
    acknowledged(book, &payments, &mut verdict);
    proof(api, &mut verdict).await?;
    money(world, api, baseline, &totals(book, &payments), &mut verdict).await?;
    settlements(world, witness, &payments, &mut verdict).await?;
    histories(&log.stories, &payments, &mut verdict);
    webhooks(sink, &payments, &log.stories, &mut verdict);
    // I8: the log read again, in pages of another size, is the same.
    if log.hash != again.hash {
        verdict.violations.push("I8: the event log read twice is not the same".to_owned());
    }
    visible("alpha", &alpha, &payments, &mut verdict);
    visible("beta", &beta, &payments, &mut verdict);
    dead_letters(world, &mut verdict).await?;
    Ok(verdict)
}

/// Every payment; what is not at its end is told in `stuck`.
async fn payments(api: &Api, baseline: &Baseline, seed: u64, stuck: &mut Vec<String>) -> Result<Vec<Seen>> {
    let mut payments = Vec::new();
    for_each_payment(api, "operator", |payment| {
        let state = Stage::parse(text(payment, "state")).context("a state that nobody knows")?;
        if !state.is_end() {
            stuck.push(format!(
                "I14: {} is {state:?} ({}) since {}",
                text(payment, "id"),
                text(payment, "reason"),
                text(payment, "state_since")
            ));
        }
        payments.push(Seen {
            id: PaymentId::parse(text(payment, "id"))?,
            name: Name::of_reference(seed, text(payment, "end_to_end_id")),
            amount: payment.pointer("/instructed_amount/amount").and_then(Value::as_i64).unwrap_or(0),
            debtor: baseline.party(payment, "/debtor"),
            creditor: baseline.party(payment, "/creditor"),
            state,
        });
        Ok(())
    })
    .await?;
    Ok(payments)
}

/// The payments that an institution sees, in order.
async fn visible_to(api: &Api, who: &'static str) -> Result<Vec<PaymentId>> {
    let mut seen = Vec::new();
    for_each_payment(api, who, |payment| {
        seen.push(PaymentId::parse(text(payment, "id"))?);
        Ok(())
    })
    .await?;
    seen.sort_unstable();
    Ok(seen)
}

async fn for_each_payment(
    api: &Api,
    who: &'static str,
    mut look: impl FnMut(&Value) -> Result<()>,
) -> Result<()> {
    let mut cursor = String::new();
    loop {
        let page = api.read(who, &format!("/v1/payments?limit={PAGE}{cursor}")).await?;
        list(&page, "data").iter().try_for_each(&mut look)?;
        match page.get("next_cursor").and_then(Value::as_str) {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(()),
        }
    }
}

/// The event log, read once.
struct Log {
    events: usize,
    hash: [u8; 32],
    stories: BTreeMap<PaymentId, Story>,
}

async fn read_log(api: &Api, page: usize) -> Result<Log> {
    let (mut events, mut hasher, mut stories) = (0, Sha256::new(), BTreeMap::<PaymentId, Story>::new());
    let mut after = String::new();
    loop {
        let read = api.read("operator", &format!("/v1/events?limit={page}{after}")).await?;
        let data = list(&read, "data");
        if data.is_empty() {
            return Ok(Log { events, hash: hasher.finalize().into(), stories });
        }
        for event in data {
            events += 1;
            hasher.update(serde_json::to_vec(event)?);
            let stage = Stage::parse(text(event, "type")).context("an event of a kind that nobody knows")?;
            stories.entry(PaymentId::parse(text(event, "subject"))?).or_default().push(stage);
        }
        after = format!("&after={}", text(&read, "next"));
    }
}

/// I1: every acknowledged payment exists once, as it was asked for; one without an answer at most once; a refused one not.
fn acknowledged(book: &Book, payments: &[Seen], verdict: &mut Verdict) {
    let mut by_name: BTreeMap<Name, Vec<&Seen>> = BTreeMap::new();
    for payment in payments {
        if let Some(name) = payment.name {
            by_name.entry(name).or_default().push(payment);
        }
    }
    for (name, order) in &book.orders {
        let found = by_name.get(name).map(Vec::as_slice).unwrap_or_default();
        let wanted = match order.fate {
            Fate::Acknowledged(id) => {
                let is_as_asked = found.iter().any(|payment| {
                    payment.id == id
                        && payment.amount == order.amount
                        && payment.debtor == Some(order.debtor)
                        && payment.creditor == Some(order.creditor)
                });
                if !is_as_asked {
                    verdict
                        .violations
                        .push(format!("I1: {name:?} was acknowledged as {id} and is not there so"));
                }
                1..=1
            }
            Fate::Refused => 0..=0,
            Fate::Unknown => 0..=1,
        };
        if !wanted.contains(&found.len()) {
            verdict.violations.push(format!("I1: {name:?} ({:?}) exists {} times", order.fate, found.len()));
        }
    }
    for name in by_name.keys().filter(|name| !book.orders.contains_key(name)) {
        verdict.violations.push(format!("I1: {name:?} exists, and nobody asked for it"));
    }
}

/// I14: nothing is stuck; what is was told when it was read.
fn ended(payments: &[Seen], verdict: &mut Verdict) {
    verdict.completed = payments.iter().filter(|payment| payment.state == Stage::COMPLETED).count();
    verdict.failed = payments.iter().filter(|payment| payment.state == Stage::FAILED).count();
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

fn totals(book: &Book, payments: &[Seen]) -> Totals {
    let mut totals = Totals { paid: BTreeMap::new(), received: BTreeMap::new() };
    for payment in payments.iter().filter(|payment| payment.state == Stage::COMPLETED) {
        let Some(order) = payment.name.and_then(|name| book.orders.get(&name)) else { continue };
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
    payments: &[Seen],
    verdict: &mut Verdict,
) -> Result<()> {
    witness.read_on(world, true).await?;
    let Ok(seen) = witness.seen.lock() else { bail!("a reader of the chain has failed") };
    let mut known = 0;
    for payment in payments.iter().filter(|payment| payment.name.is_some()) {
        let settled = seen.1.get(payment.id.as_uuid().as_bytes()).copied().unwrap_or(0);
        known += settled;
        let wanted = u32::from(payment.state == Stage::COMPLETED);
        if settled != wanted {
            verdict.violations.push(format!(
                "I4: {} is {:?} and was settled {settled} times on chain",
                payment.id, payment.state
            ));
        }
    }
    let all: u32 = seen.1.values().sum();
    if all != known {
        verdict.violations.push(format!("I4: {} settlements on chain belong to no payment", all - known));
    }
    Ok(())
}

/// I6: one beginning, one end, nothing after it.
fn histories(stories: &BTreeMap<PaymentId, Story>, payments: &[Seen], verdict: &mut Verdict) {
    for payment in payments {
        let story = stories.get(&payment.id).map(Vec::as_slice).unwrap_or_default();
        let ends = story.iter().filter(|stage| stage.is_end()).count();
        if story.first() != Some(&Stage::ACCEPTED)
            || story.last() != Some(&payment.state)
            || (ends != 1 && !was_reorganised(story))
        {
            verdict.violations.push(format!("I6: {} is {:?} after {story:?}", payment.id, payment.state));
        }
    }
}

/// A reorganisation below a settled payment brings it back to where it was before, and it ends once more.
fn was_reorganised(story: &[Stage]) -> bool {
    let count = |wanted: Stage| story.iter().filter(|stage| **stage == wanted).count();
    count(Stage::HELD) > 1 || count(Stage::ACCEPTED) > 1 || count(Stage::SETTLED) > 1
}

/// I7 and I10: each endpoint was told every event of its payments, signed, in the order in which they happened.
fn webhooks(sink: &Sink, payments: &[Seen], stories: &BTreeMap<PaymentId, Story>, verdict: &mut Verdict) {
    verdict.violations.extend(sink.wrong().into_iter().map(|what| format!("I10: {what}")));
    for payment in payments.iter().filter(|payment| payment.name.is_some()) {
        let happened = stories.get(&payment.id).map(Vec::as_slice).unwrap_or_default();
        let parties = [payment.debtor, payment.creditor].into_iter().flatten();
        for endpoint in BTreeSet::from_iter(parties.map(|party| party.participant)) {
            let told = sink.story(endpoint, payment.id);
            if told != happened {
                verdict.violations.push(format!(
                    "I10: {endpoint} was told {told:?} of {}, and it was {happened:?}",
                    payment.id
                ));
            }
        }
    }
}

/// I13: nobody sees another's payments, and everybody sees all of theirs.
fn visible(who: &str, seen: &[PaymentId], payments: &[Seen], verdict: &mut Verdict) {
    let is_theirs = |party: Option<Party>| party.is_some_and(|party| party.participant == who);
    let mut theirs: Vec<PaymentId> = payments
        .iter()
        .filter(|payment| is_theirs(payment.debtor) || is_theirs(payment.creditor))
        .map(|payment| payment.id)
        .collect();
    theirs.sort_unstable();
    if seen != theirs {
        let (count, has) = (seen.len(), theirs.len());
        verdict.violations.push(format!("I13: {who} sees {count} payments and has {has}"));
    }
}

/// I9: the dead letters are exactly the poison.
async fn dead_letters(world: &World, verdict: &mut Verdict) -> Result<()> {
    let binary = world.processes.first().context("a process")?.lock().await.recipe.binary.clone();
    let output =
        tokio::process::Command::new(binary).args(["dlq", "list"]).current_dir(&world.home).output().await?;
    let listed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let letters: BTreeSet<PaymentId> =
        listed.split_whitespace().filter_map(|word| PaymentId::parse(word).ok()).collect();
    let Ok(poison) = world.poison.lock() else { bail!("a writer of poison has failed") };
    if !output.status.success() || !letters.is_superset(&poison.written) || !letters.is_subset(&poison.tried)
    {
        verdict.violations.push(format!(
            "I9: {} dead letters where {} poisonous events were written: {listed}",
            letters.len(),
            poison.written.len()
        ));
    }
    Ok(())
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
