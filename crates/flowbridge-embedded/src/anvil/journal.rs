//! The chain's memory. Anvil forgets on SIGKILL whatever it has not dumped, so each block's raw transactions and time
//! are written down as it is made, and at the next start they are mined again, on a node that no client can reach.
//!
//! Anvil's blocks follow from their transactions, their order, their time, their base fee and the genesis time alone (checked by test):
//! the replayed blocks have the *same hashes*, so nobody who follows the chain notices more than a pause. What had not
//! reached the disk when everything was killed is missing at the tip, a shallow reorganisation like any other.
//!
//! Two files. `journal.jsonl` is append-only: a line with the genesis time, then a line per block, forced to disk before
//! the next block is made; a torn last line is ignored. Every so often `checkpoint.json`, a dump of the node's state
//! with its blocks, replaces what the journal holds so far, so that neither file nor the time to start grows with the
//! age of the chain. Of blocks before the checkpoint, those that are old and empty are dropped.
//!
//! What is not in a block cannot be replayed: after `anvil_setBalance` and the like the replayed hashes differ, which is
//! noticed and logged. The blocks that `anvil_reorg` makes are no others' either, so a reorganisation asked of the supervisor ends
//! with a checkpoint. One that somebody asks the node for is seen by the hashes it changes, but not where it only replaced
//! blocks that had not been written down yet: after a crash the chain then differs from there on.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use alloy::eips::eip2718::Encodable2718 as _;
use alloy::primitives::{B256, Bytes};
use alloy::rpc::types::Block;
use anyhow::{Context as _, Result, anyhow};
use flate2::read::GzDecoder;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::{debug, info, warn};

use super::rpc::Rpc;

/// Beyond either, a checkpoint is taken as soon as the chain is idle: it halts the chain for as long as it takes. Replaying
/// a block takes about a millisecond, replaying a mebibyte of the journal a twentieth of a second.
const TAIL_BLOCKS_MAX: usize = 1_000;
const TAIL_BYTES_MAX: usize = 16 << 20;
/// Beyond this, idle or not.
const TAIL_BLOCKS_BUSY_MAX: usize = 10_000;
/// A longer tail is folded into a checkpoint when the node is stopped, to make the next start quick.
const TAIL_BLOCKS_AFTER_STOP_MAX: usize = 100;
/// Empty blocks older than this are of no use to anyone; a watcher rewinds less.
const EMPTY_BLOCKS_KEPT: u64 = 256;

#[derive(Debug, Serialize, Deserialize)]
struct Genesis {
    genesis_time: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    number: u64,
    hash: B256,
    time: u64,
    /// None in journals that were written before it was.
    #[serde(default)]
    base_fee: Option<u64>,
    transactions: Vec<Bytes>,
}

/// What an earlier run left, to be replayed onto a fresh node.
#[derive(Debug, Default)]
pub(crate) struct Saved {
    pub(crate) genesis_time: Option<u64>,
    pub(crate) checkpoint: Option<PathBuf>,
    tail: Vec<Entry>,
    /// The journal's length without a torn last line.
    whole_bytes: u64,
}

impl Saved {
    /// Whether there are blocks that no checkpoint holds.
    pub(crate) const fn has_tail(&self) -> bool {
        !self.tail.is_empty()
    }

    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("journal.jsonl");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let damaged = |line: usize| {
            format!(
                "{} is damaged in line {line}: restore it from a backup, or start anew with --fresh",
                path.display()
            )
        };
        // Without its line end a line was not written whole; nobody was told of that block by us.
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        let mut lines = whole.lines();
        let Some(first) = lines.next() else { return Ok(Self::default()) };
        let genesis: Genesis = serde_json::from_str(first).with_context(|| damaged(1))?;
        let tail = lines
            .enumerate()
            .map(|(index, line)| serde_json::from_str(line).with_context(|| damaged(index + 2)))
            .collect::<Result<_>>()?;
        let checkpoint = Some(folder.join("checkpoint.json")).filter(|file| file.exists());
        let whole_bytes = whole.len() as u64;
        Ok(Self { genesis_time: Some(genesis.genesis_time), checkpoint, tail, whole_bytes })
    }
}

/// Brings a fresh node at `port` to where the journal ends, and puts its state in place of the journal.
pub(crate) fn replay_into_checkpoint(folder: &Path, saved: Saved, port: u16) -> Result<()> {
    let rpc = Rpc::new(port)?;
    Journal::resume(folder, saved, &rpc)?.checkpoint(&rpc)
}

/// The open journal of a running node.
#[derive(Debug)]
pub(crate) struct Journal {
    folder: PathBuf,
    file: File,
    genesis_time: u64,
    /// The last block that the checkpoint holds; 0 without one.
    base: u64,
    /// Hashes of the blocks after `base`.
    tail: Vec<B256>,
    tail_bytes: usize,
}

impl Journal {
    /// Mines the saved blocks again on a node that has just loaded the checkpoint, sets its clock, and goes on from there.
    pub(crate) fn resume(folder: &Path, saved: Saved, rpc: &Rpc) -> Result<Self> {
        // Our own calls would fill its log.
        rpc.call::<Value>("anvil_setLoggingEnabled", json!([false]))?;
        let loaded = block(rpc, "latest", false)?.header.number;
        let replayed = replay(rpc, loaded, &saved.tail)?;
        let (file, genesis_time) = match saved.genesis_time {
            Some(time) => (continue_file(folder, saved.whole_bytes)?, time),
            None => {
                let time = block(rpc, "earliest", false)?.header.timestamp;
                (start_file(folder, time)?, time)
            }
        };
        let tail: Vec<B256> =
            saved.tail.iter().filter(|entry| entry.number > loaded).map(|entry| entry.hash).collect();
        let mut journal = Self {
            file,
            folder: folder.to_owned(),
            genesis_time,
            base: loaded,
            tail,
            tail_bytes: usize::try_from(saved.whole_bytes)?,
        };
        match replayed {
            Replayed::Same => journal.append(rpc)?,
            Replayed::Different => journal.checkpoint(rpc)?,
        }
        Ok(journal)
    }

    /// Writes down what the chain has done since the last call. The blocks are on disk when this returns.
    pub(crate) fn follow(&mut self, rpc: &Rpc, is_idle: bool) -> Result<()> {
        self.append(rpc)?;
        let is_long = self.tail.len() > TAIL_BLOCKS_MAX || self.tail_bytes > TAIL_BYTES_MAX;
        if is_long && is_idle || self.tail.len() > TAIL_BLOCKS_BUSY_MAX {
            self.checkpoint(rpc)
        } else {
            Ok(())
        }
    }

    fn append(&mut self, rpc: &Rpc) -> Result<()> {
        let head = block(rpc, "latest", false)?;
        if head.header.number == self.head()
            && self.hash_of(self.head()).is_none_or(|hash| hash == head.header.hash)
        {
            return Ok(());
        }
        if self.is_extended(rpc, head.header.number)? {
            self.append_up_to(rpc, head.header.number)
        } else {
            debug!(chain.block_number = head.header.number, "the chain was reorganised: taking a checkpoint");
            self.checkpoint(rpc)
        }
    }

    /// The last entries before the node is stopped in good order.
    pub(crate) fn close(&mut self, rpc: &Rpc) -> Result<()> {
        self.append(rpc)?;
        if self.tail.len() > TAIL_BLOCKS_AFTER_STOP_MAX { self.checkpoint(rpc) } else { Ok(()) }
    }

    fn head(&self) -> u64 {
        self.base + self.tail.len() as u64
    }

    fn hash_of(&self, number: u64) -> Option<B256> {
        let index = number.checked_sub(self.base + 1)?;
        self.tail.get(usize::try_from(index).ok()?).copied()
    }

    /// Whether the last block we know is still part of the chain.
    fn is_extended(&self, rpc: &Rpc, head: u64) -> Result<bool> {
        Ok(match self.hash_of(self.head()) {
            _ if head < self.head() => false,
            Some(hash) => block(rpc, &format!("{:#x}", self.head()), false)?.header.hash == hash,
            None => true,
        })
    }

    fn append_up_to(&mut self, rpc: &Rpc, head: u64) -> Result<()> {
        let mut lines = Vec::new();
        let mut hashes = Vec::new();
        for number in self.head() + 1..=head {
            let block = block(rpc, &format!("{number:#x}"), true)?;
            let entry = Entry {
                number,
                hash: block.header.hash,
                time: block.header.timestamp,
                base_fee: block.header.base_fee_per_gas,
                transactions: block.transactions.txns().map(|tx| tx.inner.encoded_2718().into()).collect(),
            };
            serde_json::to_writer(&mut lines, &entry)?;
            lines.push(b'\n');
            hashes.push(entry.hash);
        }
        let length = self.file.metadata().context("look at the chain's journal")?.len();
        if let Err(error) = self.file.write_all(&lines).and_then(|()| self.file.sync_data()) {
            // Half a line would make the next one unreadable, once the disk has room again.
            let _ = self.file.set_len(length);
            return Err(error).context("write the chain's journal");
        }
        self.tail_bytes += lines.len();
        self.tail.append(&mut hashes);
        Ok(())
    }

    /// The chain was changed by something that no journal can repeat.
    pub(crate) fn start_over(&mut self, rpc: &Rpc) -> Result<()> {
        self.checkpoint(rpc)
    }

    /// Puts the node's whole state in place of the journal so far. A crash between the two renames leaves entries that
    /// the checkpoint already holds; the replay skips them.
    fn checkpoint(&mut self, rpc: &Rpc) -> Result<()> {
        let dump: Bytes = rpc.call("anvil_dumpState", json!([]))?;
        let mut text = Vec::new();
        GzDecoder::new(dump.as_ref()).read_to_end(&mut text).context("unpack the chain's state")?;
        let mut state: Value = serde_json::from_slice(&text).context("read the chain's state")?;
        let head =
            state["best_block_number"].as_u64().ok_or_else(|| anyhow!("the chain's state names no head"))?;
        prune(&mut state, head);
        replace(&self.folder.join("checkpoint.json"), &serde_json::to_vec(&state)?)?;
        self.file = start_file(&self.folder, self.genesis_time)?;
        self.base = head;
        self.tail.clear();
        self.tail_bytes = 0;
        Ok(())
    }
}

enum Replayed {
    Same,
    Different,
}

fn replay(rpc: &Rpc, loaded: u64, tail: &[Entry]) -> Result<Replayed> {
    let mut replayed = Replayed::Same;
    let mut last = block(rpc, "latest", false)?.header;
    let missing: Vec<&Entry> = tail.iter().filter(|entry| entry.number > loaded).collect();
    if let Some(newest) = missing.last() {
        info!(chain.block_number = newest.number, "the chain is being replayed: {} blocks", missing.len());
    }
    for entry in missing {
        for transaction in &entry.transactions {
            if let Err(error) = rpc.call::<Value>("eth_sendRawTransaction", json!([transaction])) {
                warn!(chain.block_number = entry.number, error = format!("{error:#}"), "not replayed");
            }
        }
        rpc.call::<Value>("evm_setNextBlockTimestamp", json!([entry.time]))?;
        // It follows from the block before, unless somebody has set it.
        if let Some(fee) = entry.base_fee {
            rpc.call::<Value>("anvil_setNextBlockBaseFeePerGas", json!([format!("{fee:#x}")]))?;
        }
        rpc.call::<Value>("evm_mine", json!([]))?;
        last = block(rpc, "latest", false)?.header;
        if last.hash != entry.hash && matches!(replayed, Replayed::Same) {
            replayed = Replayed::Different;
            warn!(
                chain.block_number = entry.number,
                "replayed blocks differ from here on: something outside of blocks had changed the chain, such as anvil_setBalance"
            );
        }
    }
    // The node took the last block's time for its clock. A clock that was put forward stays ahead.
    rpc.call::<Value>("evm_setTime", json!([last.timestamp.max(wall_clock_secs())]))?;
    Ok(replayed)
}

#[expect(clippy::disallowed_methods, reason = "the chain's clock is the machine's, as that of any node")]
fn wall_clock_secs() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn block(rpc: &Rpc, which: &str, with_transactions: bool) -> Result<Block> {
    rpc.call::<Option<Block>>("eth_getBlockByNumber", json!([which, with_transactions]))?
        .ok_or_else(|| anyhow!("the chain node has no block {which}"))
}

/// Drops old empty blocks, and the call traces of transactions, which take more room than everything else.
fn prune(state: &mut Value, head: u64) {
    let number = |block: &Value| {
        let text = block["header"]["number"].as_str().unwrap_or_default();
        u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or(0)
    };
    if let Some(blocks) = state["blocks"].as_array_mut() {
        blocks.retain(|block| {
            let is_empty = block["transactions"].as_array().is_none_or(Vec::is_empty);
            !is_empty || number(block) == 0 || number(block) + EMPTY_BLOCKS_KEPT > head
        });
    }
    for transaction in state["transactions"].as_array_mut().into_iter().flatten() {
        transaction["info"]["traces"] = json!([]);
    }
}

fn start_file(folder: &Path, genesis_time: u64) -> Result<File> {
    let path = folder.join("journal.jsonl");
    let mut line = serde_json::to_vec(&Genesis { genesis_time })?;
    line.push(b'\n');
    replace(&path, &line)?;
    File::options().append(true).open(&path).with_context(|| format!("open {}", path.display()))
}

/// Opens the journal to go on after its last whole line.
fn continue_file(folder: &Path, whole_bytes: u64) -> Result<File> {
    let path = folder.join("journal.jsonl");
    let open = || -> std::io::Result<File> {
        let file = File::options().append(true).open(&path)?;
        file.set_len(whole_bytes)?;
        Ok(file)
    };
    open().with_context(|| format!("open {}", path.display()))
}

/// Writes a whole file so that after a crash it is either the old or the new one.
fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let unfinished = path.with_extension("unfinished");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&unfinished)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    write().with_context(|| format!("write {}", path.display()))
}
