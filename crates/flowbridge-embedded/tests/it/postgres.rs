//! PostgreSQL through every way a run can end, and every reason not to start.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use flowbridge_embedded::EmbeddedPostgres;

use crate::supervisor;

async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn rows(url: &str) -> i64 {
    connect(url).await.query_one("select count(*) from payment", &[]).await.unwrap().get(0)
}

/// A folder that others may enter (0o755) or may not (0o700).
fn folder(mode: u32) -> tempfile::TempDir {
    tempfile::Builder::new().permissions(fs::Permissions::from_mode(mode)).tempdir().unwrap()
}

#[tokio::test]
async fn committed_rows_survive_a_crash_and_a_restart() {
    let start = Instant::now();
    let mut postgres = EmbeddedPostgres::temporary().unwrap();
    println!("first start of a folder: {:?}", start.elapsed());
    let client = connect(&postgres.url()).await;
    client.batch_execute("create table payment (n int); insert into payment values (1)").await.unwrap();
    postgres.crash();
    assert!(client.query("select 1", &[]).await.is_err());
    postgres.restart().unwrap();
    assert_eq!(rows(&postgres.url()).await, 1);
    let start = Instant::now();
    postgres.restart().unwrap();
    println!("restart: {:?}", start.elapsed());
    assert_eq!(rows(&postgres.url()).await, 1);
    assert!(!postgres.revive().unwrap(), "it runs");
    let pid_file = fs::read_to_string(postgres.data_folder().join("postmaster.pid")).unwrap();
    Command::new("kill").args(["-KILL", pid_file.lines().next().unwrap()]).status().unwrap();
    while !postgres.revive().unwrap() {}
    assert_eq!(rows(&postgres.url()).await, 1);
}

#[tokio::test]
async fn a_killed_supervisor_leaves_nothing_that_hinders_the_next_start() {
    let folder = folder(0o755);
    let (supervisor, url) = supervisor::run("postgres", folder.path());
    connect(&url)
        .await
        .batch_execute("create table payment (n int); insert into payment values (1)")
        .await
        .unwrap();
    supervisor::kill(supervisor);
    let postgres = EmbeddedPostgres::start(folder.path(), None).unwrap();
    assert_eq!(postgres.url(), url);
    assert_eq!(rows(&url).await, 1);
}

#[test]
fn a_folder_in_use_is_refused_with_the_process_that_uses_it() {
    let folder = folder(0o755);
    let (supervisor, _) = supervisor::run("postgres", folder.path());
    let refusal = EmbeddedPostgres::start(folder.path(), None).unwrap_err().to_string();
    assert!(refusal.contains(&format!("already run by process {}", supervisor.id())), "{refusal}");
    supervisor::kill(supervisor);
}

#[test]
fn a_damaged_folder_another_version_and_a_missing_program_are_named_with_their_remedy() {
    let folder = folder(0o755);
    drop(EmbeddedPostgres::start(folder.path(), None).unwrap());
    let refusal = |binaries: Option<&Path>| {
        format!("{:#}", EmbeddedPostgres::start(folder.path(), binaries).unwrap_err())
    };
    let control = folder.path().join("data/global/pg_control");
    fs::rename(&control, control.with_extension("away")).unwrap();
    let damaged = refusal(None);
    assert!(damaged.contains("pg_control") && damaged.contains("--fresh"), "{damaged}");
    fs::rename(control.with_extension("away"), &control).unwrap();
    fs::write(folder.path().join("data/PG_VERSION"), "9\n").unwrap();
    assert!(refusal(None).contains("written by PostgreSQL 9"), "{}", refusal(None));
    fs::remove_file(folder.path().join("data/PG_VERSION")).unwrap();
    assert!(refusal(None).contains("damaged"), "{}", refusal(None));
    fs::remove_dir_all(folder.path().join("data")).unwrap();
    let missing = refusal(Some(folder.path()));
    assert!(missing.contains("does not run: name the folder that holds `postgres`"), "{missing}");
}

#[tokio::test]
async fn a_folder_with_a_long_path_or_closed_to_the_servers_account_still_works() {
    let closed = folder(0o700);
    let folder = closed.path().join("a-folder-with-a-long-name".repeat(4));
    for life in 0..2 {
        let postgres = EmbeddedPostgres::start(&folder, None).unwrap();
        let client = connect(&postgres.url()).await;
        client
            .batch_execute("create table if not exists payment (n int); insert into payment values (1)")
            .await
            .unwrap();
        assert_eq!(rows(&postgres.url()).await, life + 1);
    }
    // As root the data lies outside of the closed folder, where the link says; it would stay there.
    if let Ok(home) = fs::read_link(folder.join("home")) {
        fs::remove_file(folder.join("home")).unwrap();
        let postgres = EmbeddedPostgres::start(&folder, None).unwrap();
        let is_anew = connect(&postgres.url()).await.query("select * from payment", &[]).await.is_err();
        assert!(is_anew, "without the link the old data belongs to nobody");
        drop(postgres);
        fs::remove_dir_all(home).unwrap();
    }
}
