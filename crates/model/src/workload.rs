//! Workloads: running instances of services.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::{ClusterName, Identity, LabelKey, ServiceName};

/// Labels of a workload; subsets are chosen by them.
pub type Labels = BTreeMap<LabelKey, Arc<str>>;

/// Opaque name of one workload, given out by its cluster; stable while the workload lives.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(Arc<str>);

impl Handle {
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// What a workload's own proxy last saw of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Health {
    /// Its program has not answered a check yet.
    Starting,
    Healthy,
    Unhealthy,
    /// It is leaving: finish what runs, start nothing new.
    Draining,
}

impl Health {
    pub fn takes_traffic(self) -> bool {
        self == Self::Healthy
    }
}

/// One running instance of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    pub handle: Handle,
    pub service: ServiceName,
    pub cluster: ClusterName,
    pub identity: Identity,
    /// Where its proxy takes mesh traffic (port 15008).
    pub address: SocketAddr,
    pub zone: Option<String>,
    pub labels: Labels,
    pub health: Health,
}

/// A part of a service's workloads: those that carry all these labels. The empty subset is all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Subset(pub Labels);

impl Subset {
    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, labels: &Labels) -> bool {
        self.0
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    }
}

impl fmt::Display for Subset {
    /// `version=v2,tier=gold`, or `*` for all.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_all() {
            return f.write_str("*");
        }
        for (index, (key, value)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{key}={value}")?;
        }
        Ok(())
    }
}
