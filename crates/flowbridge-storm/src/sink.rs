//! The receiver of webhooks: checks each signature with an independent library and remembers what it was told first when.
//! Each endpoint stands behind a line of its own, over HTTPS, that can go wrong like any other, and has manners of its own.
//!
//! Each delivery says its place among those of its payment. What is told for the first time has to have a later one than all
//! that was told before, whatever was repeated meanwhile.

use crate::proxy::{Proxy, Upstream};
use crate::stage::{Stage, Story};
use crate::tls::{CertificateAuthority, Distrust, Identity};
use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use flowbridge_domain::id::PaymentId;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
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
    /// 500 for whatever tells of a payment that is no newer than this one.
    BrokenUpTo(PaymentId),
    /// Answers after this long, having taken the delivery in.
    Slow(Duration),
    /// Takes the delivery in, and says that it did not.
    Liar,
    /// Sends whoever delivers somewhere else.
    Redirects,
    /// Shows a certificate that nobody trusts.
    Untrusted,
}

#[derive(Debug, Default)]
struct Endpoint {
    manner: Manner,
    secret: String,
    told: BTreeMap<PaymentId, Told>,
    deliveries: u64,
    /// Requests that met it when it was not polite.
    met: u64,
    /// Those of them that told what had been told before.
    repeats: u64,
}

/// What one endpoint was told of one payment.
#[derive(Debug, Default)]
struct Told {
    /// The states, in the order in which each event was told first; events by the hash of their id.
    events: Vec<(u64, Stage)>,
    /// The place of the latest of them.
    latest: Place,
}

/// The place of an event among those of its payment, as a delivery says it: a later one is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Place(u64, u64);

impl Place {
    /// Two numbers of twenty digits, so that texts compare as the numbers do.
    fn parse(text: &str) -> Option<Self> {
        let number = |digits: &str| {
            let is_whole = digits.len() == PLACE_DIGITS;
            digits.parse::<u64>().ok().filter(|_| is_whole)
        };
        let (transaction, within) = text.split_once('-')?;
        Some(Self(number(transaction)?, number(within)?))
    }
}

/// The digits of each of the two numbers of a place.
const PLACE_DIGITS: usize = 20;

/// A delivery: of which event, by the hash of its id, which state it tells, and its place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heard {
    pub(crate) event: u64,
    pub(crate) stage: Stage,
    pub(crate) place: Place,
}

/// How much an endpoint has heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    /// Events, each once.
    pub(crate) events: usize,
    /// How often it was told one of any payment again.
    pub(crate) repeats: u64,
}

/// All that was heard.
#[derive(Debug, Default)]
pub(crate) struct Ears {
    endpoints: BTreeMap<String, Endpoint>,
    wrong: Vec<String>,
}

impl Ears {
    /// Takes in what an endpoint was told of a payment. Nothing new is learnt from a repeat.
    pub(crate) fn hear(&mut self, endpoint: &str, payment: PaymentId, heard: Heard) {
        let known = self.endpoints.entry(endpoint.to_owned()).or_default();
        known.deliveries += 1;
        let told = known.told.entry(payment).or_default();
        if told.events.iter().any(|(event, _)| *event == heard.event) {
            known.repeats += 1;
            return;
        }
        told.events.push((heard.event, heard.stage));
        let latest = told.latest;
        told.latest = latest.max(heard.place);
        if heard.place <= latest {
            let Heard { stage, place, .. } = heard;
            self.complain(format!(
                "{endpoint} was told {stage:?} of {payment} at {place:?}, behind {latest:?} that it had heard"
            ));
        }
    }

    /// What an endpoint was told of a payment.
    pub(crate) fn story(&self, endpoint: &str, payment: PaymentId) -> Story {
        let told = self.endpoints.get(endpoint).and_then(|endpoint| endpoint.told.get(&payment));
        told.into_iter().flat_map(|told| &told.events).map(|(_, stage)| *stage).collect()
    }

    /// How much each endpoint has heard; events of some payments are left out.
    pub(crate) fn tallies(&self, left_out: &BTreeSet<PaymentId>) -> BTreeMap<String, Tally> {
        let tally = |endpoint: &Endpoint| {
            let counted = endpoint.told.iter().filter(|(payment, _)| !left_out.contains(payment));
            Tally { events: counted.map(|(_, told)| told.events.len()).sum(), repeats: endpoint.repeats }
        };
        self.endpoints.iter().map(|(name, endpoint)| (name.clone(), tally(endpoint))).collect()
    }

    /// What was wrong about what was told.
    pub(crate) fn wrong(&self) -> &[String] {
        &self.wrong
    }

    fn complain(&mut self, what: String) {
        if self.wrong.len() < WRONG_MAX {
            self.wrong.push(what);
        }
    }
}

/// The receiver; it serves until the process ends.
#[derive(Debug, Clone)]
pub(crate) struct Sink {
    ears: Arc<Mutex<Ears>>,
    doors: Arc<BTreeMap<String, Door>>,
}

/// The way to one endpoint.
#[derive(Debug)]
struct Door {
    line: Arc<Proxy>,
    identity: Arc<Identity>,
}

impl Sink {
    /// With these endpoints, certified by `authority`.
    pub(crate) async fn start(authority: &CertificateAuthority, endpoints: &[&str]) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let server = Upstream::Tcp(listener.local_addr()?.port());
        let mut doors = BTreeMap::new();
        for endpoint in endpoints {
            let identity = Arc::new(authority.identify()?);
            let line = Proxy::tls(server.clone(), Arc::clone(&identity)).await?;
            doors.insert((*endpoint).to_owned(), Door { line, identity });
        }
        let sink = Self { ears: Arc::default(), doors: Arc::new(doors) };
        let router = Router::new().route("/{endpoint}", post(receive)).with_state(sink.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(sink)
    }

    pub(crate) fn url(&self, endpoint: &str) -> Result<String> {
        Ok(format!("https://{}/{endpoint}", self.line(endpoint)?.authority()))
    }

    /// The way to an endpoint.
    pub(crate) fn line(&self, endpoint: &str) -> Result<&Proxy> {
        Ok(&self.door(endpoint)?.line)
    }

    /// What came of it that an endpoint was [`Manner::Untrusted`].
    pub(crate) fn distrust(&self, endpoint: &str) -> Result<Distrust> {
        Ok(self.door(endpoint)?.identity.distrust())
    }

    fn door(&self, endpoint: &str) -> Result<&Door> {
        self.doors.get(endpoint).with_context(|| format!("no endpoint {endpoint}"))
    }

    /// Opens an endpoint whose deliveries are signed with this secret.
    pub(crate) fn expect(&self, endpoint: &str, secret: &str) {
        self.with(|ears| ears.endpoints.entry(endpoint.to_owned()).or_default().secret = secret.to_owned());
    }

    /// All endpoints behave like this from now on.
    pub(crate) fn behave(&self, manner: Manner) {
        self.doors.keys().for_each(|name| self.behave_at(name, manner));
    }

    /// One endpoint does.
    pub(crate) fn behave_at(&self, name: &str, manner: Manner) {
        self.with(|ears| {
            if let Some(endpoint) = ears.endpoints.get_mut(name) {
                endpoint.manner = manner;
            }
        });
        if let Some(Door { line, identity }) = self.doors.get(name) {
            identity.show_untrusted(manner == Manner::Untrusted);
            if manner == Manner::Untrusted {
                // Whoever is connected has looked at the certificate already, and would not look again.
                line.cut();
            }
        }
    }

    /// What an endpoint was told of a payment.
    pub(crate) fn story(&self, endpoint: &str, payment: PaymentId) -> Story {
        self.with(|ears| ears.story(endpoint, payment))
    }

    /// What was wrong about what was told.
    pub(crate) fn wrong(&self) -> Vec<String> {
        self.with(|ears| ears.wrong().to_vec())
    }

    /// Deliveries taken in, repeats included: of one endpoint, or of all.
    pub(crate) fn deliveries(&self, of: Option<&str>) -> u64 {
        self.with(|ears| {
            let counted = ears.endpoints.iter().filter(|(name, _)| of.is_none_or(|of| of == name.as_str()));
            counted.map(|(_, endpoint)| endpoint.deliveries).sum()
        })
    }

    /// Requests that met an endpoint when it was not polite.
    pub(crate) fn met(&self, endpoint: &str) -> u64 {
        self.with(|ears| ears.endpoints.get(endpoint).map_or(0, |known| known.met))
    }

    /// Looks at all that was heard; nothing is heard meanwhile.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut Ears) -> T) -> T {
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
        let place = Place::parse(text("sequence"))
            .with_context(|| format!("a sequence {:?} that is no place", text("sequence")))?;
        self.with(|ears| ears.hear(endpoint, payment, Heard { event, stage, place }));
        Ok(())
    }
}

/// Which payment a delivery tells of.
fn subject(body: &[u8]) -> Option<PaymentId> {
    let envelope: Value = serde_json::from_slice(body).ok()?;
    PaymentId::parse(envelope.get("subject")?.as_str()?).ok()
}

async fn receive(
    State(sink): State<Sink>,
    Path(endpoint): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let manner = sink.with(|ears| {
        let Some(known) = ears.endpoints.get_mut(&endpoint) else { return Manner::Polite };
        known.met += u64::from(known.manner != Manner::Polite);
        known.manner
    });
    match manner {
        Manner::Broken => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Manner::Redirects => {
            let elsewhere = [(header::LOCATION, "/elsewhere")];
            return (StatusCode::TEMPORARY_REDIRECT, elsewhere).into_response();
        }
        Manner::BrokenUpTo(last) if subject(&body).is_none_or(|payment| payment <= last) => {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
        Manner::BrokenUpTo(_) | Manner::Polite | Manner::Slow(_) | Manner::Liar | Manner::Untrusted => {}
    }
    if let Err(error) = sink.take_in(&endpoint, &headers, &body) {
        sink.with(|ears| ears.complain(format!("a delivery to {endpoint}: {error:#}")));
        return StatusCode::BAD_REQUEST.into_response();
    }
    match manner {
        Manner::Slow(late) => tokio::time::sleep(late).await,
        Manner::Liar => return StatusCode::BAD_GATEWAY.into_response(),
        Manner::Polite | Manner::Broken | Manner::BrokenUpTo(_) | Manner::Redirects | Manner::Untrusted => {}
    }
    StatusCode::NO_CONTENT.into_response()
}

#[cfg(test)]
impl Place {
    /// The nth place of a payment.
    pub(crate) const fn nth(nth: u64) -> Self {
        Self(nth, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::{Manner, Place, Sink};
    use crate::proxy::Weather;
    use crate::tls::CertificateAuthority;
    use flowbridge_domain::id::PaymentId;
    use flowbridge_domain::time::Timestamp;
    use reqwest::{Certificate, Client};
    use serde_json::json;
    use std::time::Duration;
    use tokio::time::{sleep, timeout};

    const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

    fn trusting(authority: &CertificateAuthority) -> Client {
        let root = Certificate::from_pem(authority.pem().as_bytes()).unwrap();
        Client::builder().tls_certs_only([root]).build().unwrap()
    }

    /// Delivers the nth event of a payment, as FlowBridge does; the status of the answer.
    async fn deliver(client: &Client, sink: &Sink, endpoint: &str, nth: u64) -> reqwest::Result<u16> {
        let payment = PaymentId::generate(Timestamp::from_secs(1_000), [7; 10]);
        let sequence = format!("{nth:020}-{nth:020}");
        let body = json!({ "subject": payment.to_string(), "type": "payment.held", "sequence": sequence });
        let (id, now, body) = (format!("event {nth}"), jiff::Timestamp::now().as_second(), body.to_string());
        let signature = standardwebhooks::Webhook::new(SECRET).unwrap().sign(&id, now, body.as_bytes());
        let request = client
            .post(sink.url(endpoint).unwrap())
            .header("webhook-id", id)
            .header("webhook-timestamp", now)
            .header("webhook-signature", signature.unwrap())
            .body(body);
        Ok(request.send().await?.status().as_u16())
    }

    async fn until(what: impl Fn() -> bool) {
        let seen = async {
            while !what() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(10), seen).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_endpoint_is_told_nothing_while_its_certificate_is_wrong_and_the_other_everything() {
        let authority = CertificateAuthority::new("a test").unwrap();
        let sink = Sink::start(&authority, &["alpha", "beta"]).await.unwrap();
        sink.expect("alpha", SECRET);
        sink.expect("beta", SECRET);
        let client = trusting(&authority);
        assert_eq!(deliver(&client, &sink, "alpha", 1).await.unwrap(), 204);
        let stranger = trusting(&CertificateAuthority::new("another").unwrap());
        assert!(deliver(&stranger, &sink, "alpha", 2).await.unwrap_err().is_connect());
        assert_eq!(sink.distrust("alpha").unwrap().refused, 0, "that one is not told of as a fault");

        sink.behave_at("alpha", Manner::Untrusted);
        until(|| sink.line("alpha").unwrap().connections() == 0).await;
        // The client may not know yet that its first connection is torn.
        deliver(&client, &sink, "alpha", 2).await.unwrap_err();
        assert!(deliver(&client, &sink, "alpha", 2).await.unwrap_err().is_connect());
        assert_eq!(deliver(&client, &sink, "beta", 1).await.unwrap(), 204);
        until(|| sink.distrust("alpha").unwrap().refused > 0).await;
        assert_eq!(sink.distrust("alpha").unwrap().believed, 0);
        assert_eq!((sink.deliveries(Some("alpha")), sink.deliveries(Some("beta"))), (1, 1));

        sink.behave(Manner::Polite);
        assert_eq!(deliver(&client, &sink, "alpha", 2).await.unwrap(), 204);
        assert_eq!((sink.deliveries(Some("alpha")), sink.wrong()), (2, vec![]));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_line_to_an_endpoint_goes_wrong_inside_tls_and_around_it() {
        let authority = CertificateAuthority::new("a test").unwrap();
        let sink = Sink::start(&authority, &["alpha"]).await.unwrap();
        sink.expect("alpha", SECRET);
        let line = sink.line("alpha").unwrap();
        line.set(Weather::Status(503));
        assert_eq!(deliver(&trusting(&authority), &sink, "alpha", 1).await.unwrap(), 503);
        line.set(Weather::Refuse);
        assert!(deliver(&trusting(&authority), &sink, "alpha", 1).await.unwrap_err().is_connect());
        line.set(Weather::Stall);
        let client = trusting(&authority);
        let silent = timeout(Duration::from_millis(300), deliver(&client, &sink, "alpha", 1)).await;
        silent.unwrap_err();
        line.set(Weather::Fair);
        assert_eq!(deliver(&client, &sink, "alpha", 1).await.unwrap(), 204);
        assert_eq!((sink.deliveries(None), sink.wrong()), (1, vec![]));
    }

    #[test]
    fn a_place_is_read_as_a_delivery_writes_it_and_compares_as_its_text() {
        let write = |transaction: u64, within: u64| format!("{transaction:020}-{within:020}");
        let places = [(1, 7), (1, 8), (9, 1), (10, 0)];
        let texts = places.map(|(transaction, within)| write(transaction, within));
        let read = places.map(|(transaction, within)| Place::parse(&write(transaction, within)));
        assert_eq!(read, places.map(|(transaction, within)| Some(Place(transaction, within))));
        assert!(texts.is_sorted() && read.is_sorted());
        for wrong in ["", "1-7", "00000000000000000001", "0000000000000000000x-00000000000000000007"] {
            assert_eq!(Place::parse(wrong), None, "{wrong}");
        }
    }
}
