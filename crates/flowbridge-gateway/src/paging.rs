//! Pages of rows that have an id: at most `limit` of them, whether there are more, and where those begin.
//!
//! The cursor is one that only we can make, for this caller and these filters; anything else is refused rather than shown a
//! page nobody asked for.

use crate::Gateway;
use crate::answer::{Answer, Refusal, json};
use crate::caller::Caller;
use axum::http::{HeaderValue, StatusCode, header};
use flowbridge_api::problem::ErrorCode;
use flowbridge_domain::id::ParticipantId;
use flowbridge_security::cursor::QueryDigest;
use serde::Serialize;
use url::form_urlencoded;
use uuid::Uuid;

/// Rows of a page when none are asked for, and at most.
const LIMIT: i64 = 25;
const LIMIT_MAX: i64 = 100;

/// Which page is asked for.
#[derive(Debug)]
pub(crate) struct Paging<'a> {
    gateway: &'a Gateway,
    viewer: Option<ParticipantId>,
    path: &'a str,
    filters: &'a [(&'a str, &'a str)],
    digest: QueryDigest,
    limit: i64,
    /// The last row of the page before.
    pub(crate) position: Option<Uuid>,
}

/// What follows a page.
#[derive(Debug)]
pub(crate) struct Next {
    pub(crate) has_more: bool,
    pub(crate) cursor: Option<String>,
    link: Option<HeaderValue>,
}

impl<'a> Paging<'a> {
    /// The page of `path` with these filters, of which the empty ones are not given.
    pub(crate) fn new(
        gateway: &'a Gateway,
        caller: &Caller,
        (path, filters): (&'a str, &'a [(&'a str, &'a str)]),
        (limit, cursor): (Option<i64>, Option<&str>),
    ) -> Result<Self, Refusal> {
        let (viewer, digest) = (caller.participant(), QueryDigest::new(path, filters));
        let open = |cursor: &str| {
            let position = gateway.parts.cursors.open(cursor, digest, viewer).ok()?;
            Uuid::from_slice(&position).ok()
        };
        let position =
            cursor.map(|cursor| open(cursor).ok_or_else(|| Refusal::new(ErrorCode::InvalidCursor)));
        Ok(Self {
            gateway,
            viewer,
            path,
            filters,
            digest,
            limit: page_limit(limit)?,
            position: position.transpose()?,
        })
    }

    /// One row more than the page has, to know whether there is more.
    pub(crate) fn rows_max(&self) -> i64 {
        self.limit + 1
    }

    /// Cuts what was found to the page.
    pub(crate) fn cut<T>(&self, found: &mut Vec<T>, id: impl Fn(&T) -> Uuid) -> Next {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let has_more = found.len() > limit;
        found.truncate(limit);
        let last = found.last().filter(|_| has_more).map(id);
        let cursor = last.map(|id| self.gateway.parts.cursors.seal(id.as_bytes(), self.digest, self.viewer));
        let link = cursor.as_deref().and_then(|cursor| self.link(cursor));
        Next { has_more, cursor, link }
    }

    /// The next page as RFC 8288 has it.
    fn link(&self, cursor: &str) -> Option<HeaderValue> {
        let given = self.filters.iter().filter(|(_, value)| !value.is_empty());
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("limit", &self.limit.to_string())
            .extend_pairs(given)
            .append_pair("cursor", cursor)
            .finish();
        HeaderValue::from_str(&format!("<{}?{query}>; rel=\"next\"", self.path)).ok()
    }
}

impl Next {
    /// The answer with a page, and where the next one is in its header too.
    pub(crate) fn answer<T: Serialize>(self, page: &T) -> Answer {
        let mut response = json(StatusCode::OK, page)?;
        if let Some(link) = self.link {
            response.headers_mut().insert(header::LINK, link);
        }
        Ok(response)
    }
}

/// How many rows are asked for.
pub(crate) fn page_limit(limit: Option<i64>) -> Result<i64, Refusal> {
    let limit = limit.unwrap_or(LIMIT);
    if (1..=LIMIT_MAX).contains(&limit) {
        return Ok(limit);
    }
    Err(Refusal::new(ErrorCode::InvalidParameter).detail("limit is 1 to 100"))
}
