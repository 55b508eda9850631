//! What `contracts/artifacts` say, as types. Two contracts share a struct, so each has a module of its own.

use alloy::primitives::{Address, B256};
use flowbridge_domain::party::EvmAddress;

pub(crate) mod token {
    alloy::sol!(TokenizedCash, "../../contracts/artifacts/TokenizedCash.json");
}

#[expect(clippy::too_many_arguments, reason = "generated")]
pub(crate) mod router {
    alloy::sol!(PaymentRouter, "../../contracts/artifacts/PaymentRouter.json");
}

pub(crate) mod manager {
    alloy::sol!(SettlementManager, "../../contracts/artifacts/SettlementManager.json");
}

pub(crate) mod vault {
    alloy::sol!(MultiSigVault, "../../contracts/artifacts/MultiSigVault.json");
}

pub(crate) mod anchor {
    alloy::sol!(AuditAnchor, "../../contracts/artifacts/AuditAnchor.json");
}

pub(crate) fn address(address: &EvmAddress) -> Address {
    Address::from(*address.as_bytes())
}

pub(crate) fn evm_address(address: Address) -> EvmAddress {
    EvmAddress::from_bytes(address.into_array())
}

/// An address, but for the zero address, which stands for "nobody".
pub(crate) fn wallet(address: Address) -> Option<EvmAddress> {
    (!address.is_zero()).then(|| evm_address(address))
}

pub(crate) fn hash(hash: &[u8; 32]) -> B256 {
    B256::from(*hash)
}
