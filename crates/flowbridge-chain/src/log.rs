//! What the contracts say, in the words of the domain.
//!
//! A `Transfer` is part of a payment when its transaction also carries a log of our router or manager and it moves tokens
//! to, from or on behalf of the manager. Every other one is *outside*: custody moved without us and is posted as an entry of
//! its own. Logs that change neither a payment nor a balance (roles, registrations) are passed over.

use crate::bindings::{address, evm_address, manager, router, token, wallet};
use crate::error::ChainError;
use alloy::primitives::{Address, B256, FixedBytes, U256};
use alloy::rpc::types::Log;
use alloy::sol_types::SolEventInterface as _;
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::money::Currency;
use flowbridge_domain::party::EvmAddress;
use flowbridge_domain::payment::{ChainLog, SetAside};
use manager::SettlementManager::SettlementManagerEvents as ManagerEvent;
use router::PaymentRouter::PaymentRouterEvents as RouterEvent;
use std::collections::HashSet;
use token::TokenizedCash::TokenizedCashEvents as TokenEvent;

/// Our contracts of one currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContractSet {
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

/// A log of our contracts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenLog {
    /// Its block.
    pub block_number: u64,
    /// Its block.
    pub block_hash: [u8; 32],
    /// Its transaction.
    pub tx_hash: [u8; 32],
    /// Its place in the block.
    pub log_index: u32,
    /// The contracts' currency.
    pub currency: Currency,
    /// What it says.
    pub said: Said,
}

/// What a log says. Amounts are token units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// Something about a payment.
    Payment {
        /// Its number.
        number: u64,
        /// Its id.
        payment_id: PaymentId,
        /// What happened to it.
        log: ChainLog,
    },
    /// A payment was passed over because it is not where the caller thought; its status bits say where.
    Skipped {
        /// Its id.
        payment_id: PaymentId,
        /// 0 unused, 1 open, 2 settled, 3 closed.
        status: u8,
    },
    /// Tokens moved.
    Transfer {
        /// From; `None` for a mint.
        from: Option<EvmAddress>,
        /// To; `None` for a burn.
        to: Option<EvmAddress>,
        /// How many.
        units: u64,
        /// Outside our payments.
        outside: bool,
    },
    /// The manager's running totals, at the end of each call that moved money.
    Totals(Totals),
}

/// Running totals of a manager, in token units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Gapless: a jump means that a log was missed.
    pub sequence: u64,
    /// Minted, ever.
    pub minted: u64,
    /// Burned, ever.
    pub burned: u64,
    /// In escrow now.
    pub escrowed: u64,
    /// In redemption escrow now.
    pub redemption: u64,
}

/// Every address whose logs we read.
pub fn addresses(contracts: &[ContractSet]) -> Vec<EvmAddress> {
    contracts.iter().flat_map(|set| [set.token, set.router, set.manager]).collect()
}

/// Reads logs, in the order of the chain.
pub fn read(contracts: &[ContractSet], logs: &[Log]) -> Result<Vec<SeenLog>, ChainError> {
    let payments: HashSet<(Option<B256>, Address)> = logs
        .iter()
        .filter_map(|log| {
            let set = contracts.iter().find(|set| {
                log.address() == address(&set.router) || log.address() == address(&set.manager)
            })?;
            Some((log.transaction_hash, address(&set.token)))
        })
        .collect();
    let mut seen = Vec::with_capacity(logs.len());
    for log in logs {
        let Some((set, said)) = said(contracts, log, &payments)? else { continue };
        let missing = || ChainError::Unreadable("a log without its block".into());
        seen.push(SeenLog {
            block_number: log.block_number.ok_or_else(missing)?,
            block_hash: log.block_hash.ok_or_else(missing)?.0,
            tx_hash: log.transaction_hash.ok_or_else(missing)?.0,
            log_index: log.log_index.and_then(|index| u32::try_from(index).ok()).ok_or_else(missing)?,
            currency: set.currency,
            said,
        });
    }
    seen.sort_by_key(|log| (log.block_number, log.log_index));
    Ok(seen)
}

type InPayments = HashSet<(Option<B256>, Address)>;

fn said<'a>(
    contracts: &'a [ContractSet],
    log: &Log,
    payments: &InPayments,
) -> Result<Option<(&'a ContractSet, Said)>, ChainError> {
    let emitter = evm_address(log.address());
    for set in contracts {
        let said = if emitter == set.router {
            RouterEvent::decode_log(&log.inner).ok().map_or(Ok(None), |event| of_router(event.data))
        } else if emitter == set.manager {
            ManagerEvent::decode_log(&log.inner).ok().map_or(Ok(None), |event| of_manager(event.data))
        } else if emitter == set.token {
            let in_payment = payments.contains(&(log.transaction_hash, log.address()));
            TokenEvent::decode_log(&log.inner)
                .ok()
                .map_or(Ok(None), |event| of_token(set, event.data, in_payment))
        } else {
            continue;
        };
        return Ok(said?.map(|said| (set, said)));
    }
    Ok(None)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "roles, pauses and roots move nothing; the enum is the contract's"
)]
fn of_router(event: RouterEvent) -> Result<Option<Said>, ChainError> {
    Ok(match event {
        RouterEvent::PaymentInitiated(it) => payment(it.number, it.paymentId, ChainLog::Initiated),
        RouterEvent::PaymentSetAside(it) => {
            payment(it.number, it.paymentId, ChainLog::InitiationSetAside(set_aside(it.reason)?))
        }
        _ => None,
    })
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "roles, pauses and quarantine concern no payment; the enum is the contract's"
)]
fn of_manager(event: ManagerEvent) -> Result<Option<Said>, ChainError> {
    Ok(match event {
        ManagerEvent::PaymentSettled(it) => payment(it.number, it.paymentId, ChainLog::Settled),
        ManagerEvent::PaymentSetAside(it) => {
            payment(it.number, it.paymentId, ChainLog::SettlementSetAside(set_aside(it.reason)?))
        }
        ManagerEvent::PaymentCancelled(it) => payment(it.number, it.paymentId, ChainLog::Cancelled),
        ManagerEvent::PaymentReclaimed(it) => payment(it.number, it.paymentId, ChainLog::Reclaimed),
        ManagerEvent::RedemptionBurned(it) => payment(it.number, it.paymentId, ChainLog::RedemptionBurned),
        ManagerEvent::RedemptionReleased(it) => {
            payment(it.number, it.paymentId, ChainLog::RedemptionReleased)
        }
        ManagerEvent::PaymentSkipped(it) => {
            Some(Said::Skipped { payment_id: payment_id(it.paymentId), status: it.status })
        }
        ManagerEvent::Totals(it) => Some(Said::Totals(Totals {
            sequence: it.sequence,
            minted: units(it.minted)?,
            burned: units(it.burned)?,
            escrowed: units(it.escrowed)?,
            redemption: units(it.redemption)?,
        })),
        _ => None,
    })
}

fn of_token(set: &ContractSet, event: TokenEvent, in_payment: bool) -> Result<Option<Said>, ChainError> {
    let TokenEvent::Transfer(it) = event else { return Ok(None) };
    let (from, to) = (wallet(it.from), wallet(it.to));
    let by_manager = from.is_none() || to.is_none() || from == Some(set.manager) || to == Some(set.manager);
    Ok(Some(Said::Transfer { from, to, units: units(it.value)?, outside: !(in_payment && by_manager) }))
}

fn payment(number: u64, id: FixedBytes<16>, log: ChainLog) -> Option<Said> {
    Some(Said::Payment { number, payment_id: payment_id(id), log })
}

fn payment_id(id: FixedBytes<16>) -> PaymentId {
    PaymentId::from_uuid(uuid::Uuid::from_bytes(id.0))
}

/// `Reason` of the contracts.
fn set_aside(reason: u8) -> Result<SetAside, ChainError> {
    match reason {
        1 => Ok(SetAside::NotFunded),
        2 => Ok(SetAside::Frozen),
        3 => Ok(SetAside::Unregistered),
        4 => Ok(SetAside::Unauthorized),
        other => Err(ChainError::Unreadable(format!("set aside for reason {other}"))),
    }
}

fn units<T: TryInto<U256> + Copy>(amount: T) -> Result<u64, ChainError> {
    amount
        .try_into()
        .ok()
        .and_then(|amount: U256| u64::try_from(amount).ok())
        .ok_or_else(|| ChainError::Unreadable("an amount beyond 2^64 token units".into()))
}
