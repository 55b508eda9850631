//! Access tokens: JWTs by RFC 9068 that live for five minutes at most.
//!
//! A token is checked on every request without asking anybody: signature, type, issuer, audience, times, then the deny
//! list. A signature costs some fifty microseconds and clients send one token hundreds of times, so tokens whose signature
//! has been verified are remembered by their SHA-256. The memory is bounded, holds verified tokens only (nobody can fill
//! it with rubbish), and answers for signature and claims alone: times and the deny list are looked at every time.
//!
//! A token that was granted cannot be called back, only denied: to the clients on the [`DenyList`]. The list is per process; whoever
//! runs several keeps each up to date from the same source.

use crate::jose::{self, JwsError, NumericDate};
use crate::jwk::PublicKeys;
use crate::keys::SigningKey;
use crate::scope::{Scope, ScopeSet};
use crate::{CryptoFailure, base64url, random_bytes, sha256};
use flowbridge_domain::id::ParticipantId;
use flowbridge_domain::time::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

/// The longest life of a token.
pub const TOKEN_LIFE_MAX: Duration = Duration::from_secs(300);
/// By how much the clocks of two of our machines may differ.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(10);
/// Half of the verified tokens that are remembered. At about 700 bytes each, some 12 MB in all.
const REMEMBERED_HALF_MAX: usize = 8 * 1024;
const TOKEN_TYPE: &str = "at+jwt";

/// What a verified token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessClaims {
    /// The client that holds the token.
    pub client_id: String,
    /// The participant it acts for; none for our own operators and roles.
    pub participant: Option<ParticipantId>,
    /// What it may do.
    pub scopes: ScopeSet,
    /// The token's own id.
    pub token_id: String,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// From when on it is worthless.
    pub expires_at: Timestamp,
    not_before: Timestamp,
}

/// The token does not allow this (403 `insufficient_scope`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the access token lacks the scope {}", .0.name())]
pub struct InsufficientScope(pub Scope);

impl AccessClaims {
    /// Demands a scope.
    pub fn require(&self, scope: Scope) -> Result<(), InsufficientScope> {
        if self.scopes.contains(scope) { Ok(()) } else { Err(InsufficientScope(scope)) }
    }
}

/// Why a token is not accepted. All of it is 401 `invalid_token` outside; the difference is for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not signed by us, or no access token.
    #[error(transparent)]
    Jws(#[from] JwsError),
    /// A claim is missing, repeated or of the wrong shape.
    #[error("the claims are not those of an access token")]
    Claims,
    /// Another issuer's.
    #[error("the token is from another issuer")]
    Issuer,
    /// For another service.
    #[error("the token is for another audience")]
    Audience,
    /// Past its end.
    #[error("the token has expired")]
    Expired,
    /// Not begun yet.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// Lives longer than [`TOKEN_LIFE_MAX`]: not one of ours, whoever signed it.
    #[error("the token lives too long")]
    LifeTooLong,
    /// Bound to a key or certificate (`cnf`): worth nothing as a bearer token.
    #[error("the token is bound to a key and cannot be used as a bearer token")]
    Bound,
    /// Its client is on the deny list.
    #[error("the token has been revoked")]
    Revoked,
}

#[derive(Serialize, Deserialize)]
struct Claims<'a> {
    #[serde(borrow)]
    iss: Cow<'a, str>,
    #[serde(borrow)]
    sub: Cow<'a, str>,
    aud: Audience,
    #[serde(borrow)]
    client_id: Cow<'a, str>,
    iat: NumericDate,
    exp: NumericDate,
    #[serde(skip_serializing_if = "Option::is_none")]
    nbf: Option<NumericDate>,
    #[serde(borrow)]
    jti: Cow<'a, str>,
    #[serde(borrow)]
    scope: Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    participant: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cnf: Option<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn contains(&self, wanted: &str) -> bool {
        match self {
            Self::One(audience) => audience == wanted,
            Self::Many(audiences) => audiences.iter().any(|audience| audience == wanted),
        }
    }
}

/// Issues tokens.
#[derive(Debug)]
pub struct TokenIssuer {
    issuer: String,
    audience: String,
    life: Duration,
    key: SigningKey,
}

/// A token on its way to its client.
#[derive(Debug)]
pub struct IssuedToken {
    /// The token. Whoever has it, may.
    pub token: SecretString,
    /// Seconds until it expires.
    pub expires_in_secs: u64,
    /// Its id, for the log.
    pub token_id: String,
}

impl TokenIssuer {
    /// Issues tokens of `issuer` for `audience`, signed with `key`; `life` is cut to [`TOKEN_LIFE_MAX`].
    pub fn new(issuer: &str, audience: &str, life: Duration, key: SigningKey) -> Self {
        Self { issuer: issuer.into(), audience: audience.into(), life: life.min(TOKEN_LIFE_MAX), key }
    }

    /// A token for `client_id`, acting for `participant`, with `scopes`.
    pub fn issue(
        &self,
        client_id: &str,
        participant: Option<ParticipantId>,
        scopes: ScopeSet,
        now: Timestamp,
    ) -> Result<IssuedToken, CryptoFailure> {
        let token_id = base64url(&random_bytes::<16>()?);
        let claims = Claims {
            iss: (&*self.issuer).into(),
            sub: client_id.into(),
            aud: Audience::One(self.audience.clone()),
            client_id: client_id.into(),
            iat: NumericDate(now),
            exp: NumericDate(now.plus(self.life)),
            nbf: None,
            jti: (&*token_id).into(),
            scope: scopes.to_string().into(),
            participant: participant.map(|id| id.to_string().into()),
            cnf: None,
        };
        let token = jose::sign(&self.key, TOKEN_TYPE, &claims)?.into();
        Ok(IssuedToken { token, expires_in_secs: self.life.as_secs(), token_id })
    }
}

/// Verifies tokens; shared by all requests of a process.
#[derive(Debug)]
pub struct TokenVerifier {
    issuer: String,
    audience: String,
    keys: PublicKeys,
    deny_list: Arc<DenyList>,
    verified: Mutex<Verified>,
}

impl TokenVerifier {
    /// Accepts tokens of `issuer` for `audience`, signed with one of `keys`, whose client is not on `deny_list`.
    pub fn new(issuer: &str, audience: &str, keys: PublicKeys, deny_list: Arc<DenyList>) -> Self {
        Self { issuer: issuer.into(), audience: audience.into(), keys, deny_list, verified: Mutex::default() }
    }

    /// Verifies the token of a request.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Arc<AccessClaims>, TokenError> {
        let digest = sha256(token.as_bytes());
        let known = self.verified.lock().unwrap_or_else(PoisonError::into_inner).get(&digest);
        let is_new = known.is_none();
        let claims = match known {
            Some(claims) => claims,
            None => Arc::new(self.read(token)?),
        };
        check_times(&claims, now)?;
        if self.deny_list.denies(&claims) {
            return Err(TokenError::Revoked);
        }
        if is_new {
            let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
            verified.insert(digest, Arc::clone(&claims));
        }
        Ok(claims)
    }

    /// How many verified tokens are remembered now.
    pub fn remembered(&self) -> usize {
        let verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        verified.younger.len() + verified.older.len()
    }

    /// All that does not change with time.
    fn read(&self, token: &str) -> Result<AccessClaims, TokenError> {
        let payload =
            jose::verify(token, &self.keys, |kind| kind.is_some_and(|kind| jose::is_type(kind, TOKEN_TYPE)))?;
        let claims: Claims<'_> = serde_json::from_slice(&payload).map_err(|_| TokenError::Claims)?;
        if claims.iss != self.issuer {
            return Err(TokenError::Issuer);
        }
        if !claims.aud.contains(&self.audience) {
            return Err(TokenError::Audience);
        }
        if claims.cnf.is_some() {
            return Err(TokenError::Bound);
        }
        let participant = claims.participant.as_deref().map(ParticipantId::parse).transpose();
        // With client credentials the client is its own subject (RFC 9068 §2.2).
        if claims.sub != claims.client_id || claims.client_id.is_empty() || claims.jti.is_empty() {
            return Err(TokenError::Claims);
        }
        Ok(AccessClaims {
            participant: participant.map_err(|_| TokenError::Claims)?,
            scopes: ScopeSet::parse(&claims.scope).map_err(|_| TokenError::Claims)?,
            issued_at: claims.iat.0,
            expires_at: claims.exp.0,
            not_before: claims.nbf.map_or(claims.iat.0, |nbf| nbf.0.max(claims.iat.0)),
            token_id: claims.jti.into_owned(),
            client_id: claims.client_id.into_owned(),
        })
    }
}

fn check_times(claims: &AccessClaims, now: Timestamp) -> Result<(), TokenError> {
    if claims.expires_at <= now {
        return Err(TokenError::Expired);
    }
    if claims.not_before > now.plus(CLOCK_SKEW_MAX) {
        return Err(TokenError::NotYetValid);
    }
    if claims.expires_at.since(claims.issued_at) > TOKEN_LIFE_MAX {
        return Err(TokenError::LifeTooLong);
    }
    Ok(())
}

/// Two generations: when the younger is full it becomes the older and the older is forgotten. Bounded, no scan, and a
/// token in use stays, because a hit in the older generation brings it back into the younger.
#[derive(Debug, Default)]
struct Verified {
    younger: HashMap<[u8; 32], Arc<AccessClaims>>,
    older: HashMap<[u8; 32], Arc<AccessClaims>>,
}

impl Verified {
    fn get(&mut self, digest: &[u8; 32]) -> Option<Arc<AccessClaims>> {
        if let Some(claims) = self.younger.get(digest) {
            return Some(Arc::clone(claims));
        }
        let claims = self.older.remove(digest)?;
        self.insert(*digest, Arc::clone(&claims));
        Some(claims)
    }

    fn insert(&mut self, digest: [u8; 32], claims: Arc<AccessClaims>) {
        if self.younger.len() >= REMEMBERED_HALF_MAX {
            self.older = std::mem::take(&mut self.younger);
        }
        self.younger.insert(digest, claims);
    }
}

/// Clients that are no longer welcome although tokens of theirs have not expired.
#[derive(Debug, Default)]
pub struct DenyList(RwLock<HashSet<String>>);

impl DenyList {
    /// Refuses every token of these clients from now on, and of no others.
    pub fn replace(&self, clients: HashSet<String>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = clients;
    }

    fn denies(&self, claims: &AccessClaims) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(&claims.client_id)
    }
}

/// The token in an `Authorization` header: scheme `Bearer` in any case, then one token (RFC 6750 §2.1). Tokens in a query
/// or a form are not looked for.
pub fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    let token = token.trim_start_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && !token.contains(' ')).then_some(token)
}
