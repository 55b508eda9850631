//! A slice of holds on few accounts, against the plainest possible bookkeeping.

use crate::support::ACCEPTED_AT;
use flowbridge_domain::id::AccountId;
use flowbridge_domain::ledger::{Balances, HoldMovement, LedgerHold, cover_holds};
use flowbridge_domain::money::{Currency, Money, MoneyError};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::collections::BTreeMap;

fn account(number: u8) -> AccountId {
    AccountId::generate(ACCEPTED_AT, [number; 10])
}

fn hold(number: u8, units: i128) -> LedgerHold {
    let amount = Money::new(units, Currency::parse("EUR").unwrap());
    LedgerHold { account: account(number), movement: HoldMovement::Place, round: 0, amount }
}

proptest! {
    #![proptest_config(ProptestConfig {
        rng_seed: RngSeed::Fixed(2026), failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn a_hold_is_covered_exactly_when_its_account_still_has_enough(
        posted in prop::collection::vec(0..500i128, 3),
        wanted in prop::collection::vec((0..4u8, -2..200i128), 0..20),
    ) {
        let mut balances: BTreeMap<_, _> = (0u8..)
            .zip(&posted)
            .map(|(number, posted)| (account(number), Balances { posted: *posted, held: 0 }))
            .collect();
        let holds: Vec<_> = wanted.iter().map(|(number, units)| hold(*number, *units)).collect();
        let covered = cover_holds(&holds, &mut balances);

        // An account that nobody has paid into has nothing.
        let mut left = [posted[0], posted[1], posted[2], 0];
        for ((number, units), covered) in wanted.iter().zip(covered) {
            let left = &mut left[usize::from(*number)];
            let expected = match units {
                ..=0 => Err(MoneyError::NotPositive),
                units if units > left => Err(MoneyError::TooLarge),
                units => {
                    *left -= units;
                    Ok(())
                }
            };
            prop_assert_eq!(covered, expected);
        }
        for (number, left) in (0u8..).zip(left) {
            let balances = balances.get(&account(number)).copied().unwrap_or_default();
            prop_assert_eq!(balances.available(), left);
        }
    }

    #[test]
    fn a_hold_near_the_end_of_numbers_is_refused_and_not_wrapped(units in any::<i128>(), held in any::<i128>()) {
        let mut balances = BTreeMap::from([(account(0), Balances { posted: i128::MAX, held })]);
        let covered = cover_holds(&[hold(0, units)], &mut balances);
        if covered == [Ok(())] {
            prop_assert_eq!(balances[&account(0)].held.checked_sub(units), Some(held));
        } else {
            prop_assert_eq!(balances[&account(0)].held, held);
        }
    }
}
