//! OFX 1 (SGML, closing tags of values left out) and OFX 2 (XML) by the same reader: a tag, and the text up to the next one. What holds
//! others is closed in both, so a file that was cut off is told by what is open at its end.

use super::{
    Balance, Entry, ReadStatementError, Statement, plain_decimal, signed_amount, tidy, within_limits,
};
use crate::date::Date;
use std::collections::BTreeMap;

const TAG_CHARS_MAX: usize = 64;
/// What is read of a transaction; a file may have any other tags, and any number of them.
const FIELDS: [&str; 10] =
    ["ACCTID", "CHECKNUM", "DTAVAIL", "DTPOSTED", "FITID", "MEMO", "NAME", "REFNUM", "TRNAMT", "TRNTYPE"];
/// The currency of a transaction's amount, where that is not the statement's. What it was converted from (`ORIGCURRENCY`) is not read.
const ITS_CURRENCY: &str = "CURRENCY";

pub(super) fn read(text: &str) -> Result<Vec<Statement>, ReadStatementError> {
    let mut statements: Vec<Statement> = Vec::new();
    let mut currency = String::new();
    let mut account = String::new();
    let mut entry: Option<BTreeMap<String, String>> = None;
    let mut balance: Option<String> = None;
    let mut path = "";
    let mut entries = 0;
    let mut is_open = false;
    let mut tags = Tags { rest: text, line: 1 };
    while let Some((line, tag, value)) = tags.read()? {
        within_limits(statements.len(), entries)?;
        let refuse = |problem: String| ReadStatementError::Malformed { line, problem };
        match tag.as_str() {
            "OFX" => is_open = true,
            "/OFX" => is_open = false,
            "CURDEF" => currency = value.to_uppercase(),
            "ACCTID" if entry.is_none() => account = tidy(&value),
            "STMTRS" | "CCSTMTRS" => {
                statements.push(Statement::default());
                // Each statement says its own.
                currency.clear();
            }
            "LEDGERBAL" | "AVAILBAL" => path = if tag == "LEDGERBAL" { "ledger" } else { "" },
            // A bank that leaves it empty tells no balance.
            "BALAMT" if path == "ledger" => balance = Some(value).filter(|units| !units.is_empty()),
            "DTASOF" if path == "ledger" => {
                if let Some(units) = balance.take()
                    && let Some(statement) = statements.last_mut()
                {
                    let minor_units = signed_amount(&plain_decimal(&units), &currency).map_err(refuse)?;
                    statement.closing = Some(Balance { minor_units, on: Date::parse_compact(&value) });
                }
            }
            "STMTTRN" => entry = Some(BTreeMap::new()),
            "CURRENCY" | "ORIGCURRENCY" => path = if tag == ITS_CURRENCY { "currency" } else { "" },
            "CURSYM" if path == "currency" => {
                if let Some(fields) = &mut entry {
                    fields.entry(ITS_CURRENCY.to_owned()).or_insert(value.to_uppercase());
                }
            }
            "/STMTTRN" => {
                if let Some(fields) = entry.take() {
                    let read = entry_of(&fields, &currency).map_err(refuse)?;
                    let statement = statements
                        .last_mut()
                        .ok_or_else(|| refuse("a transaction outside a statement".into()))?;
                    statement.entries.push(read);
                    entries += 1;
                }
            }
            _ => {
                if let Some(fields) = &mut entry
                    && FIELDS.contains(&tag.as_str())
                {
                    fields.entry(tag).or_insert(value);
                }
            }
        }
        if let Some(statement) = statements.last_mut() {
            if statement.account.is_empty() && !account.is_empty() {
                statement.account = std::mem::take(&mut account);
            }
            if statement.currency.is_empty() {
                statement.currency.clone_from(&currency);
            }
        }
    }
    if is_open || entry.is_some() {
        let problem = "the file ends before what it began; ask the bank for all of it".to_owned();
        return Err(ReadStatementError::Malformed { line: tags.line, problem });
    }
    Ok(statements)
}

fn entry_of(fields: &BTreeMap<String, String>, currency: &str) -> Result<Entry, String> {
    let field = |name: &str| fields.get(name).map_or("", String::as_str);
    let day = Date::parse_compact(field("DTPOSTED"));
    let currency = Some(field(ITS_CURRENCY)).filter(|own| !own.is_empty()).unwrap_or(currency);
    Ok(Entry {
        minor_units: signed_amount(&plain_decimal(field("TRNAMT")), currency)?,
        currency: currency.to_owned(),
        booked_on: Some(day.ok_or("no DTPOSTED")?),
        value_on: Date::parse_compact(field("DTAVAIL")).or(day),
        reference: tidy(if field("REFNUM").is_empty() { field("CHECKNUM") } else { field("REFNUM") }),
        bank_reference: tidy(field("FITID")),
        counterparty: tidy(field("NAME")),
        counterparty_iban: tidy(field("ACCTID")),
        text: tidy(field("MEMO")),
        code: tidy(field("TRNTYPE")),
        ..Entry::default()
    })
}

/// Tags, one after another.
struct Tags<'a> {
    rest: &'a str,
    line: usize,
}

impl Tags<'_> {
    /// The next tag in upper case, with its line and the text after it.
    fn read(&mut self) -> Result<Option<(usize, String, String)>, ReadStatementError> {
        while let Some(begin) = self.rest.find('<') {
            self.line += self.rest[..begin].matches('\n').count();
            let line = self.line;
            let after = &self.rest[begin + 1..];
            let refuse = |problem: &str| ReadStatementError::Malformed { line, problem: problem.to_owned() };
            if after.starts_with("!DOCTYPE") || after.starts_with("!ENTITY") {
                return Err(refuse("a document type declaration is not accepted"));
            }
            let end = after.find('>').ok_or_else(|| refuse("a tag that does not end"))?;
            let name = &after[..end];
            let is_instruction = name.starts_with(['?', '!']);
            if name.len() > TAG_CHARS_MAX && !is_instruction {
                return Err(refuse("a tag that is too long"));
            }
            let following = &after[end + 1..];
            let value = &following[..following.find('<').unwrap_or(following.len())];
            self.rest = following;
            if !is_instruction {
                return Ok(Some((line, name.trim().to_uppercase(), unescape(value.trim()))));
            }
        }
        Ok(None)
    }
}

fn unescape(text: &str) -> String {
    if !text.contains('&') {
        return text.to_owned();
    }
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&nbsp;", " ").replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(currency: &str, line: &str) -> String {
        format!(
            "<STMTRS>{currency}<BANKACCTFROM><ACCTID>9</BANKACCTFROM><BANKTRANLIST><STMTTRN><DTPOSTED>20261120\
             <TRNAMT>1.00{line}</STMTTRN></BANKTRANLIST></STMTRS>"
        )
    }

    #[test]
    fn an_empty_balance_is_none_and_the_lines_count_all_the_same() {
        let told = |balance: &str| {
            let ends = format!("<LEDGERBAL>{balance}<DTASOF>20261120</LEDGERBAL></STMTRS>");
            let read = super::read(&statement("<CURDEF>EUR", "").replace("</STMTRS>", &ends)).unwrap();
            (read[0].entries.len(), read[0].closing.map(|closing| closing.minor_units))
        };
        assert_eq!(told("<BALAMT>2.50"), (1, Some(250)));
        for empty in ["<BALAMT>", "<BALAMT> </BALAMT>", ""] {
            assert_eq!(told(empty), (1, None), "{empty}");
        }
        let other = statement("<CURDEF>EUR", "")
            .replace("</STMTRS>", "<LEDGERBAL><BALAMT>x<DTASOF>20261120</STMTRS>");
        assert!(super::read(&other).is_err(), "what is no number is refused");
    }

    #[test]
    fn a_file_that_was_cut_off_is_refused_wherever_it_was_cut() {
        let whole = format!("<OFX><BANKMSGSRSV1>{}</BANKMSGSRSV1></OFX>", statement("<CURDEF>EUR", ""));
        assert_eq!(read(&whole).unwrap()[0].entries.len(), 1);
        for kept in "<OFX>".len()..whole.len() {
            assert!(read(&whole[..kept]).is_err(), "{}", &whole[..kept]);
        }
    }

    #[test]
    fn a_statement_has_its_own_currency_and_a_line_may_have_another() {
        let files = [statement("<CURDEF>USD", ""), statement("", ""), statement("<CURDEF>EUR", "")].concat();
        let read = read(&files).unwrap();
        let currencies: Vec<&str> = read.iter().map(|statement| statement.currency.as_str()).collect();
        assert_eq!(currencies, ["USD", "", "EUR"]);
        let of_line = |line: &str| {
            let read = super::read(&statement("<CURDEF>EUR", line)).unwrap();
            read[0].entries[0].currency.clone()
        };
        assert_eq!(of_line("<CURRENCY><CURRATE>1.1<CURSYM>USD</CURRENCY>"), "USD");
        assert_eq!(
            of_line("<ORIGCURRENCY><CURRATE>1.1<CURSYM>USD</ORIGCURRENCY>"),
            "EUR",
            "it was converted"
        );
    }
}
