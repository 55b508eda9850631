//! What a bank offers its client: operations and queries in slices, funds confirmation, balances, the statement.
//!
//! A request is carried out in a task of its own: a client that gives up does not stop what it asked for, which is how a
//! real bank gets to execute what its client believes lost.

use super::books::{Directive, Entries};
use super::faults::{RequestFaults, Target};
use super::{Bank, SLICE_MAX, Shared, enter};
use crate::connector::{Operation, OperationKind};
use crate::problem::{Problem, check_slice, read_json};
use crate::wire::{
    BalancesBody, EntryBody, FundsRequest, FundsResponse, MoneyBody, OperationsRequest, OutcomeBody,
    OutcomesResponse, OwnBalanceBody, QueryRequest, StatementBody, own_account_name, read_key,
};
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use flowbridge_domain::bank::BankStep;
use flowbridge_domain::party::Iban;
use flowbridge_domain::time::Timestamp;
use serde::Deserialize;
use std::io;
use std::sync::Arc;

pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/operations", post(operations))
        .route("/operations/query", post(query))
        .route("/funds-confirmations", post(confirm_funds))
        .route("/balances", get(balances))
        .route("/statement", get(statement))
}

async fn operations(
    State(shared): State<Arc<Shared>>,
    Path(code): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    detached(async move {
        let bank = enter(&shared, &shared.client_key, &headers, &code)?;
        let request: OperationsRequest = read_json(&body)?;
        check_slice(request.operations.len(), SLICE_MAX)?;
        let operations: Vec<Operation> =
            request.operations.iter().map(|item| item.read()).collect::<Result<_, _>>()?;

        let now = shared.clock.now();
        let carried: Vec<_> =
            operations.iter().map(|operation| (target_of(operation), account_of(operation))).collect();
        let faults = bank.faults.for_request(&carried, now);
        before_execution(&faults).await?;
        let drawn: Vec<_> = carried
            .iter()
            .map(|(target, account)| bank.faults.for_operation(*target, *account, now))
            .collect();

        let work: Vec<(Operation, Directive)> = operations
            .iter()
            .zip(&drawn)
            .map(|(operation, faults)| {
                let directive = match (&faults.decline, faults.slow, faults.hold_lasts, faults.misbooking) {
                    (Some(decline), ..) => Directive::Decline(decline.clone()),
                    (None, Some(delay), ..) => Directive::DecideAfter(delay),
                    (None, None, Some(lasts), _) => Directive::HoldFor(lasts),
                    (None, None, None, Some(how)) => Directive::Misbook(how),
                    (None, None, None, None) => Directive::Decide,
                };
                (operation.clone(), directive)
            })
            .collect();
        let outcomes = bank
            .ledger
            .run(move |books, now| {
                work.into_iter()
                    .map(|(operation, directive)| books.execute(&operation, directive, now))
                    .collect::<Result<Vec<_>, _>>()
            })
            .await?;

        let mut answered = Vec::with_capacity(outcomes.len());
        for ((operation, outcome), faults) in operations.iter().zip(outcomes).zip(&drawn) {
            let item = OutcomeBody { key: operation.key().to_string(), result: outcome.into() };
            if faults.duplicate {
                answered.push(item.clone());
            }
            if !faults.omit {
                answered.push(item);
            }
        }
        answer(&faults, OutcomesResponse { outcomes: answered }).await
    })
    .await
}

async fn query(
    State(shared): State<Arc<Shared>>,
    Path(code): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    detached(async move {
        let bank = enter(&shared, &shared.client_key, &headers, &code)?;
        let request: QueryRequest = read_json(&body)?;
        check_slice(request.keys.len(), SLICE_MAX)?;
        let keys = request.keys.iter().map(|key| read_key(key)).collect::<Result<Vec<_>, _>>()?;
        let faults = faults_of(bank, &shared, Target::Query);
        before_execution(&faults).await?;
        let outcomes = bank
            .ledger
            .run(move |books, _| {
                keys.into_iter().map(|key| Ok((key, books.query(key)?))).collect::<Result<Vec<_>, _>>()
            })
            .await?;
        let outcomes = outcomes
            .into_iter()
            .map(|(key, outcome)| OutcomeBody { key: key.to_string(), result: outcome.into() })
            .collect();
        answer(&faults, OutcomesResponse { outcomes }).await
    })
    .await
}

async fn confirm_funds(
    State(shared): State<Arc<Shared>>,
    Path(code): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    detached(async move {
        let bank = enter(&shared, &shared.client_key, &headers, &code)?;
        let request: FundsRequest = read_json(&body)?;
        let account = Iban::parse(&request.account).map_err(|error| Problem::invalid(error.to_string()))?;
        let amount = request.amount.read_payable()?;
        let faults = faults_of(bank, &shared, Target::ConfirmFunds);
        before_execution(&faults).await?;
        let funds_available = bank.ledger.run(move |books, _| books.confirm_funds(&account, amount)).await?;
        answer(&faults, FundsResponse { funds_available }).await
    })
    .await
}

async fn balances(
    State(shared): State<Arc<Shared>>,
    Path(code): Path<String>,
    headers: HeaderMap,
) -> Response {
    detached(async move {
        let bank = enter(&shared, &shared.client_key, &headers, &code)?;
        let faults = faults_of(bank, &shared, Target::Balances);
        before_execution(&faults).await?;
        let (as_of, accounts) = bank.ledger.run(|books, now| books.own_balances(now)).await?;
        let accounts = accounts
            .into_iter()
            .map(|(account, posted)| {
                let account = own_account_name(account).to_owned();
                Ok(OwnBalanceBody { account, posted: MoneyBody::of(posted)? })
            })
            .collect::<Result<_, Problem>>()?;
        answer(&faults, BalancesBody { as_of_us: as_of.as_micros(), accounts }).await
    })
    .await
}

#[derive(Debug, Deserialize)]
struct StatementQuery {
    #[serde(default)]
    after: u64,
    booked_until_us: Option<i64>,
    limit: Option<usize>,
}

async fn statement(
    State(shared): State<Arc<Shared>>,
    Path(code): Path<String>,
    Query(wanted): Query<StatementQuery>,
    headers: HeaderMap,
) -> Response {
    detached(async move {
        let bank = enter(&shared, &shared.client_key, &headers, &code)?;
        let entries_max = wanted.limit.unwrap_or(SLICE_MAX);
        check_slice(entries_max, SLICE_MAX)?;
        let until = wanted.booked_until_us.map_or(Timestamp::MAX, Timestamp::from_micros);
        let faults = faults_of(bank, &shared, Target::Statement);
        before_execution(&faults).await?;
        let page = bank
            .ledger
            .run(move |books, _| {
                Ok(match books.entries(wanted.after, until, entries_max)? {
                    Entries::Forgotten { first_kept } => Err(first_kept),
                    Entries::Page { entries, has_more } => {
                        let next_after = entries.last().map_or(wanted.after, |(sequence, _)| *sequence);
                        let rows = entries
                            .into_iter()
                            .map(|(sequence, entry)| {
                                let reference = books.reference(entry.reference());
                                Ok((
                                    sequence,
                                    entry.account(),
                                    entry.change()?,
                                    entry.booked_at,
                                    entry.key()?,
                                    reference,
                                    books.note(sequence)?.unwrap_or_default(),
                                ))
                            })
                            .collect::<Result<Vec<_>, super::books::BooksError>>()?;
                        Ok((rows, next_after, has_more))
                    }
                })
            })
            .await?;
        let (rows, next_after, has_more) = page.map_err(|first_kept| {
            let detail = format!("entries before {first_kept} are no longer kept");
            Problem::new(StatusCode::GONE, "entries_forgotten", detail)
        })?;
        let mut entries = Vec::with_capacity(rows.len());
        for (sequence, account, change, booked_at_us, key, reference, note) in rows {
            if faults.dropped_per_million > 0 && bank.faults.drops_entry(sequence, faults.dropped_per_million)
            {
                continue;
            }
            entries.push(EntryBody {
                sequence,
                account: own_account_name(account).to_owned(),
                change: MoneyBody::of(change)?,
                booked_at_us,
                key: key.map(|key| key.to_string()),
                reference,
                text: note.text,
                value_at_us: note.value_at_us,
                is_return: note.is_return,
            });
        }
        answer(&faults, StatementBody { entries, next_after, has_more }).await
    })
    .await
}

/// Runs a request in a task of its own, which the end of its connection does not end.
async fn detached(work: impl Future<Output = Result<Response, Problem>> + Send + 'static) -> Response {
    match tokio::spawn(work).await {
        Ok(Ok(response)) => response,
        Ok(Err(problem)) => problem.into_response(),
        Err(_) => {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the request failed").into_response()
        }
    }
}

fn faults_of(bank: &Bank, shared: &Shared, target: Target) -> RequestFaults {
    bank.faults.for_request(&[(target, None)], shared.clock.now())
}

async fn before_execution(faults: &RequestFaults) -> Result<(), Problem> {
    if !faults.latency.is_zero() {
        tokio::time::sleep(faults.latency).await;
    }
    if faults.unavailable_before { Err(unavailable()) } else { Ok(()) }
}

fn unavailable() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the bank is unavailable, on request")
}

/// The answer, or what is left of it.
async fn answer<T: serde::Serialize>(faults: &RequestFaults, body: T) -> Result<Response, Problem> {
    if faults.unavailable_after {
        return Err(unavailable());
    }
    if let Some(silence) = faults.lost_after {
        tokio::time::sleep(silence).await;
        // A body that fails makes the server cut the connection within the response.
        let cut = futures_util::stream::once(async {
            Err::<Bytes, _>(io::Error::from(io::ErrorKind::ConnectionAborted))
        });
        return Ok(Response::new(Body::from_stream(cut)));
    }
    Ok(Json(body).into_response())
}

fn target_of(operation: &Operation) -> Target {
    match operation.kind.step() {
        BankStep::PlaceHold => Target::PlaceHold,
        BankStep::Capture => Target::Capture,
        BankStep::Release => Target::Release,
        BankStep::Credit => Target::Credit,
    }
}

fn account_of(operation: &Operation) -> Option<&str> {
    match &operation.kind {
        OperationKind::PlaceHold { account, .. }
        | OperationKind::Capture { account, .. }
        | OperationKind::Credit { account, .. } => Some(account.as_str()),
        OperationKind::Release => None,
    }
}
