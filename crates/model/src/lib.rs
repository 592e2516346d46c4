//! The words of the mesh as values.
//!
//! Everything the other crates talk about has its one definition here: names, services,
//! workloads, clusters, routes, policies, identities. A value that exists is valid: fields with an
//! invariant are private and have one constructor.
//!
//! This crate never does I/O, reads a clock, spawns, or knows YAML, JSON or protobuf.

mod admission;
mod cluster;
mod identity;
mod name;
mod origin;
mod policy;
mod resource;
mod route;
mod service;
mod share;
mod workload;

pub use admission::{Admission, NotAdmission};
pub use cluster::{ALL_TRAFFIC, Cluster, Egress, Gateway, Link, MAX_VOTERS, Mesh, Reach, Removals};
pub use identity::{ClusterIdentity, Identity, SpiffeError, SpiffeId};
pub use name::{
    AccountName, ClusterName, CookieName, HeaderName, LabelKey, MeshName, NameError, Namespace,
    ObjectName, PortName, RegionName, ServiceLabel, TrustDomain,
};
pub use origin::Origin;
pub use policy::{
    Algorithm, HashOn, HealthCheck, HealthProbe, LimitSettings, LocalityOrder, OutlierSettings,
    Percent, PercentError, RetryOn, RetrySettings, Target, TimeoutSettings, TrafficPolicy,
    TrafficSettings,
};
pub use resource::{Generation, Kind, Position, Resource, ResourceKey, UnknownKind};
pub use route::{Backend, HeaderMatch, Method, PathMatch, Route, RouteMatch, RouteRule};
pub use service::{AppProtocol, Host, Service, ServiceName, ServicePort};
pub use share::Share;
pub use workload::{Handle, Health, Labels, Subset, Workload};
