//! I11: every event that belongs into the audit log is in it once, and nothing else is; what is archived and signed is that.
//!
//! The events are those that the API tells of reconciliation, the entries those that `flowbridge audit list` shows. Between the
//! two stands `flowbridge audit verify --database`: archive, tiles, reports, signatures and the rows in the database are one and the same. Judged
//! after the log was read again (I8), by the group `audit` as well.

use super::{PAGE, Verdict, list, text};
use crate::api::Api;
use crate::world::World;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long the last entries may take until a signed checkpoint in the archive covers them: a checkpoint is made every ten seconds.
const SIGNED_PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// As many entries as the command shows at once.
const PAGE_OF_ENTRIES: usize = 1_000;

/// What happened: which event, and of what kind.
pub(super) type Said = (String, String);

/// Compares events and entries.
pub(super) async fn judge(world: &World, api: &Api, verdict: &mut Verdict) -> Result<()> {
    let events = events(api).await?;
    verdict.entries = events.len();
    if events.is_empty() {
        verdict.violations.push("I11: there is no event to be entered, so that nothing is judged".to_owned());
    }
    let began = Instant::now();
    loop {
        let (signed, said) = verified(world).await?;
        if signed == Some(events.len()) {
            break;
        }
        if began.elapsed() > SIGNED_PATIENCE {
            verdict.violations.push(format!(
                "I11: an archive of {} entries, as they were signed, should be there; instead: {said}",
                events.len()
            ));
            break;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    are_the_events(&events, &entries(world).await?, verdict);
    Ok(())
}

/// What was said of reconciliation.
async fn events(api: &Api) -> Result<Vec<Said>> {
    let (mut events, mut after) = (Vec::new(), String::new());
    loop {
        let read =
            api.read("operator", &format!("/v1/events?topic=reconciliation&limit={PAGE}{after}")).await?;
        let data = list(&read, "data");
        if data.is_empty() {
            return Ok(events);
        }
        events
            .extend(data.iter().map(|event| (text(event, "id").to_owned(), text(event, "type").to_owned())));
        after = format!("&after={}", text(&read, "next"));
    }
}

/// How many entries the archive has, if all is as it was signed; and what the command said.
async fn verified(world: &World) -> Result<(Option<usize>, String)> {
    let verified = world.command(&["audit", "verify", "--database"]).await?;
    let said = [&verified.stdout, &verified.stderr].map(|said| String::from_utf8_lossy(said)).concat();
    let entries = said.lines().find_map(|line| line.split_once(" entries, ")?.0.parse().ok());
    Ok((entries.filter(|_| verified.status.success()), said))
}

/// What was entered.
async fn entries(world: &World) -> Result<Vec<Said>> {
    // The last page overlaps with the one before. No two entries are the same text: each has a commitment with a salt of its own.
    let mut entries = BTreeSet::new();
    let limit = PAGE_OF_ENTRIES.to_string();
    for before in (PAGE_OF_ENTRIES..).step_by(PAGE_OF_ENTRIES) {
        let before = before.to_string();
        let listed =
            world.command(&["audit", "list", "--json", "--limit", &limit, "--before", &before]).await?;
        let complained = String::from_utf8_lossy(&listed.stderr);
        ensure!(listed.status.success(), "the entries cannot be listed: {}", complained.trim());
        let known = entries.len();
        entries.extend(String::from_utf8(listed.stdout)?.lines().map(str::to_owned));
        if entries.len() < known + PAGE_OF_ENTRIES {
            break;
        }
    }
    let read = |entry: &String| {
        let entry: Value = serde_json::from_str(entry).context("an entry that cannot be read")?;
        Ok((text(&entry, "event").to_owned(), text(&entry, "action").to_owned()))
    };
    entries.iter().map(read).collect()
}

/// I11: each event once among the entries, and no entry of anything else.
pub(super) fn are_the_events(events: &[Said], entries: &[Said], verdict: &mut Verdict) {
    let mut times: BTreeMap<&Said, [usize; 2]> = BTreeMap::new();
    events.iter().for_each(|event| times.entry(event).or_default()[0] += 1);
    entries.iter().for_each(|entry| times.entry(entry).or_default()[1] += 1);
    for ((event, kind), [said, entered]) in times {
        if said != entered {
            verdict
                .violations
                .push(format!("I11: {event} ({kind}) was said {said} times and entered {entered} times"));
        }
    }
}
