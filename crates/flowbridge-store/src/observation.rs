//! What chain and banks said, as events in the log that only the orchestrator reads.
//!
//! Topics `chain` and `bank`, key the payment. The kind names the domain's event; `data` carries its values and, beside
//! them, the evidence (transaction, block, bank reference) that a timeline shows.

use flowbridge_domain::bank::ReasonCode;
use flowbridge_domain::payment::{ChainLog, Event, SetAside};
use flowbridge_domain::time::Timestamp;
use serde_json::{Map, Value, json};

/// The topic of an observation.
pub const CHAIN: &str = "chain";
/// The topic of an observation.
pub const BANK: &str = "bank";

const REMOVED: &str = ".removed";

/// Kind and data of an observation; `None` for what is no observation but a wish, a timer or a decision.
pub fn encode(event: Event, evidence: Map<String, Value>) -> Option<(String, Value)> {
    let (kind, values) = match event {
        Event::Chain(log) => chain_log(log),
        Event::ChainRemoved(log) => {
            let (kind, values) = chain_log(log);
            (format!("{kind}{REMOVED}"), values)
        }
        Event::InitiationRefused(why) => ("chain.initiation_refused".into(), json!({ "why": why.as_str() })),
        Event::HoldPlaced { until } => {
            ("bank.hold_placed".into(), json!({ "until_micros": until.as_micros() }))
        }
        Event::HoldDeclined(code) => ("bank.hold_declined".into(), json!({ "reason_code": code.as_str() })),
        Event::HoldExpired => ("bank.hold_expired".into(), json!({})),
        Event::Captured => ("bank.captured".into(), json!({})),
        Event::CaptureDeclined(code) => {
            ("bank.capture_declined".into(), json!({ "reason_code": code.as_str() }))
        }
        Event::Released => ("bank.released".into(), json!({})),
        Event::Credited => ("bank.credited".into(), json!({})),
        Event::CreditDeclined(code) => {
            ("bank.credit_declined".into(), json!({ "reason_code": code.as_str() }))
        }
        Event::CancelRequested { .. }
        | Event::InitiateWindowClosed
        | Event::SettleWindowClosing
        | Event::Reviewed(_) => return None,
    };
    let mut data = evidence;
    if let Value::Object(values) = values {
        data.extend(values);
    }
    Some((kind, Value::Object(data)))
}

/// Reads an observation back; `None` if it is not one that this version writes.
pub fn decode(kind: &str, data: &Value) -> Option<Event> {
    let code = || data.get("reason_code").and_then(Value::as_str).and_then(ReasonCode::parse);
    let why = || data.get("why").and_then(Value::as_str).and_then(SetAside::parse);
    if let Some(kind) = kind.strip_suffix(REMOVED) {
        let removed = decode(kind, data)?;
        return if let Event::Chain(log) = removed { Some(Event::ChainRemoved(log)) } else { None };
    }
    Some(match kind {
        "chain.initiated" => Event::Chain(ChainLog::Initiated),
        "chain.initiation_set_aside" => Event::Chain(ChainLog::InitiationSetAside(why()?)),
        "chain.settled" => Event::Chain(ChainLog::Settled),
        "chain.settlement_set_aside" => Event::Chain(ChainLog::SettlementSetAside(why()?)),
        "chain.cancelled" => Event::Chain(ChainLog::Cancelled),
        "chain.reclaimed" => Event::Chain(ChainLog::Reclaimed),
        "chain.redemption_burned" => Event::Chain(ChainLog::RedemptionBurned),
        "chain.redemption_released" => Event::Chain(ChainLog::RedemptionReleased),
        "chain.initiation_refused" => Event::InitiationRefused(why()?),
        "bank.hold_placed" => {
            Event::HoldPlaced { until: Timestamp::from_micros(data.get("until_micros")?.as_i64()?) }
        }
        "bank.hold_declined" => Event::HoldDeclined(code()?),
        "bank.hold_expired" => Event::HoldExpired,
        "bank.captured" => Event::Captured,
        "bank.capture_declined" => Event::CaptureDeclined(code()?),
        "bank.released" => Event::Released,
        "bank.credited" => Event::Credited,
        "bank.credit_declined" => Event::CreditDeclined(code()?),
        _ => return None,
    })
}

fn chain_log(log: ChainLog) -> (String, Value) {
    let (name, why) = match log {
        ChainLog::Initiated => ("initiated", None),
        ChainLog::InitiationSetAside(why) => ("initiation_set_aside", Some(why)),
        ChainLog::Settled => ("settled", None),
        ChainLog::SettlementSetAside(why) => ("settlement_set_aside", Some(why)),
        ChainLog::Cancelled => ("cancelled", None),
        ChainLog::Reclaimed => ("reclaimed", None),
        ChainLog::RedemptionBurned => ("redemption_burned", None),
        ChainLog::RedemptionReleased => ("redemption_released", None),
    };
    (format!("chain.{name}"), why.map_or_else(|| json!({}), |why| json!({ "why": why.as_str() })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_observation_survives_the_log() {
        let code = ReasonCode::INSUFFICIENT_FUNDS;
        let chain = [
            ChainLog::Initiated,
            ChainLog::InitiationSetAside(SetAside::NotFunded),
            ChainLog::Settled,
            ChainLog::SettlementSetAside(SetAside::Frozen),
            ChainLog::Cancelled,
            ChainLog::Reclaimed,
            ChainLog::RedemptionBurned,
            ChainLog::RedemptionReleased,
        ];
        let bank = [
            Event::InitiationRefused(SetAside::Unauthorized),
            Event::HoldPlaced { until: Timestamp::from_secs(7) },
            Event::HoldDeclined(code),
            Event::HoldExpired,
            Event::Captured,
            Event::CaptureDeclined(code),
            Event::Released,
            Event::Credited,
            Event::CreditDeclined(code),
        ];
        for event in
            chain.into_iter().flat_map(|log| [Event::Chain(log), Event::ChainRemoved(log)]).chain(bank)
        {
            let (kind, data) =
                encode(event, Map::from_iter([("block_number".to_owned(), json!(7))])).unwrap();
            assert_eq!(decode(&kind, &data), Some(event), "{kind}");
            assert_eq!(data.get("block_number"), Some(&json!(7)));
        }
        assert_eq!(decode("chain.settled.removed.removed", &json!({})), None);
    }
}
