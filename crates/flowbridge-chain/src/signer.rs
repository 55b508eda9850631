//! Keys and signatures. A key never appears in debug output; each lane of sending has its own.
//!
//! Whoever signs stands behind [`Signer`]: a key in our memory ([`Key`]), in a hardware module or with a key service. A
//! signer may be slow or away; it is asked outside of any transaction, and what waits for it keeps its nonce.

mod kms;
mod pkcs11;

pub use kms::{AwsCredentials, KmsConfig, KmsKey};
pub use pkcs11::{HardwareKey, Pkcs11Config};

use crate::bindings::{address, evm_address};
use crate::error::ChainError;
use alloy::consensus::{SignableTransaction as _, TxEip1559, TxEnvelope};
use alloy::eips::eip2718::Encodable2718 as _;
use alloy::primitives::{B256, Bytes, Signature, TxKind, U256};
use alloy::signers::SignerSync as _;
use alloy::signers::local::PrivateKeySigner;
use flowbridge_domain::party::EvmAddress;
use secrecy::{ExposeSecret as _, SecretString};
use std::fmt;
use std::path::Path;

/// Who signs for an address.
#[async_trait::async_trait]
pub trait Signer: Send + Sync + fmt::Debug {
    /// The address.
    fn address(&self) -> EvmAddress;

    /// Signs a digest with the address's key. [`ChainError::Signer`]: not now.
    async fn sign_digest(&self, digest: [u8; 32]) -> Result<Answer, ChainError>;
}

/// What a signer answers.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// r and s on secp256k1, big-endian; s may be either of the two.
    pub rs: [u8; 64],
    /// The recovery bit, of whoever gives it. It is only what is tried first.
    pub parity: Option<bool>,
}

/// Signs an EIP-1559 transaction. Whatever the signer answers is checked to be its address's.
pub async fn sign(signer: &dyn Signer, unsigned: &Unsigned<'_>) -> Result<Signed, ChainError> {
    let tx = unsigned.to_envelope_contents();
    let digest = tx.signature_hash();
    let signature = recoverable(&signer.sign_digest(digest.0).await?, digest, &signer.address())?;
    Ok(Signed::of(tx, signature))
}

/// Finds the recovery bit, which hardware does not give, and takes the lower s, which is the one that chains accept.
fn recoverable(answer: &Answer, digest: B256, address: &EvmAddress) -> Result<Signature, ChainError> {
    let (r, s) = (U256::from_be_slice(&answer.rs[..32]), U256::from_be_slice(&answer.rs[32..]));
    let first = answer.parity.unwrap_or(false);
    [first, !first]
        .map(|parity| Signature::new(r, s, parity).normalized_s())
        .into_iter()
        .find(|candidate| {
            candidate.recover_address_from_prehash(&digest).is_ok_and(|found| evm_address(found) == *address)
        })
        .ok_or_else(|| {
            ChainError::Signer(format!("what the signer of {address} answered is not its signature"))
        })
}

/// A signing key in our memory.
#[derive(Clone)]
pub struct Key(PrivateKeySigner);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.address())
    }
}

/// A transaction to sign.
#[derive(Debug, Clone, Copy)]
pub struct Unsigned<'a> {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The sender's nonce.
    pub nonce: u64,
    /// The contract; `None` creates one.
    pub to: Option<&'a EvmAddress>,
    /// The call.
    pub calldata: &'a [u8],
    /// Coins to send with it, in wei.
    pub value: u64,
    /// Gas.
    pub gas_limit: u64,
    /// At most, in wei per gas.
    pub fee_per_gas: u64,
    /// To the block's maker, in wei per gas.
    pub priority_fee: u64,
}

/// A signed transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// What to broadcast.
    pub raw: Vec<u8>,
    /// Its hash.
    pub hash: [u8; 32],
    /// r, s and the recovery id, 27 or 28.
    pub signature: [u8; 65],
}

impl Key {
    /// Reads a key: 32 bytes in hexadecimal, with or without `0x`.
    pub fn parse(text: &str) -> Result<Self, ChainError> {
        // The cause could repeat the key, so it is not passed on.
        text.trim()
            .parse::<PrivateKeySigner>()
            .map(Self)
            .map_err(|_| ChainError::Wrong("not a key: 32 bytes in hexadecimal are expected".into()))
    }

    /// Reads a key file.
    pub fn read(path: &Path) -> Result<Self, ChainError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ChainError::Wrong(format!("cannot read the key {}: {error}", path.display())))?;
        Self::parse(&text).map_err(|error| ChainError::Wrong(format!("{}: {error}", path.display())))
    }

    /// Opens an encrypted keystore (Ethereum's JSON format, version 3) with its password. Takes a second or more, on purpose of
    /// the format: call it where that blocks nobody.
    pub fn read_keystore(path: &Path, password: &SecretString) -> Result<Self, ChainError> {
        PrivateKeySigner::decrypt_keystore(path, password.expose_secret()).map(Self).map_err(|error| {
            ChainError::Wrong(format!("cannot open the keystore {}: {error}", path.display()))
        })
    }

    /// A key from 32 random bytes that the caller drew.
    pub fn from_random(bytes: [u8; 32]) -> Result<Self, ChainError> {
        PrivateKeySigner::from_bytes(&bytes.into())
            .map(Self)
            .map_err(|_| ChainError::Wrong("these bytes are no key: draw others".into()))
    }

    /// The key itself, in hexadecimal: for writing its file, and for nothing else.
    pub fn reveal(&self) -> String {
        alloy::hex::encode(self.0.to_bytes())
    }

    /// The address it signs for.
    pub fn address(&self) -> EvmAddress {
        evm_address(self.0.address())
    }

    /// Signs a digest, such as that of EIP-712 typed data: r, s and the recovery id, 27 or 28.
    pub fn sign_recoverably(&self, digest: &[u8; 32]) -> Result<[u8; 65], ChainError> {
        let signature = self
            .0
            .sign_hash_sync(&crate::bindings::hash(digest))
            .map_err(|error| ChainError::Wrong(format!("cannot sign: {error}")))?;
        Ok(signature.as_bytes())
    }

    /// Signs an EIP-1559 transaction. Deterministic: the same input gives the same bytes.
    pub fn sign(&self, unsigned: &Unsigned<'_>) -> Result<Signed, ChainError> {
        let tx = unsigned.to_envelope_contents();
        let signature = self
            .0
            .sign_hash_sync(&tx.signature_hash())
            .map_err(|error| ChainError::Wrong(format!("cannot sign: {error}")))?;
        Ok(Signed::of(tx, signature))
    }
}

#[async_trait::async_trait]
impl Signer for Key {
    fn address(&self) -> EvmAddress {
        Self::address(self)
    }

    async fn sign_digest(&self, digest: [u8; 32]) -> Result<Answer, ChainError> {
        let signature = self
            .0
            .sign_hash_sync(&digest.into())
            .map_err(|error| ChainError::Wrong(format!("cannot sign: {error}")))?;
        let mut rs = [0; 64];
        rs.copy_from_slice(&signature.as_bytes()[..64]);
        Ok(Answer { rs, parity: Some(signature.v()) })
    }
}

impl Unsigned<'_> {
    fn to_envelope_contents(self) -> TxEip1559 {
        TxEip1559 {
            chain_id: self.chain_id,
            nonce: self.nonce,
            gas_limit: self.gas_limit,
            max_fee_per_gas: u128::from(self.fee_per_gas),
            max_priority_fee_per_gas: u128::from(self.priority_fee),
            to: self.to.map_or(TxKind::Create, |to| TxKind::Call(address(to))),
            value: U256::from(self.value),
            access_list: Default::default(),
            input: Bytes::copy_from_slice(self.calldata),
        }
    }
}

impl Signed {
    fn of(tx: TxEip1559, signature: Signature) -> Self {
        let envelope = TxEnvelope::from(tx.into_signed(signature));
        Self { raw: envelope.encoded_2718(), hash: envelope.tx_hash().0, signature: signature.as_bytes() }
    }

    /// What was signed before, put together again from its parts. `None`: together they have another hash.
    pub fn again(unsigned: &Unsigned<'_>, signature: &[u8; 65], hash: &[u8; 32]) -> Option<Self> {
        let signature = Signature::from_raw_array(signature).ok()?;
        let signed = Self::of(unsigned.to_envelope_contents(), signature);
        (signed.hash == *hash).then_some(signed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";

    /// Signs as hardware does: without a recovery bit, and with whichever s comes out.
    #[derive(Debug)]
    struct HighS(Key);

    #[async_trait::async_trait]
    impl Signer for HighS {
        fn address(&self) -> EvmAddress {
            self.0.address()
        }

        async fn sign_digest(&self, digest: [u8; 32]) -> Result<Answer, ChainError> {
            const ORDER: &str = "0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
            let mut rs = Signer::sign_digest(&self.0, digest).await?.rs;
            let order: U256 = ORDER.parse().unwrap();
            let high = order - U256::from_be_slice(&rs[32..]);
            rs[32..].copy_from_slice(&high.to_be_bytes::<32>());
            Ok(Answer { rs, parity: None })
        }
    }

    #[derive(Debug)]
    struct Impostor(Key);

    #[async_trait::async_trait]
    impl Signer for Impostor {
        fn address(&self) -> EvmAddress {
            EvmAddress::from_bytes([7; 20])
        }

        async fn sign_digest(&self, digest: [u8; 32]) -> Result<Answer, ChainError> {
            Signer::sign_digest(&self.0, digest).await
        }
    }

    fn unsigned() -> Unsigned<'static> {
        Unsigned {
            chain_id: 31337,
            nonce: 7,
            to: None,
            calldata: b"code",
            value: 0,
            gas_limit: 100_000,
            fee_per_gas: 20,
            priority_fee: 2,
        }
    }

    #[tokio::test]
    async fn whichever_s_a_signer_gives_the_chain_gets_the_lower_one() {
        let key = Key::parse(KEY).unwrap();
        let direct = key.sign(&unsigned()).unwrap();
        assert_eq!(sign(&key, &unsigned()).await.unwrap(), direct);
        assert_eq!(sign(&HighS(key), &unsigned()).await.unwrap(), direct);
    }

    #[test]
    fn what_was_signed_is_put_together_again_from_its_signature_and_from_nothing_else() {
        let signed = Key::parse(KEY).unwrap().sign(&unsigned()).unwrap();
        let again = |unsigned: &Unsigned<'_>| Signed::again(unsigned, &signed.signature, &signed.hash);
        assert_eq!(again(&unsigned()), Some(signed.clone()));
        assert_eq!(again(&Unsigned { fee_per_gas: 21, ..unsigned() }), None, "another fee was signed");
    }

    #[tokio::test]
    async fn a_signature_by_another_key_is_not_sent() {
        let impostor = Impostor(Key::parse(KEY).unwrap());
        assert!(matches!(sign(&impostor, &unsigned()).await, Err(ChainError::Signer(_))));
    }
}
