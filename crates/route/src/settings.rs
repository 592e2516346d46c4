//! Which settings hold for a service or a route, and which policy gave each.
//!
//! A narrower target outweighs a wider one (route, service, namespace, mesh); among policies of one
//! width the first by (namespace, name) wins; field by field, over the built-in defaults.

use std::time::Duration;

use isthmus_model::{
    Algorithm, HashOn, HealthCheck, LimitSettings, LocalityOrder, Namespace, ObjectName,
    OutlierSettings, Percent, RetryOn, RetrySettings, ServiceName, Target, TimeoutSettings,
    TrafficPolicy, TrafficSettings,
};

use crate::RouteId;

/// One field of the merged settings and where its value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// As written in a TrafficPolicy's spec: `retry.attempts`.
    pub field: &'static str,
    pub value: Value,
    /// The policy that set it, with the target through which it reached; `None`: the default.
    pub policy: Option<(Namespace, ObjectName, Target)>,
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
            policy: reaching.map(|reaching| {
                let Reaching { policy, target } = reaching;
                (
                    policy.namespace.clone(),
                    policy.name.clone(),
                    (*target).clone(),
                )
            }),
        });
    });
    (settings, given)
}

/// A policy and the narrowest of its targets that holds here.
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
    let default = TrafficSettings::default();
    let mut merge = Merge {
        order: in_order(policies, service, route),
        decided,
    };
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
            request: merge.take(
                "timeout.request",
                |p| p.request_timeout,
                default.timeout.request,
            ),
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
    order: Vec<Reaching<'p>>,
    decided: F,
}

impl<F: FnMut(&'static str, Value, Option<Reaching<'_>>)> Merge<'_, F> {
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
            let narrowest = policy.targets.iter().filter(holds).max_by_key(|t| width(t));
            narrowest.map(|target| Reaching { policy, target })
        })
        .collect();
    order.sort_by(|a, b| {
        let narrower = width(b.target).cmp(&width(a.target));
        let name = |r: &Reaching<'p>| (&r.policy.namespace, &r.policy.name);
        narrower.then_with(|| name(a).cmp(&name(b)))
    });
    order
}

/// Larger is narrower.
fn width(target: &Target) -> u8 {
    match target {
        Target::Mesh => 0,
        Target::Namespace(_) => 1,
        Target::Service(_) => 2,
        Target::Route { .. } => 3,
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
    use isthmus_model::HealthProbe;

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
            namespace: Namespace::new("shop").unwrap(),
            name: ObjectName::new("r").unwrap(),
        }
    }

    /// Each policy is `name target…`; which of them gives `retry.attempts`?
    fn winner(policies: &[&str], route: Option<&RouteId>) -> String {
        let policies: Vec<TrafficPolicy> = (1u32..)
            .zip(policies)
            .map(|(index, text)| {
                let mut words = text.split(' ');
                let name = words.next().unwrap();
                let targets: Vec<Target> = words.map(target).collect();
                let mut policy = policy(name, &targets);
                policy.retry_attempts = Some(index);
                policy
            })
            .collect();
        let policies: Vec<&TrafficPolicy> = policies.iter().collect();
        let cart = ServiceName::new("shop", "cart").unwrap();
        let (settings, given) = explain(&policies, &cart, route);
        assert_eq!(settings, resolve(&policies, &cart, route));
        let attempts = given.iter().find(|s| s.field == "retry.attempts").unwrap();
        assert_eq!(attempts.value, Value::Count(settings.retry.attempts));
        match &attempts.policy {
            Some((namespace, name, _)) => format!("{namespace}/{name}"),
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
                per_try: Duration::from_secs(93),
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
        assert!(given.iter().all(|setting| setting.policy.is_some()));
    }
}
