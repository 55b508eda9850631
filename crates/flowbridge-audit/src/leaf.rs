//! What is hashed of an entry: who did what to what and when, and a commitment to all that was said of it.
//!
//! A leaf stays for ever and is shown to auditors, so it holds nothing that may have to be forgotten: only members of the event's data
//! that are ids, names of clients and hashes. For the rest it holds the SHA-256 of a random salt and the data's text. Who has the salt
//! can show that the data is the one that was entered; when the salt is deleted, nobody can tell any more, and every proof still holds.
//!
//! The bytes are RFC 8785 (canonical JSON): members in the order of their names, no spaces, and no number but whole ones.

use flowbridge_domain::time::Timestamp;
use flowbridge_security::sha256;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A leaf of the bundles of C2SP tlog-tiles has its length in two bytes.
pub const BYTES_MAX: usize = 65_535;

/// Members of events' data that a leaf repeats.
const PUBLIC: [&str; 14] = [
    "by",
    "champion",
    "count",
    "day",
    "decision",
    "exception",
    "kind",
    "manifest_sha256",
    "model",
    "proposal",
    "proposed_by",
    "reports",
    "scope",
    "verdict",
];

/// Whole numbers up to here are the same in every reader of JSON (RFC 7493).
const EXACT_MAX: u64 = 1 << 53;

/// An event, as it comes into the audit log.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    /// The event's id.
    pub event: &'a str,
    /// Such as `exception.answered`.
    pub action: &'a str,
    /// What it was done to.
    pub object: &'a str,
    /// When the event was recorded.
    pub at: Timestamp,
    /// The event's data, as it is stored.
    pub data: &'a RawValue,
}

/// A leaf, read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaf {
    // In the order of their names, which is the order that they are written in.
    /// Such as `exception.answered`.
    pub action: String,
    /// Who: a client's name, or `flowbridge`; none where the event does not say.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub actor: Option<String>,
    /// SHA-256 of the salt and the data's text, hexadecimal.
    pub commitment: String,
    /// The event's id.
    pub event: String,
    /// What it was done to.
    pub object: String,
    /// Those members of the data that are public.
    pub public: BTreeMap<String, Value>,
    /// When the event was recorded: RFC 3339, UTC, microseconds.
    pub recorded_at: String,
    /// The version of this shape.
    pub version: u8,
}

/// Bytes that are no leaf of ours.
#[derive(Debug, thiserror::Error)]
#[error("not an entry of an audit log of FlowBridge")]
pub struct ParseLeafError(#[from] serde_json::Error);

impl Leaf {
    /// The leaf of an event. `salt` is random, and kept apart.
    pub fn of(said: Said<'_>, salt: &[u8; 32]) -> Self {
        // What is no object has nothing that is public.
        let data: Map<String, Value> = serde_json::from_str(said.data.get()).unwrap_or_default();
        let actor = match data.get("by") {
            Some(Value::String(by)) => Some(by.clone()),
            _ if said.action.starts_with("reconciliation.") => Some("flowbridge".to_owned()),
            _ => None,
        };
        let public = data
            .into_iter()
            .filter(|(name, value)| PUBLIC.contains(&name.as_str()) && is_exact(value))
            .collect();
        let recorded_at = jiff::Timestamp::from_microsecond(said.at.as_micros())
            .map_or_else(|_| "?".to_owned(), |instant| format!("{instant:.6}"));
        let mut leaf = Self {
            action: said.action.to_owned(),
            actor,
            commitment: commitment(salt, said.data),
            event: said.event.to_owned(),
            object: said.object.to_owned(),
            public,
            recorded_at,
            version: 1,
        };
        // Nobody's names are that long; what is committed to has no limit.
        if !leaf.bytes().is_ok_and(|bytes| bytes.len() <= BYTES_MAX) {
            leaf.public.clear();
        }
        leaf
    }

    /// What is hashed.
    pub fn bytes(&self) -> Result<Vec<u8>, ParseLeafError> {
        Ok(serde_json::to_vec(self)?)
    }

    /// Reads what [`Leaf::bytes`] wrote.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseLeafError> {
        Ok(serde_json::from_slice(bytes)?)
    }

    /// Is this the data, under this salt, that was entered?
    pub fn is_of(&self, salt: &[u8; 32], data: &RawValue) -> bool {
        self.commitment == commitment(salt, data)
    }

    /// The reports that a reconciliation wrote: format and SHA-256 of each.
    pub fn reports(&self) -> impl Iterator<Item = (&str, &str)> {
        let reports = self.public.get("reports").and_then(Value::as_object);
        reports.into_iter().flatten().filter_map(|(format, sha256)| Some((format.as_str(), sha256.as_str()?)))
    }

    /// A public member that is a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.public.get(name).and_then(Value::as_str)
    }
}

fn commitment(salt: &[u8; 32], data: &RawValue) -> String {
    hex::encode(sha256(&[salt, data.get().as_bytes()].concat()))
}

/// Texts, truth values, and whole numbers that every reader of JSON takes for the same; or an object of these.
fn is_exact(value: &Value) -> bool {
    match value {
        Value::String(_) | Value::Bool(_) => true,
        Value::Number(number) => number.as_u64().is_some_and(|number| number <= EXACT_MAX),
        Value::Object(members) => members.values().all(|member| !member.is_object() && is_exact(member)),
        Value::Null | Value::Array(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn said(action: &'static str, data: &RawValue) -> Leaf {
        let at = Timestamp::from_micros(1_796_000_000_000_001);
        Leaf::of(Said { event: "evt_1", action, object: "exc_1", at, data }, &[7; 32])
    }

    #[test]
    fn a_leaf_says_who_did_what_and_nothing_that_may_have_to_be_forgotten() {
        let data = raw(
            r#"{"verdict": "confirmed", "by": "ops \"2\"", "subject": "DE89370400440532013000", "kind": "lost\n", "count": 0.5}"#,
        );
        let leaf = said("exception.answered", &data);
        let expected = concat!(
            r#"{"action":"exception.answered","actor":"ops \"2\"","commitment":""#,
            "9fd218071faa94552ff63c1fbe438b56876902c23b8bbf9cc5614d425f31b148",
            r#"","event":"evt_1","object":"exc_1","public":{"by":"ops \"2\"","kind":"lost\n","verdict":"confirmed"},"#,
            r#""recorded_at":"2026-11-30T00:53:20.000001Z","version":1}"#
        );
        let bytes = leaf.bytes().unwrap();
        assert_eq!(String::from_utf8(bytes.clone()).unwrap(), expected);
        assert_eq!(Leaf::parse(&bytes).unwrap(), leaf);
        assert!(leaf.is_of(&[7; 32], &data));
        assert!(!leaf.is_of(&[8; 32], &data), "another salt");
        assert!(!leaf.is_of(&[7; 32], &raw(r#"{"verdict": "refused"}"#)), "other data");
    }

    #[test]
    fn what_reconciliation_did_is_our_own_doing_and_an_unknown_hand_is_nobodys() {
        let data = raw(r#"{"reports": {"html": "ab", "pdf": "cd"}, "scope": "alpha", "plots": [1.5]}"#);
        let completed = said("reconciliation.completed", &data);
        assert_eq!(completed.actor.as_deref(), Some("flowbridge"));
        assert_eq!(completed.reports().collect::<Vec<_>>(), [("html", "ab"), ("pdf", "cd")]);
        assert_eq!(completed.text("scope"), Some("alpha"));
        assert_eq!(said("exception.assigned", &raw("[]")).actor, None);
    }
}
