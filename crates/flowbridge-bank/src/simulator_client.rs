//! The connector to the simulator, over HTTP.

use crate::auth::BearerKey;
use crate::connector::{
    Balances, BankConnector, Capabilities, Operation, Outcome, QueryOutcome, ReadError, StatementEntry,
    StatementPage, StatementRequest,
};
use crate::http_call::{CallError, call, client, execute_slice, query_answers};
use crate::wire::{
    BalancesBody, EntryBody, FundsRequest, FundsResponse, MoneyBody, OperationBody, OperationsRequest,
    OutcomesResponse, QueryRequest, StatementBody, read_key, read_own_account,
};
use async_trait::async_trait;
use flowbridge_domain::bank::{HoldMode, OperationKey};
use flowbridge_domain::money::Money;
use flowbridge_domain::party::{BankCode, Iban};
use flowbridge_domain::time::Timestamp;
use std::time::Duration;
use url::Url;

/// Where a simulated bank is and how to treat it.
#[derive(Debug, Clone)]
pub struct SimulatorClientConfig {
    /// Its code, in the path too.
    pub bank: BankCode,
    /// The simulator's root, such as `http://127.0.0.1:8090`.
    pub base_url: Url,
    /// What opens `/banks`.
    pub key: BearerKey,
    /// What the bank is configured to be.
    pub capabilities: Capabilities,
    /// For a connection to be made.
    pub connect_timeout: Duration,
    /// For a whole call.
    pub timeout: Duration,
}

impl SimulatorClientConfig {
    /// With the time-outs and capabilities of a local simulator.
    pub fn new(bank: BankCode, base_url: Url, key: BearerKey, hold_mode: HoldMode) -> Self {
        let timeout = Duration::from_secs(10);
        let capabilities = Capabilities {
            hold_mode,
            idempotent_ops: true,
            // Twice the longest a call can be on its way.
            query_conclusive_after: timeout.saturating_mul(2),
            operations_max: 500,
            hold_ttl_max: Duration::from_hours(7 * 24),
        };
        Self { bank, base_url, key, capabilities, connect_timeout: Duration::from_secs(2), timeout }
    }
}

/// The connector could not be built: its address or the HTTP client's settings are wrong.
#[derive(Debug, thiserror::Error)]
#[error("the connector of bank {} cannot be built: {cause}", bank.as_str())]
pub struct BuildError {
    /// Which bank.
    pub bank: BankCode,
    /// What is wrong.
    pub cause: String,
}

/// A simulated bank.
#[derive(Debug)]
pub struct SimulatorClient {
    config: SimulatorClientConfig,
    root: Url,
    http: reqwest::Client,
}

impl SimulatorClient {
    /// Prepares the connector. Nothing is sent.
    pub fn new(config: SimulatorClientConfig) -> Result<Self, BuildError> {
        let wrong = |cause: String| BuildError { bank: config.bank.clone(), cause };
        let path = format!("banks/{}/", config.bank.as_str());
        let root = config.base_url.join(&path).map_err(|error| wrong(error.to_string()))?;
        let http =
            client(config.connect_timeout, config.timeout).map_err(|error| wrong(error.to_string()))?;
        Ok(Self { root, http, config })
    }

    fn request(&self, method: reqwest::Method, path: &str) -> Result<reqwest::RequestBuilder, CallError> {
        let url = self.root.join(path).map_err(|error| CallError::NotSent(error.to_string()))?;
        Ok(self.http.request(method, url).bearer_auth(self.config.key.expose()))
    }

    async fn post_slice<T: serde::Serialize + Sync>(
        &self,
        path: &str,
        body: &T,
    ) -> Result<OutcomesResponse, CallError> {
        call(self.request(reqwest::Method::POST, path)?.json(body)).await
    }

    fn unavailable(&self, cause: impl Into<String>) -> ReadError {
        ReadError::Unavailable { bank: self.config.bank.clone(), cause: cause.into() }
    }

    fn incomplete(&self, what: impl Into<String>) -> ReadError {
        ReadError::Incomplete { bank: self.config.bank.clone(), what: what.into() }
    }

    fn read_failure(&self, error: CallError) -> ReadError {
        match error {
            CallError::Unknown(cause) => self.unavailable(cause),
            CallError::NotSent(cause) if cause.starts_with("HTTP ") => {
                ReadError::Refused { bank: self.config.bank.clone(), text: cause }
            }
            CallError::NotSent(cause) => self.unavailable(cause),
        }
    }

    fn entry(&self, body: EntryBody) -> Result<StatementEntry, ReadError> {
        // The bank answers, so that its circuit stays closed: what it says is for people to ask about.
        let unreadable = |error: &dyn std::fmt::Display| {
            self.incomplete(format!("entry {} cannot be read: {error}", body.sequence))
        };
        Ok(StatementEntry {
            sequence: body.sequence,
            account: read_own_account(&body.account).map_err(|error| unreadable(&error))?,
            change: body.change.read().map_err(|error| unreadable(&error))?,
            booked_at: Timestamp::from_micros(body.booked_at_us),
            key: body.key.as_deref().map(read_key).transpose().map_err(|error| unreadable(&error))?,
            reference: body.reference,
            text: body.text,
            value_at: body.value_at_us.map(Timestamp::from_micros),
            is_return: body.is_return,
        })
    }
}

#[async_trait]
impl BankConnector for SimulatorClient {
    fn capabilities(&self) -> Capabilities {
        self.config.capabilities
    }

    async fn execute(&self, operations: &[Operation]) -> Vec<Outcome> {
        let slice =
            operations.iter().map(|operation| (operation.key(), OperationBody::of(operation))).collect();
        execute_slice(slice, async |operations| {
            self.post_slice("operations", &OperationsRequest { operations }).await
        })
        .await
    }

    async fn query(&self, keys: &[OperationKey]) -> Vec<QueryOutcome> {
        let request = QueryRequest { keys: keys.iter().map(OperationKey::to_string).collect() };
        query_answers(keys, self.post_slice("operations/query", &request).await)
    }

    async fn confirm_funds(&self, account: &Iban, amount: Money) -> Result<bool, ReadError> {
        let amount = MoneyBody::of(amount).map_err(|error| self.unavailable(error.to_string()))?;
        let body = FundsRequest { account: account.as_str().to_owned(), amount };
        let request = self.request(reqwest::Method::POST, "funds-confirmations");
        let answer = match request {
            Ok(request) => call::<FundsResponse>(request.json(&body)).await,
            Err(error) => Err(error),
        };
        Ok(answer.map_err(|error| self.read_failure(error))?.funds_available)
    }

    async fn balances(&self) -> Result<Balances, ReadError> {
        let request =
            self.request(reqwest::Method::GET, "balances").map_err(|error| self.read_failure(error))?;
        let body: BalancesBody = call(request).await.map_err(|error| self.read_failure(error))?;
        let accounts = body
            .accounts
            .iter()
            .map(|line| Ok((read_own_account(&line.account)?, line.posted.read()?)))
            .collect::<Result<_, crate::wire::WireError>>()
            .map_err(|error| self.incomplete(format!("a balance cannot be read: {error}")))?;
        Ok(Balances { as_of: Timestamp::from_micros(body.as_of_us), accounts })
    }

    async fn statement(&self, request: StatementRequest) -> Result<StatementPage, ReadError> {
        let http = self
            .request(reqwest::Method::GET, "statement")
            .map_err(|error| self.read_failure(error))?
            .query(&[
                ("after", request.after.to_string()),
                ("booked_until_us", request.booked_until.as_micros().to_string()),
                ("limit", request.entries_max.to_string()),
            ]);
        let body: StatementBody = call(http).await.map_err(|error| self.read_failure(error))?;
        let entries: Vec<_> =
            body.entries.into_iter().map(|entry| self.entry(entry)).collect::<Result<_, _>>()?;
        // Numbers are consecutive, so what is missing shows, at the end of the page too.
        let numbers = entries.iter().map(|entry| entry.sequence);
        let expected = request.after.saturating_add(1)..=body.next_after;
        if !numbers.eq(expected) {
            return Err(self.incomplete(format!("entries between {} and {}", request.after, body.next_after)));
        }
        Ok(StatementPage { entries, next_after: body.next_after, has_more: body.has_more })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_cannot_be_read_is_missing_and_does_not_count_as_a_bank_that_is_away() {
        let bank = BankCode::parse("alpha").unwrap();
        let root = Url::parse("http://127.0.0.1:1").unwrap();
        let config = SimulatorClientConfig::new(bank, root, BearerKey::new("key"), HoldMode::Native);
        let client = SimulatorClient::new(config).unwrap();
        let entry = |key: &str, currency: &str| EntryBody {
            sequence: 7,
            account: "reserve".to_owned(),
            change: MoneyBody { amount: 500, currency: currency.to_owned() },
            booked_at_us: 0,
            key: Some(key.to_owned()),
            reference: String::new(),
            text: String::new(),
            value_at_us: None,
            is_return: false,
        };
        let key = "pay_01h455vb4pex5vsknk084sn02q.capture";
        assert!(client.entry(entry(key, "EUR")).is_ok());
        for wrong in [entry("somebody's", "EUR"), entry(key, "euro")] {
            let refused = client.entry(wrong);
            assert!(
                matches!(&refused, Err(ReadError::Incomplete { what, .. }) if what.contains("entry 7")),
                "{refused:?}"
            );
        }
    }
}
