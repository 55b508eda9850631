//! The embedded servers against the real programs: starting, crashing, continuing.

mod postgres;
