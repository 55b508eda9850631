//! Compact JSON Web Signatures (RFC 7515) for three algorithms, with a strict header.
//!
//! A verifier that does what the header says can be led astray: other keys (`jwk`, `jku`, `x5u`, `x5c`), other rules
//! (`crit`, `b64`), another algorithm, another kind of token (`typ`). So the header is read first, member by member, and
//! may only choose among what the verifier already holds; nothing else is decoded before that. RFC 8725 §3.

use crate::jwk::PublicKeys;
use crate::keys::SigningKey;
use crate::{CryptoFailure, base64url, from_base64url};
use flowbridge_domain::time::Timestamp;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;
use std::fmt;

/// The longest token that is looked at, in bytes.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// The signature algorithms FAPI 2.0 allows, by their JOSE names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519 (RFC 8037).
    EdDsa,
    /// RSASSA-PSS with SHA-256. For clients' assertions only; we never sign with it.
    Ps256,
}

impl Algorithm {
    /// All of them, for metadata documents.
    pub const ALL: [Self; 3] = [Self::Ps256, Self::Es256, Self::EdDsa];

    /// The name in a header's `alg`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
            Self::Ps256 => "PS256",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }
}

/// Why a token is not a signature by one of the keys that count. Says nothing of use to an attacker, but callers
/// outside get one coarse answer all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    /// Longer than [`TOKEN_BYTES_MAX`].
    #[error("the token is longer than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    /// Not three base64url parts with JSON objects in the first two.
    #[error("the token is not a compact JWS")]
    Malformed,
    /// The header names one member twice: two readers could read two things.
    #[error("the header has a member twice")]
    DuplicateMember,
    /// The header wants to bring its own key or rules.
    #[error("the header must not have {0}")]
    ForbiddenMember(&'static str),
    /// `alg` is absent or not one of [`Algorithm`].
    #[error("the algorithm is not allowed")]
    Algorithm,
    /// `typ` is that of another kind of token.
    #[error("the token is of another type")]
    Type,
    /// No key, or more than one, fits `kid` and `alg`.
    #[error("no key fits the header")]
    UnknownKey,
    /// The signature does not verify.
    #[error("the signature does not verify")]
    Signature,
}

/// What a header may say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// `alg`.
    pub algorithm: Algorithm,
    /// `typ` as written.
    pub kind: Option<String>,
    /// `kid`.
    pub key_id: Option<String>,
}

const FORBIDDEN: [&str; 7] = ["crit", "jku", "x5u", "x5c", "jwk", "b64", "zip"];

/// Reads the header part of a token (base64url text). Members we do not know are ignored, as RFC 7515 §4 wants it,
/// except those that would change which key or rules apply.
pub fn strict_header(part: &str) -> Result<Header, JwsError> {
    let json = from_base64url(part).ok_or(JwsError::Malformed)?;
    let Members(members) = serde_json::from_slice(&json).map_err(|_| JwsError::Malformed)?;
    let mut names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(JwsError::DuplicateMember);
    }
    if let Some(name) = FORBIDDEN.into_iter().find(|name| names.binary_search(name).is_ok()) {
        return Err(JwsError::ForbiddenMember(name));
    }
    let text = |wanted: &str| match members.iter().find(|(name, _)| name == wanted) {
        None => Ok(None),
        Some((_, Value::String(text))) => Ok(Some(text.as_str())),
        Some(_) => Err(JwsError::Malformed),
    };
    Ok(Header {
        algorithm: text("alg")?.and_then(Algorithm::parse).ok_or(JwsError::Algorithm)?,
        kind: text("typ")?.map(str::to_owned),
        key_id: text("kid")?.map(str::to_owned),
    })
}

/// Whether a media type of a header's `typ` is `wanted`: case does not count and `application/` may be left out
/// (RFC 7515 §4.1.9).
pub(crate) fn is_type(kind: &str, wanted: &str) -> bool {
    let kind = match kind.get(..12) {
        Some(prefix) if prefix.eq_ignore_ascii_case("application/") => &kind[12..],
        _ => kind,
    };
    kind.eq_ignore_ascii_case(wanted)
}

/// Verifies a compact JWS with one of `keys` and returns its payload. `kind_fits` judges the header's `typ`.
pub(crate) fn verify(
    token: &str,
    keys: &PublicKeys,
    kind_fits: impl Fn(Option<&str>) -> bool,
) -> Result<Vec<u8>, JwsError> {
    let (header, payload, signed, signature) = parts(token)?;
    let header = strict_header(header)?;
    if !kind_fits(header.kind.as_deref()) {
        return Err(JwsError::Type);
    }
    let key = keys.find(header.key_id.as_deref(), header.algorithm).ok_or(JwsError::UnknownKey)?;
    let signature = from_base64url(signature).ok_or(JwsError::Malformed)?;
    key.verify_sig(signed.as_bytes(), &signature).map_err(|_| JwsError::Signature)?;
    from_base64url(payload).ok_or(JwsError::Malformed)
}

/// The payload of a token nobody has verified yet; good for finding whose keys to verify it with, and for nothing else.
pub(crate) fn unverified_payload(token: &str) -> Result<Vec<u8>, JwsError> {
    let (_, payload, ..) = parts(token)?;
    from_base64url(payload).ok_or(JwsError::Malformed)
}

/// Signs a JSON payload.
pub(crate) fn sign(
    key: &SigningKey,
    kind: &str,
    payload: &impl serde::Serialize,
) -> Result<String, CryptoFailure> {
    let header = serde_json::json!({ "alg": key.algorithm().name(), "typ": kind, "kid": key.key_id() });
    let payload = serde_json::to_vec(payload).map_err(|_| CryptoFailure)?;
    let mut token = format!("{}.{}", base64url(header.to_string().as_bytes()), base64url(&payload));
    let signature = key.sign(token.as_bytes())?;
    token.push('.');
    token.push_str(&base64url(signature.as_ref()));
    Ok(token)
}

/// (header, payload, header and payload, signature)
fn parts(token: &str) -> Result<(&str, &str, &str, &str), JwsError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(JwsError::TooLong);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(JwsError::Malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(JwsError::Malformed)?;
    if payload.contains('.') {
        return Err(JwsError::Malformed);
    }
    Ok((header, payload, signed, signature))
}

/// A JSON object with its members in order, repeated ones kept.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// A date of RFC 7519 §2: seconds since the epoch, possibly with a fraction (Python's `time.time()` is common).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NumericDate(pub(crate) Timestamp);

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        // Year 2255: far beyond any token, and exact in microseconds.
        if !(0.0..=9_007_199_254.0).contains(&seconds) {
            return Err(D::Error::custom("a date out of range"));
        }
        Ok(Self(Timestamp::from_micros((seconds * 1e6) as i64)))
    }
}

impl serde::Serialize for NumericDate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(self.0.as_secs_down())
    }
}
