//! `flowbridge dlq`: events that could not be taken in; taking them in again, and dropping what is nobody's.

use super::{at, say};
use crate::clock::SystemClock;
use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use flowbridge_store::Db;
use flowbridge_store::event_log::{self, DeadLetter};
use flowbridge_store::wake::Wake;
use flowbridge_workers::context::Context;
use flowbridge_workers::orchestrator::{self, Dropped};
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
    /// Drop it, with all that waits behind it, when it is of a payment that is not here and never will be
    Drop(DropArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DropArgs {
    #[command(flatten)]
    letter: Letter,
    /// Who drops it and why, for those who look at it later; no personal data
    #[arg(long, value_parser = reason)]
    reason: String,
}

/// Up to so many bytes.
const REASON_MAX: usize = 500;

fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() || text.len() > REASON_MAX || text.chars().any(char::is_control) {
        return Err(format!("give one line of up to {REASON_MAX} bytes"));
    }
    Ok(text.to_owned())
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
                let DeadLetter { id, group, key, cause, attempts, parked_at, resolution, reason, .. } =
                    letter;
                let resolution = match (resolution, reason) {
                    (Some(resolution), Some(reason)) => format!("{resolution} ({reason})"),
                    (Some(resolution), None) => resolution,
                    (None, _) => "open".to_owned(),
                };
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
                "reason": letter.reason,
                "event": event.map(|event| serde_json::json!({ "kind": event.kind, "data": event.data })),
            }))?);
        }
        DlqCommand::Retry(Letter { id }) => {
            let letter = find_of_orchestrator(db, id).await?;
            let taken = orchestrator::retry_letters(db, letter.key, &context(db)).await?;
            say(format_args!("took in {taken} events of {}", letter.key));
        }
        DlqCommand::Drop(DropArgs { letter: Letter { id }, reason }) => {
            let DeadLetter { key, .. } = find_of_orchestrator(db, id).await?;
            match orchestrator::drop_letters(db, key, &reason, &context(db)).await? {
                Dropped::All(0) => bail!("nothing of {key} is open: see `flowbridge dlq list --all`"),
                Dropped::All(count) => say(format_args!("dropped {count} events of {key}")),
                Dropped::IsOurs => bail!(
                    "{key} is a payment of ours, and what chain or bank said of it is not dropped: mend the cause, then \
                     `flowbridge dlq retry {id}`"
                ),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// For what a person does.
fn context(db: &Db) -> Context {
    Context {
        db: db.clone(),
        clock: Arc::new(SystemClock),
        wake: Wake::default(),
        instance: "dlq".to_owned(),
    }
}

async fn find_of_orchestrator(db: &Db, id: Uuid) -> Result<DeadLetter> {
    let letter = find(db, id).await?;
    if letter.group != orchestrator::GROUP {
        bail!("letters of {} are taken in again by replaying the group", letter.group);
    }
    Ok(letter)
}

async fn find(db: &Db, id: Uuid) -> Result<DeadLetter> {
    let found = event_log::dead_letters(db, true, Some(id), 1).await?;
    found.into_iter().next().with_context(|| format!("there is no dead letter {id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_that_says_something() {
        assert_eq!(reason(" Asha: of the test environment ").as_deref(), Ok("Asha: of the test environment"));
        for nothing in ["", "  ", "two\nlines", &"x".repeat(REASON_MAX + 1)] {
            assert!(reason(nothing).is_err(), "{nothing:?}");
        }
    }
}
