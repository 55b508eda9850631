//! What an event says: a JSON object, kept and passed on as the text that it was written as.
//!
//! An event is written once, and read by the orchestrator, by partners and by each of their webhooks. Most of them pass it on;
//! whoever wants to know something of it reads just that.

use postgres_types::{FromSql, IsNull, Json, ToSql, Type, to_sql_checked};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest as _, Sha256};
use std::error::Error;

/// The data of an event.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventData(Box<RawValue>);

impl EventData {
    /// Of a struct, or of a map with names for keys: what can always be written.
    pub fn of(said: &impl Serialize) -> Self {
        Self(to_raw_value(said).unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }

    /// The text that it was written as.
    pub fn raw(&self) -> &RawValue {
        &self.0
    }

    /// Reads some of it; `None` if it has not the shape.
    pub fn read<'a, T: Deserialize<'a>>(&'a self) -> Option<T> {
        serde_json::from_str(self.0.get()).ok()
    }
}

impl ToSql for EventData {
    fn to_sql(&self, kind: &Type, out: &mut bytes::BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        Json(&self.0).to_sql(kind, out)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::JSON
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for EventData {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Json::<Box<RawValue>>::from_sql(kind, raw).map(|data| Self(data.0))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::JSON
    }
}

/// SHA-256 of what is kept beside an event and not told with it, hexadecimal: who has both can see that neither was changed.
pub(crate) fn sha256_of(text: &str) -> String {
    use std::fmt::Write as _;
    Sha256::digest(text).iter().fold(String::new(), |mut hex, byte| {
        // Into a String nothing fails.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
