//! What a bank books wrongly on our reserve, or without being asked: fees, bookings that are forgotten, short, made twice or sent
//! back. The operation's answer says nothing of it; only the statement and the balance do.
//!
//! The sum over all accounts stays what was deposited, because what appears or vanishes here is noted as a deposit of its own.

use super::decide::Case;
use super::records::{Entry, code_of, encode, reserve_id};
use super::{Books, BooksError, OVERFLOW, Refusal, Result};
use crate::connector::OwnAccount;
use flowbridge_domain::bank::OperationKey;
use flowbridge_domain::money::Money;
use flowbridge_domain::time::Timestamp;
use redb::ReadableTable as _;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How a booking goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::simulator) enum Misbooking {
    /// So much less is booked.
    Keep(i64),
    /// It is confirmed, and not booked.
    Forget,
    /// It is booked twice.
    Twice,
    /// It is booked, and sent back.
    Return,
    /// It counts from so many days later.
    ValueAfter(u32),
}

/// What an entry says beside its amount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::simulator) struct Note {
    /// For people.
    pub(in crate::simulator) text: String,
    /// From when it counts.
    pub(in crate::simulator) value_at_us: Option<i64>,
    /// A return.
    pub(in crate::simulator) is_return: bool,
}

/// A booking that nobody asked for.
#[derive(Debug, Clone)]
pub(in crate::simulator) struct Unasked {
    /// Booking twice under one id is booking once.
    pub(in crate::simulator) id: String,
    /// Positive comes in.
    pub(in crate::simulator) change: Money,
    /// The operation it refers to.
    pub(in crate::simulator) key: Option<OperationKey>,
    pub(in crate::simulator) note: Note,
}

const DAY: u64 = 24 * 3600;

impl Books<'_> {
    pub(super) fn last_sequence(&self) -> Result<u64> {
        Ok(self.entries.last()?.map_or(0, |(sequence, _)| sequence.value()))
    }

    /// What an entry says beside its amount.
    pub(in crate::simulator) fn note(&self, sequence: u64) -> Result<Option<Note>> {
        self.notes.get(sequence)?.map(|bytes| Ok(postcard::from_bytes(bytes.value())?)).transpose()
    }

    /// Spoils what an operation has just booked on our reserve, if it has.
    pub(super) fn misbook(&mut self, how: Misbooking, before: u64, case: Case) -> Result<()> {
        let sequence = self.last_sequence()?;
        let Some(bytes) = self.entries.get(sequence)?.map(|bytes| bytes.value().to_vec()) else {
            return Ok(());
        };
        let mut entry: Entry = postcard::from_bytes(&bytes)?;
        if sequence == before || entry.account() != OwnAccount::Reserve {
            return Ok(());
        }
        let currency = entry.change()?.currency();
        let id = format!("misbooked:{}", case.reference);
        match how {
            Misbooking::Keep(kept) => {
                entry.change = entry.change.checked_sub(kept.into()).ok_or(OVERFLOW)?;
                self.entries.insert(sequence, encode(&entry)?.as_slice())?;
                self.appear(&id, Money::new(-i128::from(kept), currency))
            }
            Misbooking::Forget => {
                self.entries.remove(sequence)?;
                self.appear(&id, Money::new(-entry.change, currency))
            }
            Misbooking::Twice => {
                self.appear(&id, Money::new(entry.change, currency))?;
                self.book(entry, case.now)?;
                Ok(())
            }
            Misbooking::Return => {
                entry.change = -entry.change;
                self.appear(&id, Money::new(entry.change, currency))?;
                self.book(entry, case.now)?;
                self.annotate(Note { text: "RETURN".into(), value_at_us: None, is_return: true })
            }
            Misbooking::ValueAfter(days) => {
                let later = case.now.plus(Duration::from_secs(u64::from(days) * DAY));
                self.annotate(Note { value_at_us: Some(later.as_micros()), ..Note::default() })
            }
        }
    }

    /// Books something on our reserve that nobody asked for.
    pub(in crate::simulator) fn book_unasked(
        &mut self,
        unasked: &Unasked,
        now: Timestamp,
    ) -> Result<std::result::Result<(), Refusal>> {
        let (id, currency) = (format!("unasked:{}", unasked.id), unasked.change.currency());
        let change = unasked.change.minor_units();
        if let Some(known) = self.deposits.get(id.as_str())? {
            let same = postcard::from_bytes::<(String, i128, [u8; 3])>(known.value())?
                == (reserve_id(currency), change, code_of(currency));
            return Ok(if same { Ok(()) } else { Err(Refusal::OtherDeposit) });
        }
        self.appear(&id, unasked.change)?;
        let reference = self.next_reference()?;
        let entry = match unasked.key {
            Some(key) => {
                Entry::of(OwnAccount::Reserve, change, code_of(currency), Case { key, reference, now })
            }
            None => Entry::funding(change, code_of(currency), reference),
        };
        self.book(entry, now)?;
        self.annotate(unasked.note.clone())?;
        Ok(Ok(()))
    }

    fn appear(&mut self, id: &str, change: Money) -> Result<()> {
        let (reserve, units) = (reserve_id(change.currency()), change.minor_units());
        let mut account = self.account_or_new(&reserve, change.currency())?;
        account.posted = account.posted.checked_add(units).ok_or(OVERFLOW)?;
        self.put_account(&reserve, &account)?;
        let record = encode(&(&reserve, units, code_of(change.currency())))?;
        self.deposits.insert(id, record.as_slice())?;
        Ok(())
    }

    /// Of the entry that was booked last.
    fn annotate(&mut self, note: Note) -> Result<()> {
        let sequence = self.entries.last()?.map(|(sequence, _)| sequence.value());
        let sequence = sequence.ok_or(BooksError::Corrupt("a note on no entry"))?;
        self.notes.insert(sequence, encode(&note)?.as_slice())?;
        Ok(())
    }
}
