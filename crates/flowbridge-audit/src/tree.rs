//! The Merkle tree of RFC 6962, of which every hash that never changes again is stored under a number of its own.
//!
//! Nothing here reads a database: each function says which stored hashes it needs, and is then given them.

use crate::place::TILE_HEIGHT;
use std::cell::RefCell;
use std::collections::HashMap;
use tlog_tiles::{
    Error, HASH_SIZE, Hash, HashReader, Tile, check_record, check_tree, prove_record, prove_tree,
    record_hash, stored_hash_index, stored_hashes_for_record_hash, sub_tree_index, tree_hash,
};

/// A stored hash is missing, or does not fit the others: what is stored is not what was.
#[derive(Debug, thiserror::Error)]
#[error("the stored hashes of the audit log are not whole")]
pub struct BrokenTree(#[from] Error);

/// Stored hashes by their number.
#[derive(Debug, Clone, Default)]
pub struct Hashes(HashMap<u64, Hash>);

impl FromIterator<(u64, Hash)> for Hashes {
    fn from_iter<I: IntoIterator<Item = (u64, Hash)>>(hashes: I) -> Self {
        Self(hashes.into_iter().collect())
    }
}

impl HashReader for Hashes {
    fn read_hashes(&self, numbers: &[u64]) -> Result<Vec<Hash>, Error> {
        numbers.iter().map(|number| self.0.get(number).copied().ok_or(Error::IndexesNotInTree)).collect()
    }
}

/// Which stored hashes make the root of a tree of `size` leaves.
pub fn root_needs(size: u64) -> Vec<u64> {
    sub_tree_index(0, size, Vec::new())
}

/// The root of a tree of `size` leaves.
pub fn root(size: u64, hashes: &Hashes) -> Result<Hash, BrokenTree> {
    Ok(tree_hash(size, hashes)?)
}

/// Remembers what was asked for.
#[derive(Default)]
struct Asked(RefCell<Vec<u64>>);

impl HashReader for Asked {
    fn read_hashes(&self, numbers: &[u64]) -> Result<Vec<Hash>, Error> {
        self.0.borrow_mut().extend(numbers);
        Ok(vec![Hash::default(); numbers.len()])
    }
}

/// Which stored hashes show that a tree goes on from an earlier one.
pub fn extends_needs(size: u64, earlier: u64) -> Result<Vec<u64>, BrokenTree> {
    let mut needs = [root_needs(size), root_needs(earlier)].concat();
    if (1..=size).contains(&earlier) {
        let asked = Asked::default();
        prove_tree(size, earlier, &asked)?;
        needs.extend(asked.0.take());
    }
    Ok(needs)
}

/// Is the tree of `size` leaves what the tree of an earlier size and root was, plus what was added? An earlier one without leaves says nothing.
pub fn extends(size: u64, earlier: (u64, Hash), hashes: &Hashes) -> Result<bool, BrokenTree> {
    let (before, root_before) = earlier;
    if before == 0 || before > size {
        return Ok(before == 0);
    }
    let proof = prove_tree(size, before, hashes)?;
    let now = root(size, hashes)?;
    Ok(root(before, hashes)? == root_before && check_tree(&proof, size, now, before, root_before).is_ok())
}

/// Which stored hashes prove that a leaf is in a tree of `size`.
pub fn inclusion_needs(size: u64, sequence: u64) -> Result<Vec<u64>, BrokenTree> {
    let asked = Asked::default();
    prove_record(size, sequence, &asked)?;
    Ok(asked.0.take())
}

/// The proof that the leaf `sequence` is in a tree of `size`.
pub fn inclusion(size: u64, sequence: u64, hashes: &Hashes) -> Result<Vec<Hash>, BrokenTree> {
    Ok(prove_record(size, sequence, hashes)?)
}

/// Does the proof show that this leaf is in the tree of that size and root, at this place?
pub fn is_included(proof: &[Hash], tree: (u64, Hash), sequence: u64, leaf: &[u8]) -> bool {
    check_record(&proof.to_vec(), tree.0, tree.1, sequence, record_hash(leaf)).is_ok()
}

/// Which stored hashes a tile holds.
pub fn tile_needs(tile: &Tile) -> Vec<u64> {
    let first = tile.level_index() << TILE_HEIGHT;
    (first..)
        .take(tile.width() as usize)
        .map(|place| stored_hash_index(tile.level() * TILE_HEIGHT, place))
        .collect()
}

/// The bytes of a tile.
pub fn tile(tile: &Tile, hashes: &Hashes) -> Result<Vec<u8>, BrokenTree> {
    Ok(tile.read_data(hashes)?)
}

/// The first of these leaves that is not what the tile of their hashes says, or is not there; counted from the tile's first.
pub fn first_changed(leaves: &[impl AsRef<[u8]>], tile: &[u8]) -> Option<u64> {
    let hashes = tile.chunks(HASH_SIZE);
    let is_same = |place: usize, hash: &[u8]| {
        leaves.get(place).is_some_and(|leaf| record_hash(leaf.as_ref()).0.as_slice() == hash)
    };
    (0..)
        .zip(hashes.enumerate())
        .find_map(|(number, (place, hash))| (!is_same(place, hash)).then_some(number))
}

/// A tree that grows.
#[derive(Debug)]
pub struct Growth {
    size: u64,
    hashes: Hashes,
    added: Vec<(u64, Hash)>,
}

impl Growth {
    /// From a tree of `size` leaves on, of which [`root_needs`] is known.
    pub fn new(size: u64, hashes: Hashes) -> Self {
        Self { size, hashes, added: Vec::new() }
    }

    /// Adds a leaf.
    pub fn append(&mut self, leaf: &[u8]) -> Result<(), BrokenTree> {
        let new = stored_hashes_for_record_hash(self.size, record_hash(leaf), &self.hashes)?;
        let first = stored_hash_index(0, self.size);
        for (number, hash) in (first..).zip(new) {
            self.hashes.0.insert(number, hash);
            self.added.push((number, hash));
        }
        self.size += 1;
        Ok(())
    }

    /// How many leaves it has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its root.
    pub fn root(&self) -> Result<Hash, BrokenTree> {
        root(self.size, &self.hashes)
    }

    /// The hashes to store that have come since the last call, in the order of their numbers. Only what the tree grows from is kept.
    pub fn take_added(&mut self) -> Vec<(u64, Hash)> {
        let needed = root_needs(self.size);
        self.hashes.0.retain(|number, _| needed.contains(number));
        std::mem::take(&mut self.added)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The leaves that Certificate Transparency's implementations are tested with, and the roots of the trees of the first n of them.
    const LEAVES: [&str; 8] =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    const ROOTS: [&str; 8] = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    fn grown() -> (Hashes, Vec<Hash>) {
        let mut growth = Growth::new(0, Hashes::default());
        let (mut stored, mut roots) = (HashMap::new(), Vec::new());
        for leaf in LEAVES {
            growth.append(&hex::decode(leaf).unwrap()).unwrap();
            stored.extend(growth.take_added());
            roots.push(growth.root().unwrap());
        }
        (Hashes(stored), roots)
    }

    #[test]
    fn its_roots_are_those_of_certificate_transparency() {
        let (hashes, roots) = grown();
        let shown: Vec<String> = roots.iter().map(|root| hex::encode(root.0)).collect();
        assert_eq!(shown, ROOTS);
        let resumed = Growth::new(8, hashes);
        assert_eq!(resumed.root().unwrap(), roots[7]);
    }

    #[test]
    fn every_earlier_tree_is_found_in_every_later_one_and_another_is_not() {
        let (hashes, roots) = grown();
        for size in 1..=8 {
            for earlier in 0..=8 {
                let root_then = roots.get(earlier as usize - usize::from(earlier > 0)).copied().unwrap();
                let needed: Hashes = extends_needs(size, earlier)
                    .unwrap()
                    .into_iter()
                    .filter_map(|number| Some((number, *hashes.0.get(&number)?)))
                    .collect();
                let is_extended = extends(size, (earlier, root_then), &needed).unwrap();
                assert_eq!(is_extended, earlier <= size, "{earlier} in {size}");
                if earlier > 0 && earlier <= size {
                    assert!(!extends(size, (earlier, Hash([9; 32])), &needed).unwrap());
                }
            }
        }
    }

    #[test]
    fn each_leaf_is_proven_at_its_place_and_at_no_other() {
        let (hashes, roots) = grown();
        for (place, leaf) in (0_u64..).zip(LEAVES) {
            let leaf = hex::decode(leaf).unwrap();
            let proof = inclusion(8, place, &hashes).unwrap();
            assert!(is_included(&proof, (8, roots[7]), place, &leaf));
            assert!(!is_included(&proof, (8, roots[7]), (place + 1) % 8, &leaf));
            assert!(!is_included(&proof, (8, roots[7]), place, b"another"));
        }
        assert!(inclusion_needs(8, 8).is_err(), "there is no such leaf");
    }
}
