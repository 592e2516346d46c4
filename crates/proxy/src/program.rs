//! The program beside this proxy: connections to it, kept and used again.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::config::Config;
use crate::http::ProgramConnection;

/// Programs close idle connections when it suits them; one that was idle for longer is not used.
const IDLE: Duration = Duration::from_secs(4);
/// Idle connections to one port.
const MAX_IDLE: usize = 64;
/// The program is on this machine: it answers at once or not at all.
const CONNECT: Duration = Duration::from_secs(1);

/// Connections to one program, of one worker.
pub(crate) struct Program {
    address: Option<IpAddr>,
    ports: RefCell<HashMap<u16, Rc<Port>>>,
}

#[derive(Default)]
struct Port {
    idle: RefCell<Vec<(ProgramConnection, Instant)>>,
    /// A connection was given back.
    returned: Notify,
}

impl Program {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            address: config.sidecar().map(|sidecar| sidecar.program),
            ports: RefCell::default(),
        }
    }

    /// A connection for one request: one that has carried others and is still good, else the first of
    /// a new one and one that is given back. When a burst wants more new connections than the program's
    /// queue of unaccepted ones holds, the kernel drops the rest for a second; the first few are free
    /// again long before that.
    pub(crate) async fn connection(&self, port: u16) -> io::Result<ProgramConnection> {
        let kept = self.port(port);
        if let Some(connection) = kept.take() {
            return Ok(connection);
        }
        let mut connecting = pin!(self.connect(port));
        loop {
            tokio::select! {
                biased;
                connected = &mut connecting => return connected.map(ProgramConnection::new),
                () = kept.returned.notified() => {
                    if let Some(connection) = kept.take() {
                        return Ok(connection);
                    }
                }
            }
        }
    }

    /// A connection whose response is complete.
    pub(crate) fn give_back(&self, port: u16, connection: ProgramConnection) {
        let port = self.port(port);
        let mut idle = port.idle.borrow_mut();
        if idle.len() < MAX_IDLE {
            idle.push((connection, Instant::now()));
            port.returned.notify_one();
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
        for port in self.ports.borrow().values() {
            let fresh = |since: Instant| now.saturating_duration_since(since) < IDLE;
            port.idle.borrow_mut().retain(|(_, since)| fresh(*since));
        }
    }
}

impl Port {
    fn take(&self) -> Option<ProgramConnection> {
        let mut idle = self.idle.borrow_mut();
        let good = |(connection, since): (ProgramConnection, Instant)| {
            (since.elapsed() < IDLE && connection.is_reusable()).then_some(connection)
        };
        std::iter::from_fn(|| idle.pop()).find_map(good)
    }
}
