//! The token endpoint's rules, and the whole way from a client's key to its token.

use crate::forge::{NOW, jwks};
use flowbridge_security::client_assertion;
use flowbridge_security::jose::Algorithm;
use flowbridge_security::jwk::PublicKeys;
use flowbridge_security::keys::SigningKey;
use flowbridge_security::oauth::{
    ASSERTION_TYPE, Metadata, OAuthError, TokenRequest, grant_scopes, token_form,
};
use flowbridge_security::scope::ScopeSet;
use secrecy::ExposeSecret as _;
use serde_json::json;

const ISSUER: &str = "https://api.flowbridge.example";

#[test]
fn a_request_is_refused_by_the_code_of_rfc_6749() {
    let key = SigningKey::generate(Algorithm::EdDsa).unwrap();
    let assertion = client_assertion::make("bank-a", ISSUER, &key, NOW).unwrap();
    let assertion = assertion.expose_secret();
    let kind = "client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer";
    let good = format!("grant_type=client_credentials&{kind}&client_assertion={assertion}");
    let code = |form: &str, has_authorization| {
        TokenRequest::parse(form.as_bytes(), has_authorization)
            .map(|request| request.client_id)
            .map_err(|e| e.code())
    };

    let more = |count| (0..count).fold(good.clone(), |form, place| format!("{form}&p{place}=1"));

    for (name, form, expected) in [
        ("as it is", good.clone(), Ok("bank-a")),
        ("with its client id", format!("{good}&client_id=bank-a"), Ok("bank-a")),
        ("with a parameter we do not know", format!("{good}&resource=x"), Ok("bank-a")),
        ("with as many of these as there may be", more(13), Ok("bank-a")),
        ("with one too many", more(14), Err("invalid_request")),
        ("empty", String::new(), Err("invalid_request")),
        ("no grant type", good.replace("grant_type", "grant"), Err("invalid_request")),
        ("password grant", good.replace("client_credentials", "password"), Err("unsupported_grant_type")),
        ("client id alone", "grant_type=client_credentials&client_id=bank-a".into(), Err("invalid_client")),
        ("another client id", format!("{good}&client_id=bank-b"), Err("invalid_client")),
        ("no assertion type", good.replace(kind, "x=y"), Err("invalid_request")),
        ("wrong assertion type", good.replace("jwt-bearer", "saml2-bearer"), Err("invalid_request")),
        ("two assertion types", format!("{good}&{kind}"), Err("invalid_request")),
        ("no assertion", format!("grant_type=client_credentials&{kind}"), Err("invalid_request")),
        ("two assertions", format!("{good}&client_assertion={assertion}"), Err("invalid_request")),
        (
            "assertion no token",
            good.replace("client_assertion=ey", "client_assertion=.y"),
            Err("invalid_client"),
        ),
        ("secret beside the assertion", format!("{good}&client_secret=s"), Err("invalid_request")),
    ] {
        assert_eq!(code(&form, false).as_deref(), expected.as_ref().map(|id| *id), "{name}");
    }
    assert_eq!(code(&good, true), Err("invalid_request"), "an Authorization header beside the assertion");
}

#[test]
fn a_token_gets_what_was_asked_for_and_never_more_than_was_given() {
    let given = ScopeSet::parse("payments:read payments:write").unwrap();
    assert_eq!(grant_scopes(None, given), Ok(given));
    assert_eq!(grant_scopes(Some("payments:read"), given), Ok(ScopeSet::parse("payments:read").unwrap()));
    for refused in ["payments:read operator", "operator", "payments:all", "", "payments:read "] {
        assert_eq!(grant_scopes(Some(refused), given), Err(OAuthError::InvalidScope), "{refused:?}");
    }
}

#[test]
fn the_form_we_send_is_one_we_accept() {
    let key = SigningKey::generate(Algorithm::EdDsa).unwrap();
    let assertion = client_assertion::make("bank a&b", ISSUER, &key, NOW).unwrap();
    let form = token_form(&assertion, Some(ScopeSet::parse("payments:read events:read").unwrap()));
    let request = TokenRequest::parse(form.expose_secret().as_bytes(), false).unwrap();
    assert_eq!(request.client_id, "bank a&b");
    assert_eq!(request.scope.as_deref(), Some("payments:read events:read"));
    let keys = PublicKeys::from_jwks(&jwks(&key)).unwrap();
    assert!(client_assertion::verify(request.assertion(), &request.client_id, &keys, ISSUER, NOW).is_ok());
    assert!(!format!("{request:?}").contains(assertion.expose_secret()));
}

#[test]
fn metadata_names_what_is_there() {
    let document = serde_json::to_value(Metadata::new(ISSUER)).unwrap();
    assert_eq!(document["issuer"], ISSUER);
    assert_eq!(document["token_endpoint"], "https://api.flowbridge.example/oauth/token");
    assert_eq!(document["token_endpoint_auth_methods_supported"], json!(["private_key_jwt"]));
    assert_eq!(
        document["token_endpoint_auth_signing_alg_values_supported"],
        json!(["PS256", "ES256", "EdDSA"])
    );
    assert_eq!(document["response_types_supported"], json!([]));
    assert_eq!(ASSERTION_TYPE, "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
}
