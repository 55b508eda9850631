//! What a ZKsync chain does otherwise, by a simulation before Anvil (`flowbridge_embedded::shim`).

use crate::node::{Node, Notebook, Who};
use flowbridge_chain::watch::{Finality, Head};
use flowbridge_chain::{Chain as _, HttpChain, Said, call};
use flowbridge_embedded::shim::{Batches, Shim, Zks};
use serde_json::{Value, json};
use std::time::Duration;

/// More logs than the fullest block has, in which ten wallets are registered.
const LOGS_MAX: usize = 12;
const ZKS: Zks = Zks {
    batches: Batches::Era,
    batch_blocks: 5,
    commit_lag: 1,
    execute_lag: 3,
    pubdata_percent: 60,
    estimate_percent: 100,
    gas_max: u64::MAX,
    logs_max: LOGS_MAX,
};

async fn before(node: &Node, logs_max: usize) -> (Shim, HttpChain) {
    let shim = Shim::start(&node.anvil.rpc_url(), Some(Zks { logs_max, ..ZKS })).await.unwrap();
    let chain = HttpChain::connect(&shim.url(), 31337, Duration::from_secs(10)).await.unwrap();
    (shim, chain)
}

#[tokio::test(flavor = "multi_thread")]
async fn finality_comes_by_batches_and_a_block_can_say_which_is_its_own() {
    let node = Node::start().await;
    node.anvil.freeze();
    node.anvil.mine(40).unwrap();
    let (_shim, chain) = before(&node, LOGS_MAX).await;
    assert!(chain.has_l1_batches().await.unwrap());
    assert!(!node.chain.has_l1_batches().await.unwrap(), "Anvil alone has none");
    let head = Head::read(&chain).await.unwrap();
    assert!(head.finalized.number < head.safe.number && head.safe.number < head.latest.number);
    assert_eq!((head.safe.number + 1) % 5, 0, "whole batches only");
    assert_eq!(Finality::Safe.final_number(&head), head.safe.number);
    let committed = chain.l1_batch(head.safe.number).await.unwrap().unwrap();
    assert_eq!(committed.number, head.safe.number / 5);
    assert!(committed.commit_tx.is_some() && committed.execute_tx.is_none());
    let executed = chain.l1_batch(head.finalized.number).await.unwrap().unwrap();
    assert!(executed.prove_tx.is_some() && executed.execute_tx.is_some());
    let newest = chain.l1_batch(head.latest.number).await.unwrap().unwrap();
    assert!(newest.commit_tx.is_none());
    assert_eq!(node.chain.l1_batch(1).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_of_zksync_os_says_its_batch_when_that_is_executed_by_whatever_method_the_chain_has() {
    let node = Node::start().await;
    node.anvil.freeze();
    node.anvil.mine(40).unwrap();
    for batches in [Batches::Os, Batches::OsUnstable] {
        let shim = Shim::start(&node.anvil.rpc_url(), Some(Zks { batches, ..ZKS })).await.unwrap();
        let chain = HttpChain::connect(&shim.url(), 31337, Duration::from_secs(10)).await.unwrap();
        assert!(chain.has_l1_batches().await.unwrap());
        let head = Head::read(&chain).await.unwrap();
        assert_eq!(chain.l1_batch(head.latest.number).await.unwrap(), None, "{batches:?}");
        assert_eq!(chain.l1_batch(head.safe.number).await.unwrap(), None, "{batches:?}");
        let executed = chain.l1_batch(head.finalized.number).await.unwrap().unwrap();
        assert_eq!((executed.number, executed.is_executed), (head.finalized.number / 5, true), "{batches:?}");
        assert_eq!(executed.execute_tx, None, "nobody names it");
        // What has answered once is asked first.
        let asked = shim.questions();
        chain.l1_batch(head.finalized.number).await.unwrap();
        assert_eq!(shim.questions(), asked + 1, "{batches:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn system_transactions_stop_nobody_because_nobody_asks_for_blocks_with_their_transactions() {
    let mut node = Node::start().await;
    let batch = [node.leaf(0, 2).await, node.leaf(1, 3).await];
    let initiate = call::initiate_batch(&batch, node.in_an_hour().await);
    let sent = node.send(Who::Initiator, node.contracts.router, &initiate).await.unwrap();
    // So few logs at once that blocks are also read from their receipts, that of the system transaction among them.
    let (shim, chain) = before(&node, 1).await;
    let client = alloy::rpc::client::ClientBuilder::default().http(shim.url().parse().unwrap());
    for number in [sent.block_number, sent.block_number + 1] {
        node.anvil.mine(1).unwrap();
        let asked = json!([format!("{number:#x}"), true]);
        let block: Value = client.request("eth_getBlockByNumber", asked).await.unwrap();
        let system = &block["transactions"][0];
        assert!(["0x7e", "0x7f"].contains(&system["type"].as_str().unwrap()), "{system}");
        let read = serde_json::from_value::<alloy::rpc::types::Transaction>(system.clone());
        assert!(read.is_err(), "a client of Ethereum's can read it");
    }
    assert_eq!(shim.whole_blocks(), 2, "ours, to see what they are like");

    node.chain = chain;
    let mut notebook = Notebook::at_the_deployment(&node);
    notebook.catch_up(&node).await.unwrap();
    let initiated = notebook.announced.iter().filter(|log| matches!(log.said, Said::Payment { .. })).count();
    assert_eq!(initiated, 2);
    let cancel = call::on_leaves(call::OnLeaves::Cancel, &batch, &[0, 1]).unwrap();
    node.send(Who::Canceller, node.contracts.manager, &cancel).await.unwrap();
    notebook.catch_up(&node).await.unwrap();
    assert_eq!(shim.whole_blocks(), 2, "neither who sends nor who watches");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_with_too_many_results_is_halved_and_nothing_is_missed() {
    let mut node = Node::start().await;
    let before_it = node.in_an_hour().await;
    for number in 0..6 {
        let initiate = call::initiate_batch(&[node.leaf(number, 2).await], before_it);
        node.send(Who::Initiator, node.contracts.router, &initiate).await.unwrap();
    }
    node.anvil.freeze();
    node.anvil.mine(100).unwrap();
    let mut direct = Notebook::at_the_deployment(&node);
    direct.catch_up(&node).await.unwrap();
    let (shim, chain) = before(&node, LOGS_MAX).await;
    node.chain = chain;
    let mut notebook = Notebook::at_the_deployment(&node);
    notebook.catch_up(&node).await.unwrap();
    assert!(shim.too_many_results() > 0, "the limit was met");
    assert_eq!(notebook.announced, direct.announced);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_with_more_logs_than_a_query_may_have_is_read_from_its_receipts() {
    let mut node = Node::start().await;
    let batch = [node.leaf(0, 2).await, node.leaf(1, 3).await];
    let initiate = call::initiate_batch(&batch, node.in_an_hour().await);
    node.send(Who::Initiator, node.contracts.router, &initiate).await.unwrap();
    node.anvil.freeze();
    node.anvil.mine(100).unwrap();
    let mut direct = Notebook::at_the_deployment(&node);
    direct.catch_up(&node).await.unwrap();
    let (shim, chain) = before(&node, 1).await;
    node.chain = chain;
    // Deep below the head, where logs are asked for by ranges, and near it, by the hash of each block.
    for depth in [8, 1_000] {
        let mut notebook = Notebook::at_the_deployment(&node);
        notebook.settings.reorg_depth_blocks_max = depth;
        notebook.catch_up(&node).await.unwrap();
        assert_eq!(notebook.announced, direct.announced);
    }
    assert!(shim.too_many_results() > 0, "the limit was met");
}

#[tokio::test(flavor = "multi_thread")]
async fn gas_for_pubdata_is_in_the_estimate() {
    let node = Node::start().await;
    let (_shim, chain) = before(&node, LOGS_MAX).await;
    let initiate = call::initiate_batch(&[node.leaf(0, 2).await], node.in_an_hour().await);
    let from = crate::node::key(Who::Initiator).address();
    let plain = node.chain.estimate(&from, Some(&node.contracts.router), &initiate).await.unwrap();
    let with_pubdata = chain.estimate(&from, Some(&node.contracts.router), &initiate).await.unwrap();
    assert!(with_pubdata >= plain + plain / 2, "{with_pubdata} against {plain}");
}
