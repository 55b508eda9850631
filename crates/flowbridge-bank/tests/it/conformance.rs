//! What any connector must keep, whatever the bank's hold mode: run here against the simulator over HTTP. A new
//! connector brings a bench of its own and passes the same scenarios.

use crate::bench::{
    Bench, MODES, OPENING, START, capture, credit, creditor, debtor, done, eur, new_payment, place, reason,
    release,
};
use flowbridge_bank::connector::{
    Balances, HoldStatus, NextMove, Operation, OperationKind, Outcome, QueryOutcome,
};
use flowbridge_bank::simulator::{Fault, FaultRule, Target};
use flowbridge_domain::bank::{BankStep, HoldMode, OperationKey};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[tokio::test]
async fn a_hold_reserves_and_its_capture_takes_exactly_what_was_reserved() {
    for mode in MODES {
        let bench = Bench::start(mode).await;
        let payment = new_payment();
        let hold = done(bench.execute(place(payment, 30_000)).await);
        let reserved = if mode == HoldMode::ConfirmOnly { 0 } else { 30_000 };
        let (_, available) = bench.admin.account(debtor().as_str()).await;
        assert_eq!(i128::from(available), OPENING - reserved, "{mode:?}");
        assert_eq!(hold.hold_expires_at.is_some(), mode != HoldMode::ConfirmOnly);

        assert_eq!(
            reason(&bench.execute(capture(new_payment(), 30_000)).await),
            "NARR",
            "no hold, no capture"
        );
        let taken = done(bench.execute(capture(payment, 30_000)).await);
        assert!(taken.booked_at > hold.booked_at);
        assert_eq!(bench.bank.balances().await.unwrap().reserve(eur(0).currency()), eur(OPENING + 30_000));
        assert_eq!(bench.reserve_changes(BankStep::Capture).await, 30_000);
        let key = OperationKey { payment_id: payment, step: BankStep::PlaceHold };
        let QueryOutcome::Done { hold: Some(HoldStatus::Captured), .. } = bench.query(key).await else {
            panic!("{mode:?}: the hold is captured")
        };
        bench.assert_consistent().await;
    }
}

#[tokio::test]
async fn a_capture_of_another_amount_is_declined() {
    for mode in [HoldMode::Native, HoldMode::Escrow] {
        let bench = Bench::start(mode).await;
        let payment = new_payment();
        done(bench.execute(place(payment, 300)).await);
        assert_eq!(reason(&bench.execute(capture(payment, 301)).await), "AM09");
        assert_eq!(bench.reserve_changes(BankStep::Capture).await, 0);
        bench.assert_consistent().await;
    }
}

#[tokio::test]
async fn holds_count_against_each_other() {
    for mode in [HoldMode::Native, HoldMode::Escrow] {
        let bench = Bench::start(mode).await;
        done(bench.execute(place(new_payment(), OPENING - 10)).await);
        assert!(!bench.bank.confirm_funds(&debtor(), eur(11)).await.unwrap());
        assert!(bench.bank.confirm_funds(&debtor(), eur(10)).await.unwrap());
        assert_eq!(reason(&bench.execute(place(new_payment(), 11)).await), "AM04");
        done(bench.execute(place(new_payment(), 10)).await);
        bench.assert_consistent().await;
    }
}

#[tokio::test]
async fn unusable_accounts_are_declined_with_their_reason() {
    for mode in MODES {
        let bench = Bench::start(mode).await;
        let mut stranger = place(new_payment(), 1);
        if let OperationKind::PlaceHold { account, .. } = &mut stranger.kind {
            *account = flowbridge_domain::party::Iban::parse("GB82WEST12345698765432").unwrap();
        }
        assert_eq!(reason(&bench.execute(stranger).await), "AC01");
        bench.admin.change_account(&debtor(), json!({"frozen": true})).await;
        assert_eq!(reason(&bench.execute(place(new_payment(), 1)).await), "AC06");
        bench.admin.change_account(&creditor(), json!({"closed": true})).await;
        assert_eq!(reason(&bench.execute(credit(new_payment(), 1)).await), "AC04");
        bench.assert_consistent().await;
    }
}

#[tokio::test]
async fn an_operation_asked_for_twice_is_carried_out_once_and_answered_alike() {
    for mode in MODES {
        let bench = Bench::start(mode).await;
        let payment = new_payment();
        for operation in [place(payment, 500), capture(payment, 500), credit(payment, 200)] {
            let first = bench.execute(operation.clone()).await;
            done(first.clone());
            let again = bench.bank.execute(&[operation.clone(), operation.clone()]).await;
            assert_eq!(again, [first.clone(), first], "{operation:?}");
        }
        assert_eq!(bench.reserve_changes(BankStep::Capture).await, 500);
        assert_eq!(bench.reserve_changes(BankStep::Credit).await, -200);

        let other = bench.execute(credit(payment, 201)).await;
        assert!(matches!(other, Outcome::Unprocessable { .. }), "neither done nor declined: {other:?}");
        bench.assert_consistent().await;
    }
}

#[tokio::test]
async fn a_decline_is_final_under_its_key() {
    let bench = Bench::start(HoldMode::Native).await;
    let operation = place(new_payment(), OPENING + 1);
    let first = bench.execute(operation.clone()).await;
    assert_eq!(reason(&first), "AM04");
    let deposit = json!({"deposit_id": "more", "account": debtor().as_str(), "amount": {"amount": 5, "currency": "EUR"}});
    let deposited = bench.admin.send(reqwest::Method::POST, "deposits", deposit).await;
    assert_eq!(deposited.status(), 201);
    assert_eq!(bench.execute(operation).await, first);
}

#[tokio::test]
async fn a_lost_reply_is_unknown_and_a_query_tells() {
    for mode in MODES {
        let bench = Bench::start(mode).await;
        let payment = new_payment();
        for operation in [place(payment, 700), capture(payment, 700), credit(payment, 700)] {
            bench.admin.fault(FaultRule::always(Fault::LostReply { silent_ms: 0 }).times(1)).await;
            let outcome = bench.execute(operation.clone()).await;
            assert!(matches!(outcome, Outcome::Unknown { .. }), "{outcome:?}");
            let asked = bench.query(operation.key()).await;
            let next = asked.next_move(&bench.bank.capabilities(), START, START);
            assert!(matches!(next, NextMove::RecordDone(_)), "{next:?}");
        }
        assert_eq!(bench.reserve_changes(BankStep::Capture).await, 700);
        bench.assert_consistent().await;
    }
}

#[tokio::test]
async fn a_request_that_failed_before_execution_is_found_out_and_sent_again() {
    let bench = Bench::start(HoldMode::Native).await;
    let operation = place(new_payment(), 700);
    bench.admin.fault(FaultRule::always(Fault::Unavailable { after_execution: false }).times(1)).await;
    assert!(matches!(bench.execute(operation.clone()).await, Outcome::Unknown { .. }));
    let asked = bench.query(operation.key()).await;
    assert_eq!(asked, QueryOutcome::NotFound);
    let capabilities = bench.bank.capabilities();
    let conclusive_at = START.plus(capabilities.query_conclusive_after);
    assert_eq!(asked.next_move(&capabilities, START, conclusive_at), NextMove::Send(None));
    done(bench.execute(operation).await);
}

#[tokio::test]
async fn a_release_leaves_a_tombstone_that_refuses_a_late_hold() {
    for mode in MODES {
        let bench = Bench::start(mode).await;
        let payment = new_payment();
        done(bench.execute(release(payment)).await);
        assert_eq!(reason(&bench.execute(place(payment, 100)).await), "NARR");
        assert_eq!(reason(&bench.execute(capture(payment, 100)).await), "NARR");
        let (balance, available) = bench.admin.account(debtor().as_str()).await;
        assert_eq!((i128::from(balance), i128::from(available)), (OPENING, OPENING), "{mode:?}");
    }
}

#[tokio::test]
async fn a_hold_that_is_decided_after_its_release_is_declined() {
    let bench = Bench::start(HoldMode::Native).await;
    let payment = new_payment();
    bench.admin.fault(FaultRule::always(Fault::Slow { ms: 1_000 }).only(&[Target::PlaceHold])).await;
    assert!(matches!(bench.execute(place(payment, 100)).await, Outcome::Pending { .. }));
    done(bench.execute(release(payment)).await);
    bench.clock.advance(Duration::from_secs(1));
    let decided = bench.query(OperationKey { payment_id: payment, step: BankStep::PlaceHold }).await;
    assert!(matches!(decided, QueryOutcome::Declined(_)), "{decided:?}");
    bench.assert_consistent().await;
}

#[tokio::test]
async fn an_expired_hold_is_given_back_and_not_captured() {
    for mode in [HoldMode::Native, HoldMode::Escrow] {
        let bench = Bench::start(mode).await;
        let payment = new_payment();
        let hold = done(bench.execute(place(payment, 400)).await);
        let expires_at = hold.hold_expires_at.unwrap();
        bench.clock.set(expires_at.minus(Duration::from_micros(1)));
        let (_, available) = bench.admin.account(debtor().as_str()).await;
        assert_eq!(i128::from(available), OPENING - 400, "not before its time");
        bench.clock.set(expires_at);
        assert_eq!(reason(&bench.execute(capture(payment, 400)).await), "NARR");
        let (_, available) = bench.admin.account(debtor().as_str()).await;
        assert_eq!(i128::from(available), OPENING);
        let key = OperationKey { payment_id: payment, step: BankStep::PlaceHold };
        let QueryOutcome::Done { hold: Some(HoldStatus::Expired), .. } = bench.query(key).await else {
            panic!("the bank says that the hold has expired")
        };
        done(bench.execute(release(payment)).await);
        bench.assert_consistent().await;
    }
}

#[tokio::test]
async fn of_capture_and_release_exactly_one_wins() {
    for mode in [HoldMode::Native, HoldMode::Escrow] {
        let bench = Bench::start(mode).await;
        for _ in 0..20 {
            let payment = new_payment();
            done(bench.execute(place(payment, 10)).await);
            let (taken, given_back) =
                tokio::join!(bench.execute(capture(payment, 10)), bench.execute(release(payment)));
            let won =
                [taken, given_back].iter().filter(|outcome| matches!(outcome, Outcome::Done(_))).count();
            assert_eq!(won, 1, "{mode:?}");
        }
        bench.assert_consistent().await;
    }
}

#[tokio::test]
async fn a_confirm_only_bank_sends_back_what_it_captured() {
    let bench = Bench::start(HoldMode::ConfirmOnly).await;
    let payment = new_payment();
    done(bench.execute(place(payment, 900)).await);
    done(bench.execute(capture(payment, 900)).await);
    done(bench.execute(release(payment)).await);
    let (balance, _) = bench.admin.account(debtor().as_str()).await;
    assert_eq!(i128::from(balance), OPENING);
    assert_eq!(bench.reserve_changes(BankStep::Capture).await, 900);
    assert_eq!(bench.reserve_changes(BankStep::Release).await, -900);
    bench.assert_consistent().await;
}

#[tokio::test]
async fn a_slice_is_carried_out_and_answered_in_order() {
    for mode in MODES {
        let bench = Bench::start(mode).await;
        let payments: Vec<_> = (0..50).map(|_| new_payment()).collect();
        let slice: Vec<Operation> = payments
            .iter()
            .flat_map(|payment| [place(*payment, 10), capture(*payment, 10), place(new_payment(), OPENING)])
            .collect();
        let outcomes = bench.bank.execute(&slice).await;
        assert_eq!(outcomes.len(), slice.len());
        for triple in outcomes.chunks(3) {
            let [Outcome::Done(hold), Outcome::Done(taken), Outcome::Declined(_)] = triple else {
                panic!("{mode:?}: hold, capture, and one that is not covered: {triple:?}")
            };
            assert!(hold.booked_at < taken.booked_at);
        }
        let booked: Vec<_> = bench
            .statement()
            .await
            .into_iter()
            .filter_map(|entry| {
                entry.key.filter(|key| key.step == BankStep::Capture && entry.change.minor_units() > 0)
            })
            .collect();
        assert_eq!(booked.iter().map(|key| key.payment_id).collect::<Vec<_>>(), payments);

        let keys: Vec<_> = slice.iter().map(Operation::key).collect();
        let asked = bench.bank.query(&keys).await;
        for (told, asked) in outcomes.iter().zip(asked) {
            assert_eq!(matches!(told, Outcome::Done(_)), matches!(asked, QueryOutcome::Done { .. }));
        }
        bench.assert_consistent().await;
    }
}

#[tokio::test]
async fn a_credit_is_paid_from_our_reserve_or_declined() {
    for mode in MODES {
        let bench = Bench::start(mode).await;
        done(bench.execute(credit(new_payment(), 60_000)).await);
        assert_eq!(bench.admin.account(creditor().as_str()).await.0, 60_000);
        assert_eq!(
            reason(&bench.execute(credit(new_payment(), 60_000)).await),
            "AM04",
            "our reserve is too low"
        );
        assert_eq!(bench.reserve_changes(BankStep::Credit).await, -60_000);
        bench.assert_consistent().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn balances_contain_exactly_what_was_booked_up_to_their_instant() {
    for mode in MODES {
        let bench = Bench::start(mode).await;
        let bank = Arc::clone(&bench.bank);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let payment = new_payment();
                for operation in [place(payment, 7), capture(payment, 7), credit(payment, 3)] {
                    done(bank.execute(&[operation]).await.pop().unwrap());
                }
            }
        });
        let mut cuts = Vec::new();
        let mut changes = 0;
        while changes < 5 {
            let cut = bench.bank.balances().await.unwrap();
            changes +=
                usize::from(cuts.last().is_none_or(|before: &Balances| before.accounts != cut.accounts));
            cuts.push(cut);
        }
        stop.store(true, Ordering::Relaxed);
        work.await.unwrap();
        let entries = bench.statement().await;
        for cut in &cuts {
            for (account, balance) in &cut.accounts {
                let booked: i128 = entries
                    .iter()
                    .filter(|entry| entry.account == *account && entry.booked_at <= cut.as_of)
                    .map(|entry| entry.change.minor_units())
                    .sum();
                assert_eq!(booked, balance.minor_units(), "{mode:?} {account:?} as of {:?}", cut.as_of);
            }
        }
    }
}

#[tokio::test]
async fn nothing_was_sent_when_nobody_listens_or_the_key_is_wrong() {
    let bench = Bench::start(HoldMode::Native).await;
    let (root, mode) = (bench.root.clone(), bench.mode);
    let thief = flowbridge_bank::simulator_client::SimulatorClientConfig::new(
        crate::bench::bank_code(),
        root.clone(),
        flowbridge_bank::auth::BearerKey::new("admin-key"),
        mode,
    );
    let thief = flowbridge_bank::simulator_client::SimulatorClient::new(thief).unwrap();
    let connector = crate::bench::connector_to(&root, mode);
    let operation = [place(new_payment(), 1)];
    use flowbridge_bank::connector::BankConnector as _;
    assert!(matches!(thief.execute(&operation).await[..], [Outcome::NotSent { .. }]));
    bench.stop().await;
    assert!(matches!(connector.execute(&operation).await[..], [Outcome::NotSent { .. }]));
}
