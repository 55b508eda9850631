//! FlowBridge: every tier of a payment system as roles of one program.

mod allocator;
mod audit;
mod bench;
mod chain;
mod client;
mod clock;
mod commands;
mod config;
mod dev;
mod gateway;
mod observability;
mod proof;
mod roles;

use clap::Parser as _;
use std::process::ExitCode;
use std::time::Duration;

/// How long what blocks may go on when everything else has ended.
const BLOCKED_MAX: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let cli = commands::Cli::parse();
    if cli.is_about_files() {
        allocator::keep_nothing();
    }
    flowbridge_embedded::allow_open_files();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let outcome = runtime.block_on(commands::run(cli));
    // What blocks (a signer that hangs, an engine at work) is waited for by nobody any more.
    runtime.shutdown_timeout(BLOCKED_MAX);
    match outcome {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

/// Says what went wrong, from the outside in, and gives the exit code.
#[expect(clippy::print_stderr, reason = "a command's errors go to the terminal")]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("flowbridge: {error:#}");
    ExitCode::FAILURE
}
