//! Sign-in: OAuth 2 client credentials, with a signed assertion instead of a secret.

use crate::Gateway;
use crate::answer::{Answer, json};
use crate::caller::read_body;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::routing::{get, post};
use flowbridge_domain::time::Timestamp;
use flowbridge_security::client_assertion::{self, GuardUnavailable, ReplayGuard};
use flowbridge_security::jwk::PublicKeys;
use flowbridge_security::oauth::{
    JWKS_PATH, METADATA_PATH, Metadata, OAuthError, TOKEN_PATH, TokenRequest, TokenResponse, grant_scopes,
};
use flowbridge_security::scope::ScopeSet;
use flowbridge_store::{Db, access};

pub(crate) fn router() -> Router<Gateway> {
    Router::new()
        .route(TOKEN_PATH, post(token))
        .route(METADATA_PATH, get(metadata))
        .route(JWKS_PATH, get(jwks))
}

struct UsedAssertions<'a>(&'a Db);

#[async_trait::async_trait]
impl ReplayGuard for UsedAssertions<'_> {
    async fn first_use(&self, digest: [u8; 32], until: Timestamp) -> Result<bool, GuardUnavailable> {
        access::first_use(self.0, digest, until).await.map_err(|error| {
            tracing::warn!(%error, "cannot tell whether an assertion was used");
            GuardUnavailable
        })
    }
}

/// What a client posts to get an access token, for the documentation
#[derive(Debug, utoipa::ToSchema)]
#[expect(dead_code, reason = "described, not built: the security crate reads it")]
pub(crate) struct TokenForm {
    /// `client_credentials`
    grant_type: String,
    /// `urn:ietf:params:oauth:client-assertion-type:jwt-bearer`
    client_assertion_type: String,
    /// A JWT signed with the client's key (RFC 7523), good for one request
    client_assertion: String,
    /// The scopes wanted; all that the client has if it is not given
    scope: Option<String>,
}

/// Get an access token
#[utoipa::path(post, path = "/oauth/token", tag = "sign-in", security(()),
    request_body(content = TokenForm, content_type = "application/x-www-form-urlencoded", description = "grant_type=client_credentials with a client_assertion (RFC 7523)"),
    responses((status = 200, description = "A token for five minutes", body = Object), (status = 400, description = "RFC 6749 error", body = Object),
        (status = 401, description = "RFC 6749 error", body = Object), (status = 413, description = "The problem", body = flowbridge_api::problem::Problem),
        (status = 503, description = "Try again", body = Object)))]
pub(crate) async fn token(State(gateway): State<Gateway>, request: Request) -> Answer {
    let has_authorization = request.headers().contains_key(header::AUTHORIZATION);
    let form = read_body(request, &gateway).await?;
    match sign_in(&gateway, &form, has_authorization).await {
        Ok(response) => json(StatusCode::OK, &response),
        Err(error) => {
            let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
            json(status, &error.body())
        }
    }
}

async fn sign_in(
    gateway: &Gateway,
    form: &[u8],
    has_authorization: bool,
) -> Result<TokenResponse, OAuthError> {
    let now = gateway.now();
    let request = TokenRequest::parse(form, has_authorization)?;
    let db = &gateway.parts.db;
    // Not verified yet: whatever text the assertion claims, PostgreSQL has to be able to read it.
    if request.client_id.contains(char::is_control) {
        return Err(OAuthError::InvalidClient);
    }
    let client = access::find_client(db, &request.client_id).await.map_err(|error| {
        tracing::warn!(%error, "cannot look up a client");
        OAuthError::TemporarilyUnavailable
    })?;
    let client = client.filter(|client| client.active).ok_or(OAuthError::InvalidClient)?;
    let keys = PublicKeys::from_jwks(&client.jwks.to_string()).map_err(|error| {
        tracing::error!(client_id = client.client_id, %error, "the registered keys of a client cannot be used");
        OAuthError::InvalidClient
    })?;
    let issuer = &gateway.settings.issuer;
    let unspent = client_assertion::verify(request.assertion(), &request.client_id, &keys, issuer, now)
        .inspect_err(|error| tracing::info!(client_id = request.client_id, %error, "refused an assertion"))?;
    unspent
        .spend(&UsedAssertions(db))
        .await
        .inspect_err(|error| tracing::info!(client_id = request.client_id, %error, "refused an assertion"))?;
    let registered = ScopeSet::from_names(client.scopes.iter().map(String::as_str)).map_err(|_| {
        tracing::error!(
            client_id = client.client_id,
            "a client is registered with a scope that does not exist"
        );
        OAuthError::InvalidScope
    })?;
    let scopes = grant_scopes(request.scope.as_deref(), registered)?;
    let issued = gateway.parts.tokens.issue(&client.client_id, client.participant, scopes, now);
    let issued = issued.map_err(|_| OAuthError::TemporarilyUnavailable)?;
    Ok(TokenResponse::new(&issued, scopes))
}

/// The authorization server's metadata (RFC 8414)
#[utoipa::path(get, path = "/.well-known/oauth-authorization-server", tag = "sign-in", security(()), responses((status = 200, description = "The document", body = Object)))]
pub(crate) async fn metadata(State(gateway): State<Gateway>) -> Answer {
    json(StatusCode::OK, &Metadata::new(&gateway.settings.issuer))
}

/// The public keys of access tokens
#[utoipa::path(get, path = "/oauth/jwks.json", tag = "sign-in", security(()), responses((status = 200, description = "The document", body = Object)))]
pub(crate) async fn jwks(State(gateway): State<Gateway>) -> Answer {
    json(StatusCode::OK, &gateway.parts.jwks)
}
