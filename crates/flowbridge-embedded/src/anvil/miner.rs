//! The thread that asks for each block, and writes each into the journal before it asks for the next.
//!
//! While transactions wait, or a few blocks after the last one (so that confirmations and finality follow at once), a
//! block comes every `block_time`; after that every `idle_block_time`, which keeps a chain that runs all day small.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::warn;

use super::journal::{Journal, Saved};
use super::rpc::Rpc;

/// Empty blocks at full speed after the last transaction: more than any finality policy waits for on this chain.
const EMPTY_BLOCKS_BEFORE_IDLE: u32 = 8;

#[derive(Debug)]
pub(crate) struct Miner {
    orders: mpsc::Sender<Order>,
    frozen: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Order {
    Mine(u32, mpsc::Sender<Result<()>>),
    Reorganise(u32, mpsc::Sender<Result<()>>),
    /// Nothing but an answer, which comes when what was being done is done.
    Settle(mpsc::Sender<Result<()>>),
    End,
}

/// When the next block is due.
#[derive(Debug)]
pub(crate) struct Pace {
    pub(crate) block_time: Duration,
    pub(crate) idle_block_time: Duration,
}

impl Miner {
    /// Brings the chain back to where the journal ends, if one is kept, then starts mining.
    pub(crate) fn start(port: u16, pace: Pace, journal: Option<(PathBuf, Saved)>) -> Result<Self> {
        let rpc = Rpc::new(port)?;
        let (orders, inbox) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        let frozen = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new().name("chain-miner".into()).spawn({
            let frozen = frozen.clone();
            move || match journal.map(|(folder, saved)| Journal::resume(&folder, saved, &rpc)).transpose() {
                Ok(journal) => {
                    // Nobody is left to mine for when the starter has gone; the first order then ends the loop.
                    let _ = ready.send(Ok(()));
                    Mining { rpc, journal, pace, frozen, last: Instant::now(), empty: 0 }.run(&inbox);
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        })?;
        is_ready.recv().map_err(|_| anyhow!("the thread that mines has ended"))??;
        Ok(Self { orders, frozen, thread: Some(thread) })
    }

    /// When this returns no block is under way. Says whether that was so before.
    pub(crate) fn freeze(&self) -> bool {
        let was_frozen = self.frozen.swap(true, Ordering::AcqRel);
        // A thread that has ended mines nothing either.
        let _ = self.order(Order::Settle);
        was_frozen
    }

    pub(crate) fn thaw(&self) {
        self.frozen.store(false, Ordering::Release);
    }

    pub(crate) fn mine(&self, count: u32) -> Result<()> {
        self.order(|answer| Order::Mine(count, answer))
    }

    pub(crate) fn reorganise(&self, depth: u32) -> Result<()> {
        self.order(|answer| Order::Reorganise(depth, answer))
    }

    fn order(&self, order: impl FnOnce(mpsc::Sender<Result<()>>) -> Order) -> Result<()> {
        let (answer, outcome) = mpsc::channel();
        // When the thread has ended, the order is dropped together with the sender of its answer.
        let _ = self.orders.send(order(answer));
        outcome.recv().map_err(|_| anyhow!("the chain node has stopped"))?
    }
}

impl Drop for Miner {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Mining {
    rpc: Rpc,
    journal: Option<Journal>,
    pace: Pace,
    frozen: Arc<AtomicBool>,
    /// When the last block was mined, and how many before it were empty.
    last: Instant,
    empty: u32,
}

impl Mining {
    fn run(mut self, inbox: &mpsc::Receiver<Order>) {
        let mut is_failing = false;
        let mut next_look = Instant::now();
        loop {
            let outcome = match inbox.recv_timeout(next_look.saturating_duration_since(Instant::now())) {
                Ok(Order::Mine(count, answer)) => {
                    let outcome = (0..count).try_for_each(|_| self.mine()).and_then(|()| self.follow());
                    // The asker may have given up waiting.
                    let _ = answer.send(outcome);
                    continue;
                }
                Ok(Order::Reorganise(depth, answer)) => {
                    let _ = answer.send(self.reorganise(depth));
                    continue;
                }
                Ok(Order::Settle(answer)) => {
                    let _ = answer.send(Ok(()));
                    continue;
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    next_look = (next_look + self.pace.block_time).max(Instant::now());
                    self.look()
                }
                Ok(Order::End) | Err(mpsc::RecvTimeoutError::Disconnected) => break,
            };
            if let Err(error) = &outcome
                && !is_failing
            {
                warn!(error = format!("{error:#}"), "the chain node makes no blocks");
            }
            is_failing = outcome.is_err();
        }
        // A node that was killed cannot answer any more, and what it had not told is lost: that is what a crash means.
        let _ = self.journal.map(|mut journal| journal.close(&self.rpc));
    }

    fn look(&mut self) -> Result<()> {
        if !self.frozen.load(Ordering::Acquire) {
            let pending = self.pending()?;
            self.empty = if pending > 0 { 0 } else { self.empty.saturating_add(1) };
            // The next look is a `block_time` away, so the nearer one of two is taken.
            let is_idle_over = self.last.elapsed() + self.pace.block_time / 2 >= self.pace.idle_block_time;
            if self.empty <= EMPTY_BLOCKS_BEFORE_IDLE || is_idle_over {
                self.mine()?;
            }
        }
        self.follow()
    }

    fn follow(&mut self) -> Result<()> {
        let is_idle = self.empty > EMPTY_BLOCKS_BEFORE_IDLE;
        self.journal.as_mut().map_or(Ok(()), |journal| journal.follow(&self.rpc, is_idle))
    }

    fn mine(&mut self) -> Result<()> {
        self.rpc.call::<Value>("evm_mine", json!([]))?;
        self.last = Instant::now();
        Ok(())
    }

    /// Nothing is mined or written down in between, so the journal begins with what the reorganisation left.
    fn reorganise(&mut self, depth: u32) -> Result<()> {
        self.rpc.call::<Value>("anvil_reorg", json!([depth, []]))?;
        self.journal.as_mut().map_or(Ok(()), |journal| journal.start_over(&self.rpc))
    }

    fn pending(&self) -> Result<u64> {
        #[derive(Deserialize)]
        struct Pool {
            pending: String,
        }
        let pool: Pool = self.rpc.call("txpool_status", json!([]))?;
        Ok(u64::from_str_radix(pool.pending.trim_start_matches("0x"), 16)?)
    }
}
