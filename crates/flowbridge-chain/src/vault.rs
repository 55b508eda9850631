//! The vault: M of N owners act as one.
//!
//! A *motion* is what is put to the owners: calls to make under a nonce until a deadline, or that nonce used up without any.
//! Its EIP-712 digest names chain and vault, so an approval counts for one motion, once, and nowhere else. Owners approve
//! away from the chain; [`Vault::approval`] makes sure that a signature is an owner's before anybody keeps it. Here is how
//! motions are written and read, in bytes for the contract, as typed data for wallets and in words for people; nothing here
//! keeps them. The contract checks everything again, so a mistake on this side costs a refusal, never money.

use crate::bindings::{address, evm_address, hash, manager, token, vault};
use crate::client::{At, Chain};
use crate::deploy::{read, role};
use crate::error::ChainError;
use crate::log::ContractSet;
use alloy::primitives::{Address, Signature, U256};
use alloy::sol_types::{Eip712Domain, SolCall as _, SolEvent as _, SolInterface as _, SolStruct as _};
use flowbridge_domain::party::EvmAddress;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use token::TokenizedCash as Token;
use vault::MultiSigVault as Contract;

/// The name and version of the vault's EIP-712 domain.
const DOMAIN: (&str, &str) = ("FlowBridge MultiSigVault", "1");
/// Calls of one motion at most: what a person can still read before signing.
pub const CALLS_MAX: usize = 32;
/// Bytes of calldata of one call at most.
pub const CALLDATA_BYTES_MAX: usize = 16_384;
/// Blocks asked for at once when looking for what became of nonces.
const STRETCH_BLOCKS_MAX: u64 = 10_000;

/// What is hashed and signed; the contract has the same.
mod signed {
    alloy::sol! {
        struct Call {
            address to;
            uint256 value;
            bytes data;
        }

        struct Operation {
            uint256 nonce;
            uint64 deadline;
            Call[] calls;
        }

        struct Cancellation {
            uint256 nonce;
            uint64 deadline;
        }
    }
}

/// One call of a motion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The contract or wallet.
    pub to: EvmAddress,
    /// Coins to send with it, in wei.
    pub value: u128,
    /// The calldata.
    pub data: Vec<u8>,
}

/// What owners decide on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Motion {
    /// The vault's nonce for it.
    pub nonce: u64,
    /// Void from this block time on, in seconds.
    pub deadline: u64,
    /// What is to be done.
    pub act: Act,
}

/// What a motion does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Makes calls, all or none.
    Operate(Vec<Call>),
    /// Uses the nonce up, whatever was scheduled or signed for it.
    Cancel,
}

/// An owner's signature over a motion, as the contract takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Approval {
    /// Whose it is.
    pub owner: EvmAddress,
    /// r, s and v, 27 or 28.
    pub signature: [u8; 65],
}

/// Why a signature is no approval.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoApproval {
    /// It is not 65 bytes, or no point of the curve, or one of the two forms that could be mistaken for another.
    #[error("the signature is not one: 65 bytes in hexadecimal (r, s, v) with a low s are expected")]
    Malformed,
    /// It is somebody else's, or over something else, which looks the same.
    #[error(
        "the signature recovers to {0}, which is no owner of the vault: it is somebody else's, or over another digest"
    )]
    NotAnOwner(EvmAddress),
    /// The chain could not be asked.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

/// The vault as it stands on chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// How many owners there are.
    pub owners: u16,
    /// How many of them must approve.
    pub threshold: u16,
    /// Seconds that a large operation waits.
    pub delay_secs: u64,
    /// The nonce of the next motion.
    pub nonce: u64,
    /// The digest of the operation that waits, and the block time from when on it may be executed.
    pub scheduled: Option<([u8; 32], u64)>,
    /// The newest block's number.
    pub block_number: u64,
    /// The newest block's time, in seconds.
    pub block_time: u64,
}

/// What became of a nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The operation of this digest was executed under it.
    Executed([u8; 32]),
    /// It was used up without any call.
    Cancelled,
}

/// Where a motion stands, given the chain and how many owners have approved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Owners are still missing.
    Collecting,
    /// Enough owners have approved, and its nonce is the next.
    Approved,
    /// Enough owners have approved; motions with lower nonces come first.
    Queued,
    /// It waits for the vault's delay.
    Scheduled,
    /// The delay is over.
    Ready,
    /// Done.
    Executed,
    /// Its nonce was used up without any call: what a cancellation wants, and the end of an operation.
    Cancelled,
    /// Another motion was executed under its nonce.
    Overtaken,
    /// Its deadline has passed.
    Expired,
}

impl Standing {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Collecting => "collecting",
            Self::Approved => "approved",
            Self::Queued => "queued",
            Self::Scheduled => "scheduled",
            Self::Ready => "ready",
            Self::Executed => "executed",
            Self::Cancelled => "cancelled",
            Self::Overtaken => "overtaken",
            Self::Expired => "expired",
        }
    }

    /// Whether a motion can still be approved and carried out.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Collecting | Self::Approved | Self::Queued | Self::Scheduled | Self::Ready)
    }
}

/// Where a motion stands. `fate` is that of its nonce, once that is used.
pub fn standing(
    motion: &Motion,
    digest: &[u8; 32],
    approvals: usize,
    state: &State,
    fate: Option<Fate>,
) -> Standing {
    if motion.nonce < state.nonce {
        return match fate {
            Some(Fate::Executed(executed)) if executed == *digest => Standing::Executed,
            Some(Fate::Executed(_)) | None => Standing::Overtaken,
            Some(Fate::Cancelled) => Standing::Cancelled,
        };
    }
    if state.block_time >= motion.deadline {
        return Standing::Expired;
    }
    match state.scheduled {
        Some((scheduled, ready_at)) if scheduled == *digest => {
            return if state.block_time >= ready_at { Standing::Ready } else { Standing::Scheduled };
        }
        Some(_) | None => {}
    }
    if approvals < usize::from(state.threshold) {
        Standing::Collecting
    } else if motion.nonce > state.nonce {
        Standing::Queued
    } else {
        Standing::Approved
    }
}

/// The vault on its chain.
#[derive(Debug, Clone)]
pub struct Vault {
    /// The node.
    pub chain: Arc<dyn Chain>,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Where it is.
    pub address: EvmAddress,
}

impl Vault {
    /// What owners sign.
    pub fn digest(&self, motion: &Motion) -> [u8; 32] {
        let domain = self.domain();
        let nonce = U256::from(motion.nonce);
        let digest = match &motion.act {
            Act::Operate(calls) => {
                let calls = calls.iter().map(signed_call).collect();
                signed::Operation { nonce, deadline: motion.deadline, calls }.eip712_signing_hash(&domain)
            }
            Act::Cancel => {
                signed::Cancellation { nonce, deadline: motion.deadline }.eip712_signing_hash(&domain)
            }
        };
        digest.0
    }

    /// The same as `eth_signTypedData_v4` of a wallet takes it.
    pub fn typed_data(&self, motion: &Motion) -> Value {
        let field = |name: &str, kind: &str| json!({ "name": name, "type": kind });
        let mut types = json!({
            "EIP712Domain": [
                field("name", "string"), field("version", "string"), field("chainId", "uint256"),
                field("verifyingContract", "address"),
            ],
        });
        let mut message =
            json!({ "nonce": motion.nonce.to_string(), "deadline": motion.deadline.to_string() });
        let primary = match &motion.act {
            Act::Operate(calls) => {
                let shown = |call: &Call| {
                    json!({
                        "to": call.to.to_string(), "value": call.value.to_string(),
                        "data": alloy::hex::encode_prefixed(&call.data),
                    })
                };
                message["calls"] = Value::Array(calls.iter().map(shown).collect());
                types["Operation"] =
                    json!([field("nonce", "uint256"), field("deadline", "uint64"), field("calls", "Call[]")]);
                types["Call"] =
                    json!([field("to", "address"), field("value", "uint256"), field("data", "bytes")]);
                "Operation"
            }
            Act::Cancel => {
                types["Cancellation"] = json!([field("nonce", "uint256"), field("deadline", "uint64")]);
                "Cancellation"
            }
        };
        json!({
            "types": types,
            "primaryType": primary,
            "domain": {
                "name": DOMAIN.0, "version": DOMAIN.1, "chainId": self.chain_id,
                "verifyingContract": self.address.to_string(),
            },
            "message": message,
        })
    }

    /// Makes sure that a signature over the motion is an owner's, as of the newest block.
    pub async fn approval(&self, motion: &Motion, signature: &[u8]) -> Result<Approval, NoApproval> {
        let approval = recover(&self.digest(motion), signature)?;
        if self.is_owner(&approval.owner).await? {
            Ok(approval)
        } else {
            Err(NoApproval::NotAnOwner(approval.owner))
        }
    }

    /// Whether a key is an owner.
    pub async fn is_owner(&self, key: &EvmAddress) -> Result<bool, ChainError> {
        read(&*self.chain, &self.address, &Contract::isOwnerCall { owner: address(key) }).await
    }

    /// What a minter's allowance of a token may be raised to without delay, in token units; saturates.
    pub async fn mint_cap(&self, token: &EvmAddress, minter: &EvmAddress) -> Result<u128, ChainError> {
        let asked = Contract::mintCapOfCall { token: address(token), minter: address(minter) };
        Ok(read(&*self.chain, &self.address, &asked).await?.saturating_to())
    }

    /// What may leave of a token (`None`: the chain's own coin) within a day without delay, in its units.
    pub async fn limit_per_day(&self, token: Option<&EvmAddress>) -> Result<u128, ChainError> {
        let asked = Contract::limitOfCall { token: token.map_or(Address::ZERO, address) };
        Ok(read(&*self.chain, &self.address, &asked).await?.perDay)
    }

    /// The vault as it stands.
    pub async fn state(&self) -> Result<State, ChainError> {
        let (chain, at) = (&*self.chain, &self.address);
        let block = chain
            .block(At::Latest)
            .await?
            .ok_or_else(|| ChainError::Unreadable("the chain has no newest block".into()))?;
        let (owners, threshold) = tokio::try_join!(
            read(chain, at, &Contract::ownersCall {}),
            read(chain, at, &Contract::thresholdCall {}),
        )?;
        let (delay_secs, nonce, scheduled, ready_at) = tokio::try_join!(
            read(chain, at, &Contract::delayCall {}),
            read(chain, at, &Contract::nonceCall {}),
            read(chain, at, &Contract::scheduledCall {}),
            read(chain, at, &Contract::readyAtCall {}),
        )?;
        let nonce = u64::try_from(nonce)
            .map_err(|_| ChainError::Unreadable("a nonce of the vault beyond 64 bits".into()))?;
        Ok(State {
            owners,
            threshold,
            delay_secs,
            nonce,
            scheduled: (!scheduled.is_zero()).then_some((scheduled.0, ready_at)),
            block_number: block.number,
            block_time: u64::try_from(block.time.as_secs_down()).unwrap_or(0),
        })
    }

    /// What became of the nonces that were used since a block.
    pub async fn fates(&self, from_block: u64, to_block: u64) -> Result<BTreeMap<u64, Fate>, ChainError> {
        let mut fates = BTreeMap::new();
        let mut from = from_block;
        while from <= to_block {
            let to = to_block.min(from.saturating_add(STRETCH_BLOCKS_MAX - 1));
            for log in self.chain.logs(from, to, std::slice::from_ref(&self.address)).await? {
                if let Ok(executed) = Contract::Executed::decode_log(&log.inner) {
                    fates.insert(executed.nonce.saturating_to(), Fate::Executed(executed.digest.0));
                } else if let Ok(cancelled) = Contract::Cancelled::decode_log(&log.inner) {
                    fates.insert(cancelled.nonce.saturating_to(), Fate::Cancelled);
                }
            }
            from = to.saturating_add(1);
        }
        Ok(fates)
    }

    fn domain(&self) -> Eip712Domain {
        Eip712Domain::new(
            Some(DOMAIN.0.into()),
            Some(DOMAIN.1.into()),
            Some(U256::from(self.chain_id)),
            Some(address(&self.address)),
            None,
        )
    }
}

/// Reads a signature and whose it is. Wallets write v as 0 or 1, or as 27 or 28; the contract wants the latter.
pub fn recover(digest: &[u8; 32], signature: &[u8]) -> Result<Approval, NoApproval> {
    let read = Signature::from_raw(signature).map_err(|_| NoApproval::Malformed)?;
    if signature.len() != 65 || read.normalize_s().is_some() {
        return Err(NoApproval::Malformed);
    }
    let owner = read.recover_address_from_prehash(&hash(digest)).map_err(|_| NoApproval::Malformed)?;
    Ok(Approval { owner: evm_address(owner), signature: read.as_bytes() })
}

/// To the vault: makes the motion's calls, or uses its nonce up.
pub fn execute(motion: &Motion, approvals: &[Approval]) -> Vec<u8> {
    let signatures = ascending(approvals);
    match &motion.act {
        Act::Operate(calls) => {
            Contract::executeCall { calls: to_contract(calls), deadline: motion.deadline, signatures }
                .abi_encode()
        }
        Act::Cancel => Contract::cancelCall { deadline: motion.deadline, signatures }.abi_encode(),
    }
}

/// To the vault: starts the delay of a motion; `None` for a cancellation, which never waits.
pub fn schedule(motion: &Motion, approvals: &[Approval]) -> Option<Vec<u8>> {
    let Act::Operate(calls) = &motion.act else { return None };
    let signatures = ascending(approvals);
    let call = Contract::scheduleCall { calls: to_contract(calls), deadline: motion.deadline, signatures };
    Some(call.abi_encode())
}

/// The contract counts each signer once by having them in the order of their addresses.
fn ascending(approvals: &[Approval]) -> Vec<alloy::primitives::Bytes> {
    let ordered: BTreeMap<_, _> =
        approvals.iter().map(|approval| (*approval.owner.as_bytes(), approval.signature)).collect();
    ordered.into_values().map(|signature| signature.to_vec().into()).collect()
}

fn to_contract(calls: &[Call]) -> Vec<Contract::Call> {
    let one = |call: &Call| Contract::Call {
        to: address(&call.to),
        value: U256::from(call.value),
        data: call.data.clone().into(),
    };
    calls.iter().map(one).collect()
}

fn signed_call(call: &Call) -> signed::Call {
    signed::Call { to: address(&call.to), value: U256::from(call.value), data: call.data.clone().into() }
}

// ------------------------------------------------------------------------------------------------------------ what to do

fn call(to: &EvmAddress, data: Vec<u8>) -> Call {
    Call { to: *to, value: 0, data }
}

/// The vault accepts to be the admin of a contract.
pub fn accept_admin(contract: &EvmAddress) -> Call {
    // All four contracts take this from the same base.
    call(contract, Token::acceptDefaultAdminTransferCall {}.abi_encode())
}

/// A minter may mint so much from now on, in token units. Without delay within its cap.
pub fn mint_allowance(token: &EvmAddress, minter: &EvmAddress, units: u128) -> Call {
    let asked = Token::configureMinterCall { minter: address(minter), allowance_: U256::from(units) };
    call(token, asked.abi_encode())
}

/// Up to what a minter's allowance is set without delay, in token units.
pub fn mint_cap(vault: &EvmAddress, token: &EvmAddress, minter: &EvmAddress, units: u128) -> Call {
    let asked =
        Contract::setMintCapCall { token: address(token), minter: address(minter), cap: U256::from(units) };
    call(vault, asked.abi_encode())
}

/// What of a token (`None`: the chain's own coin) may leave within a day without delay, in its units.
pub fn limit(vault: &EvmAddress, token: Option<&EvmAddress>, units: u128) -> Call {
    let asked = Contract::setLimitCall { token: token.map_or(Address::ZERO, address), perDay: units };
    call(vault, asked.abi_encode())
}

/// A key becomes an owner.
pub fn add_owner(vault: &EvmAddress, owner: &EvmAddress) -> Call {
    call(vault, Contract::addOwnerCall { owner: address(owner) }.abi_encode())
}

/// A key is no owner any more.
pub fn remove_owner(vault: &EvmAddress, owner: &EvmAddress) -> Call {
    call(vault, Contract::removeOwnerCall { owner: address(owner) }.abi_encode())
}

/// That many owners must approve.
pub fn threshold(vault: &EvmAddress, owners: u16) -> Call {
    call(vault, Contract::setThresholdCall { threshold_: owners }.abi_encode())
}

/// Large operations wait that many seconds.
pub fn delay(vault: &EvmAddress, secs: u64) -> Call {
    call(vault, Contract::setDelayCall { delay_: secs }.abi_encode())
}

/// A key gets a role of a contract, such as `FREEZER_ROLE`.
pub fn grant_role(contract: &EvmAddress, name: &str, holder: &EvmAddress) -> Call {
    let asked = Token::grantRoleCall { role: role(name), account: address(holder) };
    call(contract, asked.abi_encode())
}

/// A key loses a role of a contract.
pub fn revoke_role(contract: &EvmAddress, name: &str, holder: &EvmAddress) -> Call {
    let asked = Token::revokeRoleCall { role: role(name), account: address(holder) };
    call(contract, asked.abi_encode())
}

/// Tokens leave the vault. Without delay within the limit of the day.
pub fn transfer(token: &EvmAddress, to: &EvmAddress, units: u128) -> Call {
    let asked = Token::transferCall { to: address(to), value: U256::from(units) };
    call(token, asked.abi_encode())
}

// -------------------------------------------------------------------------------------------------------------- in words

/// Names for addresses, so that a person recognises what a call concerns.
#[derive(Debug, Clone, Default)]
pub struct Names {
    vault: Option<[u8; 20]>,
    names: BTreeMap<[u8; 20], String>,
    tokens: BTreeMap<[u8; 20], (String, u8)>,
}

impl Names {
    /// The names of our contracts.
    pub fn new(vault: &EvmAddress, anchor: Option<&EvmAddress>, sets: &[ContractSet]) -> Self {
        let mut names = Self { vault: Some(*vault.as_bytes()), ..Self::default() };
        names.names.insert(*vault.as_bytes(), "the vault".to_owned());
        if let Some(anchor) = anchor {
            names.names.insert(*anchor.as_bytes(), "the audit anchor".to_owned());
        }
        for set in sets {
            let currency = set.currency;
            for (what, address) in [
                ("token", set.token),
                ("router", set.router),
                ("settlement manager", set.manager),
                ("house wallet", set.house),
            ] {
                names.names.insert(*address.as_bytes(), format!("the {what} of {currency}"));
            }
            names.tokens.insert(*set.token.as_bytes(), (currency.code().to_owned(), set.token_decimals));
        }
        names
    }

    /// What a call does, for a person who is about to sign it. A call that is not known is shown as it is.
    pub fn in_words(&self, call: &Call) -> String {
        let words = self.known(call).unwrap_or_else(|| {
            let data = alloy::hex::encode_prefixed(&call.data);
            if call.data.is_empty() {
                format!("send coins to {}", self.name(&call.to))
            } else {
                format!("call {} with {data}, which FlowBridge does not know", self.name(&call.to))
            }
        });
        if call.value == 0 { words } else { format!("{words}, with {} wei", call.value) }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "every other function of the contract is shown as it is"
    )]
    fn known(&self, call: &Call) -> Option<String> {
        let to = self.name(&call.to);
        let data = call.data.as_slice();
        // What decodes but says more than its words would is shown as it is.
        if self.vault == Some(*call.to.as_bytes()) {
            let known = Contract::MultiSigVaultCalls::abi_decode(data).ok()?;
            return if known.abi_encode() == data { self.of_vault(&known) } else { None };
        }
        if let Some(words) = self.of_manager(call) {
            return Some(words);
        }
        let known = Token::TokenizedCashCalls::abi_decode(data).ok()?;
        if known.abi_encode() != data {
            return None;
        }
        let own = |account: Address| self.name(&evm_address(account));
        match known {
            Token::TokenizedCashCalls::acceptDefaultAdminTransfer(_) => {
                Some(format!("become the admin of {to}"))
            }
            Token::TokenizedCashCalls::beginDefaultAdminTransfer(asked) => {
                Some(format!("begin to make {} the admin of {to}", own(asked.newAdmin)))
            }
            Token::TokenizedCashCalls::configureMinter(asked) => Some(format!(
                "let {} mint {} of {to} from now on",
                own(asked.minter),
                self.amount(&call.to, asked.allowance_)
            )),
            Token::TokenizedCashCalls::removeMinter(asked) => {
                Some(format!("let {} mint and burn {to} no more", own(asked.minter)))
            }
            Token::TokenizedCashCalls::transfer(asked) => {
                Some(format!("send {} of {to} to {}", self.amount(&call.to, asked.value), own(asked.to)))
            }
            Token::TokenizedCashCalls::forcedTransfer(asked) => Some(format!(
                "take {} of {to} from {} by force, for {}",
                self.amount(&call.to, asked.amount),
                own(asked.from),
                own(asked.to)
            )),
            Token::TokenizedCashCalls::grantRole(asked) => {
                Some(format!("give {} the role {} of {to}", own(asked.account), role_name(&asked.role)))
            }
            Token::TokenizedCashCalls::revokeRole(asked) => {
                Some(format!("take the role {} of {to} from {}", role_name(&asked.role), own(asked.account)))
            }
            _ => None,
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "every other function of the contract is shown as it is"
    )]
    fn of_manager(&self, call: &Call) -> Option<String> {
        use manager::SettlementManager::SettlementManagerCalls as Calls;
        let known = Calls::abi_decode(&call.data).ok()?;
        if known.abi_encode() != call.data {
            return None;
        }
        let own = |account: Address| self.name(&evm_address(account));
        match known {
            Calls::releaseQuarantine(asked) => Some(format!(
                "send what waits at {} for {} to {}",
                self.name(&call.to),
                own(asked.wallet),
                own(asked.to)
            )),
            Calls::releaseSurplus(asked) => {
                Some(format!("send what came to {} for no payment to {}", self.name(&call.to), own(asked.to)))
            }
            _ => None,
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "every other function of the contract is shown as it is"
    )]
    fn of_vault(&self, known: &Contract::MultiSigVaultCalls) -> Option<String> {
        use Contract::MultiSigVaultCalls as Calls;
        let own = |account: Address| self.name(&evm_address(account));
        match known {
            Calls::addOwner(asked) => Some(format!("make {} an owner", own(asked.owner))),
            Calls::removeOwner(asked) => Some(format!("{} is no owner any more", own(asked.owner))),
            Calls::setThreshold(asked) => {
                Some(format!("{} owners must approve from now on", asked.threshold_))
            }
            Calls::setDelay(asked) => {
                Some(format!("large operations wait {} seconds from now on", asked.delay_))
            }
            Calls::setLimit(asked) if asked.token.is_zero() => {
                Some(format!("{} wei may leave within a day without delay", asked.perDay))
            }
            Calls::setLimit(asked) => Some(format!(
                "{} of {} may leave within a day without delay",
                self.amount(&evm_address(asked.token), U256::from(asked.perDay)),
                own(asked.token)
            )),
            Calls::setMintCap(asked) => Some(format!(
                "an allowance of {} to mint up to {} of {} needs no delay",
                own(asked.minter),
                self.amount(&evm_address(asked.token), asked.cap),
                own(asked.token)
            )),
            _ => None,
        }
    }

    fn name(&self, address: &EvmAddress) -> String {
        match self.names.get(address.as_bytes()) {
            Some(name) => format!("{name} ({address})"),
            None => address.to_string(),
        }
    }

    fn amount(&self, token: &EvmAddress, units: U256) -> String {
        match self.tokens.get(token.as_bytes()) {
            Some((code, decimals)) => format!("{} {code}", decimal(units, *decimals)),
            None => format!("{units} units"),
        }
    }
}

/// Token units as a decimal number, all decimals shown: nothing is rounded before a signature.
fn decimal(units: U256, decimals: u8) -> String {
    let digits = format!("{units:0>width$}", width = usize::from(decimals) + 1, units = units.to_string());
    let point = digits.len() - usize::from(decimals);
    let (whole, part) = digits.split_at(point);
    if part.is_empty() { whole.to_owned() } else { format!("{whole}.{part}") }
}

/// The roles there are, by what they are called.
pub const ROLES: [&str; 11] = [
    "DEFAULT_ADMIN_ROLE",
    "INITIATOR_ROLE",
    "SETTLER_ROLE",
    "CANCELLER_ROLE",
    "GUARDIAN_ROLE",
    "COMPLIANCE_ROLE",
    "MINTER_ADMIN_ROLE",
    "REGISTRAR_ROLE",
    "FREEZER_ROLE",
    "PAUSER_ROLE",
    "ANCHOR_ROLE",
];

pub(crate) fn role_name(id: &alloy::primitives::B256) -> String {
    let known = ROLES.into_iter().find(|name| role(name) == *id);
    known.map_or_else(|| id.to_string(), str::to_owned)
}
