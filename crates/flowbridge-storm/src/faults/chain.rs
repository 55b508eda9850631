//! What happens to the chain's node, past the proxy.

use crate::oracle::text;
use crate::world::World;
use anyhow::Result;
use serde_json::{Value, json};
use std::io::Write as _;
use std::time::Duration;
use tokio::time::sleep;

/// A hundred gwei: what waits offers twice the old price at most.
const UNDERPRICED_BASE_FEE: &str = "0x174876e800";
/// How often, and how far apart, the pool is looked at until something waits in it.
const POOL_LOOKS: usize = 60;
const POOL_LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Makes the last blocks anew without what was in them. False if the node cannot: it goes back no further than to its own start.
pub(super) async fn reorganise(world: &World, depth: u32) -> bool {
    let anvil = world.anvil.lock().await;
    let made = tokio::task::block_in_place(|| anvil.reorganise(depth));
    if let Err(error) = &made {
        println!("     no reorganisation by {depth} blocks so soon after a restart: {error:#}");
    }
    made.is_ok()
}

/// The next block costs a hundred times what is offered.
pub(super) async fn raise_base_fee(world: &World) -> Result<()> {
    let _anvil = world.anvil.lock().await;
    world.rpc("anvil_setNextBlockBaseFeePerGas", json!([UNDERPRICED_BASE_FEE])).await.map(drop)
}

/// The node forgets all that waits to be included. False if nothing came to wait.
pub(super) async fn drop_pool(world: &World) -> Result<bool> {
    let anvil = world.anvil.lock().await;
    tokio::task::block_in_place(|| anvil.freeze());
    let mut is_filled = false;
    for _ in 0..POOL_LOOKS {
        let pool = world.rpc("txpool_status", json!([])).await?;
        is_filled = ["pending", "queued"].iter().any(|part| !matches!(text(&pool, part), "" | "0x0"));
        if is_filled {
            world.rpc("anvil_dropAllTransactions", json!([])).await?;
            break;
        }
        sleep(POOL_LOOK_AGAIN).await;
    }
    anvil.thaw();
    Ok(is_filled)
}

/// The node forgets the transaction that is due next in one of its lanes; those behind it wait for its nonce. False if none
/// came to wait.
pub(super) async fn drop_first_nonce(world: &World) -> Result<bool> {
    let anvil = world.anvil.lock().await;
    tokio::task::block_in_place(|| anvil.freeze());
    let mut is_dropped = false;
    for _ in 0..POOL_LOOKS {
        let pool = world.rpc("txpool_content", json!([])).await?;
        let lanes = pool.get("pending").and_then(Value::as_object);
        let firsts = lanes.into_iter().flat_map(|lanes| lanes.values()).filter_map(|lane| {
            let nonce = |text: &str| text.parse::<u64>().unwrap_or(u64::MAX);
            let (_, first) = lane.as_object()?.iter().min_by_key(|(number, _)| nonce(number))?;
            first.get("hash").cloned()
        });
        if let Some(hash) = firsts.into_iter().next() {
            world.rpc("anvil_dropTransaction", json!([hash])).await?;
            is_dropped = true;
            break;
        }
        sleep(POOL_LOOK_AGAIN).await;
    }
    anvil.thaw();
    Ok(is_dropped)
}

/// Cuts blocks off the end of the node's journal, as if they had not reached the disk.
pub(crate) fn lose_tail(world: &World, blocks: u32) -> Result<()> {
    let path = world.home.join(".flowbridge/chain/journal.jsonl");
    let text = std::fs::read_to_string(&path)?;
    let lines: Vec<&str> = text.lines().collect();
    // The first line is the genesis.
    let kept = lines.len().saturating_sub(usize::try_from(blocks)?).max(1);
    let mut file = std::fs::File::create(&path)?;
    for line in lines.into_iter().take(kept) {
        writeln!(file, "{line}")?;
    }
    Ok(file.sync_all()?)
}
