//! Which pairs to keep when each record may be used once: the assignment with the greatest sum of weights.
//!
//! Shortest augmenting paths on the sparse graph of candidates, in whole numbers, so that equal inputs give equal outputs
//! on every machine. A record may stay alone, which weighs nothing; a pair that weighs nothing or less is never kept.
//! A test compares it with trying every assignment on thousands of small graphs.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A possible pair and what it is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// Position on the left.
    pub left: u32,
    /// Position on the right.
    pub right: u32,
    /// What keeping the pair is worth; only differences matter.
    pub weight: i64,
}

const FREE: u32 = u32::MAX;

/// Positions in `edges` of the pairs that are kept. `edges` must be sorted by `left`, without repeated pairs.
pub fn assign(lefts: usize, rights: usize, edges: &[Edge]) -> Vec<usize> {
    let mut starts = vec![0usize; lefts + 1];
    for edge in edges {
        starts[edge.left as usize + 1] += 1;
    }
    for left in 0..lefts {
        starts[left + 1] += starts[left];
    }
    let mut solver = Solver {
        edges,
        starts,
        left_price: vec![0; lefts],
        right_price: vec![0; rights],
        pair_of_right: vec![FREE; rights],
        pair_of_left: vec![FREE; lefts],
        reached: vec![i64::MAX; rights],
        came_by: vec![FREE; rights],
        touched: Vec::new(),
        settled: Vec::new(),
    };
    for left in 0..lefts {
        solver.augment(left as u32);
    }
    solver.pair_of_left.iter().filter(|edge| **edge != FREE).map(|edge| *edge as usize).collect()
}

/// Costs are negated weights; staying alone costs nothing. Prices keep `cost - left_price - right_price` of every edge
/// at zero or more, and at zero for pairs that are kept.
struct Solver<'a> {
    edges: &'a [Edge],
    starts: Vec<usize>,
    left_price: Vec<i64>,
    right_price: Vec<i64>,
    pair_of_right: Vec<u32>,
    pair_of_left: Vec<u32>,
    reached: Vec<i64>,
    came_by: Vec<u32>,
    touched: Vec<u32>,
    settled: Vec<u32>,
}

enum End {
    Right(u32),
    Alone(u32),
}

impl Solver<'_> {
    fn augment(&mut self, start: u32) {
        let range = self.starts[start as usize]..self.starts[start as usize + 1];
        if range.is_empty() {
            return;
        }
        let cheapest = self.edges[range]
            .iter()
            .map(|edge| -edge.weight - self.right_price[edge.right as usize])
            .min()
            .unwrap_or(0);
        self.left_price[start as usize] = cheapest.min(0);
        let (end, length) = self.shortest_path(start);
        for right in &self.settled {
            let back = length - self.reached[*right as usize];
            self.right_price[*right as usize] -= back;
            let edge = self.pair_of_right[*right as usize];
            self.left_price[self.edges[edge as usize].left as usize] += back;
        }
        self.left_price[start as usize] += length;
        self.flip(start, end);
        for right in self.touched.drain(..) {
            self.reached[right as usize] = i64::MAX;
            self.came_by[right as usize] = FREE;
        }
        self.settled.clear();
    }

    /// Where the cheapest way out of `start` ends, and what it costs in reduced costs.
    fn shortest_path(&mut self, start: u32) -> (End, i64) {
        let mut heap = BinaryHeap::new();
        let mut alone = (-self.left_price[start as usize], start);
        self.relax(start, 0, &mut heap);
        while let Some(Reverse((distance, right))) = heap.pop() {
            if distance > self.reached[right as usize] {
                continue;
            }
            if distance >= alone.0 {
                break;
            }
            let pair = self.pair_of_right[right as usize];
            if pair == FREE {
                return (End::Right(right), distance);
            }
            self.settled.push(right);
            let left = self.edges[pair as usize].left;
            let alone_here = distance - self.left_price[left as usize];
            if alone_here < alone.0 {
                alone = (alone_here, left);
            }
            self.relax(left, distance, &mut heap);
        }
        (End::Alone(alone.1), alone.0)
    }

    fn relax(&mut self, left: u32, distance: i64, heap: &mut BinaryHeap<Reverse<(i64, u32)>>) {
        for position in self.starts[left as usize]..self.starts[left as usize + 1] {
            let edge = self.edges[position];
            let right = edge.right as usize;
            let next = distance - edge.weight - self.left_price[left as usize] - self.right_price[right];
            if next < self.reached[right] {
                if self.reached[right] == i64::MAX {
                    self.touched.push(edge.right);
                }
                self.reached[right] = next;
                self.came_by[right] = position as u32;
                heap.push(Reverse((next, edge.right)));
            }
        }
    }

    /// Walks back from the end of the path and exchanges kept and not kept pairs.
    fn flip(&mut self, start: u32, end: End) {
        let mut right = match end {
            End::Right(right) => right,
            End::Alone(left) if left == start => return,
            End::Alone(left) => {
                let given_up = self.pair_of_left[left as usize];
                self.pair_of_left[left as usize] = FREE;
                self.edges[given_up as usize].right
            }
        };
        loop {
            let edge = self.came_by[right as usize];
            let left = self.edges[edge as usize].left;
            let before = self.pair_of_left[left as usize];
            self.pair_of_left[left as usize] = edge;
            self.pair_of_right[right as usize] = edge;
            if left == start {
                return;
            }
            right = self.edges[before as usize].right;
        }
    }
}
