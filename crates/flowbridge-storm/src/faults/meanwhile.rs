//! What goes on while something is away: a payment is sent through in the middle of it, and what it takes is measured.

use super::{Field, is_gateway, process_at, was_met};
use crate::proxy::Weather;
use crate::sink::Manner;
use crate::world::PROCESSES;
use anyhow::Result;
use reqwest::Method;
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// What a payment may take longer than what is compared with it, because the same two processors carry the load, PostgreSQL,
/// the chain, and whatever else the machine does: the longest recoveries from faults that delay nobody are some seconds.
pub(super) const BUSY_MARGIN: Duration = Duration::from_secs(3);
/// The matrix's target for going to the next node.
const SWITCH: Duration = Duration::from_secs(3);
/// The matrix's target for seeing a block of which no socket tells.
const SILENT_BLOCKS_MAX: u32 = 2;
/// What a payment waits to be seen of on the chain: its initiation and its settlement.
const SEEN_ON_CHAIN: u32 = 2;

/// One gateway after the other is told to end, drains, and is started again.
pub(super) async fn roll_gateways(field: &Field<'_>) -> Result<Vec<String>> {
    let began = Instant::now();
    for (index, _) in PROCESSES.iter().enumerate().filter(|(index, _)| is_gateway(*index)) {
        let mut process = process_at(field.world, index)?.lock().await;
        process.terminate().await?;
        process.start()?;
        drop(process);
        field.world.wait_ready().await?;
    }
    // Who asked last has had an answer by now, or never will.
    sleep(Duration::from_secs(1)).await;
    Ok(match field.load.look(|book| book.unlucky.iter().filter(|asked| **asked >= began).count()) {
        0 => vec![],
        failed => vec![format!("R3: {failed} requests failed at both gateways while these were rolled")],
    })
}

/// The WebSocket is open and silent: each block is seen within two block times all the same.
pub(super) async fn socket_silent(field: &Field<'_>, lasting: Duration) -> Result<Vec<String>> {
    let seen_late = field.block_time * (SEEN_ON_CHAIN * SILENT_BLOCKS_MAX);
    let patience = field.patience(field.usual_under_load().await? + seen_late + BUSY_MARGIN);
    let line = &field.world.socket_line;
    let began = Instant::now();
    line.set(Weather::Stall);
    let took = field.get_through_within(None, lasting.max(patience)).await;
    sleep(lasting.saturating_sub(began.elapsed())).await;
    line.set(Weather::Fair);
    // What the silence has swallowed never comes.
    line.cut();
    Ok(late(24, "while the WebSocket was silent", took?, patience))
}

/// The first of two nodes is out of reach, silent, or turns everybody away: payments go through by the second, as soon as that
/// is noticed.
pub(super) async fn node_away(field: &Field<'_>, weather: Weather, lasting: Duration) -> Result<Vec<String>> {
    let patience = field.patience(field.usual_under_load().await? + SWITCH + BUSY_MARGIN);
    let line = &field.world.first_node_line;
    let began = Instant::now();
    line.set(weather);
    line.cut();
    let took = field.get_through_within(None, lasting.max(patience)).await;
    sleep(lasting.saturating_sub(began.elapsed())).await;
    line.set(Weather::Fair);
    line.cut();
    Ok(late(26, &format!("while the first of two nodes was away ({weather:?})"), took?, patience))
}

/// A bank answers nothing, and payments that it has no part in go through all the same. Says as well whether anybody asked it.
pub(super) async fn bank_down(
    field: &Field<'_>,
    bank: &'static str,
    lasting: Duration,
) -> Result<(bool, Vec<String>)> {
    let path = format!("{bank}/faults");
    let down = json!({ "fault": { "kind": "unavailable" } });
    let made = field.world.simulator(Method::POST, &path, Some(&down)).await?;
    let began = Instant::now();
    let other = if bank == "alpha" { "beta" } else { "alpha" };
    // The circuit opens first.
    sleep(lasting / 4).await;
    let took = field.get_through_within(Some(other), field.patience(lasting - lasting / 4)).await;
    sleep(lasting.saturating_sub(began.elapsed())).await;
    let is_met = was_met(field.world, bank, &made).await?;
    field.world.simulator(Method::DELETE, &path, None).await?;
    let found = match took? {
        Some(_) => vec![],
        None => vec![format!("R30: nothing went through at {other} while {bank} was down")],
    };
    Ok((is_met, found))
}

/// The receiver behaves like this at one endpoint, and the other is told all the same. Says as well whether anybody noticed: a
/// request that met it, or of a certificate that nobody trusts, who shakes hands.
pub(super) async fn receiver_misbehaves(
    field: &Field<'_>,
    endpoint: &'static str,
    manner: Manner,
    lasting: Duration,
) -> Result<(bool, Vec<String>)> {
    let sink = field.sink;
    let other = if endpoint == "alpha" { "beta" } else { "alpha" };
    let (told_before, before) = (sink.deliveries(Some(other)), sink.distrust(endpoint)?);
    let met_before = sink.met(endpoint);
    let began = Instant::now();
    sink.behave_at(endpoint, manner);
    sleep(lasting).await;
    let is_told = || sink.deliveries(Some(other)) > told_before;
    while !is_told() && began.elapsed() < field.patience(lasting) {
        sleep(Duration::from_millis(50)).await;
    }
    let is_told = is_told();
    sink.behave(Manner::Polite);
    let after = sink.distrust(endpoint)?;
    let mut found = vec![];
    if !is_told {
        found.push(format!("R31: {other} was told nothing while {endpoint} was {manner:?}"));
    }
    if after.believed > before.believed {
        found.push(format!("R31: {endpoint} was believed, with a certificate that nobody trusts"));
    }
    let is_noticed = match manner {
        Manner::Untrusted => after.refused > before.refused,
        Manner::Polite
        | Manner::Broken
        | Manner::BrokenUpTo(_)
        | Manner::Slow(_)
        | Manner::Liar
        | Manner::Redirects => sink.met(endpoint) > met_before,
    };
    Ok((is_noticed, found))
}

/// What there is to say of a payment that was posted while something was wrong, and took so long, or did not get through.
pub(super) fn late(row: u8, when: &str, took: Option<Duration>, allowed: Duration) -> Vec<String> {
    match took {
        Some(took) if took <= allowed => vec![],
        Some(took) => {
            vec![format!("R{row}: a payment took {took:.1?} {when}, where {allowed:.1?} is allowed")]
        }
        None => vec![format!("R{row}: no payment went through {when}, where {allowed:.1?} is allowed")],
    }
}
