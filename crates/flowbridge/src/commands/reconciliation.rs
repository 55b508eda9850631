//! `flowbridge recon` against a running system: statements in, runs, reports, the exception queue; and `flowbridge breaker`.
//!
//! All of it goes over the API, signed in as an operator.

use super::recon::ReconCommand;
use super::{AsOperator, say};
use crate::client::{ApiClient, new_key};
use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use url::form_urlencoded;

/// How often a run that is waited for is looked at, and how long it may take.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
const RUN_PATIENCE: Duration = Duration::from_secs(3600);

/// Everything under `flowbridge recon`.
#[derive(Debug, Subcommand)]
pub(crate) enum ReconGroup {
    #[command(flatten)]
    Files(ReconCommand),
    #[command(flatten)]
    Running(RunningCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum RunningCommand {
    /// Take a bank's statement into the running system
    Import(ImportArgs),
    /// List the statements that were taken in
    Statements(ListArgs),
    /// Reconcile now: one bank, the chain, or everything
    Start(StartArgs),
    /// List reconciliations
    List(ListArgs),
    /// Print the report of a reconciliation, or write it to a file
    Report(ReportArgs),
    /// List the exceptions that wait for people
    Exceptions(ExceptionsArgs),
    /// Show everything about an exception: evidence, explanation, comments, decisions, and the lines that its entry may be
    Explain(ExplainArgs),
    /// Propose what to do with an exception, or confirm or reject what another has proposed
    Decide(DecideArgs),
    /// Say who works on an exception, or comment on it
    Note(NoteArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The file as the bank gave it: camt, MT940, BAI2, OFX, or CSV with --mapping
    file: PathBuf,
    /// The bank whose statement it is
    #[arg(long, value_name = "CODE")]
    bank: String,
    /// How to read CSV, as JSON
    #[arg(long, value_name = "FILE")]
    mapping: Option<PathBuf>,
    #[command(flatten)]
    client: AsOperator,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only of this bank, or `chain:EUR`
    #[arg(long, value_name = "SCOPE")]
    scope: Option<String>,
    #[command(flatten)]
    client: AsOperator,
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// A bank's code, or `chain:EUR`; without it, everything
    #[arg(long, value_name = "SCOPE")]
    scope: Option<String>,
    /// Do not wait for the end
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    client: AsOperator,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The reconciliation; without it the newest that is done
    id: Option<String>,
    /// html, json, matches_csv, breaks_csv, pdf or camt
    #[arg(long, default_value = "json")]
    format: String,
    /// Where it goes, instead of the terminal
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    client: AsOperator,
}

#[derive(Debug, Args)]
pub(crate) struct ExceptionsArgs {
    /// Only of this bank, or `chain:EUR`
    #[arg(long, value_name = "SCOPE")]
    scope: Option<String>,
    /// open, explained, decided, or all
    #[arg(long, default_value = "open")]
    state: String,
    /// Only of this kind
    #[arg(long)]
    kind: Option<String>,
    #[command(flatten)]
    client: AsOperator,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The exception
    id: String,
    #[command(flatten)]
    client: AsOperator,
}

#[derive(Debug, Args)]
pub(crate) struct DecideArgs {
    /// The exception
    id: String,
    /// accept, reject, rematch or write_off, to propose it; confirm or refuse, to answer what another has proposed
    what: String,
    /// Why, for those who read it later; a proposal needs it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// For rematch: the record that it belongs to
    #[arg(long, value_name = "RECORD")]
    partner: Option<String>,
    #[command(flatten)]
    client: AsOperator,
}

#[derive(Debug, Args)]
pub(crate) struct NoteArgs {
    /// The exception
    id: String,
    /// Who works on it
    #[arg(long, value_name = "NAME", required_unless_present = "comment")]
    assign: Option<String>,
    /// What there is to say
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
    #[command(flatten)]
    client: AsOperator,
}

/// Runs a command.
pub(super) async fn run(command: RunningCommand) -> Result<ExitCode> {
    match command {
        RunningCommand::Import(args) => import(&args).await?,
        RunningCommand::Statements(args) => statements(&args).await?,
        RunningCommand::Start(args) => return start(&args).await,
        RunningCommand::List(args) => list(&args).await?,
        RunningCommand::Report(args) => report(&args).await?,
        RunningCommand::Exceptions(args) => exceptions(&args).await?,
        RunningCommand::Explain(args) => explain(&args).await?,
        RunningCommand::Decide(args) => decide(&args).await?,
        RunningCommand::Note(args) => note(&args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn import(args: &ImportArgs) -> Result<()> {
    let file = std::fs::read(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?;
    let mapping = match &args.mapping {
        Some(path) => {
            Some(std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?)
        }
        None => None,
    };
    let name = args.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("bank", &args.bank).append_pair("name", &name);
    if let Some(mapping) = &mapping {
        query.append_pair("mapping", mapping);
    }
    let path = format!("/v1/statements?{}", query.finish());
    let taken = args.client.sign_in()?.upload(&path, file).await?.success()?;
    if taken.get("repeat") == Some(&Value::Bool(true)) {
        say("the same file was here; nothing changed");
    }
    for statement in rows(&taken) {
        say(statement_line(statement));
    }
    Ok(())
}

fn statement_line(statement: &Value) -> String {
    let number = |name: &str| statement.get(name).and_then(Value::as_i64).unwrap_or(0);
    let mut line = format!(
        "{}  {}  {} {}  {} lines  closing {}",
        text(statement, "id"),
        text(statement, "bank"),
        text(statement, "account"),
        text(statement, "currency"),
        number("lines"),
        statement
            .get("closing")
            .and_then(Value::as_i64)
            .map_or_else(|| "?".to_owned(), |units| units.to_string()),
    );
    if number("repeated") > 0 {
        line.push_str(&format!("  {} equal an earlier one", number("repeated")));
    }
    if number("already_held") > 0 {
        line.push_str(&format!("  {} were told before", number("already_held")));
    }
    if number("gap") != 0 {
        line.push_str(&format!("  GAP of {} to the statement before", number("gap")));
    }
    line
}

async fn statements(args: &ListArgs) -> Result<()> {
    let found = pages(&args.client.sign_in()?, "/v1/statements", &[("bank", args.scope.as_deref())]).await?;
    found.iter().for_each(|statement| say(statement_line(statement)));
    Ok(())
}

async fn start(args: &StartArgs) -> Result<ExitCode> {
    let client = args.client.sign_in()?;
    let body = match &args.scope {
        Some(scope) => json!({ "scope": scope }),
        None => json!({}),
    };
    let asked = client.call("POST", "/v1/reconciliations", Some(&body), Some(&new_key())).await?.success()?;
    let ids: Vec<String> = rows(&asked).map(|run| text(run, "id").to_owned()).collect();
    if args.no_wait {
        ids.iter().for_each(say);
        return Ok(ExitCode::SUCCESS);
    }
    let mut all_done = true;
    for id in &ids {
        let run = tokio::time::timeout(RUN_PATIENCE, follow(&client, id))
            .await
            .context("the run takes too long")??;
        say(run_line(&run));
        all_done &= text(&run, "state") == "done";
    }
    Ok(if all_done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn follow(client: &ApiClient, id: &str) -> Result<Value> {
    loop {
        let run = client.get(&format!("/v1/reconciliations/{id}")).await?;
        if matches!(text(&run, "state"), "done" | "failed") {
            return Ok(run);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn run_line(run: &Value) -> String {
    let mut line = format!(
        "{}  {}  {}  {:<9}  {}",
        text(run, "id"),
        text(run, "day"),
        text(run, "scope"),
        text(run, "kind"),
        text(run, "state")
    );
    let Some(summary) = run.get("summary").filter(|summary| !summary.is_null()) else {
        line.push_str(&format!("  {}", text(run, "stage")));
        if let Some(cause) = run.get("cause").and_then(Value::as_str) {
            line.push_str(&format!(": {cause}"));
        }
        return line;
    };
    let number = |name: &str| summary.get(name).and_then(Value::as_i64).unwrap_or(0);
    line.push_str(&format!(
        "  {} matched, {} in transit, {} under way",
        number("matched"),
        number("in_transit"),
        number("under_way")
    ));
    let breaks = summary.get("breaks").and_then(Value::as_object);
    for (kind, count) in breaks.into_iter().flatten() {
        line.push_str(&format!(", {count} {kind}"));
    }
    for balance in summary.get("balance").and_then(Value::as_array).into_iter().flatten() {
        let units = |name: &str| {
            let told = balance.get(name).and_then(Value::as_i64);
            told.map_or_else(|| "not told".to_owned(), |units| units.to_string())
        };
        line.push_str(&format!(
            "\n    {}: ledger {}, statement {}, unexplained {}",
            text(balance, "currency"),
            units("ledger"),
            units("statement"),
            units("unexplained")
        ));
    }
    for at in summary.get("proofs").and_then(Value::as_array).into_iter().flatten() {
        let units = |name: &str| at.get(name).and_then(Value::as_i64).unwrap_or(0);
        if units("unexplained") != 0 {
            line.push_str(&format!(
                "\n    {} at {}, {}: ledger {}, statement {}, unexplained {}",
                text(at, "currency"),
                text(at, "as_of"),
                text(at, "statement"),
                units("ledger"),
                units("closing"),
                units("unexplained")
            ));
        }
    }
    line
}

async fn list(args: &ListArgs) -> Result<()> {
    let found =
        pages(&args.client.sign_in()?, "/v1/reconciliations", &[("scope", args.scope.as_deref())]).await?;
    if found.is_empty() {
        say("no reconciliation yet: `flowbridge recon start`");
    }
    found.iter().for_each(|run| say(run_line(run)));
    Ok(())
}

async fn report(args: &ReportArgs) -> Result<()> {
    let client = args.client.sign_in()?;
    let id = match &args.id {
        Some(id) => id.clone(),
        None => {
            let runs = client.get("/v1/reconciliations?limit=100").await?;
            let done = rows(&runs).find(|run| text(run, "state") == "done");
            text(done.context("no reconciliation is done yet: `flowbridge recon start`")?, "id").to_owned()
        }
    };
    let body = client.download(&format!("/v1/reconciliations/{id}/report?format={}", args.format)).await?;
    match &args.out {
        Some(file) => {
            std::fs::write(file, body).with_context(|| format!("cannot write {}", file.display()))?;
            say(format_args!("{} of {id} is in {}", args.format, file.display()));
        }
        None => {
            let body = String::from_utf8(body)
                .with_context(|| format!("{} is nothing for a terminal: --out FILE", args.format))?;
            say(body);
        }
    }
    Ok(())
}

async fn exceptions(args: &ExceptionsArgs) -> Result<()> {
    let state = (args.state != "all").then_some(args.state.as_str());
    let filters = [("scope", args.scope.as_deref()), ("state", state), ("kind", args.kind.as_deref())];
    let found = pages(&args.client.sign_in()?, "/v1/exceptions", &filters).await?;
    if found.is_empty() {
        say("no exceptions");
    }
    for exception in &found {
        say(exception_line(exception));
    }
    Ok(())
}

fn exception_line(exception: &Value) -> String {
    let number = |name: &str| exception.get(name).and_then(Value::as_i64).unwrap_or(0);
    let mut line = format!(
        "{}  {:<8}  {:<20}  {:>12} {}  {} days  {}  {}",
        text(exception, "id"),
        text(exception, "scope"),
        text(exception, "kind"),
        number("amount"),
        text(exception, "currency"),
        number("age_days"),
        exception.get("assigned_to").and_then(Value::as_str).unwrap_or(text(exception, "owner")),
        text(exception, "advice"),
    );
    if let Some(entry) = exception.get("proposed_entry").filter(|entry| !entry.is_null()) {
        line.push_str(&format!(
            "  [debit {}, credit {}: {}]",
            text(entry, "debit"),
            text(entry, "credit"),
            entry.get("amount").and_then(Value::as_u64).unwrap_or(0)
        ));
    }
    line
}

async fn explain(args: &ExplainArgs) -> Result<()> {
    let found = args.client.sign_in()?.get(&format!("/v1/exceptions/{}", args.id)).await?;
    say(serde_json::to_string_pretty(&found)?);
    // Programs read JSON and nothing else.
    if std::io::stdout().is_terminal() {
        suggestion_lines(&found).iter().for_each(say);
    }
    Ok(())
}

/// The lines that the exception's entry may be, each with what takes it; nothing where none is suggested.
fn suggestion_lines(exception: &Value) -> Vec<String> {
    let suggestions: Vec<&Value> =
        exception.get("suggestions").and_then(Value::as_array).into_iter().flatten().collect();
    if suggestions.is_empty() {
        return Vec::new();
    }
    let mut lines = vec!["\nIt may be one of these lines of the statement, the likeliest first:".to_owned()];
    for suggestion in suggestions {
        let probability = suggestion.get("probability").and_then(Value::as_f64).unwrap_or_default();
        lines.push(format!(
            "  {}  {}  {:>12} {}  {}  {}  {}  {:.1} % likely",
            text(suggestion, "statement_entry"),
            text(suggestion, "booked_on"),
            amount(suggestion),
            text(suggestion, "currency"),
            // A stranger's text commands no terminal.
            text(suggestion, "bank_reference").escape_debug(),
            text(suggestion, "counterparty").escape_debug(),
            text(suggestion, "text").escape_debug(),
            // What is only likely never reads as certain.
            (probability * 1_000.0).floor() / 10.0
        ));
        lines.push(format!("    {}", how_taken(exception, suggestion)));
    }
    lines
}

/// How a person says that it is this line.
fn how_taken(exception: &Value, suggestion: &Value) -> String {
    let (id, line) = (text(exception, "id"), text(suggestion, "statement_entry"));
    let about = exception.get("about").unwrap_or(&Value::Null);
    let records = about.get("records").and_then(Value::as_array).into_iter().flatten();
    let records: Vec<&str> = records.filter_map(Value::as_str).collect();
    let difference = amount(suggestion).saturating_sub(amount(about));
    if records.contains(&line) {
        format!("flowbridge recon decide {id} accept --reason TEXT")
    } else if records.len() != 1 {
        format!("only after the pair is rejected: flowbridge recon decide {id} reject --reason TEXT")
    } else if difference != 0 {
        format!("differs from the entry by {difference}: only records worth the same belong together")
    } else {
        format!("flowbridge recon decide {id} rematch --partner {line} --reason TEXT")
    }
}

fn amount(value: &Value) -> i64 {
    value.get("amount").and_then(Value::as_i64).unwrap_or_default()
}

async fn decide(args: &DecideArgs) -> Result<()> {
    let client = args.client.sign_in()?;
    let base = format!("/v1/exceptions/{}", args.id);
    let answer = match args.what.as_str() {
        "confirm" | "refuse" => {
            let exception = client.get(&base).await?;
            let decisions = exception.get("decisions").and_then(Value::as_array).into_iter().flatten();
            let open = decisions.into_iter().find(|decision| text(decision, "state") == "proposed");
            let open =
                open.context("nothing is proposed: propose accept, reject, rematch or write_off first")?;
            let verdict = if args.what == "confirm" { "confirm" } else { "reject" };
            let path = format!("{base}/decisions/{}/{verdict}", text(open, "id"));
            client.call("POST", &path, None, Some(&new_key())).await?.success()?
        }
        decision => {
            let Some(reason) = &args.reason else { bail!("a proposal needs its reason: --reason TEXT") };
            let mut body = json!({ "decision": decision, "reason": reason });
            if let Some(partner) = &args.partner {
                body["partner"] = json!(partner);
            }
            client
                .call("POST", &format!("{base}/decisions"), Some(&body), Some(&new_key()))
                .await?
                .success()?
        }
    };
    say(format_args!(
        "{}  {}  {}, proposed by {}",
        text(&answer, "id"),
        text(&answer, "decision"),
        text(&answer, "state"),
        text(&answer, "proposed_by")
    ));
    Ok(())
}

async fn note(args: &NoteArgs) -> Result<()> {
    let client = args.client.sign_in()?;
    let base = format!("/v1/exceptions/{}", args.id);
    if let Some(to) = &args.assign {
        let body = json!({ "to": to });
        client.call("POST", &format!("{base}/assign"), Some(&body), Some(&new_key())).await?.success()?;
    }
    if let Some(comment) = &args.comment {
        let body = json!({ "text": comment });
        client.call("POST", &format!("{base}/comments"), Some(&body), Some(&new_key())).await?.success()?;
    }
    say("noted");
    Ok(())
}

#[derive(Debug, Subcommand)]
pub(crate) enum BreakerCommand {
    /// Show how it stands, and what happened to it
    Show(AsOperator),
    /// Propose that minting and payouts go on
    Reset {
        /// Why, for those who read it later
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        client: AsOperator,
    },
    /// Confirm what another operator has proposed: they go on
    Confirm(ResetAnswer),
    /// Reject what was proposed: they stay stopped
    Reject(ResetAnswer),
}

#[derive(Debug, Args)]
pub(crate) struct ResetAnswer {
    /// The proposal, `reset_proposal` of `flowbridge breaker show`
    proposal: i64,
    #[command(flatten)]
    client: AsOperator,
}

impl ResetAnswer {
    async fn send(&self, verdict: &str) -> Result<Value> {
        let path = format!("/v1/breaker/reset/{}/{verdict}", self.proposal);
        self.client.sign_in()?.call("POST", &path, None, Some(&new_key())).await?.success()
    }
}

/// Runs a command.
pub(super) async fn breaker(command: BreakerCommand) -> Result<ExitCode> {
    let answer = match command {
        BreakerCommand::Show(client) => client.sign_in()?.get("/v1/breaker").await?,
        BreakerCommand::Reset { reason, client } => {
            let body = json!({ "reason": reason });
            let client = client.sign_in()?;
            client.call("POST", "/v1/breaker/reset", Some(&body), Some(&new_key())).await?.success()?
        }
        BreakerCommand::Confirm(answer) => answer.send("confirm").await?,
        BreakerCommand::Reject(answer) => answer.send("reject").await?,
    };
    say(serde_json::to_string_pretty(&answer)?);
    Ok(ExitCode::SUCCESS)
}

pub(super) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn rows(page: &Value) -> impl Iterator<Item = &Value> {
    page.get("data").and_then(Value::as_array).into_iter().flatten()
}

/// All pages of a list.
pub(crate) async fn pages(
    client: &ApiClient,
    path: &str,
    filters: &[(&str, Option<&str>)],
) -> Result<Vec<Value>> {
    let mut found = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("limit", "100");
        query.extend_pairs(filters.iter().filter_map(|(name, value)| Some((*name, (*value)?))));
        if let Some(cursor) = &cursor {
            query.append_pair("cursor", cursor);
        }
        let page = client.get(&format!("{path}?{}", query.finish())).await?;
        found.extend(rows(&page).cloned());
        cursor = page.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
        if cursor.is_none() {
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said below each of the suggested lines of an exception about these records.
    fn taken(records: &Value, suggestions: &[(&str, i64)]) -> Vec<String> {
        let suggestions: Vec<Value> = suggestions
            .iter()
            .map(|(line, amount)| json!({ "statement_entry": line, "amount": amount, "probability": 0.9996 }))
            .collect();
        let about = json!({ "amount": -500, "records": records });
        let exception = json!({ "id": "exc_1", "state": "open", "about": about, "suggestions": suggestions });
        let lines = suggestion_lines(&exception);
        let below = lines.into_iter().skip(1);
        below.collect::<Vec<_>>().chunks(2).map(|both| both[1].trim().to_owned()).collect()
    }

    #[test]
    fn a_suggestion_names_the_decision_that_takes_it() {
        assert_eq!(
            taken(&json!(["pay_1/captured/0"]), &[("sti_1", -500), ("sti_2", -497)]),
            [
                "flowbridge recon decide exc_1 rematch --partner sti_1 --reason TEXT",
                "differs from the entry by 3: only records worth the same belong together",
            ]
        );
        assert_eq!(
            taken(&json!(["pay_1/captured/0", "sti_1"]), &[("sti_1", -500), ("sti_2", -500)]),
            [
                "flowbridge recon decide exc_1 accept --reason TEXT",
                "only after the pair is rejected: flowbridge recon decide exc_1 reject --reason TEXT",
            ]
        );
        assert!(suggestion_lines(&json!({ "suggestions": [] })).is_empty());
    }
}
