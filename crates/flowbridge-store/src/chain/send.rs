//! What is under way: nonces, signatures, every version ever signed, and what became of each transaction.

use super::lanes::{LaneLease, guard_lane, set_nonce};
use super::{Lane, address, hash, number, unsigned};
use crate::db::{Db, StoreError, Tx};
use crate::event_log::{self, NewEvent, topic};
use crate::observation;
use crate::sql::{At, columns, statements};
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::money::Currency;
use flowbridge_domain::party::EvmAddress;
use flowbridge_domain::payment::{Effect, Event, SetAside};
use flowbridge_domain::time::Timestamp;
use std::collections::{HashMap, HashSet};
use tokio_postgres::Row;
use uuid::Uuid;

statements! {
    REFUSE_UNSENT = "update effect set state = 'refused', attempts = attempts + 1, outcome = refused.why, state_since = $3
        from unnest($1::uuid[], $2::text[]) as refused (payment_id, why)
        where effect.payment_id = refused.payment_id and effect.kind = 'initiate' and effect.state = 'ready'";

    STILL_ASKED = "select payment_id from effect where payment_id = any($1) and kind = $2 and state = 'ready'
        order by payment_id for update";

    // While it is held the watcher takes nothing in, and takes nothing back.
    HOLD_WATCHER = "select from chain_cursor for share";

    UNMARK_SENT = "update effect set state = 'ready', next_attempt_at = $3, state_since = $4
        from unnest($1::uuid[], $2::text[]) as given (chain_tx, kind)
            join chain_tx_item item on item.chain_tx = given.chain_tx
        where effect.payment_id = item.payment_id and effect.kind = given.kind and effect.state = 'sent'";

    REFUSE = "update effect set state = 'refused', outcome = $3, state_since = $4
        from chain_tx_item item
        where item.chain_tx = $1 and effect.payment_id = item.payment_id and effect.kind = $2 and effect.state = 'sent'
        returning effect.payment_id, effect.traceparent";

    // Without the calls themselves, which are long and wanted once.
    OPEN_TXS = "select id, lane, purpose, currency, state, contract, nonce, tx_hash, fee_per_gas, priority_fee, gas_limit,
            versions, valid_before, traceparent, created_at, coalesce(signed_at, state_since) as signed_at,
            (select array_agg(version.tx_hash) from chain_tx_version version where version.chain_tx = chain_tx.id) as hashes
        from chain_tx where lane = $1 and state in ('intended', 'numbered', 'signed', 'broadcast', 'dropped')
        order by nonce nulls last, created_at, id limit $2";

    TX_BODIES = "select chain_tx.id, chain_tx.calldata, version.tx_hash, version.signature, version.raw
        from chain_tx left join chain_tx_version version on version.tx_hash = chain_tx.tx_hash
        where chain_tx.id = any($1)";

    // A reorganisation took its block: it is broadcast again, with the nonce it has. Not below where the watcher goes back to: what
    // waits there to be final may be hours of it.
    REOPEN_TXS = "update chain_tx set state = 'signed', included_number = null, included_hash = null, state_since = $2,
            signed_at = $2
        from chain_block
        where chain_tx.lane = $1 and chain_tx.state in ('included', 'confirmed')
            and chain_tx.included_number > (select block_number from chain_cursor) - $3
            and chain_block.number = chain_tx.included_number and chain_block.hash <> chain_tx.included_hash";

    CONFIRM_TXS = "update chain_tx set state = 'confirmed', state_since = $3
        where lane = $1 and state = 'included' and included_number <= $2";

    OLDEST_INCLUDED = "select created_at from chain_tx where lane = $1 and state = 'included'
        order by included_number limit 1";

    // Where neither the chain nor the watcher goes back to any more, and the watcher has seen the very block.
    FINALIZE_TXS = "update chain_tx set state = 'finalized', state_since = $4
        from chain_block
        where chain_tx.lane = $1 and chain_tx.state in ('included', 'confirmed') and chain_tx.included_number <= $2
            and chain_tx.included_number <= (select block_number from chain_cursor) - $3
            and chain_block.number = chain_tx.included_number and chain_block.hash = chain_tx.included_hash";

    // What is left there is in a block that nobody remembers: the node is asked anew what became of it. Not of another key's, which
    // nobody asks for in this lane any more.
    DOUBT_TXS = "update chain_tx set state = 'signed', included_number = null, included_hash = null, state_since = $4,
            signed_at = $4
        where lane = $1 and state in ('included', 'confirmed') and included_number <= $2
            and included_number <= (select block_number from chain_cursor) - $3
            and sender = (select chain_lane.sender from chain_lane where chain_lane.lane = $1)";

    TX_ITEMS = "select payment_id from chain_tx_item where chain_tx = $1 order by place";

    NUMBER = "update chain_tx set state = 'numbered', nonce = new.nonce, sender = $4, gas_limit = new.gas_limit, state_since = $5
        from unnest($1::uuid[], $2::bigint[], $3::bigint[]) as new (id, nonce, gas_limit)
        where chain_tx.id = new.id and chain_tx.state = 'intended'";

    SIGN = "update chain_tx set state = 'signed', tx_hash = new.tx_hash, fee_per_gas = new.fee_per_gas,
            priority_fee = new.priority_fee, gas_limit = new.gas_limit, versions = versions + 1, state_since = $7, signed_at = $7
        from unnest($1::uuid[], $2::bigint[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[])
            as new (id, nonce, tx_hash, fee_per_gas, priority_fee, gas_limit)
        where chain_tx.id = new.id and chain_tx.nonce = new.nonce";

    REPLACE_VERSIONS = "update chain_tx_version set replaced_at = $3
        where chain_tx = any($1) and tx_hash <> all($2) and replaced_at is null";

    INSERT_VERSIONS = "insert into chain_tx_version (tx_hash, chain_tx, signature, signed_at)
        select tx_hash, chain_tx, signature, $4
            from unnest($1::bytea[], $2::uuid[], $3::bytea[]) as new (tx_hash, chain_tx, signature)
        on conflict do nothing";

    // What has ended stays so, whatever one who slept through it says: another transaction carries its payments.
    MOVE_TXS = "update chain_tx set state = new.state, included_number = new.number, included_hash = new.hash,
            outcome = coalesce(new.outcome, chain_tx.outcome), state_since = $6
        from unnest($1::uuid[], $2::text[], $3::bigint[], $4::bytea[], $5::text[]) as new (id, state, number, hash, outcome)
        where chain_tx.id = new.id and chain_tx.state <> new.state
            and (new.state in ('reverted', 'abandoned')
                or chain_tx.state in ('signed', 'broadcast', 'dropped', 'included', 'confirmed'))";

    POSTPONE = "update effect set next_attempt_at = later.until
        from unnest($1::uuid[], $2::text[], $3::timestamptz[]) as later (payment_id, kind, until)
        where effect.payment_id = later.payment_id and effect.kind = later.kind and effect.state = 'ready'";

    UNSIGN = "update chain_tx set state = 'intended', nonce = null, sender = null, tx_hash = null, signed_at = null,
            state_since = $2
        where id = $1";
}

/// Where a transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxState {
    /// Durable, without a nonce.
    Intended,
    /// With its nonce, not signed.
    Numbered,
    /// Signed, perhaps broadcast.
    Signed,
    /// A node has taken it.
    Broadcast,
    /// The node has forgotten it.
    Dropped,
}

/// A transaction that is not finished.
#[derive(Debug, Clone)]
pub struct OpenTx {
    /// Our id of it.
    pub id: Uuid,
    /// Which effect of its payments it carries out.
    pub effect: Effect,
    /// The contracts' currency.
    pub currency: Currency,
    /// Where it is.
    pub state: TxState,
    /// The contract it calls.
    pub contract: EvmAddress,
    /// From signing on.
    pub nonce: Option<u64>,
    /// Hashes of all versions ever signed.
    pub hashes: Vec<[u8; 32]>,
    /// Of the newest version, in wei.
    pub fee_per_gas: Option<u64>,
    /// Of the newest version, in wei.
    pub priority_fee: Option<u64>,
    /// Of the newest version.
    pub gas_limit: Option<u64>,
    /// How often it was signed.
    pub versions: i32,
    /// The contract refuses it from this block time on.
    pub valid_before: Option<Timestamp>,
    /// The trace of its first payment.
    pub traceparent: String,
    /// Since when it is intended.
    pub created_at: Timestamp,
    /// When its newest version was signed; before that, since when it is where it is.
    pub signed_at: Timestamp,
}

/// The transactions of a lane that are in no block yet, in the order of their nonces, unsigned ones last.
pub async fn open_txs(db: &Db, lane: Lane, limit: i64) -> Result<Vec<OpenTx>, StoreError> {
    let rows = db.query(OPEN_TXS, &[&lane.as_str(), &limit]).await?;
    rows.iter()
        .map(|row| {
            let id: Uuid = row.try_get("id")?;
            let corrupt = |what: &str| StoreError::Corrupt(format!("{what} of chain transaction {id}"));
            let optional = |column: &str| -> Result<Option<u64>, StoreError> {
                row.try_get::<_, Option<i64>>(column)?.map(unsigned).transpose()
            };
            let hashes: Option<Vec<Vec<u8>>> = row.try_get("hashes")?;
            Ok(OpenTx {
                id,
                effect: Effect::parse(row.try_get("purpose")?).ok_or_else(|| corrupt("purpose"))?,
                currency: Currency::parse(row.try_get("currency")?).map_err(|_| corrupt("currency"))?,
                state: match row.try_get::<_, &str>("state")? {
                    "intended" => TxState::Intended,
                    "numbered" => TxState::Numbered,
                    "signed" => TxState::Signed,
                    "broadcast" => TxState::Broadcast,
                    "dropped" => TxState::Dropped,
                    _ => return Err(corrupt("state")),
                },
                contract: address(row, "contract")?,
                nonce: optional("nonce")?,
                hashes: hashes
                    .unwrap_or_default()
                    .into_iter()
                    .map(|hash| hash.try_into().map_err(|_| corrupt("hash")))
                    .collect::<Result<_, _>>()?,
                fee_per_gas: optional("fee_per_gas")?,
                priority_fee: optional("priority_fee")?,
                gas_limit: optional("gas_limit")?,
                versions: row.try_get("versions")?,
                valid_before: row.try_get::<_, Option<At>>("valid_before")?.map(|at| at.0),
                traceparent: row.try_get("traceparent")?,
                created_at: row.try_get::<_, At>("created_at")?.0,
                signed_at: row.try_get::<_, At>("signed_at")?.0,
            })
        })
        .collect()
}

/// The long parts of a transaction.
#[derive(Debug, Clone)]
pub struct TxBody {
    /// The call.
    pub calldata: Vec<u8>,
    /// What makes the newest signed version of it.
    pub signed: Option<Version>,
}

/// What is kept of a signed version.
#[derive(Debug, Clone)]
pub enum Version {
    /// Its hash and its signature: all else of it stands in the transaction's row.
    Signature([u8; 32], [u8; 65]),
    /// The signed bytes, by a release that kept those.
    Whole(Vec<u8>),
}

impl Version {
    fn read(row: &Row) -> Result<Option<Self>, StoreError> {
        let corrupt = |_| StoreError::Corrupt("a signature that is not 65 bytes long".into());
        let signature: Option<Vec<u8>> = row.try_get("signature")?;
        Ok(match signature {
            Some(signature) => {
                Some(Self::Signature(hash(row, "tx_hash")?, signature.try_into().map_err(corrupt)?))
            }
            None => row.try_get::<_, Option<Vec<u8>>>("raw")?.map(Self::Whole),
        })
    }
}

/// Reads the long parts of transactions.
pub async fn tx_bodies(db: &Db, ids: &[Uuid]) -> Result<HashMap<Uuid, TxBody>, StoreError> {
    let rows = db.query(TX_BODIES, &[&ids]).await?;
    rows.iter()
        .map(|row| {
            let body = TxBody { calldata: row.try_get("calldata")?, signed: Version::read(row)? };
            Ok((row.try_get("id")?, body))
        })
        .collect()
}

/// The payments that a transaction carries, in their places.
pub async fn tx_payments(tx: &Tx, id: Uuid) -> Result<Vec<PaymentId>, StoreError> {
    let rows = tx.query(TX_ITEMS, &[&id]).await?;
    rows.iter().map(|row| Ok(PaymentId::from_uuid(row.try_get(0)?))).collect()
}

/// A signature about to become durable.
#[derive(Debug, Clone)]
pub struct Signature {
    /// Which transaction.
    pub id: Uuid,
    /// The nonce it has.
    pub nonce: u64,
    /// The signed bytes, for whoever sends them: what is written down is the signature.
    pub raw: Vec<u8>,
    /// Their hash.
    pub tx_hash: [u8; 32],
    /// r, s and the recovery id.
    pub signature: [u8; 65],
    /// Wei.
    pub fee_per_gas: u64,
    /// Wei.
    pub priority_fee: u64,
    /// Gas.
    pub gas_limit: u64,
}

/// Gives transactions their nonces, from the lane's next one on, in the order given: they are this lane's from now on, signed or
/// not. Each comes with the gas it may take. Returns the nonces.
pub async fn take_nonces(
    tx: &Tx,
    lease: &LaneLease,
    sender: &EvmAddress,
    txs: &[(Uuid, u64)],
    now: Timestamp,
) -> Result<Vec<u64>, StoreError> {
    let first = guard_lane(tx, lease).await?;
    let nonces: Vec<u64> = (first..).take(txs.len()).collect();
    let numbered: Vec<(&(Uuid, u64), &u64)> = txs.iter().zip(&nonces).collect();
    let (ids, numbers, limits) = columns!(
        numbered,
        |((id, gas_limit), nonce)| *id,
        i64::try_from(**nonce).unwrap_or(i64::MAX),
        i64::try_from(*gas_limit).unwrap_or(i64::MAX)
    );
    let count = tx.execute(NUMBER, &[&ids, &numbers, &limits, &sender.as_bytes().to_vec(), &At(now)]).await?;
    if usize::try_from(count).ok() != Some(txs.len()) {
        return Err(StoreError::Corrupt("a transaction that had its nonce already".into()));
    }
    let next = nonces.last().map_or(first, |last| last.saturating_add(1));
    set_nonce(tx, lease, next).await?;
    Ok(nonces)
}

/// Writes signatures down, before anybody sees them. Earlier versions of the same transactions are replaced.
pub async fn save_signatures(tx: &Tx, signatures: &[Signature], now: Timestamp) -> Result<(), StoreError> {
    let wei = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let (ids, nonces, kept, hashes, fees, priorities, limits) = columns!(
        signatures,
        |signature| signature.id,
        wei(signature.nonce),
        signature.signature.as_slice(),
        signature.tx_hash.to_vec(),
        wei(signature.fee_per_gas),
        wei(signature.priority_fee),
        wei(signature.gas_limit)
    );
    tx.execute(SIGN, &[&ids, &nonces, &hashes, &fees, &priorities, &limits, &At(now)]).await?;
    tx.execute(REPLACE_VERSIONS, &[&ids, &hashes, &At(now)]).await?;
    tx.execute(INSERT_VERSIONS, &[&hashes, &ids, &kept, &At(now)]).await?;
    Ok(())
}

/// What became of a signed transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxFate {
    /// A node has taken it.
    Broadcast,
    /// The node that took it has forgotten it.
    Dropped,
    /// It is in this block.
    Included(u64, [u8; 32]),
    /// It is in this block, and no reorganisation reaches that.
    Finalized(u64, [u8; 32]),
}

/// Writes down where transactions are now.
pub async fn save_fates(db: &Db, fates: &[(Uuid, TxFate)], now: Timestamp) -> Result<(), StoreError> {
    if fates.is_empty() {
        return Ok(());
    }
    let place = |fate: &TxFate| match *fate {
        TxFate::Broadcast | TxFate::Dropped => None,
        TxFate::Included(number, hash) | TxFate::Finalized(number, hash) => Some((number, hash)),
    };
    let (ids, states, numbers, hashes, outcomes) = columns!(
        fates,
        |(id, fate)| *id,
        match fate {
            TxFate::Broadcast => "broadcast",
            TxFate::Dropped => "dropped",
            TxFate::Included(..) => "included",
            TxFate::Finalized(..) => "finalized",
        },
        place(fate).map(|(number, _)| i64::try_from(number).unwrap_or(i64::MAX)),
        place(fate).map(|(_, hash)| hash.to_vec()),
        None::<String>
    );
    db.query(MOVE_TXS, &[&ids, &states, &numbers, &hashes, &outcomes, &At(now)]).await?;
    Ok(())
}

/// Follows transactions that are in a block, by the blocks that the watcher has taken in: those whose block a reorganisation took
/// are to be broadcast again; those up to `confirmed_number` count by policy; those up to `settled_number`, and so deep below the
/// watcher's place that it does not go back behind them, are done if the watcher has seen their block, and looked for anew if not.
/// Returns since when the oldest is under way that is in a block and does not count yet.
pub async fn follow_included(
    db: &Db,
    lane: Lane,
    confirmed_number: u64,
    settled_number: u64,
    reorg_depth_blocks_max: u64,
    now: Timestamp,
) -> Result<Option<Timestamp>, StoreError> {
    let (lane, settled, depth) = (lane.as_str(), number(settled_number)?, number(reorg_depth_blocks_max)?);
    db.query(REOPEN_TXS, &[&lane, &At(now), &depth]).await?;
    db.query(CONFIRM_TXS, &[&lane, &number(confirmed_number)?, &At(now)]).await?;
    db.query(FINALIZE_TXS, &[&lane, &settled, &depth, &At(now)]).await?;
    db.query(DOUBT_TXS, &[&lane, &settled, &depth, &At(now)]).await?;
    let oldest = db.query(OLDEST_INCLUDED, &[&lane]).await?;
    let Some(row) = oldest.first() else { return Ok(None) };
    Ok(Some(row.try_get::<_, At>("created_at")?.0))
}

/// Transactions that will not be: reverted, refused in simulation, or held back. Their effects are asked for again at `retry_at`. One that a
/// reorganisation has reverted may be done on the branch that the watcher is just leaving: either it finds here that nothing carries
/// its effects any more, or what it opens again is found here, but never do both look past each other.
pub async fn give_up(
    tx: &Tx,
    given: &[&OpenTx],
    reverted: bool,
    why: &str,
    retry_at: Timestamp,
    now: Timestamp,
) -> Result<(), StoreError> {
    let state = if reverted { "reverted" } else { "abandoned" };
    if reverted {
        tx.query(HOLD_WATCHER, &[]).await?;
    }
    let (ids, states, numbers, hashes, outcomes, kinds) =
        columns!(given, |open| open.id, state, None::<i64>, None::<Vec<u8>>, why, open.effect.as_str());
    tx.execute(MOVE_TXS, &[&ids, &states, &numbers, &hashes, &outcomes, &At(now)]).await?;
    tx.execute(UNMARK_SENT, &[&ids, &kinds, &At(retry_at), &At(now)]).await?;
    Ok(())
}

/// What is asked for these payments is looked at again at its instant, and not before.
pub async fn postpone(tx: &Tx, effects: &[(PaymentId, Effect, Timestamp)]) -> Result<(), StoreError> {
    if effects.is_empty() {
        return Ok(());
    }
    let (ids, kinds, until) =
        columns!(effects, |(payment, effect, until)| payment.as_uuid(), effect.as_str(), At(*until));
    tx.execute(POSTPONE, &[&ids, &kinds, &until]).await?;
    Ok(())
}

/// Claimed initiations that cannot even be put into words for the contracts: their payments are told.
pub async fn refuse_unsent(
    tx: &Tx,
    refused: &[(PaymentId, SetAside, String)],
    now: Timestamp,
) -> Result<(), StoreError> {
    if refused.is_empty() {
        return Ok(());
    }
    let (ids, why) = columns!(refused, |(payment, why, _)| payment.as_uuid(), why.as_str());
    tx.execute(REFUSE_UNSENT, &[&ids, &why, &At(now)]).await?;
    let events = refused.iter().filter_map(|(payment, why, trace)| refusal(*payment, *why, trace.clone()));
    event_log::append(tx, &Vec::from_iter(events), now).await
}

fn refusal(key: PaymentId, why: SetAside, traceparent: String) -> Option<NewEvent> {
    let (kind, data) = observation::encode(&Event::InitiationRefused(why), &())?;
    Some(NewEvent { topic: topic::CHAIN, key, kind, participants: None, traceparent, data })
}

/// Those of `payments` that still ask for the effect: it was not resolved by a log meanwhile. Locks them.
pub async fn still_asked(
    tx: &Tx,
    payments: &[PaymentId],
    effect: Effect,
) -> Result<HashSet<PaymentId>, StoreError> {
    let ids: Vec<Uuid> = payments.iter().map(PaymentId::as_uuid).collect();
    let rows = tx.query(STILL_ASKED, &[&ids, &effect.as_str()]).await?;
    rows.iter().map(|row| Ok(PaymentId::from_uuid(row.try_get(0)?))).collect()
}

/// An item that cannot be initiated, found alone in a transaction that was never signed: its payment is told.
pub async fn refuse_initiation(
    tx: &Tx,
    open: &OpenTx,
    why: SetAside,
    now: Timestamp,
) -> Result<(), StoreError> {
    let refused = tx.query(REFUSE, &[&open.id, &open.effect.as_str(), &why.as_str(), &At(now)]).await?;
    give_up(tx, &[open], false, why.as_str(), now, now).await?;
    let mut events = Vec::new();
    for row in refused {
        let payment = PaymentId::from_uuid(row.try_get("payment_id")?);
        events.extend(refusal(payment, why, row.try_get("traceparent")?));
    }
    event_log::append(tx, &events, now).await
}

/// Takes the signature off a transaction whose nonce somebody else has used: none of its versions can be included any more.
pub async fn unsign(tx: &Tx, open: &OpenTx, now: Timestamp) -> Result<(), StoreError> {
    tx.execute(REPLACE_VERSIONS, &[&vec![open.id], &Vec::<Vec<u8>>::new(), &At(now)]).await?;
    tx.execute(UNSIGN, &[&open.id, &At(now)]).await?;
    Ok(())
}
