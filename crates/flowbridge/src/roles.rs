//! The roles and how they are wired: each gets the parts it needs and nothing else, and all stop together.

use crate::clock::{COMPARE_EVERY, SharedClock};
use crate::config::{Config, ConnectorKind, ConnectorSection, StatementsBy};
use anyhow::{Context as _, Result, anyhow, bail};
use flowbridge_bank::auth::BearerKey;
use flowbridge_bank::breaker::BreakerState;
use flowbridge_bank::connector::{BankConnector, Capabilities};
use flowbridge_bank::hold_api::{self, CallerVerifier, HoldApiClient, TokenSource};
use flowbridge_bank::registry::{BankDesk, BankRegistry, CircuitHook, GuardConfig};
use flowbridge_bank::simulator::{BankConfig, Simulator, SimulatorConfig};
use flowbridge_bank::simulator_client::{SimulatorClient, SimulatorClientConfig};
use flowbridge_chain::ChainError;
use flowbridge_domain::bank::HoldMode;
use flowbridge_domain::party::BankCode;
use flowbridge_domain::time::{Clock, Timestamp};
use flowbridge_security::keys::{KeyFolder, KeySet};
use flowbridge_security::scope::{Scope, ScopeSet};
use flowbridge_security::sealing::SealingKeys;
use flowbridge_security::token::{DenyList, TokenIssuer, TokenVerifier, bearer};
use flowbridge_store::party::save_bank;
use flowbridge_store::wake::Wake;
use flowbridge_store::{Db, StoreError, payment::parse_hold_mode, statement};
use flowbridge_workers::context::Context;
use flowbridge_workers::{audit, bank, monitor, orchestrator, proof, reconciliation, webhook};
use futures_util::FutureExt as _;
use secrecy::ExposeSecret as _;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a starting process waits for its database, and for a node, and how often it looks.
const START_PATIENCE: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(1);

/// What a process can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// The partners' API.
    Gateway,
    /// Decides about payments.
    Orchestrator,
    /// Sends to the chain and watches it.
    Chain,
    /// Talks to banks, proves that ledger, chain and banks agree, and reconciles them line by line.
    Bank,
    /// Delivers webhooks.
    Webhooks,
    /// Watches for what is stuck, keeps house, asks for the nightly reconciliation, keeps the audit log and the archive.
    Jobs,
    /// Stands in for banks.
    BankSimulator,
}

impl Role {
    /// Every role.
    pub(crate) const ALL: [Self; 7] = [
        Self::Gateway,
        Self::Orchestrator,
        Self::Chain,
        Self::Bank,
        Self::Webhooks,
        Self::Jobs,
        Self::BankSimulator,
    ];

    /// The name on the command line.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Orchestrator => "orchestrator",
            Self::Chain => "chain",
            Self::Bank => "bank",
            Self::Webhooks => "webhooks",
            Self::Jobs => "jobs",
            Self::BankSimulator => "bank-simulator",
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|role| role.as_str()).collect();
            format!("there is no role {text}; the roles are {}", names.join(", "))
        })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A process with some roles, running.
#[derive(Debug)]
pub(crate) struct Running {
    stop: CancellationToken,
    tasks: TaskTracker,
    db: Db,
    /// The first role that ended by itself, and why.
    failed: Arc<Mutex<Option<String>>>,
}

impl Running {
    /// Ends when asked to, or when a role has failed.
    pub(crate) async fn wait_for_end(&self) {
        self.stop.cancelled().await;
    }

    /// Asks all roles to finish what they are at, and waits for them, up to `patience`.
    pub(crate) async fn stop(self, patience: Duration) -> Result<()> {
        self.stop.cancel();
        self.tasks.close();
        let finished = tokio::time::timeout(patience, self.tasks.wait()).await;
        self.db.close();
        if finished.is_err() {
            bail!(
                "some roles did not finish within {patience:?}; what they had claimed comes free when its lease runs out"
            );
        }
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        failed.map_or(Ok(()), |why| bail!(why))
    }

    /// Runs a role; one that ends by itself with an error, or by a panic, stops the process: half a role is worse than none.
    pub(crate) fn spawn(&self, role: Role, task: impl Future<Output = Result<()>> + Send + 'static) {
        let (stop, failed) = (self.stop.clone(), self.failed.clone());
        self.tasks.spawn(async move {
            let ended = AssertUnwindSafe(task).catch_unwind().await;
            if let Err(error) = ended.unwrap_or_else(|_| Err(anyhow!("it panicked"))) {
                tracing::error!(role = role.as_str(), error = format!("{error:#}"), "a role has failed");
                failed
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get_or_insert(format!("{role}: {error:#}"));
                stop.cancel();
            }
        });
    }
}

/// What several roles of a process share.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) config: Arc<Config>,
    pub(crate) context: Context,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) stop: CancellationToken,
}

/// Starts roles in this process.
pub(crate) async fn start(config: Config, roles: &[Role]) -> Result<Running> {
    let db = Db::new(&config.database())?;
    let running = Running {
        stop: CancellationToken::new(),
        tasks: TaskTracker::new(),
        db: db.clone(),
        failed: Arc::default(),
    };
    patiently("[database] url", async || Ok(db.ping().await?))
        .await
        .context("the database of [database] url cannot be used")?;
    let shared = Arc::new(SharedClock::default());
    shared.compare(&db).await?;
    running.tasks.spawn(keep_time(shared.clone(), db.clone(), running.stop.clone()));
    let clock: Arc<dyn Clock> = shared;
    let instance = format!("{}-{:08x}", std::process::id(), rand::random::<u32>());
    let context = Context { db, clock: clock.clone(), wake: Wake::default(), instance };
    let parts = Parts { config: Arc::new(config), context, clock, stop: running.stop.clone() };
    // The simulator first: connectors of the same process may call it at once.
    let mut ordered = roles.to_vec();
    ordered.sort_unstable_by(|one, other| other.cmp(one));
    for role in ordered {
        start_role(&running, &parts, role).await.with_context(|| format!("cannot start the role {role}"))?;
        tracing::info!(role = role.as_str(), "started");
    }
    Ok(running)
}

/// Compares our clock with the database's, again and again.
async fn keep_time(clock: Arc<SharedClock>, db: Db, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(COMPARE_EVERY)).await.is_some() {
        // A database that does not answer is everybody's trouble, and told by others.
        drop(clock.compare(&db).await);
    }
}

/// Tries until it works. What begins at the same time as we do, or recovers from a crash, is waited for; what refuses us is not.
pub(crate) async fn patiently<T>(what: &str, attempt: impl AsyncFn() -> Result<T>) -> Result<T> {
    let began = Instant::now();
    loop {
        match attempt().await {
            Err(error) if may_pass(&error) && began.elapsed() < START_PATIENCE => {
                tracing::warn!(what, error = format!("{error:#}"), "not there yet; waiting for it");
                tokio::time::sleep(START_INTERVAL).await;
            }
            outcome => return outcome,
        }
    }
}

/// Whether it may be over in a moment.
fn may_pass(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(StoreError::is_retryable)
        || error.downcast_ref().is_some_and(ChainError::is_retryable)
}

async fn start_role(running: &Running, parts: &Parts, role: Role) -> Result<()> {
    let (config, context, stop) = (parts.config.clone(), parts.context.clone(), parts.stop.clone());
    match role {
        Role::Gateway => crate::gateway::start(running, parts).await?,
        Role::Chain => crate::chain::start(running, parts).await?,
        Role::Orchestrator => {
            running.spawn(role, async move {
                orchestrator::run(context, config.orchestrator(), stop).await;
                Ok(())
            });
        }
        Role::Bank => start_bank(running, parts).await?,
        Role::Webhooks => {
            let settings = config.webhooks()?;
            let sealing = Arc::new(SealingKeys::load_or_create(&KeyFolder::new(&config.security.keys))?);
            running.spawn(role, async move {
                Ok(Box::pin(webhook::run(context, settings, sealing, stop)).await?)
            });
        }
        Role::Jobs => {
            let nightly = config.reconciliation()?;
            running.spawn(role, {
                let (context, stop) = (context.clone(), stop.clone());
                async move {
                    reconciliation::schedule(context, nightly, stop).await;
                    Ok(())
                }
            });
            let keeping = crate::audit::keeping(&config)?;
            running.spawn(role, {
                let (context, settings, stop) = (context.clone(), config.audit(), stop.clone());
                async move {
                    audit::run(context, keeping, settings, stop).await;
                    Ok(())
                }
            });
            running.spawn(role, async move {
                monitor::run(context, config.monitor(), stop).await;
                Ok(())
            });
        }
        Role::BankSimulator => start_simulator(running, parts).await?,
    }
    Ok(())
}

/// The internal hold API over the banks' connectors, the worker that asks for what payments need, and the proof.
async fn start_bank(running: &Running, parts: &Parts) -> Result<()> {
    let config = &parts.config;
    let banks = Arc::new(registry(config, &parts.clock)?);
    for section in &config.bank.connectors {
        let (code, hold_mode) = (BankCode::parse(&section.code)?, hold_mode(section)?);
        save_bank(&parts.context.db, &code, &section.name, hold_mode, parts.clock.now()).await?;
    }
    let keys = KeyFolder::new(&config.security.keys).load_or_create()?;
    let listener = listen(config.bank.listen, "[bank] listen").await?;
    let desk: Arc<dyn BankDesk> = banks.clone();
    let router = hold_api::router(desk, verifier(config, &keys, parts.clock.clone())?);
    let router = router.merge(crate::proof::router(
        parts.context.clone(),
        banks.clone(),
        verifier(config, &keys, parts.clock.clone())?,
    ));
    let stop = parts.stop.clone();
    running.spawn(Role::Bank, async move {
        Ok(axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await?)
    });

    let timeout = Duration::from_millis(config.bank.timeout_ms);
    let desk =
        HoldApiClient::new(&config.bank.url, internal_tokens(config, keys, parts.clock.clone())?, timeout)?;
    let capabilities: BTreeMap<BankCode, Capabilities> =
        banks.iter().map(|(code, bank)| (code.clone(), bank.capabilities())).collect();
    let (context, settings, stop) = (parts.context.clone(), config.bank_worker(), parts.stop.clone());
    running.spawn(Role::Bank, async move {
        bank::run(context, Arc::new(desk), capabilities, settings, stop).await;
        Ok(())
    });
    let settings = reconciliation::Settings { folder: config.drop_folder()?, ..config.reconciliation()? };
    let mut connectors = Vec::new();
    for section in &config.bank.connectors {
        let (code, is_connector) =
            (BankCode::parse(&section.code)?, section.statements == StatementsBy::Connector);
        statement::set_source(&parts.context.db, &code, is_connector).await?;
        connectors.extend(is_connector.then_some(code));
    }
    running.spawn(Role::Bank, {
        let (context, banks, settings) = (parts.context.clone(), banks.clone(), settings.clone());
        let stop = parts.stop.clone();
        async move {
            Box::pin(reconciliation::run(context, banks, connectors, settings, stop)).await;
            Ok(())
        }
    });
    let (context, stop) = (parts.context.clone(), parts.stop.clone());
    running.spawn(Role::Bank, async move {
        proof::run(context, banks, (settings, PROOF_INTERVAL), stop).await;
        Ok(())
    });
    Ok(())
}

/// How often ledger, chain and banks are compared.
const PROOF_INTERVAL: Duration = Duration::from_secs(10);

/// The banks of the configuration behind breaker and bulkhead.
fn registry(config: &Config, clock: &Arc<dyn Clock>) -> Result<BankRegistry> {
    let mut banks: Vec<(BankCode, Arc<dyn BankConnector>)> = Vec::new();
    for section in &config.bank.connectors {
        let code = BankCode::parse(&section.code)?;
        banks.push((
            code,
            connector(section).with_context(|| format!("the connector of bank {}", section.code))?,
        ));
    }
    let show: CircuitHook = Arc::new(show_circuit);
    Ok(BankRegistry::new(banks, GuardConfig::default(), clock, Some(&show)))
}

/// A bank's circuit breaker, in metrics and log.
fn show_circuit(bank: &BankCode, state: BreakerState) {
    let (bank, is_open) = (bank.as_str(), if state == BreakerState::Closed { 0.0 } else { 1.0 });
    metrics::gauge!("bank_circuit_open", "bank" => bank.to_owned()).set(is_open);
    match state {
        BreakerState::Open { .. } => {
            tracing::warn!(bank, "a bank keeps failing; it is left alone for a while")
        }
        BreakerState::HalfOpen => {}
        BreakerState::Closed => tracing::info!(bank, "a bank answers again"),
    }
}

fn hold_mode(section: &ConnectorSection) -> Result<HoldMode> {
    parse_hold_mode(&section.hold_mode).with_context(|| {
        format!("there is no hold_mode {:?}: native, escrow or confirm_only", section.hold_mode)
    })
}

fn connector(section: &ConnectorSection) -> Result<Arc<dyn BankConnector>> {
    let hold_mode = hold_mode(section)?;
    match section.kind {
        ConnectorKind::Simulator => {
            let key = read_key(&section.key_file)?;
            let code = BankCode::parse(&section.code)?;
            let settings = SimulatorClientConfig::new(code, section.url.clone(), key, hold_mode);
            Ok(Arc::new(SimulatorClient::new(settings)?))
        }
    }
}

async fn start_simulator(running: &Running, parts: &Parts) -> Result<()> {
    let section = &parts.config.bank_simulator;
    let mut banks = Vec::new();
    for bank in &parts.config.bank.connectors {
        let ConnectorKind::Simulator = bank.kind;
        let hold_mode =
            parse_hold_mode(&bank.hold_mode).with_context(|| format!("hold_mode {:?}", bank.hold_mode))?;
        banks.push(BankConfig {
            operations_kept_max: section.operations_kept_max,
            entries_kept_max: section.entries_kept_max,
            ..BankConfig::new(BankCode::parse(&bank.code)?, hold_mode)
        });
    }
    let config = SimulatorConfig {
        listen: section.listen,
        data_dir: section.data.clone(),
        client_key: read_key(&section.client_key_file)?,
        admin_key: read_key(&section.admin_key_file)?,
        seed: 0,
        banks,
    };
    let simulator = Simulator::bind(config, parts.clock.clone()).await?;
    let stop = parts.stop.clone();
    running.spawn(Role::BankSimulator, async move { Ok(simulator.run(stop.cancelled_owned()).await?) });
    Ok(())
}

/// A key file's content, without the line break an editor leaves.
pub(crate) fn read_key(file: &Path) -> Result<BearerKey> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the key file {}", file.display()))?;
    Ok(BearerKey::new(text.trim()))
}

/// Listens, or says who should give way.
pub(crate) async fn listen(address: std::net::SocketAddr, setting: &str) -> Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}: is another process there? Change {setting}"))
}

/// Who may call the internal API: a role of ours, by a token of our own.
fn verifier(config: &Config, keys: &KeySet, clock: Arc<dyn Clock>) -> Result<CallerVerifier> {
    let issuer = config.issuer();
    let tokens =
        TokenVerifier::new(&issuer, INTERNAL_AUDIENCE, keys.public_keys()?, Arc::new(DenyList::default()));
    Ok(Arc::new(move |headers| {
        let header = headers.get("authorization").and_then(|value| value.to_str().ok());
        let token = header.and_then(bearer).ok_or("a bearer token is missing")?;
        let claims = tokens.verify(token, clock.now()).map_err(|error| error.to_string())?;
        claims.require(Scope::InternalHold).map_err(|_| "the token does not allow internal calls".to_owned())
    }))
}

/// Whom internal tokens are for: nobody outside accepts them.
const INTERNAL_AUDIENCE: &str = "flowbridge-internal";

/// Tokens for calls between roles, made anew before they expire.
pub(crate) fn internal_tokens(config: &Config, keys: KeySet, clock: Arc<dyn Clock>) -> Result<TokenSource> {
    let life = Duration::from_secs(240);
    let issuer = TokenIssuer::new(&config.issuer(), INTERNAL_AUDIENCE, life, keys.current);
    let scopes = ScopeSet::EMPTY.with(Scope::InternalHold);
    let current: Mutex<Option<(String, Timestamp)>> = Mutex::new(None);
    Ok(Arc::new(move || {
        let now = clock.now();
        let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((token, until)) = current.as_ref()
            && now < *until
        {
            return Ok(token.clone());
        }
        let issued = issuer.issue("flowbridge-role", None, scopes, now).map_err(|error| error.to_string())?;
        let token = issued.token.expose_secret().to_owned();
        *current = Some((token.clone(), now.plus(life / 2)));
        Ok(token)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test]
    async fn a_start_waits_for_a_node_that_is_not_there_yet_and_not_for_the_wrong_one() {
        let tries = Cell::new(0);
        let tried_until_the = |works_at: u32, error: ChainError| {
            let tries = &tries;
            tries.set(0);
            patiently("a node", async move || {
                tries.set(tries.get() + 1);
                if tries.get() < works_at { Err(error.clone().into()) } else { Ok(()) }
            })
        };
        tried_until_the(2, ChainError::Unavailable("refused".into())).await.unwrap();
        assert_eq!(tries.get(), 2);
        tried_until_the(2, ChainError::Wrong("another chain".into())).await.unwrap_err();
        assert_eq!(tries.get(), 1);
    }
}
