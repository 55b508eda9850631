//! Payments on the wire.

use crate::json::Reader;
use crate::problem::Fault;
use flowbridge_domain::id::{AccountId, PaymentId};
use flowbridge_domain::money::{Currency, Money};
use flowbridge_domain::party::Iban;
use flowbridge_domain::payment::{Funding, Kind, Payout};
use flowbridge_domain::time::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

/// Longest `end_to_end_id`: ISO 20022 `Max35Text`.
const REFERENCE_CHARS_MAX: usize = 35;
/// Longest remittance information: ISO 20022 `Max140Text`.
const REMITTANCE_CHARS_MAX: usize = 140;

/// An amount: whole minor units of a currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Amount {
    /// Minor units, such as cents; at most 2^53 - 1.
    #[schema(example = 12_50, minimum = 1, maximum = 9007199254740991i64)]
    pub amount: i64,
    /// ISO 4217.
    #[schema(example = "EUR")]
    pub currency: String,
}

impl From<Money> for Amount {
    fn from(money: Money) -> Self {
        let amount = i64::try_from(money.minor_units()).unwrap_or(i64::MAX);
        Self { amount, currency: money.currency().code().to_owned() }
    }
}

/// An account as a request names it: by our id, or by its IBAN in the payment's currency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountName {
    /// By our id.
    Id(AccountId),
    /// By the bank account.
    Iban(Iban),
}

/// A request to pay.
#[derive(Debug, Clone)]
pub struct CreatePayment {
    /// What it is for.
    pub kind: Kind,
    /// Where the money comes from.
    pub funding: Funding,
    /// Where it goes.
    pub payout: Payout,
    /// Who pays.
    pub debtor: AccountName,
    /// Who is paid.
    pub creditor: AccountName,
    /// How much.
    pub amount: Money,
    /// What a refund says too.
    pub details: Details,
}

/// What every request to pay may say.
#[derive(Debug, Clone, Default)]
pub struct Details {
    /// The client's reference.
    pub end_to_end_id: Option<String>,
    /// The global tracking id.
    pub uetr: Option<Uuid>,
    /// What the debtor tells the creditor.
    pub remittance_information: Option<String>,
    /// On this day, UTC, soon after its beginning.
    pub requested_execution_date: Option<Timestamp>,
    /// Settled before.
    pub expires_at: Option<Timestamp>,
    /// An ERC-3009 signature.
    pub authorization: Option<Value>,
}

/// The body of `POST /v1/payments`, for the documentation.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "described, not built: requests are read strictly by hand")]
pub struct CreatePaymentBody {
    /// `transfer` (default), `issuance` or `redemption`
    #[schema(example = "transfer")]
    kind: Option<String>,
    /// `bank` (default) or `token`
    #[schema(example = "bank")]
    funding: Option<String>,
    /// `token` (default) or `bank`
    #[schema(example = "token")]
    payout: Option<String>,
    /// Who pays
    debtor: AccountNameBody,
    /// Who is paid
    creditor: AccountNameBody,
    /// How much the debtor pays
    instructed_amount: Amount,
    /// Your own reference, used once for ever; ISO 20022 `Max35Text`
    #[schema(example = "INVOICE-4711", max_length = 35)]
    end_to_end_id: Option<String>,
    /// The global tracking id, a UUIDv4; drawn if it is not given
    #[schema(format = "uuid")]
    uetr: Option<String>,
    /// ISO 20022 `Max140Text`
    #[schema(max_length = 140)]
    remittance_information: Option<String>,
    /// A day in the future is waited for, and the payment executed soon after its beginning, UTC, not all of a day at once; a day in the past is today, and one too far ahead is refused (more than 366 days, unless that is set otherwise)
    #[schema(format = "date", example = "2026-11-23")]
    requested_execution_date: Option<String>,
    /// Settled before this instant, or not at all
    #[schema(format = "date-time")]
    expires_at: Option<String>,
    /// The debtor's ERC-3009 `ReceiveWithAuthorization` to the settlement manager, instead of a standing allowance
    authorization: Option<AuthorizationBody>,
}

/// The body of `POST /v1/payments/{id}/refunds`, for the documentation.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "described, not built: requests are read strictly by hand")]
pub struct CreateRefundBody {
    /// How much to give back; all refunds together never exceed the payment
    instructed_amount: Amount,
    /// Your own reference, used once for ever
    #[schema(max_length = 35)]
    end_to_end_id: Option<String>,
    /// The global tracking id, a UUIDv4; drawn if it is not given
    #[schema(format = "uuid")]
    uetr: Option<String>,
    /// What the debtor of the refund tells its creditor
    #[schema(max_length = 140)]
    remittance_information: Option<String>,
    /// A day in the future is waited for, and the payment executed soon after its beginning, UTC, not all of a day at once; a day in the past is today, and one too far ahead is refused (more than 366 days, unless that is set otherwise)
    #[schema(format = "date", example = "2026-11-23")]
    requested_execution_date: Option<String>,
    /// Settled before this instant, or not at all
    #[schema(format = "date-time")]
    expires_at: Option<String>,
    /// Of a refund out of tokens: its debtor's ERC-3009 `ReceiveWithAuthorization` to the settlement manager, instead of a standing allowance
    authorization: Option<AuthorizationBody>,
}

/// An account, by one of its names.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "described, not built: requests are read strictly by hand")]
pub struct AccountNameBody {
    /// Our id
    #[schema(example = "acc_01h455vb4pex5vsknk084sn02q")]
    account_id: Option<String>,
    /// The bank account
    #[schema(example = "DE89370400440532013000")]
    iban: Option<String>,
}

/// An ERC-3009 signature.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "described, not built: requests are read strictly by hand")]
pub struct AuthorizationBody {
    /// Seconds since 1970
    valid_after: u64,
    /// Seconds since 1970
    valid_before: u64,
    /// 32 bytes, `0x` and hexadecimal
    nonce: String,
    /// 27 or 28
    v: u8,
    /// 32 bytes
    r: String,
    /// 32 bytes
    s: String,
}

impl CreatePayment {
    /// Reads a body.
    pub fn read(body: &Value) -> Result<Self, Vec<Fault>> {
        let mut reader = Reader::new(body);
        let kind = reader.text("kind", |text| match text {
            "transfer" => Ok(Kind::Transfer),
            "issuance" => Ok(Kind::Issuance),
            "redemption" => Ok(Kind::Redemption),
            _ => Err("transfer, issuance or redemption; a refund is made at its payment"),
        });
        let kind = kind.unwrap_or(Kind::Transfer);
        let by_kind = match kind {
            Kind::Redemption => (Funding::Token, Payout::Bank),
            Kind::Transfer | Kind::Issuance | Kind::Refund { .. } => (Funding::Bank, Payout::Token),
        };
        let funding = reader.text("funding", |text| Funding::parse(text).ok_or("bank or token"));
        let payout = reader.text("payout", |text| Payout::parse(text).ok_or("bank or token"));
        let debtor = reader.object("debtor", read_account);
        let debtor = reader.require("debtor", debtor);
        let creditor = reader.object("creditor", read_account);
        let creditor = reader.require("creditor", creditor);
        let amount = read_amount(&mut reader);
        let details = Details::read(&mut reader);
        let faults = reader.finish();
        match (debtor, creditor, amount, faults.is_empty()) {
            (Some(debtor), Some(creditor), Some(amount), true) => Ok(Self {
                kind,
                funding: funding.unwrap_or(by_kind.0),
                payout: payout.unwrap_or(by_kind.1),
                debtor,
                creditor,
                amount,
                details,
            }),
            _ => Err(faults),
        }
    }
}

/// Reads the body of a refund.
pub fn read_refund(body: &Value) -> Result<(Money, Details), Vec<Fault>> {
    let mut reader = Reader::new(body);
    let amount = read_amount(&mut reader);
    let details = Details::read(&mut reader);
    let faults = reader.finish();
    match (amount, faults.is_empty()) {
        (Some(amount), true) => Ok((amount, details)),
        _ => Err(faults),
    }
}

impl Details {
    fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            end_to_end_id: reader.text("end_to_end_id", |text| words(text, REFERENCE_CHARS_MAX)),
            uetr: reader.text("uetr", |text| match Uuid::parse_str(text) {
                Ok(uuid) if uuid.get_version_num() == 4 => Ok(uuid),
                Ok(_) | Err(_) => Err("a UUID of version 4"),
            }),
            remittance_information: reader
                .text("remittance_information", |text| words(text, REMITTANCE_CHARS_MAX)),
            requested_execution_date: reader.text("requested_execution_date", read_date),
            expires_at: reader.text("expires_at", read_instant),
            authorization: reader.object("authorization", read_authorization),
        }
    }
}

fn read_account(reader: &mut Reader<'_>) -> Option<AccountName> {
    let id = reader.text("account_id", AccountId::parse).map(AccountName::Id);
    let iban = reader.text("iban", Iban::parse).map(AccountName::Iban);
    match (id, iban) {
        (Some(_), Some(_)) => {
            reader.fault("iban", "not_valid", "either account_id or iban, not both");
            None
        }
        (Some(name), None) | (None, Some(name)) => Some(name),
        (None, None) => reader.require("account_id", None),
    }
}

fn read_amount(reader: &mut Reader<'_>) -> Option<Money> {
    let amount = reader.object("instructed_amount", |amount| {
        let units = amount.integer("amount");
        let units = amount.require("amount", units);
        let currency = amount.text("currency", Currency::parse);
        let currency = amount.require("currency", currency);
        let payable = Money::payable(units?.into(), currency?);
        payable.map_err(|error| amount.fault("amount", "not_valid", error.to_string())).ok()
    });
    reader.require("instructed_amount", amount)
}

fn read_authorization(reader: &mut Reader<'_>) -> Option<Value> {
    let word = |text: &str| {
        let digits = text.strip_prefix("0x").filter(|digits| digits.len() == 64);
        let valid = digits.is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        if valid { Ok(text.to_owned()) } else { Err("0x and 64 hexadecimal digits") }
    };
    let mut object = Map::new();
    // All are asked for before one that is missing ends it: what nobody asks for is told to be unknown.
    let numbers = ["valid_after", "valid_before", "v"].map(|name| {
        let number = reader.integer(name);
        if number.is_some_and(|number| number < 0 || name == "v" && !(27..=28).contains(&number)) {
            reader.fault(name, "not_valid", if name == "v" { "27 or 28" } else { "not negative" });
        }
        (name, reader.require(name, number).map(|number| json!(number)))
    });
    let words = ["nonce", "r", "s"].map(|name| {
        let word = reader.text(name, word);
        (name, reader.require(name, word).map(|word| json!(word)))
    });
    for (name, value) in numbers.into_iter().chain(words) {
        object.insert(name.to_owned(), value?);
    }
    Some(Value::Object(object))
}

/// A text of 1 to `chars_max` characters without control characters.
pub(crate) fn words(text: &str, chars_max: usize) -> Result<String, String> {
    let chars = text.chars().count();
    if chars == 0 || chars > chars_max || text.trim().is_empty() || text.chars().any(char::is_control) {
        return Err(format!("1 to {chars_max} printable characters"));
    }
    Ok(text.to_owned())
}

pub(crate) fn read_date(text: &str) -> Result<Timestamp, &'static str> {
    let wrong = "a date such as 2026-11-23";
    if text.len() != 10 { Err(wrong) } else { read_instant(&format!("{text}T00:00:00Z")).map_err(|_| wrong) }
}

/// An RFC 3339 instant.
pub fn read_instant(text: &str) -> Result<Timestamp, &'static str> {
    let instant: jiff::Timestamp = text.parse().map_err(|_| "an instant such as 2026-11-23T08:00:00Z")?;
    Ok(Timestamp::from_micros(instant.as_microsecond()))
}

/// An instant as RFC 3339 in UTC with milliseconds.
pub fn show_instant(instant: Timestamp) -> String {
    jiff::Timestamp::from_microsecond(instant.as_micros())
        .map_or_else(|_| "9999-12-31T23:59:59.999Z".to_owned(), |instant| format!("{instant:.3}"))
}

/// One end of a payment.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PartyBody {
    /// The account.
    pub account_id: String,
    /// The institution it is with.
    pub participant_id: String,
}

/// A payment.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PaymentBody {
    /// Its id.
    #[schema(example = "pay_01h455vb4pex5vsknk084sn02q")]
    pub id: String,
    /// Its number on chain.
    pub number: u64,
    /// `transfer`, `refund`, `issuance` or `redemption`.
    pub kind: &'static str,
    /// The payment that is refunded.
    pub refund_of: Option<String>,
    /// `bank` or `token`.
    pub funding: &'static str,
    /// `bank` or `token`.
    pub payout: &'static str,
    /// What the debtor pays.
    pub instructed_amount: Amount,
    /// What of it we keep, in minor units.
    pub fee: i64,
    /// What refunds have taken of it, in minor units.
    pub refunded: i64,
    /// Who pays.
    pub debtor: PartyBody,
    /// Who is paid.
    pub creditor: PartyBody,
    /// The client's reference.
    pub end_to_end_id: Option<String>,
    /// The global tracking id.
    pub uetr: String,
    /// What the debtor tells the creditor.
    pub remittance_information: Option<String>,
    /// `accepted`, `initiated`, `held`, `settled`, `cancelling`, `completed`, `failed` or `under_review`.
    pub state: &'static str,
    /// Why it is cancelling, failed or under review.
    pub reason: Option<String>,
    /// Since when it is in this state.
    pub state_since: String,
    /// When it was accepted.
    pub accepted_at: String,
    /// Not initiated before.
    pub execute_at: String,
    /// Settled before, or not at all.
    pub expires_at: String,
}

/// The id in a path, or a fault.
pub fn read_payment_id(text: &str) -> Result<PaymentId, Fault> {
    PaymentId::parse(text).map_err(|error| Fault::new("", "not_valid", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::parse;

    fn faults(body: &str) -> Vec<String> {
        let body = parse(body.as_bytes()).unwrap();
        let faults = CreatePayment::read(&body).unwrap_err();
        faults.into_iter().map(|fault| format!("{} {}", fault.pointer, fault.code)).collect()
    }

    #[test]
    fn a_request_is_read_whole() {
        let body = r#"{"debtor":{"iban":"DE89 3704 0044 0532 0130 00"},"creditor":{"account_id":"acc_01h455vb4pex5vsknk084sn02q"},
            "instructed_amount":{"amount":1250,"currency":"EUR"},"end_to_end_id":"INVOICE-1","requested_execution_date":"2026-11-24"}"#;
        let request = CreatePayment::read(&parse(body.as_bytes()).unwrap()).unwrap();
        assert_eq!(request.amount.to_string(), "12.50 EUR");
        assert_eq!((request.funding, request.payout), (Funding::Bank, Payout::Token));
        assert_eq!(
            show_instant(request.details.requested_execution_date.unwrap()),
            "2026-11-24T00:00:00.000Z"
        );
    }

    #[test]
    fn whatever_is_wrong_is_named_with_its_place() {
        let ok =
            r#""debtor":{"iban":"DE89370400440532013000"},"creditor":{"iban":"FR1420041010050500013M02606"}"#;
        let amount = |amount: &str| format!(r#"{{{ok},"instructed_amount":{amount}}}"#);
        assert_eq!(faults("{}"), ["/debtor missing", "/creditor missing", "/instructed_amount missing"]);
        assert_eq!(faults("[]"), [" wrong_type"]);
        for (wrong, fault) in [
            (r#"{"amount":0,"currency":"EUR"}"#, "/instructed_amount/amount not_valid"),
            (r#"{"amount":-1,"currency":"EUR"}"#, "/instructed_amount/amount not_valid"),
            (r#"{"amount":9007199254740992,"currency":"EUR"}"#, "/instructed_amount/amount not_valid"),
            (r#"{"amount":99999999999999999999,"currency":"EUR"}"#, "/instructed_amount/amount wrong_type"),
            (r#"{"amount":1.5,"currency":"EUR"}"#, "/instructed_amount/amount wrong_type"),
            (r#"{"amount":"1","currency":"EUR"}"#, "/instructed_amount/amount wrong_type"),
            (r#"{"amount":1,"currency":"XXX"}"#, "/instructed_amount/currency not_valid"),
            (r#"{"amount":1,"currency":"EUR","scale":2}"#, "/instructed_amount/scale unknown_member"),
            ("7", "/instructed_amount wrong_type"),
        ] {
            assert_eq!(faults(&amount(wrong)), [fault], "{wrong}");
        }
    }
}
