//! The thread that asks for each block.
//!
//! While transactions wait, or a few blocks after the last one (so that confirmations and finality follow at once), a
//! block comes every `block_time`; after that every `idle_block_time`, which keeps a chain that runs all day small.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::warn;

use super::rpc::Rpc;

/// Empty blocks at full speed after the last transaction: more than any finality policy waits for on this chain.
const EMPTY_BLOCKS_BEFORE_IDLE: u32 = 8;

#[derive(Debug)]
pub(crate) struct Miner {
    orders: mpsc::Sender<Order>,
    frozen: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

enum Order {
    Mine(u32, mpsc::Sender<Result<()>>),
    End,
}

impl Miner {
    pub(crate) fn start(port: u16, block_time: Duration, idle_block_time: Duration) -> Result<Self> {
        let (orders, inbox) = mpsc::channel();
        let frozen = Arc::new(AtomicBool::new(false));
        let pace = Pace { block_time, idle_block_time, last: Instant::now(), empty: 0 };
        let rpc = Rpc::new(port)?;
        let thread = thread::Builder::new().name("chain-miner".into()).spawn({
            let frozen = frozen.clone();
            move || run(&rpc, pace, &inbox, &frozen)
        })?;
        Ok(Self { orders, frozen, thread: Some(thread) })
    }

    pub(crate) fn freeze(&self, frozen: bool) {
        self.frozen.store(frozen, Ordering::Release);
    }

    pub(crate) fn mine(&self, count: u32) -> Result<()> {
        let (answer, outcome) = mpsc::channel();
        // When the thread has ended, the question is dropped with its answer's sender.
        let _ = self.orders.send(Order::Mine(count, answer));
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

struct Pace {
    block_time: Duration,
    idle_block_time: Duration,
    last: Instant,
    empty: u32,
}

impl Pace {
    fn until_next(&self) -> Duration {
        self.block_time.saturating_sub(self.last.elapsed())
    }

    fn is_due(&self, pending: u64) -> bool {
        pending > 0 || self.empty < EMPTY_BLOCKS_BEFORE_IDLE || self.last.elapsed() >= self.idle_block_time
    }

    fn mined(&mut self, pending: u64) {
        self.last = Instant::now();
        self.empty = if pending > 0 { 0 } else { self.empty.saturating_add(1) };
    }
}

fn run(rpc: &Rpc, mut pace: Pace, inbox: &mpsc::Receiver<Order>, frozen: &AtomicBool) {
    let mut failures = 0u32;
    loop {
        // While idle the pool is looked at every `block_time`, a call of a fifth of a millisecond.
        let wait =
            pace.until_next().max(if pace.until_next().is_zero() { pace.block_time } else { Duration::ZERO });
        match inbox.recv_timeout(wait) {
            Ok(Order::Mine(count, answer)) => {
                let outcome = (0..count).try_for_each(|_| mine(rpc));
                pace.mined(0);
                // The asker may have given up waiting.
                let _ = answer.send(outcome);
            }
            Err(mpsc::RecvTimeoutError::Timeout) if frozen.load(Ordering::Acquire) => {
                pace.last = Instant::now()
            }
            Err(mpsc::RecvTimeoutError::Timeout) => match tick(rpc, &mut pace) {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures += 1;
                    if failures == 1 {
                        warn!(error = format!("{error:#}"), "the chain node makes no blocks");
                    }
                    pace.last = Instant::now();
                }
            },
            Ok(Order::End) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn tick(rpc: &Rpc, pace: &mut Pace) -> Result<()> {
    let pending = pending(rpc)?;
    if pace.is_due(pending) {
        mine(rpc)?;
        pace.mined(pending);
    }
    Ok(())
}

fn mine(rpc: &Rpc) -> Result<()> {
    rpc.call::<Value>("evm_mine", json!([])).map(drop)
}

fn pending(rpc: &Rpc) -> Result<u64> {
    #[derive(Deserialize)]
    struct Pool {
        pending: String,
    }
    let pool: Pool = rpc.call("txpool_status", json!([]))?;
    Ok(u64::from_str_radix(pool.pending.trim_start_matches("0x"), 16)?)
}
