//! Models that people taught: learned from decisions, put in force by two people, gone back from.

use super::super::{database, say};
use super::threads;
use crate::clock::SystemClock;
use crate::config::Config;
use anyhow::{Context as _, Result};
use clap::Args;
use flowbridge_domain::time::Clock as _;
use flowbridge_recon::date::Date;
use flowbridge_recon::registry::Promotion;
use flowbridge_recon::{feedback, files, report, train};
use flowbridge_workers::reconciliation::learning::{self, Lessons};
use flowbridge_workers::reconciliation::models::{file_of, in_force, load, registry};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, Args)]
pub(crate) struct RetrainArgs {
    /// Learn from what people decided in the exception queue of the database that the configuration names
    #[arg(long, conflicts_with_all = ["ledger", "bank", "decisions"])]
    from_database: bool,
    /// Ledger entries, as CSV in the form that `generate` writes
    #[arg(long, value_name = "FILE", required_unless_present = "from_database")]
    ledger: Option<PathBuf>,
    /// Bank lines in the same form
    #[arg(long, value_name = "FILE", required_unless_present = "from_database")]
    bank: Option<PathBuf>,
    /// Decisions of people, one JSON object a line
    #[arg(long, value_name = "FILE", required_unless_present = "from_database")]
    decisions: Option<PathBuf>,
    /// Learn from decisions before this day, compare on those from it on
    #[arg(long, value_name = "DATE")]
    split_on: String,
    /// Where models live; the new one is put there, not in force
    #[arg(long, value_name = "DIR")]
    models: PathBuf,
}

impl RetrainArgs {
    async fn lessons(&self, config: impl Fn() -> Result<Config>) -> Result<Lessons> {
        let (Some(ledger), Some(bank), Some(decisions)) = (&self.ledger, &self.bank, &self.decisions) else {
            let config = config()?;
            let records_max = config.reconciliation()?.records_max;
            return Ok(learning::read(&database(&config)?, SystemClock.now(), records_max).await?);
        };
        let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        Ok(Lessons {
            ledger: files::read_records(read(ledger)?.as_slice()).context("the ledger")?,
            bank: files::read_records(read(bank)?.as_slice()).context("the bank lines")?,
            rulings: feedback::read(&read(decisions)?)?,
        })
    }
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

pub(super) async fn retrain(args: &RetrainArgs, config: impl Fn() -> Result<Config>) -> Result<ExitCode> {
    let Lessons { ledger, bank, rulings } = args.lessons(config).await?;
    let (champion, champion_id) = in_force(Some(&args.models))?;
    let begun = std::time::Instant::now();
    let (challenger, comparison) =
        train::retrain(&champion, &ledger, &bank, &rulings, day(&args.split_on)?, threads())?;
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
    let (model, id) = in_force(Some(&args.models))?;
    let code = if model.origin.is_of_this_code() { "this code" } else { "other code" };
    say(format!("in force: {id}, from {} decisions, made by {code}", model.origin.decisions));
    Ok(ExitCode::SUCCESS)
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

fn day(text: &str) -> Result<Date> {
    Date::parse_iso(text).context("a date is written 2026-11-23")
}
