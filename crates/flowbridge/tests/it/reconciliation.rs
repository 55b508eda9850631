//! Reconciliation on the command line, against a running FlowBridge.

use crate::running::{Running, until};
use flowbridge_domain::bank::HoldMode;
use flowbridge_domain::party::BankCode;
use flowbridge_domain::time::Timestamp;
use flowbridge_recon::Model;
use flowbridge_recon::report::sha256;
use flowbridge_store::{Db, DbSettings, party};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

const STATEMENT: &str = ":20:STARTUMS\r\n:25:DE02120300000000202051\r\n:28C:1/1\r\n:60F:C261101EUR100,00\r\n\
    :61:2611021102C50,00NTRFNONREF//SAME\r\n:86:RENT\r\n:62F:C261102EUR150,00\r\n-\r\n";

const CAMT: &str = r#"<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"><BkToCstmrStmt><Stmt><Id>S-1</Id>
<Acct><Id><IBAN>DE02120300000000202051</IBAN></Id><Ccy>EUR</Ccy></Acct>
<Bal><Tp><CdOrPrtry><Cd>OPBD</Cd></CdOrPrtry></Tp><Amt Ccy="EUR">100.00</Amt><CdtDbtInd>CRDT</CdtDbtInd></Bal>
<Bal><Tp><CdOrPrtry><Cd>CLBD</Cd></CdOrPrtry></Tp><Amt Ccy="EUR">150.00</Amt><CdtDbtInd>CRDT</CdtDbtInd></Bal>
<Ntry><Amt Ccy="EUR">50.00</Amt><CdtDbtInd>CRDT</CdtDbtInd><Sts><Cd>BOOK</Cd></Sts>
<BookgDt><Dt>2026-11-02</Dt></BookgDt></Ntry></Stmt></BkToCstmrStmt></Document>"#;
/// Of one upload.
const BYTES_MAX: usize = 65_536;

#[tokio::test]
async fn banks_and_chain_are_reconciled_and_what_does_not_belong_is_refused() {
    let bytes_max = BYTES_MAX.to_string();
    let settings = [
        ("FLOWBRIDGE__RECONCILIATION__NIGHTLY_AT", ""),
        ("FLOWBRIDGE__RECONCILIATION__MODELS", "models"),
        ("FLOWBRIDGE__AUDIT__CHECKPOINT_SECS", "1"),
        ("FLOWBRIDGE__RECONCILIATION__STATEMENT_BYTES_MAX", bytes_max.as_str()),
    ];
    let running = Running::start("reconciliation", &settings).await;
    let started = running.command(&["recon", "start"]);
    for scope in ["alpha", "beta", "chain:EUR"] {
        let line = started.lines().find(|line| line.contains(scope));
        assert!(line.is_some_and(|line| line.contains("done")), "{scope}: {started}");
    }
    assert!(!started.contains("unexplained -") && started.contains("unexplained 0"), "{started}");
    assert!(running.command(&["recon", "exceptions", "--state", "all"]).contains("no exceptions"));
    let listed = running.command(&["recon", "list", "--scope", "alpha"]);
    let id = listed.split_whitespace().next().unwrap();
    let log = ["api", "GET", "/v1/events?topic=reconciliation&limit=100", "--client"];
    let told = running.json(&[&log[..], &["operator"]].concat())["data"].as_array().unwrap().clone();
    assert!(
        told.iter().any(|event| event["type"] == "reconciliation.completed" && event["subject"] == id),
        "{told:?}"
    );
    assert!(running.refusal(&[&log[..], &["alpha"]].concat()).contains("only operators"));
    let report = running.json(&["recon", "report", id]);
    assert_eq!((&report["summary"]["scope"], &report["summary"]["matched"]), (&"alpha".into(), &1.into()));
    assert!(running.command(&["recon", "report", id, "--format", "html"]).starts_with("<!doctype html>"));
    let manifest = report["manifest_sha256"].as_str().unwrap();
    assert!(running.command(&["recon", "report", id, "--format", "camt"]).contains(manifest));
    let paper = running.file("report.pdf");
    running.command(&["recon", "report", id, "--format", "pdf", "--out", paper.to_str().unwrap()]);
    let paper = fs::read(paper).unwrap();
    assert!(paper.starts_with(b"%PDF") && paper.windows(64).any(|part| part == manifest.as_bytes()));
    let taught = running.refusal(&[
        "recon",
        "retrain",
        "--from-database",
        "--split-on",
        "2100-01-01",
        "--models",
        running.file("models").to_str().unwrap(),
    ]);
    assert!(taught.contains("only 0 decisions"), "{taught}");
    a_model_is_put_in_force_by_two(&running);
    reports_and_decisions_are_in_the_audit_log(&running, id).await;

    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (good, bad) = (folder.join("good.sta"), folder.join("bad.sta"));
    fs::write(&good, STATEMENT).unwrap();
    fs::write(&bad, STATEMENT.replace("EUR150,00", "EUR151,00")).unwrap();
    let import = |file: &PathBuf, bank: &str| {
        let (file, bank) = (file.to_str().unwrap().to_owned(), bank.to_owned());
        running.refusal(&["recon", "import", &file, "--bank", &bank])
    };
    assert!(import(&good, "alpha").contains("statement_source"), "its connector reads it already");
    assert!(import(&bad, "alpha").contains("statement_does_not_add_up"));
    assert!(import(&good, "nobody").contains("there is no such bank"));

    let breaker = running.json(&["breaker", "show"]);
    assert_eq!(breaker["state"], "closed");
    let refused = running.refusal(&["breaker", "reset", "--reason", "none"]);
    assert!(refused.contains("the breaker is closed"), "{refused}");
    assert_eq!(running.json(&["proof", "--client", "operator"])["breaker"]["state"], "closed");
    a_statement_is_brought_once_and_refused_with_the_reason(&running).await;
}

/// Archived, entered, signed, proven, pinned on chain, and checked from outside.
async fn reports_and_decisions_are_in_the_audit_log(running: &Running, run: &str) {
    let path = format!("/v1/reconciliations/{run}");
    let entries = || running.command(&["audit", "list", "--json"]).lines().count();
    let verify = ["audit", "verify", "--database"];
    until(async || {
        let is_archived =
            running.json(&["api", "GET", &path, "--client", "operator"])["archived_at"].is_string();
        let all = format!("{} entries", entries());
        is_archived && entries() > 3 && running.said(&verify).contains(&all)
    })
    .await;
    let verified = running.command(&verify);
    assert!(verified.contains("all as they were signed") && !verified.contains(" 0 reports"), "{verified}");

    let listed = running.command(&["audit", "list", "--object", run]);
    let (sequence, rest) = listed.trim().split_once(' ').unwrap();
    assert!(rest.contains("reconciliation.completed") && rest.ends_with("flowbridge"), "{listed}");
    assert!(running.command(&["audit", "list"]).contains("model.answered"));
    let folder = running.file("proofs");
    fs::create_dir_all(&folder).unwrap();
    running.command(&["audit", "prove", sequence, "--out", folder.to_str().unwrap()]);
    let file = |name: &str| folder.join(format!("{sequence}.{name}")).to_str().unwrap().to_owned();
    let key = running.command(&["audit", "key"]);
    let check = ["audit", "check", &file("tlog-proof"), &file("json"), "--key", &key];
    assert!(running.command(&check).starts_with(&format!("it is entry {sequence} of")));
    let entry = fs::read_to_string(file("json")).unwrap();
    fs::write(file("json"), entry.replace("alpha", "gamma")).unwrap();
    assert!(running.refusal(&check).contains("it is not entry"));
    assert!(running.refusal(&["audit", "prove", "100000"]).contains("the newest checkpoint covers"));

    let anchor = ["audit", "anchor", "--key", ".flowbridge/keys/admin.key"];
    assert!(running.command(&anchor).contains("are pinned on chain, 0 were before"));
    assert!(running.command(&anchor).contains("are pinned already"));
    let owner = ["audit", "anchor", "--key", ".flowbridge/keys/owners/owner-1.key"];
    assert!(running.command(&owner).contains("are pinned already"), "nothing to pin, nothing to refuse");
    let kept = folder.join("checkpoint");
    fs::copy(running.file(".flowbridge/archive/audit/checkpoint"), &kept).unwrap();
    let outside =
        ["audit", "verify", "--archive", ".flowbridge/archive", "--key", &key, "--chain", "--since"];
    let outside = [&outside[..], &[kept.to_str().unwrap()]].concat();
    let verified = running.command(&outside);
    assert!(
        verified.contains("entries are pinned on chain") && verified.contains("all as they were"),
        "{verified}"
    );

    let report = format!(".flowbridge/archive/reports/{}/alpha/{run}/report.html", day_of(&entry));
    fs::write(running.file(&report), "another report").unwrap();
    let refused = running.refusal(&outside);
    let named = format!("report.html is not the report that entry {sequence} names");
    assert!(refused.contains(&named) && refused.contains("NOT as they were signed"), "{refused}");
    assert!(running.refusal(&["audit", "verify", "--key", "alpha"]).contains("no verifier key"));
}

fn day_of(entry: &str) -> String {
    let entry: Value = serde_json::from_str(entry).unwrap();
    entry["public"]["day"].as_str().unwrap().to_owned()
}

/// The statements of a bank without a connector.
async fn a_statement_is_brought_once_and_refused_with_the_reason(running: &Running) {
    let config = fs::read_to_string(running.file(".flowbridge/flowbridge.toml")).unwrap();
    let config: Value = toml::from_str(&config).unwrap();
    let db = Db::new(&DbSettings::new(config["database"]["url"].as_str().unwrap())).unwrap();
    let gamma = BankCode::parse("gamma").unwrap();
    party::save_bank(&db, &gamma, "Gamma", HoldMode::Native, Timestamp::from_secs(0)).await.unwrap();

    let address = format!("{}/v1/statements?bank=gamma&name=monday.xml", running.url);
    let bring = async |client: &str, file: &str| {
        let token = running.command(&["token", "--client", client]);
        let request = reqwest::Client::new().post(&address).bearer_auth(token).body(file.to_owned());
        let answer = request.send().await.unwrap();
        let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
        (answer.status().as_u16(), kind, answer.json::<Value>().await.unwrap())
    };
    let (status, _, taken) = bring("operator", CAMT).await;
    let first = &taken["data"][0];
    assert_eq!((status, &taken["repeat"]), (201, &false.into()), "{taken}");
    assert_eq!((&first["format"], &first["name"]), (&"camt".into(), &"monday.xml".into()));
    let told = (&first["opening"], &first["lines"], &first["closing"]);
    assert_eq!(told, (&10_000.into(), &1.into(), &15_000.into()));
    let (status, _, again) = bring("operator", CAMT).await;
    let told = (status, &again["repeat"], &again["data"][0]["id"]);
    assert_eq!(told, (200, &true.into(), &first["id"]));

    for (client, file, status, code, why) in [
        (
            "operator",
            &*CAMT.replace("150.00", "151.00"),
            422,
            "statement_does_not_add_up",
            "opening 10000 and lines of 5000 do not lead to closing 15100",
        ),
        ("operator", &*STATEMENT.replace("C50,00", "X50,00"), 422, "statement_unreadable", "line 5: :61:"),
        ("operator", "hello", 422, "statement_unreadable", "not a statement in camt"),
        ("operator", &*"x".repeat(BYTES_MAX + 1), 413, "request_too_large", "the body as a whole"),
        ("alpha", CAMT, 403, "insufficient_scope", ""),
    ] {
        let (found, kind, problem) = bring(client, file).await;
        assert_eq!((found, &*kind, &problem["code"]), (status, "application/problem+json", &code.into()));
        assert!(problem.to_string().contains(why), "{problem}");
    }

    let file = running.file("monday.xml");
    fs::write(&file, CAMT).unwrap();
    let told = running.command(&["recon", "import", file.to_str().unwrap(), "--bank", "gamma"]);
    assert!(told.contains("the same file was here") && told.contains("closing 15000"), "{told}");
    let listed = running.command(&["recon", "statements", "--scope", "gamma"]);
    assert!(listed.lines().count() == 1 && listed.contains("closing 15000"), "nothing else: {listed}");
}

/// One operator proposes a model, another confirms it, and the next run judges with it.
fn a_model_is_put_in_force_by_two(running: &Running) {
    let shipped = Model::shipped_sha256();
    // Other bytes of the same model are another model.
    let mut file = Model::shipped().unwrap().to_file().unwrap();
    file.extend_from_slice(b"\n \n");
    let id = sha256(&file);
    let judgement = r#"{"coverage":0.9,"precision":1.0,"precision_down":0.999,"coverage_at_999":0.9}"#;
    let measured = format!(
        r#"{{"model":"{id}","champion":"{shipped}","comparison":{{"split_on":"2026-11-15","learned":5000,"judged":900,
            "champion":{judgement},"challenger":{judgement},"is_better":false}}}}"#
    );
    let folder = running.file("models");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(format!("{id}.json")), file).unwrap();
    fs::write(folder.join(format!("{id}.comparison.json")), measured).unwrap();
    let register = ["clients", "register", "second", "--name", "Another operator", "--operator"];
    running.command(&[&register[..], &["--new-key", ".flowbridge/clients/second.pem"]].concat());

    let propose = ["recon", "models", "propose", id.as_str(), "--reason", "as good"];
    assert!(running.refusal(&propose).contains("proposed with its comparison"));
    let proposed = running.command(&[&propose[..], &["--models", folder.to_str().unwrap()]].concat());
    assert!(
        proposed.contains("proposed by") && proposed.contains("on 900 pairs posts 90.00 %"),
        "{proposed}"
    );
    let confirm = ["recon", "models", "confirm", &id[..12]];
    assert!(running.refusal(&confirm).contains("second_person_required"));
    assert!(running.command(&["recon", "models", "list"]).contains(&format!("in force: {shipped}")));
    running.command(&[&confirm[..], &["--client", "second"]].concat());
    assert!(running.command(&["recon", "models", "list"]).contains(&format!("in force: {id}")));

    let started = running.command(&["recon", "start", "--scope", "alpha"]);
    let path = format!("/v1/reconciliations/{}", started.split_whitespace().next().unwrap());
    let run = running.json(&["api", "GET", &path, "--client", "operator"]);
    assert_eq!(run["summary"]["model"]["sha256"], id, "{run}");
}
