//! Faults on request: what a bank does wrong, when, how often, and for how long.
//!
//! A [`FaultRule`] is data, from configuration or the admin API. Each has its own random numbers, drawn in the order in
//! which requests arrive, from the bank's seed and the rule's number: the same requests in the same order meet the same
//! faults. Rules live in memory: a restarted bank has those of its configuration.
//!
//! As JSON, one hold in twenty declined, and the next two captures carried out without an answer:
//!
//! ```json
//! {"fault": {"kind": "decline", "reason": "AM04"}, "targets": ["place_hold"], "per_million": 50000}
//! {"fault": {"kind": "lost_reply"}, "targets": ["capture"], "times_max": 2}
//! ```
//!
//! Faults of an *operation* (`decline`, `slow`, `short_hold`, `omit_outcome`, `duplicate_outcome`, and those that book it wrongly on
//! our reserve: `kept`, `unbooked`, `booked_twice`, `returned`, `late_value`) are drawn for each operation of a slice;
//! faults of a *request* (`latency`, `unavailable`, `lost_reply`, `partial_statement`) once for each request that carries
//! an operation they apply to.

use super::books::Misbooking;
use crate::connector::Decline;
use flowbridge_domain::bank::ReasonCode;
use flowbridge_domain::time::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// All of a thousand thousand.
const ALWAYS_PER_MILLION: u32 = 1_000_000;
/// How many rules a bank may have at a time.
const RULES_MAX: usize = 256;

/// What a request or an operation is, for the choice of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A hold to place.
    PlaceHold,
    /// A capture.
    Capture,
    /// A release.
    Release,
    /// A credit.
    Credit,
    /// A query for outcomes.
    Query,
    /// A question for funds.
    ConfirmFunds,
    /// The balances of our own accounts.
    Balances,
    /// A page of the statement.
    Statement,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// The request is carried out so much later, also when the client has given up by then.
    Latency {
        /// At least.
        ms: u64,
        /// And at most so much more.
        #[serde(default)]
        jitter_ms: u64,
    },
    /// 503, before or after the request was carried out.
    Unavailable {
        /// Carry it out first.
        #[serde(default)]
        after_execution: bool,
    },
    /// The request is carried out and no answer arrives.
    LostReply {
        /// Keep the connection open so long without a word before cutting it; 0 cuts at once.
        #[serde(default)]
        silent_ms: u64,
    },
    /// The operation is carried out, and its outcome is missing in the answer.
    OmitOutcome,
    /// The outcome is in the answer twice.
    DuplicateOutcome,
    /// The operation is declined.
    Decline {
        /// ISO 20022 reason, `MS03` when absent.
        #[serde(default)]
        reason: Option<String>,
        /// For people.
        #[serde(default)]
        text: Option<String>,
    },
    /// The operation is pending and decided so much later.
    Slow {
        /// How much.
        ms: u64,
    },
    /// The hold is placed, and lasts no longer than this, whatever was asked for.
    ShortHold {
        /// From when it is placed.
        ms: u64,
    },
    /// So much less is booked on our reserve than was confirmed; more, if it is negative.
    Kept {
        /// In minor units.
        minor_units: i64,
    },
    /// The operation is confirmed, and never booked on our reserve.
    Unbooked,
    /// It is booked on our reserve twice.
    BookedTwice,
    /// It is booked, and sent back at once.
    Returned,
    /// It counts from so many days later.
    LateValue {
        /// How many.
        days: u32,
    },
    /// Entries are missing in the page, as if they had not been booked.
    PartialStatement {
        /// How many in a million.
        dropped_per_million: u32,
    },
}

/// When something goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// What.
    pub fault: Fault,
    /// Only for these; for everything when empty.
    #[serde(default)]
    pub targets: Vec<Target>,
    /// Only for operations on this account (IBAN, without blanks).
    #[serde(default)]
    pub account: Option<String>,
    /// How often, of those that apply.
    #[serde(default = "always")]
    pub per_million: u32,
    /// Only so many times.
    #[serde(default)]
    pub times_max: Option<u64>,
    /// Only for so long after the rule was made, by the bank's clock.
    #[serde(default)]
    pub duration_ms: Option<u64>,
}

const fn always() -> u32 {
    ALWAYS_PER_MILLION
}

impl FaultRule {
    /// `fault`, always and for everything.
    pub const fn always(fault: Fault) -> Self {
        Self {
            fault,
            targets: Vec::new(),
            account: None,
            per_million: ALWAYS_PER_MILLION,
            times_max: None,
            duration_ms: None,
        }
    }

    /// Only for these.
    #[must_use]
    pub fn only(mut self, targets: &[Target]) -> Self {
        self.targets = targets.to_vec();
        self
    }

    /// Only so many times.
    #[must_use]
    pub const fn times(mut self, times_max: u64) -> Self {
        self.times_max = Some(times_max);
        self
    }
}

/// Why a rule was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FaultRuleError {
    /// More often than always.
    #[error("a rate is at most 1000000 per million")]
    Rate,
    /// Not an ISO code.
    #[error("a reason is four upper-case letters or digits, such as AM04")]
    Reason,
    /// Too many rules.
    #[error("a bank has at most 256 rules")]
    TooMany,
}

/// What to do with one operation.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct OperationFaults {
    pub(crate) decline: Option<Decline>,
    pub(crate) slow: Option<Duration>,
    pub(crate) hold_lasts: Option<Duration>,
    pub(super) misbooking: Option<Misbooking>,
    pub(crate) omit: bool,
    pub(crate) duplicate: bool,
}

/// What to do with one request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestFaults {
    pub(crate) latency: Duration,
    pub(crate) unavailable_before: bool,
    pub(crate) unavailable_after: bool,
    /// Cut the connection after so long.
    pub(crate) lost_after: Option<Duration>,
    pub(crate) dropped_per_million: u32,
}

/// The rules of one bank.
#[derive(Debug)]
pub(crate) struct FaultPlan {
    seed: u64,
    rules: Mutex<Rules>,
}

#[derive(Debug, Default)]
struct Rules {
    last_id: u64,
    active: Vec<ActiveRule>,
}

#[derive(Debug)]
struct ActiveRule {
    id: u64,
    rule: FaultRule,
    ends_at: Option<Timestamp>,
    times: u64,
    random: StdRng,
}

/// A rule as the admin API shows it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RuleView {
    id: u64,
    /// How often it struck.
    times: u64,
    #[serde(flatten)]
    rule: FaultRule,
}

impl FaultPlan {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, rules: Mutex::default() }
    }

    pub(crate) fn add(&self, rule: FaultRule, now: Timestamp) -> Result<u64, FaultRuleError> {
        let rates = match &rule.fault {
            Fault::PartialStatement { dropped_per_million } => [rule.per_million, *dropped_per_million],
            Fault::Decline { reason: Some(reason), .. } if ReasonCode::parse(reason).is_none() => {
                return Err(FaultRuleError::Reason);
            }
            Fault::Latency { .. }
            | Fault::Unavailable { .. }
            | Fault::LostReply { .. }
            | Fault::OmitOutcome
            | Fault::DuplicateOutcome
            | Fault::Decline { .. }
            | Fault::Slow { .. }
            | Fault::ShortHold { .. }
            | Fault::Kept { .. }
            | Fault::Unbooked
            | Fault::BookedTwice
            | Fault::Returned
            | Fault::LateValue { .. } => [rule.per_million, 0],
        };
        if rates.iter().any(|rate| *rate > ALWAYS_PER_MILLION) {
            return Err(FaultRuleError::Rate);
        }
        let mut rules = self.rules();
        rules.active.retain(|active| active.is_live(now));
        if rules.active.len() >= RULES_MAX {
            return Err(FaultRuleError::TooMany);
        }
        rules.last_id += 1;
        let id = rules.last_id;
        let ends_at = rule.duration_ms.map(|ms| now.plus(Duration::from_millis(ms)));
        let random = StdRng::seed_from_u64(self.seed.wrapping_add(id.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        rules.active.push(ActiveRule { id, rule, ends_at, times: 0, random });
        Ok(id)
    }

    pub(crate) fn clear(&self) {
        self.rules().active.clear();
    }

    pub(crate) fn remove(&self, id: u64) -> bool {
        let mut rules = self.rules();
        let before = rules.active.len();
        rules.active.retain(|active| active.id != id);
        rules.active.len() < before
    }

    pub(crate) fn list(&self) -> Vec<RuleView> {
        let view =
            |active: &ActiveRule| RuleView { id: active.id, times: active.times, rule: active.rule.clone() };
        self.rules().active.iter().map(view).collect()
    }

    /// Draws for one operation.
    pub(crate) fn for_operation(
        &self,
        target: Target,
        account: Option<&str>,
        now: Timestamp,
    ) -> OperationFaults {
        let mut faults = OperationFaults::default();
        for active in &mut self.rules().active {
            if active.is_for_requests() || !active.strikes(&[(target, account)], now) {
                continue;
            }
            match &active.rule.fault {
                Fault::Decline { reason, text } => {
                    let reason = reason.as_deref().and_then(ReasonCode::parse);
                    faults.decline = Some(Decline {
                        reason: reason.unwrap_or(ReasonCode::NOT_SPECIFIED),
                        text: text.clone().unwrap_or_else(|| "declined on request".into()),
                    });
                }
                Fault::Slow { ms } => faults.slow = Some(Duration::from_millis(*ms)),
                Fault::ShortHold { ms } => faults.hold_lasts = Some(Duration::from_millis(*ms)),
                Fault::Kept { minor_units } => faults.misbooking = Some(Misbooking::Keep(*minor_units)),
                Fault::Unbooked => faults.misbooking = Some(Misbooking::Forget),
                Fault::BookedTwice => faults.misbooking = Some(Misbooking::Twice),
                Fault::Returned => faults.misbooking = Some(Misbooking::Return),
                Fault::LateValue { days } => faults.misbooking = Some(Misbooking::ValueAfter(*days)),
                Fault::OmitOutcome => faults.omit = true,
                Fault::DuplicateOutcome => faults.duplicate = true,
                Fault::Latency { .. }
                | Fault::Unavailable { .. }
                | Fault::LostReply { .. }
                | Fault::PartialStatement { .. } => {}
            }
        }
        faults
    }

    /// Draws for one request that carries these.
    pub(crate) fn for_request(&self, carried: &[(Target, Option<&str>)], now: Timestamp) -> RequestFaults {
        let mut faults = RequestFaults::default();
        for active in &mut self.rules().active {
            if !active.is_for_requests() || !active.strikes(carried, now) {
                continue;
            }
            match &active.rule.fault {
                Fault::Latency { ms, jitter_ms } => {
                    let jitter = active.random.random_range(0..=*jitter_ms);
                    faults.latency = faults.latency.max(Duration::from_millis(ms.saturating_add(jitter)));
                }
                Fault::Unavailable { after_execution: true } => faults.unavailable_after = true,
                Fault::Unavailable { after_execution: false } => faults.unavailable_before = true,
                Fault::LostReply { silent_ms } => faults.lost_after = Some(Duration::from_millis(*silent_ms)),
                Fault::PartialStatement { dropped_per_million } => {
                    faults.dropped_per_million = faults.dropped_per_million.max(*dropped_per_million);
                }
                Fault::OmitOutcome
                | Fault::DuplicateOutcome
                | Fault::Decline { .. }
                | Fault::Slow { .. }
                | Fault::ShortHold { .. }
                | Fault::Kept { .. }
                | Fault::Unbooked
                | Fault::BookedTwice
                | Fault::Returned
                | Fault::LateValue { .. } => {}
            }
        }
        faults
    }

    /// A draw of its own for each entry of a partial statement: the entry's number decides, so that it is the same each time.
    pub(crate) fn drops_entry(&self, sequence: u64, dropped_per_million: u32) -> bool {
        let mut random = StdRng::seed_from_u64(self.seed.wrapping_mul(31).wrapping_add(sequence));
        random.random_range(0..ALWAYS_PER_MILLION) < dropped_per_million
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ActiveRule {
    const fn is_for_requests(&self) -> bool {
        match self.rule.fault {
            Fault::Latency { .. }
            | Fault::Unavailable { .. }
            | Fault::LostReply { .. }
            | Fault::PartialStatement { .. } => true,
            Fault::OmitOutcome
            | Fault::DuplicateOutcome
            | Fault::Decline { .. }
            | Fault::Slow { .. }
            | Fault::ShortHold { .. }
            | Fault::Kept { .. }
            | Fault::Unbooked
            | Fault::BookedTwice
            | Fault::Returned
            | Fault::LateValue { .. } => false,
        }
    }

    fn is_live(&self, now: Timestamp) -> bool {
        self.ends_at.is_none_or(|end| now < end) && self.rule.times_max.is_none_or(|max| self.times < max)
    }

    fn strikes(&mut self, carried: &[(Target, Option<&str>)], now: Timestamp) -> bool {
        let applies = self.is_live(now)
            && carried.iter().any(|(target, account)| {
                (self.rule.targets.is_empty() || self.rule.targets.contains(target))
                    && self.rule.account.as_deref().is_none_or(|wanted| *account == Some(wanted))
            });
        let struck = applies && self.random.random_range(0..ALWAYS_PER_MILLION) < self.rule.per_million;
        self.times += u64::from(struck);
        struck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_000);

    fn declines(plan: &FaultPlan, operations: usize) -> Vec<bool> {
        (0..operations).map(|_| plan.for_operation(Target::Capture, None, NOW).decline.is_some()).collect()
    }

    #[test]
    fn the_same_seed_meets_the_same_faults() {
        let rule = FaultRule {
            per_million: 300_000,
            ..FaultRule::always(Fault::Decline { reason: None, text: None })
        };
        let of_seed = |seed| {
            let plan = FaultPlan::new(seed);
            plan.add(rule.clone(), NOW).unwrap();
            declines(&plan, 1_000)
        };
        assert_eq!(of_seed(7), of_seed(7));
        assert_ne!(of_seed(7), of_seed(8));
        let struck = of_seed(7).into_iter().filter(|declined| *declined).count();
        assert!((250..350).contains(&struck), "{struck} of 1000 at a rate of three in ten");
    }

    #[test]
    fn a_rule_ends_by_count_by_time_and_looks_at_step_and_account() {
        let plan = FaultPlan::new(1);
        let decline = Fault::Decline { reason: Some("AM04".into()), text: None };
        plan.add(FaultRule::always(decline.clone()).times(2), NOW).unwrap();
        assert_eq!(declines(&plan, 3), [true, true, false]);

        plan.clear();
        let rule = FaultRule {
            duration_ms: Some(500),
            ..FaultRule::always(decline.clone()).only(&[Target::Credit])
        };
        plan.add(FaultRule { account: Some("CH93".into()), ..rule }, NOW).unwrap();
        let struck = |target, account, now| plan.for_operation(target, account, now).decline.is_some();
        assert!(struck(Target::Credit, Some("CH93"), NOW));
        assert!(!struck(Target::Capture, Some("CH93"), NOW));
        assert!(!struck(Target::Credit, Some("DE89"), NOW));
        assert!(!struck(Target::Credit, Some("CH93"), NOW.plus(Duration::from_millis(500))));

        let wrong = FaultRule::always(Fault::Decline { reason: Some("nope".into()), text: None });
        assert_eq!(plan.add(wrong, NOW), Err(FaultRuleError::Reason));
    }
}
