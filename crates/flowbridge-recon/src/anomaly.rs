//! What is unusual about a run, seen beside the runs before it.
//!
//! Each account is compared with itself on the same weekday by a robust z (distance from the median in units of the median
//! absolute deviation), which one odd day does not bend. Feature and score distributions are compared with those of earlier runs
//! that the same model judged, by the population stability index, less what chance alone would give. Debtors are remembered as hashes of name and account with their last
//! amounts, never by name. Too little history says nothing: the first weeks are silent. Pure: the caller keeps the memory
//! and decides who hears of it. Figures here are statistics, not money, and may be floats.

use crate::date::Date;
use crate::engine::{Decision, How, Outcome, Subject};
use crate::feature::FEATURE_NAMES;
use crate::record::Record;
use crate::text;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Runs that are remembered.
pub const RUNS_MAX: usize = 400;
/// Debtors that are remembered.
pub const DEBTORS_MAX: usize = 200_000;
const AMOUNTS_PER_DEBTOR_MAX: usize = 24;
const ACCOUNTS_PER_DEBTOR_MAX: usize = 16;
/// Same weekdays before a figure is judged.
pub const SAMPLES_MIN: usize = 6;
const PAYMENTS_KNOWN_MIN: usize = 3;
const AMOUNTS_KNOWN_MIN: usize = 8;
const NOTICE_Z: f64 = 3.5;
const ALARM_Z: f64 = 6.0;
const NOTICE_PSI: f64 = 0.1;
const ALARM_PSI: f64 = 0.25;
const PROFILED_MIN: u64 = 200;
/// Points of automatic share that an account may lose before it is an alarm.
const AUTO_DROP_MAX: f64 = 0.05;
/// Makes the median absolute deviation of a bell curve one standard deviation.
const MAD_TO_SIGMA: f64 = 1.4826;

/// What kind of thing is unusual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnomalyKind {
    /// More or fewer lines than on this weekday.
    Count,
    /// Another sum.
    Sum,
    /// The bank books later or sooner.
    Lag,
    /// More of one kind of break.
    BreakMix,
    /// Fewer lines are matched without a person.
    AutoRateDrop,
    /// A known debtor pays from an account that was never seen.
    FirstSeenAccount,
    /// A known debtor pays an amount far from its own.
    AmountOutlier,
    /// A feature of matched pairs is distributed otherwise.
    FeatureDrift,
    /// The model's scores are.
    ScoreDrift,
}

/// How loud to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Stands in the report.
    Notice,
    /// Somebody is told.
    Alarm,
}

/// One unusual thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Anomaly {
    /// What kind.
    pub kind: AnomalyKind,
    /// How loud.
    pub severity: Severity,
    /// Account, bank line or feature.
    pub subject: String,
    /// The usual value.
    pub usual: f64,
    /// The value of this run.
    pub found: f64,
    /// Robust z, or stability index, or points lost.
    pub score: f64,
}

/// One account in one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AccountSummary {
    /// Account and currency.
    pub account: String,
    /// Bank lines.
    pub lines: u64,
    /// Their sum.
    pub minor_units: i128,
    /// Median days from ledger to bank among matches.
    pub lag_days: f64,
    /// Share of lines that need nobody.
    pub auto_share: f64,
    /// Breaks, by code.
    pub breaks: BTreeMap<String, u64>,
}

/// What is remembered of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// The day the books were looked at.
    pub on: Date,
    /// The accounts.
    pub accounts: Vec<AccountSummary>,
    /// How many matched pairs fall into each tenth of the training data, per feature; the last row is the score.
    pub profile: Vec<Vec<u64>>,
    /// The model whose tenths and scores these are, by the SHA-256 of its file; none where that was not told.
    #[serde(default)]
    pub model: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct Debtor {
    accounts: BTreeSet<u64>,
    payments: usize,
    /// Logarithms of the last amounts.
    amounts: Vec<f32>,
}

/// Earlier runs and debtors. A file of it holds no name and no account of a debtor.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Memory {
    /// Runs, oldest first.
    pub runs: Vec<RunSummary>,
    debtors: BTreeMap<u64, Debtor>,
}

/// A run as it is judged and remembered.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// Its figures.
    pub summary: RunSummary,
    /// Safe matches: bank line's id, debtor, debtor's account, logarithm of the amount.
    payments: Vec<(Box<str>, u64, u64, f32)>,
}

/// Looks at a run.
pub fn observe(ledger: &[Record], bank: &[Record], outcome: &Outcome, on: Date) -> Observed {
    struct Account {
        summary: AccountSummary,
        auto: u64,
        lags: Vec<f64>,
    }
    let mut accounts: BTreeMap<String, Account> = BTreeMap::new();
    let name = |record: &Record| format!("{} {}", record.account, record.currency.code());
    for record in bank {
        let name = name(record);
        let account = accounts.entry(name.clone()).or_insert_with(|| Account {
            summary: AccountSummary {
                account: name,
                lines: 0,
                minor_units: 0,
                lag_days: 0.0,
                auto_share: 0.0,
                breaks: BTreeMap::new(),
            },
            auto: 0,
            lags: Vec::new(),
        });
        account.summary.lines += 1;
        account.summary.minor_units = account.summary.minor_units.saturating_add(record.minor_units);
    }
    let mut payments = Vec::new();
    for found in &outcome.matches {
        let (Some(entry), Some(line)) = (found.ledger.first(), found.bank.first()) else { continue };
        let (ours, theirs) = (&ledger[*entry as usize], &bank[*line as usize]);
        let is_auto = found.decision == Decision::Auto;
        if let Some(account) = accounts.get_mut(&name(theirs)) {
            account.auto += if is_auto { found.bank.len() as u64 } else { 0 };
            account.lags.push(f64::from(theirs.booked_on.days_since(ours.booked_on)));
        }
        let is_pair = matches!(found.how, How::Reference | How::Model) && found.ledger.len() == 1;
        if is_pair && is_auto && theirs.minor_units > 0 && !ours.counterparty.is_empty() {
            let mut folded = Vec::new();
            text::fold_into(&ours.counterparty, &mut folded);
            let account = if theirs.counterparty_iban.is_empty() {
                0
            } else {
                text::hash64(theirs.counterparty_iban.as_bytes())
            };
            let amount = (theirs.minor_units as f64).ln() as f32;
            payments.push((theirs.id.clone(), text::hash64(&folded), account, amount));
        }
    }
    payments.sort_by(|a, b| a.0.cmp(&b.0));
    for found in &outcome.breaks {
        let account = match &found.subject {
            Subject::Bank(line) => name(&bank[*line as usize]),
            Subject::Ledger(entry) => name(&ledger[*entry as usize]),
            Subject::Event(_) | Subject::Account(_) => continue,
        };
        if let Some(account) = accounts.get_mut(&account) {
            *account.summary.breaks.entry(found.kind.code().to_owned()).or_default() += 1;
        }
    }
    let accounts = accounts
        .into_values()
        .map(|mut account| AccountSummary {
            lag_days: median(&mut account.lags),
            auto_share: account.auto as f64 / (account.summary.lines as f64).max(1.0),
            ..account.summary
        })
        .collect();
    let summary = RunSummary { on, accounts, profile: outcome.profile.clone(), model: None };
    Observed { summary, payments }
}

impl Observed {
    /// The same, by the model that judged: its features and scores are compared with those of this model alone.
    #[must_use]
    pub fn judged_by(mut self, model_sha256: &str) -> Self {
        self.summary.model = Some(model_sha256.to_owned());
        self
    }
}

/// Have runs before that day told enough of some account for one of that day to be judged beside them?
pub fn knows_enough(runs: &[RunSummary], on: Date) -> bool {
    let mut samples: BTreeMap<&str, usize> = BTreeMap::new();
    for account in same_weekdays(runs, on).flat_map(|run| &run.accounts) {
        *samples.entry(&account.account).or_default() += 1;
    }
    samples.values().any(|count| *count >= SAMPLES_MIN)
}

/// Runs of the same weekday before a day.
fn same_weekdays(runs: &[RunSummary], on: Date) -> impl Iterator<Item = &RunSummary> {
    runs.iter().filter(move |run| run.on < on && on.days_since(run.on) % 7 == 0)
}

impl Memory {
    /// What is unusual about a run beside what is remembered, loudest first.
    pub fn judge(&self, run: &Observed) -> Vec<Anomaly> {
        let mut found = Vec::new();
        for account in &run.summary.accounts {
            self.judge_account(run.summary.on, account, &mut found);
        }
        self.judge_profile(&run.summary, &mut found);
        for (line, debtor, account, amount) in &run.payments {
            if let Some(known) = self.debtors.get(debtor) {
                known.judge(line, *account, *amount, &mut found);
            }
        }
        found.sort_by(|a, b| {
            (b.severity, a.kind, &a.subject)
                .cmp(&(a.severity, b.kind, &b.subject))
                .then(b.score.abs().total_cmp(&a.score.abs()))
        });
        found
    }

    /// Remembers a run. The same day again takes the place of what was remembered of it.
    pub fn add(&mut self, run: Observed) {
        let is_again = self.runs.iter().any(|past| past.on == run.summary.on);
        self.runs.retain(|past| past.on != run.summary.on);
        self.runs.push(run.summary);
        self.runs.sort_by_key(|past| past.on);
        let excess = self.runs.len().saturating_sub(RUNS_MAX);
        self.runs.drain(..excess);
        if is_again {
            // Its payments are known already.
            return;
        }
        for (_, debtor, account, amount) in run.payments {
            if self.debtors.len() >= DEBTORS_MAX && !self.debtors.contains_key(&debtor) {
                continue;
            }
            let known = self.debtors.entry(debtor).or_default();
            known.payments += 1;
            if account != 0 && known.accounts.len() < ACCOUNTS_PER_DEBTOR_MAX {
                known.accounts.insert(account);
            }
            if known.amounts.len() == AMOUNTS_PER_DEBTOR_MAX {
                known.amounts.remove(0);
            }
            known.amounts.push(amount);
        }
    }

    fn judge_account(&self, on: Date, account: &AccountSummary, found: &mut Vec<Anomaly>) {
        let past: Vec<&AccountSummary> = same_weekdays(&self.runs, on)
            .filter_map(|run| run.accounts.iter().find(|past| past.account == account.account))
            .collect();
        if past.len() < SAMPLES_MIN {
            return;
        }
        let mut judge = |kind, subject: &str, value: f64, floor: f64, of: &dyn Fn(&AccountSummary) -> f64| {
            let mut values: Vec<f64> = past.iter().map(|past| of(past)).collect();
            let (usual, z) = robust_z(&mut values, value, floor);
            if z.abs() >= NOTICE_Z {
                let severity = if z.abs() >= ALARM_Z { Severity::Alarm } else { Severity::Notice };
                found.push(Anomaly {
                    kind,
                    severity,
                    subject: subject.to_owned(),
                    usual,
                    found: value,
                    score: z,
                });
            }
        };
        let name = account.account.as_str();
        let lines = account.lines as f64;
        judge(AnomalyKind::Count, name, lines, lines.sqrt().max(1.0), &|past| past.lines as f64);
        let sum = account.minor_units as f64;
        judge(AnomalyKind::Sum, name, sum, sum.abs() * 0.03 + 100.0, &|past| past.minor_units as f64);
        judge(AnomalyKind::Lag, name, account.lag_days, 0.25, &|past| past.lag_days);
        let kinds: BTreeSet<&String> =
            account.breaks.keys().chain(past.iter().flat_map(|past| past.breaks.keys())).collect();
        for kind in kinds {
            let share = |of: &AccountSummary| {
                of.breaks.get(kind).copied().unwrap_or(0) as f64 / (of.lines as f64).max(1.0)
            };
            let floor = 0.002 + (share(account) / lines.max(1.0)).sqrt();
            judge(AnomalyKind::BreakMix, &format!("{name}: {kind}"), share(account), floor, &share);
        }
        let mut shares: Vec<f64> = past.iter().map(|past| past.auto_share).collect();
        let usual = median(&mut shares);
        let lost = usual - account.auto_share;
        let by_chance = 3.0 * (usual * (1.0 - usual) / lines.max(1.0)).sqrt();
        if lost > AUTO_DROP_MAX + by_chance {
            found.push(Anomaly {
                kind: AnomalyKind::AutoRateDrop,
                severity: Severity::Alarm,
                subject: name.to_owned(),
                usual,
                found: account.auto_share,
                score: lost * 100.0,
            });
        }
    }

    /// Each model has tenths and scores of its own, so that only runs of the same one are alike.
    fn judge_profile(&self, now: &RunSummary, found: &mut Vec<Anomaly>) {
        for (place, counts) in now.profile.iter().enumerate() {
            let mut before = vec![0u64; counts.len()];
            for run in self.runs.iter().filter(|run| run.model == now.model) {
                if let Some(past) = run.profile.get(place).filter(|past| past.len() == before.len()) {
                    before.iter_mut().zip(past).for_each(|(sum, count)| *sum += count);
                }
            }
            let (now, past): (u64, u64) = (counts.iter().sum(), before.iter().sum());
            if now < PROFILED_MIN || past < PROFILED_MIN {
                continue;
            }
            let drift = stability_index(&before, counts);
            if drift >= NOTICE_PSI {
                let is_score = place == FEATURE_NAMES.len();
                found.push(Anomaly {
                    kind: if is_score { AnomalyKind::ScoreDrift } else { AnomalyKind::FeatureDrift },
                    severity: if drift >= ALARM_PSI { Severity::Alarm } else { Severity::Notice },
                    subject: FEATURE_NAMES.get(place).copied().unwrap_or("score").to_owned(),
                    usual: 0.0,
                    found: drift,
                    score: drift,
                });
            }
        }
    }
}

impl Debtor {
    fn judge(&self, line: &str, account: u64, amount: f32, found: &mut Vec<Anomaly>) {
        let subject = || format!("bank {line}");
        let is_new = account != 0 && !self.accounts.is_empty() && !self.accounts.contains(&account);
        if is_new && self.payments >= PAYMENTS_KNOWN_MIN {
            found.push(Anomaly {
                kind: AnomalyKind::FirstSeenAccount,
                severity: Severity::Alarm,
                subject: subject(),
                usual: self.accounts.len() as f64,
                found: (self.accounts.len() + 1) as f64,
                score: self.payments as f64,
            });
        }
        if self.amounts.len() >= AMOUNTS_KNOWN_MIN {
            let mut known: Vec<f64> = self.amounts.iter().map(|known| f64::from(*known)).collect();
            // A fifth more or less is nothing, however regular the debtor was.
            let (usual, z) = robust_z(&mut known, f64::from(amount), 0.2);
            if z.abs() >= ALARM_Z {
                found.push(Anomaly {
                    kind: AnomalyKind::AmountOutlier,
                    severity: Severity::Notice,
                    subject: subject(),
                    usual: usual.exp(),
                    found: f64::from(amount).exp(),
                    score: z,
                });
            }
        }
    }
}

/// The median, and how many robust deviations `value` is away from it. `floor` is the least deviation that is believed.
fn robust_z(values: &mut [f64], value: f64, floor: f64) -> (f64, f64) {
    let usual = median(values);
    let mut distances: Vec<f64> = values.iter().map(|other| (other - usual).abs()).collect();
    let deviation = (median(&mut distances) * MAD_TO_SIGMA).max(floor).max(f64::MIN_POSITIVE);
    (usual, (value - usual) / deviation)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => 0.0,
        (count, middle) if count % 2 == 1 => values[middle],
        (_, middle) => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// Population stability index, less its expectation where nothing has changed.
fn stability_index(before: &[u64], now: &[u64]) -> f64 {
    let (past, present) = (before.iter().sum::<u64>() as f64, now.iter().sum::<u64>() as f64);
    let bins = before.iter().zip(now).filter(|(a, b)| **a + **b > 0).count() as f64;
    let index: f64 = before
        .iter()
        .zip(now)
        .filter(|(a, b)| **a + **b > 0)
        .map(|(a, b)| {
            let (a, b) = ((*a as f64 + 0.5) / past, (*b as f64 + 0.5) / present);
            (b - a) * (b / a).ln()
        })
        .sum();
    index - (bins - 1.0).max(0.0) * (1.0 / past + 1.0 / present)
}
