//! What a receiver gets: a CloudEvent (1.0, structured JSON) inside a Standard Webhook.
//!
//! The body is the same, byte for byte, in every attempt and to every endpoint; what changes from attempt to attempt is the
//! time it was signed at and the last span of the trace. `webhook-id` is the event's id, so a receiver tells a repeat
//! by it, be it from a retry, a crash of ours, or the same URL registered twice.

use flowbridge_domain::id::{EventId, WebhookEndpointId};
use flowbridge_domain::time::Timestamp;
use flowbridge_store::webhook::{ClaimedDelivery, DeliveredEvent};
use serde::Serialize;
use serde_json::Value;

/// The topic whose events are about webhook endpoints; those of the others are about payments.
pub(crate) const WEBHOOKS: &str = "webhooks";

#[derive(Debug, Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: String,
    source: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    subject: String,
    time: String,
    datacontenttype: &'static str,
    // Extensions: of tracing, partitioning and sequence as CloudEvents documents them, and the version of `data`.
    traceparent: &'a str,
    partitionkey: String,
    sequence: String,
    schemaversion: i16,
    data: &'a Value,
}

/// The body of a delivery.
pub(crate) fn body(
    claimed: &ClaimedDelivery,
    event: &DeliveredEvent,
    source: &str,
) -> Result<Vec<u8>, serde_json::Error> {
    let subject = if event.topic == WEBHOOKS {
        WebhookEndpointId::from_uuid(claimed.subject.as_uuid()).to_string()
    } else {
        claimed.subject.to_string()
    };
    serde_json::to_vec(&CloudEvent {
        specversion: "1.0",
        id: claimed.event_id.to_string(),
        source,
        kind: &claimed.event_kind,
        partitionkey: subject.clone(),
        subject,
        time: rfc3339(event.recorded_at),
        datacontenttype: "application/json",
        traceparent: &event.traceparent,
        // Compared as text: of two events of a payment the later one has the greater sequence.
        sequence: format!("{:020}-{:020}", claimed.offset.xid, claimed.offset.seq),
        schemaversion: event.schema_version,
        data: &event.data,
    })
}

/// The id under which a receiver knows the event.
pub(crate) fn webhook_id(event: EventId) -> String {
    event.to_string()
}

pub(crate) fn rfc3339(at: Timestamp) -> String {
    jiff::Timestamp::from_microsecond(at.as_micros()).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

/// Continues a W3C trace context with a span of our own. `None` when it is none.
pub(crate) fn child_traceparent(parent: &str, span: u64) -> Option<String> {
    let mut parts = parent.split('-');
    let (version, trace, _, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, digits: usize| {
        text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    (version == "00" && is_hex(trace, 32) && is_hex(flags, 2))
        .then(|| format!("00-{trace}-{:016x}-{flags}", span.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_continued_and_nonsense_is_not() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(
            child_traceparent(parent, 0xab).as_deref(),
            Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00000000000000ab-01")
        );
        for wrong in [
            "",
            "00-4bf9-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736\r\nx: y-00f067aa0ba902b7-01",
        ] {
            assert_eq!(child_traceparent(wrong, 1), None, "{wrong:?}");
        }
    }
}
