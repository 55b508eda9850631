//! Reading the chain, block by block, from a place that the caller keeps.
//!
//! [`next`] looks at the node and at the place and says what to do: take in a stretch of blocks, go back because the chain did,
//! or nothing. It keeps nothing, so what it says is repeated until the caller's place has moved. A node that is behind us is
//! waited for; a block that is not the one we took in is a reorganisation, and the way back ends at the newest block that
//! both know. Near the head, where a reorganisation may come at any time, the blocks of a stretch have to hang together and
//! logs are asked for by their block's hash; deep below it, by ranges.
//!
//! The [`Bell`] listens for new heads on a WebSocket. It only wakes: if it drops, stalls or lies, the next poll finds the same.

use crate::bearer::Bearer;
use crate::client::{At, Block, Chain};
use crate::error::ChainError;
use crate::log::{self, ContractSet, Said, SeenLog};
use alloy::providers::{Provider as _, ProviderBuilder, WsConnect};
use alloy::rpc::types::Log;
use alloy::transports::Authorization;
use flowbridge_domain::party::EvmAddress;
use futures_util::future::join_all;
use futures_util::{StreamExt as _, TryStreamExt as _};
use secrecy::ExposeSecret as _;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::time::Duration;

/// When a log counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finality {
    /// With so many blocks, its own included.
    Confirmations(u64),
    /// When the node calls its block safe.
    Safe,
    /// When the node calls its block finalized.
    Finalized,
}

impl Finality {
    /// Reads `confirmations:N` (N at least 1), `safe` or `finalized`.
    pub fn parse(text: &str) -> Result<Self, ChainError> {
        let confirmations = text.strip_prefix("confirmations:").and_then(|count| count.parse().ok());
        match (text, confirmations) {
            ("safe", _) => Ok(Self::Safe),
            ("finalized", _) => Ok(Self::Finalized),
            (_, Some(count)) if count > 0 => Ok(Self::Confirmations(count)),
            _ => Err(ChainError::Wrong(format!(
                "chain.finality {text:?} is none of confirmations:N, safe, finalized"
            ))),
        }
    }

    /// The newest block whose logs count.
    pub fn final_number(self, head: &Head) -> u64 {
        match self {
            Self::Confirmations(count) => head.latest.number.saturating_sub(count.saturating_sub(1)),
            Self::Safe => head.safe.number,
            Self::Finalized => head.finalized.number,
        }
    }
}

impl fmt::Display for Finality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Confirmations(count) => write!(f, "confirmations:{count}"),
            Self::Safe => f.write_str("safe"),
            Self::Finalized => f.write_str("finalized"),
        }
    }
}

/// How far the chain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The newest block.
    pub latest: Block,
    /// The newest that the node calls safe.
    pub safe: Block,
    /// The newest that it calls finalized.
    pub finalized: Block,
}

impl Head {
    /// Asks the node.
    pub async fn read(chain: &dyn Chain) -> Result<Self, ChainError> {
        let (latest, safe, finalized) =
            tokio::join!(chain.block(At::Latest), chain.block(At::Safe), chain.block(At::Finalized));
        let latest = latest?.ok_or_else(|| ChainError::Unreadable("the chain has no newest block".into()))?;
        // Right after its genesis a chain has nothing safe or finalized.
        let genesis = || async {
            let genesis = chain.block(At::Number(0)).await?;
            genesis.ok_or_else(|| ChainError::Unreadable("the chain has no first block".into()))
        };
        let safe = match safe? {
            Some(block) => block,
            None => genesis().await?,
        };
        let finalized = match finalized? {
            Some(block) => block,
            None => genesis().await?,
        };
        Ok(Self { latest, safe, finalized })
    }

    /// Asks the node for its newest block only, and takes over how far finality is from what was read a moment ago, by this node or one
    /// like it. Where the chain has visibly gone back since then, that is asked for as well.
    pub async fn newest(chain: &dyn Chain, known: &Self) -> Result<Self, ChainError> {
        let latest = chain.block(At::Latest).await?;
        let latest = latest.ok_or_else(|| ChainError::Unreadable("the chain has no newest block".into()))?;
        let goes_on = latest.number > known.latest.number || latest == known.latest;
        if goes_on { Ok(Self { latest, ..*known }) } else { Self::read(chain).await }
    }
}

/// Limits of the watcher.
#[derive(Debug, Clone, Copy)]
pub struct WatchSettings {
    /// When a log counts.
    pub finality: Finality,
    /// How far back the chain may go without a person.
    pub reorg_depth_blocks_max: u64,
    /// Blocks in one stretch at most, when there are many to catch up with.
    pub stretch_blocks_max: u64,
    /// Logs in one stretch at most, unless one block has more.
    pub stretch_logs_max: usize,
}

/// Where the caller is.
#[derive(Debug, Clone)]
pub struct Place {
    /// The last block taken in.
    pub number: u64,
    /// Its hash.
    pub hash: [u8; 32],
    /// Blocks taken in, newest first, as many as are remembered.
    pub known: Vec<(u64, [u8; 32])>,
    /// The head when the place was last written.
    pub head: Option<Head>,
    /// Blocks to ask for at once while there are many: what the last stretch said, [`REACH_FIRST`] to begin with.
    pub reach: u64,
}

/// Who knows nothing of how full the chain is begins with so many blocks at once.
pub const REACH_FIRST: u64 = 64;

/// A stretch of the chain to take in.
#[derive(Debug, Clone)]
pub struct Stretch {
    /// The last block of it: the next place.
    pub last: Block,
    /// Its blocks, as many as a reorganisation may touch.
    pub blocks: Vec<Block>,
    /// Its logs, in order.
    pub logs: Vec<SeenLog>,
    /// Logs up to here count.
    pub announce_to: u64,
    /// How far the chain is.
    pub head: Head,
    /// Blocks to ask for at once the next time: as many as are likely to have as many logs as a stretch may have, so that
    /// nothing is read to be thrown away.
    pub reach: u64,
}

impl Stretch {
    /// What follows is so old, too, that the chain does not go back there: it can be read before this is taken in.
    pub fn is_far_behind(&self, settings: &WatchSettings) -> bool {
        self.head.latest.number.saturating_sub(self.last.number) > settings.reorg_depth_blocks_max
    }

    /// Where the caller is when it has taken this in.
    pub fn place_after(&self) -> Place {
        let (number, hash) = (self.last.number, self.last.hash);
        Place { number, hash, known: vec![(number, hash)], head: None, reach: self.reach }
    }
}

/// What to do.
#[derive(Debug, Clone)]
pub enum Next {
    /// Nothing new.
    Idle,
    /// The chain moved while it was read: look again at once.
    Again,
    /// The chain went back: everything above this block is gone.
    Rewind(Block),
    /// Take this in.
    TakeIn(Box<Stretch>),
}

/// Looks at the node and says what to do.
pub async fn next(
    chain: &dyn Chain,
    contracts: &[ContractSet],
    place: &Place,
    settings: &WatchSettings,
) -> Result<Next, ChainError> {
    // One node for all questions: another may not have the blocks that this one speaks of.
    let pinned = chain.pinned();
    let chain = pinned.as_deref().unwrap_or(chain);
    let head = Head::read(chain).await?;
    if place.head == Some(head) && place.number >= head.latest.number {
        return Ok(Next::Idle);
    }
    match chain.block(At::Number(place.number)).await? {
        Some(block) if block.hash == place.hash => {}
        Some(_) => return rewind(chain, place, true).await,
        None if place.known.contains(&(head.latest.number, head.latest.hash)) => return Ok(Next::Idle),
        None => return rewind(chain, place, false).await,
    }
    let stretch = if head.latest.number.saturating_sub(place.number) > settings.reorg_depth_blocks_max {
        deep_stretch(chain, contracts, place, settings, &head).await?
    } else {
        shallow_stretch(chain, contracts, place, settings, &head).await?
    };
    Ok(stretch.map_or(Next::Again, |stretch| Next::TakeIn(Box::new(stretch))))
}

/// The newest block that both know. A node that has nothing else where we have blocks has not gone back: it is behind, and what it
/// does not have yet may still come.
async fn rewind(chain: &dyn Chain, place: &Place, mut has_others: bool) -> Result<Next, ChainError> {
    let mut oldest = place.number;
    for (number, hash) in &place.known {
        oldest = *number;
        match chain.block(At::Number(*number)).await? {
            Some(block) if block.hash == *hash => {
                return Ok(if has_others { Next::Rewind(block) } else { Next::Idle });
            }
            Some(_) => has_others = true,
            None => {}
        }
    }
    Err(ChainError::DeepReorg(oldest))
}

/// Blocks so old that the chain does not go back there: only the last one is looked at.
async fn deep_stretch(
    chain: &dyn Chain,
    contracts: &[ContractSet],
    place: &Place,
    settings: &WatchSettings,
    head: &Head,
) -> Result<Option<Stretch>, ChainError> {
    let from = place.number.saturating_add(1);
    let settled = head.latest.number.saturating_sub(settings.reorg_depth_blocks_max);
    let asked =
        settled.min(place.number.saturating_add(place.reach.clamp(1, settings.stretch_blocks_max.max(1))));
    let (to, logs) = read_logs(chain, contracts, from, asked, settings).await?;
    let Some(last) = chain.block(At::Number(to)).await? else { return Ok(None) };
    let announce_to = settings.finality.final_number(head).min(to);
    let reach = next_reach(to.saturating_sub(place.number), to < asked, logs.len(), settings);
    Ok(Some(Stretch { last, blocks: vec![last], logs, announce_to, head: *head, reach }))
}

/// From how full so many blocks were: at most twice as many, none more if even they were too many, and three quarters of
/// what would fill a stretch, because blocks differ.
fn next_reach(blocks: u64, were_too_many: bool, logs: usize, settings: &WatchSettings) -> u64 {
    let more = if were_too_many { blocks } else { blocks.saturating_mul(2) };
    let logs_wanted = u64::try_from(settings.stretch_logs_max).unwrap_or(u64::MAX).saturating_mul(3) / 4;
    let full = blocks.saturating_mul(logs_wanted) / u64::try_from(logs).unwrap_or(u64::MAX).max(1);
    more.min(full.max(1))
}

/// Blocks that a reorganisation may touch while we look: each has to hang on the one before, and each log in its block.
async fn shallow_stretch(
    chain: &dyn Chain,
    contracts: &[ContractSet],
    place: &Place,
    settings: &WatchSettings,
    head: &Head,
) -> Result<Option<Stretch>, ChainError> {
    let from = place.number.saturating_add(1);
    let blocks: Vec<Option<Block>> = futures_util::stream::iter(from..=head.latest.number)
        .map(|number| chain.block(At::Number(number)))
        .buffered(BLOCKS_AT_ONCE)
        .try_collect()
        .await?;
    let Some(mut blocks) = blocks.into_iter().collect::<Option<Vec<Block>>>() else { return Ok(None) };
    if !hang_together(place.hash, &blocks) {
        return Ok(None);
    }
    let Some(logs) = read_logs_of(chain, contracts, &mut blocks, settings).await? else { return Ok(None) };
    let Some(last) = blocks.last().copied() else {
        // No new block, but one that we know has become safe or finalized.
        let last = chain.block(At::Number(place.number)).await?.filter(|block| block.hash == place.hash);
        let announce_to = settings.finality.final_number(head);
        return Ok(last.map(|last| Stretch {
            last,
            blocks,
            logs,
            announce_to,
            head: *head,
            reach: place.reach,
        }));
    };
    let announce_to = settings.finality.final_number(head).min(last.number);
    Ok(Some(Stretch { last, blocks, logs, announce_to, head: *head, reach: place.reach }))
}

const BLOCKS_AT_ONCE: usize = 8;

fn hang_together(parent: [u8; 32], blocks: &[Block]) -> bool {
    let parents = std::iter::once(parent).chain(blocks.iter().map(|block| block.hash));
    blocks.iter().zip(parents).all(|(block, parent)| block.parent == parent)
}

/// The logs of blocks, each asked for by its hash: a node that does not have the block cannot say that it has no logs. What is
/// beyond our limit is left for the next stretch, with its blocks. `None`: the chain moved meanwhile.
async fn read_logs_of(
    chain: &dyn Chain,
    contracts: &[ContractSet],
    blocks: &mut Vec<Block>,
    settings: &WatchSettings,
) -> Result<Option<Vec<SeenLog>>, ChainError> {
    let addresses: Vec<EvmAddress> = log::addresses(contracts);
    let mut asked = futures_util::stream::iter(blocks.clone())
        .map(|block| chain.logs_of_block(block.hash, &addresses))
        .buffered(BLOCKS_AT_ONCE);
    let (mut logs, mut taken) = (Vec::new(), 0);
    for block in blocks.iter() {
        let raw = match asked.try_next().await {
            Ok(Some(raw)) => raw,
            // Each block has an answer; one without is not taken for one without logs.
            Ok(None) => return Ok(None),
            Err(ChainError::Refused(why)) => {
                // A block that is gone meanwhile, or a refusal that will not pass by itself.
                let now = chain.block(At::Number(block.number)).await?;
                let is_there = now.is_some_and(|now| now.hash == block.hash);
                return if is_there { Err(ChainError::Refused(why)) } else { Ok(None) };
            }
            Err(error) => return Err(error),
        };
        if taken > 0 && logs.len() + raw.len() > settings.stretch_logs_max {
            break;
        }
        let elsewhere = |log: &Log| log.block_hash.is_none_or(|hash| hash.0 != block.hash);
        if raw.iter().any(elsewhere) {
            return Err(ChainError::Unreadable(format!("logs of another block than {}", block.number)));
        }
        logs.extend(log::read(contracts, &raw)?);
        taken += 1;
    }
    drop(asked);
    blocks.truncate(taken);
    Ok(Some(logs))
}

/// Logs from `from` on, to `to` or as far as the node and our own limit allow. Returns how far that is.
async fn read_logs(
    chain: &dyn Chain,
    contracts: &[ContractSet],
    from: u64,
    to: u64,
    settings: &WatchSettings,
) -> Result<(u64, Vec<SeenLog>), ChainError> {
    let addresses: Vec<EvmAddress> = log::addresses(contracts);
    let mut to = to;
    let raw = loop {
        match chain.logs(from, to, &addresses).await {
            Ok(logs) => break logs,
            Err(ChainError::Refused(_)) if to > from => to = from + (to - from) / 2,
            Err(error) => return Err(error),
        }
    };
    let mut logs = log::read(contracts, &raw)?;
    if let Some(cut) = logs.get(settings.stretch_logs_max).map(|log| log.block_number)
        && cut > from
    {
        to = cut - 1;
        logs.retain(|log| log.block_number <= to);
    }
    Ok((to, logs))
}

/// What blocks that were read before have to say that is not known yet.
#[derive(Debug, Clone)]
pub struct Late {
    /// Read as far as this block.
    pub to: u64,
    /// In order.
    pub logs: Vec<SeenLog>,
    /// How far the chain is.
    pub head: Head,
}

/// A node that takes longer over blocks that are read once more tells nothing this time: the others are not kept from it.
const NODE_PATIENCE: Duration = Duration::from_millis(500);

/// Reads blocks once more, from `from` to `to` or as far as nodes and limits allow, of every node there is, all at the same time: what one
/// has left out another may tell. `known` are the logs that nobody has to tell, by block and place. A log counts only if its block is
/// one of the chain that is followed, and nothing does if that is not the chain of `place`, the last block that was taken in.
pub async fn read_again(
    chain: &dyn Chain,
    contracts: &[ContractSet],
    place: (u64, [u8; 32]),
    (from, to): (u64, u64),
    known: &HashSet<(u64, u32)>,
    settings: &WatchSettings,
) -> Result<Late, ChainError> {
    let pinned = chain.pinned();
    let followed = pinned.as_deref().unwrap_or(chain);
    let head = Head::read(followed).await?;
    let others = chain.each();
    let nodes = others.iter().map(|node| &**node).chain(others.is_empty().then_some(followed));
    let answers = join_all(nodes.map(async |node: &dyn Chain| {
        let answer = read_logs(node, contracts, from, to, settings);
        let late = |_| ChainError::Unavailable("no logs in time".into());
        tokio::time::timeout(NODE_PATIENCE, answer).await.map_err(late)?
    }))
    .await;
    let (mut told, mut failure) = (Vec::new(), None);
    for answer in answers {
        match answer {
            Ok(answer) => told.push(answer),
            Err(error) => failure = Some(error),
        }
    }
    let Some(to) = told.iter().map(|(as_far_as, _)| *as_far_as).min() else {
        return Err(failure.unwrap_or_else(|| ChainError::Unavailable("nobody is there to be asked".into())));
    };
    let mut unknown: BTreeMap<(u64, u32, [u8; 32]), SeenLog> = BTreeMap::new();
    for log in told.into_iter().flat_map(|(_, logs)| logs) {
        if log.block_number > to || known.contains(&log.place()) {
            continue;
        }
        // Whoever shows a transfer without what was said beside it takes it for a stranger's.
        let is_strangers = |log: &SeenLog| matches!(log.said, Said::Transfer { outside: true, .. });
        let (number, index) = log.place();
        match unknown.entry((number, index, log.block_hash)) {
            Entry::Occupied(mut seen) if is_strangers(seen.get()) => {
                seen.insert(log);
            }
            Entry::Occupied(_) => {}
            Entry::Vacant(place) => {
                place.insert(log);
            }
        }
    }
    let mut logs: Vec<SeenLog> = unknown.into_values().collect();
    let mut numbers: Vec<u64> = logs.iter().map(|log| log.block_number).collect();
    numbers.dedup();
    let hash_of = async |number: u64| {
        Ok::<_, ChainError>(followed.block(At::Number(number)).await?.map(|block| block.hash))
    };
    for number in numbers {
        let hash = hash_of(number).await?;
        logs.retain(|log| log.block_number != number || Some(log.block_hash) == hash);
    }
    if hash_of(place.0).await? != Some(place.1) {
        return Err(ChainError::Unavailable(format!("the chain without block {} as we know it", place.0)));
    }
    Ok(Late { to, logs, head })
}

/// Where a node tells of new heads.
#[derive(Debug, Clone)]
pub struct Socket {
    /// `ws://…` or `wss://…`.
    pub url: String,
    /// What its proxy wants to see.
    pub token: Option<Bearer>,
}

/// Rings for every new head, for ever; goes to the next socket whenever one drops or has been silent for `silence_max`.
#[derive(Debug, Clone)]
pub struct Bell {
    /// Where to listen, in the order of preference.
    pub sockets: Vec<Socket>,
    /// A socket that says nothing for longer is given up.
    pub silence_max: Duration,
}

impl Bell {
    /// Listens at one socket.
    pub fn at(url: impl Into<String>, silence_max: Duration) -> Self {
        Self { sockets: vec![Socket { url: url.into(), token: None }], silence_max }
    }

    /// Rings until it is dropped.
    pub async fn ring(&self, mut ring: impl FnMut()) {
        loop {
            for socket in &self.sockets {
                if let Err(error) = self.listen(socket, &mut ring).await {
                    metrics::counter!("chain_sockets_lost_total").increment(1);
                    tracing::debug!(error, "no new heads by WebSocket; polling goes on");
                }
                tokio::time::sleep(RECONNECT_AFTER).await;
            }
            if self.sockets.is_empty() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn listen(&self, socket: &Socket, ring: &mut impl FnMut()) -> Result<(), String> {
        let mut connect = WsConnect::new(&socket.url).with_max_retries(0);
        if let Some(bearer) = &socket.token {
            connect = connect.with_auth(Authorization::bearer(bearer.newest().await.expose_secret()));
        }
        let connected = async {
            let provider =
                ProviderBuilder::new().connect_ws(connect).await.map_err(|error| error.to_string())?;
            let heads = provider.subscribe_blocks().await.map_err(|error| error.to_string())?;
            Ok::<_, String>((provider, heads))
        };
        let silence = |_| format!("silent for {:?}", self.silence_max);
        let (_provider, mut heads) =
            tokio::time::timeout(self.silence_max, connected).await.map_err(silence)??;
        loop {
            let head = tokio::time::timeout(self.silence_max, heads.recv_any()).await.map_err(silence)?;
            match head {
                Ok(_) => ring(),
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

const RECONNECT_AFTER: Duration = Duration::from_secs(1);
