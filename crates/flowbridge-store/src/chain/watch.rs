//! The watcher's place: how far the chain has been read, by whom, and how a stretch of it is taken in or given back.

use super::holes::cut_holes;
use super::logs::{How, SeenLog, save_logs, spread, stored_logs};
use super::{hash, number, unsigned};
use crate::db::{Db, StoreError, Tx};
use crate::sql::{At, columns, statements};
use flowbridge_domain::time::Timestamp;
use std::time::Duration;

statements! {
    ENSURE_CURSOR = "insert into chain_cursor (block_number, block_hash, announced_number) values ($1, $2, $1)
        on conflict do nothing";

    // Ours for most of a lease's time to come: nothing to write.
    HELD_WATCHER = "select epoch, block_number, block_hash, announced_number from chain_cursor
        where owner = $1 and lease_until > $2";

    LEASE_WATCHER = "update chain_cursor set owner = $1, lease_until = $3,
            epoch = case when owner = $1 and lease_until > $2 then epoch else epoch + 1 end
        where owner = $1 or lease_until <= $2
        returning epoch, block_number, block_hash, announced_number";

    RELEASE_WATCHER = "update chain_cursor set lease_until = '-infinity' where owner = $1";

    // Only from the very place that was read with the lease: the one who moved it without hearing so is its holder still, and would
    // announce twice.
    MOVE_CURSOR = "update chain_cursor set block_number = $2, block_hash = $3, announced_number = $4
        where epoch = $1 and block_number = $5 and block_hash = $6 and announced_number = $7";

    SAVE_HEAD = "insert into chain_head (chain_id, latest_number, latest_time, safe_number, safe_time, finalized_number, finalized_time, seen_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        on conflict (only_one) do update set chain_id = excluded.chain_id,
            latest_number = excluded.latest_number, latest_time = excluded.latest_time,
            safe_number = excluded.safe_number, safe_time = excluded.safe_time,
            finalized_number = excluded.finalized_number, finalized_time = excluded.finalized_time, seen_at = excluded.seen_at";

    // The newest block that is announced, as far as blocks are remembered.
    ANNOUNCED_BLOCK = "select number, block_time from chain_block where number <= $1 order by number desc limit 1";

    // What a reorganisation took is not final any more, whatever the node had called it.
    TURN_BACK = "update chain_head set finalized_number = $1, finalized_time = $2 where finalized_number > $1";

    READ_HEAD = "select chain_id, latest_number, latest_time, safe_number, safe_time, finalized_number, finalized_time, seen_at
        from chain_head";

    SAVE_BLOCKS = "insert into chain_block (number, hash, block_time)
        select * from unnest($1::bigint[], $2::bytea[], $3::timestamptz[])
        on conflict (number) do update set hash = excluded.hash, block_time = excluded.block_time";

    FORGET_BLOCKS = "delete from chain_block where number > $1";

    // A block is remembered for as long as a transaction of ours is followed in it.
    FORGET_OLD_BLOCKS = "delete from chain_block
        where number < $1 and not exists (
            select from chain_tx
                where chain_tx.state in ('included', 'confirmed') and chain_tx.included_number = chain_block.number)";

    KNOWN_BLOCKS = "select number, hash from chain_block where number >= (select block_number from chain_cursor) - $1
        order by number desc limit $1";

    // Logs are remembered for longer than blocks, and so are theirs.
    BLOCKS_WITH_LOGS = "select distinct block_number as number, block_hash as hash from chain_log
        where block_number >= (select block_number from chain_cursor) - $1
        order by number desc limit $1";

    // Those of the transactions of logs that are taken out which were done, so that nobody follows them any more: the limit was lower
    // then. They are broadcast again, with the nonces they have.
    REOPEN_DONE = "update chain_tx set state = 'signed', included_number = null, included_hash = null, state_since = $2, signed_at = $2
        from chain_tx_version version
        where version.tx_hash = any($1) and chain_tx.id = version.chain_tx and chain_tx.state = 'finalized'
            and chain_tx.sender = (select chain_lane.sender from chain_lane where chain_lane.lane = chain_tx.lane)";

    // What is announced is what lies up to the cursor's place.
    TO_ANNOUNCE = "select block_number, log_index, block_hash, tx_hash, currency, kind, payment_id, data from chain_log
        where block_number > $1 and block_number <= $2 order by block_number, log_index";

    // The block in which there are more than so many.
    CUT_AT = "select block_number from chain_log where block_number > $1 and block_number <= $2
        order by block_number, log_index offset $3 limit 1";

    REMOVE = "delete from chain_log where block_number > $1
        returning block_number, log_index, block_hash, tx_hash, currency, kind, payment_id, data";
}

/// A block, as far as we need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: [u8; 32],
    /// Its time.
    pub time: Timestamp,
}

/// How far the chain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The newest block.
    pub latest: Block,
    /// The newest that the node calls safe (on ZKsync: committed to L1).
    pub safe: Block,
    /// The newest that it calls finalized (on ZKsync: executed on L1).
    pub finalized: Block,
}

impl Head {
    /// How final a block is that policy counts: `confirmed`, `safe` or `finalized`.
    pub const fn finality_of(&self, block_number: u64) -> &'static str {
        if block_number <= self.finalized.number {
            "finalized"
        } else if block_number <= self.safe.number {
            "safe"
        } else {
            "confirmed"
        }
    }
}

/// The watcher's place, and the lease on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatcherLease {
    /// Proves the lease when writing.
    pub epoch: i64,
    /// The last block taken in.
    pub block_number: u64,
    /// Its hash.
    pub block_hash: [u8; 32],
    /// The last block whose logs are announced.
    pub announced_number: u64,
}

/// Takes the watcher's place, or renews it when a third of the lease is over. `None` while somebody else has it. `start` is where a new database begins to
/// look: the block before our contracts were deployed.
pub async fn lease_watcher(
    db: &Db,
    owner: &str,
    (start, start_hash): (u64, [u8; 32]),
    now: Timestamp,
    lease: Duration,
) -> Result<Option<WatcherLease>, StoreError> {
    let fresh_until = now.plus(lease.saturating_sub(lease / 3));
    let mut rows = db.query(HELD_WATCHER, &[&owner, &At(fresh_until)]).await?;
    if rows.is_empty() {
        db.query(ENSURE_CURSOR, &[&number(start)?, &start_hash.to_vec()]).await?;
        rows = db.query(LEASE_WATCHER, &[&owner, &At(now), &At(now.plus(lease))]).await?;
    }
    rows.first()
        .map(|row| {
            Ok(WatcherLease {
                epoch: row.try_get("epoch")?,
                block_number: unsigned(row.try_get("block_number")?)?,
                block_hash: hash(row, "block_hash")?,
                announced_number: unsigned(row.try_get("announced_number")?)?,
            })
        })
        .transpose()
}

/// Gives the watcher's place back.
pub async fn release_watcher(db: &Db, owner: &str) -> Result<(), StoreError> {
    db.query(RELEASE_WATCHER, &[&owner]).await?;
    Ok(())
}

/// The newest blocks that we know, newest first, and none further back than the chain may go: where a reorganisation is measured
/// against.
pub async fn known_blocks(db: &Db, depth_max: i64) -> Result<Vec<(u64, [u8; 32])>, StoreError> {
    let rows = db.query(KNOWN_BLOCKS, &[&depth_max]).await?;
    rows.iter().map(|row| Ok((unsigned(row.try_get("number")?)?, hash(row, "hash")?))).collect()
}

/// The blocks of logs, newest first, and none further back than the chain may go: what is left of blocks that are forgotten
/// themselves. No log lies between one of these and the next.
pub async fn blocks_with_logs(db: &Db, depth_max: i64) -> Result<Vec<(u64, [u8; 32])>, StoreError> {
    let rows = db.query(BLOCKS_WITH_LOGS, &[&depth_max]).await?;
    rows.iter().map(|row| Ok((unsigned(row.try_get("number")?)?, hash(row, "hash")?))).collect()
}

/// A stretch of the chain to take in.
#[derive(Debug, Clone)]
pub struct Stretch {
    /// The last block of it: the new cursor.
    pub last: Block,
    /// The blocks to remember for reorganisations, and those that have logs.
    pub blocks: Vec<Block>,
    /// The logs, in order.
    pub logs: Vec<SeenLog>,
    /// Logs up to here are final enough to announce.
    pub announce_to: u64,
    /// Of logs that have waited for that so many are announced at once, and the rest of their block: on a chain whose finality comes
    /// in leaps, it may be those of hours.
    pub announce_max: u32,
    /// How far the chain is.
    pub head: Head,
    /// The chain's id.
    pub chain_id: u64,
}

/// What came of a stretch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakenIn {
    /// How many observations were announced.
    pub announced: usize,
    /// There are more that are final enough.
    pub is_cut: bool,
}

/// Takes in a stretch: logs, observations, effects, balances and cursor in one transaction.
pub async fn take_in(
    db: &Db,
    lease: &WatcherLease,
    stretch: &Stretch,
    reorg_depth_blocks_max: u64,
    now: Timestamp,
) -> Result<TakenIn, StoreError> {
    let final_to = stretch.announce_to.min(stretch.last.number).max(lease.announced_number);
    let tx = db.begin().await?;
    let (announced, most) = (number(lease.announced_number)?, i64::from(stretch.announce_max));
    let cut = tx.query(CUT_AT, &[&announced, &number(final_to)?, &most]).await?;
    let announce_to = match cut.first() {
        Some(row) => unsigned(row.try_get("block_number")?)?,
        None => final_to,
    };
    // Before anything is written: whoever lost the place waits here, and writes nothing.
    move_cursor(&tx, lease, &stretch.last, announce_to).await?;
    save_blocks(&tx, stretch, announce_to, reorg_depth_blocks_max).await?;
    let waited = tx.query(TO_ANNOUNCE, &[&number(lease.announced_number)?, &number(announce_to)?]).await?;
    let mut logs = stored_logs(&waited)?;
    save_logs(&tx, &stretch.logs).await?;
    logs.extend(stretch.logs.iter().filter(|log| log.block_number <= announce_to).cloned());
    logs.sort_by_key(|log| (log.block_number, log.log_index));
    let announced = spread(&tx, &logs, How::Announced(&stretch.head), now).await?;
    save_head(&tx, stretch, announce_to, now).await?;
    tx.commit().await?;
    Ok(TakenIn { announced, is_cut: announce_to < final_to })
}

/// Goes back to `ancestor`: logs above it are taken out, and those that were announced are announced as removed, newest
/// first. Returns how many.
pub async fn rewind(
    db: &Db,
    lease: &WatcherLease,
    ancestor: &Block,
    now: Timestamp,
) -> Result<usize, StoreError> {
    let tx = db.begin().await?;
    // First of all: who gives up what a new branch has reverted waits until it shows what was done on the old one.
    hold_place(&tx, lease).await?;
    let rows = tx.query(REMOVE, &[&number(ancestor.number)?]).await?;
    let mut logs = stored_logs(&rows)?;
    let hashes: Vec<Vec<u8>> = logs.iter().map(|log| log.tx_hash.to_vec()).collect();
    logs.retain(|log| log.block_number <= lease.announced_number);
    logs.sort_by_key(|log| std::cmp::Reverse((log.block_number, log.log_index)));
    let announced_to = lease.announced_number.min(ancestor.number);
    let removed = spread(&tx, &logs, How::TakenBack { announced_to }, now).await?;
    cut_holes(&tx, ancestor.number).await?;
    tx.execute(REOPEN_DONE, &[&hashes, &At(now)]).await?;
    tx.execute(FORGET_BLOCKS, &[&number(ancestor.number)?]).await?;
    tx.execute(TURN_BACK, &[&number(ancestor.number)?, &At(ancestor.time)]).await?;
    move_cursor(&tx, lease, ancestor, announced_to).await?;
    tx.commit().await?;
    Ok(removed)
}

/// How far the chain is, as the watcher last saw it; what is final of it, as far as it is announced.
pub async fn head(db: &Db) -> Result<Option<(u64, Head, Timestamp)>, StoreError> {
    let rows = db.query(READ_HEAD, &[]).await?;
    rows.first()
        .map(|row| {
            let block = |which: &str| -> Result<Block, StoreError> {
                Ok(Block {
                    number: unsigned(row.try_get(format!("{which}_number").as_str())?)?,
                    hash: [0; 32],
                    time: row.try_get::<_, At>(format!("{which}_time").as_str())?.0,
                })
            };
            let head =
                Head { latest: block("latest")?, safe: block("safe")?, finalized: block("finalized")? };
            Ok((unsigned(row.try_get("chain_id")?)?, head, row.try_get::<_, At>("seen_at")?.0))
        })
        .transpose()
}

/// Proves that the place is still ours, and keeps it until the transaction ends.
pub(super) async fn hold_place(tx: &Tx, lease: &WatcherLease) -> Result<(), StoreError> {
    move_place(tx, lease, (lease.block_number, lease.block_hash), lease.announced_number).await
}

async fn move_cursor(tx: &Tx, lease: &WatcherLease, to: &Block, announced: u64) -> Result<(), StoreError> {
    move_place(tx, lease, (to.number, to.hash), announced).await
}

async fn move_place(
    tx: &Tx,
    lease: &WatcherLease,
    (to, hash): (u64, [u8; 32]),
    announced: u64,
) -> Result<(), StoreError> {
    let moved = tx
        .execute(
            MOVE_CURSOR,
            &[
                &lease.epoch,
                &number(to)?,
                &hash.to_vec(),
                &number(announced)?,
                &number(lease.block_number)?,
                &lease.block_hash.to_vec(),
                &number(lease.announced_number)?,
            ],
        )
        .await?;
    if moved == 1 { Ok(()) } else { Err(StoreError::Lost) }
}

/// Says how far the chain is. Its finalized block is told up to what is announced and no further: it is the clock of what the
/// contracts time, and whoever reads it finds in the log all that they had said by then.
async fn save_head(tx: &Tx, stretch: &Stretch, announced: u64, now: Timestamp) -> Result<(), StoreError> {
    let Head { latest, safe, finalized } = stretch.head;
    let (final_number, final_time) = if finalized.number <= announced {
        (number(finalized.number)?, At(finalized.time))
    } else {
        let rows = tx.query(ANNOUNCED_BLOCK, &[&number(announced)?]).await?;
        // Nothing is announced of which we know when it was.
        let Some(row) = rows.first() else { return Ok(()) };
        (row.try_get("number")?, row.try_get("block_time")?)
    };
    tx.execute(
        SAVE_HEAD,
        &[
            &number(stretch.chain_id)?,
            &number(latest.number)?,
            &At(latest.time),
            &number(safe.number)?,
            &At(safe.time),
            &final_number,
            &final_time,
            &At(now),
        ],
    )
    .await?;
    Ok(())
}

/// Old blocks are forgotten once in so many.
const FORGOTTEN_EVERY: u64 = 64;

async fn save_blocks(
    tx: &Tx,
    stretch: &Stretch,
    announced: u64,
    reorg_depth_blocks_max: u64,
) -> Result<(), StoreError> {
    let (numbers, hashes, times) = columns!(
        stretch.blocks,
        |block| i64::try_from(block.number).unwrap_or(i64::MAX),
        block.hash.to_vec(),
        At(block.time)
    );
    tx.execute(SAVE_BLOCKS, &[&numbers, &hashes, &times]).await?;
    // Each look passes over the blocks that are kept, which are hours of them where the chain is slow to be final.
    if !stretch.blocks.iter().any(|block| block.number.is_multiple_of(FORGOTTEN_EVERY)) {
        return Ok(());
    }
    let deepest = stretch.last.number.saturating_sub(reorg_depth_blocks_max);
    // Policy may ask for more confirmations than the chain goes back: what is final and not announced will be the clock.
    let oldest = if announced < stretch.head.finalized.number { deepest.min(announced) } else { deepest };
    tx.execute(FORGET_OLD_BLOCKS, &[&number(oldest)?]).await?;
    Ok(())
}
