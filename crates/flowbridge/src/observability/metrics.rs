//! The metrics of all roles: what each means, and the buckets of durations. A metric that is not in this list works, but
//! nobody reading `/metrics` learns what it is.

use anyhow::{Context as _, Result};
use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Bounds of the buckets of durations, in seconds: from a query to a bank that takes its time. Close together around
/// 50 ms, which is what acceptance may take.
const SECONDS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];

/// Bounds of the buckets of the sizes of slices, up to the most a slice takes.
const SLICES: [f64; 10] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 300.0, 500.0];

const COUNTERS: &[(&str, &str)] = &[
    ("audit_entries_total", "Entries made in the audit log"),
    ("payments_total", "Payments that entered a state, by state"),
    ("accept_abandoned_total", "Requests to pay whose client had gone before they were carried out"),
    ("bank_operations_total", "Operations at banks, by bank, step and outcome"),
    ("observations_without_effect_total", "Observations that changed nothing, by reason"),
    ("dead_letters_total", "Events set aside because they could not be applied, by group"),
    ("worker_errors_total", "Turns of a worker that ended with an error, by worker"),
    ("webhook_attempts_total", "Calls of webhook endpoints, by outcome"),
    ("webhook_deliveries_total", "Webhook deliveries that came to an end, by outcome"),
    ("webhook_endpoints_disabled_total", "Webhook endpoints disabled after failing too long"),
    ("chain_logs_announced_total", "Logs of our contracts handed on as observations"),
    ("chain_logs_late_total", "Logs of our contracts that a node had left out and that were read again"),
    ("chain_reorganisations_total", "Reorganisations of the chain that took back blocks we had read"),
    ("chain_fee_bumps_total", "Chain transactions sent again with a higher fee, by lane"),
    ("chain_nonces_stolen_total", "Nonces of our keys that somebody else used: an alarm, by lane"),
    (
        "chain_lane_stopped_total",
        "Times a lane could not go on, by what the contracts, its old key or its payments said, by lane",
    ),
    ("chain_errors_total", "Calls of the chain's node that failed, by who called"),
    ("proofs_total", "Three-way proofs, by whether ledger, chain and banks agreed"),
    ("chain_dropped_total", "Chain transactions that every node forgot and that were sent again, by lane"),
    ("chain_nonce_gaps_total", "Nonces that the chain did not have and that were filled, by lane"),
    ("chain_sockets_lost_total", "WebSockets to a node that ended or fell silent"),
    ("chain_endpoint_failures_total", "Calls of one endpoint of the chain that failed, by endpoint"),
    ("statements_total", "Statements taken in, by bank and the way they came"),
    ("statement_lines_total", "Lines of statements taken in, by bank"),
    ("reconciliations_total", "Reconciliations that ended, by scope and result"),
    ("reconciliation_breaks_total", "Differences that reconciliations found, by scope and kind"),
    ("reconciliation_anomalies_total", "What was unusual about a day, by scope, kind and severity"),
    (
        "reconciliation_models_passed_over_total",
        "Runs in which a model that people put in force could not judge, by scope",
    ),
    ("breaker_trips_total", "Times a proof found cause to stop minting and payouts"),
    ("http_requests_total", "Requests answered, by route, method and status"),
];

const GAUGES: &[(&str, Unit, &str)] = &[
    ("waiting", Unit::Count, "Items that wait, by what and kind"),
    ("waiting_oldest_seconds", Unit::Seconds, "Age of the oldest item that waits, by what and kind"),
    ("consumer_lag", Unit::Count, "Events not yet read, by group and topic"),
    (
        "audit_log_ok",
        Unit::Count,
        "Whether the stored tree goes on from what was signed and archived: 0 is an alarm",
    ),
    ("audit_archive_ok", Unit::Count, "Whether the archive takes what it should, and has what it should"),
    ("ledger_imbalance", Unit::Count, "Debits minus credits over all accounts: anything but 0 is an alarm"),
    (
        "proof_differences",
        Unit::Count,
        "Differences between ledger, chain and banks that outlived a later cut",
    ),
    ("database_connections", Unit::Count, "Connections of this process, open and wanted"),
    ("chain_head_lag_blocks", Unit::Count, "Blocks of the chain not yet read"),
    ("chain_counts_age_seconds", Unit::Seconds, "Since the contracts last said how far they have counted"),
    (
        "chain_holes",
        Unit::Count,
        "Stretches of blocks whose logs no node has shown yet: anything but 0 is an alarm",
    ),
    (
        "chain_oldest_unincluded_seconds",
        Unit::Seconds,
        "Age of the oldest chain transaction that is in no block, by lane",
    ),
    (
        "chain_oldest_unconfirmed_seconds",
        Unit::Seconds,
        "Age of the oldest chain transaction that does not count yet by [chain] finality, by lane",
    ),
    (
        "chain_mint_allowance",
        Unit::Count,
        "What the contracts may still mint, in euros and the like, by currency: lanes stop at 0",
    ),
    ("chain_endpoint_up", Unit::Count, "Whether an endpoint of the chain is asked, by endpoint"),
    (
        "chain_endpoint_head_block",
        Unit::Count,
        "The newest block that an endpoint of the chain told, by endpoint",
    ),
    (
        "chain_endpoints_disagree",
        Unit::Count,
        "Whether endpoints tell different blocks at one height: an alarm",
    ),
    (
        "breaker_tripped",
        Unit::Count,
        "Whether minting and payouts are stopped because a proof failed: an alarm",
    ),
    ("bank_circuit_open", Unit::Count, "Whether a bank is left alone after repeated failures, by bank"),
    ("webhook_queue_depth", Unit::Count, "Webhook deliveries not yet at their end, by state"),
    ("webhook_oldest_pending_seconds", Unit::Seconds, "Age of the oldest webhook delivery that waits"),
    ("webhook_endpoints", Unit::Count, "Webhook endpoints in trouble, by health"),
];

const HISTOGRAMS: &[(&str, Unit, &str)] = &[
    (super::step::DURATION, Unit::Seconds, "Steps of payments, by step and outcome"),
    ("reconciliation_seconds", Unit::Seconds, "Time that reconciliations took, by scope"),
    ("bank_operation_seconds", Unit::Seconds, "Time until banks answered, by bank and step"),
    ("webhook_attempt_seconds", Unit::Seconds, "Calls of webhook endpoints, by outcome"),
    ("http_request_seconds", Unit::Seconds, "Time to answer a request, by route and method"),
    ("accept_slice_payments", Unit::Count, "Payments accepted together in one transaction"),
];

/// Makes this process's metrics go to what the returned handle renders.
pub(super) fn install() -> Result<PrometheusHandle> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
        .context("the buckets of durations")?
        .set_buckets_for_metric(Matcher::Prefix("accept_slice".into()), &SLICES)
        .context("the buckets of slices")?
        .build_recorder();
    let handle = recorder.handle();
    ::metrics::set_global_recorder(recorder).context("metrics are already switched on")?;
    for (name, text) in COUNTERS {
        describe_counter!(*name, *text);
    }
    for (name, unit, text) in GAUGES {
        describe_gauge!(*name, *unit, *text);
    }
    for (name, unit, text) in HISTOGRAMS {
        describe_histogram!(*name, *unit, *text);
    }
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// The names in `counter!("…"`, `gauge!("…"` and `histogram!("…"` of all crates.
    fn names_in(folder: &Path, names: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                names_in(&path, names);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let source = std::fs::read_to_string(&path).unwrap();
                for kind in ["counter", "gauge", "histogram"] {
                    let call = format!("metrics::{kind}!(\"");
                    let calls = source.split(call.as_str()).skip(1);
                    names.extend(calls.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
                }
            }
        }
    }

    #[test]
    fn every_metric_says_what_it_is() {
        let mut used = Vec::new();
        names_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), &mut used);
        assert!(used.iter().any(|name| name == "payments_total"), "the search itself works: {used:?}");
        let described = |name: &str| {
            COUNTERS.iter().any(|(known, _)| *known == name)
                || GAUGES.iter().any(|(known, ..)| *known == name)
                || HISTOGRAMS.iter().any(|(known, ..)| *known == name)
        };
        used.retain(|name| !described(name));
        assert!(used.is_empty(), "used, but not described in observability/metrics.rs: {used:?}");
    }
}
