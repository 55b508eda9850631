//! The exception queue, and the breaker: what waits for people, and what two of them decide.

use crate::answer::{Answer, Refusal, json, random};
use crate::caller::{Caller, JsonBody};
use crate::paging::Paging;
use crate::reconciliations::only_operators;
use crate::{Gateway, keyed};
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use flowbridge_api::payment::show_instant;
use flowbridge_api::problem::ErrorCode;
use flowbridge_api::reconciliation::{ProposeDecision, read_assign, read_comment, read_reset};
use flowbridge_domain::id::{DecisionId, ExceptionId};
use flowbridge_domain::ledger::Contra;
use flowbridge_domain::time::Timestamp;
use flowbridge_store::breaker::{self, Breaker, BreakerRefusal};
use flowbridge_store::exception::{
    self as rows, Comment, Decision, DecisionKind, DecisionRefusal, Exception, ExceptionFilter, Suggestion,
};
use flowbridge_store::review::Verdict;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

const EXCEPTIONS: &str = "/v1/exceptions";
const COMMENTS: &str = "/v1/exceptions/{id}/comments";
const ASSIGN: &str = "/v1/exceptions/{id}/assign";
const DECISIONS: &str = "/v1/exceptions/{id}/decisions";
const CONFIRM: &str = "/v1/exceptions/{id}/decisions/{decision_id}/confirm";
const REJECT: &str = "/v1/exceptions/{id}/decisions/{decision_id}/reject";
const BREAKER: &str = "/v1/breaker";
const RESET: &str = "/v1/breaker/reset";
const RESET_CONFIRM: &str = "/v1/breaker/reset/{proposal}/confirm";
const RESET_REJECT: &str = "/v1/breaker/reset/{proposal}/reject";
/// Events of the breaker that are shown.
const HISTORY_MAX: i64 = 50;
const SECS_PER_DAY: u64 = 24 * 3600;

pub(crate) fn router() -> Router<Gateway> {
    Router::new()
        .route(EXCEPTIONS, get(list))
        .route("/v1/exceptions/{id}", get(show))
        .route(COMMENTS, post(comment))
        .route(ASSIGN, post(assign))
        .route(DECISIONS, post(propose))
        .route(CONFIRM, post(confirm))
        .route(REJECT, post(reject))
        .route(BREAKER, get(show_breaker))
        .route(RESET, post(propose_reset))
        .route(RESET_CONFIRM, post(confirm_reset))
        .route(RESET_REJECT, post(reject_reset))
}

/// Which exceptions
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ExceptionsQuery {
    /// Only of this bank, or `chain:EUR`
    scope: Option<String>,
    /// `open`, `explained` or `decided`; all if it is not given
    state: Option<String>,
    /// Only of this kind
    kind: Option<String>,
    /// 1 to 100; 25 if it is not given
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
    /// `next_cursor` of the page before
    cursor: Option<String>,
}

/// A difference that waits for people, or did
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ExceptionBody {
    /// Its id.
    id: String,
    /// A bank's code, or `chain:EUR`.
    scope: String,
    /// Such as `unposted_bank_fee`; `to_confirm` is a match that the engine suggests.
    kind: String,
    /// The record, or the records, that it is about.
    subject: String,
    currency: String,
    /// How much is in question, in minor units.
    amount: i64,
    /// Whose desk it is for.
    owner: String,
    /// What would put it right.
    advice: String,
    /// Evidence.
    #[schema(value_type = Object)]
    about: Value,
    /// The entry that accepting it would post; none where no entry puts it right.
    proposed_entry: Option<EntryBody>,
    /// `open`, `explained` (a run no longer found it) or `decided`.
    state: String,
    /// Who works on it.
    assigned_to: Option<String>,
    /// Since when it is so.
    #[schema(format = DateTime)]
    since: String,
    /// Days since then, or until it was closed.
    age_days: u64,
    /// The run that opened it.
    opened_in: String,
    #[schema(format = DateTime)]
    opened_at: String,
    /// The last run that found it.
    seen_in: String,
    #[schema(format = DateTime)]
    closed_at: Option<String>,
}

/// A correcting entry
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EntryBody {
    /// The account debited: `reserve`, `bank_charges` or `bank_suspense`, each at this bank.
    debit: &'static str,
    /// The account credited.
    credit: &'static str,
    /// Minor units.
    amount: u64,
    currency: String,
}

/// A page of exceptions, newest first
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ExceptionPage {
    data: Vec<ExceptionBody>,
    /// There are more after the last one.
    has_more: bool,
    /// Where they begin.
    next_cursor: Option<String>,
}

/// An exception with all that people said
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ExceptionDetail {
    #[serde(flatten)]
    exception: ExceptionBody,
    /// Up to three statement lines that its entry may be, by the last run that found it; likeliest first. None for what is
    /// about no single entry of ours, or where no line is near.
    suggestions: Vec<SuggestionBody>,
    comments: Vec<CommentBody>,
    /// Newest first.
    decisions: Vec<DecisionBody>,
}

/// A statement line that an exception's entry may be; where they are worth the same, a `rematch` with it as `partner` takes it
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SuggestionBody {
    /// The line's id.
    statement_entry: String,
    /// Minor units; credits are positive.
    amount: i64,
    currency: String,
    /// As `2026-11-28`.
    booked_on: Option<String>,
    /// End-to-end id or the customer's reference; empty where the statement has none.
    reference: String,
    /// The bank's own reference; empty where the statement has none.
    bank_reference: String,
    counterparty: String,
    /// Whatever else the bank writes.
    text: String,
    /// How likely it is, from 0 to 1, by the model of that run.
    probability: f64,
}

/// What somebody said
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CommentBody {
    by: String,
    #[schema(format = DateTime)]
    at: String,
    text: String,
}

/// A proposal, and what a second person said to it
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DecisionBody {
    /// Its id.
    id: String,
    /// `accept`, `reject`, `rematch` or `write_off`.
    decision: &'static str,
    /// The record that it belongs to.
    partner: Option<String>,
    reason: String,
    /// `proposed`, `confirmed` or `rejected`.
    state: &'static str,
    proposed_by: String,
    #[schema(format = DateTime)]
    proposed_at: String,
    answered_by: Option<String>,
    #[schema(format = DateTime)]
    answered_at: Option<String>,
}

/// List exceptions, newest first
#[utoipa::path(get, path = "/v1/exceptions", operation_id = "list_exceptions", tag = "reconciliation", params(ExceptionsQuery),
    responses((status = 200, description = "A page of exceptions", body = ExceptionPage), crate::openapi::Refusals))]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    caller: Caller,
    Query(query): Query<ExceptionsQuery>,
) -> Answer {
    only_operators(&caller)?;
    let filters = [
        ("scope", query.scope.as_deref().unwrap_or_default()),
        ("state", query.state.as_deref().unwrap_or_default()),
        ("kind", query.kind.as_deref().unwrap_or_default()),
    ];
    let paging =
        Paging::new(&gateway, &caller, (EXCEPTIONS, &filters), (query.limit, query.cursor.as_deref()))?;
    let filter = ExceptionFilter {
        scope: query.scope.clone(),
        state: query.state.clone(),
        kind: query.kind.clone(),
        before: paging.position,
    };
    let mut found = rows::list(&gateway.parts.db, &filter, paging.rows_max()).await?;
    let next = paging.cut(&mut found, |exception| ExceptionId::as_uuid(&exception.id));
    let now = gateway.now();
    let data = found.into_iter().map(|exception| shown(exception, now)).collect();
    let page = ExceptionPage { data, has_more: next.has_more, next_cursor: next.cursor.clone() };
    next.answer(&page)
}

/// Read an exception, with suggestions, comments and decisions
#[utoipa::path(get, path = "/v1/exceptions/{id}", operation_id = "get_exception", tag = "reconciliation",
    params(("id" = String, Path, description = "The exception")),
    responses((status = 200, description = "The exception", body = ExceptionDetail), crate::openapi::Refusals))]
pub(crate) async fn show(State(gateway): State<Gateway>, caller: Caller, Path(id): Path<String>) -> Answer {
    only_operators(&caller)?;
    let db = &gateway.parts.db;
    let found = rows::get(db, read_id(&id)?).await?;
    let (exception, comments, decisions) = found.ok_or_else(|| Refusal::new(ErrorCode::NotFound))?;
    let suggestions = rows::suggestions(db, exception.id).await?;
    let comment = |Comment { by, at, text }: Comment| CommentBody { by, at: show_instant(at), text };
    let detail = ExceptionDetail {
        exception: shown(exception, gateway.now()),
        suggestions: suggestions.into_iter().map(shown_suggestion).collect(),
        comments: comments.into_iter().map(comment).collect(),
        decisions: decisions.iter().map(shown_decision).collect(),
    };
    json(StatusCode::OK, &detail)
}

/// Done
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NotedBody {
    /// What it was done to.
    id: String,
}

/// Comment on an exception
#[utoipa::path(post, path = "/v1/exceptions/{id}/comments", operation_id = "comment_exception", tag = "reconciliation",
    request_body = flowbridge_api::reconciliation::CommentOnBody,
    params(("id" = String, Path, description = "The exception"),
        ("Idempotency-Key" = String, Header, description = "Drawn by you for this request and kept for its repeats", max_length = 255)),
    responses((status = 200, description = "Noted", body = NotedBody), crate::openapi::Refusals))]
pub(crate) async fn comment(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: JsonBody,
) -> Answer {
    only_operators(&caller)?;
    let exception = read_id(&id)?;
    let key = caller.keyed(&headers, ("POST", COMMENTS), &[&id], &body.bytes)?;
    let text = read_comment(&body.value)?;
    keyed::once(&gateway, &key, made(StatusCode::OK), async |tx| {
        if !rows::comment(tx, exception, caller.client_id(), &text, gateway.now()).await? {
            return Err(Refusal::new(ErrorCode::NotFound));
        }
        Ok(NotedBody { id: exception.to_string() })
    })
    .await
}

/// Say who works on an exception
#[utoipa::path(post, path = "/v1/exceptions/{id}/assign", operation_id = "assign_exception", tag = "reconciliation",
    request_body = flowbridge_api::reconciliation::AssignBody,
    params(("id" = String, Path, description = "The exception"),
        ("Idempotency-Key" = String, Header, description = "Drawn by you for this request and kept for its repeats", max_length = 255)),
    responses((status = 200, description = "Assigned", body = NotedBody), crate::openapi::Refusals))]
pub(crate) async fn assign(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: JsonBody,
) -> Answer {
    only_operators(&caller)?;
    let exception = read_id(&id)?;
    let key = caller.keyed(&headers, ("POST", ASSIGN), &[&id], &body.bytes)?;
    let to = read_assign(&body.value)?;
    keyed::once(&gateway, &key, made(StatusCode::OK), async |tx| {
        if !rows::assign(tx, exception, Some(&to), caller.client_id(), gateway.now()).await? {
            return Err(Refusal::new(ErrorCode::NotFound).detail("there is no such open exception"));
        }
        Ok(NotedBody { id: exception.to_string() })
    })
    .await
}

/// Propose what to do with an exception
#[utoipa::path(post, path = "/v1/exceptions/{id}/decisions", operation_id = "propose_decision", tag = "reconciliation",
    request_body = flowbridge_api::reconciliation::ProposeDecisionBody,
    params(("id" = String, Path, description = "The exception"),
        ("Idempotency-Key" = String, Header, description = "Drawn by you for this request and kept for its repeats", max_length = 255)),
    responses((status = 201, description = "Another operator has to confirm it", body = DecisionBody,
        headers(("Location" = String, description = "Where it is"))), crate::openapi::Refusals))]
pub(crate) async fn propose(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: JsonBody,
) -> Answer {
    only_operators(&caller)?;
    let exception = read_id(&id)?;
    let key = caller.keyed(&headers, ("POST", DECISIONS), &[&id], &body.bytes)?;
    let request = ProposeDecision::read(&body.value)?;
    let now = gateway.now();
    let decision = Decision {
        id: DecisionId::generate(now, random()?),
        kind: DecisionKind::parse(&request.decision)
            .ok_or_else(|| Refusal::new(ErrorCode::InvalidRequest))?,
        partner: request.partner,
        reason: request.reason,
        proposed_by: caller.client_id().to_owned(),
        proposed_at: now,
        verdict: None,
    };
    let collection = format!("/v1/exceptions/{id}/decisions");
    let made = keyed::Made { status: StatusCode::CREATED, collection: &collection, is_secret: false };
    keyed::once(&gateway, &key, made, async |tx| {
        rows::propose(tx, exception, &decision).await?.map_err(refused)?;
        Ok(shown_decision(&decision))
    })
    .await
}

/// Confirm what another operator proposed: it is carried out
#[utoipa::path(post, path = "/v1/exceptions/{id}/decisions/{decision_id}/confirm", operation_id = "confirm_decision", tag = "reconciliation",
    params(("id" = String, Path, description = "The exception"), ("decision_id" = String, Path, description = "The proposal"),
        ("Idempotency-Key" = String, Header, description = "Drawn by you for this request and kept for its repeats", max_length = 255)),
    responses((status = 200, description = "Confirmed, and carried out", body = DecisionBody), crate::openapi::Refusals))]
pub(crate) async fn confirm(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(ids): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer {
    answer(&gateway, &caller, &ids, &headers, Verdict::Confirmed).await
}

/// Reject what was proposed: nothing is done, and something else can be proposed
#[utoipa::path(post, path = "/v1/exceptions/{id}/decisions/{decision_id}/reject", operation_id = "reject_decision", tag = "reconciliation",
    params(("id" = String, Path, description = "The exception"), ("decision_id" = String, Path, description = "The proposal"),
        ("Idempotency-Key" = String, Header, description = "Drawn by you for this request and kept for its repeats", max_length = 255)),
    responses((status = 200, description = "Rejected", body = DecisionBody), crate::openapi::Refusals))]
pub(crate) async fn reject(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(ids): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer {
    answer(&gateway, &caller, &ids, &headers, Verdict::Rejected).await
}

async fn answer(
    gateway: &Gateway,
    caller: &Caller,
    (id, decision_id): &(String, String),
    headers: &HeaderMap,
    verdict: Verdict,
) -> Answer {
    only_operators(caller)?;
    let exception = read_id(id)?;
    let decision = DecisionId::parse(decision_id).map_err(Refusal::parameter)?;
    let ids = [id.as_str(), decision_id.as_str()];
    keyed::answer_proposal(gateway, (caller, headers), [CONFIRM, REJECT], &ids, verdict, async |tx| {
        let by = caller.client_id();
        let answered = rows::answer(tx, (exception, decision), verdict, by, gateway.now()).await?;
        Ok(shown_decision(&answered.map_err(refused)?))
    })
    .await
}

const fn made(status: StatusCode) -> keyed::Made<'static> {
    keyed::Made { status, collection: EXCEPTIONS, is_secret: false }
}

fn read_id(id: &str) -> Result<ExceptionId, Refusal> {
    ExceptionId::parse(id).map_err(Refusal::parameter)
}

fn refused(why: DecisionRefusal) -> Refusal {
    let conflict = |detail: &str| Refusal::new(ErrorCode::Conflict).detail(detail);
    match why {
        DecisionRefusal::Unknown => Refusal::new(ErrorCode::NotFound),
        DecisionRefusal::Closed => conflict("the exception is closed"),
        DecisionRefusal::AlreadyProposed => {
            conflict("something is proposed already: it has to be confirmed or rejected first")
        }
        DecisionRefusal::Answered => conflict("it was confirmed or rejected already"),
        DecisionRefusal::SamePerson => Refusal::new(ErrorCode::SecondPerson),
        DecisionRefusal::NothingToPost => {
            conflict("there is no entry that would put it right: accept, reject or rematch it")
        }
        DecisionRefusal::NoSuchPartner => conflict(
            "the partner is no record of this bank that waits for one: it has a match already, or is unknown",
        ),
        DecisionRefusal::AmountsDiffer => {
            conflict("the amounts differ: only records that are worth the same belong together")
        }
    }
}

fn shown(exception: Exception, now: Timestamp) -> ExceptionBody {
    let until = exception.closed_at.unwrap_or(now);
    ExceptionBody {
        id: exception.id.to_string(),
        proposed_entry: proposed_entry(&exception),
        scope: exception.scope,
        kind: exception.kind,
        subject: exception.subject,
        currency: exception.currency,
        amount: exception.amount,
        owner: exception.owner,
        advice: exception.advice,
        about: exception.about,
        state: exception.state,
        assigned_to: exception.assigned_to,
        since: show_instant(exception.since),
        age_days: until.since(exception.since).as_secs() / SECS_PER_DAY,
        opened_in: exception.opened_in.to_string(),
        opened_at: show_instant(exception.opened_at),
        seen_in: exception.seen_in.to_string(),
        closed_at: exception.closed_at.map(show_instant),
    }
}

fn proposed_entry(exception: &Exception) -> Option<EntryBody> {
    let contra = exception.contra.filter(|_| exception.correction != 0).map(Contra::as_str)?;
    let (debit, credit) = if exception.correction > 0 { ("reserve", contra) } else { (contra, "reserve") };
    let amount = exception.correction.unsigned_abs();
    Some(EntryBody { debit, credit, amount, currency: exception.currency.clone() })
}

fn shown_suggestion(suggestion: Suggestion) -> SuggestionBody {
    SuggestionBody {
        statement_entry: suggestion.suggested.line.to_string(),
        amount: suggestion.amount,
        currency: suggestion.currency,
        booked_on: suggestion.booked_on,
        reference: suggestion.reference,
        bank_reference: suggestion.bank_reference,
        counterparty: suggestion.counterparty,
        text: suggestion.text,
        probability: suggestion.suggested.probability,
    }
}

fn shown_decision(decision: &Decision) -> DecisionBody {
    let verdict = decision.verdict.as_ref();
    DecisionBody {
        id: decision.id.to_string(),
        decision: decision.kind.as_str(),
        partner: decision.partner.clone(),
        reason: decision.reason.clone(),
        state: verdict.map_or("proposed", |given| given.verdict.as_str()),
        proposed_by: decision.proposed_by.clone(),
        proposed_at: show_instant(decision.proposed_at),
        answered_by: verdict.map(|given| given.by.clone()),
        answered_at: verdict.map(|given| show_instant(given.at)),
    }
}

/// How the breaker stands
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BreakerBody {
    /// `closed`: money may be minted and paid out. `tripped`: it may not.
    state: &'static str,
    /// Why it was tripped.
    cause: Option<String>,
    #[schema(format = DateTime)]
    since: Option<String>,
    /// The proposal to reset it that waits for a second person.
    reset_proposal: Option<i64>,
    /// Who has made it.
    reset_proposed_by: Option<String>,
    /// Why.
    reset_reason: Option<String>,
    /// What happened to it, newest first.
    history: Vec<BreakerEventBody>,
}

/// Something that happened to the breaker
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BreakerEventBody {
    /// `tripped`, `reset_proposed`, `reset_rejected` or `reset`.
    kind: String,
    cause: String,
    by: String,
    #[schema(format = DateTime)]
    at: String,
}

/// Read how the breaker stands that stops minting and payouts
#[utoipa::path(get, path = "/v1/breaker", operation_id = "get_breaker", tag = "proof",
    responses((status = 200, description = "How it stands", body = BreakerBody), crate::openapi::Refusals))]
pub(crate) async fn show_breaker(State(gateway): State<Gateway>, caller: Caller) -> Answer {
    only_operators(&caller)?;
    let db = &gateway.parts.db;
    let (state, history) = (breaker::state(db).await?, breaker::history(db, HISTORY_MAX).await?);
    let history = history
        .into_iter()
        .map(|event| BreakerEventBody {
            kind: event.kind,
            cause: event.cause,
            by: event.by,
            at: show_instant(event.at),
        })
        .collect();
    let body = match state {
        Breaker::Closed => BreakerBody {
            state: "closed",
            cause: None,
            since: None,
            reset_proposal: None,
            reset_proposed_by: None,
            reset_reason: None,
            history,
        },
        Breaker::Tripped { cause, since, proposal } => BreakerBody {
            state: "tripped",
            cause: Some(cause),
            since: Some(show_instant(since)),
            reset_proposal: proposal.as_ref().map(|proposal| proposal.id),
            reset_proposed_by: proposal.as_ref().map(|proposal| proposal.by.clone()),
            reset_reason: proposal.map(|proposal| proposal.reason),
            history,
        },
    };
    json(StatusCode::OK, &body)
}

/// What was said about the breaker
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ResetNoted {
    /// `reset_proposed`, `reset` or `reset_rejected`.
    state: &'static str,
    /// Which proposal: what another operator confirms or rejects.
    proposal: i64,
}

/// Propose that minting and payouts go on
#[utoipa::path(post, path = "/v1/breaker/reset", operation_id = "propose_breaker_reset", tag = "proof",
    request_body = flowbridge_api::reconciliation::ResetBody,
    params(("Idempotency-Key" = String, Header, description = "Drawn by you for this request and kept for its repeats", max_length = 255)),
    responses((status = 200, description = "Another operator has to confirm it", body = ResetNoted), crate::openapi::Refusals))]
pub(crate) async fn propose_reset(
    State(gateway): State<Gateway>,
    caller: Caller,
    headers: HeaderMap,
    body: JsonBody,
) -> Answer {
    only_operators(&caller)?;
    let key = caller.keyed(&headers, ("POST", RESET), &[], &body.bytes)?;
    let reason = read_reset(&body.value)?;
    keyed::once(&gateway, &key, made(StatusCode::OK), async |tx| {
        let proposed = breaker::propose_reset(tx, &reason, caller.client_id(), gateway.now()).await?;
        let proposal = proposed.map_err(breaker_refused)?;
        Ok(ResetNoted { state: "reset_proposed", proposal })
    })
    .await
}

/// Confirm that minting and payouts go on
#[utoipa::path(post, path = "/v1/breaker/reset/{proposal}/confirm", operation_id = "confirm_breaker_reset", tag = "proof",
    params(("proposal" = i64, Path, description = "The proposal"), ("Idempotency-Key" = String, Header, description = "Drawn by you for this request and kept for its repeats", max_length = 255)),
    responses((status = 200, description = "They go on", body = ResetNoted), crate::openapi::Refusals))]
pub(crate) async fn confirm_reset(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(proposal): Path<i64>,
    headers: HeaderMap,
) -> Answer {
    answer_reset(&gateway, (&caller, &headers), proposal, Verdict::Confirmed).await
}

/// Reject that minting and payouts go on
#[utoipa::path(post, path = "/v1/breaker/reset/{proposal}/reject", operation_id = "reject_breaker_reset", tag = "proof",
    params(("proposal" = i64, Path, description = "The proposal"), ("Idempotency-Key" = String, Header, description = "Drawn by you for this request and kept for its repeats", max_length = 255)),
    responses((status = 200, description = "They stay stopped", body = ResetNoted), crate::openapi::Refusals))]
pub(crate) async fn reject_reset(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(proposal): Path<i64>,
    headers: HeaderMap,
) -> Answer {
    answer_reset(&gateway, (&caller, &headers), proposal, Verdict::Rejected).await
}

async fn answer_reset(
    gateway: &Gateway,
    (caller, headers): (&Caller, &HeaderMap),
    proposal: i64,
    verdict: Verdict,
) -> Answer {
    only_operators(caller)?;
    let routes = [RESET_CONFIRM, RESET_REJECT];
    let id = proposal.to_string();
    keyed::answer_proposal(gateway, (caller, headers), routes, &[&id], verdict, async |tx| {
        let (confirmed, by) = (verdict == Verdict::Confirmed, caller.client_id());
        let answered = breaker::answer_reset(tx, proposal, confirmed, by, gateway.now()).await?;
        answered.map_err(breaker_refused)?;
        Ok(ResetNoted { state: if confirmed { "reset" } else { "reset_rejected" }, proposal })
    })
    .await
}

fn breaker_refused(why: BreakerRefusal) -> Refusal {
    let conflict = |detail: &str| Refusal::new(ErrorCode::Conflict).detail(detail);
    match why {
        BreakerRefusal::NotTripped => conflict("the breaker is closed: minting and payouts go on"),
        BreakerRefusal::AlreadyProposed => {
            conflict("a reset is proposed already: it has to be confirmed or rejected first")
        }
        BreakerRefusal::NotProposed => {
            conflict("this is not what is proposed now: read how the breaker stands again")
        }
        BreakerRefusal::SamePerson => Refusal::new(ErrorCode::SecondPerson),
    }
}
