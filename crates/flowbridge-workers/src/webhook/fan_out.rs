//! The fan-out loops: one reads payments as the group `webhooks` and makes a delivery of each event to each endpoint of the
//! participants that may see it; the other reads reconciliation as the group `webhooks_operator`, for the operator's endpoints.
//!
//! One transaction per turn takes in a slice of every partition held: one statement reads the log and queues, and the
//! offsets move with it, so that each event is queued exactly once. Nothing of an event is interpreted here, so none can be
//! poison: what cannot be delivered fails later, in its own delivery. A slice that failed is followed by one of half its size, since
//! one that is too large for the time that a statement has would be too large for ever; each that succeeds by one of twice its size.
//!
//! Each has a group, a statement and a bell of its own: what participants hear of their payments neither waits for the other
//! nor does more because of it. No subject has events of both, so its order is that of one of them.

use crate::context::{
    Context, RESTING_POLL, RESTING_POLL_OF_SLOW, RESTS_AFTER, Rhythm, Turn, Worker, run_loop,
};
use crate::membership::Membership;
use flowbridge_domain::time::Timestamp;
use flowbridge_store::StoreError;
use flowbridge_store::event_log::{self, Reader, topic};
use flowbridge_store::wake::Work;
use flowbridge_store::webhook as store;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Limits of the fan-out.
#[derive(Debug, Clone)]
pub struct FanOutSettings {
    /// Events of one partition taken into one transaction at most.
    pub slice_max: i64,
    /// How long a partition stays ours without renewal.
    pub lease: Duration,
    /// How often to look for events that nobody rang for.
    pub poll: Duration,
    /// How far apart turns are at least, so that slices fill.
    pub pace: Duration,
}

impl Default for FanOutSettings {
    fn default() -> Self {
        Self {
            slice_max: 1_000,
            lease: Duration::from_secs(5),
            poll: Duration::from_millis(200),
            pace: Duration::from_millis(20),
        }
    }
}

/// Whom a fan-out queues for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Audience {
    Participants,
    Operator,
}

impl Audience {
    /// The group whose offsets are moved.
    const fn group(self) -> &'static str {
        match self {
            Self::Participants => "webhooks",
            Self::Operator => "webhooks_operator",
        }
    }

    /// What the group reads. A topic is of one group only.
    const fn topics(self) -> &'static [&'static str] {
        match self {
            Self::Participants => &[topic::PAYMENTS, topic::WEBHOOKS],
            Self::Operator => &[topic::RECONCILIATION],
        }
    }

    const fn bell(self) -> Work {
        match self {
            Self::Participants => Work::PaymentEvents,
            Self::Operator => Work::ReconciliationEvents,
        }
    }

    const fn resting_poll(self) -> Duration {
        match self {
            Self::Participants => RESTING_POLL,
            Self::Operator => RESTING_POLL_OF_SLOW,
        }
    }

    /// The loop's name in logs and metrics.
    const fn worker(self) -> &'static str {
        match self {
            Self::Participants => "webhooks.fan_out",
            Self::Operator => "webhooks.fan_out_to_operator",
        }
    }
}

/// How often the operator's fan-out looks for events that nobody rang for, such as what people did: a second is soon for what
/// people are to look at, and costs next to nothing.
const OPERATOR_POLL: Duration = Duration::from_secs(1);
/// How long a partition of the operator's group stays with a process that died.
const OPERATOR_LEASE: Duration = Duration::from_secs(30);

/// Reads the log and queues deliveries.
#[derive(Debug)]
pub struct FanOut {
    context: Context,
    settings: FanOutSettings,
    audience: Audience,
    membership: Membership,
    /// How much the next turn takes of each partition at most.
    slice: i64,
}

impl Worker for FanOut {
    async fn turn(&mut self) -> Result<Turn, StoreError> {
        Self::turn(self).await
    }
}

impl FanOut {
    /// For participants: a reader of their group under this process's name.
    pub fn new(context: Context, settings: FanOutSettings) -> Self {
        Self::of(Audience::Participants, context, settings)
    }

    /// For the operator: the same of its group.
    pub fn for_operator(context: Context) -> Self {
        let settings =
            FanOutSettings { lease: OPERATOR_LEASE, poll: OPERATOR_POLL, ..FanOutSettings::default() };
        Self::of(Audience::Operator, context, settings)
    }

    fn of(audience: Audience, context: Context, settings: FanOutSettings) -> Self {
        let reader = Reader {
            group: audience.group(),
            topics: audience.topics(),
            owner: context.instance.clone(),
            lease: settings.lease,
        };
        let slice = settings.slice_max;
        Self { context, settings, audience, membership: Membership::new(reader), slice }
    }

    /// Runs until told to stop, then gives its partitions back.
    pub async fn run(mut self, stop: CancellationToken) {
        let context = self.context.clone();
        let FanOutSettings { poll, pace, .. } = self.settings;
        let rhythm = Rhythm {
            bell: self.audience.bell(),
            poll,
            rests_after: RESTS_AFTER,
            resting_poll: self.audience.resting_poll(),
            pace,
        };
        run_loop(self.audience.worker(), &context, rhythm, &stop, &mut self).await;
        self.membership.leave(&context).await;
    }

    /// Takes in one slice of what is new.
    pub async fn turn(&mut self) -> Result<Turn, StoreError> {
        self.membership.keep(&self.context).await?;
        if self.membership.held().is_empty() {
            return Ok(Turn::Idle);
        }
        let now = self.context.now();
        let taken = self.take_slice(now).await;
        if let Err(error) = &taken {
            self.membership.start_again(now);
            if !matches!(error, StoreError::Lost) {
                self.slice = (self.slice / 2).max(1);
            }
        }
        taken
    }

    async fn take_slice(&mut self, now: Timestamp) -> Result<Turn, StoreError> {
        if !event_log::follows_held(&self.context.db, self.membership.held()).await? {
            return Ok(Turn::Idle);
        }
        let tx = self.context.db.begin().await?;
        let done = match self.audience {
            Audience::Participants => store::fan_out(&tx, self.membership.held(), self.slice, now).await?,
            Audience::Operator => {
                store::fan_out_to_operator(&tx, self.membership.held(), self.slice, now).await?
            }
        };
        if done.moved.is_empty() {
            tx.rollback().await?;
            return Ok(Turn::Idle);
        }
        self.membership.reader.advance(&tx, &done.moved).await?;
        tx.commit().await?;
        self.membership.moved(done.moved);
        self.slice = self.slice.saturating_mul(2).min(self.settings.slice_max);
        if done.deliveries > 0 {
            self.context.wake.ring(Work::Deliveries);
        }
        Ok(Turn::Busy)
    }
}
