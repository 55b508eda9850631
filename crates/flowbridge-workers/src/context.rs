//! What every role is given, and the loop that all of them are.

use flowbridge_domain::time::{Clock, Timestamp};
use flowbridge_store::wake::{Wake, Work};
use flowbridge_store::{Db, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What every role is given.
#[derive(Debug, Clone)]
pub struct Context {
    /// The role's own pool.
    pub db: Db,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Bells between roles of one process.
    pub wake: Wake,
    /// This process, unlike any other: the owner of its leases.
    pub instance: String,
}

impl Context {
    /// The present instant.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

/// What a turn of a loop found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// There may be more: go on at once.
    Busy,
    /// Nothing to do: wait for the bell or the next poll.
    Idle,
}

/// Something that is done again and again.
pub trait Worker: Send {
    /// Does what there is to do, up to a slice.
    fn turn(&mut self) -> impl Future<Output = Result<Turn, StoreError>> + Send;
}

/// Without work for so long, other processes' work may be found a second late, or some: what looks ten times a second for nothing all day
/// long costs more than that.
pub(crate) const RESTS_AFTER: Duration = Duration::from_secs(30);
/// How often one that rests looks for work that somebody waits for.
pub(crate) const RESTING_POLL: Duration = Duration::from_secs(1);
/// How often one that rests looks for work that may wait some seconds: reconciliations, which take longer, and what operators are told.
pub(crate) const RESTING_POLL_OF_SLOW: Duration = Duration::from_secs(5);

/// When a worker takes its turns.
#[derive(Debug, Clone, Copy)]
pub struct Rhythm {
    /// What wakes it.
    pub bell: Work,
    /// How often it looks for work that nobody rang for.
    pub poll: Duration,
    /// After so long without work it looks ever less often, down to once in `resting_poll`, until there is some again.
    pub rests_after: Duration,
    /// How often it looks in the end.
    pub resting_poll: Duration,
    /// How far apart turns are at least. Whatever comes meanwhile is taken together, which costs a fraction of taking it
    /// piece by piece; what comes after a pause is taken at once.
    pub pace: Duration,
}

impl Rhythm {
    /// A turn in each interval, work or not.
    pub(crate) const fn once_in(interval: Duration, bell: Work) -> Self {
        Self { bell, poll: interval, rests_after: RESTS_AFTER, resting_poll: interval, pace: interval }
    }
}

/// Turns without work.
pub(crate) struct IdleTurns {
    since: Instant,
    /// Those since it began to rest.
    resting: u32,
}

impl IdleTurns {
    /// From now on.
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), resting: 0 }
    }

    /// How long to wait after one more, of a worker that looks that often, rests after so long, and looks that often then.
    pub(crate) fn pause(
        &mut self,
        poll: Duration,
        rests_after: Duration,
        resting_poll: Duration,
    ) -> Duration {
        if self.since.elapsed() < rests_after {
            return poll;
        }
        let pause = poll.saturating_mul(2_u32.saturating_pow(self.resting));
        self.resting = self.resting.saturating_add(1);
        pause.min(resting_poll.max(poll))
    }
}

/// Turns until told to stop. An error is logged once, with its causes, and followed by a pause that doubles up to
/// [`BACKOFF_MAX`]; work that was claimed comes back when its lease runs out.
pub async fn run_loop(
    name: &'static str,
    context: &Context,
    rhythm: Rhythm,
    stop: &CancellationToken,
    worker: &mut impl Worker,
) {
    let mut failures = 0u32;
    let mut idle = IdleTurns::new();
    while !stop.is_cancelled() {
        let began = Instant::now();
        let pause = match worker.turn().await {
            Ok(Turn::Busy) => {
                failures = 0;
                idle = IdleTurns { since: began, resting: 0 };
                Duration::ZERO
            }
            Ok(Turn::Idle) => {
                failures = 0;
                idle.pause(rhythm.poll, rhythm.rests_after, rhythm.resting_poll)
            }
            Err(StoreError::Lost) => {
                tracing::warn!(worker = name, "lost a lease to another worker; dropped the slice");
                rhythm.poll
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                metrics::counter!("worker_errors_total", "worker" => name).increment(1);
                tracing::error!(
                    worker = name,
                    failures,
                    error = chain(&error),
                    "the worker could not finish its turn"
                );
                backoff(failures)
            }
        };
        let rest = async {
            match (failures, pause) {
                (0, Duration::ZERO) => {}
                (0, _) => context.wake.wait(rhythm.bell, pause).await,
                (_, _) => {
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = context.db.returns() => {}
                    }
                }
            }
            if began.elapsed() < rhythm.pace {
                tokio::time::sleep_until(began + rhythm.pace).await;
            }
        };
        tokio::select! {
            () = rest => {}
            () = stop.cancelled() => {}
        }
    }
}

/// The longest pause after failures: a database that is back is used again within about a second.
pub const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// 50 ms, doubled with each failure, with up to half of it as jitter, so that workers do not return in step.
fn backoff(failures: u32) -> Duration {
    let base = Duration::from_millis(50).saturating_mul(1 << failures.min(7));
    base.min(BACKOFF_MAX).mul_f64(0.75 + rand::random_range(0.0..0.5))
}

/// An error with all that caused it, in one line. A cause that the text has already, as with errors of libraries that repeat
/// theirs, is not said again.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_nothing_for_long_looks_ever_less_often() {
        let pauses = |rests_after| {
            let mut idle = IdleTurns::new();
            let poll = Duration::from_millis(100);
            (0..6).map(|_| idle.pause(poll, rests_after, RESTING_POLL).as_millis()).collect::<Vec<_>>()
        };
        assert_eq!(pauses(Duration::ZERO), [100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(pauses(RESTS_AFTER), [100; 6]);
    }
}
