//! Reconciliation: which bank line belongs to which ledger entry and chain event, what differs, and why.
//!
//! Pure: no database, no clock, no network. The same records give the same answer, byte for byte, whatever their order
//! and the number of threads.

pub mod anomaly;
pub mod assign;
pub mod block;
pub mod break_kind;
pub mod calibrate;
pub mod chain;
mod cold;
mod compete;
pub mod correction;
pub mod date;
pub mod engine;
pub mod evaluate;
mod feature;
pub mod feedback;
pub mod files;
pub mod gate;
pub mod generate;
pub mod goal;
pub mod group;
mod model;
mod origin;
mod parallel;
pub mod policy;
mod prepare;
pub mod public;
pub mod record;
pub mod report;
pub mod reword;
pub mod statement;
mod suggest;
mod text;
pub mod train;
mod tree;

pub use compete::CONTEXT_NAMES;
pub use feature::FEATURE_NAMES;
pub use model::{Model, ReadModelError};
pub use origin::Origin;
