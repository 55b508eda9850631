//! Schemathesis reads the served OpenAPI description, makes requests that fit it and requests that break it, and fails on
//! a 5xx, on an answer that is not described, and on nonsense that is accepted. The seed is fixed: a failure repeats.

use anyhow::Result;

use crate::{setup, shell};

const SEED: &str = "20261123";
const EXAMPLES_PER_OPERATION_MAX: &str = "25";
const REQUEST_TIMEOUT_SECS: &str = "30";
/// That a request which fits the description is accepted: a payment is refused for reasons no schema knows, such as an
/// account that does not exist or funds that do not suffice, so an invented request is right to be refused.
const CHECK_LEFT_OUT: &str = "positive_data_acceptance";

/// Fuzzes the API whose description is served at `url`, with `token` as bearer token.
pub(crate) fn fuzz(url: &str, token: Option<&str>) -> Result<()> {
    setup::peers()?;
    let mut command =
        shell::command(shell::root().join(".tools/python/bin/schemathesis"), &["--config-file"]);
    command.arg(shell::root().join("tools/schemathesis.toml")).args(["run", url]);
    command.args(["--seed", SEED, "--max-examples", EXAMPLES_PER_OPERATION_MAX, "--checks", "all"]);
    command.args(["--exclude-checks", CHECK_LEFT_OUT]);
    command.args(["--request-timeout", REQUEST_TIMEOUT_SECS, "--no-color"]);
    // Of several threads that parse Python at the same time, one is told of a "recursion depth mismatch" by Python 3.11 (its issue 106905).
    command.args(["--workers", "1"]);
    // It leaves notes where it runs.
    command.current_dir(shell::root().join(".tools"));
    // It would keep its examples between runs, and a repeated run would differ from a first one.
    command.arg("--generation-database=none");
    if let Some(token) = token {
        command.args(["--header", &format!("Authorization: Bearer {token}")]);
    }
    shell::run(command)
}
