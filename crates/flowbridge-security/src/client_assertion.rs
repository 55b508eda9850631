//! Client authentication by signed assertion: `private_key_jwt` (RFC 7523, OpenID Connect Core §9) as FAPI 2.0 narrows it.
//!
//! The client proves that it holds its key by signing a short-lived statement addressed to us. The statement is worth
//! exactly one use: [`verify`] checks everything that can be checked alone and hands out an [`Unspent`] assertion, which
//! becomes an [`Authenticated`] client only by being spent at the [`ReplayGuard`] that all our processes share. If the guard
//! cannot be asked, nobody gets in.

use crate::jose::{self, JwsError, NumericDate};
use crate::jwk::PublicKeys;
use crate::keys::SigningKey;
use crate::{CryptoFailure, base64url, random_bytes, sha256_fields};
use flowbridge_domain::time::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

/// How far ahead an assertion's end may lie.
pub const LIFE_MAX: Duration = Duration::from_secs(600);
/// How far into the future `iat` and `nbf` may point. FAPI 2.0 §5.3.2.1: up to 10 s must pass, above 60 s must not.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(30);
const ASSERTION_ID_BYTES_MAX: usize = 256;
/// How long the assertions that we make ourselves live.
const OWN_LIFE: Duration = Duration::from_secs(60);
const TYPES: [&str; 2] = ["JWT", "client-authentication+jwt"];

/// Why an assertion does not prove who the client is. Outside all of it is one `invalid_client`; the difference is for
/// the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssertionError {
    /// Not signed with a key of this client, or not with an allowed header.
    #[error(transparent)]
    Jws(#[from] JwsError),
    /// The claims are not a JSON object, or one is repeated or of the wrong shape.
    #[error("the claims of the assertion are malformed")]
    Claims,
    /// A required claim is absent.
    #[error("the assertion has no {0}")]
    Missing(&'static str),
    /// `iss` is not the client.
    #[error("iss is not the client id")]
    Issuer,
    /// `sub` is not the client.
    #[error("sub is not the client id")]
    Subject,
    /// `aud` is not our issuer as one string: not a list, not the address of an endpoint.
    #[error("aud is not the issuer, as one string")]
    Audience,
    /// Past its end.
    #[error("the assertion has expired")]
    Expired,
    /// Ends later than [`LIFE_MAX`] from now.
    #[error("the assertion lives too long")]
    LifeTooLong,
    /// `iat` or `nbf` further ahead than [`CLOCK_SKEW_MAX`].
    #[error("the assertion is from the future")]
    NotYetValid,
    /// `jti` empty or beyond all measure.
    #[error("jti must have 1 to {ASSERTION_ID_BYTES_MAX} bytes")]
    Id,
    /// Used before.
    #[error("the assertion has been used before")]
    Replayed,
    /// Nobody could be asked whether it has been used: 503, try again with a new assertion.
    #[error("whether the assertion has been used before cannot be told now")]
    GuardUnavailable,
}

/// Remembers which assertions have been used, for all processes together.
#[async_trait::async_trait]
pub trait ReplayGuard: Send + Sync {
    /// Notes a use, durably enough that no other process takes the same assertion: `true` the first time, `false` every
    /// other. `digest` stands for client and `jti`; after `until` it may be forgotten.
    async fn first_use(&self, digest: [u8; 32], until: Timestamp) -> Result<bool, GuardUnavailable>;
}

/// The replay guard cannot answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the replay guard cannot be reached")]
pub struct GuardUnavailable;

/// An assertion that is right in itself but may have been used before.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "an assertion authenticates nobody until it has been spent"]
pub struct Unspent {
    client_id: String,
    digest: [u8; 32],
    expires_at: Timestamp,
}

/// A client that has proven who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authenticated {
    client_id: String,
}

impl Unspent {
    /// Uses the assertion up.
    pub async fn spend(self, guard: &dyn ReplayGuard) -> Result<Authenticated, AssertionError> {
        match guard.first_use(self.digest, self.expires_at).await {
            Ok(true) => Ok(Authenticated { client_id: self.client_id }),
            Ok(false) => Err(AssertionError::Replayed),
            Err(GuardUnavailable) => Err(AssertionError::GuardUnavailable),
        }
    }
}

impl Authenticated {
    /// The client.
    pub fn client_id(&self) -> &str {
        &self.client_id
    }
}

#[derive(Deserialize)]
struct Claims {
    iss: Option<String>,
    sub: Option<String>,
    aud: Option<Value>,
    jti: Option<String>,
    exp: Option<NumericDate>,
    iat: Option<NumericDate>,
    nbf: Option<NumericDate>,
}

/// Whom an assertion claims to come from: tells whose keys to fetch, proves nothing.
pub fn claimed_client_id(assertion: &str) -> Result<String, AssertionError> {
    let payload = jose::unverified_payload(assertion)?;
    let claims: Claims = serde_json::from_slice(&payload).map_err(|_| AssertionError::Claims)?;
    claims.sub.ok_or(AssertionError::Missing("sub"))
}

/// Checks an assertion of `client_id`, who registered `keys`, addressed to `issuer`.
pub fn verify(
    assertion: &str,
    client_id: &str,
    keys: &PublicKeys,
    issuer: &str,
    now: Timestamp,
) -> Result<Unspent, AssertionError> {
    let payload = jose::verify(assertion, keys, |kind| {
        kind.is_none_or(|kind| TYPES.iter().any(|wanted| jose::is_type(kind, wanted)))
    })?;
    let claims: Claims = serde_json::from_slice(&payload).map_err(|_| AssertionError::Claims)?;
    if claims.iss.ok_or(AssertionError::Missing("iss"))? != client_id {
        return Err(AssertionError::Issuer);
    }
    if claims.sub.ok_or(AssertionError::Missing("sub"))? != client_id {
        return Err(AssertionError::Subject);
    }
    // A list or an endpoint's address would let the same assertion be carried to another server.
    if claims.aud.ok_or(AssertionError::Missing("aud"))? != issuer {
        return Err(AssertionError::Audience);
    }
    let NumericDate(expires_at) = claims.exp.ok_or(AssertionError::Missing("exp"))?;
    if expires_at <= now {
        return Err(AssertionError::Expired);
    }
    if expires_at > now.plus(LIFE_MAX) {
        return Err(AssertionError::LifeTooLong);
    }
    let latest = now.plus(CLOCK_SKEW_MAX);
    if [claims.iat, claims.nbf].into_iter().flatten().any(|NumericDate(instant)| instant > latest) {
        return Err(AssertionError::NotYetValid);
    }
    let id = claims.jti.ok_or(AssertionError::Missing("jti"))?;
    if id.is_empty() || id.len() > ASSERTION_ID_BYTES_MAX {
        return Err(AssertionError::Id);
    }
    let digest = sha256_fields(&[client_id.as_bytes(), id.as_bytes()]);
    Ok(Unspent { client_id: client_id.to_owned(), digest, expires_at })
}

/// Makes an assertion: what a client sends to `issuer` to get a token. Each is good for one request.
pub fn make(
    client_id: &str,
    issuer: &str,
    key: &SigningKey,
    now: Timestamp,
) -> Result<SecretString, CryptoFailure> {
    #[derive(Serialize)]
    struct Own<'a> {
        iss: &'a str,
        sub: &'a str,
        aud: &'a str,
        jti: String,
        iat: NumericDate,
        exp: NumericDate,
    }
    let claims = Own {
        iss: client_id,
        sub: client_id,
        aud: issuer,
        jti: base64url(&random_bytes::<16>()?),
        iat: NumericDate(now),
        exp: NumericDate(now.plus(OWN_LIFE)),
    };
    Ok(jose::sign(key, TYPES[1], &claims)?.into())
}
