//! Keys and signatures. A key never appears in debug output; each lane of sending has its own.

use crate::bindings::{address, evm_address};
use crate::error::ChainError;
use alloy::consensus::{SignableTransaction as _, TxEip1559, TxEnvelope};
use alloy::eips::eip2718::Encodable2718 as _;
use alloy::primitives::{Bytes, TxKind};
use alloy::signers::SignerSync as _;
use alloy::signers::local::PrivateKeySigner;
use flowbridge_domain::party::EvmAddress;
use std::fmt;
use std::path::Path;

/// A signing key.
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
    pub fn sign_digest(&self, digest: &[u8; 32]) -> Result<[u8; 65], ChainError> {
        let signature = self
            .0
            .sign_hash_sync(&crate::bindings::hash(digest))
            .map_err(|error| ChainError::Wrong(format!("cannot sign: {error}")))?;
        Ok(signature.as_bytes())
    }

    /// Signs an EIP-1559 transaction. Deterministic: the same input gives the same bytes.
    pub fn sign(&self, unsigned: &Unsigned<'_>) -> Result<Signed, ChainError> {
        let tx = TxEip1559 {
            chain_id: unsigned.chain_id,
            nonce: unsigned.nonce,
            gas_limit: unsigned.gas_limit,
            max_fee_per_gas: u128::from(unsigned.fee_per_gas),
            max_priority_fee_per_gas: u128::from(unsigned.priority_fee),
            to: unsigned.to.map_or(TxKind::Create, |to| TxKind::Call(address(to))),
            value: alloy::primitives::U256::from(unsigned.value),
            access_list: Default::default(),
            input: Bytes::copy_from_slice(unsigned.calldata),
        };
        let signature = self
            .0
            .sign_hash_sync(&tx.signature_hash())
            .map_err(|error| ChainError::Wrong(format!("cannot sign: {error}")))?;
        let envelope = TxEnvelope::from(tx.into_signed(signature));
        Ok(Signed { raw: envelope.encoded_2718(), hash: envelope.tx_hash().0 })
    }
}
