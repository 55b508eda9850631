//! Who governs the contracts: the vault and the audit log's anchor put there, the rights handed over, and all of it checked.
//!
//! Rights change hands in two steps that nobody can be tricked into: the deployer offers ([`hand_over`]) and gives up what the
//! vault now has, and the owners accept by a motion of their own ([`take_over`]), after the delays of both. [`verify`] compares
//! every address, every byte of code and every role with the record and with the artifacts of this build, and says in words
//! what is off. It reads the history of roles, minters and mint caps from the chain, so what was given to somebody unknown does not hide.

use crate::bindings::{address, anchor, evm_address, token, vault};
use crate::client::{At, Chain};
use crate::deploy::{
    Admin, Deployed, Deployment, Grant, Roles, compliance_grants, deployed, grants, is_held, parse, read,
    read_address, role, vault_grants,
};
use crate::error::ChainError;
use crate::log::ContractSet;
use crate::vault::{self as motions, Act, Vault, role_name};
use alloy::primitives::{Address, U256, keccak256};
use alloy::sol_types::{SolCall as _, SolConstructor as _, SolEvent as _};
use anchor::AuditAnchor as Anchor;
use flowbridge_domain::party::EvmAddress;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use token::TokenizedCash as Token;
use vault::MultiSigVault as Contract;

/// What the code of each contract is once it is deployed, with zeros where its immutable values are filled in.
const RUNTIME: &str = include_str!("../../../contracts/artifacts/runtime.json");
/// Blocks whose logs are asked for at once when the history is read.
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
    /// Up to what the owners will set a manager's allowance to mint without delay, in token units.
    pub mint_cap: u128,
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
    /// Seconds that a large operation of the vault waits. Older records do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_secs: Option<u64>,
    /// What the vault does without delay. Older records do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_once: Option<AtOnce>,
    /// Who pins the audit log.
    pub anchorer: String,
    /// Who deployed it all, and was the first admin.
    pub deployer: String,
    /// The block before vault and anchor.
    pub start_block: u64,
}

/// What the vault does without delay with the contracts of one currency. Each of it is changed by a motion that waits; then
/// people write it down here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtOnce {
    /// Up to what the manager's allowance to mint is set, in token units.
    pub mint_cap: u128,
    /// What of the token leaves within a day, in token units.
    pub tokens_per_day: u128,
    /// What of the chain's own coin leaves within a day, in wei.
    pub wei_per_day: u128,
}

impl Governance {
    /// The same vault for the contracts of another currency, of whose token nothing leaves without delay yet.
    pub fn for_another(&self, mint_cap: u128) -> Self {
        let wei_per_day = self.at_once.as_ref().map_or(0, |at_once| at_once.wei_per_day);
        Self { at_once: Some(AtOnce { mint_cap, tokens_per_day: 0, wei_per_day }), ..self.clone() }
    }

    /// What an older record does not say, so that nothing compares it.
    pub fn unsaid(&self) -> Vec<&'static str> {
        let unsaid = [
            (self.delay_secs.is_none(), "how long large operations of the vault wait (delay_secs)"),
            (self.at_once.is_none(), "what the vault does without delay (at_once)"),
        ];
        unsaid.into_iter().filter(|(is_unsaid, _)| *is_unsaid).map(|(_, what)| what).collect()
    }

    /// The vault's address.
    pub fn vault_address(&self) -> Result<EvmAddress, ChainError> {
        parse(&self.vault.address)
    }

    /// The anchor's address.
    pub fn anchor_address(&self) -> Result<EvmAddress, ChainError> {
        parse(&self.anchor.address)
    }
}

/// What is pinned of the audit log: how many entries it had, and its root then. `None`: nothing yet.
pub async fn pinned(chain: &dyn Chain, at: &EvmAddress) -> Result<Option<(u64, [u8; 32])>, ChainError> {
    let size = read(chain, at, &Anchor::sizeCall {}).await?;
    if size == 0 {
        return Ok(None);
    }
    let root = read(chain, at, &Anchor::rootOfCall { size }).await?;
    Ok(Some((size, root.0)))
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
        delay_secs: Some(plan.delay_secs),
        at_once: Some(AtOnce { mint_cap: plan.mint_cap, tokens_per_day: 0, wei_per_day: 0 }),
        anchorer: plan.anchorer.to_string(),
        deployer: admin.key.address().to_string(),
        start_block,
    })
}

/// Makes the vault the mint admin and the compliance of a currency's contracts, which no key is any more, and offers it to be
/// their admin. The owners accept with [`take_over`]. What is done already is left out, so it can be repeated. Returns the roles as
/// they are then.
pub async fn hand_over(
    admin: &Admin<'_>,
    contracts: &ContractSet,
    (governance, roles): (&Governance, &Roles),
) -> Result<Roles, ChainError> {
    let (chain, vault) = (admin.chain, governance.vault_address()?);
    // Once the owners have accepted, who holds what is theirs to say.
    let is_accepted = admin_of(chain, &contracts.token).await? == vault;
    let mut calls = Vec::new();
    // All three contracts take these from the same base.
    for grant in vault_grants(&vault) {
        if !is_accepted && !is_held(chain, contracts, &grant).await? {
            let call = Token::grantRoleCall { role: grant.role, account: address(&vault) };
            calls.push((Some(grant.on.of(contracts)), call.abi_encode()));
        }
    }
    let mut is_beside = false;
    for former in compliance_grants(roles)? {
        let still_holds = is_held(chain, contracts, &former).await?;
        is_beside |= still_holds;
        if !is_accepted && still_holds {
            let call = Token::revokeRoleCall { role: former.role, account: address(&former.holder) };
            calls.push((Some(former.on.of(contracts)), call.abi_encode()));
        }
    }
    for contract in [contracts.token, contracts.router, contracts.manager] {
        let offered = read(chain, &contract, &Token::pendingDefaultAdminCall {}).await?.newAdmin;
        if admin_of(chain, &contract).await? != vault && evm_address(offered) != vault {
            let offer = Token::beginDefaultAdminTransferCall { newAdmin: address(&vault) };
            calls.push((Some(contract), offer.abi_encode()));
        }
    }
    admin.send_all(&calls).await?;
    let compliance = roles.compliance.clone().filter(|_| is_accepted && is_beside);
    Ok(Roles { compliance, ..roles.clone() })
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
    let mut is_strange = false;
    for (name, artifact, deployed) in [
        ("token", "TokenizedCash", &deployment.token),
        ("router", "PaymentRouter", &deployment.router),
        ("manager", "SettlementManager", &deployment.manager),
        ("vault", "MultiSigVault", &governance.vault),
        ("anchor", "AuditAnchor", &governance.anchor),
    ] {
        match code_problem(chain, name, artifact, deployed).await? {
            None => {}
            // It is what was deployed all the same, and is asked like any other.
            Some(CodeProblem::OfAnotherBuild(text)) => problems.push(text),
            Some(CodeProblem::Strange(text)) => {
                is_strange = true;
                problems.push(text);
            }
        }
    }
    if is_strange {
        // What is no contract of ours cannot be asked who governs it.
        return Ok(problems);
    }
    problems.extend(vault_problems(chain, governance, (&vault, &contracts)).await?);
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
    let start = deployment.start_block.min(governance.start_block);
    let history = History::read(chain, start, &contracts, (&vault, &anchor)).await?;
    problems.extend(role_problems(deployment, governance, &history.roles)?);
    problems.extend(minting_problems(chain, governance, &contracts, &history).await?);
    Ok(problems)
}

async fn vault_problems(
    chain: &dyn Chain,
    governance: &Governance,
    (vault, contracts): (&EvmAddress, &ContractSet),
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
    let delay = read(chain, vault, &Contract::delayCall {}).await?;
    if let Some(recorded) = governance.delay_secs.filter(|recorded| *recorded != delay) {
        problems.push(format!("large operations of the vault wait {delay} s, the record says {recorded} s"));
    }
    if let Some(recorded) = &governance.at_once {
        for (token, unit, recorded) in [
            (address(&contracts.token), "units of the token", recorded.tokens_per_day),
            (Address::ZERO, "wei", recorded.wei_per_day),
        ] {
            let per_day = read(chain, vault, &Contract::limitOfCall { token }).await?.perDay;
            if per_day != recorded {
                problems.push(format!(
                    "{per_day} {unit} may leave the vault within a day without delay, the record says {recorded}"
                ));
            }
        }
    }
    Ok(problems)
}

/// Everybody but the manager who may mint and burn, or whose allowance to mint the vault sets without delay; and the manager's, where
/// it is not as recorded.
async fn minting_problems(
    chain: &dyn Chain,
    governance: &Governance,
    contracts: &ContractSet,
    history: &History,
) -> Result<Vec<String>, ChainError> {
    let others = |minter: &&EvmAddress| **minter != contracts.manager;
    let mut problems: Vec<String> = history
        .minters
        .iter()
        .filter(others)
        .map(|minter| format!("{minter} may mint and burn the token and should not"))
        .collect();
    problems.extend(history.former_minters.iter().filter(others).map(|minter| {
        format!("{minter} was a minter, so that it can be neither frozen nor unregistered, and nothing is forced out of it")
    }));
    problems.extend(history.mint_caps.iter().filter(|(minter, _)| others(minter)).map(|(minter, cap)| {
        format!("the vault may let {minter} mint up to {cap} units of the token without delay and should not")
    }));
    let Some(recorded) = &governance.at_once else { return Ok(problems) };
    let cap = history.mint_caps.get(&contracts.manager).copied().unwrap_or_default();
    // The owners set it when they accept.
    let is_accepted = admin_of(chain, &contracts.token).await? == governance.vault_address()?;
    if is_accepted && cap != U256::from(recorded.mint_cap) {
        problems.push(format!(
            "the vault may let the manager mint up to {cap} units of the token without delay, the record says {}",
            recorded.mint_cap
        ));
    }
    Ok(problems)
}

#[derive(Deserialize)]
struct Runtime {
    length: usize,
    immutables: Vec<(usize, usize)>,
    keccak256: String,
}

/// What is wrong with the code at an address.
enum CodeProblem {
    /// It is not what was deployed.
    Strange(String),
    /// It is, but this build would deploy another.
    OfAnotherBuild(String),
}

/// Whether the code on chain is what this build's artifact becomes when it is deployed, and what the record says.
async fn code_problem(
    chain: &dyn Chain,
    name: &str,
    artifact: &str,
    recorded: &Deployed,
) -> Result<Option<CodeProblem>, ChainError> {
    let built: BTreeMap<String, Runtime> =
        serde_json::from_str(RUNTIME).map_err(|error| ChainError::Wrong(format!("runtime.json: {error}")))?;
    let built = built
        .get(artifact)
        .ok_or_else(|| ChainError::Wrong(format!("runtime.json does not know {artifact}")))?;
    let at = &recorded.address;
    let mut code = chain.code(&parse(at)?).await?;
    if code.is_empty() {
        return Ok(Some(CodeProblem::Strange(format!("there is no code at the {name}'s address {at}"))));
    }
    if keccak256(&code).to_string() != recorded.code_hash {
        return Ok(Some(CodeProblem::Strange(format!(
            "the code at the {name}'s address {at} is another than when it was deployed"
        ))));
    }
    for (start, length) in &built.immutables {
        if let Some(place) = code.get_mut(*start..start.saturating_add(*length)) {
            place.fill(0);
        }
    }
    let same = code.len() == built.length && keccak256(&code).to_string() == built.keccak256;
    Ok((!same).then(|| {
        CodeProblem::OfAnotherBuild(format!(
            "the code at the {name}'s address {at} is what was deployed, and not what {artifact} of this build compiles to"
        ))
    }))
}

/// Everybody who holds a role and should not, and the roles that governance gives and nobody holds. Whether the roles of the
/// record are held, [`crate::deploy::verify`] has said.
fn role_problems(
    deployment: &Deployment,
    governance: &Governance,
    held: &BTreeSet<(String, String, String)>,
) -> Result<Vec<String>, ChainError> {
    let contracts = deployment.contracts()?;
    let (vault, anchor) = (governance.vault_address()?, governance.anchor_address()?);
    let entry = |grant: &Grant| (grant.on.of(&contracts).to_string(), grant.name, grant.holder.to_string());
    let mut given: Vec<(String, &str, String)> = vault_grants(&vault).iter().map(entry).collect();
    given.push((anchor.to_string(), "ANCHOR_ROLE", parse(&governance.anchorer)?.to_string()));
    let mut wanted: BTreeSet<(String, &str, String)> =
        grants(&deployment.roles)?.iter().map(entry).chain(given.iter().cloned()).collect();
    for contract in [contracts.token, contracts.router, contracts.manager, anchor] {
        wanted.insert((contract.to_string(), "DEFAULT_ADMIN_ROLE", vault.to_string()));
    }
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
    let missing = given.iter().filter(|(contract, role, holder)| {
        !held.contains(&(contract.clone(), (*role).to_owned(), holder.clone()))
    });
    problems.extend(missing.map(|(contract, role, holder)| {
        format!("{holder} does not hold {role} on the {} and should", name(contract))
    }));
    Ok(problems)
}

/// Who was given what since the contracts were deployed, and still has it, by their events.
#[derive(Debug, Default)]
struct History {
    /// Contract, role and holder.
    roles: BTreeSet<(String, String, String)>,
    /// Who may mint and burn.
    minters: BTreeSet<EvmAddress>,
    /// Who could once, and is a custodian for ever.
    former_minters: BTreeSet<EvmAddress>,
    /// Up to what the vault sets each one's allowance of the token without delay.
    mint_caps: BTreeMap<EvmAddress, U256>,
}

impl History {
    async fn read(
        chain: &dyn Chain,
        start: u64,
        contracts: &ContractSet,
        (vault, anchor): (&EvmAddress, &EvmAddress),
    ) -> Result<Self, ChainError> {
        let head = chain.block(At::Latest).await?.map_or(0, |block| block.number);
        let all = [contracts.token, contracts.router, contracts.manager, *anchor, *vault];
        let mut history = Self::default();
        let (mut from, mut stretch) = (start, STRETCH_BLOCKS_MAX);
        while from <= head {
            let to = head.min(from.saturating_add(stretch.saturating_sub(1)));
            let logs = match chain.logs(from, to, &all).await {
                Ok(logs) => logs,
                Err(ChainError::Refused(_)) if stretch > 1 => {
                    stretch = stretch.div_ceil(2);
                    continue;
                }
                Err(error) => return Err(error),
            };
            for log in logs {
                history.note(&log.inner, contracts, vault);
            }
            from = to.saturating_add(1);
        }
        Ok(history)
    }

    fn note(&mut self, log: &alloy::primitives::Log, contracts: &ContractSet, vault: &EvmAddress) {
        let by = evm_address(log.address);
        if let Ok(granted) = Token::RoleGranted::decode_log(log) {
            self.roles.insert((by.to_string(), role_name(&granted.role), named(granted.account)));
        } else if let Ok(revoked) = Token::RoleRevoked::decode_log(log) {
            self.roles.remove(&(by.to_string(), role_name(&revoked.role), named(revoked.account)));
        } else if by == contracts.token {
            if let Ok(minter) = Token::MinterConfigured::decode_log(log) {
                let minter = evm_address(minter.minter);
                self.former_minters.remove(&minter);
                self.minters.insert(minter);
            } else if let Ok(minter) = Token::MinterRemoved::decode_log(log) {
                let minter = evm_address(minter.minter);
                // Who never was one can be removed as well.
                if self.minters.remove(&minter) {
                    self.former_minters.insert(minter);
                }
            }
        } else if by == *vault
            && let Ok(changed) = Contract::MintCapChanged::decode_log(log)
            && evm_address(changed.token) == contracts.token
        {
            let minter = evm_address(changed.minter);
            if changed.cap.is_zero() {
                self.mint_caps.remove(&minter);
            } else {
                self.mint_caps.insert(minter, changed.cap);
            }
        }
    }
}

fn named(account: Address) -> String {
    evm_address(account).to_string()
}
