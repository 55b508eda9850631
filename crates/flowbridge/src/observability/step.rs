//! Finished steps of payments, from one event each: a duration in the metrics and a span of the payment's trace.
//!
//! An event of the target [`STEP`] carries `step`, `outcome`, `started_at_us` and `ended_at_us` (microseconds since the
//! epoch); for the trace `trace_id`, `parent_span_id`, and `span_id` when others were told it as their parent (else one is
//! drawn). All its other fields become attributes of the span. `sampled = false` keeps it out of the trace. An event whose
//! ids cannot be read is measured and logged but is no span.

use flowbridge_api::trace::STEP;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer};

/// The histogram of step durations.
pub(super) const DURATION: &str = "step_seconds";

/// Which events a [`StepLayer`] is to see, whatever the log's own filter says.
pub(super) fn filter() -> Targets {
    Targets::new().with_target(STEP, LevelFilter::DEBUG)
}

/// Turns events about steps into measurements and, if there is a way out for them, spans.
#[derive(Debug)]
pub(super) struct StepLayer {
    spans: Option<Arc<BatchSpanProcessor>>,
    scope: InstrumentationScope,
}

impl StepLayer {
    pub(super) fn new(spans: Option<Arc<BatchSpanProcessor>>) -> Self {
        Self { spans, scope: InstrumentationScope::builder("flowbridge").build() }
    }
}

impl<S: Subscriber> Layer<S> for StepLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut step = Step::default();
        event.record(&mut step);
        metrics::histogram!(DURATION, "step" => step.name.clone(), "outcome" => step.outcome.clone())
            .record(step.duration().as_secs_f64());
        if let Some(spans) = &self.spans
            && let Some(span) = step.into_span(&self.scope)
        {
            spans.on_end(span);
        }
    }
}

/// What an event says.
#[derive(Debug, Default)]
struct Step {
    name: String,
    outcome: String,
    started_at_us: u64,
    ended_at_us: u64,
    trace_id: String,
    span_id: String,
    parent_span_id: String,
    is_unsampled: bool,
    attributes: Vec<KeyValue>,
}

impl Step {
    fn duration(&self) -> Duration {
        Duration::from_micros(self.ended_at_us.saturating_sub(self.started_at_us))
    }

    fn into_span(mut self, scope: &InstrumentationScope) -> Option<SpanData> {
        let trace_id = TraceId::from_hex(&self.trace_id).ok().filter(|id| *id != TraceId::INVALID)?;
        let span_id = if self.span_id.is_empty() {
            SpanId::from_bytes(flowbridge_security::random_bytes().ok()?)
        } else {
            SpanId::from_hex(&self.span_id).ok()?
        };
        if self.is_unsampled {
            return None;
        }
        self.attributes.push(KeyValue::new("outcome", self.outcome));
        let start_time = instant(self.started_at_us)?;
        Some(SpanData {
            span_context: SpanContext::new(trace_id, span_id, TraceFlags::SAMPLED, false, TraceState::NONE),
            parent_span_id: SpanId::from_hex(&self.parent_span_id).unwrap_or(SpanId::INVALID),
            parent_span_is_remote: true,
            span_kind: SpanKind::Internal,
            name: self.name.into(),
            start_time,
            end_time: instant(self.ended_at_us)?.max(start_time),
            attributes: self.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: scope.clone(),
        })
    }

    fn take(&mut self, name: &'static str, value: Value) {
        let text = || value.as_str().into_owned();
        match name {
            "step" => self.name = text(),
            "outcome" => self.outcome = text(),
            "trace_id" => self.trace_id = text(),
            "span_id" => self.span_id = text(),
            "parent_span_id" => self.parent_span_id = text(),
            "message" => {}
            _ => self.attributes.push(KeyValue::new(name, value)),
        }
    }
}

fn instant(micros: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_micros(micros))
}

impl Visit for Step {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "started_at_us" => self.started_at_us = value,
            "ended_at_us" => self.ended_at_us = value,
            name => self.take(name, i64::try_from(value).unwrap_or(i64::MAX).into()),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        match field.name() {
            "started_at_us" | "ended_at_us" => self.record_u64(field, u64::try_from(value).unwrap_or(0)),
            name => self.take(name, value.into()),
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        match field.name() {
            "sampled" => self.is_unsampled = !value,
            name => self.take(name, value.into()),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field.name(), value.to_owned().into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field.name(), format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Bytes;
    use axum::routing::post;
    use tokio::sync::mpsc;
    use tracing_subscriber::layer::SubscriberExt as _;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn tell() {
        tracing::debug!(
            target: STEP, step = "place_hold", outcome = "done", payment.id = %"pay_01h455vb4pex5vsknk084sn02q",
            trace_id = TRACE, span_id = "0102030405060708", parent_span_id = "00f067aa0ba902b7",
            started_at_us = 1_800_000_000_000_000_i64, ended_at_us = 1_800_000_000_250_000_i64, "hold placed"
        );
    }

    fn read(event: impl FnOnce()) -> Option<SpanData> {
        #[derive(Default)]
        struct Keep(Arc<std::sync::Mutex<Option<Step>>>);
        impl<S: Subscriber> Layer<S> for Keep {
            fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
                let mut step = Step::default();
                event.record(&mut step);
                *self.0.lock().unwrap() = Some(step);
            }
        }
        let kept = Arc::default();
        let layer = Keep(Arc::clone(&kept));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), event);
        let step = kept.lock().unwrap().take().unwrap();
        step.into_span(&InstrumentationScope::builder("flowbridge").build())
    }

    #[test]
    fn a_step_becomes_a_span_where_it_belongs_in_the_trace() {
        let span = read(tell).unwrap();
        assert_eq!(span.name, "place_hold");
        assert_eq!(span.span_context.trace_id().to_string(), TRACE);
        assert_eq!(span.span_context.span_id().to_string(), "0102030405060708");
        assert_eq!(span.parent_span_id.to_string(), "00f067aa0ba902b7");
        assert_eq!(span.end_time, span.start_time + Duration::from_millis(250));
        assert_eq!(
            span.attributes,
            [KeyValue::new("payment.id", "pay_01h455vb4pex5vsknk084sn02q"), KeyValue::new("outcome", "done")]
        );
    }

    #[test]
    fn a_step_outside_any_trace_or_not_wanted_there_is_no_span() {
        assert!(read(|| tracing::info!(target: STEP, step = "settle", outcome = "done", "x")).is_none());
        assert!(read(|| tracing::info!(target: STEP, step = "settle", trace_id = "not hex", "x")).is_none());
        assert!(
            read(|| tracing::info!(target: STEP, step = "settle", trace_id = TRACE, sampled = false, "x"))
                .is_none()
        );
        let drawn = read(|| tracing::info!(target: STEP, step = "settle", trace_id = TRACE, "x")).unwrap();
        assert_ne!(drawn.span_context.span_id(), SpanId::INVALID);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn spans_reach_a_collector_over_http() {
        let (sender, mut received) = mpsc::unbounded_channel();
        let collector = axum::Router::new().route(
            "/v1/traces",
            post(async move |body: Bytes| {
                sender.send(body).unwrap();
            }),
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, collector).await });

        let spans = Arc::new(super::super::span_export(&endpoint).unwrap().unwrap());
        let layer = StepLayer::new(Some(Arc::clone(&spans)));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), tell);
        drop(super::super::Observing { spans: Some(spans) });

        let body = received.recv().await.unwrap();
        let has = |wanted: &[u8]| body.windows(wanted.len()).any(|window| window == wanted);
        assert!(has(&u128::from_str_radix(TRACE, 16).unwrap().to_be_bytes()), "the trace's id, as bytes");
        assert!(has(b"place_hold") && has(b"pay_01h455vb4pex5vsknk084sn02q") && has(b"flowbridge"));
    }
}
