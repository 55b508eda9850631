//! Who pays and who is paid: identifiers that are checked once, when they are read.

use iban::IbanLike as _;
use std::fmt;

/// An International Bank Account Number (ISO 13616), in electronic form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Iban(String);

impl Iban {
    /// Reads an IBAN in electronic or paper form (blanks between groups); country format and check digits must hold.
    pub fn parse(text: &str) -> Result<Self, PartyError> {
        if text.len() > 64 {
            return Err(PartyError::Iban("longer than any IBAN"));
        }
        match text.parse::<iban::Iban>() {
            Ok(iban) => Ok(Self(iban.electronic_str().to_owned())),
            Err(iban::ParseIbanError::InvalidBaseIban {
                source: iban::ParseBaseIbanError::InvalidChecksum,
            }) => Err(PartyError::IbanCheckDigits),
            Err(iban::ParseIbanError::UnknownCountry(_)) => Err(PartyError::Iban("its country issues none")),
            Err(iban::ParseIbanError::InvalidBaseIban { .. }) => {
                Err(PartyError::Iban("not the form of an IBAN"))
            }
            Err(iban::ParseIbanError::InvalidBban(_)) => {
                Err(PartyError::Iban("not its country's length or structure"))
            }
        }
    }

    /// Electronic form, without blanks.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first four and last two characters, the rest dotted out: what a log or a console may show.
    pub fn masked(&self) -> String {
        let tail = self.0.len().saturating_sub(2);
        format!("{}…{}", self.0.get(..4).unwrap_or_default(), self.0.get(tail..).unwrap_or_default())
    }
}

/// Masked: an IBAN is personal data and debug output ends up in logs.
impl fmt::Debug for Iban {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

/// A Business Identifier Code (ISO 9362), 8 or 11 characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Bic(String);

impl Bic {
    /// Reads a BIC; the shape of the ISO 20022 type `BICFIDec2014Identifier`.
    pub fn parse(text: &str) -> Result<Self, PartyError> {
        let alphanumeric = |part: &[u8]| part.iter().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
        match text.as_bytes() {
            [party @ .., c1, c2, l1, l2]
                if party.len() == 4
                    && alphanumeric(party)
                    && [*c1, *c2].iter().all(u8::is_ascii_uppercase)
                    && alphanumeric(&[*l1, *l2]) =>
            {
                Ok(Self(text.to_owned()))
            }
            bytes @ [_, _, _, _, c1, c2, ..]
                if bytes.len() == 11
                    && alphanumeric(bytes)
                    && [*c1, *c2].iter().all(u8::is_ascii_uppercase) =>
            {
                Ok(Self(text.to_owned()))
            }
            _ => Err(PartyError::Bic),
        }
    }

    /// The code.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A Legal Entity Identifier (ISO 17442), 20 characters with ISO 7064 check digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Lei(String);

impl Lei {
    /// Reads an LEI; shape and check digits (mod 97-10) must hold.
    pub fn parse(text: &str) -> Result<Self, PartyError> {
        let shape = text.len() == 20
            && text.bytes().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
            && text.bytes().skip(18).all(|c| c.is_ascii_digit());
        let remainder = text.chars().try_fold(0u32, |sum, c| {
            let value = c.to_digit(36)?;
            let shift = if value > 9 { 100 } else { 10 };
            sum.checked_mul(shift)?.checked_add(value)?.checked_rem(97)
        });
        if shape && remainder == Some(1) { Ok(Self(text.to_owned())) } else { Err(PartyError::Lei) }
    }

    /// The identifier.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A 20-byte EVM address. The text form is `0x` and 40 hexadecimal digits; lower case here, any case when read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EvmAddress([u8; 20]);

impl EvmAddress {
    /// Wraps 20 bytes that came from the chain or our database.
    pub const fn from_bytes(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// Reads `0x…`. The zero address is refused: it owns nothing.
    pub fn parse(text: &str) -> Result<Self, PartyError> {
        let digits = text.strip_prefix("0x").ok_or(PartyError::EvmAddress)?;
        if digits.len() != 40 || !digits.is_ascii() {
            return Err(PartyError::EvmAddress);
        }
        let mut bytes = [0u8; 20];
        for (index, byte) in bytes.iter_mut().enumerate() {
            let start = index.saturating_mul(2);
            let pair = digits.get(start..start.saturating_add(2)).ok_or(PartyError::EvmAddress)?;
            if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(PartyError::EvmAddress);
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| PartyError::EvmAddress)?;
        }
        if bytes == [0; 20] { Err(PartyError::EvmAddress) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Display for EvmAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for EvmAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The short name by which FlowBridge knows a bank, such as `alpha`: lower-case letters, digits and hyphens, 1 to 32.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BankCode(String);

impl BankCode {
    /// Reads a bank code.
    pub fn parse(text: &str) -> Result<Self, PartyError> {
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        if (1..=32).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(PartyError::BankCode)
        }
    }

    /// The code.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why an identifier was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PartyError {
    /// Not an IBAN.
    #[error("not an IBAN: {0}")]
    Iban(&'static str),
    /// The form of an IBAN, but the check digits are wrong: a typing error.
    #[error("not an IBAN: its check digits do not fit")]
    IbanCheckDigits,
    /// Not a BIC.
    #[error("not a BIC: 8 or 11 characters of ISO 9362")]
    Bic,
    /// Not an LEI.
    #[error("not an LEI: 20 characters of ISO 17442 whose check digits fit")]
    Lei,
    /// Not an address.
    #[error("not an EVM address: 0x and 40 hexadecimal digits, not all zero")]
    EvmAddress,
    /// Not a bank code.
    #[error("not a bank code: 1 to 32 lower-case letters, digits or hyphens")]
    BankCode,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ibans_are_read_in_both_forms_and_checked() {
        let iban = Iban::parse("CH93 0076 2011 6238 5295 7").unwrap();
        assert_eq!(iban.as_str(), "CH9300762011623852957");
        assert_eq!(format!("{iban:?}"), "CH93…57", "debug output never shows a whole IBAN");
        assert_eq!(Iban::parse("CH9300762011623852958"), Err(PartyError::IbanCheckDigits));
        for wrong in
            ["", "CH", "CH930076201162385295", "XX9300762011623852957", "25-9034-2", &"1".repeat(1000)]
        {
            assert!(Iban::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn bics_leis_and_addresses_are_checked() {
        assert!(Bic::parse("POFICHBEXXX").is_ok() && Bic::parse("DEUTDEFF").is_ok());
        for wrong in ["", "DEUTDEF", "deutdeff", "DEUT1EFF", "DEUTDEFF1", "DEUTDEFF12é"] {
            assert_eq!(Bic::parse(wrong), Err(PartyError::Bic), "{wrong}");
        }
        assert!(Lei::parse("529900T8BM49AURSDO55").is_ok());
        assert_eq!(Lei::parse("529900T8BM49AURSDO56"), Err(PartyError::Lei));
        let address = EvmAddress::parse("0x00000000219ab540356cBB839Cbe05303d7705Fa").unwrap();
        assert_eq!(address.to_string(), "0x00000000219ab540356cbb839cbe05303d7705fa");
        for wrong in
            ["0x", "00000000219ab540356cBB839Cbe05303d7705Fa00", &format!("0x{}", "0".repeat(40)), "0x+1"]
        {
            assert!(EvmAddress::parse(wrong).is_err(), "{wrong}");
        }
    }
}
