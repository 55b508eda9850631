//! The breaker as a worker sees it: may money be minted and paid out?
//!
//! Looked up twice a second at most, so that it costs nothing when all is well; a worker stops at most that much later. When it
//! cannot be looked up, the worker's turn fails, and nothing is minted either.

use crate::context::Context;
use flowbridge_domain::time::Timestamp;
use flowbridge_store::{StoreError, breaker};
use std::time::Duration;

/// How long an answer is good for.
const FRESH: Duration = Duration::from_millis(500);

/// How often somebody with nothing to do shows it.
const SHOWN_EVERY: Duration = Duration::from_secs(5);

/// What was last seen of it.
#[derive(Debug, Default)]
pub(crate) struct BreakerView {
    seen: Option<(Timestamp, bool)>,
}

impl BreakerView {
    /// It was tripped, or that was not looked up for a while: who has nothing that would mint looks all the same, for those who watch.
    pub(crate) fn is_in_doubt(&self, now: Timestamp) -> bool {
        self.seen.is_none_or(|(at, is_closed)| !is_closed || now.since(at) >= SHOWN_EVERY)
    }

    /// May money be minted and paid out?
    pub(crate) async fn is_closed(&mut self, context: &Context) -> Result<bool, StoreError> {
        let now = context.now();
        if let Some((at, is_closed)) = self.seen
            && now.since(at) < FRESH
        {
            return Ok(is_closed);
        }
        let is_closed = breaker::state(&context.db).await?.is_closed();
        self.seen = Some((now, is_closed));
        metrics::gauge!("breaker_tripped").set(if is_closed { 0.0 } else { 1.0 });
        Ok(is_closed)
    }
}
