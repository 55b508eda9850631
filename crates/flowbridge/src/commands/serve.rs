//! `flowbridge serve`: some roles, in this process, until told to stop.

use crate::config::Config;
use crate::observability;
use crate::roles::{self, Role};
use anyhow::Result;
use clap::Args;
use std::process::ExitCode;
use std::time::Duration;

/// How long roles may take to finish what they are at.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The roles, separated by commas
    #[arg(long, value_delimiter = ',', required = true, value_name = "ROLE,ROLE")]
    roles: Vec<Role>,
}

pub(super) async fn run(args: ServeArgs, config: Config) -> Result<ExitCode> {
    let observing = observability::start(&config)?;
    let running = roles::start(config, &args.roles).await?;
    tokio::select! {
        () = stop_signal() => tracing::info!("asked to stop"),
        () = running.wait_for_end() => {}
    }
    let stopped = running.stop(PATIENCE).await;
    drop(observing);
    stopped.map(|()| ExitCode::SUCCESS)
}

/// Ctrl-C, or SIGTERM.
pub(crate) async fn stop_signal() {
    let interrupt = tokio::signal::ctrl_c();
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
        }
        Err(_) => {
            // Without a handler for SIGTERM the system ends the process, and leases run out.
            let _ = interrupt.await;
        }
    }
}
