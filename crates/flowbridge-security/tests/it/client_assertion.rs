//! Client assertions: the negative catalogue of FAPI 2.0's conformance suite, and what must pass beside it.

use crate::forge::{Forged, NOW, NOW_SECS, RSA, Signer, jwks, signer_of};
use flowbridge_domain::time::Timestamp;
use flowbridge_security::client_assertion::{
    self, AssertionError, Authenticated, GuardUnavailable, ReplayGuard, Unspent, verify,
};
use flowbridge_security::jose::{Algorithm, JwsError};
use flowbridge_security::jwk::PublicKeys;
use flowbridge_security::keys::SigningKey;
use jsonwebtoken::EncodingKey;
use secrecy::ExposeSecret as _;
use serde_json::json;
use std::collections::HashSet;
use std::sync::Mutex;

const ISSUER: &str = "https://api.flowbridge.example";
const CLIENT: &str = "bank-a";

fn valid(key: &SigningKey) -> Forged {
    Forged {
        header: json!({ "alg": key.algorithm().name(), "typ": "JWT", "kid": key.key_id() }),
        claims: json!({
            "iss": CLIENT, "sub": CLIENT, "aud": ISSUER, "jti": "a1", "iat": NOW_SECS, "exp": NOW_SECS + 60,
        }),
        header_text: None,
        signer: signer_of(key),
    }
}

fn check(assertion: &Forged, keys: &PublicKeys) -> Result<Unspent, AssertionError> {
    verify(&assertion.text(), CLIENT, keys, ISSUER, NOW)
}

#[test]
fn what_is_wrong_with_an_assertion_is_what_it_is_refused_for() {
    let key = SigningKey::generate(Algorithm::EdDsa).unwrap();
    let other = SigningKey::generate(Algorithm::EdDsa).unwrap();
    let keys = PublicKeys::from_jwks(&jwks(&key)).unwrap();
    let good = || valid(&key);
    let hs256 = Signer::Key(EncodingKey::from_secret(jwks(&key).as_bytes()), jsonwebtoken::Algorithm::HS256);
    let rs256 = Signer::Key(RSA.key.clone(), jsonwebtoken::Algorithm::RS256);
    let jws = AssertionError::Jws;

    let catalogue = [
        ("RS256", good().header("alg", "RS256").signed_by(rs256), jws(JwsError::Algorithm)),
        ("none", good().header("alg", "none").signed_by(Signer::None), jws(JwsError::Algorithm)),
        ("None", good().header("alg", "None").signed_by(Signer::None), jws(JwsError::Algorithm)),
        (
            "HS256 keyed with the public key",
            good().header("alg", "HS256").signed_by(hs256),
            jws(JwsError::Algorithm),
        ),
        ("ES256 for an Ed25519 key", good().header("alg", "ES256"), jws(JwsError::UnknownKey)),
        ("unsigned", good().signed_by(Signer::None), jws(JwsError::Signature)),
        ("key of another client", good().signed_by(signer_of(&other)), jws(JwsError::Signature)),
        ("kid of another client", good().header("kid", other.key_id()), jws(JwsError::UnknownKey)),
        ("an access token", good().header("typ", "at+jwt"), jws(JwsError::Type)),
        ("crit", good().header("crit", json!(["exp"])), jws(JwsError::ForbiddenMember("crit"))),
        ("jku", good().header("jku", "https://evil.example"), jws(JwsError::ForbiddenMember("jku"))),
        ("x5u", good().header("x5u", "https://evil.example"), jws(JwsError::ForbiddenMember("x5u"))),
        ("x5c", good().header("x5c", json!(["AA=="])), jws(JwsError::ForbiddenMember("x5c"))),
        (
            "embedded key",
            good().header("jwk", serde_json::to_value(other.public()).unwrap()).signed_by(signer_of(&other)),
            jws(JwsError::ForbiddenMember("jwk")),
        ),
        ("b64", good().header("b64", false), jws(JwsError::ForbiddenMember("b64"))),
        ("alg twice", good().doubled_header("alg", json!("none")), jws(JwsError::DuplicateMember)),
        (
            "unknown member twice",
            good().header("x", 1).doubled_header("x", json!(1)),
            jws(JwsError::DuplicateMember),
        ),
        ("alg no text", good().header("alg", 1), jws(JwsError::Malformed)),
        ("wrong aud", good().claim("aud", "https://other.example"), AssertionError::Audience),
        ("aud with a slash", good().claim("aud", format!("{ISSUER}/")), AssertionError::Audience),
        ("aud as a list", good().claim("aud", json!([ISSUER])), AssertionError::Audience),
        (
            "aud the token endpoint",
            good().claim("aud", format!("{ISSUER}/oauth/token")),
            AssertionError::Audience,
        ),
        (
            "aud the PAR endpoint",
            good().claim("aud", format!("{ISSUER}/oauth/par")),
            AssertionError::Audience,
        ),
        ("no aud", good().without("aud"), AssertionError::Missing("aud")),
        ("no iss", good().without("iss"), AssertionError::Missing("iss")),
        ("iss another client", good().claim("iss", "bank-b"), AssertionError::Issuer),
        ("no sub", good().without("sub"), AssertionError::Missing("sub")),
        ("sub another client", good().claim("sub", "bank-b"), AssertionError::Subject),
        ("expired 5 minutes ago", good().claim("exp", NOW_SECS - 300), AssertionError::Expired),
        ("expires this second", good().claim("exp", NOW_SECS), AssertionError::Expired),
        ("no exp", good().without("exp"), AssertionError::Missing("exp")),
        ("exp too far", good().claim("exp", NOW_SECS + 601), AssertionError::LifeTooLong),
        ("exp a text", good().claim("exp", "soon"), AssertionError::Claims),
        ("exp negative", good().claim("exp", -1), AssertionError::Claims),
        ("iat 61 s ahead", good().claim("iat", NOW_SECS + 61), AssertionError::NotYetValid),
        ("nbf 61 s ahead", good().claim("nbf", NOW_SECS + 61), AssertionError::NotYetValid),
        ("no jti", good().without("jti"), AssertionError::Missing("jti")),
        ("empty jti", good().claim("jti", ""), AssertionError::Id),
        ("endless jti", good().claim("jti", "j".repeat(257)), AssertionError::Id),
        ("too long", good().claim("x", "x".repeat(8192)), jws(JwsError::TooLong)),
    ];
    for (name, assertion, reason) in catalogue {
        assert_eq!(check(&assertion, &keys), Err(reason), "{name}");
    }

    for (name, assertion) in [
        ("as it is", good()),
        ("without kid", Forged { header: json!({ "alg": "EdDSA" }), ..good() }),
        ("typ of the newer draft", good().header("typ", "client-authentication+jwt")),
        ("typ in other case", good().header("typ", "jwt")),
        ("unknown header member", good().header("x5t", "AA")),
        ("iat 10 s ahead", good().claim("iat", NOW_SECS + 10)),
        ("nbf 8 s ahead", good().claim("nbf", NOW_SECS + 8)),
        ("no iat", good().without("iat")),
        ("dates with a fraction", good().claim("iat", NOW_SECS as f64 + 0.25)),
        ("longest life", good().claim("exp", NOW_SECS + 600)),
        ("longest jti", good().claim("jti", "j".repeat(256))),
        ("unknown claim", good().claim("x", 1)),
    ] {
        assert!(check(&assertion, &keys).is_ok(), "{name}: {:?}", check(&assertion, &keys));
    }
}

#[test]
fn a_text_that_is_no_token_is_malformed() {
    let key = SigningKey::generate(Algorithm::EdDsa).unwrap();
    let keys = PublicKeys::from_jwks(&jwks(&key)).unwrap();
    let good = valid(&key).text();
    let (signed, signature) = good.rsplit_once('.').unwrap();
    for text in [
        "",
        "..",
        "a.b",
        &format!("{signed}.{signature}."),
        &format!(".{good}"),
        &format!("{signed}.{signature}="),
        &format!("{good}\n"),
        &good.replacen("ey", "{y", 1),
    ] {
        assert_eq!(
            verify(text, CLIENT, &keys, ISSUER, NOW),
            Err(AssertionError::Jws(JwsError::Malformed)),
            "{text}"
        );
    }
    assert!(verify(&good, CLIENT, &keys, ISSUER, NOW).is_ok());
}

#[test]
fn clients_may_sign_with_all_three_algorithms_and_only_the_one_of_their_key() {
    let p256 = SigningKey::generate(Algorithm::Es256).unwrap();
    let p256_keys = PublicKeys::from_jwks(&jwks(&p256)).unwrap();
    assert!(check(&valid(&p256), &p256_keys).is_ok());

    let rsa_keys = PublicKeys::from_jwks(&RSA.jwks).unwrap();
    let rsa = |algorithm| Signer::Key(RSA.key.clone(), algorithm);
    let pss = Forged {
        header: json!({ "alg": "PS256", "kid": "rsa" }),
        signer: rsa(jsonwebtoken::Algorithm::PS256),
        ..valid(&p256)
    };
    assert!(check(&pss, &rsa_keys).is_ok());
    assert_eq!(
        check(&pss.clone().signed_by(rsa(jsonwebtoken::Algorithm::RS256)), &rsa_keys),
        Err(AssertionError::Jws(JwsError::Signature))
    );
    assert_eq!(check(&pss, &p256_keys), Err(AssertionError::Jws(JwsError::UnknownKey)));
}

#[test]
fn without_kid_a_client_with_two_keys_of_one_kind_is_not_guessed_at() {
    let (one, two) =
        (SigningKey::generate(Algorithm::EdDsa).unwrap(), SigningKey::generate(Algorithm::EdDsa).unwrap());
    let keys = PublicKeys::from_jwks(&json!({ "keys": [one.public(), two.public()] }).to_string()).unwrap();
    assert!(check(&valid(&two), &keys).is_ok());
    let nameless = Forged { header: json!({ "alg": "EdDSA" }), ..valid(&two) };
    assert_eq!(check(&nameless, &keys), Err(AssertionError::Jws(JwsError::UnknownKey)));
}

/// What the database does in production.
#[derive(Default)]
struct Used(Mutex<HashSet<[u8; 32]>>);

#[async_trait::async_trait]
impl ReplayGuard for Used {
    async fn first_use(&self, digest: [u8; 32], _: Timestamp) -> Result<bool, GuardUnavailable> {
        Ok(self.0.lock().unwrap().insert(digest))
    }
}

struct Unreachable;

#[async_trait::async_trait]
impl ReplayGuard for Unreachable {
    async fn first_use(&self, _: [u8; 32], _: Timestamp) -> Result<bool, GuardUnavailable> {
        Err(GuardUnavailable)
    }
}

#[tokio::test]
async fn an_assertion_of_our_own_making_authenticates_once() {
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    let keys = PublicKeys::from_jwks(&jwks(&key)).unwrap();
    let used = Used::default();
    let assertion = client_assertion::make(CLIENT, ISSUER, &key, NOW).unwrap();
    let read = || verify(assertion.expose_secret(), CLIENT, &keys, ISSUER, NOW).unwrap();

    assert_eq!(read().spend(&Unreachable).await, Err(AssertionError::GuardUnavailable));
    assert_eq!(read().spend(&used).await.as_ref().map(Authenticated::client_id), Ok(CLIENT));
    assert_eq!(read().spend(&used).await, Err(AssertionError::Replayed));

    let next = client_assertion::make(CLIENT, ISSUER, &key, NOW).unwrap();
    let next = verify(next.expose_secret(), CLIENT, &keys, ISSUER, NOW).unwrap();
    assert!(next.spend(&used).await.is_ok());
    assert!(!format!("{assertion:?}").contains("ey"));
}
