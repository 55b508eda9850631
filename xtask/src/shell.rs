//! Running other programs: each command is shown before it runs, reads nothing from the terminal, and its failure is ours.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// The repository's top folder.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// A command that runs in the repository's top folder.
pub(crate) fn command(program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root()).stdin(Stdio::null());
    command
}

/// Builds every program as the tests build it: alone, it would be built anew with other features of its libraries.
pub(crate) fn build_as_for_tests() -> Result<()> {
    run(cargo(&["build", "--workspace", "--bins", "--tests"]))
}

/// The cargo that started us, without what it told us about this package: build scripts that look at such variables would
/// run anew, and with them half of what we depend on, whenever one goes from `cargo xtask` to plain `cargo` and back.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), arguments);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command
}

/// Where cargo builds.
pub(crate) fn target_folder() -> Result<PathBuf> {
    let metadata = output(cargo(&["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    metadata["target_directory"].as_str().map(PathBuf::from).context("cargo metadata names no target folder")
}

/// Runs the command with its output passed through.
pub(crate) fn run(mut command: Command) -> Result<()> {
    let shown = show(&command);
    println!("    $ {shown}");
    let status = command.status().with_context(|| format!("`{shown}` cannot be run"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// Runs the command quietly and returns what it printed.
pub(crate) fn output(mut command: Command) -> Result<String> {
    let shown = show(&command);
    let output = command.output().with_context(|| format!("`{shown}` cannot be run"))?;
    if !output.status.success() {
        bail!("`{shown}` failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{shown}` printed something that is no text"))
}

/// `program` as found in `PATH`.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// The command line as one would type it: paths below the repository relative, other programs by name, a bearer token
/// left out.
fn show(command: &Command) -> String {
    let root = format!("{}/", root().display());
    let program = Path::new(command.get_program());
    let program =
        program.strip_prefix(&root).ok().or_else(|| program.file_name().map(Path::new)).unwrap_or(program);
    let mut line = program.display().to_string();
    for word in command.get_args() {
        let word = word.to_string_lossy().replace(&root, "");
        line.push(' ');
        line.push_str(if word.starts_with("Authorization:") { "Authorization:…" } else { &word });
    }
    match command.get_current_dir().map(|folder| folder.display().to_string().replace(&root, "")) {
        Some(folder) if !folder.starts_with('/') => format!("(in {folder}) {line}"),
        _ => line,
    }
}
