//! Workload: a fact. It is read to be checked and shown; its cluster writes it.

use isthmus_model::{Handle, Health, Identity, Resource, ServiceName, SpiffeId, Workload};

use super::{socket, spec};
use crate::decode::decode;
use crate::kinds::{HealthName, WorkloadSpec, WorkloadStatus};
use crate::problem::{Problems, quoted};
use crate::{FieldPath, Object};

pub(super) fn workload(
    object: &Object,
    written: &WorkloadSpec,
    problems: &mut Problems,
) -> Option<Resource> {
    let namespace = object.metadata().namespace.clone()?;
    let service = problems.name(&spec().field("service"), "a service name", &written.service);
    let cluster = problems.name(&spec().field("cluster"), "a cluster name", &written.cluster);
    let identity = identity(&written.identity, problems);
    let address = socket(&written.address, &spec().field("address"), problems);
    let health = health(object, problems);
    Some(Resource::Workload(Workload {
        handle: Handle::new(object.metadata().name.as_str()),
        service: ServiceName {
            namespace,
            name: service?,
        },
        cluster: cluster?,
        identity: identity?,
        address: address?,
        zone: written.zone.clone(),
        labels: object.metadata().labels.clone(),
        health: health?,
    }))
}

fn identity(text: &str, problems: &mut Problems) -> Option<Identity> {
    let path = spec().field("identity");
    match text.parse() {
        Ok(SpiffeId::Workload(identity)) => Some(identity),
        Ok(SpiffeId::Cluster(_)) => {
            problems.add(&path, format!("{} is a cluster's identity", quoted(text)));
            None
        }
        Err(error) => {
            problems.add(
                &path,
                format!("{} is not an identity: {error}", quoted(text)),
            );
            None
        }
    }
}

fn health(object: &Object, problems: &mut Problems) -> Option<Health> {
    let Some(status) = object.json().get("status") else {
        // Nobody has seen it yet.
        return Some(Health::Starting);
    };
    let path = FieldPath::root().field("status");
    let status = decode::<WorkloadStatus>(status, &path, problems)?;
    Some(match status.value.health {
        HealthName::Starting => Health::Starting,
        HealthName::Healthy => Health::Healthy,
        HealthName::Unhealthy => Health::Unhealthy,
        HealthName::Draining => Health::Draining,
    })
}
