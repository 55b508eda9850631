//! The chain role's wiring: the node, the deployment record, a key per lane.

use crate::config::Config;
use crate::roles::{Parts, Role, Running};
use anyhow::{Context as _, Result, ensure};
use flowbridge_chain::plan::FeePolicy;
use flowbridge_chain::watch::{Bell, Finality, WatchSettings};
use flowbridge_chain::{Chain, ContractSet, Deployment, HttpChain, Key, Vault, deploy};
use flowbridge_gateway::vault::VaultDesk;
use flowbridge_store::chain::{Contracts, Lane, save_contracts};
use flowbridge_workers::chain::{ChainRole, ChainSettings};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long one call to the node may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// A WebSocket that says nothing for longer is given up; the watcher polls meanwhile.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Starts the senders and the watcher.
pub(crate) async fn start(running: &Running, parts: &Parts) -> Result<()> {
    let config = &parts.config;
    let chain = connect(config).await?;
    let deployments = read_deployments(config)?;
    let mut contracts = Vec::new();
    for deployment in &deployments {
        let problems = deploy::verify(&*chain, deployment).await?;
        ensure!(
            problems.is_empty(),
            "the contracts in {} are not what is on the chain: {}",
            config.chain.deployment.display(),
            problems.join("; ")
        );
        let set = deployment.contracts()?;
        save_contracts(&parts.context.db, &stored(&set)).await?;
        contracts.push(set);
    }
    let starts = deployments.iter().map(deploy::Deployment::start).collect::<Result<Vec<_>, _>>()?;
    let start = starts.into_iter().min().context("the deployment record names no contracts")?;
    let keys: BTreeMap<Lane, Key> = Lane::ALL
        .into_iter()
        .map(|lane| Ok((lane, Key::read(&config.chain.keys.join(format!("{}.key", lane.as_str())))?)))
        .collect::<Result<_>>()?;
    let bell = (!config.chain.ws_url.is_empty())
        .then(|| Bell { url: config.chain.ws_url.clone(), silence_max: SILENCE_MAX });
    let role = ChainRole { chain, contracts, keys, bell, settings: settings(config, start)? };
    let (context, stop) = (parts.context.clone(), parts.stop.clone());
    running.spawn(Role::Chain, async move {
        Box::pin(flowbridge_workers::chain::run(context, role, stop)).await;
        Ok(())
    });
    Ok(())
}

/// The configured node, if it serves the configured chain.
pub(crate) async fn connect(config: &Config) -> Result<Arc<dyn Chain>> {
    let url = config.chain.rpc_url.as_str();
    Ok(Arc::new(HttpChain::connect(url, config.chain.chain_id, CALL_TIMEOUT).await?))
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
    let chain: Arc<dyn Chain> = Arc::new(HttpChain::new(config.chain.rpc_url.as_str(), CALL_TIMEOUT)?);
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
        fees: FeePolicy {
            bump_after: Duration::from_millis(section.fee_bump_after_ms),
            rebroadcast_after: Duration::from_millis(section.fee_bump_after_ms / 4),
            fee_per_gas_max: section.fee_per_gas_gwei_max.saturating_mul(1_000_000_000),
        },
        watch: WatchSettings {
            finality: Finality::parse(&section.finality)?,
            reorg_depth_blocks_max: section.reorg_depth_blocks_max,
            stretch_blocks_max: 1_000,
            stretch_logs_max: 10_000,
        },
        start,
        poll: Duration::from_millis(section.poll_ms),
        pace: Duration::from_millis(section.pace_ms),
        lease: Duration::from_millis(section.lease_ms),
    })
}

fn stored(set: &ContractSet) -> Contracts {
    Contracts {
        currency: set.currency,
        token: set.token,
        token_decimals: set.token_decimals,
        router: set.router,
        manager: set.manager,
        house: set.house,
    }
}
