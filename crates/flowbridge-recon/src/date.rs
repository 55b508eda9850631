//! Calendar days, as statements carry them: no time of day, no zone.
//!
//! Matching needs only differences of days, so a day is a number. Impossible days such as 30 February are refused here;
//! a reader that must accept a bank's habit of writing them decides so itself, by [`Date::from_civil_saturating`].

use std::fmt;

/// A day, counted from 1970-01-01.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Date(i32);

impl Date {
    /// The day that many days after 1970-01-01.
    pub const fn from_epoch_days(days: i32) -> Self {
        Self(days)
    }

    /// Days since 1970-01-01.
    pub const fn epoch_days(self) -> i32 {
        self.0
    }

    /// A day of the calendar; `None` where there is no such day.
    pub fn from_civil(year: i32, month: u32, day: u32) -> Option<Self> {
        let exists = (1..=9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=days_in_month(year, month)).contains(&day);
        exists.then(|| Self(days_from_civil(year, month, day)))
    }

    /// As [`Date::from_civil`], but the 29th to 31st of a shorter month is its last day: some banks count 30 days
    /// in every month, and their 30 February is the end of February.
    pub fn from_civil_saturating(year: i32, month: u32, day: u32) -> Option<Self> {
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return None;
        }
        Self::from_civil(year, month, day.min(days_in_month(year, month)))
    }

    /// Reads `2026-11-23`; what follows the tenth character (a time, a zone) is ignored.
    pub fn parse_iso(text: &str) -> Option<Self> {
        let bytes = text.as_bytes().get(..10)?;
        if bytes[4] != b'-' || bytes[7] != b'-' {
            return None;
        }
        Self::from_civil(
            i32::try_from(digits(&bytes[..4])?).ok()?,
            digits(&bytes[5..7])?,
            digits(&bytes[8..])?,
        )
    }

    /// Reads `YYMMDD`. Two-digit years are of this century, except 80 to 99.
    pub fn parse_yymmdd(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() != 6 {
            return None;
        }
        Self::from_civil_saturating(
            century(digits(&bytes[..2])?),
            digits(&bytes[2..4])?,
            digits(&bytes[4..])?,
        )
    }

    /// Reads `YYYYMMDD`; what follows is ignored.
    pub fn parse_compact(text: &str) -> Option<Self> {
        let bytes = text.as_bytes().get(..8)?;
        Self::from_civil(
            i32::try_from(digits(&bytes[..4])?).ok()?,
            digits(&bytes[4..6])?,
            digits(&bytes[6..])?,
        )
    }

    /// Year, month and day.
    pub const fn civil(self) -> (i32, u32, u32) {
        let z = self.0 as i64 + 719_468;
        let era = z.div_euclid(146_097);
        let day_of_era = z.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let day = (day_of_year - (153 * shifted + 2) / 5 + 1) as u32;
        let month = (if shifted < 10 { shifted + 3 } else { shifted - 9 }) as u32;
        let year = year_of_era + era * 400 + (month <= 2) as i64;
        (year as i32, month, day)
    }

    /// Days from `earlier` to this day; negative when it lies before.
    pub const fn days_since(self, earlier: Self) -> i32 {
        self.0.saturating_sub(earlier.0)
    }

    /// The day `days` later.
    pub const fn plus_days(self, days: i32) -> Self {
        Self(self.0.saturating_add(days))
    }

    /// Saturday or Sunday, when banks do not book.
    pub const fn is_weekend(self) -> bool {
        // 1970-01-01 was a Thursday.
        matches!(self.0.rem_euclid(7), 2 | 3)
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.civil();
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

impl fmt::Debug for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Date {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Date {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse_iso(&text).ok_or_else(|| serde::de::Error::custom("a date is written 2026-11-23"))
    }
}

pub(crate) fn century(year: u32) -> i32 {
    let year = i32::try_from(year).unwrap_or_default();
    if year >= 80 { 1900 + year } else { 2000 + year }
}

fn digits(bytes: &[u8]) -> Option<u32> {
    bytes.iter().try_fold(0u32, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u32::from(byte - b'0')))
}

fn days_in_month(year: i32, month: u32) -> u32 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_from_civil(year: i32, month: u32, day: u32) -> i32 {
    let year = year - i32::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted = (month + 9) % 12;
    let day_of_year = ((153 * shifted + 2) / 5 + day - 1) as i32;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}
