//! The chain node through every way a run can end.

use alloy::network::TransactionBuilder as _;
use alloy::primitives::{Address, U256, address};
use alloy::providers::{Provider, ProviderBuilder};
use alloy::rpc::types::TransactionRequest;
use flowbridge_embedded::EmbeddedAnvil;

/// The first two accounts that Anvil makes and signs for.
const RICH: Address = address!("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
const POOR: Address = address!("0x000000000000000000000000000000000000dEaD");

fn provider(anvil: &EmbeddedAnvil) -> impl Provider + use<> {
    ProviderBuilder::new().connect_http(anvil.rpc_url().parse().unwrap())
}

async fn pay(provider: &impl Provider, wei: u64) -> u64 {
    let request = TransactionRequest::default().with_from(RICH).with_to(POOR).with_value(U256::from(wei));
    let pending = provider.send_transaction(request).await.unwrap();
    pending.get_receipt().await.unwrap().block_number.unwrap()
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
