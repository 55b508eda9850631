//! Webhook signatures, checked by the reference library (v1) and by our own verifier (v1 and v1a).

use crate::forge::NOW;
use flowbridge_domain::time::Timestamp;
use flowbridge_security::webhook::{
    Attempt, EndpointKeys, ID_HEADER, InvalidKey, SIGNATURE_HEADER, SignError, TIMESTAMP_HEADER, Verifier,
    VerifyError,
};
use http::HeaderMap;
use secrecy::ExposeSecret as _;
use std::time::Duration;

const ID: &str = "evt_01h455vb4pex5vsknk084sn02q";
const BODY: &[u8] = br#"{"type":"payment.settled"}"#;

#[test]
fn the_reference_library_believes_us_during_a_rotation_too() {
    #[expect(clippy::disallowed_methods, reason = "the reference library compares with the system's clock")]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let attempt = Attempt { id: ID, at: Timestamp::EPOCH.plus(now), body: BODY };
    let (new, old) = (EndpointKeys::generate().unwrap(), EndpointKeys::generate().unwrap());
    let stranger = EndpointKeys::generate().unwrap();

    let mut headers = HeaderMap::new();
    headers.insert(ID_HEADER, ID.parse().unwrap());
    headers.insert(TIMESTAMP_HEADER, attempt.timestamp().parse().unwrap());
    headers.insert(SIGNATURE_HEADER, attempt.signatures(&[&new, &old]).unwrap().parse().unwrap());
    let believes = |keys: &EndpointKeys, body: &[u8]| {
        standardwebhooks::Webhook::new(keys.secret_text().expose_secret())
            .unwrap()
            .verify(body, &headers)
            .is_ok()
    };
    assert!(believes(&new, BODY));
    assert!(believes(&old, BODY));
    assert!(!believes(&stranger, BODY));
    assert!(!believes(&new, b"{}"));
}

#[test]
fn a_receiver_believes_only_what_was_signed_when_it_was_signed() {
    let keys = EndpointKeys::generate().unwrap();
    let stranger = EndpointKeys::generate().unwrap();
    let attempt = Attempt { id: ID, at: NOW, body: BODY };
    let (timestamp, list) = (attempt.timestamp(), attempt.signatures(&[&keys]).unwrap());
    for (own, other) in [
        (keys.secret_text().expose_secret(), stranger.secret_text().expose_secret()),
        (&*keys.public_text(), &*stranger.public_text()),
    ] {
        let own = Verifier::parse(own).unwrap();
        let other = Verifier::parse(other).unwrap();
        let later = |secs| NOW.plus(Duration::from_secs(secs));
        assert_eq!(own.verify(ID, &timestamp, &list, BODY, NOW), Ok(()));
        assert_eq!(own.verify(ID, &timestamp, &list, BODY, later(300)), Ok(()));
        assert_eq!(own.verify(ID, &timestamp, &list, BODY, later(301)), Err(VerifyError::Timestamp));
        assert_eq!(
            own.verify(ID, &timestamp, &list, BODY, NOW.minus(Duration::from_secs(301))),
            Err(VerifyError::Timestamp)
        );
        assert_eq!(own.verify(ID, &timestamp, &list, b"{}", NOW), Err(VerifyError::Signature));
        assert_eq!(own.verify("evt_2", &timestamp, &list, BODY, NOW), Err(VerifyError::Signature));
        assert_eq!(own.verify(ID, "1800000001", &list, BODY, NOW), Err(VerifyError::Signature));
        assert_eq!(own.verify(ID, "01800000000", &list, BODY, NOW), Err(VerifyError::Malformed));
        assert_eq!(own.verify("evt.1800000000", &timestamp, &list, BODY, NOW), Err(VerifyError::Malformed));
        assert_eq!(own.verify(ID, &timestamp, "", BODY, NOW), Err(VerifyError::Signature));
        assert_eq!(other.verify(ID, &timestamp, &list, BODY, NOW), Err(VerifyError::Signature));
        // A signature under the name of the other version counts for neither.
        let swapped = list.replace("v1a,", "v2,").replace("v1,", "v1a,").replace("v2,", "v1,");
        assert_eq!(own.verify(ID, &timestamp, &swapped, BODY, NOW), Err(VerifyError::Signature));
    }
}

#[test]
fn an_id_that_could_move_the_borders_is_not_signed() {
    let keys = EndpointKeys::generate().unwrap();
    for id in ["", "evt.1", "evt 1", "evt\n1", &"e".repeat(257)] {
        assert_eq!(Attempt { id, at: NOW, body: BODY }.signatures(&[&keys]), Err(SignError::Id), "{id:?}");
    }
}

#[test]
fn keys_survive_storage_and_text_and_never_show_their_secrets() {
    let keys = EndpointKeys::generate().unwrap();
    let stored = EndpointKeys::from_stored(keys.secret_bytes(), keys.seed()).unwrap();
    let attempt = Attempt { id: ID, at: NOW, body: BODY };
    assert_eq!(attempt.signatures(&[&stored]), attempt.signatures(&[&keys]));
    assert_eq!(format!("{keys:?}"), format!("EndpointKeys({})", keys.public_text()));
    assert!(EndpointKeys::from_stored(&[1; 23], &[1; 32]).is_err());
    assert!(EndpointKeys::from_stored(&[1; 32], &[1; 31]).is_err());
    for text in ["", "whsec_", "whsec_AAAA", "whpk_AAAA", "whsk_AAAA", "whsec_!!!!"] {
        assert_eq!(Verifier::parse(text).unwrap_err(), InvalidKey, "{text}");
    }
}

/// The worked example in the tests of the reference libraries for JavaScript and Python.
#[test]
fn the_example_of_the_specification() {
    let keys = EndpointKeys::parse(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    )
    .unwrap();
    let attempt = Attempt {
        id: "msg_p5jXN8AQM9LWM0D4loKWxJek",
        at: Timestamp::from_secs(1_614_265_330),
        body: br#"{"test": 2432232314}"#,
    };
    let list = attempt.signatures(&[&keys]).unwrap();
    assert_eq!(list.split(' ').next(), Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
}
