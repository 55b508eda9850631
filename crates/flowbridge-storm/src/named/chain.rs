//! What happens to the chain, its node, and the way to it.

use super::{ALPINE, ASHA, BIRK, Desk, HANSE, LAGO, LOOK_AGAIN, MUSTER, PATIENCE, eventually, payment, with};
use crate::faults::{lose_tail, process_named};
use crate::oracle::{list, text};
use crate::process::Process;
use crate::proxy::Weather;
use anyhow::{Context as _, Result, bail, ensure};
use flowbridge_embedded::EmbeddedAnvil;
use serde_json::{Value, json};
use tokio::sync::MutexGuard;
use tokio::task::block_in_place;
use tokio::time::sleep;

/// `freeze(address)` and `unfreeze(address)` of the token.
const FREEZE: &str = "0x8d1fdf2f";
const UNFREEZE: &str = "0x45c8b1a6";
/// No reorganisation is shallower, blocks.
const DEPTH_MIN: u64 = 3;

/// The chain node in our hands: no block comes but by [`Self::mine`], until this is dropped.
struct Still<'a>(MutexGuard<'a, EmbeddedAnvil>);

impl Drop for Still<'_> {
    fn drop(&mut self) {
        self.0.thaw();
    }
}

impl Still<'_> {
    fn mine(&self) -> Result<()> {
        block_in_place(|| self.0.mine(1))
    }
}

/// A process that is stopped (SIGSTOP) until this is dropped.
struct Paused<'a>(MutexGuard<'a, Process>);

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        self.0.resume();
    }
}

impl Desk<'_> {
    pub(super) async fn node_restarts(&self) -> Result<()> {
        let ids = self.some(3).await?;
        let mut anvil = self.world.anvil.lock().await;
        block_in_place(|| anvil.kill());
        let more = self.some(3).await?;
        block_in_place(|| anvil.restart())?;
        drop(anvil);
        self.completes(&ids).await?;
        self.completes(&more).await
    }

    pub(super) async fn node_loses_tail(&self) -> Result<()> {
        let before = self.reorganisations().await?;
        let mut still = self.still().await;
        let ids = self.some(3).await?;
        self.mine_until(&still, &ids, "completed").await?;
        let lost = self.depth_of(&ids).await?;
        block_in_place(|| still.0.kill());
        lose_tail(self.world, u32::try_from(lost)?)?;
        block_in_place(|| still.0.restart())?;
        drop(still);
        self.taken_back(&ids, before).await?;
        let more = self.some(1).await?;
        self.completes(&more).await?;
        self.settled_once(&ids).await
    }

    pub(super) async fn socket_dropped(&self) -> Result<()> {
        self.socket_is_open().await?;
        let before = self.some(1).await?;
        self.world.socket_line.cut();
        self.completes(&before).await?;
        self.socket_is_open().await?;
        let after = self.some(2).await?;
        self.completes(&after).await
    }

    pub(super) async fn socket_silent(&self) -> Result<()> {
        self.socket_is_open().await?;
        self.world.socket_line.set(Weather::Stall);
        let ids = self.some(3).await?;
        let done = self.completes(&ids).await;
        self.world.socket_line.set(Weather::Fair);
        done
    }

    /// Settled and completed, or held and about to be: the blocks they are in are gone, and they come to the same end once.
    pub(super) async fn reorganisation(&self) -> Result<()> {
        let before = self.reorganisations().await?;
        let still = self.still().await;
        let settled = self.some(3).await?;
        self.mine_until(&still, &settled, "completed").await?;
        let under_way = self.some(3).await?;
        self.mine_until(&still, &under_way, "held").await?;
        let depth = self.depth_of(&settled).await?;
        let depth = u32::try_from(depth)?;
        block_in_place(|| still.0.reorganise(depth))?;
        drop(still);
        self.taken_back(&settled, before).await?;
        self.settled_once(&settled).await?;
        self.settled_once(&under_way).await
    }

    pub(super) async fn underpriced(&self) -> Result<()> {
        let before = self.bumps().await?;
        let still = self.still().await;
        let id = self.pay(ASHA, BIRK, 120).await?;
        self.in_pool(&id, "initiate").await?;
        // What waits offers twice the old price at most.
        self.world.rpc("anvil_setNextBlockBaseFeePerGas", json!(["0x174876e800"])).await?;
        drop(still);
        self.until(&id, &["completed"]).await?;
        ensure!(self.bumps().await? > before, "it was not offered more");
        Ok(())
    }

    /// Nothing of ours is under way, and somebody sends with the key of a lane: an alarm, and our payments go on above it.
    pub(super) async fn key_used_elsewhere(&self) -> Result<()> {
        let before = self.stolen().await?;
        let set = self.contracts("EUR")?;
        let initiator = set.pointer("/roles/initiator").and_then(Value::as_str).context("no initiator")?;
        // The initiator's is one of the accounts that the node signs for.
        let nothing = json!([{ "from": initiator, "to": initiator, "value": "0x0" }]);
        self.world.rpc("eth_sendTransaction", nothing).await?;
        eventually(PATIENCE, || async {
            let is_told = self.stolen().await? > before;
            Ok(if is_told { Ok(()) } else { Err("nobody noticed".to_owned()) })
        })
        .await?;
        let ids = self.some(2).await?;
        self.settled_once(&ids).await
    }

    /// Three payments in one transaction, and the creditor of one may not be paid: the other two are. Once the creditor may,
    /// two people send it on.
    pub(super) async fn frozen_creditor(&self) -> Result<()> {
        let (before, _) = self.at_bank(ALPINE).await?;
        let wallet = text(&self.account(LAGO).await?, "wallet").to_owned();
        self.on_token(FREEZE, &wallet).await?;
        let frozen = self.batch_with_frozen_creditor().await;
        self.on_token(UNFREEZE, &wallet).await?;
        let frozen = frozen?;
        self.decide(&frozen, "resume").await?;
        self.until(&frozen, &["completed"]).await?;
        self.booked_once(ALPINE, before, 800).await
    }

    async fn batch_with_frozen_creditor(&self) -> Result<String> {
        let bank = self.pause("bank").await?;
        // What is settled together was initiated together: all three are there before anybody looks.
        let chain = self.pause("chain").await?;
        let ids = [
            self.pay(ALPINE, LAGO, 400).await?,
            self.pay(ALPINE, HANSE, 400).await?,
            self.pay(MUSTER, HANSE, 400).await?,
        ];
        drop(chain);
        for id in &ids {
            self.until(id, &["initiated"]).await?;
        }
        let chain = self.pause("chain").await?;
        drop(bank);
        for id in &ids {
            self.until(id, &["held"]).await?;
        }
        drop(chain);
        let [frozen, others @ ..] = &ids;
        self.completes(others).await?;
        let stuck = self.until(frozen, &["under_review"]).await?;
        ensure!(text(&stuck, "reason") == "creditor_blocked", "the reason is {}", text(&stuck, "reason"));
        let batch = self.sent(frozen, "settle").await?.hash;
        for other in others {
            ensure!(self.sent(other, "settle").await?.hash == batch, "they were not in one transaction");
        }
        self.proof().await?;
        Ok(frozen.clone())
    }

    /// Both transactions wait in the pool, and the chain takes one: that one it is, whatever we wanted.
    pub(super) async fn cancel_race(&self) -> Result<()> {
        for (first, second, end) in [("settle", "cancel", "completed"), ("cancel", "settle", "failed")] {
            let (before, _) = self.at_bank(ASHA).await?;
            let still = self.still().await;
            let id = self.pay(ASHA, BIRK, 10).await?;
            self.in_pool(&id, "initiate").await?;
            still.mine()?;
            self.in_pool(&id, "settle").await?;
            self.cancel(&id).await?;
            self.in_pool(&id, "cancel").await?;
            let late = self.sent(&id, second).await?.hash;
            self.world.rpc("anvil_dropTransaction", json!([late])).await?;
            still.mine()?;
            drop(still);
            self.until(&id, &[end]).await.with_context(|| format!("{first} came first"))?;
            self.booked_once(ASHA, before, if end == "completed" { 10 } else { 0 }).await?;
        }
        Ok(())
    }

    /// The chain stands still until both the payment's time and the bank's hold are over.
    pub(super) async fn hold_expires(&self) -> Result<()> {
        let (before, _) = self.at_bank(ASHA).await?;
        let expires = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(25);
        let still = self.still().await;
        let id = self
            .create(with(payment(ASHA, BIRK, 800), &[("expires_at", json!(format!("{expires:.3}")))]))
            .await?;
        self.in_pool(&id, "initiate").await?;
        still.mine()?;
        self.in_pool(&id, "settle").await?;
        while jiff::Timestamp::now() < expires + jiff::SignedDuration::from_secs(6) {
            sleep(LOOK_AGAIN).await;
        }
        drop(still);
        let ended = self.until(&id, &["failed"]).await?;
        ensure!(text(&ended, "reason") == "expired", "the reason is {}", text(&ended, "reason"));
        self.booked_once(ASHA, before, 0).await
    }

    // ------------------------------------------------------------------------------------------------------- the node

    async fn still(&self) -> Still<'_> {
        let anvil = self.world.anvil.lock().await;
        tokio::task::block_in_place(|| anvil.freeze());
        Still(anvil)
    }

    async fn pause(&self, process: &str) -> Result<Paused<'_>> {
        let mut process = process_named(self.world, process)?.lock().await;
        process.pause();
        Ok(Paused(process))
    }

    /// A block whenever a transaction waits, until the payments are in this state.
    async fn mine_until(&self, still: &Still<'_>, ids: &[String], state: &str) -> Result<()> {
        for id in ids {
            eventually(PATIENCE, || async {
                if text(&self.payment(id).await?, "state") == state {
                    return Ok(Ok(()));
                }
                let pool = self.world.rpc("txpool_status", json!([])).await?;
                if text(&pool, "pending") != "0x0" {
                    still.mine()?;
                }
                Ok(Err(format!("{id} is not {state}")))
            })
            .await?;
        }
        Ok(())
    }

    /// How many blocks have to go for all of these not to be settled.
    async fn depth_of(&self, ids: &[String]) -> Result<u64> {
        let head = self.world.rpc("eth_blockNumber", json!([])).await?;
        let head = head.as_str().and_then(|text| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok());
        let mut lowest = head.context("no head")?;
        for id in ids {
            lowest = lowest.min(self.block_of(id, "settle").await?);
        }
        Ok((head.unwrap_or_default() - lowest + 1).max(DEPTH_MIN))
    }

    /// Waits until a reorganisation has been seen, and that the settlement of each of these went with it.
    async fn taken_back(&self, ids: &[String], before: u64) -> Result<()> {
        for id in ids {
            eventually(PATIENCE, || async {
                let is_seen = self.has_seen(id, "chain.settled.removed").await?;
                Ok(if is_seen {
                    Ok(())
                } else {
                    Err(format!("nobody saw that the settlement of {id} is gone"))
                })
            })
            .await?;
        }
        ensure!(self.reorganisations().await? > before, "the watcher saw no reorganisation");
        Ok(())
    }

    async fn reorganisations(&self) -> Result<u64> {
        self.metric("chain", "chain_reorganisations_total").await
    }

    /// How often the chain role has offered more for a transaction.
    async fn bumps(&self) -> Result<u64> {
        self.metric("chain", "chain_fee_bumps_total").await
    }

    /// How many nonces of its keys the chain role has seen used by others.
    async fn stolen(&self) -> Result<u64> {
        self.metric("chain", "chain_nonces_stolen_total").await
    }

    async fn socket_is_open(&self) -> Result<()> {
        eventually(PATIENCE, || async {
            let is_open = self.world.socket_line.connections() > 0;
            Ok(if is_open { Ok(()) } else { Err("nobody listens at the WebSocket".to_owned()) })
        })
        .await
    }

    // ------------------------------------------------------------------------------------------------- transactions

    async fn cancel(&self, id: &str) -> Result<()> {
        let (status, answer) = self.post(&format!("/v1/payments/{id}/cancel"), "alpha", &json!({})).await?;
        ensure!(status == 202, "cancelling was answered {status} {answer}");
        Ok(())
    }

    /// The transaction that was last sent for a payment to this purpose, once there is one.
    async fn sent(&self, id: &str, purpose: &str) -> Result<Sent> {
        eventually(PATIENCE, || async {
            let timeline = self.timeline(id).await?;
            let is_it = |sent: &&Value| text(sent, "purpose") == purpose && !text(sent, "tx_hash").is_empty();
            let sent = list(&timeline, "chain_transactions").iter().rev().find(is_it).map(|sent| Sent {
                hash: text(sent, "tx_hash").to_owned(),
                block: sent.get("block_number").and_then(Value::as_u64),
            });
            Ok(sent.ok_or_else(|| format!("nothing was sent to {purpose} {id}: {timeline}")))
        })
        .await
    }

    /// The block of a transaction, once we know it.
    async fn block_of(&self, id: &str, purpose: &str) -> Result<u64> {
        eventually(PATIENCE, || async {
            let block = self.sent(id, purpose).await?.block;
            Ok(block.ok_or_else(|| format!("what was sent to {purpose} {id} is in no block")))
        })
        .await
    }

    /// Waits until the node has this transaction and no block has.
    async fn in_pool(&self, id: &str, purpose: &str) -> Result<()> {
        eventually(PATIENCE, || async {
            let hash = self.sent(id, purpose).await?.hash;
            let known = self.world.rpc("eth_getTransactionByHash", json!([hash])).await?;
            ensure!(known.get("blockNumber").is_none_or(Value::is_null), "{hash} is in a block already");
            Ok(if known.is_null() { Err(format!("{hash} did not come to the node")) } else { Ok(()) })
        })
        .await
    }

    /// A call of the guardian's on the token in francs.
    async fn on_token(&self, selector: &str, wallet: &str) -> Result<()> {
        let set = self.contracts("CHF")?;
        let guardian = set.pointer("/roles/guardian").and_then(Value::as_str).context("no guardian")?;
        let token = set.pointer("/token/address").and_then(Value::as_str).context("no token")?;
        let data = format!("{selector}{:0>64}", wallet.trim_start_matches("0x"));
        // The guardian's is one of the accounts that the node signs for.
        let call = json!([{ "from": guardian, "to": token, "data": data, "gas": "0x30d40" }]);
        let hash = self.world.rpc("eth_sendTransaction", call).await?;
        eventually(PATIENCE, || async {
            let receipt = self.world.rpc("eth_getTransactionReceipt", json!([hash])).await?;
            match text(&receipt, "status") {
                "0x1" => Ok(Ok(())),
                "" => Ok(Err("the guardian's call is in no block".to_owned())),
                status => bail!("the guardian's call was reverted: {status}"),
            }
        })
        .await
    }
}

/// A transaction that was sent.
struct Sent {
    hash: String,
    block: Option<u64>,
}
