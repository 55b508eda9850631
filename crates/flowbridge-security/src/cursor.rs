//! Page cursors that only we can make.
//!
//! A cursor says where the next page begins. It is bound to the participant and to the query it was made for (both are
//! signed but not in the cursor), so that one handed to somebody else, or used with other filters, is refused instead of
//! showing a page that nobody asked for. Text form: base64url of version, position and 16 bytes of HMAC-SHA256.

use crate::{base64url, from_base64url, sha256_fields};
use aws_lc_rs::hmac;
use flowbridge_domain::id::ParticipantId;
use std::fmt;
use subtle::ConstantTimeEq as _;

const VERSION: u8 = 1;
const TAG_BYTES: usize = 16;
/// The longest position a cursor carries, in bytes.
pub const POSITION_BYTES_MAX: usize = 128;

/// Signs and checks cursors.
pub struct CursorKey(hmac::Key);

/// The query a cursor belongs to: a digest of route and filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueryDigest([u8; 32]);

impl QueryDigest {
    /// Of a route template and all filters that choose or order rows; page size and cursor are none. Their order counts.
    pub fn new(route: &str, filters: &[(&str, &str)]) -> Self {
        let mut fields = vec![route.as_bytes()];
        fields.extend(filters.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]));
        Self(sha256_fields(&fields))
    }
}

/// The cursor is not one of ours, or belongs to another query or participant. 400: begin again at the first page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cursor does not belong to this query; begin again without it")]
pub struct InvalidCursor;

impl CursorKey {
    /// From 32 secret bytes ([`crate::keys::KeyFolder::cursor_key`]).
    pub fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// The cursor for `position` (at most [`POSITION_BYTES_MAX`] bytes; a key such as a UUID, in the store's own form).
    pub fn seal(&self, position: &[u8], query: QueryDigest, participant: Option<ParticipantId>) -> String {
        let tag = self.tag(VERSION, position, query, participant);
        base64url(&[&[VERSION], position, &tag].concat())
    }

    /// The position in a cursor.
    pub fn open(
        &self,
        cursor: &str,
        query: QueryDigest,
        participant: Option<ParticipantId>,
    ) -> Result<Vec<u8>, InvalidCursor> {
        if cursor.len() > (1 + POSITION_BYTES_MAX + TAG_BYTES).div_ceil(3) * 4 {
            return Err(InvalidCursor);
        }
        let bytes = from_base64url(cursor).ok_or(InvalidCursor)?;
        let (body, tag) = bytes.split_last_chunk::<TAG_BYTES>().ok_or(InvalidCursor)?;
        let (&version, position) = body.split_first().ok_or(InvalidCursor)?;
        let expected = self.tag(version, position, query, participant);
        if version != VERSION || !bool::from(expected.ct_eq(tag)) {
            return Err(InvalidCursor);
        }
        Ok(position.to_vec())
    }

    fn tag(
        &self,
        version: u8,
        position: &[u8],
        query: QueryDigest,
        participant: Option<ParticipantId>,
    ) -> [u8; TAG_BYTES] {
        let participant = participant.map(|id| id.as_uuid().into_bytes());
        let owner = participant.as_ref().map_or(&[][..], |bytes| bytes);
        let digest = sha256_fields(&[b"flowbridge cursor", &[version], owner, &query.0, position]);
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&hmac::sign(&self.0, &digest).as_ref()[..TAG_BYTES]);
        tag
    }
}

impl fmt::Debug for CursorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CursorKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_opens_only_where_it_was_made() {
        let key = CursorKey::new(&[7; 32]);
        let (mine, other) = (
            ParticipantId::from_uuid("01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap()),
            ParticipantId::from_uuid("01890a5d-ac96-774b-bcce-b302099a8058".parse().unwrap()),
        );
        let query = QueryDigest::new("/v1/payments", &[("state", "held")]);
        let cursor = key.seal(b"position", query, Some(mine));

        assert_eq!(key.open(&cursor, query, Some(mine)), Ok(b"position".to_vec()));
        assert_eq!(key.open(&cursor, query, Some(other)), Err(InvalidCursor));
        assert_eq!(key.open(&cursor, query, None), Err(InvalidCursor));
        for (route, filters) in [
            ("/v1/payments", &[("state", "failed")][..]),
            ("/v1/payments", &[]),
            ("/v1/payments", &[("stateh", "eld")]),
            ("/v1/events", &[("state", "held")]),
        ] {
            assert_eq!(key.open(&cursor, QueryDigest::new(route, filters), Some(mine)), Err(InvalidCursor));
        }
        assert_eq!(CursorKey::new(&[8; 32]).open(&cursor, query, Some(mine)), Err(InvalidCursor));

        let bytes = from_base64url(&cursor).unwrap();
        for index in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[index] ^= 1;
            assert_eq!(key.open(&base64url(&altered), query, Some(mine)), Err(InvalidCursor), "byte {index}");
        }
        for garbage in ["", "AA", "not base64!", &cursor[1..], &format!("{cursor}="), &"A".repeat(1000)] {
            assert_eq!(key.open(garbage, query, Some(mine)), Err(InvalidCursor), "{garbage}");
        }
        let longest = key.seal(&[1; POSITION_BYTES_MAX], query, None);
        assert_eq!(key.open(&longest, query, None), Ok(vec![1; POSITION_BYTES_MAX]));
    }
}
