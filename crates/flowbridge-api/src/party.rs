//! Participants and accounts on the wire.

use crate::json::Reader;
use crate::payment::words;
use crate::problem::Fault;
use flowbridge_domain::id::ParticipantId;
use flowbridge_domain::money::Currency;
use flowbridge_domain::party::{BankCode, EvmAddress, Iban, Lei};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

const NAME_CHARS_MAX: usize = 140;

/// A request to register a participant.
#[derive(Debug, Clone)]
pub struct CreateParticipant {
    /// Its name.
    pub name: String,
    /// Its legal entity identifier.
    pub lei: Option<Lei>,
    /// What we keep, in ten-thousandths.
    pub fee_basis_points: u16,
}

/// The body of `POST /v1/participants`, for the documentation.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "described, not built: requests are read strictly by hand")]
pub struct CreateParticipantBody {
    /// Its name
    #[schema(max_length = 140)]
    name: String,
    /// ISO 17442
    lei: Option<String>,
    /// What we keep of what its customers are paid, in ten-thousandths; 0 if it is not given
    #[schema(maximum = 9999)]
    fee_basis_points: Option<u16>,
}

impl CreateParticipant {
    /// Reads a body.
    pub fn read(body: &Value) -> Result<Self, Vec<Fault>> {
        let mut reader = Reader::new(body);
        let name = reader.text("name", |text| words(text, NAME_CHARS_MAX));
        let name = reader.require("name", name);
        let lei = reader.text("lei", Lei::parse);
        let fee = reader.integer("fee_basis_points").unwrap_or(0);
        let fee_basis_points = u16::try_from(fee).ok().filter(|fee| *fee < 10_000);
        if fee_basis_points.is_none() {
            reader.fault("fee_basis_points", "not_valid", "0 to 9999");
        }
        let faults = reader.finish();
        match (name, fee_basis_points, faults.is_empty()) {
            (Some(name), Some(fee_basis_points), true) => Ok(Self { name, lei, fee_basis_points }),
            _ => Err(faults),
        }
    }
}

/// A request to suspend a participant.
#[derive(Debug, Clone)]
pub struct SuspendParticipant {
    /// Why.
    pub reason: String,
}

/// The body of `POST /v1/participants/{id}/suspend`, for the documentation.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "described, not built: requests are read strictly by hand")]
pub struct SuspendParticipantBody {
    /// Why; the participant and everybody who reads it sees this
    #[schema(max_length = 140)]
    reason: String,
}

impl SuspendParticipant {
    /// Reads a body.
    pub fn read(body: &Value) -> Result<Self, Vec<Fault>> {
        let mut reader = Reader::new(body);
        let reason = reader.text("reason", |text| words(text, NAME_CHARS_MAX));
        let reason = reader.require("reason", reason);
        let faults = reader.finish();
        match (reason, faults.is_empty()) {
            (Some(reason), true) => Ok(Self { reason }),
            _ => Err(faults),
        }
    }
}

/// A request to open an account.
#[derive(Debug, Clone)]
pub struct CreateAccount {
    /// Whose customer; the client's own participant if it is not given.
    pub participant: Option<ParticipantId>,
    /// The bank that keeps the bank account.
    pub bank: BankCode,
    /// Its currency.
    pub currency: Currency,
    /// The bank account.
    pub iban: Iban,
    /// The wallet.
    pub wallet: EvmAddress,
    /// The holder's name.
    pub name: String,
}

/// The body of `POST /v1/accounts`, for the documentation.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "described, not built: requests are read strictly by hand")]
pub struct CreateAccountBody {
    /// Only operators name it; a participant opens its own
    participant_id: Option<String>,
    /// The code of the bank that keeps the bank account
    #[schema(example = "alpha")]
    bank: String,
    /// ISO 4217
    #[schema(example = "EUR")]
    currency: String,
    /// The bank account
    #[schema(example = "DE89370400440532013000")]
    iban: String,
    /// The wallet; a guardian has to register it with the token
    #[schema(example = "0x00000000219ab540356cbb839cbe05303d7705fa")]
    wallet: String,
    /// The holder's name
    #[schema(max_length = 140)]
    name: String,
}

impl CreateAccount {
    /// Reads a body.
    pub fn read(body: &Value) -> Result<Self, Vec<Fault>> {
        let mut reader = Reader::new(body);
        let participant = reader.text("participant_id", ParticipantId::parse);
        let bank = reader.text("bank", BankCode::parse);
        let bank = reader.require("bank", bank);
        let currency = reader.text("currency", Currency::parse);
        let currency = reader.require("currency", currency);
        let iban = reader.text("iban", Iban::parse);
        let iban = reader.require("iban", iban);
        let wallet = reader.text("wallet", EvmAddress::parse);
        let wallet = reader.require("wallet", wallet);
        let name = reader.text("name", |text| words(text, NAME_CHARS_MAX));
        let name = reader.require("name", name);
        let faults = reader.finish();
        match (bank, currency, iban, wallet, name, faults.is_empty()) {
            (Some(bank), Some(currency), Some(iban), Some(wallet), Some(name), true) => {
                Ok(Self { participant, bank, currency, iban, wallet, name })
            }
            _ => Err(faults),
        }
    }
}

/// A participant.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ParticipantBody {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// ISO 17442.
    pub lei: Option<String>,
    /// `active` or `suspended`.
    pub status: &'static str,
    /// Why it is suspended.
    pub status_reason: Option<String>,
    /// What we keep, in ten-thousandths.
    pub fee_basis_points: u16,
    /// Since when.
    pub created_at: String,
}

/// An account.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AccountBody {
    /// Its id.
    pub id: String,
    /// The institution it is with.
    pub participant_id: String,
    /// The bank that keeps the bank account.
    pub bank: String,
    /// ISO 4217.
    pub currency: String,
    /// The bank account.
    pub iban: String,
    /// The wallet.
    pub wallet: String,
    /// The holder's name.
    pub name: String,
    /// `active` or `closed`.
    pub status: &'static str,
    /// Since when.
    pub created_at: String,
}

/// What an account's wallet has, in minor units.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct BalancesBody {
    /// ISO 4217.
    pub currency: String,
    /// Final.
    pub posted: i64,
    /// Reserved by holds.
    pub held: i64,
    /// What can still be used.
    pub available: i64,
}
