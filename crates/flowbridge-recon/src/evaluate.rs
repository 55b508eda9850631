//! The table of goals: what the engine reaches on data whose truth is known.

use crate::break_kind::BreakKind;
use crate::calibrate::{expected_calibration_error, success_rate_down};
use crate::date::Date;
use crate::engine::{self, Decision, How, Outcome, Settings, Subject};
use crate::feedback::{Ruling, Verdict};
use crate::files::{self, BooksError, FileError, StoredBooks};
use crate::gate;
use crate::generate::{self, Books, Habits, Recipe};
use crate::goal::{self, Asks, Goal};
use crate::model::Model;
use crate::public::{self, Counted, PublicSet, ReadPublicSetError, Score};
use crate::text;
use crate::train::{self, Comparison, RetrainError};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Figures on the public set.
#[derive(Debug, Clone, Serialize)]
pub struct PublicFigures {
    /// Rows of either file.
    pub records: [usize; 2],
    /// With nothing but the two files.
    pub unsupervised: Score,
    /// With the answers for a fifth of the records; counted on the others.
    pub labelled: Score,
}

/// Evaluates on the public set where `folder`, or `splink-transactions` in it, holds its two files.
pub fn public_set(folder: &Path, threads: usize) -> Result<Option<PublicFigures>, ReadPublicSetError> {
    let Some(set) = read_public_set(folder)? else { return Ok(None) };
    let (records, labelled) = (set.records(), set.labelled(threads));
    Ok(Some(PublicFigures { records, unsupervised: set.unsupervised(threads), labelled }))
}

/// The number of records and the unsupervised part alone.
pub fn public_unsupervised(
    folder: &Path,
    threads: usize,
) -> Result<Option<(usize, Score)>, ReadPublicSetError> {
    let Some(set) = read_public_set(folder)? else { return Ok(None) };
    Ok(Some((set.records().into_iter().sum(), set.unsupervised(threads))))
}

fn read_public_set(folder: &Path) -> Result<Option<PublicSet>, ReadPublicSetError> {
    let names = ["transactions_origin.parquet", "transactions_destination.parquet"];
    let folder = [folder.to_path_buf(), folder.join("splink-transactions")]
        .into_iter()
        .find(|folder| names.iter().all(|name| folder.join(name).is_file()));
    let Some(folder) = folder else { return Ok(None) };
    Ok(Some(public::read(&folder.join(names[0]), &folder.join(names[1]))?))
}

/// Figures on synthetic books of one noise level, pooled over seeds.
#[derive(Debug, Clone, Serialize)]
pub struct SyntheticFigures {
    /// Version of the generator.
    pub generator: u32,
    /// The seeds.
    pub seeds: Vec<u64>,
    /// How much the banks damage.
    pub noise: f64,
    /// Ledger entries and bank lines of all seeds.
    pub records: [usize; 2],
    /// Best F1 over thresholds, one to one, rules and model.
    pub f1: f64,
    /// What it was counted from.
    pub counted: Counted,
    /// Share of the true pairs that would be posted without a person.
    pub coverage: f64,
    /// Posted pairs that are right, rules and model.
    pub precision: Share,
    /// Posted pairs that are right, of the model alone.
    pub model_precision: Share,
    /// Pairs by full reference that are wrong.
    pub reference_errors: u64,
    /// Pairs by full reference.
    pub references: u64,
    /// F1 of groups, whole or not at all.
    pub groups_f1: f64,
    /// Groups that there are, those that were found, and of these those that are whole.
    pub groups: [u64; 3],
    /// Share of the true groups that would be posted, and how many posted ones are right.
    pub groups_auto: Share,
    /// Posted groups that are right.
    pub groups_precision: Share,
    /// Bank lines a person has to look at.
    pub review: Share,
    /// Entries that were not posted and whose true line is among the three that are shown.
    pub top_3: Share,
    /// Mean distance between promised and true probability.
    pub calibration_error: f64,
    /// Mean recall of break kinds.
    pub break_recall: f64,
    /// Mean precision of break kinds.
    pub break_precision: f64,
    /// Each kind: code, put in, found, right.
    pub breaks: Vec<(&'static str, u64, u64, u64)>,
    /// Records per second.
    pub records_per_second: f64,
}

/// A share with its exact one-sided 95 % lower bound.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Share {
    /// How many.
    pub part: u64,
    /// Of how many.
    pub of: u64,
    /// The share.
    pub share: f64,
    /// What the count does not exclude.
    pub down: f64,
}

impl Share {
    fn new(part: u64, of: u64) -> Self {
        Self { part, of, share: part as f64 / (of as f64).max(1.0), down: success_rate_down(part, of, 0.95) }
    }
}

#[derive(Default)]
struct Counts {
    pairs: usize,
    ranked: Vec<(f32, bool)>,
    promised: Vec<(f32, bool)>,
    auto: [u64; 2],
    model_auto: [u64; 2],
    reference_errors: u64,
    references: u64,
    groups: [u64; 3],
    groups_auto: [u64; 2],
    lines: u64,
    reviewed: u64,
    top: [u64; 2],
    breaks: BTreeMap<BreakKind, [u64; 3]>,
}

/// Evaluates a model on synthetic books.
pub fn synthetic(
    model: &Model,
    seeds: &[u64],
    entries: usize,
    noise: f64,
    threads: usize,
) -> SyntheticFigures {
    synthetic_at(model, seeds, Recipe { seed: 0, entries, noise }, Habits::default(), threads)
}

fn synthetic_at(
    model: &Model,
    seeds: &[u64],
    recipe: Recipe,
    habits: Habits,
    threads: usize,
) -> SyntheticFigures {
    let mut tally = Tally::default();
    for seed in seeds {
        let books = generate::make_at(Recipe { seed: *seed, ..recipe }, habits);
        tally.add(*seed, &books, model, threads);
    }
    tally.figures(generate::VERSION, recipe.noise)
}

/// Evaluates on books that [`files::write_books`] wrote: those of `folder`, or of the folders in it, in the order of their
/// names; one figure of all that were made by the same version with the same noise. None where there are no books.
///
/// # Errors
///
/// Which file cannot be read, and why.
pub fn stored_books(
    model: &Model,
    folder: &Path,
    threads: usize,
) -> Result<Vec<SyntheticFigures>, BooksError> {
    let mut tallies: Vec<((u32, f64), Tally)> = Vec::new();
    for folder in folders_of_books(folder)? {
        let StoredBooks { recipe, generator, books } = files::read_books(&folder)?;
        let kind = (generator, recipe.noise);
        let place = tallies.iter().position(|(of, _)| *of == kind).unwrap_or_else(|| {
            tallies.push((kind, Tally::default()));
            tallies.len() - 1
        });
        tallies[place].1.add(recipe.seed, &books, model, threads);
    }
    Ok(tallies.into_iter().map(|((generator, noise), tally)| tally.figures(generator, noise)).collect())
}

fn folders_of_books(folder: &Path) -> Result<Vec<PathBuf>, BooksError> {
    let has_books = |folder: &Path| folder.join(files::TRUTH).is_file();
    if has_books(folder) {
        return Ok(vec![folder.to_path_buf()]);
    }
    let listed = || -> std::io::Result<Vec<PathBuf>> {
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
    };
    let mut folders = listed()
        .map_err(|error| BooksError { path: folder.to_path_buf(), source: FileError::Disk(error) })?;
    folders.retain(|folder| has_books(folder));
    folders.sort();
    Ok(folders)
}

/// What is counted of several books.
#[derive(Default)]
struct Tally {
    seeds: Vec<u64>,
    records: [usize; 2],
    seconds: f64,
    counts: Counts,
}

impl Tally {
    fn add(&mut self, seed: u64, books: &Books, model: &Model, threads: usize) {
        let settings = Settings::on(books.as_of, threads);
        let begun = std::time::Instant::now();
        let mut outcome = engine::run(&books.ledger, &books.bank, model, &settings);
        outcome.breaks.extend(engine::run_chain(&books.ledger, &books.events, &settings));
        outcome.breaks.extend(gate::statement_gaps(&books.statements));
        outcome.breaks.extend(gate::unbacked(&books.reserves));
        self.seconds += begun.elapsed().as_secs_f64();
        self.seeds.push(seed);
        self.records[0] += books.ledger.len();
        self.records[1] += books.bank.len();
        self.counts.add(books, &outcome);
    }

    fn figures(self, generator: u32, noise: f64) -> SyntheticFigures {
        let Self { seeds, records, seconds, counts } = self;
        let (f1, _, counted) = public::counted_curve(&counts.ranked, counts.pairs);
        let (probabilities, truths): (Vec<f32>, Vec<bool>) = counts.promised.iter().copied().unzip();
        let mean = |part: usize, of: usize| {
            let shares: Vec<f64> = counts
                .breaks
                .values()
                .filter(|count| count[of] > 0)
                .map(|count| count[part] as f64 / count[of] as f64)
                .collect();
            shares.iter().sum::<f64>() / shares.len().max(1) as f64
        };
        let group_recall = counts.groups[2] as f64 / (counts.groups[0] as f64).max(1.0);
        let group_precision = counts.groups[2] as f64 / (counts.groups[1] as f64).max(1.0);
        SyntheticFigures {
            generator,
            seeds,
            noise,
            records,
            f1,
            counted,
            coverage: counts.auto[0] as f64 / counts.pairs.max(1) as f64,
            precision: Share::new(counts.auto[0], counts.auto[1]),
            model_precision: Share::new(counts.model_auto[0], counts.model_auto[1]),
            reference_errors: counts.reference_errors,
            references: counts.references,
            groups_f1: 2.0 * group_recall * group_precision / (group_recall + group_precision).max(1e-9),
            groups: counts.groups,
            groups_auto: Share::new(counts.groups_auto[0], counts.groups[0]),
            groups_precision: Share::new(counts.groups_auto[0], counts.groups_auto[1]),
            review: Share::new(counts.reviewed, counts.lines),
            top_3: Share::new(counts.top[0], counts.top[1]),
            calibration_error: expected_calibration_error(&probabilities, &truths),
            break_recall: mean(2, 0),
            break_precision: mean(2, 1),
            breaks: counts.breaks.iter().map(|(kind, [a, b, c])| (kind.code(), *a, *b, *c)).collect(),
            records_per_second: (records[0] + records[1]) as f64 / seconds,
        }
    }
}

impl Counts {
    fn add(&mut self, books: &Books, outcome: &Outcome) {
        let mut sizes: BTreeMap<u32, (Vec<u32>, Vec<u32>)> = BTreeMap::new();
        for (entry, group) in books.ledger_group.iter().enumerate() {
            if let Some(group) = group {
                sizes.entry(*group).or_default().0.push(entry as u32);
            }
        }
        for (line, group) in books.bank_group.iter().enumerate() {
            if let Some(group) = group {
                sizes.entry(*group).or_default().1.push(line as u32);
            }
        }
        let plain = books.plain_groups();
        let is_plain = |group: u32| plain.contains(&group);
        for (group, (entries, lines)) in &sizes {
            if is_plain(*group) {
                self.pairs += entries.len().min(lines.len());
            } else if !entries.is_empty() && !lines.is_empty() {
                self.groups[0] += 1;
            }
        }
        let mut auto_lines = 0;
        let mut posted: BTreeSet<u32> = BTreeSet::new();
        for found in &outcome.matches {
            let is_auto = found.decision == Decision::Auto;
            if is_auto {
                auto_lines += found.bank.len() as u64;
                posted.extend(&found.ledger);
            }
            if let (How::Reference | How::Model, [entry], [line]) =
                (found.how, found.ledger.as_slice(), found.bank.as_slice())
            {
                let group = books.ledger_group[*entry as usize];
                let is_right = group.is_some_and(is_plain) && group == books.bank_group[*line as usize];
                let is_reference = found.how == How::Reference;
                self.ranked.push((if is_reference { 100.0 } else { found.score }, is_right));
                if is_reference {
                    self.references += 1;
                    self.reference_errors += u64::from(!is_right);
                } else {
                    self.promised.push((found.probability, is_right));
                    if is_auto {
                        self.model_auto[0] += u64::from(is_right);
                        self.model_auto[1] += 1;
                    }
                }
                if is_auto {
                    self.auto[0] += u64::from(is_right);
                    self.auto[1] += 1;
                }
            } else {
                let group = books.ledger_group[found.ledger[0] as usize];
                let mut ours = (found.ledger.clone(), found.bank.clone());
                ours.0.sort_unstable();
                ours.1.sort_unstable();
                let is_right = group.and_then(|group| sizes.get(&group)) == Some(&ours);
                self.groups[1] += 1;
                self.groups[2] += u64::from(is_right);
                if is_auto {
                    self.groups_auto[0] += u64::from(is_right);
                    self.groups_auto[1] += 1;
                }
            }
        }
        self.lines += books.bank.len() as u64;
        self.reviewed += books.bank.len() as u64 - auto_lines;
        let is_equal = |group: u32| {
            is_plain(group) && sizes.get(&group).is_some_and(|(entries, lines)| entries.len() <= lines.len())
        };
        self.count_suggestions(books, outcome, &posted, is_equal);
        self.count_breaks(books, outcome);
    }

    fn count_suggestions(
        &mut self,
        books: &Books,
        outcome: &Outcome,
        posted: &BTreeSet<u32>,
        is_plain: impl Fn(u32) -> bool,
    ) {
        // Who is matched otherwise is shown that match; where it is wrong, the true line is not shown.
        let mut matched: BTreeMap<u32, &[u32]> = BTreeMap::new();
        for found in outcome.matches.iter().filter(|found| !matches!(found.how, How::Model)) {
            matched.extend(found.ledger.iter().map(|entry| (*entry, found.bank.as_slice())));
        }
        for (entry, group) in books.ledger_group.iter().enumerate() {
            let entry = entry as u32;
            let Some(group) = group.filter(|group| is_plain(*group)) else { continue };
            let is_true =
                |lines: &[u32]| lines.iter().any(|line| books.bank_group[*line as usize] == Some(group));
            if posted.contains(&entry) || matched.get(&entry).is_some_and(|lines| is_true(lines)) {
                continue;
            }
            let suggested = outcome.suggestions.get(&entry);
            let is_shown =
                suggested.is_some_and(|lines| lines.iter().any(|suggestion| is_true(&[suggestion.line])));
            self.top[0] += u64::from(is_shown);
            self.top[1] += 1;
        }
    }

    /// Of two equal records either may be called the copy, so subjects that share a group are the same.
    fn count_breaks(&mut self, books: &Books, outcome: &Outcome) {
        let name = |kind: BreakKind, subject: &Subject| -> (BreakKind, Subject) {
            let group = match (kind, subject) {
                (BreakKind::DuplicateBankLine, Subject::Bank(line)) => books.bank_group[*line as usize],
                (BreakKind::DuplicateLedgerEntry, Subject::Ledger(entry)) => {
                    books.ledger_group[*entry as usize]
                }
                _ => None,
            };
            (kind, group.map_or_else(|| subject.clone(), |group| Subject::Account(format!("group {group}"))))
        };
        let put_in: BTreeSet<(BreakKind, Subject)> =
            books.breaks.iter().map(|(kind, subject)| name(*kind, subject)).collect();
        let found: BTreeSet<(BreakKind, Subject)> =
            outcome.breaks.iter().map(|found| name(found.kind, &found.subject)).collect();
        for (kind, _) in &put_in {
            self.breaks.entry(*kind).or_default()[0] += 1;
        }
        for both in &found {
            let count = self.breaks.entry(both.0).or_default();
            count[1] += 1;
            count[2] += u64::from(put_in.contains(both));
        }
    }
}

/// What five thousand decisions at a noisy bank are worth.
#[derive(Debug, Clone, Serialize)]
pub struct LearningFigures {
    /// Decisions of people that were learned from.
    pub decisions: usize,
    /// Seconds from records in memory to the new model and the comparison.
    pub seconds: f64,
    /// On the decisions of the same books that were kept back.
    pub comparison: Comparison,
    /// The shipped model on other books of that bank.
    pub before: SyntheticFigures,
    /// The new one on the same.
    pub after: SyntheticFigures,
    /// Points of coverage won.
    pub points: f64,
}

/// Lets the shipped model learn from decisions at a bank whose habits it does not know, and measures both on other books
/// of that bank.
pub fn learning(
    model: &Model,
    seed: u64,
    decisions: usize,
    entries: usize,
    threads: usize,
) -> Result<LearningFigures, RetrainError> {
    let noise = 4.0;
    let books = generate::make_at(Recipe { seed, entries: decisions * 4, noise }, Habits::noisy());
    let settings = Settings::on(books.as_of, threads);
    let outcome = engine::run(&books.ledger, &books.bank, model, &settings);
    let split_on = books.as_of.plus_days(1);
    let rulings = rulings_of(&books, &outcome, decisions, split_on);
    let begun = std::time::Instant::now();
    let (learned, comparison) =
        train::retrain(model, &books.ledger, &books.bank, &rulings, split_on, threads)?;
    let seconds = begun.elapsed().as_secs_f64();
    let seeds: Vec<u64> = (seed + 1..seed + 4).collect();
    let measure = |model: &Model| {
        let habits = Habits::noisy();
        synthetic_at(model, &seeds, Recipe { seed, entries, noise }, habits, threads)
    };
    let (before, after) = (measure(model), measure(&learned));
    let points = (after.coverage - before.coverage) * 100.0;
    Ok(LearningFigures { decisions, seconds, comparison, before, after, points })
}

/// The figures of learning as lines for a terminal.
pub fn learning_table(figures: &LearningFigures) -> String {
    let of = |figures: &SyntheticFigures| {
        format!(
            "posts {:.2} %, right {:.3} % (at least {:.3} %)",
            figures.coverage * 100.0,
            figures.model_precision.share * 100.0,
            figures.model_precision.down * 100.0
        )
    };
    format!(
        "{} decisions, learned in {:.1} s\nbefore: {}\nafter:  {}\nwon: {:+.1} points",
        figures.decisions,
        figures.seconds,
        of(&figures.before),
        of(&figures.after),
        figures.points
    )
}

/// What people would say of entries that no full reference settles: the first `count` before `split_on`, the rest on it.
fn rulings_of(books: &Books, outcome: &Outcome, count: usize, split_on: Date) -> Vec<Ruling> {
    let by_reference: BTreeSet<u32> = outcome
        .matches
        .iter()
        .filter(|found| !matches!(found.how, How::Model))
        .flat_map(|found| found.ledger.iter().copied())
        .collect();
    let mut lines: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (line, group) in books.bank_group.iter().enumerate() {
        if let Some(group) = group {
            lines.entry(*group).or_default().push(line as u32);
        }
    }
    let plain = books.plain_groups();
    let mut asked: Vec<u32> =
        (0..books.ledger.len() as u32).filter(|entry| !by_reference.contains(entry)).collect();
    // People work through accounts side by side, not one after the other.
    asked.sort_by_key(|entry| text::hash64(books.ledger[*entry as usize].id.as_bytes()));
    asked
        .into_iter()
        .enumerate()
        .filter_map(|(place, entry)| {
            let group = books.ledger_group[entry as usize];
            let partners = group.and_then(|group| lines.get(&group)).map_or(&[][..], Vec::as_slice);
            let (verdict, bank) = match (group, partners) {
                (None, _) | (Some(_), []) => (Verdict::WriteOff, Vec::new()),
                (Some(group), [line]) if plain.contains(&group) => (Verdict::Rematch, vec![*line]),
                // Several belong together; who says so says nothing about pairs.
                (Some(_), _) => return None,
            };
            Some(Ruling {
                on: if place < count { split_on.plus_days(-1) } else { split_on },
                by: "synthetic clerk".to_owned(),
                verdict,
                ledger: vec![books.ledger[entry as usize].id.to_string()],
                bank: bank.iter().map(|line| books.bank[*line as usize].id.to_string()).collect(),
                reason: "known truth".to_owned(),
                is_audit: false,
            })
        })
        .collect()
}

/// Every figure that has a goal, beside it, with what its count leaves open.
pub fn goals(public: Option<&PublicFigures>, synthetic: &[SyntheticFigures]) -> Vec<Goal> {
    let mut goals = Vec::new();
    if let Some(figures) = public {
        goals.extend(goals_of_score("unsupervised", &figures.unsupervised, [0.998, 0.95]));
        goals.extend(goals_of_score("labelled", &figures.labelled, [0.9993, 0.99]));
    }
    goals.extend(synthetic.iter().flat_map(goals_of_books));
    goals
}

fn goals_of_score(set: &str, score: &Score, [f1, coverage]: [f64; 2]) -> Vec<Goal> {
    let Counted { pairs, right, wrong, covered } = score.counted;
    let at_least = |goal: f64| (Asks::AtLeast, goal);
    let f1_interval = goal::of_f1(right, wrong, pairs.saturating_sub(right));
    let covered = goal::of_share(covered, pairs);
    let mut goals = vec![
        Goal::new((set, "f1"), score.f1, at_least(f1), f1_interval),
        Goal::new((set, "coverage_at_999"), score.coverage_at_999, at_least(coverage), covered),
    ];
    if let Some(honest) = &score.honest {
        let (covered, precise) =
            (goal::of_share(honest.right, pairs), goal::of_share(honest.right, honest.posted));
        goals.push(Goal::new((set, "honest.coverage"), honest.coverage, at_least(0.99), covered));
        goals.push(Goal::new((set, "honest.precision"), honest.precision, at_least(0.999), precise));
    }
    goals
}

/// Share of the true pairs that has to be posted, by how much the banks damage.
const COVERAGE_GOALS: [(f64, f64); 3] = [(1.0, 0.90), (1.5, 0.85), (2.5, 0.75)];

fn goals_of_books(figures: &SyntheticFigures) -> Vec<Goal> {
    let set = name_of(figures);
    let of = |figure: &'static str, value: f64, asked: (Asks, f64), interval| {
        Goal::new((&set, figure), value, asked, interval)
    };
    let of_share = |figure: &'static str, share: Share, asked: (Asks, f64)| {
        of(figure, share.share, asked, goal::of_share(share.part, share.of))
    };
    let at_least = |goal: f64| (Asks::AtLeast, goal);
    let Counted { pairs, right, wrong, .. } = figures.counted;
    let f1 = goal::of_f1(right, wrong, pairs.saturating_sub(right));
    let [groups, found, whole] = figures.groups;
    let groups_f1 = goal::of_f1(whole, found.saturating_sub(whole), groups.saturating_sub(whole));
    let wrong_references = Share::new(figures.reference_errors, figures.references);
    let recall = goal::of_mean(figures.breaks.iter().map(|(_, put_in, _, right)| (*right, *put_in)));
    let precision = goal::of_mean(figures.breaks.iter().map(|(_, _, found, right)| (*right, *found)));
    let mut goals = vec![
        of("f1", figures.f1, at_least(0.993), f1),
        of_share("precision", figures.precision, at_least(0.999)),
        of_share("model_precision", figures.model_precision, (Asks::SurelyAtLeast, 0.999)),
        of_share("reference_errors", wrong_references, (Asks::AtMost, 0.0)),
        of("groups_f1", figures.groups_f1, at_least(0.88), groups_f1),
        of_share("groups_auto", figures.groups_auto, at_least(0.70)),
        of_share("groups_precision", figures.groups_precision, at_least(0.999)),
        of_share("review", figures.review, (Asks::AtMost, 0.10)),
        of_share("top_3", figures.top_3, at_least(0.93)),
        of("break_recall", figures.break_recall, at_least(0.95), recall),
        of("break_precision", figures.break_precision, at_least(0.95), precision),
        of("calibration_error", figures.calibration_error, (Asks::AtMost, 0.005), None),
    ];
    if let Some((_, goal)) = COVERAGE_GOALS.iter().find(|(noise, _)| *noise == figures.noise) {
        let posted = goal::of_share(figures.precision.part, pairs);
        goals.insert(1, of("coverage", figures.coverage, at_least(*goal), posted));
    }
    goals
}

fn name_of(figures: &SyntheticFigures) -> String {
    format!("synthetic, damage {}", figures.noise)
}

/// The figures beside their goals, as lines for a terminal.
pub fn table(public: Option<&PublicFigures>, synthetic: &[SyntheticFigures]) -> String {
    let mut lines = vec![goal::table(&goals(public, synthetic))];
    if let Some(figures) = public {
        for (name, score) in [("unsupervised", &figures.unsupervised), ("labelled", &figures.labelled)] {
            let (seconds, learning) = (score.seconds, score.seconds - score.seconds_predict_only);
            lines.push(format!("{name}: {seconds:.1} s, {learning:.1} s of these to learn"));
        }
    }
    for figures in synthetic {
        lines.push(format!(
            "{}: {} entries and {} lines of {} seeds, {:.0} records a second",
            name_of(figures),
            figures.records[0],
            figures.records[1],
            figures.seeds.len(),
            figures.records_per_second
        ));
    }
    lines.join("\n")
}
