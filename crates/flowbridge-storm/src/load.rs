//! Payments posted at a steady rate, whatever the system is doing, and the list of what it has acknowledged.
//!
//! The list is the first oracle: what the API has said yes to is written to a file and forced to disk before it counts
//! here, and in the end it is read back from there and compared with what the clients know ([`read_back`]). A request without
//! an answer is repeated under its key, the first time at once at the other gateway; one in ten is sent twice at the same time
//! on purpose, and the client of one in forty goes away before the answer.
//!
//! What is kept of each request is small, so that an hour of them fits into some hundred megabytes.

use crate::api::{Answer, Api, Call};
use anyhow::{Context as _, Result};
use flowbridge_domain::id::PaymentId;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// How long a partner repeats a request before giving up and asking later.
const POST_PATIENCE: Duration = Duration::from_secs(90);
/// Requests under way at the same time, while nothing is answered: each takes three file descriptors, with the lines between.
const UNDER_WAY_MAX: usize = 4_000;
/// Wrong answers are kept up to this many.
const WRONG_MAX: usize = 1_000;
/// The largest payment, minor units.
const AMOUNT_MAX: i64 = 500;

/// An account of the development stage, by participant, bank and currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Party {
    pub(crate) participant: &'static str,
    pub(crate) currency: &'static str,
    pub(crate) iban: &'static str,
}

const fn party(participant: &'static str, currency: &'static str, iban: &'static str) -> Party {
    Party { participant, currency, iban }
}

/// Each participant of the stage has its customers at the bank of the same name.
pub(crate) const PARTIES: [Party; 9] = [
    party("alpha", "EUR", "DE02120300000000202051"),
    party("beta", "EUR", "FR1420041010050500013M02606"),
    party("alpha", "CHF", "CH9300762011623852957"),
    party("beta", "CHF", "DE89370400440532013000"),
    party("beta", "CHF", "CH5604835012345678009"),
    party("alpha", "CHF", "CH0309000000250090342"),
    party("alpha", "CHF", "CH5109000000250092291"),
    party("beta", "CHF", "CH2909000000250094239"),
    party("beta", "CHF", "CH7730000001250094239"),
];

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Acknowledged, as this payment.
    Acknowledged(PaymentId),
    /// Refused for good.
    Refused,
    /// No answer for as long as a partner repeats: it may have happened, once.
    Unknown,
}

/// What a payment is called, and with it its key and its reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    /// One of those that are posted all the time.
    Load(u64),
    /// One that is posted to see whether payments get through.
    Probe(u64),
}

impl Name {
    fn key(self, seed: u64) -> String {
        match self {
            Self::Load(number) => format!("storm-{seed}-{number}"),
            Self::Probe(number) => format!("probe-{seed}-{number}"),
        }
    }

    fn reference(self, seed: u64) -> String {
        self.key(seed).to_uppercase()
    }

    /// Whose reference this is, if it is one of ours.
    pub(crate) fn of_reference(seed: u64, reference: &str) -> Option<Self> {
        let mut parts = reference.split('-');
        let (kind, ours, number) = (parts.next()?, parts.next()?, parts.next()?.parse().ok()?);
        match kind {
            "STORM" if ours == seed.to_string() => Some(Self::Load(number)),
            "PROBE" if ours == seed.to_string() => Some(Self::Probe(number)),
            _ => None,
        }
    }
}

/// A payment that was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order {
    pub(crate) debtor: Party,
    pub(crate) creditor: Party,
    pub(crate) amount: i64,
    pub(crate) fate: Fate,
}

impl Order {
    fn body(&self, reference: &str) -> Value {
        json!({
            "debtor": { "iban": self.debtor.iban },
            "creditor": { "iban": self.creditor.iban },
            "instructed_amount": { "amount": self.amount, "currency": self.debtor.currency },
            "end_to_end_id": reference,
        })
    }

    /// Between any two accounts, or any two of one institution's.
    fn draw(rng: &mut StdRng, within: Option<&str>) -> Self {
        let may = |party: &Party| within.is_none_or(|within| party.participant == within);
        let pairs: Vec<(Party, Party)> = PARTIES
            .into_iter()
            .flat_map(|debtor| PARTIES.map(|creditor| (debtor, creditor)))
            .filter(|(debtor, creditor)| debtor != creditor && debtor.currency == creditor.currency)
            .filter(|(debtor, creditor)| may(debtor) && may(creditor))
            .collect();
        let (debtor, creditor) = pairs[rng.random_range(0..pairs.len())];
        Self { debtor, creditor, amount: rng.random_range(1..=AMOUNT_MAX), fate: Fate::Unknown }
    }
}

/// How many requests were answered well, of those whose client did nothing wrong.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Answered {
    pub(crate) asked: u64,
    /// The first time.
    pub(crate) at_once: u64,
    /// The first time, or asked again at once at the other gateway, as an edge would.
    pub(crate) with_edge: u64,
    /// In the end, by a client that repeats.
    pub(crate) in_the_end: u64,
}

/// Everything that was asked for, and what was wrong with the answers.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) orders: BTreeMap<Name, Order>,
    pub(crate) wrong: Vec<String>,
    /// How often each HTTP status was the answer, to payments, to their cancelling, and to what was asked again.
    pub(crate) statuses: BTreeMap<u16, u64>,
    pub(crate) tries: u64,
    pub(crate) failed_tries: u64,
    /// Requests whose client went away before the answer.
    pub(crate) hung_up: u64,
    pub(crate) answered: Answered,
    /// When those asked whom neither gateway answered at once.
    pub(crate) unlucky: Vec<Instant>,
}

/// The client under load.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    api: Arc<Api>,
    book: Arc<Mutex<Book>>,
    acknowledgements: mpsc::Sender<(String, oneshot::Sender<()>)>,
    probes: Arc<AtomicU64>,
    pub(crate) seed: u64,
}

impl Load {
    pub(crate) fn new(api: Arc<Api>, log: &Path, seed: u64) -> Result<Self> {
        let mut file = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let (acknowledgements, mut inbox) = mpsc::channel::<(String, oneshot::Sender<()>)>(1_000);
        std::thread::spawn(move || {
            while let Some((line, done)) = inbox.blocking_recv() {
                let mut waiting = vec![done];
                let mut text = line;
                while let Ok((line, done)) = inbox.try_recv() {
                    text.push_str(&line);
                    waiting.push(done);
                }
                if file.write_all(text.as_bytes()).and_then(|()| file.sync_data()).is_err() {
                    // Without its log the oracle is worth nothing: whoever waits sees its channel closed.
                    return;
                }
                for done in waiting {
                    let _ = done.send(());
                }
            }
        });
        Ok(Self { api, book: Arc::default(), acknowledgements, probes: Arc::default(), seed })
    }

    /// Posts `rate` payments a second until told to stop, or less where that is not exact and the machine is slow, then waits for those
    /// under way.
    pub(crate) async fn run(self, (rate, is_exact): (u32, bool), stop: watch::Receiver<bool>) -> Result<()> {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let mut clock = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
        // On whatever machine there is, what could not be posted in time is not posted in one go after that.
        if !is_exact {
            clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let mut posts = JoinSet::new();
        let mut number = 0;
        while !*stop.borrow() {
            clock.tick().await;
            number += 1;
            let order = Order::draw(&mut rng, None);
            let habits = Habits {
                gateway: rng.random_range(0..2),
                twice: rng.random_ratio(1, 10),
                cancels: rng.random_ratio(1, 25),
                asks_again: rng.random_ratio(1, 20),
                hangs_up: rng.random_ratio(1, 40).then(|| Duration::from_micros(rng.random_range(0..8_000))),
            };
            let load = self.clone();
            let name = Name::Load(number);
            posts.spawn(async move { load.post(name, order, habits).await });
            while posts.len() >= UNDER_WAY_MAX {
                posts.join_next().await.context("a post")???;
            }
            while let Some(ended) = posts.try_join_next() {
                ended??;
            }
        }
        while let Some(ended) = posts.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// Posts one payment to see whether it gets through: any, or one between two accounts of an institution.
    pub(crate) async fn probe(&self, within: Option<&str>) -> Result<PaymentId> {
        let number = self.probes.fetch_add(1, Ordering::Relaxed) + 1;
        let order = Order::draw(&mut StdRng::seed_from_u64(number), within);
        match self.post(Name::Probe(number), order, Habits::default()).await? {
            Fate::Acknowledged(id) => Ok(id),
            fate @ (Fate::Refused | Fate::Unknown) => {
                anyhow::bail!("a payment in fair weather was not accepted: {fate:?}")
            }
        }
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut Book) -> T) -> T {
        look(&mut self.book.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn post(&self, name: Name, mut order: Order, habits: Habits) -> Result<Fate> {
        let (key, reference) = (name.key(self.seed), name.reference(self.seed));
        let body = order.body(&reference);
        self.look(|book| book.orders.insert(name, order));
        let call = Call {
            who: order.debtor.participant,
            method: &Method::POST,
            path: "/v1/payments",
            key: Some(&key),
            body: Some(&body),
        };
        let mut first = String::new();
        let rounds = self.ask(call, habits, &mut order, &mut first).await;
        if let Fate::Acknowledged(id) = order.fate {
            let (done, written) = oneshot::channel();
            let line = line_of(&key, id, &body);
            self.acknowledgements.send((line, done)).await.context("the acknowledgement log is gone")?;
            written.await.context("the acknowledgement log could not be written")?;
        }
        self.look(|book| book.orders.insert(name, order));
        if let Fate::Acknowledged(id) = order.fate {
            let gateway = habits.gateway + rounds;
            if habits.cancels {
                let path = format!("/v1/payments/{id}/cancel");
                let cancel = format!("{key}-cancel");
                let cancel = Call { path: &path, key: Some(&cancel), body: None, ..call };
                // Refused or lost, both are fine: what counts is how the payment ends.
                let _ = self.call(gateway, cancel).await;
            }
            if habits.asks_again {
                self.ask_again(gateway + 1, call, &first).await;
            }
        }
        Ok(order.fate)
    }

    /// Asks until there is an answer, or patience ends. Gives the number of rounds, and the first answer's body in `first`.
    async fn ask(&self, call: Call<'_>, habits: Habits, order: &mut Order, first: &mut String) -> usize {
        let began = Instant::now();
        let mut rounds = 0;
        while order.fate == Fate::Unknown && began.elapsed() < POST_PATIENCE {
            let gateway = habits.gateway + rounds;
            let answers = match habits.hangs_up {
                Some(patience) if rounds == 0 => {
                    self.look(|book| book.hung_up += 1);
                    let answer = tokio::time::timeout(patience, self.call(gateway, call)).await;
                    vec![answer.unwrap_or_else(|_| Err(anyhow::anyhow!("the client went away")))]
                }
                _ if habits.twice && rounds == 0 => {
                    let (one, other) = tokio::join!(self.call(gateway, call), self.call(gateway + 1, call));
                    vec![one, other]
                }
                _ => vec![self.call(gateway, call).await],
            };
            for answer in answers {
                self.look(|book| book.tries += 1);
                self.judge(order, call, answer, first);
            }
            rounds += 1;
            // The first time at once, at the other gateway; then ever later.
            if order.fate == Fate::Unknown && rounds > 1 {
                tokio::time::sleep(Duration::from_millis(50 * u64::try_from(rounds.min(10)).unwrap_or(10)))
                    .await;
            }
        }
        if habits.hangs_up.is_none() {
            let is_answered = order.fate != Fate::Unknown;
            self.look(|book| {
                book.answered.asked += 1;
                book.answered.at_once += u64::from(is_answered && rounds == 1);
                book.answered.with_edge += u64::from(is_answered && rounds <= 2);
                book.answered.in_the_end += u64::from(is_answered);
                if !(is_answered && rounds <= 2) {
                    book.unlucky.push(began);
                }
            });
        }
        rounds
    }

    /// One try at one gateway, whose status is counted.
    async fn call(&self, gateway: usize, call: Call<'_>) -> Result<Answer> {
        let answer = self.api.call(gateway, call).await?;
        self.look(|book| *book.statuses.entry(answer.status).or_default() += 1);
        Ok(answer)
    }

    /// The same key once more, and with another body.
    async fn ask_again(&self, gateway: usize, call: Call<'_>, first: &str) {
        if let Ok(again) = self.call(gateway, call).await
            && again.status < 500
            && again.status != 409
            && (again.status != 201 || again.body != first)
        {
            self.wrong(format!("I2: {:?} asked again was answered {again:?}, at first {first}", call.key));
        }
        let mut other = call.body.cloned().unwrap_or_default();
        if let Some(fields) = other.as_object_mut() {
            fields.insert("remittance_information".to_owned(), "something else".into());
        }
        let other = Call { body: Some(&other), ..call };
        if let Ok(refused) = self.call(gateway, other).await
            && refused.status < 500
            && !matches!(refused.status, 409 | 422)
        {
            self.wrong(format!("I2: {:?} with another body was answered {refused:?}", call.key));
        }
    }

    fn judge(&self, order: &mut Order, call: Call<'_>, answer: Result<Answer>, first: &mut String) {
        let Ok(answer) = answer else {
            self.look(|book| book.failed_tries += 1);
            return;
        };
        match answer.status {
            201 => {
                let id = answer.json().ok().and_then(|body| PaymentId::parse(body.get("id")?.as_str()?).ok());
                let Some(id) = id else {
                    self.wrong(format!("an answer without an id: {answer:?}"));
                    return;
                };
                if order.fate == Fate::Unknown {
                    order.fate = Fate::Acknowledged(id);
                    *first = answer.body;
                } else if *first != answer.body {
                    self.wrong(format!("I2: {:?} was answered {first} and {}", call.key, answer.body));
                }
            }
            409 | 429 | 500.. => self.look(|book| book.failed_tries += 1),
            _ => {
                self.wrong(format!("{:?} was refused: {answer:?}", call.key));
                order.fate = Fate::Refused;
            }
        }
    }

    fn wrong(&self, what: String) {
        self.look(|book| {
            if book.wrong.len() < WRONG_MAX {
                book.wrong.push(what);
            }
        });
    }
}

/// Compares the list that was forced to disk with what the clients know, and says where they differ. A probe may be dropped
/// between the log and its own notes, when what it looks at has taken too long: it is acknowledged from here on.
pub(crate) fn read_back(log: impl BufRead, book: &mut Book, seed: u64) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let mut written = BTreeSet::new();
    for line in log.lines() {
        let line = line.context("read the acknowledgement log")?;
        let Some((name, id, body)) = acknowledgement(&line, seed) else {
            wrong.push(format!("I1: a line of the acknowledgement log cannot be read: {line}"));
            continue;
        };
        if !written.insert(name) {
            wrong.push(format!("I1: {name:?} is in the acknowledgement log twice"));
        }
        let Some(order) = book.orders.get_mut(&name) else {
            wrong.push(format!("I1: {name:?} was acknowledged as {id} by the log, and nobody asked for it"));
            continue;
        };
        if order.body(&name.reference(seed)) != body {
            wrong.push(format!("I1: by the log {name:?} was acknowledged for something else: {body}"));
        }
        match order.fate {
            Fate::Acknowledged(known) if known == id => {}
            Fate::Unknown if matches!(name, Name::Probe(_)) => order.fate = Fate::Acknowledged(id),
            fate @ (Fate::Acknowledged(_) | Fate::Refused | Fate::Unknown) => {
                wrong.push(format!("I1: {name:?} was acknowledged as {id} by the log, and is {fate:?}"));
            }
        }
    }
    for (name, order) in &book.orders {
        if matches!(order.fate, Fate::Acknowledged(_)) && !written.contains(name) {
            wrong.push(format!("I1: {name:?} is {:?}, and not in the acknowledgement log", order.fate));
        }
    }
    Ok(wrong)
}

/// What a line of the log says: which order was acknowledged, as which payment, and what had been asked for.
fn acknowledgement(line: &str, seed: u64) -> Option<(Name, PaymentId, Value)> {
    let mut said: Value = serde_json::from_str(line).ok()?;
    let name = Name::of_reference(seed, &said.get("key")?.as_str()?.to_uppercase())?;
    let id = PaymentId::parse(said.get("id")?.as_str()?).ok()?;
    Some((name, id, said.get_mut("body")?.take()))
}

/// What is written of an acknowledged order.
fn line_of(key: &str, id: PaymentId, body: &Value) -> String {
    format!("{}\n", json!({ "key": key, "id": id.to_string(), "body": body }))
}

/// What a partner does beside posting.
#[derive(Debug, Clone, Copy, Default)]
struct Habits {
    gateway: usize,
    twice: bool,
    cancels: bool,
    asks_again: bool,
    /// Goes away so soon after its first try, without its answer.
    hangs_up: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::{Book, Fate, Name, Order, PARTIES, line_of, read_back};
    use flowbridge_domain::id::PaymentId;
    use flowbridge_domain::time::Timestamp;

    const SEED: u64 = 7;

    fn payment(number: u8) -> PaymentId {
        PaymentId::generate(Timestamp::from_secs(1_000), [number; 10])
    }

    fn order(fate: Fate) -> Order {
        let [debtor, creditor, ..] = PARTIES;
        Order { debtor, creditor, amount: 100, fate }
    }

    fn line(name: Name, id: PaymentId) -> String {
        line_of(&name.key(SEED), id, &order(Fate::Unknown).body(&name.reference(SEED)))
    }

    /// What is told of a log, where the book has this order only.
    #[track_caller]
    fn check(log: &str, (name, fate): (Name, Fate), expected: &[&str]) -> Book {
        let mut book = Book::default();
        book.orders.insert(name, order(fate));
        let told = read_back(log.as_bytes(), &mut book, SEED).unwrap();
        assert_eq!(told.len(), expected.len(), "{told:?}");
        for (told, expected) in told.iter().zip(expected) {
            assert!(told.starts_with("I1: ") && told.contains(expected), "{told} does not say {expected}");
        }
        book
    }

    #[test]
    fn what_lies_on_disk_and_what_clients_know_are_the_same() {
        let (name, id) = (Name::Load(1), payment(1));
        let (ours, known) = (line(name, id), (name, Fate::Acknowledged(id)));
        check(&ours, known, &[]);
        check("", (name, Fate::Unknown), &[]);
        check("", known, &["not in the acknowledgement log"]);
        check(&line(name, payment(2)), known, &["and is Acknowledged"]);
        check(&ours, (name, Fate::Refused), &["and is Refused"]);
        check(&ours, (name, Fate::Unknown), &["and is Unknown"]);
        check(&ours.repeat(2), known, &["twice"]);
        check(&format!("{ours}{}", line(Name::Load(2), payment(2))), known, &["nobody asked for it"]);
        check(&format!("{ours}{{\"key\":"), known, &["cannot be read"]);
        check(&ours.replace("\"amount\":100", "\"amount\":101"), known, &["something else"]);
    }

    #[test]
    fn a_probe_is_acknowledged_that_was_dropped_before_it_knew() {
        let (name, id) = (Name::Probe(1), payment(1));
        let book = check(&line(name, id), (name, Fate::Unknown), &[]);
        let fates: Vec<Fate> = book.orders.values().map(|order| order.fate).collect();
        assert_eq!(fates, [Fate::Acknowledged(id)]);
    }
}
