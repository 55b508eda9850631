//! What benchmarks of the chain play on: contracts on a node of their own, accounts with wallets, and payments between them that
//! were accepted.

use crate::clock::SystemClock;
use crate::commands::stop_signal;
use anyhow::{Context as _, Result, anyhow};
use flowbridge_chain::deploy::{self, Admin, Plan, Roles};
use flowbridge_chain::watch::{Finality, WatchSettings};
use flowbridge_chain::{At, Chain, ContractSet, HttpChain, Key};
use flowbridge_domain::bank::HoldMode;
use flowbridge_domain::id::{AccountId, ParticipantId, PaymentId};
use flowbridge_domain::money::Currency;
use flowbridge_domain::party::{BankCode, EvmAddress, Iban};
use flowbridge_domain::time::{Clock as _, Timestamp};
use flowbridge_embedded::{AnvilSettings, EmbeddedAnvil, EmbeddedPostgres};
use flowbridge_security::sha256;
use flowbridge_store::Db;
use flowbridge_store::chain::{self as rows, Duty, Lane};
use flowbridge_store::measure::{self, StagedPayment};
use flowbridge_store::party::{self, Account, Participant};
use flowbridge_store::wake::Wake;
use flowbridge_workers::context::Context;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const CURRENCY: &str = "EUR";
const ACCOUNTS: u8 = 200;
/// Of all payments, in minor units.
const AMOUNT: i64 = 100;
/// What each payment moves, in token units.
pub(super) const AMOUNT_UNITS: u64 = 1_000_000;
pub(super) const CHAIN_ID: u64 = 31_337;
/// The first of Anvil's accounts, which hold its coins.
const ADMIN_KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
/// What each lane's key gets to pay for its transactions, in wei.
const LANE_COINS: u64 = 10_000_000_000_000_000_000;
const PATIENCE: Duration = Duration::from_secs(60);
/// Payments in one statement.
pub(super) const SLICE: usize = 5_000;

/// A PostgreSQL and a chain node of the run's own.
pub(super) struct Servers {
    pub(super) postgres: EmbeddedPostgres,
    pub(super) anvil: EmbeddedAnvil,
    /// Goes after what lies in it.
    _folder: TempDir,
}

impl Servers {
    pub(super) async fn start(block_time: Duration) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("flowbridge-bench-")
            .permissions(Permissions::from_mode(0o711))
            .tempdir()?;
        tokio::task::spawn_blocking(move || {
            let postgres = EmbeddedPostgres::start(&folder.path().join("postgres"), None)?;
            let chain = folder.path().join("chain");
            let settings =
                AnvilSettings { block_time, keeps_chain: false, ..AnvilSettings::in_folder(chain) };
            let anvil = EmbeddedAnvil::start(settings)?;
            Ok(Self { postgres, anvil, _folder: folder })
        })
        .await?
    }

    /// Measures on both, unless somebody stops it first; then stops both, and takes their folder away.
    pub(super) async fn measured<T>(self, measurement: impl AsyncFnOnce(&Self) -> Result<T>) -> Result<T> {
        let measured = tokio::select! {
            measured = Box::pin(measurement(&self)) => measured,
            () = stop_signal() => Err(anyhow!("stopped before there was a figure")),
        };
        tokio::task::spawn_blocking(move || drop(self)).await?;
        measured
    }
}

/// What a role of the chain works in.
pub(super) fn context(db: &Db) -> Context {
    Context { db: db.clone(), clock: Arc::new(SystemClock), wake: Wake::default(), instance: "bench".into() }
}

/// How the chain is read.
pub(super) const WATCH: WatchSettings = WatchSettings {
    finality: Finality::Confirmations(1),
    reorg_depth_blocks_max: 64,
    stretch_blocks_max: 1_000,
    stretch_logs_max: 10_000,
};

/// Contracts, keys and accounts.
pub(super) struct Stage {
    pub(super) chain: Arc<dyn Chain>,
    pub(super) contracts: ContractSet,
    /// Number and hash of the block before the contracts.
    pub(super) start: (u64, [u8; 32]),
    pub(super) keys: BTreeMap<Lane, Key>,
    pub(super) accounts: Vec<(AccountId, EvmAddress)>,
    participant: ParticipantId,
    bank: BankCode,
}

impl Stage {
    pub(super) async fn set(lane_count: u8, anvil: &EmbeddedAnvil, db: &Db) -> Result<Self> {
        let chain: Arc<dyn Chain> =
            Arc::new(HttpChain::connect(&anvil.rpc_url(), CHAIN_ID, Duration::from_secs(10)).await?);
        let keys = lanes(lane_count)
            .map(|lane| {
                let seed = sha256(format!("flowbridge bench {}", lane.as_str()).as_bytes());
                Ok((lane, Key::from_random(seed)?))
            })
            .collect::<Result<BTreeMap<Lane, Key>>>()?;
        let admin_key = Key::parse(ADMIN_KEY)?;
        let admin = Admin { chain: &*chain, chain_id: CHAIN_ID, key: &admin_key, patience: PATIENCE };
        let senders: Vec<EvmAddress> = keys.values().map(Key::address).collect();
        admin.send_coins(&senders, LANE_COINS).await?;
        let deployment = deploy::deploy(&admin, &plan(&keys, &admin_key)?).await?;
        let contracts = deployment.contracts()?;
        let accounts: Vec<(AccountId, EvmAddress)> = (0..ACCOUNTS)
            .map(|n| (AccountId::generate(Timestamp::EPOCH, [n; 10]), EvmAddress::from_bytes([n + 1; 20])))
            .collect();
        let wallets: Vec<EvmAddress> = accounts.iter().map(|(_, wallet)| *wallet).collect();
        admin.register_wallets(&contracts, &wallets).await?;
        let stage = Self {
            start: deployment.start()?,
            chain,
            contracts,
            keys,
            participant: ParticipantId::generate(Timestamp::EPOCH, [0; 10]),
            bank: BankCode::parse("alpha")?,
            accounts,
        };
        stage.register(db).await?;
        Ok(stage)
    }

    async fn register(&self, db: &Db) -> Result<()> {
        let now = SystemClock.now();
        rows::save_contracts(db, &crate::chain::stored(&self.contracts)).await?;
        party::save_bank(db, &self.bank, "Bank Alpha", HoldMode::Native, now).await?;
        let tx = db.begin().await?;
        let participant = Participant {
            id: self.participant,
            name: "bench".to_owned(),
            lei: None,
            active: true,
            status_reason: None,
            fee_basis_points: 0,
            created_at: now,
        };
        party::add_participant(&tx, &participant).await?;
        for (n, (id, wallet)) in self.accounts.iter().enumerate() {
            let account = Account {
                id: *id,
                participant: self.participant,
                bank: self.bank.clone(),
                currency: Currency::parse(CURRENCY)?,
                iban: Iban::parse(&super::cast::iban(0, n))?,
                wallet: *wallet,
                name: format!("Customer {n}"),
                active: true,
                created_at: now,
            };
            party::add_account(&tx, &account).await?;
        }
        Ok(tx.commit().await?)
    }

    /// Payments as they are when they were accepted, so many a second, between random accounts. Ids begin with the instant of their
    /// acceptance, as a gateway's do: what is due together lies together.
    pub(super) async fn prepare(
        &self,
        count: u32,
        rate: u32,
        seed: u64,
        db: &Db,
    ) -> Result<Vec<StagedPayment>> {
        let mut random = StdRng::seed_from_u64(seed);
        let now = SystemClock.now();
        let accounts = self.accounts.len();
        let payments: Vec<StagedPayment> = (0..count)
            .map(|n| {
                let debtor = random.random_range(0..accounts);
                let creditor = (debtor + random.random_range(1..accounts)) % accounts;
                let account =
                    |place: usize| self.accounts.get(place).map(|(id, _)| *id).context("no such account");
                Ok(StagedPayment {
                    id: PaymentId::generate(now.plus(at(n, rate)), random.random()),
                    debtor: account(debtor)?,
                    creditor: account(creditor)?,
                })
            })
            .collect::<Result<_>>()?;
        for some in payments.chunks(SLICE) {
            let terms = (self.participant, &self.bank, CURRENCY, AMOUNT);
            measure::stage_payments(db, some, terms, now).await?;
        }
        Ok(payments)
    }

    /// The next nonce of each key.
    pub(super) async fn nonces(&self, at: At) -> Result<Vec<u64>> {
        let mut nonces = Vec::new();
        for key in self.keys.values() {
            nonces.push(self.chain.nonce(&key.address(), at).await?);
        }
        Ok(nonces)
    }
}

/// When the n-th of so many a second is due, counted from the first.
pub(super) fn at(n: u32, rate: u32) -> Duration {
    Duration::from_secs(1).saturating_mul(n) / rate.max(1)
}

fn lanes(count: u8) -> impl Iterator<Item = Lane> {
    let settlers = usize::from(count / 2);
    let initiators = usize::from(count).saturating_sub(settlers);
    Lane::of(Duty::Initiator)
        .take(initiators)
        .chain(Lane::of(Duty::Settler).take(settlers))
        .chain([Lane::first(Duty::Canceller)])
}

fn plan(keys: &BTreeMap<Lane, Key>, admin: &Key) -> Result<Plan> {
    let of = |duty: Duty| -> (String, Vec<String>) {
        let mut addresses =
            keys.iter().filter(|(lane, _)| lane.duty() == duty).map(|(_, key)| key.address().to_string());
        (addresses.next().unwrap_or_default(), addresses.collect())
    };
    let (initiator, further_initiators) = of(Duty::Initiator);
    let (settler, further_settlers) = of(Duty::Settler);
    let (canceller, further_cancellers) = of(Duty::Canceller);
    Ok(Plan {
        currency: Currency::parse(CURRENCY)?,
        token_decimals: 6,
        house: EvmAddress::from_bytes([0xfe; 20]),
        roles: Roles {
            initiator,
            settler,
            canceller,
            guardian: admin.address().to_string(),
            compliance: Some(admin.address().to_string()),
            registrar: admin.address().to_string(),
            further_initiators,
            further_settlers,
            further_cancellers,
        },
        mint_allowance: 1_000_000_000_000_000,
        admin_delay_secs: 0,
    })
}
