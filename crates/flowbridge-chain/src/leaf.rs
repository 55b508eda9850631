//! Leaves, roots and proofs, as `Payment.sol` has them.
//!
//! A leaf is the hash of the 256 bytes of a payment. Pairs are sorted before they are hashed, an odd node moves up
//! unchanged, a single payment is its own root.

use crate::bindings::{address, manager, router};
use alloy::primitives::{B256, FixedBytes, keccak256};
use alloy::sol_types::SolValue as _;
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::party::EvmAddress;

/// A payment as it is committed to on chain. Amounts are token units, times are block seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    /// Its number, used once for ever.
    pub number: u64,
    /// Its id.
    pub payment_id: PaymentId,
    /// Who pays.
    pub debtor: EvmAddress,
    /// Who is paid.
    pub creditor: EvmAddress,
    /// What the debtor pays.
    pub amount: u64,
    /// What of it is ours.
    pub fee: u64,
    /// Settled strictly before this block time.
    pub expires_at: u64,
    /// Where the money comes from and goes.
    pub terms: LeafTerms,
}

/// How long after the block of its initiation a payment may expire at most, in seconds: the router's `EXPIRY_MAX`.
pub const EXPIRY_SECS_MAX: u64 = 90 * 86_400;

/// Where the money of a leaf comes from and goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafTerms {
    /// From the debtor's tokens, else from the debtor's bank.
    pub token_funded: bool,
    /// To the creditor's bank, else to the creditor's wallet.
    pub paid_out_by_bank: bool,
}

impl LeafTerms {
    /// As the contracts write it.
    pub const fn bits(self) -> u8 {
        self.token_funded as u8 | (self.paid_out_by_bank as u8) << 1
    }

    /// Reads what the contracts write; `None` for bits without meaning.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        if bits > 3 {
            return None;
        }
        Some(Self { token_funded: bits & 1 != 0, paid_out_by_bank: bits & 2 != 0 })
    }
}

impl Leaf {
    /// Its hash.
    pub fn hash(&self) -> [u8; 32] {
        keccak256(self.to_router().abi_encode()).0
    }

    pub(crate) fn to_router(self) -> router::PaymentRouter::Payment {
        router::PaymentRouter::Payment {
            number: self.number,
            paymentId: FixedBytes(self.payment_id.as_uuid().into_bytes()),
            debtor: address(&self.debtor),
            creditor: address(&self.creditor),
            amount: u128::from(self.amount),
            fee: u128::from(self.fee),
            expiresAt: self.expires_at,
            terms: self.terms.bits(),
        }
    }

    pub(crate) fn to_manager(self) -> manager::SettlementManager::Payment {
        let payment = self.to_router();
        manager::SettlementManager::Payment {
            number: payment.number,
            paymentId: payment.paymentId,
            debtor: payment.debtor,
            creditor: payment.creditor,
            amount: payment.amount,
            fee: payment.fee,
            expiresAt: payment.expiresAt,
            terms: payment.terms,
        }
    }
}

/// The root over leaves in their order. Of none: zero, which no batch has.
pub fn root(leaves: &[Leaf]) -> [u8; 32] {
    let mut level: Vec<B256> = leaves.iter().map(|leaf| B256::from(leaf.hash())).collect();
    while level.len() > 1 {
        level = level_above(&level);
    }
    level.first().map_or([0; 32], |root| root.0)
}

/// What proves that the leaf at `place` is under [`root`]; empty for a batch of one.
pub fn proof(leaves: &[Leaf], place: usize) -> Vec<[u8; 32]> {
    let mut level: Vec<B256> = leaves.iter().map(|leaf| B256::from(leaf.hash())).collect();
    let mut place = place;
    let mut proof = Vec::new();
    while level.len() > 1 {
        proof.extend(level.get(place ^ 1).map(|sibling| sibling.0));
        level = level_above(&level);
        place /= 2;
    }
    proof
}

fn level_above(level: &[B256]) -> Vec<B256> {
    level
        .chunks(2)
        .map(|pair| match pair {
            [left, right] if left <= right => keccak256([left.0, right.0].concat()),
            [left, right] => keccak256([right.0, left.0].concat()),
            odd => odd.first().copied().unwrap_or_default(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn leaf(number: u64) -> Leaf {
        Leaf {
            number,
            payment_id: PaymentId::from_uuid(uuid_of(number)),
            debtor: EvmAddress::from_bytes([1; 20]),
            creditor: EvmAddress::from_bytes([2; 20]),
            amount: 100,
            fee: 1,
            expires_at: 9,
            terms: LeafTerms { token_funded: false, paid_out_by_bank: true },
        }
    }

    fn uuid_of(number: u64) -> uuid::Uuid {
        uuid::Uuid::from_u128(u128::from(number) << 64 | 7)
    }

    #[test]
    fn every_leaf_is_proven_under_its_root_and_under_no_other() {
        for size in 1..=17usize {
            let leaves: Vec<Leaf> = (0..size as u64).map(leaf).collect();
            for (place, leaf) in leaves.iter().enumerate() {
                let climbed = proof(&leaves, place).iter().fold(leaf.hash(), |node, sibling| {
                    let (low, high) = if node <= *sibling { (node, *sibling) } else { (*sibling, node) };
                    keccak256([low, high].concat()).0
                });
                assert_eq!(climbed, root(&leaves), "{place} of {size}");
            }
            assert_ne!(root(&leaves), root(&leaves[1..]), "{size}");
        }
    }
}
