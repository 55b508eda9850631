//! Participants and accounts.

use crate::answer::{Answer, Refusal, json, random};
use crate::caller::{Caller, JsonBody};
use crate::paging::Paging;
use crate::{Gateway, keyed};
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use flowbridge_api::party::{
    AccountBody, BalancesBody, CreateAccount, CreateParticipant, ParticipantBody, SuspendParticipant,
};
use flowbridge_api::payment::show_instant;
use flowbridge_api::problem::{ErrorCode, Fault};
use flowbridge_domain::id::{AccountId, ParticipantId};
use flowbridge_security::scope::Scope;
use flowbridge_store::accept::KeyedRequest;
use flowbridge_store::party::{self, Account, Participant};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

const PARTICIPANTS: &str = "/v1/participants";
const SUSPEND: &str = "/v1/participants/{id}/suspend";
const ACTIVATE: &str = "/v1/participants/{id}/activate";
const ACCOUNTS: &str = "/v1/accounts";

pub(crate) fn router() -> Router<Gateway> {
    Router::new()
        .route(PARTICIPANTS, get(list_participants).post(create_participant))
        .route("/v1/participants/{id}", get(show_participant))
        .route(SUSPEND, post(suspend_participant))
        .route(ACTIVATE, post(activate_participant))
        .route(ACCOUNTS, get(list_accounts).post(create_account))
        .route("/v1/accounts/{id}", get(show_account))
        .route("/v1/accounts/{id}/balances", get(balances))
}

/// Which page
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// 1 to 100; 25 if it is not given
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
    /// `next_cursor` of the page before
    cursor: Option<String>,
}

fn parameter<T>(
    text: &str,
    parse: impl Fn(&str) -> Result<T, flowbridge_domain::id::ParseIdError>,
) -> Result<T, Refusal> {
    parse(text).map_err(|error| Refusal::new(ErrorCode::InvalidParameter).detail(error.to_string()))
}

/// A page of participants
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ParticipantPage {
    data: Vec<ParticipantBody>,
    /// There are more after the last one.
    has_more: bool,
    /// Where they begin.
    next_cursor: Option<String>,
}

/// Register a participant
#[utoipa::path(post, path = "/v1/participants", tag = "participants", request_body = flowbridge_api::party::CreateParticipantBody,
    params(("Idempotency-Key" = String, Header, description = "Drawn by you for this request and kept for its repeats", max_length = 255)),
    responses((status = 201, description = "The participant", body = ParticipantBody,
        headers(("Location" = String, description = "Where it is"))), crate::openapi::Refusals))]
pub(crate) async fn create_participant(
    State(gateway): State<Gateway>,
    caller: Caller,
    headers: HeaderMap,
    body: JsonBody,
) -> Answer {
    only_operators(&caller)?;
    let key = caller.keyed(&headers, ("POST", PARTICIPANTS), &[], &body.bytes)?;
    let request = CreateParticipant::read(&body.value)?;
    let now = gateway.now();
    let participant = Participant {
        id: ParticipantId::generate(now, random()?),
        name: request.name,
        lei: request.lei,
        active: true,
        status_reason: None,
        fee_basis_points: request.fee_basis_points,
        created_at: now,
    };
    keyed::once(&gateway, &key, created(PARTICIPANTS), async |tx| {
        party::add_participant(tx, &participant).await.map_err(keyed::unless_it_exists)?;
        Ok(shown_participant(&participant))
    })
    .await
}

/// List participants: an operator sees all, a participant itself
#[utoipa::path(get, path = "/v1/participants", tag = "participants", params(PageQuery),
    responses((status = 200, description = "A page of participants", body = ParticipantPage), crate::openapi::Refusals))]
pub(crate) async fn list_participants(
    State(gateway): State<Gateway>,
    caller: Caller,
    Query(page): Query<PageQuery>,
) -> Answer {
    caller.require(Scope::ParticipantsRead)?;
    let paging = Paging::new(&gateway, &caller, (PARTICIPANTS, &[]), (page.limit, page.cursor.as_deref()))?;
    let (db, after) = (&gateway.parts.db, paging.position.map(ParticipantId::from_uuid));
    let mut found = party::participants(db, caller.participant(), after, paging.rows_max()).await?;
    let next = paging.cut(&mut found, |participant| participant.id.as_uuid());
    let data = found.iter().map(shown_participant).collect();
    let page = ParticipantPage { data, has_more: next.has_more, next_cursor: next.cursor.clone() };
    next.answer(&page)
}

/// Read a participant
#[utoipa::path(get, path = "/v1/participants/{id}", tag = "participants", params(("id" = String, Path, description = "The participant")),
    responses((status = 200, description = "The participant", body = ParticipantBody), crate::openapi::Refusals))]
pub(crate) async fn show_participant(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer {
    caller.require(Scope::ParticipantsRead)?;
    let id = parameter(&id, ParticipantId::parse)?;
    if caller.participant().is_some_and(|own| own != id) {
        return Err(Refusal::new(ErrorCode::NotFound));
    }
    let found = party::participants(&gateway.parts.db, Some(id), None, 1).await?;
    let found = found.first().ok_or_else(|| Refusal::new(ErrorCode::NotFound))?;
    json(StatusCode::OK, &shown_participant(found))
}

/// Suspend a participant: nothing of its is accepted until it is active again
#[utoipa::path(post, path = "/v1/participants/{id}/suspend", operation_id = "suspend_participant", tag = "participants",
    request_body = flowbridge_api::party::SuspendParticipantBody,
    params(("id" = String, Path, description = "The participant"),
        ("Idempotency-Key" = String, Header, description = "Drawn by you for this request and kept for its repeats", max_length = 255)),
    responses((status = 200, description = "Suspended. What is initiated goes on to its end; what is not waits, and fails where it waits too long", body = ParticipantBody), crate::openapi::Refusals))]
pub(crate) async fn suspend_participant(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: JsonBody,
) -> Answer {
    only_operators(&caller)?;
    let key = caller.keyed(&headers, ("POST", SUSPEND), &[&id], &body.bytes)?;
    let request = SuspendParticipant::read(&body.value)?;
    set_status(&gateway, &key, &id, Some(&request.reason)).await
}

/// Let a suspended participant pay and be paid again
#[utoipa::path(post, path = "/v1/participants/{id}/activate", operation_id = "activate_participant", tag = "participants",
    params(("id" = String, Path, description = "The participant"),
        ("Idempotency-Key" = String, Header, description = "Drawn by you for this request and kept for its repeats", max_length = 255)),
    responses((status = 200, description = "Active", body = ParticipantBody), crate::openapi::Refusals))]
pub(crate) async fn activate_participant(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Answer {
    only_operators(&caller)?;
    let key = caller.keyed(&headers, ("POST", ACTIVATE), &[&id], &[])?;
    set_status(&gateway, &key, &id, None).await
}

async fn set_status(
    gateway: &Gateway,
    key: &KeyedRequest,
    id: &str,
    suspended_because: Option<&str>,
) -> Answer {
    let id = parameter(id, ParticipantId::parse)?;
    let made = keyed::Made { status: StatusCode::OK, collection: PARTICIPANTS, is_secret: false };
    keyed::once(gateway, key, made, async |tx| {
        let changed = party::set_participant_status(tx, id, suspended_because).await?;
        let changed = changed.ok_or_else(|| Refusal::new(ErrorCode::NotFound))?;
        tracing::info!(participant = %id, client_id = key.client_id, active = changed.active, "an operator changed a participant's status");
        Ok(shown_participant(&changed))
    })
    .await
}

fn only_operators(caller: &Caller) -> Result<(), Refusal> {
    caller.require(Scope::ParticipantsWrite)?;
    if caller.participant().is_some() {
        return Err(Refusal::new(ErrorCode::Forbidden).detail("only operators change participants"));
    }
    Ok(())
}

/// A page of accounts
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AccountPage {
    data: Vec<AccountBody>,
    /// There are more after the last one.
    has_more: bool,
    /// Where they begin.
    next_cursor: Option<String>,
}

/// Open an account
#[utoipa::path(post, path = "/v1/accounts", tag = "accounts", request_body = flowbridge_api::party::CreateAccountBody,
    params(("Idempotency-Key" = String, Header, description = "Drawn by you for this request and kept for its repeats", max_length = 255)),
    responses((status = 201, description = "The account", body = AccountBody,
        headers(("Location" = String, description = "Where it is"))), crate::openapi::Refusals))]
pub(crate) async fn create_account(
    State(gateway): State<Gateway>,
    caller: Caller,
    headers: HeaderMap,
    body: JsonBody,
) -> Answer {
    caller.require(Scope::AccountsWrite)?;
    let key = caller.keyed(&headers, ("POST", ACCOUNTS), &[], &body.bytes)?;
    let request = CreateAccount::read(&body.value)?;
    let participant = match (caller.participant(), request.participant) {
        (Some(own), None) => own,
        (Some(own), Some(named)) if own == named => own,
        (None, Some(named)) => named,
        (Some(_), Some(_)) | (None, None) => {
            let fault =
                Fault::new("/participant_id", "not_valid", "your own participant, or for operators any");
            return Err(vec![fault].into());
        }
    };
    let now = gateway.now();
    let account = Account {
        id: AccountId::generate(now, random()?),
        participant,
        bank: request.bank,
        currency: request.currency,
        iban: request.iban,
        wallet: request.wallet,
        name: request.name,
        active: true,
        created_at: now,
    };
    keyed::once(&gateway, &key, created(ACCOUNTS), async |tx| {
        if party::is_ours(tx, &account.wallet).await? {
            let fault = Fault::new(
                "/wallet",
                "not_valid",
                "a wallet of the customer's: this is the address of one of our contracts, or of the house",
            );
            return Err(vec![fault].into());
        }
        party::add_account(tx, &account).await.map_err(keyed::unless_it_exists)?;
        Ok(shown_account(&account))
    })
    .await
}

/// List accounts
#[utoipa::path(get, path = "/v1/accounts", tag = "accounts", params(PageQuery),
    responses((status = 200, description = "A page of accounts", body = AccountPage), crate::openapi::Refusals))]
pub(crate) async fn list_accounts(
    State(gateway): State<Gateway>,
    caller: Caller,
    Query(page): Query<PageQuery>,
) -> Answer {
    caller.require(Scope::AccountsRead)?;
    let paging = Paging::new(&gateway, &caller, (ACCOUNTS, &[]), (page.limit, page.cursor.as_deref()))?;
    let (db, after) = (&gateway.parts.db, paging.position.map(AccountId::from_uuid));
    let mut found = party::accounts(db, caller.participant(), None, after, paging.rows_max()).await?;
    let next = paging.cut(&mut found, |account| account.id.as_uuid());
    let data = found.iter().map(shown_account).collect();
    let page = AccountPage { data, has_more: next.has_more, next_cursor: next.cursor.clone() };
    next.answer(&page)
}

async fn find_account(gateway: &Gateway, caller: &Caller, id: &str) -> Result<Account, Refusal> {
    let id = parameter(id, AccountId::parse)?;
    let found = party::accounts(&gateway.parts.db, caller.participant(), Some(id), None, 1).await?;
    found.into_iter().next().ok_or_else(|| Refusal::new(ErrorCode::NotFound))
}

/// Read an account
#[utoipa::path(get, path = "/v1/accounts/{id}", tag = "accounts", params(("id" = String, Path, description = "The account")),
    responses((status = 200, description = "The account", body = AccountBody), crate::openapi::Refusals))]
pub(crate) async fn show_account(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer {
    caller.require(Scope::AccountsRead)?;
    json(StatusCode::OK, &shown_account(&find_account(&gateway, &caller, &id).await?))
}

/// What an account's wallet has
#[utoipa::path(get, path = "/v1/accounts/{id}/balances", tag = "accounts", params(("id" = String, Path, description = "The account")),
    responses((status = 200, description = "What is posted, held and available", body = BalancesBody), crate::openapi::Refusals))]
pub(crate) async fn balances(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer {
    caller.require(Scope::AccountsRead)?;
    let account = find_account(&gateway, &caller, &id).await?;
    let balances = party::balances(&gateway.parts.db, account.id, account.currency).await?;
    let units = |units: i128| i64::try_from(units).unwrap_or(i64::MAX);
    let body = BalancesBody {
        currency: account.currency.code().to_owned(),
        posted: units(balances.posted),
        held: units(balances.held),
        available: units(balances.available()),
    };
    json(StatusCode::OK, &body)
}

fn created(collection: &str) -> keyed::Made<'_> {
    keyed::Made { status: StatusCode::CREATED, collection, is_secret: false }
}

fn shown_participant(participant: &Participant) -> ParticipantBody {
    ParticipantBody {
        id: participant.id.to_string(),
        name: participant.name.clone(),
        lei: participant.lei.as_ref().map(|lei| lei.as_str().to_owned()),
        status: if participant.active { "active" } else { "suspended" },
        status_reason: participant.status_reason.clone(),
        fee_basis_points: participant.fee_basis_points,
        created_at: show_instant(participant.created_at),
    }
}

fn shown_account(account: &Account) -> AccountBody {
    AccountBody {
        id: account.id.to_string(),
        participant_id: account.participant.to_string(),
        bank: account.bank.as_str().to_owned(),
        currency: account.currency.code().to_owned(),
        iban: account.iban.as_str().to_owned(),
        wallet: account.wallet.to_string(),
        name: account.name.clone(),
        status: if account.active { "active" } else { "closed" },
        created_at: show_instant(account.created_at),
    }
}
