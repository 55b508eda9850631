//! Slices, not items: what happened to a payment leads to the same rows whether it is taken in at once or one by one.

use crate::stage::{Shape, Stage, Tuning};
use flowbridge_bank::connector::BankConnector as _;
use flowbridge_domain::bank::ReasonCode;
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::payment::{ChainLog, Event, Initiation, SetAside, State};
use flowbridge_domain::time::Timestamp;
use flowbridge_store::lifecycle::{self, Occurrence, Outcome};
use flowbridge_workers::{bank, chain};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use std::time::Duration;

/// How much happens to a payment, and how often something is tried that may not be in order.
const EVENTS: usize = 12;
const TRIES: usize = 120;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_ends_alike_at_once_and_one_by_one() {
    let stage = Stage::tuned(vec![], Tuning { chain: false, others: false, ..Tuning::default() }).await;
    let now = stage.context.now();
    let wallets = "insert into ledger_account (kind, owner, currency, normal_side) values ('wallet', $1, 'EUR', 'credit')";
    stage.sql.execute(wallets, &[&stage.creditor_account()]).await.unwrap();
    let mut rng = StdRng::seed_from_u64(20_261_128);
    let mut longest = 0;
    for walk in 0..24 {
        let shape = [Shape::BankToToken, Shape::BankToBank, Shape::TokenBack][walk % 3];
        let (one_by_one, at_once) = (stage.accept(shape, 1_000).await, stage.accept(shape, 1_000).await);
        let mut happened = Vec::new();
        for _ in 0..TRIES {
            let event = something(&mut rng, now);
            if stage.takes(&[Occurrence { payment_id: one_by_one, event }], now).await {
                happened.push(Occurrence { payment_id: at_once, event });
            }
            if happened.len() == EVENTS {
                break;
            }
        }
        assert!(stage.takes(&happened, now).await, "{happened:?}");
        assert_eq!(stage.left_by(at_once).await, stage.left_by(one_by_one).await, "after {happened:?}");
        longest = longest.max(happened.len());
    }
    assert_eq!(longest, EVENTS, "payments ended too early to say much");
    let held = "select coalesce(sum(held), 0)::bigint from ledger_account";
    let reserved = "select coalesce(sum(case movement when 'place' then amount else -amount end), 0)::bigint from hold_movement";
    let sum = async |query| -> i64 { stage.sql.query_one(query, &[]).await.unwrap().get(0) };
    assert_eq!(sum(held).await, sum(reserved).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_payment_that_cannot_be_read_keeps_no_other_from_its_bank() {
    let stage = Stage::tuned(vec![], Tuning { chain: false, others: false, ..Tuning::default() }).await;
    let (sound, unsound) =
        (stage.accept(Shape::BankToToken, 1_000).await, stage.accept(Shape::BankToToken, 1_000).await);
    let asked =
        "insert into effect (payment_id, kind, lane, bank_code, next_attempt_at, state_since, traceparent)
        select id, 'place_hold', 'bank', debtor_bank, now(), now(), '' from payment";
    assert_eq!(stage.sql.execute(asked, &[]).await.unwrap(), 2);
    let spoiled = "update payment set currency = 'gone' where id = $1";
    stage.sql.execute(spoiled, &[&unsound.as_uuid()]).await.unwrap();

    let capabilities = stage.banks.iter().map(|(code, bank)| (code.clone(), bank.capabilities())).collect();
    let (context, desk, stop) = (stage.context.clone(), stage.banks.clone(), stage.stop.clone());
    tokio::spawn(bank::run(context, desk, capabilities, Default::default(), stop));
    let state = async |payment: PaymentId| -> String {
        let state = "select state from effect where payment_id = $1 and kind = 'place_hold'";
        stage.sql.query_one(state, &[&payment.as_uuid()]).await.unwrap().get(0)
    };
    stage.until(async || state(sound).await == "done").await;
    stage.until(async || state(unsound).await == "escalated").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payments_that_need_a_transaction_each_leave_a_lane_half_of_its_room() {
    let stage = Stage::tuned(vec![], Tuning { chain: false, others: false, ..Tuning::default() }).await;
    for _ in 0..30 {
        stage.accept(Shape::TokenBack, 1).await;
    }
    let word = format!("0x{}", "5a".repeat(32));
    let signature = json!({ "valid_after": 0, "valid_before": 4_000_000_000_u64, "nonce": word, "v": 27, "r": word, "s": word });
    let signed = "update payment set \"authorization\" = $1";
    assert_eq!(stage.sql.execute(signed, &[&signature]).await.unwrap(), 30);
    let of_the_bank = stage.accept(Shape::BankToToken, 1_000).await;
    // It has waited for company long enough.
    let waiting = "update effect set state_since = now() - interval '1 min' where payment_id = $1";
    assert_eq!(stage.sql.execute(waiting, &[&of_the_bank.as_uuid()]).await.unwrap(), 1);

    let role = stage.chain_role(Tuning::default());
    tokio::spawn(chain::run(stage.context.clone(), role, stage.stop.clone()));
    let in_its_turn = "select count(*) from chain_tx where created_at <= (
            select chain_tx.created_at from chain_tx join chain_tx_item item on item.chain_tx = chain_tx.id
                where item.payment_id = $1 order by chain_tx.created_at limit 1)";
    let seen =
        async || -> i64 { stage.sql.query_one(in_its_turn, &[&of_the_bank.as_uuid()]).await.unwrap().get(0) };
    stage.until(async || seen().await > 0).await;
    assert_eq!(seen().await, 1 + 8, "of sixteen that may be under way, eight are single ones");
}

/// Something that chain, bank, client or time may say; reorganisations more often than in life.
fn something(rng: &mut StdRng, now: Timestamp) -> Event {
    let logs = [
        ChainLog::Initiated,
        ChainLog::Settled,
        ChainLog::InitiationSetAside(SetAside::NotFunded),
        ChainLog::SettlementSetAside(SetAside::Frozen),
        ChainLog::Cancelled,
        ChainLog::Reclaimed,
        ChainLog::RedemptionBurned,
        ChainLog::RedemptionReleased,
    ];
    let log = *logs.choose(rng).unwrap();
    match rng.random_range(0..12) {
        0..3 => Event::Chain(log),
        3..6 => Event::ChainRemoved(log),
        6 => Event::HoldPlaced { until: now.plus(Duration::from_secs(7_200)) },
        7 => Event::Captured,
        8 => Event::Released,
        9 => Event::Credited,
        10 => Event::CreditDeclined(ReasonCode::BLOCKED_ACCOUNT),
        _ => Event::CancelRequested { initiation: Initiation::MaybeSigned },
    }
}

impl Stage {
    /// Takes occurrences in, all in one transaction; none of them if one has no effect, or contradicts what is known.
    async fn takes(&self, occurrences: &[Occurrence], now: Timestamp) -> bool {
        let tx = self.context.db.begin().await.unwrap();
        let outcomes = lifecycle::apply(&tx, occurrences, now).await.unwrap();
        let is_in_order = |outcome: &Outcome| match outcome {
            Outcome::Applied { entered } => {
                !entered.iter().any(|state| matches!(state, State::UnderReview(_)))
            }
            Outcome::Rejected(_) | Outcome::UnknownPayment => false,
        };
        let all = outcomes.iter().all(is_in_order);
        if all {
            tx.commit().await.unwrap()
        } else {
            tx.rollback().await.unwrap()
        }
        all
    }

    /// Everything that the database has of a payment.
    async fn left_by(&self, payment: PaymentId) -> String {
        let left = "select concat_ws(e'\\n',
            (select row(state, reason, chain_leg, hold_leg, payout_leg, round)::text from payment where id = $1),
            (select string_agg(row(kind, state, attempts)::text, ' ' order by kind) from effect where payment_id = $1),
            (select string_agg(row(moment, round, debit_account, credit_account, amount)::text, ' ' order by moment, round)
                from journal_entry where source_id = $1),
            (select string_agg(row(round, movement, account, amount)::text, ' ' order by round, movement)
                from hold_movement where source_id = $1),
            (select string_agg(kind, ' ' order by xid, seq) from event where key = $1))";
        self.sql.query_one(left, &[&payment.as_uuid()]).await.unwrap().get(0)
    }
}
