//! Whether the database is there.
//!
//! While it is not, one task of the process asks for it and everybody else is told so at once: nobody waits for what cannot come,
//! and a server that reads its log again is not kept busy turning callers away, each with a process of its own. When it is back, all
//! who rest until then are woken. A connection that could not be made says little (one in a hundred is torn on a bad line), so several
//! have to fail, and nothing be answered between them. A server that answers, be it that it has no connection left, is there.

use crate::db::StoreError;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Config, NoTls};

/// So many connections in a row that cannot be made are an absence.
const MISSED_MAX: u32 = 3;
/// How often it is asked for where it, or its machine, refuses at once.
const ASKED_EVERY: Duration = Duration::from_millis(150);
/// How often where nothing answers: what was asked before the line healed is not answered after it either.
const ASKED_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What a process knows of the database being there. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Presence(Arc<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Connections in a row that could not be made.
    missed: AtomicU32,
    is_away: watch::Sender<bool>,
}

impl Presence {
    pub(crate) fn is_away(&self) -> bool {
        *self.0.is_away.borrow()
    }

    /// It has answered.
    pub(crate) fn met(&self) {
        if self.0.missed.load(Ordering::Relaxed) > 0 {
            self.0.missed.store(0, Ordering::Relaxed);
        }
    }

    /// No connection could be made.
    pub(crate) fn missed(&self, error: &StoreError, config: &Config) {
        if tells_of_absence(error) {
            self.unanswered(config);
        }
    }

    /// Nobody answered. From the third time in a row on it is asked for by a task of its own.
    pub(crate) fn unanswered(&self, config: &Config) {
        let missed = self.0.missed.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if missed >= MISSED_MAX && !self.0.is_away.send_replace(true) {
            tracing::warn!("the database is away; asking for it until it is back");
            tokio::spawn(ask(Arc::downgrade(&self.0), config.clone()));
        }
    }

    /// Resolves when it is back; never, if it is not away.
    pub(crate) async fn returns(&self) {
        let mut away = self.0.is_away.subscribe();
        if !self.is_away() || away.wait_for(|is_away| !is_away).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Asks until it answers, or until nobody wants to know any more.
async fn ask(known: Weak<Known>, config: Config) {
    let mut asked = FuturesUnordered::new();
    loop {
        let pause = if asked.is_empty() { ASKED_EVERY } else { ASKED_AGAIN_AFTER };
        let answer = tokio::select! {
            () = tokio::time::sleep(pause) => {
                asked.push(config.connect(NoTls));
                continue;
            }
            Some(answer) = asked.next() => answer,
        };
        let Some(known) = known.upgrade() else { return };
        if answer.is_ok() || answer.is_err_and(|error| !tells_of_absence(&error.into())) {
            known.missed.store(0, Ordering::Relaxed);
            known.is_away.send_replace(false);
            tracing::info!("the database is back");
            return;
        }
    }
}

/// Nobody answered, or only to say that it comes or goes.
fn tells_of_absence(error: &StoreError) -> bool {
    let StoreError::Unavailable(error) = error else { return false };
    let comes_or_goes = [SqlState::CANNOT_CONNECT_NOW, SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN];
    error.code().is_none_or(|code| comes_or_goes.contains(code))
}

#[cfg(test)]
mod tests {
    use crate::{Db, DbSettings, StoreError};
    use flowbridge_embedded::EmbeddedPostgres;
    use std::time::Duration;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn while_the_database_is_away_everybody_hears_so_at_once_and_when_it_is_back_all_are_woken() {
        let mut server = EmbeddedPostgres::temporary().expect("a private PostgreSQL");
        let db = Db::new(&DbSettings::new(server.url())).expect("settings");
        db.ping().await.expect("there");
        assert!(
            tokio::time::timeout(Duration::from_millis(50), db.returns()).await.is_err(),
            "it is not away"
        );

        server.crash();
        while !matches!(db.ping().await, Err(StoreError::Away)) {
            tokio::task::yield_now().await;
        }
        let sleepers: Vec<_> = (0..20)
            .map(|_| {
                let db = db.clone();
                tokio::spawn(async move { db.returns().await })
            })
            .collect();
        assert!(matches!(db.begin().await, Err(StoreError::Away)));
        server.restart().expect("it comes back");
        for sleeper in sleepers {
            let woken = tokio::time::timeout(Duration::from_secs(30), sleeper).await;
            woken.expect("woken").expect("not cancelled");
        }
        db.ping().await.expect("there again");
    }
}
