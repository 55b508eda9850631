//! `cargo xtask dev`: from a fresh clone to a running FlowBridge.

use std::os::unix::process::CommandExt as _;
use std::process::Stdio;

use anyhow::{Context as _, Result};

use crate::steps::Steps;
use crate::{setup, shell};

/// Sets up what is missing, builds, and becomes `flowbridge dev`, so that Ctrl-C reaches it alone.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let mut steps = Steps::default();
    steps.must("prerequisites", "install what is named, then run this again", || {
        setup::prerequisites(&setup::TO_RUN)
    })?;
    steps.must("contracts and chain node", setup::NPM_REMEDY, setup::contracts)?;
    steps.must("PostgreSQL", "install PostgreSQL 15 or newer, then run this again", setup::postgres)?;
    steps.must("build", "read the compiler's message above", || {
        println!("    the first build takes some minutes");
        shell::run(shell::cargo(&["build", "--package", "flowbridge"]))
    })?;
    drop(steps);
    let mut command = shell::command(shell::target_folder()?.join("debug/flowbridge"), &["dev"]);
    command.args(arguments).stdin(Stdio::inherit());
    // Returns only when the program could not be started.
    Err(command.exec()).context("start flowbridge")
}
