//! SWIFT MT940 and MT942, as banks really write them: with and without envelope, wrapped, with letters out of place.
//!
//! Only tags that exist are tags; a line of remittance text that begins with `:26:` is text. A long statement comes in pages, each
//! with a head and balances of its own: they are one statement.

use super::{Balance, Entry, PARTS_MAX, ReadStatementError, Statement, amount, tidy, within_limits};
use crate::date::Date;

const TAGS: [&str; 20] = [
    "13", "13D", "20", "21", "25", "25P", "28", "28C", "34F", "60F", "60M", "61", "62F", "62M", "64", "65",
    "86", "90C", "90D", "NS",
];

/// Name and rest of a line that begins with a tag.
pub(super) fn tag(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.strip_prefix(':')?.split_once(':')?;
    TAGS.contains(&name).then_some((name, rest))
}

pub(super) fn read(text: &str) -> Result<Vec<Statement>, ReadStatementError> {
    let mut pages: Vec<Page> = Vec::new();
    let mut is_new = true;
    let mut entries = 0;
    for (line, name, value) in fields(text)? {
        within_limits(pages.len(), entries)?;
        let refuse =
            |problem: String| ReadStatementError::Malformed { line, problem: format!(":{name}: {problem}") };
        if name == "20" && !is_new || pages.is_empty() {
            pages.push(Page::default());
        }
        is_new = false;
        let Some(page) = pages.last_mut() else { continue };
        let statement = &mut page.statement;
        match name {
            "20" => statement.id = tidy(&value),
            "25" | "25P" => statement.account = tidy(value.lines().next().unwrap_or_default()),
            "28" | "28C" => {
                let number = value.split('/').next().unwrap_or_default().trim();
                statement.sequence = number.parse().ok().filter(|number| *number > 0);
            }
            "34F" if statement.currency.is_empty() => {
                statement.currency = value.get(..3).unwrap_or_default().to_owned();
            }
            "60F" | "60M" => {
                let balance = balance(&value, &mut statement.currency).map_err(refuse)?;
                page.continues |= name == "60M" && statement.opening.is_none();
                statement.opening.get_or_insert(balance);
            }
            "62F" | "62M" => {
                statement.closing = Some(balance(&value, &mut statement.currency).map_err(refuse)?);
                page.is_continued = name == "62M";
            }
            "61" => {
                let entry = entry(&value, &statement.currency).map_err(refuse)?;
                statement.entries.push(entry);
                entries += 1;
            }
            "86" | "NS" => {
                if let Some(entry) = statement.entries.last_mut().filter(|_| page.is_at_a_line) {
                    describe(entry, &value);
                }
            }
            _ => {}
        }
        page.is_interim |= matches!(name, "13" | "13D" | "34F" | "90C" | "90D");
        // After the balances, text is about the statement and not about its last line.
        page.is_at_a_line = name == "61" || page.is_at_a_line && matches!(name, "86" | "NS");
    }
    Ok(statements_of(pages))
}

/// One message: a statement, or a page of one.
#[derive(Default)]
struct Page {
    statement: Statement,
    /// Opens with `:60M:`: there is a page before it.
    continues: bool,
    /// Closes with `:62M:`: there is a page after it.
    is_continued: bool,
    /// MT942, of a day that is not over: it has no balances.
    is_interim: bool,
    is_at_a_line: bool,
}

/// Pages put together where one goes on where the one before ends.
fn statements_of(pages: Vec<Page>) -> Vec<Statement> {
    let mut whole: Vec<Page> = Vec::with_capacity(pages.len());
    for page in pages {
        match whole.last_mut().filter(|before| is_next(before, &page)) {
            Some(before) => {
                before.statement.entries.extend(page.statement.entries);
                before.statement.closing = page.statement.closing;
                before.is_continued = page.is_continued;
            }
            None => whole.push(page),
        }
    }
    let finished = whole.into_iter().map(|Page { mut statement, is_interim, .. }| {
        let missing = match (statement.opening, statement.closing) {
            _ if is_interim => None,
            (Some(_), None) => Some("an opening balance and no closing one: the file was cut off"),
            (None, Some(_)) => Some("a closing balance and no opening one: the file lacks its beginning"),
            (None, None) => Some("no balances, which only an MT942 lacks: the file was cut off"),
            (Some(_), Some(_)) => None,
        };
        statement.contradictions.extend(missing.map(|what| format!("it has {what}")));
        statement
    });
    finished.collect()
}

fn is_next(before: &Page, page: &Page) -> bool {
    let units = |balance: Option<Balance>| balance.map(|balance| balance.minor_units);
    let (one, next) = (&before.statement, &page.statement);
    before.is_continued
        && page.continues
        && (&one.account, one.sequence, &one.currency) == (&next.account, next.sequence, &next.currency)
        && units(one.closing) == units(next.opening)
}

/// Tags with their values, continuation lines joined by line ends.
fn fields(text: &str) -> Result<Vec<(usize, &str, String)>, ReadStatementError> {
    let mut fields: Vec<(usize, &str, String)> = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        if fields.len() >= PARTS_MAX {
            let problem = format!("more than {PARTS_MAX} fields");
            return Err(ReadStatementError::Malformed { line: number + 1, problem });
        }
        let mut line = line.trim_end_matches('\r').trim_start_matches(['\u{1}', '\u{3}']);
        if let Some((_, inner)) = line.split_once("{4:") {
            line = inner;
        }
        // A colon alone at the end of a line belongs to the tag on the next one.
        let is_cut = line == ":"
            && lines
                .peek()
                .is_some_and(|(_, next)| next.split_once(':').is_some_and(|(name, _)| TAGS.contains(&name)));
        if is_cut {
            if let Some((_, next)) = lines.next()
                && let Some((name, rest)) = next.split_once(':')
            {
                fields.push((number + 1, name, rest.to_owned()));
            }
            continue;
        }
        if let Some((name, rest)) = tag(line) {
            fields.push((number + 1, name, rest.to_owned()));
        } else if let Some((_, _, value)) = fields.last_mut()
            && !line.starts_with("-}")
            && line != "-"
            && !line.starts_with("-\u{3}")
            && !line.starts_with('{')
        {
            value.push('\n');
            value.push_str(line);
        }
    }
    Ok(fields)
}

/// `C100318EUR380115,12`
fn balance(value: &str, currency: &mut String) -> Result<Balance, String> {
    let value = value.trim();
    let (mark, day, code, number) = (value.get(..1), value.get(1..7), value.get(7..10), value.get(10..));
    let (Some(mark), Some(day), Some(code), Some(number)) = (mark, day, code, number) else {
        return Err("too short for a balance".into());
    };
    let units = amount(&number.lines().next().unwrap_or_default().replacen(',', ".", 1), code)?;
    code.clone_into(currency);
    let minor_units = match mark {
        "C" => units,
        "D" => -units,
        _ => return Err("neither credit nor debit".into()),
    };
    Ok(Balance { minor_units, on: Date::parse_yymmdd(day) })
}

/// `1101010101D10,00NTRFREFERENCE//BANKREF` and a second line.
fn entry(value: &str, currency: &str) -> Result<Entry, String> {
    let day = value.get(..6).and_then(Date::parse_yymmdd).ok_or("no value date")?;
    let mut rest = &value[6..];
    let mut booked_on = None;
    if let Some(month_day) = rest.get(..4).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit())) {
        booked_on = booking_day(day, month_day);
        rest = &rest[4..];
    }
    // An MT942 marks what is only expected.
    let is_expected = rest.starts_with("EC") || rest.starts_with("ED");
    let is_reversal = rest.starts_with('R');
    rest = rest.strip_prefix(if is_expected { 'E' } else { 'R' }).unwrap_or(rest);
    let is_credit = match rest.chars().next() {
        Some('C') => true,
        Some('D') => false,
        _ => return Err("neither credit nor debit".into()),
    };
    rest = &rest[1..];
    // A letter of the currency may follow, and some banks break the line here.
    rest = rest.strip_prefix(|letter: char| letter.is_ascii_uppercase()).unwrap_or(rest);
    rest = rest.trim_start_matches(['\n', ' ']);
    let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != ',').unwrap_or(rest.len());
    let number = &rest[..end];
    if number.is_empty() || number.len() > 15 {
        return Err("no amount".into());
    }
    let units = amount(&number.replacen(',', ".", 1), currency)?;
    rest = &rest[end..];
    let mut code = "";
    if let Some(found) = rest.get(..4).filter(|text| text.starts_with(|c: char| c.is_ascii_uppercase())) {
        code = found;
        rest = &rest[4..];
    }
    let (first, extra) = rest.split_once('\n').unwrap_or((rest, ""));
    let (reference, bank_reference) = first.split_once("//").unwrap_or((first, ""));
    Ok(Entry {
        // Reversing a credit takes away.
        minor_units: if is_credit == is_reversal { -units } else { units },
        currency: currency.to_owned(),
        booked_on: booked_on.or(Some(day)),
        value_on: Some(day),
        reference: tidy(reference),
        bank_reference: tidy(bank_reference),
        text: tidy(extra),
        code: tidy(code),
        is_return: is_reversal,
        is_pending: is_expected,
        ..Entry::default()
    })
}

/// The booking day has no year: it is the one nearest to the value date.
fn booking_day(value_on: Date, month_day: &str) -> Option<Date> {
    let month = month_day[..2].parse().ok()?;
    let day = month_day[2..].parse().ok()?;
    let (year, _, _) = value_on.civil();
    (year - 1..=year + 1)
        .filter_map(|year| Date::from_civil_saturating(year, month, day))
        .min_by_key(|date| (date.days_since(value_on).abs(), *date))
}

/// Free text, in the German structure of `?20` fields, with `/CODE/` words, or as it stands.
fn describe(entry: &mut Entry, value: &str) {
    let is_structured = value.get(..4).and_then(|head| head.rfind('?')).is_some_and(|place| place > 0);
    if is_structured {
        let joined: String = value.lines().collect();
        let (mut text, mut name) = (String::new(), String::new());
        for part in joined.split('?').skip(1) {
            let (Some(number), Some(content)) = (part.get(..2), part.get(2..)) else { continue };
            match number.parse() {
                Ok(20..=29 | 60..=63) => text.push_str(content),
                Ok(31) => entry.counterparty_iban = tidy(content),
                Ok(32 | 33) => name.push_str(content),
                Ok(0u8..) | Err(_) => {}
            }
        }
        for key in ["EREF+", "KREF+"] {
            if let Some(reference) = sepa_part(&text, key) {
                entry.reference = tidy(reference);
                break;
            }
        }
        entry.counterparty = tidy(&name);
        entry.text = tidy(&format!("{} {text}", entry.text));
        return;
    }
    let joined = value.replace('\n', "");
    if let Some(reference) = slash_part(&joined, "EREF") {
        entry.reference = tidy(reference);
    }
    if let Some(name) = slash_part(&joined, "NAME") {
        entry.counterparty = tidy(name);
    }
    if let Some(account) = slash_part(&joined, "IBAN") {
        entry.counterparty_iban = tidy(account);
    }
    entry.text = tidy(&format!("{} {value}", entry.text));
}

/// The value after `EREF+` up to the next key of that form.
fn sepa_part<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let rest = text.split_once(key)?.1;
    let end = ["EREF+", "KREF+", "MREF+", "CRED+", "DEBT+", "SVWZ+", "ABWA+", "ABWE+", "IBAN+", "BIC+"]
        .into_iter()
        .filter_map(|next| rest.find(next))
        .min()
        .unwrap_or(rest.len());
    Some(&rest[..end])
}

/// The value after `/EREF/` up to the next slash.
fn slash_part<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let rest = text.split_once(&format!("/{key}/"))?.1;
    Some(rest.split('/').next().unwrap_or_default()).filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(amount: &str) -> String {
        format!(":61:2611201120C{amount}NTRFX\n:86:RENT\n")
    }

    fn page(number: &str, opening: &str, lines: &str, closing: &str) -> String {
        format!(":20:A{number}\n:25:NL1\n:28C:{number}\n:60{opening}\n{lines}:62{closing}\n:86:THE PAGE\n-\n")
    }

    #[test]
    fn pages_are_one_statement_where_one_goes_on_where_the_one_before_ends() {
        let first = page("00012/001", "F:C261119EUR1,00", &line("2,00"), "M:C261120EUR3,00");
        let second = page("00012/002", "M:C261120EUR3,00", &line("4,00"), "M:C261120EUR7,00");
        let last = page("00012/003", "M:C261120EUR7,00", &line("8,00"), "F:C261120EUR15,00");
        let read = read(&format!("{first}{second}{last}")).unwrap();
        let [whole] = read.as_slice() else { panic!("one statement: {read:?}") };
        let units = |balance: Option<Balance>| balance.map(|balance| balance.minor_units);
        assert_eq!((units(whole.opening), units(whole.closing)), (Some(100), Some(1_500)));
        assert_eq!((whole.id.as_str(), whole.sequence), ("A00012/001", Some(12)));
        let amounts: Vec<i128> = whole.entries.iter().map(|entry| entry.minor_units).collect();
        assert_eq!(amounts, [200, 400, 800]);
    }

    #[test]
    fn another_statement_is_no_page_of_the_one_before() {
        let first = page("00012/001", "F:C261119EUR1,00", "", "M:C261120EUR1,00");
        let others = [
            page("00012/002", "F:C261120EUR1,00", "", "F:C261120EUR1,00"),
            page("00012/002", "M:C261120EUR2,00", "", "F:C261120EUR2,00"),
            page("00013/002", "M:C261120EUR1,00", "", "F:C261120EUR1,00"),
            page("00012/002", "M:C261120EUR1,00", "", "F:C261120EUR1,00").replace("NL1", "NL2"),
        ];
        for other in others {
            assert_eq!(read(&format!("{first}{other}")).unwrap().len(), 2, "{other}");
        }
    }

    #[test]
    fn what_is_missing_contradicts_a_statement_of_mt940_and_not_one_of_mt942() {
        let whole = page("1/1", "F:C261119EUR1,00", &line("2,00"), "F:C261120EUR3,00");
        let told = |text: &str| read(text).unwrap().pop().unwrap().contradictions;
        assert!(told(&whole).is_empty());
        assert_eq!(told(&whole[..whole.find(":62F:").unwrap()]).len(), 1);
        assert_eq!(told(&whole[..whole.find(":60F:").unwrap()]).len(), 1);
        let interim =
            format!(":20:A\n:25:NL1\n:28C:1/1\n:34F:EUR0,\n:13D:2611201200+0100\n{}-\n", line("2,00"));
        assert!(told(&interim).is_empty());
    }

    #[test]
    fn what_is_expected_is_pending_and_text_after_the_balances_is_about_the_statement() {
        let lines =
            ":61:2611201120EC1,00NTRFX\n:61:2611201120EDR2,00NTRFX\n:61:261120RC3,00NTRFX\n:86:RENT\n";
        let read = read(&page("1/1", "F:C261119EUR1,00", lines, "F:C261120EUR3,00")).unwrap();
        let found: Vec<(i128, bool)> =
            read[0].entries.iter().map(|entry| (entry.minor_units, entry.is_pending)).collect();
        assert_eq!(found, [(100, true), (-200, true), (-300, false)]);
        assert_eq!(read[0].entries[2].text, "RENT");
    }
}
