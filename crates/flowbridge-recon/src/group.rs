//! One line for several entries: batches and instalments.
//!
//! Three kinds of evidence, strongest first: the batch's id stands on the line; the line quotes the invoices of several
//! entries; entries of one debtor or creditor sum exactly to the line. Sums coincide by accident more often than people
//! think, so a bare sum is only ever a suggestion; it may be posted alone only where its parts are also quoted and no other
//! set of parts does as well. The search is bounded: at most 24 near entries, 2 to 6 parts.

use crate::model::Open;
use crate::prepare::{FastMap, Pair, Side};
use crate::text;

const PARTS_MAX: usize = 6;
const POOL_MAX: usize = 24;
const SOLUTIONS_MAX: usize = 3;
const LAG_DAYS_MAX: i32 = 21;
const EARLY_DAYS_MAX: i32 = 3;
/// A batch may hold this many entries.
const BATCH_PARTS_MAX: usize = 2_000;

/// Why entries are thought to belong to a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupEvidence {
    /// The batch's id stands on both.
    BatchId,
    /// The line quotes all of the parts, or all parts quote the one.
    Quoted,
    /// Same name or account, exact sum, no other sum.
    UniqueSum,
}

/// Several records of one side that belong to one record of the other, by their places in the shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) ledger: Vec<u32>,
    pub(crate) bank: Vec<u32>,
    pub(crate) evidence: GroupEvidence,
    /// What the bank has more than the ledger; not zero only where the evidence is an id or quotes.
    pub(crate) difference: i64,
}

/// Finds and closes groups that say themselves what they are made of. Before pairs are judged: an instalment looks like a
/// payment of the wrong amount.
pub(crate) fn find_quoted(pair: &Pair, open: &mut Open) -> Vec<Group> {
    let mut groups = Vec::new();
    by_batch_id(pair, open, &mut groups);
    by_quotes(&pair.ledger, &pair.bank, &mut open.ledger, &mut open.bank, false, &mut groups);
    by_quotes(&pair.bank, &pair.ledger, &mut open.bank, &mut open.ledger, true, &mut groups);
    groups
}

/// Finds and closes groups by their sum, among what is left after pairs were chosen.
pub(crate) fn find_sums(pair: &Pair, open: &mut Open) -> Vec<Group> {
    let mut groups = Vec::new();
    by_sum(&pair.ledger, &pair.bank, &mut open.ledger, &mut open.bank, false, &mut groups);
    by_sum(&pair.bank, &pair.ledger, &mut open.bank, &mut open.ledger, true, &mut groups);
    groups
}

fn by_batch_id(pair: &Pair, open: &mut Open, groups: &mut Vec<Group>) {
    let mut batches: std::collections::BTreeMap<&[u8], Vec<u32>> = std::collections::BTreeMap::new();
    for record in (0..pair.ledger.len()).filter(|record| open.ledger[*record]) {
        let batch = pair.ledger.batch.of(record);
        if batch.len() >= 4 {
            batches.entry(batch).or_default().push(record as u32);
        }
    }
    if batches.is_empty() {
        return;
    }
    for line in 0..pair.bank.len() {
        if !open.bank[line] || pair.bank.is_return[line] {
            continue;
        }
        let batch = pair.bank.batch.of(line);
        let narrative = pair.bank.narrative.of(line);
        let found = std::iter::once(batch)
            .chain(text::words(narrative))
            .find_map(|word| batches.get(word).map(|parts| (word.to_vec(), parts)));
        let Some((key, parts)) = found else { continue };
        let parts: Vec<u32> = parts.iter().copied().filter(|part| open.ledger[*part as usize]).collect();
        if parts.len() < 2 || parts.len() > BATCH_PARTS_MAX {
            continue;
        }
        let sum = sum_of(&pair.ledger, &parts);
        let difference = pair.bank.minor_units[line].saturating_sub(sum);
        // Far away it is another line that happens to name the batch, such as its fee.
        if difference.unsigned_abs() > sum.unsigned_abs() / 4 {
            continue;
        }
        close(&mut open.ledger, &parts);
        open.bank[line] = false;
        batches.remove(key.as_slice());
        groups.push(Group {
            ledger: parts,
            bank: vec![line as u32],
            evidence: GroupEvidence::BatchId,
            difference,
        });
    }
}

/// Lines of `one` that share numbers with several records of `many`.
fn by_quotes(
    many: &Side,
    one: &Side,
    open_many: &mut [bool],
    open_one: &mut [bool],
    is_swapped: bool,
    groups: &mut Vec<Group>,
) {
    let mut by_number: FastMap<u64, Vec<u32>> = FastMap::default();
    for record in (0..many.len()).filter(|record| open_many[*record] && !many.is_return[*record]) {
        for number in many.invoices.of(record) {
            by_number.entry(*number).or_default().push(record as u32);
        }
    }
    for (line, is_open) in
        open_one.iter_mut().enumerate().filter(|(line, is_open)| **is_open && !one.is_return[*line])
    {
        let mut parts: Vec<u32> = one
            .invoices
            .of(line)
            .iter()
            .filter_map(|number| by_number.get(number).filter(|records| records.len() <= PARTS_MAX))
            .flatten()
            .copied()
            .filter(|part| open_many[*part as usize])
            .filter(|part| may_be_same_party(many, *part as usize, one, line))
            .collect();
        parts.sort_unstable();
        parts.dedup();
        let total = one.minor_units[line];
        parts.retain(|part| {
            let units = many.minor_units[*part as usize];
            units.signum() == total.signum() && units.unsigned_abs() < total.unsigned_abs()
        });
        if parts.len() < 2 {
            continue;
        }
        let difference = total.saturating_sub(sum_of(many, &parts));
        // Instalments that do not yet reach the whole are wanted too; a sum that exceeds it is another story.
        let is_exact = difference == 0;
        let is_partial = is_swapped && difference.signum() == total.signum();
        if !is_exact && !is_partial {
            continue;
        }
        close(open_many, &parts);
        *is_open = false;
        groups.push(group(parts, line, is_swapped, GroupEvidence::Quoted, difference));
    }
}

/// Lines of `one` to which near records of `many` with the same name or account sum exactly, in one way only.
fn by_sum(
    many: &Side,
    one: &Side,
    open_many: &mut [bool],
    open_one: &mut [bool],
    is_swapped: bool,
    groups: &mut Vec<Group>,
) {
    let mut by_party: FastMap<u64, Vec<u32>> = FastMap::default();
    for record in (0..many.len()).filter(|record| open_many[*record] && !many.is_return[*record]) {
        for key in party_keys(many, record) {
            by_party.entry(key).or_default().push(record as u32);
        }
    }
    for (line, is_open) in
        open_one.iter_mut().enumerate().filter(|(line, is_open)| **is_open && !one.is_return[*line])
    {
        let total = one.minor_units[line];
        let mut pool: Vec<u32> = party_keys(one, line)
            .filter_map(|key| by_party.get(&key))
            .flatten()
            .copied()
            .filter(|part| open_many[*part as usize])
            .filter(|part| {
                let part = *part as usize;
                let lag =
                    one.booked_on[line].days_since(many.booked_on[part]) * if is_swapped { -1 } else { 1 };
                many.minor_units[part].signum() == total.signum()
                    && many.minor_units[part].unsigned_abs() < total.unsigned_abs()
                    && (-EARLY_DAYS_MAX..=LAG_DAYS_MAX).contains(&lag)
            })
            .collect();
        pool.sort_unstable();
        pool.dedup();
        pool.sort_by_key(|part| {
            (one.booked_on[line].days_since(many.booked_on[*part as usize]).abs(), *part)
        });
        pool.truncate(POOL_MAX);
        if pool.len() < 2 {
            continue;
        }
        let amounts: Vec<i64> = pool.iter().map(|part| many.minor_units[*part as usize]).collect();
        let solutions = subsets(&amounts, total);
        let [solution] = solutions.as_slice() else { continue };
        let mut parts: Vec<u32> = solution.iter().map(|place| pool[*place]).collect();
        parts.sort_unstable();
        close(open_many, &parts);
        *is_open = false;
        groups.push(group(parts, line, is_swapped, GroupEvidence::UniqueSum, 0));
    }
}

/// Sets of 2 to 6 places whose amounts sum to `total`, at most three of them: more than one is already doubt.
pub(crate) fn subsets(amounts: &[i64], total: i64) -> Vec<Vec<usize>> {
    // Meet in the middle: sums of up to three places of the first half, looked up for those of the second.
    let half = amounts.len() / 2;
    let mut left: Vec<(i64, Vec<usize>)> = Vec::new();
    combine(&amounts[..half], 0, &mut left);
    left.sort();
    let mut right: Vec<(i64, Vec<usize>)> = Vec::new();
    combine(&amounts[half..], half, &mut right);
    let mut found = Vec::new();
    for (sum, places) in &right {
        let wanted = total.saturating_sub(*sum);
        let from = left.partition_point(|(sum, _)| *sum < wanted);
        for (_, others) in left[from..].iter().take_while(|(sum, _)| *sum == wanted) {
            let count = places.len() + others.len();
            if (2..=PARTS_MAX).contains(&count) {
                let mut both = others.clone();
                both.extend(places);
                found.push(both);
                if found.len() >= SOLUTIONS_MAX {
                    return found;
                }
            }
        }
    }
    found
}

/// Sums of every choice of at most four places.
fn combine(amounts: &[i64], offset: usize, out: &mut Vec<(i64, Vec<usize>)>) {
    out.push((0, Vec::new()));
    let mut from = 0;
    for _ in 0..4 {
        let until = out.len();
        for base in from..until {
            let next = out[base].1.last().map_or(0, |last| last - offset + 1);
            for (place, amount) in amounts.iter().enumerate().skip(next) {
                let mut places = out[base].1.clone();
                places.push(place + offset);
                out.push((out[base].0.saturating_add(*amount), places));
            }
        }
        from = until;
    }
}

/// Not where both name their account and differ, nor where neither account is sure and no word of a name is shared.
fn may_be_same_party(a: &Side, record: usize, b: &Side, other: usize) -> bool {
    if a.iban[record] != 0 && b.iban[other] != 0 {
        return a.iban[record] == b.iban[other];
    }
    // Who says nothing about the other party contradicts nothing.
    let is_silent = |side: &Side, record: usize| side.iban[record] == 0 && side.name(record).is_empty();
    if is_silent(a, record) || is_silent(b, other) {
        return true;
    }
    let (ours, theirs) = (a.narrative.of(record), b.narrative.of(other));
    text::words(ours)
        .filter(|word| word.len() >= 4 && word.iter().all(u8::is_ascii_alphabetic))
        .any(|word| text::contains(theirs, word))
}

fn party_keys(side: &Side, record: usize) -> impl Iterator<Item = u64> {
    let name = side.name(record);
    let by_name = (name.len() >= 5).then(|| text::hash64(name));
    let by_account = (side.iban[record] != 0).then(|| side.iban[record]);
    by_account.into_iter().chain(by_name)
}

fn sum_of(side: &Side, records: &[u32]) -> i64 {
    records.iter().fold(0, |sum: i64, record| sum.saturating_add(side.minor_units[*record as usize]))
}

fn close(open: &mut [bool], records: &[u32]) {
    for record in records {
        open[*record as usize] = false;
    }
}

fn group(parts: Vec<u32>, line: usize, is_swapped: bool, evidence: GroupEvidence, difference: i64) -> Group {
    if is_swapped {
        // Here the one is the ledger's: what the bank has more is what the parts have more.
        Group { ledger: vec![line as u32], bank: parts, evidence, difference: -difference }
    } else {
        Group { ledger: parts, bank: vec![line as u32], evidence, difference }
    }
}
