//! What the contracts say, in the words of the domain.
//!
//! A `Transfer` is part of a payment when the manager makes it: it pays, mints and burns where it says so itself, and takes
//! escrow only in a transaction of the router, which nobody but an initiator can make. Every other one is *outside*, whatever
//! stands beside it: custody moved without us and is posted as an entry of its own. So is what the manager gives back that came
//! to it for no payment. Logs that change neither a payment nor a balance (roles, registrations) are passed over.

use crate::bindings::{address, evm_address, manager, router, token, wallet};
use crate::error::ChainError;
use alloy::primitives::{Address, B256, FixedBytes, U256};
use alloy::rpc::types::Log;
use alloy::sol_types::{SolEvent as _, SolEventInterface as _};
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::money::Currency;
use flowbridge_domain::party::EvmAddress;
use flowbridge_domain::payment::{ChainLog, SetAside};
use manager::SettlementManager::{SettlementManagerEvents as ManagerEvent, SurplusReleased};
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

impl SeenLog {
    /// Its block and its place there: no other log of a chain has the same.
    pub const fn place(&self) -> (u64, u32) {
        (self.block_number, self.log_index)
    }
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
    /// Tokens that a wallet cannot receive wait for it with the manager.
    Quarantined {
        /// Whose they are.
        wallet: EvmAddress,
        /// How many.
        units: u64,
    },
    /// What waited for a wallet is sent; the transfer follows.
    QuarantineReleased {
        /// Whose they were.
        wallet: EvmAddress,
        /// Who gets them: the wallet, or whom compliance named.
        to: EvmAddress,
        /// How many.
        units: u64,
    },
    /// The manager's running totals, at the end of each call that moved money.
    Totals(Totals),
    /// The end of an initiation.
    BatchInitiated {
        /// The router's, gapless: a jump means that a log was missed.
        sequence: u64,
    },
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
    let beside = Beside::of(contracts, logs);
    let mut seen = Vec::with_capacity(logs.len());
    for log in logs {
        let Some((set, said)) = said(contracts, log, &beside)? else { continue };
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

/// What stands beside a transfer, and tells whether it is a payment's.
#[derive(Debug, Default)]
struct Beside {
    /// Transactions, each with a router or manager that speaks in it.
    speakers: HashSet<(Option<B256>, Address)>,
    /// Transactions, each with the place of the transfer by which a manager gives surplus away.
    surplus: HashSet<(Option<B256>, Option<u64>)>,
}

impl Beside {
    fn of(contracts: &[ContractSet], logs: &[Log]) -> Self {
        let mut beside = Self::default();
        for log in logs {
            let emitter = evm_address(log.address());
            if !contracts.iter().any(|set| emitter == set.router || emitter == set.manager) {
                continue;
            }
            beside.speakers.insert((log.transaction_hash, log.address()));
            if log.topic0() == Some(&SurplusReleased::SIGNATURE_HASH) {
                // The manager says so, and sends it in the next breath.
                let transfer = log.log_index.map(|place| place.saturating_add(1));
                beside.surplus.insert((log.transaction_hash, transfer));
            }
        }
        beside
    }

    /// Does the manager make this transfer for a payment?
    fn is_of_payment(
        &self,
        set: &ContractSet,
        log: &Log,
        from: Option<EvmAddress>,
        to: Option<EvmAddress>,
    ) -> bool {
        let speaks =
            |contract: &EvmAddress| self.speakers.contains(&(log.transaction_hash, address(contract)));
        if from == Some(set.manager) {
            speaks(&set.manager) && !self.surplus.contains(&(log.transaction_hash, log.log_index))
        } else if from.is_none() {
            speaks(&set.manager)
        } else {
            to == Some(set.manager) && speaks(&set.router)
        }
    }
}

fn said<'a>(
    contracts: &'a [ContractSet],
    log: &Log,
    beside: &Beside,
) -> Result<Option<(&'a ContractSet, Said)>, ChainError> {
    let emitter = evm_address(log.address());
    for set in contracts {
        let said = if emitter == set.router {
            RouterEvent::decode_log(&log.inner).ok().map_or(Ok(None), |event| of_router(event.data))
        } else if emitter == set.manager {
            ManagerEvent::decode_log(&log.inner).ok().map_or(Ok(None), |event| of_manager(event.data))
        } else if emitter == set.token {
            TokenEvent::decode_log(&log.inner)
                .ok()
                .map_or(Ok(None), |event| of_token(set, event.data, log, beside))
        } else {
            continue;
        };
        return Ok(said?.map(|said| (set, said)));
    }
    Ok(None)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "roles and pauses move nothing; the enum is the contract's"
)]
fn of_router(event: RouterEvent) -> Result<Option<Said>, ChainError> {
    Ok(match event {
        RouterEvent::PaymentInitiated(it) => payment(it.number, it.paymentId, ChainLog::Initiated),
        RouterEvent::PaymentSetAside(it) => {
            payment(it.number, it.paymentId, ChainLog::InitiationSetAside(set_aside(it.reason)?))
        }
        RouterEvent::BatchInitiated(it) => Some(Said::BatchInitiated { sequence: it.sequence }),
        _ => None,
    })
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "roles and pauses move nothing, surplus says so by its transfer; the enum is the contract's"
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
        ManagerEvent::Quarantined(it) => {
            Some(Said::Quarantined { wallet: evm_address(it.wallet), units: units(it.amount)? })
        }
        ManagerEvent::QuarantineReleased(it) => Some(Said::QuarantineReleased {
            wallet: evm_address(it.wallet),
            to: evm_address(it.to),
            units: units(it.amount)?,
        }),
        ManagerEvent::Totals(it) => Some(Said::Totals(Totals {
            sequence: it.sequence,
            // Of what was ever made, which outgrows any number in the end. Nothing is compared with it.
            minted: u64::try_from(it.minted).unwrap_or(u64::MAX),
            burned: u64::try_from(it.burned).unwrap_or(u64::MAX),
            escrowed: units(it.escrowed)?,
            redemption: units(it.redemption)?,
        })),
        _ => None,
    })
}

fn of_token(
    set: &ContractSet,
    event: TokenEvent,
    log: &Log,
    beside: &Beside,
) -> Result<Option<Said>, ChainError> {
    let TokenEvent::Transfer(it) = event else { return Ok(None) };
    let (from, to) = (wallet(it.from), wallet(it.to));
    // To oneself moves nothing, whatever amount stands there.
    if from == to {
        return Ok(None);
    }
    let outside = !beside.is_of_payment(set, log, from, to);
    Ok(Some(Said::Transfer { from, to, units: units(it.value)?, outside }))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings::manager::SettlementManager::PaymentCancelled;
    use crate::bindings::router::PaymentRouter::BatchInitiated;
    use crate::bindings::token::TokenizedCash::Transfer;
    use alloy::sol_types::SolEvent;

    const MANAGER: u8 = 3;
    const CUSTOMER: u8 = 5;
    const ANOTHER: u8 = 6;

    fn contracts() -> ContractSet {
        let at = |byte| EvmAddress::from_bytes([byte; 20]);
        ContractSet {
            currency: Currency::parse("EUR").unwrap(),
            token: at(1),
            token_decimals: 6,
            router: at(2),
            manager: at(MANAGER),
            house: at(4),
        }
    }

    /// A log of the one transaction that there is.
    fn log(emitter: &EvmAddress, event: &impl SolEvent, place: u64) -> Log {
        Log {
            inner: alloy::primitives::Log { address: address(emitter), data: event.encode_log_data() },
            block_hash: Some(B256::ZERO),
            block_number: Some(1),
            transaction_hash: Some(B256::ZERO),
            log_index: Some(place),
            ..Log::default()
        }
    }

    /// A token unit moves, right after another log.
    fn is_outside(beside: Log, from: u8, to: u8) -> bool {
        let (from, to) = (Address::repeat_byte(from), Address::repeat_byte(to));
        let moved = log(&contracts().token, &Transfer { from, to, value: U256::ONE }, 1);
        let seen = read(&[contracts()], &[beside, moved]).unwrap();
        matches!(seen.last().unwrap().said, Said::Transfer { outside: true, .. })
    }

    #[test]
    fn a_transfer_to_oneself_is_nothing_whatever_amount_it_names() {
        let own = Address::repeat_byte(CUSTOMER);
        let moved = log(&contracts().token, &Transfer { from: own, to: own, value: U256::MAX }, 0);
        assert!(read(&[contracts()], &[moved]).unwrap().is_empty());
    }

    #[test]
    fn a_transfer_is_a_payments_only_where_the_manager_makes_it() {
        let ContractSet { router, manager, .. } = contracts();
        let (number, payment_id) = (1, FixedBytes([1; 16]));
        let initiated = BatchInitiated { sequence: 1, root: B256::ZERO, count: U256::ONE };
        assert!(!is_outside(log(&router, &initiated, 0), CUSTOMER, MANAGER), "escrow");
        let cancelled = PaymentCancelled { number, paymentId: payment_id, expired: true };
        let cancelled = log(&manager, &cancelled, 0);
        assert!(!is_outside(cancelled.clone(), MANAGER, CUSTOMER), "escrow given back");
        // Anyone may expire a payment, and do something else besides.
        assert!(is_outside(cancelled.clone(), CUSTOMER, MANAGER), "a gift");
        assert!(is_outside(cancelled, CUSTOMER, ANOTHER), "custody");
        let surplus = SurplusReleased { to: Address::repeat_byte(CUSTOMER), amount: U256::ONE };
        assert!(is_outside(log(&manager, &surplus, 0), MANAGER, CUSTOMER), "a gift given back");
    }
}
