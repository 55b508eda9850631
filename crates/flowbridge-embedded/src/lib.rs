//! The outside parts of FlowBridge, started privately for development and tests: a PostgreSQL server and a chain node.
//!
//! Both are the real programs, found on the machine, run under a data folder of their own, reachable by nobody else, and
//! stopped with the process that started them. There is no in-memory stand-in with other semantics. All calls block.

pub mod anvil;
pub mod postgres;
mod process;
pub mod shim;

pub use anvil::{AnvilSettings, EmbeddedAnvil};
pub use postgres::EmbeddedPostgres;
pub use process::{Companion, allow_open_files};
