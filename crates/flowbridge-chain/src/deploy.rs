//! Putting the contracts there, and checking that they are what and where the record says.
//!
//! The manager names the router and the router the manager: the router's address is known before it exists, because it
//! follows from the deployer's next nonce. Every transaction waits for its receipt, so a deployment that fails half-way
//! leaves nothing in use: the record is returned only when all of it is done and has been verified.

use crate::bindings::{address, evm_address, hash, manager, router, token};
use crate::call;
use crate::client::{At, Chain, Receipt};
use crate::error::ChainError;
use crate::log::ContractSet;
use crate::signer::{Key, Unsigned};
use alloy::primitives::{Address, B256, U256, keccak256};
use alloy::sol_types::{SolCall, SolConstructor as _};
use flowbridge_domain::money::Currency;
use flowbridge_domain::party::EvmAddress;
use manager::SettlementManager as Manager;
use router::PaymentRouter as Router;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use token::TokenizedCash as Token;

/// Who may do what, by address. No key holds two of initiator, settler and canceller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roles {
    /// Opens payments.
    pub initiator: String,
    /// Settles, burns, releases.
    pub settler: String,
    /// Cancels.
    pub canceller: String,
    /// Pauses router, manager and token, freezes wallets, releases quarantined tokens.
    pub guardian: String,
    /// Registers wallets.
    pub registrar: String,
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
        let gas = self.chain.estimate(&self.key.address(), to, calldata).await?;
        self.send_with(to, calldata, 0, gas.saturating_add(gas / 4)).await
    }

    /// Sends coins, in wei, and waits until they are there.
    pub async fn send_coins(&self, to: &EvmAddress, wei: u64) -> Result<Receipt, ChainError> {
        self.send_with(Some(to), &[], wei, 21_000).await
    }

    async fn send_with(
        &self,
        to: Option<&EvmAddress>,
        calldata: &[u8],
        value: u64,
        gas_limit: u64,
    ) -> Result<Receipt, ChainError> {
        let nonce = self.chain.nonce(&self.key.address(), At::Pending).await?;
        let fees = self.chain.fees().await?;
        let signed = self.key.sign(&Unsigned {
            chain_id: self.chain_id,
            nonce,
            to,
            calldata,
            value,
            gas_limit,
            fee_per_gas: fees.base.saturating_mul(2).saturating_add(fees.priority),
            priority_fee: fees.priority,
        })?;
        self.chain.send(&signed.raw).await?;
        self.wait(signed.hash).await
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
        for some in wallets.chunks(WALLETS_AT_ONCE_MAX) {
            self.send(Some(&contracts.token), &call::register_wallets(some)).await?;
        }
        Ok(())
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
    let token = create(admin, Token::BYTECODE.as_ref(), &token_arguments(admin, plan)).await?;
    let nonce = chain.nonce(&admin.key.address(), At::Pending).await?;
    let router_to_be = address(&admin.key.address()).create(nonce.saturating_add(1));
    let manager_arguments = Manager::constructorCall {
        token_: address(&token),
        router_: router_to_be,
        house_: address(&plan.house),
        adminDelay: alloy::primitives::Uint::from(plan.admin_delay_secs),
        admin: address(&admin.key.address()),
    };
    let manager = create(admin, Manager::BYTECODE.as_ref(), &manager_arguments.abi_encode()).await?;
    let router_arguments = Router::constructorCall {
        manager_: address(&manager),
        adminDelay: alloy::primitives::Uint::from(plan.admin_delay_secs),
        admin: address(&admin.key.address()),
    };
    let router = create(admin, Router::BYTECODE.as_ref(), &router_arguments.abi_encode()).await?;
    let contracts = ContractSet {
        currency: plan.currency,
        token,
        token_decimals: plan.token_decimals,
        router,
        manager,
        house: plan.house,
    };
    for grant in grants(&plan.roles)? {
        let to = grant.on.of(&contracts);
        // All three contracts take their roles from the same base.
        let calldata =
            Token::grantRoleCall { role: grant.role, account: address(&grant.holder) }.abi_encode();
        admin.send(Some(&to), &calldata).await?;
    }
    // The deployer sets the token up and gives those two roles away again.
    let own_roles = [role("MINTER_ADMIN_ROLE"), role("REGISTRAR_ROLE")];
    let me = address(&admin.key.address());
    for own in own_roles {
        admin.send(Some(&token), &Token::grantRoleCall { role: own, account: me }.abi_encode()).await?;
    }
    let minter =
        Token::configureMinterCall { minter: address(&manager), allowance_: U256::from(plan.mint_allowance) };
    admin.send(Some(&token), &minter.abi_encode()).await?;
    admin.register_wallets(&contracts, &[manager, plan.house]).await?;
    if parse(&plan.roles.registrar)? != admin.key.address() {
        let renounce = Token::revokeRoleCall { role: role("REGISTRAR_ROLE"), account: me };
        admin.send(Some(&token), &renounce.abi_encode()).await?;
    }
    let deployment = Deployment {
        chain_id: admin.chain_id,
        currency: plan.currency.code().to_owned(),
        token_decimals: plan.token_decimals,
        token: deployed(chain, &token).await?,
        router: deployed(chain, &router).await?,
        manager: deployed(chain, &manager).await?,
        house: plan.house.to_string(),
        roles: plan.roles.clone(),
        start_block: start.number,
        start_block_hash: hash(&start.hash).to_string(),
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
    for grant in grants(&deployment.roles)? {
        let asked = Token::hasRoleCall { role: grant.role, account: address(&grant.holder) };
        if !read::<Token::hasRoleCall>(chain, &grant.on.of(&contracts), &asked).await? {
            problems.push(format!("{} has no {} on the {:?}", grant.holder, grant.name, grant.on));
        }
    }
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
    let roles = &deployment.roles;
    if roles.initiator == roles.settler
        || roles.settler == roles.canceller
        || roles.initiator == roles.canceller
    {
        problems.push("one key holds two of initiator, settler and canceller".to_owned());
    }
    Ok(problems)
}

/// The tokens that a wallet has, in token units.
pub async fn balance(
    chain: &dyn Chain,
    contracts: &ContractSet,
    wallet: &EvmAddress,
) -> Result<u64, ChainError> {
    let asked = Token::balanceOfCall { account: address(wallet) };
    let units = read::<Token::balanceOfCall>(chain, &contracts.token, &asked).await?;
    u64::try_from(units).map_err(|_| ChainError::Unreadable("a balance beyond 2^64 token units".into()))
}

/// What the manager may still mint, in token units; saturates.
pub async fn mint_allowance(chain: &dyn Chain, contracts: &ContractSet) -> Result<u64, ChainError> {
    let asked = Token::minterAllowanceCall { minter: address(&contracts.manager) };
    Ok(read::<Token::minterAllowanceCall>(chain, &contracts.token, &asked).await?.saturating_to())
}

#[derive(Debug, Clone, Copy)]
enum On {
    Token,
    Router,
    Manager,
}

impl On {
    const fn of(self, contracts: &ContractSet) -> EvmAddress {
        match self {
            Self::Token => contracts.token,
            Self::Router => contracts.router,
            Self::Manager => contracts.manager,
        }
    }
}

struct Grant {
    on: On,
    name: &'static str,
    role: B256,
    holder: EvmAddress,
}

fn grants(roles: &Roles) -> Result<Vec<Grant>, ChainError> {
    let grant = |on, name, holder: &str| Ok(Grant { on, name, role: role(name), holder: parse(holder)? });
    [
        (On::Router, "INITIATOR_ROLE", &roles.initiator),
        (On::Router, "GUARDIAN_ROLE", &roles.guardian),
        (On::Manager, "SETTLER_ROLE", &roles.settler),
        (On::Manager, "CANCELLER_ROLE", &roles.canceller),
        (On::Manager, "GUARDIAN_ROLE", &roles.guardian),
        (On::Manager, "COMPLIANCE_ROLE", &roles.guardian),
        (On::Token, "FREEZER_ROLE", &roles.guardian),
        (On::Token, "PAUSER_ROLE", &roles.guardian),
        (On::Token, "REGISTRAR_ROLE", &roles.registrar),
    ]
    .into_iter()
    .map(|(on, name, holder)| grant(on, name, holder))
    .collect()
}

fn role(name: &str) -> B256 {
    keccak256(name)
}

fn token_arguments(admin: &Admin<'_>, plan: &Plan) -> Vec<u8> {
    Token::constructorCall {
        name_: format!("FlowBridge {}", plan.currency),
        symbol_: format!("fb{}", plan.currency),
        decimals_: plan.token_decimals,
        adminDelay: alloy::primitives::Uint::from(plan.admin_delay_secs),
        admin: address(&admin.key.address()),
    }
    .abi_encode()
}

async fn create(admin: &Admin<'_>, code: &[u8], arguments: &[u8]) -> Result<EvmAddress, ChainError> {
    let receipt = admin.send(None, &[code, arguments].concat()).await?;
    receipt.created.ok_or_else(|| ChainError::Unreadable("a creation without an address".into()))
}

async fn deployed(chain: &dyn Chain, at: &EvmAddress) -> Result<Deployed, ChainError> {
    let code = chain.code(at).await?;
    Ok(Deployed { address: at.to_string(), code_hash: keccak256(&code).to_string() })
}

async fn read<C: SolCall>(chain: &dyn Chain, at: &EvmAddress, asked: &C) -> Result<C::Return, ChainError> {
    let nobody = EvmAddress::from_bytes([0; 20]);
    let answer = chain.call(&nobody, at, &asked.abi_encode()).await?;
    C::abi_decode_returns(&answer).map_err(|error| ChainError::Unreadable(error.to_string()))
}

async fn read_address<C: SolCall<Return = Address>>(
    chain: &dyn Chain,
    at: &EvmAddress,
    asked: &C,
) -> Result<EvmAddress, ChainError> {
    read(chain, at, asked).await.map(evm_address)
}

fn parse(text: &str) -> Result<EvmAddress, ChainError> {
    EvmAddress::parse(text)
        .map_err(|error| ChainError::Wrong(format!("{text:?} in the deployment record: {error}")))
}
