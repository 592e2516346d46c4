//! The program beside this proxy: connections to it, kept and used again.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
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
    idle: RefCell<HashMap<u16, Vec<(ProgramConnection, Instant)>>>,
}

impl Program {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            address: config.sidecar().map(|sidecar| sidecar.program),
            idle: RefCell::default(),
        }
    }

    /// A connection that has carried requests before and is still good.
    pub(crate) fn take(&self, port: u16) -> Option<ProgramConnection> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&port)?;
        let fresh = |(connection, since): (ProgramConnection, Instant)| {
            (since.elapsed() < IDLE && connection.is_reusable()).then_some(connection)
        };
        std::iter::from_fn(|| connections.pop()).find_map(fresh)
    }

    /// A connection whose response is complete.
    pub(crate) fn give_back(&self, port: u16, connection: ProgramConnection) {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(port).or_default();
        if connections.len() < MAX_IDLE {
            connections.push((connection, Instant::now()));
        }
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
        let mut idle = self.idle.borrow_mut();
        for connections in idle.values_mut() {
            connections.retain(|(_, since)| now.saturating_duration_since(*since) < IDLE);
        }
    }
}
