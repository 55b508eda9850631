//! One payment in its world, explored exhaustively: every order of messages, every point at which a worker may die, a late,
//! repeated or lost answer (asked for again and then told), one reorganisation, a client who revokes at the worst moment.
//!
//! A correct build keeps every promise in every state that can be reached. Each flawed build breaks one, and the checker has to
//! say so: a model that cannot fail would prove nothing.
//!
//! Every move uses up a message, a deadline, a row's progress or a budget, so no life goes on for ever; that the states at rest
//! are good ends therefore says that every life ends well.

use crate::support::{
    BANK_TO_BANK, BANK_TO_TOKEN, CONFIRM_ONLY_TO_BANK, CONFIRM_ONLY_TO_TOKEN, Shape, TOKEN_TO_BANK,
    TOKEN_TO_TOKEN,
};
use crate::world::{Action, Budget, Flaw, Setting, World};
use flowbridge_domain::payment::State;
use stateright::{Checker, Model, Property};

impl Model for Setting {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        actions.extend(world.due(self));
        actions.extend(world.possible(self));
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        Some(world.act(self, action))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ACCEPTS, |_, world: &World| world.books_refused.is_none()),
            Property::always(ONCE, |setting: &Self, world: &World| {
                world.nobody_pays_or_is_paid_twice(setting)
            }),
            Property::always(ONE_END, |_, world: &World| world.nothing_is_both_settled_and_cancelled()),
            Property::always(RELEASE, |setting: &Self, world: &World| {
                world.no_hold_is_released_too_early(setting)
            }),
            Property::always(BACKED, |setting: &Self, world: &World| world.minted_tokens_are_backed(setting)),
            Property::always(AGREES, |setting: &Self, world: &World| {
                !world.is_at_rest(setting) || world.books_agree(setting).is_ok()
            }),
            Property::always(ENDS, |setting: &Self, world: &World| {
                !world.is_at_rest(setting) || world.has_ended_well(setting).is_ok()
            }),
            Property::sometimes("it completes", |_, world: &World| world.progress.state == State::Completed),
            Property::sometimes("it fails", |_, world: &World| {
                matches!(world.progress.state, State::Failed(_))
            }),
        ]
    }
}

const ACCEPTS: &str = "the ledger accepts every posting: none twice, no hold resolved twice";
const ONCE: &str = "the debtor pays at most once, the creditor is paid at most once";
const ONE_END: &str = "nothing is both settled and cancelled";
const RELEASE: &str = "a hold is released only when the chain cannot settle any more";
const BACKED: &str = "minted tokens are backed by a hold or by captured money";
const AGREES: &str = "at rest, the ledger says what chain and banks say";
const ENDS: &str = "at rest, the payment has ended as the world bears out, or a person has it for a reason";

const CALM: Budget = Budget {
    crashes: 0,
    repeats: 0,
    reorgs: 0,
    declines: 0,
    set_asides: 0,
    early_expiries: 0,
    revocations: 0,
    reviews: 0,
};

/// Explores all that can happen within the budget; every promise has to hold.
fn explore(shape: Shape, budget: Budget) {
    let started = std::time::Instant::now();
    let checked = Setting::new(shape, budget).checker().threads(2).spawn_bfs().join();
    checked.assert_properties();
    println!(
        "{}: {} states, {} moves, {:.1} s, depth {}",
        shape.name,
        checked.unique_state_count(),
        checked.state_count(),
        started.elapsed().as_secs_f32(),
        checked.max_depth(),
    );
}

/// Everything that messages and workers can do wrong, around one reorganisation and one revocation.
const ROUGH: Budget = Budget { crashes: 1, repeats: 1, reorgs: 1, declines: 1, revocations: 1, ..CALM };
/// What chain, banks and people may decide, around one reorganisation and one revocation.
const FICKLE: Budget =
    Budget { reorgs: 1, set_asides: 1, early_expiries: 1, revocations: 1, reviews: 1, ..CALM };
/// The chain goes back and forth.
const SHIFTING: Budget = Budget { reorgs: 2, declines: 1, ..CALM };

#[test]
fn bank_to_token_keeps_its_promises() {
    explore(BANK_TO_TOKEN, ROUGH);
    explore(BANK_TO_TOKEN, FICKLE);
    explore(BANK_TO_TOKEN, SHIFTING);
}

#[test]
fn bank_to_bank_keeps_its_promises() {
    explore(BANK_TO_BANK, Budget { reorgs: 0, ..ROUGH });
    explore(BANK_TO_BANK, Budget { repeats: 0, ..ROUGH });
    explore(BANK_TO_BANK, FICKLE);
    explore(BANK_TO_BANK, SHIFTING);
}

#[test]
fn token_funding_keeps_its_promises() {
    explore(TOKEN_TO_TOKEN, Budget { set_asides: 1, reviews: 1, ..ROUGH });
    explore(TOKEN_TO_BANK, ROUGH);
    explore(TOKEN_TO_BANK, FICKLE);
    explore(TOKEN_TO_BANK, SHIFTING);
}

#[test]
fn a_confirm_only_bank_keeps_its_promises() {
    explore(CONFIRM_ONLY_TO_TOKEN, Budget { reorgs: 0, ..ROUGH });
    explore(CONFIRM_ONLY_TO_BANK, Budget { repeats: 0, ..ROUGH });
    explore(CONFIRM_ONLY_TO_TOKEN, FICKLE);
    explore(CONFIRM_ONLY_TO_BANK, SHIFTING);
}

/// Builds it wrongly: one of these promises has to break.
fn refute(shape: Shape, budget: Budget, flaw: Flaw, promises: &[&'static str]) {
    let checked = Setting::new(shape, budget).with(flaw).checker().threads(2).spawn_bfs().join();
    let broken = promises.iter().find_map(|promise| checked.discovery(promise).map(|way| (promise, way)));
    let (promise, way) = broken.unwrap_or_else(|| panic!("{flaw:?} was not found out"));
    println!("{flaw:?} breaks \"{promise}\" in {} moves", way.into_actions().len());
}

#[test]
fn effects_written_after_the_step_are_lost_with_their_writer() {
    refute(BANK_TO_TOKEN, Budget { crashes: 1, ..CALM }, Flaw::EffectsWrittenLater, &[ENDS]);
}

#[test]
fn a_new_key_per_attempt_takes_the_money_twice() {
    refute(BANK_TO_TOKEN, Budget { crashes: 1, ..CALM }, Flaw::NewKeyPerAttempt, &[ONCE]);
    refute(BANK_TO_BANK, Budget { crashes: 1, ..CALM }, Flaw::NewKeyPerAttempt, &[ONCE]);
}

#[test]
fn a_timer_ahead_of_the_log_gives_up_what_is_initiated() {
    refute(TOKEN_TO_TOKEN, CALM, Flaw::TimerAheadOfTheLog, &[ENDS, AGREES]);
    refute(BANK_TO_TOKEN, CALM, Flaw::TimerAheadOfTheLog, &[ENDS]);
}

#[test]
fn a_hold_released_before_the_chain_has_cancelled_loses_the_race_with_settlement() {
    refute(BANK_TO_TOKEN, Budget { revocations: 1, ..CALM }, Flaw::ReleaseBeforeCancelled, &[RELEASE]);
}
