//! All banks by code, each behind a circuit breaker and a bulkhead.
//!
//! A bank that is down or slow costs its own payments their latency and no others: at most `calls_max` calls to it are under
//! way at a time, and after repeated failures none for a while. What is turned away here was not sent, and says so.

use crate::breaker::{Breaker, BreakerConfig, BreakerHook, BreakerState, Permit};
use crate::connector::{
    Balances, BankConnector, Capabilities, Operation, Outcome, QueryOutcome, ReadError, StatementPage,
    StatementRequest,
};
use async_trait::async_trait;
use flowbridge_domain::bank::OperationKey;
use flowbridge_domain::money::Money;
use flowbridge_domain::party::{BankCode, Iban};
use flowbridge_domain::time::{Clock, Timestamp};
use futures_util::future::join_all;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// How a bank is protected, and the others from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuardConfig {
    /// The circuit breaker.
    pub breaker: BreakerConfig,
    /// Calls under way at a time.
    pub calls_max: usize,
    /// How long a call waits for its turn.
    pub wait_max: Duration,
}

impl Default for GuardConfig {
    fn default() -> Self {
        Self { breaker: BreakerConfig::default(), calls_max: 4, wait_max: Duration::from_secs(2) }
    }
}

/// Told when a bank's circuit changes, for metrics. Must not block.
pub type CircuitHook = Arc<dyn Fn(&BankCode, BreakerState) + Send + Sync>;

/// Asks banks on behalf of payments: in this process by [`BankRegistry`], in another by [`crate::hold_api::HoldApiClient`].
#[async_trait]
pub trait BankDesk: Send + Sync + std::fmt::Debug {
    /// Asks for operations, which may go to different banks. An outcome for each, in order; those for one bank are carried out in order.
    async fn execute(&self, operations: &[(BankCode, Operation)]) -> Vec<Outcome>;

    /// Asks what became of operations. An answer for each, in order.
    async fn query(&self, keys: &[(BankCode, OperationKey)]) -> Vec<QueryOutcome>;
}

/// All banks that FlowBridge is connected to.
#[derive(Debug, Default)]
pub struct BankRegistry {
    banks: BTreeMap<BankCode, Arc<GuardedBank>>,
}

impl BankRegistry {
    /// Guards `banks`, all alike. Of two with one code the later counts.
    pub fn new(
        banks: impl IntoIterator<Item = (BankCode, Arc<dyn BankConnector>)>,
        config: GuardConfig,
        clock: &Arc<dyn Clock>,
        hook: Option<&CircuitHook>,
    ) -> Self {
        let guarded = |(code, connector): (BankCode, Arc<dyn BankConnector>)| {
            let hook = hook.map(|hook| hook_of(hook, &code));
            let bank = GuardedBank {
                code: code.clone(),
                connector,
                breaker: Breaker::new(config.breaker, Arc::clone(clock), hook),
                calls: Semaphore::new(config.calls_max.max(1)),
                wait_max: config.wait_max,
            };
            (code, Arc::new(bank))
        };
        Self { banks: banks.into_iter().map(guarded).collect() }
    }

    /// The bank of that code.
    pub fn get(&self, code: &BankCode) -> Option<&Arc<GuardedBank>> {
        self.banks.get(code)
    }

    /// All banks, in order of their codes.
    pub fn iter(&self) -> impl Iterator<Item = (&BankCode, &Arc<GuardedBank>)> {
        self.banks.iter()
    }
}

fn hook_of(hook: &CircuitHook, code: &BankCode) -> BreakerHook {
    let (hook, code) = (Arc::clone(hook), code.clone());
    Arc::new(move |state| hook(&code, state))
}

#[async_trait]
impl BankDesk for BankRegistry {
    async fn execute(&self, operations: &[(BankCode, Operation)]) -> Vec<Outcome> {
        let slices = by_bank(operations);
        let calls = slices.iter().map(|(code, places, operations)| async move {
            let outcomes = match self.get(code) {
                Some(bank) => bank.execute(operations).await,
                None => vec![Outcome::NotSent { cause: unknown_bank(code), retry_at: None }; places.len()],
            };
            (places, outcomes)
        });
        let missing = || Outcome::Unknown { cause: "the connector gave no outcome".into() };
        in_order(operations.len(), join_all(calls).await, missing)
    }

    async fn query(&self, keys: &[(BankCode, OperationKey)]) -> Vec<QueryOutcome> {
        let slices = by_bank(keys);
        let calls = slices.iter().map(|(code, places, keys)| async move {
            let outcomes = match self.get(code) {
                Some(bank) => bank.query(keys).await,
                None => {
                    vec![QueryOutcome::Unanswered { cause: unknown_bank(code), retry_at: None }; places.len()]
                }
            };
            (places, outcomes)
        });
        let missing =
            || QueryOutcome::Unanswered { cause: "the connector gave no outcome".into(), retry_at: None };
        in_order(keys.len(), join_all(calls).await, missing)
    }
}

fn unknown_bank(code: &BankCode) -> String {
    format!("no connector for bank {}", code.as_str())
}

/// Items of one bank together, with their places in the whole.
fn by_bank<T: Clone>(items: &[(BankCode, T)]) -> Vec<(&BankCode, Vec<usize>, Vec<T>)> {
    let mut slices: Vec<(&BankCode, Vec<usize>, Vec<T>)> = Vec::new();
    let mut slice_of: HashMap<&BankCode, usize> = HashMap::new();
    for (place, (code, item)) in items.iter().enumerate() {
        let index = *slice_of.entry(code).or_insert_with(|| {
            slices.push((code, Vec::new(), Vec::new()));
            slices.len() - 1
        });
        if let Some((_, places, slice)) = slices.get_mut(index) {
            places.push(place);
            slice.push(item.clone());
        }
    }
    slices
}

fn in_order<T>(items: usize, answers: Vec<(&Vec<usize>, Vec<T>)>, missing: impl Fn() -> T) -> Vec<T> {
    let mut ordered: Vec<Option<T>> = (0..items).map(|_| None).collect();
    for (places, outcomes) in answers {
        for (place, outcome) in places.iter().zip(outcomes) {
            if let Some(slot) = ordered.get_mut(*place) {
                *slot = Some(outcome);
            }
        }
    }
    ordered.into_iter().map(|outcome| outcome.unwrap_or_else(&missing)).collect()
}

/// A bank behind its breaker and bulkhead; itself a connector, which takes slices of any length.
#[derive(Debug)]
pub struct GuardedBank {
    code: BankCode,
    connector: Arc<dyn BankConnector>,
    breaker: Breaker,
    calls: Semaphore,
    wait_max: Duration,
}

/// Why a call was not made.
struct TurnedAway {
    cause: String,
    retry_at: Option<Timestamp>,
}

impl GuardedBank {
    /// The state of its circuit.
    pub fn breaker_state(&self) -> BreakerState {
        self.breaker.state()
    }

    async fn enter(&self) -> Result<(SemaphorePermit<'_>, Permit), TurnedAway> {
        let busy = || TurnedAway { cause: format!("bank {} is busy", self.code.as_str()), retry_at: None };
        // First the queue, then the circuit: it may have opened while we waited.
        let turn = tokio::time::timeout(self.wait_max, self.calls.acquire()).await;
        let turn = turn.map_err(|_| busy())?.map_err(|_| busy())?;
        let permit = self.breaker.permit().map_err(|until| TurnedAway {
            cause: format!("the circuit of bank {} is open", self.code.as_str()),
            retry_at: Some(until),
        })?;
        Ok((turn, permit))
    }

    async fn read<T>(&self, call: impl Future<Output = Result<T, ReadError>> + Send) -> Result<T, ReadError> {
        let entered = self.enter().await;
        let (_turn, permit) =
            entered.map_err(|away| ReadError::Unavailable { bank: self.code.clone(), cause: away.cause })?;
        let answer = call.await;
        match &answer {
            Err(ReadError::Unavailable { .. }) => permit.failed(),
            Ok(_) | Err(ReadError::Incomplete { .. } | ReadError::Refused { .. }) => permit.succeeded(),
        }
        answer
    }

    fn slice_len(&self) -> usize {
        self.connector.capabilities().operations_max.max(1)
    }
}

fn conclude(permit: Permit, failed: bool) {
    if failed { permit.failed() } else { permit.succeeded() }
}

#[async_trait]
impl BankConnector for GuardedBank {
    fn capabilities(&self) -> Capabilities {
        self.connector.capabilities()
    }

    async fn execute(&self, operations: &[Operation]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(operations.len());
        for slice in operations.chunks(self.slice_len()) {
            match self.enter().await {
                Ok((_turn, permit)) => {
                    let answers = self.connector.execute(slice).await;
                    conclude(permit, answers.iter().all(Outcome::is_transport_failure));
                    outcomes.extend(answers);
                }
                Err(TurnedAway { cause, retry_at }) => {
                    outcomes
                        .extend(slice.iter().map(|_| Outcome::NotSent { cause: cause.clone(), retry_at }));
                }
            }
        }
        outcomes
    }

    async fn query(&self, keys: &[OperationKey]) -> Vec<QueryOutcome> {
        let mut outcomes = Vec::with_capacity(keys.len());
        for slice in keys.chunks(self.slice_len()) {
            match self.enter().await {
                Ok((_turn, permit)) => {
                    let answers = self.connector.query(slice).await;
                    conclude(permit, answers.iter().all(QueryOutcome::is_transport_failure));
                    outcomes.extend(answers);
                }
                Err(TurnedAway { cause, retry_at }) => {
                    let unanswered = |_| QueryOutcome::Unanswered { cause: cause.clone(), retry_at };
                    outcomes.extend(slice.iter().map(unanswered));
                }
            }
        }
        outcomes
    }

    async fn confirm_funds(&self, account: &Iban, amount: Money) -> Result<bool, ReadError> {
        self.read(self.connector.confirm_funds(account, amount)).await
    }

    async fn balances(&self) -> Result<Balances, ReadError> {
        self.read(self.connector.balances()).await
    }

    async fn statement(&self, request: StatementRequest) -> Result<StatementPage, ReadError> {
        self.read(self.connector.statement(request)).await
    }
}
