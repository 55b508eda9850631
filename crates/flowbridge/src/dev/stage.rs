//! Setting the development stage: configuration, keys, contracts, registrations, bank accounts. Each step finds what an
//! earlier run has done and does the rest.

use super::cast::{BANKS, CURRENCIES, CUSTOMERS, PARTICIPANTS};
use crate::clock::SystemClock;
use crate::commands::contracts::{administrator, deploy_one, govern_one, roles};
use crate::commands::say;
use crate::config::Config;
use anyhow::{Context as _, Result, ensure};
use flowbridge_chain::deploy::{Plan, Roles};
use flowbridge_chain::governance::{self, GovernancePlan};
use flowbridge_chain::{ContractSet, Key, Vault, call};
use flowbridge_domain::bank::HoldMode;
use flowbridge_domain::id::{AccountId, ParticipantId};
use flowbridge_domain::money::Currency;
use flowbridge_domain::party::{BankCode, EvmAddress, Iban};
use flowbridge_domain::time::{Clock as _, Timestamp};
use flowbridge_security::jose::Algorithm;
use flowbridge_security::keys::{SigningKey, create_private, load_pem};
use flowbridge_security::scope::Scope;
use flowbridge_security::{random_bytes, sha256};
use flowbridge_store::Db;
use flowbridge_store::access::{OauthClient, register_client};
use flowbridge_store::party::{self, Account, Participant};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Keys of Anvil's well-known development accounts, which hold its coins: for a development chain and nothing else.
const ADMIN_KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
const LANE_KEYS: [(&str, &str); 3] = [
    ("initiator", "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"),
    ("settler", "5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a"),
    ("canceller", "7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6"),
];
const GUARDIAN_KEY: &str = "47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a";
const HOUSE_KEY: &str = "8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba";

/// What a customer's wallet gets for transactions of its own: a hundredth of a coin.
const WALLET_COINS_WEI: u64 = 10_000_000_000_000_000;

/// What the manager may mint, and may be allowed to without delay: a thousand million, in token units.
const MINT_ALLOWANCE: u64 = 1_000_000_000_000_000;
/// Owners of the vault, and how many of them must approve.
const OWNERS: u8 = 3;
const THRESHOLD: u16 = 2;

/// The ports in use, from the API's upwards; the chain and the metrics keep their usual ones beside the default.
pub(crate) struct Ports {
    pub(crate) api: u16,
    pub(crate) bank: u16,
    pub(crate) simulator: u16,
    pub(crate) chain: u16,
    pub(crate) metrics: u16,
}

pub(crate) const fn ports(api: u16) -> Ports {
    Ports { api, bank: api + 1, simulator: api + 2, chain: api + 465, metrics: api + 1384 }
}

/// Says who should give way before anything is begun.
pub(crate) fn require_nobody_serves(port: u16) -> Result<()> {
    let Ports { api, bank, simulator, chain, metrics } = ports(port);
    for port in [api, bank, simulator, chain, metrics] {
        TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).with_context(|| {
            format!("port {port} is in use: stop what uses it (another `flowbridge dev`?), or choose others with --port")
        })?;
    }
    Ok(())
}

/// Writes keys and the configuration that all commands find. Keys that exist stay.
pub(super) fn write_config(folder: &Path, database_url: &str, port: u16) -> Result<()> {
    save_config(folder, &make_config(folder, database_url, port)?)
}

/// Writes keys, and makes the configuration of a stage in `folder`.
pub(crate) fn make_config(folder: &Path, database_url: &str, port: u16) -> Result<Value> {
    let keys = folder.join("keys");
    for (lane, key) in LANE_KEYS {
        keep_key(&keys.join("chain").join(format!("{lane}.key")), key)?;
    }
    for number in 1..=OWNERS {
        let file = keys.join("owners").join(format!("owner-{number}.key"));
        keep_key(&file, &owner(number)?.reveal())?;
    }
    keep_key(&keys.join("admin.key"), ADMIN_KEY)?;
    for name in ["bank-client.key", "bank-admin.key"] {
        let random = random_bytes::<32>()?;
        keep_key(&keys.join(name), &random.map(|byte| format!("{byte:02x}")).concat())?;
    }
    let Ports { api, bank, simulator, chain, metrics } = ports(port);
    let path = |path: PathBuf| Ok::<_, anyhow::Error>(std::path::absolute(path)?.display().to_string());
    let connectors: Vec<Value> = BANKS
        .iter()
        .map(|known| {
            Ok(json!({
                "code": known.code, "name": known.name, "hold_mode": "native", "kind": "simulator",
                "url": format!("http://127.0.0.1:{simulator}/"), "key_file": path(keys.join("bank-client.key"))?,
            }))
        })
        .collect::<Result<_>>()?;
    Ok(json!({
        "database": { "url": database_url },
        "gateway": { "listen": format!("127.0.0.1:{api}"), "public_url": format!("http://127.0.0.1:{api}") },
        "chain": {
            "endpoints": [{
                "name": "anvil", "rpc_url": format!("http://127.0.0.1:{chain}"), "ws_url": format!("ws://127.0.0.1:{chain}"),
            }],
            "deployment": path(folder.join("contracts.json"))?, "keys": path(keys.join("chain"))?,
        },
        "bank": {
            "listen": format!("127.0.0.1:{bank}"), "url": format!("http://127.0.0.1:{bank}"), "connectors": connectors,
        },
        "bank_simulator": {
            "listen": format!("127.0.0.1:{simulator}"), "data": path(folder.join("bank"))?,
            "client_key_file": path(keys.join("bank-client.key"))?, "admin_key_file": path(keys.join("bank-admin.key"))?,
        },
        "webhooks": { "private_ranges_allowed": ["127.0.0.0/8"] },
        "audit": { "key_file": path(keys.join("audit.pem"))?, "archive": path(folder.join("archive"))? },
        "security": { "keys": path(keys.join("tokens"))? },
        "observability": {
            "log_format": "pretty", "log_filter": "warn", "metrics_listen": format!("127.0.0.1:{metrics}"),
        },
    }))
}

/// Writes the configuration where all commands find it.
pub(crate) fn save_config(folder: &Path, config: &Value) -> Result<()> {
    let text = format!(
        "# Written by `flowbridge dev` at each start; see config/default.toml for what each key means.\n\n{}",
        toml::to_string(config)?
    );
    std::fs::write(folder.join("flowbridge.toml"), text).context("cannot write the configuration")
}

fn keep_key(file: &Path, contents: &str) -> Result<()> {
    if let Some(parent) = file.parent() {
        std::fs::create_dir_all(parent)?;
    }
    // One that exists stays as it is.
    create_private(file, contents.as_bytes()).with_context(|| format!("cannot write {}", file.display()))
}

/// Deploys the contracts of each currency that has none yet, registers the customers' wallets, and gives their standing
/// allowances, without which tokens that they own could not fund a payment.
pub(super) async fn deploy_contracts(config: &Config) -> Result<()> {
    for code in CURRENCIES {
        let wallets: Vec<Key> = CUSTOMERS
            .iter()
            .filter(|customer| customer.currency == code)
            .map(|customer| wallet(customer.iban))
            .collect::<Result<_>>()?;
        if deploy_currency(config, code).await? {
            let addresses: Vec<EvmAddress> = wallets.iter().map(Key::address).collect();
            register_wallets(config, code, &addresses).await?;
            allow_escrow(config, code, &wallets).await?;
            govern(config, code).await?;
        }
    }
    Ok(())
}

/// Puts a currency's contracts under the vault, and lets its owners accept at once: here nothing waits, and their keys are at
/// hand.
async fn govern(config: &Config, code: &str) -> Result<()> {
    let chain = crate::chain::connect(config).await?;
    let admin = Key::parse(ADMIN_KEY)?;
    let owners = (1..=OWNERS).map(owner).collect::<Result<Vec<_>>>()?;
    let plan = GovernancePlan {
        owners: owners.iter().map(Key::address).collect(),
        threshold: THRESHOLD,
        delay_secs: 0,
        anchorer: admin.address(),
        admin_delay_secs: 0,
        mint_cap: MINT_ALLOWANCE.into(),
    };
    let deployment = govern_one(config, &*chain, &admin, Currency::parse(code)?, &plan).await?;
    let governance = deployment.governance.as_ref().context("governed a moment ago")?;
    let accept =
        governance::take_over(&*chain, &deployment.contracts()?, governance, MINT_ALLOWANCE.into()).await?;
    let vault =
        Vault { chain: chain.clone(), chain_id: config.chain.chain_id, address: governance.vault_address()? };
    let approving = owners.get(..usize::from(THRESHOLD)).unwrap_or(&owners);
    governance::carry_out(&administrator(config, &*chain, &admin), &vault, accept, approving).await?;
    Ok(())
}

async fn allow_escrow(config: &Config, code: &str, wallets: &[Key]) -> Result<()> {
    let chain = crate::chain::connect(config).await?;
    let contracts = contracts(config, code)?;
    let calldata = call::approve(&contracts.manager, u64::MAX);
    let admin = Key::parse(ADMIN_KEY)?;
    let addresses: Vec<EvmAddress> = wallets.iter().map(Key::address).collect();
    administrator(config, &*chain, &admin).send_coins(&addresses, WALLET_COINS_WEI).await?;
    let approvals = wallets.iter().map(async |wallet| {
        administrator(config, &*chain, wallet).send(Some(&contracts.token), &calldata).await
    });
    futures_util::future::try_join_all(approvals).await?;
    Ok(())
}

fn contracts(config: &Config, code: &str) -> Result<ContractSet> {
    let deployments = crate::chain::read_deployments(config)?;
    let deployment = deployments.iter().find(|deployment| deployment.currency == code);
    Ok(deployment.with_context(|| format!("no contracts are deployed for {code}"))?.contracts()?)
}

/// Deploys the contracts of a currency; false if the record has them already.
pub(crate) async fn deploy_currency(config: &Config, code: &str) -> Result<bool> {
    let deployed =
        if config.chain.deployment.exists() { crate::chain::read_deployments(config)? } else { vec![] };
    if deployed.iter().any(|deployment| deployment.currency == code) {
        return Ok(false);
    }
    say(format_args!("deploying the contracts for {code} …"));
    let chain = crate::chain::connect(config).await?;
    let admin = Key::parse(ADMIN_KEY)?;
    let plan = Plan {
        currency: Currency::parse(code)?,
        token_decimals: 6,
        house: Key::parse(HOUSE_KEY)?.address(),
        // Until a vault has it.
        roles: Roles {
            compliance: Some(admin.address().to_string()),
            ..roles(config, &admin, &Key::parse(GUARDIAN_KEY)?).await?
        },
        mint_allowance: MINT_ALLOWANCE,
        admin_delay_secs: 0,
    };
    deploy_one(config, &*chain, &admin, &plan).await?;
    Ok(true)
}

/// Lets wallets hold a currency's tokens.
pub(crate) async fn register_wallets(config: &Config, code: &str, wallets: &[EvmAddress]) -> Result<()> {
    let chain = crate::chain::connect(config).await?;
    let key = Key::parse(ADMIN_KEY)?;
    let contracts = contracts(config, code)?;
    Ok(administrator(config, &*chain, &key).register_wallets(&contracts, wallets).await?)
}

/// An owner of the vault: a key that follows from its number, so that it is the same in every run. For development only.
fn owner(number: u8) -> Result<Key> {
    Ok(Key::from_random(sha256(format!("flowbridge dev owner {number}").as_bytes()))?)
}

/// A customer's wallet: a key that follows from the IBAN, so that it is the same in every run. For development only.
fn wallet(iban: &str) -> Result<Key> {
    Ok(Key::from_random(sha256(format!("flowbridge dev wallet {iban}").as_bytes()))?)
}

/// Registers banks, institutions, accounts and clients under ids that follow from their names.
pub(super) async fn register(config: &Config, db: &Db, folder: &Path) -> Result<()> {
    let now = SystemClock.now();
    for bank in &BANKS {
        party::save_bank(db, &BankCode::parse(bank.code)?, bank.name, HoldMode::Native, now).await?;
    }
    let tx = db.begin().await?;
    for name in PARTICIPANTS {
        let participant = Participant {
            id: participant_id(name),
            name: format!("{name} pay"),
            lei: None,
            active: true,
            status_reason: None,
            fee_basis_points: 0,
            created_at: now,
        };
        party::add_participant(&tx, &participant).await?;
    }
    for customer in &CUSTOMERS {
        let account = Account {
            id: AccountId::generate(Timestamp::EPOCH, short(customer.iban)),
            participant: participant_id(customer.participant),
            bank: BankCode::parse(customer.bank)?,
            currency: Currency::parse(customer.currency)?,
            iban: Iban::parse(customer.iban)?,
            wallet: wallet(customer.iban)?.address(),
            name: customer.name.to_owned(),
            active: true,
            created_at: now,
        };
        party::add_account(&tx, &account).await?;
    }
    tx.commit().await?;
    for name in PARTICIPANTS {
        let scopes = Scope::ALL.iter().filter(|scope| scope.is_for_participants());
        register_profile(config, db, folder, name, Some(participant_id(name)), scopes.copied().collect())
            .await?;
    }
    // Two, since some decisions take two.
    register_operator(config, db, folder, "operator").await?;
    register_operator(config, db, folder, "operator-2").await
}

/// Registers a client of our own, who sees everything.
pub(crate) async fn register_operator(config: &Config, db: &Db, folder: &Path, name: &str) -> Result<()> {
    let scopes = Scope::ALL.iter().filter(|scope| scope.is_for_operators());
    register_profile(config, db, folder, name, None, scopes.copied().collect()).await
}

/// The random part of an id that follows from a name.
pub(crate) fn short(text: &str) -> [u8; 10] {
    let digest = sha256(text.as_bytes());
    let mut short = [0; 10];
    short.iter_mut().zip(digest).for_each(|(place, byte)| *place = byte);
    short
}

/// The id of a participant of the stage.
pub(crate) fn participant_id(name: &str) -> ParticipantId {
    ParticipantId::generate(Timestamp::EPOCH, short(name))
}

/// Registers a client with a key of its own, and writes the profile that commands sign in with.
pub(crate) async fn register_profile(
    config: &Config,
    db: &Db,
    folder: &Path,
    name: &str,
    participant: Option<ParticipantId>,
    scopes: Vec<Scope>,
) -> Result<()> {
    let clients = folder.join("clients");
    std::fs::create_dir_all(&clients)?;
    let key_file = clients.join(format!("{name}.pem"));
    if !key_file.exists() {
        create_private(&key_file, SigningKey::generate(Algorithm::Es256)?.to_pem()?.as_bytes())?;
    }
    let key = load_pem(&key_file)?;
    let client_id = format!("{name}-client");
    let client = OauthClient {
        client_id: client_id.clone(),
        participant,
        name: name.to_owned(),
        scopes: scopes.into_iter().map(|scope| scope.name().to_owned()).collect(),
        jwks: json!({ "keys": [serde_json::to_value(key.public())?] }),
        active: true,
    };
    register_client(db, &client, SystemClock.now()).await?;
    let profile =
        json!({ "url": config.issuer(), "client_id": client_id, "key_file": format!("{name}.pem") });
    std::fs::write(clients.join(format!("{name}.json")), serde_json::to_string_pretty(&profile)?)?;
    Ok(())
}

/// Opens the customers' bank accounts, and pays in what is on them on the first day.
pub(super) async fn open_bank_accounts(config: &Config) -> Result<()> {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?;
    let key = std::fs::read_to_string(&config.bank_simulator.admin_key_file)?;
    let listen = config.bank_simulator.listen;
    for customer in &CUSTOMERS {
        let root = format!("http://{listen}/admin/banks/{}", customer.bank);
        let known =
            http.get(format!("{root}/accounts/{}", customer.iban)).bearer_auth(key.trim()).send().await?;
        if known.status().is_success() {
            continue;
        }
        let post = async |path: &str, body: Value| -> Result<()> {
            let answer =
                http.post(format!("{root}/{path}")).bearer_auth(key.trim()).json(&body).send().await?;
            let status = answer.status();
            ensure!(status.is_success(), "the bank simulator answered {status}: {}", answer.text().await?);
            Ok(())
        };
        post("accounts", json!({ "iban": customer.iban, "currency": customer.currency })).await?;
        let amount = json!({ "amount": customer.opening, "currency": customer.currency });
        let deposit = json!({ "deposit_id": format!("opening-{}", customer.iban), "account": customer.iban, "amount": amount });
        post("deposits", deposit).await?;
    }
    Ok(())
}

/// Tomorrow, UTC, as a date.
pub(super) fn tomorrow() -> String {
    let tomorrow = SystemClock.now().plus(Duration::from_secs(24 * 3600));
    crate::commands::at(tomorrow).chars().take(10).collect()
}
