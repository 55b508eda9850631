//! The OpenAPI document, made from the handlers themselves.

use crate::{
    error_pages, events, exceptions, models, parties, payments, reconciliations, reviews, sign_in, vault,
    webhook_routes,
};
use axum::http::header;
use axum::response::IntoResponse;
use flowbridge_api::problem::Problem;
use utoipa::openapi::RefOr;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{IntoResponses, Modify, OpenApi};

/// What every signed-in route may answer with besides success.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "described, not built: refusals are written in one place")]
pub(crate) enum Refusals {
    /// The request cannot be read
    #[response(status = 400, content_type = "application/problem+json")]
    BadRequest(Problem),
    /// A valid access token is required
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthorized(Problem),
    /// The access token does not allow this
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(Problem),
    /// There is no such resource
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(Problem),
    /// The resource does not know this method: `bulk` stands where an id would
    #[response(status = 405, content_type = "application/problem+json")]
    MethodNotAllowed(Problem),
    /// It is past that, exists, or is under way
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(Problem),
    /// The request is too large
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(Problem),
    /// The body has to be JSON
    #[response(status = 415, content_type = "application/problem+json")]
    UnsupportedMediaType(Problem),
    /// Understood, and refused
    #[response(status = 422, content_type = "application/problem+json")]
    Unprocessable(Problem),
    /// The client asks for too much at once: again after `Retry-After`
    #[response(status = 429, content_type = "application/problem+json")]
    TooManyRequests(Problem),
    /// Address and headers together are too long
    #[response(status = 431)]
    HeadersTooLarge,
    /// Something went wrong on our side
    #[response(status = 500, content_type = "application/problem+json")]
    Internal(Problem),
    /// Try again
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(Problem),
    /// It took too long
    #[response(status = 504, content_type = "application/problem+json")]
    Timeout(Problem),
}

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        if let Some(components) = openapi.components.as_mut() {
            let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
            components.add_security_scheme("access_token", SecurityScheme::Http(scheme));
        }
    }
}

/// Says of each operation what its summary leaves out.
struct Described;

impl Modify for Described {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        for path in openapi.paths.paths.values_mut() {
            let operations = [&mut path.get, &mut path.post, &mut path.patch, &mut path.delete];
            for operation in operations.into_iter().flatten() {
                let summary = operation.summary.clone().unwrap_or_default();
                let is_keyed = operation
                    .parameters
                    .iter()
                    .flatten()
                    .any(|given| matches!(given, RefOr::T(given) if given.name == "Idempotency-Key"));
                let repeats =
                    if is_keyed { " Repeated with the same key and body, it is answered alike." } else { "" };
                operation.description.get_or_insert_with(|| format!("{summary}.{repeats}"));
            }
        }
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "FlowBridge",
        description = "Moves money between banks, exchanges and fintechs in real time. Amounts are whole minor units. Requests that change something carry an Idempotency-Key. Refusals are RFC 9457 problems with a stable code.",
        contact(name = "FlowBridge", url = "https://flowbridge.example")
    ),
    servers((url = "/")),
    security(("access_token" = [])),
    modifiers(&Bearer, &Described),
    paths(
        sign_in::token, sign_in::metadata, sign_in::jwks,
        payments::create, payments::list, payments::show, payments::cancel, payments::refund, payments::timeline, payments::bulk,
        reviews::list, reviews::propose, reviews::confirm, reviews::reject,
        parties::create_participant, parties::list_participants, parties::show_participant,
        parties::suspend_participant, parties::activate_participant,
        parties::create_account, parties::list_accounts, parties::show_account, parties::balances,
        events::list, events::proof,
        reconciliations::upload, reconciliations::list_statements, reconciliations::ask, reconciliations::list,
        reconciliations::show, reconciliations::report,
        exceptions::list, exceptions::show, exceptions::comment, exceptions::assign, exceptions::propose, exceptions::confirm,
        exceptions::reject, exceptions::show_breaker, exceptions::propose_reset, exceptions::confirm_reset,
        exceptions::reject_reset,
        models::list, models::propose, models::confirm, models::reject,
        webhook_routes::create, webhook_routes::list, webhook_routes::show, webhook_routes::update, webhook_routes::remove,
        webhook_routes::rotate, webhook_routes::disable, webhook_routes::enable, webhook_routes::recover,
        webhook_routes::deliveries, webhook_routes::redeliver,
        vault::look, vault::list, vault::propose, vault::one, vault::approve,
        error_pages::one,
    ),
    tags(
        (name = "sign-in", description = "OAuth 2 client credentials with private_key_jwt"),
        (name = "payments", description = "Create, follow, cancel and refund payments"),
        (name = "accounts", description = "Customers' accounts: a bank account and a wallet under one id"),
        (name = "participants", description = "Institutions that use FlowBridge"),
        (name = "events", description = "The event log"),
        (name = "webhooks", description = "Being told: participants of payments, operators of reconciliation"),
        (name = "vault", description = "Who governs the contracts: motions, and their owners' approvals"),
        (name = "errors", description = "What refusals mean"),
        (name = "reconciliation", description = "Statements, what differs from them, and what people decide"),
        (name = "proof", description = "Ledger, chain and banks are equal"),
    )
)]
struct Document;

/// The document as text.
pub(crate) fn text() -> String {
    // It is made of constants: if it could not be written, no test of ours would pass.
    Document::openapi().to_pretty_json().unwrap_or_default()
}

pub(crate) async fn show() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], text())
}
