//! One reconciliation: from records to matches and breaks.
//!
//! Shard by shard: full references first, groups that name their parts, then pairs by the model, then sums, then what is
//! left over is given a name. A record is used once. What a person has matched is not given in here at all and so cannot
//! be undone. Shards share nothing but a last look for records that landed on the wrong account, so they run side by side
//! and the outcome is put together in their order.

use crate::block::Candidate;
use crate::break_kind::BreakKind;
use crate::chain::{ChainEvent, ChainFinding};
use crate::date::Date;
use crate::feature::{self, FEATURE_NAMES, FEATURES, KNOWN_FEES};
use crate::group::{self, Group, GroupEvidence};
use crate::model::{self, Model, Open, Verdict};
use crate::parallel;
use crate::prepare::{FastMap, Pair, Side};
use crate::record::{self, Record, Shard};
use crate::suggest;
use crate::text;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const REFERENCE_MIN: usize = 8;
const TWIN_DAYS_MAX: i32 = 5;
const FX_SPREAD_PPM_MAX: u64 = 15_000;
const VALUE_DAYS_MAX: i32 = 5;
/// Words by which banks name their own charges.
const FEE_WORDS: [&[u8]; 8] =
    [b"FEE", b"FEES", b"CHARGE", b"CHARGES", b"ENTGELT", b"GEBUEHR", b"KOMMISSION", b"FRAIS"];

/// What a run is told beside the records.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The day the books are looked at.
    pub as_of: Date,
    /// Days a bank may take before an entry is overdue.
    pub transit_days_max: i32,
    /// Most threads; they change nothing but the time taken.
    pub threads: usize,
    /// Amounts beyond this are never posted without a person.
    pub auto_minor_units_max: i128,
}

impl Settings {
    /// Usual settings for a day.
    pub const fn on(as_of: Date, threads: usize) -> Self {
        Self { as_of, transit_days_max: 5, threads, auto_minor_units_max: 1_000_000_000 }
    }
}

/// Where a match comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// The full reference and the exact amount, unique on both sides.
    Reference,
    /// The model.
    Model,
    /// A group, by its evidence.
    Group(GroupEvidence),
}

/// What may be done with a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Safe enough to be posted without a person, where policy allows.
    Auto,
    /// For a person to confirm.
    Suggest,
}

/// Records that belong together. Positions are those of the given slices.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Match {
    /// Ledger entries.
    pub ledger: Vec<u32>,
    /// Bank lines.
    pub bank: Vec<u32>,
    /// Where it comes from.
    pub how: How,
    /// What may be done with it.
    pub decision: Decision,
    /// How likely it is right, calibrated.
    pub probability: f32,
    /// The model's log-odds; zero where the model was not asked.
    pub score: f32,
    /// What the bank has more than the ledger, in minor units.
    pub difference: i64,
    /// The next best bank line for this entry, and its log-odds.
    pub runner_up: Option<(u32, f32)>,
    /// What spoke for and against, strongest first; empty where the model was not asked.
    pub reasons: Vec<(&'static str, f32)>,
}

/// What a break is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A ledger entry, by position.
    Ledger(u32),
    /// A bank line, by position.
    Bank(u32),
    /// A chain event, by position.
    Event(u32),
    /// An account as a whole.
    Account(String),
}

/// A difference that remains.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Break {
    /// What kind.
    pub kind: BreakKind,
    /// About what.
    pub subject: Subject,
    /// How much is in question, in minor units.
    pub minor_units: i128,
    /// Days since it opened.
    pub age_days: i32,
}

/// A bank line that an entry may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Suggestion {
    /// The line, by position.
    pub line: u32,
    /// How likely it is, calibrated, beside the other lines that are shown; zero where the model sees no prospect.
    pub probability: f32,
}

/// What a run found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Records that belong together.
    pub matches: Vec<Match>,
    /// What differs.
    pub breaks: Vec<Break>,
    /// Up to three bank lines for each entry that was not posted by itself, likeliest first.
    pub suggestions: BTreeMap<u32, Vec<Suggestion>>,
    /// How many of the model's matches fall into each tenth of its training data, per feature; the last row is the score.
    pub profile: Vec<Vec<u64>>,
}

/// Compares ledger and bank.
pub fn run(ledger: &[Record], bank: &[Record], model: &Model, settings: &Settings) -> Outcome {
    let shards = record::shards(ledger, bank);
    // Many shards run side by side; a single one uses the threads inside.
    let inner = if shards.len() >= settings.threads { 1 } else { settings.threads };
    let parts = parallel::map(shards.len(), settings.threads, |shard| {
        run_shard(ledger, bank, shards[shard].clone(), model, settings, inner)
    });
    let mut outcome = Outcome::default();
    let (mut open_ledger, mut open_bank) = (Vec::new(), Vec::new());
    for part in parts {
        outcome.matches.extend(part.outcome.matches);
        outcome.breaks.extend(part.outcome.breaks);
        outcome.suggestions.extend(part.outcome.suggestions);
        add_profile(&mut outcome.profile, &part.outcome.profile);
        open_ledger.extend(part.open_ledger);
        open_bank.extend(part.open_bank);
    }
    elsewhere(ledger, bank, &mut open_ledger, &mut open_bank, settings, &mut outcome);
    left_over(ledger, bank, &open_ledger, &open_bank, settings, &mut outcome);
    outcome.breaks.sort();
    outcome
}

/// Compares ledger and chain, and names what differs.
pub fn run_chain(ledger: &[Record], events: &[ChainEvent], settings: &Settings) -> Vec<Break> {
    let units = |event: u32| events[event as usize].minor_units;
    let age = |entry: u32| settings.as_of.days_since(ledger[entry as usize].booked_on);
    let mut breaks: Vec<Break> = crate::chain::compare(ledger, events)
        .into_iter()
        .filter_map(|finding| {
            let (kind, subject, minor_units, age_days) = match finding {
                ChainFinding::Settled { .. } => return None,
                ChainFinding::Amount { ledger: entry, event } => (
                    BreakKind::ChainAmount,
                    Subject::Ledger(entry),
                    units(event).saturating_sub(ledger[entry as usize].minor_units),
                    age(entry),
                ),
                ChainFinding::LedgerOnly { ledger: entry } => (
                    BreakKind::LedgerWithoutChain,
                    Subject::Ledger(entry),
                    ledger[entry as usize].minor_units,
                    age(entry),
                ),
                ChainFinding::ChainOnly { event } => {
                    (BreakKind::ChainWithoutLedger, Subject::Event(event), units(event), 0)
                }
                ChainFinding::NotFinal { ledger: entry, event } => {
                    (BreakKind::NotFinal, Subject::Ledger(entry), units(event), age(entry))
                }
            };
            Some(Break { kind, subject, minor_units, age_days })
        })
        .collect();
    breaks.sort();
    breaks
}

struct ShardOutcome {
    outcome: Outcome,
    open_ledger: Vec<u32>,
    open_bank: Vec<u32>,
}

fn run_shard(
    ledger: &[Record],
    bank: &[Record],
    shard: Shard,
    model: &Model,
    settings: &Settings,
    threads: usize,
) -> ShardOutcome {
    let pair = Pair::of_shard(ledger, bank, shard);
    let mut open = Open::all(&pair);
    let mut work = ShardWork { pair: &pair, ledger, bank, settings, outcome: Outcome::default() };
    work.repeated_references(&mut open);
    for candidate in by_reference(&pair, &mut open) {
        work.keep_reference(candidate);
    }
    for group in group::find_quoted(&pair, &mut open) {
        work.keep_group(&group);
    }
    let measured = model::measure(&pair, &model.blocking, &model.cold, &open, threads);
    let verdicts = model.judge(&measured, threads);
    let twins = twins_of(&pair, &verdicts);
    for (verdict, is_twin) in verdicts.iter().zip(twins) {
        open.ledger[verdict.candidate.ledger as usize] = false;
        open.bank[verdict.candidate.bank as usize] = false;
        work.keep_verdict(verdict, is_twin, model);
    }
    work.outcome.profile = model::profile(&verdicts);
    for group in group::find_sums(&pair, &mut open) {
        work.keep_group(&group);
    }
    work.twins(&mut open);
    work.suggest(model, &open, threads);
    let outcome = work.outcome;
    let still = |open: &[bool], side: &Side| -> Vec<u32> {
        side.positions.iter().zip(open).filter(|(_, open)| **open).map(|(position, _)| *position).collect()
    };
    ShardOutcome {
        outcome,
        open_ledger: still(&open.ledger, &pair.ledger),
        open_bank: still(&open.bank, &pair.bank),
    }
}

fn add_profile(sums: &mut Vec<Vec<u64>>, counts: &[Vec<u64>]) {
    if sums.is_empty() {
        *sums = counts.to_vec();
        return;
    }
    for (sums, counts) in sums.iter_mut().zip(counts) {
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
}

/// Full reference and exact amount, unique on both sides, no return.
pub(crate) fn by_reference(pair: &Pair, open: &mut Open) -> Vec<Candidate> {
    const SEVERAL: u32 = u32::MAX;
    let note = |map: &mut FastMap<u64, u32>, key: u64, number: u32| {
        map.entry(key)
            .and_modify(|known| {
                if *known != number {
                    *known = SEVERAL
                }
            })
            .or_insert(number);
    };
    let mut entries: FastMap<u64, u32> = FastMap::default();
    for entry in (0..pair.ledger.len()).filter(|entry| open.ledger[*entry]) {
        let reference = pair.ledger.reference.of(entry);
        if reference.len() >= REFERENCE_MIN {
            note(&mut entries, text::hash64(reference), entry as u32);
        }
    }
    let mut lines: FastMap<u64, u32> = FastMap::default();
    for line in (0..pair.bank.len()).filter(|line| open.bank[*line]) {
        let words = text::words(pair.bank.narrative.of(line)).filter(|word| word.len() >= REFERENCE_MIN);
        for key in std::iter::once(pair.bank.reference.of(line)).chain(words).map(text::hash64) {
            if entries.contains_key(&key) {
                note(&mut lines, key, line as u32);
            }
        }
    }
    let mut found: Vec<Candidate> = lines
        .iter()
        .filter_map(|(key, line)| entries.get(key).map(|entry| Candidate { ledger: *entry, bank: *line }))
        .filter(|found| found.ledger != SEVERAL && found.bank != SEVERAL)
        .filter(|found| {
            let (entry, line) = (found.ledger as usize, found.bank as usize);
            pair.ledger.minor_units[entry] == pair.bank.minor_units[line]
                && pair.ledger.is_return[entry] == pair.bank.is_return[line]
        })
        .collect();
    found.sort_unstable();
    found.retain(|found| {
        let is_free = open.ledger[found.ledger as usize] && open.bank[found.bank as usize];
        open.ledger[found.ledger as usize] = false;
        open.bank[found.bank as usize] = false;
        is_free
    });
    found
}

struct ShardWork<'a> {
    pair: &'a Pair,
    ledger: &'a [Record],
    bank: &'a [Record],
    settings: &'a Settings,
    outcome: Outcome,
}

impl ShardWork<'_> {
    fn keep_reference(&mut self, candidate: Candidate) {
        let (entry, line) = self.positions(candidate);
        self.value_date(entry, line);
        let decision = self.decision(Decision::Auto, &[entry], &[line]);
        self.outcome.matches.push(Match {
            ledger: vec![entry],
            bank: vec![line],
            how: How::Reference,
            decision,
            probability: 0.9999,
            score: 0.0,
            difference: 0,
            runner_up: None,
            reasons: Vec::new(),
        });
    }

    fn keep_verdict(&mut self, verdict: &Verdict, is_twin: bool, model: &Model) {
        let (entry, line) = self.positions(verdict.candidate);
        let difference = self.difference(verdict.candidate);
        let is_safe = verdict.score >= model.threshold && !is_twin;
        let wanted = if is_safe { Decision::Auto } else { Decision::Suggest };
        let decision = self.decision(wanted, &[entry], &[line]);
        if difference != 0 {
            let kind = amount_kind(self.pair, verdict.candidate);
            self.open_break(
                kind,
                Subject::Bank(line),
                i128::from(difference),
                self.bank[line as usize].booked_on,
            );
        }
        if is_twin {
            let units = self.bank[line as usize].minor_units;
            self.open_break(
                BreakKind::AmbiguousTwin,
                Subject::Bank(line),
                units,
                self.bank[line as usize].booked_on,
            );
        }
        self.value_date(entry, line);
        self.outcome.matches.push(Match {
            ledger: vec![entry],
            bank: vec![line],
            how: How::Model,
            decision,
            probability: model.probability(verdict.score),
            score: verdict.score,
            difference,
            runner_up: verdict
                .runner_up
                .map(|(line, score)| (self.pair.bank.positions[line as usize], score)),
            reasons: verdict.reasons.clone(),
        });
    }

    fn keep_group(&mut self, group: &Group) {
        let ledger: Vec<u32> =
            group.ledger.iter().map(|entry| self.pair.ledger.positions[*entry as usize]).collect();
        let bank: Vec<u32> = group.bank.iter().map(|line| self.pair.bank.positions[*line as usize]).collect();
        if group.difference != 0 {
            let (kind, subject, day) = if group.bank.len() == 1 {
                (BreakKind::BatchSum, Subject::Bank(bank[0]), self.bank[bank[0] as usize].booked_on)
            } else {
                (
                    BreakKind::InstalmentIncomplete,
                    Subject::Ledger(ledger[0]),
                    self.ledger[ledger[0] as usize].booked_on,
                )
            };
            self.open_break(kind, subject, i128::from(group.difference), day);
        }
        let is_safe = group.difference == 0 && group.evidence != GroupEvidence::UniqueSum;
        let wanted = if is_safe { Decision::Auto } else { Decision::Suggest };
        let decision = self.decision(wanted, &ledger, &bank);
        self.outcome.matches.push(Match {
            ledger,
            bank,
            how: How::Group(group.evidence),
            decision,
            probability: match group.evidence {
                GroupEvidence::BatchId | GroupEvidence::Quoted => 0.999,
                // Without a quoted reference an exact sum was right in 63 of 100 cases.
                GroupEvidence::UniqueSum => 0.63,
            },
            score: 0.0,
            difference: group.difference,
            runner_up: None,
            reasons: Vec::new(),
        });
    }

    /// What a person is shown for entries that are open or only suggested: lines that nothing safe has taken.
    fn suggest(&mut self, model: &Model, open: &Open, threads: usize) {
        let mut shown = open.clone();
        let place_of = |positions: &[u32]| -> FastMap<u32, usize> {
            positions.iter().enumerate().map(|(place, position)| (*position, place)).collect()
        };
        let (entries, lines) = (place_of(&self.pair.ledger.positions), place_of(&self.pair.bank.positions));
        for found in self.outcome.matches.iter().filter(|found| found.decision == Decision::Suggest) {
            // A suggested group shows its own lines; they may still be somebody else's.
            if found.how == How::Model {
                found.ledger.iter().for_each(|entry| shown.ledger[entries[entry]] = true);
            }
            found.bank.iter().for_each(|line| shown.bank[lines[line]] = true);
        }
        self.outcome.suggestions.extend(suggest::likeliest(model, self.pair, &shown, threads));
    }

    /// Lines and entries that carry the same full reference and amount as an earlier one, beyond what the other side has.
    fn repeated_references(&mut self, open: &mut Open) {
        let count = |side: &Side| {
            let mut counts: BTreeMap<(Vec<u8>, i64), usize> = BTreeMap::new();
            for record in 0..side.len() {
                *counts.entry(reference_key(side, record)).or_default() += 1;
            }
            counts
        };
        let (entries, lines) = (count(&self.pair.ledger), count(&self.pair.bank));
        for (is_bank, side, own, others) in
            [(true, &self.pair.bank, &lines, &entries), (false, &self.pair.ledger, &entries, &lines)]
        {
            let mut seen: BTreeMap<(Vec<u8>, i64), usize> = BTreeMap::new();
            for record in 0..side.len() {
                let key = reference_key(side, record);
                if key.0.len() < REFERENCE_MIN || side.is_return[record] || own[&key] < 2 {
                    continue;
                }
                let wanted = others.get(&key).copied().unwrap_or(0).max(1);
                let place = seen.entry(key).or_default();
                *place += 1;
                if *place > wanted {
                    self.repeated(is_bank, record, open);
                }
            }
        }
    }

    /// Open records that repeat another one.
    fn twins(&mut self, open: &mut Open) {
        for is_bank in [true, false] {
            let (side, opened) =
                if is_bank { (&self.pair.bank, &open.bank) } else { (&self.pair.ledger, &open.ledger) };
            let mut by_amount: FastMap<u64, Vec<u32>> = FastMap::default();
            for record in (0..side.len()).filter(|record| !side.is_return[*record]) {
                by_amount.entry(side.minor_units[record] as u64).or_default().push(record as u32);
            }
            let repeated: Vec<usize> = (0..side.len())
                .filter(|record| opened[*record] && !side.is_return[*record])
                .filter(|record| {
                    by_amount.get(&(side.minor_units[*record] as u64)).is_some_and(|others| {
                        others.iter().map(|other| *other as usize).any(|other| {
                            // Of two open ones the later is the copy.
                            other != *record
                                && (!opened[other] || other < *record)
                                && repeats(side, *record, other)
                        })
                    })
                })
                .collect();
            for record in repeated {
                self.repeated(is_bank, record, open);
            }
        }
    }

    fn repeated(&mut self, is_bank: bool, record: usize, open: &mut Open) {
        let (side, opened) =
            if is_bank { (&self.pair.bank, &mut open.bank) } else { (&self.pair.ledger, &mut open.ledger) };
        opened[record] = false;
        let position = side.positions[record];
        let (kind, subject) = if is_bank {
            (BreakKind::DuplicateBankLine, Subject::Bank(position))
        } else {
            (BreakKind::DuplicateLedgerEntry, Subject::Ledger(position))
        };
        let (units, day) = (i128::from(side.minor_units[record]), side.booked_on[record]);
        self.open_break(kind, subject, units, day);
    }

    fn value_date(&mut self, entry: u32, line: u32) {
        let (ours, theirs) = (&self.ledger[entry as usize], &self.bank[line as usize]);
        // A payment that came late is not one that counts from another day.
        if let (Some(expected), Some(counted)) = (ours.value_on, theirs.value_on)
            && counted.days_since(expected).abs() > VALUE_DAYS_MAX
            && counted.days_since(theirs.booked_on).abs() > VALUE_DAYS_MAX
        {
            self.open_break(BreakKind::ValueDate, Subject::Bank(line), theirs.minor_units, theirs.booked_on);
        }
    }

    fn open_break(&mut self, kind: BreakKind, subject: Subject, minor_units: i128, day: Date) {
        let age_days = self.settings.as_of.days_since(day);
        self.outcome.breaks.push(Break { kind, subject, minor_units, age_days });
    }

    /// What is worth more than the cap, all its parts together and on either side, waits for a person.
    fn decision(&self, wanted: Decision, entries: &[u32], lines: &[u32]) -> Decision {
        let worth = |records: &[Record], places: &[u32]| {
            let units = places.iter().map(|place| records[*place as usize].minor_units.unsigned_abs());
            units.fold(0_u128, u128::saturating_add)
        };
        let is_large = worth(self.ledger, entries).max(worth(self.bank, lines))
            > self.settings.auto_minor_units_max.unsigned_abs();
        if is_large { Decision::Suggest } else { wanted }
    }

    fn difference(&self, candidate: Candidate) -> i64 {
        self.pair.bank.minor_units[candidate.bank as usize]
            .saturating_sub(self.pair.ledger.minor_units[candidate.ledger as usize])
    }

    fn positions(&self, candidate: Candidate) -> (u32, u32) {
        (
            self.pair.ledger.positions[candidate.ledger as usize],
            self.pair.bank.positions[candidate.bank as usize],
        )
    }
}

/// Pairs that could be exchanged without anyone noticing: another pair's entry and line are alike in all but the entry's
/// own reference.
fn twins_of(pair: &Pair, chosen: &[Verdict]) -> Vec<bool> {
    let key = |verdict: &Verdict| {
        let side = |side: &Side, record: u32, reference: &[u8]| {
            let record = record as usize;
            (
                side.minor_units[record],
                side.booked_on[record],
                side.iban[record],
                text::hash64(side.narrative.of(record)),
                text::hash64(reference),
            )
        };
        let line = verdict.candidate.bank;
        (
            side(&pair.ledger, verdict.candidate.ledger, &[]),
            side(&pair.bank, line, pair.bank.reference.of(line as usize)),
        )
    };
    let mut counts = BTreeMap::new();
    for verdict in chosen {
        *counts.entry(key(verdict)).or_insert(0) += 1;
    }
    chosen.iter().map(|verdict| counts[&key(verdict)] > 1).collect()
}

fn reference_key(side: &Side, record: usize) -> (Vec<u8>, i64) {
    (side.reference.of(record).to_vec(), side.minor_units[record])
}

/// Why two amounts that belong together differ.
fn amount_kind(pair: &Pair, candidate: Candidate) -> BreakKind {
    let ours = pair.ledger.minor_units[candidate.ledger as usize];
    let theirs = pair.bank.minor_units[candidate.bank as usize];
    let difference = theirs.saturating_sub(ours).unsigned_abs();
    let short = ours.saturating_abs().saturating_sub(theirs.saturating_abs());
    if difference <= 3 {
        BreakKind::FxRounding
    } else if feature::is_transposed(ours, theirs) {
        BreakKind::TransposedDigits
    } else if KNOWN_FEES.contains(&short) {
        BreakKind::FeeDeducted
    } else if u128::from(difference) * 1_000_000
        <= u128::from(ours.unsigned_abs()) * u128::from(FX_SPREAD_PPM_MAX)
    {
        BreakKind::FxSpread
    } else {
        BreakKind::OtherAmount
    }
}

/// The same payment once more: same amount, near in time, and the same reference, or without one the same text.
fn repeats(side: &Side, record: usize, other: usize) -> bool {
    let (a, b) = (side.reference.of(record), side.reference.of(other));
    let is_near = side.booked_on[record].days_since(side.booked_on[other]).abs() <= TWIN_DAYS_MAX;
    let same_text = side.narrative.of(record) == side.narrative.of(other);
    is_near && if a.len() >= 4 && b.len() >= 4 { a == b } else { a.len() == b.len() && same_text }
}

/// Entries and lines that would match but for their account or currency.
fn elsewhere(
    ledger: &[Record],
    bank: &[Record],
    open_ledger: &mut Vec<u32>,
    open_bank: &mut Vec<u32>,
    settings: &Settings,
    outcome: &mut Outcome,
) {
    let mut entries: BTreeMap<&str, u32> = BTreeMap::new();
    for entry in open_ledger.iter() {
        let reference = &ledger[*entry as usize].reference;
        if reference.len() >= REFERENCE_MIN {
            entries.insert(reference, *entry);
        }
    }
    let mut found = Vec::new();
    open_bank.retain(|line| {
        let theirs = &bank[*line as usize];
        if theirs.is_return {
            return true;
        }
        let Some(entry) = entries.remove(&*theirs.reference) else { return true };
        let ours = &ledger[entry as usize];
        let kind = match (ours.account == theirs.account, ours.currency == theirs.currency) {
            (_, false) => BreakKind::WrongCurrency,
            (false, true) => BreakKind::WrongAccount,
            (true, true) => {
                entries.insert(&ours.reference, entry);
                return true;
            }
        };
        found.push(entry);
        outcome.breaks.push(Break {
            kind,
            subject: Subject::Bank(*line),
            minor_units: theirs.minor_units,
            age_days: settings.as_of.days_since(theirs.booked_on),
        });
        false
    });
    open_ledger.retain(|entry| !found.contains(entry));
}

/// What nobody claimed.
fn left_over(
    ledger: &[Record],
    bank: &[Record],
    open_ledger: &[u32],
    open_bank: &[u32],
    settings: &Settings,
    outcome: &mut Outcome,
) {
    for entry in open_ledger {
        let record = &ledger[*entry as usize];
        let age_days = settings.as_of.days_since(record.booked_on);
        let kind = if age_days <= settings.transit_days_max {
            BreakKind::InTransit
        } else {
            BreakKind::OverdueAtBank
        };
        outcome.breaks.push(Break {
            kind,
            subject: Subject::Ledger(*entry),
            minor_units: record.minor_units,
            age_days,
        });
    }
    for line in open_bank {
        let record = &bank[*line as usize];
        let mut folded = Vec::new();
        text::fold_into(&record.text, &mut folded);
        let names_fee = text::words(&folded).any(|word| FEE_WORDS.contains(&word));
        let kind = if record.is_return {
            BreakKind::ReturnNotPosted
        } else if record.minor_units < 0 && names_fee {
            BreakKind::UnpostedBankFee
        } else if record.minor_units < 0 {
            BreakKind::UnexpectedDebit
        } else {
            BreakKind::UnexpectedReceipt
        };
        outcome.breaks.push(Break {
            kind,
            subject: Subject::Bank(*line),
            minor_units: record.minor_units,
            age_days: settings.as_of.days_since(record.booked_on),
        });
    }
}

/// The names of features in the order of contributions of both stages.
pub(crate) fn reason_name(place: usize) -> &'static str {
    if place < FEATURES { FEATURE_NAMES[place] } else { crate::compete::CONTEXT_NAMES[place - FEATURES] }
}
