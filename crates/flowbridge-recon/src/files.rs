//! The engine's own files: records, chain events, heads of statements and reserves as CSV, amounts in whole minor units.

use crate::chain::ChainEvent;
use crate::date::Date;
use crate::gate::{Reserve, StatementHead};
use crate::record::Record;
use flowbridge_domain::money::Currency;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{Read, Write};
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
    #[error("cannot write")]
    Write(#[from] std::io::Error),
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
