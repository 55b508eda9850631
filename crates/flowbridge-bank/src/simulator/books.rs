//! The books of one simulated bank: accounts, holds, operations and the statement, over one redb write transaction.
//!
//! What it promises: money moves only by [`Books::transfer`], from one account to another, so the sum over all accounts is
//! what was deposited; an operation is decided once and its first answer is its answer for ever; a hold is resolved
//! once, and a release that comes first leaves a tombstone; every booking has an instant of its own, later than all before.
//! [`Books::audit`] checks the first and the holds against the accounts.
//!
//! Nothing here knows about HTTP, faults or threads: [`super::ledger`] decides when a transaction begins and is
//! durable, and which operations are to be declined or delayed on purpose.

use crate::connector::{
    Decline, HoldStatus, Operation, OperationKind, Outcome, OwnAccount, QueryOutcome, Receipt,
};
use flowbridge_domain::bank::{BankStep, HoldMode, OperationKey, ReasonCode};
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::money::{Currency, Money};
use flowbridge_domain::party::Iban;
use flowbridge_domain::time::Timestamp;
use redb::{ReadableTable as _, ReadableTableMetadata as _, Table, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::time::Duration;

/// The layout of the tables. Another one is refused: a simulator's books are started anew, not migrated.
const FORMAT: i64 = 1;

const ACCOUNTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("accounts");
const OPERATIONS: TableDefinition<'_, [u8; 17], &[u8]> = TableDefinition::new("operations");
const HOLDS: TableDefinition<'_, [u8; 16], &[u8]> = TableDefinition::new("holds");
const EXPIRIES: TableDefinition<'_, (i64, [u8; 16]), ()> = TableDefinition::new("expiries");
const UNDECIDED: TableDefinition<'_, (i64, [u8; 17]), ()> = TableDefinition::new("undecided");
const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
const DEPOSITS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("deposits");
const COUNTERS: TableDefinition<'_, &str, i64> = TableDefinition::new("counters");

const LAST_BOOKED_AT: &str = "last_booked_at_us";
const LAST_REFERENCE: &str = "last_reference";
const FORMAT_KEY: &str = "format";

/// The books cannot be read or written. Nothing of the transaction at hand may be answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BooksError {
    #[error("the storage of the books failed")]
    Storage(#[from] redb::Error),
    #[error("a record in the books cannot be read")]
    Record(#[from] postcard::Error),
    #[error("the books contradict themselves: {0}")]
    Corrupt(&'static str),
    #[error("the books have layout {found}, this version keeps layout {FORMAT}: start with fresh ones")]
    Format { found: i64 },
}

macro_rules! from_redb {
    ($($error:ty),*) => { $(impl From<$error> for BooksError {
        fn from(error: $error) -> Self { Self::Storage(error.into()) }
    })* };
}
from_redb!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::DatabaseError,
    redb::SetDurabilityError
);

type Result<T> = std::result::Result<T, BooksError>;

/// What is constant about one bank's books.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// The start of every reference.
    pub(crate) reference_prefix: String,
    pub(crate) hold_mode: HoldMode,
    pub(crate) hold_ttl_max: Duration,
    /// Beyond so many operations the oldest resolved payments are forgotten; likewise for statement entries.
    pub(crate) operations_kept_max: u64,
    pub(crate) entries_kept_max: u64,
}

/// What is to become of a new operation, on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Directive {
    Decide,
    Decline(Decline),
    /// Decide only when so much time has passed.
    DecideAfter(Duration),
}

/// A customer's or one of our own accounts.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Account {
    currency: [u8; 3],
    pub(crate) balance: i128,
    pub(crate) held: i128,
    pub(crate) frozen: bool,
    pub(crate) closed: bool,
}

impl Account {
    fn new(currency: Currency) -> Self {
        Self { currency: code_of(currency), balance: 0, held: 0, frozen: false, closed: false }
    }

    pub(crate) fn currency(&self) -> Result<Currency> {
        currency_of(self.currency)
    }

    pub(crate) fn available(&self) -> i128 {
        self.balance.saturating_sub(self.held)
    }
}

fn code_of(currency: Currency) -> [u8; 3] {
    currency.code().as_bytes().try_into().unwrap_or_default()
}

fn currency_of(code: [u8; 3]) -> Result<Currency> {
    let code = std::str::from_utf8(&code).map_err(|_| BooksError::Corrupt("a currency code is not text"))?;
    Currency::parse(code).map_err(|_| BooksError::Corrupt("an account has a currency that does not exist"))
}

/// What is kept of an operation: enough to answer it again and to notice other content under the same key.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct OperationRecord {
    content: [u8; 16],
    reference: u64,
    answer: Answer,
    /// What to do when it is decided later.
    deferred: Option<Request>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Answer {
    Done { booked_at: i64, hold_expires_at: Option<i64> },
    Declined { reason: [u8; 4], text: String },
    Pending,
}

/// An operation as far as the books are concerned.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Request {
    PlaceHold { account: String, amount: i128, currency: [u8; 3], until: i64 },
    Capture { account: String, amount: i128, currency: [u8; 3] },
    Release,
    Credit { account: String, amount: i128, currency: [u8; 3] },
}

impl Request {
    fn of(kind: &OperationKind) -> Self {
        let money = |amount: &Money| (amount.minor_units(), code_of(amount.currency()));
        match kind {
            OperationKind::PlaceHold { account, amount, until } => {
                let (amount, currency) = money(amount);
                Self::PlaceHold {
                    account: account.as_str().into(),
                    amount,
                    currency,
                    until: until.as_micros(),
                }
            }
            OperationKind::Capture { account, amount } => {
                let (amount, currency) = money(amount);
                Self::Capture { account: account.as_str().into(), amount, currency }
            }
            OperationKind::Release => Self::Release,
            OperationKind::Credit { account, amount, .. } => {
                let (amount, currency) = money(amount);
                Self::Credit { account: account.as_str().into(), amount, currency }
            }
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Hold {
    account: String,
    amount: i128,
    currency: [u8; 3],
    expires_at: i64,
    status: Status,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Status {
    Active,
    Captured,
    Released,
    Expired,
    /// Released before it was placed.
    Tombstone,
}

/// A booking on one of our own accounts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entry {
    escrow: bool,
    change: i128,
    currency: [u8; 3],
    pub(crate) booked_at: i64,
    key: Option<[u8; 17]>,
    reference: u64,
}

impl Entry {
    pub(crate) fn account(&self) -> OwnAccount {
        if self.escrow { OwnAccount::Escrow } else { OwnAccount::Reserve }
    }

    pub(crate) fn change(&self) -> Result<Money> {
        Ok(Money::new(self.change, currency_of(self.currency)?))
    }

    pub(crate) fn key(&self) -> Result<Option<OperationKey>> {
        self.key.map(key_of).transpose()
    }

    pub(crate) fn reference(&self) -> u64 {
        self.reference
    }
}

/// A page of entries with their sequence numbers.
#[derive(Debug)]
pub(crate) enum Entries {
    Page {
        entries: Vec<(u64, Entry)>,
        has_more: bool,
    },
    /// The cursor points to what is no longer kept.
    Forgotten {
        first_kept: u64,
    },
}

/// Why an administrator's wish was not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("there is no such account")]
    NoSuchAccount,
    #[error("the account exists with another currency")]
    OtherCurrency,
    #[error("this deposit id was used for another deposit")]
    OtherDeposit,
}

/// What the books say about themselves.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Audit {
    /// Nothing is wrong.
    pub(crate) sound: bool,
    /// What is wrong.
    pub(crate) findings: Vec<String>,
    /// Per currency: the sum of all accounts, and of all deposits.
    pub(crate) totals: BTreeMap<String, AuditTotals>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct AuditTotals {
    pub(crate) accounts: i128,
    pub(crate) deposits: i128,
    pub(crate) held: i128,
}

/// A line of the oracle: an operation as the bank remembers it.
#[derive(Debug)]
pub(crate) struct Remembered {
    pub(crate) key: OperationKey,
    pub(crate) outcome: QueryOutcome,
}

/// Where a payment into or out of an account comes from or goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DepositTo<'a> {
    Customer(&'a Iban),
    Reserve,
}

/// The tables within one write transaction.
pub(crate) struct Books<'txn> {
    rules: &'txn Rules,
    accounts: Table<'txn, &'static str, &'static [u8]>,
    operations: Table<'txn, [u8; 17], &'static [u8]>,
    holds: Table<'txn, [u8; 16], &'static [u8]>,
    expiries: Table<'txn, (i64, [u8; 16]), ()>,
    undecided: Table<'txn, (i64, [u8; 17]), ()>,
    entries: Table<'txn, u64, &'static [u8]>,
    deposits: Table<'txn, &'static str, &'static [u8]>,
    counters: Table<'txn, &'static str, i64>,
    changed: bool,
}

impl<'txn> Books<'txn> {
    pub(crate) fn open(tx: &'txn WriteTransaction, rules: &'txn Rules) -> Result<Self> {
        let mut books = Self {
            rules,
            accounts: tx.open_table(ACCOUNTS)?,
            operations: tx.open_table(OPERATIONS)?,
            holds: tx.open_table(HOLDS)?,
            expiries: tx.open_table(EXPIRIES)?,
            undecided: tx.open_table(UNDECIDED)?,
            entries: tx.open_table(ENTRIES)?,
            deposits: tx.open_table(DEPOSITS)?,
            counters: tx.open_table(COUNTERS)?,
            changed: false,
        };
        match books.counter(FORMAT_KEY)? {
            0 => books.set_counter(FORMAT_KEY, FORMAT)?,
            FORMAT => {}
            found => return Err(BooksError::Format { found }),
        }
        Ok(books)
    }

    /// Must the transaction be committed?
    pub(crate) const fn changed(&self) -> bool {
        self.changed
    }

    /// Does what has become due: decides what was put off, lets go of holds that have expired.
    pub(crate) fn catch_up(&mut self, now: Timestamp) -> Result<()> {
        while let Some((due, key)) = self.first_undecided()?
            && due <= now.as_micros()
        {
            self.undecided.remove((due, key))?;
            self.changed = true;
            let mut record =
                self.operation(key)?.ok_or(BooksError::Corrupt("an undecided operation is missing"))?;
            let request = record.deferred.take().ok_or(BooksError::Corrupt("nothing to decide"))?;
            record.answer = self.decide(key_of(key)?, &request, record.reference, now)?;
            self.put_operation(key, &record)?;
        }
        while let Some((due, payment)) = self.first_expiry()?
            && due <= now.as_micros()
        {
            self.expiries.remove((due, payment))?;
            self.changed = true;
            let mut hold = self.hold(payment)?.ok_or(BooksError::Corrupt("an expiring hold is missing"))?;
            let reference = self.next_reference()?;
            self.give_back(&hold, payment, None, reference, now)?;
            hold.status = Status::Expired;
            self.put_hold(payment, &hold)?;
        }
        Ok(())
    }

    /// Carries out an operation, or answers it as it was answered before.
    pub(crate) fn execute(
        &mut self,
        operation: &Operation,
        directive: Directive,
        now: Timestamp,
    ) -> Result<Outcome> {
        let key = key_bytes(operation.key());
        let content = fingerprint(operation);
        if let Some(known) = self.operation(key)? {
            return Ok(if known.content == content {
                self.outcome(&known)?
            } else {
                Outcome::Unprocessable { text: format!("{} is known with other content", operation.key()) }
            });
        }
        let reference = self.next_reference()?;
        let request = Request::of(&operation.kind);
        let (answer, deferred) = match directive {
            Directive::Decide => (self.decide(operation.key(), &request, reference, now)?, None),
            Directive::Decline(decline) => (declined(decline.reason, decline.text), None),
            Directive::DecideAfter(delay) => {
                self.undecided.insert((now.plus(delay).as_micros(), key), ())?;
                (Answer::Pending, Some(request))
            }
        };
        let record = OperationRecord { content, reference, answer, deferred };
        self.put_operation(key, &record)?;
        self.outcome(&record)
    }

    /// What became of an operation.
    pub(crate) fn query(&self, key: OperationKey) -> Result<QueryOutcome> {
        let Some(record) = self.operation(key_bytes(key))? else { return Ok(QueryOutcome::NotFound) };
        self.query_outcome(key, &record)
    }

    /// Could the account pay?
    pub(crate) fn confirm_funds(&self, iban: &Iban, amount: Money) -> Result<bool> {
        let Some(account) = self.account(iban.as_str())? else { return Ok(false) };
        Ok(!account.closed
            && !account.frozen
            && account.currency == code_of(amount.currency())
            && account.available() >= amount.minor_units())
    }

    /// What is on our own accounts, and the instant that separates the bookings in it from those that follow.
    pub(crate) fn own_balances(&mut self, now: Timestamp) -> Result<(Timestamp, Vec<(OwnAccount, Money)>)> {
        let as_of = self.tick(now)?;
        let mut balances = Vec::new();
        for row in self.accounts.iter()? {
            let (id, bytes) = row?;
            let Some(own) = own_account(id.value()) else { continue };
            let account: Account = postcard::from_bytes(bytes.value())?;
            balances.push((own, Money::new(account.balance, account.currency()?)));
        }
        Ok((as_of, balances))
    }

    /// Entries after a sequence number.
    pub(crate) fn entries(&self, after: u64, booked_until: Timestamp, entries_max: usize) -> Result<Entries> {
        if let Some(first_kept) = self.entries.first()?.map(|(sequence, _)| sequence.value())
            && after.saturating_add(1) < first_kept
        {
            return Ok(Entries::Forgotten { first_kept });
        }
        let mut entries = Vec::new();
        for row in self.entries.range(after.saturating_add(1)..)? {
            let (sequence, bytes) = row?;
            let entry: Entry = postcard::from_bytes(bytes.value())?;
            if entry.booked_at > booked_until.as_micros() {
                break;
            }
            if entries.len() >= entries_max {
                return Ok(Entries::Page { entries, has_more: true });
            }
            entries.push((sequence.value(), entry));
        }
        Ok(Entries::Page { entries, has_more: false })
    }

    /// Opens a customer's account. Opening it again changes nothing.
    pub(crate) fn open_account(
        &mut self,
        iban: &Iban,
        currency: Currency,
    ) -> Result<std::result::Result<(), Refusal>> {
        match self.account(iban.as_str())? {
            Some(account) if account.currency != code_of(currency) => Ok(Err(Refusal::OtherCurrency)),
            Some(_) => Ok(Ok(())),
            None => {
                self.put_account(iban.as_str(), &Account::new(currency))?;
                Ok(Ok(()))
            }
        }
    }

    /// Opens our own accounts in a currency, if they are not open.
    pub(crate) fn open_own_accounts(&mut self, currency: Currency) -> Result<()> {
        self.account_or_new(&reserve_id(currency), currency)?;
        if self.rules.hold_mode == HoldMode::Escrow {
            self.account_or_new(&escrow_id(currency), currency)?;
        }
        Ok(())
    }

    /// Freezes, thaws, closes or opens again.
    pub(crate) fn set_flags(
        &mut self,
        iban: &Iban,
        frozen: Option<bool>,
        closed: Option<bool>,
    ) -> Result<std::result::Result<Account, Refusal>> {
        let Some(mut account) = self.account(iban.as_str())? else { return Ok(Err(Refusal::NoSuchAccount)) };
        account.frozen = frozen.unwrap_or(account.frozen);
        account.closed = closed.unwrap_or(account.closed);
        self.put_account(iban.as_str(), &account)?;
        Ok(Ok(account))
    }

    /// Puts money into an account from outside, once per `deposit_id`. The only way that the sum of all accounts changes.
    pub(crate) fn deposit(
        &mut self,
        deposit_id: &str,
        to: DepositTo<'_>,
        amount: Money,
        now: Timestamp,
    ) -> Result<std::result::Result<(), Refusal>> {
        let code = code_of(amount.currency());
        let id = match to {
            DepositTo::Customer(iban) => iban.as_str().to_owned(),
            DepositTo::Reserve => reserve_id(amount.currency()),
        };
        if let Some(known) = self.deposits.get(deposit_id)? {
            let same = postcard::from_bytes::<(String, i128, [u8; 3])>(known.value())?
                == (id, amount.minor_units(), code);
            return Ok(if same { Ok(()) } else { Err(Refusal::OtherDeposit) });
        }
        let mut account = match to {
            DepositTo::Customer(_) => match self.account(&id)? {
                None => return Ok(Err(Refusal::NoSuchAccount)),
                Some(account) => account,
            },
            DepositTo::Reserve => self.account_or_new(&id, amount.currency())?,
        };
        if account.currency != code {
            return Ok(Err(Refusal::OtherCurrency));
        }
        account.balance = account.balance.checked_add(amount.minor_units()).ok_or(OVERFLOW)?;
        self.put_account(&id, &account)?;
        self.deposits.insert(deposit_id, encode(&(&id, amount.minor_units(), code))?.as_slice())?;
        if to == DepositTo::Reserve {
            let reference = self.next_reference()?;
            self.book(false, amount.minor_units(), code, None, reference, now)?;
        }
        Ok(Ok(()))
    }

    pub(crate) fn account(&self, id: &str) -> Result<Option<Account>> {
        self.accounts.get(id)?.map(|bytes| Ok(postcard::from_bytes(bytes.value())?)).transpose()
    }

    /// Accounts after `after`, in order: IBANs, and our own as `reserve:EUR`.
    pub(crate) fn accounts_after(&self, after: &str, accounts_max: usize) -> Result<Vec<(String, Account)>> {
        let range = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        self.accounts
            .range::<&str>(range)?
            .take(accounts_max)
            .map(|row| {
                let (id, bytes) = row?;
                Ok((id.value().to_owned(), postcard::from_bytes(bytes.value())?))
            })
            .collect()
    }

    /// Operations after `after`, in order of their keys.
    pub(crate) fn operations_after(
        &self,
        after: Option<OperationKey>,
        operations_max: usize,
    ) -> Result<Vec<Remembered>> {
        let start = after.map_or(std::ops::Bound::Unbounded, |key| std::ops::Bound::Excluded(key_bytes(key)));
        self.operations
            .range::<[u8; 17]>((start, std::ops::Bound::Unbounded))?
            .take(operations_max)
            .map(|row| {
                let (key, bytes) = row?;
                let key = key_of(key.value())?;
                let record = postcard::from_bytes(bytes.value())?;
                Ok(Remembered { key, outcome: self.query_outcome(key, &record)? })
            })
            .collect()
    }

    /// Do the accounts add up to the deposits, and the holds to what is held?
    pub(crate) fn audit(&self) -> Result<Audit> {
        let mut totals: BTreeMap<String, AuditTotals> = BTreeMap::new();
        let mut findings = Vec::new();
        let mut held: BTreeMap<String, i128> = BTreeMap::new();
        let mut escrowed: BTreeMap<[u8; 3], i128> = BTreeMap::new();
        for row in self.holds.iter()? {
            let hold: Hold = postcard::from_bytes(row?.1.value())?;
            if hold.status == Status::Active {
                *held.entry(hold.account).or_default() += hold.amount;
                *escrowed.entry(hold.currency).or_default() += hold.amount;
            }
        }
        for row in self.accounts.iter()? {
            let (id, bytes) = row?;
            let account: Account = postcard::from_bytes(bytes.value())?;
            let total = totals.entry(account.currency()?.code().to_owned()).or_default();
            total.accounts += account.balance;
            total.held += account.held;
            if account.balance < 0 || account.held < 0 || account.available() < 0 {
                findings.push(format!("account {} is overdrawn", id.value()));
            }
            let expected = match (self.rules.hold_mode, own_account(id.value())) {
                (HoldMode::Native, None) => held.get(id.value()).copied().unwrap_or(0) == account.held,
                (HoldMode::Escrow, Some(OwnAccount::Escrow)) => {
                    escrowed.get(&account.currency).copied().unwrap_or(0) == account.balance
                }
                (HoldMode::Native, Some(_)) | (HoldMode::Escrow, _) | (HoldMode::ConfirmOnly, _) => {
                    account.held == 0
                }
            };
            if !expected {
                findings.push(format!("account {} disagrees with its holds", id.value()));
            }
        }
        for row in self.deposits.iter()? {
            let (_, amount, code): (String, i128, [u8; 3]) = postcard::from_bytes(row?.1.value())?;
            totals.entry(currency_of(code)?.code().to_owned()).or_default().deposits += amount;
        }
        for (currency, total) in &totals {
            if total.accounts != total.deposits {
                findings.push(format!(
                    "{currency}: accounts hold {}, deposits were {}",
                    total.accounts, total.deposits
                ));
            }
        }
        Ok(Audit { sound: findings.is_empty(), findings, totals })
    }

    /// Forgets the oldest resolved payments and statement entries beyond what is kept. A few at a time: called often.
    pub(crate) fn forget(&mut self) -> Result<()> {
        /// More than one slice adds, so that what is kept stays bounded.
        const FORGET_MAX: usize = 4_096;
        let mut excess = self.operations.len()?.saturating_sub(self.rules.operations_kept_max);
        // Not for every single one too many: finding them costs a look at those that may not be forgotten yet.
        if excess >= 1_024 {
            let mut payments: Vec<[u8; 16]> = Vec::new();
            for row in self.operations.iter()?.take(FORGET_MAX) {
                let [payment @ .., _] = row?.0.value();
                if payments.last() != Some(&payment) {
                    payments.push(payment);
                }
            }
            for payment in payments {
                if excess == 0 {
                    break;
                }
                excess = excess.saturating_sub(self.forget_payment(payment)?);
            }
        }
        let excess = self.entries.len()?.saturating_sub(self.rules.entries_kept_max);
        for _ in 0..usize::try_from(excess).unwrap_or(FORGET_MAX).min(FORGET_MAX) {
            self.entries.pop_first()?;
            self.changed = true;
        }
        Ok(())
    }

    /// Unless something of the payment is still open. Gives the number of operations forgotten.
    fn forget_payment(&mut self, payment: [u8; 16]) -> Result<u64> {
        let keys =
            BankStep::ALL.map(|step| key_bytes(OperationKey { payment_id: payment_of(payment), step }));
        if self.hold(payment)?.is_some_and(|hold| hold.status == Status::Active) {
            return Ok(0);
        }
        for key in keys {
            if self.operation(key)?.is_some_and(|record| record.deferred.is_some()) {
                return Ok(0);
            }
        }
        let mut forgotten = 0;
        for key in keys {
            forgotten += u64::from(self.operations.remove(key)?.is_some());
        }
        self.holds.remove(payment)?;
        self.changed = true;
        Ok(forgotten)
    }

    fn decide(
        &mut self,
        key: OperationKey,
        request: &Request,
        reference: u64,
        now: Timestamp,
    ) -> Result<Answer> {
        let payment = *key.payment_id.as_uuid().as_bytes();
        match request {
            Request::PlaceHold { account, amount, currency, until } => {
                let ttl_end = now.plus(self.rules.hold_ttl_max).as_micros();
                let hold = Hold {
                    account: account.clone(),
                    amount: *amount,
                    currency: *currency,
                    expires_at: ttl_end.min(*until),
                    status: Status::Active,
                };
                self.place_hold(hold, payment, key, reference, now)
            }
            Request::Capture { account, amount, currency } => {
                self.capture((account, *amount, *currency), payment, key, reference, now)
            }
            Request::Release => self.release(payment, key, reference, now),
            Request::Credit { account, amount, currency } => {
                self.credit((account, *amount, *currency), key, reference, now)
            }
        }
    }

    fn place_hold(
        &mut self,
        hold: Hold,
        payment: [u8; 16],
        key: OperationKey,
        reference: u64,
        now: Timestamp,
    ) -> Result<Answer> {
        if self.hold(payment)?.is_some() {
            return Ok(declined(narrative(), "released before it was placed"));
        }
        if hold.expires_at <= now.as_micros() {
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
                (self.tick(now)?, Some(hold.expires_at))
            }
            HoldMode::Escrow => {
                let escrow = escrow_id(currency_of(hold.currency)?);
                self.transfer(&hold.account, &escrow, hold.amount)?;
                let booked_at = self.book(true, hold.amount, hold.currency, Some(key), reference, now)?;
                (booked_at, Some(hold.expires_at))
            }
            HoldMode::ConfirmOnly => (self.tick(now)?, None),
        };
        if let Some(expires_at) = hold_expires_at {
            self.expiries.insert((expires_at, payment), ())?;
        }
        self.put_hold(payment, &hold)?;
        Ok(Answer::Done { booked_at: booked_at.as_micros(), hold_expires_at })
    }

    fn capture(
        &mut self,
        (iban, amount, currency): (&str, i128, [u8; 3]),
        payment: [u8; 16],
        key: OperationKey,
        reference: u64,
        now: Timestamp,
    ) -> Result<Answer> {
        let Some(mut hold) = self.hold(payment)? else {
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
                self.book(true, -amount, currency, Some(key), reference, now)?;
            }
            HoldMode::ConfirmOnly => {
                if let Err(answer) = self.debitable(iban, amount, currency)? {
                    return Ok(answer);
                }
                self.transfer(iban, &reserve, amount)?;
            }
        }
        if self.rules.hold_mode != HoldMode::ConfirmOnly {
            self.expiries.remove((hold.expires_at, payment))?;
        }
        let booked_at = self.book(false, amount, currency, Some(key), reference, now)?;
        hold.status = Status::Captured;
        self.put_hold(payment, &hold)?;
        Ok(Answer::Done { booked_at: booked_at.as_micros(), hold_expires_at: None })
    }

    fn release(
        &mut self,
        payment: [u8; 16],
        key: OperationKey,
        reference: u64,
        now: Timestamp,
    ) -> Result<Answer> {
        let Some(mut hold) = self.hold(payment)? else {
            let tombstone = Hold {
                account: String::new(),
                amount: 0,
                currency: [0; 3],
                expires_at: 0,
                status: Status::Tombstone,
            };
            self.put_hold(payment, &tombstone)?;
            return Ok(Answer::Done { booked_at: self.tick(now)?.as_micros(), hold_expires_at: None });
        };
        let confirm_only = self.rules.hold_mode == HoldMode::ConfirmOnly;
        let booked_at = match hold.status {
            Status::Active => {
                if !confirm_only {
                    self.expiries.remove((hold.expires_at, payment))?;
                }
                hold.status = Status::Released;
                self.give_back(&hold, payment, Some(key), reference, now)?
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
                self.book(false, -hold.amount, hold.currency, Some(key), reference, now)?
            }
            Status::Captured => return Ok(declined(narrative(), "the hold is captured already")),
            Status::Released | Status::Expired | Status::Tombstone => self.tick(now)?,
        };
        self.put_hold(payment, &hold)?;
        Ok(Answer::Done { booked_at: booked_at.as_micros(), hold_expires_at: None })
    }

    fn credit(
        &mut self,
        (iban, amount, currency): (&str, i128, [u8; 3]),
        key: OperationKey,
        reference: u64,
        now: Timestamp,
    ) -> Result<Answer> {
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
        let booked_at = self.book(false, -amount, currency, Some(key), reference, now)?;
        Ok(Answer::Done { booked_at: booked_at.as_micros(), hold_expires_at: None })
    }

    /// Ends an active hold in the debtor's favour.
    fn give_back(
        &mut self,
        hold: &Hold,
        payment: [u8; 16],
        key: Option<OperationKey>,
        reference: u64,
        now: Timestamp,
    ) -> Result<Timestamp> {
        match self.rules.hold_mode {
            HoldMode::Native => {
                let mut account = self.existing(&hold.account)?;
                account.held = account.held.checked_sub(hold.amount).ok_or(OVERFLOW)?;
                self.put_account(&hold.account, &account)?;
                self.tick(now)
            }
            HoldMode::Escrow => {
                self.transfer(&escrow_id(currency_of(hold.currency)?), &hold.account, hold.amount)?;
                let placed = OperationKey { payment_id: payment_of(payment), step: BankStep::PlaceHold };
                self.book(true, -hold.amount, hold.currency, Some(key.unwrap_or(placed)), reference, now)
            }
            HoldMode::ConfirmOnly => self.tick(now),
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
    fn transfer(&mut self, from: &str, to: &str, amount: i128) -> Result<()> {
        let mut source = self.existing(from)?;
        if amount <= 0 || from == to || source.available() < amount {
            return Err(BooksError::Corrupt("a transfer of nothing, to itself, or without cover"));
        }
        let mut target = self.account_or_new(to, source.currency()?)?;
        if source.currency != target.currency {
            return Err(BooksError::Corrupt("a transfer between currencies"));
        }
        source.balance = source.balance.checked_sub(amount).ok_or(OVERFLOW)?;
        target.balance = target.balance.checked_add(amount).ok_or(OVERFLOW)?;
        self.put_account(from, &source)?;
        self.put_account(to, &target)
    }

    /// Writes an entry of our statement.
    fn book(
        &mut self,
        escrow: bool,
        change: i128,
        currency: [u8; 3],
        key: Option<OperationKey>,
        reference: u64,
        now: Timestamp,
    ) -> Result<Timestamp> {
        let booked_at = self.tick(now)?;
        let entry = Entry {
            escrow,
            change,
            currency,
            booked_at: booked_at.as_micros(),
            key: key.map(key_bytes),
            reference,
        };
        let sequence = self.entries.last()?.map_or(0, |(sequence, _)| sequence.value()).saturating_add(1);
        self.entries.insert(sequence, encode(&entry)?.as_slice())?;
        Ok(booked_at)
    }

    /// An instant for a booking: now, but later than any before, also when the clock stands still or goes back.
    fn tick(&mut self, now: Timestamp) -> Result<Timestamp> {
        let instant = self.counter(LAST_BOOKED_AT)?.saturating_add(1).max(now.as_micros());
        self.set_counter(LAST_BOOKED_AT, instant)?;
        Ok(Timestamp::from_micros(instant))
    }

    fn next_reference(&mut self) -> Result<u64> {
        let next = self.counter(LAST_REFERENCE)?.saturating_add(1);
        self.set_counter(LAST_REFERENCE, next)?;
        u64::try_from(next).map_err(|_| BooksError::Corrupt("a reference below zero"))
    }

    fn counter(&self, name: &'static str) -> Result<i64> {
        Ok(self.counters.get(name)?.map_or(0, |value| value.value()))
    }

    fn set_counter(&mut self, name: &'static str, value: i64) -> Result<()> {
        self.counters.insert(name, value)?;
        self.changed = true;
        Ok(())
    }

    fn existing(&self, id: &str) -> Result<Account> {
        self.account(id)?.ok_or(BooksError::Corrupt("an account that was in use is missing"))
    }

    fn account_or_new(&mut self, id: &str, currency: Currency) -> Result<Account> {
        if let Some(account) = self.account(id)? {
            return Ok(account);
        }
        let account = Account::new(currency);
        self.put_account(id, &account)?;
        Ok(account)
    }

    fn put_account(&mut self, id: &str, account: &Account) -> Result<()> {
        self.accounts.insert(id, encode(account)?.as_slice())?;
        self.changed = true;
        Ok(())
    }

    fn operation(&self, key: [u8; 17]) -> Result<Option<OperationRecord>> {
        self.operations.get(key)?.map(|bytes| Ok(postcard::from_bytes(bytes.value())?)).transpose()
    }

    fn put_operation(&mut self, key: [u8; 17], record: &OperationRecord) -> Result<()> {
        self.operations.insert(key, encode(record)?.as_slice())?;
        self.changed = true;
        Ok(())
    }

    fn hold(&self, payment: [u8; 16]) -> Result<Option<Hold>> {
        self.holds.get(payment)?.map(|bytes| Ok(postcard::from_bytes(bytes.value())?)).transpose()
    }

    fn put_hold(&mut self, payment: [u8; 16], hold: &Hold) -> Result<()> {
        self.holds.insert(payment, encode(hold)?.as_slice())?;
        self.changed = true;
        Ok(())
    }

    /// A bank's reference as text.
    pub(crate) fn reference(&self, number: u64) -> String {
        format!("{}-{number:010}", self.rules.reference_prefix)
    }

    fn outcome(&self, record: &OperationRecord) -> Result<Outcome> {
        let reference = self.reference(record.reference);
        Ok(match &record.answer {
            Answer::Done { booked_at, hold_expires_at } => {
                Outcome::Done(receipt(reference, *booked_at, *hold_expires_at))
            }
            Answer::Declined { reason, text } => Outcome::Declined(decline(reason, text)?),
            Answer::Pending => Outcome::Pending { reference: Some(reference) },
        })
    }

    fn query_outcome(&self, key: OperationKey, record: &OperationRecord) -> Result<QueryOutcome> {
        let reference = self.reference(record.reference);
        Ok(match &record.answer {
            Answer::Done { booked_at, hold_expires_at } => QueryOutcome::Done {
                receipt: receipt(reference, *booked_at, *hold_expires_at),
                hold: if key.step == BankStep::PlaceHold { self.hold_status(key.payment_id)? } else { None },
            },
            Answer::Declined { reason, text } => QueryOutcome::Declined(decline(reason, text)?),
            Answer::Pending => QueryOutcome::Pending { reference: Some(reference) },
        })
    }

    fn first_undecided(&self) -> Result<Option<(i64, [u8; 17])>> {
        Ok(self.undecided.first()?.map(|(due, _)| due.value()))
    }

    fn first_expiry(&self) -> Result<Option<(i64, [u8; 16])>> {
        Ok(self.expiries.first()?.map(|(due, _)| due.value()))
    }

    fn hold_status(&self, payment: PaymentId) -> Result<Option<HoldStatus>> {
        Ok(self.hold(*payment.as_uuid().as_bytes())?.map(|hold| match hold.status {
            Status::Active => HoldStatus::Active,
            Status::Captured => HoldStatus::Captured,
            Status::Released | Status::Tombstone => HoldStatus::Released,
            Status::Expired => HoldStatus::Expired,
        }))
    }
}

const OVERFLOW: BooksError = BooksError::Corrupt("an amount beyond all bounds");

fn receipt(reference: String, booked_at: i64, hold_expires_at: Option<i64>) -> Receipt {
    Receipt {
        reference,
        booked_at: Timestamp::from_micros(booked_at),
        hold_expires_at: hold_expires_at.map(Timestamp::from_micros),
    }
}

fn decline(reason: &[u8; 4], text: &str) -> Result<Decline> {
    let reason = std::str::from_utf8(reason).ok().and_then(ReasonCode::parse);
    Ok(Decline {
        reason: reason.ok_or(BooksError::Corrupt("a reason that is no code"))?,
        text: text.to_owned(),
    })
}

fn declined(reason: ReasonCode, text: impl Into<String>) -> Answer {
    Answer::Declined { reason: reason.as_str().as_bytes().try_into().unwrap_or(*b"MS03"), text: text.into() }
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

fn reserve_id(currency: Currency) -> String {
    format!("reserve:{currency}")
}

fn escrow_id(currency: Currency) -> String {
    format!("escrow:{currency}")
}

/// Which of our own accounts an id means; none for a customer's. No IBAN contains a colon.
pub(crate) fn own_account(id: &str) -> Option<OwnAccount> {
    match id.split_once(':')?.0 {
        "reserve" => Some(OwnAccount::Reserve),
        "escrow" => Some(OwnAccount::Escrow),
        _ => None,
    }
}

fn key_bytes(key: OperationKey) -> [u8; 17] {
    let mut bytes = [0; 17];
    bytes[..16].copy_from_slice(key.payment_id.as_uuid().as_bytes());
    bytes[16] = match key.step {
        BankStep::PlaceHold => 0,
        BankStep::Capture => 1,
        BankStep::Release => 2,
        BankStep::Credit => 3,
    };
    bytes
}

fn key_of(bytes: [u8; 17]) -> Result<OperationKey> {
    let [payment @ .., step] = bytes;
    let step = BankStep::ALL.get(usize::from(step)).copied();
    Ok(OperationKey {
        payment_id: payment_of(payment),
        step: step.ok_or(BooksError::Corrupt("a key of no step"))?,
    })
}

fn payment_of(bytes: [u8; 16]) -> PaymentId {
    PaymentId::from_uuid(uuid::Uuid::from_bytes(bytes))
}

/// Half a SHA-256 over everything an operation says, with lengths so that no two contents run together.
fn fingerprint(operation: &Operation) -> [u8; 16] {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    };
    let amount_of = |amount: &Money| {
        [amount.minor_units().to_be_bytes().as_slice(), amount.currency().code().as_bytes()].concat()
    };
    match &operation.kind {
        OperationKind::PlaceHold { account, amount, until } => {
            add(account.as_str().as_bytes());
            add(&amount_of(amount));
            add(&until.as_micros().to_be_bytes());
        }
        OperationKind::Capture { account, amount } => {
            add(account.as_str().as_bytes());
            add(&amount_of(amount));
        }
        OperationKind::Release => {}
        OperationKind::Credit { account, amount, end_to_end_id, remittance_information } => {
            add(account.as_str().as_bytes());
            add(&amount_of(amount));
            add(end_to_end_id.as_deref().unwrap_or_default().as_bytes());
            add(remittance_information.as_ref().map_or("", |text| text.reveal()).as_bytes());
        }
    }
    let digest = hash.finalize();
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    half
}

fn encode(record: &impl Serialize) -> Result<Vec<u8>> {
    Ok(postcard::to_allocvec(record)?)
}
