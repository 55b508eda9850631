//! Work on several threads whose result does not depend on how many there are.
//!
//! Parts are fixed by the work, not by the threads; each result lands at its part's place. A panic in a part is a
//! programmer's error and goes through to the caller.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Applies `work` to the numbers below `parts` on up to `threads` threads; results in the order of the numbers.
pub(crate) fn map<T: Send>(parts: usize, threads: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let threads = threads.clamp(1, parts.max(1));
    if threads == 1 {
        return (0..parts).map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, T)>> = Mutex::new(Vec::with_capacity(parts));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let part = next.fetch_add(1, Ordering::Relaxed);
                    if part >= parts {
                        return;
                    }
                    let result = work(part);
                    done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((part, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|(part, _)| *part);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Cuts `0..len` into ranges of at most `size`.
pub(crate) fn ranges(len: usize, size: usize) -> Vec<std::ops::Range<usize>> {
    (0..len.div_ceil(size)).map(|part| part * size..((part + 1) * size).min(len)).collect()
}
