//! What reconciliation promises, checked from outside.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod anomalies;
mod assignment;
mod hostile;
mod learning;
mod public_set;
mod report;
mod reword;
mod shared;
mod statement_files;
mod synthetic;
