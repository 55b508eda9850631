//! The delivery loop: claim, send, record; over and over, with many deliveries under way at once.
//!
//! Sending happens in tasks of their own, so a receiver that takes its time holds up its own deliveries only, and no more of
//! them than it may have at once. Several of them together could still take every place that there is: the last places are kept
//! for endpoints to which nothing is under way, and whoever has the least under way is served first. Results are recorded as
//! they come in, all that have come together in one transaction. A result that could not be recorded is kept and tried again;
//! if the process dies first, the lease runs out and the receiver hears the event again, under the same id.

use super::health::{Answer, Patience, learn};
use super::message;
use super::resolver::GuardedResolver;
use super::seal::OpenedKeys;
use crate::context::{Context, RESTING_POLL, RESTS_AFTER, Rhythm, Turn, Worker, chain, run_loop};
use flowbridge_api::trace::{STEP, TRACEPARENT, TraceParent};
use flowbridge_domain::id::{PaymentId, WebhookEndpointId};
use flowbridge_domain::time::Timestamp;
use flowbridge_security::egress::{EgressPolicy, EgressRefused};
use flowbridge_security::sealing::{OpenError, SealingKeys};
use flowbridge_security::webhook::{EndpointKeys, ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER};
use flowbridge_store::StoreError;
use flowbridge_store::event_data::EventData;
use flowbridge_store::event_log::{self, NewEvent, topic};
use flowbridge_store::wake::Work;
use flowbridge_store::webhook::{
    self as store, Attempt, ClaimRequest, ClaimedDelivery, DeliveryNext, DeliveryResult, EndpointHealth,
    EndpointOwner,
};
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Client, StatusCode};
use rustls::CertificateError;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// Limits and habits of the delivery loop.
#[derive(Debug, Clone)]
pub struct DeliverySettings {
    /// Who we are in events: the CloudEvents `source`, our public URL.
    pub source: String,
    /// How long a receiver may take to answer.
    pub timeout: Duration,
    /// Deliveries under way at once, over all endpoints.
    pub in_flight_max: usize,
    /// Of these, so many places are kept for endpoints to which nothing is under way.
    pub in_flight_reserved: usize,
    /// Deliveries under way at once to one endpoint, in this process.
    pub in_flight_per_endpoint_max: i64,
    /// How long to wait before each attempt; the first wait is counted from the event. Its length is the number of attempts.
    pub schedule: Vec<Duration>,
    /// Each wait is prolonged by up to so many percent, by chance, so that retries do not come in step.
    pub jitter_percent_max: u32,
    /// When an endpoint is left alone.
    pub patience: Patience,
    /// Where deliveries may go.
    pub egress: EgressPolicy,
    /// How much of an answer is read, to be able to use its connection again. Nothing of it is kept.
    pub response_bytes_max: usize,
    /// How often to look for deliveries that nobody rang for.
    pub poll: Duration,
    /// How far apart turns are at least, so that what has come back meanwhile is recorded together.
    pub pace: Duration,
    /// How long deliveries under way may take to end when the process stops.
    pub drain_max: Duration,
}

impl Default for DeliverySettings {
    fn default() -> Self {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 3_600;
        let schedule =
            [0, 5, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR];
        Self {
            source: "urn:flowbridge".to_owned(),
            timeout: Duration::from_secs(15),
            in_flight_max: 512,
            in_flight_reserved: 64,
            in_flight_per_endpoint_max: 32,
            schedule: schedule.map(Duration::from_secs).to_vec(),
            jitter_percent_max: 20,
            patience: Patience::default(),
            egress: EgressPolicy::default(),
            response_bytes_max: 64 * 1024,
            poll: Duration::from_millis(200),
            pace: Duration::from_millis(10),
            drain_max: Duration::from_secs(20),
        }
    }
}

/// The settings cannot be worked with.
#[derive(Debug, thiserror::Error)]
#[error("webhooks: the HTTP client cannot be set up")]
pub struct ClientError(#[source] reqwest::Error);

/// How much longer than the time-out a claim lasts.
const LEASE_MARGIN: Duration = Duration::from_secs(30);

/// How long a receiver may take to accept a connection.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(5);

/// Sends deliveries, and keeps those that are under way.
#[derive(Debug)]
pub struct Deliverer {
    context: Context,
    sender: Arc<Sender>,
    under_way: JoinSet<Sent>,
    endpoints: HashMap<Id, WebhookEndpointId>,
    unrecorded: Vec<Sent>,
}

/// What every attempt needs.
#[derive(Debug)]
struct Sender {
    settings: DeliverySettings,
    sealing: Arc<SealingKeys>,
    opened: OpenedKeys,
    client: Client,
}

/// An attempt that is over.
#[derive(Debug)]
struct Sent {
    claimed: ClaimedDelivery,
    attempt: Attempt,
    answer: Answer,
}

/// A deliverer at work until it is told to stop.
struct Delivering<'a> {
    deliverer: &'a mut Deliverer,
    stop: &'a CancellationToken,
}

impl Worker for Delivering<'_> {
    async fn turn(&mut self) -> Result<Turn, StoreError> {
        self.deliverer.turn(self.stop).await
    }
}

impl Deliverer {
    /// Prepares the HTTP client.
    pub fn new(
        context: Context,
        settings: DeliverySettings,
        sealing: Arc<SealingKeys>,
    ) -> Result<Self, ClientError> {
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(settings.timeout)
            .connect_timeout(settings.timeout.min(CONNECT_TIMEOUT_MAX))
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(usize::try_from(settings.in_flight_per_endpoint_max).unwrap_or(1))
            .tcp_nodelay(true)
            .user_agent(concat!("FlowBridge/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Arc::new(GuardedResolver(settings.egress.clone())))
            .build()
            .map_err(ClientError)?;
        let sender = Sender { client, settings, sealing, opened: OpenedKeys::default() };
        Ok(Self {
            context,
            sender: Arc::new(sender),
            under_way: JoinSet::new(),
            endpoints: HashMap::new(),
            unrecorded: Vec::new(),
        })
    }

    /// Runs until told to stop, then waits for what is under way.
    pub async fn run(mut self, stop: CancellationToken) {
        let context = self.context.clone();
        let DeliverySettings { poll, pace, .. } = self.sender.settings;
        let rhythm = Rhythm {
            bell: Work::Deliveries,
            poll,
            rests_after: RESTS_AFTER,
            resting_poll: RESTING_POLL,
            pace,
        };
        let mut delivering = Delivering { deliverer: &mut self, stop: &stop };
        run_loop("webhooks.deliver", &context, rhythm, &stop, &mut delivering).await;
        if tokio::time::timeout(self.sender.settings.drain_max, self.finish()).await.is_err() {
            tracing::warn!(
                deliveries = self.under_way.len(),
                "stopped before every receiver had answered; they will hear again"
            );
        }
    }

    /// Sends everything that is due at this instant, and all that becomes due with it. For tests and tools.
    pub async fn run_due(&mut self) -> Result<usize, StoreError> {
        let mut sent = 0usize;
        loop {
            sent = sent.saturating_add(self.claim().await?);
            let Some(first) = self.under_way.join_next_with_id().await else { return Ok(sent) };
            self.collect(first);
            self.record().await?;
        }
    }

    async fn turn(&mut self, stop: &CancellationToken) -> Result<Turn, StoreError> {
        // First what has come back since the last turn, so that its places are free for what is claimed now.
        if let Some(first) = self.under_way.try_join_next_with_id() {
            self.collect(first);
        }
        self.record().await?;
        self.claim().await?;
        if self.under_way.is_empty() && self.unrecorded.is_empty() {
            return Ok(Turn::Idle);
        }
        tokio::select! {
            Some(first) = self.under_way.join_next_with_id() => self.collect(first),
            () = self.context.wake.wait(Work::Deliveries, self.sender.settings.poll) => {}
            () = stop.cancelled() => {}
        }
        self.record().await?;
        Ok(Turn::Busy)
    }

    async fn finish(&mut self) {
        while let Some(first) = self.under_way.join_next_with_id().await {
            self.collect(first);
            if let Err(error) = self.record().await {
                tracing::warn!(
                    error = chain(&error),
                    "could not record deliveries while stopping; their receivers will hear again"
                );
            }
        }
    }

    /// Claims what is due, as far as there is room, and begins to send it.
    async fn claim(&mut self) -> Result<usize, StoreError> {
        let settings = &self.sender.settings;
        let room = settings.in_flight_max.saturating_sub(self.under_way.len());
        if room == 0 {
            return Ok(0);
        }
        let mut in_flight: BTreeMap<WebhookEndpointId, i64> = BTreeMap::new();
        for endpoint in self.endpoints.values() {
            *in_flight.entry(*endpoint).or_default() += 1;
        }
        let request = ClaimRequest {
            slice_max: i64::try_from(room).unwrap_or(i64::MAX),
            reserved: i64::try_from(settings.in_flight_reserved).unwrap_or(i64::MAX),
            in_flight_per_endpoint_max: settings.in_flight_per_endpoint_max,
            unanswered_until_one_at_a_time: settings.patience.unanswered_until_pause,
            in_flight: &in_flight,
            lease: settings.timeout.saturating_add(LEASE_MARGIN),
        };
        let claimed = store::claim(&self.context.db, &request, self.context.now()).await?;
        let count = claimed.len();
        for claimed in claimed {
            let endpoint = claimed.endpoint;
            let sender = Arc::clone(&self.sender);
            let context = self.context.clone();
            let task = self.under_way.spawn(async move { sender.send(claimed, &context).await });
            self.endpoints.insert(task.id(), endpoint);
        }
        Ok(count)
    }

    /// Takes this result, and all others that are there already.
    fn collect(&mut self, first: Result<(Id, Sent), JoinError>) {
        let mut next = Some(first);
        while let Some(result) = next {
            match result {
                Ok((id, sent)) => {
                    self.endpoints.remove(&id);
                    self.unrecorded.push(sent);
                }
                Err(error) => {
                    self.endpoints.remove(&error.id());
                    tracing::error!(
                        error = chain(&error),
                        "a delivery ended without a result; it is sent again when its lease runs out"
                    );
                }
            }
            next = self.under_way.try_join_next_with_id();
        }
    }

    /// Records all results that are in, in one transaction with what they mean for their endpoints.
    async fn record(&mut self) -> Result<(), StoreError> {
        if self.unrecorded.is_empty() {
            return Ok(());
        }
        match self.write(&self.unrecorded).await {
            Err(error) if error.is_retryable() => return Err(error),
            Err(error) => {
                // Trying the same again would fail the same: the leases run out, and the receivers hear again.
                self.unrecorded.clear();
                return Err(error);
            }
            Ok(()) => {}
        }
        for sent in self.unrecorded.drain(..) {
            metrics::counter!("webhook_attempts_total", "outcome" => sent.answer.as_str()).increment(1);
            metrics::histogram!("webhook_attempt_seconds", "outcome" => sent.answer.as_str())
                .record(Duration::from_millis(sent.attempt.latency_ms.unsigned_abs()).as_secs_f64());
        }
        Ok(())
    }

    async fn write(&self, sent: &[Sent]) -> Result<(), StoreError> {
        let settings = &self.sender.settings;
        let now = self.context.now();
        let troubled: BTreeSet<WebhookEndpointId> = sent
            .iter()
            .filter(|sent| sent.answer != Answer::Delivered || sent.claimed.endpoint_fails)
            .map(|sent| sent.claimed.endpoint)
            .collect();

        let tx = self.context.db.begin().await?;
        let mut healths = Vec::new();
        if !troubled.is_empty() {
            healths = store::lock_health(&tx, &Vec::from_iter(troubled)).await?;
        }
        let result = |sent: &Sent| sent.result(sent.is_of_before(&healths), settings, now);
        let results: Vec<DeliveryResult> = sent.iter().map(result).collect();
        let ours = store::record(&tx, &results, now).await?;
        let (mut disabled, mut reasons) = (Vec::new(), Vec::new());
        healths.retain(|health| health.disabled_reason.is_none());
        if !healths.is_empty() {
            for health in &mut healths {
                let (endpoint, address) = (health.id, health.address_version);
                let mine = sent.iter().zip(&results).filter(|(sent, _)| {
                    sent.claimed.endpoint == endpoint && sent.claimed.address_version == address
                });
                for (sent, result) in mine.filter(|(_, result)| ours.contains(&result.id)) {
                    let was_active = health.disabled_reason.is_none();
                    learn(
                        health,
                        sent.answer,
                        result.next == DeliveryNext::Exhausted,
                        &settings.patience,
                        now,
                    );
                    if let (true, Some(reason)) = (was_active, &health.disabled_reason) {
                        disabled.push(disabled_event(&sent.claimed, health.owner, reason, now));
                        reasons.push((endpoint, reason.clone()));
                    }
                }
            }
            store::save_health(&tx, &healths, now).await?;
            event_log::append(&tx, &disabled, now).await?;
        }
        tx.commit().await?;

        for result in results.iter().filter(|result| ours.contains(&result.id)) {
            match result.next {
                DeliveryNext::Delivered => {
                    metrics::counter!("webhook_deliveries_total", "outcome" => "delivered").increment(1)
                }
                DeliveryNext::Exhausted => {
                    metrics::counter!("webhook_deliveries_total", "outcome" => "exhausted").increment(1)
                }
                DeliveryNext::Again(_) => {}
            }
        }
        for (endpoint, reason) in reasons {
            metrics::counter!("webhook_endpoints_disabled_total").increment(1);
            tracing::warn!(endpoint.id = %endpoint, reason, "disabled a webhook endpoint");
            self.context.wake.ring(Work::PaymentEvents);
        }
        Ok(())
    }
}

/// Tells the log, and with it the owner's other endpoints, that one was disabled.
fn disabled_event(last: &ClaimedDelivery, owner: EndpointOwner, reason: &str, now: Timestamp) -> NewEvent {
    NewEvent {
        topic: topic::WEBHOOKS,
        // Keys of the log are UUIDs of payments everywhere else; here the endpoint's stands in the same place.
        key: PaymentId::from_uuid(last.endpoint.as_uuid()),
        kind: "webhook_endpoint.disabled".to_owned(),
        participants: Some((owner.id(), owner.id())),
        traceparent: last.event.as_ref().map(|event| event.traceparent.clone()).unwrap_or_default(),
        data: EventData::of(&json!({
            "id": last.endpoint.to_string(),
            "reason": reason,
            "disabled_at": message::rfc3339(now),
        })),
    }
}

impl Sent {
    /// Was it sent to an address that its endpoint no longer has, or before somebody disabled or enabled it?
    fn is_of_before(&self, healths: &[EndpointHealth]) -> bool {
        let mut healths = healths.iter().filter(|health| health.id == self.claimed.endpoint);
        healths.any(|health| health.address_version != self.claimed.address_version)
    }

    /// Where the delivery goes from here.
    fn result(&self, is_of_before: bool, settings: &DeliverySettings, now: Timestamp) -> DeliveryResult {
        let next = match self.answer {
            Answer::Delivered => DeliveryNext::Delivered,
            Answer::Gone if is_of_before => DeliveryNext::Again(now),
            Answer::Gone => DeliveryNext::Exhausted,
            Answer::Refused | Answer::Unanswered | Answer::Throttled(_) => {
                let made = usize::try_from(self.claimed.attempts).unwrap_or(usize::MAX);
                match settings.schedule.get(made) {
                    None => DeliveryNext::Exhausted,
                    Some(wait) => {
                        DeliveryNext::Again(now.plus(with_jitter(*wait, settings.jitter_percent_max)))
                    }
                }
            }
        };
        DeliveryResult { id: self.claimed.id, fence: self.claimed.fence, attempt: self.attempt.clone(), next }
    }
}

/// A wait, prolonged by chance.
fn with_jitter(wait: Duration, percent_max: u32) -> Duration {
    let thousandths = rand::random_range(0..=percent_max.saturating_mul(10));
    wait.saturating_add(wait.saturating_mul(thousandths) / 1_000)
}

impl Sender {
    /// Makes one attempt. Whatever happens is a result.
    async fn send(&self, claimed: ClaimedDelivery, context: &Context) -> Sent {
        let at = context.now();
        let begun = tokio::time::Instant::now();
        let trace = claimed.event.as_ref().and_then(|event| TraceParent::parse(&event.traceparent));
        let span = trace.map(|trace| trace.child(rand::random()));
        let is_about_payment = claimed.event.as_ref().is_none_or(|event| event.topic == topic::PAYMENTS);
        let (answer, status, error) = match self.post(&claimed, at, span).await {
            Ok((status, headers)) => {
                let answer = judge(status, &headers, at);
                let error = (answer != Answer::Delivered).then(|| "refused by the receiver".to_owned());
                (answer, Some(status.as_u16()), error)
            }
            Err(why) => (Answer::Unanswered, None, Some(why)),
        };
        let took = begun.elapsed();
        tracing::debug!(
            target: STEP,
            step = "webhook",
            outcome = answer.as_str(),
            payment.id = is_about_payment.then(|| claimed.subject.to_string()),
            event.id = %claimed.event_id,
            delivery.id = %claimed.id,
            endpoint.id = %claimed.endpoint,
            trace_id = trace.map(|trace| trace.trace_id_hex()),
            parent_span_id = trace.map(|trace| trace.span_id_hex()),
            span_id = span.map(|span| span.span_id_hex()),
            sampled = trace.is_some_and(|trace| trace.sampled),
            started_at_us = at.as_micros(),
            ended_at_us = at.plus(took).as_micros(),
            attempt = claimed.attempts,
            http.status = status,
            error,
            "called a webhook endpoint"
        );
        let latency_ms = i64::try_from(took.as_millis()).unwrap_or(i64::MAX);
        Sent { attempt: Attempt { at, status, error, latency_ms }, claimed, answer }
    }

    /// The keys of today and, while a rotation lasts, those of yesterday.
    fn signing_keys(&self, claimed: &ClaimedDelivery) -> Result<Vec<Arc<EndpointKeys>>, OpenError> {
        let keys = [Some(&claimed.keys), claimed.previous_keys.as_ref()].into_iter().flatten();
        keys.map(|keys| self.opened.open(keys, claimed.endpoint, &self.sealing)).collect()
    }

    /// Posts the event. An error is a phrase for the owner of the endpoint, and tells nothing about our network.
    async fn post(
        &self,
        claimed: &ClaimedDelivery,
        at: Timestamp,
        span: Option<TraceParent>,
    ) -> Result<(StatusCode, HeaderMap), String> {
        let url = self.settings.egress.check_url(&claimed.url).map_err(|error| error.to_string())?;
        let event = claimed.event.as_ref().ok_or("the event is no longer in the log")?;
        let body = message::body(claimed, event, &self.settings.source).map_err(|error| error.to_string())?;
        let id = message::webhook_id(claimed.event_id);
        let keys = self.signing_keys(claimed).map_err(|error| {
            tracing::error!(endpoint.id = %claimed.endpoint, error = chain(&error), "the keys of a webhook endpoint cannot be used");
            "its keys cannot be used at the moment".to_owned()
        })?;
        let attempt = flowbridge_security::webhook::Attempt { id: &id, at, body: &body };
        let signatures = attempt
            .signatures(&keys.iter().map(|keys| &**keys).collect::<Vec<_>>())
            .map_err(|error| error.to_string())?;
        let mut request = self
            .client
            .post(url)
            .header(CONTENT_TYPE, "application/cloudevents+json; charset=utf-8")
            .header(ID_HEADER, &id)
            .header(TIMESTAMP_HEADER, attempt.timestamp())
            .header(SIGNATURE_HEADER, signatures)
            .body(body);
        if let Some(span) = span {
            request = request.header(TRACEPARENT, span.to_string());
        }
        let mut response = request.send().await.map_err(|error| describe(&error))?;
        let answer = (response.status(), std::mem::take(response.headers_mut()));
        let mut read = 0usize;
        // An answer counts from its status on; the body is read so that the connection can be used again.
        while let Ok(Some(bytes)) = response.chunk().await {
            read = read.saturating_add(bytes.len());
            if read > self.settings.response_bytes_max {
                break;
            }
        }
        Ok(answer)
    }
}

/// What a status means. Redirects are refusals: a receiver that moved registers its new address.
fn judge(status: StatusCode, headers: &HeaderMap, now: Timestamp) -> Answer {
    match status.as_u16() {
        200..=299 => Answer::Delivered,
        410 => Answer::Gone,
        429 | 502..=504 => Answer::Throttled(retry_after(headers, now)),
        _ => Answer::Refused,
    }
}

/// `Retry-After` in its two forms (RFC 9110 section 10.2.3): seconds, or a date.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Timestamp::from_micros(date.as_microsecond()).since(now))
}

fn describe(error: &reqwest::Error) -> String {
    if let Some(refused) = cause::<EgressRefused>(error) {
        return refused.to_string();
    }
    if let Some(error) = cause(error) {
        return describe_tls(error).to_owned();
    }
    let what = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "could not connect"
    } else {
        "the connection broke off"
    };
    what.to_owned()
}

/// What is wrong with a receiver's TLS, and what its owner can do about it.
fn describe_tls(error: &rustls::Error) -> &'static str {
    let rustls::Error::InvalidCertificate(flaw) = error else {
        return "no TLS connection came about: TLS 1.2 or 1.3 has to be spoken at this address";
    };
    if matches!(flaw, CertificateError::Expired | CertificateError::ExpiredContext { .. }) {
        "its certificate has expired: renew it"
    } else if matches!(
        flaw,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
    ) {
        "its certificate is for another name: use one for the host of this address"
    } else if matches!(flaw, CertificateError::UnknownIssuer) {
        "its certificate leads to no authority that is trusted here: use another, and send the whole chain"
    } else {
        "its certificate is not valid: replace it"
    }
}

/// The cause of an error that is of this type. An [`std::io::Error`] does not count what it wraps among its sources.
fn cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let next = |&error: &&'a (dyn Error + 'static)| -> Option<&'a (dyn Error + 'static)> {
        match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        }
    };
    std::iter::successors(Some(error), next).find_map(|error| error.downcast_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flaw_of_a_certificate_says_what_to_do() {
        let expected = rustls::pki_types::ServerName::try_from("receiver.example").unwrap();
        for (flaw, what) in [
            (CertificateError::NotValidForName, "use one for the host"),
            (
                CertificateError::NotValidForNameContext { expected, presented: vec![] },
                "use one for the host",
            ),
            (CertificateError::Revoked, "is not valid: replace it"),
        ] {
            let told = describe_tls(&rustls::Error::InvalidCertificate(flaw));
            assert!(told.contains(what), "{told}");
        }
    }

    #[test]
    fn only_two_hundreds_count_as_delivered() {
        for (status, answer) in [
            (200, Answer::Delivered),
            (204, Answer::Delivered),
            (301, Answer::Refused),
            (307, Answer::Refused),
            (400, Answer::Refused),
            (410, Answer::Gone),
            (429, Answer::Throttled(None)),
            (500, Answer::Refused),
            (502, Answer::Throttled(None)),
            (503, Answer::Throttled(None)),
            (504, Answer::Throttled(None)),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(judge(status, &HeaderMap::new(), Timestamp::EPOCH), answer, "{status}");
        }
    }

    #[test]
    fn a_pause_is_asked_for_in_seconds_or_until_a_date() {
        // 1994-11-06T08:49:37Z, the date of the RFC's own examples.
        let now = Timestamp::from_secs(784_111_777 - 30);
        let asked = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            retry_after(&headers, now).map(|pause| pause.as_secs())
        };
        assert_eq!(asked("17"), Some(17));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:37 GMT"), Some(30));
        assert_eq!(asked("Sat, 05 Nov 1994 08:49:37 GMT"), Some(0), "over already");
        assert_eq!(asked("soon"), None);
        assert_eq!(asked("-5"), None);
    }

    #[test]
    fn jitter_prolongs_and_never_hurries() {
        let wait = Duration::from_secs(100);
        for _ in 0..1_000 {
            let prolonged = with_jitter(wait, 20);
            assert!(wait <= prolonged && prolonged <= Duration::from_secs(120), "{prolonged:?}");
        }
        assert_eq!(with_jitter(wait, 0), wait);
    }
}
