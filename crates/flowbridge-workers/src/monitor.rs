//! The monitor: makes what is stuck visible, keeps the coming days prepared, forgets what has served its time.
//!
//! Ages are metrics, so an alarm can be set on them: `waiting_oldest_seconds{what="payment",kind="held"}`.

use crate::context::{Context, chain};
use flowbridge_store::{StoreError, event_log, monitor};
use std::collections::HashSet;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often to look, and how long answers are kept under their idempotency keys.
#[derive(Debug, Clone)]
pub struct MonitorSettings {
    /// How often to look.
    pub interval: Duration,
    /// How often to keep house.
    pub housekeeping_interval: Duration,
    /// How long is kept what only serves for a while.
    pub kept: monitor::Kept,
}

impl Default for MonitorSettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            housekeeping_interval: Duration::from_secs(600),
            kept: monitor::Kept {
                idempotency: Duration::from_secs(72 * 3600),
                deliveries: Duration::from_secs(30 * 24 * 3600),
            },
        }
    }
}

/// Runs until told to stop.
pub async fn run(context: Context, settings: MonitorSettings, stop: CancellationToken) {
    let mut shown = HashSet::new();
    let mut housekeeping_at = context.now();
    while !stop.is_cancelled() {
        if let Err(error) = look(&context, &mut shown).await {
            tracing::error!(error = chain(&error), "could not look for what is stuck");
        }
        if context.now() >= housekeeping_at {
            housekeeping_at = context.now().plus(keep_house(&context, &settings).await);
        }
        tokio::select! {
            () = tokio::time::sleep(settings.interval) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// How soon to try again what failed: it may have cost the database as much as a statement may cost.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// Keeps house, and says how long to leave it then.
async fn keep_house(context: &Context, settings: &MonitorSettings) -> Duration {
    match monitor::keep_house(&context.db, context.now(), settings.kept).await {
        Ok(()) => settings.housekeeping_interval,
        Err(error) => {
            tracing::error!(error = chain(&error), "could not keep house");
            RETRY_INTERVAL.min(settings.housekeeping_interval)
        }
    }
}

async fn look(context: &Context, shown: &mut HashSet<(&'static str, String)>) -> Result<(), StoreError> {
    let (waiting, imbalance) = monitor::waiting(&context.db, context.now()).await?;
    // What no longer waits has to read zero, not the last number it had.
    let gone = std::mem::take(shown);
    for (what, kind) in gone {
        if !waiting.iter().any(|found| found.what == what && found.kind == kind) {
            gauge(what, &kind, 0.0, 0.0);
        }
    }
    for found in waiting {
        gauge(found.what, &found.kind, exact(found.count), found.oldest.as_secs_f64());
        shown.insert((found.what, found.kind));
    }
    metrics::gauge!("ledger_imbalance").set(exact(imbalance));
    if imbalance != 0 {
        tracing::error!(imbalance, "the ledger is out of balance");
    }
    for (group, topic, behind) in event_log::lag(&context.db).await? {
        metrics::gauge!("consumer_lag", "group" => group, "topic" => topic).set(exact(behind));
    }
    let (open, callers) = context.db.pool_use();
    metrics::gauge!("database_connections", "state" => "open")
        .set(exact(i64::try_from(open).unwrap_or(i64::MAX)));
    metrics::gauge!("database_connections", "state" => "wanted")
        .set(exact(i64::try_from(callers).unwrap_or(i64::MAX)));
    Ok(())
}

fn gauge(what: &'static str, kind: &str, count: f64, oldest: f64) {
    metrics::gauge!("waiting", "what" => what, "kind" => kind.to_owned()).set(count);
    metrics::gauge!("waiting_oldest_seconds", "what" => what, "kind" => kind.to_owned()).set(oldest);
}

/// A count as a gauge wants it. Exact far beyond any count there is.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float, and no count comes near 2^53")]
fn exact(count: i64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowbridge_domain::time::{ManualClock, Timestamp};
    use flowbridge_store::wake::Wake;
    use flowbridge_store::{Db, DbSettings};
    use std::sync::Arc;

    #[tokio::test]
    async fn what_failed_is_not_tried_again_at_once() {
        let nowhere = DbSettings::new("postgresql://nobody@127.0.0.1:1/none");
        let context = Context {
            db: Db::new(&nowhere).unwrap(),
            clock: Arc::new(ManualClock::at(Timestamp::EPOCH)),
            wake: Wake::default(),
            instance: "a test".to_owned(),
        };
        assert_eq!(keep_house(&context, &MonitorSettings::default()).await, RETRY_INTERVAL);
    }
}
