//! A private chain node, supervised: Anvil, with blocks mined by us.
//!
//! Anvil runs with mining switched off and a thread of ours asks for each block. That gives sub-second block times that
//! can be frozen and stepped in tests, few blocks while nothing happens, and one place that sees every block as it is
//! made and writes it into a journal: a node that was killed and is started again goes on with the same chain, block hash
//! by block hash (`journal`). A chain that `restart` continues keeps its port, too.
//!
//! The calls block for a tenth of a second, or up to a few seconds when a long journal is replayed: from asynchronous code
//! use `spawn_blocking`.

mod journal;
mod miner;
mod rpc;

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::Signal;
use tempfile::TempDir;
use tracing::warn;

use crate::process::{self, Lock};
use journal::Saved;
use miner::{Miner, Pace};

const START_PATIENCE: Duration = Duration::from_secs(60);
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// Fits any batch of ours; the contracts' own limits are far below.
const BLOCK_GAS_MAX: u64 = 4_000_000_000;
/// Blocks whose transactions and receipts the node remembers: half an hour of one-second blocks under constant load.
const BLOCKS_WITH_TRANSACTIONS: u32 = 2048;

/// How to run a node. Start from [`AnvilSettings::in_folder`] and change what differs.
#[derive(Clone, Debug)]
pub struct AnvilSettings {
    /// Where the chain's journal and the node's log go. One node at a time runs in a folder.
    pub folder: PathBuf,
    /// The `anvil` program; without it, the one that `npm ci` put into `contracts/node_modules`, `.tools`, or `PATH`.
    pub binary: Option<PathBuf>,
    /// The port for JSON-RPC and WebSocket; without it, a free one.
    pub port: Option<u16>,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Time between blocks while there is work.
    pub block_time: Duration,
    /// Time between blocks once nothing has happened for a while, so that time-outs on the chain still come.
    pub idle_block_time: Duration,
    /// How many past states stay in memory. 0 keeps a long run small; `anvil_reorg` and `anvil_rollback` need as many as
    /// they go back.
    pub states_kept: u32,
    /// How many past blocks keep their transactions and receipts. Whoever reads the chain must not be further behind.
    pub blocks_kept: u32,
    /// Whether the chain is written down and continued at the next start. Costs a read of each block; leave it out where a
    /// run's chain is thrown away, such as a benchmark's.
    pub keeps_chain: bool,
}

impl AnvilSettings {
    /// Chain 31337 with a block every second, every 5 seconds when idle, on a free port.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            binary: None,
            port: None,
            chain_id: 31337,
            block_time: Duration::from_secs(1),
            idle_block_time: Duration::from_secs(5),
            states_kept: 0,
            blocks_kept: BLOCKS_WITH_TRANSACTIONS,
            keeps_chain: true,
        }
    }
}

/// A running node; dropping it stops it.
#[derive(Debug)]
pub struct EmbeddedAnvil {
    settings: AnvilSettings,
    binary: PathBuf,
    port: u16,
    node: Option<Child>,
    miner: Option<Miner>,
    _lock: Lock,
    _temporary: Option<TempDir>,
}

impl EmbeddedAnvil {
    /// Starts a node and brings it to where the folder's journal ends: the same blocks with the same hashes.
    ///
    /// # Errors
    /// When there is no `anvil`, the port or the folder is in use, or the node does not come up; the message says what
    /// to do.
    pub fn start(settings: AnvilSettings) -> Result<Self> {
        Self::start_in(settings, None)
    }

    /// A node for one test: a quarter of a second a block, idle or not, and 64 past states, so that it can reorganise.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn temporary() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("flowbridge-anvil-").tempdir()?;
        let block_time = Duration::from_millis(250);
        let settings = AnvilSettings {
            block_time,
            idle_block_time: block_time,
            states_kept: 64,
            ..AnvilSettings::in_folder(folder.path())
        };
        Self::start_in(settings, Some(folder))
    }

    fn start_in(mut settings: AnvilSettings, temporary: Option<TempDir>) -> Result<Self> {
        let folder = &mut settings.folder;
        fs::create_dir_all(&*folder).with_context(|| format!("create {}", folder.display()))?;
        *folder = folder.canonicalize()?;
        let lock = process::lock(folder, "Anvil")?;
        process::kill_all(folder, "anvil")?;
        let binary = find_binary(settings.binary.as_deref())?;
        let port = choose_port(settings.port)?;
        let mut anvil =
            Self { settings, binary, port, node: None, miner: None, _lock: lock, _temporary: temporary };
        let mut launched = anvil.launch();
        // Between being drawn and being listened on, a port is anybody's.
        for _ in 0..3 {
            let is_taken = || fs::read_to_string(anvil.log()).is_ok_and(|log| log.contains("in use"));
            if launched.is_ok() || anvil.settings.port.is_some() || !is_taken() {
                break;
            }
            anvil.kill();
            anvil.port = choose_port(None)?;
            launched = anvil.launch();
        }
        launched.map(|()| anvil)
    }

    /// `http://127.0.0.1:<port>`; the same after a restart.
    pub fn rpc_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// `ws://127.0.0.1:<port>`; the same after a restart.
    pub fn ws_url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    /// The node's own log.
    pub fn log(&self) -> PathBuf {
        self.settings.folder.join("anvil.log")
    }

    /// Stops making blocks; transactions wait in the pool. For tests that need a chain that stands still: when this returns,
    /// no block is under way. Says whether it stood still already.
    pub fn freeze(&self) -> bool {
        self.miner.as_ref().is_some_and(Miner::freeze)
    }

    /// Makes blocks again.
    pub fn thaw(&self) {
        if let Some(miner) = &self.miner {
            miner.thaw();
        }
    }

    /// Mines `count` blocks now, frozen or not, and returns when they are there.
    ///
    /// # Errors
    /// When the node is stopped or does not answer.
    pub fn mine(&self, count: u32) -> Result<()> {
        self.miner.as_ref().ok_or_else(|| anyhow!("the chain node is stopped"))?.mine(count)
    }

    /// Replaces the newest `depth` blocks by as many empty ones, and returns when the chain has been written down as it is then;
    /// their transactions go back to the pool. The node has to keep as many past states.
    ///
    /// # Errors
    /// When the node is stopped, does not answer, or has not so many blocks or states.
    pub fn reorganise(&self, depth: u32) -> Result<()> {
        self.miner.as_ref().ok_or_else(|| anyhow!("the chain node is stopped"))?.reorganise(depth)
    }

    /// Stops the node. Harmless when it is stopped already.
    pub fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    /// Kills the node with SIGKILL, as a crash would.
    pub fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    /// Stops the node if it runs, and starts it again on the same port.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.stop();
        self.launch()
    }

    /// Starts the node again if it has ended by itself, and says whether it had: for a supervisor's regular look.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn revive(&mut self) -> Result<bool> {
        let has_ended = self.node.as_mut().is_some_and(|node| !matches!(node.try_wait(), Ok(None)));
        if has_ended {
            warn!("the chain node has ended by itself and is started again");
            self.kill();
            self.launch()?;
        }
        Ok(has_ended)
    }

    fn end(&mut self, signal: Signal) {
        let Some(mut node) = self.node.take() else { return };
        if signal == Signal::KILL {
            process::signal(node.id(), signal);
        }
        self.miner = None;
        process::signal(node.id(), signal);
        if !process::wait_until(STOP_PATIENCE, || !matches!(node.try_wait(), Ok(None))) {
            warn!("the chain node did not stop in time and is killed");
            process::signal(node.id(), Signal::KILL);
            let _ = node.wait();
        }
    }

    fn launch(&mut self) -> Result<()> {
        let folder = self.settings.folder.clone();
        let mut saved = self.settings.keeps_chain.then(|| Saved::read(&folder)).transpose()?;
        if saved.as_ref().is_some_and(Saved::has_tail) {
            self.replay_in_private(saved.take().unwrap_or_default())?;
            saved = Some(Saved::read(&folder)?);
        }
        self.node = Some(self.start_node(self.port, saved.as_ref())?);
        let AnvilSettings { block_time, idle_block_time, .. } = self.settings;
        let pace = Pace { block_time, idle_block_time };
        let journal = saved.map(|saved| (folder, saved));
        self.miner = Some(Miner::start(self.port, pace, journal)?);
        Ok(())
    }

    /// Mines the journal's blocks again on a node that nobody else can reach, and makes them a checkpoint. On the known port
    /// clients would be back at once, and what they send would end up in blocks that had other contents.
    fn replay_in_private(&self, saved: Saved) -> Result<()> {
        let port = choose_port(None)?;
        let mut node = self.start_node(port, Some(&saved))?;
        // A thread of its own, because callers may be inside an asynchronous runtime.
        let folder = self.settings.folder.clone();
        let replayed = std::thread::spawn(move || journal::replay_into_checkpoint(&folder, saved, port))
            .join()
            .unwrap_or_else(|_| Err(anyhow!("replaying the chain's journal failed")));
        process::signal(node.id(), Signal::KILL);
        let _ = node.wait();
        replayed
    }

    fn start_node(&self, port: u16, saved: Option<&Saved>) -> Result<Child> {
        let folder = &self.settings.folder;
        let log = process::open_log(&self.log())?;
        let log_start = log.metadata()?.len();
        let mut command = process::command(&self.binary, None, "TERM");
        command.current_dir(folder).stdout(log.try_clone()?).stderr(log);
        command.args([
            "--no-mining",
            "--hardfork",
            "cancun",
            "--order",
            "fifo",
            "--no-request-size-limit",
            "--no-cors",
            "--disable-console-log",
        ]);
        // `safe` is two blocks behind the head and `finalized` four, so that finality is something to wait for.
        command.args(["--slots-in-an-epoch", "2", "--prune-history"]);
        if self.settings.states_kept > 0 {
            command.arg(self.settings.states_kept.to_string());
        }
        for (flag, value) in [
            ("--port", u64::from(port)),
            ("--chain-id", self.settings.chain_id),
            ("--gas-limit", BLOCK_GAS_MAX),
            ("--transaction-block-keeper", u64::from(self.settings.blocks_kept)),
        ] {
            command.arg(flag).arg(value.to_string());
        }
        if let Some(time) = saved.and_then(|saved| saved.genesis_time) {
            command.arg("--timestamp").arg(time.to_string());
        }
        if let Some(checkpoint) = saved.and_then(|saved| saved.checkpoint.as_ref()) {
            command.arg("--load-state").arg(checkpoint);
        }
        let mut node = process::spawn(command).with_context(|| format!("start {}", self.binary.display()))?;
        let mut exit = None;
        let settled = process::wait_until(START_PATIENCE, || {
            exit = node.try_wait().ok().flatten();
            exit.is_some() || process::has_logged(&self.log(), log_start, "Listening on")
        });
        if !settled || exit.is_some() {
            let _ = node.kill().and_then(|()| node.wait());
            bail!(
                "the chain node did not come up. The end of {}:\n{}\nIf its data is damaged, start anew with --fresh",
                self.log().display(),
                process::log_since(&self.log(), log_start)
            );
        }
        Ok(node)
    }
}

impl Drop for EmbeddedAnvil {
    fn drop(&mut self) {
        self.stop();
    }
}

fn find_binary(explicit: Option<&Path>) -> Result<PathBuf> {
    if let Some(binary) = explicit {
        return binary.canonicalize().with_context(|| format!("there is no program {}", binary.display()));
    }
    // The native program, not npm's wrapper: it starts in milliseconds and needs no Node.
    ["amd64", "arm64"]
        .iter()
        .map(|arch| format!("node_modules/@foundry-rs/anvil-linux-{arch}/bin/anvil"))
        .flat_map(|package| {
            let mut files = process::beside_us(&format!("contracts/{package}"));
            files.extend(process::beside_us(&format!(".tools/{package}")));
            files
        })
        .find(|file| file.is_file())
        .or_else(|| process::find_in_path("anvil"))
        .ok_or_else(|| {
            anyhow!(
                "Anvil was not found: run `cargo xtask setup`, or `npm ci --ignore-scripts` in contracts/"
            )
        })
}

fn choose_port(wanted: Option<u16>) -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted.unwrap_or(0))).with_context(|| {
        format!(
            "the chain node's port {} is in use: stop what uses it, or choose another",
            wanted.unwrap_or(0)
        )
    })?;
    Ok(listener.local_addr()?.port())
}
