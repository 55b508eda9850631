//! The contracts: compiled with the pinned compiler, compared with what is committed, tested with the pinned forge.

use anyhow::Result;

use crate::{setup, shell};

/// Compiles `contracts/src` to `contracts/artifacts`.
pub(crate) fn build() -> Result<()> {
    node(&["build.cjs"])
}

/// Fails unless the committed artifacts are what the sources compile to, bit for bit.
pub(crate) fn check() -> Result<()> {
    node(&["build.cjs", "--check"])
}

/// Unit, fuzz and invariant tests, all against the committed artifacts; then what payments cost, compared with
/// `contracts/snapshots`, for which each call has to be a transaction of its own.
pub(crate) fn test() -> Result<()> {
    node(&["forge.cjs", "test", "--no-match-contract", "GasTest"])?;
    node(&["forge.cjs", "test", "--isolate", "--match-contract", "GasTest"])
}

fn node(arguments: &[&str]) -> Result<()> {
    setup::contracts()?;
    let mut command = shell::command("node", arguments);
    command.current_dir(shell::root().join("contracts"));
    shell::run(command)
}
