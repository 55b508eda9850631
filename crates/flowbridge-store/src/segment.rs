//! What people's decisions allow: where likely matches went, how each segment of them stands, and what earlier nights looked like.
//!
//! Which stage follows from which decisions is not decided here. A run reads all of it at one instant, and writes what it judged
//! and what has changed with its end: a run that is cut off has changed nothing. Stages are only added; the last one counts.

use crate::db::{Db, StoreError, Tx};
use crate::exception::{self, Ruled};
use crate::reconciliation::ClaimedRun;
use crate::sql::{At, columns, statements};
use flowbridge_domain::time::Timestamp;

/// Rows of one statement.
const SLICE: usize = 5_000;
/// Judgements of a scope that are looked at: far more than a proof takes.
const JUDGED_MAX: i64 = 200_000;

statements! {
    JUDGED = "with run as materialized (
            select id, summary #>> '{model,sha256}' as model from reconciliation where scope = $1 and state = 'done')
        select judged.subject, judged.route, judged.account, judged.rail, judged.how, judged.records, judged.judged_at, run.model
            from recon_judged judged join run on run.id = judged.judged_in
            where judged.scope = $1 order by judged.judged_at desc, judged.subject limit $2";

    JUDGE = "insert into recon_judged (scope, subject, route, account, rail, how, records, judged_in, judged_at)
        select $1, new.subject, new.route, new.account, new.rail, new.how, string_to_array(new.records, ' '), $2, new.judged_at
            from unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::timestamptz[])
                as new (subject, route, account, rail, how, records, judged_at)
        on conflict do nothing";

    // The last one, of which model it is, and when decisions last took a segment back.
    STAGES = "select distinct on (account, rail, how) account, rail, how, moved.stage, since, run.summary #>> '{model,sha256}' as model,
            max(since) filter (where moved.stage = 'suggest' and before = 'auto') over (partition by account, rail, how) as demoted_at
        from (
            select account, rail, how, stage, since, seq, reconciliation_id,
                    lag(stage) over (partition by account, rail, how order by seq) as before
                from recon_stage where scope = $1) moved
            join reconciliation run on run.id = moved.reconciliation_id
        order by account, rail, how, seq desc";

    MOVE_ON = "insert into recon_stage (scope, account, rail, how, stage, decided, errors, audited, audit_errors,
            reconciliation_id, since)
        select $1, new.account, new.rail, new.how, new.stage, new.decided, new.errors, new.audited, new.audit_errors, $2, new.since
            from unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[],
                $11::timestamptz[]) as new (account, rail, how, stage, decided, errors, audited, audit_errors, since)";

    MEMORY = "select body from recon_memory where scope = $1";

    REMEMBER = "insert into recon_memory (scope, body) values ($1, $2) on conflict (scope) do update set body = excluded.body";
}

/// What is decided alike: matches of one kind on one account and rail.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentKey {
    /// The account.
    pub account: String,
    /// How the money travelled.
    pub rail: String,
    /// What kind of match.
    pub how: String,
}

/// A match that was only likely, and where it went, if people will say something about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// What its exception is known by.
    pub subject: String,
    /// `shadow`, `person` or `audited`.
    pub route: String,
    /// Its segment.
    pub segment: SegmentKey,
    /// Its records, as people name them.
    pub records: Vec<String>,
    /// The model that judged, by the SHA-256 of its file; none where the run has not told.
    pub model: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// How a segment stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageNow {
    /// Which.
    pub segment: SegmentKey,
    /// `shadow`, `suggest` or `auto`.
    pub stage: String,
    /// Since when.
    pub since: Timestamp,
    /// The model that judged in the run that moved it there.
    pub model: Option<String>,
    /// When it was last taken back from `auto`.
    pub demoted_at: Option<Timestamp>,
}

/// A segment that stands otherwise from now on, and the decisions that it follows from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageChange {
    /// Which.
    pub segment: SegmentKey,
    /// `shadow`, `suggest` or `auto`.
    pub stage: String,
    /// Decisions of people, errors among them, audits, errors among those.
    pub counts: [i64; 4],
    /// From when on.
    pub since: Timestamp,
}

/// All that is known of a scope's segments, at one instant.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// How they stand.
    pub stages: Vec<StageNow>,
    /// What was judged, newest first.
    pub judged: Vec<Judged>,
    /// What two people have decided, oldest first.
    pub ruled: Vec<Ruled>,
    /// What earlier nights looked like.
    pub memory: Option<Vec<u8>>,
}

/// What a run adds to it.
#[derive(Debug, Clone, Default)]
pub struct Learned {
    /// Likely matches that people will say something about.
    pub judged: Vec<Judged>,
    /// Segments that stand otherwise.
    pub stages: Vec<StageChange>,
    /// What nights looked like, this one included.
    pub memory: Option<Vec<u8>>,
}

/// What is known of a scope's segments.
pub async fn evidence(db: &Db, scope: &str) -> Result<Evidence, StoreError> {
    let tx = db.snapshot().await?;
    let read = read(&tx, scope).await;
    tx.rollback().await?;
    read
}

async fn read(tx: &Tx, scope: &str) -> Result<Evidence, StoreError> {
    let mut evidence = Evidence { ruled: exception::ruled(tx, scope).await?, ..Evidence::default() };
    for row in tx.query(STAGES, &[&scope]).await? {
        evidence.stages.push(StageNow {
            segment: segment_of(&row)?,
            stage: row.try_get("stage")?,
            since: row.try_get::<_, At>("since")?.0,
            model: row.try_get("model")?,
            demoted_at: row.try_get::<_, Option<At>>("demoted_at")?.map(|at| at.0),
        });
    }
    for row in tx.query(JUDGED, &[&scope, &JUDGED_MAX]).await? {
        evidence.judged.push(Judged {
            subject: row.try_get("subject")?,
            route: row.try_get("route")?,
            segment: segment_of(&row)?,
            records: row.try_get("records")?,
            model: row.try_get("model")?,
            at: row.try_get::<_, At>("judged_at")?.0,
        });
    }
    if let Some(row) = tx.query(MEMORY, &[&scope]).await?.first() {
        evidence.memory = Some(row.try_get("body")?);
    }
    Ok(evidence)
}

fn segment_of(row: &tokio_postgres::Row) -> Result<SegmentKey, StoreError> {
    Ok(SegmentKey { account: row.try_get("account")?, rail: row.try_get("rail")?, how: row.try_get("how")? })
}

/// Writes what a run adds, in the transaction of its end.
pub(crate) async fn record(tx: &Tx, run: &ClaimedRun, learned: &Learned) -> Result<(), StoreError> {
    let (scope, id) = (run.scope.as_str(), run.id.as_uuid());
    for judged in learned.judged.chunks(SLICE) {
        let (subjects, routes, accounts, rails, hows, records, instants) = columns!(
            judged,
            |of| of.subject.as_str(),
            of.route.as_str(),
            of.segment.account.as_str(),
            of.segment.rail.as_str(),
            of.segment.how.as_str(),
            of.records.join(" "),
            At(of.at)
        );
        tx.execute(JUDGE, &[&scope, &id, &subjects, &routes, &accounts, &rails, &hows, &records, &instants])
            .await?;
    }
    if !learned.stages.is_empty() {
        let (accounts, rails, hows, stages, since) = columns!(
            learned.stages,
            |of| of.segment.account.as_str(),
            of.segment.rail.as_str(),
            of.segment.how.as_str(),
            of.stage.as_str(),
            At(of.since)
        );
        let (decided, errors, audited, audit_errors) =
            columns!(learned.stages, |of| of.counts[0], of.counts[1], of.counts[2], of.counts[3]);
        tx.execute(
            MOVE_ON,
            &[
                &scope,
                &id,
                &accounts,
                &rails,
                &hows,
                &stages,
                &decided,
                &errors,
                &audited,
                &audit_errors,
                &since,
            ],
        )
        .await?;
    }
    if let Some(memory) = &learned.memory {
        tx.execute(REMEMBER, &[&scope, memory]).await?;
    }
    Ok(())
}
