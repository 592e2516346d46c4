//! The way to hosts outside the mesh, and the connections to them that one worker keeps.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::{TimeoutSettings, TrafficSettings};
use isthmus_telemetry::RefusalReason;
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::Config;
use crate::http::http1::ProgramConnection;
use crate::kept::{Kept, Reusable};
use crate::refusal::Refusal;

/// To find the addresses of a host and to connect to one of them.
const CONNECT: Duration = Duration::from_secs(5);
/// After this time a connection is opened anew: the name may lead elsewhere by now.
const LIFE: Duration = Duration::from_mins(5);
/// Connections that wait for their next request, to all places together.
const MOST_KEPT: usize = 1024;
/// Names that are looked up at a time; each takes a thread.
const LOOKUPS: usize = 16;

/// A host and port outside the mesh that may be called.
pub(crate) struct Place<'a> {
    pub(crate) host: &'a str,
    pub(crate) port: u16,
}

/// A connection to a place.
pub(crate) struct Connection {
    pub(crate) http: ProgramConnection,
    /// As requests write it.
    pub(crate) place: Rc<str>,
    pub(crate) opened: Instant,
}

impl Reusable for Connection {
    fn is_reusable(&self) -> bool {
        self.opened.elapsed() < LIFE && self.http.is_reusable()
    }
}

/// What one worker has to do with hosts outside.
pub(crate) struct Outside {
    config: Arc<Config>,
    kept: Kept<Rc<str>, Connection>,
    lookups: Arc<Semaphore>,
    pub(crate) timeout: TimeoutSettings,
}

impl Outside {
    pub(crate) fn new(config: Arc<Config>) -> Self {
        Self {
            config,
            kept: Kept::new(MOST_KEPT),
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
            timeout: TrafficSettings::default().timeout,
        }
    }

    pub(crate) fn tidy(&self, now: std::time::Instant) {
        self.kept.tidy(now);
    }

    /// A connection that has carried other requests to the same place, as they write it.
    pub(crate) fn take(&self, place: &str) -> Option<Connection> {
        self.kept.take(place)
    }

    /// Keeps a connection whose response is complete.
    pub(crate) fn give_back(&self, connection: Connection) {
        self.kept
            .give_back(Rc::clone(&connection.place), connection);
    }

    /// A new connection; `written`: how requests write the place.
    pub(crate) async fn open(
        &self,
        place: &Place<'_>,
        written: &str,
    ) -> Result<Connection, Refusal> {
        let socket = self.connect(place).await?;
        Ok(Connection {
            http: ProgramConnection::new(socket),
            place: Rc::from(written),
            opened: Instant::now(),
        })
    }

    /// A connection to the first address of a place that takes one.
    pub(crate) async fn connect(&self, place: &Place<'_>) -> Result<TcpStream, Refusal> {
        let Place { host, port } = *place;
        let deadline = Instant::now() + CONNECT;
        let late = |what: &str| {
            let detail = format!("{host}:{port}: {what} within {CONNECT:?}");
            Refusal::new(RefusalReason::ConnectTimeout, detail)
        };
        let failed = |what: &str| {
            let detail = format!("{host}:{port}: {what}");
            Refusal::new(RefusalReason::ConnectFailed, detail)
        };
        let found = timeout_at(deadline, self.find(host, port)).await;
        let found = found.map_err(|_| late("its address was not found"))?;
        let addresses = found.map_err(|error| failed(&format!("no address is known: {error}")))?;
        if let Some(own) = addresses
            .iter()
            .find(|address| self.config.is_own(**address))
        {
            let detail = format!("{host}:{port} leads to {own}, where this proxy listens itself");
            return Err(Refusal::new(RefusalReason::LoopDetected, detail));
        }
        let mut last = None;
        for (index, address) in addresses.iter().enumerate() {
            // Each gets its share of what is left.
            let left = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
            let share = deadline.saturating_duration_since(Instant::now()) / left;
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(socket)) => {
                    // A socket that waits to fill its packets is slower, and no more.
                    let _ = socket.set_nodelay(true);
                    return Ok(socket);
                }
                Ok(Err(error)) => last = Some(format!("{address}: {error}")),
                Err(_) => {}
            }
        }
        match last {
            Some(error) => Err(failed(&error)),
            None if addresses.is_empty() => Err(failed("no address is known")),
            None => Err(late("no connection")),
        }
    }

    /// The addresses of a host, in the order in which they are to be tried.
    async fn find(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let literal = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        if let Ok(address) = literal.unwrap_or(host).parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let permit = Arc::clone(&self.lookups).acquire_owned().await;
        let host = host.to_owned();
        // Who gives up waiting does not end the thread that looks it up.
        let looking = tokio::task::spawn_local(async move {
            let found = lookup_host((host, port)).await;
            drop(permit);
            found.map(Iterator::collect)
        });
        looking.await.map_err(io::Error::other)?
    }
}
