//! Text about a person, which may be stored and sent where it belongs but never shown in a log.

use std::fmt;

/// A name or a remittance text. Its debug output tells only how long it is.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Personal(String);

impl Personal {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Personal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} characters)", self.0.chars().count())
    }
}
