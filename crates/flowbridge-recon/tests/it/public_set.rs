//! Splink's public set: the goals, measured on the real files.

use crate::shared;
use flowbridge_recon::evaluate;

#[test]
fn public_set_reaches_its_goals_on_any_number_of_threads() {
    let Some(folder) = shared::folder("splink-transactions") else { return };
    let figures = evaluate::public_set(&folder, 2).unwrap().unwrap();
    assert!(figures.unsupervised.f1 >= 0.998, "{figures:?}");
    assert!(figures.unsupervised.coverage_at_999 >= 0.95, "{figures:?}");
    let again = evaluate::public_set(&folder, 1).unwrap().unwrap();
    assert_eq!(figures.unsupervised.f1.to_bits(), again.unsupervised.f1.to_bits());
    let goals = evaluate::goals(Some(&figures), &[]);
    for (set, figure) in [
        ("unsupervised", "f1"),
        ("unsupervised", "coverage_at_999"),
        ("labelled", "f1"),
        ("labelled", "coverage_at_999"),
        ("labelled", "honest.precision"),
    ] {
        let goal = goals.iter().find(|goal| goal.set == set && goal.figure == figure).unwrap();
        let interval = goal.interval.unwrap();
        assert!(interval.down <= goal.value && goal.value <= interval.up, "{goal:?}");
        assert!(goal.is_reached && interval.up - interval.down < 0.002, "{goal:?}");
    }
    let labelled = figures.labelled;
    assert!(labelled.f1 >= 0.9993 && labelled.coverage_at_999 >= 0.99, "{labelled:?}");
    let honest = labelled.honest.unwrap();
    assert!(honest.coverage >= 0.99 && honest.precision >= 0.999, "{honest:?}");
}
