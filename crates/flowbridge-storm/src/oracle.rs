//! Whether every promise was kept, judged from outside: by the client's own list of what was acknowledged, the banks' own
//! books, the chain, and what the receiver of webhooks was told. The system's own answers are only ever compared with
//! these.
//!
//! The invariants have the names I1 to I14. Of I12 (reconciliation reports exactly what differs) only half is judged in a storm, and not
//! here but by `reconciliations.rs`: where nothing differs, nothing is reported.
//!
//! A storm of an hour leaves half a million payments and millions of events: everything is read page by page, and of
//! each only a few bytes are kept. Reading and judging are apart, so that each judgement can be tried on a small case in which one
//! thing is wrong.

mod entries;
mod letters;
mod replay;

pub(crate) use replay::Replay;

use crate::api::Api;
use crate::load::{Book, Fate, Name, PARTIES, Party};
use crate::sink::{Ears, Sink};
use crate::stage::{Move, Stage, Story};
use crate::world::World;
use anyhow::{Context as _, Result, bail};
use flowbridge_domain::id::PaymentId;
use serde_json::{Value, json};
use sha2::Sha256;
use sha3::{Digest as _, Keccak256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Pages of lists, as large as the API gives them.
const PAGE: usize = 100;
/// Blocks this far below the head are not reorganised by any fault of ours.
const SAFE_DEPTH: u64 = 64;
/// Token units for one minor unit: six decimals against two.
const UNITS: u128 = 10_000;
/// Of payments that went back, so many are asked what was taken from them.
const RETURNS_ASKED_MAX: usize = 500;
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
    seen: Mutex<(u64, Settled)>,
}

/// How often each payment is settled on the chain, by its id.
type Settled = BTreeMap<[u8; 16], u32>;

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
            seen: Mutex::new((u64::try_from(head)?, Settled::new())),
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

    /// How often each payment was settled, by its id.
    fn settled(&self) -> Result<Settled> {
        let Ok(seen) = self.seen.lock() else { bail!("a reader of the chain has failed") };
        Ok(seen.1.clone())
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
    /// A hash of all that the API shows of it.
    print: u64,
}

/// What was found, in numbers and in violations.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) payments: usize,
    pub(crate) completed: usize,
    pub(crate) failed: usize,
    pub(crate) events: usize,
    /// Entries that belong into the audit log.
    pub(crate) entries: usize,
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

/// Judges everything, on a system that has come to rest; at last lets it read its log again.
pub(crate) async fn judge(
    world: &World,
    api: &Api,
    evidence: &Evidence<'_>,
    replay: &Replay<'_>,
) -> Result<Verdict> {
    let Evidence { baseline, witness, sink, book, seed } = *evidence;
    let mut verdict = Verdict::default();
    verdict.violations.extend(book.wrong.iter().cloned());
    // First of all: what follows can take minutes, and the node forgets.
    witness.read_on(world, true).await?;
    let mut stuck = Vec::new();
    let mut stories = BTreeMap::<PaymentId, Story>::new();
    let (payments, booked, alpha, beta, log) = tokio::try_join!(
        payments(api, baseline, seed, &mut stuck),
        booked(world),
        visible_to(api, "alpha"),
        visible_to(api, "beta"),
        read_log(api, PAGE, |payment, stage| stories.entry(payment).or_default().push(stage)),
    )?;
    verdict.payments = payments.len();
    verdict.events = log.events;
    verdict.violations.append(&mut stuck);
    ended(&payments, &mut verdict);
    acknowledged(book, &payments, &mut verdict);
    proof(api, &mut verdict).await?;
    money(&holdings(world, api, baseline).await?, &totals(book, &payments), &mut verdict);
    bookings(&booked, &payments, &mut verdict);
    settlements(&witness.settled()?, &payments, &mut verdict);
    let returned = histories(&stories, &payments, &mut verdict);
    returns(api, &returned, &mut verdict).await?;
    sink.with(|ears| webhooks(ears, &payments, &stories, &mut verdict));
    drop(stories);
    visible("alpha", &alpha, &payments, &mut verdict);
    visible("beta", &beta, &payments, &mut verdict);
    // What cannot be judged is a violation, and all that was found before is told.
    if let Err(error) = letters::judge(world, &mut verdict).await {
        verdict.violations.push(format!("I9: not judged: {error:#}"));
    }
    match replay.changes((world, api, sink), (baseline, seed), (payments, log)).await {
        Ok(mut changed) => verdict.violations.append(&mut changed),
        Err(error) => verdict.violations.push(format!("I8: not judged: {error:#}")),
    }
    if let Err(error) = entries::judge(world, api, &mut verdict).await {
        verdict.violations.push(format!("I11: not judged: {error:#}"));
    }
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
            print: print_of(payment)?,
        });
        Ok(())
    })
    .await?;
    Ok(payments)
}

/// A hash of all that is shown.
fn print_of(shown: &Value) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    serde_json::to_vec(shown)?.hash(&mut hasher);
    Ok(hasher.finish())
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
}

/// Reads the log; `look` sees what happened to which payment, in order.
async fn read_log(api: &Api, page: usize, mut look: impl FnMut(PaymentId, Stage)) -> Result<Log> {
    let (mut events, mut hasher) = (0, Sha256::new());
    let mut after = String::new();
    loop {
        let read = api.read("operator", &format!("/v1/events?limit={page}{after}")).await?;
        let data = list(&read, "data");
        if data.is_empty() {
            return Ok(Log { events, hash: hasher.finalize().into() });
        }
        for event in data {
            events += 1;
            hasher.update(serde_json::to_vec(event)?);
            let stage = Stage::parse(text(event, "type")).context("an event of a kind that nobody knows")?;
            look(PaymentId::parse(text(event, "subject"))?, stage);
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

/// What is found of a party's money, at its bank, on the chain and in the ledger.
#[derive(Debug)]
struct Holding {
    party: Party,
    /// What the bank has booked off its account since before the storm, minor units.
    booked: i128,
    /// What the bank still holds of it, minor units.
    held: i128,
    /// What is in its wallet, and what of it came since before the storm, token units.
    tokens: u128,
    grown: u128,
    /// What the ledger has for its wallet, minor units.
    in_ledger: i64,
}

async fn holdings(world: &World, api: &Api, baseline: &Baseline) -> Result<Vec<Holding>> {
    let mut holdings = Vec::new();
    for party in PARTIES {
        let (posted, held) = deposit_of(world, party).await?;
        let before = baseline.deposits.get(&party).copied().unwrap_or(0);
        let tokens = baseline.tokens_of(world, party).await?;
        let id = baseline.ids.get(&party).context("an account")?;
        let balances = api.read("operator", &format!("/v1/accounts/{id}/balances")).await?;
        holdings.push(Holding {
            party,
            booked: before - posted,
            held,
            tokens,
            grown: tokens.saturating_sub(baseline.tokens.get(&party).copied().unwrap_or(0)),
            in_ledger: balances.get("posted").and_then(Value::as_i64).context("posted")?,
        });
    }
    Ok(holdings)
}

/// I4 and I5: each completed payment moved money once, at the bank, on the chain and in the ledger; no other did.
fn money(holdings: &[Holding], totals: &Totals, verdict: &mut Verdict) {
    let units = |amount: i128| u128::try_from(amount).ok().and_then(|amount| amount.checked_mul(UNITS));
    for Holding { party, booked, held, tokens, grown, in_ledger } in holdings {
        let paid = totals.paid.get(party).copied().unwrap_or(0);
        let received = totals.received.get(party).copied().unwrap_or(0);
        if *booked != paid || *held != 0 {
            verdict.violations.push(format!(
                "I4: {} paid {paid}, and its bank booked {booked} with {held} held",
                party.iban
            ));
        }
        if units(received) != Some(*grown) {
            verdict.violations.push(format!(
                "I4: {} received {received}, and its wallet grew by {grown} token units",
                party.iban
            ));
        }
        if units(i128::from(*in_ledger)) != Some(*tokens) {
            verdict.violations.push(format!(
                "I5: the ledger has {in_ledger} for {}, its wallet {tokens} token units",
                party.iban
            ));
        }
    }
}

/// What a bank has booked of a payment: which payment, which bank, and which leg. A bank's books have each leg once.
type Booked = BTreeSet<(PaymentId, &'static str, Leg)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Leg {
    Capture,
    Credit,
}

/// All that the banks have booked, by their own account.
async fn booked(world: &World) -> Result<Booked> {
    let mut booked = Booked::new();
    for bank in BTreeSet::from_iter(PARTIES.map(|party| party.participant)) {
        let mut after = String::new();
        loop {
            let page =
                world.simulator(reqwest::Method::GET, &format!("{bank}/operations{after}"), None).await?;
            let operations = list(&page, "operations");
            for operation in operations.iter().filter(|operation| text(operation, "outcome") == "done") {
                let (id, leg) = text(operation, "key").split_once('.').context("a key of two parts")?;
                let leg = match leg {
                    "capture" => Leg::Capture,
                    "credit" => Leg::Credit,
                    _ => continue,
                };
                booked.insert((PaymentId::parse(id)?, bank, leg));
            }
            let Some(last) = operations.last() else { break };
            after = format!("?after={}", text(last, "key"));
        }
    }
    Ok(booked)
}

/// I4: each completed payment was captured at its debtor's bank, and no bank has booked anything else of any payment.
fn bookings(booked: &Booked, payments: &[Seen], verdict: &mut Verdict) {
    let foreign: BTreeSet<PaymentId> =
        payments.iter().filter(|payment| payment.name.is_none()).map(|payment| payment.id).collect();
    let wanted: Booked = payments
        .iter()
        .filter(|payment| payment.name.is_some() && payment.state == Stage::COMPLETED)
        .filter_map(|payment| Some((payment.id, payment.debtor?.participant, Leg::Capture)))
        .collect();
    for (id, bank, leg) in booked.symmetric_difference(&wanted).filter(|(id, ..)| !foreign.contains(id)) {
        let has = if booked.contains(&(*id, *bank, *leg)) { "has booked" } else { "has not booked" };
        verdict.violations.push(format!("I4: {bank} {has} a {leg:?} of {id}"));
    }
}

/// I4: one settlement on the chain for each completed payment, none for any other.
fn settlements(seen: &Settled, payments: &[Seen], verdict: &mut Verdict) {
    let mut known = 0;
    for payment in payments.iter().filter(|payment| payment.name.is_some()) {
        let settled = seen.get(payment.id.as_uuid().as_bytes()).copied().unwrap_or(0);
        known += settled;
        let wanted = u32::from(payment.state == Stage::COMPLETED);
        if settled != wanted {
            verdict.violations.push(format!(
                "I4: {} is {:?} and was settled {settled} times on chain",
                payment.id, payment.state
            ));
        }
    }
    let all: u32 = seen.values().sum();
    if all != known {
        verdict.violations.push(format!("I4: {} settlements on chain belong to no payment", all - known));
    }
}

/// I6: one beginning, one end, and from the one to the other only such steps as a payment takes. Gives those that went back on
/// their way, which takes a reorganisation.
fn histories(
    stories: &BTreeMap<PaymentId, Story>,
    payments: &[Seen],
    verdict: &mut Verdict,
) -> Vec<PaymentId> {
    let mut returned = Vec::new();
    for payment in payments {
        let story = stories.get(&payment.id).map(Vec::as_slice).unwrap_or_default();
        let is_whole = story.first() == Some(&Stage::ACCEPTED) && story.last() == Some(&payment.state);
        let moves = || story.iter().zip(story.iter().skip(1)).map(|(from, next)| from.followed_by(*next));
        if !is_whole || moves().any(|step| step == Move::Illegal) {
            verdict.violations.push(format!("I6: {} is {:?} after {story:?}", payment.id, payment.state));
        } else if moves().any(|step| step == Move::Back) {
            returned.push(payment.id);
        }
    }
    returned
}

/// I6: what went back on its way was sent there by the chain, which took back what it had said of this payment.
async fn returns(api: &Api, returned: &[PaymentId], verdict: &mut Verdict) -> Result<()> {
    for id in returned.iter().take(RETURNS_ASKED_MAX) {
        let timeline = api.read("operator", &format!("/v1/payments/{id}/timeline")).await?;
        let is_taken_back = |event: &Value| {
            let kind = text(event, "event");
            kind.starts_with("chain.") && kind.ends_with(".removed")
        };
        if !list(&timeline, "events").iter().any(is_taken_back) {
            verdict.violations.push(format!("I6: {id} went back, and the chain took nothing back from it"));
        }
    }
    Ok(())
}

/// I7 and I10: each endpoint was told every event of its payments, signed, in the order in which they happened.
fn webhooks(ears: &Ears, payments: &[Seen], stories: &BTreeMap<PaymentId, Story>, verdict: &mut Verdict) {
    verdict.violations.extend(ears.wrong().iter().map(|what| format!("I10: {what}")));
    for payment in payments.iter().filter(|payment| payment.name.is_some()) {
        let happened = stories.get(&payment.id).map(Vec::as_slice).unwrap_or_default();
        let parties = [payment.debtor, payment.creditor].into_iter().flatten();
        for endpoint in BTreeSet::from_iter(parties.map(|party| party.participant)) {
            let told = ears.story(endpoint, payment.id);
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

#[cfg(test)]
mod tests {
    use super::entries::{Said, are_the_events};
    use super::letters::{Letter, are_as_before, are_poison};
    use super::replay::Derived;
    use super::replay::compare;
    use super::*;
    use crate::load::Order;
    use crate::sink::{Heard, Place, Tally};
    use crate::world::Poison;
    use flowbridge_domain::time::Timestamp;

    const COMPLETED: [Stage; 5] =
        [Stage::ACCEPTED, Stage::INITIATED, Stage::HELD, Stage::SETTLED, Stage::COMPLETED];
    const FAILED: [Stage; 3] = [Stage::ACCEPTED, Stage::CANCELLING, Stage::FAILED];

    /// A system at rest, and all that was seen of it from outside.
    #[derive(Default)]
    struct Case {
        book: Book,
        payments: Vec<Seen>,
        stories: BTreeMap<PaymentId, Story>,
        /// What the receiver was told, in this order.
        told: Vec<(&'static str, PaymentId, Heard)>,
        settled: Settled,
        booked: Booked,
        holdings: Vec<Holding>,
        /// By institution.
        visible: BTreeMap<&'static str, Vec<PaymentId>>,
        letters: Vec<Letter>,
        poison: Poison,
        /// The letters once they were retried.
        retried: Vec<Letter>,
        /// Before the log was read again, and after.
        derived: [Derived; 2],
        /// What was to be entered into the audit log, and what was.
        said: Vec<Said>,
        entered: Vec<Said>,
    }

    fn id(number: u8) -> PaymentId {
        PaymentId::generate(Timestamp::from_secs(1_000), [number; 10])
    }

    fn key(id: PaymentId) -> [u8; 16] {
        *id.as_uuid().as_bytes()
    }

    fn letter(number: u8) -> Letter {
        let (id, key) = (format!("letter-{number}"), id(number));
        Letter { line: format!("{id}  {key}  tried 1x: there is no such payment"), id, key }
    }

    fn derived() -> Derived {
        Derived {
            payments: BTreeMap::from([(id(1), (Stage::COMPLETED, 11)), (id(2), (Stage::FAILED, 22))]),
            balances: BTreeMap::from([("acc_1".to_owned(), "100".to_owned())]),
            log: (8, [8; 32]),
            told: BTreeMap::from([("alpha".to_owned(), Tally { events: 8, repeats: 1 })]),
            letters: BTreeSet::from([("letter-99".to_owned(), id(99))]),
        }
    }

    fn order(number: u8, fate: Fate) -> Order {
        let [alpha, beta, ..] = PARTIES;
        Order { debtor: alpha, creditor: beta, amount: i64::from(number) * 100, fate }
    }

    impl Case {
        /// One payment that completed, one that failed, one that nobody knows whether it was taken and one that was refused;
        /// one event was poison.
        fn sound() -> Self {
            let mut case = Self {
                holdings: PARTIES.map(Holding::of_nothing).into(),
                visible: BTreeMap::from([("alpha", vec![]), ("beta", vec![])]),
                ..Self::default()
            };
            case.ask(1, Fate::Acknowledged(id(1)));
            case.ask(2, Fate::Acknowledged(id(2)));
            case.ask(3, Fate::Unknown);
            case.ask(4, Fate::Refused);
            case.take_in(1, id(1), &COMPLETED);
            case.take_in(2, id(2), &FAILED);
            case.letters.push(letter(99));
            case.retried.push(letter(99));
            case.poison.tried.insert(id(99));
            case.poison.written.insert(id(99));
            case.derived = [derived(), derived()];
            case.said = vec![
                ("evt_1".to_owned(), "break_found".to_owned()),
                ("evt_2".to_owned(), "reconciliation.completed".to_owned()),
            ];
            case.entered = case.said.clone();
            case
        }

        fn ask(&mut self, number: u8, fate: Fate) {
            self.book.orders.insert(Name::Load(number.into()), order(number, fate));
        }

        /// A payment for an order comes to its end, with all that everybody notices of it.
        fn take_in(&mut self, number: u8, id: PaymentId, story: &[Stage]) {
            let Order { debtor, creditor, amount, .. } = order(number, Fate::Unknown);
            let state = *story.last().unwrap();
            self.payments.push(Seen {
                id,
                name: Some(Name::Load(number.into())),
                amount,
                debtor: Some(debtor),
                creditor: Some(creditor),
                state,
                print: 0,
            });
            self.tell(id, story);
            for seen in self.visible.values_mut() {
                seen.push(id);
                seen.sort_unstable();
            }
            if state == Stage::COMPLETED {
                self.settled.insert(key(id), 1);
                self.booked.insert((id, debtor.participant, Leg::Capture));
                self.holding(debtor).booked += i128::from(amount);
                let creditors = self.holding(creditor);
                creditors.in_ledger += amount;
                let units = u128::try_from(amount).unwrap() * UNITS;
                creditors.tokens += units;
                creditors.grown += units;
            }
        }

        /// What happened to a payment, and what both institutions were told of it.
        fn tell(&mut self, id: PaymentId, story: &[Stage]) {
            self.stories.insert(id, story.to_vec());
            self.told.retain(|(_, payment, _)| *payment != id);
            for (nth, stage) in (1..).zip(story) {
                let heard = Heard { event: nth, stage: *stage, place: Place::nth(nth) };
                self.told.extend(["alpha", "beta"].map(|endpoint| (endpoint, id, heard)));
            }
        }

        fn holding(&mut self, party: Party) -> &mut Holding {
            self.holdings.iter_mut().find(|holding| holding.party == party).unwrap()
        }

        /// The invariants that are violated, and the payments that went back.
        fn judge(&self) -> (Vec<String>, Vec<PaymentId>) {
            let mut verdict = Verdict::default();
            let mut ears = Ears::default();
            for (endpoint, payment, heard) in &self.told {
                ears.hear(endpoint, *payment, *heard);
            }
            acknowledged(&self.book, &self.payments, &mut verdict);
            money(&self.holdings, &totals(&self.book, &self.payments), &mut verdict);
            bookings(&self.booked, &self.payments, &mut verdict);
            settlements(&self.settled, &self.payments, &mut verdict);
            let returned = histories(&self.stories, &self.payments, &mut verdict);
            webhooks(&ears, &self.payments, &self.stories, &mut verdict);
            for (who, seen) in &self.visible {
                visible(who, seen, &self.payments, &mut verdict);
            }
            are_poison(&self.letters, &self.poison, &mut verdict);
            are_as_before(&self.letters, &self.retried, &mut verdict);
            are_the_events(&self.said, &self.entered, &mut verdict);
            let [before, after] = &self.derived;
            verdict.violations.extend(compare(before, after));
            (verdict.violations, returned)
        }
    }

    impl Holding {
        fn of_nothing(party: Party) -> Self {
            Self { party, booked: 0, held: 0, tokens: 0, grown: 0, in_ledger: 0 }
        }
    }

    #[test]
    fn a_sound_system_is_found_sound() {
        assert_eq!(Case::sound().judge(), (vec![], vec![]));
    }

    /// One thing is wrong, and it is told as what it is and nothing else.
    #[test]
    fn each_wrong_is_told_under_its_own_invariant() {
        let wrongs: [(&str, &str, fn(&mut Case)); 41] = [
            ("I1", "lost", |case| case.ask(9, Fate::Acknowledged(id(9)))),
            ("I1", "doubled", |case| case.take_in(1, id(9), &FAILED)),
            ("I1", "taken twice without an answer", |case| {
                case.take_in(3, id(8), &FAILED);
                case.take_in(3, id(9), &FAILED);
            }),
            ("I1", "refused and taken", |case| case.take_in(4, id(9), &FAILED)),
            ("I1", "asked for by nobody", |case| case.take_in(9, id(9), &FAILED)),
            ("I1", "of another amount", |case| case.payments[0].amount += 1),
            ("I1", "to another creditor", |case| {
                case.payments[0].creditor = case.payments[0].debtor;
                case.visible.get_mut("beta").unwrap().retain(|seen| *seen != id(1));
            }),
            ("I1", "acknowledged as another", |case| case.ask(1, Fate::Acknowledged(id(9)))),
            ("I4", "settled twice", |case| *case.settled.get_mut(&key(id(1))).unwrap() += 1),
            ("I4", "failed and settled", |case| case.settled.extend([(key(id(2)), 1)])),
            ("I4", "settled, and no payment", |case| case.settled.extend([(key(id(9)), 1)])),
            ("I4", "not booked by the bank, and made up for by another", |case| case.booked.clear()),
            ("I4", "failed and booked", |case| _ = case.booked.insert((id(2), "alpha", Leg::Capture))),
            ("I4", "booked at the other bank too", |case| {
                case.booked.insert((id(1), "beta", Leg::Capture));
            }),
            ("I4", "paid out as well", |case| _ = case.booked.insert((id(1), "beta", Leg::Credit))),
            ("I4", "booked twice by the bank", |case| case.holdings[0].booked *= 2),
            ("I4", "still held by the bank", |case| case.holdings[0].held = 1),
            ("I4", "minted twice", |case| case.holdings[1].grown *= 2),
            ("I5", "more in the ledger than in the wallet", |case| case.holdings[1].in_ledger += 1),
            ("I6", "completed at once", |case| case.tell(id(1), &[Stage::ACCEPTED, Stage::COMPLETED])),
            ("I6", "without a beginning", |case| case.tell(id(1), &COMPLETED[1..])),
            ("I6", "without an end", |case| case.tell(id(1), &COMPLETED[..4])),
            ("I6", "an event twice", |case| {
                let [accepted, initiated, held, settled, completed] = COMPLETED;
                case.tell(id(1), &[accepted, initiated, held, held, settled, completed]);
            }),
            ("I6", "ended, and ended again", |case| {
                case.tell(id(2), &[&FAILED[..], &[Stage::SETTLED, Stage::FAILED]].concat());
            }),
            ("I8", "a payment elsewhere", |case| {
                case.derived[1].payments.extend([(id(1), (Stage::UNDER_REVIEW, 11))]);
            }),
            ("I8", "a payment shown otherwise", |case| {
                case.derived[1].payments.extend([(id(1), (Stage::COMPLETED, 12))]);
            }),
            ("I8", "another balance", |case| case.derived[1].balances.clear()),
            ("I8", "an event more", |case| case.derived[1].log.0 += 1),
            ("I8", "another event", |case| case.derived[1].log.1[0] += 1),
            ("I8", "told again", |case| {
                case.derived[1].told.extend([("alpha".to_owned(), Tally { events: 8, repeats: 2 })]);
            }),
            ("I8", "a letter taken in", |case| case.derived[1].letters.clear()),
            ("I9", "set aside without being poison", |case| {
                case.letters.push(letter(9));
                case.retried.push(letter(9));
            }),
            ("I9", "poison that was taken in", |case| {
                case.letters.clear();
                case.retried.clear();
            }),
            ("I9", "tried once more", |case| case.retried[0].line.push('!')),
            ("I10", "a webhook out of order", |case| case.told.swap(2, 4)),
            ("I10", "a webhook lost", |case| case.told.truncate(case.told.len() - 1)),
            ("I11", "not entered", |case| _ = case.entered.pop()),
            ("I11", "entered twice", |case| case.entered.push(case.said[0].clone())),
            ("I11", "entered as another", |case| case.entered[0].1.push('!')),
            ("I11", "entered, and nothing was said", |case| {
                case.entered.push(("evt_9".to_owned(), "break_found".to_owned()));
            }),
            ("I13", "seen by another", |case| case.visible.get_mut("beta").unwrap().push(id(9))),
        ];
        for (invariant, what, tamper) in wrongs {
            let mut case = Case::sound();
            tamper(&mut case);
            let (violations, _) = case.judge();
            let told: BTreeSet<&str> =
                violations.iter().filter_map(|violation| Some(violation.split_once(": ")?.0)).collect();
            assert_eq!(told, BTreeSet::from([invariant]), "{what}: {violations:?}");
        }
    }

    #[test]
    fn a_repeated_webhook_is_no_news_and_one_that_comes_late_is() {
        let mut case = Case::sound();
        let again = case.told[0];
        case.told.push(again);
        assert_eq!(case.judge().0, Vec::<String>::new());
        let (endpoint, payment, mut late) = again;
        (late.event, late.stage) = (9, Stage::HELD);
        case.told.push((endpoint, payment, late));
        let (violations, _) = case.judge();
        assert!(violations.iter().any(|violation| violation.contains("behind")), "{violations:?}");
    }

    #[test]
    fn a_payment_that_went_back_is_looked_at_again() {
        let [accepted, initiated, held, settled, completed] = COMPLETED;
        let mut case = Case::sound();
        case.tell(id(1), &[accepted, initiated, held, settled, held, settled, completed]);
        assert_eq!(case.judge(), (vec![], vec![id(1)]));
        case.tell(
            id(1),
            &[accepted, initiated, held, settled, held, accepted, initiated, held, settled, completed],
        );
        assert_eq!(case.judge(), (vec![], vec![id(1)]));
    }
}
