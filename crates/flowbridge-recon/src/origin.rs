//! What a model was made from: hashes of the data, the features, the code and the rules.
//!
//! Whoever audits a decision asks which model made it and how that model came to be. A model file names four hashes; with
//! the same four, training gives the same file, byte for byte. A model made for other features is refused, because it
//! would read one feature for another; one made by other code is only said to be.

use crate::block::Blocking;
use crate::compete::CONTEXT_NAMES;
use crate::feature::FEATURE_NAMES;
use crate::model::Certainty;
use crate::report::sha256;
use serde::{Deserialize, Serialize};

/// Where a model comes from. The hashes are SHA-256 in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Origin {
    /// Of the books and decisions it learned from.
    pub data: String,
    /// Of the names of the features, in their order.
    pub features: String,
    /// Of the source of everything between records and scores.
    pub code: String,
    /// Of the keys' tolerances and of what training asks for.
    pub rules: String,
    /// How many decisions it learned from.
    pub decisions: u64,
    /// The model it follows, by the SHA-256 of its file; empty for a first one.
    pub follows: String,
}

impl Origin {
    /// All but the data.
    pub(crate) fn of_code(rules: String) -> Self {
        Self { features: features_sha256(), code: code_sha256(), rules, ..Self::default() }
    }

    /// Was it made by the code that is running?
    pub fn is_of_this_code(&self) -> bool {
        self.code == code_sha256()
    }
}

/// Of the features that this program measures.
pub(crate) fn features_sha256() -> String {
    let names: Vec<&str> = FEATURE_NAMES.iter().chain(&CONTEXT_NAMES).copied().collect();
    sha256(names.join("\n").as_bytes())
}

pub(crate) fn rules_sha256(blocking: &Blocking, certainty: Certainty) -> String {
    sha256(format!("{blocking:?} {certainty:?}").as_bytes())
}

fn code_sha256() -> String {
    const SOURCES: [&str; 10] = [
        include_str!("block.rs"),
        include_str!("calibrate.rs"),
        include_str!("cold.rs"),
        include_str!("compete.rs"),
        include_str!("feature.rs"),
        include_str!("model.rs"),
        include_str!("prepare.rs"),
        include_str!("text.rs"),
        include_str!("train.rs"),
        include_str!("tree.rs"),
    ];
    sha256(SOURCES.concat().as_bytes())
}
