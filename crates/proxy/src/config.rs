//! What a proxy process is told when it starts.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use isthmus_codec::http1::Limits;
use isthmus_model::{AccountName, ClusterName, Labels, Namespace, ServiceName};

use crate::introduction::Network;

/// The standard ports, on the process's own address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Callers beside this proxy: an explicit HTTP proxy.
    pub outbound: u16,
    /// Other proxies of the mesh, mutual TLS.
    pub mesh: u16,
    /// Metrics and health, plain HTTP.
    pub metrics: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            outbound: 15001,
            mesh: 15008,
            metrics: 15020,
        }
    }
}

/// How long a client of HTTP may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Without a request.
    pub idle: Duration,
    /// From the first byte of a head to its last.
    pub head: Duration,
    /// In the middle of a message, without sending or taking a byte.
    pub stalled: Duration,
    /// The same on a stream of HTTP/2, which may be quiet by nature, and holds little.
    pub stalled_stream: Duration,
    /// To say the first bytes where nobody has declared what is spoken. Zero: they are not looked at.
    pub detect: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            idle: Duration::from_mins(5),
            head: Duration::from_secs(10),
            stalled: Duration::from_mins(1),
            stalled_stream: Duration::from_mins(5),
            // Clients that speak first do so when they are connected; ten milliseconds are enough for
            // that where programs have to wait for a processor, too. Those who wait for the server lose
            // as much once for each connection.
            detect: Duration::from_millis(10),
        }
    }
}

/// What a client may send and hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLimits {
    /// Of a request's head.
    pub head: Limits,
    /// Requests that are open on one connection of HTTP/2.
    pub streams: u32,
    /// Connections from one address to the mesh port; `None`: a share of the descriptors that there are.
    pub connections_per_source: Option<usize>,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            head: Limits::default(),
            streams: 256,
            connections_per_source: None,
        }
    }
}

/// One proxy process.
#[derive(Debug, Clone)]
pub struct Config {
    /// The process, as it is called in logs, metrics and `x-isthmus-at`.
    pub name: String,
    pub cluster: ClusterName,
    pub address: IpAddr,
    pub ports: Ports,
    /// Control planes of the own cluster, tried in turn.
    pub control: Vec<SocketAddr>,
    /// What the process joins with when it has no certificate of its own that still holds.
    pub token: Option<String>,
    /// Where key, certificate and the sealed snapshot are kept; mode 0700.
    pub state: PathBuf,
    pub role: Role,
    /// One JSON line per request on standard output.
    pub access_log: bool,
    /// Threads that carry traffic.
    pub workers: usize,
    pub patience: Patience,
    /// Bytes that the process may hold for others.
    pub memory: u64,
    pub limits: ClientLimits,
    /// Load balancers that tell on the mesh port whose connections they hand on.
    pub proxy_protocol_from: Vec<Network>,
}

/// What the process is for.
#[derive(Debug, Clone)]
pub enum Role {
    /// Stands beside one program.
    Sidecar(Sidecar),
    /// Stands at the edge of its cluster.
    Gateway,
}

#[derive(Debug, Clone)]
pub struct Sidecar {
    pub namespace: Namespace,
    pub account: AccountName,
    /// The service that the program is an instance of; `None`: it only calls.
    pub service: Option<ServiceName>,
    pub labels: Labels,
    pub zone: Option<String>,
    /// Where the program listens, on its service's target ports.
    pub program: IpAddr,
    /// Local listeners that lead plain TCP to one port of a service.
    pub listeners: Vec<Listener>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    pub address: SocketAddr,
    pub service: ServiceName,
    pub port: u16,
}

impl Config {
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, port)
    }

    /// Does this process listen there?
    pub(crate) fn is_own(&self, address: SocketAddr) -> bool {
        let Ports {
            outbound,
            mesh,
            metrics,
        } = self.ports;
        let ip = address.ip().to_canonical();
        let here = ip.is_unspecified() || ip == self.address.to_canonical();
        let listeners = self.sidecar().map_or(&[][..], |sidecar| &sidecar.listeners);
        let listens = |listener: &Listener| {
            let same = listener.address.ip().to_canonical() == ip;
            listener.address.port() == address.port() && (same || ip.is_unspecified())
        };
        (here && [outbound, mesh, metrics].contains(&address.port()))
            || listeners.iter().any(listens)
    }

    pub(crate) fn sidecar(&self) -> Option<&Sidecar> {
        match &self.role {
            Role::Sidecar(sidecar) => Some(sidecar),
            Role::Gateway => None,
        }
    }

    /// The service whose requests the inbound half takes.
    pub(crate) fn own_service(&self) -> Option<&ServiceName> {
        self.sidecar().and_then(|sidecar| sidecar.service.as_ref())
    }
}
