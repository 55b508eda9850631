//! Wire types: what crosses the borders of FlowBridge.
//!
//! Requests are read strictly ([`json`]): every fault is reported at once, each with a JSON pointer to where it is, and what we
//! do not know is refused rather than ignored. Refusals are RFC 9457 problems with a stable code and a page each ([`problem`]).

pub mod json;
pub mod party;
pub mod payment;
pub mod problem;
pub mod reconciliation;
pub mod review;
pub mod trace;
pub mod vault;
