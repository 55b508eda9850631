//! Ledger against chain: every payment that one of them has settled, by its id.
//!
//! Payments are looked for by their ids, which say when they were accepted, and those that were settled long after that by when they were.
//! Compared at one instant of the database. A payment whose news the orchestrator has not read yet is left out: its ledger is
//! behind the chain for a moment, or ahead of it after a reorganisation.

use super::Settings;
use super::run::{Compared, MadeOf, RunError, break_found, by_key, reports, units};
use crate::context::Context;
use flowbridge_api::payment::show_instant;
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::money::{Currency, Money};
use flowbridge_domain::time::Timestamp;
use flowbridge_recon::chain::ChainEvent;
use flowbridge_recon::date::Date;
use flowbridge_recon::engine::{self, Break, Match, Outcome, Subject};
use flowbridge_recon::record::Record;
use flowbridge_recon::report;
use flowbridge_store::StoreError;
use flowbridge_store::exception::{self, Found};
use flowbridge_store::reconciliation::{self as rows, ChainSettlement, ClaimedRun, Findings, Window};
use flowbridge_store::segment::Learned;
use serde_json::json;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

/// The beginning of a chain's scope; its currency follows.
pub(super) const SCOPE: &str = "chain:";

/// Compares.
pub(super) async fn compare(
    context: &Context,
    run: &ClaimedRun,
    code: &str,
    settings: &Settings,
) -> Result<Compared, RunError> {
    let currency = Currency::parse(code).map_err(|_| RunError::Scope(run.scope.clone()))?;
    let now = context.now();
    let from = compared_from(context, run, settings, now).await?;
    rows::note_stage(&context.db, run, "reading both sides", now, settings.lease).await?;
    // What is open is looked at however old it is, by itself: a window that began there would be too large in the end.
    let open = exception::open_subjects(&context.db, &run.scope, settings.records_max).await?;
    let again: Vec<PaymentId> = open.iter().filter_map(|subject| PaymentId::parse(subject).ok()).collect();
    // What was accepted before that and is settled only now, as payments dated ahead are. The parts of a run that was cut off look at the
    // same ones: what each begins with has been compared by those before.
    let late_before = from.min(now.minus(settings.chain_lookback));
    let window = Window { from, to: now, late_before };
    let (settled, unread) = rows::settled(&context.db, code, window, &again, settings.records_max).await?;
    let is_whole = settled.cut_off_at.is_none() && open.len() < settings.records_max;
    let unread: HashSet<_> = unread.into_iter().collect();
    let account: Arc<str> = Arc::from(run.scope.as_str());
    let ledger: Vec<Record> = settled
        .ledger
        .iter()
        .filter(|(payment, ..)| !unread.contains(&payment.as_uuid()))
        .filter_map(|(payment, amount, at)| {
            let day = Date::parse_iso(&super::intake::day(*at))?;
            let id = payment.to_string();
            Some(record(&account, currency, (id.clone(), id), (*amount).into(), day))
        })
        .collect();
    let events: Vec<ChainEvent> = settled
        .chain
        .iter()
        .filter(|seen| !unread.contains(&seen.payment.as_uuid()))
        .map(|seen| event(seen, currency))
        .collect();
    let today = Date::parse_iso(&super::intake::day(now)).unwrap_or_default();
    let engine_settings = engine::Settings::on(today, settings.threads);
    let breaks = engine::run_chain(&ledger, &events, &engine_settings);
    let seen = of_events(&account, currency, &events, today);
    let outcome = Outcome { breaks, matches: by_payment(&ledger, &seen), ..Outcome::default() };
    let exceptions = exceptions_of(&outcome.breaks, (&ledger, &events), (&run.scope, code), now);
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    outcome.breaks.iter().for_each(|found| *kinds.entry(found.kind.code()).or_default() += 1);
    let sum = |amounts: &mut dyn Iterator<Item = i128>| units(amounts.fold(0_i128, i128::saturating_add));
    let on_ledger = sum(&mut ledger.iter().map(|record| record.minor_units));
    let on_chain = sum(&mut events.iter().filter(|event| event.is_final).map(|event| event.minor_units));
    let differing = outcome.breaks.iter().filter(|found| matches!(found.subject, Subject::Ledger(_))).count();
    // What was under way then is looked at again, and what was not reached is.
    let looked_until = settled.cut_off_at.unwrap_or(now.minus(settings.chain_lookback / 2));
    let summary = json!({
        "scope": run.scope, "day": run.day, "is_whole": is_whole, "looked_until": show_instant(looked_until),
        "entries": ledger.len(), "events": events.len(), "under_way": unread.len(),
        "matched": ledger.len().saturating_sub(differing), "breaks": kinds,
        "settled": { "currency": code, "ledger": on_ledger, "chain": on_chain },
    });
    let made_of = MadeOf {
        scope: &run.scope,
        inputs: BTreeMap::from([(format!("events of {}", run.scope), hash_of(&events))]),
        // Payments are compared by their ids: no model is asked.
        model_sha256: String::new(),
        settings: &engine_settings,
        summary: &summary,
        anomalies: &[],
        history: &[],
        balance: &[],
        proofs: &[],
    };
    let (manifest_sha256, reports) = reports((&ledger, &seen), &outcome, &[], made_of)?;
    let findings = Findings {
        as_of: Some(now),
        ledger_until: looked_until,
        manifest_sha256,
        summary,
        matches: Vec::new(),
        open: Vec::new(),
        exceptions,
        reports,
        is_whole,
        proven: Vec::new(),
        learned: Learned::default(),
    };
    Ok(Compared { findings, goes_on: settled.cut_off_at.is_some_and(|reached| reached > from) })
}

/// From which payment on they are compared: from `chain_lookback` ago, or from before that where no run has looked yet; or from where a
/// run was cut off that this one continues.
async fn compared_from(
    context: &Context,
    run: &ClaimedRun,
    settings: &Settings,
    now: Timestamp,
) -> Result<Timestamp, StoreError> {
    let looked_until = rows::looked_until(&context.db, &run.scope).await?.unwrap_or(Timestamp::EPOCH);
    let usual = looked_until.min(now.minus(settings.chain_lookback));
    Ok(if run.is_continuation() { looked_until } else { usual })
}

/// What differs, payment by payment: an exception is known by its payment, so further settlements of one are one exception, with the sum
/// of their amounts.
fn exceptions_of(
    breaks: &[Break],
    (ledger, events): (&[Record], &[ChainEvent]),
    (scope, currency): (&str, &str),
    now: Timestamp,
) -> Vec<Found> {
    let mut exceptions: BTreeMap<(&str, String), (Break, Vec<&str>)> = BTreeMap::new();
    for found in breaks {
        let (subject, tx_hash) = match &found.subject {
            Subject::Ledger(place) => (ledger.get(*place as usize).map(|record| &*record.id), None),
            Subject::Event(place) => {
                let event = events.get(*place as usize);
                (event.map(|event| &*event.payment_id), event.map(|event| &*event.tx_hash))
            }
            Subject::Bank(_) | Subject::Account(_) => (Some(scope), None),
        };
        let key = (found.kind.code(), subject.unwrap_or_default().to_owned());
        match exceptions.entry(key) {
            Entry::Vacant(place) => {
                place.insert((found.clone(), tx_hash.into_iter().collect()));
            }
            Entry::Occupied(mut known) => {
                let (one, tx_hashes) = known.get_mut();
                one.minor_units = one.minor_units.saturating_add(found.minor_units);
                tx_hashes.extend(tx_hash);
            }
        }
    }
    let exceptions = exceptions.into_iter().map(|((_, subject), (found, tx_hashes))| {
        let mut evidence = json!({ "payment": subject });
        if let [first, ..] = tx_hashes.as_slice() {
            evidence["tx_hash"] = json!(first);
            evidence["tx_hashes"] = json!(tx_hashes);
        }
        break_found(&found, (subject, currency.to_owned()), evidence, (now, &[], false))
    });
    exceptions.collect()
}

/// What the chain has settled for good, as the other side of the report.
fn of_events(account: &Arc<str>, currency: Currency, events: &[ChainEvent], day: Date) -> Vec<Record> {
    events
        .iter()
        .filter(|event| event.is_final)
        .map(|event| {
            let id = format!("{}/{}", event.tx_hash, event.log_index);
            record(account, currency, (id, event.payment_id.to_string()), event.minor_units, day)
        })
        .collect()
}

/// Payments that both sides have settled. A second settlement of one, if there ever were one, stays alone.
fn by_payment(ledger: &[Record], seen: &[Record]) -> Vec<Match> {
    let mut places: HashMap<&str, u32> =
        ledger.iter().zip(0_u32..).map(|(record, place)| (&*record.reference, place)).collect();
    let mut matches = Vec::new();
    for (event, place) in seen.iter().zip(0_u32..) {
        let Some(entry) = places.remove(&*event.reference) else { continue };
        matches.push(by_key(ledger, seen, entry, place));
    }
    matches
}

/// Of what the chain said, final or not.
fn hash_of(events: &[ChainEvent]) -> String {
    let lines: Vec<String> = events
        .iter()
        .map(|event| {
            format!(
                "{} {} {} {} {}",
                event.tx_hash, event.log_index, event.payment_id, event.minor_units, event.is_final
            )
        })
        .collect();
    report::sha256(lines.join("\n").as_bytes())
}

fn record(
    account: &Arc<str>,
    currency: Currency,
    (id, reference): (String, String),
    minor_units: i128,
    day: Date,
) -> Record {
    Record {
        reference: reference.into(),
        id: id.into(),
        account: Arc::clone(account),
        currency,
        minor_units,
        booked_on: day,
        value_on: None,
        batch: "".into(),
        counterparty_iban: "".into(),
        counterparty: "".into(),
        text: "".into(),
        rail: "".into(),
        is_return: false,
    }
}

fn event(seen: &ChainSettlement, currency: Currency) -> ChainEvent {
    // Token units that are no whole minor units, or that we know no leaf of, agree with no amount of ours.
    let minor_units = seen
        .units
        .and_then(|units| u128::try_from(units).ok())
        .and_then(|units| {
            Money::from_token_units(units, u8::try_from(seen.token_decimals).ok()?, currency).ok()
        })
        .map_or(0, Money::minor_units);
    let tx_hash = seen.tx_hash.iter().fold("0x".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    ChainEvent {
        tx_hash: tx_hash.into(),
        log_index: u32::try_from(seen.log_index).unwrap_or(0),
        payment_id: seen.payment.to_string().into(),
        minor_units,
        is_final: seen.is_final,
        is_removed: false,
        is_failed: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowbridge_recon::break_kind::BreakKind;

    #[test]
    fn a_payment_that_the_chain_settled_again_and_again_is_one_exception() {
        let event = |tx_hash: &str, minor_units: i128| ChainEvent {
            tx_hash: tx_hash.into(),
            log_index: 0,
            payment_id: "pay_1".into(),
            minor_units,
            is_final: true,
            is_removed: false,
            is_failed: false,
        };
        let currency = Currency::parse("EUR").unwrap();
        let day = Date::from_epoch_days(20_000);
        let account: Arc<str> = Arc::from("chain:EUR");
        let ledger = [record(&account, currency, ("pay_1".to_owned(), "pay_1".to_owned()), 500, day)];
        let events = [event("0x01", 500), event("0x02", 500), event("0x03", 700)];
        let breaks = engine::run_chain(&ledger, &events, &engine::Settings::on(day, 1));
        let found = exceptions_of(&breaks, (&ledger, &events), ("chain:EUR", "EUR"), Timestamp::EPOCH);
        let [again] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((again.kind.as_str(), again.amount), (BreakKind::ChainWithoutLedger.code(), 1_200));
        assert_eq!((again.subject.as_str(), &again.about["tx_hashes"]), ("pay_1", &json!(["0x02", "0x03"])));
    }
}
