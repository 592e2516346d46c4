//! TrafficPolicy.

use std::time::Duration;

use isthmus_model::{
    Algorithm, HashOn, HealthCheck, HealthProbe, Kind, LocalityOrder, Namespace, Resource, RetryOn,
    ServiceName, Target, TrafficPolicy, TrafficSettings,
};

use super::{bounded_duration, maybe_duration, percent, spec};
use crate::kinds::{
    AlgorithmName, HashOnSpec, HealthCheckSpec, LimitsSpec, OrderName, OutlierSpec, RetryOnName,
    RetrySpec, TargetKind, TargetRef, TimeoutSpec, TrafficPolicySpec,
};
use crate::problem::{Problems, quoted};
use crate::{FieldPath, Object, Problem};

/// More tries than this are a storm, not a policy.
const MOST_ATTEMPTS: u32 = 10;
/// Above zero: the least that a duration can be written as.
const LEAST: Duration = Duration::from_millis(1);
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

pub(super) fn policy(
    object: &Object,
    written: &TrafficPolicySpec,
    problems: &mut Problems,
) -> Option<Resource> {
    let namespace = object.metadata().namespace.clone()?;
    let load_balancing = written.load_balancing.as_ref();
    let targets = targets(&written.target_refs, &namespace, problems);
    let mut policy = TrafficPolicy {
        enforced: written.enforced.unwrap_or_default(),
        algorithm: load_balancing.and_then(|it| it.algorithm).map(algorithm),
        hash_on: load_balancing
            .and_then(|it| it.hash_on.as_ref())
            .and_then(|written| hash_on(written, problems)),
        locality_order: written.locality.as_ref().and_then(|it| it.order).map(order),
        ..TrafficPolicy::empty(namespace, object.metadata().name.clone(), targets)
    };
    if let Some(retry) = &written.retry {
        set_retry(&mut policy, retry, problems);
    }
    if let Some(timeout) = &written.timeout {
        set_timeout(&mut policy, timeout, problems);
    }
    if let Some(limits) = &written.limits {
        set_limits(&mut policy, limits, problems);
    }
    if let Some(outlier) = &written.outlier {
        set_outlier(&mut policy, outlier, problems);
    }
    if let Some(check) = &written.health_check {
        policy.health_check = health_check(check, problems);
    }
    Some(Resource::TrafficPolicy(policy))
}

fn targets(written: &[TargetRef], namespace: &Namespace, problems: &mut Problems) -> Vec<Target> {
    let path = spec().field("targetRefs");
    if written.is_empty() {
        problems.add(&path, "a policy needs a target");
    }
    let mut targets = Vec::new();
    for (index, one) in written.iter().enumerate() {
        let path = path.index(index);
        match target(one, namespace, &path, problems) {
            Some(target) if targets.contains(&target) => {
                problems.add(&path, "this target is named twice");
            }
            Some(target) => targets.push(target),
            None => {}
        }
    }
    targets
}

fn target(
    written: &TargetRef,
    own: &Namespace,
    path: &FieldPath,
    problems: &mut Problems,
) -> Option<Target> {
    let kind = match written.kind {
        TargetKind::Mesh => Kind::Mesh,
        TargetKind::Namespace => Kind::Namespace,
        TargetKind::Service => Kind::Service,
        TargetKind::HttpRoute => Kind::HttpRoute,
    };
    if let Some(group) = written
        .group
        .as_deref()
        .filter(|group| *group != kind.group())
    {
        let message = format!("kind {kind} is not in group {}", quoted(group));
        let hint = format!("write `group: \"{}\"`", kind.group());
        problems.add_hint(&path.field("group"), message, hint);
    }
    let namespace_path = path.field("namespace");
    if written.namespace.is_some() && !kind.namespaced() {
        let message = format!("kind {kind} lives in no namespace");
        let problem = Problem::new(namespace_path.clone(), message);
        problems.push(problem.of_key().hint("leave it out"));
        return None;
    }
    let namespace = match &written.namespace {
        Some(text) => problems.name(&namespace_path, "a namespace", text)?,
        None => own.clone(),
    };
    let (path, name) = (path.field("name"), written.name.as_str());
    Some(match written.kind {
        TargetKind::Mesh => {
            problems.name::<isthmus_model::MeshName>(&path, "a mesh name", name)?;
            Target::Mesh
        }
        TargetKind::Namespace => Target::Namespace(problems.name(&path, "a namespace", name)?),
        TargetKind::Service => Target::Service(ServiceName {
            namespace,
            name: problems.name(&path, "a service name", name)?,
        }),
        TargetKind::HttpRoute => Target::Route {
            namespace,
            name: problems.name(&path, "a name", name)?,
        },
    })
}

fn algorithm(name: AlgorithmName) -> Algorithm {
    match name {
        AlgorithmName::PeakEwma => Algorithm::PeakEwma,
        AlgorithmName::RoundRobin => Algorithm::RoundRobin,
        AlgorithmName::LeastRequest => Algorithm::LeastRequest,
        AlgorithmName::RingHash => Algorithm::RingHash,
        AlgorithmName::Maglev => Algorithm::Maglev,
    }
}

fn hash_on(written: &HashOnSpec, problems: &mut Problems) -> Option<HashOn> {
    let path = spec().field("loadBalancing").field("hashOn");
    let ttl_path = path.field("cookieTtl");
    let ttl = maybe_duration(written.cookie_ttl.as_ref(), &ttl_path, problems);
    if written.cookie.is_none() && written.cookie_ttl.is_some() {
        problems.add(&ttl_path, "only a `cookie` has one");
    }
    match (&written.header, &written.cookie, &written.source) {
        (Some(name), None, None) => {
            let lower = name.to_ascii_lowercase();
            let name = problems.name(&path.field("header"), "a header name", &lower);
            name.map(HashOn::Header)
        }
        (None, Some(name), None) => {
            let name = problems.name(&path.field("cookie"), "a cookie name", name);
            name.map(|name| HashOn::Cookie { name, ttl })
        }
        (None, None, Some(_)) => Some(HashOn::Source),
        _ => {
            problems.add_hint(
                &path,
                "a request is hashed on exactly one thing",
                "write `header: x-user`, `cookie: session` or `source: {}`",
            );
            None
        }
    }
}

fn order(name: OrderName) -> LocalityOrder {
    match name {
        OrderName::Nearest => LocalityOrder::Nearest,
        OrderName::LocalOnly => LocalityOrder::LocalOnly,
    }
}

fn retry_on(name: RetryOnName) -> RetryOn {
    match name {
        RetryOnName::ConnectFailure => RetryOn::ConnectFailure,
        RetryOnName::Refused => RetryOn::Refused,
        RetryOnName::Reset => RetryOn::Reset,
        RetryOnName::GatewayError => RetryOn::GatewayError,
        RetryOnName::Unavailable => RetryOn::Unavailable,
    }
}

fn set_retry(policy: &mut TrafficPolicy, retry: &RetrySpec, problems: &mut Problems) {
    let path = spec().field("retry");
    policy.retry_attempts = retry.attempts;
    policy.hedge = retry.hedge;
    if let Some(attempts) = retry.attempts.filter(|attempts| *attempts > MOST_ATTEMPTS) {
        let message = format!("{attempts} attempts are too many: {MOST_ATTEMPTS} is the most");
        problems.add(&path.field("attempts"), message);
    }
    policy.retry_budget = percent(retry.budget_percent, &path.field("budgetPercent"), problems);
    policy.retry_on = retry
        .on
        .as_ref()
        .map(|names| names.iter().copied().map(retry_on).collect());
    let on = policy.retry_on.as_deref().unwrap_or_default();
    for (index, reason) in on.iter().enumerate() {
        if on[..index].contains(reason) {
            problems.add(&path.field("on").index(index), "this reason is named twice");
        }
    }
}

fn set_timeout(policy: &mut TrafficPolicy, timeout: &TimeoutSpec, problems: &mut Problems) {
    let path = spec().field("timeout");
    let try_path = path.field("perTry");
    let whole = maybe_duration(timeout.request.as_ref(), &path.field("request"), problems);
    let one_try = maybe_duration(timeout.per_try.as_ref(), &try_path, problems);
    if let (Some(whole), Some(one_try)) = (whole, one_try)
        && !whole.is_zero()
        && one_try > whole
    {
        problems.add(
            &try_path,
            "one try may not take longer than the whole request",
        );
    }
    policy.request_timeout = whole;
    policy.per_try_timeout = one_try;
    policy.idle_timeout = maybe_duration(timeout.idle.as_ref(), &path.field("idle"), problems);
    policy.connect_timeout = bounded_duration(
        timeout.connect.as_ref(),
        LEAST,
        &path.field("connect"),
        problems,
    );
}

fn set_limits(policy: &mut TrafficPolicy, limits: &LimitsSpec, problems: &mut Problems) {
    let path = spec().field("limits");
    let mut limit = |written: Option<u32>, field: &str| {
        if written == Some(0) {
            let hint = "to keep callers out, write an AuthorizationPolicy";
            problems.add_hint(&path.field(field), "nothing would ever pass", hint);
        }
        written
    };
    policy.max_connections = limit(limits.connections, "connections");
    policy.max_pending = limit(limits.pending, "pending");
    policy.max_requests = limit(limits.requests, "requests");
}

fn set_outlier(policy: &mut TrafficPolicy, outlier: &OutlierSpec, problems: &mut Problems) {
    let path = spec().field("outlier");
    policy.consecutive_errors = outlier.consecutive_errors;
    policy.base_ejection = bounded_duration(
        outlier.base_ejection.as_ref(),
        LEAST,
        &path.field("baseEjection"),
        problems,
    );
    let percent_path = path.field("maxEjectedPercent");
    policy.max_ejected = percent(outlier.max_ejected_percent, &percent_path, problems);
    let panic_path = path.field("panicPercent");
    policy.panic = percent(outlier.panic_percent, &panic_path, problems);
}

fn health_check(check: &HealthCheckSpec, problems: &mut Problems) -> Option<HealthCheck> {
    let path = spec().field("healthCheck");
    let defaults = TrafficSettings::default().health_check;
    let interval_path = path.field("interval");
    let interval = bounded_duration(
        check.interval.as_ref(),
        LEAST_INTERVAL,
        &interval_path,
        problems,
    );
    let timeout = bounded_duration(
        check.timeout.as_ref(),
        LEAST,
        &path.field("timeout"),
        problems,
    );
    let probe = match (&check.http, &check.grpc, &check.tcp) {
        (Some(http), None, None) => {
            let valid = |c: char| c.is_ascii_graphic();
            if !http.path.starts_with('/') || !http.path.chars().all(valid) {
                let message = format!("{} is not a path", quoted(&http.path));
                let hint = "write one that begins with `/`, without blanks";
                problems.add_hint(&path.field("http").field("path"), message, hint);
            }
            HealthProbe::Http {
                path: http.path.clone(),
            }
        }
        (None, Some(grpc), None) => HealthProbe::Grpc {
            service: grpc.service.clone().unwrap_or_default(),
        },
        (None, None, Some(_)) => HealthProbe::Tcp,
        _ => {
            problems.add_hint(
                &path,
                "a health check is made in exactly one way",
                "write `http: {path: /healthz}`, `grpc: {}` or `tcp: {}`",
            );
            return None;
        }
    };
    Some(HealthCheck {
        probe,
        interval: interval.unwrap_or(defaults.interval),
        timeout: timeout.unwrap_or(defaults.timeout),
    })
}
