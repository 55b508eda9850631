//! Reconciliation on the wire: what operators ask for, propose and decide.

use crate::json::Reader;
use crate::payment::{read_date, words};
use crate::problem::Fault;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

const REASON_CHARS_MAX: usize = 500;
const COMMENT_CHARS_MAX: usize = 2_000;
const NAME_CHARS_MAX: usize = 100;
const DECISIONS: [&str; 4] = ["accept", "reject", "rematch", "write_off"];

/// The body of `POST /v1/reconciliations`, for the documentation.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "described, not built: requests are read strictly by hand")]
pub struct AskReconciliationBody {
    /// A bank's code, or `chain:EUR`; without it, every one
    #[schema(example = "alpha", required = false, max_length = 100)]
    scope: Option<String>,
}

/// Reads the body of `POST /v1/reconciliations`: the scope, if one is named.
pub fn read_ask(body: &Value) -> Result<Option<String>, Vec<Fault>> {
    let mut reader = Reader::new(body);
    let scope = reader.text("scope", |text| words(text, NAME_CHARS_MAX));
    let faults = reader.finish();
    if faults.is_empty() { Ok(scope) } else { Err(faults) }
}

/// A proposal on an exception.
#[derive(Debug, Clone)]
pub struct ProposeDecision {
    /// `accept`, `reject`, `rematch` or `write_off`.
    pub decision: String,
    /// The record that it belongs to, for a rematch.
    pub partner: Option<String>,
    /// Why.
    pub reason: String,
}

/// The body of `POST /v1/exceptions/{id}/decisions`, for the documentation.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "described, not built: requests are read strictly by hand")]
pub struct ProposeDecisionBody {
    /// `accept`: post the proposed entry, or take the suggested match. `reject`: nothing is to be done. `rematch`: it belongs to
    /// `partner`. `write_off`: post it to bank charges
    #[schema(example = "accept")]
    decision: String,
    /// For `rematch`: the journal entry (`pay_…/captured/0`) or statement line (`sti_…`, such as the exception suggests) that it
    /// belongs to
    #[schema(required = false, max_length = 100)]
    partner: Option<String>,
    /// Why, for those who read it later
    #[schema(max_length = 500)]
    reason: String,
}

impl ProposeDecision {
    /// Reads a body.
    pub fn read(body: &Value) -> Result<Self, Vec<Fault>> {
        let mut reader = Reader::new(body);
        let decision = reader.text("decision", |text| {
            if DECISIONS.contains(&text) {
                Ok(text.to_owned())
            } else {
                Err("accept, reject, rematch or write_off")
            }
        });
        let decision = reader.require("decision", decision);
        let partner = reader.text("partner", |text| words(text, NAME_CHARS_MAX));
        let reason = reader.text("reason", |text| words(text, REASON_CHARS_MAX));
        let reason = reader.require("reason", reason);
        if decision.as_deref() == Some("rematch") && partner.is_none() {
            reader.fault("partner", "required", "a rematch names the record that it belongs to");
        }
        let faults = reader.finish();
        match (decision, reason, faults.is_empty()) {
            (Some(decision), Some(reason), true) => Ok(Self { decision, partner, reason }),
            _ => Err(faults),
        }
    }
}

/// The body of `POST /v1/exceptions/{id}/comments`, for the documentation.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "described, not built: requests are read strictly by hand")]
pub struct CommentOnBody {
    /// What
    #[schema(max_length = 2000)]
    text: String,
}

/// Reads a comment.
pub fn read_comment(body: &Value) -> Result<String, Vec<Fault>> {
    one_text(body, "text", COMMENT_CHARS_MAX)
}

/// The body of `POST /v1/exceptions/{id}/assign`, for the documentation.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "described, not built: requests are read strictly by hand")]
pub struct AssignBody {
    /// Who works on it
    #[schema(max_length = 100)]
    to: String,
}

/// Reads who is to work on it.
pub fn read_assign(body: &Value) -> Result<String, Vec<Fault>> {
    one_text(body, "to", NAME_CHARS_MAX)
}

/// The body of `POST /v1/breaker/reset`, for the documentation.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "described, not built: requests are read strictly by hand")]
pub struct ResetBody {
    /// Why minting and payouts may go on
    #[schema(max_length = 500)]
    reason: String,
}

/// Reads why the breaker is to be reset.
pub fn read_reset(body: &Value) -> Result<String, Vec<Fault>> {
    one_text(body, "reason", REASON_CHARS_MAX)
}

/// What one model does on decisions that it has not seen: shares from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelJudgement {
    /// Share of the true pairs that it would post
    pub coverage: f64,
    /// Share of right ones among those
    pub precision: f64,
    /// What the count of those does not exclude: exact, one-sided 95 %
    pub precision_down: f64,
    /// Share of the true pairs at the lowest threshold where at most one pair in a thousand is wrong
    pub coverage_at_999: f64,
}

/// A new model beside the one in force, on decisions that neither has learned from: what `flowbridge recon retrain` measures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelComparison {
    /// The day that parts what was learned from and what was judged
    #[schema(format = Date, max_length = 10)]
    pub split_on: String,
    /// Decisions learned from
    pub learned: u32,
    /// Pairs judged
    pub judged: u32,
    /// The model in force
    pub champion: ModelJudgement,
    /// The new one
    pub challenger: ModelJudgement,
    /// Does the new one post more, and stay above 99.9 %?
    pub is_better: bool,
}

/// The body of `POST /v1/reconciliation-models/{model}/proposals`, for the documentation.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "described, not built: requests are read strictly by hand")]
pub struct ProposeModelBody {
    /// The model that is in force, with which the proposed one was compared: SHA-256 of its file in hexadecimal
    #[schema(min_length = 64, max_length = 64, pattern = "^[0-9a-f]{64}$")]
    champion: String,
    /// What was measured of both; only a model that was in force before is proposed without
    #[schema(required = false)]
    comparison: Option<ModelComparison>,
    /// Why, for those who read it later
    #[schema(max_length = 500)]
    reason: String,
}

/// A proposal that a model come into force.
#[derive(Debug, Clone)]
pub struct ProposeModel {
    /// The model that is in force.
    pub champion: String,
    /// What was measured of both.
    pub comparison: Option<ModelComparison>,
    /// Why.
    pub reason: String,
}

impl ProposeModel {
    /// Reads a body.
    pub fn read(body: &Value) -> Result<Self, Vec<Fault>> {
        let mut reader = Reader::new(body);
        let champion = reader.text("champion", read_model);
        let champion = reader.require("champion", champion);
        let comparison = reader.value("comparison").and_then(|given| match read_comparison(given) {
            Ok(comparison) => Some(comparison),
            Err(why) => {
                reader.fault("comparison", "not_valid", why);
                None
            }
        });
        let reason = reader.text("reason", |text| words(text, REASON_CHARS_MAX));
        let reason = reader.require("reason", reason);
        let faults = reader.finish();
        match (champion, reason, faults.is_empty()) {
            (Some(champion), Some(reason), true) => Ok(Self { champion, comparison, reason }),
            _ => Err(faults),
        }
    }
}

/// Reads what a model is known by: the SHA-256 of its file, in lower case.
pub fn read_model(text: &str) -> Result<String, &'static str> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() == 64 && text.bytes().all(is_digit) {
        Ok(text.to_owned())
    } else {
        Err("a model is known by 64 hexadecimal digits in lower case")
    }
}

fn read_comparison(given: &Value) -> Result<ModelComparison, String> {
    let comparison = ModelComparison::deserialize(given).map_err(|error| error.to_string())?;
    read_date(&comparison.split_on)?;
    let shares = [comparison.champion, comparison.challenger].map(
        |ModelJudgement { coverage, precision, precision_down, coverage_at_999 }| {
            [coverage, precision, precision_down, coverage_at_999]
        },
    );
    if shares.iter().flatten().all(|share| (0.0..=1.0).contains(share)) {
        Ok(comparison)
    } else {
        Err("every share is from 0 to 1".to_owned())
    }
}

fn one_text(body: &Value, name: &'static str, chars_max: usize) -> Result<String, Vec<Fault>> {
    let mut reader = Reader::new(body);
    let text = reader.text(name, |text| words(text, chars_max));
    let text = reader.require(name, text);
    let faults = reader.finish();
    match (text, faults.is_empty()) {
        (Some(text), true) => Ok(text),
        _ => Err(faults),
    }
}
