//! The batcher: payments that arrive together are committed together.
//!
//! It takes what is waiting, up to a slice, and commits it while the next slice gathers. Slices begin at a pace, because one
//! of ten payments costs little more than one of two; a request that comes after a pause goes at once. A slice that the
//! database refuses as a whole (another process was faster with a key or a reference) is tried again, then in tenths and one by
//! one, so that each request gets its own answer.
//!
//! After a standstill of the database more may wait than is carried out within the patience of those who ask. A request
//! whose client has gone is therefore passed over (it asks again, under the same key), and a slice that takes too long turns
//! away what is left of it: otherwise all time would go into answers that nobody waits for, and clients that ask again at the
//! other gateway would keep both busy with each other's keys, for as long as they ask.

use crate::answer::{Refusal, Trace};
use crate::{GatewayParts, GatewaySettings, payments};
use flowbridge_api::problem::ErrorCode;
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::time::{Clock, Timestamp};
use flowbridge_store::accept::{Accepted, Decision, NewPayment, PaymentPolicy, accept};
use flowbridge_store::wake::{Wake, Work};
use flowbridge_store::{Db, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

/// Requests that may wait for the batcher: some seconds of a busy gateway. Beyond it, load is shed.
const WAITING_MAX: usize = 8_192;
/// Lines of bulk requests among them, of all together: however many there are, whoever pays one by one finds room.
const LINES_WAITING_MAX: usize = WAITING_MAX / 2;
/// Slices under way at the same time.
pub const COMMITS_MAX: usize = 2;
/// Parts of a slice are tried until then; what is left is turned away.
const SLICE_TIME_MAX: Duration = Duration::from_secs(2);
/// How often a slice is tried as a whole: whoever was faster with a key or a reference is found the next time.
const TRIES_MAX: usize = 3;

/// Who asks for a payment.
#[derive(Debug)]
struct Asker {
    payment: PaymentId,
    trace: Trace,
    since: Timestamp,
    reply: oneshot::Sender<Result<Accepted, Refusal>>,
    /// Its part of the room for lines. Given back when it is dealt with, also if nobody waits for it any more.
    _room: Option<OwnedSemaphorePermit>,
}

/// Hands requests to the batcher's tasks.
#[derive(Clone)]
pub(crate) struct Batcher {
    queue: mpsc::Sender<(NewPayment, Asker)>,
    room_for_lines: Arc<Semaphore>,
    clock: Arc<dyn Clock>,
}

impl Batcher {
    pub(crate) fn start(parts: &GatewayParts, settings: &GatewaySettings) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
        for _ in 0..COMMITS_MAX {
            let worker = Committer {
                db: parts.accept_db.clone(),
                clock: parts.clock.clone(),
                wake: parts.wake.clone(),
                policy: settings.policy,
                slice_max: settings.accept_slice_max,
                pace: settings.accept_pace,
                base: settings.issuer.clone(),
            };
            tokio::spawn(worker.run_on(receiver.clone()));
        }
        let room_for_lines = Arc::new(Semaphore::new(LINES_WAITING_MAX));
        Self { queue: sender, room_for_lines, clock: parts.clock.clone() }
    }

    /// Waits until the payment is committed or refused.
    pub(crate) async fn accept(&self, payment: NewPayment, trace: Trace) -> Result<Accepted, Refusal> {
        self.accept_in(None, payment, trace).await
    }

    /// The same for a line of a bulk request, which first waits for room among lines.
    pub(crate) async fn accept_line(&self, payment: NewPayment, trace: Trace) -> Result<Accepted, Refusal> {
        let room = self.room_for_lines.clone().acquire_owned().await;
        let room = room.map_err(|_| Refusal::new(ErrorCode::Unavailable))?;
        self.accept_in(Some(room), payment, trace).await
    }

    async fn accept_in(
        &self,
        room: Option<OwnedSemaphorePermit>,
        payment: NewPayment,
        trace: Trace,
    ) -> Result<Accepted, Refusal> {
        let (reply, answer) = oneshot::channel();
        let asker = Asker { payment: payment.id, trace, since: self.clock.now(), reply, _room: room };
        self.queue.try_send((payment, asker)).map_err(|_| Refusal::new(ErrorCode::Unavailable))?;
        answer.await.map_err(|_| Refusal::new(ErrorCode::Unavailable))?
    }
}

#[derive(Clone)]
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

/// What is waiting, for whichever committer is free.
type Queue = Arc<tokio::sync::Mutex<mpsc::Receiver<(NewPayment, Asker)>>>;

impl Committer {
    /// Runs on after a panic, which is told where it happened: whoever asked for that slice is told to ask again, and the next is
    /// another's.
    async fn run_on(self, receiver: Queue) {
        while tokio::spawn(self.clone().run(receiver.clone())).await.is_err_and(|error| error.is_panic()) {}
    }

    async fn run(self, receiver: Queue) {
        loop {
            let mut waiting = Vec::new();
            if receiver.lock().await.recv_many(&mut waiting, self.slice_max).await == 0 {
                return;
            }
            let began = Instant::now();
            let asked = waiting.len();
            waiting.retain(|(_, asker)| !asker.reply.is_closed());
            metrics::counter!("accept_abandoned_total")
                .increment(u64::try_from(asked - waiting.len()).unwrap_or(u64::MAX));
            if waiting.is_empty() {
                continue;
            }
            let (requests, askers): (Vec<NewPayment>, Vec<Asker>) = waiting.into_iter().unzip();
            metrics::histogram!("accept_slice_payments")
                .record(f64::from(u32::try_from(requests.len()).unwrap_or(u32::MAX)));
            for (asker, outcome) in askers.into_iter().zip(self.commit(&requests, began).await) {
                // Here, because a client may go between the commit and its answer, and hears of a repeat when it asks again.
                if let Ok(Accepted::New(answer)) = &outcome {
                    let times = (asker.since, self.clock.now());
                    payments::tell(asker.payment, &asker.trace, times, answer);
                }
                drop(asker.reply.send(outcome));
            }
            self.wake.ring(Work::ChainEffects);
            self.wake.ring(Work::PaymentEvents);
            sleep_until(began + self.pace).await;
        }
    }

    /// One outcome per request, in their order.
    async fn commit(&self, requests: &[NewPayment], began: Instant) -> Vec<Result<Accepted, Refusal>> {
        let mut outcomes = Vec::with_capacity(requests.len());
        let mut left = vec![requests];
        while let Some(part) = left.pop() {
            let is_whole = part.len() == requests.len();
            if !is_whole && began.elapsed() >= SLICE_TIME_MAX {
                outcomes.extend(part.iter().map(|_| Err(Refusal::new(ErrorCode::Unavailable))));
                continue;
            }
            match self.attempt(part).await {
                Ok(some) => outcomes.extend(some.into_iter().map(Ok)),
                Err(error)
                    if part.len() > 1
                        && !matches!(
                            error,
                            StoreError::Unavailable(_) | StoreError::Away | StoreError::Busy
                        ) =>
                {
                    left.extend(part.chunks(part.len().div_ceil(10)).rev());
                }
                // In parts it would only take longer.
                Err(error) => {
                    let refusal = Refusal::from(error);
                    outcomes.extend(part.iter().map(|_| Err(refusal.clone())));
                }
            }
        }
        outcomes
    }

    async fn attempt(&self, requests: &[NewPayment]) -> Result<Vec<Accepted>, StoreError> {
        let render =
            |request: &NewPayment, decision: &Decision| payments::render(&self.base, request, decision);
        let once = || accept(&self.db, requests, &self.policy, self.clock.now(), &render);
        for _ in 1..TRIES_MAX {
            match once().await {
                Err(error @ StoreError::TryAgain(_)) if error.is_lock_timeout() => return Err(error),
                Err(StoreError::TryAgain(_)) => {}
                other => return other,
            }
        }
        once().await
    }
}
