//! A simulated bank with two customers, and the words to talk about it.

use flowbridge_bank::auth::BearerKey;
use flowbridge_bank::connector::{
    BankConnector, Operation, OperationKind, Outcome, OwnAccount, QueryOutcome, Receipt, StatementEntry,
    StatementRequest,
};
use flowbridge_bank::simulator::{BankConfig, FaultRule, Simulator, SimulatorConfig};
use flowbridge_bank::simulator_client::{SimulatorClient, SimulatorClientConfig};
use flowbridge_domain::bank::{BankStep, HoldMode, OperationKey};
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::money::{Currency, Money};
use flowbridge_domain::party::{BankCode, Iban};
use flowbridge_domain::time::{Clock, ManualClock, Timestamp};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use url::Url;

pub(crate) const START: Timestamp = Timestamp::from_secs(1_800_000_000);
pub(crate) const MODES: [HoldMode; 3] = [HoldMode::Native, HoldMode::Escrow, HoldMode::ConfirmOnly];
/// What the debtor and our reserve have on the first day.
pub(crate) const OPENING: i128 = 100_000;

pub(crate) fn debtor() -> Iban {
    Iban::parse("CH9300762011623852957").unwrap()
}

pub(crate) fn creditor() -> Iban {
    Iban::parse("DE89370400440532013000").unwrap()
}

pub(crate) fn eur(minor_units: i128) -> Money {
    Money::new(minor_units, Currency::parse("EUR").unwrap())
}

pub(crate) fn bank_code() -> BankCode {
    BankCode::parse("alpha").unwrap()
}

/// A payment of its own for each call, in order.
pub(crate) fn new_payment() -> PaymentId {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut random = [0; 10];
    random[2..].copy_from_slice(&count.to_be_bytes());
    PaymentId::generate(START, random)
}

pub(crate) fn place(payment_id: PaymentId, minor_units: i128) -> Operation {
    let until = START.plus(Duration::from_hours(1));
    Operation {
        payment_id,
        kind: OperationKind::PlaceHold { account: debtor(), amount: eur(minor_units), until },
    }
}

pub(crate) fn capture(payment_id: PaymentId, minor_units: i128) -> Operation {
    Operation { payment_id, kind: OperationKind::Capture { account: debtor(), amount: eur(minor_units) } }
}

pub(crate) const fn release(payment_id: PaymentId) -> Operation {
    Operation { payment_id, kind: OperationKind::Release }
}

pub(crate) fn credit(payment_id: PaymentId, minor_units: i128) -> Operation {
    let (end_to_end_id, remittance_information) = (Some("invoice 7".into()), None);
    let amount = eur(minor_units);
    let kind = OperationKind::Credit { account: creditor(), amount, end_to_end_id, remittance_information };
    Operation { payment_id, kind }
}

pub(crate) fn bank_config(mode: HoldMode) -> BankConfig {
    BankConfig {
        accounts: vec![(debtor(), eur(OPENING)), (creditor(), eur(0))],
        reserves: vec![eur(OPENING)],
        ..BankConfig::new(bank_code(), mode)
    }
}

pub(crate) fn simulator_config(folder: &Path, banks: Vec<BankConfig>) -> SimulatorConfig {
    SimulatorConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        data_dir: folder.to_path_buf(),
        client_key: BearerKey::new("client-key"),
        admin_key: BearerKey::new("admin-key"),
        seed: 42,
        banks,
    }
}

/// The connector under test, with a short time-out.
pub(crate) fn connector_to(root: &Url, mode: HoldMode) -> Arc<dyn BankConnector> {
    let mut config =
        SimulatorClientConfig::new(bank_code(), root.clone(), BearerKey::new("client-key"), mode);
    config.timeout = Duration::from_secs(5);
    Arc::new(SimulatorClient::new(config).unwrap())
}

/// The oracle's door.
#[derive(Clone)]
pub(crate) struct Admin {
    root: Url,
    http: reqwest::Client,
}

impl Admin {
    pub(crate) fn new(root: &Url) -> Self {
        Self { root: root.join("admin/banks/alpha/").unwrap(), http: reqwest::Client::new() }
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let request = self.http.get(self.root.join(path).unwrap()).bearer_auth("admin-key");
        request.send().await.unwrap().error_for_status().unwrap().json().await.unwrap()
    }

    pub(crate) async fn send(&self, method: reqwest::Method, path: &str, body: Value) -> reqwest::Response {
        let request = self.http.request(method, self.root.join(path).unwrap()).bearer_auth("admin-key");
        request.json(&body).send().await.unwrap()
    }

    pub(crate) async fn fault(&self, rule: FaultRule) {
        let body = serde_json::to_value(rule).unwrap();
        let response = self.send(reqwest::Method::POST, "faults", body).await;
        assert_eq!(response.status(), 201, "{}", response.text().await.unwrap());
    }

    pub(crate) async fn change_account(&self, account: &Iban, body: Value) {
        let response =
            self.send(reqwest::Method::PATCH, &format!("accounts/{}", account.as_str()), body).await;
        assert_eq!(response.status(), 200);
    }

    /// Posted and available balance.
    pub(crate) async fn account(&self, id: &str) -> (i64, i64) {
        let account = self.get(&format!("accounts/{}", id.replace(':', "%3A"))).await;
        (account["posted"].as_i64().unwrap(), account["available"].as_i64().unwrap())
    }

    pub(crate) async fn assert_sound(&self) {
        let audit = self.get("audit").await;
        assert_eq!(audit["sound"], true, "{audit:#}");
    }
}

/// A running simulator with one bank.
pub(crate) struct Bench {
    pub(crate) mode: HoldMode,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) root: Url,
    pub(crate) bank: Arc<dyn BankConnector>,
    pub(crate) admin: Admin,
    folder: TempDir,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl Bench {
    pub(crate) async fn start(mode: HoldMode) -> Self {
        let clock = Arc::new(ManualClock::at(START));
        Self::start_with(bank_config(mode), tempfile::tempdir().unwrap(), clock).await
    }

    pub(crate) async fn start_with(bank: BankConfig, folder: TempDir, clock: Arc<ManualClock>) -> Self {
        let mode = bank.hold_mode;
        let config = simulator_config(folder.path(), vec![bank]);
        let simulator = Simulator::bind(config, Arc::clone(&clock) as Arc<dyn Clock>).await.unwrap();
        let root: Url = format!("http://{}/", simulator.local_addr()).parse().unwrap();
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(async move {
            simulator.run(async { drop(stopped.await) }).await.unwrap();
        });
        let (bank, admin) = (connector_to(&root, mode), Admin::new(&root));
        Self { mode, clock, root, bank, admin, folder, stop, server }
    }

    /// Ends the simulator in an orderly way, keeping its folder.
    pub(crate) async fn stop(self) -> (TempDir, Arc<ManualClock>) {
        let _ = self.stop.send(());
        self.server.await.unwrap();
        (self.folder, self.clock)
    }

    pub(crate) async fn execute(&self, operation: Operation) -> Outcome {
        let mut outcomes = self.bank.execute(&[operation]).await;
        assert_eq!(outcomes.len(), 1);
        outcomes.pop().unwrap()
    }

    pub(crate) async fn query(&self, key: OperationKey) -> QueryOutcome {
        self.bank.query(&[key]).await.pop().unwrap()
    }

    /// The whole statement, page by page.
    pub(crate) async fn statement(&self) -> Vec<StatementEntry> {
        statement_of(self.bank.as_ref()).await
    }

    /// What captures and returns of captures did to our reserve, according to the statement.
    pub(crate) async fn reserve_changes(&self, step: BankStep) -> i128 {
        let of_step = |entry: &&StatementEntry| {
            entry.account == OwnAccount::Reserve && entry.key.is_some_and(|key| key.step == step)
        };
        self.statement().await.iter().filter(of_step).map(|entry| entry.change.minor_units()).sum()
    }

    /// Balances and statement tell the same story, and the books are sound.
    pub(crate) async fn assert_consistent(&self) {
        let balances = self.bank.balances().await.unwrap();
        let entries = self.statement().await;
        assert!(entries.is_sorted_by(|a, b| a.booked_at < b.booked_at), "strictly increasing");
        for (account, balance) in &balances.accounts {
            let booked: i128 = entries
                .iter()
                .filter(|entry| entry.account == *account && entry.booked_at <= balances.as_of)
                .map(|entry| entry.change.minor_units())
                .sum();
            assert_eq!(booked, balance.minor_units(), "{account:?}");
        }
        self.admin.assert_sound().await;
    }
}

pub(crate) async fn statement_of(bank: &dyn BankConnector) -> Vec<StatementEntry> {
    let mut entries = Vec::new();
    let mut after = 0;
    loop {
        let request = StatementRequest { after, booked_until: Timestamp::MAX, entries_max: 3 };
        let page = bank.statement(request).await.unwrap();
        entries.extend(page.entries);
        after = page.next_after;
        if !page.has_more {
            return entries;
        }
    }
}

pub(crate) fn done(outcome: Outcome) -> Receipt {
    let Outcome::Done(receipt) = outcome else { panic!("not done: {outcome:?}") };
    receipt
}

pub(crate) fn reason(outcome: &Outcome) -> String {
    let Outcome::Declined(decline) = outcome else { panic!("not declined: {outcome:?}") };
    decline.reason.to_string()
}
