//! The contracts proven (halmos, on the committed bytecode) and inspected (slither).
//!
//! A `check_` function must hold for all inputs from all states. A `reach_` function is its guard: it says that what a proof
//! speaks of cannot happen, and must be refuted, or the proof would say nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{setup, shell};

/// The proofs in two halves that take about as long as each other, one for each of two processors.
const HALVES: [&str; 2] = ["PaymentsProof", "(Token|Vault|Anchor)Proof"];
/// halmos' exit codes of one function.
const HOLDS: i64 = 0;
const REFUTED: i64 = 1;
const COUNTEREXAMPLE: &str = "there is a counterexample";

/// Runs every proof and every guard.
pub(crate) fn prove() -> Result<()> {
    let folder = shell::root().join("contracts");
    setup::contracts()?;
    setup::proof_tools()?;
    // Both halves read what this compiles; each alone would compile it again.
    let arguments = ["forge.cjs", "build", "--ast", "--force", "--extra-output", "storageLayout", "metadata"];
    let mut build = shell::command("node", &arguments);
    build.current_dir(&folder).env("FOUNDRY_PROFILE", "proofs").stdout(Stdio::null());
    shell::run(build)?;
    let mut running = Vec::new();
    for (half, contracts) in HALVES.into_iter().enumerate() {
        let report = folder.join(format!("cache/proofs-{half}.json"));
        let _ = fs::remove_file(&report);
        running.push((halmos(&folder, contracts, ("^(check|reach)_", PROOF_MILLIS_MAX), &report)?, report));
    }
    let mut problems = Vec::new();
    let mut count = 0;
    for (mut child, report) in running {
        child.wait().context("wait for halmos")?;
        for (name, verdict) in verdicts(&report)? {
            count += 1;
            println!("    {} {name}", if verdict.is_none() { "ok  " } else { "FAIL" });
            problems.extend(verdict.map(|why| format!("{name}: {why}")));
        }
    }
    if !problems.is_empty() {
        bail!("{} of {count} proofs and guards failed:\n  {}", problems.len(), problems.join("\n  "));
    }
    println!("    {count} proofs and guards, all as they should be");
    Ok(())
}

/// Runs slither. A finding fails the run unless it is answered beside the code.
pub(crate) fn inspect() -> Result<()> {
    setup::contracts()?;
    setup::proof_tools()?;
    let mut slither = tool("slither", &[".", "--config-file", "slither.config.json"]);
    slither.stdout(Stdio::null());
    shell::run(slither)
}

/// The proofs among `contracts` that have a counterexample in `folder`, where something is broken. A proof without an answer
/// has noticed nothing.
pub(crate) fn refuted(folder: &Path, contracts: &str) -> Result<BTreeSet<String>> {
    let report = folder.join("report.json");
    let _ = fs::remove_file(&report);
    halmos(folder, contracts, ("^check_", REFUTATION_MILLIS_MAX), &report)?
        .wait()
        .context("wait for halmos")?;
    let refuted =
        verdicts(&report)?.into_iter().filter(|(_, verdict)| verdict.as_deref() == Some(COUNTEREXAMPLE));
    Ok(refuted.map(|(name, _)| name).collect())
}

/// A proof takes as long as it takes: this only bounds one that would never end. `refuted` looks at what is broken on purpose,
/// hundreds of times, and a counterexample comes soon or not at all.
const PROOF_MILLIS_MAX: &str = "600000";
const REFUTATION_MILLIS_MAX: &str = "60000";

fn halmos(
    folder: &Path,
    contracts: &str,
    (functions, timeout): (&str, &str),
    report: &Path,
) -> Result<Child> {
    let log = fs::File::create(report.with_extension("log")).context("keep what halmos says")?;
    let report = report.display().to_string();
    let arguments = [
        "--match-contract",
        contracts,
        "--match-test",
        functions,
        "--forge-build-out",
        "out/proofs",
        "--default-array-lengths",
        "2",
        "--loop",
        "4",
        "--solver-timeout-assertion",
        timeout,
        "--early-exit",
        "--minimal-json-output",
        "--json-output",
        &report,
    ];
    let mut command = tool("halmos", &arguments);
    // Beside the report, which says what became of each function: counterexamples and warnings.
    command.current_dir(folder).env("FOUNDRY_PROFILE", "proofs").stdout(log.try_clone()?).stderr(log);
    command.spawn().context("`halmos` cannot be run")
}

/// Each function with what is wrong with it, if anything is.
fn verdicts(report: &Path) -> Result<Vec<(String, Option<String>)>> {
    let text =
        fs::read_to_string(report).context("halmos left no report; contracts/cache/proofs-*.log says why")?;
    let found: Value = serde_json::from_str(&text).context("halmos' report is no JSON")?;
    let contracts = found["test_results"].as_object().context("halmos' report has no results")?;
    let said = fs::read_to_string(report.with_extension("log")).context("read what halmos said")?;
    let mut verdicts = Vec::new();
    for function in contracts.values().filter_map(Value::as_array).flatten() {
        let name = function["name"].as_str().unwrap_or_default().split('(').next().unwrap_or_default();
        let code = function["exitcode"].as_i64();
        let wanted = if name.starts_with("reach_") { REFUTED } else { HOLDS };
        let why = match code {
            Some(HOLDS) if cut_short(&said, name) => Some("a loop was not followed to its end".to_owned()),
            Some(code) if code == wanted => None,
            Some(HOLDS) => {
                Some("what it guards cannot be reached: a proof beside it says nothing".to_owned())
            }
            Some(REFUTED) => Some(COUNTEREXAMPLE.to_owned()),
            other => Some(format!("no answer (halmos' code {other:?}): too slow, stuck, or nothing ran")),
        };
        verdicts.push((name.to_owned(), why));
    }
    if verdicts.is_empty() {
        bail!("halmos ran nothing");
    }
    Ok(verdicts)
}

/// Whether halmos warns, in lines that it wraps, that it left paths of this function out.
fn cut_short(said: &str, function: &str) -> bool {
    said.split("WARNING").any(|warning| {
        let mut words = warning.split_whitespace();
        words.next().is_some_and(|first| first.starts_with(&format!("{function}(")))
            && words.collect::<Vec<_>>().join(" ").contains("not been fully explored")
    })
}

/// A tool of `tools/proof.txt`, in the contracts' folder, with forge in its path.
fn tool(name: &str, arguments: &[&str]) -> Command {
    let mut command = shell::command(shell::root().join(".tools/proof/bin").join(name), arguments);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = forge_folder().into_iter().chain(std::env::split_paths(&path));
    let path = std::env::join_paths(folders).unwrap_or(path.clone());
    command.current_dir(shell::root().join("contracts")).env("PATH", path);
    command
}

/// Where npm put the forge of this machine.
pub(crate) fn forge_folder() -> Option<PathBuf> {
    let scope = shell::root().join("contracts/node_modules/@foundry-rs");
    let packages = fs::read_dir(scope).ok()?.flatten().map(|package| package.path().join("bin"));
    packages.into_iter().find(|folder| folder.join("forge").is_file())
}
