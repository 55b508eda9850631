//! What happens to PostgreSQL, past the proxy.

use crate::world::World;
use anyhow::{Context as _, Result};
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::time::Timestamp;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

/// More connections than PostgreSQL gives.
const CONNECTIONS: usize = 250;
/// Sessions that lock payments against the order.
const UNRULY: usize = 4;

/// A connection, unless the database is down by another fault of the round.
async fn connect(world: &World) -> Option<(Client, JoinHandle<()>)> {
    let (client, connection) =
        tokio_postgres::connect(&world.database_url, tokio_postgres::NoTls).await.ok()?;
    Some((client, tokio::spawn(async move { drop(connection.await) })))
}

/// The server processes of FlowBridge's connections are children of the postmaster; one of them dies. False if there was none.
pub(super) async fn kill_backend(world: &World) -> bool {
    let Some((client, connection)) = connect(world).await else { return false };
    let rows = client
        .query("select pid from pg_stat_activity where application_name = 'flowbridge' limit 1", &[])
        .await;
    let pid: Option<i32> = rows.ok().and_then(|rows| rows.first().map(|row| row.get(0)));
    let is_killed = pid
        .and_then(rustix::process::Pid::from_raw)
        .is_some_and(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok());
    connection.abort();
    is_killed
}

/// Locks all payments for a while, against writers (`exclusive`) or everybody (`access exclusive`). False if the lock was not to
/// be had.
pub(super) async fn lock_payments(world: &World, mode: &str, held: Duration) -> bool {
    let Some((client, connection)) = connect(world).await else { return false };
    let lock = format!("set lock_timeout = '2s'; begin; lock table payment in {mode} mode");
    let has_locked = client.batch_execute(&lock).await.is_ok();
    if has_locked {
        sleep(held).await;
    }
    drop(client);
    connection.abort();
    has_locked
}

/// Sessions that lock the newest payments from the last to the first, while the workers lock from the first to the last:
/// PostgreSQL ends one of two that wait for each other. False if none of them came to lock anything.
pub(super) async fn lock_out_of_order(world: &World, lasting: Duration) -> bool {
    let until = Instant::now() + lasting;
    let unruly = (0..UNRULY).map(async |_| {
        let Some((client, connection)) = connect(world).await else { return false };
        let mut has_locked = false;
        let _ = client.batch_execute("set deadlock_timeout = '20ms'; set lock_timeout = '2s'").await;
        let newest = "do $$ declare one uuid; begin
            for one in select id from payment order by id desc limit 40 loop
                perform from payment where id = one for update;
                perform pg_sleep(0.002);
            end loop; end $$";
        while Instant::now() < until {
            // To lose is what it is for: whom PostgreSQL ends has held locks and waited for others.
            let ended = client.batch_execute(newest).await;
            has_locked |= ended.map_or_else(|error| error.code().is_some(), |()| true);
        }
        drop(client);
        connection.abort();
        has_locked
    });
    futures_util::future::join_all(unruly).await.contains(&true)
}

/// Takes connections until PostgreSQL has no more, and keeps them for a while. False if it gave none.
pub(super) async fn take_connections(world: &World, lasting: Duration) -> bool {
    let mut taken = Vec::new();
    while taken.len() < CONNECTIONS {
        let Some(one) = connect(world).await else { break };
        taken.push(one);
    }
    sleep(lasting).await;
    let has_taken = !taken.is_empty();
    for (client, connection) in taken {
        drop(client);
        connection.abort();
    }
    has_taken
}

/// Fills PostgreSQL's disk, gives the room back after a while, and starts the server if it had to end. False if it has no disk
/// of its own.
pub(super) async fn fill_disk(world: &World, lasting: Duration) -> Result<bool> {
    let Some(disk) = &world.disk else { return Ok(false) };
    // In our hands until it has room again: nobody starts it on a disk that is full.
    let mut postgres = world.postgres.lock().await;
    disk.fill()?;
    sleep(lasting).await;
    disk.relieve()?;
    if tokio::task::block_in_place(|| postgres.revive())? {
        println!("     PostgreSQL had ended on a full disk and runs again");
    }
    Ok(true)
}

/// Three events that cannot be taken in, each for its own reason. False if none was written.
pub(super) async fn poison_log(world: &World) -> bool {
    let mut is_written = false;
    let oversized = json!({ "bank": "x".repeat(1 << 20) });
    for (kind, data) in
        [("bank.captured", oversized), ("bank.hold_placed", json!({})), ("bank.knows_best", json!({}))]
    {
        // One that could not be written may be there all the same.
        is_written |= write_poison(world, kind, &data).await.is_ok();
    }
    is_written
}

/// Writes an event of a payment that nobody knows into the log, and gives its key.
pub(crate) async fn write_poison(world: &World, kind: &str, data: &Value) -> Result<PaymentId> {
    #[expect(clippy::disallowed_methods, reason = "somebody else's clock")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let nobody = PaymentId::generate(Timestamp::from_micros(i64::try_from(now.as_micros())?), rand::random());
    let note = |is_written: bool| {
        if let Ok(mut poison) = world.poison.lock() {
            poison.tried.insert(nobody);
            if is_written {
                poison.written.insert(nobody);
            }
        }
    };
    let (client, connection) = connect(world).await.context("the database is down")?;
    let write = "insert into event (id, topic, partition, key, kind, traceparent, data, recorded_at)
        select (left(uuid_floor(now())::text, 14) || right(gen_random_uuid()::text, 22))::uuid, 'bank',
            log_partition(nobody), nobody, $2, '', $3::text::json, now()
            from (select $1::text::uuid as nobody) as given";
    note(false);
    client.execute(write, &[&nobody.as_uuid().to_string(), &kind, &data.to_string()]).await?;
    note(true);
    connection.abort();
    Ok(nobody)
}
