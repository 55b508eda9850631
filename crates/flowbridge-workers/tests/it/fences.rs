//! Whoever stood still past his lease (a machine that slept, SIGSTOP) and goes on as if nothing had been: what he had claimed is
//! somebody else's, and he writes nothing. The store's own functions, by a clock that two workers agree on.

use crate::stage::{Shape, Stage, Tuning};
use flowbridge_domain::party::EvmAddress;
use flowbridge_domain::payment::Effect;
use flowbridge_store::StoreError;
use flowbridge_store::chain::{self, Block, Duty, Head, Lane, Stretch};
use flowbridge_store::effect::{self, EffectNext, EffectResult};
use flowbridge_store::event_log::{Offset, Reader, topic};
use std::time::Duration;

const LEASE: Duration = Duration::from_secs(60);

/// Nothing else runs.
async fn quiet() -> Stage {
    Stage::tuned(vec![], Tuning { chain: false, others: false, ..Tuning::default() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_bank_answered_to_whoever_has_lost_its_claim_is_not_written_down() {
    let stage = quiet().await;
    let payment = stage.accept(Shape::BankToToken, 1_000).await;
    let asked = "insert into effect (payment_id, kind, lane, bank_code, next_attempt_at, state_since, traceparent)
        select id, 'place_hold', 'bank', debtor_bank, now(), now(), '' from payment where id = $1 returning bank_code";
    let bank: String = stage.sql.query_one(asked, &[&payment.as_uuid()]).await.unwrap().get(0);
    let (db, began) = (&stage.context.db, stage.context.now());
    let later = began.plus(2 * LEASE);
    let first = effect::claim_bank(db, &bank, 10, "stands still", began, LEASE).await.unwrap();
    let second = effect::claim_bank(db, &bank, 10, "goes on", later, LEASE).await.unwrap();
    let answer = |fence: i64, outcome: &str| EffectResult {
        payment_id: payment,
        effect: Effect::parse("place_hold").unwrap(),
        fence,
        next: EffectNext::Done,
        reference: None,
        outcome: outcome.to_owned(),
        booked_at: None,
        sent_by: None,
    };
    // The first sent at any time in its lease, if it sent at all: a bank's silence counts from its end.
    assert!(second[0].may_have_run);
    assert_eq!(second[0].sent_at, began.plus(LEASE));
    // The second only asked.
    let third = effect::claim_bank(db, &bank, 10, "asks again", later.plus(2 * LEASE), LEASE).await.unwrap();
    assert_eq!(third[0].sent_at, began.plus(LEASE));
    let second = third;
    let tx = db.begin().await.unwrap();
    let late = [answer(first[0].fence, "declined")];
    assert_eq!(effect::finish(&tx, &late, later).await.unwrap(), [], "it brings no observation");
    let own = [answer(second[0].fence, "done")];
    assert_eq!(effect::finish(&tx, &own, later).await.unwrap().len(), 1);
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_a_lane_and_the_watchers_place_move_for_whoever_holds_them_now() {
    let stage = quiet().await;
    let (db, began) = (&stage.context.db, stage.context.now());
    let later = began.plus(2 * LEASE);

    let reader = |owner: &str| Reader {
        group: "the test",
        topics: &[topic::CHAIN],
        owner: owner.to_owned(),
        lease: LEASE,
    };
    let (sleeper, waker) = (reader("stands still"), reader("goes on"));
    sleeper.register(db).await.unwrap();
    let old = sleeper.renew(db, began).await.unwrap();
    let new = waker.renew(db, later).await.unwrap();
    assert_eq!(new.len(), old.len(), "all of it is the other's now");
    let on = Offset { xid: 7, seq: 7 };
    let tx = db.begin().await.unwrap();
    let moved = sleeper.advance(&tx, &[(old[0].clone(), on)]).await;
    assert!(matches!(moved, Err(StoreError::Lost)), "{moved:?}");
    waker.advance(&tx, &[(new[0].clone(), on)]).await.unwrap();
    tx.rollback().await.unwrap();

    let (lane, key) = (Lane::first(Duty::Initiator), EvmAddress::from_bytes([5; 20]));
    let lease = async |owner: &str, now| {
        chain::lease_lane(db, lane, owner, (&key, Some(0)), (&[], now), (now, LEASE)).await.unwrap().unwrap()
    };
    let (old, new) = (lease("stands still", began).await, lease("goes on", later).await);
    let tx = db.begin().await.unwrap();
    let held = chain::guard_lane(&tx, &old).await;
    assert!(matches!(held, Err(StoreError::Lost)), "{held:?}");
    chain::guard_lane(&tx, &new).await.unwrap();
    tx.rollback().await.unwrap();

    let lease = async |owner: &str, now| {
        chain::lease_watcher(db, owner, (0, [0; 32]), now, LEASE).await.unwrap().unwrap()
    };
    let (old, new) = (lease("stands still", began).await, lease("goes on", later).await);
    let block = Block { number: 9, hash: [9; 32], time: later };
    let head = Head { latest: block, safe: block, finalized: block };
    let (logs, announce_max) = (vec![], 10);
    let stretch = Stretch {
        last: block,
        blocks: vec![block],
        logs,
        announce_to: 9,
        announce_max,
        head,
        chain_id: 31_337,
    };
    let taken = chain::take_in(db, &old, &stretch, 64, later).await;
    assert!(matches!(taken, Err(StoreError::Lost)), "{taken:?}");
    chain::take_in(db, &new, &stretch, 64, later).await.unwrap();
}
