//! The tests tested: the contracts are broken in small ways, one at a time, and something has to notice each.
//!
//! First pass: the mutant is compiled without optimizer, which is quick and changes nothing but gas, and the tests run that call
//! its contract, the cheap ones first; nearly every mutant dies here, within two seconds. Second pass, for what is left: it is
//! compiled as it would be deployed, and all tests run that the test command runs on it, as long as there, then the proofs. What
//! lives on has survived. What gas costs and that the artifacts are no longer what is committed would give nearly every mutant
//! away; neither counts.
//!
//! A mutant that compiles to what the original compiles to, or of which `EQUIVALENT` says why no caller can tell it from the
//! original, is equivalent and does not count; what somebody argued is tested all the same, and the run fails if a test can tell.
//!
//! The result is written to `contracts/specs/MUTANTS.md`: how many of each source died, by what, who survived, and which mutants
//! broke each property of `PROPERTIES.md`. A property that no mutant breaks fails the run, and so do too many survivors.
//!
//! What became of each mutant is noted in `target/mutants/fates.json`, and a run that was stopped goes on from there. A note counts
//! as long as its source is the same and what killed the mutant still exists; survivors are tried again whenever a test or a proof
//! has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{proof, setup, shell};

/// Of a hundred mutants so many have to die.
const KILLED_PERCENT_MIN: usize = 95;
/// Each source with the tests and the proofs that run its code.
const SOURCES: [(&str, &str, &str); 6] = [
    ("AuditAnchor.sol", "AnchorTest", "AnchorProof"),
    ("MultiSigVault.sol", "Vault(Model)?Test", "VaultProof"),
    ("Payment.sol", "(Token|Payments|Conservation|Events)Test", "PaymentsProof"),
    ("PaymentRouter.sol", "(Token|Payments|Conservation|Events)Test", "PaymentsProof"),
    ("SettlementManager.sol", "(Token|Payments|Conservation|Events)Test", "PaymentsProof"),
    ("TokenizedCash.sol", "(Token|Payments|Conservation|Events|Vault(Model)?)Test", "(Token|Payments)Proof"),
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

/// Mutants that no caller can tell from the original: file, what the line was, what it became, and why.
const EQUIVALENT: &[(&str, &str, &str, &str)] = &[
    (
        "MultiSigVault.sol",
        "if (data.length < 4) return false;",
        "",
        "what is shorter is filled up with zeros, and none of the three selectors ends with one",
    ),
    (
        "PaymentRouter.sol",
        "each = reason != Reason.None && end - begin > 1;",
        "each = reason != Reason.None && end - begin >= 1;",
        "a single payment that cannot be funded is tried once more, with the same answer",
    ),
    (
        "PaymentRouter.sol",
        "each = reason != Reason.None && end - begin > 1;",
        "each = reason != Reason.None && end + begin > 1;",
        "a single payment that cannot be funded is tried once more, with the same answer; of more than one the sum is above one, too",
    ),
    (
        "TokenizedCash.sol",
        "uint240 allowed = allowance_ > type(uint240).max ? type(uint240).max : uint240(allowance_);",
        "uint240 allowed = allowance_ >= type(uint240).max ? type(uint240).max : uint240(allowance_);",
        "at the maximum both branches give the maximum",
    ),
    (
        "TokenizedCash.sol",
        "uint256 frozen = amount > SUPPLY_MAX ? SUPPLY_MAX : amount;",
        "uint256 frozen = amount >= SUPPLY_MAX ? SUPPLY_MAX : amount;",
        "at the maximum both branches give the maximum",
    ),
    (
        "TokenizedCash.sol",
        "return account.balance > account.frozen ? account.balance - account.frozen : 0;",
        "return account.balance >= account.frozen ? account.balance - account.frozen : 0;",
        "where they are equal both branches give zero",
    ),
];

/// One way to break one line.
#[derive(Clone)]
struct Mutant {
    file: &'static str,
    tests: &'static str,
    proofs: &'static str,
    line: usize,
    function: String,
    was: String,
    becomes: String,
}

#[derive(Clone)]
enum Fate {
    /// No program.
    Stillborn,
    /// Another text of the same program.
    Equivalent,
    Killed(BTreeSet<String>),
    /// The first pass has not noticed; what the second says is not known yet.
    Unnoticed,
    Survived,
}

/// Breaks the contracts in every way.
pub(crate) fn run() -> Result<()> {
    setup::contracts()?;
    setup::proof_tools()?;
    let mutants = all()?;
    let mut notes = Notes::read()?;
    let is_untried = |notes: &Notes, mutant: &Mutant| notes.of(mutant).is_none();
    let is_unnoticed = |notes: &Notes, mutant: &Mutant| matches!(notes.of(mutant), Some(Fate::Unnoticed));
    pass(&mutants, &mut notes, Build::Quick, is_untried, Bench::by_quick_tests)?;
    pass(&mutants, &mut notes, Build::Deployed, is_unnoticed, Bench::by_everything)?;
    report(&mutants, &notes)
}

/// Breaks one function of whatever source has it, in every way the tests may notice, and says which properties that breaks. Writes no
/// report: one function says nothing of the rest.
pub(crate) fn run_in(function: &str) -> Result<()> {
    setup::contracts()?;
    let mut mutants = all()?;
    mutants.retain(|mutant| mutant.function == function);
    ensure!(!mutants.is_empty(), "no source has a function {function} that can be broken");
    let mut notes = Notes::read()?;
    let is_untried = |notes: &Notes, mutant: &Mutant| notes.of(mutant).is_none();
    pass(&mutants, &mut notes, Build::Quick, is_untried, Bench::by_quick_tests)?;
    let killers: BTreeSet<String> = mutants
        .iter()
        .filter_map(|mutant| match notes.of(mutant) {
            Some(Fate::Killed(by)) => Some(by),
            _ => None,
        })
        .flatten()
        .collect();
    for (number, names) in properties()? {
        let by: Vec<&str> = names.iter().filter(|name| killers.contains(*name)).map(String::as_str).collect();
        if !by.is_empty() {
            println!("    property {number} is broken: {}", by.join(", "));
        }
    }
    Ok(())
}

/// Writes down what runs so far have found out, without trying anything.
pub(crate) fn report_so_far() -> Result<()> {
    report(&all()?, &Notes::read()?)
}

/// Tries those mutants of which something is still to be found out.
fn pass(
    mutants: &[Mutant],
    notes: &mut Notes,
    build: Build,
    is_open: impl Fn(&Notes, &Mutant) -> bool,
    try_one: impl Fn(&mut Bench, &Mutant) -> Result<Fate>,
) -> Result<()> {
    let mut open: Vec<&Mutant> = mutants.iter().filter(|mutant| is_open(notes, mutant)).collect();
    // Sources mixed, so that what is known when somebody stops the run speaks for all of them.
    open.sort_by_key(|mutant| digest(&notes.key(mutant)));
    println!("    {} of {} mutants to try", open.len(), mutants.len());
    if open.is_empty() {
        return Ok(());
    }
    let tests: BTreeSet<&str> = open.iter().map(|mutant| mutant.tests).collect();
    let tests: Vec<&str> = tests.into_iter().collect();
    let mut bench = Bench::new(build, &tests.join("|"))?;
    for mutant in open {
        let began = Instant::now();
        let fate = try_one(&mut bench, mutant)?;
        println!("    {:>5.1} s  {}", began.elapsed().as_secs_f64(), describe(mutant, &fate));
        notes.add(mutant, &fate)?;
    }
    Ok(())
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
        if note["stillborn"] == true {
            return Some(Fate::Stillborn);
        }
        if note["equivalent"] == true {
            return Some(Fate::Equivalent);
        }
        let killers: BTreeSet<String> =
            note["killed_by"].as_array()?.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        if killers.is_empty() {
            let is_done = note["proofs"] == true || (note["proofs"] == false && argued(mutant).is_some());
            let fate = if is_done { Fate::Survived } else { Fate::Unnoticed };
            return (note["watchers"] == self.watchers.as_str()).then_some(fate);
        }
        let there: BTreeSet<String> = killers.intersection(&self.names).cloned().collect();
        (!there.is_empty()).then_some(Fate::Killed(there))
    }

    fn add(&mut self, mutant: &Mutant, fate: &Fate) -> Result<()> {
        let note = match fate {
            Fate::Stillborn => json!({ "stillborn": true }),
            Fate::Equivalent => json!({ "equivalent": true }),
            Fate::Killed(by) => json!({ "killed_by": by }),
            Fate::Unnoticed => json!({ "killed_by": [], "watchers": self.watchers }),
            Fate::Survived => {
                json!({ "killed_by": [], "watchers": self.watchers, "proofs": argued(mutant).is_none() })
            }
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
        Fate::Stillborn => "does not compile".to_owned(),
        Fate::Equivalent => "compiles to the same".to_owned(),
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
        let mut function = String::new();
        for (index, line) in text.lines().enumerate() {
            let code = line.trim_start();
            if ["function ", "constructor", "modifier ", "receive"]
                .iter()
                .any(|kind| line.strip_prefix("    ").is_some_and(|line| line.starts_with(kind)))
            {
                within_body = true;
                let name = code.strip_prefix("function ").and_then(|rest| rest.split('(').next());
                name.unwrap_or_default().clone_into(&mut function);
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
                    function: function.clone(),
                    was: line.to_owned(),
                    becomes,
                }));
            }
        }
    }
    for (file, was, becomes, _) in EQUIVALENT {
        let is_there = |mutant: &Mutant| {
            (mutant.file, mutant.was.trim(), mutant.becomes.trim()) == (*file, *was, *becomes)
        };
        ensure!(mutants.iter().any(is_there), "`{becomes}` in {file} is called equivalent, and is no mutant");
    }
    Ok(mutants)
}

/// What may stand there instead of this line.
fn of_line(line: &str) -> BTreeSet<String> {
    let code = line.trim();
    let mut lines = BTreeSet::new();
    for (what, instead) in SWAPS {
        for (place, _) in line.match_indices(what) {
            lines.insert(format!("{}{instead}{}", &line[..place], &line[place + what.len()..]));
        }
    }
    if let Some((before, after)) = line.split_once(" onlyRole(") {
        let after = after.split_once(')').map_or("", |(_, after)| after);
        lines.insert(format!("{before}{after}"));
    }
    let is_statement = code.ends_with(';') && !code.starts_with("return") && !code.starts_with('}');
    if is_statement {
        lines.insert(String::new());
    }
    lines
}

/// How a mutant is compiled.
#[derive(Clone, Copy)]
enum Build {
    /// Without optimizer.
    Quick,
    /// As the committed artifacts are.
    Deployed,
}

/// A copy of the contracts to break, and a compiler that stays warm.
struct Bench {
    folder: PathBuf,
    build: Build,
    compiler: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    compiler_version: String,
    original: BTreeMap<String, String>,
}

impl Bench {
    /// A bench on which these tests pass.
    fn new(build: Build, tests: &str) -> Result<Self> {
        let contracts = shell::root().join("contracts");
        let folder = shell::root().join("target/mutants/bench");
        // What forge has compiled stays for the next run.
        for part in ["src", "test", "proofs", "broken", "artifacts"] {
            let _ = fs::remove_dir_all(folder.join(part));
            fs::create_dir_all(folder.join(part))?;
        }
        for part in ["src", "test", "proofs"] {
            for entry in fs::read_dir(contracts.join(part))?.flatten() {
                // What is not asked for would be compiled anew each time.
                if entry.file_name() != "Gas.t.sol" {
                    fs::copy(entry.path(), folder.join(part).join(entry.file_name()))?;
                }
            }
        }
        for file in ["foundry.toml", "solcw.cjs"] {
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
        let mut answers = BufReader::new(compiler.stdout.take().context("the compiler says nothing")?);
        let mut compiler_version = String::new();
        answers.read_line(&mut compiler_version).context("ask the compiler what it is")?;
        let mut bench =
            Self { folder, build, compiler, ask, answers, compiler_version, original: BTreeMap::new() };
        bench.restore()?;
        if !bench.compile("")? {
            bail!("the contracts do not compile");
        }
        bench.original = bench.artifacts()?;
        let failed = bench.failing_tests(tests, "^(test|invariant)")?;
        if !failed.is_empty() {
            bail!("tests fail before anything is broken: {failed:?}");
        }
        Ok(bench)
    }

    fn by_quick_tests(&mut self, mutant: &Mutant) -> Result<Fate> {
        if let Some(fate) = self.without_a_test(mutant)? {
            return Ok(fate);
        }
        let mut failed = self.failing_tests(mutant.tests, "^test_")?;
        if failed.is_empty() {
            failed = self.failing_tests(mutant.tests, "^(testFuzz_|invariant_)")?;
        }
        Ok(if failed.is_empty() { Fate::Unnoticed } else { Fate::Killed(failed) })
    }

    /// What somebody argued to be equivalent is spared the proofs, which take minutes each.
    fn by_everything(&mut self, mutant: &Mutant) -> Result<Fate> {
        if let Some(fate) = self.without_a_test(mutant)? {
            return Ok(fate);
        }
        let mut failed = self.failing_tests(mutant.tests, "^(test|invariant)")?;
        if failed.is_empty() && argued(mutant).is_none() {
            failed = proof::refuted(&self.folder, mutant.proofs)?;
        }
        Ok(if failed.is_empty() { Fate::Survived } else { Fate::Killed(failed) })
    }

    /// Breaks the contracts; says so if what came out is no program, or no other.
    fn without_a_test(&mut self, mutant: &Mutant) -> Result<Option<Fate>> {
        self.restore()?;
        let file = self.folder.join("broken").join(mutant.file);
        let text = fs::read_to_string(&file)?;
        let lines: Vec<&str> = text
            .lines()
            .enumerate()
            .map(|(index, line)| if index + 1 == mutant.line { mutant.becomes.as_str() } else { line })
            .collect();
        fs::write(&file, lines.join("\n"))?;
        if !self.compile(mutant.file)? {
            return Ok(Some(Fate::Stillborn));
        }
        Ok((self.artifacts()? == self.original).then_some(Fate::Equivalent))
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
        let how = match self.build {
            Build::Quick => "quick",
            Build::Deployed => "deployed",
        };
        writeln!(self.ask, "{how} {file}").context("the compiler has ended")?;
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

    /// What fails of the tests of some contracts. What they cost is no concern here, nor is the shortest way to fail, nor how an
    /// earlier mutant failed.
    fn failing_tests(&self, contracts: &str, tests: &str) -> Result<BTreeSet<String>> {
        for memory in ["cache/fuzz", "cache/invariant"] {
            let _ = fs::remove_dir_all(self.folder.join(memory));
        }
        let forge = proof::forge_folder().context("npm has brought no forge for this machine")?.join("forge");
        let mut command =
            shell::command(forge, &["test", "--match-contract", contracts, "--match-test", tests]);
        command
            .current_dir(&self.folder)
            .env("SOLC_VERSION", self.compiler_version.trim())
            .env("FOUNDRY_INVARIANT_SHRINK_RUN_LIMIT", "0")
            .stderr(Stdio::null());
        if matches!(self.build, Build::Quick) {
            command.env("FOUNDRY_FUZZ_RUNS", "64").env("FOUNDRY_INVARIANT_RUNS", "6");
        }
        let output = command.output().context("forge cannot be run")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut failed = failed_names(&text);
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

/// `[FAIL: why] test_name() (gas: …)`: the names. Of an invariant the calls that broke it stand between, and its name on a line of its own.
fn failed_names(text: &str) -> BTreeSet<String> {
    let mut failed = BTreeSet::new();
    let mut is_looking = false;
    for line in text.lines().map(str::trim_start) {
        let rest = match line.strip_prefix("[FAIL") {
            Some(rest) => rest,
            None if is_looking && line.starts_with("invariant_") => line,
            None => continue,
        };
        let kinds = ["test_", "testFuzz_", "invariant_", "setUp"];
        let name = kinds.iter().filter_map(|kind| rest.rfind(kind)).min().map(|start| &rest[start..]);
        is_looking = name.is_none();
        failed.extend(name.map(|name| name[..name.find('(').unwrap_or(name.len())].to_owned()));
    }
    failed
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

fn report(mutants: &[Mutant], notes: &Notes) -> Result<()> {
    let fates: Vec<(&Mutant, Option<Fate>)> =
        mutants.iter().map(|mutant| (mutant, notes.of(mutant))).collect();
    let count = |is: &dyn Fn(&Mutant, Option<&Fate>) -> bool| {
        fates.iter().filter(|(mutant, fate)| is(mutant, fate.as_ref())).count()
    };
    let is_open = |fate: Option<&Fate>| matches!(fate, None | Some(Fate::Unnoticed));
    let is_killed = |fate: Option<&Fate>| matches!(fate, Some(Fate::Killed(_)));
    let survived = |fate: Option<&Fate>| matches!(fate, Some(Fate::Survived));
    let open = count(&|_, fate| is_open(fate));
    let mut text = String::from(
        "# The tests, tested\n\nWritten by `cargo xtask contracts mutate`, which breaks the contracts in small ways, one at a time: \
         an operator, a truth value, a modifier, a\nstatement. Killed means that a test failed or, where all passed, an invariant or \
         a proof did. Gas snapshots and the comparison with the committed\nartifacts, which would notice nearly everything, do not count.\n\
         Mutants that do not compile or are equivalent to the original do not count.\n\n",
    );
    if open > 0 {
        writeln!(
            text,
            "**This run is not complete.** Of {open} mutants it is not known yet what becomes of them; `cargo xtask contracts mutate` goes on with them. It takes\n\
             them in an order that mixes the sources.\n"
        )?;
    }
    text.push_str(
        "| source | mutants | killed | by tests | by invariants or proofs alone | survived | tests let live, proofs not asked | equivalent | do not compile | not tried |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let is_by_test = |name: &String| name.starts_with("test") || name == "setUp";
    let mut row = |name: &str, of_file: &dyn Fn(&Mutant) -> bool| {
        let of = |is: &dyn Fn(&Mutant, Option<&Fate>) -> bool| {
            count(&|mutant, fate| of_file(mutant) && is(mutant, fate))
        };
        let killed = of(&|_, fate| is_killed(fate));
        let by_tests = of(&|_, fate| matches!(fate, Some(Fate::Killed(by)) if by.iter().any(is_by_test)));
        let survivors = of(&|mutant, fate| survived(fate) && argued(mutant).is_none());
        let equivalent = of(&|mutant, fate| {
            matches!(fate, Some(Fate::Equivalent)) || (survived(fate) && argued(mutant).is_some())
        });
        let waiting = of(&|_, fate| matches!(fate, Some(Fate::Unnoticed)));
        let counted = killed + survivors + waiting;
        writeln!(
            text,
            "| {name} | {counted} | {killed} ({:.1} %) | {by_tests} | {} | {survivors} | {waiting} | {equivalent} | {} | {} |",
            killed as f64 * 100.0 / counted.max(1) as f64,
            killed - by_tests,
            of(&|_, fate| matches!(fate, Some(Fate::Stillborn))),
            of(&|_, fate| fate.is_none()),
        )
        .map(|()| (killed, counted))
    };
    for (file, ..) in SOURCES {
        row(&format!("`{file}`"), &|mutant| mutant.file == file)?;
    }
    let (killed, counted) = row("**all**", &|_| true)?;
    text.push_str("\n## Survivors\n\n");
    let mut survivors = Vec::new();
    for (mutant, fate) in &fates {
        match (fate, argued(mutant)) {
            (Some(Fate::Survived), None) => survivors.push(format!("- {}", change(mutant))),
            (Some(Fate::Unnoticed), why) => {
                let why = why.map_or_else(String::new, |why| format!("; called equivalent: {why}"));
                survivors.push(format!(
                    "- {} (the first tests let it live, the rest not asked yet{why})",
                    change(mutant)
                ));
            }
            _ => {}
        }
    }
    text.push_str(&if survivors.is_empty() { "None.".to_owned() } else { survivors.join("\n") });
    text.push_str(
        "\n\n## Equivalent\n\nNo caller can tell these from the original. Those without a reason compile to the same bytes; the others \
         passed all tests.\n\n",
    );
    for (mutant, fate) in &fates {
        match (fate, argued(mutant)) {
            (Some(Fate::Equivalent), _) => writeln!(text, "- {}", change(mutant))?,
            (Some(Fate::Survived), Some(why)) => writeln!(text, "- {}: {why}", change(mutant))?,
            _ => {}
        }
    }
    text.push_str("\n## Mutants that broke each property\n\n| property | mutants |\n| --- | --- |\n");
    let mut unbroken = Vec::new();
    for (number, names) in properties()? {
        let broken_by = count(
            &|_, fate| matches!(fate, Some(Fate::Killed(by)) if names.iter().any(|name| by.contains(name))),
        );
        writeln!(text, "| {number} | {broken_by} |")?;
        if broken_by == 0 {
            unbroken.push(number);
        }
    }
    let file = Path::new("contracts/specs/MUTANTS.md");
    fs::write(shell::root().join(file), text).context("write the result")?;
    println!("    {killed} of {counted} mutants killed; see {}", file.display());
    if open > 0 {
        return Ok(());
    }
    let told_apart: Vec<String> = fates
        .iter()
        .filter(|(mutant, fate)| argued(mutant).is_some() && is_killed(fate.as_ref()))
        .map(|(mutant, _)| change(mutant))
        .collect();
    if !told_apart.is_empty() {
        bail!("called equivalent, and something can tell:\n  {}", told_apart.join("\n  "));
    }
    if killed * 100 < counted * KILLED_PERCENT_MIN {
        bail!("fewer than {KILLED_PERCENT_MIN} of 100 mutants were noticed");
    }
    if !unbroken.is_empty() {
        bail!("no mutant broke property {}", unbroken.join(", "));
    }
    Ok(())
}

/// Where, and what became what.
fn change(mutant: &Mutant) -> String {
    let becomes = if mutant.becomes.is_empty() { "(nothing)" } else { mutant.becomes.trim() };
    format!("`{}:{}`: `{}` became `{becomes}`", mutant.file, mutant.line, mutant.was.trim())
}

/// Why no caller can tell this mutant from the original, if somebody says so.
fn argued(mutant: &Mutant) -> Option<&'static str> {
    let is_it = |(file, was, becomes, _): &&(&str, &str, &str, &str)| {
        (*file, *was, *becomes) == (mutant.file, mutant.was.trim(), mutant.becomes.trim())
    };
    EQUIVALENT.iter().find(is_it).map(|(.., why)| *why)
}

#[cfg(test)]
mod tests {
    use super::failed_names;

    #[test]
    fn a_failed_invariant_is_known_by_its_name_too() {
        let said = "[FAIL: 1 != 2] test_payment() (gas: 12)\n[FAIL: conservation]\n\t[Sequence] (original: 9, shrunk: 1)\n\t\t\
                    sender=0x01 calldata=test_pay()\n invariant_conservation() (runs: 1, calls: 9)\n[PASS] invariant_other() (runs: 6)\n";
        assert_eq!(Vec::from_iter(failed_names(said)), ["invariant_conservation", "test_payment"]);
    }
}
