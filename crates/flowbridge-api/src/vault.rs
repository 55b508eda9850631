//! Motions that are put to the owners of the vault, on the wire.

use crate::json::Reader;
use crate::payment::words;
use crate::problem::Fault;
use flowbridge_domain::party::EvmAddress;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

const NOTE_CHARS_MAX: usize = 500;
const SIGNATURE_BYTES: usize = 65;

/// A call that a motion makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedCall {
    /// The contract or wallet.
    pub to: EvmAddress,
    /// Coins to send with it, in wei.
    pub value: u128,
    /// The calldata.
    pub data: Vec<u8>,
}

/// A request to put a motion to the owners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProposeMotion {
    /// The calls to make; `None`: use the nonce up and do nothing.
    pub calls: Option<Vec<WantedCall>>,
    /// The vault's nonce for it; `None`: the next that is free.
    pub nonce: Option<u64>,
    /// Void from this block time on, in seconds; `None`: a week after the vault's delay.
    pub deadline: Option<u64>,
    /// Why.
    pub note: String,
}

/// The body of `POST /v1/vault/proposals`, for the documentation.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "described, not built: requests are read strictly by hand")]
pub struct ProposeMotionBody {
    /// `operation`: make the calls, all or none. `cancellation`: use the nonce up, whatever was scheduled or signed for it
    #[schema(example = "operation")]
    kind: String,
    /// Of an operation: 1 to 32
    calls: Option<Vec<WantedCallBody>>,
    /// The vault's nonce; without it the next that no open proposal has
    #[schema(example = 3)]
    nonce: Option<u64>,
    /// Void from this block time on, in seconds since 1970, after the vault's delay; without it a week after that
    #[schema(example = 1_900_000_000)]
    deadline: Option<u64>,
    /// Why, for those who read it later
    #[schema(max_length = 500)]
    note: String,
}

/// A call, for the documentation.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "described, not built: requests are read strictly by hand")]
pub struct WantedCallBody {
    /// The contract or wallet
    #[schema(example = "0x5fbdb2315678afecb367f032d93f642f64180aa3")]
    to: String,
    /// Coins to send with it, in wei, as decimal digits; without it none
    #[schema(example = "0")]
    value: Option<String>,
    /// The calldata, in hexadecimal; without it empty
    #[schema(example = "0x5c975abb")]
    data: Option<String>,
}

/// A request to add an owner's approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApproveMotion {
    /// The signature over the motion's digest.
    pub signature: Vec<u8>,
}

/// The body of `POST /v1/vault/proposals/{id}/approvals`, for the documentation.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "described, not built: requests are read strictly by hand")]
pub struct ApproveMotionBody {
    /// What `eth_signTypedData_v4` gave for the proposal's `typed_data`: r, s and v, 65 bytes in hexadecimal
    signature: String,
}

impl ProposeMotion {
    /// Reads a body. A motion makes `calls_max` calls with `calldata_bytes_max` bytes each at most.
    pub fn read(body: &Value, calls_max: usize, calldata_bytes_max: usize) -> Result<Self, Vec<Fault>> {
        let mut reader = Reader::new(body);
        let kind = reader.text("kind", |text| match text {
            "operation" => Ok(true),
            "cancellation" => Ok(false),
            _ => Err("operation or cancellation"),
        });
        let is_operation = reader.require("kind", kind);
        let calls = reader.objects("calls", |call| {
            let to = call.text("to", EvmAddress::parse);
            let to = call.require("to", to);
            let value = match call.value("value") {
                None => Some(0),
                Some(_) => call.text("value", |text| {
                    text.parse::<u128>().map_err(|_| "wei as decimal digits, within 128 bits")
                }),
            };
            let data = match call.value("data") {
                None => Some(vec![]),
                Some(_) => call.text("data", |text| hexadecimal(text, calldata_bytes_max)),
            };
            Some(WantedCall { to: to?, value: value?, data: data? })
        });
        // Calls that cannot be read are missing here, and have faults of their own.
        let is_empty = reader.value("calls").and_then(Value::as_array).is_some_and(Vec::is_empty);
        match (is_operation, &calls) {
            (Some(true), Some(calls)) if is_empty || calls.len() > calls_max => {
                reader.fault("calls", "not_valid", format!("1 to {calls_max} calls"));
            }
            (Some(true), None) => {
                reader.require("calls", None::<()>);
            }
            (Some(false), Some(_)) => reader.fault("calls", "not_valid", "a cancellation makes none"),
            (Some(true) | None, Some(_)) | (Some(false) | None, None) => {}
        }
        let nonce = natural(&mut reader, "nonce");
        let deadline = natural(&mut reader, "deadline");
        let note = reader.text("note", |text| words(text, NOTE_CHARS_MAX));
        let note = reader.require("note", note);
        let faults = reader.finish();
        match (note, faults.is_empty()) {
            (Some(note), true) => Ok(Self { calls, nonce, deadline, note }),
            _ => Err(faults),
        }
    }
}

impl ApproveMotion {
    /// Reads a body.
    pub fn read(body: &Value) -> Result<Self, Vec<Fault>> {
        let mut reader = Reader::new(body);
        let signature = reader.text("signature", |text| hexadecimal(text, SIGNATURE_BYTES));
        let signature = reader.require("signature", signature);
        let faults = reader.finish();
        match (signature, faults.is_empty()) {
            (Some(signature), true) => Ok(Self { signature }),
            _ => Err(faults),
        }
    }
}

fn natural(reader: &mut Reader<'_>, name: &'static str) -> Option<u64> {
    let number = reader.integer(name)?;
    let natural = u64::try_from(number).ok();
    if natural.is_none() {
        reader.fault(name, "not_valid", "not below zero");
    }
    natural
}

/// Reads `0x…`, two digits a byte.
pub fn hexadecimal(text: &str, bytes_max: usize) -> Result<Vec<u8>, String> {
    let wrong = || format!("0x and hexadecimal digits, two a byte, at most {bytes_max} bytes");
    let digits = text.strip_prefix("0x").ok_or_else(wrong)?;
    let is_right = digits.len() % 2 == 0
        && digits.len() <= bytes_max.saturating_mul(2)
        && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if !is_right {
        return Err(wrong());
    }
    let pairs = (0..digits.len()).step_by(2).map(|start| digits.get(start..start.saturating_add(2)));
    pairs.map(|pair| u8::from_str_radix(pair.unwrap_or_default(), 16).map_err(|_| wrong())).collect()
}

/// Writes `0x…`.
pub fn to_hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |mut text, byte| {
        text.push_str(&format!("{byte:02x}"));
        text
    })
}

/// The vault as it stands on chain.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct VaultBody {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Where it is.
    pub address: String,
    /// How many owners there are.
    pub owners: u16,
    /// How many of them must approve.
    pub threshold: u16,
    /// Seconds that an operation waits, unless it is a transfer within the limit of the day or an allowance within its cap.
    pub delay_secs: u64,
    /// The nonce of the next motion.
    pub nonce: u64,
    /// The digest of the operation that waits.
    pub scheduled: Option<String>,
    /// From when on it may be executed.
    #[schema(format = DateTime)]
    pub ready_at: Option<String>,
    /// What may be minted, by currency.
    pub minting: Vec<MintingBody>,
}

/// What the settlement manager of a currency may mint.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct MintingBody {
    /// The currency.
    pub currency: String,
    /// What it may still mint, in token units.
    pub allowance: String,
    /// Up to what the owners set the allowance without delay, in token units.
    pub cap: String,
    /// Decimals of a token unit.
    pub token_decimals: u8,
}

/// A motion, where it stands, and who has approved.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct VaultProposalBody {
    /// Its id.
    pub id: String,
    /// `collecting`, `queued`, `approved`, `scheduled`, `ready`, `executed`, `cancelled`, `overtaken` or `expired`.
    pub state: &'static str,
    /// `operation` or `cancellation`.
    pub kind: &'static str,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The vault.
    pub vault: String,
    /// The vault's nonce for it.
    pub nonce: u64,
    /// Void from this block time on, in seconds since 1970.
    pub deadline: u64,
    /// The calls of an operation.
    pub calls: Vec<CallBody>,
    /// What owners sign (EIP-712): compare it with what the wallet shows.
    pub digest: String,
    /// The same as `eth_signTypedData_v4` takes it.
    #[schema(value_type = Object)]
    pub typed_data: Value,
    /// Why.
    pub note: String,
    /// The client who proposed it.
    pub proposed_by: String,
    /// When.
    #[schema(format = DateTime)]
    pub proposed_at: String,
    /// How many owners must approve.
    pub approvals_needed: u16,
    /// Who has, oldest first.
    pub approvals: Vec<ApprovalBody>,
}

/// A call, and what it does in words.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CallBody {
    /// The contract or wallet.
    pub to: String,
    /// Coins to send with it, in wei.
    pub value: String,
    /// The calldata.
    pub data: String,
    /// What it does.
    pub in_words: String,
}

/// An owner's approval.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ApprovalBody {
    /// The owner's address.
    pub owner: String,
    /// The signature.
    pub signature: String,
    /// The client who brought it.
    pub given_by: String,
    /// When.
    #[schema(format = DateTime)]
    pub given_at: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_motion_is_read_strictly() {
        let to = "0x5fbdb2315678afecb367f032d93f642f64180aa3";
        let motion = json!({
            "kind": "operation", "calls": [{ "to": to, "data": "0x0aFF" }, { "to": to, "value": "7" }], "nonce": 3, "note": "why",
        });
        let read = ProposeMotion::read(&motion, 2, 2).unwrap();
        let calls = read.calls.unwrap();
        assert_eq!((calls[0].data.as_slice(), calls[0].value, calls[1].value), (&[10, 255][..], 0, 7));
        assert_eq!((read.nonce, read.deadline), (Some(3), None));
        let faults = |body: Value| -> Vec<String> {
            let faults = ProposeMotion::read(&body, 1, 1).unwrap_err();
            faults.iter().map(|fault| format!("{} {}", fault.pointer, fault.code)).collect()
        };
        assert_eq!(faults(motion), ["/calls/0/data not_valid"]);
        let two = json!({ "kind": "operation", "calls": [{ "to": to }, { "to": to }], "note": "why" });
        assert_eq!(faults(two), ["/calls not_valid"]);
        assert_eq!(faults(json!({ "kind": "operation", "note": "why" })), ["/calls missing"]);
        let cancels =
            json!({ "kind": "cancellation", "calls": [], "nonce": -1, "deadline": 1.5, "note": "" });
        let expected = ["/calls not_valid", "/nonce not_valid", "/deadline wrong_type", "/note not_valid"];
        assert_eq!(faults(cancels), expected);
        let odd = json!({ "kind": "operation", "calls": [{ "to": "0x00", "value": "-1", "data": "0x1", "gas": 1 }], "note": "why" });
        let expected = [
            "/calls/0/to not_valid",
            "/calls/0/value not_valid",
            "/calls/0/data not_valid",
            "/calls/0/gas unknown_member",
        ];
        assert_eq!(faults(odd), expected);
    }

    #[test]
    fn hexadecimal_goes_there_and_back() {
        let bytes = [0, 1, 0x7f, 0xff];
        assert_eq!(hexadecimal(&to_hexadecimal(&bytes), 4), Ok(bytes.to_vec()));
        for wrong in ["", "00", "0x0", "0x0g", "0x0000000000", "0x\u{e9}\u{e9}"] {
            assert!(hexadecimal(wrong, 4).is_err(), "{wrong}");
        }
    }
}
