//! A key in a hardware module, by PKCS#11: it never leaves the module.
//!
//! One session, used by one signature at a time, which is as fast as a module is; a session that the module has lost is opened
//! again with the next signature. A module that does not come back from a call costs one thread and is a signer that is away: who
//! asks is told so in time, and asked again it is as soon as the call ends. The module's library runs inside our process: it has to be one
//! that the operator trusts.

use super::{Answer, Signer};
use crate::bindings::evm_address;
use crate::error::ChainError;
use alloy::primitives::Address;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use flowbridge_domain::party::EvmAddress;
use secrecy::SecretString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// How long a signature may take, the wait for those before it included. Modules over a network answer within a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the key is.
#[derive(Debug, Clone)]
pub struct Pkcs11Config {
    /// The module's library.
    pub module: PathBuf,
    /// The label of the token.
    pub token: String,
    /// The label of the private key, and of its public key.
    pub key: String,
    /// What opens the token.
    pub pin: SecretString,
}

/// A key in a hardware module.
pub struct HardwareKey {
    inner: Arc<Inner>,
    address: EvmAddress,
    /// Whose turn it is: only one waits inside the module, however long that takes.
    turn: Arc<Semaphore>,
    patience: Duration,
}

struct Inner {
    config: Pkcs11Config,
    session: Mutex<Option<(Session, ObjectHandle)>>,
}

impl fmt::Debug for HardwareKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HardwareKey({} in {})", self.address, self.inner.config.token)
    }
}

impl HardwareKey {
    /// Opens the token and finds the key.
    pub async fn open(config: Pkcs11Config) -> Result<Self, ChainError> {
        let opening = tokio::task::spawn_blocking(move || {
            let (session, key) = open(&config)?;
            let address = address_of(&session, &config)?;
            let inner = Arc::new(Inner { config, session: Mutex::new(Some((session, key))) });
            Ok(Self { inner, address, turn: Arc::new(Semaphore::new(1)), patience: PATIENCE })
        });
        let opened = tokio::time::timeout(PATIENCE, opening).await.map_err(|_| silent(PATIENCE))?;
        opened.map_err(|error| ChainError::Signer(error.to_string()))?
    }
}

#[async_trait::async_trait]
impl Signer for HardwareKey {
    fn address(&self) -> EvmAddress {
        self.address
    }

    async fn sign_digest(&self, digest: [u8; 32]) -> Result<Answer, ChainError> {
        let (inner, turn) = (self.inner.clone(), self.turn.clone());
        let failed = |error: &dyn fmt::Display| ChainError::Signer(error.to_string());
        let signed = tokio::time::timeout(self.patience, async move {
            let turn = turn.acquire_owned().await.map_err(|error| failed(&error))?;
            let signing = tokio::task::spawn_blocking(move || {
                // Until the module comes back from the call, even if nobody waits for it any more.
                let _turn = turn;
                inner.sign(&digest)
            });
            signing.await.map_err(|error| failed(&error))?
        });
        let rs = signed.await.map_err(|_| silent(self.patience))??;
        Ok(Answer { rs, parity: None })
    }
}

impl Inner {
    fn sign(&self, digest: &[u8; 32]) -> Result<[u8; 64], ChainError> {
        let mut held = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let (session, key) = match held.take() {
            Some(open) => open,
            None => open(&self.config)?,
        };
        // Whatever goes wrong, the next signature begins with a new session.
        let signature = session.sign(&Mechanism::Ecdsa, key, digest).map_err(|error| told(&error))?;
        *held = Some((session, key));
        signature.try_into().map_err(|_| ChainError::Signer("a signature that is not 64 bytes long".into()))
    }
}

/// The library is loaded once in a process, whatever its tokens are used for.
fn library(module: &Path) -> Result<Pkcs11, ChainError> {
    static LOADED: OnceLock<Mutex<Vec<(PathBuf, Pkcs11)>>> = OnceLock::new();
    let mut loaded = LOADED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, library)) = loaded.iter().find(|(known, _)| known == module) {
        return Ok(library.clone());
    }
    let unusable = |error: &Error| {
        ChainError::Wrong(format!("the PKCS#11 library {} cannot be used: {error}", module.display()))
    };
    let library = Pkcs11::new(module).map_err(|error| unusable(&error))?;
    match library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(error) => return Err(unusable(&error)),
    }
    loaded.push((module.to_owned(), library.clone()));
    Ok(library)
}

fn open(config: &Pkcs11Config) -> Result<(Session, ObjectHandle), ChainError> {
    let library = library(&config.module)?;
    let slots = library.get_slots_with_initialized_token().map_err(|error| told(&error))?;
    let slot = slots
        .into_iter()
        .find(|slot| library.get_token_info(*slot).is_ok_and(|info| info.label() == config.token))
        .ok_or_else(|| ChainError::Signer(format!("the module has no token {:?}", config.token)))?;
    let session = library.open_ro_session(slot).map_err(|error| told(&error))?;
    match session.login(UserType::User, Some(&config.pin)) {
        Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
        Err(Error::Pkcs11(RvError::PinIncorrect | RvError::PinLocked, _)) => {
            return Err(ChainError::Wrong(format!("token {:?} does not take the PIN", config.token)));
        }
        Err(error) => return Err(told(&error)),
    }
    let key = find(&session, config, ObjectClass::PRIVATE_KEY)?;
    Ok((session, key))
}

fn find(session: &Session, config: &Pkcs11Config, class: ObjectClass) -> Result<ObjectHandle, ChainError> {
    let wanted = [Attribute::Class(class), Attribute::Label(config.key.clone().into_bytes())];
    let found = session.find_objects(&wanted).map_err(|error| told(&error))?;
    match found.as_slice() {
        [one] => Ok(*one),
        none_or_several => Err(ChainError::Wrong(format!(
            "token {:?} has {} keys {:?} ({class}), where one is expected",
            config.token,
            none_or_several.len(),
            config.key
        ))),
    }
}

/// By the public key beside the private one.
fn address_of(session: &Session, config: &Pkcs11Config) -> Result<EvmAddress, ChainError> {
    let public = find(session, config, ObjectClass::PUBLIC_KEY)?;
    let attributes =
        session.get_attributes(public, &[AttributeType::EcPoint]).map_err(|error| told(&error))?;
    let point = attributes
        .into_iter()
        .find_map(|attribute| if let Attribute::EcPoint(point) = attribute { Some(point) } else { None });
    // An uncompressed point at the end of a DER string; some modules leave the string's head out.
    let point = point.as_deref().and_then(|point| point.last_chunk::<65>()).filter(|point| point[0] == 4);
    let point =
        point.ok_or_else(|| ChainError::Wrong(format!("key {:?} is not on secp256k1", config.key)))?;
    Ok(evm_address(Address::from_raw_public_key(&point[1..])))
}

fn silent(patience: Duration) -> ChainError {
    ChainError::Signer(format!("the hardware module says nothing for {patience:?}"))
}

fn told(error: &Error) -> ChainError {
    ChainError::Signer(format!("the hardware module: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_that_does_not_come_back_is_a_signer_that_is_away_and_holds_one_thread() {
        let config = Pkcs11Config {
            module: "/no/such/module.so".into(),
            token: "token".into(),
            key: "key".into(),
            pin: String::new().into(),
        };
        let inner = Arc::new(Inner { config, session: Mutex::new(None) });
        let key = HardwareKey {
            inner: inner.clone(),
            address: EvmAddress::from_bytes([0; 20]),
            turn: Arc::new(Semaphore::new(1)),
            patience: Duration::from_millis(50),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let refusal = |key: &HardwareKey| runtime.block_on(key.sign_digest([1; 32])).unwrap_err();
        let inside = inner.session.lock().unwrap();
        for _ in 0..3 {
            let error = refusal(&key);
            assert!(matches!(&error, ChainError::Signer(why) if why.contains("says nothing")), "{error}");
        }
        assert_eq!(Arc::strong_count(&inner), 3, "the key's, ours, and that of the one call");
        drop(inside);
        let key = HardwareKey { patience: Duration::from_secs(60), ..key };
        let error = refusal(&key);
        assert!(error.to_string().contains("/no/such/module.so"), "it is asked again: {error}");
    }
}
