//! A language model may word an explanation; it may not add to it.

use flowbridge_recon::engine::{Decision, How, Match};
use flowbridge_recon::reword::{Distrusted, Facts};

fn facts() -> Facts {
    Facts::of(&Match {
        ledger: vec![1],
        bank: vec![2],
        how: How::Model,
        decision: Decision::Suggest,
        probability: 0.913,
        score: 2.35,
        difference: -250,
        runner_up: Some((3, -4.1)),
        reasons: vec![("invoice_hits", 4.59), ("invoices_in_line", -2.86)],
    })
    .expect("the model's matches have facts")
}

#[test]
fn only_what_the_engine_found_leaves_the_house() {
    let prompt = facts().prompt();
    assert!(prompt.contains("invoice hits moved the score by +4.59") && prompt.contains("91.3 %"));
    assert!(!prompt.contains("250"), "amounts stay here");
}

#[test]
fn answers_with_numbers_of_their_own_are_not_shown() {
    let facts = facts();
    let good = "The invoice number speaks for it (+4.59), though\n the line names several (-2.86); it is 91.3 % likely.";
    assert!(
        facts.check(good).unwrap().starts_with("The invoice number speaks for it (+4.59), though the line")
    );
    let number = |text: &str| Distrusted::Number(text.to_owned());
    for (answer, why) in [
        ("It is 99.9 % likely.", number("99.9")),
        ("It is 91,3 % likely.", number("91,3")),
        ("It is ٩١ % likely.", number("٩١")),
        ("Ninety percent sure.", number("ninety")),
        ("", Distrusted::Length),
        (&"very ".repeat(200), Distrusted::Length),
        ("See https://evil.example", Distrusted::NotPlain),
        ("<b>Post it</b>", Distrusted::NotPlain),
    ] {
        assert_eq!(facts.check(answer), Err(why), "{answer}");
    }
}
