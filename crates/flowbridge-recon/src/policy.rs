//! When a kind of match may be posted without a person, and when it may not any more.
//!
//! Each segment (account, rail, kind of match) begins in the shadow, is then shown to people, and is posted alone only
//! when their decisions prove it: the exact upper bound (Clopper and Pearson, 95 %) of its error rate must be at most one
//! in a thousand, which takes 2,995 decisions without an error. Only decisions of people count, never what the engine
//! posted itself. A random share of what is posted goes to people all the same, and a segment whose bound breaks there
//! falls back at once. Pure: the caller keeps the counts.

use crate::calibrate::error_rate_up;
use crate::engine::Decision;
use crate::text;
use serde::{Deserialize, Serialize};

/// Greatest error rate that may remain possible.
pub const ERROR_RATE_MAX: f64 = 0.001;
const CONFIDENCE: f64 = 0.95;
/// Decisions before a segment is shown to people.
const SHADOW_DECISIONS_MIN: u64 = 200;
/// Errors that are possible with 95 % confidence before a segment leaves the shadow.
const SHADOW_ERROR_RATE_MAX: f64 = 0.05;
/// Audited matches after which a breach is believed.
const AUDITED_MIN: u64 = 50;

/// What a segment may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Judged, counted, not shown.
    Shadow,
    /// Shown to people.
    Suggest,
    /// Posted without a person.
    Auto,
}

/// What people decided about a segment's matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Decided {
    /// Decided by people.
    pub count: u64,
    /// Of these, wrong.
    pub errors: u64,
    /// Posted alone and then audited by people, since the last promotion.
    pub audited: u64,
    /// Of these, wrong.
    pub audit_errors: u64,
}

/// The stage that decisions allow next. One step up at a time; down at once.
pub fn next_stage(now: Stage, decided: Decided) -> Stage {
    let bound = error_rate_up(decided.errors, decided.count, CONFIDENCE);
    // An audit refutes a segment when even the lower bound of its error rate is too high.
    let audited_well = 1.0
        - error_rate_up(decided.audited.saturating_sub(decided.audit_errors), decided.audited, CONFIDENCE);
    let is_refuted =
        decided.audited >= AUDITED_MIN && decided.audit_errors > 0 && audited_well > ERROR_RATE_MAX;
    match now {
        Stage::Shadow if decided.count >= SHADOW_DECISIONS_MIN && bound <= SHADOW_ERROR_RATE_MAX => {
            Stage::Suggest
        }
        Stage::Suggest if bound <= ERROR_RATE_MAX && !is_refuted => Stage::Auto,
        Stage::Auto if is_refuted || bound > ERROR_RATE_MAX => Stage::Suggest,
        Stage::Shadow | Stage::Suggest | Stage::Auto => now,
    }
}

/// Limits that hold in every segment, whatever it has proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caps {
    /// Above this nothing is posted without a person.
    pub posted_minor_units_max: u128,
    /// Above this one person is not enough.
    pub one_person_minor_units_max: u128,
    /// How many in a million of what was posted are looked at all the same; 10,000 to 20,000 is usual.
    pub audit_ppm: u32,
}

/// Where a match goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    /// Counted, shown to nobody.
    Shadow,
    /// One person decides.
    Person,
    /// One person proposes, another confirms.
    FourEyes,
    /// Posted.
    Posted,
    /// Posted, and a person looks at it afterwards.
    PostedAndAudited,
}

/// Where a match goes: by what its segment may do, by what the engine is sure of, by its amount, and by lot.
pub fn route(
    stage: Stage,
    decision: Decision,
    minor_units: i128,
    caps: Caps,
    (match_id, secret): (&str, u64),
) -> Route {
    let size = minor_units.unsigned_abs();
    let by_people = if size > caps.one_person_minor_units_max { Route::FourEyes } else { Route::Person };
    match (stage, decision) {
        (Stage::Shadow, _) => Route::Shadow,
        (Stage::Suggest, _) | (Stage::Auto, Decision::Suggest) => by_people,
        (Stage::Auto, Decision::Auto) if size > caps.posted_minor_units_max => by_people,
        (Stage::Auto, Decision::Auto) if is_audited(match_id, secret, caps.audit_ppm) => {
            Route::PostedAndAudited
        }
        (Stage::Auto, Decision::Auto) => Route::Posted,
    }
}

/// Does a posted match go to a person all the same? A fixed share, chosen by the match and a secret of the run, so that
/// nobody can tell beforehand and everybody can check afterwards.
pub fn is_audited(match_id: &str, secret: u64, audit_ppm: u32) -> bool {
    let mut bytes = match_id.as_bytes().to_vec();
    bytes.extend_from_slice(&secret.to_le_bytes());
    let hash = text::hash64(&bytes).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    u128::from(hash) * 1_000_000 < u128::from(audit_ppm) << 32
}
