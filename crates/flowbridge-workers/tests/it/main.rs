//! Workers against real servers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod audit;
mod bucket;
mod chain;
mod chain_faults;
mod fences;
mod nightly;
mod outside;
mod reconciliation;
mod slices;
mod spine;
mod stage;
mod webhook;
mod windows;
mod zksync;
