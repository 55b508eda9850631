//! The server below the routes: what a connection may cost, and how all of them end.
//!
//! A client that sends its header slowly, or nothing at all, is cut off; so is one whose header is too large, one that asks nothing
//! more (HTTP/2 has no end of its own for that) and one that does not take its answer. At the end no new connection is taken,
//! requests under way are answered, and what is not answered at the deadline is dropped: a client that asks again with its key
//! finds out what became of it.

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

/// The pause after a connection that could not be taken, as when files run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What the HTTP library needs at least for the header of a request.
const HEADER_BYTES_MIN: usize = 8_192;

/// Limits of the server. See `config/default.toml`.
#[derive(Debug, Clone, Copy)]
pub struct ServeLimits {
    /// Connections at the same time; more wait to be taken.
    pub connections_max: usize,
    /// How long a request's header may take, and how long a connection may stay without asking anything.
    pub header_read_max: Duration,
    /// The header of a request.
    pub header_bytes_max: usize,
    /// How long requests under way may take when the server stops.
    pub drain_max: Duration,
}

/// Serves until told to stop; then requests under way are answered, up to the deadline.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ServeLimits,
    stop: impl Future<Output = ()> + Send,
) {
    let slots = Arc::new(Semaphore::new(limits.connections_max));
    let builder = Arc::new(builder(&limits));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        let (stream, slot) = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        while connections.try_join_next().is_some() {}
        connections.spawn(connection(
            builder.clone(),
            stream,
            router.clone(),
            limits,
            graceful.watcher(),
            slot,
        ));
    }
    drop(listener);
    let under_way = graceful.count();
    if tokio::time::timeout(limits.drain_max, graceful.shutdown()).await.is_err() {
        tracing::warn!(
            connections = under_way,
            "dropped requests that were not answered when the gateway had to stop"
        );
    }
    connections.shutdown().await;
}

fn builder(limits: &ServeLimits) -> Builder<TokioExecutor> {
    let header_bytes_max = limits.header_bytes_max.max(HEADER_BYTES_MIN);
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read_max)
        .max_buf_size(header_bytes_max);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.header_read_max)
        .max_header_list_size(u32::try_from(header_bytes_max).unwrap_or(u32::MAX));
    builder
}

/// The next connection, as soon as there is room for it.
async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed; without a slot there would merely be no limit.
    let slot = slots.clone().acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, slot),
            Err(error) => {
                tracing::warn!(%error, "could not take a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    builder: Arc<Builder<TokioExecutor>>,
    stream: TcpStream,
    router: Router,
    limits: ServeLimits,
    watcher: hyper_util::server::graceful::Watcher,
    slot: Option<OwnedSemaphorePermit>,
) {
    // Small answers leave at once. A socket that refuses the option only answers later.
    let _ = stream.set_nodelay(true);
    let in_use = Arc::new(Use::default());
    let noted = in_use.clone();
    let service = tower::ServiceExt::<Request<Incoming>>::map_future(router, move |answering| {
        let asked = Asked::new(&noted);
        async move {
            let answer = answering.await;
            drop(asked);
            answer
        }
    });
    let stream = TokioIo::new(Watched { stream, in_use: in_use.clone() });
    let served = builder.serve_connection(stream, TowerToHyperService::new(service));
    let mut served = pin!(watcher.watch(served));
    // The library's own limit begins with the first bytes of a header, and is none for HTTP/2.
    let mut before = in_use.look();
    let ended = loop {
        if let Ok(ended) = tokio::time::timeout(limits.header_read_max, served.as_mut()).await {
            break ended;
        }
        let now = in_use.look();
        if now.is_idle_since(&before) {
            break Ok(());
        }
        before = now;
    };
    if let Err(error) = ended {
        // A client that has gone, or does not speak HTTP: nothing of ours.
        tracing::debug!(error, "a connection ended early");
    }
    drop(slot);
}

/// Fewer bytes than this in the time of a header are no answer that a client takes: HTTP/2 asks by a few whether it is there.
const TAKEN_BYTES_MIN: u64 = 1_024;

/// What a connection is used for.
#[derive(Debug, Default)]
struct Use {
    /// Requests that are not answered yet.
    under_way: AtomicUsize,
    /// Requests in all.
    asked: AtomicU64,
    /// Bytes that the socket has taken.
    written: AtomicU64,
}

/// The same at one moment.
#[derive(Debug, Clone, Copy)]
struct Seen {
    under_way: usize,
    asked: u64,
    written: u64,
}

impl Use {
    fn look(&self) -> Seen {
        Seen {
            under_way: self.under_way.load(Ordering::Relaxed),
            asked: self.asked.load(Ordering::Relaxed),
            written: self.written.load(Ordering::Relaxed),
        }
    }
}

impl Seen {
    /// Nothing is under way, nothing was asked, and no answer was taken any further.
    const fn is_idle_since(&self, before: &Self) -> bool {
        self.under_way == 0
            && self.asked == before.asked
            && self.written.saturating_sub(before.written) < TAKEN_BYTES_MIN
    }
}

/// A request under way, until its answer is made or nobody waits for it any more.
struct Asked(Arc<Use>);

impl Asked {
    fn new(of: &Arc<Use>) -> Self {
        of.asked.fetch_add(1, Ordering::Relaxed);
        of.under_way.fetch_add(1, Ordering::Relaxed);
        Self(of.clone())
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A socket that counts what it takes.
struct Watched {
    stream: TcpStream,
    in_use: Arc<Use>,
}

impl Watched {
    fn count(&self, written: usize) -> Poll<io::Result<usize>> {
        self.in_use.written.fetch_add(u64::try_from(written).unwrap_or(u64::MAX), Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.count(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices))?;
        self.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
