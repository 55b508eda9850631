//! Money: whole minor units of a currency, checked at every step.
//!
//! There is no rounding here and no float: a text amount with more digits than its currency has is refused, an
//! operation that would overflow or mix currencies is an error the caller must handle.

use std::fmt;

/// ISO 4217 codes in use, by number of decimals. List One of 2026-01-01; funds codes, metals and testing codes are left out.
const CURRENCIES: &[(u8, &str)] = &[
    (0, "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"),
    (
        2,
        "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP CRC \
         CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR \
         JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD \
         NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN \
         SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VES WST XCD XCG YER ZAR ZMW ZWG",
    ),
    (3, "BHD IQD JOD KWD LYD OMR TND"),
    (4, "CLF UYW"),
];

/// The largest amount that the API takes in one payment: 2^53 - 1 minor units, exact in every JSON reader.
pub const AMOUNT_MINOR_UNITS_MAX: i128 = (1 << 53) - 1;

/// An ISO 4217 currency with its number of decimals.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency {
    code: [u8; 3],
    scale: u8,
}

impl Currency {
    /// Reads an alphabetic code such as `EUR`. Case matters, as it does in ISO 20022.
    pub fn parse(code: &str) -> Result<Self, MoneyError> {
        let unknown = || MoneyError::UnknownCurrency(code.chars().take(8).collect());
        let bytes: [u8; 3] = code.as_bytes().try_into().map_err(|_| unknown())?;
        CURRENCIES
            .iter()
            .find(|(_, codes)| codes.split(' ').any(|known| known == code))
            .map(|(scale, _)| Self { code: bytes, scale: *scale })
            .ok_or_else(unknown)
    }

    /// The three letters.
    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.code).unwrap_or_default()
    }

    /// Number of decimals between the major and the minor unit (EUR 2, JPY 0, KWD 3).
    pub const fn scale(&self) -> u8 {
        self.scale
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// An amount in minor units of one currency. May be negative only as a difference; sides say direction.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Money {
    minor_units: i128,
    currency: Currency,
}

impl Money {
    /// `minor_units` of `currency`.
    pub const fn new(minor_units: i128, currency: Currency) -> Self {
        Self { minor_units, currency }
    }

    /// Nothing, in `currency`.
    pub const fn zero(currency: Currency) -> Self {
        Self::new(0, currency)
    }

    /// An amount that a payment may have: more than zero, at most [`AMOUNT_MINOR_UNITS_MAX`].
    pub fn payable(minor_units: i128, currency: Currency) -> Result<Self, MoneyError> {
        if minor_units <= 0 {
            return Err(MoneyError::NotPositive);
        }
        if minor_units > AMOUNT_MINOR_UNITS_MAX {
            return Err(MoneyError::TooLarge);
        }
        Ok(Self::new(minor_units, currency))
    }

    /// Reads a decimal text such as `12.5` or `0.05`, exactly. More decimals than the currency has are refused, unless
    /// they are zeros; so are signs, exponents, blanks and thousands separators.
    pub fn parse_decimal(text: &str, currency: Currency) -> Result<Self, MoneyError> {
        let malformed = || MoneyError::Malformed(text.chars().take(40).collect());
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() && fraction.is_empty() || !digits(whole) || !digits(fraction) {
            return Err(malformed());
        }
        let significant = fraction.trim_end_matches('0');
        if significant.len() > usize::from(currency.scale) {
            return Err(MoneyError::TooPrecise { currency, decimals_max: currency.scale });
        }
        let padded = format!("{whole}{significant:0<width$}", width = usize::from(currency.scale));
        match padded.trim_start_matches('0') {
            "" => Ok(Self::zero(currency)),
            units => Ok(Self::new(units.parse().map_err(|_| MoneyError::TooLarge)?, currency)),
        }
    }

    /// The integer amount.
    pub const fn minor_units(self) -> i128 {
        self.minor_units
    }

    /// The currency.
    pub const fn currency(self) -> Currency {
        self.currency
    }

    /// Is there nothing?
    pub const fn is_zero(self) -> bool {
        self.minor_units == 0
    }

    /// The sum; an error when currencies differ or it does not fit.
    pub fn checked_add(self, other: Self) -> Result<Self, MoneyError> {
        self.combine(other, i128::checked_add)
    }

    /// The difference; an error when currencies differ or it does not fit.
    pub fn checked_sub(self, other: Self) -> Result<Self, MoneyError> {
        self.combine(other, i128::checked_sub)
    }

    /// `basis_points` ten-thousandths of this amount, rounded down to a whole minor unit.
    pub fn basis_points_down(self, basis_points: u16) -> Result<Self, MoneyError> {
        let scaled = self.minor_units.checked_mul(i128::from(basis_points)).ok_or(MoneyError::TooLarge)?;
        Ok(Self::new(scaled.div_euclid(10_000), self.currency))
    }

    /// The amount in the smallest units of a token that has `token_decimals` decimals. Exact or an error.
    pub fn to_token_units(self, token_decimals: u8) -> Result<u128, MoneyError> {
        let units = u128::try_from(self.minor_units).map_err(|_| MoneyError::NotPositive)?;
        units.checked_mul(token_factor(self.currency, token_decimals)?).ok_or(MoneyError::TooLarge)
    }

    /// Back from token units. A remainder below one minor unit is an error, never rounded.
    pub fn from_token_units(units: u128, token_decimals: u8, currency: Currency) -> Result<Self, MoneyError> {
        let factor = token_factor(currency, token_decimals)?;
        if !units.is_multiple_of(factor) {
            return Err(MoneyError::TooPrecise { currency, decimals_max: currency.scale });
        }
        let minor_units = units.checked_div(factor).and_then(|whole| i128::try_from(whole).ok());
        Ok(Self::new(minor_units.ok_or(MoneyError::TooLarge)?, currency))
    }

    fn combine(self, other: Self, operation: fn(i128, i128) -> Option<i128>) -> Result<Self, MoneyError> {
        if self.currency != other.currency {
            return Err(MoneyError::CurrencyMismatch(self.currency, other.currency));
        }
        let minor_units = operation(self.minor_units, other.minor_units).ok_or(MoneyError::TooLarge)?;
        Ok(Self { minor_units, currency: self.currency })
    }
}

/// How many token units one minor unit is.
fn token_factor(currency: Currency, token_decimals: u8) -> Result<u128, MoneyError> {
    token_decimals
        .checked_sub(currency.scale)
        .and_then(|exponent| 10u128.checked_pow(u32::from(exponent)))
        .ok_or(MoneyError::TokenTooCoarse { currency, token_decimals })
}

/// Decimal text with the currency's decimals and its code, as `12.50 EUR`.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scale = usize::from(self.currency.scale);
        let sign = if self.minor_units < 0 { "-" } else { "" };
        let digits = format!("{:0>width$}", self.minor_units.unsigned_abs(), width = scale.saturating_add(1));
        let (whole, fraction) = digits.split_at(digits.len().saturating_sub(scale));
        let point = if scale == 0 { "" } else { "." };
        write!(f, "{sign}{whole}{point}{fraction} {}", self.currency)
    }
}

impl fmt::Debug for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why an amount or a currency was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Not a current ISO 4217 code.
    #[error("{0:?} is not an ISO 4217 currency in use")]
    UnknownCurrency(String),
    /// Not plain decimal digits.
    #[error("{0:?} is not a plain decimal amount")]
    Malformed(String),
    /// More decimals than the currency has.
    #[error("an amount in {currency} has at most {decimals_max} decimals")]
    TooPrecise {
        /// The currency in question.
        currency: Currency,
        /// How many decimals it has.
        decimals_max: u8,
    },
    /// The token has fewer decimals than the currency.
    #[error("a token with {token_decimals} decimals cannot carry {currency}")]
    TokenTooCoarse {
        /// The currency in question.
        currency: Currency,
        /// Decimals of the token.
        token_decimals: u8,
    },
    /// Zero or negative where something must move.
    #[error("the amount must be more than zero")]
    NotPositive,
    /// Larger than can be carried.
    #[error("the amount is too large")]
    TooLarge,
    /// Two currencies in one sum.
    #[error("{0} and {1} cannot be added")]
    CurrencyMismatch(Currency, Currency),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, currency: &str, expected: Result<i128, &str>) {
        let currency = Currency::parse(currency).unwrap();
        let read =
            Money::parse_decimal(text, currency).map(Money::minor_units).map_err(|error| error.to_string());
        assert_eq!(read, expected.map_err(str::to_owned), "{text} {currency}");
    }

    #[test]
    fn decimal_text_is_read_exactly_or_refused() {
        check("33.95", "EUR", Ok(3395));
        check("33.9500000", "EUR", Ok(3395));
        check(".5", "EUR", Ok(50));
        check("7.", "EUR", Ok(700));
        check("0", "EUR", Ok(0));
        check("500", "JPY", Ok(500));
        check("1.234", "KWD", Ok(1234));
        check("1.005", "EUR", Err("an amount in EUR has at most 2 decimals"));
        check("1.5", "JPY", Err("an amount in JPY has at most 0 decimals"));
        for malformed in ["", ".", "-1", "+1", "1e3", " 1", "1,5", "0x10", "1.2.3"] {
            check(malformed, "EUR", Err(&format!("{malformed:?} is not a plain decimal amount")));
        }
        check(&"9".repeat(60), "EUR", Err("the amount is too large"));
    }

    #[test]
    fn every_amount_survives_text_and_token_units() {
        let samples = [1, 9, 10, 99, 100, 101, 12_345_678_901, AMOUNT_MINOR_UNITS_MAX];
        for (currency, minor_units) in
            ["EUR", "JPY", "KWD", "CLF"].into_iter().flat_map(|code| samples.map(|units| (code, units)))
        {
            let currency = Currency::parse(currency).unwrap();
            let money = Money::payable(minor_units, currency).unwrap();
            let text = money.to_string();
            assert_eq!(Money::parse_decimal(text.split_once(' ').unwrap().0, currency), Ok(money));
            let units = money.to_token_units(6).unwrap();
            assert_eq!(Money::from_token_units(units, 6, currency), Ok(money));
            assert!(Money::from_token_units(units + 1, 6, currency).is_err(), "a remainder is never rounded");
        }
    }

    #[test]
    fn currencies_do_not_mix_and_unknown_ones_do_not_exist() {
        let euro = Money::payable(1, Currency::parse("EUR").unwrap()).unwrap();
        let yen = Money::payable(1, Currency::parse("JPY").unwrap()).unwrap();
        assert!(matches!(euro.checked_add(yen), Err(MoneyError::CurrencyMismatch(..))));
        for unknown in ["", "eur", "EU", "EURO", "XXX", "DEM", "€UR", "A D"] {
            assert!(matches!(Currency::parse(unknown), Err(MoneyError::UnknownCurrency(_))), "{unknown}");
        }
    }
}
