//! Several nodes of one chain, of which one is asked.
//!
//! The first endpoint in the configured order that is well is asked; one that fails is left alone for a while, and the same
//! question goes to the next, so that a call fails only when nobody answers. Every endpoint has a circuit: closed (well), open
//! (left alone until an instant), half open (to be tried). [`Endpoints::tend`] looks at all of them: one that serves another chain
//! is never asked; one whose head is behind the others' is asked only if nobody else is well; two that know different blocks
//! at one height raise an alarm, and one that stands alone against a majority is set aside. An endpoint that limits us (HTTP 429)
//! is not asked before it said so.
//!
//! A method that an endpoint's proxy does not allow us (HTTP 403) is nothing against the endpoint: the question goes to the next,
//! and is refused when none allows it.
//!
//! Questions that belong together (a head, its blocks, their logs) have to go to one node: [`Transport::pinned`]. There is no
//! next one for them, so an endpoint that does not allow them is left alone like one that fails.

use crate::bearer::Bearer;
use crate::client::{At, Block, HttpChain};
use crate::error::ChainError;
use crate::rpc::{Http, Transport};
use futures_util::future::join_all;
use serde_json::Value;
use serde_json::value::RawValue;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How to reach one node.
#[derive(Debug, Clone)]
pub struct EndpointConfig {
    /// Its name in logs and metrics.
    pub name: String,
    /// `http://…` or `https://…`.
    pub url: String,
    /// What its proxy wants to see.
    pub token: Option<Bearer>,
}

/// Limits.
#[derive(Debug, Clone, Copy)]
pub struct EndpointSettings {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// A call that takes longer has failed, and goes to the next endpoint.
    pub timeout: Duration,
    /// How often all endpoints are looked at.
    pub look_interval: Duration,
    /// An endpoint whose head is older than the newest head by more is behind.
    pub behind_max: Duration,
}

/// How an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Nobody has seen yet which chain it serves.
    Unseen,
    /// Well.
    Well,
    /// It failed: left alone until then.
    Failing(Instant),
    /// It wants to be left alone until then.
    Limited(Instant),
    /// Its head is behind the others'.
    Behind,
    /// It knows another block than most others.
    Alone,
    /// It serves another chain.
    WrongChain(u64),
}

/// Several nodes of one chain.
#[derive(Debug)]
pub struct Endpoints {
    all: Vec<Arc<Endpoint>>,
    settings: EndpointSettings,
    /// Looks in a row at which endpoints knew different blocks.
    disagreements: Mutex<u32>,
}

#[derive(Debug)]
struct Endpoint {
    name: String,
    chain_id: u64,
    http: Http,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    health: Health,
    failures: u32,
    /// The last time.
    failed_at: Option<Instant>,
}

/// An endpoint that failed is left alone so long, doubled with each failure in a row.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A reorganisation that one node has seen and another has not is over by then.
const DISAGREEMENTS_MIN: u32 = 3;

impl Endpoints {
    /// Knows of all and reaches out to none: each is asked who it is before it is asked anything else.
    pub fn new(endpoints: &[EndpointConfig], settings: EndpointSettings) -> Result<Arc<Self>, ChainError> {
        let all = endpoints
            .iter()
            .map(|config| {
                let http = Http::new(&config.url, config.token.clone(), settings.timeout)?;
                let state = Mutex::new(State { health: Health::Unseen, failures: 0, failed_at: None });
                let (name, chain_id) = (config.name.clone(), settings.chain_id);
                Ok(Arc::new(Endpoint { name, chain_id, http, state }))
            })
            .collect::<Result<Vec<_>, ChainError>>()?;
        Ok(Arc::new(Self { all, settings, disagreements: Mutex::new(0) }))
    }

    /// Reaches out to all. Fails if one serves another chain, or if none answers.
    pub async fn connect(
        endpoints: &[EndpointConfig],
        settings: EndpointSettings,
    ) -> Result<Arc<Self>, ChainError> {
        let endpoints = Self::new(endpoints, settings)?;
        let found = join_all(endpoints.all.iter().map(|endpoint| endpoint.identify())).await;
        for (endpoint, found) in endpoints.all.iter().zip(&found) {
            if let Err(ChainError::Wrong(why)) = found {
                return Err(ChainError::Wrong(format!("{}: {why}", endpoint.name)));
            }
        }
        if found.iter().all(Result::is_err) {
            let why = found.into_iter().find_map(Result::err).map(|error| error.to_string());
            let why = why.unwrap_or_else(|| "chain.endpoints is empty".to_owned());
            return Err(ChainError::Unavailable(format!("no endpoint can be used: {why}")));
        }
        Ok(endpoints)
    }

    /// Looks at all endpoints again and again, for ever.
    pub async fn tend(&self) {
        loop {
            tokio::time::sleep(self.settings.look_interval).await;
            self.look().await;
        }
    }

    /// Looks at all endpoints once.
    pub async fn look(&self) {
        let heads = join_all(self.all.iter().map(|endpoint| endpoint.look())).await;
        let seen: Vec<(&Arc<Endpoint>, Block)> =
            self.all.iter().zip(heads).filter_map(|(endpoint, head)| Some((endpoint, head?))).collect();
        // One that stands alone may be ahead on a chain of its own.
        let followed = seen.iter().filter(|(endpoint, _)| endpoint.state().health != Health::Alone);
        if let Some(newest) = followed.map(|(_, head)| head.time).max() {
            for (endpoint, head) in &seen {
                endpoint.set_behind(newest.since(head.time) > self.settings.behind_max);
            }
        }
        self.compare(&seen).await;
        for endpoint in &self.all {
            let is_well = endpoint.state().health == Health::Well;
            metrics::gauge!("chain_endpoint_up", "endpoint" => endpoint.name.clone()).set(f64::from(is_well));
        }
    }

    /// Do all know the same block at the height that all have? Those at the head are asked at the lowest of their heads, so that one
    /// that is far behind hides no young fork; and everybody is at the lowest of all, because one with a newer head on a chain of its own
    /// makes all the others look as if they were behind.
    async fn compare(&self, seen: &[(&Arc<Endpoint>, Block)]) {
        let level: Vec<_> = seen.iter().filter(|(endpoint, _)| endpoint.is_level()).copied().collect();
        let mut votes = vec![Vote::at_lowest_of(&level).await];
        if level.len() < seen.len() {
            votes.push(Vote::at_lowest_of(seen).await);
        }
        let split = votes.iter().find(|vote| vote.is_split());
        let rounds = {
            let mut rounds = self.disagreements.lock().unwrap_or_else(PoisonError::into_inner);
            *rounds = if split.is_some() { rounds.saturating_add(1) } else { 0 };
            *rounds
        };
        let disagree = rounds >= DISAGREEMENTS_MIN;
        metrics::gauge!("chain_endpoints_disagree").set(f64::from(disagree));
        if let Some(split) = split
            && disagree
        {
            tracing::error!(
                chain.block_number = split.height,
                "endpoints know different blocks at one height; one of them does not follow the chain"
            );
        }
        for (endpoint, _) in votes.iter().flat_map(|vote| &vote.known) {
            let is_alone = votes.iter().any(|vote| vote.is_against_most(endpoint));
            endpoint.set_alone(disagree && is_alone);
        }
    }

    /// Whom to ask, in this order. Those that limit us are left out until they said so.
    fn in_order(&self) -> Vec<&Arc<Endpoint>> {
        let now = Instant::now();
        let mut ranked: Vec<_> =
            self.all.iter().filter_map(|endpoint| Some((endpoint.rank(now)?, endpoint))).collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, endpoint)| endpoint).collect()
    }

    /// How each is, by name.
    pub fn health(&self) -> Vec<(String, Health)> {
        self.all.iter().map(|endpoint| (endpoint.name.clone(), endpoint.state().health.clone())).collect()
    }

    fn nobody(&self) -> ChainError {
        let now = Instant::now();
        let limited = self.all.iter().filter_map(|endpoint| match endpoint.state().health {
            Health::Limited(until) => Some(until.saturating_duration_since(now)),
            Health::Unseen
            | Health::Well
            | Health::Failing(_)
            | Health::Behind
            | Health::Alone
            | Health::WrongChain(_) => None,
        });
        limited.min().map_or_else(
            || ChainError::Unavailable("no endpoint serves this chain".to_owned()),
            ChainError::Limited,
        )
    }
}

/// Which block endpoints know at one height.
struct Vote<'a> {
    height: u64,
    known: Vec<(&'a Arc<Endpoint>, [u8; 32])>,
}

impl<'a> Vote<'a> {
    /// At the lowest of their heads, which all of them have.
    async fn at_lowest_of(voters: &[(&'a Arc<Endpoint>, Block)]) -> Self {
        let height = voters.iter().map(|(_, head)| head.number).min().unwrap_or_default();
        let blocks = join_all(voters.iter().map(|(endpoint, _)| endpoint.block(At::Number(height)))).await;
        let answers = voters.iter().zip(blocks);
        let known = answers.filter_map(|((endpoint, _), block)| Some((*endpoint, block.ok()??.hash)));
        Self { height, known: known.collect() }
    }

    fn is_split(&self) -> bool {
        self.known.windows(2).any(|pair| matches!(pair, [(_, one), (_, other)] if one != other))
    }

    fn is_against_most(&self, endpoint: &Arc<Endpoint>) -> bool {
        let own = self.known.iter().find(|(known, _)| Arc::ptr_eq(known, endpoint));
        let with = |hash: [u8; 32]| self.known.iter().filter(|(_, known)| *known == hash).count();
        own.is_some_and(|(_, hash)| with(*hash) * 2 < self.known.len())
    }
}

#[async_trait::async_trait]
impl Transport for Endpoints {
    async fn ask(&self, method: &'static str, params: Value) -> Result<Box<RawValue>, ChainError> {
        let (mut last, mut forbidden) = (None, None);
        for endpoint in self.in_order() {
            match endpoint.put(method, params.clone()).await {
                Err(error @ ChainError::Forbidden(_)) => {
                    forbidden = Some(ChainError::Refused(error.to_string()));
                }
                Err(error) if is_the_endpoints(&error) => last = Some(error),
                answer => return answer,
            }
        }
        Err(last.or(forbidden).unwrap_or_else(|| self.nobody()))
    }

    /// Most likely it was said by whoever is asked first.
    fn blame(&self, error: &ChainError) {
        if let Some(endpoint) = self.in_order().first() {
            endpoint.failed(error);
        }
    }

    fn pinned(&self) -> Option<Arc<dyn Transport>> {
        self.in_order().first().map(|endpoint| Arc::clone(endpoint) as Arc<dyn Transport>)
    }

    fn each(&self) -> Vec<Arc<dyn Transport>> {
        self.in_order().into_iter().map(|endpoint| Arc::clone(endpoint) as Arc<dyn Transport>).collect()
    }

    fn others(&self) -> Vec<Arc<dyn Transport>> {
        let now = Instant::now();
        let others = self.in_order().into_iter().skip(1);
        let well = others.filter(|endpoint| endpoint.rank(now).is_some_and(|(rank, _)| rank < 2));
        well.map(|endpoint| Arc::new(Beside(Arc::clone(endpoint))) as Arc<dyn Transport>).collect()
    }
}

/// An endpoint that is asked beside another: it may forbid what that one allows.
#[derive(Debug)]
struct Beside(Arc<Endpoint>);

#[async_trait::async_trait]
impl Transport for Beside {
    async fn ask(&self, method: &'static str, params: Value) -> Result<Box<RawValue>, ChainError> {
        self.0.put(method, params).await
    }
}

#[async_trait::async_trait]
impl Transport for Endpoint {
    async fn ask(&self, method: &'static str, params: Value) -> Result<Box<RawValue>, ChainError> {
        let answer = self.put(method, params).await;
        if let Err(error @ ChainError::Forbidden(_)) = &answer {
            self.failed(error);
        }
        answer
    }

    fn blame(&self, error: &ChainError) {
        self.failed(error);
    }
}

/// Does this error say something about the endpoint, and not about the question?
const fn is_the_endpoints(error: &ChainError) -> bool {
    matches!(
        error,
        ChainError::Unavailable(_)
            | ChainError::Limited(_)
            | ChainError::Wrong(_)
            | ChainError::Unreadable(_)
    )
}

impl Endpoint {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks, once it is known which chain this is. What the answer says about the endpoint is remembered; that it does not allow
    /// the question says nothing.
    async fn put(&self, method: &'static str, params: Value) -> Result<Box<RawValue>, ChainError> {
        let is_unseen = self.state().health == Health::Unseen;
        if is_unseen {
            self.identify().await?;
        }
        let answer = self.http.ask(method, params).await;
        match &answer {
            Err(ChainError::Forbidden(_)) => {}
            Err(error) if is_the_endpoints(error) => self.failed(error),
            Ok(_) | Err(_) => self.answered(),
        }
        answer
    }

    /// Lower is asked earlier; none is not asked. Of those that are left alone the one that failed last comes last: whoever asks
    /// one of them only, again and again, comes to each.
    fn rank(&self, now: Instant) -> Option<(u8, Option<Instant>)> {
        let state = self.state();
        match state.health {
            Health::Well => Some((0, None)),
            Health::Behind | Health::Unseen => Some((1, None)),
            Health::Failing(until) if until <= now => Some((1, None)),
            Health::Failing(_) => Some((2, state.failed_at)),
            Health::Alone => Some((3, None)),
            Health::Limited(until) => (until <= now).then_some((1, None)),
            Health::WrongChain(_) => None,
        }
    }

    /// At the head of the chain, as far as is known.
    fn is_level(&self) -> bool {
        matches!(self.state().health, Health::Well | Health::Alone)
    }

    fn failed(&self, error: &ChainError) {
        let (now, mut state) = (Instant::now(), self.state());
        if matches!(state.health, Health::Unseen | Health::WrongChain(_)) {
            return;
        }
        let name = self.name.clone();
        metrics::counter!("chain_endpoint_failures_total", "endpoint" => name).increment(1);
        let was_well = state.health == Health::Well;
        state.failed_at = Some(now);
        if let ChainError::Limited(pause) = error {
            state.health = Health::Limited(now + *pause);
        } else if !matches!(state.health, Health::Failing(until) if until > now) {
            // What fails in a pause was under way before it, or had nobody else to ask: one fault, one failure.
            state.failures = state.failures.saturating_add(1);
            let pause = PAUSE_MIN.saturating_mul(1 << state.failures.saturating_sub(1).min(5)).min(PAUSE_MAX);
            state.health = Health::Failing(now + pause);
        }
        metrics::gauge!("chain_endpoint_up", "endpoint" => self.name.clone()).set(0.0);
        if was_well {
            tracing::warn!(endpoint = self.name, %error, "an endpoint of the chain is left alone for a while");
        }
    }

    fn answered(&self) {
        let mut state = self.state();
        if matches!(state.health, Health::Failing(_) | Health::Limited(_)) {
            tracing::info!(endpoint = self.name, "an endpoint of the chain answers again");
            state.health = Health::Well;
        }
        state.failures = 0;
    }

    fn set_behind(&self, is_behind: bool) {
        let mut state = self.state();
        match (&state.health, is_behind) {
            (Health::Well, true) => {
                tracing::error!(endpoint = self.name, "an endpoint of the chain is behind the others");
                state.health = Health::Behind;
            }
            (Health::Behind, false) => state.health = Health::Well,
            _ => {}
        }
    }

    fn set_alone(&self, is_alone: bool) {
        let mut state = self.state();
        match (&state.health, is_alone) {
            (Health::Well, true) => {
                tracing::error!(
                    endpoint = self.name,
                    "an endpoint knows another block than most; it is set aside"
                );
                state.health = Health::Alone;
            }
            (Health::Alone, false) => state.health = Health::Well,
            _ => {}
        }
    }

    async fn block(&self, at: At) -> Result<Option<Block>, ChainError> {
        HttpChain::block_by(self, at).await
    }

    /// Which chain is it?
    async fn identify(&self) -> Result<(), ChainError> {
        let chain_id = self.chain_id;
        let found = match HttpChain::chain_id_by(&self.http).await {
            // One that does not even tell this allows us nothing.
            Err(error @ ChainError::Forbidden(_)) => return Err(ChainError::Wrong(error.to_string())),
            found => found?,
        };
        let mut state = self.state();
        if found != chain_id {
            if state.health != Health::WrongChain(found) {
                tracing::error!(
                    endpoint = self.name,
                    found,
                    chain_id,
                    "an endpoint serves another chain; it is never asked"
                );
            }
            state.health = Health::WrongChain(found);
            return Err(ChainError::Wrong(format!(
                "it serves chain {found}, but chain.chain_id is {chain_id}"
            )));
        }
        if matches!(state.health, Health::Unseen | Health::WrongChain(_)) {
            state.health = Health::Well;
        }
        Ok(())
    }

    /// Its head, if it serves our chain and answers. One that was left alone is tried by this, when its time has come; and one that
    /// has failed may come back as something else.
    async fn look(&self) -> Option<Block> {
        let is_due = |until: Instant| until <= Instant::now();
        let health = self.state().health.clone();
        let must_identify = match health {
            Health::Well | Health::Behind | Health::Alone => false,
            Health::Unseen | Health::WrongChain(_) => true,
            Health::Failing(until) | Health::Limited(until) if is_due(until) => true,
            Health::Failing(_) | Health::Limited(_) => return None,
        };
        if must_identify && self.identify().await.is_err() {
            return None;
        }
        let head = self.block(At::Latest).await.ok()??;
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        metrics::gauge!("chain_endpoint_head_block", "endpoint" => self.name.clone()).set(head.number as f64);
        Some(head)
    }
}
