//! A `flowbridge dev` of a test's own: in a folder below the build's, where it finds the repository's tools, on free ports,
//! stopped when the test ends, however it ends.

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The ports that `flowbridge dev --port` takes, counted from the first.
const PORTS: [u16; 5] = [0, 1, 2, 465, 1384];
/// Longer than anything here takes, so that a test that waits for nothing ends.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A running FlowBridge.
pub(crate) struct Running {
    process: Child,
    folder: PathBuf,
    /// Where its API is.
    pub(crate) url: String,
    /// Where Prometheus would scrape it.
    pub(crate) metrics_url: String,
}

impl Running {
    /// Starts it with `settings` in its environment, and waits until it serves.
    pub(crate) async fn start(name: &str, settings: &[(&str, &str)]) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        fs::create_dir_all(&folder).unwrap();
        let port = free_port();
        let mut process = Command::new(env!("CARGO_BIN_EXE_flowbridge"))
            .args(["dev", "--fresh", "--port", &port.to_string()])
            .current_dir(&folder)
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(folder.join("log")).unwrap())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let running = Self {
            process,
            folder,
            url: format!("http://127.0.0.1:{port}"),
            metrics_url: format!("http://127.0.0.1:{}/metrics", port + 1384),
        };
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        // Read to its end, or the program would wait for its reader.
        std::thread::spawn(move || {
            let mut ready = Some(ready);
            for line in output.lines().map_while(Result::ok) {
                if line == "FlowBridge is running."
                    && let Some(ready) = ready.take()
                {
                    ready.send(()).unwrap();
                }
            }
        });
        let came_up = tokio::time::timeout(PATIENCE, is_ready).await.is_ok_and(|said| said.is_ok());
        assert!(came_up, "flowbridge dev did not come up: {}", running.log());
        running
    }

    /// A file that it made.
    pub(crate) fn file(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    /// What a command prints, whether it goes well or not.
    pub(crate) fn said(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.run(arguments).stdout).unwrap()
    }

    /// What a command that is refused prints.
    pub(crate) fn refusal(&self, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.run(arguments);
        let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(!status.success(), "{arguments:?}: {said}");
        said
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flowbridge"));
        command.args(arguments).current_dir(&self.folder).output().unwrap()
    }

    /// What a command prints.
    pub(crate) fn command(&self, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.run(arguments);
        assert!(status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap().trim().to_owned()
    }

    /// What a command prints, as JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.command(arguments)).unwrap()
    }

    /// Waits until a payment is in a state.
    pub(crate) async fn reaches(&self, payment: &str, state: &str) {
        let path = format!("/v1/payments/{payment}");
        until(async || self.json(&["api", "GET", &path])["state"] == state).await;
    }

    /// Everything it logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Stops it, which has to go well.
    pub(crate) async fn stop(mut self) -> String {
        self.ask_to_stop();
        until(async || self.process.try_wait().unwrap().is_some()).await;
        assert!(self.process.wait().unwrap().success(), "{}", self.log());
        self.log()
    }

    fn ask_to_stop(&self) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.process.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Only a test that has failed comes here with it running; its servers are to end, too.
        if matches!(self.process.try_wait(), Ok(None)) {
            self.ask_to_stop();
            let _ = self.process.wait();
        }
    }
}

/// Waits for a condition.
pub(crate) async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Given once: until its server listens, a port looks free to the next test, too.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

fn free_port() -> u16 {
    let mut given = GIVEN.lock().unwrap();
    let bind = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let is_free = |port: u16| !given.contains(&port) && bind(port).is_ok();
    // Below those that benchmarks draw from, and those that the system gives to outgoing connections.
    let candidates = std::iter::repeat_with(|| bind(0).unwrap().local_addr().unwrap().port() / 5 + 6_000);
    let first =
        candidates.take(100).find(|first| PORTS.iter().all(|offset| is_free(first + offset))).unwrap();
    given.extend(PORTS.iter().map(|offset| first + offset));
    first
}
