//! The sender of a lane: turns effects into transactions and sees each of them to its finality.
//!
//! It promises that a payment is carried by one transaction at a time, that a nonce is never left behind as a hole, and that one
//! item that the contracts would refuse never stops its neighbours. A turn has three parts, each of which may be cut off at
//! any point and is taken up again from the rows: *track* (compare our rows with the chain and do what
//! [`flowbridge_chain::plan`] says), *intend* (effects become calldata, durable, without a nonce) and *send* (simulate, give
//! nonces, sign, write the signatures down, broadcast). Only the holder of the lane's lease signs, and never inside a
//! transaction: a signer may be slow, or away, and then what has its nonce waits for it.

use super::{ChainSettings, chain_error};
use crate::breaker::BreakerView;
use crate::context::{Context, Turn, Worker};
use crate::step::Step;
use flowbridge_chain::call::{self, OnLeaves};
use flowbridge_chain::leaf::{LeafTerms, root};
use flowbridge_chain::plan::{Action, InFlight, Stage, TxFees, View, plan};
use flowbridge_chain::signer::{self, Signed, Unsigned};
use flowbridge_chain::watch::Head;
use flowbridge_chain::{At, Chain, ChainError, ContractSet, Counted, Leaf, Receipt, Refusal, Scope, Signer};
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::money::{Currency, Money};
use flowbridge_domain::party::EvmAddress;
use flowbridge_domain::payment::{Effect, Funding, SetAside};
use flowbridge_domain::time::Timestamp;
use flowbridge_store::chain::{
    self as rows, DueInitiation, DueOnLeaf, Duty, Intention, Lane, LaneLease, OpenTx, Signature, TxBody,
    TxFate, TxState, Version,
};
use flowbridge_store::wake::Work;
use flowbridge_store::{StoreError, Tx};
use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// One lane of sending.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) context: Context,
    pub(super) chain: Arc<dyn Chain>,
    pub(super) contracts: Vec<ContractSet>,
    pub(super) lane: Lane,
    pub(super) signer: Arc<dyn Signer>,
    pub(super) settings: ChainSettings,
    /// When our rows were last compared with the chain, and at which head.
    tracked: Option<(Timestamp, Head)>,
    /// Nonces that are used, and by nothing of ours that has a receipt, each with the head at which that was seen first.
    strange: BTreeMap<u64, u64>,
    /// When the chain was last looked at, and which of the lane's nonces it had used then: those below.
    looked_at: Option<Timestamp>,
    used_below: u64,
    /// When it was last asked how far finality is, and the head of that time.
    finality: Option<(Timestamp, Head)>,
    /// Since when the oldest transaction is under way that is in no block, by the rows as they were last read.
    oldest: Option<Timestamp>,
    /// The same of those that no policy counts yet, in a block or not.
    unconfirmed: Option<Timestamp>,
    /// What holds up the lane and has no row.
    filler: Option<Filler>,
    breaker: BreakerView,
    /// What the contracts stop altogether for now, each with one intention that is tried again and again; the rest of it waits as
    /// effects, so that it takes nobody's place.
    stopped: HashSet<Kind>,
    /// Gas that calls of a function have taken by the byte of their calldata, the most that was seen.
    gas_per_byte: HashMap<Selector, u64>,
    front: Front,
    /// Room for gas beyond the configured margin, in percent, since transactions have run out of it.
    further_margin: u64,
}

/// Intentions that carry as many payments as there are, and those that carry one each however many there are.
type BatchesAndSingles = (Vec<Intention>, Vec<Intention>);

/// What a transaction does, and in which currency's contracts.
type Kind = (Currency, Effect);

/// Which function of a contract is called: the first bytes of the calldata.
type Selector = [u8; 4];

/// The chain as it was before our rows were read, by one node: what another one says, a block behind, does not go with it. How far
/// finality is may be of a second before.
#[derive(Debug)]
struct Sight {
    node: Arc<dyn Chain>,
    head: Head,
    /// The lane's next nonce on chain.
    nonce: u64,
}

impl Sight {
    /// Finality is as in `known`, if that was read a moment ago.
    async fn read(
        chain: &Arc<dyn Chain>,
        sender: &EvmAddress,
        known: Option<&Head>,
    ) -> Result<Self, ChainError> {
        let node = chain.pinned().unwrap_or_else(|| Arc::clone(chain));
        let nonce = node.nonce(sender, At::Latest).await?;
        let head = match known {
            Some(known) => Head::newest(&*node, known).await?,
            None => Head::read(&*node).await?,
        };
        Ok(Self { node, head, nonce })
    }
}

/// What fills a hole at the head of the line. Only in memory: who does not know what it offers begins with what a first version
/// would, and raises that.
#[derive(Debug, Clone, Copy)]
struct Filler {
    nonce: u64,
    fees: Option<TxFees>,
    /// Since when it waits for that much.
    since: Timestamp,
    /// When it was last seen to wait.
    seen: Timestamp,
}

/// From where on effects can be ready. What was done since the last vacuum stands before them in the index, by the ten thousands, and going
/// through it with each look took a fifth of a processor at 5,000 payments/s.
///
/// What becomes ready before the front (written by a transaction that took longer than [`COMMIT_LAG`], or possible only now) is found
/// when everything is looked at, every [`WHOLE_LOOK_EVERY`].
#[derive(Debug, Default)]
struct Front {
    from: Option<Timestamp>,
    whole_at: Option<Timestamp>,
}

impl Front {
    /// Where to look from now.
    fn begin(&mut self, now: Timestamp) -> Timestamp {
        if self.whole_at.is_none_or(|at| now.since(at) >= WHOLE_LOOK_EVERY || now < at) {
            (self.from, self.whole_at) = (None, Some(now));
        }
        self.from.unwrap_or(Timestamp::EPOCH)
    }

    /// What was seen: since when the first is due, if any is.
    fn seen(&mut self, first: Option<Timestamp>, now: Timestamp) {
        self.from = Some(first.unwrap_or(now).minus(COMMIT_LAG));
    }
}

/// How often all effects are looked at, and how late what is due at an instant usually commits.
const WHOLE_LOOK_EVERY: Duration = Duration::from_secs(2);
const COMMIT_LAG: Duration = Duration::from_secs(1);

/// Where each payment is in its trace, and since when it has waited.
type Asked = HashMap<PaymentId, (String, Timestamp)>;

/// How often rows are compared with the chain while no block comes.
const TRACK_INTERVAL: Duration = Duration::from_secs(1);

/// How often it is asked how far finality is: what is final stays open that much longer, and nothing else waits for it.
const FINALITY_EVERY: Duration = Duration::from_secs(1);

/// Blocks in which one question looks for what the contracts counted; a lane that was away for longer asks for receipts.
const COUNTED_BLOCKS_MAX: u64 = 16;

/// A call that would reach the chain this close to its deadline is not begun.
const DEADLINE_MARGIN: Duration = Duration::from_secs(3);

/// How long a payment waits after the contracts refused it for a reason that may pass.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// What the contracts stop altogether is asked for again after so long; one transaction of it is tried all the time.
const STOPPED_FOR: Duration = Duration::from_secs(5);

/// What cannot be put into a call (rows contradict each other, a currency has no contracts) is looked at again after so long.
const UNSOUND_FOR: Duration = Duration::from_secs(30);

/// Payments that need a transaction each and find no room are looked at again so much later, as many as there was room for; the next
/// ones after twice as long, and so on.
const SINGLES_EVERY: Duration = Duration::from_secs(1);

/// Transactions of a lane looked at in one turn.
const OPEN_MAX: i64 = 1_024;

/// Effects claimed in one turn at most. At full load a turn takes about half a second, so fewer would bound what a lane can do; more would
/// have the first of them wait for the last.
const CLAIMS_MAX: usize = 1_200;

/// Calls to the node, or to a signer, under way at the same time.
const CALLS_MAX: usize = 16;

/// Percent.
const FURTHER_MARGIN_MAX: u64 = 300;

/// A contract keeps a 64th of its gas when it calls another, and ours call two deep: so small a part of it may be left where one of
/// them ran out.
const GAS_LEFT_BY_SHORTAGE: u64 = 32;

/// Gas for what a call does once, whatever it carries.
const GAS_BASE: u64 = 100_000;

impl Worker for Sender {
    /// One turn. Idle while somebody else holds the lane.
    async fn turn(&mut self) -> Result<Turn, StoreError> {
        self.show_age();
        // The chain before the rows: what it has seen of our nonces is then never more than the rows say.
        let sight = match self.look().await {
            Ok(sight) => sight,
            Err(error) => return Ok(chain_error(self.lane.as_str(), &error)),
        };
        let (now, owner) = (self.context.now(), self.context.instance.as_str());
        let (sender, chain_nonce) = (self.signer.address(), sight.as_ref().map(|sight| sight.nonce));
        self.used_below = chain_nonce.unwrap_or(self.used_below);
        let (db, term) = (&self.context.db, self.settings.lease);
        let effects = effects_of(self.lane.duty());
        let from = self.front.begin(now);
        let asked = (&sender, chain_nonce);
        let lease = rows::lease_lane(db, self.lane, owner, asked, (effects, from), (now, term)).await?;
        let Some(lease) = lease else {
            (self.oldest, self.unconfirmed) = (None, None);
            return Ok(Turn::Idle);
        };
        if lease.sender != Some(sender) {
            return self.take_over(&lease, &sender, chain_nonce).await;
        }
        let mut open = if lease.has_open { self.open().await? } else { vec![] };
        if let Some(sight) = sight {
            self.track(&lease, &open, &sight, &sender).await?;
        }
        // What nothing is left of to try has to be tried anew.
        self.stopped
            .retain(|kind| open.iter().any(|tx| tx.state == TxState::Intended && kind_of(tx) == *kind));
        // What cannot be sent soon stays an effect, which its client can still take back.
        let room = self.room(&open).saturating_sub(self.going(&open).count());
        if (!open.is_empty() || self.breaker.is_in_doubt(now))
            && !self.breaker.is_closed(&self.context).await?
            && self.hold_back(&lease, &open).await?
        {
            open = self.open().await?;
        }
        let mut new = HashMap::new();
        if !lease.has_due {
            self.front.seen(None, now);
        } else if room > 0 {
            new = self.intend(&lease, room, from).await?;
        }
        let intended = !new.is_empty();
        if intended {
            open = self.open().await?;
        }
        let sent = self.send(&lease, &open, new).await?;
        Ok(if intended || sent { Turn::Busy } else { Turn::Idle })
    }
}

impl Sender {
    pub(super) fn new(
        context: Context,
        chain: Arc<dyn Chain>,
        contracts: Vec<ContractSet>,
        lane: Lane,
        signer: Arc<dyn Signer>,
        settings: ChainSettings,
    ) -> Self {
        let gas_per_byte = HashMap::new();
        let breaker = BreakerView::default();
        Self {
            context,
            chain,
            contracts,
            lane,
            signer,
            settings,
            tracked: None,
            strange: BTreeMap::new(),
            looked_at: None,
            used_below: 0,
            finality: None,
            oldest: None,
            unconfirmed: None,
            filler: None,
            breaker,
            stopped: HashSet::new(),
            gas_per_byte,
            front: Front::default(),
            further_margin: 0,
        }
    }

    /// The lane was another key's. Ours takes it once nothing that the old one signed is under way.
    async fn take_over(
        &mut self,
        lease: &LaneLease,
        sender: &EvmAddress,
        chain_nonce: Option<u64>,
    ) -> Result<Turn, StoreError> {
        let Some(chain_nonce) = chain_nonce else { return Ok(Turn::Idle) };
        let lane = self.lane.as_str();
        if rows::rekey_lane(&self.context.db, lease, sender, chain_nonce, self.context.now()).await? {
            tracing::info!(lane, %sender, "the lane has this key now");
            return Ok(Turn::Busy);
        }
        if let Some(old) = lease.sender {
            self.see_off(lease, &old).await?;
        }
        Ok(Turn::Idle)
    }

    /// Follows what the lane's old key has under way. Nobody can sign for it here: what waits goes on as it was signed.
    async fn see_off(&mut self, lease: &LaneLease, old: &EvmAddress) -> Result<(), StoreError> {
        let open = self.open().await?;
        match Sight::read(&self.chain, old, None).await {
            Ok(sight) => self.track(lease, &open, &sight, old).await?,
            Err(error) => drop(chain_error(self.lane.as_str(), &error)),
        }
        if count_of(&open, &[TxState::Signed, TxState::Broadcast, TxState::Dropped]) > 0 {
            metrics::counter!("chain_lane_stopped_total", "lane" => self.lane.as_str()).increment(1);
            tracing::error!(
                lane = self.lane.as_str(),
                sender = %old,
                "transactions of the lane's old key are under way; the new one takes over when they have come to their end"
            );
        }
        Ok(())
    }

    /// The lane's transactions that are in no block yet.
    async fn open(&self) -> Result<Vec<OpenTx>, StoreError> {
        rows::open_txs(&self.context.db, self.lane, OPEN_MAX).await
    }

    /// What is intended and not stopped.
    fn going<'a>(&self, open: &'a [OpenTx]) -> impl Iterator<Item = &'a OpenTx> {
        open.iter().filter(|tx| tx.state == TxState::Intended && !self.stopped.contains(&kind_of(tx)))
    }

    /// How many more transactions may be under way. One whose nonce the chain has used is in a block, even where it is to be seen yet
    /// whether it is reverted for good.
    fn room(&self, open: &[OpenTx]) -> usize {
        let states = [TxState::Numbered, TxState::Signed, TxState::Broadcast, TxState::Dropped];
        let is_waiting = |tx: &&OpenTx| tx.nonce.is_none_or(|nonce| nonce >= self.used_below);
        let under_way = open.iter().filter(is_waiting).filter(|tx| states.contains(&tx.state));
        self.settings.in_flight_max.saturating_sub(under_way.count())
    }

    /// Looks at the chain, once in a polling interval.
    async fn look(&mut self) -> Result<Option<Sight>, ChainError> {
        let now = self.context.now();
        if self.looked_at.is_some_and(|at| now.since(at) < self.settings.poll) {
            return Ok(None);
        }
        let known = self.finality.filter(|(at, _)| now.since(*at) < FINALITY_EVERY).map(|(_, head)| head);
        let sight = Sight::read(&self.chain, &self.signer.address(), known.as_ref()).await;
        // Another node answers next, perhaps.
        let sight = sight.inspect_err(|_| self.finality = None)?;
        if known.is_none() {
            self.finality = Some((now, sight.head));
        }
        self.looked_at = Some(now);
        Ok(Some(sight))
    }

    /// Gives the lane back, so that another process need not wait for the lease to run out.
    pub(super) async fn release(&self) -> Result<(), StoreError> {
        rows::release_lane(&self.context.db, self.lane, &self.context.instance).await
    }

    // ------------------------------------------------------------------------------------------------------- intend

    /// Effects become intentions, in the transaction that claims them; but for those that mint while nothing may be minted. Returns
    /// what became of any, by its id.
    async fn intend(
        &mut self,
        lease: &LaneLease,
        room: usize,
        from: Timestamp,
    ) -> Result<HashMap<Uuid, TxBody>, StoreError> {
        let now = self.context.now();
        let mut effects = effects_of(self.lane.duty());
        let limit = self.settings.batch_size_max.saturating_mul(room).min(CLAIMS_MAX);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let full = self.settings.batch_size_max;
        let mut due = rows::due(&self.context.db, effects, (from, now), full).await?;
        self.front.seen(due.map(|due| due.first), now);
        if due.is_some() && !self.breaker.is_closed(&self.context).await? {
            effects = match self.lane.duty() {
                // What is begun has to be settled soon, or expires.
                Duty::Initiator => &[],
                Duty::Settler => &[Effect::BurnRedeemed, Effect::ReleaseRedemption],
                Duty::Canceller => &[Effect::CancelOnChain],
            };
            due = rows::due(&self.context.db, effects, (from, now), full).await?;
        }
        let Some(due) = due else { return Ok(HashMap::new()) };
        // While none of them can be ripe, none is locked.
        if !self.is_ripe(due.count >= full, std::iter::once(due.oldest), now) {
            return Ok(HashMap::new());
        }
        let tx = self.context.db.begin().await?;
        rows::guard_lane(&tx, lease).await?;
        let mut asked = Asked::new();
        let (mut intentions, singles) = match self.lane.duty() {
            Duty::Initiator => self.intend_initiations(&tx, &mut asked, limit, (due.first, now)).await?,
            Duty::Settler | Duty::Canceller => {
                self.intend_on_leaves(&tx, effects, &mut asked, limit, (due.first, now)).await?
            }
        };
        intentions.extend(self.singles_with_room(&tx, singles, room, now).await?);
        let ids = rows::intend(&tx, &intentions, now).await?;
        tx.commit().await?;
        self.tell(&intentions, &asked);
        let bodies =
            intentions.into_iter().map(|intention| TxBody { calldata: intention.calldata, signed: None });
        Ok(ids.into_iter().zip(bodies).collect())
    }

    /// Of payments that need a transaction each, as many as half of the room, so that however many they are, batches go on beside them.
    /// The others make way, each until there may be room for it.
    async fn singles_with_room(
        &self,
        tx: &Tx,
        mut singles: Vec<Intention>,
        room: usize,
        now: Timestamp,
    ) -> Result<Vec<Intention>, StoreError> {
        let singles_max = (room / 2).max(1);
        let later = singles.split_off(singles_max.min(singles.len()));
        let turns = (1_u32..).flat_map(|turn| std::iter::repeat_n(turn, singles_max));
        let later: Vec<(PaymentId, Effect, Timestamp)> = later
            .iter()
            .zip(turns)
            .flat_map(|(single, turn)| {
                let until = now.plus(SINGLES_EVERY.saturating_mul(turn));
                single.payments.iter().map(move |payment| (*payment, single.effect, until))
            })
            .collect();
        rows::postpone(tx, &later).await?;
        Ok(singles)
    }

    /// What would mint and has no nonce yet is taken apart again, while nothing may be minted: its payments wait as effects, which
    /// their clients can still take back. What has a nonce goes on, because nothing above it could. True if there was any.
    async fn hold_back(&self, lease: &LaneLease, open: &[OpenTx]) -> Result<bool, StoreError> {
        let mints = [Effect::InitiateOnChain, Effect::SettleOnChain];
        let held: Vec<&OpenTx> =
            open.iter().filter(|tx| tx.state == TxState::Intended && mints.contains(&tx.effect)).collect();
        if held.is_empty() {
            return Ok(false);
        }
        let now = self.context.now();
        let why = "the breaker is tripped";
        self.in_lane(lease, async |tx| rows::give_up(tx, &held, false, why, now, now).await).await?;
        tracing::warn!(
            lane = self.lane.as_str(),
            transactions = held.len(),
            "held back: the breaker is tripped"
        );
        Ok(true)
    }

    /// Tells which payments are in a transaction now, from when that was asked for.
    fn tell(&self, intentions: &[Intention], asked: &Asked) {
        let now = self.context.now();
        for intention in intentions {
            for payment in &intention.payments {
                let Some((traceparent, since)) = asked.get(payment) else { continue };
                let step = Step {
                    name: intention.effect.as_str(),
                    outcome: "batched",
                    payment: *payment,
                    traceparent,
                    times: (*since, now),
                    bank: None,
                    attempt: None,
                };
                step.tell();
            }
        }
    }

    async fn intend_initiations(
        &self,
        tx: &Tx,
        asked: &mut Asked,
        limit: i64,
        (from, now): (Timestamp, Timestamp),
    ) -> Result<BatchesAndSingles, StoreError> {
        let due = rows::claim_initiations(tx, (from, now), DEADLINE_MARGIN, limit).await?;
        let of = |due: &DueInitiation| (due.payment_id, (due.amount.currency(), Effect::InitiateOnChain));
        let due = self.put_off_stopped(tx, due, of, now).await?;
        asked.extend(due.iter().map(|due| (due.payment_id, (due.traceparent.clone(), due.waiting_since))));
        let mut groups: BTreeMap<(Currency, bool), Vec<Opening>> = BTreeMap::new();
        let (mut batches, mut singles) = (Vec::new(), Vec::new());
        let (mut refused, mut elsewhere) = (Vec::new(), Vec::new());
        for due in due {
            let Ok(set) = self.contracts_of(due.amount.currency()) else {
                elsewhere.push((due.payment_id, Effect::InitiateOnChain));
                continue;
            };
            match Opening::of(due, set) {
                Ok(opening) if opening.authorization.is_some() => {
                    singles.push(self.initiation(set, vec![opening])?);
                }
                Ok(opening) => {
                    let token_funded = opening.leaf.terms.token_funded;
                    groups.entry((set.currency, token_funded)).or_default().push(opening);
                }
                Err(refusal) => refused.push(refusal),
            }
        }
        for ((currency, _), openings) in groups {
            let set = self.contracts_of(currency)?;
            for batch in openings.chunks(self.settings.batch_size_max) {
                let waiting = batch.iter().map(|opening| opening.waiting_since);
                if self.is_ripe(batch.len() == self.settings.batch_size_max, waiting, now) {
                    batches.push(self.initiation(set, batch.to_vec())?);
                }
            }
        }
        for (payment, why, _) in &refused {
            tracing::error!(payment.id = %payment, why = why.as_str(), "a payment cannot be put to the contracts; it is refused");
        }
        rows::refuse_unsent(tx, &refused, now).await?;
        let why = "no contracts are deployed for their currency";
        self.put_off_unsound(tx, &elsewhere, why, now).await?;
        Ok((batches, singles))
    }

    /// Payments of one creditor stand together, so that settlement pays them by one transfer.
    fn initiation(&self, set: &ContractSet, mut openings: Vec<Opening>) -> Result<Intention, StoreError> {
        openings.sort_by_key(|opening| (opening.leaf.creditor, opening.leaf.number));
        let corrupt = || StoreError::Corrupt("an initiation without payments".into());
        let first = openings.first().ok_or_else(corrupt)?;
        let deadline = openings.iter().map(|opening| opening.initiate_before).min().ok_or_else(corrupt)?;
        let leaves: Vec<Leaf> = openings.iter().map(|opening| opening.leaf).collect();
        let calldata = match (&first.authorization, leaves.as_slice()) {
            (Some(signed), [single]) => call::initiate_with_authorization(single, secs(deadline), signed),
            _ => call::initiate_batch(&leaves, secs(deadline)),
        };
        Ok(Intention {
            lane: self.lane,
            effect: Effect::InitiateOnChain,
            currency: set.currency,
            contract: set.router,
            calldata,
            payments: leaves.iter().map(|leaf| leaf.payment_id).collect(),
            valid_before: Some(deadline),
            batch: Some((root(&leaves), leaves.iter().map(stored).collect())),
            traceparent: first.traceparent.clone(),
        })
    }

    async fn intend_on_leaves(
        &self,
        tx: &Tx,
        effects: &[Effect],
        asked: &mut Asked,
        limit: i64,
        (from, now): (Timestamp, Timestamp),
    ) -> Result<BatchesAndSingles, StoreError> {
        let due = rows::claim_on_leaves(tx, effects, (from, now), limit).await?;
        let of = |due: &DueOnLeaf| (due.payment_id, (due.currency, due.effect));
        let due = self.put_off_stopped(tx, due, of, now).await?;
        asked.extend(due.iter().map(|due| (due.payment_id, (due.traceparent.clone(), due.waiting_since))));
        if due.is_empty() {
            return Ok((vec![], vec![]));
        }
        let mut groups: BTreeMap<([u8; 32], Effect), Vec<DueOnLeaf>> = BTreeMap::new();
        for payment in due {
            groups.entry((payment.root, payment.effect)).or_default().push(payment);
        }
        let roots: Vec<[u8; 32]> = groups.keys().map(|(root, _)| *root).collect();
        let batches = rows::read_batches(tx, &roots).await?;
        let (mut unsound, mut reason) = (Vec::new(), None);
        let (mut for_batches, mut singles) = (Vec::new(), Vec::new());
        for ((root, effect), payments) in groups {
            let batch = batches.get(&root).map_or(&[][..], Vec::as_slice);
            match self.calls_on_leaves(effect, batch, &payments, now) {
                Ok(calls) if effect == Effect::ReleaseRedemption => singles.extend(calls),
                Ok(calls) => for_batches.extend(calls),
                Err(StoreError::Corrupt(why)) => {
                    unsound.extend(payments.iter().map(|due| (due.payment_id, due.effect)));
                    reason.get_or_insert(why);
                }
                Err(error) => return Err(error),
            }
        }
        self.put_off_unsound(tx, &unsound, &reason.unwrap_or_default(), now).await?;
        Ok((for_batches, singles))
    }

    /// What cannot be put into a call makes way for what can, and is tried again later: a person has to look at it.
    async fn put_off_unsound(
        &self,
        tx: &Tx,
        effects: &[(PaymentId, Effect)],
        why: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let Some((first, effect)) = effects.first() else { return Ok(()) };
        metrics::counter!("chain_lane_stopped_total", "lane" => self.lane.as_str()).increment(1);
        tracing::error!(
            lane = self.lane.as_str(),
            effect = effect.as_str(),
            payment.id = %first,
            payments = effects.len(),
            why,
            "payments cannot be put into a call; they are looked at again later, and the others go on"
        );
        let until = now.plus(UNSOUND_FOR);
        let later: Vec<_> = effects.iter().map(|(payment, effect)| (*payment, *effect, until)).collect();
        rows::postpone(tx, &later).await
    }

    /// The calls for what is due of one batch; none yet while it is not ripe.
    fn calls_on_leaves(
        &self,
        effect: Effect,
        batch: &[rows::Leaf],
        payments: &[DueOnLeaf],
        now: Timestamp,
    ) -> Result<Vec<Intention>, StoreError> {
        let waiting = payments.iter().map(|payment| payment.waiting_since);
        if !self.is_ripe(payments.len() == batch.len(), waiting, now) {
            return Ok(vec![]);
        }
        let batch: Vec<Leaf> = batch.iter().map(chain_leaf).collect::<Result<_, _>>()?;
        // A release is one at a time; everything else is one call for all of a batch.
        let calls: Vec<&[DueOnLeaf]> = match on_leaves(effect)? {
            OnLeaves::ReleaseRedemption => payments.chunks(1).collect(),
            OnLeaves::Settle | OnLeaves::Cancel | OnLeaves::Burn => vec![payments],
        };
        calls.into_iter().map(|payments| self.call_on_leaves(effect, &batch, payments)).collect()
    }

    fn call_on_leaves(
        &self,
        effect: Effect,
        batch: &[Leaf],
        payments: &[DueOnLeaf],
    ) -> Result<Intention, StoreError> {
        let first = payments.first().ok_or_else(|| StoreError::Corrupt("a call without payments".into()))?;
        let set = self.contracts_of(first.currency)?;
        let places: Vec<usize> =
            payments.iter().map(|payment| usize::try_from(payment.place).unwrap_or(usize::MAX)).collect();
        let calldata = call::on_leaves(on_leaves(effect)?, batch, &places)
            .ok_or_else(|| StoreError::Corrupt("a place outside its batch".into()))?;
        Ok(Intention {
            lane: self.lane,
            effect,
            currency: set.currency,
            contract: set.manager,
            calldata,
            payments: payments.iter().map(|payment| payment.payment_id).collect(),
            valid_before: None,
            batch: None,
            traceparent: first.traceparent.clone(),
        })
    }

    /// What is due of a kind that is stopped makes way for what is not, which is left.
    async fn put_off_stopped<T: Send>(
        &self,
        tx: &Tx,
        due: Vec<T>,
        of: fn(&T) -> (PaymentId, Kind),
        now: Timestamp,
    ) -> Result<Vec<T>, StoreError> {
        let is_stopped = |due: &T| self.stopped.contains(&of(due).1);
        let (stopped, going): (Vec<T>, Vec<T>) = due.into_iter().partition(is_stopped);
        if !stopped.is_empty() {
            let until = now.plus(STOPPED_FOR);
            let later: Vec<_> =
                stopped.iter().map(of).map(|(payment, (_, effect))| (payment, effect, until)).collect();
            rows::postpone(tx, &later).await?;
        }
        Ok(going)
    }

    /// Full, or its first payment has waited for company long enough.
    fn is_ripe(&self, full: bool, waiting: impl Iterator<Item = Timestamp>, now: Timestamp) -> bool {
        full || waiting.min().is_some_and(|oldest| now.since(oldest) >= self.settings.batch_delay)
    }

    fn contracts_of(&self, currency: Currency) -> Result<&ContractSet, StoreError> {
        self.contracts.iter().find(|set| set.currency == currency).ok_or_else(|| {
            StoreError::Corrupt(format!("payments in {currency}, for which no contracts are deployed"))
        })
    }

    // --------------------------------------------------------------------------------------------------------- send

    /// Simulates, numbers, signs and broadcasts what is intended, as far as the lane has room. What is new of it is at hand; the rest is
    /// read. True if anything went out, or made way.
    async fn send(
        &mut self,
        lease: &LaneLease,
        open: &[OpenTx],
        mut bodies: HashMap<Uuid, TxBody>,
    ) -> Result<bool, StoreError> {
        let unsigned: Vec<&OpenTx> = open.iter().filter(|tx| tx.state == TxState::Numbered).collect();
        let room = self.room(open);
        let is_tried = |tx: &&OpenTx| tx.state == TxState::Intended && self.stopped.contains(&kind_of(tx));
        let intended: Vec<&OpenTx> =
            self.going(open).take(room).chain(open.iter().filter(is_tried)).collect();
        if unsigned.is_empty() && intended.is_empty() {
            return Ok(false);
        }
        let ids = unsigned.iter().chain(&intended).map(|tx| tx.id);
        let ids: Vec<Uuid> = ids.filter(|id| !bodies.contains_key(id)).collect();
        if !ids.is_empty() {
            bodies.extend(rows::tx_bodies(&self.context.db, &ids).await?);
        }
        // What has a nonce comes first: nothing above it can be included before.
        let mut numbered: Vec<Numbered<'_>> = unsigned
            .into_iter()
            .filter_map(|tx| {
                Some(Numbered {
                    open: tx,
                    body: bodies.get(&tx.id)?,
                    nonce: tx.nonce?,
                    gas_limit: tx.gas_limit?,
                })
            })
            .collect();
        let Simulated { sound, mut made_way } = self.simulate_all(lease, intended, &bodies).await?;
        made_way |= self.leave_one_of_stopped(lease, open).await?;
        if numbered.is_empty() && sound.is_empty() {
            return Ok(made_way);
        }
        let market = match self.chain.fees().await {
            Ok(market) => market,
            Err(error) => {
                chain_error(self.lane.as_str(), &error);
                return Ok(made_way);
            }
        };
        numbered.extend(self.number(lease, &sound).await?);
        let sent = self.sign_and_broadcast(lease, &numbered, self.settings.fees.first(market)).await?;
        Ok(sent || made_way)
    }

    /// Runs every call without sending it. What would be refused makes way, as the refusal asks for.
    async fn simulate_all<'a>(
        &mut self,
        lease: &LaneLease,
        intended: Vec<&'a OpenTx>,
        bodies: &'a HashMap<Uuid, TxBody>,
    ) -> Result<Simulated<'a>, StoreError> {
        let with_bodies: Vec<(&OpenTx, &TxBody)> =
            intended.into_iter().filter_map(|tx| Some((tx, bodies.get(&tx.id)?))).collect();
        let mut calls = Vec::with_capacity(with_bodies.len());
        for (open, body) in &with_bodies {
            calls.push(self.simulate(open.contract, &body.calldata));
        }
        let outcomes: Vec<_> = stream::iter(calls).buffered(CALLS_MAX).collect().await;
        let mut simulated = Simulated { sound: Vec::new(), made_way: false };
        let mut in_other_words = Vec::new();
        for ((open, body), outcome) in with_bodies.into_iter().zip(outcomes) {
            match outcome {
                Ok(gas) if gas.amount() > self.settings.gas_per_tx_max => {
                    simulated.made_way |= self.refused(lease, open, &Refusal::TooMuch).await?;
                }
                Ok(gas) => {
                    self.stopped.remove(&kind_of(open));
                    self.learn(&body.calldata, gas);
                    let margin = self.settings.gas_margin_percent.saturating_add(self.further_margin);
                    let limit = gas.with_margin(margin).min(self.settings.gas_per_tx_max);
                    simulated.sound.push((open, body, limit));
                }
                Err(ChainError::Reverted(refusal)) if refusal.scope() == Scope::Lane => {
                    self.stop(kind_of(open), &refusal);
                }
                Err(ChainError::Reverted(refusal)) => {
                    simulated.made_way |= self.refused(lease, open, &refusal).await?;
                }
                Err(error @ ChainError::Refused(_)) => {
                    chain_error(self.lane.as_str(), &error);
                    in_other_words.push((open, error));
                }
                Err(error) => {
                    chain_error(self.lane.as_str(), &error);
                    break;
                }
            }
        }
        // A node that takes others refuses this one for what it is, such as too long: less of it may go through. One that takes none may be
        // at fault itself, and would have every batch taken apart.
        if !simulated.sound.is_empty() {
            for (open, error) in in_other_words {
                simulated.made_way |= self.refused(lease, open, &Refusal::Other(error.to_string())).await?;
            }
        }
        Ok(simulated)
    }

    /// Runs a call without sending it. A plain call with room for more gas than such calls have taken says as much as an
    /// estimate, which a node finds by running it again and again; only a call beyond all experience is estimated.
    async fn simulate(&self, contract: EvmAddress, calldata: &[u8]) -> Result<Gas, ChainError> {
        let from = self.signer.address();
        let known = calldata.first_chunk().and_then(|selector| self.gas_per_byte.get(selector));
        if let Some(per_byte) = known {
            let expected = per_byte.saturating_mul(bytes_of(calldata));
            let limit = GAS_BASE.saturating_add(expected.saturating_mul(2)).min(self.settings.gas_per_tx_max);
            if self.chain.try_call(&from, &contract, calldata, limit).await.is_ok() {
                return Ok(Gas::Suffices(limit));
            }
            // Too little gas, or a refusal: the estimate tells which.
        }
        Ok(Gas::Estimated(self.chain.estimate(&from, Some(&contract), calldata).await?))
    }

    fn learn(&mut self, calldata: &[u8], gas: Gas) {
        if let (Gas::Estimated(gas), Some(selector)) = (gas, calldata.first_chunk()) {
            let per_byte = gas.div_ceil(bytes_of(calldata).max(1));
            let known = self.gas_per_byte.entry(*selector).or_default();
            *known = per_byte.max(*known);
        }
    }

    /// Takes the lane's next nonces. They are durable before anybody signs for them.
    async fn number<'a>(
        &self,
        lease: &LaneLease,
        sound: &[(&'a OpenTx, &'a TxBody, u64)],
    ) -> Result<Vec<Numbered<'a>>, StoreError> {
        if sound.is_empty() {
            return Ok(vec![]);
        }
        let wanted: Vec<(Uuid, u64)> =
            sound.iter().map(|(open, _, gas_limit)| (open.id, *gas_limit)).collect();
        let tx = self.context.db.begin().await?;
        let nonces =
            rows::take_nonces(&tx, lease, &self.signer.address(), &wanted, self.context.now()).await?;
        tx.commit().await?;
        let with_nonces = sound.iter().zip(nonces);
        Ok(with_nonces
            .map(|((open, body, gas_limit), nonce)| Numbered { open, body, nonce, gas_limit: *gas_limit })
            .collect())
    }

    /// Signs, up to the first that the signer does not sign: nothing above that could be included. True if anything was signed.
    async fn sign_and_broadcast(
        &self,
        lease: &LaneLease,
        numbered: &[Numbered<'_>],
        fees: TxFees,
    ) -> Result<bool, StoreError> {
        let mut calls = Vec::with_capacity(numbered.len());
        for tx in numbered {
            calls.push(self.signature(tx.open, &tx.body.calldata, tx.nonce, tx.gas_limit, fees));
        }
        let mut asked = stream::iter(calls).buffered(CALLS_MAX);
        let mut signatures = Vec::with_capacity(numbered.len());
        while let Some(signed) = asked.next().await {
            match signed {
                Ok(signature) => signatures.push(signature),
                Err(error) => {
                    chain_error(self.lane.as_str(), &error);
                    break;
                }
            }
        }
        drop(asked);
        if signatures.is_empty() {
            return Ok(false);
        }
        let now = self.context.now();
        self.in_lane(lease, async |tx| rows::save_signatures(tx, &signatures, now).await).await?;
        let signed: Vec<(Uuid, &[u8])> =
            signatures.iter().map(|signature| (signature.id, signature.raw.as_slice())).collect();
        self.broadcast(&signed).await?;
        Ok(true)
    }

    const fn unsigned<'a>(
        &self,
        open: &'a OpenTx,
        calldata: &'a [u8],
        nonce: u64,
        gas_limit: u64,
        fees: TxFees,
    ) -> Unsigned<'a> {
        Unsigned {
            chain_id: self.settings.chain_id,
            nonce,
            to: Some(&open.contract),
            calldata,
            value: 0,
            gas_limit,
            fee_per_gas: fees.fee_per_gas,
            priority_fee: fees.priority_fee,
        }
    }

    async fn signature(
        &self,
        open: &OpenTx,
        calldata: &[u8],
        nonce: u64,
        gas_limit: u64,
        fees: TxFees,
    ) -> Result<Signature, ChainError> {
        let unsigned = self.unsigned(open, calldata, nonce, gas_limit, fees);
        let signed = signer::sign(&*self.signer, &unsigned).await?;
        Ok(Signature {
            id: open.id,
            nonce,
            raw: signed.raw,
            tx_hash: signed.hash,
            signature: signed.signature,
            fee_per_gas: fees.fee_per_gas,
            priority_fee: fees.priority_fee,
            gas_limit,
        })
    }

    /// In the order of their nonces, so that the node need not hold any of them back.
    async fn broadcast(&self, signed: &[(Uuid, &[u8])]) -> Result<(), StoreError> {
        let mut taken = Vec::with_capacity(signed.len());
        for (id, raw) in signed {
            match self.chain.send(raw).await {
                Ok(()) => taken.push((*id, TxFate::Broadcast)),
                // The plan finds out by whom, or offers more.
                Err(ChainError::NonceUsed | ChainError::Underpriced) => {}
                Err(error) => {
                    chain_error(self.lane.as_str(), &error);
                }
            }
        }
        rows::save_fates(&self.context.db, &taken, self.context.now()).await
    }

    /// Offers again what is in no block: to whom we ask, and in passing to the other nodes. One may take transactions, and pass none of
    /// them on.
    async fn broadcast_again(&self, id: Uuid, raw: &[u8]) -> Result<(), StoreError> {
        self.offer_elsewhere(raw);
        self.broadcast(&[(id, raw)]).await
    }

    /// Waits for nobody: most have it already, and one that is away must not hold up the lane.
    fn offer_elsewhere(&self, raw: &[u8]) {
        for node in self.chain.others() {
            let (raw, lane) = (raw.to_vec(), self.lane);
            tokio::spawn(async move {
                if let Err(error) = node.send(&raw).await {
                    tracing::debug!(lane = lane.as_str(), %error, "another node does not take a transaction");
                }
            });
        }
    }

    /// What the contracts would refuse is not sent. True if that made way for something else.
    async fn refused(&self, lease: &LaneLease, open: &OpenTx, refusal: &Refusal) -> Result<bool, StoreError> {
        let now = self.context.now();
        match refusal.scope() {
            // Nothing is wrong with the transaction: it is tried again.
            Scope::Lane => Ok(false),
            Scope::Call if *refusal == Refusal::TooLate => {
                self.ask_again_later(lease, open, "too_late", now).await
            }
            // The batch is not there yet, or a reorganisation took it away: it comes back.
            Scope::Call => self.ask_again_later(lease, open, "unknown_batch", now.plus(RETRY_AFTER)).await,
            Scope::Item => self.bisect(lease, open, refusal).await,
            Scope::Allowance(left) => self.use_up(lease, open, left).await,
        }
    }

    /// Of what would mint more than may be minted still, as much is sent as fits, in the order of the batch; the rest waits as effects.
    async fn use_up(&self, lease: &LaneLease, open: &OpenTx, mut left: u64) -> Result<bool, StoreError> {
        let now = self.context.now();
        let tx = self.context.db.begin().await?;
        rows::guard_lane(&tx, lease).await?;
        let payments = rows::tx_payments(&tx, open.id).await?;
        rows::give_up(&tx, &[open], false, "allowance", now.plus(STOPPED_FOR), now).await?;
        let asked = rows::still_asked(&tx, &payments, open.effect).await?;
        let waiting = asked.len();
        let mut fitting = rows::leaves_of(&tx, &payments).await?;
        fitting.retain(|leaf| {
            let is_token_funded = LeafTerms::from_bits(leaf.terms).is_some_and(|terms| terms.token_funded);
            let mints = if is_token_funded { 0 } else { leaf.amount };
            let fits = asked.contains(&leaf.payment_id) && mints <= left;
            left -= if fits { mints } else { 0 };
            fits
        });
        metrics::counter!("chain_lane_stopped_total", "lane" => self.lane.as_str()).increment(1);
        tracing::error!(
            lane = self.lane.as_str(),
            currency = open.currency.code(),
            payments = waiting - fitting.len(),
            fitting = fitting.len(),
            "payments would mint more than the manager may mint still; they wait, and those that fit go on"
        );
        if !fitting.is_empty() {
            self.intend_parts(&tx, open, &payments, &[&fitting]).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    fn stop(&mut self, kind: Kind, refusal: &Refusal) {
        metrics::counter!("chain_lane_stopped_total", "lane" => self.lane.as_str()).increment(1);
        if self.stopped.insert(kind) {
            let (currency, effect) = kind;
            tracing::error!(
                lane = self.lane.as_str(),
                currency = currency.code(),
                effect = effect.as_str(),
                why = %refusal,
                "the contracts stop this lane; it waits"
            );
        }
    }

    /// Of what is stopped one transaction is kept, the oldest, to be tried again; the others' payments wait as effects, and can still
    /// be taken back. True if there were any.
    async fn leave_one_of_stopped(&self, lease: &LaneLease, open: &[OpenTx]) -> Result<bool, StoreError> {
        let mut kept = HashSet::new();
        let others: Vec<&OpenTx> = open
            .iter()
            .filter(|tx| tx.state == TxState::Intended && self.stopped.contains(&kind_of(tx)))
            .filter(|tx| !kept.insert(kind_of(tx)))
            .collect();
        if others.is_empty() {
            return Ok(false);
        }
        let now = self.context.now();
        let again_at = now.plus(STOPPED_FOR);
        self.in_lane(lease, async |tx| rows::give_up(tx, &others, false, "stopped", again_at, now).await)
            .await?;
        Ok(true)
    }

    /// Not sent, and never will be: its payments are free for another transaction, from `retry_at` on.
    async fn ask_again_later(
        &self,
        lease: &LaneLease,
        open: &OpenTx,
        why: &str,
        retry_at: Timestamp,
    ) -> Result<bool, StoreError> {
        let now = self.context.now();
        self.in_lane(lease, async |tx| rows::give_up(tx, &[open], false, why, retry_at, now).await).await?;
        Ok(true)
    }

    /// Cuts a refused transaction in two until the item at fault stands alone. A payment that the router will never accept is
    /// told so; any other is asked for again later, because what is wrong may not be the payment. Its neighbours go on.
    async fn bisect(&self, lease: &LaneLease, open: &OpenTx, refusal: &Refusal) -> Result<bool, StoreError> {
        let now = self.context.now();
        tracing::warn!(lane = self.lane.as_str(), why = %refusal, chain_tx = %open.id, "the contracts would refuse a transaction");
        let tx = self.context.db.begin().await?;
        rows::guard_lane(&tx, lease).await?;
        let payments = rows::tx_payments(&tx, open.id).await?;
        let leaves = rows::leaves_of(&tx, &payments).await?;
        match (leaves.len(), refusal) {
            (0 | 1, Refusal::InvalidPayment(_)) => {
                rows::refuse_initiation(&tx, open, SetAside::Invalid, now).await?;
            }
            (0 | 1, _) => {
                rows::give_up(&tx, &[open], false, "refused", now.plus(RETRY_AFTER), now).await?;
            }
            _ => {
                rows::give_up(&tx, &[open], false, "split", now, now).await?;
                let asked = rows::still_asked(&tx, &payments, open.effect).await?;
                let leaves: Vec<rows::Leaf> =
                    leaves.into_iter().filter(|leaf| asked.contains(&leaf.payment_id)).collect();
                let halves: Vec<&[rows::Leaf]> = leaves.chunks(leaves.len().div_ceil(2).max(1)).collect();
                self.intend_parts(&tx, open, &payments, &halves).await?;
            }
        }
        tx.commit().await?;
        self.context.wake.ring(Work::Observations);
        Ok(true)
    }

    /// What was given up is intended anew in these parts. What cannot be put into a call makes way for others.
    async fn intend_parts(
        &self,
        tx: &Tx,
        open: &OpenTx,
        payments: &[PaymentId],
        parts: &[&[rows::Leaf]],
    ) -> Result<(), StoreError> {
        let now = self.context.now();
        match self.parts(tx, open, payments, parts).await {
            Ok(parts) => rows::intend(tx, &parts, now).await.map(drop),
            Err(StoreError::Corrupt(why)) => {
                let effects: Vec<(PaymentId, Effect)> =
                    payments.iter().map(|payment| (*payment, open.effect)).collect();
                self.put_off_unsound(tx, &effects, &why, now).await
            }
            Err(error) => Err(error),
        }
    }

    async fn parts(
        &self,
        tx: &Tx,
        open: &OpenTx,
        payments: &[PaymentId],
        parts: &[&[rows::Leaf]],
    ) -> Result<Vec<Intention>, StoreError> {
        let roots = rows::roots_of(tx, payments).await?;
        let whole = rows::read_batches(tx, &roots).await?;
        parts
            .iter()
            .map(|part| {
                let part_leaves: Vec<Leaf> = part.iter().map(chain_leaf).collect::<Result<_, _>>()?;
                let (calldata, batch) = if open.effect == Effect::InitiateOnChain {
                    let deadline = open.valid_before.unwrap_or(Timestamp::EPOCH);
                    let calldata = call::initiate_batch(&part_leaves, secs(deadline));
                    (Some(calldata), Some((root(&part_leaves), part.to_vec())))
                } else {
                    (self.on_part(open, whole.values(), part)?, None)
                };
                Ok(Intention {
                    lane: self.lane,
                    effect: open.effect,
                    currency: open.currency,
                    contract: open.contract,
                    calldata: calldata
                        .ok_or_else(|| StoreError::Corrupt("a transaction without its batch".into()))?,
                    payments: part.iter().map(|leaf| leaf.payment_id).collect(),
                    valid_before: open.valid_before,
                    batch,
                    traceparent: open.traceparent.clone(),
                })
            })
            .collect()
    }

    /// The same call for a part of its payments; the whole batch is supplied all the same.
    fn on_part<'a>(
        &self,
        open: &OpenTx,
        mut batches: impl Iterator<Item = &'a Vec<rows::Leaf>>,
        part: &[rows::Leaf],
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(batch) = batches.find(|batch| part.iter().all(|leaf| batch.contains(leaf))) else {
            return Ok(None);
        };
        let places: Vec<usize> = batch
            .iter()
            .enumerate()
            .filter(|(_, leaf)| part.contains(leaf))
            .map(|(place, _)| place)
            .collect();
        let leaves: Vec<Leaf> = batch.iter().map(chain_leaf).collect::<Result<_, _>>()?;
        Ok(call::on_leaves(on_leaves(open.effect)?, &leaves, &places))
    }

    // -------------------------------------------------------------------------------------------------------- track

    /// Compares rows with the chain when there is a new block, and now and then.
    async fn track(
        &mut self,
        lease: &LaneLease,
        open: &[OpenTx],
        sight: &Sight,
        sender: &EvmAddress,
    ) -> Result<(), StoreError> {
        let now = self.context.now();
        let head = sight.head;
        let signed: Vec<&OpenTx> = open.iter().filter(|tx| tx.nonce.is_some()).collect();
        self.oldest = signed.iter().map(|tx| tx.created_at).min();
        if self.tracked.is_some_and(|(at, seen)| seen == head && now.since(at) < TRACK_INTERVAL) {
            return Ok(());
        }
        let mut view = match self.view(sender, &signed, sight).await {
            Ok(view) => view,
            Err(error) => {
                chain_error(self.lane.as_str(), &error);
                return Ok(());
            }
        };
        let strangers = strangers(&signed, &view);
        self.strange.retain(|nonce, _| strangers.contains(nonce));
        for nonce in &strangers {
            self.strange.entry(*nonce).or_insert(head.latest.number);
        }
        if !strangers.is_empty() {
            // A row may have come back to a nonce after that was taken for a hole.
            let fillers = rows::fillers(&self.context.db, sender, &strangers).await?;
            if let Err(error) = look_closer(&*sight.node, sender, &fillers, &mut view).await {
                chain_error(self.lane.as_str(), &error);
                return Ok(());
            }
            // A node that has carried a block out counts its nonces a moment before it shows its receipts; another that answers for
            // it may be behind. What is so at the next block as well is so.
            let at_this_head = self.strange.iter().filter(|(_, seen)| **seen >= head.latest.number);
            let unsure = at_this_head.map(|(nonce, _)| *nonce).min().unwrap_or(u64::MAX);
            view.finally_used_below = view.finally_used_below.min(unsure);
        }
        let in_flight: Vec<InFlight<Uuid>> = signed.iter().filter_map(|tx| in_flight(tx)).collect();
        let next_nonce = lease.next_nonce.max(in_flight.iter().map(|tx| tx.nonce + 1).max().unwrap_or(0));
        self.learn_from_shortage(&signed, &view);
        let is_ours = *sender == self.signer.address();
        // Policy says when a log counts; a transaction is followed for as long as the watcher could go back behind it, also
        // on a chain that takes back what it has called final.
        let depth = self.settings.watch.reorg_depth_blocks_max;
        let settled = head.latest.number.saturating_sub(depth).min(head.finalized.number);
        let mut included = Vec::new();
        for action in plan(&in_flight, next_nonce, &view, &self.settings.fees, now) {
            match action {
                Action::Included(id, number, hash) if number <= settled => {
                    included.push((id, TxFate::Finalized(number, hash)));
                }
                Action::Included(id, number, hash) => included.push((id, TxFate::Included(number, hash))),
                // Nobody signs for it here.
                Action::Bump(id) if !is_ours => self.broadcast_newest(find(&signed, id)).await?,
                Action::FillHole(_) | Action::RaiseFiller(_) | Action::SkipTo(_) if !is_ours => {}
                Action::Broadcast(_)
                | Action::BroadcastAgain(_)
                | Action::Bump(_)
                | Action::Reverted(_)
                | Action::Replaced(_)
                | Action::Filled(_)
                | Action::FillHole(_)
                | Action::RaiseFiller(_)
                | Action::SkipTo(_) => self.carry_out(lease, &signed, action).await?,
            }
        }
        self.filler = self.filler.filter(|filler| filler.seen >= now);
        rows::save_fates(&self.context.db, &included, now).await?;
        let oldest_included = if lease.has_followed || !included.is_empty() {
            let db = &self.context.db;
            rows::follow_included(db, self.lane, view.final_number, settled, depth, now).await?
        } else {
            None
        };
        self.unconfirmed = self.oldest.into_iter().chain(oldest_included).min();
        self.tracked = Some((now, head));
        Ok(())
    }

    /// Shows how old the oldest transactions are that are in no block, and that no policy counts; they grow on while no node answers.
    fn show_age(&self) {
        let lane = self.lane.as_str();
        let age = |since: Option<Timestamp>| {
            since.map_or(Duration::ZERO, |since| self.context.now().since(since)).as_secs_f64()
        };
        metrics::gauge!("chain_oldest_unincluded_seconds", "lane" => lane).set(age(self.oldest));
        metrics::gauge!("chain_oldest_unconfirmed_seconds", "lane" => lane).set(age(self.unconfirmed));
    }

    /// What was reverted with all its gas used ran out of it, or of what the chain counts beside it: what comes next gets more.
    fn learn_from_shortage(&mut self, signed: &[&OpenTx], view: &View) {
        let ran_out = signed.iter().any(|tx| {
            let receipts = tx.hashes.iter().filter_map(|hash| view.receipts.get(hash));
            let all = tx.gas_limit.unwrap_or(u64::MAX);
            receipts.into_iter().any(|receipt| {
                !receipt.succeeded
                    && receipt.block_number <= view.final_number
                    && receipt.gas_used >= all.saturating_sub(all / GAS_LEFT_BY_SHORTAGE)
            })
        });
        if ran_out {
            self.gas_per_byte.clear();
            self.further_margin = self.further_margin.saturating_add(50).min(FURTHER_MARGIN_MAX);
            tracing::warn!(
                lane = self.lane.as_str(),
                further_margin = self.further_margin,
                "a transaction ran out of gas; those that follow get more"
            );
        }
    }

    async fn view(&self, sender: &EvmAddress, signed: &[&OpenTx], sight: &Sight) -> Result<View, ChainError> {
        let used_below = sight.nonce;
        let final_number = self.settings.watch.finality.final_number(&sight.head);
        if signed.is_empty() {
            return Ok(View { used_below, known_below: used_below, final_number, ..View::default() });
        }
        let known_below = sight.node.nonce(sender, At::Pending).await?;
        let is_used = |tx: &&OpenTx| tx.nonce.is_some_and(|nonce| nonce < used_below);
        let used: Vec<&OpenTx> = signed.iter().copied().filter(is_used).collect();
        let mut included = if used.is_empty() { HashMap::new() } else { self.counted(sight).await };
        let mut wanted: Vec<[u8; 32]> = Vec::new();
        for tx in used {
            if !tx.hashes.iter().any(|hash| included.contains_key(hash)) {
                wanted.extend(&tx.hashes);
            }
        }
        included.extend(receipts(&*sight.node, wanted).await?);
        Ok(View { used_below, known_below, final_number, receipts: included, ..View::default() })
    }

    /// What went through since the head that rows were last compared with, by what the contracts counted. Only a short cut: of whom nothing
    /// is said here, the receipt is asked for.
    async fn counted(&self, sight: &Sight) -> HashMap<[u8; 32], Receipt> {
        let Some((_, seen)) = self.tracked else { return HashMap::new() };
        let (from, to) = (seen.latest.number, sight.head.latest.number);
        if to.checked_sub(from).is_none_or(|blocks| blocks >= COUNTED_BLOCKS_MAX) {
            return HashMap::new();
        }
        let contracts: Vec<EvmAddress> =
            self.contracts.iter().flat_map(|set| [set.router, set.manager]).collect();
        let counted = match sight.node.counted(from, to, &contracts).await {
            Ok(counted) => counted,
            Err(error) => {
                tracing::debug!(lane = self.lane.as_str(), %error, "receipts are asked for instead");
                return HashMap::new();
            }
        };
        let receipt = |counted: Counted| Receipt {
            succeeded: true,
            block_number: counted.block_number,
            block_hash: counted.block_hash,
            gas_used: 0,
            created: None,
        };
        counted.into_iter().map(|counted| (counted.tx_hash, receipt(counted))).collect()
    }

    async fn carry_out(
        &mut self,
        lease: &LaneLease,
        signed: &[&OpenTx],
        action: Action<Uuid>,
    ) -> Result<(), StoreError> {
        let now = self.context.now();
        match action {
            Action::BroadcastAgain(id) => {
                metrics::counter!("chain_dropped_total", "lane" => self.lane.as_str()).increment(1);
                tracing::warn!(lane = self.lane.as_str(), chain_tx = %id, "the node has forgotten a transaction; it is told again");
                rows::save_fates(&self.context.db, &[(id, TxFate::Dropped)], now).await?;
                self.broadcast_newest(find(signed, id)).await?;
            }
            Action::Broadcast(id) => self.broadcast_newest(find(signed, id)).await?,
            Action::Bump(id) => {
                if let Some(open) = find(signed, id) {
                    self.bump(lease, open).await?;
                }
            }
            Action::Included(id, number, hash) => {
                rows::save_fates(&self.context.db, &[(id, TxFate::Included(number, hash))], now).await?;
            }
            Action::Reverted(id) => {
                if let Some(open) = find(signed, id) {
                    tracing::error!(lane = self.lane.as_str(), chain_tx = %id, "a transaction was reverted; its payments are sent again");
                    self.in_lane(lease, async |tx| {
                        rows::give_up(tx, &[open], true, "reverted", now, now).await
                    })
                    .await?;
                }
            }
            Action::Replaced(id) => {
                if let Some(open) = find(signed, id) {
                    metrics::counter!("chain_nonces_stolen_total", "lane" => self.lane.as_str()).increment(1);
                    tracing::error!(
                        lane = self.lane.as_str(),
                        nonce = open.nonce,
                        "somebody else uses this lane's key; signing anew"
                    );
                    self.in_lane(lease, async |tx| rows::unsign(tx, open, now).await).await?;
                }
            }
            Action::Filled(id) => {
                if let Some(open) = find(signed, id) {
                    tracing::warn!(
                        lane = self.lane.as_str(),
                        nonce = open.nonce,
                        "a transaction came back after its nonce was filled as a hole; signing anew"
                    );
                    self.in_lane(lease, async |tx| rows::unsign(tx, open, now).await).await?;
                }
            }
            Action::FillHole(nonce) => {
                metrics::counter!("chain_nonce_gaps_total", "lane" => self.lane.as_str()).increment(1);
                tracing::warn!(lane = self.lane.as_str(), nonce, "filling a hole in the nonces");
                self.fill(lease, nonce, None).await?;
            }
            Action::RaiseFiller(nonce) => self.raise_filler(lease, nonce).await?,
            Action::SkipTo(nonce) => {
                let used = nonce.saturating_sub(lease.next_nonce);
                metrics::counter!("chain_nonces_stolen_total", "lane" => self.lane.as_str()).increment(used);
                tracing::error!(
                    lane = self.lane.as_str(),
                    nonce,
                    used,
                    "somebody else uses this lane's key, or the database is older than the chain; going on above what was used"
                );
                self.in_lane(lease, async |tx| rows::set_nonce(tx, lease, nonce).await).await?;
            }
        }
        Ok(())
    }

    async fn broadcast_newest(&self, open: Option<&OpenTx>) -> Result<(), StoreError> {
        let Some(open) = open else { return Ok(()) };
        let mut bodies = rows::tx_bodies(&self.context.db, &[open.id]).await?;
        let Some(body) = bodies.remove(&open.id) else { return Ok(()) };
        match self.newest(open, body) {
            Some(raw) => self.broadcast_again(open.id, &raw).await,
            None => Ok(()),
        }
    }

    /// The newest version of a transaction as it was signed.
    fn newest(&self, open: &OpenTx, body: TxBody) -> Option<Vec<u8>> {
        let (hash, signature) = match body.signed? {
            Version::Whole(raw) => return Some(raw),
            // Signed since our rows were read, by whoever has the lane now.
            Version::Signature(hash, _) if !open.hashes.contains(&hash) => return None,
            Version::Signature(hash, signature) => (hash, signature),
        };
        let unsigned = self.unsigned(open, &body.calldata, open.nonce?, open.gas_limit?, fees_of(open)?);
        let signed = Signed::again(&unsigned, &signature, &hash);
        if signed.is_none() {
            tracing::error!(
                lane = self.lane.as_str(),
                chain_tx = %open.id,
                "what is kept of a signed transaction is not what was signed: is the chain id another one?"
            );
        }
        signed.map(|signed| signed.raw)
    }

    async fn in_lane(
        &self,
        lease: &LaneLease,
        work: impl AsyncFnOnce(&Tx) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let tx = self.context.db.begin().await?;
        rows::guard_lane(&tx, lease).await?;
        work(&tx).await?;
        tx.commit().await
    }

    /// Offers more for what stands at the head of the line. What cannot be offered more, at the cap or while its signer is away, is
    /// broadcast as it is: perhaps no node has it any more, and nothing above it is included before.
    async fn bump(&self, lease: &LaneLease, open: &OpenTx) -> Result<(), StoreError> {
        let (Some(nonce), Some(gas_limit), Some(last)) = (open.nonce, open.gas_limit, fees_of(open)) else {
            return Ok(());
        };
        let market = match self.chain.fees().await {
            Ok(market) => market,
            Err(error) => {
                chain_error(self.lane.as_str(), &error);
                return Ok(());
            }
        };
        let Some(fees) = self.settings.fees.bumped(last, market) else {
            tracing::error!(
                lane = self.lane.as_str(),
                nonce,
                "a transaction waits although it offers all that fee_per_gas_gwei_max allows"
            );
            return self.broadcast_newest(Some(open)).await;
        };
        let bodies = rows::tx_bodies(&self.context.db, &[open.id]).await?;
        let Some(body) = bodies.get(&open.id) else { return Ok(()) };
        let signature = match self.signature(open, &body.calldata, nonce, gas_limit, fees).await {
            Ok(signature) => [signature],
            Err(error) => {
                chain_error(self.lane.as_str(), &error);
                return self.broadcast_newest(Some(open)).await;
            }
        };
        metrics::counter!("chain_fee_bumps_total", "lane" => self.lane.as_str()).increment(1);
        let now = self.context.now();
        self.in_lane(lease, async |tx| rows::save_signatures(tx, &signature, now).await).await?;
        let [signature] = &signature;
        self.broadcast_again(signature.id, &signature.raw).await
    }

    /// Sends nothing to ourselves, so that what waits above this nonce can be included; for more than was offered `last`, up to
    /// the cap. Returns what it offers, if it could be sent.
    async fn fill(
        &self,
        lease: &LaneLease,
        nonce: u64,
        last: Option<TxFees>,
    ) -> Result<Option<TxFees>, StoreError> {
        let (fees, signed) = match self.signed_filler(nonce, last).await {
            Ok(filler) => filler,
            Err(error) => {
                chain_error(self.lane.as_str(), &error);
                return Ok(None);
            }
        };
        // Before anybody sees it: a question that was not answered in time may have been carried out.
        let (own, now) = (self.signer.address(), self.context.now());
        self.in_lane(lease, async |tx| rows::save_filler(tx, &own, nonce, &signed.hash, now).await).await?;
        self.offer_elsewhere(&signed.raw);
        match self.chain.send(&signed.raw).await {
            // What waits there offers as much: the next one offers more.
            Ok(()) | Err(ChainError::Underpriced) => Ok(Some(fees)),
            Err(error) => {
                chain_error(self.lane.as_str(), &error);
                Ok(None)
            }
        }
    }

    async fn signed_filler(&self, nonce: u64, last: Option<TxFees>) -> Result<(TxFees, Signed), ChainError> {
        let (policy, market) = (&self.settings.fees, self.chain.fees().await?);
        let fees =
            last.map_or_else(|| policy.first(market), |last| policy.bumped(last, market).unwrap_or(last));
        let own = self.signer.address();
        let nothing = Unsigned {
            chain_id: self.settings.chain_id,
            nonce,
            to: Some(&own),
            calldata: &[],
            value: 0,
            gas_limit: 21_000,
            fee_per_gas: fees.fee_per_gas,
            priority_fee: fees.priority_fee,
        };
        Ok((fees, signer::sign(&*self.signer, &nothing).await?))
    }

    /// What fills the hole at the head of the line waits. A reorganisation may have put it there, and a row of ours come back, so
    /// it is given as much time as whatever else waits there; then more is offered.
    async fn raise_filler(&mut self, lease: &LaneLease, nonce: u64) -> Result<(), StoreError> {
        let now = self.context.now();
        let known = self.filler.filter(|filler| filler.nonce == nonce);
        let mut filler = known.unwrap_or(Filler { nonce, fees: None, since: now, seen: now });
        filler.seen = now;
        if now.since(filler.since) >= self.settings.fees.bump_after
            && let Some(fees) = self.fill(lease, nonce, filler.fees).await?
        {
            (filler.fees, filler.since) = (Some(fees), now);
        }
        self.filler = Some(filler);
        Ok(())
    }
}

async fn receipts(node: &dyn Chain, wanted: Vec<[u8; 32]>) -> Result<HashMap<[u8; 32], Receipt>, ChainError> {
    let calls: Vec<_> = wanted.iter().map(|hash| node.receipt(*hash)).collect();
    let answers: Vec<_> = stream::iter(calls).buffered(CALLS_MAX).collect().await;
    let mut receipts = HashMap::new();
    for (hash, answer) in wanted.into_iter().zip(answers) {
        receipts.extend(answer?.map(|receipt| (hash, receipt)));
    }
    Ok(receipts)
}

/// Nonces are used, and by no version of ours: by what holes were filled with, or else by somebody else, and is that final?
async fn look_closer(
    node: &dyn Chain,
    sender: &EvmAddress,
    fillers: &[(u64, [u8; 32])],
    view: &mut View,
) -> Result<(), ChainError> {
    let included = receipts(node, fillers.iter().map(|(_, hash)| *hash).collect()).await?;
    let filled = fillers.iter().filter(|(_, hash)| included.contains_key(hash));
    view.filled = filled.map(|(nonce, _)| *nonce).collect();
    let final_block = At::Number(view.final_number);
    view.finally_used_below = match node.nonce(sender, final_block).await {
        Ok(nonce) => nonce,
        // A node that has the block and no old states: what is used stays used on a chain that keeps none.
        Err(ChainError::Refused(_)) if node.block(final_block).await?.is_some() => view.used_below,
        // One that does not have it cannot say.
        Err(ChainError::Refused(_)) => 0,
        Err(error) => return Err(error),
    };
    Ok(())
}

/// What came of running calls without sending them.
struct Simulated<'a> {
    /// Those that go through, with the gas that they may take.
    sound: Vec<(&'a OpenTx, &'a TxBody, u64)>,
    /// Something else made way.
    made_way: bool,
}

/// A transaction with its nonce, to be signed for the first time.
struct Numbered<'a> {
    open: &'a OpenTx,
    body: &'a TxBody,
    nonce: u64,
    gas_limit: u64,
}

const fn kind_of(tx: &OpenTx) -> Kind {
    (tx.currency, tx.effect)
}

/// What a lane sends.
const fn effects_of(duty: Duty) -> &'static [Effect] {
    match duty {
        Duty::Initiator => &[Effect::InitiateOnChain],
        Duty::Settler => &[Effect::SettleOnChain, Effect::BurnRedeemed, Effect::ReleaseRedemption],
        Duty::Canceller => &[Effect::CancelOnChain],
    }
}

fn find<'a>(signed: &[&'a OpenTx], id: Uuid) -> Option<&'a OpenTx> {
    signed.iter().find(|tx| tx.id == id).copied()
}

fn count_of(open: &[OpenTx], states: &[TxState]) -> usize {
    open.iter().filter(|tx| states.contains(&tx.state)).count()
}

/// What is known of the gas that a call takes.
#[derive(Debug, Clone, Copy)]
enum Gas {
    /// It went through with so much.
    Suffices(u64),
    /// The node says that it takes so much.
    Estimated(u64),
}

impl Gas {
    const fn amount(self) -> u64 {
        match self {
            Self::Suffices(gas) | Self::Estimated(gas) => gas,
        }
    }

    /// With room for what may change between simulation and inclusion.
    const fn with_margin(self, percent: u64) -> u64 {
        const FIXED: u64 = 20_000;
        let gas = self.amount();
        gas.saturating_add(gas.saturating_mul(percent) / 100).saturating_add(FIXED)
    }
}

fn bytes_of(calldata: &[u8]) -> u64 {
    u64::try_from(calldata.len()).unwrap_or(u64::MAX)
}

/// Nonces of ours that are used, by none of the versions that we signed.
fn strangers(signed: &[&OpenTx], view: &View) -> Vec<u64> {
    let is_ours = |tx: &&&OpenTx| tx.hashes.iter().any(|hash| view.receipts.contains_key(hash));
    let others = signed.iter().filter(|tx| !is_ours(tx));
    others.filter_map(|tx| tx.nonce).filter(|nonce| *nonce < view.used_below).collect()
}

fn in_flight(tx: &OpenTx) -> Option<InFlight<Uuid>> {
    Some(InFlight {
        id: tx.id,
        nonce: tx.nonce?,
        stage: match tx.state {
            TxState::Intended => return None,
            TxState::Numbered => Stage::Numbered,
            TxState::Signed | TxState::Dropped => Stage::Signed,
            TxState::Broadcast => Stage::Broadcast,
        },
        hashes: tx.hashes.clone(),
        fees: fees_of(tx).unwrap_or(TxFees { fee_per_gas: 0, priority_fee: 0 }),
        since: tx.signed_at,
    })
}

fn fees_of(tx: &OpenTx) -> Option<TxFees> {
    Some(TxFees { fee_per_gas: tx.fee_per_gas?, priority_fee: tx.priority_fee? })
}

fn on_leaves(effect: Effect) -> Result<OnLeaves, StoreError> {
    match effect {
        Effect::SettleOnChain => Ok(OnLeaves::Settle),
        Effect::CancelOnChain => Ok(OnLeaves::Cancel),
        Effect::BurnRedeemed => Ok(OnLeaves::Burn),
        Effect::ReleaseRedemption => Ok(OnLeaves::ReleaseRedemption),
        Effect::InitiateOnChain | Effect::Bank(_) => {
            Err(StoreError::Corrupt(format!("{} is nothing that is done to leaves", effect.as_str())))
        }
    }
}

/// A payment that is to be opened, in the contracts' words.
#[derive(Debug, Clone)]
struct Opening {
    leaf: Leaf,
    authorization: Option<call::Authorization>,
    initiate_before: Timestamp,
    waiting_since: Timestamp,
    traceparent: String,
}

impl Opening {
    /// What cannot be said in the contracts' words is refused with its reason.
    fn of(due: DueInitiation, set: &ContractSet) -> Result<Self, (PaymentId, SetAside, String)> {
        // No more than a row can hold: a root made of more could never be made again, and nothing of its batch be settled.
        let units = |money: Money| {
            let units = if money.is_zero() { Ok(0) } else { money.to_token_units(set.token_decimals) };
            units.ok().and_then(|units| i64::try_from(units).ok()?.try_into().ok())
        };
        let (Some(amount), Some(fee)) = (units(due.amount), units(due.fee)) else {
            return Err((due.payment_id, SetAside::Invalid, due.traceparent));
        };
        // The contracts refuse a signature over tokens where the bank funds, again and again.
        let signed = due.authorization.as_ref().filter(|_| due.funding == Funding::Token);
        let authorization = match signed.map(authorization_of) {
            None => None,
            Some(Some(signed)) => Some(signed),
            Some(None) => return Err((due.payment_id, SetAside::Unauthorized, due.traceparent)),
        };
        let leaf = Leaf {
            number: due.number,
            payment_id: due.payment_id,
            debtor: due.debtor,
            creditor: due.creditor,
            amount,
            fee,
            expires_at: secs(due.expires_at),
            terms: LeafTerms {
                token_funded: due.funding == Funding::Token,
                paid_out_by_bank: due.paid_out_by_bank,
            },
        };
        Ok(Self {
            leaf,
            authorization,
            initiate_before: due.initiate_before,
            waiting_since: due.waiting_since,
            traceparent: due.traceparent,
        })
    }
}

fn stored(leaf: &Leaf) -> rows::Leaf {
    rows::Leaf {
        payment_id: leaf.payment_id,
        number: leaf.number,
        debtor: leaf.debtor,
        creditor: leaf.creditor,
        amount: leaf.amount,
        fee: leaf.fee,
        expires_at: leaf.expires_at,
        terms: leaf.terms.bits(),
    }
}

fn chain_leaf(leaf: &rows::Leaf) -> Result<Leaf, StoreError> {
    Ok(Leaf {
        number: leaf.number,
        payment_id: leaf.payment_id,
        debtor: leaf.debtor,
        creditor: leaf.creditor,
        amount: leaf.amount,
        fee: leaf.fee,
        expires_at: leaf.expires_at,
        terms: LeafTerms::from_bits(leaf.terms).ok_or_else(|| {
            StoreError::Corrupt(format!("terms of the leaf of payment {}", leaf.payment_id))
        })?,
    })
}

/// The ERC-3009 signature as the API stored it: `valid_after`, `valid_before` in block seconds, `nonce`, `v`, `r`, `s`.
fn authorization_of(stored: &Value) -> Option<call::Authorization> {
    let number = |name: &str| stored.get(name)?.as_u64();
    let word = |name: &str| -> Option<[u8; 32]> {
        let digits = stored.get(name)?.as_str()?.strip_prefix("0x")?;
        let mut bytes = [0u8; 32];
        if digits.len() != 64 || !digits.is_ascii() {
            return None;
        }
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(digits.get(index * 2..index * 2 + 2)?, 16).ok()?;
        }
        Some(bytes)
    };
    Some(call::Authorization {
        valid_after: number("valid_after")?,
        valid_before: number("valid_before")?,
        nonce: word("nonce")?,
        v: u8::try_from(number("v")?).ok()?,
        r: word("r")?,
        s: word("s")?,
    })
}

/// Block time, in whole seconds; a deadline between two seconds is the earlier one.
fn secs(instant: Timestamp) -> u64 {
    u64::try_from(instant.as_secs_down()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ready_is_looked_for_where_it_begins_and_everywhere_now_and_then() {
        let at = |millis: i64| Timestamp::from_micros(1_796_000_000_000_000 + millis * 1_000);
        let mut front = Front::default();
        assert_eq!(front.begin(at(0)), Timestamp::EPOCH, "nothing is known yet");
        front.seen(Some(at(-400)), at(0));
        assert_eq!(
            front.begin(at(5)),
            at(-1_400),
            "before the first that was ready, as far as a commit may lag"
        );
        front.seen(None, at(5));
        assert_eq!(front.begin(at(1_999)), at(-995), "nothing was ready then");
        assert_eq!(front.begin(at(2_000)), Timestamp::EPOCH, "what came later than that");
        front.seen(None, at(2_000));
        assert_eq!(front.begin(at(-50)), Timestamp::EPOCH, "a clock that was set back is not believed");
    }
}
