//! What a receiver gets: a CloudEvent (1.0, structured JSON) inside a Standard Webhook.
//!
//! The body is the same, byte for byte, in every attempt and to every endpoint; what changes from attempt to attempt is the
//! time it was signed at and the last span of the trace. `webhook-id` is the event's id, so a receiver tells a repeat
//! by it, be it from a retry, a crash of ours, or the same URL registered twice.

use flowbridge_domain::id::EventId;
use flowbridge_domain::time::Timestamp;
use flowbridge_store::event_data::EventData;
use flowbridge_store::event_log;
use flowbridge_store::webhook::{ClaimedDelivery, DeliveredEvent};
use serde::Serialize;

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
    #[serde(skip_serializing_if = "str::is_empty")]
    traceparent: &'a str,
    partitionkey: String,
    sequence: String,
    schemaversion: i16,
    data: &'a EventData,
}

/// The body of a delivery.
pub(crate) fn body(
    claimed: &ClaimedDelivery,
    event: &DeliveredEvent,
    source: &str,
) -> Result<Vec<u8>, serde_json::Error> {
    let subject = event_log::subject_of(&claimed.event_kind, claimed.subject);
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
        // Compared as text: of two events of a subject the later one has the greater sequence.
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
