//! The architecture's rules as checks: which crate may know which, who may touch SQL and alloy, and what every file must
//! have or must not contain. A rule that is only written down is broken within a month.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::shell;

/// What each crate may depend on. Dependencies point down; siblings do not know each other, except the bus.
const EDGES: [(&str, &[&str]); 16] = [
    (
        "flowbridge",
        &[
            "api", "audit", "bank", "bus", "chain", "domain", "embedded", "gateway", "recon", "security",
            "store", "testkit", "workers",
        ],
    ),
    ("flowbridge-gateway", &["api", "bank", "bus", "chain", "domain", "security", "store"]),
    ("flowbridge-workers", &["api", "audit", "bank", "bus", "chain", "domain", "recon", "security", "store"]),
    ("flowbridge-bus", &["api", "domain", "store"]),
    ("flowbridge-api", &["domain"]),
    ("flowbridge-audit", &["domain", "security"]),
    ("flowbridge-bank", &["domain"]),
    ("flowbridge-chain", &["domain"]),
    ("flowbridge-recon", &["domain"]),
    ("flowbridge-security", &["domain"]),
    ("flowbridge-store", &["domain"]),
    ("flowbridge-domain", &[]),
    ("flowbridge-embedded", &[]),
    ("flowbridge-testkit", &["api", "bank", "bus", "chain", "domain", "embedded", "security", "store"]),
    ("flowbridge-storm", &["domain", "embedded", "security"]),
    ("xtask", &[]),
];

/// Outside crates that only some of ours may use. Tests and storms may look into a database directly.
const OWNED: [(&str, &[&str]); 7] = [
    ("alloy", &["flowbridge-chain", "flowbridge-embedded"]),
    ("deadpool-postgres", &["flowbridge-store"]),
    ("object_store", &["flowbridge-workers"]),
    ("postgres-types", &["flowbridge-store"]),
    ("refinery", &["flowbridge-store"]),
    ("sqlx", &[]),
    ("tokio-postgres", &["flowbridge-store", "flowbridge-storm"]),
];

/// Only tests may start servers.
const FOR_TESTS: [&str; 2] = ["flowbridge-embedded", "flowbridge-testkit"];

/// The glossary's other words: what not to write, and what to write instead.
const WORDS: [(&str, &str); 4] =
    [("payer", "debtor"), ("payee", "creditor"), ("remitter", "debtor"), ("beneficiary", "creditor")];

/// Leftovers, spelled apart so that this file does not contain them.
const MARKERS: [&str; 5] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("todo", "!("),
    concat!("unimpl", "emented!("),
    concat!("T", "BD"),
];

/// Beginnings of paths that exist on one machine only.
const MACHINE_PATHS: [&str; 3] = [concat!("/ho", "me/"), concat!("/Us", "ers/"), concat!("/ro", "ot/")];

const TEXT: [&str; 14] =
    ["cjs", "conf", "css", "html", "js", "json", "md", "mjs", "py", "rs", "sh", "sol", "sql", "toml"];

/// Fails with every place that breaks a rule.
pub(crate) fn run() -> Result<()> {
    let mut complaints = crate_complaints(&metadata()?);
    let here = format!("{}/", shell::root().display());
    let files = shell::output(shell::command(
        "git",
        &["ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"],
    ))
    .context("tidy reads the list of files from git")?;
    let mut count = 0;
    for file in files.lines().filter(|file| !file.ends_with("-lock.json")) {
        let is_text = file.rsplit_once('.').is_some_and(|(_, extension)| TEXT.contains(&extension));
        // A file that git lists and that is deleted in the working copy is no concern.
        let Some(text) = is_text.then(|| fs::read_to_string(shell::root().join(file)).ok()).flatten() else {
            continue;
        };
        count += 1;
        complaints.extend(file_complaints(file, &text, &here));
    }
    for complaint in &complaints {
        println!("    {complaint}");
    }
    if !complaints.is_empty() {
        bail!("{} places break a rule", complaints.len());
    }
    println!("    {count} files and {} crates keep the rules", EDGES.len());
    Ok(())
}

fn metadata() -> Result<Value> {
    let text = shell::output(shell::cargo(&["metadata", "--no-deps", "--format-version", "1"]))?;
    serde_json::from_str(&text).context("cargo metadata is no JSON")
}

fn crate_complaints(metadata: &Value) -> Vec<String> {
    let edges = BTreeMap::from(EDGES);
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut complaints = Vec::new();
    for package in list(&metadata["packages"]) {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(allowed) = edges.get(name) else {
            complaints.push(format!("{name}: a new crate needs its line in xtask/src/tidy.rs"));
            continue;
        };
        for dependency in list(&package["dependencies"]) {
            let to = dependency["name"].as_str().unwrap_or_default();
            let is_for_tests = dependency["kind"] == "dev";
            let short = to.strip_prefix("flowbridge-");
            if short.is_some_and(|short| !allowed.contains(&short))
                && !(is_for_tests && FOR_TESTS.contains(&to))
            {
                complaints
                    .push(format!("{name} -> {to}: dependencies point down only (docs/ARCHITECTURE.md)"));
            }
            if OWNED.iter().any(|(owned, by)| *owned == to && !by.contains(&name)) && !is_for_tests {
                complaints.push(format!("{name} -> {to}: another crate isolates that library"));
            }
        }
    }
    complaints
}

fn file_complaints(file: &str, text: &str, here: &str) -> Vec<String> {
    let is_rust = file.ends_with(".rs");
    let is_ours = file.starts_with("crates/") || file.starts_with("contracts/src/") || file.ends_with(".sql");
    // A storm reaches for the database from outside, to break it.
    let may_hold_sql = !is_rust
        || !file.starts_with("crates/")
        || !file.contains("/src/")
        || ["-store/", "-storm/"].iter().any(|known| file.contains(known));
    let mut complaints = Vec::new();
    if is_rust && !text.starts_with("//!") {
        complaints.push(format!("{file}:1: a file begins with a `//!` paragraph that says what it is for"));
    }
    for (index, line) in text.lines().enumerate() {
        let mut complain = |rule: String| complaints.push(format!("{file}:{}: {rule}", index + 1));
        if let Some(marker) = MARKERS.iter().find(|marker| line.contains(**marker)) {
            complain(format!("a leftover: {marker}"));
        }
        if MACHINE_PATHS.iter().any(|path| line.contains(path)) || line.contains(here) {
            complain("a path that exists on one machine only".to_owned());
        }
        if !may_hold_sql && is_sql(line) {
            complain("SQL outside flowbridge-store".to_owned());
        }
        for (word, instead) in WORDS {
            if is_ours && words(line).any(|found| found == word) {
                complain(format!("the glossary says `{instead}`, not `{word}`"));
            }
        }
    }
    complaints
}

fn is_sql(line: &str) -> bool {
    let line = line.trim_start().to_lowercase();
    let holds = |parts: &[&str]| parts.iter().all(|part| line.contains(part));
    !line.starts_with("//")
        && [
            &["insert into "][..],
            &["delete from "],
            &["select ", " from "],
            &["update ", " set ", "="],
            &["create table "],
        ]
        .iter()
        .any(|parts| holds(parts))
}

/// The words of a line in lower case, identifiers taken apart: `payeeCount` and `PAYEE_COUNT` both begin with `payee`.
fn words(line: &str) -> impl Iterator<Item = String> {
    let mut separated = String::with_capacity(line.len());
    let mut previous_is_lower = false;
    for letter in line.chars() {
        if letter.is_uppercase() && previous_is_lower {
            separated.push(' ');
        }
        previous_is_lower = letter.is_lowercase();
        separated.extend(letter.to_lowercase());
    }
    separated
        .split(|letter: char| !letter.is_alphanumeric())
        .map(str::to_owned)
        .collect::<Vec<_>>()
        .into_iter()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{crate_complaints, file_complaints};

    #[track_caller]
    fn check(file: &str, text: &str, expected: &[&str]) {
        let found = file_complaints(file, text, "/srv/clone/");
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{found} does not say {expected}");
        }
    }

    #[test]
    fn each_rule_of_a_file_is_seen_and_plain_code_passes() {
        check("crates/a/src/lib.rs", "//! What it is for.\nlet update = set(displayer);\n", &[]);
        check("crates/a/src/lib.rs", "fn main() {}\n", &[":1: a file begins with"]);
        check(
            "crates/a/src/lib.rs",
            "//! A.\nlet payeeCount = 1;\nlet THE_PAYER = 2;\n",
            &["`creditor`", "`debtor`"],
        );
        check(
            "crates/a/src/lib.rs",
            "//! A.\n\"select id from payment\"\n// select one from many\n",
            &[":2: SQL outside"],
        );
        check("crates/flowbridge-store/src/lib.rs", "//! A.\n\"select id from payment\"\n", &[]);
        check("docs/a.md", "see /srv/clone/docs\n", &["one machine"]);
        check("docs/a.md", concat!("TO", "DO: more\n"), &["leftover"]);
    }

    #[test]
    fn a_crate_that_points_sideways_or_reaches_for_an_owned_library_is_named() {
        let package = |name: &str, to: &str, kind: serde_json::Value| json!({"packages": [{"name": name, "dependencies": [{"name": to, "kind": kind}]}]});
        let normal = || serde_json::Value::Null;
        assert!(crate_complaints(&package("flowbridge-gateway", "flowbridge-store", normal())).is_empty());
        assert!(
            crate_complaints(&package("flowbridge-store", "flowbridge-embedded", json!("dev"))).is_empty()
        );
        for bad in [
            package("flowbridge-gateway", "flowbridge-workers", normal()),
            package("flowbridge-domain", "flowbridge-store", normal()),
            package("flowbridge-store", "flowbridge-embedded", normal()),
            package("flowbridge-workers", "alloy", normal()),
            package("flowbridge-gateway", "tokio-postgres", normal()),
            package("flowbridge-new", "serde", normal()),
        ] {
            assert_eq!(crate_complaints(&bad).len(), 1, "{bad}");
        }
    }
}
