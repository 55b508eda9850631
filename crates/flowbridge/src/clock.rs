//! The system's clock: the one place where FlowBridge asks what time it is.
//!
//! For tests of clocks that go wrong, `FLOWBRIDGE_CLOCK_OFFSET_SECS=-300` puts it back by five minutes. A release build has
//! nothing of this, unless it is made with the feature `failpoints`.

use flowbridge_domain::time::{Clock, Timestamp};
use flowbridge_store::{Db, StoreError};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How far a machine's clock may be off the database's before the database's counts.
const TRUSTED_WITHIN: Duration = Duration::from_secs(2);
/// An answer that took longer says too little about what time it is.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// How often the two are compared.
pub(crate) const COMPARE_EVERY: Duration = Duration::from_secs(10);

/// The system's clock, set right by the database's where the two are seconds apart: what one process writes as a time to come,
/// such as when an effect is due or a lease ends, others read.
#[derive(Debug, Default)]
pub(crate) struct SharedClock {
    behind_micros: AtomicI64,
}

impl SharedClock {
    /// Compares with the database. Until an answer comes, what was known before goes on.
    pub(crate) async fn compare(&self, db: &Db) -> Result<(), StoreError> {
        let asked = SystemClock.now();
        let theirs = db.now().await?;
        let took = SystemClock.now().since(asked);
        if took > ANSWER_MAX {
            return Ok(());
        }
        let behind = theirs.as_micros().saturating_sub(asked.plus(took / 2).as_micros());
        let is_off = Duration::from_micros(behind.unsigned_abs()) > TRUSTED_WITHIN;
        let behind = if is_off { behind } else { 0 };
        let before = self.behind_micros.swap(behind, Ordering::Relaxed);
        if is_off && before == 0 {
            tracing::warn!(
                behind_ms = behind / 1_000,
                "this machine's clock is wrong, or the database's: going by the database's"
            );
        }
        Ok(())
    }
}

impl Clock for SharedClock {
    fn now(&self) -> Timestamp {
        let behind = self.behind_micros.load(Ordering::Relaxed);
        Timestamp::from_micros(SystemClock.now().as_micros().saturating_add(behind))
    }
}

/// The system's clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock that everybody else takes")]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let micros = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
        Timestamp::from_micros(micros.saturating_add(offset_micros()))
    }
}

#[cfg(any(debug_assertions, feature = "failpoints"))]
fn offset_micros() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "a wrong clock on request is no part of the configuration")]
    static OFFSET: std::sync::LazyLock<i64> = std::sync::LazyLock::new(|| {
        let offset = std::env::var("FLOWBRIDGE_CLOCK_OFFSET_SECS").ok();
        offset.and_then(|secs| secs.parse::<i64>().ok()).unwrap_or(0).saturating_mul(1_000_000)
    });
    *OFFSET
}

#[cfg(not(any(debug_assertions, feature = "failpoints")))]
const fn offset_micros() -> i64 {
    0
}
