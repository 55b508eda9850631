//! Who governs the contracts: the vault and the audit log's anchor put there, the rights handed over, and all of it checked.
//!
//! Rights change hands in two steps that nobody can be tricked into: the deployer offers ([`hand_over`]) and gives up what the
//! vault now has, and the owners accept by a motion of their own ([`take_over`]), after the delays of both. [`verify`] compares
//! every address, every byte of code and every role with the record and with the artifacts of this build, and says in words
//! what is off. It reads the history of roles from the chain, so a role that was given to somebody unknown does not hide.

use crate::bindings::{address, anchor, evm_address, token, vault};
use crate::client::{At, Chain};
use crate::deploy::{Admin, Deployed, Deployment, deployed, grants, parse, read, read_address, role};
use crate::error::ChainError;
use crate::log::ContractSet;
use crate::vault::{self as motions, Act, ROLES, Vault};
use alloy::primitives::{Address, B256, keccak256};
use alloy::sol_types::{SolCall as _, SolConstructor as _, SolEvent as _};
use anchor::AuditAnchor as Anchor;
use flowbridge_domain::party::EvmAddress;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use token::TokenizedCash as Token;
use vault::MultiSigVault as Contract;

/// What the code of each contract is once it is deployed, with zeros where its immutable values are filled in.
const RUNTIME: &str = include_str!("../../../contracts/artifacts/runtime.json");
/// Blocks whose logs are asked for at once when roles are read.
const STRETCH_BLOCKS_MAX: u64 = 1_000;

/// What to deploy, once for all currencies.
#[derive(Debug, Clone)]
pub struct GovernancePlan {
    /// The owners' keys, by address.
    pub owners: Vec<EvmAddress>,
    /// How many of them must approve.
    pub threshold: u16,
    /// Seconds that a large operation of the vault waits.
    pub delay_secs: u64,
    /// Who pins the audit log.
    pub anchorer: EvmAddress,
    /// How long a change of the anchor's admin takes, in seconds.
    pub admin_delay_secs: u32,
}

/// The record of it: beside each currency's contracts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Governance {
    /// `MultiSigVault`.
    pub vault: Deployed,
    /// `AuditAnchor`.
    pub anchor: Deployed,
    /// The owners' keys, by address.
    pub owners: Vec<String>,
    /// How many of them must approve.
    pub threshold: u16,
    /// Who pins the audit log.
    pub anchorer: String,
    /// Who deployed it all, and was the first admin.
    pub deployer: String,
    /// The block before vault and anchor.
    pub start_block: u64,
}

impl Governance {
    /// The vault's address.
    pub fn vault_address(&self) -> Result<EvmAddress, ChainError> {
        parse(&self.vault.address)
    }

    /// The anchor's address.
    pub fn anchor_address(&self) -> Result<EvmAddress, ChainError> {
        parse(&self.anchor.address)
    }
}

/// Deploys vault and anchor, and offers the vault to be the anchor's admin.
pub async fn deploy(admin: &Admin<'_>, plan: &GovernancePlan) -> Result<Governance, ChainError> {
    let distinct: BTreeSet<_> = plan.owners.iter().map(EvmAddress::as_bytes).collect();
    if distinct.len() != plan.owners.len()
        || plan.threshold == 0
        || usize::from(plan.threshold) > distinct.len()
    {
        return Err(ChainError::Wrong(format!(
            "{} of {} owners cannot be: each owner is named once, and at least one and at most all of them must approve",
            plan.threshold,
            plan.owners.len()
        )));
    }
    let start_block = admin.chain.block(At::Latest).await?.map_or(0, |block| block.number);
    let me = address(&admin.key.address());
    let vault = Contract::constructorCall {
        owners_: plan.owners.iter().map(address).collect(),
        threshold_: plan.threshold,
        delay_: plan.delay_secs,
    };
    let anchor = Anchor::constructorCall {
        adminDelay: alloy::primitives::Uint::from(plan.admin_delay_secs),
        admin: me,
    };
    let creation =
        |code: &alloy::primitives::Bytes, arguments: Vec<u8>| (None, [code.to_vec(), arguments].concat());
    let receipts = admin
        .send_all(&[
            creation(&Contract::BYTECODE, vault.abi_encode()),
            creation(&Anchor::BYTECODE, anchor.abi_encode()),
        ])
        .await?;
    let created: Vec<EvmAddress> = receipts.iter().filter_map(|receipt| receipt.created).collect();
    let [vault, anchor] = created.as_slice() else {
        return Err(ChainError::Unreadable("a creation without an address".into()));
    };
    let grant = Anchor::grantRoleCall { role: role("ANCHOR_ROLE"), account: address(&plan.anchorer) };
    let offer = Anchor::beginDefaultAdminTransferCall { newAdmin: address(vault) };
    admin.send_all(&[(Some(*anchor), grant.abi_encode()), (Some(*anchor), offer.abi_encode())]).await?;
    Ok(Governance {
        vault: deployed(admin.chain, vault).await?,
        anchor: deployed(admin.chain, anchor).await?,
        owners: plan.owners.iter().map(ToString::to_string).collect(),
        threshold: plan.threshold,
        anchorer: plan.anchorer.to_string(),
        deployer: admin.key.address().to_string(),
        start_block,
    })
}

/// Makes the vault the mint admin of a currency's token, and offers it to be the admin of its contracts. The owners accept
/// with [`take_over`].
pub async fn hand_over(
    admin: &Admin<'_>,
    contracts: &ContractSet,
    governance: &Governance,
) -> Result<(), ChainError> {
    let vault = address(&governance.vault_address()?);
    let mints = Token::grantRoleCall { role: role("MINTER_ADMIN_ROLE"), account: vault };
    let offer = Token::beginDefaultAdminTransferCall { newAdmin: vault };
    // All three take this from the same base.
    let offers =
        [contracts.token, contracts.router, contracts.manager].map(|on| (Some(on), offer.abi_encode()));
    let calls: Vec<_> = offers.into_iter().chain([(Some(contracts.token), mints.abi_encode())]).collect();
    admin.send_all(&calls).await.map(drop)
}

/// The owners' first motion: accept every admin's place that is offered, and set within what the manager may be allowed to
/// mint without delay. Places that the vault has already are left out.
pub async fn take_over(
    chain: &dyn Chain,
    contracts: &ContractSet,
    governance: &Governance,
    mint_cap: u128,
) -> Result<Act, ChainError> {
    let vault = governance.vault_address()?;
    let mut calls = Vec::new();
    for contract in [contracts.token, contracts.router, contracts.manager, governance.anchor_address()?] {
        if admin_of(chain, &contract).await? != vault {
            calls.push(motions::accept_admin(&contract));
        }
    }
    calls.push(motions::mint_cap(&vault, &contracts.token, &contracts.manager, mint_cap));
    Ok(Act::Operate(calls))
}

/// Whoever has the admin's place of one of our contracts.
pub async fn admin_of(chain: &dyn Chain, contract: &EvmAddress) -> Result<EvmAddress, ChainError> {
    read_address(chain, contract, &Token::defaultAdminCall {}).await
}

/// Carries a motion out on the spot, with owners' keys at hand and no delay: for a development chain.
pub async fn carry_out(
    admin: &Admin<'_>,
    vault: &Vault,
    act: Act,
    owners: &[crate::signer::Key],
) -> Result<(), ChainError> {
    let state = vault.state().await?;
    let motion =
        motions::Motion { nonce: state.nonce, deadline: state.block_time.saturating_add(3_600), act };
    let digest = vault.digest(&motion);
    let approvals = owners
        .iter()
        .map(|key| Ok(motions::Approval { owner: key.address(), signature: key.sign_recoverably(&digest)? }))
        .collect::<Result<Vec<_>, ChainError>>()?;
    if let Some(schedule) = motions::schedule(&motion, &approvals) {
        admin.send(Some(&vault.address), &schedule).await?;
    }
    admin.send(Some(&vault.address), &motions::execute(&motion, &approvals)).await.map(drop)
}

/// Compares a whole deployment with the chain and with the artifacts of this build. Returns what is off, in words; nothing
/// means that all is as it should be. Reads every log of the contracts since they were deployed.
pub async fn verify(chain: &dyn Chain, deployment: &Deployment) -> Result<Vec<String>, ChainError> {
    let mut problems = crate::deploy::verify(chain, deployment).await?;
    let contracts = deployment.contracts()?;
    let Some(governance) = &deployment.governance else {
        if !problems.is_empty() {
            return Ok(problems);
        }
        problems.push(format!(
            "no vault governs the contracts of {}: their admin is {}, a single key",
            deployment.currency,
            admin_of(chain, &contracts.token).await?
        ));
        return Ok(problems);
    };
    let (vault, anchor) = (governance.vault_address()?, governance.anchor_address()?);
    let mut strange = Vec::new();
    for (name, artifact, deployed) in [
        ("token", "TokenizedCash", &deployment.token),
        ("router", "PaymentRouter", &deployment.router),
        ("manager", "SettlementManager", &deployment.manager),
        ("vault", "MultiSigVault", &governance.vault),
        ("anchor", "AuditAnchor", &governance.anchor),
    ] {
        strange.extend(code_problem(chain, name, artifact, deployed).await?);
    }
    if !strange.is_empty() {
        // What is no contract of ours cannot be asked who governs it.
        problems.extend(strange);
        return Ok(problems);
    }
    problems.extend(vault_problems(chain, governance, &vault).await?);
    for (name, contract) in [
        ("token", contracts.token),
        ("router", contracts.router),
        ("manager", contracts.manager),
        ("anchor", anchor),
    ] {
        let admin = admin_of(chain, &contract).await?;
        if admin != vault {
            problems.push(format!(
                "the admin of the {name} is {admin}, not the vault: its owners have not accepted yet \
                 (flowbridge vault propose take-over)"
            ));
        }
    }
    problems.extend(role_problems(chain, deployment, governance).await?);
    Ok(problems)
}

async fn vault_problems(
    chain: &dyn Chain,
    governance: &Governance,
    vault: &EvmAddress,
) -> Result<Vec<String>, ChainError> {
    let mut problems = Vec::new();
    for owner in &governance.owners {
        let asked = Contract::isOwnerCall { owner: address(&parse(owner)?) };
        if !read(chain, vault, &asked).await? {
            problems.push(format!("{owner} is an owner in the record, but not of the vault"));
        }
    }
    let owners = usize::from(read(chain, vault, &Contract::ownersCall {}).await?);
    if owners > governance.owners.len() {
        problems.push(format!("the vault has {owners} owners, the record names {}", governance.owners.len()));
    }
    let threshold = read(chain, vault, &Contract::thresholdCall {}).await?;
    if threshold != governance.threshold {
        problems.push(format!("{threshold} owners must approve, the record says {}", governance.threshold));
    }
    Ok(problems)
}

#[derive(Deserialize)]
struct Runtime {
    length: usize,
    immutables: Vec<(usize, usize)>,
    keccak256: String,
}

/// Whether the code on chain is what this build's artifact becomes when it is deployed, and what the record says.
async fn code_problem(
    chain: &dyn Chain,
    name: &str,
    artifact: &str,
    recorded: &Deployed,
) -> Result<Option<String>, ChainError> {
    let built: BTreeMap<String, Runtime> =
        serde_json::from_str(RUNTIME).map_err(|error| ChainError::Wrong(format!("runtime.json: {error}")))?;
    let built = built
        .get(artifact)
        .ok_or_else(|| ChainError::Wrong(format!("runtime.json does not know {artifact}")))?;
    let at = &recorded.address;
    let mut code = chain.code(&parse(at)?).await?;
    if code.is_empty() {
        return Ok(Some(format!("there is no code at the {name}'s address {at}")));
    }
    if keccak256(&code).to_string() != recorded.code_hash {
        return Ok(Some(format!(
            "the code at the {name}'s address {at} is another than when it was deployed"
        )));
    }
    for (start, length) in &built.immutables {
        if let Some(place) = code.get_mut(*start..start.saturating_add(*length)) {
            place.fill(0);
        }
    }
    let same = code.len() == built.length && keccak256(&code).to_string() == built.keccak256;
    Ok((!same).then(|| {
        format!("the code at the {name}'s address {at} is not what {artifact} of this build compiles to")
    }))
}

/// Everybody who holds a role and should not, and the roles that governance gives and nobody holds. Whether the roles of the
/// record are held, [`crate::deploy::verify`] has said.
async fn role_problems(
    chain: &dyn Chain,
    deployment: &Deployment,
    governance: &Governance,
) -> Result<Vec<String>, ChainError> {
    let contracts = deployment.contracts()?;
    let (vault, anchor) = (governance.vault_address()?, governance.anchor_address()?);
    let mut wanted: BTreeSet<(String, &str, String)> = grants(&deployment.roles)?
        .iter()
        .map(|grant| (grant.on.of(&contracts).to_string(), grant.name, grant.holder.to_string()))
        .collect();
    wanted.insert((contracts.token.to_string(), "MINTER_ADMIN_ROLE", vault.to_string()));
    wanted.insert((anchor.to_string(), "ANCHOR_ROLE", parse(&governance.anchorer)?.to_string()));
    for contract in [contracts.token, contracts.router, contracts.manager, anchor] {
        wanted.insert((contract.to_string(), "DEFAULT_ADMIN_ROLE", vault.to_string()));
    }
    let start = deployment.start_block.min(governance.start_block);
    let held = holders(chain, start, &[contracts.token, contracts.router, contracts.manager, anchor]).await?;
    let name = |contract: &String| {
        let known = [
            (contracts.token, "token"),
            (contracts.router, "router"),
            (contracts.manager, "manager"),
            (anchor, "anchor"),
        ];
        known
            .iter()
            .find(|(address, _)| address.to_string() == *contract)
            .map_or("contract", |(_, name)| name)
    };
    // An admin that is still the deployer is told of above, in better words.
    let is_told =
        |role: &str, holder: &String| role == "DEFAULT_ADMIN_ROLE" && *holder == governance.deployer;
    let extra =
        held.iter().filter(|entry| !wanted.contains(&(entry.0.clone(), entry.1.as_str(), entry.2.clone())));
    let mut problems: Vec<String> = extra
        .filter(|(_, role, holder)| !is_told(role, holder))
        .map(|(contract, role, holder)| {
            format!("{holder} holds {role} on the {} and should not", name(contract))
        })
        .collect();
    let given = [
        (contracts.token.to_string(), "MINTER_ADMIN_ROLE", vault.to_string()),
        (anchor.to_string(), "ANCHOR_ROLE", parse(&governance.anchorer)?.to_string()),
    ];
    let missing = given.iter().filter(|(contract, role, holder)| {
        !held.contains(&(contract.clone(), (*role).to_owned(), holder.clone()))
    });
    problems.extend(missing.map(|(contract, role, holder)| {
        format!("{holder} does not hold {role} on the {} and should", name(contract))
    }));
    Ok(problems)
}

/// Who holds which role of which contract, by the events since they were deployed.
async fn holders(
    chain: &dyn Chain,
    start: u64,
    contracts: &[EvmAddress],
) -> Result<BTreeSet<(String, String, String)>, ChainError> {
    let head = chain.block(At::Latest).await?.map_or(0, |block| block.number);
    let names: BTreeMap<B256, &str> = ROLES.into_iter().map(|name| (role(name), name)).collect();
    let mut held = BTreeSet::new();
    let (mut from, mut stretch) = (start, STRETCH_BLOCKS_MAX);
    while from <= head {
        let to = head.min(from.saturating_add(stretch.saturating_sub(1)));
        let logs = match chain.logs(from, to, contracts).await {
            Ok(logs) => logs,
            Err(ChainError::Refused(_)) if stretch > 1 => {
                stretch = stretch.div_ceil(2);
                continue;
            }
            Err(error) => return Err(error),
        };
        for log in logs {
            let entry = |id: B256, account: Address| {
                let role = names.get(&id).map_or_else(|| id.to_string(), |name| (*name).to_owned());
                (evm_address(log.inner.address).to_string(), role, evm_address(account).to_string())
            };
            if let Ok(granted) = Token::RoleGranted::decode_log(&log.inner) {
                held.insert(entry(granted.role, granted.account));
            } else if let Ok(revoked) = Token::RoleRevoked::decode_log(&log.inner) {
                held.remove(&entry(revoked.role, revoked.account));
            }
        }
        from = to.saturating_add(1);
    }
    Ok(held)
}
