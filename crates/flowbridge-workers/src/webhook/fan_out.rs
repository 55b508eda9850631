//! The fan-out loop: reads the log as the group `webhooks` and makes a delivery of each event to each endpoint.
//!
//! One transaction per turn takes in a slice of every partition held: one statement reads the log and queues, and the
//! offsets move with it, so that each event is queued exactly once. Nothing of an event is interpreted here, so none can be
//! poison: what cannot be delivered fails later, in its own delivery.

use crate::context::{Context, RESTS_AFTER, Rhythm, Turn, Worker, chain, run_loop};
use flowbridge_domain::time::Timestamp;
use flowbridge_store::StoreError;
use flowbridge_store::event_log::{Held, Reader, topic};
use flowbridge_store::wake::Work;
use flowbridge_store::webhook as store;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The group whose offsets the fan-out moves.
pub const GROUP: &str = "webhooks";

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

/// Reads the log and queues deliveries.
#[derive(Debug)]
pub struct FanOut {
    context: Context,
    settings: FanOutSettings,
    reader: Reader,
    held: Vec<Held>,
    /// When the leases have to be renewed; none before the group is known.
    renew_at: Option<Timestamp>,
}

impl Worker for FanOut {
    async fn turn(&mut self) -> Result<Turn, StoreError> {
        Self::turn(self).await
    }
}

impl FanOut {
    /// A reader of the group under this process's name.
    pub fn new(context: Context, settings: FanOutSettings) -> Self {
        let reader = Reader {
            group: GROUP,
            topics: &[topic::PAYMENTS, topic::WEBHOOKS],
            owner: context.instance.clone(),
            lease: settings.lease,
        };
        Self { context, settings, reader, held: Vec::new(), renew_at: None }
    }

    /// Runs until told to stop, then gives its partitions back.
    pub async fn run(mut self, stop: CancellationToken) {
        let context = self.context.clone();
        let FanOutSettings { poll, pace, .. } = self.settings;
        let rhythm = Rhythm { bell: Work::PaymentEvents, poll, rests_after: RESTS_AFTER, pace };
        run_loop("webhooks.fan_out", &context, rhythm, &stop, &mut self).await;
        if let Err(error) = self.reader.release(&context.db, &self.held, context.now()).await {
            tracing::warn!(
                error = chain(&error),
                "could not give partitions back; they come free when their lease runs out"
            );
        }
    }

    /// Takes in one slice of what is new.
    pub async fn turn(&mut self) -> Result<Turn, StoreError> {
        let now = self.context.now();
        if self.renew_at.is_none() {
            self.reader.register(&self.context.db).await?;
        }
        if self.renew_at.is_none_or(|at| now >= at) {
            self.held = self.reader.renew(&self.context.db, now).await?;
            self.renew_at = Some(now.plus(self.settings.lease / 3));
        }
        if self.held.is_empty() {
            return Ok(Turn::Idle);
        }
        self.take_slice(now).await.inspect_err(|_| {
            // Whatever failed, start again from what the database says.
            self.renew_at = Some(now);
        })
    }

    async fn take_slice(&mut self, now: Timestamp) -> Result<Turn, StoreError> {
        let tx = self.context.db.begin().await?;
        let done = store::fan_out(&tx, &self.held, self.settings.slice_max, now).await?;
        if done.moved.is_empty() {
            tx.rollback().await?;
            return Ok(Turn::Idle);
        }
        self.reader.advance(&tx, &done.moved).await?;
        tx.commit().await?;
        for (moved, offset) in done.moved {
            if let Some(held) = self.held.iter_mut().find(|held| **held == moved) {
                held.offset = offset;
            }
        }
        if done.deliveries > 0 {
            self.context.wake.ring(Work::Deliveries);
        }
        Ok(Turn::Busy)
    }
}
