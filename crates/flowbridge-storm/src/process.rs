//! A role of FlowBridge as a process of its own, to be killed, stopped and started.

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal};
use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// How long a process may take to drain and end.
const TERM_PATIENCE: Duration = Duration::from_secs(90);

/// What to start, again and again.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    /// For messages and the names of logs, such as `gateway-1`.
    pub(crate) name: String,
    /// As `serve --roles` takes it.
    pub(crate) role: &'static str,
    pub(crate) binary: PathBuf,
    /// Working folder, above `.flowbridge`.
    pub(crate) home: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) environment: Vec<(String, String)>,
}

impl Recipe {
    /// Where its metrics are read.
    pub(crate) fn metrics_url(&self) -> Result<String> {
        let listen = self.environment.iter().find(|(name, _)| name.ends_with("METRICS_LISTEN"));
        let (_, address) = listen.with_context(|| format!("{} has no metrics", self.name))?;
        Ok(format!("http://{address}/metrics"))
    }
}

/// A process that runs, is stopped, or has been killed.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) recipe: Recipe,
    child: Option<Child>,
}

impl Process {
    pub(crate) const fn new(recipe: Recipe) -> Self {
        Self { recipe, child: None }
    }

    /// Starts it.
    pub(crate) fn start(&mut self) -> Result<()> {
        self.start_with(&[])
    }

    /// Starts it with something that goes wrong: `FLOWBRIDGE_CRASH` (see the store's `failpoint` module) or
    /// `FLOWBRIDGE_CLOCK_OFFSET_SECS`.
    pub(crate) fn start_with(&mut self, wrong: &[(&str, &str)]) -> Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.recipe.name);
        let log = open_log(&self.log())?;
        let mut command = Command::new(&self.recipe.binary);
        // Whoever interrupts the storm from a terminal means the storm.
        command.process_group(0);
        command
            .args(["serve", "--roles", self.recipe.role, "--config"])
            .arg(&self.recipe.config)
            .current_dir(&self.recipe.home)
            .envs(self.recipe.environment.iter().map(|(name, value)| (name, value)))
            .envs(wrong.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        self.child = Some(command.spawn().with_context(|| format!("start {}", self.recipe.name))?);
        Ok(())
    }

    /// Where its output goes, all runs one after the other.
    pub(crate) fn log(&self) -> PathBuf {
        self.recipe.home.join("logs").join(format!("{}.log", self.recipe.name))
    }

    /// SIGKILL, and gone when this returns.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// SIGTERM, and waits for the end. What does not end in time is a finding.
    pub(crate) async fn terminate(&mut self) -> Result<()> {
        self.signal(Signal::TERM);
        if let Some(mut child) = self.child.take() {
            let ended = tokio::time::timeout(TERM_PATIENCE, child.wait()).await;
            ended.with_context(|| {
                format!("{} did not end within {TERM_PATIENCE:?} of SIGTERM", self.recipe.name)
            })??;
        }
        Ok(())
    }

    /// SIGSTOP: alive, and doing nothing.
    pub(crate) fn pause(&mut self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub(crate) fn resume(&mut self) {
        self.signal(Signal::CONT);
    }

    /// Whether it has ended by itself; then it can be started again.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.has_aborted().is_some()
    }

    /// If it has ended by itself, whether that was an abort; then it can be started again.
    pub(crate) fn has_aborted(&mut self) -> Option<bool> {
        let signal = match self.child.as_mut()?.try_wait() {
            Ok(None) => return None,
            Ok(Some(status)) => status.signal(),
            Err(_) => None,
        };
        self.child = None;
        Some(signal == Some(Signal::ABORT.as_raw()))
    }

    /// Its largest memory so far, bytes.
    pub(crate) fn memory_max(&self) -> u64 {
        let id = self.child.as_ref().and_then(Child::id);
        id.map_or(0, |id| memory_of(&id.to_string()))
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().and_then(Child::id).and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = id.and_then(Pid::from_raw) {
            // One that is gone already needs no signal.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

/// The largest memory so far of a process by its number, or of `self`, bytes.
pub(crate) fn memory_of(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0);
    kib * 1024
}

fn open_log(path: &Path) -> Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    File::options().create(true).append(true).open(path).with_context(|| format!("open {}", path.display()))
}
