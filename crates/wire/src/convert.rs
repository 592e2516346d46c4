//! Field by field: protobuf to `model` and back, one module per family of resources.

mod fact;
mod mesh;
mod policy;
mod route;
mod service;

use crate::body::{Body, BodyError};
use crate::proto;

impl From<&Body> for proto::body::Body {
    fn from(body: &Body) -> Self {
        match body {
            Body::Mesh(mesh) => Self::Mesh(mesh.into()),
            Body::Cluster(cluster) => Self::Cluster(cluster.into()),
            Body::Service(service) => Self::Service(service.into()),
            Body::Route(route) => Self::Route(route.into()),
            Body::TrafficPolicy(policy) => Self::TrafficPolicy(policy.into()),
            Body::Workload(workload) => Self::Workload(workload.into()),
            Body::Share(share) => Self::Share(share.into()),
            Body::Gateway(gateway) => Self::Gateway(gateway.into()),
            Body::Revocation(admission) => Self::Revocation(admission.into()),
        }
    }
}

impl TryFrom<proto::body::Body> for Body {
    type Error = BodyError;

    fn try_from(body: proto::body::Body) -> Result<Self, BodyError> {
        use proto::body::Body as Wire;
        Ok(match body {
            Wire::Mesh(mesh) => Self::Mesh(mesh.try_into()?),
            Wire::Cluster(cluster) => Self::Cluster(cluster.try_into()?),
            Wire::Service(service) => Self::Service(service.try_into()?),
            Wire::Route(route) => Self::Route(route.try_into()?),
            Wire::TrafficPolicy(policy) => Self::TrafficPolicy(policy.try_into()?),
            Wire::Workload(workload) => Self::Workload(workload.try_into()?),
            Wire::Share(share) => Self::Share(share.try_into()?),
            Wire::Gateway(gateway) => Self::Gateway(gateway.try_into()?),
            Wire::Revocation(revocation) => Self::Revocation(revocation.into()),
        })
    }
}
