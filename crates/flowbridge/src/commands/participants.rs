//! `flowbridge participants`: who uses this system, and who may not at present.

use super::{AsClient, say};
use crate::client::new_key;
use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub(crate) enum ParticipantsCommand {
    /// List them with their status
    List(AsClient),
    /// Accept and initiate nothing of one any more; what is initiated goes on to its end
    Suspend(SuspendArgs),
    /// Let one pay and be paid again
    Activate(OneParticipant),
}

#[derive(Debug, Args)]
pub(crate) struct SuspendArgs {
    #[command(flatten)]
    participant: OneParticipant,
    /// Why; the participant sees it
    #[arg(long)]
    reason: String,
}

#[derive(Debug, Args)]
pub(crate) struct OneParticipant {
    /// The participant's id
    id: String,
    #[command(flatten)]
    client: AsClient,
}

pub(super) async fn run(command: ParticipantsCommand) -> Result<ExitCode> {
    match command {
        ParticipantsCommand::List(client) => list(&client).await?,
        ParticipantsCommand::Suspend(args) => {
            let body = json!({ "reason": args.reason });
            change(&args.participant, "suspend", Some(&body)).await?;
        }
        ParticipantsCommand::Activate(one) => change(&one, "activate", None).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(client: &AsClient) -> Result<()> {
    let client = client.sign_in()?;
    let mut cursor = String::new();
    loop {
        let page = client.get(&format!("/v1/participants?limit=100{cursor}")).await?;
        for participant in page.get("data").and_then(Value::as_array).into_iter().flatten() {
            show(participant);
        }
        match page.get("next_cursor").and_then(Value::as_str) {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(()),
        }
    }
}

async fn change(one: &OneParticipant, action: &str, body: Option<&Value>) -> Result<()> {
    let path = format!("/v1/participants/{}/{action}", one.id);
    show(&one.client.sign_in()?.call("POST", &path, body, Some(&new_key())).await?.success()?);
    Ok(())
}

fn show(participant: &Value) {
    let text = |name: &str| participant.get(name).and_then(Value::as_str).unwrap_or_default();
    let why = if text("status_reason").is_empty() {
        String::new()
    } else {
        format!(" ({})", text("status_reason"))
    };
    say(format_args!("{}  {:<10} {}{why}", text("id"), text("status"), text("name")));
}
