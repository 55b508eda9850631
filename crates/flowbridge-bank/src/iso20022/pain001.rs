//! `pain.001`, the customer credit transfer initiation: a file of payments to be made.
//!
//! Versions .03, .09, .10 and .11 differ in where a BIC, a date and a UETR stand; all are read alike. An entry that FlowBridge
//! cannot carry is refused by itself, with its place and an ISO 20022 reason, and its neighbours go on. The totals of the
//! header and of each payment information block are counted and handed back: whether a difference matters is the caller's
//! decision.

use super::xml::{Element, FileProblem, ReadFileError, Token, XmlReader};
use crate::personal::Personal;
use flowbridge_domain::bank::ReasonCode;
use flowbridge_domain::money::{Currency, Money, MoneyError};
use flowbridge_domain::party::{Bic, Iban};
use jiff::civil::Date;
use rust_decimal::Decimal;
use std::fmt;
use uuid::Uuid;

/// Most transactions in one file.
pub const TRANSACTIONS_MAX: usize = 100_000;
/// Most payment information blocks in one file.
const BLOCKS_MAX: usize = 20_000;
/// Digits of a control sum that is still exact.
const SUM_DIGITS_MAX: usize = 28;

/// A version of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pain001Version {
    /// `pain.001.001.03`, and the Swiss `.ch.02` variant of it.
    V03,
    /// `pain.001.001.09`
    V09,
    /// `pain.001.001.10`
    V10,
    /// `pain.001.001.11`
    V11,
}

impl Pain001Version {
    /// By the last part of a namespace: `…:xsd:pain.001.001.09`, or a national `…/pain.001.001.03.ch.02.xsd`.
    fn of_namespace(namespace: &str) -> Option<Self> {
        let message = namespace.rsplit([':', '/']).next()?;
        let version = message.strip_prefix("pain.001.001.")?;
        match version.split_once('.').map_or(version, |(version, _)| version) {
            "03" => Some(Self::V03),
            "09" => Some(Self::V09),
            "10" => Some(Self::V10),
            "11" => Some(Self::V11),
            _ => None,
        }
    }
}

/// A file of payments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreditTransferInitiation {
    /// By its namespace.
    pub version: Pain001Version,
    /// The header.
    pub header: GroupHeader,
    /// Stated and counted, of the whole file first, then of each block that states any.
    pub totals: Vec<Totals>,
    /// All transactions, in the file's order.
    pub entries: Vec<Result<PaymentInstruction, RefusedEntry>>,
}

impl CreditTransferInitiation {
    /// Every total that is not what the file contains, in words with both numbers.
    pub fn disagreements(&self) -> Vec<String> {
        self.totals.iter().flat_map(Totals::disagreements).collect()
    }
}

/// What the initiating party says about the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupHeader {
    /// The initiating party's name of the message, which it uses once (`MsgId`).
    pub message_id: String,
    /// How many transactions it should contain (`NbOfTxs`).
    pub number_of_transactions: u64,
    /// What their amounts should add up to, whatever their currencies (`CtrlSum`).
    pub control_sum: Option<Decimal>,
}

/// Stated and counted totals of one level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    /// `GrpHdr` or `PmtInf 2`.
    pub place: String,
    /// `NbOfTxs`, if stated.
    pub stated_count: Option<u64>,
    /// How many there are.
    pub counted: u64,
    /// `CtrlSum`, if stated.
    pub stated_sum: Option<Decimal>,
    /// The sum of all amounts that can be read, also of entries refused for another reason.
    pub summed: Decimal,
}

impl Totals {
    /// What is not as stated.
    pub fn disagreements(&self) -> Vec<String> {
        let mut found = Vec::new();
        if let Some(stated) = self.stated_count.filter(|stated| *stated != self.counted) {
            found.push(format!(
                "{}: NbOfTxs says {stated}, the file has {} transactions",
                self.place, self.counted
            ));
        }
        if let Some(stated) = self.stated_sum.filter(|stated| *stated != self.summed) {
            found.push(format!(
                "{}: CtrlSum says {stated}, the amounts add up to {}",
                self.place,
                self.summed.normalize()
            ));
        }
        found
    }
}

/// A payment to be made, as far as the file tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentInstruction {
    /// Where it stands, such as `PmtInf 1 / CdtTrfTxInf 2`, counted from 1.
    pub place: String,
    /// The debtor's reference, to be carried unchanged.
    pub end_to_end_id: String,
    /// The initiating party's reference for us.
    pub instruction_id: Option<String>,
    /// The global tracking id, a UUID version 4.
    pub uetr: Option<Uuid>,
    /// Who pays.
    pub debtor: PartyDetails,
    /// Who is paid.
    pub creditor: PartyDetails,
    /// How much, more than zero.
    pub instructed_amount: Money,
    /// When it should be made. May lie in the past.
    pub requested_execution_on: Date,
    /// What the debtor tells the creditor: all unstructured lines, else the creditor's reference.
    pub remittance_information: Option<Personal>,
}

/// One end of a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartyDetails {
    /// The name.
    pub name: Option<Personal>,
    /// The account.
    pub account: Iban,
    /// The bank, if named by its BIC.
    pub agent: Option<Bic>,
}

/// An entry that FlowBridge cannot carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedEntry {
    /// Where it stands, such as `PmtInf 1 / CdtTrfTxInf 2`, counted from 1.
    pub place: String,
    /// The debtor's reference, if there is one.
    pub end_to_end_id: Option<String>,
    /// ISO 20022 external status reason.
    pub reason: ReasonCode,
    /// For people; without account numbers or names.
    pub text: String,
}

impl fmt::Display for RefusedEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.place, self.reason, self.text)
    }
}

/// Reads a whole file. An error means that nothing of it can be used.
pub fn read_pain001(file: &[u8]) -> Result<CreditTransferInitiation, ReadFileError> {
    let mut reader = XmlReader::new(file)?;
    let (root, namespace) = reader.root()?;
    let version =
        Pain001Version::of_namespace(&namespace).filter(|_| root == "Document").ok_or_else(|| {
            let found: String = namespace.chars().take(100).collect();
            reader.error(FileProblem::NotThisMessage(format!(
                "not a pain.001 file of version 03, 09, 10 or 11: <{root}> in namespace {found:?}"
            )))
        })?;
    let Token::Start(message) = reader.next_markup()? else {
        return Err(reader.error(FileProblem::Missing("CstmrCdtTrfInitn")));
    };
    if message.name != "CstmrCdtTrfInitn" {
        return Err(reader.error(FileProblem::Missing("CstmrCdtTrfInitn")));
    }

    let mut header = None;
    let mut found = Found::default();
    loop {
        match reader.next_markup()? {
            Token::Start(element) if element.name == "GrpHdr" && header.is_none() => {
                let element = reader.finish(element)?;
                header =
                    Some(read_header(&element).map_err(|what| reader.error(FileProblem::Missing(what)))?);
            }
            Token::Start(element) if element.name == "PmtInf" => read_block(&mut reader, &mut found)?,
            Token::Start(_) => reader.skip()?,
            Token::Text(_) => {}
            Token::End => break,
            Token::Eof => return Err(reader.error(FileProblem::Missing("the end of the message"))),
        }
    }
    // A second message in the file would be payments that nobody sees.
    if !matches!((reader.next_markup()?, reader.next_markup()?), (Token::End, Token::Eof)) {
        return Err(reader.error(FileProblem::Malformed("the file goes on after its message".into())));
    }
    let header = header.ok_or_else(|| reader.error(FileProblem::Missing("GrpHdr")))?;
    let of_file = Totals {
        place: "GrpHdr".to_owned(),
        stated_count: Some(header.number_of_transactions),
        counted: found.counted,
        stated_sum: header.control_sum,
        summed: found.summed,
    };
    let totals = std::iter::once(of_file).chain(found.block_totals).collect();
    Ok(CreditTransferInitiation { version, header, totals, entries: found.entries })
}

/// What was found in the file so far.
#[derive(Default)]
struct Found {
    entries: Vec<Result<PaymentInstruction, RefusedEntry>>,
    block_totals: Vec<Totals>,
    blocks: usize,
    counted: u64,
    summed: Decimal,
}

fn read_header(header: &Element) -> Result<GroupHeader, &'static str> {
    let message_id =
        header.text_at(&["MsgId"]).filter(|id| id.chars().count() <= 35).ok_or("GrpHdr/MsgId")?;
    let count = header.text_at(&["NbOfTxs"]).and_then(parse_count).ok_or("GrpHdr/NbOfTxs")?;
    let control_sum = header.text_at(&["CtrlSum"]).map(|text| parse_decimal(text).ok_or("GrpHdr/CtrlSum"));
    Ok(GroupHeader {
        message_id: message_id.to_owned(),
        number_of_transactions: count,
        control_sum: control_sum.transpose()?,
    })
}

/// A payment information block: what its transactions share comes first, then they.
fn read_block(reader: &mut XmlReader<'_>, found: &mut Found) -> Result<(), ReadFileError> {
    found.blocks += 1;
    if found.blocks > BLOCKS_MAX {
        return Err(reader.error(FileProblem::TooMany { what: "PmtInf in one file", max: BLOCKS_MAX }));
    }
    let mut block = Element::default();
    let (mut counted, mut summed) = (0_u64, Decimal::ZERO);
    loop {
        match reader.next()? {
            Token::Start(element) if element.name == "CdtTrfTxInf" => {
                let transfer = reader.finish(element)?;
                counted += 1;
                if found.entries.len() >= TRANSACTIONS_MAX {
                    let what = "transactions in one file";
                    return Err(reader.error(FileProblem::TooMany { what, max: TRANSACTIONS_MAX }));
                }
                let amount = stated_amount(&transfer).and_then(|amount| parse_decimal(amount.text()));
                summed = summed
                    .checked_add(amount.unwrap_or_default())
                    .ok_or_else(|| reader.error(FileProblem::Missing("a sum of amounts")))?;
                let place = format!("PmtInf {} / CdtTrfTxInf {counted}", found.blocks);
                found.entries.push(read_transfer(&block, &transfer, &place).map_err(|refusal| {
                    RefusedEntry {
                        end_to_end_id: transfer.text_at(&["PmtId", "EndToEndId"]).map(str::to_owned),
                        reason: ReasonCode::parse(refusal.reason).unwrap_or(ReasonCode::NOT_SPECIFIED),
                        text: refusal.text,
                        place,
                    }
                }));
            }
            Token::Start(element) => {
                let element = reader.finish(element)?;
                block.push(element);
            }
            Token::Text(_) => {}
            Token::End => break,
            Token::Eof => return Err(reader.error(FileProblem::Missing("the end of PmtInf"))),
        }
    }
    found.counted += counted;
    found.summed = found
        .summed
        .checked_add(summed)
        .ok_or_else(|| reader.error(FileProblem::Missing("a sum of amounts")))?;
    let (count, sum) = (block.text_at(&["NbOfTxs"]), block.text_at(&["CtrlSum"]));
    if count.is_some() || sum.is_some() {
        let unreadable = |what| reader.error(FileProblem::Missing(what));
        found.block_totals.push(Totals {
            place: format!("PmtInf {}", found.blocks),
            stated_count: count
                .map(|text| parse_count(text).ok_or_else(|| unreadable("PmtInf/NbOfTxs")))
                .transpose()?,
            counted,
            stated_sum: sum
                .map(|text| parse_decimal(text).ok_or_else(|| unreadable("PmtInf/CtrlSum")))
                .transpose()?,
            summed,
        });
    }
    Ok(())
}

/// Why one entry is refused.
struct Refusal {
    reason: &'static str,
    text: String,
}

fn refuse<T>(reason: &'static str, text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { reason, text: text.into() })
}

fn read_transfer(block: &Element, transfer: &Element, place: &str) -> Result<PaymentInstruction, Refusal> {
    match block.text_at(&["PmtMtd"]) {
        Some("TRF" | "TRA") => {}
        Some("CHK") => return refuse("FF03", "a cheque, not a transfer (PmtMtd)"),
        _ => return refuse("FF03", "the payment method is missing or unknown (PmtMtd)"),
    }
    let instructed_amount = read_amount(transfer)?;
    let debtor = PartyDetails {
        name: name(block, "Dbtr"),
        account: read_iban(block, "DbtrAcct", "AC02", "debtor")?,
        agent: read_bic(block, "DbtrAgt", "RC03", "debtor")?,
    };
    let creditor = PartyDetails {
        name: name(transfer, "Cdtr"),
        account: read_iban(transfer, "CdtrAcct", "AC03", "creditor")?,
        agent: read_bic(transfer, "CdtrAgt", "RC04", "creditor")?,
    };
    if debtor.account == creditor.account {
        return refuse("AG01", "debtor and creditor are the same account");
    }
    let end_to_end_id = transfer.text_at(&["PmtId", "EndToEndId"]).filter(|id| id.chars().count() <= 35);
    let Some(end_to_end_id) = end_to_end_id else {
        return refuse("FF08", "the end-to-end id is missing or longer than 35 characters");
    };
    let uetr = match transfer.text_at(&["PmtId", "UETR"]) {
        None => None,
        Some(text) => {
            match Uuid::try_parse(text).ok().filter(|uuid| text.len() == 36 && uuid.get_version_num() == 4) {
                Some(uuid) => Some(uuid),
                None => return refuse("FF02", "the UETR is not a UUID of version 4"),
            }
        }
    };
    Ok(PaymentInstruction {
        place: place.to_owned(),
        end_to_end_id: end_to_end_id.to_owned(),
        instruction_id: transfer.text_at(&["PmtId", "InstrId"]).map(str::to_owned),
        uetr,
        debtor,
        creditor,
        instructed_amount,
        requested_execution_on: read_execution_date(block)?,
        remittance_information: read_remittance(transfer).map(Personal::new),
    })
}

/// The element with the amount, instructed or equivalent.
fn stated_amount(transfer: &Element) -> Option<&Element> {
    transfer.at(&["Amt", "InstdAmt"]).or_else(|| transfer.at(&["Amt", "EqvtAmt", "Amt"]))
}

fn read_amount(transfer: &Element) -> Result<Money, Refusal> {
    if transfer.at(&["Amt", "EqvtAmt"]).is_some() {
        return refuse(
            "AM03",
            "an equivalent amount needs a currency exchange, which FlowBridge does not do",
        );
    }
    let Some(amount) = stated_amount(transfer) else {
        return refuse("AM12", "the instructed amount is missing");
    };
    let code = amount.attribute("Ccy").unwrap_or_default();
    let currency =
        Currency::parse(code).map_err(|error| Refusal { reason: "AM11", text: error.to_string() })?;
    // XML Schema allows a plus sign.
    let text = amount.text().strip_prefix('+').unwrap_or(amount.text());
    let money =
        Money::parse_decimal(text, currency).and_then(|money| Money::payable(money.minor_units(), currency));
    money.map_err(|error| Refusal {
        reason: match error {
            MoneyError::NotPositive => "AM01",
            MoneyError::TooLarge => "AM02",
            MoneyError::UnknownCurrency(_)
            | MoneyError::Malformed(_)
            | MoneyError::TooPrecise { .. }
            | MoneyError::TokenTooCoarse { .. }
            | MoneyError::CurrencyMismatch(..) => "AM12",
        },
        text: error.to_string(),
    })
}

fn read_iban(holder: &Element, account: &str, reason: &'static str, who: &str) -> Result<Iban, Refusal> {
    let Some(text) = holder.text_at(&[account, "Id", "IBAN"]) else {
        let what = if holder.at(&[account, "Id", "Othr"]).is_some() { "is no IBAN" } else { "is missing" };
        return refuse(reason, format!("the {who}'s account {what}"));
    };
    Iban::parse(text).map_err(|error| Refusal { reason, text: format!("the {who}'s account: {error}") })
}

/// `BICFI` since version .09, `BIC` before. A bank named in another way is left to the account.
fn read_bic(holder: &Element, agent: &str, reason: &'static str, who: &str) -> Result<Option<Bic>, Refusal> {
    let institution = holder.at(&[agent, "FinInstnId"]);
    let Some(text) = institution.and_then(|id| id.text_at(&["BICFI"]).or_else(|| id.text_at(&["BIC"])))
    else {
        return Ok(None);
    };
    Bic::parse(text).map(Some).map_err(|error| Refusal { reason, text: format!("the {who}'s bank: {error}") })
}

fn name(holder: &Element, party: &str) -> Option<Personal> {
    holder.text_at(&[party, "Nm"]).map(Personal::new)
}

/// `ReqdExctnDt`: a date in version .03, a date or an instant since .09. Of an instant the date counts, in its own time zone.
fn read_execution_date(block: &Element) -> Result<Date, Refusal> {
    let requested = block.child("ReqdExctnDt");
    let text = requested.and_then(|requested| {
        let choice = requested.text_at(&["Dt"]).or_else(|| requested.text_at(&["DtTm"]));
        choice.or_else(|| Some(requested.text()).filter(|text| !text.is_empty()))
    });
    let Some(text) = text else { return refuse("DT01", "the requested execution date is missing") };
    let date = text
        .split_at_checked(10)
        .filter(|(_, rest)| rest.is_empty() || rest.starts_with(['T', 'Z', '+', '-']));
    match date.and_then(|(date, _)| date.parse::<Date>().ok()) {
        Some(date) => Ok(date),
        None => refuse("DT01", "the requested execution date is not a date"),
    }
}

fn read_remittance(transfer: &Element) -> Option<String> {
    let information = transfer.child("RmtInf")?;
    let lines: Vec<&str> =
        information.children("Ustrd").map(Element::text).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return information.text_at(&["Strd", "CdtrRefInf", "Ref"]).map(str::to_owned);
    }
    Some(lines.join(" "))
}

/// `Max15NumericText`
fn parse_count(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.len() <= 15 && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// A decimal without exponent or sign, exactly.
fn parse_decimal(text: &str) -> Option<Decimal> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    (plain && digits > 0 && digits <= SUM_DIGITS_MAX).then(|| Decimal::from_str_exact(text).ok()).flatten()
}
