//! What was reconciled, as camt.053.001.08: one statement per account with the lines that have an entry.
//!
//! For systems that read statements anyway. It is not the bank's statement and does not pretend to be: its one balance is the
//! sum of the lines in it and carries a name of its own. The ledger's ids stand with each line, the manifest's hash with the
//! message. Text is cut to the lengths of the standard; an amount that the standard cannot hold is an error, not a rounding.

use super::{Report, decimal};
use crate::engine::{Decision, How, Match};
use crate::record::Record;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Digits of an amount in ISO 20022.
const DIGITS_MAX: usize = 18;

/// Why there is no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CamtError {
    /// Leave the line out of the run, or take another form.
    #[error("the amount of {0} has more digits than ISO 20022 allows; use the JSON report")]
    Amount(String),
}

pub(super) fn message(report: &Report<'_>) -> Result<String, CamtError> {
    let hash = report.manifest.sha256();
    let day = report.manifest.as_of;
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Document xmlns=\"urn:iso:std:iso:20022:tech:xsd:camt.053.001.08\">\
         <BkToCstmrStmt><GrpHdr><MsgId>{}</MsgId><CreDtTm>{day}T00:00:00Z</CreDtTm>\
         <AddtlInf>Reconciled entries; manifest {hash}</AddtlInf></GrpHdr>\n",
        &hash[..32]
    );
    let mut accounts: BTreeMap<(&str, &str), Vec<(u32, &Match)>> = BTreeMap::new();
    for found in &report.outcome.matches {
        for line in &found.bank {
            let record = &report.bank[*line as usize];
            accounts.entry((&record.account, record.currency.code())).or_default().push((*line, found));
        }
    }
    for (number, ((account, currency), lines)) in accounts.iter_mut().enumerate() {
        lines.sort_by(|(a, _), (b, _)| {
            let (a, b) = (&report.bank[*a as usize], &report.bank[*b as usize]);
            (a.booked_on, &a.id).cmp(&(b.booked_on, &b.id))
        });
        let sum = lines
            .iter()
            .fold(0i128, |sum, (line, _)| sum.saturating_add(report.bank[*line as usize].minor_units));
        let _ = writeln!(
            xml,
            "<Stmt><Id>{}-{}</Id><CreDtTm>{day}T00:00:00Z</CreDtTm><Acct><Id>{}</Id><Ccy>{currency}</Ccy></Acct>\
             <Bal><Tp><CdOrPrtry><Prtry>SUM OF RECONCILED ENTRIES</Prtry></CdOrPrtry></Tp>{}<Dt><Dt>{day}</Dt></Dt></Bal>",
            &hash[..16],
            number + 1,
            account_id(account),
            amount(sum, currency, account)?,
        );
        for (line, found) in lines.iter() {
            entry(&mut xml, report, *line, found)?;
        }
        xml.push_str("</Stmt>\n");
    }
    xml.push_str("</BkToCstmrStmt></Document>\n");
    Ok(xml)
}

fn entry(xml: &mut String, report: &Report<'_>, line: u32, found: &Match) -> Result<(), CamtError> {
    let record = &report.bank[line as usize];
    let _ = write!(
        xml,
        "<Ntry>{}{}<Sts><Cd>BOOK</Cd></Sts><BookgDt><Dt>{}</Dt></BookgDt>",
        amount(record.minor_units, record.currency.code(), &record.id)?,
        if record.is_return { "<RvslInd>true</RvslInd>" } else { "" },
        record.booked_on,
    );
    if let Some(day) = record.value_on {
        let _ = write!(xml, "<ValDt><Dt>{day}</Dt></ValDt>");
    }
    let code = if record.rail.is_empty() { "NTRF" } else { &record.rail };
    let _ = write!(
        xml,
        "<AcctSvcrRef>{}</AcctSvcrRef><BkTxCd><Prtry><Cd>{}</Cd></Prtry></BkTxCd><NtryDtls>",
        text(&record.id, 35),
        text(code, 35)
    );
    for place in &found.ledger {
        details(xml, &report.ledger[*place as usize], record);
    }
    let how = match found.how {
        How::Reference => "by full reference",
        How::Model => "by model",
        How::Group(_) => "as a group",
    };
    let decision = if found.decision == Decision::Auto { "safe to post" } else { "to confirm" };
    let _ = writeln!(xml, "</NtryDtls><AddtlNtryInf>{how}, {decision}</AddtlNtryInf></Ntry>");
    Ok(())
}

/// The ledger's view of a line: its id, its reference, the other party.
fn details(xml: &mut String, ours: &Record, line: &Record) {
    let _ = write!(xml, "<TxDtls><Refs>");
    if !ours.reference.is_empty() {
        let _ = write!(xml, "<EndToEndId>{}</EndToEndId>", text(&ours.reference, 35));
    }
    let _ = write!(xml, "<AcctOwnrTxId>{}</AcctOwnrTxId></Refs>", text(&ours.id, 35));
    let role = if line.minor_units < 0 { "Cdtr" } else { "Dbtr" };
    let mut parties = String::new();
    if !ours.counterparty.trim().is_empty() {
        let name = text(&ours.counterparty, 140);
        let _ = write!(parties, "<{role}><Pty><Nm>{name}</Nm></Pty></{role}>");
    }
    if !ours.counterparty_iban.trim().is_empty() {
        let _ = write!(parties, "<{role}Acct><Id>{}</Id></{role}Acct>", account_id(&ours.counterparty_iban));
    }
    if !parties.is_empty() {
        let _ = write!(xml, "<RltdPties>{parties}</RltdPties>");
    }
    if !line.text.trim().is_empty() {
        let _ = write!(xml, "<RmtInf><Ustrd>{}</Ustrd></RmtInf>", text(&line.text, 140));
    }
    xml.push_str("</TxDtls>");
}

fn amount(minor_units: i128, currency: &str, whose: &str) -> Result<String, CamtError> {
    let plain = decimal(minor_units.unsigned_abs(), currency);
    if plain.len() > DIGITS_MAX {
        return Err(CamtError::Amount(whose.to_owned()));
    }
    let mark = if minor_units < 0 { "DBIT" } else { "CRDT" };
    Ok(format!("<Amt Ccy=\"{currency}\">{plain}</Amt><CdtDbtInd>{mark}</CdtDbtInd>"))
}

fn account_id(account: &str) -> String {
    let is_iban = (5..=34).contains(&account.len())
        && account.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && account.bytes().take(2).all(|byte| byte.is_ascii_uppercase())
        && account.bytes().skip(2).take(2).all(|byte| byte.is_ascii_digit());
    if is_iban {
        format!("<IBAN>{account}</IBAN>")
    } else {
        format!("<Othr><Id>{}</Id></Othr>", text(account, 34))
    }
}

/// Text as the standard takes it: not empty, not too long, no control characters, escaped.
fn text(text: &str, chars_max: usize) -> String {
    let kept: String = text
        .chars()
        .map(
            |letter| {
                if letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}') { ' ' } else { letter }
            },
        )
        .take(chars_max)
        .collect();
    let kept = kept.trim();
    quick_xml::escape::escape(if kept.is_empty() { "-" } else { kept }).into_owned()
}
