//! Who may speak to FlowBridge, and how others know that it is FlowBridge that speaks.
//!
//! Keys, OAuth 2 client authentication and access tokens, webhook signatures and the guard in front of webhook
//! addresses, paging cursors, idempotency fingerprints. Everything here is a function of its arguments and of `now`:
//! no HTTP, no SQL, no clock. What has to be remembered between processes (assertions already used) is asked of the
//! caller through a trait.
//!
//! JSON Web Signatures are put together from `aws-lc-rs` directly rather than through a JWT crate: the strict header
//! rules (RFC 8725, FAPI 2.0) have to run before any decoding, time has to come from the caller, and a parsed key kept
//! between calls spares a parse per request. What is left is one base64 and one signature call, and tests have an
//! independent JWT implementation (`jsonwebtoken`) check both directions.

#![warn(missing_docs)]

pub mod client_assertion;
pub mod cursor;
pub mod egress;
pub mod fingerprint;
pub mod jose;
pub mod jwk;
pub mod keys;
pub mod oauth;
pub mod scope;
pub mod sealing;
pub mod token;
pub mod webhook;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The operating system gave no random bytes, or a key could not sign. Neither is the caller's fault: answer 500 and
/// alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cryptographic library failed")]
pub struct CryptoFailure;

impl From<aws_lc_rs::error::Unspecified> for CryptoFailure {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self
    }
}

/// `N` bytes nobody can guess.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], CryptoFailure> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)?;
    Ok(bytes)
}

/// SHA-256 of several fields, each preceded by its length, so that no two lists of fields run into one another.
pub(crate) fn sha256_fields(fields: &[&[u8]]) -> [u8; 32] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for field in fields {
        context.update(&(field.len() as u64).to_be_bytes());
        context.update(field);
    }
    to_32(context.finish().as_ref())
}

/// SHA-256 of some bytes: digest of a body, key of a cache.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    to_32(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref())
}

fn to_32(digest: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest);
    bytes
}

pub(crate) fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Strict: no padding, no line breaks, no bits left over; so a text has one reading and a value one text.
pub(crate) fn from_base64url(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}
