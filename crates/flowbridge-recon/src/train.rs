//! Training the model that is shipped, on synthetic books of seeds that no evaluation uses.

use crate::block::{Blocking, Candidate};
use crate::compete::Graph;
use crate::engine;
use crate::feature::Features;
use crate::generate::{self, Books, Recipe};
use crate::group;
use crate::model::{self, Certainty, Measured, Model, Open};
use crate::prepare::{Pair, Side};
use crate::record;

/// Above the goal that it serves.
const CERTAINTY: Certainty = Certainty { precision_min: 0.9995, probability_min: 0.98 };

/// Seeds of the shipped model's training, and the noise of each. No evaluation uses them.
const SHIPPED: [(u64, f64); 6] =
    [(900_001, 1.0), (900_002, 1.5), (900_003, 2.5), (900_004, 1.0), (900_005, 1.5), (900_006, 2.5)];

/// Trains the model that is shipped.
pub fn shipped(threads: usize) -> Model {
    let recipes = SHIPPED.map(|(seed, noise)| Recipe { seed, entries: 20_000, noise });
    on_synthetic(&recipes, threads)
}

/// Learns from books whose truth is known.
pub fn on_synthetic(recipes: &[Recipe], threads: usize) -> Model {
    let blocking = Blocking::default();
    let mut cold = None;
    let (mut candidates, mut features, mut outcomes) = (Vec::new(), Vec::new(), Vec::new());
    let (mut rows, mut columns) = (0u32, 0u32);
    for recipe in recipes {
        let books = generate::make(*recipe);
        for shard in record::shards(&books.ledger, &books.bank) {
            let pair =
                Pair::new(Side::new(&books.ledger, &shard.ledger), Side::new(&books.bank, &shard.bank));
            // The cold model learns from the first shard as it is, full references and all.
            let cold = cold.get_or_insert_with(|| model::learn_cold(&pair, &blocking, threads));
            let mut open = Open::all(&pair);
            engine::by_reference(&pair, &mut open);
            group::find_quoted(&pair, &mut open);
            let measured = model::measure(&pair, &blocking, cold, &open, threads);
            add(&books, &pair, &measured, &mut candidates, &mut features, &mut outcomes, (rows, columns));
            rows += pair.ledger.len() as u32;
            columns += pair.bank.len() as u32;
        }
    }
    let graph = Graph::new(rows as usize, columns as usize, candidates);
    let measured = Measured { graph, features };
    let cold = cold.unwrap_or_else(|| {
        let empty = Pair::new(Side::new(&[], &[]), Side::new(&[], &[]));
        model::learn_cold(&empty, &blocking, threads)
    });
    Model::train(blocking, cold, &measured, &outcomes, CERTAINTY, threads)
}

#[expect(clippy::too_many_arguments, reason = "three lists grow together")]
fn add(
    books: &Books,
    pair: &Pair,
    measured: &Measured,
    candidates: &mut Vec<Candidate>,
    features: &mut Vec<Features>,
    outcomes: &mut Vec<Option<bool>>,
    (rows, columns): (u32, u32),
) {
    let plain = books.plain_groups();
    for (candidate, row) in measured.graph.candidates.iter().zip(&measured.features) {
        let entry = pair.ledger.positions[candidate.ledger as usize] as usize;
        let line = pair.bank.positions[candidate.bank as usize] as usize;
        let group = books.ledger_group[entry];
        outcomes
            .push(Some(group.is_some_and(|group| plain.contains(&group)) && group == books.bank_group[line]));
        candidates.push(Candidate { ledger: candidate.ledger + rows, bank: candidate.bank + columns });
        features.push(*row);
    }
}
