//! Signatures on webhooks, by Standard Webhooks: `v1` (HMAC-SHA256, secret `whsec_…`) and `v1a` (Ed25519, public key
//! `whpk_…`) side by side, so that a receiver may check whichever it likes.
//!
//! What is signed is `id.timestamp.body`: an id with a dot in it could move the borders, so only ids without one are
//! signed. During a rotation a message carries the signatures of the new and of the old keys; a receiver accepts one that
//! fits. Each endpoint has keys of its own.

use crate::sealing::{OpenError, Sealed, SealingKeys};
use crate::{CryptoFailure, random_bytes};
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flowbridge_domain::id::WebhookEndpointId;
use flowbridge_domain::time::Timestamp;
use secrecy::SecretString;
use std::fmt;
use std::time::Duration;
use zeroize::Zeroizing;

/// Header with the message's id, the same over all attempts.
pub const ID_HEADER: &str = "webhook-id";
/// Header with the attempt's time, in seconds since the epoch.
pub const TIMESTAMP_HEADER: &str = "webhook-timestamp";
/// Header with the signatures, separated by spaces.
pub const SIGNATURE_HEADER: &str = "webhook-signature";
/// How far a receiver lets `webhook-timestamp` be from its own clock.
pub const TOLERANCE: Duration = Duration::from_secs(300);

const SECRET_PREFIX: &str = "whsec_";
const PRIVATE_PREFIX: &str = "whsk_";
const PUBLIC_PREFIX: &str = "whpk_";
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// The keys of one endpoint: a shared secret and a key pair.
pub struct EndpointKeys {
    secret: Zeroizing<Vec<u8>>,
    seed: Zeroizing<[u8; 32]>,
    hmac: hmac::Key,
    pair: Ed25519KeyPair,
}

/// A text or some bytes that are no webhook key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a webhook key: whsec_ with 24 to 64 bytes, whsk_ or whpk_ with 32, in base64")]
pub struct InvalidKey;

impl EndpointKeys {
    /// New keys.
    pub fn generate() -> Result<Self, CryptoFailure> {
        let (secret, seed) = (Zeroizing::new(random_bytes::<32>()?), Zeroizing::new(random_bytes::<32>()?));
        Self::from_stored(&secret[..], &seed[..]).map_err(|InvalidKey| CryptoFailure)
    }

    /// From what [`EndpointKeys::secret_bytes`] and [`EndpointKeys::seed`] gave.
    pub fn from_stored(secret: &[u8], seed: &[u8]) -> Result<Self, InvalidKey> {
        if !SECRET_BYTES.contains(&secret.len()) {
            return Err(InvalidKey);
        }
        Ok(Self {
            secret: Zeroizing::new(secret.to_vec()),
            seed: Zeroizing::new(seed.try_into().map_err(|_| InvalidKey)?),
            hmac: hmac::Key::new(hmac::HMAC_SHA256, secret),
            pair: Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| InvalidKey)?,
        })
    }

    /// From the texts `whsec_…` and `whsk_…`.
    pub fn parse(secret: &str, private: &str) -> Result<Self, InvalidKey> {
        let secret = Zeroizing::new(decode(secret, SECRET_PREFIX)?);
        let seed = Zeroizing::new(decode(private, PRIVATE_PREFIX)?);
        Self::from_stored(&secret, &seed)
    }

    /// Both, sealed for their endpoint, to be stored.
    pub fn seal(&self, endpoint: WebhookEndpointId, keys: &SealingKeys) -> Result<Sealed, CryptoFailure> {
        let both = Zeroizing::new([&self.secret[..], &self.seed[..]].concat());
        keys.seal(&place(endpoint), &both)
    }

    /// What [`EndpointKeys::seal`] sealed for this endpoint.
    pub fn open(sealed: &Sealed, endpoint: WebhookEndpointId, keys: &SealingKeys) -> Result<Self, OpenError> {
        let both = keys.open(&place(endpoint), sealed)?;
        let (secret, seed) = both.split_last_chunk::<32>().ok_or(OpenError::Damaged)?;
        Self::from_stored(secret, seed).map_err(|InvalidKey| OpenError::Damaged)
    }

    /// The shared secret, to be stored.
    pub fn secret_bytes(&self) -> &[u8] {
        &self.secret
    }

    /// The seed of the key pair, to be stored.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// The shared secret as its receiver gets it, once: `whsec_…`.
    pub fn secret_text(&self) -> SecretString {
        format!("{SECRET_PREFIX}{}", STANDARD.encode(&*self.secret)).into()
    }

    /// The public key, for anybody: `whpk_…`.
    pub fn public_text(&self) -> String {
        format!("{PUBLIC_PREFIX}{}", STANDARD.encode(self.pair.public_key().as_ref()))
    }
}

fn place(endpoint: WebhookEndpointId) -> Vec<u8> {
    [b"webhook endpoint ", &endpoint.as_uuid().into_bytes()[..]].concat()
}

impl fmt::Debug for EndpointKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndpointKeys({})", self.public_text())
    }
}

/// One attempt to deliver one message: what the three headers and the body are made from.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// The message's id, the same over all attempts.
    pub id: &'a str,
    /// When this attempt is made.
    pub at: Timestamp,
    /// The body, byte for byte as it is sent.
    pub body: &'a [u8],
}

/// Why an attempt is not signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The id could be mistaken for something else.
    #[error("a message id has 1 to 256 letters, digits, hyphens and underscores")]
    Id,
    /// The library failed.
    #[error(transparent)]
    Crypto(#[from] CryptoFailure),
}

impl Attempt<'_> {
    /// The value of `webhook-signature`: a `v1` and a `v1a` signature for each of `keys`, the newest first.
    pub fn signatures(&self, keys: &[&EndpointKeys]) -> Result<String, SignError> {
        let message = self.signed_bytes().ok_or(SignError::Id)?;
        let mut list = String::with_capacity(keys.len() * 140);
        for keys in keys {
            let symmetric = hmac::sign(&keys.hmac, &message);
            let asymmetric = keys.pair.try_sign(&message).map_err(CryptoFailure::from)?;
            for (version, signature) in [("v1", symmetric.as_ref()), ("v1a", asymmetric.as_ref())] {
                if !list.is_empty() {
                    list.push(' ');
                }
                list.push_str(version);
                list.push(',');
                STANDARD.encode_string(signature, &mut list);
            }
        }
        Ok(list)
    }

    /// The value of `webhook-timestamp`.
    pub fn timestamp(&self) -> String {
        self.at.as_secs_down().to_string()
    }

    fn signed_bytes(&self) -> Option<Vec<u8>> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if self.id.is_empty() || self.id.len() > 256 || !self.id.bytes().all(fits) {
            return None;
        }
        Some([self.id.as_bytes(), b".", self.timestamp().as_bytes(), b".", self.body].concat())
    }
}

/// What a receiver checks a delivery with.
#[derive(Clone)]
pub enum Verifier {
    /// `v1`, with the shared secret.
    Secret(Box<hmac::Key>),
    /// `v1a`, with the sender's public key.
    PublicKey([u8; 32]),
}

/// Why a receiver should not believe a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// A header is absent or no id, no number, no list of signatures.
    #[error("the webhook headers are malformed")]
    Malformed,
    /// Too old, or from the future: perhaps recorded and sent again.
    #[error("webhook-timestamp is further from now than {} s", TOLERANCE.as_secs())]
    Timestamp,
    /// No signature in the list fits.
    #[error("no signature fits")]
    Signature,
}

impl Verifier {
    /// From `whsec_…` or `whpk_…`.
    pub fn parse(key: &str) -> Result<Self, InvalidKey> {
        if key.starts_with(PUBLIC_PREFIX) {
            return Ok(Self::PublicKey(decode(key, PUBLIC_PREFIX)?.try_into().map_err(|_| InvalidKey)?));
        }
        let secret = Zeroizing::new(decode(key, SECRET_PREFIX)?);
        if !SECRET_BYTES.contains(&secret.len()) {
            return Err(InvalidKey);
        }
        Ok(Self::Secret(Box::new(hmac::Key::new(hmac::HMAC_SHA256, &secret))))
    }

    /// Checks a delivery from its three headers and its body, in constant time.
    pub fn verify(
        &self,
        id: &str,
        timestamp: &str,
        signatures: &str,
        body: &[u8],
        now: Timestamp,
    ) -> Result<(), VerifyError> {
        let seconds: i64 = timestamp.parse().map_err(|_| VerifyError::Malformed)?;
        let attempt = Attempt { id, at: Timestamp::from_secs(seconds), body };
        let message = attempt.signed_bytes().ok_or(VerifyError::Malformed)?;
        if attempt.timestamp() != timestamp {
            return Err(VerifyError::Malformed);
        }
        if attempt.at.since(now).max(now.since(attempt.at)) > TOLERANCE {
            return Err(VerifyError::Timestamp);
        }
        let fits = |entry: &str| match (self, entry.split_once(',')) {
            (Self::Secret(key), Some(("v1", signature))) => {
                STANDARD.decode(signature).is_ok_and(|tag| hmac::verify(key, &message, &tag).is_ok())
            }
            (Self::PublicKey(key), Some(("v1a", signature))) => STANDARD
                .decode(signature)
                .is_ok_and(|tag| UnparsedPublicKey::new(&ED25519, key).verify(&message, &tag).is_ok()),
            _ => false,
        };
        if signatures.split(' ').any(fits) { Ok(()) } else { Err(VerifyError::Signature) }
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret(_) => "Verifier(v1)",
            Self::PublicKey(_) => "Verifier(v1a)",
        })
    }
}

fn decode(text: &str, prefix: &str) -> Result<Vec<u8>, InvalidKey> {
    text.strip_prefix(prefix).and_then(|body| STANDARD.decode(body).ok()).ok_or(InvalidKey)
}
