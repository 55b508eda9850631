//! What is measured: a stack of our own in a folder, or the one that `flowbridge dev` runs here.

use super::{cast, usage::Processes};
use crate::client::{ApiClient, Profile};
use crate::config::Config;
use crate::dev::{self, stage};
use crate::roles::Role;
use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use flowbridge_embedded::{AnvilSettings, Companion, EmbeddedAnvil, EmbeddedPostgres};
use flowbridge_store::Db;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// How long a role may take to answer after its start, and to finish when it is stopped.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where to measure.
#[derive(Debug, Clone, Args)]
pub(crate) struct StackArgs {
    /// Start a stack of its own in a temporary folder; without it the one that `flowbridge dev` runs here is used
    #[arg(long)]
    pub(super) embedded: bool,
    /// Where the embedded stack's data goes, and stays
    #[arg(long, value_name = "FOLDER", requires = "embedded")]
    folder: Option<PathBuf>,
    /// Time between blocks of the embedded chain
    #[arg(long, value_name = "MS", default_value_t = 1_000, requires = "embedded")]
    block_ms: u64,
    /// A setting of the embedded stack that differs from the default, such as chain.batch_size_max=200
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", requires = "embedded")]
    settings: Vec<String>,
    /// Whether the chain is written down even where it goes with its folder.
    #[arg(skip)]
    keeps_chain: bool,
}

impl StackArgs {
    /// Has the chain written down, as in a stack that stays.
    pub(super) fn keep_chain(&mut self) {
        self.keeps_chain = true;
    }

    /// Gives the embedded stack a setting, unless the caller has given it.
    pub(super) fn set(&mut self, setting: &str) {
        self.settings.insert(0, setting.to_owned());
    }
}

/// A stack at work.
pub(super) struct Stack {
    pub(super) config: Config,
    pub(super) folder: PathBuf,
    pub(super) db: Db,
    /// Settings that are not the default's, for the record.
    pub(super) switches: Vec<String>,
    embedded: Option<Embedded>,
}

/// The parts of a stack of our own. Dropped in this order: roles before what they use.
struct Embedded {
    roles: Vec<Companion>,
    block_time: Duration,
    servers: Option<(EmbeddedPostgres, EmbeddedAnvil)>,
    _temporary: Option<TempDir>,
}

impl Stack {
    /// Starts a stack with these roles, or finds the one that runs, and registers who takes part.
    pub(super) async fn open(args: &StackArgs, roles: &[Role]) -> Result<Self> {
        let stack = if args.embedded { Self::start(args, roles).await? } else { Self::find().await? };
        let needs_banks = roles.contains(&Role::BankSimulator);
        cast::register(&stack, needs_banks).await?;
        Ok(stack)
    }

    async fn find() -> Result<Self> {
        let folder = dev::folder();
        let file = folder.join("flowbridge.toml");
        ensure!(
            file.exists(),
            "nothing runs here: start `flowbridge dev` in this folder, or give --embedded for a stack of its own"
        );
        let config = Config::load(Some(&file))?;
        let db = Db::new(&config.database())?;
        db.ping().await.context("the database of the stack in this folder does not answer")?;
        Ok(Self { config, folder, db, switches: Vec::new(), embedded: None })
    }

    async fn start(args: &StackArgs, roles: &[Role]) -> Result<Self> {
        let (folder, temporary) = match &args.folder {
            Some(folder) => (folder.clone(), None),
            // PostgreSQL runs under an account of its own when we are root, and has to get in.
            None => {
                let folder = tempfile::Builder::new()
                    .prefix("flowbridge-bench-")
                    .permissions(Permissions::from_mode(0o711))
                    .tempdir()?;
                (folder.path().to_owned(), Some(folder))
            }
        };
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let port = free_port()?;
        let block_time = Duration::from_millis(args.block_ms);
        // A chain that goes with its folder need not be written down.
        let keeps_chain = args.keeps_chain || temporary.is_none();
        let servers = start_servers(folder.clone(), port, block_time, keeps_chain).await?;
        let mut config = stage::make_config(&folder, &servers.0.url(), port)?;
        let switches = [&[ALLOWANCE.to_owned()], &*args.settings].concat();
        for setting in &switches {
            set(&mut config, setting)?;
        }
        stage::save_config(&folder, &config)?;
        let file = folder.join("flowbridge.toml");
        let config = Config::load(Some(&file))?;
        let db = Db::new(&config.database())?;
        db.migrate().await?;
        stage::deploy_currency(&config, cast::CURRENCY).await?;
        stage::register_operator(&config, &db, &folder, "operator").await?;
        stage::register_operator(&config, &db, &folder, "operator-2").await?;
        let mut embedded =
            Embedded { roles: Vec::new(), block_time, servers: Some(servers), _temporary: temporary };
        let (banks, others): (Vec<Role>, Vec<Role>) =
            roles.iter().partition(|role| **role == Role::BankSimulator);
        for (name, roles) in [("bank-simulator", banks), ("flowbridge", others)] {
            if !roles.is_empty() {
                embedded.roles.push(serve(&roles, &file, &folder.join(format!("{name}.log")))?);
            }
        }
        embedded.wait_until_ready(&config).await?;
        Ok(Self { config, folder, db, switches, embedded: Some(embedded) })
    }

    /// The API as one of the stack's clients.
    pub(super) fn client(&self, name: &str) -> Result<ApiClient> {
        ApiClient::new(Profile::load(&self.folder, name)?)
    }

    /// The processes of the stack, and ourselves.
    pub(super) async fn processes(&self) -> Result<Processes> {
        Processes::find(&self.config, &self.db).await
    }

    /// Time between blocks, where we know it.
    pub(super) fn block_time(&self) -> Option<Duration> {
        self.embedded.as_ref().map(|embedded| embedded.block_time)
    }

    /// Fails if a role has ended by itself.
    pub(super) fn require_alive(&mut self) -> Result<()> {
        for role in self.embedded.iter_mut().flat_map(|embedded| &mut embedded.roles) {
            if let Some(words) = role.last_words() {
                bail!("a process of the stack has ended:\n{words}");
            }
        }
        Ok(())
    }

    /// Stops what we started.
    pub(super) async fn close(self) -> Result<()> {
        // Stopping waits for processes, so it has a thread of its own.
        let embedded = self.embedded;
        Ok(tokio::task::spawn_blocking(move || drop(embedded)).await?)
    }
}

/// The whole load is that of one client per institution, whose allowance is not what is measured.
const ALLOWANCE: &str = "gateway.client_requests_max=1000000";

impl Embedded {
    async fn wait_until_ready(&mut self, config: &Config) -> Result<()> {
        let http = reqwest::Client::new();
        let url = format!("{}/readyz", config.issuer());
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            for role in &mut self.roles {
                if let Some(words) = role.last_words() {
                    bail!("a role did not start:\n{words}");
                }
            }
            if http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            ensure!(tokio::time::Instant::now() < deadline, "the gateway was not ready within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.roles.iter_mut().rev().for_each(|role| role.stop(PATIENCE));
        self.servers = None;
    }
}

fn serve(roles: &[Role], config: &Path, log: &Path) -> Result<Companion> {
    let program = std::env::current_exe().context("cannot find our own program")?;
    let names = roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(",");
    let arguments = [
        OsStr::new("--config"),
        config.as_os_str(),
        OsStr::new("serve"),
        OsStr::new("--roles"),
        OsStr::new(&names),
    ];
    // A process each, and a port each for its metrics, which nobody scrapes here.
    let variables = [("FLOWBRIDGE__OBSERVABILITY__METRICS_LISTEN", "127.0.0.1:0")];
    Companion::start(&program, &arguments, &variables, log)
}

async fn start_servers(
    folder: PathBuf,
    port: u16,
    block_time: Duration,
    keeps_chain: bool,
) -> Result<(EmbeddedPostgres, EmbeddedAnvil)> {
    let rpc_port = stage::ports(port).chain;
    tokio::task::spawn_blocking(move || {
        let postgres = EmbeddedPostgres::start(&folder.join("postgres"), None)?;
        let anvil = EmbeddedAnvil::start(AnvilSettings {
            port: Some(rpc_port),
            block_time,
            keeps_chain,
            ..AnvilSettings::in_folder(folder.join("chain"))
        })?;
        Ok((postgres, anvil))
    })
    .await?
}

/// A port with free ones where the stack's others will be.
fn free_port() -> Result<u16> {
    const TRIES: u32 = 64;
    (0..TRIES)
        .map(|_| rand::random_range(20_000..30_000))
        .find(|port| stage::require_nobody_serves(*port).is_ok())
        .context("found no free ports between 20000 and 32000")
}

/// Puts `section.key=value` into a configuration; a value that is no JSON is text.
fn set(config: &mut Value, setting: &str) -> Result<()> {
    let parts = setting.split_once('=').and_then(|(path, value)| Some((path.split_once('.')?, value)));
    let ((section, key), value) =
        parts.with_context(|| format!("{setting}: a setting is written section.key=value"))?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
    let object = config.as_object_mut().context("the configuration is no table")?;
    let section = object.entry(section).or_insert_with(|| json!({}));
    section
        .as_object_mut()
        .with_context(|| format!("{setting}: not a section"))?
        .insert(key.to_owned(), value);
    Ok(())
}
