//! The roles that work in the background.
//!
//! Each is a loop that claims a slice of work under a lease, does what is slow outside any transaction, and records what
//! came of it in one transaction. Only the [`orchestrator`] decides about payments; the others write down what they
//! observed and let it decide. A loop that is told to stop finishes its slice, gives its leases back and ends.

pub mod audit;
pub mod bank;
mod breaker;
pub mod chain;
pub mod context;
mod membership;
pub mod monitor;
pub mod orchestrator;
pub mod place;
pub mod proof;
pub mod reconciliation;
mod step;
pub mod webhook;
