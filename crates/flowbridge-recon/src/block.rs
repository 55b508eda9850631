//! Which pairs are compared at all.
//!
//! Comparing everything with everything is impossible, so each key brings together records that share something: a piece
//! of the reference, an invoice number, the exact amount, the other party's account or name with a near amount. Keys that
//! bring too many are cut, nearest first, because a key that half the shard shares proves nothing. A true pair that no key
//! brings is lost; the evaluation counts these.

use crate::model::Open;
use crate::prepare::{FastMap, Pair, Side};
use crate::text;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// What the keys tolerate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocking {
    /// The bank may book this many days before the ledger.
    pub early_days_max: i32,
    /// The bank may book this many days after the ledger.
    pub late_days_max: i32,
    /// Amounts may differ by this fixed number of minor units.
    pub difference_minor_units_max: i64,
    /// Or by this many millionths.
    pub difference_ppm_max: i64,
    /// Beginnings of the narrative of this many letters are a key.
    pub prefix_letters: usize,
    /// A piece of a reference that more lines than this have is no key.
    pub lines_per_key_max: usize,
    /// Most candidates of one ledger record by one key, nearest first.
    pub candidates_per_key_max: usize,
}

impl Default for Blocking {
    fn default() -> Self {
        Self {
            early_days_max: 2,
            late_days_max: 14,
            difference_minor_units_max: 5_100,
            difference_ppm_max: 15_000,
            prefix_letters: 5,
            lines_per_key_max: 40,
            candidates_per_key_max: 24,
        }
    }
}

impl Blocking {
    /// For sources without references and with amounts that were converted on the way.
    pub fn converted() -> Self {
        Self {
            early_days_max: 3,
            late_days_max: 24,
            difference_minor_units_max: 10,
            difference_ppm_max: 135_000,
            prefix_letters: 3,
            lines_per_key_max: 40,
            candidates_per_key_max: 160,
        }
    }

    /// For the few records that nothing else found a place for: the same party is enough, whatever the amount within
    /// a factor of about two. A person is shown what comes of it; nothing is posted.
    pub(crate) fn wide(&self) -> Self {
        Self { difference_ppm_max: self.difference_ppm_max.max(500_000), ..self.clone() }
    }

    fn tolerance(&self, minor_units: i64) -> i64 {
        let relative = i128::from(minor_units.abs()) * i128::from(self.difference_ppm_max) / 1_000_000;
        self.difference_minor_units_max.max(i64::try_from(relative).unwrap_or(i64::MAX / 4))
    }

    fn is_near_in_time(&self, lag_days: i32) -> bool {
        (-self.early_days_max..=self.late_days_max).contains(&lag_days)
    }
}

/// A ledger record and a bank line that may belong together, by their places in the shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Candidate {
    pub(crate) ledger: u32,
    pub(crate) bank: u32,
}

/// Bank lines by a key and then by amount. A key's amounts lie side by side, since they are searched for every record.
struct Index {
    stretches: FastMap<u64, Range<u32>>,
    amounts: Vec<i64>,
    lines: Vec<u32>,
}

impl Index {
    /// Of rows of key, amount and line.
    fn new(rows: impl Iterator<Item = (u64, i64, u32)>) -> Self {
        let mut rows: Vec<(u64, i64, u32)> = rows.collect();
        rows.sort_unstable();
        rows.dedup();
        let mut stretches: FastMap<u64, Range<u32>> = FastMap::default();
        for (place, (key, ..)) in rows.iter().enumerate() {
            let place = place as u32;
            stretches.entry(*key).or_insert(place..place).end = place + 1;
        }
        let (amounts, lines) = rows.into_iter().map(|(_, amount, line)| (amount, line)).unzip();
        Self { stretches, amounts, lines }
    }

    /// Amount and line of those of a key whose amount is from `low` to `high`.
    fn between(&self, key: u64, low: i64, high: i64) -> impl Iterator<Item = (i64, u32)> {
        let stretch = self.stretches.get(&key).cloned().unwrap_or_default();
        let (start, end) = (stretch.start as usize, stretch.end as usize);
        let amounts = &self.amounts[start..end];
        let from = amounts.partition_point(|amount| *amount < low);
        let to = from + amounts[from..].partition_point(|amount| *amount <= high);
        amounts[from..to].iter().copied().zip(self.lines[start + from..start + to].iter().copied())
    }
}

const GRAM: usize = 6;

/// Bank lines by the keys that need no amount.
pub(crate) struct Keys<'a> {
    pair: &'a Pair,
    blocking: &'a Blocking,
    grams: FastMap<u64, Vec<u32>>,
    invoices: FastMap<u64, Vec<u32>>,
    amounts: Index,
    ibans: Index,
    names: Index,
    prefixes: Index,
}

impl<'a> Keys<'a> {
    /// `open` says which records still look for a partner.
    pub(crate) fn new(pair: &'a Pair, blocking: &'a Blocking, open: &Open) -> Self {
        let bank = &pair.bank;
        let mut grams: FastMap<u64, Vec<u32>> = FastMap::default();
        let mut wanted: FastMap<u64, ()> = FastMap::default();
        for record in (0..pair.ledger.len()).filter(|record| open.ledger[*record]) {
            for gram in pair.ledger.reference.of(record).windows(GRAM) {
                wanted.insert(text::hash64(gram), ());
            }
        }
        let mut invoices: FastMap<u64, Vec<u32>> = FastMap::default();
        let lines = (0..bank.len()).filter(|line| open.bank[*line]);
        for line in lines.clone() {
            let number = line as u32;
            if !wanted.is_empty() {
                for gram in bank.joined.of(line).windows(GRAM) {
                    let key = text::hash64(gram);
                    if wanted.contains_key(&key) {
                        let lines = grams.entry(key).or_default();
                        if lines.len() <= blocking.lines_per_key_max && lines.last() != Some(&number) {
                            lines.push(number);
                        }
                    }
                }
            }
            for invoice in bank.invoices.of(line) {
                invoices.entry(*invoice).or_default().push(number);
            }
        }
        drop(wanted);
        let row = |key: u64, line: usize| (key, bank.minor_units[line], line as u32);
        let account = |line: &usize| bank.iban[*line];
        let name_rows = |line| name_keys(bank, line).map(move |key| row(key, line));
        let prefix_row = |line| prefix_key(bank, line, blocking).map(|key| row(key, line));
        // One after the other: the rows of an index are more than what it keeps of them.
        Self {
            pair,
            blocking,
            grams,
            invoices,
            amounts: Index::new(lines.clone().map(|line| row(0, line))),
            ibans: Index::new(
                lines.clone().filter(|line| account(line) != 0).map(|line| row(account(&line), line)),
            ),
            names: Index::new(lines.clone().flat_map(name_rows)),
            prefixes: Index::new(lines.filter_map(prefix_row)),
        }
    }

    /// Adds the candidates of one ledger record, sorted, each once.
    pub(crate) fn candidates_of(&self, record: usize, out: &mut Vec<Candidate>, near: &mut Vec<(i64, u32)>) {
        let (ledger, from) = (&self.pair.ledger, out.len());
        let amount = ledger.minor_units[record];
        let mut add = |line: u32| out.push(Candidate { ledger: record as u32, bank: line });
        for gram in ledger.reference.of(record).windows(GRAM) {
            if let Some(lines) = self.grams.get(&text::hash64(gram))
                && lines.len() <= self.blocking.lines_per_key_max
            {
                lines.iter().copied().for_each(&mut add);
            }
        }
        for invoice in ledger.invoices.of(record) {
            if let Some(lines) = self.invoices.get(invoice) {
                self.nearest_in_time(record, lines.iter().copied(), near);
                near.iter().for_each(|(_, line)| add(*line));
            }
        }
        let tolerance = self.blocking.tolerance(amount);
        let (low, high) = (amount.saturating_sub(tolerance), amount.saturating_add(tolerance));
        let exact = self.amounts.between(0, amount, amount);
        self.nearest_in_time(record, exact.map(|(_, line)| line), near);
        near.iter().for_each(|(_, line)| add(*line));
        if ledger.iban[record] != 0 {
            self.nearest_in_amount(record, self.ibans.between(ledger.iban[record], low, high), near);
            near.iter().for_each(|(_, line)| add(*line));
        }
        for key in name_keys(ledger, record) {
            self.nearest_in_amount(record, self.names.between(key, low, high), near);
            near.iter().for_each(|(_, line)| add(*line));
        }
        if let Some(key) = prefix_key(ledger, record, self.blocking) {
            self.nearest_in_amount(record, self.prefixes.between(key, low, high), near);
            near.iter().for_each(|(_, line)| add(*line));
        }
        out[from..].sort_unstable();
        let mut kept = from;
        for position in from..out.len() {
            if position == from || out[position] != out[kept - 1] {
                out[kept] = out[position];
                kept += 1;
            }
        }
        out.truncate(kept);
    }

    fn nearest_in_time(&self, record: usize, lines: impl Iterator<Item = u32>, near: &mut Vec<(i64, u32)>) {
        let day = self.pair.ledger.booked_on[record];
        near.clear();
        near.extend(lines.filter_map(|line| {
            let lag = self.pair.bank.booked_on[line as usize].days_since(day);
            self.blocking.is_near_in_time(lag).then_some((i64::from(lag.abs()), line))
        }));
        self.cut(near);
    }

    fn nearest_in_amount(
        &self,
        record: usize,
        rows: impl Iterator<Item = (i64, u32)>,
        near: &mut Vec<(i64, u32)>,
    ) {
        let (day, amount) = (self.pair.ledger.booked_on[record], self.pair.ledger.minor_units[record]);
        near.clear();
        near.extend(rows.filter_map(|(other, line)| {
            let lag = self.pair.bank.booked_on[line as usize].days_since(day);
            self.blocking.is_near_in_time(lag).then(|| (other.saturating_sub(amount).saturating_abs(), line))
        }));
        self.cut(near);
    }

    fn cut(&self, near: &mut Vec<(i64, u32)>) {
        let max = self.blocking.candidates_per_key_max;
        if near.len() > max {
            near.select_nth_unstable(max);
            near.truncate(max);
        }
    }
}

/// The first five letters of the two longest words of the name.
fn name_keys(side: &Side, record: usize) -> impl Iterator<Item = u64> {
    let mut best: [&[u8]; 2] = [&[], &[]];
    let name = side.name(record);
    let source = if name.is_empty() { side.narrative.of(record) } else { name };
    for word in text::words(source).filter(|word| word.len() >= 5 && !word.iter().any(u8::is_ascii_digit)) {
        if word.len() > best[0].len() {
            best = [word, best[0]];
        } else if word.len() > best[1].len() {
            best[1] = word;
        }
    }
    best.map(|word| word.get(..5).map(text::hash64)).into_iter().flatten()
}

fn prefix_key(side: &Side, record: usize, blocking: &Blocking) -> Option<u64> {
    let narrative = side.narrative.of(record);
    // Too short a narrative is a key of its own: it stands for all that begin so.
    let prefix = narrative.get(..blocking.prefix_letters).unwrap_or(narrative);
    (!prefix.is_empty()).then(|| text::hash64(prefix))
}
