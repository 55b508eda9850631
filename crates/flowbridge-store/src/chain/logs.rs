//! What our contracts said, and everything that follows when a log is announced or taken back: observations, effects that are
//! resolved, wallets' balances, entries for transfers past us, the contracts' totals.

use super::watch::Head;
use super::{address, hash, hex, number, unsigned};
use crate::db::{StoreError, Tx};
use crate::event_data::EventData;
use crate::event_log::{self, NewEvent, topic};
use crate::sql::{At, columns, statements};
use crate::{ledger, observation};
use flowbridge_domain::id::{AccountId, PaymentId};
use flowbridge_domain::ledger::{JournalEntry, LedgerAccount, Moment};
use flowbridge_domain::money::{Currency, Money};
use flowbridge_domain::party::EvmAddress;
use flowbridge_domain::payment::{ChainLog, Effect, Event};
use flowbridge_domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use tokio_postgres::Row;
use uuid::Uuid;

statements! {
    SAVE_LOGS = "insert into chain_log (block_number, log_index, block_hash, tx_hash, currency, kind, payment_id, data)
        select * from unnest($1::bigint[], $2::integer[], $3::bytea[], $4::bytea[], $5::text[], $6::text[], $7::uuid[], $8::json[])";

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

    CONTRACT_DECIMALS = "select currency, token_decimals from chain_contract";
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
        Said::Totals { sequence, minted, burned, escrowed, redemption } => (
            "totals",
            None,
            EventData::of(&json!({
                "sequence": sequence, "minted": minted, "burned": burned, "escrowed": escrowed, "redemption": redemption,
            })),
        ),
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
    Some(match kind {
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
