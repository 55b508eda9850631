//! Our guarantees, tested: each is broken on purpose in a copy of the sources, and what is named beside it has to notice.
//!
//! A mutant is one replacement in one file. Its text has to be there exactly once, it has to compile, and its catcher has to
//! pass before and fail after: a mutant that no longer applies, one that is no program, and a catcher that was broken all along
//! are each a failure of the run. The copy shares the build folder, so that nothing that we depend on is compiled again.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::shell;

/// A catcher that takes longer has noticed: it hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// What notices: the tests of a package's integration binary, or of its library, whose names contain one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Catcher {
    package: &'static str,
    target: Target,
    tests: &'static [&'static str],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    It,
    Lib,
}

/// One guarantee, broken.
#[derive(Debug)]
struct Mutant {
    /// What it is without, in a few words.
    without: &'static str,
    file: &'static str,
    was: &'static str,
    becomes: &'static str,
    catcher: Catcher,
}

impl Mutant {
    /// Fails unless what it breaks stands exactly once in the text of its file.
    fn require_place(&self, text: &str) -> Result<()> {
        let places = text.matches(self.was).count();
        ensure!(places == 1, "what is to be broken stands {places} times in {}, not once", self.file);
        Ok(())
    }
}

const fn it(package: &'static str, tests: &'static [&'static str]) -> Catcher {
    Catcher { package, target: Target::It, tests }
}

const fn lib(package: &'static str, tests: &'static [&'static str]) -> Catcher {
    Catcher { package, target: Target::Lib, tests }
}

const DOMAIN: &str = "flowbridge-domain";
const CHAIN: &str = "flowbridge-chain";
const BANK: &str = "flowbridge-bank";
const SECURITY: &str = "flowbridge-security";
const STORE: &str = "flowbridge-store";
const GATEWAY: &str = "flowbridge-gateway";
const WORKERS: &str = "flowbridge-workers";

const AUDIT: &str = "crates/flowbridge-workers/src/audit/mod.rs";
const LIFECYCLE: &str = "crates/flowbridge-domain/src/payment/lifecycle.rs";
const LEGS: &str = "crates/flowbridge-domain/src/payment/legs.rs";
const PLAN: &str = "crates/flowbridge-chain/src/plan.rs";
const RACES: Catcher = it(DOMAIN, &["races::"]);

/// In the order of what has to be compiled for them.
const MUTANTS: &[Mutant] = &[
    Mutant {
        without: "a hold released only after PaymentCancelled",
        file: LIFECYCLE,
        was: "            ChainLeg::Open => {
                self.effects.push(Effect::CancelOnChain);
                vec![State::Cancelling(reason)]
            }
            ChainLeg::Settled => self.pay_out(),
            ChainLeg::Closed => self.wind_down(reason),",
        becomes: "            ChainLeg::Open => {
                self.effects.push(Effect::CancelOnChain);
                if let Some(asked) = release_due(self.terms, self.legs.hold) {
                    self.legs.hold = asked;
                    self.effects.push(Effect::Bank(BankStep::Release));
                }
                vec![State::Cancelling(reason)]
            }
            ChainLeg::Settled => self.pay_out(),
            ChainLeg::Closed => self.wind_down(reason),",
        catcher: RACES,
    },
    Mutant {
        without: "a look at where people have sent a payment: a hold that backs what is settled is released",
        file: LIFECYCLE,
        was: "        let asked_again = legs.unanswered().filter(|step| is_awaited(terms, state, *step));",
        becomes: "        let asked_again = legs.unanswered().filter(|_| !state.is_terminal());",
        catcher: RACES,
    },
    Mutant {
        without: "a question to the bank about what it refused before people looked at something else",
        file: LIFECYCLE,
        was: "    if matches!(event, Event::Reviewed(Decision::Resume | Decision::Cancel)) {",
        becomes: "    if progress.state == State::UnderReview(ReviewReason::BankRefused)\n        && matches!(event, Event::Reviewed(Decision::Resume | Decision::Cancel)) {",
        catcher: RACES,
    },
    Mutant {
        without: "capture only after settlement (an ordinary hold)",
        file: LIFECYCLE,
        was: "            HoldLeg::Placed if confirm_only => {",
        becomes: "            HoldLeg::Placed => {",
        catcher: it(DOMAIN, &["races::", "matrix::"]),
    },
    Mutant {
        without: "the boundary: no settlement from the margin on",
        file: LIFECYCLE,
        was: "        if self.now >= self.terms.settle_before {",
        becomes: "        if self.now > self.terms.settle_before {",
        catcher: RACES,
    },
    Mutant {
        without: "the boundary: no cancellation before the margin",
        file: LIFECYCLE,
        was: "(Event::SettleWindowClosing, _) if now < terms.settle_before =>",
        becomes: "(Event::SettleWindowClosing, _) if now <= terms.settle_before =>",
        catcher: RACES,
    },
    Mutant {
        without: "the chain deciding races: a settlement while cancelling",
        file: LIFECYCLE,
        was: "            Event::Chain(ChainLog::Settled) => Direction::Forward,\n            Event::Chain(ChainLog::Initiated) => Direction::Cancel(reason),",
        becomes: "            Event::Chain(ChainLog::Settled) => Direction::Stay(*state),\n            Event::Chain(ChainLog::Initiated) => Direction::Cancel(reason),",
        catcher: RACES,
    },
    Mutant {
        without: "a look at how long the bank's hold lasts",
        file: LIFECYCLE,
        was: "if until < terms.hold_until => Direction::Cancel(EndReason::HoldTooShort)",
        becomes: "if until < Timestamp::EPOCH => Direction::Cancel(EndReason::HoldTooShort)",
        catcher: RACES,
    },
    Mutant {
        without: "attention to a reorganisation",
        file: LEGS,
        was: "            Event::ChainRemoved(log) => self.learn_removed(terms, log),",
        becomes: "            Event::ChainRemoved(_) => Err(NotLearned::Repeat),",
        catcher: RACES,
    },
    Mutant {
        without: "correcting entries for what a reorganisation took back",
        file: LEGS,
        was: "                self.settlement_entries(terms).into_iter().rev().map(removed).collect()",
        becomes: "                vec![]",
        catcher: RACES,
    },
    Mutant {
        without: "memory of outcomes: a capture told twice is posted twice",
        file: LEGS,
        was: "self.learn_hold(&[HoldLeg::CaptureAsked], HoldLeg::Captured)?;",
        becomes: "self.learn_hold(&[HoldLeg::CaptureAsked, HoldLeg::Captured], HoldLeg::Captured)?;",
        catcher: it(DOMAIN, &["races::", "matrix::"]),
    },
    Mutant {
        without: "holds in the check of what is available",
        file: "crates/flowbridge-domain/src/ledger.rs",
        was: "        self.posted.saturating_sub(self.held)",
        becomes: "        self.posted",
        catcher: it(DOMAIN, &["slice::"]),
    },
    Mutant {
        without: "a query before a bank operation is sent again",
        file: "crates/flowbridge-bank/src/connector.rs",
        was: "            Self::NotFound => NextMove::Query(Some(conclusive_at)),",
        becomes: "            Self::NotFound => NextMove::Send(None),",
        catcher: lib(BANK, &["connector::"]),
    },
    Mutant {
        without: "\"unknown\": a time-out taken for \"not sent\"",
        file: "crates/flowbridge-bank/src/connector.rs",
        was: "            Self::Unanswered { retry_at, .. } => NextMove::Query(retry_at),",
        becomes: "            Self::Unanswered { retry_at, .. } => NextMove::Send(retry_at),",
        catcher: lib(BANK, &["connector::"]),
    },
    Mutant {
        without: "both keys while a webhook secret is rotated",
        file: "crates/flowbridge-security/src/webhook.rs",
        was: "        for keys in keys {\n            let symmetric",
        becomes: "        for keys in keys.iter().take(1) {\n            let symmetric",
        catcher: it(SECURITY, &["webhook::"]),
    },
    Mutant {
        without: "finality before a nonce is given up",
        file: PLAN,
        was: "        None if tx.nonce >= view.finally_used_below => None,",
        becomes: "        None if tx.nonce >= view.used_below => None,",
        catcher: lib(CHAIN, &["plan::"]),
    },
    Mutant {
        without: "memory of what filled a hole: our own filler taken for somebody else's transaction",
        file: PLAN,
        was: "        None if view.filled.contains(&tx.nonce) => Some(Action::Filled(tx.id)),",
        becomes: "        None if view.filled.contains(&tx.nonce) => Some(Action::Replaced(tx.id)),",
        catcher: lib(CHAIN, &["plan::"]),
    },
    Mutant {
        without: "finality before a reverted transaction's payments are sent again",
        file: PLAN,
        was: "(receipt.block_number <= view.final_number).then_some(Action::Reverted(tx.id))",
        becomes: "Some(Action::Reverted(tx.id))",
        catcher: lib(CHAIN, &["plan::"]),
    },
    Mutant {
        without: "all versions of a transaction in mind",
        file: PLAN,
        was: "    match tx.hashes.iter().find_map(|hash| view.receipts.get(hash)) {",
        becomes: "    match tx.hashes.last().and_then(|hash| view.receipts.get(hash)) {",
        catcher: lib(CHAIN, &["plan::"]),
    },
    Mutant {
        without: "catching up with a nonce that the chain has seen used",
        file: PLAN,
        was: "    if view.used_below > next_nonce {",
        becomes: "    if view.used_below > next_nonce && open.is_empty() && view.finally_used_below > next_nonce {",
        catcher: lib(CHAIN, &["plan::"]),
    },
    Mutant {
        without: "confirmations: a log counts as soon as it is seen",
        file: "crates/flowbridge-chain/src/watch.rs",
        was: "head.latest.number.saturating_sub(count.saturating_sub(1))",
        becomes: "head.latest.number.saturating_sub(count.saturating_sub(count))",
        catcher: it(CHAIN, &["watching::logs_wait_for_the_confirmations_that_policy_asks_for"]),
    },
    Mutant {
        without: "a connection at rest: who is cancelled gives back one on which a transaction is open",
        file: "crates/flowbridge-store/src/db.rs",
        was: "            drop(Object::take(connection));",
        becomes: "            drop(connection);",
        catcher: lib(STORE, &["db::"]),
    },
    Mutant {
        without: "a commit before the answer: what was accepted is not there",
        file: "crates/flowbridge-store/src/accept.rs",
        was: "        acceptance.write(&tx, &fresh, now).await?;\n    }\n    tx.commit().await?;",
        becomes: "        acceptance.write(&tx, &fresh, now).await?;\n    }\n    tx.rollback().await?;",
        catcher: it(GATEWAY, &["what_was_created_says_where_it_is_also_when_repeated"]),
    },
    Mutant {
        without: "a unique idempotency key",
        file: "migrations/V1__spine.sql",
        was: "    created_at   timestamptz not null,\n    primary key (client_id, route, key)\n);",
        becomes: "    created_at   timestamptz not null\n);",
        catcher: it(GATEWAY, &["a_key_that_another_gateway_is_at_is_waited_for_and_answered_as_there"]),
    },
    Mutant {
        without: "attention to clients that have gone: what nobody waits for is carried out first",
        file: "crates/flowbridge-gateway/src/batcher.rs",
        was: "            waiting.retain(|(_, asker)| !asker.reply.is_closed());",
        becomes: "            waiting.retain(|_| true);",
        catcher: it(GATEWAY, &["what_nobody_waits_for_any_more_is_not_carried_out"]),
    },
    Mutant {
        without: "other refunds in the limit of a refund",
        file: "crates/flowbridge-store/src/accept.rs",
        was: "            tx.execute(RESERVE_QUOTA, &[&self.quota.0, &self.quota.1]).await?;",
        becomes: "            let _ = RESERVE_QUOTA;",
        catcher: it(GATEWAY, &["parallel_refunds_never_exceed_the_payment"]),
    },
    Mutant {
        without: "a fence: a late result of a lost claim is recorded",
        file: "crates/flowbridge-store/src/webhook.rs",
        was: "where delivery.id = new.id and delivery.fence = new.fence and delivery.state = 'claimed'",
        becomes: "where delivery.id = new.id and delivery.fence >= new.fence",
        catcher: it(WORKERS, &["a_late_result_of_a_lost_claim_changes_nothing"]),
    },
    Mutant {
        without: "a fence: a bank's late answer to a lost claim is recorded",
        file: "crates/flowbridge-store/src/effect.rs",
        was: " and effect.kind = new.kind and effect.fence = new.fence\n",
        becomes: " and effect.kind = new.kind and effect.fence >= new.fence\n",
        catcher: it(WORKERS, &["fences::"]),
    },
    Mutant {
        without: "a fence: who has lost a partition of the log moves its offset",
        file: "crates/flowbridge-store/src/event_log.rs",
        was: " and o.partition = moved.partition and o.epoch = moved.epoch\n",
        becomes: " and o.partition = moved.partition and o.epoch >= moved.epoch\n",
        catcher: it(WORKERS, &["fences::"]),
    },
    Mutant {
        without: "a fence: who has lost a lane gives its nonces away",
        file: "crates/flowbridge-store/src/chain/lanes.rs",
        was: "where lane = $1 and epoch = $2 for update\";",
        becomes: "where lane = $1 and epoch >= $2 for update\";",
        catcher: it(WORKERS, &["fences::"]),
    },
    Mutant {
        without: "a fence: who has lost the watcher's place moves it",
        file: "crates/flowbridge-store/src/chain/watch.rs",
        was: "        where epoch = $1 and block_number = $5 and block_hash = $6 and announced_number = $7\";",
        becomes: "        where epoch >= $1 and block_number = $5 and block_hash = $6 and announced_number = $7\";",
        catcher: it(WORKERS, &["fences::"]),
    },
    Mutant {
        without: "order: an event may overtake an earlier one of its payment",
        file: "crates/flowbridge-store/src/webhook.rs",
        was: "                                    and (earlier.xid, earlier.seq) < (delivery.xid, delivery.seq)\n",
        becomes: "                                    and (earlier.xid, earlier.seq) < (delivery.xid, delivery.seq) and false\n",
        catcher: it(WORKERS, &["order_within_a_payment_is_kept_while_one_of_its_events_fails"]),
    },
    Mutant {
        without: "order: what a later transaction did may be told of later than what an earlier one saw of it",
        file: "crates/flowbridge-store/src/payment.rs",
        was: "        if row.try_get(\"overtaken\")? {\n",
        becomes: "        if row.try_get::<_, bool>(\"overtaken\")? && rows.is_empty() {\n",
        catcher: it(WORKERS, &["windows::"]),
    },
    Mutant {
        without: "the watcher's place: a window closes by what it has not read yet",
        file: "crates/flowbridge-store/src/chain/watch.rs",
        was: "    let (final_number, final_time) = if finalized.number <= announced {\n",
        becomes: "    let (final_number, final_time) = if finalized.number <= announced.max(finalized.number) {\n",
        catcher: it(WORKERS, &["windows::"]),
    },
    Mutant {
        without: "patience with dead letters: a window closes on what waits for a person",
        file: "crates/flowbridge-store/src/lifecycle.rs",
        was: "where dead_letter.consumer_group = 'orchestrator' and dead_letter.key = payment.id",
        becomes: "where dead_letter.consumer_group = 'nobody' and dead_letter.key = payment.id",
        catcher: it(WORKERS, &["windows::"]),
    },
    Mutant {
        without: "the very block: a transaction is done in any block of its number",
        file: "crates/flowbridge-store/src/chain/send.rs",
        was: " and chain_block.hash = chain_tx.included_hash\";",
        becomes: "\";",
        catcher: it(WORKERS, &["windows::"]),
    },
    Mutant {
        without: "attention to what the contracts count: a log that a node leaves out is never missed",
        file: "crates/flowbridge-store/src/chain/logs.rs",
        was: "    (number != expected).then(",
        becomes: "    (number == 0).then(",
        catcher: it(WORKERS, &["windows::"]),
    },
    Mutant {
        without: "attention to what the contracts have counted: a log that is left out and that no call follows is never missed",
        file: "crates/flowbridge-store/src/chain/holes.rs",
        was: "            if told <= known {",
        becomes: "            if told <= known.max(told) {",
        catcher: it(WORKERS, &["windows::"]),
    },
    Mutant {
        without: "a way on from what a bank refuses: it is not asked again",
        file: LIFECYCLE,
        was: "        travel.effects.extend(asked_again.map(Effect::Bank));",
        becomes: "        drop(asked_again);",
        catcher: RACES,
    },
    Mutant {
        without: "room for batches: payments that need a transaction each take all of a lane's",
        file: "crates/flowbridge-workers/src/chain/sender.rs",
        was: "        let singles_max = (room / 2).max(1);",
        becomes: "        let singles_max = room.max(1);",
        catcher: it(WORKERS, &["payments_that_need_a_transaction_each"]),
    },
    Mutant {
        without: "an order between giving up what is reverted and taking back what was done: each looks past the other",
        file: "crates/flowbridge-store/src/chain/send.rs",
        was: "    if reverted {\n        tx.query(HOLD_WATCHER, &[]).await?;",
        becomes: "    if reverted && given.is_empty() {\n        tx.query(HOLD_WATCHER, &[]).await?;",
        catcher: it(WORKERS, &["what_is_reverted_while_the_watcher_goes_back"]),
    },
    Mutant {
        without: "a second node: what the first takes and passes on to nobody is offered to nobody else",
        file: "crates/flowbridge-workers/src/chain/sender.rs",
        was: "        for node in self.chain.others() {",
        becomes: "        for node in self.chain.others().into_iter().skip(usize::MAX) {",
        catcher: it(WORKERS, &["what_one_node_takes_and_passes_on_to_nobody"]),
    },
    Mutant {
        without: "the whole time in which a bank may have been asked: its silence counts from the claim",
        file: "crates/flowbridge-store/src/effect.rs",
        was: "                when due.state = 'claimed' and effect.sent_at = effect.state_since then effect.lease_until else effect.sent_at end,",
        becomes: "                else effect.sent_at end,",
        catcher: it(WORKERS, &["what_a_bank_answered_to_whoever_has_lost_its_claim"]),
    },
    Mutant {
        without: "memory of what is in the audit log: an event that is read again is entered again",
        file: AUDIT,
        was: "        for event in events.iter().filter(|event| !entered.contains(&event.id)) {",
        becomes: "        for event in events.iter().filter(|event| !entered.contains(&event.id) || !entered.is_empty()) {",
        catcher: it(WORKERS, &["each_event_is_entered_once"]),
    },
    Mutant {
        without: "a gapless audit log: the offset moves, and what was read is not entered",
        file: AUDIT,
        was: "        if !entries.is_empty() {\n            let added",
        becomes: "        if entries.is_empty() {\n            let added",
        catcher: it(WORKERS, &["each_event_is_entered_once"]),
    },
    Mutant {
        without: "a look back before signing: an audit log that was written anew is signed all the same",
        file: AUDIT,
        was: "        if size < before.size || !before.is_continued_by(size, &hashes)? {",
        becomes: "        if size < before.size || before.is_continued_by(size, &hashes).is_err() {",
        catcher: it(WORKERS, &["a_database_that_was_changed_is_neither_signed_nor_published"]),
    },
];

/// How a mutant ended.
#[derive(Debug)]
enum Fate {
    /// By the tests of these names.
    Caught(BTreeSet<String>),
    Survived,
}

/// Breaks each guarantee in turn, or those whose description or package contains `only`.
pub(crate) fn run(only: &str) -> Result<()> {
    let mutants: Vec<&Mutant> = MUTANTS
        .iter()
        .filter(|mutant| mutant.without.contains(only) || mutant.catcher.package.contains(only))
        .collect();
    ensure!(!mutants.is_empty(), "no mutant's description or package contains {only:?}");
    // Of the sources that are copied, whatever is committed meanwhile.
    let commit = shell::output(shell::command("git", &["rev-parse", "--short", "HEAD"]))
        .map_or("sources without a history".to_owned(), |commit| format!("commit {}", commit.trim()));
    let bench = Bench::new()?;
    let mut checked = BTreeSet::new();
    let mut fates = Vec::new();
    for mutant in mutants {
        if checked.insert(mutant.catcher) {
            let failed = bench.failing(&mutant.catcher)?;
            ensure!(failed.is_empty(), "fails before anything is broken: {failed:?}");
        }
        let began = Instant::now();
        let fate = bench.try_one(mutant).with_context(|| format!("without {}", mutant.without))?;
        let shown = match &fate {
            Fate::Caught(by) => format!("caught by {}", by.first().map_or("", String::as_str)),
            Fate::Survived => "SURVIVED".to_owned(),
        };
        println!("    {:>5.1} s  without {}: {shown}", began.elapsed().as_secs_f64(), mutant.without);
        fates.push((mutant, fate));
    }
    if only.is_empty() {
        write_table(&fates, &commit)?;
    }
    let survived = fates.iter().filter(|(_, fate)| matches!(fate, Fate::Survived)).count();
    println!("    {} of {} broken guarantees were noticed", fates.len() - survived, fates.len());
    ensure!(survived == 0, "{survived} broken guarantees were not noticed");
    Ok(())
}

/// A copy of the sources to break.
struct Bench {
    folder: PathBuf,
    target: PathBuf,
}

impl Bench {
    fn new() -> Result<Self> {
        let target = shell::target_folder()?;
        let folder = target.join("guarantees");
        for part in ["crates", "xtask", "migrations", "config", "models", "docs"] {
            copy(&shell::root().join(part), &folder.join(part))?;
        }
        copy(&shell::root().join("contracts/artifacts"), &folder.join("contracts/artifacts"))?;
        copy(&shell::root().join("contracts/specs"), &folder.join("contracts/specs"))?;
        for file in ["Cargo.toml", "Cargo.lock", "clippy.toml"] {
            copy(&shell::root().join(file), &folder.join(file))?;
        }
        Ok(Self { folder, target })
    }

    fn try_one(&self, mutant: &Mutant) -> Result<Fate> {
        let file = self.folder.join(mutant.file);
        let text = fs::read_to_string(&file)?;
        mutant.require_place(&text)?;
        fs::write(&file, text.replacen(mutant.was, mutant.becomes, 1))?;
        let failed = self.failing(&mutant.catcher);
        fs::write(&file, text)?;
        let failed = failed?;
        Ok(if failed.is_empty() { Fate::Survived } else { Fate::Caught(failed) })
    }

    /// The tests of a catcher that fail as the sources are now.
    fn failing(&self, catcher: &Catcher) -> Result<BTreeSet<String>> {
        let program = self.build(catcher)?;
        let mut command = shell::command(program, catcher.tests);
        command
            .current_dir(self.folder.join("crates").join(catcher.package))
            .env("INSTA_WORKSPACE_ROOT", &self.folder)
            .env("PROPTEST_CASES", "64")
            .env("RUST_BACKTRACE", "0")
            .stderr(Stdio::null());
        let output = self.target.join("guarantees.out");
        command.stdout(fs::File::create(&output)?);
        let mut child = command.spawn().context("the tests cannot be run")?;
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if began.elapsed() > PATIENCE {
                child.kill()?;
                child.wait()?;
                break None;
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        let text = fs::read_to_string(&output)?;
        let mut failed: BTreeSet<String> = text
            .lines()
            .filter_map(|line| Some(line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?.to_owned()))
            .collect();
        match status {
            None => drop(failed.insert(format!("no end within {} s", PATIENCE.as_secs()))),
            Some(status) if !status.success() && failed.is_empty() => {
                bail!("the tests ended with {status}:\n{text}")
            }
            Some(_) => ensure!(!text.contains("running 0 tests"), "no test is called {:?}", catcher.tests),
        }
        Ok(failed)
    }

    /// Compiles a catcher's tests, and gives the program that holds them.
    fn build(&self, catcher: &Catcher) -> Result<PathBuf> {
        let target: &[&str] = match catcher.target {
            Target::It => &["--test", "it"],
            Target::Lib => &["--lib"],
        };
        let mut build = shell::cargo(&["test", "--quiet", "--no-run", "--message-format", "json"]);
        build.args(["--package", catcher.package]).args(target);
        // A folder of its own: cargo takes what it built from the copy for what it would build from here.
        build.current_dir(&self.folder).env("CARGO_TARGET_DIR", self.target.join("guarantees-target"));
        let output = build.output().context("cargo cannot be run")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let messages: Vec<serde_json::Value> =
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if !output.status.success() {
            let errors: Vec<&str> = messages
                .iter()
                .filter(|message| message.pointer("/message/level").is_some_and(|level| level == "error"))
                .filter_map(|message| message.pointer("/message/rendered")?.as_str())
                .collect();
            bail!("it does not compile:\n{}", errors.join("\n"));
        }
        let program = messages
            .iter()
            .filter(|message| message.pointer("/profile/test").is_some_and(|test| test == true))
            .filter_map(|message| message.get("executable")?.as_str())
            .next_back();
        program.map(PathBuf::from).context("cargo named no test program")
    }
}

/// Copies a file or a folder. What is the same already is left alone, so that cargo compiles only what has changed.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        let mut kept = BTreeSet::new();
        for entry in fs::read_dir(from)?.flatten() {
            kept.insert(entry.file_name());
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        for entry in fs::read_dir(to)?.flatten().filter(|entry| !kept.contains(&entry.file_name())) {
            if entry.path().is_dir() {
                fs::remove_dir_all(entry.path())?
            } else {
                fs::remove_file(entry.path())?
            }
        }
        return Ok(());
    }
    let content = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    if fs::read(to).ok().as_deref() != Some(&content[..]) {
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(to, content)?;
    }
    Ok(())
}

const TABLE: &str = "docs/GUARANTEES.md";

fn write_table(fates: &[(&Mutant, Fate)], commit: &str) -> Result<()> {
    let mut text = format!(
        "# Our guarantees, broken on purpose\n\nWritten by `cargo xtask mutants` at {commit}: each guarantee is taken out of a copy of \
         the sources, and the tests named\nbeside it have to fail. The patches are in `xtask/src/mutants.rs`.\n\n\
         | without | in | noticed by |\n| --- | --- | --- |\n"
    );
    for (mutant, fate) in fates {
        let by = match fate {
            Fate::Survived => "**nobody**".to_owned(),
            Fate::Caught(by) => {
                let first = by.first().map_or("", String::as_str);
                let more = if by.len() > 1 { format!(" and {} more", by.len() - 1) } else { String::new() };
                format!("`{}`: `{first}`{more}", mutant.catcher.package)
            }
        };
        writeln!(text, "| {} | `{}` | {by} |", mutant.without, mutant.file)?;
    }
    fs::write(shell::root().join(TABLE), text).context("write the result")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_mutant_breaks_is_there() {
        for mutant in MUTANTS {
            let text = fs::read_to_string(shell::root().join(mutant.file)).unwrap();
            mutant.require_place(&text).unwrap();
        }
    }
}
