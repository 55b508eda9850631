//! Public keys as JSON Web Keys (RFC 7517, 7518, 8037): ours for others, and those that clients register with us.
//!
//! A set is read whole or refused whole: one private key in it, one unknown curve, one `kid` twice, and the person who
//! registers it hears which key is wrong while there is still somebody to correct it.

use crate::jose::Algorithm;
use crate::{base64url, from_base64url, sha256};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PSS_2048_8192_SHA256, RsaPublicKeyComponents,
};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Keys in one set at most.
pub const KEYS_MAX: usize = 16;
const KEY_ID_BYTES_MAX: usize = 256;
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// One public key as it is published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Jwk {
    kty: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    crv: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(rename = "use")]
    purpose: &'static str,
    alg: &'static str,
    kid: String,
}

impl Jwk {
    /// An Ed25519 public key (32 bytes); its `kid` is its thumbprint.
    pub(crate) fn ed25519(public: &[u8]) -> Self {
        let x = base64url(public);
        Self {
            kty: "OKP",
            crv: Some("Ed25519"),
            kid: okp_thumbprint(&x),
            x: Some(x),
            y: None,
            purpose: "sig",
            alg: Algorithm::EdDsa.name(),
        }
    }

    /// A P-256 public key as an uncompressed point (65 bytes); its `kid` is its thumbprint.
    pub(crate) fn p256(point: &[u8]) -> Self {
        let (x, y) = point.get(1..).unwrap_or_default().split_at(32.min(point.len().saturating_sub(1)));
        let (x, y) = (base64url(x), base64url(y));
        Self {
            kty: "EC",
            crv: Some("P-256"),
            kid: ec_thumbprint(&x, &y),
            x: Some(x),
            y: Some(y),
            purpose: "sig",
            alg: Algorithm::Es256.name(),
        }
    }

    /// The key's id: its thumbprint by RFC 7638.
    pub fn key_id(&self) -> &str {
        &self.kid
    }
}

/// A set of public keys in the form that is published: `{"keys": [...]}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JwkSet {
    /// The keys.
    pub keys: Vec<Jwk>,
}

// RFC 7638 §3: the required members only, in the order of their names, without spaces.
fn okp_thumbprint(x: &str) -> String {
    base64url(&sha256(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#).as_bytes()))
}

fn ec_thumbprint(x: &str, y: &str) -> String {
    base64url(&sha256(format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#).as_bytes()))
}

fn rsa_thumbprint(n: &str, e: &str) -> String {
    base64url(&sha256(format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#).as_bytes()))
}

/// Public keys to verify signatures with.
#[derive(Debug, Default)]
pub struct PublicKeys(Vec<PublicKey>);

#[derive(Debug)]
struct PublicKey {
    id: String,
    algorithm: Algorithm,
    key: ParsedPublicKey,
}

/// Why a key set is refused; `index` counts from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// Not `{"keys": [...]}`, or a member twice.
    #[error("not a JSON Web Key Set: {0}")]
    Malformed(String),
    /// No key, or more than [`KEYS_MAX`].
    #[error("a key set has 1 to {KEYS_MAX} keys")]
    Count,
    /// Private or shared secret material was sent.
    #[error("key {index} contains private material: register the public key only, and replace this key")]
    Private {
        /// Place in the set.
        index: usize,
    },
    /// Two keys under one name.
    #[error("key {index} has the kid of another key")]
    DuplicateKeyId {
        /// Place in the set.
        index: usize,
    },
    /// A key that cannot be used here.
    #[error("key {index}: {why}")]
    Unusable {
        /// Place in the set.
        index: usize,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl PublicKeys {
    /// Reads a JWK set of public signature keys: P-256, Ed25519, and RSA of 2048 to 8192 bits. A key without `kid` gets
    /// its thumbprint for one.
    pub fn from_jwks(json: &str) -> Result<Self, JwksError> {
        let set: RawSet<'_> =
            serde_json::from_str(json).map_err(|error| JwksError::Malformed(error.to_string()))?;
        if set.keys.is_empty() || set.keys.len() > KEYS_MAX {
            return Err(JwksError::Count);
        }
        let mut keys = Self(Vec::with_capacity(set.keys.len()));
        for (index, raw) in set.keys.iter().enumerate() {
            if raw.has_private_member() {
                return Err(JwksError::Private { index });
            }
            let key = raw.parse().map_err(|why| JwksError::Unusable { index, why })?;
            if keys.0.iter().any(|other| other.id == key.id) {
                return Err(JwksError::DuplicateKeyId { index });
            }
            keys.0.push(key);
        }
        Ok(keys)
    }

    /// The key that a header means: same `kid` and fit for its `alg`; without `kid`, the only one fit for its `alg`.
    pub(crate) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&ParsedPublicKey> {
        let mut fitting =
            self.0.iter().filter(|key| key.algorithm == algorithm && id.is_none_or(|id| key.id == id));
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Some(&key.key),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
struct RawSet<'a> {
    #[serde(borrow)]
    keys: Vec<RawJwk<'a>>,
}

/// Listing the members we refuse makes the derived reader refuse them twice over: also when they are repeated.
#[derive(Deserialize)]
struct RawJwk<'a> {
    #[serde(borrow)]
    kty: Cow<'a, str>,
    #[serde(borrow)]
    kid: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "use")]
    purpose: Option<Cow<'a, str>>,
    #[serde(borrow)]
    alg: Option<Cow<'a, str>>,
    #[serde(borrow)]
    crv: Option<Cow<'a, str>>,
    #[serde(borrow)]
    x: Option<Cow<'a, str>>,
    #[serde(borrow)]
    y: Option<Cow<'a, str>>,
    #[serde(borrow)]
    n: Option<Cow<'a, str>>,
    #[serde(borrow)]
    e: Option<Cow<'a, str>>,
    x5u: Option<IgnoredAny>,
    d: Option<IgnoredAny>,
    p: Option<IgnoredAny>,
    q: Option<IgnoredAny>,
    dp: Option<IgnoredAny>,
    dq: Option<IgnoredAny>,
    qi: Option<IgnoredAny>,
    oth: Option<IgnoredAny>,
    k: Option<IgnoredAny>,
}

impl RawJwk<'_> {
    fn has_private_member(&self) -> bool {
        [&self.d, &self.p, &self.q, &self.dp, &self.dq, &self.qi, &self.oth, &self.k]
            .into_iter()
            .any(Option::is_some)
    }

    fn parse(&self) -> Result<PublicKey, &'static str> {
        if self.x5u.is_some() {
            return Err("x5u is not followed; send the key itself");
        }
        if self.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
            return Err("use must be sig");
        }
        let (algorithm, thumbprint, key) = self.material()?;
        if self.alg.as_deref().is_some_and(|name| name != algorithm.name()) {
            return Err("alg must be PS256 for RSA, ES256 for P-256, EdDSA for Ed25519");
        }
        let id = self.kid.as_deref().map_or(thumbprint, str::to_owned);
        if id.is_empty() || id.len() > KEY_ID_BYTES_MAX {
            return Err("kid must have 1 to 256 bytes");
        }
        Ok(PublicKey { id, algorithm, key })
    }

    fn material(&self) -> Result<(Algorithm, String, ParsedPublicKey), &'static str> {
        let member = |member: &Option<Cow<'_, str>>| {
            let text = member.as_deref().ok_or("a required member is missing")?;
            Ok::<_, &'static str>((from_base64url(text).ok_or("a member is not base64url")?, text.to_owned()))
        };
        match (&*self.kty, self.crv.as_deref()) {
            ("OKP", Some("Ed25519")) => {
                let (bytes, x) = member(&self.x)?;
                let key =
                    ParsedPublicKey::new(&ED25519, bytes).map_err(|_| "x is not an Ed25519 public key")?;
                Ok((Algorithm::EdDsa, okp_thumbprint(&x), key))
            }
            ("EC", Some("P-256")) => {
                let ((left, x), (right, y)) = (member(&self.x)?, member(&self.y)?);
                if left.len() != 32 || right.len() != 32 {
                    return Err("x and y must have 32 bytes each");
                }
                let point = [&[4][..], &left, &right].concat();
                let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
                    .map_err(|_| "x and y are not a point on P-256")?;
                Ok((Algorithm::Es256, ec_thumbprint(&x, &y), key))
            }
            ("RSA", None) => {
                let ((n, n_text), (e, e_text)) = (member(&self.n)?, member(&self.e)?);
                let leading_zeros = n.first().map_or(0, |byte| byte.leading_zeros() as usize);
                if !RSA_BITS.contains(&(n.len() * 8).saturating_sub(leading_zeros)) {
                    return Err("an RSA key must have 2048 to 8192 bits");
                }
                let key = RsaPublicKeyComponents { n: &n, e: &e }
                    .to_parsed_public_key(&RSA_PSS_2048_8192_SHA256)
                    .map_err(|_| "n and e are not an RSA public key")?;
                Ok((Algorithm::Ps256, rsa_thumbprint(&n_text, &e_text), key))
            }
            _ => Err("only RSA, EC on P-256 and OKP on Ed25519 are accepted"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7638 §3.1.
    #[test]
    fn thumbprint_of_the_rsa_key_in_rfc_7638() {
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        assert_eq!(rsa_thumbprint(n, "AQAB"), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    /// RFC 8037 appendix A.3.
    #[test]
    fn thumbprint_of_the_ed25519_key_in_rfc_8037() {
        assert_eq!(
            okp_thumbprint("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"),
            "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
        );
    }

    /// RFC 8037 appendix A.4 and A.5.
    #[test]
    fn signature_of_the_ed25519_example_in_rfc_8037() {
        let keys = PublicKeys::from_jwks(
            r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#,
        )
        .unwrap();
        let token = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        let payload = crate::jose::verify(token, &keys, |kind| kind.is_none()).unwrap();
        assert_eq!(payload, b"Example of Ed25519 signing");
    }

    const ED: &str = r#""kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#;

    #[test]
    fn a_key_set_is_refused_whole_and_says_why() {
        let refused = |json: String| PublicKeys::from_jwks(&json).unwrap_err();
        assert_eq!(refused(r#"{"keys":[]}"#.into()), JwksError::Count);
        assert_eq!(
            refused(format!(
                r#"{{"keys":[{{{ED}}},{{{ED},"d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}}]}}"#
            )),
            JwksError::Private { index: 1 }
        );
        assert_eq!(
            refused(r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#.into()),
            JwksError::Private { index: 0 }
        );
        assert_eq!(
            refused(format!(r#"{{"keys":[{{{ED}}},{{{ED}}}]}}"#)),
            JwksError::DuplicateKeyId { index: 1 }
        );
        for (members, hint) in [
            (format!(r#"{ED},"use":"enc""#), "use"),
            (format!(r#"{ED},"alg":"ES256""#), "alg"),
            (format!(r#"{ED},"x5u":"https://example.com""#), "x5u"),
            (r#""kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg""#.into(), "Ed25519"),
            (
                r#""kty":"OKP","crv":"X25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#.into(),
                "only",
            ),
            (format!(r#""kty":"EC","crv":"P-256","x":"{0}","y":"{0}""#, "A".repeat(43)), "point"),
            (format!(r#""kty":"RSA","e":"AQAB","n":"{}""#, base64url(&[0xc3; 128])), "2048"),
        ] {
            let error = refused(format!(r#"{{"keys":[{{{members}}}]}}"#));
            assert!(
                matches!(error, JwksError::Unusable { index: 0, why } if why.contains(hint)),
                "{error:?}"
            );
        }
        assert!(matches!(refused(format!(r#"{{"keys":[{{{ED},"x":"AA"}}]}}"#)), JwksError::Malformed(_)));
    }
}
