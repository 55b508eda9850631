//! Journal entries and statement lines as the engine's records.
//!
//! An operation's key is proof: our entry and the bank's line that carry it are one movement, whatever else they say. A line
//! whose bank names its own reference only gets the key of the operation that the bank confirmed under that reference.

use super::intake::day;
use flowbridge_domain::bank::{BankStep, OperationKey};
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::ledger::Moment;
use flowbridge_domain::money::Currency;
use flowbridge_recon::date::Date;
use flowbridge_recon::record::Record;
use flowbridge_store::reconciliation::{OurEntry, RecordKey, TheirLine, posted_as};
use std::collections::HashMap;
use std::sync::Arc;

/// The operation behind a journal entry, if one is.
pub(super) fn operation_of(entry: &RecordKey) -> Option<OperationKey> {
    let step = BankStep::ALL.into_iter().find(|step| moment_of(*step) == Some(entry.moment.as_str()))?;
    Some(OperationKey { payment_id: PaymentId::from_uuid(entry.source), step })
}

/// The moment that an operation is posted as.
pub(super) fn moment_of(step: BankStep) -> Option<&'static str> {
    posted_as(step).map(Moment::as_str)
}

/// The operation of ours that a line is, by its key or by the reference under which the bank confirmed it.
pub(super) fn operations_of_lines(ours: &[OurEntry], theirs: &[TheirLine]) -> Vec<Option<OperationKey>> {
    let mut confirmed: HashMap<&str, Option<OperationKey>> = HashMap::new();
    for entry in ours {
        let (Some(reference), Some(key)) = (entry.bank_reference.as_deref(), operation_of(&entry.key)) else {
            continue;
        };
        // A reference that means two operations means none.
        confirmed.entry(reference).and_modify(|known| *known = None).or_insert(Some(key));
    }
    theirs
        .iter()
        .map(|their| match their.line.operation_key.as_deref() {
            Some(key) => OperationKey::parse(key),
            None => confirmed.get(their.named_by_bank()?).copied().flatten(),
        })
        .collect()
}

/// Our entry as a record of the bank's account.
pub(super) fn our_record(entry: &OurEntry, account: &Arc<str>) -> Option<Record> {
    let booked_on = Date::parse_iso(&day(entry.booked_at.unwrap_or(entry.posted_at)))?;
    let operation = operation_of(&entry.key);
    let reference = operation.map_or_else(|| entry.key.text(), |key| key.to_string());
    let text = [entry.end_to_end_id.as_deref(), entry.remittance_information.as_deref()];
    let text: Vec<&str> = text.into_iter().flatten().collect();
    Some(Record {
        id: entry.key.text().into(),
        account: Arc::clone(account),
        currency: Currency::parse(&entry.currency).ok()?,
        minor_units: entry.change.into(),
        booked_on,
        value_on: Some(booked_on),
        reference: reference.into(),
        batch: "".into(),
        counterparty_iban: entry.counterparty_iban.as_deref().unwrap_or_default().into(),
        counterparty: entry.counterparty.as_deref().unwrap_or_default().into(),
        text: text.join(" ").into(),
        rail: "".into(),
        is_return: operation.is_some_and(|key| key.step == BankStep::Release),
    })
}

/// A line as a record; none for one without a day, which cannot be compared.
pub(super) fn their_record(their: &TheirLine, operation: Option<OperationKey>) -> Option<Record> {
    let line = &their.line;
    let date = |text: &Option<String>| text.as_deref().and_then(Date::parse_iso);
    let reference = match operation {
        // What was sent back refers to the operation, and is not it.
        Some(key) if line.is_return && key.step != BankStep::Release => format!("{key}/returned"),
        Some(key) => key.to_string(),
        None => line.reference.clone(),
    };
    Some(Record {
        id: their.key.text().into(),
        account: Arc::from(their.account.as_str()),
        currency: Currency::parse(&their.currency).ok()?,
        minor_units: line.amount.into(),
        booked_on: date(&line.booked_on).or(date(&line.value_on))?,
        value_on: date(&line.value_on),
        reference: reference.into(),
        batch: line.batch.as_str().into(),
        counterparty_iban: line.counterparty_iban.as_str().into(),
        counterparty: line.counterparty.as_str().into(),
        text: line.text.as_str().into(),
        rail: line.code.as_str().into(),
        is_return: line.is_return,
    })
}
