//! The other door: opening accounts, putting money in, setting faults, and reading what really happened.
//!
//! | under `/admin/banks/{code}` | |
//! | --- | --- |
//! | `POST /accounts` | open `{"iban", "currency"}` |
//! | `GET /accounts`, `GET /accounts/{iban or reserve:EUR}` | posted, held, available |
//! | `PATCH /accounts/{iban}` | `{"frozen", "closed"}` |
//! | `POST /deposits` | `{"deposit_id", "account": iban or "reserve", "amount": {"amount", "currency"}}` |
//! | `POST /bookings` | what nobody asked for, on our reserve: `{"booking_id", "change": {"amount", "currency"}, "key", "text", "is_return"}` |
//! | `GET /operations`, `GET /operations/{key}` | what the bank remembers |
//! | `GET`, `POST`, `DELETE /faults`, `DELETE /faults/{id}` | see [`FaultRule`] |
//! | `GET /audit` | do the accounts add up |
//!
//! Lists take `?after=` (the last id seen) and `?limit=`. Nothing here is subject to faults. Every write is idempotent: opening an open account and depositing again under the same
//! id change nothing.

use super::books::{Account, Books, BooksError, DepositTo, Note, Refusal, Unasked, own_account};
use super::faults::FaultRule;
use super::{Bank, SLICE_MAX, Shared, enter};
use crate::problem::{Problem, read_json};
use crate::wire::{MoneyBody, OutcomeBody, read_key};
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use flowbridge_domain::money::{Currency, Money};
use flowbridge_domain::party::Iban;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/accounts", get(list_accounts).post(open_account))
        .route("/accounts/{iban}", get(show_account).patch(change_account))
        .route("/deposits", post(deposit))
        .route("/bookings", post(book_unasked))
        .route("/operations", get(list_operations))
        .route("/operations/{key}", get(show_operation))
        .route("/faults", get(list_faults).post(add_fault).delete(clear_faults))
        .route("/faults/{id}", delete(remove_fault))
        .route("/audit", get(audit))
}

#[derive(Debug, Serialize)]
struct AccountView {
    /// An IBAN, or `reserve:EUR`, `escrow:EUR`.
    account: String,
    currency: String,
    posted: i128,
    held: i128,
    available: i128,
    frozen: bool,
    closed: bool,
}

impl AccountView {
    fn of(id: String, account: &Account) -> Result<Self, BooksError> {
        Ok(Self {
            account: id,
            currency: account.currency()?.code().to_owned(),
            posted: account.posted,
            held: account.held,
            available: account.available(),
            frozen: account.frozen,
            closed: account.closed,
        })
    }
}

#[derive(Debug, Deserialize)]
struct Paging {
    after: Option<String>,
    limit: Option<usize>,
}

impl Paging {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(SLICE_MAX).min(SLICE_MAX)
    }
}

async fn list_accounts(
    State(shared): State<Arc<Shared>>,
    Path(code): Path<String>,
    Query(paging): Query<Paging>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let bank = admitted(&shared, &headers, &code)?;
    let accounts = bank
        .ledger
        .run(move |books, _| {
            let after = paging.after.as_deref().unwrap_or_default();
            let rows = books.accounts_after(after, paging.limit())?;
            rows.into_iter().map(|(id, account)| AccountView::of(id, &account)).collect::<Result<Vec<_>, _>>()
        })
        .await?;
    Ok(Json(serde_json::json!({ "accounts": accounts })).into_response())
}

async fn show_account(
    State(shared): State<Arc<Shared>>,
    Path((code, id)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let bank = admitted(&shared, &headers, &code)?;
    // Our own accounts are shown too, by their ids.
    let id = if own_account(&id).is_some() { id } else { iban(&id)?.as_str().to_owned() };
    let found = bank
        .ledger
        .run(move |books, _| books.account(&id)?.map(|account| AccountView::of(id, &account)).transpose())
        .await?;
    found.map(|view| Json(view).into_response()).ok_or_else(|| Refusal::NoSuchAccount.into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenAccount {
    iban: String,
    currency: String,
}

async fn open_account(
    State(shared): State<Arc<Shared>>,
    Path(code): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let bank = admitted(&shared, &headers, &code)?;
    let wanted: OpenAccount = read_json(&body)?;
    let (iban, currency) = (iban(&wanted.iban)?, currency(&wanted.currency)?);
    let opened = bank
        .ledger
        .run(move |books, _| {
            books.open_own_accounts(currency)?;
            match books.open_account(&iban, currency)? {
                Ok(()) => view_of(books, iban.as_str()),
                Err(refusal) => Ok(Err(refusal)),
            }
        })
        .await?;
    Ok((StatusCode::CREATED, Json(opened?)).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeAccount {
    frozen: Option<bool>,
    closed: Option<bool>,
}

async fn change_account(
    State(shared): State<Arc<Shared>>,
    Path((code, id)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let bank = admitted(&shared, &headers, &code)?;
    let wanted: ChangeAccount = read_json(&body)?;
    let iban = iban(&id)?;
    let changed = bank
        .ledger
        .run(move |books, _| match books.set_flags(&iban, wanted.frozen, wanted.closed)? {
            Ok(account) => AccountView::of(iban.as_str().to_owned(), &account).map(Ok),
            Err(refusal) => Ok(Err(refusal)),
        })
        .await?;
    Ok(Json(changed?).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Deposit {
    /// Depositing twice under one id is depositing once.
    deposit_id: String,
    /// An IBAN, or `reserve`.
    account: String,
    amount: MoneyBody,
}

async fn deposit(
    State(shared): State<Arc<Shared>>,
    Path(code): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let bank = admitted(&shared, &headers, &code)?;
    let wanted: Deposit = read_json(&body)?;
    let amount: Money = wanted.amount.read_payable()?;
    let customer = if wanted.account == "reserve" { None } else { Some(iban(&wanted.account)?) };
    let deposited = bank
        .ledger
        .run(move |books, now| {
            let to = customer.as_ref().map_or(DepositTo::Reserve, DepositTo::Customer);
            match books.deposit(&wanted.deposit_id, to, amount, now)? {
                Err(refusal) => Ok(Err(refusal)),
                Ok(()) => match &customer {
                    Some(iban) => view_of(books, iban.as_str()),
                    None => view_of(books, &format!("reserve:{}", amount.currency())),
                },
            }
        })
        .await?;
    Ok((StatusCode::CREATED, Json(deposited?)).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnaskedBooking {
    /// Booking twice under one id is booking once.
    booking_id: String,
    /// Signed.
    change: MoneyBody,
    /// The operation it refers to.
    key: Option<String>,
    #[serde(default)]
    text: String,
    #[serde(default)]
    is_return: bool,
}

async fn book_unasked(
    State(shared): State<Arc<Shared>>,
    Path(code): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let bank = admitted(&shared, &headers, &code)?;
    let wanted: UnaskedBooking = read_json(&body)?;
    let change = wanted.change.read()?;
    let unasked = Unasked {
        id: wanted.booking_id,
        change,
        key: wanted.key.as_deref().map(read_key).transpose()?,
        note: Note { text: wanted.text, value_at_us: None, is_return: wanted.is_return },
    };
    let booked = bank
        .ledger
        .run(move |books, now| match books.book_unasked(&unasked, now)? {
            Ok(()) => view_of(books, &format!("reserve:{}", unasked.change.currency())),
            Err(refusal) => Ok(Err(refusal)),
        })
        .await?;
    Ok((StatusCode::CREATED, Json(booked?)).into_response())
}

async fn list_operations(
    State(shared): State<Arc<Shared>>,
    Path(code): Path<String>,
    Query(paging): Query<Paging>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let bank = admitted(&shared, &headers, &code)?;
    let after = paging.after.as_deref().map(read_key).transpose()?;
    let remembered = bank.ledger.run(move |books, _| books.operations_after(after, paging.limit())).await?;
    let operations: Vec<OutcomeBody> = remembered
        .into_iter()
        .map(|operation| OutcomeBody { key: operation.key.to_string(), result: operation.outcome.into() })
        .collect();
    Ok(Json(serde_json::json!({ "operations": operations })).into_response())
}

async fn show_operation(
    State(shared): State<Arc<Shared>>,
    Path((code, key)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let bank = admitted(&shared, &headers, &code)?;
    let key = read_key(&key)?;
    let outcome = bank.ledger.run(move |books, _| books.query(key)).await?;
    Ok(Json(OutcomeBody { key: key.to_string(), result: outcome.into() }).into_response())
}

async fn list_faults(
    State(shared): State<Arc<Shared>>,
    Path(code): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let bank = admitted(&shared, &headers, &code)?;
    Ok(Json(serde_json::json!({ "faults": bank.faults.list() })).into_response())
}

async fn add_fault(
    State(shared): State<Arc<Shared>>,
    Path(code): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let bank = admitted(&shared, &headers, &code)?;
    let rule: FaultRule = read_json(&body)?;
    let id =
        bank.faults.add(rule, shared.clock.now()).map_err(|error| Problem::invalid(error.to_string()))?;
    Ok((StatusCode::CREATED, Json(serde_json::json!({ "id": id }))).into_response())
}

async fn clear_faults(
    State(shared): State<Arc<Shared>>,
    Path(code): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    admitted(&shared, &headers, &code)?.faults.clear();
    Ok(StatusCode::NO_CONTENT)
}

async fn remove_fault(
    State(shared): State<Arc<Shared>>,
    Path((code, id)): Path<(String, u64)>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    if admitted(&shared, &headers, &code)?.faults.remove(id) {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found("there is no such fault"))
    }
}

async fn audit(
    State(shared): State<Arc<Shared>>,
    Path(code): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let bank = admitted(&shared, &headers, &code)?;
    let audit = bank.ledger.run(|books, _| books.audit()).await?;
    Ok(Json(audit).into_response())
}

fn admitted<'a>(shared: &'a Shared, headers: &HeaderMap, code: &str) -> Result<&'a Bank, Problem> {
    enter(shared, &shared.admin_key, headers, code)
}

/// The account as it is now.
fn view_of(books: &Books<'_>, id: &str) -> Result<Result<AccountView, Refusal>, BooksError> {
    match books.account(id)? {
        Some(account) => AccountView::of(id.to_owned(), &account).map(Ok),
        None => Ok(Err(Refusal::NoSuchAccount)),
    }
}

fn iban(text: &str) -> Result<Iban, Problem> {
    Iban::parse(text).map_err(|error| Problem::invalid(error.to_string()))
}

fn currency(text: &str) -> Result<Currency, Problem> {
    Currency::parse(text).map_err(|error| Problem::invalid(error.to_string()))
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoSuchAccount => Self::not_found(refusal.to_string()),
            Refusal::OtherCurrency | Refusal::OtherDeposit => {
                Self::new(StatusCode::CONFLICT, "conflict", refusal.to_string())
            }
        }
    }
}
