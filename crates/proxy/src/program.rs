//! The program beside this proxy: connections to it, kept and used again.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::HashMap;
use isthmus_codec::http1::{Body, RequestHead};
use isthmus_telemetry::Metrics;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Notify};
use tokio::time::timeout;

use crate::config::Config;
use crate::http::{Exchange, Guarded, HttpError, gathered, http1, http2};
use crate::kept::Kept;

/// Idle connections to all ports of it.
const MAX_KEPT: usize = 1024;
/// HTTP/2 connections to one port; beyond, requests wait for one another.
const MAX_SHARED: usize = 16;
/// The program is on this machine and answers at once, unless more wait for it than it lets wait: then
/// the kernel drops what asks for a connection, and asks again after a second (RFC 6298 section 2).
const CONNECT: Duration = Duration::from_millis(1500);

/// Connections to one program, of one worker.
pub(crate) struct Program {
    address: Option<IpAddr>,
    metrics: Arc<Metrics>,
    kept: Kept<u16, http1::ProgramConnection>,
    ports: RefCell<HashMap<u16, Rc<Port>>>,
}

#[derive(Default)]
struct Port {
    /// A connection was given back.
    returned: Notify,
    /// Connections that carry many requests at a time.
    shared: RefCell<Vec<http2::ProgramConnection>>,
    /// One opens a shared connection, the others wait for it, and fail with it.
    opening: Mutex<Option<Failure>>,
}

/// A shared connection could not be opened.
struct Failure {
    at: Instant,
    kind: io::ErrorKind,
    detail: String,
}

/// Why a request did not set out to the program.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotBegun {
    #[error("the program does not take connections: {0}")]
    Unreached(#[from] io::Error),
    /// Nothing was sent.
    #[error("{0}")]
    Unsendable(HttpError),
    /// Nothing was sent.
    #[error("the program does not take an extended CONNECT")]
    NoTunnel,
}

impl Program {
    pub(crate) fn of(config: &Config, metrics: Arc<Metrics>) -> Self {
        Self {
            address: config.sidecar().map(|sidecar| sidecar.program),
            metrics,
            kept: Kept::new(MAX_KEPT),
            ports: RefCell::default(),
        }
    }

    /// Sends the head of a request to a program that speaks HTTP/1.1.
    pub(crate) async fn begin_http1(
        &self,
        port: u16,
        head: &RequestHead,
        body: Body,
    ) -> Result<Exchange, NotBegun> {
        let connection = self.connection(port).await?;
        let exchange = connection.begin(head, body);
        let exchange = exchange.map_err(|error| NotBegun::Unsendable(error.into()))?;
        Ok(Exchange::Http1(exchange))
    }

    /// Sends the head of a request to a program that speaks HTTP/2; with `protocol`, of one that wants to
    /// speak that on its stream (RFC 8441).
    pub(crate) async fn begin_http2(
        &self,
        port: u16,
        head: &RequestHead,
        body: Body,
        protocol: Option<&str>,
    ) -> Result<Exchange, NotBegun> {
        loop {
            let connection = self.shared(port).await?;
            if protocol.is_some() {
                let taken = timeout(CONNECT, connection.takes_tunnels()).await;
                if !taken.unwrap_or(false) {
                    return Err(NotBegun::NoTunnel);
                }
            }
            match connection.clone().begin(head, body, protocol).await {
                Ok(exchange) => return Ok(Exchange::Http2(exchange)),
                // It takes no more: another one may.
                Err(HttpError::Unseen) => self.port(port).leave(&connection.mark()),
                Err(error) => return Err(NotBegun::Unsendable(error)),
            }
        }
    }

    /// A connection for one request: one that has carried others and is still good, else the first of
    /// a new one and one that is given back. When a burst wants more new connections than the program's
    /// queue of unaccepted ones holds, the kernel drops the rest for a second; the first few are free
    /// again long before that.
    async fn connection(&self, port: u16) -> io::Result<http1::ProgramConnection> {
        if let Some(connection) = self.kept.take(&port) {
            return Ok(connection);
        }
        let kept = self.port(port);
        let mut connecting = pin!(self.connect(port));
        loop {
            tokio::select! {
                biased;
                connected = &mut connecting => {
                    return connected.map(http1::ProgramConnection::new);
                }
                () = kept.returned.notified() => {
                    if let Some(connection) = self.kept.take(&port) {
                        return Ok(connection);
                    }
                }
            }
        }
    }

    /// A connection that takes another request; opened if there is none. Who waits while another opens it
    /// does not try again what that one has failed to do: of a crowd, the last would wait for all.
    async fn shared(&self, port: u16) -> io::Result<http2::ProgramConnection> {
        let (kept, came) = (self.port(port), Instant::now());
        if let Some(connection) = kept.roomy() {
            return Ok(connection);
        }
        let mut failed = kept.opening.lock().await;
        if let Some(connection) = kept.roomy() {
            return Ok(connection);
        }
        if let Some(failure) = failed.as_ref().filter(|failure| failure.at >= came) {
            return Err(io::Error::new(failure.kind, failure.detail.clone()));
        }
        let opened = self.open_shared(port, &kept).await;
        *failed = opened.as_ref().err().map(|error| Failure {
            at: Instant::now(),
            kind: error.kind(),
            detail: error.to_string(),
        });
        opened
    }

    async fn open_shared(
        &self,
        port: u16,
        kept: &Rc<Port>,
    ) -> io::Result<http2::ProgramConnection> {
        let socket = self.connect(port).await?;
        let (io, written) = gathered(socket);
        let (io, alarm) = Guarded::of_program(io);
        let handshake = timeout(CONNECT, http2::client().handshake(io));
        let (requests, mut connection) = handshake
            .await
            .map_err(|_| io::ErrorKind::TimedOut)?
            .map_err(io::Error::other)?;
        let opened = http2::ProgramConnection::new(requests, connection.ping_pong());
        kept.shared.borrow_mut().push(opened.clone());
        // It ends by itself when nobody holds it.
        let (kept, mark) = (Rc::clone(kept), opened.mark());
        let metrics = Arc::clone(&self.metrics);
        tokio::task::spawn_local(async move {
            let mut connection = pin!(connection);
            let mut is_left = false;
            loop {
                tokio::select! {
                    done = poll_fn(|cx| written.poll_turn(cx, |cx| connection.as_mut().poll(cx))) => {
                        let error = match done {
                            Ok(Ok(())) => None,
                            Ok(Err(error)) => Some(error.to_string()),
                            Err(error) => Some(error.to_string()),
                        };
                        if let Some(error) = error {
                            tracing::debug!(%error, "a connection to the program has ended");
                        }
                        break;
                    }
                    // What ran on it fails with it.
                    () = alarm.rung() => {
                        metrics.count_connection_shed("http2-flood");
                        tracing::warn!(port, "the program floods its connection, which is closed");
                        break;
                    }
                    () = alarm.worn(), if !is_left => {
                        is_left = true;
                        kept.leave(&mark);
                    }
                }
            }
            kept.leave(&mark);
        });
        Ok(opened)
    }

    /// A connection whose response is complete.
    pub(crate) fn give_back(&self, port: u16, connection: http1::ProgramConnection) {
        if self.kept.give_back(port, connection) {
            self.port(port).returned.notify_one();
        }
    }

    fn port(&self, port: u16) -> Rc<Port> {
        Rc::clone(self.ports.borrow_mut().entry(port).or_default())
    }

    /// A new connection to `port` of the program.
    pub(crate) async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let Some(address) = self.address else {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "this proxy has no program",
            ));
        };
        let connecting = TcpStream::connect(SocketAddr::new(address, port));
        let socket = timeout(CONNECT, connecting)
            .await
            .map_err(|_| io::ErrorKind::TimedOut)??;
        socket.set_nodelay(true)?;
        Ok(socket)
    }

    pub(crate) fn tidy(&self, now: Instant) {
        self.kept.tidy(now);
        for port in self.ports.borrow().values() {
            // One is kept: programs that speak HTTP/2 say so before they close.
            let mut kept = 0;
            port.shared.borrow_mut().retain(|connection| {
                kept += usize::from(connection.open() == 0);
                connection.open() > 0 || kept <= 1
            });
        }
    }
}

impl Port {
    /// A shared connection with room, or the least busy one when there may be no more.
    fn roomy(&self) -> Option<http2::ProgramConnection> {
        let shared = self.shared.borrow();
        let least = shared.iter().min_by_key(|connection| connection.open())?;
        (least.has_room() || shared.len() >= MAX_SHARED).then(|| least.clone())
    }

    /// Uses a shared connection no more.
    fn leave(&self, ended: &http2::Mark) {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|connection| connection.mark() != *ended);
    }
}
