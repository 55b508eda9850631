//! Clients in numbers: those who ask for more than there is, and those who hold a connection and say nothing.

use super::meanwhile::{BUSY_MARGIN, late};
use super::{Field, database};
use anyhow::Result;
use futures_util::future::join_all;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// How many ask at once, a multiple of what a pool has.
const CROWD: usize = 400;
/// Connections on which nothing is said.
const IDLE: usize = 1_000;
/// Connections on which a request comes a byte at a time.
const SLOW: usize = 64;
/// How long nobody can read a payment.
const LOCKED: Duration = Duration::from_millis(2_500);
/// A request is answered, by whatever, within this; in a build without optimisation, within what a gateway gives itself.
const ANSWERED_WITHIN: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 5 });
/// Half of those that are told to come back are told so within this. The fault matrix has 50 ms, for a gateway; what is measured
/// here begins and ends at a client that is four hundred clients, behind a proxy, on the two processors that carry the load. A
/// build without optimisation, on whatever machine runs the tests, only has to be told apart from one that has everybody queue:
/// two seconds, `[database] pool_wait_ms_max`.
const SHED_WITHIN: Duration = Duration::from_millis(if cfg!(debug_assertions) { 1_500 } else { 250 });

/// Nobody can read a payment, and a crowd asks for them: each is answered in time, if only with the advice to come back. Says as
/// well whether there was a lock to wait for.
pub(super) async fn overload(field: &Field<'_>) -> Result<(bool, Vec<String>)> {
    // What a client does once, signing in and connecting, is not what is measured.
    let Ok(token) = field.api.token(0, "alpha").await else { return Ok((false, vec![])) };
    let line = field.world.gateway_lines[0].authority();
    let request =
        format!("GET /v1/payments?limit=1 HTTP/1.1\r\nhost: {line}\r\nauthorization: Bearer {token}\r\n\r\n");
    let crowd = join_all((0..CROWD).map(|_| TcpStream::connect(&line))).await;
    let ask = async {
        sleep(Duration::from_millis(200)).await;
        join_all(crowd.into_iter().map(async |stream| asked(stream, request.as_bytes()).await)).await
    };
    let (has_locked, answers) =
        tokio::join!(database::lock_payments(field.world, "access exclusive", LOCKED), ask);
    let mut shed: Vec<Duration> = answers
        .iter()
        .filter(|(status, _)| matches!(status, Some(429 | 503)))
        .map(|(_, took)| *took)
        .collect();
    shed.sort_unstable();
    let unanswered = answers.iter().filter(|(status, _)| status.is_none()).count();
    let late = answers.iter().filter(|(_, took)| *took > ANSWERED_WITHIN).count();
    let mut found = vec![];
    if let Some(half) = shed.get(shed.len() / 2) {
        println!("     {} of {CROWD} were told to come back, half of them within {half:.0?}", shed.len());
        if *half > SHED_WITHIN {
            found.push(format!(
                "R17: {} of {CROWD} were told to come back, half of them only after {half:.0?}",
                shed.len()
            ));
        }
    }
    if answers.iter().any(|(status, _)| *status == Some(500)) {
        found.push("R17: a gateway without connections has answered with 500".to_owned());
    }
    if unanswered + late > 0 {
        found
            .push(format!("R17: of {CROWD} requests at once {unanswered} had no answer, {late} had it late"));
    }
    Ok((has_locked, found))
}

/// The status of the answer, if there is one, and how long it took.
async fn asked(stream: std::io::Result<TcpStream>, request: &[u8]) -> (Option<u16>, Duration) {
    let began = Instant::now();
    let answer = async {
        let mut stream = stream?;
        stream.write_all(request).await?;
        let mut head = [0; "HTTP/1.1 503".len()];
        stream.read_exact(&mut head).await?;
        Ok::<_, std::io::Error>(head)
    };
    let head = timeout(2 * ANSWERED_WITHIN, answer).await.ok().and_then(Result::ok);
    let status = head.and_then(|head| std::str::from_utf8(head.get(9..)?).ok()?.parse().ok());
    (status, began.elapsed())
}

/// A thousand connections with nothing to say, and some that say it a byte at a time. A payment at the same gateway does not mind.
/// Says as well whether there was a gateway to connect to.
pub(super) async fn idle(field: &Field<'_>, lasting: Duration) -> Result<(bool, Vec<String>)> {
    let allowed = field.usual_under_load().await? + BUSY_MARGIN;
    let patience = field.patience(allowed);
    let line = field.world.gateway_lines[0].authority();
    let mut idle = Vec::new();
    for _ in 0..IDLE {
        // A gateway that is down has no connections to hold.
        let Ok(stream) = TcpStream::connect(&line).await else { break };
        idle.push(stream);
    }
    let Ok(token) = field.api.token(1, "alpha").await else { return Ok((false, vec![])) };
    let request = format!(
        "POST /v1/payments HTTP/1.1\r\nhost: {line}\r\nauthorization: Bearer {token}\r\nidempotency-key: slow\r\n\
         content-type: application/json\r\ncontent-length: 400\r\n\r\n{{\"debtor\": {{"
    );
    let until = Instant::now() + lasting;
    let is_through = AtomicBool::new(false);
    let slow = join_all((0..SLOW).map(async |_| {
        let Ok(mut stream) = TcpStream::connect(&line).await else { return };
        let _ = stream.write_all(request.as_bytes()).await;
        let goes_on = || Instant::now() < until || !is_through.load(Ordering::Relaxed);
        while goes_on() && stream.write_all(b" ").await.is_ok() {
            sleep(Duration::from_millis(250)).await;
        }
    }));
    let payment = async {
        let took = field.get_through_within(None, lasting.max(patience)).await;
        is_through.store(true, Ordering::Relaxed);
        took
    };
    let (_, took) = tokio::join!(slow, payment);
    let has_connected = !idle.is_empty();
    drop(idle);
    Ok((has_connected, late(4, "beside a thousand idle clients and some slow ones", took?, patience)))
}
