//! What no node has shown us, until one does.
//!
//! The contracts count the calls that move money and the initiations. Where such a count jumps, a node has left out logs: between the
//! block of the last number that we know and that of the next; and so it has where the contracts themselves say that they had counted
//! further by a block up to which all was read. Such a stretch is a hole. Nothing waits for it but a window that would
//! close on a payment (`lifecycle`, `all_is_read`), and while there is one the proof does not hold. The watcher reads the blocks of a
//! hole again, of every node there is, as often as it takes. What it finds is told late, and the hole is closed when no number is
//! missing any more. A reorganisation takes what it can of a hole with its blocks. A node that shows half of what one call has said,
//! its end included, is not found out.

use super::logs::{BATCH_INITIATED, How, SeenLog, TOTALS, begin_count, last_number, save_logs, spread};
use super::watch::{Head, WatcherLease, hold_place};
use super::{number, unsigned};
use crate::db::{Db, StoreError, Tx};
use crate::sql::{At, statements};
use flowbridge_domain::money::Currency;
use flowbridge_domain::time::Timestamp;

statements! {
    LAST_BLOCK_BEFORE = "select block_number from chain_log
        where currency = $1 and kind = $2 and kind in ('totals', 'batch_initiated') and (block_number, log_index) < ($3, $4)
        order by block_number desc, log_index desc limit 1";

    OPEN_HOLE = "insert into chain_hole (currency, kind, first_number, last_number, from_block, to_block, next_block, found_at)
        values ($1, $2, $3, $4, $5, $6, $5, $7)
        on conflict (currency, kind, first_number) do update set last_number = greatest(chain_hole.last_number, excluded.last_number),
            to_block = greatest(chain_hole.to_block, excluded.to_block), found_at = excluded.found_at";

    // One that reaches as far is known already.
    OPEN_HOLE_UP_TO = "insert into chain_hole (currency, kind, first_number, last_number, from_block, to_block, next_block, found_at)
        select $1, $2, $3, $4, $5, $6, $5, $7 where not exists (
            select from chain_hole known
                where known.currency = $1 and known.kind = $2 and known.first_number <= $3 and known.last_number >= $4)
        on conflict (currency, kind, first_number) do update set last_number = excluded.last_number, to_block = excluded.to_block,
            found_at = excluded.found_at";

    COUNTED = "select sequence, batches from chain_totals where currency = $1";

    // The version before counts jumps, and not where they are.
    TAKE_GAPS_OVER = "with counted as (update chain_totals set gaps = 0 where gaps > 0 returning currency, sequence)
        insert into chain_hole (currency, kind, first_number, last_number, from_block, to_block, next_block, found_at)
            select currency, 'totals', 1, sequence, 0, coalesce(announced_number, 0), 0, $1
                from counted left join chain_cursor on true
        on conflict (currency, kind, first_number) do update set last_number = greatest(chain_hole.last_number, excluded.last_number),
            to_block = greatest(chain_hole.to_block, excluded.to_block), next_block = excluded.next_block";

    HOLES = "select currency, kind, first_number, last_number, from_block, to_block, next_block from chain_hole
        order by found_at, currency, kind, first_number";

    COUNT_HOLES = "select count(*) as holes from chain_hole";

    KNOWN_LOGS = "select block_number, log_index from chain_log where block_number between $1 and $2";

    MOVE_HOLE = "update chain_hole set next_block = $4 where currency = $1 and kind = $2 and first_number = $3";

    // A number that has come since is not missing, wherever it stands.
    NUMBERS_KNOWN = "select count(distinct (data ->> 'sequence')::bigint) as known from chain_log
        where currency = $1 and kind = $2 and kind in ('totals', 'batch_initiated') and block_number between $3 and $4
            and (data ->> 'sequence')::bigint between $5 and $6";

    CLOSE_HOLE = "delete from chain_hole where currency = $1 and kind = $2 and first_number = $3";

    HOLES_ABOVE = "select currency, kind, first_number, last_number, from_block, to_block, next_block from chain_hole
        where to_block > $1";

    // What is left to be read of it was read by the nodes' other chain.
    CUT_HOLE = "update chain_hole set last_number = $4, to_block = $5, next_block = from_block
        where currency = $1 and kind = $2 and first_number = $3";
}

/// A stretch of blocks in which logs of our contracts have to be that no node has shown us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hole {
    /// The contracts' currency.
    pub currency: Currency,
    /// Which count has jumped: `totals` or `batch_initiated`.
    pub kind: String,
    /// The first number that is missing.
    pub first: u64,
    /// The last number that is missing.
    pub last: u64,
    /// The block of the number before it.
    pub from_block: u64,
    /// The block of the number after it.
    pub to_block: u64,
    /// Where to go on reading.
    pub next_block: u64,
}

/// How a hole is after blocks of it were read once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// There is more of it to read.
    Further,
    /// All of it was read, and numbers are still missing.
    Missing,
    /// No number is missing.
    Closed,
}

/// A number may stand so much further on than where it was missed.
const SLACK_BLOCKS: u64 = 1_024;

/// What the contracts of a currency have counted by a block, as they say themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// The contracts' currency.
    pub currency: Currency,
    /// Calls that moved money.
    pub totals: u64,
    /// Initiations.
    pub batches: u64,
}

/// Compares what the contracts had surely counted by the watcher's place with the logs that were read up to there, and notes what is
/// missing.
pub async fn compare_counts(
    db: &Db,
    lease: &WatcherLease,
    told: &[Counts],
    now: Timestamp,
) -> Result<(), StoreError> {
    let tx = db.begin().await?;
    hold_place(&tx, lease).await?;
    let place = number(lease.block_number)?;
    for Counts { currency, totals, batches } in told {
        let code = currency.code();
        let rows = tx.query(COUNTED, &[&code]).await?;
        // Contracts without a row have said nothing yet; a router whose count is not known goes on from wherever it is.
        let (sequence, initiated) = match rows.first() {
            Some(row) => (Some(row.try_get("sequence")?), row.try_get::<_, Option<i64>>("batches")?),
            None => (Some(0), Some(0)),
        };
        for (kind, counted, told) in [(TOTALS, sequence, *totals), (BATCH_INITIATED, initiated, *batches)] {
            let Some(announced) = counted.map(unsigned).transpose()? else { continue };
            // What waits to be announced was read, too.
            let read = last_number(&tx, *currency, kind, lease.block_number).await?;
            let known = read.unwrap_or(0).max(announced);
            if told <= known {
                continue;
            }
            let after: (i64, i32) = (place.saturating_add(1), 0);
            let before = tx.query(LAST_BLOCK_BEFORE, &[&code, &kind, &after.0, &after.1]).await?;
            let from: i64 = before.first().map_or(Ok(0), |row| row.try_get("block_number"))?;
            let (first, last) = (number(known.saturating_add(1))?, number(told)?);
            let is_new =
                tx.execute(OPEN_HOLE_UP_TO, &[&code, &kind, &first, &last, &from, &place, &At(now)]).await?;
            if is_new > 0 {
                tracing::error!(
                    chain.block_number = lease.block_number,
                    currency = code,
                    from_block = from,
                    "our contracts have counted further than any node has shown us; these blocks are read again"
                );
            }
        }
    }
    tx.commit().await
}

/// Notes that a count has jumped from before `first` to after `last`, at this log.
pub(super) async fn open_hole(
    tx: &Tx,
    log: &SeenLog,
    kind: &str,
    (first, last): (u64, u64),
    now: Timestamp,
) -> Result<(), StoreError> {
    let (code, block) = (log.currency.code(), number(log.block_number)?);
    let index = i32::try_from(log.log_index).unwrap_or(i32::MAX);
    let before = tx.query(LAST_BLOCK_BEFORE, &[&code, &kind, &block, &index]).await?;
    // Nothing before it: its contracts are younger than block 0, but nobody here knows by how much.
    let from: i64 = before.first().map_or(Ok(0), |row| row.try_get("block_number"))?;
    tracing::error!(
        chain.block_number = log.block_number,
        currency = code,
        from_block = from,
        "no node has shown us all logs of our contracts; these blocks are read again"
    );
    let numbers = (number(first)?, number(last)?);
    tx.execute(OPEN_HOLE, &[&code, &kind, &numbers.0, &numbers.1, &from, &block, &At(now)]).await?;
    Ok(())
}

/// What the version before has counted becomes holes.
pub async fn take_gaps_over(db: &Db, now: Timestamp) -> Result<(), StoreError> {
    db.query(TAKE_GAPS_OVER, &[&At(now)]).await?;
    Ok(())
}

/// Every hole, the oldest first.
pub async fn holes(db: &Db) -> Result<Vec<Hole>, StoreError> {
    read_holes(&db.query(HOLES, &[]).await?)
}

/// Every hole, within a transaction.
pub(crate) async fn holes_at(tx: &Tx) -> Result<Vec<Hole>, StoreError> {
    read_holes(&tx.query(HOLES, &[]).await?)
}

fn read_holes(rows: &[tokio_postgres::Row]) -> Result<Vec<Hole>, StoreError> {
    rows.iter()
        .map(|row| {
            let code: &str = row.try_get("currency")?;
            Ok(Hole {
                currency: Currency::parse(code)
                    .map_err(|_| StoreError::Corrupt(format!("currency {code}")))?,
                kind: row.try_get("kind")?,
                first: unsigned(row.try_get("first_number")?)?,
                last: unsigned(row.try_get("last_number")?)?,
                from_block: unsigned(row.try_get("from_block")?)?,
                to_block: unsigned(row.try_get("to_block")?)?,
                next_block: unsigned(row.try_get("next_block")?)?,
            })
        })
        .collect()
}

/// In how many stretches of blocks logs are missing. Zero, or something is wrong.
pub async fn count_holes(db: &Db) -> Result<i64, StoreError> {
    let rows = db.query(COUNT_HOLES, &[]).await?;
    rows.first().map_or(Ok(0), |row| Ok(row.try_get("holes")?))
}

/// The logs that we know of these blocks, by block and place.
pub async fn known_logs(db: &Db, (from, to): (u64, u64)) -> Result<Vec<(u64, u32)>, StoreError> {
    let rows = db.query(KNOWN_LOGS, &[&number(from)?, &number(to)?]).await?;
    rows.iter()
        .map(|row| {
            let index = u32::try_from(row.try_get::<_, i32>("log_index")?);
            Ok((
                unsigned(row.try_get("block_number")?)?,
                index.map_err(|_| StoreError::Corrupt("a log's place".into()))?,
            ))
        })
        .collect()
}

/// Takes in what a hole had to say, read again up to block `to`: `logs` that we did not know, all of them announced at this head.
pub async fn fill(
    db: &Db,
    lease: &WatcherLease,
    hole: &Hole,
    (to, logs, head): (u64, &[SeenLog], &Head),
    now: Timestamp,
) -> Result<Filled, StoreError> {
    let (code, kind, first) = (hole.currency.code(), hole.kind.as_str(), number(hole.first)?);
    let tx = db.begin().await?;
    // First of all: whoever lost the place writes nothing.
    hold_place(&tx, lease).await?;
    // What is not announced yet is told in its turn.
    let to = to.min(hole.to_block).min(lease.announced_number);
    let logs: Vec<SeenLog> = logs.iter().filter(|log| log.block_number <= to).cloned().collect();
    save_logs(&tx, &logs).await?;
    spread(&tx, &logs, How::Late(head), now).await?;
    let filled = if to < hole.to_block {
        tx.execute(MOVE_HOLE, &[&code, &kind, &first, &number(to.saturating_add(1))?]).await?;
        Filled::Further
    } else {
        let until = hole.to_block.saturating_add(SLACK_BLOCKS).min(lease.announced_number);
        let blocks = (number(hole.from_block)?, number(until)?);
        let last = number(hole.last)?;
        let rows = tx.query(NUMBERS_KNOWN, &[&code, &kind, &blocks.0, &blocks.1, &first, &last]).await?;
        let known: i64 = rows.first().map_or(Ok(0), |row| row.try_get("known"))?;
        if known > last.saturating_sub(first) {
            tx.execute(CLOSE_HOLE, &[&code, &kind, &first]).await?;
            Filled::Closed
        } else {
            tx.execute(MOVE_HOLE, &[&code, &kind, &first, &number(hole.from_block)?]).await?;
            Filled::Missing
        }
    };
    tx.commit().await?;
    Ok(filled)
}

/// Gives back what a reorganisation to this block took of holes. Where the count now ends before a hole, the next number finds that
/// again; of one that it has left behind, what is missing below the newest number that is left would never be found.
pub(super) async fn cut_holes(tx: &Tx, ancestor: u64) -> Result<(), StoreError> {
    let above = read_holes(&tx.query(HOLES_ABOVE, &[&number(ancestor)?]).await?)?;
    for hole in above {
        let (code, kind, first) = (hole.currency.code(), hole.kind.as_str(), number(hole.first)?);
        let left = last_number(tx, hole.currency, kind, ancestor).await?;
        match left {
            Some(left) if left > hole.first && hole.from_block <= ancestor => {
                let last = number(hole.last.min(left - 1))?;
                tx.execute(CUT_HOLE, &[&code, &kind, &first, &last, &number(ancestor)?]).await?;
            }
            Some(_) | None => {
                tx.execute(CLOSE_HOLE, &[&code, &kind, &first]).await?;
                if left.is_none() && hole.first == 1 {
                    begin_count(tx, hole.currency, kind).await?;
                }
            }
        }
    }
    Ok(())
}
