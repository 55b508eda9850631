//! CSV by a declared mapping: nothing is guessed about columns, dates or decimal marks.

use super::{Entry, ReadStatementError, Statement, signed_amount, tidy, within_limits};
use crate::date::Date;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const COLUMNS_MAX: usize = 256;
/// The headers are among the first lines.
const HEADER_LINES_MAX: usize = 50;

/// Which column means what. Columns are named as in the file's first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CsvMapping {
    /// Between fields.
    #[serde(default = "comma")]
    pub delimiter: char,
    /// Between whole and fraction.
    #[serde(default = "full_stop")]
    pub decimal_mark: char,
    /// Between thousands, if any.
    #[serde(default)]
    pub thousands_mark: Option<char>,
    /// How debits stand in their own column, where they have one.
    #[serde(default)]
    pub debit_sign: Option<DebitSign>,
    /// `ymd` (2026-11-23 or 20261123), `dmy` (23.11.2026) or `mdy` (11/23/2026).
    #[serde(default = "year_first")]
    pub date_order: String,
    /// The account, where no column says it.
    #[serde(default)]
    pub account: String,
    /// The currency, where no column says it.
    #[serde(default)]
    pub currency: String,
    /// Meaning to column: `booked_on`, `value_on`, `amount` or `credit` and `debit`, `account`, `currency`,
    /// `reference`, `bank_reference`, `batch`, `counterparty`, `counterparty_iban`, `text`, `code`.
    pub columns: BTreeMap<String, String>,
}

/// How a bank writes what leaves the account in a column of its own. Some write `50.00`, and a storno there as `-50.00`; some write
/// `-50.00`, and a storno as `50.00`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DebitSign {
    /// A debit is `50.00`.
    Plus,
    /// A debit is `-50.00`.
    Minus,
}

/// What a column can mean.
const MEANINGS: [&str; 14] = [
    "account",
    "amount",
    "bank_reference",
    "batch",
    "booked_on",
    "code",
    "counterparty",
    "counterparty_iban",
    "credit",
    "currency",
    "debit",
    "reference",
    "text",
    "value_on",
];

fn comma() -> char {
    ','
}

fn full_stop() -> char {
    '.'
}

fn year_first() -> String {
    "ymd".to_owned()
}

pub(super) fn read(file: &[u8], mapping: &CsvMapping) -> Result<Vec<Statement>, ReadStatementError> {
    let refuse = |line: usize, problem: String| ReadStatementError::Malformed { line, problem };
    if let Some(unknown) = mapping.columns.keys().find(|meaning| !MEANINGS.contains(&meaning.as_str())) {
        return Err(refuse(
            0,
            format!("the mapping has {unknown:?}; a column can mean {}", MEANINGS.join(", ")),
        ));
    }
    let text = super::decode(file);
    let delimiter =
        u8::try_from(mapping.delimiter).map_err(|_| refuse(0, "the delimiter must be one byte".into()))?;
    let mut reader = ::csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .flexible(true)
        .has_headers(false)
        .from_reader(text.as_bytes());
    let mut rows = reader.records();
    let (headers, places) = headers(&mut rows, mapping)?;
    let mut statements: BTreeMap<(String, String), Statement> = BTreeMap::new();
    let mut entries = 0;
    let mut first_debit = None;
    for row in rows {
        within_limits(statements.len(), entries)?;
        let row = row.map_err(|error| refuse(headers, error.to_string()))?;
        let line = row.position().map_or(headers, |position| position.line() as usize);
        if row.iter().all(|field| field.trim().is_empty()) {
            continue;
        }
        let field =
            |meaning: &str| places.get(meaning).and_then(|place| row.get(*place)).unwrap_or("").trim();
        let or_else =
            |meaning: &str, other: &str| tidy(if field(meaning).is_empty() { other } else { field(meaning) });
        let (account, currency) =
            (or_else("account", &mapping.account), or_else("currency", &mapping.currency));
        let number = |meaning: &str| -> Result<i128, ReadStatementError> {
            let mut text = field(meaning).replace(['\u{a0}', '\u{202f}', ' '], "");
            if let Some(mark) = mapping.thousands_mark {
                text = text.replace(mark, "");
            }
            if mapping.decimal_mark != '.' {
                if text.contains('.') {
                    let problem =
                        format!("{meaning}: a full stop in {text:?}, which the mapping does not name");
                    return Err(refuse(line, problem));
                }
                text = text.replacen(mapping.decimal_mark, ".", 1);
            }
            if text.is_empty() {
                return Ok(0);
            }
            signed_amount(&text, &currency).map_err(|problem| refuse(line, format!("{meaning}: {problem}")))
        };
        let minor_units = if places.contains_key("amount") {
            number("amount")?
        } else {
            // Below zero a credit is a storno.
            let debit = debited(number("debit")?, mapping.debit_sign, &mut first_debit);
            number("credit")? + debit.map_err(|problem| refuse(line, format!("debit: {problem}")))?
        };
        let day = |meaning: &str| date(field(meaning), &mapping.date_order);
        let booked_on = day("booked_on").or_else(|| day("value_on"));
        let booked_on = booked_on.ok_or_else(|| refuse(line, "no readable day".into()))?;
        let statement = statements.entry((account.clone(), currency.clone())).or_insert_with(|| Statement {
            account,
            currency: currency.clone(),
            ..Statement::default()
        });
        entries += 1;
        statement.entries.push(Entry {
            minor_units,
            currency,
            booked_on: Some(booked_on),
            value_on: day("value_on"),
            reference: tidy(field("reference")),
            bank_reference: tidy(field("bank_reference")),
            batch: tidy(field("batch")),
            counterparty: tidy(field("counterparty")),
            counterparty_iban: tidy(field("counterparty_iban")),
            text: tidy(field("text")),
            code: tidy(field("code")),
            ..Entry::default()
        });
    }
    Ok(statements.into_values().collect())
}

/// The line of the headers, and the place of each meaning. Many banks write a few lines about the account before the headers:
/// these are the first line that has all columns of the mapping.
fn headers<'a>(
    rows: &mut ::csv::StringRecordsIter<'_, &[u8]>,
    mapping: &'a CsvMapping,
) -> Result<(usize, BTreeMap<&'a str, usize>), ReadStatementError> {
    let refuse = |line: usize, problem: String| ReadStatementError::Malformed { line, problem };
    let mut missing = String::new();
    for row in rows.take(HEADER_LINES_MAX) {
        let row = row.map_err(|error| refuse(1, error.to_string()))?;
        let line = row.position().map_or(1, |position| position.line() as usize);
        if row.len() > COLUMNS_MAX {
            return Err(refuse(line, format!("more than {COLUMNS_MAX} columns")));
        }
        let place = |column: &str| {
            let column = column.trim();
            let names = || row.iter().map(str::trim);
            names()
                .position(|header| header == column)
                .or_else(|| names().position(|header| header.eq_ignore_ascii_case(column)))
        };
        let found: BTreeMap<&str, usize> = mapping
            .columns
            .iter()
            .filter_map(|(meaning, column)| place(column).map(|place| (meaning.as_str(), place)))
            .collect();
        if found.len() == mapping.columns.len() {
            return Ok((line, found));
        }
        if missing.is_empty() {
            let lacking = mapping.columns.iter().find(|(meaning, _)| !found.contains_key(meaning.as_str()));
            missing = lacking.map_or_else(String::new, |(meaning, column)| {
                format!("no line with all columns of the mapping; the first has no {column:?} for {meaning}")
            });
        }
    }
    Err(refuse(1, if missing.is_empty() { "an empty file".to_owned() } else { missing }))
}

/// What a number of the debit column adds to the account. A storno has the other sign than a debit, so the sign alone says nothing: where
/// the mapping does not say how the bank writes debits, all of a file have to be alike, and are debits. `first` is the first one's sign.
fn debited(
    minor_units: i128,
    declared: Option<DebitSign>,
    first: &mut Option<DebitSign>,
) -> Result<i128, String> {
    if minor_units == 0 {
        return Ok(0);
    }
    let found = if minor_units < 0 { DebitSign::Minus } else { DebitSign::Plus };
    let sign = declared.unwrap_or(*first.get_or_insert(found));
    if declared.is_none() && sign != found {
        return Err(
            "debits with and without a minus: say in the mapping which are debits, with debit_sign".into()
        );
    }
    Ok(match sign {
        DebitSign::Plus => -minor_units,
        DebitSign::Minus => minor_units,
    })
}

fn date(text: &str, order: &str) -> Option<Date> {
    let parts: Vec<&str> =
        text.split(|letter: char| !letter.is_ascii_digit()).filter(|part| !part.is_empty()).collect();
    if let [whole] = parts.as_slice() {
        return Date::parse_compact(whole).filter(|_| order == "ymd");
    }
    let number = |place: usize| parts.get(place).and_then(|part| part.parse::<u32>().ok());
    let (a, b, c) = (number(0)?, number(1)?, number(2)?);
    let (year, month, day) = match order {
        "dmy" => (c, b, a),
        "mdy" => (c, a, b),
        _ => (a, b, c),
    };
    let year = if year < 100 { crate::date::century(year) } else { i32::try_from(year).ok()? };
    Date::from_civil(year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amounts(mapping: serde_json::Value, rows: &str) -> Result<Vec<i128>, String> {
        let mapping: CsvMapping = serde_json::from_value(mapping).unwrap();
        let read = read(rows.as_bytes(), &mapping).map_err(|error| error.to_string())?;
        Ok(read.iter().flat_map(|statement| &statement.entries).map(|entry| entry.minor_units).collect())
    }

    #[test]
    fn a_mark_that_the_mapping_does_not_name_is_not_taken_for_the_decimal_one() {
        let mapping = |thousands: Option<char>| {
            serde_json::json!({
                "delimiter": ";", "decimal_mark": ",", "thousands_mark": thousands, "currency": "EUR", "account": "NL1",
                "columns": {"booked_on": "day", "amount": "amount"},
            })
        };
        let row = "day;amount\n2026-11-20;1.500\n";
        let refused = amounts(mapping(None), row).unwrap_err();
        assert!(refused.contains("line 2: amount: a full stop in \"1.500\""), "{refused}");
        assert_eq!(amounts(mapping(Some('.')), row).unwrap(), [150_000]);
    }

    #[test]
    fn a_storno_has_the_other_sign_than_what_it_takes_back() {
        let columns = |sign: Option<&str>, credits: &[&str], debits: &[&str]| {
            let mapping = serde_json::json!({
                "currency": "EUR", "account": "NL1", "debit_sign": sign,
                "columns": {"booked_on": "day", "credit": "in", "debit": "out"},
            });
            let mut rows = "day,in,out\n".to_owned();
            credits.iter().for_each(|credit| rows.push_str(&format!("2026-11-20,{credit},\n")));
            debits.iter().for_each(|debit| rows.push_str(&format!("2026-11-20,0.00,{debit}\n")));
            amounts(mapping, &rows)
        };
        assert_eq!(columns(None, &["5.00", "-5.00"], &[]).unwrap(), [500, -500]);
        assert_eq!(
            columns(None, &[], &["5.00", "6.00"]).unwrap(),
            [-500, -600],
            "as some banks write debits"
        );
        assert_eq!(columns(None, &[], &["-5.00", "-6.00"]).unwrap(), [-500, -600], "as others do");
        let refused = columns(None, &[], &["5.00", "-5.00"]).unwrap_err();
        assert!(refused.contains("debit_sign"), "{refused}");
        assert_eq!(columns(Some("plus"), &[], &["-5.00", "5.00"]).unwrap(), [500, -500]);
        assert_eq!(columns(Some("minus"), &[], &["-5.00", "5.00"]).unwrap(), [-500, 500]);
    }
}
