//! `flowbridge events`: the log, as it is read and as it is replayed.

use super::{at, say};
use crate::commands::stop_signal;
use anyhow::{Context as _, Result};
use clap::{ArgGroup, Args, Subcommand};
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::time::Timestamp;
use flowbridge_store::Db;
use flowbridge_store::event_log::{self, Offset, ReplayFrom, topic};
use std::process::ExitCode;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub(crate) enum EventsCommand {
    /// Print events as they are appended, one line of JSON each
    Tail(TailArgs),
    /// Set a group of readers back; it reads again from there, and what it has done before changes nothing
    Replay(ReplayArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// Only this topic
    #[arg(long, value_parser = topic::ALL)]
    topic: Option<String>,
    /// Begin after this offset instead of at the end; 0-0 is the beginning
    #[arg(long, value_name = "OFFSET")]
    after: Option<String>,
    /// Stop at the end instead of waiting for more
    #[arg(long)]
    no_follow: bool,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("from").required(true)))]
pub(crate) struct ReplayArgs {
    /// The group: orchestrator, webhooks, webhooks_operator or audit
    #[arg(long)]
    group: String,
    /// Begin again just after this offset
    #[arg(long, group = "from", value_name = "OFFSET")]
    after: Option<String>,
    /// Begin again with the first event recorded at or after this instant (RFC 3339)
    #[arg(long, group = "from", value_name = "INSTANT")]
    time: Option<String>,
    /// Begin again with the first event of this payment
    #[arg(long, group = "from", value_name = "PAYMENT")]
    payment: Option<String>,
}

/// Events read at a time.
const PAGE: i64 = 500;

pub(super) async fn run(command: EventsCommand, db: &Db) -> Result<ExitCode> {
    match command {
        EventsCommand::Tail(args) => tail(args, db).await?,
        EventsCommand::Replay(args) => {
            let offset =
                event_log::replay(db, &args.group, replay_from(&args)?).await?.with_context(|| {
                    format!(
                        "there is no group {}: orchestrator, webhooks, webhooks_operator or audit",
                        args.group
                    )
                })?;
            say(format_args!("{} reads again after {offset}", args.group));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn tail(args: TailArgs, db: &Db) -> Result<()> {
    let topics = args.topic.as_deref().map_or_else(|| topic::ALL.to_vec(), |one| vec![one]);
    let mut after = match args.after.as_deref() {
        Some(text) => offset(text)?,
        None if args.no_follow => Offset::START,
        None => event_log::end(db, &topics).await?,
    };
    loop {
        let page = event_log::read_all(db, &topics, after, PAGE).await?;
        for event in &page {
            after = event.offset;
            say(serde_json::json!({
                "offset": event.offset.to_string(),
                "topic": event.topic,
                "kind": event.kind,
                "payment": event.key.to_string(),
                "recorded_at": at(event.recorded_at),
                "data": event.data,
            }));
        }
        if !page.is_empty() {
            continue;
        }
        if args.no_follow {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
            () = stop_signal() => return Ok(()),
        }
    }
}

fn replay_from(args: &ReplayArgs) -> Result<ReplayFrom> {
    if let Some(text) = &args.after {
        return Ok(ReplayFrom::After(offset(text)?));
    }
    if let Some(text) = &args.time {
        let instant: jiff::Timestamp =
            text.parse().with_context(|| format!("{text} is no RFC 3339 instant"))?;
        return Ok(ReplayFrom::Time(Timestamp::from_micros(instant.as_microsecond())));
    }
    let payment = args.payment.as_deref().unwrap_or_default();
    Ok(ReplayFrom::Payment(PaymentId::parse(payment)?))
}

fn offset(text: &str) -> Result<Offset> {
    Offset::parse(text).with_context(|| format!("{text} is no offset: it is written like 1234-567"))
}
