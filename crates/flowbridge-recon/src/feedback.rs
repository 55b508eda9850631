//! What people ruling, and what a model may learn from it.
//!
//! Decisions are only ever added, one JSON object a line; who thinks otherwise later adds another line, and the last word
//! about a record counts. A decision names records by their ids, so that it stays true when the files are read again. Only
//! people write here: what the engine posted by itself is no evidence for the engine.

use crate::date::Date;
use crate::record::Record;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::io::Write;

/// Longest accepted line of the file.
const LINE_BYTES_MAX: usize = 64 << 10;

/// What a person said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// What was proposed is right.
    Accept,
    /// What was proposed is wrong; what is right is not said.
    Reject,
    /// These belong together instead of what was proposed.
    Rematch,
    /// These belong together, several on one side.
    Split,
    /// These have no partner and will have none.
    WriteOff,
}

/// One decision of a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ruling {
    /// The day it was made.
    pub on: Date,
    /// Who made it.
    pub by: String,
    /// What was said.
    pub verdict: Verdict,
    /// Ids of ledger entries.
    pub ledger: Vec<String>,
    /// Ids of bank lines.
    pub bank: Vec<String>,
    /// Why; may be empty for an acceptance.
    #[serde(default)]
    pub reason: String,
    /// Was this a look at what had been posted without a person?
    #[serde(default)]
    pub is_audit: bool,
}

/// Why a file of decisions is refused. Nothing of a refused file is used.
#[derive(Debug, thiserror::Error)]
#[error("line {line} of the decisions: {problem}")]
pub struct ReadDecisionsError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub problem: String,
}

/// Reads a file of decisions.
pub fn read(file: &[u8]) -> Result<Vec<Ruling>, ReadDecisionsError> {
    let mut decisions = Vec::new();
    for (place, line) in file.split(|byte| *byte == b'\n').enumerate() {
        let refuse = |problem: String| ReadDecisionsError { line: place + 1, problem };
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        if line.len() > LINE_BYTES_MAX {
            return Err(refuse(format!("longer than {LINE_BYTES_MAX} bytes")));
        }
        let ruling: Ruling = serde_json::from_slice(line).map_err(|error| refuse(error.to_string()))?;
        ruling.check().map_err(|problem| refuse(problem.to_owned()))?;
        decisions.push(ruling);
    }
    Ok(decisions)
}

impl Ruling {
    /// Does it say something that can be true?
    pub fn check(&self) -> Result<(), &'static str> {
        if self.by.trim().is_empty() {
            return Err("a decision without a name");
        }
        let (entries, lines) = (self.ledger.len(), self.bank.len());
        match self.verdict {
            Verdict::Accept | Verdict::Rematch | Verdict::Split if entries == 0 || lines == 0 => {
                Err("what belongs together needs records of both sides")
            }
            Verdict::Split if entries == 1 && lines == 1 => Err("a split has several records on one side"),
            Verdict::Reject if entries == 0 || lines == 0 => {
                Err("what is rejected needs records of both sides")
            }
            Verdict::WriteOff if entries + lines == 0 => Err("a write-off names no record"),
            Verdict::Reject | Verdict::Rematch | Verdict::WriteOff if self.reason.trim().is_empty() => {
                Err("a rejection, another match and a write-off need a reason")
            }
            Verdict::Accept | Verdict::Reject | Verdict::Rematch | Verdict::Split | Verdict::WriteOff => {
                Ok(())
            }
        }
    }

    /// Adds it to the end of a file that was opened for appending.
    pub fn append(&self, out: &mut impl Write) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        out.write_all(&line)
    }
}

/// The last word about each record, by position.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// What an entry belongs to: `Some` a group, `None` nothing.
    ledger: HashMap<u32, Option<u32>>,
    bank: HashMap<u32, Option<u32>>,
    rejected: HashSet<(u32, u32)>,
    /// Groups of one entry and one line.
    plain: HashSet<u32>,
    groups: u32,
}

impl Answers {
    /// Reads decisions as answers about these records. Decisions about records that are not here say nothing.
    pub(crate) fn new<'a>(
        decisions: impl Iterator<Item = &'a Ruling>,
        ledger: &[Record],
        bank: &[Record],
    ) -> Self {
        let by_id = |records: &[Record]| -> HashMap<Box<str>, u32> {
            records.iter().enumerate().map(|(place, record)| (record.id.clone(), place as u32)).collect()
        };
        let (entries, lines) = (by_id(ledger), by_id(bank));
        let mut answers = Self::default();
        for ruling in decisions {
            let find = |ids: &[String], known: &HashMap<Box<str>, u32>| -> Vec<u32> {
                ids.iter().filter_map(|id| known.get(id.as_str()).copied()).collect()
            };
            let (ours, theirs) = (find(&ruling.ledger, &entries), find(&ruling.bank, &lines));
            if ours.len() == ruling.ledger.len() && theirs.len() == ruling.bank.len() {
                answers.take(ruling.verdict, &ours, &theirs);
            }
        }
        answers
    }

    fn take(&mut self, verdict: Verdict, ours: &[u32], theirs: &[u32]) {
        let group = match verdict {
            Verdict::Accept | Verdict::Rematch | Verdict::Split => {
                self.groups += 1;
                if ours.len() == 1 && theirs.len() == 1 {
                    self.plain.insert(self.groups);
                }
                Some(self.groups)
            }
            Verdict::WriteOff => None,
            Verdict::Reject => {
                self.rejected
                    .extend(ours.iter().flat_map(|entry| theirs.iter().map(move |line| (*entry, *line))));
                return;
            }
        };
        self.ledger.extend(ours.iter().map(|entry| (*entry, group)));
        self.bank.extend(theirs.iter().map(|line| (*line, group)));
    }

    /// Is the pair a match, as far as people said?
    pub(crate) fn of(&self, entry: u32, line: u32) -> Option<bool> {
        match (self.ledger.get(&entry), self.bank.get(&line)) {
            (Some(Some(ours)), Some(Some(theirs))) if ours == theirs => {
                // Parts of one group are neither a pair nor strangers.
                self.plain.contains(ours).then_some(true)
            }
            (None, None) => self.rejected.contains(&(entry, line)).then_some(false),
            _ => Some(false),
        }
    }

    /// Has somebody said what the entry belongs to, or that it belongs to nothing?
    pub(crate) fn is_settled(&self, entry: u32) -> bool {
        self.ledger.contains_key(&entry)
    }

    /// Records of both sides that somebody spoke about.
    pub(crate) fn count(&self) -> usize {
        self.ledger.len() + self.bank.values().filter(|group| group.is_none()).count()
    }

    /// Entries that belong to one line.
    pub(crate) fn pairs(&self) -> usize {
        self.ledger.values().filter(|group| group.is_some_and(|group| self.plain.contains(&group))).count()
    }
}
