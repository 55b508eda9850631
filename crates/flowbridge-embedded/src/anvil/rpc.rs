//! The few JSON-RPC calls the supervisor makes, each with a time limit.

use std::time::Duration;

use alloy::providers::{Provider as _, RootProvider};
use anyhow::{Context as _, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::runtime::Runtime;

const CALL_PATIENCE: Duration = Duration::from_secs(30);

/// A client with a runtime of its own, so that a node outlives the runtime of the test that started it. It is used on the
/// miner's thread only, where no other runtime is entered.
#[derive(Debug)]
pub(crate) struct Rpc {
    provider: RootProvider,
    runtime: Runtime,
}

impl Rpc {
    pub(crate) fn new(port: u16) -> Result<Self> {
        let url = format!("http://127.0.0.1:{port}").parse()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { provider: RootProvider::new_http(url), runtime })
    }

    pub(crate) fn call<T: DeserializeOwned>(&self, method: &'static str, params: Value) -> Result<T> {
        let request = self.provider.raw_request::<Value, Value>(method.into(), params);
        let answer = self
            .runtime
            .block_on(async { tokio::time::timeout(CALL_PATIENCE, request).await })
            .with_context(|| format!("the chain node did not answer {method} in time"))?
            .with_context(|| format!("the chain node refused {method}"))?;
        serde_json::from_value(answer).with_context(|| format!("unexpected answer to {method}"))
    }
}
