//! `cargo xtask storm`: builds the program and the storm, and lets the storm loose on it.

use anyhow::Result;

use crate::shell;

/// A short storm for the test command: enough faults to meet each kind, always the same ones, and an end on the slowest machine.
const SHORT: [&str; 8] = ["--seed", "20261123", "--faults", "60", "--rate", "20", "--at-most", "20m"];

/// With arguments of the storm's own, such as `--seed 7 --faults 1000 --duration 60m --rate 140`. `--release` tries an
/// optimised build; a storm of minutes or hours (`--duration` with m or h) always does.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let is_long = arguments.windows(2).any(|pair| pair[0] == "--duration" && pair[1].ends_with(['m', 'h']));
    let is_release = is_long || arguments.contains(&"--release");
    if is_release {
        let package = ["build", "--package", "flowbridge", "--package", "flowbridge-storm"];
        shell::run(shell::cargo(
            &[&package[..], &["--release", "--features", "flowbridge/failpoints"]].concat(),
        ))?;
    } else {
        shell::build_as_for_tests()?;
    }
    let target = shell::target_folder()?;
    let built = target.join(if is_release { "release" } else { "debug" });
    let mut command = shell::command(built.join("flowbridge-storm"), &[]);
    command.arg("--binary").arg(built.join("flowbridge")).arg("--folder").arg(target.join("storm"));
    command.args(arguments.iter().filter(|argument| **argument != "--release"));
    shell::run(command)
}

/// The storm of the test command.
pub(crate) fn short() -> Result<()> {
    run(&SHORT)
}

/// Each fault whose name contains `only`, and what comes of it.
pub(crate) fn named(only: &str) -> Result<()> {
    run(&["--named", "--only", only])
}
