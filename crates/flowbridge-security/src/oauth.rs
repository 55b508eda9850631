//! The token endpoint of RFC 6749 without its HTTP: client credentials only, clients known by signed assertion only.
//!
//! The order of a request: [`TokenRequest::parse`], the client's registration looked up by
//! [`TokenRequest::client_id`], [`crate::client_assertion::verify`] and `spend`, [`grant_scopes`], then
//! [`crate::token::TokenIssuer::issue`]. A client that is unknown, disabled or cannot prove itself hears the same
//! `invalid_client`, whatever the reason.

use crate::client_assertion::{AssertionError, claimed_client_id};
use crate::jose::Algorithm;
use crate::scope::{Scope, ScopeSet};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;

/// The only `client_assertion_type` there is (RFC 7523 §2.2).
pub const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// Where the token endpoint lies, below the issuer.
pub const TOKEN_PATH: &str = "/oauth/token";
/// Where our public keys lie, below the issuer.
pub const JWKS_PATH: &str = "/oauth/jwks.json";
/// Where the metadata document lies (RFC 8414 §3).
pub const METADATA_PATH: &str = "/.well-known/oauth-authorization-server";

/// Parameters of a request at most. Each is compared with those before it, for whoever asks, known or not.
const PARAMETERS_MAX: usize = 16;

/// A refusal of the token endpoint (RFC 6749 §5.2). Answer with `Cache-Control: no-store`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OAuthError {
    /// The request is not one.
    #[error("{0}")]
    InvalidRequest(&'static str),
    /// The client is not known, not active, or not proven: not said which.
    #[error("client authentication failed")]
    InvalidClient,
    /// A scope that does not exist or that the client was not given.
    #[error("a requested scope is unknown or not granted to this client")]
    InvalidScope,
    /// Another grant than client credentials.
    #[error("only the grant type client_credentials is supported")]
    UnsupportedGrantType,
    /// Cannot be decided now; try again.
    #[error("the authorization server cannot answer now")]
    TemporarilyUnavailable,
}

/// The body of a refusal.
#[derive(Debug, Serialize)]
pub struct ErrorBody {
    /// The code of RFC 6749.
    pub error: &'static str,
    /// For a person to read.
    pub error_description: String,
}

impl OAuthError {
    /// The code of RFC 6749 §5.2.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::InvalidRequest(_) => "invalid_request",
            Self::InvalidClient => "invalid_client",
            Self::InvalidScope => "invalid_scope",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::TemporarilyUnavailable => "temporarily_unavailable",
        }
    }

    /// The HTTP status.
    pub const fn status(&self) -> u16 {
        match self {
            Self::InvalidClient => 401,
            Self::TemporarilyUnavailable => 503,
            Self::InvalidRequest(_) | Self::InvalidScope | Self::UnsupportedGrantType => 400,
        }
    }

    /// The body.
    pub fn body(&self) -> ErrorBody {
        ErrorBody { error: self.code(), error_description: self.to_string() }
    }
}

impl From<AssertionError> for OAuthError {
    fn from(error: AssertionError) -> Self {
        if error == AssertionError::GuardUnavailable {
            Self::TemporarilyUnavailable
        } else {
            Self::InvalidClient
        }
    }
}

/// A well-formed request for a token, of a client yet to be authenticated.
#[derive(Debug)]
pub struct TokenRequest {
    /// Whom the assertion claims to be from.
    pub client_id: String,
    /// The assertion.
    pub assertion: SecretString,
    /// The scopes asked for, if any were.
    pub scope: Option<String>,
}

impl TokenRequest {
    /// Reads the form of a request. `has_authorization` tells whether it came with an `Authorization` header, which would
    /// be a second way to authenticate.
    pub fn parse(form: &[u8], has_authorization: bool) -> Result<Self, OAuthError> {
        let form = Form::parse(form)?;
        match form.get("grant_type") {
            None => return Err(OAuthError::InvalidRequest("grant_type is missing")),
            Some("client_credentials") => {}
            Some(_) => return Err(OAuthError::UnsupportedGrantType),
        }
        if has_authorization || form.get("client_secret").is_some() {
            return Err(OAuthError::InvalidRequest("authenticate in one way only: with client_assertion"));
        }
        let assertion = match (form.get("client_assertion_type"), form.get("client_assertion")) {
            (None, None) => return Err(OAuthError::InvalidClient),
            (Some(ASSERTION_TYPE), Some(assertion)) => assertion,
            (Some(_), Some(_)) => {
                return Err(OAuthError::InvalidRequest("client_assertion_type is not supported"));
            }
            (Some(_), None) => return Err(OAuthError::InvalidRequest("client_assertion is missing")),
            (None, Some(_)) => return Err(OAuthError::InvalidRequest("client_assertion_type is missing")),
        };
        let client_id = claimed_client_id(assertion)?;
        if form.get("client_id").is_some_and(|named| named != client_id) {
            return Err(OAuthError::InvalidClient);
        }
        Ok(Self { client_id, assertion: assertion.into(), scope: form.get("scope").map(str::to_owned) })
    }

    /// The assertion's text.
    pub fn assertion(&self) -> &str {
        self.assertion.expose_secret()
    }
}

/// The form a client posts to the token endpoint.
pub fn token_form(assertion: &SecretString, scopes: Option<ScopeSet>) -> SecretString {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "client_credentials")
        .append_pair("client_assertion_type", ASSERTION_TYPE)
        .append_pair("client_assertion", assertion.expose_secret());
    if let Some(scopes) = scopes {
        form.append_pair("scope", &scopes.to_string());
    }
    form.finish().into()
}

/// Which scopes a token gets: those asked for, if the client has them all; all it has when it asked for none.
pub fn grant_scopes(asked: Option<&str>, registered: ScopeSet) -> Result<ScopeSet, OAuthError> {
    let Some(asked) = asked else { return Ok(registered) };
    let asked = ScopeSet::parse(asked).map_err(|_| OAuthError::InvalidScope)?;
    if asked == ScopeSet::EMPTY || !asked.is_subset_of(registered) {
        return Err(OAuthError::InvalidScope);
    }
    Ok(asked)
}

/// The answer to a granted request. Answer with `Cache-Control: no-store`.
#[derive(Serialize)]
pub struct TokenResponse {
    access_token: String,
    token_type: &'static str,
    expires_in: u64,
    scope: String,
}

impl TokenResponse {
    /// From a token that was issued with `scopes`.
    pub fn new(issued: &crate::token::IssuedToken, scopes: ScopeSet) -> Self {
        Self {
            access_token: issued.token.expose_secret().to_owned(),
            token_type: "Bearer",
            expires_in: issued.expires_in_secs,
            scope: scopes.to_string(),
        }
    }
}

impl std::fmt::Debug for TokenResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenResponse").field("scope", &self.scope).finish_non_exhaustive()
    }
}

/// The metadata document of RFC 8414.
#[derive(Debug, Serialize)]
pub struct Metadata {
    issuer: String,
    token_endpoint: String,
    jwks_uri: String,
    grant_types_supported: [&'static str; 1],
    response_types_supported: [&'static str; 0],
    token_endpoint_auth_methods_supported: [&'static str; 1],
    token_endpoint_auth_signing_alg_values_supported: [&'static str; 3],
    scopes_supported: Vec<&'static str>,
}

impl Metadata {
    /// The document of `issuer`, an address without a slash at its end.
    pub fn new(issuer: &str) -> Self {
        Self {
            issuer: issuer.to_owned(),
            token_endpoint: format!("{issuer}{TOKEN_PATH}"),
            jwks_uri: format!("{issuer}{JWKS_PATH}"),
            grant_types_supported: ["client_credentials"],
            response_types_supported: [],
            token_endpoint_auth_methods_supported: ["private_key_jwt"],
            token_endpoint_auth_signing_alg_values_supported: Algorithm::ALL.map(Algorithm::name),
            scopes_supported: Scope::ALL.iter().map(|scope| scope.name()).collect(),
        }
    }
}

/// Form parameters, each present once at most (RFC 6749 §3.2) and without value as good as absent.
struct Form(Vec<(String, String)>);

impl Form {
    fn parse(form: &[u8]) -> Result<Self, OAuthError> {
        let mut fields: Vec<(String, String)> = Vec::new();
        for (name, value) in url::form_urlencoded::parse(form) {
            if fields.len() >= PARAMETERS_MAX {
                return Err(OAuthError::InvalidRequest("there are too many parameters"));
            }
            if fields.iter().any(|(other, _)| *other == name) {
                return Err(OAuthError::InvalidRequest("a parameter is repeated"));
            }
            fields.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(fields))
    }

    fn get(&self, wanted: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, value)| name == wanted && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }
}
