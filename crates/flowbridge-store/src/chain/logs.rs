//! What our contracts said, and everything that follows when a log is announced or taken back: observations, effects that are
//! resolved, wallets' balances, entries for transfers past us, the contracts' totals.

use super::holes::open_hole;
use super::watch::Head;
use super::{address, hash, hex, number, units_per_minor_unit, unsigned};
use crate::db::{StoreError, Tx};
use crate::event_data::EventData;
use crate::event_log::{self, NewEvent, topic};
use crate::sql::{At, Statement, columns, statements};
use crate::{ledger, observation};
use flowbridge_domain::id::{AccountId, PaymentId};
use flowbridge_domain::ledger::{JournalEntry, LedgerAccount, Moment};
use flowbridge_domain::money::{Currency, Money};
use flowbridge_domain::party::EvmAddress;
use flowbridge_domain::payment::{ChainLog, Effect, Event};
use flowbridge_domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use tokio_postgres::Row;
use uuid::Uuid;

statements! {
    SAVE_LOGS = "insert into chain_log (block_number, log_index, block_hash, tx_hash, currency, kind, payment_id, data)
        select * from unnest($1::bigint[], $2::integer[], $3::bytea[], $4::bytea[], $5::text[], $6::text[], $7::uuid[], $8::json[])";

    // Of payments that no effect of ours was resolved for.
    TRACES = "select id, traceparent from payment where id = any($1)";

    // Of these wallets those that an account stands for, with what they hold. The manager's stands for none, whoever names it.
    READ_WALLETS = "select named.currency, named.wallet, coalesce(held.units, 0) as units, contract.token_decimals,
            named.wallet = contract.house as is_house, account.id as account_id
        from unnest($1::text[], $2::bytea[]) as named (currency, wallet)
            join chain_contract contract on contract.currency = named.currency
            left join chain_wallet held on held.currency = named.currency and held.wallet = named.wallet
            left join account on account.wallet = named.wallet and account.currency = named.currency
        where named.wallet <> contract.manager and (named.wallet = contract.house or account.id is not null)";

    // A log that is announced settles the effect that asked for it; one that is taken back opens it again. What a late one ($7) says was
    // refused may have been done since.
    RESOLVE_EFFECTS = "update effect set state = new.state, outcome = new.outcome, reference = new.reference, state_since = $6
        from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[]) as new (payment_id, kind, state, outcome, reference)
        where effect.payment_id = new.payment_id and effect.kind = new.kind and effect.lane = 'chain'
            and effect.state <> 'revoked' and not ($7 and new.state = 'refused' and effect.state = 'done')
        returning effect.payment_id, effect.traceparent";

    // What is open again goes on with the transaction that carries it. Where none does (a stranger was faster, or the other outcome
    // was), whoever still wants it asks for it: it is not for us to say that a payment which is held again is to be cancelled. But what
    // has been paid for is opened and settled again, and nobody else would ask: the transaction that had done it may have been
    // reverted on the chain's new branch before we saw that there was one.
    LEAVE_UNCARRIED = "update effect set state_since = $3, next_attempt_at = $3, state = case
            when effect.kind in ('initiate', 'settle')
                and (select payment.state from payment where payment.id = effect.payment_id) in ('settled', 'completed') then 'ready'
            else 'refused' end
        from unnest($1::uuid[], $2::text[]) as opened (payment_id, kind)
        where effect.payment_id = opened.payment_id and effect.kind = opened.kind and effect.lane = 'chain'
            and effect.state = 'sent' and not exists (
                select from chain_tx_item item join chain_tx on chain_tx.id = item.chain_tx
                    where item.payment_id = effect.payment_id and chain_tx.purpose = effect.kind
                        and chain_tx.state not in ('reverted', 'abandoned'))";

    // A burn or a release that a reorganisation brought before its settlement has done nothing, and has to be sent once more.
    SEND_SKIPPED_AGAIN = "update effect set state = 'ready', outcome = 'skipped', next_attempt_at = $2, state_since = $2
        where payment_id = any($1) and kind in ('burn', 'release_redemption') and state = 'sent'";

    MOVE_WALLETS = "insert into chain_wallet (currency, wallet, units)
        select currency, wallet, sum(units)::bigint
            from unnest($1::text[], $2::bytea[], $3::bigint[]) as moved (currency, wallet, units)
            group by currency, wallet order by currency, wallet
        on conflict (currency, wallet) do update set units = chain_wallet.units + excluded.units";

    MOVE_QUARANTINE = "insert into chain_quarantine (currency, wallet, units)
        select currency, wallet, sum(units)::bigint
            from unnest($1::text[], $2::bytea[], $3::bigint[]) as moved (currency, wallet, units)
            group by currency, wallet order by currency, wallet
        on conflict (currency, wallet) do update set units = chain_quarantine.units + excluded.units";

    SAVE_TOTALS = "insert into chain_totals (currency, sequence, minted, burned, escrowed, redemption, batches)
        values ($1, $2, $3, $4, $5, $6, 0)
        on conflict (currency) do update set sequence = excluded.sequence, minted = excluded.minted, burned = excluded.burned,
            escrowed = excluded.escrowed, redemption = excluded.redemption";

    SAVE_BATCHES = "insert into chain_totals (currency, sequence, minted, burned, escrowed, redemption, batches)
        values ($1, 0, 0, 0, 0, 0, $2)
        on conflict (currency) do update set batches = excluded.batches";

    READ_SEQUENCES = "select currency, sequence, batches from chain_totals";

    LAST_OF_KIND = "select data from chain_log where currency = $1 and kind = $2 and kind in ('totals', 'batch_initiated') and block_number <= $3
        order by block_number desc, log_index desc limit 1";
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
    /// Tokens that a wallet cannot receive wait for it with the manager.
    Quarantined {
        /// Whose they are.
        wallet: EvmAddress,
        /// Token units.
        units: u64,
    },
    /// What waited for a wallet is sent; the transfer follows.
    QuarantineReleased {
        /// Whose they were.
        wallet: EvmAddress,
        /// Who gets them.
        to: EvmAddress,
        /// Token units.
        units: u64,
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
    /// The end of an initiation.
    BatchInitiated {
        /// The router's, gapless.
        sequence: u64,
    },
}

pub(super) async fn save_logs(tx: &Tx, logs: &[SeenLog]) -> Result<(), StoreError> {
    if logs.is_empty() {
        return Ok(());
    }
    let encoded: Vec<(&SeenLog, &str, Option<Uuid>, EventData)> = logs
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
pub(super) enum How<'a> {
    /// They are announced at this head.
    Announced(&'a Head),
    /// They are announced after others that may have come later on chain: what those have said of totals and counts stands.
    Late(&'a Head),
    /// They are taken back; what is left is announced up to this block.
    TakenBack { announced_to: u64 },
}

/// Everything that follows from logs that are announced, or taken back.
pub(super) async fn spread(
    tx: &Tx,
    logs: &[SeenLog],
    how: How<'_>,
    now: Timestamp,
) -> Result<usize, StoreError> {
    let head = match how {
        How::Announced(head) | How::Late(head) => Some(head),
        How::TakenBack { .. } => None,
    };
    let removed = head.is_none();
    let traces = resolve_effects(tx, logs, how, now).await?;
    let observations = observe(tx, logs, head, traces, now).await?;
    if !removed {
        send_skipped_again(tx, logs, now).await?;
    }
    move_wallets(tx, logs, removed, now).await?;
    match how {
        How::Announced(_) => save_totals(tx, logs, now).await?,
        How::Late(_) => save_late_totals(tx, logs, now).await?,
        How::TakenBack { announced_to } => take_totals_back(tx, logs, announced_to).await?,
    }
    Ok(observations)
}

/// Where a log was seen.
#[derive(Debug, Serialize)]
struct Evidence {
    block_number: u64,
    block_hash: String,
    tx_hash: String,
    log_index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    finality: Option<&'static str>,
}

async fn observe(
    tx: &Tx,
    logs: &[SeenLog],
    head: Option<&Head>,
    mut traces: HashMap<Uuid, String>,
    now: Timestamp,
) -> Result<usize, StoreError> {
    let keys: HashSet<Uuid> = logs
        .iter()
        .filter_map(|log| match &log.said {
            Said::Payment(payment, _) => Some(payment.as_uuid()),
            Said::Skipped(..)
            | Said::Transfer { .. }
            | Said::Quarantined { .. }
            | Said::QuarantineReleased { .. }
            | Said::Totals { .. }
            | Said::BatchInitiated { .. } => None,
        })
        .collect();
    if keys.is_empty() {
        return Ok(0);
    }
    let unasked: Vec<Uuid> = keys.into_iter().filter(|key| !traces.contains_key(key)).collect();
    if !unasked.is_empty() {
        for row in tx.query(TRACES, &[&unasked]).await? {
            traces.insert(row.try_get("id")?, row.try_get("traceparent")?);
        }
    }
    let events: Vec<NewEvent> = logs
        .iter()
        .filter_map(|log| {
            let Said::Payment(payment, chain_log) = log.said else { return None };
            let evidence = Evidence {
                block_number: log.block_number,
                block_hash: hex(&log.block_hash),
                tx_hash: hex(&log.tx_hash),
                log_index: log.log_index,
                finality: head.map(|head| head.finality_of(log.block_number)),
            };
            let event = if head.is_some() { Event::Chain(chain_log) } else { Event::ChainRemoved(chain_log) };
            let (kind, data) = observation::encode(&event, &evidence)?;
            // A payment that is not ours has no trace; the orchestrator parks it.
            let traceparent = traces.get(&payment.as_uuid()).cloned().unwrap_or_default();
            Some(NewEvent { topic: topic::CHAIN, key: payment, kind, participants: None, traceparent, data })
        })
        .collect();
    event_log::append(tx, &events, now).await?;
    Ok(events.len())
}

/// Brings effects to their end, or opens them again. Returns the traces of the payments whose effects those are.
async fn resolve_effects(
    tx: &Tx,
    logs: &[SeenLog],
    how: How<'_>,
    now: Timestamp,
) -> Result<HashMap<Uuid, String>, StoreError> {
    let removed = matches!(how, How::TakenBack { .. });
    // One effect may have several logs in a stretch (skipped, then done): the last one counts.
    let mut last: BTreeMap<(PaymentId, Effect), (&str, &str, String)> = BTreeMap::new();
    for log in logs {
        let (payment, resolved): (_, &[(Effect, &str, &str)]) = match &log.said {
            Said::Payment(payment, chain_log) => (*payment, resolved_by(*chain_log)),
            Said::Skipped(..)
            | Said::Transfer { .. }
            | Said::Quarantined { .. }
            | Said::QuarantineReleased { .. }
            | Said::Totals { .. }
            | Said::BatchInitiated { .. } => continue,
        };
        for (effect, state, outcome) in resolved {
            let entry = if removed { ("sent", "removed") } else { (*state, *outcome) };
            last.insert((payment, *effect), (entry.0, entry.1, hex(&log.tx_hash)));
        }
    }
    if last.is_empty() {
        return Ok(HashMap::new());
    }
    let (ids, kinds, states, outcomes, references) = columns!(
        last,
        |((payment, effect), (state, outcome, reference))| payment.as_uuid(),
        effect.as_str(),
        *state,
        *outcome,
        reference.as_str()
    );
    let is_late = matches!(how, How::Late(_));
    let resolved = tx
        .query(RESOLVE_EFFECTS, &[&ids, &kinds, &states, &outcomes, &references, &At(now), &is_late])
        .await?;
    if removed {
        tx.execute(LEAVE_UNCARRIED, &[&ids, &kinds, &At(now)]).await?;
    }
    resolved.iter().map(|row| Ok((row.try_get("payment_id")?, row.try_get("traceparent")?))).collect()
}

/// The status bits of a payment that is open.
const OPEN: u8 = 1;

async fn send_skipped_again(tx: &Tx, logs: &[SeenLog], now: Timestamp) -> Result<(), StoreError> {
    let skipped: Vec<Uuid> = logs
        .iter()
        .filter_map(|log| match log.said {
            Said::Skipped(payment, OPEN) => Some(payment.as_uuid()),
            Said::Skipped(..)
            | Said::Payment(..)
            | Said::Transfer { .. }
            | Said::Quarantined { .. }
            | Said::QuarantineReleased { .. }
            | Said::Totals { .. }
            | Said::BatchInitiated { .. } => None,
        })
        .collect();
    if !skipped.is_empty() {
        tx.execute(SEND_SKIPPED_AGAIN, &[&skipped, &At(now)]).await?;
    }
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
    let signed = |units: u64| number(units).map(|units| if removed { -units } else { units });
    let (mut moved, mut quarantined) = (Vec::new(), Vec::new());
    for log in logs {
        match log.said {
            Said::Transfer { from, to, units, .. } => {
                let units = signed(units)?;
                moved.extend(from.map(|wallet| (log.currency, wallet, -units)));
                moved.extend(to.map(|wallet| (log.currency, wallet, units)));
            }
            Said::Quarantined { wallet, units } => quarantined.push((log.currency, wallet, signed(units)?)),
            Said::QuarantineReleased { wallet, units, .. } => {
                quarantined.push((log.currency, wallet, -signed(units)?));
            }
            Said::Payment(..) | Said::Skipped(..) | Said::Totals { .. } | Said::BatchInitiated { .. } => {}
        }
    }
    // First, while what the wallets held before these logs can be read.
    post_outside(tx, logs, removed, now).await?;
    add_units(tx, MOVE_WALLETS, &moved).await?;
    add_units(tx, MOVE_QUARANTINE, &quarantined).await
}

async fn add_units(
    tx: &Tx,
    to: Statement,
    changes: &[(Currency, EvmAddress, i64)],
) -> Result<(), StoreError> {
    if changes.is_empty() {
        return Ok(());
    }
    let (currencies, wallets, units) =
        columns!(changes, |(currency, wallet, units)| currency.code(), wallet.as_bytes().to_vec(), *units);
    tx.execute(to, &[&currencies, &wallets, &units]).await?;
    Ok(())
}

/// Tokens that moved outside our payments are entries of their own, so that each wallet's account equals the chain's.
///
/// Whoever holds tokens can move less than a minor unit of them. An account has the whole minor units of what its wallet holds,
/// and suspense the rest. So what an entry says follows from what the wallets held before and after its log, and not from the
/// log alone; taken back newest first, each log leaves the wallets as it found them, and its entry is undone to the unit.
async fn post_outside(tx: &Tx, logs: &[SeenLog], removed: bool, now: Timestamp) -> Result<(), StoreError> {
    let mut wallets = Wallets::read(tx, logs).await?;
    if wallets.0.is_empty() {
        return Ok(());
    }
    let moment = if removed { Moment::CustodyTransferRemoved } else { Moment::CustodyTransfer };
    let mut entries = Vec::new();
    for log in logs {
        // Two at most, told apart by their round: what both wallets changed by, and the minor unit by which they did not change alike.
        for (round, (debit, credit, minor_units)) in (0..).zip(wallets.follow(log, removed)) {
            let amount = Money::new(minor_units, log.currency);
            entries.push((source_of(log, now), JournalEntry { moment, round, debit, credit, amount }));
        }
    }
    ledger::post(tx, &entries, &[], now).await
}

/// The wallets between which something moved past our payments and that an account stands for, as each log leaves them.
#[derive(Debug, Default)]
struct Wallets(HashMap<(Currency, EvmAddress), Wallet>);

/// A wallet, and the account that stands for it.
#[derive(Debug)]
struct Wallet {
    account: LedgerAccount,
    units: i128,
    units_per_minor_unit: i128,
}

/// An account of a wallet, and the whole minor units that it changes by.
type Change = Option<(LedgerAccount, i128)>;

/// The account debited, the account credited, minor units.
type Leg = (LedgerAccount, LedgerAccount, i128);

impl Wallets {
    async fn read(tx: &Tx, logs: &[SeenLog]) -> Result<Self, StoreError> {
        let named: BTreeSet<(Currency, EvmAddress)> = logs
            .iter()
            .flat_map(|log| {
                past_us(&log.said).into_iter().flatten().map(move |wallet| (log.currency, wallet))
            })
            .collect();
        let mut wallets = Self::default();
        if named.is_empty() {
            return Ok(wallets);
        }
        let (currencies, addresses) =
            columns!(named, |(currency, wallet)| currency.code(), wallet.as_bytes().to_vec());
        for row in tx.query(READ_WALLETS, &[&currencies, &addresses]).await? {
            let code: &str = row.try_get("currency")?;
            let currency =
                Currency::parse(code).map_err(|_| StoreError::Corrupt(format!("currency {code}")))?;
            let (is_house, id): (bool, Option<Uuid>) = (row.try_get("is_house")?, row.try_get("account_id")?);
            let account = match id {
                Some(id) if !is_house => LedgerAccount::Wallet(AccountId::from_uuid(id)),
                Some(_) | None => LedgerAccount::WalletHouse,
            };
            let wallet = Wallet {
                account,
                units: row.try_get::<_, i64>("units")?.into(),
                units_per_minor_unit: units_per_minor_unit(currency, row.try_get("token_decimals")?)?,
            };
            wallets.0.insert((currency, address(&row, "wallet")?), wallet);
        }
        Ok(wallets)
    }

    /// Moves what a log moves, and says what the accounts have to follow.
    fn follow(&mut self, log: &SeenLog, removed: bool) -> Vec<Leg> {
        // Taken back, it goes the other way.
        let directed = |from, to| if removed { (to, from) } else { (from, to) };
        match log.said {
            Said::Transfer { from, to, units, outside } => {
                let (from, to) = directed(from, to);
                let sent = self.change(log.currency, from, -i128::from(units));
                let received = self.change(log.currency, to, units.into());
                if outside { legs(sent, received) } else { Vec::new() }
            }
            // What waited for a wallet was in its account: whole minor units, as they came of payments. The transfer is a log of its own.
            Said::QuarantineReleased { wallet, to, units } => {
                let (from, to) = directed(Some(wallet), Some(to));
                legs(self.whole(log.currency, from, units), self.whole(log.currency, to, units))
            }
            Said::Payment(..)
            | Said::Skipped(..)
            | Said::Quarantined { .. }
            | Said::Totals { .. }
            | Said::BatchInitiated { .. } => Vec::new(),
        }
    }

    /// Adds to what a wallet holds.
    fn change(&mut self, currency: Currency, wallet: Option<EvmAddress>, units: i128) -> Change {
        let wallet = self.0.get_mut(&(currency, wallet?))?;
        let before = wallet.units.div_euclid(wallet.units_per_minor_unit);
        wallet.units += units;
        let after = wallet.units.div_euclid(wallet.units_per_minor_unit);
        Some((wallet.account.clone(), (after - before).abs()))
    }

    fn whole(&self, currency: Currency, wallet: Option<EvmAddress>, units: u64) -> Change {
        let wallet = self.0.get(&(currency, wallet?))?;
        Some((wallet.account.clone(), i128::from(units).div_euclid(wallet.units_per_minor_unit)))
    }
}

/// The wallets between which something moves past our payments.
fn past_us(said: &Said) -> [Option<EvmAddress>; 2] {
    match said {
        Said::Transfer { from, to, outside: true, .. } => [*from, *to],
        Said::QuarantineReleased { wallet, to, .. } => [Some(*wallet), Some(*to)],
        Said::Transfer { outside: false, .. }
        | Said::Payment(..)
        | Said::Skipped(..)
        | Said::Quarantined { .. }
        | Said::Totals { .. }
        | Said::BatchInitiated { .. } => [None, None],
    }
}

/// Two wallets' changes differ by a minor unit where their fractions break one or make one up: that goes to suspense, or comes from
/// it. So does all that has only one side of ours.
fn legs(sent: Change, received: Change) -> Vec<Leg> {
    let suspense = LedgerAccount::Suspense;
    let legs = match (sent, received) {
        (None, None) => vec![],
        (Some((from, sent)), None) => vec![(from, suspense, sent)],
        (None, Some((to, received))) => vec![(suspense, to, received)],
        (Some((from, sent)), Some((to, received))) => {
            let both = sent.min(received);
            vec![
                (from.clone(), to.clone(), both),
                (from, suspense.clone(), sent - both),
                (suspense, to, received - both),
            ]
        }
    };
    legs.into_iter().filter(|(debit, credit, amount)| *amount > 0 && debit != credit).collect()
}

/// The source of an entry that belongs to no payment: named after its log, and lying with the day's entries.
fn source_of(log: &SeenLog, now: Timestamp) -> Uuid {
    let mut random = [0u8; 10];
    let (place, block) = (log.log_index.to_be_bytes(), log.block_hash);
    // The first bytes lose bits to version and variant; of the place none may be lost.
    for (index, byte) in random.iter_mut().enumerate() {
        let from_place = index.checked_sub(6).and_then(|index| place.get(index)).copied().unwrap_or(0);
        *byte = block.get(index).copied().unwrap_or(0) ^ from_place;
    }
    PaymentId::generate(now, random).as_uuid()
}

pub(super) const TOTALS: &str = "totals";
pub(super) const BATCH_INITIATED: &str = "batch_initiated";

/// How far a contract has counted; not known, it goes on from wherever it is.
type Counted = Option<u64>;

/// The numbers that are missing before `number`.
fn missing_before(number: u64, counted: Counted) -> Option<(u64, u64)> {
    let expected = counted?.saturating_add(1);
    // A count that goes back has not gone on: what should have come is missing.
    (number != expected).then(|| (expected, number.saturating_sub(1).max(expected)))
}

/// Keeps the managers' totals and how far managers and routers have counted, and notes where a count jumps.
async fn save_totals(tx: &Tx, logs: &[SeenLog], now: Timestamp) -> Result<(), StoreError> {
    let is_counted = |log: &SeenLog| matches!(log.said, Said::Totals { .. } | Said::BatchInitiated { .. });
    if !logs.iter().any(is_counted) {
        return Ok(());
    }
    let mut counts = read_counts(tx).await?;
    let mut totals: BTreeMap<Currency, &Said> = BTreeMap::new();
    let mut batches: BTreeMap<Currency, u64> = BTreeMap::new();
    for log in logs {
        let of = counts.entry(log.currency.code().to_owned()).or_insert((Some(0), Some(0)));
        let (kind, number, counted) = match &log.said {
            Said::Totals { sequence, .. } => {
                totals.insert(log.currency, &log.said);
                (TOTALS, *sequence, &mut of.0)
            }
            Said::BatchInitiated { sequence } => {
                batches.insert(log.currency, *sequence);
                (BATCH_INITIATED, *sequence, &mut of.1)
            }
            Said::Payment(..)
            | Said::Skipped(..)
            | Said::Transfer { .. }
            | Said::Quarantined { .. }
            | Said::QuarantineReleased { .. } => continue,
        };
        if let Some(missing) = missing_before(number, counted.replace(number)) {
            open_hole(tx, log, kind, missing, now).await?;
        }
    }
    for (currency, said) in totals {
        write_totals(tx, currency, said).await?;
    }
    for (currency, last) in batches {
        tx.execute(SAVE_BATCHES, &[&currency.code(), &number(last)?]).await?;
    }
    Ok(())
}

/// What was left out may be the last that the contracts have said; and what lies between that and what was read is missing still.
async fn save_late_totals(tx: &Tx, logs: &[SeenLog], now: Timestamp) -> Result<(), StoreError> {
    let mut counts = read_counts(tx).await?;
    for log in logs {
        let of = counts.entry(log.currency.code().to_owned()).or_insert((Some(0), Some(0)));
        let (kind, told, counted) = match &log.said {
            Said::Totals { sequence, .. } => (TOTALS, *sequence, &mut of.0),
            Said::BatchInitiated { sequence } => (BATCH_INITIATED, *sequence, &mut of.1),
            Said::Payment(..)
            | Said::Skipped(..)
            | Said::Transfer { .. }
            | Said::Quarantined { .. }
            | Said::QuarantineReleased { .. } => continue,
        };
        if counted.is_none_or(|counted| told <= counted) {
            continue;
        }
        if let Some(missing) = missing_before(told, counted.replace(told)) {
            open_hole(tx, log, kind, missing, now).await?;
        }
        if kind == BATCH_INITIATED {
            tx.execute(SAVE_BATCHES, &[&log.currency.code(), &number(told)?]).await?;
        } else {
            write_totals(tx, log.currency, &log.said).await?;
        }
    }
    Ok(())
}

async fn read_counts(tx: &Tx) -> Result<HashMap<String, (Counted, Counted)>, StoreError> {
    let mut counts = HashMap::new();
    for row in tx.query(READ_SEQUENCES, &[]).await? {
        let batches = row.try_get::<_, Option<i64>>("batches")?.map(unsigned).transpose()?;
        counts.insert(row.try_get("currency")?, (Some(unsigned(row.try_get("sequence")?)?), batches));
    }
    Ok(counts)
}

/// After a reorganisation the newest logs that are left say what the totals are, and how far is counted.
async fn take_totals_back(tx: &Tx, logs: &[SeenLog], announced_to: u64) -> Result<(), StoreError> {
    let of = |is: fn(&Said) -> bool| -> BTreeSet<Currency> {
        logs.iter().filter(|log| is(&log.said)).map(|log| log.currency).collect()
    };
    for currency in of(|said| matches!(said, Said::Totals { .. })) {
        let none = Said::Totals { sequence: 0, minted: 0, burned: 0, escrowed: 0, redemption: 0 };
        let left = last_of_kind(tx, currency, TOTALS, announced_to).await?;
        write_totals(tx, currency, &left.unwrap_or(none)).await?;
    }
    for currency in of(|said| matches!(said, Said::BatchInitiated { .. })) {
        // None may be left because they were not kept when they came.
        let last = last_number(tx, currency, BATCH_INITIATED, announced_to).await?;
        tx.execute(SAVE_BATCHES, &[&currency.code(), &last.map(number).transpose()?]).await?;
    }
    Ok(())
}

/// Whatever comes next of this count has to be its first number.
pub(super) async fn begin_count(tx: &Tx, currency: Currency, kind: &str) -> Result<(), StoreError> {
    if kind == BATCH_INITIATED {
        tx.execute(SAVE_BATCHES, &[&currency.code(), &Some(0_i64)]).await?;
    }
    Ok(())
}

async fn write_totals(tx: &Tx, currency: Currency, said: &Said) -> Result<(), StoreError> {
    let Said::Totals { sequence, minted, burned, escrowed, redemption } = said else { return Ok(()) };
    tx.execute(
        SAVE_TOTALS,
        &[
            &currency.code(),
            &number(*sequence)?,
            &i64::try_from(*minted).unwrap_or(i64::MAX),
            &i64::try_from(*burned).unwrap_or(i64::MAX),
            &number(*escrowed)?,
            &number(*redemption)?,
        ],
    )
    .await?;
    Ok(())
}

/// How far a contract had counted by this block.
pub(super) async fn last_number(
    tx: &Tx,
    currency: Currency,
    kind: &str,
    announced_to: u64,
) -> Result<Option<u64>, StoreError> {
    let last = last_of_kind(tx, currency, kind, announced_to).await?;
    Ok(match last {
        Some(Said::Totals { sequence, .. } | Said::BatchInitiated { sequence }) => Some(sequence),
        Some(
            Said::Payment(..)
            | Said::Skipped(..)
            | Said::Transfer { .. }
            | Said::Quarantined { .. }
            | Said::QuarantineReleased { .. },
        )
        | None => None,
    })
}

async fn last_of_kind(
    tx: &Tx,
    currency: Currency,
    kind: &str,
    announced_to: u64,
) -> Result<Option<Said>, StoreError> {
    let rows = tx.query(LAST_OF_KIND, &[&currency.code(), &kind, &number(announced_to)?]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let said = decode(kind, None, &row.try_get("data")?);
    said.map(Some).ok_or_else(|| StoreError::Corrupt(format!("a stored log of kind {kind}")))
}

/// A payment's log as it is stored: an observation without its evidence.
#[derive(Debug, Serialize, Deserialize)]
struct Observed {
    kind: String,
    data: EventData,
}

fn encode(said: &Said) -> (&'static str, Option<Uuid>, EventData) {
    match said {
        Said::Payment(payment, log) => {
            let observed =
                observation::encode(&Event::Chain(*log), &()).map(|(kind, data)| Observed { kind, data });
            ("payment", Some(payment.as_uuid()), EventData::of(&observed))
        }
        Said::Skipped(payment, status) => {
            ("skipped", Some(payment.as_uuid()), EventData::of(&json!({ "status": status })))
        }
        Said::Transfer { from, to, units, outside } => {
            let text = |wallet: &Option<EvmAddress>| wallet.map(|wallet| wallet.to_string());
            let said = json!({ "from": text(from), "to": text(to), "units": units, "outside": outside });
            ("transfer", None, EventData::of(&said))
        }
        Said::Quarantined { wallet, units } => {
            let said = json!({ "wallet": wallet.to_string(), "units": units });
            ("quarantined", None, EventData::of(&said))
        }
        Said::QuarantineReleased { wallet, to, units } => {
            let said = json!({ "wallet": wallet.to_string(), "to": to.to_string(), "units": units });
            ("quarantine_released", None, EventData::of(&said))
        }
        Said::Totals { sequence, minted, burned, escrowed, redemption } => (
            TOTALS,
            None,
            EventData::of(&json!({
                "sequence": sequence, "minted": minted, "burned": burned, "escrowed": escrowed, "redemption": redemption,
            })),
        ),
        Said::BatchInitiated { sequence } => {
            (BATCH_INITIATED, None, EventData::of(&json!({ "sequence": sequence })))
        }
    }
}

fn decode(kind: &str, payment: Option<Uuid>, data: &EventData) -> Option<Said> {
    if kind == "payment" {
        let observed: Observed = data.read()?;
        let Event::Chain(log) = observation::decode(&observed.kind, &observed.data)? else { return None };
        return Some(Said::Payment(PaymentId::from_uuid(payment?), log));
    }
    let data: Value = data.read()?;
    let unsigned = |name: &str| data.get(name).and_then(Value::as_u64);
    let wallet = |name: &str| match data.get(name)?.as_str() {
        Some(text) => EvmAddress::parse(text).ok().map(Some),
        None => Some(None),
    };
    Some(match kind {
        "skipped" => Said::Skipped(PaymentId::from_uuid(payment?), u8::try_from(unsigned("status")?).ok()?),
        "transfer" => Said::Transfer {
            from: wallet("from")?,
            to: wallet("to")?,
            units: unsigned("units")?,
            outside: data.get("outside")?.as_bool()?,
        },
        "quarantined" => Said::Quarantined { wallet: wallet("wallet")??, units: unsigned("units")? },
        "quarantine_released" => Said::QuarantineReleased {
            wallet: wallet("wallet")??,
            to: wallet("to")??,
            units: unsigned("units")?,
        },
        TOTALS => Said::Totals {
            sequence: unsigned("sequence")?,
            minted: unsigned("minted")?,
            burned: unsigned("burned")?,
            escrowed: unsigned("escrowed")?,
            redemption: unsigned("redemption")?,
        },
        BATCH_INITIATED => Said::BatchInitiated { sequence: unsigned("sequence")? },
        _ => return None,
    })
}

pub(super) fn stored_logs(rows: &[Row]) -> Result<Vec<SeenLog>, StoreError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    const CENT: i128 = 10_000;

    fn wallet(byte: u8) -> EvmAddress {
        EvmAddress::from_bytes([byte; 20])
    }

    fn transfer(from: u8, to: u8, units: u64, outside: bool) -> Said {
        Said::Transfer { from: Some(wallet(from)), to: Some(wallet(to)), units, outside }
    }

    #[test]
    fn an_account_has_the_whole_cents_of_its_wallet_and_logs_that_are_taken_back_leave_no_trace() {
        let euro = Currency::parse("EUR").unwrap();
        let [first, second] =
            [1, 2].map(|byte| LedgerAccount::Wallet(AccountId::generate(Timestamp::EPOCH, [byte; 10])));
        let ours = [(wallet(1), &first), (wallet(2), &second)];
        let mut wallets = Wallets::default();
        let mut books: BTreeMap<LedgerAccount, i128> = BTreeMap::new();
        for (wallet, account) in ours {
            let held = Wallet { account: account.clone(), units: 10 * CENT, units_per_minor_unit: CENT };
            wallets.0.insert((euro, wallet), held);
            books.insert(account.clone(), 10);
        }
        // Between the two and a stranger; one is a payment of two cents, which posts its own entry.
        let said = [
            transfer(1, 2, 1, true),
            transfer(2, 1, 20_000, false),
            transfer(2, 3, 9_999, true),
            transfer(1, 1, 7, true),
            transfer(3, 1, 5_001, true),
            transfer(1, 2, 34_567, true),
        ];
        let announced = said.iter().map(|said| (said, false));
        for (said, removed) in announced.chain(said.iter().rev().map(|said| (said, true))) {
            let log = SeenLog {
                block_number: 1,
                block_hash: [1; 32],
                tx_hash: [1; 32],
                log_index: 0,
                currency: euro,
                said: said.clone(),
            };
            let mut legs = wallets.follow(&log, removed);
            if matches!(said, Said::Transfer { outside: false, .. }) {
                let (debit, credit) = if removed { (&first, &second) } else { (&second, &first) };
                legs.push((debit.clone(), credit.clone(), 2));
            }
            for (debit, credit, amount) in legs {
                *books.entry(debit).or_insert(0) -= amount;
                *books.entry(credit).or_insert(0) += amount;
            }
            for (wallet, account) in ours {
                let units = wallets.0[&(euro, wallet)].units;
                assert_eq!(books[account], units.div_euclid(CENT), "{said:?}, removed: {removed}");
            }
        }
        assert_eq!(books[&LedgerAccount::Suspense], 0);
    }

    #[test]
    fn no_two_logs_of_a_block_have_entries_of_the_same_source() {
        let log = |log_index: u32| SeenLog {
            block_number: 1,
            block_hash: [1; 32],
            tx_hash: [1; 32],
            log_index,
            currency: Currency::parse("EUR").unwrap(),
            said: transfer(1, 2, 1, true),
        };
        let places = (0..31).map(|bit| 1 << bit).chain([0]);
        let sources: BTreeSet<Uuid> =
            places.map(|place| source_of(&log(place), Timestamp::from_secs(1_000))).collect();
        assert_eq!(sources.len(), 32);
    }
}
