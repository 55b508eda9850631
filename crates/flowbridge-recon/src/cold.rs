//! The model for the first day: agreement weights learned without any decision of a person.
//!
//! Fellegi and Sunter's model: each comparison falls into a level, and a level speaks for or against a match by how much
//! more often it occurs among matches than among other candidates. Expectation–maximisation finds both frequencies from
//! the data alone. The expectation is taken in competition (each record has at most one partner), which is what makes it
//! find the right mode where names are only initials. It ranks; it never posts by itself.

use crate::compete::Graph;
use crate::feature::Features;
use crate::parallel;
use serde::{Deserialize, Serialize};

const COMPARISONS: usize = 7;
const LEVELS: [usize; COMPARISONS] = [64, 64, 194, 6, 3, 4, 4];
const ROUNDS: usize = 9;
const SWEEPS: usize = 6;
const PAIRS_PER_PART: usize = 1 << 16;
/// How many pairs of doubt are added to the counts of levels.
const PULL: f64 = 20.0;

/// The level of each comparison.
pub(crate) type Levels = [u16; COMPARISONS];

/// Levels side by side in one number: learning keeps those of all its pairs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packed(u32);

/// How many bits each level takes.
const BITS: [u32; COMPARISONS] = [6, 6, 8, 3, 2, 2, 2];

impl From<Levels> for Packed {
    fn from(levels: Levels) -> Self {
        let each = levels.into_iter().zip(BITS).rev();
        Self(each.fold(0, |packed, (level, bits)| packed << bits | u32::from(level)))
    }
}

impl From<Packed> for Levels {
    fn from(Packed(mut packed): Packed) -> Self {
        BITS.map(|bits| {
            let level = packed & ((1 << bits) - 1);
            packed >>= bits;
            level as u16
        })
    }
}

/// Which level each comparison of a pair falls into.
pub(crate) fn levels(f: &Features) -> Levels {
    let lag = (f[15] as i32 + 20).clamp(0, 63) as u16;
    let amount = if f[6] > 0.0 {
        (f[12] / 0.7).min(7.0) as u16
    } else {
        let step = if f[9] > 0.0 { 0 } else { 1 + (f[8] / 5_000.0).min(25.0) as u16 };
        8 + 2 * step + u16::from(f[7] < 0.0)
    };
    let narrative = narrative_level(f);
    let reference = match f[0] {
        _ if f[1] > 0.0 => 5,
        share if share >= 0.6 => 4,
        share if share >= 0.4 => 3,
        share if share > 0.0 => 1 + u16::from(f[2] == 0.0),
        _ => 0,
    };
    let invoices = match (f[3] > 0.0, f[4] > 0.0) {
        (true, _) => 2 + u16::from(f[5] > 1.0),
        (false, other) => u16::from(other),
    };
    let batch = u16::from(f[27] > 0.0) + 2 * u16::from(f[10] > 0.0);
    [lag, amount, narrative, reference, (f[16] + 1.0) as u16, invoices, batch]
}

/// Beginning, what follows it, rarity and shared words say much the same; taken as one comparison they are not counted
/// four times.
fn narrative_level(f: &Features) -> u16 {
    let rarity = (f[23] * 1.5).clamp(0.0, 15.0) as u16;
    let ends_alike = u16::from(f[25] == 1.0);
    match f[24] {
        _ if f[25] >= 3.0 => 5 * 16 + rarity,
        cover if cover >= 1.0 => 4 * 16 + rarity,
        cover if cover >= 0.75 => (2 + ends_alike) * 16 + rarity,
        cover if cover >= 0.5 => ends_alike * 16 + rarity,
        cover => {
            let words = (f[18] * 6.0).clamp(0.0, 6.0) as u16;
            let beginning = if cover >= 0.2 { 1 + rarity.min(11) / 2 } else { 0 };
            96 + (words * 7 + beginning) * 2 + ends_alike
        }
    }
}

/// Learned weights of levels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ColdModel {
    prior: f32,
    weights: Vec<Vec<f32>>,
}

impl ColdModel {
    /// Has every level a weight?
    pub(crate) fn is_sound(&self) -> bool {
        let is_whole = self.weights.len() == COMPARISONS
            && self.weights.iter().zip(LEVELS).all(|(weights, levels)| weights.len() == levels);
        is_whole && self.prior.is_finite() && self.weights.iter().flatten().all(|weight| weight.is_finite())
    }

    /// Log-odds of a pair being a match, before competition.
    pub(crate) fn score(&self, levels: &Levels) -> f32 {
        levels.iter().zip(&self.weights).map(|(level, weights)| weights[usize::from(*level)]).sum::<f32>()
            + self.prior
    }

    /// Learns from candidates without labels, of which at most `records` are matches. `starts` are rough first scores.
    pub(crate) fn fit(
        graph: &Graph,
        records: usize,
        levels: &[Packed],
        starts: Vec<f32>,
        threads: usize,
    ) -> Self {
        let records = records as f64;
        // One list of numbers, by turns scores and probabilities.
        let mut numbers = starts;
        graph.normalise(&mut numbers, SWEEPS);
        let mut model = Self::weigh(records, levels, &numbers, threads);
        for _ in 0..ROUNDS {
            parallel::fill(&mut numbers, PAIRS_PER_PART, threads, |from, scores| {
                for (score, levels) in scores.iter_mut().zip(&levels[from..]) {
                    *score = model.score(&Levels::from(*levels));
                }
            });
            graph.normalise(&mut numbers, SWEEPS);
            model = Self::weigh(records, levels, &numbers, threads);
        }
        model
    }

    fn weigh(records: f64, levels: &[Packed], probabilities: &[f32], threads: usize) -> Self {
        let ranges = parallel::ranges(levels.len(), PAIRS_PER_PART);
        let counts = parallel::map(ranges.len(), threads, |part| {
            let mut counts: Vec<Vec<[f64; 2]>> = LEVELS.iter().map(|count| vec![[0.0; 2]; *count]).collect();
            for (levels, probability) in
                levels[ranges[part].clone()].iter().zip(&probabilities[ranges[part].clone()])
            {
                let probability = f64::from(*probability);
                for (level, counts) in Levels::from(*levels).into_iter().zip(&mut counts) {
                    let count = &mut counts[usize::from(level)];
                    count[0] += probability;
                    count[1] += 1.0 - probability;
                }
            }
            counts
        });
        let mut sums: Vec<Vec<[f64; 2]>> = LEVELS.iter().map(|count| vec![[0.0; 2]; *count]).collect();
        for part in counts {
            for (sums, counts) in sums.iter_mut().zip(part) {
                for (sum, count) in sums.iter_mut().zip(counts) {
                    sum[0] += count[0];
                    sum[1] += count[1];
                }
            }
        }
        let matches: f64 = probabilities.iter().map(|probability| f64::from(*probability)).sum();
        let others = (levels.len() as f64 - matches).max(1.0);
        let weights = sums
            .iter()
            .map(|counts| {
                counts
                    .iter()
                    .map(|[among_matches, among_others]| {
                        // A level that was hardly seen says nothing: pull it towards its share of all pairs.
                        let share = PULL * (among_matches + among_others + 1e-9) / (matches + others);
                        let among_matches = (among_matches + share) / (matches + PULL);
                        let among_others = (among_others + share) / (others + PULL);
                        (among_matches / among_others).ln() as f32
                    })
                    .collect()
            })
            .collect();
        // Against having no partner at all, which is as rare as the data say.
        let alone = (1.0 - matches / records.max(1.0)).clamp(0.005, 1.0);
        Self { prior: ((matches + 0.5) / (others + 0.5) / alone).ln() as f32, weights }
    }
}

/// A rough first score: rare common beginnings, near amounts, equal references.
pub(crate) fn first_guess(f: &Features) -> f32 {
    let amount = if f[6] > 0.0 { 4.0 } else { -f[8] / 20_000.0 };
    f[23] * f[24] + amount - f[15].abs() * 0.1 + 8.0 * f[1] + 4.0 * f[16] + 3.0 * f[18] + 5.0 * f[3].min(1.0)
        - 8.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_levels_come_out_as_they_went_in() {
        for levels in [[0; COMPARISONS], [5, 0, 193, 1, 2, 0, 3], LEVELS.map(|count| count as u16 - 1)] {
            assert_eq!(Levels::from(Packed::from(levels)), levels);
        }
    }
}
