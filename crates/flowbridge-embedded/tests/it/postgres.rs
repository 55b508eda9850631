//! PostgreSQL through every way a run can end.

use std::time::Instant;

use flowbridge_embedded::EmbeddedPostgres;

async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn committed_rows_survive_a_crash_and_a_restart() {
    let start = Instant::now();
    let mut postgres = EmbeddedPostgres::temporary().unwrap();
    println!("first start {:?}", start.elapsed());
    let client = connect(&postgres.url()).await;
    client.batch_execute("create table t (n int); insert into t values (1)").await.unwrap();
    let start = Instant::now();
    postgres.crash();
    println!("crash {:?}", start.elapsed());
    assert!(client.query("select 1", &[]).await.is_err());
    let start = Instant::now();
    postgres.restart().unwrap();
    println!("recovery {:?}", start.elapsed());
    let client = connect(&postgres.url()).await;
    assert_eq!(client.query("select n from t", &[]).await.unwrap().len(), 1);
    let start = Instant::now();
    postgres.restart().unwrap();
    println!("restart {:?}", start.elapsed());
    connect(&postgres.url()).await;
}
