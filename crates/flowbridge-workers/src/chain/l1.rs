//! Where the blocks that concern us are on their way to L1, on a chain that settles there in batches and tells about it.
//!
//! Nothing waits for this: finality is what the node calls `safe` and `finalized`. It is evidence for people, which batch and
//! which L1 transactions a payment is in. What is asked again gives the same rows, so any process may ask.

use crate::context::{Context, Rhythm, Turn, Worker, run_loop};
use flowbridge_chain::Chain;
use flowbridge_store::StoreError;
use flowbridge_store::chain::{self as rows, L1Block};
use flowbridge_store::wake::Work;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A batch takes minutes to hours.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Blocks asked about in one turn, of those before each stage.
const BLOCKS_MAX: i64 = 64;

/// Follows for ever, if the chain has batches; else does nothing until it is told to stop.
pub(super) async fn follow(
    context: &Context,
    chain: &Arc<dyn Chain>,
    reorg_depth_blocks_max: u64,
    stop: &CancellationToken,
) {
    let mut follower = Follower {
        context: context.clone(),
        chain: chain.clone(),
        reorg_depth_blocks_max,
        has_batches: None,
    };
    let rhythm = Rhythm::once_in(LOOK_INTERVAL, Work::Blocks);
    run_loop("l1", context, rhythm, stop, &mut follower).await;
}

struct Follower {
    context: Context,
    chain: Arc<dyn Chain>,
    reorg_depth_blocks_max: u64,
    /// Not known before the chain has answered once, or refused to.
    has_batches: Option<bool>,
}

impl Worker for Follower {
    async fn turn(&mut self) -> Result<Turn, StoreError> {
        if self.has_batches.is_none() {
            self.has_batches = self.chain.has_l1_batches().await.ok();
        }
        if self.has_batches != Some(true) {
            return Ok(Turn::Idle);
        }
        let mut found = Vec::new();
        let depth = self.reorg_depth_blocks_max;
        for block in rows::blocks_on_their_way(&self.context.db, depth, BLOCKS_MAX).await? {
            let Ok(answer) = self.chain.l1_batch(block).await else { break };
            found.extend(answer.map(|batch| L1Block {
                block_number: block,
                batch_number: batch.number,
                commit_tx: batch.commit_tx,
                prove_tx: batch.prove_tx,
                execute_tx: batch.execute_tx,
                is_executed: batch.is_executed,
            }));
        }
        rows::save_l1_blocks(&self.context.db, &found).await?;
        Ok(Turn::Idle)
    }
}
