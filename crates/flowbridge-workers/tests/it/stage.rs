//! The stage of the spine's tests: PostgreSQL, Anvil with the contracts, two simulated banks, and the roles at work.

use flowbridge_bank::auth::BearerKey;
use flowbridge_bank::connector::{BankConnector, Capabilities};
use flowbridge_bank::registry::{BankDesk, BankRegistry, GuardConfig};
use flowbridge_bank::simulator::{BankConfig, Fault, FaultRule, Simulator, SimulatorConfig, Target};
use flowbridge_bank::simulator_client::{SimulatorClient, SimulatorClientConfig};
use flowbridge_chain::deploy::{self, Admin, Plan, Roles};
use flowbridge_chain::plan::FeePolicy;
use flowbridge_chain::signer::Answer;
use flowbridge_chain::watch::{Bell, Finality, WatchSettings};
use flowbridge_chain::{
    At, Bearer, Chain, ChainError, ContractSet, EndpointConfig, EndpointSettings, Endpoints, HttpChain, Key,
    Signer,
};
use flowbridge_domain::bank::HoldMode;
use flowbridge_domain::id::{AccountId, ParticipantId, PaymentId};
use flowbridge_domain::money::{Currency, Money};
use flowbridge_domain::party::{BankCode, EvmAddress, Iban};
use flowbridge_domain::time::{Clock, Timestamp};
use flowbridge_embedded::shim::{Shim, SocketLine, Zks};
use flowbridge_embedded::{EmbeddedAnvil, EmbeddedPostgres};
use flowbridge_store::chain::{Contracts, Duty, Lane, save_contracts};
use flowbridge_store::reconciliation as runs;
use flowbridge_store::wake::{Wake, Work};
use flowbridge_store::{Db, DbSettings, event_log};
use flowbridge_workers::chain::{ChainRole, ChainSettings};
use flowbridge_workers::context::Context;
use flowbridge_workers::place::Place;
use flowbridge_workers::proof::{self, prove};
use flowbridge_workers::reconciliation::{self, Settings};
use flowbridge_workers::{bank, chain, orchestrator};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio_util::sync::CancellationToken;

/// Keys of the accounts that Anvil funds: deployer, initiator, settler, canceller, guardian, house, debtor, creditor.
const KEYS: [&str; 8] = [
    "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
    "5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
    "7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
    "47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a",
    "8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba",
    "92db14e403b83dfe3df233f83dfa3a0d7096f21ca9b0d6d6b8d88b2b4ec1564e",
    "4bbbf85ce3377467afe5d46f804f221813b2bb87f24d81f60f1fcdbf7cbf4356",
];

const DEBTOR_IBAN: &str = "DE89370400440532013000";
const CREDITOR_IBAN: &str = "FR1420041010050500013M02606";

/// Longer than anything here takes, so that a test that waits for nothing ends.
const PATIENCE: Duration = Duration::from_secs(120);

/// From whom to whom, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    /// The debtor's bank to the creditor's wallet.
    BankToToken,
    /// The debtor's bank to the creditor's bank.
    BankToBank,
    /// The creditor's bank to the debtor's wallet: leaves money of ours at the creditor's bank.
    Back,
    /// The creditor's wallet to the debtor's: what it has is reserved, and escrowed by the chain.
    TokenBack,
}

/// A fault that meets the next operation, and that one only.
pub(crate) fn next(fault: Fault, target: Target) -> FaultRule {
    FaultRule { times_max: Some(1), targets: vec![target], ..FaultRule::always(fault) }
}

#[derive(Debug)]
struct RealClock;

impl Clock for RealClock {
    #[expect(clippy::disallowed_methods, reason = "real servers keep real time")]
    fn now(&self) -> Timestamp {
        let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
        Timestamp::from_micros(i64::try_from(micros).unwrap())
    }
}

/// How the chain role differs.
pub(crate) struct Tuning {
    pub(crate) bell: Option<Bell>,
    pub(crate) bump_after: Duration,
    pub(crate) lease: Duration,
    pub(crate) rebroadcast_after: Duration,
    /// Without it nothing is sent or seen until the test starts a chain role of its own.
    pub(crate) chain: bool,
    /// Without them nothing decides, and no bank is asked.
    pub(crate) others: bool,
    /// The chain role reaches the node over two endpoints and a socket that the test can spoil.
    pub(crate) spoiled: bool,
    /// These endpoints are a ZKsync chain's, behind a proxy that wants a token.
    pub(crate) zks: Option<Zks>,
    pub(crate) finality: Finality,
    pub(crate) gas_per_tx_max: u64,
}

impl Tuning {
    /// For faults that patience would heal: there is little of it.
    pub(crate) fn quick() -> Self {
        Self {
            bump_after: Duration::from_secs(1),
            rebroadcast_after: Duration::from_millis(500),
            lease: Duration::from_millis(500),
            ..Self::default()
        }
    }
}

/// The ways to the node that a test can spoil.
struct Ways {
    shims: [Shim; 2],
    socket: SocketLine,
    endpoints: Arc<Endpoints>,
}

impl Ways {
    async fn to(anvil: &EmbeddedAnvil, zks: Option<Zks>, stop: &CancellationToken) -> Self {
        let token = zks.map(|_| "a bearer token");
        let shims = [
            Shim::start_with(&anvil.rpc_url(), zks, token).await.unwrap(),
            Shim::start_with(&anvil.rpc_url(), zks, token).await.unwrap(),
        ];
        let configs = shims.each_ref().map(|shim| EndpointConfig {
            name: shim.url(),
            url: shim.url(),
            token: token.map(Bearer::fixed),
        });
        let settings = EndpointSettings {
            chain_id: 31337,
            timeout: Duration::from_secs(1),
            look_interval: Duration::from_millis(200),
            behind_max: Duration::from_secs(1),
        };
        let endpoints = Endpoints::connect(&configs, settings).await.unwrap();
        let (tended, stopped) = (endpoints.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = tended.tend() => {}
                () = stopped.cancelled() => {}
            }
        });
        Self { shims, socket: SocketLine::start(&anvil.ws_url()).await.unwrap(), endpoints }
    }
}

/// A key that cannot be reached at times.
#[derive(Debug)]
struct FarKey {
    key: Key,
    is_down: Arc<AtomicBool>,
}

#[async_trait::async_trait]
impl Signer for FarKey {
    fn address(&self) -> EvmAddress {
        self.key.address()
    }

    async fn sign_digest(&self, digest: [u8; 32]) -> Result<Answer, ChainError> {
        if self.is_down.load(Ordering::Relaxed) {
            return Err(ChainError::Signer("it is down".into()));
        }
        Signer::sign_digest(&self.key, digest).await
    }
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            bell: None,
            bump_after: Duration::from_secs(10),
            lease: Duration::from_secs(10),
            rebroadcast_after: Duration::from_secs(2),
            chain: true,
            others: true,
            spoiled: false,
            zks: None,
            finality: Finality::Confirmations(1),
            gas_per_tx_max: 16_000_000,
        }
    }
}

/// The key of one of the funded accounts.
pub(crate) fn key(index: usize) -> Key {
    Key::parse(KEYS[index]).unwrap()
}

#[derive(Debug)]
struct Party {
    account: AccountId,
    participant: ParticipantId,
    bank: &'static str,
}

pub(crate) struct Stage {
    pub(crate) context: Context,
    pub(crate) banks: Arc<BankRegistry>,
    pub(crate) chain: Arc<dyn Chain>,
    pub(crate) contracts: ContractSet,
    pub(crate) sql: tokio_postgres::Client,
    debtor: Party,
    creditor: Party,
    pub(crate) creditor_wallet: EvmAddress,
    pub(crate) anvil: EmbeddedAnvil,
    ways: Option<Ways>,
    pub(crate) signer_down: Arc<AtomicBool>,
    http: reqwest::Client,
    start: (u64, [u8; 32]),
    pub(crate) stop: CancellationToken,
    _books: tempfile::TempDir,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn server() -> &'static EmbeddedPostgres {
    static SERVER: OnceLock<EmbeddedPostgres> = OnceLock::new();
    SERVER.get_or_init(|| EmbeddedPostgres::temporary().unwrap())
}

impl Stage {
    /// Everything running; `faults` are those of the debtor's bank.
    pub(crate) async fn new(faults: Vec<FaultRule>) -> Self {
        Self::tuned(faults, Tuning::default()).await
    }

    /// The same with another chain role.
    pub(crate) async fn tuned(faults: Vec<FaultRule>, tuning: Tuning) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(RealClock);
        let url = new_database().await;
        let db = Db::new(&DbSettings::new(url.as_str())).unwrap();
        db.migrate().await.unwrap();
        let (sql, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);

        let anvil = tokio::task::spawn_blocking(|| EmbeddedAnvil::temporary().unwrap()).await.unwrap();
        let chain: Arc<dyn Chain> =
            Arc::new(HttpChain::connect(&anvil.rpc_url(), 31337, Duration::from_secs(5)).await.unwrap());
        let keys: Vec<Key> = KEYS.iter().map(|key| Key::parse(key).unwrap()).collect();
        let (contracts, start) = deploy_contracts(&*chain, &keys).await;
        // What the tests reorganise does not reach the deployment.
        anvil.mine(8).unwrap();
        save_contracts(
            &db,
            &Contracts {
                currency: contracts.currency,
                token: contracts.token,
                token_decimals: contracts.token_decimals,
                router: contracts.router,
                manager: contracts.manager,
                house: contracts.house,
            },
        )
        .await
        .unwrap();

        let books = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let banks = Arc::new(start_banks(books.path(), faults, &clock, &stop).await);
        let context = Context { db, clock, wake: Wake::default(), instance: "stage".into() };
        let debtor_wallet = keys[6].address();
        let creditor_wallet = keys[7].address();
        let debtor = party(&sql, "alpha", DEBTOR_IBAN, &debtor_wallet, &context).await;
        let creditor = party(&sql, "beta", CREDITOR_IBAN, &creditor_wallet, &context).await;

        let stage = Self {
            context,
            banks,
            chain,
            contracts,
            sql,
            debtor,
            creditor,
            creditor_wallet,
            ways: if tuning.spoiled { Some(Ways::to(&anvil, tuning.zks, &stop).await) } else { None },
            signer_down: Arc::default(),
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            anvil,
            start,
            stop,
            _books: books,
        };
        stage.start_roles(tuning);
        stage
    }

    fn start_roles(&self, tuning: Tuning) {
        if tuning.others {
            self.start_others(self.banks.clone());
        }
        if tuning.chain {
            tokio::spawn(chain::run(self.context.clone(), self.chain_role(tuning), self.stop.clone()));
        }
    }

    /// Decides, and asks the banks at this desk.
    pub(crate) fn start_others(&self, desk: Arc<dyn BankDesk>) {
        let (context, stop) = (self.context.clone(), self.stop.clone());
        tokio::spawn(orchestrator::run(context, Default::default(), stop));
        let capabilities: BTreeMap<BankCode, Capabilities> =
            self.banks.iter().map(|(code, bank)| (code.clone(), bank.capabilities())).collect();
        let (context, stop) = (self.context.clone(), self.stop.clone());
        tokio::spawn(bank::run(context, desk, capabilities, Default::default(), stop));
    }

    /// What a chain role is given.
    pub(crate) fn chain_role(&self, tuning: Tuning) -> ChainRole {
        let far = |place| FarKey { key: key(place), is_down: self.signer_down.clone() };
        let (chain, bell) = match &self.ways {
            Some(ways) if tuning.spoiled => {
                let chain: Arc<dyn Chain> = Arc::new(HttpChain::over(ways.endpoints.clone()));
                (chain, Some(Bell::at(ways.socket.url(), Duration::from_secs(2))))
            }
            _ => (self.chain.clone(), tuning.bell),
        };
        ChainRole {
            chain,
            contracts: vec![self.contracts],
            signers: Duty::ALL
                .into_iter()
                .zip(1..)
                .map(|(duty, place)| (Lane::first(duty), Arc::new(far(place)) as Arc<dyn Signer>))
                .collect(),
            bell,
            settings: ChainSettings {
                chain_id: 31337,
                batch_size_max: 100,
                batch_delay: Duration::from_millis(50),
                in_flight_max: 16,
                gas_per_tx_max: tuning.gas_per_tx_max,
                gas_margin_percent: 25,
                fees: FeePolicy {
                    bump_after: tuning.bump_after,
                    rebroadcast_after: tuning.rebroadcast_after,
                    fee_per_gas_max: 500_000_000_000,
                },
                watch: WatchSettings {
                    finality: tuning.finality,
                    reorg_depth_blocks_max: 64,
                    stretch_blocks_max: 1_000,
                    stretch_logs_max: 10_000,
                },
                start: self.start,
                poll: Duration::from_millis(50),
                pace: Duration::from_millis(5),
                counts_every: Duration::from_millis(100),
                lease: tuning.lease,
            },
        }
    }

    /// The ways to the node.
    pub(crate) fn shims(&self) -> &[Shim; 2] {
        &self.ways.as_ref().unwrap().shims
    }

    /// The way to the node's WebSocket.
    pub(crate) fn socket(&self) -> &SocketLine {
        &self.ways.as_ref().unwrap().socket
    }

    /// A payment as the gateway leaves it: its row, its event to come, its first effect.
    pub(crate) async fn accept(&self, shape: Shape, minor_units: i64) -> PaymentId {
        self.accept_drawn(self.context.now(), shape, minor_units).await
    }

    /// The same with the id of another instant: for a payment that was dated ahead, that at which it was accepted.
    pub(crate) async fn accept_drawn(&self, at: Timestamp, shape: Shape, minor_units: i64) -> PaymentId {
        let id = PaymentId::generate(at, rand::random());
        let (debtor, creditor, funding, payout) = match shape {
            Shape::BankToToken => (&self.debtor, &self.creditor, "bank", "token"),
            Shape::BankToBank => (&self.debtor, &self.creditor, "bank", "bank"),
            Shape::Back => (&self.creditor, &self.debtor, "bank", "token"),
            Shape::TokenBack => (&self.creditor, &self.debtor, "token", "token"),
        };
        let inserted = "with accepted as (
                insert into payment (id, number, participant_id, kind, funding, payout, currency, amount, fee, debtor_account,
                    debtor_participant, debtor_bank, creditor_account, creditor_participant, creditor_bank, hold_mode, uetr,
                    execute_at, initiate_before, settle_before, expires_at, hold_until, accepted_at, traceparent, state,
                    state_since, chain_leg, hold_leg, payout_leg)
                values ($1, nextval('payment_number'), $2, 'transfer', $10, $3, 'EUR', $4, 0, $5, $2, $6, $7, $8, $9, 'native',
                    gen_random_uuid(), now(), now() + interval '2 min', now() + interval '9 min', now() + interval '10 min',
                    now() + interval '1 hour', now(), '', 'accepted', now(), 'unused', 'not_asked', 'not_due')
                returning id),
            reserved as (
                insert into hold_movement (source_id, round, movement, account, amount, made_at)
                    select accepted.id, 0, 'place', ledger_account.id, $4, now() from accepted, ledger_account
                        where $10 = 'token' and ledger_account.kind = 'wallet' and ledger_account.owner = $11)
            insert into effect (payment_id, kind, lane, next_attempt_at, state_since, traceparent)
                select id, 'initiate', 'chain', now(), now(), '' from accepted";
        self.sql
            .execute(
                inserted,
                &[
                    &id.as_uuid(),
                    &debtor.participant.as_uuid(),
                    &payout,
                    &minor_units,
                    &debtor.account.as_uuid(),
                    &debtor.bank,
                    &creditor.account.as_uuid(),
                    &creditor.participant.as_uuid(),
                    &creditor.bank,
                    &funding,
                    &debtor.account.to_string(),
                ],
            )
            .await
            .unwrap();
        self.context.wake.ring(Work::ChainEffects);
        id
    }

    pub(crate) fn creditor_account(&self) -> String {
        self.creditor.account.to_string()
    }

    pub(crate) async fn state(&self, payment: PaymentId) -> String {
        let row = self
            .sql
            .query_one("select state from payment where id = $1", &[&payment.as_uuid()])
            .await
            .unwrap();
        row.get(0)
    }

    pub(crate) async fn reason(&self, payment: PaymentId) -> String {
        let row = self
            .sql
            .query_one("select reason from payment where id = $1", &[&payment.as_uuid()])
            .await
            .unwrap();
        row.get(0)
    }

    /// Waits until the payment is in `state`; tells how far it came otherwise.
    pub(crate) async fn reaches(&self, payment: PaymentId, state: &str) {
        let reached = tokio::time::timeout(PATIENCE, async {
            while self.state(payment).await != state {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        if reached.await.is_err() {
            let effects = self
                .sql
                .query(
                    "select kind, state, attempts, outcome from effect where payment_id = $1",
                    &[&payment.as_uuid()],
                )
                .await
                .unwrap();
            let effects: Vec<String> = effects
                .iter()
                .map(|row| {
                    let outcome: Option<String> = row.get(3);
                    format!(
                        "{} {} x{} {outcome:?}",
                        row.get::<_, &str>(0),
                        row.get::<_, &str>(1),
                        row.get::<_, i32>(2)
                    )
                })
                .collect();
            let (now, history) = (self.state(payment).await, self.history(payment).await);
            panic!("waited for {state}, but it is {now}: {history:?}; effects {effects:?}");
        }
    }

    /// The kinds of events that partners hear, in order.
    pub(crate) async fn history(&self, payment: PaymentId) -> Vec<String> {
        let events = event_log::read_key(&self.context.db, payment, 1_000).await.unwrap();
        events.into_iter().filter(|event| event.topic == "payments").map(|event| event.kind).collect()
    }

    /// What the creditor's wallet holds on chain, in token units.
    pub(crate) async fn tokens_of_creditor(&self) -> u64 {
        deploy::balance(&*self.chain, &self.contracts, &self.creditor_wallet).await.unwrap()
    }

    /// Ledger, chain and banks agree, now.
    pub(crate) async fn requires_proof(&self) {
        let proof = prove(&self.context, &self.banks).await.unwrap();
        let differences: Vec<_> = proof.differences().collect();
        assert!(proof.holds(), "differences {differences:#?}, missing {:?}", proof.missing);
        assert!(proof.lines.iter().any(|line| line.what == "supply"), "the proof covers the chain");
        assert!(proof.lines.iter().any(|line| line.what == "reserve at alpha"), "the proof covers the banks");
    }

    /// What the proof does not know.
    pub(crate) async fn missing(&self) -> Vec<String> {
        prove(&self.context, &self.banks).await.unwrap().missing
    }

    /// They agree once what is under way has settled down.
    pub(crate) async fn holds_eventually(&self) {
        let held = tokio::time::timeout(PATIENCE, async {
            while !prove(&self.context, &self.banks).await.unwrap().holds() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        if held.await.is_err() {
            self.requires_proof().await;
        }
    }

    /// Reconciles a bank or the chain, and waits until it is done.
    pub(crate) async fn reconcile(&self, scope: &str) -> runs::Run {
        let connectors = ["alpha", "beta"].map(|code| BankCode::parse(code).unwrap());
        self.reconcile_with(scope, false, connectors.to_vec()).await
    }

    /// The same where statements come as files.
    pub(crate) async fn reconcile_files(&self, scope: &str) -> runs::Run {
        self.reconcile_with(scope, false, vec![]).await
    }

    /// The same as the clock asks for it.
    pub(crate) async fn reconcile_night(&self, scope: &str) -> runs::Run {
        self.reconcile_with(scope, true, vec![]).await
    }

    async fn reconcile_with(&self, scope: &str, is_nightly: bool, connectors: Vec<BankCode>) -> runs::Run {
        let db = &self.context.db;
        let tx = db.begin().await.unwrap();
        let (scopes, day) = ([scope.to_owned()], (is_nightly, "2026-11-28"));
        let asked = runs::ask(&tx, &scopes, day, "stage", self.context.now()).await.unwrap();
        tx.commit().await.unwrap();
        let (id, stop) = (asked[0].1, self.stop.child_token());
        let (poll, retry) = (Duration::from_millis(20), Duration::from_millis(100));
        let settings = Settings { poll, retry, attempts_max: i32::MAX, ..Settings::default() };
        let working = tokio::spawn(reconciliation::run(
            self.context.clone(),
            self.banks.clone(),
            connectors,
            settings,
            stop.clone(),
        ));
        self.until(async || crate::reconciliation::done(&runs::get(db, id).await.unwrap().unwrap())).await;
        stop.cancel();
        working.await.unwrap();
        runs::get(db, id).await.unwrap().unwrap()
    }

    /// Takes in what is dropped there from now on, as the bank role does.
    pub(crate) fn take_in_from(&self, place: Place) {
        let poll = Duration::from_millis(20);
        let settings = Settings { poll, folder: Some(place), ..Settings::default() };
        let (context, banks) = (self.context.clone(), self.banks.clone());
        tokio::spawn(reconciliation::run(context, banks, vec![], settings, self.stop.clone()));
    }

    /// Proves again and again from now on, as the bank role does.
    pub(crate) fn prove_continuously(&self) {
        let (context, banks, stop) = (self.context.clone(), self.banks.clone(), self.stop.clone());
        tokio::spawn(proof::run(context, banks, (Settings::default(), Duration::from_millis(50)), stop));
    }

    /// Waits for a condition.
    pub(crate) async fn until(&self, mut condition: impl AsyncFnMut() -> bool) {
        let came = tokio::time::timeout(PATIENCE, async {
            while !condition().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        came.await.unwrap();
    }

    /// Waits until the watcher has taken in so many more blocks.
    pub(crate) async fn blocks_pass(&self, blocks: i64) {
        let goal = self.place().await + blocks;
        self.until(async || {
            self.anvil.mine(1).unwrap();
            self.place().await >= goal
        })
        .await;
    }

    /// The newest block that the watcher has taken in.
    pub(crate) async fn place(&self) -> i64 {
        self.sql.query_one("select block_number from chain_cursor", &[]).await.unwrap().get(0)
    }

    /// Replaces the newest blocks by as many empty ones; their transactions go back to the pool.
    pub(crate) async fn reorganise(&self, depth: u64) {
        self.anvil.reorganise(u32::try_from(depth).unwrap()).unwrap();
    }

    /// The same down to the newest log of ours that was seen, however many blocks have come since.
    pub(crate) async fn take_back_newest_log(&self) {
        let stood_still = self.anvil.freeze();
        let newest = "select max(block_number) from chain_log";
        let newest: i64 = self.sql.query_one(newest, &[]).await.unwrap().get(0);
        let head = self.chain.block(At::Latest).await.unwrap().unwrap().number;
        self.reorganise(head + 1 - u64::try_from(newest).unwrap()).await;
        if !stood_still {
            self.anvil.thaw();
        }
    }

    /// A call of the node's own.
    pub(crate) async fn node(&self, method: &str, params: Value) {
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let answer = self.http.post(self.anvil.rpc_url()).json(&request).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        assert!(answer.get("error").is_none(), "{answer}");
    }
}

async fn new_database() -> String {
    let name = format!("stage_{:016x}", rand::random::<u64>());
    let (client, connection) = tokio_postgres::connect(&server().url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(&format!("create database {name}")).await.unwrap();
    server().url_of(&name)
}

async fn deploy_contracts(chain: &dyn Chain, keys: &[Key]) -> (ContractSet, (u64, [u8; 32])) {
    let admin = Admin { chain, chain_id: 31337, key: &keys[0], patience: Duration::from_secs(20) };
    let address = |key: &Key| key.address().to_string();
    let plan = Plan {
        currency: Currency::parse("EUR").unwrap(),
        token_decimals: 6,
        house: keys[5].address(),
        roles: Roles {
            initiator: address(&keys[1]),
            settler: address(&keys[2]),
            canceller: address(&keys[3]),
            guardian: address(&keys[4]),
            compliance: Some(address(&keys[0])),
            registrar: address(&keys[0]),
            ..Roles::default()
        },
        mint_allowance: 1_000_000_000_000_000,
        admin_delay_secs: 0,
    };
    let deployment = deploy::deploy(&admin, &plan).await.unwrap();
    let contracts = deployment.contracts().unwrap();
    admin.register_wallets(&contracts, &[keys[6].address(), keys[7].address()]).await.unwrap();
    (contracts, deployment.start().unwrap())
}

async fn start_banks(
    books: &std::path::Path,
    faults: Vec<FaultRule>,
    clock: &Arc<dyn Clock>,
    stop: &CancellationToken,
) -> BankRegistry {
    let bank = |code: &str, iban: &str, faults| {
        let euro = Currency::parse("EUR").unwrap();
        BankConfig {
            accounts: vec![(Iban::parse(iban).unwrap(), Money::new(1_000_000, euro))],
            reserves: vec![Money::zero(euro)],
            faults,
            ..BankConfig::new(BankCode::parse(code).unwrap(), HoldMode::Native)
        }
    };
    let simulator = Simulator::bind(
        SimulatorConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            data_dir: books.to_path_buf(),
            client_key: BearerKey::new("client"),
            admin_key: BearerKey::new("admin"),
            seed: 1,
            banks: vec![bank("alpha", DEBTOR_IBAN, faults), bank("beta", CREDITOR_IBAN, vec![])],
        },
        clock.clone(),
    )
    .await
    .unwrap();
    let url = format!("http://{}", simulator.local_addr());
    let stopped = stop.clone();
    tokio::spawn(simulator.run(stopped.cancelled_owned()));
    let connectors = ["alpha", "beta"].map(|code| {
        let code = BankCode::parse(code).unwrap();
        let mut config = SimulatorClientConfig::new(
            code.clone(),
            url.parse().unwrap(),
            BearerKey::new("client"),
            HoldMode::Native,
        );
        config.timeout = Duration::from_secs(10);
        let connector: Arc<dyn BankConnector> = Arc::new(SimulatorClient::new(config).unwrap());
        (code, connector)
    });
    BankRegistry::new(connectors, GuardConfig::default(), clock, None)
}

async fn party(
    sql: &tokio_postgres::Client,
    bank: &'static str,
    iban: &str,
    wallet: &EvmAddress,
    context: &Context,
) -> Party {
    let participant = ParticipantId::generate(context.now(), rand::random());
    let account = AccountId::generate(context.now(), rand::random());
    sql.execute(
        "insert into bank (code, name, hold_mode, created_at) values ($1, $1, 'native', now())",
        &[&bank],
    )
    .await
    .unwrap();
    sql.execute(
        "insert into participant (id, name, created_at) values ($1, $2, now())",
        &[&participant.as_uuid(), &bank],
    )
    .await
    .unwrap();
    sql.execute(
        "insert into account (id, participant_id, bank_code, currency, iban, wallet, name, created_at)
            values ($1, $2, $3, 'EUR', $4, $5, 'somebody', now())",
        &[&account.as_uuid(), &participant.as_uuid(), &bank, &iban, &wallet.as_bytes().to_vec()],
    )
    .await
    .unwrap();
    Party { account, participant, bank }
}
