//! The chain node through every way a run can end.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use alloy::eips::BlockNumberOrTag;
use alloy::network::TransactionBuilder as _;
use alloy::primitives::{Address, B256, U256, address};
use alloy::providers::{Provider, ProviderBuilder};
use alloy::rpc::types::TransactionRequest;
use flowbridge_embedded::{AnvilSettings, EmbeddedAnvil};
use tokio::sync::oneshot;

use crate::supervisor;

/// The first of the accounts that Anvil makes and signs for, and one that starts with nothing.
const RICH: Address = address!("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
const POOR: Address = address!("0x000000000000000000000000000000000000dEaD");

fn start(folder: &Path) -> EmbeddedAnvil {
    let block_time = Duration::from_millis(50);
    EmbeddedAnvil::start(AnvilSettings {
        block_time,
        idle_block_time: block_time,
        states_kept: 64,
        ..AnvilSettings::in_folder(folder)
    })
    .unwrap()
}

fn provider(anvil: &EmbeddedAnvil) -> impl Provider + use<> {
    provider_at(&anvil.rpc_url())
}

fn provider_at(url: &str) -> impl Provider + use<> {
    ProviderBuilder::new().connect_http(url.parse().unwrap())
}

async fn pay(provider: &impl Provider, wei: u64) -> u64 {
    let request = TransactionRequest::default().with_from(RICH).with_to(POOR).with_value(U256::from(wei));
    let pending = provider.send_transaction(request).await.unwrap();
    pending.with_timeout(Some(Duration::from_secs(20))).get_receipt().await.unwrap().block_number.unwrap()
}

async fn hashes(provider: &impl Provider, up_to: u64) -> Vec<B256> {
    let mut hashes = Vec::new();
    for number in 0..=up_to {
        let block = provider.get_block_by_number(number.into()).await.unwrap();
        hashes.push(block.map_or(B256::ZERO, |block| block.header.hash));
    }
    hashes
}

#[tokio::test]
async fn a_transaction_is_mined_without_asking_and_a_frozen_chain_stands_still() {
    let anvil = EmbeddedAnvil::temporary().unwrap();
    let provider = provider(&anvil);
    assert!(pay(&provider, 5).await >= 1);
    assert_eq!(provider.get_balance(POOR).await.unwrap(), U256::from(5));
    anvil.freeze();
    anvil.mine(1).unwrap();
    let head = provider.get_block_number().await.unwrap();
    anvil.mine(3).unwrap();
    assert_eq!(provider.get_block_number().await.unwrap(), head + 3);
    anvil.thaw();
    pay(&provider, 1).await;
}

#[tokio::test]
async fn a_killed_node_continues_with_the_same_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let mut anvil = start(folder.path());
    let mut paid = 0;
    for life in 1..=3 {
        let provider = provider(&anvil);
        // Not what would follow from the block before.
        let latest = provider.get_block_by_number(BlockNumberOrTag::Latest).await.unwrap().unwrap();
        let fee = (U256::from(latest.header.base_fee_per_gas.unwrap() + 7),);
        provider.raw_request::<_, ()>("anvil_setNextBlockBaseFeePerGas".into(), fee).await.unwrap();
        let mut head = 0;
        for wei in 1..=5 {
            head = pay(&provider, wei).await;
            paid += wei;
        }
        // One block more than the last payment's, so that the payment's own has reached the journal.
        anvil.mine(1).unwrap();
        let before = hashes(&provider, head).await;
        // The node dies in the middle of its work: in the second life by our own end, too, in the third in good order.
        match life {
            1 => {
                anvil.kill();
                anvil.restart().unwrap();
            }
            2 => {
                anvil.kill();
                drop(anvil);
                anvil = start(folder.path());
            }
            _ => anvil.restart().unwrap(),
        }
        let provider = self::provider(&anvil);
        assert_eq!(hashes(&provider, head).await, before, "life {life}");
        assert_eq!(provider.get_balance(POOR).await.unwrap(), U256::from(paid), "life {life}");
        assert_eq!(provider.get_transaction_count(RICH).await.unwrap(), life * 5);
    }
}

#[tokio::test]
async fn a_killed_supervisor_takes_the_node_along_and_the_next_continues_the_chain() {
    let folder = tempfile::tempdir().unwrap();
    let (supervisor, url) = supervisor::run("anvil", folder.path());
    let provider = provider_at(&url);
    let head = pay(&provider, 9).await;
    // The payment's block is in the journal once the next one is there.
    while provider.get_block_number().await.unwrap() == head {
        tokio::task::yield_now().await;
    }
    let before = hashes(&provider, head).await;
    supervisor::kill(supervisor);
    let mut anvil = start(folder.path());
    assert_eq!(hashes(&self::provider(&anvil), head).await, before);
    assert!(!anvil.revive().unwrap(), "it runs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_under_load_a_node_loses_the_newest_block_at_most() {
    let folder = tempfile::tempdir().unwrap();
    let mut anvil = start(folder.path());
    let stop = Arc::new(AtomicBool::new(false));
    let sender = tokio::spawn(send_until(stop.clone(), provider(&anvil)));
    for life in 0..4 {
        let (first, is_watched) = oneshot::channel();
        let watcher = tokio::spawn(watch_until_it_fails(provider(&anvil), first));
        is_watched.await.unwrap();
        tokio::time::sleep(Duration::from_millis(300 + 77 * life)).await;
        anvil.kill();
        let seen = watcher.await.unwrap();
        tokio::task::block_in_place(|| anvil.restart()).unwrap();
        let (newest, _) = *seen.last().unwrap();
        let after = hashes(&provider(&anvil), newest).await;
        for (number, hash) in seen {
            let index = usize::try_from(number).unwrap();
            assert!(after[index] == hash || number == newest, "life {life}, block {number} of {newest}");
        }
        println!("life {life}: {newest} blocks");
    }
    stop.store(true, Ordering::Relaxed);
    assert!(sender.await.unwrap() > 0);
}

/// A client that knows nothing of the node's deaths and sends again as soon as the port answers.
async fn send_until(stop: Arc<AtomicBool>, provider: impl Provider) -> u64 {
    let request = TransactionRequest::default().with_from(RICH).with_to(POOR).with_value(U256::from(1));
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        match provider.send_transaction(request.clone()).await {
            Ok(_) => sent += 1,
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
    sent
}

/// Every block seen at the head, until the node is gone; that there is one, at once.
async fn watch_until_it_fails(provider: impl Provider, first: oneshot::Sender<()>) -> Vec<(u64, B256)> {
    let (mut seen, mut first) = (Vec::new(), Some(first));
    while let Ok(Some(block)) = provider.get_block_by_number(BlockNumberOrTag::Latest).await {
        let head = (block.header.number, block.header.hash);
        if seen.last() != Some(&head) {
            seen.push(head);
        }
        if let Some(first) = first.take() {
            first.send(()).unwrap();
        }
    }
    seen
}

#[tokio::test]
async fn a_long_chain_starts_from_a_checkpoint_and_keeps_its_receipts_and_newest_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let mut anvil = start(folder.path());
    let head = {
        let provider = provider(&anvil);
        pay(&provider, 7).await;
        anvil.mine(1_500).unwrap();
        let head = pay(&provider, 7).await;
        anvil.mine(20).unwrap();
        head
    };
    // It is taken once nothing has happened for some blocks.
    while !folder.path().join("checkpoint.json").exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anvil.freeze();
    let first = provider(&anvil);
    let before = hashes(&first, head + 20).await;
    let receipt =
        first.get_block_by_number(head.into()).await.unwrap().unwrap().transactions.hashes().next().unwrap();
    anvil.kill();
    let start = Instant::now();
    anvil.restart().unwrap();
    println!("restart of a chain of {} blocks: {:?}", head + 20, start.elapsed());
    let provider = provider(&anvil);
    let after = hashes(&provider, head + 20).await;
    let newest = after.len() - 200;
    assert!(after[newest..] == before[newest..]);
    assert_eq!(after[0], before[0]);
    assert_eq!(provider.get_balance(POOR).await.unwrap(), U256::from(14));
    assert!(provider.get_transaction_receipt(receipt).await.unwrap().is_some());
    assert!(pay(&provider, 1).await > head);
}

#[tokio::test]
#[ignore = "long: fills the journal to its limit"]
async fn a_journal_at_its_limit_is_replayed_within_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let mut anvil = start(folder.path());
    anvil.freeze();
    let provider = provider(&anvil);
    for _ in 0..900 {
        // 8 KiB of input, 16 KiB in the journal.
        let request =
            TransactionRequest::default().with_from(RICH).with_to(POOR).with_input(vec![7; 8 << 10]);
        let _ = provider.send_transaction(request).await.unwrap();
        anvil.mine(1).unwrap();
    }
    let before = hashes(&provider, 900).await;
    anvil.kill();
    let start = Instant::now();
    anvil.restart().unwrap();
    println!("replay of 900 blocks with {} bytes: {:?}", 900 * (8 << 10), start.elapsed());
    assert!(hashes(&self::provider(&anvil), 900).await == before);
}

#[tokio::test]
async fn a_reorganised_chain_continues_as_it_was_reorganised() {
    let folder = tempfile::tempdir().unwrap();
    let mut anvil = start(folder.path());
    let provider = provider(&anvil);
    anvil.mine(5).unwrap();
    let head = pay(&provider, 3).await;
    anvil.freeze();
    anvil.mine(2).unwrap();
    let depth = provider.get_block_number().await.unwrap() - head + 1;
    provider.raw_request::<_, ()>("anvil_reorg".into(), (depth, Vec::<u8>::new())).await.unwrap();
    assert_eq!(
        provider.get_balance(POOR).await.unwrap(),
        U256::ZERO,
        "the payment was in a block that is gone"
    );
    anvil.mine(1).unwrap();
    let newest = provider.get_block_number().await.unwrap();
    let before = hashes(&provider, newest).await;
    anvil.kill();
    anvil.restart().unwrap();
    assert_eq!(hashes(&self::provider(&anvil), newest).await, before);
}

#[tokio::test]
async fn a_change_outside_of_blocks_costs_a_reorganisation_and_not_the_chain() {
    let folder = tempfile::tempdir().unwrap();
    let mut anvil = start(folder.path());
    let provider = provider(&anvil);
    provider.raw_request::<_, ()>("anvil_setBalance".into(), (POOR, U256::from(100))).await.unwrap();
    let head = pay(&provider, 3).await;
    anvil.mine(1).unwrap();
    let before = hashes(&provider, head).await;
    anvil.kill();
    anvil.restart().unwrap();
    let provider = self::provider(&anvil);
    assert_ne!(hashes(&provider, head).await, before);
    assert_eq!(
        provider.get_balance(POOR).await.unwrap(),
        U256::from(3),
        "payments are kept, what no block says is not"
    );
    let again = hashes(&provider, head).await;
    anvil.kill();
    anvil.restart().unwrap();
    assert_eq!(hashes(&self::provider(&anvil), head).await, again, "the chain is stable from then on");
}
