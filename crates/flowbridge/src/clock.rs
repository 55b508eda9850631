//! The system's clock: the one place where FlowBridge asks what time it is.
//!
//! For tests of clocks that go wrong, `FLOWBRIDGE_CLOCK_OFFSET_SECS=-300` puts it back by five minutes. A release build has
//! nothing of this, unless it is made with the feature `failpoints`.

use flowbridge_domain::time::{Clock, Timestamp};
use std::time::{SystemTime, UNIX_EPOCH};

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
