//! What a process tells about itself: log lines, metrics, and the traces of payments.
//!
//! Work is done in slices of many payments, so there is no span that one payment could hold open while others share its
//! database calls. Instead, whoever finishes a step of a payment says so in one event of the target
//! [`flowbridge_api::trace::STEP`], with where it belongs in the payment's trace and when it began and ended
//! ([`step`]). From that one event come a log line, a duration in the metrics, and a span that is exported by OTLP, so the
//! three cannot disagree. A collector that is slow or gone costs spans, never payments: the queue to it is bounded.
//!
//! What may be logged and what never is stands in `docs/LOGGING.md`.

mod metrics;
mod step;

use crate::config::{Config, ObservabilitySection};
use anyhow::{Context as _, Result, ensure};
use axum::Router;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SpanProcessor};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use tracing::Subscriber;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Spans that may wait for the collector: some seconds of a busy process.
const SPAN_QUEUE_MAX: usize = 32 * 1024;
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often measured durations are folded into their histograms, so that they do not pile up between two scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Observation, switched on. Dropping it sends the spans that still wait.
#[derive(Debug)]
#[must_use = "observation ends when this is dropped"]
pub(crate) struct Observing {
    spans: Option<Arc<BatchSpanProcessor>>,
}

/// Switches on logs, metrics (served at `/metrics` of `[observability] metrics_listen`) and, when an endpoint is
/// configured, the export of traces. Once per process, inside the runtime.
pub(crate) fn start(config: &Config) -> Result<Observing> {
    let section = &config.observability;
    let listener = TcpListener::bind(section.metrics_listen).with_context(|| {
        format!("cannot listen on {}: change [observability] metrics_listen", section.metrics_listen)
    })?;
    listener.set_nonblocking(true)?;
    let spans = span_export(&section.otlp_endpoint)?.map(Arc::new);
    tracing_subscriber::registry()
        .with(step::StepLayer::new(spans.clone()).with_filter(step::filter()))
        .with(log_layer(section)?)
        .try_init()
        .context("logs are already switched on")?;
    tokio::spawn(serve_metrics(listener, metrics::install()?));
    Ok(Observing { spans })
}

impl Drop for Observing {
    fn drop(&mut self) {
        if let Some(spans) = &self.spans
            && let Err(error) = spans.shutdown_with_timeout(EXPORT_TIMEOUT)
        {
            tracing::warn!(%error, "the last spans could not be sent");
        }
    }
}

fn log_layer<S>(section: &ObservabilitySection) -> Result<Box<dyn Layer<S> + Send + Sync>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let filter: EnvFilter = section
        .log_filter
        .parse()
        .context("[observability] log_filter: such as \"info,flowbridge=debug\"")?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    Ok(match section.log_format.as_str() {
        "json" => lines.json().flatten_event(true).with_current_span(false).with_filter(filter).boxed(),
        "pretty" => lines.with_target(false).with_filter(filter).boxed(),
        other => anyhow::bail!("[observability] log_format is {other:?}: json or pretty"),
    })
}

/// The way of spans to a collector; none without an endpoint.
fn span_export(endpoint: &str) -> Result<Option<BatchSpanProcessor>> {
    if endpoint.is_empty() {
        return Ok(None);
    }
    ensure!(
        endpoint.starts_with("http://") || endpoint.starts_with("https://"),
        "[observability] otlp_endpoint is {endpoint:?}: an address such as http://127.0.0.1:4318"
    );
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .context("[observability] otlp_endpoint cannot be used")?;
    let queue = BatchConfigBuilder::default().with_max_queue_size(SPAN_QUEUE_MAX).build();
    let mut spans = BatchSpanProcessor::builder(exporter).with_batch_config(queue).build();
    spans.set_resource(&Resource::builder().with_service_name("flowbridge").build());
    Ok(Some(spans))
}

async fn serve_metrics(listener: TcpListener, handle: PrometheusHandle) {
    let upkeep = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP_INTERVAL).await;
            upkeep.run_upkeep();
        }
    });
    let served = async {
        let router = Router::new().route("/metrics", get(move || std::future::ready(handle.render())));
        axum::serve(tokio::net::TcpListener::from_std(listener)?, router).await
    };
    if let Err(error) = served.await {
        tracing::error!(%error, "metrics can no longer be scraped");
    }
}
