//! The decisions of the bank: what becomes of a hold, a capture, a release, a credit.
//!
//! Every way money can move in the simulator is in this file, and each goes through [`Books::transfer`].

use super::records::{
    Account, Answer, Entry, Hold, Request, Status, currency_of, declined, encode, escrow_id, reserve_id,
};
use super::{Books, BooksError, OVERFLOW, Result};
use crate::connector::OwnAccount;
use flowbridge_domain::bank::{HoldMode, OperationKey, ReasonCode};
use flowbridge_domain::time::Timestamp;
use redb::ReadableTable as _;

/// An operation at the moment it is decided.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) key: OperationKey,
    /// The number of the bank's reference.
    pub(super) reference: u64,
    pub(super) now: Timestamp,
}

impl Case {
    fn payment(&self) -> [u8; 16] {
        *self.key.payment_id.as_uuid().as_bytes()
    }
}

impl Books<'_> {
    pub(super) fn decide(&mut self, request: &Request, case: Case) -> Result<Answer> {
        match request {
            Request::PlaceHold { account, amount, currency, until } => {
                let ttl_end = case.now.plus(self.rules.hold_ttl_max).as_micros();
                let hold = Hold {
                    account: account.clone(),
                    amount: *amount,
                    currency: *currency,
                    expires_at: ttl_end.min(*until),
                    status: Status::Active,
                };
                self.place_hold(hold, case)
            }
            Request::Capture { account, amount, currency } => {
                self.capture((account, *amount, *currency), case)
            }
            Request::Release => self.release(case),
            Request::Credit { account, amount, currency } => self.credit((account, *amount, *currency), case),
        }
    }

    fn place_hold(&mut self, hold: Hold, case: Case) -> Result<Answer> {
        if self.hold(case.payment())?.is_some() {
            return Ok(declined(narrative(), "released before it was placed"));
        }
        if hold.expires_at <= case.now.as_micros() {
            return Ok(declined(narrative(), "the hold would have ended before it began"));
        }
        let mut account = match self.debitable(&hold.account, hold.amount, hold.currency)? {
            Ok(account) => account,
            Err(answer) => return Ok(answer),
        };
        let (booked_at, hold_expires_at) = match self.rules.hold_mode {
            HoldMode::Native => {
                account.held = account.held.checked_add(hold.amount).ok_or(OVERFLOW)?;
                self.put_account(&hold.account, &account)?;
                (self.tick(case.now)?, Some(hold.expires_at))
            }
            HoldMode::Escrow => {
                let escrow = escrow_id(currency_of(hold.currency)?);
                self.transfer(&hold.account, &escrow, hold.amount)?;
                let booked_at =
                    self.book(Entry::of(OwnAccount::Escrow, hold.amount, hold.currency, case), case.now)?;
                (booked_at, Some(hold.expires_at))
            }
            HoldMode::ConfirmOnly => (self.tick(case.now)?, None),
        };
        if let Some(expires_at) = hold_expires_at {
            self.expiries.insert((expires_at, case.payment()), ())?;
        }
        self.put_hold(case.payment(), &hold)?;
        Ok(Answer::Done { booked_at: booked_at.as_micros(), hold_expires_at })
    }

    fn capture(&mut self, (iban, amount, currency): (&str, i128, [u8; 3]), case: Case) -> Result<Answer> {
        let Some(mut hold) = self.hold(case.payment())? else {
            return Ok(declined(narrative(), "there is no hold to capture"));
        };
        match hold.status {
            Status::Active => {}
            Status::Captured => return Ok(declined(narrative(), "the hold is captured already")),
            Status::Released | Status::Tombstone => {
                return Ok(declined(narrative(), "the hold was released"));
            }
            Status::Expired => return Ok(declined(narrative(), "the hold has expired")),
        }
        if (hold.account.as_str(), hold.amount, hold.currency) != (iban, amount, currency) {
            return Ok(declined(wrong_amount(), "capture takes exactly what was reserved"));
        }
        let reserve = reserve_id(currency_of(currency)?);
        match self.rules.hold_mode {
            HoldMode::Native => {
                let mut account = self.existing(iban)?;
                account.held = account.held.checked_sub(amount).ok_or(OVERFLOW)?;
                self.put_account(iban, &account)?;
                self.transfer(iban, &reserve, amount)?;
            }
            HoldMode::Escrow => {
                self.transfer(&escrow_id(currency_of(currency)?), &reserve, amount)?;
                self.book(Entry::of(OwnAccount::Escrow, -amount, currency, case), case.now)?;
            }
            HoldMode::ConfirmOnly => {
                if let Err(answer) = self.debitable(iban, amount, currency)? {
                    return Ok(answer);
                }
                self.transfer(iban, &reserve, amount)?;
            }
        }
        if self.rules.hold_mode != HoldMode::ConfirmOnly {
            self.expiries.remove((hold.expires_at, case.payment()))?;
        }
        let booked_at = self.book(Entry::of(OwnAccount::Reserve, amount, currency, case), case.now)?;
        hold.status = Status::Captured;
        self.put_hold(case.payment(), &hold)?;
        Ok(Answer::Done { booked_at: booked_at.as_micros(), hold_expires_at: None })
    }

    fn release(&mut self, case: Case) -> Result<Answer> {
        let Some(mut hold) = self.hold(case.payment())? else {
            let tombstone = Hold {
                account: String::new(),
                amount: 0,
                currency: [0; 3],
                expires_at: 0,
                status: Status::Tombstone,
            };
            self.put_hold(case.payment(), &tombstone)?;
            return Ok(Answer::Done { booked_at: self.tick(case.now)?.as_micros(), hold_expires_at: None });
        };
        let confirm_only = self.rules.hold_mode == HoldMode::ConfirmOnly;
        let booked_at = match hold.status {
            Status::Active => {
                if !confirm_only {
                    self.expiries.remove((hold.expires_at, case.payment()))?;
                }
                hold.status = Status::Released;
                self.give_back(&hold, case)?
            }
            // Nothing was reserved by a confirm-only bank: what it captured is sent back.
            Status::Captured if confirm_only => {
                let reserve = reserve_id(currency_of(hold.currency)?);
                if self.existing(&reserve)?.available() < hold.amount {
                    return Ok(declined(
                        ReasonCode::INSUFFICIENT_FUNDS,
                        "our reserve does not cover the return",
                    ));
                }
                if self.existing(&hold.account)?.closed {
                    return Ok(declined(ReasonCode::CLOSED_ACCOUNT, "the account is closed"));
                }
                self.transfer(&reserve, &hold.account, hold.amount)?;
                hold.status = Status::Released;
                self.book(Entry::of(OwnAccount::Reserve, -hold.amount, hold.currency, case), case.now)?
            }
            Status::Captured => return Ok(declined(narrative(), "the hold is captured already")),
            Status::Released | Status::Expired | Status::Tombstone => self.tick(case.now)?,
        };
        self.put_hold(case.payment(), &hold)?;
        Ok(Answer::Done { booked_at: booked_at.as_micros(), hold_expires_at: None })
    }

    fn credit(&mut self, (iban, amount, currency): (&str, i128, [u8; 3]), case: Case) -> Result<Answer> {
        let account = match self.account(iban)? {
            None => return Ok(declined(ReasonCode::INVALID_CREDITOR_ACCOUNT, "there is no such account")),
            Some(account) => account,
        };
        if let Some(answer) = unusable(&account, currency) {
            return Ok(answer);
        }
        let reserve = reserve_id(currency_of(currency)?);
        let funds = self.account(&reserve)?.map_or(0, |reserve| reserve.available());
        if funds < amount {
            return Ok(declined(ReasonCode::INSUFFICIENT_FUNDS, "our reserve does not cover the credit"));
        }
        self.transfer(&reserve, iban, amount)?;
        let booked_at = self.book(Entry::of(OwnAccount::Reserve, -amount, currency, case), case.now)?;
        Ok(Answer::Done { booked_at: booked_at.as_micros(), hold_expires_at: None })
    }

    /// Ends an active hold in the debtor's favour.
    pub(super) fn give_back(&mut self, hold: &Hold, case: Case) -> Result<Timestamp> {
        match self.rules.hold_mode {
            HoldMode::Native => {
                let mut account = self.existing(&hold.account)?;
                account.held = account.held.checked_sub(hold.amount).ok_or(OVERFLOW)?;
                self.put_account(&hold.account, &account)?;
                self.tick(case.now)
            }
            HoldMode::Escrow => {
                self.transfer(&escrow_id(currency_of(hold.currency)?), &hold.account, hold.amount)?;
                self.book(Entry::of(OwnAccount::Escrow, -hold.amount, hold.currency, case), case.now)
            }
            HoldMode::ConfirmOnly => self.tick(case.now),
        }
    }

    /// The account, if the amount can be taken from it; else the bank's answer.
    fn debitable(
        &self,
        iban: &str,
        amount: i128,
        currency: [u8; 3],
    ) -> Result<std::result::Result<Account, Answer>> {
        let Some(account) = self.account(iban)? else {
            return Ok(Err(declined(ReasonCode::INCORRECT_ACCOUNT_NUMBER, "there is no such account")));
        };
        if let Some(answer) = unusable(&account, currency) {
            return Ok(Err(answer));
        }
        if account.available() < amount {
            return Ok(Err(declined(ReasonCode::INSUFFICIENT_FUNDS, "not enough funds")));
        }
        Ok(Ok(account))
    }

    /// Moves money between two accounts. The caller has checked that it is there.
    fn transfer(&mut self, debited: &str, credited: &str, amount: i128) -> Result<()> {
        let mut source = self.existing(debited)?;
        if amount <= 0 || debited == credited || source.available() < amount {
            return Err(BooksError::Corrupt("a transfer of nothing, to itself, or without cover"));
        }
        let mut target = self.account_or_new(credited, source.currency()?)?;
        if source.currency != target.currency {
            return Err(BooksError::Corrupt("a transfer between currencies"));
        }
        source.posted = source.posted.checked_sub(amount).ok_or(OVERFLOW)?;
        target.posted = target.posted.checked_add(amount).ok_or(OVERFLOW)?;
        self.put_account(debited, &source)?;
        self.put_account(credited, &target)
    }

    /// Writes an entry of our statement, with an instant of its own.
    pub(super) fn book(&mut self, mut entry: Entry, now: Timestamp) -> Result<Timestamp> {
        let booked_at = self.tick(now)?;
        entry.booked_at = booked_at.as_micros();
        let sequence = self.entries.last()?.map_or(0, |(sequence, _)| sequence.value()).saturating_add(1);
        self.entries.insert(sequence, encode(&entry)?.as_slice())?;
        Ok(booked_at)
    }
}

/// Why an account can take part in no payment in this currency, if so.
fn unusable(account: &Account, currency: [u8; 3]) -> Option<Answer> {
    if account.closed {
        Some(declined(ReasonCode::CLOSED_ACCOUNT, "the account is closed"))
    } else if account.frozen {
        Some(declined(ReasonCode::BLOCKED_ACCOUNT, "the account is blocked"))
    } else if account.currency != currency {
        Some(declined(code("AC09"), "the account has another currency"))
    } else {
        None
    }
}

/// `NARR`: the reason is in the text.
fn narrative() -> ReasonCode {
    code("NARR")
}

/// `AM09`: the amount is not the one agreed.
fn wrong_amount() -> ReasonCode {
    code("AM09")
}

fn code(text: &str) -> ReasonCode {
    ReasonCode::parse(text).unwrap_or(ReasonCode::NOT_SPECIFIED)
}
