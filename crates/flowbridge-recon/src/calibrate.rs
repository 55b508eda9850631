//! Turning a score into a probability, and saying how sure a counted precision is.
//!
//! Isotonic regression by pooling adjacent violators: a higher score never gets a lower probability. Between the pools
//! it is linear, so that different scores stay different. Clopper–Pearson bounds are exact, not approximations: they hold
//! for few cases too.

use serde::{Deserialize, Serialize};

/// A non-decreasing map from score to probability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Isotonic {
    scores: Vec<f32>,
    probabilities: Vec<f32>,
}

impl Isotonic {
    /// Fits scores to outcomes. Without any outcome every score is worth one half.
    pub fn fit(scores: &[f32], outcomes: &[bool]) -> Self {
        let mut order: Vec<u32> = (0..scores.len() as u32).collect();
        order.sort_by(|a, b| scores[*a as usize].total_cmp(&scores[*b as usize]));
        // Mean score, positives, count.
        let mut pools: Vec<(f64, f64, f64)> = Vec::new();
        for index in order {
            let index = index as usize;
            pools.push((f64::from(scores[index]), f64::from(u8::from(outcomes[index])), 1.0));
            while let [.., below, above] = pools[..] {
                if below.1 * above.2 < above.1 * below.2 {
                    break;
                }
                pools.pop();
                pools.pop();
                pools.push((below.0 + above.0, below.1 + above.1, below.2 + above.2));
            }
        }
        if pools.is_empty() {
            return Self { scores: vec![0.0], probabilities: vec![0.5] };
        }
        Self {
            scores: pools.iter().map(|pool| (pool.0 / pool.2) as f32).collect(),
            // A pool of n cases without an exception does not prove certainty: half a case of doubt on either side.
            probabilities: pools
                .iter()
                .map(|pool| (pool.1.clamp(0.5, (pool.2 - 0.5).max(0.5)) / pool.2) as f32)
                .collect(),
        }
    }

    /// Has it as many probabilities as scores, and at least one?
    pub(crate) fn is_sound(&self) -> bool {
        !self.scores.is_empty()
            && self.scores.len() == self.probabilities.len()
            && self.scores.is_sorted_by(|a, b| a <= b)
    }

    /// The probability of a score.
    pub fn probability(&self, score: f32) -> f32 {
        let after = self.scores.partition_point(|known| *known < score);
        let (Some(above), Some(below)) = (self.scores.get(after), after.checked_sub(1)) else {
            return self.probabilities[after.min(self.probabilities.len() - 1)];
        };
        let (low, high) = (self.probabilities[below], self.probabilities[after]);
        let width = above - self.scores[below];
        if width <= 0.0 { high } else { low + (high - low) * (score - self.scores[below]) / width }
    }
}

/// Expected calibration error: the mean distance between promised probability and what came true, over ten bins of
/// equal width.
pub fn expected_calibration_error(probabilities: &[f32], outcomes: &[bool]) -> f64 {
    let mut bins = [(0.0f64, 0.0f64, 0.0f64); 10];
    for (probability, outcome) in probabilities.iter().zip(outcomes) {
        let bin = &mut bins[((probability * 10.0) as usize).min(9)];
        bin.0 += f64::from(*probability);
        bin.1 += f64::from(u8::from(*outcome));
        bin.2 += 1.0;
    }
    let count: f64 = bins.iter().map(|bin| bin.2).sum();
    if count == 0.0 { 0.0 } else { bins.iter().map(|bin| (bin.0 - bin.1).abs()).sum::<f64>() / count }
}

/// The greatest error rate that `errors` among `count` cases do not exclude at one-sided `confidence`
/// (Clopper and Pearson). Without cases that is 1.
pub fn error_rate_up(errors: u64, count: u64, confidence: f64) -> f64 {
    if errors >= count {
        return 1.0;
    }
    // The probability of at most `errors` errors falls as the rate rises; bisect to where it is 1 - confidence.
    let (mut low, mut high) = (0.0f64, 1.0f64);
    for _ in 0..100 {
        let middle = f64::midpoint(low, high);
        if at_most(errors, count, middle) > 1.0 - confidence {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// The smallest success rate that `successes` among `count` cases do not exclude at one-sided `confidence`.
pub fn success_rate_down(successes: u64, count: u64, confidence: f64) -> f64 {
    1.0 - error_rate_up(count.saturating_sub(successes), count, confidence)
}

/// Probability of at most `errors` errors among `count` cases at that rate, by logarithms of the terms.
fn at_most(errors: u64, count: u64, rate: f64) -> f64 {
    if rate <= 0.0 {
        return 1.0;
    }
    if rate >= 1.0 {
        return 0.0;
    }
    let (in_rate, out_rate) = (rate.ln(), (-rate).ln_1p());
    let mut term = count as f64 * out_rate;
    let mut sum = term.exp();
    for error in 0..errors {
        term += ((count - error) as f64).ln() - ((error + 1) as f64).ln() + in_rate - out_rate;
        sum += term.exp();
    }
    sum.min(1.0)
}
