//! What chain and banks said, as events in the log that only the orchestrator reads.
//!
//! Topics `chain` and `bank`, key the payment. The kind names the domain's event; `data` carries its values and, beside
//! them, the evidence (transaction, block, bank reference) that a timeline shows.

use crate::event_data::EventData;
use flowbridge_domain::bank::{BankStep, ReasonCode};
use flowbridge_domain::payment::{ChainLog, Event, SetAside};
use flowbridge_domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

const REMOVED: &str = ".removed";

/// What an observation says, beside its evidence.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Values<'a> {
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    why: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    reason_code: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until_micros: Option<i64>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    step: Option<Cow<'a, str>>,
}

impl<'a> Values<'a> {
    fn why(why: SetAside) -> Self {
        Self { why: Some(why.as_str().into()), ..Self::default() }
    }

    fn code(code: &'a ReasonCode) -> Self {
        Self { reason_code: Some(code.as_str().into()), ..Self::default() }
    }
}

#[derive(Serialize)]
struct Data<'a, E> {
    #[serde(flatten)]
    evidence: &'a E,
    #[serde(flatten)]
    values: Values<'a>,
}

/// Kind and data of an observation; `None` for what is no observation but a wish, a timer or a decision. The evidence is a
/// struct, or `()` for none.
pub fn encode(event: &Event, evidence: &impl Serialize) -> Option<(String, EventData)> {
    let none = Values::default();
    let (kind, values) = match event {
        Event::Chain(log) => (chain_kind(*log).to_owned(), of_log(*log)),
        Event::ChainRemoved(log) => (format!("{}{REMOVED}", chain_kind(*log)), of_log(*log)),
        Event::InitiationRefused(why) => ("chain.initiation_refused".to_owned(), Values::why(*why)),
        Event::HoldPlaced { until } => {
            let until_micros = Some(until.as_micros());
            ("bank.hold_placed".to_owned(), Values { until_micros, ..none })
        }
        Event::HoldDeclined(code) => ("bank.hold_declined".to_owned(), Values::code(code)),
        Event::HoldExpired => ("bank.hold_expired".to_owned(), none),
        Event::Captured => ("bank.captured".to_owned(), none),
        Event::CaptureDeclined(code) => ("bank.capture_declined".to_owned(), Values::code(code)),
        Event::Released => ("bank.released".to_owned(), none),
        Event::Credited => ("bank.credited".to_owned(), none),
        Event::CreditDeclined(code) => ("bank.credit_declined".to_owned(), Values::code(code)),
        Event::BankRefused(step) => {
            ("bank.refused".to_owned(), Values { step: Some(step.as_str().into()), ..none })
        }
        Event::CancelRequested { .. }
        | Event::InitiateWindowClosed
        | Event::SettleWindowClosing
        | Event::Reviewed(_) => return None,
    };
    Some((kind, EventData::of(&Data { evidence, values })))
}

/// Reads an observation back; `None` if it is not one that this version writes.
pub fn decode(kind: &str, data: &EventData) -> Option<Event> {
    let values: Values<'_> = data.read()?;
    if let Some(kind) = kind.strip_suffix(REMOVED) {
        return if let Event::Chain(log) = event_of(kind, &values)? {
            Some(Event::ChainRemoved(log))
        } else {
            None
        };
    }
    event_of(kind, &values)
}

fn event_of(kind: &str, values: &Values<'_>) -> Option<Event> {
    let code = || values.reason_code.as_deref().and_then(ReasonCode::parse);
    let why = || values.why.as_deref().and_then(SetAside::parse);
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
        "bank.hold_placed" => Event::HoldPlaced { until: Timestamp::from_micros(values.until_micros?) },
        "bank.hold_declined" => Event::HoldDeclined(code()?),
        "bank.hold_expired" => Event::HoldExpired,
        "bank.captured" => Event::Captured,
        "bank.capture_declined" => Event::CaptureDeclined(code()?),
        "bank.released" => Event::Released,
        "bank.credited" => Event::Credited,
        "bank.credit_declined" => Event::CreditDeclined(code()?),
        "bank.refused" => Event::BankRefused(values.step.as_deref().and_then(BankStep::parse)?),
        _ => return None,
    })
}

/// The bank that an observation is of, where it is one of a bank.
pub fn bank(data: &EventData) -> Option<String> {
    #[derive(Deserialize)]
    struct OfBank {
        bank: Option<String>,
    }
    data.read::<OfBank>()?.bank
}

const fn chain_kind(log: ChainLog) -> &'static str {
    match log {
        ChainLog::Initiated => "chain.initiated",
        ChainLog::InitiationSetAside(_) => "chain.initiation_set_aside",
        ChainLog::Settled => "chain.settled",
        ChainLog::SettlementSetAside(_) => "chain.settlement_set_aside",
        ChainLog::Cancelled => "chain.cancelled",
        ChainLog::Reclaimed => "chain.reclaimed",
        ChainLog::RedemptionBurned => "chain.redemption_burned",
        ChainLog::RedemptionReleased => "chain.redemption_released",
    }
}

fn of_log(log: ChainLog) -> Values<'static> {
    match log {
        ChainLog::InitiationSetAside(why) | ChainLog::SettlementSetAside(why) => Values::why(why),
        ChainLog::Initiated
        | ChainLog::Settled
        | ChainLog::Cancelled
        | ChainLog::Reclaimed
        | ChainLog::RedemptionBurned
        | ChainLog::RedemptionReleased => Values::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Evidence {
        block_number: u64,
    }

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
            Event::BankRefused(BankStep::Release),
        ];
        for event in
            chain.into_iter().flat_map(|log| [Event::Chain(log), Event::ChainRemoved(log)]).chain(bank)
        {
            let (kind, data) = encode(&event, &Evidence { block_number: 7 }).unwrap();
            assert_eq!(decode(&kind, &data), Some(event), "{kind}");
            assert_eq!(data.read::<Evidence>().unwrap().block_number, 7);
        }
        assert_eq!(decode("chain.settled.removed.removed", &EventData::of(&())), None);
        assert_eq!(decode("chain.settled", &EventData::of(&"text")), None);
    }
}
