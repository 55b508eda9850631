//! The program as its users start it: `flowbridge dev` and its commands, over real servers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod bench;
mod operators;
mod reconciliation;
mod reword;
mod running;
mod trace;
mod vault;
