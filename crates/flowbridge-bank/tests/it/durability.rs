//! What the bank answered, it remembers: after an orderly stop, and after SIGKILL in the middle of work.

use crate::bench::{
    Admin, Bench, OPENING, bank_config, capture, connector_to, debtor, done, eur, new_payment, place,
    release, simulator_config, statement_of,
};
use flowbridge_bank::connector::{BankConnector, Operation, Outcome, OwnAccount, QueryOutcome};
use flowbridge_bank::simulator::{Fault, FaultRule, Simulator};
use flowbridge_domain::bank::{BankStep, HoldMode};
use flowbridge_domain::time::{Clock, ManualClock};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use url::Url;

const FOLDER: &str = "FLOWBRIDGE_TEST_SIMULATOR_FOLDER";

#[tokio::test]
async fn a_restart_keeps_everything_and_seeds_nothing_twice() {
    let bench = Bench::start(HoldMode::Escrow).await;
    let (captured, held, released) = (new_payment(), new_payment(), new_payment());
    let slice =
        [place(captured, 100), capture(captured, 100), place(held, 200), release(released), place(held, 999)];
    let before = bench.bank.execute(&slice).await;
    bench.admin.fault(FaultRule::always(Fault::Slow { ms: 1_000 })).await;
    let undecided = place(new_payment(), 5);
    assert!(matches!(bench.execute(undecided.clone()).await, Outcome::Pending { .. }));
    let statement = bench.statement().await;
    let (folder, clock) = bench.stop().await;

    let bench = Bench::start_with(bank_config(HoldMode::Escrow), folder, clock).await;
    assert_eq!(bench.bank.execute(&slice).await, before);
    assert_eq!(bench.statement().await, statement);
    assert!(matches!(bench.execute(place(released, 1)).await, Outcome::Declined(_)), "the tombstone stands");
    done(bench.execute(capture(held, 200)).await);
    let (balance, _) = bench.admin.account(debtor().as_str()).await;
    assert_eq!(i128::from(balance), OPENING - 300);
    bench.clock.advance(Duration::from_secs(1));
    done(bench.execute(undecided).await);
    bench.assert_consistent().await;
}

#[tokio::test]
async fn holds_that_expired_while_the_bank_was_down_are_given_back() {
    let bench = Bench::start(HoldMode::Native).await;
    done(bench.execute(place(new_payment(), 100)).await);
    let (folder, clock) = bench.stop().await;
    clock.advance(Duration::from_hours(2));
    let bench = Bench::start_with(bank_config(HoldMode::Native), folder, clock).await;
    let (_, available) = bench.admin.account(debtor().as_str()).await;
    assert_eq!(i128::from(available), OPENING);
    bench.assert_consistent().await;
}

#[tokio::test]
async fn bookings_stay_in_order_when_the_clock_goes_back() {
    let bench = Bench::start(HoldMode::Native).await;
    let first = done(bench.execute(place(new_payment(), 1)).await);
    let (folder, _) = bench.stop().await;
    let earlier = Arc::new(ManualClock::at(first.booked_at.minus(Duration::from_secs(60))));
    let bench = Bench::start_with(bank_config(HoldMode::Native), folder, earlier).await;
    assert!(done(bench.execute(place(new_payment(), 1)).await).booked_at > first.booked_at);
}

#[tokio::test]
async fn what_is_remembered_is_bounded_and_open_holds_are_not_forgotten() {
    let mut config = bank_config(HoldMode::Native);
    (config.operations_kept_max, config.entries_kept_max) = (500, 300);
    let clock = Arc::new(ManualClock::at(crate::bench::START));
    let bench = Bench::start_with(config, tempfile::tempdir().unwrap(), clock).await;
    let open = new_payment();
    done(bench.execute(place(open, 1)).await);
    for _ in 0..8 {
        let slice: Vec<Operation> = (0..200)
            .flat_map(|_| {
                let payment = new_payment();
                [place(payment, 1), capture(payment, 1)]
            })
            .collect();
        bench.bank.execute(&slice).await.into_iter().for_each(|outcome| drop(done(outcome)));
    }
    let kept = bench.admin.get("operations").await["operations"].as_array().unwrap().len();
    assert!((500..2_000).contains(&kept), "{kept} of 3,201 operations");
    done(bench.execute(capture(open, 1)).await);
    bench.admin.assert_sound().await;
    let gone = bench
        .bank
        .statement(flowbridge_bank::connector::StatementRequest {
            after: 0,
            booked_until: flowbridge_domain::time::Timestamp::MAX,
            entries_max: 1,
        })
        .await;
    assert!(gone.is_err(), "a cursor to forgotten entries is refused, not silently moved");
}

/// Kills the bank with SIGKILL while slices are being answered, several times; whatever it had answered stands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigkill_loses_nothing_that_was_answered() {
    let folder = tempfile::tempdir().unwrap();
    let mut answered: Vec<(Operation, Outcome)> = Vec::new();
    for round in 0..3 {
        let (mut child, root) = spawn_simulator(folder.path());
        let bank = connector_to(&root, HoldMode::Native);
        recheck(bank.as_ref(), &answered).await;
        let (one_more, mut more) = tokio::sync::mpsc::unbounded_channel();
        let work = || tokio::spawn(work_until_it_dies(Arc::clone(&bank), one_more.clone()));
        let clients: Vec<_> = (0..4).map(|_| work()).collect();
        drop(one_more);
        for _ in 0..8 + 4 * round {
            more.recv().await.unwrap();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for client in clients {
            answered.extend(client.await.unwrap());
        }
    }
    let (mut child, root) = spawn_simulator(folder.path());
    let bank = connector_to(&root, HoldMode::Native);
    recheck(bank.as_ref(), &answered).await;
    let captured = answered
        .iter()
        .filter(|(operation, outcome)| {
            operation.key().step == BankStep::Capture && matches!(outcome, Outcome::Done(_))
        })
        .count();
    assert!(captured > 10, "only {captured} captures before the kills");
    let booked: i128 = statement_of(bank.as_ref())
        .await
        .iter()
        .filter(|entry| entry.account == OwnAccount::Reserve)
        .map(|entry| entry.change.minor_units())
        .sum();
    assert_eq!(bank.balances().await.unwrap().reserve(eur(0).currency()), eur(booked));
    assert!(booked - OPENING >= i128::try_from(captured).unwrap());
    Admin::new(&root).assert_sound().await;
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Says so of each slice that was answered.
async fn work_until_it_dies(
    bank: Arc<dyn BankConnector>,
    one_more: UnboundedSender<()>,
) -> Vec<(Operation, Outcome)> {
    let mut answered = Vec::new();
    loop {
        let payments: Vec<_> = (0..10).map(|_| new_payment()).collect();
        for slice in [
            payments.iter().map(|payment| place(*payment, 1)).collect::<Vec<_>>(),
            payments.iter().map(|payment| capture(*payment, 1)).collect(),
        ] {
            let outcomes = bank.execute(&slice).await;
            if outcomes
                .iter()
                .any(|outcome| matches!(outcome, Outcome::Unknown { .. } | Outcome::NotSent { .. }))
            {
                return answered;
            }
            answered.extend(slice.into_iter().zip(outcomes));
            // Who counts may have seen enough.
            let _ = one_more.send(());
        }
    }
}

async fn recheck(bank: &dyn BankConnector, answered: &[(Operation, Outcome)]) {
    for slice in answered.chunks(500) {
        let keys: Vec<_> = slice.iter().map(|(operation, _)| operation.key()).collect();
        for ((operation, told), asked) in slice.iter().zip(bank.query(&keys).await) {
            match (told, &asked) {
                (Outcome::Done(told), QueryOutcome::Done { receipt, .. }) if told == receipt => {}
                (Outcome::Declined(told), QueryOutcome::Declined(decline)) if told == decline => {}
                _ => panic!("{operation:?}: told {told:?}, now {asked:?}"),
            }
        }
    }
}

/// This test binary again, as a process of its own that only runs the simulator.
fn spawn_simulator(folder: &Path) -> (Child, Url) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "durability::simulator_process", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = lines
        .map_while(Result::ok)
        .find_map(|line| line.split_once("listening on ").map(|(_, address)| address.to_owned()));
    (child, format!("http://{}/", address.unwrap()).parse().unwrap())
}

#[tokio::test]
#[ignore = "not a test: the process that sigkill_loses_nothing_that_was_answered kills"]
async fn simulator_process() {
    #[expect(clippy::disallowed_methods, reason = "the parent test says where the books lie")]
    let folder = std::env::var(FOLDER).unwrap();
    let mut bank = bank_config(HoldMode::Native);
    bank.accounts[0].1 = eur(1_000_000_000);
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(crate::bench::START));
    let simulator = Simulator::bind(simulator_config(Path::new(&folder), vec![bank]), clock).await.unwrap();
    println!("listening on {}", simulator.local_addr());
    simulator.run(std::future::pending()).await.unwrap();
}
