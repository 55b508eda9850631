//! A worker's share of its group's partitions: taken, renewed while their leases last, read from, and given back.
//!
//! Offsets are remembered as they were committed. Whatever fails in between, [`Membership::start_again`] has the next turn ask the
//! database what is held, and from where on.

use crate::context::{Context, chain};
use flowbridge_domain::time::Timestamp;
use flowbridge_store::StoreError;
use flowbridge_store::event_log::{Held, Offset, Reader};

/// A reader and the partitions that it holds.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) reader: Reader,
    held: Vec<Held>,
    /// When the leases have to be renewed; none before the group is known.
    renew_at: Option<Timestamp>,
}

impl Membership {
    /// Nothing is held yet.
    pub(crate) const fn new(reader: Reader) -> Self {
        Self { reader, held: Vec::new(), renew_at: None }
    }

    /// Sees to it that leases are renewed when a third of one is over, and that free partitions are taken.
    pub(crate) async fn keep(&mut self, context: &Context) -> Result<(), StoreError> {
        let now = context.now();
        if self.renew_at.is_none() {
            self.reader.register(&context.db).await?;
        }
        if self.renew_at.is_none_or(|at| now >= at) {
            self.held = self.reader.renew(&context.db, now).await?;
            self.renew_at = Some(now.plus(self.reader.lease / 3));
        }
        Ok(())
    }

    /// What is held, as of [`Membership::keep`].
    pub(crate) fn held(&self) -> &[Held] {
        &self.held
    }

    /// What was read is committed.
    pub(crate) fn moved(&mut self, moves: Vec<(Held, Offset)>) {
        for (moved, offset) in moves {
            if let Some(held) = self.held.iter_mut().find(|held| **held == moved) {
                held.offset = offset;
            }
        }
    }

    /// The next turn asks the database again.
    pub(crate) fn start_again(&mut self, now: Timestamp) {
        self.renew_at = Some(now);
    }

    /// Gives everything back, so that another need not wait for leases to run out.
    pub(crate) async fn release(&self, context: &Context) -> Result<(), StoreError> {
        self.reader.release(&context.db, &self.held, context.now()).await
    }

    /// The same for who ends, and can only say that it failed.
    pub(crate) async fn leave(&self, context: &Context) {
        if let Err(error) = self.release(context).await {
            tracing::warn!(
                error = chain(&error),
                "could not give partitions back; they come free when their lease runs out"
            );
        }
    }
}
