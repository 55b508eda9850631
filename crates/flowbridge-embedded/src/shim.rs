//! A simulation: what stands between a chain's client and its nodes, and what a ZKsync chain answers that Anvil does not.
//!
//! Speaks JSON-RPC in front of a real node and passes everything on, except what it is told to spoil ([`Weather`]: stalls, cuts,
//! limits, a method that is not allowed, logs that are not shown, a stale head, a fork, another chain) and what it adds as a ZKsync chain would ([`Zks`]):
//! `zks_*` methods, `safe` and `finalized` that lag by batches, gas for pubdata, a limit on what one call may take, a limit on
//! logs per query, and a system transaction in every block, of a type that no client of Ethereum's reads. It is no ZKsync node:
//! nothing is committed or proven anywhere.
//!
//! [`SocketLine`] does the same to a WebSocket, frame by frame; either may want a bearer token, as a proxy does.

use alloy::consensus::{Transaction as _, TxEnvelope};
use alloy::eips::eip2718::Decodable2718 as _;
use alloy::primitives::Address;
use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happens to questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// They are passed on.
    Fair,
    /// They are never answered.
    Stall,
    /// The connection breaks before the answer is there; the question may have been passed on.
    Cut,
    /// They are refused with HTTP 429 and this `Retry-After`, in seconds.
    Limited(u64),
    /// A proxy does not allow this method: it is refused with HTTP 403.
    Forbids(&'static str),
    /// The node has stopped following the chain at this block, and knows nothing of what came after.
    Stale(u64),
    /// The node follows another fork: every block has another hash.
    Fork,
    /// The node serves another chain.
    OtherChain(u64),
    /// They are answered with JSON that is no answer to them.
    Nonsense,
    /// Of blocks up to this one no logs are shown, as by a node whose index is behind its chain.
    LeavesOut(u64),
    /// No receipt is there yet, as of a block that a node has carried out and not written down.
    NoReceipts,
    /// Calls with more calldata than so many bytes are refused, in the node's own words.
    TooLong(usize),
    /// Transactions are taken and counted as pending, and passed on to nobody.
    KeepsToItself,
}

/// How a ZKsync chain tells of batches. The shapes are those of its documentation and source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batches {
    /// EraVM: `zks_getBlockDetails`, with the L1 transactions of each stage.
    Era,
    /// ZKsync OS: `zks_getBatchByBlockNumber`, which knows executed batches and names no transactions.
    Os,
    /// The same before it was stable: `unstable_getBatchByBlockNumber`, where a batch that is not executed is an error.
    OsUnstable,
}

/// What a ZKsync chain does that Anvil does not.
#[derive(Debug, Clone, Copy)]
pub struct Zks {
    /// How it tells of batches.
    pub batches: Batches,
    /// Blocks in one batch.
    pub batch_blocks: u64,
    /// Whole batches behind the head until a batch is committed to L1.
    pub commit_lag: u64,
    /// Whole batches behind the head until a batch is executed on L1.
    pub execute_lag: u64,
    /// Gas that pubdata adds, in percent of the rest.
    pub pubdata_percent: u64,
    /// What an estimate says of the gas that a call takes, in percent: below 100 where pubdata gets dearer until it is included.
    pub estimate_percent: u64,
    /// Gas, that for pubdata included, beyond which a call is out of the chain's own resources.
    pub gas_max: u64,
    /// Logs in one answer at most.
    pub logs_max: usize,
}

/// A node as its client sees it.
#[derive(Debug)]
pub struct Shim {
    inner: Arc<Inner>,
    address: SocketAddr,
    serving: JoinHandle<()>,
}

#[derive(Debug)]
struct Inner {
    upstream: String,
    http: reqwest::Client,
    weather: Mutex<Weather>,
    zks: Option<Zks>,
    token: Mutex<Option<String>>,
    questions: AtomicU64,
    too_many: AtomicU32,
    exhausted: AtomicU32,
    whole_blocks: AtomicU32,
    receipts_missing: AtomicU32,
    /// The next nonce of whose transactions were kept, by address.
    kept: Mutex<HashMap<Address, u64>>,
}

impl Drop for Shim {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Shim {
    /// Stands before the node at `upstream`, on a free port.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(upstream: &str, zks: Option<Zks>) -> Result<Self> {
        Self::start_with(upstream, zks, None).await
    }

    /// The same as a proxy that wants a bearer token.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(upstream: &str, zks: Option<Zks>, token: Option<&str>) -> Result<Self> {
        let inner = Arc::new(Inner {
            upstream: upstream.to_owned(),
            http: reqwest::Client::new(),
            weather: Mutex::new(Weather::Fair),
            zks,
            token: Mutex::new(token.map(str::to_owned)),
            questions: AtomicU64::new(0),
            too_many: AtomicU32::new(0),
            exhausted: AtomicU32::new(0),
            whole_blocks: AtomicU32::new(0),
            receipts_missing: AtomicU32::new(0),
            kept: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no free port")?;
        let address = listener.local_addr()?;
        let router = Router::new().route("/", post(answer)).with_state(inner.clone());
        let serving = tokio::spawn(async move {
            // It ends with the test that holds it.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { inner, address, serving })
    }

    /// `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on.
    pub fn set(&self, weather: Weather) {
        *self.inner.weather.lock().unwrap_or_else(PoisonError::into_inner) = weather;
    }

    /// From now on it wants this token, and no other.
    pub fn want_token(&self, token: &str) {
        *self.inner.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.to_owned());
    }

    /// Questions that came so far.
    pub fn questions(&self) -> u64 {
        self.inner.questions.load(Ordering::Relaxed)
    }

    /// How often it said that a query has too many results.
    pub fn too_many_results(&self) -> u32 {
        self.inner.too_many.load(Ordering::Relaxed)
    }

    /// How often it said that a call is out of native resources.
    pub fn out_of_resources(&self) -> u32 {
        self.inner.exhausted.load(Ordering::Relaxed)
    }

    /// How often it had no receipt.
    pub fn receipts_missing(&self) -> u32 {
        self.inner.receipts_missing.load(Ordering::Relaxed)
    }

    /// How often somebody asked for a block with its transactions.
    pub fn whole_blocks(&self) -> u32 {
        self.inner.whole_blocks.load(Ordering::Relaxed)
    }
}

async fn answer(State(inner): State<Arc<Inner>>, headers: HeaderMap, body: Bytes) -> Response {
    inner.questions.fetch_add(1, Ordering::Relaxed);
    let wanted = inner.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(token) = wanted {
        let given = headers.get("authorization").and_then(|value| value.to_str().ok());
        if given != Some(&format!("Bearer {token}")) {
            return StatusCode::UNAUTHORIZED.into_response();
        }
    }
    let weather = *inner.weather.lock().unwrap_or_else(PoisonError::into_inner);
    let Ok(question) = serde_json::from_slice::<Value>(&body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    match weather {
        Weather::Stall => std::future::pending().await,
        Weather::Limited(seconds) => {
            return (StatusCode::TOO_MANY_REQUESTS, [("retry-after", seconds.to_string())]).into_response();
        }
        Weather::Forbids(method) if question["method"] == method => {
            return StatusCode::FORBIDDEN.into_response();
        }
        Weather::Cut => {
            let _ = inner.reply(&question, weather).await;
            let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
            return Response::new(Body::from_stream(futures_once(broken)));
        }
        Weather::Nonsense => {
            let moon =
                serde_json::json!({ "jsonrpc": "2.0", "id": question["id"], "result": { "moon": "full" } });
            return axum::Json(moon).into_response();
        }
        Weather::Fair
        | Weather::Forbids(_)
        | Weather::Stale(_)
        | Weather::Fork
        | Weather::OtherChain(_)
        | Weather::LeavesOut(_)
        | Weather::NoReceipts
        | Weather::TooLong(_)
        | Weather::KeepsToItself => {}
    }
    match inner.reply(&question, weather).await {
        Ok(reply) => axum::Json(reply).into_response(),
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}

/// A body that breaks off at once.
fn futures_once(
    error: std::io::Error,
) -> impl futures_util::Stream<Item = Result<Bytes, std::io::Error>> + Send {
    futures_util::stream::once(async move { Err(error) })
}

impl Inner {
    async fn reply(&self, question: &Value, weather: Weather) -> Result<Value> {
        let method = question["method"].as_str().unwrap_or_default();
        let mut params = question["params"].clone();
        let with = |field: &str, value: Value| {
            let mut reply = json!({ "jsonrpc": "2.0", "id": question["id"] });
            reply[field] = value;
            reply
        };
        let refuse = |message: &str| with("error", json!({ "code": -32000, "message": message }));
        if let Weather::OtherChain(id) = weather
            && method == "eth_chainId"
        {
            return Ok(with("result", json!(format!("{id:#x}"))));
        }
        if let Weather::TooLong(bytes) = weather
            && matches!(method, "eth_call" | "eth_estimateGas")
            && params[0]["data"].as_str().is_some_and(|data| data.len() > 2 + 2 * bytes)
        {
            return Ok(refuse("oversized data"));
        }
        if weather == Weather::KeepsToItself && method == "eth_sendRawTransaction" {
            let raw = alloy::hex::decode(params[0].as_str().unwrap_or_default())?;
            let kept = TxEnvelope::decode_2718(&mut raw.as_slice())?;
            let sender = kept.signature().recover_address_from_prehash(&kept.signature_hash())?;
            let mut counted = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let next = counted.entry(sender).or_default();
            *next = (kept.nonce() + 1).max(*next);
            return Ok(with("result", json!(kept.tx_hash())));
        }
        if weather == Weather::NoReceipts && method == "eth_getTransactionReceipt" {
            self.receipts_missing.fetch_add(1, Ordering::Relaxed);
            return Ok(with("result", Value::Null));
        }
        // What says of a transaction that it went through is a receipt, too.
        if weather == Weather::NoReceipts && method == "eth_getLogs" && !params[0]["topics"].is_null() {
            return Ok(with("result", json!([])));
        }
        if method == "eth_getBlockByNumber" && params[1] == json!(true) {
            self.whole_blocks.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(zks) = &self.zks {
            match self.zks_method(zks, method, &params).await? {
                Some(Value::Null) if method.starts_with("unstable_") => {
                    return Ok(refuse("batch is not available yet"));
                }
                Some(result) => return Ok(with("result", result)),
                None => {}
            }
        }
        if let Some(zks) = &self.zks
            && let Some(gas) = self.gas_of(zks, method, &params).await?
        {
            if gas > zks.gas_max {
                self.exhausted.fetch_add(1, Ordering::Relaxed);
                return Ok(refuse("execution failed: out of native resources during execution"));
            }
            if method == "eth_estimateGas" {
                let estimate = gas * zks.estimate_percent / 100;
                return Ok(with("result", json!(format!("{estimate:#x}"))));
            }
        }
        self.rewrite(method, &mut params, weather).await?;
        let mut reply = self.ask(method, &params, &question["id"]).await?;
        if weather == Weather::KeepsToItself && method == "eth_getTransactionCount" && params[1] == "pending"
        {
            let of = params[0].as_str().and_then(|address| address.parse().ok()).unwrap_or(Address::ZERO);
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(&of).copied();
            let pending = number(&reply["result"]).unwrap_or_default().max(kept.unwrap_or_default());
            reply["result"] = json!(format!("{pending:#x}"));
        }
        self.spoil(method, &mut reply, weather);
        if self.zks.is_some()
            && let Some(result) = reply.get_mut("result")
        {
            add_system_transaction(method, &params, result);
        }
        if let Some(zks) = &self.zks
            && method == "eth_getLogs"
            && reply["result"].as_array().is_some_and(|logs| logs.len() > zks.logs_max)
        {
            self.too_many.fetch_add(1, Ordering::Relaxed);
            return Ok(refuse("query returns too many results: narrow the range of blocks"));
        }
        Ok(reply)
    }

    /// The gas that a call takes with its pubdata, where it is asked for an estimate or run with a limit. `None` for every other
    /// question, and for a call that does not go through anyway.
    async fn gas_of(&self, zks: &Zks, method: &str, params: &Value) -> Result<Option<u64>> {
        if method != "eth_estimateGas" && (method != "eth_call" || params[0]["gas"].is_null()) {
            return Ok(None);
        }
        let estimate = self.ask("eth_estimateGas", &json!([params[0]]), &json!(0)).await?;
        Ok(number(&estimate["result"]).map(|gas| gas + gas * zks.pubdata_percent / 100))
    }

    /// Makes a question one about what the node still knows, and `safe` and `finalized` what batches say.
    async fn rewrite(&self, method: &str, params: &mut Value, weather: Weather) -> Result<()> {
        let place = match method {
            "eth_getBlockByNumber" => 0,
            "eth_getTransactionCount" => 1,
            "eth_getLogs" => {
                if let Weather::Stale(last) = weather
                    && let Some(to) = number(&params[0]["toBlock"])
                {
                    params[0]["toBlock"] = json!(format!("{:#x}", to.min(last)));
                }
                return Ok(());
            }
            _ => return Ok(()),
        };
        if let Some(zks) = &self.zks
            && let lag @ (Some("safe") | Some("finalized")) = params[place].as_str()
        {
            let lag = if lag == Some("safe") { zks.commit_lag } else { zks.execute_lag };
            params[place] = json!(format!("{:#x}", self.last_block_of_batch(zks, lag).await?));
        }
        if let Weather::Stale(last) = weather
            && number(&params[place]).is_none_or(|number| number > last)
            && params[place].as_str().is_some_and(|tag| tag == "latest" || tag == "pending")
        {
            params[place] = json!(format!("{last:#x}"));
        }
        Ok(())
    }

    /// Takes away what the node does not know, or what it knows otherwise.
    fn spoil(&self, method: &str, reply: &mut Value, weather: Weather) {
        match (weather, method) {
            (Weather::Stale(last), "eth_getBlockByNumber")
                if number(&reply["result"]["number"]).is_some_and(|number| number > last) =>
            {
                reply["result"] = Value::Null;
            }
            (Weather::Stale(last), "eth_getTransactionReceipt")
                if number(&reply["result"]["blockNumber"]).is_some_and(|number| number > last) =>
            {
                reply["result"] = Value::Null;
            }
            (Weather::LeavesOut(last), "eth_getLogs") => {
                if let Some(logs) = reply["result"].as_array_mut() {
                    logs.retain(|log| number(&log["blockNumber"]).is_some_and(|number| number > last));
                }
            }
            (Weather::Fork, "eth_getBlockByNumber") if reply["result"]["hash"].is_string() => {
                let hash = reply["result"]["hash"].as_str().unwrap_or_default();
                reply["result"]["hash"] = json!(format!("0xf0{}", hash.get(4..).unwrap_or_default()));
            }
            _ => {}
        }
    }

    async fn ask(&self, method: &str, params: &Value, id: &Value) -> Result<Value> {
        let question = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        Ok(self.http.post(&self.upstream).json(&question).send().await?.json().await?)
    }

    async fn head(&self) -> Result<u64> {
        let reply = self.ask("eth_blockNumber", &json!([]), &json!(0)).await?;
        number(&reply["result"]).context("no head")
    }

    /// The last block of the newest batch that `lag` whole batches follow.
    async fn last_block_of_batch(&self, zks: &Zks, lag: u64) -> Result<u64> {
        let whole = self.head().await? / zks.batch_blocks.max(1);
        Ok((whole.saturating_sub(lag) * zks.batch_blocks).saturating_sub(1))
    }

    /// The answers of the methods that the chain has.
    async fn zks_method(&self, zks: &Zks, method: &str, params: &Value) -> Result<Option<Value>> {
        Ok(match (method, zks.batches) {
            ("zks_getBridgehubContract", _) => Some(json!(format!("0x{}", "b4".repeat(20)))),
            ("zks_getBatchByBlockNumber", Batches::Os)
            | ("unstable_getBatchByBlockNumber", Batches::OsUnstable) => {
                let Some(block) = params[0].as_u64() else { return Ok(Some(Value::Null)) };
                let size = zks.batch_blocks.max(1);
                let batch = block / size;
                if block > self.last_block_of_batch(zks, zks.execute_lag).await? {
                    return Ok(Some(Value::Null));
                }
                Some(json!({
                    "batch_info": { "batch_number": batch, "number_of_layer1_txs": 0 },
                    "block_range": { "start": batch * size, "end": batch * size + size - 1 },
                    "execute_sl_block_number": 1_000 + batch,
                }))
            }
            ("zks_getBlockDetails", Batches::Era) => {
                let Some(block) = params[0].as_u64() else { return Ok(Some(Value::Null)) };
                let batch = block / zks.batch_blocks.max(1);
                let hash = |step: u8, lag: u64, safe: u64| {
                    (block <= safe).then(|| format!("0x{step:02x}{lag:02x}{batch:060x}"))
                };
                let committed = self.last_block_of_batch(zks, zks.commit_lag).await?;
                let executed = self.last_block_of_batch(zks, zks.execute_lag).await?;
                Some(json!({
                    "number": block,
                    "l1BatchNumber": batch,
                    "commitTxHash": hash(0xc0, 0, committed),
                    "proveTxHash": hash(0xde, 0, executed),
                    "executeTxHash": hash(0xee, 0, executed),
                }))
            }
            _ => None,
        })
    }
}

/// Every block begins with a transaction of the chain's own: a priority transaction, or in every other block an upgrade.
fn add_system_transaction(method: &str, params: &Value, result: &mut Value) {
    let added = |block: &Value, hash: &Value| {
        let kind = if number(block).is_some_and(|block| block % 2 == 1) { "0x7e" } else { "0x7f" };
        let own = format!("0x5e{}", hash.as_str().and_then(|hash| hash.get(4..)).unwrap_or_default());
        json!({
            "type": kind, "hash": own, "transactionHash": own, "transactionIndex": "0x0", "blockNumber": block, "blockHash": hash,
            "from": SYSTEM, "to": SYSTEM, "nonce": "0x0", "gas": "0x0", "gasPrice": "0x0", "value": "0x0", "input": "0x",
            "status": "0x1", "gasUsed": "0x0", "cumulativeGasUsed": "0x0", "logs": [],
        })
    };
    match method {
        "eth_getBlockByNumber" => {
            let system = added(&result["number"], &result["hash"]);
            if let Some(transactions) = result.get_mut("transactions").and_then(Value::as_array_mut) {
                let is_whole = params[1] == json!(true);
                transactions.insert(0, if is_whole { system } else { system["hash"].clone() });
            }
        }
        "eth_getBlockReceipts" => {
            if let Some(receipts) = result.as_array_mut()
                && let Some(first) = receipts.first()
            {
                let system = added(&first["blockNumber"], &first["blockHash"]);
                receipts.insert(0, system);
            }
        }
        _ => {}
    }
}

/// Where the transactions of the chain's own come from.
const SYSTEM: &str = "0x0000000000000000000000000000000000008001";

fn number(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?.strip_prefix("0x")?, 16).ok()
}

/// What happens to a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketWeather {
    /// Everything passes.
    Fair,
    /// Nothing passes, and nothing breaks.
    Stall,
    /// Connections break, and new ones at once.
    Cut,
    /// Every message of the node comes twice.
    Twice,
}

/// A way to a node's WebSocket.
#[derive(Debug)]
pub struct SocketLine {
    address: SocketAddr,
    weather: watch::Sender<SocketWeather>,
    token: Arc<Mutex<Option<String>>>,
    serving: JoinHandle<()>,
}

impl Drop for SocketLine {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl SocketLine {
    /// Leads to the node at `upstream`, `ws://host:port`.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(upstream: &str) -> Result<Self> {
        Self::start_with(upstream, None).await
    }

    /// The same as a proxy that wants a bearer token.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(upstream: &str, token: Option<&str>) -> Result<Self> {
        let token = Arc::new(Mutex::new(token.map(str::to_owned)));
        let wanted = token.clone();
        let upstream = upstream.trim_start_matches("ws://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no free port")?;
        let address = listener.local_addr()?;
        let (weather, looked_at) = watch::channel(SocketWeather::Fair);
        let serving = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (upstream, weather, wanted) = (upstream.clone(), looked_at.clone(), wanted.clone());
                tokio::spawn(async move {
                    // A line that broke is what this is for.
                    let _ = carry(client, &upstream, weather, &wanted).await;
                });
            }
        });
        Ok(Self { address, weather, token, serving })
    }

    /// Whoever connects from now on has to show this token.
    pub fn want_token(&self, token: &str) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.to_owned());
    }

    /// `ws://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// From now on.
    pub fn set(&self, weather: SocketWeather) {
        let _ = self.weather.send(weather);
    }
}

async fn carry(
    client: TcpStream,
    upstream: &str,
    mut weather: watch::Receiver<SocketWeather>,
    token: &Mutex<Option<String>>,
) -> Result<()> {
    let node = TcpStream::connect(upstream).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_node, mut to_node) = node.into_split();
    let asked = read_head(&mut from_client).await?;
    let wanted = token.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if wanted.is_some_and(|token| !shows(&asked, &token)) {
        return Ok(to_client.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").await?);
    }
    to_node.write_all(&asked).await?;
    let up = tokio::io::copy(&mut from_client, &mut to_node);
    let state = weather.clone();
    let down = async {
        to_client.write_all(&read_head(&mut from_node).await?).await?;
        loop {
            let frame = read_frame(&mut from_node).await?;
            let now = *state.borrow();
            match now {
                SocketWeather::Fair => to_client.write_all(&frame).await?,
                SocketWeather::Twice => to_client.write_all(&[frame.clone(), frame].concat()).await?,
                SocketWeather::Stall => {}
                SocketWeather::Cut => return anyhow::Ok(()),
            }
        }
    };
    let cut = async {
        while *weather.borrow_and_update() != SocketWeather::Cut {
            if weather.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        _ = up => {}
        ended = down => ended?,
        () = cut => {}
    }
    Ok(())
}

/// A question or an answer of the handshake.
async fn read_head(from: &mut tokio::net::tcp::OwnedReadHalf) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(from.read_u8().await?);
    }
    Ok(head)
}

/// Does the question show this token?
fn shows(head: &[u8], token: &str) -> bool {
    let wanted = format!("Bearer {token}");
    let head = String::from_utf8_lossy(head);
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.any(|(name, value)| name.eq_ignore_ascii_case("authorization") && value.trim() == wanted)
}

/// One frame of a server's, which is never masked.
async fn read_frame(from: &mut tokio::net::tcp::OwnedReadHalf) -> Result<Vec<u8>> {
    const PATIENCE: Duration = Duration::from_secs(3_600);
    let mut frame = vec![0; 2];
    tokio::time::timeout(PATIENCE, from.read_exact(&mut frame)).await??;
    let extended = match frame[1] & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mut length = u64::from(frame[1] & 0x7f);
    if extended > 0 {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes[8 - extended..]).await?;
        frame.extend_from_slice(&bytes[8 - extended..]);
        length = u64::from_be_bytes(bytes);
    }
    let mut payload = vec![0; usize::try_from(length)?];
    from.read_exact(&mut payload).await?;
    frame.extend_from_slice(&payload);
    Ok(frame)
}
