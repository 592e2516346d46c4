//! What one cluster tells all others about its part of a service.

use crate::{ClusterName, ServiceName, Subset};

/// A cluster's aggregate for one (service, subset): a fact, written only by that cluster. A share
/// that is missing is unknown, not zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    pub cluster: ClusterName,
    pub service: ServiceName,
    pub subset: Subset,
    /// Workloads that take traffic.
    pub healthy: u32,
    /// All workloads, whatever their health.
    pub total: u32,
}
