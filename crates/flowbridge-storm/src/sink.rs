//! The receiver of webhooks: checks each signature with an independent library and remembers what it was told first when.
//! It stands behind a line of the network that can go wrong like any other, and each endpoint has manners of its own.

use crate::proxy::{Proxy, Upstream};
use crate::stage::{Stage, Story};
use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use flowbridge_domain::id::PaymentId;
use serde_json::Value;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;

/// What is wrong with deliveries is kept up to this many times.
const WRONG_MAX: usize = 1_000;

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
    /// Sends whoever delivers somewhere else.
    Redirects,
}

#[derive(Debug, Default)]
struct Endpoint {
    manner: Manner,
    secret: String,
    /// By payment: the states that were told, in the order in which each event was told first; events by the hash of
    /// their id.
    told: BTreeMap<PaymentId, Vec<(u64, Stage)>>,
    deliveries: u64,
}

#[derive(Debug, Default)]
struct Ears {
    endpoints: BTreeMap<String, Endpoint>,
    wrong: Vec<String>,
}

/// The receiver; it serves until the process ends.
#[derive(Debug, Clone)]
pub(crate) struct Sink {
    ears: Arc<Mutex<Ears>>,
    /// The way to it.
    pub(crate) line: Arc<Proxy>,
}

impl Sink {
    pub(crate) async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let line = Proxy::tcp(Upstream::Tcp(listener.local_addr()?.port())).await?;
        let sink = Self { ears: Arc::default(), line };
        let router = Router::new().route("/{endpoint}", post(receive)).with_state(sink.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(sink)
    }

    pub(crate) fn url(&self, endpoint: &str) -> String {
        format!("http://{}/{endpoint}", self.line.authority())
    }

    /// Opens an endpoint whose deliveries are signed with this secret.
    pub(crate) fn expect(&self, endpoint: &str, secret: &str) {
        self.with(|ears| ears.endpoints.entry(endpoint.to_owned()).or_default().secret = secret.to_owned());
    }

    /// All endpoints behave like this from now on.
    pub(crate) fn behave(&self, manner: Manner) {
        self.with(|ears| ears.endpoints.values_mut().for_each(|endpoint| endpoint.manner = manner));
    }

    /// One endpoint does.
    pub(crate) fn behave_at(&self, name: &str, manner: Manner) {
        self.with(|ears| {
            if let Some(endpoint) = ears.endpoints.get_mut(name) {
                endpoint.manner = manner;
            }
        });
    }

    /// What an endpoint was told of a payment.
    pub(crate) fn story(&self, endpoint: &str, payment: PaymentId) -> Story {
        self.with(|ears| {
            let told = ears.endpoints.get(endpoint).and_then(|endpoint| endpoint.told.get(&payment));
            told.into_iter().flatten().map(|(_, stage)| *stage).collect()
        })
    }

    /// What was wrong about what was told.
    pub(crate) fn wrong(&self) -> Vec<String> {
        self.with(|ears| ears.wrong.clone())
    }

    /// Deliveries taken in, repeats included: of one endpoint, or of all.
    pub(crate) fn deliveries(&self, of: Option<&str>) -> u64 {
        self.with(|ears| {
            let counted = ears.endpoints.iter().filter(|(name, _)| of.is_none_or(|of| of == name.as_str()));
            counted.map(|(_, endpoint)| endpoint.deliveries).sum()
        })
    }

    fn with<T>(&self, look: impl FnOnce(&mut Ears) -> T) -> T {
        look(&mut self.ears.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn take_in(&self, endpoint: &str, headers: &HeaderMap, body: &[u8]) -> Result<()> {
        let secret = self.with(|ears| ears.endpoints.get(endpoint).map(|known| known.secret.clone()));
        let secret = secret.context("an unknown endpoint")?;
        standardwebhooks::Webhook::new(&secret)?.verify(body, headers).context("the signature is wrong")?;
        let envelope: Value = serde_json::from_slice(body)?;
        let text = |name: &str| envelope.get(name).and_then(Value::as_str).unwrap_or_default();
        let id = headers.get("webhook-id").context("no webhook-id")?;
        let mut hasher = DefaultHasher::new();
        id.as_bytes().hash(&mut hasher);
        let event = hasher.finish();
        let payment = PaymentId::parse(text("subject"))?;
        let stage = Stage::parse(text("type")).with_context(|| format!("a kind {:?}", text("type")))?;
        self.with(|ears| {
            let endpoint = ears.endpoints.entry(endpoint.to_owned()).or_default();
            endpoint.deliveries += 1;
            let told = endpoint.told.entry(payment).or_default();
            if !told.iter().any(|(known, _)| *known == event) {
                told.push((event, stage));
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
) -> Response {
    let manner = sink.with(|ears| ears.endpoints.get(&endpoint).map_or(Manner::Polite, |known| known.manner));
    match manner {
        Manner::Broken => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Manner::Redirects => {
            let elsewhere = [(header::LOCATION, "/elsewhere")];
            return (StatusCode::TEMPORARY_REDIRECT, elsewhere).into_response();
        }
        Manner::Polite | Manner::Slow(_) | Manner::Liar => {}
    }
    if let Err(error) = sink.take_in(&endpoint, &headers, &body) {
        sink.with(|ears| {
            if ears.wrong.len() < WRONG_MAX {
                ears.wrong.push(format!("a delivery to {endpoint}: {error:#}"));
            }
        });
        return StatusCode::BAD_REQUEST.into_response();
    }
    match manner {
        Manner::Slow(late) => tokio::time::sleep(late).await,
        Manner::Liar => return StatusCode::BAD_GATEWAY.into_response(),
        Manner::Polite | Manner::Broken | Manner::Redirects => {}
    }
    StatusCode::NO_CONTENT.into_response()
}
