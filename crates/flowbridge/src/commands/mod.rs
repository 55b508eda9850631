//! The command line. One file per group of commands.

mod api;
mod audit;
mod clients;
pub(crate) mod contracts;
mod dlq;
mod events;
mod keys;
mod participants;
pub(crate) mod payments;
pub(crate) mod recon;
pub(crate) mod reconciliation;
mod serve;
mod vault;

pub(crate) use serve::stop_signal;

use crate::client::{ApiClient, Profile};
use crate::config::Config;
use crate::dev;
use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use flowbridge_store::Db;
use reconciliation::ReconGroup;
use std::path::PathBuf;
use std::process::ExitCode;

/// Moves money between banks, exchanges and fintechs in real time.
#[derive(Debug, Parser)]
#[command(name = "flowbridge", version, about, max_term_width = 110)]
pub(crate) struct Cli {
    /// The configuration file; without it `.flowbridge/flowbridge.toml`, if that exists
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything on embedded parts, with two banks and a few payments to look at
    Dev(dev::DevArgs),
    /// Run roles: gateway, orchestrator, chain, bank, webhooks, jobs, bank-simulator
    Serve(serve::ServeArgs),
    /// Bring the database's schema up to date
    Migrate,
    /// Print every setting with its default and meaning
    Config,
    /// Deploy the contracts, or verify those that are deployed
    #[command(subcommand)]
    Contracts(contracts::ContractsCommand),
    /// Govern the contracts: motions for the owners of the vault, their approvals, and carrying them out
    #[command(subcommand)]
    Vault(vault::VaultCommand),
    /// Call the API, signed in
    Api(api::ApiArgs),
    /// Print an access token, for curl
    Token(AsClient),
    /// Submit, list, show, watch and cancel payments
    #[command(subcommand)]
    Payments(payments::PaymentsCommand),
    /// Register clients, list them, or keep one out
    #[command(subcommand)]
    Clients(clients::ClientsCommand),
    /// List participants, suspend one, or let it go on
    #[command(subcommand)]
    Participants(participants::ParticipantsCommand),
    /// Compare ledger, chain and banks, now
    Proof(AsOperator),
    /// Measure what this program does a second, and prove that nothing was lost on the way
    #[command(subcommand)]
    Bench(crate::bench::BenchCommand),
    /// Exchange the keys that sign and seal
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Look at the event log, or set a group of readers back
    #[command(subcommand)]
    Events(events::EventsCommand),
    /// Look at dead letters, take them in again, or drop them
    #[command(subcommand)]
    Dlq(dlq::DlqCommand),
    /// Reconcile with banks and chain: statements, runs, reports, exceptions; match files, and measure how well that works
    #[command(subcommand)]
    Recon(reconciliation::ReconGroup),
    /// Look at the audit log, prove what is in it, and check an archive of it
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Look at the breaker that stops minting and payouts when the proof fails, or reset it
    #[command(subcommand)]
    Breaker(reconciliation::BreakerCommand),
}

impl Cli {
    /// Does it match files, and end?
    pub(crate) fn is_about_files(&self) -> bool {
        matches!(self.command, Command::Recon(ReconGroup::Files(_)))
    }
}

/// Who a command acts as.
#[derive(Debug, Args)]
pub(crate) struct AsClient {
    /// The client profile: `.flowbridge/clients/NAME.json`
    #[arg(long, default_value = "alpha", value_name = "NAME")]
    client: String,
}

impl AsClient {
    fn sign_in(&self) -> Result<ApiClient> {
        sign_in_as(&self.client)
    }
}

/// Who a command of operators acts as.
#[derive(Debug, Args)]
pub(crate) struct AsOperator {
    /// The client profile: `.flowbridge/clients/NAME.json`
    #[arg(long, default_value = "operator", value_name = "NAME")]
    client: String,
}

impl AsOperator {
    fn sign_in(&self) -> Result<ApiClient> {
        sign_in_as(&self.client)
    }
}

fn sign_in_as(profile: &str) -> Result<ApiClient> {
    ApiClient::new(Profile::load(&dev::folder(), profile)?)
}

/// Runs a command.
pub(crate) async fn run(cli: Cli) -> Result<ExitCode> {
    let config = || {
        let dev_file = dev::folder().join("flowbridge.toml");
        let file = cli.config.clone().or_else(|| dev_file.exists().then_some(dev_file));
        Config::load(file.as_deref())
    };
    match cli.command {
        Command::Dev(args) => dev::run(args).await,
        Command::Serve(args) => serve::run(args, config()?).await,
        Command::Migrate => {
            database(&config()?)?.migrate().await?;
            say("the schema is up to date");
            Ok(ExitCode::SUCCESS)
        }
        Command::Config => {
            say(crate::config::DEFAULT_TOML);
            Ok(ExitCode::SUCCESS)
        }
        Command::Contracts(command) => contracts::run(command, &config()?).await,
        Command::Vault(command) => {
            let config = config()?;
            vault::run(command, &config, &database(&config)?).await
        }
        Command::Api(args) => api::run(args).await,
        Command::Token(client) => api::token(&client).await,
        Command::Payments(command) => payments::run(command).await,
        Command::Clients(command) => {
            let config = config()?;
            clients::run(command, &config, &database(&config)?).await
        }
        Command::Participants(command) => participants::run(command).await,
        Command::Proof(client) => api::proof(&client).await,
        Command::Bench(command) => crate::bench::run(command).await,
        Command::Keys(command) => keys::run(&command, &config()?),
        Command::Events(command) => events::run(command, &database(&config()?)?).await,
        Command::Dlq(command) => dlq::run(command, &database(&config()?)?).await,
        Command::Recon(ReconGroup::Files(command)) => recon::run(command, config).await,
        Command::Recon(ReconGroup::Running(command)) => reconciliation::run(command).await,
        Command::Audit(command) => {
            let config = config()?;
            audit::run(command, &config, || database(&config)).await
        }
        Command::Breaker(command) => reconciliation::breaker(command).await,
    }
}

fn database(config: &Config) -> Result<Db> {
    Ok(Db::new(&config.database())?)
}

/// Prints what a command was asked for.
#[expect(clippy::print_stdout, reason = "a command's answer goes to the terminal")]
pub(crate) fn say(text: impl std::fmt::Display) {
    println!("{text}");
}

/// An instant as people and RFC 3339 write it, in UTC with milliseconds.
pub(crate) fn at(instant: flowbridge_domain::time::Timestamp) -> String {
    jiff::Timestamp::from_microsecond(instant.as_micros())
        .map_or_else(|_| "?".to_owned(), |instant| format!("{instant:.3}"))
}
