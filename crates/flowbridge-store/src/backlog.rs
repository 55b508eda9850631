//! What a turn reads does not grow with what waits, and no housekeeping grows with what was not kept: against a real database, with more
//! in it than a turn may look at.

use crate::db::SLICES_PLANS;
use crate::monitor::{FORGOTTEN_MAX, Kept, keep_house};
use crate::{Db, DbSettings};
use flowbridge_domain::time::Timestamp;
use flowbridge_embedded::EmbeddedPostgres;
use std::time::Duration;
use tokio_postgres::{Client, Config, NoTls};

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

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
                select n::text::bytea, to_timestamp(1799999999) from generate_series(1, {forgotten}) n;
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
        let mut config: Config = server.url().parse().expect("a URL");
        // Plans as they are kept: made without knowing what is asked for.
        config.options(format!("{SLICES_PLANS} -c plan_cache_mode=force_generic_plan"));
        let (client, connection) = config.connect(NoTls).await.expect("connection");
        tokio::spawn(connection);
        Self { db, client, _server: server }
    }

    async fn run(&self, statements: &str) {
        self.client.batch_execute(statements).await.expect(statements);
    }

    async fn texts(&self, statement: &str) -> Vec<String> {
        self.client.query(statement, &[]).await.expect(statement).iter().map(|row| row.get(0)).collect()
    }
}
