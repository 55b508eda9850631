//! Payments: create one or many, read, list, cancel, refund, and everything that happened to one.

use crate::answer::{Answer, Refusal, Trace, json, kept, random};
use crate::caller::{Caller, JsonBody, media_type, read_body};
use crate::paging::Paging;
use crate::{Gateway, keyed, reviews};
use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use flowbridge_api::json as strict;
use flowbridge_api::payment::{
    AccountName, Amount, CreatePayment, Details, PartyBody, PaymentBody, read_instant, read_payment_id,
    read_refund, show_instant,
};
use flowbridge_api::problem::{ErrorCode, Fault, Occasion};
use flowbridge_api::trace::STEP;
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::money::Money;
use flowbridge_domain::payment::{Kind, Rejected};
use flowbridge_domain::time::Timestamp;
use flowbridge_security::scope::Scope;
use flowbridge_store::accept::{
    AcceptRefusal, Accepted, AccountRef, Decision, Instruction, KeptAnswer, KeyedRequest, NewPayment,
};
use flowbridge_store::event_log;
use flowbridge_store::lifecycle::{self, Outcome};
use flowbridge_store::payment::StoredPayment;
use flowbridge_store::query::{self, PaymentFilter};
use flowbridge_store::wake::Work;
use flowbridge_store::webhook;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::cell::Cell;
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

const LIST: &str = "/v1/payments";
const REFUNDS: &str = "/v1/payments/{id}/refunds";
const CANCEL: &str = "/v1/payments/{id}/cancel";
const BULK: &str = "/v1/payments/bulk";

const KINDS: [&str; 4] = ["transfer", "refund", "issuance", "redemption"];
const STATES: [&str; 8] =
    ["accepted", "initiated", "held", "settled", "cancelling", "completed", "failed", "under_review"];

/// Rows of a kind shown in a payment's timeline at most.
const TIMELINE_ROWS_MAX: i64 = 1_000;
/// Lines of a bulk request that are looked at before others have their turn.
const LINES_BEFORE_OTHERS: usize = 100;
const DAY: Duration = Duration::from_secs(24 * 3_600);

pub(crate) fn router() -> Router<Gateway> {
    Router::new()
        .route(LIST, get(list).post(create))
        .route("/v1/payments/{id}", get(show))
        .route(CANCEL, post(cancel))
        .route(REFUNDS, post(refund))
        .route("/v1/payments/{id}/timeline", get(timeline))
}

pub(crate) fn bulk_router() -> Router<Gateway> {
    Router::new().route(BULK, post(bulk))
}

/// Create a payment
#[utoipa::path(post, path = "/v1/payments", operation_id = "create_payment", tag = "payments", request_body = flowbridge_api::payment::CreatePaymentBody,
    params(("Idempotency-Key" = String, Header, description = "Drawn by you for this request and kept for its repeats", max_length = 255)),
    responses((status = 201, description = "Accepted: it is durable", body = PaymentBody,
        headers(("Location" = String, description = "Where it is"))), crate::openapi::Refusals))]
pub(crate) async fn create(
    State(gateway): State<Gateway>,
    caller: Caller,
    headers: HeaderMap,
    body: JsonBody,
) -> Answer {
    caller.require(Scope::PaymentsWrite)?;
    let key = caller.keyed(&headers, ("POST", LIST), &[], &body.bytes)?;
    let request = CreatePayment::read(&body.value)?;
    let payment = new_payment(&gateway, (&caller, caller.trace), request, key)?;
    answer(gateway.batcher.accept(payment, caller.trace).await?)
}

/// Refund a completed payment, in whole or in part
#[utoipa::path(post, path = "/v1/payments/{id}/refunds", operation_id = "refund_payment", tag = "payments", request_body = flowbridge_api::payment::CreateRefundBody,
    params(("id" = String, Path, description = "The payment to refund"),
        ("Idempotency-Key" = String, Header, description = "Drawn by you for this request and kept for its repeats", max_length = 255)),
    responses((status = 201, description = "A payment of its own, back to the debtor", body = PaymentBody,
        headers(("Location" = String, description = "Where it is"))), crate::openapi::Refusals))]
pub(crate) async fn refund(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: JsonBody,
) -> Answer {
    caller.require(Scope::PaymentsWrite)?;
    let of = find(&gateway, &caller, &id).await?.payment.terms.id;
    let key = caller.keyed(&headers, ("POST", REFUNDS), &[&id], &body.bytes)?;
    let (amount, details) = read_refund(&body.value)?;
    let instruction = Instruction::Refund { of };
    let refund = new_instruction(&gateway, (&caller, caller.trace), instruction, (amount, details), key)?;
    answer(gateway.batcher.accept(refund, caller.trace).await?)
}

/// Counts a payment that was decided about, and begins its trace.
pub(crate) fn tell(
    id: PaymentId,
    trace: &Trace,
    (began, ended): (Timestamp, Timestamp),
    answer: &KeptAnswer,
) {
    let is_accepted = answer.status == StatusCode::CREATED.as_u16();
    if is_accepted {
        metrics::counter!("payments_total", "state" => "accepted").increment(1);
    }
    tracing::debug!(
        target: STEP,
        step = "accept",
        outcome = if is_accepted { "done" } else { "refused" },
        payment.id = is_accepted.then(|| id.to_string()),
        trace_id = trace.span.trace_id_hex(),
        span_id = trace.span.span_id_hex(),
        parent_span_id = trace.parent.map(|parent| parent.span_id_hex()),
        sampled = trace.span.sampled,
        started_at_us = began.as_micros(),
        ended_at_us = ended.as_micros(),
        http.status = answer.status,
        "decided about a request to pay"
    );
}

fn answer(accepted: Accepted) -> Answer {
    match accepted {
        Accepted::New(answer) => Ok(kept(answer, false, LIST)),
        Accepted::Replayed(answer) => Ok(kept(answer, true, LIST)),
        Accepted::KeyUsedOtherwise => Err(Refusal::new(ErrorCode::KeyReused)),
    }
}

/// What became of a line of a bulk request
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BulkLine {
    /// Its place, from 0.
    line: usize,
    /// The status that it would have had alone.
    status: u16,
    /// The payment, or the problem.
    #[schema(value_type = Object)]
    body: Value,
}

/// What became of a bulk request
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BulkAnswer {
    /// One outcome per line, in order.
    outcomes: Vec<BulkLine>,
}

/// Create up to 10,000 payments; each line has its own outcome
#[utoipa::path(post, path = "/v1/payments/bulk", operation_id = "create_payments", tag = "payments",
    request_body(content(
        (Vec<Value> = "application/json"),
        (String = "application/x-ndjson")), description = "An array of bodies as for POST /v1/payments, or one per line; what is wrong with one is said in its outcome"),
    params(("Idempotency-Key" = String, Header, description = "Each line is known by it and its place", max_length = 240)),
    responses((status = 200, description = "An outcome per line", body = BulkAnswer), crate::openapi::Refusals))]
pub(crate) async fn bulk(
    State(gateway): State<Gateway>,
    caller: Caller,
    headers: HeaderMap,
    request: Request,
) -> Answer {
    caller.require(Scope::PaymentsWrite)?;
    let full = "other bulk requests are under way: send it again when they are done";
    let place = gateway.bulks.take_place(caller.client_id());
    let _until_answered = place.ok_or_else(|| Refusal::new(ErrorCode::Unavailable).detail(full))?;
    let bytes = read_body(request, &gateway).await?;
    let (lines_max, media_type) = (gateway.settings.bulk_lines_max, media_type(&headers));
    // Megabytes of text take long enough to keep others waiting who share this thread.
    let lines = tokio::task::spawn_blocking(move || read_lines(&media_type, &bytes, lines_max));
    let lines = lines.await.map_err(|_| Refusal::new(ErrorCode::Internal))??;
    if lines.is_empty() || lines.len() > lines_max {
        return Err(vec![Fault::new("", "not_valid", format!("1 to {lines_max} payments"))].into());
    }
    caller.take_more(&gateway, lines.len() - 1)?;
    let mut pending = Vec::with_capacity(lines.len());
    for (place, line) in lines.iter().enumerate() {
        if place.is_multiple_of(LINES_BEFORE_OTHERS) {
            tokio::task::yield_now().await;
        }
        // A line's own bytes: the same line under the same key is the same request, whatever stands beside it.
        let own_bytes = line.as_ref().map(|line| serde_json::to_vec(line).unwrap_or_default());
        let mut key = caller.keyed(&headers, ("POST", BULK), &[], &own_bytes.unwrap_or_default())?;
        key.key = format!("{}#{place}", key.key);
        let request = line.as_ref().map_err(|fault| vec![fault.clone()]).and_then(CreatePayment::read);
        let request = request.map_err(Refusal::from);
        // Each payment is a span of its own.
        let trace = caller.trace.sibling()?;
        let payment = request.and_then(|request| new_payment(&gateway, (&caller, trace), request, key));
        pending.push(payment.map(|payment| (trace, payment)));
    }
    let trace_id = caller.trace.span.trace_id_hex();
    let occasion = Occasion { base: &gateway.settings.issuer, path: BULK, trace_id: &trace_id };
    // A slice at a time, so that one bulk request does not fill the queue that everybody waits in.
    let mut outcomes = Vec::with_capacity(pending.len());
    let mut pending = pending.into_iter().enumerate().peekable();
    while pending.peek().is_some() {
        let slice: Vec<_> = pending.by_ref().take(gateway.settings.accept_slice_max).collect();
        let accepted = futures_util::future::join_all(slice.into_iter().map(|(line, request)| {
            let gateway = &gateway;
            async move {
                let outcome = match request {
                    Ok((trace, payment)) => gateway.batcher.accept_line(payment, trace).await,
                    Err(refusal) => Err(refusal),
                };
                bulk_line(line, outcome, occasion)
            }
        }));
        outcomes.extend(accepted.await);
    }
    json(StatusCode::OK, &BulkAnswer { outcomes })
}

/// The payments of an array, or of newline-delimited JSON, where one line that is no JSON leaves the others alone. Of what is too many one
/// too many is read.
fn read_lines(
    media_type: &str,
    bytes: &[u8],
    lines_max: usize,
) -> Result<Vec<Result<Value, Fault>>, Refusal> {
    match media_type {
        "application/json" => match strict::parse_list(bytes, lines_max).map_err(|fault| vec![fault])? {
            Value::Array(lines) => Ok(lines.into_iter().map(Ok).collect()),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
                Err(vec![Fault::new("", "wrong_type", "an array of payments is expected")].into())
            }
        },
        "application/x-ndjson" => {
            let lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
            let (lines, left) = (lines.filter(|line| !line.is_empty()), Cell::new(strict::VALUES_MAX));
            Ok(lines.take(lines_max + 1).map(|line| strict::parse_within(line, &left)).collect())
        }
        _ => Err(Refusal::new(ErrorCode::UnsupportedMediaType)),
    }
}

fn bulk_line(line: usize, outcome: Result<Accepted, Refusal>, occasion: Occasion<'_>) -> BulkLine {
    match outcome {
        Ok(Accepted::New(kept) | Accepted::Replayed(kept)) => BulkLine {
            line,
            status: kept.status,
            body: serde_json::from_slice(&kept.body).unwrap_or(Value::Null),
        },
        Ok(Accepted::KeyUsedOtherwise) => problem_line(line, &Refusal::new(ErrorCode::KeyReused), occasion),
        Err(refusal) => problem_line(line, &refusal, occasion),
    }
}

fn problem_line(line: usize, refusal: &Refusal, occasion: Occasion<'_>) -> BulkLine {
    let problem = refusal.problem(occasion);
    BulkLine { line, status: problem.status, body: serde_json::to_value(&problem).unwrap_or(Value::Null) }
}

fn new_payment(
    gateway: &Gateway,
    caller: (&Caller, Trace),
    request: CreatePayment,
    key: KeyedRequest,
) -> Result<NewPayment, Refusal> {
    let account = |name| match name {
        AccountName::Id(id) => AccountRef::Id(id),
        AccountName::Iban(iban) => AccountRef::Iban(iban),
    };
    let instruction = Instruction::Pay {
        kind: request.kind,
        funding: request.funding,
        payout: request.payout,
        debtor: account(request.debtor),
        creditor: account(request.creditor),
    };
    new_instruction(gateway, caller, instruction, (request.amount, request.details), key)
}

fn new_instruction(
    gateway: &Gateway,
    (caller, trace): (&Caller, Trace),
    instruction: Instruction,
    (amount, details): (Money, Details),
    key: KeyedRequest,
) -> Result<NewPayment, Refusal> {
    let now = gateway.now();
    let execute_at = details.requested_execution_date.unwrap_or(now);
    let days_max = gateway.settings.execution_days_max;
    if execute_at > now.plus(DAY.saturating_mul(days_max)) {
        let fault =
            Fault::new("/requested_execution_date", "not_valid", format!("at most {days_max} days ahead"));
        return Err(vec![fault].into());
    }
    let uetr = match details.uetr {
        Some(uetr) => uetr,
        None => uuid_v4(random()?),
    };
    Ok(NewPayment {
        id: PaymentId::generate(now, random()?),
        participant: caller.participant(),
        instruction,
        amount,
        end_to_end_id: details.end_to_end_id,
        uetr,
        remittance_information: details.remittance_information,
        authorization: details.authorization,
        execute_at,
        expires_at: details.expires_at,
        traceparent: trace.span.to_string(),
        key,
    })
}

/// A UETR is a UUID of version 4, whatever our own ids are.
fn uuid_v4(random: [u8; 16]) -> Uuid {
    uuid::Builder::from_random_bytes(random).into_uuid()
}

/// Puts a decision into the answer that is kept.
pub(crate) fn render(base: &str, request: &NewPayment, decision: &Decision) -> KeptAnswer {
    let (status, body) = match decision {
        Decision::Accepted(stored) => (201, serde_json::to_vec(&shown(stored))),
        Decision::Refused(refusal) => {
            let refusal = explained(*refusal);
            let trace_id = request.traceparent.split('-').nth(1).unwrap_or_default();
            let path = asked_for(request);
            let occasion = Occasion { base, path: &path, trace_id };
            (refusal.code.status(), serde_json::to_vec(&refusal.problem(occasion)))
        }
    };
    match body {
        Ok(body) => KeptAnswer { status, body },
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written as JSON");
            KeptAnswer { status: 500, body: Vec::new() }
        }
    }
}

/// The path of the request.
fn asked_for(request: &NewPayment) -> String {
    let template = request.key.route.split_once(' ').map_or(LIST, |(_, path)| path);
    match request.instruction {
        Instruction::Refund { of } => template.replace("{id}", &of.to_string()),
        Instruction::Pay { .. } => template.to_owned(),
    }
}

fn explained(refusal: AcceptRefusal) -> Refusal {
    let at = |code: ErrorCode, pointer: &str| {
        Refusal::new(code).errors(vec![Fault::new(pointer, code.code(), code.title())])
    };
    match refusal {
        AcceptRefusal::UnknownDebtor => at(ErrorCode::UnknownDebtor, "/debtor"),
        AcceptRefusal::UnknownCreditor => at(ErrorCode::UnknownCreditor, "/creditor"),
        AcceptRefusal::AccountClosed => Refusal::new(ErrorCode::AccountClosed),
        AcceptRefusal::ParticipantSuspended => Refusal::new(ErrorCode::ParticipantSuspended),
        AcceptRefusal::SameAccount => {
            at(ErrorCode::WrongKind, "/creditor").detail("debtor and creditor are one account")
        }
        AcceptRefusal::NotOneAccount => at(ErrorCode::WrongKind, "/creditor")
            .detail("an issuance or redemption is between one account's bank and wallet"),
        AcceptRefusal::WrongWay => {
            at(ErrorCode::WrongKind, "/kind").detail("not the funding and payout of that kind")
        }
        AcceptRefusal::SignatureForBankMoney => at(ErrorCode::WrongKind, "/authorization")
            .detail("a signature is for tokens: say `funding: token`, or leave it out"),
        AcceptRefusal::InsufficientFunds => at(ErrorCode::InsufficientFunds, "/instructed_amount"),
        AcceptRefusal::FeeTooHigh => at(ErrorCode::FeeTooHigh, "/instructed_amount/amount"),
        AcceptRefusal::ExpiresTooSoon => at(ErrorCode::ExpiresTooSoon, "/expires_at"),
        AcceptRefusal::SignatureEndsTooSoon => at(ErrorCode::ExpiresTooSoon, "/authorization/valid_before")
            .detail("the signature is no longer valid when the payment is executed"),
        AcceptRefusal::SignatureBeginsTooLate => at(ErrorCode::ExpiresTooSoon, "/authorization/valid_after")
            .detail("the signature is not valid before the payment has to be initiated"),
        AcceptRefusal::ReferenceUsed(payment) => {
            at(ErrorCode::ReferenceUsed, "/end_to_end_id").detail(format!("payment {payment} has it"))
        }
        AcceptRefusal::UnknownOriginal => Refusal::new(ErrorCode::UnknownOriginal),
        AcceptRefusal::NotRefundable => Refusal::new(ErrorCode::NotRefundable),
        AcceptRefusal::RefundTooHigh(left) => at(ErrorCode::RefundTooHigh, "/instructed_amount/amount")
            .detail(format!("{left} minor units are left")),
        AcceptRefusal::WrongCurrency => at(ErrorCode::WrongCurrency, "/instructed_amount/currency"),
    }
}

fn shown(stored: &StoredPayment) -> PaymentBody {
    let terms = &stored.payment.terms;
    let units = |units: i128| i64::try_from(units).unwrap_or(i64::MAX);
    let party = |party: &flowbridge_domain::payment::Party| PartyBody {
        account_id: party.account.to_string(),
        participant_id: party.participant.to_string(),
    };
    let state = stored.payment.progress.state;
    PaymentBody {
        id: terms.id.to_string(),
        number: terms.number.0,
        kind: terms.kind.as_str(),
        refund_of: match terms.kind {
            Kind::Refund { of } => Some(of.to_string()),
            Kind::Transfer | Kind::Issuance | Kind::Redemption => None,
        },
        funding: terms.funding.as_str(),
        payout: terms.payout.as_str(),
        instructed_amount: Amount::from(terms.amount),
        fee: units(terms.fee.minor_units()),
        refunded: units(stored.refunded),
        debtor: party(&terms.debtor),
        creditor: party(&terms.creditor),
        end_to_end_id: stored.end_to_end_id.clone(),
        uetr: stored.uetr.to_string(),
        remittance_information: stored.remittance_information.clone(),
        state: state.as_str(),
        reason: state.reason(),
        state_since: show_instant(stored.state_since),
        accepted_at: show_instant(stored.accepted_at),
        execute_at: show_instant(terms.execute_at),
        expires_at: show_instant(terms.expires_at),
    }
}

fn payment_id(text: &str) -> Result<PaymentId, Refusal> {
    read_payment_id(text).map_err(|fault| Refusal::new(ErrorCode::InvalidParameter).detail(fault.detail))
}

/// A payment that the caller may see; anything else is not found.
async fn find(gateway: &Gateway, caller: &Caller, id: &str) -> Result<StoredPayment, Refusal> {
    let found = query::payment(&gateway.parts.db, payment_id(id)?, caller.participant()).await?;
    found.ok_or_else(|| Refusal::new(ErrorCode::NotFound))
}

/// Read a payment
#[utoipa::path(get, path = "/v1/payments/{id}", operation_id = "get_payment", tag = "payments", params(("id" = String, Path, description = "The payment")),
    responses((status = 200, description = "The payment", body = PaymentBody), crate::openapi::Refusals))]
pub(crate) async fn show(State(gateway): State<Gateway>, caller: Caller, Path(id): Path<String>) -> Answer {
    caller.require(Scope::PaymentsRead)?;
    json(StatusCode::OK, &shown(&find(&gateway, &caller, &id).await?))
}

/// Which payments to list
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// 1 to 100; 25 if it is not given
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
    /// `next_cursor` of the page before, with the same filters
    cursor: Option<String>,
    /// Only payments in this state
    state: Option<String>,
    /// Only payments of this kind
    kind: Option<String>,
    /// Only payments accepted at this instant or later (RFC 3339)
    #[param(format = "date-time", example = "2026-11-23T00:00:00Z")]
    created_from: Option<String>,
    /// Only payments accepted before this instant (RFC 3339)
    #[param(format = "date-time", example = "2026-11-24T00:00:00Z")]
    created_to: Option<String>,
}

/// A page of payments, newest first
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PaymentPage {
    data: Vec<PaymentBody>,
    /// There are older ones.
    has_more: bool,
    /// Where they begin.
    next_cursor: Option<String>,
}

/// List payments, newest first
#[utoipa::path(get, path = "/v1/payments", operation_id = "list_payments", tag = "payments", params(ListQuery),
    responses((status = 200, description = "A page of payments", body = PaymentPage), crate::openapi::Refusals))]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    caller: Caller,
    Query(wanted): Query<ListQuery>,
) -> Answer {
    caller.require(Scope::PaymentsRead)?;
    let state = one_of("state", wanted.state, &STATES)?;
    let kind = one_of("kind", wanted.kind, &KINDS)?;
    let created_from = instant("created_from", wanted.created_from.as_deref())?;
    let created_to = instant("created_to", wanted.created_to.as_deref())?;
    let (from, to) = (wanted.created_from.unwrap_or_default(), wanted.created_to.unwrap_or_default());
    let filters = [("state", &*state), ("kind", &*kind), ("created_from", &*from), ("created_to", &*to)];
    let paging = Paging::new(&gateway, &caller, (LIST, &filters), (wanted.limit, wanted.cursor.as_deref()))?;
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let filter = PaymentFilter {
        viewer: caller.participant(),
        before: paging.position.map(PaymentId::from_uuid),
        state: some(&state),
        kind: some(&kind),
        created_from,
        created_to,
    };
    let mut found = query::payments(&gateway.parts.db, &filter, paging.rows_max()).await?;
    let next = paging.cut(&mut found, |stored| stored.payment.terms.id.as_uuid());
    let data = found.iter().map(shown).collect();
    let page = PaymentPage { data, has_more: next.has_more, next_cursor: next.cursor.clone() };
    next.answer(&page)
}

/// An instant to filter by. Of what was accepted before there were ids to tell of it, there is nothing.
fn instant(name: &str, given: Option<&str>) -> Result<Option<Timestamp>, Refusal> {
    let invalid = |why| Refusal::new(ErrorCode::InvalidParameter).detail(format!("{name}: {why}"));
    given.map(|text| read_instant(text).map(|at| at.max(EARLIEST)).map_err(invalid)).transpose()
}

/// Ids begin with the milliseconds since 1970, and are looked for from some minutes before.
const EARLIEST: Timestamp = Timestamp::from_secs(3_600);

/// A filter's word, empty when it is not given.
fn one_of(name: &str, given: Option<String>, words: &[&str]) -> Result<String, Refusal> {
    match given {
        None => Ok(String::new()),
        Some(word) if words.contains(&word.as_str()) => Ok(word),
        Some(_) => {
            let detail = format!("{name} is one of {}", words.join(", "));
            Err(Refusal::new(ErrorCode::InvalidParameter).detail(detail))
        }
    }
}

/// Ask for a payment to be undone
#[utoipa::path(post, path = "/v1/payments/{id}/cancel", operation_id = "cancel_payment", tag = "payments",
    params(("id" = String, Path, description = "The payment"),
        ("Idempotency-Key" = String, Header, description = "Drawn by you for this request and kept for its repeats", max_length = 255)),
    responses((status = 202, description = "It is being undone, unless the chain settles it first", body = PaymentBody), crate::openapi::Refusals))]
pub(crate) async fn cancel(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Answer {
    caller.require(Scope::PaymentsWrite)?;
    let stored = find(&gateway, &caller, &id).await?;
    // Only who pays may revoke; who is paid can refund.
    if caller.participant().is_some_and(|own| own != stored.payment.terms.debtor.participant) {
        return Err(Refusal::new(ErrorCode::NotFound));
    }
    let payment = stored.payment.terms.id;
    let key = caller.keyed(&headers, ("POST", CANCEL), &[&id], &[])?;
    let made = keyed::Made { status: StatusCode::ACCEPTED, collection: LIST, is_secret: false };
    let answer = keyed::once_on(&gateway, &[payment], (&key, made), async |tx| {
        let outcomes = lifecycle::cancel(tx, &[payment], gateway.now()).await?;
        match outcomes.first() {
            Some(Outcome::Applied { .. } | Outcome::Rejected(Rejected::Repeat)) => {}
            Some(Outcome::Rejected(Rejected::TooLate | Rejected::NotApplicable)) => {
                let state = stored.payment.progress.state.as_str();
                let detail = format!("the payment was {state} and is past cancellation");
                return Err(Refusal::new(ErrorCode::Conflict).detail(detail));
            }
            Some(Outcome::UnknownPayment) | None => return Err(Refusal::new(ErrorCode::NotFound)),
        }
        let now = query::payment_in(tx, payment).await?.ok_or_else(|| Refusal::new(ErrorCode::NotFound))?;
        Ok(shown(&now))
    })
    .await;
    gateway.parts.wake.ring(Work::ChainEffects);
    gateway.parts.wake.ring(Work::PaymentEvents);
    answer
}

/// Everything that happened to a payment
#[utoipa::path(get, path = "/v1/payments/{id}/timeline", operation_id = "get_payment_timeline", tag = "payments", params(("id" = String, Path, description = "The payment")),
    responses((status = 200, description = "Events, journal entries, what was asked of chain and banks, chain transactions and webhook deliveries; to operators and the participant whose client asked for it, that client_id", body = Object), crate::openapi::Refusals))]
pub(crate) async fn timeline(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer {
    caller.require(Scope::PaymentsRead)?;
    let stored = find(&gateway, &caller, &id).await?;
    let payment = stored.payment.terms.id;
    let db = &gateway.parts.db;
    let events = event_log::read_key(db, payment, TIMELINE_ROWS_MAX).await?;
    let (entries, effects) = query::ledger_and_effects(db, payment).await?;
    let events: Vec<Value> = events
        .iter()
        .map(|event| {
            let mut shown = json!({ "at": show_instant(event.recorded_at), "event": event.kind });
            let mut said: Map<String, Value> = event.data.read().unwrap_or_default();
            for name in ["reason", "reason_code", "bank", "step", "reference", "tx_hash", "block_number"] {
                if let (Some(value), Some(object)) = (said.remove(name), shown.as_object_mut())
                    && !value.is_null()
                {
                    object.insert(name.to_owned(), value);
                }
            }
            shown
        })
        .collect();
    let entries: Vec<Value> = entries
        .iter()
        .map(|entry| {
            json!({
                "at": show_instant(entry.posted_at), "moment": entry.moment, "round": entry.round, "debit": entry.debit,
                "credit": entry.credit, "amount": entry.amount, "currency": entry.currency,
            })
        })
        .collect();
    let effects: Vec<Value> = effects
        .iter()
        .map(|effect| {
            json!({
                "effect": effect.kind, "state": effect.state, "attempts": effect.attempts, "reference": effect.reference,
                "outcome": effect.outcome, "since": show_instant(effect.state_since),
            })
        })
        .collect();
    let transactions: Vec<Value> = query::transactions(db, payment)
        .await?
        .iter()
        .map(|sent| {
            let [commit, prove, execute] = &sent.l1_txs;
            let l1 = sent.l1_batch.map(
                |batch| json!({ "batch": batch, "commit_tx": commit, "prove_tx": prove, "execute_tx": execute }),
            );
            json!({
                "at": show_instant(sent.created_at), "purpose": sent.purpose, "state": sent.state, "tx_hash": sent.tx_hash,
                "block_number": sent.block_number, "finality": sent.finality, "l1": l1, "versions": sent.versions,
                "since": show_instant(sent.state_since),
            })
        })
        .collect();
    let deliveries =
        webhook::deliveries_of_payment(db, payment, caller.participant(), TIMELINE_ROWS_MAX).await?;
    let deliveries: Vec<Value> = deliveries
        .iter()
        .map(|delivery| {
            json!({
                "at": show_instant(delivery.created_at), "event": delivery.event_kind, "delivery_id": delivery.id.to_string(),
                "endpoint_id": delivery.endpoint.to_string(), "state": delivery.state.as_str(),
                "attempts": delivery.attempts, "last_status": delivery.attempt_log.last().and_then(|last| last.status),
                "since": show_instant(delivery.state_since),
            })
        })
        .collect();
    let mut body = json!({
        "payment": shown(&stored), "events": events, "journal_entries": entries, "effects": effects,
        "chain_transactions": transactions, "webhook_deliveries": deliveries,
    });
    // The other side is not told by whom.
    if let Some(client) = query::client(db, payment, caller.participant()).await? {
        body["client_id"] = json!(client);
    }
    // What operators write to each other is theirs.
    if caller.participant().is_none() {
        body["reviews"] = json!(reviews::of_payment(&gateway, payment).await?);
    }
    json(StatusCode::OK, &body)
}
