//! The watcher: reads our contracts' logs from a place kept in the database, and writes down what they say.
//!
//! It promises that nothing is missed and nothing is told twice: a stretch of blocks, the observations that follow, the wallets'
//! balances and the new place are one transaction, under the lease on the place. A reorganisation is told as what it is: the
//! logs that are gone, newest first, as removed. The WebSocket only wakes it up.
//!
//! Far behind, the next stretch is read while this one is written: node and database work at the same time, and two stretches
//! are all that is in memory.

use super::{ChainSettings, chain_error};
use crate::context::{Context, Turn, Worker};
use flowbridge_chain::watch::{Head, Next, Place, REACH_FIRST, Stretch, next};
use flowbridge_chain::{Block, Chain, ChainError, ContractSet, Said, SeenLog};
use flowbridge_domain::time::Timestamp;
use flowbridge_store::StoreError;
use flowbridge_store::chain::{self as rows, WatcherLease};
use flowbridge_store::wake::Work;
use std::sync::Arc;

/// The reader of one chain.
#[derive(Debug)]
pub(super) struct Watcher {
    context: Context,
    chain: Arc<dyn Chain>,
    contracts: Vec<ContractSet>,
    settings: ChainSettings,
    /// The head that was last written; a new process writes it once more.
    head: Option<Head>,
    /// Blocks to ask for at once.
    reach: u64,
    /// A stretch that was read while the one before it was written.
    ahead: Option<Ahead>,
}

/// A stretch, and the place after which it comes.
#[derive(Debug)]
struct Ahead {
    after: (u64, [u8; 32]),
    stretch: Box<Stretch>,
}

impl Worker for Watcher {
    /// One turn: takes in a stretch, goes back, or finds nothing new. Idle while somebody else watches.
    async fn turn(&mut self) -> Result<Turn, StoreError> {
        let now = self.context.now();
        let owner = self.context.instance.as_str();
        let lease =
            rows::lease_watcher(&self.context.db, owner, self.settings.start, now, self.settings.lease)
                .await?;
        let ahead = self.ahead.take();
        let Some(lease) = lease else { return Ok(Turn::Idle) };
        if let Some(Ahead { after, stretch }) = ahead
            && after == (lease.block_number, lease.block_hash)
        {
            return self.take_in(&lease, *stretch, now).await;
        }
        let known_max = i64::try_from(self.settings.watch.reorg_depth_blocks_max).unwrap_or(i64::MAX);
        let place = Place {
            number: lease.block_number,
            hash: lease.block_hash,
            known: rows::known_blocks(&self.context.db, known_max).await?,
            head: self.head,
            reach: self.reach,
        };
        let remembers_less = i64::try_from(place.known.len()).unwrap_or(i64::MAX) < known_max;
        match next(&*self.chain, &self.contracts, &place, &self.settings.watch).await {
            Ok(Next::Idle) => Ok(Turn::Idle),
            Ok(Next::Again) => Ok(Turn::Busy),
            Ok(Next::Rewind(ancestor)) => self.rewind(&lease, &ancestor, now).await,
            Ok(Next::TakeIn(stretch)) => self.take_in(&lease, *stretch, now).await,
            Err(ChainError::DeepReorg(_)) if remembers_less => {
                self.rewind_by_logs(&lease, place, known_max, now).await
            }
            Err(error) => Ok(chain_error("watcher", &error)),
        }
    }
}

impl Watcher {
    pub(super) fn new(
        context: Context,
        chain: Arc<dyn Chain>,
        contracts: Vec<ContractSet>,
        settings: ChainSettings,
    ) -> Self {
        Self { context, chain, contracts, settings, head: None, reach: REACH_FIRST, ahead: None }
    }

    pub(super) async fn release(&self) -> Result<(), StoreError> {
        rows::release_watcher(&self.context.db, &self.context.instance).await
    }

    async fn take_in(
        &mut self,
        lease: &WatcherLease,
        stretch: Stretch,
        now: Timestamp,
    ) -> Result<Turn, StoreError> {
        let caught_up = stretch.last.number == stretch.head.latest.number;
        let ahead = self.read_ahead(&stretch);
        let taken = rows::Stretch {
            last: block(&stretch.last),
            blocks: stretch.blocks.iter().map(block).collect(),
            logs: stretch.logs.into_iter().map(seen).collect(),
            announce_to: stretch.announce_to,
            head: head(&stretch.head),
            chain_id: self.settings.chain_id,
        };
        let depth = self.settings.watch.reorg_depth_blocks_max;
        let (announced, ahead) =
            tokio::join!(rows::take_in(&self.context.db, lease, &taken, depth, now), ahead);
        let announced = announced?;
        self.head = caught_up.then_some(stretch.head);
        self.reach = stretch.reach;
        self.ahead = ahead;
        metrics::gauge!("chain_head_lag_blocks").set(f64::from(
            u32::try_from(stretch.head.latest.number - taken.last.number).unwrap_or(u32::MAX),
        ));
        metrics::counter!("chain_logs_announced_total").increment(u64::try_from(announced).unwrap_or(0));
        if announced > 0 {
            self.context.wake.ring(Work::Observations);
        }
        // A new block is also what the senders wait for.
        self.context.wake.ring(Work::ChainEffects);
        Ok(if caught_up { Turn::Idle } else { Turn::Busy })
    }

    /// Whatever it is but a further stretch, the next turn finds it.
    fn read_ahead(&self, stretch: &Stretch) -> impl Future<Output = Option<Ahead>> + use<> {
        let place = stretch.is_far_behind(&self.settings.watch).then(|| stretch.place_after());
        let (chain, contracts, settings) = (self.chain.clone(), self.contracts.clone(), self.settings.watch);
        async move {
            let place = place?;
            match next(&*chain, &contracts, &place, &settings).await {
                Ok(Next::TakeIn(stretch)) => Some(Ahead { after: (place.number, place.hash), stretch }),
                Ok(Next::Idle | Next::Again | Next::Rewind(_)) | Err(_) => None,
            }
        }
    }

    /// The chain went back further than blocks are remembered, though not further than it may: a person has raised the limit since.
    /// The blocks of logs are still known, and so is the one before our contracts.
    async fn rewind_by_logs(
        &mut self,
        lease: &WatcherLease,
        mut place: Place,
        depth_max: i64,
        now: Timestamp,
    ) -> Result<Turn, StoreError> {
        place.known = rows::blocks_with_logs(&self.context.db, depth_max).await?;
        let (start, _) = self.settings.start;
        if place.number.saturating_sub(start) <= self.settings.watch.reorg_depth_blocks_max {
            place.known.push(self.settings.start);
        }
        match next(&*self.chain, &self.contracts, &place, &self.settings.watch).await {
            Ok(Next::Rewind(ancestor)) => self.rewind(lease, &ancestor, now).await,
            Ok(Next::Idle | Next::Again | Next::TakeIn(_)) => Ok(Turn::Idle),
            Err(error) => Ok(chain_error("watcher", &error)),
        }
    }

    async fn rewind(
        &mut self,
        lease: &WatcherLease,
        ancestor: &Block,
        now: Timestamp,
    ) -> Result<Turn, StoreError> {
        let depth = lease.block_number.saturating_sub(ancestor.number);
        let removed = rows::rewind(&self.context.db, lease, &block(ancestor), now).await?;
        self.head = None;
        metrics::counter!("chain_reorganisations_total").increment(1);
        tracing::warn!(
            chain.block_number = ancestor.number,
            depth,
            removed,
            "the chain was reorganised; went back to the last common block"
        );
        self.context.wake.ring(Work::Observations);
        Ok(Turn::Busy)
    }
}

fn block(block: &Block) -> rows::Block {
    rows::Block { number: block.number, hash: block.hash, time: block.time }
}

fn head(head: &Head) -> rows::Head {
    rows::Head { latest: block(&head.latest), safe: block(&head.safe), finalized: block(&head.finalized) }
}

fn seen(log: SeenLog) -> rows::SeenLog {
    rows::SeenLog {
        block_number: log.block_number,
        block_hash: log.block_hash,
        tx_hash: log.tx_hash,
        log_index: log.log_index,
        currency: log.currency,
        said: match log.said {
            Said::Payment { payment_id, log, .. } => rows::Said::Payment(payment_id, log),
            Said::Skipped { payment_id, status } => rows::Said::Skipped(payment_id, status),
            Said::Transfer { from, to, units, outside } => rows::Said::Transfer { from, to, units, outside },
            Said::Quarantined { wallet, units } => rows::Said::Quarantined { wallet, units },
            Said::QuarantineReleased { wallet, to, units } => {
                rows::Said::QuarantineReleased { wallet, to, units }
            }
            Said::Totals(totals) => rows::Said::Totals {
                sequence: totals.sequence,
                minted: totals.minted,
                burned: totals.burned,
                escrowed: totals.escrowed,
                redemption: totals.redemption,
            },
        },
    }
}
