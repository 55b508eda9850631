//! The routes of [`crate::webhooks`].

use crate::answer::{Answer, Refusal, json};
use crate::caller::{Caller, JsonBody};
use crate::keyed::Made;
use crate::paging::Paging;
use crate::webhooks::{
    Asker, CreateWebhookEndpoint, DisableWebhookEndpoint, RecoverWebhooks, UpdateWebhookEndpoint,
    WebhookDelivery, WebhookEndpoint, WebhookEndpointWithKeys, WebhookError, WebhooksRecovered,
};
use crate::{Gateway, keyed};
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use flowbridge_api::problem::{ErrorCode, Fault};
use flowbridge_domain::id::{DeliveryId, WebhookEndpointId};
use flowbridge_security::scope::Scope;
use flowbridge_store::Tx;
use flowbridge_store::wake::Work;
use flowbridge_store::webhook::DeliveryState;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

const ALL: &str = "/v1/webhook-endpoints";
const ONE: &str = "/v1/webhook-endpoints/{id}";

pub(crate) fn router() -> Router<Gateway> {
    Router::new()
        .route(ALL, get(list).post(create))
        .route(ONE, get(show).patch(update).delete(remove))
        .route("/v1/webhook-endpoints/{id}/rotate", post(rotate))
        .route("/v1/webhook-endpoints/{id}/disable", post(disable))
        .route("/v1/webhook-endpoints/{id}/enable", post(enable))
        .route("/v1/webhook-endpoints/{id}/recover", post(recover))
        .route("/v1/webhook-endpoints/{id}/deliveries", get(deliveries))
        .route("/v1/webhook-endpoints/{id}/deliveries/{delivery}/redeliver", post(redeliver))
}

impl From<WebhookError> for Refusal {
    fn from(error: WebhookError) -> Self {
        let (code, pointer) = (error.code(), error.pointer());
        let status = error.status();
        let detail = error.to_string();
        if let WebhookError::Store(error) = error {
            return error.into();
        }
        let refusal = Self::new(match status {
            Some(404) => ErrorCode::NotFound,
            Some(409) => ErrorCode::Conflict,
            Some(_) => ErrorCode::Webhook,
            None => ErrorCode::Internal,
        });
        match (code, pointer) {
            (Some(code), Some(pointer)) => refusal.errors(vec![Fault::new(&pointer, code, detail)]),
            _ => refusal.detail(detail),
        }
    }
}

fn asker<'a>(gateway: &'a Gateway, caller: &Caller, scope: Scope) -> Result<Asker<'a>, Refusal> {
    caller.require(scope)?;
    Ok(Asker {
        db: &gateway.parts.db,
        sealing: &gateway.parts.sealing,
        owner: caller.endpoint_owner()?,
        limits: &gateway.settings.webhooks,
        now: gateway.now(),
    })
}

fn endpoint_id(text: &str) -> Result<WebhookEndpointId, Refusal> {
    WebhookEndpointId::parse(text)
        .map_err(|error| Refusal::new(ErrorCode::InvalidParameter).detail(error.to_string()))
}

fn delivery_id(text: &str) -> Result<DeliveryId, Refusal> {
    DeliveryId::parse(text)
        .map_err(|error| Refusal::new(ErrorCode::InvalidParameter).detail(error.to_string()))
}

/// A page of endpoints
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WebhookEndpointPage {
    data: Vec<WebhookEndpoint>,
    /// There are more after the last one.
    has_more: bool,
    /// Where they begin.
    next_cursor: Option<String>,
}

/// Which page
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EndpointsQuery {
    /// 1 to 100; 25 if it is not given
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
    /// `next_cursor` of the page before
    cursor: Option<String>,
}

/// Create a webhook endpoint; its secret is shown this once
#[utoipa::path(post, path = "/v1/webhook-endpoints", operation_id = "create_webhook_endpoint", tag = "webhooks", request_body = CreateWebhookEndpoint,
    params(("Idempotency-Key" = String, Header, description = "Drawn by you for this request and kept for its repeats", max_length = 255)),
    responses((status = 201, description = "The endpoint with its new keys, shown this once", body = WebhookEndpointWithKeys,
        headers(("Location" = String, description = "Where it is"))), crate::openapi::Refusals))]
pub(crate) async fn create(
    State(gateway): State<Gateway>,
    caller: Caller,
    headers: HeaderMap,
    body: JsonBody,
) -> Answer {
    let asker = asker(&gateway, &caller, Scope::WebhooksWrite)?;
    let key = caller.keyed(&headers, ("POST", ALL), &[], &body.bytes)?;
    let request = CreateWebhookEndpoint::read(&body.value)?;
    let made = Made { status: StatusCode::CREATED, collection: ALL, is_secret: true };
    keyed::once(&gateway, &key, made, async |tx| Ok(asker.create(tx, request).await?)).await
}

/// List webhook endpoints
#[utoipa::path(get, path = "/v1/webhook-endpoints", operation_id = "list_webhook_endpoints", tag = "webhooks", params(EndpointsQuery),
    responses((status = 200, description = "The webhook endpoint page", body = WebhookEndpointPage), crate::openapi::Refusals))]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    caller: Caller,
    Query(page): Query<EndpointsQuery>,
) -> Answer {
    let asker = asker(&gateway, &caller, Scope::WebhooksRead)?;
    let paging = Paging::new(&gateway, &caller, (ALL, &[]), (page.limit, page.cursor.as_deref()))?;
    let after = paging.position.map(WebhookEndpointId::from_uuid);
    let mut data = asker.list(after, paging.rows_max()).await?;
    let next = paging.cut(&mut data, |endpoint| endpoint.id.0.as_uuid());
    let page = WebhookEndpointPage { data, has_more: next.has_more, next_cursor: next.cursor.clone() };
    next.answer(&page)
}

/// Read a webhook endpoint
#[utoipa::path(get, path = "/v1/webhook-endpoints/{id}", operation_id = "get_webhook_endpoint", tag = "webhooks", params(("id" = String, Path, description = "The endpoint")),
    responses((status = 200, description = "The webhook endpoint", body = WebhookEndpoint), crate::openapi::Refusals))]
pub(crate) async fn show(State(gateway): State<Gateway>, caller: Caller, Path(id): Path<String>) -> Answer {
    let asker = asker(&gateway, &caller, Scope::WebhooksRead)?;
    json(StatusCode::OK, &asker.get(endpoint_id(&id)?).await?)
}

/// Does `work` under the caller's key.
async fn change<T: Serialize>(
    gateway: &Gateway,
    caller: &Caller,
    headers: &HeaderMap,
    (method, route, id): (&str, &str, &str),
    body: &[u8],
    work: impl AsyncFnOnce(&Tx) -> Result<T, WebhookError>,
) -> Answer {
    let key = caller.keyed(headers, (method, route), &[id], body)?;
    // Of all changes, a rotation alone is answered with a secret.
    let is_secret = route.ends_with("/rotate");
    let made = Made { status: StatusCode::OK, collection: ALL, is_secret };
    keyed::once(gateway, &key, made, async |tx| Ok(work(tx).await?)).await
}

/// Change where an endpoint is and what it hears
#[utoipa::path(patch, path = "/v1/webhook-endpoints/{id}", operation_id = "update_webhook_endpoint", tag = "webhooks", request_body = UpdateWebhookEndpoint,
    params(("id" = String, Path, description = "The endpoint"), ("Idempotency-Key" = String, Header, description = "As when creating", max_length = 255)),
    responses((status = 200, description = "The webhook endpoint", body = WebhookEndpoint), crate::openapi::Refusals))]
pub(crate) async fn update(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: JsonBody,
) -> Answer {
    let asker = asker(&gateway, &caller, Scope::WebhooksWrite)?;
    let (endpoint, request) = (endpoint_id(&id)?, UpdateWebhookEndpoint::read(&body.value)?);
    change(&gateway, &caller, &headers, ("PATCH", ONE, &id), &body.bytes, async |tx| {
        asker.update(tx, endpoint, &request).await
    })
    .await
}

/// Delete an endpoint for good
#[utoipa::path(delete, path = "/v1/webhook-endpoints/{id}", operation_id = "delete_webhook_endpoint", tag = "webhooks",
    params(("id" = String, Path, description = "The endpoint"), ("Idempotency-Key" = String, Header, description = "As when creating", max_length = 255)),
    responses((status = 200, description = "It is gone", body = Object), crate::openapi::Refusals))]
pub(crate) async fn remove(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Answer {
    let asker = asker(&gateway, &caller, Scope::WebhooksWrite)?;
    let endpoint = endpoint_id(&id)?;
    change(&gateway, &caller, &headers, ("DELETE", ONE, &id), &[], async |tx| {
        asker.delete(tx, endpoint).await.map(|()| json!({ "deleted": id }))
    })
    .await
}

/// Make new keys; deliveries are signed with the old ones too for a day
#[utoipa::path(post, path = "/v1/webhook-endpoints/{id}/rotate", operation_id = "rotate_webhook_endpoint_keys", tag = "webhooks",
    params(("id" = String, Path, description = "The endpoint"), ("Idempotency-Key" = String, Header, description = "As when creating", max_length = 255)),
    responses((status = 200, description = "The endpoint with its new keys, shown this once", body = WebhookEndpointWithKeys), crate::openapi::Refusals))]
pub(crate) async fn rotate(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Answer {
    let asker = asker(&gateway, &caller, Scope::WebhooksWrite)?;
    let endpoint = endpoint_id(&id)?;
    let route = ("POST", "/v1/webhook-endpoints/{id}/rotate", id.as_str());
    change(&gateway, &caller, &headers, route, &[], async |tx| asker.rotate(tx, endpoint).await).await
}

/// Send nothing any more
#[utoipa::path(post, path = "/v1/webhook-endpoints/{id}/disable", operation_id = "disable_webhook_endpoint", tag = "webhooks", request_body = DisableWebhookEndpoint,
    params(("id" = String, Path, description = "The endpoint"), ("Idempotency-Key" = String, Header, description = "As when creating", max_length = 255)),
    responses((status = 200, description = "The webhook endpoint", body = WebhookEndpoint), crate::openapi::Refusals))]
pub(crate) async fn disable(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: JsonBody,
) -> Answer {
    let asker = asker(&gateway, &caller, Scope::WebhooksWrite)?;
    let (endpoint, request) = (endpoint_id(&id)?, DisableWebhookEndpoint::read(&body.value)?);
    let route = ("POST", "/v1/webhook-endpoints/{id}/disable", id.as_str());
    change(&gateway, &caller, &headers, route, &body.bytes, async |tx| {
        asker.disable(tx, endpoint, &request).await
    })
    .await
}

/// Send again
#[utoipa::path(post, path = "/v1/webhook-endpoints/{id}/enable", operation_id = "enable_webhook_endpoint", tag = "webhooks",
    params(("id" = String, Path, description = "The endpoint"), ("Idempotency-Key" = String, Header, description = "As when creating", max_length = 255)),
    responses((status = 200, description = "The webhook endpoint", body = WebhookEndpoint), crate::openapi::Refusals))]
pub(crate) async fn enable(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Answer {
    let asker = asker(&gateway, &caller, Scope::WebhooksWrite)?;
    let endpoint = endpoint_id(&id)?;
    let route = ("POST", "/v1/webhook-endpoints/{id}/enable", id.as_str());
    change(&gateway, &caller, &headers, route, &[], async |tx| asker.enable(tx, endpoint).await).await
}

/// Queue again what an endpoint has not got since an instant; harmless to repeat
#[utoipa::path(post, path = "/v1/webhook-endpoints/{id}/recover", operation_id = "recover_webhook_endpoint", tag = "webhooks", request_body = RecoverWebhooks,
    params(("id" = String, Path, description = "The endpoint")),
    responses((status = 200, description = "The number of deliveries queued again", body = WebhooksRecovered), crate::openapi::Refusals))]
pub(crate) async fn recover(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    body: JsonBody,
) -> Answer {
    let asker = asker(&gateway, &caller, Scope::WebhooksWrite)?;
    let recovered = asker.recover(endpoint_id(&id)?, &RecoverWebhooks::read(&body.value)?).await?;
    gateway.parts.wake.ring(Work::Deliveries);
    json(StatusCode::OK, &recovered)
}

/// Which deliveries
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeliveriesQuery {
    /// pending, claimed, delivered, exhausted or cancelled
    state: Option<String>,
    /// `next_cursor` of the page before, with the same state
    cursor: Option<String>,
    /// 1 to 100; 25 if it is not given
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
}

/// A page of deliveries, newest event first
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeliveryPage {
    data: Vec<WebhookDelivery>,
    /// There are older ones.
    has_more: bool,
    /// Where they begin.
    next_cursor: Option<String>,
}

/// List deliveries to an endpoint
#[utoipa::path(get, path = "/v1/webhook-endpoints/{id}/deliveries", operation_id = "list_webhook_deliveries", tag = "webhooks",
    params(("id" = String, Path, description = "The endpoint"), DeliveriesQuery),
    responses((status = 200, description = "The delivery page", body = DeliveryPage), crate::openapi::Refusals))]
pub(crate) async fn deliveries(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    Query(wanted): Query<DeliveriesQuery>,
) -> Answer {
    let asker = asker(&gateway, &caller, Scope::WebhooksRead)?;
    let states: Vec<DeliveryState> = match wanted.state.as_deref() {
        None => vec![],
        Some(text) => {
            let state = DeliveryState::ALL.into_iter().find(|state| state.as_str() == text);
            let unknown =
                || Refusal::new(ErrorCode::InvalidParameter).detail("there is no such state of a delivery");
            vec![state.ok_or_else(unknown)?]
        }
    };
    let endpoint = endpoint_id(&id)?;
    let (path, state) = (format!("{ALL}/{endpoint}/deliveries"), wanted.state.unwrap_or_default());
    let filters = [("state", &*state)];
    let paging = Paging::new(&gateway, &caller, (&path, &filters), (wanted.limit, wanted.cursor.as_deref()))?;
    let before = paging.position.map(DeliveryId::from_uuid);
    let mut data = asker.deliveries(endpoint, &states, before, paging.rows_max()).await?;
    let next = paging.cut(&mut data, |delivery| delivery.id.0.as_uuid());
    let page = DeliveryPage { data, has_more: next.has_more, next_cursor: next.cursor.clone() };
    next.answer(&page)
}

/// Send a delivery again; harmless to repeat
#[utoipa::path(post, path = "/v1/webhook-endpoints/{id}/deliveries/{delivery}/redeliver", operation_id = "redeliver_webhook", tag = "webhooks",
    params(("id" = String, Path, description = "The endpoint"), ("delivery" = String, Path, description = "The delivery")),
    responses((status = 202, description = "It is queued", body = Object), crate::openapi::Refusals))]
pub(crate) async fn redeliver(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path((id, delivery)): Path<(String, String)>,
) -> Answer {
    let asker = asker(&gateway, &caller, Scope::WebhooksWrite)?;
    asker.redeliver(endpoint_id(&id)?, delivery_id(&delivery)?).await?;
    gateway.parts.wake.ring(Work::Deliveries);
    json(StatusCode::ACCEPTED, &json!({ "queued": delivery }))
}
