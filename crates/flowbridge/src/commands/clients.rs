//! `flowbridge clients`: who may sign in, with which key and for what. Works on the database, so that the first client of a
//! new installation needs no other.

use super::say;
use crate::client::Profile;
use crate::clock::SystemClock;
use crate::config::Config;
use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Subcommand};
use flowbridge_domain::id::ParticipantId;
use flowbridge_domain::time::Clock as _;
use flowbridge_security::jose::Algorithm;
use flowbridge_security::jwk::PublicKeys;
use flowbridge_security::keys::{SigningKey, create_private};
use flowbridge_security::scope::Scope;
use flowbridge_store::Db;
use flowbridge_store::access::{self, OauthClient};
use flowbridge_store::party;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const PAGE: i64 = 100;

#[derive(Debug, Subcommand)]
pub(crate) enum ClientsCommand {
    /// List clients: whose they are, what they may do, and whether they may sign in
    List,
    /// Register a client, or give a registered one other keys and scopes
    Register(RegisterArgs),
    /// Let a client sign in no more; gateways refuse the tokens that it has within two seconds
    Disable(OneClient),
    /// Let it sign in again
    Enable(OneClient),
}

#[derive(Debug, Args)]
pub(crate) struct RegisterArgs {
    /// The client's id, which it signs in with
    client_id: String,
    /// For people
    #[arg(long)]
    name: String,
    #[command(flatten)]
    owner: Owner,
    #[command(flatten)]
    key: Key,
    /// What it may do; everything that its kind may, if none is given
    #[arg(long = "scope")]
    scopes: Vec<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Owner {
    /// Whose client it is
    #[arg(long, value_name = "ID")]
    participant: Option<String>,
    /// One of our own operators, who sees everything
    #[arg(long)]
    operator: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Key {
    /// Its public keys as it sent them: a JWK set
    #[arg(long, value_name = "FILE")]
    jwks: Option<PathBuf>,
    /// Makes a private key (ES256) in a new file, NAME.pem, and beside it NAME.json, with which commands sign in
    #[arg(long, value_name = "FILE")]
    new_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct OneClient {
    /// The client's id
    client_id: String,
}

pub(super) async fn run(command: ClientsCommand, config: &Config, db: &Db) -> Result<ExitCode> {
    match command {
        ClientsCommand::List => list(db).await?,
        ClientsCommand::Register(args) => register(args, config, db).await?,
        ClientsCommand::Disable(one) => set_status(db, &one.client_id, false).await?,
        ClientsCommand::Enable(one) => set_status(db, &one.client_id, true).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(db: &Db) -> Result<()> {
    let mut after = String::new();
    loop {
        let page = access::clients(db, &after, PAGE).await?;
        for client in &page {
            let owner = client.participant.map_or_else(|| "operator".to_owned(), |id| id.to_string());
            let status = if client.active { "active" } else { "disabled" };
            say(format_args!("{:<24} {owner:<30} {status:<8} {}", client.client_id, client.scopes.join(" ")));
        }
        match page.last() {
            Some(last) => after.clone_from(&last.client_id),
            None => return Ok(()),
        }
    }
}

async fn register(args: RegisterArgs, config: &Config, db: &Db) -> Result<()> {
    let participant = args.owner.participant.as_deref().map(ParticipantId::parse).transpose()?;
    if let Some(id) = participant {
        let known = !party::participants(db, Some(id), None, 1).await?.is_empty();
        ensure!(known, "there is no participant {id}; register it first: POST /v1/participants");
    }
    let scopes = scopes(&args.scopes, participant.is_some())?;
    let jwks = match (&args.key.jwks, &args.key.new_key) {
        (Some(file), _) => read_keys(file)?,
        (None, Some(file)) => {
            let key = new_key(file, &args.client_id, config)?;
            json!({ "keys": [serde_json::to_value(key.public())?] })
        }
        (None, None) => bail!("give --jwks or --new-key"),
    };
    let client = OauthClient {
        client_id: args.client_id,
        participant,
        name: args.name,
        scopes: scopes.iter().map(|scope| scope.name().to_owned()).collect(),
        jwks,
        active: true,
    };
    let is_ours = access::register_client(db, &client, SystemClock.now()).await?;
    ensure!(is_ours, "{} is registered for another owner; choose another id", client.client_id);
    say(format_args!("{} may sign in for {}", client.client_id, client.scopes.join(" ")));
    Ok(())
}

/// A private key in a new file, and a profile beside it.
fn new_key(file: &Path, client_id: &str, config: &Config) -> Result<SigningKey> {
    ensure!(!file.exists(), "{} exists already; a key is not written over", file.display());
    let name = file.file_name().and_then(OsStr::to_str).context("--new-key names no file")?;
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let key = SigningKey::generate(Algorithm::Es256)?;
    create_private(file, key.to_pem()?.as_bytes())
        .with_context(|| format!("cannot write {}", file.display()))?;
    let profile =
        Profile { url: config.issuer(), client_id: client_id.to_owned(), key_file: PathBuf::from(name) };
    std::fs::write(file.with_extension("json"), serde_json::to_string_pretty(&profile)?)?;
    Ok(key)
}

/// The scopes of these names, or all that a client of this kind may have.
fn scopes(names: &[String], is_of_participant: bool) -> Result<Vec<Scope>> {
    let may_have = |scope: &Scope| {
        if is_of_participant { scope.is_for_participants() } else { scope.is_for_operators() }
    };
    if names.is_empty() {
        return Ok(Scope::ALL.iter().copied().filter(may_have).collect());
    }
    let known = |name: &String| {
        let scope = Scope::ALL.iter().copied().filter(may_have).find(|scope| scope.name() == name);
        scope.with_context(|| {
            let all: Vec<&str> =
                Scope::ALL.iter().filter(|scope| may_have(scope)).map(|scope| scope.name()).collect();
            format!("{name} is no scope of such a client; there are {}", all.join(", "))
        })
    };
    names.iter().map(known).collect()
}

fn read_keys(file: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let jwks: Value =
        serde_json::from_str(&text).with_context(|| format!("{} is no JSON", file.display()))?;
    PublicKeys::from_jwks(&text)
        .with_context(|| format!("{} is no set of public keys for us", file.display()))?;
    // A private key that came by mistake must not be kept.
    let keys = jwks.get("keys").and_then(Value::as_array);
    let is_public = keys.into_iter().flatten().all(|key| key.get("d").is_none());
    ensure!(is_public, "{} holds a private key; take public ones", file.display());
    Ok(jwks)
}

async fn set_status(db: &Db, client_id: &str, active: bool) -> Result<()> {
    let is_known = access::set_client_status(db, client_id, active).await?;
    ensure!(is_known, "there is no client {client_id}; `flowbridge clients list` shows all");
    say(format_args!("{client_id} may {}sign in", if active { "" } else { "not " }));
    Ok(())
}
