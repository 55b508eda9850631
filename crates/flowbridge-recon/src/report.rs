//! What a run leaves behind: one page for a person, two tables for a spreadsheet, one JSON for machines.
//!
//! All carry the hash of the run's manifest: hashes of the inputs and of the model, the day and the settings. The number of
//! threads is not part of it, because it changes nothing; the same manifest means the same report, byte for byte.

use crate::break_kind::BreakKind;
use crate::engine::{Break, Decision, How, Match, Outcome, Settings, Subject};
use crate::gate::StatementHead;
use crate::record::Record;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Version of the JSON report's form.
pub const SCHEMA_VERSION: u32 = 1;

/// What went into a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Manifest {
    /// SHA-256 of each input, by name.
    pub inputs: BTreeMap<String, String>,
    /// SHA-256 of the model.
    pub model: String,
    /// The day the books were looked at.
    pub as_of: crate::date::Date,
    /// Days a bank may take.
    pub transit_days_max: i32,
    /// Above this nothing is posted alone.
    pub auto_minor_units_max: i128,
}

impl Manifest {
    /// Describes a run.
    pub fn new(inputs: BTreeMap<String, String>, model: String, settings: &Settings) -> Self {
        Self {
            inputs,
            model,
            as_of: settings.as_of,
            transit_days_max: settings.transit_days_max,
            auto_minor_units_max: settings.auto_minor_units_max,
        }
    }

    /// Its own SHA-256.
    pub fn sha256(&self) -> String {
        sha256(serde_json::to_string(self).unwrap_or_default().as_bytes())
    }
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Everything a report tells about.
#[derive(Debug)]
pub struct Report<'a> {
    /// Ledger entries.
    pub ledger: &'a [Record],
    /// Bank lines.
    pub bank: &'a [Record],
    /// What was found.
    pub outcome: &'a Outcome,
    /// Heads of the statements that were read.
    pub heads: &'a [StatementHead],
    /// What went in.
    pub manifest: &'a Manifest,
}

#[derive(Serialize)]
struct AccountFigures {
    account: String,
    currency: String,
    ledger_minor_units: i128,
    bank_minor_units: i128,
    entries: usize,
    lines: usize,
    lines_auto: usize,
    lines_suggested: usize,
    lines_open: usize,
}

#[derive(Serialize)]
struct MatchRow {
    ledger: String,
    bank: String,
    how: String,
    decision: &'static str,
    probability: f32,
    difference_minor_units: i64,
    runner_up: String,
    explanation: String,
}

#[derive(Serialize)]
struct BreakRow {
    kind: &'static str,
    subject: String,
    account: String,
    currency: String,
    minor_units: i128,
    age_days: i32,
    owner: &'static str,
    proposal: &'static str,
}

impl Report<'_> {
    /// The report as JSON.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(&serde_json::json!({
            "schema_version": SCHEMA_VERSION,
            "manifest": self.manifest,
            "manifest_sha256": self.manifest.sha256(),
            "accounts": self.accounts(),
            "matches": self.matches(),
            "breaks": self.breaks(),
        }))
    }

    /// Matches as CSV.
    pub fn matches_csv(&self) -> Result<String, csv::Error> {
        table(&self.matches())
    }

    /// Breaks as CSV.
    pub fn breaks_csv(&self) -> Result<String, csv::Error> {
        table(&self.breaks())
    }

    /// The page for a person.
    pub fn html(&self) -> String {
        let mut page = String::from(HEAD);
        let _ = write!(
            page,
            "<h1>Reconciliation of {}</h1><p class=m>manifest {}</p>",
            self.manifest.as_of,
            &self.manifest.sha256()[..16]
        );
        page.push_str("<h2>Accounts</h2><table><tr><th>account<th>ledger<th>bank<th>difference<th>lines<th>posted<th>to confirm<th>open<th></tr>");
        for account in self.accounts() {
            let difference = account.bank_minor_units.saturating_sub(account.ledger_minor_units);
            let share = |part: usize| part as f64 * 100.0 / (account.lines as f64).max(1.0);
            let _ = write!(
                page,
                "<tr><td>{} {}<td>{}<td>{}<td class={}>{}<td>{}<td>{}<td>{}<td>{}<td><span class=bar><i style='width:{:.1}%'></i><b style='width:{:.1}%'></b></span></tr>",
                escape(&account.account),
                account.currency,
                units(account.ledger_minor_units, &account.currency),
                units(account.bank_minor_units, &account.currency),
                if difference == 0 { "ok" } else { "off" },
                units(difference, &account.currency),
                account.lines,
                account.lines_auto,
                account.lines_suggested,
                account.lines_open,
                share(account.lines_auto),
                share(account.lines_suggested),
            );
        }
        page.push_str("</table><h2>Statements</h2><table><tr><th>account<th>no.<th>opening<th>entries<th>closing<th></tr>");
        for head in self.heads {
            let adds_up = head.opening_minor_units.checked_add(head.entries_minor_units)
                == Some(head.closing_minor_units);
            let code = head.currency.code();
            let _ = write!(
                page,
                "<tr><td>{} {code}<td>{}<td>{}<td>{}<td>{}<td class={}</tr>",
                escape(&head.account),
                head.sequence.map(|number| number.to_string()).unwrap_or_default(),
                units(head.opening_minor_units, code),
                units(head.entries_minor_units, code),
                units(head.closing_minor_units, code),
                if adds_up { "ok>adds up" } else { "off>does not add up" },
            );
        }
        page.push_str("</table><h2>Breaks by kind and age</h2><table><tr><th>kind<th>count<th>0–2 days<th>3–7<th>8–30<th>older<th>who<th>what to do</tr>");
        let mut kinds: BTreeMap<BreakKind, [usize; 4]> = BTreeMap::new();
        for found in &self.outcome.breaks {
            let column = match found.age_days {
                ..=2 => 0,
                3..=7 => 1,
                8..=30 => 2,
                _ => 3,
            };
            kinds.entry(found.kind).or_default()[column] += 1;
        }
        for (kind, ages) in &kinds {
            let _ = write!(
                page,
                "<tr><td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}</tr>",
                kind.code().replace('_', " "),
                ages.iter().sum::<usize>(),
                ages[0],
                ages[1],
                ages[2],
                ages[3],
                kind.owner(),
                kind.proposal()
            );
        }
        page.push_str("</table><h2>Largest breaks</h2><table><tr><th>kind<th>record<th>amount<th>days<th>what to do</tr>");
        let mut largest = self.breaks();
        largest.sort_by_key(|row| std::cmp::Reverse(row.minor_units.unsigned_abs()));
        for row in largest.iter().take(25) {
            let _ = write!(
                page,
                "<tr><td>{}<td>{}<td>{} {}<td>{}<td>{}</tr>",
                row.kind.replace('_', " "),
                escape(&row.subject),
                units(row.minor_units, &row.currency),
                row.currency,
                row.age_days,
                row.proposal
            );
        }
        page.push_str("</table></main>");
        page
    }

    fn accounts(&self) -> Vec<AccountFigures> {
        let mut accounts: BTreeMap<(String, String), AccountFigures> = BTreeMap::new();
        let (mut auto, mut suggested) = (BTreeSet::new(), BTreeSet::new());
        for found in &self.outcome.matches {
            let lines = if found.decision == Decision::Auto { &mut auto } else { &mut suggested };
            lines.extend(found.bank.iter().copied());
        }
        for (is_bank, records) in [(false, self.ledger), (true, self.bank)] {
            for (place, record) in records.iter().enumerate() {
                let key = (record.account.to_string(), record.currency.code().to_owned());
                let figures = accounts.entry(key.clone()).or_insert_with(|| AccountFigures {
                    account: key.0,
                    currency: key.1,
                    ledger_minor_units: 0,
                    bank_minor_units: 0,
                    entries: 0,
                    lines: 0,
                    lines_auto: 0,
                    lines_suggested: 0,
                    lines_open: 0,
                });
                let place = place as u32;
                if is_bank {
                    figures.bank_minor_units = figures.bank_minor_units.saturating_add(record.minor_units);
                    figures.lines += 1;
                    figures.lines_auto += usize::from(auto.contains(&place));
                    figures.lines_suggested += usize::from(suggested.contains(&place));
                    figures.lines_open += usize::from(!auto.contains(&place) && !suggested.contains(&place));
                } else {
                    figures.ledger_minor_units =
                        figures.ledger_minor_units.saturating_add(record.minor_units);
                    figures.entries += 1;
                }
            }
        }
        accounts.into_values().collect()
    }

    fn matches(&self) -> Vec<MatchRow> {
        let ids = |records: &[Record], places: &[u32]| {
            let mut ids: Vec<&str> = places.iter().map(|place| &*records[*place as usize].id).collect();
            ids.sort_unstable();
            ids.join(" ")
        };
        let mut rows: Vec<MatchRow> = self
            .outcome
            .matches
            .iter()
            .map(|found| MatchRow {
                ledger: ids(self.ledger, &found.ledger),
                bank: ids(self.bank, &found.bank),
                how: match found.how {
                    How::Reference => "reference".to_owned(),
                    How::Model => "model".to_owned(),
                    How::Group(evidence) => format!("group {evidence:?}").to_lowercase(),
                },
                decision: if found.decision == Decision::Auto { "auto" } else { "suggest" },
                probability: found.probability,
                difference_minor_units: found.difference,
                runner_up: found
                    .runner_up
                    .map(|(line, score)| format!("{} ({score:+.2})", self.bank[line as usize].id))
                    .unwrap_or_default(),
                explanation: explain(found),
            })
            .collect();
        rows.sort_by(|a, b| (&a.ledger, &a.bank).cmp(&(&b.ledger, &b.bank)));
        rows
    }

    fn breaks(&self) -> Vec<BreakRow> {
        let mut rows: Vec<BreakRow> = self.outcome.breaks.iter().map(|found| self.row(found)).collect();
        rows.sort_by(|a, b| (a.kind, &a.subject).cmp(&(b.kind, &b.subject)));
        rows
    }

    fn row(&self, found: &Break) -> BreakRow {
        let (subject, record) = match &found.subject {
            Subject::Ledger(place) => {
                let record = &self.ledger[*place as usize];
                (format!("ledger {}", record.id), Some(record))
            }
            Subject::Bank(place) => {
                let record = &self.bank[*place as usize];
                (format!("bank {}", record.id), Some(record))
            }
            Subject::Event(place) => (format!("chain event {}", place + 1), None),
            Subject::Account(account) => (format!("account {account}"), None),
        };
        BreakRow {
            kind: found.kind.code(),
            subject,
            account: record.map(|record| record.account.to_string()).unwrap_or_default(),
            currency: record.map(|record| record.currency.code().to_owned()).unwrap_or_default(),
            minor_units: found.minor_units,
            age_days: found.age_days,
            owner: found.kind.owner(),
            proposal: found.kind.proposal(),
        }
    }
}

/// One sentence: where a match comes from and what moved it.
pub fn explain(found: &Match) -> String {
    match found.how {
        How::Reference => {
            "The full reference and the exact amount agree, and no other record has them.".to_owned()
        }
        How::Group(evidence) => format!(
            "{} ledger entries and {} bank lines belong together ({evidence:?}).",
            found.ledger.len(),
            found.bank.len()
        ),
        How::Model => {
            let reasons: Vec<String> =
                found.reasons.iter().map(|(name, part)| format!("{name} {part:+.2}")).collect();
            let rival = match found.runner_up {
                Some((_, score)) => format!("the next best line stands at {score:+.2}"),
                None => "no other line comes into question".to_owned(),
            };
            format!("Log-odds {:+.2} from {}; {rival}.", found.score, reasons.join(", "))
        }
    }
}

fn table(rows: &[impl Serialize]) -> Result<String, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.serialize(row)?;
    }
    let bytes = writer.into_inner().unwrap_or_default();
    Ok(String::from_utf8(bytes).unwrap_or_default())
}

fn units(minor_units: i128, currency: &str) -> String {
    let scale = flowbridge_domain::money::Currency::parse(currency).map_or(2, |currency| currency.scale());
    let scale = usize::from(scale);
    let digits = format!("{:0>width$}", minor_units.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let sign = if minor_units < 0 { "−" } else { "" };
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const HEAD: &str = "<!doctype html><html lang=en><meta charset=utf-8><title>Reconciliation</title><style>\
body{font:15px/1.5 system-ui,sans-serif;color:#1d2733;background:#f6f7f9;margin:0}main{max-width:70rem;margin:2rem auto;\
padding:0 1.5rem}h1{font-weight:600}h2{margin-top:2.5rem;font-size:1.1rem}table{border-collapse:collapse;width:100%;\
background:#fff;border-radius:8px;box-shadow:0 1px 3px #0001}th,td{padding:.45rem .7rem;text-align:right;border-bottom:1px \
solid #eef0f3;font-variant-numeric:tabular-nums}th{font-weight:500;color:#667}td:first-child,th:first-child{text-align:left}\
.m{color:#778}.ok{color:#1a7f4b}.off{color:#b3261e}.bar{display:inline-flex;width:7rem;height:.6rem;background:#e6c9c7;\
border-radius:3px;overflow:hidden}.bar i{background:#3a9d6e}.bar b{background:#e2b64d}</style><main>";
