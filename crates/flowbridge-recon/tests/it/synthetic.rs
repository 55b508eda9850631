//! Synthetic books: the goals on a seed that nothing was trained on, and the same answer however it is asked.

use flowbridge_recon::break_kind::BreakKind;
use flowbridge_recon::engine::{self, Decision, Settings, Subject};
use flowbridge_recon::evaluate::SyntheticFigures;
use flowbridge_recon::generate::{self, Recipe};
use flowbridge_recon::policy::{Caps, Decided, Route, Stage, next_stage, route};
use flowbridge_recon::report::{Manifest, Report};
use flowbridge_recon::{Model, evaluate, files, gate};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

#[test]
fn unseen_books_reach_the_goals() {
    let model = Model::shipped().unwrap();
    let figures = evaluate::synthetic(&model, &[4_711], 20_000, 1.0, 2);
    assert!(figures.f1 >= 0.993, "{figures:?}");
    assert!(figures.coverage >= 0.90 && figures.precision.share >= 0.999, "{figures:?}");
    assert_eq!(figures.reference_errors, 0, "{figures:?}");
    assert!(figures.groups_f1 >= 0.88 && figures.review.share <= 0.10, "{figures:?}");
    assert!(figures.breaks.len() >= 20 && figures.break_recall >= 0.95, "{figures:?}");
    assert!(figures.break_precision >= 0.95 && figures.calibration_error <= 0.005, "{figures:?}");
    let goals = evaluate::goals(None, std::slice::from_ref(&figures));
    let table = evaluate::table(None, std::slice::from_ref(&figures));
    for goal in &goals {
        let is_within = goal.interval.is_none_or(|of| of.down <= goal.value && goal.value <= of.up);
        assert!(is_within && table.contains(goal.figure), "{goal:?}\n{table}");
    }
    let named = |figure: &str| goals.iter().find(|goal| goal.figure == figure).unwrap();
    assert_eq!((goals.len(), named("coverage").goal), (13, 0.90), "the goal at damage 1");
    assert!(named("f1").is_reached && named("reference_errors").is_reached, "{table}");
    let none: Vec<_> = goals.iter().filter(|goal| goal.interval.is_none()).map(|goal| goal.figure).collect();
    assert_eq!(none, ["calibration_error"]);
}

#[test]
fn books_that_were_written_are_judged_as_those_that_were_made() {
    let model = Model::shipped().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (seed, noise) in [(21, 1.0), (22, 1.0), (23, 2.5)] {
        let recipe = Recipe { seed, entries: 2_000, noise };
        let name = format!("books-{seed}");
        files::write_books(&generate::make(recipe), recipe, &folder.path().join(name)).unwrap();
    }
    let timeless = |mut figures: SyntheticFigures| {
        figures.records_per_second = 0.0;
        format!("{figures:?}")
    };
    let stored = evaluate::stored_books(&model, folder.path(), 2).unwrap();
    let stored: Vec<_> = stored.into_iter().map(timeless).collect();
    let made = |seeds: &[u64], noise| timeless(evaluate::synthetic(&model, seeds, 2_000, noise, 2));
    assert_eq!(stored, [made(&[21, 22], 1.0), made(&[23], 2.5)]);

    let one = folder.path().join("books-23");
    assert_eq!(evaluate::stored_books(&model, &one, 2).unwrap().len(), 1, "a folder of books by itself");
    assert!(evaluate::stored_books(&model, &folder.path().join("none"), 2).is_err());
    let whole = fs::read_to_string(one.join("bank.csv")).unwrap();
    let shortened: Vec<&str> = whole.lines().take(1_000).collect();
    fs::write(one.join("bank.csv"), shortened.join("\n")).unwrap();
    let refused = evaluate::stored_books(&model, &one, 2).unwrap_err();
    assert!(refused.source.to_string().contains("bank.csv has 999"), "{refused:?}");
}

#[test]
fn every_kind_of_break_is_made_and_those_of_whole_accounts_are_in_the_files() {
    let mut made = BTreeSet::new();
    for seed in 1..=10 {
        let books = generate::make(Recipe { seed, entries: 5_000, noise: 1.0 });
        made.extend(books.breaks.iter().map(|(kind, _)| *kind));
        let (mut heads, mut reserves) = (Vec::new(), Vec::new());
        files::write_heads(&books.statements, &mut heads).unwrap();
        files::write_reserves(&books.reserves, &mut reserves).unwrap();
        let mut found = gate::statement_gaps(&files::read_heads(heads.as_slice()).unwrap());
        found.extend(gate::unbacked(&files::read_reserves(reserves.as_slice()).unwrap()));
        let found: BTreeSet<_> = found.into_iter().map(|found| (found.kind, found.subject)).collect();
        let is_of_account = |(_, subject): &&(BreakKind, Subject)| matches!(subject, Subject::Account(_));
        let wanted: BTreeSet<_> = books.breaks.iter().filter(is_of_account).cloned().collect();
        assert_eq!(found, wanted, "seed {seed}");
    }
    let missing: Vec<_> = BreakKind::ALL.iter().filter(|kind| !made.contains(kind)).collect();
    assert!(missing.is_empty(), "never made: {missing:?}");
}

#[test]
fn the_report_does_not_depend_on_threads_or_order() {
    let model = Model::shipped().unwrap();
    let books = generate::make(Recipe { seed: 7, entries: 4_000, noise: 1.5 });
    let report = |threads: usize, is_reversed: bool| {
        let (mut ledger, mut bank) = (books.ledger.clone(), books.bank.clone());
        if is_reversed {
            ledger.reverse();
            bank.reverse();
        }
        let settings = Settings::on(books.as_of, threads);
        let outcome = engine::run(&ledger, &bank, &model, &settings);
        let manifest = Manifest::new(BTreeMap::new(), Model::shipped_sha256(), &settings);
        Report { ledger: &ledger, bank: &bank, outcome: &outcome, heads: &[], manifest: &manifest }
            .json()
            .unwrap()
    };
    let once = report(1, false);
    assert!(once.len() > 100_000, "the report tells something");
    assert!(once == report(3, false), "threads change the report");
    assert!(once == report(2, true), "the order of records changes the report");
}

#[test]
fn only_proof_by_people_leads_to_posting_alone() {
    let decided = |count, errors| Decided { count, errors, ..Decided::default() };
    assert_eq!(next_stage(Stage::Shadow, decided(199, 0)), Stage::Shadow);
    assert_eq!(next_stage(Stage::Shadow, decided(200, 0)), Stage::Suggest);
    assert_eq!(next_stage(Stage::Suggest, decided(2_994, 0)), Stage::Suggest);
    assert_eq!(next_stage(Stage::Suggest, decided(2_995, 0)), Stage::Auto);
    assert_eq!(next_stage(Stage::Suggest, decided(4_741, 1)), Stage::Suggest);
    assert_eq!(next_stage(Stage::Suggest, decided(4_742, 1)), Stage::Auto);
    let breached = Decided { audited: 100, audit_errors: 3, ..decided(5_000, 0) };
    assert_eq!(next_stage(Stage::Auto, breached), Stage::Suggest);
}

#[test]
fn amount_and_lot_send_matches_to_people_even_where_posting_alone_is_proven() {
    let caps = Caps { posted_minor_units_max: 1_000, one_person_minor_units_max: 5_000, audit_ppm: 15_000 };
    let of = |stage, decision, units| route(stage, decision, units, caps, ("M1", 7));
    assert_eq!(of(Stage::Shadow, Decision::Auto, 10), Route::Shadow);
    assert_eq!(of(Stage::Suggest, Decision::Auto, 10), Route::Person);
    assert_eq!(of(Stage::Auto, Decision::Suggest, 10), Route::Person);
    assert_eq!(of(Stage::Auto, Decision::Auto, -1_001), Route::Person);
    assert_eq!(of(Stage::Auto, Decision::Auto, -5_001), Route::FourEyes);
    let routes: Vec<Route> = (0..100_000)
        .map(|place| route(Stage::Auto, Decision::Auto, 1_000, caps, (&format!("M{place}"), 7)))
        .collect();
    let audited = routes.iter().filter(|route| **route == Route::PostedAndAudited).count();
    assert!((1_300..1_700).contains(&audited), "{audited} of 100,000");
    assert!(routes.iter().all(|route| matches!(route, Route::Posted | Route::PostedAndAudited)));
}
