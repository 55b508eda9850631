//! `pgbench` on the same server: what this machine and this PostgreSQL do at all. TPC-B in one database of its own.

use anyhow::{Context as _, Result, bail, ensure};
use std::path::PathBuf;
use std::time::Duration;
use tokio::process::Command;

/// A hundred thousand accounts each.
const SCALE: &str = "10";
const CLIENTS: &str = "8";
const DATABASE: &str = "flowbridge_yardstick";

/// Transactions per second; none where `pgbench` is not installed.
pub(super) async fn tpc_b(database_url: &str, duration: Duration) -> Result<Option<f64>> {
    let Some(pgbench) = find("pgbench") else { return Ok(None) };
    let server = database_url.split_once('?').map_or("", |(_, query)| query);
    let (rest, _) = database_url.split_once('?').unwrap_or((database_url, ""));
    let host = rest.rsplit_once('/').map_or(rest, |(host, _)| host);
    let url = |database: &str| format!("{host}/{database}?{server}");
    let psql = find("psql").context("pgbench is installed and psql is not")?;
    let statement =
        async |sql: String| run(Command::new(&psql).args(["-qX", "-d", database_url, "-c", &sql])).await;
    statement(format!("drop database if exists {DATABASE}")).await?;
    statement(format!("create database {DATABASE}")).await?;
    let database = url(DATABASE);
    run(Command::new(&pgbench).args(["-i", "-q", "-s", SCALE, &database])).await?;
    let seconds = duration.as_secs().max(1).to_string();
    let printed = run(Command::new(&pgbench)
        .args(["-n", "-c", CLIENTS, "-j", "1", "-M", "prepared", "-T", &seconds, &database]))
    .await?;
    statement(format!("drop database {DATABASE}")).await?;
    read(&printed).map(Some)
}

async fn run(command: &mut Command) -> Result<String> {
    let output = command.output().await.context("cannot run pgbench or psql")?;
    ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn read(printed: &str) -> Result<f64> {
    let line = printed.lines().find_map(|line| line.strip_prefix("tps = "));
    match line.and_then(|line| line.split_whitespace().next()?.parse().ok()) {
        Some(per_second) => Ok(per_second),
        None => bail!("pgbench printed no figure:\n{printed}"),
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_figure_is_read_from_what_pgbench_prints() {
        let printed = "latency average = 1.9 ms\ninitial connection time = 6.9 ms\ntps = 4512.25 (without initial connection time)\n";
        assert!((super::read(printed).unwrap() - 4512.25).abs() < 1e-9);
        assert!(super::read("nothing").is_err());
    }
}
