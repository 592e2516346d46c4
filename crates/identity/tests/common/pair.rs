//! Two sessions of TLS without a network between them.

use std::sync::Arc;

use isthmus_identity::{PeerError, gateway_server_name};
use isthmus_model::ClusterName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

/// Which side gave up first, and why.
#[derive(Debug)]
pub enum Failed {
    Client(rustls::Error),
    Server(rustls::Error),
}

impl Failed {
    /// `client: expired` and the like.
    pub fn reason(&self) -> String {
        let (side, error) = match self {
            Self::Client(error) => ("client", error),
            Self::Server(error) => ("server", error),
        };
        let reason =
            PeerError::of(error).map_or_else(|| error.to_string(), |e| e.reason().to_owned());
        format!("{side}: {reason}")
    }
}

/// Two sessions, pumped against each other in memory.
pub struct Pair {
    pub client: ClientConnection,
    pub server: ServerConnection,
}

impl Pair {
    pub fn new(client: ClientConfig, server: ServerConfig) -> Self {
        let name = gateway_server_name(&ClusterName::new("us-west").unwrap());
        Self {
            client: ClientConnection::new(Arc::new(client), name).unwrap(),
            server: ServerConnection::new(Arc::new(server)).unwrap(),
        }
    }

    /// Carries bytes both ways until neither side has any.
    pub fn pump(&mut self) -> Result<(), Failed> {
        loop {
            let mut wire = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut wire).unwrap();
            }
            let mut up = &wire[..];
            while !up.is_empty() {
                self.server.read_tls(&mut up).unwrap();
                self.server.process_new_packets().map_err(Failed::Server)?;
            }
            let mut wire_back = Vec::new();
            while self.server.wants_write() {
                self.server.write_tls(&mut wire_back).unwrap();
            }
            let mut down = &wire_back[..];
            while !down.is_empty() {
                self.client.read_tls(&mut down).unwrap();
                self.client.process_new_packets().map_err(Failed::Client)?;
            }
            if wire.is_empty() && wire_back.is_empty() {
                return Ok(());
            }
        }
    }
}
