//! Webhook endpoints: where a participant or the operator wants to hear, with what it is signed, and what became of each
//! delivery. A participant hears of its payments; the operator hears of reconciliation, which covers every participant.
//!
//! What changes something runs in the caller's transaction, which also holds the answer under the client's idempotency key,
//! so that a repeat finds the one or makes the other. Secrets are shown in the answer to their making and never again: they
//! are not read back here at all. Whatever the caller does not own is not found.

use flowbridge_api::json::Reader;
use flowbridge_api::problem::Fault;
use flowbridge_domain::id::{DeliveryId, WebhookEndpointId};
use flowbridge_domain::time::Timestamp;
use flowbridge_security::CryptoFailure;
use flowbridge_security::egress::{EgressPolicy, EgressRefused};
use flowbridge_security::sealing::SealingKeys;
use flowbridge_security::webhook::EndpointKeys;
use flowbridge_store::event_log::{self, Offset};
use flowbridge_store::webhook::{self as store, DeliveryState, EndpointOwner, NewEndpoint, SealedKeys};
use flowbridge_store::{Db, StoreError, Tx};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::convert::Infallible;
use std::fmt;
use std::time::Duration;
use utoipa::ToSchema;

/// The kinds of events that a participant's endpoint can ask for.
pub const EVENT_KINDS: [&str; 9] = [
    "payment.accepted",
    "payment.initiated",
    "payment.held",
    "payment.settled",
    "payment.cancelling",
    "payment.completed",
    "payment.failed",
    "payment.under_review",
    "webhook_endpoint.disabled",
];

/// The kinds of events that an endpoint of the operator can ask for.
pub const OPERATOR_EVENT_KINDS: [&str; 9] = [
    "reconciliation.completed",
    "reconciliation.break_found",
    "exception.assigned",
    "exception.commented",
    "exception.proposed",
    "exception.answered",
    "model.proposed",
    "model.answered",
    "webhook_endpoint.disabled",
];

/// Deliveries that are forgotten so soon are not counted on any more: who forgets has a clock of its own.
const FORGOTTEN_SOON: Duration = Duration::from_secs(3_600);

/// Limits of what owners of endpoints may ask for.
#[derive(Debug, Clone)]
pub struct WebhookLimits {
    /// Where deliveries may go.
    pub egress: EgressPolicy,
    /// Endpoints of one owner.
    pub endpoints_max: i64,
    /// How long deliveries are signed with the keys before a rotation too.
    pub rotation_window: Duration,
    /// Events looked at in one request to recover.
    pub recover_events_max: i64,
    /// How long deliveries are kept. What was delivered before that cannot be told from what never was.
    pub deliveries_kept: Duration,
}

impl Default for WebhookLimits {
    fn default() -> Self {
        Self {
            egress: EgressPolicy::default(),
            endpoints_max: 20,
            rotation_window: Duration::from_secs(24 * 3_600),
            recover_events_max: 10_000,
            deliveries_kept: Duration::from_secs(30 * 24 * 3_600),
        }
    }
}

/// Why a request is turned down, by what its client should do.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// 404: there is none of this id, or it is somebody else's.
    #[error("there is no such webhook endpoint")]
    EndpointNotFound,
    /// 404: the endpoint has no such delivery.
    #[error("the endpoint has no such delivery")]
    DeliveryNotFound,
    /// 422 at `/url`.
    #[error("the URL cannot be called: {0}")]
    Url(#[from] EgressRefused),
    /// 422 at `/event_kinds/{0}`.
    #[error("there are no events of this kind")]
    EventKind(usize),
    /// 409: delete one first.
    #[error("an owner has {0} webhook endpoints at most")]
    TooMany(i64),
    /// 409: enable the endpoint first.
    #[error("the webhook endpoint is disabled")]
    Disabled,
    /// 409: it is being sent right now.
    #[error("the delivery is under way at this moment")]
    UnderWay,
    /// 422 at `/reason`.
    #[error("a reason has 1 to {REASON_CHARS_MAX} characters")]
    Reason,
    /// 422 at `/since`.
    #[error("not an instant such as 2026-11-23T08:00:00Z")]
    Since,
    /// 422 at `/after`.
    #[error("not the continue_after of an earlier answer")]
    After,
    /// 500.
    #[error(transparent)]
    Crypto(#[from] CryptoFailure),
    /// As the store says.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl WebhookError {
    /// The stable code of the problem; `None` for what every route may fail with.
    pub const fn code(&self) -> Option<&'static str> {
        match self {
            Self::EndpointNotFound => Some("webhook_endpoint_not_found"),
            Self::DeliveryNotFound => Some("webhook_delivery_not_found"),
            Self::Url(_) => Some("webhook_url_refused"),
            Self::EventKind(_) => Some("webhook_event_kind_unknown"),
            Self::TooMany(_) => Some("webhook_endpoints_too_many"),
            Self::Disabled => Some("webhook_endpoint_disabled"),
            Self::UnderWay => Some("webhook_delivery_under_way"),
            Self::Reason => Some("webhook_reason_invalid"),
            Self::Since | Self::After => Some("webhook_recovery_invalid"),
            Self::Crypto(_) | Self::Store(_) => None,
        }
    }

    /// The status of the answer; `None` for what every route may fail with.
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::EndpointNotFound | Self::DeliveryNotFound => Some(404),
            Self::TooMany(_) | Self::Disabled | Self::UnderWay => Some(409),
            Self::Url(_) | Self::EventKind(_) | Self::Reason | Self::Since | Self::After => Some(422),
            Self::Crypto(_) | Self::Store(_) => None,
        }
    }

    /// Where in the request's body the fault is, as a JSON pointer.
    pub fn pointer(&self) -> Option<String> {
        match self {
            Self::Url(_) => Some("/url".to_owned()),
            Self::EventKind(place) => Some(format!("/event_kinds/{place}")),
            Self::Reason => Some("/reason".to_owned()),
            Self::Since => Some("/since".to_owned()),
            Self::After => Some("/after".to_owned()),
            Self::EndpointNotFound
            | Self::DeliveryNotFound
            | Self::TooMany(_)
            | Self::Disabled
            | Self::UnderWay
            | Self::Crypto(_)
            | Self::Store(_) => None,
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The wire

/// An endpoint to create.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateWebhookEndpoint {
    /// Where to post to: `https`, a public host, port 443 or from 1024 on.
    #[schema(format = "uri", max_length = 2000, example = "https://bank.example/flowbridge")]
    pub url: String,
    /// The kinds of events wanted; all when it is empty or left out. A participant hears of its payments (`payment.settled`), an
    /// operator of reconciliation (`reconciliation.completed`, `exception.proposed`).
    #[schema(max_items = 9)]
    pub event_kinds: Option<Vec<String>>,
}

/// What to change about an endpoint; what is left out stays.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateWebhookEndpoint {
    /// Where to post to.
    #[schema(format = "uri", max_length = 2000)]
    pub url: Option<String>,
    /// The kinds of events wanted; all when it is empty.
    #[schema(max_items = 9)]
    pub event_kinds: Option<Vec<String>>,
}

/// Why an endpoint is disabled.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DisableWebhookEndpoint {
    /// For those who wonder later.
    #[schema(min_length = 1, max_length = 200, example = "maintenance until Monday")]
    pub reason: String,
}

/// The most characters of a reason.
pub const REASON_CHARS_MAX: usize = 200;

/// Since when to send again.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RecoverWebhooks {
    /// Events recorded from this instant on (RFC 3339), as far back as deliveries are kept.
    #[schema(format = "date-time")]
    pub since: String,
    /// Where an earlier answer left off (its `continue_after`).
    #[schema(example = "81234-55012")]
    pub after: Option<String>,
}

impl CreateWebhookEndpoint {
    /// Reads a body; all that is wrong with its form is told at once.
    pub fn read(body: &Value) -> Result<Self, Vec<Fault>> {
        let mut reader = Reader::new(body);
        let url = reader.text("url", plain);
        let url = reader.require("url", url);
        let event_kinds = reader.texts("event_kinds");
        whole(reader, url.map(|url| Self { url, event_kinds }))
    }
}

impl UpdateWebhookEndpoint {
    /// Reads a body; all that is wrong with its form is told at once.
    pub fn read(body: &Value) -> Result<Self, Vec<Fault>> {
        let mut reader = Reader::new(body);
        let request = Self { url: reader.text("url", plain), event_kinds: reader.texts("event_kinds") };
        whole(reader, Some(request))
    }
}

impl DisableWebhookEndpoint {
    /// Reads a body; all that is wrong with its form is told at once.
    pub fn read(body: &Value) -> Result<Self, Vec<Fault>> {
        let mut reader = Reader::new(body);
        let reason = reader.text("reason", plain);
        let reason = reader.require("reason", reason);
        whole(reader, reason.map(|reason| Self { reason }))
    }
}

impl RecoverWebhooks {
    /// Reads a body; all that is wrong with its form is told at once.
    pub fn read(body: &Value) -> Result<Self, Vec<Fault>> {
        let mut reader = Reader::new(body);
        let since = reader.text("since", plain);
        let since = reader.require("since", since);
        let after = reader.text("after", plain);
        whole(reader, since.map(|since| Self { since, after }))
    }
}

/// A text whose meaning is judged later.
fn plain(text: &str) -> Result<String, Infallible> {
    Ok(text.to_owned())
}

fn whole<T>(reader: Reader<'_>, request: Option<T>) -> Result<T, Vec<Fault>> {
    let faults = reader.finish();
    request.filter(|_| faults.is_empty()).ok_or(faults)
}

/// A webhook endpoint.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct WebhookEndpoint {
    /// Its id.
    #[schema(value_type = String, example = "whe_01h455vb4pex5vsknk084sn02q")]
    pub id: Text<WebhookEndpointId>,
    /// Where we post to.
    #[schema(format = "uri")]
    pub url: String,
    /// The kinds of events wanted; empty for all.
    pub event_kinds: Vec<String>,
    /// Whether anything is sent.
    pub status: EndpointStatus,
    /// Why nothing is, when it is disabled.
    pub disabled_reason: Option<String>,
    /// Attempts since the last that succeeded.
    pub failure_streak: i32,
    /// When the first of them failed.
    #[schema(value_type = Option<String>, format = "date-time")]
    pub failing_since: Option<Text<jiff::Timestamp>>,
    /// Nothing is sent before this instant: the receiver asked for a pause, or does not answer.
    #[schema(value_type = Option<String>, format = "date-time")]
    pub paused_until: Option<Text<jiff::Timestamp>>,
    /// Until when deliveries are signed with the keys before the last rotation too.
    #[schema(value_type = Option<String>, format = "date-time")]
    pub previous_keys_until: Option<Text<jiff::Timestamp>>,
    /// When it was created.
    #[schema(value_type = String, format = "date-time")]
    pub created_at: Text<jiff::Timestamp>,
    /// When anything about it last changed.
    #[schema(value_type = String, format = "date-time")]
    pub updated_at: Text<jiff::Timestamp>,
}

/// Whether anything is sent to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndpointStatus {
    /// Events are sent.
    Active,
    /// Nothing is sent, and what happens is not queued.
    Disabled,
}

/// An endpoint with the keys that were just made for it. The secret is shown this once.
#[derive(Clone, Serialize, ToSchema)]
pub struct WebhookEndpointWithKeys {
    /// The endpoint.
    #[serde(flatten)]
    pub endpoint: WebhookEndpoint,
    /// The shared secret of the `v1` signatures: keep it as you keep passwords.
    #[schema(example = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")]
    pub secret: String,
    /// The public key of the `v1a` signatures: enough to check, not to sign.
    #[schema(example = "whpk_ZXh2bXNsZnBkZ2Jka3ZtdGJlbGZ1a2Ntc3F2eHl6YWI=")]
    pub public_key: String,
}

impl fmt::Debug for WebhookEndpointWithKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookEndpointWithKeys").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// One event on its way to one endpoint.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct WebhookDelivery {
    /// Its id.
    #[schema(value_type = String, example = "dlv_01h455vb4pex5vsknk084sn02q")]
    pub id: Text<DeliveryId>,
    /// The event's id, which the receiver gets as `webhook-id`.
    #[schema(value_type = String, example = "evt_01h455vb4pex5vsknk084sn02q")]
    pub event_id: Text<flowbridge_domain::id::EventId>,
    /// Such as `payment.settled`.
    pub event_kind: String,
    /// What the event is about: a payment, or a webhook endpoint; for operators a reconciliation, an exception, or the proposal
    /// of a model.
    pub subject: String,
    /// Where it is: `pending`, `claimed` (being sent), `delivered`, `exhausted` (given up) or `cancelled`.
    #[schema(example = "delivered")]
    pub state: &'static str,
    /// How often it was tried since it was last asked for.
    pub attempts: i32,
    /// When it is tried next.
    #[schema(value_type = Option<String>, format = "date-time")]
    pub next_attempt_at: Option<Text<jiff::Timestamp>>,
    /// The latest attempts, oldest first.
    pub attempt_log: Vec<WebhookAttempt>,
    /// When it was queued.
    #[schema(value_type = String, format = "date-time")]
    pub created_at: Text<jiff::Timestamp>,
    /// Since when it is in its state.
    #[schema(value_type = String, format = "date-time")]
    pub state_since: Text<jiff::Timestamp>,
}

/// One attempt to deliver.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct WebhookAttempt {
    /// When it began.
    #[schema(value_type = String, format = "date-time")]
    pub at: Text<jiff::Timestamp>,
    /// The status that the receiver answered with.
    pub status: Option<u16>,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// How long it took.
    pub latency_ms: i64,
}

/// What was queued again.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct WebhooksRecovered {
    /// How many deliveries.
    pub queued: i64,
    /// Present when there may be more: ask again with it as `after`.
    pub continue_after: Option<String>,
}

/// Something that is written as its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text<T>(pub T);

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// RFC 3339 in UTC. An instant outside jiff's ten thousand years is none that we wrote.
fn instant(at: Timestamp) -> Text<jiff::Timestamp> {
    Text(jiff::Timestamp::from_microsecond(at.as_micros()).unwrap_or(jiff::Timestamp::UNIX_EPOCH))
}

impl From<store::Endpoint> for WebhookEndpoint {
    fn from(endpoint: store::Endpoint) -> Self {
        let status = if endpoint.disabled_reason.is_some() {
            EndpointStatus::Disabled
        } else {
            EndpointStatus::Active
        };
        Self {
            id: Text(endpoint.id),
            url: endpoint.url,
            event_kinds: endpoint.event_kinds,
            status,
            disabled_reason: endpoint.disabled_reason,
            failure_streak: endpoint.failure_streak,
            failing_since: endpoint.failing_since.map(instant),
            paused_until: endpoint.paused_until.map(instant),
            previous_keys_until: endpoint.previous_keys_until.map(instant),
            created_at: instant(endpoint.created_at),
            updated_at: instant(endpoint.updated_at),
        }
    }
}

impl From<store::Delivery> for WebhookDelivery {
    fn from(delivery: store::Delivery) -> Self {
        let subject = event_log::subject_of(&delivery.event_kind, delivery.subject);
        let attempt = |attempt: store::Attempt| WebhookAttempt {
            at: instant(attempt.at),
            status: attempt.status,
            error: attempt.error,
            latency_ms: attempt.latency_ms,
        };
        Self {
            id: Text(delivery.id),
            event_id: Text(delivery.event_id),
            event_kind: delivery.event_kind,
            subject,
            state: delivery.state.as_str(),
            attempts: delivery.attempts,
            next_attempt_at: delivery.next_attempt_at.map(instant),
            attempt_log: delivery.attempt_log.into_iter().map(attempt).collect(),
            created_at: instant(delivery.created_at),
            state_since: instant(delivery.state_since),
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// What is asked for

/// Who asks, when, and within what limits. What takes a transaction is to be committed together with its answer under the
/// client's idempotency key; the rest is harmless to repeat.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// The database.
    pub db: &'a Db,
    /// Seals the keys of endpoints.
    pub sealing: &'a SealingKeys,
    /// Whose endpoints.
    pub owner: EndpointOwner,
    /// What may be asked for.
    pub limits: &'a WebhookLimits,
    /// The present instant.
    pub now: Timestamp,
}

impl Asker<'_> {
    /// Creates an endpoint with keys of its own.
    pub async fn create(
        &self,
        tx: &Tx,
        request: CreateWebhookEndpoint,
    ) -> Result<WebhookEndpointWithKeys, WebhookError> {
        let url = self.check_url(&request.url)?;
        let event_kinds = request.event_kinds.unwrap_or_default();
        check_kinds(&event_kinds, self.owner)?;
        let keys = EndpointKeys::generate()?;
        let id = WebhookEndpointId::generate(self.now, flowbridge_security::random_bytes()?);
        let new = NewEndpoint { id, owner: self.owner, url, event_kinds, keys: self.sealed(&keys, id)? };
        let endpoints_max = self.limits.endpoints_max;
        let created = store::create(tx, &new, endpoints_max, self.now).await?;
        Ok(with_keys(created.ok_or(WebhookError::TooMany(endpoints_max))?, &keys))
    }

    /// The endpoints after `after`, oldest first.
    pub async fn list(
        &self,
        after: Option<WebhookEndpointId>,
        limit: i64,
    ) -> Result<Vec<WebhookEndpoint>, WebhookError> {
        Ok(store::list(self.db, self.owner, after, limit).await?.into_iter().map(Into::into).collect())
    }

    /// One endpoint.
    pub async fn get(&self, id: WebhookEndpointId) -> Result<WebhookEndpoint, WebhookError> {
        found(store::get(self.db, self.owner, id).await?)
    }

    /// Changes where an endpoint is and what it hears.
    pub async fn update(
        &self,
        tx: &Tx,
        id: WebhookEndpointId,
        request: &UpdateWebhookEndpoint,
    ) -> Result<WebhookEndpoint, WebhookError> {
        let url = request.url.as_deref().map(|url| self.check_url(url)).transpose()?;
        let kinds = request.event_kinds.as_deref();
        check_kinds(kinds.unwrap_or_default(), self.owner)?;
        found(store::update(tx, self.owner, id, url.as_deref(), kinds, self.now).await?)
    }

    /// Gives an endpoint new keys; deliveries carry signatures of the old ones too for the rotation window.
    pub async fn rotate(
        &self,
        tx: &Tx,
        id: WebhookEndpointId,
    ) -> Result<WebhookEndpointWithKeys, WebhookError> {
        let keys = EndpointKeys::generate()?;
        let until = self.now.plus(self.limits.rotation_window);
        let rotated =
            store::rotate_keys(tx, self.owner, id, &self.sealed(&keys, id)?, until, self.now).await?;
        Ok(with_keys(rotated.ok_or(WebhookError::EndpointNotFound)?, &keys))
    }

    /// Stops sending. What is pending waits; what happens from now on is not queued.
    pub async fn disable(
        &self,
        tx: &Tx,
        id: WebhookEndpointId,
        request: &DisableWebhookEndpoint,
    ) -> Result<WebhookEndpoint, WebhookError> {
        let reason = request.reason.trim();
        if reason.is_empty() || reason.chars().count() > REASON_CHARS_MAX || reason.contains('\0') {
            return Err(WebhookError::Reason);
        }
        found(store::set_disabled(tx, self.owner, id, Some(reason), self.now).await?)
    }

    /// Sends again, beginning with what is pending. What was missed meanwhile is asked for with [`Asker::recover`].
    pub async fn enable(&self, tx: &Tx, id: WebhookEndpointId) -> Result<WebhookEndpoint, WebhookError> {
        found(store::set_disabled(tx, self.owner, id, None, self.now).await?)
    }

    /// Deletes an endpoint for good. Repeated, it is not found.
    pub async fn delete(&self, tx: &Tx, id: WebhookEndpointId) -> Result<(), WebhookError> {
        let was_there = store::delete(tx, self.owner, id, self.now).await?;
        if was_there { Ok(()) } else { Err(WebhookError::EndpointNotFound) }
    }

    /// Deliveries to an endpoint in these states (all, when none is named), newest event first, older than `before`.
    pub async fn deliveries(
        &self,
        id: WebhookEndpointId,
        states: &[DeliveryState],
        before: Option<DeliveryId>,
        limit: i64,
    ) -> Result<Vec<WebhookDelivery>, WebhookError> {
        self.get(id).await?;
        let states = if states.is_empty() { &DeliveryState::ALL } else { states };
        let page = store::deliveries(self.db, id, states, before, limit).await?;
        Ok(page.into_iter().map(Into::into).collect())
    }

    /// One delivery to an endpoint.
    pub async fn delivery(
        &self,
        id: WebhookEndpointId,
        delivery: DeliveryId,
    ) -> Result<WebhookDelivery, WebhookError> {
        self.get(id).await?;
        Ok(store::delivery(self.db, id, delivery).await?.ok_or(WebhookError::DeliveryNotFound)?.into())
    }

    /// Sends a delivery again, whatever became of it.
    pub async fn redeliver(&self, id: WebhookEndpointId, delivery: DeliveryId) -> Result<(), WebhookError> {
        self.is_active(id).await?;
        self.delivery(id, delivery).await?;
        let tx = self.db.begin().await?;
        let is_queued = store::redeliver(&tx, self.owner, id, delivery, self.now).await?;
        tx.commit().await?;
        if is_queued { Ok(()) } else { Err(WebhookError::UnderWay) }
    }

    /// Queues again what was given up or missed since an instant, and brings forward what was put off. Events whose deliveries are forgotten
    /// are passed over: of those, what was delivered would be queued too.
    pub async fn recover(
        &self,
        id: WebhookEndpointId,
        request: &RecoverWebhooks,
    ) -> Result<WebhooksRecovered, WebhookError> {
        let since: jiff::Timestamp = request.since.parse().map_err(|_| WebhookError::Since)?;
        let kept_since = self.now.minus(self.limits.deliveries_kept).plus(FORGOTTEN_SOON);
        let after = match &request.after {
            Some(after) => {
                let after = Offset::parse(after).ok_or(WebhookError::After)?;
                after.max(store::offset_since(self.db, kept_since).await?)
            }
            None => {
                let since = Timestamp::from_micros(since.as_microsecond()).max(kept_since);
                store::offset_since(self.db, since).await?
            }
        };
        self.is_active(id).await?;
        let tx = self.db.begin().await?;
        let events_max = self.limits.recover_events_max;
        let recovered = store::recover(&tx, self.owner, id, after, events_max, self.now).await?;
        tx.commit().await?;
        Ok(WebhooksRecovered {
            queued: recovered.queued,
            continue_after: recovered.more_after.map(|after| after.to_string()),
        })
    }

    /// Judges a URL and writes it as it will be called: without control characters, and no longer than allowed.
    fn check_url(&self, url: &str) -> Result<String, EgressRefused> {
        let url = self.limits.egress.check_url(url)?.to_string();
        self.limits.egress.check_url(&url)?;
        Ok(url)
    }

    fn sealed(&self, keys: &EndpointKeys, id: WebhookEndpointId) -> Result<SealedKeys, WebhookError> {
        let sealed = keys.seal(id, self.sealing)?;
        Ok(SealedKeys { key_id: sealed.key_id, bytes: sealed.bytes })
    }

    async fn is_active(&self, id: WebhookEndpointId) -> Result<(), WebhookError> {
        match self.get(id).await?.status {
            EndpointStatus::Active => Ok(()),
            EndpointStatus::Disabled => Err(WebhookError::Disabled),
        }
    }
}

fn check_kinds(kinds: &[String], owner: EndpointOwner) -> Result<(), WebhookError> {
    let known: &[&str] = match owner {
        EndpointOwner::Participant(_) => &EVENT_KINDS,
        EndpointOwner::Operator => &OPERATOR_EVENT_KINDS,
    };
    match kinds.iter().position(|kind| !known.contains(&kind.as_str())) {
        None if kinds.len() <= known.len() => Ok(()),
        None => Err(WebhookError::EventKind(known.len())),
        Some(place) => Err(WebhookError::EventKind(place)),
    }
}

fn found(endpoint: Option<store::Endpoint>) -> Result<WebhookEndpoint, WebhookError> {
    endpoint.map(Into::into).ok_or(WebhookError::EndpointNotFound)
}

fn with_keys(endpoint: store::Endpoint, keys: &EndpointKeys) -> WebhookEndpointWithKeys {
    WebhookEndpointWithKeys {
        endpoint: endpoint.into(),
        secret: keys.secret_text().expose_secret().to_owned(),
        public_key: keys.public_text(),
    }
}
