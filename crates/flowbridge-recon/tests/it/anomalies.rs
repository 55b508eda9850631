//! What is unusual is seen, what is usual is not, and too little history says nothing.

use flowbridge_recon::Model;
use flowbridge_recon::anomaly::{AnomalyKind, Memory, Severity, knows_enough, observe};
use flowbridge_recon::date::Date;
use flowbridge_recon::engine::{self, Settings};
use flowbridge_recon::generate::{self, Books, Recipe};

/// One night's books, moved to that day. Debtors are the same from night to night: their names come from few.
fn night(seed: u64, on: Date) -> Books {
    let mut books = generate::make(Recipe { seed, entries: 1_600, noise: 1.0 });
    let days = on.days_since(books.as_of);
    for record in books.ledger.iter_mut().chain(&mut books.bank) {
        record.booked_on = record.booked_on.plus_days(days);
        record.value_on = record.value_on.map(|day| day.plus_days(days));
    }
    books.as_of = on;
    books
}

fn look(memory: &mut Memory, books: &Books) -> Vec<(AnomalyKind, Severity, String)> {
    look_with("the model", memory, books)
}

/// The same where the model is known by this name.
fn look_with(name: &str, memory: &mut Memory, books: &Books) -> Vec<(AnomalyKind, Severity, String)> {
    let model = Model::shipped().unwrap();
    let outcome = engine::run(&books.ledger, &books.bank, &model, &Settings::on(books.as_of, 2));
    let observed = observe(&books.ledger, &books.bank, &outcome, books.as_of).judged_by(name);
    let found = memory.judge(&observed);
    memory.add(observed);
    found.into_iter().map(|found| (found.kind, found.severity, found.subject)).collect()
}

#[test]
fn a_night_like_no_other_is_seen() {
    let first = Date::parse_iso("2026-06-01").unwrap();
    let mut memory = Memory::default();
    for week in 0..8 {
        let usual = look(&mut memory, &night(500 + week, first.plus_days(7 * week as i32)));
        let drifts = |kind: &AnomalyKind| matches!(kind, AnomalyKind::FeatureDrift | AnomalyKind::ScoreDrift);
        let alarms: Vec<_> = usual
            .iter()
            .filter(|(kind, severity, _)| {
                *severity == Severity::Alarm && !drifts(kind) && *kind != AnomalyKind::FirstSeenAccount
            })
            .collect();
        assert!(alarms.is_empty(), "week {week}: {alarms:?}");
        let knows = knows_enough(&memory.runs, first.plus_days(7 * week as i32 + 7));
        assert_eq!(knows, week >= 5, "six of the same weekday");
    }
    let kept = serde_json::to_string(&memory).unwrap();
    assert!(!kept.contains("Schmidt") && !kept.contains("NL"), "debtors are remembered without their names");

    // Half of the lines are missing, the bank is four days late, and references are gone.
    let mut odd = night(600, first.plus_days(56));
    let mut place = 0;
    odd.bank.retain(|_| {
        place += 1;
        place % 2 == 0
    });
    for line in &mut odd.bank {
        line.booked_on = line.booked_on.plus_days(4);
        line.reference = "".into();
        line.text = "".into();
    }
    let is_drift = |kind: &AnomalyKind| matches!(kind, AnomalyKind::FeatureDrift | AnomalyKind::ScoreDrift);
    let first_night = look_with("another model", &mut memory.clone(), &odd);
    assert!(!first_night.iter().any(|found| is_drift(&found.0)), "of which nobody knows what is usual");
    assert!(first_night.iter().any(|found| found.0 == AnomalyKind::Count), "the lines are whose they were");
    let of_before = serde_json::to_string(&memory).unwrap().replace(r#","model":"the model""#, "");
    let mut of_before: Memory = serde_json::from_str(&of_before).unwrap();
    let after = look(&mut of_before, &odd);
    assert!(!after.iter().any(|found| is_drift(&found.0)), "nor what a memory says that names no model");
    let kinds: Vec<AnomalyKind> = look(&mut memory, &odd).into_iter().map(|found| found.0).collect();
    for wanted in [AnomalyKind::Count, AnomalyKind::Lag, AnomalyKind::BreakMix, AnomalyKind::FeatureDrift] {
        assert!(kinds.contains(&wanted), "{wanted:?} is not among {kinds:?}");
    }
}

#[test]
fn a_known_debtor_with_a_new_account_or_an_odd_amount_is_seen() {
    let first = Date::parse_iso("2026-06-01").unwrap();
    let mut memory = Memory::default();
    let mut usual = night(700, first);
    for record in usual.ledger.iter_mut().chain(&mut usual.bank) {
        if record.minor_units > 0 {
            record.counterparty = "Steady Debtor".into();
            record.counterparty_iban = "NL01STEADY".into();
        }
    }
    for day in 0..3 {
        let mut again = usual.clone();
        again.as_of = first.plus_days(day);
        look(&mut memory, &again);
    }
    let mut odd = usual.clone();
    odd.as_of = first.plus_days(3);
    for line in &mut odd.bank {
        if line.minor_units > 0 {
            line.counterparty_iban = "NL99NEVERSEEN".into();
        }
    }
    let found = look(&mut memory, &odd);
    assert!(found.iter().any(|(kind, severity, subject)| {
        *kind == AnomalyKind::FirstSeenAccount && *severity == Severity::Alarm && subject.starts_with("bank ")
    }));
}
