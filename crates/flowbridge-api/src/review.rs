//! Decisions on payments under review, on the wire.

use crate::json::Reader;
use crate::payment::words;
use crate::problem::Fault;
use flowbridge_domain::payment::Decision;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

const NOTE_CHARS_MAX: usize = 500;

/// A request to propose a decision.
#[derive(Debug, Clone)]
pub struct ProposeReview {
    /// What is to be done.
    pub decision: Decision,
    /// Why.
    pub note: String,
}

/// The body of `POST /v1/payments/{id}/reviews`, for the documentation.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "described, not built: requests are read strictly by hand")]
pub struct ProposeReviewBody {
    /// `resume`: go on from where it stands. `cancel`: undo it on chain and at the bank. `close_completed`, `close_failed`: dealt
    /// with by hand, and counted so; what the chain still has in escrow for a failed one is given back
    #[schema(example = "resume")]
    decision: String,
    /// Why, for those who read it later
    #[schema(max_length = 500)]
    note: String,
}

impl ProposeReview {
    /// Reads a body.
    pub fn read(body: &Value) -> Result<Self, Vec<Fault>> {
        let mut reader = Reader::new(body);
        let decision = reader.text("decision", |text| {
            Decision::parse(text).ok_or("resume, cancel, close_completed or close_failed")
        });
        let decision = reader.require("decision", decision);
        let note = reader.text("note", |text| words(text, NOTE_CHARS_MAX));
        let note = reader.require("note", note);
        let faults = reader.finish();
        match (decision, note, faults.is_empty()) {
            (Some(decision), Some(note), true) => Ok(Self { decision, note }),
            _ => Err(faults),
        }
    }
}

/// A proposal, and what a second person said to it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ReviewBody {
    /// Its id.
    pub id: String,
    /// The payment.
    pub payment_id: String,
    /// `resume`, `cancel`, `close_completed` or `close_failed`.
    pub decision: &'static str,
    /// Why.
    pub note: String,
    /// `proposed`, `confirmed` or `rejected`.
    pub state: &'static str,
    /// The client who proposed it.
    pub proposed_by: String,
    /// When.
    #[schema(format = DateTime)]
    pub proposed_at: String,
    /// The client who confirmed or rejected it.
    pub answered_by: Option<String>,
    /// When.
    #[schema(format = DateTime)]
    pub answered_at: Option<String>,
}
