//! Who calls, what it may do, and under which key.

use crate::Gateway;
use crate::allowance::StandingSlot;
use crate::answer::{Refusal, Trace};
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use flowbridge_api::json;
use flowbridge_api::problem::{ErrorCode, Fault};
use flowbridge_domain::id::ParticipantId;
use flowbridge_security::fingerprint::{IdempotencyKey, RequestIdentity};
use flowbridge_security::scope::Scope;
use flowbridge_security::sha256;
use flowbridge_security::token::{AccessClaims, bearer};
use flowbridge_store::accept::KeyedRequest;
use flowbridge_store::webhook::EndpointOwner;
use serde_json::Value;
use std::sync::Arc;

/// A signed-in caller.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    claims: Arc<AccessClaims>,
    pub(crate) trace: Trace,
    standing: StandingSlot,
}

impl Caller {
    /// Refuses a caller without the scope.
    pub(crate) fn require(&self, scope: Scope) -> Result<(), Refusal> {
        self.claims.require(scope).map_err(|_| {
            Refusal::new(ErrorCode::Forbidden).detail(format!("the scope {} is required", scope.name()))
        })
    }

    /// Whose data it may see; none for an operator of ours, who sees all.
    pub(crate) fn participant(&self) -> Option<ParticipantId> {
        self.claims.participant
    }

    /// Whose webhook endpoints it may see and change: its participant's, or those of the operator.
    pub(crate) fn endpoint_owner(&self) -> Result<EndpointOwner, Refusal> {
        match self.claims.participant {
            Some(participant) => Ok(EndpointOwner::Participant(participant)),
            None => self.require(Scope::Operator).map(|()| EndpointOwner::Operator),
        }
    }

    pub(crate) fn client_id(&self) -> &str {
        &self.claims.client_id
    }

    /// Refuses a caller whose allowance has no room for what it asks for beyond one request.
    pub(crate) fn take_more(&self, gateway: &Gateway, more: usize) -> Result<(), Refusal> {
        let taken = gateway.allowances.take_more(&self.claims.client_id, more, &self.standing);
        taken.map_err(|_| Refusal::new(ErrorCode::QuotaExceeded))
    }

    /// The key of a request that changes something, with what it is a key for.
    pub(crate) fn keyed(
        &self,
        headers: &HeaderMap,
        (method, route): (&str, &str),
        path_params: &[&str],
        body: &[u8],
    ) -> Result<KeyedRequest, Refusal> {
        let mut given = headers.get_all("idempotency-key").iter();
        let invalid = || Refusal::new(ErrorCode::IdempotencyKey);
        let first = given.next().ok_or_else(invalid)?;
        if given.next().is_some() {
            return Err(invalid().detail("there is more than one"));
        }
        let key =
            IdempotencyKey::parse(first.as_bytes()).map_err(|error| invalid().detail(error.to_string()))?;
        let body_digest = sha256(body);
        let identity =
            RequestIdentity { method, route, path_params, body_digest, client_id: self.client_id() };
        Ok(KeyedRequest {
            client_id: self.client_id().to_owned(),
            route: format!("{method} {route}"),
            key: key.as_str().to_owned(),
            fingerprint: identity.fingerprint(),
        })
    }
}

impl FromRequestParts<Gateway> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, Refusal> {
        let (trace, slot) =
            (parts.extensions.get::<Trace>().copied(), parts.extensions.get::<StandingSlot>().cloned());
        let (trace, standing) = trace.zip(slot).ok_or_else(|| Refusal::new(ErrorCode::Internal))?;
        let refused = || Refusal::new(ErrorCode::Unauthenticated);
        let header = parts.headers.get(header::AUTHORIZATION).ok_or_else(refused)?;
        let token = header.to_str().ok().and_then(bearer).ok_or_else(refused)?;
        let claims = gateway
            .parts
            .verifier
            .verify(token, gateway.now())
            .map_err(|error| refused().detail(error.to_string()))?;
        let taken = gateway.allowances.take(&claims.client_id, &standing);
        taken.map_err(|_| Refusal::new(ErrorCode::QuotaExceeded))?;
        Ok(Self { claims, trace, standing })
    }
}

/// A body that is declared as JSON, as it came and as it reads.
#[derive(Debug)]
pub(crate) struct JsonBody {
    pub(crate) bytes: Bytes,
    pub(crate) value: Value,
}

impl FromRequest<Gateway> for JsonBody {
    type Rejection = Refusal;

    async fn from_request(request: Request, gateway: &Gateway) -> Result<Self, Refusal> {
        if media_type(request.headers()) != "application/json" {
            return Err(Refusal::new(ErrorCode::UnsupportedMediaType));
        }
        let bytes = read_body(request, gateway).await?;
        let value = json::parse(&bytes).map_err(|fault: Fault| Refusal::from(vec![fault]))?;
        Ok(Self { bytes, value })
    }
}

/// The declared type of a body in lower case, without parameters; empty when there is none.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The body as it came.
pub(crate) async fn read_body(request: Request, gateway: &Gateway) -> Result<Bytes, Refusal> {
    Bytes::from_request(request, gateway).await.map_err(|rejection: BytesRejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            let code = ErrorCode::TooLarge;
            Refusal::new(code).errors(vec![Fault::new("", code.code(), "the body as a whole")])
        } else {
            Refusal::new(ErrorCode::InvalidRequest).detail("the body broke off")
        }
    })
}
