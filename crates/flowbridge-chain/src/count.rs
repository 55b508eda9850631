//! How far the contracts have counted, by their own state.
//!
//! The manager counts its calls that move money and the router its initiations, each in a log of that call. A node that leaves such a
//! log out says what the contracts hold all the same: whoever has all logs up to a block knows as many as were counted by then.

use crate::bindings::{manager, router};
use crate::client::{At, Chain};
use crate::deploy::read_at;
use crate::error::ChainError;
use crate::log::ContractSet;
use flowbridge_domain::money::Currency;
use futures_util::future::join_all;
use manager::SettlementManager as Manager;
use router::PaymentRouter as Router;

/// What the contracts of a currency have counted by a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// The contracts' currency.
    pub currency: Currency,
    /// Calls that moved money: the number of the last `Totals`.
    pub totals: u64,
    /// Initiations: the number of the last `BatchInitiated`.
    pub batches: u64,
}

/// How far the contracts had counted by this block, or a little later: a node that takes in the next one at this very moment may speak
/// of that. `None` if the nodes have another block there, or not the block's state any more.
///
/// # Errors
///
/// When no node answers, or not in words that mean something.
pub async fn counts(
    chain: &dyn Chain,
    contracts: &[ContractSet],
    (number, hash): (u64, [u8; 32]),
) -> Result<Option<Vec<Counts>>, ChainError> {
    let at = At::Number(number);
    let told = join_all(contracts.iter().map(async |set| {
        let held = read_at(chain, &set.manager, &Manager::heldCall {}, at);
        let batches = read_at(chain, &set.router, &Router::batchesCall {}, at);
        let (held, batches) = tokio::try_join!(held, batches)?;
        Ok(Counts { currency: set.currency, totals: held.sequence, batches })
    }))
    .await;
    let told: Vec<Counts> = match told.into_iter().collect() {
        Ok(told) => told,
        Err(ChainError::Refused(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    // Asked last: what was counted on another branch counts for nothing.
    let is_ours = chain.block(at).await?.is_some_and(|block| block.hash == hash);
    Ok(is_ours.then_some(told))
}
