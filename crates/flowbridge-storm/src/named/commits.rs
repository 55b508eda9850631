//! A crash around each commit on the way of a payment.

use super::{ASHA, BIRK, Desk, PATIENCE, eventually};
use crate::faults::commits::{self, Commit};
use crate::sink::Sink;
use crate::stage::Stage;
use anyhow::{Context as _, Result, ensure};
use flowbridge_domain::id::PaymentId;
use futures_util::future::try_join_all;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::sleep;

/// How long a role may take to its next commit of a sort.
const COMMIT_PATIENCE: Duration = Duration::from_secs(120);
/// How far apart payments are posted meanwhile.
const PACE: Duration = Duration::from_millis(150);
const AMOUNT: i64 = 120;

impl Desk<'_> {
    /// Each role dies before and after the first commit of each of its sorts, all roles at the same time, while payments are posted:
    /// each of them moves money once, and the debtor's institution hears that it has.
    pub(super) async fn crash_at_each_commit(&self) -> Result<()> {
        let sink = Sink::start(&self.world.authority, &["alpha"]).await?;
        self.open_endpoint(&sink, "alpha").await?;
        let (deposit, _) = self.at_bank(ASHA).await?;
        let tokens = self.wallet(BIRK).await?;
        let mut roles: BTreeMap<&str, Vec<(&Commit, bool)>> = BTreeMap::new();
        for point in commits::each() {
            roles.entry(point.0.role).or_default().push(point);
        }
        let is_over = AtomicBool::new(false);
        let crashes = async {
            let outcome = try_join_all(roles.into_values().map(|points| self.crash_at(points))).await;
            is_over.store(true, Ordering::Relaxed);
            outcome
        };
        let payments = async {
            let mut ids = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                ids.push(self.pay(ASHA, BIRK, AMOUNT).await?);
                sleep(PACE).await;
            }
            anyhow::Ok(ids)
        };
        let (crashed, ids) = tokio::join!(crashes, payments);
        crashed?;
        let ids = ids?;
        self.completes(&ids).await?;
        let sum = AMOUNT * i64::try_from(ids.len())?;
        self.booked_once(ASHA, deposit, sum).await?;
        let came = self.wallet(BIRK).await? - tokens;
        ensure!(came == sum, "{came} came of {} payments, not {sum}", ids.len());
        eventually(PATIENCE, || async {
            let wrong = sink.wrong();
            ensure!(wrong.is_empty(), "{wrong:?}");
            for id in &ids {
                if !sink.story("alpha", PaymentId::parse(id)?).contains(&Stage::COMPLETED) {
                    return Ok(Err(format!("that {id} is completed was not told")));
                }
            }
            Ok(Ok(()))
        })
        .await
    }

    /// One role after another sort of commit.
    async fn crash_at(&self, points: Vec<(&Commit, bool)>) -> Result<()> {
        for (commit, after) in points {
            let process = commit.processes().first().copied().context("nobody makes such commits")?;
            let has_crashed =
                commits::crash(self.world, process, (commit, after), 1, COMMIT_PATIENCE).await?;
            let name = commit.name(after);
            ensure!(
                has_crashed,
                "within {COMMIT_PATIENCE:?} the {} came to no commit, or ended otherwise, {name}",
                commit.role
            );
        }
        Ok(())
    }
}
