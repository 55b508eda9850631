//! The receiver of webhooks: checks each signature with an independent library and remembers what it was told first when.

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;

/// How the receiver behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Manner {
    /// 204 at once.
    #[default]
    Polite,
    /// 500 for everything.
    Broken,
    /// Answers after this long, having taken the delivery in.
    Slow(Duration),
    /// Takes the delivery in, and says that it did not.
    Liar,
}

#[derive(Debug, Default)]
struct Told {
    manner: Manner,
    secrets: BTreeMap<String, String>,
    /// Per endpoint and payment: kinds of events in the order in which they were first told.
    kinds: BTreeMap<(String, String), Vec<String>>,
    events: HashSet<(String, String)>,
    deliveries: u64,
    wrong: Vec<String>,
}

/// What an endpoint was told about a payment, in order.
pub(crate) type Stories = BTreeMap<(String, String), Vec<String>>;

/// The receiver; it serves until the process ends.
#[derive(Debug, Clone)]
pub(crate) struct Sink {
    told: Arc<Mutex<Told>>,
    port: u16,
}

impl Sink {
    pub(crate) async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let sink = Self { told: Arc::default(), port: listener.local_addr()?.port() };
        let router = Router::new().route("/{endpoint}", post(receive)).with_state(sink.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(sink)
    }

    pub(crate) fn url(&self, endpoint: &str) -> String {
        format!("http://127.0.0.1:{}/{endpoint}", self.port)
    }

    pub(crate) fn expect(&self, endpoint: &str, secret: &str) {
        self.with(|told| told.secrets.insert(endpoint.to_owned(), secret.to_owned()));
    }

    pub(crate) fn behave(&self, manner: Manner) {
        self.with(|told| told.manner = manner);
    }

    /// Everything told so far, and what was wrong about it.
    pub(crate) fn stories(&self) -> (Stories, Vec<String>) {
        self.with(|told| (told.kinds.clone(), told.wrong.clone()))
    }

    /// Deliveries taken in, repeats included.
    pub(crate) fn deliveries(&self) -> u64 {
        self.with(|told| told.deliveries)
    }

    fn with<T>(&self, look: impl FnOnce(&mut Told) -> T) -> T {
        look(&mut self.told.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn take_in(&self, endpoint: &str, headers: &HeaderMap, body: &[u8]) -> Result<()> {
        let secret = self.with(|told| told.secrets.get(endpoint).cloned()).context("an unknown endpoint")?;
        standardwebhooks::Webhook::new(&secret)?.verify(body, headers).context("the signature is wrong")?;
        let envelope: Value = serde_json::from_slice(body)?;
        let text = |name: &str| envelope.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let id =
            headers.get("webhook-id").and_then(|id| id.to_str().ok()).context("no webhook-id")?.to_owned();
        self.with(|told| {
            told.deliveries += 1;
            if told.events.insert((endpoint.to_owned(), id)) {
                told.kinds.entry((endpoint.to_owned(), text("subject"))).or_default().push(text("type"));
            }
        });
        Ok(())
    }
}

async fn receive(
    State(sink): State<Sink>,
    Path(endpoint): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let manner = sink.with(|told| told.manner);
    if manner == Manner::Broken {
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    if let Err(error) = sink.take_in(&endpoint, &headers, &body) {
        sink.with(|told| told.wrong.push(format!("a delivery to {endpoint}: {error:#}")));
        return StatusCode::BAD_REQUEST;
    }
    match manner {
        Manner::Slow(late) => tokio::time::sleep(late).await,
        Manner::Liar => return StatusCode::BAD_GATEWAY,
        Manner::Polite | Manner::Broken => {}
    }
    StatusCode::NO_CONTENT
}
