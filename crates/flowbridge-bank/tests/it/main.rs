//! Integration tests: real HTTP on free ports, real books on disk, a clock turned by hand.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod bench;
mod conformance;
mod durability;
mod faults;
mod hold_api;
mod iso20022;
mod startup;
