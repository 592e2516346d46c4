//! Traffic policies and what they are attached to.

use std::time::Duration;

use isthmus_model::{
    Algorithm, HashOn, HealthCheck, HealthProbe, LocalityOrder, Percent, RetryOn, Target,
    TrafficPolicy,
};

use crate::body::BodyError;
use crate::field::{Parsed, millis, optional, origin_out, parse, service_name, text};
use crate::proto;
use crate::proto::hash_on::Key;

impl From<&TrafficPolicy> for proto::TrafficPolicy {
    fn from(policy: &TrafficPolicy) -> Self {
        Self {
            cluster: origin_out(&policy.origin),
            enforced: policy.enforced,
            namespace: policy.namespace.to_string(),
            name: policy.name.to_string(),
            targets: policy.targets.iter().map(target_out).collect(),
            algorithm: policy.algorithm.map(|value| value.as_str().to_owned()),
            hash_on: policy.hash_on.as_ref().map(hash_on_out),
            locality_order: policy.locality_order.map(|value| value.as_str().to_owned()),
            retry_attempts: policy.retry_attempts,
            retry_budget_percent: policy.retry_budget.map(|percent| percent.value().into()),
            retry_on: policy.retry_on.as_ref().map(|on| proto::RetryOn {
                on: on.iter().map(|value| value.as_str().to_owned()).collect(),
            }),
            hedge: policy.hedge,
            request_timeout_ms: policy.request_timeout.map(millis),
            per_try_timeout_ms: policy.per_try_timeout.map(millis),
            connect_timeout_ms: policy.connect_timeout.map(millis),
            idle_timeout_ms: policy.idle_timeout.map(millis),
            max_connections: policy.max_connections,
            max_pending: policy.max_pending,
            max_requests: policy.max_requests,
            panic_percent: policy.panic.map(|percent| percent.value().into()),
            consecutive_errors: policy.consecutive_errors,
            base_ejection_ms: policy.base_ejection.map(millis),
            max_ejected_percent: policy.max_ejected.map(|percent| percent.value().into()),
            health_check: policy.health_check.as_ref().map(check_out),
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
            let value =
                |text: &String| value("policy.retry_on", &RetryOn::ALL, RetryOn::as_str, text);
            on.on.iter().map(value).collect::<Parsed<Vec<_>>>()
        };
        let algorithm =
            |text: &String| value("policy.algorithm", &Algorithm::ALL, Algorithm::as_str, text);
        let order = |text: &String| {
            value(
                "policy.locality_order",
                &LocalityOrder::ALL,
                LocalityOrder::as_str,
                text,
            )
        };
        Ok(Self {
            enforced: policy.enforced,
            namespace: parse("policy.namespace", &policy.namespace)?,
            name: parse("policy.name", &policy.name)?,
            targets: policy
                .targets
                .iter()
                .map(target_in)
                .collect::<Parsed<_>>()?,
            algorithm: policy.algorithm.as_ref().map(algorithm).transpose()?,
            hash_on: policy.hash_on.map(hash_on_in).transpose()?,
            locality_order: policy.locality_order.as_ref().map(order).transpose()?,
            retry_attempts: policy.retry_attempts,
            retry_budget: percent("policy.retry_budget_percent", policy.retry_budget_percent)?,
            retry_on: policy.retry_on.map(retry_on).transpose()?,
            hedge: policy.hedge,
            request_timeout: policy.request_timeout_ms.map(Duration::from_millis),
            per_try_timeout: policy.per_try_timeout_ms.map(Duration::from_millis),
            connect_timeout: policy.connect_timeout_ms.map(Duration::from_millis),
            idle_timeout: policy.idle_timeout_ms.map(Duration::from_millis),
            max_connections: policy.max_connections,
            max_pending: policy.max_pending,
            max_requests: policy.max_requests,
            panic: percent("policy.panic_percent", policy.panic_percent)?,
            consecutive_errors: policy.consecutive_errors,
            base_ejection: policy.base_ejection_ms.map(Duration::from_millis),
            max_ejected: percent("policy.max_ejected_percent", policy.max_ejected_percent)?,
            health_check: policy.health_check.map(check_in),
            origin: optional("policy.cluster", &policy.cluster)?.into(),
        })
    }
}

/// The word of a value on the wire is the same as in YAML.
fn value<T: Copy>(
    field: &'static str,
    all: &[T],
    word: fn(T) -> &'static str,
    text: &str,
) -> Parsed<T> {
    let found = all.iter().find(|known| word(**known) == text);
    found
        .copied()
        .ok_or_else(|| BodyError::field(field, format!("{text:?} is not a known value")))
}

fn hash_on_out(hash_on: &HashOn) -> proto::HashOn {
    let (key, ttl) = match hash_on {
        HashOn::Header(name) => (Key::Header(name.to_string()), None),
        HashOn::Cookie { name, ttl } => (Key::Cookie(name.to_string()), *ttl),
        HashOn::Source => (Key::Source(proto::hash_on::Source {}), None),
    };
    proto::HashOn {
        key: Some(key),
        cookie_ttl_ms: ttl.map(millis),
    }
}

fn hash_on_in(hash_on: proto::HashOn) -> Parsed<HashOn> {
    Ok(match hash_on.key {
        Some(Key::Header(name)) => HashOn::Header(parse("policy.hash_on.header", &name)?),
        Some(Key::Cookie(name)) => HashOn::Cookie {
            name: parse("policy.hash_on.cookie", &name)?,
            ttl: hash_on.cookie_ttl_ms.map(Duration::from_millis),
        },
        Some(Key::Source(_)) => HashOn::Source,
        None => return Err(BodyError::field("policy.hash_on", "names no key")),
    })
}

/// A proxy that does not know checks by gRPC connects, which is enough for the rest of them.
fn check_out(check: &HealthCheck) -> proto::HealthCheck {
    let (http_path, grpc_service) = match &check.probe {
        HealthProbe::Tcp => (String::new(), None),
        HealthProbe::Http { path } => (path.clone(), None),
        HealthProbe::Grpc { service } => (String::new(), Some(service.clone())),
    };
    proto::HealthCheck {
        http_path,
        interval_ms: millis(check.interval),
        timeout_ms: millis(check.timeout),
        grpc_service,
    }
}

fn check_in(check: proto::HealthCheck) -> HealthCheck {
    let probe = match (text(check.http_path), check.grpc_service) {
        (Some(path), _) => HealthProbe::Http { path },
        (None, Some(service)) => HealthProbe::Grpc { service },
        (None, None) => HealthProbe::Tcp,
    };
    HealthCheck {
        probe,
        interval: Duration::from_millis(check.interval_ms),
        timeout: Duration::from_millis(check.timeout_ms),
    }
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
