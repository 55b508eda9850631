//! A shard's records made ready for comparison: everything that can be computed once per record and not per pair.
//!
//! Lists of all records lie in one piece of memory each, with their bounds beside them; of a thing that no record has there
//! is nothing at all. Counts of amounts, names and words are of the whole shard: what is frequent proves little.

use crate::date::Date;
use crate::record::{Record, Shard};
use crate::text;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

/// Shortest run of digits that is taken for an invoice number.
pub(crate) const INVOICE_DIGITS_MIN: usize = 6;
const INVOICE_DIGITS_MAX: usize = 18;
/// What banks write where there is no reference.
const PLACEHOLDERS: [&[u8]; 8] =
    [b"NOTPROVIDED", b"NONREF", b"NOREF", b"NOTAVAILABLE", b"NOTGIVEN", b"UNKNOWN", b"NONE", b"NA"];
const TOKENS_PER_RECORD_MAX: usize = 24;
const INVOICES_PER_RECORD_MAX: usize = 40;

/// Hashes are already mixed; hashing them again would only cost time.
#[derive(Default, Clone)]
pub(crate) struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = text::hash64(bytes) ^ self.0.rotate_left(17);
    }
    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(23) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 29;
    }
}

pub(crate) type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<Mixed>>;

/// Lists of one thing, one list per record.
#[derive(Debug, Clone)]
pub(crate) struct Lists<T> {
    items: Vec<T>,
    /// Where each list begins and the last one ends; empty while all lists are.
    bounds: Vec<u32>,
}

impl<T> Lists<T> {
    fn with_capacity(records: usize) -> Self {
        Self { items: Vec::new(), bounds: Vec::with_capacity(records + 1) }
    }

    /// Ends the list of that record.
    fn close(&mut self, record: usize) {
        if !self.items.is_empty() {
            self.bounds.resize(record + 1, 0);
            self.bounds.push(self.items.len() as u32);
        }
    }

    fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(crate) fn of(&self, record: usize) -> &[T] {
        match self.bounds.get(record..record + 2) {
            Some(bounds) => &self.items[bounds[0] as usize..bounds[1] as usize],
            None => &[],
        }
    }
}

/// What is read of a record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a> {
    pub(crate) minor_units: i128,
    pub(crate) booked_on: Date,
    pub(crate) is_return: bool,
    pub(crate) reference: &'a str,
    pub(crate) batch: &'a str,
    pub(crate) counterparty_iban: &'a str,
    pub(crate) counterparty: &'a str,
    pub(crate) text: &'a str,
    pub(crate) rail: &'a str,
}

impl<'a> From<&'a Record> for Fields<'a> {
    fn from(record: &'a Record) -> Self {
        Self {
            minor_units: record.minor_units,
            booked_on: record.booked_on,
            is_return: record.is_return,
            reference: &record.reference,
            batch: &record.batch,
            counterparty_iban: &record.counterparty_iban,
            counterparty: &record.counterparty,
            text: &record.text,
            rail: &record.rail,
        }
    }
}

/// One side of a shard.
#[derive(Debug, Clone)]
pub(crate) struct Side {
    /// Position in the source of each record.
    pub(crate) positions: Vec<u32>,
    pub(crate) minor_units: Vec<i64>,
    pub(crate) booked_on: Vec<Date>,
    pub(crate) is_return: Vec<bool>,
    /// Hash of the other party's account; zero where unknown.
    pub(crate) iban: Vec<u64>,
    pub(crate) rail: Vec<u32>,
    /// Name and text, folded.
    pub(crate) narrative: Lists<u8>,
    /// How much of the narrative is the name.
    name_letters: Vec<u32>,
    /// The reference field, letters and digits only.
    pub(crate) reference: Lists<u8>,
    /// Reference, name and text without blanks: line breaks of a bank cut references in two. Only where the other side has
    /// something to look for in it.
    pub(crate) joined: Lists<u8>,
    /// The batch's id, letters and digits only.
    pub(crate) batch: Lists<u8>,
    /// Words of the narrative, hashed, sorted, once each.
    pub(crate) tokens: Lists<u32>,
    /// Numbers that may be invoices, sorted, once each.
    pub(crate) invoices: Lists<u64>,
}

impl Side {
    /// The ledger's side, of the records at `positions`.
    pub(crate) fn ledger<'a>(positions: Vec<u32>, fields: impl Fn(u32) -> Fields<'a>) -> Self {
        Self::new(positions, fields, false)
    }

    /// The bank's side of a shard with that ledger.
    pub(crate) fn bank<'a>(positions: Vec<u32>, fields: impl Fn(u32) -> Fields<'a>, ledger: &Self) -> Self {
        let is_searched = !ledger.reference.is_empty() || !ledger.batch.is_empty();
        Self::new(positions, fields, is_searched)
    }

    fn new<'a>(positions: Vec<u32>, fields: impl Fn(u32) -> Fields<'a>, is_searched: bool) -> Self {
        let count = positions.len();
        let mut side = Self {
            positions: Vec::new(),
            minor_units: Vec::with_capacity(count),
            booked_on: Vec::with_capacity(count),
            is_return: Vec::with_capacity(count),
            iban: Vec::with_capacity(count),
            rail: Vec::with_capacity(count),
            narrative: Lists::with_capacity(count),
            name_letters: Vec::with_capacity(count),
            reference: Lists::with_capacity(count),
            joined: Lists::with_capacity(if is_searched { count } else { 0 }),
            batch: Lists::with_capacity(count),
            tokens: Lists::with_capacity(count),
            invoices: Lists::with_capacity(count),
        };
        for position in &positions {
            side.push(&fields(*position), is_searched);
        }
        Self { positions, ..side }
    }

    /// The name alone, folded.
    pub(crate) fn name(&self, record: usize) -> &[u8] {
        &self.narrative.of(record)[..self.name_letters[record] as usize]
    }

    pub(crate) fn len(&self) -> usize {
        self.positions.len()
    }

    fn push(&mut self, record: &Fields, is_searched: bool) {
        let place = self.minor_units.len();
        // Beyond 64 bits an amount is only compared for being far away; saturating keeps the order.
        let units = i64::try_from(record.minor_units).unwrap_or(if record.minor_units < 0 {
            i64::MIN / 4
        } else {
            i64::MAX / 4
        });
        self.minor_units.push(units);
        self.booked_on.push(record.booked_on);
        self.is_return.push(record.is_return);
        self.iban.push(if record.counterparty_iban.is_empty() {
            0
        } else {
            text::hash64(record.counterparty_iban.as_bytes()) | 1
        });
        self.rail.push(text::hash32(record.rail.as_bytes()));

        let begin = self.narrative.items.len();
        text::fold_into(record.counterparty, &mut self.narrative.items);
        self.name_letters.push((self.narrative.items.len() - begin) as u32);
        if self.narrative.items.len() > begin && !record.text.is_empty() {
            self.narrative.items.push(b' ');
        }
        text::fold_into(record.text, &mut self.narrative.items);
        self.narrative.close(place);

        let begin_reference = self.reference.items.len();
        push_compact(record.reference, &mut self.reference.items);
        if PLACEHOLDERS.contains(&&self.reference.items[begin_reference..]) {
            self.reference.items.truncate(begin_reference);
        }
        self.reference.close(place);
        push_compact(record.batch, &mut self.batch.items);
        self.batch.close(place);
        let narrative = &self.narrative.items[begin..];
        if is_searched {
            push_compact(record.reference, &mut self.joined.items);
            self.joined.items.extend(narrative.iter().filter(|byte| **byte != b' '));
            self.joined.close(place);
        }

        let from = self.tokens.items.len();
        self.tokens.items.extend(
            text::words(narrative)
                .filter(|word| word.len() > 1 && !word.iter().all(u8::is_ascii_digit))
                .take(TOKENS_PER_RECORD_MAX)
                .map(text::hash32),
        );
        sort_from(&mut self.tokens.items, from);
        self.tokens.close(place);

        let from = self.invoices.items.len();
        push_numbers(&self.reference.items[begin_reference..], &mut self.invoices.items);
        push_numbers(&self.narrative.items[begin..], &mut self.invoices.items);
        self.invoices.items.truncate(from + INVOICES_PER_RECORD_MAX);
        sort_from(&mut self.invoices.items, from);
        self.invoices.close(place);
    }
}

/// Both sides of a shard, and what is frequent in it.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) ledger: Side,
    pub(crate) bank: Side,
    /// How often each word occurs in the bank's lines.
    pub(crate) word_count: FastMap<u32, u32>,
    /// Of each bank line, the logarithm of how many have its amount.
    pub(crate) amount_frequency: Vec<f32>,
    /// Of each ledger record, the logarithm of how many have its name.
    pub(crate) name_frequency: Vec<f32>,
    /// The bank's lines in the order of their narratives: the number of lines that begin alike is the width of a range.
    pub(crate) by_narrative: Vec<u32>,
}

impl Pair {
    pub(crate) fn new(ledger: Side, bank: Side) -> Self {
        let mut word_count = FastMap::default();
        for token in &bank.tokens.items {
            *word_count.entry(*token).or_insert(0) += 1;
        }
        let amount_frequency = frequencies(bank.minor_units.iter().map(|units| *units as u64));
        let name_frequency = frequencies((0..ledger.len()).map(|record| text::hash64(ledger.name(record))));
        let by_narrative = by_narrative(&bank);
        Self { ledger, bank, word_count, amount_frequency, name_frequency, by_narrative }
    }

    /// Of the records of a shard.
    pub(crate) fn of_shard(ledger: &[Record], bank: &[Record], shard: Shard) -> Self {
        let ledger = Side::ledger(shard.ledger, |position| Fields::from(&ledger[position as usize]));
        let bank = Side::bank(shard.bank, |position| Fields::from(&bank[position as usize]), &ledger);
        Self::new(ledger, bank)
    }

    /// Of the narratives in a stretch of their order, which all begin with the same `place` letters, those whose next letter
    /// is `letter`.
    pub(crate) fn narrow(&self, stretch: Range<u32>, place: usize, letter: u8) -> Range<u32> {
        let lines = &self.by_narrative[stretch.start as usize..stretch.end as usize];
        let next = |line: &u32| self.bank.narrative.of(*line as usize).get(place);
        let from = lines.partition_point(|line| next(line) < Some(&letter));
        let count = lines[from..].partition_point(|line| next(line) == Some(&letter));
        let from = stretch.start + from as u32;
        from..from + count as u32
    }
}

/// Of each key, the logarithm of how often it occurs.
fn frequencies(keys: impl Iterator<Item = u64> + Clone) -> Vec<f32> {
    let mut counts: FastMap<u64, u32> = FastMap::default();
    for key in keys.clone() {
        *counts.entry(key).or_insert(0) += 1;
    }
    keys.map(|key| counts.get(&key).map_or(0.0, |count| (*count as f32).ln())).collect()
}

/// The lines in the order of their narratives. Most differ within the first eight letters, which compare as one number.
fn by_narrative(bank: &Side) -> Vec<u32> {
    let narrative = |line: u32| bank.narrative.of(line as usize);
    let mut lines: Vec<(u64, u32)> = (0..bank.len() as u32)
        .map(|line| {
            let mut first = [0; 8];
            first.iter_mut().zip(narrative(line)).for_each(|(first, letter)| *first = *letter);
            (u64::from_be_bytes(first), line)
        })
        .collect();
    lines.sort_unstable_by(|(first, a), (other, b)| {
        first.cmp(other).then_with(|| narrative(*a).cmp(narrative(*b))).then(a.cmp(b))
    });
    lines.into_iter().map(|(_, line)| line).collect()
}

fn push_compact(text: &str, out: &mut Vec<u8>) {
    out.extend(text.bytes().filter(u8::is_ascii_alphanumeric).map(|byte| byte.to_ascii_uppercase()).take(64));
}

/// Numbers that stand alone (`1002206`), behind a prefix (`RE1002206`), or cut in two by a line break (`10 02206`). Digits
/// between letters belong to a reference, where a date or a hexadecimal run would pass for somebody else's invoice.
fn push_numbers(text: &[u8], out: &mut Vec<u64>) {
    let mut before: &[u8] = &[];
    for word in text::words(text) {
        let letters = word.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
        let digits = &word[letters..];
        let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        if !is_number {
            before = &[];
            continue;
        }
        push_number(digits, &[], out);
        if letters == 0 && !before.is_empty() {
            push_number(before, digits, out);
        }
        before = digits;
    }
}

fn push_number(head: &[u8], tail: &[u8], out: &mut Vec<u64>) {
    if (INVOICE_DIGITS_MIN..=INVOICE_DIGITS_MAX).contains(&(head.len() + tail.len())) {
        out.push(head.iter().chain(tail).fold(0, |number, digit| number * 10 + u64::from(digit - b'0')));
    }
}

fn sort_from<T: Ord + Copy>(items: &mut Vec<T>, from: usize) {
    items[from..].sort_unstable();
    let mut kept = from;
    for position in from..items.len() {
        if position == from || items[position] != items[kept - 1] {
            items[kept] = items[position];
            kept += 1;
        }
    }
    items.truncate(kept);
}
