//! The engine's own files: records, chain events, heads of statements and reserves as CSV, amounts in whole minor units; and
//! folders of synthetic books, which hold those files and their truth as JSON.

use crate::break_kind::BreakKind;
use crate::chain::ChainEvent;
use crate::date::Date;
use crate::engine::Subject;
use crate::gate::{Reserve, StatementHead};
use crate::generate::{self, Books, Recipe};
use crate::record::Record;
use flowbridge_domain::money::Currency;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a file of our own form cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Not the columns, or not the types.
    #[error("not the expected CSV")]
    Csv(#[from] csv::Error),
    /// A value that the type allows and its meaning does not.
    #[error("row {row}: {problem}")]
    Value {
        /// Counted from 1, without the header.
        row: usize,
        /// What is wrong.
        problem: String,
    },
    /// The disk.
    #[error("cannot read or write")]
    Disk(#[from] std::io::Error),
    /// Not the JSON that [`write_books`] writes.
    #[error("not the expected JSON")]
    Json(#[from] serde_json::Error),
    /// It speaks of other records than are there.
    #[error("{0}")]
    Truth(String),
}

/// Why a folder of books cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}", path.display())]
pub struct BooksError {
    /// The file it is about.
    pub path: PathBuf,
    /// What is the matter with it.
    pub source: FileError,
}

/// The file by which a folder of synthetic books is known.
pub const TRUTH: &str = "truth.json";

/// The fields stand in the order of their names: the same recipe gives the same file.
#[derive(Serialize, Deserialize)]
struct Truth {
    as_of: Date,
    bank_group: Vec<Option<u32>>,
    breaks: Vec<(BreakKind, Subject)>,
    generator: u32,
    ledger_group: Vec<Option<u32>>,
    noise: f64,
    seed: u64,
}

/// Books that a folder holds, and what they were made from.
#[derive(Debug)]
pub struct StoredBooks {
    /// What the recipe asked for; of entries, how many there are.
    pub recipe: Recipe,
    /// Version of the generator that made them.
    pub generator: u32,
    /// The books.
    pub books: Books,
}

#[derive(Serialize, Deserialize)]
struct Row {
    id: String,
    account: String,
    currency: String,
    minor_units: i128,
    booked_on: Date,
    value_on: Option<Date>,
    reference: String,
    batch: String,
    counterparty_iban: String,
    counterparty: String,
    text: String,
    rail: String,
    is_return: bool,
}

#[derive(Serialize, Deserialize)]
struct EventRow {
    tx_hash: String,
    log_index: u32,
    payment_id: String,
    minor_units: i128,
    is_final: bool,
    is_removed: bool,
    is_failed: bool,
}

#[derive(Serialize, Deserialize)]
struct HeadRow {
    account: String,
    currency: String,
    sequence: Option<u64>,
    opening_minor_units: i128,
    closing_minor_units: i128,
    entries_minor_units: i128,
}

#[derive(Serialize, Deserialize)]
struct ReserveRow {
    account: String,
    supply_minor_units: i128,
    held_minor_units: i128,
}

/// Writes records.
pub fn write_records(records: &[Record], out: impl Write) -> Result<(), FileError> {
    let mut writer = csv::Writer::from_writer(out);
    for record in records {
        writer.serialize(Row {
            id: record.id.to_string(),
            account: record.account.to_string(),
            currency: record.currency.code().to_owned(),
            minor_units: record.minor_units,
            booked_on: record.booked_on,
            value_on: record.value_on,
            reference: record.reference.to_string(),
            batch: record.batch.to_string(),
            counterparty_iban: record.counterparty_iban.to_string(),
            counterparty: record.counterparty.to_string(),
            text: record.text.to_string(),
            rail: record.rail.to_string(),
            is_return: record.is_return,
        })?;
    }
    Ok(writer.flush()?)
}

/// Reads records.
pub fn read_records(input: impl Read) -> Result<Vec<Record>, FileError> {
    let mut accounts: BTreeMap<String, Arc<str>> = BTreeMap::new();
    csv::Reader::from_reader(input)
        .deserialize()
        .enumerate()
        .map(|(place, row)| {
            let row: Row = row?;
            let currency = Currency::parse(&row.currency)
                .map_err(|error| FileError::Value { row: place + 1, problem: error.to_string() })?;
            let account = accounts.entry(row.account).or_insert_with_key(|name| Arc::from(name.as_str()));
            Ok(Record {
                id: row.id.into(),
                account: Arc::clone(account),
                currency,
                minor_units: row.minor_units,
                booked_on: row.booked_on,
                value_on: row.value_on,
                reference: row.reference.into(),
                batch: row.batch.into(),
                counterparty_iban: row.counterparty_iban.into(),
                counterparty: row.counterparty.into(),
                text: row.text.into(),
                rail: row.rail.into(),
                is_return: row.is_return,
            })
        })
        .collect()
}

/// Writes chain events.
pub fn write_events(events: &[ChainEvent], out: impl Write) -> Result<(), FileError> {
    let mut writer = csv::Writer::from_writer(out);
    for event in events {
        writer.serialize(EventRow {
            tx_hash: event.tx_hash.to_string(),
            log_index: event.log_index,
            payment_id: event.payment_id.to_string(),
            minor_units: event.minor_units,
            is_final: event.is_final,
            is_removed: event.is_removed,
            is_failed: event.is_failed,
        })?;
    }
    Ok(writer.flush()?)
}

/// Reads chain events.
pub fn read_events(input: impl Read) -> Result<Vec<ChainEvent>, FileError> {
    csv::Reader::from_reader(input)
        .deserialize()
        .map(|row| {
            let row: EventRow = row?;
            Ok(ChainEvent {
                tx_hash: row.tx_hash.into(),
                log_index: row.log_index,
                payment_id: row.payment_id.into(),
                minor_units: row.minor_units,
                is_final: row.is_final,
                is_removed: row.is_removed,
                is_failed: row.is_failed,
            })
        })
        .collect()
}

/// Writes the heads of statements, in their order.
pub fn write_heads(heads: &[StatementHead], out: impl Write) -> Result<(), FileError> {
    let mut writer = csv::Writer::from_writer(out);
    for head in heads {
        writer.serialize(HeadRow {
            account: head.account.clone(),
            currency: head.currency.code().to_owned(),
            sequence: head.sequence,
            opening_minor_units: head.opening_minor_units,
            closing_minor_units: head.closing_minor_units,
            entries_minor_units: head.entries_minor_units,
        })?;
    }
    Ok(writer.flush()?)
}

/// Reads the heads of statements.
pub fn read_heads(input: impl Read) -> Result<Vec<StatementHead>, FileError> {
    csv::Reader::from_reader(input)
        .deserialize()
        .enumerate()
        .map(|(place, row)| {
            let row: HeadRow = row?;
            let currency = Currency::parse(&row.currency)
                .map_err(|error| FileError::Value { row: place + 1, problem: error.to_string() })?;
            Ok(StatementHead {
                account: row.account,
                currency,
                sequence: row.sequence,
                opening_minor_units: row.opening_minor_units,
                closing_minor_units: row.closing_minor_units,
                entries_minor_units: row.entries_minor_units,
            })
        })
        .collect()
}

/// Writes what is in being and what is held for it.
pub fn write_reserves(reserves: &[Reserve], out: impl Write) -> Result<(), FileError> {
    let mut writer = csv::Writer::from_writer(out);
    for reserve in reserves {
        writer.serialize(ReserveRow {
            account: reserve.account.clone(),
            supply_minor_units: reserve.supply_minor_units,
            held_minor_units: reserve.held_minor_units,
        })?;
    }
    Ok(writer.flush()?)
}

/// Reads what is in being and what is held for it.
pub fn read_reserves(input: impl Read) -> Result<Vec<Reserve>, FileError> {
    csv::Reader::from_reader(input)
        .deserialize()
        .map(|row| {
            let row: ReserveRow = row?;
            Ok(Reserve {
                account: row.account,
                supply_minor_units: row.supply_minor_units,
                held_minor_units: row.held_minor_units,
            })
        })
        .collect()
}

/// Writes books and their truth into a folder, which is made where it is missing.
///
/// # Errors
///
/// Which file cannot be written, and why.
pub fn write_books(books: &Books, recipe: Recipe, folder: &Path) -> Result<(), BooksError> {
    let write = |name: &str, write: &dyn Fn(File) -> Result<(), FileError>| {
        let path = folder.join(name);
        let written = fs::create_dir_all(folder).and_then(|()| File::create(&path));
        written.map_err(FileError::Disk).and_then(write).map_err(|source| BooksError { path, source })
    };
    write("ledger.csv", &|out| write_records(&books.ledger, out))?;
    write("bank.csv", &|out| write_records(&books.bank, out))?;
    write("chain.csv", &|out| write_events(&books.events, out))?;
    write("statements.csv", &|out| write_heads(&books.statements, out))?;
    write("reserves.csv", &|out| write_reserves(&books.reserves, out))?;
    let truth = Truth {
        as_of: books.as_of,
        bank_group: books.bank_group.clone(),
        breaks: books.breaks.clone(),
        generator: generate::VERSION,
        ledger_group: books.ledger_group.clone(),
        noise: recipe.noise,
        seed: recipe.seed,
    };
    write(TRUTH, &|mut out| Ok(out.write_all(&serde_json::to_vec(&truth)?)?))
}

/// Reads what [`write_books`] wrote.
///
/// # Errors
///
/// Which file is missing or is not what it should be, and why.
pub fn read_books(folder: &Path) -> Result<StoredBooks, BooksError> {
    fn read<T>(path: PathBuf, read: impl FnOnce(File) -> Result<T, FileError>) -> Result<T, BooksError> {
        File::open(&path)
            .map_err(FileError::Disk)
            .and_then(read)
            .map_err(|source| BooksError { path, source })
    }
    let truth: Truth = read(folder.join(TRUTH), |file| Ok(serde_json::from_reader(BufReader::new(file))?))?;
    let books = Books {
        ledger: read(folder.join("ledger.csv"), read_records)?,
        bank: read(folder.join("bank.csv"), read_records)?,
        events: read(folder.join("chain.csv"), read_events)?,
        statements: read(folder.join("statements.csv"), read_heads)?,
        reserves: read(folder.join("reserves.csv"), read_reserves)?,
        ledger_group: truth.ledger_group,
        bank_group: truth.bank_group,
        breaks: truth.breaks,
        as_of: truth.as_of,
    };
    if let Some(problem) = contradiction(&books) {
        return Err(BooksError { path: folder.join(TRUTH), source: FileError::Truth(problem) });
    }
    let recipe = Recipe { seed: truth.seed, entries: books.ledger.len(), noise: truth.noise };
    Ok(StoredBooks { recipe, generator: truth.generator, books })
}

/// What the truth says that cannot be true of these records.
fn contradiction(books: &Books) -> Option<String> {
    let sides = [
        ("ledger_group", books.ledger_group.len(), "ledger.csv", books.ledger.len()),
        ("bank_group", books.bank_group.len(), "bank.csv", books.bank.len()),
    ];
    for (field, told, file, there) in sides {
        if told != there {
            return Some(format!("{field} is about {told} records, and {file} has {there}"));
        }
    }
    books.breaks.iter().find_map(|(kind, subject)| {
        let (file, place, there) = match subject {
            Subject::Ledger(place) => ("ledger.csv", *place, books.ledger.len()),
            Subject::Bank(place) => ("bank.csv", *place, books.bank.len()),
            Subject::Event(place) => ("chain.csv", *place, books.events.len()),
            Subject::Account(_) => return None,
        };
        (place as usize >= there)
            .then(|| format!("{} is about record {place} of {file}, which has {there}", kind.code()))
    })
}
