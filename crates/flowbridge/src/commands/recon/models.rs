//! Models on disk: learned from decisions, put in force by two people, gone back from.
//!
//! A folder holds model files, named by the SHA-256 of their bytes, and `log.jsonl`, which is only added to. A model whose
//! file does not have the hash in its name is refused.

use super::super::say;
use super::threads;
use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use flowbridge_recon::date::Date;
use flowbridge_recon::registry::{Promotion, Registry};
use flowbridge_recon::{Model, feedback, files, report, train};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, Args)]
pub(crate) struct RetrainArgs {
    /// Ledger entries, as CSV in the form that `generate` writes
    #[arg(long, value_name = "FILE")]
    ledger: PathBuf,
    /// Bank lines in the same form
    #[arg(long, value_name = "FILE")]
    bank: PathBuf,
    /// Decisions of people, one JSON object a line
    #[arg(long, value_name = "FILE")]
    decisions: PathBuf,
    /// Learn from decisions before this day, compare on those from it on
    #[arg(long, value_name = "DATE")]
    split_on: String,
    /// Where models live; the new one is put there, not in force
    #[arg(long, value_name = "DIR")]
    models: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct PromoteArgs {
    /// Where models live
    #[arg(long, value_name = "DIR")]
    models: PathBuf,
    /// The model's id
    #[arg(long, value_name = "ID")]
    model: String,
    #[command(flatten)]
    people: People,
}

#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// Where models live
    #[arg(long, value_name = "DIR")]
    models: PathBuf,
    /// The id of a model that was in force before, or its beginning
    #[arg(long, value_name = "ID")]
    to: String,
    #[command(flatten)]
    people: People,
}

#[derive(Debug, Args)]
pub(crate) struct ModelsArgs {
    /// Where models live
    #[arg(long, value_name = "DIR")]
    models: PathBuf,
}

#[derive(Debug, Args)]
struct People {
    /// Who proposes it
    #[arg(long, value_name = "NAME")]
    proposed_by: String,
    /// Who approves it; somebody else
    #[arg(long, value_name = "NAME")]
    approved_by: String,
    /// The day
    #[arg(long, value_name = "DATE")]
    on: String,
    /// What was measured, or what went wrong
    #[arg(long)]
    reason: String,
}

impl People {
    fn promotion(&self, model: &str) -> Result<Promotion> {
        Ok(Promotion {
            model: model.to_owned(),
            proposed_by: self.proposed_by.clone(),
            approved_by: self.approved_by.clone(),
            on: day(&self.on)?,
            reason: self.reason.clone(),
        })
    }
}

pub(super) fn retrain(args: &RetrainArgs) -> Result<ExitCode> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let ledger = files::read_records(read(&args.ledger)?.as_slice()).context("the ledger")?;
    let bank = files::read_records(read(&args.bank)?.as_slice()).context("the bank lines")?;
    let decisions = feedback::read(&read(&args.decisions)?)?;
    let (champion, champion_id) = in_force(&args.models)?;
    let begun = std::time::Instant::now();
    let (challenger, comparison) =
        train::retrain(&champion, &ledger, &bank, &decisions, day(&args.split_on)?, threads())?;
    let bytes = challenger.to_file()?;
    let id = report::sha256(&bytes);
    fs::create_dir_all(&args.models)?;
    super::replace(&file_of(&args.models, &id), &bytes)?;
    say(serde_json::to_string_pretty(&serde_json::json!({
        "champion": champion_id,
        "challenger": id,
        "seconds": begun.elapsed().as_secs_f64(),
        "comparison": comparison,
    }))?);
    say(if comparison.is_better {
        format!("better; two people put it in force: flowbridge recon promote --model {id} …")
    } else {
        "not better; the model in force stays".to_owned()
    });
    Ok(ExitCode::SUCCESS)
}

pub(super) fn promote(args: &PromoteArgs) -> Result<ExitCode> {
    let mut registry = registry(&args.models)?;
    load(&args.models, &args.model)?;
    let line = registry.promote(args.people.promotion(&args.model)?)?;
    append(&args.models, &line)?;
    say(format!("in force from the next run on: {}", args.model));
    Ok(ExitCode::SUCCESS)
}

pub(super) fn roll_back(args: &RollbackArgs) -> Result<ExitCode> {
    let mut registry = registry(&args.models)?;
    let line = registry.roll_back(args.people.promotion(&args.to)?)?;
    let model = registry.in_force().unwrap_or_default().to_owned();
    load(&args.models, &model)?;
    append(&args.models, &line)?;
    say(format!("in force again from the next run on: {model}"));
    Ok(ExitCode::SUCCESS)
}

pub(super) fn show(args: &ModelsArgs) -> Result<ExitCode> {
    let registry = registry(&args.models)?;
    for change in &registry.promotions {
        say(format!(
            "{}  {}  proposed by {}, approved by {}: {}",
            change.on, change.model, change.proposed_by, change.approved_by, change.reason
        ));
    }
    let (model, id) = in_force(&args.models)?;
    let code = if model.origin.is_of_this_code() { "this code" } else { "other code" };
    say(format!("in force: {id}, from {} decisions, made by {code}", model.origin.decisions));
    Ok(ExitCode::SUCCESS)
}

/// The model in force in a folder and its id; the shipped one where none was ever promoted.
pub(super) fn in_force(folder: &Path) -> Result<(Model, String)> {
    match registry(folder)?.in_force() {
        Some(id) => Ok((load(folder, id)?, id.to_owned())),
        None => Ok((Model::shipped()?, Model::shipped_sha256())),
    }
}

fn load(folder: &Path, id: &str) -> Result<Model> {
    ensure!(
        id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{id:?} is no id of a model: 64 hexadecimal digits"
    );
    if id == Model::shipped_sha256() {
        return Ok(Model::shipped()?);
    }
    let path = file_of(folder, id);
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    if report::sha256(&bytes) != id {
        bail!("{} was changed after it was made; take it from its backup", path.display());
    }
    Model::read(&bytes).with_context(|| path.display().to_string())
}

fn registry(folder: &Path) -> Result<Registry> {
    let path = folder.join("log.jsonl");
    match fs::read(&path) {
        Ok(bytes) => Registry::read(&bytes).with_context(|| path.display().to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Registry::default()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn append(folder: &Path, line: &str) -> Result<()> {
    let path = folder.join("log.jsonl");
    let mut log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    log.write_all(format!("{line}\n").as_bytes())?;
    log.sync_all().with_context(|| format!("cannot write {}", path.display()))
}

fn file_of(folder: &Path, id: &str) -> PathBuf {
    folder.join(format!("{id}.json"))
}

fn day(text: &str) -> Result<Date> {
    Date::parse_iso(text).context("a date is written 2026-11-23")
}
