//! Clients in numbers: those who ask for more than there is, and those who hold a connection and say nothing.

use super::{Field, database};
use crate::api::Call;
use anyhow::Result;
use futures_util::future::join_all;
use reqwest::Method;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// How many ask at once, a multiple of what a pool has.
const CROWD: usize = 400;
/// Connections on which nothing is said.
const IDLE: usize = 1_000;
/// Connections on which a request comes a byte at a time.
const SLOW: usize = 64;
/// How long nobody can read a payment.
const LOCKED: Duration = Duration::from_millis(2_500);
/// A request is answered, by whatever, within this.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// Nobody can read a payment, and a crowd asks for them: each is answered in time, if only with the advice to come back.
pub(super) async fn overload(field: &Field<'_>) -> Result<Vec<String>> {
    let ask = async {
        sleep(Duration::from_millis(200)).await;
        let read =
            Call { who: "alpha", method: &Method::GET, path: "/v1/payments?limit=1", key: None, body: None };
        join_all((0..CROWD).map(async |_| {
            let began = Instant::now();
            let answer = field.api.call(0, read).await;
            (answer.ok().map(|answer| answer.status), began.elapsed())
        }))
        .await
    };
    let ((), answers) = tokio::join!(database::lock_payments(field.world, "access exclusive", LOCKED), ask);
    let mut shed: Vec<Duration> = answers
        .iter()
        .filter(|(status, _)| matches!(status, Some(429 | 503)))
        .map(|(_, took)| *took)
        .collect();
    shed.sort_unstable();
    let unanswered = answers.iter().filter(|(status, _)| status.is_none()).count();
    let late = answers.iter().filter(|(_, took)| *took > ANSWERED_WITHIN).count();
    if let Some(half) = shed.get(shed.len() / 2) {
        println!("     {} of {CROWD} were told to come back, half of them within {half:.0?}", shed.len());
    }
    Ok(if unanswered + late > 0 {
        vec![format!("R17: of {CROWD} requests at once {unanswered} had no answer, {late} had it late")]
    } else {
        vec![]
    })
}

/// A thousand connections with nothing to say, and some that say it a byte at a time. Nobody else minds.
pub(super) async fn idle(field: &Field<'_>, lasting: Duration) {
    let line = field.world.gateway_lines[0].authority();
    let mut idle = Vec::new();
    for _ in 0..IDLE {
        // A gateway that is down has no connections to hold.
        let Ok(stream) = TcpStream::connect(&line).await else { break };
        idle.push(stream);
    }
    let Ok(token) = field.api.token(1, "alpha").await else { return };
    let request = format!(
        "POST /v1/payments HTTP/1.1\r\nhost: {line}\r\nauthorization: Bearer {token}\r\nidempotency-key: slow\r\n\
         content-type: application/json\r\ncontent-length: 400\r\n\r\n{{\"debtor\": {{"
    );
    let until = Instant::now() + lasting;
    join_all((0..SLOW).map(async |_| {
        let Ok(mut stream) = TcpStream::connect(&line).await else { return };
        let _ = stream.write_all(request.as_bytes()).await;
        while Instant::now() < until && stream.write_all(b" ").await.is_ok() {
            sleep(Duration::from_millis(250)).await;
        }
    }))
    .await;
    drop(idle);
}
