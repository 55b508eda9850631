//! Putting the contracts there, and checking that they are what and where the record says.
//!
//! The manager names the router and the router the manager: addresses are known before the contracts exist, because they
//! follow from the deployer's nonces. Calls that do not depend on one another share a block, and all are waited for: a
//! deployment that fails half-way leaves nothing in use, because the record is returned only when all of it is verified.

use crate::bindings::{address, evm_address, hash, manager, router, token};
use crate::call;
use crate::client::{At, Chain, Fees, Receipt};
use crate::error::ChainError;
use crate::governance::Governance;
use crate::log::ContractSet;
use crate::signer::{Key, Unsigned};
use alloy::primitives::{Address, B256, U256, keccak256};
use alloy::sol_types::{SolCall, SolConstructor as _};
use flowbridge_domain::money::Currency;
use flowbridge_domain::party::EvmAddress;
use manager::SettlementManager as Manager;
use router::PaymentRouter as Router;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;
use token::TokenizedCash as Token;

/// Who may do what, by address. No key holds two of initiator, settler and canceller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roles {
    /// Opens payments.
    pub initiator: String,
    /// Settles, burns, releases.
    pub settler: String,
    /// Cancels.
    pub canceller: String,
    /// Pauses router, manager and token, and freezes wallets.
    pub guardian: String,
    /// Forces transfers, and says where quarantined and stray tokens go: a key beside the vault, which may do so wherever there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compliance: Option<String>,
    /// Registers wallets.
    pub registrar: String,
    /// More keys that open payments, for lanes beside the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further_initiators: Vec<String>,
    /// More keys that settle.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further_settlers: Vec<String>,
    /// More keys that cancel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further_cancellers: Vec<String>,
}

/// What to deploy for one currency.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The currency.
    pub currency: Currency,
    /// The token's decimals; at least the currency's.
    pub token_decimals: u8,
    /// Where fees go.
    pub house: EvmAddress,
    /// Who may do what.
    pub roles: Roles,
    /// What the manager may mint, in token units.
    pub mint_allowance: u64,
    /// How long a change of the admin takes, in seconds.
    pub admin_delay_secs: u32,
}

/// The record of one deployment: what the other roles read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The currency's code.
    pub currency: String,
    /// The token's decimals.
    pub token_decimals: u8,
    /// `TokenizedCash`.
    pub token: Deployed,
    /// `PaymentRouter`.
    pub router: Deployed,
    /// `SettlementManager`.
    pub manager: Deployed,
    /// Where fees go.
    pub house: String,
    /// Who may do what.
    pub roles: Roles,
    /// The block before the first contract: where a watcher begins.
    pub start_block: u64,
    /// Its hash.
    pub start_block_hash: String,
    /// The vault that governs it, and where the audit log is pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub governance: Option<Governance>,
}

/// One contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployed {
    /// Where it is.
    pub address: String,
    /// keccak256 of its code there.
    pub code_hash: String,
}

impl Deployment {
    /// The contracts' addresses as types.
    pub fn contracts(&self) -> Result<ContractSet, ChainError> {
        Ok(ContractSet {
            currency: Currency::parse(&self.currency)
                .map_err(|error| ChainError::Wrong(error.to_string()))?,
            token: parse(&self.token.address)?,
            token_decimals: self.token_decimals,
            router: parse(&self.router.address)?,
            manager: parse(&self.manager.address)?,
            house: parse(&self.house)?,
        })
    }

    /// The block before the first contract: number and hash.
    pub fn start(&self) -> Result<(u64, [u8; 32]), ChainError> {
        let hash: B256 = self
            .start_block_hash
            .parse()
            .map_err(|_| ChainError::Wrong("start_block_hash in the deployment record is no hash".into()))?;
        Ok((self.start_block, hash.0))
    }
}

/// Sends transactions one after the other and waits for each: for set-up and administration, not for payments.
#[derive(Debug)]
pub struct Admin<'a> {
    /// The node.
    pub chain: &'a dyn Chain,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Who signs.
    pub key: &'a Key,
    /// How long to wait for a receipt.
    pub patience: Duration,
}

impl Admin<'_> {
    /// Sends a call and waits until it is included. A call that the contracts would refuse is not sent.
    pub async fn send(&self, to: Option<&EvmAddress>, calldata: &[u8]) -> Result<Receipt, ChainError> {
        let mut receipts = self.send_all(&[(to.copied(), calldata.to_vec())]).await?;
        receipts.pop().ok_or_else(|| ChainError::Unreadable("a call without a receipt".into()))
    }

    /// Sends calls that do not depend on one another, so that they share a block, and waits until all are included. None
    /// is sent if the contracts would refuse one.
    pub async fn send_all(
        &self,
        calls: &[(Option<EvmAddress>, Vec<u8>)],
    ) -> Result<Vec<Receipt>, ChainError> {
        let mut gas_limits = Vec::with_capacity(calls.len());
        for (to, calldata) in calls {
            let gas = self.chain.estimate(&self.key.address(), to.as_ref(), calldata).await?;
            gas_limits.push(gas.saturating_add(gas / 4));
        }
        let first = self.chain.nonce(&self.key.address(), At::Pending).await?;
        let fees = self.chain.fees().await?;
        let mut hashes = Vec::with_capacity(calls.len());
        for ((nonce, (to, calldata)), gas_limit) in (first..).zip(calls).zip(gas_limits) {
            let unsigned = self.unsigned(nonce, fees, gas_limit);
            hashes.push(self.broadcast(&Unsigned { to: to.as_ref(), calldata, ..unsigned }).await?);
        }
        let mut receipts = Vec::with_capacity(hashes.len());
        for hash in hashes {
            receipts.push(self.wait(hash).await?);
        }
        Ok(receipts)
    }

    /// Sends the same amount of coins, in wei, to each, and waits until they are there: what a wallet needs to pay for
    /// transactions of its own.
    pub async fn send_coins(&self, to: &[EvmAddress], wei: u64) -> Result<(), ChainError> {
        let first = self.chain.nonce(&self.key.address(), At::Pending).await?;
        let fees = self.chain.fees().await?;
        let mut hashes = Vec::with_capacity(to.len());
        for (nonce, to) in (first..).zip(to) {
            let unsigned = self.unsigned(nonce, fees, 21_000);
            hashes.push(self.broadcast(&Unsigned { to: Some(to), value: wei, ..unsigned }).await?);
        }
        for hash in hashes {
            self.wait(hash).await?;
        }
        Ok(())
    }

    const fn unsigned(&self, nonce: u64, fees: Fees, gas_limit: u64) -> Unsigned<'static> {
        Unsigned {
            chain_id: self.chain_id,
            nonce,
            to: None,
            calldata: &[],
            value: 0,
            gas_limit,
            fee_per_gas: fees.base.saturating_mul(2).saturating_add(fees.priority),
            priority_fee: fees.priority,
        }
    }

    async fn broadcast(&self, unsigned: &Unsigned<'_>) -> Result<[u8; 32], ChainError> {
        let signed = self.key.sign(unsigned)?;
        self.chain.send(&signed.raw).await?;
        Ok(signed.hash)
    }

    async fn wait(&self, tx_hash: [u8; 32]) -> Result<Receipt, ChainError> {
        let included = async {
            loop {
                if let Some(receipt) = self.chain.receipt(tx_hash).await? {
                    return Ok::<_, ChainError>(receipt);
                }
                tokio::time::sleep(RECEIPT_POLL).await;
            }
        };
        let receipt = tokio::time::timeout(self.patience, included).await.map_err(|_| {
            ChainError::Unavailable(format!("{} is in no block after {:?}", hash(&tx_hash), self.patience))
        })??;
        if receipt.succeeded {
            Ok(receipt)
        } else {
            Err(ChainError::Wrong(format!("{} was reverted", hash(&tx_hash))))
        }
    }

    /// Lets wallets hold the token; for the registrar's key.
    pub async fn register_wallets(
        &self,
        contracts: &ContractSet,
        wallets: &[EvmAddress],
    ) -> Result<(), ChainError> {
        let calls: Vec<_> = wallets
            .chunks(WALLETS_AT_ONCE_MAX)
            .map(|some| (Some(contracts.token), call::register_wallets(some)))
            .collect();
        self.send_all(&calls).await.map(drop)
    }
}

const RECEIPT_POLL: Duration = Duration::from_millis(50);
const WALLETS_AT_ONCE_MAX: usize = 200;

/// Deploys the contracts of one currency, gives out the roles, and verifies the result.
pub async fn deploy(admin: &Admin<'_>, plan: &Plan) -> Result<Deployment, ChainError> {
    if plan.token_decimals < plan.currency.scale() {
        return Err(ChainError::Wrong(format!(
            "a token of {} needs at least {} decimals",
            plan.currency,
            plan.currency.scale()
        )));
    }
    let chain = admin.chain;
    let start = chain
        .block(At::Latest)
        .await?
        .ok_or_else(|| ChainError::Unreadable("the chain has no newest block".into()))?;
    let contracts = create(admin, plan).await?;
    let me = address(&admin.key.address());
    let on_token = |calldata: Vec<u8>| (Some(contracts.token), calldata);
    let mut granted: Vec<_> = grants(&plan.roles)?
        .into_iter()
        .map(|grant| {
            // All three contracts take their roles from the same base.
            let call = Token::grantRoleCall { role: grant.role, account: address(&grant.holder) };
            (Some(grant.on.of(&contracts)), call.abi_encode())
        })
        .collect();
    // The deployer sets the token up, and gives up the roles for that again.
    let own = ["MINTER_ADMIN_ROLE", "REGISTRAR_ROLE"].map(role);
    granted.extend(own.map(|role| on_token(Token::grantRoleCall { role, account: me }.abi_encode())));
    admin.send_all(&granted).await?;
    let minter = Token::configureMinterCall {
        minter: address(&contracts.manager),
        allowance_: U256::from(plan.mint_allowance),
    };
    let wallets = call::register_wallets(&[contracts.manager, plan.house]);
    admin.send_all(&[on_token(minter.abi_encode()), on_token(wallets)]).await?;
    let is_registrar = parse(&plan.roles.registrar)? == admin.key.address();
    let given_up: Vec<_> = own
        .into_iter()
        .filter(|own| !(is_registrar && *own == role("REGISTRAR_ROLE")))
        .map(|role| on_token(Token::revokeRoleCall { role, account: me }.abi_encode()))
        .collect();
    admin.send_all(&given_up).await?;
    let deployment = Deployment {
        chain_id: admin.chain_id,
        currency: plan.currency.code().to_owned(),
        token_decimals: plan.token_decimals,
        token: deployed(chain, &contracts.token).await?,
        router: deployed(chain, &contracts.router).await?,
        manager: deployed(chain, &contracts.manager).await?,
        house: plan.house.to_string(),
        roles: plan.roles.clone(),
        start_block: start.number,
        start_block_hash: hash(&start.hash).to_string(),
        governance: None,
    };
    let problems = verify(chain, &deployment).await?;
    if problems.is_empty() {
        Ok(deployment)
    } else {
        Err(ChainError::Wrong(format!("the deployment is not sound: {}", problems.join("; "))))
    }
}

/// Compares a record with the chain. Returns what does not fit; nothing means that all does.
pub async fn verify(chain: &dyn Chain, deployment: &Deployment) -> Result<Vec<String>, ChainError> {
    let problems = verify_contracts(chain, deployment).await?;
    if !problems.is_empty() {
        // What is not the contract of the record is not asked who may do what.
        return Ok(problems);
    }
    verify_powers(chain, deployment).await
}

/// The part of it that never changes: each contract at its address, with its code, knowing the others. Where that does not fit,
/// nothing can be done with them.
pub async fn verify_contracts(chain: &dyn Chain, deployment: &Deployment) -> Result<Vec<String>, ChainError> {
    let mut problems = Vec::new();
    let chain_id = chain.chain_id().await?;
    if chain_id != deployment.chain_id {
        return Ok(vec![format!(
            "the node serves chain {chain_id}, the record is of {}",
            deployment.chain_id
        )]);
    }
    let contracts = deployment.contracts()?;
    for (name, deployed) in
        [("token", &deployment.token), ("router", &deployment.router), ("manager", &deployment.manager)]
    {
        let code = chain.code(&parse(&deployed.address)?).await?;
        if code.is_empty() {
            return Ok(vec![format!("there is no code at the {name}'s address {}", deployed.address)]);
        }
        if keccak256(&code).to_string() != deployed.code_hash {
            problems.push(format!("the code at the {name}'s address {} is another", deployed.address));
        }
    }
    let links = [
        (
            "the manager's token",
            read_address::<Manager::tokenCall>(chain, &contracts.manager, &Manager::tokenCall {}).await?,
            contracts.token,
        ),
        (
            "the manager's router",
            read_address::<Manager::routerCall>(chain, &contracts.manager, &Manager::routerCall {}).await?,
            contracts.router,
        ),
        (
            "the manager's house",
            read_address::<Manager::houseCall>(chain, &contracts.manager, &Manager::houseCall {}).await?,
            contracts.house,
        ),
        (
            "the router's manager",
            read_address::<Router::managerCall>(chain, &contracts.router, &Router::managerCall {}).await?,
            contracts.manager,
        ),
    ];
    for (what, found, expected) in links {
        if found != expected {
            problems.push(format!("{what} is {found}, not {expected}"));
        }
    }
    Ok(problems)
}

/// The part of it that people change while payments go on: the holders of the roles, the right to mint, the standing of our own
/// wallets. A record that lags behind them stops nobody; what is missing is found out by whoever needs it.
pub async fn verify_powers(chain: &dyn Chain, deployment: &Deployment) -> Result<Vec<String>, ChainError> {
    let contracts = deployment.contracts()?;
    let lacking = lacking(chain, &contracts, grants(&deployment.roles)?).await?;
    let mut problems: Vec<String> = lacking.iter().map(ToString::to_string).collect();
    let minter = Token::isMinterCall { minter: address(&contracts.manager) };
    if !read::<Token::isMinterCall>(chain, &contracts.token, &minter).await? {
        problems.push("the manager may not mint".to_owned());
    }
    for (what, wallet) in [("manager", contracts.manager), ("house", contracts.house)] {
        let asked = Token::isInGoodStandingCall { wallet: address(&wallet) };
        if !read::<Token::isInGoodStandingCall>(chain, &contracts.token, &asked).await? {
            problems.push(format!("the {what}'s wallet is not registered, or frozen"));
        }
    }
    problems.extend(one_for_two(&deployment.roles));
    Ok(problems)
}

/// What keeps the keys that are to sign for the lanes, those of `roles`, from doing so, each with its remedy.
pub async fn verify_lanes(
    chain: &dyn Chain,
    contracts: &ContractSet,
    roles: &Roles,
) -> Result<Vec<String>, ChainError> {
    let lacking = lacking(chain, contracts, lane_grants(roles)?).await?;
    let with_remedy = lacking.iter().map(|grant| {
        format!(
            "{grant}: the owners grant it (flowbridge vault propose grant-role \
             --contract {} --role {} --holder {}), or its lane gets a key that has it",
            grant.on.of(contracts),
            grant.name,
            grant.holder
        )
    });
    Ok(with_remedy.chain(one_for_two(roles)).collect())
}

/// No key may do the work of two duties.
fn one_for_two(roles: &Roles) -> Option<String> {
    let is_shared = roles.initiator == roles.settler
        || roles.settler == roles.canceller
        || roles.initiator == roles.canceller;
    is_shared.then(|| "one key holds two of initiator, settler and canceller".to_owned())
}

/// Those that the chain does not know of.
async fn lacking(
    chain: &dyn Chain,
    contracts: &ContractSet,
    grants: Vec<Grant>,
) -> Result<Vec<Grant>, ChainError> {
    let mut lacking = Vec::new();
    for grant in grants {
        if !is_held(chain, contracts, &grant).await? {
            lacking.push(grant);
        }
    }
    Ok(lacking)
}

pub(crate) async fn is_held(
    chain: &dyn Chain,
    contracts: &ContractSet,
    grant: &Grant,
) -> Result<bool, ChainError> {
    let asked = Token::hasRoleCall { role: grant.role, account: address(&grant.holder) };
    read(chain, &grant.on.of(contracts), &asked).await
}

/// The tokens that a wallet has, in token units.
pub async fn balance(
    chain: &dyn Chain,
    contracts: &ContractSet,
    wallet: &EvmAddress,
) -> Result<u64, ChainError> {
    let asked = Token::balanceOfCall { wallet: address(wallet) };
    let units = read::<Token::balanceOfCall>(chain, &contracts.token, &asked).await?;
    u64::try_from(units).map_err(|_| ChainError::Unreadable("a balance beyond 2^64 token units".into()))
}

/// What the manager may still mint, in token units; saturates.
pub async fn mint_allowance(chain: &dyn Chain, contracts: &ContractSet) -> Result<u64, ChainError> {
    let asked = Token::minterAllowanceCall { minter: address(&contracts.manager) };
    Ok(read::<Token::minterAllowanceCall>(chain, &contracts.token, &asked).await?.saturating_to())
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum On {
    Token,
    Router,
    Manager,
}

impl On {
    pub(crate) const fn of(self, contracts: &ContractSet) -> EvmAddress {
        match self {
            Self::Token => contracts.token,
            Self::Router => contracts.router,
            Self::Manager => contracts.manager,
        }
    }
}

pub(crate) struct Grant {
    pub(crate) on: On,
    pub(crate) name: &'static str,
    pub(crate) role: B256,
    pub(crate) holder: EvmAddress,
}

/// A role that is missing.
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has no {} on the {:?}", self.holder, self.name, self.on)
    }
}

pub(crate) fn grants(roles: &Roles) -> Result<Vec<Grant>, ChainError> {
    let others = [
        (On::Router, "GUARDIAN_ROLE", &roles.guardian),
        (On::Manager, "GUARDIAN_ROLE", &roles.guardian),
        (On::Token, "FREEZER_ROLE", &roles.guardian),
        (On::Token, "PAUSER_ROLE", &roles.guardian),
        (On::Token, "REGISTRAR_ROLE", &roles.registrar),
    ];
    let mut grants = lane_grants(roles)?;
    for (on, name, holder) in others {
        grants.push(grant(on, name, holder)?);
    }
    grants.extend(compliance_grants(roles)?);
    Ok(grants)
}

/// Of the key beside the vault, if there is one.
pub(crate) fn compliance_grants(roles: &Roles) -> Result<Vec<Grant>, ChainError> {
    let on_both = |holder: &String| [On::Token, On::Manager].map(|on| grant(on, "COMPLIANCE_ROLE", holder));
    roles.compliance.iter().flat_map(on_both).collect()
}

/// What the vault holds of a currency's contracts, beside the admin's place.
pub(crate) fn vault_grants(vault: &EvmAddress) -> [Grant; 3] {
    let held =
        [(On::Token, "MINTER_ADMIN_ROLE"), (On::Token, "COMPLIANCE_ROLE"), (On::Manager, "COMPLIANCE_ROLE")];
    held.map(|(on, name)| Grant { on, name, role: role(name), holder: *vault })
}

/// Of the keys that sign for the lanes.
fn lane_grants(roles: &Roles) -> Result<Vec<Grant>, ChainError> {
    let lanes = [
        (On::Router, "INITIATOR_ROLE", &roles.initiator, &roles.further_initiators),
        (On::Manager, "SETTLER_ROLE", &roles.settler, &roles.further_settlers),
        (On::Manager, "CANCELLER_ROLE", &roles.canceller, &roles.further_cancellers),
    ];
    let of_lanes = lanes.into_iter().flat_map(|(on, name, first, further)| {
        std::iter::once(first).chain(further).map(move |holder| grant(on, name, holder))
    });
    of_lanes.collect()
}

fn grant(on: On, name: &'static str, holder: &str) -> Result<Grant, ChainError> {
    Ok(Grant { on, name, role: role(name), holder: parse(holder)? })
}

/// A role's id. The admin's is zero.
pub(crate) fn role(name: &str) -> B256 {
    if name == "DEFAULT_ADMIN_ROLE" { B256::ZERO } else { keccak256(name) }
}

/// The three contracts, in one go: their addresses follow from the deployer's nonces, so each can name the others.
async fn create(admin: &Admin<'_>, plan: &Plan) -> Result<ContractSet, ChainError> {
    let me = address(&admin.key.address());
    let first = admin.chain.nonce(&admin.key.address(), At::Pending).await?;
    let [token, manager, router] = [0, 1, 2].map(|later| me.create(first.saturating_add(later)));
    let admin_delay = alloy::primitives::Uint::from(plan.admin_delay_secs);
    let token_arguments = Token::constructorCall {
        name_: format!("FlowBridge {}", plan.currency),
        symbol_: format!("fb{}", plan.currency),
        decimals_: plan.token_decimals,
        adminDelay: admin_delay,
        admin: me,
    };
    let manager_arguments = Manager::constructorCall {
        token_: token,
        router_: router,
        house_: address(&plan.house),
        adminDelay: admin_delay,
        admin: me,
    };
    let router_arguments = Router::constructorCall { manager_: manager, adminDelay: admin_delay, admin: me };
    let creation =
        |code: &alloy::primitives::Bytes, arguments: Vec<u8>| (None, [code.to_vec(), arguments].concat());
    let receipts = admin
        .send_all(&[
            creation(&Token::BYTECODE, token_arguments.abi_encode()),
            creation(&Manager::BYTECODE, manager_arguments.abi_encode()),
            creation(&Router::BYTECODE, router_arguments.abi_encode()),
        ])
        .await?;
    let created: Vec<_> = receipts.iter().map(|receipt| receipt.created).collect();
    let expected = [token, manager, router].map(|contract| Some(evm_address(contract)));
    if created != expected {
        return Err(ChainError::Wrong(
            "somebody else used the deployer's key meanwhile; deploy again".into(),
        ));
    }
    Ok(ContractSet {
        currency: plan.currency,
        token: evm_address(token),
        token_decimals: plan.token_decimals,
        router: evm_address(router),
        manager: evm_address(manager),
        house: plan.house,
    })
}

pub(crate) async fn deployed(chain: &dyn Chain, at: &EvmAddress) -> Result<Deployed, ChainError> {
    let code = chain.code(at).await?;
    Ok(Deployed { address: at.to_string(), code_hash: keccak256(&code).to_string() })
}

pub(crate) async fn read<C: SolCall>(
    chain: &dyn Chain,
    contract: &EvmAddress,
    asked: &C,
) -> Result<C::Return, ChainError> {
    read_at(chain, contract, asked, At::Latest).await
}

pub(crate) async fn read_at<C: SolCall>(
    chain: &dyn Chain,
    contract: &EvmAddress,
    asked: &C,
    at: At,
) -> Result<C::Return, ChainError> {
    let nobody = EvmAddress::from_bytes([0; 20]);
    let answer = chain.call(&nobody, contract, &asked.abi_encode(), at).await?;
    C::abi_decode_returns(&answer).map_err(|error| ChainError::Unreadable(error.to_string()))
}

pub(crate) async fn read_address<C: SolCall<Return = Address>>(
    chain: &dyn Chain,
    at: &EvmAddress,
    asked: &C,
) -> Result<EvmAddress, ChainError> {
    read(chain, at, asked).await.map(evm_address)
}

pub(crate) fn parse(text: &str) -> Result<EvmAddress, ChainError> {
    EvmAddress::parse(text)
        .map_err(|error| ChainError::Wrong(format!("{text:?} in the deployment record: {error}")))
}
