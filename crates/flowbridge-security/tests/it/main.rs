//! The crate seen from outside: what partners, attackers and other people's software meet.

#![expect(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure to report")]

mod client_assertion;
mod forge;
mod keys;
mod oauth;
mod token;
mod webhook;
