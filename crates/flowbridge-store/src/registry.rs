//! Every statement of this crate, prepared against a migrated database.
//!
//! The committed list of parameter and column types is what the code was written against: a migration that changes one of
//! them, or a statement that no longer parses, fails here and not in production.

use crate::sql::Statement;
use flowbridge_embedded::EmbeddedPostgres;
use std::fmt::Write as _;

const MODULES: &[&[Statement]] = &[
    crate::accept::STATEMENTS,
    crate::access::STATEMENTS,
    crate::breaker::STATEMENTS,
    crate::chain::STATEMENTS,
    crate::chain::intend::STATEMENTS,
    crate::chain::l1::STATEMENTS,
    crate::chain::lanes::STATEMENTS,
    crate::chain::logs::STATEMENTS,
    crate::chain::send::STATEMENTS,
    crate::chain::watch::STATEMENTS,
    crate::effect::STATEMENTS,
    crate::event_log::STATEMENTS,
    crate::exception::STATEMENTS,
    crate::ledger::STATEMENTS,
    crate::lifecycle::STATEMENTS,
    crate::measure::STATEMENTS,
    crate::monitor::STATEMENTS,
    crate::party::STATEMENTS,
    crate::payment::STATEMENTS,
    crate::promotion::STATEMENTS,
    crate::proof::STATEMENTS,
    crate::query::STATEMENTS,
    crate::reconciliation::STATEMENTS,
    crate::review::STATEMENTS,
    crate::segment::STATEMENTS,
    crate::statement::STATEMENTS,
    crate::vault::STATEMENTS,
    crate::webhook::STATEMENTS,
];

#[tokio::test]
async fn every_statement_prepares_with_the_types_it_was_written_for() {
    let server = EmbeddedPostgres::temporary().expect("a private PostgreSQL");
    let db = crate::Db::new(&crate::DbSettings::new(server.url())).expect("settings");
    db.migrate().await.expect("migrations");
    db.migrate().await.expect("migrating twice changes nothing");

    let (client, connection) =
        tokio_postgres::connect(&server.url(), tokio_postgres::NoTls).await.expect("connection");
    tokio::spawn(connection);
    let mut list = String::new();
    for statement in MODULES.iter().copied().flatten() {
        let prepared = client
            .prepare(statement.sql)
            .await
            .unwrap_or_else(|error| panic!("{}: {error:?}", statement.name));
        let params: Vec<_> = prepared.params().iter().map(|param| param.name()).collect();
        let columns: Vec<_> = prepared
            .columns()
            .iter()
            .map(|column| format!("{} {}", column.name(), column.type_().name()))
            .collect();
        writeln!(list, "{}({}) -> ({})", statement.name, params.join(", "), columns.join(", "))
            .expect("a line");
    }
    insta::assert_snapshot!(list);

    // Rows that change with every step change in place (adr 7), as long as no index names what changes, in its columns or its predicate.
    let named = "select distinct depended.refobjid::regclass::text, attribute.attname::text
        from pg_depend depended
            join pg_index on pg_index.indexrelid = depended.objid and pg_index.indrelid = depended.refobjid
            join pg_attribute attribute
                on attribute.attrelid = depended.refobjid and attribute.attnum = depended.refobjsubid
        where depended.classid = 'pg_class'::regclass and depended.refclassid = 'pg_class'::regclass
            and depended.refobjid = any (array['payment', 'effect', 'webhook_delivery']::regclass[])";
    let named = client.query(named, &[]).await.expect("the indexes' columns");
    let named: Vec<(String, String)> = named.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert!(named.contains(&("payment".to_owned(), "is_open".to_owned())), "{named:?}");
    let changing = [
        (
            "payment",
            ["state", "state_since", "chain_leg", "hold_leg", "payout_leg", "round", "log_xid"].as_slice(),
        ),
        ("effect", &["state", "state_since", "attempts", "fence", "lease_owner", "lease_until", "sent_at"]),
        ("webhook_delivery", &["state", "state_since", "attempts", "lease_until"]),
    ];
    for (table, column) in &named {
        let changes = changing.iter().any(|(of, columns)| of == table && columns.contains(&column.as_str()));
        assert!(!changes, "an index of {table} names {column}: every step is then written into every index");
    }
}
