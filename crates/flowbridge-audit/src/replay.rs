//! An audit log entered anew from its bundles, to compare what comes out with what is stored and what was signed.
//!
//! Bounded in memory, however long the log: of the tree only what it grows from is kept, and of each level one tile.

use crate::place::{TILE_HEIGHT, TILE_WIDTH, tile_of};
use crate::tree::{BrokenTree, Growth, Hashes};
use tlog_tiles::{Hash, Tile, split_stored_hash_index};

/// Why a bundle cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It ends within a leaf, or holds more or fewer than it should.
    #[error("it does not hold the {0} entries that it should")]
    Shape(u64),
    /// The tree.
    #[error(transparent)]
    Tree(#[from] BrokenTree),
}

/// The bytes of a bundle: each leaf after its length in two bytes. None if a leaf is too long for that.
pub fn bundle<'a>(leaves: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for leaf in leaves {
        bytes.extend(u16::try_from(leaf.len()).ok()?.to_be_bytes());
        bytes.extend(leaf);
    }
    Some(bytes)
}

/// The leaves of a bundle.
pub fn leaves(mut bundle: &[u8], count: u64) -> Result<Vec<&[u8]>, BundleError> {
    let mut leaves = Vec::new();
    while !bundle.is_empty() {
        let split = bundle
            .split_first_chunk::<2>()
            .and_then(|(length, rest)| rest.split_at_checked(usize::from(u16::from_be_bytes(*length))));
        let Some((leaf, rest)) = split else { return Err(BundleError::Shape(count)) };
        if u64::try_from(leaves.len()) == Ok(count) {
            return Err(BundleError::Shape(count));
        }
        leaves.push(leaf);
        bundle = rest;
    }
    if u64::try_from(leaves.len()) == Ok(count) { Ok(leaves) } else { Err(BundleError::Shape(count)) }
}

/// What entering leaves has brought.
#[derive(Debug, Default)]
pub struct Entered {
    /// The hashes that are stored of the tree, by their numbers.
    pub hashes: Vec<(u64, Hash)>,
    /// The tiles that became whole, each with its bytes.
    pub tiles: Vec<(Tile, Vec<u8>)>,
}

/// A log that is entered anew.
#[derive(Debug)]
pub struct Replay {
    growth: Growth,
    /// The hashes of each level's last tile, from level 0 on.
    open: Vec<(u64, Vec<Hash>)>,
}

impl Default for Replay {
    fn default() -> Self {
        Self { growth: Growth::new(0, Hashes::default()), open: Vec::new() }
    }
}

impl Replay {
    /// How many leaves were entered.
    pub fn size(&self) -> u64 {
        self.growth.size()
    }

    /// The root that they make.
    pub fn root(&self) -> Result<Hash, BrokenTree> {
        self.growth.root()
    }

    /// Enters leaves, those of a bundle at most.
    pub fn enter(&mut self, leaves: &[&[u8]]) -> Result<Entered, BrokenTree> {
        for leaf in leaves {
            self.growth.append(leaf)?;
        }
        let mut whole = Vec::new();
        let added = self.growth.take_added();
        for (number, hash) in added.iter().copied() {
            let (level, _) = split_stored_hash_index(number);
            if level % TILE_HEIGHT != 0 {
                continue;
            }
            let level = level / TILE_HEIGHT;
            if usize::from(level) >= self.open.len() {
                self.open.resize_with(usize::from(level) + 1, Default::default);
            }
            let Some((tile, hashes)) = self.open.get_mut(usize::from(level)) else { continue };
            hashes.push(hash);
            if hashes.len() as u64 == TILE_WIDTH {
                whole.extend(tile_of(level, *tile, TILE_WIDTH).map(|at| (at, bytes(hashes))));
                *tile += 1;
                hashes.clear();
            }
        }
        Ok(Entered { hashes: added, tiles: whole })
    }

    /// The last tile of each level, where it is not whole.
    pub fn partial(&self) -> Vec<(Tile, Vec<u8>)> {
        (0_u8..)
            .zip(&self.open)
            .filter_map(|(level, (number, hashes))| {
                Some((tile_of(level, *number, hashes.len() as u64)?, bytes(hashes)))
            })
            .collect()
    }
}

fn bytes(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::new_tiles;
    use std::collections::HashMap;

    #[test]
    fn a_bundle_gives_back_its_leaves_and_nothing_from_beyond_its_end() {
        let bytes = bundle([b"one".as_slice(), b"", b"three"]).unwrap();
        assert_eq!(leaves(&bytes, 3).unwrap(), [b"one".as_slice(), b"", b"three"]);
        for cut in 1..5 {
            assert!(leaves(&bytes[..bytes.len() - cut], 3).is_err(), "{cut}");
        }
        assert!(leaves(&bytes, 2).is_err(), "one too many");
        assert_eq!(bundle([[0; 65_536].as_slice()]), None);
    }

    #[test]
    fn the_tiles_of_what_is_entered_anew_are_those_that_were_published_while_it_grew() {
        let size = TILE_WIDTH * TILE_WIDTH + 300;
        let entered: Vec<Vec<u8>> = (0..size).map(|leaf| leaf.to_be_bytes().to_vec()).collect();
        let mut growth = Growth::new(0, Hashes::default());
        let mut stored = HashMap::new();
        for leaf in &entered {
            growth.append(leaf).unwrap();
            stored.extend(growth.take_added());
        }
        let all: Hashes = stored.iter().map(|(number, hash)| (*number, *hash)).collect();
        let mut published: Vec<(String, Vec<u8>)> =
            new_tiles(0, size).iter().map(|tile| (tile.path(), tile.read_data(&all).unwrap())).collect();

        let mut replay = Replay::default();
        let mut tiles = Vec::new();
        for bundle in entered.chunks(256) {
            let bundle: Vec<&[u8]> = bundle.iter().map(Vec::as_slice).collect();
            tiles.extend(replay.enter(&bundle).unwrap().tiles);
        }
        tiles.extend(replay.partial());
        let mut replayed: Vec<_> = tiles.into_iter().map(|(tile, bytes)| (tile.path(), bytes)).collect();
        replayed.sort();
        published.sort();
        assert!(replayed == published, "{} tiles and {}", replayed.len(), published.len());
        assert_eq!((replay.size(), replay.root().unwrap()), (size, growth.root().unwrap()));
    }
}
