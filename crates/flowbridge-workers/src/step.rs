//! Finished steps of payments, told one event each: what the binary makes log lines, measurements and spans of.

use flowbridge_api::trace::{STEP, TraceParent};
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::time::Timestamp;

/// A step of one payment that is over. Names and outcomes come from lists in our code: they label a metric.
#[derive(Debug)]
pub(crate) struct Step<'a> {
    /// What was done, such as `place_hold`.
    pub(crate) name: &'a str,
    /// What came of it.
    pub(crate) outcome: &'a str,
    /// Whose step.
    pub(crate) payment: PaymentId,
    /// Where the payment is in its trace, as it is stored.
    pub(crate) traceparent: &'a str,
    /// From when to when.
    pub(crate) times: (Timestamp, Timestamp),
    /// The bank that was asked, if one was.
    pub(crate) bank: Option<&'a str>,
    /// How often it was tried, this time included.
    pub(crate) attempt: Option<i32>,
}

impl Step<'_> {
    /// Tells it.
    pub(crate) fn tell(&self) {
        let trace = TraceParent::parse(self.traceparent);
        let (started, ended) = self.times;
        tracing::debug!(
            target: STEP,
            step = self.name,
            outcome = self.outcome,
            payment.id = %self.payment,
            trace_id = trace.map(|trace| trace.trace_id_hex()),
            parent_span_id = trace.map(|trace| trace.span_id_hex()),
            sampled = trace.is_some_and(|trace| trace.sampled),
            started_at_us = started.as_micros(),
            ended_at_us = ended.max(started).as_micros(),
            bank = self.bank,
            attempt = self.attempt,
            "a step of a payment is over"
        );
    }
}

/// The trace of a payment, as log lines name it.
pub(crate) fn trace_id(traceparent: &str) -> Option<String> {
    TraceParent::parse(traceparent).map(|trace| trace.trace_id_hex())
}
