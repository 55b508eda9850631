//! The chain role: a sender per lane, and the watcher.
//!
//! The senders turn effects into transactions; the watcher turns what the contracts say into observations. They share nothing
//! but the database, so each can be killed, doubled by mistake or started elsewhere without the other noticing.

mod allowance;
mod l1;
mod sender;
mod watcher;

use crate::context::{Context, RESTING_POLL, RESTS_AFTER, Rhythm, Turn, chain as causes, run_loop};
use flowbridge_chain::plan::FeePolicy;
use flowbridge_chain::watch::{Bell, WatchSettings};
use flowbridge_chain::{Chain, ChainError, ContractSet, Signer};
use flowbridge_store::chain::Lane;
use flowbridge_store::wake::Work;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Limits of the chain role.
#[derive(Debug, Clone)]
pub struct ChainSettings {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Payments in one transaction at most.
    pub batch_size_max: usize,
    /// How long the first payment of a batch waits for company.
    pub batch_delay: Duration,
    /// Transactions of a lane under way at the same time.
    pub in_flight_max: usize,
    /// Gas of one transaction at most; what would take more is sent in parts.
    pub gas_per_tx_max: u64,
    /// Gas beyond what a simulation took, in percent.
    pub gas_margin_percent: u64,
    /// What a transaction may cost, and when it is offered more.
    pub fees: FeePolicy,
    /// How the chain is read.
    pub watch: WatchSettings,
    /// Number and hash of the block before our contracts were deployed: where a new database begins to look. From the
    /// deployment's record, because a node may have forgotten it.
    pub start: (u64, [u8; 32]),
    /// How often to look for work and for blocks that nobody rang for.
    pub poll: Duration,
    /// How far apart a sender's turns are at least, so that batches fill.
    pub pace: Duration,
    /// How often the contracts are asked how far they have counted.
    pub counts_every: Duration,
    /// How long a lane, or the watcher's place, stays ours without renewal.
    pub lease: Duration,
}

/// How often contracts are asked how far they have counted, unless it matters: what a node leaves out shows by the next call, too.
pub const COUNTS_EVERY: Duration = Duration::from_secs(10);

/// What the role works with.
#[derive(Debug)]
pub struct ChainRole {
    /// The node.
    pub chain: Arc<dyn Chain>,
    /// Our contracts, one set per currency.
    pub contracts: Vec<ContractSet>,
    /// Who signs for each lane; a lane without a signer is another process's.
    pub signers: BTreeMap<Lane, Arc<dyn Signer>>,
    /// Wakes the watcher; without it polling alone finds new blocks.
    pub bell: Option<Bell>,
    /// Limits.
    pub settings: ChainSettings,
}

/// Runs until told to stop.
pub async fn run(context: Context, role: ChainRole, stop: CancellationToken) {
    let ChainRole { chain, contracts, signers, bell, settings } = role;
    let watcher = watch(&context, &chain, &contracts, &settings, &stop);
    let senders = futures_util::future::join_all(signers.into_iter().map(|(lane, signer)| {
        let sender = sender::Sender::new(
            context.clone(),
            chain.clone(),
            contracts.clone(),
            lane,
            signer,
            settings.clone(),
        );
        send(&context, sender, &settings, &stop)
    }));
    let ringing = async {
        match bell {
            Some(bell) => {
                tokio::select! {
                    () = bell.ring(|| context.wake.ring(Work::Blocks)) => {}
                    () = stop.cancelled() => {}
                }
            }
            None => stop.cancelled().await,
        }
    };
    let follower = l1::follow(&context, &chain, settings.watch.reorg_depth_blocks_max, &stop);
    let allowance = allowance::show(&context, &chain, &contracts, &stop);
    tokio::join!(watcher, senders, ringing, follower, allowance);
}

async fn send(
    context: &Context,
    mut sender: sender::Sender,
    settings: &ChainSettings,
    stop: &CancellationToken,
) {
    let name = sender.lane.as_str();
    let rhythm = Rhythm {
        bell: Work::ChainEffects,
        poll: settings.poll,
        rests_after: RESTS_AFTER,
        resting_poll: RESTING_POLL,
        pace: settings.pace,
    };
    run_loop(name, context, rhythm, stop, &mut sender).await;
    if let Err(error) = sender.release().await {
        tracing::warn!(
            lane = name,
            error = causes(&error),
            "could not give the lane back; it comes free when its lease runs out"
        );
    }
}

/// A chain with a block every second or so is looked at as often as settings say.
const BLOCKS_REST_AFTER: Duration = Duration::from_secs(2);

async fn watch(
    context: &Context,
    chain: &Arc<dyn Chain>,
    contracts: &[ContractSet],
    settings: &ChainSettings,
    stop: &CancellationToken,
) {
    let mut watcher =
        watcher::Watcher::new(context.clone(), chain.clone(), contracts.to_vec(), settings.clone());
    // Blocks have a rhythm of their own: the longer the last one is ago, the later the next may be seen, but within one block.
    let rhythm = Rhythm {
        bell: Work::Blocks,
        poll: settings.poll,
        rests_after: BLOCKS_REST_AFTER,
        resting_poll: RESTING_POLL,
        pace: Duration::ZERO,
    };
    run_loop("watcher", context, rhythm, stop, &mut watcher).await;
    if let Err(error) = watcher.release().await {
        tracing::warn!(
            error = causes(&error),
            "could not give the watcher's place back; it comes free when its lease runs out"
        );
    }
}

/// An answer that the chain did not give is not an error of ours: it is told once, and asked for again.
fn chain_error(who: &str, error: &ChainError) -> Turn {
    metrics::counter!("chain_errors_total", "who" => who.to_owned()).increment(1);
    if error.is_retryable() {
        tracing::warn!(who, %error, "the chain did not answer; asking again");
    } else {
        tracing::error!(who, %error, "the chain cannot be used as it is");
    }
    Turn::Idle
}
