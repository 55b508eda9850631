//! Idempotency: the client's key, and the fingerprint that tells whether a request under a known key is the same request.
//!
//! draft-ietf-httpapi-idempotency-key-header-06 wants the key as a quoted string of RFC 8941; most clients in the field send
//! it bare. Both spellings are one key. The fingerprint is made from the bytes of the body, never from JSON read and
//! written again, and leaves out what changes from one attempt to the next (token, date, trace).

use crate::sha256_fields;
use sfv::Parser;

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 255;

/// A client's idempotency key: 1 to [`KEY_BYTES_MAX`] printable ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(String);

/// The header's value is no key (400).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Idempotency-Key must be 1 to {KEY_BYTES_MAX} printable ASCII characters, best in double quotes")]
pub struct InvalidIdempotencyKey;

impl IdempotencyKey {
    /// Reads the value of an `Idempotency-Key` header, quoted or bare. Spaces around it do not count.
    pub fn parse(value: &[u8]) -> Result<Self, InvalidIdempotencyKey> {
        let value = value.trim_ascii();
        let key = if value.first() == Some(&b'"') {
            let item = Parser::new(value).parse::<sfv::Item>().map_err(|_| InvalidIdempotencyKey)?;
            item.bare_item.as_string().ok_or(InvalidIdempotencyKey)?.as_str().to_owned()
        } else {
            String::from_utf8(value.to_vec()).map_err(|_| InvalidIdempotencyKey)?
        };
        let is_printable = key.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if key.is_empty() || key.len() > KEY_BYTES_MAX || !is_printable {
            return Err(InvalidIdempotencyKey);
        }
        Ok(Self(key))
    }

    /// The key without quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What makes a request the same request.
#[derive(Debug, Clone, Copy)]
pub struct RequestIdentity<'a> {
    /// The method, upper case.
    pub method: &'a str,
    /// The route with names in place of values: `/v1/payments/{id}/refunds`.
    pub route: &'a str,
    /// The values for those names, in order.
    pub path_params: &'a [&'a str],
    /// SHA-256 of the body's bytes ([`crate::sha256`]).
    pub body_digest: [u8; 32],
    /// The client.
    pub client_id: &'a str,
}

impl RequestIdentity<'_> {
    /// The fingerprint.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut fields = vec![self.method.as_bytes(), self.route.as_bytes()];
        fields.extend(self.path_params.iter().map(|value| value.as_bytes()));
        fields.extend([&self.body_digest[..], self.client_id.as_bytes()]);
        sha256_fields(&fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sha256;

    #[test]
    fn a_key_is_the_same_quoted_or_bare() {
        let key = |value: &str| IdempotencyKey::parse(value.as_bytes()).map(|key| key.as_str().to_owned());
        for same in ["8e03978e-40d5", "\"8e03978e-40d5\"", "  \"8e03978e-40d5\" ", "\"8e03978e-40d5\";v=1"] {
            assert_eq!(key(same).as_deref(), Ok("8e03978e-40d5"), "{same}");
        }
        assert_eq!(key(r#""a\"b\\c d""#).as_deref(), Ok(r#"a"b\c d"#));
        let longest = "k".repeat(KEY_BYTES_MAX);
        assert_eq!(key(&longest), Ok(longest.clone()));
        assert_eq!(key(&format!("\"{longest}\"")), Ok(longest.clone()));
        for refused in [
            "",
            " ",
            "\"\"",
            "\"open",
            "\"a\", \"b\"",
            "\"a\"b",
            "\"a\\nb\"",
            "a\tb",
            "a\u{7f}",
            "schlüssel",
            &format!("{longest}k"),
            &format!("\"{longest}k\""),
        ] {
            assert_eq!(key(refused), Err(InvalidIdempotencyKey), "{refused:?}");
        }
        assert_eq!(IdempotencyKey::parse(b"\xff"), Err(InvalidIdempotencyKey));
    }

    #[test]
    fn every_part_of_a_request_counts_and_none_runs_into_the_next() {
        let request = RequestIdentity {
            method: "POST",
            route: "/v1/payments/{id}/refunds",
            path_params: &["pay_1", "2"],
            body_digest: sha256(b"{}"),
            client_id: "bank-a",
        };
        assert_eq!(request.fingerprint(), request.fingerprint());
        for other in [
            RequestIdentity { method: "PATCH", ..request },
            RequestIdentity { route: "/v1/payments/{id}/cancel", ..request },
            RequestIdentity { path_params: &["pay_12", ""], ..request },
            RequestIdentity { body_digest: sha256(b"{ }"), ..request },
            RequestIdentity { client_id: "bank-b", ..request },
        ] {
            assert_ne!(other.fingerprint(), request.fingerprint(), "{other:?}");
        }
    }
}
