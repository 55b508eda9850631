//! Every statement of this crate, prepared against a migrated database.
//!
//! The committed list of parameter and column types is what the code was written against: a migration that changes one of
//! them, or a statement that no longer parses, fails here and not in production. So does an index that names what every step changes,
//! and a statement that has no index to find its rows by (adr 7).

use crate::db::SLICES_PLANS;
use crate::sql::Statement;
use flowbridge_embedded::EmbeddedPostgres;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

const MODULES: &[&[Statement]] = &[
    crate::accept::STATEMENTS,
    crate::access::STATEMENTS,
    crate::audit::STATEMENTS,
    crate::breaker::STATEMENTS,
    crate::chain::STATEMENTS,
    crate::chain::holes::STATEMENTS,
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

    let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.expect("connection");
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

/// Tables that grow with every payment.
const GROWING: [&str; 14] = [
    "payment",
    "effect",
    "event",
    "journal_entry",
    "hold_movement",
    "webhook_delivery",
    "idempotency_key",
    "chain_log",
    "chain_tx",
    "chain_tx_item",
    "chain_leaf",
    "chain_batch",
    "statement_entry",
    "recon_match_item",
];

/// Those that may read all of a growing table: a bench's check, and reconciliation, in a snapshot and with stretches of time that are found
/// by ranges of blocks where there are any.
const READ_ALL_OF_IT: [&str; 7] = [
    "measure::BALANCES_AGAINST_ENTRIES",
    "measure::TOUCH_ENTRY",
    "measure::UNSETTLED",
    "measure::WATCHED",
    "reconciliation::ENTRIES_TO_LEARN",
    "reconciliation::FIRST_SOURCE",
    "reconciliation::LEDGER_SLICE",
];

/// A plan that is kept was made while tables were small, and has to be right when they are not: with no parameter known and nothing
/// in any table, each statement still finds its rows by an index.
#[tokio::test]
async fn every_statement_finds_its_rows_by_an_index() {
    let server = EmbeddedPostgres::temporary().expect("a private PostgreSQL");
    let db = crate::Db::new(&crate::DbSettings::new(server.url())).expect("settings");
    db.migrate().await.expect("migrations");
    let client = connect_as_slices(&server.url()).await;
    let indexes = client
        .query(
            "select indexrelid::regclass::text, indrelid::regclass::text, indpred is not null from pg_index",
            &[],
        )
        .await
        .expect("the indexes");
    let indexes: BTreeMap<String, (String, bool)> =
        indexes.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
    let mut found = BTreeSet::new();
    for statement in MODULES.iter().copied().flatten() {
        let plan = plan_of(&client, statement).await;
        let mut read = BTreeSet::new();
        read_whole(&plan, &indexes, &mut read);
        if GROWING.iter().any(|table| read.contains(*table)) {
            found.insert(statement.name.trim_start_matches("flowbridge_store::"));
        }
    }
    assert_eq!(found, BTreeSet::from(READ_ALL_OF_IT));
}

/// A connection that plans as slices do, and as plans are kept: made without knowing what is asked for.
pub(crate) async fn connect_as_slices(url: &str) -> Client {
    let mut config: Config = url.parse().expect("a URL");
    config.options(format!("{SLICES_PLANS} -c plan_cache_mode=force_generic_plan"));
    let (client, connection) = config.connect(NoTls).await.expect("connection");
    tokio::spawn(connection);
    client
}

async fn plan_of(client: &Client, statement: &Statement) -> Value {
    let prepared = client.prepare(statement.sql).await.expect("it prepares");
    let types: Vec<String> = prepared
        .params()
        .iter()
        .map(|param| match param.name().strip_prefix('_') {
            Some(element) => format!("{element}[]"),
            None => param.name().to_owned(),
        })
        .collect();
    let (types, values) = if types.is_empty() {
        (String::new(), String::new())
    } else {
        (format!("({})", types.join(", ")), format!("({})", vec!["null"; types.len()].join(", ")))
    };
    let explain = format!(
        "prepare looked_at{types} as {}; explain (format json) execute looked_at{values}; deallocate looked_at",
        statement.sql
    );
    let answers =
        client.simple_query(&explain).await.unwrap_or_else(|error| panic!("{}: {error:?}", statement.name));
    let text = answers
        .iter()
        .find_map(|answer| if let SimpleQueryMessage::Row(row) = answer { row.get(0) } else { None });
    serde_json::from_str(text.expect("a plan")).expect("JSON")
}

/// The tables of which a plan reads every row, or all of an index that is about every row.
fn read_whole(plan: &Value, indexes: &BTreeMap<String, (String, bool)>, read: &mut BTreeSet<String>) {
    let text = |name: &str| plan.get(name).and_then(Value::as_str);
    match text("Node Type") {
        Some("Seq Scan") => read.extend(text("Relation Name").map(parent_of)),
        Some("Index Scan" | "Index Only Scan" | "Bitmap Index Scan") if text("Index Cond").is_none() => {
            let index = text("Index Name").and_then(|name| indexes.get(name));
            read.extend(index.filter(|(_, is_partial)| !is_partial).map(|(table, _)| parent_of(table)));
        }
        Some(_) | None => {}
    }
    match plan {
        Value::Array(parts) => parts.iter().for_each(|part| read_whole(part, indexes, read)),
        Value::Object(fields) => fields.values().for_each(|field| read_whole(field, indexes, read)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The table that a day's or a month's partition belongs to.
fn parent_of(table: &str) -> String {
    let is_time = |time: &str| matches!(time.len(), 6 | 8) && time.bytes().all(|c| c.is_ascii_digit());
    let times = table.rsplit_once('_').filter(|(_, time)| is_time(time));
    times.map_or(table, |(parent, _)| parent).trim_end_matches("_other_days").to_owned()
}
