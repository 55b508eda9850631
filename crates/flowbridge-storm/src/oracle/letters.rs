//! I9: the dead letters are exactly the poison, and stay that when somebody takes them in again.
//!
//! Poison is of payments that nobody knows, or says what nobody can read: it can never be taken in. An operator who tries has
//! to be told so, by the exit code of `flowbridge dlq retry`, and to find every letter as it was.

use super::Verdict;
use crate::world::{Poison, World};
use anyhow::{Context as _, Result, bail, ensure};
use flowbridge_domain::id::PaymentId;
use std::collections::BTreeSet;

/// So many letters are retried at most.
const RETRIED_MAX: usize = 50;
/// The exit code of a command that could not do what it was asked for.
const REFUSED: i32 = 1;

/// A dead letter as `flowbridge dlq list` shows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) id: String,
    pub(super) key: PaymentId,
    /// All of it: since when, how often it was tried, why it is here.
    pub(super) line: String,
}

impl Letter {
    /// `ID  SINCE  GROUP  PAYMENT  …`; none for a line that is no letter.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let (id, key) = (words.next()?, words.nth(2)?);
        Some(Self { id: id.to_owned(), key: PaymentId::parse(key).ok()?, line: line.to_owned() })
    }
}

/// All that are open.
pub(super) async fn list(world: &World) -> Result<Vec<Letter>> {
    let listed = world.command(&["dlq", "list"]).await?;
    let said = String::from_utf8_lossy(&listed.stderr);
    ensure!(listed.status.success(), "I9: the dead letters cannot be listed: {}", said.trim());
    Ok(String::from_utf8_lossy(&listed.stdout).lines().filter_map(Letter::parse).collect())
}

/// Looks at all letters, and tries to take in those that are poison.
pub(super) async fn judge(world: &World, verdict: &mut Verdict) -> Result<()> {
    let letters = list(world).await?;
    let poison = {
        let Ok(poison) = world.poison.lock() else { bail!("a writer of poison has failed") };
        are_poison(&letters, &poison, verdict);
        poison.tried.clone()
    };
    let hopeless = letters.iter().filter(|letter| poison.contains(&letter.key));
    for Letter { id, key, .. } in hopeless.take(RETRIED_MAX) {
        let retried = world.command(&["dlq", "retry", id]).await.context("retry a dead letter")?;
        let [said, complained] =
            [&retried.stdout, &retried.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
        if retried.status.code() != Some(REFUSED) || !is_told_why(&complained, *key) {
            verdict.violations.push(format!(
                "I9: the letter of {key}, whom nobody knows, was retried with {}: {said}{complained}",
                retried.status
            ));
        }
    }
    are_as_before(&letters, &list(world).await?, verdict);
    Ok(())
}

/// Is the operator told what is wrong with the letter, and not only that something is?
fn is_told_why(complained: &str, key: PaymentId) -> bool {
    complained.contains(&format!("there is no payment {key}"))
        || complained.contains("cannot be read as an observation")
}

/// I9: what was set aside is what was written to be.
pub(super) fn are_poison(letters: &[Letter], poison: &Poison, verdict: &mut Verdict) {
    let keys: BTreeSet<PaymentId> = letters.iter().map(|letter| letter.key).collect();
    let [missing, foreign] = [&poison.written - &keys, &keys - &poison.tried];
    if !missing.is_empty() || !foreign.is_empty() {
        verdict.violations.push(format!(
            "I9: {} dead letters where {} poisonous events were written; missing {missing:?}, foreign {foreign:?}",
            keys.len(),
            poison.written.len()
        ));
    }
}

/// I9: trying to take them in has changed none.
pub(super) fn are_as_before(before: &[Letter], after: &[Letter], verdict: &mut Verdict) {
    let gone = before.iter().filter(|letter| !after.contains(letter));
    let new = after.iter().filter(|letter| !before.contains(letter));
    verdict.violations.extend(gone.map(|letter| format!("I9: not there so after retrying: {}", letter.line)));
    verdict.violations.extend(new.map(|letter| format!("I9: there only after retrying: {}", letter.line)));
}

#[cfg(test)]
mod tests {
    use super::Letter;
    use flowbridge_domain::id::PaymentId;
    use flowbridge_domain::time::Timestamp;

    #[test]
    fn a_letter_is_read_as_the_command_shows_it() {
        let key = PaymentId::generate(Timestamp::from_secs(1_000), [9; 10]);
        let line = format!(
            "0193-aa  2026-11-29T08:00:00.000Z  orchestrator  {key}  open  tried 1x: there is no such payment"
        );
        let expected = Letter { id: "0193-aa".to_owned(), key, line: line.clone() };
        assert_eq!(Letter::parse(&line), Some(expected));
        assert_eq!(Letter::parse("no dead letters"), None);
    }
}
