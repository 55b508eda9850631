//! Spectral's OpenAPI rules over our API description. A warning fails, too.

use anyhow::Result;

use crate::{setup, shell};

/// Lints `document`, a file or a URL.
pub(crate) fn lint(document: &str) -> Result<()> {
    setup::peers()?;
    let spectral = shell::root().join("tools/node_modules/.bin/spectral");
    let arguments = ["lint", "--ruleset", "tools/spectral.yaml", "--fail-severity", "warn", document];
    shell::run(shell::command(spectral, &arguments))
}
