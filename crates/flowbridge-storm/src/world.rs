//! The system under the storm: real processes on a real PostgreSQL and a real chain node, with a proxy on every line.

use crate::disk::Disk;
use crate::process::{Process, Recipe};
use crate::proxy::{Proxy, Upstream};
use crate::tls::CertificateAuthority;
use anyhow::{Context as _, Result, bail, ensure};
use flowbridge_domain::id::PaymentId;
use flowbridge_embedded::{AnvilSettings, EmbeddedAnvil, EmbeddedPostgres};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// How deep reorganisations can go.
const STATES_KEPT: u32 = 64;
/// Blocks that keep their transactions: what a reorganisation has to write down anew, while the chain stands still. Nobody who
/// reads it is away for so long.
const BLOCKS_KEPT: u32 = 1_024;
/// How long a start may take.
const START_PATIENCE: Duration = Duration::from_secs(180);

/// The processes by their place in the world, each with its role.
pub(crate) const PROCESSES: [(&str, &str); 9] = [
    ("bank-simulator", "bank-simulator"),
    ("gateway-1", "gateway"),
    ("gateway-2", "gateway"),
    ("orchestrator-1", "orchestrator"),
    ("orchestrator-2", "orchestrator"),
    ("chain", "chain"),
    ("bank", "bank"),
    ("webhooks", "webhooks"),
    ("jobs", "jobs"),
];

/// What a world is like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conditions<'a> {
    /// Of the configuration, on top of those that make leases and time-outs short.
    pub(crate) settings: &'a [(&'a str, &'a str)],
    /// The chain's pace.
    pub(crate) block_time: Duration,
    /// The size of a file system of PostgreSQL's own; 0 for none.
    pub(crate) disk_bytes: u64,
}

/// Events that nobody can take in, by their key.
#[derive(Debug, Default)]
pub(crate) struct Poison {
    /// They are in the log.
    pub(crate) written: BTreeSet<PaymentId>,
    /// They may be.
    pub(crate) tried: BTreeSet<PaymentId>,
}

/// Everything that runs, and every line between.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) home: PathBuf,
    _socket_folder: tempfile::TempDir,
    pub(crate) postgres: Mutex<EmbeddedPostgres>,
    /// PostgreSQL's own, where that can be had.
    pub(crate) disk: Option<Disk>,
    pub(crate) poison: std::sync::Mutex<Poison>,
    pub(crate) anvil: Mutex<EmbeddedAnvil>,
    pub(crate) processes: Vec<Mutex<Process>>,
    /// The database, past the proxy: for locks and broken backends.
    pub(crate) database_url: String,
    /// The ways to PostgreSQL: the second is that of one gateway and one orchestrator.
    pub(crate) postgres_lines: [Arc<Proxy>; 2],
    pub(crate) rpc_line: Arc<Proxy>,
    /// The first of two ways to the chain node; both end in `rpc_line`.
    pub(crate) first_node_line: Arc<Proxy>,
    pub(crate) socket_line: Arc<Proxy>,
    pub(crate) bank_line: Arc<Proxy>,
    pub(crate) gateway_lines: [Arc<Proxy>; 2],
    /// Whom the role `webhooks` trusts to certify receivers.
    pub(crate) authority: CertificateAuthority,
    /// Issuer of tokens and audience of assertions.
    pub(crate) issuer: String,
    pub(crate) rpc_url: String,
    pub(crate) simulator_url: String,
    pub(crate) simulator_key: String,
    pub(crate) http: reqwest::Client,
}

impl World {
    /// Sets the stage with `flowbridge dev --once`, then runs the same data as many processes.
    pub(crate) async fn start(binary: &Path, home: &Path, conditions: Conditions<'_>) -> Result<Self> {
        let Conditions { settings, block_time, disk_bytes } = conditions;
        let mut ports = Ports::default();
        let port = ports.for_dev()?;
        let set = tokio::process::Command::new(binary)
            .args(["dev", "--once", "--fresh", "--port", &port.to_string()])
            .current_dir(home)
            .output()
            .await
            .context("run `flowbridge dev --once`")?;
        ensure!(
            set.status.success(),
            "`flowbridge dev --once` failed:\n{}{}",
            String::from_utf8_lossy(&set.stdout),
            String::from_utf8_lossy(&set.stderr)
        );
        let data = home.join(".flowbridge");
        let chain_port = port + 465;
        let (postgres_folder, chain_folder) = (data.join("postgres"), data.join("chain"));
        let disk = own_disk(&postgres_folder, home, disk_bytes);
        let (postgres, anvil) = tokio::task::spawn_blocking(move || {
            let postgres = EmbeddedPostgres::start(&postgres_folder, None)?;
            let anvil = EmbeddedAnvil::start(AnvilSettings {
                port: Some(chain_port),
                block_time,
                idle_block_time: block_time,
                states_kept: STATES_KEPT,
                blocks_kept: BLOCKS_KEPT,
                ..AnvilSettings::in_folder(chain_folder)
            })?;
            Ok::<_, anyhow::Error>((postgres, anvil))
        })
        .await??;
        let (database_url, socket) = (postgres.url(), postgres.socket());
        // The path of a socket is short, that of a working folder may be long.
        let socket_folder = tempfile::Builder::new().prefix("fb-storm-").tempdir_in("/tmp")?;
        let sockets = socket_folder.path().to_owned();
        let postgres_lines = [
            Proxy::postgres(&sockets.join("1"), socket.clone())?,
            Proxy::postgres(&sockets.join("2"), socket)?,
        ];
        let rpc_line = Proxy::tcp(Upstream::Tcp(chain_port)).await?;
        let first_node_line = Proxy::tcp(Upstream::Tcp(rpc_line.port()?)).await?;
        let socket_line = Proxy::tcp(Upstream::Tcp(chain_port)).await?;
        let bank_line = Proxy::tcp(Upstream::Tcp(port + 2)).await?;
        let gateway_ports = [port, ports.free()?];
        let gateway_lines = [
            Proxy::tcp(Upstream::Tcp(gateway_ports[0])).await?,
            Proxy::tcp(Upstream::Tcp(gateway_ports[1])).await?,
        ];
        let authority = CertificateAuthority::new("FlowBridge storm")?;
        let trusted = data.join("receivers.pem");
        std::fs::write(&trusted, authority.pem())?;
        let config = data.join("storm.toml");
        write_config(&data.join("flowbridge.toml"), &config, &bank_line)?;
        let mut environment = |name: &str| -> Result<Vec<(String, String)>> {
            let gateway = if name == "gateway-2" { gateway_ports[1] } else { gateway_ports[0] };
            let way = sockets.join(if name.ends_with("-2") { "2" } else { "1" });
            Ok([
                ("DATABASE__URL", format!("postgresql:///flowbridge?host={}&user=flowbridge", way.display())),
                (
                    "CHAIN__ENDPOINTS",
                    format!(
                        r#"[{{name="first",rpc_url="http://{}",ws_url="ws://{}"}},{{name="second",rpc_url="http://{}"}}]"#,
                        first_node_line.authority(),
                        socket_line.authority(),
                        rpc_line.authority()
                    ),
                ),
                ("CHAIN__FEE_BUMP_AFTER_MS", "3000".to_owned()),
                ("CHAIN__LEASE_MS", "5000".to_owned()),
                ("BANK__TIMEOUT_MS", "3000".to_owned()),
                ("BANK__LEASE_MS", "10000".to_owned()),
                // The oracle asks the banks for everything when all is over.
                ("BANK_SIMULATOR__OPERATIONS_KEPT_MAX", u32::MAX.to_string()),
                ("RECONCILIATION__LEASE_MS", "60000".to_owned()),
                ("WEBHOOKS__TIMEOUT_MS", "2000".to_owned()),
                ("GATEWAY__LISTEN", format!("127.0.0.1:{gateway}")),
                ("OBSERVABILITY__METRICS_LISTEN", format!("127.0.0.1:{}", ports.free()?)),
                ("OBSERVABILITY__LOG_FORMAT", "json".to_owned()),
                ("OBSERVABILITY__LOG_FILTER", "warn".to_owned()),
            ]
            .into_iter()
            .chain(settings.iter().map(|(name, value)| (*name, (*value).to_owned())))
            .map(|(name, value)| (format!("FLOWBRIDGE__{name}"), value))
            .collect())
        };
        let mut processes = Vec::new();
        for (name, role) in PROCESSES {
            let mut environment = environment(name)?;
            if role == "webhooks" {
                environment.push(("SSL_CERT_FILE".to_owned(), trusted.display().to_string()));
            }
            let recipe = Recipe {
                name: name.to_owned(),
                role,
                binary: binary.to_owned(),
                home: home.to_owned(),
                config: config.clone(),
                environment,
            };
            let mut process = Process::new(recipe);
            process.start()?;
            processes.push(Mutex::new(process));
        }
        let simulator_key =
            std::fs::read_to_string(data.join("keys").join("bank-admin.key"))?.trim().to_owned();
        let world = Self {
            home: home.to_owned(),
            _socket_folder: socket_folder,
            rpc_url: anvil.rpc_url(),
            postgres: Mutex::new(postgres),
            anvil: Mutex::new(anvil),
            processes,
            database_url,
            postgres_lines,
            disk,
            poison: std::sync::Mutex::default(),
            rpc_line,
            first_node_line,
            socket_line,
            bank_line,
            gateway_lines,
            authority,
            issuer: format!("http://127.0.0.1:{port}"),
            simulator_url: format!("http://127.0.0.1:{}", port + 2),
            simulator_key,
            http: reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build()?,
        };
        world.wait_ready().await?;
        world.wait_until_ready(&world.simulator_url).await?;
        for process in &world.processes {
            let mut process = process.lock().await;
            let log = process.log();
            ensure!(!process.has_ended(), "{} ended at its start: {}", process.recipe.name, log.display());
        }
        Ok(world)
    }

    /// Waits until both gateways are ready.
    pub(crate) async fn wait_ready(&self) -> Result<()> {
        for line in &self.gateway_lines {
            self.wait_until_ready(&format!("http://{}", line.authority())).await?;
        }
        Ok(())
    }

    async fn wait_until_ready(&self, url: &str) -> Result<()> {
        let began = Instant::now();
        let is_ready = async || {
            let answer = self.http.get(format!("{url}/readyz")).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        };
        while !is_ready().await {
            ensure!(
                began.elapsed() < START_PATIENCE,
                "{url} was not ready within {START_PATIENCE:?}; logs are in {}",
                self.home.join("logs").display()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// A call of the chain node, past the proxy.
    pub(crate) async fn rpc(&self, method: &str, params: Value) -> Result<Value> {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let answer: Value = self.http.post(&self.rpc_url).json(&body).send().await?.json().await?;
        if let Some(error) = answer.get("error") {
            bail!("the chain node refused {method}: {error}");
        }
        Ok(answer.get("result").cloned().unwrap_or(Value::Null))
    }

    /// A call of the bank simulator's administration.
    pub(crate) async fn simulator(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value> {
        let url = format!("{}/admin/banks/{path}", self.simulator_url);
        let mut request = self.http.request(method, &url).bearer_auth(&self.simulator_key);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await?.error_for_status()?;
        let text = answer.text().await?;
        Ok(if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? })
    }

    /// Runs the program with these arguments on the stage, as an operator would.
    pub(crate) async fn command(&self, arguments: &[&str]) -> Result<Output> {
        let binary = self.processes.first().context("a process")?.lock().await.recipe.binary.clone();
        let mut command = tokio::process::Command::new(binary);
        let output = command.args(arguments).current_dir(&self.home).output().await;
        output.with_context(|| format!("run `flowbridge {}`", arguments.join(" ")))
    }

    /// Starts again whatever has ended by itself, and says what that was. Not the ones somebody else has in hand.
    pub(crate) async fn revive(&self) -> Result<Vec<String>> {
        let mut revived = Vec::new();
        for process in &self.processes {
            let Ok(mut process) = process.try_lock() else { continue };
            if process.has_ended() {
                process.start()?;
                revived.push(process.recipe.name.clone());
            }
        }
        if let Ok(mut postgres) = self.postgres.try_lock()
            && tokio::task::block_in_place(|| postgres.revive())?
        {
            revived.push("PostgreSQL".to_owned());
        }
        Ok(revived)
    }

    /// Ends everything in good order.
    pub(crate) async fn stop(self) -> Result<()> {
        for process in self.processes.iter().rev() {
            process.lock().await.terminate().await?;
        }
        let Self { postgres, anvil, disk, .. } = self;
        tokio::task::spawn_blocking(move || drop((postgres, anvil, disk))).await?;
        Ok(())
    }
}

/// The stage's configuration, with the banks behind the proxy.
fn write_config(stage: &Path, ours: &Path, bank_line: &Proxy) -> Result<()> {
    let mut config: toml::Table = std::fs::read_to_string(stage)?.parse()?;
    let connectors = config
        .get_mut("bank")
        .and_then(|bank| bank.get_mut("connectors"))
        .and_then(toml::Value::as_array_mut)
        .context("the stage has no banks")?;
    for connector in connectors {
        let connector = connector.as_table_mut().context("a bank is a table")?;
        connector.insert("url".to_owned(), format!("http://{}/", bank_line.authority()).into());
    }
    Ok(std::fs::write(ours, toml::to_string(&config)?)?)
}

/// A file system for PostgreSQL alone, or a loud word on why there is none.
#[expect(clippy::print_stdout, reason = "a fault that is left out is told")]
fn own_disk(postgres: &Path, home: &Path, bytes: u64) -> Option<Disk> {
    if bytes == 0 {
        return None;
    }
    let data = std::fs::read_link(postgres.join("home")).unwrap_or_else(|_| postgres.to_owned()).join("data");
    Disk::under(&data, &home.join("postgres.image"), bytes)
        .inspect_err(|error| println!("SKIPPED: PostgreSQL's disk is never full in this storm: {error:#}"))
        .ok()
}

/// Below those that the kernel gives to outgoing connections: a process that is down for a while finds its port free again.
const PORTS: Range<u16> = 20_000..32_000;

const TRIES: usize = 200;
/// Where `flowbridge dev` listens, counted from its first port.
const PORTS_OF_DEV: [u16; 5] = [0, 1, 2, 465, 1384];

/// The ports of one world. Between being drawn and being listened on, a port looks free to whoever draws the next one: each is
/// given once.
#[derive(Debug, Default)]
struct Ports(BTreeSet<u16>);

impl Ports {
    fn free(&mut self) -> Result<u16> {
        self.draw(&[0])
    }

    /// A port from which `flowbridge dev` finds all of its own free.
    fn for_dev(&mut self) -> Result<u16> {
        self.draw(&PORTS_OF_DEV)
    }

    /// A port that is free with those so far above it.
    fn draw(&mut self, offsets: &[u16]) -> Result<u16> {
        let is_free =
            |port: u16| !self.0.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        let mut drawn = (0..TRIES).map(|_| rand::random_range(PORTS));
        let port = drawn.find(|port| offsets.iter().all(|above| is_free(port + above)));
        let port = port.with_context(|| format!("no free ports were found in {PORTS:?}"))?;
        self.0.extend(offsets.iter().map(|above| port + above));
        Ok(port)
    }
}
