//! Field by field: protobuf to `model` and back.

use std::collections::BTreeMap;
use std::time::Duration;

use isthmus_model::{
    Algorithm, AppProtocol, Backend, Cluster, Gateway, Handle, HeaderMatch, Health, HealthCheck,
    HealthProbe, LabelKey, Labels, LocalityOrder, Mesh, Method, Namespace, PathMatch, Percent,
    RetryOn, Route, RouteMatch, RouteRule, Service, ServiceName, ServicePort, Share, SpiffeId,
    Subset, Target, TrafficPolicy, Workload,
};

use crate::body::{Body, BodyError, ClusterView};
use crate::proto;

type Parsed<T> = Result<T, BodyError>;

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
        }
    }
}

impl TryFrom<proto::body::Body> for Body {
    type Error = BodyError;

    fn try_from(body: proto::body::Body) -> Parsed<Self> {
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
        })
    }
}

// ---- Mesh and clusters

impl From<&Mesh> for proto::Mesh {
    fn from(mesh: &Mesh) -> Self {
        Self {
            name: mesh.name.to_string(),
            trust_domain: mesh.trust_domain.to_string(),
        }
    }
}

impl TryFrom<proto::Mesh> for Mesh {
    type Error = BodyError;

    fn try_from(mesh: proto::Mesh) -> Parsed<Self> {
        Ok(Self {
            name: parse("mesh.name", &mesh.name)?,
            trust_domain: parse("mesh.trust_domain", &mesh.trust_domain)?,
        })
    }
}

impl From<&ClusterView> for proto::Cluster {
    fn from(view: &ClusterView) -> Self {
        let cluster = &view.cluster;
        Self {
            name: cluster.name.to_string(),
            region: cluster.region.to_string(),
            zone: cluster.zone.clone().unwrap_or_default(),
            all_namespaces: cluster.namespaces.is_none(),
            namespaces: strings(cluster.namespaces.iter().flatten()),
            gateways: view.gateways.iter().map(Into::into).collect(),
            rtt_us: view.rtt.map_or(0, micros),
            age_ms: millis(view.age),
            control: cluster.control.to_string(),
            jurisdiction: cluster.jurisdiction.clone().unwrap_or_default(),
            latitude: cluster.coordinates.map(|(latitude, _)| latitude),
            longitude: cluster.coordinates.map(|(_, longitude)| longitude),
        }
    }
}

impl TryFrom<proto::Cluster> for ClusterView {
    type Error = BodyError;

    fn try_from(cluster: proto::Cluster) -> Parsed<Self> {
        let namespaces = parse_all::<Namespace>("cluster.namespaces", &cluster.namespaces)?;
        Ok(Self {
            cluster: Cluster {
                name: parse("cluster.name", &cluster.name)?,
                region: parse("cluster.region", &cluster.region)?,
                zone: text(cluster.zone),
                coordinates: cluster.latitude.zip(cluster.longitude),
                jurisdiction: text(cluster.jurisdiction),
                control: parse("cluster.control", &cluster.control)?,
                namespaces: (!cluster.all_namespaces).then_some(namespaces),
            },
            gateways: all(cluster.gateways)?,
            rtt: (cluster.rtt_us != 0).then(|| Duration::from_micros(cluster.rtt_us)),
            age: Duration::from_millis(cluster.age_ms),
        })
    }
}

impl From<&Gateway> for proto::Gateway {
    fn from(gateway: &Gateway) -> Self {
        Self {
            name: gateway.name.clone(),
            address: gateway.address.to_string(),
            healthy: gateway.healthy,
        }
    }
}

impl TryFrom<proto::Gateway> for Gateway {
    type Error = BodyError;

    fn try_from(gateway: proto::Gateway) -> Parsed<Self> {
        Ok(Self {
            name: gateway.name,
            address: parse("gateway.address", &gateway.address)?,
            healthy: gateway.healthy,
        })
    }
}

// ---- Services

impl From<&Service> for proto::Service {
    fn from(service: &Service) -> Self {
        Self {
            namespace: service.name.namespace.to_string(),
            name: service.name.name.to_string(),
            ports: service.ports.iter().map(Into::into).collect(),
            accounts: strings(&service.accounts),
            exported: service.exported,
        }
    }
}

impl TryFrom<proto::Service> for Service {
    type Error = BodyError;

    fn try_from(service: proto::Service) -> Parsed<Self> {
        if service.ports.is_empty() {
            return Err(BodyError::field(
                "service.ports",
                "a service has at least one port",
            ));
        }
        if service.accounts.is_empty() {
            return Err(BodyError::field(
                "service.accounts",
                "a service has at least one account",
            ));
        }
        Ok(Self {
            name: service_name("service", &service.namespace, &service.name)?,
            ports: all(service.ports)?,
            accounts: parse_all("service.accounts", &service.accounts)?,
            exported: service.exported,
        })
    }
}

impl From<&ServicePort> for proto::Port {
    fn from(port: &ServicePort) -> Self {
        Self {
            name: port
                .name
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            port: port.port.into(),
            target_port: port.target_port.into(),
            protocol: match port.protocol {
                AppProtocol::Http1 => proto::Protocol::Http1,
                AppProtocol::Tcp => proto::Protocol::Tcp,
            }
            .into(),
        }
    }
}

impl TryFrom<proto::Port> for ServicePort {
    type Error = BodyError;

    fn try_from(port: proto::Port) -> Parsed<Self> {
        Ok(Self {
            protocol: match port.protocol() {
                proto::Protocol::Http1 => AppProtocol::Http1,
                proto::Protocol::Tcp => AppProtocol::Tcp,
                proto::Protocol::Unspecified => {
                    return Err(BodyError::field("port.protocol", "not a known protocol"));
                }
            },
            name: optional("port.name", &port.name)?,
            port: port_number("port.port", port.port)?,
            target_port: port_number("port.target_port", port.target_port)?,
        })
    }
}

// ---- Routes

impl From<&Route> for proto::Route {
    fn from(route: &Route) -> Self {
        let parent = |(service, port): &(ServiceName, Option<u16>)| proto::Parent {
            namespace: service.namespace.to_string(),
            service: service.name.to_string(),
            port: port.map_or(0, u32::from),
        };
        Self {
            namespace: route.namespace.to_string(),
            name: route.name.to_string(),
            parents: route.parents.iter().map(parent).collect(),
            rules: route.rules.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<proto::Route> for Route {
    type Error = BodyError;

    fn try_from(route: proto::Route) -> Parsed<Self> {
        let parent = |parent: proto::Parent| {
            let service = service_name("route.parents", &parent.namespace, &parent.service)?;
            Ok((service, optional_port("route.parents.port", parent.port)?))
        };
        Ok(Self {
            namespace: parse("route.namespace", &route.namespace)?,
            name: parse("route.name", &route.name)?,
            parents: route
                .parents
                .into_iter()
                .map(parent)
                .collect::<Parsed<_>>()?,
            rules: all(route.rules)?,
        })
    }
}

impl From<&RouteRule> for proto::Rule {
    fn from(rule: &RouteRule) -> Self {
        Self {
            name: rule.name.clone().unwrap_or_default(),
            matches: rule.matches.iter().map(Into::into).collect(),
            backends: rule.backends.iter().map(Into::into).collect(),
            request_timeout_ms: rule.request_timeout.map(millis),
            backend_timeout_ms: rule.backend_timeout.map(millis),
        }
    }
}

impl TryFrom<proto::Rule> for RouteRule {
    type Error = BodyError;

    fn try_from(rule: proto::Rule) -> Parsed<Self> {
        if rule.matches.is_empty() {
            return Err(BodyError::field(
                "rule.matches",
                "a rule has at least one match",
            ));
        }
        Ok(Self {
            name: text(rule.name),
            matches: all(rule.matches)?,
            backends: all(rule.backends)?,
            request_timeout: rule.request_timeout_ms.map(Duration::from_millis),
            backend_timeout: rule.backend_timeout_ms.map(Duration::from_millis),
        })
    }
}

impl From<&RouteMatch> for proto::Match {
    fn from(found: &RouteMatch) -> Self {
        let header = |header: &HeaderMatch| proto::HeaderMatch {
            name: header.name.to_string(),
            value: header.value.clone(),
        };
        Self {
            path: Some(match &found.path {
                PathMatch::Exact(path) => proto::r#match::Path::Exact(path.clone()),
                PathMatch::Prefix(path) => proto::r#match::Path::Prefix(path.clone()),
            }),
            method: found.method.as_ref().map(|method| method.0.to_string()),
            headers: found.headers.iter().map(header).collect(),
        }
    }
}

impl TryFrom<proto::Match> for RouteMatch {
    type Error = BodyError;

    fn try_from(found: proto::Match) -> Parsed<Self> {
        let header = |header: proto::HeaderMatch| {
            Ok(HeaderMatch {
                name: parse("match.headers", &header.name)?,
                value: header.value,
            })
        };
        Ok(Self {
            path: match found.path {
                Some(proto::r#match::Path::Exact(path)) => PathMatch::Exact(path),
                Some(proto::r#match::Path::Prefix(path)) => PathMatch::Prefix(path),
                None => return Err(BodyError::field("match.path", "not a known kind of match")),
            },
            method: found.method.map(|method| Method(method.into())),
            headers: found
                .headers
                .into_iter()
                .map(header)
                .collect::<Parsed<_>>()?,
        })
    }
}

impl From<&Backend> for proto::Backend {
    fn from(backend: &Backend) -> Self {
        Self {
            namespace: backend.service.namespace.to_string(),
            service: backend.service.name.to_string(),
            port: backend.port.map_or(0, u32::from),
            subset: labels_out(&backend.subset.0),
            weight: backend.weight,
        }
    }
}

impl TryFrom<proto::Backend> for Backend {
    type Error = BodyError;

    fn try_from(backend: proto::Backend) -> Parsed<Self> {
        Ok(Self {
            service: service_name("backend", &backend.namespace, &backend.service)?,
            port: optional_port("backend.port", backend.port)?,
            subset: Subset(labels_in("backend.subset", backend.subset)?),
            weight: backend.weight,
        })
    }
}

// ---- Policies

impl From<&TrafficPolicy> for proto::TrafficPolicy {
    fn from(policy: &TrafficPolicy) -> Self {
        Self {
            namespace: policy.namespace.to_string(),
            name: policy.name.to_string(),
            targets: policy.targets.iter().map(target_out).collect(),
            algorithm: policy.algorithm.map(|value| word(&ALGORITHMS, value)),
            locality_order: policy
                .locality_order
                .map(|value| word(&LOCALITY_ORDERS, value)),
            retry_attempts: policy.retry_attempts,
            retry_budget_percent: policy.retry_budget.map(|percent| percent.value().into()),
            retry_on: policy.retry_on.as_ref().map(|on| proto::RetryOn {
                on: on.iter().map(|&value| word(&RETRY_ONS, value)).collect(),
            }),
            request_timeout_ms: policy.request_timeout.map(millis),
            per_try_timeout_ms: policy.per_try_timeout.map(millis),
            connect_timeout_ms: policy.connect_timeout.map(millis),
            consecutive_errors: policy.consecutive_errors,
            base_ejection_ms: policy.base_ejection.map(millis),
            max_ejected_percent: policy.max_ejected.map(|percent| percent.value().into()),
            health_check: policy
                .health_check
                .as_ref()
                .map(|check| proto::HealthCheck {
                    http_path: match &check.probe {
                        HealthProbe::Tcp => String::new(),
                        HealthProbe::Http { path } => path.clone(),
                    },
                    interval_ms: millis(check.interval),
                    timeout_ms: millis(check.timeout),
                }),
        }
    }
}

impl TryFrom<proto::TrafficPolicy> for TrafficPolicy {
    type Error = BodyError;

    fn try_from(policy: proto::TrafficPolicy) -> Parsed<Self> {
        let percent = |field, value: Option<u32>| {
            let percent = |value: u32| Percent::new(value.into());
            value
                .map(percent)
                .transpose()
                .map_err(|error| BodyError::field(field, error))
        };
        let retry_on = |on: proto::RetryOn| {
            let value = |text: &String| value("policy.retry_on", &RETRY_ONS, text);
            on.on.iter().map(value).collect::<Parsed<Vec<_>>>()
        };
        let algorithm = |text: &String| value("policy.algorithm", &ALGORITHMS, text);
        let order = |text: &String| value("policy.locality_order", &LOCALITY_ORDERS, text);
        Ok(Self {
            namespace: parse("policy.namespace", &policy.namespace)?,
            name: parse("policy.name", &policy.name)?,
            targets: policy
                .targets
                .iter()
                .map(target_in)
                .collect::<Parsed<_>>()?,
            algorithm: policy.algorithm.as_ref().map(algorithm).transpose()?,
            locality_order: policy.locality_order.as_ref().map(order).transpose()?,
            retry_attempts: policy.retry_attempts,
            retry_budget: percent("policy.retry_budget_percent", policy.retry_budget_percent)?,
            retry_on: policy.retry_on.map(retry_on).transpose()?,
            request_timeout: policy.request_timeout_ms.map(Duration::from_millis),
            per_try_timeout: policy.per_try_timeout_ms.map(Duration::from_millis),
            connect_timeout: policy.connect_timeout_ms.map(Duration::from_millis),
            consecutive_errors: policy.consecutive_errors,
            base_ejection: policy.base_ejection_ms.map(Duration::from_millis),
            max_ejected: percent("policy.max_ejected_percent", policy.max_ejected_percent)?,
            health_check: policy.health_check.map(|check| HealthCheck {
                probe: text(check.http_path)
                    .map_or(HealthProbe::Tcp, |path| HealthProbe::Http { path }),
                interval: Duration::from_millis(check.interval_ms),
                timeout: Duration::from_millis(check.timeout_ms),
            }),
        })
    }
}

/// The word of a value on the wire, the same as in YAML.
type Words<T, const N: usize> = [(&'static str, T); N];

const ALGORITHMS: Words<Algorithm, 3> = [
    ("PeakEWMA", Algorithm::PeakEwma),
    ("RoundRobin", Algorithm::RoundRobin),
    ("LeastRequest", Algorithm::LeastRequest),
];

const LOCALITY_ORDERS: Words<LocalityOrder, 2> = [
    ("Nearest", LocalityOrder::Nearest),
    ("LocalOnly", LocalityOrder::LocalOnly),
];

const RETRY_ONS: Words<RetryOn, 4> = [
    ("ConnectFailure", RetryOn::ConnectFailure),
    ("Refused", RetryOn::Refused),
    ("Reset", RetryOn::Reset),
    ("GatewayError", RetryOn::GatewayError),
];

fn word<T: Copy + PartialEq, const N: usize>(words: &Words<T, N>, value: T) -> String {
    let found = words.iter().find(|(_, known)| *known == value);
    found.map_or_else(String::new, |(word, _)| (*word).to_owned())
}

fn value<T: Copy, const N: usize>(
    field: &'static str,
    words: &Words<T, N>,
    text: &str,
) -> Parsed<T> {
    let found = words.iter().find(|(word, _)| *word == text);
    found
        .map(|(_, value)| *value)
        .ok_or_else(|| BodyError::field(field, format!("{text:?} is not a known value")))
}

fn target_out(target: &Target) -> proto::Target {
    let (kind, namespace, name) = match target {
        Target::Mesh => ("mesh", String::new(), String::new()),
        Target::Namespace(namespace) => ("namespace", namespace.to_string(), String::new()),
        Target::Service(service) => (
            "service",
            service.namespace.to_string(),
            service.name.to_string(),
        ),
        Target::Route { namespace, name } => ("route", namespace.to_string(), name.to_string()),
    };
    proto::Target {
        kind: kind.to_owned(),
        namespace,
        name,
    }
}

fn target_in(target: &proto::Target) -> Parsed<Target> {
    let namespace = || parse("target.namespace", &target.namespace);
    Ok(match target.kind.as_str() {
        "mesh" => Target::Mesh,
        "namespace" => Target::Namespace(namespace()?),
        "service" => Target::Service(service_name("target", &target.namespace, &target.name)?),
        "route" => Target::Route {
            namespace: namespace()?,
            name: parse("target.name", &target.name)?,
        },
        other => {
            return Err(BodyError::field(
                "target.kind",
                format!("{other:?} is not known"),
            ));
        }
    })
}

// ---- Facts

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

// ---- Small parts

/// Checked labels of a report or a body.
///
/// Errors: a key that is not a label key; names `field`.
pub(crate) fn labels_in(field: &'static str, labels: BTreeMap<String, String>) -> Parsed<Labels> {
    let label = |(key, value): (String, String)| {
        Ok((parse::<LabelKey>(field, &key)?, value.as_str().into()))
    };
    labels.into_iter().map(label).collect()
}

fn labels_out(labels: &Labels) -> BTreeMap<String, String> {
    labels
        .iter()
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect()
}

pub(crate) fn parse<T>(field: &'static str, text: &str) -> Parsed<T>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text.parse()
        .map_err(|error| BodyError::field(field, format!("{text:?}: {error}")))
}

fn optional<T>(field: &'static str, text: &str) -> Parsed<Option<T>>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    (!text.is_empty()).then(|| parse(field, text)).transpose()
}

fn parse_all<T>(field: &'static str, texts: &[String]) -> Parsed<Vec<T>>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    texts.iter().map(|text| parse(field, text)).collect()
}

fn all<W, T: TryFrom<W, Error = BodyError>>(wire: Vec<W>) -> Parsed<Vec<T>> {
    wire.into_iter().map(T::try_from).collect()
}

pub(crate) fn service_name(
    field: &'static str,
    namespace: &str,
    name: &str,
) -> Parsed<ServiceName> {
    ServiceName::new(namespace, name)
        .map_err(|error| BodyError::field(field, format!("{namespace:?}/{name:?}: {error}")))
}

fn port_number(field: &'static str, number: u32) -> Parsed<u16> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(BodyError::field(
            field,
            format!("{number} is not a port number"),
        )),
    }
}

fn optional_port(field: &'static str, number: u32) -> Parsed<Option<u16>> {
    if number == 0 {
        Ok(None)
    } else {
        port_number(field, number).map(Some)
    }
}

pub(crate) fn text(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn strings<'a, T: ToString + 'a>(values: impl IntoIterator<Item = &'a T>) -> Vec<String> {
    values.into_iter().map(ToString::to_string).collect()
}

/// Saturates after half a million years.
fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros().try_into().unwrap_or(u64::MAX)
}
