//! What a storm was like, for people and as JSON: how often each class of fault struck, how soon everything was as usual again,
//! and how many requests were answered well meanwhile.

use crate::faults::{Fault, Struck, commits};
use crate::load::{Answered, Book, Fate};
use crate::oracle::Verdict;
use crate::process::memory_of;
use crate::world::World;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Violations of one invariant that are printed.
const SHOWN_MAX: usize = 6;

/// A class of faults.
#[derive(Debug, Default)]
struct Seen {
    times: usize,
    row: u8,
    target: Option<Duration>,
    /// Recovery times of rounds in which it was the only fault, sorted.
    alone: Vec<Duration>,
}

impl Seen {
    /// The time within which so many of a hundred recovered.
    fn percentile(&self, percent: usize) -> Option<Duration> {
        let place = (self.alone.len() * percent).div_ceil(100).max(1) - 1;
        self.alone.get(place).copied()
    }

    /// Whether almost all of them were over in time; the payment that shows it takes its usual time as well.
    fn is_in_time(&self, usual: Duration) -> Option<bool> {
        Some(self.percentile(99)? <= self.target? + usual)
    }
}

/// What a storm was like.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) began: Instant,
    /// How long a payment takes in fair weather.
    usual: Duration,
    pub(crate) faults: usize,
    pub(crate) rounds: u64,
    /// The rows of the fault matrix that this storm knows.
    rows: BTreeSet<u8>,
    classes: BTreeMap<String, Seen>,
    /// How often somebody crashed before or after each sort of commit.
    commits: BTreeMap<String, usize>,
    /// How often a class of faults found nothing to spoil.
    idle: BTreeMap<String, usize>,
    /// What should not have come of faults that were alone.
    pub(crate) findings: Vec<String>,
    memory_max: BTreeMap<String, u64>,
    answered: Answered,
    acknowledged: usize,
    statuses: BTreeMap<u16, u64>,
    requests: [u64; 3],
    deliveries: u64,
    pub(crate) stale_writes: usize,
    pub(crate) rest: Duration,
    pub(crate) judged: Duration,
}

impl Report {
    pub(crate) fn new(usual: Duration, rows: impl IntoIterator<Item = u8>) -> Self {
        Self {
            began: Instant::now(),
            usual,
            faults: 0,
            rounds: 0,
            rows: rows.into_iter().collect(),
            classes: BTreeMap::new(),
            commits: commits::each().map(|(commit, after)| (commit.name(after), 0)).collect(),
            idle: BTreeMap::new(),
            findings: Vec::new(),
            memory_max: BTreeMap::new(),
            answered: Answered::default(),
            acknowledged: 0,
            statuses: BTreeMap::new(),
            requests: [0; 3],
            deliveries: 0,
            stale_writes: 0,
            rest: Duration::ZERO,
            judged: Duration::ZERO,
        }
    }

    /// Adds a round that took so long to recover from. Only what struck is a fault.
    pub(crate) fn add(&mut self, round: &[Fault], struck: Vec<Struck>, took: Duration) {
        self.rounds += 1;
        let is_alone = round.len() == 1;
        for (drawn, Struck { fault, found }) in round.iter().zip(struck) {
            if is_alone {
                self.findings.extend(found);
            }
            let Some(fault) = fault else {
                *self.idle.entry(drawn.class()).or_default() += 1;
                continue;
            };
            self.faults += 1;
            if let Some(times) = fault.commit().and_then(|commit| self.commits.get_mut(&commit)) {
                *times += 1;
            }
            let seen = self.classes.entry(fault.class()).or_default();
            seen.times += 1;
            (seen.row, seen.target) = fault.target();
            if is_alone {
                let place = seen.alone.partition_point(|known| *known <= took);
                seen.alone.insert(place, took);
            }
        }
    }

    /// The rows of the fault matrix of which no fault has struck.
    pub(crate) fn rows_not_struck(&self) -> Vec<u8> {
        let struck: BTreeSet<u8> = self.classes.values().map(|seen| seen.row).collect();
        self.rows.difference(&struck).copied().collect()
    }

    /// The commits at which nobody has crashed.
    fn commits_not_struck(&self) -> Vec<&str> {
        self.commits.iter().filter(|(_, times)| **times == 0).map(|(commit, _)| &**commit).collect()
    }

    /// Notes the memory that everybody has needed.
    pub(crate) async fn look(&mut self, world: &World) {
        let mut note = |name: &str, bytes: u64| {
            let most = self.memory_max.entry(name.to_owned()).or_default();
            *most = bytes.max(*most);
        };
        for process in &world.processes {
            let process = process.lock().await;
            note(&process.recipe.name, process.memory_max());
        }
        note("the storm itself", memory_of("self"));
    }

    /// Notes what was asked, and what was told.
    pub(crate) fn asked(&mut self, book: &Book, deliveries: u64) {
        self.answered = book.answered;
        let is_acknowledged = |fate: Fate| matches!(fate, Fate::Acknowledged(_));
        self.acknowledged = book.orders.values().filter(|order| is_acknowledged(order.fate)).count();
        self.statuses.clone_from(&book.statuses);
        self.requests = [book.tries, book.failed_tries, book.hung_up];
        self.deliveries = deliveries;
    }

    pub(crate) fn print(&self, verdict: &Verdict) {
        println!(
            "\n{:<36} {:>3} {:>5} {:>5} {:>6} {:>6} {:>6}  target",
            "fault (recovery when alone)", "row", "times", "alone", "p50 s", "p99 s", "most s"
        );
        for (class, seen) in &self.classes {
            let shown = |time: Option<Duration>| {
                time.map_or("-".to_owned(), |time| format!("{:.1}", time.as_secs_f64()))
            };
            let target = match (seen.target, seen.is_in_time(self.usual)) {
                (Some(target), Some(true)) => format!("{:.0} s", target.as_secs_f64()),
                (Some(target), Some(false)) => format!("{:.0} s, MISSED", target.as_secs_f64()),
                (Some(target), None) => format!("{:.0} s, not seen alone", target.as_secs_f64()),
                (None, _) => "-".to_owned(),
            };
            println!(
                "{class:<36} {:>3} {:>5} {:>5} {:>6} {:>6} {:>6}  {target}",
                seen.row,
                seen.times,
                seen.alone.len(),
                shown(seen.percentile(50)),
                shown(seen.percentile(99)),
                shown(seen.alone.last().copied()),
            );
        }
        println!(
            "recovery: from when all is mended until a payment posted then has ended; in fair weather that takes {:.1} s, \
             which the targets of the fault matrix leave out",
            self.usual.as_secs_f64()
        );
        let [tries, failed, hung_up] = self.requests;
        println!(
            "\n{} faults in {} rounds, {} payments ({} completed, {} failed), {} events, {} entries in the audit log, {} deliveries; {tries} requests, {failed} \
             without a good answer, {hung_up} whose client went away",
            self.faults,
            self.rounds,
            verdict.payments,
            verdict.completed,
            verdict.failed,
            verdict.events,
            verdict.entries,
            self.deliveries,
        );
        let share = |good: u64| percent(good, self.answered.asked);
        println!(
            "answered well: {:.3} % at once, {:.3} % with one more try at the other gateway, {:.3} % with a client that repeats",
            share(self.answered.at_once),
            share(self.answered.with_edge),
            share(self.answered.in_the_end)
        );
        println!(
            "{} acknowledged, and on disk; answers by their status: {}",
            self.acknowledged,
            listed(self.statuses.iter().map(|(status, times)| format!("{times} x {status}")))
        );
        println!(
            "faults that found nothing to spoil, and do not count: {}; rows of the fault matrix not struck: {}",
            listed(self.idle.iter().map(|(class, times)| format!("{times} x {class}"))),
            listed(self.rows_not_struck().iter().map(u8::to_string))
        );
        let (missing, sorts) = (self.commits_not_struck(), self.commits.len());
        println!(
            "commits that somebody crashed before or after: {} of {sorts}; not: {}",
            sorts - missing.len(),
            listed(missing.into_iter().map(str::to_owned))
        );
        println!(
            "stale writes refused: {}; at rest after {:.1} s; judged in {:.1} s; most memory: {}",
            self.stale_writes,
            self.rest.as_secs_f64(),
            self.judged.as_secs_f64(),
            listed(self.memory_max.iter().map(|(name, bytes)| format!("{name} {} MB", bytes >> 20)))
        );
        let mut shown: BTreeMap<&str, usize> = BTreeMap::new();
        for violation in &verdict.violations {
            let count = shown.entry(violation.get(..3).unwrap_or_default()).or_default();
            *count += 1;
            if *count <= SHOWN_MAX {
                println!("  VIOLATED {violation}");
            }
        }
        match verdict.violations.len() {
            0 => println!("0 lost, 0 doubled, 0 stuck: every invariant holds"),
            count => println!("{count} violations"),
        }
    }

    pub(crate) fn json(&self, seed: u64, verdict: &Verdict) -> Value {
        let millis = |time: Option<Duration>| time.map(|time| time.as_millis());
        let classes: Vec<Value> = self
            .classes
            .iter()
            .map(|(class, seen)| {
                json!({
                    "fault": class, "row": seen.row, "times": seen.times, "alone": seen.alone.len(),
                    "recovery_ms": {
                        "p50": millis(seen.percentile(50)), "p99": millis(seen.percentile(99)),
                        "max": millis(seen.alone.last().copied()), "target": millis(seen.target),
                    },
                    "in_time": seen.is_in_time(self.usual),
                })
            })
            .collect();
        let [tries, failed, hung_up] = self.requests;
        json!({
            "seed": seed, "seconds": self.began.elapsed().as_secs(), "faults": self.faults, "rounds": self.rounds,
            "payments": verdict.payments, "completed": verdict.completed, "failed": verdict.failed,
            "events": verdict.events, "audit_entries": verdict.entries, "deliveries": self.deliveries,
            "requests": { "tries": tries, "failed": failed, "hung_up": hung_up },
            "acknowledged": self.acknowledged, "statuses": self.statuses,
            "faults_without_effect": self.idle, "rows_not_struck": self.rows_not_struck(),
            "crashes_at_commits": self.commits,
            "answered": {
                "asked": self.answered.asked, "at_once": self.answered.at_once,
                "with_edge": self.answered.with_edge, "in_the_end": self.answered.in_the_end,
            },
            "usual_ms": self.usual.as_millis(), "rest_ms": self.rest.as_millis(), "judged_ms": self.judged.as_millis(),
            "stale_writes_refused": self.stale_writes, "memory_bytes_max": self.memory_max,
            "classes": classes, "violations": verdict.violations,
        })
    }
}

/// One after the other, or that there are none.
fn listed(parts: impl Iterator<Item = String>) -> String {
    let parts: Vec<String> = parts.collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

#[expect(clippy::cast_precision_loss, reason = "a share for people")]
fn percent(part: u64, of: u64) -> f64 {
    part as f64 * 100.0 / of.max(1) as f64
}
