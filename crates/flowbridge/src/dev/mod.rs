//! `flowbridge dev`: everything on embedded parts, in one process, with two banks and a few payments to look at.
//!
//! All of it lives in `.flowbridge/`: a private PostgreSQL, a development chain, the banks' books, keys, and a configuration
//! file that the other commands find by themselves. A second start continues where the first one stopped.

mod cast;
pub(crate) mod stage;

use crate::client::{ApiClient, Profile};
use crate::commands::say;
use crate::commands::stop_signal;
use crate::config::Config;
use crate::roles::{self, Role};
use crate::{commands, observability};
use anyhow::{Context as _, Result};
use clap::Args;
use flowbridge_embedded::{AnvilSettings, EmbeddedAnvil, EmbeddedPostgres};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// How long roles may take to finish what they are at.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often to look whether an embedded server has ended by itself.
const REVIVE_INTERVAL: Duration = Duration::from_secs(1);
/// How long a first payment may take.
const PAYMENT_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Stop after the first payments instead of serving
    #[arg(long)]
    once: bool,
    /// Throw away what earlier runs left, and begin anew
    #[arg(long)]
    fresh: bool,
    /// The port of the API; the others are the ones above it
    #[arg(long, default_value_t = 8080)]
    port: u16,
}

/// Where everything lives: `.flowbridge` in the working directory.
pub(crate) fn folder() -> PathBuf {
    PathBuf::from(".flowbridge")
}

pub(crate) async fn run(args: DevArgs) -> Result<ExitCode> {
    let folder = folder();
    if args.fresh && folder.exists() {
        stage::require_nobody_serves(args.port)?;
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        say("removed what earlier runs left");
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let first_time = !folder.join("flowbridge.toml").exists();
    stage::require_nobody_serves(args.port)?;

    say("starting a private PostgreSQL and a development chain …");
    let mut servers = Servers::start(&folder, args.port).await?;
    stage::write_config(&folder, &servers.postgres.url(), args.port)?;
    let config = Config::load(Some(&folder.join("flowbridge.toml")))?;
    let observing = observability::start(&config)?;
    let db = flowbridge_store::Db::new(&config.database())?;
    db.migrate().await?;
    stage::deploy_contracts(&config).await?;
    stage::register(&config, &db, &folder).await?;
    db.close();
    let running = roles::start(config.clone(), &Role::ALL).await?;
    stage::open_bank_accounts(&config).await?;

    if first_time {
        first_payments(&folder).await?;
    } else {
        say("went on with the data of the last run (--fresh begins anew)");
    }
    print_hints(&config);
    if !args.once {
        tokio::select! {
            () = stop_signal() => say("stopping …"),
            () = running.wait_for_end() => {}
            failed = servers.keep_alive() => failed?,
        }
    }
    let stopped = running.stop(PATIENCE).await;
    drop(observing);
    tokio::task::spawn_blocking(move || drop(servers)).await?;
    stopped.map(|()| ExitCode::SUCCESS)
}

/// The embedded servers. They block, so each call has a thread of its own.
struct Servers {
    postgres: EmbeddedPostgres,
    anvil: EmbeddedAnvil,
}

impl Servers {
    async fn start(folder: &Path, port: u16) -> Result<Self> {
        let (data, chain) = (folder.join("postgres"), folder.join("chain"));
        let rpc_port = stage::ports(port).chain;
        tokio::task::spawn_blocking(move || {
            let postgres = EmbeddedPostgres::start(&data, None)?;
            let anvil = EmbeddedAnvil::start(AnvilSettings {
                port: Some(rpc_port),
                ..AnvilSettings::in_folder(chain)
            })?;
            Ok(Self { postgres, anvil })
        })
        .await?
    }

    /// Starts again whatever ends by itself; ends only when that fails.
    async fn keep_alive(&mut self) -> Result<()> {
        loop {
            tokio::time::sleep(REVIVE_INTERVAL).await;
            let (postgres, anvil) = (&mut self.postgres, &mut self.anvil);
            let revived =
                tokio::task::block_in_place(|| Ok::<_, anyhow::Error>((postgres.revive()?, anvil.revive()?)));
            if revived? != (false, false) {
                tracing::warn!("an embedded server had ended by itself; it runs again");
            }
        }
    }
}

/// Three payments of our own, so that a newcomer sees what there is to see.
async fn first_payments(folder: &Path) -> Result<()> {
    let client = ApiClient::new(Profile::load(folder, "alpha")?)?;
    let [debtor, creditor] = cast::FIRST_PAYMENT;
    let payment = |units: i64, reference: &str| {
        json!({
            "debtor": { "iban": debtor },
            "creditor": { "iban": creditor },
            "instructed_amount": { "amount": units, "currency": "EUR" },
            "end_to_end_id": reference,
        })
    };
    let mut later = payment(9_900, "FIRST-CANCELLED");
    later["requested_execution_date"] = json!(stage::tomorrow());
    let wanted = [
        ("a payment that settles", payment(25_000, "FIRST-SETTLES"), false),
        ("a payment that the debtor's bank declines", payment(500_000_000, "FIRST-DECLINED"), false),
        ("a payment that is cancelled before its day", later, true),
    ];
    for (title, body, cancel) in wanted {
        let created = client
            .call("POST", "/v1/payments", Some(&body), Some(&crate::client::new_key()))
            .await?
            .success()?;
        let id = created.get("id").and_then(Value::as_str).context("a payment without an id")?.to_owned();
        if cancel {
            let path = format!("/v1/payments/{id}/cancel");
            client.call("POST", &path, None, Some(&crate::client::new_key())).await?.success()?;
        }
        let ended = tokio::time::timeout(PAYMENT_PATIENCE, commands::payments::follow(&client, &id)).await;
        ended.with_context(|| format!("{title} ({id}) did not end within {PAYMENT_PATIENCE:?}"))??;
        say(format_args!("\n{title}:"));
        commands::payments::show(&client, &id).await?;
    }
    Ok(())
}

fn print_hints(config: &Config) {
    say(format_args!(
        "\nFlowBridge is running.\n  \
         API        {url}  (OpenAPI: {url}/openapi.json)\n  \
         metrics    http://{metrics}/metrics\n\
         Try in a second terminal, from this folder:\n  \
         flowbridge payments submit examples/pain.001-example.xml --client operator\n  \
         flowbridge payments list\n  \
         flowbridge api GET /v1/accounts\n  \
         flowbridge proof --client operator\n  \
         curl -H \"Authorization: Bearer $(flowbridge token)\" {url}/v1/payments\n\
         (flowbridge is target/debug/flowbridge, or `cargo run --`.) Ctrl-C stops everything.",
        url = config.issuer(),
        metrics = config.observability.metrics_listen,
    ));
}
