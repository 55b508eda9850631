//! Statements and reconciliations: taken in, asked for, followed, and their reports. For operators: a run covers everybody.

use crate::Gateway;
use crate::answer::{Answer, Refusal, json};
use crate::caller::{Caller, JsonBody, read_body};
use crate::keyed;
use crate::paging::Paging;
use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::IntoResponse as _;
use axum::routing::{get, post};
use flowbridge_api::payment::show_instant;
use flowbridge_api::problem::ErrorCode;
use flowbridge_api::reconciliation::read_ask;
use flowbridge_domain::id::{ReconciliationId, StatementId};
use flowbridge_domain::party::BankCode;
use flowbridge_domain::time::Timestamp;
use flowbridge_security::scope::Scope;
use flowbridge_store::reconciliation::{self as rows, Run};
use flowbridge_store::statement::{self, TakenStatement};
use flowbridge_store::wake::Work;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

const STATEMENTS: &str = "/v1/statements";
const RUNS: &str = "/v1/reconciliations";
const NAME_CHARS_MAX: usize = 200;

/// A statement file that an operator brings.
#[derive(Debug, Clone)]
pub struct StatementUpload {
    /// Whose.
    pub bank: BankCode,
    /// What the file is called.
    pub name: String,
    /// The client who brings it.
    pub by: String,
    /// How CSV is to be read.
    pub mapping: Option<String>,
    /// Its contents.
    pub file: Vec<u8>,
}

/// Why a statement is refused.
#[derive(Debug, Clone)]
pub enum StatementRefusal {
    /// It cannot be read.
    Unreadable(String),
    /// It contradicts itself.
    DoesNotAddUp(String),
    /// Another of that name is here.
    NamedAlready(String),
    /// The bank's statements come another way.
    OtherSource(String),
    /// There is no such bank.
    UnknownBank,
    /// Not now.
    Unavailable,
}

/// What came of an upload: the statements, and whether the same file was here before.
pub type UploadOutcome = Result<(Vec<TakenStatement>, bool), StatementRefusal>;

/// Takes statement files in. Injected, because reading them is another crate's affair.
pub type StatementIntake =
    Arc<dyn Fn(StatementUpload) -> Pin<Box<dyn Future<Output = UploadOutcome> + Send>> + Send + Sync>;

pub(crate) fn router() -> Router<Gateway> {
    Router::new()
        .route(RUNS, get(list).post(ask))
        .route("/v1/reconciliations/{id}", get(show))
        .route("/v1/reconciliations/{id}/report", get(report))
}

pub(crate) fn upload_router() -> Router<Gateway> {
    Router::new().route(STATEMENTS, post(upload).get(list_statements))
}

/// Only our own people: a run covers every participant.
pub(crate) fn only_operators(caller: &Caller) -> Result<(), Refusal> {
    caller.require(Scope::Operator)?;
    if caller.participant().is_some() {
        return Err(Refusal::new(ErrorCode::Forbidden).detail("only operators reconcile"));
    }
    Ok(())
}

/// What is uploaded
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct UploadQuery {
    /// The bank whose statement it is
    #[param(max_length = 32)]
    bank: String,
    /// What the file is called
    #[param(max_length = 200)]
    name: Option<String>,
    /// For CSV: how its columns are read, as JSON (docs/RECONCILIATION-OPERATIONS.md)
    #[param(max_length = 4000)]
    mapping: Option<String>,
}

/// A statement that was taken in
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StatementBody {
    /// Its id.
    id: String,
    bank: String,
    /// `api`, `folder` or `connector`.
    channel: String,
    /// `camt`, `mt940`, `bai2`, `ofx`, `csv` or `connector`.
    format: String,
    /// The file.
    name: String,
    /// The bank's own id of it.
    bank_statement_id: String,
    account: String,
    currency: String,
    sequence: Option<i64>,
    /// Minor units.
    opening: Option<i64>,
    /// Minor units.
    closing: Option<i64>,
    closes_on: Option<String>,
    #[schema(format = DateTime)]
    as_of: Option<String>,
    lines: i32,
    /// Lines that equal an earlier one: counted, and kept.
    repeated: i32,
    /// Lines that another statement of the day had told: counted, and kept.
    already_held: i32,
    /// What its opening differed by, when it came, from the closing before: a statement was missing between them.
    gap: Option<i64>,
    received_by: String,
    #[schema(format = DateTime)]
    received_at: String,
}

/// What was taken in
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UploadBody {
    data: Vec<StatementBody>,
    /// The same file was here: nothing changed.
    repeat: bool,
}

/// A page of statements, newest first
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StatementPage {
    data: Vec<StatementBody>,
    /// There are more after the last one.
    has_more: bool,
    /// Where they begin.
    next_cursor: Option<String>,
}

/// Take a bank's statement in
#[utoipa::path(post, path = "/v1/statements", operation_id = "upload_statement", tag = "reconciliation", params(UploadQuery),
    request_body(content = String, content_type = "application/octet-stream", description = "The file as the bank gave it: camt.052/053/054, MT940/942, BAI2, OFX, or CSV with a mapping"),
    responses((status = 201, description = "Taken in", body = UploadBody),
        (status = 200, description = "The same file was here: nothing changed", body = UploadBody), crate::openapi::Refusals))]
pub(crate) async fn upload(
    State(gateway): State<Gateway>,
    caller: Caller,
    Query(query): Query<UploadQuery>,
    request: Request,
) -> Answer {
    only_operators(&caller)?;
    let invalid = |why: String| Refusal::new(ErrorCode::InvalidParameter).detail(why);
    let bank = BankCode::parse(&query.bank).map_err(|error| invalid(error.to_string()))?;
    let name = query.name.unwrap_or_default();
    if name.chars().count() > NAME_CHARS_MAX || name.chars().any(char::is_control) {
        return Err(invalid(format!("name has at most {NAME_CHARS_MAX} printable characters")));
    }
    let file = read_body(request, &gateway).await?.to_vec();
    let by = caller.client_id().to_owned();
    let upload = StatementUpload { bank, name, by, mapping: query.mapping, file };
    let (statements, repeat) = (gateway.parts.statements)(upload).await.map_err(refused)?;
    let status = if repeat { StatusCode::OK } else { StatusCode::CREATED };
    json(status, &UploadBody { data: statements.iter().map(shown_statement).collect(), repeat })
}

fn refused(why: StatementRefusal) -> Refusal {
    match why {
        StatementRefusal::Unreadable(detail) => Refusal::new(ErrorCode::StatementUnreadable).detail(detail),
        StatementRefusal::DoesNotAddUp(detail) => {
            Refusal::new(ErrorCode::StatementDoesNotAddUp).detail(detail)
        }
        StatementRefusal::NamedAlready(detail) => {
            Refusal::new(ErrorCode::StatementNamedAlready).detail(detail)
        }
        StatementRefusal::OtherSource(detail) => Refusal::new(ErrorCode::StatementSource).detail(detail),
        StatementRefusal::UnknownBank => Refusal::new(ErrorCode::NotFound).detail("there is no such bank"),
        StatementRefusal::Unavailable => Refusal::new(ErrorCode::Unavailable),
    }
}

/// Which statements
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct StatementsQuery {
    /// Only of this bank
    bank: Option<String>,
    /// 1 to 100; 25 if it is not given
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
    /// `next_cursor` of the page before
    cursor: Option<String>,
}

/// List statements, newest first
#[utoipa::path(get, path = "/v1/statements", operation_id = "list_statements", tag = "reconciliation", params(StatementsQuery),
    responses((status = 200, description = "A page of statements", body = StatementPage), crate::openapi::Refusals))]
pub(crate) async fn list_statements(
    State(gateway): State<Gateway>,
    caller: Caller,
    Query(query): Query<StatementsQuery>,
) -> Answer {
    only_operators(&caller)?;
    let filters = [("bank", query.bank.as_deref().unwrap_or_default())];
    let paging =
        Paging::new(&gateway, &caller, (STATEMENTS, &filters), (query.limit, query.cursor.as_deref()))?;
    let (db, bank) = (&gateway.parts.db, query.bank.as_deref());
    let mut found = statement::list(db, bank, paging.position, paging.rows_max()).await?;
    let next = paging.cut(&mut found, |statement| StatementId::as_uuid(&statement.id));
    let data = found.iter().map(shown_statement).collect();
    let page = StatementPage { data, has_more: next.has_more, next_cursor: next.cursor.clone() };
    next.answer(&page)
}

fn shown_statement(taken: &TakenStatement) -> StatementBody {
    StatementBody {
        id: taken.id.to_string(),
        bank: taken.bank.clone(),
        channel: taken.channel.clone(),
        format: taken.format.clone(),
        name: taken.name.clone(),
        bank_statement_id: taken.bank_statement_id.clone(),
        account: taken.account.clone(),
        currency: taken.currency.clone(),
        sequence: taken.sequence,
        opening: taken.opening,
        closing: taken.closing,
        closes_on: taken.closes_on.clone(),
        as_of: taken.as_of.map(show_instant),
        lines: taken.lines,
        repeated: taken.repeated,
        already_held: taken.already_held,
        gap: taken.gap,
        received_by: taken.received_by.clone(),
        received_at: show_instant(taken.received_at),
    }
}

/// A reconciliation
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RunBody {
    /// Its id.
    id: String,
    /// A bank's code, or `chain:EUR`.
    scope: String,
    /// `nightly` or `asked`.
    kind: String,
    /// The day that it is for.
    day: String,
    /// `asked`, `running`, `done` or `failed`.
    state: String,
    /// What it is at.
    stage: String,
    attempts: i32,
    asked_by: String,
    #[schema(format = DateTime)]
    asked_at: String,
    #[schema(format = DateTime)]
    started_at: Option<String>,
    #[schema(format = DateTime)]
    finished_at: Option<String>,
    /// Why it did not succeed.
    cause: Option<String>,
    /// The instant of the statement that was compared.
    #[schema(format = DateTime)]
    as_of: Option<String>,
    /// The hash of all that went in: the same hash is the same report.
    manifest_sha256: Option<String>,
    /// What it found, in figures.
    #[schema(value_type = Object)]
    summary: Option<Value>,
    /// When its reports came into the archive.
    #[schema(format = DateTime)]
    archived_at: Option<String>,
}

/// Reconciliations that were asked for
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AskedBody {
    data: Vec<AskedRun>,
}

/// A reconciliation that was asked for
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AskedRun {
    /// Its id.
    id: String,
    /// A bank's code, or `chain:EUR`.
    scope: String,
    /// `asked`.
    state: &'static str,
}

/// A page of reconciliations, newest first
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RunPage {
    data: Vec<RunBody>,
    /// There are more after the last one.
    has_more: bool,
    /// Where they begin.
    next_cursor: Option<String>,
}

/// Ask for reconciliations, of one bank, of the chain, or of everything
#[utoipa::path(post, path = "/v1/reconciliations", operation_id = "ask_reconciliation", tag = "reconciliation",
    request_body = flowbridge_api::reconciliation::AskReconciliationBody,
    params(("Idempotency-Key" = String, Header, description = "Drawn by you for this request and kept for its repeats", max_length = 255)),
    responses((status = 202, description = "Asked for: follow each by its id", body = AskedBody), crate::openapi::Refusals))]
pub(crate) async fn ask(
    State(gateway): State<Gateway>,
    caller: Caller,
    headers: HeaderMap,
    body: JsonBody,
) -> Answer {
    only_operators(&caller)?;
    let key = caller.keyed(&headers, ("POST", RUNS), &[], &body.bytes)?;
    let wanted = read_ask(&body.value)?;
    let mut scopes = rows::scopes(&gateway.parts.db).await?;
    if let Some(wanted) = &wanted {
        scopes.retain(|scope| scope == wanted);
        if scopes.is_empty() {
            return Err(Refusal::new(ErrorCode::NotFound)
                .detail("there is no such bank, and no such currency on chain"));
        }
    }
    let now = gateway.now();
    let day = show_instant(now).chars().take(10).collect::<String>();
    let made = keyed::Made { status: StatusCode::ACCEPTED, collection: RUNS, is_secret: false };
    let answer = keyed::once(&gateway, &key, made, async |tx| {
        let asked = rows::ask(tx, &scopes, (false, &day), caller.client_id(), now).await?;
        let shown =
            |(scope, id): (String, ReconciliationId)| AskedRun { id: id.to_string(), scope, state: "asked" };
        Ok(AskedBody { data: asked.into_iter().map(shown).collect() })
    })
    .await;
    gateway.parts.wake.ring(Work::Reconciliations);
    answer
}

/// Which reconciliations
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RunsQuery {
    /// Only of this bank, or `chain:EUR`
    scope: Option<String>,
    /// 1 to 100; 25 if it is not given
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
    /// `next_cursor` of the page before
    cursor: Option<String>,
}

/// List reconciliations, newest first
#[utoipa::path(get, path = "/v1/reconciliations", operation_id = "list_reconciliations", tag = "reconciliation", params(RunsQuery),
    responses((status = 200, description = "A page of reconciliations", body = RunPage), crate::openapi::Refusals))]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    caller: Caller,
    Query(query): Query<RunsQuery>,
) -> Answer {
    only_operators(&caller)?;
    let filters = [("scope", query.scope.as_deref().unwrap_or_default())];
    let paging = Paging::new(&gateway, &caller, (RUNS, &filters), (query.limit, query.cursor.as_deref()))?;
    let (db, scope) = (&gateway.parts.db, query.scope.as_deref());
    let mut found = rows::list(db, scope, paging.position, paging.rows_max()).await?;
    let next = paging.cut(&mut found, |run| ReconciliationId::as_uuid(&run.id));
    let data = found.into_iter().map(shown_run).collect();
    let page = RunPage { data, has_more: next.has_more, next_cursor: next.cursor.clone() };
    next.answer(&page)
}

/// Read a reconciliation
#[utoipa::path(get, path = "/v1/reconciliations/{id}", operation_id = "get_reconciliation", tag = "reconciliation",
    params(("id" = String, Path, description = "The reconciliation")),
    responses((status = 200, description = "How far it is, and what it found", body = RunBody), crate::openapi::Refusals))]
pub(crate) async fn show(State(gateway): State<Gateway>, caller: Caller, Path(id): Path<String>) -> Answer {
    only_operators(&caller)?;
    let run = rows::get(&gateway.parts.db, read_id(&id)?).await?;
    let run = run.ok_or_else(|| Refusal::new(ErrorCode::NotFound))?;
    json(StatusCode::OK, &shown_run(run))
}

/// Which form
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ReportQuery {
    /// `html`, `json`, `matches_csv`, `breaks_csv`, `pdf` or `camt`; `html` if it is not given
    format: Option<String>,
}

const FORMATS: [(&str, &str); 6] = [
    ("html", "text/html; charset=utf-8"),
    ("json", "application/json"),
    ("matches_csv", "text/csv; charset=utf-8"),
    ("breaks_csv", "text/csv; charset=utf-8"),
    ("pdf", "application/pdf"),
    ("camt", "application/xml"),
];

/// Read the report of a reconciliation
#[utoipa::path(get, path = "/v1/reconciliations/{id}/report", operation_id = "get_reconciliation_report", tag = "reconciliation",
    params(("id" = String, Path, description = "The reconciliation"), ReportQuery),
    responses((status = 200, description = "The report, as it was made with the run", content((String = "text/html"), (String = "application/json"), (String = "text/csv"), (String = "application/pdf"), (String = "application/xml"))),
        crate::openapi::Refusals))]
pub(crate) async fn report(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<ReportQuery>,
) -> Answer {
    only_operators(&caller)?;
    let wanted = query.format.as_deref().unwrap_or("html");
    let (format, kind) = FORMATS.into_iter().find(|(format, _)| *format == wanted).ok_or_else(|| {
        Refusal::new(ErrorCode::InvalidParameter)
            .detail("format is html, json, matches_csv, breaks_csv, pdf or camt")
    })?;
    let body = rows::report(&gateway.parts.db, read_id(&id)?, format).await?;
    let body = body.ok_or_else(|| {
        Refusal::new(ErrorCode::NotFound).detail("there is no such reconciliation, or it is not done")
    })?;
    let mut response = body.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // A page of ours that shows what others wrote runs nothing.
    response.headers_mut().insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; img-src data:"),
    );
    Ok(response)
}

fn read_id(id: &str) -> Result<ReconciliationId, Refusal> {
    ReconciliationId::parse(id).map_err(Refusal::parameter)
}

fn shown_run(run: Run) -> RunBody {
    let at = |at: Option<Timestamp>| at.map(show_instant);
    RunBody {
        id: run.id.to_string(),
        scope: run.scope,
        kind: run.kind,
        day: run.day,
        state: run.state,
        stage: run.stage,
        attempts: run.attempts,
        asked_by: run.asked_by,
        asked_at: show_instant(run.asked_at),
        started_at: at(run.started_at),
        finished_at: at(run.finished_at),
        cause: run.cause,
        as_of: at(run.as_of),
        manifest_sha256: run.manifest_sha256,
        summary: run.summary,
        archived_at: at(run.archived_at),
    }
}
