//! camt.052 (reports), camt.053 (statements) and camt.054 (notifications) of ISO 20022, versions 02 to 13.
//!
//! A batch entry stays one line when its details do not sum to it; where every detail has an amount and they do, each
//! detail is a line of its own, because that is what the ledger holds.

use super::xml::{self, Element};
use super::{Balance, Entry, FILE_BYTES_MAX, ReadStatementError, Statement, amount, tidy, within_limits};
use crate::date::Date;

/// What a batch says as a whole stands in each of its lines: so much of that there may be in a file.
const REPEATED_BYTES_MAX: usize = 4 * FILE_BYTES_MAX;

pub(super) fn read(file: &[u8]) -> Result<Vec<Statement>, ReadStatementError> {
    let tree = xml::read(file)?;
    let root = tree.root();
    // Networks and archives put an envelope around the document.
    let document = std::iter::once(root)
        .chain(root.all())
        .chain(root.all().flat_map(Element::all))
        .find(|element| element.name() == "Document")
        .unwrap_or(root);
    let refuse = |problem: &str| ReadStatementError::Malformed { line: 0, problem: problem.to_owned() };
    let mut messages = document.all();
    let message = messages.next().ok_or_else(|| refuse("an empty document"))?;
    if tree.count("Document") > 1 || messages.next().is_some() {
        return Err(refuse("more than one document or message: each is a file of its own"));
    }
    let namespace = if document.namespace().is_empty() { message.namespace() } else { document.namespace() };
    let part = match message.name() {
        "BkToCstmrStmt" => "Stmt",
        "BkToCstmrAcctRpt" => "Rpt",
        "BkToCstmrDbtCdtNtfctn" => "Ntfctn",
        other => return Err(refuse(&format!("{other} is not a camt.052, camt.053 or camt.054 message"))),
    };
    if document.name() != "Document" || !namespace.contains("camt.05") {
        return Err(refuse("the document is not in the namespace of a camt.05x message"));
    }
    let mut statements = Vec::new();
    let (mut entries, mut repeated_bytes) = (0, 0);
    for element in message.children(part) {
        let statement = read_statement(element, &mut repeated_bytes).map_err(|problem| refuse(&problem))?;
        entries += statement.entries.len();
        statements.push(statement);
        within_limits(statements.len(), entries)?;
    }
    Ok(statements)
}

fn read_statement(element: Element<'_>, repeated_bytes: &mut usize) -> Result<Statement, String> {
    let account = [
        &["Acct", "Id", "IBAN"][..],
        &["Acct", "Id", "Othr", "Id"],
        &["Acct", "Id", "PrtryAcct", "Id"],
        &["Acct", "Id", "BBAN"],
        &["Acct", "Id", "UPIC"],
    ]
    .into_iter()
    .map(|path| element.text_at(path))
    .find(|text| !text.is_empty())
    .unwrap_or("");
    if account.is_empty() {
        return Err("a statement without an account".into());
    }
    let mut statement = Statement {
        id: tidy(element.text_at(&["Id"])),
        account: tidy(account),
        currency: element.text_at(&["Acct", "Ccy"]).to_owned(),
        sequence: [&["LglSeqNb"][..], &["ElctrncSeqNb"]]
            .into_iter()
            .find_map(|path| element.text_at(path).parse().ok()),
        ..Statement::default()
    };
    for balance in element.children("Bal") {
        let code = [&["Tp", "CdOrPrtry", "Cd"][..], &["Tp", "CdOrPrtry", "Prtry"], &["Tp", "Cd"]]
            .into_iter()
            .map(|path| balance.text_at(path))
            .find(|text| !text.is_empty())
            .unwrap_or("");
        let (minor_units, currency) = amount_of(balance)?;
        if statement.currency.is_empty() {
            statement.currency = currency;
        } else if matches!(code, "OPBD" | "PRCD" | "CLBD") && currency != statement.currency {
            let own = &statement.currency;
            statement.contradictions.push(format!("a balance is in {currency}, the account in {own}"));
        }
        let read = Balance { minor_units, on: date_of(balance.at(&["Dt"])) };
        match code {
            "OPBD" | "PRCD" => {
                statement.opening.get_or_insert(read);
            }
            "CLBD" => statement.closing = Some(read),
            _ => {}
        }
    }
    for entry in element.children("Ntry") {
        read_entry(entry, &statement.currency, repeated_bytes, &mut statement.entries)?;
    }
    if statement.currency.is_empty()
        && let Some(first) = statement.entries.first()
    {
        statement.currency = first.currency.clone();
    }
    Ok(statement)
}

fn read_entry(
    element: Element<'_>,
    account_currency: &str,
    repeated_bytes: &mut usize,
    out: &mut Vec<Entry>,
) -> Result<(), String> {
    let (minor_units, currency) = amount_of(element)?;
    let is_pending = is_pending(element)?;
    let code = ["Domn", "Prtry"]
        .into_iter()
        .filter_map(|name| element.at(&["BkTxCd", name]))
        .map(|code| {
            let parts =
                [code.text_at(&["Cd"]), code.text_at(&["Fmly", "Cd"]), code.text_at(&["Fmly", "SubFmlyCd"])];
            parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
        })
        .find(|code| !code.is_empty())
        .unwrap_or_default();
    let is_return = element.text_at(&["RvslInd"]) == "true";
    let base = Entry {
        minor_units,
        currency: currency.clone(),
        booked_on: date_of(element.at(&["BookgDt"])),
        value_on: date_of(element.at(&["ValDt"])),
        bank_reference: tidy(element.text_at(&["AcctSvcrRef"])),
        text: tidy(element.text_at(&["AddtlNtryInf"])),
        code,
        is_return,
        is_pending,
        ..Entry::default()
    };
    // The batch is looked up once for all of its details, of which there may be very many.
    let details: Vec<(&str, Element<'_>)> = element
        .children("NtryDtls")
        .flat_map(|details| {
            let batch = details.text_at(&["Btch", "PmtInfId"]);
            details.children("TxDtls").map(move |transaction| (batch, transaction))
        })
        .collect();
    let is_credit = minor_units >= 0;
    let amounts: Vec<Option<i128>> = details
        .iter()
        .map(|(_, transaction)| detail_amount(*transaction, &currency, account_currency, is_credit))
        .collect();
    let sum = amounts.iter().try_fold(0i128, |sum, part| sum.checked_add((*part)?));
    if details.len() > 1 && sum == Some(minor_units) {
        *repeated_bytes += details.len() * (base.text.len() + base.code.len() + base.bank_reference.len());
        if *repeated_bytes > REPEATED_BYTES_MAX {
            return Err(format!("what its batches say is more than {REPEATED_BYTES_MAX} bytes in all lines"));
        }
        out.extend(details.into_iter().zip(amounts).map(|((batch, transaction), units)| Entry {
            minor_units: units.unwrap_or(0),
            ..read_details(&base, batch, transaction, is_credit)
        }));
    } else if let [(batch, transaction)] = details.as_slice() {
        out.push(read_details(&base, batch, *transaction, is_credit));
    } else {
        let batch = details.first().map_or("", |(batch, _)| *batch);
        let plain = element.text_at(&["NtryDtls", "Btch", "PmtInfId"]);
        out.push(Entry { batch: tidy(if batch.is_empty() { plain } else { batch }), ..base });
    }
    Ok(())
}

/// Is an entry only announced? One without a status is booked: what a statement tells of is, unless it says otherwise. What is none of
/// ISO's says nothing that is known of the account's balance.
fn is_pending(entry: Element<'_>) -> Result<bool, String> {
    let status = [&["Sts", "Cd"][..], &["Sts", "Prtry"], &["Sts"]]
        .into_iter()
        .map(|path| entry.text_at(path))
        .find(|text| !text.is_empty());
    match status {
        Some("BOOK") | None => Ok(false),
        Some("PDNG" | "INFO" | "FUTR") => Ok(true),
        Some(other) => Err(format!("an entry's status is {other:?}, and none of BOOK, PDNG, INFO and FUTR")),
    }
}

/// One detail of an entry, with the id of its batch where only the batch has it.
fn read_details(base: &Entry, batch_id: &str, transaction: Element<'_>, is_credit: bool) -> Entry {
    let other = if is_credit { "Dbtr" } else { "Cdtr" };
    let account = if is_credit { "DbtrAcct" } else { "CdtrAcct" };
    let first = |paths: &[&[&str]]| {
        paths
            .iter()
            .map(|path| transaction.text_at(path))
            .find(|text| !text.is_empty())
            .unwrap_or("")
            .to_owned()
    };
    let mut text = String::new();
    if let Some(remittance) = transaction.at(&["RmtInf"]) {
        for line in remittance.children("Ustrd") {
            text.push_str(line.text());
            text.push(' ');
        }
        for structured in remittance.children("Strd") {
            text.push_str(structured.text_at(&["CdtrRefInf", "Ref"]));
            text.push(' ');
            for document in structured.children("RfrdDocInf") {
                text.push_str(document.text_at(&["Nb"]));
                text.push(' ');
            }
        }
    }
    text.push_str(&base.text);
    let reference =
        first(&[&["Refs", "EndToEndId"], &["Refs", "UETR"], &["Refs", "InstrId"], &["Refs", "TxId"]]);
    let batch = first(&[&["Refs", "PmtInfId"], &["Refs", "MsgId"]]);
    Entry {
        reference: tidy(&reference),
        batch: tidy(if batch.is_empty() { batch_id } else { &batch }),
        counterparty: tidy(&first(&[&["RltdPties", other, "Nm"], &["RltdPties", other, "Pty", "Nm"]])),
        counterparty_iban: tidy(&first(&[
            &["RltdPties", account, "Id", "IBAN"],
            &["RltdPties", account, "Id", "Othr", "Id"],
        ])),
        text: tidy(&text),
        is_return: base.is_return || transaction.at(&["RtrInf"]).is_some(),
        ..base.clone()
    }
}

/// The amount of one detail in the currency of the entry.
fn detail_amount(
    transaction: Element<'_>,
    currency: &str,
    account_currency: &str,
    is_credit: bool,
) -> Option<i128> {
    let wanted = if currency.is_empty() { account_currency } else { currency };
    let found = [&["Amt"][..], &["AmtDtls", "TxAmt", "Amt"], &["AmtDtls", "InstdAmt", "Amt"]]
        .into_iter()
        .filter_map(|path| transaction.at(path))
        .find(|amount| amount.currency() == wanted)?;
    let units = amount(found.text(), wanted).ok()?;
    let is_detail_credit = match transaction.text_at(&["CdtDbtInd"]) {
        "CRDT" => true,
        "DBIT" => false,
        _ => is_credit,
    };
    Some(if is_detail_credit { units } else { -units })
}

fn amount_of(element: Element<'_>) -> Result<(i128, String), String> {
    let found = element.at(&["Amt"]).ok_or("an amount is missing")?;
    let units = amount(found.text(), found.currency())?;
    let signed = match element.text_at(&["CdtDbtInd"]) {
        "CRDT" => units,
        "DBIT" => -units,
        other => return Err(format!("CdtDbtInd is {other:?}")),
    };
    Ok((signed, found.currency().to_owned()))
}

fn date_of(element: Option<Element<'_>>) -> Option<Date> {
    let element = element?;
    [element.text_at(&["Dt"]), element.text_at(&["DtTm"])].into_iter().find_map(Date::parse_iso)
}
