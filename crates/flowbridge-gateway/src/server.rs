//! The server below the routes: what a connection may cost, and how all of them end.
//!
//! A client that sends its header slowly, or nothing at all, is cut off; so is one whose header is too large. At the end no new
//! connection is taken, requests under way are answered, and what is not answered at the deadline is dropped: a client
//! that asks again with its key finds out what became of it.

use axum::Router;
use axum::http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tower::ServiceExt as _;

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
    let has_asked = Arc::new(AtomicBool::new(false));
    let noted = has_asked.clone();
    let service = router.map_request(move |request: Request<_>| {
        noted.store(true, Ordering::Relaxed);
        request
    });
    let served = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut served = pin!(watcher.watch(served));
    // The library's own limit begins with the first bytes; this one with the connection.
    let ended = match tokio::time::timeout(limits.header_read_max, served.as_mut()).await {
        Ok(ended) => ended,
        Err(_) if has_asked.load(Ordering::Relaxed) => served.await,
        Err(_) => Ok(()),
    };
    if let Err(error) = ended {
        // A client that has gone, or does not speak HTTP: nothing of ours.
        tracing::debug!(error, "a connection ended early");
    }
    drop(slot);
}
