//! `flowbridge bench reconciliation`: a day with everything a bank can truly do wrong, and whether it is found.
//!
//! Payments go the whole way on a stack of its own while the bank simulator books some of them wrongly, and books things that
//! nobody asked for. Which ones is known here and nowhere in FlowBridge. Then the job of the night runs, and every exception is
//! held against the truth: is it there, of the right kind, with the right correcting entry, and is nothing accused that is
//! right? At the end two operators accept what is proposed, and the proof has to hold again.

use super::cast::{Admin, CURRENCY, PARTICIPANTS, iban, participants};
use super::report::Progress;
use super::stack::{Stack, StackArgs};
use super::usage::Origin;
use crate::client::{ApiClient, new_key};
use crate::clock::SystemClock;
use crate::commands::reconciliation::pages;
use crate::commands::{say, stop_signal};
use crate::roles::Role;
use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use flowbridge_domain::party::BankCode;
use flowbridge_domain::time::Clock as _;
use flowbridge_store::measure;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// How long payments may take to end, and a run to be done.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Requests under way at the same time.
const CALLS_MAX: usize = 8;
/// What has to be found with the right kind, of a thousand.
const FOUND_PER_MILLE_MIN: usize = 990;
/// The first account whose payments are booked wrongly; those before it are poor or slow.
const FIRST_ACCOUNT: usize = 100;

#[derive(Debug, Args)]
pub(crate) struct ReconciliationArgs {
    #[command(flatten)]
    stack: StackArgs,
    /// How often each thing goes wrong
    #[arg(long, value_name = "N", default_value_t = 24)]
    each: usize,
    /// Payments beside them with which nothing is wrong
    #[arg(long, value_name = "N", default_value_t = 400)]
    clean: usize,
    /// Where the reports of the run and of this check go
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

/// Something that a bank does to the payments of one account.
struct Wrong {
    /// The kind that it has to be found as.
    kind: &'static str,
    fault: Value,
    /// What is paid, in minor units.
    amount: i64,
    /// What the proposed entry adds to the reserve, and against which account; none where none is right.
    entry: Option<(&'static str, i64)>,
}

fn wrongs() -> Vec<Wrong> {
    let kept = |minor_units: i64| json!({ "kind": "kept", "minor_units": minor_units });
    let wrong = |kind, fault, amount, entry| Wrong { kind, fault, amount, entry };
    vec![
        wrong("fee_deducted", kept(250), 31_907, Some(("bank_charges", -250))),
        wrong("fx_rounding", kept(2), 27_433, Some(("bank_charges", -2))),
        wrong("fx_spread", kept(871), 90_011, Some(("bank_suspense", -871))),
        wrong("transposed_digits", kept(-9_000), 23_617, Some(("bank_suspense", 9_000))),
        wrong("other_amount", kept(4_111), 17_003, Some(("bank_suspense", -4_111))),
        wrong("overdue_at_bank", json!({ "kind": "unbooked" }), 12_071, None),
        wrong(
            "duplicate_bank_line",
            json!({ "kind": "booked_twice" }),
            14_059,
            Some(("bank_suspense", 14_059)),
        ),
        wrong("return_not_posted", json!({ "kind": "returned" }), 15_083, Some(("bank_suspense", -15_083))),
        wrong("value_date", json!({ "kind": "late_value", "days": 12 }), 16_087, None),
    ]
}

/// What a bank books by itself: kind, text, amount.
const UNASKED: [(&str, &str, i64, &str); 3] = [
    ("unposted_bank_fee", "ACCOUNT FEE", -1_900, "bank_charges"),
    ("unexpected_receipt", "TRANSFER FROM UNKNOWN", 53_000, "bank_suspense"),
    ("unexpected_debit", "DIRECT DEBIT", -2_700, "bank_suspense"),
];

/// What is true of a movement: what it has to be found as, and with which entry.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Truth {
    kind: &'static str,
    entry: Option<(&'static str, i64)>,
}

pub(super) async fn run(args: ReconciliationArgs) -> Result<ExitCode> {
    ensure!(args.stack.embedded, "a bank that books wrongly needs a stack of its own: give --embedded");
    let progress = Progress::start();
    progress.say("starting the stack, registering who takes part");
    let mut stack_args = args.stack.clone();
    // What is found here is found by the run, not by the payments that it would stop.
    stack_args.set("breaker.pauses=false");
    stack_args.set("reconciliation.nightly_at=");
    let mut stack = Stack::open(&stack_args, &Role::ALL).await?;
    let checked = tokio::select! {
        checked = Box::pin(check(&mut stack, &args, &progress)) => checked,
        () = stop_signal() => bail!("stopped before there was an answer"),
    };
    drop(progress);
    stack.close().await?;
    let findings = checked?;
    say(serde_json::to_string_pretty(&findings)?);
    Ok(if findings["verdict"] == "ok" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn check(stack: &mut Stack, args: &ReconciliationArgs, progress: &Progress) -> Result<Value> {
    let (operator, second) = (stack.client("operator")?, stack.client("operator-2")?);
    let east = stack.client(PARTICIPANTS[0])?;
    let bank = Admin::new(&stack.config)?;
    let code = BankCode::parse(&stack.config.bank.connectors.first().context("no bank is configured")?.code)?;
    let since = SystemClock.now();

    progress.say("paying, with a bank that books wrongly");
    let mut truth: BTreeMap<String, Truth> = BTreeMap::new();
    let mut orders = Vec::new();
    for (place, wrong) in wrongs().into_iter().enumerate() {
        let account = iban(0, FIRST_ACCOUNT + place);
        let rule = json!({ "fault": wrong.fault, "targets": ["capture"], "account": account });
        bank.post(&code, "faults", rule).await?;
        let truth = Truth { kind: wrong.kind, entry: wrong.entry };
        orders.extend((0..args.each).map(|n| (account.clone(), wrong.amount, n, Some(truth.clone()))));
    }
    let first_clean = FIRST_ACCOUNT + 50;
    orders.extend((0..args.clean).map(|n| {
        let amount = 10_000 + i64::try_from(n * 7).unwrap_or(0);
        (iban(0, first_clean + n % 200), amount, n, None)
    }));
    let count = orders.len();
    let paid: Vec<(String, Option<Truth>)> = stream::iter(orders)
        .map(|(account, amount, n, truth)| pay(&east, account, amount, n, truth))
        .buffer_unordered(CALLS_MAX)
        .try_collect()
        .await?;
    wait_for_ends(stack, since, count, progress).await?;
    let clean: BTreeSet<String> =
        paid.iter().filter(|(_, truth)| truth.is_none()).map(|(id, _)| id.clone()).collect();
    truth.extend(paid.into_iter().filter_map(|(id, truth)| Some((id, truth?))));

    progress.say("the bank books what nobody asked for");
    for (kind, text, amount, contra) in UNASKED {
        for n in 0..args.each {
            let id = format!("{text} {n:03}");
            let change = json!({ "amount": amount, "currency": CURRENCY });
            bank.post(&code, "bookings", json!({ "booking_id": id, "change": change, "text": id })).await?;
            truth.insert(id, Truth { kind, entry: Some((contra, amount)) });
        }
    }
    bank.delete(&code, "faults").await?;

    progress.say("a statement with entries missing is not used, each time");
    let gaps = statement_gaps(&operator, &east, &bank, (&code, args.each), progress).await?;
    wait_for_ends(stack, since, count + args.each, progress).await?;
    bank.delete(&code, "faults").await?;

    progress.say("reconciling");
    let runs = reconcile(&operator).await?;
    let exceptions = pages(&operator, "/v1/exceptions", &[("state", Some("open"))]).await?;
    let found = judge(&exceptions, &truth, &clean);
    save_reports(&operator, &runs, args).await?;

    progress.say("two operators decide");
    decide(&operator, &second, &exceptions).await?;
    let after = reconcile(&operator).await?;
    let still_open = pages(&operator, "/v1/exceptions", &[("state", Some("open"))]).await?.len();
    let proof = operator.get("/v1/proof").await?;
    let unexplained = |runs: &[Value]| -> Vec<Value> {
        let balances = runs.iter().filter_map(|run| run["summary"]["balance"].as_array()).flatten();
        balances.filter(|line| line["unexplained"] != 0).cloned().collect()
    };

    let mut faults = found.faults(args.each);
    if gaps.0 < args.each {
        faults.push(format!("{} of {} gaps in statements were found", gaps.0, args.each));
    }
    if still_open > 0 {
        faults.push(format!("{still_open} exceptions are open after they were decided"));
    }
    if proof["holds"] != true {
        faults.push("the proof does not hold after the corrections".to_owned());
    }
    if !unexplained(&runs).is_empty() || !unexplained(&after).is_empty() {
        faults.push("a balance is unexplained".to_owned());
    }
    let verdict = if faults.is_empty() { "ok".to_owned() } else { faults.join("; ") };
    let Origin { machine, version, commit } = Origin::find()?;
    let findings = json!({
        "verdict": verdict,
        "payments": count + args.each,
        "clean": clean.len(),
        "kinds": found.table(),
        "statement_gap": { "caused": args.each, "found": gaps.0, "in_transit_meanwhile": gaps.1 },
        "accused_wrongly": found.accused,
        "runs": runs,
        "after_decisions": { "runs": after, "open": still_open, "proof_holds": proof["holds"] },
        "machine": machine,
        "version": version,
        "commit": commit,
    });
    if let Some(out) = &args.out {
        std::fs::write(out.join("check.json"), serde_json::to_string_pretty(&findings)?)?;
    }
    Ok(findings)
}

async fn pay(
    client: &ApiClient,
    account: String,
    amount: i64,
    n: usize,
    truth: Option<Truth>,
) -> Result<(String, Option<Truth>)> {
    let body = json!({
        "debtor": { "iban": account },
        "creditor": { "iban": iban(1, FIRST_ACCOUNT + n % 200) },
        "instructed_amount": { "amount": amount, "currency": CURRENCY },
        "end_to_end_id": format!("R{}", new_key()),
    });
    let made = client.call("POST", "/v1/payments", Some(&body), Some(&new_key())).await?.success()?;
    let id = made.get("id").and_then(Value::as_str).context("a payment without an id")?;
    Ok((id.to_owned(), truth))
}

async fn wait_for_ends(
    stack: &mut Stack,
    since: flowbridge_domain::time::Timestamp,
    count: usize,
    progress: &Progress,
) -> Result<()> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let ends = measure::ends(&stack.db, &participants(), since).await?;
        ensure!(ends.failed == 0, "{} payments failed, and none should", ends.failed);
        let completed = usize::try_from(ends.completed).unwrap_or(0);
        if completed >= count {
            return Ok(());
        }
        ensure!(tokio::time::Instant::now() < deadline, "only {completed} of {count} payments ended in time");
        progress.say(format!("{completed} of {count} payments have ended"));
        stack.require_alive()?;
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Each time: a payment, a statement that lacks its line, a run. Gives how many gaps were found, and how many entries were left
/// in transit instead of being accused.
async fn statement_gaps(
    operator: &ApiClient,
    client: &ApiClient,
    bank: &Admin,
    (code, times): (&BankCode, usize),
    progress: &Progress,
) -> Result<(usize, i64)> {
    let mut in_transit = 0;
    for n in 0..times {
        progress.say(format!("a statement with entries missing: {n} of {times}"));
        let (id, _) = pay(client, iban(0, FIRST_ACCOUNT + 60), 11_111, n, None).await?;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while client.get(&format!("/v1/payments/{id}")).await?["state"] != "completed" {
            ensure!(tokio::time::Instant::now() < deadline, "{id} did not end in time");
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        let fault = json!({ "kind": "partial_statement", "dropped_per_million": 1_000_000 });
        bank.post(code, "faults", json!({ "fault": fault, "targets": ["statement"], "times_max": 1 }))
            .await?;
        let runs = ask(operator, Some(code.as_str())).await?;
        in_transit += runs.iter().filter_map(|run| run["summary"]["in_transit"].as_i64()).sum::<i64>();
    }
    let filters = [("kind", Some("statement_gap"))];
    Ok((pages(operator, "/v1/exceptions", &filters).await?.len(), in_transit))
}

/// Everything is reconciled, as the night does it.
async fn reconcile(operator: &ApiClient) -> Result<Vec<Value>> {
    ask(operator, None).await
}

async fn ask(operator: &ApiClient, scope: Option<&str>) -> Result<Vec<Value>> {
    let body = scope.map_or_else(|| json!({}), |scope| json!({ "scope": scope }));
    let asked =
        operator.call("POST", "/v1/reconciliations", Some(&body), Some(&new_key())).await?.success()?;
    let mut runs = Vec::new();
    for run in asked["data"].as_array().into_iter().flatten() {
        let path = format!("/v1/reconciliations/{}", run["id"].as_str().unwrap_or_default());
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let run = operator.get(&path).await?;
            if run["state"] == "done" {
                runs.push(run);
                break;
            }
            ensure!(run["state"] != "failed", "a run failed: {}", run["cause"]);
            ensure!(tokio::time::Instant::now() < deadline, "a run was not done in time: {run}");
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
    Ok(runs)
}

/// What was found, held against the truth.
#[derive(Default)]
struct Judged {
    /// Per kind: caused, found with the right kind, with the right entry.
    kinds: BTreeMap<&'static str, (usize, usize, usize)>,
    accused: Vec<Value>,
}

fn judge(exceptions: &[Value], truth: &BTreeMap<String, Truth>, clean: &BTreeSet<String>) -> Judged {
    let mut judged = Judged::default();
    for known in truth.values() {
        judged.kinds.entry(known.kind).or_default().0 += 1;
    }
    for exception in exceptions {
        if exception["kind"] == "statement_gap" {
            continue;
        }
        let subject = movement(exception);
        match truth.get(&subject) {
            Some(known) if exception["kind"] == known.kind => {
                let counts = judged.kinds.entry(known.kind).or_default();
                counts.1 += 1;
                counts.2 += usize::from(entry_is(exception, known.entry));
            }
            // Found, and called something else: it counts as not found, and is shown.
            Some(_) => judged.accused.push(exception.clone()),
            None => {
                let is_clean = clean.contains(&subject);
                judged.accused.push(json!({ "is_clean": is_clean, "exception": exception }));
            }
        }
    }
    judged
}

/// The payment that an exception is about, or what the bank called a booking of its own.
fn movement(exception: &Value) -> String {
    let about = &exception["about"];
    let payment = about["operation"].as_str().or(about["entry"].as_str()).unwrap_or_default();
    let payment = payment.split(['.', '/']).next().unwrap_or_default();
    if payment.is_empty() {
        about["text"].as_str().unwrap_or_default().to_owned()
    } else {
        payment.to_owned()
    }
}

fn entry_is(exception: &Value, wanted: Option<(&str, i64)>) -> bool {
    let proposed = &exception["proposed_entry"];
    match wanted {
        None => proposed.is_null(),
        Some((contra, change)) => {
            let (debit, credit) = if change > 0 { ("reserve", contra) } else { (contra, "reserve") };
            proposed["debit"] == debit
                && proposed["credit"] == credit
                && proposed["amount"] == change.unsigned_abs()
        }
    }
}

impl Judged {
    fn faults(&self, each: usize) -> Vec<String> {
        let mut faults = Vec::new();
        let (mut caused, mut found) = (0, 0);
        for (kind, (wanted, right, entries)) in &self.kinds {
            caused += wanted;
            found += right;
            if *wanted < each {
                faults.push(format!("{kind} was caused {wanted} times only"));
            }
            if entries < right {
                faults.push(format!("{kind}: {} of {right} propose the wrong entry", right - entries));
            }
        }
        if found * 1_000 < caused * FOUND_PER_MILLE_MIN {
            faults.push(format!("{found} of {caused} were found with the right kind"));
        }
        if !self.accused.is_empty() {
            faults.push(format!("{} were accused wrongly or called something else", self.accused.len()));
        }
        faults
    }

    fn table(&self) -> Value {
        let rows = self.kinds.iter().map(|(kind, (caused, found, entries))| {
            ((*kind).to_owned(), json!({ "caused": caused, "found": found, "right_entry": entries }))
        });
        Value::Object(rows.collect())
    }
}

async fn save_reports(operator: &ApiClient, runs: &[Value], args: &ReconciliationArgs) -> Result<()> {
    let Some(out) = &args.out else { return Ok(()) };
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    for run in runs {
        let (id, scope) = (run["id"].as_str().unwrap_or_default(), run["scope"].as_str().unwrap_or_default());
        for (format, ending) in [("html", "html"), ("breaks_csv", "breaks.csv")] {
            let body = operator.get(&format!("/v1/reconciliations/{id}/report?format={format}")).await?;
            let name = format!("{}.{ending}", scope.replace(':', "-"));
            std::fs::write(out.join(name), body.as_str().unwrap_or_default())?;
        }
    }
    Ok(())
}

/// One proposes, the other confirms: what is proposed is posted, and what the bank never booked is written off.
async fn decide(operator: &ApiClient, second: &ApiClient, exceptions: &[Value]) -> Result<()> {
    let decided = exceptions.iter().map(|exception| async move {
        let id = exception["id"].as_str().unwrap_or_default();
        let decision = if exception["kind"] == "overdue_at_bank" { "write_off" } else { "accept" };
        let body = json!({ "decision": decision, "reason": "as proposed, after asking the bank" });
        let path = format!("/v1/exceptions/{id}/decisions");
        let made = operator.call("POST", &path, Some(&body), Some(&new_key())).await?.success()?;
        let path = format!("{path}/{}/confirm", made["id"].as_str().unwrap_or_default());
        second.call("POST", &path, None, Some(&new_key())).await?.success()?;
        anyhow::Ok(())
    });
    stream::iter(decided).buffer_unordered(CALLS_MAX).try_collect::<Vec<_>>().await?;
    Ok(())
}
