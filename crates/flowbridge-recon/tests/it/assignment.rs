//! The assignment against trying everything.

use flowbridge_recon::assign::{Edge, assign};
use proptest::prelude::*;

/// The greatest sum of weights, by trying every choice.
fn best(edges: &[Edge], used_left: u32, used_right: u32) -> i64 {
    let Some((edge, rest)) = edges.split_first() else { return 0 };
    let without = best(rest, used_left, used_right);
    let (left, right) = (1 << edge.left, 1 << edge.right);
    if used_left & left != 0 || used_right & right != 0 {
        return without;
    }
    without.max(edge.weight + best(rest, used_left | left, used_right | right))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_other_assignment_weighs_more(weights in prop::collection::btree_map((0u32..6, 0u32..6), -5i64..30, 0..14)) {
        let edges: Vec<Edge> =
            weights.into_iter().map(|((left, right), weight)| Edge { left, right, weight }).collect();
        let kept = assign(6, 6, &edges);
        let (mut lefts, mut rights, mut sum) = (0u32, 0u32, 0);
        for edge in kept.iter().map(|place| edges[*place]) {
            prop_assert!(lefts & (1 << edge.left) == 0 && rights & (1 << edge.right) == 0, "used twice");
            lefts |= 1 << edge.left;
            rights |= 1 << edge.right;
            sum += edge.weight;
        }
        prop_assert_eq!(sum, best(&edges, 0, 0));
    }
}
