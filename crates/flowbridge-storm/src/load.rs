//! Payments posted at a steady rate, whatever the system is doing, and the list of what it has acknowledged.
//!
//! The list is the first oracle: what the API has said yes to is written to a file and forced to disk before it counts
//! here. A request without an answer is repeated under its key; one in ten is sent twice at the same time on purpose.

use crate::api::{Answer, Api, Call};
use anyhow::{Context as _, Result};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// How long a partner repeats a request before giving up and asking later.
const POST_PATIENCE: Duration = Duration::from_secs(90);
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Acknowledged, with this answer.
    Acknowledged { id: String, body: String },
    /// Refused for good.
    Refused(Answer),
    /// No answer for as long as a partner repeats: it may have happened, once.
    Unknown,
}

/// A payment that was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) key: String,
    pub(crate) debtor: Party,
    pub(crate) creditor: Party,
    pub(crate) amount: i64,
    pub(crate) reference: String,
    pub(crate) fate: Fate,
    pub(crate) tries: u32,
}

impl Order {
    fn body(&self) -> Value {
        json!({
            "debtor": { "iban": self.debtor.iban },
            "creditor": { "iban": self.creditor.iban },
            "instructed_amount": { "amount": self.amount, "currency": self.debtor.currency },
            "end_to_end_id": self.reference,
        })
    }

    fn draw(rng: &mut StdRng, seed: u64, number: u64) -> Self {
        let debtor = PARTIES[rng.random_range(0..PARTIES.len())];
        let others: Vec<Party> = PARTIES
            .into_iter()
            .filter(|other| other.currency == debtor.currency && *other != debtor)
            .collect();
        let creditor = others.get(rng.random_range(0..others.len())).copied().unwrap_or(debtor);
        Self {
            key: format!("storm-{seed}-{number}"),
            debtor,
            creditor,
            amount: rng.random_range(1..=AMOUNT_MAX),
            reference: format!("STORM-{seed}-{number}"),
            fate: Fate::Unknown,
            tries: 0,
        }
    }
}

/// Everything that was asked for, by key, and what was wrong with the answers.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) orders: BTreeMap<String, Order>,
    pub(crate) wrong: Vec<String>,
    pub(crate) tries: u64,
    pub(crate) failed_tries: u64,
}

/// The client under load.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    api: Arc<Api>,
    book: Arc<Mutex<Book>>,
    acknowledgements: mpsc::Sender<(String, oneshot::Sender<()>)>,
    seed: u64,
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
        Ok(Self { api, book: Arc::default(), acknowledgements, seed })
    }

    /// Posts `rate` payments a second until told to stop, then waits for those under way.
    pub(crate) async fn run(self, rate: u32, stop: watch::Receiver<bool>) -> Result<()> {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let mut clock = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
        let mut posts = JoinSet::new();
        let mut number = 0;
        while !*stop.borrow() {
            clock.tick().await;
            number += 1;
            let order = Order::draw(&mut rng, self.seed, number);
            let habits = Habits {
                gateway: rng.random_range(0..2),
                twice: rng.random_ratio(1, 10),
                cancels: rng.random_ratio(1, 25),
                asks_again: rng.random_ratio(1, 20),
            };
            let load = self.clone();
            posts.spawn(async move { load.post(order, habits).await });
            while let Some(ended) = posts.try_join_next() {
                ended??;
            }
        }
        while let Some(ended) = posts.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// Posts one payment of its own, and gives its id.
    pub(crate) async fn probe(&self, number: u64) -> Result<String> {
        let mut rng = StdRng::seed_from_u64(number);
        let mut order = Order::draw(&mut rng, self.seed, number);
        order.key = format!("probe-{}-{number}", self.seed);
        order.reference = format!("PROBE-{}-{number}", self.seed);
        match self.post(order, Habits::default()).await? {
            Fate::Acknowledged { id, .. } => Ok(id),
            fate @ (Fate::Refused(_) | Fate::Unknown) => {
                anyhow::bail!("a payment in fair weather was not accepted: {fate:?}")
            }
        }
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut Book) -> T) -> T {
        look(&mut self.book.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn post(&self, mut order: Order, habits: Habits) -> Result<Fate> {
        let body = order.body();
        let key = order.key.clone();
        self.look(|book| book.orders.insert(key.clone(), order.clone()));
        let began = Instant::now();
        let mut gateway = habits.gateway;
        let call = Call {
            who: order.debtor.participant,
            method: &Method::POST,
            path: "/v1/payments",
            key: Some(&key),
            body: Some(&body),
        };
        while order.fate == Fate::Unknown && began.elapsed() < POST_PATIENCE {
            let answers = if habits.twice && order.tries == 0 {
                let (one, other) =
                    tokio::join!(self.api.call(gateway, call), self.api.call(gateway + 1, call));
                vec![one, other]
            } else {
                vec![self.api.call(gateway, call).await]
            };
            for answer in answers {
                order.tries += 1;
                self.look(|book| book.tries += 1);
                self.judge(&mut order, answer);
            }
            if order.fate == Fate::Unknown {
                gateway += 1;
                tokio::time::sleep(Duration::from_millis(50 * u64::from(order.tries.min(10)))).await;
            }
        }
        if let Fate::Acknowledged { id, .. } = &order.fate {
            let (done, written) = oneshot::channel();
            let line = format!("{}\n", json!({ "key": key, "id": id, "body": body }));
            self.acknowledgements.send((line, done)).await.context("the acknowledgement log is gone")?;
            written.await.context("the acknowledgement log could not be written")?;
        }
        let fate = order.fate.clone();
        self.look(|book| book.orders.insert(key.clone(), order.clone()));
        if let Fate::Acknowledged { id, body: first } = &fate {
            if habits.cancels {
                let path = format!("/v1/payments/{id}/cancel");
                let cancel = format!("{key}-cancel");
                let cancel = Call { path: &path, key: Some(&cancel), body: None, ..call };
                // Refused or lost, both are fine: what counts is how the payment ends.
                let _ = self.api.call(gateway, cancel).await;
            }
            if habits.asks_again {
                self.ask_again(gateway + 1, call, first).await;
            }
        }
        Ok(fate)
    }

    /// The same key once more, and with another body.
    async fn ask_again(&self, gateway: usize, call: Call<'_>, first: &str) {
        if let Ok(again) = self.api.call(gateway, call).await
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
        if let Ok(refused) = self.api.call(gateway, other).await
            && refused.status < 500
            && !matches!(refused.status, 409 | 422)
        {
            self.wrong(format!("I2: {:?} with another body was answered {refused:?}", call.key));
        }
    }

    fn judge(&self, order: &mut Order, answer: Result<Answer>) {
        let Ok(answer) = answer else {
            self.look(|book| book.failed_tries += 1);
            return;
        };
        match answer.status {
            201 => {
                let id = answer.json().ok().and_then(|body| Some(body.get("id")?.as_str()?.to_owned()));
                let Some(id) = id else {
                    self.wrong(format!("an answer without an id: {answer:?}"));
                    return;
                };
                if let Fate::Acknowledged { id: first, body } = &order.fate
                    && (*first != id || *body != answer.body)
                {
                    self.wrong(format!("I2: {} was answered {body} and {}", order.key, answer.body));
                }
                order.fate = Fate::Acknowledged { id, body: answer.body };
            }
            409 | 429 | 500.. => self.look(|book| book.failed_tries += 1),
            _ => {
                self.wrong(format!("{} was refused: {answer:?}", order.key));
                order.fate = Fate::Refused(answer);
            }
        }
    }

    fn wrong(&self, what: String) {
        self.look(|book| book.wrong.push(what));
    }
}

/// What a partner does beside posting.
#[derive(Debug, Clone, Copy, Default)]
struct Habits {
    gateway: usize,
    twice: bool,
    cancels: bool,
    asks_again: bool,
}
