//! BAI2: records of comma-separated fields, ended by a slash, several on a line or one over several lines.
//!
//! Amounts are minor units already. Control totals that do not add up are kept as contradictions of the statement. A file without its
//! trailer was cut off, and a group that deletes, corrects or tests is no statement: both are refused.

use super::{Balance, Entry, PARTS_MAX, ReadStatementError, Statement, tidy, within_limits};
use crate::date::Date;

/// Longest record with its continuations; its fields are counted one by one.
const RECORD_BYTES_MAX: usize = 1 << 20;

const CODES: [&str; 8] = ["01", "02", "03", "16", "49", "88", "98", "99"];

pub(super) fn read(text: &str) -> Result<Vec<Statement>, ReadStatementError> {
    let mut reader = Bai2::default();
    for (line, record) in records(text)? {
        reader.take(&record).map_err(|problem| ReadStatementError::Malformed {
            line,
            problem: format!("{problem}: {}", tidy(&record)),
        })?;
        within_limits(reader.statements.len(), reader.entries)?;
    }
    reader
        .close_entry()
        .and_then(|()| reader.ends())
        .map_err(|problem| ReadStatementError::Malformed { line: 0, problem })?;
    Ok(reader.statements)
}

/// A record begins where a known code and a comma stand after a slash or a line's end.
fn records(text: &str) -> Result<Vec<(usize, String)>, ReadStatementError> {
    let mut records: Vec<(usize, String)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut rest = line.trim_end_matches('\r');
        let mut is_begin = true;
        while !rest.is_empty() {
            let starts = begins(rest.trim_start());
            if is_begin && starts {
                if records.len() >= PARTS_MAX {
                    let problem = format!("more than {PARTS_MAX} records");
                    return Err(ReadStatementError::Malformed { line: number + 1, problem });
                }
                rest = rest.trim_start();
                records.push((number + 1, String::new()));
            }
            let cut = rest
                .match_indices('/')
                .map(|(place, _)| place + 1)
                .find(|place| begins(rest[*place..].trim_start()));
            let (piece, next) = rest.split_at(cut.unwrap_or(rest.len()));
            if let Some((_, record)) = records.last_mut() {
                if !record.is_empty() {
                    record.push(' ');
                }
                record.push_str(piece);
            }
            rest = next;
            is_begin = true;
        }
    }
    for (_, record) in &mut records {
        let trimmed = record.trim_end();
        let length = trimmed.strip_suffix('/').unwrap_or(trimmed).len();
        record.truncate(length);
    }
    Ok(records)
}

fn begins(text: &str) -> bool {
    text.get(..2).is_some_and(|code| CODES.contains(&code)) && text[2..].starts_with(',')
}

#[derive(Default)]
struct Bai2 {
    statements: Vec<Statement>,
    /// Of all statements.
    entries: usize,
    group_currency: String,
    as_of: Option<Date>,
    total: i128,
    /// The entry record being read, with its continuations.
    entry: Option<String>,
    account: bool,
    /// A file has begun, and its trailer has not come.
    is_begun: bool,
}

impl Bai2 {
    fn ends(&self) -> Result<(), String> {
        if self.is_begun { Err("no trailer (99) where a file ends: it was cut off".into()) } else { Ok(()) }
    }

    fn take(&mut self, record: &str) -> Result<(), String> {
        let (code, rest) = record.split_once(',').unwrap_or((record, ""));
        let begun = self.entry.as_ref().filter(|_| code == "88").map_or(0, String::len);
        if begun + record.len() > RECORD_BYTES_MAX {
            return Err(format!("a record of more than {RECORD_BYTES_MAX} bytes"));
        }
        if code == "88" {
            if let Some(entry) = &mut self.entry {
                entry.push(' ');
                entry.push_str(rest);
            } else if self.account {
                self.summaries(rest)?;
            }
            return Ok(());
        }
        self.close_entry()?;
        self.account = code == "03";
        let fields: Vec<&str> = rest.split(',').collect();
        let field = |place: usize| fields.get(place).copied().unwrap_or("").trim();
        match code {
            "01" => {
                self.ends()?;
                self.is_begun = true;
            }
            "99" => self.is_begun = false,
            "02" => {
                // 2 deletes what another file told, 3 corrects it, 4 is a test.
                if field(2) != "1" {
                    return Err(format!("a group of status {:?}; only 1, an update, is read", field(2)));
                }
                self.as_of = Date::parse_yymmdd(field(3));
                self.group_currency = if field(5).is_empty() { "USD".into() } else { field(5).to_owned() };
            }
            "03" => {
                self.total = 0;
                let currency = if field(1).is_empty() { &self.group_currency } else { field(1) };
                self.statements.push(Statement {
                    account: tidy(field(0)),
                    currency: tidy(currency),
                    ..Statement::default()
                });
                let skipped = rest.splitn(3, ',').nth(2).unwrap_or_default().to_owned();
                self.summaries(&skipped)?;
            }
            "16" => self.entry = Some(rest.to_owned()),
            "49" => {
                let stated = units(field(0))?;
                if let Some(statement) = self.statements.last_mut()
                    && stated != self.total
                {
                    let total = self.total;
                    statement.contradictions.push(format!("control total {stated}, records sum to {total}"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Type, amount, count, funds type; and what the funds type brings with it.
    fn summaries(&mut self, text: &str) -> Result<(), String> {
        let fields: Vec<&str> = text.split(',').map(str::trim).collect();
        let mut place = 0;
        while place + 1 < fields.len() {
            let (kind, amount) = (fields[place], fields[place + 1]);
            if !amount.is_empty() {
                let minor_units = units(amount)?;
                self.total = self.total.checked_add(minor_units).ok_or("the sum does not fit")?;
                let balance = Balance { minor_units, on: self.as_of };
                if let Some(statement) = self.statements.last_mut() {
                    match kind {
                        "010" => statement.opening = Some(balance),
                        "015" => statement.closing = Some(balance),
                        _ => {}
                    }
                }
            }
            place += 4 + funds(&fields, place + 3);
        }
        Ok(())
    }

    fn close_entry(&mut self) -> Result<(), String> {
        let Some(entry) = self.entry.take() else { return Ok(()) };
        let fields: Vec<&str> = entry.split(',').collect();
        let field = |place: usize| fields.get(place).copied().unwrap_or("").trim();
        let kind: u32 = field(0).parse().map_err(|_| "no type code")?;
        let amount = units(field(1))?;
        let skipped = funds(&fields, 2);
        let value_on = (field(2) == "V").then(|| Date::parse_yymmdd(field(3))).flatten();
        self.total = self.total.checked_add(amount).ok_or("the sum does not fit")?;
        let text = fields.get(5 + skipped..).unwrap_or_default().join(",");
        let as_of = self.as_of;
        let statement = self.statements.last_mut().ok_or("an entry before any account")?;
        self.entries += 1;
        statement.entries.push(Entry {
            // Codes 100 to 399 are credits, 400 to 699 debits; codes of a bank's own from 900 on are by sign.
            minor_units: if (400..700).contains(&kind) { -amount } else { amount },
            currency: statement.currency.clone(),
            booked_on: as_of.or(value_on),
            value_on: value_on.or(as_of),
            bank_reference: tidy(field(3 + skipped)),
            reference: tidy(field(4 + skipped)),
            text: tidy(&text),
            code: kind.to_string(),
            is_return: matches!(kind, 355 | 555 | 357 | 557),
            ..Entry::default()
        });
        Ok(())
    }
}

/// How many more fields a funds type has.
fn funds(fields: &[&str], place: usize) -> usize {
    match fields.get(place).copied().unwrap_or("").trim() {
        "S" => 3,
        "V" => 2,
        "D" => {
            1 + 2 * fields
                .get(place + 1)
                .and_then(|count| count.trim().parse::<usize>().ok())
                .unwrap_or(0)
                .min(1_000)
        }
        _ => 0,
    }
}

fn units(text: &str) -> Result<i128, String> {
    if text.len() > 30 {
        return Err("an amount that is too long".into());
    }
    text.trim_start_matches('+').parse().map_err(|_| format!("no amount {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "01,1,2,261120,1,1,,,2/\n02,1,2,1,261120,,USD,/\n03,9,,010,100,,/\n49,100,2/\n98,100,1,4/\n99,100,1,6/\n";

    #[test]
    fn a_file_without_its_trailer_is_refused() {
        assert_eq!(read(FILE).unwrap().len(), 1);
        assert_eq!(read(&FILE.repeat(2)).unwrap().len(), 2);
        let cut = &FILE[..FILE.find("99,").unwrap()];
        for file in [cut.to_owned(), format!("{cut}{FILE}"), format!("{FILE}{cut}")] {
            let refused = read(&file).unwrap_err().to_string();
            assert!(refused.contains("it was cut off"), "{refused}");
        }
    }

    #[test]
    fn a_group_that_is_no_update_is_refused() {
        for status in ["2", "3", "4", ""] {
            let refused =
                read(&FILE.replace("02,1,2,1,", &format!("02,1,2,{status},"))).unwrap_err().to_string();
            assert!(refused.contains("only 1, an update, is read"), "{refused}");
        }
    }
}
