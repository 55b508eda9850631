//! The event log as a participant may read it, the proof, and readiness.

use crate::Gateway;
use crate::answer::{Answer, Refusal, json};
use crate::caller::Caller;
use crate::paging::page_limit;
use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use flowbridge_api::payment::show_instant;
use flowbridge_api::problem::ErrorCode;
use flowbridge_security::scope::Scope;
use flowbridge_store::StoreError;
use flowbridge_store::event_data::EventData;
use flowbridge_store::event_log::{self, Offset, topic};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

pub(crate) fn router() -> Router<Gateway> {
    Router::new().route("/v1/events", get(list)).route("/v1/proof", get(proof))
}

/// Which events
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventsQuery {
    /// `next` of the page before; without it, from the beginning
    after: Option<String>,
    /// `payments` (default), or `reconciliation` for operators
    topic: Option<String>,
    /// 1 to 100; 25 if it is not given
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
}

/// An event
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventBody {
    /// Its id, also that of its webhooks.
    id: String,
    /// Where it is in the log.
    offset: String,
    /// Such as `payment.settled`, `reconciliation.completed`, `exception.proposed` or `model.answered`.
    #[serde(rename = "type")]
    kind: String,
    /// The payment, the reconciliation, the exception, or the proposal of a model.
    subject: String,
    /// When it was written.
    time: String,
    /// The payment as it was at that moment, or what was said.
    #[schema(value_type = Object)]
    data: EventData,
}

/// A page of events, oldest first
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventPage {
    data: Vec<EventBody>,
    /// Ask again with it as `after`; it is the same when there was nothing new.
    next: String,
}

/// Read events after an offset
#[utoipa::path(get, path = "/v1/events", operation_id = "list_events", tag = "events", params(EventsQuery),
    responses((status = 200, description = "A page of events", body = EventPage), crate::openapi::Refusals))]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    caller: Caller,
    Query(wanted): Query<EventsQuery>,
) -> Answer {
    caller.require(Scope::EventsRead)?;
    let limit = page_limit(wanted.limit)?;
    let after = match &wanted.after {
        None => Offset::START,
        Some(text) => Offset::parse(text).ok_or_else(|| {
            Refusal::new(ErrorCode::InvalidParameter)
                .detail("after is the next of an earlier page, like 1234-567")
        })?,
    };
    let db = &gateway.parts.db;
    let events = match (wanted.topic.as_deref().unwrap_or(topic::PAYMENTS), caller.participant()) {
        (topic::PAYMENTS, Some(participant)) => {
            event_log::read_participant(db, participant, after, limit).await?
        }
        (topic::RECONCILIATION, Some(_)) => {
            return Err(Refusal::new(ErrorCode::Forbidden)
                .detail("reconciliation covers every participant: only operators see its events"));
        }
        (topic @ (topic::PAYMENTS | topic::RECONCILIATION), None) => {
            event_log::read_all(db, &[topic], after, limit).await?
        }
        _ => {
            return Err(
                Refusal::new(ErrorCode::InvalidParameter).detail("topic is payments or reconciliation")
            );
        }
    };
    let next = events.last().map_or(after, |event| event.offset).to_string();
    let data = events
        .into_iter()
        .map(|event| EventBody {
            id: event.id.to_string(),
            offset: event.offset.to_string(),
            subject: event_log::subject_of(&event.kind, event.key),
            kind: event.kind,
            time: show_instant(event.recorded_at),
            data: event.data,
        })
        .collect();
    json(StatusCode::OK, &EventPage { data, next })
}

/// Compare ledger, chain and banks, now
#[utoipa::path(get, path = "/v1/proof", operation_id = "get_proof", tag = "proof",
    responses((status = 200, description = "Every quantity with both of its sides", body = Object), crate::openapi::Refusals))]
pub(crate) async fn proof(State(gateway): State<Gateway>, caller: Caller) -> Answer {
    caller.require(Scope::ProofRead)?;
    // It covers every participant.
    if caller.participant().is_some() {
        return Err(Refusal::new(ErrorCode::Forbidden)
            .detail("the proof covers every participant: only operators see it"));
    }
    match (gateway.parts.proof)().await {
        Ok(proof) => json(StatusCode::OK, &proof),
        Err(why) => {
            tracing::warn!(why, "could not take the proof");
            Err(Refusal::new(ErrorCode::Unavailable))
        }
    }
}

/// Ready when the database is there: asked over the connections on which payments are accepted, however many questions wait for the
/// others. Who is busy is ready: taken out of service, it would leave its load to the other gateways, and they theirs.
pub(crate) async fn ready(State(gateway): State<Gateway>) -> StatusCode {
    match gateway.parts.accept_db.ping().await {
        Ok(()) | Err(StoreError::Busy) => StatusCode::OK,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}
