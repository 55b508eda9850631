//! What can go wrong, by what to do about it.

use crate::bindings::{manager, router, token, vault};
use alloy::sol_types::SolInterface as _;
use std::time::Duration;

/// Why a call to the chain gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The node cannot be reached, is too slow or too busy: try again later. The call may have been carried out.
    #[error("the chain node does not answer: {0}")]
    Unavailable(String),
    /// The node is asked too often: not again before this time has passed.
    #[error("the chain node is asked too often; again in {0:?}")]
    Limited(Duration),
    /// The signer does not sign now: try again later. Nothing was sent.
    #[error("the signer does not sign: {0}")]
    Signer(String),
    /// The node will not answer this: a range too wide, a parameter it does not know.
    #[error("the chain node refuses: {0}")]
    Refused(String),
    /// The endpoint's proxy takes our token, but does not let it ask this: have it allowed there, or ask another endpoint.
    #[error("the chain's endpoint does not allow our token {0} (HTTP 403): have it allowed")]
    Forbidden(&'static str),
    /// The contracts would refuse the transaction; nothing was sent.
    #[error("the contracts refuse: {0}")]
    Reverted(Refusal),
    /// The nonce of a transaction has been used: by an earlier version of it, or by somebody else.
    #[error("the nonce is used")]
    NonceUsed,
    /// The node wants a higher fee for this transaction.
    #[error("the fee is too low")]
    Underpriced,
    /// It is not the chain, or not the contracts, that we were told: a person has to look at the configuration.
    #[error("{0}")]
    Wrong(String),
    /// The chain went back further than we remember it: a person has to look.
    #[error("the chain went back below block {0}, further than reorg_depth_blocks_max")]
    DeepReorg(u64),
    /// Not what a node says.
    #[error("the chain node's answer cannot be read: {0}")]
    Unreadable(String),
}

impl ChainError {
    /// May the same call simply be tried again?
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Limited(_) | Self::Signer(_))
    }
}

/// Why the contracts refuse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A guardian has paused router, manager or token.
    #[error("paused")]
    Paused,
    /// The key lacks the role, or the manager is no minter.
    #[error("the sender lacks the role")]
    NotAllowed,
    /// The manager may not mint that much any more, only so many token units.
    #[error("the mint allowance is used up, but for {0} token units")]
    MintAllowanceExceeded(u64),
    /// The manager's own wallet may not send or receive.
    #[error("the token restricts our own wallets (code {0})")]
    OwnWalletRestricted(u8),
    /// The block time has reached the deadline of the call.
    #[error("too late to initiate")]
    TooLate,
    /// No batch on chain has this root: not there yet, or reorganised away.
    #[error("no such batch on chain")]
    UnknownBatch,
    /// The number of one of its payments has been used.
    #[error("payment number {0} is used")]
    NumberUsed(u64),
    /// One of its payments is not acceptable: expired, most likely.
    #[error("payment number {0} is not acceptable")]
    InvalidPayment(u64),
    /// The vault waits with this operation: it has to be scheduled first.
    #[error("the vault wants this operation scheduled first")]
    NotScheduled,
    /// The vault's delay is not over until this block time.
    #[error("the vault's delay is not over before block time {0}")]
    NotReady(u64),
    /// The vault will not do what it is asked to.
    #[error("the vault refuses: {0}")]
    Vault(String),
    /// It takes more gas, or more of the chain's own resources, than one transaction may: less of it may go through.
    #[error("more than one transaction may take")]
    TooMuch,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// Whom a refusal concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everything of this kind in this currency: wait, and raise an alarm.
    Lane,
    /// This call as a whole, at this time.
    Call,
    /// Some item of it: look for the item.
    Item,
    /// What of it mints more than so many token units: the rest goes through.
    Allowance(u64),
}

impl Refusal {
    /// Whom it concerns.
    pub const fn scope(&self) -> Scope {
        match self {
            Self::Paused | Self::NotAllowed | Self::OwnWalletRestricted(_) => Scope::Lane,
            Self::MintAllowanceExceeded(left) => Scope::Allowance(*left),
            Self::TooLate | Self::UnknownBatch | Self::NotScheduled | Self::NotReady(_) | Self::Vault(_) => {
                Scope::Call
            }
            Self::NumberUsed(_) | Self::InvalidPayment(_) | Self::TooMuch | Self::Other(_) => Scope::Item,
        }
    }

    /// Reads the data of a revert; `message` is what the node says of it.
    pub(crate) fn decode(data: &[u8], message: &str) -> Self {
        use manager::SettlementManager::SettlementManagerErrors as Manager;
        use router::PaymentRouter::PaymentRouterErrors as Router;
        use token::TokenizedCash::TokenizedCashErrors as Token;
        match Router::abi_decode(data) {
            Ok(Router::PaymentRouter__Paused(_)) => return Self::Paused,
            Ok(Router::PaymentRouter__TooLate(_)) => return Self::TooLate,
            Ok(Router::PaymentRouter__NumberUsed(used)) => return Self::NumberUsed(used.number),
            Ok(Router::PaymentRouter__InvalidPayment(invalid)) => {
                return Self::InvalidPayment(invalid.number);
            }
            Ok(Router::AccessControlUnauthorizedAccount(_)) => return Self::NotAllowed,
            Ok(_) | Err(_) => {}
        }
        match Manager::abi_decode(data) {
            Ok(Manager::SettlementManager__Paused(_)) => return Self::Paused,
            Ok(Manager::SettlementManager__UnknownBatch(_)) => return Self::UnknownBatch,
            Ok(_) | Err(_) => {}
        }
        if let Ok(refusal) = vault::MultiSigVault::MultiSigVaultErrors::abi_decode(data)
            && let Some(refusal) = of_vault(&refusal)
        {
            return refusal;
        }
        match Token::abi_decode(data) {
            Ok(Token::TokenizedCash__TransferRestricted(restricted)) if restricted.code == 1 => Self::Paused,
            Ok(Token::TokenizedCash__TransferRestricted(restricted)) => {
                Self::OwnWalletRestricted(restricted.code)
            }
            Ok(Token::TokenizedCash__MintAllowanceExceeded(exceeded)) => {
                Self::MintAllowanceExceeded(u64::try_from(exceeded.allowance).unwrap_or(u64::MAX))
            }
            Ok(Token::TokenizedCash__SupplyExceeded(_)) => Self::MintAllowanceExceeded(0),
            Ok(Token::TokenizedCash__NotMinter(_)) => Self::NotAllowed,
            Ok(_) | Err(_) => Self::Other(message.chars().take(200).collect()),
        }
    }
}

/// What the vault refuses, in words. What it merely passes on from elsewhere is `None`.
#[expect(clippy::wildcard_enum_match_arm, reason = "errors of the libraries below have no words of ours")]
fn of_vault(refusal: &vault::MultiSigVault::MultiSigVaultErrors) -> Option<Refusal> {
    use vault::MultiSigVault::MultiSigVaultErrors as Vault;
    let words = match refusal {
        Vault::MultiSigVault__NotScheduled(_) => return Some(Refusal::NotScheduled),
        Vault::MultiSigVault__NotReady(wait) => return Some(Refusal::NotReady(wait.readyAt)),
        Vault::MultiSigVault__AlreadyScheduled(_) => "an operation waits already".to_owned(),
        Vault::MultiSigVault__NotEnoughApprovals(count) => {
            format!("{} approvals are given, {} are needed", count.given, count.needed)
        }
        Vault::MultiSigVault__NotAnOwnerOrOutOfOrder(by) => {
            format!(
                "a signature is by {}, who is no owner, or not over this motion under this nonce",
                by.signer
            )
        }
        Vault::MultiSigVault__TooLate(late) => {
            format!(
                "its deadline, block time {}, has passed, or will have before the delay is over: propose it anew, under the same nonce (--nonce), with a later one",
                late.deadline
            )
        }
        Vault::MultiSigVault__CallFailed(failed) => {
            let why = Refusal::decode(&failed.reason, "it gave no reason of ours");
            format!("call {} would fail: {why}", failed.index)
        }
        Vault::MultiSigVault__OnlySelf(_) => "only an operation of the vault may do that".to_owned(),
        Vault::MultiSigVault__InvalidSettings(_) => {
            "owners, threshold or delay would make no sense".to_owned()
        }
        _ => return None,
    };
    Some(Refusal::Vault(words))
}
