//! What the proxy knows, compiled for deciding.
//!
//! A [`View`] is immutable: a request loads one and is decided on it alone. [`ViewBuilder`] is the
//! only thing that makes them, from the resources that the control plane pushed. A resource that
//! cannot be read is rejected alone; the last good one stays, and where there is none the service
//! refuses. Never does I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::HashMap;
use isthmus_authz::Policies;
use isthmus_identity as identity;
use isthmus_model::{
    ClusterName, Egress, Handle, Route, Service, ServiceName, Share, TrafficPolicy,
    TrafficSettings, Workload,
};
use isthmus_route::{RouteId, RouteTable, Rule, settings};
use isthmus_wire::{Body, ClusterView, Topic};

/// One version of everything that the proxy knows.
#[derive(Debug)]
pub(crate) struct View {
    own: ClusterName,
    policies: Option<Policies>,
    egress: Egress,
    clusters: BTreeMap<ClusterName, Arc<ClusterView>>,
    services: HashMap<ServiceName, Known>,
}

/// A service that the control plane has answered for.
#[derive(Debug, Clone)]
pub(crate) enum Known {
    /// The same one, as long as nothing that bears on it has changed.
    Service(Arc<ServiceView>),
    /// No such service exists.
    Absent,
    /// Its declaration could not be read, and there was no earlier one.
    Unusable(String),
}

/// A service with everything that bears on it.
#[derive(Debug)]
pub(crate) struct ServiceView {
    pub(crate) service: Service,
    pub(crate) routes: RouteTable,
    /// Workloads of the own cluster, sorted by handle.
    pub(crate) workloads: Vec<Workload>,
    /// Shares of the other clusters.
    pub(crate) shares: Vec<Share>,
    settings: Arc<TrafficSettings>,
    route_settings: HashMap<RouteId, Arc<TrafficSettings>>,
    /// Of which the settings were made.
    traffic_policies: Vec<TrafficPolicy>,
}

/// A worker's hold on a view. Its requests share it, so that they need not count themselves where those
/// of other workers do.
#[derive(Debug)]
pub(crate) struct Seen(Arc<View>);

impl Seen {
    pub(crate) fn hold(view: Arc<View>) -> Rc<Self> {
        Rc::new(Self(view))
    }
}

impl Deref for Seen {
    type Target = Arc<View>;

    fn deref(&self) -> &Arc<View> {
        &self.0
    }
}

impl View {
    /// What a proxy of `own` knows before it has heard anything.
    pub(crate) fn empty(own: ClusterName) -> Self {
        Self {
            own,
            policies: None,
            egress: Egress::default(),
            clusters: BTreeMap::new(),
            services: HashMap::default(),
        }
    }

    pub(crate) fn own(&self) -> &ClusterName {
        &self.own
    }

    /// `None` until the mesh itself is known: then nobody is permitted anything.
    pub(crate) fn policies(&self) -> Option<&Policies> {
        self.policies.as_ref()
    }

    /// What becomes of requests that lead out of the mesh; as long as the mesh is not known, they are refused.
    pub(crate) fn egress(&self) -> Egress {
        self.egress
    }

    pub(crate) fn cluster(&self, name: &ClusterName) -> Option<&Arc<ClusterView>> {
        self.clusters.get(name)
    }

    /// What the mesh says of a cluster, for judging who comes from there.
    pub(crate) fn peer_cluster(&self, name: &ClusterName) -> Option<identity::PeerCluster<'_>> {
        self.cluster(name).map(|view| peer_cluster(view))
    }

    /// `None`: not known yet, which is not the same as [`Known::Absent`].
    pub(crate) fn find(&self, service: &ServiceName) -> Option<&Known> {
        self.services.get(service)
    }
}

/// A cluster as its peers are judged by.
pub(crate) fn peer_cluster(view: &ClusterView) -> identity::PeerCluster<'_> {
    identity::PeerCluster {
        cluster: &view.cluster,
        revoked: &view.revoked,
    }
}

impl ServiceView {
    /// What holds for a request that matched `rule`.
    pub(crate) fn settings(&self, rule: &Rule) -> Arc<TrafficSettings> {
        let of_route = rule
            .route()
            .and_then(|route| self.route_settings.get(route));
        let mut settings = Arc::clone(of_route.unwrap_or(&self.settings));
        if rule.outweighs() {
            rule.outweigh(&mut Arc::make_mut(&mut settings).timeout);
        }
        settings
    }

    /// How [`ServiceView::settings`] came to be: each setting with the policy that gave it, and the rule where it has
    /// the last word.
    pub(crate) fn explain_settings(&self, rule: &Rule) -> Vec<(settings::Setting, bool)> {
        let policies: Vec<&TrafficPolicy> = self.traffic_policies.iter().collect();
        let (merged, given) = settings::explain(&policies, &self.service.name, rule.route());
        let mut timeouts = merged.timeout;
        rule.outweigh(&mut timeouts);
        let by_rule = |mut setting: settings::Setting| {
            let (own, time) = match setting.field {
                "timeout.request" => (rule.request_timeout(), timeouts.request),
                "timeout.perTry" => (rule.backend_timeout(), timeouts.per_try),
                _ => return (setting, false),
            };
            let enforced = setting
                .source
                .as_ref()
                .is_some_and(|source| source.enforced);
            let is_rule_s = own.is_some() && !enforced;
            setting.value = settings::Value::Time(time);
            (setting, is_rule_s)
        };
        given.into_iter().map(by_rule).collect()
    }

    /// The workload of the own cluster that has this handle.
    pub(crate) fn workload(&self, handle: &Handle) -> Option<&Workload> {
        let found = self.workloads.binary_search_by(|at| at.handle.cmp(handle));
        found.ok().map(|index| &self.workloads[index])
    }

    /// What holds where no route is looked at: plain TCP, health checks.
    pub(crate) fn own_settings(&self) -> &Arc<TrafficSettings> {
        &self.settings
    }

    /// Services that its routes lead to, itself left out.
    pub(crate) fn backends(&self) -> impl Iterator<Item = &ServiceName> {
        self.routes
            .rules()
            .flat_map(Rule::backends)
            .map(|backend| &backend.service)
            .filter(|service| **service != self.service.name)
    }
}

/// Makes views of what the subscription holds.
#[derive(Debug)]
pub(crate) struct ViewBuilder {
    own: ClusterName,
    policies: Option<Policies>,
    egress: Egress,
    clusters: BTreeMap<ClusterName, Arc<ClusterView>>,
    services: HashMap<ServiceName, Known>,
}

impl ViewBuilder {
    pub(crate) fn new(own: ClusterName) -> Self {
        Self {
            own,
            policies: None,
            egress: Egress::default(),
            clusters: BTreeMap::new(),
            services: HashMap::default(),
        }
    }

    /// Compiles one topic that has been answered. `bodies`: its good resources. `unusable`: why one
    /// of its resources was rejected without an earlier good one, if so.
    pub(crate) fn compile(&mut self, topic: &Topic, bodies: Vec<Body>, unusable: Option<String>) {
        match topic {
            Topic::Mesh => self.compile_mesh(bodies),
            Topic::Service(service) => {
                let known = compile_service(service, bodies, unusable);
                self.services.insert(service.clone(), known);
            }
        }
    }

    fn compile_mesh(&mut self, bodies: Vec<Body>) {
        self.clusters.clear();
        self.egress = Egress::default();
        for body in bodies {
            match body {
                Body::Mesh(mesh) => {
                    self.egress = mesh.egress;
                    self.policies = Some(Policies::compile(mesh.trust_domain, self.own.clone()));
                }
                Body::Cluster(view) => {
                    self.clusters
                        .insert(view.cluster.name.clone(), Arc::new(view));
                }
                _ => {}
            }
        }
    }

    pub(crate) fn build(&self) -> View {
        View {
            own: self.own.clone(),
            policies: self.policies.clone(),
            egress: self.egress,
            clusters: self.clusters.clone(),
            services: self.services.clone(),
        }
    }

    /// Nothing is known of the service any more.
    pub(crate) fn forget(&mut self, service: &ServiceName) {
        self.services.remove(service);
    }

    /// Services that routes of known services lead to.
    pub(crate) fn backends(&self) -> impl Iterator<Item = &ServiceName> {
        let known = self.services.values().filter_map(|known| match known {
            Known::Service(service) => Some(&**service),
            Known::Absent | Known::Unusable(_) => None,
        });
        known.flat_map(ServiceView::backends)
    }

    /// Those of them that nobody has asked for yet.
    pub(crate) fn wanted(&self) -> BTreeSet<ServiceName> {
        self.backends()
            .filter(|service| !self.services.contains_key(*service))
            .cloned()
            .collect()
    }
}

fn compile_service(name: &ServiceName, bodies: Vec<Body>, unusable: Option<String>) -> Known {
    let mut service = None;
    let mut routes: Vec<Route> = Vec::new();
    let mut policies: Vec<TrafficPolicy> = Vec::new();
    let mut workloads = Vec::new();
    let mut shares = Vec::new();
    for body in bodies {
        match body {
            Body::Service(found) => service = Some(found),
            Body::Route(route) => routes.push(route),
            Body::TrafficPolicy(policy) => policies.push(policy),
            Body::Workload(workload) => workloads.push(workload),
            Body::Share(share) => shares.push(share),
            Body::Mesh(_) | Body::Cluster(_) | Body::Gateway(_) | Body::Revocation(_) => {}
        }
    }
    let Some(service) = service else {
        return unusable.map_or(Known::Absent, Known::Unusable);
    };
    workloads.sort_by(|a: &Workload, b| a.handle.cmp(&b.handle));
    let routes: Vec<&Route> = routes.iter().collect();
    let (own_settings, route_settings) = {
        let policies: Vec<&TrafficPolicy> = policies.iter().collect();
        let resolve = |route: Option<&RouteId>| Arc::new(settings::resolve(&policies, name, route));
        let of_route = |route: &&Route| {
            let id = RouteId::of(route);
            let settings = resolve(Some(&id));
            (id, settings)
        };
        (resolve(None), routes.iter().map(of_route).collect())
    };
    let found = ServiceView {
        routes: RouteTable::compile(&service, &routes),
        settings: own_settings,
        route_settings,
        traffic_policies: policies,
        workloads,
        shares,
        service,
    };
    Known::Service(Arc::new(found))
}
