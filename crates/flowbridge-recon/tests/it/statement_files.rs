//! Statement files that others made: each is read as its expected file says, or refused.

use crate::shared;
use flowbridge_recon::statement::{self, Entry, StatementFile};
use std::path::{Path, PathBuf};

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let Some(folder) = shared::folder(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the folder exists")
        .map(|entry| entry.expect("the folder is readable").path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    files
}

fn read(path: &Path) -> Result<StatementFile, String> {
    statement::read(&std::fs::read(path).expect("the file is readable"), None)
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn line(entry: &Entry) -> (i128, String) {
    (entry.minor_units, entry.booked_on.map(|day| day.to_string()).unwrap_or_default())
}

#[test]
fn camt_files_read_as_expected() {
    for path in files("statements/camt", "xml") {
        let expected = std::fs::read_to_string(path.with_extension("json"));
        let found = read(&path);
        let Ok(expected) = expected else {
            assert!(found.is_err(), "{} has no expectation and must be refused", path.display());
            continue;
        };
        let found = found.unwrap();
        let expected: serde_json::Value = serde_json::from_str(&expected).unwrap();
        assert_eq!(
            found.statements.len(),
            expected["getRecords"].as_array().unwrap().len(),
            "{}",
            path.display()
        );
        let entries = expected["getEntries"].as_array().unwrap();
        // Of several statements, the expectation lists the entries of the last.
        let read: Vec<(i128, String)> = found.statements.last().unwrap().entries.iter().map(line).collect();
        let sum: i128 = entries
            .iter()
            .map(|entry| entry["getAmount"]["getAmount"].as_str().unwrap().parse::<i128>().unwrap())
            .sum();
        assert_eq!(read.iter().map(|line| line.0).sum::<i128>(), sum, "{}", path.display());
        for (entry, (_, day)) in entries.iter().zip(read) {
            let booked = entry["getBookingDate"]["0"].as_str().map_or("", |text| &text[..10]);
            assert_eq!(day, booked, "{}", path.display());
        }
    }
}

/// Decimals as the expected YAML has them: after the line that opens a transaction's amount.
fn expected_amounts(yaml: &str) -> Vec<i128> {
    let Some((_, transactions)) = yaml.split_once("\ntransactions:") else { return Vec::new() };
    let lines: Vec<&str> = transactions.lines().collect();
    lines
        .iter()
        .enumerate()
        .filter(|(_, line)| line.trim_start().starts_with("amount: !!python/object:mt940.models.Amount"))
        .map(|(place, _)| {
            let text = lines[place + 2].trim().trim_start_matches("- ").trim_matches('\'');
            let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
            format!("{whole}{fraction:0<2}").parse().expect("an amount")
        })
        .collect()
}

#[test]
fn mt940_files_read_as_expected() {
    for path in files("statements/mt940", "sta") {
        let expected = expected_amounts(&std::fs::read_to_string(path.with_extension("yml")).unwrap());
        match read(&path) {
            Ok(found) => {
                let entries: Vec<&Entry> =
                    found.statements.iter().flat_map(|statement| &statement.entries).collect();
                assert_eq!(entries.len(), expected.len(), "{}", path.display());
                for (entry, expected) in entries.iter().zip(expected) {
                    // The expectation counts the reversal of a credit as a credit; the statements' balances do not.
                    let expected = if entry.is_return { -expected } else { expected };
                    assert_eq!(entry.minor_units, expected, "{}", path.display());
                }
                for statement in &found.statements {
                    let has_return = statement.entries.iter().any(|entry| entry.is_return);
                    if let (true, Some(opening), Some(closing)) =
                        (has_return, statement.opening, statement.closing)
                    {
                        let sum: i128 = statement.entries.iter().map(|entry| entry.minor_units).sum();
                        assert_eq!(opening.minor_units + sum, closing.minor_units, "{}", statement.id);
                    }
                }
            }
            Err(error) => assert!(expected.is_empty(), "{error}"),
        }
    }
}

#[test]
fn pages_of_a_statement_that_others_made_are_one_statement_that_adds_up() {
    let files = files("statements/mt940", "sta");
    let Some(path) = files.iter().find(|path| path.ends_with("betterplace_sepa_mt9401.sta")) else { return };
    let found = read(path).unwrap();
    assert_eq!(found.statements.len(), 20, "of 26 pages");
    for statement in &found.statements {
        let sum: i128 = statement.entries.iter().map(|entry| entry.minor_units).sum();
        let balances = (statement.opening.unwrap(), statement.closing.unwrap());
        assert_eq!(balances.0.minor_units + sum, balances.1.minor_units, "{}", statement.id);
    }
}

#[test]
fn bai2_files_read_with_every_line() {
    let found: Vec<(usize, usize)> = files("statements/bai2", "txt")
        .iter()
        .map(|path| read(path).unwrap())
        .map(|file| {
            let entries = file.statements.iter().map(|statement| statement.entries.len()).sum();
            (file.statements.len(), entries)
        })
        .collect();
    assert!(found.is_empty() || found == [(2, 17), (15, 26)], "{found:?}");
}
