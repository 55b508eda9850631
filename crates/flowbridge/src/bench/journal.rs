//! What the client saw of each payment: when it was due, accepted, ended, and which webhooks told of it. No part of the measured
//! system has a hand in it.

use super::cast::Kind;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How a payment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The money is there.
    Completed,
    /// It never left.
    Failed,
}

/// A payment as the client saw it. Instants are counted from the beginning of the run.
#[derive(Debug)]
struct Record {
    kind: Kind,
    intended: Duration,
    accepted: Option<Duration>,
    ended: Option<(Duration, End)>,
    /// Webhooks that told of an end, by endpoint.
    heard: [u16; 2],
    /// Two webhooks told of different ends.
    contradicted: bool,
    waiter: Option<oneshot::Sender<()>>,
}

/// All payments of a run.
#[derive(Debug)]
pub(super) struct Journal {
    began: Instant,
    records: Mutex<Vec<Record>>,
    refused: Mutex<Vec<String>>,
}

/// How many there are, for the progress line.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) accepted: usize,
    pub(super) ended: usize,
}

/// A share of all latencies: milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Latencies {
    pub(super) p50: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

/// What was seen between two instants.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Answers that said accepted.
    pub(super) accepted: usize,
    /// Payments that completed.
    pub(super) completed: usize,
    /// Payments that their bank declined.
    pub(super) failed: usize,
    /// From the intended instant to the answer.
    pub(super) accept: Latencies,
    /// From the intended instant to the debtor's webhook, of payments that completed.
    pub(super) end_to_end: Latencies,
    /// The same, of payments that failed.
    pub(super) decline: Latencies,
}

/// What the webhooks said, of all payments that were accepted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) accepted: usize,
    pub(super) completed: usize,
    pub(super) failed: usize,
    /// Endpoint and payment without its webhook.
    pub(super) missing: usize,
    /// Webhooks beyond the one that each endpoint should have had.
    pub(super) repeated: usize,
    /// Payments that ended otherwise than their debtor's account would have it, or in two ways.
    pub(super) unexpected: usize,
}

impl Journal {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), records: Mutex::default(), refused: Mutex::default() }
    }

    /// The time since the beginning.
    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn records(&self) -> MutexGuard<'_, Vec<Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A payment that should be sent at this instant. Returns its number, and what ends with it.
    pub(super) fn begin(&self, kind: Kind, intended: Duration) -> (usize, oneshot::Receiver<()>) {
        let (waiter, ended) = oneshot::channel();
        let mut records = self.records();
        records.push(Record {
            kind,
            intended,
            accepted: None,
            ended: None,
            heard: [0; 2],
            contradicted: false,
            waiter: Some(waiter),
        });
        (records.len() - 1, ended)
    }

    pub(super) fn accepted(&self, number: usize) {
        let now = self.now();
        if let Some(record) = self.records().get_mut(number) {
            record.accepted = Some(now);
        }
    }

    /// The request got no answer, or another than accepted.
    pub(super) fn refused(&self, number: usize, why: String) {
        if let Some(record) = self.records().get_mut(number) {
            // Nobody need wait for its end.
            record.waiter = None;
        }
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).push(why);
    }

    /// Why requests were not accepted.
    pub(super) fn refusals(&self) -> Vec<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A webhook told an endpoint of an end. `is_debtors` says whether it was the debtor's.
    pub(super) fn ended(&self, number: usize, endpoint: usize, is_debtors: bool, end: End) {
        let now = self.now();
        let mut records = self.records();
        let Some(record) = records.get_mut(number) else { return };
        if let Some(count) = record.heard.get_mut(endpoint) {
            *count = count.saturating_add(1);
        }
        match record.ended {
            Some((_, before)) => record.contradicted |= before != end,
            None if is_debtors => {
                record.ended = Some((now, end));
                // A client that no longer waits has gone.
                let _ = record.waiter.take().map(|waiter| waiter.send(()));
            }
            None => {}
        }
    }

    pub(super) fn counts(&self) -> Counts {
        let records = self.records();
        Counts {
            accepted: records.iter().filter(|record| record.accepted.is_some()).count(),
            ended: records.iter().filter(|record| record.ended.is_some()).count(),
        }
    }

    /// Accepted payments that have not been told of everywhere.
    pub(super) fn open(&self) -> usize {
        let is_open = |record: &&Record| record.accepted.is_some() && record.heard.contains(&0);
        self.records().iter().filter(is_open).count()
    }

    /// What happened from one instant up to another; latencies are those of payments that were due then.
    pub(super) fn window(&self, from: Duration, to: Duration) -> Window {
        let is_in = |at: Duration| from <= at && at < to;
        let records = self.records();
        let mut window = Window::default();
        let [mut accept, mut end_to_end, mut decline] = [(); 3].map(|()| Latency::new());
        for record in records.iter() {
            window.accepted += usize::from(record.accepted.is_some_and(is_in));
            match record.ended {
                Some((at, End::Completed)) if is_in(at) => window.completed += 1,
                Some((at, End::Failed)) if is_in(at) => window.failed += 1,
                Some(_) | None => {}
            }
            if !is_in(record.intended) {
                continue;
            }
            if let Some(at) = record.accepted {
                accept.record(at.saturating_sub(record.intended));
            }
            match record.ended {
                Some((at, End::Completed)) => end_to_end.record(at.saturating_sub(record.intended)),
                Some((at, End::Failed)) => decline.record(at.saturating_sub(record.intended)),
                None => {}
            }
        }
        window.accept = accept.latencies();
        window.end_to_end = end_to_end.latencies();
        window.decline = decline.latencies();
        window
    }

    /// What the webhooks said in all.
    pub(super) fn heard(&self) -> Heard {
        let mut heard = Heard::default();
        for record in self.records().iter().filter(|record| record.accepted.is_some()) {
            heard.accepted += 1;
            let expected = if record.kind == Kind::Poor { End::Failed } else { End::Completed };
            match record.ended {
                Some((_, End::Completed)) => heard.completed += 1,
                Some((_, End::Failed)) => heard.failed += 1,
                None => {}
            }
            heard.missing += record.heard.iter().filter(|count| **count == 0).count();
            heard.repeated +=
                record.heard.iter().map(|count| usize::from(count.saturating_sub(1))).sum::<usize>();
            let as_expected = record.ended.is_none_or(|(_, end)| end == expected);
            heard.unexpected += usize::from(record.contradicted || !as_expected);
        }
        heard
    }
}

/// Latencies in microseconds, three digits exact, up to ten minutes.
pub(super) struct Latency(Option<Histogram<u64>>);

impl Latency {
    pub(super) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, 600_000_000, 3).ok())
    }

    pub(super) fn record(&mut self, latency: Duration) {
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        }
    }

    pub(super) fn latencies(&self) -> Latencies {
        let Some(histogram) = self.0.as_ref().filter(|histogram| !histogram.is_empty()) else {
            return Latencies::default();
        };
        let ms = |micros: u64| Duration::from_micros(micros).as_secs_f64() * 1_000.0;
        let at = |quantile| ms(histogram.value_at_quantile(quantile));
        Latencies { p50: at(0.50), p95: at(0.95), p99: at(0.99), max: ms(histogram.max()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_a_repeated_and_a_wrong_webhook_are_each_counted() {
        let journal = Journal::new();
        for kind in [Kind::Rich, Kind::Rich, Kind::Poor] {
            let (number, _) = journal.begin(kind, Duration::ZERO);
            journal.accepted(number);
        }
        journal.ended(0, 0, true, End::Completed);
        journal.ended(1, 0, true, End::Completed);
        journal.ended(1, 1, false, End::Completed);
        journal.ended(1, 1, false, End::Completed);
        journal.ended(2, 0, true, End::Completed);
        journal.ended(2, 1, false, End::Failed);
        let heard = journal.heard();
        assert_eq!(
            heard,
            Heard { accepted: 3, completed: 3, failed: 0, missing: 1, repeated: 1, unexpected: 1 }
        );
        assert_eq!(journal.open(), 1);
    }

    #[test]
    fn latency_counts_from_the_intended_instant() {
        let journal = Journal::new();
        let late = journal.now();
        let (number, _) = journal.begin(Kind::Rich, late);
        std::thread::sleep(Duration::from_millis(20));
        journal.accepted(number);
        let window = journal.window(Duration::ZERO, Duration::from_secs(60));
        assert!(window.accept.p50 >= 20.0, "{window:?}");
    }
}
