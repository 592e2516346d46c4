//! The mesh, its clusters, and the links between them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use crate::{ClusterName, MeshName, Namespace, Percent, RegionName, TrustDomain};

/// The mesh itself: one per trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mesh {
    pub name: MeshName,
    pub trust_domain: TrustDomain,
    pub egress: Egress,
    /// Whose control planes accept config together, [`MAX_VOTERS`] at most; empty: nobody has said.
    pub voters: BTreeSet<ClusterName>,
    pub removals: Removals,
}

/// When workloads that are missed together are not taken for gone: each cluster sees to it for its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removals {
    /// More than this part of a service's workloads in a cluster, missed at once, is held; 100 %: never.
    pub hold_above: Percent,
    /// How long they are shown as they were last heard of.
    pub hold_for: Duration,
}

impl Default for Removals {
    fn default() -> Self {
        Self {
            hold_above: Percent::HALF,
            hold_for: Duration::from_mins(5),
        }
    }
}

/// Clusters whose control planes accept config together: more would only be slower.
pub const MAX_VOTERS: usize = 5;

/// What becomes of requests of the mesh's programs to hosts outside of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Egress {
    /// They are refused.
    #[default]
    Deny,
    /// They are carried, in nobody's name.
    Allow,
}

/// A cluster as declared.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    pub name: ClusterName,
    pub region: RegionName,
    pub zone: Option<String>,
    /// Latitude and longitude in degrees.
    pub coordinates: Option<(f64, f64)>,
    /// Legal area, such as an ISO 3166 country code; the residency policies' word.
    pub jurisdiction: Option<String>,
    /// Where its control plane is reached (port 15012), before any link's `reach`.
    pub control: SocketAddr,
    /// Namespaces that its workloads may live in; `None` grants all.
    pub namespaces: Option<Vec<Namespace>>,
    /// Nobody believes it any more, and whoever it admitted. `None`: nothing is said of it, which takes no
    /// revocation back.
    pub revoked: Option<bool>,
    /// What part of the requests that would go there does, in percent, where another cluster can take the rest.
    pub traffic: u8,
}

/// [`Cluster::traffic`] of one that nobody drains.
pub const ALL_TRAFFIC: u8 = 100;

impl Cluster {
    /// May this cluster's certificate authority speak for `namespace`?
    pub fn grants(&self, namespace: &Namespace) -> bool {
        self.namespaces
            .as_ref()
            .is_none_or(|granted| granted.contains(namespace))
    }
}

// Coordinates are compared as written; they are never NaN (`manifest` refuses it).
impl Eq for Cluster {}

/// One gateway process of a cluster: a fact of that cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gateway {
    /// Unique in its cluster, such as `gateway-1`.
    pub name: String,
    /// Where it listens (port 15008), before any link's `reach`.
    pub address: SocketAddr,
    pub healthy: bool,
}

/// A way between two clusters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub between: (ClusterName, ClusterName),
    /// Declared round-trip time; a measured one replaces it.
    pub rtt: Option<Duration>,
    /// Addresses to use instead of the other side's own (relays, NAT).
    pub reach: Vec<Reach>,
}

/// Seen from cluster `from`, `address` of the other side is dialled as `via`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    pub from: ClusterName,
    pub address: SocketAddr,
    pub via: SocketAddr,
}

impl Link {
    /// The cluster at the other end, or `None` when `cluster` is at neither.
    pub fn other_side(&self, cluster: &ClusterName) -> Option<&ClusterName> {
        match &self.between {
            (a, b) if a == cluster => Some(b),
            (a, b) if b == cluster => Some(a),
            _ => None,
        }
    }

    /// What `from` dials to reach `address` on the other side.
    pub fn dial(&self, from: &ClusterName, address: SocketAddr) -> SocketAddr {
        self.reach
            .iter()
            .find(|reach| &reach.from == from && reach.address == address)
            .map_or(address, |reach| reach.via)
    }
}
