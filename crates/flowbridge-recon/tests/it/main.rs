//! What reconciliation promises, checked from outside.

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
