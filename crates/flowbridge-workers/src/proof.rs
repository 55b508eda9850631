//! The three-way proof: ledger, chain and banks at one cut, on demand and continuously.
//!
//! The banks are asked first what they hold and as of when; then the database is cut. What a bank did before its instant and
//! the ledger does not know yet is found by asking for the operations that are unresolved; what it did after is known by
//! when it booked them. So nothing has to stand still, and a difference is a difference. A difference counts only if a later
//! cut still has it: one cut may fall between two facts that belong together.

use crate::context::{Context, chain};
use crate::reconciliation::{Settings, trip};
use flowbridge_bank::connector::{BankConnector as _, QueryOutcome};
use flowbridge_bank::registry::BankRegistry;
use flowbridge_domain::money::Currency;
use flowbridge_domain::party::BankCode;
use flowbridge_domain::time::Timestamp;
use flowbridge_store::StoreError;
use flowbridge_store::proof::{self, BankSide, Line};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What a proof found.
#[derive(Debug, Clone)]
pub struct Proof {
    /// When the cut was taken.
    pub at: Timestamp,
    /// The last block whose logs are counted.
    pub block: i64,
    /// Observations taken into account that the ledger had not read yet.
    pub unread: usize,
    /// Every quantity with both of its sides.
    pub lines: Vec<Line>,
    /// What could not be compared, and why; a proof with such a hole proves nothing.
    pub missing: Vec<String>,
}

impl Proof {
    /// Everything was compared, and both sides of everything agree.
    pub fn holds(&self) -> bool {
        self.missing.is_empty() && self.differences().next().is_none()
    }

    /// The lines whose sides differ.
    pub fn differences(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| !line.holds())
    }
}

/// Takes one cut and compares.
pub async fn prove(context: &Context, banks: &BankRegistry) -> Result<Proof, StoreError> {
    let mut missing = Vec::new();
    let mut told = Vec::new();
    for (code, bank) in banks.iter() {
        match bank.balances().await {
            Ok(balances) => told.push((code.clone(), balances)),
            Err(error) => missing.push(error.to_string()),
        }
    }
    let now = context.now();
    let instants: Vec<(BankCode, Timestamp)> =
        told.iter().map(|(code, balances)| (code.clone(), balances.as_of)).collect();
    let (cut, mut sides) = proof::cut(&context.db, &instants, now).await?;

    let mut lines = cut.lines;
    lines.extend(cut.receivables);
    lines.extend(cut.trial_balance.iter().map(|(currency, balance)| Line {
        what: "trial balance".into(),
        currency: *currency,
        ledger: *balance,
        other: 0,
        bank: None,
    }));
    missing.extend(cut.holes.iter().map(|hole| {
        format!(
            "logs of the {} contracts between blocks {} and {}: no node has shown them, and each is asked again",
            hole.currency, hole.from_block, hole.to_block
        )
    }));
    for (code, balances) in told {
        let side = sides.remove(&code).unwrap_or_default();
        let (moved, unanswered) = moved_before(banks, &code, balances.as_of, &side).await;
        missing.extend(unanswered);
        let currencies: BTreeSet<Currency> = cut
            .reserves
            .keys()
            .filter(|(bank, _)| *bank == code)
            .map(|(_, currency)| *currency)
            .chain(balances.accounts.iter().map(|(_, money)| money.currency()))
            .collect();
        for currency in currencies {
            let reserve = cut.reserves.get(&(code.clone(), currency)).copied().unwrap_or(0);
            lines.push(Line {
                what: format!("reserve at {}", code.as_str()),
                currency,
                ledger: reserve + moved.get(&currency).copied().unwrap_or(0),
                other: balances.reserve(currency).minor_units(),
                bank: Some(code.clone()),
            });
        }
    }
    Ok(Proof { at: now, block: cut.block, unread: cut.unread, lines, missing })
}

/// What the ledger's reserve has to be adjusted by to be as of the bank's instant, and the banks' silences.
async fn moved_before(
    banks: &BankRegistry,
    code: &BankCode,
    as_of: Timestamp,
    side: &BankSide,
) -> (BTreeMap<Currency, i128>, Vec<String>) {
    let mut moved: BTreeMap<Currency, i128> = BTreeMap::new();
    let mut unanswered = Vec::new();
    for later in &side.later {
        *moved.entry(later.change.currency()).or_default() -= later.change.minor_units();
    }
    let Some(bank) = banks.get(code) else { return (moved, unanswered) };
    let keys: Vec<_> = side.unresolved.iter().map(|movement| movement.key).collect();
    if keys.is_empty() {
        return (moved, unanswered);
    }
    for (movement, outcome) in side.unresolved.iter().zip(bank.query(&keys).await) {
        match outcome {
            QueryOutcome::Done { receipt, .. } if receipt.booked_at <= as_of => {
                *moved.entry(movement.change.currency()).or_default() += movement.change.minor_units();
            }
            // Not in the balance: declined, undecided, not arrived, or booked after it was told.
            QueryOutcome::Done { .. }
            | QueryOutcome::Declined(_)
            | QueryOutcome::Pending { .. }
            | QueryOutcome::NotFound => {}
            QueryOutcome::Unanswered { cause, .. } => {
                unanswered.push(format!(
                    "bank {} did not say what became of {}: {cause}",
                    code.as_str(),
                    movement.key
                ));
            }
        }
    }
    (moved, unanswered)
}

/// A difference that an alarm is raised for: what, where, and by how much the other side has more.
type Difference = (String, Currency, i128);

/// What differs, and of it what a bank may have booked by itself: a charge, a payment returned. That is told, and stops nothing.
fn differences(proof: &Proof, settings: &Settings) -> (BTreeSet<Difference>, BTreeSet<Difference>) {
    let (mut all, mut borne) = (BTreeSet::new(), BTreeSet::new());
    for line in proof.differences() {
        let more = line.other.saturating_sub(line.ledger);
        let difference = (line.what.clone(), line.currency, more);
        let bound = settings.breaker_bears.get(&line.currency).copied().unwrap_or(0);
        if line.bank.is_some() && more.unsigned_abs() <= u128::from(bound) {
            borne.insert(difference.clone());
        }
        all.insert(difference);
    }
    (all, borne)
}

/// Proves again and again until told to stop; a difference that survives a later cut, unchanged, raises an alarm and trips the
/// breaker, unless it is one that settings let it bear.
pub async fn run(
    context: Context,
    banks: Arc<BankRegistry>,
    (settings, interval): (Settings, Duration),
    stop: CancellationToken,
) {
    let mut before: BTreeSet<Difference> = BTreeSet::new();
    let mut before_at = context.now();
    while !stop.is_cancelled() {
        let began = tokio::time::Instant::now();
        match prove(&context, &banks).await {
            Ok(proof) => {
                let (now, borne) = differences(&proof, &settings);
                let lasting: Vec<_> = now.intersection(&before).collect();
                metrics::gauge!("proof_differences")
                    .set(f64::from(u32::try_from(lasting.len()).unwrap_or(u32::MAX)));
                for (what, currency, _) in &lasting {
                    tracing::error!(what, currency = currency.code(), "ledger, chain and banks differ");
                }
                if let Some((what, currency, difference)) = lasting.iter().find(|lasts| !borne.contains(**lasts)) {
                    let cause = format!("{what} differs by {difference} {currency} minor units");
                    if let Err(error) = trip(&context, &settings, &cause, before_at).await {
                        tracing::error!(
                            error = chain(&error),
                            "could not trip the breaker; the next cut tries again"
                        );
                    }
                }
                if proof.missing.is_empty() {
                    metrics::counter!("proofs_total", "holds" => if now.is_empty() { "yes" } else { "no" })
                        .increment(1);
                }
                (before, before_at) = (now, proof.at);
            }
            Err(error) => tracing::warn!(error = chain(&error), "could not take a cut for the proof"),
        }
        // It reads every account: however many there are, nine tenths of the time the database has other things to do.
        tokio::select! {
            () = tokio::time::sleep(interval.max(began.elapsed() * 9)) => {}
            () = stop.cancelled() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reserve_may_differ_and_only_within_its_bound() {
        let euro = Currency::parse("EUR").unwrap();
        let franc = Currency::parse("CHF").unwrap();
        let line = |what: &str, bank: Option<&str>, (ledger, other), currency| Line {
            what: what.to_owned(),
            currency,
            ledger,
            other,
            bank: bank.map(|code| BankCode::parse(code).unwrap()),
        };
        let proof = Proof {
            at: Timestamp::from_micros(0),
            block: 1,
            unread: 0,
            missing: vec![],
            lines: vec![
                line("charged", Some("alpha"), (10_000, 5_000), euro),
                line("charged more", Some("beta"), (10_001, 5_000), euro),
                line("paid in", Some("gamma"), (0, 5_001), euro),
                line("in a currency without a bound", Some("alpha"), (1, 0), franc),
                line("supply", None, (1, 0), euro),
                line("nothing", Some("delta"), (7, 7), euro),
            ],
        };
        let settings = Settings { breaker_bears: BTreeMap::from([(euro, 5_000)]), ..Settings::default() };
        let (all, borne) = differences(&proof, &settings);
        let named = |of: &BTreeSet<Difference>| of.iter().map(|(what, ..)| what.clone()).collect::<Vec<_>>();
        assert_eq!(named(&borne), ["charged"]);
        assert_eq!(all.len(), 5, "each raises the alarm: {all:?}");
        assert!(differences(&proof, &Settings::default()).1.is_empty(), "nothing is borne unless people say so");
    }
}
