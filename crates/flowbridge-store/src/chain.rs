//! What we send to the chain and what we have seen of it.
//!
//! Sending: an intention (calldata, and which payments it carries in which place) is durable before it takes a nonce, and its
//! signed bytes are durable before they are broadcast; every version ever signed is kept, because any of them may be
//! included. Seeing: a range of blocks is taken in by one transaction, with its logs, the observations that are final
//! enough to announce, the wallets' balances and the cursor. A lane of sending and the watcher each have one holder at a time,
//! by lease and epoch.

use crate::db::{Db, StoreError, Tx};
use crate::event_log::{self, NewEvent};
use crate::sql::{At, columns, statements};
use crate::{ledger, observation};
use flowbridge_domain::id::{AccountId, PaymentId};
use flowbridge_domain::ledger::{JournalEntry, LedgerAccount, Moment};
use flowbridge_domain::money::{Currency, Money};
use flowbridge_domain::party::EvmAddress;
use flowbridge_domain::payment::{ChainLog, Effect, Event, Funding, SetAside};
use flowbridge_domain::time::Timestamp;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;
use tokio_postgres::Row;
use uuid::Uuid;

statements! {
    SAVE_CONTRACT = "insert into chain_contract (currency, token, token_decimals, router, manager, house)
        values ($1, $2, $3, $4, $5, $6)
        on conflict (currency) do update set token = excluded.token, token_decimals = excluded.token_decimals,
            router = excluded.router, manager = excluded.manager, house = excluded.house";

    // Ours for most of a lease's time to come: nothing to write.
    HELD_LANE = "select epoch, next_nonce, sender from chain_lane where lane = $1 and owner = $2 and lease_until > $3";

    ENSURE_LANE = "insert into chain_lane (lane, next_nonce, sender) values ($1, $2, $3) on conflict do nothing";

    LEASE_LANE = "update chain_lane set owner = $2, lease_until = $4,
            epoch = case when owner = $2 and lease_until > $3 then epoch else epoch + 1 end
        where lane = $1 and (owner = $2 or lease_until <= $3)
        returning epoch, next_nonce, sender";

    // Another key has other nonces: the old one's have to have come to their end first.
    REKEY_LANE = "update chain_lane set sender = $3, next_nonce = $4
        where lane = $1 and epoch = $2 and not exists (
            select from chain_tx where chain_tx.lane = $1 and state in ('numbered', 'signed', 'broadcast', 'dropped', 'included'))";

    // A lane from before keys were written down: it keeps its nonce.
    NAME_SENDER = "update chain_lane set sender = $3 where lane = $1 and epoch = $2 and sender is null";

    RELEASE_LANE = "update chain_lane set lease_until = '-infinity' where lane = $1 and owner = $2";

    GUARD_LANE = "select next_nonce from chain_lane where lane = $1 and epoch = $2 for update";

    SET_NONCE = "update chain_lane set next_nonce = $3 where lane = $1 and epoch = $2";

    DUE_ON_CHAIN = "select count(*) as due, min(state_since) as oldest from (
            select state_since from effect
                where is_waiting and lane = 'chain' and bank_code is null and kind = any($1) and state = 'ready'
                    and next_attempt_at <= $2
                order by next_attempt_at limit $3) first";

    // Initiations that are due, with their leaves' content. Locked against a client's cancellation.
    CLAIM_INITIATIONS = "select effect.payment_id, payment.number, payment.currency, payment.funding, payment.payout,
            payment.amount, payment.fee, payment.expires_at, payment.initiate_before, effect.traceparent,
            payment.\"authorization\", debtor.wallet as debtor_wallet, creditor.wallet as creditor_wallet,
            effect.state_since
        from effect
            join payment on payment.id = effect.payment_id
            join account debtor on debtor.id = payment.debtor_account
            join account creditor on creditor.id = payment.creditor_account
        where effect.is_waiting and effect.lane = 'chain' and effect.bank_code is null and effect.kind = 'initiate'
            and effect.state = 'ready' and effect.next_attempt_at <= $1 and payment.currency = any($3)
        order by effect.next_attempt_at limit $2
        for update of effect skip locked";

    // What was never begun and can no longer be in time is taken back: the chain's clock ends its payment. Found by the
    // payments that are late, which are few, and not by the effects that are ready.
    REVOKE_LATE = "with late as materialized (
            select id from payment
                where is_open and initiate_before <= $1 and chain_leg = 'unused' and state in ('accepted', 'cancelling')
        )
        update effect set state = 'revoked', outcome = 'too_late', state_since = $2
            from late where effect.payment_id = late.id and effect.kind = 'initiate' and effect.state = 'ready'";

    REFUSE_UNSENT = "update effect set state = 'refused', attempts = attempts + 1, outcome = refused.why, state_since = $3
        from unnest($1::uuid[], $2::text[]) as refused (payment_id, why)
        where effect.payment_id = refused.payment_id and effect.kind = 'initiate' and effect.state = 'ready'";

    // Everything else acts on a leaf that is already on chain; a payment whose leaf is not there yet is not due.
    CLAIM_ON_LEAVES = "select effect.payment_id, effect.kind, effect.traceparent, effect.state_since, chain_leaf.root,
            chain_leaf.place, chain_tx.currency
        from effect
            join chain_leaf on chain_leaf.payment_id = effect.payment_id
            join chain_batch on chain_batch.root = chain_leaf.root
            join chain_tx on chain_tx.id = chain_batch.chain_tx
        where effect.is_waiting and effect.lane = 'chain' and effect.bank_code is null and effect.kind = any($1)
            and effect.state = 'ready' and effect.next_attempt_at <= $2
        order by effect.next_attempt_at limit $3
        for update of effect skip locked";

    MARK_SENT = "update effect set state = 'sent', attempts = attempts + 1, sent_at = $3, state_since = $3
        from unnest($1::uuid[], $2::text[]) as item (payment_id, kind)
        where effect.payment_id = item.payment_id and effect.kind = item.kind and effect.lane = 'chain'";

    STILL_ASKED = "select payment_id from effect where payment_id = any($1) and kind = $2 and state = 'ready'
        order by payment_id for update";

    UNMARK_SENT = "update effect set state = 'ready', next_attempt_at = $3, state_since = $4
        from chain_tx_item item
        where item.chain_tx = $1 and effect.payment_id = item.payment_id and effect.kind = $2 and effect.state = 'sent'";

    REFUSE = "update effect set state = 'refused', outcome = $3, state_since = $4
        from chain_tx_item item
        where item.chain_tx = $1 and effect.payment_id = item.payment_id and effect.kind = $2 and effect.state = 'sent'
        returning effect.payment_id, effect.traceparent";

    INSERT_TXS = "insert into chain_tx (id, lane, purpose, currency, state, calldata, contract, valid_before, traceparent, created_at, state_since)
        select id, lane, purpose, currency, 'intended', calldata, contract, valid_before, traceparent, $9, $9
            from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::bytea[], $7::timestamptz[], $8::text[])
                as new (id, lane, purpose, currency, calldata, contract, valid_before, traceparent)";

    INSERT_ITEMS = "insert into chain_tx_item (payment_id, chain_tx, place)
        select * from unnest($1::uuid[], $2::uuid[], $3::integer[])";

    INSERT_BATCHES = "insert into chain_batch (root, currency, chain_tx, size, created_at)
        select root, currency, chain_tx, size, $5
            from unnest($1::bytea[], $2::text[], $3::uuid[], $4::integer[]) as new (root, currency, chain_tx, size)
        on conflict (root) do update set chain_tx = excluded.chain_tx";

    // A payment that is batched again (its earlier transaction can no longer be included) has a new place; one that has been
    // seen on chain keeps the place that it has there.
    INSERT_LEAVES = "insert into chain_leaf (payment_id, number, root, place, debtor, creditor, amount, fee, expires_at, terms)
        select * from unnest($1::uuid[], $2::bigint[], $3::bytea[], $4::integer[], $5::bytea[], $6::bytea[], $7::bigint[],
                $8::bigint[], $9::bigint[], $10::smallint[])
        on conflict (payment_id) do update set root = excluded.root, place = excluded.place
            where not exists (
                select from chain_log where chain_log.payment_id = excluded.payment_id and chain_log.kind = 'payment')";

    LEAVES_OF = "select payment_id, number, root, debtor, creditor, amount, fee, expires_at, terms from chain_leaf
        where payment_id = any($1) order by root, place";

    ROOTS_OF = "select distinct root from chain_leaf where payment_id = any($1)";

    READ_LEAVES = "select payment_id, number, root, debtor, creditor, amount, fee, expires_at, terms from chain_leaf
        where root = any($1) order by root, place";

    // Without the calls themselves, which are long and wanted once.
    OPEN_TXS = "select id, lane, purpose, currency, state, contract, nonce, tx_hash, fee_per_gas, priority_fee, gas_limit,
            versions, valid_before, traceparent, created_at, coalesce(signed_at, state_since) as signed_at,
            (select array_agg(version.tx_hash) from chain_tx_version version where version.chain_tx = chain_tx.id) as hashes
        from chain_tx where lane = $1 and state in ('intended', 'numbered', 'signed', 'broadcast', 'dropped')
        order by nonce nulls last, created_at, id limit $2";

    TX_BODIES = "select chain_tx.id, chain_tx.calldata, version.raw
        from chain_tx left join chain_tx_version version on version.tx_hash = chain_tx.tx_hash
        where chain_tx.id = any($1)";

    // A reorganisation took its block: it is broadcast again, with the nonce it has.
    REOPEN_TXS = "update chain_tx set state = 'signed', included_number = null, included_hash = null, state_since = $2,
            signed_at = $2
        from chain_block
        where chain_tx.lane = $1 and chain_tx.state in ('included', 'confirmed')
            and chain_block.number = chain_tx.included_number and chain_block.hash <> chain_tx.included_hash";

    CONFIRM_TXS = "update chain_tx set state = 'confirmed', state_since = $3
        where lane = $1 and state = 'included' and included_number <= $2";

    FINALIZE_TXS = "update chain_tx set state = 'finalized', state_since = $3
        where lane = $1 and state in ('included', 'confirmed') and included_number <= $2";

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

    INSERT_VERSIONS = "insert into chain_tx_version (tx_hash, chain_tx, raw, signed_at)
        select tx_hash, chain_tx, raw, $4 from unnest($1::bytea[], $2::uuid[], $3::bytea[]) as new (tx_hash, chain_tx, raw)
        on conflict do nothing";

    MOVE_TXS = "update chain_tx set state = new.state, included_number = new.number, included_hash = new.hash,
            outcome = coalesce(new.outcome, chain_tx.outcome), state_since = $6
        from unnest($1::uuid[], $2::text[], $3::bigint[], $4::bytea[], $5::text[]) as new (id, state, number, hash, outcome)
        where chain_tx.id = new.id and chain_tx.state <> new.state";

    UNSIGN = "update chain_tx set state = 'intended', nonce = null, sender = null, tx_hash = null, signed_at = null,
            state_since = $2
        where id = $1";

    ENSURE_CURSOR = "insert into chain_cursor (block_number, block_hash, announced_number) values ($1, $2, $1)
        on conflict do nothing";

    // Ours for most of a lease's time to come: nothing to write.
    HELD_WATCHER = "select epoch, block_number, block_hash, announced_number from chain_cursor
        where owner = $1 and lease_until > $2";

    LEASE_WATCHER = "update chain_cursor set owner = $1, lease_until = $3,
            epoch = case when owner = $1 and lease_until > $2 then epoch else epoch + 1 end
        where owner = $1 or lease_until <= $2
        returning epoch, block_number, block_hash, announced_number";

    RELEASE_WATCHER = "update chain_cursor set lease_until = '-infinity' where owner = $1";

    MOVE_CURSOR = "update chain_cursor set block_number = $2, block_hash = $3, announced_number = $4 where epoch = $1";

    SAVE_HEAD = "insert into chain_head (chain_id, latest_number, latest_time, safe_number, safe_time, finalized_number, finalized_time, seen_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        on conflict (only_one) do update set chain_id = excluded.chain_id,
            latest_number = excluded.latest_number, latest_time = excluded.latest_time,
            safe_number = excluded.safe_number, safe_time = excluded.safe_time,
            finalized_number = excluded.finalized_number, finalized_time = excluded.finalized_time, seen_at = excluded.seen_at";

    READ_HEAD = "select chain_id, latest_number, latest_time, safe_number, safe_time, finalized_number, finalized_time, seen_at
        from chain_head";

    SAVE_BLOCKS = "insert into chain_block (number, hash, block_time)
        select * from unnest($1::bigint[], $2::bytea[], $3::timestamptz[])
        on conflict (number) do update set hash = excluded.hash, block_time = excluded.block_time";

    FORGET_BLOCKS = "delete from chain_block where number < $1 or number > $2";

    KNOWN_BLOCKS = "select number, hash from chain_block order by number desc limit $1";

    SAVE_LOGS = "insert into chain_log (block_number, log_index, block_hash, tx_hash, currency, kind, payment_id, data)
        select * from unnest($1::bigint[], $2::integer[], $3::bytea[], $4::bytea[], $5::text[], $6::text[], $7::uuid[], $8::jsonb[])";

    // What is announced is what lies up to the cursor's place.
    TO_ANNOUNCE = "select block_number, log_index, block_hash, tx_hash, currency, kind, payment_id, data from chain_log
        where block_number > $1 and block_number <= $2 order by block_number, log_index";

    REMOVE = "delete from chain_log where block_number > $1
        returning block_number, log_index, block_hash, tx_hash, currency, kind, payment_id, data";

    TRACES = "select id, traceparent from payment where id = any($1)";

    WALLET_ACCOUNTS = "select id, wallet, currency from account where wallet = any($1)";

    // A log that is announced settles the effect that asked for it; one that is taken back opens it again.
    RESOLVE_EFFECTS = "update effect set state = new.state, outcome = new.outcome, reference = new.reference, state_since = $6
        from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[]) as new (payment_id, kind, state, outcome, reference)
        where effect.payment_id = new.payment_id and effect.kind = new.kind and effect.lane = 'chain'
            and effect.state <> 'revoked'";

    MOVE_WALLETS = "insert into chain_wallet (currency, wallet, units)
        select currency, wallet, sum(units)::bigint
            from unnest($1::text[], $2::bytea[], $3::bigint[]) as moved (currency, wallet, units)
            group by currency, wallet order by currency, wallet
        on conflict (currency, wallet) do update set units = chain_wallet.units + excluded.units";

    SAVE_TOTALS = "insert into chain_totals (currency, sequence, minted, burned, escrowed, redemption, gaps)
        values ($1, $2, $3, $4, $5, $6, $7)
        on conflict (currency) do update set sequence = excluded.sequence, minted = excluded.minted, burned = excluded.burned,
            escrowed = excluded.escrowed, redemption = excluded.redemption, gaps = chain_totals.gaps + excluded.gaps";

    READ_TOTALS = "select currency, sequence from chain_totals";

    LAST_TOTALS = "select data from chain_log where currency = $1 and kind = 'totals' and block_number <= $2
        order by block_number desc, log_index desc limit 1";

    MISSED_LOGS = "select coalesce(sum(gaps), 0)::bigint as gaps from chain_totals";

    // Blocks with logs of ours, as the watcher takes them in: a block is not missed when its transactions come to their end before
    // anybody asks about it. From as far back as a reorganisation may have put one, or the oldest that was open when this began.
    NOTE_L1_BLOCKS = "insert into chain_l1_block (block_number)
        select distinct block_number from chain_log where block_number > coalesce(
            (select max(block_number) - $1 from chain_l1_block),
            (select min(included_number) - 1 from chain_tx where state in ('included', 'confirmed')),
            (select max(block_number) from chain_log))
        on conflict do nothing";

    // Blocks pass each stage in their order, so the oldest before each stage are those to ask about: those that wait for their
    // execution, which takes hours, hide none that is to be committed next.
    BLOCKS_ON_THEIR_WAY = "(select block_number from chain_l1_block where execute_tx is null and commit_tx is null
            order by block_number limit $1)
        union all (select block_number from chain_l1_block where execute_tx is null and commit_tx is not null and prove_tx is null
            order by block_number limit $1)
        union all (select block_number from chain_l1_block where execute_tx is null and commit_tx is not null and prove_tx is not null
            order by block_number limit $1)";

    SAVE_L1_BLOCKS = "update chain_l1_block set batch_number = new.batch_number, commit_tx = new.commit_tx,
            prove_tx = new.prove_tx, execute_tx = new.execute_tx
        from unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::bytea[], $5::bytea[])
            as new (block_number, batch_number, commit_tx, prove_tx, execute_tx)
        where chain_l1_block.block_number = new.block_number";

    CONTRACT_DECIMALS = "select currency, token_decimals from chain_contract";
}

/// What a lane does: a role of its own on chain, so that no key can do another's work there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Duty {
    /// Opens payments.
    Initiator,
    /// Settles, burns, releases.
    Settler,
    /// Cancels.
    Canceller,
}

impl Duty {
    /// Every duty.
    pub const ALL: [Self; 3] = [Self::Initiator, Self::Settler, Self::Canceller];
}

/// One key's line of transactions. Lanes of the same duty share its work: nonces are in order within a lane, so one that waits
/// holds up no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    duty: Duty,
    place: u8,
}

/// Lanes of one duty at most.
pub const LANES_PER_DUTY_MAX: u8 = 8;

impl Lane {
    /// The first lane of a duty.
    pub const fn first(duty: Duty) -> Self {
        Self { duty, place: 1 }
    }

    /// The lanes that a duty can have, in their order.
    pub fn of(duty: Duty) -> impl Iterator<Item = Self> {
        (1..=LANES_PER_DUTY_MAX).map(move |place| Self { duty, place })
    }

    /// What it does.
    pub const fn duty(self) -> Duty {
        self.duty
    }

    /// The name in tables, metrics and key files: `settler`, `settler-2`.
    pub fn as_str(self) -> &'static str {
        const NAMES: [[&str; LANES_PER_DUTY_MAX as usize]; 3] = [
            [
                "initiator",
                "initiator-2",
                "initiator-3",
                "initiator-4",
                "initiator-5",
                "initiator-6",
                "initiator-7",
                "initiator-8",
            ],
            [
                "settler",
                "settler-2",
                "settler-3",
                "settler-4",
                "settler-5",
                "settler-6",
                "settler-7",
                "settler-8",
            ],
            [
                "canceller",
                "canceller-2",
                "canceller-3",
                "canceller-4",
                "canceller-5",
                "canceller-6",
                "canceller-7",
                "canceller-8",
            ],
        ];
        let names = match self.duty {
            Duty::Initiator => &NAMES[0],
            Duty::Settler => &NAMES[1],
            Duty::Canceller => &NAMES[2],
        };
        // The place is made by this type alone, and within the table.
        names.get(usize::from(self.place) - 1).copied().unwrap_or(names[0])
    }

    /// Reads the name.
    pub fn parse(text: &str) -> Option<Self> {
        Duty::ALL.into_iter().flat_map(Self::of).find(|lane| lane.as_str() == text)
    }
}

/// Our contracts of one currency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contracts {
    /// The currency.
    pub currency: Currency,
    /// `TokenizedCash`.
    pub token: EvmAddress,
    /// Its decimals.
    pub token_decimals: u8,
    /// `PaymentRouter`.
    pub router: EvmAddress,
    /// `SettlementManager`.
    pub manager: EvmAddress,
    /// Where fees go.
    pub house: EvmAddress,
}

/// Makes our contracts known, from the deployment record.
pub async fn save_contracts(db: &Db, contracts: &Contracts) -> Result<(), StoreError> {
    let address = |address: &EvmAddress| address.as_bytes().to_vec();
    db.query(
        SAVE_CONTRACT,
        &[
            &contracts.currency.code(),
            &address(&contracts.token),
            &i16::from(contracts.token_decimals),
            &address(&contracts.router),
            &address(&contracts.manager),
            &address(&contracts.house),
        ],
    )
    .await?;
    Ok(())
}

// ---------------------------------------------------------------------------------------------------------------- lanes

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
}

/// Takes a lane, or renews it when a third of the lease is over. `None` while somebody else has it. The next nonce of `sender` on
/// chain starts a lane that was never used; without it such a lane stays unused.
pub async fn lease_lane(
    db: &Db,
    lane: Lane,
    owner: &str,
    (sender, chain_nonce): (&EvmAddress, Option<u64>),
    now: Timestamp,
    lease: Duration,
) -> Result<Option<LaneLease>, StoreError> {
    let fresh_until = now.plus(lease.saturating_sub(lease / 3));
    let mut rows = db.query(HELD_LANE, &[&lane.as_str(), &owner, &At(fresh_until)]).await?;
    if rows.is_empty() {
        if let Some(nonce) = chain_nonce {
            db.query(ENSURE_LANE, &[&lane.as_str(), &number(nonce)?, &sender.as_bytes().to_vec()]).await?;
        }
        rows = db.query(LEASE_LANE, &[&lane.as_str(), &owner, &At(now), &At(now.plus(lease))]).await?;
    }
    rows.first()
        .map(|row| {
            let sender: Option<Vec<u8>> = row.try_get("sender")?;
            Ok(LaneLease {
                lane,
                epoch: row.try_get("epoch")?,
                next_nonce: unsigned(row.try_get("next_nonce")?)?,
                sender: sender.is_some().then(|| address(row, "sender")).transpose()?,
            })
        })
        .transpose()
}

/// Gives the lane to another key, whose next nonce is `chain_nonce`. False while transactions of the old key are under way: no
/// nonce of theirs may be left behind.
pub async fn rekey_lane(
    db: &Db,
    lease: &LaneLease,
    sender: &EvmAddress,
    chain_nonce: u64,
) -> Result<bool, StoreError> {
    let (lane, key) = (lease.lane.as_str(), sender.as_bytes().to_vec());
    let tx = db.begin().await?;
    let moved = match lease.sender {
        None => tx.execute(NAME_SENDER, &[&lane, &lease.epoch, &key]).await?,
        Some(_) => tx.execute(REKEY_LANE, &[&lane, &lease.epoch, &key, &number(chain_nonce)?]).await?,
    };
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

// ------------------------------------------------------------------------------------------------------------- intending

/// What is due of some effects, before a transaction is begun for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// How many, counted to a limit.
    pub count: usize,
    /// Since when the one waits that has waited longest.
    pub oldest: Timestamp,
}

/// Looks at what is due of these effects, and counts up to `limit` of it. `None`: nothing is.
pub async fn due(
    db: &Db,
    effects: &[Effect],
    now: Timestamp,
    limit: usize,
) -> Result<Option<Due>, StoreError> {
    let kinds: Vec<&str> = effects.iter().map(|effect| effect.as_str()).collect();
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = db.query(DUE_ON_CHAIN, &[&kinds, &At(now), &limit]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let count = usize::try_from(row.try_get::<_, i64>("due")?).unwrap_or(usize::MAX);
    Ok(row.try_get::<_, Option<At>>("oldest")?.map(|At(oldest)| Due { count, oldest }))
}

/// A payment that is to be opened on chain.
#[derive(Debug, Clone)]
pub struct DueInitiation {
    /// The payment.
    pub payment_id: PaymentId,
    /// Its number on chain.
    pub number: u64,
    /// How it is funded: batches do not mix.
    pub funding: Funding,
    /// Paid out by bank?
    pub paid_out_by_bank: bool,
    /// The debtor's wallet.
    pub debtor: EvmAddress,
    /// The creditor's wallet.
    pub creditor: EvmAddress,
    /// What the debtor pays.
    pub amount: Money,
    /// What of it is ours.
    pub fee: Money,
    /// Settled strictly before.
    pub expires_at: Timestamp,
    /// Opened strictly before.
    pub initiate_before: Timestamp,
    /// The debtor's ERC-3009 signature, if that is how it is authorised.
    pub authorization: Option<Value>,
    /// The trace it continues.
    pub traceparent: String,
    /// Since when it waits.
    pub waiting_since: Timestamp,
}

/// Locks initiations in `currencies` that are due until the transaction ends; [`intend`] takes them, leaving them lets them go. Those that
/// could no longer be in time, `margin` ahead of their deadline, are taken back for good.
pub async fn claim_initiations(
    tx: &Tx,
    currencies: &[Currency],
    now: Timestamp,
    margin: Duration,
    limit: i64,
) -> Result<Vec<DueInitiation>, StoreError> {
    tx.execute(REVOKE_LATE, &[&At(now.plus(margin)), &At(now)]).await?;
    let codes: Vec<&str> = currencies.iter().map(Currency::code).collect();
    let rows = tx.query(CLAIM_INITIATIONS, &[&At(now), &limit, &codes]).await?;
    rows.iter()
        .map(|row| {
            let payment_id = PaymentId::from_uuid(row.try_get("payment_id")?);
            let corrupt = |what: &str| StoreError::Corrupt(format!("{what} of payment {payment_id}"));
            let currency = Currency::parse(row.try_get("currency")?).map_err(|_| corrupt("currency"))?;
            let money = |column: &str| {
                Ok::<_, StoreError>(Money::new(row.try_get::<_, i64>(column)?.into(), currency))
            };
            Ok(DueInitiation {
                payment_id,
                number: unsigned(row.try_get("number")?)?,
                funding: Funding::parse(row.try_get("funding")?).ok_or_else(|| corrupt("funding"))?,
                paid_out_by_bank: row.try_get::<_, &str>("payout")? == "bank",
                debtor: address(row, "debtor_wallet")?,
                creditor: address(row, "creditor_wallet")?,
                amount: money("amount")?,
                fee: money("fee")?,
                expires_at: row.try_get::<_, At>("expires_at")?.0,
                initiate_before: row.try_get::<_, At>("initiate_before")?.0,
                authorization: row.try_get("authorization")?,
                traceparent: row.try_get("traceparent")?,
                waiting_since: row.try_get::<_, At>("state_since")?.0,
            })
        })
        .collect()
}

/// An effect on a payment whose leaf is on chain.
#[derive(Debug, Clone)]
pub struct DueOnLeaf {
    /// The payment.
    pub payment_id: PaymentId,
    /// Settle, cancel, burn or release.
    pub effect: Effect,
    /// Its batch.
    pub root: [u8; 32],
    /// Its place there.
    pub place: u32,
    /// The batch's currency.
    pub currency: Currency,
    /// The trace it continues.
    pub traceparent: String,
    /// Since when it waits.
    pub waiting_since: Timestamp,
}

/// Locks effects on leaves that are due, as [`claim_initiations`] does.
pub async fn claim_on_leaves(
    tx: &Tx,
    effects: &[Effect],
    now: Timestamp,
    limit: i64,
) -> Result<Vec<DueOnLeaf>, StoreError> {
    let kinds: Vec<&str> = effects.iter().map(|effect| effect.as_str()).collect();
    let rows = tx.query(CLAIM_ON_LEAVES, &[&kinds, &At(now), &limit]).await?;
    rows.iter()
        .map(|row| {
            let payment_id = PaymentId::from_uuid(row.try_get("payment_id")?);
            let corrupt =
                |what: &str| StoreError::Corrupt(format!("{what} of the leaf of payment {payment_id}"));
            Ok(DueOnLeaf {
                payment_id,
                effect: Effect::parse(row.try_get("kind")?).ok_or_else(|| corrupt("effect"))?,
                root: hash(row, "root")?,
                place: u32::try_from(row.try_get::<_, i32>("place")?).map_err(|_| corrupt("place"))?,
                currency: Currency::parse(row.try_get("currency")?).map_err(|_| corrupt("currency"))?,
                traceparent: row.try_get("traceparent")?,
                waiting_since: row.try_get::<_, At>("state_since")?.0,
            })
        })
        .collect()
}

/// A leaf as it was committed to. Amounts are token units, times block seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The payment.
    pub payment_id: PaymentId,
    /// Its number.
    pub number: u64,
    /// Who pays.
    pub debtor: EvmAddress,
    /// Who is paid.
    pub creditor: EvmAddress,
    /// How much.
    pub amount: u64,
    /// What of it is ours.
    pub fee: u64,
    /// Settled strictly before.
    pub expires_at: u64,
    /// Bit 0: funded by token; bit 1: paid out by bank.
    pub terms: u8,
}

/// What is to be sent: the calldata, the payments it carries, and for an initiation the batch it commits to.
#[derive(Debug, Clone)]
pub struct Intention {
    /// Who sends it.
    pub lane: Lane,
    /// Which effect of its payments it carries out.
    pub effect: Effect,
    /// The contracts' currency.
    pub currency: Currency,
    /// The contract it calls.
    pub contract: EvmAddress,
    /// The call.
    pub calldata: Vec<u8>,
    /// The payments it carries, in their places.
    pub payments: Vec<PaymentId>,
    /// The contract refuses it from this block time on.
    pub valid_before: Option<Timestamp>,
    /// For an initiation: the root and the leaves in order.
    pub batch: Option<([u8; 32], Vec<Leaf>)>,
    /// The trace of its first payment.
    pub traceparent: String,
}

/// Makes intentions durable, and takes their effects out of the queue, in the transaction that claimed them.
pub async fn intend(tx: &Tx, intentions: &[Intention], now: Timestamp) -> Result<(), StoreError> {
    if intentions.is_empty() {
        return Ok(());
    }
    let new_id = || flowbridge_domain::id::EventId::generate(now, rand::random()).as_uuid();
    let new: Vec<(Uuid, &Intention)> = intentions.iter().map(|intention| (new_id(), intention)).collect();
    let (ids, lanes, effects, currencies, calls, contracts, before, traces) = columns!(
        new,
        |(id, intention)| *id,
        intention.lane.as_str(),
        intention.effect.as_str(),
        intention.currency.code(),
        intention.calldata.as_slice(),
        intention.contract.as_bytes().to_vec(),
        intention.valid_before.map(At),
        intention.traceparent.as_str()
    );
    tx.execute(
        INSERT_TXS,
        &[&ids, &lanes, &effects, &currencies, &calls, &contracts, &before, &traces, &At(now)],
    )
    .await?;
    let items: Vec<(Uuid, &str, usize, Uuid)> = new
        .iter()
        .flat_map(|(id, intention)| {
            let payments = intention.payments.iter().enumerate();
            payments.map(|(place, payment)| (*id, intention.effect.as_str(), place, payment.as_uuid()))
        })
        .collect();
    let (payments, txs, places, kinds) = columns!(
        items,
        |(id, kind, place, payment)| *payment,
        *id,
        i32::try_from(*place).unwrap_or(i32::MAX),
        *kind
    );
    tx.execute(INSERT_ITEMS, &[&payments, &txs, &places]).await?;
    tx.execute(MARK_SENT, &[&payments, &kinds, &At(now)]).await?;
    save_batches(tx, &new, now).await
}

async fn save_batches(tx: &Tx, new: &[(Uuid, &Intention)], now: Timestamp) -> Result<(), StoreError> {
    let batches: Vec<(Uuid, &str, &[u8; 32], &Vec<Leaf>)> = new
        .iter()
        .filter_map(|(id, intention)| {
            let (root, leaves) = intention.batch.as_ref()?;
            Some((*id, intention.currency.code(), root, leaves))
        })
        .collect();
    if batches.is_empty() {
        return Ok(());
    }
    let (roots, currencies, txs, sizes) = columns!(
        batches,
        |(id, currency, root, leaves)| root.to_vec(),
        *currency,
        *id,
        i32::try_from(leaves.len()).unwrap_or(i32::MAX)
    );
    tx.execute(INSERT_BATCHES, &[&roots, &currencies, &txs, &sizes, &At(now)]).await?;
    let leaves: Vec<(&[u8; 32], usize, &Leaf)> = batches
        .iter()
        .flat_map(|(_, _, root, leaves)| leaves.iter().enumerate().map(|(place, leaf)| (*root, place, leaf)))
        .collect();
    let (ids, numbers, roots, places) = columns!(
        leaves,
        |(root, place, leaf)| leaf.payment_id.as_uuid(),
        i64::try_from(leaf.number).unwrap_or(i64::MAX),
        root.to_vec(),
        i32::try_from(*place).unwrap_or(i32::MAX)
    );
    let (debtors, creditors, amounts, fees, expiries, terms) = columns!(
        leaves,
        |(_, _, leaf)| leaf.debtor.as_bytes().to_vec(),
        leaf.creditor.as_bytes().to_vec(),
        i64::try_from(leaf.amount).unwrap_or(i64::MAX),
        i64::try_from(leaf.fee).unwrap_or(i64::MAX),
        i64::try_from(leaf.expires_at).unwrap_or(i64::MAX),
        i16::from(leaf.terms)
    );
    tx.execute(
        INSERT_LEAVES,
        &[&ids, &numbers, &roots, &places, &debtors, &creditors, &amounts, &fees, &expiries, &terms],
    )
    .await?;
    Ok(())
}

/// The whole batches behind roots, leaves in their places.
pub async fn read_batches(tx: &Tx, roots: &[[u8; 32]]) -> Result<HashMap<[u8; 32], Vec<Leaf>>, StoreError> {
    let wanted: Vec<Vec<u8>> = roots.iter().map(|root| root.to_vec()).collect();
    let mut batches: HashMap<[u8; 32], Vec<Leaf>> = HashMap::new();
    for row in tx.query(READ_LEAVES, &[&wanted]).await? {
        batches.entry(hash(&row, "root")?).or_default().push(leaf(&row)?);
    }
    Ok(batches)
}

/// The batches that payments are in.
pub async fn roots_of(tx: &Tx, payments: &[PaymentId]) -> Result<Vec<[u8; 32]>, StoreError> {
    let ids: Vec<Uuid> = payments.iter().map(PaymentId::as_uuid).collect();
    tx.query(ROOTS_OF, &[&ids]).await?.iter().map(|row| hash(row, "root")).collect()
}

/// The leaves of payments.
pub async fn leaves_of(tx: &Tx, payments: &[PaymentId]) -> Result<Vec<Leaf>, StoreError> {
    let ids: Vec<Uuid> = payments.iter().map(PaymentId::as_uuid).collect();
    tx.query(LEAVES_OF, &[&ids]).await?.iter().map(leaf).collect()
}

fn leaf(row: &Row) -> Result<Leaf, StoreError> {
    Ok(Leaf {
        payment_id: PaymentId::from_uuid(row.try_get("payment_id")?),
        number: unsigned(row.try_get("number")?)?,
        debtor: address(row, "debtor")?,
        creditor: address(row, "creditor")?,
        amount: unsigned(row.try_get("amount")?)?,
        fee: unsigned(row.try_get("fee")?)?,
        expires_at: unsigned(row.try_get("expires_at")?)?,
        terms: u8::try_from(row.try_get::<_, i16>("terms")?)
            .map_err(|_| StoreError::Corrupt("terms of a leaf".into()))?,
    })
}

// --------------------------------------------------------------------------------------------------------------- sending

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
    /// The newest signed version.
    pub raw: Option<Vec<u8>>,
}

/// Reads the long parts of transactions.
pub async fn tx_bodies(db: &Db, ids: &[Uuid]) -> Result<HashMap<Uuid, TxBody>, StoreError> {
    let rows = db.query(TX_BODIES, &[&ids]).await?;
    rows.iter()
        .map(|row| {
            let body = TxBody { calldata: row.try_get("calldata")?, raw: row.try_get("raw")? };
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
    /// The signed bytes.
    pub raw: Vec<u8>,
    /// Their hash.
    pub tx_hash: [u8; 32],
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
    let (ids, nonces, raw, hashes, fees, priorities, limits) = columns!(
        signatures,
        |signature| signature.id,
        wei(signature.nonce),
        signature.raw.as_slice(),
        signature.tx_hash.to_vec(),
        wei(signature.fee_per_gas),
        wei(signature.priority_fee),
        wei(signature.gas_limit)
    );
    tx.execute(SIGN, &[&ids, &nonces, &hashes, &fees, &priorities, &limits, &At(now)]).await?;
    tx.execute(REPLACE_VERSIONS, &[&ids, &hashes, &At(now)]).await?;
    tx.execute(INSERT_VERSIONS, &[&hashes, &ids, &raw, &At(now)]).await?;
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
}

/// Writes down where transactions are now.
pub async fn save_fates(db: &Db, fates: &[(Uuid, TxFate)], now: Timestamp) -> Result<(), StoreError> {
    if fates.is_empty() {
        return Ok(());
    }
    let place = |fate: &TxFate| match *fate {
        TxFate::Broadcast | TxFate::Dropped => None,
        TxFate::Included(number, hash) => Some((number, hash)),
    };
    let (ids, states, numbers, hashes, outcomes) = columns!(
        fates,
        |(id, fate)| *id,
        match fate {
            TxFate::Broadcast => "broadcast",
            TxFate::Dropped => "dropped",
            TxFate::Included(..) => "included",
        },
        place(fate).map(|(number, _)| i64::try_from(number).unwrap_or(i64::MAX)),
        place(fate).map(|(_, hash)| hash.to_vec()),
        None::<String>
    );
    db.query(MOVE_TXS, &[&ids, &states, &numbers, &hashes, &outcomes, &At(now)]).await?;
    Ok(())
}

/// Follows transactions that are in a block, by the blocks that the watcher has taken in: those whose block a
/// reorganisation took are to be broadcast again; those up to `confirmed_number` count by policy; those up to `settled_number`,
/// where no reorganisation reaches, are done.
pub async fn follow_included(
    db: &Db,
    lane: Lane,
    confirmed_number: u64,
    settled_number: u64,
    now: Timestamp,
) -> Result<(), StoreError> {
    db.query(REOPEN_TXS, &[&lane.as_str(), &At(now)]).await?;
    db.query(CONFIRM_TXS, &[&lane.as_str(), &number(confirmed_number)?, &At(now)]).await?;
    db.query(FINALIZE_TXS, &[&lane.as_str(), &number(settled_number)?, &At(now)]).await?;
    Ok(())
}

/// A transaction that will not be: reverted, or refused in simulation. Its effects are asked for again at `retry_at`.
pub async fn give_up(
    tx: &Tx,
    open: &OpenTx,
    reverted: bool,
    why: &str,
    retry_at: Timestamp,
    now: Timestamp,
) -> Result<(), StoreError> {
    let state = if reverted { "reverted" } else { "abandoned" };
    tx.execute(
        MOVE_TXS,
        &[
            &vec![open.id],
            &vec![state],
            &vec![None::<i64>],
            &vec![None::<Vec<u8>>],
            &vec![Some(why)],
            &At(now),
        ],
    )
    .await?;
    tx.execute(UNMARK_SENT, &[&open.id, &open.effect.as_str(), &At(retry_at), &At(now)]).await?;
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
    let (kind, data) = observation::encode(Event::InitiationRefused(why), Map::new())?;
    Some(NewEvent { topic: observation::CHAIN, key, kind, participants: None, traceparent, data })
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
    give_up(tx, open, false, why.as_str(), now, now).await?;
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

// -------------------------------------------------------------------------------------------------------------- watching

/// A block, as far as we need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: [u8; 32],
    /// Its time.
    pub time: Timestamp,
}

/// How far the chain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The newest block.
    pub latest: Block,
    /// The newest that the node calls safe (on ZKsync: committed to L1).
    pub safe: Block,
    /// The newest that it calls finalized (on ZKsync: executed on L1).
    pub finalized: Block,
}

impl Head {
    /// How final a block is that policy counts: `confirmed`, `safe` or `finalized`.
    pub const fn finality_of(&self, block_number: u64) -> &'static str {
        if block_number <= self.finalized.number {
            "finalized"
        } else if block_number <= self.safe.number {
            "safe"
        } else {
            "confirmed"
        }
    }
}

/// The watcher's place, and the lease on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatcherLease {
    /// Proves the lease when writing.
    pub epoch: i64,
    /// The last block taken in.
    pub block_number: u64,
    /// Its hash.
    pub block_hash: [u8; 32],
    /// The last block whose logs are announced.
    pub announced_number: u64,
}

/// Takes the watcher's place, or renews it when a third of the lease is over. `None` while somebody else has it. `start` is where a new database begins to
/// look: the block before our contracts were deployed.
pub async fn lease_watcher(
    db: &Db,
    owner: &str,
    (start, start_hash): (u64, [u8; 32]),
    now: Timestamp,
    lease: Duration,
) -> Result<Option<WatcherLease>, StoreError> {
    let fresh_until = now.plus(lease.saturating_sub(lease / 3));
    let mut rows = db.query(HELD_WATCHER, &[&owner, &At(fresh_until)]).await?;
    if rows.is_empty() {
        db.query(ENSURE_CURSOR, &[&number(start)?, &start_hash.to_vec()]).await?;
        rows = db.query(LEASE_WATCHER, &[&owner, &At(now), &At(now.plus(lease))]).await?;
    }
    rows.first()
        .map(|row| {
            Ok(WatcherLease {
                epoch: row.try_get("epoch")?,
                block_number: unsigned(row.try_get("block_number")?)?,
                block_hash: hash(row, "block_hash")?,
                announced_number: unsigned(row.try_get("announced_number")?)?,
            })
        })
        .transpose()
}

/// Gives the watcher's place back.
pub async fn release_watcher(db: &Db, owner: &str) -> Result<(), StoreError> {
    db.query(RELEASE_WATCHER, &[&owner]).await?;
    Ok(())
}

/// The newest blocks that we know, newest first: where a reorganisation is measured against.
pub async fn known_blocks(db: &Db, limit: i64) -> Result<Vec<(u64, [u8; 32])>, StoreError> {
    let rows = db.query(KNOWN_BLOCKS, &[&limit]).await?;
    rows.iter().map(|row| Ok((unsigned(row.try_get("number")?)?, hash(row, "hash")?))).collect()
}

/// A log of our contracts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenLog {
    /// The block.
    pub block_number: u64,
    /// Its hash.
    pub block_hash: [u8; 32],
    /// The transaction.
    pub tx_hash: [u8; 32],
    /// The place in the block.
    pub log_index: u32,
    /// The contracts' currency.
    pub currency: Currency,
    /// What it says.
    pub said: Said,
}

/// What a log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Something about a payment.
    Payment(PaymentId, ChainLog),
    /// A payment was passed over, because it is not where we thought: the status bits say where.
    Skipped(PaymentId, u8),
    /// Tokens moved.
    Transfer {
        /// From; none for a mint.
        from: Option<EvmAddress>,
        /// To; none for a burn.
        to: Option<EvmAddress>,
        /// Token units.
        units: u64,
        /// Outside our payments: to be posted as an entry of its own.
        outside: bool,
    },
    /// The manager's running totals, token units.
    Totals {
        /// Gapless.
        sequence: u64,
        /// Ever.
        minted: u64,
        /// Ever.
        burned: u64,
        /// Now.
        escrowed: u64,
        /// Now.
        redemption: u64,
    },
}

/// A stretch of the chain to take in.
#[derive(Debug, Clone)]
pub struct Stretch {
    /// The last block of it: the new cursor.
    pub last: Block,
    /// The blocks to remember for reorganisations, and those that have logs.
    pub blocks: Vec<Block>,
    /// The logs, in order.
    pub logs: Vec<SeenLog>,
    /// Logs up to here are final enough to announce.
    pub announce_to: u64,
    /// How far the chain is.
    pub head: Head,
    /// The chain's id.
    pub chain_id: u64,
}

/// Takes in a stretch: logs, observations, effects, balances and cursor in one transaction. Returns how many
/// observations were announced.
pub async fn take_in(
    db: &Db,
    lease: &WatcherLease,
    stretch: &Stretch,
    reorg_depth_blocks_max: u64,
    now: Timestamp,
) -> Result<usize, StoreError> {
    let announce_to = stretch.announce_to.min(stretch.last.number).max(lease.announced_number);
    let tx = db.begin().await?;
    // First of all: whoever lost the place waits here, and writes nothing.
    move_cursor(&tx, lease, &stretch.last, announce_to).await?;
    save_blocks(&tx, stretch, reorg_depth_blocks_max).await?;
    let waited = tx.query(TO_ANNOUNCE, &[&number(lease.announced_number)?, &number(announce_to)?]).await?;
    let mut logs = stored_logs(&waited)?;
    save_logs(&tx, &stretch.logs).await?;
    logs.extend(stretch.logs.iter().filter(|log| log.block_number <= announce_to).cloned());
    logs.sort_by_key(|log| (log.block_number, log.log_index));
    let announced = spread(&tx, &logs, How::Announced(&stretch.head), now).await?;
    save_head(&tx, stretch.chain_id, &stretch.head, now).await?;
    tx.commit().await?;
    Ok(announced)
}

/// Goes back to `ancestor`: logs above it are taken out, and those that were announced are announced as removed, newest
/// first. Returns how many.
pub async fn rewind(
    db: &Db,
    lease: &WatcherLease,
    ancestor: &Block,
    now: Timestamp,
) -> Result<usize, StoreError> {
    let tx = db.begin().await?;
    let rows = tx.query(REMOVE, &[&number(ancestor.number)?]).await?;
    let mut logs = stored_logs(&rows)?;
    logs.retain(|log| log.block_number <= lease.announced_number);
    logs.sort_by_key(|log| std::cmp::Reverse((log.block_number, log.log_index)));
    let announced_to = lease.announced_number.min(ancestor.number);
    let removed = spread(&tx, &logs, How::TakenBack { announced_to }, now).await?;
    tx.execute(FORGET_BLOCKS, &[&0i64, &number(ancestor.number)?]).await?;
    move_cursor(&tx, lease, ancestor, announced_to).await?;
    tx.commit().await?;
    Ok(removed)
}

/// How far the chain is, as the watcher last saw it.
pub async fn head(db: &Db) -> Result<Option<(u64, Head, Timestamp)>, StoreError> {
    let rows = db.query(READ_HEAD, &[]).await?;
    rows.first()
        .map(|row| {
            let block = |which: &str| -> Result<Block, StoreError> {
                Ok(Block {
                    number: unsigned(row.try_get(format!("{which}_number").as_str())?)?,
                    hash: [0; 32],
                    time: row.try_get::<_, At>(format!("{which}_time").as_str())?.0,
                })
            };
            let head =
                Head { latest: block("latest")?, safe: block("safe")?, finalized: block("finalized")? };
            Ok((unsigned(row.try_get("chain_id")?)?, head, row.try_get::<_, At>("seen_at")?.0))
        })
        .transpose()
}

/// How far a block that carries transactions of ours is on L1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct L1Block {
    /// The block.
    pub block_number: u64,
    /// Its batch.
    pub batch_number: u64,
    /// The L1 transaction that committed it.
    pub commit_tx: Option<[u8; 32]>,
    /// The L1 transaction that proved it.
    pub prove_tx: Option<[u8; 32]>,
    /// The L1 transaction that executed it.
    pub execute_tx: Option<[u8; 32]>,
}

/// Blocks with logs of ours that are not known to be executed on L1: of those before each stage the oldest, up to `limit`.
pub async fn blocks_on_their_way(
    db: &Db,
    reorg_depth_blocks_max: u64,
    limit: i64,
) -> Result<Vec<u64>, StoreError> {
    db.query(NOTE_L1_BLOCKS, &[&number(reorg_depth_blocks_max)?]).await?;
    let rows = db.query(BLOCKS_ON_THEIR_WAY, &[&limit]).await?;
    rows.iter().map(|row| unsigned(row.try_get("block_number")?)).collect()
}

/// Writes down how far blocks are on L1.
pub async fn save_l1_blocks(db: &Db, blocks: &[L1Block]) -> Result<(), StoreError> {
    if blocks.is_empty() {
        return Ok(());
    }
    let bytes = |hash: &Option<[u8; 32]>| hash.map(|hash| hash.to_vec());
    let (numbers, batches, commits, proofs, executions) = columns!(
        blocks,
        |block| i64::try_from(block.block_number).unwrap_or(i64::MAX),
        i64::try_from(block.batch_number).unwrap_or(i64::MAX),
        bytes(&block.commit_tx),
        bytes(&block.prove_tx),
        bytes(&block.execute_tx)
    );
    db.query(SAVE_L1_BLOCKS, &[&numbers, &batches, &commits, &proofs, &executions]).await?;
    Ok(())
}

/// How often the contracts' sequence numbers jumped: each a log that we have missed. Zero, or something is wrong.
pub async fn missed_logs(db: &Db) -> Result<i64, StoreError> {
    let rows = db.query(MISSED_LOGS, &[]).await?;
    rows.first().map_or(Ok(0), |row| Ok(row.try_get("gaps")?))
}

async fn move_cursor(tx: &Tx, lease: &WatcherLease, to: &Block, announced: u64) -> Result<(), StoreError> {
    let moved = tx
        .execute(MOVE_CURSOR, &[&lease.epoch, &number(to.number)?, &to.hash.to_vec(), &number(announced)?])
        .await?;
    if moved == 1 { Ok(()) } else { Err(StoreError::Lost) }
}

async fn save_head(tx: &Tx, chain_id: u64, head: &Head, now: Timestamp) -> Result<(), StoreError> {
    tx.execute(
        SAVE_HEAD,
        &[
            &number(chain_id)?,
            &number(head.latest.number)?,
            &At(head.latest.time),
            &number(head.safe.number)?,
            &At(head.safe.time),
            &number(head.finalized.number)?,
            &At(head.finalized.time),
            &At(now),
        ],
    )
    .await?;
    Ok(())
}

async fn save_blocks(tx: &Tx, stretch: &Stretch, reorg_depth_blocks_max: u64) -> Result<(), StoreError> {
    let (numbers, hashes, times) = columns!(
        stretch.blocks,
        |block| i64::try_from(block.number).unwrap_or(i64::MAX),
        block.hash.to_vec(),
        At(block.time)
    );
    tx.execute(SAVE_BLOCKS, &[&numbers, &hashes, &times]).await?;
    let oldest = number(stretch.last.number.saturating_sub(reorg_depth_blocks_max))?;
    tx.execute(FORGET_BLOCKS, &[&oldest, &i64::MAX]).await?;
    Ok(())
}

async fn save_logs(tx: &Tx, logs: &[SeenLog]) -> Result<(), StoreError> {
    if logs.is_empty() {
        return Ok(());
    }
    let encoded: Vec<(&SeenLog, &str, Option<Uuid>, Value)> = logs
        .iter()
        .map(|log| {
            let (kind, payment, data) = encode(&log.said);
            (log, kind, payment, data)
        })
        .collect();
    let (numbers, indexes, blocks, txs, currencies, kinds, payments, data) = columns!(
        encoded,
        |(log, kind, payment, data)| i64::try_from(log.block_number).unwrap_or(i64::MAX),
        i32::try_from(log.log_index).unwrap_or(i32::MAX),
        log.block_hash.to_vec(),
        log.tx_hash.to_vec(),
        log.currency.code(),
        *kind,
        *payment,
        data
    );
    tx.execute(SAVE_LOGS, &[&numbers, &indexes, &blocks, &txs, &currencies, &kinds, &payments, &data])
        .await?;
    Ok(())
}

/// What happens to logs.
#[derive(Debug, Clone, Copy)]
enum How<'a> {
    /// They are announced at this head.
    Announced(&'a Head),
    /// They are taken back; what is left is announced up to this block.
    TakenBack { announced_to: u64 },
}

/// Everything that follows from logs that are announced, or taken back.
async fn spread(tx: &Tx, logs: &[SeenLog], how: How<'_>, now: Timestamp) -> Result<usize, StoreError> {
    let (head, back_to) = match how {
        How::Announced(head) => (Some(head), None),
        How::TakenBack { announced_to } => (None, Some(announced_to)),
    };
    let removed = back_to.is_some();
    let observations = observe(tx, logs, head, now).await?;
    resolve_effects(tx, logs, removed, now).await?;
    move_wallets(tx, logs, removed, now).await?;
    save_totals(tx, logs, back_to).await?;
    Ok(observations)
}

async fn observe(
    tx: &Tx,
    logs: &[SeenLog],
    head: Option<&Head>,
    now: Timestamp,
) -> Result<usize, StoreError> {
    let keys: HashSet<Uuid> = logs
        .iter()
        .filter_map(|log| match &log.said {
            Said::Payment(payment, _) => Some(payment.as_uuid()),
            Said::Skipped(..) | Said::Transfer { .. } | Said::Totals { .. } => None,
        })
        .collect();
    if keys.is_empty() {
        return Ok(0);
    }
    let mut traces: HashMap<Uuid, String> = HashMap::new();
    for row in tx.query(TRACES, &[&Vec::from_iter(keys)]).await? {
        traces.insert(row.try_get("id")?, row.try_get("traceparent")?);
    }
    let events: Vec<NewEvent> = logs
        .iter()
        .filter_map(|log| {
            let Said::Payment(payment, chain_log) = log.said else { return None };
            let mut evidence = Map::from_iter([
                ("block_number".to_owned(), json!(log.block_number)),
                ("block_hash".to_owned(), json!(hex(&log.block_hash))),
                ("tx_hash".to_owned(), json!(hex(&log.tx_hash))),
                ("log_index".to_owned(), json!(log.log_index)),
            ]);
            let event = match head {
                Some(head) => {
                    evidence.insert("finality".to_owned(), json!(head.finality_of(log.block_number)));
                    Event::Chain(chain_log)
                }
                None => Event::ChainRemoved(chain_log),
            };
            let (kind, data) = observation::encode(event, evidence)?;
            // A payment that is not ours has no trace; the orchestrator parks it.
            let traceparent = traces.get(&payment.as_uuid()).cloned().unwrap_or_default();
            Some(NewEvent {
                topic: observation::CHAIN,
                key: payment,
                kind,
                participants: None,
                traceparent,
                data,
            })
        })
        .collect();
    event_log::append(tx, &events, now).await?;
    Ok(events.len())
}

async fn resolve_effects(tx: &Tx, logs: &[SeenLog], removed: bool, now: Timestamp) -> Result<(), StoreError> {
    // One effect may have several logs in a stretch (skipped, then done): the last one counts.
    let mut last: BTreeMap<(PaymentId, Effect), (&str, &str, String)> = BTreeMap::new();
    for log in logs {
        let (payment, resolved): (_, &[(Effect, &str, &str)]) = match &log.said {
            Said::Payment(payment, chain_log) => (*payment, resolved_by(*chain_log)),
            Said::Skipped(..) | Said::Transfer { .. } | Said::Totals { .. } => continue,
        };
        for (effect, state, outcome) in resolved {
            let entry = if removed { ("sent", "removed") } else { (*state, *outcome) };
            last.insert((payment, *effect), (entry.0, entry.1, hex(&log.tx_hash)));
        }
    }
    if last.is_empty() {
        return Ok(());
    }
    let (ids, kinds, states, outcomes, references) = columns!(
        last,
        |((payment, effect), (state, outcome, reference))| payment.as_uuid(),
        effect.as_str(),
        *state,
        *outcome,
        reference.as_str()
    );
    tx.execute(RESOLVE_EFFECTS, &[&ids, &kinds, &states, &outcomes, &references, &At(now)]).await?;
    Ok(())
}

/// Which effects a log brings to an end, and how.
const fn resolved_by(log: ChainLog) -> &'static [(Effect, &'static str, &'static str)] {
    match log {
        ChainLog::Initiated => &[(Effect::InitiateOnChain, "done", "initiated")],
        ChainLog::InitiationSetAside(_) => &[(Effect::InitiateOnChain, "done", "set_aside")],
        ChainLog::Settled => {
            &[(Effect::SettleOnChain, "done", "settled"), (Effect::CancelOnChain, "done", "too_late")]
        }
        ChainLog::SettlementSetAside(_) => &[(Effect::SettleOnChain, "refused", "set_aside")],
        ChainLog::Cancelled | ChainLog::Reclaimed => {
            &[(Effect::CancelOnChain, "done", "cancelled"), (Effect::SettleOnChain, "done", "too_late")]
        }
        ChainLog::RedemptionBurned => &[(Effect::BurnRedeemed, "done", "burned")],
        ChainLog::RedemptionReleased => &[(Effect::ReleaseRedemption, "done", "released")],
    }
}

async fn move_wallets(tx: &Tx, logs: &[SeenLog], removed: bool, now: Timestamp) -> Result<(), StoreError> {
    let mut moves = Vec::new();
    let mut outside = Vec::new();
    for log in logs {
        let Said::Transfer { from, to, units, outside: is_outside } = &log.said else { continue };
        let units = number(*units)?;
        let signed = if removed { -units } else { units };
        moves.extend(from.map(|wallet| (log.currency, wallet, -signed)));
        moves.extend(to.map(|wallet| (log.currency, wallet, signed)));
        if *is_outside {
            outside.push(log);
        }
    }
    if moves.is_empty() {
        return Ok(());
    }
    let (currencies, wallets, units) = columns!(
        moves,
        |(currency, wallet, units)| currency.code().to_owned(),
        wallet.as_bytes().to_vec(),
        *units
    );
    tx.execute(MOVE_WALLETS, &[&currencies, &wallets, &units]).await?;
    post_outside(tx, &outside, removed, now).await
}

/// Tokens that moved outside our payments are entries of their own, so that each wallet's account equals the chain's.
async fn post_outside(tx: &Tx, logs: &[&SeenLog], removed: bool, now: Timestamp) -> Result<(), StoreError> {
    if logs.is_empty() {
        return Ok(());
    }
    let decimals: HashMap<String, u8> = tx
        .query(CONTRACT_DECIMALS, &[])
        .await?
        .iter()
        .map(|row| {
            let decimals = u8::try_from(row.try_get::<_, i16>("token_decimals")?).unwrap_or(0);
            Ok((row.try_get("currency")?, decimals))
        })
        .collect::<Result<_, StoreError>>()?;
    let wallets: Vec<Vec<u8>> = logs
        .iter()
        .flat_map(|log| match &log.said {
            Said::Transfer { from, to, .. } => [*from, *to],
            Said::Payment(..) | Said::Skipped(..) | Said::Totals { .. } => [None, None],
        })
        .flatten()
        .map(|wallet| wallet.as_bytes().to_vec())
        .collect();
    let mut accounts: HashMap<(EvmAddress, String), AccountId> = HashMap::new();
    for row in tx.query(WALLET_ACCOUNTS, &[&wallets]).await? {
        let key = (address(&row, "wallet")?, row.try_get("currency")?);
        accounts.insert(key, AccountId::from_uuid(row.try_get("id")?));
    }
    let mut entries = Vec::new();
    for log in logs {
        let Said::Transfer { from, to, units, .. } = &log.said else { continue };
        let account = |wallet: &Option<EvmAddress>| {
            wallet
                .and_then(|wallet| accounts.get(&(wallet, log.currency.code().to_owned())))
                .map_or(LedgerAccount::Suspense, |account| LedgerAccount::Wallet(*account))
        };
        let (debit, credit) = (account(from), account(to));
        if debit == credit {
            continue;
        }
        let token_decimals = decimals.get(log.currency.code()).copied().unwrap_or(0);
        let amount = Money::from_token_units(u128::from(*units), token_decimals, log.currency)
            .map_err(|error| StoreError::Corrupt(format!("a transfer of {units} token units: {error}")))?;
        if amount.is_zero() {
            continue;
        }
        let entry = JournalEntry { moment: Moment::CustodyTransfer, round: 0, debit, credit, amount };
        let entry = if removed { entry.corrected_by(Moment::CustodyTransferRemoved) } else { entry };
        entries.push((source_of(log, now), entry));
    }
    ledger::post(tx, &entries, &[], now).await
}

/// The source of an entry that belongs to no payment: named after its log, and lying with the day's entries.
fn source_of(log: &SeenLog, now: Timestamp) -> Uuid {
    let mut random = [0u8; 10];
    let (place, block) = (log.log_index.to_be_bytes(), log.block_hash);
    for (index, byte) in random.iter_mut().enumerate() {
        let from_place = place.get(index).copied().unwrap_or(0);
        *byte = block.get(index).copied().unwrap_or(0) ^ from_place;
    }
    PaymentId::generate(now, random).as_uuid()
}

async fn save_totals(tx: &Tx, logs: &[SeenLog], back_to: Option<u64>) -> Result<(), StoreError> {
    let mut known: HashMap<String, u64> = HashMap::new();
    for row in tx.query(READ_TOTALS, &[]).await? {
        known.insert(row.try_get("currency")?, unsigned(row.try_get("sequence")?)?);
    }
    let mut newest: BTreeMap<Currency, (Said, i64)> = BTreeMap::new();
    for log in logs {
        let Said::Totals { sequence, .. } = log.said else { continue };
        let code = log.currency.code().to_owned();
        if back_to.is_some() {
            newest.insert(log.currency, (log.said.clone(), 0));
            continue;
        }
        let expected = known.get(&code).map_or(1, |last| last.saturating_add(1));
        let gap = i64::from(sequence != expected);
        known.insert(code, sequence);
        let gaps = newest.get(&log.currency).map_or(0, |(_, gaps)| *gaps) + gap;
        newest.insert(log.currency, (log.said.clone(), gaps));
    }
    for (currency, (said, gaps)) in newest {
        // After a reorganisation the totals are those of the newest log that is left.
        let said = match back_to {
            Some(announced_to) => last_totals(tx, currency, announced_to).await?,
            None => said,
        };
        let Said::Totals { sequence, minted, burned, escrowed, redemption } = said else { continue };
        tx.execute(
            SAVE_TOTALS,
            &[
                &currency.code(),
                &number(sequence)?,
                &number(minted)?,
                &number(burned)?,
                &number(escrowed)?,
                &number(redemption)?,
                &gaps,
            ],
        )
        .await?;
    }
    Ok(())
}

async fn last_totals(tx: &Tx, currency: Currency, announced_to: u64) -> Result<Said, StoreError> {
    let none = Said::Totals { sequence: 0, minted: 0, burned: 0, escrowed: 0, redemption: 0 };
    let rows = tx.query(LAST_TOTALS, &[&currency.code(), &number(announced_to)?]).await?;
    match rows.first() {
        None => Ok(none),
        Some(row) => {
            decode("totals", None, &row.try_get("data")?).ok_or_else(|| StoreError::Corrupt("totals".into()))
        }
    }
}

fn encode(said: &Said) -> (&'static str, Option<Uuid>, Value) {
    match said {
        Said::Payment(payment, log) => {
            let (kind, data) = observation::encode(Event::Chain(*log), Map::new()).unwrap_or_default();
            ("payment", Some(payment.as_uuid()), json!({ "kind": kind, "data": data }))
        }
        Said::Skipped(payment, status) => ("skipped", Some(payment.as_uuid()), json!({ "status": status })),
        Said::Transfer { from, to, units, outside } => {
            let text = |wallet: &Option<EvmAddress>| wallet.map(|wallet| wallet.to_string());
            (
                "transfer",
                None,
                json!({ "from": text(from), "to": text(to), "units": units, "outside": outside }),
            )
        }
        Said::Totals { sequence, minted, burned, escrowed, redemption } => (
            "totals",
            None,
            json!({ "sequence": sequence, "minted": minted, "burned": burned, "escrowed": escrowed, "redemption": redemption }),
        ),
    }
}

fn decode(kind: &str, payment: Option<Uuid>, data: &Value) -> Option<Said> {
    let unsigned = |name: &str| data.get(name).and_then(Value::as_u64);
    Some(match kind {
        "payment" => {
            let event = observation::decode(data.get("kind")?.as_str()?, data.get("data")?)?;
            let Event::Chain(log) = event else { return None };
            Said::Payment(PaymentId::from_uuid(payment?), log)
        }
        "skipped" => Said::Skipped(PaymentId::from_uuid(payment?), u8::try_from(unsigned("status")?).ok()?),
        "transfer" => {
            let wallet = |name: &str| match data.get(name)?.as_str() {
                Some(text) => EvmAddress::parse(text).ok().map(Some),
                None => Some(None),
            };
            Said::Transfer {
                from: wallet("from")?,
                to: wallet("to")?,
                units: unsigned("units")?,
                outside: data.get("outside")?.as_bool()?,
            }
        }
        "totals" => Said::Totals {
            sequence: unsigned("sequence")?,
            minted: unsigned("minted")?,
            burned: unsigned("burned")?,
            escrowed: unsigned("escrowed")?,
            redemption: unsigned("redemption")?,
        },
        _ => return None,
    })
}

fn stored_logs(rows: &[Row]) -> Result<Vec<SeenLog>, StoreError> {
    rows.iter()
        .map(|row| {
            let kind: String = row.try_get("kind")?;
            let corrupt = || StoreError::Corrupt(format!("a stored log of kind {kind}"));
            Ok(SeenLog {
                block_number: unsigned(row.try_get("block_number")?)?,
                block_hash: hash(row, "block_hash")?,
                tx_hash: hash(row, "tx_hash")?,
                log_index: u32::try_from(row.try_get::<_, i32>("log_index")?).map_err(|_| corrupt())?,
                currency: Currency::parse(row.try_get("currency")?).map_err(|_| corrupt())?,
                said: decode(&kind, row.try_get("payment_id")?, &row.try_get("data")?).ok_or_else(corrupt)?,
            })
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold("0x".to_owned(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn number(value: u64) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::Corrupt(format!("{value} is beyond what a column holds")))
}

fn unsigned(value: i64) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| StoreError::Corrupt(format!("{value} where nothing is negative")))
}

fn address(row: &Row, column: &str) -> Result<EvmAddress, StoreError> {
    let bytes: Vec<u8> = row.try_get(column)?;
    let bytes = bytes.try_into().map_err(|_| StoreError::Corrupt(format!("the address in {column}")))?;
    Ok(EvmAddress::from_bytes(bytes))
}

fn hash(row: &Row, column: &str) -> Result<[u8; 32], StoreError> {
    let bytes: Vec<u8> = row.try_get(column)?;
    bytes.try_into().map_err(|_| StoreError::Corrupt(format!("the hash in {column}")))
}
