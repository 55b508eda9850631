//! Typed ids: a UUIDv7 in TypeID dress, such as `pay_01jk…`.
//!
//! The prefix makes a misplaced id visible to a person and impossible for the compiler; version 7 keeps new rows
//! together in an index. The text form is the TypeID one (prefix, `_`, 26 lower-case Crockford base32 digits), and only
//! the canonical text is read, so that one thing never has two names.

use crate::time::Timestamp;
use std::fmt;
use uuid::Uuid;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const DIGITS: usize = 26;

/// Why a text is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {kind} id: it is written {prefix}_ and 26 characters of 0-9 a-z without i, l, o, u")]
pub struct ParseIdError {
    /// What was expected.
    pub kind: &'static str,
    /// The prefix that such an id has.
    pub prefix: &'static str,
}

fn encode(value: u128) -> [u8; DIGITS] {
    let mut text = [b'0'; DIGITS];
    let mut rest = value;
    for digit in text.iter_mut().rev() {
        if let Some(letter) = usize::try_from(rest & 31).ok().and_then(|index| ALPHABET.get(index)) {
            *digit = *letter;
        }
        rest >>= 5;
    }
    text
}

fn decode(text: &str) -> Option<u128> {
    // 26 digits hold 130 bits: the first may only be 0 to 7.
    if text.len() != DIGITS || !matches!(text.as_bytes().first(), Some(b'0'..=b'7')) {
        return None;
    }
    text.bytes().try_fold(0u128, |value, byte| {
        let digit = ALPHABET.iter().position(|letter| *letter == byte)?;
        Some((value << 5) | u128::try_from(digit).ok()?)
    })
}

macro_rules! typed_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// The prefix of the text form, without the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// A new id: a UUIDv7 of `now` and ten random bytes, which the caller draws.
            pub fn generate(now: Timestamp, random: [u8; 10]) -> Self {
                let millis = u64::try_from(now.as_millis_down()).unwrap_or(0);
                Self(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
            }

            /// Wraps a UUID that came from our own database or chain.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID inside.
            pub const fn as_uuid(&self) -> Uuid {
                self.0
            }

            /// Reads the text form. Another kind's prefix, upper case or a wrong length is refused.
            pub fn parse(text: &str) -> Result<Self, ParseIdError> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(decode)
                    .map(|value| Self(Uuid::from_u128(value)))
                    .ok_or(ParseIdError { kind: $kind, prefix: $prefix })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let digits = encode(self.0.as_u128());
                write!(f, "{}_{}", $prefix, std::str::from_utf8(&digits).unwrap_or_default())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

typed_id!(
    /// A payment: the customer's whole intention.
    PaymentId, "pay", "payment"
);

impl PaymentId {
    /// When it was drawn, to the millisecond: soon after that, its payment was accepted.
    pub fn drawn_at(&self) -> Timestamp {
        let millis = i64::try_from(self.0.as_u128() >> 80).unwrap_or(0);
        Timestamp::from_micros(millis.saturating_mul(1_000))
    }
}
typed_id!(
    /// A participant: an institution that uses FlowBridge; our tenant.
    ParticipantId, "par", "participant"
);
typed_id!(
    /// A customer account held by a participant: bank account and wallet under one name.
    AccountId, "acc", "account"
);
typed_id!(
    /// An event in the log.
    EventId, "evt", "event"
);
typed_id!(
    /// A webhook endpoint of a participant, or of the operator.
    WebhookEndpointId, "whe", "webhook endpoint"
);
typed_id!(
    /// One event on its way to one webhook endpoint, over all its attempts.
    DeliveryId, "dlv", "delivery"
);
typed_id!(
    /// A person's proposal on a payment under review.
    ReviewId, "rev", "review"
);
typed_id!(
    /// A bank's statement.
    StatementId, "stm", "statement"
);
typed_id!(
    /// A line of a statement.
    StatementEntryId, "sti", "statement line"
);
typed_id!(
    /// One comparison of a bank's statement, or of the chain, with our books.
    ReconciliationId, "rcn", "reconciliation"
);
typed_id!(
    /// A difference that waits for people.
    ExceptionId, "exc", "exception"
);
typed_id!(
    /// A person's proposal on an exception.
    DecisionId, "dcs", "decision"
);
typed_id!(
    /// A person's proposal that a model of reconciliation come into force.
    ModelProposalId, "mdp", "model proposal"
);
typed_id!(
    /// A motion that is put to the owners of the vault.
    VaultProposalId, "vpr", "vault proposal"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_follows_the_typeid_specification() {
        // The worked example of github.com/jetify-com/typeid: valid.json, "valid-uuidv7".
        let uuid: Uuid = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        let id = PaymentId::from_uuid(uuid);
        assert_eq!(id.to_string(), "pay_01h455vb4pex5vsknk084sn02q");
        assert_eq!(PaymentId::parse("pay_01h455vb4pex5vsknk084sn02q"), Ok(id));
    }

    #[test]
    fn only_the_canonical_text_of_the_right_kind_is_read() {
        for wrong in [
            "acc_01h455vb4pex5vsknk084sn02q",
            "pay_01H455VB4PEX5VSKNK084SN02Q",
            "pay_81h455vb4pex5vsknk084sn02q",
            "pay_01h455vb4pex5vsknk084sn02",
            "pay_01h455vb4pex5vsknk084sn02l",
            "pay01h455vb4pex5vsknk084sn02qq",
            "",
        ] {
            assert!(PaymentId::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_later_id_sorts_after_an_earlier_one() {
        let early = PaymentId::generate(Timestamp::from_secs(1_800_000_000), [255; 10]);
        let late = PaymentId::generate(Timestamp::from_secs(1_800_000_001), [0; 10]);
        assert!(early < late && early.to_string() < late.to_string());
        assert_eq!(early.as_uuid().get_version_num(), 7);
    }
}
