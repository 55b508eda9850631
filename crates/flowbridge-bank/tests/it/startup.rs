//! Several banks in one process, and the messages when one cannot start.

use crate::bench::{
    START, bank_code, bank_config, connector_to, debtor, done, eur, new_payment, place, simulator_config,
};
use flowbridge_bank::auth::BearerKey;
use flowbridge_bank::connector::BankConnector as _;
use flowbridge_bank::simulator::{BankConfig, Fault, FaultRule, Simulator, SimulatorError};
use flowbridge_bank::simulator_client::{SimulatorClient, SimulatorClientConfig};
use flowbridge_domain::bank::HoldMode;
use flowbridge_domain::party::BankCode;
use flowbridge_domain::time::{Clock, ManualClock};
use std::sync::Arc;
use url::Url;

fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::at(START))
}

#[tokio::test]
async fn banks_of_one_process_share_neither_books_nor_faults() {
    let folder = tempfile::tempdir().unwrap();
    let beta = BankCode::parse("beta").unwrap();
    let other = BankConfig {
        code: beta.clone(),
        faults: vec![FaultRule::always(Fault::Decline { reason: Some("AM04".into()), text: None })],
        ..bank_config(HoldMode::Escrow)
    };
    let config = simulator_config(folder.path(), vec![bank_config(HoldMode::Native), other]);
    let simulator = Simulator::bind(config, clock()).await.unwrap();
    let root: Url = format!("http://{}/", simulator.local_addr()).parse().unwrap();
    tokio::spawn(simulator.run(std::future::pending()));

    let alpha = connector_to(&root, HoldMode::Native);
    let key = BearerKey::new("client-key");
    let beta = SimulatorClient::new(SimulatorClientConfig::new(beta, root, key, HoldMode::Escrow)).unwrap();
    let operation = [place(new_payment(), 10)];
    done(alpha.execute(&operation).await.pop().unwrap());
    assert_eq!(crate::bench::reason(&beta.execute(&operation).await[0]), "AM04");
    assert!(!alpha.confirm_funds(&debtor(), eur(crate::bench::OPENING)).await.unwrap());
    assert!(beta.confirm_funds(&debtor(), eur(crate::bench::OPENING)).await.unwrap());
}

#[tokio::test]
async fn what_keeps_it_from_starting_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let bank = bank_config(HoldMode::Native);
    let running =
        Simulator::bind(simulator_config(folder.path(), vec![bank.clone()]), clock()).await.unwrap();

    let second =
        Simulator::bind(simulator_config(folder.path(), vec![bank.clone()]), clock()).await.unwrap_err();
    assert!(matches!(&second, SimulatorError::Books { bank, .. } if *bank == bank_code()), "{second}");

    let elsewhere = tempfile::tempdir().unwrap();
    let mut config = simulator_config(elsewhere.path(), vec![bank.clone()]);
    config.listen = running.local_addr();
    let in_use = Simulator::bind(config, clock()).await.unwrap_err();
    assert!(matches!(in_use, SimulatorError::Listen { address, .. } if address == running.local_addr()));

    let twice = simulator_config(tempfile::tempdir().unwrap().path(), vec![bank.clone(), bank.clone()]);
    assert!(matches!(Simulator::bind(twice, clock()).await, Err(SimulatorError::DuplicateBank(_))));

    let damaged = tempfile::tempdir().unwrap();
    std::fs::write(damaged.path().join("alpha.redb"), b"these are not books").unwrap();
    let unreadable =
        Simulator::bind(simulator_config(damaged.path(), vec![bank]), clock()).await.unwrap_err();
    assert!(unreadable.to_string().starts_with("cannot open the books of bank alpha: "), "{unreadable}");
}
