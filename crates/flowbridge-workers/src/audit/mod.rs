//! The audit log's own role: enters what the event log says, signs checkpoints, and keeps the archive.
//!
//! **Entering.** What people and reconciliation do is in the event log in the transaction that did it. Here it is read as the group
//! `audit`, each event becomes a leaf of the tree, and leaves, hashes and offset are written in one transaction: an event is entered
//! once, in the order of its partition, whoever is killed.
//!
//! **Signing.** Every now and then a checkpoint is signed, and what was signed before is looked at again: from the stored hashes it is shown
//! that the tree still goes on from the checkpoint before. If it does not, somebody has changed what was entered: nothing is signed, and
//! the alarm is raised.
//!
//! **Keeping.** The reports of reconciliations and the tree's tiles go into an archive, where nothing is written twice; the checkpoint
//! comes last, so that everything that the archive's checkpoint covers is in the archive. What cannot be written is tried again at the
//! next look. Each leaf is hashed anew on its way out, so that an entry that was changed in the database is not published.
//!
//! An archive whose checkpoint the database does not go on from (it was restored from an older backup, or changed), or that is empty
//! where something was published, is left alone; nothing more is signed, and a person has to decide: docs/runbooks/audit-log.md.
//!
//! One process looks, whoever reads the first partition. If another took over meanwhile, both write the same, and what the other has
//! signed or published further is no sign that anything was changed: it is read again before anybody says so.

mod verify;

pub use verify::{Verified, verify};

use crate::context::{Context, RESTING_POLL_OF_SLOW, RESTS_AFTER, Rhythm, Turn, Worker, chain, run_loop};
use crate::membership::Membership;
use crate::place::Place;
use flowbridge_audit::checkpoint::{Checkpoint, LogKey, OpenError, SignError, Trusted};
use flowbridge_audit::leaf::{Leaf, Said};
use flowbridge_audit::tree::{self, BrokenTree, Growth, Hashes};
use flowbridge_audit::{Hash, place, replay};
use flowbridge_domain::id::EventId;
use flowbridge_domain::time::Timestamp;
use flowbridge_store::audit as rows;
use flowbridge_store::event_log::{self, Held, LoggedEvent, Offset, Reader, subject_of, topic};
use flowbridge_store::wake::Work;
use flowbridge_store::{Db, StoreError};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Limits of the audit log.
#[derive(Debug, Clone)]
pub struct AuditSettings {
    /// Events of one partition entered in one transaction at most.
    pub slice_max: i64,
    /// How long a partition stays ours without renewal.
    pub lease: Duration,
    /// How often to look for events that nobody rang for.
    pub poll: Duration,
    /// How far apart checkpoints are at least, and how often a failed archive is tried again.
    pub checkpoint_interval: Duration,
}

impl Default for AuditSettings {
    fn default() -> Self {
        Self {
            slice_max: 500,
            lease: Duration::from_secs(30),
            poll: Duration::from_secs(5),
            checkpoint_interval: Duration::from_secs(10),
        }
    }
}

/// Who signs, whose earlier checkpoints are gone on from, and where the archive is.
#[derive(Debug)]
pub struct Keeping {
    /// Signs checkpoints.
    pub key: LogKey,
    /// Its own public half, and those of keys that have signed before it.
    pub trusted: Trusted,
    /// None: nothing is archived.
    pub archive: Option<Place>,
}

/// Reconciliations whose reports go into the archive in one look.
const REPORTS_PER_LOOK: usize = 50;

/// Why nothing was signed or archived.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Stored hashes are missing.
    #[error(transparent)]
    Tree(#[from] BrokenTree),
    /// The newest checkpoint in the database is not by a trusted key.
    #[error(
        "the last checkpoint that was signed cannot be gone on from: give all processes the same [audit] key_file and origin, and name the keys \
         that signed before in keys_before"
    )]
    LastCheckpoint(#[source] OpenError),
    /// The archive's checkpoint is not by a trusted key.
    #[error(
        "the archive's checkpoint cannot be gone on from: it is of another log, or by a key that signed before and is not named in [audit] keys_before"
    )]
    ArchivedCheckpoint(#[source] OpenError),
    /// The key could not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// What was entered is not what was signed.
    #[error(
        "the {size} entries in the database do not go on from the {before} that were signed before: entries were changed or taken out"
    )]
    Rewritten {
        /// Entries in the database.
        size: u64,
        /// Entries that were signed before.
        before: u64,
    },
    /// The archive is not behind the database, but beside it.
    #[error(
        "the archive has a checkpoint of {archived} entries that the {size} of the database do not go on from: the database was changed, or \
         restored from an older backup"
    )]
    Forked {
        /// Entries in the database.
        size: u64,
        /// Entries that the archive's checkpoint covers.
        archived: u64,
    },
    /// There is nothing where something was published.
    #[error(
        "the archive {0} is empty, and something was published before: is it mounted, and is it the right one? If it has moved: `flowbridge audit archive-again`"
    )]
    Vanished(String),
    /// An entry is not what its hash says.
    #[error("entry {0} in the database is not the one that was entered")]
    Changed(u64),
    /// The archive refuses, or is away.
    #[error("the archive does not take {path}")]
    Archive {
        /// What was to be written.
        path: String,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

impl KeepError {
    /// Is it only that the archive, or the database, is not there at the moment?
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Archive { source, .. } => source.kind() != io::ErrorKind::AlreadyExists,
            Self::Store(_) => true,
            Self::Tree(_)
            | Self::LastCheckpoint(_)
            | Self::ArchivedCheckpoint(_)
            | Self::Sign(_)
            | Self::Rewritten { .. }
            | Self::Forked { .. }
            | Self::Vanished(_)
            | Self::Changed(_) => false,
        }
    }
}

/// Runs until told to stop, then gives its partitions back.
pub async fn run(context: Context, keeping: Keeping, settings: AuditSettings, stop: CancellationToken) {
    let rhythm = Rhythm {
        bell: Work::ReconciliationEvents,
        poll: settings.poll,
        rests_after: RESTS_AFTER,
        resting_poll: RESTING_POLL_OF_SLOW,
        pace: PACE,
    };
    let mut auditor = Auditor::new(context.clone(), keeping, settings);
    run_loop("audit", &context, rhythm, &stop, &mut auditor).await;
    auditor.membership.leave(&context).await;
}

/// How far apart turns are at least, so that slices fill.
const PACE: Duration = Duration::from_millis(100);

/// Enters, signs and archives.
#[derive(Debug)]
pub struct Auditor {
    context: Context,
    keeping: Keeping,
    settings: AuditSettings,
    membership: Membership,
    /// When to look at checkpoint and archive again.
    look_at: Timestamp,
    /// What was wrong at the last look, said once.
    wrong: Option<String>,
}

impl Worker for Auditor {
    async fn turn(&mut self) -> Result<Turn, StoreError> {
        let entered = self.enter().await;
        let now = self.context.now();
        if !self.membership.held().iter().any(|held| held.partition == 0) {
            if self.wrong.take().is_some() {
                // Whoever looks now says what is wrong.
                show(true, true);
            }
            return entered;
        }
        // Also while there is ever more to enter, and when nothing can be: that may be what is wrong.
        if now >= self.look_at {
            self.look_at = now.plus(self.settings.checkpoint_interval);
            let looked = self.look().await;
            return entered.and_then(|turn| looked.map(|()| turn));
        }
        entered
    }
}

/// Is the log as it was, and does the archive take what it should?
fn show(log: bool, archive: bool) {
    metrics::gauge!("audit_log_ok").set(if log { 1.0 } else { 0.0 });
    metrics::gauge!("audit_archive_ok").set(if archive { 1.0 } else { 0.0 });
}

impl Auditor {
    /// A reader of the group under this process's name.
    pub fn new(context: Context, keeping: Keeping, settings: AuditSettings) -> Self {
        let reader = Reader {
            group: "audit",
            topics: &[topic::RECONCILIATION],
            owner: context.instance.clone(),
            lease: settings.lease,
        };
        Self {
            context,
            keeping,
            settings,
            membership: Membership::new(reader),
            look_at: Timestamp::EPOCH,
            wrong: None,
        }
    }

    /// Gives its partitions back.
    pub async fn release(&self) -> Result<(), StoreError> {
        self.membership.release(&self.context).await
    }

    /// Enters a slice of what is new in the partitions that are ours.
    pub async fn enter(&mut self) -> Result<Turn, StoreError> {
        self.membership.keep(&self.context).await?;
        if self.membership.held().is_empty() {
            return Ok(Turn::Idle);
        }
        let now = self.context.now();
        self.enter_slice().await.inspect_err(|_| self.membership.start_again(now))
    }

    async fn enter_slice(&mut self) -> Result<Turn, StoreError> {
        let db = &self.context.db;
        let events = event_log::read_held(db, self.membership.held(), self.settings.slice_max).await?;
        if events.is_empty() {
            return Ok(Turn::Idle);
        }
        let tx = db.begin().await?;
        let size = rows::lock(&tx).await?;
        let ids: Vec<EventId> = events.iter().map(|event| event.id).collect();
        let entered = rows::entered(&tx, &ids).await?;
        let hashes = stored(rows::hashes_in(&tx, &tree::root_needs(size)).await?);
        let mut growth = Growth::new(size, hashes);
        let mut entries = Vec::with_capacity(events.len());
        for event in events.iter().filter(|event| !entered.contains(&event.id)) {
            let entry = entry(event)?;
            growth.append(&entry.leaf).map_err(|broken| StoreError::Corrupt(broken.to_string()))?;
            entries.push(entry);
        }
        if !entries.is_empty() {
            let added: Vec<_> =
                growth.take_added().into_iter().map(|(number, hash)| (number, hash.0)).collect();
            rows::enter(&tx, size, &entries, &added).await?;
        }
        let moves = moves(self.membership.held(), &events);
        self.membership.reader.advance(&tx, &moves).await?;
        tx.commit().await?;
        self.membership.moved(moves);
        metrics::counter!("audit_entries_total").increment(entries.len() as u64);
        Ok(Turn::Busy)
    }

    /// Signs and archives what has come, and says what is wrong.
    async fn look(&mut self) -> Result<(), StoreError> {
        let kept = self.keep().await;
        if self.keeping.archive.is_some() {
            let (waiting, oldest) = rows::waiting(&self.context.db).await?;
            let now = self.context.now();
            metrics::gauge!("waiting", "what" => "report", "kind" => "archive")
                .set(f64::from(u32::try_from(waiting).unwrap_or(u32::MAX)));
            metrics::gauge!("waiting_oldest_seconds", "what" => "report", "kind" => "archive")
                .set(oldest.map_or(0.0, |oldest| now.since(oldest).as_secs_f64()));
        }
        let wrong = match kept {
            Ok(()) => None,
            Err(KeepError::Store(error)) => return Err(error),
            Err(error) => Some(error),
        };
        let is_right = wrong.as_ref().is_none_or(KeepError::may_pass);
        show(is_right, wrong.is_none());
        let said = wrong.as_ref().map(|error| chain(error));
        match &said {
            Some(error) if self.wrong != said && is_right => {
                tracing::warn!(error, "the archive cannot be written; it is tried again");
            }
            Some(error) if self.wrong != said => {
                tracing::error!(error, "the audit log is not as it was: see docs/runbooks/audit-log.md");
            }
            None if self.wrong.is_some() => tracing::info!("the audit log is kept again"),
            Some(_) | None => {}
        }
        self.wrong = said;
        Ok(())
    }

    /// Signs a checkpoint of what is entered, archives reports, and publishes it. An archive that is away keeps nothing from being signed;
    /// one that is beside the database does.
    pub async fn keep(&mut self) -> Result<(), KeepError> {
        let size = rows::size(&self.context.db).await?;
        let archived = self.archived(size).await;
        if archived.as_ref().is_err_and(|error| !error.may_pass()) {
            return archived.map(|_| ());
        }
        let checkpoint = self.sign(size).await?;
        let (Some((archive, archived)), Some((checkpoint, note))) = (archived?, checkpoint) else {
            return Ok(());
        };
        // Reports first: what a checkpoint covers is in the archive before it.
        for _ in 0..REPORTS_PER_LOOK {
            let Some(due) = rows::to_archive(&self.context.db).await? else {
                return self.publish(&archive, archived, (checkpoint, &note)).await;
            };
            let id = due.id;
            archive_reports(&archive, due).await?;
            rows::archived(&self.context.db, id, self.context.now()).await?;
        }
        // There is more: at the next turn, when the leases are renewed.
        self.look_at = self.context.now();
        Ok(())
    }

    /// The archive, and the checkpoint that it has; it is one of ours, and the database goes on from it.
    async fn archived(&self, size: u64) -> Result<Option<(Place, Checkpoint)>, KeepError> {
        let (db, path) = (&self.context.db, place::checkpoint());
        let Some(archive) = &self.keeping.archive else { return Ok(None) };
        let archived = match archive.read(&path).await {
            Ok(note) => self.keeping.trusted.open(&note).map_err(KeepError::ArchivedCheckpoint)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if rows::was_published(db).await? {
                    return Err(KeepError::Vanished(archive.to_string()));
                }
                Checkpoint { size: 0, root: Hash::default() }
            }
            Err(source) => return Err(refused(&path, source)),
        };
        // Another process may have entered and published meanwhile.
        let size = if archived.size > size { rows::size(db).await? } else { size };
        let hashes = stored(rows::hashes(db, &tree::extends_needs(size, archived.size)?).await?);
        if archived.size > size || !archived.is_continued_by(size, &hashes)? {
            return Err(KeepError::Forked { size, archived: archived.size });
        }
        Ok(Some((archive.clone(), archived)))
    }

    /// Shows that the tree goes on from the newest checkpoint, signs one of `size` if that is more, and gives it back.
    async fn sign(&self, size: u64) -> Result<Option<(Checkpoint, String)>, KeepError> {
        let (db, trusted) = (&self.context.db, &self.keeping.trusted);
        let saved = rows::newest_checkpoint(db).await?;
        let before = match &saved {
            Some(saved) => trusted.open(saved.note.as_bytes()).map_err(KeepError::LastCheckpoint)?,
            None => Checkpoint { size: 0, root: Hash::default() },
        };
        // Another process may have entered and signed meanwhile.
        let size = if before.size > size { rows::size(db).await? } else { size };
        let hashes = stored(rows::hashes(db, &tree::extends_needs(size, before.size)?).await?);
        if size < before.size || !before.is_continued_by(size, &hashes)? {
            return Err(KeepError::Rewritten { size, before: before.size });
        }
        if size == before.size {
            return Ok(saved.map(|saved| (before, saved.note)));
        }
        let root = tree::root(size, &hashes)?;
        let note = self.keeping.key.sign(size, root)?;
        rows::save_checkpoint(db, size, &note, self.context.now()).await?;
        Ok(Some((Checkpoint { size, root }, note)))
    }

    /// Writes the tiles that a checkpoint has and the archive's has not, and then the checkpoint.
    async fn publish(
        &self,
        archive: &Place,
        archived: Checkpoint,
        (checkpoint, note): (Checkpoint, &str),
    ) -> Result<(), KeepError> {
        let (db, path) = (&self.context.db, place::checkpoint());
        if archived.size < checkpoint.size {
            publish_tiles(db, archive, (archived.size, checkpoint.size)).await?;
            // Never in the place of a later one, which another process may have published meanwhile.
            let newest = self.archived(checkpoint.size).await?;
            if newest.is_some_and(|(_, newest)| newest.size < checkpoint.size) {
                archive
                    .write(&path, note.as_bytes().to_vec())
                    .await
                    .map_err(|source| refused(&path, source))?;
            }
        }
        if rows::newest_checkpoint(db).await?.is_some_and(|newest| newest.published_at.is_none()) {
            rows::published(db, checkpoint.size, self.context.now()).await?;
        }
        Ok(())
    }
}

/// Writes a reconciliation's reports.
async fn archive_reports(archive: &Place, due: rows::ToArchive) -> Result<(), KeepError> {
    for (format, body) in due.reports {
        let path = place::report(&due.day, &due.scope, &due.id.to_string(), &format);
        keep(archive, &path, body).await?;
    }
    Ok(())
}

/// Writes the tiles, and the bundles of their leaves, that a tree of one size has not and one of the other has.
async fn publish_tiles(db: &Db, archive: &Place, (from, to): (u64, u64)) -> Result<(), KeepError> {
    for tile in place::new_tiles(from, to) {
        let hashes = stored(rows::hashes(db, &tree::tile_needs(&tile)).await?);
        let bytes = tree::tile(&tile, &hashes)?;
        if tile.level() == 0 {
            let first = tile.level_index() * place::TILE_WIDTH;
            let entries = rows::entries(db, first, first + u64::from(tile.width())).await?;
            let leaves: Vec<&[u8]> = entries.iter().map(|entry| entry.leaf.as_slice()).collect();
            if let Some(changed) = tree::first_changed(&leaves, &bytes) {
                return Err(KeepError::Changed(first + changed));
            }
            // What is entered is never too long for a bundle.
            let bundle = replay::bundle(leaves).ok_or(KeepError::Changed(first))?;
            keep(archive, &place::bundle(&tile), bundle).await?;
        }
        keep(archive, &place::tile(&tile), bytes).await?;
    }
    Ok(())
}

async fn keep(archive: &Place, path: &Path, bytes: Vec<u8>) -> Result<(), KeepError> {
    archive.keep(path, bytes).await.map_err(|source| refused(path, source))
}

fn refused(path: &Path, source: io::Error) -> KeepError {
    KeepError::Archive { path: path.display().to_string(), source }
}

fn entry(event: &LoggedEvent) -> Result<rows::NewEntry, StoreError> {
    let mut salt = [0; 32];
    rand::fill(&mut salt);
    let object = subject_of(&event.kind, event.key);
    let (id, data) = (event.id.to_string(), event.data.raw());
    let said = Said { event: &id, action: &event.kind, object: &object, at: event.recorded_at, data };
    let leaf = Leaf::of(said, &salt);
    Ok(rows::NewEntry {
        event: event.id,
        recorded_at: event.recorded_at,
        action: event.kind.clone(),
        actor: leaf.actor.clone(),
        leaf: leaf.bytes().map_err(|error| StoreError::Corrupt(error.to_string()))?,
        object,
        salt,
    })
}

/// How far each partition is after these events.
fn moves(held: &[Held], events: &[LoggedEvent]) -> Vec<(Held, Offset)> {
    let mut furthest: BTreeMap<(&str, i16), Offset> = BTreeMap::new();
    for event in events {
        furthest.insert((event.topic.as_str(), event.partition), event.offset);
    }
    held.iter()
        .filter_map(|held| Some((held.clone(), *furthest.get(&(held.topic.as_str(), held.partition))?)))
        .collect()
}

fn stored(hashes: Vec<(u64, [u8; 32])>) -> Hashes {
    hashes.into_iter().map(|(number, hash)| (number, Hash(hash))).collect()
}
