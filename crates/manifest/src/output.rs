//! Model values as objects: for facts and for what is generated, which no person has written.

use std::net::SocketAddr;

use isthmus_model::{ALL_TRAFFIC, Cluster, Health, Kind, Labels, Workload};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::kinds::{ClusterSpec, Coordinates, HealthName, WorkloadSpec, WorkloadStatus};

/// What the API adds to an object when it answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerMetadata {
    pub resource_version: Option<String>,
    pub generation: Option<u64>,
    pub uid: Option<String>,
    /// RFC 3339.
    pub creation_timestamp: Option<String>,
}

/// A workload as an object, named by its handle.
pub fn workload_object(workload: &Workload, server: &ServerMetadata) -> Value {
    let spec = WorkloadSpec {
        service: workload.service.name.to_string(),
        cluster: workload.cluster.to_string(),
        identity: workload.identity.to_string(),
        address: workload.address.to_string(),
        zone: workload.zone.clone(),
    };
    let health = match workload.health {
        Health::Starting => HealthName::Starting,
        Health::Healthy => HealthName::Healthy,
        Health::Unhealthy => HealthName::Unhealthy,
        Health::Draining => HealthName::Draining,
    };
    let mut metadata = metadata(workload.handle.as_str(), server);
    metadata.insert(
        "namespace".to_owned(),
        workload.service.namespace.as_str().into(),
    );
    if !workload.labels.is_empty() {
        metadata.insert("labels".to_owned(), labels(&workload.labels));
    }
    let mut object = object(Kind::Workload, &metadata, &spec);
    object["status"] = plain(&WorkloadStatus { health });
    object
}

/// A cluster as an object.
pub fn cluster_object(cluster: &Cluster, server: &ServerMetadata) -> Value {
    let coordinates = |(latitude, longitude)| Coordinates {
        latitude,
        longitude,
    };
    let names = |names: &Vec<_>| names.iter().map(ToString::to_string).collect();
    let spec = ClusterSpec {
        region: cluster.region.to_string(),
        zone: cluster.zone.clone(),
        coordinates: cluster.coordinates.map(coordinates),
        jurisdiction: cluster.jurisdiction.clone(),
        control: Some(SocketAddr::to_string(&cluster.control)),
        revoked: cluster.revoked,
        namespaces: cluster
            .namespaces
            .as_ref()
            .map(names as fn(&Vec<isthmus_model::Namespace>) -> Vec<String>),
        traffic: (cluster.traffic != ALL_TRAFFIC).then_some(cluster.traffic),
    };
    object(
        Kind::Cluster,
        &metadata(cluster.name.as_str(), server),
        &spec,
    )
}

fn object(kind: Kind, metadata: &Map<String, Value>, spec: &impl Serialize) -> Value {
    json!({
        "apiVersion": kind.api_version(),
        "kind": kind.name(),
        "metadata": metadata,
        "spec": plain(spec),
    })
}

fn metadata(name: &str, server: &ServerMetadata) -> Map<String, Value> {
    let text = |text: &Option<String>| text.clone().map(Value::String);
    let fields = [
        ("name", Some(name.into())),
        ("uid", text(&server.uid)),
        ("resourceVersion", text(&server.resource_version)),
        ("generation", server.generation.map(Value::from)),
        ("creationTimestamp", text(&server.creation_timestamp)),
    ];
    fields
        .into_iter()
        .filter_map(|(field, value)| Some((field.to_owned(), value?)))
        .collect()
}

fn labels(labels: &Labels) -> Value {
    let label = |(key, value): (&isthmus_model::LabelKey, &std::sync::Arc<str>)| {
        (key.to_string(), Value::from(&**value))
    };
    Value::Object(labels.iter().map(label).collect())
}

fn plain(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("structs of text and numbers are JSON")
}
