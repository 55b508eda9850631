//! An archive checked from outside: from its bundles the tree is built anew, and compared with its tiles and its signed checkpoint;
//! every report that an entry names is read and hashed.

use crate::place::Place;
use flowbridge_audit::Hash;
use flowbridge_audit::checkpoint::{Checkpoint, Trusted};
use flowbridge_audit::leaf::Leaf;
use flowbridge_audit::place;
use flowbridge_audit::replay::{Replay, leaves};
use flowbridge_security::sha256;
use flowbridge_store::{Db, StoreError, audit as rows};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::Path;

/// Problems that are told one by one; the others are counted.
const TOLD_MAX: usize = 100;

/// What a check of an archive found.
#[derive(Debug, Default)]
pub struct Verified {
    /// Entries that the checkpoint covers.
    pub entries: u64,
    /// Reports that were read and are what the entries say.
    pub reports: u64,
    /// What is not as it should be, in words.
    pub problems: Vec<String>,
    /// More of these.
    pub more: u64,
}

impl Verified {
    fn problem(&mut self, what: String) {
        if self.problems.len() < TOLD_MAX {
            self.problems.push(what);
        } else {
            self.more += 1;
        }
    }
}

/// Checks an archive against its checkpoint, which a trusted key must have signed; against earlier checkpoints that were kept elsewhere,
/// by somebody or on chain; and against the database's entries, where these are given. Reads everything once, and holds one bundle
/// in memory.
pub async fn verify(
    archive: &Place,
    trusted: &Trusted,
    earlier: &[Checkpoint],
    db: Option<&Db>,
) -> io::Result<Verified> {
    let mut verified = Verified::default();
    let path = place::checkpoint();
    let Some(note) = read(archive, &path).await? else {
        verified.problem(format!("there is no {}: nothing was ever published here", path.display()));
        return Ok(verified);
    };
    let checkpoint = match trusted.open(&note) {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            verified.problem(format!("{}: {}", path.display(), crate::context::chain(&error)));
            return Ok(verified);
        }
    };
    verified.entries = checkpoint.size;
    for earlier in earlier.iter().filter(|earlier| earlier.size > checkpoint.size) {
        verified.problem(format!(
            "the checkpoint covers {} entries, and one of {} was signed before: the newest are withheld",
            checkpoint.size, earlier.size
        ));
    }
    let mut replay = Replay::default();
    let mut tiles = Vec::new();
    while replay.size() < checkpoint.size {
        let from = replay.size();
        let width = place::TILE_WIDTH.min(checkpoint.size - from);
        let Some(tile) = place::tile_of(0, from / place::TILE_WIDTH, width) else { break };
        let path = place::bundle(&tile);
        let Some(bundle) = read(archive, &path).await? else {
            verified.problem(format!(
                "{} is missing: entries {from} to {}",
                path.display(),
                from + width - 1
            ));
            return Ok(verified);
        };
        let leaves = match leaves(&bundle, width) {
            Ok(leaves) => leaves,
            Err(error) => {
                verified.problem(format!("{}: {error}", path.display()));
                return Ok(verified);
            }
        };
        for (sequence, leaf) in (from..).zip(&leaves) {
            check_leaf(archive, sequence, leaf, &mut verified).await?;
        }
        if let Some(db) = db {
            compare_entries(db, from, &leaves, &mut verified).await.map_err(io::Error::other)?;
        }
        // Earlier checkpoints may end within a bundle.
        let ends =
            earlier.iter().map(|earlier| earlier.size).filter(|end| (from + 1..from + width).contains(end));
        let ends: BTreeSet<u64> = ends.chain([from + width]).collect();
        let mut rest = leaves.as_slice();
        for end in ends {
            let count = usize::try_from(end - replay.size()).unwrap_or(usize::MAX).min(rest.len());
            let (part, others) = rest.split_at(count);
            let entered = replay.enter(part).map_err(io::Error::other)?;
            tiles.extend(entered.tiles);
            if let Some(db) = db {
                compare_hashes(db, &entered.hashes, &mut verified).await.map_err(io::Error::other)?;
            }
            rest = others;
            let root = replay.root().map_err(io::Error::other)?;
            if earlier.iter().any(|earlier| earlier.size == end && earlier.root != root) {
                verified.problem(format!(
                    "the first {end} entries are not those that were signed before: history was written anew"
                ));
            }
        }
        for (tile, bytes) in tiles.drain(..) {
            check_tile(archive, &place::tile(&tile), &bytes, &mut verified).await?;
        }
    }
    for (tile, bytes) in replay.partial() {
        check_tile(archive, &place::tile(&tile), &bytes, &mut verified).await?;
    }
    if checkpoint.size > 0 && replay.root().map_err(io::Error::other)? != checkpoint.root {
        verified.problem(
            "the entries do not make the root that was signed: some were changed, taken out, put in or moved"
                .to_owned(),
        );
    }
    Ok(verified)
}

async fn check_leaf(archive: &Place, sequence: u64, leaf: &[u8], verified: &mut Verified) -> io::Result<()> {
    let leaf = match Leaf::parse(leaf) {
        Ok(leaf) => leaf,
        Err(error) => {
            verified.problem(format!("entry {sequence}: {error}"));
            return Ok(());
        }
    };
    for (format, expected) in leaf.reports() {
        let (day, scope) = (leaf.text("day").unwrap_or("-"), leaf.text("scope").unwrap_or("-"));
        let path = place::report(day, scope, &leaf.object, format);
        match read(archive, &path).await? {
            None => verified.problem(format!("{} is missing, which entry {sequence} names", path.display())),
            Some(report) if hex::encode(sha256(&report)) != expected => {
                verified.problem(format!("{} is not the report that entry {sequence} names", path.display()));
            }
            Some(_) => verified.reports += 1,
        }
    }
    Ok(())
}

async fn compare_entries(
    db: &Db,
    from: u64,
    leaves: &[&[u8]],
    verified: &mut Verified,
) -> Result<(), StoreError> {
    let ours = rows::entries(db, from, from + leaves.len() as u64).await?;
    let mut ours = ours.iter().peekable();
    for (sequence, leaf) in (from..).zip(leaves) {
        let entry = ours.next_if(|entry| entry.sequence == sequence);
        // What is listed and looked for is beside what is hashed.
        let is_said = |entry: &rows::Entry| {
            Leaf::parse(leaf).is_ok_and(|leaf| {
                (&leaf.action, &leaf.object, &leaf.actor) == (&entry.action, &entry.object, &entry.actor)
            })
        };
        if entry.is_none_or(|entry| entry.leaf != *leaf || !is_said(entry)) {
            verified.problem(format!("entry {sequence} in the database is not the one in the archive"));
        }
    }
    Ok(())
}

/// What is stored of the tree is what its proofs are made of.
async fn compare_hashes(db: &Db, hashes: &[(u64, Hash)], verified: &mut Verified) -> Result<(), StoreError> {
    let numbers: Vec<u64> = hashes.iter().map(|(number, _)| *number).collect();
    let ours: HashMap<u64, [u8; 32]> = rows::hashes(db, &numbers).await?.into_iter().collect();
    for (number, hash) in hashes {
        if ours.get(number) != Some(&hash.0) {
            verified
                .problem(format!("hash {number} of the tree in the database is not what the entries make"));
        }
    }
    Ok(())
}

async fn check_tile(archive: &Place, path: &Path, bytes: &[u8], verified: &mut Verified) -> io::Result<()> {
    match read(archive, path).await? {
        None => verified.problem(format!("{} is missing", path.display())),
        Some(found) if found != bytes => {
            verified.problem(format!("{} does not hold the hashes of the entries", path.display()));
        }
        Some(_) => {}
    }
    Ok(())
}

async fn read(archive: &Place, path: &Path) -> io::Result<Option<Vec<u8>>> {
    match archive.read(path).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
