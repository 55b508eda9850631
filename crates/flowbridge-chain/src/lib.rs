//! The chain: the only crate that knows alloy.
//!
//! Everything outside stands behind [`Chain`], a short list of JSON-RPC calls with a limit on the time of each, put to one of
//! several nodes ([`endpoints`]). On top of it: what we call ([`call`]), what the contracts say ([`log`]), what to do about transactions that are under way
//! ([`plan`]), how far to read and when to go back ([`watch`]), how much the contracts have said ([`count`]), and putting the contracts there ([`deploy`]). Deciding is
//! pure; only [`Chain`] and the [`watch::Bell`] do I/O, and nothing here keeps anything: rows and cursors are the caller's.
//! Who governs the contracts, and how owners of the vault act as one, is in [`governance`] and [`vault`].

pub mod bearer;
mod bindings;
pub mod call;
pub mod client;
pub mod count;
pub mod deploy;
pub mod endpoints;
pub mod error;
pub mod governance;
pub mod leaf;
pub mod log;
pub mod plan;
pub mod rpc;
pub mod signer;
pub mod vault;
pub mod watch;

pub use bearer::Bearer;
pub use client::{At, Block, Chain, Counted, Fees, HttpChain, L1Batch, Receipt};
pub use deploy::Deployment;
pub use endpoints::{EndpointConfig, EndpointSettings, Endpoints};
pub use error::{ChainError, Refusal, Scope};
pub use leaf::Leaf;
pub use log::{ContractSet, Said, SeenLog};
pub use signer::{Key, Signer};
pub use vault::Vault;
