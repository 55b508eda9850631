//! Files made to break a reader are refused, and nothing panics.

use flowbridge_recon::statement::{self, CsvMapping, ReadStatementError};
use proptest::prelude::*;

const CAMT: &str = r#"<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"><BkToCstmrStmt><Stmt><Id>1</Id>
<Acct><Id><IBAN>NL26VAYB8060476890</IBAN></Id><Ccy>EUR</Ccy></Acct><Ntry><Amt Ccy="EUR">10.05</Amt><CdtDbtInd>DBIT</CdtDbtInd>
<Sts><Cd>BOOK</Cd></Sts><BookgDt><Dt>2026-11-20</Dt></BookgDt></Ntry></Stmt></BkToCstmrStmt></Document>"#;
const MT940: &str = ":20:A\n:25:NL1\n:28C:1/1\n:60F:C261120EUR100,00\n:61:2611201120DR10,05NTRFNONREF//X\n\
:86:166?00A?20EREF+1?32N\n:62F:C261120EUR89,95\n-";
const BAI2: &str = "01,1,2,261120,1,1,,,2/\n02,1,2,1,261120,,USD,/\n03,9,,010,100,,,015,200,,/\n16,142,100,Z,,,TEXT/\n49,400,3/\n\
98,400,1,5/\n99,400,1,7/";
const OFX: &str = "OFXHEADER:100\n\n<OFX><STMTRS><CURDEF>EUR<BANKACCTFROM><ACCTID>9</BANKACCTFROM><BANKTRANLIST><STMTTRN>\
<TRNTYPE>DEBIT<DTPOSTED>20261120<TRNAMT>-10.05<FITID>1<NAME>N</STMTTRN></BANKTRANLIST></STMTRS></OFX>";

fn units(file: &str) -> Vec<i128> {
    let read = statement::read(file.as_bytes(), None).expect("a good file");
    read.statements.iter().flat_map(|statement| &statement.entries).map(|entry| entry.minor_units).collect()
}

#[test]
fn one_line_reads_alike_in_every_format() {
    assert_eq!(units(CAMT), [-1_005]);
    assert_eq!(units(MT940), [-1_005]);
    assert_eq!(units(BAI2), [100]);
    assert_eq!(units(OFX), [-1_005]);
    let mapping: CsvMapping = serde_json::from_value(serde_json::json!({
        "delimiter": ";", "decimal_mark": ",", "thousands_mark": ".", "date_order": "dmy", "currency": "EUR",
        "account": "NL1", "columns": {"booked_on": "Datum", "amount": "Betrag"},
    }))
    .unwrap();
    let read = statement::read(b"Datum;Betrag\n20.11.2026;-1.010,05\n", Some(&mapping)).unwrap();
    assert_eq!(read.statements[0].entries[0].minor_units, -101_005);
    assert!(statement::read(b"Datum;Betrag\n20.11.2026;1,005\n", Some(&mapping)).is_err(), "too precise");
}

#[test]
fn document_types_undefined_entities_and_depth_are_refused() {
    let entity = CAMT.replacen("<Document", "<!DOCTYPE a [<!ENTITY b \"c\">]><Document", 1);
    let undefined = CAMT.replacen("<Id>1</Id>", "<Id>&b;</Id>", 1);
    let deep = format!("<Document xmlns=\"camt.053\">{}", "<a>".repeat(100_000));
    let precise = CAMT.replacen("10.05", "10.055", 1);
    for file in [entity, undefined, deep, precise] {
        let refused = statement::read(file.as_bytes(), None);
        assert!(matches!(refused, Err(ReadStatementError::Malformed { .. })), "{refused:?}");
    }
    assert_eq!(statement::read(b"hello", None), Err(ReadStatementError::UnknownFormat));
}

#[test]
fn only_what_camt_says_is_booked_counts_and_a_status_that_is_none_is_refused() {
    let with = |status: &str| {
        let file = CAMT.replacen("<Sts><Cd>BOOK</Cd></Sts>", status, 1);
        statement::read(file.as_bytes(), None).map(|read| read.statements[0].entries[0].is_pending)
    };
    for (code, is_pending) in [("BOOK", false), ("PDNG", true), ("INFO", true), ("FUTR", true)] {
        for status in [
            format!("<Sts>{code}</Sts>"),
            format!("<Sts><Cd>{code}</Cd></Sts>"),
            format!("<Sts><Prtry>{code}</Prtry></Sts>"),
        ] {
            assert_eq!(with(&status), Ok(is_pending), "{status}");
        }
    }
    for unknown in ["<Sts><Cd>book</Cd></Sts>", "<Sts><Prtry>GEBUCHT</Prtry></Sts>", "<Sts>EXPD</Sts>"] {
        let refused = with(unknown).unwrap_err().to_string();
        assert!(refused.contains("none of BOOK, PDNG, INFO and FUTR"), "{refused}");
    }
}

/// The same file as other systems would write it.
fn written_otherwise(text: &str) -> Vec<(&'static str, Vec<u8>)> {
    let utf16 = |bytes: fn(u16) -> [u8; 2], mark: [u8; 2]| -> Vec<u8> {
        mark.into_iter().chain(text.encode_utf16().flat_map(bytes)).collect()
    };
    vec![
        ("a mark before UTF-8", [b"\xef\xbb\xbf", text.as_bytes()].concat()),
        ("lines of Windows", text.replace('\n', "\r\n").into_bytes()),
        ("lines of an old Mac", text.replace('\n', "\r").into_bytes()),
        ("UTF-16, little end first", utf16(u16::to_le_bytes, [0xff, 0xfe])),
        ("UTF-16, big end first", utf16(u16::to_be_bytes, [0xfe, 0xff])),
        ("blank lines before", format!("\n \n{text}").into_bytes()),
    ]
}

#[test]
fn files_read_alike_however_they_were_saved() {
    let camt =
        CAMT.replacen("<Ntry>", "<Ntry><AddtlNtryInf>Käse & Söhne</AddtlNtryInf>", 1).replace('&', "&amp;");
    for (text, wanted) in [(camt.as_str(), -1_005), (MT940, -1_005), (BAI2, 100), (OFX, -1_005)] {
        for (how, file) in written_otherwise(text) {
            let read = statement::read(&file, None).unwrap_or_else(|error| panic!("{how}: {error}\n{text}"));
            let entries: Vec<i128> = read
                .statements
                .iter()
                .flat_map(|read| &read.entries)
                .map(|entry| entry.minor_units)
                .collect();
            assert_eq!(entries, [wanted], "{how}: {text}");
        }
    }
    let latin = |declared: &str| -> Vec<u8> {
        let text = format!("<?xml version='1.0' encoding='{declared}'?>{camt}");
        text.chars().map(|letter| u8::try_from(u32::from(letter)).unwrap()).collect()
    };
    let read = statement::read(&latin("ISO-8859-1"), None).unwrap();
    assert_eq!(read.statements[0].entries[0].text, "Käse & Söhne");
    assert!(statement::read(&latin("UTF-8"), None).is_err(), "a file that is not what it says");
}

#[test]
fn envelopes_and_prefixes_do_not_hide_a_document() {
    let prefixed = CAMT.replace("</", "</a:").replace("xmlns=", "xmlns:a=");
    let prefixed = prefixed.replace('<', "<a:").replace("<a:/a:", "</a:");
    let wrapped = format!("<?xml version='1.0'?><Envelope xmlns='urn:e'><AppHdr/>{CAMT}</Envelope>");
    assert_eq!(units(&prefixed), [-1_005]);
    assert_eq!(units(&wrapped), [-1_005]);
    let followed = format!("{CAMT}\n<!-- sent at noon --><?archive 7?>\n");
    assert_eq!(units(&followed), [-1_005]);
}

#[test]
fn a_second_document_is_refused_wherever_it_stands() {
    let message = &CAMT[CAMT.find("<BkToCstmrStmt>").unwrap()..CAMT.find("</Document>").unwrap()];
    let files = [
        format!("{CAMT}\n{CAMT}"),
        format!("{CAMT} and more"),
        format!("<Envelope xmlns='urn:e'>{CAMT}{CAMT}</Envelope>"),
        format!("<Envelope xmlns='urn:e'>{CAMT}<Old><Older><Oldest>{CAMT}</Oldest></Older></Old></Envelope>"),
        CAMT.replacen(message, &message.repeat(2), 1),
    ];
    for file in files {
        let refused = statement::read(file.as_bytes(), None);
        assert!(matches!(refused, Err(ReadStatementError::Malformed { .. })), "{refused:?}");
    }
}

#[test]
fn a_table_may_begin_with_lines_about_the_account() {
    let mapping: CsvMapping = serde_json::from_value(serde_json::json!({
        "delimiter": ";", "decimal_mark": ",", "thousands_mark": ".", "date_order": "dmy", "currency": "EUR",
        "account": "NL1", "columns": {"booked_on": "Buchungstag", "amount": "Betrag", "text": "Zweck"},
    }))
    .unwrap();
    let file = "Girokonto;NL1\nVon:;01.11.2026\n\n\"BUCHUNGSTAG\";Zweck;Betrag\n20.11.26;\"a;\nb\";\u{2212}1.010,05\n;;\n";
    let read = statement::read(file.as_bytes(), Some(&mapping)).unwrap();
    let entries = &read.statements[0].entries;
    assert_eq!((entries.len(), entries[0].minor_units, entries[0].text.as_str()), (1, -101_005, "a; b"));
    let refused = statement::read(b"Buchungstag;Zweck\n20.11.26;a\n", Some(&mapping)).unwrap_err();
    assert!(refused.to_string().contains("Betrag"), "{refused}");
}

#[test]
fn equal_lines_are_kept_and_numbered() {
    let line = ":61:2611201120DR10,05NTRFNONREF//X\n:86:166?00A?20EREF+1?32N\n";
    let read = statement::read(MT940.replacen(line, &line.repeat(2), 1).as_bytes(), None).unwrap();
    let numbers: Vec<u32> = read.statements[0].entries.iter().map(|entry| entry.occurrence).collect();
    assert_eq!(numbers, [0, 1]);
    assert_eq!(flowbridge_recon::gate::statement_gaps(&read.heads()).len(), 1, "it does not add up any more");
}

/// One entry of as many details as asked for, each of a cent, with what the batch says as a whole.
fn batch(details: usize, said: &str) -> String {
    let entry = format!(
        "<Ntry><Amt Ccy=\"EUR\">{}.{:02}</Amt><CdtDbtInd>CRDT</CdtDbtInd><BookgDt><Dt>2026-11-20</Dt></BookgDt>\
         <AcctSvcrRef>{said}</AcctSvcrRef><NtryDtls>{}</NtryDtls><AddtlNtryInf>{said}</AddtlNtryInf></Ntry>",
        details / 100,
        details % 100,
        "<TxDtls><Amt Ccy=\"EUR\">0.01</Amt></TxDtls>".repeat(details)
    );
    CAMT.replacen("</Ntry>", &format!("</Ntry>{entry}"), 1)
}

#[test]
fn a_few_bytes_of_a_file_do_not_ask_for_hundreds_in_memory() {
    let many = statement::STATEMENTS_MAX + 1;
    let stmt = "<Stmt><Acct><Id><IBAN>N</IBAN></Id></Acct></Stmt>".repeat(many);
    let files = [
        CAMT.replacen("<Stmt>", &format!("{stmt}<Stmt>"), 1),
        format!(":20:\n{}", ":20:\n".repeat(many)),
        format!("01,1,2,261120,1,1,,,2/\n02,1,2,1,261120,,USD,/\n{}", "03,9,,/\n".repeat(many)),
        format!("<OFX>{}</OFX>", "<STMTRS>".repeat(many)),
    ];
    for file in files {
        assert_eq!(statement::read(file.as_bytes(), None), Err(ReadStatementError::TooLarge));
    }
    let names: String = (0..10_000).map(|number| format!("<n{number}/>")).collect();
    let record = BAI2.replacen("TEXT", &",".repeat(2 << 20), 1);
    let refused = [
        (CAMT.replacen("<Ntry>", &format!("{names}<Ntry>"), 1), "different names"),
        (batch(70_000, &"𝄞".repeat(2_000)), "what its batches say"),
        (record, "a record of more than"),
    ];
    for (file, why) in refused {
        let error = statement::read(file.as_bytes(), None).unwrap_err();
        assert!(error.to_string().contains(why), "{error:.200}");
    }
}

#[test]
fn large_batches_and_files_with_a_line_per_element_are_read() {
    assert_eq!(units(&batch(70_000, "salaries")).len(), 70_001);
    let entry = &CAMT[CAMT.find("<Ntry>").unwrap()..CAMT.find("</Stmt>").unwrap()];
    let indented = format!("\n        {}", entry.replace("><", ">\n            <"));
    let file = CAMT.replacen(entry, &indented.repeat(10_000), 1);
    assert_eq!(units(&file).len(), 10_000);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_never_panic(which in 0usize..4, cut in 0usize..600, put in 0usize..600, what in ".{0,6}") {
        let mut text = [CAMT, MT940, BAI2, OFX][which].to_owned();
        if let Some(place) = (put..text.len()).find(|place| text.is_char_boundary(*place)) {
            text.insert_str(place, &what);
        }
        if let Some(place) = (cut..text.len()).find(|place| text.is_char_boundary(*place)) {
            text.remove(place);
        }
        if let Ok(read) = statement::read(text.as_bytes(), None) {
            prop_assert!(!read.statements.is_empty());
        }
    }
}
