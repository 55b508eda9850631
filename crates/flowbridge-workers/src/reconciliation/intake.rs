//! Taking statements in: files from people and from a folder, and what connectors tell.
//!
//! A file is read outside the database, is refused when it cannot be read or does not add up, and changes nothing when it came
//! before. Lines are stored in the currency of their statement, so a file with one in another is refused, as is one that tells of days
//! to come. A connector is read from where the last reading ended, up to the instant of the balance that it has just told; what was
//! read has to lead from the last closing balance to this one. Whatever a bank tells, one reading of it ends: what is more than a run may
//! read is for the next, and what cannot be is told of as a gap, while the run goes on.

use super::Settings;
use crate::context::Context;
use flowbridge_bank::connector::{
    BankConnector as _, OwnAccount, ReadError, StatementEntry, StatementRequest,
};
use flowbridge_bank::registry::GuardedBank;
use flowbridge_domain::bank::BankStep;
use flowbridge_domain::id::StatementId;
use flowbridge_domain::money::Currency;
use flowbridge_domain::party::BankCode;
use flowbridge_domain::time::Timestamp;
use flowbridge_recon::date::Date;
use flowbridge_recon::statement::{self, CsvMapping, Entry, Format, ReadStatementError, Statement};
use flowbridge_store::StoreError;
use flowbridge_store::statement::{
    self as rows, Intake, NewLine, NewStatement, Numbers, StatementLine, Taken, TakenStatement,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// A file that somebody brings.
#[derive(Debug, Clone)]
pub struct Upload {
    /// Whose statement it is.
    pub bank: BankCode,
    /// `api` or `folder`.
    pub channel: &'static str,
    /// What the file is called.
    pub name: String,
    /// Who brings it.
    pub by: String,
    /// How a CSV file is to be read, as JSON.
    pub mapping: Option<String>,
    /// Its contents.
    pub file: Vec<u8>,
}

/// Why a file is not taken in.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The mapping is not one.
    #[error("the mapping of columns is not one: {0}")]
    Mapping(String),
    /// It cannot be read.
    #[error("the file cannot be read: {0}")]
    Unreadable(#[from] ReadStatementError),
    /// It contradicts itself.
    #[error("statement {place} of the file, account {account}: {problem}")]
    DoesNotAddUp {
        /// Counted from 1.
        place: usize,
        /// Which account.
        account: String,
        /// What is wrong.
        problem: String,
    },
    /// A statement of that name is here and says something else.
    #[error("statement {place} of the file is named like {known}, which says something else")]
    NamedAlready {
        /// Counted from 1.
        place: usize,
        /// The one that is here.
        known: StatementId,
    },
    /// There is no such bank.
    #[error("there is no such bank")]
    UnknownBank,
    /// They come from the bank's connector.
    #[error("the statements of this bank come from its {0}: they would be taken in twice")]
    OtherSource(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What was taken in, and whether it had been before.
#[derive(Debug, Clone)]
pub struct Uploaded {
    /// The statements.
    pub statements: Vec<TakenStatement>,
    /// The same file was here.
    pub is_repeat: bool,
}

/// Takes a file in.
pub async fn file(context: &Context, upload: Upload) -> Result<Uploaded, UploadError> {
    let Upload { bank, channel, name, by, mapping, file } = upload;
    let mapping: Option<CsvMapping> = mapping
        .map(|text| serde_json::from_str(&text).map_err(|error| UploadError::Mapping(error.to_string())))
        .transpose()?;
    // Reading is work for a processor, and hostile files want a lot of it.
    let read = tokio::task::spawn_blocking(move || statement::read(&file, mapping.as_ref()))
        .await
        .map_err(|error| StoreError::Corrupt(format!("the reader ended: {error}")))??;
    let format = format_name(read.format).to_owned();
    let mut digest = [0; 32];
    hex::decode_to_slice(&read.sha256, &mut digest)
        .map_err(|error| StoreError::Corrupt(format!("the hash of a file: {error}")))?;
    let today = date(context.now()).unwrap_or_default();
    let statements = read
        .statements
        .into_iter()
        .enumerate()
        .map(|(place, statement)| new_statement(place + 1, statement, today))
        .collect::<Result<Vec<_>, _>>()?;
    let name = plain(&name, NAME_CHARS_MAX);
    let intake = Intake { bank, channel, sha256: digest, format, name, by, numbers: None };
    match rows::take(&context.db, &intake, &statements, context.now()).await? {
        Taken::New(statements) => {
            count_in(channel, &statements);
            Ok(Uploaded { statements, is_repeat: false })
        }
        Taken::Repeat(statements) => Ok(Uploaded { statements, is_repeat: true }),
        Taken::UnknownBank => Err(UploadError::UnknownBank),
        Taken::OtherSource(kind) => Err(UploadError::OtherSource(kind)),
        Taken::NamedAlready { place, known } => Err(UploadError::NamedAlready { place, known }),
    }
}

fn count_in(channel: &'static str, statements: &[TakenStatement]) {
    for taken in statements {
        metrics::counter!("statements_total", "bank" => taken.bank.clone(), "channel" => channel)
            .increment(1);
        metrics::counter!("statement_lines_total", "bank" => taken.bank.clone())
            .increment(u64::try_from(taken.lines).unwrap_or(0));
        tracing::info!(
            bank = taken.bank,
            statement.id = %taken.id,
            lines = taken.lines,
            repeated = taken.repeated,
            already_held = taken.already_held,
            gap = taken.gap,
            channel,
            "took a statement in"
        );
    }
}

const fn format_name(format: Format) -> &'static str {
    match format {
        Format::Camt => "camt",
        Format::Mt940 => "mt940",
        Format::Bai2 => "bai2",
        Format::Ofx => "ofx",
        Format::Csv => "csv",
    }
}

/// What an index still holds as a part of a key, in whatever alphabet.
const ACCOUNT_CHARS_MAX: usize = 100;
const NAME_CHARS_MAX: usize = 200;
const CODE_CHARS_MAX: usize = 100;
/// What else a bank writes.
const TEXT_CHARS_MAX: usize = 2_000;

/// Text that the database takes: no control characters, not endless.
pub(super) fn plain(text: &str, chars_max: usize) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(chars_max).collect()
}

/// A statement as it is stored, if it adds up, in one currency, and tells of nothing after tomorrow: it is tomorrow already where a bank
/// is east of us.
fn new_statement(place: usize, read: Statement, today: Date) -> Result<NewStatement, UploadError> {
    let account = read.account.clone();
    let wrong = |problem: String| UploadError::DoesNotAddUp { place, account: account.clone(), problem };
    let units = |units: i128| {
        i64::try_from(units).map_err(|_| wrong(format!("the amount {units} is larger than any account's")))
    };
    if let Some(contradiction) = read.contradictions.first() {
        return Err(wrong(contradiction.clone()));
    }
    for (what, text, chars_max) in
        [("account", &read.account, ACCOUNT_CHARS_MAX), ("name", &read.id, NAME_CHARS_MAX)]
    {
        if text.chars().nth(chars_max).is_some() {
            return Err(wrong(format!("its {what} has more than {chars_max} characters")));
        }
    }
    let booked = read.entries.iter().filter(|entry| !entry.is_pending);
    let sum = booked.map(|entry| entry.minor_units).try_fold(0_i128, i128::checked_add);
    let sum = sum.ok_or_else(|| wrong("its lines have no sum".to_owned()))?;
    // Any part of the lines may be summed up later.
    let moved = read.entries.iter().map(|entry| entry.minor_units.saturating_abs());
    if moved.fold(0_i128, i128::saturating_add) > i64::MAX.into() {
        return Err(wrong("its lines move more than any account can hold".to_owned()));
    }
    if let (Some(opening), Some(closing)) = (read.opening, read.closing)
        && opening.minor_units.checked_add(sum) != Some(closing.minor_units)
    {
        return Err(wrong(format!(
            "opening {} and lines of {sum} do not lead to closing {}, in minor units",
            opening.minor_units, closing.minor_units
        )));
    }
    let currency = if read.currency.is_empty() {
        read.entries.first().map(|entry| entry.currency.clone()).unwrap_or_default()
    } else {
        read.currency.clone()
    };
    if currency.is_empty() {
        return Err(wrong("it does not say its currency".to_owned()));
    }
    if currency.len() != 3 || !currency.bytes().all(|letter| letter.is_ascii_uppercase()) {
        return Err(wrong(format!("{currency:?} is no currency")));
    }
    let is_other = |entry: &&Entry| !entry.currency.is_empty() && entry.currency != currency;
    if let Some(other) = read.entries.iter().find(is_other) {
        return Err(wrong(format!("a line is in {}, the statement in {currency}", other.currency)));
    }
    // As lines are stored: without a day of booking, on that of their value.
    let booked_on = || {
        let booked = read.entries.iter().filter(|entry| !entry.is_pending);
        booked.filter_map(|entry| entry.booked_on.or(entry.value_on))
    };
    // Without a balance it covers the days that it tells of.
    let closes_on = read.closing.and_then(|balance| balance.on).or_else(|| booked_on().max());
    if let Some(day) = booked_on().chain(closes_on).find(|day| day.days_since(today) > 1) {
        return Err(wrong(format!("it tells of {day}, and today is {today}")));
    }
    Ok(NewStatement {
        bank_statement_id: read.id,
        account: read.account.clone(),
        currency,
        sequence: read.sequence.and_then(|number| i64::try_from(number).ok()),
        opening: read.opening.map(|balance| units(balance.minor_units)).transpose()?,
        closing: read.closing.map(|balance| units(balance.minor_units)).transpose()?,
        closes_on: closes_on.map(|day| day.to_string()),
        as_of: None,
        lines: read
            .entries
            .iter()
            .map(|entry| Ok(new_line(entry, units(entry.minor_units)?)))
            .collect::<Result<_, UploadError>>()?,
    })
}

fn new_line(entry: &Entry, amount: i64) -> NewLine {
    let line = StatementLine {
        amount,
        booked_on: entry.booked_on.or(entry.value_on).map(|day| day.to_string()),
        value_on: entry.value_on.map(|day| day.to_string()),
        operation_key: None,
        reference: entry.reference.clone(),
        bank_reference: entry.bank_reference.clone(),
        batch: entry.batch.clone(),
        counterparty: entry.counterparty.clone(),
        counterparty_iban: entry.counterparty_iban.clone(),
        text: entry.text.clone(),
        code: plain(&entry.code, CODE_CHARS_MAX),
        is_return: entry.is_return,
    };
    NewLine {
        line,
        booked_at: None,
        bank_sequence: None,
        is_pending: entry.is_pending,
        occurrence: i32::try_from(entry.occurrence).unwrap_or(i32::MAX),
    }
}

/// Why a connector's statement is not taken in.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The bank does not answer, or not now.
    #[error(transparent)]
    NotNow(ReadError),
    /// What it tells is not whole, or does not add up: no line of it is used, and people have to ask the bank.
    #[error("{0}")]
    Gap(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<ReadError> for FetchError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Incomplete { what, .. } => Self::Gap(what),
            ReadError::Unavailable { .. } | ReadError::Refused { .. } => Self::NotNow(error),
        }
    }
}

/// Reads what a bank has booked since the last time, up to the balance that it tells now. True if there is more than one run may read: the
/// next goes on from there.
pub async fn fetch(
    context: &Context,
    (code, bank): (&BankCode, &GuardedBank),
    settings: &Settings,
) -> Result<bool, FetchError> {
    let balances = bank.balances().await?;
    let began = context.now();
    // A clock may be ahead of ours. A statement is never changed, and one of a later day would stand before all that follow it.
    let latest = began.plus(Duration::from_secs(SECS_PER_DAY.unsigned_abs()));
    if !is_between(balances.as_of, latest) {
        return Err(FetchError::Gap(format!(
            "the bank tells balances of {}, and today is {}",
            day(balances.as_of),
            day(began)
        )));
    }
    let ends = began.plus(settings.lease / 2);
    let mut after = rows::cursor(&context.db, code).await?;
    let mut read = 0_usize;
    loop {
        let lines_max = settings.statement_lines_max.min(settings.records_max.saturating_sub(read)).max(1);
        let (entries, has_more) =
            read_pages((context, bank), (after, balances.as_of), (lines_max, ends), settings).await?;
        let mut last = after;
        for entry in &entries {
            last = checked(entry, latest)?;
        }
        let told_up_to = if has_more {
            entries.last().map_or(balances.as_of, |entry| entry.booked_at.min(balances.as_of))
        } else {
            balances.as_of
        };
        let mut statements = Vec::new();
        let mut by_account: BTreeMap<(OwnAccount, Currency), Vec<&StatementEntry>> = BTreeMap::new();
        for (account, money) in &balances.accounts {
            by_account.entry((*account, money.currency())).or_default();
        }
        for entry in &entries {
            by_account.entry((entry.account, entry.change.currency())).or_default().push(entry);
        }
        for ((account, currency), entries) in by_account {
            let told =
                balances.accounts.iter().find(|(of, money)| *of == account && money.currency() == currency);
            let told = told.map(|(_, money)| money.minor_units()).filter(|_| !has_more);
            let name = account_name(account);
            let before = rows::last_told(&context.db, code, (name, currency.code())).await?;
            let (opening, as_of_before) = before.map_or((0, None), |(closing, as_of)| (closing, as_of));
            // Statements stand in the order of their instants. One that was told of a day that has not come binds nobody.
            let as_of_before = as_of_before.filter(|before| *before <= latest).unwrap_or(told_up_to);
            if as_of_before > balances.as_of {
                return Err(FetchError::Gap(format!(
                    "the bank tells balances of an instant {} seconds before that of its last ones: its clock went back",
                    as_of_before.since(balances.as_of).as_secs_f64()
                )));
            }
            let as_of = told_up_to.max(as_of_before);
            statements.push(connector_statement((account, currency), &entries, opening, told, as_of)?);
        }
        let digest = digest_of(code, (after, last), balances.as_of);
        let intake = Intake {
            bank: code.clone(),
            channel: "connector",
            sha256: digest,
            format: "connector".to_owned(),
            name: format!("entries {} to {last}", after.saturating_add(1)),
            by: context.instance.clone(),
            numbers: Some(Numbers { after, last }),
        };
        match rows::take(&context.db, &intake, &statements, context.now()).await? {
            Taken::New(new) => count_in("connector", &new),
            Taken::Repeat(_) => {}
            Taken::UnknownBank | Taken::OtherSource(_) | Taken::NamedAlready { .. } => return Ok(false),
        }
        read = read.saturating_add(entries.len());
        if !has_more {
            return Ok(false);
        }
        if read >= settings.records_max || context.now() >= ends {
            tracing::warn!(
                bank = code.as_str(),
                read,
                "a bank tells more than one run may read; the next goes on"
            );
            return Ok(true);
        }
        // Where another has read on meanwhile, from there.
        after = rows::cursor(&context.db, code).await?;
    }
}

/// The number of an entry that can be stored: it was booked, and counts, at a time that can be.
fn checked(entry: &StatementEntry, latest: Timestamp) -> Result<i64, FetchError> {
    let number = i64::try_from(entry.sequence).ok();
    let counts_from = entry.value_at.unwrap_or(entry.booked_at);
    number
        .filter(|_| is_between(entry.booked_at, latest) && is_between(counts_from, LAST_INSTANT))
        .ok_or_else(|| {
            FetchError::Gap(format!(
                "entry {} was booked, or counts, at a time that cannot be",
                entry.sequence
            ))
        })
}

fn is_between(at: Timestamp, latest: Timestamp) -> bool {
    (Timestamp::EPOCH..=latest).contains(&at)
}

/// The end of the year 9999.
const LAST_INSTANT: Timestamp = Timestamp::from_secs(253_402_300_799);

/// What one reading of a connector is known by.
fn digest_of(code: &BankCode, (after, last): (i64, i64), as_of: Timestamp) -> [u8; 32] {
    let text = format!("{} {after} {last} {}", code.as_str(), as_of.as_micros());
    flowbridge_security::sha256(text.as_bytes())
}

/// Entries up to a number of lines and a time; and whether there are more.
async fn read_pages(
    (context, bank): (&Context, &GuardedBank),
    (after, until): (i64, Timestamp),
    (lines_max, ends): (usize, Timestamp),
    settings: &Settings,
) -> Result<(Vec<StatementEntry>, bool), FetchError> {
    let mut after = u64::try_from(after).unwrap_or(0);
    let mut entries = Vec::new();
    loop {
        let entries_max = settings.page_entries_max.min(lines_max.saturating_sub(entries.len()));
        let page = bank.statement(StatementRequest { after, booked_until: until, entries_max }).await?;
        if page.has_more && (page.entries.is_empty() || page.next_after <= after) {
            return Err(FetchError::Gap(format!(
                "the bank says that there is more after entry {after}, and does not tell it"
            )));
        }
        after = page.next_after;
        entries.extend(page.entries);
        if !page.has_more || entries.len() >= lines_max || context.now() >= ends {
            return Ok((entries, page.has_more));
        }
    }
}

fn connector_statement(
    (account, currency): (OwnAccount, Currency),
    entries: &[&StatementEntry],
    opening: i64,
    told: Option<i128>,
    as_of: Timestamp,
) -> Result<NewStatement, FetchError> {
    let name = account_name(account);
    let too_large = || FetchError::Gap(format!("an amount on {name} is larger than any account's"));
    let (mut closing, mut moved) = (opening, 0_i64);
    let mut lines = Vec::with_capacity(entries.len());
    for entry in entries {
        let amount = i64::try_from(entry.change.minor_units()).map_err(|_| too_large())?;
        closing = closing.checked_add(amount).ok_or_else(too_large)?;
        // Any part of the lines may be summed up later.
        moved = amount.checked_abs().and_then(|size| moved.checked_add(size)).ok_or_else(too_large)?;
        lines.push(connector_line(entry, amount));
    }
    if let Some(told) = told
        && told != i128::from(closing)
    {
        return Err(FetchError::Gap(format!(
            "{name} in {currency}: opening {opening} and the lines lead to {closing}, the bank says {told}, in minor units"
        )));
    }
    Ok(NewStatement {
        account: name.to_owned(),
        currency: currency.code().to_owned(),
        opening: Some(opening),
        closing: Some(closing),
        closes_on: Some(day(as_of)),
        as_of: Some(as_of),
        lines,
        ..NewStatement::default()
    })
}

fn connector_line(entry: &StatementEntry, amount: i64) -> NewLine {
    let is_given_back = entry.key.is_some_and(|key| key.step == BankStep::Release);
    let line = StatementLine {
        amount,
        booked_on: Some(day(entry.booked_at)),
        value_on: Some(day(entry.value_at.unwrap_or(entry.booked_at))),
        operation_key: entry.key.map(|key| key.to_string()),
        bank_reference: plain(&entry.reference, TEXT_CHARS_MAX),
        text: plain(&entry.text, TEXT_CHARS_MAX),
        is_return: entry.is_return || is_given_back,
        ..StatementLine::default()
    };
    NewLine {
        line,
        booked_at: Some(entry.booked_at),
        bank_sequence: i64::try_from(entry.sequence).ok(),
        ..NewLine::default()
    }
}

const fn account_name(account: OwnAccount) -> &'static str {
    match account {
        OwnAccount::Reserve => "reserve",
        OwnAccount::Escrow => "escrow",
    }
}

const SECS_PER_DAY: i64 = 24 * 3600;

/// The day of an instant, in UTC.
pub fn day(at: Timestamp) -> String {
    date(at).map(|day| day.to_string()).unwrap_or_default()
}

fn date(at: Timestamp) -> Option<Date> {
    i32::try_from(at.as_secs_down().div_euclid(SECS_PER_DAY)).ok().map(Date::from_epoch_days)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(file: &str, today: &str) -> Result<Vec<NewStatement>, String> {
        let today = Date::parse_iso(today).unwrap();
        let read = statement::read(file.as_bytes(), None).unwrap();
        let statements = read.statements.into_iter().map(|read| new_statement(1, read, today));
        statements.collect::<Result<Vec<_>, UploadError>>().map_err(|error| error.to_string())
    }

    /// A day's statement of an account in euros with one line, in a currency.
    fn camt(currency: &str) -> String {
        format!(
            "<Document xmlns='urn:iso:std:iso:20022:tech:xsd:camt.053.001.08'><BkToCstmrStmt><Stmt><Id>1</Id>\
             <Acct><Id><IBAN>NL26VAYB8060476890</IBAN></Id><Ccy>EUR</Ccy></Acct><Ntry><Amt Ccy='{currency}'>10.05</Amt>\
             <CdtDbtInd>CRDT</CdtDbtInd><Sts><Cd>BOOK</Cd></Sts><BookgDt><Dt>2026-11-20</Dt></BookgDt></Ntry></Stmt>\
             </BkToCstmrStmt></Document>"
        )
    }

    #[test]
    fn a_line_in_another_currency_than_its_statement_is_refused() {
        assert_eq!(taken(&camt("EUR"), "2026-11-20").unwrap()[0].currency, "EUR");
        let refused = taken(&camt("USD"), "2026-11-20").unwrap_err();
        assert!(refused.contains("a line is in USD, the statement in EUR"), "{refused}");
        let unsaid = "<OFX><STMTRS><BANKACCTFROM><ACCTID>9</BANKACCTFROM></STMTRS></OFX>";
        assert!(taken(unsaid, "2026-11-20").unwrap_err().contains("does not say its currency"));
    }

    #[test]
    fn a_day_later_than_tomorrow_is_refused() {
        assert!(taken(&camt("EUR"), "2026-11-19").is_ok(), "it is tomorrow already in the east");
        let refused = taken(&camt("EUR"), "2026-11-18").unwrap_err();
        assert!(refused.contains("it tells of 2026-11-20, and today is 2026-11-18"), "{refused}");
        let closes = ":20:A\n:25:NL1\n:28C:1/1\n:60F:C261118EUR1,00\n:62F:C261121EUR1,00\n-";
        let valued = camt("EUR").replace("BookgDt", "ValDt").replace(
            "<Ntry>",
            "<Bal><Tp><CdOrPrtry><Cd>CLBD</Cd></CdOrPrtry></Tp><Amt Ccy='EUR'>10.05</Amt><CdtDbtInd>CRDT</CdtDbtInd>\
             <Dt><Dt>2026-11-18</Dt></Dt></Bal><Ntry>",
        );
        assert!(
            taken(&valued, "2026-11-18").unwrap_err().contains("it tells of 2026-11-20"),
            "by its value, too"
        );
        assert!(taken(closes, "2026-11-20").is_ok());
        assert!(taken(closes, "2026-11-19").is_err());
    }

    #[test]
    fn a_statement_that_was_cut_off_is_refused() {
        let whole =
            ":20:A\n:25:NL1\n:28C:1/1\n:60F:C261118EUR1,00\n:61:2611181118C1,00NTRFX\n:62F:C261118EUR2,00\n-";
        assert!(taken(whole, "2026-11-20").is_ok());
        let cut = &whole[..whole.find(":62F:").unwrap()];
        let refused = taken(cut, "2026-11-20").unwrap_err();
        assert!(refused.contains("the file was cut off"), "{refused}");
    }

    #[test]
    fn what_no_account_holds_and_no_index_takes_is_refused() {
        let statement = |account: &str, currency: &str, amounts: &[i128]| {
            let lines: String = amounts
                .iter()
                .map(|amount| format!("16,{},{},Z,,/\n", if *amount < 0 { 475 } else { 195 }, amount.abs()))
                .collect();
            let total: i128 = amounts.iter().map(|amount| amount.abs()).sum();
            let file = format!(
                "01,1,2,261120,1,1,,,2/\n02,1,2,1,261120,,{currency},/\n03,{account},,/\n{lines}49,{total},2/\n98,{total},1,4/\n99,{total},1,6/\n"
            );
            taken(&file, "2026-11-20")
        };
        let most = i128::from(i64::MAX);
        assert_eq!(statement("9", "USD", &[most - 1, -1]).unwrap()[0].lines.len(), 2);
        let refused = statement("9", "USD", &[most - 1, -2]).unwrap_err();
        assert!(refused.contains("move more than any account can hold"), "even out or not: {refused}");
        let refused = statement(&"9".repeat(101), "USD", &[]).unwrap_err();
        assert!(refused.contains("more than 100 characters"), "{refused}");
        assert_eq!(statement("9\0", "USD", &[]).unwrap()[0].account, "9");
        assert!(statement("9", "U\0D", &[]).unwrap_err().contains("is no currency"));
    }
}
