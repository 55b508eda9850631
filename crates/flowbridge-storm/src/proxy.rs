//! A proxy that goes wrong on request: between the roles and PostgreSQL, the chain node and the banks, and between
//! clients and gateways.
//!
//! It forwards bytes and knows no protocol but TLS, where clients speak that: it ends here, as in front of many a server, and the
//! weather comes around it and inside it. In [`Weather::Duplicate`] whatever a client sends goes to the server a second time over
//! a connection of its own, whose answers nobody reads: a request that the network delivered twice.
//!
//! What it tears, it tears towards both sides: over TCP with a reset, so that what was under way is lost and the next read or
//! write fails, where an orderly end would look like a server that had said all. Sockets of one machine have no reset: they
//! just end.

use crate::tls::Identity;
use anyhow::{Context as _, Result};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::server::TlsStream;

/// A connection that cannot be taken, such as for want of a file descriptor, must not end the line for all that follow.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// What the network is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    /// Bytes pass.
    Fair,
    /// Each piece of data comes late by this much.
    Delay(Duration),
    /// Connections stay open, and nothing passes.
    Stall,
    /// Connections are torn as soon as they are made.
    Refuse,
    /// Requests arrive twice.
    Duplicate,
    /// Of a thousand pieces of data, so many tear their connection instead of arriving.
    Resets(u32),
    /// Whoever asks over HTTP is answered with this status, by somebody in front of the server.
    Status(u16),
}

/// Where the server is.
#[derive(Debug, Clone)]
pub(crate) enum Upstream {
    /// A port of this machine.
    Tcp(u16),
    /// A socket in the file system.
    Unix(PathBuf),
}

/// A running proxy; dropped, it stops.
#[derive(Debug)]
pub(crate) struct Proxy {
    weather: watch::Sender<Weather>,
    /// Counts cuts: each tears the connections that were open before it.
    cuts: watch::Sender<u64>,
    port: Option<u16>,
    acceptor: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

#[derive(Clone)]
struct Line {
    upstream: Upstream,
    weather: watch::Receiver<Weather>,
    cuts: watch::Receiver<u64>,
}

impl Line {
    /// For one more connection, which the next cut tears.
    fn for_connection(&self) -> Self {
        let mut line = self.clone();
        line.cuts.mark_unchanged();
        line
    }
}

impl Proxy {
    /// Listens on a free port of this machine.
    pub(crate) async fn tcp(upstream: Upstream) -> Result<Arc<Self>> {
        Self::listen(upstream, carry).await
    }

    /// The same for clients that speak TLS; the server is told in plain what they say.
    pub(crate) async fn tls(upstream: Upstream, identity: Arc<Identity>) -> Result<Arc<Self>> {
        Self::listen(upstream, move |client, line| carry_secret(client, Arc::clone(&identity), line)).await
    }

    async fn listen<F>(
        upstream: Upstream,
        carry: impl Fn(TcpStream, Line) -> F + Send + 'static,
    ) -> Result<Arc<Self>>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        let port = listener.local_addr()?.port();
        let (weather, cuts, line) = controls(upstream);
        let acceptor = tokio::spawn(async move {
            let mut lines = JoinSet::new();
            loop {
                let Ok((client, _)) = listener.accept().await else {
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                // Small writes go out as they come: this is a network with faults, not with delays of its own.
                let _ = client.set_nodelay(true);
                lines.spawn(carry(client, line.for_connection()));
                while lines.try_join_next().is_some() {}
            }
        });
        Ok(Arc::new(Self { weather, cuts, port: Some(port), acceptor }))
    }

    /// Listens at `.s.PGSQL.5432` in `folder`, where PostgreSQL's clients look.
    pub(crate) fn postgres(folder: &Path, upstream: PathBuf) -> Result<Arc<Self>> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join(".s.PGSQL.5432");
        let listener = UnixListener::bind(&path).with_context(|| format!("listen at {}", path.display()))?;
        let (weather, cuts, line) = controls(Upstream::Unix(upstream));
        let acceptor = tokio::spawn(async move {
            let mut lines = JoinSet::new();
            loop {
                let Ok((client, _)) = listener.accept().await else {
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                lines.spawn(carry(client, line.for_connection()));
                while lines.try_join_next().is_some() {}
            }
        });
        Ok(Arc::new(Self { weather, cuts, port: None, acceptor }))
    }

    /// The port of a proxy made by [`Self::tcp`] or [`Self::tls`].
    pub(crate) fn port(&self) -> Result<u16> {
        self.port.context("a line without a port")
    }

    /// The address of such a one, as `127.0.0.1:PORT`.
    pub(crate) fn authority(&self) -> String {
        format!("127.0.0.1:{}", self.port.unwrap_or_default())
    }

    /// Changes the weather, also for connections that are open.
    pub(crate) fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// How many connections are open.
    pub(crate) fn connections(&self) -> usize {
        // Each has a receiver of its own, and the acceptor one to make them from.
        self.cuts.receiver_count() - 1
    }

    /// Tears every open connection.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|count| *count += 1);
    }
}

fn controls(upstream: Upstream) -> (watch::Sender<Weather>, watch::Sender<u64>, Line) {
    let (weather, seen) = watch::channel(Weather::Fair);
    let (cuts, cut) = watch::channel(0);
    (weather, cuts, Line { upstream, weather: seen, cuts: cut })
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {
    /// From now on its end is a reset, where there is such a thing.
    fn end_with_reset(&self);
}

impl Stream for TcpStream {
    fn end_with_reset(&self) {
        // One that is gone already needs no reset.
        let _ = self.set_zero_linger();
    }
}

impl Stream for TlsStream<TcpStream> {
    fn end_with_reset(&self) {
        self.get_ref().0.end_with_reset();
    }
}

impl Stream for UnixStream {
    fn end_with_reset(&self) {}
}

/// A connection was torn.
#[derive(Debug)]
struct Torn;

async fn dial(upstream: &Upstream) -> std::io::Result<Box<dyn Stream>> {
    Ok(match upstream {
        Upstream::Tcp(port) => {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).await?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
        Upstream::Unix(path) => Box::new(UnixStream::connect(path).await?),
    })
}

/// Carries one connection until both sides have ended it or it is torn. How it ended is the network's secret.
async fn carry(mut client: impl Stream + 'static, mut line: Line) {
    let weather = *line.weather.borrow();
    match weather {
        Weather::Refuse => return client.end_with_reset(),
        Weather::Status(status) => return turn_away(client, status).await,
        Weather::Fair | Weather::Delay(_) | Weather::Stall | Weather::Duplicate | Weather::Resets(_) => {}
    }
    let Ok(mut server) = dial(&line.upstream).await else { return };
    let shadow = line.upstream.clone();
    let (there, back) = (line.weather.clone(), line.weather.clone());
    let (from_client, to_client) = tokio::io::split(&mut client);
    let (from_server, to_server) = tokio::io::split(&mut server);
    let end = tokio::select! {
        _ = line.cuts.changed() => Err(Torn),
        end = async {
            tokio::try_join!(
                pump(from_client, to_server, there, Some(shadow)),
                pump(from_server, to_client, back, None),
            )
        } => end.map(drop),
    };
    if let Err(Torn) = end {
        client.end_with_reset();
        server.end_with_reset();
    }
}

/// Shakes hands with a client, and carries what it says after that.
async fn carry_secret(client: TcpStream, identity: Arc<Identity>, mut line: Line) {
    if *line.weather.borrow() == Weather::Refuse {
        return client.end_with_reset();
    }
    let mut weather = line.weather.clone();
    let shake = async {
        weather.wait_for(|now| *now != Weather::Stall).await.ok()?;
        identity.shake_hands(client).await
    };
    let secret = tokio::select! {
        _ = line.cuts.changed() => None,
        secret = shake => secret,
    };
    if let Some(secret) = secret {
        carry(secret, line).await;
    }
}

/// Answers one request in the server's place.
async fn turn_away(mut client: impl Stream, status: u16) {
    let mut buffer = vec![0; 64 << 10];
    if !matches!(client.read(&mut buffer).await, Ok(1..)) {
        return;
    }
    let answer = format!("HTTP/1.1 {status} Turned away\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    let _ = client.write_all(answer.as_bytes()).await;
    let _ = client.shutdown().await;
    // What is left of the request is read, or the client would see a reset instead of the answer.
    let rest = async { while matches!(client.read(&mut buffer).await, Ok(1..)) {} };
    let _ = tokio::time::timeout(Duration::from_secs(1), rest).await;
}

/// Carries one direction, until its sender ends it or it is torn.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut weather: watch::Receiver<Weather>,
    shadow: Option<Upstream>,
) -> Result<(), Torn> {
    let mut buffer = vec![0; 64 << 10];
    let mut second: Option<Box<dyn Stream>> = None;
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let data = buffer.get(..count).unwrap_or_default();
        if weather.wait_for(|now| *now != Weather::Stall).await.is_err() {
            break;
        }
        let now = *weather.borrow();
        match now {
            Weather::Delay(late) => sleep(late).await,
            Weather::Refuse | Weather::Status(_) => return Err(Torn),
            Weather::Resets(per_thousand) if rand::random_range(0..1_000) < per_thousand => {
                return Err(Torn);
            }
            Weather::Resets(_) | Weather::Fair | Weather::Stall | Weather::Duplicate => {}
        }
        if let (Weather::Duplicate, Some(upstream)) = (now, &shadow) {
            if second.is_none() {
                second = dial(upstream).await.ok();
            }
            if let Some(stream) = &mut second {
                // A copy that is lost is a copy less.
                let _ = stream.write_all(data).await;
            }
        }
        // What a socket does not take at once, TLS keeps until it is flushed.
        if to.write_all(data).await.is_err() || to.flush().await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
    Ok(())
}
