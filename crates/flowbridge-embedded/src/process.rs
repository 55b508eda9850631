//! Child processes that never outlive us unnoticed.
//!
//! Every child is spawned by one thread that lives as long as the process, because Linux ties the parent-death signal to
//! the *thread* that forked: a server started by a short-lived test thread would otherwise be stopped with that thread.
//! Where `setpriv` exists, a child gets that signal when we are killed; where it does not, the next start finds the
//! survivor by its working folder and stops it.

use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, setrlimit};

/// How long a process may take to vanish once it is killed.
pub(crate) const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// What this process may have open at least, where the system allows as much: ten thousand clients, and what serves them.
const OPEN_FILES: u64 = 65_536;

/// Each connection is an open file, and a shell or a service manager allows a thousand until a process asks for more. What the
/// system refuses stays as it is.
pub fn allow_open_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(OPEN_FILES, |maximum| maximum.min(OPEN_FILES));
    if current.is_some_and(|current| current < wanted) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    }
}

/// The system account a server runs under when we are root, since PostgreSQL refuses to run as root.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) name: String,
    uid: u32,
    gid: u32,
}

impl Account {
    /// `None` when we are not root: the server then simply runs as we do.
    pub(crate) fn to_drop_to() -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let passwd = fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
        let account = |wanted: &str| {
            passwd.lines().find_map(|line| {
                let mut fields = line.split(':');
                let name = fields.next().filter(|name| *name == wanted)?.to_owned();
                let uid = fields.nth(1)?.parse().ok()?;
                let gid = fields.next()?.parse().ok()?;
                Some(Self { name, uid, gid })
            })
        };
        account("postgres").or_else(|| account("nobody")).map(Some).ok_or_else(|| {
            anyhow!("PostgreSQL refuses to run as root and there is no account `postgres` or `nobody` to run it as: add one with `useradd --system postgres`")
        })
    }

    /// Whether this account may enter `folder`: one closed ancestor, such as a home folder, is enough to shut it out.
    pub(crate) fn can_enter(&self, folder: &Path) -> bool {
        folder.ancestors().filter_map(|part| part.metadata().ok()).all(|part| {
            let mode = part.permissions().mode();
            (part.uid() == self.uid && mode & 0o100 != 0)
                || (part.gid() == self.gid && mode & 0o010 != 0)
                || mode & 0o001 != 0
        })
    }

    pub(crate) fn own(&self, path: &Path) -> Result<()> {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
            .with_context(|| format!("give {} to the account {}", path.display(), self.name))
    }
}

/// A command that runs `program` under `account`, in a process group of its own (so that Ctrl-C in a terminal reaches
/// only us and we decide the order of stopping), and gets `death_signal` when this process dies.
pub(crate) fn command(program: &Path, account: Option<&Account>, death_signal: &str) -> Command {
    let mut command = match find_in_path("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", death_signal]);
            if let Some(account) = account {
                command.arg("--reuid").arg(account.uid.to_string());
                command.arg("--regid").arg(account.gid.to_string()).arg("--clear-groups");
            }
            command.arg(program);
            command
        }
        None => {
            let mut command = Command::new(program);
            if let Some(account) = account {
                command.uid(account.uid).gid(account.gid);
            }
            command
        }
    };
    command.process_group(0).stdin(Stdio::null());
    command
}

/// Spawns from the thread that lives as long as the process.
pub(crate) fn spawn(command: Command) -> io::Result<Child> {
    type Request = (Command, mpsc::SyncSender<io::Result<Child>>);
    static KEEPER: OnceLock<mpsc::Sender<Request>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (requests, inbox) = mpsc::channel::<Request>();
        thread::spawn(move || {
            for (mut command, answer) in inbox {
                // The asker waits for the answer below, so it is there to take it.
                let _ = answer.send(command.spawn());
            }
        });
        requests
    });
    let gone = || io::Error::other("the thread that starts processes has ended");
    let (answer, outcome) = mpsc::sync_channel(1);
    keeper.send((command, answer)).map_err(|_| gone())?;
    outcome.recv().map_err(|_| gone())?
}

pub(crate) fn find_in_path(program: impl AsRef<OsStr>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin"));
    std::env::split_paths(&path).map(|folder| folder.join(program.as_ref())).find(|file| file.is_file())
}

/// `below` in the current folder and in each of its ancestors, nearest first: where `cargo xtask setup` puts tools.
pub(crate) fn beside_us(below: &str) -> Vec<PathBuf> {
    let here = std::env::current_dir().unwrap_or_default();
    here.ancestors().map(|ancestor| ancestor.join(below)).collect()
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    // A process that is already gone is what every caller wants, so that error is no error.
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Every living process of `program` whose working folder is `folder`. PostgreSQL's processes all work inside their data
/// folder, and each leads a session of its own, so neither the process group nor the parent finds all of them after a
/// crash. The program's name keeps a shell that looks around in the folder out of it.
pub(crate) fn working_in(folder: &Path, program: &str) -> Vec<u32> {
    let Ok(folder) = folder.canonicalize() else { return Vec::new() };
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder))
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == program)
        })
        .collect()
}

/// Kills what is left of `program` in `folder`, and waits until nothing is.
pub(crate) fn kill_all(folder: &Path, program: &str) -> Result<()> {
    let none_left = wait_until(KILL_PATIENCE, || {
        let left = working_in(folder, program);
        left.iter().for_each(|pid| signal(*pid, Signal::KILL));
        left.is_empty()
    });
    if none_left {
        Ok(())
    } else {
        bail!("a process of {program} in {} does not end even when killed", folder.display())
    }
}

/// Polls `is_true` every few milliseconds until it holds; false when `patience` ran out first.
pub(crate) fn wait_until(patience: Duration, mut is_true: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if is_true() {
            return true;
        }
        if start.elapsed() > patience {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// A folder that is ours alone. The kernel gives it back however we end.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file is not enough: a child that another thread is spawning holds a copy of it until it has become
        // its program.
        let _ = self.0.unlock();
    }
}

/// Takes `<folder>/lock` for as long as the returned value lives.
pub(crate) fn lock(folder: &Path, what: &str) -> Result<Lock> {
    let path = folder.join("lock");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0)?;
            write!(file, "{}", std::process::id())?;
            Ok(Lock(file))
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder)?;
            bail!(
                "{what} in {} is already run by process {}: stop that one first, or use another data folder",
                folder.display(),
                holder.trim()
            )
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

/// Opens a server's log for appending; one that has grown beyond 8 MiB is set aside as `<name>.old` first.
pub(crate) fn open_log(path: &Path) -> Result<File> {
    if path.metadata().is_ok_and(|log| log.len() > 8 << 20) {
        fs::rename(path, path.with_extension("log.old"))?;
    }
    File::options().create(true).append(true).open(path).with_context(|| format!("open {}", path.display()))
}

/// Whether a server has written `text` to its log since byte `from`, however much came after it.
pub(crate) fn has_logged(path: &Path, from: u64, text: &str) -> bool {
    read_from(path, from).contains(text)
}

/// The end of what a server wrote to its log since byte `from`, for an error message.
pub(crate) fn log_since(path: &Path, from: u64) -> String {
    let text = read_from(path, from);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

fn read_from(path: &Path, from: u64) -> String {
    let mut text = Vec::new();
    if let Ok(mut file) = File::open(path) {
        let _ = file.seek(SeekFrom::Start(from)).and_then(|_| file.read_to_end(&mut text));
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// A program of ours beside this one. It ends when this process does, however that ends.
#[derive(Debug)]
pub struct Companion {
    child: Option<Child>,
    log: PathBuf,
}

impl Companion {
    /// Starts `program` with these arguments and, beside what we have, these variables; what it says goes to `log`.
    ///
    /// # Errors
    /// When it cannot be started, or the log cannot be written.
    pub fn start(
        program: &Path,
        arguments: &[&OsStr],
        variables: &[(&str, &str)],
        log: &Path,
    ) -> Result<Self> {
        let mut command = command(program, None, "TERM");
        let file = open_log(log)?;
        command.args(arguments).envs(variables.iter().copied()).stdout(file.try_clone()?).stderr(file);
        let child = spawn(command).with_context(|| format!("start {}", program.display()))?;
        Ok(Self { child: Some(child), log: log.to_owned() })
    }

    /// What it said last, if it has ended by itself.
    pub fn last_words(&mut self) -> Option<String> {
        let has_ended = self.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)));
        has_ended.then(|| log_since(&self.log, 0))
    }

    /// Asks it to stop, and makes it when it has not within `patience`.
    pub fn stop(&mut self, patience: Duration) {
        let Some(mut child) = self.child.take() else { return };
        signal(child.id(), Signal::TERM);
        if !wait_until(patience, || !matches!(child.try_wait(), Ok(None))) {
            signal(child.id(), Signal::KILL);
            let _ = child.wait();
        }
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        self.stop(KILL_PATIENCE);
    }
}
