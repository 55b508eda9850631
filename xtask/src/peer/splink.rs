//! Splink, the best known open record linkage, on the same public set and the same machine as our engine.
//!
//! Both are measured in one run, one after the other; what is printed is one JSON object of each, and how they compare. The
//! comparison is printed, not judged: on a busy machine speeds mean nothing.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{setup, shell};

/// Measures both.
pub(crate) fn compare(folder: &Path) -> Result<()> {
    setup::splink()?;
    let folder = folder.canonicalize().with_context(|| format!("there is no folder {}", folder.display()))?;
    let folder = folder.display().to_string();
    shell::run(shell::command("cargo", &["build", "--release", "--bin", "flowbridge"]))?;
    let flowbridge = shell::root().join("target/release/flowbridge");
    let ours =
        last_line(&shell::output(shell::command(flowbridge, &["recon", "bench", "--data", &folder]))?)?;
    let python = shell::root().join(".tools/splink/bin/python");
    let theirs = last_line(&shell::output(shell::command(python, &["tools/splink_bench.py", &folder]))?)?;
    println!("{ours}\n{theirs}");
    let ratio = |name: &str, up: &Value, down: &Value| {
        let (up, down) = (up[name].as_f64().unwrap_or(0.0), down[name].as_f64().unwrap_or(f64::NAN));
        println!("    {name}: {:.1} to 1", up / down);
    };
    ratio("records_per_second", &ours, &theirs);
    ratio("records_per_second_predict_only", &ours, &theirs);
    ratio("memory_mb", &theirs, &ours);
    Ok(())
}

fn last_line(output: &str) -> Result<Value> {
    let line = output.lines().rfind(|line| line.starts_with('{')).context("no JSON object was printed")?;
    serde_json::from_str(line).context("the last line is no JSON object")
}
