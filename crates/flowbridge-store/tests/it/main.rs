//! The protocols that the statements of this crate make together, explored exhaustively: what each statement does is mirrored
//! here, one function per statement, under its name. Against the real database they are tested with the workers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod lease;
mod webhook_line;
mod webhook_order;
