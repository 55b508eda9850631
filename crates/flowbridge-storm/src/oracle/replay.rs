//! I8: what is derived from the log stays as it is when the log is read again.
//!
//! At rest, all that can be seen of it is noted. Then the groups that make payments, deliveries and the audit log of events are set back by
//! `flowbridge events replay`, as an operator would, and when they have read everything again it is noted once more. They have
//! done all of that before, so nothing may differ: no payment, no balance, no event more in the log, nothing more that a
//! receiver of webhooks is told. The orchestrator passes over what it has taken in before, so of it this shows that it does; the
//! deliveries are asked for anew, and found made.
//!
//! How far a group is, only the monitor tells (`consumer_lag`), and only as it was at its last look. So the process with the
//! monitor is started anew: what it says then is of after the groups were set back.

use super::letters::{self, Letter};
use super::{Baseline, Log, PAGE, Seen, list, payments, read_log, text};
use crate::api::Api;
use crate::faults::process_named;
use crate::sink::{Sink, Tally};
use crate::stage::Stage;
use crate::world::World;
use anyhow::Result;
use flowbridge_domain::id::PaymentId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// The groups that are set back: the one that decides, the one that tells participants, and the one that keeps the audit log.
const GROUPS: [&str; 3] = ["orchestrator", "webhooks", "audit"];
/// How long they may take to read it all again.
const READ_PATIENCE: Duration = Duration::from_secs(600);
/// How long what they queued may take to be told.
const TOLD_PATIENCE: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How the log is read again.
#[derive(Debug)]
pub(crate) struct Replay<'a> {
    /// From the first event at or after this instant; none for the beginning.
    pub(crate) since: Option<jiff::Timestamp>,
    /// The endpoints for webhooks, each with whose it is and its id.
    pub(crate) endpoints: &'a [(&'static str, String)],
}

/// What is derived from the log, as everybody sees it.
#[derive(Debug, Default)]
pub(super) struct Derived {
    /// Where each payment stands, and a hash of all that the API shows of it.
    pub(super) payments: BTreeMap<PaymentId, (Stage, u64)>,
    /// What the API shows of each account's balances.
    pub(super) balances: BTreeMap<String, String>,
    /// The payments' own part of the log: how many events, and their hash.
    pub(super) log: (usize, [u8; 32]),
    /// By endpoint. Read from the beginning, the log has what was before an endpoint was there, and that it hears then: the
    /// payments of the stage, which are older than the endpoints, are not counted.
    pub(super) told: BTreeMap<String, Tally>,
    /// The dead letters, with whose they are. How often one was tried, and why it is still here, may differ.
    pub(super) letters: BTreeSet<(String, PaymentId)>,
}

impl Derived {
    /// From what was read just now of payments and log, and the rest as it is.
    pub(super) async fn take(
        (world, api, sink): (&World, &Api, &Sink),
        payments: &[Seen],
        log: &Log,
    ) -> Result<Self> {
        let older: BTreeSet<PaymentId> =
            payments.iter().filter(|payment| payment.name.is_none()).map(|payment| payment.id).collect();
        let letters = letters::list(world).await?;
        Ok(Self {
            payments: payments.iter().map(|payment| (payment.id, (payment.state, payment.print))).collect(),
            balances: balances(api).await?,
            log: (log.events, log.hash),
            told: sink.with(|ears| ears.tallies(&older)),
            letters: letters.into_iter().map(|Letter { id, key, .. }| (id, key)).collect(),
        })
    }

    /// The same, with everything read anew, in pages of another size.
    pub(super) async fn take_anew(
        (world, api, sink): (&World, &Api, &Sink),
        baseline: &Baseline,
        seed: u64,
    ) -> Result<Self> {
        // What has not ended is another payment than before, and told as that.
        let mut unfinished = Vec::new();
        let (payments, log) = tokio::try_join!(
            payments(api, baseline, seed, &mut unfinished),
            read_log(api, PAGE - 17, |_, _| {})
        )?;
        Self::take((world, api, sink), &payments, &log).await
    }
}

async fn balances(api: &Api) -> Result<BTreeMap<String, String>> {
    let accounts = api.read("operator", &format!("/v1/accounts?limit={PAGE}")).await?;
    let mut balances = BTreeMap::new();
    for account in list(&accounts, "data") {
        let id = text(account, "id");
        let shown = api.read("operator", &format!("/v1/accounts/{id}/balances")).await?;
        balances.insert(id.to_owned(), shown.to_string());
    }
    Ok(balances)
}

impl Replay<'_> {
    /// What reading the log again has changed of all that was seen before.
    pub(super) async fn changes(
        &self,
        (world, api, sink): (&World, &Api, &Sink),
        (baseline, seed): (&Baseline, u64),
        (payments, log): (Vec<Seen>, Log),
    ) -> Result<Vec<String>> {
        // What is still on its way is not told because of the replay.
        self.is_told(api).await?;
        let before = Derived::take((world, api, sink), &payments, &log).await?;
        drop(payments);
        let heard = sink.deliveries(None);
        let mut changed = self.run(world, api).await?;
        // The payments of the stage are older than the endpoints, which hear of them from the beginning of the log and only then.
        if self.since.is_none() && sink.deliveries(None) == heard {
            changed.push("I8: nothing was read again".to_owned());
        }
        let after = Derived::take_anew((world, api, sink), baseline, seed).await?;
        changed.append(&mut compare(&before, &after));
        Ok(changed)
    }

    /// Sets the groups back, and waits until they have read everything again and all that they queued is told. Gives what went
    /// wrong with that.
    pub(super) async fn run(&self, world: &World, api: &Api) -> Result<Vec<String>> {
        let since = self.since.map(|instant| format!("{instant:.3}"));
        let from = since.as_deref().map_or(["--after", "0-0"], |instant| ["--time", instant]);
        for group in GROUPS {
            let replay = ["events", "replay", "--group", group];
            let replayed = world.command(&[&replay[..], &from[..]].concat()).await?;
            if !replayed.status.success() {
                let said = String::from_utf8_lossy(&replayed.stderr);
                return Ok(vec![format!("I8: {group} cannot be set back: {}", said.trim())]);
            }
        }
        if !is_read(world).await? {
            return Ok(vec![format!("I8: the log was not read again within {READ_PATIENCE:?}")]);
        }
        if !self.is_told(api).await? {
            return Ok(vec![format!("I8: deliveries were open {TOLD_PATIENCE:?} after the replay")]);
        }
        Ok(vec![])
    }

    /// Waits until no endpoint has a delivery that waits or is under way.
    pub(super) async fn is_told(&self, api: &Api) -> Result<bool> {
        let began = Instant::now();
        while began.elapsed() < TOLD_PATIENCE {
            let mut open = 0;
            for (who, endpoint) in self.endpoints {
                // In the order in which a delivery passes through them, so that none is overlooked.
                for state in ["pending", "claimed"] {
                    open += crate::deliveries(api, who, endpoint, state).await?.len();
                }
            }
            if open == 0 {
                return Ok(true);
            }
            sleep(LOOK_AGAIN).await;
        }
        Ok(false)
    }
}

/// Waits until the monitor, started anew, has seen that the groups have read everything.
async fn is_read(world: &World) -> Result<bool> {
    let metrics = {
        let mut jobs = process_named(world, "jobs")?.lock().await;
        jobs.terminate().await?;
        jobs.start()?;
        jobs.recipe.metrics_url()?
    };
    let began = Instant::now();
    while began.elapsed() < READ_PATIENCE {
        // It may still be starting.
        let shown = shown_at(world, &metrics).await.unwrap_or_default();
        if has_read_all(&shown) {
            return Ok(true);
        }
        sleep(LOOK_AGAIN).await;
    }
    Ok(false)
}

async fn shown_at(world: &World, url: &str) -> Result<String> {
    Ok(world.http.get(url).send().await?.text().await?)
}

/// Whether these metrics say of every group that nothing of any topic is left for it to read.
fn has_read_all(metrics: &str) -> bool {
    GROUPS.iter().all(|group| {
        let label = format!("group=\"{group}\"");
        let lags: Vec<Option<f64>> = metrics
            .lines()
            .filter(|line| line.starts_with("consumer_lag{") && line.contains(&label))
            .map(|line| line.rsplit_once(' ')?.1.parse().ok())
            .collect();
        !lags.is_empty() && lags.iter().all(|behind| *behind == Some(0.0))
    })
}

/// I8: reading the log again has changed nothing.
pub(super) fn compare(before: &Derived, after: &Derived) -> Vec<String> {
    let mut changed = Vec::new();
    for_each_change(&before.payments, &after.payments, |id, was, is| {
        let stage = |shown: Option<&(Stage, u64)>| shown.map(|(stage, _)| *stage);
        let (was, is) = (stage(was), stage(is));
        changed.push(format!("I8: {id} was {was:?}, is {is:?}, and is not shown as before"));
    });
    for_each_change(&before.balances, &after.balances, |account, was, is| {
        changed.push(format!("I8: {account} had {was:?}, and has {is:?}"));
    });
    for_each_change(&before.told, &after.told, |endpoint, was, is| {
        changed.push(format!("I8: {endpoint} had heard {was:?}, and has heard {is:?}"));
    });
    if before.log != after.log {
        let (was, is) = (before.log.0, after.log.0);
        changed.push(format!("I8: the log had {was} events, has {is}, and does not say the same"));
    }
    for (id, key) in before.letters.symmetric_difference(&after.letters) {
        changed.push(format!("I8: the dead letter {id} of {key} was there either before or after"));
    }
    changed
}

/// What is not the same in both, with what it was and is.
fn for_each_change<K: Ord, V: PartialEq>(
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
    mut tell: impl FnMut(&K, Option<&V>, Option<&V>),
) {
    let keys: BTreeSet<&K> = before.keys().chain(after.keys()).collect();
    for key in keys {
        let (was, is) = (before.get(key), after.get(key));
        if was != is {
            tell(key, was, is);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::has_read_all;

    #[test]
    fn a_group_has_read_all_when_its_lag_is_told_for_every_topic_and_is_nothing() {
        let of_webhooks = "consumer_lag{group=\"webhooks\",topic=\"payments\"} 0\n";
        let of_audit = "consumer_lag{group=\"audit\",topic=\"reconciliation\"} 0\n";
        let of_operator = "consumer_lag{group=\"webhooks_operator\",topic=\"reconciliation\"} 3\n";
        let of_orchestrator = |bank: &str| {
            format!(
                "consumer_lag{{group=\"orchestrator\",topic=\"chain\"}} 0\n\
                 consumer_lag{{group=\"orchestrator\",topic=\"bank\"}} {bank}\n"
            )
        };
        for (metrics, expected) in [
            (String::new(), false),
            ("# TYPE consumer_lag gauge\n".to_owned(), false),
            (of_orchestrator("0"), false),
            ([of_webhooks, of_operator, &of_orchestrator("0")].concat(), false),
            ([of_webhooks, of_operator, of_audit, &of_orchestrator("7")].concat(), false),
            ([of_webhooks, of_operator, of_audit, &of_orchestrator("0")].concat(), true),
        ] {
            assert_eq!(has_read_all(&metrics), expected, "{metrics}");
        }
    }
}
