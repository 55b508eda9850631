//! Windows that the chain closes, what a reorganisation takes back, and what may be told, sent or counted then: the store's own
//! functions on rows as they may lie in the database, while nothing runs.

use crate::stage::{Shape, Stage, Tuning};
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::money::Currency;
use flowbridge_domain::party::EvmAddress;
use flowbridge_domain::payment::{ChainLog, Decision, Effect, Event, Initiation};
use flowbridge_domain::time::Timestamp;
use flowbridge_store::StoreError;
use flowbridge_store::chain::{
    self, Block, Duty, Filled, Head, Lane, Said, SeenLog, Stretch, TakenIn, WatcherLease,
};
use flowbridge_store::event_log::{self, Reader, topic};
use flowbridge_store::lifecycle::{self, Looked, Occurrence, Outcome};
use flowbridge_workers::orchestrator::{self, Dropped, OrchestratorSettings, drop_letters};
use std::cell::Cell;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const REORG_DEPTH_BLOCKS_MAX: u64 = 64;

const MINUTE: Duration = Duration::from_secs(60);

const TOO_LATE_TO_INITIATE: &str =
    "update payment set initiate_before = now() - interval '1 min' where id = $1";

/// The contracts' status bits of a payment that is open.
const OPEN: u8 = 1;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_is_behind_closes_no_window_ahead_of_its_place() {
    let stage = quiet().await;
    let payment = stage.accept(Shape::BankToToken, 1_000).await;
    change(&stage, TOO_LATE_TO_INITIATE, payment).await;
    let now = stage.context.now();
    let (old, newest) = (block(100, now.minus(2 * MINUTE)), block(200, now));
    take_in(&stage, old, newest, vec![]).await;
    assert_eq!(due(&stage).await, [], "its initiation may lie in the blocks between");
    take_in(&stage, newest, newest, vec![]).await;
    assert_eq!(due(&stage).await, [Occurrence { payment_id: payment, event: Event::InitiateWindowClosed }]);
    go_back(&stage, old).await;
    assert_eq!(due(&stage).await, [], "what was final is read once more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_waited_for_finality_is_announced_in_parts_and_none_twice() {
    let stage = quiet().await;
    let (db, now) = (&stage.context.db, stage.context.now());
    let blocks = [1, 2, 3].map(|number| block(number, now));
    let mut logs = Vec::new();
    for block in blocks {
        let payment = stage.accept(Shape::BankToToken, 1_000).await;
        logs.push(says(block, Said::Payment(payment, ChainLog::Initiated)));
    }
    let (first, last) = (block(0, now), blocks[2]);
    let of = |finalized| Head { latest: last, safe: finalized, finalized };
    let seen = Stretch { blocks: blocks.to_vec(), ..stretch(last, of(first), logs, 0) };
    let taken = chain::take_in(db, &lease(&stage).await, &seen, REORG_DEPTH_BLOCKS_MAX, now).await.unwrap();
    assert_eq!(taken, TakenIn { announced: 0, is_cut: false });

    let leap = Stretch { announce_max: 1, ..stretch(last, of(last), vec![], last.number) };
    for expected in [(2, true), (1, false), (0, false)] {
        let lease = lease(&stage).await;
        let taken = chain::take_in(db, &lease, &leap, REORG_DEPTH_BLOCKS_MAX, now).await.unwrap();
        assert_eq!((taken.announced, taken.is_cut), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_no_longer_be_initiated_in_time_holds_up_nobody_else() {
    let stage = quiet().await;
    let late = stage.accept(Shape::BankToToken, 1_000).await;
    let timely = stage.accept(Shape::BankToToken, 1_000).await;
    let taken_back = "update payment set state = 'completed', initiate_before = now() where id = $1";
    change(&stage, taken_back, late).await;
    let tx = stage.context.db.begin().await.unwrap();
    let (now, margin) = (stage.context.now(), Duration::from_secs(3));
    let claimed = chain::claim_initiations(&tx, (Timestamp::EPOCH, now), margin, 100).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(claimed.iter().map(|due| due.payment_id).collect::<Vec<_>>(), [timely]);
    assert_eq!(effect(&stage, late, "initiate").await, "revoked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_are_late_a_claim_looks_at_no_more_than_it_may_take() {
    let stage = quiet().await;
    let mut late = vec![];
    for _ in 0..3 {
        let payment = stage.accept(Shape::BankToToken, 1_000).await;
        change(&stage, TOO_LATE_TO_INITIATE, payment).await;
        late.push(payment);
    }
    for taken_back in 1..=late.len() {
        let tx = stage.context.db.begin().await.unwrap();
        let (now, margin) = (stage.context.now(), Duration::from_secs(3));
        assert!(chain::claim_initiations(&tx, (Timestamp::EPOCH, now), margin, 1).await.unwrap().is_empty());
        tx.commit().await.unwrap();
        let mut revoked = 0;
        for payment in &late {
            revoked += usize::from(effect(&stage, *payment, "initiate").await == "revoked");
        }
        assert_eq!(revoked, taken_back, "those that have waited longest come first, each when it is met");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_suspended_institution_is_party_to_waits_until_it_may_pay_again_and_holds_up_nobody_else() {
    let stage = quiet().await;
    let mut payments = vec![];
    for _ in 0..4 {
        payments.push(stage.accept(Shape::BankToToken, 1_000).await);
    }
    let [paying, paid, taken_back, others] = payments[..] else { panic!("four") };
    let institution = "with suspended as (
            insert into participant (id, name, status, created_at) values (gen_random_uuid(), 'gamma', 'suspended', now()) returning id)
        insert into account (id, participant_id, bank_code, currency, iban, wallet, name, created_at)
            select gen_random_uuid(), id, 'alpha', 'EUR', 'of gamma', decode(repeat('0c', 20), 'hex'), 'gamma', now() from suspended";
    stage.sql.execute(institution, &[]).await.unwrap();
    let with = |change: &str| {
        format!(
            "update payment set {change} from account gamma where payment.id = $1 and gamma.name = 'gamma'"
        )
    };
    let debtor = "debtor_account = gamma.id, debtor_participant = gamma.participant_id";
    change(&stage, &with(debtor), paying).await;
    change(&stage, &with("creditor_account = gamma.id, creditor_participant = gamma.participant_id"), paid)
        .await;
    change(&stage, &with(&format!("{debtor}, hold_leg = 'placed'")), taken_back).await;

    let now = stage.context.now();
    let claim = async |after: u64, limit: i64| {
        let at = now.plus(Duration::from_secs(after));
        let tx = stage.context.db.begin().await.unwrap();
        let margin = Duration::from_secs(3);
        let claimed = chain::claim_initiations(&tx, (Timestamp::EPOCH, at), margin, limit).await.unwrap();
        tx.commit().await.unwrap();
        claimed.iter().map(|due| due.payment_id).collect::<Vec<_>>()
    };
    assert_eq!(claim(0, 2).await, [], "both of its own were due first");
    assert_eq!(claim(0, 2).await, [taken_back, others], "they have made way; what was begun goes on");
    assert_eq!(claim(11, 10).await, [taken_back, others], "it is suspended still");
    stage.sql.execute("update participant set status = 'active'", &[]).await.unwrap();
    assert_eq!(claim(12, 10).await, [taken_back, others], "they were put off");
    let mut claimed = claim(22, 10).await;
    claimed.sort_unstable();
    payments.sort_unstable();
    assert_eq!(claimed, payments);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_window_closes_on_a_payment_while_what_the_chain_said_of_it_waits_for_a_person() {
    let stage = quiet().await;
    let payment = stage.accept(Shape::BankToToken, 1_000).await;
    change(&stage, TOO_LATE_TO_INITIATE, payment).await;
    let parked = "insert into dead_letter (id, consumer_group, topic, partition, key, event_id, xid, seq, cause, attempts, parked_at)
        values (gen_random_uuid(), 'orchestrator', 'chain', 0, $1, gen_random_uuid(), 1, 1, 'refused', 1, now())";
    change(&stage, parked, payment).await;
    let newest = block(9, stage.context.now());
    take_in(&stage, newest, newest, vec![]).await;
    assert_eq!(due(&stage).await, []);
    let dropped = drop_letters(&stage.context.db, payment, "Asha: a mistake", &stage.context).await.unwrap();
    assert_eq!(dropped, Dropped::IsOurs, "nobody drops what was said of a payment of ours");
    assert_eq!(due(&stage).await, []);
    let retried = "update dead_letter set resolved_at = now(), resolution = 'retried' where key = $1";
    change(&stage, retried, payment).await;
    assert_eq!(due(&stage).await, [Occurrence { payment_id: payment, event: Event::InitiateWindowClosed }]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_of_a_payment_that_is_not_here_are_dropped_for_a_reason_and_parked_anew_without_it() {
    let stage = quiet().await;
    let (db, now) = (&stage.context.db, stage.context.now());
    let nobody = PaymentId::generate(now, [7; 10]);
    let said = "insert into event (id, topic, partition, key, kind, traceparent, data, recorded_at)
        values ($1, 'bank', 0, $1, 'bank.captured', '', '{}', now())";
    change(&stage, said, nobody).await;
    let events = event_log::read_key(db, nobody, 10).await.unwrap();
    let (group, owner) = (orchestrator::GROUP, "a person".to_owned());
    let reader = Reader { group, topics: &[topic::BANK], owner, lease: MINUTE };
    let letter = async || event_log::dead_letters(db, true, None, 10).await.unwrap().remove(0);
    let park = async || {
        let tx = db.begin().await.unwrap();
        let letters: Vec<_> = events.iter().map(|event| (event, "nobody's".to_owned())).collect();
        reader.park(&tx, &letters, now).await.unwrap();
        tx.commit().await.unwrap();
    };
    let drop = async || drop_letters(db, nobody, "Asha: a test", &stage.context).await.unwrap();
    park().await;
    assert_eq!(drop().await, Dropped::All(1));
    let dropped = letter().await;
    assert_eq!(dropped.resolution.as_deref(), Some("dropped"));
    assert_eq!(dropped.reason.as_deref(), Some("Asha: a test"));
    assert_eq!(drop().await, Dropped::All(0), "there is nothing open any more");
    park().await;
    let again = letter().await;
    assert_eq!((again.resolution, again.reason, again.attempts), (None, None, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancellation_that_nobody_sent_is_asked_for_anew_when_its_settlement_is_taken_back() {
    let stage = quiet().await;
    let payment = stage.accept(Shape::BankToToken, 1_000).await;
    let now = stage.context.now();
    let (before, with_settlement) = (block(100, now), block(101, now));
    ask(&stage, payment, "settle", "sent").await;
    ask(&stage, payment, "cancel", "ready").await;
    carry(&stage, payment, "settle", with_settlement).await;
    take_in(&stage, before, before, vec![]).await;
    let settled = says(with_settlement, Said::Payment(payment, ChainLog::Settled));
    take_in(&stage, with_settlement, with_settlement, vec![settled]).await;
    assert_eq!(effect(&stage, payment, "cancel").await, "done", "too late");
    go_back(&stage, before).await;
    assert_eq!(effect(&stage, payment, "settle").await, "sent", "its transaction goes on");
    assert_eq!(
        effect(&stage, payment, "cancel").await,
        "refused",
        "nothing carries it, and nobody wants it now"
    );
    let held = "update payment set state = 'held', chain_leg = 'open', hold_leg = 'placed',
            settle_before = now() - interval '1 s' where id = $1";
    change(&stage, held, payment).await;
    tell(&stage, &due(&stage).await).await;
    assert_eq!(stage.state(payment).await, "cancelling");
    assert_eq!(effect(&stage, payment, "cancel").await, "ready");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_reverted_while_the_watcher_goes_back_is_sent_again() {
    let stage = quiet().await;
    let payment = stage.accept(Shape::BankToToken, 1_000).await;
    let (db, now) = (&stage.context.db, stage.context.now());
    let (before, with_settlement) = (block(100, now), block(101, now));
    ask(&stage, payment, "settle", "sent").await;
    carry(&stage, payment, "settle", with_settlement).await;
    take_in(&stage, before, before, vec![]).await;
    let settled = says(with_settlement, Said::Payment(payment, ChainLog::Settled));
    take_in(&stage, with_settlement, with_settlement, vec![settled]).await;
    let completed =
        "update payment set state = 'completed', chain_leg = 'settled', hold_leg = 'captured' where id = $1";
    change(&stage, completed, payment).await;
    let reopened = "update chain_tx set state = 'signed', nonce = 0, included_number = null,
            contract = decode(repeat('07', 20), 'hex') from chain_tx_item item
        where item.chain_tx = chain_tx.id and item.payment_id = $1";
    change(&stage, reopened, payment).await;
    let (lane, key) = (Lane::first(Duty::Settler), EvmAddress::from_bytes([5; 20]));
    let asked = (&[][..], now);
    let leased = chain::lease_lane(db, lane, "the test", (&key, Some(0)), asked, (now, MINUTE)).await;
    let leased = leased.unwrap().unwrap();
    let open = chain::open_txs(db, lane, 10).await.unwrap();

    // Somebody holds up the watcher just before its end.
    stage.sql.batch_execute("begin; select from chain_head for update").await.unwrap();
    let given_up = Cell::new(false);
    let waiting = async |wanted: i64| {
        let waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        loop {
            // Within a transaction it is shown as it was at the first look.
            stage.sql.batch_execute("select pg_stat_clear_snapshot()").await.unwrap();
            let seen: i64 = stage.sql.query_one(waiting, &[]).await.unwrap().get(0);
            if seen >= wanted || given_up.get() {
                return;
            }
        }
    };
    let give_up = async {
        waiting(1).await;
        let tx = db.begin().await.unwrap();
        chain::guard_lane(&tx, &leased).await.unwrap();
        chain::give_up(&tx, &[&open[0]], true, "reverted", now, now).await.unwrap();
        tx.commit().await.unwrap();
        given_up.set(true);
    };
    let let_go = async {
        waiting(2).await;
        stage.sql.batch_execute("commit").await.unwrap();
    };
    tokio::join!(go_back(&stage, before), give_up, let_go);
    assert_eq!(carrier(&stage, payment).await, "reverted");
    assert_eq!(effect(&stage, payment, "settle").await, "ready", "nothing carries it, and it was paid for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_done_only_in_a_block_that_the_watcher_has_seen() {
    let stage = quiet().await;
    let seen = stage.accept(Shape::BankToToken, 1_000).await;
    let unseen = stage.accept(Shape::BankToToken, 1_000).await;
    let elsewhere = stage.accept(Shape::BankToToken, 1_000).await;
    let now = stage.context.now();
    let (old, newest) = (block(10, now), block(200, now));
    take_in(&stage, old, old, vec![]).await;
    carry(&stage, seen, "settle", old).await;
    carry(&stage, unseen, "settle", block(20, now)).await;
    carry(&stage, elsewhere, "settle", Block { hash: [11; 32], ..old }).await;
    take_in(&stage, newest, newest, vec![]).await;
    let (db, lane) = (&stage.context.db, Lane::first(Duty::Settler));
    let settled = newest.number - REORG_DEPTH_BLOCKS_MAX;
    chain::follow_included(db, lane, newest.number, settled, REORG_DEPTH_BLOCKS_MAX, now).await.unwrap();
    assert_eq!(carrier(&stage, seen).await, "finalized", "its block is remembered for its sake");
    assert_eq!(carrier(&stage, unseen).await, "signed", "the node is asked anew what became of it");
    assert_eq!(carrier(&stage, elsewhere).await, "signed", "another block of that number is not its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_no_node_has_shown_is_missed_until_one_does() {
    let stage = quiet().await;
    let (now, db) = (stage.context.now(), &stage.context.db);
    let counted = |number: u64, batches: u64, sequence: u64| {
        let block = block(number, now);
        let totals = Said::Totals { sequence, minted: 0, burned: 0, escrowed: 0, redemption: 0 };
        let batch = SeenLog { log_index: 1, ..says(block, Said::BatchInitiated { sequence: batches }) };
        (block, vec![says(block, totals), batch])
    };
    let see = async |number: u64, batches: u64, sequence: u64| {
        let (block, logs) = counted(number, batches, sequence);
        take_in(&stage, block, block, logs).await;
        chain::holes(db).await.unwrap()
    };
    assert_eq!(see(10, 1, 1).await, []);
    assert_eq!(see(11, 2, 2).await, []);
    go_back(&stage, block(10, now)).await;
    assert_eq!(see(12, 2, 2).await, [], "said again in another block");
    let holes = see(20, 4, 3).await;
    assert_eq!(holes.len(), 1, "an initiation that we were not shown");
    assert_eq!((holes[0].first, holes[0].last), (3, 3));
    assert_eq!((holes[0].from_block, holes[0].to_block), (12, 20));
    let holes = see(21, 5, 6).await;
    assert_eq!(holes.len(), 2, "money moved twice, and we were not shown it");
    let missing = stage.missing().await;
    assert!(missing[0].contains("between blocks 12 and 20"), "the proof does not hold: {missing:?}");

    go_back(&stage, block(20, now)).await;
    let holes = chain::holes(db).await.unwrap();
    assert_eq!(holes.len(), 1, "a reorganisation takes a hole with its blocks");
    let head = Head { latest: block(20, now), safe: block(20, now), finalized: block(20, now) };
    let fill = async |logs: &[SeenLog]| {
        chain::fill(db, &lease(&stage).await, &holes[0], (20, logs, &head), now).await.unwrap()
    };
    assert_eq!(fill(&[]).await, Filled::Missing);
    let (_, late) = counted(15, 3, 9);
    assert_eq!(fill(&late[1..]).await, Filled::Closed);
    assert_eq!(see(22, 5, 4).await, [], "and the count goes on from where it was");
    assert!(stage.missing().await.is_empty());

    let holes = see(30, 9, 5).await;
    let head = Head { latest: block(30, now), safe: block(30, now), finalized: block(30, now) };
    let (_, late) = counted(26, 7, 9);
    let half = (30, &late[1..], &head);
    let filled = chain::fill(db, &lease(&stage).await, &holes[0], half, now).await.unwrap();
    assert_eq!(filled, Filled::Missing, "of three initiations one is told");
    go_back(&stage, block(28, now)).await;
    let holes = see(31, 8, 5).await;
    assert_eq!(holes.len(), 1, "what no later number gives away is not forgotten");
    assert_eq!((holes[0].first, holes[0].last, holes[0].to_block), (6, 6, 28));

    go_back(&stage, block(28, now)).await;
    assert_eq!(see(32, 8, 5).await.len(), 1, "the hole of before is there still");
    take_in(&stage, block(40, now), block(40, now), vec![]).await;
    let say = async |totals: u64, batches: u64| {
        let told = chain::Counts { currency: Currency::parse("EUR").unwrap(), totals, batches };
        chain::compare_counts(db, &lease(&stage).await, &[told], stage.context.now()).await.unwrap();
        chain::holes(db).await.unwrap()
    };
    assert_eq!(say(5, 8).await.len(), 1, "they have counted what was read");
    let holes = say(6, 8).await;
    let [_, last] = holes.as_slice() else { panic!("money moved, and nobody has shown it: {holes:?}") };
    assert_eq!((last.first, last.last, last.from_block, last.to_block), (6, 6, 32, 40));
    assert_eq!(say(6, 8).await, holes, "asked again, it is the same");
    let head = Head { latest: block(40, now), safe: block(40, now), finalized: block(40, now) };
    let (_, late) = counted(36, 0, 6);
    let told = (40, &late[..1], &head);
    assert_eq!(chain::fill(db, &lease(&stage).await, last, told, now).await.unwrap(), Filled::Closed);
    assert_eq!(see(41, 9, 7).await.len(), 1, "what came late is where the count goes on");

    stage.sql.batch_execute("update chain_totals set gaps = 1 where currency = 'EUR'").await.unwrap();
    chain::take_gaps_over(db, now).await.unwrap();
    let holes = chain::holes(db).await.unwrap();
    assert!(holes.iter().any(|hole| (hole.kind.as_str(), hole.first, hole.from_block) == ("totals", 1, 0)));
    chain::take_gaps_over(db, now).await.unwrap();
    assert_eq!(chain::holes(db).await.unwrap(), holes, "what the version before has counted counts once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_window_closes_on_a_payment_before_what_a_node_has_left_out_is_read() {
    let stage = quiet().await;
    let payment = stage.accept(Shape::BankToToken, 1_000).await;
    change(&stage, TOO_LATE_TO_INITIATE, payment).await;
    let now = stage.context.now();
    let missing = says(block(200, now), Said::BatchInitiated { sequence: 2 });
    take_in(&stage, block(200, now), block(200, now), vec![missing]).await;
    assert_eq!(due(&stage).await, [], "its initiation may be what is missing");
    let over = "update payment set expires_at = now() - interval '1 min' where id = $1";
    change(&stage, over, payment).await;
    assert_eq!(due(&stage).await.len(), 1, "but nobody waits for it for ever");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_reverted_on_the_new_branch_before_we_saw_that_branch_is_settled_again() {
    let stage = quiet().await;
    let reverted = stage.accept(Shape::BankToToken, 1_000).await;
    let carried = stage.accept(Shape::BankToToken, 1_000).await;
    let undone = stage.accept(Shape::BankToToken, 1_000).await;
    let now = stage.context.now();
    let (before, with_settlement) = (block(100, now), block(101, now));
    take_in(&stage, before, before, vec![]).await;
    let mut settlements = Vec::new();
    for (log_index, payment) in (0..).zip([reverted, carried, undone]) {
        ask(&stage, payment, "settle", "sent").await;
        carry(&stage, payment, "settle", with_settlement).await;
        let settled = Said::Payment(payment, ChainLog::Settled);
        settlements.push(SeenLog { log_index, ..says(with_settlement, settled) });
    }
    take_in(&stage, with_settlement, with_settlement, settlements).await;
    for (payment, state) in [(reverted, "completed"), (carried, "completed"), (undone, "failed")] {
        change(&stage, &format!("update payment set state = '{state}' where id = $1"), payment).await;
    }
    let gone = "update chain_tx set state = 'reverted' from chain_tx_item item
        where item.chain_tx = chain_tx.id and item.payment_id = $1";
    for payment in [reverted, undone] {
        change(&stage, gone, payment).await;
    }
    go_back(&stage, before).await;
    assert_eq!(effect(&stage, reverted, "settle").await, "ready", "its money has moved");
    assert_eq!(effect(&stage, carried, "settle").await, "sent", "its transaction goes on");
    assert_eq!(effect(&stage, undone, "settle").await, "refused", "nobody wants it any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burn_that_came_before_its_settlement_is_sent_once_more_when_that_is_there() {
    let stage = quiet().await;
    let payment = stage.accept(Shape::BankToBank, 1_000).await;
    let newest = block(9, stage.context.now());
    change(&stage, "update payment set state = 'held', chain_leg = 'open' where id = $1", payment).await;
    ask(&stage, payment, "burn", "sent").await;
    open(&stage, payment).await;
    take_in(&stage, newest, newest, vec![says(newest, Said::Skipped(payment, OPEN))]).await;
    assert_eq!(effect(&stage, payment, "burn").await, "ready");
    assert_eq!(burns(&stage).await, []);
    change(&stage, "update payment set state = 'settled', chain_leg = 'settled' where id = $1", payment)
        .await;
    assert_eq!(burns(&stage).await, [payment]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completed_payment_that_was_not_settled_again_in_time_waits_for_a_person() {
    let stage = quiet().await;
    let unsettled = stage.accept(Shape::BankToToken, 1_000).await;
    let unopened = stage.accept(Shape::BankToToken, 1_000).await;
    let settlement_is_gone = "update payment set state = 'completed', state_since = now() - interval '3 min', hold_leg = 'captured',
            chain_leg = 'open', settle_before = now() - interval '2 min', expires_at = now() - interval '1 min'
        where id = $1";
    let initiation_too = "update payment set state = 'completed', state_since = now() - interval '3 min', hold_leg = 'captured',
            chain_leg = 'unused', initiate_before = now() - interval '1 min'
        where id = $1";
    change(&stage, settlement_is_gone, unsettled).await;
    change(&stage, initiation_too, unopened).await;
    let now = stage.context.now();
    let (old, newest) = (block(8, now.minus(2 * MINUTE)), block(9, now));
    take_in(&stage, old, old, vec![]).await;
    assert_eq!(due(&stage).await, []);
    take_in(&stage, newest, newest, vec![]).await;
    tell(&stage, &due(&stage).await).await;
    for payment in [unsettled, unopened] {
        assert_eq!(stage.state(payment).await, "under_review");
        assert_eq!(stage.reason(payment).await, "funds_moved_without_settlement");
        happen(&stage, payment, Event::Reviewed(Decision::CloseCompleted)).await;
    }
    assert_eq!(due(&stage).await, [], "people have dealt with them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_that_failed_and_was_paid_after_all_takes_its_part_again_and_gives_it_back_once() {
    let stage = quiet().await;
    let original = stage.accept(Shape::BankToToken, 1_000).await;
    let first = refund(&stage, original).await;
    let cancelling = "update payment set state = 'cancelling', reason = 'revoked', chain_leg = 'open', hold_leg = 'declined'
        where id = $1";
    change(&stage, cancelling, first).await;
    happen(&stage, first, Event::Chain(ChainLog::Cancelled)).await;
    assert_eq!(refunded(&stage, original).await, 0, "it failed");
    let second = refund(&stage, original).await;
    happen(&stage, first, Event::ChainRemoved(ChainLog::Cancelled)).await;
    happen(&stage, first, Event::Chain(ChainLog::Settled)).await;
    assert_eq!(stage.state(first).await, "under_review");
    assert_eq!(refunded(&stage, original).await, 1_000, "both together are more than there is");
    happen(&stage, first, Event::Reviewed(Decision::CloseFailed)).await;
    assert_eq!(refunded(&stage, original).await, 1_000, "the second one's part is its own");
    happen(&stage, second, Event::InitiateWindowClosed).await;
    assert_eq!(refunded(&stage, original).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_that_the_database_refuses_keeps_no_other_payment_from_its_timer() {
    let stage = quiet().await;
    let wallet = "insert into ledger_account (kind, owner, currency, normal_side) values ('wallet', $1, 'EUR', 'credit')";
    stage.sql.execute(wallet, &[&stage.creditor_account()]).await.unwrap();
    let refused = stage.accept(Shape::TokenBack, 1_000).await;
    // Its tokens were freed already, and are freed once.
    let freed = "insert into hold_movement (source_id, round, movement, account, amount, made_at)
        select source_id, round, 'release', account, amount, now() from hold_movement where source_id = $1";
    change(&stage, freed, refused).await;
    let other = stage.accept(Shape::BankToToken, 1_000).await;
    for payment in [refused, other] {
        change(&stage, TOO_LATE_TO_INITIATE, payment).await;
    }
    let newest = block(9, stage.context.now());
    take_in(&stage, newest, newest, vec![]).await;
    let stop = CancellationToken::new();
    let settings =
        OrchestratorSettings { timer_interval: Duration::from_millis(20), ..OrchestratorSettings::default() };
    let working = tokio::spawn(orchestrator::run(stage.context.clone(), settings, stop.clone()));
    stage.reaches(other, "failed").await;
    stop.cancel();
    working.await.unwrap();
    assert_eq!(stage.state(refused).await, "accepted");
}

/// Nothing runs.
async fn quiet() -> Stage {
    Stage::tuned(vec![], Tuning { chain: false, others: false, ..Tuning::default() }).await
}

fn euro() -> Currency {
    Currency::parse("EUR").unwrap()
}

fn block(number: u64, time: Timestamp) -> Block {
    Block { number, hash: [u8::try_from(number).unwrap(); 32], time }
}

fn says(block: Block, said: Said) -> SeenLog {
    SeenLog {
        block_number: block.number,
        block_hash: block.hash,
        tx_hash: [7; 32],
        log_index: 0,
        currency: euro(),
        said,
    }
}

async fn lease(stage: &Stage) -> WatcherLease {
    let start = (0, [0; 32]);
    let leased =
        chain::lease_watcher(&stage.context.db, "the test", start, stage.context.now(), MINUTE).await;
    leased.unwrap().unwrap()
}

/// The watcher takes in what is new up to `last`, all of it announced, of a chain that has come to `newest` and calls it final.
async fn take_in(stage: &Stage, last: Block, newest: Block, logs: Vec<SeenLog>) {
    let head = Head { latest: newest, safe: newest, finalized: newest };
    let stretch = stretch(last, head, logs, last.number);
    let (db, lease) = (&stage.context.db, lease(stage).await);
    chain::take_in(db, &lease, &stretch, REORG_DEPTH_BLOCKS_MAX, stage.context.now()).await.unwrap();
}

fn stretch(last: Block, head: Head, logs: Vec<SeenLog>, announce_to: u64) -> Stretch {
    Stretch { last, blocks: vec![last], logs, announce_to, announce_max: 1_000, head, chain_id: 31_337 }
}

async fn go_back(stage: &Stage, ancestor: Block) {
    let (db, lease) = (&stage.context.db, lease(stage).await);
    chain::rewind(db, &lease, &ancestor, stage.context.now()).await.unwrap();
}

async fn due(stage: &Stage) -> Vec<Occurrence> {
    lifecycle::due(&stage.context.db, &mut Looked::default(), stage.context.now(), 100).await.unwrap()
}

/// Each of them changes its payment.
async fn tell(stage: &Stage, occurrences: &[Occurrence]) {
    let tx = stage.context.db.begin().await.unwrap();
    let outcomes = lifecycle::apply(&tx, occurrences, stage.context.now()).await.unwrap();
    tx.commit().await.unwrap();
    let is_applied = |outcome: &Outcome| matches!(outcome, Outcome::Applied { .. });
    assert!(outcomes.iter().all(is_applied), "{occurrences:?}: {outcomes:?}");
}

async fn happen(stage: &Stage, payment_id: PaymentId, event: Event) {
    tell(stage, &[Occurrence { payment_id, event }]).await;
}

/// One row of the payment's.
async fn change(stage: &Stage, statement: &str, payment: PaymentId) {
    let changed = stage.sql.execute(statement, &[&payment.as_uuid()]).await.unwrap();
    assert_eq!(changed, 1, "{statement}");
}

async fn ask(stage: &Stage, payment: PaymentId, kind: &str, state: &str) {
    let asked =
        "insert into effect (payment_id, kind, lane, state, next_attempt_at, state_since, traceparent)
        values ($1, $2, 'chain', $3, now(), now(), '')";
    stage.sql.execute(asked, &[&payment.as_uuid(), &kind, &state]).await.unwrap();
}

async fn effect(stage: &Stage, payment: PaymentId, kind: &str) -> String {
    let state = "select state from effect where payment_id = $1 and kind = $2";
    stage.sql.query_one(state, &[&payment.as_uuid(), &kind]).await.unwrap().get(0)
}

/// A transaction of the settler's carries an effect of the payment, and is in this block.
async fn carry(stage: &Stage, payment: PaymentId, kind: &str, included: Block) {
    let lane = "insert into chain_lane (lane, next_nonce, sender) values ('settler', 0, decode(repeat('05', 20), 'hex'))
        on conflict do nothing";
    stage.sql.execute(lane, &[]).await.unwrap();
    let carried = "with sent as (
            insert into chain_tx (id, lane, purpose, currency, state, calldata, contract, sender, included_number, included_hash,
                    traceparent, created_at, state_since)
                values (gen_random_uuid(), 'settler', $2, 'EUR', 'included', '', '', decode(repeat('05', 20), 'hex'), $3, $4,
                    '', now(), now())
                returning id)
        insert into chain_tx_item (payment_id, chain_tx, place) select $1::uuid, id, 0 from sent";
    let (number, hash) = (i64::try_from(included.number).unwrap(), included.hash.to_vec());
    stage.sql.execute(carried, &[&payment.as_uuid(), &kind, &number, &hash]).await.unwrap();
}

/// The state of the transaction that carries the payment.
async fn carrier(stage: &Stage, payment: PaymentId) -> String {
    let state = "select chain_tx.state from chain_tx join chain_tx_item item on item.chain_tx = chain_tx.id
        where item.payment_id = $1";
    stage.sql.query_one(state, &[&payment.as_uuid()]).await.unwrap().get(0)
}

/// The payment stands alone in a batch on chain.
async fn open(stage: &Stage, payment: PaymentId) {
    let opened = "with sent as (
            insert into chain_tx (id, lane, purpose, currency, state, calldata, contract, traceparent, created_at, state_since)
                values (gen_random_uuid(), 'initiator', 'initiate', 'EUR', 'included', '', '', '', now(), now())
                returning id),
        batch as (
            insert into chain_batch (root, currency, chain_tx, size, created_at)
                select decode(repeat('ab', 32), 'hex'), 'EUR', id, 1, now() from sent)
        insert into chain_leaf (payment_id, number, root, place, debtor, creditor, amount, fee, expires_at, terms)
            values ($1, 1, decode(repeat('ab', 32), 'hex'), 0, '', '', 10000000, 0, 0, 2)";
    stage.sql.execute(opened, &[&payment.as_uuid()]).await.unwrap();
}

/// The payments whose burn may be sent now.
async fn burns(stage: &Stage) -> Vec<PaymentId> {
    let (db, now, effects) = (&stage.context.db, stage.context.now(), [Effect::BurnRedeemed]);
    let tx = db.begin().await.unwrap();
    let claimed = chain::claim_on_leaves(&tx, &effects, (Timestamp::EPOCH, now), 100).await.unwrap();
    tx.rollback().await.unwrap();
    let counted =
        chain::due(db, &effects, (Timestamp::EPOCH, now), 100).await.unwrap().map_or(0, |due| due.count);
    assert_eq!(counted, claimed.len(), "what is due is what can be claimed");
    claimed.into_iter().map(|due| due.payment_id).collect()
}

/// A refund of all of a completed payment, as the gateway leaves it.
async fn refund(stage: &Stage, original: PaymentId) -> PaymentId {
    let refund = stage.accept(Shape::BankToToken, 1_000).await;
    let of = "update payment set kind = 'refund', refund_of = $2 where id = $1";
    stage.sql.execute(of, &[&refund.as_uuid(), &original.as_uuid()]).await.unwrap();
    let reserved = "update payment set state = 'completed', chain_leg = 'settled', hold_leg = 'captured', refunded = amount
        where id = $1";
    change(stage, reserved, original).await;
    refund
}

async fn refunded(stage: &Stage, original: PaymentId) -> i64 {
    let refunded = "select refunded from payment where id = $1";
    stage.sql.query_one(refunded, &[&original.as_uuid()]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_moves_a_payment_later_is_told_of_later() {
    let stage = quiet().await;
    let (payment, other) =
        (stage.accept(Shape::BankToToken, 1_000).await, stage.accept(Shape::BankToToken, 1_000).await);
    let now = stage.context.now();
    let happens = |event| [Occurrence { payment_id: payment, event }];
    let cancelled = Event::CancelRequested { initiation: Initiation::MaybeSigned };
    // It has its place in the log by what it locked first.
    let early = stage.context.db.begin().await.unwrap();
    lifecycle::hold_still(&early, &[other]).await.unwrap();
    let late = stage.context.db.begin().await.unwrap();
    lifecycle::apply(&late, &happens(Event::Chain(ChainLog::Initiated)), now).await.unwrap();
    late.commit().await.unwrap();
    let overtaken = lifecycle::apply(&early, &happens(cancelled), now).await;
    assert!(matches!(overtaken, Err(StoreError::Overtaken)), "{overtaken:?}");
    early.rollback().await.unwrap();

    // One that waits for its payment before it writes anything gets its place afterwards.
    let waits = stage.context.db.begin().await.unwrap();
    let first = stage.context.db.begin().await.unwrap();
    let held = Event::HoldPlaced { until: now.plus(120 * MINUTE) };
    lifecycle::apply(&first, &happens(held), now).await.unwrap();
    let cancel = async {
        lifecycle::hold_still(&waits, &[payment]).await.unwrap();
        lifecycle::apply(&waits, &happens(cancelled), now).await.unwrap();
        waits.commit().await.unwrap();
    };
    let go_on = async {
        let waiting =
            "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        stage.until(async || !stage.sql.query(waiting, &[]).await.unwrap().is_empty()).await;
        first.commit().await.unwrap();
    };
    tokio::join!(cancel, go_on);
    assert_eq!(stage.history(payment).await, ["payment.initiated", "payment.held", "payment.cancelling"]);
}
