//! Crashes on purpose, for tests: `FLOWBRIDGE_CRASH=before:chain::send::NUMBER:2` aborts the process just before it sends its second
//! commit of a transaction in which that statement did something, and `after:…` just after that was answered. A statement that
//! is named so is given a transaction if it has none. Names are those of the committed list of statements, without the crate. A release build has
//! nothing of this, unless it is made with the feature `failpoints`.
//!
//! What a commit means for those outside is decided in the moments around it; a process that dies in them must leave
//! nothing half done. An abort runs no destructor and flushes nothing, like a power cut for this process.

#[cfg(any(debug_assertions, feature = "failpoints"))]
mod armed {
    use crate::sql::Statement;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    struct Plan {
        after: bool,
        statement: String,
        nth: u64,
    }

    fn parse(plan: &str) -> Option<Plan> {
        let (when, which) = plan.split_once(':')?;
        let after = match when {
            "before" => false,
            "after" => true,
            _ => return None,
        };
        let (statement, nth) = which.rsplit_once(':')?;
        Some(Plan { after, statement: format!("flowbridge_store::{statement}"), nth: nth.parse().ok()? })
    }

    #[expect(clippy::disallowed_methods, reason = "a crash on request is no part of the configuration")]
    static PLAN: LazyLock<Option<Plan>> = LazyLock::new(|| {
        let asked = std::env::var("FLOWBRIDGE_CRASH").ok()?;
        let plan = parse(&asked);
        assert!(plan.is_some(), "FLOWBRIDGE_CRASH is before:STATEMENT:N or after:STATEMENT:N, not {asked:?}");
        plan
    });
    static MEANT: AtomicU64 = AtomicU64::new(0);

    /// What is about to be committed.
    #[derive(Debug, Default)]
    pub(crate) struct Commit {
        is_meant: AtomicBool,
    }

    impl Commit {
        /// Whether a commit that has this statement in it is one that is meant.
        pub(crate) fn is_planned(statement: Statement) -> bool {
            PLAN.as_ref().is_some_and(|plan| plan.statement == statement.name)
        }

        /// It has this statement in it, which did something to so many rows.
        pub(crate) fn has(&self, statement: Statement, rows: u64) {
            if rows > 0 && Self::is_planned(statement) {
                self.is_meant.store(true, Ordering::Relaxed);
            }
        }

        /// It is about to be sent: counts it, or ends the process.
        pub(crate) fn before(&self) {
            self.count(false);
        }

        /// It was answered: counts it, or ends the process.
        pub(crate) fn after(&self) {
            self.count(true);
        }

        fn count(&self, after: bool) {
            let Some(plan) = PLAN.as_ref().filter(|plan| plan.after == after) else { return };
            if self.is_meant.load(Ordering::Relaxed) && MEANT.fetch_add(1, Ordering::Relaxed) + 1 == plan.nth
            {
                std::process::abort();
            }
        }
    }
}

#[cfg(not(any(debug_assertions, feature = "failpoints")))]
mod armed {
    use crate::sql::Statement;

    #[derive(Debug, Default)]
    pub(crate) struct Commit;

    impl Commit {
        #[expect(clippy::unused_self, reason = "there is nothing to count")]
        pub(crate) const fn has(&self, _statement: Statement, _rows: u64) {}

        pub(crate) const fn is_planned(_statement: Statement) -> bool {
            false
        }

        #[expect(clippy::unused_self, reason = "there is nothing to count")]
        pub(crate) const fn before(&self) {}

        #[expect(clippy::unused_self, reason = "there is nothing to count")]
        pub(crate) const fn after(&self) {}
    }
}

pub(crate) use armed::Commit;
