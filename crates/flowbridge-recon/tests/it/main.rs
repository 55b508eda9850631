//! What reconciliation promises, checked from outside.

mod assignment;
mod public_set;
mod shared;
