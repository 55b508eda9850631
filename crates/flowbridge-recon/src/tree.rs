//! Gradient-boosted trees for yes-or-no questions, small and exact.
//!
//! Histograms of at most 64 values per feature, leaves grown where they gain most, sums taken in the order of rows: equal
//! data give an equal model, byte for byte. Each node keeps the value it would answer with, so that the way through a tree
//! says how much each feature moved the answer. Why own code: docs/adr/0020.

use crate::parallel;
use serde::{Deserialize, Serialize};

/// How to grow.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Growth {
    /// Number of trees.
    pub(crate) trees: usize,
    /// Most leaves of one tree.
    pub(crate) leaves_max: usize,
    /// Step of each tree.
    pub(crate) rate: f32,
    /// Least weight (sum of second derivatives) of a leaf.
    pub(crate) leaf_weight_min: f64,
    /// Pull of leaf values towards zero.
    pub(crate) shrink: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Node {
    /// `LEAF` for a leaf.
    feature: u16,
    threshold: f32,
    /// The right child stands next to the left one.
    left: u32,
    value: f32,
}

const LEAF: u16 = u16::MAX;
const BINS: usize = 64;

/// A trained model: log-odds as a sum over trees.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Trees {
    base: f32,
    trees: Vec<Vec<Node>>,
}

impl Trees {
    /// Log-odds of a row of features.
    pub(crate) fn score(&self, row: &[f32]) -> f32 {
        let mut score = self.base;
        for tree in &self.trees {
            let mut node = &tree[0];
            while node.feature != LEAF {
                node =
                    &tree[node.left as usize + usize::from(row[usize::from(node.feature)] > node.threshold)];
            }
            score += node.value;
        }
        score
    }

    /// Can every row of `width` features be scored? Children stand behind their parent, so that every way ends.
    pub(crate) fn is_sound(&self, width: usize) -> bool {
        self.base.is_finite()
            && self.trees.iter().all(|tree| {
                !tree.is_empty()
                    && tree.iter().enumerate().all(|(place, node)| {
                        let is_leaf = node.feature == LEAF;
                        node.value.is_finite()
                            && (is_leaf
                                || usize::from(node.feature) < width
                                    && node.left as usize > place
                                    && (node.left as usize) < tree.len() - 1)
                    })
            })
    }

    /// Adds what each feature contributed to the score of a row; their sum and the returned base is the score.
    pub(crate) fn explain(&self, row: &[f32], contributions: &mut [f32]) -> f32 {
        let mut base = self.base;
        for tree in &self.trees {
            let mut node = &tree[0];
            base += node.value;
            while node.feature != LEAF {
                let feature = usize::from(node.feature);
                let next = &tree[node.left as usize + usize::from(row[feature] > node.threshold)];
                contributions[feature] += next.value - node.value;
                node = next;
            }
        }
        base
    }

    /// Grows a model. `rows` hold `width` features each, one outcome per row.
    pub(crate) fn train(
        rows: &[f32],
        width: usize,
        outcomes: &[bool],
        growth: Growth,
        threads: usize,
    ) -> Self {
        let count = outcomes.len();
        let binned = Binned::new(rows, width, count);
        let positives = outcomes.iter().filter(|outcome| **outcome).count() as f64;
        let share = (positives.max(0.5) / (count as f64).max(1.0)).clamp(1e-6, 1.0 - 1e-6);
        let base = (share / (1.0 - share)).ln() as f32;
        let mut scores = vec![base; count];
        let mut slopes = vec![[0.0f32; 2]; count];
        let mut trees = Vec::with_capacity(growth.trees);
        for _ in 0..growth.trees {
            for ((slope, score), outcome) in slopes.iter_mut().zip(&scores).zip(outcomes) {
                let probability = 1.0 / (1.0 + (-score).exp());
                *slope = [
                    probability - f32::from(u8::from(*outcome)),
                    (probability * (1.0 - probability)).max(1e-6),
                ];
            }
            let mut grower = Grower {
                binned: &binned,
                slopes: &slopes,
                growth,
                threads: if count > 20_000 { threads } else { 1 },
                order: (0..count as u32).collect(),
                nodes: Vec::new(),
            };
            let leaves = grower.grow();
            for (range, value) in leaves {
                for row in &grower.order[range] {
                    scores[*row as usize] += value;
                }
            }
            trees.push(grower.nodes);
        }
        Self { base, trees }
    }
}

/// Rows with each feature replaced by the number of its bin.
struct Binned {
    width: usize,
    bins: Vec<u8>,
    /// Upper bounds of the bins of each feature.
    bounds: Vec<Vec<f32>>,
}

impl Binned {
    fn new(rows: &[f32], width: usize, count: usize) -> Self {
        // Quantiles of a fixed sample: enough for 64 bins, and sorting everything is the slow part.
        let step = (count / 20_000).max(1);
        let bounds: Vec<Vec<f32>> = (0..width)
            .map(|feature| {
                let mut values: Vec<f32> =
                    (0..count).step_by(step).map(|row| rows[row * width + feature]).collect();
                values.sort_by(f32::total_cmp);
                cuts(&values)
            })
            .collect();
        let mut bins = Vec::with_capacity(count * width);
        for row in rows.chunks_exact(width) {
            bins.extend(
                row.iter()
                    .zip(&bounds)
                    .map(|(value, bounds)| bounds.partition_point(|bound| bound < value) as u8),
            );
        }
        Self { width, bins, bounds }
    }
}

/// At most `BINS - 1` bounds: every value where there are few, quantiles where there are many.
fn cuts(sorted: &[f32]) -> Vec<f32> {
    let mut distinct: Vec<f32> = sorted.to_vec();
    distinct.dedup();
    if distinct.len() > BINS {
        distinct = (1..BINS).map(|part| sorted[part * sorted.len() / BINS]).collect();
        distinct.dedup();
        return distinct;
    }
    distinct.windows(2).map(|pair| f32::midpoint(pair[0], pair[1])).collect()
}

/// Sums of slopes by feature and bin.
type Histogram = Vec<[f64; 2]>;

struct Leaf {
    node: usize,
    range: std::ops::Range<usize>,
    histogram: Histogram,
    sums: [f64; 2],
    split: Option<Split>,
}

#[derive(Clone, Copy)]
struct Split {
    gain: f64,
    feature: usize,
    bin: usize,
}

struct Grower<'a> {
    binned: &'a Binned,
    slopes: &'a [[f32; 2]],
    growth: Growth,
    threads: usize,
    order: Vec<u32>,
    nodes: Vec<Node>,
}

impl Grower<'_> {
    /// Grows one tree; which rows each leaf holds, and what it answers.
    fn grow(&mut self) -> Vec<(std::ops::Range<usize>, f32)> {
        let all = 0..self.order.len();
        let histogram = self.histogram(all.clone());
        let root = self.leaf(all, histogram);
        let mut leaves = vec![root];
        while leaves.len() < self.growth.leaves_max {
            let best = leaves
                .iter()
                .enumerate()
                .filter_map(|(place, leaf)| leaf.split.map(|split| (place, split)))
                .reduce(|best, next| if next.1.gain > best.1.gain { next } else { best });
            let Some((place, split)) = best else { break };
            let leaf = leaves.swap_remove(place);
            let (left, right) = self.part(&leaf, split);
            let (left_rows, right_rows) = (left.len(), right.len());
            let smaller = self.histogram(if left_rows <= right_rows { left.clone() } else { right.clone() });
            let larger = subtract(leaf.histogram, &smaller);
            let (left_histogram, right_histogram) =
                if left_rows <= right_rows { (smaller, larger) } else { (larger, smaller) };
            let first = self.nodes.len() as u32;
            let left = self.leaf(left, left_histogram);
            let right = self.leaf(right, right_histogram);
            let node = &mut self.nodes[leaf.node];
            node.feature = split.feature as u16;
            node.threshold = self.binned.bounds[split.feature][split.bin];
            node.left = first;
            leaves.push(left);
            leaves.push(right);
        }
        leaves.iter().map(|leaf| (leaf.range.clone(), self.nodes[leaf.node].value)).collect()
    }

    fn leaf(&mut self, range: std::ops::Range<usize>, histogram: Histogram) -> Leaf {
        let sums = histogram[..BINS].iter().fold([0.0; 2], |sum, part| [sum[0] + part[0], sum[1] + part[1]]);
        let value = -sums[0] / (sums[1] + self.growth.shrink) * f64::from(self.growth.rate);
        self.nodes.push(Node { feature: LEAF, threshold: 0.0, left: 0, value: value as f32 });
        let mut leaf = Leaf { node: self.nodes.len() - 1, range, histogram, sums, split: None };
        leaf.split = self.best_split(&leaf);
        leaf
    }

    fn best_split(&self, leaf: &Leaf) -> Option<Split> {
        let value = |sums: [f64; 2]| sums[0] * sums[0] / (sums[1] + self.growth.shrink);
        let whole = value(leaf.sums);
        let mut best: Option<Split> = None;
        for feature in 0..self.binned.width {
            let mut left = [0.0f64; 2];
            for bin in 0..self.binned.bounds[feature].len() {
                let part = leaf.histogram[feature * BINS + bin];
                left = [left[0] + part[0], left[1] + part[1]];
                let right = [leaf.sums[0] - left[0], leaf.sums[1] - left[1]];
                if left[1] < self.growth.leaf_weight_min || right[1] < self.growth.leaf_weight_min {
                    continue;
                }
                let gain = value(left) + value(right) - whole;
                if gain > best.map_or(1e-6, |best| best.gain) {
                    best = Some(Split { gain, feature, bin });
                }
            }
        }
        best
    }

    /// Moves the leaf's rows so that those at or under the bound stand first, each part in its old order.
    fn part(&mut self, leaf: &Leaf, split: Split) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let rows = &mut self.order[leaf.range.clone()];
        let mut above = Vec::with_capacity(rows.len());
        let mut kept = 0;
        for place in 0..rows.len() {
            let row = rows[place];
            if usize::from(self.binned.bins[row as usize * self.binned.width + split.feature]) <= split.bin {
                rows[kept] = row;
                kept += 1;
            } else {
                above.push(row);
            }
        }
        rows[kept..].copy_from_slice(&above);
        let middle = leaf.range.start + kept;
        (leaf.range.start..middle, middle..leaf.range.end)
    }

    fn histogram(&self, range: std::ops::Range<usize>) -> Histogram {
        let rows = &self.order[range];
        // Parts are of a fixed size, so that the sums do not depend on the number of threads.
        let ranges = parallel::ranges(rows.len(), 1 << 16);
        let threads = if rows.len() > 1 << 16 { self.threads } else { 1 };
        let mut parts =
            parallel::map(ranges.len(), threads, |part| self.sum(&rows[ranges[part].clone()])).into_iter();
        let first = parts.next().unwrap_or_else(|| vec![[0.0; 2]; self.binned.width * BINS]);
        parts.fold(first, |mut sum, part| {
            for (sum, part) in sum.iter_mut().zip(part) {
                *sum = [sum[0] + part[0], sum[1] + part[1]];
            }
            sum
        })
    }

    fn sum(&self, rows: &[u32]) -> Histogram {
        let width = self.binned.width;
        let mut histogram = vec![[0.0f64; 2]; width * BINS];
        for row in rows {
            let row = *row as usize;
            let slope = self.slopes[row];
            let slope = [f64::from(slope[0]), f64::from(slope[1])];
            for (feature, bin) in self.binned.bins[row * width..(row + 1) * width].iter().enumerate() {
                let cell = &mut histogram[feature * BINS + usize::from(*bin)];
                cell[0] += slope[0];
                cell[1] += slope[1];
            }
        }
        histogram
    }
}

fn subtract(mut whole: Histogram, part: &Histogram) -> Histogram {
    for (whole, part) in whole.iter_mut().zip(part) {
        *whole = [whole[0] - part[0], whole[1] - part[1]];
    }
    whole
}
