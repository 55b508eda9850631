//! What we call, as calldata. Pure: the same input gives the same bytes.

use crate::bindings::{address, anchor, hash, manager, router, token};
use crate::leaf::Leaf;
use alloy::primitives::{B256, U256};
use alloy::sol_types::SolCall as _;
use anchor::AuditAnchor as Anchor;
use flowbridge_domain::party::EvmAddress;
use manager::SettlementManager as Manager;
use router::PaymentRouter as Router;
use token::TokenizedCash as Token;

/// A debtor's ERC-3009 `ReceiveWithAuthorization` towards the manager. Times are block seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authorization {
    /// Valid after this block time.
    pub valid_after: u64,
    /// Valid before this block time.
    pub valid_before: u64,
    /// Drawn by the debtor.
    pub nonce: [u8; 32],
    /// Recovery id, 27 or 28.
    pub v: u8,
    /// Signature.
    pub r: [u8; 32],
    /// Signature.
    pub s: [u8; 32],
}

/// To the router: opens payments, all funded the same way.
pub fn initiate_batch(leaves: &[Leaf], initiate_before: u64) -> Vec<u8> {
    let payments = leaves.iter().map(|leaf| leaf.to_router()).collect();
    Router::initiateBatchCall { payments, initiateBefore: initiate_before }.abi_encode()
}

/// To the router: opens one payment by the debtor's signature.
pub fn initiate_with_authorization(leaf: &Leaf, initiate_before: u64, signed: &Authorization) -> Vec<u8> {
    Router::initiateWithAuthorizationCall {
        payment: leaf.to_router(),
        initiateBefore: initiate_before,
        authorization: Router::Authorization {
            validAfter: U256::from(signed.valid_after),
            validBefore: U256::from(signed.valid_before),
            nonce: hash(&signed.nonce),
            v: signed.v,
            r: hash(&signed.r),
            s: hash(&signed.s),
        },
    }
    .abi_encode()
}

/// What is done to payments whose leaves are on chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OnLeaves {
    /// Pay.
    Settle,
    /// Close.
    Cancel,
    /// Burn what is in redemption escrow.
    Burn,
    /// Give what is in redemption escrow to the creditor. One at a time.
    ReleaseRedemption,
}

/// To the manager: acts on the leaves of a whole batch that stand at `places`. One place alone is done by proof, which
/// costs less than supplying a batch of more than a few. `None` for a place outside the batch, for no place, and for
/// [`OnLeaves::ReleaseRedemption`] of several, which the contract does not have.
pub fn on_leaves(what: OnLeaves, batch: &[Leaf], places: &[usize]) -> Option<Vec<u8>> {
    if let [place] = places {
        return Some(on_one(what, batch.get(*place)?, crate::leaf::proof(batch, *place)));
    }
    if places.is_empty() || places.iter().any(|place| *place >= batch.len()) {
        return None;
    }
    let payments = batch.iter().map(|leaf| leaf.to_manager()).collect();
    let picks = picks(batch.len(), places);
    match what {
        OnLeaves::Settle => Some(Manager::settleBatchCall { payments, picks }.abi_encode()),
        OnLeaves::Cancel => Some(Manager::cancelBatchCall { payments, picks }.abi_encode()),
        OnLeaves::Burn => Some(Manager::burnRedeemedBatchCall { payments, picks }.abi_encode()),
        OnLeaves::ReleaseRedemption => None,
    }
}

fn on_one(what: OnLeaves, leaf: &Leaf, proof: Vec<[u8; 32]>) -> Vec<u8> {
    let payment = leaf.to_manager();
    let proof: Vec<B256> = proof.into_iter().map(B256::from).collect();
    match what {
        OnLeaves::Settle => Manager::settleCall { payment, proof }.abi_encode(),
        OnLeaves::Cancel => Manager::cancelCall { payment, proof }.abi_encode(),
        OnLeaves::Burn => Manager::burnRedeemedCall { payment, proof }.abi_encode(),
        OnLeaves::ReleaseRedemption => Manager::releaseRedemptionCall { payment, proof }.abi_encode(),
    }
}

/// To the manager: closes an expired payment; anyone may.
pub fn expire(batch: &[Leaf], place: usize) -> Option<Vec<u8>> {
    let payment = batch.get(place)?.to_manager();
    let proof = crate::leaf::proof(batch, place).into_iter().map(B256::from).collect();
    Some(Manager::expireCall { payment, proof }.abi_encode())
}

/// To the token: lets wallets hold it.
pub fn register_wallets(wallets: &[EvmAddress]) -> Vec<u8> {
    Token::registerWalletsCall { wallets: wallets.iter().map(address).collect() }.abi_encode()
}

/// To the token: a wallet may neither send nor receive.
pub fn freeze(wallet: &EvmAddress) -> Vec<u8> {
    Token::freezeCall { wallet: address(wallet) }.abi_encode()
}

/// To the token: undoes [`freeze`].
pub fn unfreeze(wallet: &EvmAddress) -> Vec<u8> {
    Token::unfreezeCall { wallet: address(wallet) }.abi_encode()
}

/// To the manager: stops settlement and redemption, never cancellation.
pub fn pause() -> Vec<u8> {
    Manager::pauseCall {}.abi_encode()
}

/// To the manager: undoes [`pause`].
pub fn unpause() -> Vec<u8> {
    Manager::unpauseCall {}.abi_encode()
}

/// To the manager: what waits there for a wallet goes where compliance says.
pub fn release_quarantine(wallet: &EvmAddress, to: &EvmAddress) -> Vec<u8> {
    Manager::releaseQuarantineCall { wallet: address(wallet), to: address(to) }.abi_encode()
}

/// To the manager: what came there for no payment goes where compliance says.
pub fn release_surplus(to: &EvmAddress) -> Vec<u8> {
    Manager::releaseSurplusCall { to: address(to) }.abi_encode()
}

/// To the token, from a debtor's wallet: the manager may take `units` for token-funded payments.
pub fn approve(manager: &EvmAddress, units: u64) -> Vec<u8> {
    Token::approveCall { spender: address(manager), value: U256::from(units) }.abi_encode()
}

/// To the token, from a wallet: a transfer outside any payment.
pub fn transfer(to: &EvmAddress, units: u64) -> Vec<u8> {
    Token::transferCall { to: address(to), value: U256::from(units) }.abi_encode()
}

/// To the audit log's anchor: the log had this root when it had that many entries.
pub fn anchor(root: &[u8; 32], size: u64) -> Vec<u8> {
    Anchor::anchorCall { root: hash(root), size_: size }.abi_encode()
}

/// Bit i of word i / 256 picks the leaf at place i.
fn picks(size: usize, places: &[usize]) -> Vec<U256> {
    let mut words = vec![U256::ZERO; size.div_ceil(256)];
    for place in places {
        if let Some(word) = words.get_mut(place / 256) {
            word.set_bit(place % 256, true);
        }
    }
    words
}
