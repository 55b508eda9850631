//! What a run leaves behind: one page for a person, the same on paper, two tables for a spreadsheet, one JSON for machines
//! and one statement of what was reconciled for other systems.
//!
//! All carry the hash of the run's manifest: hashes of the inputs and of the model, the day, the settings and the program's version. The
//! number of threads is not part of it, because it changes nothing; the same manifest means the same report, byte for byte. Whoever tells
//! a report more than its inputs lead to has to put [`findings_sha256`] among them.

mod camt;
mod html;
mod pdf;

pub use camt::CamtError;

use crate::anomaly::{Anomaly, RunSummary};
use crate::engine::{Break, Decision, How, Match, Outcome, Settings, Subject};
use crate::gate::StatementHead;
use crate::group::GroupEvidence;
use crate::record::Record;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
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
    /// Version of the program, which wrote the report.
    pub program: &'static str,
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
            program: env!("CARGO_PKG_VERSION"),
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

/// SHA-256 of all that a report tells beside the records themselves.
pub fn findings_sha256(
    outcome: &Outcome,
    heads: &[StatementHead],
    extras: &Extras<'_>,
) -> Result<String, serde_json::Error> {
    let Extras { anomalies, history, sentences, balance, proofs, summary } = extras;
    let beside = (anomalies, history, sentences, balance, proofs, summary);
    let heads = format!("{heads:?}");
    Ok(sha256(&serde_json::to_vec(&(&outcome.matches, &outcome.breaks, heads, beside))?))
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

/// What earlier runs and other words add to a page.
#[derive(Debug, Clone, Default)]
pub struct Extras<'a> {
    /// What is unusual about this run.
    pub anomalies: &'a [Anomaly],
    /// Earlier runs and this one, oldest first.
    pub history: &'a [RunSummary],
    /// Sentences that explain matches in other words, by the position of the match.
    pub sentences: BTreeMap<usize, String>,
    /// Our reserve against the bank's closing balance, where both are known.
    pub balance: &'a [Balance],
    /// The same at the instant of each statement, where there are several; oldest first.
    pub proofs: &'a [BalanceAt],
    /// The figures of the run, as other programs read them.
    pub summary: Option<&'a serde_json::Value>,
}

impl Extras<'_> {
    /// Was there more than the run may look at? What it says nothing of may differ all the same.
    fn is_cut_off(&self) -> bool {
        self.summary.and_then(|summary| summary.get("is_whole")) == Some(&serde_json::Value::Bool(false))
    }
}

/// What a report of a run says that was cut off.
const CUT_OFF: &str = "More was there than one run may look at: what is proven was matched; the next says what of the rest differs.";

/// Our reserve on an account against what the bank says is on it, in minor units: `statement` = `ledger` − `in_transit` +
/// `at_bank_only` − `in_ledger_only` + `differences` + `unexplained`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Balance {
    /// The account.
    pub account: String,
    /// Its currency.
    pub currency: String,
    /// The closing balance of the newest statement; none where it tells none.
    pub statement: Option<i64>,
    /// Our reserve.
    pub ledger: i64,
    /// Entries that the bank books later.
    pub in_transit: i64,
    /// Lines without an entry.
    pub at_bank_only: i64,
    /// Entries without a line.
    pub in_ledger_only: i64,
    /// What matched lines have more than their entries, and no entry has put right yet.
    pub differences: i64,
    /// What nothing explains; zero where it is not told.
    pub unexplained: i64,
    /// Can it be told? Not without a closing balance, with a statement missing, or when a run has not looked at everything.
    pub is_told: bool,
}

impl Balance {
    /// What the bank should have by our books and its own lines, at the newest of its lines.
    pub fn explained(&self) -> i128 {
        i128::from(self.ledger) - i128::from(self.in_transit) + i128::from(self.at_bank_only)
            - i128::from(self.in_ledger_only)
            + i128::from(self.differences)
    }
}

/// Our reserve against what the bank says is there at the instant of one statement, in minor units: `closing` = `ledger` +
/// `in_between` + `unexplained`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BalanceAt {
    /// The account.
    pub account: String,
    /// Its currency.
    pub currency: String,
    /// The statement, as the bank calls it; or its file.
    pub statement: String,
    /// The instant up to which it tells everything, as RFC 3339.
    pub as_of: String,
    /// Its closing balance.
    pub closing: i64,
    /// Our reserve, as posted until that instant.
    pub ledger: i64,
    /// What our entries and the bank's lines say lies between them: posted on the other side of the instant, on one side only,
    /// matched with another amount, or put right since.
    pub in_between: i64,
    /// What nothing explains.
    pub unexplained: i64,
}

/// One account, as the report proves it: what the bank has more than the ledger is the sum of three things, to the unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccountFigures {
    /// The account.
    pub account: String,
    /// Its currency.
    pub currency: String,
    /// Sum of the ledger's entries.
    pub ledger_minor_units: i128,
    /// Sum of the bank's lines.
    pub bank_minor_units: i128,
    /// What matched lines have more than their entries.
    pub matched_difference_minor_units: i128,
    /// Sum of lines without an entry.
    pub lines_open_minor_units: i128,
    /// Sum of entries without a line.
    pub entries_open_minor_units: i128,
    /// Entries.
    pub entries: usize,
    /// Entries without a line.
    pub entries_open: usize,
    /// Lines.
    pub lines: usize,
    /// Lines that may be posted without a person.
    pub lines_auto: usize,
    /// Lines to confirm.
    pub lines_suggested: usize,
    /// Lines without an entry.
    pub lines_open: usize,
}

impl AccountFigures {
    /// What the bank has more than the ledger.
    pub fn difference(&self) -> i128 {
        self.bank_minor_units.saturating_sub(self.ledger_minor_units)
    }

    /// What of the difference nothing explains; anything but zero is a fault of this program.
    pub fn unexplained(&self) -> i128 {
        self.difference()
            .saturating_sub(self.matched_difference_minor_units)
            .saturating_sub(self.lines_open_minor_units)
            .saturating_add(self.entries_open_minor_units)
    }
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
    #[serde(skip_serializing_if = "String::is_empty")]
    manifest: String,
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
    #[serde(skip_serializing_if = "String::is_empty")]
    manifest: String,
}

impl Report<'_> {
    /// The report as JSON, by `docs/schemas/recon-report-1.json`.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        self.json_with(&Extras::default())
    }

    /// The report as JSON, with what is unusual and the figures of the run.
    pub fn json_with(&self, extras: &Extras<'_>) -> Result<String, serde_json::Error> {
        let mut json = serde_json::json!({
            "schema_version": SCHEMA_VERSION,
            "manifest": self.manifest,
            "manifest_sha256": self.manifest.sha256(),
            "accounts": self.accounts(),
            "is_proven": self.accounts().iter().all(|account| account.unexplained() == 0),
            "matches": self.matches(),
            "breaks": self.breaks(),
            "anomalies": extras.anomalies,
        });
        if let (Some(object), Some(summary)) = (json.as_object_mut(), extras.summary) {
            object.insert("summary".to_owned(), summary.clone());
        }
        serde_json::to_string_pretty(&json)
    }

    /// Matches as CSV.
    pub fn matches_csv(&self) -> Result<String, csv::Error> {
        let manifest = self.manifest.sha256();
        table(self.matches().into_iter().map(|row| MatchRow {
            ledger: as_text(row.ledger),
            bank: as_text(row.bank),
            runner_up: as_text(row.runner_up),
            manifest: manifest.clone(),
            ..row
        }))
    }

    /// Breaks as CSV.
    pub fn breaks_csv(&self) -> Result<String, csv::Error> {
        let manifest = self.manifest.sha256();
        table(self.breaks().into_iter().map(|row| BreakRow {
            subject: as_text(row.subject),
            account: as_text(row.account),
            manifest: manifest.clone(),
            ..row
        }))
    }

    /// The page for a person.
    pub fn html(&self) -> String {
        self.html_with(&Extras::default())
    }

    /// The page for a person, with what earlier runs and other words add to it.
    pub fn html_with(&self, extras: &Extras<'_>) -> String {
        html::page(self, extras)
    }

    /// Matches to confirm, by position, the largest first.
    pub fn to_confirm(&self) -> Vec<usize> {
        let key = |place: &usize| {
            let lines = self.outcome.matches[*place].bank.iter().map(|line| &self.bank[*line as usize]);
            let size =
                lines.clone().fold(0u128, |sum, line| sum.saturating_add(line.minor_units.unsigned_abs()));
            (std::cmp::Reverse(size), lines.map(|line| &line.id).next())
        };
        let mut wanted: Vec<usize> = (0..self.outcome.matches.len())
            .filter(|place| self.outcome.matches[*place].decision == Decision::Suggest)
            .collect();
        wanted.sort_by(|a, b| key(a).cmp(&key(b)));
        wanted
    }

    /// What was reconciled, as a camt.053 message.
    pub fn camt(&self) -> Result<String, CamtError> {
        camt::message(self)
    }

    /// The figures and the largest breaks on paper.
    pub fn pdf(&self) -> Vec<u8> {
        self.pdf_with(&Extras::default())
    }

    /// The same, with our reserve against the bank's balance.
    pub fn pdf_with(&self, extras: &Extras<'_>) -> Vec<u8> {
        pdf::document(self, extras)
    }

    /// Each account with its proof, in the order of account and currency.
    pub fn accounts(&self) -> Vec<AccountFigures> {
        let mut lines: Vec<Option<Decision>> = vec![None; self.bank.len()];
        let mut entries = vec![false; self.ledger.len()];
        for found in &self.outcome.matches {
            found.bank.iter().for_each(|line| lines[*line as usize] = Some(found.decision));
            found.ledger.iter().for_each(|entry| entries[*entry as usize] = true);
        }
        let mut accounts: BTreeMap<(&str, &str), AccountFigures> = BTreeMap::new();
        for (record, is_matched) in self.ledger.iter().zip(&entries) {
            let figures = figures_of(&mut accounts, record);
            add(&mut figures.ledger_minor_units, record.minor_units);
            figures.entries += 1;
            if !is_matched {
                add(&mut figures.entries_open_minor_units, record.minor_units);
                figures.entries_open += 1;
            }
        }
        for (record, decision) in self.bank.iter().zip(&lines) {
            let figures = figures_of(&mut accounts, record);
            add(&mut figures.bank_minor_units, record.minor_units);
            figures.lines += 1;
            match decision {
                Some(Decision::Auto) => figures.lines_auto += 1,
                Some(Decision::Suggest) => figures.lines_suggested += 1,
                None => {
                    figures.lines_open += 1;
                    add(&mut figures.lines_open_minor_units, record.minor_units);
                }
            }
        }
        for found in &self.outcome.matches {
            let sum = |records: &[Record], places: &[u32]| {
                places
                    .iter()
                    .fold(0i128, |sum, place| sum.saturating_add(records[*place as usize].minor_units))
            };
            if let Some(first) = found.bank.first() {
                let difference = sum(self.bank, &found.bank).saturating_sub(sum(self.ledger, &found.ledger));
                let figures = figures_of(&mut accounts, &self.bank[*first as usize]);
                add(&mut figures.matched_difference_minor_units, difference);
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
                manifest: String::new(),
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
            manifest: String::new(),
        }
    }
}

/// One sentence: where a match comes from and what moved it.
pub fn explain(found: &Match) -> String {
    match found.how {
        How::Reference => {
            "The full reference and the exact amount agree, and no other record has them.".to_owned()
        }
        How::Group(evidence) => {
            format!(
                "{} and {} belong together: {}.",
                html::plural(found.ledger.len(), "ledger entry", "ledger entries"),
                html::plural(found.bank.len(), "bank line", "bank lines"),
                match evidence {
                    GroupEvidence::BatchId => "they carry the same batch",
                    GroupEvidence::Quoted => "one side quotes the other's invoices",
                    GroupEvidence::UniqueSum => "no other entries add up to the same sum",
                }
            )
        }
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

fn add(sum: &mut i128, minor_units: i128) {
    *sum = sum.saturating_add(minor_units);
}

fn figures_of<'a, 'b>(
    accounts: &'b mut BTreeMap<(&'a str, &'a str), AccountFigures>,
    record: &'a Record,
) -> &'b mut AccountFigures {
    accounts.entry((&record.account, record.currency.code())).or_insert_with(|| AccountFigures {
        account: record.account.to_string(),
        currency: record.currency.code().to_owned(),
        ledger_minor_units: 0,
        bank_minor_units: 0,
        matched_difference_minor_units: 0,
        lines_open_minor_units: 0,
        entries_open_minor_units: 0,
        entries: 0,
        entries_open: 0,
        lines: 0,
        lines_auto: 0,
        lines_suggested: 0,
        lines_open: 0,
    })
}

fn table(rows: impl Iterator<Item = impl Serialize>) -> Result<String, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.serialize(row)?;
    }
    let bytes = writer.into_inner().unwrap_or_default();
    Ok(String::from_utf8(bytes).unwrap_or_default())
}

/// A spreadsheet would run what begins like a formula; an apostrophe makes it text.
fn as_text(field: String) -> String {
    if field.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{field}") } else { field }
}

/// An instant to the minute, for people.
fn minute(rfc3339: &str) -> String {
    rfc3339.get(..16).unwrap_or(rfc3339).replace('T', " ")
}

/// Minor units as a decimal with thousands apart, for people.
fn units(minor_units: i128, currency: &str) -> String {
    let plain = decimal(minor_units.unsigned_abs(), currency);
    let (whole, fraction) = plain.split_once('.').map_or((plain.as_str(), ""), |(whole, rest)| (whole, rest));
    let mut text = String::from(if minor_units < 0 { "\u{2212}" } else { "" });
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    if !fraction.is_empty() {
        text.push('.');
        text.push_str(fraction);
    }
    text
}

/// Minor units as a plain decimal.
fn decimal(minor_units: u128, currency: &str) -> String {
    let scale = flowbridge_domain::money::Currency::parse(currency).map_or(2, |currency| currency.scale());
    let scale = usize::from(scale);
    let digits = format!("{minor_units:0>width$}", width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    if scale == 0 { whole.to_owned() } else { format!("{whole}.{fraction}") }
}
