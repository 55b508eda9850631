//! The partners' API: sign-in, payments, accounts, events, webhooks, the proof.
//!
//! An answer is sent only after what it says is committed. Requests that change something carry an idempotency key: the
//! answer is kept under it in the transaction that did the thing, so a repeat is answered alike. Payments that arrive
//! together are committed together ([`batcher`]). A participant sees what is its own; anything else is not found.

mod allowance;
mod answer;
mod batcher;
mod bulks;
mod caller;
mod error_pages;
mod events;
mod exceptions;
mod keyed;
mod models;
mod openapi;
mod paging;
mod parties;
mod payments;
pub mod reconciliations;
mod reviews;
mod server;
mod sign_in;
pub mod vault;
mod webhook_routes;
pub mod webhooks;

pub use allowance::ClientQuota;
pub use answer::Answer;
pub use batcher::COMMITS_MAX as ACCEPT_CONNECTIONS;
pub use server::{ServeLimits, serve};

use crate::allowance::Allowances;
use crate::batcher::Batcher;
use crate::bulks::Bulks;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::routing::get;
use flowbridge_domain::time::{Clock, Timestamp};
use flowbridge_security::cursor::CursorKey;
use flowbridge_security::jwk::JwkSet;
use flowbridge_security::sealing::SealingKeys;
use flowbridge_security::token::{TokenIssuer, TokenVerifier};
use flowbridge_store::Db;
use flowbridge_store::accept::PaymentPolicy;
use flowbridge_store::wake::Wake;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;

/// Limits of the gateway. See `config/default.toml`.
#[derive(Debug, Clone)]
pub struct GatewaySettings {
    /// Issuer of tokens, audience of assertions, without a slash at its end.
    pub issuer: String,
    /// A request other than bulk.
    pub request_bytes_max: usize,
    /// A bulk request.
    pub bulk_bytes_max: usize,
    /// Its lines.
    pub bulk_lines_max: usize,
    /// A statement file.
    pub statement_bytes_max: usize,
    /// What a client may ask for.
    pub client_quota: ClientQuota,
    /// How long a request may take.
    pub request_timeout: Duration,
    /// Payments joined into one commit at most.
    pub accept_slice_max: usize,
    /// How far apart commits of creations begin at least, so that slices fill.
    pub accept_pace: Duration,
    /// How many days ahead a payment may be dated.
    pub execution_days_max: u32,
    /// How long payments may take.
    pub policy: PaymentPolicy,
    /// What may be asked of webhooks.
    pub webhooks: webhooks::WebhookLimits,
}

/// Takes the three-way proof, wherever the banks are known. The answer as JSON, or why there is none.
pub type ProofSource =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<serde_json::Value, String>> + Send>> + Send + Sync>;

/// What the gateway works with.
pub struct GatewayParts {
    /// The database.
    pub db: Db,
    /// The same by connections of its own, [`ACCEPT_CONNECTIONS`] of them, on which payments are accepted: however many questions
    /// wait for those of `db`.
    pub accept_db: Db,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Bells of the workers in this process.
    pub wake: Wake,
    /// Issues access tokens.
    pub tokens: TokenIssuer,
    /// Verifies them.
    pub verifier: TokenVerifier,
    /// The public keys, to publish.
    pub jwks: JwkSet,
    /// Seals paging cursors.
    pub cursors: CursorKey,
    /// Seals what is secret before it is stored.
    pub sealing: Arc<SealingKeys>,
    /// Takes the proof.
    pub proof: ProofSource,
    /// Takes statement files in.
    pub statements: reconciliations::StatementIntake,
    /// SHA-256 of the model that judges reconciliations until people have put another in force.
    pub shipped_model: String,
    /// The vault that governs the contracts, if one does.
    pub vault: Option<vault::VaultDesk>,
}

impl fmt::Debug for GatewayParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayParts").field("db", &self.db).finish_non_exhaustive()
    }
}

/// What every request is given.
#[derive(Clone)]
pub(crate) struct Gateway(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) parts: GatewayParts,
    pub(crate) settings: GatewaySettings,
    pub(crate) batcher: Batcher,
    pub(crate) allowances: Allowances,
    pub(crate) bulks: Bulks,
}

impl std::ops::Deref for Gateway {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Inner {
    pub(crate) fn now(&self) -> Timestamp {
        self.parts.clock.now()
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// All routes. Must be called inside a runtime: the batcher is a task.
pub fn router(parts: GatewayParts, settings: GatewaySettings) -> Router {
    let batcher = Batcher::start(&parts, &settings);
    let timeout = settings.request_timeout;
    let (bytes_max, bulk_bytes_max) = (settings.request_bytes_max, settings.bulk_bytes_max);
    let statement_bytes_max = settings.statement_bytes_max;
    let allowances = Allowances::new(settings.client_quota);
    let gateway = Gateway(Arc::new(Inner { parts, settings, batcher, allowances, bulks: Bulks::default() }));
    Router::new()
        .merge(sign_in::router())
        .merge(payments::router())
        .merge(reviews::router())
        .merge(reconciliations::router())
        .merge(exceptions::router())
        .merge(models::router())
        .merge(vault::router())
        .merge(parties::router())
        .merge(events::router())
        .merge(webhook_routes::router())
        .layer(DefaultBodyLimit::max(bytes_max))
        .merge(payments::bulk_router().layer(DefaultBodyLimit::max(bulk_bytes_max)))
        .merge(reconciliations::upload_router().layer(DefaultBodyLimit::max(statement_bytes_max)))
        .merge(error_pages::router())
        .route("/openapi.json", get(openapi::show))
        .route("/livez", get(|| async { StatusCode::OK }))
        .route("/readyz", get(events::ready))
        .fallback(answer::no_such_route)
        .method_not_allowed_fallback(answer::no_such_method)
        .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, timeout))
        .layer(CatchPanicLayer::custom(answer::panicked))
        // Outermost, so that what took too long or panicked is answered with a problem too.
        .layer(axum::middleware::from_fn_with_state(gateway.clone(), answer::observe))
        .with_state(gateway)
}

/// The OpenAPI document, as it is served.
pub fn openapi_json() -> String {
    openapi::text()
}
