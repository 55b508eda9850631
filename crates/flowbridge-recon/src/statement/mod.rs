//! Statements: what a bank says happened on an account, whatever the format it says it in.
//!
//! A file is hostile until read: size, depth, lengths and numbers are capped, and that while it is read, not afterwards.
//! A document type is refused, amounts are exact decimals or the file is refused, and no input makes a reader panic.
//! Reading says what stands in the file; whether it adds up is the gates' question, and a file that does not add up is
//! read and reported, never repaired. Equal lines are kept and numbered, since two equal payments are common; the same
//! file twice is known by its hash.

mod bai2;
mod camt;
mod csv;
mod mt940;
mod ofx;
mod xml;

pub use self::csv::{CsvMapping, DebitSign};

use crate::date::Date;
use crate::gate::StatementHead;
use crate::record::Record;
use flowbridge_domain::money::{Currency, Money};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Largest accepted file.
pub const FILE_BYTES_MAX: usize = 256 << 20;
/// Most entries of one file.
pub const ENTRIES_MAX: usize = 5_000_000;
/// Most statements of one file.
pub const STATEMENTS_MAX: usize = 100_000;
/// Most fields or records of one file, in the formats that have them: a few make an entry.
const PARTS_MAX: usize = 3 * ENTRIES_MAX;
const TEXT_CHARS_MAX: usize = 2_000;

/// The formats that are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// ISO 20022 camt.052, camt.053 or camt.054.
    Camt,
    /// SWIFT MT940 or MT942.
    Mt940,
    /// BAI2.
    Bai2,
    /// OFX, as SGML or XML.
    Ofx,
    /// Comma-separated values, by a declared mapping.
    Csv,
}

/// A balance as the bank states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Balance {
    /// Signed minor units; negative is overdrawn.
    pub minor_units: i128,
    /// The day.
    pub on: Option<Date>,
}

/// One statement of one account.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Statement {
    /// The bank's id of the statement.
    pub id: String,
    /// The account, an IBAN where the bank says it is one.
    pub account: String,
    /// Three letters; empty where the file does not say.
    pub currency: String,
    /// Number of the statement.
    pub sequence: Option<u64>,
    /// Booked balance before the first entry.
    pub opening: Option<Balance>,
    /// Booked balance after the last entry.
    pub closing: Option<Balance>,
    /// The lines.
    pub entries: Vec<Entry>,
    /// What the file's own check sums contradict.
    pub contradictions: Vec<String>,
}

/// One line of a statement.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Entry {
    /// Signed minor units, credits positive.
    pub minor_units: i128,
    /// Three letters, where the line says.
    pub currency: String,
    /// When it was posted.
    pub booked_on: Option<Date>,
    /// From when it counts.
    pub value_on: Option<Date>,
    /// End-to-end id or the customer's reference.
    pub reference: String,
    /// The bank's own reference.
    pub bank_reference: String,
    /// The batch it was booked in.
    pub batch: String,
    /// The other party.
    pub counterparty: String,
    /// The other party's account.
    pub counterparty_iban: String,
    /// Remittance information and whatever else the bank writes.
    pub text: String,
    /// The bank's transaction code.
    pub code: String,
    /// A reversal or return.
    pub is_return: bool,
    /// Booked, or only announced?
    pub is_pending: bool,
    /// How many equal lines stand before this one in the file.
    pub occurrence: u32,
}

/// Why a file is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadStatementError {
    /// Split it.
    #[error("more than {FILE_BYTES_MAX} bytes, {STATEMENTS_MAX} statements or {ENTRIES_MAX} entries")]
    TooLarge,
    /// None of the formats.
    #[error("not a statement in camt.052/053/054, MT940/942, BAI2, OFX, or CSV with a mapping")]
    UnknownFormat,
    /// Broken, or made to break a reader.
    #[error("line {line}: {problem}")]
    Malformed {
        /// Counted from 1; 0 where it is about the whole file.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// The file is whole and holds no statement.
    #[error("the file holds no statement")]
    Nothing,
}

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatementFile {
    /// SHA-256 of the file: the same file twice has the same.
    pub sha256: String,
    /// Its format.
    pub format: Format,
    /// Its statements.
    pub statements: Vec<Statement>,
}

/// Reads a file of any format but CSV, which needs a mapping.
pub fn read(file: &[u8], mapping: Option<&CsvMapping>) -> Result<StatementFile, ReadStatementError> {
    if file.len() > FILE_BYTES_MAX {
        return Err(ReadStatementError::TooLarge);
    }
    let format = if mapping.is_some() { Format::Csv } else { detect(file)? };
    let mut statements = match (format, mapping) {
        (Format::Csv, Some(mapping)) => csv::read(file, mapping)?,
        (Format::Csv, None) => return Err(ReadStatementError::UnknownFormat),
        (Format::Camt, _) => camt::read(file)?,
        (Format::Mt940, _) => mt940::read(&decode(file))?,
        (Format::Bai2, _) => bai2::read(&decode(file))?,
        (Format::Ofx, _) => ofx::read(&decode(file))?,
    };
    if statements.is_empty() {
        return Err(ReadStatementError::Nothing);
    }
    let entries: usize = statements.iter().map(|statement| statement.entries.len()).sum();
    within_limits(statements.len(), entries)?;
    let mut seen: BTreeMap<u64, u32> = BTreeMap::new();
    for statement in &mut statements {
        number_repeats(statement, &mut seen);
    }
    let sha256 = Sha256::digest(file).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(StatementFile { sha256, format, statements })
}

/// Asked as a reader goes on, because a few bytes of a file can ask for hundreds in memory.
fn within_limits(statements: usize, entries: usize) -> Result<(), ReadStatementError> {
    if statements > STATEMENTS_MAX || entries > ENTRIES_MAX {
        return Err(ReadStatementError::TooLarge);
    }
    Ok(())
}

impl StatementFile {
    /// The heads that the gates check, in the order of the file.
    pub fn heads(&self) -> Vec<StatementHead> {
        self.statements
            .iter()
            .filter_map(|statement| {
                let (opening, closing) = (statement.opening?, statement.closing?);
                let sum = statement
                    .entries
                    .iter()
                    .filter(|entry| !entry.is_pending)
                    .try_fold(0i128, |sum, entry| sum.checked_add(entry.minor_units));
                Some(StatementHead {
                    account: statement.account.clone(),
                    currency: Currency::parse(&statement.currency).ok()?,
                    sequence: statement.sequence,
                    opening_minor_units: opening.minor_units,
                    closing_minor_units: closing.minor_units,
                    // A sum that does not fit cannot agree with any balance.
                    entries_minor_units: sum.unwrap_or(i128::MAX),
                })
            })
            .collect()
    }

    /// Booked lines as records to match. Lines without a currency or a day cannot be compared and are left out, with a
    /// count.
    pub fn records(&self) -> (Vec<Record>, usize) {
        let (mut records, mut left_out) = (Vec::new(), 0);
        for (number, statement) in self.statements.iter().enumerate() {
            let account: Arc<str> = Arc::from(statement.account.as_str());
            for (place, entry) in statement.entries.iter().enumerate().filter(|(_, entry)| !entry.is_pending)
            {
                let code = if entry.currency.is_empty() { &statement.currency } else { &entry.currency };
                let day = entry.booked_on.or(entry.value_on);
                let (Ok(currency), Some(booked_on)) = (Currency::parse(code), day) else {
                    left_out += 1;
                    continue;
                };
                records.push(Record {
                    id: format!("{}:{}:{}", &self.sha256[..12], number + 1, place + 1).into(),
                    account: Arc::clone(&account),
                    currency,
                    minor_units: entry.minor_units,
                    booked_on,
                    value_on: entry.value_on,
                    reference: entry.reference.as_str().into(),
                    batch: entry.batch.as_str().into(),
                    counterparty_iban: entry.counterparty_iban.as_str().into(),
                    counterparty: entry.counterparty.as_str().into(),
                    text: entry.text.as_str().into(),
                    rail: entry.code.as_str().into(),
                    is_return: entry.is_return,
                });
            }
        }
        (records, left_out)
    }
}

fn number_repeats(statement: &mut Statement, seen: &mut BTreeMap<u64, u32>) {
    for entry in &mut statement.entries {
        let key = crate::text::hash64(
            format!(
                "{}|{}|{}|{:?}|{:?}|{}|{}|{}|{}",
                statement.account,
                entry.minor_units,
                entry.currency,
                entry.booked_on,
                entry.value_on,
                entry.reference,
                entry.bank_reference,
                entry.counterparty,
                entry.text
            )
            .as_bytes(),
        );
        let count = seen.entry(key).or_default();
        entry.occurrence = *count;
        *count += 1;
    }
}

fn detect(file: &[u8]) -> Result<Format, ReadStatementError> {
    // Whole pairs of bytes, so that UTF-16 is not cut in the middle.
    let head = decode(&file[..file.len().min(4_096)]);
    let head = head.trim_start();
    if head.starts_with("OFXHEADER") || head.contains("<OFX>") || head.contains("<?OFX") {
        return Ok(Format::Ofx);
    }
    if head.starts_with('<') {
        return Ok(Format::Camt);
    }
    if head.starts_with("01,") {
        return Ok(Format::Bai2);
    }
    let is_tag = |line: &str| mt940::tag(line.trim_start_matches(['\u{1}', '{'])).is_some();
    if head.lines().any(is_tag) || head.contains("{4:") {
        return Ok(Format::Mt940);
    }
    Err(ReadStatementError::UnknownFormat)
}

/// Text of a file in UTF-8, UTF-16, or else the Latin alphabet that old formats are written in; lines end in one way.
fn decode(file: &[u8]) -> String {
    let text = unicode(file).unwrap_or_else(|| windows_1252(file));
    if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text }
}

/// UTF-16 by its mark, or by the zeros of its first letters; else UTF-8, if it is that.
fn unicode(file: &[u8]) -> Option<String> {
    let units = |bytes: &[u8], read: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| read([pair[0], pair[1]])).collect();
        String::from_utf16(&units).ok().filter(|_| bytes.len().is_multiple_of(2))
    };
    match file {
        [0xff, 0xfe, rest @ ..] => units(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => units(rest, u16::from_be_bytes),
        [1..=127, 0, 1..=127, 0, ..] => units(file, u16::from_le_bytes),
        [0, 1..=127, 0, 1..=127, ..] => units(file, u16::from_be_bytes),
        _ => std::str::from_utf8(file).ok().map(|text| text.trim_start_matches('\u{feff}').to_owned()),
    }
}

/// Every byte is a letter there, so that this never fails.
fn windows_1252(file: &[u8]) -> String {
    const FROM_80: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}',
        '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
    ];
    file.iter()
        .map(|byte| match byte {
            0x80..=0x9f => FROM_80[usize::from(byte - 0x80)],
            other => char::from(*other),
        })
        .collect()
}

/// A number as people write it: of a full stop and a comma, the last is the decimal mark.
fn plain_decimal(text: &str) -> String {
    match (text.rfind('.'), text.rfind(',')) {
        (Some(stop), Some(comma)) if stop > comma => text.replace(',', ""),
        (Some(_), Some(_)) => text.replace('.', "").replacen(',', ".", 1),
        (None, Some(_)) => text.replacen(',', ".", 1),
        (_, None) => text.to_owned(),
    }
}

/// An unsigned decimal with a full stop, in minor units of the currency. Currencies that are unknown or withdrawn (old
/// files are in DEM) have two decimals; their lines are read and never matched.
fn amount(text: &str, currency: &str) -> Result<i128, String> {
    let is_code = currency.len() == 3 && currency.bytes().all(|byte| byte.is_ascii_uppercase());
    let known = Currency::parse(currency)
        .or_else(|error| if currency.is_empty() || is_code { Currency::parse("EUR") } else { Err(error) });
    let currency = known.map_err(|error| error.to_string())?;
    let money = Money::parse_decimal(text.trim(), currency).map_err(|error| error.to_string())?;
    Ok(money.minor_units())
}

/// As [`amount`], with a sign before or after it.
fn signed_amount(text: &str, currency: &str) -> Result<i128, String> {
    let text = text.trim();
    let (is_negative, digits) = match (text.strip_prefix('-'), text.strip_suffix('-')) {
        (Some(digits), _) | (None, Some(digits)) => (true, digits),
        (None, None) => match text.strip_prefix('\u{2212}') {
            Some(digits) => (true, digits),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        },
    };
    let units = amount(digits, currency)?;
    Ok(if is_negative { -units } else { units })
}

/// Text of one line: no line ends, no control characters, not endless.
fn tidy(text: &str) -> String {
    let mut tidy = String::with_capacity(text.len().min(TEXT_CHARS_MAX));
    for letter in
        text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(TEXT_CHARS_MAX)
    {
        if letter != ' ' || !tidy.ends_with(' ') && !tidy.is_empty() {
            tidy.push(letter);
        }
    }
    tidy.truncate(tidy.trim_end().len());
    tidy
}
