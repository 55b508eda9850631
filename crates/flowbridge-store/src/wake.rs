//! Telling a neighbour in the same process that there is work, so that it need not wait for its next poll.
//!
//! Only a hint: whoever misses it, or sits in another process, finds the work at its next poll all the same.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// What new work there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// New observations for the orchestrator.
    Observations,
    /// New events about payments, for the webhook fan-out.
    PaymentEvents,
    /// New effects for the chain.
    ChainEffects,
    /// New effects for banks.
    BankEffects,
    /// New deliveries to webhook endpoints.
    Deliveries,
    /// New blocks on chain.
    Blocks,
    /// Reconciliations that were asked for.
    Reconciliations,
    /// New events about reconciliation, for the webhook fan-out to the operator.
    ReconciliationEvents,
}

/// A bell per kind of work. Cheap to clone; all clones ring together.
#[derive(Debug, Clone, Default)]
pub struct Wake(Arc<[Notify; 8]>);

impl Wake {
    /// There may be work of this kind.
    pub fn ring(&self, work: Work) {
        if let Some(bell) = self.0.get(work as usize) {
            // Everybody who waits, and a permit for one who is busy right now.
            bell.notify_waiters();
            bell.notify_one();
        }
    }

    /// Waits for the bell, at most `poll`.
    pub async fn wait(&self, work: Work, poll: Duration) {
        if let Some(bell) = self.0.get(work as usize) {
            // Whether it rang or the time is over, the caller looks for work.
            let _ = tokio::time::timeout(poll, bell.notified()).await;
        }
    }
}
