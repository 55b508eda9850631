//! What a turn reads does not grow with what waits, and no housekeeping grows with what was not kept: against a real database, with more
//! in it than a turn may look at.

use crate::lifecycle::{self, Looked};
use crate::monitor::{FORGOTTEN_MAX, Kept, keep_house};
use crate::registry::connect_as_slices;
use crate::sql::Statement;
use crate::{Db, DbSettings};
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::time::Timestamp;
use flowbridge_embedded::EmbeddedPostgres;
use serde_json::Value;
use std::time::Duration;
use tokio_postgres::{Client, SimpleQueryMessage};
use uuid::Uuid;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const PAGE: i64 = 100;
/// Payments that a bank keeps open past their deadlines: many pages.
const WAITING: usize = 1_000;

/// One payment for each second before now, in this state.
const PAYMENTS: &str = "insert into payment (id, number, participant_id, kind, funding, payout, currency, amount, fee, debtor_account,
        debtor_participant, debtor_bank, creditor_account, creditor_participant, creditor_bank, hold_mode, uetr, execute_at,
        initiate_before, settle_before, expires_at, hold_until, accepted_at, traceparent, state, state_since, chain_leg, hold_leg,
        payout_leg)
    select gen_random_uuid(), nextval('payment_number'), gen_random_uuid(), 'transfer', 'bank', 'token', 'EUR', 100, 0,
            gen_random_uuid(), gen_random_uuid(), 'alpha', gen_random_uuid(), gen_random_uuid(), 'beta', 'native', gen_random_uuid(),
            at, at, at, at, at, at, '', STATE, at, LEG, 'capture_asked', 'not_due'
        from generate_series(1, COUNT) n, lateral (select to_timestamp(1800000000 - n) as at) times";

#[tokio::test]
async fn what_a_bank_keeps_open_past_its_deadlines_is_looked_at_page_by_page() {
    let stage = Stage::new().await;
    stage.payments("settled", "settled", WAITING).await;
    let head =
        "insert into chain_head values (true, 31337, 1, now(), 1, now(), 1, to_timestamp(1800000000), now())";
    stage.run(head).await;
    let start = "'1970-01-01Z', '00000000-0000-0000-0000-000000000000', to_timestamp(1800000000), 100";
    for page in ["SETTLE_DUE", "INITIATE_DUE"] {
        assert_eq!(stage.payments_read(page, start).await, PAGE, "{page}");
    }

    let mut looked = Looked::default();
    let before = NOW.minus(Duration::from_secs(10));
    assert_eq!(stage.due(&mut looked, before).await, [], "nothing can be done about them");
    stage.payments("held", "open", 1).await;
    let newest = stage.payment_of("held").await;
    assert_eq!(stage.due(&mut looked, NOW).await, [newest], "whose time has come is found at once");
}

#[tokio::test]
async fn who_comes_to_be_due_long_after_the_deadline_is_found_on_the_next_round() {
    let stage = Stage::new().await;
    stage.payments("settled", "settled", WAITING).await;
    let mut looked = Looked::default();
    stage.due(&mut looked, NOW).await;
    let last = "update payment set state = 'held', chain_leg = 'open' where settle_before = (select max(settle_before) from payment)";
    stage.run(last).await;
    let late = stage.payment_of("held").await;
    let mut looks = 1;
    while stage.due(&mut looked, NOW).await != [late] {
        looks += 1;
        assert!(looks <= WAITING / 100 + 1, "not found in a round");
    }
    assert!(looks > 1, "a look is not a round");
}

#[tokio::test]
async fn however_much_has_served_its_time_it_is_forgotten_in_slices() {
    let stage = Stage::new().await;
    let forgotten = 2 * FORGOTTEN_MAX + 1;
    stage
        .run(&format!(
            "insert into idempotency_key
                select 'a client', '', n::text, '', 200, '', to_timestamp(1800000000) - interval '1 day' from generate_series(1, {forgotten}) n;
            insert into idempotency_key values ('a client', '', 'kept', '', 200, '', to_timestamp(1800000000));
            insert into used_assertion
                select n::text::bytea, to_timestamp(1799999939) from generate_series(1, {forgotten}) n;
            insert into used_assertion values ('a clock behind ours takes it', to_timestamp(1799999941));
            insert into webhook_delivery (id, endpoint_id, event_id, event_kind, subject_id, xid, seq, next_attempt_at, created_at, state_since)
                select (left(uuid_floor('2001-01-01')::text, 24) || lpad(to_hex(n), 12, '0'))::uuid, gen_random_uuid(), gen_random_uuid(), '',
                        gen_random_uuid(), 1, n, now(), now(), now()
                    from generate_series(1, {forgotten}) n;
            create table forgotten (what text, rows bigint);
            create function note() returns trigger language plpgsql as $$
                begin insert into forgotten select tg_table_name, count(*) from old_rows; return null; end $$;
            create trigger note after delete on idempotency_key referencing old table as old_rows
                for each statement execute function note();
            create trigger note after delete on used_assertion referencing old table as old_rows
                for each statement execute function note();
            create trigger note after delete on webhook_delivery_other_days referencing old table as old_rows
                for each statement execute function note();"
        ))
        .await;
    let day = Duration::from_secs(24 * 3_600);
    keep_house(&stage.db, NOW, Kept { idempotency: day / 2, deliveries: 30 * day }).await.expect("kept");
    let found =
        "select what, sum(rows)::bigint, max(rows), count(*) from forgotten group by what order by what";
    let found: Vec<(String, i64, i64, i64)> = stage
        .client
        .query(found, &[])
        .await
        .expect("what was forgotten")
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3)))
        .collect();
    let each = |what: &str| (what.to_owned(), forgotten, FORGOTTEN_MAX, 3);
    assert_eq!(found, ["idempotency_key", "used_assertion", "webhook_delivery_other_days"].map(each));
    assert_eq!(stage.texts("select key from idempotency_key").await, ["kept"]);
    let remembered = "select convert_from(jti_hash, 'UTF8') from used_assertion";
    assert_eq!(stage.texts(remembered).await, ["a clock behind ours takes it"]);
}

#[tokio::test]
async fn the_oldest_answers_are_found_by_their_age() {
    let stage = Stage::new().await;
    let methods =
        "select amname from pg_class join pg_am on pg_am.oid = relam where relname = 'idempotency_age'";
    assert_eq!(
        stage.texts(methods).await,
        ["btree"],
        "what frees pages all over the table leaves no ranges of blocks to go by"
    );
}

/// Partitions of a month far from the others.
const PREPARED: &str =
    "select relname from pg_class where relname ~ '_2030[0-9]*$' and relkind = 'r' order by relname";

#[tokio::test]
async fn what_is_kept_goes_by_the_month_and_what_is_dropped_by_the_day() {
    let stage = Stage::new().await;
    stage.run("select ensure_daily_partitions('2030-01-14', '2030-01-15')").await;
    let prepared = [
        "effect_203001",
        "effect_203002",
        "event_203001",
        "event_203002",
        "hold_movement_203001",
        "hold_movement_203002",
        "journal_entry_203001",
        "journal_entry_203002",
        "webhook_delivery_20300114",
        "webhook_delivery_20300115",
    ];
    assert_eq!(stage.texts(PREPARED).await, prepared);
    stage.run("select ensure_daily_partitions('2030-01-14', '2030-01-15')").await;
    assert_eq!(stage.texts(PREPARED).await, prepared, "once is enough");
    stage.run("select drop_daily_partitions('webhook_delivery', '2030-01-15')").await;
    let mut left = prepared.to_vec();
    left.retain(|name| *name != "webhook_delivery_20300114");
    assert_eq!(stage.texts(PREPARED).await, left);
}

#[tokio::test]
async fn a_month_that_was_begun_in_days_goes_on_in_days() {
    let stage = Stage::new().await;
    stage
        .run(
            "delete from daily_partitioned where parent <> 'event';
            create table event_20300130 partition of event
                for values from (uuid_floor('2030-01-30Z')) to (uuid_floor('2030-01-31Z'));
            select ensure_daily_partitions('2030-01-30', '2030-02-02')",
        )
        .await;
    assert_eq!(
        stage.texts(PREPARED).await,
        ["event_20300130", "event_20300131", "event_203002", "event_203003"]
    );
}

#[tokio::test]
async fn a_day_that_was_missed_keeps_no_other_from_being_prepared() {
    let stage = Stage::new().await;
    stage
        .run(
            "insert into webhook_delivery (id, endpoint_id, event_id, event_kind, subject_id, xid, seq, next_attempt_at, created_at, state_since)
                values (uuid_floor('2030-01-15 08:00Z'), gen_random_uuid(), gen_random_uuid(), '', gen_random_uuid(), 1, 1, now(), now(), now());
            delete from daily_partitioned where parent <> 'webhook_delivery';
            select ensure_daily_partitions('2030-01-14', '2030-01-16')",
        )
        .await;
    assert_eq!(stage.texts(PREPARED).await, ["webhook_delivery_20300114", "webhook_delivery_20300116"]);
}

#[tokio::test]
async fn a_table_in_use_is_prepared_another_time_and_holds_up_nobody() {
    let stage = Stage::new().await;
    let reader = stage.db.begin().await.expect("a transaction");
    let counted = Statement { name: "count", sql: "select count(*) from event" };
    reader.query(counted, &[]).await.expect("a long look at the log");
    let begun = tokio::time::Instant::now();
    stage.run("select ensure_daily_partitions('2030-01-14', '2030-01-14')").await;
    assert!(begun.elapsed() < Duration::from_secs(9), "it waited for the reader");
    let others = stage.texts(PREPARED).await;
    assert!(
        others.contains(&"effect_203001".to_owned()) && !others.contains(&"event_203001".to_owned()),
        "{others:?}"
    );
    reader.rollback().await.expect("an end");
    stage.run("select ensure_daily_partitions('2030-01-14', '2030-01-14')").await;
    assert!(stage.texts(PREPARED).await.contains(&"event_203001".to_owned()));
}

/// A database of its own, and a connection to put into it what no statement of ours would.
struct Stage {
    db: Db,
    client: Client,
    _server: EmbeddedPostgres,
}

impl Stage {
    async fn new() -> Self {
        let server = EmbeddedPostgres::temporary().expect("a private PostgreSQL");
        let db = Db::new(&DbSettings::new(server.url())).expect("settings");
        db.migrate().await.expect("migrations");
        let client = connect_as_slices(&server.url()).await;
        Self { db, client, _server: server }
    }

    async fn run(&self, statements: &str) {
        self.client.batch_execute(statements).await.expect(statements);
    }

    async fn texts(&self, statement: &str) -> Vec<String> {
        self.client.query(statement, &[]).await.expect(statement).iter().map(|row| row.get(0)).collect()
    }

    async fn payments(&self, state: &str, leg: &str, count: usize) {
        let insert = PAYMENTS
            .replace("STATE", &format!("'{state}'"))
            .replace("LEG", &format!("'{leg}'"))
            .replace("COUNT", &count.to_string());
        self.run(&insert).await;
    }

    async fn payment_of(&self, state: &str) -> PaymentId {
        let row = self.client.query_one("select id from payment where state = $1", &[&state]).await;
        PaymentId::from_uuid(row.expect("one payment").get::<_, Uuid>(0))
    }

    async fn due(&self, looked: &mut Looked, now: Timestamp) -> Vec<PaymentId> {
        let due = lifecycle::due(&self.db, looked, now, PAGE).await.expect("a look");
        due.iter().map(|due| due.payment_id).collect()
    }

    /// How many rows of `payment` a statement reads, those included that it throws away.
    async fn payments_read(&self, name: &str, values: &str) -> i64 {
        let named = |statement: &&Statement| statement.name.ends_with(&format!("::{name}"));
        let statement = lifecycle::STATEMENTS.iter().find(named).expect("a statement of this name");
        let explain = format!(
            "prepare looked_at as {}; explain (analyze, format json) execute looked_at({values}); deallocate looked_at",
            statement.sql
        );
        let answers = self.client.simple_query(&explain).await.expect("a plan");
        let text = answers
            .iter()
            .find_map(|answer| if let SimpleQueryMessage::Row(row) = answer { row.get(0) } else { None });
        read_of(&serde_json::from_str(text.expect("a plan")).expect("JSON"), "payment")
    }
}

fn read_of(plan: &Value, table: &str) -> i64 {
    let number = |name: &str| plan.get(name).and_then(Value::as_i64).unwrap_or(0);
    let here = if plan.get("Relation Name").and_then(Value::as_str) == Some(table) {
        (number("Actual Rows") + number("Rows Removed by Filter")) * number("Actual Loops")
    } else {
        0
    };
    let below: i64 = match plan {
        Value::Array(parts) => parts.iter().map(|part| read_of(part, table)).sum(),
        Value::Object(fields) => fields.values().map(|field| read_of(field, table)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    };
    here + below
}
