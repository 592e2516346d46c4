//! Resources: what people write, and how it is named and ordered.

use std::fmt;
use std::str::FromStr;

use crate::{Cluster, Link, Mesh, Namespace, ObjectName, Origin, Route, Service, ServiceName};
use crate::{TrafficPolicy, Workload};

/// The kinds of resource that the API knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Mesh,
    Cluster,
    Link,
    Namespace,
    Service,
    ServiceExport,
    HttpRoute,
    TrafficPolicy,
    Workload,
}

/// The name of no kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no resource kind {0:?}")]
pub struct UnknownKind(pub String);

impl Kind {
    pub const ALL: [Self; 9] = [
        Self::Mesh,
        Self::Cluster,
        Self::Link,
        Self::Namespace,
        Self::Service,
        Self::ServiceExport,
        Self::HttpRoute,
        Self::TrafficPolicy,
        Self::Workload,
    ];

    /// API group, empty for the core group.
    pub fn group(self) -> &'static str {
        match self {
            Self::Namespace | Self::Service => "",
            Self::ServiceExport => "multicluster.x-k8s.io",
            Self::HttpRoute => "gateway.networking.k8s.io",
            Self::Mesh | Self::Cluster | Self::Link | Self::TrafficPolicy | Self::Workload => {
                "mesh.isthmus.dev"
            }
        }
    }

    pub fn version(self) -> &'static str {
        match self {
            Self::Namespace | Self::Service | Self::HttpRoute => "v1",
            Self::ServiceExport | Self::Mesh | Self::Cluster => "v1alpha1",
            Self::Link | Self::TrafficPolicy | Self::Workload => "v1alpha1",
        }
    }

    /// `group/version`, or `version` alone for the core group.
    pub fn api_version(self) -> String {
        match self.group() {
            "" => self.version().to_owned(),
            group => format!("{group}/{}", self.version()),
        }
    }

    /// As in `kind:`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mesh => "Mesh",
            Self::Cluster => "Cluster",
            Self::Link => "Link",
            Self::Namespace => "Namespace",
            Self::Service => "Service",
            Self::ServiceExport => "ServiceExport",
            Self::HttpRoute => "HTTPRoute",
            Self::TrafficPolicy => "TrafficPolicy",
            Self::Workload => "Workload",
        }
    }

    /// As in API paths.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Mesh => "meshes",
            Self::Cluster => "clusters",
            Self::Link => "links",
            Self::Namespace => "namespaces",
            Self::Service => "services",
            Self::ServiceExport => "serviceexports",
            Self::HttpRoute => "httproutes",
            Self::TrafficPolicy => "trafficpolicies",
            Self::Workload => "workloads",
        }
    }

    pub fn namespaced(self) -> bool {
        match self {
            Self::Mesh | Self::Cluster | Self::Link | Self::Namespace => false,
            Self::Service
            | Self::ServiceExport
            | Self::HttpRoute
            | Self::TrafficPolicy
            | Self::Workload => true,
        }
    }

    /// True for what a person decides; false for what a cluster observes.
    pub fn is_config(self) -> bool {
        self != Self::Workload
    }

    /// May an object of it belong to one cluster, and bind no other?
    pub fn is_of_clusters(self) -> bool {
        matches!(self, Self::HttpRoute | Self::TrafficPolicy)
    }
}

impl FromStr for Kind {
    type Err = UnknownKind;

    /// Any letter case, singular or plural, as people type it: `HTTPRoute`, `service`, `clusters`.
    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        let lower = text.to_ascii_lowercase();
        Self::ALL
            .into_iter()
            .find(|kind| lower == kind.name().to_ascii_lowercase() || lower == kind.plural())
            .ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The key of a resource everywhere: store, wire, API.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceKey {
    pub origin: Origin,
    pub kind: Kind,
    /// `Some` exactly when the kind is namespaced.
    pub namespace: Option<Namespace>,
    pub name: ObjectName,
}

impl fmt::Display for ResourceKey {
    /// `Kind/name` or `Kind/namespace/name`, as messages show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{}/{namespace}/{}", self.kind, self.name),
            None => write!(f, "{}/{}", self.kind, self.name),
        }
    }
}

/// Place of a config change in the authority's log: 1 is the first; 0 is before any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

impl Position {
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Counts spec changes of one resource, from 1 (`metadata.generation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl Resource {
    /// Its origin is part of its key, and of the value of those that are compared by it.
    pub fn set_origin(&mut self, origin: &Origin) {
        match self {
            Self::HttpRoute(route) => route.origin.clone_from(origin),
            Self::TrafficPolicy(policy) => policy.origin.clone_from(origin),
            _ => {}
        }
    }
}

/// A resource, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    Mesh(Mesh),
    Cluster(Cluster),
    Link(Link),
    Namespace(Namespace),
    /// `exported` is always false here: the export is a resource of its own.
    Service(Service),
    ServiceExport(ServiceName),
    HttpRoute(Route),
    TrafficPolicy(TrafficPolicy),
    Workload(Workload),
}
