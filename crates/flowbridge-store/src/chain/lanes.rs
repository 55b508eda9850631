//! Lanes: one key's line of transactions, and who may sign in it for now.

use super::{Lane, address, hash, number, unsigned};
use crate::db::{Db, StoreError, Tx};
use crate::sql::{At, statements};
use flowbridge_domain::party::EvmAddress;
use flowbridge_domain::payment::Effect;
use flowbridge_domain::time::Timestamp;
use std::time::Duration;

statements! {
    // Ours for most of a lease's time to come: nothing to write.
    HELD_LANE = concat!("select ", lane_columns!("$6"), " from chain_lane where lane = $1 and owner = $2 and lease_until > $3");

    ENSURE_LANE = "insert into chain_lane (lane, next_nonce, sender) values ($1, $2, $3) on conflict do nothing";

    LEASE_LANE = concat!("update chain_lane set owner = $2, lease_until = $6,
            epoch = case when owner = $2 and lease_until > $3 then epoch else epoch + 1 end
        where lane = $1 and (owner = $2 or lease_until <= $3)
        returning ", lane_columns!("$3"));

    // Another key has other nonces: what the old one has signed has to have come to its end first.
    REKEY_LANE = "update chain_lane set sender = $3, next_nonce = $4
        where lane = $1 and epoch = $2
            and not exists (select from chain_tx where chain_tx.lane = $1 and state in ('signed', 'broadcast', 'dropped'))
            and not exists (select from chain_tx where chain_tx.lane = $1 and state = 'included')";

    // What has a nonce of the old key and no signature waits for one of the new key. A signature that comes late is under a lease
    // that is over: nobody writes it down, so nobody sees it.
    UNNUMBER_TXS = "update chain_tx set state = 'intended', nonce = null, sender = null, state_since = $2
        where lane = $1 and state = 'numbered'";

    // A lane from before keys were written down: it keeps its nonce.
    NAME_SENDER = "update chain_lane set sender = $3 where lane = $1 and epoch = $2 and sender is null";

    RELEASE_LANE = "update chain_lane set lease_until = '-infinity' where lane = $1 and owner = $2";

    GUARD_LANE = "select next_nonce from chain_lane where lane = $1 and epoch = $2 for update";

    SET_NONCE = "update chain_lane set next_nonce = $3 where lane = $1 and epoch = $2";

    SAVE_FILLER = "insert into chain_filler (sender, nonce, tx_hash, sent_at) values ($1, $2, $3, $4) on conflict do nothing";

    FORGET_FILLERS = "delete from chain_filler where sender = $1 and nonce < $2";

    FILLERS = "select nonce, tx_hash from chain_filler where sender = $1 and nonce = any($2)";
}

/// What is asked of a lane with its lease: most of the time it has nothing under way and nothing is due, and that is all there is to ask.
/// Effects are looked for from an instant on, as by [`due`](super::due).
macro_rules! lane_columns {
    ($now:literal) => {
        concat!(
            "epoch, next_nonce, sender,
            exists (select from chain_tx where chain_tx.lane = $1
                and state in ('intended', 'numbered', 'signed', 'broadcast', 'dropped')) as has_open,
            exists (select from chain_tx where chain_tx.lane = $1 and state in ('included', 'confirmed')) as has_followed,
            exists (select from effect
                where effect.is_waiting and effect.lane = 'chain' and effect.kind = any($4::text[]) and effect.state = 'ready'
                    and effect.next_attempt_at >= $5 and effect.next_attempt_at <= ",
            $now,
            ") as has_due"
        )
    };
}
use lane_columns;

/// A lane that is ours for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneLease {
    /// The lane.
    pub lane: Lane,
    /// Proves the lease when writing.
    pub epoch: i64,
    /// The nonce that the next transaction takes.
    pub next_nonce: u64,
    /// Whose nonces these are; none in a lane from before that was written down.
    pub sender: Option<EvmAddress>,
    /// It has transactions that are in no block: [`open_txs`](super::open_txs).
    pub has_open: bool,
    /// It has transactions in blocks that may be taken back still: [`follow_included`](super::follow_included).
    pub has_followed: bool,
    /// Something may be due for it: [`due`](super::due).
    pub has_due: bool,
}

/// Takes a lane, or renews it when a third of the lease is over. `None` while somebody else has it. The next nonce of `sender` on
/// chain starts a lane that was never used; without it such a lane stays unused. Says besides whether there is anything to do, of these
/// effects from an instant on.
pub async fn lease_lane(
    db: &Db,
    lane: Lane,
    owner: &str,
    (sender, chain_nonce): (&EvmAddress, Option<u64>),
    (effects, from): (&[Effect], Timestamp),
    (now, lease): (Timestamp, Duration),
) -> Result<Option<LaneLease>, StoreError> {
    let fresh_until = now.plus(lease.saturating_sub(lease / 3));
    let kinds: Vec<&str> = effects.iter().map(|effect| effect.as_str()).collect();
    let (lane_name, from) = (lane.as_str(), At(from));
    let mut rows =
        db.query(HELD_LANE, &[&lane_name, &owner, &At(fresh_until), &kinds, &from, &At(now)]).await?;
    if rows.is_empty() {
        if let Some(nonce) = chain_nonce {
            db.query(ENSURE_LANE, &[&lane.as_str(), &number(nonce)?, &sender.as_bytes().to_vec()]).await?;
        }
        let until = At(now.plus(lease));
        rows = db.query(LEASE_LANE, &[&lane_name, &owner, &At(now), &kinds, &from, &until]).await?;
    }
    rows.first()
        .map(|row| {
            let sender: Option<Vec<u8>> = row.try_get("sender")?;
            Ok(LaneLease {
                lane,
                epoch: row.try_get("epoch")?,
                next_nonce: unsigned(row.try_get("next_nonce")?)?,
                sender: sender.is_some().then(|| address(row, "sender")).transpose()?,
                has_open: row.try_get("has_open")?,
                has_followed: row.try_get("has_followed")?,
                has_due: row.try_get("has_due")?,
            })
        })
        .transpose()
}

/// Gives the lane to another key, whose next nonce is `chain_nonce`, and to it what the old key never signed. False while
/// transactions that the old key signed are under way: no nonce of theirs may be left behind.
pub async fn rekey_lane(
    db: &Db,
    lease: &LaneLease,
    sender: &EvmAddress,
    chain_nonce: u64,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let (lane, key) = (lease.lane.as_str(), sender.as_bytes().to_vec());
    let tx = db.begin().await?;
    let moved = match lease.sender {
        None => tx.execute(NAME_SENDER, &[&lane, &lease.epoch, &key]).await?,
        Some(_) => tx.execute(REKEY_LANE, &[&lane, &lease.epoch, &key, &number(chain_nonce)?]).await?,
    };
    if moved == 1 && lease.sender.is_some() {
        tx.execute(UNNUMBER_TXS, &[&lane, &At(now)]).await?;
    }
    tx.commit().await?;
    Ok(moved == 1)
}

/// Gives a lane back.
pub async fn release_lane(db: &Db, lane: Lane, owner: &str) -> Result<(), StoreError> {
    db.query(RELEASE_LANE, &[&lane.as_str(), &owner]).await?;
    Ok(())
}

/// Holds the lane for this transaction, or says that it is lost. Returns the next nonce.
pub async fn guard_lane(tx: &Tx, lease: &LaneLease) -> Result<u64, StoreError> {
    let rows = tx.query(GUARD_LANE, &[&lease.lane.as_str(), &lease.epoch]).await?;
    rows.first().map_or(Err(StoreError::Lost), |row| unsigned(row.try_get("next_nonce")?))
}

/// Sets the next nonce after the chain proved ours wrong.
pub async fn set_nonce(tx: &Tx, lease: &LaneLease, nonce: u64) -> Result<(), StoreError> {
    let moved = tx.execute(SET_NONCE, &[&lease.lane.as_str(), &lease.epoch, &number(nonce)?]).await?;
    if moved == 1 { Ok(()) } else { Err(StoreError::Lost) }
}

/// So far back holes are remembered that were filled. What a reorganisation brings back is younger.
const FILLED_KEPT: u64 = 10_000;

/// Writes down what is to fill a hole in the nonces of `sender`.
pub async fn save_filler(
    tx: &Tx,
    sender: &EvmAddress,
    nonce: u64,
    tx_hash: &[u8; 32],
    now: Timestamp,
) -> Result<(), StoreError> {
    let key = sender.as_bytes().to_vec();
    tx.execute(SAVE_FILLER, &[&key, &number(nonce)?, &tx_hash.to_vec(), &At(now)]).await?;
    tx.execute(FORGET_FILLERS, &[&key, &number(nonce.saturating_sub(FILLED_KEPT))?]).await?;
    Ok(())
}

/// What these nonces of `sender` were filled with, if they were holes.
pub async fn fillers(
    db: &Db,
    sender: &EvmAddress,
    nonces: &[u64],
) -> Result<Vec<(u64, [u8; 32])>, StoreError> {
    let wanted = nonces.iter().map(|nonce| number(*nonce)).collect::<Result<Vec<i64>, _>>()?;
    let rows = db.query(FILLERS, &[&sender.as_bytes().to_vec(), &wanted]).await?;
    rows.iter().map(|row| Ok((unsigned(row.try_get("nonce")?)?, hash(row, "tx_hash")?))).collect()
}
