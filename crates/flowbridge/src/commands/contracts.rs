//! `flowbridge contracts`: putting our contracts on a chain, and checking that they are what the record says.

use super::say;
use crate::chain::{connect, read_deployments};
use crate::config::Config;
use anyhow::{Context as _, Result, ensure};
use clap::{Args, Subcommand};
use flowbridge_chain::deploy::{self, Admin, Plan, Roles};
use flowbridge_chain::{Chain, Deployment, Key};
use flowbridge_domain::money::Currency;
use flowbridge_store::chain::Lane;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub(crate) enum ContractsCommand {
    /// Deploy token, router and manager for a currency and add them to the deployment record
    Deploy(DeployArgs),
    /// Check every contract of the deployment record: address, code, roles, settings
    Verify,
}

#[derive(Debug, Args)]
pub(crate) struct DeployArgs {
    /// The currency, such as EUR
    #[arg(long)]
    currency: String,
    /// File with the admin's key: it deploys, grants the roles and registers wallets
    #[arg(long, value_name = "FILE")]
    admin_key: PathBuf,
    /// File with the guardian's key, whose address may pause and freeze
    #[arg(long, value_name = "FILE")]
    guardian_key: PathBuf,
    /// The wallet that fees go to
    #[arg(long, value_name = "ADDRESS")]
    house: String,
    /// What the manager may mint, in whole units of the currency
    #[arg(long, default_value_t = 1_000_000_000)]
    mint_allowance: u64,
    /// How long a change of the admin takes
    #[arg(long, default_value_t = 86_400)]
    admin_delay_secs: u32,
}

/// The decimals of our tokens: six, or those of the currency when it has more.
const TOKEN_DECIMALS: u8 = 6;

pub(super) async fn run(command: ContractsCommand, config: &Config) -> Result<ExitCode> {
    let chain = connect(config).await?;
    match command {
        ContractsCommand::Deploy(args) => {
            let admin = Key::read(&args.admin_key)?;
            let plan = Plan {
                currency: Currency::parse(&args.currency)?,
                token_decimals: TOKEN_DECIMALS,
                house: flowbridge_domain::party::EvmAddress::parse(&args.house)?,
                roles: roles(config, &admin, &Key::read(&args.guardian_key)?)?,
                mint_allowance: args.mint_allowance.saturating_mul(10u64.pow(u32::from(TOKEN_DECIMALS))),
                admin_delay_secs: args.admin_delay_secs,
            };
            let deployment = deploy_one(config, &*chain, &admin, &plan).await?;
            say(serde_json::to_string_pretty(&deployment)?);
        }
        ContractsCommand::Verify => {
            for deployment in read_deployments(config)? {
                let problems = deploy::verify(&*chain, &deployment).await?;
                ensure!(problems.is_empty(), "{}: {}", deployment.currency, problems.join("; "));
                say(format_args!("{}: as recorded", deployment.currency));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Who may do what, by the key files of the lanes.
pub(crate) fn roles(config: &Config, admin: &Key, guardian: &Key) -> Result<Roles> {
    let lane = |lane: Lane| -> Result<String> {
        let file = config.chain.keys.join(format!("{}.key", lane.as_str()));
        Ok(Key::read(&file)?.address().to_string())
    };
    Ok(Roles {
        initiator: lane(Lane::Initiator)?,
        settler: lane(Lane::Settler)?,
        canceller: lane(Lane::Canceller)?,
        guardian: guardian.address().to_string(),
        registrar: admin.address().to_string(),
    })
}

/// Deploys for one currency and adds it to the record, which is written whole or not at all.
pub(crate) async fn deploy_one(
    config: &Config,
    chain: &dyn Chain,
    admin: &Key,
    plan: &Plan,
) -> Result<Deployment> {
    let file = &config.chain.deployment;
    let mut record = if file.exists() { read_deployments(config)? } else { Vec::new() };
    ensure!(
        record.iter().all(|deployment| deployment.currency != plan.currency.code()),
        "{} is deployed already: see {}",
        plan.currency,
        file.display()
    );
    let admin =
        Admin { chain, chain_id: config.chain.chain_id, key: admin, patience: Duration::from_secs(60) };
    let deployment = deploy::deploy(&admin, plan).await?;
    record.push(deployment.clone());
    let draft = file.with_extension("draft");
    std::fs::write(&draft, serde_json::to_string_pretty(&record)?)
        .and_then(|()| std::fs::rename(&draft, file))
        .with_context(|| format!("cannot write the deployment record {}", file.display()))?;
    Ok(deployment)
}
