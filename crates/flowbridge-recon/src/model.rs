//! From candidates to decisions: the two models, the calibration between score and probability, and the assignment.
//!
//! The first trees judge each pair alone, the second judge it beside its rivals. Training never lets a model judge what
//! it was trained on: scores for the second stage, the calibration and the threshold come from other folds. The threshold
//! for posting without a person is set on training data alone, and there by an exact bound, not by a count.

use crate::assign::{self, Edge};
use crate::block::{Blocking, Candidate, Keys};
use crate::calibrate::Isotonic;
use crate::cold::{self, ColdModel, Packed};
use crate::compete::{self, CONTEXT, Graph, log_odds};
use crate::feature::{self, COLD_SCORE, FEATURES, Features, Scratch};
use crate::origin::{self, Origin};
use crate::parallel;
use crate::prepare::Pair;
use crate::tree::{Growth, Trees};
use serde::{Deserialize, Serialize};

/// Features of the second stage.
pub(crate) const WIDE: usize = FEATURES + CONTEXT;
const FOLDS: usize = 3;
/// Candidates of one ledger record that the cold model lets through.
const KEPT_PER_RECORD_MAX: usize = 8;
const KEPT_WITHIN: f32 = 14.0;
/// Below these first log-odds a pair is no rival to anyone.
const HOPELESS: f32 = -8.0;
/// A pair that is unlikely may still be the best explanation of two records; below these log-odds it is not.
const ALONE: f32 = -7.0;
/// The cold model's odds are before competition, where a thousand rivals push every pair down.
const ALONE_COLD: f32 = -16.0;
const ROWS_PER_PART: usize = 512;

/// Below these log-odds two records are left alone rather than shown as a match.
const MATCH_MIN: f32 = -0.5;
const SUGGESTIONS_MAX: usize = 3;
const REASONS_MAX: usize = 6;

const FIRST: Growth = Growth { trees: 120, leaves_max: 24, rate: 0.12, leaf_weight_min: 2.0, shrink: 1.0 };
const SECOND: Growth = Growth { trees: 80, leaves_max: 12, rate: 0.1, leaf_weight_min: 2.0, shrink: 1.0 };

/// Everything that was learned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// What it was made from.
    pub origin: Origin,
    /// The keys it was trained with.
    pub blocking: Blocking,
    pub(crate) cold: ColdModel,
    pub(crate) first: Trees,
    pub(crate) second: Trees,
    pub(crate) calibration: Isotonic,
    /// Log-odds from which a pair may be posted without a person.
    pub threshold: f32,
    /// Where the tenths of the training data's matches part, per feature and for the score.
    pub(crate) cuts: Vec<Vec<f32>>,
}

/// Features and the score, each in a tenth of the training data.
const PROFILED: usize = FEATURES + 1;
const TENTHS: usize = 10;

/// Why a model file is refused.
#[derive(Debug, thiserror::Error)]
pub enum ReadModelError {
    /// Not JSON of the expected form.
    #[error("not a model file of this version; train it again")]
    Format(#[from] serde_json::Error),
    /// Made for features that this program does not measure.
    #[error("the model was made for other features than this version measures; train it again")]
    OtherFeatures,
    /// A tree that leads nowhere, or a number that is none.
    #[error("the model file is damaged; take it from its backup or train it again")]
    Unsound,
}

/// What training asks of pairs that may be posted without a person.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Certainty {
    /// Share of right ones among all of them.
    pub(crate) precision_min: f64,
    /// However good the others are, no pair may be less likely than this.
    pub(crate) probability_min: f32,
}

/// A judged pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Judged {
    pub(crate) candidate: Candidate,
    /// Log-odds in competition; higher is better.
    pub(crate) score: f32,
    /// Is it part of the assignment?
    pub(crate) is_chosen: bool,
}

/// A chosen pair with what speaks for it.
#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    pub(crate) candidate: Candidate,
    pub(crate) score: f32,
    pub(crate) runner_up: Option<(u32, f32)>,
    pub(crate) reasons: Vec<(&'static str, f32)>,
    pub(crate) tenths: [u8; PROFILED],
}

/// How many pairs fall into each tenth.
pub(crate) fn profile(verdicts: &[Verdict]) -> Vec<Vec<u64>> {
    let mut profile = vec![vec![0u64; TENTHS]; PROFILED];
    for (place, tenth) in verdicts.iter().flat_map(|verdict| verdict.tenths.iter().enumerate()) {
        profile[place][usize::from(*tenth)] += 1;
    }
    profile
}

/// Candidates that passed the cold model, with their features.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) graph: Graph,
    pub(crate) features: Vec<Features>,
}

/// Learns the cold model from a shard alone, from at most `records_max` of its ledger records, evenly chosen.
pub(crate) fn learn_cold(pair: &Pair, blocking: &Blocking, records_max: usize, threads: usize) -> ColdModel {
    let step = pair.ledger.len().div_ceil(records_max).max(1);
    let keys = Keys::new(pair, blocking, &Open::all(pair));
    let ranges = parallel::ranges(pair.ledger.len(), ROWS_PER_PART);
    let find = |part: usize| {
        let (mut candidates, mut near) = (Vec::new(), Vec::new());
        for record in ranges[part].clone().filter(|record| record.is_multiple_of(step)) {
            keys.candidates_of(record, &mut candidates, &mut near);
        }
        let (mut levels, mut starts) =
            (Vec::with_capacity(candidates.len()), Vec::with_capacity(candidates.len()));
        let mut scratch = Scratch::default();
        for candidate in &candidates {
            let features = feature::measure(pair, *candidate, &mut scratch);
            levels.push(Packed::from(cold::levels(&features)));
            starts.push(cold::first_guess(&features));
        }
        (candidates, levels, starts)
    };
    let (mut candidates, mut levels, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    parallel::in_order(ranges.len(), threads, find, |part| {
        add(&mut candidates, &part.0, ranges.len());
        add(&mut levels, &part.1, ranges.len());
        add(&mut starts, &part.2, ranges.len());
    });
    drop(keys);
    let graph = Graph::new(pair.ledger.len(), pair.bank.len(), candidates);
    let records = pair.ledger.len().div_ceil(step).min(pair.bank.len());
    ColdModel::fit(&graph, records, &levels, starts, threads)
}

/// Adds a part to a list. Memory that is asked for and not used costs nothing, and growing doubles: so the first part says
/// how much there may be of all.
fn add<T: Copy>(list: &mut Vec<T>, part: &[T], parts: usize) {
    if list.is_empty() {
        list.reserve(part.len() * parts / 4 * 5);
    }
    list.extend_from_slice(part);
}

/// Finds and measures the candidates of the records that are still open, and keeps those the cold model does not exclude.
pub(crate) fn measure(
    pair: &Pair,
    blocking: &Blocking,
    cold: &ColdModel,
    open: &Open,
    threads: usize,
) -> Measured {
    let keys = Keys::new(pair, blocking, open);
    let ranges = parallel::ranges(pair.ledger.len(), ROWS_PER_PART);
    let find = |part: usize| {
        let (mut kept, mut features) = (Vec::new(), Vec::new());
        let (mut candidates, mut near, mut row) = (Vec::new(), Vec::new(), Vec::new());
        let mut scratch = Scratch::default();
        for record in ranges[part].clone().filter(|record| open.ledger[*record]) {
            candidates.clear();
            row.clear();
            keys.candidates_of(record, &mut candidates, &mut near);
            for candidate in &candidates {
                let mut measured = feature::measure(pair, *candidate, &mut scratch);
                measured[COLD_SCORE] = cold.score(&cold::levels(&measured));
                row.push((*candidate, measured));
            }
            keep_best(&mut row, |features: &Features| features[COLD_SCORE]);
            for (candidate, measured) in &mut row {
                feature::complete(pair, *candidate, measured);
            }
            for (candidate, measured) in &row {
                kept.push(*candidate);
                features.push(*measured);
            }
        }
        (kept, features)
    };
    let (candidates, features) = found(ranges.len(), threads, find);
    drop(keys);
    Measured { graph: Graph::new(pair.ledger.len(), pair.bank.len(), candidates), features }
}

/// What `find` has of each part of the ledger, in order.
fn found<T: Copy + Send>(
    parts: usize,
    threads: usize,
    find: impl Fn(usize) -> (Vec<Candidate>, Vec<T>) + Sync,
) -> (Vec<Candidate>, Vec<T>) {
    let (mut candidates, mut of_each) = (Vec::new(), Vec::new());
    parallel::in_order(parts, threads, find, |part| {
        add(&mut candidates, &part.0, parts);
        add(&mut of_each, &part.1, parts);
    });
    (candidates, of_each)
}

/// Which records still look for a partner.
#[derive(Debug, Clone)]
pub(crate) struct Open {
    pub(crate) ledger: Vec<bool>,
    pub(crate) bank: Vec<bool>,
}

impl Open {
    pub(crate) fn all(pair: &Pair) -> Self {
        Self { ledger: vec![true; pair.ledger.len()], bank: vec![true; pair.bank.len()] }
    }
}

fn keep_best<T>(row: &mut Vec<(Candidate, T)>, score: impl Fn(&T) -> f32) {
    let best = row.iter().map(|(_, of)| score(of)).fold(f32::NEG_INFINITY, f32::max);
    row.retain(|(_, of)| score(of) >= best - KEPT_WITHIN);
    if row.len() > KEPT_PER_RECORD_MAX {
        row.sort_by(|a, b| score(&b.1).total_cmp(&score(&a.1)).then(a.0.cmp(&b.0)));
        row.truncate(KEPT_PER_RECORD_MAX);
        row.sort_by_key(|(candidate, _)| *candidate);
    }
}

/// The pairs of a shard that the cold model chooses alone, which needs no more of all others than their scores.
pub(crate) fn choose_cold(pair: Pair, blocking: &Blocking, cold: &ColdModel, threads: usize) -> Vec<Judged> {
    let (graph, mut scores) = score_cold(&pair, blocking, cold, threads);
    drop(pair);
    let chosen = assigned(&graph, &scores, ALONE_COLD);
    graph.normalise(&mut scores, 20);
    let judged = |position: u32| Judged {
        candidate: graph.candidates[position as usize],
        score: log_odds(scores[position as usize]),
        is_chosen: true,
    };
    chosen.into_iter().map(judged).collect()
}

fn score_cold(pair: &Pair, blocking: &Blocking, cold: &ColdModel, threads: usize) -> (Graph, Vec<f32>) {
    let keys = Keys::new(pair, blocking, &Open::all(pair));
    let ranges = parallel::ranges(pair.ledger.len(), ROWS_PER_PART);
    let find = |part: usize| {
        let (mut kept, mut scores) = (Vec::new(), Vec::new());
        let (mut candidates, mut near, mut row) = (Vec::new(), Vec::new(), Vec::new());
        let mut scratch = Scratch::default();
        for record in ranges[part].clone() {
            candidates.clear();
            keys.candidates_of(record, &mut candidates, &mut near);
            row.clear();
            row.extend(candidates.iter().map(|candidate| {
                (*candidate, cold.score(&cold::levels(&feature::measure(pair, *candidate, &mut scratch))))
            }));
            keep_best(&mut row, |score| *score);
            for (candidate, score) in &row {
                kept.push(*candidate);
                scores.push(*score);
            }
        }
        (kept, scores)
    };
    let (candidates, scores) = found(ranges.len(), threads, find);
    drop(keys);
    (Graph::new(pair.ledger.len(), pair.bank.len(), candidates), scores)
}

const SHIPPED: &str = include_str!("../../../models/recon/v1.json");

impl Model {
    /// The model in `models/recon/v1.json`, which is part of the program.
    pub fn shipped() -> Result<Self, ReadModelError> {
        Self::read(SHIPPED.as_bytes())
    }

    /// Reads a model file, and refuses one that this program cannot judge by.
    pub fn read(file: &[u8]) -> Result<Self, ReadModelError> {
        let model: Self = serde_json::from_slice(file)?;
        if model.origin.features != origin::features_sha256() {
            return Err(ReadModelError::OtherFeatures);
        }
        let is_sound = model.cold.is_sound()
            && model.first.is_sound(FEATURES)
            && model.second.is_sound(WIDE)
            && model.calibration.is_sound()
            && model.cuts.len() == PROFILED
            && model.cuts.iter().all(|cuts| cuts.len() < TENTHS)
            && !model.threshold.is_nan();
        if is_sound { Ok(model) } else { Err(ReadModelError::Unsound) }
    }

    /// The model file: the same model gives the same bytes.
    pub fn to_file(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// SHA-256 of that file.
    pub fn shipped_sha256() -> String {
        crate::report::sha256(SHIPPED.as_bytes())
    }

    /// Judges measured candidates.
    pub(crate) fn judge_pairs(&self, measured: &Measured, threads: usize) -> Vec<Judged> {
        let first = score_all(&self.first, &measured.features, threads);
        let (graph, wide) = with_context(measured, &first);
        let second = score_rows(&self.second, &wide, threads);
        choose(&graph, &second, second.clone(), ALONE)
    }

    /// Judges measured candidates, and says why.
    pub(crate) fn judge(&self, measured: &Measured, threads: usize) -> Vec<Verdict> {
        let first = score_all(&self.first, &measured.features, threads);
        let (graph, wide) = with_context(measured, &first);
        let second = score_rows(&self.second, &wide, threads);
        let judged = choose(&graph, &second, second.clone(), ALONE);
        let mut chosen_pairs = Vec::new();
        for entry in 0..graph.rows() {
            let mut ranked: Vec<usize> = graph.row(entry).collect();
            ranked.sort_by(|a, b| second[*b].total_cmp(&second[*a]).then(a.cmp(b)));
            let chosen = ranked
                .iter()
                .copied()
                .find(|position| judged[*position].is_chosen && second[*position] >= MATCH_MIN);
            let Some(position) = chosen else { continue };
            chosen_pairs.push(Verdict {
                candidate: graph.candidates[position],
                score: second[position],
                runner_up: ranked
                    .iter()
                    .find(|other| **other != position)
                    .map(|other| (graph.candidates[*other].bank, second[*other])),
                reasons: self.reasons(&wide[position]),
                tenths: self.tenths(&wide[position], second[position]),
            });
        }
        chosen_pairs
    }

    /// Up to three bank lines for each open entry, best first, out of the lines that are open too. They are few, so the
    /// keys may be wide: what a person is shown need not have the right amount.
    pub(crate) fn suggest(&self, pair: &Pair, open: &Open, threads: usize) -> Vec<(u32, Vec<u32>)> {
        let measured = measure(pair, &self.blocking.wide(), &self.cold, open, threads);
        let scores = score_all(&self.first, &measured.features, threads);
        (0..measured.graph.rows())
            .filter_map(|entry| {
                let mut ranked: Vec<usize> = measured.graph.row(entry).collect();
                ranked.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
                ranked.truncate(SUGGESTIONS_MAX);
                let lines: Vec<u32> =
                    ranked.iter().map(|place| measured.graph.candidates[*place].bank).collect();
                (!lines.is_empty()).then_some((entry as u32, lines))
            })
            .collect()
    }

    fn tenths(&self, row: &[f32; WIDE], score: f32) -> [u8; PROFILED] {
        let mut tenths = [0; PROFILED];
        for (place, (tenth, cuts)) in tenths.iter_mut().zip(&self.cuts).enumerate() {
            let value = if place < FEATURES { row[place] } else { score };
            *tenth = cuts.partition_point(|cut| *cut < value) as u8;
        }
        tenths
    }

    /// What moved the score most, in log-odds, both stages together: the second stage's trust in the first score is
    /// handed on to the features that made it.
    fn reasons(&self, row: &[f32; WIDE]) -> Vec<(&'static str, f32)> {
        let mut second = [0.0f32; WIDE];
        self.second.explain(row, &mut second);
        let mut first = [0.0f32; FEATURES];
        self.first.explain(&row[..FEATURES], &mut first);
        let moved: f32 = first.iter().map(|part| part.abs()).sum::<f32>().max(1e-6);
        let handed_on = second[FEATURES];
        second[FEATURES] = 0.0;
        for (sum, part) in second.iter_mut().zip(first) {
            *sum += handed_on * part / moved;
        }
        let mut reasons: Vec<(usize, f32)> = second.into_iter().enumerate().collect();
        reasons.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()).then(a.0.cmp(&b.0)));
        reasons
            .into_iter()
            .take(REASONS_MAX)
            .filter(|(_, part)| part.abs() >= 0.01)
            .map(|(place, part)| (crate::engine::reason_name(place), part))
            .collect()
    }

    /// The calibrated probability of a score.
    pub fn probability(&self, score: f32) -> f32 {
        self.calibration.probability(score)
    }

    /// Learns both stages, calibration and threshold. `outcomes` has one entry per candidate: whether it is a match,
    /// or `None` where nobody has said. `fold_of` says which fold a ledger record belongs to.
    pub(crate) fn train(
        blocking: Blocking,
        cold: ColdModel,
        measured: &Measured,
        outcomes: &[Option<bool>],
        certainty: Certainty,
        threads: usize,
    ) -> Self {
        let rules = origin::rules_sha256(&blocking, certainty);
        let fold_of = |candidate: &Candidate| (text_hash(candidate.ledger) % FOLDS as u64) as usize;
        let labelled = |position: &usize| outcomes[*position].is_some();
        let all: Vec<usize> = (0..measured.graph.len()).filter(labelled).collect();

        let first = fit(&measured.features, &all, outcomes, FIRST, threads);
        let mut first_scores = score_all(&first, &measured.features, threads);
        let mut by_fold: Vec<Vec<usize>> = vec![Vec::new(); FOLDS];
        for position in &all {
            by_fold[fold_of(&measured.graph.candidates[*position])].push(*position);
        }
        for fold in 0..FOLDS {
            let others = others_of(&by_fold, fold);
            let model = fit(&measured.features, &others, outcomes, FIRST, threads);
            for position in &by_fold[fold] {
                first_scores[*position] = model.score(&measured.features[*position]);
            }
        }

        let (graph, wide) = with_context(measured, &first_scores);
        let kept_outcomes: Vec<Option<bool>> =
            kept(&first_scores).map(|position| outcomes[position]).collect();
        let all: Vec<usize> =
            (0..graph.len()).filter(|position| kept_outcomes[*position].is_some()).collect();
        let second = fit(&wide, &all, &kept_outcomes, SECOND, threads);
        let mut second_scores = score_rows(&second, &wide, threads);
        let mut by_fold: Vec<Vec<usize>> = vec![Vec::new(); FOLDS];
        for position in &all {
            by_fold[fold_of(&graph.candidates[*position])].push(*position);
        }
        for fold in 0..FOLDS {
            let model = fit(&wide, &others_of(&by_fold, fold), &kept_outcomes, SECOND, threads);
            for position in &by_fold[fold] {
                second_scores[*position] = model.score(&wide[*position]);
            }
        }
        let chosen = choose(&graph, &second_scores, second_scores.clone(), ALONE);
        let known: Vec<(f32, bool)> = chosen
            .iter()
            .zip(&kept_outcomes)
            .filter(|(judged, _)| judged.is_chosen)
            .filter_map(|(judged, outcome)| outcome.map(|outcome| (judged.score, outcome)))
            .collect();
        let (scores, truths): (Vec<f32>, Vec<bool>) = known.iter().copied().unzip();
        let calibration = Isotonic::fit(&scores, &truths);
        let doubtful = known
            .iter()
            .map(|(score, _)| *score)
            .filter(|score| calibration.probability(*score) < certainty.probability_min)
            .fold(f32::NEG_INFINITY, f32::max);
        let threshold =
            certified_threshold(&known, certainty.precision_min).max(doubtful.next_up()).min(f32::MAX);
        let cuts = (0..PROFILED)
            .map(|place| {
                let matches = chosen
                    .iter()
                    .enumerate()
                    .filter(|(position, judged)| judged.is_chosen && kept_outcomes[*position] == Some(true));
                tenths_of(
                    matches
                        .map(
                            |(position, judged)| {
                                if place < FEATURES { wide[position][place] } else { judged.score }
                            },
                        )
                        .collect(),
                )
            })
            .collect();
        Self { origin: Origin::of_code(rules), cuts, blocking, cold, first, second, calibration, threshold }
    }
}

/// The lowest score at or above which errors stay rare enough: at every cut the count of errors, with one more in
/// doubt, must stay within what `precision_min` allows.
pub(crate) fn certified_threshold(known: &[(f32, bool)], precision_min: f64) -> f32 {
    let mut known: Vec<(f32, bool)> = known.to_vec();
    known.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut errors = 0.0f64;
    let mut threshold = f32::INFINITY;
    for (place, (score, is_match)) in known.iter().enumerate() {
        errors += f64::from(u8::from(!is_match));
        let count = place as f64 + 1.0;
        let is_last_of_score = known.get(place + 1).is_none_or(|next| next.0 < *score);
        if is_last_of_score && errors + 1.0 <= count * (1.0 - precision_min) {
            threshold = *score;
        }
    }
    threshold
}

/// Nine values that part ten equal shares, fewer where values repeat.
fn tenths_of(mut values: Vec<f32>) -> Vec<f32> {
    values.sort_by(f32::total_cmp);
    let mut cuts: Vec<f32> =
        (1..TENTHS).filter_map(|tenth| values.get(values.len() * tenth / TENTHS).copied()).collect();
    cuts.dedup();
    cuts
}

fn text_hash(number: u32) -> u64 {
    crate::text::hash64(&number.to_le_bytes())
}

fn others_of(by_fold: &[Vec<usize>], fold: usize) -> Vec<usize> {
    let mut others: Vec<usize> = by_fold
        .iter()
        .enumerate()
        .filter(|(other, _)| *other != fold)
        .flat_map(|(_, rows)| rows.iter().copied())
        .collect();
    others.sort_unstable();
    others
}

fn fit<const W: usize>(
    rows: &[[f32; W]],
    positions: &[usize],
    outcomes: &[Option<bool>],
    growth: Growth,
    threads: usize,
) -> Trees {
    let flat: Vec<f32> = positions.iter().flat_map(|position| rows[*position]).collect();
    let outcomes: Vec<bool> = positions.iter().map(|position| outcomes[*position] == Some(true)).collect();
    Trees::train(&flat, W, &outcomes, growth, threads)
}

fn score_all(trees: &Trees, rows: &[Features], threads: usize) -> Vec<f32> {
    score_rows(trees, rows, threads)
}

fn score_rows<const W: usize>(trees: &Trees, rows: &[[f32; W]], threads: usize) -> Vec<f32> {
    let ranges = parallel::ranges(rows.len(), 4_096);
    parallel::map(ranges.len(), threads, |part| {
        rows[ranges[part].clone()].iter().map(|row| trees.score(row)).collect::<Vec<_>>()
    })
    .concat()
}

fn kept(first: &[f32]) -> impl Iterator<Item = usize> {
    first.iter().enumerate().filter(|(_, score)| **score >= HOPELESS).map(|(position, _)| position)
}

/// The candidates that are not hopeless, with their context beside their features.
fn with_context(measured: &Measured, first: &[f32]) -> (Graph, Vec<[f32; WIDE]>) {
    let positions: Vec<usize> = kept(first).collect();
    let candidates = positions.iter().map(|position| measured.graph.candidates[*position]).collect();
    let graph = Graph::new(measured.graph.rows(), measured.graph.columns(), candidates);
    let scores: Vec<f32> = positions.iter().map(|position| first[*position]).collect();
    let cold: Vec<f32> = positions.iter().map(|position| measured.features[*position][COLD_SCORE]).collect();
    let context = compete::context(&graph, &scores, &cold);
    let wide = positions
        .iter()
        .zip(context)
        .map(|(position, context)| {
            let mut row = [0.0; WIDE];
            row[..FEATURES].copy_from_slice(&measured.features[*position]);
            row[FEATURES..].copy_from_slice(&context);
            row
        })
        .collect();
    (graph, wide)
}

/// Chooses pairs by the greatest sum of `weights`, and gives each the score by which it is trusted.
fn choose(graph: &Graph, weights: &[f32], scores: Vec<f32>, alone: f32) -> Vec<Judged> {
    let mut judged: Vec<Judged> = graph
        .candidates
        .iter()
        .zip(scores)
        .map(|(candidate, score)| Judged { candidate: *candidate, score, is_chosen: false })
        .collect();
    for position in assigned(graph, weights, alone) {
        judged[position as usize].is_chosen = true;
    }
    judged
}

/// Positions of the candidates with the greatest sum of `weights` in which no record stands twice.
fn assigned(graph: &Graph, weights: &[f32], alone: f32) -> Vec<u32> {
    let mut positions = Vec::with_capacity(graph.len());
    let mut edges = Vec::with_capacity(graph.len());
    for (position, (candidate, weight)) in graph.candidates.iter().zip(weights).enumerate() {
        let weight = ((weight - alone) * 1_048_576.0) as i64;
        if weight > 0 {
            positions.push(position as u32);
            edges.push(Edge { left: candidate.ledger, right: candidate.bank, weight });
        }
    }
    let kept = assign::assign(graph.rows(), graph.columns(), &edges);
    kept.into_iter().map(|edge| positions[edge]).collect()
}
