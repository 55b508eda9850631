//! The report: proven to the unit, in every form, with nothing of a stranger's text taken for markup.

use crate::shared;
use flowbridge_recon::anomaly::{self, RunSummary};
use flowbridge_recon::break_kind::BreakKind;
use flowbridge_recon::engine::{self, Break, Outcome, Settings, Subject};
use flowbridge_recon::generate::{self, Books, Recipe};
use flowbridge_recon::report::{self, BalanceAt, Extras, Manifest, Report};
use flowbridge_recon::{Model, statement};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

fn with_report<T>(books: &Books, look: impl FnOnce(&Report<'_>, &Outcome) -> T) -> T {
    let settings = Settings::on(books.as_of, 2);
    let outcome = engine::run(&books.ledger, &books.bank, &Model::shipped().unwrap(), &settings);
    let manifest = Manifest::new(BTreeMap::new(), Model::shipped_sha256(), &settings);
    let (ledger, bank) = (&books.ledger, &books.bank);
    let report = Report { ledger, bank, outcome: &outcome, heads: &books.statements, manifest: &manifest };
    look(&report, &outcome)
}

fn books() -> Books {
    let mut books = generate::make(Recipe { seed: 11, entries: 3_000, noise: 1.5 });
    books.ledger[0].counterparty = "<script>alert('1')</script> & \u{1}\u{ffff}".into();
    books.bank[0].text = "\"><img src=x onerror=alert(1)>]]>".into();
    books.bank[1].id = "=HYPERLINK(\"x\")".into();
    books
}

#[test]
fn every_difference_between_bank_and_ledger_is_accounted_for() {
    with_report(&books(), |report, outcome| {
        let accounts = report.accounts();
        assert_eq!(accounts.len(), 4);
        for account in &accounts {
            assert_eq!(account.unexplained(), 0, "{account:?}");
            assert_ne!(account.difference(), 0, "the proof has something to prove: {account:?}");
        }
        // A match that is lost makes a hole that the proof sees.
        let lost = outcome.matches.iter().find(|found| found.difference != 0).unwrap();
        assert!(accounts.iter().any(|account| account.matched_difference_minor_units != 0), "{lost:?}");
    });
}

#[test]
fn a_strangers_text_is_text_in_every_form() {
    with_report(&books(), |report, _| {
        let html = report.html();
        assert!(!html.contains("<script>alert") && !html.contains("<img src=x"));
        assert!(!html.contains("http://") && !html.contains("https://"), "nothing outside the page");
        assert!(html.contains(&report.manifest.sha256()));
        assert!(html.contains(" % likely</span>") && !html.contains("<span class=m> % likely"));
        let at = [BalanceAt {
            account: "DE02".to_owned(),
            currency: "EUR".to_owned(),
            statement: "<b>1</b>".to_owned(),
            as_of: "2026-11-28T00:00:00.000Z".to_owned(),
            closing: 1_050,
            ledger: 1_000,
            in_between: 0,
            unexplained: 50,
        }];
        let html = report.html_with(&Extras { proofs: &at, ..Extras::default() });
        assert!(html.contains("<td>&lt;b&gt;1&lt;/b&gt;<td") && html.contains("2026-11-28 00:00"));
        assert!(html.contains("✗ 0.50"), "a difference at a statement is shown");
        let tables = format!("{}{}", report.matches_csv().unwrap(), report.breaks_csv().unwrap());
        assert!(!tables.contains(",=HYPERLINK") && !tables.contains("\n\"=HYPERLINK"));
        assert!(
            tables.lines().all(|line| line.contains("manifest") || line.contains(&report.manifest.sha256()))
        );
    });
}

#[test]
fn the_page_shows_how_nights_went_and_whether_they_are_enough_to_judge_by() {
    with_report(&books(), |report, outcome| {
        let today = report.manifest.as_of;
        let nights = |count: i32| -> Vec<RunSummary> {
            let night = |ago: i32| {
                let on = today.plus_days(-7 * ago);
                let observed = anomaly::observe(report.ledger, report.bank, outcome, on);
                observed.summary
            };
            (0..=count).rev().map(night).collect()
        };
        let page = |history: &[RunSummary]| report.html_with(&Extras { history, ..Extras::default() });
        let silent = page(&nights(1));
        assert!(silent.contains("Too few nights yet: 1 earlier run, "), "{silent}");
        assert!(silent.contains("aria-label='trend'"));
        let usual = page(&nights(6));
        assert!(usual.contains("Nothing, beside 6 earlier runs."), "{usual}");
    });
}

#[test]
fn a_manifest_names_all_that_a_report_is_made_of() {
    with_report(&books(), |report, outcome| {
        assert_eq!(report.manifest.program, env!("CARGO_PKG_VERSION"));
        let of = |outcome: &Outcome, extras: &Extras<'_>| {
            report::findings_sha256(outcome, report.heads, extras).unwrap()
        };
        let same = of(outcome, &Extras::default());
        assert_eq!(of(&outcome.clone(), &Extras::default()), same);
        let mut lacks = outcome.clone();
        let gap = Subject::Account("statement of alpha".to_owned());
        lacks.breaks.push(Break { kind: BreakKind::StatementGap, subject: gap, minor_units: 0, age_days: 0 });
        assert_ne!(of(&lacks, &Extras::default()), same, "a gap");
        let summary = serde_json::json!({ "under_way": 1 });
        assert_ne!(of(outcome, &Extras { summary: Some(&summary), ..Extras::default() }), same);
        let sentences = BTreeMap::from([(0, "In other words.".to_owned())]);
        assert_ne!(of(outcome, &Extras { sentences, ..Extras::default() }), same);
    });
}

#[test]
fn a_runner_up_that_is_called_like_a_formula_is_text() {
    let mut books = books();
    let second = with_report(&books, |_, outcome| outcome.matches.iter().find_map(|found| found.runner_up));
    let (line, _) = second.expect("some match has a next best line");
    books.bank[line as usize].id = "@SUM(A1)".into();
    with_report(&books, |report, _| {
        let table = report.matches_csv().unwrap();
        assert!(table.contains(",'@SUM(A1) (") && !table.contains(",@SUM(A1) ("), "{table}");
    });
}

#[test]
fn the_paper_is_the_same_every_time_and_carries_the_hash() {
    with_report(&books(), |report, _| {
        let paper = report.pdf();
        assert!(paper.starts_with(b"%PDF-1.") && paper.ends_with(b"%%EOF"));
        let hash = report.manifest.sha256();
        assert!(paper.windows(hash.len()).any(|part| part == hash.as_bytes()));
        assert!(paper == report.pdf());
    });
}

#[test]
fn reconciled_entries_read_back_as_a_statement() {
    with_report(&books(), |report, outcome| {
        let xml = report.camt().unwrap();
        let read = statement::read(xml.as_bytes(), None).unwrap();
        let lines: usize = outcome.matches.iter().map(|found| found.bank.len()).sum();
        assert_eq!(read.statements.iter().map(|statement| statement.entries.len()).sum::<usize>(), lines);
        let sum = |statement: &statement::Statement| {
            statement.entries.iter().map(|entry| entry.minor_units).sum::<i128>()
        };
        let wanted: i128 = outcome
            .matches
            .iter()
            .flat_map(|found| &found.bank)
            .map(|line| report.bank[*line as usize].minor_units)
            .sum();
        assert_eq!(read.statements.iter().map(sum).sum::<i128>(), wanted);
        validate(&xml);
    });
}

/// By the standard's own schema, where that and `xmllint` are there.
fn validate(xml: &str) {
    let Some(schemas) = shared::folder("iso20022/xsd") else { return };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join("reconciled.camt.xml");
    std::fs::write(&file, xml).unwrap();
    let schema = schemas.join("camt.053.001.08.xsd");
    match Command::new("xmllint").arg("--noout").arg("--schema").arg(schema).arg(&file).output() {
        Ok(checked) => assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr)),
        Err(error) => shared::skipped(&format!("no xmllint: {error}")),
    }
}

#[test]
fn the_json_is_what_its_schema_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schemas/recon-report-1.json");
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    with_report(&books(), |report, _| {
        let written: Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        check(&schema, &written, "report");
        let summary = serde_json::json!({ "scope": "alpha" });
        let extras = Extras { summary: Some(&summary), ..Extras::default() };
        let told: Value = serde_json::from_str(&report.json_with(&extras).unwrap()).unwrap();
        check(&schema, &told, "report of the running system");
        assert_eq!(told["summary"], summary);
        let mut wrong = written.clone();
        wrong["accounts"][0]["surprise"] = Value::from(1);
        assert!(
            std::panic::catch_unwind(|| check(&schema, &wrong, "report")).is_err(),
            "the schema excludes something"
        );
    });
}

/// The part of JSON Schema that the committed schema uses.
fn check(schema: &Value, value: &Value, place: &str) {
    let is_type = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64() || value.is_number(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        other => panic!("{place}: the schema's type {other:?} is not understood"),
    };
    assert!(is_type, "{place}: {value} is no {}", schema["type"]);
    if let Some(allowed) = schema["enum"].as_array() {
        assert!(allowed.contains(value), "{place}: {value} is not in {allowed:?}");
    }
    if let Some(constant) = schema.get("const") {
        assert_eq!(constant, value, "{place}");
    }
    if let Some(items) = value.as_array() {
        items.iter().for_each(|item| check(&schema["items"], item, &format!("{place}[]")));
    }
    let Some(fields) = value.as_object() else { return };
    for name in schema["required"].as_array().into_iter().flatten() {
        assert!(fields.contains_key(name.as_str().unwrap()), "{place} lacks {name}");
    }
    for (name, field) in fields {
        let known = schema["properties"].get(name);
        match (known, schema["additionalProperties"].is_object()) {
            (Some(known), _) => check(known, field, &format!("{place}.{name}")),
            (None, false) if schema["additionalProperties"].is_null() => {}
            (None, true) => check(&schema["additionalProperties"], field, &format!("{place}.{name}")),
            (None, false) => panic!("{place}.{name} is not in the schema"),
        }
    }
}
