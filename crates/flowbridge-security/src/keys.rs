//! The keys FlowBridge signs with, and the folder they live in.
//!
//! ```text
//! keys/tokens/            0700
//!   current.pem   0600    signs
//!   next.pem      0600    already published, signs after the next rotation
//!   retired-<kid>.pem     verifies until the last token it signed has expired; then delete the file
//!   cursor.key    0600    32 random bytes, hexadecimal: signs page cursors
//!   sealing.key   0600    the same: seals secrets kept in the database ([`crate::sealing`])
//!   sealing-retired-<id>.key   opens what it sealed; delete the file when nothing is left of that
//! ```
//!
//! PKCS#8 in PEM, so that `openssl pkey -in current.pem -text` reads them. A key file that others may read is refused:
//! better no start than a key nobody knows to be copied. Files come into being whole (written aside, flushed, linked), and
//! of two processes that start at the same moment one wins and both use its keys. A rotation links the old key to its new
//! name before the next one takes its place, so a crash at any point leaves a `current.pem`.

use crate::jose::Algorithm;
use crate::jwk::{Jwk, JwkSet, JwksError, PublicKeys};
use crate::{CryptoFailure, random_bytes, sha256_fields};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, Signature,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// A private key that signs. Its material stays inside the cryptographic library, which wipes it when dropped.
pub struct SigningKey {
    pair: Pair,
    public: Jwk,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
}

/// Why a PEM text is not a key of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a PKCS#8 private key (PEM, unencrypted) for Ed25519 or P-256")]
pub struct ParseKeyError;

const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

impl SigningKey {
    /// A new key for `algorithm`. We do not sign with RSA, so PS256 is refused.
    pub fn generate(algorithm: Algorithm) -> Result<Self, CryptoFailure> {
        match algorithm {
            Algorithm::EdDsa => Ok(Self::new(Pair::Ed25519(Ed25519KeyPair::generate()?))),
            Algorithm::Es256 => {
                Ok(Self::new(Pair::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?)))
            }
            Algorithm::Ps256 => Err(CryptoFailure),
        }
    }

    /// Reads a PKCS#8 key in PEM, as [`SigningKey::to_pem`] or `openssl genpkey` write it.
    pub fn from_pem(pem: &str) -> Result<Self, ParseKeyError> {
        let body = pem
            .trim()
            .strip_prefix(PEM_BEGIN)
            .and_then(|rest| rest.strip_suffix(PEM_END))
            .ok_or(ParseKeyError)?;
        let body: Zeroizing<String> = Zeroizing::new(body.split_ascii_whitespace().collect());
        let der = Zeroizing::new(STANDARD.decode(body.as_bytes()).map_err(|_| ParseKeyError)?);
        Ed25519KeyPair::from_pkcs8(&der)
            .map(Pair::Ed25519)
            .or_else(|_| EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der).map(Pair::P256))
            .map(Self::new)
            .map_err(|_| ParseKeyError)
    }

    /// The key as PKCS#8 in PEM.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, CryptoFailure> {
        let der = match &self.pair {
            Pair::Ed25519(pair) => pair.to_pkcs8v1()?,
            Pair::P256(pair) => pair.to_pkcs8v1()?,
        };
        let body = Zeroizing::new(STANDARD.encode(der.as_ref()));
        let mut pem = Zeroizing::new(String::with_capacity(body.len() + 128));
        pem.push_str(PEM_BEGIN);
        for (index, character) in body.chars().enumerate() {
            if index % 64 == 0 {
                pem.push('\n');
            }
            pem.push(character);
        }
        pem.push('\n');
        pem.push_str(PEM_END);
        pem.push('\n');
        Ok(pem)
    }

    /// What it signs with.
    pub fn algorithm(&self) -> Algorithm {
        match self.pair {
            Pair::Ed25519(_) => Algorithm::EdDsa,
            Pair::P256(_) => Algorithm::Es256,
        }
    }

    /// The public half.
    pub fn public(&self) -> &Jwk {
        &self.public
    }

    /// `kid`: the thumbprint of the public half (RFC 7638).
    pub fn key_id(&self) -> &str {
        self.public.key_id()
    }

    /// The public half as the 32 bytes that it is; none of a key for another algorithm.
    pub fn ed25519_public(&self) -> Option<[u8; 32]> {
        match &self.pair {
            Pair::Ed25519(pair) => pair.public_key().as_ref().try_into().ok(),
            Pair::P256(_) => None,
        }
    }

    /// Signs a message as it is: for formats that are no JSON Web Signature.
    pub fn sign_bytes(&self, message: &[u8]) -> Result<Vec<u8>, CryptoFailure> {
        Ok(self.sign(message)?.as_ref().to_vec())
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Result<Signature, CryptoFailure> {
        Ok(match &self.pair {
            Pair::Ed25519(pair) => pair.try_sign(message)?,
            Pair::P256(pair) => pair.sign(&aws_lc_rs::rand::SystemRandom::new(), message)?,
        })
    }

    fn new(pair: Pair) -> Self {
        let public = match &pair {
            Pair::Ed25519(pair) => Jwk::ed25519(pair.public_key().as_ref()),
            Pair::P256(pair) => Jwk::p256(pair.public_key().as_ref()),
        };
        Self { pair, public }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}, private part not shown)", self.key_id())
    }
}

/// The keys of one authorization server.
#[derive(Debug)]
pub struct KeySet {
    /// Signs.
    pub current: SigningKey,
    /// Signs next.
    pub next: SigningKey,
    /// Only verify.
    pub retired: Vec<SigningKey>,
}

impl KeySet {
    /// The public halves, to publish.
    pub fn jwks(&self) -> JwkSet {
        let keys = [&self.current, &self.next].into_iter().chain(&self.retired);
        JwkSet { keys: keys.map(|key| key.public().clone()).collect() }
    }

    /// The public halves, to verify with.
    pub fn public_keys(&self) -> Result<PublicKeys, JwksError> {
        let json =
            serde_json::to_string(&self.jwks()).map_err(|error| JwksError::Malformed(error.to_string()))?;
        PublicKeys::from_jwks(&json)
    }
}

/// The folder of the module's description.
#[derive(Debug, Clone)]
pub struct KeyFolder(PathBuf);

/// What is wrong with the key folder. A person has to look.
#[derive(Debug, thiserror::Error)]
pub enum KeyFolderError {
    /// The file system refused.
    #[error("{path}: cannot be used")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read a private key.
    #[error("{path}: others may read this key (mode {mode:03o}); chmod 600 it, or better replace it")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file that is no key.
    #[error("{path}: {why}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What it should be.
        why: &'static str,
    },
    /// No random bytes.
    #[error(transparent)]
    Crypto(#[from] CryptoFailure),
}

impl KeyFolder {
    /// The folder at `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Loads the key set; what is missing is made (Ed25519).
    pub fn load_or_create(&self) -> Result<KeySet, KeyFolderError> {
        self.create()?;
        for name in ["current.pem", "next.pem"] {
            if !self.0.join(name).exists() {
                self.create_pem(name)?;
            }
        }
        self.load()
    }

    /// Loads the key set; `current.pem` and `next.pem` must be there.
    pub fn load(&self) -> Result<KeySet, KeyFolderError> {
        let current = load_pem(&self.0.join("current.pem"))?;
        let next = load_pem(&self.0.join("next.pem"))?;
        let mut retired = Vec::new();
        let entries =
            fs::read_dir(&self.0).map_err(|source| KeyFolderError::Io { path: self.0.clone(), source })?;
        for entry in entries {
            let path = entry.map_err(|source| KeyFolderError::Io { path: self.0.clone(), source })?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with("retired-") && name.ends_with(".pem") {
                let key = load_pem(&path)?;
                // An interrupted rotation leaves the current key under both names.
                if key.key_id() != current.key_id() {
                    retired.push(key);
                }
            }
        }
        Ok(KeySet { current, next, retired })
    }

    /// Retires the current key, puts the next one in its place and makes a new next one. The next key has to have been
    /// published for as long as verifiers cache a key set; running processes use the new keys after a restart.
    pub fn rotate(&self) -> Result<KeySet, KeyFolderError> {
        let current = self.0.join("current.pem");
        let next = self.0.join("next.pem");
        let keys = self.load()?;
        let retired = self.0.join(format!("retired-{}.pem", keys.current.key_id()));
        link_new(&current, &retired)?;
        fs::rename(&next, &current).map_err(|source| KeyFolderError::Io { path: next, source })?;
        self.create_pem("next.pem")?;
        self.load()
    }

    /// Loads the key that signs page cursors, or makes it.
    pub fn cursor_key(&self) -> Result<Zeroizing<[u8; 32]>, KeyFolderError> {
        let path = self.0.join("cursor.key");
        create_symmetric(&path)?;
        load_symmetric(&path)
    }

    /// The keys that seal secrets; the first is made if there is none.
    pub(crate) fn sealing_keys(&self) -> Result<SealingKeyFiles, KeyFolderError> {
        self.create()?;
        let path = self.0.join(SEALING_KEY);
        create_symmetric(&path)?;
        let newest = load_symmetric(&path)?;
        let id = sealing_key_id(&newest);
        let mut all = vec![(id.clone(), newest)];
        let entries =
            fs::read_dir(&self.0).map_err(|source| KeyFolderError::Io { path: self.0.clone(), source })?;
        for entry in entries {
            let path = entry.map_err(|source| KeyFolderError::Io { path: self.0.clone(), source })?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with(SEALING_RETIRED) && name.ends_with(".key") {
                let key = load_symmetric(&path)?;
                all.push((sealing_key_id(&key), key));
            }
        }
        Ok(SealingKeyFiles { newest: id, all })
    }

    /// Retires the key that seals and puts a new one in its place; returns the new one's id. The webhooks role seals anew
    /// what the old one had sealed, and says when that is done.
    pub fn rotate_sealing_key(&self) -> Result<String, KeyFolderError> {
        let newest = self.sealing_keys()?.newest;
        let path = self.0.join(SEALING_KEY);
        link_new(&path, &self.0.join(format!("{SEALING_RETIRED}{newest}.key")))?;
        let next = self.0.join("sealing-next.new");
        create_symmetric(&next)?;
        fs::rename(&next, &path).map_err(|source| KeyFolderError::Io { path: next, source })?;
        Ok(self.sealing_keys()?.newest)
    }

    fn create(&self) -> Result<(), KeyFolderError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)
            .map_err(|source| KeyFolderError::Io { path: self.0.clone(), source })
    }

    fn create_pem(&self, name: &str) -> Result<(), KeyFolderError> {
        let pem = SigningKey::generate(Algorithm::EdDsa)?.to_pem()?;
        create_private(&self.0.join(name), pem.as_bytes())
    }
}

/// The sealing keys of a folder, each with its id.
pub(crate) struct SealingKeyFiles {
    pub(crate) newest: String,
    pub(crate) all: Vec<(String, Zeroizing<[u8; 32]>)>,
}

const SEALING_KEY: &str = "sealing.key";
const SEALING_RETIRED: &str = "sealing-retired-";

/// Follows from the key, and tells nothing of it.
fn sealing_key_id(key: &[u8; 32]) -> String {
    to_hex(&sha256_fields(&[b"flowbridge sealing key", key])[..8])
}

fn create_symmetric(path: &Path) -> Result<(), KeyFolderError> {
    if path.exists() {
        return Ok(());
    }
    let text = Zeroizing::new(to_hex(&Zeroizing::new(random_bytes::<32>()?)[..]));
    create_private(path, text.as_bytes())
}

fn load_symmetric(path: &Path) -> Result<Zeroizing<[u8; 32]>, KeyFolderError> {
    let text = read_private(path)?;
    let why = "should be 64 hexadecimal digits";
    from_hex(text.trim()).ok_or_else(|| KeyFolderError::Unreadable { path: path.to_owned(), why })
}

/// Reads one private key file. Refused when others may read it.
pub fn load_pem(path: &Path) -> Result<SigningKey, KeyFolderError> {
    let pem = read_private(path)?;
    SigningKey::from_pem(&pem).map_err(|ParseKeyError| KeyFolderError::Unreadable {
        path: path.to_owned(),
        why: "should be an unencrypted PKCS#8 private key in PEM, Ed25519 or P-256",
    })
}

/// Writes a private file (0600) whole or not at all. One that is there already, perhaps since a moment ago, stays.
pub fn create_private(path: &Path, contents: &[u8]) -> Result<(), KeyFolderError> {
    let failed = |source| KeyFolderError::Io { path: path.to_owned(), source };
    let aside = path.with_extension(format!("{}.new", to_hex(&random_bytes::<8>()?)));
    let written =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside).and_then(|mut file| {
            file.write_all(contents)?;
            file.sync_all()
        });
    let linked = written.map_err(failed).and_then(|()| link_new(&aside, path));
    let removed = fs::remove_file(&aside);
    linked?;
    removed.map_err(failed)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

fn link_new(from: &Path, to: &Path) -> Result<(), KeyFolderError> {
    match fs::hard_link(from, to) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(KeyFolderError::Io { path: to.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn read_private(path: &Path) -> Result<Zeroizing<String>, KeyFolderError> {
    let failed = |source| KeyFolderError::Io { path: path.to_owned(), source };
    let file = fs::File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyFolderError::Exposed { path: path.to_owned(), mode });
    }
    io::read_to_string(file).map(Zeroizing::new).map_err(failed)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let mut bytes = Zeroizing::new([0; 32]);
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}
