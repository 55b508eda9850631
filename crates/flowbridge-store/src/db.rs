//! Connections, transactions, migrations, and what a failure means for the caller.
//!
//! Each role has a pool of its own size. Time-outs are everywhere: on connecting, on waiting for a connection, on a
//! statement, on a lock, on an idle transaction and on a peer that has vanished (`tcp_user_timeout`), because a query on a
//! dead connection otherwise hangs for a quarter of an hour.
//!
//! Slices find their rows by index, and their plans are kept for as long as the connection. A plan that was made while a
//! table (or the partition of a new day) was still empty, or by a wrong guess at how much is due, would read all of it and go on
//! doing so when it is full; hence whole tables are read, hashed and merged in snapshots only, which look at everything on purpose.

use crate::failpoint::Commit;
use crate::presence::Presence;
use crate::sql::Statement;
use deadpool_postgres::{
    Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, TimeoutType,
};
use flowbridge_domain::time::Timestamp;
use futures_util::TryStreamExt as _;
use std::pin::pin;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row};

mod embedded {
    refinery::embed_migrations!("../../migrations");
}

/// How to reach the database. Durations and sizes are limits.
#[derive(Debug, Clone)]
pub struct DbSettings {
    /// A `postgresql://` URL or a `key=value` string; may name several hosts for failover.
    pub url: String,
    /// Connections of this process at most.
    pub pool_size_max: usize,
    /// How long a caller waits for a free connection before it gets [`StoreError::Busy`].
    pub pool_wait_max: Duration,
    /// How many callers may wait for one; the next gets [`StoreError::Busy`] at once.
    pub pool_waiting_max: usize,
    /// How long one statement may run.
    pub statement_timeout: Duration,
    /// How long a statement may wait for a lock.
    pub lock_timeout: Duration,
}

impl DbSettings {
    /// The defaults of `config/default.toml` for this database.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            pool_size_max: 8,
            pool_wait_max: Duration::from_secs(2),
            pool_waiting_max: 64,
            statement_timeout: Duration::from_secs(10),
            lock_timeout: Duration::from_secs(5),
        }
    }
}

/// How statements are planned outside snapshots. Their costs say nothing about how long they take, so none is worth compiling.
pub(crate) const SLICES_PLANS: &str =
    "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c jit=off";

/// How often a server process that works on looks whether anybody is left to hear of it. Without, it would go on to its time-outs,
/// with its locks, beside those that the pool has made room for.
const NOTICED_WITHIN: Duration = Duration::from_secs(1);

/// The database. Cheap to clone.
#[derive(Clone)]
pub struct Db {
    pool: Pool,
    waiting_max: usize,
    config: Config,
    presence: Presence,
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Db").field("pool", &self.pool.status()).finish_non_exhaustive()
    }
}

impl Db {
    /// Prepares a pool; connects when first used.
    pub fn new(settings: &DbSettings) -> Result<Self, StoreError> {
        let mut config: Config =
            settings.url.parse().map_err(|error| StoreError::Settings(format!("database URL: {error}")))?;
        config.application_name("flowbridge");
        // Of several hosts, the one that writes: a standby on its way to becoming that is not the database yet.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        config.connect_timeout(Duration::from_secs(3));
        config.tcp_user_timeout(Duration::from_secs(5));
        config.keepalives_idle(Duration::from_secs(10));
        config.options(format!(
            "-c statement_timeout={} -c lock_timeout={} -c idle_in_transaction_session_timeout={} \
             -c client_connection_check_interval={} {SLICES_PLANS}",
            settings.statement_timeout.as_millis(),
            settings.lock_timeout.as_millis(),
            settings.statement_timeout.as_millis(),
            NOTICED_WITHIN.as_millis(),
        ));
        let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let pool = Pool::builder(Manager::from_config(config.clone(), NoTls, manager))
            .max_size(settings.pool_size_max)
            .wait_timeout(Some(settings.pool_wait_max))
            .create_timeout(Some(Duration::from_secs(5)))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| StoreError::Settings(error.to_string()))?;
        Ok(Self { pool, waiting_max: settings.pool_waiting_max, config, presence: Presence::default() })
    }

    /// Brings the schema up to date and prepares the partitions of the days and months around now. Safe to run at the same
    /// time from several processes: they take turns. A database whose log is ahead of its transaction ids is refused: what is new there
    /// would come before what is old, and be read by nobody.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let (mut client, connection) = self.connect_for_maintenance().await?;
        // A session lock: released when the connection closes, whatever happens in between.
        client.execute("select pg_advisory_lock(4661001)", &[]).await?;
        let migrated = embedded::migrations::runner().run_async(&mut client).await;
        let prepared = match &migrated {
            Ok(_) => client.execute(ENSURE_PARTITIONS, &[]).await.map(|_| ()),
            Err(_) => Ok(()),
        };
        let ahead = match &migrated {
            Ok(_) => client.query(READ_AHEAD_OF_ITS_IDS, &[]).await,
            Err(_) => Ok(vec![]),
        };
        drop(client);
        // The connection ends with its client; how it ended changes nothing for what was committed.
        drop(connection.await);
        migrated.map_err(|error| StoreError::Migration(error.to_string()))?;
        prepared?;
        if ahead?.is_empty() { Ok(()) } else { Err(StoreError::Migration(IDS_BEGAN_ANEW.to_owned())) }
    }

    /// A connection of its own on which statements may take as long as they take.
    pub(crate) async fn connect_for_maintenance(&self) -> Result<(Client, JoinHandle<()>), StoreError> {
        let mut config = self.config.clone();
        config.options("-c statement_timeout=0 -c lock_timeout=60000");
        let (client, connection) = config.connect(NoTls).await?;
        // How a connection ended shows in what is asked over it.
        Ok((client, tokio::spawn(async move { drop(connection.await) })))
    }

    /// Prepares the partitions of the coming days and months. Run often: what was in use is prepared the next time; what has begun
    /// without one still has the default partition.
    pub async fn ensure_partitions(&self) -> Result<(), StoreError> {
        self.ask(ENSURE_PARTITIONS, &[]).await?;
        Ok(())
    }

    /// Begins a transaction.
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        self.begin_by("begin").await
    }

    /// Begins a transaction that sees one instant of the database and changes nothing.
    pub(crate) async fn snapshot(&self) -> Result<Tx, StoreError> {
        self.begin_by(
            "begin isolation level repeatable read read only; set local enable_seqscan = on; \
             set local enable_hashjoin = on; set local enable_mergejoin = on",
        )
        .await
    }

    async fn begin_by(&self, statements: &str) -> Result<Tx, StoreError> {
        let connection = self.connection().await?;
        connection.get()?.batch_execute(statements).await?;
        self.presence.met();
        Ok(Tx { connection, commit: Commit::default() })
    }

    /// Runs one statement outside a transaction of the caller's.
    pub(crate) async fn query(
        &self,
        statement: Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        if Commit::is_planned(statement) {
            let tx = self.begin().await?;
            let rows = tx.query(statement, params).await?;
            tx.commit().await?;
            return Ok(rows);
        }
        self.ask(statement.sql, params).await
    }

    async fn ask(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, StoreError> {
        let connection = self.connection().await?;
        let asked = connection.get()?;
        let answer = async { asked.query(&asked.prepare_cached(sql).await?, params).await }.await;
        connection.give_back();
        let rows = answer?;
        self.presence.met();
        Ok(rows)
    }

    /// Is the database there? For readiness checks.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.ask("select 1", &[]).await?;
        Ok(())
    }

    /// What time the database has, which is the same for everybody who asks.
    pub async fn now(&self) -> Result<Timestamp, StoreError> {
        let rows = self.ask(NOW, &[]).await?;
        let row = rows.first().ok_or_else(|| StoreError::Corrupt("no time".into()))?;
        Ok(Timestamp::from_micros(row.try_get(0)?))
    }

    /// Closes the connections that nobody uses, and the others when they are given back. Before a database that is ours to
    /// stop is stopped: its farewell to an open connection would read like a fault.
    pub fn close(&self) {
        self.pool.close();
    }

    /// How many connections are open, and how many callers wait for one.
    pub fn pool_use(&self) -> (usize, usize) {
        let status = self.pool.status();
        (status.size, status.waiting)
    }

    /// Resolves when a database that is away is back; never, if it is not away.
    pub async fn returns(&self) {
        self.presence.returns().await;
    }

    async fn connection(&self) -> Result<Held, StoreError> {
        if self.presence.is_away() {
            return Err(StoreError::Away);
        }
        // A queue that takes longer than its callers wait helps nobody: who comes last hears so while it can still go elsewhere.
        if self.pool.status().waiting >= self.waiting_max {
            return Err(StoreError::Busy);
        }
        match self.pool.get().await {
            Ok(connection) => Ok(Held(Some(connection))),
            // It, or what stands before it, takes connections and says nothing.
            Err(PoolError::Timeout(TimeoutType::Create)) => {
                self.presence.unanswered(&self.config);
                Err(StoreError::Away)
            }
            Err(PoolError::Timeout(_)) => Err(StoreError::Busy),
            Err(PoolError::Backend(error)) => {
                let error = error.into();
                self.presence.missed(&error, &self.config);
                Err(error)
            }
            Err(
                error @ (PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_)),
            ) => Err(StoreError::Settings(error.to_string())),
        }
    }
}

const NOW: &str = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint";

const ENSURE_PARTITIONS: &str = "select ensure_daily_partitions((now() at time zone 'UTC')::date - 1, (now() at time zone 'UTC')::date + 2)";

/// Who has read further than transaction ids have come.
const READ_AHEAD_OF_ITS_IDS: &str =
    "select from consumer_offset where xid > pg_snapshot_xmax(pg_current_snapshot())::text::bigint limit 1";

const IDS_BEGAN_ANEW: &str = "the database was moved in a way in which transaction ids begin anew (pg_dump, logical replication), and its event log is in \
    their order; move it by a physical copy, by physical replication or with pg_upgrade: docs/runbooks/restore-the-database.md";

/// A connection while something is asked over it, or a transaction open on it. Whoever is cancelled meanwhile closes it: nobody can
/// wait here until it is at rest, and whoever had it next would wait for an answer that nobody wants, or write, believing it done,
/// in a transaction that is not his. The server notices within a second ([`NOTICED_WITHIN`]), and rolls back.
#[derive(Debug)]
struct Held(Option<Object>);

impl Held {
    fn get(&self) -> Result<&Object, StoreError> {
        self.0.as_ref().ok_or(StoreError::Lost)
    }

    /// To the pool, at rest.
    fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(Object::take(connection));
        }
    }
}

/// A transaction. Dropped without [`Tx::commit`], it is rolled back with its connection.
#[derive(Debug)]
pub struct Tx {
    connection: Held,
    commit: Commit,
}

impl Tx {
    /// Makes it so. After an error here the outcome is not known: ask before doing it again.
    pub async fn commit(self) -> Result<(), StoreError> {
        self.commit.before();
        let Self { connection, commit } = self;
        end(connection, "commit").await?;
        commit.after();
        Ok(())
    }

    /// Undoes it and gives the connection back.
    pub async fn rollback(self) -> Result<(), StoreError> {
        end(self.connection, "rollback").await
    }

    pub(crate) async fn query(
        &self,
        statement: Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        let connection = self.connection.get()?;
        let prepared = connection.prepare_cached(statement.sql).await?;
        let mut answer = pin!(connection.query_raw(&prepared, params.iter().copied()).await?);
        let rows = answer.as_mut().try_collect().await?;
        self.commit.has(statement, answer.rows_affected().unwrap_or(0));
        Ok(rows)
    }

    pub(crate) async fn execute(
        &self,
        statement: Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, StoreError> {
        let connection = self.connection.get()?;
        let prepared = connection.prepare_cached(statement.sql).await?;
        let rows = connection.execute(&prepared, params).await?;
        self.commit.has(statement, rows);
        Ok(rows)
    }
}

/// A connection that could not end its transaction is not given back.
async fn end(connection: Held, how: &str) -> Result<(), StoreError> {
    connection.get()?.batch_execute(how).await?;
    connection.give_back();
    Ok(())
}

/// What went wrong, by what the caller should do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached or gave up on the statement: try again later. A commit may have happened.
    #[error("the database is not available")]
    Unavailable(#[source] tokio_postgres::Error),
    /// The database has not been there for a while: try again when it [`Db::returns`]. Nothing was asked of it.
    #[error("the database is away")]
    Away,
    /// Every connection is taken: shed load, or try again.
    #[error("every database connection is taken")]
    Busy,
    /// Another worker was faster, or a lock was not to be had in time: run the same work again.
    #[error("the database asks to try again")]
    TryAgain(#[source] tokio_postgres::Error),
    /// A later transaction moved a payment while this one waited for it: run the same work in a new one.
    #[error("a later transaction was faster")]
    Overtaken,
    /// The same request is being worked on under its idempotency key: ask again for its answer.
    #[error("the same request is under way")]
    UnderWay(#[source] tokio_postgres::Error),
    /// The lease that this work was done under belongs to somebody else now: drop the work.
    #[error("the lease on this work was lost")]
    Lost,
    /// A rule of the schema forbids it.
    #[error("the database refuses it: {constraint}")]
    Refused {
        /// The constraint's name, or the message of the rule.
        constraint: String,
        /// The error itself.
        #[source]
        source: tokio_postgres::Error,
    },
    /// What was read is not what we write: stop this unit of work and raise an alarm.
    #[error("the database holds what FlowBridge does not write: {0}")]
    Corrupt(String),
    /// A statement or its types are wrong: a bug of ours.
    #[error("a statement failed")]
    Bug(#[source] tokio_postgres::Error),
    /// The settings do not describe a database.
    #[error("{0}")]
    Settings(String),
    /// The schema could not be brought up to date.
    #[error("migration failed: {0}")]
    Migration(String),
}

impl StoreError {
    /// May the same work simply be tried again?
    pub const fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_)
                | Self::Away
                | Self::Busy
                | Self::TryAgain(_)
                | Self::Overtaken
                | Self::UnderWay(_)
        )
    }

    /// What a statement that waited in vain for a key means: whoever has it is at work.
    pub(crate) fn of_key(self) -> Self {
        if let Self::TryAgain(source) = self {
            return if is_locked(&source) { Self::UnderWay(source) } else { Self::TryAgain(source) };
        }
        self
    }

    /// Was a lock not to be had in time? Trying again at once would wait as long again.
    pub fn is_lock_timeout(&self) -> bool {
        matches!(self, Self::TryAgain(source) | Self::UnderWay(source) if is_locked(source))
    }

    /// The name of the unique or check constraint that was hit, if that is what happened.
    pub fn constraint(&self) -> Option<&str> {
        if let Self::Refused { constraint, .. } = self { Some(constraint) } else { None }
    }
}

fn is_locked(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|db| db.code() == &SqlState::LOCK_NOT_AVAILABLE)
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            return if error.is_closed() || error.source_is_io() {
                Self::Unavailable(error)
            } else {
                Self::Bug(error)
            };
        };
        match db.code() {
            &SqlState::T_R_SERIALIZATION_FAILURE
            | &SqlState::T_R_DEADLOCK_DETECTED
            | &SqlState::LOCK_NOT_AVAILABLE => Self::TryAgain(error),
            &SqlState::UNIQUE_VIOLATION
            | &SqlState::CHECK_VIOLATION
            | &SqlState::FOREIGN_KEY_VIOLATION
            | &SqlState::NOT_NULL_VIOLATION
            | &SqlState::RESTRICT_VIOLATION => {
                let constraint = db.constraint().unwrap_or_else(|| db.message()).to_owned();
                Self::Refused { constraint, source: error }
            }
            // We stood still for so long that the server gave up on us; or it has become a standby.
            &SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT | &SqlState::READ_ONLY_SQL_TRANSACTION => {
                Self::Unavailable(error)
            }
            code if matches!(code.code().get(..2), Some("08" | "53" | "57" | "58")) => {
                Self::Unavailable(error)
            }
            // The server has ended the session for a reason of its own: on a full disk one cannot even begin.
            &SqlState::INTERNAL_ERROR if db.parsed_severity() == Some(Severity::Fatal) => {
                Self::Unavailable(error)
            }
            _ => Self::Bug(error),
        }
    }
}

/// Whether an error without a server's answer came from the connection.
trait SourceIsIo {
    fn source_is_io(&self) -> bool;
}

impl SourceIsIo for tokio_postgres::Error {
    fn source_is_io(&self) -> bool {
        std::error::Error::source(self).is_some_and(|source| source.is::<std::io::Error>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowbridge_embedded::EmbeddedPostgres;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn a_transaction_whose_beginning_is_cancelled_is_not_open_for_whoever_comes_next() {
        let server = EmbeddedPostgres::temporary().expect("a private PostgreSQL");
        let settings = DbSettings { pool_size_max: 1, ..DbSettings::new(server.url()) };
        let db = Db::new(&settings).expect("settings");
        db.ping().await.expect("its only connection is open");
        assert!(db.begin().now_or_never().is_none(), "begun, and dropped before the answer");
        db.ask("create table written ()", &[]).await.expect("done, as far as anybody can tell");
        let other = Db::new(&settings).expect("settings");
        let seen = other.ask("select to_regclass('written') is not null", &[]).await.expect("asked");
        assert!(seen[0].get::<_, bool>(0), "part of a transaction that somebody else began");
    }

    #[tokio::test]
    async fn a_database_whose_transaction_ids_began_anew_is_refused() {
        let server = EmbeddedPostgres::temporary().expect("a private PostgreSQL");
        let db = Db::new(&DbSettings::new(server.url())).expect("settings");
        db.migrate().await.expect("the schema");
        let dumped = "insert into consumer_offset (consumer_group, topic, partition, xid) values ('orchestrator', 'chain', 0, 5000000)";
        db.ask(dumped, &[]).await.expect("read far in the cluster that it was dumped from");
        let refused = db.migrate().await.expect_err("what is new would be read by nobody").to_string();
        assert!(refused.contains("pg_dump"), "{refused}");
    }

    #[tokio::test]
    async fn who_hangs_up_leaves_nobody_waiting_for_his_answer_and_no_server_process_at_work_on_it() {
        let server = EmbeddedPostgres::temporary().expect("a private PostgreSQL");
        let an_hour = Duration::from_secs(3_600);
        let settings =
            DbSettings { pool_size_max: 1, statement_timeout: an_hour, ..DbSettings::new(server.url()) };
        let db = Db::new(&settings).expect("settings");
        let asking = db.ask("select pg_sleep(3600)", &[]);
        let patience = Duration::from_millis(500);
        assert!(tokio::time::timeout(patience, asking).await.is_err(), "hung up on");
        let patience = Duration::from_secs(30);
        tokio::time::timeout(patience, db.ping()).await.expect("does not wait for it").expect("there");
        let at_work =
            "select 1 from pg_stat_activity where query like '%pg_sleep(3600)%' and pid <> pg_backend_pid()";
        let noticed = async {
            while !db.ask(at_work, &[]).await.expect("asked").is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(patience, noticed).await.expect("the server goes on for nobody");
    }

    #[tokio::test]
    async fn a_database_that_takes_connections_and_says_nothing_is_away() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = silent.local_addr().expect("its address");
        let url = format!("postgresql://nobody@{address}/nothing");
        let db = Db::new(&DbSettings::new(url)).expect("settings");
        let three = futures_util::future::join_all((0..3).map(|_| db.ping())).await;
        assert!(three.iter().all(|answer| matches!(answer, Err(StoreError::Away))), "{three:?}");
        let patience = Duration::from_secs(1);
        let fourth = tokio::time::timeout(patience, db.ping()).await.expect("hears so at once");
        assert!(matches!(fourth, Err(StoreError::Away)), "{fourth:?}");
    }

    #[tokio::test]
    async fn whoever_comes_after_those_who_may_wait_is_turned_away_at_once() {
        let server = EmbeddedPostgres::temporary().expect("a private PostgreSQL");
        let settings = DbSettings {
            pool_size_max: 1,
            pool_waiting_max: 1,
            pool_wait_max: Duration::from_secs(60),
            ..DbSettings::new(server.url())
        };
        let db = Db::new(&settings).expect("settings");
        let held = db.begin().await.expect("the only connection");
        let waiting = tokio::spawn({
            let db = db.clone();
            async move { db.ping().await }
        });
        while db.pool_use().1 == 0 {
            tokio::task::yield_now().await;
        }
        let second = tokio::time::timeout(Duration::from_secs(10), db.ping()).await;
        assert!(matches!(second, Ok(Err(StoreError::Busy))), "{second:?}");
        held.rollback().await.expect("given back");
        waiting.await.expect("not cancelled").expect("whoever waited has it now");
    }
}
