//! The audit log over a database and an archive, and what somebody who can write to either may try; and the reports of a real
//! reconciliation on their way there.

use crate::bucket::TestBucket;
use crate::stage::{Shape, Stage};
use flowbridge_audit::Hash;
use flowbridge_audit::checkpoint::{Checkpoint, LogKey, Trusted};
use flowbridge_audit::replay::{bundle, leaves};
use flowbridge_domain::id::{ExceptionId, PaymentId};
use flowbridge_domain::time::{ManualClock, Timestamp};
use flowbridge_embedded::EmbeddedPostgres;
use flowbridge_security::jose::Algorithm;
use flowbridge_security::keys::SigningKey;
use flowbridge_store::audit as rows;
use flowbridge_store::event_data::EventData;
use flowbridge_store::event_log::{self, NewEvent, ReplayFrom, topic};
use flowbridge_store::wake::Wake;
use flowbridge_store::{Db, DbSettings};
use flowbridge_workers::audit::{self, AuditSettings, Auditor, KeepError, Keeping, Verified, verify};
use flowbridge_workers::context::{Context, Turn, chain as causes};
use flowbridge_workers::place::Place;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const ORIGIN: &str = "flowbridge.example/audit";

/// A database, an archive, and the key that signs.
struct Desk {
    context: Context,
    clock: Arc<ManualClock>,
    archive: TempDir,
    pem: String,
    sql: tokio_postgres::Client,
    _server: EmbeddedPostgres,
}

impl Desk {
    async fn new() -> Self {
        let server = EmbeddedPostgres::temporary().expect("a private PostgreSQL");
        let db = Db::new(&DbSettings::new(server.url())).unwrap();
        db.migrate().await.unwrap();
        let (sql, connection) = tokio_postgres::connect(&server.url(), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let clock = Arc::new(ManualClock::at(Timestamp::from_secs(1_796_000_000)));
        let context = Context { db, clock: clock.clone(), wake: Wake::default(), instance: "one".to_owned() };
        let pem = SigningKey::generate(Algorithm::EdDsa).unwrap().to_pem().unwrap().to_string();
        let archive = tempfile::tempdir().unwrap();
        Self { context, clock, archive, pem, sql, _server: server }
    }

    fn key(&self) -> LogKey {
        LogKey::new(ORIGIN, SigningKey::from_pem(&self.pem).unwrap()).unwrap()
    }

    fn trusted(&self) -> Trusted {
        Trusted::new([self.key().verifier_key().as_str()]).unwrap()
    }

    fn auditor(&self, instance: &str) -> Auditor {
        self.auditor_with(instance, self.key(), self.trusted())
    }

    fn auditor_with(&self, instance: &str, key: LogKey, trusted: Trusted) -> Auditor {
        let archive = Some(Place::Folder(self.archive.path().to_owned()));
        self.keeping(instance, Keeping { key, trusted, archive })
    }

    /// One that signs, and archives nothing.
    fn signer(&self) -> Auditor {
        self.keeping("signer", Keeping { key: self.key(), trusted: self.trusted(), archive: None })
    }

    fn keeping(&self, instance: &str, keeping: Keeping) -> Auditor {
        let context = Context { instance: instance.to_owned(), ..self.context.clone() };
        let settings = AuditSettings { slice_max: 40, ..AuditSettings::default() };
        Auditor::new(context, keeping, settings)
    }

    /// People do so many things.
    async fn happens(&self, times: usize) {
        let now = self.context.now();
        let events: Vec<NewEvent> = (0..times)
            .map(|number| {
                let exception = ExceptionId::generate(now, rand::random());
                let data = json!({ "exception": exception.to_string(), "by": format!("operator-{number}") });
                NewEvent {
                    topic: topic::RECONCILIATION,
                    key: PaymentId::from_uuid(exception.as_uuid()),
                    kind: "exception.commented".to_owned(),
                    participants: None,
                    traceparent: String::new(),
                    data: EventData::of(&data),
                }
            })
            .collect();
        let tx = self.context.db.begin().await.unwrap();
        event_log::append(&tx, &events, now).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// All that has happened is entered, signed and published.
    async fn is_kept_by(&self, auditor: &mut Auditor) {
        while auditor.enter().await.unwrap() == Turn::Busy {}
        auditor.keep().await.unwrap();
    }

    /// The same by an auditor that gives its partitions back.
    async fn is_kept(&self) {
        let mut auditor = self.auditor("one");
        self.is_kept_by(&mut auditor).await;
        auditor.release().await.unwrap();
    }

    async fn checked(&self) -> Verified {
        self.checked_since(&[]).await
    }

    async fn checked_since(&self, since: &[Checkpoint]) -> Verified {
        let archive = Place::Folder(self.archive.path().to_owned());
        verify(&archive, &self.trusted(), since, Some(&self.context.db)).await.unwrap()
    }

    fn path(&self, below: &str) -> PathBuf {
        self.archive.path().join(below)
    }

    fn note(&self) -> Vec<u8> {
        fs::read(self.path("audit/checkpoint")).unwrap()
    }

    /// As who owns the database can.
    async fn meddle(&self, statement: &str) {
        let off = "set session_replication_role = replica";
        self.sql.batch_execute(&format!("{off}; {statement}; reset session_replication_role")).await.unwrap();
    }
}

fn names(verified: &Verified, what: &str) -> bool {
    verified.problems.iter().any(|problem| problem.contains(what))
}

#[tokio::test]
async fn each_event_is_entered_once_however_often_it_is_read_and_by_however_many() {
    let desk = Desk::new().await;
    desk.happens(300).await;
    let (mut one, mut other) = (desk.auditor("one"), desk.auditor("other"));
    // The first takes all partitions; the other gets its share when the leases are renewed.
    assert_eq!(one.enter().await.unwrap(), Turn::Busy);
    desk.clock.advance(AuditSettings::default().lease / 2);
    other.enter().await.unwrap();
    one.enter().await.unwrap();
    desk.clock.advance(AuditSettings::default().lease / 3);
    loop {
        let (first, second) = tokio::join!(one.enter(), other.enter());
        if (first.unwrap(), second.unwrap()) == (Turn::Idle, Turn::Idle) {
            break;
        }
    }
    let readers = "select count(distinct owner) from consumer_offset where consumer_group = 'audit'";
    let readers: i64 = desk.sql.query_one(readers, &[]).await.unwrap().get(0);
    assert_eq!(readers, 2, "both have entered");
    for auditor in [&one, &other] {
        auditor.release().await.unwrap();
    }
    // Set back to the beginning, everything is read again.
    event_log::replay(&desk.context.db, "audit", ReplayFrom::Time(Timestamp::EPOCH)).await.unwrap();
    desk.is_kept().await;
    let all = "select count(*), count(distinct event_id), max(sequence) + 1 from audit_entry";
    let row = desk.sql.query_one(all, &[]).await.unwrap();
    let counted: [i64; 3] = [row.get(0), row.get(1), row.get(2)];
    assert_eq!(counted, [300; 3], "entries, events, and no gap");

    let verified = desk.checked().await;
    assert_eq!((verified.entries, verified.problems), (300, vec![]));
    let paths =
        ["tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1", "tile/entries/000", "tile/entries/001.p/44"];
    for path in paths {
        assert!(desk.path("audit").join(path).exists(), "{path}");
    }
}

#[tokio::test]
async fn who_was_stopped_while_it_archived_goes_on_and_nothing_is_written_over() {
    let desk = Desk::new().await;
    desk.happens(3).await;
    desk.is_kept().await;
    let first = desk.note();
    // Stopped before the checkpoint, and before it was noted in the database that it is there.
    fs::remove_file(desk.path("audit/checkpoint")).unwrap();
    desk.meddle("update audit_checkpoint set published_at = null").await;
    desk.is_kept().await;
    assert_eq!(desk.note(), first);

    desk.happens(4).await;
    desk.is_kept().await;
    let earlier = desk.trusted().open(&first).unwrap();
    assert_eq!(desk.checked_since(&[earlier]).await.problems, Vec::<String>::new(), "it goes on from there");
    let published: i64 = desk
        .sql
        .query_one("select count(*) from audit_checkpoint where published_at is not null", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(published, 2);

    // Something else lies where the next tile belongs.
    fs::create_dir_all(desk.path("audit/tile/0/000.p")).unwrap();
    fs::write(desk.path("audit/tile/0/000.p/9"), "something else").unwrap();
    desk.happens(2).await;
    let mut auditor = desk.auditor("one");
    while auditor.enter().await.unwrap() == Turn::Busy {}
    let error = auditor.keep().await.unwrap_err();
    assert!(!error.may_pass() && causes(&error).contains("audit/tile/0/000.p/9"), "{error:?}");
    assert_eq!(desk.trusted().open(&desk.note()).unwrap().size, 7, "the checkpoint does not cover it");
    fs::remove_file(desk.path("audit/tile/0/000.p/9")).unwrap();
    auditor.keep().await.unwrap();
    assert_eq!(desk.checked().await.entries, 9);
}

#[tokio::test]
async fn a_database_that_was_changed_is_neither_signed_nor_published() {
    let desk = Desk::new().await;
    desk.happens(5).await;
    desk.is_kept().await;
    desk.meddle("create table entries as table audit_entry; create table hashes as table audit_hash").await;
    let whole = "truncate audit_entry, audit_salt; truncate audit_hash; insert into audit_entry table entries; \
        insert into audit_hash table hashes";
    let mut auditor = desk.auditor("one");
    desk.happens(1).await;
    while auditor.enter().await.unwrap() == Turn::Busy {}
    desk.meddle(
        "insert into entries select * from audit_entry where sequence = 5; \
        insert into hashes select * from audit_hash where position not in (select position from hashes)",
    )
    .await;
    let before = desk.note();

    // The hash of the first four entries is another, as if one of them was changed and the tree computed anew.
    desk.meddle("update audit_hash set hash = sha256(hash) where position = 6").await;
    let (with_archive, alone) = (auditor.keep().await.unwrap_err(), desk.signer().keep().await.unwrap_err());
    assert!(matches!(with_archive, KeepError::Forked { size: 6, archived: 5 }), "{with_archive:?}");
    assert!(matches!(alone, KeepError::Rewritten { size: 6, before: 5 }), "{alone:?}");
    let verified = desk.checked().await;
    assert!(names(&verified, "hash 6 of the tree in the database"), "{verified:?}");

    desk.meddle(whole).await;
    desk.meddle("delete from audit_entry where sequence >= 4").await;
    let alone = desk.signer().keep().await.unwrap_err();
    assert!(matches!(alone, KeepError::Rewritten { size: 4, before: 5 }), "{alone:?}");

    // An entry that was not published yet is changed, its hash is not.
    desk.meddle(whole).await;
    desk.meddle("update audit_entry set leaf = leaf || ' '::bytea where sequence = 5").await;
    let error = auditor.keep().await.unwrap_err();
    assert!(matches!(error, KeepError::Changed(5)), "{error:?}");
    assert_eq!(desk.note(), before, "nothing of this was published");

    // One that was published long ago.
    desk.meddle(whole).await;
    auditor.keep().await.unwrap();
    desk.meddle("update audit_entry set leaf = replace(encode(leaf, 'escape'), 'operator-1', 'operator-2')::bytea where sequence < 5").await;
    let verified = desk.checked().await;
    assert!(names(&verified, "in the database is not the one in the archive"), "{verified:?}");
    desk.meddle(whole).await;
    assert_eq!(desk.checked().await.problems, Vec::<String>::new());
    desk.meddle("update audit_entry set actor = 'operator-9' where sequence = 2").await;
    let verified = desk.checked().await;
    assert!(names(&verified, "entry 2 in the database is not the one"), "what is listed, too: {verified:?}");
    desk.meddle(whole).await;

    // Restored from a backup of before the last checkpoint.
    desk.meddle(
        "delete from audit_entry where sequence = 5; delete from audit_hash where position >= 8; delete from audit_checkpoint where size = 6; \
        update audit_checkpoint set published_at = null",
    )
    .await;
    let error = auditor.keep().await.unwrap_err();
    assert!(matches!(error, KeepError::Forked { size: 5, archived: 6 }), "{error:?}");
    desk.happens(2).await;
    while auditor.enter().await.unwrap() == Turn::Busy {}
    let error = auditor.keep().await.unwrap_err();
    assert!(matches!(error, KeepError::Forked { size: 7, archived: 6 }), "{error:?}");
    let signed: i64 = desk.sql.query_one("select max(size) from audit_checkpoint", &[]).await.unwrap().get(0);
    assert_eq!(signed, 5, "no other history is signed beside the one that was published");
}

#[tokio::test]
async fn an_archive_that_is_gone_is_written_again_only_when_somebody_says_so() {
    let desk = Desk::new().await;
    desk.happens(3).await;
    desk.is_kept().await;
    fs::remove_dir_all(desk.path("audit")).unwrap();
    let mut auditor = desk.auditor("one");
    let error = auditor.keep().await.unwrap_err();
    assert!(matches!(&error, KeepError::Vanished(_)) && !error.may_pass(), "{error:?}");
    assert!(!desk.path("audit").exists(), "it may just not be mounted");
    rows::archive_again(&desk.context.db).await.unwrap();
    auditor.keep().await.unwrap();
    let verified = desk.checked().await;
    assert_eq!((verified.entries, verified.problems), (3, vec![]));
}

#[tokio::test]
async fn an_archive_that_was_changed_is_found_out_with_nothing_but_the_key() {
    let desk = Desk::new().await;
    desk.happens(20).await;
    desk.is_kept().await;
    let older = desk.note();
    desk.happens(280).await;
    desk.is_kept().await;
    let newest = desk.note();
    let check = async |since: &[&[u8]]| {
        let archive = Place::Folder(desk.archive.path().to_owned());
        let since: Vec<_> = since.iter().map(|note| desk.trusted().open(note).unwrap()).collect();
        verify(&archive, &desk.trusted(), &since, None).await.unwrap()
    };
    assert_eq!(check(&[&older]).await.problems, Vec::<String>::new());

    let entries = desk.path("audit/tile/entries/000");
    let whole = fs::read(&entries).unwrap();
    let read = || leaves(&whole, 256).unwrap();
    let put = |leaves: Vec<Vec<u8>>| {
        fs::write(&entries, bundle(leaves.iter().map(Vec::as_slice)).unwrap()).unwrap()
    };
    let owned = || read().iter().map(|leaf| leaf.to_vec()).collect::<Vec<_>>();
    let signed = "do not make the root that was signed";

    let mut changed = owned();
    changed[7] = String::from_utf8(changed[7].clone()).unwrap().replace("operator", "Operator").into_bytes();
    put(changed);
    let verified = check(&[&older]).await;
    assert!(names(&verified, signed) && names(&verified, "tile/0/000 does not hold"), "{verified:?}");
    assert!(names(&verified, "the first 20 entries are not those"), "{verified:?}");

    let mut moved = owned();
    moved.swap(100, 101);
    put(moved);
    let verified = check(&[&older]).await;
    assert!(
        names(&verified, signed) && !names(&verified, "the first 20"),
        "only what came later: {verified:?}"
    );

    let mut fewer = owned();
    fewer.remove(3);
    put(fewer);
    assert!(names(&check(&[]).await, "entries/000: it does not hold the 256 entries"));
    let mut more = owned();
    more.insert(3, more[3].clone());
    put(more);
    assert!(names(&check(&[]).await, "entries/000: it does not hold the 256 entries"));
    fs::write(&entries, &whole[..whole.len() - 1]).unwrap();
    assert!(names(&check(&[]).await, "entries/000: it does not hold the 256 entries"));
    fs::remove_file(&entries).unwrap();
    assert!(names(&check(&[]).await, "entries/000 is missing: entries 0 to 255"));
    fs::write(&entries, &whole).unwrap();
    assert_eq!(check(&[]).await.problems, Vec::<String>::new());

    // The newest is withheld: an older checkpoint is shown instead.
    fs::write(desk.path("audit/checkpoint"), &older).unwrap();
    assert_eq!(check(&[]).await.problems, Vec::<String>::new(), "by itself it is a checkpoint as any other");
    assert!(names(&check(&[&newest]).await, "the newest are withheld"));
    // Somebody else signs.
    let stranger = LogKey::new(ORIGIN, SigningKey::generate(Algorithm::EdDsa).unwrap()).unwrap();
    fs::write(desk.path("audit/checkpoint"), stranger.sign(300, Hash([1; 32])).unwrap()).unwrap();
    assert!(names(&check(&[]).await, "not a checkpoint that a trusted key has signed"));
    // We ourselves show another history than before.
    fs::write(desk.path("audit/checkpoint"), desk.key().sign(300, Hash([1; 32])).unwrap()).unwrap();
    assert!(names(&check(&[&newest]).await, signed));
    fs::remove_file(desk.path("audit/checkpoint")).unwrap();
    assert!(names(&check(&[]).await, "nothing was ever published here"));
}

#[tokio::test]
async fn another_key_signs_on_only_where_the_one_before_it_is_named() {
    let desk = Desk::new().await;
    desk.happens(3).await;
    desk.is_kept().await;
    desk.happens(1).await;
    let pem = SigningKey::generate(Algorithm::EdDsa).unwrap().to_pem().unwrap();
    let next = || SigningKey::from_pem(&pem).unwrap();
    let key = LogKey::new(ORIGIN, next()).unwrap();
    let (before, after) = (desk.key().verifier_key(), key.verifier_key());
    let alone = Trusted::new([after.as_str()]).unwrap();
    let mut auditor = desk.auditor_with("one", LogKey::new(ORIGIN, next()).unwrap(), alone);
    while auditor.enter().await.unwrap() == Turn::Busy {}
    let error = auditor.keep().await.unwrap_err();
    assert!(matches!(error, KeepError::ArchivedCheckpoint(_)), "{error:?}");
    let alone = Trusted::new([after.as_str()]).unwrap();
    let keeping = Keeping { key: LogKey::new(ORIGIN, next()).unwrap(), trusted: alone, archive: None };
    let error = desk.keeping("signer", keeping).keep().await.unwrap_err();
    assert!(matches!(error, KeepError::LastCheckpoint(_)), "{error:?}");

    let both = Trusted::new([before.as_str(), after.as_str()]).unwrap();
    let mut auditor = desk.auditor_with("one", key, both);
    desk.is_kept_by(&mut auditor).await;
    let opened = Trusted::new([after.as_str()]).unwrap().open(&desk.note()).unwrap();
    assert_eq!(opened.size, 4);
}

/// What keeps an archive, and what checks it.
fn keeping(archive: &Place) -> (Keeping, Trusted) {
    let key = LogKey::new(ORIGIN, SigningKey::generate(Algorithm::EdDsa).unwrap()).unwrap();
    let trusted = || Trusted::new([key.verifier_key().as_str()]).unwrap();
    let (ours, theirs) = (trusted(), trusted());
    (Keeping { key, trusted: ours, archive: Some(archive.clone()) }, theirs)
}

/// Reconciles a payment, and keeps it until all of it is in the archive; says what a check from outside finds.
async fn kept(stage: &Stage, archive: &Place) -> (Verified, Trusted) {
    let payment = stage.accept(Shape::BankToToken, 3_000).await;
    stage.reaches(payment, "completed").await;
    stage.reconcile("alpha").await;
    let (keeping, trusted) = keeping(archive);
    let stop = CancellationToken::new();
    let interval = Duration::from_millis(50);
    let settings =
        AuditSettings { poll: interval, checkpoint_interval: interval, ..AuditSettings::default() };
    let role = tokio::spawn(audit::run(stage.context.clone(), keeping, settings, stop.clone()));
    let db = &stage.context.db;
    stage
        .until(async || {
            let newest = rows::newest_checkpoint(db).await.unwrap();
            let is_published = newest.is_some_and(|newest| newest.published_at.is_some());
            is_published && rows::waiting(db).await.unwrap().0 == 0
        })
        .await;
    stop.cancel();
    role.await.unwrap();
    (verify(archive, &trusted, &[], Some(db)).await.unwrap(), trusted)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_report_is_archived_and_hashed_in_the_audit_log_and_one_that_was_changed_is_named() {
    let stage = Stage::new(vec![]).await;
    let folder = tempfile::tempdir().unwrap();
    let archive = Place::Folder(folder.path().to_owned());
    let (verified, trusted) = kept(&stage, &archive).await;
    let reports = "select format, body, reconciliation_id::text from reconciliation_report order by format";
    let reports = stage.sql.query(reports, &[]).await.unwrap();
    assert_eq!(verified.problems, Vec::<String>::new());
    assert_eq!(verified.reports, reports.len() as u64);
    assert!(verified.reports >= 5 && verified.entries >= 1, "{verified:?}");

    let entry = rows::list(&stage.context.db, None, None, 10).await.unwrap().pop().unwrap();
    assert_eq!(
        (entry.action.as_str(), entry.actor.as_deref()),
        ("reconciliation.completed", Some("flowbridge"))
    );
    let of = walk(folder.path()).into_iter().filter(|path| path.contains(&entry.object)).collect::<Vec<_>>();
    let found = |name: &str| folder.path().join(of.iter().find(|path| path.ends_with(name)).unwrap());
    for (format, name) in
        [("html", "report.html"), ("camt", "entries.camt.xml"), ("matches_csv", "matches.csv")]
    {
        let stored = reports.iter().find(|row| row.get::<_, &str>(0) == format).unwrap();
        assert_eq!(fs::read(found(name)).unwrap(), stored.get::<_, Vec<u8>>(1), "{name}");
    }

    let check = async || verify(&archive, &trusted, &[], None).await.unwrap().problems;
    let html = found("report.html");
    let whole = fs::read(&html).unwrap();
    fs::write(&html, [whole.as_slice(), b" "].concat()).unwrap();
    let problems = check().await;
    assert!(
        problems.len() == 1 && problems[0].contains("report.html is not the report that entry 0 names"),
        "{problems:?}"
    );
    fs::remove_file(&html).unwrap();
    let problems = check().await;
    assert!(problems.len() == 1 && problems[0].contains("report.html is missing"), "{problems:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_in_a_bucket_under_object_lock_is_kept_and_nobody_can_delete_from_it() {
    let stage = Stage::new(vec![]).await;
    let bucket = TestBucket::locked().await;
    let archive = bucket.archive("kept");
    let (verified, _) = kept(&stage, &archive).await;
    assert_eq!(verified.problems, Vec::<String>::new());
    assert!(verified.reports >= 5, "{verified:?}");
    for key in ["kept/audit/checkpoint", "kept/audit/tile/0/000.p/1"] {
        assert!(bucket.get(key).await.is_some(), "{key}");
        assert_eq!(bucket.delete_version(key).await, reqwest::StatusCode::FORBIDDEN, "{key}");
    }
}

/// Every file below a folder, as paths below it.
fn walk(root: &Path) -> Vec<String> {
    let (mut folders, mut files) = (vec![root.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                files.push(entry.path().strip_prefix(root).unwrap().display().to_string());
            }
        }
    }
    files
}
