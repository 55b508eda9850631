//! The tests tested: the contracts are broken in small ways, one at a time, and something has to notice each.
//!
//! A mutant that does not compile, or compiles to what the original compiles to, does not count. Tests run first, because they
//! take seconds, and invariants only on what the other tests let pass; what all tests let pass goes to the proofs at the end. Only the suites and proofs run that touch the contract that is broken.
//! The result is written to `contracts/specs/MUTANTS.md`: how many of each source died, who survived, and which mutants broke
//! each property of `PROPERTIES.md`. A property that no mutant breaks fails the run, and so do too many survivors.
//!
//! A run takes the better part of an hour, so what became of each mutant is noted in `target/mutants/fates.json`, and a run
//! that was stopped goes on from there. A note counts as long as its source is the same and what killed the mutant still
//! exists; survivors are tried again whenever a test or a proof has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Mutex;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::{proof, setup, shell};

/// Of a hundred mutants so many have to die.
const KILLED_PERCENT_MIN: usize = 95;
const WORKERS: usize = 2;
/// Each source with the tests and the proofs that run its code.
const SOURCES: [(&str, &str, &str); 6] = [
    ("AuditAnchor.sol", "AnchorTest", "AnchorProof"),
    ("MultiSigVault.sol", "Vault(Model)?Test", "VaultProof"),
    ("Payment.sol", "(Payments|Conservation|Events)Test", "PaymentsProof"),
    ("PaymentRouter.sol", "(Payments|Conservation|Events)Test", "PaymentsProof"),
    ("SettlementManager.sol", "(Payments|Conservation|Events)Test", "PaymentsProof"),
    ("TokenizedCash.sol", "(Token|Payments|Conservation|Events|Vault(Model)?)Test", "(Token|Payments)Proof"),
];
const ALL_TESTS: &str = "(Anchor|Vault|VaultModel|Payments|Conservation|Events|Token)Test";
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
    tests: &'static str,
    proofs: &'static str,
    line: usize,
    was: String,
    becomes: String,
}

#[derive(Clone)]
enum Fate {
    /// Does not compile, or is no other program.
    Void,
    Killed(BTreeSet<String>),
    /// No test has noticed; what the proofs say is not known yet.
    Unnoticed,
    Survived,
}

/// Breaks the contracts in every way, or in one of `every` ways.
pub(crate) fn run(every: usize) -> Result<()> {
    setup::contracts()?;
    setup::proof_tools()?;
    let mutants: Vec<Mutant> = all()?.into_iter().step_by(every.max(1)).collect();
    let notes = Mutex::new(Notes::read()?);
    let by_tests = |notes: &Notes, mutant: &Mutant| notes.of(mutant).is_none();
    let by_proofs = |notes: &Notes, mutant: &Mutant| matches!(notes.of(mutant), Some(Fate::Unnoticed));
    in_parallel(&mutants, &notes, by_tests, Bench::by_tests)?;
    in_parallel(&mutants, &notes, by_proofs, Bench::by_proofs)?;
    report(&mutants, &lock(&notes), every)
}

/// Writes down what runs so far have found out, without trying anything.
pub(crate) fn report_so_far() -> Result<()> {
    report(&all()?, &Notes::read()?, 1)
}

/// Tries those mutants of which something is still to be found out.
fn in_parallel(
    mutants: &[Mutant],
    notes: &Mutex<Notes>,
    is_open: impl Fn(&Notes, &Mutant) -> bool,
    try_one: impl Fn(&mut Bench, &Mutant) -> Result<Fate> + Sync,
) -> Result<()> {
    let open: Vec<&Mutant> = mutants.iter().filter(|mutant| is_open(&lock(notes), mutant)).collect();
    println!("    {} of {} mutants to try", open.len(), mutants.len());
    let queue = Mutex::new(open.into_iter());
    std::thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..WORKERS)
            .map(|number| {
                let (queue, try_one) = (&queue, &try_one);
                scope.spawn(move || -> Result<()> {
                    let mut bench = None;
                    loop {
                        // Taken in a statement of its own: a lock in a loop's condition is held while the loop's body runs.
                        let next = lock(queue).next();
                        let Some(mutant) = next else { return Ok(()) };
                        if bench.is_none() {
                            bench = Some(Bench::new(number)?);
                        }
                        let Some(bench) = bench.as_mut() else { return Ok(()) };
                        let fate = try_one(bench, mutant)?;
                        println!("    {}", describe(mutant, &fate));
                        lock(notes).add(mutant, fate)?;
                    }
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().unwrap_or_else(|_| bail!("a worker of the mutation run panicked"))
        })
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What became of each mutant, as far as it is known.
struct Notes {
    file: PathBuf,
    /// By source: what it is.
    sources: BTreeMap<&'static str, String>,
    /// What the tests and proofs are.
    watchers: String,
    names: BTreeSet<String>,
    fates: BTreeMap<String, Value>,
}

impl Notes {
    fn read() -> Result<Self> {
        let folder = shell::root().join("target/mutants");
        fs::create_dir_all(&folder)?;
        let file = folder.join("fates.json");
        let fates = fs::read_to_string(&file).ok().and_then(|text| serde_json::from_str(&text).ok());
        let contracts = shell::root().join("contracts");
        let mut watching = String::new();
        for part in ["test", "proofs"] {
            let mut files: Vec<_> = fs::read_dir(contracts.join(part))?.flatten().collect();
            files.sort_by_key(fs::DirEntry::path);
            for file in files {
                watching.push_str(&fs::read_to_string(file.path())?);
            }
        }
        let names = watching.lines().filter_map(|line| line.trim_start().strip_prefix("function "));
        let names = names.filter_map(|rest| rest.split('(').next().map(str::to_owned)).collect();
        let sources = SOURCES
            .into_iter()
            .map(|(file, ..)| Ok((file, digest(&fs::read_to_string(contracts.join("src").join(file))?))))
            .collect::<Result<_>>()?;
        Ok(Self { file, sources, watchers: digest(&watching), names, fates: fates.unwrap_or_default() })
    }

    fn key(&self, mutant: &Mutant) -> String {
        let source = self.sources.get(mutant.file).map_or("", String::as_str);
        format!("{source} {}:{} {}", mutant.file, mutant.line, mutant.becomes)
    }

    fn of(&self, mutant: &Mutant) -> Option<Fate> {
        let note = self.fates.get(&self.key(mutant))?;
        if note["void"] == true {
            return Some(Fate::Void);
        }
        let killers: BTreeSet<String> =
            note["killed_by"].as_array()?.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        if killers.is_empty() {
            let fate = if note["proofs"] == true { Fate::Survived } else { Fate::Unnoticed };
            return (note["watchers"] == self.watchers.as_str()).then_some(fate);
        }
        let there: BTreeSet<String> = killers.intersection(&self.names).cloned().collect();
        (!there.is_empty()).then_some(Fate::Killed(there))
    }

    fn add(&mut self, mutant: &Mutant, fate: Fate) -> Result<()> {
        let note = match fate {
            Fate::Void => json!({ "void": true }),
            Fate::Killed(by) => json!({ "killed_by": by }),
            Fate::Unnoticed => json!({ "killed_by": [], "watchers": self.watchers }),
            Fate::Survived => json!({ "killed_by": [], "watchers": self.watchers, "proofs": true }),
        };
        self.fates.insert(self.key(mutant), note);
        let draft = self.file.with_extension("draft");
        fs::write(&draft, serde_json::to_string_pretty(&self.fates)?)?;
        fs::rename(&draft, &self.file).context("note what became of a mutant")
    }
}

fn digest(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
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
        Fate::Unnoticed => "no test notices".to_owned(),
        Fate::Survived => "SURVIVED".to_owned(),
        Fate::Killed(by) => format!("killed by {}", by.len()),
    };
    format!("{place} {change}: {fate}")
}

/// Every mutant of every source.
fn all() -> Result<Vec<Mutant>> {
    let mut mutants = Vec::new();
    for (file, tests, proofs) in SOURCES {
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
                    tests,
                    proofs,
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

/// A copy of the contracts to break, and a compiler that stays warm.
struct Bench {
    folder: PathBuf,
    compiler: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    original: BTreeMap<String, String>,
}

impl Bench {
    fn new(number: usize) -> Result<Self> {
        let contracts = shell::root().join("contracts");
        let folder = shell::root().join(format!("target/mutants/{number}"));
        // What forge has compiled stays for the next run.
        for part in ["src", "test", "proofs", "broken", "artifacts", "cache/fuzz", "cache/invariant"] {
            let _ = fs::remove_dir_all(folder.join(part));
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
        let modules = folder.join("node_modules");
        if !modules.exists() {
            std::os::unix::fs::symlink(contracts.join("node_modules"), modules)?;
        }
        let path = |part: &str| folder.join(part).display().to_string();
        let mut command =
            shell::command("node", &["build.cjs", "--mutants", &path("broken"), &path("artifacts")]);
        command.current_dir(&contracts).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut compiler = command.spawn().context("node cannot be run")?;
        let ask = compiler.stdin.take().context("the compiler listens to nobody")?;
        let answers = BufReader::new(compiler.stdout.take().context("the compiler says nothing")?);
        let mut bench = Self { folder, compiler, ask, answers, original: BTreeMap::new() };
        bench.restore()?;
        if !bench.compile("")? {
            bail!("the contracts do not compile");
        }
        bench.original = bench.artifacts()?;
        let failed = bench.failing_tests(ALL_TESTS, ".")?;
        if !failed.is_empty() {
            bail!("tests fail before anything is broken: {failed:?}");
        }
        Ok(bench)
    }

    fn by_tests(&mut self, mutant: &Mutant) -> Result<Fate> {
        if !self.broken(mutant)? {
            return Ok(Fate::Void);
        }
        let mut failed = self.failing_tests(mutant.tests, "^test")?;
        if failed.is_empty() {
            failed = self.failing_tests(mutant.tests, "^invariant")?;
        }
        Ok(if failed.is_empty() { Fate::Unnoticed } else { Fate::Killed(failed) })
    }

    fn by_proofs(&mut self, mutant: &Mutant) -> Result<Fate> {
        if !self.broken(mutant)? {
            return Ok(Fate::Void);
        }
        let failed = proof::refuted(&self.folder, mutant.proofs)?;
        Ok(if failed.is_empty() { Fate::Survived } else { Fate::Killed(failed) })
    }

    /// Breaks the contracts; false if what came out is no other program.
    fn broken(&mut self, mutant: &Mutant) -> Result<bool> {
        self.restore()?;
        let file = self.folder.join("broken").join(mutant.file);
        let text = fs::read_to_string(&file)?;
        let lines: Vec<&str> = text
            .lines()
            .enumerate()
            .map(|(index, line)| if index + 1 == mutant.line { mutant.becomes.as_str() } else { line })
            .collect();
        fs::write(&file, lines.join("\n"))?;
        Ok(self.compile(mutant.file)? && self.artifacts()? != self.original)
    }

    /// Mends what the last mutant broke.
    fn restore(&self) -> Result<()> {
        for file in fs::read_dir(self.folder.join("src"))?.flatten() {
            fs::copy(file.path(), self.folder.join("broken").join(file.file_name()))?;
        }
        for (name, text) in &self.original {
            fs::write(self.folder.join("artifacts").join(name), text)?;
        }
        Ok(())
    }

    /// Compiles the contracts that a file is part of, or all.
    fn compile(&mut self, file: &str) -> Result<bool> {
        writeln!(self.ask, "{file}").context("the compiler has ended")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).context("the compiler has ended")?;
        match answer.trim() {
            "ok" => Ok(true),
            "void" => Ok(false),
            other => bail!("the compiler said {other:?}"),
        }
    }

    fn artifacts(&self) -> Result<BTreeMap<String, String>> {
        fs::read_dir(self.folder.join("artifacts"))?
            .flatten()
            .map(|entry| {
                Ok((entry.file_name().to_string_lossy().into_owned(), fs::read_to_string(entry.path())?))
            })
            .collect()
    }

    /// What fails of the tests of some contracts. What they cost is no concern here, nor is the shortest way to fail.
    fn failing_tests(&self, contracts: &str, tests: &str) -> Result<BTreeSet<String>> {
        let mut command = shell::command(
            "node",
            &["forge.cjs", "test", "--match-contract", contracts, "--match-test", tests],
        );
        command
            .current_dir(&self.folder)
            .env("FOUNDRY_FUZZ_RUNS", "64")
            .env("FOUNDRY_INVARIANT_RUNS", "6")
            .env("FOUNDRY_INVARIANT_SHRINK_RUN_LIMIT", "0")
            .stderr(Stdio::null());
        let output = command.output().context("forge cannot be run")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut failed: BTreeSet<String> = text.lines().filter_map(failed_name).collect();
        let nothing_ran = text.contains("No tests found") || text.contains("No tests match");
        if !output.status.success() && failed.is_empty() && !nothing_ran {
            failed.insert("setUp".to_owned());
        }
        Ok(failed)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.compiler.kill();
        let _ = self.compiler.wait();
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

fn report(mutants: &[Mutant], notes: &Notes, every: usize) -> Result<()> {
    let fates: Vec<(&Mutant, Option<Fate>)> =
        mutants.iter().map(|mutant| (mutant, notes.of(mutant))).collect();
    let is_open = |fate: &Option<Fate>| matches!(fate, None | Some(Fate::Unnoticed));
    let open = fates.iter().filter(|(_, fate)| is_open(fate)).count();
    let mut text = String::from(
        "# The tests, tested\n\nWritten by `cargo xtask contracts mutate`, which breaks the contracts in small ways, one at a time. \
         Mutants that do not compile or change\nnothing do not count. Killed means that a test failed or, where all passed, that a proof did.\n\n",
    );
    if every > 1 {
        writeln!(text, "This run took one mutant in {every}.\n")?;
    }
    if open > 0 {
        writeln!(
            text,
            "Of {open} mutants it is not known yet: `cargo xtask contracts mutate` goes on with them.\n"
        )?;
    }
    text.push_str(
        "| source | mutants | killed | survived | not known yet |\n| --- | --- | --- | --- | --- |\n",
    );
    let (mut of_all, mut killed_of_all) = (0, 0);
    for (file, ..) in SOURCES {
        let of_file = || fates.iter().filter(|(mutant, _)| mutant.file == file);
        let killed = of_file().filter(|(_, fate)| matches!(fate, Some(Fate::Killed(_)))).count();
        let survived = of_file().filter(|(_, fate)| matches!(fate, Some(Fate::Survived))).count();
        let open = of_file().filter(|(_, fate)| is_open(fate)).count();
        writeln!(text, "| `{file}` | {} | {killed} | {survived} | {open} |", killed + survived)?;
        of_all += killed + survived;
        killed_of_all += killed;
    }
    let percent = |part: usize| part as f64 * 100.0 / of_all.max(1) as f64;
    writeln!(
        text,
        "| **all** | **{of_all}** | **{killed_of_all}** ({:.1} %) | **{}** | **{open}** |",
        percent(killed_of_all),
        of_all - killed_of_all
    )?;
    text.push_str("\n## Survivors\n\n");
    for (mutant, _) in fates.iter().filter(|(_, fate)| matches!(fate, Some(Fate::Survived))) {
        let becomes = if mutant.becomes.is_empty() { "(nothing)" } else { mutant.becomes.trim() };
        writeln!(text, "- `{}:{}`: `{}` became `{becomes}`", mutant.file, mutant.line, mutant.was.trim())?;
    }
    text.push_str("\n## Mutants that broke each property\n\n| property | mutants |\n| --- | --- |\n");
    let mut unbroken = Vec::new();
    for (number, names) in properties()? {
        let breaks = |fate: &Option<Fate>| matches!(fate, Some(Fate::Killed(by)) if names.iter().any(|name| by.contains(name)));
        let broken_by = fates.iter().filter(|(_, fate)| breaks(fate)).count();
        writeln!(text, "| {number} | {broken_by} |")?;
        if broken_by == 0 {
            unbroken.push(number);
        }
    }
    let file = Path::new("contracts/specs/MUTANTS.md");
    fs::write(shell::root().join(file), text).context("write the result")?;
    println!("    {killed_of_all} of {of_all} mutants killed; see {}", file.display());
    if open > 0 {
        return Ok(());
    }
    if killed_of_all * 100 < of_all * KILLED_PERCENT_MIN {
        bail!("fewer than {KILLED_PERCENT_MIN} of 100 mutants were noticed");
    }
    if !unbroken.is_empty() {
        bail!("no mutant broke property {}", unbroken.join(", "));
    }
    Ok(())
}
