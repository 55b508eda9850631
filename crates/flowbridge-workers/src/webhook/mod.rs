//! The role `webhooks`: partners hear of what happens to their payments, and the operator of reconciliation.
//!
//! It promises that every event reaches every endpoint that wants it at least once, in order per payment (per exception and run
//! for the operator), signed, for as long as the schedule lasts; that no endpoint waits for another; and that nothing is sent
//! to where it must not go. Four loops: those of [`fan_out`] turn events into deliveries, one for participants and one for the
//! operator, [`deliver`] sends them, and a housekeeper counts what is queued, drops what is left of deleted endpoints and keeps
//! the endpoints' keys sealed with the newest sealing key.

pub mod deliver;
pub mod fan_out;
pub mod health;
mod message;
mod resolver;
mod seal;

use crate::context::{Context, chain};
use flowbridge_security::sealing::SealingKeys;
use flowbridge_store::StoreError;
use flowbridge_store::webhook as store;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub use deliver::{ClientError, Deliverer, DeliverySettings};
pub use fan_out::{FanOut, FanOutSettings};
pub use health::Patience;
pub use seal::seal_anew;

/// Settings of the role.
#[derive(Debug, Clone)]
pub struct WebhookSettings {
    /// Of the fan-out.
    pub fan_out: FanOutSettings,
    /// Of the deliveries.
    pub delivery: DeliverySettings,
    /// How often to count what is queued.
    pub housekeeping_interval: Duration,
}

impl Default for WebhookSettings {
    fn default() -> Self {
        Self {
            fan_out: FanOutSettings::default(),
            delivery: DeliverySettings::default(),
            housekeeping_interval: Duration::from_secs(5),
        }
    }
}

/// Runs until told to stop; returns when what was under way has ended.
pub async fn run(
    context: Context,
    settings: WebhookSettings,
    sealing: Arc<SealingKeys>,
    stop: CancellationToken,
) -> Result<(), ClientError> {
    let deliverer = Deliverer::new(context.clone(), settings.delivery, sealing.clone())?;
    let fan_out = FanOut::new(context.clone(), settings.fan_out);
    let fan_out_to_operator = FanOut::for_operator(context.clone());
    tokio::join!(
        fan_out.run(stop.clone()),
        fan_out_to_operator.run(stop.clone()),
        deliverer.run(stop.clone()),
        keep_house(&context, &sealing, settings.housekeeping_interval, &stop),
    );
    Ok(())
}

async fn keep_house(context: &Context, sealing: &SealingKeys, interval: Duration, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        if let Err(error) = seal_anew(context, sealing).await {
            tracing::warn!(error = chain(&error), "could not seal the keys of webhook endpoints");
        }
        if let Err(error) = tidy(context, stop).await {
            tracing::warn!(error = chain(&error), "could not count what webhooks are queued");
        }
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Deliveries to deleted endpoints that are dropped in one go.
const CANCEL_SLICE_MAX: i64 = 1_000;

/// Drops what is left of deleted endpoints, and tells the metrics how the queue stands. Who is told to stop leaves the rest to the next.
pub async fn tidy(context: &Context, stop: &CancellationToken) -> Result<(), StoreError> {
    let now = context.now();
    while !stop.is_cancelled() && store::cancel_deleted(&context.db, CANCEL_SLICE_MAX, now).await? > 0 {}
    let queue = store::queue_state(&context.db).await?;
    for state in [store::DeliveryState::Pending, store::DeliveryState::Claimed] {
        let depth = queue.depth.get(state.as_str()).copied().unwrap_or(0);
        metrics::gauge!("webhook_queue_depth", "state" => state.as_str()).set(gauge(depth));
    }
    let age = queue.oldest_pending.map_or(Duration::ZERO, |oldest| now.since(oldest));
    metrics::gauge!("webhook_oldest_pending_seconds").set(age.as_secs_f64());
    metrics::gauge!("webhook_endpoints", "health" => "failing").set(gauge(queue.endpoints_failing));
    metrics::gauge!("webhook_endpoints", "health" => "disabled").set(gauge(queue.endpoints_disabled));
    Ok(())
}

/// A count as metrics have it.
fn gauge(count: i64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
