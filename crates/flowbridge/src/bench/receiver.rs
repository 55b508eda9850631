//! The partners' side: an endpoint for each institution, which checks every signature and notes every end in the journal.

use super::cast::PARTICIPANTS;
use super::journal::{End, Journal};
use super::load::number_of;
use super::stack::Stack;
use crate::client::{ApiClient, new_key};
use crate::clock::SystemClock;
use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use flowbridge_domain::time::Clock as _;
use flowbridge_security::webhook::{ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, Verifier};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::task::JoinHandle;

/// Endpoints that are registered and served.
pub(super) struct Receiver {
    shared: Arc<Shared>,
    server: JoinHandle<()>,
    registered: Vec<(ApiClient, String)>,
}

struct Shared {
    journal: Arc<Journal>,
    run: String,
    verifiers: OnceLock<Vec<Verifier>>,
    unbelieved: AtomicUsize,
}

/// As much of an event as matters here.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    data: Payment<'a>,
}

#[derive(Deserialize)]
struct Payment<'a> {
    end_to_end_id: Option<&'a str>,
    debtor: Party<'a>,
}

#[derive(Deserialize)]
struct Party<'a> {
    participant_id: &'a str,
}

impl Receiver {
    /// Serves an endpoint for each institution and registers it for the ends of payments. `run` is what their references begin
    /// with; others are not ours.
    pub(super) async fn start(stack: &Stack, journal: Arc<Journal>, run: &str) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let unbelieved = AtomicUsize::new(0);
        let shared =
            Arc::new(Shared { journal, run: run.to_owned(), verifiers: OnceLock::new(), unbelieved });
        let router = Router::new().route("/hooks/{participant}", post(receive)).with_state(shared.clone());
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the webhook receiver failed");
            }
        });
        let mut registered = Vec::new();
        let mut verifiers = Vec::new();
        for (place, name) in PARTICIPANTS.iter().enumerate() {
            let client = stack.client(name)?;
            let body = json!({
                "url": format!("http://{address}/hooks/{place}"),
                "event_kinds": ["payment.completed", "payment.failed"],
            });
            let path = "/v1/webhook-endpoints";
            let made = client.call("POST", path, Some(&body), Some(&new_key())).await?.success()?;
            let text =
                |name| made.get(name).and_then(Value::as_str).context("an endpoint without id or secret");
            verifiers.push(Verifier::parse(text("secret")?).context("the endpoint's secret")?);
            registered.push((client, text("id")?.to_owned()));
        }
        let _ = shared.verifiers.set(verifiers);
        Ok(Self { shared, server, registered })
    }

    /// Deliveries whose signature did not fit, or which could not be read.
    pub(super) fn unbelieved(&self) -> usize {
        self.shared.unbelieved.load(Ordering::Relaxed)
    }

    /// Takes the endpoints away again.
    pub(super) async fn end(self) -> Result<()> {
        for (client, id) in &self.registered {
            let path = format!("/v1/webhook-endpoints/{id}");
            client.call("DELETE", &path, None, Some(&new_key())).await?.success()?;
        }
        self.server.abort();
        Ok(())
    }
}

async fn receive(
    State(shared): State<Arc<Shared>>,
    Path(endpoint): Path<usize>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    if shared.note(endpoint, &headers, &body).is_some() {
        return StatusCode::NO_CONTENT;
    }
    shared.unbelieved.fetch_add(1, Ordering::Relaxed);
    StatusCode::BAD_REQUEST
}

impl Shared {
    fn note(&self, endpoint: usize, headers: &HeaderMap, body: &[u8]) -> Option<()> {
        let header = |name| headers.get(name)?.to_str().ok();
        let (id, at, signatures) = (header(ID_HEADER)?, header(TIMESTAMP_HEADER)?, header(SIGNATURE_HEADER)?);
        let verifier = self.verifiers.get()?.get(endpoint)?;
        verifier.verify(id, at, signatures, body, SystemClock.now()).ok()?;
        let event: Event<'_> = serde_json::from_slice(body).ok()?;
        let end = match event.kind {
            "payment.completed" => End::Completed,
            "payment.failed" => End::Failed,
            _ => return None,
        };
        // Of another run, or another client of the same institution.
        let Some(number) = event.data.end_to_end_id.and_then(|id| number_of(&self.run, id)) else {
            return Some(());
        };
        let debtor = super::cast::participants().get(endpoint)?.to_string();
        self.journal.ended(number, endpoint, event.data.debtor.participant_id == debtor, end);
        Some(())
    }
}
