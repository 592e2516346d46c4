//! One rule: its name, its weighted backends, its timeouts.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::{
    Backend, Namespace, ObjectName, Origin, Route, RouteRule, ServiceName, Subset, TimeoutSettings,
};

/// Name of an HTTPRoute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId {
    pub origin: Origin,
    pub namespace: Namespace,
    pub name: ObjectName,
}

/// One rule of one route, or the rule of a service that no route is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// `None`: no route is bound, and requests go to the service itself.
    route: Option<RouteId>,
    /// See [`Rule::route_name`].
    route_name: Arc<str>,
    /// Place in the route's list of rules, from 0.
    index: usize,
    name: Option<String>,
    backends: Vec<Backend>,
    request_timeout: Option<Duration>,
    backend_timeout: Option<Duration>,
}

impl Rule {
    pub fn route(&self) -> Option<&RouteId> {
        self.route.as_ref()
    }

    /// `namespace/name`, `namespace/name@cluster` of one that belongs to a cluster, or `default` where no
    /// route is bound.
    pub fn route_name(&self) -> &Arc<str> {
        &self.route_name
    }

    pub fn index(&self) -> usize {
        self.index
    }

    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// All backends, those of weight 0 too, as written.
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// The backend that `draw`, a uniformly distributed number, falls on. Exact: among any `total`
    /// consecutive draws each backend is picked as often as its weight says.
    ///
    /// `None`: the rule has no backend of positive weight, which is answered with 500 (Gateway API,
    /// HTTPRouteRule.backendRefs). So is a picked backend whose service does not exist: its share
    /// of the requests fails, the others' does not.
    pub fn pick_backend(&self, draw: u64) -> Option<&Backend> {
        let total: u64 = self.backends.iter().map(|b| u64::from(b.weight)).sum();
        let mut left = draw.checked_rem(total)?;
        self.backends.iter().find(|backend| {
            let weight = u64::from(backend.weight);
            let taken = left < weight;
            left = left.saturating_sub(weight);
            taken
        })
    }

    /// Has it timeouts of its own?
    pub fn outweighs(&self) -> bool {
        self.request_timeout.is_some() || self.backend_timeout.is_some()
    }

    pub fn request_timeout(&self) -> Option<Duration> {
        self.request_timeout
    }

    pub fn backend_timeout(&self) -> Option<Duration> {
        self.backend_timeout
    }

    /// Writes the rule's own timeouts over those that policies gave and do not enforce.
    pub fn outweigh(&self, timeouts: &mut TimeoutSettings) {
        if let Some(request) = self.request_timeout
            && !timeouts.request_is_enforced
        {
            timeouts.request = request;
        }
        if let Some(per_try) = self.backend_timeout
            && !timeouts.per_try_is_enforced
        {
            timeouts.per_try = per_try;
        }
    }
}

impl Rule {
    pub(crate) fn compile(route: &Route, index: usize, rule: &RouteRule) -> Self {
        let id = RouteId::of(route);
        Self {
            route_name: id.to_string().into(),
            route: Some(id),
            index,
            name: rule.name.clone(),
            backends: rule.backends.clone(),
            request_timeout: rule.request_timeout,
            backend_timeout: rule.backend_timeout,
        }
    }

    /// Every request of a service that no route is bound to, on `port`.
    pub(crate) fn itself(service: &ServiceName, port: u16) -> Self {
        Self {
            route: None,
            route_name: "default".into(),
            index: 0,
            name: None,
            backends: vec![Backend {
                service: service.clone(),
                port: Some(port),
                subset: Subset::default(),
                weight: 1,
            }],
            request_timeout: None,
            backend_timeout: None,
        }
    }
}

impl RouteId {
    pub fn of(route: &Route) -> Self {
        Self {
            origin: route.origin.clone(),
            namespace: route.namespace.clone(),
            name: route.name.clone(),
        }
    }
}

impl fmt::Display for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        match &self.origin {
            Origin::Mesh => Ok(()),
            Origin::Cluster(cluster) => write!(f, "@{cluster}"),
        }
    }
}

impl fmt::Display for Rule {
    /// `default`, or `<namespace>/<route> rule <name>`, or `<namespace>/<route> rule 0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.route, &self.name) {
            (None, _) => f.write_str("default"),
            (Some(route), Some(name)) => write!(f, "{route} rule {name}"),
            (Some(route), None) => write!(f, "{route} rule {}", self.index),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isthmus_model::TrafficSettings;
    use proptest::prelude::*;

    fn cart() -> ServiceName {
        ServiceName::new("shop", "cart").unwrap()
    }

    fn route() -> Route {
        Route {
            origin: Origin::Mesh,
            namespace: Namespace::new("shop").unwrap(),
            name: ObjectName::new("r").unwrap(),
            parents: vec![(cart(), None)],
            rules: vec![RouteRule {
                name: None,
                matches: vec![],
                backends: vec![],
                request_timeout: None,
                backend_timeout: None,
            }],
        }
    }

    #[test]
    fn rules_are_called_what_people_call_them() {
        let mut route = route();
        assert_eq!(Rule::itself(&cart(), 80).to_string(), "default");
        let named = |route: &Route| Rule::compile(route, 3, &route.rules[0]).to_string();
        assert_eq!(named(&route), "shop/r rule 3");
        route.rules[0].name = Some("canary".to_owned());
        assert_eq!(named(&route), "shop/r rule canary");
        route.origin = Origin::Cluster("us-west".parse().unwrap());
        assert_eq!(named(&route), "shop/r@us-west rule canary");
    }

    #[test]
    fn a_rules_timeouts_outweigh_those_of_policies() {
        let mut timeouts = TrafficSettings::default().timeout;
        let before = timeouts.clone();
        let mut written = route();
        Rule::compile(&written, 0, &written.rules[0]).outweigh(&mut timeouts);
        assert_eq!(timeouts, before);
        written.rules[0].request_timeout = Some(Duration::ZERO);
        written.rules[0].backend_timeout = Some(Duration::from_millis(70));
        Rule::compile(&written, 0, &written.rules[0]).outweigh(&mut timeouts);
        assert_eq!(timeouts.request, Duration::ZERO);
        assert_eq!(timeouts.per_try, Duration::from_millis(70));
        assert_eq!(timeouts.connect, before.connect);
        let mut enforced = before.clone();
        enforced.request_is_enforced = true;
        Rule::compile(&written, 0, &written.rules[0]).outweigh(&mut enforced);
        assert_eq!(enforced.request, before.request);
        assert_eq!(enforced.per_try, Duration::from_millis(70));
    }

    fn weighted(weights: &[u32]) -> Rule {
        let mut rule = Rule::itself(&cart(), 80);
        let one = |(index, &weight): (usize, &u32)| Backend {
            service: ServiceName::new("shop", &format!("b{index}")).unwrap(),
            port: None,
            subset: Subset::default(),
            weight,
        };
        rule.backends = weights.iter().enumerate().map(one).collect();
        rule
    }

    #[test]
    fn without_weight_there_is_no_backend() {
        assert_eq!(weighted(&[]).pick_backend(3), None);
        assert_eq!(weighted(&[0, 0]).pick_backend(3), None);
    }

    proptest! {
        #[test]
        fn weights_are_kept_exactly(
            weights in proptest::collection::vec(0u32..40, 1..6), start in any::<u64>(),
        ) {
            let rule = weighted(&weights);
            let total: u64 = weights.iter().map(|&w| u64::from(w)).sum();
            let start = start % (u64::MAX - 10_000);
            // Begin at a multiple, so that the window is whole.
            let start = start - start % total.max(1);
            let mut seen = vec![0u32; weights.len()];
            for draw in start..start + total {
                let picked = rule.pick_backend(draw).unwrap();
                seen[rule.backends.iter().position(|b| b == picked).unwrap()] += 1;
            }
            prop_assert_eq!(seen, weights);
        }

        #[test]
        fn the_largest_weights_do_not_overflow(draw in any::<u64>(), count in 1usize..40) {
            prop_assert!(weighted(&vec![u32::MAX; count]).pick_backend(draw).is_some());
        }
    }
}
