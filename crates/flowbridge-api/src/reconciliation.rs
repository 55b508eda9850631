//! Reconciliation on the wire: what operators ask for, propose and decide.

use crate::json::Reader;
use crate::payment::words;
use crate::problem::Fault;
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
    /// For `rematch`: the journal entry (`pay_…/captured/0`) or statement line (`sti_…`) that it belongs to
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
