//! The watcher: reads our contracts' logs from a place kept in the database, and writes down what they say.
//!
//! It promises that nothing is missed and nothing is told twice: a stretch of blocks, the observations that follow, the wallets'
//! balances and the new place are one transaction, under the lease on the place. A reorganisation is told as what it is: the
//! logs that are gone, newest first, as removed. The WebSocket only wakes it up.
//!
//! What a node has left out shows by a jump in what the contracts count, or, where no call follows, by what they say that they have counted.
//! New blocks wait for it a second at most: those old ones are read again between, of every node, until they say what is missing.
//!
//! Far behind, the next stretch is read while this one is written: node and database work at the same time, and two stretches
//! are all that is in memory.

use super::{ChainSettings, chain_error};
use crate::context::{Context, Turn, Worker};
use flowbridge_chain::count::{Counts, counts};
use flowbridge_chain::watch::{Head, Next, Place, REACH_FIRST, Stretch, next, read_again};
use flowbridge_chain::{Block, Chain, ChainError, ContractSet, Said, SeenLog};
use flowbridge_domain::money::Currency;
use flowbridge_domain::time::Timestamp;
use flowbridge_store::StoreError;
use flowbridge_store::chain::{self as rows, Filled, Hole, WatcherLease};
use flowbridge_store::wake::Work;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// Logs that have waited for finality and are announced at once: a transaction of a second or so.
const ANNOUNCE_MAX: u32 = 20_000;
/// How often to look for holes, and to ask again for what no node could fill; in vain, ever less often.
const HOLES_EVERY: Duration = Duration::from_secs(2);
const HOLES_EVERY_MAX: Duration = Duration::from_secs(60);
/// New blocks wait no longer than so for the reading of old ones.
const HOLE_PATIENCE: Duration = Duration::from_secs(1);

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
    /// The blocks that are known there, as they were read: only who holds the place changes them, and then moves it.
    known: Option<(WatcherLease, Vec<(u64, [u8; 32])>)>,
    holes: Holes,
}

/// The reading of blocks that have to say more than they said.
#[derive(Debug)]
struct Holes {
    /// When to look for some.
    due: Timestamp,
    /// When to read each again, and how long to wait if that is in vain.
    waits: HashMap<HoleKey, (Timestamp, Duration)>,
    /// Blocks to ask for at once: nodes answer for fewer what they do not in time for more.
    reach: u64,
    /// When to ask the contracts how far they have counted.
    counts_due: Timestamp,
    /// What they said the last time, and when.
    told: Option<(Vec<Counts>, Timestamp)>,
}

/// Currency, count, and the first number that is missing.
type HoleKey = (Currency, String, u64);

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
        let Some(lease) = lease else {
            show_holes(0);
            return Ok(Turn::Idle);
        };
        if let Some(Ahead { after, stretch }) = ahead
            && after == (lease.block_number, lease.block_hash)
        {
            return self.take_in(&lease, *stretch, now).await;
        }
        if self.holes.due <= now {
            match self.look_for_holes(&lease, now).await {
                Ok(()) => {}
                Err(StoreError::Lost) => return Err(StoreError::Lost),
                // Whatever else stands in its way is no reason not to read on.
                Err(error) => tracing::warn!(%error, "what no node has shown cannot be taken in"),
            }
        }
        let known_max = i64::try_from(self.settings.watch.reorg_depth_blocks_max).unwrap_or(i64::MAX);
        let place = Place {
            number: lease.block_number,
            hash: lease.block_hash,
            known: self.known(&lease, known_max).await?,
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
        Self {
            context,
            chain,
            contracts,
            settings,
            head: None,
            reach: REACH_FIRST,
            ahead: None,
            known: None,
            holes: Holes {
                due: Timestamp::EPOCH,
                waits: HashMap::new(),
                reach: REACH_FIRST,
                counts_due: Timestamp::EPOCH,
                told: None,
            },
        }
    }

    pub(super) async fn release(&self) -> Result<(), StoreError> {
        rows::release_watcher(&self.context.db, &self.context.instance).await
    }

    async fn known(
        &mut self,
        lease: &WatcherLease,
        depth_max: i64,
    ) -> Result<Vec<(u64, [u8; 32])>, StoreError> {
        if let Some((at, known)) = &self.known
            && at == lease
        {
            return Ok(known.clone());
        }
        let known = rows::known_blocks(&self.context.db, depth_max).await?;
        self.known = Some((*lease, known.clone()));
        Ok(known)
    }

    async fn take_in(
        &mut self,
        lease: &WatcherLease,
        stretch: Stretch,
        now: Timestamp,
    ) -> Result<Turn, StoreError> {
        let caught_up = stretch.last.number == stretch.head.latest.number;
        // Before it is taken in: what cannot be shows by this.
        show_lag(stretch.head.latest.number, lease.block_number);
        let ahead = self.read_ahead(&stretch);
        let taken = rows::Stretch {
            last: block(&stretch.last),
            blocks: stretch.blocks.iter().map(block).collect(),
            logs: stretch.logs.into_iter().map(seen).collect(),
            announce_to: stretch.announce_to,
            announce_max: ANNOUNCE_MAX,
            head: head(&stretch.head),
            chain_id: self.settings.chain_id,
        };
        let depth = self.settings.watch.reorg_depth_blocks_max;
        let (announced, ahead) =
            tokio::join!(rows::take_in(&self.context.db, lease, &taken, depth, now), ahead);
        let rows::TakenIn { announced, is_cut } = announced?;
        let caught_up = caught_up && !is_cut;
        self.head = caught_up.then_some(stretch.head);
        self.reach = stretch.reach;
        self.ahead = ahead;
        show_lag(stretch.head.latest.number, taken.last.number);
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

    async fn look_for_holes(&mut self, lease: &WatcherLease, now: Timestamp) -> Result<(), StoreError> {
        self.holes.due = now.plus(HOLES_EVERY);
        rows::take_gaps_over(&self.context.db, now).await?;
        // At the head only: further back, few nodes have the state.
        if self.head.is_some() && self.holes.counts_due <= now {
            self.ask_for_counts(lease, now).await?;
        }
        let holes = rows::holes(&self.context.db).await?;
        show_holes(holes.len());
        let key = |hole: &Hole| (hole.currency, hole.kind.clone(), hole.first);
        let keys: HashSet<HoleKey> = holes.iter().map(key).collect();
        self.holes.waits.retain(|known, _| keys.contains(known));
        // The one that has waited longest; one that nobody has read yet first of all.
        let wait = |hole: &Hole| {
            self.holes.waits.get(&key(hole)).copied().unwrap_or((Timestamp::EPOCH, HOLES_EVERY))
        };
        // What is not announced yet is told in its turn.
        let announced = holes.iter().filter(|hole| hole.next_block <= lease.announced_number);
        let Some(hole) = announced.min_by_key(|hole| wait(hole).0) else { return Ok(()) };
        let (at, pause) = wait(hole);
        if at > now {
            return Ok(());
        }
        self.holes.waits.insert(key(hole), (now.plus(HOLES_EVERY), HOLES_EVERY));
        if self.fill_hole(lease, hole, now).await? == Some(Filled::Missing) {
            let longer = pause.saturating_mul(2).min(HOLES_EVERY_MAX);
            self.holes.waits.insert(key(hole), (now.plus(pause), longer));
        }
        Ok(())
    }

    /// Asks the contracts how far they have counted. What they said the last time is in blocks by now that were read, whichever node
    /// had said it a moment early; what they say both times and was not read is missing.
    async fn ask_for_counts(&mut self, lease: &WatcherLease, now: Timestamp) -> Result<(), StoreError> {
        self.holes.counts_due = now.plus(self.settings.counts_every);
        let place = (lease.block_number, lease.block_hash);
        let asked = counts(&*self.chain, &self.contracts, place);
        if let Ok(Ok(Some(told))) = tokio::time::timeout(HOLE_PATIENCE, asked).await
            && let Some((before, _)) = self.holes.told.replace((told.clone(), now))
        {
            let sure: Vec<rows::Counts> = before.iter().zip(told).map(sure).collect();
            rows::compare_counts(&self.context.db, lease, &sure, now).await?;
        }
        // One that never answers shows by its age.
        let (_, since) = self.holes.told.get_or_insert((Vec::new(), now));
        metrics::gauge!("chain_counts_age_seconds").set(now.since(*since).as_secs_f64());
        Ok(())
    }

    /// Reads blocks of a hole again; `None` if nobody has answered.
    async fn fill_hole(
        &mut self,
        lease: &WatcherLease,
        hole: &Hole,
        now: Timestamp,
    ) -> Result<Option<Filled>, StoreError> {
        let (start, _) = self.settings.start;
        let from = hole.next_block.max(start.saturating_add(1)).min(hole.to_block);
        let to = hole.to_block.min(from.saturating_add(self.holes.reach.saturating_sub(1)));
        let known = rows::known_logs(&self.context.db, (from, to)).await?.into_iter().collect();
        let place = (lease.block_number, lease.block_hash);
        let again =
            read_again(&*self.chain, &self.contracts, place, (from, to), &known, &self.settings.watch);
        let late = match tokio::time::timeout(HOLE_PATIENCE, again).await {
            Ok(Ok(late)) => late,
            Ok(Err(error)) => {
                tracing::warn!(%error, from, to, "what no node has shown cannot be read again");
                self.holes.reach = (self.holes.reach / 2).max(1);
                return Ok(None);
            }
            Err(_) => {
                tracing::warn!(from, to, "what no node has shown is not read again in time");
                self.holes.reach = (self.holes.reach / 2).max(1);
                return Ok(None);
            }
        };
        let read = late.to.saturating_sub(from).saturating_add(1);
        self.holes.reach = read.saturating_mul(2).min(self.settings.watch.stretch_blocks_max.max(1));
        let mut logs: Vec<rows::SeenLog> = late.logs.into_iter().map(seen).collect();
        logs.retain(|log| log.block_number <= lease.announced_number);
        let told = (late.to, logs.as_slice(), &head(&late.head));
        let filled = rows::fill(&self.context.db, lease, hole, told, now).await?;
        if filled == Filled::Closed {
            tracing::warn!(from = hole.from_block, to = hole.to_block, "what was left out is read");
        }
        if !logs.is_empty() {
            metrics::counter!("chain_logs_late_total").increment(u64::try_from(logs.len()).unwrap_or(0));
            self.context.wake.ring(Work::Observations);
        }
        Ok(Some(filled))
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
        // What was counted may have been counted there.
        (self.holes.told, self.holes.counts_due) = (None, Timestamp::EPOCH);
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

/// What is counted in what was said of the same contracts both times.
fn sure((before, told): (&Counts, Counts)) -> rows::Counts {
    rows::Counts {
        currency: told.currency,
        totals: told.totals.min(before.totals),
        batches: told.batches.min(before.batches),
    }
}

fn show_lag(newest: u64, place: u64) {
    let blocks = u32::try_from(newest.saturating_sub(place)).unwrap_or(u32::MAX);
    metrics::gauge!("chain_head_lag_blocks").set(f64::from(blocks));
}

fn show_holes(count: usize) {
    metrics::gauge!("chain_holes").set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
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
            Said::BatchInitiated { sequence } => rows::Said::BatchInitiated { sequence },
        },
    }
}
