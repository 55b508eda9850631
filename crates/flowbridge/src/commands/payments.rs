//! `flowbridge payments`: submit files, list, show, watch, cancel.

use super::{AsClient, say};
use crate::client::{ApiClient, new_key};
use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Subcommand};
use flowbridge_bank::iso20022::{PaymentInstruction, read_pain001};
use flowbridge_domain::money::{Currency, Money};
use flowbridge_security::sha256;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// How often a payment that is followed is looked at.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);
/// Payments posted at the same time.
const POSTS_MAX: usize = 16;

#[derive(Debug, Subcommand)]
pub(crate) enum PaymentsCommand {
    /// Post every payment of a pain.001 file or of JSON lines, follow them to their end, print a table
    Submit(SubmitArgs),
    /// List payments, newest first
    List(ListArgs),
    /// Show everything that happened to a payment
    Show(OnePayment),
    /// Follow a payment to its end
    Watch(OnePayment),
    /// Ask for a payment to be undone
    Cancel(OnePayment),
    /// Decide on a payment under review: one operator proposes, another confirms
    #[command(subcommand)]
    Review(ReviewCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReviewCommand {
    /// Propose what to do
    Propose(ProposeArgs),
    /// Confirm what another operator proposed: it is carried out
    Confirm(AnswerArgs),
    /// Reject what was proposed
    Reject(AnswerArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ProposeArgs {
    /// The payment's id
    id: String,
    /// Go on from where it stands; undo it; or count it as completed or failed, because it was dealt with by hand
    #[arg(value_parser = ["resume", "cancel", "close_completed", "close_failed"])]
    decision: String,
    /// Why, for those who read it later
    #[arg(long)]
    note: String,
    #[command(flatten)]
    client: AsClient,
}

#[derive(Debug, Args)]
pub(crate) struct AnswerArgs {
    /// The payment's id
    id: String,
    /// The proposal's id
    review: String,
    #[command(flatten)]
    client: AsClient,
}

#[derive(Debug, Args)]
pub(crate) struct SubmitArgs {
    /// The file; .jsonl holds one request body of POST /v1/payments a line
    file: PathBuf,
    /// Submit although the file does not contain what its totals say
    #[arg(long)]
    ignore_totals: bool,
    #[command(flatten)]
    client: AsClient,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// How many, 1 to 100
    #[arg(long, default_value_t = 25)]
    limit: u8,
    /// Only those in this state
    #[arg(long)]
    state: Option<String>,
    #[command(flatten)]
    client: AsClient,
}

#[derive(Debug, Args)]
pub(crate) struct OnePayment {
    /// The payment's id
    id: String,
    #[command(flatten)]
    client: AsClient,
}

pub(super) async fn run(command: PaymentsCommand) -> Result<ExitCode> {
    match command {
        PaymentsCommand::Submit(args) => submit(args).await,
        PaymentsCommand::List(args) => list(args).await,
        PaymentsCommand::Show(one) => {
            show(&one.client.sign_in()?, &one.id).await?;
            Ok(ExitCode::SUCCESS)
        }
        PaymentsCommand::Watch(one) => {
            let client = one.client.sign_in()?;
            let ended = follow(&client, &one.id).await?;
            show(&client, &one.id).await?;
            Ok(if text(&ended, "state") == "completed" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        PaymentsCommand::Cancel(one) => {
            let path = format!("/v1/payments/{}/cancel", one.id);
            let answer =
                one.client.sign_in()?.call("POST", &path, None, Some(&new_key())).await?.success()?;
            say(format_args!("{} is {}", one.id, state(&answer)));
            Ok(ExitCode::SUCCESS)
        }
        PaymentsCommand::Review(command) => review(command).await,
    }
}

async fn review(command: ReviewCommand) -> Result<ExitCode> {
    match command {
        ReviewCommand::Propose(args) => {
            let path = format!("/v1/payments/{}/reviews", args.id);
            let body = json!({ "decision": args.decision, "note": args.note });
            let client = args.client.sign_in()?;
            let made = client.call("POST", &path, Some(&body), Some(&new_key())).await?.success()?;
            say(format_args!(
                "{} is proposed; another operator confirms it:\n  flowbridge payments review confirm {} {} --client CLIENT",
                text(&made, "id"),
                args.id,
                text(&made, "id")
            ));
        }
        ReviewCommand::Confirm(args) => {
            answer_review(&args, "confirm").await?;
            let payment = args.client.sign_in()?.get(&format!("/v1/payments/{}", args.id)).await?;
            say(format_args!("{} is {}", args.id, state(&payment)));
        }
        ReviewCommand::Reject(args) => {
            answer_review(&args, "reject").await?;
            say(format_args!("{} is rejected; nothing was done", args.review));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn answer_review(args: &AnswerArgs, verdict: &str) -> Result<()> {
    let path = format!("/v1/payments/{}/reviews/{}/{verdict}", args.id, args.review);
    args.client.sign_in()?.call("POST", &path, None, Some(&new_key())).await?.success().map(drop)
}

// ---------------------------------------------------------------------------------------------------------------- submit

/// A payment of a file: where it stands, and what to post or why not.
struct Entry {
    place: String,
    note: Option<String>,
    request: Result<Value, String>,
}

async fn submit(args: SubmitArgs) -> Result<ExitCode> {
    let bytes = std::fs::read(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?;
    let is_lines = args.file.extension().is_some_and(|extension| extension == "jsonl");
    let entries = if is_lines { read_lines(&bytes)? } else { read_file(&bytes, args.ignore_totals)? };
    ensure!(!entries.is_empty(), "{} contains no payments", args.file.display());
    let client = args.client.sign_in()?;
    client.token().await?;
    let bar = ProgressBar::new(entries.len() as u64);
    bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} payments, {elapsed}")?);
    // The same file again is the same payments again: keys follow from its content and the place.
    let file_digest: String = sha256(&bytes).iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    let mut rows = Vec::with_capacity(entries.len());
    for slice in entries.chunks(POSTS_MAX) {
        let outcomes = futures_util::future::join_all(slice.iter().map(|entry| {
            let (client, bar) = (&client, &bar);
            let key = format!("{file_digest}-{}", entry.place.replace(' ', ""));
            async move {
                let outcome = submit_one(client, entry, &key).await;
                bar.inc(1);
                outcome
            }
        }));
        rows.extend(slice.iter().zip(outcomes.await));
    }
    bar.finish_and_clear();
    let mut all_completed = true;
    say(format_args!("{:<28} {:<32} {:<14} {}", "place", "payment", "amount", "outcome"));
    for (entry, outcome) in rows {
        let note = entry.note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
        let is_completed = |payment: &Value| text(payment, "state") == "completed";
        all_completed &= matches!(&outcome, Submitted::Stands(payment) if is_completed(payment));
        let (payment, end) = match outcome {
            Submitted::Stands(payment) => {
                let end = format!("{}{note}", state(&payment));
                (Some(payment), end)
            }
            Submitted::Accepted(payment, why) => {
                (Some(payment), format!("accepted; how it went on could not be read: {why}"))
            }
            Submitted::Refused(why) => (None, format!("refused: {why}")),
            Submitted::Unknown(why) => {
                (None, format!("not known: {why}. Give the same file again: it pays nothing twice"))
            }
        };
        let id = payment.as_ref().map_or("-", |payment| text(payment, "id"));
        let amount = payment.as_ref().map_or_else(|| "-".to_owned(), amount);
        say(format_args!("{:<28} {id:<32} {amount:<14} {end}", entry.place));
    }
    Ok(if all_completed { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

/// What became of a payment of a file.
enum Submitted {
    /// It was accepted, and stands like this.
    Stands(Value),
    /// It was accepted, and could not be followed.
    Accepted(Value, String),
    /// It was not accepted.
    Refused(String),
    /// Nobody said whether it was.
    Unknown(String),
}

async fn submit_one(client: &ApiClient, entry: &Entry, key: &str) -> Submitted {
    let request = match &entry.request {
        Ok(request) => request,
        Err(why) => return Submitted::Refused(why.clone()),
    };
    let answer = match client.call("POST", "/v1/payments", Some(request), Some(key)).await {
        Ok(answer) => answer,
        Err(error) => return Submitted::Unknown(format!("{error:#}")),
    };
    let code = answer.body.get("code").and_then(Value::as_str);
    if answer.status >= 500 || code == Some("request_in_progress") {
        return Submitted::Unknown(answer.problem());
    }
    if answer.status != 201 {
        let reason = match code {
            Some("debtor_account_unknown") => "AC02 ",
            Some("creditor_account_unknown") => "AC03 ",
            Some("account_closed") => "AC04 ",
            Some("currency_mismatch") => "AM03 ",
            Some("end_to_end_id_used") => "AM05 ",
            Some("insufficient_funds") => "AM04 ",
            _ => "",
        };
        return Submitted::Refused(format!("{reason}{}", answer.problem()));
    }
    // A payment of a future day waits for it; nobody waits with it.
    let later = request
        .get("requested_execution_date")
        .and_then(Value::as_str)
        .is_some_and(|date| date > today().as_str());
    if later {
        return Submitted::Stands(answer.body);
    }
    match follow(client, text(&answer.body, "id")).await {
        Ok(payment) => Submitted::Stands(payment),
        Err(error) => Submitted::Accepted(answer.body, format!("{error:#}")),
    }
}

fn read_lines(bytes: &[u8]) -> Result<Vec<Entry>> {
    let content = std::str::from_utf8(bytes).context("the file is not UTF-8")?;
    let lines = content.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    Ok(lines
        .map(|(number, line)| Entry {
            place: format!("line {}", number + 1),
            note: None,
            request: serde_json::from_str(line).map_err(|error| format!("not JSON: {error}")),
        })
        .collect())
}

fn read_file(bytes: &[u8], ignore_totals: bool) -> Result<Vec<Entry>> {
    let file = read_pain001(bytes)?;
    let disagreements = file.disagreements();
    if !disagreements.is_empty() && !ignore_totals {
        bail!(
            "the file is not what its totals say, so nothing of it was sent:\n  {}\n--ignore-totals sends it all the same",
            disagreements.join("\n  ")
        );
    }
    let today = today();
    Ok(file
        .entries
        .into_iter()
        .map(|entry| match entry {
            Ok(instruction) => {
                let date = instruction.requested_execution_on.to_string();
                let note = match date.as_str().cmp(today.as_str()) {
                    std::cmp::Ordering::Less => Some(format!("asked for {date}, runs today")),
                    std::cmp::Ordering::Equal => None,
                    std::cmp::Ordering::Greater => Some(format!("waits for {date}")),
                };
                Entry { place: instruction.place.clone(), note, request: Ok(request(&instruction, &date)) }
            }
            Err(refused) => Entry {
                place: refused.place.clone(),
                note: None,
                request: Err(format!("{} {}", refused.reason, refused.text)),
            },
        })
        .collect())
}

fn request(instruction: &PaymentInstruction, date: &str) -> Value {
    let amount = i64::try_from(instruction.instructed_amount.minor_units()).unwrap_or(i64::MAX);
    let mut request = json!({
        "debtor": { "iban": instruction.debtor.account.as_str() },
        "creditor": { "iban": instruction.creditor.account.as_str() },
        "instructed_amount": { "amount": amount, "currency": instruction.instructed_amount.currency().code() },
        "requested_execution_date": date,
    });
    if instruction.end_to_end_id != "NOTPROVIDED" {
        request["end_to_end_id"] = json!(instruction.end_to_end_id);
    }
    if let Some(uetr) = &instruction.uetr {
        request["uetr"] = json!(uetr.to_string());
    }
    if let Some(remittance) = &instruction.remittance_information {
        let remittance: String = remittance.reveal().chars().take(140).collect();
        request["remittance_information"] = json!(remittance);
    }
    request
}

fn today() -> String {
    use flowbridge_domain::time::Clock as _;
    super::at(crate::clock::SystemClock.now()).chars().take(10).collect()
}

// ---------------------------------------------------------------------------------------------------------------- reading

/// Waits until a payment has ended or needs a person.
pub(crate) async fn follow(client: &ApiClient, id: &str) -> Result<Value> {
    loop {
        let payment = client.get(&format!("/v1/payments/{id}")).await?;
        if matches!(text(&payment, "state"), "completed" | "failed" | "under_review") {
            return Ok(payment);
        }
        tokio::time::sleep(FOLLOW_INTERVAL).await;
    }
}

async fn list(args: ListArgs) -> Result<ExitCode> {
    let mut path = format!("/v1/payments?limit={}", args.limit);
    if let Some(state) = &args.state {
        path.push_str(&format!("&state={state}"));
    }
    let page = args.client.sign_in()?.get(&path).await?;
    for payment in page.get("data").and_then(Value::as_array).into_iter().flatten() {
        say(format_args!(
            "{}  {:<32} {:<10} {:>16}  {:<20} {}",
            text(payment, "accepted_at"),
            text(payment, "id"),
            text(payment, "kind"),
            amount(payment),
            text(payment, "end_to_end_id"),
            state(payment)
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints everything that happened to a payment, in the order in which it did.
pub(crate) async fn show(client: &ApiClient, id: &str) -> Result<()> {
    let timeline = client.get(&format!("/v1/payments/{id}/timeline")).await?;
    let payment = timeline.get("payment").cloned().unwrap_or_default();
    say(format_args!("{id}  {}  {}", amount(&payment), state(&payment)));
    if let Some(client) = timeline.get("client_id").and_then(Value::as_str) {
        say(format_args!("  asked for by {client}"));
    }
    let mut lines: Vec<(String, String)> = Vec::new();
    for event in list_of(&timeline, "events") {
        let details: Vec<String> =
            ["reason", "reason_code", "bank", "step", "reference", "block_number", "tx_hash"]
                .iter()
                .filter_map(|name| {
                    let value = event.get(*name)?;
                    Some(format!(
                        "{name} {}",
                        value.as_str().map_or_else(|| value.to_string(), str::to_owned)
                    ))
                })
                .collect();
        lines.push((
            text(event, "at").to_owned(),
            format!("{:<26} {}", text(event, "event"), details.join(", ")),
        ));
    }
    for entry in list_of(&timeline, "journal_entries") {
        let legs = format!(
            "  ledger: {:<16} debit {}, credit {}: {}",
            text(entry, "moment"),
            text(entry, "debit"),
            text(entry, "credit"),
            money(entry)
        );
        lines.push((text(entry, "at").to_owned(), legs));
    }
    for effect in list_of(&timeline, "effects") {
        let attempts = effect.get("attempts").and_then(Value::as_i64).unwrap_or_default();
        let known = [("reference", text(effect, "reference")), ("outcome", text(effect, "outcome"))];
        let known = known.into_iter().filter(|(_, what)| !what.is_empty());
        let known: String = known.map(|(name, what)| format!(", {name} {what}")).collect();
        let line = format!(
            "  asked: {:<17} {}, attempts {attempts}{known}",
            text(effect, "effect"),
            text(effect, "state")
        );
        lines.push((text(effect, "since").to_owned(), line));
    }
    for sent in list_of(&timeline, "chain_transactions") {
        let block = sent.get("block_number").and_then(Value::as_i64);
        let block = block.map(|number| format!(" in block {number}")).unwrap_or_default();
        let batch = sent.pointer("/l1/batch").and_then(Value::as_i64);
        let batch = batch.map(|number| format!(" (L1 batch {number})")).unwrap_or_default();
        let far = if text(sent, "finality").is_empty() { "state" } else { "finality" };
        let line = format!(
            "  chain: {:<17} {}{block}{batch}, {}",
            text(sent, "purpose"),
            text(sent, "tx_hash"),
            text(sent, far)
        );
        lines.push((text(sent, "at").to_owned(), line));
    }
    for delivery in list_of(&timeline, "webhook_deliveries") {
        let attempts = delivery.get("attempts").and_then(Value::as_i64).unwrap_or_default();
        let (event, endpoint, state) =
            (text(delivery, "event"), text(delivery, "endpoint_id"), text(delivery, "state"));
        let line = format!("  webhook: {event:<19} to {endpoint}: {state}, attempts {attempts}");
        lines.push((text(delivery, "since").to_owned(), line));
    }
    for review in list_of(&timeline, "reviews") {
        let proposal = format!(
            "  review {}: {} proposes {}",
            text(review, "id"),
            text(review, "proposed_by"),
            text(review, "decision")
        );
        lines.push((text(review, "proposed_at").to_owned(), format!("{proposal}: {}", text(review, "note"))));
        if let Some(by) = review.get("answered_by").and_then(Value::as_str) {
            let answer = format!("  review {}: {} by {by}", text(review, "id"), text(review, "state"));
            lines.push((text(review, "answered_at").to_owned(), answer));
        }
    }
    lines.sort_by(|one, other| one.0.cmp(&other.0));
    for (at, line) in lines {
        say(format_args!("  {at}  {}", line.trim_end()));
    }
    Ok(())
}

fn list_of<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn state(payment: &Value) -> String {
    match payment.get("reason").and_then(Value::as_str) {
        Some(reason) => format!("{} ({reason})", text(payment, "state")),
        None => text(payment, "state").to_owned(),
    }
}

fn amount(payment: &Value) -> String {
    payment.get("instructed_amount").map(money).unwrap_or_default()
}

/// What has an `amount` in minor units and a `currency`.
fn money(value: &Value) -> String {
    let units = value.get("amount").and_then(Value::as_i64).unwrap_or_default();
    match Currency::parse(text(value, "currency")) {
        Ok(currency) => Money::new(units.into(), currency).to_string(),
        Err(_) => String::new(),
    }
}
