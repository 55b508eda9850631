//! Competition: a pair is judged beside every other pair that wants the same record.
//!
//! Each record has at most one partner, so the probability of a pair falls when a rival is as good. Odds are normalised
//! from both sides by turns, with the possibility of having no partner on each side; twenty turns are enough for the
//! numbers to stand still. Sums run in the order of the candidates, so that they are the same everywhere.

use crate::block::Candidate;

/// Candidates of a shard, reachable from both sides.
#[derive(Debug)]
pub(crate) struct Graph {
    pub(crate) candidates: Vec<Candidate>,
    row_starts: Vec<u32>,
    column_starts: Vec<u32>,
    /// Positions of candidates, by bank line.
    by_column: Vec<u32>,
}

impl Graph {
    /// `candidates` are sorted.
    pub(crate) fn new(lefts: usize, rights: usize, candidates: Vec<Candidate>) -> Self {
        let mut row_starts = vec![0u32; lefts + 1];
        let mut column_starts = vec![0u32; rights + 1];
        for candidate in &candidates {
            row_starts[candidate.ledger as usize + 1] += 1;
            column_starts[candidate.bank as usize + 1] += 1;
        }
        for starts in [&mut row_starts, &mut column_starts] {
            for place in 1..starts.len() {
                starts[place] += starts[place - 1];
            }
        }
        let mut next = column_starts.clone();
        let mut by_column = vec![0u32; candidates.len()];
        for (position, candidate) in candidates.iter().enumerate() {
            let place = &mut next[candidate.bank as usize];
            by_column[*place as usize] = position as u32;
            *place += 1;
        }
        Self { candidates, row_starts, column_starts, by_column }
    }

    pub(crate) fn len(&self) -> usize {
        self.candidates.len()
    }

    pub(crate) fn rows(&self) -> usize {
        self.row_starts.len() - 1
    }

    pub(crate) fn columns(&self) -> usize {
        self.column_starts.len() - 1
    }

    /// Positions of the candidates of a ledger record.
    pub(crate) fn row(&self, left: usize) -> std::ops::Range<usize> {
        self.row_starts[left] as usize..self.row_starts[left + 1] as usize
    }

    /// Positions of the candidates of a bank line.
    pub(crate) fn column(&self, right: usize) -> &[u32] {
        &self.by_column[self.column_starts[right] as usize..self.column_starts[right + 1] as usize]
    }

    /// Turns log-odds of the candidates into probabilities, when each record has at most one partner.
    pub(crate) fn normalise(&self, scores: &mut [f32], sweeps: usize) {
        let weights = scores;
        weights.iter_mut().for_each(|weight| *weight = weight.clamp(-30.0, 30.0).exp());
        let mut row_null = vec![1.0f32; self.rows()];
        let mut column_null = vec![1.0f32; self.columns()];
        for _ in 0..sweeps {
            for (left, null) in row_null.iter_mut().enumerate() {
                let sum: f32 = self
                    .row(left)
                    .map(|position| weights[position] * column_null[self.candidates[position].bank as usize])
                    .sum();
                *null = 1.0 / (1.0 + sum);
            }
            for (right, null) in column_null.iter_mut().enumerate() {
                let sum: f32 = self
                    .column(right)
                    .iter()
                    .map(|position| {
                        let position = *position as usize;
                        weights[position] * row_null[self.candidates[position].ledger as usize]
                    })
                    .sum();
                *null = 1.0 / (1.0 + sum);
            }
        }
        for (candidate, weight) in self.candidates.iter().zip(weights) {
            let probability =
                *weight * row_null[candidate.ledger as usize] * column_null[candidate.bank as usize];
            *weight = probability.clamp(0.0, 1.0);
        }
    }

    /// The best score of a rival for the ledger record, and of a rival for the bank line, for each candidate.
    pub(crate) fn runners_up(&self, scores: &[f32]) -> Vec<[f32; 2]> {
        let mut result = vec![[f32::NEG_INFINITY; 2]; self.len()];
        for left in 0..self.rows() {
            let best = best_two(self.row(left).map(|position| scores[position]));
            for position in self.row(left) {
                result[position][0] = if scores[position] >= best[0] { best[1] } else { best[0] };
            }
        }
        for right in 0..self.columns() {
            let best = best_two(self.column(right).iter().map(|position| scores[*position as usize]));
            for position in self.column(right) {
                let position = *position as usize;
                result[position][1] = if scores[position] >= best[0] { best[1] } else { best[0] };
            }
        }
        result
    }
}

fn best_two(scores: impl Iterator<Item = f32>) -> [f32; 2] {
    scores.fold([f32::NEG_INFINITY; 2], |[first, second], score| {
        if score > first { [score, first] } else { [first, second.max(score)] }
    })
}

/// How many context features a candidate has.
pub(crate) const CONTEXT: usize = 9;

/// Their names, in order.
pub const CONTEXT_NAMES: [&str; CONTEXT] = [
    "first_score",
    "lead_over_other_lines",
    "lead_over_other_entries",
    "rank_among_lines",
    "rank_among_entries",
    "odds_in_competition",
    "lines_in_question",
    "entries_in_question",
    "cold_odds_in_competition",
];

/// The context of each candidate, from first scores and from those of the cold model.
pub(crate) fn context(graph: &Graph, scores: &[f32], cold: &[f32]) -> Vec<[f32; CONTEXT]> {
    let (mut normalised, mut cold) = (scores.to_vec(), cold.to_vec());
    graph.normalise(&mut normalised, 20);
    graph.normalise(&mut cold, 20);
    let rivals = graph.runners_up(scores);
    let rank = |positions: &mut dyn Iterator<Item = usize>, score: f32| {
        positions.filter(|position| scores[*position] > score).take(16).count() as f32
    };
    graph
        .candidates
        .iter()
        .enumerate()
        .map(|(position, candidate)| {
            let score = scores[position];
            let (left, right) = (candidate.ledger as usize, candidate.bank as usize);
            [
                score,
                (score - rivals[position][0]).min(30.0),
                (score - rivals[position][1]).min(30.0),
                rank(&mut graph.row(left), score),
                rank(&mut graph.column(right).iter().map(|position| *position as usize), score),
                log_odds(normalised[position]),
                graph.row(left).len() as f32,
                graph.column(right).len() as f32,
                log_odds(cold[position]),
            ]
        })
        .collect()
}

/// Logarithm of the odds, kept finite.
pub(crate) fn log_odds(probability: f32) -> f32 {
    let probability = f64::from(probability).clamp(1e-9, 1.0 - 1e-7);
    (probability / (1.0 - probability)).ln() as f32
}
