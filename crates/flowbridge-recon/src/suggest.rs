//! Which bank lines a person is shown for an entry, and how likely each of them is.
//!
//! The model picks them by its first trees, pair by pair and by wide keys, because what a person is shown need not have
//! the right amount. What a person reads beside a line is the calibrated probability, which belongs to the second trees:
//! they judge a pair beside its rivals, here the lines that are shown too. So these few pairs are measured once more.

use crate::block::Candidate;
use crate::cold;
use crate::compete::Graph;
use crate::engine::Suggestion;
use crate::feature::{self, COLD_SCORE, Features, Scratch};
use crate::model::{Measured, Model, Open};
use crate::parallel;
use crate::prepare::Pair;
use std::collections::{BTreeMap, BTreeSet};

const PAIRS_PER_PART: usize = 512;

/// Up to three lines for each entry that `shown` has, likeliest first, out of the lines that it has. Entries and lines
/// are named by their positions in the source.
pub(crate) fn likeliest(
    model: &Model,
    pair: &Pair,
    shown: &Open,
    threads: usize,
) -> Vec<(u32, Vec<Suggestion>)> {
    let ranked = model.suggest(pair, shown, threads);
    let probabilities = probabilities(model, pair, &ranked, threads);
    ranked
        .into_iter()
        .map(|(entry, lines)| {
            let mut lines: Vec<Suggestion> = lines
                .into_iter()
                .map(|line| Suggestion {
                    line: pair.bank.positions[line as usize],
                    probability: *probabilities.get(&Candidate { ledger: entry, bank: line }).unwrap_or(&0.0),
                })
                .collect();
            // Equally likely ones stay in the order of the first trees.
            lines.sort_by(|a, b| b.probability.total_cmp(&a.probability));
            (pair.ledger.positions[entry as usize], lines)
        })
        .collect()
}

/// How likely the pairs are that are shown, judged beside each other. Those without a prospect are left out.
fn probabilities(
    model: &Model,
    pair: &Pair,
    ranked: &[(u32, Vec<u32>)],
    threads: usize,
) -> BTreeMap<Candidate, f32> {
    let mut shown: Vec<Candidate> = ranked
        .iter()
        .flat_map(|(entry, lines)| lines.iter().map(move |line| Candidate { ledger: *entry, bank: *line }))
        .collect();
    shown.sort_unstable();
    let ranges = parallel::ranges(shown.len(), PAIRS_PER_PART);
    let features = parallel::map(ranges.len(), threads, |part| {
        let mut scratch = Scratch::default();
        let pairs = shown[ranges[part].clone()].iter();
        pairs.map(|candidate| measure(model, pair, *candidate, &mut scratch)).collect::<Vec<Features>>()
    })
    .concat();
    // Only records that are shown are numbered: the shard has a hundred times as many.
    let entries = in_order(shown.iter().map(|candidate| candidate.ledger));
    let lines = in_order(shown.iter().map(|candidate| candidate.bank));
    let place = |records: &[u32], record: u32| records.partition_point(|other| *other < record) as u32;
    let candidates = shown
        .iter()
        .map(|of| Candidate { ledger: place(&entries, of.ledger), bank: place(&lines, of.bank) })
        .collect();
    let graph = Graph::new(entries.len(), lines.len(), candidates);
    let judged = model.judge_pairs(&Measured { graph, features }, threads).into_iter();
    judged
        .map(|judged| {
            let Candidate { ledger, bank } = judged.candidate;
            let of = Candidate { ledger: entries[ledger as usize], bank: lines[bank as usize] };
            (of, model.probability(judged.score))
        })
        .collect()
}

/// Each once.
fn in_order(records: impl Iterator<Item = u32>) -> Vec<u32> {
    records.collect::<BTreeSet<u32>>().into_iter().collect()
}

fn measure(model: &Model, pair: &Pair, candidate: Candidate, scratch: &mut Scratch) -> Features {
    let mut features = feature::measure(pair, candidate, scratch);
    features[COLD_SCORE] = model.cold.score(&cold::levels(&features));
    feature::complete(pair, candidate, &mut features);
    features
}
