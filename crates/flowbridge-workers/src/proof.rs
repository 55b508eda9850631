//! The three-way proof: ledger, chain and banks at one cut, on demand and continuously.
//!
//! The banks are asked first what they hold and as of when; then the database is cut. What a bank did before its instant and
//! the ledger does not know yet is found by asking for the operations that are unresolved; what it did after is known by
//! when it booked them. So nothing has to stand still, and a difference is a difference. A difference counts only if a later
//! cut still has it: one cut may fall between two facts that belong together. What another amount is missing of at each cut, as where
//! every payment is booked a little wrongly, counts after a minute of that.

use crate::context::{Context, chain};
use crate::reconciliation::{Settings, trip};
use flowbridge_bank::connector::{BankConnector as _, QueryOutcome};
use flowbridge_bank::registry::BankRegistry;
use flowbridge_domain::money::Currency;
use flowbridge_domain::party::BankCode;
use flowbridge_domain::time::Timestamp;
use flowbridge_store::StoreError;
use flowbridge_store::proof::{self, BankSide, Line};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
    /// How long the database was read.
    pub read_for: Duration,
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
    let began = tokio::time::Instant::now();
    let (cut, mut sides) = proof::cut(&context.db, &instants, now).await?;
    let read_for = began.elapsed();

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
    Ok(Proof { at: now, block: cut.block, unread: cut.unread, lines, missing, read_for })
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

/// So many cuts in a row in which one side has more, whatever the amount: a minute of them, and no two facts are that far apart.
const CUTS_OF_A_LEAK: usize = 6;

/// What has differed, cut by cut.
#[derive(Debug, Default)]
struct Watch {
    /// Of the last cuts, as many as a leak takes.
    cuts: VecDeque<Timestamp>,
    streaks: BTreeMap<(String, Currency), Streak>,
}

/// Cuts in a row in which the same side had more of something.
#[derive(Debug, Clone, Copy)]
struct Streak {
    cuts: usize,
    /// What the other side has more than the ledger, at the last of them.
    more: i128,
    /// The same where it was least.
    least: i128,
}

/// A difference that an alarm is raised for.
#[derive(Debug, PartialEq, Eq)]
struct Lasting {
    what: String,
    currency: Currency,
    /// What the other side has more than the ledger.
    more: i128,
    /// When the earliest cut was that it rests on.
    seen_at: Timestamp,
    /// A bank may have booked it by itself: a charge, a payment returned. It is told, and stops nothing.
    is_borne: bool,
}

impl Watch {
    /// What lasts, with this proof: what differs by as much as at the cut before, and what has leaked for a while.
    fn learn(&mut self, proof: &Proof, settings: &Settings) -> Vec<Lasting> {
        let before = self.cuts.back().copied();
        self.cuts.push_back(proof.at);
        if self.cuts.len() > CUTS_OF_A_LEAK {
            self.cuts.pop_front();
        }
        let known = std::mem::take(&mut self.streaks);
        let mut lasting = Vec::new();
        for line in proof.differences() {
            let key = (line.what.clone(), line.currency);
            let more = line.other.saturating_sub(line.ledger);
            let bound = settings.breaker_bears.get(&line.currency).copied().unwrap_or(0);
            let is_borne = line.bank.is_some() && more.unsigned_abs() <= u128::from(bound);
            let earlier = known.get(&key).filter(|streak| streak.more.signum() == more.signum());
            let streak = match earlier {
                // What is borne is the beginning of no leak.
                _ if is_borne => Streak { cuts: 0, more, least: more },
                Some(Streak { cuts: cuts @ 1.., least, .. }) => {
                    let least = if more.unsigned_abs() < least.unsigned_abs() { more } else { *least };
                    Streak { cuts: cuts.saturating_add(1), more, least }
                }
                Some(_) | None => Streak { cuts: 1, more, least: more },
            };
            let stands = earlier.is_some_and(|streak| streak.more == more);
            let evidence = if stands {
                before.map(|seen_at| (more, seen_at))
            } else {
                let leaks = streak.cuts >= CUTS_OF_A_LEAK;
                self.cuts.front().filter(|_| leaks).map(|seen_at| (streak.least, *seen_at))
            };
            if let Some((more, seen_at)) = evidence {
                let (what, currency) = key.clone();
                lasting.push(Lasting { what, currency, more, seen_at, is_borne });
            }
            self.streaks.insert(key, streak);
        }
        lasting
    }
}

/// The continuous proof rests no longer than this, however long it takes.
const REST_MAX: Duration = Duration::from_secs(300);

/// Proves again and again until told to stop; a difference that lasts raises an alarm and trips the breaker, unless it is one that
/// settings let it bear.
pub async fn run(
    context: Context,
    banks: Arc<BankRegistry>,
    (settings, interval): (Settings, Duration),
    stop: CancellationToken,
) {
    let mut watch = Watch::default();
    while !stop.is_cancelled() {
        let mut rest = interval;
        match prove(&context, &banks).await {
            Ok(proof) => {
                let lasting = watch.learn(&proof, &settings);
                metrics::gauge!("proof_differences")
                    .set(f64::from(u32::try_from(lasting.len()).unwrap_or(u32::MAX)));
                for Lasting { what, currency, .. } in &lasting {
                    tracing::error!(what, currency = currency.code(), "ledger, chain and banks differ");
                }
                if let Some(Lasting { what, currency, more, seen_at, .. }) =
                    lasting.iter().find(|lasting| !lasting.is_borne)
                {
                    let cause = format!("{what} differs by {more} {currency} minor units");
                    if let Err(error) = trip(&context, &settings, &cause, *seen_at).await {
                        tracing::error!(
                            error = chain(&error),
                            "could not trip the breaker; the next cut tries again"
                        );
                    }
                }
                if proof.missing.is_empty() {
                    let holds = if proof.differences().next().is_none() { "yes" } else { "no" };
                    metrics::counter!("proofs_total", "holds" => holds).increment(1);
                }
                // It reads every account: however many there are, nine tenths of the time the database has other things to do.
                rest = interval.max((proof.read_for * 9).min(REST_MAX));
            }
            Err(error) => tracing::warn!(error = chain(&error), "could not take a cut for the proof"),
        }
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = stop.cancelled() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EUR: &str = "EUR";

    fn proof(at: i64, lines: Vec<Line>) -> Proof {
        let at = Timestamp::from_secs(at);
        Proof { at, block: 1, unread: 0, missing: vec![], lines, read_for: Duration::ZERO }
    }

    fn line(what: &str, bank: Option<&str>, more: i128, currency: &str) -> Line {
        Line {
            what: what.to_owned(),
            currency: Currency::parse(currency).unwrap(),
            ledger: 10_000,
            other: 10_000 + more,
            bank: bank.map(|code| BankCode::parse(code).unwrap()),
        }
    }

    fn named(lasting: &[Lasting]) -> Vec<(&str, i128)> {
        lasting.iter().map(|lasting| (lasting.what.as_str(), lasting.more)).collect()
    }

    #[test]
    fn what_stands_at_a_second_cut_lasts_and_only_a_reserve_within_its_bound_is_borne() {
        let bears = BTreeMap::from([(Currency::parse(EUR).unwrap(), 5_000)]);
        let settings = Settings { breaker_bears: bears, ..Settings::default() };
        let lines = || {
            vec![
                line("charged", Some("alpha"), -5_000, EUR),
                line("charged more", Some("beta"), -5_001, EUR),
                line("in a currency without a bound", Some("alpha"), -1, "CHF"),
                line("nothing", Some("delta"), 0, EUR),
                line("paid in", Some("gamma"), 5_001, EUR),
                line("supply", None, 1, EUR),
            ]
        };
        let mut watch = Watch::default();
        assert_eq!(watch.learn(&proof(10, lines()), &settings), [], "one cut may fall between two facts");
        let lasting = watch.learn(&proof(20, lines()), &settings);
        assert_eq!(lasting.len(), 5, "each raises the alarm: {lasting:?}");
        assert!(lasting.iter().all(|lasting| lasting.seen_at == Timestamp::from_secs(10)));
        let borne: Vec<_> = lasting.iter().filter(|lasting| lasting.is_borne).collect();
        assert!(matches!(borne.as_slice(), [one] if one.what == "charged"), "{borne:?}");
        // What grows out of it is a leak like any other, once it is more than is borne.
        for cut in 3..=8 {
            let grows = line("charged", Some("alpha"), -4_998 - i128::from(cut), EUR);
            let lasting = watch.learn(&proof(10 * cut, vec![grows]), &settings);
            let told = lasting.first().map(|lasting| (lasting.more, lasting.is_borne));
            assert_eq!(told, (cut == 8).then_some((-5_001, false)), "at cut {cut}");
        }
        let lasting = watch.learn(&proof(90, lines()), &settings);
        assert_eq!(lasting, []);
        let strict = Settings::default();
        let stood = watch.learn(&proof(100, lines()), &strict);
        assert!(stood.iter().all(|lasting| !lasting.is_borne), "nothing is borne unless people say so");
    }

    #[test]
    fn what_is_missing_more_of_at_each_cut_lasts_after_a_minute_and_what_comes_and_goes_does_not() {
        let (mut watch, settings) = (Watch::default(), Settings::default());
        for cut in 1..=7 {
            let leak = line("supply", None, i128::from(cut) + 3, EUR);
            let noise = line("reserve", Some("alpha"), if cut % 2 == 0 { 1 } else { -1 }, EUR);
            let lasting = watch.learn(&proof(10 * cut, vec![leak, noise]), &settings);
            if cut < 6 {
                assert_eq!(named(&lasting), [], "at cut {cut}");
            } else {
                assert_eq!(named(&lasting), [("supply", 4)], "by what it was at least");
                assert_eq!(lasting[0].seen_at, Timestamp::from_secs(10 * (cut - 5)));
            }
        }
        assert_eq!(watch.learn(&proof(80, vec![]), &settings), []);
        assert_eq!(watch.learn(&proof(90, vec![line("supply", None, 12, EUR)]), &settings), [], "begun anew");
    }
}
