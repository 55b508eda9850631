//! Posting: journal entries and hold movements of a slice, in three statements.
//!
//! Balances follow by triggers in the database, under locks taken in the order of account ids; an entry that was posted
//! before (same source, moment and round) is refused there too. An account that does not exist yet is made first.

use crate::db::{Db, StoreError, Tx};
use crate::sql::{At, columns, statements};
use flowbridge_domain::ledger::{HoldMovement, JournalEntry, LedgerAccount, LedgerHold, Side};
use flowbridge_domain::money::Currency;
use flowbridge_domain::time::Timestamp;
use std::collections::BTreeSet;
use uuid::Uuid;

statements! {
    ENSURE_ACCOUNTS = "insert into ledger_account (kind, owner, currency, normal_side)
        select new.kind, new.owner, new.currency, new.normal_side
            from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as new (kind, owner, currency, normal_side)
            where not exists (
                select from ledger_account known
                    where known.kind = new.kind and known.owner = new.owner and known.currency = new.currency)
            order by new.kind, new.owner, new.currency
        on conflict do nothing";

    POST_ENTRIES = "insert into journal_entry
            (source_id, moment, round, debit_account, credit_account, currency, amount, posted_at)
        select new.source_id, new.moment, new.round, debit.id, credit.id, new.currency, new.amount, $10
            from unnest($1::uuid[], $2::text[], $3::smallint[], $4::text[], $5::text[], $6::text[], $7::text[],
                    $8::text[], $9::bigint[])
                as new (source_id, moment, round, debit_kind, debit_owner, credit_kind, credit_owner, currency, amount)
            join ledger_account debit on debit.kind = new.debit_kind and debit.owner = new.debit_owner
                and debit.currency = new.currency
            join ledger_account credit on credit.kind = new.credit_kind and credit.owner = new.credit_owner
                and credit.currency = new.currency";

    MOVE_HOLDS = "insert into hold_movement (source_id, round, movement, account, amount, made_at)
        select new.source_id, new.round, new.movement, account.id, new.amount, $7
            from unnest($1::uuid[], $2::smallint[], $3::text[], $4::text[], $5::text[], $6::bigint[])
                as new (source_id, round, movement, owner, currency, amount)
            join ledger_account account on account.kind = 'wallet' and account.owner = new.owner
                and account.currency = new.currency";
}

/// Posts entries in a transaction of their own: all of them, or none.
pub async fn post_slice(db: &Db, entries: &[(Uuid, JournalEntry)], now: Timestamp) -> Result<(), StoreError> {
    let tx = db.begin().await?;
    post(&tx, entries, &[], now).await?;
    tx.commit().await
}

/// Posts entries and hold movements, each under the payment (or other source) that they belong to.
///
/// Holds that give back or take funds go before those that reserve anew, so that a slice may hold both.
pub(crate) async fn post(
    tx: &Tx,
    entries: &[(Uuid, JournalEntry)],
    holds: &[(Uuid, LedgerHold)],
    now: Timestamp,
) -> Result<(), StoreError> {
    ensure_accounts(tx, entries, holds).await?;
    move_holds(tx, holds, now).await?;
    post_entries(tx, entries, now).await
}

async fn ensure_accounts(
    tx: &Tx,
    entries: &[(Uuid, JournalEntry)],
    holds: &[(Uuid, LedgerHold)],
) -> Result<(), StoreError> {
    let named = entries
        .iter()
        .flat_map(|(_, entry)| {
            [&entry.debit, &entry.credit].map(|account| (account.clone(), entry.amount.currency()))
        })
        .chain(holds.iter().map(|(_, hold)| (LedgerAccount::Wallet(hold.account), hold.amount.currency())));
    let accounts: BTreeSet<(LedgerAccount, Currency)> = named.collect();
    if accounts.is_empty() {
        return Ok(());
    }
    let (kinds, owners, currencies, sides) = columns!(
        accounts,
        |(account, currency)| account.kind(),
        account.owner(),
        currency.code(),
        match account.normal_side() {
            Side::Debit => "debit",
            Side::Credit => "credit",
        }
    );
    tx.execute(ENSURE_ACCOUNTS, &[&kinds, &owners, &currencies, &sides]).await?;
    Ok(())
}

async fn post_entries(tx: &Tx, entries: &[(Uuid, JournalEntry)], now: Timestamp) -> Result<(), StoreError> {
    if entries.is_empty() {
        return Ok(());
    }
    let amounts = minor_units(entries.iter().map(|(_, entry)| entry.amount.minor_units()))?;
    let (sources, moments, rounds, debit_kinds, debit_owners, credit_kinds, credit_owners, currencies) = columns!(
        entries,
        |(source, entry)| *source,
        entry.moment.as_str(),
        i16::try_from(entry.round).unwrap_or(i16::MAX),
        entry.debit.kind(),
        entry.debit.owner(),
        entry.credit.kind(),
        entry.credit.owner(),
        entry.amount.currency().code().to_owned()
    );
    let posted = tx
        .execute(
            POST_ENTRIES,
            &[
                &sources,
                &moments,
                &rounds,
                &debit_kinds,
                &debit_owners,
                &credit_kinds,
                &credit_owners,
                &currencies,
                &amounts,
                &At(now),
            ],
        )
        .await?;
    all_written(posted, entries.len(), "journal entries")
}

async fn move_holds(tx: &Tx, holds: &[(Uuid, LedgerHold)], now: Timestamp) -> Result<(), StoreError> {
    for reserving in [false, true] {
        let slice: Vec<_> =
            holds.iter().filter(|(_, hold)| (hold.movement == HoldMovement::Place) == reserving).collect();
        if slice.is_empty() {
            continue;
        }
        let amounts = minor_units(slice.iter().map(|(_, hold)| hold.amount.minor_units()))?;
        let (sources, rounds, movements, owners, currencies) = columns!(
            slice,
            |(source, hold)| *source,
            i16::try_from(hold.round).unwrap_or(i16::MAX),
            hold.movement.as_str(),
            hold.account.to_string(),
            hold.amount.currency().code().to_owned()
        );
        let moved = tx
            .execute(MOVE_HOLDS, &[&sources, &rounds, &movements, &owners, &currencies, &amounts, &At(now)])
            .await?;
        all_written(moved, slice.len(), "hold movements")?;
    }
    Ok(())
}

fn minor_units(amounts: impl Iterator<Item = i128>) -> Result<Vec<i64>, StoreError> {
    amounts
        .map(|amount| {
            i64::try_from(amount).map_err(|_| StoreError::Corrupt(format!("an amount of {amount}")))
        })
        .collect()
}

fn all_written(written: u64, wanted: usize, what: &str) -> Result<(), StoreError> {
    if usize::try_from(written).is_ok_and(|written| written == wanted) {
        return Ok(());
    }
    Err(StoreError::Corrupt(format!("{written} of {wanted} {what} found their accounts")))
}
