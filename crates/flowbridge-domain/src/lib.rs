//! The pure core of FlowBridge: everything that decides about money, and nothing else.
//!
//! No I/O, no clock, no async, no serialisation, no floats. The centre is [`payment::step`]: one payment and one event in,
//! the next state, the journal entries and the effects to carry out come back. What this crate decides, the crates above
//! it only store, send and show.

pub mod bank;
pub mod id;
pub mod ledger;
pub mod money;
pub mod party;
pub mod payment;
pub mod time;
