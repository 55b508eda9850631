//! Crashes on purpose, for tests: `FLOWBRIDGE_CRASH=before:7` aborts the process just before its seventh commit (or statement
//! outside a transaction) is sent, and `after:7` just after the seventh was answered. A release build has nothing of this,
//! unless it is made with the feature `failpoints`.
//!
//! What a commit means for those outside is decided in the moments around it; a process that dies in them must leave
//! nothing half done. An abort runs no destructor and flushes nothing, like a power cut for this process.

#[cfg(any(debug_assertions, feature = "failpoints"))]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[expect(clippy::disallowed_methods, reason = "a crash on request is no part of the configuration")]
    static PLAN: LazyLock<Option<(bool, u64)>> = LazyLock::new(|| {
        let plan = std::env::var("FLOWBRIDGE_CRASH").ok()?;
        let (when, nth) = plan.split_once(':')?;
        Some((when == "after", nth.parse().ok()?))
    });
    static BEGUN: AtomicU64 = AtomicU64::new(0);

    /// Numbers the commit that is about to be sent, or ends the process.
    pub(crate) fn before_commit() -> u64 {
        let nth = BEGUN.fetch_add(1, Ordering::Relaxed) + 1;
        if *PLAN == Some((false, nth)) {
            std::process::abort();
        }
        nth
    }

    /// The commit of this number was answered.
    pub(crate) fn after_commit(nth: u64) {
        if *PLAN == Some((true, nth)) {
            std::process::abort();
        }
    }
}

#[cfg(not(any(debug_assertions, feature = "failpoints")))]
mod armed {
    pub(crate) const fn before_commit() -> u64 {
        0
    }

    pub(crate) const fn after_commit(_nth: u64) {}
}

pub(crate) use armed::{after_commit, before_commit};
