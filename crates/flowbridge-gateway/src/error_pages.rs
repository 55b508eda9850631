//! The pages that problems link to: what each code means and what to do. They are compiled in, so that the program explains
//! exactly the refusals that it makes.

use crate::Gateway;
use crate::answer::{Answer, Refusal};
use axum::Router;
use axum::extract::Path;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use flowbridge_api::problem::{ErrorCode, PAGES};

pub(crate) fn router() -> Router<Gateway> {
    Router::new().route(PAGES, get(all)).route("/errors/{code}", get(one))
}

/// What an error code means and what to do
#[utoipa::path(get, path = "/errors/{code}", operation_id = "get_error_page", tag = "errors", security(()),
    params(("code" = String, Path, description = "As in the type of a problem", example = "FB1001")),
    responses((status = 200, description = "The page", body = String, content_type = "text/html"),
        (status = 400, description = "The request cannot be read", body = flowbridge_api::problem::Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such code", body = flowbridge_api::problem::Problem, content_type = "application/problem+json")))]
pub(crate) async fn one(Path(number): Path<String>) -> Answer {
    let code = ErrorCode::ALL.iter().find(|code| code.number() == number);
    Ok(page(code.ok_or_else(|| Refusal::new(ErrorCode::NotFound))?.page()).into_response())
}

/// All codes, for whoever shortens the address.
async fn all() -> impl IntoResponse {
    let lines = ErrorCode::ALL.iter().map(|code| {
        format!(
            "| [{number}]({PAGES}{number}) | {} | `{}` | {} |\n",
            code.status(),
            code.code(),
            code.title(),
            number = code.number()
        )
    });
    page(&format!(
        "# Errors\n\n| page | status | code | title |\n| --- | --- | --- | --- |\n{}",
        lines.collect::<String>()
    ))
}

fn page(markdown: &str) -> impl IntoResponse + use<> {
    let mut html =
        String::from("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>FlowBridge</title>\n");
    let options = pulldown_cmark::Options::ENABLE_TABLES;
    pulldown_cmark::html::push_html(&mut html, pulldown_cmark::Parser::new_ext(markdown, options));
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'"),
        (header::CACHE_CONTROL, "public, max-age=3600"),
    ];
    (headers, html)
}
