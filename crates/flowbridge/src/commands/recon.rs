//! `flowbridge recon`: matching of files, evaluation, measurement and models. Only what people decided is read from a database;
//! which model is in force, the API says.

mod models;
mod reword;

use super::say;
use crate::config::Config;
use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use flowbridge_recon::anomaly::{self, Memory, Severity};
use flowbridge_recon::date::Date;
use flowbridge_recon::engine::{self, Decision, Settings};
use flowbridge_recon::evaluate::{self, PublicFigures, SyntheticFigures};
use flowbridge_recon::generate::{self, Recipe};
use flowbridge_recon::goal::Goal;
use flowbridge_recon::report::{self, Extras, Manifest, Report};
use flowbridge_recon::statement::{self, CsvMapping};
use flowbridge_recon::{Model, files, gate, train};
use std::collections::BTreeMap;
use std::fs;
use std::iter::once;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// First seed of evaluations; neither training nor development used it or those after it.
const EVALUATION_SEED: u64 = 1_000_001;
/// Seed of the books that decisions are made about; the ones behind it are judged.
const LEARNING_SEED: u64 = 1_000_101;

#[derive(Debug, Subcommand)]
pub(crate) enum ReconCommand {
    /// Match a ledger with bank statements and chain events, and write the report
    Run(RunArgs),
    /// Measure the engine on data whose truth is known
    Evaluate(EvaluateArgs),
    /// Make synthetic books whose truth is known
    Generate(GenerateArgs),
    /// Measure speed and memory
    Bench(BenchArgs),
    /// Train the model that is shipped, on synthetic books
    Train(TrainArgs),
    /// Learn from people's decisions, and compare the new model with the one in force
    Retrain(models::RetrainArgs),
    /// Show which model is in force on the running system, propose another, or answer what was proposed
    #[command(subcommand)]
    Models(models::ModelsCommand),
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Ledger entries, as CSV in the form that `generate` writes
    #[arg(long, value_name = "FILE")]
    ledger: PathBuf,
    /// A statement: camt.052/053/054, MT940/942, BAI2, OFX, or CSV; may be given several times
    #[arg(long, value_name = "FILE", required = true)]
    bank: Vec<PathBuf>,
    /// How to read CSV statements of another form, as JSON
    #[arg(long, value_name = "FILE")]
    mapping: Option<PathBuf>,
    /// Chain events, as CSV
    #[arg(long, value_name = "FILE")]
    chain: Option<PathBuf>,
    /// Balances of statements whose lines are in a CSV file of our own form, as CSV in the form that `generate` writes
    #[arg(long, value_name = "FILE")]
    statements: Option<PathBuf>,
    /// Tokens in being and money held for them, as CSV in the form that `generate` writes
    #[arg(long, value_name = "FILE")]
    reserves: Option<PathBuf>,
    /// The day to look at; without it the last day of the statements
    #[arg(long, value_name = "DATE")]
    as_of: Option<String>,
    /// A model that `train` or `retrain` made, instead of the one that is shipped
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// What earlier runs looked like, to see what is unusual; this run is added to it
    #[arg(long, value_name = "FILE")]
    memory: Option<PathBuf>,
    #[command(flatten)]
    reword: reword::RewordArgs,
    /// Where the report goes
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct EvaluateArgs {
    /// A folder with the public set's two Parquet files, or with books that `generate` wrote, in it or in the folders in it
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How many synthetic seeds; without it 10, or none where there is `--data`
    #[arg(long)]
    seeds: Option<u64>,
    /// Ledger entries per seed
    #[arg(long, default_value_t = 20_000)]
    entries: usize,
    /// Measure instead what 5,000 decisions at a noisy bank are worth
    #[arg(long, conflicts_with_all = ["data", "seeds"])]
    learning: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// Beginning of the random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// About how many ledger entries
    #[arg(long, default_value_t = 20_000)]
    entries: usize,
    /// How much banks damage; 1 is usual
    #[arg(long, default_value_t = 1.0)]
    noise: f64,
    /// Where the files go
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Ledger entries and bank lines together
    #[arg(long, default_value_t = 200_000)]
    records: usize,
    /// Match the public set of this folder instead, with nothing but its two files; `cargo xtask peer splink` does the same
    /// with Splink
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Books are made and matched in pieces of this many records, as accounts are by several nights or machines; what is in
    /// memory is one piece
    #[arg(long, default_value_t = 1_000_000)]
    piece: usize,
}

#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    /// Where the model goes
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Runs a command.
pub(crate) async fn run(command: ReconCommand, config: impl Fn() -> Result<Config>) -> Result<ExitCode> {
    match command {
        ReconCommand::Run(args) => match_files(&args, config).await,
        ReconCommand::Evaluate(args) => evaluate(&args),
        ReconCommand::Generate(args) => generate(&args),
        ReconCommand::Bench(args) => bench(&args),
        ReconCommand::Train(args) => train(&args),
        ReconCommand::Retrain(args) => models::retrain(&args, config).await,
        ReconCommand::Models(command) => models::run(command).await,
    }
}

async fn match_files(args: &RunArgs, config: impl Fn() -> Result<Config>) -> Result<ExitCode> {
    let mut inputs = BTreeMap::new();
    let mut take = |path: &Path| -> Result<Vec<u8>> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        // By name, so that the manifest is the same wherever the files lie; of two with one name the second gets a number.
        let (name, sha256) = (path.file_name().unwrap_or_default().to_string_lossy(), report::sha256(&bytes));
        let numbered = (2..).map(|number| format!("{number}-{name}"));
        let is_free = |name: &String| inputs.get(name).is_none_or(|taken| *taken == sha256);
        let name = once(name.to_string()).chain(numbered).find(is_free);
        inputs.insert(name.context("no name is free")?, sha256);
        Ok(bytes)
    };
    let ledger = files::read_records(take(&args.ledger)?.as_slice()).context("the ledger")?;
    let mapping: Option<CsvMapping> = match &args.mapping {
        Some(path) => Some(serde_json::from_slice(&take(path)?).context("the mapping")?),
        None => None,
    };
    let (mut bank, mut heads, mut seen) = (Vec::new(), Vec::new(), BTreeMap::new());
    for path in &args.bank {
        let bytes = take(path)?;
        if let Some(before) = seen.insert(report::sha256(&bytes), path) {
            say(format!("{} is the same file as {} and counts once", path.display(), before.display()));
            continue;
        }
        let is_csv = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
        if is_csv && mapping.is_none() {
            bank.extend(files::read_records(bytes.as_slice()).with_context(|| path.display().to_string())?);
            continue;
        }
        let read = statement::read(&bytes, mapping.as_ref().filter(|_| is_csv))
            .with_context(|| path.display().to_string())?;
        for told in &read.statements {
            if let Some(contradiction) = told.contradictions.first() {
                bail!("{}, account {}: {contradiction}", path.display(), told.account);
            }
        }
        let (records, left_out) = read.records();
        if left_out > 0 {
            say(format!(
                "{}: {left_out} lines without a known currency or a day are left out",
                path.display()
            ));
        }
        heads.extend(read.heads());
        bank.extend(records);
    }
    let events = match &args.chain {
        Some(path) => Some(files::read_events(take(path)?.as_slice()).context("the chain events")?),
        None => None,
    };
    if let Some(path) = &args.statements {
        heads.extend(files::read_heads(take(path)?.as_slice()).context("the balances of the statements")?);
    }
    let reserves = match &args.reserves {
        Some(path) => files::read_reserves(take(path)?.as_slice()).context("the reserves")?,
        None => Vec::new(),
    };
    let as_of = match &args.as_of {
        Some(text) => Date::parse_iso(text).context("a date is written 2026-11-23")?,
        None => bank.iter().map(|record| record.booked_on).max().context("the statements have no lines")?,
    };
    let (model, model_sha256) = model(args.model.as_deref())?;
    let settings = Settings::on(as_of, threads());
    let mut outcome = engine::run(&ledger, &bank, &model, &settings);
    if let Some(events) = &events {
        outcome.breaks.extend(engine::run_chain(&ledger, events, &settings));
    }
    outcome.breaks.extend(gate::statement_gaps(&heads));
    outcome.breaks.extend(gate::unbacked(&reserves));
    let mut manifest = Manifest::new(inputs, model_sha256.clone(), &settings);
    let mut memory = match &args.memory {
        Some(path) if path.exists() => serde_json::from_slice(&fs::read(path)?)
            .with_context(|| format!("{} is no memory", path.display()))?,
        Some(_) | None => Memory::default(),
    };
    let observed = anomaly::observe(&ledger, &bank, &outcome, as_of).judged_by(&model_sha256);
    let anomalies = memory.judge(&observed);
    memory.add(observed);
    let found =
        Report { ledger: &ledger, bank: &bank, outcome: &outcome, heads: &heads, manifest: &manifest };
    let sentences = args.reword.sentences(&found, config).await?;
    let history = if args.memory.is_some() { memory.runs.as_slice() } else { &[] };
    let extras = Extras { anomalies: &anomalies, history, sentences, ..Extras::default() };
    manifest.inputs.insert("findings".to_owned(), report::findings_sha256(&outcome, &heads, &extras)?);
    let written =
        Report { ledger: &ledger, bank: &bank, outcome: &outcome, heads: &heads, manifest: &manifest };
    fs::create_dir_all(&args.out)?;
    fs::write(args.out.join("report.html"), written.html_with(&extras))?;
    fs::write(args.out.join("report.pdf"), written.pdf())?;
    fs::write(args.out.join("report.json"), written.json_with(&extras)?)?;
    fs::write(args.out.join("matches.csv"), written.matches_csv()?)?;
    fs::write(args.out.join("breaks.csv"), written.breaks_csv()?)?;
    fs::write(args.out.join("reconciled.camt.xml"), written.camt()?)?;
    if let Some(path) = &args.memory {
        replace(path, &serde_json::to_vec(&memory)?)?;
    }
    for anomaly in anomalies.iter().filter(|anomaly| anomaly.severity == Severity::Alarm) {
        say(format!(
            "ALARM {:?} {}: usual {:.3}, found {:.3}",
            anomaly.kind, anomaly.subject, anomaly.usual, anomaly.found
        ));
    }
    let auto = outcome.matches.iter().filter(|found| found.decision == Decision::Auto).count();
    say(format!(
        "{} entries, {} lines: {} matches ({auto} safe to post), {} breaks; {}",
        ledger.len(),
        bank.len(),
        outcome.matches.len(),
        outcome.breaks.len(),
        args.out.join("report.html").display()
    ));
    Ok(ExitCode::SUCCESS)
}

#[derive(serde::Serialize)]
struct Evaluation {
    #[serde(flatten)]
    public: Option<PublicFigures>,
    synthetic: Vec<SyntheticFigures>,
    /// Every figure that has a goal, with its interval.
    goals: Vec<Goal>,
}

fn evaluate(args: &EvaluateArgs) -> Result<ExitCode> {
    if args.learning {
        let figures = evaluate::learning(&Model::shipped()?, LEARNING_SEED, 5_000, args.entries, threads())?;
        say(if args.json {
            serde_json::to_string_pretty(&figures)?
        } else {
            evaluate::learning_table(&figures)
        });
        return Ok(ExitCode::SUCCESS);
    }
    let model = Model::shipped()?;
    let (mut public, mut synthetic) = (None, Vec::new());
    if let Some(folder) = &args.data {
        public = evaluate::public_set(folder, threads())?;
        synthetic = evaluate::stored_books(&model, folder, threads())?;
        if public.is_none() && synthetic.is_empty() {
            bail!(
                "in {} are neither the public set's transactions_origin.parquet and transactions_destination.parquet nor books \
                 as `flowbridge recon generate --out DIR` writes them (known by their {})",
                folder.display(),
                files::TRUTH
            );
        }
    }
    let count = args.seeds.unwrap_or(if args.data.is_some() { 0 } else { 10 });
    let seeds: Vec<u64> = (EVALUATION_SEED..EVALUATION_SEED + count).collect();
    let noises: &[f64] = if seeds.is_empty() { &[] } else { &[1.0, 1.5, 2.5] };
    let made = |noise: &f64| evaluate::synthetic(&model, &seeds, args.entries, *noise, threads());
    synthetic.extend(noises.iter().map(made));
    let goals = evaluate::goals(public.as_ref(), &synthetic);
    let evaluation = Evaluation { public, synthetic, goals };
    if args.json {
        say(serde_json::to_string_pretty(&evaluation)?);
    } else {
        say(evaluate::table(evaluation.public.as_ref(), &evaluation.synthetic));
    }
    Ok(ExitCode::SUCCESS)
}

fn generate(args: &GenerateArgs) -> Result<ExitCode> {
    let recipe = Recipe { seed: args.seed, entries: args.entries, noise: args.noise };
    let books = generate::make(recipe);
    files::write_books(&books, recipe, &args.out)?;
    say(format!(
        "{} entries, {} lines, {} chain events, {} breaks; as of {}",
        books.ledger.len(),
        books.bank.len(),
        books.events.len(),
        books.breaks.len(),
        books.as_of
    ));
    Ok(ExitCode::SUCCESS)
}

fn bench(args: &BenchArgs) -> Result<ExitCode> {
    if let Some(folder) = &args.data {
        return bench_public(folder);
    }
    let model = Model::shipped()?;
    let pieces = args.records.div_ceil(args.piece.max(1)).max(1);
    let (mut records, mut matches, mut seconds) = (0, 0, 0.0);
    for piece in 0..pieces as u64 {
        let entries = args.records / pieces * 53 / 100;
        let books = generate::make(Recipe { seed: EVALUATION_SEED + piece, entries, noise: 1.0 });
        let settings = Settings::on(books.as_of, threads());
        let begun = std::time::Instant::now();
        let outcome = engine::run(&books.ledger, &books.bank, &model, &settings);
        seconds += begun.elapsed().as_secs_f64();
        records += books.ledger.len() + books.bank.len();
        matches += outcome.matches.len();
    }
    say(serde_json::to_string_pretty(&serde_json::json!({
        "records": records,
        "pieces": pieces,
        "seconds": seconds,
        "records_per_second": records as f64 / seconds,
        "cpu_seconds": cpu_seconds(),
        "memory_mb": memory_kb() / 1024,
        "matches": matches,
        "threads": threads(),
    }))?);
    Ok(ExitCode::SUCCESS)
}

fn bench_public(folder: &Path) -> Result<ExitCode> {
    let figures = evaluate::public_unsupervised(folder, threads())?
        .with_context(|| format!("no public set in {}", folder.display()))?;
    let score = &figures.1;
    let records = figures.0 as f64;
    say(serde_json::json!({
        "tool": "flowbridge",
        "records": figures.0,
        "seconds": score.seconds,
        "seconds_predict_only": score.seconds_predict_only,
        "records_per_second": records / score.seconds,
        "records_per_second_predict_only": records / score.seconds_predict_only,
        "memory_mb": memory_kb() / 1024,
        "f1": score.f1,
        "coverage_at_999": score.coverage_at_999,
    }));
    Ok(ExitCode::SUCCESS)
}

/// Most memory that was resident, as the kernel counted it.
fn memory_kb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0)
}

/// Processor time of all threads, the making of the books included.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |place: usize| fields.get(place).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    // User and system time, the 14th and 15th field, in hundredths.
    (ticks(11) + ticks(12)) / 100.0
}

/// Writes beside the file and puts it in its place, so that a crash leaves the old one or the new one.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let beside = path.with_extension("new");
    fs::write(&beside, bytes).with_context(|| format!("cannot write {}", beside.display()))?;
    fs::rename(&beside, path).with_context(|| format!("cannot write {}", path.display()))
}

fn train(args: &TrainArgs) -> Result<ExitCode> {
    let model = train::shipped(threads());
    fs::write(&args.out, model.to_file()?)?;
    say(format!("posts from log-odds {:+.2}; written to {}", model.threshold, args.out.display()));
    Ok(ExitCode::SUCCESS)
}

fn model(path: Option<&Path>) -> Result<(Model, String)> {
    let Some(path) = path else { return Ok((Model::shipped()?, Model::shipped_sha256())) };
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok((Model::read(&bytes).with_context(|| path.display().to_string())?, report::sha256(&bytes)))
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}
