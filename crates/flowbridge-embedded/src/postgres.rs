//! A private PostgreSQL server, supervised.
//!
//! It keeps its data under one folder, answers only on a Unix socket in a folder that only its owner may enter, and runs
//! with `fsync = on` like any other (`temporary` excepted). What is promised: a start after any end of the last run, SIGKILL of everything
//! included, continues with every committed byte; a folder is never used by two runs at once; no server outlives us
//! unnoticed. How it fails: a missing program, a folder of another version, a damaged or busy folder each stop the start
//! with what to do about it, and the end of the server's own log.
//!
//! The calls block, for about a second at the first start of a folder and a fifth of one later: from asynchronous code
//! use `spawn_blocking`.

mod binaries;

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::Signal;
use tempfile::TempDir;
use tracing::{info, warn};

use crate::process::{self, Account, Lock};
use binaries::Binaries;

const CONFIG: &str = include_str!("postgres/postgresql.conf");
/// The owner of the server, and the database that exists from the start.
const NAME: &str = "flowbridge";
/// The kernel's limit on the path of a Unix socket, without its closing zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Where data lies whose own folder is closed to the server's account.
const HOMES: &str = "/var/lib/flowbridge";
const TEMPORARY_PREFIX: &str = "flowbridge-postgres-";
/// Redo of a gigabyte of log takes a few seconds; a minute means that something is wrong.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// The closing checkpoint writes what one of a minute has left.
const FAST_STOP_PATIENCE: Duration = Duration::from_secs(30);

/// A running server; dropping it stops it.
#[derive(Debug)]
pub struct EmbeddedPostgres {
    binaries: Binaries,
    account: Option<Account>,
    /// `data`, and `run` unless its path is too long for a socket.
    home: PathBuf,
    log: PathBuf,
    socket: SocketFolder,
    server: Option<Child>,
    temporary: Option<TempDir>,
    _lock: Lock,
}

#[derive(Debug)]
enum SocketFolder {
    Home(PathBuf),
    Short(TempDir),
}

impl SocketFolder {
    fn path(&self) -> &Path {
        match self {
            Self::Home(path) => path,
            Self::Short(folder) => folder.path(),
        }
    }
}

impl EmbeddedPostgres {
    /// Starts the server whose data lies under `folder`, creating both on first use. `binaries` names the folder that
    /// holds `postgres` and `initdb`; without it they are searched for.
    ///
    /// # Errors
    /// When there is no suitable PostgreSQL, the folder belongs to another version or a running process, or the server
    /// does not come up; the message says what to do.
    pub fn start(folder: &Path, binaries: Option<&Path>) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let folder = folder.canonicalize()?;
        Self::start_in(&folder, binaries, None)
    }

    /// A server for one test run, in a fresh folder under the system's temporary folder, removed with it. Folders that
    /// killed test runs left behind are removed on the way. It leaves out `fsync`: what is committed survives a crash of
    /// the server, though not one of the machine.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn temporary() -> Result<Self> {
        let account = Account::to_drop_to()?;
        let mut parent = std::env::temp_dir();
        if account.is_some_and(|account| !account.can_enter(&parent)) {
            parent = PathBuf::from("/tmp");
        }
        remove_abandoned(&parent);
        let folder = tempfile::Builder::new()
            .prefix(TEMPORARY_PREFIX)
            .permissions(fs::Permissions::from_mode(0o711))
            .tempdir_in(&parent)
            .with_context(|| format!("create a folder in {}", parent.display()))?;
        let path = folder.path().to_owned();
        let_through(&path)?;
        Self::start_in(&path, None, Some(folder))
    }

    fn start_in(folder: &Path, binaries: Option<&Path>, temporary: Option<TempDir>) -> Result<Self> {
        let lock = process::lock(folder, "PostgreSQL")?;
        let account = Account::to_drop_to()?;
        let home = home(folder, account.as_ref())?;
        let data = home.join("data");
        stop_survivors(&data)?;
        let binaries = Binaries::find(binaries, data_major(&data)?, account.as_ref())?;
        let socket = socket_folder(&home, account.as_ref())?;
        let mut postgres = Self {
            binaries,
            account,
            log: folder.join("postgres.log"),
            home,
            socket,
            server: None,
            temporary,
            _lock: lock,
        };
        if !data.exists() {
            postgres.initialise()?;
        }
        postgres.launch()?;
        Ok(postgres)
    }

    /// A connection string for the database `flowbridge`.
    pub fn url(&self) -> String {
        self.url_of(NAME)
    }

    /// A connection string for `database`, whether it exists yet or not.
    pub fn url_of(&self, database: &str) -> String {
        format!("postgresql:///{database}?host={}&user={NAME}", percent_encoded(self.socket.path()))
    }

    /// The server's socket.
    pub fn socket(&self) -> PathBuf {
        self.socket.path().join(".s.PGSQL.5432")
    }

    /// The folder with the server's data, for messages.
    pub fn data_folder(&self) -> PathBuf {
        self.home.join("data")
    }

    /// The server's own log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The major version that runs, 15 or newer.
    pub fn major_version(&self) -> u32 {
        self.binaries.major
    }

    /// Stops the server: clients are disconnected, everything is written out. Harmless when it is stopped already.
    pub fn stop(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        // SIGINT is a fast shutdown. SIGQUIT leaves without the closing checkpoint; the next start replays the log.
        for (name, patience) in [(Signal::INT, FAST_STOP_PATIENCE), (Signal::QUIT, process::KILL_PATIENCE)] {
            process::signal(server.id(), name);
            if process::wait_until(patience, || matches!(server.try_wait(), Ok(Some(_)) | Err(_))) {
                return;
            }
            warn!(signal = ?name, "PostgreSQL did not stop in time");
        }
        self.kill(server);
    }

    /// Kills every process of the server at once with SIGKILL, as a power cut would: for tests of recovery.
    pub fn crash(&mut self) {
        if let Some(server) = self.server.take() {
            self.kill(server);
        }
    }

    /// Stops the server if it runs, and starts it again on the same data and the same socket.
    ///
    /// # Errors
    /// When it does not come up again.
    pub fn restart(&mut self) -> Result<()> {
        self.stop();
        self.launch()
    }

    /// Starts the server again if it has ended by itself, and says whether it had: for a supervisor's regular look.
    ///
    /// # Errors
    /// When it does not come up again.
    pub fn revive(&mut self) -> Result<bool> {
        let has_ended = self.server.as_mut().is_some_and(|server| !matches!(server.try_wait(), Ok(None)));
        if has_ended {
            warn!("PostgreSQL has ended by itself and is started again");
            self.crash();
            self.launch()?;
        }
        Ok(has_ended)
    }

    /// The postmaster first, so that it starts no replacement; then every backend. A survivor would hold the shared
    /// memory and make the next start wait for it.
    fn kill(&self, mut server: Child) {
        process::signal(server.id(), Signal::KILL);
        if let Err(error) = server.wait() {
            warn!(%error, "PostgreSQL's main process could not be waited for");
        }
        if let Err(error) = process::kill_all(&self.data_folder(), "postgres") {
            warn!(error = format!("{error:#}"), "a process of PostgreSQL is left");
        }
    }

    /// Creates the data folder beside its final place and moves it there when it is whole: what is called `data` has
    /// never been half made.
    fn initialise(&self) -> Result<()> {
        info!("creating a PostgreSQL {} data folder in {}", self.binaries.major, self.home.display());
        let unfinished = self.home.join("data.unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        private_folder(&unfinished, self.account.as_ref())?;
        let mut initdb = self.command("initdb");
        initdb.args(["--encoding=UTF8", "--locale=C", "--auth=trust", "--no-instructions"]);
        initdb.args(["--no-sync", "--username", NAME, "--pgdata"]).arg(&unfinished);
        self.run(initdb, "")?;
        self.configure(&unfinished)?;
        let mut single = self.command("postgres");
        single.arg("--single").arg("-D").arg(&unfinished).args(["-c", "fsync=off", "postgres"]);
        self.run(single, &format!("create database {NAME}\n"))?;
        if self.temporary.is_none() {
            // All of it at once, instead of a thousand times on the way.
            let mut sync = self.command("initdb");
            sync.args(["--sync-only", "--pgdata"]).arg(&unfinished);
            self.run(sync, "")?;
        }
        fs::rename(&unfinished, self.data_folder()).context("move the new data folder to its place")
    }

    fn configure(&self, data: &Path) -> Result<()> {
        let path = data.join("postgresql.conf");
        fs::write(&path, CONFIG).with_context(|| format!("write {}", path.display()))?;
        self.account.as_ref().map_or(Ok(()), |account| account.own(&path))
    }

    fn launch(&mut self) -> Result<()> {
        let data = self.data_folder();
        self.configure(&data)?;
        remove_misleading_pid_file(&data);
        let log = process::open_log(&self.log)?;
        let log_start = log.metadata()?.len();
        let mut command = self.command("postgres");
        command.arg("-D").arg(&data).arg("-k").arg(self.socket.path());
        if self.temporary.is_some() {
            command.args(["-c", "fsync=off"]);
        }
        command.stdout(log.try_clone()?).stderr(log);
        let mut server = process::spawn(command).context("start PostgreSQL")?;
        let mut exit = None;
        let settled = process::wait_until(START_PATIENCE, || {
            exit = server.try_wait().ok().flatten();
            exit.is_some() || is_ready(&data, server.id())
        });
        if settled && exit.is_none() {
            self.server = Some(server);
            return Ok(());
        }
        let ended = match exit {
            Some(status) => format!("ended with {status}"),
            None => {
                self.kill(server);
                format!("was not ready after {} s", START_PATIENCE.as_secs())
            }
        };
        Err(anyhow!(
            "PostgreSQL {ended}. The end of {}:\n{}\nIf its data is damaged, restore {} from a backup or start anew with --fresh",
            self.log.display(),
            process::log_since(&self.log, log_start),
            data.display(),
        ))
    }

    /// One of PostgreSQL's programs, under the right account and with nothing of our environment.
    fn command(&self, program: &str) -> Command {
        let mut command = process::command(&self.binaries.folder.join(program), self.account.as_ref(), "INT");
        command.current_dir("/").env_clear();
        command.envs([("LC_ALL", "C"), ("TZ", "UTC"), ("PATH", "/usr/local/bin:/usr/bin:/bin")]);
        command
    }

    fn run(&self, mut command: Command, input: &str) -> Result<()> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("run {command:?}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}

impl Drop for EmbeddedPostgres {
    fn drop(&mut self) {
        if self.temporary.is_some() {
            self.crash();
        } else {
            self.stop();
        }
    }
}

/// Where `data` and `run` lie. That is `folder`, unless we are root and the folder is closed to the account the server
/// runs under, as everything below `/root` is; then it is a folder of ours in `/var/lib/flowbridge`, which the link
/// `home` names. Without the link, what lies there belongs to a folder that was deleted, and goes too.
fn home(folder: &Path, account: Option<&Account>) -> Result<PathBuf> {
    let Some(account) = account.filter(|account| !account.can_enter(folder)) else {
        return Ok(folder.to_owned());
    };
    let name = folder.display().to_string().trim_start_matches('/').replace('-', "%2d").replace('/', "-");
    let home = Path::new(HOMES).join(name);
    let link = folder.join("home");
    if !link.is_symlink() {
        if home.exists() {
            stop_survivors(&home.join("data"))?;
            fs::remove_dir_all(&home)?;
        }
        std::os::unix::fs::symlink(&home, &link)?;
    }
    fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
    let_through(Path::new(HOMES))?;
    let_through(&home)?;
    info!(
        "{} is closed to the account {}: the data is kept in {}",
        folder.display(),
        account.name,
        home.display()
    );
    Ok(home)
}

/// Others may pass through a folder of ours, whatever the umask says of new ones.
fn let_through(folder: &Path) -> Result<()> {
    let open = |folder: &Path| {
        let mode = fs::metadata(folder)?.permissions().mode();
        fs::set_permissions(folder, fs::Permissions::from_mode(mode | 0o011))
    };
    open(folder).with_context(|| format!("open {} to the server's account", folder.display()))
}

/// A path as the query of an address has it.
fn percent_encoded(path: &Path) -> String {
    let mut encoded = String::new();
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(byte) {
            encoded.push(char::from(*byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// The major version that wrote `data`; `None` when there is no such folder yet.
fn data_major(data: &Path) -> Result<Option<u32>> {
    if !data.exists() {
        return Ok(None);
    }
    let file = data.join("PG_VERSION");
    let text = fs::read_to_string(&file).unwrap_or_default();
    text.trim().parse().map(Some).map_err(|_| {
        anyhow!(
            "{} is missing or unreadable, so the data folder is damaged: restore it from a backup, or start anew with --fresh",
            file.display()
        )
    })
}

fn socket_folder(home: &Path, account: Option<&Account>) -> Result<SocketFolder> {
    let inside = home.join("run");
    if inside.join(".s.PGSQL.5432").as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        private_folder(&inside, account)?;
        return Ok(SocketFolder::Home(inside));
    }
    let short = tempfile::Builder::new().prefix("flowbridge-").tempdir_in("/tmp")?;
    private_folder(short.path(), account)?;
    Ok(SocketFolder::Short(short))
}

fn private_folder(path: &Path, account: Option<&Account>) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    account.map_or(Ok(()), |account| account.own(path))
}

/// What `pg_ctl` waits for: the eighth line of the pid file of *this* process says `ready`.
fn is_ready(data: &Path, pid: u32) -> bool {
    let text = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let mut lines = text.lines();
    lines.next().is_some_and(|first| first.trim() == pid.to_string())
        && lines.nth(6).is_some_and(|status| status.trim() == "ready")
}

/// PostgreSQL handles a stale pid file by itself, except when its number now belongs to a stranger: it then takes the
/// stranger for a running server. We hold the folder's lock and nothing works in it, so the file speaks of the past.
fn remove_misleading_pid_file(data: &Path) {
    let file = data.join("postmaster.pid");
    let pid = fs::read_to_string(&file).ok().and_then(|text| text.lines().next()?.trim().parse::<u32>().ok());
    if pid.is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists())
        && process::working_in(data, "postgres").is_empty()
    {
        let _ = fs::remove_file(&file);
    }
}

/// Stops what a killed run left working in `data`: first by an immediate shutdown, in which the postmaster takes its
/// backends with it, then by force.
fn stop_survivors(data: &Path) -> Result<()> {
    let survivors = process::working_in(data, "postgres");
    if survivors.is_empty() {
        return Ok(());
    }
    warn!(count = survivors.len(), "stopping the PostgreSQL processes that an earlier run left behind");
    for pid in survivors {
        process::signal(pid, Signal::QUIT);
    }
    if process::wait_until(process::KILL_PATIENCE, || process::working_in(data, "postgres").is_empty()) {
        return Ok(());
    }
    process::kill_all(data, "postgres")
}

/// Removes the folders of temporary servers whose test run was killed: those whose lock nobody holds any more.
fn remove_abandoned(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let folder = entry.path();
        let is_ours = entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX);
        // A folder whose lock nobody has signed is being made at this moment.
        let is_signed = fs::read(folder.join("lock")).is_ok_and(|holder| !holder.is_empty());
        if is_ours && is_signed && process::lock(&folder, "PostgreSQL").is_ok() {
            let removed =
                stop_survivors(&folder.join("data")).and_then(|()| Ok(fs::remove_dir_all(&folder)?));
            if let Err(error) = removed {
                warn!(error = format!("{error:#}"), "could not remove {}", folder.display());
            }
        }
    }
}
