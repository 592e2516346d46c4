//! From what was written to what it means: objects to `model` values.
//!
//! Resolving looks at one object only and returns all that is wrong with it. Whether the things
//! that it names exist is `references`' question.

mod cluster;
mod policy;
mod route;
mod service;
mod workload;

use std::net::SocketAddr;
use std::time::Duration;

use isthmus_model::{Kind, NameError, Percent, Resource};
use serde::de::DeserializeOwned;

use crate::decode::decode;
use crate::kinds::{
    ClusterSpec, LinkSpec, MeshSpec, ServiceExportSpec, TrafficPolicySpec, WorkloadSpec,
};
use crate::problem::{Problems, did_you_mean, quoted};
use crate::standard::{self, Supported};
use crate::{FieldPath, Object, Problem};

/// Annotations with this prefix are ours: one that we do not know is an error.
const ANNOTATION_PREFIX: &str = "mesh.isthmus.dev/";

/// On a Service: the accounts that its workloads may run as, separated by commas.
pub(crate) const ACCOUNTS_ANNOTATION: &str = "mesh.isthmus.dev/service-accounts";

/// On a Mesh or a Cluster: the mesh key's signature of what in it binds the whole mesh.
pub const SIGNATURE_ANNOTATION: &str = "mesh.isthmus.dev/signature";

/// The meaning of `object`.
///
/// Errors: everything that is wrong with it; never empty.
pub fn resolve(object: &Object) -> Result<Resource, Vec<Problem>> {
    let mut problems = Problems::default();
    annotations(object, &mut problems);
    let resource = match object.kind() {
        Kind::Mesh => own::<MeshSpec>(object, &mut problems, cluster::mesh),
        Kind::Cluster => own::<ClusterSpec>(object, &mut problems, cluster::cluster),
        Kind::Link => own::<LinkSpec>(object, &mut problems, cluster::link),
        Kind::ServiceExport => own::<ServiceExportSpec>(object, &mut problems, service::export),
        Kind::TrafficPolicy => own::<TrafficPolicySpec>(object, &mut problems, policy::policy),
        Kind::Workload => own::<WorkloadSpec>(object, &mut problems, workload::workload),
        Kind::Namespace => {
            let supported = Some(standard::NAMESPACE);
            typed(object, supported, &mut problems, service::namespace)
        }
        Kind::Service => {
            let supported = Some(standard::SERVICE);
            typed(object, supported, &mut problems, service::service)
        }
        Kind::HttpRoute => {
            let supported = Some(standard::HTTP_ROUTE);
            typed(object, supported, &mut problems, route::route)
        }
    };
    match resource {
        Some(resource) if problems.is_empty() => Ok(resource),
        _ => Err(problems.into_vec()),
    }
}

type Meaning<S> = fn(&Object, &S, &mut Problems) -> Option<Resource>;

fn own<S: DeserializeOwned>(
    object: &Object,
    problems: &mut Problems,
    meaning: Meaning<S>,
) -> Option<Resource> {
    typed(object, None, problems, meaning)
}

fn typed<S: DeserializeOwned>(
    object: &Object,
    supported: Option<&[Supported]>,
    problems: &mut Problems,
    meaning: Meaning<S>,
) -> Option<Resource> {
    let (json, path) = (object.spec(), spec());
    let decoded = decode::<S>(&json, &path, problems)?;
    if let Some(supported) = supported {
        standard::refuse_unsupported(&json, &path, supported, problems);
    }
    let mut found = Problems::default();
    let resource = meaning(object, &decoded.value, &mut found);
    decoded.dropped.report(found, problems);
    resource
}

fn annotations(object: &Object, problems: &mut Problems) {
    let path = FieldPath::root().field("metadata").field("annotations");
    let ours = object.metadata().annotations.keys();
    for key in ours.filter(|key| key.starts_with(ANNOTATION_PREFIX)) {
        let known = match object.kind() {
            Kind::Service => Some(ACCOUNTS_ANNOTATION),
            Kind::Mesh | Kind::Cluster => Some(SIGNATURE_ANNOTATION),
            _ => None,
        };
        if known != Some(key) {
            let message = format!("kind {} has no such annotation", object.kind());
            let hint = did_you_mean(key, known);
            let problem = Problem::new(path.field(key), message);
            problems.push(problem.of_key().maybe_hint(hint));
        }
    }
}

fn spec() -> FieldPath {
    FieldPath::root().field("spec")
}

fn metadata_name() -> FieldPath {
    FieldPath::root().field("metadata").field("name")
}

/// `metadata.name` as a narrower name.
fn own_name<T>(object: &Object, what: &str, problems: &mut Problems) -> Option<T>
where
    T: std::str::FromStr<Err = NameError>,
{
    problems.name(&metadata_name(), what, object.metadata().name.as_str())
}

/// `ip:port`, with a port.
fn socket(text: &str, path: &FieldPath, problems: &mut Problems) -> Option<SocketAddr> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Some(address),
        _ => {
            problems.add_hint(
                path,
                format!("{} is not an IP address with a port", quoted(text)),
                "write `10.0.0.1:15012` or `[2001:db8::1]:15012`",
            );
            None
        }
    }
}

/// A number of a TCP port, as Kubernetes' types hold it.
fn port(number: i32, path: &FieldPath, problems: &mut Problems) -> Option<u16> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Some(port),
        _ => {
            let message = format!("{number} is not a port: ports are 1 to 65535");
            problems.add(path, message);
            None
        }
    }
}

/// A duration in the format of the Gateway API (GEP-2257). Zero is a duration.
fn duration(text: &str, path: &FieldPath, problems: &mut Problems) -> Option<Duration> {
    match text.parse::<gateway_api::Duration>() {
        Ok(duration) => Some(Duration::new(duration.as_secs(), duration.subsec_nanos())),
        Err(_) => {
            problems.add_hint(
                path,
                format!("{} is not a duration", quoted(text)),
                "write `500ms`, `10s` or `1h30m`",
            );
            None
        }
    }
}

/// The same, where the field is set.
fn maybe_duration(
    text: Option<&String>,
    path: &FieldPath,
    problems: &mut Problems,
) -> Option<Duration> {
    text.and_then(|text| duration(text, path, problems))
}

/// The same, at least `least`.
fn bounded_duration(
    text: Option<&String>,
    least: Duration,
    path: &FieldPath,
    problems: &mut Problems,
) -> Option<Duration> {
    let text = text?;
    let duration = duration(text, path, problems)?;
    if duration < least {
        let message = format!("{} is too short: {least:?} is the least", quoted(text));
        problems.add(path, message);
        return None;
    }
    Some(duration)
}

fn percent(written: Option<u64>, path: &FieldPath, problems: &mut Problems) -> Option<Percent> {
    match Percent::new(written?) {
        Ok(percent) => Some(percent),
        Err(error) => {
            problems.add(path, error.to_string());
            None
        }
    }
}
