//! What clusters observe: workloads with their health, and shares.

use isthmus_model::{Handle, Health, Share, SpiffeId, Subset, Workload};

use crate::body::BodyError;
use crate::field::{Parsed, labels_in, labels_out, parse, service_name, text};
use crate::proto;

impl From<Health> for proto::Health {
    fn from(health: Health) -> Self {
        match health {
            Health::Starting => Self::Starting,
            Health::Healthy => Self::Healthy,
            Health::Unhealthy => Self::Unhealthy,
            Health::Draining => Self::Draining,
        }
    }
}

impl From<proto::Health> for Health {
    /// What is not known takes no traffic.
    fn from(health: proto::Health) -> Self {
        match health {
            proto::Health::Unspecified | proto::Health::Unhealthy => Self::Unhealthy,
            proto::Health::Starting => Self::Starting,
            proto::Health::Healthy => Self::Healthy,
            proto::Health::Draining => Self::Draining,
        }
    }
}

impl From<&Workload> for proto::Workload {
    fn from(workload: &Workload) -> Self {
        Self {
            handle: workload.handle.to_string(),
            namespace: workload.service.namespace.to_string(),
            service: workload.service.name.to_string(),
            cluster: workload.cluster.to_string(),
            identity: workload.identity.to_string(),
            address: workload.address.to_string(),
            zone: workload.zone.clone().unwrap_or_default(),
            labels: labels_out(&workload.labels),
            health: proto::Health::from(workload.health).into(),
        }
    }
}

impl TryFrom<proto::Workload> for Workload {
    type Error = BodyError;

    fn try_from(workload: proto::Workload) -> Parsed<Self> {
        let health = workload.health().into();
        let identity = match parse("workload.identity", &workload.identity)? {
            SpiffeId::Workload(identity) => identity,
            SpiffeId::Cluster(_) => {
                return Err(BodyError::field(
                    "workload.identity",
                    "this is a cluster's identity",
                ));
            }
        };
        Ok(Self {
            handle: Handle::new(&workload.handle),
            service: service_name("workload", &workload.namespace, &workload.service)?,
            cluster: parse("workload.cluster", &workload.cluster)?,
            identity,
            address: parse("workload.address", &workload.address)?,
            zone: text(workload.zone),
            labels: labels_in("workload.labels", workload.labels)?,
            health,
        })
    }
}

impl From<&Share> for proto::Share {
    fn from(share: &Share) -> Self {
        Self {
            cluster: share.cluster.to_string(),
            namespace: share.service.namespace.to_string(),
            service: share.service.name.to_string(),
            subset: labels_out(&share.subset.0),
            healthy: share.healthy,
            total: share.total,
        }
    }
}

impl TryFrom<proto::Share> for Share {
    type Error = BodyError;

    fn try_from(share: proto::Share) -> Parsed<Self> {
        if share.healthy > share.total {
            return Err(BodyError::field(
                "share.healthy",
                "is more than share.total",
            ));
        }
        Ok(Self {
            cluster: parse("share.cluster", &share.cluster)?,
            service: service_name("share", &share.namespace, &share.service)?,
            subset: Subset(labels_in("share.subset", share.subset)?),
            healthy: share.healthy,
            total: share.total,
        })
    }
}
