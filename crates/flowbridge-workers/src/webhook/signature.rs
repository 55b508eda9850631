//! The `webhook-signature` header, as Standard Webhooks defines it.
//!
//! Signed is `id.timestamp.body`: with HMAC-SHA256 (`v1`), for receivers that share the secret, and with Ed25519 (`v1a`), for
//! those who would rather hold a public key that cannot sign.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flowbridge_store::webhook::SigningKeys;

/// Signs an attempt with the keys of today and, while a rotation lasts, those of yesterday: `v1,… v1a,…` of each.
pub(crate) fn header(
    keys: &SigningKeys,
    previous: Option<&SigningKeys>,
    id: &str,
    timestamp: i64,
    body: &[u8],
) -> Result<String, String> {
    let mut signed = format!("{id}.{timestamp}.").into_bytes();
    signed.extend_from_slice(body);
    let mut signatures = Vec::new();
    for keys in [Some(keys), previous].into_iter().flatten() {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &keys.hmac_key), &signed);
        let pair = Ed25519KeyPair::from_seed_unchecked(&keys.ed25519_seed)
            .map_err(|_| "the signing key cannot be read".to_owned())?;
        signatures.push(format!("v1,{}", STANDARD.encode(tag)));
        signatures.push(format!("v1a,{}", STANDARD.encode(pair.sign(&signed))));
    }
    Ok(signatures.join(" "))
}
