//! Makes tokens that our own code would never make, with an independent JWT library doing the signing.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};
use aws_lc_rs::signature::{KeyPair as _, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use flowbridge_domain::time::Timestamp;
use flowbridge_security::jose::Algorithm;
use flowbridge_security::keys::SigningKey;
use jsonwebtoken::EncodingKey;
use serde_json::{Value, json};
use std::sync::LazyLock;

pub(crate) const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
pub(crate) const NOW_SECS: i64 = 1_800_000_000;

/// A JWT in the making.
#[derive(Clone)]
pub(crate) struct Forged {
    pub(crate) header: Value,
    pub(crate) claims: Value,
    /// Put in place of the header's own text, for headers that no JSON library writes.
    pub(crate) header_text: Option<String>,
    pub(crate) signer: Signer,
}

#[derive(Clone)]
pub(crate) enum Signer {
    Key(EncodingKey, jsonwebtoken::Algorithm),
    None,
}

impl Forged {
    pub(crate) fn text(&self) -> String {
        let header = self.header_text.clone().unwrap_or_else(|| self.header.to_string());
        let signed =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(self.claims.to_string()));
        let signature = match &self.signer {
            Signer::Key(key, algorithm) => {
                jsonwebtoken::crypto::sign(signed.as_bytes(), key, *algorithm).unwrap()
            }
            Signer::None => String::new(),
        };
        format!("{signed}.{signature}")
    }

    pub(crate) fn without(mut self, claim: &str) -> Self {
        self.claims.as_object_mut().unwrap().remove(claim).unwrap();
        self
    }

    pub(crate) fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims[name] = value.into();
        self
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header[name] = value.into();
        self
    }

    /// A second `name` in front of the one that is there.
    pub(crate) fn doubled_header(mut self, name: &str, value: Value) -> Self {
        let rest = self.header.to_string();
        self.header_text = Some(format!("{{\"{name}\":{value},{}", &rest[1..]));
        self
    }

    pub(crate) fn signed_by(mut self, signer: Signer) -> Self {
        self.signer = signer;
        self
    }
}

/// Signs as the holder of `key` would.
pub(crate) fn signer_of(key: &SigningKey) -> Signer {
    let pem = key.to_pem().unwrap();
    match key.algorithm() {
        Algorithm::EdDsa => {
            Signer::Key(EncodingKey::from_ed_pem(pem.as_bytes()).unwrap(), jsonwebtoken::Algorithm::EdDSA)
        }
        Algorithm::Es256 => {
            Signer::Key(EncodingKey::from_ec_pem(pem.as_bytes()).unwrap(), jsonwebtoken::Algorithm::ES256)
        }
        Algorithm::Ps256 => unreachable!("we do not sign with RSA"),
    }
}

pub(crate) fn jwks(key: &SigningKey) -> String {
    json!({ "keys": [key.public()] }).to_string()
}

/// An RSA key of a client, made once: it takes a while.
pub(crate) static RSA: LazyLock<Rsa> = LazyLock::new(|| {
    let private = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
    let pkcs8 = AsDer::<Pkcs8V1Der<'_>>::as_der(&private).unwrap();
    let pair = RsaKeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
    let public = pair.public_key();
    let n = URL_SAFE_NO_PAD.encode(public.modulus().big_endian_without_leading_zero());
    let e = URL_SAFE_NO_PAD.encode(public.exponent().big_endian_without_leading_zero());
    let pem = format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        base64::engine::general_purpose::STANDARD.encode(pkcs8.as_ref())
    );
    Rsa {
        jwks: json!({ "keys": [{ "kty": "RSA", "n": n, "e": e, "kid": "rsa" }] }).to_string(),
        key: EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap(),
    }
});

pub(crate) struct Rsa {
    pub(crate) jwks: String,
    pub(crate) key: EncodingKey,
}
