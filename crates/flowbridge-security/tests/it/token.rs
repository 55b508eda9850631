//! Access tokens: the negative catalogue, what must pass beside it, and a JWT library by others reading ours.

use crate::forge::{Forged, NOW, NOW_SECS, Signer, jwks, signer_of};
use flowbridge_domain::id::ParticipantId;
use flowbridge_security::jose::{Algorithm, JwsError};
use flowbridge_security::jwk::PublicKeys;
use flowbridge_security::keys::SigningKey;
use flowbridge_security::scope::{Scope, ScopeSet};
use flowbridge_security::token::{
    DenyList, InsufficientScope, TokenError, TokenIssuer, TokenVerifier, bearer,
};
use jsonwebtoken::{DecodingKey, EncodingKey, Validation};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

const ISSUER: &str = "https://api.flowbridge.example";

fn participant() -> ParticipantId {
    ParticipantId::parse("par_01h455vb4pex5vsknk084sn02q").unwrap()
}

fn valid(key: &SigningKey) -> Forged {
    Forged {
        header: json!({ "alg": key.algorithm().name(), "typ": "at+jwt", "kid": key.key_id() }),
        claims: json!({
            "iss": ISSUER, "sub": "bank-a", "aud": ISSUER, "client_id": "bank-a", "jti": "t1", "iat": NOW_SECS,
            "exp": NOW_SECS + 300, "scope": "payments:read", "participant": participant().to_string(),
        }),
        header_text: None,
        signer: signer_of(key),
    }
}

fn verifier(key: &SigningKey) -> TokenVerifier {
    TokenVerifier::new(ISSUER, ISSUER, PublicKeys::from_jwks(&jwks(key)).unwrap(), Arc::default())
}

#[test]
fn what_is_wrong_with_a_token_is_what_it_is_refused_for() {
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    let other = SigningKey::generate(Algorithm::Es256).unwrap();
    let verifier = verifier(&key);
    let good = || valid(&key);
    let hs256 = Signer::Key(EncodingKey::from_secret(jwks(&key).as_bytes()), jsonwebtoken::Algorithm::HS256);
    let jws = TokenError::Jws;
    let untyped = json!({ "alg": "ES256", "kid": key.key_id() });

    for (name, token, reason) in [
        ("expired", good().claim("exp", NOW_SECS), TokenError::Expired),
        ("nbf ahead", good().claim("nbf", NOW_SECS + 11), TokenError::NotYetValid),
        ("iat ahead", good().claim("iat", NOW_SECS + 11), TokenError::NotYetValid),
        ("lives too long", good().claim("exp", NOW_SECS + 301), TokenError::LifeTooLong),
        ("other issuer", good().claim("iss", "https://other.example"), TokenError::Issuer),
        ("other audience", good().claim("aud", "https://other.example"), TokenError::Audience),
        ("an ID token", good().header("typ", "JWT"), jws(JwsError::Type)),
        ("no typ", Forged { header: untyped, ..good() }, jws(JwsError::Type)),
        ("a client assertion", good().header("typ", "client-authentication+jwt"), jws(JwsError::Type)),
        ("none", good().header("alg", "none").signed_by(Signer::None), jws(JwsError::Algorithm)),
        (
            "HS256 keyed with the public key",
            good().header("alg", "HS256").signed_by(hs256),
            jws(JwsError::Algorithm),
        ),
        ("unknown kid", good().header("kid", "x"), jws(JwsError::UnknownKey)),
        ("another's key", good().signed_by(signer_of(&other)), jws(JwsError::Signature)),
        ("unknown crit", good().header("crit", json!(["x"])), jws(JwsError::ForbiddenMember("crit"))),
        ("jku", good().header("jku", "https://evil.example"), jws(JwsError::ForbiddenMember("jku"))),
        ("x5u", good().header("x5u", "https://evil.example"), jws(JwsError::ForbiddenMember("x5u"))),
        (
            "embedded key",
            good().header("jwk", serde_json::to_value(other.public()).unwrap()).signed_by(signer_of(&other)),
            jws(JwsError::ForbiddenMember("jwk")),
        ),
        ("kid twice", good().doubled_header("kid", json!("x")), jws(JwsError::DuplicateMember)),
        ("bound to a key", good().claim("cnf", json!({ "jkt": "x" })), TokenError::Bound),
        ("no scope", good().without("scope"), TokenError::Claims),
        ("unknown scope", good().claim("scope", "payments:all"), TokenError::Claims),
        ("no jti", good().without("jti"), TokenError::Claims),
        ("no exp", good().without("exp"), TokenError::Claims),
        ("no client", good().without("client_id"), TokenError::Claims),
        ("another subject", good().claim("sub", "bank-b"), TokenError::Claims),
        ("no participant id", good().claim("participant", "bank-a"), TokenError::Claims),
    ] {
        assert_eq!(verifier.verify(&token.text(), NOW), Err(reason), "{name}");
    }

    for (name, token) in [
        ("as it is", good()),
        ("full media type", good().header("typ", "application/AT+JWT")),
        ("several audiences", good().claim("aud", json!(["https://other.example", ISSUER]))),
        ("clock 10 s ahead", good().claim("iat", NOW_SECS + 10).claim("nbf", NOW_SECS + 10)),
        ("an operator's", good().without("participant")),
        ("unknown claim", good().claim("x", 1)),
    ] {
        assert!(
            verifier.verify(&token.text(), NOW).is_ok(),
            "{name}: {:?}",
            verifier.verify(&token.text(), NOW)
        );
    }
}

#[test]
fn no_token_passes_with_one_character_altered() {
    for algorithm in [Algorithm::EdDsa, Algorithm::Es256] {
        let key = SigningKey::generate(algorithm).unwrap();
        let verifier = verifier(&key);
        let good = valid(&key).text();
        assert!(verifier.verify(&good, NOW).is_ok());
        for index in 0..good.len() {
            for other in ["A", "B", ".", "=", "-"] {
                let altered = format!("{}{other}{}", &good[..index], &good[index + 1..]);
                assert!(altered == good || verifier.verify(&altered, NOW).is_err(), "{index}: {altered}");
            }
        }
    }
}

#[test]
fn a_token_we_issue_says_what_was_granted_and_is_read_by_others() {
    for algorithm in [Algorithm::EdDsa, Algorithm::Es256] {
        let key = SigningKey::generate(algorithm).unwrap();
        let jwks = jwks(&key);
        let verifier = verifier(&key);
        let scopes = ScopeSet::parse("payments:read payments:write").unwrap();
        let issuer = TokenIssuer::new(ISSUER, ISSUER, Duration::from_secs(3600), key);
        let issued = issuer.issue("bank-a", Some(participant()), scopes, NOW).unwrap();
        assert_eq!(issued.expires_in_secs, 300);
        assert!(!format!("{issued:?}").contains(issued.token.expose_secret()));

        let claims = verifier.verify(issued.token.expose_secret(), NOW).unwrap();
        assert_eq!(claims.client_id, "bank-a");
        assert_eq!(claims.participant, Some(participant()));
        assert_eq!(claims.scopes, scopes);
        assert_eq!(claims.token_id, issued.token_id);
        assert_eq!(claims.require(Scope::PaymentsWrite), Ok(()));
        assert_eq!(claims.require(Scope::Operator), Err(InsufficientScope(Scope::Operator)));

        let set: jsonwebtoken::jwk::JwkSet = serde_json::from_str(&jwks).unwrap();
        let header = jsonwebtoken::decode_header(issued.token.expose_secret()).unwrap();
        assert_eq!(header.typ.as_deref(), Some("at+jwt"));
        let theirs = set.find(header.kid.as_deref().unwrap()).unwrap();
        assert_eq!(theirs.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256).ok(), header.kid);
        let mut validation = Validation::new(header.alg);
        validation.validate_exp = false;
        validation.set_audience(&[ISSUER]);
        validation.set_issuer(&[ISSUER]);
        let read = jsonwebtoken::decode::<Value>(
            issued.token.expose_secret(),
            &DecodingKey::from_jwk(theirs).unwrap(),
            &validation,
        )
        .unwrap();
        assert_eq!(read.claims["exp"], NOW_SECS + 300);
        assert_eq!(read.claims["scope"], "payments:read payments:write");
    }
}

#[test]
fn a_remembered_token_still_expires_and_can_still_be_denied() {
    let key = SigningKey::generate(Algorithm::EdDsa).unwrap();
    let keys = PublicKeys::from_jwks(&jwks(&key)).unwrap();
    let deny_list = Arc::new(DenyList::default());
    let verifier = TokenVerifier::new(ISSUER, ISSUER, keys, Arc::clone(&deny_list));
    let token = valid(&key).text();
    let later = |secs| NOW.plus(Duration::from_secs(secs));

    assert!(verifier.verify(&token, NOW).is_ok());
    assert!(verifier.verify(&token, later(299)).is_ok());
    assert_eq!(verifier.verify(&token, later(300)), Err(TokenError::Expired));

    let mut altered = token.clone().into_bytes();
    let last = altered.len() - 2;
    altered[last] = if altered[last] == b'A' { b'B' } else { b'A' };
    let altered = String::from_utf8(altered).unwrap();
    assert_eq!(verifier.verify(&altered, NOW), Err(TokenError::Jws(JwsError::Signature)));

    deny_list.replace(HashSet::from(["another".to_owned()]));
    assert!(verifier.verify(&token, NOW).is_ok());
    deny_list.replace(HashSet::from(["bank-a".to_owned()]));
    assert_eq!(verifier.verify(&token, later(299)), Err(TokenError::Revoked));
    deny_list.replace(HashSet::new());
    assert!(verifier.verify(&token, NOW).is_ok());
}

#[test]
fn memory_of_verified_tokens_is_bounded_and_keeps_nothing_it_should_not() {
    let key = SigningKey::generate(Algorithm::EdDsa).unwrap();
    let keys = PublicKeys::from_jwks(&jwks(&key)).unwrap();
    let verifier = TokenVerifier::new(ISSUER, ISSUER, keys, Arc::default());
    let issuer = TokenIssuer::new(ISSUER, ISSUER, Duration::from_secs(300), key);
    let mut tokens = Vec::new();
    for index in 0..20_000 {
        let client = format!("client-{index}");
        tokens.push(issuer.issue(&client, None, ScopeSet::EMPTY, NOW).unwrap().token);
        verifier.verify(tokens[index].expose_secret(), NOW).unwrap();
        assert!(verifier.remembered() <= 16 * 1024, "after {index}");
    }
    // Whether remembered or forgotten, each is still read as its own.
    for index in [0, 9_999, 19_999] {
        let claims = verifier.verify(tokens[index].expose_secret(), NOW).unwrap();
        assert_eq!(claims.client_id, format!("client-{index}"));
    }
}

#[test]
fn only_a_bearer_header_carries_a_token() {
    assert_eq!(bearer("Bearer abc.def"), Some("abc.def"));
    assert_eq!(bearer("bEARER  abc"), Some("abc"));
    for other in ["", "Bearer", "Bearer ", "Basic abc", "DPoP abc", "abc", "Bearer a b", "Bearerabc"] {
        assert_eq!(bearer(other), None, "{other}");
    }
}
