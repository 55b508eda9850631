//! Models that people taught: learned from decisions, proposed by one operator, put in force by another.
//!
//! Learning needs no running system: what it makes is a file, and beside it what was measured. Which model is in force is decided at
//! the API by two operators who are signed in, and nowhere else.

use super::super::AsOperator;
use super::super::reconciliation::{rows, text};
use super::super::{database, say};
use super::threads;
use crate::client::new_key;
use crate::clock::SystemClock;
use crate::config::Config;
use anyhow::{Context as _, Result, ensure};
use clap::{Args, Subcommand};
use flowbridge_domain::time::Clock as _;
use flowbridge_recon::date::Date;
use flowbridge_recon::{Model, feedback, files, report, train};
use flowbridge_store::promotion;
use flowbridge_workers::reconciliation::learning::{self, Lessons};
use flowbridge_workers::reconciliation::models::{comparison_of, file_of, judging, load};
use serde::Deserialize;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const MODELS: &str = "/v1/reconciliation-models";
/// Digits of a model's id that are enough to say which is meant.
const ID_DIGITS_MIN: usize = 8;

#[derive(Debug, Args)]
pub(crate) struct RetrainArgs {
    /// Learn from what people decided in the exception queue of the database that the configuration names
    #[arg(long, conflicts_with_all = ["ledger", "bank", "decisions", "champion"])]
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
    /// The model that the new one follows and is compared with, where no database says which is in force; without it the one that
    /// is shipped
    #[arg(long, value_name = "FILE")]
    champion: Option<PathBuf>,
    /// Learn from decisions before this day, compare on those from it on
    #[arg(long, value_name = "DATE")]
    split_on: String,
    /// Where models live; the new one is put there, not in force
    #[arg(long, value_name = "DIR")]
    models: PathBuf,
}

impl RetrainArgs {
    /// What there is to learn, and the model that the new one is compared with, by its id.
    async fn lessons(&self, config: impl Fn() -> Result<Config>) -> Result<(Lessons, Model, String)> {
        let (Some(ledger), Some(bank), Some(decisions)) = (&self.ledger, &self.bank, &self.decisions) else {
            let config = config()?;
            let db = database(&config)?;
            let champion = judging(Some(&self.models), &promotion::promoted(&db).await?)?;
            if let Some((id, why)) = champion.passed_over.into_iter().next() {
                return Err(why).with_context(|| format!("the model in force is {id}"));
            }
            let records_max = config.reconciliation()?.records_max;
            let lessons = learning::read(&db, SystemClock.now(), records_max).await?;
            return Ok((lessons, champion.model, champion.sha256));
        };
        let lessons = Lessons {
            ledger: files::read_records(read(ledger)?.as_slice()).context("the ledger")?,
            bank: files::read_records(read(bank)?.as_slice()).context("the bank lines")?,
            rulings: feedback::read(&read(decisions)?)?,
        };
        let (champion, id) = super::model(self.champion.as_deref())?;
        Ok((lessons, champion, id))
    }
}

/// Which model is in force: shown, proposed, decided by a second person.
#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// Show which model is in force, and what was proposed and decided, newest first
    List(AsOperator),
    /// Propose that a model come into force: a new one, or one that was in force before
    Propose(ProposeArgs),
    /// Confirm what another operator has proposed: the model judges from the next run on
    Confirm(AnswerArgs),
    /// Refuse what was proposed: the model in force stays
    Refuse(AnswerArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ProposeArgs {
    /// The model's id
    model: String,
    /// Where the new model lies, and beside it what was measured; without it the model is one that was in force before
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
    /// Why, for those who read it later
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    client: AsOperator,
}

#[derive(Debug, Args)]
pub(crate) struct AnswerArgs {
    /// The model's id, or its beginning
    model: String,
    #[command(flatten)]
    client: AsOperator,
}

/// What `retrain` measured of a new model, as it lies beside it.
#[derive(Debug, Deserialize)]
struct Measured {
    champion: String,
    comparison: Value,
}

pub(super) async fn retrain(args: &RetrainArgs, config: impl Fn() -> Result<Config>) -> Result<ExitCode> {
    let (Lessons { ledger, bank, rulings }, champion, champion_id) = args.lessons(config).await?;
    let begun = std::time::Instant::now();
    let (challenger, comparison) =
        train::retrain(&champion, &ledger, &bank, &rulings, day(&args.split_on)?, threads())?;
    let bytes = challenger.to_file()?;
    let id = report::sha256(&bytes);
    fs::create_dir_all(&args.models)?;
    super::replace(&file_of(&args.models, &id), &bytes)?;
    let measured = json!({ "model": id, "champion": champion_id, "comparison": comparison });
    super::replace(&comparison_of(&args.models, &id), &serde_json::to_vec_pretty(&measured)?)?;
    say(serde_json::to_string_pretty(&json!({
        "champion": champion_id,
        "challenger": id,
        "seconds": begun.elapsed().as_secs_f64(),
        "comparison": comparison,
    }))?);
    say(if comparison.is_better {
        format!(
            "better; propose it, and another operator confirms: flowbridge recon models propose {id} --models {} --reason TEXT",
            args.models.display()
        )
    } else {
        "not better; the model in force stays".to_owned()
    });
    Ok(ExitCode::SUCCESS)
}

/// Runs a command.
pub(super) async fn run(command: ModelsCommand) -> Result<ExitCode> {
    match command {
        ModelsCommand::List(client) => {
            let page = client.sign_in()?.get(&newest()).await?;
            say(format_args!("in force: {}", text(&page, "in_force")));
            rows(&page).for_each(|proposal| say(proposal_line(proposal)));
        }
        ModelsCommand::Propose(args) => say(proposal_line(&propose(&args).await?)),
        ModelsCommand::Confirm(args) => say(proposal_line(&answer(&args, "confirm").await?)),
        ModelsCommand::Refuse(args) => say(proposal_line(&answer(&args, "reject").await?)),
    }
    Ok(ExitCode::SUCCESS)
}

async fn propose(args: &ProposeArgs) -> Result<Value> {
    let client = args.client.sign_in()?;
    let mut body = json!({ "reason": args.reason });
    match &args.models {
        Some(folder) => {
            load(Some(folder), &args.model)?;
            let path = comparison_of(folder, &args.model);
            let measured: Measured = serde_json::from_slice(&read(&path)?)
                .with_context(|| format!("{} is no comparison", path.display()))?;
            body["champion"] = json!(measured.champion);
            body["comparison"] = measured.comparison;
        }
        None => body["champion"] = json!(text(&client.get(MODELS).await?, "in_force")),
    }
    let path = format!("{MODELS}/{}/proposals", args.model);
    client.call("POST", &path, Some(&body), Some(&new_key())).await?.success()
}

async fn answer(args: &AnswerArgs, verdict: &str) -> Result<Value> {
    ensure!(args.model.len() >= ID_DIGITS_MIN, "say which model: {ID_DIGITS_MIN} digits of its id at least");
    let client = args.client.sign_in()?;
    let page = client.get(&newest()).await?;
    let is_meant = |proposal: &&Value| {
        text(proposal, "state") == "proposed" && text(proposal, "model").starts_with(&args.model)
    };
    let open = rows(&page).find(is_meant).context("nobody has proposed that model: `recon models list`")?;
    let path = format!("{MODELS}/{}/proposals/{}/{verdict}", text(open, "model"), text(open, "id"));
    client.call("POST", &path, None, Some(&new_key())).await?.success()
}

/// The newest proposals; one that waits for its answer is among them.
fn newest() -> String {
    format!("{MODELS}?limit=100")
}

fn proposal_line(proposal: &Value) -> String {
    let mut line = format!(
        "{}  {:<9}  {}  above {:.12}  proposed by {} at {}",
        text(proposal, "id"),
        text(proposal, "state"),
        text(proposal, "model"),
        text(proposal, "champion"),
        text(proposal, "proposed_by"),
        text(proposal, "proposed_at"),
    );
    if !text(proposal, "answered_by").is_empty() {
        let (by, at) = (text(proposal, "answered_by"), text(proposal, "answered_at"));
        line.push_str(&format!(", {} by {by} at {at}", text(proposal, "state")));
    }
    line.push_str(&format!(": {}", text(proposal, "reason").escape_debug()));
    if let Some(comparison) = proposal.get("comparison").filter(|comparison| comparison.is_object()) {
        let percent = |of: &str, what: &str| {
            let share = comparison[of][what].as_f64();
            share.map_or_else(|| "?".to_owned(), |share| format!("{:.2} %", share * 100.0))
        };
        line.push_str(&format!(
            "\n    on {} pairs posts {} instead of {}, of these right {} (at least {}) instead of {}",
            comparison["judged"],
            percent("challenger", "coverage"),
            percent("champion", "coverage"),
            percent("challenger", "precision"),
            percent("challenger", "precision_down"),
            percent("champion", "precision"),
        ));
    }
    line
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn day(text: &str) -> Result<Date> {
    Date::parse_iso(text).context("a date is written 2026-11-23")
}
