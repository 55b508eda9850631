//! Work on several threads whose result does not depend on how many there are.
//!
//! Parts are fixed by the work, not by the threads; each result lands at its part's place. A panic in a part is a
//! programmer's error and goes through to the caller.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Applies `work` to the numbers below `parts` on up to `threads` threads; results in the order of the numbers.
pub(crate) fn map<T: Send>(parts: usize, threads: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let mut done = Vec::with_capacity(parts);
    in_order(parts, threads, work, |result| done.push(result));
    done
}

/// As [`map`], but each result is handed on as soon as all before it were, so that few of them are there at once.
pub(crate) fn in_order<T: Send>(
    parts: usize,
    threads: usize,
    work: impl Fn(usize) -> T + Sync,
    mut take: impl FnMut(T) + Send,
) {
    let threads = threads.clamp(1, parts.max(1));
    if threads == 1 {
        return (0..parts).map(work).for_each(take);
    }
    let next = AtomicUsize::new(0);
    let (mut due, mut early) = (0, BTreeMap::new());
    let hand_on = Mutex::new(|part: usize, result: T| {
        early.insert(part, result);
        while let Some(result) = early.remove(&due) {
            take(result);
            due += 1;
        }
    });
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let part = next.fetch_add(1, Ordering::Relaxed);
                    if part >= parts {
                        return;
                    }
                    let result = work(part);
                    locked(&hand_on)(part, result);
                }
            });
        }
    });
}

/// Fills stretches of at most `size` places side by side; `work` is told at which place its stretch begins.
pub(crate) fn fill<T: Send>(
    places: &mut [T],
    size: usize,
    threads: usize,
    work: impl Fn(usize, &mut [T]) + Sync,
) {
    let threads = threads.clamp(1, places.len().div_ceil(size).max(1));
    let stretches = Mutex::new(places.chunks_mut(size).enumerate());
    let fill = || {
        loop {
            let Some((part, stretch)) = locked(&stretches).next() else { return };
            work(part * size, stretch);
        }
    };
    if threads == 1 {
        return fill();
    }
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(fill);
        }
    });
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Cuts `0..len` into ranges of at most `size`.
pub(crate) fn ranges(len: usize, size: usize) -> Vec<std::ops::Range<usize>> {
    (0..len.div_ceil(size)).map(|part| part * size..((part + 1) * size).min(len)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_on_any_number_of_threads() {
        for threads in 1..5 {
            let mut taken = Vec::new();
            in_order(100, threads, |part| part * part, |result| taken.push(result));
            assert_eq!(taken, (0..100).map(|part| part * part).collect::<Vec<_>>());
            let mut places = vec![0; 1_001];
            fill(&mut places, 10, threads, |from, stretch| {
                for (offset, place) in stretch.iter_mut().enumerate() {
                    *place = from + offset;
                }
            });
            assert_eq!(places, (0..1_001).collect::<Vec<_>>());
        }
    }
}
