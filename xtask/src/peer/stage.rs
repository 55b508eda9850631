//! A FlowBridge of the checks' own: `flowbridge dev` on free ports, in a folder below `target/` so that it finds the
//! repository's tools, stopped with all its servers whatever becomes of the checks.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::shell;

/// What `flowbridge dev` says when it is ready.
const READY: &str = "FlowBridge is running.";
const START_PATIENCE: Duration = Duration::from_secs(300);
const STOP_PATIENCE: Duration = Duration::from_secs(60);
/// The ports that `flowbridge dev --port` takes, counted from the first.
const PORTS: [u16; 5] = [0, 1, 2, 465, 1384];

/// A running FlowBridge.
pub(crate) struct Stage {
    process: Child,
    program: PathBuf,
    folder: PathBuf,
    /// Where its API is.
    pub(crate) url: String,
}

impl Stage {
    /// Builds, starts, and waits until it has sent its first payments and serves.
    pub(crate) fn start() -> Result<Self> {
        shell::build_as_for_tests()?;
        let target = shell::target_folder()?;
        let folder = target.join("peers");
        if folder.exists() {
            fs::remove_dir_all(&folder).context("remove what an earlier check left")?;
        }
        fs::create_dir_all(&folder)?;
        let program = target.join("debug/flowbridge");
        let port = free_port()?;
        let mut command = shell::command(&program, &["dev", "--fresh", "--port", &port.to_string()]);
        // Invented webhook endpoints are not to be called.
        command.env("FLOWBRIDGE__WEBHOOKS__PUBLIC_ALLOWED", "false");
        // It may log nothing, on whatever machine: a node that takes its time is no news here, and one token lasts.
        command.env("FLOWBRIDGE__CHAIN__CALL_TIMEOUT_MS", "30000");
        command.env("FLOWBRIDGE__SECURITY__TOKEN_TTL_SECS", "3600");
        command.current_dir(&folder).stdout(Stdio::piped()).stderr(File::create(folder.join("dev.log"))?);
        let mut process = command.spawn().context("start flowbridge dev")?;
        let output = process.stdout.take().context("the output of flowbridge dev")?;
        let stage = Self { process, program, folder, url: format!("http://127.0.0.1:{port}") };
        let (say, said) = mpsc::channel();
        // Read to the end, or the program would wait for its reader.
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = say.send(line);
            }
        });
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            match said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line == READY => break,
                Ok(_) => {}
                Err(_) => bail!("flowbridge dev did not come up: {}", stage.log()),
            }
        }
        println!("    a FlowBridge of the check's own serves at {}", stage.url);
        Ok(stage)
    }

    /// The command line, acting on this FlowBridge.
    pub(crate) fn flowbridge(&self, arguments: &[&str]) -> Command {
        let mut command = shell::command(&self.program, arguments);
        command.current_dir(&self.folder);
        command
    }

    /// An access token of one of its clients.
    pub(crate) fn token(&self, client: &str) -> Result<String> {
        Ok(shell::output(self.flowbridge(&["token", "--client", client]))?.trim().to_owned())
    }

    /// A file beside its data.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Stops it, which has to go well and without a complaint.
    pub(crate) fn stop(mut self) -> Result<()> {
        let status = self.terminate()?;
        let log = self.log();
        ensure!(status, "flowbridge dev did not stop cleanly: {log}");
        ensure!(log.is_empty(), "flowbridge dev logged, from its start to its end: {log}");
        println!("    stopped cleanly, with nothing to complain about");
        Ok(())
    }

    /// What it logged: warnings and errors.
    fn log(&self) -> String {
        fs::read_to_string(self.file("dev.log")).unwrap_or_default()
    }

    /// Asks it to stop, and makes it if it takes too long. Says whether it stopped by itself and well.
    fn terminate(&mut self) -> Result<bool> {
        // The shell's own, which needs no program of that name.
        let mut ask = shell::command("sh", &["-c", &format!("kill -TERM {}", self.process.id())]);
        ask.stdout(Stdio::null()).stderr(Stdio::null());
        let _ = ask.status();
        let deadline = Instant::now() + STOP_PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status.success());
            }
            thread::sleep(Duration::from_millis(50));
        }
        self.process.kill()?;
        self.process.wait()?;
        Ok(false)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Already gone after `stop`; after a failed check this is where it ends.
        if matches!(self.process.try_wait(), Ok(None)) {
            let _ = self.terminate();
        }
    }
}

/// A port that is free, with the others that follow from it.
fn free_port() -> Result<u16> {
    let bind = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    for _ in 0..100 {
        let first = bind(0)?.local_addr()?.port();
        // Above it, the system would hand the others out to anybody in the meantime.
        let first = first / 2 + 1_024;
        if PORTS.iter().all(|offset| bind(first + offset).is_ok()) {
            return Ok(first);
        }
    }
    bail!("there are no five free ports")
}

/// A receiver of webhooks, which keeps what it is sent.
pub(crate) struct Receiver {
    process: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    /// Where it listens.
    pub(crate) url: String,
}

impl Receiver {
    /// Listens until `count` deliveries have come.
    pub(crate) fn start(count: usize) -> Result<Self> {
        let mut command = shell::command("node", &["tools/record-webhooks.mjs", &count.to_string()]);
        let mut process =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("start the receiver")?;
        let output = process.stdout.take().context("the receiver's output")?;
        let mut receiver = Self { process, lines: BufReader::new(output).lines(), url: String::new() };
        let port = receiver.next_line()?;
        receiver.url = format!("http://127.0.0.1:{port}/webhooks");
        Ok(receiver)
    }

    /// Waits for the deliveries.
    pub(crate) fn deliveries(mut self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.next_line()?).context("the receiver's deliveries")
    }

    fn next_line(&mut self) -> Result<String> {
        if let Some(line) = self.lines.next() {
            return Ok(line?);
        }
        let mut why = String::new();
        if let Some(errors) = self.process.stderr.as_mut() {
            errors.read_to_string(&mut why)?;
        }
        bail!("the receiver of webhooks ended: {}", why.trim())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
