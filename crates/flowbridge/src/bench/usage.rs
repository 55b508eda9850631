//! What the processes of a stack use, as the kernel counts it.
//!
//! Processes are found by what they listen on, so that a stack that somebody else started is measured like our own. What runs
//! on another machine is not seen, and is left out.

use super::each;
use crate::config::Config;
use anyhow::{Context as _, Result};
use flowbridge_store::{Db, measure};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The processes to watch, by what they are.
#[derive(Debug, Clone)]
pub(super) struct Processes(BTreeMap<&'static str, u32>);

/// The name of our own program among the processes.
pub(super) const FLOWBRIDGE: &str = "flowbridge";
pub(super) const CLIENT: &str = "client";
const POSTGRES: &str = "postgresql";

impl Processes {
    /// Finds the processes of the stack of this configuration, and ourselves.
    pub(super) async fn find(config: &Config, db: &Db) -> Result<Self> {
        let backend = measure::counters(db).await?.backend;
        let mut found = BTreeMap::from([(CLIENT, std::process::id())]);
        let listening = [
            (FLOWBRIDGE, Some(config.gateway.listen.port())),
            ("bank-simulator", Some(config.bank_simulator.listen.port())),
            ("chain", config.chain.endpoints.first().and_then(|node| node.rpc_url.port_or_known_default())),
        ];
        for (name, port) in listening {
            let pid = port.and_then(listener);
            // One process with all roles is counted once.
            found.extend(pid.filter(|pid| found.values().all(|known| known != pid)).map(|pid| (name, pid)));
        }
        let server = u32::try_from(backend).ok().and_then(parent_of_postgres);
        found.extend(server.map(|pid| (POSTGRES, pid)));
        Ok(Self(found))
    }

    /// Ourselves, with the roles inside us, the chain node at `rpc_url` and the server of `db`.
    pub(super) async fn of_chain(rpc_url: &str, db: &Db) -> Result<Self> {
        let mut found = BTreeMap::from([(FLOWBRIDGE, std::process::id())]);
        let port = url::Url::parse(rpc_url)?.port_or_known_default();
        found.extend(port.and_then(listener).map(|pid| ("chain", pid)));
        let server = u32::try_from(measure::counters(db).await?.backend).ok().and_then(parent_of_postgres);
        found.extend(server.map(|pid| (POSTGRES, pid)));
        Ok(Self(found))
    }

    /// The processor time that each has used so far, with that of its children.
    pub(super) fn cpu(&self) -> BTreeMap<&'static str, Duration> {
        let tree = Stat::all();
        self.0
            .iter()
            .filter_map(|(name, pid)| {
                let own = tree.get(pid)?;
                let mut ticks = own.ticks;
                // PostgreSQL has a process per connection; those that have ended are in the server's own count.
                if *name == POSTGRES {
                    ticks += own.ticks_of_ended;
                    ticks +=
                        tree.values().filter(|stat| stat.parent == *pid).map(|stat| stat.ticks).sum::<u64>();
                }
                let per_second = rustix::param::clock_ticks_per_second();
                Some((*name, Duration::from_millis(ticks.saturating_mul(1_000) / per_second.max(1))))
            })
            .collect()
    }

    /// The most memory that our program has had in use, in bytes. Zero if it runs elsewhere.
    pub(super) fn rss_bytes_max(&self) -> u64 {
        let status = self.0.get(FLOWBRIDGE).map(|pid| fs::read_to_string(format!("/proc/{pid}/status")));
        let Some(Ok(status)) = status else { return 0 };
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kibibytes.unwrap_or(0).saturating_mul(1_024)
    }
}

/// What each has used between two looks, shared out among so many, in microseconds.
pub(super) fn cpu_us_each(
    before: &BTreeMap<&'static str, Duration>,
    after: &BTreeMap<&'static str, Duration>,
    count: usize,
) -> BTreeMap<&'static str, f64> {
    let used = |name, used: &Duration| used.saturating_sub(before.get(name).copied().unwrap_or_default());
    after.iter().map(|(name, total)| (*name, each(used(*name, total).as_secs_f64() * 1e6, count))).collect()
}

/// From now on the most memory that we have had in use counts anew.
pub(super) fn forget_rss_max() -> Result<()> {
    const PEAK: &str = "5";
    fs::write("/proc/self/clear_refs", PEAK).context("cannot write /proc/self/clear_refs")
}

/// A line of `/proc/PID/stat`.
struct Stat {
    name: String,
    parent: u32,
    ticks: u64,
    ticks_of_ended: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in parentheses and may hold anything; what follows is numbers, from the third field on.
        let (name, rest) =
            (text.get(text.find('(')? + 1..text.rfind(')')?)?, text.get(text.rfind(')')? + 2..)?);
        let fields: Vec<&str> = rest.split(' ').collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            name: name.to_owned(),
            parent: u32::try_from(number(4)?).ok()?,
            ticks: number(14)? + number(15)?,
            ticks_of_ended: number(16)? + number(17)?,
        })
    }

    fn all() -> BTreeMap<u32, Self> {
        processes().filter_map(|pid| Some((pid, Self::read(pid)?))).collect()
    }
}

fn processes() -> impl Iterator<Item = u32> {
    let folder = fs::read_dir("/proc").into_iter().flatten().flatten();
    folder.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The server that a backend belongs to, if it runs on this machine.
fn parent_of_postgres(backend: u32) -> Option<u32> {
    let stat = Stat::read(backend)?;
    (stat.name == "postgres").then_some(stat.parent)
}

/// The process that listens on a TCP port of this machine.
fn listener(port: u16) -> Option<u32> {
    const LISTENING: &str = "0A";
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let wanted = format!(":{port:04X}");
    let socket = table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (address, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        (address.ends_with(&wanted) && *state == LISTENING)
            .then(|| PathBuf::from(format!("socket:[{inode}]")))
    })?;
    processes().find(|pid| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.map(|file| fs::read_link(file.path())).any(|link| link.is_ok_and(|link| link == socket))
    })
}

/// Where a figure comes from, for the record.
#[derive(Debug, Serialize)]
pub(super) struct Origin {
    /// Processors, memory, kernel.
    pub(super) machine: String,
    pub(super) version: &'static str,
    /// The short hash of the sources' commit, with `+` where they differ from it; none outside a checkout of git.
    pub(super) commit: Option<String>,
}

impl Origin {
    /// This machine, this program, and the sources that it was built from as they are now.
    pub(super) fn find() -> Result<Self> {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
        Ok(Self { machine: machine()?, version: env!("CARGO_PKG_VERSION"), commit: commit_of(sources) })
    }

    /// What people are shown of it.
    pub(super) fn lines(&self) -> [(&'static str, String); 2] {
        let commit = self.commit.as_deref().unwrap_or("unknown");
        [("machine", self.machine.clone()), ("commit", commit.to_owned())]
    }
}

/// The commit that a folder of sources is at. Asked for when it is wanted: a build that knew it would be linked anew at each
/// commit.
fn commit_of(sources: &Path) -> Option<String> {
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.args(["--no-optional-locks", "-C"]).arg(sources).args(arguments).stdin(Stdio::null());
        let output = git.output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    let is_changed = !git(&["status", "--porcelain"])?.is_empty();
    Some(if is_changed { format!("{commit}+") } else { commit })
}

/// The machine, for the record: processors, memory, kernel.
fn machine() -> Result<String> {
    let processors = std::thread::available_parallelism()?;
    let info = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let memory = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let kibibytes = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next());
    let gibibytes = kibibytes.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) / (1 << 20);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let model = model.map_or("unknown processor", |(_, model)| model);
    Ok(format!("{processors} × {model}, {gibibytes} GiB, Linux {}", kernel.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_what_it_listens_on() {
        let listening = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(listener(listening.local_addr().unwrap().port()), Some(std::process::id()));
    }

    #[test]
    fn a_commit_is_told_with_whether_anything_differs_from_it() {
        let folder = tempfile::tempdir().unwrap();
        let git = |arguments: &[&str]| {
            let who = ["-c", "user.name=somebody", "-c", "user.email=somebody@flowbridge.example"];
            let mut git = Command::new("git");
            git.arg("-C").arg(folder.path()).args(who).args(["-c", "commit.gpgsign=false"]).args(arguments);
            assert!(git.status().unwrap().success(), "{arguments:?}");
        };
        git(&["init", "-q"]);
        assert_eq!(commit_of(folder.path()), None);
        git(&["commit", "-q", "--allow-empty", "-m", "first"]);
        let first = commit_of(folder.path()).unwrap();
        assert!(first.chars().all(|digit| digit.is_ascii_hexdigit()), "{first}");
        fs::write(folder.path().join("new"), "").unwrap();
        assert_eq!(commit_of(folder.path()), Some(format!("{first}+")));
    }

    #[test]
    fn processor_time_grows_with_work() {
        let ours = Processes(BTreeMap::from([(CLIENT, std::process::id())]));
        let before = ours.cpu()[CLIENT];
        let mut digest = [0; 32];
        // Work first: other threads of ours may have moved the clock already.
        loop {
            digest = flowbridge_security::sha256(&digest);
            if ours.cpu()[CLIENT] > before {
                break;
            }
        }
        assert_ne!(digest, [0; 32]);
    }
}
