//! `flowbridge dlq`: events that could not be taken in, and taking them in again.

use super::{at, say};
use crate::clock::SystemClock;
use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use flowbridge_store::Db;
use flowbridge_store::event_log::{self, DeadLetter};
use flowbridge_store::wake::Wake;
use flowbridge_workers::context::Context;
use flowbridge_workers::orchestrator;
use std::process::ExitCode;
use std::sync::Arc;
use uuid::Uuid;

#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// List dead letters, oldest first
    List {
        /// Also those that have been dealt with
        #[arg(long)]
        all: bool,
    },
    /// Show one with its event
    Show(Letter),
    /// Take it in again, with all that waits behind it for the same payment
    Retry(Letter),
}

#[derive(Debug, Args)]
pub(crate) struct Letter {
    /// The letter's id
    id: Uuid,
}

const LIST_MAX: i64 = 1_000;

pub(super) async fn run(command: DlqCommand, db: &Db) -> Result<ExitCode> {
    match command {
        DlqCommand::List { all } => {
            let letters = event_log::dead_letters(db, all, None, LIST_MAX).await?;
            if letters.is_empty() {
                say("no dead letters");
            }
            for letter in letters {
                let DeadLetter { id, group, key, cause, attempts, parked_at, resolution, .. } = letter;
                let resolution = resolution.unwrap_or_else(|| "open".to_owned());
                say(format_args!(
                    "{id}  {}  {group}  {key}  {resolution}  tried {attempts}x: {cause}",
                    at(parked_at)
                ));
            }
        }
        DlqCommand::Show(Letter { id }) => {
            let letter = find(db, id).await?;
            let events = event_log::read_key(db, letter.key, LIST_MAX).await?;
            let event = events.iter().find(|event| event.id == letter.event_id);
            say(serde_json::to_string_pretty(&serde_json::json!({
                "id": letter.id.to_string(),
                "group": letter.group,
                "topic": letter.topic,
                "payment": letter.key.to_string(),
                "offset": letter.offset.to_string(),
                "cause": letter.cause,
                "attempts": letter.attempts,
                "parked_at": at(letter.parked_at),
                "resolution": letter.resolution,
                "event": event.map(|event| serde_json::json!({ "kind": event.kind, "data": event.data })),
            }))?);
        }
        DlqCommand::Retry(Letter { id }) => {
            let letter = find(db, id).await?;
            if letter.group != orchestrator::GROUP {
                bail!("letters of {} are taken in again by replaying the group", letter.group);
            }
            let context = Context {
                db: db.clone(),
                clock: Arc::new(SystemClock),
                wake: Wake::default(),
                instance: "dlq-retry".to_owned(),
            };
            let taken = orchestrator::retry_letters(db, letter.key, &context).await?;
            say(format_args!("took in {taken} events of {}", letter.key));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn find(db: &Db, id: Uuid) -> Result<DeadLetter> {
    let found = event_log::dead_letters(db, true, Some(id), 1).await?;
    found.into_iter().next().with_context(|| format!("there is no dead letter {id}"))
}
