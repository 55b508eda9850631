//! Checkpoints: the size and root of the tree at an instant, signed (C2SP tlog-checkpoint and signed-note, Ed25519).

use crate::tree::Hashes;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flowbridge_security::CryptoFailure;
use flowbridge_security::keys::SigningKey;
use signed_note::{
    Note, NoteError, Signature, StandardVerifier, VerificationError, Verifier, VerifierError, Verifiers,
    key_id,
};
use std::fmt;
use tlog_tiles::{Checkpoint as Signed, Hash};

/// The algorithm's number in a verifier's key.
const ED25519: u8 = 1;

/// Who signs the checkpoints of a log.
pub struct LogKey {
    origin: String,
    key: SigningKey,
    public: [u8; 32],
}

impl fmt::Debug for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogKey({})", self.verifier_key())
    }
}

/// Why a key cannot sign for a log.
#[derive(Debug, thiserror::Error)]
pub enum LogKeyError {
    /// No name for a log.
    #[error("a log's name (origin) has no spaces and no plus sign, such as flowbridge.example/audit")]
    Origin,
    /// Not an Ed25519 key.
    #[error("checkpoints are signed with an Ed25519 key: openssl genpkey -algorithm ed25519")]
    Algorithm,
}

impl LogKey {
    /// A key, and the name of the log that it signs for.
    pub fn new(origin: &str, key: SigningKey) -> Result<Self, LogKeyError> {
        if !signed_note::is_key_name_valid(origin) {
            return Err(LogKeyError::Origin);
        }
        let public = key.ed25519_public().ok_or(LogKeyError::Algorithm)?;
        Ok(Self { origin: origin.to_owned(), key, public })
    }

    /// The name of the log.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// What others verify with: `name+id+base64`.
    pub fn verifier_key(&self) -> String {
        let encoded = self.encoded();
        format!("{}+{:08x}+{}", self.origin, key_id(&self.origin, &encoded), STANDARD.encode(&encoded))
    }

    /// Signs that the tree had this size and root. Whoever signs has made sure that it goes on from what was signed before.
    pub fn sign(&self, size: u64, root: Hash) -> Result<String, SignError> {
        let text = Signed::new(&self.origin, size, root, "").map_err(|_| SignError::Malformed)?.to_bytes();
        let id = key_id(&self.origin, &self.encoded());
        let signature = Signature::new(self.origin.clone(), id, self.key.sign_bytes(&text)?)?;
        let note = Note::new(&text, &[signature])?.to_bytes();
        String::from_utf8(note).map_err(|_| SignError::Malformed)
    }

    fn encoded(&self) -> Vec<u8> {
        [&[ED25519], self.public.as_slice()].concat()
    }
}

/// A checkpoint could not be signed: a fault of ours, or of the cryptographic library.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The library.
    #[error(transparent)]
    Crypto(#[from] CryptoFailure),
    /// The note's format.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The checkpoint's format.
    #[error("not a checkpoint")]
    Malformed,
}

/// Keys that checkpoints of one log are accepted from.
pub struct Trusted {
    origin: String,
    keys: Keys,
}

/// Keys of one log.
struct Keys(Vec<StandardVerifier>);

impl Verifiers for Keys {
    fn verifier(&self, name: &str, id: u32) -> Result<&dyn Verifier, VerificationError> {
        let known = self.0.iter().find(|key| key.name() == name && key.key_id() == id);
        known
            .map(|key| key as &dyn Verifier)
            .ok_or_else(|| VerificationError::UnknownKey { name: name.to_owned(), id })
    }
}

impl fmt::Debug for Trusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trusted({})", self.origin)
    }
}

/// Not a verifier's key, or keys of several logs.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A text that is no key.
    #[error("{0} is no verifier key; `flowbridge audit key` prints one: NAME+ID+KEY")]
    Key(String, #[source] VerifierError),
    /// Nothing to trust.
    #[error("no key was given; `flowbridge audit key` prints it on the machine that signs")]
    None,
    /// Keys under several names.
    #[error("the keys are of several logs")]
    Several,
}

impl Trusted {
    /// Verifier keys of one log.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> Result<Self, TrustError> {
        let mut list: Vec<StandardVerifier> = Vec::new();
        let mut origin: Option<String> = None;
        for text in keys {
            let key = StandardVerifier::new(text.trim())
                .map_err(|error| TrustError::Key(text.to_owned(), error))?;
            if origin.get_or_insert_with(|| key.name().to_owned()) != key.name() {
                return Err(TrustError::Several);
            }
            if !list.iter().any(|known| known.key_id() == key.key_id()) {
                list.push(key);
            }
        }
        Ok(Self { origin: origin.ok_or(TrustError::None)?, keys: Keys(list) })
    }

    /// Reads a checkpoint that one of these keys has signed.
    pub fn open(&self, note: &[u8]) -> Result<Checkpoint, OpenError> {
        let note = Note::from_bytes(note)?;
        note.verify(&self.keys)?;
        let signed = Signed::from_bytes(note.text()).map_err(|_| OpenError::Malformed)?;
        if signed.origin() != self.origin {
            return Err(OpenError::OtherLog(signed.origin().to_owned()));
        }
        Ok(Checkpoint { size: signed.size(), root: *signed.hash() })
    }
}

/// The size and root of a tree.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Checkpoint {
    /// How many entries.
    pub size: u64,
    /// The root.
    pub root: Hash,
}

impl Checkpoint {
    /// Is the tree of `size` leaves this one plus what was added? See [`crate::tree::extends`].
    pub fn is_continued_by(&self, size: u64, hashes: &Hashes) -> Result<bool, crate::tree::BrokenTree> {
        crate::tree::extends(size, (self.size, self.root), hashes)
    }
}

/// Why a checkpoint is not believed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The note, or nobody trusted signed it.
    #[error("not a checkpoint that a trusted key has signed")]
    Note(#[from] NoteError),
    /// What was signed is no checkpoint.
    #[error("what was signed is not a checkpoint")]
    Malformed,
    /// Of another log.
    #[error("it is a checkpoint of another log, {0}")]
    OtherLog(String),
}

/// A proof that an entry is in the log, which whoever has it can check alone (C2SP tlog-proof).
pub fn proof(sequence: u64, hashes: &[Hash], checkpoint: &str) -> String {
    let mut text = format!("c2sp.org/tlog-proof@v1\nindex {sequence}\n");
    for hash in hashes {
        text.push_str(&hash.to_string());
        text.push('\n');
    }
    text.push('\n');
    text.push_str(checkpoint);
    text
}

/// A proof, read: the entry's place, the hashes, the checkpoint's note.
pub fn parse_proof(text: &str) -> Option<(u64, Vec<Hash>, &str)> {
    let (head, checkpoint) = text.split_once("\n\n")?;
    let mut lines = head.lines();
    let place = (lines.next()? == "c2sp.org/tlog-proof@v1").then(|| lines.next()).flatten()?;
    let sequence = place.strip_prefix("index ")?.parse().ok()?;
    let hashes = lines.map(|line| Hash::parse_hash(line).ok()).collect::<Option<Vec<_>>>()?;
    // No tree is higher.
    (hashes.len() <= 63).then_some((sequence, hashes, checkpoint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowbridge_security::jose::Algorithm;

    const ORIGIN: &str = "flowbridge.example/audit";

    fn key(origin: &str) -> LogKey {
        LogKey::new(origin, SigningKey::generate(Algorithm::EdDsa).unwrap()).unwrap()
    }

    #[test]
    fn a_checkpoint_is_believed_from_a_trusted_key_and_of_its_own_log_alone() {
        let (ours, theirs) = (key(ORIGIN), key(ORIGIN));
        let note = ours.sign(3, Hash([4; 32])).unwrap();
        assert!(note.starts_with("flowbridge.example/audit\n3\nBAQEBAQ"), "{note}");
        let trusts = |key: &LogKey| Trusted::new([key.verifier_key().as_str()]).unwrap();
        let read = trusts(&ours).open(note.as_bytes()).unwrap();
        assert_eq!(read, Checkpoint { size: 3, root: Hash([4; 32]) });
        assert!(trusts(&theirs).open(note.as_bytes()).is_err(), "somebody else's key");
        let larger = note.replacen("\n3\n", "\n4\n", 1);
        assert!(trusts(&ours).open(larger.as_bytes()).is_err(), "what was signed is another size");
        let (both, other) = ([ours.verifier_key(), theirs.verifier_key()], key("other.example/audit"));
        assert!(Trusted::new(both.iter().map(String::as_str)).unwrap().open(note.as_bytes()).is_ok());
        let several = [ours.verifier_key(), other.verifier_key()];
        assert!(matches!(Trusted::new(several.iter().map(String::as_str)), Err(TrustError::Several)));
        assert!(matches!(Trusted::new([]), Err(TrustError::None)));
        assert!(matches!(Trusted::new(["alpha"]), Err(TrustError::Key(..))));
    }

    #[test]
    fn only_an_ed25519_key_and_a_plain_name_make_a_log() {
        let p256 = SigningKey::generate(Algorithm::Es256).unwrap();
        assert!(matches!(LogKey::new(ORIGIN, p256), Err(LogKeyError::Algorithm)));
        let named = |origin| LogKey::new(origin, SigningKey::generate(Algorithm::EdDsa).unwrap());
        assert!(matches!(named("our log"), Err(LogKeyError::Origin)));
        assert!(matches!(named(""), Err(LogKeyError::Origin)));
    }

    #[test]
    fn a_note_that_another_implementation_signed_is_verified_and_is_no_checkpoint() {
        // The example of golang.org/x/mod/sumdb/note.
        let key = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        let note = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n\
            — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        let opened = Trusted::new([key]).unwrap().open(note.as_bytes());
        assert!(matches!(opened, Err(OpenError::Malformed)), "{opened:?}");
        let changed = note.replacen("cryptography", "astrology", 1);
        let opened = Trusted::new([key]).unwrap().open(changed.as_bytes());
        assert!(matches!(opened, Err(OpenError::Note(_))), "{opened:?}");
    }

    #[test]
    fn a_proof_is_read_as_it_was_written() {
        let note = key(ORIGIN).sign(8, Hash([1; 32])).unwrap();
        let text = proof(5, &[Hash([2; 32]), Hash([3; 32])], &note);
        assert_eq!(parse_proof(&text), Some((5, vec![Hash([2; 32]), Hash([3; 32])], note.as_str())));
        assert_eq!(parse_proof(&text.replacen("index", "place", 1)), None);
    }
}
