//! One run over one bank: the statement, both sides, the engine, and what its answer means here.
//!
//! Three rules stand above the engine. An operation's key is proof, so what carries the same key belongs together whatever the
//! amounts, and what carries different keys never does. An entry that the bank booked after the statement's instant is in
//! transit, and one that it confirmed before is not; a line whose operation we are still reading about is on its way into our
//! books. And a pair that the engine only thinks right is a question to a person, not a match.
//!
//! A run that was cut off, because there is more than it may look at, takes what is proven and says of nothing else what it is: what it
//! has not read may be its partner. The rest is for the run that sees it all, which is asked for at once.

use super::intake::{self, FetchError};
use super::models::{self, Judging};
use super::policy::{self, Policy};
use super::{Settings, books, cuts};
use crate::context::Context;
use flowbridge_bank::registry::GuardedBank;
use flowbridge_domain::bank::OperationKey;
use flowbridge_domain::id::StatementEntryId;
use flowbridge_domain::party::BankCode;
use flowbridge_domain::time::Timestamp;
use flowbridge_recon::anomaly::{self, Anomaly, Memory, RunSummary, Severity};
use flowbridge_recon::break_kind::BreakKind;
use flowbridge_recon::correction;
use flowbridge_recon::date::Date;
use flowbridge_recon::engine::{self, Break, Decision, How, Match, Outcome, Subject};
use flowbridge_recon::files;
use flowbridge_recon::gate::StatementHead;
use flowbridge_recon::policy::Route;
use flowbridge_recon::record::Record;
use flowbridge_recon::report::{self, Balance, BalanceAt, Extras, Manifest, Report};
use flowbridge_store::StoreError;
use flowbridge_store::exception::{self, Found, Suggested, TO_AUDIT, TO_CONFIRM};
use flowbridge_store::promotion;
use flowbridge_store::reconciliation::{
    self as rows, ClaimedRun, Findings, LastStatement, NewMatch, OurEntry, RecordKey, Sides, TheirLine,
};
use flowbridge_store::segment::{self, Evidence, Judged, Learned, SegmentKey};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Why a run did not succeed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    /// The bank did not tell its statement.
    #[error("the bank's statement could not be read")]
    Bank(#[source] flowbridge_bank::connector::ReadError),
    /// Nothing is known by that name.
    #[error("nothing is known by the scope {0}")]
    Scope(String),
    /// The engine ended, or its report could not be written.
    #[error("the engine did not finish: {0}")]
    Engine(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What an index still holds, in whatever alphabet.
const GAP_CHARS_MAX: usize = 500;
/// And of the names of records that are asked about together.
const PAIR_BYTES_MAX: usize = 2_500;

/// A run that was cut off goes on at once if it has done with at least this part of what it may look at. Otherwise records that keep coming
/// would have runs follow each other for ever beside old ones that are too many for any of them.
const PART_TO_GO_ON: usize = 10;

/// What a run found, for the caller to record.
pub(super) struct Compared {
    pub(super) findings: Findings,
    /// It was cut off, and the next will get further.
    pub(super) goes_on: bool,
}

/// Does a run.
pub(super) async fn reconcile(
    context: &Context,
    run: &ClaimedRun,
    (code, bank): (&BankCode, Option<&GuardedBank>),
    settings: &Settings,
) -> Result<Compared, RunError> {
    let stage =
        async |name: &str| rows::note_stage(&context.db, run, name, context.now(), settings.lease).await;
    let (mut gap, mut has_more) = (None, false);
    if let Some(bank) = bank {
        stage("reading the bank's statement").await?;
        match intake::fetch(context, (code, bank), settings).await {
            Ok(more) => has_more = more,
            // It is what people decide about, and so a part of a key.
            Err(FetchError::Gap(what)) => gap = Some(intake::plain(&what, GAP_CHARS_MAX)),
            Err(FetchError::NotNow(error)) => return Err(RunError::Bank(error)),
            Err(FetchError::Store(error)) => return Err(error.into()),
        }
    }
    stage("reading both sides").await?;
    let now = context.now();
    let decided = exception::decided(&context.db, &run.scope, BreakKind::StatementGap.code()).await?;
    // Before the books are read: what is put right in between is no longer in them, and must not look as if it were there again.
    let put_right = exception::booked(&context.db, &run.scope, BreakKind::SupplyNotReserve.code()).await?;
    let sides = rows::sides(&context.db, code.as_str(), now, settings.records_max, &decided).await?;
    let operations = books::operations_of_lines(&sides.ours, &sides.theirs);
    let mut work = Work::new(run, sides, operations, settings, now);
    work.leave_out_what_is_under_way(context).await?;
    work.leave_out_what_may_belong_elsewhere();
    work.refused = exception::refused_pairs(&context.db, &run.scope).await?.into_iter().collect();
    work.booked_before = booked_before(context, &work).await?;
    work.put_right = put_right;
    let evidence = segment::evidence(&context.db, &run.scope).await?;
    let promoted = promotion::promoted(&context.db).await?;
    stage("matching").await?;
    let settings = settings.clone();
    let run = run.clone();
    tokio::task::spawn_blocking(move || {
        let judging = models::judging(settings.models.as_deref(), &promoted)
            .map_err(|error| RunError::Engine(crate::context::chain(&error)))?;
        let since = promoted.first().map(|newest| newest.since);
        work.finish(&run, (gap, has_more), (&evidence, since, &judging), &settings)
    })
    .await
    .map_err(|error| RunError::Engine(error.to_string()))?
}

/// Operations whose entries have found their line in an earlier run: another line of theirs is a repeat.
async fn booked_before(context: &Context, work: &Work) -> Result<HashSet<(Uuid, String)>, RunError> {
    let ours: HashSet<&RecordKey> = work.sides.ours.iter().map(|entry| &entry.key).collect();
    let wanted: Vec<(Uuid, &'static str)> = work
        .operations
        .iter()
        .flatten()
        .filter_map(|key| Some((key.payment_id.as_uuid(), books::moment_of(key.step)?)))
        .filter(|(source, moment)| !ours.contains(&RecordKey::entry(*source, (*moment).to_owned(), 0)))
        .collect();
    Ok(rows::matched(&context.db, &wanted).await?.into_iter().collect())
}

/// Both sides on their way through the engine.
struct Work {
    sides: Sides,
    /// The operation of each line.
    operations: Vec<Option<OperationKey>>,
    /// The statement of each currency.
    statements: HashMap<String, LastStatement>,
    /// Entries that the bank booked after the statement's instant.
    in_transit: Vec<OurEntry>,
    /// Lines whose operation we are still reading about, or whose entry is for the next run.
    under_way: Vec<TheirLine>,
    /// Lines without a day, or in a currency that is none.
    left_out: usize,
    refused: BTreeSet<String>,
    booked_before: HashSet<(Uuid, String)>,
    /// Differences of the balance that people have posted an entry for.
    put_right: BTreeSet<String>,
    now: Timestamp,
}

impl Work {
    fn new(
        run: &ClaimedRun,
        mut sides: Sides,
        operations: Vec<Option<OperationKey>>,
        settings: &Settings,
        now: Timestamp,
    ) -> Self {
        let mut statements: HashMap<String, LastStatement> = HashMap::new();
        for statement in &sides.statements {
            statements.insert(statement.currency.clone(), statement.clone());
        }
        // Without a statement of its currency there is nothing to compare an entry with.
        let (ours, in_transit) = std::mem::take(&mut sides.ours).into_iter().partition(|entry| {
            statements
                .get(&entry.currency)
                .is_some_and(|statement| entry.booked_at.unwrap_or(entry.posted_at) <= statement.as_of)
        });
        sides.ours = ours;
        tracing::debug!(
            scope = run.scope,
            records_max = settings.records_max,
            entries = sides.ours.len(),
            lines = sides.theirs.len(),
            "read both sides"
        );
        Self {
            sides,
            operations,
            statements,
            in_transit,
            under_way: Vec::new(),
            left_out: 0,
            refused: BTreeSet::new(),
            booked_before: HashSet::new(),
            put_right: BTreeSet::new(),
            now,
        }
    }

    async fn leave_out_what_is_under_way(&mut self, context: &Context) -> Result<(), RunError> {
        let ours: HashSet<OperationKey> = self
            .sides
            .ours
            .iter()
            .chain(&self.in_transit)
            .filter_map(|entry| books::operation_of(&entry.key))
            .collect();
        let unknown: Vec<(Uuid, &'static str)> = self
            .operations
            .iter()
            .flatten()
            .filter(|key| !ours.contains(key))
            .map(|key| (key.payment_id.as_uuid(), key.step.as_str()))
            .collect();
        let under_way: HashSet<(Uuid, String)> =
            rows::under_way(&context.db, &unknown).await?.into_iter().collect();
        // An entry that is in transit by its instant, and whose line is here all the same, is compared.
        let lines: HashSet<OperationKey> = self.operations.iter().flatten().copied().collect();
        let (here, in_transit) = std::mem::take(&mut self.in_transit)
            .into_iter()
            .partition(|entry| books::operation_of(&entry.key).is_some_and(|key| lines.contains(&key)));
        let here: Vec<OurEntry> = here;
        self.in_transit = in_transit;
        self.sides.ours.extend(here);
        let lines =
            std::mem::take(&mut self.sides.theirs).into_iter().zip(std::mem::take(&mut self.operations));
        for (line, operation) in lines {
            let is_under_way = operation.is_some_and(|key| {
                under_way.contains(&(key.payment_id.as_uuid(), key.step.as_str().to_owned()))
            });
            if is_under_way {
                self.under_way.push(line);
            } else {
                self.sides.theirs.push(line);
                self.operations.push(operation);
            }
        }
        Ok(())
    }

    /// A run that was cut off compares what one operation's key names on both sides. Of anything else it does not know all that it may
    /// belong to: it waits for the run that does.
    fn leave_out_what_may_belong_elsewhere(&mut self) {
        if !self.sides.cut_off {
            return;
        }
        let named =
            |line: &TheirLine, operation: Option<OperationKey>| operation.or_else(|| line.named_operation());
        let by_lines: HashSet<OperationKey> = self
            .sides
            .theirs
            .iter()
            .zip(&self.operations)
            .filter_map(|(line, operation)| named(line, *operation))
            .collect();
        let (here, waiting): (Vec<OurEntry>, Vec<OurEntry>) = std::mem::take(&mut self.sides.ours)
            .into_iter()
            .partition(|entry| books::operation_of(&entry.key).is_some_and(|key| by_lines.contains(&key)));
        let by_entries: HashSet<OperationKey> =
            here.iter().filter_map(|entry| books::operation_of(&entry.key)).collect();
        self.sides.ours = here;
        self.in_transit.extend(waiting);
        let lines =
            std::mem::take(&mut self.sides.theirs).into_iter().zip(std::mem::take(&mut self.operations));
        for (line, operation) in lines {
            if named(&line, operation).is_some_and(|key| by_entries.contains(&key)) {
                self.sides.theirs.push(line);
                self.operations.push(operation);
            } else {
                self.under_way.push(line);
            }
        }
    }

    fn finish(
        mut self,
        run: &ClaimedRun,
        (gap, has_more): (Option<String>, bool),
        (evidence, since, judging): (&Evidence, Option<Timestamp>, &Judging),
        settings: &Settings,
    ) -> Result<Compared, RunError> {
        let (ledger, bank) = self.records();
        let as_of = self.sides.statements.iter().map(|statement| statement.as_of).max();
        let day = Date::parse_iso(&intake::day(as_of.unwrap_or(self.now))).unwrap_or_default();
        // What is in transit is known by instants: every entry that is left should be on the statement.
        let engine_settings = engine::Settings {
            transit_days_max: -1,
            auto_minor_units_max: settings.auto_minor_units_max,
            ..engine::Settings::on(day, settings.threads)
        };
        let mut outcome = engine::run(&ledger, &bank, &judging.model, &engine_settings);
        let judge = policy::Judge {
            model: &judging.sha256,
            since,
            // What stands in for the model in force has proven nothing for it.
            stands_in: !judging.passed_over.is_empty(),
        };
        let policy = Policy::of(evidence, (&judge, self.now), run, settings);
        let mut verdicts = Verdicts::default();
        self.judge_matches((&ledger, &bank), &policy, &mut outcome, &mut verdicts);
        self.judge_breaks((&ledger, &bank), &mut outcome, settings.transit_days_max);
        self.take_halves(&outcome, &mut verdicts);
        if self.sides.cut_off {
            outcome.breaks.retain(|found| self.is_of_a_match(&found.subject, &verdicts));
        }
        outcome.breaks.sort();
        self.name_exceptions(&ledger, &bank, &outcome, &mut verdicts);
        let balance = self.balance(&verdicts);
        let (proven, at_each) = cuts::at_each(&self.sides, &balance);
        let (differences, exceptions) = cuts::differences((&balance, &at_each), &self.put_right, self.now);
        outcome.breaks.extend(differences);
        verdicts.exceptions.extend(exceptions);
        let proofs = cuts::beyond_the_newest(&at_each, &balance);
        for missing in &self.sides.gaps {
            let found = account_break(BreakKind::StatementGap, &missing.account, missing.amount().into());
            let evidence = json!({
                "explanation": format!(
                    "a statement is missing before {}, or came with another balance: it opens with {}, the one before closes \
                     with {}, in minor units",
                    missing.name, missing.opening, missing.closing_before
                ),
                "statement": missing.name,
            });
            let about = (missing.subject(), missing.currency.clone());
            verdicts.exceptions.push(break_found(&found, about, evidence, (self.now, &[], false)));
            outcome.breaks.push(found);
        }
        if let Some(what) = gap {
            let found = account_break(BreakKind::StatementGap, &format!("statement of {}", run.scope), 0);
            let currency =
                self.sides.reserves.first().map_or_else(|| "EUR".to_owned(), |(code, _)| code.clone());
            let evidence = json!({ "explanation": what });
            let subject = (format!("statement: {what}"), currency);
            verdicts.exceptions.push(break_found(&found, subject, evidence, (self.now, &[], false)));
            outcome.breaks.push(found);
        }
        let heads = self.heads();
        // A night is compared with nights: what somebody asks for in between, and one that was cut off, see a part of a day.
        let is_night = run.is_nightly && !self.sides.cut_off && !has_more;
        let night = is_night
            .then(|| Night::look((&ledger, &bank), &outcome, (day, &judging.sha256), evidence))
            .transpose()?;
        let (anomalies, history) =
            night.as_ref().map_or((&[][..], &[][..]), |night| (&night.anomalies, &night.memory.runs));
        let mut summary = self.summary(run, (&ledger, &bank), &outcome, (&verdicts, &balance));
        summary["proofs"] = json!(proofs);
        summary["anomalies"] = json!(anomalies);
        summary["stages"] = json!(
            policy
                .changes
                .iter()
                .map(|change| {
                    json!({
                        "account": change.segment.account, "rail": change.segment.rail, "how": change.segment.how,
                        "stage": change.stage, "decided": change.counts[0], "errors": change.counts[1],
                        "audited": change.counts[2], "audit_errors": change.counts[3],
                    })
                })
                .collect::<Vec<_>>()
        );
        let refused: Vec<&str> = self.refused.iter().map(String::as_str).collect();
        let balances =
            serde_json::to_vec(&(&balance, &proofs)).map_err(|error| RunError::Engine(error.to_string()))?;
        let inputs = BTreeMap::from([
            (format!("stages of {}", run.scope), policy.sha256()),
            (format!("balances of {}", run.scope), report::sha256(&balances)),
            (format!("pairs refused in {}", run.scope), report::sha256(refused.join("\n").as_bytes())),
        ]);
        let made_of = MadeOf {
            scope: &run.scope,
            inputs,
            model_sha256: judging.sha256.clone(),
            settings: &engine_settings,
            summary: &summary,
            anomalies,
            history,
            balance: &balance,
            proofs: &proofs,
        };
        let (manifest_sha256, reports) = reports((&ledger, &bank), &outcome, &heads, made_of)?;
        let memory = night.as_ref().map(Night::kept).transpose()?;
        // Not in the report, which is the same for the same manifest: that names the model, and not what others lacked.
        summary["model"] = told_of(judging);
        let matched: HashSet<&RecordKey> = verdicts.matches.iter().flat_map(|found| &found.records).collect();
        let open = self
            .sides
            .ours
            .iter()
            .chain(&self.in_transit)
            .map(|entry| entry.key.clone())
            .filter(|key| !matched.contains(key))
            .collect();
        // Nor does what it judges now, which would stand in the way of what the one in force judges of the same.
        let judged = if judge.stands_in { Vec::new() } else { verdicts.judged };
        let done = verdicts.matches.len().saturating_add(self.sides.newly_read);
        let is_cut_off = self.sides.cut_off || has_more;
        let goes_on = is_cut_off && done.saturating_mul(PART_TO_GO_ON) >= settings.records_max.max(1);
        let findings = Findings {
            as_of,
            ledger_until: self.sides.until,
            manifest_sha256,
            summary,
            is_whole: !self.sides.cut_off,
            proven,
            open,
            exceptions: verdicts.exceptions,
            reports,
            matches: verdicts.matches,
            learned: Learned { judged, stages: policy.changes, memory },
        };
        Ok(Compared { findings, goes_on })
    }

    /// Both sides as the engine wants them; positions in the records are positions in the sides.
    fn records(&mut self) -> (Vec<Record>, Vec<Record>) {
        let accounts: HashMap<&str, Arc<str>> = self
            .statements
            .values()
            .map(|statement| (statement.currency.as_str(), Arc::from(statement.account.as_str())))
            .collect();
        let mut ledger = Vec::with_capacity(self.sides.ours.len());
        let mut ours = Vec::with_capacity(self.sides.ours.len());
        for entry in std::mem::take(&mut self.sides.ours) {
            let account = accounts.get(entry.currency.as_str());
            let Some(record) = account.and_then(|account| books::our_record(&entry, account)) else {
                // Nothing to compare it with yet: it stays open.
                self.in_transit.push(entry);
                continue;
            };
            ledger.push(record);
            ours.push(entry);
        }
        let mut bank = Vec::with_capacity(self.sides.theirs.len());
        let (mut theirs, mut operations) = (Vec::new(), Vec::new());
        let lines =
            std::mem::take(&mut self.sides.theirs).into_iter().zip(std::mem::take(&mut self.operations));
        for (line, operation) in lines {
            let Some(record) = books::their_record(&line, operation) else {
                self.left_out += 1;
                continue;
            };
            bank.push(record);
            theirs.push(line);
            operations.push(operation);
        }
        (self.sides.ours, self.sides.theirs, self.operations) = (ours, theirs, operations);
        (ledger, bank)
    }

    /// Which of the engine's matches hold by themselves, which are questions, and which cannot be.
    fn judge_matches(
        &self,
        (ledger, bank): (&[Record], &[Record]),
        policy: &Policy,
        outcome: &mut Outcome,
        verdicts: &mut Verdicts,
    ) {
        let matches = std::mem::take(&mut outcome.matches);
        let mut kept = Vec::with_capacity(matches.len());
        for mut found in matches {
            let operations = (self.our_operations(&found), self.their_operations(&found));
            let is_proven = !operations.0.is_empty() && operations.0 == operations.1;
            let is_contradicted = !is_proven && !operations.1.is_empty() && !operations.0.is_empty();
            let pair = subject_of(ledger, bank, &found);
            if is_contradicted || self.refused.contains(&pair) {
                take_apart((ledger, bank), &found, outcome);
                continue;
            }
            let holds = match (found.how, found.decision) {
                (How::Reference | How::Group(_), Decision::Auto) => true,
                (How::Reference | How::Group(_) | How::Model, _) => is_proven,
            };
            if !holds && pair.len() > PAIR_BYTES_MAX {
                // Nobody can be asked about it as a whole: each of its records is a question of its own.
                tracing::warn!(
                    records = found.ledger.len() + found.bank.len(),
                    "a group is too large to be asked about"
                );
                take_apart((ledger, bank), &found, outcome);
                continue;
            }
            if self.sides.cut_off && !(is_proven || holds && found.how == How::Reference) {
                // What was not read may be its partner.
                continue;
            }
            let route = if holds {
                Route::Posted
            } else {
                let (route, judged) = self.route(policy, bank, &found, &pair);
                verdicts.judged.extend(judged);
                route
            };
            // What the report says of it is what became of it.
            found.decision = match route {
                Route::Posted | Route::PostedAndAudited => Decision::Auto,
                Route::Shadow | Route::Person | Route::FourEyes => Decision::Suggest,
            };
            match route {
                Route::Shadow => {
                    take_apart((ledger, bank), &found, outcome);
                    // Who is shown what the engine thinks does not put them together by himself.
                    for entry in &found.ledger {
                        outcome.suggestions.remove(entry);
                    }
                    continue;
                }
                Route::Person | Route::FourEyes => verdicts.questions.push((pair, kept.len())),
                Route::Posted | Route::PostedAndAudited => {
                    verdicts.matches.push(self.new_match(&found, is_proven));
                    verdicts.matched.extend(self.keys_of(&found));
                    if route == Route::PostedAndAudited {
                        verdicts.exceptions.extend(self.to_look_at(pair, &found));
                    }
                }
            }
            kept.push(found);
        }
        outcome.matches = kept;
    }

    /// Where a match goes that is only likely, by what people have decided about such matches.
    fn route(
        &self,
        policy: &Policy,
        bank: &[Record],
        found: &Match,
        subject: &str,
    ) -> (Route, Option<Judged>) {
        let lines = || found.bank.iter().filter_map(|place| bank.get(*place as usize));
        let segment = SegmentKey {
            account: lines().next().map_or_else(String::new, |line| line.account.to_string()),
            rail: lines().next().map_or_else(String::new, |line| line.rail.to_string()),
            how: policy::how(found).to_owned(),
        };
        let minor_units = lines().fold(0_i128, |sum, line| sum.saturating_add(line.minor_units.abs()));
        let route = policy.route(&segment, found, subject, units(minor_units));
        let judged = policy::route_name(route).map(|name| Judged {
            subject: subject.to_owned(),
            route: name.to_owned(),
            segment,
            records: self.keys_of(found).map(|key| key.text()).collect(),
            model: Some(policy.model().to_owned()),
            at: self.now,
        });
        (route, judged)
    }

    /// A match that was taken without a person, for people to look at.
    fn to_look_at(&self, subject: String, found: &Match) -> Option<Found> {
        let about = self.pair_evidence(found);
        let line = found.bank.first().and_then(|place| self.sides.theirs.get(*place as usize))?;
        Some(Found {
            kind: TO_AUDIT.to_owned(),
            subject,
            currency: line.currency.clone(),
            amount: line.line.amount,
            owner: "accounting".to_owned(),
            advice: "it was taken without a person: accept if they belong together, or reject".to_owned(),
            about,
            records: Vec::new(),
            suggestions: Vec::new(),
            contra: None,
            correction: 0,
            is_lasting: true,
            since: self.now,
        })
    }

    /// Names what the engine could not know: a second line of an operation of an earlier day, two halves of one operation,
    /// and a bank that may still be on time.
    fn judge_breaks(
        &self,
        (ledger, bank): (&[Record], &[Record]),
        outcome: &mut Outcome,
        transit_days_max: i32,
    ) {
        let mut overdue: HashMap<&str, usize> = HashMap::new();
        for (place, found) in outcome.breaks.iter().enumerate() {
            if let (BreakKind::OverdueAtBank, Subject::Ledger(entry)) = (found.kind, &found.subject)
                && let Some(record) = ledger.get(*entry as usize)
            {
                overdue.insert(&record.reference, place);
            }
        }
        let mut halves = Vec::new();
        let mut names: Vec<(usize, BreakKind, i128)> = Vec::new();
        for (place, found) in outcome.breaks.iter().enumerate() {
            let (BreakKind::UnexpectedReceipt | BreakKind::UnexpectedDebit, Subject::Bank(line)) =
                (found.kind, &found.subject)
            else {
                continue;
            };
            let (Some(record), Some(operation)) =
                (bank.get(*line as usize), self.operations.get(*line as usize).copied().flatten())
            else {
                continue;
            };
            if let Some(half) = overdue.get(&*record.reference) {
                let ours = outcome.breaks.get(*half).map_or(0, |half| half.minor_units);
                names.push((place, BreakKind::OtherAmount, record.minor_units.saturating_sub(ours)));
                halves.push((*half, *line, &*record.reference));
                continue;
            }
            let before = books::moment_of(operation.step).is_some_and(|moment| {
                self.booked_before.contains(&(operation.payment_id.as_uuid(), moment.to_owned()))
            });
            if before {
                names.push((place, BreakKind::DuplicateBankLine, found.minor_units));
            }
        }
        let mut merged: Vec<(u32, u32)> = Vec::new();
        for (half, line, reference) in &halves {
            let entry = ledger.iter().position(|record| *record.reference == **reference);
            if let (Some(entry), Some(_)) =
                (entry.and_then(|entry| u32::try_from(entry).ok()), outcome.breaks.get(*half))
            {
                merged.push((entry, *line));
            }
        }
        let gone: HashSet<usize> = halves.iter().map(|(half, ..)| *half).collect();
        for (place, kind, minor_units) in names {
            if let Some(found) = outcome.breaks.get_mut(place) {
                (found.kind, found.minor_units) = (kind, minor_units);
            }
        }
        let mut place = 0;
        outcome.breaks.retain(|_| {
            place += 1;
            !gone.contains(&(place - 1))
        });
        for (entry, line) in merged {
            outcome.matches.push(by_key(ledger, bank, entry, line));
        }
        for found in &mut outcome.breaks {
            let Subject::Ledger(entry) = found.subject else { continue };
            let currency = ledger.get(entry as usize).map(|record| record.currency.code().to_owned());
            let has_instant = currency
                .and_then(|currency| self.statements.get(&currency))
                .is_some_and(|statement| statement.from_connector);
            if found.kind == BreakKind::OverdueAtBank && !has_instant && found.age_days <= transit_days_max {
                found.kind = BreakKind::InTransit;
            }
        }
    }

    /// Halves of one operation that were put together after the engine's matches were judged.
    fn take_halves(&self, outcome: &Outcome, verdicts: &mut Verdicts) {
        for found in &outcome.matches {
            let keys: Vec<RecordKey> = self.keys_of(found).collect();
            if found.how == How::Reference
                && !keys.iter().any(|key| verdicts.matched.contains(key))
                && found.decision == Decision::Auto
            {
                verdicts.matches.push(self.new_match(found, true));
                verdicts.matched.extend(keys);
            }
        }
    }

    /// Is it about a record that was matched now, and so what the match leaves over?
    fn is_of_a_match(&self, subject: &Subject, verdicts: &Verdicts) -> bool {
        let key = match subject {
            Subject::Ledger(place) => self.our_key(*place),
            Subject::Bank(place) => self.their_key(*place),
            Subject::Event(_) | Subject::Account(_) => None,
        };
        key.is_some_and(|key| verdicts.matched.contains(&key))
    }

    /// What the breaks and the questions are to people.
    fn name_exceptions(
        &self,
        ledger: &[Record],
        bank: &[Record],
        outcome: &Outcome,
        verdicts: &mut Verdicts,
    ) {
        let mut within: HashMap<String, Vec<Found>> = HashMap::new();
        for found in &outcome.breaks {
            if matches!(found.kind, BreakKind::InTransit | BreakKind::AmbiguousTwin) {
                continue;
            }
            let (key, currency, evidence) = match &found.subject {
                Subject::Ledger(place) => {
                    let record = ledger.get(*place as usize);
                    (self.our_key(*place), record.map(|record| record.currency), self.entry_evidence(*place))
                }
                Subject::Bank(place) => {
                    let record = bank.get(*place as usize);
                    (self.their_key(*place), record.map(|record| record.currency), self.line_evidence(*place))
                }
                Subject::Event(_) | Subject::Account(_) => continue,
            };
            let (Some(key), Some(currency)) = (key, currency) else { continue };
            let subject = (key.text(), currency.code().to_owned());
            let records: &[RecordKey] =
                if verdicts.matched.contains(&key) { &[] } else { std::slice::from_ref(&key) };
            // A difference within a question is part of the question, and what is left if the answer is yes.
            let asked =
                verdicts.questions.iter().find(|(pair, _)| pair.split('+').any(|part| part == key.text()));
            match asked {
                Some((pair, _)) => {
                    let left = break_found(found, subject, evidence, (self.now, &[], true));
                    within.entry(pair.clone()).or_default().push(left);
                }
                None => verdicts.exceptions.push(Found {
                    suggestions: self.suggested(&found.subject, outcome, &verdicts.matched),
                    ..break_found(found, subject, evidence, (self.now, records, records.is_empty()))
                }),
            }
        }
        for (pair, place) in std::mem::take(&mut verdicts.questions) {
            let Some(found) = outcome.matches.get(place) else { continue };
            let entry = found.ledger.first().and_then(|place| self.sides.ours.get(*place as usize));
            let line = found.bank.first().and_then(|place| self.sides.theirs.get(*place as usize));
            let (Some(entry), Some(line)) = (entry, line) else { continue };
            let records = self.keys_of(found).collect();
            let suggestions = match found.ledger.as_slice() {
                [entry] => self.suggested(&Subject::Ledger(*entry), outcome, &verdicts.matched),
                _ => Vec::new(),
            };
            let mut about = self.pair_evidence(found);
            let mut left = within.remove(&pair).unwrap_or_default();
            // What is left of a pair in the books is what it differs by, whatever the engine calls it.
            if left.iter().map(|left| left.correction).fold(0_i64, i64::saturating_add) != found.difference {
                left = vec![self.differing(found, line)];
            }
            exception::leave(&mut about, &left);
            verdicts.exceptions.push(Found {
                kind: TO_CONFIRM.to_owned(),
                subject: pair,
                currency: entry.currency.clone(),
                amount: line.line.amount,
                owner: "accounting".to_owned(),
                advice: if found.difference == 0 {
                    "confirm that they belong together, or reject it".to_owned()
                } else {
                    "confirm that they belong together, and what they differ by is the next question; or reject it".to_owned()
                },
                about,
                records,
                suggestions,
                contra: None,
                correction: 0,
                is_lasting: false,
                since: self.now,
            });
        }
    }

    /// The lines that the entry in question may be, by the engine and within the three rules: none that has a match or that
    /// carries another operation's key, and no pair that people have refused.
    fn suggested(
        &self,
        subject: &Subject,
        outcome: &Outcome,
        matched: &HashSet<RecordKey>,
    ) -> Vec<Suggested> {
        let Subject::Ledger(place) = subject else { return Vec::new() };
        let Some(entry) = self.our_key(*place).filter(|entry| !matched.contains(entry)) else {
            return Vec::new();
        };
        let ours = books::operation_of(&entry);
        let lines = outcome.suggestions.get(place).into_iter().flatten();
        lines
            .filter_map(|suggestion| {
                let line = self.their_key(suggestion.line)?;
                let theirs = self.operations.get(suggestion.line as usize).copied().flatten();
                let is_contradicted = ours.zip(theirs).is_some_and(|(ours, theirs)| ours != theirs);
                let is_refused = self.refused.contains(&format!("{}+{}", entry.text(), line.text()));
                let may_be = !is_contradicted && !is_refused && !matched.contains(&line);
                may_be.then(|| Suggested {
                    line: StatementEntryId::from_uuid(line.source),
                    probability: shown_probability(suggestion.probability),
                })
            })
            .collect()
    }

    /// What a pair differs by, as an exception of its own.
    fn differing(&self, found: &Match, line: &TheirLine) -> Found {
        let differs = Break {
            kind: BreakKind::OtherAmount,
            subject: Subject::Bank(found.bank.first().copied().unwrap_or_default()),
            minor_units: found.difference.into(),
            age_days: 0,
        };
        let subject = (line.key.text(), line.currency.clone());
        break_found(&differs, subject, self.pair_evidence(found), (self.now, &[], true))
    }

    fn our_key(&self, place: u32) -> Option<RecordKey> {
        self.sides.ours.get(place as usize).map(|entry| entry.key.clone())
    }

    fn their_key(&self, place: u32) -> Option<RecordKey> {
        self.sides.theirs.get(place as usize).map(|line| line.key.clone())
    }

    fn keys_of(&self, found: &Match) -> impl Iterator<Item = RecordKey> {
        let entries = found.ledger.iter().filter_map(|place| self.our_key(*place));
        entries.chain(found.bank.iter().filter_map(|place| self.their_key(*place)))
    }

    fn our_operations(&self, found: &Match) -> BTreeSet<OperationKey> {
        let entries = found.ledger.iter().filter_map(|place| self.sides.ours.get(*place as usize));
        entries.filter_map(|entry| books::operation_of(&entry.key)).collect()
    }

    fn their_operations(&self, found: &Match) -> BTreeSet<OperationKey> {
        found
            .bank
            .iter()
            .filter_map(|place| self.operations.get(*place as usize).copied().flatten())
            .collect()
    }

    fn new_match(&self, found: &Match, is_proven: bool) -> NewMatch {
        let how = match found.how {
            How::Reference => "reference",
            How::Group(_) => "group",
            How::Model if is_proven => "reference",
            How::Model => "model",
        };
        NewMatch {
            how: how.to_owned(),
            difference: found.difference,
            explanation: report::explain(found),
            records: self.keys_of(found).collect(),
        }
    }

    fn pair_evidence(&self, found: &Match) -> Value {
        json!({
            "explanation": report::explain(found),
            "entry": found.ledger.first().map(|place| self.entry_evidence(*place)),
            "line": found.bank.first().map(|place| self.line_evidence(*place)),
            "difference": found.difference,
        })
    }

    fn entry_evidence(&self, place: u32) -> Value {
        let Some(entry) = self.sides.ours.get(place as usize) else { return json!({}) };
        json!({
            "entry": entry.key.text(),
            "amount": entry.change,
            "posted_on": intake::day(entry.posted_at),
            "confirmed_on": entry.booked_at.map(intake::day),
            "bank_reference": entry.bank_reference,
            "end_to_end_id": entry.end_to_end_id,
        })
    }

    fn line_evidence(&self, place: u32) -> Value {
        let Some(TheirLine { key, line, .. }) = self.sides.theirs.get(place as usize) else {
            return json!({});
        };
        json!({
            "line": key.text(),
            "amount": line.amount,
            "booked_on": line.booked_on,
            "value_on": line.value_on,
            "operation": line.operation_key,
            "reference": line.reference,
            "bank_reference": line.bank_reference,
            "text": line.text,
        })
    }

    fn heads(&self) -> Vec<StatementHead> {
        let heads = self.sides.statements.iter().filter_map(|statement| {
            Some(StatementHead {
                account: statement.account.clone(),
                currency: flowbridge_domain::money::Currency::parse(&statement.currency).ok()?,
                sequence: statement.sequence.and_then(|number| u64::try_from(number).ok()),
                opening_minor_units: statement.opening.unwrap_or(0).into(),
                closing_minor_units: statement.closing?.into(),
                entries_minor_units: statement.moved.into(),
            })
        });
        heads.collect()
    }

    /// Our reserve against the closing balance, and what lies between them.
    fn balance(&self, verdicts: &Verdicts) -> Vec<Balance> {
        let sum_ours = |entries: &[OurEntry], currency: &str, is_open: bool| -> i128 {
            let open = entries.iter().filter(|entry| {
                entry.currency == currency && (!is_open || !verdicts.matched.contains(&entry.key))
            });
            open.map(|entry| i128::from(entry.change)).sum()
        };
        let sum_theirs = |lines: &[TheirLine], currency: &str| -> i128 {
            let open = lines
                .iter()
                .filter(|line| line.currency == currency && !verdicts.matched.contains(&line.key));
            open.map(|line| i128::from(line.line.amount)).sum()
        };
        let mut lines: Vec<Balance> = self
            .statements
            .values()
            .map(|statement| {
                let currency = statement.currency.as_str();
                let of = |amounts: &[(String, i64)]| -> i128 {
                    amounts
                        .iter()
                        .filter(|(code, _)| code == currency)
                        .map(|(_, amount)| i128::from(*amount))
                        .sum()
                };
                let ledger = of(&self.sides.reserves);
                let in_transit = sum_ours(&self.in_transit, currency, false);
                let at_bank_only =
                    sum_theirs(&self.sides.theirs, currency) + sum_theirs(&self.under_way, currency);
                let in_ledger_only = sum_ours(&self.sides.ours, currency, true);
                let now: i128 = verdicts
                    .exceptions
                    .iter()
                    .filter(|found| found.is_lasting && found.currency == currency)
                    .map(|found| i128::from(found.correction))
                    .sum();
                let differences = of(&self.sides.left_over) + now;
                let explained = ledger - in_transit + at_bank_only - in_ledger_only + differences;
                // What a cut-off run has not looked at explains nothing yet, nor does a statement that has not come.
                let is_missing = self.sides.gaps.iter().any(|gap| gap.currency == currency);
                let told = statement.closing.filter(|_| !self.sides.cut_off && !is_missing);
                Balance {
                    account: statement.account.clone(),
                    currency: currency.to_owned(),
                    statement: statement.closing,
                    ledger: units(ledger),
                    in_transit: units(in_transit),
                    at_bank_only: units(at_bank_only),
                    in_ledger_only: units(in_ledger_only),
                    differences: units(differences),
                    unexplained: told.map_or(0, |closing| units(i128::from(closing) - explained)),
                    is_told: told.is_some(),
                }
            })
            .collect();
        lines.sort_by(|one, other| one.currency.cmp(&other.currency));
        lines
    }

    fn summary(
        &self,
        run: &ClaimedRun,
        (ledger, bank): (&[Record], &[Record]),
        outcome: &Outcome,
        (verdicts, balance): (&Verdicts, &[Balance]),
    ) -> Value {
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for found in &verdicts.exceptions {
            *kinds.entry(found.kind.as_str()).or_default() += 1;
        }
        let in_transit = outcome.breaks.iter().filter(|found| found.kind == BreakKind::InTransit).count();
        json!({
            "scope": run.scope,
            "day": run.day,
            "is_whole": !self.sides.cut_off,
            "entries": ledger.len(),
            "lines": bank.len(),
            "lines_left_out": self.left_out,
            "matched": verdicts.matches.len(),
            "in_transit": in_transit + self.in_transit.len(),
            "under_way": self.under_way.len(),
            "breaks": kinds,
            "balance": balance,
        })
    }
}

/// What the engine's answer means here.
#[derive(Default)]
struct Verdicts {
    matches: Vec<NewMatch>,
    matched: HashSet<RecordKey>,
    /// Pairs that a person has to confirm, with their place among the matches.
    questions: Vec<(String, usize)>,
    /// Likely matches that people will say something about.
    judged: Vec<Judged>,
    exceptions: Vec<Found>,
}

/// A break of an account as a whole.
pub(super) fn account_break(kind: BreakKind, account: &str, minor_units: i128) -> Break {
    Break { kind, subject: Subject::Account(account.to_owned()), minor_units, age_days: 0 }
}

/// Minor units that fit a column; what does not is a difference beyond every account.
pub(super) fn units(amount: i128) -> i64 {
    i64::try_from(amount).unwrap_or(if amount < 0 { i64::MIN } else { i64::MAX })
}

/// With four decimals, rounded down: what is only likely never reads as certain.
fn shown_probability(probability: f32) -> f64 {
    (f64::from(probability) * 10_000.0).floor() / 10_000.0
}

fn subject_of(ledger: &[Record], bank: &[Record], found: &Match) -> String {
    let ids = |records: &[Record], places: &[u32]| -> Vec<String> {
        let mut ids: Vec<String> = places
            .iter()
            .filter_map(|place| records.get(*place as usize))
            .map(|record| record.id.to_string())
            .collect();
        ids.sort_unstable();
        ids
    };
    [ids(ledger, &found.ledger), ids(bank, &found.bank)].concat().join("+")
}

/// Entry and line that carry one key: they belong together, whatever their amounts.
pub(super) fn by_key(ledger: &[Record], bank: &[Record], entry: u32, line: u32) -> Match {
    let amount =
        |records: &[Record], place: u32| records.get(place as usize).map_or(0, |record| record.minor_units);
    Match {
        ledger: vec![entry],
        bank: vec![line],
        how: How::Reference,
        decision: Decision::Auto,
        probability: 1.0,
        score: 0.0,
        difference: units(amount(bank, line).saturating_sub(amount(ledger, entry))),
        runner_up: None,
        reasons: Vec::new(),
    }
}

/// A pair that cannot be: each of its records stands alone, and what was said of the pair is taken back.
fn take_apart((ledger, bank): (&[Record], &[Record]), found: &Match, outcome: &mut Outcome) {
    outcome.breaks.retain(|said| match &said.subject {
        Subject::Ledger(place) => !found.ledger.contains(place),
        Subject::Bank(place) => !found.bank.contains(place),
        Subject::Event(_) | Subject::Account(_) => true,
    });
    for place in &found.ledger {
        let Some(record) = ledger.get(*place as usize) else { continue };
        outcome.breaks.push(Break {
            kind: BreakKind::OverdueAtBank,
            subject: Subject::Ledger(*place),
            minor_units: record.minor_units,
            age_days: 0,
        });
    }
    for place in &found.bank {
        let Some(record) = bank.get(*place as usize) else { continue };
        let kind = if record.is_return {
            BreakKind::ReturnNotPosted
        } else if record.minor_units < 0 {
            BreakKind::UnexpectedDebit
        } else {
            BreakKind::UnexpectedReceipt
        };
        outcome.breaks.push(Break {
            kind,
            subject: Subject::Bank(*place),
            minor_units: record.minor_units,
            age_days: 0,
        });
    }
}

/// A break as an exception. `records` are those that a decision on it closes; a lasting one has none, because they are matched.
pub(super) fn break_found(
    found: &Break,
    (subject, currency): (String, String),
    about: Value,
    (now, records, is_lasting): (Timestamp, &[RecordKey], bool),
) -> Found {
    let proposed = correction::proposed(found.kind, found.minor_units);
    let age = DAY.saturating_mul(u32::try_from(found.age_days).unwrap_or(0));
    let correction = units(correction::written_off(found.kind, found.minor_units));
    Found {
        kind: found.kind.code().to_owned(),
        subject,
        currency,
        amount: units(found.minor_units),
        owner: found.kind.owner().to_owned(),
        advice: found.kind.proposal().to_owned(),
        about,
        records: records.to_vec(),
        suggestions: Vec::new(),
        contra: proposed.map(|(contra, _)| contra),
        correction,
        is_lasting,
        since: now.minus(age),
    }
}

/// A night beside the nights before it.
struct Night {
    /// What is unusual about it.
    anomalies: Vec<Anomaly>,
    /// What is remembered of them and it.
    memory: Memory,
}

impl Night {
    fn look(
        (ledger, bank): (&[Record], &[Record]),
        outcome: &Outcome,
        (day, model_sha256): (Date, &str),
        evidence: &Evidence,
    ) -> Result<Self, RunError> {
        let mut memory: Memory = match &evidence.memory {
            Some(bytes) => serde_json::from_slice(bytes).map_err(|error| Self::failed(&error))?,
            None => Memory::default(),
        };
        let observed = anomaly::observe(ledger, bank, outcome, day).judged_by(model_sha256);
        let anomalies = memory.judge(&observed);
        memory.add(observed);
        Ok(Self { anomalies, memory })
    }

    fn kept(&self) -> Result<Vec<u8>, RunError> {
        serde_json::to_vec(&self.memory).map_err(|error| Self::failed(&error))
    }

    fn failed(error: &serde_json::Error) -> RunError {
        RunError::Engine(format!("the memory of earlier nights: {error}"))
    }
}

/// Which model judged, and which should have.
fn told_of(judging: &Judging) -> Value {
    let passed_over: Vec<Value> = judging
        .passed_over
        .iter()
        .map(|(sha256, why)| json!({ "sha256": sha256, "why": crate::context::chain(why) }))
        .collect();
    let origin = &judging.model.origin;
    json!({
        "sha256": judging.sha256,
        "decisions": origin.decisions,
        "is_of_this_code": origin.is_of_this_code(),
        "passed_over": passed_over,
    })
}

/// Raises the alarm for what is unusual, and for a model that could not judge.
pub(super) fn alarm(scope: &str, summary: &Value) {
    let model = summary.get("model");
    let passed_over = model.and_then(|model| model.get("passed_over")).and_then(Value::as_array);
    for found in passed_over.into_iter().flatten() {
        let text = |name: &str| found.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (sha256, why) = (text("sha256"), text("why"));
        tracing::error!(
            scope,
            model = sha256,
            error = why,
            "a model that people put in force could not judge; the last good one did"
        );
        metrics::counter!("reconciliation_models_passed_over_total", "scope" => scope.to_owned())
            .increment(1);
    }
    for found in summary.get("anomalies").and_then(Value::as_array).into_iter().flatten() {
        let text = |name: &str| found.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (kind, severity, subject) = (text("kind"), text("severity"), text("subject"));
        if json!(Severity::Alarm) == json!(severity) {
            tracing::warn!(scope, kind, subject, "a night is unusual");
        }
        metrics::counter!("reconciliation_anomalies_total", "scope" => scope.to_owned(), "kind" => kind, "severity" => severity)
            .increment(1);
    }
}

/// What a report is made of, beside the records and what was found.
pub(super) struct MadeOf<'a> {
    pub(super) scope: &'a str,
    /// Hashes of what went in beside the records.
    pub(super) inputs: BTreeMap<String, String>,
    pub(super) model_sha256: String,
    pub(super) settings: &'a engine::Settings,
    pub(super) summary: &'a Value,
    pub(super) anomalies: &'a [Anomaly],
    /// Earlier nights and this one, where it is one.
    pub(super) history: &'a [RunSummary],
    pub(super) balance: &'a [Balance],
    pub(super) proofs: &'a [BalanceAt],
}

/// The hash of all that went in, and the report in its formats. Much of what a run is told beside the records (a gap, what is under way,
/// who is audited, what was booked before, earlier nights) goes in as what followed from it.
pub(super) fn reports(
    (ledger, bank): (&[Record], &[Record]),
    outcome: &Outcome,
    heads: &[StatementHead],
    of: MadeOf<'_>,
) -> Result<(String, Vec<(&'static str, Vec<u8>)>), RunError> {
    let failed = |error: &dyn std::error::Error| RunError::Engine(error.to_string());
    let hash = |records: &[Record]| -> Result<String, RunError> {
        let mut bytes = Vec::new();
        files::write_records(records, &mut bytes).map_err(|error| failed(&error))?;
        Ok(report::sha256(&bytes))
    };
    let scope = of.scope;
    let mut inputs = of.inputs;
    inputs.insert(format!("ledger of {scope}"), hash(ledger)?);
    inputs.insert(format!("statement of {scope}"), hash(bank)?);
    let extras = Extras {
        anomalies: of.anomalies,
        history: of.history,
        balance: of.balance,
        proofs: of.proofs,
        summary: Some(of.summary),
        ..Extras::default()
    };
    let findings = report::findings_sha256(outcome, heads, &extras).map_err(|error| failed(&error))?;
    inputs.insert(format!("findings in {scope}"), findings);
    let manifest = Manifest::new(inputs, of.model_sha256, of.settings);
    let report = Report { ledger, bank, outcome, heads, manifest: &manifest };
    let mut reports = vec![
        ("html", report.html_with(&extras).into_bytes()),
        ("json", report.json_with(&extras).map_err(|error| failed(&error))?.into_bytes()),
        ("matches_csv", report.matches_csv().map_err(|error| failed(&error))?.into_bytes()),
        ("breaks_csv", report.breaks_csv().map_err(|error| failed(&error))?.into_bytes()),
        ("pdf", report.pdf_with(&extras)),
    ];
    // An amount beyond that standard is none beyond the books: the other forms have it.
    match report.camt() {
        Ok(message) => reports.push(("camt", message.into_bytes())),
        Err(error) => {
            tracing::warn!(scope, error = crate::context::chain(&error), "a run is told without camt")
        }
    }
    Ok((manifest.sha256(), reports))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_manifest_is_the_same_report_and_a_gap_is_another() {
        let settings = engine::Settings::on(Date::from_epoch_days(20_000), 1);
        let of = |breaks: Vec<Break>, summary: &Value| {
            let outcome = Outcome { breaks, ..Outcome::default() };
            let made_of = MadeOf {
                scope: "alpha",
                inputs: BTreeMap::new(),
                model_sha256: String::new(),
                settings: &settings,
                summary,
                anomalies: &[],
                history: &[],
                balance: &[],
                proofs: &[],
            };
            reports((&[], &[]), &outcome, &[], made_of).unwrap()
        };
        let (quiet, audited) = (json!({ "breaks": {} }), json!({ "breaks": { "to_audit": 1 } }));
        let gap = account_break(BreakKind::StatementGap, "statement of alpha", 0);
        let (hash, forms) = of(vec![], &quiet);
        assert!(of(vec![], &quiet) == (hash.clone(), forms), "twice the same");
        assert_ne!(of(vec![gap], &quiet).0, hash, "what the connector lacked");
        assert_ne!(of(vec![], &audited).0, hash, "whom the lot fell on");
    }

    #[test]
    fn an_amount_that_camt_cannot_hold_costs_that_form_alone() {
        let settings = engine::Settings::on(Date::from_epoch_days(20_000), 1);
        let forms = |minor_units: i128| {
            let record = Record {
                reference: "A".into(),
                id: "a".into(),
                account: "reserve".into(),
                currency: flowbridge_domain::money::Currency::parse("EUR").unwrap(),
                minor_units,
                booked_on: Date::from_epoch_days(20_000),
                value_on: None,
                batch: "".into(),
                counterparty_iban: "".into(),
                counterparty: "".into(),
                text: "".into(),
                rail: "".into(),
                is_return: false,
            };
            let records = std::slice::from_ref(&record);
            let outcome = Outcome { matches: vec![by_key(records, records, 0, 0)], ..Outcome::default() };
            let made_of = MadeOf {
                scope: "alpha",
                inputs: BTreeMap::new(),
                model_sha256: String::new(),
                settings: &settings,
                summary: &json!({}),
                anomalies: &[],
                history: &[],
                balance: &[],
                proofs: &[],
            };
            let (_, reports) = reports((records, records), &outcome, &[], made_of).unwrap();
            reports.iter().map(|(name, _)| *name).collect::<Vec<_>>()
        };
        let all = ["html", "json", "matches_csv", "breaks_csv", "pdf", "camt"];
        assert_eq!(forms(500), all);
        assert_eq!(forms(i64::MAX.into()), all[..5]);
    }
}
