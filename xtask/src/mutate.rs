//! The tests tested: the contracts are broken in small ways, one at a time, and something has to notice each.
//!
//! A mutant that does not compile, or compiles to what the original compiles to, does not count. Tests run first, because they
//! take seconds; what they let pass goes to the proofs. The result is written to `contracts/specs/MUTANTS.md`: how many of each
//! source died, who survived, and which mutants broke each property of `PROPERTIES.md`. A property that no mutant breaks fails
//! the run, and so do too many survivors.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;

use anyhow::{Context as _, Result, bail};

use crate::{proof, setup, shell};

/// Of a hundred mutants so many have to die.
const KILLED_PERCENT_MIN: usize = 95;
const WORKERS: usize = 2;
const SOURCES: [&str; 6] = [
    "AuditAnchor.sol",
    "MultiSigVault.sol",
    "Payment.sol",
    "PaymentRouter.sol",
    "SettlementManager.sol",
    "TokenizedCash.sol",
];
/// What is written, and what for it.
const SWAPS: [(&str, &str); 21] = [
    (" < ", " <= "),
    (" <= ", " < "),
    (" > ", " >= "),
    (" >= ", " > "),
    (" == ", " != "),
    (" != ", " == "),
    (" + ", " - "),
    (" - ", " + "),
    (" += ", " -= "),
    (" -= ", " += "),
    (" && ", " || "),
    (" || ", " && "),
    (" & ", " | "),
    (" >> ", " << "),
    ("true", "false"),
    ("false", "true"),
    ("++", "--"),
    (" onlySelf", ""),
    (" whenNotPaused", ""),
    (" nonReentrant", ""),
    ("(!", "("),
];

/// One way to break one line.
#[derive(Clone)]
struct Mutant {
    file: &'static str,
    line: usize,
    was: String,
    becomes: String,
}

enum Fate {
    /// Does not compile, or is no other program.
    Void,
    Killed(BTreeSet<String>),
    Survived,
}

/// Breaks the contracts in every way, or in one of `every` ways.
pub(crate) fn run(every: usize) -> Result<()> {
    setup::contracts()?;
    setup::proof_tools()?;
    let mutants: Vec<Mutant> = all()?.into_iter().step_by(every.max(1)).collect();
    let queue = Mutex::new(mutants.iter().enumerate());
    let fates = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..WORKERS)
            .map(|number| {
                let (queue, fates) = (&queue, &fates);
                scope.spawn(move || -> Result<()> {
                    let bench = Bench::new(number)?;
                    while let Some((index, mutant)) = lock(queue).next() {
                        let fate = bench.try_one(mutant)?;
                        println!("    {}", describe(mutant, &fate));
                        lock(fates).insert(index, fate);
                    }
                    Ok(())
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().unwrap_or_else(|_| bail!("a worker of the mutation run panicked"))
        })
    })?;
    let fates: Vec<Fate> = fates.into_inner().unwrap_or_default().into_values().collect();
    report(&mutants, &fates, every)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn describe(mutant: &Mutant, fate: &Fate) -> String {
    let place = format!("{}:{}", mutant.file, mutant.line);
    let change = if mutant.becomes.trim().is_empty() {
        format!("without `{}`", mutant.was.trim())
    } else {
        format!("`{}`", mutant.becomes.trim())
    };
    let fate = match fate {
        Fate::Void => "void".to_owned(),
        Fate::Survived => "SURVIVED".to_owned(),
        Fate::Killed(by) => format!("killed by {}", by.len()),
    };
    format!("{place} {change}: {fate}")
}

/// Every mutant of every source.
fn all() -> Result<Vec<Mutant>> {
    let mut mutants = Vec::new();
    for file in SOURCES {
        let text = fs::read_to_string(shell::root().join("contracts/src").join(file))
            .with_context(|| format!("read {file}"))?;
        let mut within_body = false;
        for (index, line) in text.lines().enumerate() {
            let code = line.trim_start();
            if line.starts_with("    function ") || line.starts_with("    constructor") {
                within_body = true;
            }
            if line == "    }" {
                within_body = false;
            }
            if within_body && !code.starts_with("//") {
                let of_line = of_line(line);
                mutants.extend(of_line.into_iter().map(|becomes| Mutant {
                    file,
                    line: index + 1,
                    was: line.to_owned(),
                    becomes,
                }));
            }
        }
    }
    Ok(mutants)
}

/// What may stand there instead of this line.
fn of_line(line: &str) -> Vec<String> {
    let code = line.trim();
    let mut lines: Vec<String> = Vec::new();
    for (what, instead) in SWAPS {
        for (place, _) in line.match_indices(what) {
            lines.push(format!("{}{instead}{}", &line[..place], &line[place + what.len()..]));
        }
    }
    if let Some((before, after)) = line.split_once(" onlyRole(") {
        let after = after.split_once(')').map_or("", |(_, after)| after);
        lines.push(format!("{before}{after}"));
    }
    let is_statement = code.ends_with(';') && !code.starts_with("return") && !code.starts_with('}');
    if is_statement {
        lines.push(String::new());
    }
    lines
}

/// A copy of the contracts to break.
struct Bench {
    folder: PathBuf,
    original: BTreeMap<String, String>,
}

impl Bench {
    fn new(number: usize) -> Result<Self> {
        let contracts = shell::root().join("contracts");
        let folder = shell::root().join(format!("target/mutants/{number}"));
        let _ = fs::remove_dir_all(&folder);
        for part in ["src", "test", "proofs", "broken", "artifacts"] {
            fs::create_dir_all(folder.join(part))?;
        }
        for part in ["src", "test", "proofs"] {
            for entry in fs::read_dir(contracts.join(part))?.flatten() {
                fs::copy(entry.path(), folder.join(part).join(entry.file_name()))?;
            }
        }
        for file in ["foundry.toml", "solcw.cjs", "forge.cjs"] {
            fs::copy(contracts.join(file), folder.join(file))?;
        }
        std::os::unix::fs::symlink(contracts.join("node_modules"), folder.join("node_modules"))?;
        let mut bench = Self { folder, original: BTreeMap::new() };
        bench.restore()?;
        if !bench.compile()? {
            bail!("the contracts do not compile");
        }
        bench.original = bench.artifacts()?;
        let failed = bench.failing_tests()?;
        if !failed.is_empty() {
            bail!("tests fail before anything is broken: {failed:?}");
        }
        Ok(bench)
    }

    fn try_one(&self, mutant: &Mutant) -> Result<Fate> {
        self.restore()?;
        let file = self.folder.join("broken").join(mutant.file);
        let text = fs::read_to_string(&file)?;
        let lines: Vec<&str> = text
            .lines()
            .enumerate()
            .map(|(index, line)| if index + 1 == mutant.line { mutant.becomes.as_str() } else { line })
            .collect();
        fs::write(&file, lines.join("\n"))?;
        if !self.compile()? || self.artifacts()? == self.original {
            return Ok(Fate::Void);
        }
        let mut failed = self.failing_tests()?;
        if failed.is_empty() {
            failed = proof::refuted(&self.folder)?;
        }
        Ok(if failed.is_empty() { Fate::Survived } else { Fate::Killed(failed) })
    }

    fn restore(&self) -> Result<()> {
        for file in fs::read_dir(self.folder.join("src"))?.flatten() {
            fs::copy(file.path(), self.folder.join("broken").join(file.file_name()))?;
        }
        Ok(())
    }

    fn compile(&self) -> Result<bool> {
        let (sources, artifacts) = (self.path("broken"), self.path("artifacts"));
        let mut command = shell::command("node", &["build.cjs", "--mutant", &sources, &artifacts]);
        command.current_dir(shell::root().join("contracts")).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command.status().context("node cannot be run")?.success())
    }

    fn path(&self, part: &str) -> String {
        self.folder.join(part).display().to_string()
    }

    fn artifacts(&self) -> Result<BTreeMap<String, String>> {
        fs::read_dir(self.folder.join("artifacts"))?
            .flatten()
            .map(|entry| {
                Ok((entry.file_name().to_string_lossy().into_owned(), fs::read_to_string(entry.path())?))
            })
            .collect()
    }

    /// What fails of the tests. What they cost is no concern here.
    fn failing_tests(&self) -> Result<BTreeSet<String>> {
        let mut command =
            shell::command("node", &["forge.cjs", "test", "--no-match-contract", "GasTest", "--summary"]);
        command
            .current_dir(&self.folder)
            .env("FOUNDRY_FUZZ_RUNS", "64")
            .env("FOUNDRY_INVARIANT_RUNS", "6")
            .stderr(Stdio::null());
        let output = command.output().context("forge cannot be run")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut failed: BTreeSet<String> = text.lines().filter_map(failed_name).collect();
        if !output.status.success() && failed.is_empty() {
            failed.insert("set-up".to_owned());
        }
        Ok(failed)
    }
}

/// `[FAIL: why] test_name() (gas: …)`: the name.
fn failed_name(line: &str) -> Option<String> {
    let rest = line.trim_start().strip_prefix("[FAIL")?;
    let start =
        ["test_", "testFuzz_", "invariant_", "setUp"].iter().filter_map(|kind| rest.rfind(kind)).min()?;
    let name = &rest[start..];
    Some(name[..name.find('(').unwrap_or(name.len())].to_owned())
}

/// Properties by number, with the names that carry them.
fn properties() -> Result<Vec<(String, Vec<String>)>> {
    let text = fs::read_to_string(shell::root().join("contracts/specs/PROPERTIES.md"))
        .context("read contracts/specs/PROPERTIES.md")?;
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines() {
        let number = line.split_once(". **").map(|(number, _)| number);
        if let Some(number) = number.filter(|number| number.chars().all(|letter| letter.is_ascii_digit())) {
            found.push((number.to_owned(), Vec::new()));
        } else if line.starts_with('#') && !found.is_empty() && line.contains("not proven") {
            break;
        }
        if let Some((_, names)) = found.last_mut() {
            let quoted = line.split('`').skip(1).step_by(2);
            names.extend(quoted.filter(|name| name.contains('_')).map(str::to_owned));
        }
    }
    Ok(found)
}

fn report(mutants: &[Mutant], fates: &[Fate], every: usize) -> Result<()> {
    let mut text = String::from(
        "# The tests, tested\n\nWritten by `cargo xtask contracts mutate`, which breaks the contracts in small ways, one at a time. \
         Mutants that do not compile or change\nnothing do not count. Killed means that a test failed or, where all passed, that a proof did.\n\n",
    );
    if every > 1 {
        writeln!(text, "This run took one mutant in {every}.\n")?;
    }
    text.push_str("| source | mutants | killed | survived |\n| --- | --- | --- | --- |\n");
    let (mut of_all, mut killed_of_all) = (0, 0);
    for file in SOURCES {
        let of_file = || mutants.iter().zip(fates).filter(|(mutant, _)| mutant.file == file);
        let killed = of_file().filter(|(_, fate)| matches!(fate, Fate::Killed(_))).count();
        let survived = of_file().filter(|(_, fate)| matches!(fate, Fate::Survived)).count();
        writeln!(text, "| `{file}` | {} | {killed} | {survived} |", killed + survived)?;
        of_all += killed + survived;
        killed_of_all += killed;
    }
    let percent = |part: usize| part as f64 * 100.0 / of_all.max(1) as f64;
    writeln!(
        text,
        "| **all** | **{of_all}** | **{killed_of_all}** ({:.1} %) | **{}** |",
        percent(killed_of_all),
        of_all - killed_of_all
    )?;
    text.push_str("\n## Survivors\n\n");
    for (mutant, _) in mutants.iter().zip(fates).filter(|(_, fate)| matches!(fate, Fate::Survived)) {
        let becomes = if mutant.becomes.is_empty() { "(nothing)" } else { mutant.becomes.trim() };
        writeln!(text, "- `{}:{}`: `{}` became `{becomes}`", mutant.file, mutant.line, mutant.was.trim())?;
    }
    text.push_str("\n## Mutants that broke each property\n\n| property | mutants |\n| --- | --- |\n");
    let mut unbroken = Vec::new();
    for (number, names) in properties()? {
        let broken_by = fates
            .iter()
            .filter(|fate| matches!(fate, Fate::Killed(by) if names.iter().any(|name| by.contains(name))))
            .count();
        writeln!(text, "| {number} | {broken_by} |")?;
        if broken_by == 0 {
            unbroken.push(number);
        }
    }
    let file = Path::new("contracts/specs/MUTANTS.md");
    fs::write(shell::root().join(file), text).context("write the result")?;
    println!("    {killed_of_all} of {of_all} mutants killed; see {}", file.display());
    if killed_of_all * 100 < of_all * KILLED_PERCENT_MIN {
        bail!("fewer than {KILLED_PERCENT_MIN} of 100 mutants were noticed");
    }
    if !unbroken.is_empty() {
        bail!("no mutant broke property {}", unbroken.join(", "));
    }
    Ok(())
}
