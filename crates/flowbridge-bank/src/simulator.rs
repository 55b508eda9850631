//! The bank simulator: several banks in one process, speaking real HTTP, keeping real books, failing on request.
//!
//! It is the counterpart that FlowBridge is developed and tested against, so it keeps the promises a good bank keeps: what it
//! answered survives SIGKILL (`ledger`), a key is carried out once and answered alike for ever, a hold is resolved once,
//! money is neither made nor lost (`books`). And it breaks those of the network between us, when told to
//! (`faults`): replies get lost, delayed, doubled; operations are declined or decided later.
//!
//! Two doors with a key each: `/banks/{code}/…` is what a bank offers its client (us), `/admin/banks/{code}/…` is for whoever
//! runs the simulation, and for tests that want to know what really happened.

mod admin;
mod bank_api;
mod books;
mod faults;
mod ledger;

pub use faults::{Fault, FaultRule, FaultRuleError, Target};

use crate::auth::BearerKey;
use crate::problem::Problem;
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use axum::serve::ListenerExt as _;
use books::{Books, BooksError, DepositTo, Rules};
use faults::FaultPlan;
use flowbridge_domain::bank::HoldMode;
use flowbridge_domain::money::Money;
use flowbridge_domain::party::{BankCode, Iban};
use flowbridge_domain::time::{Clock, Timestamp};
use ledger::{Ledger, LedgerThread};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// Largest accepted request body.
const BODY_BYTES_MAX: usize = 4 << 20;
/// Most operations, keys or entries in one request.
pub const SLICE_MAX: usize = 2_000;
/// How long a shutdown waits for requests under way.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// What the simulator is made of.
#[derive(Debug, Clone)]
pub struct SimulatorConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where each bank's books lie, as `{code}.redb`.
    pub data_dir: PathBuf,
    /// What opens `/banks`.
    pub client_key: BearerKey,
    /// What opens `/admin`.
    pub admin_key: BearerKey,
    /// Where the random numbers of faults begin.
    pub seed: u64,
    /// The banks.
    pub banks: Vec<BankConfig>,
}

/// One simulated bank.
#[derive(Debug, Clone)]
pub struct BankConfig {
    /// Its name in the path.
    pub code: BankCode,
    /// How it reserves funds.
    pub hold_mode: HoldMode,
    /// The longest it keeps a hold.
    pub hold_ttl_max: Duration,
    /// How many operations it remembers; the oldest resolved ones go first.
    pub operations_kept_max: u64,
    /// How many statement entries it remembers.
    pub entries_kept_max: u64,
    /// Customers' accounts with what is on them on the first day. Seeded once: a restart changes nothing.
    pub accounts: Vec<(Iban, Money)>,
    /// What is on our reserve on the first day, one per currency. Seeded once.
    pub reserves: Vec<Money>,
    /// Faults from the start on.
    pub faults: Vec<FaultRule>,
}

impl BankConfig {
    /// A well-behaved bank without accounts, that keeps holds for a week and remembers a million operations.
    pub fn new(code: BankCode, hold_mode: HoldMode) -> Self {
        Self {
            code,
            hold_mode,
            hold_ttl_max: Duration::from_hours(7 * 24),
            operations_kept_max: 1_000_000,
            entries_kept_max: 1_000_000,
            accounts: Vec::new(),
            reserves: Vec::new(),
            faults: Vec::new(),
        }
    }
}

/// Why the simulator did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// The address is in use or not ours: choose another.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The folder cannot be made: check its path and permissions.
    #[error("cannot use the folder {}", folder.display())]
    Folder {
        /// Which folder.
        folder: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A bank's books cannot be opened: another process has them, or they are damaged or of another version.
    #[error("cannot open the books of bank {}: {cause}", bank.as_str())]
    Books {
        /// Which bank.
        bank: BankCode,
        /// What is wrong.
        cause: String,
    },
    /// Two banks of one name.
    #[error("bank {} is configured twice", .0.as_str())]
    DuplicateBank(BankCode),
    /// A fault that cannot be.
    #[error("a fault of bank {} is not valid", bank.as_str())]
    Fault {
        /// Which bank.
        bank: BankCode,
        /// What is wrong.
        source: FaultRuleError,
    },
    /// Serving ended.
    #[error("the HTTP server failed")]
    Serve(#[source] std::io::Error),
}

/// A simulator that listens; [`Simulator::run`] serves.
#[derive(Debug)]
pub struct Simulator {
    listener: TcpListener,
    address: SocketAddr,
    state: Arc<Shared>,
    threads: Vec<LedgerThread>,
}

/// What all requests share.
#[derive(Debug)]
struct Shared {
    banks: HashMap<String, Bank>,
    client_key: BearerKey,
    admin_key: BearerKey,
    clock: Arc<dyn Clock>,
}

/// One bank at work.
#[derive(Debug)]
struct Bank {
    ledger: Ledger,
    faults: FaultPlan,
}

impl Simulator {
    /// Opens the books, seeds what is new, and begins to listen.
    pub async fn bind(config: SimulatorConfig, clock: Arc<dyn Clock>) -> Result<Self, SimulatorError> {
        std::fs::create_dir_all(&config.data_dir)
            .map_err(|source| SimulatorError::Folder { folder: config.data_dir.clone(), source })?;
        let mut banks = HashMap::new();
        let mut threads = Vec::new();
        for bank in config.banks {
            let code = bank.code.clone();
            let path = config.data_dir.join(format!("{}.redb", code.as_str()));
            let books_error = |cause: &dyn std::error::Error| SimulatorError::Books {
                bank: code.clone(),
                cause: chain_of(cause),
            };
            if banks.contains_key(code.as_str()) {
                return Err(SimulatorError::DuplicateBank(code));
            }
            let rules = rules_of(&bank);
            let (ledger, thread) =
                Ledger::open(&path, rules, Arc::clone(&clock)).map_err(|error| books_error(&error))?;
            threads.push(thread);
            let faults = FaultPlan::new(config.seed ^ name_seed(code.as_str()));
            for rule in &bank.faults {
                let added = faults.add(rule.clone(), clock.now());
                added.map_err(|source| SimulatorError::Fault { bank: code.clone(), source })?;
            }
            let seeded = ledger.run(move |books, now| seed(books, &bank, now)).await;
            seeded.map_err(|error| books_error(&error))?;
            banks.insert(code.as_str().to_owned(), Bank { ledger, faults });
        }
        let listen = |source| SimulatorError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let state =
            Arc::new(Shared { banks, client_key: config.client_key, admin_key: config.admin_key, clock });
        Ok(Self { listener, address, state, threads })
    }

    /// Where it listens.
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` resolves; then finishes the requests under way, for a few seconds at most, and closes the books.
    pub async fn run(
        self,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), SimulatorError> {
        let Self { listener, state, threads, .. } = self;
        let (draining, drain_began) = tokio::sync::oneshot::channel();
        let begin_drain = async move {
            shutdown.await;
            let _ = draining.send(());
        };
        let listener = listener.tap_io(|connection| {
            if let Err(error) = connection.set_nodelay(true) {
                tracing::debug!(%error, "a connection keeps its delay");
            }
        });
        let server = axum::serve(listener, router(Arc::clone(&state))).with_graceful_shutdown(begin_drain);
        let drain_ends = async move {
            if drain_began.await.is_ok() {
                tokio::time::sleep(DRAIN_MAX).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        let served = tokio::select! {
            served = server.into_future() => served.map_err(SimulatorError::Serve),
            () = drain_ends => Ok(()),
        };
        for bank in state.banks.values() {
            bank.ledger.close().await;
        }
        let joined =
            tokio::task::spawn_blocking(move || threads.into_iter().for_each(LedgerThread::join)).await;
        if joined.is_err() {
            tracing::error!("closing the banks' books ended in a panic");
        }
        served
    }
}

fn router(state: Arc<Shared>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .nest("/banks/{code}", bank_api::router())
        .nest("/admin/banks/{code}", admin::router())
        .fallback(|| async { Problem::not_found("there is nothing here") })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(state)
}

/// Ready while every bank's books are open.
async fn ready(State(shared): State<Arc<Shared>>) -> Result<&'static str, Problem> {
    if shared.banks.values().all(|bank| bank.ledger.is_open()) {
        Ok("ok")
    } else {
        Err(ledger::Closed.into())
    }
}

/// The bank meant by the path, for whoever has the key.
fn enter<'a>(
    shared: &'a Shared,
    key: &BearerKey,
    headers: &HeaderMap,
    code: &str,
) -> Result<&'a Bank, Problem> {
    if !key.opens(headers) {
        return Err(Problem::unauthorized("this needs another bearer key"));
    }
    shared.banks.get(code).ok_or_else(|| Problem::not_found("there is no such bank"))
}

impl From<ledger::Closed> for Problem {
    fn from(closed: ledger::Closed) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "books_closed", closed.to_string())
    }
}

fn rules_of(bank: &BankConfig) -> Rules {
    Rules {
        reference_prefix: bank.code.as_str().to_uppercase(),
        hold_mode: bank.hold_mode,
        hold_ttl_max: bank.hold_ttl_max,
        operations_kept_max: bank.operations_kept_max,
        // The last entry is what the next one is numbered after.
        entries_kept_max: bank.entries_kept_max.max(1),
    }
}

/// Opening balances are deposits with an id of their own, so that they are made once.
fn seed(books: &mut Books<'_>, bank: &BankConfig, now: Timestamp) -> Result<(), BooksError> {
    let mut refused = 0_u32;
    let mut note = |result: Result<(), books::Refusal>| refused += u32::from(result.is_err());
    for reserve in &bank.reserves {
        books.open_own_accounts(reserve.currency())?;
        if !reserve.is_zero() {
            let id = format!("opening:reserve:{}", reserve.currency());
            note(books.deposit(&id, DepositTo::Reserve, *reserve, now)?);
        }
    }
    for (iban, balance) in &bank.accounts {
        books.open_own_accounts(balance.currency())?;
        note(books.open_account(iban, balance.currency())?);
        if !balance.is_zero() {
            let id = format!("opening:{}", iban.as_str());
            note(books.deposit(&id, DepositTo::Customer(iban), *balance, now)?);
        }
    }
    if refused > 0 {
        tracing::warn!(
            bank.code = bank.code.as_str(),
            seeds.refused = refused,
            "opening balances differ from those seeded earlier, which stay"
        );
    }
    Ok(())
}

/// FNV-1a, so that banks with one seed have different faults.
fn name_seed(name: &str) -> u64 {
    name.bytes()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
