//! Files of payments: our example, one that others wrote, and what strangers may try.

use flowbridge_bank::iso20022::{
    CreditTransferInitiation, FileProblem, Pain001Version, PaymentInstruction, RefusedEntry, read_pain001,
};
use std::io::Write as _;
use std::path::{Path, PathBuf};

const ISO: &str = "urn:iso:std:iso:20022:tech:xsd:pain.001.001.09";
const TRANSFER: &str = r#"<CdtTrfTxInf><PmtId><EndToEndId>E1</EndToEndId></PmtId>
  <Amt><InstdAmt Ccy="EUR">12.50</InstdAmt></Amt>
  <Cdtr><Nm>Creditor</Nm></Cdtr><CdtrAcct><Id><IBAN>DE89370400440532013000</IBAN></Id></CdtrAcct>
  <RmtInf><Ustrd>thanks</Ustrd></RmtInf></CdtTrfTxInf>"#;

fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A file of one block with these transfers.
fn file_of(transfers: &str) -> String {
    let count = transfers.matches("<CdtTrfTxInf>").count();
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?><Document xmlns="{ISO}"><CstmrCdtTrfInitn>
        <GrpHdr><MsgId>M1</MsgId><NbOfTxs>{count}</NbOfTxs></GrpHdr>
        <PmtInf><PmtMtd>TRF</PmtMtd><ReqdExctnDt><Dt>2026-11-23</Dt></ReqdExctnDt><Dbtr><Nm>Debtor</Nm></Dbtr>
        <DbtrAcct><Id><IBAN>CH9300762011623852957</IBAN></Id></DbtrAcct>
        <DbtrAgt><FinInstnId><BICFI>POFICHBEXXX</BICFI></FinInstnId></DbtrAgt>
        {transfers}</PmtInf></CstmrCdtTrfInitn></Document>"#
    )
}

fn read(file: &str) -> CreditTransferInitiation {
    read_pain001(file.as_bytes()).unwrap()
}

fn only_entry(file: &str) -> Result<PaymentInstruction, RefusedEntry> {
    let mut message = read(file);
    assert_eq!(message.entries.len(), 1);
    message.entries.pop().unwrap()
}

#[test]
fn our_example_is_read_whole() {
    let file = std::fs::read(workspace_root().join("examples/pain.001-example.xml")).unwrap();
    let message = read_pain001(&file).unwrap();
    assert_eq!(message.version, Pain001Version::V09);
    assert_eq!(message.disagreements(), Vec::<String>::new());
    let entries: Vec<_> = message.entries.into_iter().map(Result::unwrap).collect();
    let told: Vec<_> = entries
        .iter()
        .map(|entry| {
            let remittance = entry.remittance_information.as_ref().map_or("", |text| text.reveal());
            format!("{} {} {remittance}", entry.place, entry.instructed_amount)
        })
        .collect();
    assert_eq!(
        told,
        [
            "PmtInf 1 / CdtTrfTxInf 1 25.50 CHF Invoice 4711 & delivery",
            "PmtInf 1 / CdtTrfTxInf 2 50.05 CHF RF18539007547034",
            "PmtInf 2 / CdtTrfTxInf 1 100.00 CHF ",
        ]
    );
    assert_eq!(entries[0].uetr.unwrap().to_string(), "4a3f2d1c-8b7e-4c6d-9f0a-1b2c3d4e5f60");
    assert_eq!(entries[0].debtor.agent.as_ref().unwrap().as_str(), "ALPHCHZZXXX");
}

#[test]
fn the_sample_of_postfinance_disagrees_with_its_header_and_half_of_it_can_be_carried() {
    let Some(file) = shared_data("samples/pain.001-postfinance-2020-11.xml") else { return };
    let message = read_pain001(&file).unwrap();
    assert_eq!(message.version, Pain001Version::V03);
    assert_eq!(message.disagreements(), ["GrpHdr: NbOfTxs says 7, the file has 8 transactions"]);
    let told: Vec<String> = message
        .entries
        .iter()
        .map(|entry| match entry {
            Ok(payment) => format!(
                "{} {} {} -> {} {} on {}",
                payment.place,
                payment.end_to_end_id,
                payment.debtor.account.as_str(),
                payment.creditor.account.as_str(),
                payment.instructed_amount,
                payment.requested_execution_on
            ),
            Err(refused) => refused.to_string(),
        })
        .collect();
    assert_eq!(
        told,
        [
            "PmtInf 1 / CdtTrfTxInf 1 EndToEndId-01-01 CH0309000000250090342 -> CH5109000000250092291 6.20 CHF on 2020-07-28",
            "PmtInf 2 / CdtTrfTxInf 1: AC03 the creditor's account is no IBAN",
            "PmtInf 2 / CdtTrfTxInf 2 EndToEndId-02-02 CH0309000000250090342 -> CH2909000000250094239 12.00 CHF on 2020-07-22",
            "PmtInf 3 / CdtTrfTxInf 1 EndToEndId-03-01 CH0309000000250090342 -> CH5109000000250092291 5.00 CHF on 2020-07-24",
            "PmtInf 3 / CdtTrfTxInf 2: AC03 the creditor's account: not an IBAN: its check digits do not fit",
            "PmtInf 4 / CdtTrfTxInf 1: AM03 an equivalent amount needs a currency exchange, which FlowBridge does not do",
            "PmtInf 5 / CdtTrfTxInf 1 EEndToEndId-05-01 CH5109000000250092291 -> CH7730000001250094239 4.00 CHF on 2020-06-17",
            "PmtInf 5 / CdtTrfTxInf 2: AG01 debtor and creditor are the same account",
        ]
    );
}

/// Data that others made, which is not in this repository. Without it a test says loudly that it proved nothing.
fn shared_data(path: &str) -> Option<Vec<u8>> {
    #[expect(
        clippy::disallowed_methods,
        reason = "where data outside the repository lies is up to the machine"
    )]
    let folder = std::env::var("FLOWBRIDGE_TEST_DATA")
        .map_or_else(|_| workspace_root().join("../shared/data"), PathBuf::from);
    let file = folder.join(path);
    let read = std::fs::read(&file).ok();
    if read.is_none() {
        // Past the capture of test output, so that it is seen when all is green.
        let notice = format!("SKIPPED, NOTHING PROVED: no {}; set FLOWBRIDGE_TEST_DATA\n", file.display());
        std::io::stderr().write_all(notice.as_bytes()).unwrap();
    }
    read
}

#[test]
fn versions_differ_in_where_things_stand() {
    let v09 = file_of(TRANSFER);
    let payment = only_entry(&v09).unwrap();
    let v03 = v09
        .replace("pain.001.001.09", "pain.001.001.03")
        .replace("<Dt>2026-11-23</Dt>", "2026-11-23")
        .replace("BICFI", "BIC");
    assert_eq!(only_entry(&v03).unwrap(), payment);
    for version in ["10", "11"] {
        let file = v09
            .replace("pain.001.001.09", &format!("pain.001.001.{version}"))
            .replace("<Dt>2026-11-23</Dt>", "<DtTm>2026-11-23T23:30:00+01:00</DtTm>");
        assert_eq!(only_entry(&file).unwrap(), payment, "{version}");
    }
    let prefixed = v09
        .replace("xmlns=", "xmlns:p=")
        .replace("</", "<\u{0}")
        .replace('<', "<p:")
        .replace("<p:\u{0}", "</p:")
        .replace("<p:?", "<?");
    assert_eq!(only_entry(&prefixed).unwrap(), payment, "{prefixed}");
    for other in ["pain.001.001.02", "pain.001.001.12", "pain.008.001.09", "pain.001.001.0", "9"] {
        let error = read_pain001(v09.replace("pain.001.001.09", other).as_bytes()).unwrap_err();
        assert!(matches!(error.problem, FileProblem::NotThisMessage(_)), "{other}: {error}");
    }
}

#[test]
fn an_entry_that_cannot_be_carried_is_refused_with_its_reason() {
    // What to replace, with what, and the reason code.
    let cases = [
        (">12.50<", ">0.00<", "AM01"),
        (">12.50<", ">12.505<", "AM12"),
        (">12.50<", ">-12.50<", "AM12"),
        (">12.50<", ">1e3<", "AM12"),
        (">12.50<", "><", "AM12"),
        (">12.50<", ">90071992547409.92<", "AM02"),
        (r#"Ccy="EUR""#, r#"Ccy="XXX""#, "AM11"),
        (r#"Ccy="EUR""#, "", "AM11"),
        ("InstdAmt", "Instd", "AM12"),
        ("DE89370400440532013000", "DE88370400440532013000", "AC03"),
        ("DE89370400440532013000", "CH9300762011623852957", "AG01"),
        ("DE89370400440532013000", "CH93 0076 2011 6238 5295 7", "AG01"),
        ("<IBAN>DE89370400440532013000</IBAN>", "<Othr><Id>1</Id></Othr>", "AC03"),
        ("CH9300762011623852957", "CH9300762011623852958", "AC02"),
        ("POFICHBEXXX", "pofi", "RC03"),
        ("<PmtMtd>TRF", "<PmtMtd>CHK", "FF03"),
        ("<EndToEndId>E1</EndToEndId>", "", "FF08"),
        (">E1<", ">123456789012345678901234567890123456<", "FF08"),
        ("<EndToEndId>", "<UETR>018f0000-0000-7000-8000-000000000000</UETR><EndToEndId>", "FF02"),
        ("<Dt>2026-11-23</Dt>", "<Dt>2026-02-30</Dt>", "DT01"),
        ("<Dt>2026-11-23</Dt>", "<Dt>tomorrow</Dt>", "DT01"),
        ("<Dt>2026-11-23</Dt>", "", "DT01"),
    ];
    for (what, with, reason) in cases {
        let file = file_of(TRANSFER);
        assert!(file.contains(what), "{what}");
        let refused = only_entry(&file.replace(what, with)).unwrap_err();
        assert_eq!(refused.reason.as_str(), reason, "{what} -> {with}: {refused}");
    }
}

#[test]
fn a_refused_entry_does_not_stop_its_neighbours_and_still_counts_in_the_totals() {
    let bad = TRANSFER.replace("DE89", "DE00");
    let file = file_of(&[TRANSFER, &bad, TRANSFER].concat())
        .replace("</NbOfTxs></GrpHdr>", "</NbOfTxs><CtrlSum>37.500</CtrlSum></GrpHdr>")
        .replace("<PmtMtd>", "<NbOfTxs>2</NbOfTxs><CtrlSum>37.51</CtrlSum><PmtMtd>");
    let message = read(&file);
    let carried: Vec<bool> = message.entries.iter().map(Result::is_ok).collect();
    assert_eq!(carried, [true, false, true]);
    assert_eq!(
        message.disagreements(),
        [
            "PmtInf 1: NbOfTxs says 2, the file has 3 transactions",
            "PmtInf 1: CtrlSum says 37.51, the amounts add up to 37.5",
        ]
    );
}

#[test]
fn text_is_read_as_xml_means_it_and_never_shown_by_accident() {
    let file = file_of(&TRANSFER.replace("thanks", "a &lt;b&gt; &amp; <![CDATA[<c>]]> &#233;<!-- no -->!"));
    let payment = only_entry(&file).unwrap();
    assert_eq!(payment.remittance_information.as_ref().unwrap().reveal(), "a <b> & <c> é!");
    let shown = format!("{payment:?}");
    assert!(!shown.contains("Creditor\"") && !shown.contains("DE89370400440532013000"), "{shown}");
}

#[test]
fn elements_of_other_namespaces_are_passed_over() {
    let extra = r#"<x:More xmlns:x="urn:other"><x:Amt><CdtTrfTxInf/></x:Amt></x:More><SplmtryData><Envlp/></SplmtryData>"#;
    let plain = only_entry(&file_of(TRANSFER)).unwrap();
    let file = file_of(&TRANSFER.replace("<Cdtr>", &format!("{extra}<Cdtr>")));
    assert_eq!(only_entry(&file).unwrap(), plain);
    let around = file_of(TRANSFER).replace("<PmtInf>", &format!("{extra}<PmtInf>"));
    assert_eq!(only_entry(&around).unwrap(), plain);
}

#[test]
fn hostile_files_are_refused() {
    let good = file_of(TRANSFER);
    let doctype = |declaration: &str| good.replace("<Document", &format!("{declaration}<Document"));
    let billion = r#"<!DOCTYPE d [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>"#;
    let external = r#"<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]>"#;
    let deep = format!("{}{}", "<a>".repeat(100_000), "</a>".repeat(100_000));
    let attributes: String = (0..50_000).map(|n| format!(" a{n}='1'")).collect();
    let namespaces: String = (0..50_000).map(|n| format!(" xmlns:a{n}='u{n}'")).collect();
    let latin1 = good.replace("thanks", "\u{e9}").chars().map(|c| c as u8).collect::<Vec<u8>>();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("entity bomb", doctype(billion).into()),
        ("external entity", doctype(external).into()),
        ("doctype in an element", good.replace("thanks", "<!DOCTYPE d>").into()),
        ("undefined entity", good.replace("thanks", "&x;").into()),
        ("character zero", good.replace("thanks", "&#0;").into()),
        ("control character", good.replace("thanks", "\u{1}").into()),
        ("deep", good.replace("thanks", &deep).into()),
        ("deep elsewhere", good.replace("<PmtInf>", &format!("{deep}<PmtInf>")).into()),
        (
            "deep in another namespace",
            good.replace("<PmtInf>", &format!("<x xmlns='u'>{deep}</x><PmtInf>")).into(),
        ),
        ("many attributes", good.replace("<InstdAmt", &format!("<InstdAmt{attributes}")).into()),
        ("many namespaces", good.replace("<Amt>", &format!("<Amt{namespaces}>")).into()),
        ("attribute twice", good.replace("Ccy=", "Ccy='EUR' Ccy=").into()),
        ("long text", good.replace("thanks", &"x".repeat(1 << 20)).into()),
        ("long text in pieces", good.replace("thanks", &"xxxxxxx&amp;".repeat(10_000)).into()),
        ("long name", good.replace("<Cdtr>", &format!("<{}/><Cdtr>", "n".repeat(1 << 20))).into()),
        ("many elements", good.replace("<Cdtr>", &format!("{}<Cdtr>", "<a/>".repeat(10_000))).into()),
        ("cut", good[..good.len() - 40].into()),
        ("two messages", format!("{good}{good}").into()),
        ("crossed elements", good.replace("</Nm></Cdtr>", "</Cdtr></Nm>").into()),
        ("not UTF-8", latin1),
        ("another encoding", good.replace("UTF-8", "ISO-8859-1").into()),
        ("no header", good.replace("GrpHdr", "Grp").into()),
        ("no number", good.replace("<NbOfTxs>1", "<NbOfTxs>-1").into()),
        ("empty", Vec::new()),
        ("not XML", b"{\"payments\": []}".to_vec()),
        ("too large", vec![b' '; (32 << 20) + 1]),
    ];
    for (name, file) in cases {
        let started = std::time::Instant::now();
        let result = read_pain001(&file);
        assert!(result.is_err(), "{name}: {result:?}");
        assert!(started.elapsed().as_secs() < 5, "{name} took {:?}", started.elapsed());
    }
}

#[test]
fn no_single_broken_byte_makes_the_reader_panic() {
    let good = file_of(TRANSFER).into_bytes();
    for place in 0..good.len() {
        for byte in [0, b'<', b'>', b'&', b'"', b'/', 0xff] {
            let mut broken = good.clone();
            broken[place] = byte;
            drop(read_pain001(&broken));
        }
    }
}

#[test]
fn an_error_names_the_line() {
    let file = file_of(&TRANSFER.replace("thanks", "&who;"));
    let error = read_pain001(file.as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), r#"line 9: the entity "who" is not defined"#);
}
