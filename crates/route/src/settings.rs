//! Which settings hold for a service or a route, and which policy gave each.
//!
//! Field by field, the first of these that sets it decides:
//!
//! 1. `enforced` policies: those of the mesh before those of the own cluster, and of each the wider
//!    target before the narrower one (mesh, namespace, service, route);
//! 2. all others: the narrower target before the wider one, and of one width those of the own cluster
//!    before those of the mesh;
//! 3. the built-in defaults.
//!
//! Where that leaves two, the first by (namespace, name) does. A rule of a route may replace timeouts
//! that are not enforced.

use std::fmt;
use std::time::Duration;

use isthmus_model::{
    Algorithm, HashOn, HealthCheck, HealthProbe, LimitSettings, LocalityOrder, Namespace,
    ObjectName, Origin, OutlierSettings, Percent, RetryOn, RetrySettings, ServiceName, Target,
    TimeoutSettings, TrafficPolicy, TrafficSettings,
};

use crate::RouteId;

/// One field of the merged settings and where its value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// As written in a TrafficPolicy's spec: `retry.attempts`.
    pub field: &'static str,
    pub value: Value,
    /// `None`: it is the default.
    pub source: Option<Source>,
}

/// The policy that set a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub origin: Origin,
    pub namespace: Namespace,
    pub name: ObjectName,
    /// Through which it reached.
    pub target: Target,
    pub enforced: bool,
}

/// The value of a setting; whoever shows it spells it as the manifest does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Algorithm(Algorithm),
    HashOn(HashOn),
    LocalityOrder(LocalityOrder),
    Flag(bool),
    Count(u32),
    /// `None`: no limit.
    Limit(Option<u32>),
    Percent(Percent),
    RetryOn(Vec<RetryOn>),
    Time(Duration),
    HealthCheck(HealthCheck),
}

/// The settings for requests to `service` that matched `route`.
pub fn resolve(
    policies: &[&TrafficPolicy],
    service: &ServiceName,
    route: Option<&RouteId>,
) -> TrafficSettings {
    merge(policies, service, route, |_, _, _| {})
}

/// [`resolve`], and for every field who decided it, in the order of the reference.
pub fn explain(
    policies: &[&TrafficPolicy],
    service: &ServiceName,
    route: Option<&RouteId>,
) -> (TrafficSettings, Vec<Setting>) {
    let mut given = Vec::new();
    let settings = merge(policies, service, route, |field, value, reaching| {
        given.push(Setting {
            field,
            value,
            source: reaching.map(|Reaching { policy, target }| Source {
                origin: policy.origin.clone(),
                namespace: policy.namespace.clone(),
                name: policy.name.clone(),
                target: target.clone(),
                enforced: policy.enforced,
            }),
        });
    });
    (settings, given)
}

/// What `policy` sets, and an enforced one sets otherwise wherever it reaches and with more weight: the field, and
/// that one. In the order of the reference.
pub fn overruled<'p>(
    policy: &TrafficPolicy,
    all: &[&'p TrafficPolicy],
) -> Vec<(&'static str, &'p TrafficPolicy)> {
    let overrules = |other: &&&'p TrafficPolicy| {
        let covers = |target: &Target| {
            let wider = other.targets.iter().find(|wider| covers(wider, target));
            wider.is_some_and(|wider| {
                let theirs = Reaching {
                    policy: other,
                    target: wider,
                };
                rank(&theirs) < rank(&Reaching { policy, target })
            })
        };
        other.enforced && policy.targets.iter().all(covers)
    };
    let mut stronger: Vec<_> = all.iter().filter(overrules).copied().collect();
    if stronger.is_empty() {
        return Vec::new();
    }
    stronger.sort_by_key(|other| (other.origin != Origin::Mesh, &other.namespace, &other.name));
    let stronger: Vec<_> = stronger
        .into_iter()
        .map(|other| (other, fields(other)))
        .collect();
    let by = |(field, value): (&'static str, Value)| {
        let set = |(other, sets): &(&'p TrafficPolicy, Vec<(&str, Value)>)| {
            let theirs = sets.iter().find(|(theirs, _)| *theirs == field)?;
            Some((*other, theirs.1 != value))
        };
        let (other, differs) = stronger.iter().find_map(set)?;
        differs.then_some((field, other))
    };
    fields(policy).into_iter().filter_map(by).collect()
}

/// Is `target` a part of what `wider` names?
fn covers(wider: &Target, target: &Target) -> bool {
    match (wider, target) {
        (Target::Mesh, _) => true,
        (Target::Namespace(namespace), Target::Service(service)) => *namespace == service.namespace,
        (wider, target) => wider == target,
    }
}

/// The fields that a policy sets, with their values.
fn fields(policy: &TrafficPolicy) -> Vec<(&'static str, Value)> {
    let everywhere = TrafficPolicy {
        targets: vec![Target::Mesh],
        ..policy.clone()
    };
    let mut set = Vec::new();
    let decided = |field, value, reaching: Option<Reaching<'_>>| {
        set.extend(reaching.map(|_| (field, value)));
    };
    merge_in(
        &[Reaching {
            policy: &everywhere,
            target: &Target::Mesh,
        }],
        decided,
    );
    set
}

/// A policy, and of its targets that hold here the one that weighs most.
#[derive(Clone, Copy)]
struct Reaching<'p> {
    policy: &'p TrafficPolicy,
    target: &'p Target,
}

/// Merges, and tells `decided` every field, its value and the policy it comes from.
fn merge(
    policies: &[&TrafficPolicy],
    service: &ServiceName,
    route: Option<&RouteId>,
    decided: impl FnMut(&'static str, Value, Option<Reaching<'_>>),
) -> TrafficSettings {
    merge_in(&in_order(policies, service, route), decided)
}

/// `order`: those that reach, the weightiest first.
fn merge_in(
    order: &[Reaching<'_>],
    decided: impl FnMut(&'static str, Value, Option<Reaching<'_>>),
) -> TrafficSettings {
    let default = TrafficSettings::default();
    let mut merge = Merge { order, decided };
    TrafficSettings {
        algorithm: merge.take(
            "loadBalancing.algorithm",
            |p| p.algorithm,
            default.algorithm,
        ),
        hash_on: merge.take(
            "loadBalancing.hashOn",
            |p| p.hash_on.clone(),
            default.hash_on,
        ),
        locality_order: merge.take(
            "locality.order",
            |p| p.locality_order,
            default.locality_order,
        ),
        retry: RetrySettings {
            attempts: merge.take(
                "retry.attempts",
                |p| p.retry_attempts,
                default.retry.attempts,
            ),
            budget: merge.take(
                "retry.budgetPercent",
                |p| p.retry_budget,
                default.retry.budget,
            ),
            on: merge.take("retry.on", |p| p.retry_on.clone(), default.retry.on),
            hedge: merge.take("retry.hedge", |p| p.hedge, default.retry.hedge),
        },
        timeout: TimeoutSettings {
            request_is_enforced: merge.enforces(|p| p.request_timeout.is_some()),
            request: merge.take(
                "timeout.request",
                |p| p.request_timeout,
                default.timeout.request,
            ),
            per_try_is_enforced: merge.enforces(|p| p.per_try_timeout.is_some()),
            per_try: merge.take(
                "timeout.perTry",
                |p| p.per_try_timeout,
                default.timeout.per_try,
            ),
            connect: merge.take(
                "timeout.connect",
                |p| p.connect_timeout,
                default.timeout.connect,
            ),
            idle: merge.take("timeout.idle", |p| p.idle_timeout, default.timeout.idle),
        },
        limits: LimitSettings {
            connections: merge.take(
                "limits.connections",
                |p| p.max_connections.map(Some),
                default.limits.connections,
            ),
            pending: merge.take(
                "limits.pending",
                |p| p.max_pending.map(Some),
                default.limits.pending,
            ),
            requests: merge.take(
                "limits.requests",
                |p| p.max_requests.map(Some),
                default.limits.requests,
            ),
        },
        outlier: OutlierSettings {
            consecutive_errors: merge.take(
                "outlier.consecutiveErrors",
                |p| p.consecutive_errors,
                default.outlier.consecutive_errors,
            ),
            base_ejection: merge.take(
                "outlier.baseEjection",
                |p| p.base_ejection,
                default.outlier.base_ejection,
            ),
            max_ejected: merge.take(
                "outlier.maxEjectedPercent",
                |p| p.max_ejected,
                default.outlier.max_ejected,
            ),
            panic: merge.take("outlier.panicPercent", |p| p.panic, default.outlier.panic),
        },
        health_check: merge.take(
            "healthCheck",
            |p| p.health_check.clone(),
            default.health_check,
        ),
    }
}

struct Merge<'p, F> {
    /// Those that reach, the weightiest first.
    order: &'p [Reaching<'p>],
    decided: F,
}

impl<F: FnMut(&'static str, Value, Option<Reaching<'_>>)> Merge<'_, F> {
    fn enforces(&self, sets: impl Fn(&TrafficPolicy) -> bool) -> bool {
        let first = self.order.iter().find(|reaching| sets(reaching.policy));
        first.is_some_and(|reaching| reaching.policy.enforced)
    }

    fn take<T: Clone + Into<Value>>(
        &mut self,
        field: &'static str,
        read: impl Fn(&TrafficPolicy) -> Option<T>,
        default: T,
    ) -> T {
        let first = self.order.iter().find_map(|&reaching| {
            let value = read(reaching.policy)?;
            Some((value, reaching))
        });
        match first {
            Some((value, reaching)) => {
                (self.decided)(field, value.clone().into(), Some(reaching));
                value
            }
            None => {
                (self.decided)(field, default.clone().into(), None);
                default
            }
        }
    }
}

fn in_order<'p>(
    policies: &[&'p TrafficPolicy],
    service: &ServiceName,
    route: Option<&RouteId>,
) -> Vec<Reaching<'p>> {
    let holds = |target: &&Target| match target {
        Target::Mesh => true,
        Target::Namespace(namespace) => *namespace == service.namespace,
        Target::Service(name) => name == service,
        Target::Route { namespace, name } => {
            route.is_some_and(|route| route.namespace == *namespace && route.name == *name)
        }
    };
    let mut order: Vec<Reaching<'p>> = policies
        .iter()
        .filter_map(|&policy| {
            let targets = policy.targets.iter().filter(holds);
            let target = if policy.enforced {
                targets.min_by_key(|target| narrowness(target))
            } else {
                targets.max_by_key(|target| narrowness(target))
            };
            target.map(|target| Reaching { policy, target })
        })
        .collect();
    order.sort_by(|a, b| rank(a).cmp(&rank(b)));
    order
}

/// The smaller one decides.
fn rank<'r>(reaching: &Reaching<'r>) -> ((bool, u8, u8), &'r Namespace, &'r ObjectName) {
    let policy = reaching.policy;
    (weight(reaching), &policy.namespace, &policy.name)
}

/// Smaller weighs more.
fn weight(Reaching { policy, target }: &Reaching<'_>) -> (bool, u8, u8) {
    let of_mesh = u8::from(policy.origin == Origin::Mesh);
    let narrowness = narrowness(target);
    if policy.enforced {
        (false, 1 - of_mesh, narrowness)
    } else {
        (true, u8::MAX - narrowness, of_mesh)
    }
}

fn narrowness(target: &Target) -> u8 {
    match target {
        Target::Mesh => 0,
        Target::Namespace(_) => 1,
        Target::Service(_) => 2,
        Target::Route { .. } => 3,
    }
}

impl fmt::Display for Value {
    /// As in a TrafficPolicy; `none` where there is no limit.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Algorithm(algorithm) => f.write_str(algorithm.as_str()),
            Self::HashOn(HashOn::Header(name)) => write!(f, "header {name}"),
            Self::HashOn(HashOn::Cookie { name, ttl: None }) => write!(f, "cookie {name}"),
            Self::HashOn(HashOn::Cookie {
                name,
                ttl: Some(ttl),
            }) => write!(f, "cookie {name} for {ttl:?}"),
            Self::HashOn(HashOn::Source) => f.write_str("source"),
            Self::LocalityOrder(order) => f.write_str(order.as_str()),
            Self::Flag(flag) => flag.fmt(f),
            Self::Count(count) => count.fmt(f),
            Self::Limit(None) => f.write_str("none"),
            Self::Limit(Some(limit)) => limit.fmt(f),
            Self::Percent(percent) => percent.value().fmt(f),
            Self::RetryOn(on) => {
                let on: Vec<_> = on.iter().map(|on| on.as_str()).collect();
                f.write_str(&on.join(", "))
            }
            Self::Time(time) => write!(f, "{time:?}"),
            Self::HealthCheck(HealthCheck {
                probe, interval, ..
            }) => match probe {
                HealthProbe::Tcp => write!(f, "tcp every {interval:?}"),
                HealthProbe::Http { path } => write!(f, "http {path} every {interval:?}"),
                HealthProbe::Grpc { service } => write!(f, "grpc {service} every {interval:?}"),
            },
        }
    }
}

impl From<Algorithm> for Value {
    fn from(value: Algorithm) -> Self {
        Self::Algorithm(value)
    }
}

impl From<HashOn> for Value {
    fn from(value: HashOn) -> Self {
        Self::HashOn(value)
    }
}

impl From<LocalityOrder> for Value {
    fn from(value: LocalityOrder) -> Self {
        Self::LocalityOrder(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Flag(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Count(value)
    }
}

impl From<Option<u32>> for Value {
    fn from(value: Option<u32>) -> Self {
        Self::Limit(value)
    }
}

impl From<Percent> for Value {
    fn from(value: Percent) -> Self {
        Self::Percent(value)
    }
}

impl From<Duration> for Value {
    fn from(value: Duration) -> Self {
        Self::Time(value)
    }
}

impl From<Vec<RetryOn>> for Value {
    fn from(value: Vec<RetryOn>) -> Self {
        Self::RetryOn(value)
    }
}

impl From<HealthCheck> for Value {
    fn from(value: HealthCheck) -> Self {
        Self::HealthCheck(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: &str, targets: &[Target]) -> TrafficPolicy {
        let (namespace, name) = name.split_once('/').unwrap();
        TrafficPolicy::empty(
            Namespace::new(namespace).unwrap(),
            ObjectName::new(name).unwrap(),
            targets.to_vec(),
        )
    }

    /// `mesh`, `ns/shop`, `svc/shop/cart`, `route/shop/r`.
    fn target(text: &str) -> Target {
        let parts: Vec<&str> = text.split('/').collect();
        match parts[..] {
            ["mesh"] => Target::Mesh,
            ["ns", namespace] => Target::Namespace(Namespace::new(namespace).unwrap()),
            ["svc", namespace, name] => Target::Service(ServiceName::new(namespace, name).unwrap()),
            ["route", namespace, name] => Target::Route {
                namespace: Namespace::new(namespace).unwrap(),
                name: ObjectName::new(name).unwrap(),
            },
            _ => unreachable!("no target: {text}"),
        }
    }

    fn route_id() -> RouteId {
        RouteId {
            origin: Origin::Mesh,
            namespace: Namespace::new("shop").unwrap(),
            name: ObjectName::new("r").unwrap(),
        }
    }

    /// Each policy is `name target…`, with `@` behind the name if it is of the own cluster and `!` if it is enforced;
    /// which of them gives `retry.attempts`?
    fn winner(policies: &[&str], route: Option<&RouteId>) -> String {
        let policies: Vec<TrafficPolicy> = (1u32..)
            .zip(policies)
            .map(|(index, text)| {
                let mut words = text.split(' ');
                let name = words.next().unwrap();
                let targets: Vec<Target> = words.map(target).collect();
                let mut policy = policy(name.trim_end_matches(['@', '!']), &targets);
                policy.retry_attempts = Some(index);
                policy.enforced = name.ends_with('!');
                if name.contains('@') {
                    policy.origin = Origin::Cluster("us-west".parse().unwrap());
                }
                policy
            })
            .collect();
        let policies: Vec<&TrafficPolicy> = policies.iter().collect();
        let cart = ServiceName::new("shop", "cart").unwrap();
        let (settings, given) = explain(&policies, &cart, route);
        assert_eq!(settings, resolve(&policies, &cart, route));
        let attempts = given.iter().find(|s| s.field == "retry.attempts").unwrap();
        assert_eq!(attempts.value, Value::Count(settings.retry.attempts));
        match &attempts.source {
            Some(Source {
                namespace, name, ..
            }) => format!("{namespace}/{name}"),
            None => "default".to_owned(),
        }
    }

    #[test]
    fn the_narrower_target_wins_then_the_first_name() {
        let route = Some(route_id());
        for (policies, expect) in [
            (&[][..], "default"),
            (
                &["a/x ns/other", "a/y svc/shop/other", "a/z route/shop/q"],
                "default",
            ),
            (&["a/x mesh"], "a/x"),
            (&["a/x mesh", "z/y ns/shop"], "z/y"),
            (&["a/x ns/shop", "z/y svc/shop/cart"], "z/y"),
            (&["a/x svc/shop/cart", "z/y route/shop/r"], "z/y"),
            (&["b/x mesh", "a/z mesh", "a/y mesh"], "a/y"),
            // A policy with several targets reaches through its narrowest one.
            (&["a/x ns/shop", "z/y mesh svc/shop/cart"], "z/y"),
            (&["a/x ns/shop", "z/y mesh svc/shop/other"], "a/x"),
        ] {
            assert_eq!(winner(policies, route.as_ref()), expect, "{policies:?}");
        }
        // Without the route, its policy does not hold.
        assert_eq!(winner(&["a/x mesh", "z/y route/shop/r"], None), "a/x");
    }

    #[test]
    fn the_own_cluster_s_wins_of_one_width_and_what_is_enforced_always() {
        for (policies, expect) in [
            (&["a/x mesh", "z/y@ mesh"][..], "z/y"),
            (&["a/x svc/shop/cart", "z/y@ ns/shop"], "a/x"),
            (&["a/x svc/shop/cart", "z/y! mesh"], "z/y"),
            (&["a/x! svc/shop/cart", "z/y! mesh"], "z/y"),
            (&["z/x! mesh", "a/y! mesh"], "a/y"),
            // The mesh's word stands above the cluster's, however narrow it is.
            (&["a/x@! mesh", "z/y! svc/shop/cart"], "z/y"),
            (&["a/x@! mesh", "z/y svc/shop/cart"], "a/x"),
            // It reaches through the widest that holds.
            (&["z/x! mesh svc/shop/cart", "a/y! ns/shop"], "z/x"),
            (&["z/x! ns/other svc/shop/cart", "a/y! ns/shop"], "a/y"),
        ] {
            assert_eq!(winner(policies, None), expect, "{policies:?}");
        }
    }

    #[test]
    fn a_policy_is_overruled_by_what_is_enforced_wherever_it_reaches() {
        let policy = |text: &str| {
            let mut words = text.split(' ');
            let name = words.next().unwrap();
            let targets: Vec<Target> = words.map(target).collect();
            let mut policy = policy(name.trim_end_matches(['@', '!']), &targets);
            policy.retry_attempts = Some(1);
            policy.enforced = name.ends_with('!');
            policy.origin = Origin::from(name.contains('@').then(|| "us-west".parse().unwrap()));
            policy
        };
        for (ours, other, expect) in [
            ("a/x svc/shop/cart", "z/y! mesh", true),
            ("a/x svc/shop/cart", "z/y! ns/shop", true),
            ("a/x svc/shop/cart", "z/y mesh", false),
            ("a/x svc/shop/cart", "z/y! ns/other", false),
            ("a/x svc/shop/cart mesh", "z/y! ns/shop", false),
            ("a/x@! mesh", "z/y! mesh", true),
            ("a/x@! mesh", "z/y! svc/shop/cart", false),
            ("a/x! svc/shop/cart", "z/y! ns/shop", true),
            ("a/x! ns/shop", "z/y! svc/shop/cart", false),
            ("a/x! mesh", "z/y@! mesh", false),
            // Of one weight the first by name decides.
            ("z/x! mesh", "a/y! mesh", true),
            ("a/x! mesh", "z/y! mesh", false),
        ] {
            let (ours, mut other) = (policy(ours), policy(other));
            assert_eq!(overruled(&ours, &[&other]), [], "it sets the same");
            other.retry_attempts = Some(2);
            let mut nothing = other.clone();
            nothing.retry_attempts = None;
            let found = overruled(&ours, &[&ours, &nothing, &other]);
            let expect: &[_] = if expect {
                &[("retry.attempts", &other)]
            } else {
                &[]
            };
            assert_eq!(found, expect, "{ours:?} {other:?}");
        }
    }

    #[test]
    fn only_the_policy_that_gives_a_timeout_enforces_it() {
        let mut enforced = policy("mesh/wide", &[Target::Mesh]);
        enforced.enforced = true;
        enforced.request_timeout = Some(Duration::from_secs(3));
        let mut other = policy("shop/narrow", &[target("svc/shop/cart")]);
        other.request_timeout = Some(Duration::from_secs(9));
        other.per_try_timeout = Some(Duration::from_secs(1));
        let cart = ServiceName::new("shop", "cart").unwrap();
        let found = resolve(&[&other, &enforced], &cart, None).timeout;
        assert_eq!(found.request, Duration::from_secs(3));
        assert!(found.request_is_enforced);
        assert_eq!(found.per_try, Duration::from_secs(1));
        assert!(!found.per_try_is_enforced);
    }

    #[test]
    fn fields_are_merged_one_by_one() {
        let mut wide = policy("mesh/wide", &[Target::Mesh]);
        wide.retry_attempts = Some(7);
        wide.request_timeout = Some(Duration::from_secs(3));
        let mut narrow = policy("shop/narrow", &[target("svc/shop/cart")]);
        narrow.retry_attempts = Some(0);
        narrow.retry_on = Some(vec![]);
        let cart = ServiceName::new("shop", "cart").unwrap();
        let settings = resolve(&[&wide, &narrow], &cart, None);
        let mut expect = TrafficSettings::default();
        expect.retry.attempts = 0;
        expect.retry.on = vec![];
        expect.timeout.request = Duration::from_secs(3);
        assert_eq!(settings, expect);
    }

    #[test]
    fn every_field_of_a_policy_reaches_the_settings_and_is_explained() {
        let mut all = policy("shop/all", &[Target::Mesh]);
        let expect = TrafficSettings {
            algorithm: Algorithm::RoundRobin,
            hash_on: HashOn::Cookie {
                name: "cart".parse().unwrap(),
                ttl: None,
            },
            locality_order: LocalityOrder::LocalOnly,
            retry: RetrySettings {
                attempts: 9,
                budget: Percent::new(91).unwrap(),
                on: vec![RetryOn::Reset],
                hedge: true,
            },
            timeout: TimeoutSettings {
                request: Duration::from_secs(92),
                request_is_enforced: false,
                per_try: Duration::from_secs(93),
                per_try_is_enforced: false,
                connect: Duration::from_secs(94),
                idle: Duration::from_secs(90),
            },
            limits: LimitSettings {
                connections: Some(81),
                pending: Some(82),
                requests: Some(83),
            },
            outlier: OutlierSettings {
                consecutive_errors: 95,
                base_ejection: Duration::from_secs(96),
                max_ejected: Percent::new(97).unwrap(),
                panic: Percent::new(84).unwrap(),
            },
            health_check: HealthCheck {
                probe: HealthProbe::Http {
                    path: "/".to_owned(),
                },
                interval: Duration::from_secs(98),
                timeout: Duration::from_secs(99),
            },
        };
        all.algorithm = Some(expect.algorithm);
        all.hash_on = Some(expect.hash_on.clone());
        all.locality_order = Some(expect.locality_order);
        all.retry_attempts = Some(expect.retry.attempts);
        all.retry_budget = Some(expect.retry.budget);
        all.retry_on = Some(expect.retry.on.clone());
        all.hedge = Some(expect.retry.hedge);
        all.request_timeout = Some(expect.timeout.request);
        all.per_try_timeout = Some(expect.timeout.per_try);
        all.connect_timeout = Some(expect.timeout.connect);
        all.idle_timeout = Some(expect.timeout.idle);
        all.max_connections = expect.limits.connections;
        all.max_pending = expect.limits.pending;
        all.max_requests = expect.limits.requests;
        all.consecutive_errors = Some(expect.outlier.consecutive_errors);
        all.base_ejection = Some(expect.outlier.base_ejection);
        all.max_ejected = Some(expect.outlier.max_ejected);
        all.panic = Some(expect.outlier.panic);
        all.health_check = Some(expect.health_check.clone());
        let cart = ServiceName::new("shop", "cart").unwrap();
        let (settings, given) = explain(&[&all], &cart, None);
        assert_eq!(settings, expect);
        assert_eq!(given.len(), 19);
        assert!(given.iter().all(|setting| setting.source.is_some()));
        let shown: Vec<_> = given.iter().map(|each| each.value.to_string()).collect();
        assert_eq!(
            shown.join("|"),
            "RoundRobin|cookie cart|LocalOnly|9|91|Reset|true|92s|93s|94s|90s|81|82|83|95|96s|97|84|http / every 98s"
        );
    }
}
