//! The configuration: `config/default.toml` is built in and says what each key means; a file and the environment override it.

use anyhow::{Context, Result};
use figment::Figment;
use figment::providers::{Env, Format, Toml};
use figment::value::Dict;
use flowbridge_chain::leaf;
use flowbridge_domain::money::Currency;
use flowbridge_security::egress::EgressPolicy;
use flowbridge_store::DbSettings;
use flowbridge_store::monitor::Kept;
use flowbridge_workers::audit::AuditSettings;
use flowbridge_workers::bank::BankWorkerSettings;
use flowbridge_workers::monitor::MonitorSettings;
use flowbridge_workers::orchestrator::OrchestratorSettings;
use flowbridge_workers::place::{Bucket, BucketConfig, Place};
use flowbridge_workers::reconciliation::Settings as ReconciliationSettings;
use flowbridge_workers::webhook::{DeliverySettings, FanOutSettings, WebhookSettings};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;
use url::Url;

/// The defaults, with what each key means.
pub(crate) const DEFAULT_TOML: &str = include_str!("../../../config/default.toml");

/// How long payments may take, in seconds: a day less than the contracts take, since a block may be older than our clock says.
const EXPIRY_SECS_MAX: u64 = leaf::EXPIRY_SECS_MAX - 86_400;

/// All settings. Sections and keys are described in `config/default.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) database: DatabaseSection,
    pub(crate) gateway: GatewaySection,
    pub(crate) payments: PaymentsSection,
    pub(crate) orchestrator: OrchestratorSection,
    pub(crate) chain: ChainSection,
    pub(crate) bank: BankSection,
    pub(crate) bank_simulator: BankSimulatorSection,
    pub(crate) webhooks: WebhooksSection,
    pub(crate) reconciliation: ReconciliationSection,
    pub(crate) audit: AuditSection,
    pub(crate) breaker: BreakerSection,
    pub(crate) security: SecuritySection,
    pub(crate) observability: ObservabilitySection,
    pub(crate) explanations: ExplanationsSection,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DatabaseSection {
    pub(crate) url: String,
    pub(crate) pool_size_max: usize,
    pub(crate) pool_wait_ms_max: u64,
    pub(crate) pool_waiting_max: usize,
    pub(crate) statement_timeout_ms: u64,
    pub(crate) lock_timeout_ms: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GatewaySection {
    pub(crate) listen: SocketAddr,
    pub(crate) public_url: Url,
    pub(crate) request_bytes_max: usize,
    pub(crate) bulk_bytes_max: usize,
    pub(crate) bulk_lines_max: usize,
    pub(crate) client_requests_max: NonZeroU32,
    pub(crate) client_window_secs: NonZeroU32,
    pub(crate) request_timeout_ms: u64,
    pub(crate) connections_max: usize,
    pub(crate) header_read_ms_max: u64,
    pub(crate) header_bytes_max: usize,
    pub(crate) drain_ms_max: u64,
    pub(crate) accept_slice_max: usize,
    pub(crate) accept_pace_ms: u64,
    pub(crate) idempotency_hours: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PaymentsSection {
    pub(crate) execution_days_max: u32,
    pub(crate) execution_spread_secs: u64,
    pub(crate) initiate_window_secs: u64,
    pub(crate) expiry_secs: u64,
    pub(crate) settle_margin_secs: u64,
    pub(crate) hold_margin_secs: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OrchestratorSection {
    pub(crate) slice_max: i64,
    pub(crate) poll_ms: u64,
    pub(crate) pace_ms: u64,
    pub(crate) lease_ms: u64,
    pub(crate) timer_interval_ms: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChainSection {
    pub(crate) endpoints: Vec<EndpointSection>,
    pub(crate) chain_id: u64,
    pub(crate) call_timeout_ms: u64,
    pub(crate) look_interval_ms: u64,
    pub(crate) behind_ms_max: u64,
    pub(crate) deployment: PathBuf,
    pub(crate) keys: PathBuf,
    pub(crate) signers: Vec<SignerSection>,
    pub(crate) finality: String,
    pub(crate) batch_size_max: usize,
    pub(crate) batch_delay_ms: u64,
    pub(crate) in_flight_max: usize,
    pub(crate) gas_per_tx_max: u64,
    pub(crate) gas_margin_percent: u64,
    pub(crate) blocks_per_query_max: u64,
    pub(crate) poll_ms: u64,
    pub(crate) pace_ms: u64,
    pub(crate) lease_ms: u64,
    pub(crate) reorg_depth_blocks_max: u64,
    pub(crate) fee_bump_after_ms: u64,
    pub(crate) fee_per_gas_gwei_max: u64,
}

/// Who signs for a lane.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct SignerSection {
    pub(crate) lane: String,
    #[serde(flatten)]
    pub(crate) kind: SignerKind,
}

/// Where a lane's key is.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum SignerKind {
    Keystore { file: PathBuf, password_file: PathBuf },
    Pkcs11 { module: PathBuf, token: String, key: String, pin_file: PathBuf },
    AwsKms { region: String, key_id: String, credentials_file: PathBuf, endpoint: Option<String> },
}

/// One node of the chain and how to reach it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EndpointSection {
    pub(crate) name: String,
    pub(crate) rpc_url: Url,
    pub(crate) ws_url: Option<Url>,
    pub(crate) token_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BankSection {
    pub(crate) listen: SocketAddr,
    pub(crate) url: Url,
    pub(crate) slice_max: usize,
    pub(crate) lease_ms: u64,
    pub(crate) poll_ms: u64,
    pub(crate) pace_ms: u64,
    pub(crate) calls_per_bank_max: usize,
    pub(crate) timeout_ms: u64,
    pub(crate) connectors: Vec<ConnectorSection>,
}

/// One bank and how to reach it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConnectorSection {
    pub(crate) code: String,
    pub(crate) name: String,
    pub(crate) hold_mode: String,
    pub(crate) kind: ConnectorKind,
    pub(crate) url: Url,
    pub(crate) key_file: PathBuf,
    #[serde(default)]
    pub(crate) statements: StatementsBy,
}

/// How a bank's statements come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StatementsBy {
    /// Its connector reads them.
    #[default]
    Connector,
    /// Somebody brings them.
    File,
}

/// The protocols that a connector can speak.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ConnectorKind {
    /// The bank simulator's.
    Simulator,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BankSimulatorSection {
    pub(crate) listen: SocketAddr,
    pub(crate) data: PathBuf,
    pub(crate) client_key_file: PathBuf,
    pub(crate) admin_key_file: PathBuf,
    pub(crate) operations_kept_max: u64,
    pub(crate) entries_kept_max: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WebhooksSection {
    pub(crate) timeout_ms: u64,
    pub(crate) pace_ms: u64,
    pub(crate) in_flight_per_endpoint_max: i64,
    pub(crate) private_ranges_allowed: Vec<String>,
    pub(crate) public_allowed: bool,
    pub(crate) deliveries_kept_days: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReconciliationSection {
    pub(crate) nightly_at: String,
    pub(crate) folder: String,
    pub(crate) s3: S3Section,
    pub(crate) poll_ms: u64,
    pub(crate) lease_ms: u64,
    pub(crate) attempts_max: i32,
    pub(crate) records_max: usize,
    pub(crate) transit_days_max: i32,
    pub(crate) auto_minor_units_max: u64,
    pub(crate) shadow_first: bool,
    pub(crate) audit_ppm: u32,
    pub(crate) models: String,
    pub(crate) chain_lookback_hours: u64,
    pub(crate) threads_max: usize,
    pub(crate) statement_bytes_max: usize,
}

/// How a bucket is reached, as a signer with AWS KMS is.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct S3Section {
    pub(crate) region: String,
    pub(crate) credentials_file: PathBuf,
    pub(crate) endpoint: String,
}

impl S3Section {
    /// A folder, or a bucket that is reached as this says; none without a name.
    fn place(&self, name: &str, is_locked: bool) -> Result<Option<Place>> {
        if name.is_empty() {
            return Ok(None);
        }
        if !name.contains("://") {
            return Ok(Some(Place::Folder(name.into())));
        }
        let bucket = Bucket::open(&BucketConfig {
            url: name.to_owned(),
            region: self.region.clone(),
            endpoint: Some(self.endpoint.clone()).filter(|endpoint| !endpoint.is_empty()),
            credentials_file: self.credentials_file.clone(),
            is_locked,
        })?;
        Ok(Some(Place::Bucket(bucket)))
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuditSection {
    pub(crate) key_file: PathBuf,
    pub(crate) origin: String,
    pub(crate) keys_before: Vec<String>,
    pub(crate) archive: String,
    pub(crate) s3: S3Section,
    pub(crate) checkpoint_secs: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BreakerSection {
    pub(crate) pauses: bool,
    pub(crate) reserve_difference_max: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SecuritySection {
    pub(crate) keys: PathBuf,
    pub(crate) token_ttl_secs: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ObservabilitySection {
    pub(crate) log_format: String,
    pub(crate) log_filter: String,
    pub(crate) otlp_endpoint: String,
    pub(crate) metrics_listen: SocketAddr,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExplanationsSection {
    pub(crate) url: String,
    pub(crate) urls_allowed: Vec<String>,
    pub(crate) model: String,
    pub(crate) key_file: PathBuf,
    pub(crate) timeout_ms: u64,
    pub(crate) asked_per_run_max: usize,
}

impl BreakerSection {
    fn bears(&self) -> Result<BTreeMap<Currency, u64>> {
        let bounds = self.reserve_difference_max.iter().map(|(code, minor_units)| {
            let currency = Currency::parse(code)
                .with_context(|| format!("[breaker] reserve_difference_max: {code} is no currency"))?;
            Ok((currency, *minor_units))
        });
        bounds.collect()
    }
}

impl Config {
    /// Defaults, then the file, then the environment (`FLOWBRIDGE__SECTION__KEY`).
    pub(crate) fn load(file: Option<&Path>) -> Result<Self> {
        let mut figment = Figment::from(Toml::string(DEFAULT_TOML));
        if let Some(file) = file {
            anyhow::ensure!(file.exists(), "there is no configuration file {}", file.display());
            figment = figment.merge(Toml::file_exact(file));
        }
        let figment = figment.merge(Env::prefixed("FLOWBRIDGE__").split("__"));
        let config: Self = figment.extract().context(
            "the configuration cannot be used; `flowbridge config` prints every key with its default",
        )?;
        refuse_empty_limits(&figment)?;
        anyhow::ensure!(
            config.payments.expiry_secs <= EXPIRY_SECS_MAX,
            "[payments] expiry_secs is {}, and may be at most {EXPIRY_SECS_MAX}: the contracts open no payment that expires more than {} s later",
            config.payments.expiry_secs,
            leaf::EXPIRY_SECS_MAX
        );
        Ok(config)
    }

    /// How to reach the database.
    pub(crate) fn database(&self) -> DbSettings {
        let section = &self.database;
        DbSettings {
            url: section.url.clone(),
            pool_size_max: section.pool_size_max,
            pool_wait_max: Duration::from_millis(section.pool_wait_ms_max),
            pool_waiting_max: section.pool_waiting_max,
            statement_timeout: Duration::from_millis(section.statement_timeout_ms),
            lock_timeout: Duration::from_millis(section.lock_timeout_ms),
        }
    }

    /// Limits of the orchestrator.
    pub(crate) fn orchestrator(&self) -> OrchestratorSettings {
        let section = &self.orchestrator;
        OrchestratorSettings {
            slice_max: section.slice_max,
            poll: Duration::from_millis(section.poll_ms),
            pace: Duration::from_millis(section.pace_ms),
            lease: Duration::from_millis(section.lease_ms),
            timer_interval: Duration::from_millis(section.timer_interval_ms),
        }
    }

    /// Limits of the bank worker.
    pub(crate) fn bank_worker(&self) -> BankWorkerSettings {
        let section = &self.bank;
        BankWorkerSettings {
            slice_max: section.slice_max,
            calls_per_bank_max: section.calls_per_bank_max,
            lease: Duration::from_millis(section.lease_ms),
            poll: Duration::from_millis(section.poll_ms),
            pace: Duration::from_millis(section.pace_ms),
            ..BankWorkerSettings::default()
        }
    }

    /// The issuer of tokens and the audience of client assertions: the public address, without a slash at its end.
    pub(crate) fn issuer(&self) -> String {
        self.gateway.public_url.as_str().trim_end_matches('/').to_owned()
    }

    /// Limits of the webhooks' role.
    pub(crate) fn webhooks(&self) -> Result<WebhookSettings> {
        let section = &self.webhooks;
        let ranges = section
            .private_ranges_allowed
            .iter()
            .map(|range| {
                range
                    .parse()
                    .with_context(|| format!("[webhooks] private_ranges_allowed: {range} is no CIDR"))
            })
            .collect::<Result<Vec<_>>>()?;
        let egress = EgressPolicy::new(ranges);
        Ok(WebhookSettings {
            delivery: DeliverySettings {
                source: self.issuer(),
                timeout: Duration::from_millis(section.timeout_ms),
                pace: Duration::from_millis(section.pace_ms),
                in_flight_per_endpoint_max: section.in_flight_per_endpoint_max,
                egress: if section.public_allowed { egress } else { egress.closed() },
                ..DeliverySettings::default()
            },
            fan_out: FanOutSettings {
                pace: Duration::from_millis(section.pace_ms),
                ..FanOutSettings::default()
            },
            ..WebhookSettings::default()
        })
    }

    /// Limits of reconciliation, and of the breaker that it can trip.
    pub(crate) fn reconciliation(&self) -> Result<ReconciliationSettings> {
        let section = &self.reconciliation;
        Ok(ReconciliationSettings {
            poll: Duration::from_millis(section.poll_ms),
            lease: Duration::from_millis(section.lease_ms),
            attempts_max: section.attempts_max,
            records_max: section.records_max,
            transit_days_max: section.transit_days_max,
            threads: section.threads_max,
            auto_minor_units_max: section.auto_minor_units_max.into(),
            shadow_first: section.shadow_first,
            audit_ppm: section.audit_ppm,
            models: Some(PathBuf::from(&section.models)).filter(|folder| !folder.as_os_str().is_empty()),
            chain_lookback: Duration::from_secs(section.chain_lookback_hours.saturating_mul(3600)),
            nightly_at: time_of_day(&section.nightly_at)?,
            breaker_pauses: self.breaker.pauses,
            breaker_bears: self.breaker.bears()?,
            ..ReconciliationSettings::default()
        })
    }

    /// Where statements are dropped, if anywhere. Only the role that takes them in asks: a bucket's credentials are with it alone.
    pub(crate) fn drop_folder(&self) -> Result<Option<Place>> {
        let ReconciliationSection { folder, s3, .. } = &self.reconciliation;
        s3.place(folder, false).context("[reconciliation] folder and s3")
    }

    /// Limits of the audit log.
    pub(crate) fn audit(&self) -> AuditSettings {
        AuditSettings {
            checkpoint_interval: Duration::from_secs(self.audit.checkpoint_secs.max(1)),
            ..AuditSettings::default()
        }
    }

    /// The archive, if there is one: the configured one, or another that is named as it would be.
    pub(crate) fn archive(&self, other: Option<&str>) -> Result<Option<Place>> {
        self.audit.s3.place(other.unwrap_or(&self.audit.archive), true).context("[audit] archive and s3")
    }

    /// The name of the audit log.
    pub(crate) fn audit_origin(&self) -> String {
        if !self.audit.origin.is_empty() {
            return self.audit.origin.clone();
        }
        let url = &self.gateway.public_url;
        let host = url.host_str().unwrap_or("flowbridge");
        url.port().map_or_else(|| format!("{host}/audit"), |port| format!("{host}:{port}/audit"))
    }

    /// How often the monitor looks.
    pub(crate) fn monitor(&self) -> MonitorSettings {
        MonitorSettings {
            kept: Kept {
                idempotency: Duration::from_secs(self.gateway.idempotency_hours.saturating_mul(3600)),
                deliveries: Duration::from_secs(self.webhooks.deliveries_kept_days.saturating_mul(24 * 3600)),
            },
            ..MonitorSettings::default()
        }
    }
}

/// Reads `01:30`; none when it is empty.
fn time_of_day(text: &str) -> Result<Option<Duration>> {
    if text.is_empty() {
        return Ok(None);
    }
    let number = |text: &str, below: u64| text.parse::<u64>().ok().filter(|number| *number < below);
    let parts =
        text.split_once(':').and_then(|(hours, minutes)| Some((number(hours, 24)?, number(minutes, 60)?)));
    let (hours, minutes) = parts
        .with_context(|| format!("[reconciliation] nightly_at: {text} is no time of day such as 01:30"))?;
    Ok(Some(Duration::from_secs(hours * 3600 + minutes * 60)))
}

/// Limits that may be nothing: then no match is taken, and every entry is overdue at once.
const MAY_BE_ZERO: [&str; 2] = ["auto_minor_units_max", "transit_days_max"];

/// What may do nothing at a time, or has no time for it, stands still and says nothing about why.
fn refuse_empty_limits(figment: &Figment) -> Result<()> {
    let sections: Dict = figment.extract()?;
    for (section, keys) in &sections {
        for (key, value) in keys.as_dict().into_iter().flatten() {
            let is_limit = ["_max", "timeout_ms", "lease_ms", "poll_ms"].iter().any(|end| key.ends_with(end));
            let is_empty = value.to_i128().is_some_and(|limit| limit < 1);
            anyhow::ensure!(
                !is_limit || !is_empty || MAY_BE_ZERO.contains(&key.as_str()),
                "[{section}] {key} has to be at least 1; `flowbridge config` prints every key with its default"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotated_defaults_are_a_whole_configuration() {
        let config = Config::load(None).unwrap();
        assert_eq!(config.orchestrator.slice_max, OrchestratorSettings::default().slice_max);
        assert!(
            config.webhooks.private_ranges_allowed.is_empty(),
            "production reaches public addresses only"
        );
        assert!(config.explanations.url.is_empty(), "no language model is asked unless somebody says which");
        assert!(config.drop_folder().unwrap().is_none());
    }

    #[test]
    fn payments_that_the_contracts_would_not_open_are_refused_before_anything_starts() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let load = |secs: u64| {
            std::fs::write(file.path(), format!("[payments]\nexpiry_secs = {secs}\n")).unwrap();
            Config::load(Some(file.path()))
        };
        assert_eq!(load(89 * 86_400).unwrap().payments.expiry_secs, 89 * 86_400);
        let error = format!("{:#}", load(89 * 86_400 + 1).unwrap_err());
        assert!(error.contains("[payments] expiry_secs is 7689601"), "{error}");
    }

    #[test]
    fn limits_of_nothing_are_refused_before_anything_stands_still() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let load = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            Config::load(Some(file.path())).map_err(|error| format!("{error:#}"))
        };
        for (section, key, limit) in [
            ("chain", "batch_size_max", 0),
            ("bank", "lease_ms", 0),
            ("webhooks", "in_flight_per_endpoint_max", -1),
        ] {
            let error = load(&format!("[{section}]\n{key} = {limit}\n")).unwrap_err();
            assert!(error.contains(&format!("[{section}] {key} has to be at least 1")), "{error}");
        }
        load("[chain]\nbatch_delay_ms = 0\n[reconciliation]\nauto_minor_units_max = 0\n").unwrap();
    }

    #[test]
    fn a_bucket_wants_a_name_a_region_and_credentials_before_anything_starts() {
        let credentials = tempfile::NamedTempFile::new().unwrap();
        let written = r#"{"access_key_id": "AKIA", "secret_access_key": "s3cret"}"#;
        std::fs::write(credentials.path(), written).unwrap();
        let mut config = Config::load(None).unwrap();
        let mut open = |folder: &str, region: &str, file: &Path| {
            let section = &mut config.reconciliation;
            section.folder = folder.to_owned();
            section.s3.region = region.to_owned();
            section.s3.credentials_file = file.to_owned();
            config.drop_folder().map_err(|error| format!("{error:#}"))
        };
        let (file, nowhere) = (credentials.path(), Path::new("/nowhere/credentials.json"));
        let opened = open("s3://statements/drop", "eu-central-1", file).unwrap();
        let shown = format!("{opened:?}");
        assert!(shown.contains("s3://statements/drop") && !shown.contains("s3cret"), "{shown}");
        assert!(matches!(open("/var/statements", "", nowhere), Ok(Some(Place::Folder(_)))));
        let refused = |opened: Result<Option<Place>, String>, what: &str| {
            let error = opened.unwrap_err();
            assert!(error.contains("[reconciliation]") && error.contains(what), "{error}");
        };
        refused(open("s3://AKIA:s3cret@statements", "eu-central-1", file), "s3://BUCKET/PREFIX");
        refused(open("gs://statements", "eu-central-1", file), "s3://BUCKET/PREFIX");
        refused(open("s3://statements", "", file), "region");
        refused(open("s3://statements", "eu-central-1", nowhere), "credentials_file");
    }

    #[test]
    fn a_key_that_does_not_exist_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[gateway]\nlissten = \"127.0.0.1:1\"\n").unwrap();
        let error = format!("{:#}", Config::load(Some(file.path())).unwrap_err());
        assert!(error.contains("lissten"), "{error}");
    }
}
