//! Refusals: RFC 9457 problems, each with a code that never changes and a page that says what to do.

use serde::Serialize;
use utoipa::ToSchema;

/// Where the pages are, below the public address.
pub const PAGES: &str = "/errors/";

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $status:literal, $code:literal, $title:literal;)+) => {
        /// Why a request is refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)+
        }

        impl ErrorCode {
            /// Every code there is.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The name of its page, such as `FB1001`.
            pub const fn number(self) -> &'static str {
                match self { $(Self::$name => $number,)+ }
            }

            /// The HTTP status.
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)+ }
            }

            /// The stable code in the body.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)+ }
            }

            /// The title.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)+ }
            }

            /// Its page: what it means and what to do, as Markdown.
            pub const fn page(self) -> &'static str {
                match self {
                    $(Self::$name => include_str!(concat!("../../../docs/errors/", $number, ".md")),)+
                }
            }
        }
    };
}

codes! {
    /// The body is not JSON, or not what the route takes.
    InvalidRequest = "FB1001", 400, "invalid_request", "The request cannot be read";
    /// A query parameter or path is not valid.
    InvalidParameter = "FB1002", 400, "invalid_parameter", "A parameter is not valid";
    /// The idempotency key is missing or malformed.
    IdempotencyKey = "FB1003", 400, "idempotency_key_invalid", "An Idempotency-Key is required";
    /// The paging cursor is not one of ours, or of another query.
    InvalidCursor = "FB1004", 400, "cursor_invalid", "The cursor is not valid for this query";
    /// No token, or not a valid one.
    Unauthenticated = "FB1101", 401, "unauthenticated", "A valid access token is required";
    /// The token does not allow this.
    Forbidden = "FB1102", 403, "insufficient_scope", "The access token does not allow this";
    /// Who proposes does not confirm.
    SecondPerson = "FB1103", 403, "second_person_required", "Somebody else has to confirm this";
    /// The client has used up its allowance of requests.
    QuotaExceeded = "FB1104", 429, "quota_exceeded", "The client asks for too much at once";
    /// There is none, or it is somebody else's.
    NotFound = "FB1201", 404, "not_found", "There is no such resource";
    /// The route does not know this method.
    MethodNotAllowed = "FB1202", 405, "method_not_allowed", "The resource does not know this method";
    /// The body is larger than the route takes.
    TooLarge = "FB1203", 413, "request_too_large", "The request is too large";
    /// The body is not declared as JSON.
    UnsupportedMediaType = "FB1204", 415, "unsupported_media_type", "The body has to be JSON";
    /// The same key is being worked on.
    InProgress = "FB1301", 409, "request_in_progress", "The same request is under way";
    /// The reference was used by another payment.
    ReferenceUsed = "FB1302", 409, "end_to_end_id_used", "The end_to_end_id has been used";
    /// The resource is past what is asked for.
    Conflict = "FB1303", 409, "conflict", "The resource is not in a state for this";
    /// The key was used for another request.
    KeyReused = "FB1304", 422, "idempotency_key_reused", "The Idempotency-Key was used for another request";
    /// No such debtor account, or not this client's.
    UnknownDebtor = "FB1401", 422, "debtor_account_unknown", "The debtor's account is not known";
    /// No such creditor account.
    UnknownCreditor = "FB1402", 422, "creditor_account_unknown", "The creditor's account is not known";
    /// An account is closed.
    AccountClosed = "FB1403", 422, "account_closed", "An account is closed";
    /// An institution is suspended.
    ParticipantSuspended = "FB1404", 422, "participant_suspended", "An institution is suspended";
    /// The kind of payment does not fit its accounts, funding or payout.
    WrongKind = "FB1405", 422, "kind_not_applicable", "The kind of payment does not fit";
    /// The tokens do not cover it.
    InsufficientFunds = "FB1406", 422, "insufficient_funds", "The funds do not cover the payment";
    /// Nothing would be left.
    FeeTooHigh = "FB1407", 422, "amount_below_fee", "Nothing would be left after the fee";
    /// It would expire before it can be settled.
    ExpiresTooSoon = "FB1408", 422, "expires_too_soon", "The payment would expire before it can be settled";
    /// No such payment to refund.
    UnknownOriginal = "FB1409", 422, "original_payment_unknown", "The payment to refund is not known";
    /// It cannot be refunded.
    NotRefundable = "FB1410", 422, "not_refundable", "The payment cannot be refunded";
    /// All refunds would exceed the payment.
    RefundTooHigh = "FB1411", 422, "refund_exceeds_payment", "All refunds together would exceed the payment";
    /// Not the accounts' currency.
    WrongCurrency = "FB1412", 422, "currency_mismatch", "The currency is not that of the accounts";
    /// An IBAN, wallet or LEI is another's.
    AlreadyExists = "FB1413", 409, "already_exists", "It exists already";
    /// A webhook endpoint cannot be what is asked.
    Webhook = "FB1501", 422, "webhook_refused", "The webhook endpoint cannot be so";
    /// Not a statement that we can read.
    StatementUnreadable = "FB1601", 422, "statement_unreadable", "The statement cannot be read";
    /// Its lines do not lead from its opening to its closing balance.
    StatementDoesNotAddUp = "FB1602", 422, "statement_does_not_add_up", "The statement does not add up";
    /// Another of that name is here.
    StatementNamedAlready = "FB1603", 409, "statement_named_already", "A statement of that name says something else";
    /// They come another way.
    StatementSource = "FB1604", 409, "statement_source", "The statements of this bank come another way";
    /// A motion cannot be put to the owners of the vault.
    VaultProposal = "FB1701", 422, "vault_proposal_refused", "The motion cannot be put to the owners";
    /// A signature is no owner's approval of this motion.
    VaultApproval = "FB1702", 422, "vault_approval_refused", "The signature is no owner's approval of this motion";
    /// Our fault.
    Internal = "FB1901", 500, "internal", "Something went wrong on our side";
    /// Too busy, or a part of us is not there.
    Unavailable = "FB1902", 503, "temporarily_unavailable", "The service is not available right now";
    /// It took too long.
    Timeout = "FB1903", 504, "timeout", "The request took too long";
}

/// What is wrong with a part of the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Fault {
    /// Where it is: a JSON pointer (RFC 6901); empty for the body as a whole.
    pub pointer: String,
    /// A stable code.
    pub code: &'static str,
    /// What is wrong, for people.
    pub detail: String,
}

impl Fault {
    /// A fault at `pointer`.
    pub fn new(pointer: &str, code: &'static str, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.to_owned(), code, detail: detail.into() }
    }
}

/// Where and when a problem came up: what its links are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occasion<'a> {
    /// Our public address, without a slash at its end.
    pub base: &'a str,
    /// The path that was asked for, without its query.
    pub path: &'a str,
    /// The trace of the request.
    pub trace_id: &'a str,
}

/// An RFC 9457 problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// The page that explains it.
    #[serde(rename = "type")]
    #[schema(format = "uri")]
    pub kind: String,
    /// What it is, in general.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What it is, in this case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What was asked for.
    #[schema(format = "uri-reference")]
    pub instance: String,
    /// A stable code.
    pub code: &'static str,
    /// The trace to name when asking us about it.
    pub trace_id: String,
    /// What is wrong with which part of the request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Fault>,
}

impl Problem {
    /// A problem of this code.
    pub fn new(code: ErrorCode, occasion: Occasion<'_>) -> Self {
        Self {
            kind: format!("{}{PAGES}{}", occasion.base, code.number()),
            title: code.title(),
            status: code.status(),
            detail: None,
            instance: occasion.path.to_owned(),
            code: code.code(),
            trace_id: occasion.trace_id.to_owned(),
            errors: Vec::new(),
        }
    }

    /// Says what it is in this case.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Says where it is.
    #[must_use]
    pub fn errors(mut self, errors: Vec<Fault>) -> Self {
        self.errors = errors;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::path::Path;

    #[test]
    fn every_code_is_unique_and_has_its_page() {
        let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors");
        let of_no_code = std::fs::read_dir(&pages).unwrap().count() - ErrorCode::ALL.len();
        assert_eq!(of_no_code, 0, "a page explains a code that there is no more");
        let mut seen = HashSet::new();
        for code in ErrorCode::ALL {
            assert!(seen.insert(code.number()) && seen.insert(code.code()), "{code:?} is not unique");
            let page = code.page();
            assert!(page.starts_with(&format!("# {}: `{}`", code.number(), code.code())), "{page}");
            assert!(page.contains("## What to do"), "{}", code.number());
        }
    }
}
