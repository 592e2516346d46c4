//! Namespace, Service and ServiceExport.

use std::collections::BTreeSet;

use isthmus_model::{
    AccountName, AppProtocol, Namespace, PortName, Resource, Service, ServiceLabel, ServiceName,
    ServicePort,
};
use k8s_openapi::api::core::v1::{self as k8s, NamespaceSpec, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{ACCOUNTS_ANNOTATION, own_name, port, spec};
use crate::kinds::ServiceExportSpec;
use crate::problem::{Problems, quoted};
use crate::{FieldPath, Object, Problem};

pub(super) fn namespace(
    object: &Object,
    namespace: &NamespaceSpec,
    problems: &mut Problems,
) -> Option<Resource> {
    let finalizers = namespace.finalizers.iter().flatten().enumerate();
    for (index, finalizer) in finalizers.filter(|(_, name)| *name != "kubernetes") {
        let path = spec().field("finalizers").index(index);
        problems.add(
            &path,
            format!("finalizer {} is not supported yet", quoted(finalizer)),
        );
    }
    let name: Namespace = own_name(object, "a namespace", problems)?;
    Some(Resource::Namespace(name))
}

pub(super) fn export(
    object: &Object,
    export: &ServiceExportSpec,
    problems: &mut Problems,
) -> Option<Resource> {
    let set = [
        ("exportedLabels", export.exported_labels.as_ref()),
        ("exportedAnnotations", export.exported_annotations.as_ref()),
    ];
    for (field, values) in set {
        if values.is_some_and(|values| !values.is_empty()) {
            let problem = Problem::new(spec().field(field), "this field is not supported yet");
            problems.push(problem.of_key());
        }
    }
    Some(Resource::ServiceExport(service_name(object, problems)?))
}

pub(super) fn service(
    object: &Object,
    service: &ServiceSpec,
    problems: &mut Problems,
) -> Option<Resource> {
    only(service, problems);
    let name = service_name(object, problems);
    let ports = ports(service.ports.as_deref().unwrap_or_default(), problems);
    let accounts = accounts(object, problems);
    Some(Resource::Service(Service {
        name: name?,
        ports,
        accounts: accounts?,
        exported: false,
    }))
}

/// The one value that is implemented, for fields that a Kubernetes API server always sets.
fn only(service: &ServiceSpec, problems: &mut Problems) {
    let chosen = [
        ("type", service.type_.as_deref(), "ClusterIP"),
        (
            "sessionAffinity",
            service.session_affinity.as_deref(),
            "None",
        ),
        (
            "internalTrafficPolicy",
            service.internal_traffic_policy.as_deref(),
            "Cluster",
        ),
    ];
    for (field, value, supported) in chosen {
        if let Some(value) = value.filter(|value| *value != supported) {
            let message = format!("{} is not supported yet", quoted(value));
            problems.add_hint(
                &spec().field(field),
                message,
                format!("only `{supported}` is"),
            );
        }
    }
    if service.cluster_ip.as_deref() == Some("None") {
        let path = spec().field("clusterIP");
        problems.add(&path, "headless services are not supported yet");
    }
}

fn service_name(object: &Object, problems: &mut Problems) -> Option<ServiceName> {
    let name: Option<ServiceLabel> = own_name(object, "a service name", problems);
    Some(ServiceName {
        namespace: object.metadata().namespace.clone()?,
        name: name?,
    })
}

fn ports(written: &[k8s::ServicePort], problems: &mut Problems) -> Vec<ServicePort> {
    let path = spec().field("ports");
    if written.is_empty() {
        problems.add(&path, "a service needs at least one port");
    }
    let (mut numbers, mut names) = (BTreeSet::new(), BTreeSet::new());
    let mut ports = Vec::new();
    for (index, port) in written.iter().enumerate() {
        let path = path.index(index);
        if !numbers.insert(port.port) {
            problems.add(
                &path.field("port"),
                format!("port {} is declared twice", port.port),
            );
        }
        match &port.name {
            Some(name) if !names.insert(name) => {
                let message = format!("two ports are called {}", quoted(name));
                problems.add(&path.field("name"), message);
            }
            None if written.len() > 1 => {
                let message = "every port needs a name when there are several";
                problems.add(&path.field("name"), message);
            }
            _ => {}
        }
        ports.extend(one_port(port, &path, problems));
    }
    ports
}

fn one_port(
    written: &k8s::ServicePort,
    path: &FieldPath,
    problems: &mut Problems,
) -> Option<ServicePort> {
    let number = port(written.port, &path.field("port"), problems);
    let target_path = path.field("targetPort");
    let target_port = match &written.target_port {
        None => number,
        Some(IntOrString::Int(target)) => port(*target, &target_path, problems),
        Some(IntOrString::String(name)) => {
            problems.add_hint(
                &target_path,
                format!(
                    "named target ports such as {} are not supported yet",
                    quoted(name)
                ),
                "write the number",
            );
            None
        }
    };
    if let Some(protocol) = written.protocol.as_deref().filter(|it| *it != "TCP") {
        let message = format!("{} is not supported yet", quoted(protocol));
        problems.add_hint(&path.field("protocol"), message, "only `TCP` is");
    }
    let name = match &written.name {
        Some(name) => Some(problems.name::<PortName>(&path.field("name"), "a port name", name)?),
        None => None,
    };
    Some(ServicePort {
        protocol: protocol(written),
        name,
        port: number?,
        target_port: target_port?,
    })
}

/// `appProtocol` decides (KEP-1422, KEP-3726); without one the name of the port up to its first
/// hyphen does, if it is one that Istio knows as well. (gRPC-Web is what browsers speak, over HTTP/1.1.)
fn protocol(port: &k8s::ServicePort) -> AppProtocol {
    if let Some(declared) = port.app_protocol.as_deref() {
        return http(declared).unwrap_or(AppProtocol::Tcp);
    }
    let prefix = match port.name.as_deref() {
        Some("grpc-web") => "grpc-web",
        Some(name) => name.split('-').next().unwrap_or_default(),
        None => "",
    };
    match prefix {
        "tcp" | "tls" | "https" | "mongo" | "mysql" | "redis" => AppProtocol::Tcp,
        prefix => http(prefix).unwrap_or(AppProtocol::Undeclared),
    }
}

fn http(name: &str) -> Option<AppProtocol> {
    match name {
        "http" | "grpc-web" | "kubernetes.io/ws" => Some(AppProtocol::Http1),
        "http2" | "grpc" | "kubernetes.io/h2c" => Some(AppProtocol::Http2),
        _ => None,
    }
}

fn accounts(object: &Object, problems: &mut Problems) -> Option<Vec<AccountName>> {
    let Some(list) = object.metadata().annotations.get(ACCOUNTS_ANNOTATION) else {
        // A service's name is an account's name: both are RFC 1123 labels. A name that is none has
        // its problem already.
        return Some(vec![object.metadata().name.as_str().parse().ok()?]);
    };
    let path = FieldPath::root()
        .field("metadata")
        .field("annotations")
        .field(ACCOUNTS_ANNOTATION);
    let mut accounts = Vec::new();
    for name in list.split(',').map(str::trim) {
        let account: AccountName = problems.name(&path, "a service account", name)?;
        if !accounts.contains(&account) {
            accounts.push(account);
        }
    }
    Some(accounts)
}
