//! The seam to a node: the JSON-RPC calls that we need, each with a limit on its time.
//!
//! Blocks are read without their transactions, so that types which only the chain's own node knows (ZKsync OS writes 0x7e and
//! 0x7f) do not matter. A call that ran out of time may have been carried out: whoever sends, sends the same bytes again.

use crate::bindings::manager::SettlementManager::Totals;
use crate::bindings::router::PaymentRouter::BatchInitiated;
use crate::bindings::{address, hash};
use crate::error::ChainError;
use crate::rpc::{Http, Transport};
use alloy::primitives::{Address, B256, Bytes, LogData, U64, U256};
use alloy::rpc::types::{Filter, Log};
use alloy::sol_types::SolEvent as _;
use flowbridge_domain::party::EvmAddress;
use flowbridge_domain::time::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Which block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// By number.
    Number(u64),
    /// The newest.
    Latest,
    /// With what waits to be included; for nonces only.
    Pending,
    /// The newest that the node calls safe (on ZKsync: committed to L1).
    Safe,
    /// The newest that it calls finalized (on ZKsync: executed on L1).
    Finalized,
}

impl At {
    fn tag(self) -> String {
        match self {
            Self::Number(number) => format!("{number:#x}"),
            Self::Latest => "latest".into(),
            Self::Pending => "pending".into(),
            Self::Safe => "safe".into(),
            Self::Finalized => "finalized".into(),
        }
    }
}

/// A block without its transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: [u8; 32],
    /// The hash of the one before.
    pub parent: [u8; 32],
    /// Its time.
    pub time: Timestamp,
    /// Wei per gas that is burned; zero where a chain has none.
    pub base_fee: u64,
}

/// What became of an included transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// It did what it should; else it was reverted.
    pub succeeded: bool,
    /// Its block.
    pub block_number: u64,
    /// Its block.
    pub block_hash: [u8; 32],
    /// Gas it took.
    pub gas_used: u64,
    /// The contract it created.
    pub created: Option<EvmAddress>,
}

/// A transaction that our contracts counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// The transaction.
    pub tx_hash: [u8; 32],
    /// Its block.
    pub block_number: u64,
    /// Its block.
    pub block_hash: [u8; 32],
}

/// Where a block is on its way to L1, on a chain that settles there in batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct L1Batch {
    /// The batch.
    pub number: u64,
    /// The L1 transaction that committed it.
    pub commit_tx: Option<[u8; 32]>,
    /// The L1 transaction that proved it.
    pub prove_tx: Option<[u8; 32]>,
    /// The L1 transaction that executed it.
    pub execute_tx: Option<[u8; 32]>,
    /// It is executed, and final there. Some chains say so without naming the transactions.
    pub is_executed: bool,
}

/// What a transaction costs at present, in wei per gas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fees {
    /// Burned in the newest block.
    pub base: u64,
    /// To the block's maker.
    pub priority: u64,
}

/// A node.
#[async_trait::async_trait]
pub trait Chain: Send + Sync + Debug {
    /// One node to put questions to that belong together, where there are several: another may be a block behind or ahead.
    fn pinned(&self) -> Option<Arc<dyn Chain>> {
        None
    }
    /// Every node that may be asked, where there are several: what one of them leaves out another may tell.
    fn each(&self) -> Vec<Arc<dyn Chain>> {
        Vec::new()
    }
    /// The nodes besides the one that is asked first, to be offered what that one may keep to itself.
    fn others(&self) -> Vec<Arc<dyn Chain>> {
        Vec::new()
    }
    /// The chain's id.
    async fn chain_id(&self) -> Result<u64, ChainError>;
    /// A block; `None` if the chain has none there.
    async fn block(&self, at: At) -> Result<Option<Block>, ChainError>;
    /// The logs of `contracts` in blocks `from` to `to`, both included. [`ChainError::Refused`]: ask for fewer blocks. One block
    /// alone is not refused for having many.
    async fn logs(&self, from: u64, to: u64, contracts: &[EvmAddress]) -> Result<Vec<Log>, ChainError>;
    /// The logs of `contracts` in one block, however many, of which a node that does not know it says so.
    async fn logs_of_block(
        &self,
        block_hash: [u8; 32],
        contracts: &[EvmAddress],
    ) -> Result<Vec<Log>, ChainError>;
    /// Which transactions our contracts counted in these blocks. A call of theirs that did something ends with a log that counts it,
    /// `BatchInitiated` or `Totals`: a few bytes, where a receipt repeats all that was said. Whoever is not named here did nothing, was
    /// reverted, or is elsewhere: its receipt tells. A node that is not asked that way names nobody.
    async fn counted(
        &self,
        _from: u64,
        _to: u64,
        _contracts: &[EvmAddress],
    ) -> Result<Vec<Counted>, ChainError> {
        Ok(vec![])
    }
    /// What became of a transaction; `None` if it is in no block.
    async fn receipt(&self, tx_hash: [u8; 32]) -> Result<Option<Receipt>, ChainError>;
    /// The next nonce of an address.
    async fn nonce(&self, of: &EvmAddress, at: At) -> Result<u64, ChainError>;
    /// The coins of an address, in wei.
    async fn coins(&self, of: &EvmAddress) -> Result<u128, ChainError>;
    /// The code at an address; empty if there is none.
    async fn code(&self, at: &EvmAddress) -> Result<Vec<u8>, ChainError>;
    /// Runs a transaction without sending it and says how much gas it takes, or why the contracts refuse it.
    async fn estimate(
        &self,
        from: &EvmAddress,
        to: Option<&EvmAddress>,
        calldata: &[u8],
    ) -> Result<u64, ChainError>;
    /// Runs a transaction without sending it, with so much gas and no more. An error says that it did not go through.
    async fn try_call(
        &self,
        from: &EvmAddress,
        to: &EvmAddress,
        calldata: &[u8],
        gas_limit: u64,
    ) -> Result<(), ChainError>;
    /// Reads from a contract, as it was at a block. [`ChainError::Refused`] if the node does not have that state.
    async fn call(
        &self,
        from: &EvmAddress,
        to: &EvmAddress,
        calldata: &[u8],
        at: At,
    ) -> Result<Vec<u8>, ChainError>;
    /// What a transaction costs at present.
    async fn fees(&self) -> Result<Fees, ChainError>;
    /// Is it a ZKsync chain, which has batches? One that refuses to say so offers none.
    async fn has_l1_batches(&self) -> Result<bool, ChainError>;
    /// The batch of a block; `None` if it is in none yet, or the chain does not tell.
    async fn l1_batch(&self, block_number: u64) -> Result<Option<L1Batch>, ChainError>;
    /// Broadcasts signed bytes. Sending what the node already has is no error.
    async fn send(&self, raw: &[u8]) -> Result<(), ChainError>;
}

/// Nodes reached by HTTP.
#[derive(Debug, Clone)]
pub struct HttpChain {
    transport: Arc<dyn Transport>,
    /// What has told of a batch before.
    batches_by: Arc<OnceLock<BatchMethod>>,
}

/// How a ZKsync chain tells the batch of a block. Which it offers is found out by asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BatchMethod {
    /// EraVM's: with the L1 transactions.
    Details,
    /// ZKsync OS's: executed batches only, without L1 transactions.
    Batch,
    /// ZKsync OS's before that was stable: what it does not know yet, it refuses.
    UnstableBatch,
}

impl BatchMethod {
    const ALL: [Self; 3] = [Self::Details, Self::Batch, Self::UnstableBatch];

    const fn name(self) -> &'static str {
        match self {
            Self::Details => "zks_getBlockDetails",
            Self::Batch => "zks_getBatchByBlockNumber",
            Self::UnstableBatch => "unstable_getBatchByBlockNumber",
        }
    }
}

impl HttpChain {
    /// A node at `url`. Each call may take `timeout`.
    pub fn new(url: &str, timeout: Duration) -> Result<Self, ChainError> {
        Ok(Self::over(Arc::new(Http::new(url, None, timeout)?)))
    }

    /// Whatever node the transport chooses.
    pub fn over(transport: Arc<dyn Transport>) -> Self {
        Self { transport, batches_by: Arc::default() }
    }

    /// A node at `url` that serves the chain `chain_id`, and no other.
    pub async fn connect(url: &str, chain_id: u64, timeout: Duration) -> Result<Self, ChainError> {
        let chain = Self::new(url, timeout)?;
        let found = chain.chain_id().await?;
        if found == chain_id {
            Ok(chain)
        } else {
            Err(ChainError::Wrong(format!(
                "the node at {url} serves chain {found}, but chain.chain_id is {chain_id}"
            )))
        }
    }

    pub(crate) async fn chain_id_by(transport: &dyn Transport) -> Result<u64, ChainError> {
        Ok(ask::<U64>(transport, "eth_chainId", json!([])).await?.to())
    }

    pub(crate) async fn block_by(transport: &dyn Transport, at: At) -> Result<Option<Block>, ChainError> {
        let asked = ask::<Option<WireBlock>>(transport, "eth_getBlockByNumber", json!([at.tag(), false]));
        match asked.await {
            Ok(block) => Ok(block.map(WireBlock::read)),
            // A node may call the absence of a block by a tag or a number an error.
            Err(ChainError::Refused(_)) if at != At::Latest => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn ask<T: DeserializeOwned>(&self, method: &'static str, params: Value) -> Result<T, ChainError> {
        ask(&*self.transport, method, params).await
    }

    /// A question about the newest state, asked again if the node does not have what it just called its newest.
    async fn ask_newest<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<T, ChainError> {
        let mut refusal = String::new();
        for _ in 0..ASKED_NEWEST_MAX {
            match self.ask(method, params.clone()).await {
                Err(ChainError::Refused(message)) if is_between_blocks(&message) => refusal = message,
                answer => return answer,
            }
        }
        Err(ChainError::Unavailable(refusal))
    }

    /// The batch of a block by one method, or that it does not offer it.
    async fn l1_batch_by(&self, by: BatchMethod, block_number: u64) -> Result<Option<L1Batch>, ChainError> {
        let (method, params) = (by.name(), json!([block_number]));
        match by {
            BatchMethod::Details => {
                let details: Option<WireDetails> = self.ask(method, params).await?;
                Ok(details.and_then(WireDetails::read))
            }
            BatchMethod::Batch | BatchMethod::UnstableBatch => {
                let told: Option<WireBatch> = self.ask(method, params).await?;
                let Some(batch) = told else { return Ok(None) };
                // Where it does not say so itself, what the node calls finalized is executed.
                let is_executed = batch.execute_sl_block_number.is_some()
                    || self.block(At::Finalized).await?.is_some_and(|block| block.number >= block_number);
                let number = batch.batch_info.batch_number;
                Ok(Some(L1Batch { number, commit_tx: None, prove_tx: None, execute_tx: None, is_executed }))
            }
        }
    }

    async fn ask_logs(&self, wanted: &Filter) -> Result<Vec<Log>, ChainError> {
        let logs: Vec<WireLog> = self.ask("eth_getLogs", json!([wanted])).await?;
        Ok(logs.into_iter().map(WireLog::read).collect())
    }

    /// The logs of a block whose logs the node refuses to list: its receipts have them all, and are not counted. What neither
    /// gives is refused, as it was.
    async fn logs_in_receipts(
        &self,
        block_hash: [u8; 32],
        contracts: &[EvmAddress],
        refusal: String,
    ) -> Result<Vec<Log>, ChainError> {
        let asked = self.ask::<Option<Vec<WireLogs>>>("eth_getBlockReceipts", json!([hash(&block_hash)]));
        let receipts = match asked.await {
            Ok(Some(receipts)) => receipts,
            Ok(None) | Err(ChainError::Refused(_)) => return Err(ChainError::Refused(refusal)),
            Err(error) => return Err(error),
        };
        let wanted: Vec<Address> = contracts.iter().map(address).collect();
        let logs = receipts.into_iter().flat_map(|receipt| receipt.logs).map(WireLog::read);
        Ok(logs.filter(|log| wanted.contains(&log.address())).collect())
    }
}

/// So often a question about the newest state is asked before the node counts as one that does not answer.
const ASKED_NEWEST_MAX: usize = 4;

/// A node that makes or takes in a block at this very moment may resolve "latest" to one whose state it does not give: Anvil
/// says `BlockOutOfRange`, nodes behind a balancer `header not found`. It says nothing about the question.
fn is_between_blocks(message: &str) -> bool {
    message.contains("BlockOutOfRange") || message.contains("header not found")
}

async fn ask<T: DeserializeOwned>(
    transport: &dyn Transport,
    method: &'static str,
    params: Value,
) -> Result<T, ChainError> {
    let answer = transport.ask(method, params).await?;
    serde_json::from_str(answer.get()).map_err(|error| {
        let error = ChainError::Unreadable(format!("{method}: {error}"));
        transport.blame(&error);
        error
    })
}

#[async_trait::async_trait]
impl Chain for HttpChain {
    fn pinned(&self) -> Option<Arc<dyn Chain>> {
        Some(Arc::new(Self::over(self.transport.pinned()?)))
    }

    fn each(&self) -> Vec<Arc<dyn Chain>> {
        let each = self.transport.each().into_iter();
        each.map(|transport| Arc::new(Self::over(transport)) as Arc<dyn Chain>).collect()
    }

    fn others(&self) -> Vec<Arc<dyn Chain>> {
        let others = self.transport.others().into_iter();
        others.map(|transport| Arc::new(Self::over(transport)) as Arc<dyn Chain>).collect()
    }

    async fn chain_id(&self) -> Result<u64, ChainError> {
        Self::chain_id_by(&*self.transport).await
    }

    async fn block(&self, at: At) -> Result<Option<Block>, ChainError> {
        Self::block_by(&*self.transport, at).await
    }

    async fn logs(&self, from: u64, to: u64, contracts: &[EvmAddress]) -> Result<Vec<Log>, ChainError> {
        let wanted = filter(contracts).from_block(from).to_block(to);
        match self.ask_logs(&wanted).await {
            Err(ChainError::Refused(refusal)) if from == to => match self.block(At::Number(from)).await? {
                Some(block) => self.logs_in_receipts(block.hash, contracts, refusal).await,
                None => Err(ChainError::Refused(refusal)),
            },
            answer => answer,
        }
    }

    async fn logs_of_block(
        &self,
        block_hash: [u8; 32],
        contracts: &[EvmAddress],
    ) -> Result<Vec<Log>, ChainError> {
        let wanted = filter(contracts).at_block_hash(hash(&block_hash));
        match self.ask_logs(&wanted).await {
            Err(ChainError::Refused(refusal)) => self.logs_in_receipts(block_hash, contracts, refusal).await,
            answer => answer,
        }
    }

    async fn counted(
        &self,
        from: u64,
        to: u64,
        contracts: &[EvmAddress],
    ) -> Result<Vec<Counted>, ChainError> {
        let counting = vec![BatchInitiated::SIGNATURE_HASH, Totals::SIGNATURE_HASH];
        let wanted = filter(contracts).event_signature(counting).from_block(from).to_block(to);
        let logs = self.ask_logs(&wanted).await?;
        let counted = logs.iter().filter(|log| !log.removed).filter_map(|log| {
            Some(Counted {
                tx_hash: log.transaction_hash?.0,
                block_number: log.block_number?,
                block_hash: log.block_hash?.0,
            })
        });
        Ok(counted.collect())
    }

    async fn receipt(&self, tx_hash: [u8; 32]) -> Result<Option<Receipt>, ChainError> {
        let receipt: Option<WireReceipt> =
            self.ask("eth_getTransactionReceipt", json!([hash(&tx_hash)])).await?;
        Ok(receipt.and_then(WireReceipt::read))
    }

    async fn nonce(&self, of: &EvmAddress, at: At) -> Result<u64, ChainError> {
        Ok(self.ask::<U64>("eth_getTransactionCount", json!([of.to_string(), at.tag()])).await?.to())
    }

    async fn coins(&self, of: &EvmAddress) -> Result<u128, ChainError> {
        let coins: U256 = self.ask_newest("eth_getBalance", json!([of.to_string(), "latest"])).await?;
        Ok(coins.saturating_to())
    }

    async fn code(&self, at: &EvmAddress) -> Result<Vec<u8>, ChainError> {
        Ok(self.ask_newest::<Bytes>("eth_getCode", json!([at.to_string(), "latest"])).await?.to_vec())
    }

    async fn estimate(
        &self,
        from: &EvmAddress,
        to: Option<&EvmAddress>,
        calldata: &[u8],
    ) -> Result<u64, ChainError> {
        let mut request = json!({ "from": from.to_string(), "data": alloy::hex::encode_prefixed(calldata) });
        if let (Some(to), Some(fields)) = (to, request.as_object_mut()) {
            fields.insert("to".into(), json!(to.to_string()));
        }
        Ok(self.ask_newest::<U64>("eth_estimateGas", json!([request])).await?.to())
    }

    async fn try_call(
        &self,
        from: &EvmAddress,
        to: &EvmAddress,
        calldata: &[u8],
        gas_limit: u64,
    ) -> Result<(), ChainError> {
        let request = json!({
            "from": from.to_string(), "to": to.to_string(), "data": alloy::hex::encode_prefixed(calldata),
            "gas": format!("{gas_limit:#x}"),
        });
        self.ask_newest::<Bytes>("eth_call", json!([request, "latest"])).await.map(drop)
    }

    async fn call(
        &self,
        from: &EvmAddress,
        to: &EvmAddress,
        calldata: &[u8],
        at: At,
    ) -> Result<Vec<u8>, ChainError> {
        let request = json!({
            "from": from.to_string(), "to": to.to_string(), "data": alloy::hex::encode_prefixed(calldata),
        });
        let params = json!([request, at.tag()]);
        let answer: Bytes = if at == At::Latest {
            self.ask_newest("eth_call", params).await?
        } else {
            self.ask("eth_call", params).await?
        };
        Ok(answer.to_vec())
    }

    async fn fees(&self) -> Result<Fees, ChainError> {
        let (latest, priority) =
            tokio::join!(self.block(At::Latest), self.ask::<U256>("eth_maxPriorityFeePerGas", json!([])));
        let base = latest?.map_or(0, |block| block.base_fee);
        let priority = match priority {
            Ok(priority) => priority.saturating_to(),
            Err(ChainError::Refused(_)) => 0,
            Err(error) => return Err(error),
        };
        Ok(Fees { base, priority })
    }

    async fn has_l1_batches(&self) -> Result<bool, ChainError> {
        match self.ask::<Value>("zks_getBridgehubContract", json!([])).await {
            Ok(bridgehub) => Ok(!bridgehub.is_null()),
            Err(ChainError::Refused(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn l1_batch(&self, block_number: u64) -> Result<Option<L1Batch>, ChainError> {
        // What has told of a batch before is the only one that is asked until the next start: it also refuses what it does not know yet.
        let known = self.batches_by.get();
        for method in known.map_or(&BatchMethod::ALL[..], std::slice::from_ref) {
            match self.l1_batch_by(*method, block_number).await {
                // Not every ZKsync chain has every method, and not every proxy allows it.
                Err(ChainError::Refused(_) | ChainError::Forbidden(_)) => {}
                Ok(batch) => {
                    self.batches_by.get_or_init(|| *method);
                    return Ok(batch);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    async fn send(&self, raw: &[u8]) -> Result<(), ChainError> {
        let sent =
            self.ask::<B256>("eth_sendRawTransaction", json!([alloy::hex::encode_prefixed(raw)])).await;
        match sent {
            Ok(_) => Ok(()),
            Err(ChainError::Refused(message)) => read_send_error(message),
            Err(error) => Err(error),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireBlock {
    number: U64,
    hash: B256,
    parent_hash: B256,
    timestamp: U64,
    base_fee_per_gas: Option<U256>,
}

impl WireBlock {
    fn read(self) -> Block {
        Block {
            number: self.number.to(),
            hash: self.hash.0,
            parent: self.parent_hash.0,
            time: Timestamp::from_secs(i64::try_from(self.timestamp.to::<u64>()).unwrap_or(i64::MAX)),
            base_fee: self.base_fee_per_gas.map_or(0, |fee| fee.saturating_to()),
        }
    }
}

/// As ZKsync's documentation has it; what is not there yet is null or left out.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireDetails {
    l1_batch_number: Option<u64>,
    commit_tx_hash: Option<B256>,
    prove_tx_hash: Option<B256>,
    execute_tx_hash: Option<B256>,
}

impl WireDetails {
    fn read(self) -> Option<L1Batch> {
        let bytes = |hash: Option<B256>| hash.map(|hash| hash.0);
        Some(L1Batch {
            number: self.l1_batch_number?,
            commit_tx: bytes(self.commit_tx_hash),
            prove_tx: bytes(self.prove_tx_hash),
            execute_tx: bytes(self.execute_tx_hash),
            is_executed: self.execute_tx_hash.is_some(),
        })
    }
}

/// As ZKsync OS has it, of which only this is wanted.
#[derive(Deserialize)]
struct WireBatch {
    batch_info: WireBatchInfo,
    /// The block of the chain below in which it was executed; not there in older versions.
    execute_sl_block_number: Option<u64>,
}

#[derive(Deserialize)]
struct WireBatchInfo {
    batch_number: u64,
}

/// A receipt, of which only the logs are wanted.
#[derive(Deserialize)]
struct WireLogs {
    logs: Vec<WireLog>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireReceipt {
    status: U64,
    block_number: Option<U64>,
    block_hash: Option<B256>,
    gas_used: U64,
    contract_address: Option<Address>,
}

impl WireReceipt {
    /// A receipt without a block is of a transaction that still waits.
    fn read(self) -> Option<Receipt> {
        Some(Receipt {
            succeeded: self.status.to::<u64>() == 1,
            block_number: self.block_number?.to(),
            block_hash: self.block_hash?.0,
            gas_used: self.gas_used.to(),
            created: self.contract_address.and_then(crate::bindings::wallet),
        })
    }
}

/// A log as nodes write it. alloy's own type reads the same by way of a buffer for all its fields, which is slow for a block's thousands.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireLog {
    address: Address,
    topics: Vec<B256>,
    data: Bytes,
    block_number: Option<U64>,
    block_hash: Option<B256>,
    transaction_hash: Option<B256>,
    log_index: Option<U64>,
    #[serde(default)]
    removed: bool,
}

impl WireLog {
    fn read(self) -> Log {
        let data = LogData::new_unchecked(self.topics, self.data);
        Log {
            inner: alloy::primitives::Log { address: self.address, data },
            block_hash: self.block_hash,
            block_number: self.block_number.map(|number| number.to()),
            transaction_hash: self.transaction_hash,
            log_index: self.log_index.map(|index| index.to()),
            removed: self.removed,
            ..Log::default()
        }
    }
}

fn filter(contracts: &[EvmAddress]) -> Filter {
    Filter::new().address(contracts.iter().map(address).collect::<Vec<_>>())
}

/// Nodes agree on these sentences, not on codes.
fn read_send_error(message: String) -> Result<(), ChainError> {
    let text = message.to_lowercase();
    if text.contains("already known") || text.contains("already imported") || text.contains("already exists")
    {
        Ok(())
    } else if text.contains("nonce too low") || text.contains("nonce is too low") {
        Err(ChainError::NonceUsed)
    } else if text.contains("underpriced") || text.contains("fee") && text.contains("less than") {
        Err(ChainError::Underpriced)
    } else {
        Err(ChainError::Refused(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A node that is between two blocks for the first questions.
    #[derive(Debug)]
    struct Busy(AtomicUsize);

    #[async_trait::async_trait]
    impl Transport for Busy {
        async fn ask(&self, _: &'static str, _: Value) -> Result<Box<RawValue>, ChainError> {
            let left = self.0.load(Ordering::Relaxed);
            if left > 0 {
                self.0.store(left - 1, Ordering::Relaxed);
                return Err(ChainError::Refused(
                    "BlockOutOfRangeError: block height is 31 but requested was 30".into(),
                ));
            }
            RawValue::from_string("\"0x2a\"".into())
                .map_err(|error| ChainError::Unreadable(error.to_string()))
        }
    }

    #[tokio::test]
    async fn a_node_between_two_blocks_is_asked_again_and_refuses_nothing() {
        let somebody = EvmAddress::from_bytes([0xaa; 20]);
        let coins_after = |refusals| async move {
            HttpChain::over(Arc::new(Busy(AtomicUsize::new(refusals)))).coins(&somebody).await
        };
        assert_eq!(coins_after(ASKED_NEWEST_MAX - 1).await, Ok(42));
        assert!(coins_after(ASKED_NEWEST_MAX).await.is_err_and(|error| error.is_retryable()));
    }

    #[test]
    fn what_a_node_says_about_a_broadcast_is_understood() {
        let known = ["already known", "transaction already imported"];
        assert!(known.iter().all(|text| read_send_error((*text).into()).is_ok()));
        assert_eq!(read_send_error("nonce too low".into()), Err(ChainError::NonceUsed));
        for text in [
            "replacement transaction underpriced",
            "max fee per gas less than block base fee",
            "transaction underpriced: gas tip cap 1",
        ] {
            assert_eq!(read_send_error(text.into()), Err(ChainError::Underpriced), "{text}");
        }
        assert!(matches!(
            read_send_error("Insufficient funds for gas * price + value".into()),
            Err(ChainError::Refused(_))
        ));
    }
}
