//! The watcher's core against a chain that goes back, stands still, restarts and has grown without us.

use crate::node::{Node, Notebook, Who};
use flowbridge_chain::call::{self, OnLeaves};
use flowbridge_chain::watch::{Bell, Finality, Socket};
use flowbridge_chain::{At, Bearer, Chain as _, ChainError, HttpChain, Said};
use flowbridge_embedded::shim::SocketLine;
use serde_json::json;
use std::time::Duration;

fn payments(logs: &[flowbridge_chain::SeenLog]) -> usize {
    logs.iter().filter(|log| matches!(log.said, Said::Payment { .. })).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorganisation_of_three_blocks_takes_logs_back_and_they_are_seen_again() {
    let node = Node::start().await;
    let batch = [node.leaf(0, 2).await, node.leaf(1, 3).await];
    let mut notebook = Notebook::at_the_deployment(&node);
    notebook.catch_up(&node).await.unwrap();
    let initiate = call::initiate_batch(&batch, node.in_an_hour().await);
    node.send(Who::Initiator, node.contracts.router, &initiate).await.unwrap();
    node.anvil.freeze();
    notebook.catch_up(&node).await.unwrap();
    assert_eq!((payments(&notebook.announced), payments(&notebook.removed)), (2, 0));
    let newest = node.chain.block(At::Latest).await.unwrap().unwrap().number;
    let with_logs = notebook.announced.last().unwrap().block_number;
    let depth = (newest - with_logs + 1).max(3);
    node.command("anvil_reorg", json!([depth, []])).await;
    notebook.catch_up(&node).await.unwrap();
    assert_eq!((payments(&notebook.announced), payments(&notebook.removed)), (0, 2));

    node.anvil.thaw();
    node.send(Who::Initiator, node.contracts.router, &initiate).await.unwrap();
    let settle = call::on_leaves(OnLeaves::Settle, &batch, &[0, 1]).unwrap();
    node.send(Who::Settler, node.contracts.manager, &settle).await.unwrap();
    notebook.catch_up(&node).await.unwrap();
    assert_eq!((payments(&notebook.announced), payments(&notebook.removed)), (4, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorganisation_below_all_that_is_remembered_wants_a_person() {
    let node = Node::start().await;
    let mut notebook = Notebook::at_the_deployment(&node);
    notebook.catch_up(&node).await.unwrap();
    node.anvil.freeze();
    node.anvil.mine(6).unwrap();
    notebook.catch_up(&node).await.unwrap();
    notebook.place.known.truncate(3);
    node.command("anvil_reorg", json!([5, []])).await;
    let oldest = notebook.place.number - 2;
    assert_eq!(notebook.catch_up(&node).await, Err(ChainError::DeepReorg(oldest)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_only_behind_takes_nothing_back_however_few_blocks_are_remembered() {
    let node = Node::start().await;
    let mut notebook = Notebook::at_the_deployment(&node);
    node.anvil.freeze();
    node.anvil.mine(40).unwrap();
    notebook.catch_up(&node).await.unwrap();
    let place = notebook.place.number;
    notebook.place.known.retain(|(number, _)| [place, place - 30].contains(number));
    node.command("anvil_rollback", json!([20])).await;
    notebook.catch_up(&node).await.unwrap();
    assert_eq!(notebook.place.number, place, "what it has is what we have");
    // It goes on otherwise, past where we are.
    node.anvil.mine(25).unwrap();
    notebook.catch_up(&node).await.unwrap();
    assert_eq!(notebook.place.number, place + 5);
    assert_eq!(node.chain.block(At::Latest).await.unwrap().unwrap().hash, notebook.place.hash);
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_wait_for_the_confirmations_that_policy_asks_for() {
    let node = Node::start().await;
    let mut notebook = Notebook::at_the_deployment(&node);
    notebook.settings.finality = Finality::Confirmations(12);
    notebook.catch_up(&node).await.unwrap();
    let initiate = call::initiate_batch(&[node.leaf(0, 2).await], node.in_an_hour().await);
    node.send(Who::Initiator, node.contracts.router, &initiate).await.unwrap();
    node.anvil.freeze();
    let newest = node.chain.block(At::Latest).await.unwrap().unwrap().number;
    notebook.catch_up(&node).await.unwrap();
    assert_eq!(notebook.place.number, newest, "blocks are taken in at once");
    assert_eq!(payments(&notebook.announced), 0);
    node.anvil.mine(11).unwrap();
    notebook.catch_up(&node).await.unwrap();
    assert_eq!(payments(&notebook.announced), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_was_away_catches_up_in_small_stretches() {
    let node = Node::start().await;
    let before = node.in_an_hour().await;
    for number in 0..4 {
        let leaf = node.leaf(number, 2).await;
        let initiate = call::initiate_batch(&[leaf], before);
        node.send(Who::Initiator, node.contracts.router, &initiate).await.unwrap();
    }
    node.anvil.freeze();
    node.anvil.mine(100).unwrap();
    let mut notebook = Notebook::at_the_deployment(&node);
    notebook.settings.stretch_blocks_max = 7;
    notebook.settings.stretch_logs_max = 1;
    notebook.catch_up(&node).await.unwrap();
    assert_eq!(payments(&notebook.announced), 4);
    assert!(notebook.announced.is_sorted_by_key(|log| (log.block_number, log.log_index)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bell_rings_for_new_heads_and_again_after_the_socket_dropped() {
    let mut node = Node::start().await;
    let (heard, mut rings) = tokio::sync::mpsc::unbounded_channel();
    let bell = Bell::at(node.anvil.ws_url(), Duration::from_secs(5));
    let ringing = tokio::spawn(async move { bell.ring(|| heard.send(()).unwrap_or_default()).await });
    let patience = Duration::from_secs(20);
    tokio::time::timeout(patience, rings.recv()).await.unwrap().unwrap();
    node.anvil.kill();
    while rings.try_recv().is_ok() {}
    node.anvil.restart().unwrap();
    tokio::time::timeout(patience, rings.recv()).await.unwrap().unwrap();
    ringing.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bell_shows_a_socket_the_token_that_its_file_has_now() {
    let mut node = Node::start().await;
    let line = SocketLine::start_with(&node.anvil.ws_url(), Some("the first")).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "the first\n").unwrap();
    let token = Some(Bearer::in_file(file.clone()).unwrap());
    let sockets = vec![Socket { url: line.url(), token }];
    let bell = Bell { sockets, silence_max: Duration::from_secs(5) };
    let (heard, mut rings) = tokio::sync::mpsc::unbounded_channel();
    let ringing = tokio::spawn(async move { bell.ring(|| heard.send(()).unwrap_or_default()).await });
    let patience = Duration::from_secs(20);
    tokio::time::timeout(patience, rings.recv()).await.unwrap().unwrap();
    node.anvil.kill();
    line.want_token("the second");
    std::fs::write(&file, "the second\n").unwrap();
    while rings.try_recv().is_ok() {}
    node.anvil.restart().unwrap();
    tokio::time::timeout(patience, rings.recv()).await.unwrap().unwrap();
    ringing.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_chain_is_refused_and_a_dead_one_is_unavailable() {
    let mut node = Node::start().await;
    let url = node.anvil.rpc_url();
    let wrong = HttpChain::connect(&url, 1, Duration::from_secs(5)).await;
    assert!(matches!(wrong, Err(ChainError::Wrong(why)) if why.contains("31337")));
    node.anvil.kill();
    assert!(node.chain.chain_id().await.is_err_and(|error| error.is_retryable()));
}
