//! Posting: journal entries and hold movements of a slice, in three statements, and two more when an account is new.
//!
//! Balances follow by triggers in the database, under locks taken in the order of account ids; an entry that was posted
//! before (same source, moment and round) is refused there too. An account that does not exist yet is made first.

use crate::db::{Db, StoreError, Tx};
use crate::sql::{At, columns, statements};
use flowbridge_domain::ledger::{JournalEntry, LedgerAccount, LedgerHold, Side};
use flowbridge_domain::money::Currency;
use flowbridge_domain::time::Timestamp;
use std::collections::BTreeMap;
use uuid::Uuid;

statements! {
    // In the order in which they are named; null for one that does not exist yet.
    FIND_ACCOUNTS = "select known.id
        from unnest($1::text[], $2::text[], $3::text[]) with ordinality as named (kind, owner, currency, place)
            left join ledger_account known
                on known.kind = named.kind and known.owner = named.owner and known.currency = named.currency
        order by named.place";

    OPEN_ACCOUNTS = "insert into ledger_account (kind, owner, currency, normal_side)
        select new.kind, new.owner, new.currency, new.normal_side
            from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as new (kind, owner, currency, normal_side)
            order by new.kind, new.owner, new.currency
        on conflict do nothing";

    POST_ENTRIES = "insert into journal_entry
            (source_id, moment, round, debit_account, credit_account, currency, amount, posted_at)
        select new.*, $8
            from unnest($1::uuid[], $2::text[], $3::smallint[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[]) as new";

    MOVE_HOLDS = "insert into hold_movement (source_id, round, movement, account, amount, made_at)
        select new.*, $6
            from unnest($1::uuid[], $2::smallint[], $3::text[], $4::bigint[], $5::bigint[]) as new";
}

/// Posts entries in a transaction of their own: all of them, or none.
pub async fn post_slice(db: &Db, entries: &[(Uuid, JournalEntry)], now: Timestamp) -> Result<(), StoreError> {
    let tx = db.begin().await?;
    post(&tx, entries, &[], now).await?;
    tx.commit().await
}

/// Posts entries and hold movements, each under the payment (or other source) that they belong to.
///
/// All holds move in one statement, so that what is held of an account changes by the sum: a slice may place, take, place and
/// take again what was reserved once.
pub(crate) async fn post(
    tx: &Tx,
    entries: &[(Uuid, JournalEntry)],
    holds: &[(Uuid, LedgerHold)],
    now: Timestamp,
) -> Result<(), StoreError> {
    let accounts = Accounts::of(tx, entries, holds).await?;
    move_holds(tx, &accounts, holds, now).await?;
    post_entries(tx, &accounts, entries, now).await
}

/// The accounts of a slice, each looked up once however many entries name it.
struct Accounts(BTreeMap<(LedgerAccount, Currency), i64>);

impl Accounts {
    async fn of(
        tx: &Tx,
        entries: &[(Uuid, JournalEntry)],
        holds: &[(Uuid, LedgerHold)],
    ) -> Result<Self, StoreError> {
        let mut accounts = BTreeMap::new();
        for (_, entry) in entries {
            for account in [&entry.debit, &entry.credit] {
                accounts.entry((account.clone(), entry.amount.currency())).or_insert(0);
            }
        }
        for (_, hold) in holds {
            accounts.entry((LedgerAccount::Wallet(hold.account), hold.amount.currency())).or_insert(0);
        }
        let mut accounts = Self(accounts);
        if !accounts.0.is_empty() && !accounts.find(tx).await? {
            accounts.open(tx).await?;
            if !accounts.find(tx).await? {
                return Err(StoreError::Corrupt("an account that was opened is not there".into()));
            }
        }
        Ok(accounts)
    }

    /// Reads the ids, and says whether every account exists.
    async fn find(&mut self, tx: &Tx) -> Result<bool, StoreError> {
        let named: Vec<_> = self.0.keys().collect();
        let (kinds, owners, currencies) =
            columns!(named, |(account, currency)| account.kind(), account.owner(), currency.code());
        let mut all = true;
        let rows = tx.query(FIND_ACCOUNTS, &[&kinds, &owners, &currencies]).await?;
        for (id, row) in self.0.values_mut().zip(&rows) {
            let found: Option<i64> = row.try_get("id")?;
            all &= found.is_some();
            *id = found.unwrap_or_default();
        }
        Ok(all)
    }

    /// Opens those that do not exist.
    async fn open(&self, tx: &Tx) -> Result<(), StoreError> {
        let new: Vec<_> = self.0.iter().filter(|(_, id)| **id == 0).map(|(account, _)| account).collect();
        let (kinds, owners, currencies, sides) = columns!(
            new,
            |(account, currency)| account.kind(),
            account.owner(),
            currency.code(),
            match account.normal_side() {
                Side::Debit => "debit",
                Side::Credit => "credit",
            }
        );
        tx.execute(OPEN_ACCOUNTS, &[&kinds, &owners, &currencies, &sides]).await?;
        Ok(())
    }

    /// The id of an account of the slice: all that its entries and holds name were taken in.
    fn id(&self, account: &LedgerAccount, currency: Currency) -> i64 {
        self.0.get(&(account.clone(), currency)).copied().unwrap_or_default()
    }
}

async fn post_entries(
    tx: &Tx,
    accounts: &Accounts,
    entries: &[(Uuid, JournalEntry)],
    now: Timestamp,
) -> Result<(), StoreError> {
    if entries.is_empty() {
        return Ok(());
    }
    let amounts = minor_units(entries.iter().map(|(_, entry)| entry.amount.minor_units()))?;
    let (sources, moments, rounds, debits, credits, currencies) = columns!(
        entries,
        |(source, entry)| *source,
        entry.moment.as_str(),
        i16::try_from(entry.round).unwrap_or(i16::MAX),
        accounts.id(&entry.debit, entry.amount.currency()),
        accounts.id(&entry.credit, entry.amount.currency()),
        entry.amount.currency().code().to_owned()
    );
    tx.execute(
        POST_ENTRIES,
        &[&sources, &moments, &rounds, &debits, &credits, &currencies, &amounts, &At(now)],
    )
    .await?;
    Ok(())
}

async fn move_holds(
    tx: &Tx,
    accounts: &Accounts,
    holds: &[(Uuid, LedgerHold)],
    now: Timestamp,
) -> Result<(), StoreError> {
    if holds.is_empty() {
        return Ok(());
    }
    let amounts = minor_units(holds.iter().map(|(_, hold)| hold.amount.minor_units()))?;
    let (sources, rounds, movements, ids) = columns!(
        holds,
        |(source, hold)| *source,
        i16::try_from(hold.round).unwrap_or(i16::MAX),
        hold.movement.as_str(),
        accounts.id(&LedgerAccount::Wallet(hold.account), hold.amount.currency())
    );
    tx.execute(MOVE_HOLDS, &[&sources, &rounds, &movements, &ids, &amounts, &At(now)]).await?;
    Ok(())
}

fn minor_units(amounts: impl Iterator<Item = i128>) -> Result<Vec<i64>, StoreError> {
    amounts
        .map(|amount| {
            i64::try_from(amount).map_err(|_| StoreError::Corrupt(format!("an amount of {amount}")))
        })
        .collect()
}
