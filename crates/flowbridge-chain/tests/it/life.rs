//! What our bytes do in the contracts.

use crate::node::{Node, Notebook, Who, key, wallet};
use flowbridge_chain::call::{self, OnLeaves};
use flowbridge_chain::deploy::{self, Roles};
use flowbridge_chain::leaf::{EXPIRY_SECS_MAX, LeafTerms};
use flowbridge_chain::{At, Chain as _, ChainError, Counted, Leaf, Refusal, Said, vault};
use flowbridge_domain::payment::{ChainLog, SetAside};

fn of(notebook: &Notebook, leaf: &Leaf) -> Vec<ChainLog> {
    notebook
        .announced
        .iter()
        .filter_map(|log| match log.said {
            Said::Payment { payment_id, log, .. } if payment_id == leaf.payment_id => Some(log),
            Said::Payment { .. }
            | Said::Skipped { .. }
            | Said::Transfer { .. }
            | Said::Quarantined { .. }
            | Said::QuarantineReleased { .. }
            | Said::Totals(_)
            | Said::BatchInitiated { .. } => None,
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_settles_in_parts_around_a_frozen_creditor_and_a_straggler() {
    let node = Node::start().await;
    let mut batch = Vec::new();
    for (number, creditor) in [(0, 2), (1, 3), (2, 4), (3, 2), (4, 5)] {
        batch.push(node.leaf(number, creditor).await);
    }
    let router = node.contracts.router;
    let initiate = call::initiate_batch(&batch, node.in_an_hour().await);
    node.send(Who::Initiator, router, &initiate).await.unwrap();
    node.send(Who::Guardian, node.contracts.token, &call::freeze(&wallet(4))).await.unwrap();
    let manager = node.contracts.manager;
    let settle = call::on_leaves(OnLeaves::Settle, &batch, &[0, 2, 3]).unwrap();
    node.send(Who::Settler, manager, &settle).await.unwrap();
    let straggler = call::on_leaves(OnLeaves::Settle, &batch, &[1]).unwrap();
    node.send(Who::Settler, manager, &straggler).await.unwrap();
    let cancel = call::on_leaves(OnLeaves::Cancel, &batch, &[2, 4]).unwrap();
    node.send(Who::Canceller, manager, &cancel).await.unwrap();
    let again = call::on_leaves(OnLeaves::Settle, &batch, &[4]).unwrap();
    node.send(Who::Settler, manager, &again).await.unwrap();

    let mut notebook = Notebook::at_the_deployment(&node);
    notebook.catch_up(&node).await.unwrap();
    let settled = [ChainLog::Initiated, ChainLog::Settled];
    for place in [0, 1, 3] {
        assert_eq!(of(&notebook, &batch[place]), settled, "{place}");
    }
    let frozen = ChainLog::SettlementSetAside(SetAside::Frozen);
    assert_eq!(of(&notebook, &batch[2]), [ChainLog::Initiated, frozen, ChainLog::Cancelled]);
    assert_eq!(of(&notebook, &batch[4]), [ChainLog::Initiated, ChainLog::Cancelled]);
    let skipped = Said::Skipped { payment_id: batch[4].payment_id, status: 3 };
    assert!(
        notebook.announced.iter().any(|log| log.said == skipped),
        "a late settle says so and moves nothing"
    );
    let totals: Vec<_> = notebook
        .announced
        .iter()
        .filter_map(|log| if let Said::Totals(totals) = log.said { Some(totals) } else { None })
        .collect();
    assert!(totals.iter().zip(1..).all(|(totals, expected)| totals.sequence == expected));
    assert_eq!(totals.last().unwrap().minted, 30_000);
    assert_eq!(deploy::balance(&node.chain, &node.contracts, &wallet(2)).await.unwrap(), 19_800);
    assert_eq!(deploy::balance(&node.chain, &node.contracts, &wallet(0xfe)).await.unwrap(), 300);
    let outside = |log: &flowbridge_chain::SeenLog| matches!(log.said, Said::Transfer { outside: true, .. });
    assert!(!notebook.announced.iter().any(outside), "all that moved, moved for payments");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_through_is_counted_where_its_receipt_says_and_what_was_reverted_is_not() {
    let node = Node::start().await;
    let start = node.chain.block(At::Latest).await.unwrap().unwrap().number;
    let batch = [node.leaf(0, 2).await, node.leaf(1, 3).await];
    let (router, manager) = (node.contracts.router, node.contracts.manager);
    let initiate = call::initiate_batch(&batch, node.in_an_hour().await);
    let on_second = |what| call::on_leaves(what, &batch, &[1]).unwrap();
    let mut places = Vec::new();
    for (who, to, calldata) in [
        (Who::Initiator, router, initiate.clone()),
        (Who::Settler, manager, call::on_leaves(OnLeaves::Settle, &batch, &[0]).unwrap()),
        (Who::Canceller, manager, on_second(OnLeaves::Cancel)),
        // Too late, which moves nothing.
        (Who::Settler, manager, on_second(OnLeaves::Settle)),
    ] {
        let receipt = node.send(who, to, &calldata).await.unwrap();
        places.push((receipt.block_number, receipt.block_hash));
    }
    let repeated = node.send_blindly(Who::Initiator, router, &initiate).await;
    assert!(!repeated.succeeded, "its numbers are used");

    let counted = node.chain.counted(start, repeated.block_number, &[router, manager]).await.unwrap();
    let of = |counted: &Counted| (counted.block_number, counted.block_hash);
    assert_eq!(counted.iter().map(of).collect::<Vec<_>>(), places);
    for counted in counted {
        let receipt = node.chain.receipt(counted.tx_hash).await.unwrap().unwrap();
        assert_eq!((receipt.succeeded, receipt.block_hash), (true, counted.block_hash));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_debtor_without_funds_is_set_aside_and_transfers_of_its_own_are_seen_as_such() {
    let node = Node::start().await;
    let debtor = key(Who::Debtor).address();
    let issued = Leaf { creditor: debtor, ..node.leaf(0, 2).await };
    let before = node.in_an_hour().await;
    let router = node.contracts.router;
    node.send(Who::Initiator, router, &call::initiate_batch(&[issued], before)).await.unwrap();
    let manager = node.contracts.manager;
    let settle = call::on_leaves(OnLeaves::Settle, &[issued], &[0]).unwrap();
    node.send(Who::Settler, manager, &settle).await.unwrap();
    node.send(Who::Debtor, node.contracts.token, &call::approve(&manager, 9_000)).await.unwrap();
    node.send(Who::Debtor, node.contracts.token, &call::transfer(&wallet(7), 1_000)).await.unwrap();
    let terms = LeafTerms { token_funded: true, paid_out_by_bank: true };
    let paid = Leaf { debtor, terms, amount: 8_000, ..node.leaf(1, 3).await };
    let unfunded = Leaf { debtor, terms, amount: 8_000, ..node.leaf(2, 3).await };
    let batch = [paid, unfunded];
    node.send(Who::Initiator, router, &call::initiate_batch(&batch, before)).await.unwrap();
    node.send(Who::Settler, manager, &call::on_leaves(OnLeaves::Settle, &batch, &[0]).unwrap())
        .await
        .unwrap();
    node.send(Who::Settler, manager, &call::on_leaves(OnLeaves::Burn, &batch, &[0]).unwrap()).await.unwrap();

    let mut notebook = Notebook::at_the_deployment(&node);
    notebook.catch_up(&node).await.unwrap();
    let life = [ChainLog::Initiated, ChainLog::Settled, ChainLog::RedemptionBurned];
    assert_eq!(of(&notebook, &paid), life);
    assert_eq!(of(&notebook, &unfunded), [ChainLog::InitiationSetAside(SetAside::NotFunded)]);
    let outside: Vec<_> = notebook
        .announced
        .iter()
        .filter(|log| matches!(log.said, Said::Transfer { outside: true, .. }))
        .map(|log| log.said)
        .collect();
    let own = Said::Transfer { from: Some(debtor), to: Some(wallet(7)), units: 1_000, outside: true };
    assert_eq!(outside, [own]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_contracts_would_refuse_is_known_before_it_is_sent() {
    let node = Node::start().await;
    let before = node.in_an_hour().await;
    // As far ahead as may be, seen from the newest block.
    let longest = before - 3_600 + EXPIRY_SECS_MAX;
    let batch = [node.leaf(0, 2).await, Leaf { expires_at: longest, ..node.leaf(1, 2).await }];
    let (router, manager) = (node.contracts.router, node.contracts.manager);
    let initiate = call::initiate_batch(&batch, before);
    let refused = async |who, to, calldata: Vec<u8>| match node.send(who, to, &calldata).await {
        Err(ChainError::Reverted(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(Who::Settler, router, initiate.clone()).await, Refusal::NotAllowed);
    assert_eq!(refused(Who::Initiator, router, call::initiate_batch(&batch, 1)).await, Refusal::TooLate);
    let settle = call::on_leaves(OnLeaves::Settle, &batch, &[0, 1]).unwrap();
    assert_eq!(refused(Who::Settler, manager, settle.clone()).await, Refusal::UnknownBatch);
    let expired = Leaf { expires_at: 1, ..batch[1] };
    let too_long = Leaf { expires_at: before + EXPIRY_SECS_MAX, ..batch[1] };
    for unfit in [expired, too_long] {
        let with_unfit = call::initiate_batch(&[batch[0], unfit], before);
        assert_eq!(refused(Who::Initiator, router, with_unfit).await, Refusal::InvalidPayment(1));
    }
    node.send(Who::Initiator, router, &initiate).await.unwrap();
    assert_eq!(refused(Who::Initiator, router, initiate).await, Refusal::NumberUsed(0));
    let huge = Leaf { amount: 2_000_000_000, ..node.leaf(5, 2).await };
    node.send(Who::Initiator, router, &call::initiate_batch(&[huge], before)).await.unwrap();
    let left = deploy::mint_allowance(&node.chain, &node.contracts).await.unwrap();
    let settle_huge = call::on_leaves(OnLeaves::Settle, &[huge], &[0]).unwrap();
    assert_eq!(refused(Who::Settler, manager, settle_huge).await, Refusal::MintAllowanceExceeded(left));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_is_not_what_its_record_says_is_found_out() {
    let node = Node::start().await;
    assert_eq!(deploy::verify(&node.chain, &node.deployment).await.unwrap(), Vec::<String>::new());
    let mut wrong = node.deployment.clone();
    std::mem::swap(&mut wrong.token, &mut wrong.router);
    wrong.roles.settler = wrong.roles.initiator.clone();
    let problems = deploy::verify(&node.chain, &wrong).await;
    assert!(!problems.is_ok_and(|problems| problems.is_empty()));
    let mut elsewhere = node.deployment.clone();
    elsewhere.manager.address = wallet(0x77).to_string();
    assert!(deploy::verify(&node.chain, &elsewhere).await.unwrap()[0].contains("no code"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_changed_and_a_frozen_house_are_told_and_keep_nobody_from_signing() {
    let node = Node::start().await;
    let router = node.contracts.router;
    let (old, new) = (key(Who::Initiator).address(), key(Who::Debtor).address());
    let rotation = [
        vault::grant_role(&router, "INITIATOR_ROLE", &new),
        vault::revoke_role(&router, "INITIATOR_ROLE", &old),
    ];
    for step in rotation {
        node.send(Who::Deployer, step.to, &step.data).await.unwrap();
    }
    let freeze = call::freeze(&node.contracts.house);
    node.send(Who::Guardian, node.contracts.token, &freeze).await.unwrap();

    let recorded = &node.deployment.roles;
    let rotated = Roles { initiator: new.to_string(), ..recorded.clone() };
    let nothing = Vec::<String>::new();
    assert_eq!(deploy::verify_contracts(&node.chain, &node.deployment).await.unwrap(), nothing);
    assert_eq!(deploy::verify_lanes(&node.chain, &node.contracts, &rotated).await.unwrap(), nothing);
    let unchanged = deploy::verify_lanes(&node.chain, &node.contracts, recorded).await.unwrap();
    let lost = format!("{old} has no INITIATOR_ROLE on the Router");
    assert!(unchanged.len() == 1 && unchanged[0].starts_with(&lost), "{unchanged:?}");
    let told = [lost, "the house's wallet is not registered, or frozen".to_owned()];
    assert_eq!(deploy::verify(&node.chain, &node.deployment).await.unwrap(), told);
}
