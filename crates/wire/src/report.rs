//! What a proxy tells its control plane, checked.

use std::net::SocketAddr;
use std::time::Duration;

use isthmus_model::{ClusterName, Gateway, Health, Labels, ServiceName};

use crate::body::BodyError;
use crate::field::{labels_in, parse, service_name, text};
use crate::proto;

/// The workload that a proxy stands beside. Who it is, its connection has proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadReport {
    pub service: ServiceName,
    /// Where it takes mesh traffic (port 15008).
    pub address: SocketAddr,
    pub zone: Option<String>,
    pub labels: Labels,
    pub health: Health,
    /// What the health check last said, for people.
    pub detail: String,
}

/// A round trip that a proxy measured to a gateway of another cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkReport {
    pub cluster: ClusterName,
    pub rtt: Duration,
}

impl TryFrom<proto::WorkloadReport> for WorkloadReport {
    type Error = BodyError;

    fn try_from(report: proto::WorkloadReport) -> Result<Self, BodyError> {
        Ok(Self {
            health: report.health().into(),
            service: service_name("workload", &report.namespace, &report.service)?,
            address: parse("workload.address", &report.address)?,
            zone: text(report.zone),
            labels: labels_in("workload.labels", report.labels)?,
            detail: report.detail,
        })
    }
}

impl TryFrom<proto::GatewayReport> for Gateway {
    type Error = BodyError;

    fn try_from(report: proto::GatewayReport) -> Result<Self, BodyError> {
        Ok(Self {
            name: report.name,
            address: parse("gateway.address", &report.address)?,
            healthy: report.healthy,
        })
    }
}

impl TryFrom<proto::LinkReport> for LinkReport {
    type Error = BodyError;

    fn try_from(report: proto::LinkReport) -> Result<Self, BodyError> {
        Ok(Self {
            cluster: parse("link.cluster", &report.cluster)?,
            rtt: Duration::from_micros(report.rtt_us),
        })
    }
}
