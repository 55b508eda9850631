//! `flowbridge recon`: matching of files, evaluation and measurement. Nothing here needs a database.

use super::say;
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use flowbridge_recon::evaluate;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub(crate) enum ReconCommand {
    /// Measure the engine on data whose truth is known
    Evaluate(EvaluateArgs),
}

#[derive(Debug, Args)]
pub(crate) struct EvaluateArgs {
    /// A folder with the public set's two Parquet files
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs a command.
pub(crate) fn run(command: ReconCommand) -> Result<ExitCode> {
    match command {
        ReconCommand::Evaluate(args) => evaluate(&args),
    }
}

fn evaluate(args: &EvaluateArgs) -> Result<ExitCode> {
    let Some(folder) = &args.data else { bail!("--data DIR is needed") };
    let Some(figures) = evaluate::public_set(folder, threads())? else {
        bail!("no transactions_origin.parquet and transactions_destination.parquet in {}", folder.display());
    };
    if args.json {
        say(serde_json::to_string_pretty(&figures)?);
    } else {
        say(format!("{figures:#?}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}
