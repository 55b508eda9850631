//! One thread per bank that owns its books, and the group commit.
//!
//! Requests queue up; the thread takes all that wait (up to [`REQUESTS_PER_COMMIT_MAX`]), applies them in order in one redb
//! transaction, commits it with fsync, and only then lets their answers go. So what was answered survives SIGKILL and
//! power loss, and the cost of the fsync is shared by all who wait for it. Reads take the same way: they see every
//! answer that was given before them.
//!
//! redb rather than a journal of our own: a bank remembers every operation for days, which is more than fits in memory,
//! and needs range scans for the statement; and recovery after a crash is the library's, not ours. When storage fails, the thread ends and
//! every request from then on is answered with an error, which a client has to take for "unknown".

use super::books::{Books, BooksError, Rules};
use flowbridge_domain::time::{Clock, Timestamp};
use redb::{Database, Durability};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// How many requests share one commit at most.
const REQUESTS_PER_COMMIT_MAX: usize = 128;
/// How many requests may wait; more are turned away by their caller's time-out.
const REQUESTS_WAITING_MAX: usize = 1_024;
/// Memory for pages of one bank's books.
const CACHE_BYTES: usize = 16 << 20;

/// Sends the answer of a request; called once its transaction is durable.
type Answer = Box<dyn FnOnce() + Send>;
type Request = Box<dyn FnOnce(&mut Books<'_>, Timestamp) -> Result<Answer, BooksError> + Send>;

enum Message {
    Run(Request),
    Close,
}

/// A bank's books, behind their thread. Cheap to clone; the thread ends with [`Ledger::close`] or the last clone.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    messages: mpsc::Sender<Message>,
}

/// The thread itself; joined so that the file is closed when it must be.
#[derive(Debug)]
pub(crate) struct LedgerThread(std::thread::JoinHandle<()>);

/// The books can answer no more.
#[derive(Debug, thiserror::Error)]
#[error("the bank's books are closed")]
pub(crate) struct Closed;

impl Ledger {
    /// Opens the books at `path`, creating them if there are none.
    pub(crate) fn open(
        path: &Path,
        rules: Rules,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, LedgerThread), BooksError> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
        commit(&database, &rules, Vec::new(), clock.now())?;
        let (messages, waiting) = mpsc::channel(REQUESTS_WAITING_MAX);
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let thread = std::thread::Builder::new()
            .name(format!("books-{name}"))
            .spawn(move || keep(&database, &rules, waiting, clock.as_ref()))
            .map_err(|error| BooksError::Storage(redb::Error::Io(error)))?;
        Ok((Self { messages }, LedgerThread(thread)))
    }

    /// Runs `work` on the books; returns when its result is durable.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Books<'_>, Timestamp) -> Result<T, BooksError> + Send + 'static,
    ) -> Result<T, Closed> {
        let (answer, answered) = oneshot::channel();
        let request: Request = Box::new(move |books, now| {
            let result = work(books, now)?;
            // A caller that has gone away does not undo what it asked for.
            Ok(Box::new(move || drop(answer.send(result))))
        });
        self.messages.send(Message::Run(request)).await.map_err(|_| Closed)?;
        answered.await.map_err(|_| Closed)
    }

    /// Does the thread still answer?
    pub(crate) fn is_open(&self) -> bool {
        !self.messages.is_closed()
    }

    /// Ends the thread after what waits already.
    pub(crate) async fn close(&self) {
        // An error means that it has ended.
        let _ = self.messages.send(Message::Close).await;
    }
}

impl LedgerThread {
    /// Waits until the books are closed. [`Ledger::close`] comes first.
    pub(crate) fn join(self) {
        if self.0.join().is_err() {
            tracing::error!("a bank's books ended in a panic");
        }
    }
}

fn keep(database: &Database, rules: &Rules, mut waiting: mpsc::Receiver<Message>, clock: &dyn Clock) {
    let mut closing = false;
    while !closing && let Some(message) = waiting.blocking_recv() {
        let mut requests = Vec::new();
        let mut next = Some(message);
        while let Some(message) = next {
            match message {
                Message::Run(request) => requests.push(request),
                Message::Close => closing = true,
            }
            let more = !closing && requests.len() < REQUESTS_PER_COMMIT_MAX;
            next = if more { waiting.try_recv().ok() } else { None };
        }
        match commit(database, rules, requests, clock.now()) {
            Ok(answers) => answers.into_iter().for_each(|answer| answer()),
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "a bank's books failed and are closed"
                );
                return;
            }
        }
    }
}

/// All of `requests` become durable, or none.
fn commit(
    database: &Database,
    rules: &Rules,
    requests: Vec<Request>,
    now: Timestamp,
) -> Result<Vec<Answer>, BooksError> {
    let mut tx = database.begin_write()?;
    tx.set_durability(Durability::Immediate)?;
    let mut answers = Vec::with_capacity(requests.len());
    let changed = {
        let mut books = Books::open(&tx, rules)?;
        books.catch_up(now)?;
        for request in requests {
            answers.push(request(&mut books, now)?);
        }
        books.forget()?;
        books.changed()
    };
    if changed {
        tx.commit()?
    } else {
        tx.abort()?
    }
    Ok(answers)
}
