//! Where a match goes that is only likely, and what people's decisions have to do with it.
//!
//! A segment stands as its last stage says; without one, as the settings have segments begin. What counts is what two people have
//! decided about the engine's own judgements: a suggestion accepted or not, a look at what was taken alone, and in the shadow
//! whether they put the same records together by themselves. What the engine took alone and nobody has looked at counts for
//! nothing. Nor does what another model judged, or this one before it was put in force again, and what people said before they last
//! refuted the segment: each proof is made anew. A segment moves one step at a run's beginning, and the move is written with the run's end.

use super::Settings;
use flowbridge_domain::time::Timestamp;
use flowbridge_recon::engine::{How, Match};
use flowbridge_recon::group::GroupEvidence;
use flowbridge_recon::policy::{self, Caps, Decided, Route, Stage};
use flowbridge_recon::report;
use flowbridge_store::exception::{DecisionKind, Ruled, TO_AUDIT, TO_CONFIRM};
use flowbridge_store::reconciliation::{ClaimedRun, RecordKey};
use flowbridge_store::segment::{Evidence, Judged, SegmentKey, StageChange, StageNow};
use std::collections::{BTreeMap, BTreeSet, HashMap};

const STAGES: [(Stage, &str); 3] =
    [(Stage::Shadow, "shadow"), (Stage::Suggest, "suggest"), (Stage::Auto, "auto")];

const SHADOW: &str = "shadow";
const AUDITED: &str = "audited";

/// The model that judges in a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judge<'a> {
    /// The SHA-256 of its file.
    pub(super) model: &'a str,
    /// When people put it in force; none where they never put one.
    pub(super) since: Option<Timestamp>,
    /// It stands in for the model in force, for which it proves nothing.
    pub(super) stands_in: bool,
}

impl Judge<'_> {
    /// Does what a model judged, or proved, then speak about this one?
    fn is_spoken_of(&self, model: Option<&str>, at: Timestamp) -> bool {
        !self.stands_in && model == Some(self.model) && self.since.is_none_or(|since| at > since)
    }
}

/// What is allowed in one run.
#[derive(Debug, Clone)]
pub(super) struct Policy {
    /// The model that judges.
    model: String,
    begins_in: Stage,
    stages: BTreeMap<SegmentKey, Stage>,
    caps: Caps,
    /// Makes which matches are audited: of the run, so that nobody knows it beforehand.
    secret: u64,
    /// Segments that stand otherwise from this run on.
    pub(super) changes: Vec<StageChange>,
}

impl Policy {
    /// What people's decisions allow the model that judges now.
    pub(super) fn of(
        evidence: &Evidence,
        (judge, now): (&Judge<'_>, Timestamp),
        run: &ClaimedRun,
        settings: &Settings,
    ) -> Self {
        let begins_in = if settings.shadow_first { Stage::Shadow } else { Stage::Suggest };
        let mut stages: BTreeMap<SegmentKey, Stage> = BTreeMap::new();
        for stands in &evidence.stages {
            let stage = read(&stands.stage).unwrap_or(begins_in);
            // What another model has proven allows this one nothing.
            let is_its_own = judge.is_spoken_of(stands.model.as_deref(), stands.since);
            let stage = if is_its_own { stage } else { stage.min(Stage::Suggest) };
            stages.insert(stands.segment.clone(), stage);
        }
        let mut changes = Vec::new();
        for (segment, decided) in count(evidence, judge) {
            let stage = stages.get(&segment).copied().unwrap_or(begins_in);
            let next = policy::next_stage(stage, decided);
            if next != stage {
                changes.push(change(segment.clone(), (next, now), decided));
                stages.insert(segment, next);
            }
        }
        let caps = Caps {
            posted_minor_units_max: u128::try_from(settings.auto_minor_units_max).unwrap_or(0),
            // A decision takes two people here, whatever the amount.
            one_person_minor_units_max: 0,
            audit_ppm: settings.audit_ppm,
        };
        let secret = run.id.as_uuid().as_u64_pair().1;
        Self { model: judge.model.to_owned(), begins_in, stages, caps, secret, changes }
    }

    /// The hash of how every segment stands.
    pub(super) fn sha256(&self) -> String {
        report::sha256(format!("{:?} {:?}", self.begins_in, self.stages).as_bytes())
    }

    /// The model that judges.
    pub(super) fn model(&self) -> &str {
        &self.model
    }

    /// Where a likely match goes.
    pub(super) fn route(
        &self,
        segment: &SegmentKey,
        found: &Match,
        subject: &str,
        minor_units: i64,
    ) -> Route {
        let stage = self.stages.get(segment).copied().unwrap_or(self.begins_in);
        policy::route(stage, found.decision, minor_units.into(), self.caps, (subject, self.secret))
    }
}

/// Which way of matching a segment is about.
pub(super) const fn how(found: &Match) -> &'static str {
    match found.how {
        How::Reference => "reference",
        How::Model => "model",
        How::Group(GroupEvidence::BatchId) => "group_batch",
        How::Group(GroupEvidence::Quoted) => "group_quoted",
        How::Group(GroupEvidence::UniqueSum) => "group_sum",
    }
}

/// A route as it is remembered, until people have said something about the match; none where nobody will be asked.
pub(super) const fn route_name(route: Route) -> Option<&'static str> {
    match route {
        Route::Shadow => Some(SHADOW),
        Route::Person | Route::FourEyes => Some("person"),
        Route::Posted => None,
        Route::PostedAndAudited => Some(AUDITED),
    }
}

fn read(stage: &str) -> Option<Stage> {
    STAGES.iter().find(|(_, name)| *name == stage).map(|(stage, _)| *stage)
}

fn change(segment: SegmentKey, (stage, since): (Stage, Timestamp), decided: Decided) -> StageChange {
    let name = STAGES.iter().find(|(known, _)| *known == stage).map_or("", |(_, name)| name);
    let counts = [decided.count, decided.errors, decided.audited, decided.audit_errors];
    StageChange {
        segment,
        stage: name.to_owned(),
        counts: counts.map(|count| i64::try_from(count).unwrap_or(i64::MAX)),
        since,
    }
}

/// What people have decided about each segment's judgements, as far as it speaks about the model that judges and was said since the
/// segment was last taken back.
fn count(evidence: &Evidence, judge: &Judge<'_>) -> BTreeMap<SegmentKey, Decided> {
    let rulings = Rulings::new(&evidence.ruled);
    let stages: HashMap<&SegmentKey, &StageNow> =
        evidence.stages.iter().map(|stands| (&stands.segment, stands)).collect();
    let mut counts: BTreeMap<SegmentKey, Decided> = BTreeMap::new();
    let mut counted: BTreeSet<&str> = BTreeSet::new();
    for judged in &evidence.judged {
        if !judge.is_spoken_of(judged.model.as_deref(), judged.at) {
            continue;
        }
        let Some((is_right, at)) = rulings.about(judged) else { continue };
        let stands = stages.get(&judged.segment);
        let demoted_at = stands.and_then(|stands| stands.demoted_at);
        if demoted_at.is_some_and(|demoted| at <= demoted) || !counted.insert(&judged.subject) {
            continue;
        }
        let decided = counts.entry(judged.segment.clone()).or_default();
        decided.count += 1;
        decided.errors += u64::from(!is_right);
        // An audit speaks about the stage in which the match was taken.
        if judged.route == AUDITED && stands.is_none_or(|stands| at > stands.since) {
            decided.audited += 1;
            decided.audit_errors += u64::from(!is_right);
        }
    }
    counts
}

/// Decisions by what they are about.
struct Rulings<'a> {
    /// On matches, by the match.
    of_match: HashMap<&'a str, &'a Ruled>,
    /// On single records, by each.
    of_record: HashMap<String, &'a Ruled>,
}

impl<'a> Rulings<'a> {
    /// Where two are about the same, the later one counts.
    fn new(ruled: &'a [Ruled]) -> Self {
        let mut rulings = Self { of_match: HashMap::new(), of_record: HashMap::new() };
        for ruling in ruled {
            if ruling.kind == TO_CONFIRM || ruling.kind == TO_AUDIT {
                rulings.of_match.insert(&ruling.subject, ruling);
                continue;
            }
            for record in ruling.records.iter().chain(&ruling.partner) {
                rulings.of_record.insert(record.text(), ruling);
            }
        }
        rulings
    }

    /// Was it right, and when was that said? None while nobody has said.
    fn about(&self, judged: &Judged) -> Option<(bool, Timestamp)> {
        if let Some(ruling) = self.of_match.get(judged.subject.as_str()) {
            return Some((ruling.decision == DecisionKind::Accept, ruling.at));
        }
        if judged.route != SHADOW {
            return None;
        }
        let ruling = judged.records.iter().find_map(|record| self.of_record.get(record))?;
        let records: BTreeSet<String> =
            ruling.records.iter().chain(&ruling.partner).map(RecordKey::text).collect();
        let is_same = judged.records.iter().cloned().collect::<BTreeSet<_>>() == records;
        match ruling.decision {
            DecisionKind::Rematch => Some((is_same, ruling.at)),
            DecisionKind::Accept | DecisionKind::WriteOff => Some((false, ruling.at)),
            // That nothing is to be done says nothing of where a record belongs.
            DecisionKind::Reject => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowbridge_domain::id::ReconciliationId;
    use flowbridge_recon::engine::Decision;

    const MODEL: &str = "the model that judges";

    fn segment() -> SegmentKey {
        SegmentKey { account: "DE02".to_owned(), rail: "NTRF".to_owned(), how: "model".to_owned() }
    }

    fn line(number: u128) -> RecordKey {
        RecordKey::line(uuid::Uuid::from_u128(number))
    }

    fn judged(number: u128, route: &str) -> Judged {
        let records = vec![line(2 * number).text(), line(2 * number + 1).text()];
        Judged {
            subject: records.join("+"),
            route: route.to_owned(),
            segment: segment(),
            records,
            model: Some(MODEL.to_owned()),
            at: Timestamp::from_secs(1),
        }
    }

    fn ruled(of: &Judged, kind: &str, decision: DecisionKind, second: i64) -> Ruled {
        Ruled {
            kind: kind.to_owned(),
            subject: of.subject.clone(),
            records: of.records.iter().filter_map(|text| RecordKey::parse(text)).collect(),
            decision,
            has_entry: false,
            partner: None,
            reason: "seen".to_owned(),
            by: "maker".to_owned(),
            at: Timestamp::from_secs(second),
        }
    }

    fn run() -> ClaimedRun {
        ClaimedRun {
            id: ReconciliationId::generate(Timestamp::EPOCH, [7; 10]),
            scope: "alpha".to_owned(),
            is_nightly: true,
            day: "2026-11-27".to_owned(),
            asked_by: "schedule".to_owned(),
            fence: 1,
            attempts: 1,
        }
    }

    fn likely() -> Match {
        Match {
            ledger: vec![0],
            bank: vec![0],
            how: How::Model,
            decision: Decision::Auto,
            probability: 0.9999,
            score: 9.0,
            difference: 0,
            runner_up: None,
            reasons: Vec::new(),
        }
    }

    fn accepted(count: u128) -> Evidence {
        let judged: Vec<Judged> = (0..count).map(|number| judged(number, "person")).collect();
        let ruled = judged.iter().map(|of| ruled(of, TO_CONFIRM, DecisionKind::Accept, 1)).collect();
        Evidence { judged, ruled, ..Evidence::default() }
    }

    /// What a run makes of it with the model that was always in force.
    fn policy(evidence: &Evidence, settings: &Settings) -> Policy {
        let judge = Judge { model: MODEL, since: None, stands_in: false };
        Policy::of(evidence, (&judge, Timestamp::from_secs(100)), &run(), settings)
    }

    fn stands(stage: &str, second: i64, demoted: Option<i64>) -> StageNow {
        StageNow {
            segment: segment(),
            stage: stage.to_owned(),
            since: Timestamp::from_secs(second),
            model: Some(MODEL.to_owned()),
            demoted_at: demoted.map(Timestamp::from_secs),
        }
    }

    fn stage_of(evidence: &Evidence, settings: &Settings) -> Vec<(String, [i64; 4])> {
        let policy = policy(evidence, settings);
        policy.changes.into_iter().map(|change| (change.stage, change.counts)).collect()
    }

    #[test]
    fn matches_are_taken_alone_when_people_have_proven_it_and_no_longer_when_an_audit_refutes_it() {
        let settings = Settings { audit_ppm: 0, ..Settings::default() };
        let route = |evidence: &Evidence, units| {
            policy(evidence, &settings).route(&segment(), &likely(), "one", units)
        };
        let almost = accepted(2_994);
        assert!(stage_of(&almost, &settings).is_empty());
        assert_eq!(route(&almost, 100), Route::FourEyes);
        let mut proven = accepted(2_995);
        assert_eq!(stage_of(&proven, &settings), [("auto".to_owned(), [2_995, 0, 0, 0])]);
        assert_eq!(route(&proven, 100), Route::Posted);
        assert_eq!(route(&proven, 1_000_000_001), Route::FourEyes, "beyond the cap people decide");

        proven.stages.push(stands("auto", 2, None));
        let taken = judged(9_999, AUDITED);
        proven.ruled.push(ruled(&taken, TO_AUDIT, DecisionKind::Reject, 3));
        proven.judged.push(taken);
        assert_eq!(stage_of(&proven, &settings), [("suggest".to_owned(), [2_996, 1, 1, 1])]);
        assert_eq!(route(&proven, 100), Route::FourEyes);
    }

    #[test]
    fn what_an_audit_has_refuted_is_proven_anew_and_not_by_what_was_said_before() {
        let settings = Settings { audit_ppm: 0, ..Settings::default() };
        let mut evidence = accepted(20_000);
        for number in 20_000..20_050 {
            let taken = judged(number, AUDITED);
            let decision = if number < 20_003 { DecisionKind::Reject } else { DecisionKind::Accept };
            evidence.ruled.push(ruled(&taken, TO_AUDIT, decision, 3));
            evidence.judged.push(taken);
        }
        evidence.stages = vec![stands("auto", 2, None)];
        assert_eq!(stage_of(&evidence, &settings), [("suggest".to_owned(), [20_050, 3, 50, 3])]);
        evidence.stages = vec![stands("suggest", 4, Some(4))];
        assert!(stage_of(&evidence, &settings).is_empty(), "nobody has decided anything since");
        assert_eq!(policy(&evidence, &settings).route(&segment(), &likely(), "one", 100), Route::FourEyes);

        for number in 30_000..32_995 {
            let asked = judged(number, "person");
            evidence.ruled.push(ruled(&asked, TO_CONFIRM, DecisionKind::Accept, 5));
            evidence.judged.push(asked);
        }
        assert_eq!(stage_of(&evidence, &settings), [("auto".to_owned(), [2_995, 0, 0, 0])]);
        evidence.stages = vec![stands("auto", 6, Some(4))];
        for number in 40_000..40_050 {
            let asked = judged(number, "person");
            evidence.ruled.push(ruled(&asked, TO_CONFIRM, DecisionKind::Reject, 3));
            evidence.judged.push(asked);
        }
        assert!(stage_of(&evidence, &settings).is_empty(), "the errors of before do not count again");
    }

    #[test]
    fn a_model_inherits_nothing_that_another_has_proven() {
        let settings = Settings { audit_ppm: 0, ..Settings::default() };
        let mut evidence = accepted(3_000);
        evidence.stages.push(stands("auto", 2, None));
        let of = |evidence: &Evidence, judge: Judge<'_>| {
            let policy = Policy::of(evidence, (&judge, Timestamp::from_secs(100)), &run(), &settings);
            (policy.route(&segment(), &likely(), "one", 100), policy.changes.len())
        };
        let judge = |second: i64| {
            let since = Some(Timestamp::from_secs(second));
            Judge { model: MODEL, since, stands_in: false }
        };
        assert_eq!(of(&evidence, judge(0)), (Route::Posted, 0), "it is this model that was judged");
        assert_eq!(of(&evidence, Judge { stands_in: true, ..judge(0) }), (Route::FourEyes, 0));
        assert_eq!(of(&evidence, judge(3)), (Route::FourEyes, 0), "who comes back to it begins anew");
        for judged in &mut evidence.judged {
            judged.at = Timestamp::from_secs(4);
        }
        assert_eq!(of(&evidence, judge(3)), (Route::Posted, 1), "its own proof");
    }

    #[test]
    fn a_model_that_came_with_a_new_program_begins_without_a_proof() {
        let settings = Settings { audit_ppm: 0, ..Settings::default() };
        let mut evidence = accepted(3_000);
        evidence.stages.push(stands("auto", 2, None));
        let shipped = Judge { model: "the shipped one of the new program", since: None, stands_in: false };
        let of = |evidence: &Evidence| {
            let policy = Policy::of(evidence, (&shipped, Timestamp::from_secs(100)), &run(), &settings);
            (policy.route(&segment(), &likely(), "one", 100), policy.changes.len())
        };
        assert_eq!(of(&evidence), (Route::FourEyes, 0), "nobody put it in force, and it proved nothing");
        for judged in &mut evidence.judged {
            judged.model = None;
        }
        assert_eq!(of(&evidence), (Route::FourEyes, 0), "nor did a model that nobody knows");
        for judged in &mut evidence.judged {
            judged.model = Some(shipped.model.to_owned());
        }
        assert_eq!(of(&evidence), (Route::Posted, 1), "its own proof");
    }

    #[test]
    fn in_the_shadow_it_counts_what_people_put_together_by_themselves() {
        let settings = Settings { shadow_first: true, ..Settings::default() };
        let judged: Vec<Judged> = (0..202).map(|number| judged(number, SHADOW)).collect();
        let rematch = |of: &Judged| {
            let single = ruled(of, "unexpected_receipt", DecisionKind::Rematch, 1);
            let (records, partner) = (vec![single.records[0].clone()], single.records.get(1).cloned());
            Ruled { subject: of.records[0].clone(), records, partner, ..single }
        };
        let mut evidence =
            Evidence { ruled: judged.iter().take(200).map(rematch).collect(), judged, ..Evidence::default() };
        let stranger = Ruled { partner: Some(line(77_777)), ..rematch(&evidence.judged[200]) };
        let nothing = ruled(&evidence.judged[201], "overdue_at_bank", DecisionKind::Reject, 1);
        evidence.ruled.extend([stranger, nothing]);
        assert_eq!(stage_of(&evidence, &settings), [("suggest".to_owned(), [201, 1, 0, 0])]);
        let policy = policy(&Evidence::default(), &settings);
        assert_eq!(policy.route(&segment(), &likely(), "one", 100), Route::Shadow);
    }

    #[test]
    fn a_share_of_what_is_taken_alone_is_looked_at_all_the_same() {
        let settings = Settings { audit_ppm: 1_000_000, ..Settings::default() };
        let policy = policy(&accepted(3_000), &settings);
        assert_eq!(policy.route(&segment(), &likely(), "one", 100), Route::PostedAndAudited);
    }
}
