//! `flowbridge contracts`: putting our contracts on a chain, and checking that they are what the record says.

use super::say;
use crate::chain::{connect, lane_roles, open_signers, read_deployments};
use crate::config::Config;
use anyhow::{Context as _, Result, ensure};
use clap::{Args, Subcommand};
use flowbridge_chain::deploy::{Admin, Plan, Roles, deploy};
use flowbridge_chain::governance::{self, Governance, GovernancePlan};
use flowbridge_chain::{Chain, Deployment, Key};
use flowbridge_domain::money::Currency;
use flowbridge_domain::party::EvmAddress;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub(crate) enum ContractsCommand {
    /// Deploy token, router and manager for a currency, with the vault that governs them, and add them to the record
    Deploy(DeployArgs),
    /// Put contracts that are deployed already under the vault, which is deployed if there is none; can be repeated when it was cut off
    Govern(GovernArgs),
    /// Let wallets hold the token of a currency: payments from and to any other are set aside
    Register(RegisterArgs),
    /// Check every contract of the deployment record against the chain and this build: address, code, roles, settings
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
    /// File with the guardian's key, whose address may pause and freeze; what forces transfers is the vault, or without it the admin's key
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
    #[command(flatten)]
    vault: VaultArgs,
    /// Leave the admin's key in charge, alone: for a trial
    #[arg(long, conflicts_with = "owners")]
    without_vault: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GovernArgs {
    /// The currency, such as EUR
    #[arg(long)]
    currency: String,
    /// File with the admin's key, which offers its place to the vault
    #[arg(long, value_name = "FILE")]
    admin_key: PathBuf,
    /// How long a change of the audit anchor's admin takes
    #[arg(long, default_value_t = 86_400)]
    admin_delay_secs: u32,
    #[command(flatten)]
    vault: VaultArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RegisterArgs {
    /// The currency, such as EUR
    #[arg(long)]
    currency: String,
    /// File with the registrar's key, which is the key that deployed
    #[arg(long, value_name = "FILE")]
    registrar_key: PathBuf,
    /// The wallets, as the accounts have them
    #[arg(value_name = "ADDRESS", required = true)]
    wallets: Vec<String>,
}

/// The vault, where there is none yet. One vault governs the contracts of all currencies.
#[derive(Debug, Args)]
struct VaultArgs {
    /// The address of an owner of the vault; once for each
    #[arg(long = "owner", value_name = "ADDRESS")]
    owners: Vec<String>,
    /// How many owners must approve; 2 without it
    #[arg(long)]
    threshold: Option<u16>,
    /// How long an operation waits that is not a transfer within the limit of the day or an allowance within its cap; 86,400
    /// without it
    #[arg(long)]
    vault_delay_secs: Option<u64>,
    /// Up to what the owners will set the manager's allowance without delay, in whole units of the currency; 1,000,000,000
    /// without it
    #[arg(long)]
    mint_cap: Option<u64>,
    /// The address that pins the audit log; the admin's without it
    #[arg(long, value_name = "ADDRESS")]
    anchorer: Option<String>,
}

/// The decimals of our tokens: six, or those of the currency when it has more.
const TOKEN_DECIMALS: u8 = 6;

const THRESHOLD: u16 = 2;
const VAULT_DELAY_SECS: u64 = 86_400;
/// The cap of who names none, and of an older deployment record, in whole units of the currency.
pub(super) const MINT_CAP: u64 = 1_000_000_000;

pub(super) async fn run(command: ContractsCommand, config: &Config) -> Result<ExitCode> {
    let chain = connect(config).await?;
    match command {
        ContractsCommand::Deploy(args) => {
            let admin = Key::read(&args.admin_key)?;
            let plan = Plan {
                currency: Currency::parse(&args.currency)?,
                token_decimals: TOKEN_DECIMALS,
                house: EvmAddress::parse(&args.house)?,
                roles: Roles {
                    compliance: args.without_vault.then(|| admin.address().to_string()),
                    ..roles(config, &admin, &Key::read(&args.guardian_key)?).await?
                },
                mint_allowance: args.mint_allowance.saturating_mul(10u64.pow(u32::from(TOKEN_DECIMALS))),
                admin_delay_secs: args.admin_delay_secs,
            };
            ensure!(
                args.without_vault || !args.vault.owners.is_empty() || recorded_vault(config)?.is_some(),
                "name the owners of the vault with --owner ADDRESS, once for each, or take --without-vault"
            );
            let vault = args.vault.plan(&admin, args.admin_delay_secs)?;
            if !args.without_vault {
                args.vault.require_as_recorded(config, plan.currency)?;
            }
            let mut deployment = deploy_one(config, &*chain, &admin, &plan).await?;
            if !args.without_vault {
                deployment = govern_one(config, &*chain, &admin, plan.currency, &vault).await?;
            }
            say(serde_json::to_string_pretty(&deployment)?);
            say_what_owners_do(&deployment);
        }
        ContractsCommand::Govern(args) => {
            let admin = Key::read(&args.admin_key)?;
            let vault = args.vault.plan(&admin, args.admin_delay_secs)?;
            let currency = Currency::parse(&args.currency)?;
            args.vault.require_as_recorded(config, currency)?;
            let deployment = govern_one(config, &*chain, &admin, currency, &vault).await?;
            say(serde_json::to_string_pretty(&deployment)?);
            say_what_owners_do(&deployment);
        }
        ContractsCommand::Register(args) => {
            let wallets: Vec<EvmAddress> =
                args.wallets.iter().map(|wallet| EvmAddress::parse(wallet)).collect::<Result<_, _>>()?;
            let key = Key::read(&args.registrar_key)?;
            let deployments = read_deployments(config)?;
            let deployment = deployments
                .iter()
                .find(|deployment| deployment.currency == args.currency)
                .with_context(|| {
                    let known: Vec<&str> = deployments.iter().map(|known| known.currency.as_str()).collect();
                    match known.as_slice() {
                        [] => {
                            "no contracts are deployed: `flowbridge contracts deploy` comes first".to_owned()
                        }
                        known => format!(
                            "no contracts are deployed for {}, but for {}",
                            args.currency,
                            known.join(", ")
                        ),
                    }
                })?;
            let administrator = administrator(config, &*chain, &key);
            administrator.register_wallets(&deployment.contracts()?, &wallets).await.with_context(|| {
                format!(
                    "no wallet was registered with the key of {}: is it the key that deployed?",
                    key.address()
                )
            })?;
            for wallet in wallets {
                say(format_args!("{wallet} may hold {}", args.currency));
            }
        }
        ContractsCommand::Verify => return verify(config, &*chain).await,
    }
    Ok(ExitCode::SUCCESS)
}

async fn verify(config: &Config, chain: &dyn Chain) -> Result<ExitCode> {
    let mut all_well = true;
    for deployment in read_deployments(config)? {
        let problems = governance::verify(chain, &deployment).await?;
        if problems.is_empty() {
            say(format_args!(
                "{}: every address, code and role is as recorded and as built",
                deployment.currency
            ));
        }
        for unsaid in deployment.governance.iter().flat_map(Governance::unsaid) {
            say(format_args!("{}: not compared: the record does not say {unsaid}", deployment.currency));
        }
        for problem in problems {
            all_well = false;
            say(format_args!("{}: {problem}", deployment.currency));
        }
    }
    Ok(if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn say_what_owners_do(deployment: &Deployment) {
    if deployment.governance.is_some() {
        say(format_args!(
            "\nThe vault is offered the admin's place. Its owners accept with:\n  \
             flowbridge vault propose take-over --currency {}\n\
             and with `flowbridge vault approve` and `execute`; then `flowbridge contracts verify` finds nothing.",
            deployment.currency
        ));
    }
}

impl VaultArgs {
    fn plan(&self, admin: &Key, admin_delay_secs: u32) -> Result<GovernancePlan> {
        let owners = self.owners.iter().map(|owner| EvmAddress::parse(owner));
        Ok(GovernancePlan {
            owners: owners.collect::<Result<_, _>>()?,
            threshold: self.threshold.unwrap_or(THRESHOLD),
            delay_secs: self.vault_delay_secs.unwrap_or(VAULT_DELAY_SECS),
            anchorer: self
                .anchorer
                .as_deref()
                .map(EvmAddress::parse)
                .transpose()?
                .unwrap_or_else(|| admin.address()),
            admin_delay_secs,
            mint_cap: token_units(self.mint_cap.unwrap_or(MINT_CAP)),
        })
    }

    /// Refuses what is asked for and differs from the vault that governs already: that is changed by its owners, not here.
    fn require_as_recorded(&self, config: &Config, currency: Currency) -> Result<()> {
        let Some(recorded) = recorded_vault(config)? else { return Ok(()) };
        let of_currency = read_deployments(config)?
            .into_iter()
            .find(|deployment| deployment.currency == currency.code())
            .and_then(|deployment| deployment.governance);
        // The cap is the currency's own: nothing is recorded of one that the vault does not govern yet.
        let mint_cap = self.mint_cap.filter(|_| of_currency.is_some());
        let owners: BTreeSet<String> = recorded.owners.iter().map(|owner| owner.to_lowercase()).collect();
        let named: BTreeSet<String> = self.owners.iter().map(|owner| owner.to_lowercase()).collect();
        let units = |units: u128| format!("{units} units of the token");
        // Older records do not say everything; what they do not say is not set here either.
        let other = |asked: Option<String>, recorded: Option<String>| {
            let differs = asked.is_some() && asked != recorded;
            differs.then(|| recorded.unwrap_or_else(|| "nothing".to_owned()))
        };
        let differing = [
            ("--owner", (!named.is_empty() && named != owners).then(|| recorded.owners.join(", "))),
            (
                "--threshold",
                other(self.threshold.map(|count| count.to_string()), Some(recorded.threshold.to_string())),
            ),
            (
                "--vault-delay-secs",
                other(
                    self.vault_delay_secs.map(|secs| secs.to_string()),
                    recorded.delay_secs.map(|secs| secs.to_string()),
                ),
            ),
            (
                "--anchorer",
                other(
                    self.anchorer.as_ref().map(|address| address.to_lowercase()),
                    Some(recorded.anchorer.to_lowercase()),
                ),
            ),
            (
                "--mint-cap",
                other(
                    mint_cap.map(|cap| units(token_units(cap))),
                    of_currency
                        .and_then(|governance| governance.at_once)
                        .map(|at_once| units(at_once.mint_cap)),
                ),
            ),
        ];
        let differing: Vec<String> = differing
            .into_iter()
            .filter_map(|(option, recorded)| Some(format!("{option} (recorded: {})", recorded?)))
            .collect();
        ensure!(
            differing.is_empty(),
            "vault {} of the deployment record governs already, and differs in {}: leave that out, or have its owners \
             change it with `flowbridge vault propose`",
            recorded.vault.address,
            differing.join(", ")
        );
        Ok(())
    }
}

/// Whole units of a currency as the contracts count them.
const fn token_units(whole: u64) -> u128 {
    (whole as u128).saturating_mul(10u128.pow(TOKEN_DECIMALS as u32))
}

/// Who may do what, by the signers of the lanes. Compliance is the vault's.
pub(crate) async fn roles(config: &Config, admin: &Key, guardian: &Key) -> Result<Roles> {
    let lanes = lane_roles(&open_signers(config).await?);
    Ok(Roles { guardian: guardian.address().to_string(), registrar: admin.address().to_string(), ..lanes })
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
    let deployment = deploy(&administrator(config, chain, admin), plan).await?;
    record.push(deployment.clone());
    save_record(config, &record)?;
    Ok(deployment)
}

/// Puts the contracts of a currency under the vault of the record, which is deployed first if there is none. Goes on where an
/// earlier attempt was cut off.
pub(crate) async fn govern_one(
    config: &Config,
    chain: &dyn Chain,
    admin: &Key,
    currency: Currency,
    plan: &GovernancePlan,
) -> Result<Deployment> {
    let admin = administrator(config, chain, admin);
    let mut record = read_deployments(config)?;
    let place = record
        .iter()
        .position(|deployment| deployment.currency == currency.code())
        .with_context(|| format!("no contracts are deployed for {currency}"))?;
    let mut deployment = record.remove(place);
    let governance = match (deployment.governance.clone(), recorded_vault(config)?) {
        (Some(governance), _) => governance,
        (None, Some(elsewhere)) => elsewhere.for_another(plan.mint_cap),
        (None, None) => governance::deploy(&admin, plan).await?,
    };
    // The record first: a vault that nobody remembers would be deployed twice.
    deployment.governance = Some(governance.clone());
    record.insert(place, deployment.clone());
    save_record(config, &record)?;
    let by = (&governance, &deployment.roles);
    deployment.roles = governance::hand_over(&admin, &deployment.contracts()?, by).await?;
    record.remove(place);
    record.insert(place, deployment.clone());
    save_record(config, &record)?;
    Ok(deployment)
}

fn recorded_vault(config: &Config) -> Result<Option<Governance>> {
    if !config.chain.deployment.exists() {
        return Ok(None);
    }
    Ok(read_deployments(config)?.into_iter().find_map(|deployment| deployment.governance))
}

/// Whoever sets contracts up, with a key of its own.
pub(crate) const fn administrator<'a>(config: &Config, chain: &'a dyn Chain, key: &'a Key) -> Admin<'a> {
    Admin { chain, chain_id: config.chain.chain_id, key, patience: Duration::from_secs(60) }
}

/// Writes the record whole or not at all.
fn save_record(config: &Config, record: &[Deployment]) -> Result<()> {
    let file = &config.chain.deployment;
    let draft = file.with_extension("draft");
    std::fs::write(&draft, serde_json::to_string_pretty(record)?)
        .and_then(|()| std::fs::rename(&draft, file))
        .with_context(|| format!("cannot write the deployment record {}", file.display()))
}
