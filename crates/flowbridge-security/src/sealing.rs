//! Secrets that we keep for others, sealed before they reach the database.
//!
//! A secret is encrypted (AES-256-GCM) with a key that lies in the key folder and nowhere in the database, and bound to what it
//! belongs to: copied into another row it does not open. With each sealed secret stands the id of its key, so that keys can be
//! exchanged while processes run: a new key seals, the old ones stay to open what they sealed until it has been sealed
//! anew. A process that meets a key it does not know looks into the folder again.

use crate::CryptoFailure;
use crate::keys::{KeyFolder, KeyFolderError, SealingKeyFiles};
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use zeroize::Zeroizing;

/// A sealed secret, to be stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Which key opens it.
    pub key_id: String,
    /// Nonce, what is sealed, and its tag.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({})", self.key_id)
    }
}

/// Why a secret stays shut. A person has to look.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its key is not in the folder.
    #[error("the sealing key {0} is not in the key folder")]
    UnknownKey(String),
    /// It was changed, or belongs elsewhere.
    #[error("a sealed secret is damaged, or was sealed for another place")]
    Damaged,
    /// The folder cannot be read.
    #[error(transparent)]
    Folder(#[from] KeyFolderError),
    /// The library failed.
    #[error(transparent)]
    Crypto(#[from] CryptoFailure),
}

/// Seals and opens. Shared by all tasks of a process.
pub struct SealingKeys {
    folder: KeyFolder,
    keys: RwLock<Arc<Keys>>,
}

/// The newest key seals.
struct Keys {
    newest: String,
    all: Vec<(String, RandomizedNonceKey)>,
}

impl SealingKeys {
    /// The keys of a folder; the first is made if there is none.
    pub fn load_or_create(folder: &KeyFolder) -> Result<Self, KeyFolderError> {
        let keys = Keys::read(folder)?;
        Ok(Self { folder: folder.clone(), keys: RwLock::new(Arc::new(keys)) })
    }

    /// The key that seals now.
    pub fn newest(&self) -> String {
        self.keys().newest.clone()
    }

    /// Looks into the folder for a newer key.
    pub fn reload(&self) -> Result<(), KeyFolderError> {
        let keys = Arc::new(Keys::read(&self.folder)?);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    /// Seals a secret for a place: what it is and whose.
    pub fn seal(&self, place: &[u8], secret: &[u8]) -> Result<Sealed, CryptoFailure> {
        let keys = self.keys();
        let key = keys.find(&keys.newest).ok_or(CryptoFailure)?;
        let mut bytes = vec![0; NONCE_LEN];
        let mut text = Zeroizing::new(secret.to_vec());
        let tag = key.seal_in_place_separate_tag(Aad::from(place), &mut text);
        let (nonce, tag) = tag?;
        bytes.copy_from_slice(nonce.as_ref());
        bytes.extend_from_slice(&text);
        bytes.extend_from_slice(tag.as_ref());
        Ok(Sealed { key_id: keys.newest.clone(), bytes })
    }

    /// Opens what was sealed for the same place.
    pub fn open(&self, place: &[u8], sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let mut keys = self.keys();
        if keys.find(&sealed.key_id).is_none() {
            self.reload()?;
            keys = self.keys();
        }
        let key = keys.find(&sealed.key_id).ok_or_else(|| OpenError::UnknownKey(sealed.key_id.clone()))?;
        let (nonce, rest) = sealed.bytes.split_first_chunk::<NONCE_LEN>().ok_or(OpenError::Damaged)?;
        let mut text = Zeroizing::new(rest.to_vec());
        let opened = key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(place), &mut text);
        let length = opened.map_err(|_| OpenError::Damaged)?.len();
        text.truncate(length);
        Ok(text)
    }

    fn keys(&self) -> Arc<Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for SealingKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKeys({}, not shown)", self.newest())
    }
}

impl Keys {
    fn read(folder: &KeyFolder) -> Result<Self, KeyFolderError> {
        let SealingKeyFiles { newest, all } = folder.sealing_keys()?;
        let all = all
            .into_iter()
            .map(|(id, bytes)| {
                let key = RandomizedNonceKey::new(&AES_256_GCM, &bytes[..]).map_err(CryptoFailure::from)?;
                Ok::<_, KeyFolderError>((id, key))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { newest, all })
    }

    fn find(&self, id: &str) -> Option<&RandomizedNonceKey> {
        self.all.iter().find(|(known, _)| known == id).map(|(_, key)| key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_only_where_it_belongs_and_untouched() {
        let home = tempfile::tempdir().unwrap();
        let keys = SealingKeys::load_or_create(&KeyFolder::new(home.path().join("keys"))).unwrap();
        let sealed = keys.seal(b"here", b"whsec").unwrap();
        assert_eq!(*keys.open(b"here", &sealed).unwrap(), b"whsec");
        assert!(!sealed.bytes.windows(5).any(|window| window == b"whsec"));
        assert_ne!(keys.seal(b"here", b"whsec").unwrap(), sealed, "a nonce of its own each time");
        assert!(matches!(keys.open(b"there", &sealed), Err(OpenError::Damaged)));
        for index in 0..sealed.bytes.len() {
            let mut bytes = sealed.bytes.clone();
            bytes[index] ^= 1;
            let changed = Sealed { bytes, ..sealed.clone() };
            assert!(matches!(keys.open(b"here", &changed), Err(OpenError::Damaged)), "byte {index}");
        }
        let short = Sealed { bytes: vec![1; 5], ..sealed.clone() };
        assert!(matches!(keys.open(b"here", &short), Err(OpenError::Damaged)));
        let strange = Sealed { key_id: "0".repeat(16), ..sealed };
        assert!(matches!(keys.open(b"here", &strange), Err(OpenError::UnknownKey(_))));
    }

    #[test]
    fn keys_are_exchanged_while_a_process_runs() {
        let home = tempfile::tempdir().unwrap();
        let folder = KeyFolder::new(home.path().join("keys"));
        let (running, other) =
            (SealingKeys::load_or_create(&folder).unwrap(), SealingKeys::load_or_create(&folder).unwrap());
        let before = running.seal(b"here", b"old").unwrap();
        let newest = folder.rotate_sealing_key().unwrap();
        other.reload().unwrap();
        assert_eq!(other.newest(), newest);
        let after = other.seal(b"here", b"new").unwrap();
        assert_eq!(
            (*running.open(b"here", &after).unwrap()).as_slice(),
            b"new",
            "found in the folder by itself"
        );
        assert_eq!((*other.open(b"here", &before).unwrap()).as_slice(), b"old");
        assert_ne!(before.key_id, after.key_id);
    }
}
