//! The commits at which a process dies on purpose, one of each sort, told apart by a statement that only such a transaction has
//! in it (the store's module `failpoint`). What comes only after something else has gone wrong is brought about.

use super::{chain, database, process_at};
use crate::world::{PROCESSES, World};
use anyhow::Result;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// How far apart a process is looked at that is to crash.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How far apart that is made to go wrong which a commit comes after.
const PROVOKE_AGAIN: Duration = Duration::from_secs(2);
/// So many blocks have some of our logs in them under load.
const REORGANISED_BLOCKS: u32 = 3;

/// A sort of commit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    /// Whose.
    pub(crate) role: &'static str,
    /// As the committed list of statements has it, without the crate.
    pub(crate) statement: &'static str,
    cause: Option<Cause>,
}

/// What has to go wrong for a commit to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Reorganisation,
    Poison,
}

const fn commit(role: &'static str, statement: &'static str) -> Commit {
    Commit { role, statement, cause: None }
}

const fn after(cause: Cause, role: &'static str, statement: &'static str) -> Commit {
    Commit { role, statement, cause: Some(cause) }
}

/// Every sort on the way of a payment, from its acceptance to the last webhook.
pub(crate) static COMMITS: [Commit; 20] = [
    commit("gateway", "accept::INSERT"),
    commit("orchestrator", "event_log::ACQUIRE"),
    commit("orchestrator", "event_log::ADVANCE"),
    commit("orchestrator", "effect::INSERT"),
    commit("orchestrator", "ledger::POST_ENTRIES"),
    after(Cause::Poison, "orchestrator", "event_log::PARK"),
    commit("bank", "effect::CLAIM_BANK"),
    commit("bank", "effect::FINISH"),
    commit("chain", "chain::lanes::LEASE_LANE"),
    commit("chain", "chain::intend::INSERT_TXS"),
    commit("chain", "chain::send::NUMBER"),
    commit("chain", "chain::send::SIGN"),
    commit("chain", "chain::send::MOVE_TXS"),
    commit("chain", "chain::watch::LEASE_WATCHER"),
    commit("chain", "chain::logs::SAVE_LOGS"),
    commit("chain", "chain::logs::RESOLVE_EFFECTS"),
    after(Cause::Reorganisation, "chain", "chain::watch::REMOVE"),
    commit("webhooks", "webhook::FAN_OUT"),
    commit("webhooks", "webhook::CLAIM"),
    commit("webhooks", "webhook::RECORD"),
];

/// Each sort, before and after.
pub(crate) fn each() -> impl Iterator<Item = (&'static Commit, bool)> {
    COMMITS.iter().flat_map(|commit| [(commit, false), (commit, true)])
}

impl Commit {
    /// The processes that make such commits.
    pub(crate) fn processes(&self) -> Vec<usize> {
        let ours = PROCESSES.iter().enumerate().filter(|(_, (_, role))| *role == self.role);
        ours.map(|(index, _)| index).collect()
    }

    /// For people.
    pub(crate) fn name(&self, after: bool) -> String {
        format!("{} {}", if after { "after" } else { "before" }, self.statement)
    }

    async fn provoke(&self, world: &World) -> Result<()> {
        match self.cause {
            Some(Cause::Reorganisation) => chain::reorganise(world, REORGANISED_BLOCKS).await,
            Some(Cause::Poison) => database::poison_log(world).await,
            None => true,
        };
        Ok(())
    }
}

/// Starts a process that aborts before or after its nth commit of this sort, and starts it again when it has. False if it never came
/// to that for so long, and was killed instead.
pub(crate) async fn crash(
    world: &World,
    index: usize,
    (commit, after): (&Commit, bool),
    nth: u32,
    patience: Duration,
) -> Result<bool> {
    let process = process_at(world, index)?;
    let when = if after { "after" } else { "before" };
    let plan = format!("{when}:{}:{nth}", commit.statement);
    let mut process = process.lock().await;
    process.terminate().await?;
    process.start_with(&[("FLOWBRIDGE_CRASH", &plan)])?;
    let began = Instant::now();
    let mut provoked: Option<Instant> = None;
    let mut has_aborted = None;
    // A role that has little to do may never get there.
    while has_aborted.is_none() && began.elapsed() < patience {
        if provoked.is_none_or(|last| last.elapsed() >= PROVOKE_AGAIN) {
            commit.provoke(world).await?;
            provoked = Some(Instant::now());
        }
        sleep(LOOK_AGAIN).await;
        has_aborted = process.has_aborted();
    }
    process.kill().await?;
    process.start()?;
    Ok(has_aborted == Some(true))
}

#[cfg(test)]
mod tests {
    use super::COMMITS;

    #[test]
    fn each_sort_is_told_by_a_statement_that_there_is_and_made_by_somebody() {
        let statements = include_str!(
            "../../../flowbridge-store/src/snapshots/flowbridge_store__registry__every_statement_prepares_with_the_types_it_was_written_for.snap"
        );
        for commit in &COMMITS {
            let name = format!("\nflowbridge_store::{}(", commit.statement);
            assert!(statements.contains(&name), "there is no statement {}", commit.statement);
            assert!(!commit.processes().is_empty(), "nobody is {}", commit.role);
        }
    }
}
