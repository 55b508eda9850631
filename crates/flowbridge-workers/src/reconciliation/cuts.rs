//! The proof of balance at the instant of each statement: what differs there, what of it stands, and what of it lasts.
//!
//! What our books and the bank's lines explain is known for the newest line; for an earlier statement it is that without what the
//! later ones have moved. All cuts of a run stand on one snapshot of the database, so they differ from each other by what the
//! statements say, and by nothing else. A statement after one that is missing proves nothing: it waits.
//!
//! A difference that is gone at the next statement was a matter of time: it is told. What stands at the newest one trips the breaker
//! if the next run still finds it there; or if it grows or shrinks, and so is another one each time, if three runs in a row find
//! too much, or too little. However many statements a run has, it is one look at the books: a file that has not come
//! yet, or an entry that two people have still to post, is missing at each of them alike.

use super::run::{account_break, break_found, units};
use flowbridge_api::payment::show_instant;
use flowbridge_domain::id::StatementId;
use flowbridge_domain::ledger::Contra;
use flowbridge_domain::time::Timestamp;
use flowbridge_recon::break_kind::BreakKind;
use flowbridge_recon::engine::Break;
use flowbridge_recon::report::{Balance, BalanceAt};
use flowbridge_store::exception::Found;
use flowbridge_store::reconciliation::Sides;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The balance at the instant of each statement where it can be told, oldest first, and the statements that this settles.
pub(super) fn at_each(sides: &Sides, balance: &[Balance]) -> (Vec<StatementId>, Vec<BalanceAt>) {
    let told = sides.cuts.iter().filter_map(|cut| {
        let of_account = |line: &&Balance| line.account == cut.account && line.currency == cut.currency;
        let line = balance.iter().find(of_account)?;
        let explained = line.explained() - i128::from(cut.moved_since);
        let ledger = i128::from(line.ledger) - i128::from(cut.posted_since);
        let at = BalanceAt {
            account: cut.account.clone(),
            currency: cut.currency.clone(),
            statement: cut.name.clone(),
            as_of: show_instant(cut.as_of),
            closing: cut.closing,
            ledger: units(ledger),
            in_between: units(explained - ledger),
            unexplained: units(i128::from(cut.closing) - explained),
        };
        Some((cut.statement, at))
    });
    told.unzip()
}

/// Those that say more than the balance of the newest statement says already.
pub(super) fn beyond_the_newest(at: &[BalanceAt], balance: &[Balance]) -> Vec<BalanceAt> {
    let of_account = |line: &Balance| at.iter().filter(|one| is_of(one, line)).count();
    let says_it = |one: &BalanceAt| {
        balance.iter().any(|line| is_of(one, line) && line.is_told && of_account(line) == 1)
    };
    at.iter().filter(|one| !says_it(one)).cloned().collect()
}

fn is_of(one: &BalanceAt, line: &Balance) -> bool {
    one.account == line.account && one.currency == line.currency
}

/// What the balances differ by: what stands at the newest statement is a break, what had passed by then is only told. `put_right`: what
/// stood before, until people posted an entry for it.
pub(super) fn differences(
    (balance, at): (&[Balance], &[BalanceAt]),
    put_right: &BTreeSet<String>,
    now: Timestamp,
) -> (Vec<Break>, Vec<Found>) {
    let (mut breaks, mut exceptions) = (Vec::new(), Vec::new());
    for line in balance {
        let at: Vec<&BalanceAt> = at.iter().filter(|one| is_of(one, line)).collect();
        let newest = at.last().map_or(0, |newest| newest.unexplained);
        let stands = if line.is_told { line.unexplained } else { newest };
        if stands != 0 {
            let found = account_break(BreakKind::SupplyNotReserve, &line.account, stands.into());
            exceptions.push(standing(&found, (line, stands), put_right, now));
            breaks.push(found);
        }
        let mut passed: BTreeMap<i64, Vec<&str>> = BTreeMap::new();
        for one in at.iter().filter(|one| one.unexplained != 0 && one.unexplained != stands) {
            passed.entry(one.unexplained).or_default().push(&one.statement);
        }
        exceptions.extend(passed.iter().map(|(amount, names)| only_told(line, *amount, names, now)));
    }
    (breaks, exceptions)
}

fn standing(
    found: &Break,
    (line, amount): (&Balance, i64),
    put_right: &BTreeSet<String>,
    now: Timestamp,
) -> Found {
    // Another amount is another difference: what people decided about this one says nothing about it. Nor does it once its entry is in the
    // books: as much that is there all the same has come since.
    let subject = (1..)
        .map(|time| match time {
            1 => format!("balance of {} {}: {amount}", line.account, line.currency),
            time => format!("balance of {} {}: {amount}, time {time}", line.account, line.currency),
        })
        .find(|subject| !put_right.contains(subject))
        .unwrap_or_default();
    let why = "the closing balance differs from our reserve, and no line says why";
    let about = (subject, line.currency.clone());
    Found {
        advice: "ask the bank what it is; money that was there before our first entry is booked against suspense: \
                 accept"
            .to_owned(),
        contra: Some(Contra::Suspense),
        correction: amount,
        ..break_found(found, about, json!({ "explanation": why }), (now, &[], false))
    }
}

/// No entry puts right what is no longer there.
fn only_told(line: &Balance, amount: i64, statements: &[&str], now: Timestamp) -> Found {
    let found = account_break(BreakKind::SupplyNotReserve, &line.account, amount.into());
    let first = statements.first().copied().unwrap_or_default();
    let subject = format!("balance of {} {} at {first}: {amount}", line.account, line.currency);
    let why = format!(
        "the closing balance of {} differed from our reserve, and no line says why; at a later statement it no longer did, \
         or by another amount",
        statements.join(", ")
    );
    let about = (subject, line.currency.clone());
    let evidence = json!({ "explanation": why, "statements": statements });
    Found {
        advice: "nothing is to be posted: ask the bank what it was; the next run closes it".to_owned(),
        ..break_found(&found, about, evidence, (now, &[], false))
    }
}

/// Of how many runs before this one the summaries are wanted.
pub(super) const LOOKS_BEFORE: i64 = 2;

/// What no line explains in two runs in a row, alike; or in three, whatever it has become meanwhile, on the same side: that much of it
/// lasts which was there each time. `before`, newest first, and `now` are the summaries of runs.
pub(super) fn lasting(before: &[Value], now: &Value) -> Option<String> {
    let before: Vec<BTreeMap<String, i64>> = before.iter().map(newest).collect();
    newest(now).into_iter().find_map(|(currency, amount)| {
        let told: Vec<i64> = before.iter().map_while(|told| told.get(&currency).copied()).collect();
        match told.as_slice() {
            _ if amount == 0 => None,
            [last, ..] if *last == amount => {
                Some(format!("no line of the statement explains {amount} {currency} minor units"))
            }
            [last, earlier, ..] if [*last, *earlier].iter().all(|told| told.signum() == amount.signum()) => {
                let least = [amount, *last, *earlier].into_iter().min_by_key(|told| told.unsigned_abs())?;
                Some(format!(
                    "in three runs in a row no line of the statement explains what differs, by {amount} {currency} minor units now and by \
                     {least} at the least"
                ))
            }
            [] | [_, ..] => None,
        }
    })
}

/// What nothing explained at the newest statement where that could be told, per currency.
fn newest(summary: &Value) -> BTreeMap<String, i64> {
    let lines = |name: &str| summary.get(name).and_then(Value::as_array).into_iter().flatten();
    let told = |line: &Value| {
        let currency = line.get("currency")?.as_str()?.to_owned();
        Some((currency, line.get("unexplained")?.as_i64()?))
    };
    let is_told = |line: &&Value| line.get("is_told") != Some(&Value::Bool(false));
    let mut newest = BTreeMap::new();
    // The oldest first: of a currency, what comes last stays.
    newest.extend(lines("proofs").filter_map(told));
    newest.extend(lines("balance").filter(is_told).filter_map(told));
    newest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The summary of a run: what is unexplained at the newest lines, if that is told, and at each statement.
    fn run(newest: Option<i64>, statements: &[i64]) -> Value {
        let at = |amount: &i64| json!({ "currency": "EUR", "unexplained": amount });
        let proofs: Vec<Value> = statements.iter().map(at).collect();
        let unexplained = newest.unwrap_or(0);
        let balance = json!({ "currency": "EUR", "unexplained": unexplained, "is_told": newest.is_some() });
        json!({ "balance": [balance], "proofs": proofs })
    }

    #[test]
    fn only_what_the_next_run_still_finds_at_the_newest_statement_trips() {
        let trips = |before: &Value, now: &Value| lasting(std::slice::from_ref(before), now).is_some();
        let (even, off) = (run(Some(0), &[]), run(Some(50), &[]));
        assert_eq!(lasting(&[], &off), None, "nobody was asked about it yet");
        assert!(trips(&off, &off));
        assert!(trips(&off, &run(Some(50), &[0, 50])));
        assert!(trips(&run(Some(50), &[0, 50]), &off));
        assert!(!trips(&even, &run(Some(50), &[0, 50, 50])), "seen by one run: a file may be on its way");
        assert!(!trips(&off, &run(Some(0), &[50, 50, 0])), "it is gone");
        assert!(!trips(&off, &run(Some(60), &[50, 60])), "another difference");
    }

    #[test]
    fn what_differs_by_more_each_time_trips_at_the_third_run_by_what_was_there_each_time() {
        let of = |amounts: [i64; 3]| {
            let [now, last, earlier] = amounts.map(|amount| run(Some(amount), &[]));
            lasting(&[last, earlier], &now)
        };
        for (amounts, told) in
            [([90, 70, 50], "by 50 at the least"), ([-30, -70, -50], "by -30 at the least")]
        {
            let cause = of(amounts).unwrap();
            assert!(cause.contains(told), "{cause}");
        }
        assert_eq!(of([90, 70, 0]), None, "the first was even");
        assert_eq!(of([90, -70, 50]), None, "too much and too little are no one difference");
        assert_eq!(of([0, 70, 50]), None, "it is gone");
        let untold = run(None, &[]);
        assert_eq!(lasting(&[run(Some(70), &[]), untold], &run(Some(90), &[])), None, "two looks");
    }

    #[test]
    fn a_balance_that_cannot_be_told_is_no_look() {
        let (untold, off) = (run(None, &[]), run(Some(50), &[]));
        assert_eq!(lasting(std::slice::from_ref(&untold), &off), None);
        assert_eq!(lasting(std::slice::from_ref(&off), &untold), None);
        let at_a_statement = run(None, &[0, 50]);
        assert!(lasting(&[at_a_statement], &off).is_some(), "later lines have no balance yet");
    }
}
