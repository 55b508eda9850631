//! The client: single signed-in requests over HTTP, at a rate that does not wait for answers, or as many as there are clients.

use super::cast::{ACCOUNTS_EACH, CURRENCY, Kind, PARTICIPANTS, POOR_EACH, SLOW_EACH, iban};
use super::journal::Journal;
use super::stack::Stack;
use crate::client::{ApiClient, new_key};
use anyhow::Result;
use clap::Args;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use secrecy::ExposeSecret as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How payments come.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// Requests per second, whatever the answers do; latency counts from the instant a request should have been sent
    #[arg(long, value_name = "N", conflicts_with = "concurrency")]
    rate: Option<u32>,
    /// Clients, each of which begins when it is done with the one before
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// What amounts and accounts are drawn from
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
}

/// How payments come.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    /// So many a second.
    Rate(u32),
    /// So many clients.
    Clients(u32),
}

/// What a client waits for before it begins the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// The answer.
    Accepted,
    /// The end, as a webhook tells it.
    Ended,
}

impl LoadArgs {
    pub(super) fn shape(&self, default: Shape) -> Shape {
        match (self.rate, self.concurrency) {
            (Some(rate), _) => Shape::Rate(rate.max(1)),
            (None, Some(clients)) => Shape::Clients(clients.max(1)),
            (None, None) => default,
        }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rate(rate) => write!(f, "{rate} requests/s, open loop"),
            Self::Clients(clients) => write!(f, "{clients} clients, closed loop"),
        }
    }
}

/// The reference of a run's payment.
fn reference(run: &str, number: usize) -> String {
    format!("{run}-{number}")
}

/// Reads the number back; none if the reference is not this run's.
pub(super) fn number_of(run: &str, reference: &str) -> Option<usize> {
    reference.strip_prefix(run)?.strip_prefix('-')?.parse().ok()
}

/// Clients at work.
pub(super) struct Load {
    stop: CancellationToken,
    tasks: TaskTracker,
}

struct Client {
    journal: Arc<Journal>,
    http: reqwest::Client,
    url: String,
    /// One signed-in client per institution.
    api: Vec<ApiClient>,
    run: String,
    random: Mutex<StdRng>,
    until: Until,
}

impl Load {
    /// Begins to send. `run` is what references begin with.
    pub(super) fn start(
        stack: &Stack,
        journal: &Arc<Journal>,
        run: &str,
        (shape, until, seed): (Shape, Until, u64),
    ) -> Result<Self> {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).tcp_nodelay(true).build()?;
        let client = Arc::new(Client {
            journal: journal.clone(),
            http,
            url: format!("{}/v1/payments", stack.config.issuer()),
            api: PARTICIPANTS.iter().map(|name| stack.client(name)).collect::<Result<_>>()?,
            run: run.to_owned(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            until,
        });
        let load = Self { stop: CancellationToken::new(), tasks: TaskTracker::new() };
        match shape {
            Shape::Rate(rate) => {
                let (stop, tasks) = (load.stop.clone(), load.tasks.clone());
                load.tasks.spawn(client.at_rate(rate, stop, tasks));
            }
            Shape::Clients(clients) => {
                for _ in 0..clients {
                    load.tasks.spawn(client.clone().one_by_one(load.stop.clone()));
                }
            }
        }
        Ok(load)
    }

    /// Begins no more, and waits for the answers that are still to come.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Client {
    async fn at_rate(self: Arc<Self>, rate: u32, stop: CancellationToken, tasks: TaskTracker) {
        let interval = Duration::from_secs(1) / rate;
        let mut due = self.journal.now();
        while !stop.is_cancelled() {
            let now = self.journal.now();
            while due <= now {
                let (number, kind, _) = self.begin(due);
                let client = self.clone();
                tasks.spawn(async move { client.send(number, kind).await });
                due += interval;
            }
            // The timer's grain is a millisecond: what falls into it is sent together.
            tokio::time::sleep(due.saturating_sub(self.journal.now())).await;
        }
    }

    async fn one_by_one(self: Arc<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let (number, kind, ended) = self.begin(self.journal.now());
            self.send(number, kind).await;
            if self.until == Until::Ended {
                tokio::select! {
                    // An error says that it was refused: then there is nothing to wait for.
                    _ = ended => {}
                    () = stop.cancelled() => {}
                }
            }
        }
    }

    /// Of every hundred payments five are declined and one is slow.
    fn begin(&self, intended: Duration) -> (usize, Kind, oneshot::Receiver<()>) {
        let kind = match self.random().random_range(0..100) {
            0..5 => Kind::Poor,
            5 => Kind::Slow,
            _ => Kind::Rich,
        };
        let (number, ended) = self.journal.begin(kind, intended);
        (number, kind, ended)
    }

    fn random(&self) -> std::sync::MutexGuard<'_, StdRng> {
        self.random.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Posts one payment from an account of this kind to any account of the other institution.
    async fn send(&self, number: usize, kind: Kind) {
        let (debtor, body) = self.payment(number, kind);
        match self.post(debtor, body).await {
            Ok(()) => self.journal.accepted(number),
            Err(error) => self.journal.refused(number, format!("{error:#}")),
        }
    }

    fn payment(&self, number: usize, kind: Kind) -> (usize, String) {
        let mut random = self.random();
        let debtor = random.random_range(0..PARTICIPANTS.len());
        let account = match kind {
            Kind::Poor => random.random_range(0..POOR_EACH),
            Kind::Slow => random.random_range(POOR_EACH..POOR_EACH + SLOW_EACH),
            Kind::Rich => random.random_range(POOR_EACH + SLOW_EACH..ACCOUNTS_EACH),
        };
        let creditor = random.random_range(0..ACCOUNTS_EACH);
        let amount = random.random_range(100..10_000);
        let (from, to) = (iban(debtor, account), iban((debtor + 1) % PARTICIPANTS.len(), creditor));
        let id = reference(&self.run, number);
        let body = format!(
            r#"{{"debtor":{{"iban":"{from}"}},"creditor":{{"iban":"{to}"}},"instructed_amount":{{"amount":{amount},"currency":"{CURRENCY}"}},"end_to_end_id":"{id}"}}"#
        );
        (debtor, body)
    }

    async fn post(&self, participant: usize, body: String) -> Result<()> {
        let api = self.api.get(participant).ok_or_else(|| anyhow::anyhow!("no such institution"))?;
        let token = api.token().await?;
        let answer = self
            .http
            .post(&self.url)
            .bearer_auth(token.expose_secret())
            .header("content-type", "application/json")
            .header("idempotency-key", new_key())
            .body(body)
            .send()
            .await?;
        let status = answer.status();
        let text = answer.text().await?;
        anyhow::ensure!(status.as_u16() == 201, "{status}: {text}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_leads_back_to_its_payment_and_to_no_other_runs() {
        assert_eq!(number_of("BENCH1", &reference("BENCH1", 42)), Some(42));
        assert_eq!(number_of("BENCH", &reference("BENCH1", 42)), None);
        assert_eq!(number_of("BENCH1", "INVOICE-4711"), None);
    }
}
