//! Evaluation on Splink's public set of bank transactions: two Parquet files, each row with its true partner.
//!
//! The truth is used to count, and for the labelled run to train on a fixed fifth of the records; it never reaches the
//! unsupervised model. Figures of the labelled run count only records that were not trained on.

use crate::block::Blocking;
use crate::date::Date;
use crate::model::{self, Certainty, Judged, Model, Open};
use crate::prepare::{Fields, Pair, Side};
use crate::text;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::{Field, RowAccessor as _};
use serde::Serialize;
use std::path::Path;

/// Where nothing but frequencies is learned, a sixth of the records gives the same pairs in a sixth of the time and memory.
const LEARNED_FROM_MAX: usize = 8_000;

/// Both files ready for comparison, and the truth beside them. The rows themselves are gone: nothing asks for them again.
#[derive(Debug)]
pub struct PublicSet {
    pair: Pair,
    truth: Truth,
    /// What it took from records in memory.
    seconds: f64,
}

/// Why the public set cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadPublicSetError {
    /// The file is not there or not readable.
    #[error("cannot open {0}")]
    Open(String, #[source] std::io::Error),
    /// Not Parquet, or not of the expected columns.
    #[error("{0} is not the expected Parquet file: {1}")]
    Format(String, String),
}

/// What was counted.
#[derive(Debug, Clone, Serialize)]
pub struct Score {
    /// Best harmonic mean of precision and recall over all thresholds, one to one.
    pub f1: f64,
    /// Share of true pairs that are found at the lowest threshold where at most one pair in a thousand is wrong.
    pub coverage_at_999: f64,
    /// For a model with a threshold of its own: share of true pairs posted, and how many of the posted are right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub honest: Option<Honest>,
    /// What both were counted from.
    pub counted: Counted,
    /// Seconds, from records in memory to decisions; training included.
    pub seconds: f64,
    /// Seconds of these without training.
    pub seconds_predict_only: f64,
}

/// Pairs that figures are counted from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// True ones.
    pub pairs: u64,
    /// Right ones at the threshold of the best F1.
    pub right: u64,
    /// Wrong ones there.
    pub wrong: u64,
    /// Right ones at the lowest threshold where at most one in a thousand is wrong.
    pub covered: u64,
}

/// What a threshold set on training data does on other data.
#[derive(Debug, Clone, Serialize)]
pub struct Honest {
    /// Pairs at or above the threshold.
    pub posted: u64,
    /// Of these, right.
    pub right: u64,
    /// Share of true pairs at or above the threshold.
    pub coverage: f64,
    /// Share of right ones among the pairs at or above the threshold.
    pub precision: f64,
    /// Lower bound of that precision, exact, one-sided 95 %.
    pub precision_down: f64,
}

/// Reads `transactions_origin.parquet` and `transactions_destination.parquet`.
pub fn read(origin: &Path, destination: &Path) -> Result<PublicSet, ReadPublicSetError> {
    let mut seconds = 0.0;
    let mut prepare =
        |path: &Path, side: &dyn Fn(Vec<u32>, &Rows) -> Side| -> Result<_, ReadPublicSetError> {
            let rows = read_file(path)?;
            let begun = std::time::Instant::now();
            let positions = rows.in_order();
            let truth = rows.truth_of(&positions);
            let side = side(positions, &rows);
            seconds += begun.elapsed().as_secs_f64();
            Ok((side, truth))
        };
    let (ledger, ledger_truth) =
        prepare(origin, &|positions, rows| Side::ledger(positions, |position| rows.fields(position)))?;
    let (bank, bank_truth) = prepare(destination, &|positions, rows| {
        Side::bank(positions, |position| rows.fields(position), &ledger)
    })?;
    let begun = std::time::Instant::now();
    let pair = Pair::new(ledger, bank);
    let seconds = seconds + begun.elapsed().as_secs_f64();
    Ok(PublicSet { pair, truth: Truth::new(ledger_truth, bank_truth), seconds })
}

/// The rows of one file, column by column: as records of their own they would take five times the memory.
#[derive(Default)]
struct Rows {
    minor_units: Vec<i64>,
    booked_on: Vec<Date>,
    ids: Texts,
    memos: Texts,
    /// The true group of each.
    truth: Vec<i64>,
}

impl Rows {
    /// Positions in the order of their contents, as [`crate::record::shards`] has them.
    fn in_order(&self) -> Vec<u32> {
        let contents = |position: u32| {
            let place = position as usize;
            (self.booked_on[place], self.minor_units[place], self.ids.of(place), self.memos.of(place))
        };
        let mut positions: Vec<u32> = (0..self.truth.len() as u32).collect();
        positions.sort_by(|a, b| contents(*a).cmp(&contents(*b)));
        positions
    }

    fn truth_of(&self, positions: &[u32]) -> Vec<i64> {
        positions.iter().map(|position| self.truth[*position as usize]).collect()
    }

    fn fields(&self, position: u32) -> Fields<'_> {
        Fields {
            minor_units: self.minor_units[position as usize].into(),
            booked_on: self.booked_on[position as usize],
            is_return: false,
            reference: "",
            batch: "",
            counterparty_iban: "",
            counterparty: self.memos.of(position as usize),
            text: "",
            rail: "",
        }
    }
}

/// Many short texts behind each other.
#[derive(Default)]
struct Texts {
    letters: String,
    ends: Vec<u32>,
}

impl Texts {
    fn push(&mut self, text: &str) {
        self.letters.push_str(text);
        self.ends.push(self.letters.len() as u32);
    }

    fn of(&self, place: usize) -> &str {
        let begin = if place == 0 { 0 } else { self.ends[place - 1] };
        &self.letters[begin as usize..self.ends[place] as usize]
    }
}

fn read_file(path: &Path) -> Result<Rows, ReadPublicSetError> {
    let name = || path.display().to_string();
    let format = |error: parquet::errors::ParquetError| ReadPublicSetError::Format(name(), error.to_string());
    let file = std::fs::File::open(path).map_err(|error| ReadPublicSetError::Open(name(), error))?;
    let reader = SerializedFileReader::new(file).map_err(format)?;
    let missing = |what: &str| ReadPublicSetError::Format(name(), format!("no readable {what}"));
    let columns: Vec<String> = reader
        .metadata()
        .file_metadata()
        .schema_descr()
        .columns()
        .iter()
        .map(|column| column.name().to_owned())
        .collect();
    let column = |wanted: &str| columns.iter().position(|name| name == wanted).ok_or_else(|| missing(wanted));
    let (truth_at, memo_at, date_at, amount_at, id_at) = (
        column("ground_truth")?,
        column("memo")?,
        column("transaction_date")?,
        column("amount")?,
        column("unique_id")?,
    );
    let mut rows = Rows::default();
    for row in reader.get_row_iter(None).map_err(format)? {
        let row = row.map_err(format)?;
        let fields: Vec<&Field> = row.get_column_iter().map(|(_, field)| field).collect();
        let days = if let Field::Date(days) = fields[date_at] {
            Some(Date::from_epoch_days(*days))
        } else if let Field::Str(text) = fields[date_at] {
            Date::parse_iso(text)
        } else {
            None
        };
        // The file stores amounts as binary fractions; to the nearest hundredth they are what was meant.
        let amount = if let Field::Double(amount) = fields[amount_at]
            && amount.abs() < 1e13
        {
            Some((amount * 100.0).round() as i64)
        } else {
            None
        };
        let memo = if let Field::Str(text) = fields[memo_at] { text.as_str() } else { "" };
        rows.truth.push(row.get_long(truth_at).map_err(format)?);
        rows.ids.push(&fields[id_at].to_string());
        rows.minor_units.push(amount.ok_or_else(|| missing("amount"))?);
        rows.booked_on.push(days.ok_or_else(|| missing("transaction_date"))?);
        rows.memos.push(memo);
    }
    Ok(rows)
}

impl PublicSet {
    /// How many records each file has.
    pub fn records(&self) -> [usize; 2] {
        [self.pair.ledger.len(), self.pair.bank.len()]
    }

    /// Matches with nothing but the two files. What was prepared goes as soon as no pair has to be measured any more.
    pub fn unsupervised(self, threads: usize) -> Score {
        let begun = std::time::Instant::now();
        let Self { pair, truth, seconds } = self;
        let blocking = Blocking::converted();
        let cold = model::learn_cold(&pair, &blocking, LEARNED_FROM_MAX, threads);
        let learned = begun.elapsed().as_secs_f64();
        let judged = model::choose_cold(pair, &blocking, &cold, threads);
        let seconds = seconds + begun.elapsed().as_secs_f64();
        let chosen = truth.chosen(&judged, |_| true);
        let (f1, coverage_at_999, counted) = counted_curve(&chosen, truth.pairs);
        let seconds_predict_only = seconds - learned;
        Score { f1, coverage_at_999, honest: None, counted, seconds, seconds_predict_only }
    }

    /// Matches with the answers for a fifth of the records.
    pub fn labelled(&self, threads: usize) -> Score {
        let begun = std::time::Instant::now();
        let (pair, truth) = (&self.pair, &self.truth);
        let is_trained = |ledger: u32| {
            text::hash64(&truth.ledger[ledger as usize].to_le_bytes()).wrapping_mul(0x9e37_79b9_7f4a_7c15)
                >> 32
                < (1 << 32) / 5
        };
        let blocking = Blocking::converted();
        let cold = model::learn_cold(pair, &blocking, usize::MAX, threads);
        let learned = begun.elapsed().as_secs_f64();
        let measured = model::measure(pair, &blocking, &cold, &Open::all(pair), threads);
        let outcomes: Vec<Option<bool>> = measured
            .graph
            .candidates
            .iter()
            .map(|candidate| {
                is_trained(candidate.ledger).then(|| truth.is_match(candidate.ledger, candidate.bank))
            })
            .collect();
        let certainty = Certainty { precision_min: 0.999, probability_min: 0.9 };
        let learning = std::time::Instant::now();
        let model = Model::train(blocking, cold, &measured, &outcomes, certainty, threads);
        let learned = learned + learning.elapsed().as_secs_f64();
        let judged = model.judge_pairs(&measured, threads);
        let seconds = self.seconds + begun.elapsed().as_secs_f64();
        let chosen = truth.chosen(&judged, |ledger| !is_trained(ledger));
        let pairs = (0..truth.ledger.len() as u32)
            .filter(|ledger| !is_trained(*ledger) && truth.has_partner(*ledger))
            .count();
        let (f1, coverage_at_999, counted) = counted_curve(&chosen, pairs);
        let posted: Vec<bool> = chosen
            .iter()
            .filter(|(score, _)| *score >= model.threshold)
            .map(|(_, is_match)| *is_match)
            .collect();
        let right = posted.iter().filter(|is_match| **is_match).count();
        let honest = Honest {
            posted: posted.len() as u64,
            right: right as u64,
            coverage: right as f64 / pairs.max(1) as f64,
            precision: right as f64 / posted.len().max(1) as f64,
            precision_down: crate::calibrate::success_rate_down(right as u64, posted.len() as u64, 0.95),
        };
        let seconds_predict_only = seconds - learned;
        Score { f1, coverage_at_999, honest: Some(honest), counted, seconds, seconds_predict_only }
    }
}

#[derive(Debug)]
struct Truth {
    ledger: Vec<i64>,
    bank: Vec<i64>,
    /// The true groups that have a bank line, sorted.
    partners: Vec<i64>,
    pairs: usize,
}

impl Truth {
    fn new(ledger: Vec<i64>, bank: Vec<i64>) -> Self {
        let mut partners = bank.clone();
        partners.sort_unstable();
        let pairs = ledger.iter().filter(|truth| partners.binary_search(truth).is_ok()).count();
        Self { ledger, bank, partners, pairs }
    }

    fn is_match(&self, ledger: u32, bank: u32) -> bool {
        self.ledger[ledger as usize] == self.bank[bank as usize]
    }

    fn has_partner(&self, ledger: u32) -> bool {
        self.partners.binary_search(&self.ledger[ledger as usize]).is_ok()
    }

    fn chosen(&self, judged: &[Judged], counts: impl Fn(u32) -> bool) -> Vec<(f32, bool)> {
        judged
            .iter()
            .filter(|judged| judged.is_chosen && counts(judged.candidate.ledger))
            .map(|judged| (judged.score, self.is_match(judged.candidate.ledger, judged.candidate.bank)))
            .collect()
    }
}

/// Best F1 over thresholds, and coverage at the lowest threshold where precision is at least 99.9 %.
pub(crate) fn curve(chosen: &[(f32, bool)], pairs: usize) -> (f64, f64) {
    let (f1, coverage, _) = counted_curve(chosen, pairs);
    (f1, coverage)
}

/// The same, with what both were counted from.
pub(crate) fn counted_curve(chosen: &[(f32, bool)], pairs: usize) -> (f64, f64, Counted) {
    let mut chosen = chosen.to_vec();
    chosen.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let (mut right, mut f1, mut coverage) = (0usize, 0.0f64, 0.0f64);
    let mut counted = Counted { pairs: pairs as u64, ..Counted::default() };
    for (place, (score, is_match)) in chosen.iter().enumerate() {
        right += usize::from(*is_match);
        if chosen.get(place + 1).is_some_and(|next| next.0 == *score) {
            continue;
        }
        let count = place + 1;
        let f1_here = 2.0 * right as f64 / (count + pairs) as f64;
        if f1_here > f1 {
            f1 = f1_here;
            (counted.right, counted.wrong) = (right as u64, (count - right) as u64);
        }
        if right as f64 >= 0.999 * count as f64 {
            coverage = right as f64 / pairs.max(1) as f64;
            counted.covered = right as u64;
        }
    }
    (f1, coverage, counted)
}
