//! Goals of an evaluation, and what the counts behind a figure leave open.
//!
//! Every interval is two-sided, at 95 %, and the same each time. Of a share it is Clopper and Pearson's, exact for any count.
//!
//! F1 is no share: a wrong pair counts twice where it also takes the place of a true one, so pairs are no independent cases. Here the
//! case is the entry, which is right or not. Its error rate has an exact interval, and F1 falls steadily as that rate rises, by as many
//! wrong and missed pairs an entry as were counted. As few entries as possible are taken to have caused them, which makes the interval
//! wider. A bootstrap or the delta method would see too little where hardly anything is wrong, which is the usual case here: with no
//! error at all both say that none is possible.
//!
//! What an interval leaves out: the thresholds of the best F1 and of 99.9 % are chosen on the same data. A mean of shares has the mean of
//! their bounds, which is too wide. A distance, such as the calibration error, has none.

use crate::calibrate::error_rate_up;
use serde::Serialize;

/// What lies beyond either end.
const TAIL: f64 = 0.025;

/// What is asked of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Asks {
    /// The figure, or more.
    AtLeast,
    /// The figure, or less.
    AtMost,
    /// More, down to the lower end of the interval.
    SurelyAtLeast,
}

/// A figure beside its goal.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Goal {
    /// What it was measured on, such as `unsupervised` or `synthetic, damage 1`.
    pub set: String,
    /// Its name among the figures.
    pub figure: &'static str,
    /// The figure: a share, a mean of shares or a distance, from 0 to 1.
    pub value: f64,
    /// How it is compared.
    pub asks: Asks,
    /// With what.
    pub goal: f64,
    /// Is it reached?
    pub is_reached: bool,
    /// Where the truth lies with 95 % confidence; none where nothing was counted, or the figure is no share.
    pub interval: Option<Interval>,
}

/// From where to where, both included.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// The lower end.
    pub down: f64,
    /// The upper end.
    pub up: f64,
}

impl Goal {
    pub(crate) fn new(
        (set, figure): (&str, &'static str),
        value: f64,
        (asks, goal): (Asks, f64),
        interval: Option<Interval>,
    ) -> Self {
        let is_reached = match asks {
            Asks::AtLeast => value >= goal,
            Asks::AtMost => value <= goal,
            Asks::SurelyAtLeast => interval.is_some_and(|interval| interval.down >= goal),
        };
        Self { set: set.to_owned(), figure, value, asks, goal, is_reached, interval }
    }
}

/// Of a share; none of nothing.
pub(crate) fn of_share(part: u64, of: u64) -> Option<Interval> {
    let rest = of.checked_sub(part).filter(|_| of > 0)?;
    // The rarer side is summed, case by case.
    Some(if part <= rest {
        Interval { down: rate_down(part, of), up: rate_up(part, of) }
    } else {
        Interval { down: 1.0 - rate_up(rest, of), up: 1.0 - rate_down(rest, of) }
    })
}

/// Of F1, by entries that are right and pairs that are wrong or missed.
pub(crate) fn of_f1(right: u64, wrong: u64, missed: u64) -> Option<Interval> {
    let failed = wrong.max(missed);
    let rate = of_share(failed, right + failed)?;
    let pairs_each = if failed == 0 { 2.0 } else { (wrong + missed) as f64 / failed as f64 };
    let f1 = |rate: f64| 2.0 * (1.0 - rate) / (2.0 * (1.0 - rate) + pairs_each * rate);
    Some(Interval { down: f1(rate.up), up: f1(rate.down) })
}

/// Of a mean of shares.
pub(crate) fn of_mean(shares: impl Iterator<Item = (u64, u64)>) -> Option<Interval> {
    let intervals: Vec<Interval> = shares.filter_map(|(part, of)| of_share(part, of)).collect();
    let mean = |end: fn(&Interval) -> f64| intervals.iter().map(end).sum::<f64>() / intervals.len() as f64;
    (!intervals.is_empty()).then(|| Interval { down: mean(|found| found.down), up: mean(|found| found.up) })
}

/// The greatest rate that so few cases do not exclude.
fn rate_up(cases: u64, of: u64) -> f64 {
    error_rate_up(cases, of, 1.0 - TAIL)
}

/// The smallest rate that so many cases do not exclude.
fn rate_down(cases: u64, of: u64) -> f64 {
    cases.checked_sub(1).map_or(0.0, |fewer| error_rate_up(fewer, of, TAIL))
}

/// Goals as a table for a terminal.
pub(crate) fn table(goals: &[Goal]) -> String {
    let row = |[set, figure, value, interval, goal, reached]: [&str; 6]| {
        format!("{set:<24}{figure:<20}{value:>8}  {interval:<20}{goal:<20}{reached}")
    };
    let mut rows = vec![row(["measured on", "figure", "value", "95 % interval", "goal", "reached"])];
    rows.extend(goals.iter().map(|goal| {
        let interval = goal
            .interval
            .map_or_else(|| "none".to_owned(), |Interval { down, up }| format!("{down:.5} to {up:.5}"));
        let asked = match goal.asks {
            Asks::AtLeast => format!("at least {}", goal.goal),
            Asks::AtMost => format!("at most {}", goal.goal),
            Asks::SurelyAtLeast => format!("surely {}", goal.goal),
        };
        let reached = if goal.is_reached { "yes" } else { "NO" };
        row([&goal.set, goal.figure, &format!("{:.5}", goal.value), &interval, &asked, reached])
    }));
    rows.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(found: Option<Interval>, down: f64, up: f64) {
        let found = found.unwrap();
        let is_near = (found.down - down).abs() < 5e-6 && (found.up - up).abs() < 5e-6;
        assert!(is_near, "{found:?}, not {down} to {up}");
    }

    #[test]
    fn intervals_of_shares_are_those_of_the_tables() {
        check(of_share(0, 10), 0.0, 0.308_497);
        check(of_share(10, 10), 0.691_503, 1.0);
        check(of_share(5, 10), 0.187_086, 0.812_914);
        check(of_share(95, 100), 0.887_165, 0.983_568);
        assert_eq!((of_share(0, 0), of_share(2, 1)), (None, None));
    }

    #[test]
    fn an_f1_is_as_sure_as_the_entries_that_it_is_counted_from() {
        // Each wrong pair in the place of a true one: F1 is the share of entries that are right.
        let Interval { down, up } = of_share(90, 100).unwrap();
        check(of_f1(90, 10, 10), down, up);
        for (right, wrong, missed) in [(45_310, 13, 16), (1, 0, 0), (0, 3, 5), (700, 2, 90), (45_326, 0, 0)] {
            let f1 = 2.0 * right as f64 / (2 * right + wrong + missed) as f64;
            let Interval { down, up } = of_f1(right, wrong, missed).unwrap();
            assert!(0.0 <= down && down <= f1 && f1 <= up && up <= 1.0, "{down} {f1} {up}");
        }
        let width = |times: u64| of_f1(90 * times, 4 * times, 8 * times).map(|of| of.up - of.down).unwrap();
        assert!(width(1) > width(10) && width(10) > width(100), "more counts leave less open");
        assert_eq!(of_f1(0, 0, 0), None);
    }
}
