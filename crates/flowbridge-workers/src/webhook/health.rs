//! What an attempt means for its endpoint: a circuit breaker, and the end of patience.
//!
//! The breaker is for receivers that do not answer. After a few attempts in a row without an answer the endpoint is left
//! alone for a pause that doubles, then tried with one delivery; any answer closes the breaker again. Attempts that were under
//! way when a pause began do not count: many at once are one silence, not many. One that answers, but
//! refuses (500), is well: only those deliveries wait for their next attempt, and newer ones are not held up by them. A
//! receiver that asks for a pause (429, 502, 503, 504, `Retry-After`) gets it, whatever it still takes of what was under way. An
//! endpoint is disabled when it says that it is gone (410), when deliveries in a row were given up, or when nothing has succeeded
//! for days. What comes in late from an address that the endpoint no longer has says nothing about it: the caller leaves it out.
//! Decided here, in memory, on rows that the caller has locked.

use flowbridge_domain::time::Timestamp;
use flowbridge_store::webhook::EndpointHealth;
use std::time::Duration;

/// When an endpoint is left alone, and when for good.
#[derive(Debug, Clone)]
pub struct Patience {
    /// From this many attempts in a row without an answer on, one delivery at a time with pauses between.
    pub unanswered_until_pause: i32,
    /// The first pause; each further attempt without an answer doubles it.
    pub pause: Duration,
    /// The longest pause, whoever asks for it.
    pub pause_max: Duration,
    /// Disable after this many deliveries in a row were given up.
    pub exhausted_until_disabled: i32,
    /// Disable when nothing has succeeded for so long.
    pub failing_until_disabled: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            unanswered_until_pause: 5,
            pause: Duration::from_secs(1),
            pause_max: Duration::from_secs(3_600),
            exhausted_until_disabled: 5,
            failing_until_disabled: Duration::from_secs(5 * 24 * 3_600),
        }
    }
}

/// What the receiver made of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Taken: a status from 200 to 299.
    Delivered,
    /// Answered, but not taken.
    Refused,
    /// No answer, or none in time.
    Unanswered,
    /// Not taken now: a pause is asked for, of this length if it says so.
    Throttled(Option<Duration>),
    /// The endpoint is no more.
    Gone,
}

impl Answer {
    /// Its name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Refused => "refused",
            Self::Unanswered => "unanswered",
            Self::Throttled(_) => "throttled",
            Self::Gone => "gone",
        }
    }
}

/// Changes an endpoint's health by one answer; `exhausted` when the delivery was given up with it.
pub(crate) fn learn(
    health: &mut EndpointHealth,
    answer: Answer,
    exhausted: bool,
    patience: &Patience,
    now: Timestamp,
) {
    let answered = match answer {
        Answer::Delivered => {
            health.failure_streak = 0;
            health.unanswered_streak = 0;
            health.exhausted_streak = 0;
            health.failing_since = None;
            // What it asked for lasts; the breaker's pause ends with its silence.
            health.asked_until = health.asked_until.filter(|until| now < *until);
            health.paused_until = health.asked_until;
            return;
        }
        Answer::Gone => {
            health.disabled_reason = Some("the receiver answered 410 Gone".to_owned());
            true
        }
        Answer::Refused => true,
        Answer::Unanswered | Answer::Throttled(_) => false,
    };
    health.failure_streak = health.failure_streak.saturating_add(1);
    let is_paused = health.paused_until.is_some_and(|until| now < until);
    if answered {
        health.unanswered_streak = 0;
    } else if !is_paused {
        health.unanswered_streak = health.unanswered_streak.saturating_add(1);
    }
    let since = *health.failing_since.get_or_insert(now);
    let until = |pause: Duration| now.plus(pause.min(patience.pause_max));
    if let Answer::Throttled(asked) = answer {
        health.asked_until = health.asked_until.max(Some(until(asked.unwrap_or(patience.pause))));
    }
    let silent_until = breaker_pause(health.unanswered_streak, patience).map(until);
    health.paused_until = health.paused_until.max(health.asked_until).max(silent_until);
    if exhausted {
        health.exhausted_streak = health.exhausted_streak.saturating_add(1);
    }
    if health.disabled_reason.is_none() {
        health.disabled_reason = if health.exhausted_streak >= patience.exhausted_until_disabled {
            Some(format!("{} deliveries in a row were given up", health.exhausted_streak))
        } else if now.since(since) >= patience.failing_until_disabled {
            Some(format!("every attempt has failed for {} hours", now.since(since).as_secs() / 3_600))
        } else {
            None
        };
    }
}

/// The breaker's pause after so many attempts in a row without an answer.
fn breaker_pause(streak: i32, patience: &Patience) -> Option<Duration> {
    let beyond = u32::try_from(streak.saturating_sub(patience.unanswered_until_pause)).ok()?;
    // Some minutes at most: what comes back is noticed soon.
    Some(patience.pause.saturating_mul(1 << beyond.min(8)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowbridge_domain::id::WebhookEndpointId;
    use flowbridge_store::webhook::EndpointOwner;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn healthy() -> EndpointHealth {
        EndpointHealth {
            id: WebhookEndpointId::generate(NOW, [1; 10]),
            owner: EndpointOwner::Operator,
            failure_streak: 0,
            unanswered_streak: 0,
            exhausted_streak: 0,
            failing_since: None,
            paused_until: None,
            asked_until: None,
            address_version: 0,
            disabled_reason: None,
        }
    }

    #[test]
    fn pauses_begin_after_some_silence_double_and_end_with_an_answer() {
        let patience = Patience { unanswered_until_pause: 2, ..Patience::default() };
        let mut health = healthy();
        let mut now = NOW;
        let pauses: Vec<_> = (0..4)
            .map(|_| {
                now = health.paused_until.unwrap_or(now);
                learn(&mut health, Answer::Unanswered, false, &patience, now);
                health.paused_until.map(|until| until.since(now).as_secs())
            })
            .collect();
        assert_eq!(pauses, [None, Some(1), Some(2), Some(4)]);
        let later = now.plus(Duration::from_secs(4));
        learn(&mut health, Answer::Refused, false, &patience, later);
        assert_eq!((health.unanswered_streak, health.failure_streak), (0, 5));
        assert!(health.paused_until <= Some(later), "one that answers is not left alone");
        learn(&mut health, Answer::Delivered, false, &patience, later);
        assert_eq!(health, healthy());
    }

    #[test]
    fn what_was_under_way_when_a_pause_began_does_not_lengthen_it() {
        let mut health = healthy();
        for _ in 0..32 {
            learn(&mut health, Answer::Unanswered, false, &Patience::default(), NOW);
        }
        assert_eq!(health.paused_until, Some(NOW.plus(Duration::from_secs(1))));
    }

    #[test]
    fn a_receiver_gets_the_pause_it_asks_for_but_not_for_ever() {
        let mut health = healthy();
        let asks = |secs| Answer::Throttled(Some(Duration::from_secs(secs)));
        learn(&mut health, asks(90), false, &Patience::default(), NOW);
        assert_eq!(health.paused_until, Some(NOW.plus(Duration::from_secs(90))));
        learn(&mut health, asks(1_000_000), false, &Patience::default(), NOW);
        assert_eq!(health.paused_until, Some(NOW.plus(Patience::default().pause_max)));
    }

    #[test]
    fn what_is_taken_meanwhile_ends_the_breaker_s_pause_and_not_the_one_that_was_asked_for() {
        let (patience, asked) = (Patience::default(), Duration::from_secs(90));
        let mut health = healthy();
        learn(&mut health, Answer::Throttled(Some(asked)), false, &patience, NOW);
        learn(&mut health, Answer::Delivered, false, &patience, NOW);
        assert_eq!((health.failure_streak, health.paused_until), (0, Some(NOW.plus(asked))));
        learn(&mut health, Answer::Delivered, false, &patience, NOW.plus(asked));
        assert_eq!(health, healthy());

        for _ in 0..patience.unanswered_until_pause {
            learn(&mut health, Answer::Unanswered, false, &patience, NOW);
        }
        assert!(health.paused_until > Some(NOW));
        learn(&mut health, Answer::Delivered, false, &patience, NOW);
        assert_eq!(health, healthy());
    }

    #[test]
    fn patience_ends_with_gone_with_deliveries_given_up_and_with_days_of_failure() {
        let patience = Patience { exhausted_until_disabled: 2, ..Patience::default() };
        let mut gone = healthy();
        learn(&mut gone, Answer::Gone, false, &patience, NOW);
        assert!(gone.disabled_reason.is_some());

        let mut given_up = healthy();
        learn(&mut given_up, Answer::Refused, true, &patience, NOW);
        assert_eq!(given_up.disabled_reason, None);
        learn(&mut given_up, Answer::Refused, true, &patience, NOW);
        assert!(given_up.disabled_reason.is_some());

        let mut failing = healthy();
        learn(&mut failing, Answer::Refused, false, &patience, NOW);
        learn(&mut failing, Answer::Refused, false, &patience, NOW.plus(patience.failing_until_disabled));
        assert!(failing.disabled_reason.is_some());
    }
}
