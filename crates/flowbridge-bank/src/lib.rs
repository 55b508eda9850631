//! The bank leg: how FlowBridge asks banks for holds, captures, releases and credits, and how it reads what they send.
//!
//! [`connector`] is the seam: one trait, outcomes that force the next move. [`simulator_client`] is the connector for the
//! [`simulator`], a bank of our own that speaks real HTTP, keeps real books and fails on request. [`registry`] puts a
//! circuit breaker and a bulkhead before each bank; [`hold_api`] offers the registry to other tiers as `/internal/hold`.
//! [`iso20022`] reads the files that customers bring.

pub mod auth;
pub mod breaker;
pub mod connector;
pub mod hold_api;
mod http_call;
pub mod iso20022;
pub mod personal;
mod problem;
pub mod registry;
pub mod simulator;
pub mod simulator_client;
pub mod wire;
