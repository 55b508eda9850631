//! The proof at the end of a run: by the system's own comparison of ledger, chain and banks, by the log, and by what the client saw.

use super::cast::participants;
use super::journal::{Heard, Journal};
use super::stack::Stack;
use anyhow::Result;
use flowbridge_domain::time::Timestamp;
use flowbridge_store::{Db, DbSettings, measure};
use serde_json::Value;
use std::time::Duration;

/// A difference counts when a later cut still has it.
const CUTS_MAX: usize = 10;
const CUT_INTERVAL: Duration = Duration::from_secs(1);
/// What looks at each payment, or at each entry, takes minutes where there are millions.
pub(super) const CHECK_TIMEOUT: Duration = Duration::from_secs(600);

/// What does not hold, if anything.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<String>);

impl Faults {
    /// Notes that something should be zero, and is not.
    pub(super) fn none_of(&mut self, count: usize, what: &str) {
        if count > 0 {
            self.0.push(format!("{count} {what}"));
        }
    }

    /// Notes that two counts should be equal, and are not.
    pub(super) fn equal(&mut self, (one, count): (&str, usize), (other, same): (&str, usize)) {
        if count != same {
            self.0.push(format!("{one} {count}, {other} {same}"));
        }
    }

    /// Notes something more about what is wrong.
    pub(super) fn add(&mut self, what: String) {
        self.0.push(what);
    }

    /// `ok`, or all that is wrong.
    pub(super) fn verdict(&self) -> String {
        if self.0.is_empty() { super::report::PROVEN.to_owned() } else { self.0.join("; ") }
    }
}

/// Each payment that was accepted is there, ended once, as its account would have it, and both endpoints heard of it once.
pub(super) async fn of_ends(stack: &Stack, journal: &Journal, since: Timestamp) -> Result<Faults> {
    let mut faults = Faults::default();
    let heard = journal.heard();
    let Heard { accepted, completed, failed, missing, repeated, unexpected } = heard;
    faults.none_of(missing, "webhooks are missing");
    faults.none_of(repeated, "webhooks came more than once");
    faults.none_of(unexpected, "payments ended otherwise than expected");
    let patient = DbSettings { statement_timeout: CHECK_TIMEOUT, ..stack.config.database() };
    let ends = measure::ends(&Db::new(&patient)?, &participants(), since).await?;
    let count = |count: i64| usize::try_from(count).unwrap_or(usize::MAX);
    faults.none_of(count(ends.not_ended_once), "payments have not exactly one final event");
    // A request whose answer was lost may have been accepted all the same, and is then carried out like any other.
    let unanswered = journal.refusals().len();
    let stored = count(ends.payments);
    if stored < accepted || stored > accepted + unanswered {
        faults.equal(("stored payments", stored), ("accepted", accepted));
    }
    if unanswered == 0 {
        faults.equal(("completed payments", count(ends.completed)), ("told of", completed));
        faults.equal(("failed payments", count(ends.failed)), ("told of", failed));
    }
    Ok(faults)
}

/// Ledger, chain and banks are equal, and nothing is unread.
pub(super) async fn of_conservation(stack: &Stack, faults: &mut Faults) -> Result<()> {
    let operator = stack.client("operator")?;
    let mut last = String::new();
    for _ in 0..CUTS_MAX {
        match operator.get("/v1/proof").await {
            Ok(proof) if proof.get("holds") == Some(&Value::Bool(true)) => return Ok(()),
            Ok(proof) => last = differences(&proof),
            Err(error) => last = format!("{error:#}"),
        }
        tokio::time::sleep(CUT_INTERVAL).await;
    }
    faults.0.push(format!("ledger, chain and banks differ: {last}"));
    Ok(())
}

fn differences(proof: &Value) -> String {
    let lines = proof.get("lines").and_then(Value::as_array).into_iter().flatten();
    let differing = lines.filter(|line| line.get("holds") != Some(&Value::Bool(true)));
    let missing = proof.get("missing").and_then(Value::as_array).into_iter().flatten();
    differing.chain(missing).map(Value::to_string).collect::<Vec<_>>().join(", ")
}
