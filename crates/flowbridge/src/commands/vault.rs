//! `flowbridge vault`: who governs the contracts. Motions are put to the owners, owners approve, and whoever has enough approvals
//! carries a motion out.
//!
//! Proposals and approvals live in our database, and the API serves the same ones. A motion is carried out by one transaction,
//! or by two with the vault's delay between them; whether it was is read from the chain, so a command that is cut off is
//! simply given again.

use super::contracts::{MINT_CAP, administrator};
use super::{at, say};
use crate::chain::{connect, read_deployments, vault_desk};
use crate::clock::SystemClock;
use crate::config::Config;
use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Subcommand};
use flowbridge_api::vault::{VaultProposalBody, hexadecimal};
use flowbridge_chain::vault::{self as motions, Act, CALLDATA_BYTES_MAX, Call};
use flowbridge_chain::{ChainError, ContractSet, Deployment, Key, Refusal, governance};
use flowbridge_domain::id::VaultProposalId;
use flowbridge_domain::money::{Currency, Money};
use flowbridge_domain::party::EvmAddress;
use flowbridge_domain::time::Clock as _;
use flowbridge_gateway::vault::{Placed, VaultDesk, Wanted, block_time};
use flowbridge_security::random_bytes;
use flowbridge_store::Db;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub(crate) enum VaultCommand {
    /// Show the vault and its newest motions, or one motion with its calls in words and its digest
    Show(ShowArgs),
    /// Put a motion to the owners
    Propose(ProposeArgs),
    /// Add an owner's approval: sign with a key file, or bring a signature from a wallet
    Approve(ApproveArgs),
    /// Carry out a motion that enough owners have approved; one that must wait is scheduled first
    Execute(ExecuteArgs),
    /// Put to the owners that the next nonce is used up, whatever was scheduled or signed for it
    Cancel(CancelArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The proposal
    id: Option<String>,
    /// Print only the typed data (EIP-712), as a wallet's `eth_signTypedData_v4` takes it
    #[arg(long, requires = "id")]
    typed_data: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ProposeArgs {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    terms: Terms,
}

#[derive(Debug, Args)]
struct Terms {
    /// The vault's nonce for it; without it the next that no open motion has
    #[arg(long, global = true)]
    nonce: Option<u64>,
    /// Void from this block time on, in seconds since 1970, after the vault's delay; without it a week after that
    #[arg(long, global = true)]
    deadline: Option<u64>,
    /// Why, for those who read it later
    #[arg(long, global = true, default_value = "proposed on the command line")]
    note: String,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Become the admin of a currency's contracts, as offered, and set what the manager may be allowed to mint without delay
    TakeOver {
        /// The currency, such as EUR
        #[arg(long)]
        currency: String,
        /// The cap, in whole units of the currency; without it that of the deployment record
        #[arg(long)]
        mint_cap: Option<u64>,
    },
    /// Let the manager of a currency mint so much from now on; without delay within the cap
    MintAllowance(Amount),
    /// Set up to what the manager of a currency is allowed to mint without delay
    MintCap(Amount),
    /// Set what may leave the vault of a currency's token within a day without delay
    Limit(Amount),
    /// Send tokens out of the vault; without delay within the limit of the day
    Transfer {
        #[command(flatten)]
        amount: Amount,
        /// To whom
        #[arg(long, value_name = "ADDRESS")]
        to: String,
    },
    /// Make a key an owner
    AddOwner {
        /// Its address
        address: String,
    },
    /// A key is no owner any more
    RemoveOwner {
        /// Its address
        address: String,
    },
    /// Set how many owners must approve
    Threshold {
        /// How many
        owners: u16,
    },
    /// Set how long large operations wait
    Delay {
        /// How long
        secs: u64,
    },
    /// Give a key a role of a contract
    GrantRole(RoleArgs),
    /// Take a role of a contract from a key
    RevokeRole(RoleArgs),
    /// Any call
    Call {
        /// The contract or wallet
        #[arg(long, value_name = "ADDRESS")]
        to: String,
        /// The calldata, in hexadecimal
        #[arg(long, default_value = "0x")]
        data: String,
        /// Coins to send with it, in wei
        #[arg(long, default_value_t = 0)]
        value: u128,
    },
}

#[derive(Debug, Args)]
struct Amount {
    /// The currency, such as EUR
    #[arg(long)]
    currency: String,
    /// How much, such as 2500000.00
    #[arg(long)]
    amount: String,
}

#[derive(Debug, Args)]
struct RoleArgs {
    /// The contract's address
    #[arg(long, value_name = "ADDRESS")]
    contract: String,
    /// The role's name, such as FREEZER_ROLE
    #[arg(long)]
    role: String,
    /// The key's address
    #[arg(long, value_name = "ADDRESS")]
    holder: String,
}

#[derive(Debug, Args)]
pub(crate) struct ApproveArgs {
    /// The proposal
    id: String,
    /// File with an owner's key
    #[arg(long, value_name = "FILE", required_unless_present = "signature")]
    owner_key: Option<PathBuf>,
    /// What an owner's wallet signed: 65 bytes in hexadecimal
    #[arg(long, conflicts_with = "owner_key")]
    signature: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ExecuteArgs {
    /// The proposal
    id: String,
    /// File with a key that pays for the transaction; it needs no rights
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    #[command(flatten)]
    terms: Terms,
}

/// Who the command line acts as, in the list of proposals and approvals.
const COMMAND_LINE: &str = "command line";

pub(super) async fn run(command: VaultCommand, config: &Config, db: &Db) -> Result<ExitCode> {
    let desk = vault_desk(config)?.context(
        "no vault governs the contracts of the deployment record: `flowbridge contracts govern` puts them under one",
    )?;
    match command {
        VaultCommand::Show(args) => show(&desk, db, &args).await?,
        VaultCommand::Propose(args) => {
            let act = act(config, &desk, &args.what).await?;
            propose(&desk, db, act, args.terms).await?;
        }
        VaultCommand::Cancel(args) => propose(&desk, db, Act::Cancel, args.terms).await?,
        VaultCommand::Approve(args) => approve(&desk, db, &args).await?,
        VaultCommand::Execute(args) => execute(config, &desk, db, &args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

// --------------------------------------------------------------------------------------------------------------- propose

async fn act(config: &Config, desk: &VaultDesk, what: &What) -> Result<Act> {
    let vault = &desk.vault().address;
    let call = match what {
        What::TakeOver { currency, mint_cap } => {
            let deployment = deployment(config, currency)?;
            let governance = deployment.governance.as_ref().with_context(|| {
                format!("the contracts of {currency} are under no vault: see `flowbridge contracts govern`")
            })?;
            let set = deployment.contracts()?;
            let whole = |units: u64| u128::from(units).saturating_mul(10u128.pow(set.token_decimals.into()));
            let recorded = governance.at_once.as_ref().map(|at_once| at_once.mint_cap);
            let cap = mint_cap.map(whole).or(recorded).unwrap_or_else(|| whole(MINT_CAP));
            return Ok(governance::take_over(&*connect(config).await?, &set, governance, cap).await?);
        }
        What::MintAllowance(amount) => {
            let (set, units) = amount.units(config)?;
            motions::mint_allowance(&set.token, &set.manager, units)
        }
        What::MintCap(amount) => {
            let (set, units) = amount.units(config)?;
            motions::mint_cap(vault, &set.token, &set.manager, units)
        }
        What::Limit(amount) => {
            let (set, units) = amount.units(config)?;
            motions::limit(vault, Some(&set.token), units)
        }
        What::Transfer { amount, to } => {
            let (set, units) = amount.units(config)?;
            motions::transfer(&set.token, &EvmAddress::parse(to)?, units)
        }
        What::AddOwner { address } => motions::add_owner(vault, &EvmAddress::parse(address)?),
        What::RemoveOwner { address } => motions::remove_owner(vault, &EvmAddress::parse(address)?),
        What::Threshold { owners } => motions::threshold(vault, *owners),
        What::Delay { secs } => motions::delay(vault, *secs),
        What::GrantRole(args) => {
            let (contract, holder) = args.parse()?;
            motions::grant_role(&contract, &args.role, &holder)
        }
        What::RevokeRole(args) => {
            let (contract, holder) = args.parse()?;
            motions::revoke_role(&contract, &args.role, &holder)
        }
        What::Call { to, data, value } => {
            let data =
                hexadecimal(data, CALLDATA_BYTES_MAX).map_err(|error| anyhow::anyhow!("--data: {error}"))?;
            Call { to: EvmAddress::parse(to)?, value: *value, data }
        }
    };
    Ok(Act::Operate(vec![call]))
}

impl Amount {
    /// The contracts of the currency, and the amount in token units.
    fn units(&self, config: &Config) -> Result<(ContractSet, u128)> {
        let set = deployment(config, &self.currency)?.contracts()?;
        let money = Money::parse_decimal(&self.amount, set.currency)
            .with_context(|| format!("--amount {:?} is no amount of {}", self.amount, set.currency))?;
        let units = if money.is_zero() { 0 } else { money.to_token_units(set.token_decimals)? };
        Ok((set, units))
    }
}

impl RoleArgs {
    fn parse(&self) -> Result<(EvmAddress, EvmAddress)> {
        ensure!(
            motions::ROLES.contains(&self.role.as_str()),
            "there is no role {:?}: {}",
            self.role,
            motions::ROLES.join(", ")
        );
        Ok((EvmAddress::parse(&self.contract)?, EvmAddress::parse(&self.holder)?))
    }
}

fn deployment(config: &Config, currency: &str) -> Result<Deployment> {
    let currency = Currency::parse(currency)?;
    let deployments = read_deployments(config)?;
    let found = deployments.into_iter().find(|deployment| deployment.currency == currency.code());
    found.with_context(|| format!("no contracts are deployed for {currency}"))
}

async fn propose(desk: &VaultDesk, db: &Db, act: Act, terms: Terms) -> Result<()> {
    let now = SystemClock.now();
    let note: String = terms.note.chars().take(500).collect();
    let wanted =
        Wanted { act, nonce: terms.nonce, deadline: terms.deadline, note, by: COMMAND_LINE.to_owned() };
    let id = VaultProposalId::generate(now, random_bytes()?);
    let proposal = desk.draft(db, wanted, (id, now)).await?;
    let tx = db.begin().await?;
    desk.propose(&tx, &proposal).await?;
    tx.commit().await?;
    let (placed, state) = find(desk, db, &id.to_string()).await?;
    say_motion(&desk.shown(&placed, &state));
    say(format_args!(
        "\nAn owner approves it with `flowbridge vault approve {id} --owner-key FILE`, or with a wallet:"
    ));
    say(format_args!("`flowbridge vault show {id} --typed-data` is what it signs."));
    Ok(())
}

// --------------------------------------------------------------------------------------------------------------- approve

async fn approve(desk: &VaultDesk, db: &Db, args: &ApproveArgs) -> Result<()> {
    let (placed, _) = find(desk, db, &args.id).await?;
    let signature = match (&args.owner_key, &args.signature) {
        (Some(file), _) => Key::read(file)?.sign_recoverably(&placed.proposal.digest)?.to_vec(),
        (None, Some(signature)) => {
            hexadecimal(signature, 65).map_err(|error| anyhow::anyhow!("--signature: {error}"))?
        }
        (None, None) => bail!("an owner's key or a signature is needed"),
    };
    let approval = desk.examine(&placed, &signature, (COMMAND_LINE, SystemClock.now())).await?;
    let tx = db.begin().await?;
    desk.approve(&tx, placed.proposal.id, &approval).await?;
    tx.commit().await?;
    let (placed, state) = find(desk, db, &args.id).await?;
    say_motion(&desk.shown(&placed, &state));
    Ok(())
}

async fn find(desk: &VaultDesk, db: &Db, id: &str) -> Result<(Placed, motions::State)> {
    let id = VaultProposalId::parse(id)?;
    desk.find(db, id, SystemClock.now()).await?.with_context(|| format!("there is no proposal {id}"))
}

// --------------------------------------------------------------------------------------------------------------- execute

async fn execute(config: &Config, desk: &VaultDesk, db: &Db, args: &ExecuteArgs) -> Result<()> {
    let key = Key::read(&args.key)?;
    let chain = connect(config).await?;
    let admin = administrator(config, &*chain, &key);
    let (placed, state) = find(desk, db, &args.id).await?;
    ensure!(placed.standing.is_open(), "the motion is {}", placed.standing.as_str());
    ensure!(
        placed.approvals.len() >= usize::from(state.threshold),
        "{} of {} owners have approved, {} must",
        placed.approvals.len(),
        state.owners,
        state.threshold
    );
    ensure!(
        placed.motion.nonce == state.nonce,
        "motions are carried out in the order of their nonces: this one has {}, the next is {}",
        placed.motion.nonce,
        state.nonce
    );
    let vault = desk.vault().address;
    let calldata = motions::execute(&placed.motion, &placed.approvals);
    let receipt = match admin.send(Some(&vault), &calldata).await {
        Err(ChainError::Reverted(Refusal::NotScheduled)) if state.scheduled.is_none() => {
            let schedule =
                motions::schedule(&placed.motion, &placed.approvals).context("a cancellation never waits")?;
            admin.send(Some(&vault), &schedule).await?;
            if state.delay_secs > 0 {
                let (placed, state) = find(desk, db, &args.id).await?;
                say_motion(&desk.shown(&placed, &state));
                let ready_at = state.scheduled.map_or(0, |(_, ready_at)| ready_at);
                say(format_args!(
                    "scheduled: give the command again from {} on; until then the owners can cancel it",
                    at(block_time(ready_at))
                ));
                return Ok(());
            }
            admin.send(Some(&vault), &calldata).await?
        }
        Err(ChainError::Reverted(Refusal::NotScheduled)) => {
            bail!("another operation waits in the vault: carry that one out, or cancel it, first")
        }
        Err(ChainError::Reverted(Refusal::NotReady(ready_at))) => {
            bail!("it waits for the vault's delay, until {}", at(block_time(ready_at)))
        }
        sent => sent?,
    };
    let (placed, state) = find(desk, db, &args.id).await?;
    say_motion(&desk.shown(&placed, &state));
    say(format_args!("carried out in block {}", receipt.block_number));
    Ok(())
}

// ------------------------------------------------------------------------------------------------------------------ show

async fn show(desk: &VaultDesk, db: &Db, args: &ShowArgs) -> Result<()> {
    if let Some(id) = &args.id {
        let (placed, state) = find(desk, db, id).await?;
        let shown = desk.shown(&placed, &state);
        if args.typed_data {
            say(serde_json::to_string_pretty(&shown.typed_data)?);
        } else {
            say_motion(&shown);
        }
        return Ok(());
    }
    let vault = desk.show().await?;
    say(format_args!(
        "vault {} on chain {}: {} of {} owners approve, large operations wait {} s, next nonce {}",
        vault.address, vault.chain_id, vault.threshold, vault.owners, vault.delay_secs, vault.nonce
    ));
    if let (Some(digest), Some(ready_at)) = (&vault.scheduled, &vault.ready_at) {
        say(format_args!("scheduled: {digest}, ready at {ready_at}"));
    }
    for minting in &vault.minting {
        let units = |text: &str| decimal(text, minting.token_decimals);
        say(format_args!(
            "{}: the manager may mint {} more; up to {} is allowed without delay",
            minting.currency,
            units(&minting.allowance),
            units(&minting.cap)
        ));
    }
    let (placed, state) = desk.newest(db, SystemClock.now()).await?;
    for placed in placed {
        let shown = desk.shown(&placed, &state);
        let first = shown.calls.first().map_or("use the nonce up", |call| call.in_words.as_str());
        say(format_args!(
            "{}  nonce {:<4} {:<10} {} of {}  {first}",
            shown.id,
            shown.nonce,
            shown.state,
            shown.approvals.len(),
            shown.approvals_needed,
        ));
    }
    Ok(())
}

fn say_motion(shown: &VaultProposalBody) {
    say(format_args!("{}  {} under nonce {}: {}", shown.id, shown.kind, shown.nonce, shown.state));
    say(format_args!("  why       {}", shown.note));
    if shown.calls.is_empty() {
        say("  does      use the nonce up, and nothing else");
    }
    for call in &shown.calls {
        say(format_args!("  does      {}", call.in_words));
    }
    say(format_args!("  void at   {}", at(block_time(shown.deadline))));
    say(format_args!("  digest    {}", shown.digest));
    say(format_args!(
        "  approved  by {} of the {} that it takes",
        shown.approvals.len(),
        shown.approvals_needed
    ));
    for approval in &shown.approvals {
        say(format_args!("            {} at {}", approval.owner, approval.given_at));
    }
}

/// Token units as a decimal number.
fn decimal(units: &str, decimals: u8) -> String {
    let decimals = usize::from(decimals);
    let digits = format!("{units:0>width$}", width = decimals.saturating_add(1));
    let (whole, part) = digits.split_at(digits.len().saturating_sub(decimals));
    if part.is_empty() { whole.to_owned() } else { format!("{whole}.{part}") }
}
