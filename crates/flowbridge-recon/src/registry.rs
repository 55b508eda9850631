//! Which model is in force, and who put it there.
//!
//! A log that is only added to, one JSON object a line. A model comes into force when one person proposes it and another
//! approves; going back to an earlier one takes the same two, and names the model by the hash of its file. The model in
//! force is the last one of the log; before the first line it is the shipped one.

use crate::date::Date;
use serde::{Deserialize, Serialize};

/// Letters of a model's id that are enough to name it.
const ID_LETTERS_MIN: usize = 8;

/// One change of the model in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promotion {
    /// SHA-256 of the model's file.
    pub model: String,
    /// Who proposed it.
    pub proposed_by: String,
    /// Who approved it; somebody else.
    pub approved_by: String,
    /// The day.
    pub on: Date,
    /// What was measured, or what went wrong.
    pub reason: String,
}

/// Why a change is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PromoteError {
    /// Find a second person.
    #[error("a model needs a second person: {0:?} cannot approve what they proposed")]
    SamePerson(String),
    /// Say who.
    #[error("a change of the model in force needs the names of both people and a reason")]
    Incomplete,
    /// Only what was in force can be gone back to.
    #[error("no model {0:?} was ever in force; the log has: {1}")]
    NeverInForce(String, String),
    /// More letters are needed.
    #[error("{0:?} names no single model; give at least {ID_LETTERS_MIN} letters of its id")]
    Ambiguous(String),
}

/// Why the log is refused.
#[derive(Debug, thiserror::Error)]
#[error("line {line} of the log of models: {problem}")]
pub struct ReadLogError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub problem: String,
}

/// The log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Registry {
    /// Changes, oldest first.
    pub promotions: Vec<Promotion>,
}

impl Registry {
    /// Reads the log. A line that breaks the rule of two is refused with the rest of the log.
    pub fn read(file: &[u8]) -> Result<Self, ReadLogError> {
        let mut registry = Self::default();
        for (place, line) in file.split(|byte| *byte == b'\n').enumerate() {
            let refuse = |problem: String| ReadLogError { line: place + 1, problem };
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let promotion: Promotion =
                serde_json::from_slice(line).map_err(|error| refuse(error.to_string()))?;
            check(&promotion).map_err(|error| refuse(error.to_string()))?;
            registry.promotions.push(promotion);
        }
        Ok(registry)
    }

    /// The model in force; `None` is the shipped one.
    pub fn in_force(&self) -> Option<&str> {
        self.promotions.last().map(|promotion| promotion.model.as_str())
    }

    /// The line to add so that a model comes into force.
    pub fn promote(&mut self, promotion: Promotion) -> Result<String, PromoteError> {
        check(&promotion)?;
        let line = serde_json::to_string(&promotion).map_err(|_| PromoteError::Incomplete)?;
        self.promotions.push(promotion);
        Ok(line)
    }

    /// The line to add so that a model that was in force is so again. `promotion.model` may be the beginning of its id.
    pub fn roll_back(&mut self, mut promotion: Promotion) -> Result<String, PromoteError> {
        let mut known: Vec<&str> = self.promotions.iter().map(|past| past.model.as_str()).collect();
        known.sort_unstable();
        known.dedup();
        let wanted = promotion.model.as_str();
        let found: Vec<&str> = known.iter().copied().filter(|model| model.starts_with(wanted)).collect();
        promotion.model = match found.as_slice() {
            [] => {
                let ids: Vec<&str> = known.iter().map(|model| model.get(..12).unwrap_or(model)).collect();
                return Err(PromoteError::NeverInForce(promotion.model, ids.join(", ")));
            }
            [one] if wanted.len() >= ID_LETTERS_MIN => (*one).to_owned(),
            _ => return Err(PromoteError::Ambiguous(promotion.model)),
        };
        self.promote(promotion)
    }
}

fn check(promotion: &Promotion) -> Result<(), PromoteError> {
    let name = |text: &str| text.trim().to_lowercase();
    let (proposed, approved) = (name(&promotion.proposed_by), name(&promotion.approved_by));
    if proposed.is_empty() || approved.is_empty() || promotion.reason.trim().is_empty() {
        return Err(PromoteError::Incomplete);
    }
    if proposed == approved {
        return Err(PromoteError::SamePerson(promotion.proposed_by.clone()));
    }
    Ok(())
}
