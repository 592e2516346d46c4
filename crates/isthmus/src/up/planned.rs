//! What a plan is made of: ports, clusters, processes, and what can be wrong with it.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use isthmus_api::TokenRequest;
use isthmus_manifest::Problem;
use isthmus_model::{ClusterName, ServiceName};

use super::fleet::Stage;

pub(crate) const OUTBOUND_PORT: u16 = 15001;
pub(crate) const MESH_PORT: u16 = 15008;
pub(crate) const METRICS_PORT: u16 = 15020;
pub(crate) const CONTROL_PORT: u16 = 15012;
pub(crate) const API_PORT: u16 = 7443;

#[derive(Debug, Clone)]
pub(crate) struct PlannedCluster {
    pub(crate) name: ClusterName,
    pub(crate) control: Ipv4Addr,
    pub(crate) gateways: usize,
    pub(crate) config: PathBuf,
    pub(crate) data: PathBuf,
}

#[derive(Debug, Clone)]
pub(crate) struct PlannedProcess {
    pub(crate) cluster: ClusterName,
    /// Unique in its cluster.
    pub(crate) name: String,
    pub(crate) stage: Stage,
    pub(crate) address: Ipv4Addr,
    pub(crate) service: Option<ServiceName>,
    /// What `isthmus` is called with.
    pub(crate) arguments: Vec<String>,
    pub(crate) config: PathBuf,
    pub(crate) config_text: String,
    /// Asked of its cluster before it starts.
    pub(crate) token: Option<(TokenRequest, PathBuf)>,
}

impl PlannedProcess {
    /// A program that is part of no service.
    pub(crate) fn only_calls(&self) -> bool {
        self.stage == Stage::Workload && self.service.is_none()
    }

    /// `cluster/name`.
    pub(crate) fn full_name(&self) -> String {
        format!("{}/{}", self.cluster, self.name)
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum PlanProblem {
    Resource(Problem),
    Disagreement(String),
}
