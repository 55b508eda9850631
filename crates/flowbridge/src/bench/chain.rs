//! `flowbridge bench chain`: payments through the transaction manager and the watcher alone, on a chain node and a PostgreSQL of
//! its own.
//!
//! Payments are there before the clock runs, each with the instant from which it may be initiated; latency counts from that
//! instant to when its settlement was read from the log, so a manager that falls behind cannot hide it. What stands in for
//! orchestrator and banks asks for the settlement of whatever has been initiated, and does nothing else. The proof: each payment
//! was initiated and settled once, no log was missed, the creditors' wallets hold what was paid, and no nonce is left behind.

use super::journal::{Latencies, Latency};
use super::report::{PROVEN, Progress};
use super::usage::{self, Processes};
use super::{per_second, proof::Faults};
use crate::clock::SystemClock;
use crate::commands::{say, stop_signal};
use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use flowbridge_chain::deploy::{self, Admin, Plan, Roles};
use flowbridge_chain::plan::FeePolicy;
use flowbridge_chain::watch::{Bell, Finality, WatchSettings};
use flowbridge_chain::{At, Chain, ContractSet, HttpChain, Key, Signer};
use flowbridge_domain::bank::HoldMode;
use flowbridge_domain::id::{AccountId, ParticipantId, PaymentId};
use flowbridge_domain::money::Currency;
use flowbridge_domain::party::{BankCode, EvmAddress, Iban};
use flowbridge_domain::time::{Clock as _, Timestamp};
use flowbridge_embedded::{AnvilSettings, EmbeddedAnvil, EmbeddedPostgres};
use flowbridge_security::sha256;
use flowbridge_store::chain::{self as rows, Duty, Lane};
use flowbridge_store::event_log::{self, Offset};
use flowbridge_store::measure::{self, StagedPayment};
use flowbridge_store::party::{self, Account, Participant};
use flowbridge_store::wake::{Wake, Work};
use flowbridge_store::{Db, DbSettings};
use flowbridge_workers::chain::{ChainRole, ChainSettings};
use flowbridge_workers::context::Context;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const CURRENCY: &str = "EUR";
const ACCOUNTS: u8 = 200;
/// Of all payments, in minor units.
const AMOUNT: i64 = 100;
/// Token units of a minor unit.
const UNITS: u64 = 10_000;
const CHAIN_ID: u64 = 31_337;
/// The first of Anvil's accounts, which hold its coins.
const ADMIN_KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
/// What each lane's key gets to pay for its transactions, in wei.
const LANE_COINS: u64 = 10_000_000_000_000_000_000;
const PATIENCE: Duration = Duration::from_secs(60);
/// How long payments under way may go without any of them being settled.
const STANDSTILL_MAX: Duration = Duration::from_secs(30);
/// From when everything is prepared to the first payment.
const LEAD: Duration = Duration::from_secs(1);
const SLICE: usize = 5_000;
const RATE_SINGLE: u32 = 400;
const RATE_BATCHED: u32 = 5_000;

#[derive(Debug, Args)]
pub(crate) struct ChainArgs {
    /// Payments in one transaction at most; 1 measures single payments
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=500))]
    batch: u32,
    /// Payments a second; without it 400 when single, 5000 in batches
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// Keys that send, half of them to initiate and half to settle
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(2..=16))]
    lanes: u8,
    /// Time between blocks
    #[arg(long, value_name = "MS", default_value_t = 250)]
    block_ms: u64,
    /// How long is measured, such as 20s
    #[arg(long, default_value = "20s", value_parser = super::duration)]
    duration: Duration,
    /// How long the load lasts before that
    #[arg(long, default_value = "5s", value_parser = super::duration)]
    warmup: Duration,
    /// What accounts are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A chain node and a PostgreSQL of its own in a temporary folder; there is no other way
    #[arg(long)]
    embedded: bool,
    /// Print one JSON object on the last line
    #[arg(long)]
    json: bool,
}

impl ChainArgs {
    fn rate(&self) -> u32 {
        self.rate.unwrap_or(if self.batch == 1 { RATE_SINGLE } else { RATE_BATCHED })
    }

    fn count(&self) -> usize {
        let time = self.warmup.saturating_add(self.duration);
        usize::try_from(u128::from(self.rate()).saturating_mul(time.as_millis()) / 1_000).unwrap_or(0)
    }
}

/// The figures: rates per second, latencies in milliseconds.
#[derive(Debug, Serialize)]
struct Figures {
    bench: &'static str,
    proof: String,
    payments_per_s: f64,
    offered_per_s: u32,
    latency_ms: Latencies,
    batch: u32,
    lanes: u8,
    block_ms: u64,
    duration_s: f64,
    transactions: u64,
    cpu_us_per_payment: BTreeMap<&'static str, f64>,
    wal_bytes_per_payment: f64,
    settings: BTreeMap<String, String>,
    machine: String,
    version: &'static str,
}

pub(super) async fn run(args: ChainArgs) -> Result<ExitCode> {
    ensure!(args.rate() > 0, "--rate is at least 1");
    let progress = Progress::start();
    progress.say("starting a private PostgreSQL and a chain node");
    let folder = tempfile::Builder::new()
        .prefix("flowbridge-bench-")
        .permissions(Permissions::from_mode(0o711))
        .tempdir()?;
    let (path, block_time) = (folder.path().to_owned(), Duration::from_millis(args.block_ms));
    let servers = tokio::task::spawn_blocking(move || {
        let postgres = EmbeddedPostgres::start(&path.join("postgres"), None)?;
        let settings =
            AnvilSettings { block_time, keeps_chain: false, ..AnvilSettings::in_folder(path.join("chain")) };
        anyhow::Ok((postgres, EmbeddedAnvil::start(settings)?))
    })
    .await??;
    let measured = tokio::select! {
        measured = Box::pin(measure_chain(&args, &servers, &progress)) => measured,
        () = stop_signal() => bail!("stopped before there was a figure"),
    };
    drop(progress);
    tokio::task::spawn_blocking(move || drop((servers, folder))).await?;
    print(&measured?, args.json)
}

async fn measure_chain(
    args: &ChainArgs,
    (postgres, anvil): &(EmbeddedPostgres, EmbeddedAnvil),
    progress: &Progress,
) -> Result<Figures> {
    let db = Db::new(&DbSettings::new(postgres.url()))?;
    db.migrate().await?;
    let stage = Stage::set(args, anvil, &db).await?;
    progress.say(format!("preparing {} payments", args.count()));
    let payments = stage.prepare(args, &db).await?;
    let from = event_log::end(&db).await?;
    let began = SystemClock.now().plus(LEAD);
    let due: HashMap<PaymentId, Timestamp> =
        (0u32..).zip(&payments).map(|(n, payment)| (*payment, began.plus(at(n, args.rate())))).collect();
    let mut asked: Vec<(PaymentId, Timestamp)> = due.iter().map(|(id, due)| (*id, *due)).collect();
    asked.sort_by_key(|(_, due)| *due);
    for some in asked.chunks(SLICE) {
        measure::ask_for(&db, "initiate", some).await?;
    }

    let context = Context {
        db: db.clone(),
        clock: Arc::new(SystemClock),
        wake: Wake::default(),
        instance: "bench".into(),
    };
    let stop = CancellationToken::new();
    let role = stage.role(args, anvil);
    let running = tokio::spawn(flowbridge_workers::chain::run(context.clone(), role, stop.clone()));
    let processes = Processes::of_chain(&anvil.rpc_url(), &db).await?;
    let mut reader = StandIn { context, from, due, seen: HashMap::new(), contradictions: 0 };
    let window = (began.plus(args.warmup), began.plus(args.warmup.saturating_add(args.duration)));
    reader.follow_until(window.0, progress).await?;
    let before = (processes.cpu(), measure::counters(&db).await?);
    reader.follow_until(window.1, progress).await?;
    let after = (processes.cpu(), measure::counters(&db).await?);
    reader.drain(progress).await?;
    progress.say("proving that nothing was lost");
    let faults = stage.prove(&db, &reader, payments.len()).await?;
    stop.cancel();
    running.await?;

    let (settled, latency) = reader.between(window);
    let each = |total: f64| total / per_second(settled.max(1), Duration::from_secs(1));
    let cpu = after.0.iter().map(|(name, used)| {
        let used = used.saturating_sub(before.0.get(name).copied().unwrap_or_default());
        (*name, each(used.as_secs_f64() * 1e6))
    });
    let wal = usize::try_from(after.1.wal_bytes - before.1.wal_bytes).unwrap_or(0);
    Ok(Figures {
        bench: "chain",
        proof: faults.verdict(),
        payments_per_s: per_second(settled, args.duration),
        offered_per_s: args.rate(),
        latency_ms: latency,
        batch: args.batch,
        lanes: args.lanes,
        block_ms: args.block_ms,
        duration_s: args.duration.as_secs_f64(),
        transactions: stage.nonces(At::Latest).await?.iter().sum(),
        cpu_us_per_payment: cpu.collect(),
        wal_bytes_per_payment: each(per_second(wal, Duration::from_secs(1))),
        settings: measure::settings(&db).await?.into_iter().collect(),
        machine: usage::machine()?,
        version: env!("CARGO_PKG_VERSION"),
    })
}

/// When the n-th payment is due, counted from the first.
fn at(n: u32, rate: u32) -> Duration {
    Duration::from_secs(1).saturating_mul(n) / rate.max(1)
}

/// Contracts, keys and accounts.
struct Stage {
    chain: Arc<dyn Chain>,
    contracts: ContractSet,
    start: (u64, [u8; 32]),
    keys: BTreeMap<Lane, Key>,
    participant: ParticipantId,
    bank: BankCode,
    accounts: Vec<(AccountId, EvmAddress)>,
}

impl Stage {
    async fn set(args: &ChainArgs, anvil: &EmbeddedAnvil, db: &Db) -> Result<Self> {
        let chain: Arc<dyn Chain> =
            Arc::new(HttpChain::connect(&anvil.rpc_url(), CHAIN_ID, Duration::from_secs(10)).await?);
        let keys = lanes(args.lanes)
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

    /// Payments as they are when they were accepted, between random accounts.
    async fn prepare(&self, args: &ChainArgs, db: &Db) -> Result<Vec<PaymentId>> {
        let mut random = StdRng::seed_from_u64(args.seed);
        let now = SystemClock.now();
        let count = self.accounts.len();
        let payments: Vec<StagedPayment> = (0..args.count())
            .map(|_| {
                let debtor = random.random_range(0..count);
                let creditor = (debtor + random.random_range(1..count)) % count;
                let account =
                    |place: usize| self.accounts.get(place).map(|(id, _)| *id).context("no such account");
                Ok(StagedPayment {
                    id: PaymentId::generate(now, random.random()),
                    debtor: account(debtor)?,
                    creditor: account(creditor)?,
                })
            })
            .collect::<Result<_>>()?;
        for some in payments.chunks(SLICE) {
            let terms = (self.participant, &self.bank, CURRENCY, AMOUNT);
            measure::stage_payments(db, some, terms, now).await?;
        }
        Ok(payments.iter().map(|payment| payment.id).collect())
    }

    fn role(&self, args: &ChainArgs, anvil: &EmbeddedAnvil) -> ChainRole {
        let signers = self.keys.iter().map(|(lane, key)| (*lane, Arc::new(key.clone()) as Arc<dyn Signer>));
        let batch = usize::try_from(args.batch).unwrap_or(usize::MAX);
        ChainRole {
            chain: self.chain.clone(),
            contracts: vec![self.contracts],
            signers: signers.collect(),
            bell: Some(Bell::at(anvil.ws_url(), Duration::from_secs(30))),
            settings: ChainSettings {
                chain_id: CHAIN_ID,
                batch_size_max: batch,
                batch_delay: if batch == 1 { Duration::ZERO } else { Duration::from_millis(50) },
                in_flight_max: if batch == 1 { 256 } else { 32 },
                gas_per_tx_max: 16_000_000,
                gas_margin_percent: 25,
                fees: FeePolicy {
                    bump_after: Duration::from_secs(10),
                    rebroadcast_after: Duration::from_secs(5),
                    fee_per_gas_max: 500_000_000_000,
                },
                watch: WatchSettings {
                    finality: Finality::Confirmations(1),
                    reorg_depth_blocks_max: 64,
                    stretch_blocks_max: 1_000,
                    stretch_logs_max: 10_000,
                },
                start: self.start,
                poll: Duration::from_millis(200),
                pace: Duration::from_millis(20),
                lease: Duration::from_secs(10),
            },
        }
    }

    async fn nonces(&self, at: At) -> Result<Vec<u64>> {
        let mut nonces = Vec::new();
        for key in self.keys.values() {
            nonces.push(self.chain.nonce(&key.address(), at).await?);
        }
        Ok(nonces)
    }

    async fn prove(&self, db: &Db, reader: &StandIn, count: usize) -> Result<Faults> {
        let mut faults = Faults::default();
        let settled = reader.seen.values().filter(|seen| seen.settled.is_some()).count();
        faults.equal(("settled payments", settled), ("payments", count));
        faults.none_of(reader.contradictions, "payments were initiated or settled twice, or otherwise ended");
        let missed = rows::missed_logs(db).await?;
        faults.none_of(usize::try_from(missed).unwrap_or(usize::MAX), "gaps in the contracts' sequence");
        let mut held = 0u64;
        for (_, wallet) in &self.accounts {
            held = held.saturating_add(deploy::balance(&*self.chain, &self.contracts, wallet).await?);
        }
        let paid = u64::try_from(AMOUNT)?.saturating_mul(UNITS).saturating_mul(u64::try_from(count)?);
        faults.equal(("token units held", usize::try_from(held)?), ("paid", usize::try_from(paid)?));
        for lane in self.keys.keys() {
            faults.none_of(rows::open_txs(db, *lane, 1_000).await?.len(), "transactions are under way still");
        }
        if self.nonces(At::Latest).await? != self.nonces(At::Pending).await? {
            faults.none_of(1, "lane has nonces that wait");
        }
        Ok(faults)
    }
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
            registrar: admin.address().to_string(),
            further_initiators,
            further_settlers,
            further_cancellers,
        },
        mint_allowance: 1_000_000_000_000_000,
        admin_delay_secs: 0,
    })
}

/// Stands in for orchestrator and banks: what is initiated is asked to be settled. And keeps what it read.
struct StandIn {
    context: Context,
    from: Offset,
    due: HashMap<PaymentId, Timestamp>,
    seen: HashMap<PaymentId, Seen>,
    contradictions: usize,
}

#[derive(Default)]
struct Seen {
    is_initiated: bool,
    settled: Option<Timestamp>,
}

impl StandIn {
    const PAGE: i64 = 5_000;
    const POLL: Duration = Duration::from_millis(50);

    async fn follow_until(&mut self, until: Timestamp, progress: &Progress) -> Result<()> {
        while self.context.now() < until {
            self.read(progress).await?;
        }
        Ok(())
    }

    /// Follows until everything is settled, or nothing moves any more.
    async fn drain(&mut self, progress: &Progress) -> Result<()> {
        let mut last = (self.settled(), self.context.now());
        while self.settled() < self.due.len() && self.context.now().since(last.1) < STANDSTILL_MAX {
            self.read(progress).await?;
            if self.settled() > last.0 {
                last = (self.settled(), self.context.now());
            }
        }
        Ok(())
    }

    fn settled(&self) -> usize {
        self.seen.values().filter(|seen| seen.settled.is_some()).count()
    }

    async fn read(&mut self, progress: &Progress) -> Result<()> {
        let db = &self.context.db;
        let events = event_log::read_all(db, Some("chain"), self.from, Self::PAGE).await?;
        let Some(last) = events.last() else {
            progress.say(format!("{} of {} payments are settled", self.settled(), self.due.len()));
            self.context.wake.wait(Work::Observations, Self::POLL).await;
            return Ok(());
        };
        self.from = last.offset;
        let now = self.context.now();
        let mut initiated = Vec::new();
        for event in events {
            let seen = self.seen.entry(event.key).or_default();
            match event.kind.as_str() {
                "chain.initiated" if !seen.is_initiated => {
                    seen.is_initiated = true;
                    initiated.push((event.key, now));
                }
                "chain.settled" if seen.is_initiated && seen.settled.is_none() => seen.settled = Some(now),
                _ => self.contradictions += 1,
            }
        }
        measure::ask_for(db, "settle", &initiated).await?;
        self.context.wake.ring(Work::ChainEffects);
        Ok(())
    }

    /// How many were settled between two instants, and how long those took that were due then.
    fn between(&self, (from, to): (Timestamp, Timestamp)) -> (usize, Latencies) {
        let mut latency = Latency::new();
        let mut count = 0;
        for (payment, due) in &self.due {
            let Some(settled) = self.seen.get(payment).and_then(|seen| seen.settled) else { continue };
            count += usize::from(from <= settled && settled < to);
            if from <= *due && *due < to {
                latency.record(settled.since(*due));
            }
        }
        (count, latency.latencies())
    }
}

fn print(figures: &Figures, as_json: bool) -> Result<ExitCode> {
    if as_json {
        say(serde_json::to_string(figures)?);
    } else {
        let line = |name: &str, value: String| say(format_args!("  {name:<22}{value}"));
        say(format_args!(
            "\nchain for {:.0} s: up to {} payments a transaction, {} lanes, a block every {} ms",
            figures.duration_s, figures.batch, figures.lanes, figures.block_ms
        ));
        if figures.proof != PROVEN {
            say(format_args!("  THE PROOF FAILED: {}\n  What follows is no figure.", figures.proof));
        }
        let Latencies { p50, p95, p99, max } = figures.latency_ms;
        line("settled", format!("{:.0}/s of {} offered", figures.payments_per_s, figures.offered_per_s));
        line("from due to settled", format!("p50 {p50:.0}  p95 {p95:.0}  p99 {p99:.0}  max {max:.0} ms"));
        line("transactions", figures.transactions.to_string());
        let cpu: Vec<String> =
            figures.cpu_us_per_payment.iter().map(|(name, micros)| format!("{name} {micros:.0}")).collect();
        line("processor", format!("{} µs per payment", cpu.join(", ")));
        line("write-ahead log", format!("{:.0} bytes per payment", figures.wal_bytes_per_payment));
        line("proof", figures.proof.clone());
        line("machine", figures.machine.clone());
    }
    Ok(if figures.proof == PROVEN { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
