//! What is to be sent: effects become calldata, with the leaves and the batch they commit to, durable before a nonce is taken.

use super::{Lane, address, hash, postpone, unsigned};
use crate::db::{Db, StoreError, Tx};
use crate::sql::{At, columns, statements};
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::money::{Currency, Money};
use flowbridge_domain::party::EvmAddress;
use flowbridge_domain::payment::{Effect, Funding};
use flowbridge_domain::time::Timestamp;
use serde_json::Value;
use std::collections::HashMap;
use std::time::Duration;
use tokio_postgres::Row;
use uuid::Uuid;

statements! {
    // The index has what was done since the last vacuum as well, which is passed over one by one: whoever knows where what is ready begins says so.
    DUE_ON_CHAIN = concat!("select count(*) as due, min(first.state_since) as oldest, min(first.next_attempt_at) as first
        from unnest($1::text[]) as wanted (kind) cross join lateral (
            select effect.state_since, effect.next_attempt_at from effect
                where effect.is_waiting and effect.lane = 'chain' and effect.kind = wanted.kind and effect.state = 'ready'
                    and effect.next_attempt_at <= $2 and effect.next_attempt_at >= $4 and ", is_possible!(), "
                order by effect.next_attempt_at limit $3) first");

    // Initiations that are due, with their leaves' content. Locked against a client's cancellation. Read in the order in which they
    // are due and no further than the limit: what belongs to each is looked up for it (`offset 0`), or a plan joins all payments. One that
    // nothing has been done for is put off while an institution is suspended; one that a reorganisation took back goes on.
    CLAIM_INITIATIONS = "select effect.payment_id, payment.number, payment.currency, payment.funding, payment.payout,
            payment.amount, payment.fee, payment.expires_at, payment.initiate_before, effect.traceparent,
            payment.\"authorization\", payment.debtor_wallet, payment.creditor_wallet, effect.state_since, payment.is_put_off
        from effect cross join lateral (
            select paid.number, paid.currency, paid.funding, paid.payout, paid.amount, paid.fee, paid.expires_at, paid.initiate_before,
                    paid.\"authorization\", debtor.wallet as debtor_wallet, creditor.wallet as creditor_wallet,
                    paid.state = 'accepted' and paid.hold_leg = 'not_asked' and paid.payout_leg = 'not_due'
                        and (paying.status = 'suspended' or paid_to.status = 'suspended') as is_put_off
                from payment paid
                    join account debtor on debtor.id = paid.debtor_account
                    join account creditor on creditor.id = paid.creditor_account
                    join participant paying on paying.id = debtor.participant_id
                    join participant paid_to on paid_to.id = creditor.participant_id
                where paid.id = effect.payment_id
                offset 0) payment
        where effect.is_waiting and effect.lane = 'chain' and effect.kind = 'initiate' and effect.state = 'ready'
            and effect.next_attempt_at <= $1 and effect.next_attempt_at >= $3
        order by effect.next_attempt_at limit $2
        for update of effect skip locked";

    // What is claimed and can no longer be in time is taken back: the chain's clock ends its payment, where a person or a
    // reorganisation has not. It stands at the front of what is due, and would be sent with others, of which none would be in time.
    REVOKE_CLAIMED = "update effect set state = 'revoked', outcome = 'too_late', state_since = $2
        where payment_id = any($1) and kind = 'initiate' and state = 'ready'";

    // Everything else acts on a leaf that is already on chain; a payment whose leaf is not there yet is not due.
    CLAIM_ON_LEAVES = concat!("select due.payment_id, due.kind, due.traceparent, due.state_since, due.root, due.place, due.currency
        from unnest($1::text[]) as wanted (kind) cross join lateral (
            select effect.payment_id, effect.kind, effect.traceparent, effect.state_since, effect.next_attempt_at, leaf.root, leaf.place,
                    leaf.currency
                from effect cross join lateral (
                    select chain_leaf.root, chain_leaf.place, chain_batch.currency
                        from chain_leaf join chain_batch on chain_batch.root = chain_leaf.root
                        where chain_leaf.payment_id = effect.payment_id
                        offset 0) leaf
                where effect.is_waiting and effect.lane = 'chain' and effect.kind = wanted.kind and effect.state = 'ready'
                    and effect.next_attempt_at <= $2 and effect.next_attempt_at >= $4 and ", is_possible!(), "
                order by effect.next_attempt_at limit $3
                for update of effect skip locked) due
        order by due.next_attempt_at limit $3");

    MARK_SENT = "update effect set state = 'sent', attempts = attempts + 1, sent_at = $3, state_since = $3
        from unnest($1::uuid[], $2::text[]) as item (payment_id, kind)
        where effect.payment_id = item.payment_id and effect.kind = item.kind and effect.lane = 'chain'";

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
}

/// A burn or a release acts on what is settled: one that a reorganisation has brought before its settlement waits for it. The payment
/// is looked at for no other effect, and for these by its key.
macro_rules! is_possible {
    () => {
        "(effect.kind not in ('burn', 'release_redemption')
            or (select payment.chain_leg from payment where payment.id = effect.payment_id) = 'settled')"
    };
}
use is_possible;

/// What is due of some effects, before a transaction is begun for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// How many, of each effect counted to a limit.
    pub count: usize,
    /// Since when the one waits that has waited longest.
    pub oldest: Timestamp,
    /// Since when the first of them is due: of those looked at, none that is due earlier is ready.
    pub first: Timestamp,
}

/// Looks at what is due of these effects, from an instant on until now, and counts up to `limit` of each. `None`: nothing is.
pub async fn due(
    db: &Db,
    effects: &[Effect],
    (from, now): (Timestamp, Timestamp),
    limit: usize,
) -> Result<Option<Due>, StoreError> {
    let kinds: Vec<&str> = effects.iter().map(|effect| effect.as_str()).collect();
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = db.query(DUE_ON_CHAIN, &[&kinds, &At(now), &limit, &At(from)]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let count = usize::try_from(row.try_get::<_, i64>("due")?).unwrap_or(usize::MAX);
    let at = |column: &str| Ok::<_, StoreError>(row.try_get::<_, Option<At>>(column)?.map(|at| at.0));
    Ok(at("oldest")?.zip(at("first")?).map(|(oldest, first)| Due { count, oldest, first }))
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

/// How long what a suspended institution pays, or is paid, waits until its status is looked at again. It makes way meanwhile: at the front
/// of what is due it would keep back everybody else.
const SUSPENDED_FOR: Duration = Duration::from_secs(10);

/// Locks initiations that are due until the transaction ends; [`intend`] takes them, leaving them lets them go. Those that
/// could no longer be in time, `margin` ahead of their deadline, are taken back for good, as they are met. Those of suspended
/// institutions are put off, and go on if an operator lets them before their deadline.
pub async fn claim_initiations(
    tx: &Tx,
    (from, now): (Timestamp, Timestamp),
    margin: Duration,
    limit: i64,
) -> Result<Vec<DueInitiation>, StoreError> {
    let (mut due, mut late, mut put_off) = (Vec::new(), Vec::new(), Vec::new());
    for row in tx.query(CLAIM_INITIATIONS, &[&At(now), &limit, &At(from)]).await? {
        let claimed = initiation(&row)?;
        if claimed.initiate_before <= now.plus(margin) {
            late.push(claimed.payment_id.as_uuid());
        } else if row.try_get("is_put_off")? {
            put_off.push((claimed.payment_id, Effect::InitiateOnChain, now.plus(SUSPENDED_FOR)));
        } else {
            due.push(claimed);
        }
    }
    if !late.is_empty() {
        tx.execute(REVOKE_CLAIMED, &[&late, &At(now)]).await?;
    }
    postpone(tx, &put_off).await?;
    Ok(due)
}

fn initiation(row: &Row) -> Result<DueInitiation, StoreError> {
    let payment_id = PaymentId::from_uuid(row.try_get("payment_id")?);
    let corrupt = |what: &str| StoreError::Corrupt(format!("{what} of payment {payment_id}"));
    let currency = Currency::parse(row.try_get("currency")?).map_err(|_| corrupt("currency"))?;
    let money =
        |column: &str| Ok::<_, StoreError>(Money::new(row.try_get::<_, i64>(column)?.into(), currency));
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
    (from, now): (Timestamp, Timestamp),
    limit: i64,
) -> Result<Vec<DueOnLeaf>, StoreError> {
    let kinds: Vec<&str> = effects.iter().map(|effect| effect.as_str()).collect();
    let rows = tx.query(CLAIM_ON_LEAVES, &[&kinds, &At(now), &limit, &At(from)]).await?;
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

/// Makes intentions durable, and takes their effects out of the queue, in the transaction that claimed them. Returns the ids of their
/// transactions, in the same order.
pub async fn intend(tx: &Tx, intentions: &[Intention], now: Timestamp) -> Result<Vec<Uuid>, StoreError> {
    if intentions.is_empty() {
        return Ok(vec![]);
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
    save_batches(tx, &new, now).await?;
    Ok(ids)
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
    // Who asks for it makes sure that each fits; one that did not would have another root in its row than on chain.
    let fits =
        |leaf: &Leaf| [leaf.amount, leaf.fee, leaf.expires_at].iter().all(|it| i64::try_from(*it).is_ok());
    if !leaves.iter().all(|(_, _, leaf)| fits(leaf)) {
        return Err(StoreError::Corrupt("a leaf that no row can hold".into()));
    }
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
