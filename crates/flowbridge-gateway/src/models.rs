//! Which model judges in reconciliations: one operator proposes it, another confirms, and it judges from the next run on.
//!
//! A model is known by the SHA-256 of its file. The file itself is not here: it lies where reconciliation runs, which says so when
//! it is not there or not what people decided about.

use crate::answer::{Answer, Refusal, random};
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
use flowbridge_api::reconciliation::{ModelComparison, ProposeModel, read_model};
use flowbridge_domain::id::ModelProposalId;
use flowbridge_store::promotion::{self, ModelProposal, PromotionRefusal};
use flowbridge_store::review::Verdict;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

const MODELS: &str = "/v1/reconciliation-models";
const PROPOSALS: &str = "/v1/reconciliation-models/{model}/proposals";
const CONFIRM: &str = "/v1/reconciliation-models/{model}/proposals/{proposal_id}/confirm";
const REJECT: &str = "/v1/reconciliation-models/{model}/proposals/{proposal_id}/reject";

pub(crate) fn router() -> Router<Gateway> {
    Router::new()
        .route(MODELS, get(list))
        .route(PROPOSALS, post(propose))
        .route(CONFIRM, post(confirm))
        .route(REJECT, post(reject))
}

/// Which proposals
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ModelsQuery {
    /// 1 to 100; 25 if it is not given
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
    /// `next_cursor` of the page before
    cursor: Option<String>,
}

/// That a model come into force, and what a second person said to it
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelProposalBody {
    /// Its id.
    id: String,
    /// The model: SHA-256 of its file in hexadecimal.
    model: String,
    /// The model that was in force, likewise.
    champion: String,
    /// What was measured of both; none for a model that was in force before.
    comparison: Option<ModelComparison>,
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

/// The model in force, and a page of what was proposed, newest first
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelPage {
    /// SHA-256 of the model that judges: the last that was confirmed, or the one that comes with the program.
    in_force: String,
    data: Vec<ModelProposalBody>,
    /// There are more after the last one.
    has_more: bool,
    /// Where they begin.
    next_cursor: Option<String>,
}

/// List which model of reconciliation is in force, and what was proposed, newest first
#[utoipa::path(get, path = "/v1/reconciliation-models", operation_id = "list_reconciliation_models", tag = "reconciliation", params(ModelsQuery),
    responses((status = 200, description = "The model in force, and a page of proposals", body = ModelPage), crate::openapi::Refusals))]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    caller: Caller,
    Query(query): Query<ModelsQuery>,
) -> Answer {
    only_operators(&caller)?;
    let paging = Paging::new(&gateway, &caller, (MODELS, &[]), (query.limit, query.cursor.as_deref()))?;
    let db = &gateway.parts.db;
    let newest = promotion::newest(db).await?;
    let mut found = promotion::list(db, paging.position, paging.rows_max()).await?;
    let next = paging.cut(&mut found, |proposal| ModelProposalId::as_uuid(&proposal.id));
    let page = ModelPage {
        in_force: promotion::in_force(newest.as_slice(), &gateway.parts.shipped_model).to_owned(),
        data: found.iter().map(shown).collect::<Result<_, _>>()?,
        has_more: next.has_more,
        next_cursor: next.cursor.clone(),
    };
    next.answer(&page)
}

/// Propose that a model judge in reconciliations
#[utoipa::path(post, path = "/v1/reconciliation-models/{model}/proposals", operation_id = "propose_reconciliation_model", tag = "reconciliation",
    request_body = flowbridge_api::reconciliation::ProposeModelBody,
    params(("model" = String, Path, description = "SHA-256 of the model's file in hexadecimal"),
        ("Idempotency-Key" = String, Header, description = "Drawn by you for this request and kept for its repeats", max_length = 255)),
    responses((status = 201, description = "Another operator has to confirm it", body = ModelProposalBody,
        headers(("Location" = String, description = "Where it is"))), crate::openapi::Refusals))]
pub(crate) async fn propose(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(model): Path<String>,
    headers: HeaderMap,
    body: JsonBody,
) -> Answer {
    only_operators(&caller)?;
    let sha256 = read_model(&model).map_err(Refusal::parameter)?;
    let key = caller.keyed(&headers, ("POST", PROPOSALS), &[&model], &body.bytes)?;
    let request = ProposeModel::read(&body.value)?;
    let now = gateway.now();
    let comparison = request.comparison.as_ref().map(serde_json::to_value).transpose();
    let proposal = ModelProposal {
        id: ModelProposalId::generate(now, random()?),
        model: sha256,
        champion: request.champion,
        comparison: comparison.map_err(|_| Refusal::new(ErrorCode::Internal))?,
        reason: request.reason,
        proposed_by: caller.client_id().to_owned(),
        proposed_at: now,
        verdict: None,
    };
    let collection = format!("/v1/reconciliation-models/{model}/proposals");
    let made = keyed::Made { status: StatusCode::CREATED, collection: &collection, is_secret: false };
    keyed::once(&gateway, &key, made, async |tx| {
        promotion::propose(tx, &proposal, &gateway.parts.shipped_model).await?.map_err(refused)?;
        shown(&proposal)
    })
    .await
}

/// Confirm what another operator proposed: the model judges from the next run on
#[utoipa::path(post, path = "/v1/reconciliation-models/{model}/proposals/{proposal_id}/confirm", operation_id = "confirm_reconciliation_model", tag = "reconciliation",
    params(("model" = String, Path, description = "SHA-256 of the model's file in hexadecimal"), ("proposal_id" = String, Path, description = "The proposal"),
        ("Idempotency-Key" = String, Header, description = "Drawn by you for this request and kept for its repeats", max_length = 255)),
    responses((status = 200, description = "In force from the next run on", body = ModelProposalBody), crate::openapi::Refusals))]
pub(crate) async fn confirm(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(ids): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer {
    answer(&gateway, &caller, &ids, &headers, Verdict::Confirmed).await
}

/// Reject what was proposed: the model in force stays
#[utoipa::path(post, path = "/v1/reconciliation-models/{model}/proposals/{proposal_id}/reject", operation_id = "reject_reconciliation_model", tag = "reconciliation",
    params(("model" = String, Path, description = "SHA-256 of the model's file in hexadecimal"), ("proposal_id" = String, Path, description = "The proposal"),
        ("Idempotency-Key" = String, Header, description = "Drawn by you for this request and kept for its repeats", max_length = 255)),
    responses((status = 200, description = "Rejected", body = ModelProposalBody), crate::openapi::Refusals))]
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
    (model, proposal_id): &(String, String),
    headers: &HeaderMap,
    verdict: Verdict,
) -> Answer {
    only_operators(caller)?;
    let sha256 = read_model(model).map_err(Refusal::parameter)?;
    let id = ModelProposalId::parse(proposal_id).map_err(Refusal::parameter)?;
    let ids = [model.as_str(), proposal_id.as_str()];
    keyed::answer_proposal(gateway, (caller, headers), [CONFIRM, REJECT], &ids, verdict, async |tx| {
        let (given, shipped) = ((verdict, caller.client_id()), gateway.parts.shipped_model.as_str());
        let answered = promotion::answer(tx, (&sha256, id), given, shipped, gateway.now()).await?;
        shown(&answered.map_err(refused)?)
    })
    .await
}

fn refused(why: PromotionRefusal) -> Refusal {
    let conflict = |detail: &str| Refusal::new(ErrorCode::Conflict).detail(detail);
    match why {
        PromotionRefusal::Unknown => Refusal::new(ErrorCode::NotFound),
        PromotionRefusal::AlreadyProposed => {
            conflict("a model is proposed already: it has to be confirmed or rejected first")
        }
        PromotionRefusal::InForce => conflict("the model is in force"),
        PromotionRefusal::OtherChampion => conflict(
            "another model is in force than the one it was compared with: reject what is proposed, and compare with that one",
        ),
        PromotionRefusal::NotCompared => {
            conflict("a model that was never in force is proposed with its comparison")
        }
        PromotionRefusal::Answered => conflict("it was confirmed or rejected already"),
        PromotionRefusal::SamePerson => Refusal::new(ErrorCode::SecondPerson),
    }
}

fn shown(proposal: &ModelProposal) -> Result<ModelProposalBody, Refusal> {
    let verdict = proposal.verdict.as_ref();
    let comparison = proposal.comparison.as_ref().map(ModelComparison::deserialize).transpose();
    Ok(ModelProposalBody {
        id: proposal.id.to_string(),
        model: proposal.model.clone(),
        champion: proposal.champion.clone(),
        comparison: comparison.map_err(|error| {
            tracing::error!(%error, proposal = %proposal.id, "a stored comparison is not what we write");
            Refusal::new(ErrorCode::Internal)
        })?,
        reason: proposal.reason.clone(),
        state: verdict.map_or("proposed", |given| given.verdict.as_str()),
        proposed_by: proposal.proposed_by.clone(),
        proposed_at: show_instant(proposal.proposed_at),
        answered_by: verdict.map(|given| given.by.clone()),
        answered_at: verdict.map(|given| show_instant(given.at)),
    })
}
