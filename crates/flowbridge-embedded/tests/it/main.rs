//! The embedded servers against the real programs: starting, crashing, continuing.
#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

mod anvil;
mod postgres;
mod supervisor;
