//! The proof of the payment lifecycle, from the closest view to the widest:
//!
//! - [`matrix`]: every state meets every event; the table is `docs/lifecycle.md`, committed and compared cell by cell.
//! - [`races`]: each race that the design names, told as a story with its end.
//! - [`properties`]: random stories in a plausible world (chain and banks keep their contracts) and in a hostile one.
//! - [`model`]: one payment with its rows, logs and workers, explored exhaustively, with crashes between any two writes; and
//!   broken variants that the checker has to refute;
//! - [`slice`]: holds that are decided together.
//!
//! [`support`] has the payments and the books, [`world`] the chain and the banks that payments live with.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "numbers here are small, and overflow panics in tests and so fails them"
)]

#[cfg(test)]
mod matrix;
#[cfg(test)]
mod model;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod races;
#[cfg(test)]
mod slice;
#[cfg(test)]
mod support;
#[cfg(test)]
mod world;
