//! What to do about transactions that are under way: our rows and the chain's view in, a plan out. No I/O.
//!
//! A nonce is used once on chain whatever happens, so everything hangs on it. Below the chain's count of a sender it is used:
//! by one of our versions (then a receipt says how it went) or by somebody else with our key (then none of our versions
//! can ever be included), unless that somebody was we, filling a hole while a row of ours was on its way back. From the count on
//! it waits: what a node does not know is broadcast again, what stands at the head
//! of the line for too long is signed anew with a higher fee, or broadcast again where it may offer no more. A hole below
//! something that waits is filled, because nothing above a hole is ever included. What ended badly counts only once it is final
//! enough that no reorganisation brings it back.

use crate::client::{Fees, Receipt};
use flowbridge_domain::time::Timestamp;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;

/// A transaction with a nonce that is not known to be included.
#[derive(Debug, Clone)]
pub struct InFlight<Id> {
    /// The caller's id of it.
    pub id: Id,
    /// Its nonce.
    pub nonce: u64,
    /// How far it has come.
    pub stage: Stage,
    /// Hashes of all versions ever signed.
    pub hashes: Vec<[u8; 32]>,
    /// Of the newest version.
    pub fees: TxFees,
    /// When its newest version was signed.
    pub since: Timestamp,
}

/// How far a transaction has come that has its nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Its signer has not signed.
    Numbered,
    /// Signed; whether a node has it is not known.
    Signed,
    /// Some node has taken it.
    Broadcast,
}

/// What a version offers, in wei per gas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxFees {
    /// At most, in all.
    pub fee_per_gas: u64,
    /// Of it to the block's maker.
    pub priority_fee: u64,
}

/// What the chain says about a sender.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Nonces below are used, as of the newest block.
    pub used_below: u64,
    /// Nonces below are used, as of the newest block that is final by policy.
    pub finally_used_below: u64,
    /// Nonces below are used or wait at the node without a hole.
    pub known_below: u64,
    /// The newest block that is final by policy.
    pub final_number: u64,
    /// Receipts of versions whose nonce is used, and of others that our contracts counted in the same blocks.
    pub receipts: HashMap<[u8; 32], Receipt>,
    /// Nonces that went to what we filled holes with.
    pub filled: HashSet<u64>,
}

/// Limits on fees and patience.
#[derive(Debug, Clone, Copy)]
pub struct FeePolicy {
    /// A transaction that waits at the head of the line for longer is signed anew with a higher fee.
    pub bump_after: Duration,
    /// What the node does not know is broadcast again after this long.
    pub rebroadcast_after: Duration,
    /// Wei per gas; never above.
    pub fee_per_gas_max: u64,
}

impl FeePolicy {
    /// What a first version offers: room for the base fee to double.
    pub fn first(&self, market: Fees) -> TxFees {
        self.capped(market.base.saturating_mul(2).saturating_add(market.priority), market.priority)
    }

    /// What the next version offers: at least an eighth more, which every node takes for a replacement, and what a first
    /// version would. `None` at the cap, where a further version would be refused.
    pub fn bumped(&self, last: TxFees, market: Fees) -> Option<TxFees> {
        let eighth_more = |fee: u64| fee.saturating_add(fee.div_ceil(8).max(1));
        let first = self.first(market);
        let fees = TxFees {
            fee_per_gas: eighth_more(last.fee_per_gas).max(first.fee_per_gas),
            priority_fee: eighth_more(last.priority_fee).max(first.priority_fee),
        };
        (fees.fee_per_gas <= self.fee_per_gas_max && fees.priority_fee <= fees.fee_per_gas).then_some(fees)
    }

    fn capped(&self, fee_per_gas: u64, priority_fee: u64) -> TxFees {
        let fee_per_gas = fee_per_gas.min(self.fee_per_gas_max);
        TxFees { fee_per_gas, priority_fee: priority_fee.min(fee_per_gas) }
    }
}

/// One thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action<Id> {
    /// Broadcast the newest version for the first time.
    Broadcast(Id),
    /// The node has dropped it: broadcast the newest version again.
    BroadcastAgain(Id),
    /// Sign it anew with a higher fee, and broadcast that; what cannot be offered more, as it is.
    Bump(Id),
    /// It is in this block.
    Included(Id, u64, [u8; 32]),
    /// It was reverted, and that is final: what it carried may be asked for again.
    Reverted(Id),
    /// Its nonce went to something else, and that is final: sign it anew with another nonce.
    Replaced(Id),
    /// Its nonce went to what we filled a hole with, and that is final: sign it anew with another nonce. Nobody else did that.
    Filled(Id),
    /// Nothing of ours has this nonce, and something waits above it: send nothing to ourselves with it.
    FillHole(u64),
    /// Nothing of ours has the nonce at the head of the line, and what some node has there waits: offer more for nothing.
    RaiseFiller(u64),
    /// The next signature has to take this nonce: the chain has seen more of this key than we have.
    SkipTo(u64),
}

/// What to do, in the order to do it: by nonce.
pub fn plan<Id: Copy + Eq + Hash>(
    open: &[InFlight<Id>],
    next_nonce: u64,
    view: &View,
    policy: &FeePolicy,
    now: Timestamp,
) -> Vec<Action<Id>> {
    let mut actions = Vec::new();
    if view.used_below > next_nonce {
        actions.push(Action::SkipTo(view.used_below));
    }
    let mut waiting: Vec<&InFlight<Id>> = Vec::new();
    for tx in open {
        if tx.nonce >= view.used_below {
            waiting.push(tx);
        } else {
            actions.extend(used(tx, view));
        }
    }
    waiting.sort_by_key(|tx| tx.nonce);
    actions.extend(holes(&waiting, view, policy, now));
    actions.extend(waiting.iter().filter_map(|tx| wait(tx, view, policy, now)));
    actions
}

/// The nonce of `tx` is used: by whom?
fn used<Id: Copy>(tx: &InFlight<Id>, view: &View) -> Option<Action<Id>> {
    match tx.hashes.iter().find_map(|hash| view.receipts.get(hash)) {
        Some(receipt) if receipt.succeeded => {
            Some(Action::Included(tx.id, receipt.block_number, receipt.block_hash))
        }
        Some(receipt) => (receipt.block_number <= view.final_number).then_some(Action::Reverted(tx.id)),
        None if tx.nonce >= view.finally_used_below => None,
        None if view.filled.contains(&tx.nonce) => Some(Action::Filled(tx.id)),
        None => Some(Action::Replaced(tx.id)),
    }
}

fn wait<Id: Copy>(tx: &InFlight<Id>, view: &View, policy: &FeePolicy, now: Timestamp) -> Option<Action<Id>> {
    let age = now.since(tx.since);
    if tx.stage == Stage::Numbered {
        return None;
    }
    // At the head of the line and still waiting, or refused by every node since it was signed.
    if tx.nonce == view.used_below && age >= policy.bump_after {
        return Some(Action::Bump(tx.id));
    }
    if tx.stage == Stage::Signed {
        return Some(Action::Broadcast(tx.id));
    }
    (tx.nonce >= view.known_below && age >= policy.rebroadcast_after).then_some(Action::BroadcastAgain(tx.id))
}

/// Nonces between the chain's count and what waits that nothing of ours has. A row may be on its way back from a
/// reorganisation, so this waits as long as a bump does. What fills the first of them has no row that could be bumped.
fn holes<Id>(waiting: &[&InFlight<Id>], view: &View, policy: &FeePolicy, now: Timestamp) -> Vec<Action<Id>> {
    let Some(highest) = waiting.last().map(|tx| tx.nonce) else { return vec![] };
    if !waiting.iter().any(|tx| now.since(tx.since) >= policy.bump_after) {
        return vec![];
    }
    let is_hole = |nonce: &u64| waiting.iter().all(|tx| tx.nonce != *nonce);
    let head = Some(view.used_below).filter(|nonce| *nonce < view.known_below.min(highest) && is_hole(nonce));
    let unknown = view.used_below.max(view.known_below)..highest;
    let fillings = unknown.filter(is_hole).take(HOLES_AT_ONCE_MAX).map(Action::FillHole);
    head.map(Action::RaiseFiller).into_iter().chain(fillings).collect()
}

const HOLES_AT_ONCE_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: FeePolicy = FeePolicy {
        bump_after: Duration::from_secs(10),
        rebroadcast_after: Duration::from_secs(2),
        fee_per_gas_max: 1_000,
    };
    const NOW: Timestamp = Timestamp::from_secs(1_000);

    fn tx(nonce: u64, age_secs: i64) -> InFlight<u64> {
        InFlight {
            id: nonce,
            nonce,
            stage: Stage::Broadcast,
            hashes: vec![hash(nonce, 0), hash(nonce, 1)],
            fees: TxFees { fee_per_gas: 80, priority_fee: 8 },
            since: Timestamp::from_secs(1_000 - age_secs),
        }
    }

    fn hash(nonce: u64, version: u8) -> [u8; 32] {
        let mut hash = [version; 32];
        hash[..8].copy_from_slice(&nonce.to_be_bytes());
        hash
    }

    fn receipt(succeeded: bool, block_number: u64) -> Receipt {
        Receipt { succeeded, block_number, block_hash: [9; 32], gas_used: 1, created: None }
    }

    fn planned(open: &[InFlight<u64>], view: &View) -> Vec<Action<u64>> {
        let next = open.iter().map(|tx| tx.nonce + 1).max().unwrap_or(0);
        plan(open, next, view, &POLICY, NOW)
    }

    #[test]
    fn whichever_version_is_in_a_block_counts() {
        let receipts = HashMap::from([(hash(4, 0), receipt(true, 7))]);
        let view = View { used_below: 5, known_below: 5, receipts, ..View::default() };
        assert_eq!(planned(&[tx(4, 60)], &view), [Action::Included(4, 7, [9; 32])]);
    }

    #[test]
    fn a_revert_and_a_foreign_transaction_count_once_they_are_final() {
        let receipts = HashMap::from([(hash(4, 1), receipt(false, 7))]);
        let mut view = View { used_below: 6, known_below: 6, receipts, ..View::default() };
        view.final_number = 6;
        view.finally_used_below = 4;
        assert_eq!(planned(&[tx(4, 60), tx(5, 60)], &view), []);
        view.final_number = 7;
        view.finally_used_below = 6;
        assert_eq!(planned(&[tx(4, 60), tx(5, 60)], &view), [Action::Reverted(4), Action::Replaced(5)]);
    }

    #[test]
    fn what_comes_back_to_a_nonce_that_we_filled_meanwhile_blames_nobody() {
        let filled = HashSet::from([4]);
        let mut view = View { used_below: 6, known_below: 6, filled, ..View::default() };
        assert_eq!(planned(&[tx(4, 60), tx(5, 60)], &view), [], "first it has to be final");
        view.finally_used_below = 6;
        assert_eq!(planned(&[tx(4, 60), tx(5, 60)], &view), [Action::Filled(4), Action::Replaced(5)]);
    }

    #[test]
    fn only_the_head_of_the_line_is_bumped_and_what_the_node_dropped_is_sent_again() {
        let view = View { used_below: 4, known_below: 6, ..View::default() };
        let open = [tx(4, 10), tx(5, 10), tx(6, 3), tx(7, 1)];
        assert_eq!(planned(&open, &view), [Action::Bump(4), Action::BroadcastAgain(6)]);
    }

    #[test]
    fn what_was_signed_and_never_sent_is_sent_after_a_restart() {
        let unsent = InFlight { stage: Stage::Signed, ..tx(4, 0) };
        let view = View { used_below: 4, known_below: 4, ..View::default() };
        assert_eq!(planned(&[unsent], &view), [Action::Broadcast(4)]);
    }

    #[test]
    fn what_waits_for_its_signer_keeps_its_nonce() {
        let unsigned = InFlight { stage: Stage::Numbered, hashes: vec![], ..tx(4, 60) };
        let view = View { used_below: 4, known_below: 4, ..View::default() };
        assert_eq!(
            planned(&[unsigned, tx(5, 60)], &view),
            [Action::BroadcastAgain(5)],
            "and no hole is filled"
        );
    }

    #[test]
    fn what_no_node_takes_because_the_market_rose_is_offered_more_in_the_end() {
        let refused = InFlight { stage: Stage::Signed, ..tx(4, 10) };
        let view = View { used_below: 4, known_below: 4, ..View::default() };
        assert_eq!(planned(&[refused], &view), [Action::Bump(4)]);
    }

    #[test]
    fn holes_below_what_waits_are_filled_and_a_nonce_that_ran_ahead_is_caught_up_with() {
        let view = View { used_below: 3, known_below: 3, ..View::default() };
        assert_eq!(planned(&[tx(5, 1)], &view), [], "first it is given time to heal");
        assert_eq!(
            planned(&[tx(5, 10)], &view),
            [Action::FillHole(3), Action::FillHole(4), Action::BroadcastAgain(5)]
        );
        let view = View { used_below: 9, known_below: 9, ..View::default() };
        assert_eq!(plan::<u64>(&[], 7, &view, &POLICY, NOW), [Action::SkipTo(9)]);
    }

    #[test]
    fn a_hole_at_the_head_of_the_line_is_offered_more_for_while_what_fills_it_waits() {
        let view = View { used_below: 3, known_below: 5, ..View::default() };
        assert_eq!(planned(&[tx(4, 1)], &view), []);
        assert_eq!(planned(&[tx(4, 10)], &view), [Action::RaiseFiller(3)]);
    }

    #[test]
    fn a_bump_is_a_replacement_for_every_node_and_stops_at_the_cap() {
        let market = Fees { base: 10, priority: 2 };
        assert_eq!(POLICY.first(market), TxFees { fee_per_gas: 22, priority_fee: 2 });
        let mut fees = POLICY.first(market);
        let mut versions = 0;
        while let Some(next) = POLICY.bumped(fees, market) {
            assert!(next.fee_per_gas * 10 >= fees.fee_per_gas * 11 && next.priority_fee > fees.priority_fee);
            fees = next;
            versions += 1;
        }
        assert!(fees.fee_per_gas <= 1_000 && fees.fee_per_gas > 880 && versions > 10);
        let spike = Fees { base: 400, priority: 2 };
        let last = TxFees { fee_per_gas: 22, priority_fee: 2 };
        assert_eq!(POLICY.bumped(last, spike), Some(TxFees { fee_per_gas: 802, priority_fee: 3 }));
    }
}
