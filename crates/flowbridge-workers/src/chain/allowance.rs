//! What the contracts may still mint, by currency, as a metric: when it is used up the lanes stop, and raising it takes owners
//! and perhaps the vault's delay, so somebody has to see it coming.
//!
//! Nothing waits for this. A currency whose contract did not answer keeps the figure that it had.

use super::chain_error;
use crate::context::{Context, Rhythm, Turn, Worker, run_loop};
use flowbridge_chain::{Chain, ContractSet, deploy};
use flowbridge_store::StoreError;
use flowbridge_store::wake::Work;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// It changes with every batch, but matters over hours.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Looks for ever, until it is told to stop.
pub(super) async fn show(
    context: &Context,
    chain: &Arc<dyn Chain>,
    contracts: &[ContractSet],
    stop: &CancellationToken,
) {
    let mut gauge = Gauge { chain: chain.clone(), contracts: contracts.to_vec() };
    let rhythm = Rhythm::once_in(LOOK_INTERVAL, Work::Blocks);
    run_loop("allowance", context, rhythm, stop, &mut gauge).await;
}

struct Gauge {
    chain: Arc<dyn Chain>,
    contracts: Vec<ContractSet>,
}

impl Worker for Gauge {
    async fn turn(&mut self) -> Result<Turn, StoreError> {
        for set in &self.contracts {
            match deploy::mint_allowance(&*self.chain, set).await {
                Ok(units) => {
                    metrics::gauge!("chain_mint_allowance", "currency" => set.currency.code().to_owned())
                        .set(in_main_unit(units, set.token_decimals))
                }
                Err(error) => return Ok(chain_error("allowance", &error)),
            }
        }
        Ok(Turn::Idle)
    }
}

/// Euros, not token units.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float, and nobody looks at its last cents")]
fn in_main_unit(units: u64, decimals: u8) -> f64 {
    units as f64 / 10f64.powi(i32::from(decimals))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gauge_shows_euros() {
        assert!((in_main_unit(487_500_000, 6) - 487.5).abs() < f64::EPSILON);
    }
}
