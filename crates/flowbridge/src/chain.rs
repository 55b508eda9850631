//! The chain role's wiring: the node, the deployment record, a key per lane.

use crate::clock::SystemClock;
use crate::config::{Config, EndpointSection, SignerKind};
use crate::roles::{Parts, Role, Running, patiently};
use anyhow::{Context as _, Result, bail, ensure};
use flowbridge_chain::deploy::Roles;
use flowbridge_chain::plan::FeePolicy;
use flowbridge_chain::signer::{HardwareKey, KmsConfig, KmsKey, Pkcs11Config};
use flowbridge_chain::watch::{Bell, Finality, Socket, WatchSettings};
use flowbridge_chain::{
    Bearer, Chain, ContractSet, Deployment, EndpointConfig, EndpointSettings, Endpoints, HttpChain, Key,
    Signer, Vault, deploy,
};
use flowbridge_domain::party::EvmAddress;
use flowbridge_gateway::vault::VaultDesk;
use flowbridge_store::chain::{Contracts, Duty, Lane, save_contracts};
use flowbridge_workers::chain::{COUNTS_EVERY, ChainRole, ChainSettings};
use secrecy::SecretString;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A WebSocket that says nothing for longer is given up; the watcher polls meanwhile.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Starts the senders and the watcher, once a node answers.
pub(crate) async fn start(running: &Running, parts: &Parts) -> Result<()> {
    let config = &parts.config;
    let deployments = read_deployments(config)?;
    let signers = open_signers(config).await?;
    let lanes = lane_roles(&signers);
    let (endpoints, chain, contracts) =
        patiently("[chain] endpoints", async || find_contracts(config, &deployments, &lanes).await).await?;
    for set in &contracts {
        save_contracts(&parts.context.db, &stored(set)).await?;
    }
    let starts = deployments.iter().map(deploy::Deployment::start).collect::<Result<Vec<_>, _>>()?;
    let start = starts.into_iter().min().context("the deployment record names no contracts")?;
    let sockets = sockets(config)?;
    let bell = (!sockets.is_empty()).then_some(Bell { sockets, silence_max: SILENCE_MAX });
    let role = ChainRole { chain, contracts, signers, bell, settings: settings(config, start)? };
    let (context, stop) = (parts.context.clone(), parts.stop.clone());
    running.spawn(Role::Chain, async move {
        tokio::select! {
            () = Box::pin(flowbridge_workers::chain::run(context, role, stop)) => {}
            () = endpoints.tend() => {}
        }
        Ok(())
    });
    Ok(())
}

/// The nodes, and our contracts on their chain.
async fn find_contracts(
    config: &Config,
    deployments: &[Deployment],
    lanes: &Roles,
) -> Result<(Arc<Endpoints>, Arc<dyn Chain>, Vec<ContractSet>)> {
    let endpoints = connect_all(config).await?;
    let chain: Arc<dyn Chain> = Arc::new(HttpChain::over(endpoints.clone()));
    let mut contracts = Vec::new();
    for deployment in deployments {
        contracts.push(recognise(&*chain, deployment, lanes).await?);
    }
    Ok((endpoints, chain, contracts))
}

/// Our contracts of one currency, if they are what the record says. Who may do what changes while the record does not: that is told, and
/// stops nothing but the lane whose key has lost its role, at its own hands, until it has it again.
async fn recognise(chain: &dyn Chain, deployment: &Deployment, lanes: &Roles) -> Result<ContractSet> {
    let currency = deployment.currency.as_str();
    let problems = deploy::verify_contracts(chain, deployment).await?;
    ensure!(
        problems.is_empty(),
        "the contracts of {currency} in the deployment record are not what is on the chain: {}",
        problems.join("; ")
    );
    let set = deployment.contracts()?;
    for problem in deploy::verify_lanes(chain, &set, lanes).await? {
        tracing::error!(
            currency,
            problem,
            "a lane cannot send; it waits, and the others and the watcher go on"
        );
    }
    for problem in deploy::verify_powers(chain, deployment).await? {
        tracing::warn!(currency, problem, "the chain has moved on from the deployment record");
    }
    Ok(set)
}

/// The keys of the lanes, as the holders of the lanes' roles.
pub(crate) fn lane_roles(signers: &BTreeMap<Lane, Arc<dyn Signer>>) -> Roles {
    let of = |duty: Duty| -> (String, Vec<String>) {
        let of_duty = signers.iter().filter(|(lane, _)| lane.duty() == duty);
        let mut addresses = of_duty.map(|(_, signer)| signer.address().to_string());
        (addresses.next().unwrap_or_default(), addresses.collect())
    };
    let (initiator, further_initiators) = of(Duty::Initiator);
    let (settler, further_settlers) = of(Duty::Settler);
    let (canceller, further_cancellers) = of(Duty::Canceller);
    Roles {
        initiator,
        settler,
        canceller,
        further_initiators,
        further_settlers,
        further_cancellers,
        ..Roles::default()
    }
}

/// Who signs for each lane: what `[chain] signers` names, else a key file. The first lane of each duty has to have one, further
/// ones are lanes of their own.
pub(crate) async fn open_signers(config: &Config) -> Result<BTreeMap<Lane, Arc<dyn Signer>>> {
    let section = &config.chain;
    let mut signers: BTreeMap<Lane, Arc<dyn Signer>> = BTreeMap::new();
    for signer in &section.signers {
        let lane = Lane::parse(&signer.lane).with_context(|| {
            format!("[chain] signers: {:?} is no lane such as settler or settler-2", signer.lane)
        })?;
        let opened = open_signer(config, &signer.kind)
            .await
            .with_context(|| format!("cannot open the signer of lane {}", signer.lane))?;
        ensure!(signers.insert(lane, opened).is_none(), "[chain] signers names {} twice", signer.lane);
    }
    for lane in Duty::ALL.into_iter().flat_map(Lane::of) {
        let file = section.keys.join(format!("{}.key", lane.as_str()));
        if !signers.contains_key(&lane) && (lane == Lane::first(lane.duty()) || file.exists()) {
            signers.insert(lane, Arc::new(Key::read(&file)?));
        }
    }
    require_a_key_each(&signers)?;
    Ok(signers)
}

/// Two lanes with one key would give its nonces away twice.
fn require_a_key_each(signers: &BTreeMap<Lane, Arc<dyn Signer>>) -> Result<()> {
    let mut lane_of: BTreeMap<EvmAddress, Lane> = BTreeMap::new();
    for (lane, signer) in signers {
        if let Some(other) = lane_of.insert(signer.address(), *lane) {
            bail!(
                "lanes {} and {} have the same key: each needs one of its own",
                other.as_str(),
                lane.as_str()
            );
        }
    }
    Ok(())
}

async fn open_signer(config: &Config, kind: &SignerKind) -> Result<Arc<dyn Signer>> {
    Ok(match kind.clone() {
        SignerKind::Keystore { file, password_file } => {
            let password = read_secret(&password_file)?;
            Arc::new(tokio::task::spawn_blocking(move || Key::read_keystore(&file, &password)).await??)
        }
        SignerKind::Pkcs11 { module, token, key, pin_file } => {
            let pin = read_secret(&pin_file)?;
            Arc::new(HardwareKey::open(Pkcs11Config { module, token, key, pin }).await?)
        }
        SignerKind::AwsKms { region, key_id, credentials_file, endpoint } => {
            let timeout = Duration::from_millis(config.chain.call_timeout_ms);
            let kms = KmsConfig { region, endpoint, key_id, credentials_file, timeout };
            Arc::new(KmsKey::open(kms, Arc::new(SystemClock)).await?)
        }
    })
}

/// A file's content, without the line break an editor leaves.
fn read_secret(file: &Path) -> Result<SecretString> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text.trim().into())
}

/// The configured nodes, if those that answer serve the configured chain.
pub(crate) async fn connect(config: &Config) -> Result<Arc<dyn Chain>> {
    Ok(Arc::new(HttpChain::over(connect_all(config).await?)))
}

async fn connect_all(config: &Config) -> Result<Arc<Endpoints>> {
    let (endpoints, settings) = endpoints(config)?;
    Ok(Endpoints::connect(&endpoints, settings).await?)
}

fn endpoints(config: &Config) -> Result<(Vec<EndpointConfig>, EndpointSettings)> {
    let section = &config.chain;
    let endpoints = section.endpoints.iter().map(|endpoint| {
        let (name, url) = (endpoint.name.clone(), endpoint.rpc_url.to_string());
        Ok(EndpointConfig { name, url, token: token(endpoint)? })
    });
    let settings = EndpointSettings {
        chain_id: section.chain_id,
        timeout: Duration::from_millis(section.call_timeout_ms),
        look_interval: Duration::from_millis(section.look_interval_ms),
        behind_max: Duration::from_millis(section.behind_ms_max),
    };
    Ok((endpoints.collect::<Result<_>>()?, settings))
}

fn sockets(config: &Config) -> Result<Vec<Socket>> {
    let with_socket =
        config.chain.endpoints.iter().filter_map(|endpoint| Some((endpoint, endpoint.ws_url.as_ref()?)));
    with_socket.map(|(endpoint, url)| Ok(Socket { url: url.to_string(), token: token(endpoint)? })).collect()
}

/// The bearer token that an endpoint's proxy wants to see.
fn token(endpoint: &EndpointSection) -> Result<Option<Bearer>> {
    let bearer = endpoint.token_file.clone().map(Bearer::in_file).transpose();
    bearer.with_context(|| format!("the token of endpoint {}", endpoint.name))
}

/// The vault that governs the contracts of the deployment record, if there is a record and one does. The node is not called
/// before somebody asks for the vault: the gateway serves whether or not a node does.
pub(crate) fn vault_desk(config: &Config) -> Result<Option<VaultDesk>> {
    if !config.chain.deployment.exists() {
        return Ok(None);
    }
    let deployments = read_deployments(config)?;
    let Some(governance) = deployments.iter().find_map(|deployment| deployment.governance.as_ref()) else {
        return Ok(None);
    };
    let (endpoints, settings) = endpoints(config)?;
    let chain: Arc<dyn Chain> = Arc::new(HttpChain::over(Endpoints::new(&endpoints, settings)?));
    let vault = Vault { chain, chain_id: config.chain.chain_id, address: governance.vault_address()? };
    let sets = deployments.iter().map(Deployment::contracts).collect::<Result<_, _>>()?;
    Ok(Some(VaultDesk::new(vault, Some(governance.anchor_address()?), sets)))
}

/// The deployment record: one entry per currency.
pub(crate) fn read_deployments(config: &Config) -> Result<Vec<Deployment>> {
    let file = &config.chain.deployment;
    let text = std::fs::read_to_string(file).with_context(|| {
        format!("there is no deployment record {}: run `flowbridge contracts deploy`", file.display())
    })?;
    serde_json::from_str(&text).with_context(|| format!("{} is no deployment record", file.display()))
}

fn settings(config: &Config, start: (u64, [u8; 32])) -> Result<ChainSettings> {
    let section = &config.chain;
    Ok(ChainSettings {
        chain_id: section.chain_id,
        batch_size_max: section.batch_size_max,
        batch_delay: Duration::from_millis(section.batch_delay_ms),
        in_flight_max: section.in_flight_max,
        gas_per_tx_max: section.gas_per_tx_max,
        gas_margin_percent: section.gas_margin_percent,
        fees: FeePolicy {
            bump_after: Duration::from_millis(section.fee_bump_after_ms),
            rebroadcast_after: Duration::from_millis(section.fee_bump_after_ms / 4),
            fee_per_gas_max: section.fee_per_gas_gwei_max.saturating_mul(1_000_000_000),
        },
        watch: WatchSettings {
            finality: Finality::parse(&section.finality)?,
            reorg_depth_blocks_max: section.reorg_depth_blocks_max,
            stretch_blocks_max: section.blocks_per_query_max,
            stretch_logs_max: 10_000,
        },
        start,
        poll: Duration::from_millis(section.poll_ms),
        pace: Duration::from_millis(section.pace_ms),
        counts_every: COUNTS_EVERY,
        lease: Duration::from_millis(section.lease_ms),
    })
}

pub(crate) fn stored(set: &ContractSet) -> Contracts {
    Contracts {
        currency: set.currency,
        token: set.token,
        token_decimals: set.token_decimals,
        router: set.router,
        manager: set.manager,
        house: set.house,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_lanes_have_one_key() {
        let key = |byte: u8| -> Arc<dyn Signer> { Arc::new(Key::parse(&format!("{byte:064x}")).unwrap()) };
        let lane = |name: &str| Lane::parse(name).unwrap();
        let mut signers = BTreeMap::from([(lane("initiator"), key(1)), (lane("settler"), key(2))]);
        require_a_key_each(&signers).unwrap();
        signers.insert(lane("settler-2"), key(2));
        let refused = require_a_key_each(&signers).unwrap_err().to_string();
        assert_eq!(refused, "lanes settler and settler-2 have the same key: each needs one of its own");
    }
}
