//! Random lives of payments.
//!
//! In a plausible world (see [`crate::world`]) every life comes to rest: completed, failed, or with a person for a reason that
//! the world can confirm; the ledger then says what chain and banks say. In a hostile world, where anything is said in any
//! order, the promises are fewer, but absolute: no panic, no posting that the database would refuse, what has ended stays ended
//! unless it is contradicted, what has failed leaves no tokens behind, and saying a thing twice is saying it once.
//!
//! The seed is fixed, so that a failure is everybody's failure; change it to explore.

use crate::support::{AMOUNT, SHAPES, Shape, Story, every_event, payment};
use crate::world::{Action, Budget, Setting, World};
use flowbridge_domain::payment::{ChainLeg, Effect, Event, Funding, Rejected, ReviewReason, State, step};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

const SEED: RngSeed = RngSeed::Fixed(2026);

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, rng_seed: SEED, failure_persistence: None, ..ProptestConfig::default() }
}

fn any_shape() -> impl Strategy<Value = Shape> {
    prop::sample::select(SHAPES.to_vec())
}

fn any_budget() -> impl Strategy<Value = Budget> {
    (0..3u8, 0..4u8, 0..4u8, 0..2u8, 0..2u8, 0..2u8, 0..3u8, 0..2u8).prop_map(
        |(crashes, repeats, reorgs, declines, set_asides, early_expiries, revocations, reviews)| Budget {
            crashes,
            repeats,
            reorgs,
            declines,
            set_asides,
            early_expiries,
            revocations,
            reviews,
        },
    )
}

fn pick<T: Copy>(from: &[T], choice: u16) -> Option<T> {
    (!from.is_empty()).then(|| from[usize::from(choice) % from.len()])
}

/// Lives as the choices say; then without further misfortune, until nothing is left to happen. Returns the last moment and
/// the way there.
fn live(setting: &Setting, choices: &[u16]) -> (World, Vec<Action>) {
    let mut world = World::new(setting);
    let mut way = Vec::new();
    for choice in choices {
        // One move in eight is a misfortune, or most lives would end before they began.
        let actions = if choice % 8 == 0 { world.possible(setting) } else { world.due(setting) };
        if let Some(action) = pick(&actions, choice / 8) {
            world = world.act(setting, action);
            way.push(action);
        }
        check_always(setting, &world, &way);
    }
    for step in 0.. {
        assert!(step < 200, "never comes to rest: {:?} after {way:?}", world.progress);
        let choice = choices.get(step).copied().unwrap_or_default();
        let action = match pick(&world.due(setting), choice) {
            Some(action) => action,
            None if world.is_at_rest(setting) => break,
            None => Action::TimePasses,
        };
        world = world.act(setting, action);
        way.push(action);
        check_always(setting, &world, &way);
    }
    (world, way)
}

fn check_always(setting: &Setting, world: &World, way: &[Action]) {
    let told = || format!("{:?} after {way:?}", world.progress);
    assert_eq!(world.books_refused, None, "{}", told());
    assert!(world.nobody_pays_or_is_paid_twice(setting), "paid twice: {}", told());
    assert!(world.nothing_is_both_settled_and_cancelled(), "two ends: {}", told());
    assert!(world.no_hold_is_released_too_early(setting), "released too early: {}", told());
    assert!(world.minted_tokens_are_backed(setting), "not backed: {}", told());
}

proptest! {
    #![proptest_config(cases(8_000))]

    #[test]
    fn every_life_in_a_plausible_world_ends_and_the_books_agree(
        shape in any_shape(),
        budget in any_budget(),
        choices in prop::collection::vec(any::<u16>(), 0..90),
    ) {
        let setting = Setting::new(shape, budget);
        let (world, way) = live(&setting, &choices);
        prop_assert_eq!(world.has_ended_well(&setting), Ok(()), "after {:?}", way);
        prop_assert_eq!(world.books_agree(&setting), Ok(()), "{:?} after {:?}", world.progress, way);
    }
}

proptest! {
    #![proptest_config(cases(8_000))]

    #[test]
    fn a_hostile_world_breaks_no_promise(
        shape in any_shape(),
        events in prop::collection::vec((prop::sample::select(every_event()), 0..4u8), 0..60),
    ) {
        let mut story = payment(shape);
        for (event, deadlines_passed) in events {
            story.now = story.now.max(crate::world::after_deadlines(deadlines_passed));
            let before = story.clone();
            // Books and holds panic here if the database would refuse.
            let told = story.tell(event);
            check_ends_stay(&before, &story, event)?;
            check_nothing_is_left_behind(&story, event)?;
            check_a_repeat_changes_nothing(&story, event)?;
            if told.is_err() {
                prop_assert_eq!(before.progress(), story.progress());
            }
        }
    }

    #[test]
    fn the_same_events_replayed_give_the_same_payment(
        shape in any_shape(),
        events in prop::collection::vec(prop::sample::select(every_event()), 0..60),
    ) {
        let play = || {
            let mut story = payment(shape);
            let told: Vec<_> = events.iter().map(|event| story.tell(*event)).collect();
            (told, story.progress(), story.books)
        };
        prop_assert_eq!(play(), play());
    }
}

fn check_ends_stay(before: &Story, after: &Story, event: Event) -> Result<(), TestCaseError> {
    let contradicted = matches!(
        after.state(),
        State::UnderReview(ReviewReason::Contradiction | ReviewReason::FundsMovedWithoutSettlement)
    );
    if before.state().is_terminal() {
        prop_assert!(
            after.state() == before.state() || contradicted,
            "{:?} led from {:?} to {:?}",
            event,
            before.state(),
            after.state()
        );
    }
    Ok(())
}

/// What has failed, by whatever decision: tokens are reserved for it only while the chain has them in escrow, and then the chain has
/// been asked to give them back.
fn check_nothing_is_left_behind(story: &Story, event: Event) -> Result<(), TestCaseError> {
    if !matches!(story.state(), State::Failed(_)) {
        return Ok(());
    }
    let is_open = story.progress().legs.chain == ChainLeg::Open;
    let is_escrowed = is_open && story.payment.terms.funding == Funding::Token;
    let held = if is_escrowed { AMOUNT } else { 0 };
    prop_assert_eq!(story.books.held(), held, "{:?} led to {:?}", event, story.progress());
    prop_assert!(
        !is_open || story.has_asked(Effect::CancelOnChain),
        "{:?} led to {:?}, and nobody asked the chain to close it",
        event,
        story.progress()
    );
    Ok(())
}

fn check_a_repeat_changes_nothing(story: &Story, event: Event) -> Result<(), TestCaseError> {
    // A decision is no observation: each is approved and carried out on its own.
    if matches!(event, Event::Reviewed(_)) {
        return Ok(());
    }
    let again = step(&story.payment, event, story.now);
    prop_assert!(
        matches!(again, Err(Rejected::Repeat | Rejected::TooLate | Rejected::NotApplicable)),
        "{:?} twice: {:?}",
        event,
        again
    );
    Ok(())
}
