//! Participants, their banks and their customers' accounts.

use crate::db::{Db, StoreError, Tx};
use crate::payment::hold_mode_name;
use crate::sql::{At, statements};
use flowbridge_domain::bank::HoldMode;
use flowbridge_domain::id::{AccountId, ParticipantId};
use flowbridge_domain::ledger::Balances;
use flowbridge_domain::money::Currency;
use flowbridge_domain::party::{BankCode, EvmAddress, Iban, Lei};
use flowbridge_domain::time::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

statements! {
    SAVE_BANK = "insert into bank (code, name, hold_mode, created_at) values ($1, $2, $3, $4)
        on conflict (code) do update set name = excluded.name, hold_mode = excluded.hold_mode";

    ADD_PARTICIPANT = "insert into participant (id, name, lei, fee_basis_points, created_at) values ($1, $2, $3, $4, $5)
        on conflict (id) do nothing";

    LIST_PARTICIPANTS = "select id, name, lei, status, status_reason, fee_basis_points, created_at from participant
        where ($1::uuid is null or id = $1) and ($2::uuid is null or id > $2) order by id limit $3";

    SET_PARTICIPANT_STATUS = "update participant set status = $2, status_reason = $3 where id = $1
        returning id, name, lei, status, status_reason, fee_basis_points, created_at";

    ADD_ACCOUNT = "insert into account (id, participant_id, bank_code, currency, iban, wallet, name, created_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (id) do nothing";

    IS_OURS = "select exists (select from chain_contract where $1 in (token, router, manager, house)) as ours";

    LIST_ACCOUNTS = "select id, participant_id, bank_code, currency, iban, wallet, name, status, created_at from account
        where ($1::uuid is null or participant_id = $1) and ($2::uuid is null or id = $2) and ($3::uuid is null or id > $3)
        order by id limit $4";

    BALANCES = "select posted_credits - posted_debits as posted, held from ledger_account
        where kind = 'wallet' and owner = $1 and currency = $2";
}

/// Makes a bank known, or tells how it reserves funds now.
pub async fn save_bank(
    db: &Db,
    code: &BankCode,
    name: &str,
    hold_mode: HoldMode,
    now: Timestamp,
) -> Result<(), StoreError> {
    db.query(SAVE_BANK, &[&code.as_str(), &name, &hold_mode_name(hold_mode), &At(now)]).await?;
    Ok(())
}

/// An institution that uses FlowBridge.
#[derive(Debug, Clone)]
pub struct Participant {
    /// Its id.
    pub id: ParticipantId,
    /// Its name.
    pub name: String,
    /// Its legal entity identifier.
    pub lei: Option<Lei>,
    /// May it pay and be paid?
    pub active: bool,
    /// Why not.
    pub status_reason: Option<String>,
    /// What we keep of what its customers are paid, in ten-thousandths.
    pub fee_basis_points: u16,
    /// Since when.
    pub created_at: Timestamp,
}

/// Adds a participant. Adding the same id again changes nothing.
pub async fn add_participant(tx: &Tx, participant: &Participant) -> Result<(), StoreError> {
    let lei = participant.lei.as_ref().map(Lei::as_str);
    let fee = i16::try_from(participant.fee_basis_points).unwrap_or(i16::MAX);
    let id = participant.id.as_uuid();
    tx.execute(ADD_PARTICIPANT, &[&id, &participant.name, &lei, &fee, &At(participant.created_at)]).await?;
    Ok(())
}

/// Participants after an id, or one.
pub async fn participants(
    db: &Db,
    only: Option<ParticipantId>,
    after: Option<ParticipantId>,
    limit: i64,
) -> Result<Vec<Participant>, StoreError> {
    let (only, after) = (only.map(|id| id.as_uuid()), after.map(|id| id.as_uuid()));
    let rows = db.query(LIST_PARTICIPANTS, &[&only, &after, &limit]).await?;
    rows.iter().map(read_participant).collect()
}

fn read_participant(row: &Row) -> Result<Participant, StoreError> {
    let id = ParticipantId::from_uuid(row.try_get("id")?);
    let lei = row.try_get::<_, Option<&str>>("lei")?;
    let read = |lei| Lei::parse(lei).map_err(|_| StoreError::Corrupt(format!("LEI of {id}")));
    Ok(Participant {
        id,
        name: row.try_get("name")?,
        lei: lei.map(read).transpose()?,
        active: row.try_get::<_, &str>("status")? == "active",
        status_reason: row.try_get("status_reason")?,
        fee_basis_points: u16::try_from(row.try_get::<_, i16>("fee_basis_points")?).unwrap_or(0),
        created_at: row.try_get::<_, At>("created_at")?.0,
    })
}

/// Suspends a participant with a reason, or lifts its suspension; none if there is none of this id.
pub async fn set_participant_status(
    tx: &Tx,
    id: ParticipantId,
    suspended_because: Option<&str>,
) -> Result<Option<Participant>, StoreError> {
    let status = if suspended_because.is_some() { "suspended" } else { "active" };
    let rows = tx.query(SET_PARTICIPANT_STATUS, &[&id.as_uuid(), &status, &suspended_because]).await?;
    rows.first().map(read_participant).transpose()
}

/// A customer's account: a bank account and a wallet under one id.
#[derive(Debug, Clone)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// The institution it is with.
    pub participant: ParticipantId,
    /// The bank that keeps the bank account.
    pub bank: BankCode,
    /// Its currency.
    pub currency: Currency,
    /// The bank account.
    pub iban: Iban,
    /// The wallet.
    pub wallet: EvmAddress,
    /// The holder's name: personal.
    pub name: String,
    /// Open?
    pub active: bool,
    /// Since when.
    pub created_at: Timestamp,
}

/// Is it the address of one of our contracts, or of the house? What is paid there is nobody's.
pub async fn is_ours(tx: &Tx, wallet: &EvmAddress) -> Result<bool, StoreError> {
    let rows = tx.query(IS_OURS, &[&wallet.as_bytes().to_vec()]).await?;
    Ok(rows.first().ok_or_else(|| StoreError::Corrupt("contracts".into()))?.try_get("ours")?)
}

/// Adds an account. Adding the same id again changes nothing; another account's IBAN or wallet is refused by constraint.
pub async fn add_account(tx: &Tx, account: &Account) -> Result<(), StoreError> {
    tx.execute(
        ADD_ACCOUNT,
        &[
            &account.id.as_uuid(),
            &account.participant.as_uuid(),
            &account.bank.as_str(),
            &account.currency.code(),
            &account.iban.as_str(),
            &account.wallet.as_bytes().to_vec(),
            &account.name,
            &At(account.created_at),
        ],
    )
    .await?;
    Ok(())
}

/// Accounts after an id: of a participant or of all; or one.
pub async fn accounts(
    db: &Db,
    participant: Option<ParticipantId>,
    only: Option<AccountId>,
    after: Option<AccountId>,
    limit: i64,
) -> Result<Vec<Account>, StoreError> {
    let rows = db
        .query(
            LIST_ACCOUNTS,
            &[
                &participant.map(|id| id.as_uuid()),
                &only.map(|id| id.as_uuid()),
                &after.map(|id| id.as_uuid()),
                &limit,
            ],
        )
        .await?;
    rows.iter().map(account).collect()
}

fn account(row: &Row) -> Result<Account, StoreError> {
    let id = AccountId::from_uuid(row.try_get("id")?);
    let corrupt = |what: &str| StoreError::Corrupt(format!("{what} of account {id}"));
    let wallet: Vec<u8> = row.try_get("wallet")?;
    Ok(Account {
        id,
        participant: ParticipantId::from_uuid(row.try_get::<_, Uuid>("participant_id")?),
        bank: BankCode::parse(row.try_get("bank_code")?).map_err(|_| corrupt("bank"))?,
        currency: Currency::parse(row.try_get("currency")?).map_err(|_| corrupt("currency"))?,
        iban: Iban::parse(row.try_get("iban")?).map_err(|_| corrupt("IBAN"))?,
        wallet: EvmAddress::from_bytes(wallet.try_into().map_err(|_| corrupt("wallet"))?),
        name: row.try_get("name")?,
        active: row.try_get::<_, &str>("status")? == "active",
        created_at: row.try_get::<_, At>("created_at")?.0,
    })
}

/// What an account's wallet has in the ledger.
pub async fn balances(db: &Db, account: AccountId, currency: Currency) -> Result<Balances, StoreError> {
    let rows = db.query(BALANCES, &[&account.to_string(), &currency.code()]).await?;
    rows.first().map_or(Ok(Balances::default()), |row| {
        Ok(Balances {
            posted: row.try_get::<_, i64>("posted")?.into(),
            held: row.try_get::<_, i64>("held")?.into(),
        })
    })
}
