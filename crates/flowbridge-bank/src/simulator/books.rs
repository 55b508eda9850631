//! The books of one simulated bank: accounts, holds, operations and the statement, over one redb write transaction.
//!
//! What it promises: money moves only by [`Books::transfer`], from one account to another, so the sum over all accounts is
//! what was deposited; an operation is decided once and its first answer is its answer for ever; a hold is resolved
//! once, and a release that comes first leaves a tombstone; every booking has an instant of its own, later than all before.
//! [`Books::audit`] checks the first and the holds against the accounts.
//!
//! Nothing here knows about HTTP, faults or threads: [`super::ledger`] decides when a transaction begins and is
//! durable, and which operations are to be declined or delayed on purpose.

mod audit;
mod decide;
mod misbook;
mod records;

pub(super) use misbook::{Misbooking, Note, Unasked};
pub(super) use records::{Account, Entry, own_account};

use crate::connector::{Decline, HoldStatus, Operation, Outcome, OwnAccount, QueryOutcome};
use decide::Case;
use flowbridge_domain::bank::{BankStep, HoldMode, OperationKey};
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::money::{Currency, Money};
use flowbridge_domain::party::Iban;
use flowbridge_domain::time::Timestamp;
use records::{
    Answer, Hold, OperationRecord, Request, Status, code_of, decline, declined, encode, escrow_id,
    fingerprint, key_bytes, key_of, payment_of, receipt, reserve_id,
};
use redb::{ReadableTable as _, Table, TableDefinition, WriteTransaction};
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
/// What a few entries say beside their amounts.
const NOTES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("notes");

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
    /// Place the hold, but for no longer than this.
    HoldFor(Duration),
    /// Decide, and book it wrongly on our reserve.
    Misbook(Misbooking),
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

/// A line of the oracle: an operation as the bank remembers it.
#[derive(Debug)]
pub(crate) struct Remembered {
    pub(crate) key: OperationKey,
    pub(crate) outcome: QueryOutcome,
}

/// Which account a deposit goes to.
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
    notes: Table<'txn, u64, &'static [u8]>,
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
            notes: tx.open_table(NOTES)?,
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
            let case = Case { key: key_of(key)?, reference: record.reference, now };
            record.answer = self.decide(&request, case)?;
            self.put_operation(key, &record)?;
        }
        while let Some((due, payment)) = self.first_expiry()?
            && due <= now.as_micros()
        {
            self.expiries.remove((due, payment))?;
            self.changed = true;
            let mut hold = self.hold(payment)?.ok_or(BooksError::Corrupt("an expiring hold is missing"))?;
            let key = OperationKey { payment_id: payment_of(payment), step: BankStep::PlaceHold };
            let case = Case { key, reference: self.next_reference()?, now };
            self.give_back(&hold, case)?;
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
            Directive::Decide => {
                (self.decide(&request, Case { key: operation.key(), reference, now })?, None)
            }
            Directive::HoldFor(lasts) => {
                let request = request.held_until(now.plus(lasts));
                (self.decide(&request, Case { key: operation.key(), reference, now })?, None)
            }
            Directive::Misbook(how) => {
                let case = Case { key: operation.key(), reference, now };
                let before = self.last_sequence()?;
                let answer = self.decide(&request, case)?;
                self.misbook(how, before, case)?;
                (answer, None)
            }
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
            balances.push((own, Money::new(account.posted, account.currency()?)));
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
        account.posted = account.posted.checked_add(amount.minor_units()).ok_or(OVERFLOW)?;
        self.put_account(&id, &account)?;
        self.deposits.insert(deposit_id, encode(&(&id, amount.minor_units(), code))?.as_slice())?;
        if to == DepositTo::Reserve {
            let reference = self.next_reference()?;
            self.book(Entry::funding(amount.minor_units(), code, reference), now)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::OperationKind;
    use flowbridge_domain::bank::ReasonCode;
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};
    use redb::Database;
    use std::collections::HashMap;

    const IBANS: [&str; 3] = ["CH9300762011623852957", "DE89370400440532013000", "GB82WEST12345698765432"];

    /// Whatever is asked for, in whatever order, of however few funds: the books stay sound, the statement tells the
    /// balances, and every operation keeps its first final answer.
    #[test]
    fn random_operations_neither_make_nor_lose_money() {
        for (mode, seed) in [HoldMode::Native, HoldMode::Escrow, HoldMode::ConfirmOnly]
            .into_iter()
            .flat_map(|mode| (0..8).map(move |seed| (mode, seed)))
        {
            let mut random = StdRng::seed_from_u64(seed);
            let mut now = Timestamp::from_secs(1_800_000_000);
            let rules = Rules {
                reference_prefix: "TEST".into(),
                hold_mode: mode,
                hold_ttl_max: Duration::from_secs(600),
                operations_kept_max: 1_000_000,
                entries_kept_max: 1_000_000,
            };
            let backend = redb::backends::InMemoryBackend::new();
            let database = Database::builder().create_with_backend(backend).unwrap();
            let tx = database.begin_write().unwrap();
            let mut books = Books::open(&tx, &rules).unwrap();
            let euro = Currency::parse("EUR").unwrap();
            books.open_own_accounts(euro).unwrap();
            for iban in IBANS.map(|iban| Iban::parse(iban).unwrap()) {
                books.open_account(&iban, euro).unwrap().unwrap();
                let (id, to) = (iban.as_str().to_owned(), DepositTo::Customer(&iban));
                books.deposit(&id, to, Money::new(500, euro), now).unwrap().unwrap();
            }

            let mut answers: HashMap<OperationKey, (Operation, Outcome)> = HashMap::new();
            for _ in 0..400 {
                now = now.plus(Duration::from_secs(random.random_range(0..60)));
                books.catch_up(now).unwrap();
                let operation = random_operation(&mut random, now);
                // Under one key always one content, as the worker promises.
                let operation = answers.get(&operation.key()).map_or(operation, |(known, _)| known.clone());
                let directive = match random.random_range(0..10) {
                    0 => Directive::DecideAfter(Duration::from_secs(30)),
                    1 => {
                        Directive::Decline(Decline { reason: ReasonCode::NOT_SPECIFIED, text: String::new() })
                    }
                    _ => Directive::Decide,
                };
                let outcome = books.execute(&operation, directive, now).unwrap();
                let first = answers.entry(operation.key()).or_insert_with(|| (operation, outcome.clone()));
                if matches!(first.1, Outcome::Pending { .. }) {
                    first.1 = outcome;
                } else {
                    assert_eq!(first.1, outcome, "{mode:?} seed {seed}");
                }
                let audit = books.audit().unwrap();
                assert!(audit.sound, "{mode:?} seed {seed}: {:?}", audit.findings);
            }

            let (as_of, balances) = books.own_balances(now).unwrap();
            let Entries::Page { entries, .. } = books.entries(0, as_of, usize::MAX).unwrap() else {
                panic!("all entries are kept")
            };
            for (account, balance) in balances {
                let of_account = entries.iter().filter(|(_, entry)| entry.account() == account);
                let booked: i128 = of_account.map(|(_, entry)| entry.change().unwrap().minor_units()).sum();
                assert_eq!(booked, balance.minor_units(), "{mode:?} seed {seed} {account:?}");
            }
            let done = answers.values().filter(|(_, outcome)| matches!(outcome, Outcome::Done(_))).count();
            assert!(done > 50, "{mode:?} seed {seed}: only {done} operations did something");
        }
    }

    fn random_operation(random: &mut StdRng, now: Timestamp) -> Operation {
        let payment = random.random_range(0..120_u128);
        let account = Iban::parse(IBANS[usize::try_from(payment % 3).unwrap()]).unwrap();
        let amount = Money::new(i128::try_from(payment % 50 + 1).unwrap(), Currency::parse("EUR").unwrap());
        let kind = match random.random_range(0..4) {
            0 => OperationKind::PlaceHold { account, amount, until: now.plus(Duration::from_secs(300)) },
            1 => OperationKind::Capture { account, amount },
            2 => OperationKind::Release,
            _ => OperationKind::Credit { account, amount, end_to_end_id: None, remittance_information: None },
        };
        Operation { payment_id: PaymentId::from_uuid(uuid::Uuid::from_u128(payment)), kind }
    }
}
