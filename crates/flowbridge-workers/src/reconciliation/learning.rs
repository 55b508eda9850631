//! What people decided in the exception queue, as a model learns it.
//!
//! Decisions lie in the database and are only added to; here they become rulings about records, in the words that files of
//! decisions have. Only what two people have agreed on counts. A record that somebody has given an entry of its own has no partner;
//! that nothing is to be done about one says nothing.

use super::{books, intake};
use flowbridge_domain::party::BankCode;
use flowbridge_domain::time::Timestamp;
use flowbridge_recon::date::Date;
use flowbridge_recon::feedback::{Ruling, Verdict};
use flowbridge_recon::record::Record;
use flowbridge_store::exception::{DecisionKind, Ruled, TO_AUDIT, TO_CONFIRM};
use flowbridge_store::reconciliation::{self as rows, RecordKey, Sides};
use flowbridge_store::{Db, StoreError, segment};
use std::collections::HashMap;
use std::sync::Arc;

/// What a model learns from.
#[derive(Debug, Clone, Default)]
pub struct Lessons {
    /// Our entries.
    pub ledger: Vec<Record>,
    /// The banks' lines.
    pub bank: Vec<Record>,
    /// What people said of them, oldest first.
    pub rulings: Vec<Ruling>,
}

/// Reads what people have decided about all banks, and the newest `records_max` records of each bank's sides that it is about.
pub async fn read(db: &Db, now: Timestamp, records_max: usize) -> Result<Lessons, StoreError> {
    let mut lessons = Lessons::default();
    for scope in rows::scopes(db).await?.into_iter().filter(|scope| BankCode::parse(scope).is_ok()) {
        let sides = rows::to_learn(db, &scope, now, records_max).await?;
        add_records(&sides, &mut lessons);
        lessons.rulings.extend(segment::evidence(db, &scope).await?.ruled.iter().filter_map(ruling));
    }
    lessons.rulings.sort_by_key(|ruling| ruling.on);
    Ok(lessons)
}

fn add_records(sides: &Sides, lessons: &mut Lessons) {
    let accounts: HashMap<&str, Arc<str>> = sides
        .statements
        .iter()
        .map(|statement| (statement.currency.as_str(), Arc::from(statement.account.as_str())))
        .collect();
    let entry = |entry| books::our_record(entry, accounts.get(entry.currency.as_str())?);
    lessons.ledger.extend(sides.ours.iter().filter_map(entry));
    let operations = books::operations_of_lines(&sides.ours, &sides.theirs);
    let lines = sides.theirs.iter().zip(operations);
    lessons.bank.extend(lines.filter_map(|(line, operation)| books::their_record(line, operation)));
}

/// A decision as a ruling about records; none where it says nothing about where they belong.
fn ruling(ruled: &Ruled) -> Option<Ruling> {
    let is_audit = ruled.kind == TO_AUDIT;
    let is_match = is_audit || ruled.kind == TO_CONFIRM;
    let mut records = if is_match {
        ruled.subject.split('+').filter_map(RecordKey::parse).collect()
    } else {
        ruled.records.clone()
    };
    let verdict = match ruled.decision {
        DecisionKind::Accept if is_match => Verdict::Accept,
        DecisionKind::Reject if is_match => Verdict::Reject,
        DecisionKind::Reject => return None,
        DecisionKind::Accept if !ruled.has_entry => return None,
        DecisionKind::Accept | DecisionKind::WriteOff => Verdict::WriteOff,
        DecisionKind::Rematch => {
            records.extend(ruled.partner.clone());
            if records.len() > 2 { Verdict::Split } else { Verdict::Rematch }
        }
    };
    let side = |wanted: &str| -> Vec<String> {
        records.iter().filter(|record| record.side == wanted).map(RecordKey::text).collect()
    };
    let ruling = Ruling {
        on: Date::parse_iso(&intake::day(ruled.at))?,
        by: ruled.by.clone(),
        verdict,
        ledger: side("ledger"),
        bank: side("bank"),
        reason: ruled.reason.clone(),
        is_audit,
    };
    ruling.check().is_ok().then_some(ruling)
}
