//! The truth: PostgreSQL, and the only SQL of FlowBridge.
//!
//! Every function here takes a *slice* of work and runs a constant number of statements for it, never one per item. What
//! belongs together (new states, journal entries, events, effects, the consumed offset) is written in one transaction,
//! and nothing slow ever happens inside one. Every statement is a named constant in its module's `statements!` block; a test
//! prepares all of them against a migrated database and compares their types with the committed list.

pub mod accept;
pub mod access;
pub mod audit;
#[cfg(test)]
mod backlog;
pub mod breaker;
pub mod chain;
pub mod db;
pub mod effect;
pub mod event_data;
pub mod event_log;
pub mod exception;
mod failpoint;
pub mod history;
pub mod ledger;
pub mod lifecycle;
pub mod measure;
pub mod monitor;
pub mod observation;
pub mod party;
pub mod payment;
mod presence;
pub mod promotion;
pub mod proof;
pub mod query;
pub mod reconciliation;
#[cfg(test)]
mod registry;
pub mod review;
pub mod segment;
mod sql;
pub mod statement;
pub mod vault;
pub mod wake;
pub mod webhook;

pub use db::{Db, DbSettings, StoreError, Tx};
