//! A circuit breaker: after repeated failures an outside party is left alone for a while, then tried with one call.
//!
//! Closed → (`failures_to_open` calls failed in a row) → open → (`open_for` has passed) → half-open: one call goes through,
//! and its success closes the circuit, its failure opens it again, each time for twice as long, up to `open_for_max`: who was away for a
//! moment is asked again soon, who stays away seldom. A call whose permit is dropped without a verdict, because
//! its task was cancelled, counts as failed: the party took too long for someone. A verdict on a call that began before the
//! circuit last opened is ignored, so that stragglers neither close nor prolong it.

use flowbridge_domain::time::{Clock, Timestamp};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// When a breaker opens and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerConfig {
    /// So many calls in a row must fail.
    pub failures_to_open: u32,
    /// How long no call is let through at first.
    pub open_for: Duration,
    /// How long at most, after calls that were let through and failed.
    pub open_for_max: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self { failures_to_open: 5, open_for: Duration::from_secs(1), open_for_max: Duration::from_secs(5) }
    }
}

/// What a breaker shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BreakerState {
    /// Calls go through.
    Closed,
    /// No call goes through before the instant.
    Open {
        /// When one call will be let through.
        until: Timestamp,
    },
    /// One call is under way to find out.
    HalfOpen,
}

impl BreakerState {
    /// The name in metrics and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// Told of every change of state, for metrics. Must not block.
pub type BreakerHook = Arc<dyn Fn(BreakerState) + Send + Sync>;

/// A circuit breaker. Cheap to clone; clones share the circuit.
#[derive(Clone)]
pub struct Breaker {
    config: BreakerConfig,
    clock: Arc<dyn Clock>,
    circuit: Arc<Mutex<Circuit>>,
    hook: Option<BreakerHook>,
}

#[derive(Debug)]
struct Circuit {
    state: BreakerState,
    failures_in_row: u32,
    /// How often it has opened since it was closed.
    opened: u32,
    /// Grows with every change of state; a verdict counts only in the epoch of its permit.
    epoch: u64,
}

/// Leave to make one call. Say how it went, or dropping it will say that it failed.
#[derive(Debug)]
#[must_use = "dropping a permit counts as a failed call"]
pub struct Permit {
    breaker: Breaker,
    epoch: u64,
    verdict_given: bool,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(config: BreakerConfig, clock: Arc<dyn Clock>, hook: Option<BreakerHook>) -> Self {
        let circuit = Circuit { state: BreakerState::Closed, failures_in_row: 0, opened: 0, epoch: 0 };
        Self { config, clock, circuit: Arc::new(Mutex::new(circuit)), hook }
    }

    /// The present state.
    pub fn state(&self) -> BreakerState {
        self.circuit().state
    }

    /// Leave for one call; or when to ask again at the earliest.
    pub fn permit(&self) -> Result<Permit, Timestamp> {
        let now = self.clock.now();
        let mut circuit = self.circuit();
        match circuit.state {
            BreakerState::Closed => {}
            BreakerState::Open { until } if now < until => return Err(until),
            BreakerState::Open { .. } => self.enter(&mut circuit, BreakerState::HalfOpen),
            BreakerState::HalfOpen => return Err(now.plus(self.config.open_for)),
        }
        Ok(Permit { breaker: self.clone(), epoch: circuit.epoch, verdict_given: false })
    }

    fn conclude(&self, epoch: u64, succeeded: bool) {
        let now = self.clock.now();
        let mut circuit = self.circuit();
        if circuit.epoch != epoch {
            return;
        }
        match (circuit.state, succeeded) {
            (BreakerState::Closed, true) => circuit.failures_in_row = 0,
            (BreakerState::HalfOpen, true) => self.enter(&mut circuit, BreakerState::Closed),
            (BreakerState::Closed, false) => {
                circuit.failures_in_row = circuit.failures_in_row.saturating_add(1);
                if circuit.failures_in_row >= self.config.failures_to_open {
                    self.open(&mut circuit, now);
                }
            }
            (BreakerState::HalfOpen, false) => self.open(&mut circuit, now),
            // No permit is given while it is open, and those from before have another epoch.
            (BreakerState::Open { .. }, _) => {}
        }
    }

    fn open(&self, circuit: &mut Circuit, now: Timestamp) {
        let doubled =
            self.config.open_for.saturating_mul(1_u32.checked_shl(circuit.opened).unwrap_or(u32::MAX));
        let until = now.plus(doubled.min(self.config.open_for_max));
        self.enter(circuit, BreakerState::Open { until });
    }

    fn enter(&self, circuit: &mut Circuit, state: BreakerState) {
        let opened = match state {
            BreakerState::Closed => 0,
            BreakerState::Open { .. } => circuit.opened.saturating_add(1),
            BreakerState::HalfOpen => circuit.opened,
        };
        *circuit = Circuit { state, failures_in_row: 0, opened, epoch: circuit.epoch.wrapping_add(1) };
        if let Some(hook) = &self.hook {
            hook(state);
        }
    }

    /// A panic while the lock is held cannot leave the circuit half changed: every change is one assignment.
    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// The call went through: the party is well, whatever it said.
    pub fn succeeded(mut self) {
        self.verdict_given = true;
        self.breaker.conclude(self.epoch, true);
    }

    /// The party did not answer, or not sensibly.
    pub fn failed(mut self) {
        self.verdict_given = true;
        self.breaker.conclude(self.epoch, false);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.verdict_given {
            self.breaker.conclude(self.epoch, false);
        }
    }
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker").field("state", &self.state()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowbridge_domain::time::ManualClock;

    fn breaker() -> (Breaker, Arc<ManualClock>, Arc<Mutex<Vec<&'static str>>>) {
        let clock = Arc::new(ManualClock::at(Timestamp::from_secs(1_000)));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (open_for, open_for_max) = (Duration::from_secs(10), Duration::from_secs(30));
        let config = BreakerConfig { failures_to_open: 3, open_for, open_for_max };
        let log = Arc::clone(&seen);
        let hook: BreakerHook = Arc::new(move |state| log.lock().unwrap().push(state.as_str()));
        (Breaker::new(config, clock.clone(), Some(hook)), clock, seen)
    }

    #[test]
    fn opens_after_failures_in_a_row_and_closes_after_one_good_call() {
        let (breaker, clock, seen) = breaker();
        breaker.permit().unwrap().failed();
        breaker.permit().unwrap().failed();
        breaker.permit().unwrap().succeeded();
        breaker.permit().unwrap().failed();
        breaker.permit().unwrap().failed();
        assert_eq!(breaker.state(), BreakerState::Closed, "a success in between starts the count anew");
        breaker.permit().unwrap().failed();
        let until = Timestamp::from_secs(1_010);
        assert_eq!(breaker.permit().unwrap_err(), until);

        clock.set(until);
        let probe = breaker.permit().unwrap();
        assert!(breaker.permit().is_err(), "one probe at a time");
        probe.failed();
        assert_eq!(breaker.permit().unwrap_err(), until.plus(Duration::from_secs(20)), "twice as long");

        clock.advance(Duration::from_secs(20));
        breaker.permit().unwrap().succeeded();
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert_eq!(*seen.lock().unwrap(), ["open", "half_open", "open", "half_open", "closed"]);
    }

    #[test]
    fn who_stays_away_is_asked_ever_less_often_and_who_was_well_again_is_asked_soon() {
        let (breaker, clock, _) = breaker();
        let pause = || breaker.permit().unwrap_err().since(clock.now()).as_secs();
        (0..3).for_each(|_| breaker.permit().unwrap().failed());
        let mut pauses = vec![pause()];
        for _ in 0..40 {
            clock.advance(Duration::from_secs(30));
            breaker.permit().unwrap().failed();
            pauses.push(pause());
        }
        assert_eq!(pauses[..4], [10, 20, 30, 30]);
        assert_eq!(pauses.last(), Some(&30));
        clock.advance(Duration::from_secs(30));
        breaker.permit().unwrap().succeeded();
        (0..3).for_each(|_| breaker.permit().unwrap().failed());
        assert_eq!(pause(), 10);
    }

    #[test]
    fn a_cancelled_probe_does_not_leave_the_circuit_half_open() {
        let (breaker, clock, _) = breaker();
        let straggler = breaker.permit().unwrap();
        (0..3).for_each(|_| breaker.permit().unwrap().failed());
        clock.advance(Duration::from_secs(10));
        let probe = breaker.permit().unwrap();
        straggler.succeeded();
        assert_eq!(breaker.state(), BreakerState::HalfOpen, "a call from before says nothing about now");
        drop(probe);
        assert!(matches!(breaker.state(), BreakerState::Open { .. }));
    }
}
