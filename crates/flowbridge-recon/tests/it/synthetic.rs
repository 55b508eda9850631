//! Synthetic books: the goals on a seed that nothing was trained on, and the same answer however it is asked.

use flowbridge_recon::engine::{self, Decision, Settings};
use flowbridge_recon::generate::{self, Recipe};
use flowbridge_recon::policy::{Caps, Decided, Route, Stage, next_stage, route};
use flowbridge_recon::report::{Manifest, Report};
use flowbridge_recon::{Model, evaluate};
use std::collections::BTreeMap;

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
