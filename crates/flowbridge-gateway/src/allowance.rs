//! How much each client may ask for.
//!
//! A client has an allowance of requests that comes back evenly over a window (GCRA): after a pause it may be used at once, in
//! the long run it is a rate. One client that asks without end is told so, and when to go on; the others notice nothing. Counted by
//! the client of a verified token, so nobody uses up the allowance of another, and there are no more of them than registered
//! clients. Each gateway counts for itself and in memory: with two of them a client may ask twice as much, and one that
//! has just started knows of no earlier requests. Each payment of a bulk counts as a request; a bulk of more than there are in a whole
//! allowance takes all of it. Who is not signed in has no allowance: the proxy in front limits addresses.

use axum::http::{HeaderMap, HeaderValue, header};
use governor::clock::{Clock, MonotonicClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What each client may ask of one gateway.
#[derive(Debug, Clone, Copy)]
pub struct ClientQuota {
    /// Requests in a window.
    pub requests: NonZeroU32,
    /// How long it takes until all of them have come back; at least a nanosecond for each.
    pub window: Duration,
}

/// Every client's allowance. The clock only goes forward: the time of day is set back now and then, and nobody waits for that.
pub(crate) struct Allowances<C: Clock = MonotonicClock> {
    limiter: RateLimiter<String, HashMapStateStore<String>, C, StateInformationMiddleware>,
    quota: ClientQuota,
    policy: HeaderValue,
}

/// A client has used up its allowance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UsedUp;

/// How a client's allowance stands after a request, for the headers of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Standing {
    left: u32,
    wait: Option<Duration>,
}

/// Where a request's standing is noted, from its sign-in to its answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct StandingSlot(Arc<Mutex<Option<Standing>>>);

impl StandingSlot {
    fn standing(&self) -> MutexGuard<'_, Option<Standing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Allowances {
    pub(crate) fn new(quota: ClientQuota) -> Self {
        Self::with_clock(quota, MonotonicClock)
    }
}

impl<C: Clock> Allowances<C> {
    fn with_clock(quota: ClientQuota, clock: C) -> Self {
        let ClientQuota { requests, window } = quota;
        let each = (window / requests.get()).max(Duration::from_nanos(1));
        let rate = Quota::with_period(each).unwrap_or(Quota::per_second(requests)).allow_burst(requests);
        let policy = format!("\"client\";q={requests};w={}", whole_seconds(window));
        Self {
            limiter: RateLimiter::hashmap_with_clock(rate, clock).with_middleware(),
            quota,
            policy: HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("\"client\"")),
        }
    }

    /// Takes one request from the client's allowance, and notes how it stands then.
    pub(crate) fn take(&self, client_id: &String, slot: &StandingSlot) -> Result<(), UsedUp> {
        self.take_together(client_id, NonZeroU32::MIN, slot)
    }

    /// Takes what a request asks for beyond the one that it has taken, all of it or nothing.
    pub(crate) fn take_more(
        &self,
        client_id: &String,
        more: usize,
        slot: &StandingSlot,
    ) -> Result<(), UsedUp> {
        let more = u32::try_from(more).unwrap_or(u32::MAX).min(self.quota.requests.get() - 1);
        NonZeroU32::new(more).map_or(Ok(()), |more| self.take_together(client_id, more, slot))
    }

    fn take_together(
        &self,
        client_id: &String,
        requests: NonZeroU32,
        slot: &StandingSlot,
    ) -> Result<(), UsedUp> {
        let wait = match self.limiter.check_key_n(client_id, requests) {
            Ok(Ok(state)) => {
                *slot.standing() = Some(Standing { left: state.remaining_burst_capacity(), wait: None });
                return Ok(());
            }
            Ok(Err(until)) => until.wait_time_from(self.limiter.clock().now()),
            Err(_) => self.quota.window,
        };
        // What is refused costs nothing, and what the request had left before is left still.
        let mut standing = slot.standing();
        let left = standing.map_or(0, |standing| standing.left);
        *standing = Some(Standing { left, wait: Some(wait) });
        Err(UsedUp)
    }

    /// Says in the answer how the allowance stands (draft-ietf-httpapi-ratelimit-headers), if the request came to have one.
    pub(crate) fn tell(&self, slot: &StandingSlot, headers: &mut HeaderMap) {
        let Some(Standing { left, wait }) = *slot.standing() else { return };
        let limit = match wait {
            Some(wait) => {
                let seconds = whole_seconds(wait);
                headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
                format!("\"client\";r={left};t={seconds}")
            }
            None => format!("\"client\";r={left}"),
        };
        headers.insert("ratelimit-policy", self.policy.clone());
        if let Ok(limit) = HeaderValue::try_from(limit) {
            headers.insert("ratelimit", limit);
        }
    }
}

impl<C: Clock> fmt::Debug for Allowances<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Allowances").field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// Rounded up, and at least one: who comes back after it is not too early.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use governor::clock::FakeRelativeClock;

    /// The status of a request, and what its answer says.
    fn ask(allowances: &Allowances<FakeRelativeClock>, client: &str) -> (bool, String, Option<String>) {
        let (slot, mut headers) = (StandingSlot::default(), HeaderMap::new());
        let taken = allowances.take(&client.to_owned(), &slot).is_ok();
        allowances.tell(&slot, &mut headers);
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(text("ratelimit-policy").unwrap(), "\"client\";q=4;w=60");
        (taken, text("ratelimit").unwrap(), text("retry-after"))
    }

    #[test]
    fn an_allowance_is_used_at_once_or_evenly_and_is_nobody_elses() {
        let quota = ClientQuota { requests: NonZeroU32::new(4).unwrap(), window: Duration::from_secs(60) };
        let clock = FakeRelativeClock::default();
        let allowances = Allowances::with_clock(quota, clock.clone());
        let allowed = |left: u32| (true, format!("\"client\";r={left}"), None);
        let refused =
            |seconds: u64| (false, format!("\"client\";r=0;t={seconds}"), Some(seconds.to_string()));
        for left in [3, 2, 1, 0] {
            assert_eq!(ask(&allowances, "alpha"), allowed(left));
        }
        assert_eq!(ask(&allowances, "alpha"), refused(15));
        assert_eq!(ask(&allowances, "beta"), allowed(3));
        clock.advance(Duration::from_millis(14_001));
        assert_eq!(ask(&allowances, "alpha"), refused(1), "what is refused costs nothing");
        clock.advance(Duration::from_secs(1));
        assert_eq!(ask(&allowances, "alpha"), allowed(0));
        clock.advance(Duration::from_secs(3_600));
        assert_eq!(ask(&allowances, "alpha"), allowed(3), "no more than all of it comes back");
    }
}
