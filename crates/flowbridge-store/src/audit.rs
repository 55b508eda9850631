//! The audit log's rows: entries and the hashes of their tree, checkpoints, and what has to come into the archive.
//!
//! One transaction at a time enters: whoever does holds a lock until it commits, so that places in the tree follow each other
//! without a gap. An event is entered once, however often it is read. The tree itself is computed by the caller, from the stored
//! hashes that are asked for here; entries and their hashes are written together, and neither is ever changed.

use crate::db::{Db, StoreError, Tx};
use crate::sql::{At, columns, statements};
use flowbridge_domain::id::{EventId, ReconciliationId};
use flowbridge_domain::time::Timestamp;
use std::collections::HashSet;
use tokio_postgres::Row;
use uuid::Uuid;

statements! {
    // The number is nobody else's.
    LOCK = "select pg_advisory_xact_lock(7316418)";

    SIZE = "select coalesce(max(sequence) + 1, 0) as size from audit_entry";

    ENTERED = "select event_id from audit_entry where event_id = any($1)";

    ENTER = "insert into audit_entry (sequence, event_id, recorded_at, action, actor, object, leaf)
        select * from unnest($1::bigint[], $2::uuid[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::bytea[])";

    SAVE_SALTS = "insert into audit_salt (sequence, salt) select * from unnest($1::bigint[], $2::bytea[])";

    SAVE_HASHES = "insert into audit_hash (position, hash) select * from unnest($1::bigint[], $2::bytea[])";

    HASHES = "select position, hash from audit_hash where position = any($1)";

    ENTRIES = "select sequence, recorded_at, action, actor, object, leaf from audit_entry
        where sequence >= $1 and sequence < $2 order by sequence";

    LIST = "select sequence, recorded_at, action, actor, object, leaf from audit_entry
        where sequence < coalesce($1, 9223372036854775807) and ($2::text is null or object = $2)
        order by sequence desc limit $3";

    NEWEST = "select size, note, signed_at, published_at from audit_checkpoint order by size desc limit 1";

    SAVE_CHECKPOINT = "insert into audit_checkpoint (size, note, signed_at) values ($1, $2, $3) on conflict do nothing";

    WAS_PUBLISHED = "select from audit_checkpoint where published_at is not null limit 1";

    UNPUBLISH = "update audit_checkpoint set published_at = null where published_at is not null";

    ARCHIVE_AGAIN = "update reconciliation_archive set archived_at = null where archived_at is not null";

    PUBLISHED = "update audit_checkpoint set published_at = $2 where size <= $1 and published_at is null";

    TO_ARCHIVE = "select run.id, run.scope, run.day::text as day
        from reconciliation_archive waits join reconciliation run on run.id = waits.reconciliation_id
        where waits.archived_at is null order by waits.reconciliation_id limit 1";

    REPORTS = "select format, body from reconciliation_report where reconciliation_id = $1 order by format";

    ARCHIVED = "update reconciliation_archive set archived_at = $2 where reconciliation_id = $1 and archived_at is null";

    WAITING = "select count(*) as waiting, min(run.finished_at) as oldest
        from reconciliation_archive waits join reconciliation run on run.id = waits.reconciliation_id
        where waits.archived_at is null";
}

/// An entry to make.
#[derive(Debug, Clone)]
pub struct NewEntry {
    /// The event that it is made of.
    pub event: EventId,
    /// When the event was recorded.
    pub recorded_at: Timestamp,
    /// Such as `exception.answered`.
    pub action: String,
    /// Who; none where the event does not say.
    pub actor: Option<String>,
    /// What it was done to.
    pub object: String,
    /// What is hashed.
    pub leaf: Vec<u8>,
    /// What opens the leaf's commitment.
    pub salt: [u8; 32],
}

/// An entry.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its place in the tree.
    pub sequence: u64,
    /// When the event was recorded.
    pub recorded_at: Timestamp,
    /// Such as `exception.answered`.
    pub action: String,
    /// Who.
    pub actor: Option<String>,
    /// What it was done to.
    pub object: String,
    /// What was hashed.
    pub leaf: Vec<u8>,
}

/// A checkpoint that was signed.
#[derive(Debug, Clone)]
pub struct SavedCheckpoint {
    /// How many entries it is of.
    pub size: u64,
    /// The signed note.
    pub note: String,
    /// When it was signed.
    pub signed_at: Timestamp,
    /// When it came into the archive, if it has.
    pub published_at: Option<Timestamp>,
}

/// Waits until nobody else enters, and says how many entries there are.
pub async fn lock(tx: &Tx) -> Result<u64, StoreError> {
    tx.query(LOCK, &[]).await?;
    read_size(&tx.query(SIZE, &[]).await?)
}

/// How many entries there are.
pub async fn size(db: &Db) -> Result<u64, StoreError> {
    read_size(&db.query(SIZE, &[]).await?)
}

fn read_size(rows: &[Row]) -> Result<u64, StoreError> {
    rows.first().map_or(Ok(0), |row| number(row, "size"))
}

/// Which of these events are entered already.
pub async fn entered(tx: &Tx, events: &[EventId]) -> Result<HashSet<EventId>, StoreError> {
    let ids: Vec<Uuid> = events.iter().map(EventId::as_uuid).collect();
    let rows = tx.query(ENTERED, &[&ids]).await?;
    rows.iter().map(|row| Ok(EventId::from_uuid(row.try_get("event_id")?))).collect()
}

/// Stored hashes by their numbers, in the transaction that enters.
pub async fn hashes_in(tx: &Tx, positions: &[u64]) -> Result<Vec<(u64, [u8; 32])>, StoreError> {
    read_hashes(&tx.query(HASHES, &[&all_signed(positions)?]).await?)
}

/// Stored hashes by their numbers.
pub async fn hashes(db: &Db, positions: &[u64]) -> Result<Vec<(u64, [u8; 32])>, StoreError> {
    read_hashes(&db.query(HASHES, &[&all_signed(positions)?]).await?)
}

/// Makes entries at the places from `first` on, with the hashes that they bring.
pub async fn enter(
    tx: &Tx,
    first: u64,
    entries: &[NewEntry],
    hashes: &[(u64, [u8; 32])],
) -> Result<(), StoreError> {
    let places: Vec<u64> = (first..).take(entries.len()).collect();
    let places = all_signed(&places)?;
    let (events, at, actions, actors, objects, leaves, salts) = columns!(
        entries,
        |entry| entry.event.as_uuid(),
        At(entry.recorded_at),
        entry.action.as_str(),
        entry.actor.as_deref(),
        entry.object.as_str(),
        entry.leaf.as_slice(),
        entry.salt.as_slice()
    );
    tx.execute(ENTER, &[&places, &events, &at, &actions, &actors, &objects, &leaves]).await?;
    tx.execute(SAVE_SALTS, &[&places, &salts]).await?;
    let (positions, hashes) = columns!(hashes, |(position, hash)| *position, hash.as_slice());
    tx.execute(SAVE_HASHES, &[&all_signed(&positions)?, &hashes]).await?;
    Ok(())
}

/// The entries from one place on and before another, in order.
pub async fn entries(db: &Db, from: u64, to: u64) -> Result<Vec<Entry>, StoreError> {
    let rows = db.query(ENTRIES, &[&signed(from)?, &signed(to)?]).await?;
    rows.iter().map(read_entry).collect()
}

/// Entries, newest first: those before a place, and of one object, where these are given.
pub async fn list(
    db: &Db,
    before: Option<u64>,
    object: Option<&str>,
    limit: i64,
) -> Result<Vec<Entry>, StoreError> {
    let before = before.map(|before| i64::try_from(before).unwrap_or(i64::MAX));
    let rows = db.query(LIST, &[&before, &object, &limit]).await?;
    rows.iter().map(read_entry).collect()
}

fn read_entry(row: &Row) -> Result<Entry, StoreError> {
    Ok(Entry {
        sequence: number(row, "sequence")?,
        recorded_at: row.try_get::<_, At>("recorded_at")?.0,
        action: row.try_get("action")?,
        actor: row.try_get("actor")?,
        object: row.try_get("object")?,
        leaf: row.try_get("leaf")?,
    })
}

/// The newest checkpoint, if any was signed.
pub async fn newest_checkpoint(db: &Db) -> Result<Option<SavedCheckpoint>, StoreError> {
    let rows = db.query(NEWEST, &[]).await?;
    rows.first()
        .map(|row| {
            Ok(SavedCheckpoint {
                size: number(row, "size")?,
                note: row.try_get("note")?,
                signed_at: row.try_get::<_, At>("signed_at")?.0,
                published_at: row.try_get::<_, Option<At>>("published_at")?.map(|at| at.0),
            })
        })
        .transpose()
}

/// Keeps a signed checkpoint. Of two of the same size the first stays.
pub async fn save_checkpoint(db: &Db, size: u64, note: &str, now: Timestamp) -> Result<(), StoreError> {
    db.query(SAVE_CHECKPOINT, &[&signed(size)?, &note, &At(now)]).await?;
    Ok(())
}

/// Marks the checkpoints up to this size as in the archive.
pub async fn published(db: &Db, size: u64, now: Timestamp) -> Result<(), StoreError> {
    db.query(PUBLISHED, &[&signed(size)?, &At(now)]).await?;
    Ok(())
}

/// Was anything ever published?
pub async fn was_published(db: &Db) -> Result<bool, StoreError> {
    Ok(!db.query(WAS_PUBLISHED, &[]).await?.is_empty())
}

/// Everything is to be written into the archive once more: it has moved.
pub async fn archive_again(db: &Db) -> Result<(), StoreError> {
    let tx = db.begin().await?;
    tx.execute(UNPUBLISH, &[]).await?;
    tx.execute(ARCHIVE_AGAIN, &[]).await?;
    tx.commit().await
}

/// A reconciliation whose reports are not in the archive.
#[derive(Debug, Clone)]
pub struct ToArchive {
    /// Its id.
    pub id: ReconciliationId,
    /// What it compared.
    pub scope: String,
    /// Its day.
    pub day: String,
    /// Its reports by format.
    pub reports: Vec<(String, Vec<u8>)>,
}

/// The oldest reconciliation whose reports are not in the archive.
pub async fn to_archive(db: &Db) -> Result<Option<ToArchive>, StoreError> {
    let rows = db.query(TO_ARCHIVE, &[]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let id: Uuid = row.try_get("id")?;
    let reports = db
        .query(REPORTS, &[&id])
        .await?
        .iter()
        .map(|row| Ok((row.try_get("format")?, row.try_get("body")?)))
        .collect::<Result<_, StoreError>>()?;
    Ok(Some(ToArchive {
        id: ReconciliationId::from_uuid(id),
        scope: row.try_get("scope")?,
        day: row.try_get("day")?,
        reports,
    }))
}

/// Marks a reconciliation's reports as in the archive.
pub async fn archived(db: &Db, id: ReconciliationId, now: Timestamp) -> Result<(), StoreError> {
    db.query(ARCHIVED, &[&id.as_uuid(), &At(now)]).await?;
    Ok(())
}

/// How many reconciliations' reports wait for the archive, and since when the oldest does.
pub async fn waiting(db: &Db) -> Result<(i64, Option<Timestamp>), StoreError> {
    let rows = db.query(WAITING, &[]).await?;
    let Some(row) = rows.first() else { return Ok((0, None)) };
    Ok((row.try_get("waiting")?, row.try_get::<_, Option<At>>("oldest")?.map(|at| at.0)))
}

fn read_hashes(rows: &[Row]) -> Result<Vec<(u64, [u8; 32])>, StoreError> {
    rows.iter()
        .map(|row| {
            let hash: &[u8] = row.try_get("hash")?;
            let hash = hash.try_into().map_err(|_| StoreError::Corrupt("a hash of the audit log".into()))?;
            Ok((number(row, "position")?, hash))
        })
        .collect()
}

fn number(row: &Row, column: &str) -> Result<u64, StoreError> {
    let number: i64 = row.try_get(column)?;
    u64::try_from(number).map_err(|_| StoreError::Corrupt(format!("{column} of the audit log is {number}")))
}

/// A place or a size as PostgreSQL has it.
fn signed(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(|_| StoreError::Corrupt(format!("{number} as a place in the audit log")))
}

fn all_signed(numbers: &[u64]) -> Result<Vec<i64>, StoreError> {
    numbers.iter().map(|number| signed(*number)).collect()
}
