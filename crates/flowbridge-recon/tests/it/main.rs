//! What reconciliation promises, checked from outside.

mod assignment;
mod hostile;
mod public_set;
mod shared;
mod statement_files;
mod synthetic;
