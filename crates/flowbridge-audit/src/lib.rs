//! The audit log: what people and FlowBridge itself did, as the leaves of a Merkle tree that only grows.
//!
//! Whoever holds a signed checkpoint of the tree (its size and root) can prove of each entry that it was there and has not been
//! changed, and of each later checkpoint that everything is still as it was, plus what was added. An entry that is changed, taken
//! out, put in or moved, and a tail that is written anew, lead to another root. What nobody can prove is what was never entered,
//! and what happened after the last checkpoint that somebody outside has seen.
//!
//! The formats are those of the transparency logs of the Web, so that others' tools read them: hashes of RFC 6962, checkpoints of
//! C2SP tlog-checkpoint as signed notes (Ed25519), tiles and bundles of C2SP tlog-tiles, proofs of C2SP tlog-proof. The tree is
//! computed by `tlog_tiles`, notes are verified by `signed_note`; what is here says what a leaf holds, where things lie in an archive,
//! and what to compare with what. All of it are functions of their arguments: no SQL, no files, no clock.

#![warn(missing_docs)]

pub mod checkpoint;
pub mod leaf;
pub mod place;
pub mod replay;
pub mod tree;

pub use tlog_tiles::Hash;
