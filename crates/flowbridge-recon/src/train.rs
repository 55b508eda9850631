//! Training: the model that is shipped, on synthetic books of seeds that no evaluation uses, and its challengers, on what
//! people decided.
//!
//! A challenger learns from decisions before a day, and is compared with the champion on the decisions from that day on,
//! which neither has seen. It keeps the champion's keys and agreement weights; trees, calibration and threshold are its
//! own, and the threshold comes from decisions alone. Nothing here puts a model in force: that takes two people.

use crate::block::{Blocking, Candidate};
use crate::calibrate::success_rate_down;
use crate::compete::Graph;
use crate::date::Date;
use crate::engine;
use crate::feature::Features;
use crate::feedback::{Answers, Ruling};
use crate::generate::{self, Books, Recipe};
use crate::group;
use crate::model::{self, Certainty, Measured, Model, Open};
use crate::prepare::Pair;
use crate::public;
use crate::record::{self, Record, Shard};
use crate::report::sha256;
use serde::Serialize;

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
            let pair = Pair::of_shard(&books.ledger, &books.bank, shard);
            // The cold model learns from the first shard as it is, full references and all.
            let cold = cold.get_or_insert_with(|| model::learn_cold(&pair, &blocking, usize::MAX, threads));
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
        let empty = Pair::of_shard(&[], &[], Shard::default());
        model::learn_cold(&empty, &blocking, usize::MAX, threads)
    });
    let mut model = Model::train(blocking, cold, &measured, &outcomes, CERTAINTY, threads);
    model.origin.data = sha256(format!("generator {} {recipes:?}", generate::VERSION).as_bytes());
    model
}

/// Fewer decisions than this teach nothing that could be told from chance.
pub const RULINGS_MIN: usize = 500;

/// What one model does on the decisions that it has not seen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Judgement {
    /// Share of the true pairs that it would post.
    pub coverage: f64,
    /// Share of right ones among those.
    pub precision: f64,
    /// What the count does not exclude, exact, one-sided 95 %.
    pub precision_down: f64,
    /// Share of the true pairs at the lowest threshold where at most one pair in a thousand is wrong.
    pub coverage_at_999: f64,
}

/// Champion and challenger side by side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The day that parts what was learned from and what was judged.
    pub split_on: Date,
    /// Decisions learned from.
    pub learned: usize,
    /// Pairs judged.
    pub judged: usize,
    /// The model in force.
    pub champion: Judgement,
    /// The new one.
    pub challenger: Judgement,
    /// Does the challenger post more, and stay above 99.9 %?
    pub is_better: bool,
}

/// Why nothing was learned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RetrainError {
    /// Wait for more.
    #[error("only {0} decisions before {1} are about these records; at least {RULINGS_MIN} are needed")]
    TooFew(usize, Date),
    /// Move the day.
    #[error("no decision from {0} on is about a pair of these records; choose an earlier day")]
    NothingToJudge(Date),
}

/// Learns from decisions, and compares what came of it with the champion.
pub fn retrain(
    champion: &Model,
    ledger: &[Record],
    bank: &[Record],
    rulings: &[Ruling],
    split_on: Date,
    threads: usize,
) -> Result<(Model, Comparison), RetrainError> {
    let answers = |is_learned: bool| {
        Answers::new(rulings.iter().filter(|ruling| (ruling.on < split_on) == is_learned), ledger, bank)
    };
    let (learned, judged) = (answers(true), answers(false));
    let learned_count = learned.count();
    if learned_count < RULINGS_MIN {
        return Err(RetrainError::TooFew(learned_count, split_on));
    }
    let shards: Vec<OpenShard> = open_shards(champion, ledger, bank, threads);
    let (mut candidates, mut features, mut outcomes) = (Vec::new(), Vec::new(), Vec::new());
    let (mut rows, mut columns) = (0u32, 0u32);
    for OpenShard { pair, measured } in &shards {
        for (candidate, row) in measured.graph.candidates.iter().zip(&measured.features) {
            let (entry, line) = positions(pair, *candidate);
            // What is judged later is not learned from, not even as somebody's rival.
            let is_later = judged.is_settled(entry) && !learned.is_settled(entry);
            outcomes.push(learned.of(entry, line).filter(|_| !is_later));
            candidates.push(Candidate { ledger: candidate.ledger + rows, bank: candidate.bank + columns });
            features.push(*row);
        }
        rows += pair.ledger.len() as u32;
        columns += pair.bank.len() as u32;
    }
    let graph = Graph::new(rows as usize, columns as usize, candidates);
    let all = Measured { graph, features };
    let mut challenger =
        Model::train(champion.blocking.clone(), champion.cold.clone(), &all, &outcomes, FROM_PEOPLE, threads);
    let used: Vec<&Ruling> = rulings.iter().filter(|ruling| ruling.on < split_on).collect();
    challenger.origin.data = sha256(&serde_json::to_vec(&used).unwrap_or_default());
    challenger.origin.decisions = learned_count as u64;
    challenger.origin.follows = sha256(&champion.to_file().unwrap_or_default());
    let pairs = judged.pairs();
    if pairs == 0 {
        return Err(RetrainError::NothingToJudge(split_on));
    }
    let judgement = |model: &Model| judge(model, &shards, &judged, &learned, pairs, threads);
    let (old, new) = (judgement(champion), judgement(&challenger));
    let comparison = Comparison {
        split_on,
        learned: learned_count,
        judged: pairs,
        champion: old,
        challenger: new,
        is_better: new.coverage > old.coverage && new.precision >= 0.999,
    };
    Ok((challenger, comparison))
}

/// Decisions are fewer than synthetic pairs: what they cannot prove is left to the policy, which asks for its own proof.
const FROM_PEOPLE: Certainty = Certainty { precision_min: 0.999, probability_min: 0.98 };

struct OpenShard {
    pair: Pair,
    measured: Measured,
}

/// What full references and quoted groups leave over, measured.
fn open_shards(model: &Model, ledger: &[Record], bank: &[Record], threads: usize) -> Vec<OpenShard> {
    let shards = record::shards(ledger, bank);
    shards
        .into_iter()
        .map(|shard| {
            let pair = Pair::of_shard(ledger, bank, shard);
            let mut open = Open::all(&pair);
            engine::by_reference(&pair, &mut open);
            group::find_quoted(&pair, &mut open);
            let measured = model::measure(&pair, &model.blocking, &model.cold, &open, threads);
            OpenShard { pair, measured }
        })
        .collect()
}

fn positions(pair: &Pair, candidate: Candidate) -> (u32, u32) {
    (pair.ledger.positions[candidate.ledger as usize], pair.bank.positions[candidate.bank as usize])
}

fn judge(
    model: &Model,
    shards: &[OpenShard],
    judged: &Answers,
    learned: &Answers,
    pairs: usize,
    threads: usize,
) -> Judgement {
    let mut ranked = Vec::new();
    for OpenShard { pair, measured } in shards {
        for found in model.judge_pairs(measured, threads).iter().filter(|found| found.is_chosen) {
            let (entry, line) = positions(pair, found.candidate);
            if judged.is_settled(entry) && !learned.is_settled(entry) {
                ranked.push((found.score, judged.of(entry, line) == Some(true)));
            }
        }
    }
    let posted = ranked.iter().filter(|(score, _)| *score >= model.threshold);
    let count = posted.clone().count() as u64;
    let right = posted.filter(|(_, is_right)| *is_right).count() as u64;
    let (_, coverage_at_999) = public::curve(&ranked, pairs);
    Judgement {
        coverage: right as f64 / pairs.max(1) as f64,
        precision: if count == 0 { 1.0 } else { right as f64 / count as f64 },
        precision_down: success_rate_down(right, count, 0.95),
        coverage_at_999,
    }
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
