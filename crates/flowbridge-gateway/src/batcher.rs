//! The batcher: payments that arrive together are committed together.
//!
//! It takes what is waiting, up to a slice, and commits it while the next slice gathers. Slices begin at a pace, because one
//! of ten payments costs little more than one of two; a request that comes after a pause goes at once. A slice that the database refuses as a whole (another process was faster with a key or a reference) is
//! tried again, and then one by one, so that each request gets its own answer.

use crate::answer::Refusal;
use crate::{GatewayParts, GatewaySettings, payments};
use flowbridge_api::problem::ErrorCode;
use flowbridge_domain::time::Clock;
use flowbridge_store::accept::{Accepted, Decision, NewPayment, PaymentPolicy, accept};
use flowbridge_store::wake::{Wake, Work};
use flowbridge_store::{Db, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

/// Requests that may wait for the batcher: some seconds of a busy gateway. Beyond it, load is shed.
const WAITING_MAX: usize = 8_192;
/// Slices under way at the same time.
const COMMITS_MAX: usize = 2;

type Reply = oneshot::Sender<Result<Accepted, Refusal>>;

/// Hands requests to the batcher's tasks.
#[derive(Debug, Clone)]
pub(crate) struct Batcher(mpsc::Sender<(NewPayment, Reply)>);

impl Batcher {
    pub(crate) fn start(parts: &GatewayParts, settings: &GatewaySettings) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
        for _ in 0..COMMITS_MAX {
            let worker = Committer {
                db: parts.db.clone(),
                clock: parts.clock.clone(),
                wake: parts.wake.clone(),
                policy: settings.policy,
                slice_max: settings.accept_slice_max,
                pace: settings.accept_pace,
                base: settings.issuer.clone(),
            };
            tokio::spawn(worker.run(receiver.clone()));
        }
        Self(sender)
    }

    /// Waits until the payment is committed or refused.
    pub(crate) async fn accept(&self, payment: NewPayment) -> Result<Accepted, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.0.try_send((payment, reply)).map_err(|_| Refusal::new(ErrorCode::Unavailable))?;
        answer.await.map_err(|_| Refusal::new(ErrorCode::Unavailable))?
    }
}

struct Committer {
    db: Db,
    clock: Arc<dyn Clock>,
    wake: Wake,
    policy: PaymentPolicy,
    slice_max: usize,
    /// How far apart the beginnings of its slices are at least.
    pace: Duration,
    /// Our public address.
    base: String,
}

impl Committer {
    async fn run(self, receiver: Arc<tokio::sync::Mutex<mpsc::Receiver<(NewPayment, Reply)>>>) {
        loop {
            let mut waiting = Vec::new();
            if receiver.lock().await.recv_many(&mut waiting, self.slice_max).await == 0 {
                return;
            }
            let began = Instant::now();
            let (requests, replies): (Vec<NewPayment>, Vec<Reply>) = waiting.into_iter().unzip();
            metrics::histogram!("accept_slice_payments")
                .record(f64::from(u32::try_from(requests.len()).unwrap_or(u32::MAX)));
            for (reply, outcome) in replies.into_iter().zip(self.commit(&requests).await) {
                // A client that has gone will ask again.
                drop(reply.send(outcome));
            }
            self.wake.ring(Work::ChainEffects);
            self.wake.ring(Work::PaymentEvents);
            sleep_until(began + self.pace).await;
        }
    }

    async fn commit(&self, requests: &[NewPayment]) -> Vec<Result<Accepted, Refusal>> {
        match self.attempt(requests).await {
            Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
            Err(error)
                if requests.len() > 1 && !matches!(error, StoreError::Unavailable(_) | StoreError::Busy) =>
            {
                let mut outcomes = Vec::with_capacity(requests.len());
                for request in requests {
                    let alone = self.attempt(std::slice::from_ref(request)).await;
                    outcomes.push(
                        alone
                            .map_err(Refusal::from)
                            .and_then(|mut one| one.pop().ok_or_else(|| Refusal::new(ErrorCode::Internal))),
                    );
                }
                outcomes
            }
            // One by one would only take longer.
            Err(error) => {
                let refusal = Refusal::from(error);
                requests.iter().map(|_| Err(refusal.clone())).collect()
            }
        }
    }

    /// Tries twice: whoever was faster with a key or a reference is found the second time.
    async fn attempt(&self, requests: &[NewPayment]) -> Result<Vec<Accepted>, StoreError> {
        let render =
            |request: &NewPayment, decision: &Decision| payments::render(&self.base, request, decision);
        let once = || accept(&self.db, requests, &self.policy, self.clock.now(), &render);
        match once().await {
            Err(StoreError::Refused { .. } | StoreError::TryAgain(_)) => once().await,
            other => other,
        }
    }
}
