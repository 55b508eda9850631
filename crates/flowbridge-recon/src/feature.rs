//! What is measured about a pair.
//!
//! Each feature is a plain fact with a name that the explanation shows to people. Missing evidence (no reference, no
//! account) is told apart from contradicting evidence. Amounts are compared as integers; only the result is a float.

use crate::block::Candidate;
use crate::prepare::Pair;
use crate::text;

/// How many features a pair has.
pub(crate) const FEATURES: usize = 29;

/// Their names, in order.
pub const FEATURE_NAMES: [&str; FEATURES] = [
    "reference_share",
    "reference_full",
    "reference_other",
    "invoice_hits",
    "invoice_other",
    "invoices_in_line",
    "amount_equal",
    "amount_ratio",
    "amount_difference_ppm",
    "amount_within_3",
    "amount_short_of_fee",
    "amount_short",
    "amount_frequency",
    "name_frequency",
    "rail_equal",
    "lag_days",
    "account_agrees",
    "name_similarity",
    "words_shared",
    "is_return",
    "amount_size",
    "text_length",
    "beginning_letters",
    "beginning_rarity",
    "beginning_cover",
    "rest_agrees",
    "digits_transposed",
    "batch_agrees",
    "cold_score",
];

pub(crate) type Features = [f32; FEATURES];

/// Position of the score of the unsupervised model, which is filled in later.
pub(crate) const COLD_SCORE: usize = FEATURES - 1;

/// Fees that banks along the way take, in minor units.
pub(crate) const KNOWN_FEES: [i64; 12] =
    [150, 250, 500, 750, 1_000, 1_200, 1_500, 2_000, 2_500, 3_000, 3_500, 5_000];

/// What is the same for all pairs of one ledger record, worked out once.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    record: Option<u32>,
    /// Where in the order of narratives the lines stand that begin like the record, by the number of letters.
    beginnings: Vec<std::ops::Range<u32>>,
    /// What each of its words is worth, and all of them.
    weights: Vec<f32>,
    weight: f32,
}

impl Scratch {
    fn turn_to(&mut self, pair: &Pair, record: u32) {
        if self.record == Some(record) {
            return;
        }
        let place = record as usize;
        self.record = Some(record);
        self.beginnings.clear();
        self.beginnings.push(0..pair.bank.len() as u32);
        self.weights.clear();
        self.weights.extend(pair.ledger.tokens.of(place).iter().map(|token| {
            let count = pair.word_count.get(token).copied().unwrap_or(0) as f32;
            ((pair.bank.len() as f32 + 1.0) / (count + 1.0)).ln()
        }));
        self.weight = self.weights.iter().sum();
    }

    /// How many lines begin with that many of the record's letters. Those that begin with one letter more stand among them.
    fn beginning(&mut self, pair: &Pair, record: u32, letters: usize) -> u32 {
        let own = pair.ledger.narrative.of(record as usize);
        while self.beginnings.len() <= letters {
            let known = self.beginnings.len() - 1;
            let next = pair.narrow(self.beginnings[known].clone(), known, own[known]);
            self.beginnings.push(next);
        }
        self.beginnings[letters].len() as u32
    }

    /// The share of the record's words that a line has too, rare words counting more.
    fn words_shared(&self, pair: &Pair, record: usize, line: usize) -> f32 {
        if self.weight <= 0.0 {
            return 0.0;
        }
        let (own, theirs) = (pair.ledger.tokens.of(record), pair.bank.tokens.of(line));
        let shared: f32 = own
            .iter()
            .zip(&self.weights)
            .filter(|(token, _)| theirs.binary_search(token).is_ok())
            .map(|(_, weight)| weight)
            .sum();
        shared / self.weight
    }
}

/// Adds what only pairs that the cold model keeps are worth: the similarity of names.
pub(crate) fn complete(pair: &Pair, candidate: Candidate, f: &mut Features) {
    let (a, b) = (candidate.ledger as usize, candidate.bank as usize);
    let name = pair.bank.name(b);
    f[17] = text::jaro_winkler(
        pair.ledger.name(a),
        if name.is_empty() { pair.bank.narrative.of(b) } else { name },
    );
}

/// Measures a pair, all but what [`complete`] adds.
pub(crate) fn measure(pair: &Pair, candidate: Candidate, scratch: &mut Scratch) -> Features {
    scratch.turn_to(pair, candidate.ledger);
    let (ledger, bank) = (&pair.ledger, &pair.bank);
    let (a, b) = (candidate.ledger as usize, candidate.bank as usize);
    let mut f = [0.0f32; FEATURES];

    let reference = ledger.reference.of(a);
    if reference.len() >= 4 {
        let joined = bank.joined.of(b);
        let is_full = text::contains(joined, reference);
        let run = if is_full { reference.len() } else { text::longest_common_run(reference, joined) };
        f[0] = run as f32 / reference.len() as f32;
        f[1] = f32::from(u8::from(is_full));
        // The bank quotes a reference of its own, and it is another one.
        f[2] = f32::from(u8::from(bank.reference.of(b).len() >= 8 && run < 6));
    }
    let (quoted, own) = (bank.invoices.of(b), ledger.invoices.of(a));
    let hits = common(quoted, own);
    f[3] = hits as f32;
    f[4] = f32::from(u8::from(hits == 0 && !quoted.is_empty() && !own.is_empty()));
    f[5] = quoted.len() as f32;

    let (ours, theirs) = (ledger.minor_units[a], bank.minor_units[b]);
    let difference = theirs.saturating_sub(ours);
    let size = (ours.saturating_abs() as f32).max(1.0);
    f[6] = f32::from(u8::from(difference == 0));
    f[7] = ((theirs.saturating_abs() as f32).max(1.0) / size).ln();
    f[8] = (difference.saturating_abs() as f32 / size * 1e6).min(2e6);
    f[9] = f32::from(u8::from(difference.saturating_abs() <= 3));
    let short = ours.saturating_abs().saturating_sub(theirs.saturating_abs());
    f[10] = f32::from(u8::from(KNOWN_FEES.contains(&short.saturating_abs())));
    f[11] = short.clamp(-10_000, 10_000) as f32;
    f[12] = pair.amount_frequency[b];
    f[13] = pair.name_frequency[a];
    f[14] = f32::from(u8::from(ledger.rail[a] == bank.rail[b]));
    f[15] = bank.booked_on[b].days_since(ledger.booked_on[a]).clamp(-60, 60) as f32;
    f[16] = match (ledger.iban[a], bank.iban[b]) {
        (0, _) | (_, 0) => 0.0,
        (ours, theirs) if ours == theirs => 1.0,
        _ => -1.0,
    };
    let narrative = bank.narrative.of(b);
    f[18] = scratch.words_shared(pair, a, b);
    f[19] = f32::from(i8::from(ledger.is_return[a]) - i8::from(bank.is_return[b]));
    f[20] = size.ln();
    f[21] = narrative.len() as f32;

    let own = ledger.narrative.of(a);
    let beginning = text::common_prefix(own, narrative);
    f[22] = beginning as f32;
    f[23] =
        -(scratch.beginning(pair, candidate.ledger, beginning).max(1) as f32 / bank.len().max(1) as f32).ln();
    f[24] = beginning as f32 / own.len().min(narrative.len()).max(1) as f32;
    f[25] = rest(&own[beginning..], &narrative[beginning..]);
    f[26] = f32::from(u8::from(is_transposed(ours, theirs)));
    let batch = ledger.batch.of(a);
    f[27] = f32::from(u8::from(
        !batch.is_empty() && (bank.batch.of(b) == batch || text::contains(bank.joined.of(b), batch)),
    ));
    f
}

/// Are the digits the same but in another order, with two neighbours exchanged?
pub(crate) fn is_transposed(a: i64, b: i64) -> bool {
    let difference = a.saturating_sub(b);
    if difference == 0 || difference % 9 != 0 {
        return false;
    }
    let (a, b) = (a.unsigned_abs().to_string(), b.unsigned_abs().to_string());
    let differing: Vec<usize> =
        a.bytes().zip(b.bytes()).enumerate().filter(|(_, (a, b))| a != b).map(|(place, _)| place).collect();
    let (a, b) = (a.as_bytes(), b.as_bytes());
    a.len() == b.len()
        && matches!(differing[..], [first, second] if second == first + 1 && a[first] == b[second] && a[second] == b[first])
}

fn common<T: Ord>(a: &[T], b: &[T]) -> usize {
    let (mut i, mut j, mut count) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                count += 1;
                i += 1;
                j += 1;
            }
        }
    }
    count
}

/// After the common beginning: 3 both ended, 2 one ended, 1 both go on and end alike, 0 they go on differently.
fn rest(a: &[u8], b: &[u8]) -> f32 {
    if a.is_empty() && b.is_empty() {
        return 3.0;
    }
    if a.is_empty() || b.is_empty() {
        return 2.0;
    }
    let last = |text| text::words(text).last().unwrap_or_default();
    let (a, b) = (last(a), last(b));
    f32::from(u8::from(text::common_prefix(a, b) == a.len().min(b.len()) && !a.is_empty() && !b.is_empty()))
}
