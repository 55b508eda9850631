//! The Standard Webhooks libraries of npm and PyPI verify deliveries that a receiver recorded, and must refuse each of them
//! once a byte of its body, its id or its secret is changed: a verifier that accepts anything proves nothing.
//!
//! The file holds JSON: `[{"secret": "whsec_…", "headers": {"webhook-id": …, …}, "body": "…"}]`. The libraries refuse time
//! stamps older than five minutes, so verify soon after recording.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::{setup, shell};

/// Verifies every delivery in `file` with both libraries.
pub(crate) fn verify(file: &Path) -> Result<()> {
    setup::peers()?;
    let file = file.canonicalize().with_context(|| format!("there is no file {}", file.display()))?;
    let file = file.display().to_string();
    shell::run(shell::command("node", &["tools/verify-webhooks.mjs", &file]))?;
    let python = shell::root().join(".tools/python/bin/python");
    shell::run(shell::command(python, &["tools/verify_webhooks.py", &file]))
}
