//! Decisions on payments under review: proposed by one operator, confirmed by another.

use crate::answer::{Answer, Refusal, json, random};
use crate::caller::{Caller, JsonBody};
use crate::{Gateway, keyed};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use flowbridge_api::payment::show_instant;
use flowbridge_api::problem::ErrorCode;
use flowbridge_api::review::{ProposeReview, ReviewBody};
use flowbridge_domain::id::{PaymentId, ReviewId};
use flowbridge_security::scope::Scope;
use flowbridge_store::review::{self, Review, ReviewRefusal, Verdict};
use flowbridge_store::wake::Work;
use serde::Serialize;
use utoipa::ToSchema;

const REVIEWS: &str = "/v1/payments/{id}/reviews";
const CONFIRM: &str = "/v1/payments/{id}/reviews/{review_id}/confirm";
const REJECT: &str = "/v1/payments/{id}/reviews/{review_id}/reject";

pub(crate) fn router() -> Router<Gateway> {
    Router::new()
        .route(REVIEWS, get(list).post(propose))
        .route(CONFIRM, post(confirm))
        .route(REJECT, post(reject))
}

/// What was proposed for a payment, newest first
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReviewList {
    data: Vec<ReviewBody>,
}

/// List what was proposed for a payment, newest first
#[utoipa::path(get, path = "/v1/payments/{id}/reviews", operation_id = "list_reviews", tag = "payments", params(("id" = String, Path, description = "The payment")),
    responses((status = 200, description = "The proposals and their answers", body = ReviewList), crate::openapi::Refusals))]
pub(crate) async fn list(State(gateway): State<Gateway>, caller: Caller, Path(id): Path<String>) -> Answer {
    let payment = reviewed_by(&caller, &id)?;
    let data = of_payment(&gateway, payment).await?;
    json(StatusCode::OK, &ReviewList { data })
}

/// What was proposed for a payment, as operators see it.
pub(crate) async fn of_payment(gateway: &Gateway, payment: PaymentId) -> Result<Vec<ReviewBody>, Refusal> {
    Ok(review::of_payment(&gateway.parts.db, payment).await?.iter().map(shown).collect())
}

/// Propose what to do with a payment under review
#[utoipa::path(post, path = "/v1/payments/{id}/reviews", operation_id = "propose_review", tag = "payments", request_body = flowbridge_api::review::ProposeReviewBody,
    params(("id" = String, Path, description = "The payment"),
        ("Idempotency-Key" = String, Header, description = "Drawn by you for this request and kept for its repeats", max_length = 255)),
    responses((status = 201, description = "Another operator has to confirm it", body = ReviewBody,
        headers(("Location" = String, description = "Where it is"))), crate::openapi::Refusals))]
pub(crate) async fn propose(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: JsonBody,
) -> Answer {
    let payment = reviewed_by(&caller, &id)?;
    let key = caller.keyed(&headers, ("POST", REVIEWS), &[&id], &body.bytes)?;
    let request = ProposeReview::read(&body.value)?;
    let now = gateway.now();
    let review = Review {
        id: ReviewId::generate(now, random()?),
        payment,
        decision: request.decision,
        note: request.note,
        proposed_by: caller.client_id().to_owned(),
        proposed_at: now,
        verdict: None,
    };
    let collection = format!("/v1/payments/{id}/reviews");
    let made = keyed::Made { status: StatusCode::CREATED, collection: &collection, is_secret: false };
    keyed::once(&gateway, &key, made, async |tx| {
        review::propose(tx, &review).await?.map_err(refused)?;
        Ok(shown(&review))
    })
    .await
}

/// Confirm what another operator proposed: it is carried out
#[utoipa::path(post, path = "/v1/payments/{id}/reviews/{review_id}/confirm", operation_id = "confirm_review", tag = "payments",
    params(("id" = String, Path, description = "The payment"), ("review_id" = String, Path, description = "The proposal"),
        ("Idempotency-Key" = String, Header, description = "Drawn by you for this request and kept for its repeats", max_length = 255)),
    responses((status = 200, description = "Confirmed, and carried out", body = ReviewBody), crate::openapi::Refusals))]
pub(crate) async fn confirm(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(ids): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer {
    answer(&gateway, &caller, &ids, &headers, Verdict::Confirmed).await
}

/// Reject what was proposed: nothing is done, and something else can be proposed
#[utoipa::path(post, path = "/v1/payments/{id}/reviews/{review_id}/reject", operation_id = "reject_review", tag = "payments",
    params(("id" = String, Path, description = "The payment"), ("review_id" = String, Path, description = "The proposal"),
        ("Idempotency-Key" = String, Header, description = "Drawn by you for this request and kept for its repeats", max_length = 255)),
    responses((status = 200, description = "Rejected", body = ReviewBody), crate::openapi::Refusals))]
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
    (id, review_id): &(String, String),
    headers: &HeaderMap,
    verdict: Verdict,
) -> Answer {
    let payment = reviewed_by(caller, id)?;
    let review = ReviewId::parse(review_id).map_err(Refusal::parameter)?;
    let (routes, ids) = ([CONFIRM, REJECT], [id.as_str(), review_id.as_str()]);
    let answer = keyed::answer_proposal(gateway, (caller, headers), routes, &ids, verdict, async |tx| {
        let by = caller.client_id();
        let answered = review::answer(tx, (payment, review), verdict, by, gateway.now()).await?;
        Ok(shown(&answered.map_err(refused)?))
    })
    .await;
    for work in [Work::ChainEffects, Work::BankEffects, Work::PaymentEvents] {
        gateway.parts.wake.ring(work);
    }
    answer
}

/// The payment, if the caller is one of our own operators.
fn reviewed_by(caller: &Caller, id: &str) -> Result<PaymentId, Refusal> {
    caller.require(Scope::Operator)?;
    if caller.participant().is_some() {
        return Err(Refusal::new(ErrorCode::Forbidden).detail("only operators review payments"));
    }
    PaymentId::parse(id).map_err(Refusal::parameter)
}

fn refused(why: ReviewRefusal) -> Refusal {
    let conflict = |detail: &str| Refusal::new(ErrorCode::Conflict).detail(detail);
    match why {
        ReviewRefusal::Unknown => Refusal::new(ErrorCode::NotFound),
        ReviewRefusal::NotUnderReview => conflict("the payment is not under review"),
        ReviewRefusal::AlreadyProposed => {
            conflict("something is proposed already: it has to be confirmed or rejected first")
        }
        ReviewRefusal::Decided => conflict("it was confirmed or rejected already"),
        ReviewRefusal::NoEffect => conflict("the payment would stand where it stands: decide something else"),
        ReviewRefusal::SamePerson => Refusal::new(ErrorCode::SecondPerson),
        ReviewRefusal::Overtaken => {
            conflict("the payment has changed since it was proposed: reject it, look again, and propose anew")
        }
    }
}

fn shown(review: &Review) -> ReviewBody {
    let verdict = review.verdict.as_ref();
    ReviewBody {
        id: review.id.to_string(),
        payment_id: review.payment.to_string(),
        decision: review.decision.as_str(),
        note: review.note.clone(),
        state: verdict.map_or("proposed", |given| given.verdict.as_str()),
        proposed_by: review.proposed_by.clone(),
        proposed_at: show_instant(review.proposed_at),
        answered_by: verdict.map(|given| given.by.clone()),
        answered_at: verdict.map(|given| show_instant(given.at)),
    }
}
