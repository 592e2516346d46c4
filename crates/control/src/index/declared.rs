//! What people declared, with the ways in which resources find each other: children name their
//! parents, so the other direction is kept here.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_model::{
    Cluster, ClusterName, Kind, Link, Mesh, Origin, Resource, ResourceKey, Route, Service,
    ServiceName, Subset, Target, TrafficPolicy,
};

use super::multi::Multi;

/// All config resources, and what points to what.
#[derive(Debug)]
pub(crate) struct Declared {
    own: ClusterName,
    resources: BTreeMap<ResourceKey, Resource>,
    mesh: Option<ResourceKey>,
    clusters: BTreeMap<ClusterName, ResourceKey>,
    services: BTreeMap<ServiceName, ResourceKey>,
    exports: BTreeSet<ServiceName>,
    routes_to: Multi<ServiceName, ResourceKey>,
    policies_at: Multi<Target, ResourceKey>,
    subsets: Multi<(ServiceName, Subset), ResourceKey>,
}

/// Of a service, that another cluster's own routes name.
const MOST_FOREIGN_SUBSETS: usize = 32;

/// The subsets that a route's backends name, without the whole.
pub(super) fn subsets(route: &Route) -> impl Iterator<Item = (ServiceName, Subset)> {
    let backends = route.rules.iter().flat_map(|rule| &rule.backends);
    backends
        .filter(|backend| !backend.subset.is_all())
        .map(|backend| (backend.service.clone(), backend.subset.clone()))
}

impl Declared {
    pub(super) fn new(own: ClusterName) -> Self {
        Self {
            own,
            resources: BTreeMap::new(),
            mesh: None,
            clusters: BTreeMap::new(),
            services: BTreeMap::new(),
            exports: BTreeSet::new(),
            routes_to: Multi::default(),
            policies_at: Multi::default(),
            subsets: Multi::default(),
        }
    }

    /// Does it hold for callers and workloads of this cluster?
    pub(super) fn binds(&self, key: &ResourceKey) -> bool {
        key.origin
            .cluster()
            .is_none_or(|cluster| *cluster == self.own)
    }

    /// Puts the resource in the place of what had its key; gives what was there.
    pub(super) fn replace(
        &mut self,
        key: &ResourceKey,
        resource: Option<Resource>,
    ) -> Option<Resource> {
        let before = self.resources.remove(key);
        if let Some(before) = &before {
            self.unlink(key, before);
        }
        if let Some(resource) = resource {
            self.link(key, &resource);
            self.resources.insert(key.clone(), resource);
        }
        before
    }

    fn link(&mut self, key: &ResourceKey, resource: &Resource) {
        match resource {
            Resource::Mesh(_) => self.mesh = Some(key.clone()),
            Resource::Cluster(cluster) => {
                self.clusters.insert(cluster.name.clone(), key.clone());
            }
            Resource::Service(service) => {
                self.services.insert(service.name.clone(), key.clone());
            }
            Resource::ServiceExport(service) => {
                self.exports.insert(service.clone());
            }
            Resource::HttpRoute(route) => {
                if self.binds(key) {
                    for (service, _) in &route.parents {
                        self.routes_to.insert(service.clone(), key.clone());
                    }
                }
                // Of a part of a service its workloads are counted wherever it is called.
                for subset in subsets(route) {
                    self.subsets.insert(subset, key.clone());
                }
            }
            Resource::TrafficPolicy(policy) if self.binds(key) => {
                for target in &policy.targets {
                    self.policies_at.insert(target.clone(), key.clone());
                }
            }
            Resource::TrafficPolicy(_) => {}
            Resource::Link(_) | Resource::Namespace(_) | Resource::Workload(_) => {}
        }
    }

    fn unlink(&mut self, key: &ResourceKey, resource: &Resource) {
        match resource {
            Resource::Mesh(_) => self.mesh = None,
            Resource::Cluster(cluster) => {
                self.clusters.remove(&cluster.name);
            }
            Resource::Service(service) => {
                self.services.remove(&service.name);
            }
            Resource::ServiceExport(service) => {
                self.exports.remove(service);
            }
            Resource::HttpRoute(route) => {
                for (service, _) in &route.parents {
                    self.routes_to.remove(service, key);
                }
                for subset in subsets(route) {
                    self.subsets.remove(&subset, key);
                }
            }
            Resource::TrafficPolicy(policy) => {
                for target in &policy.targets {
                    self.policies_at.remove(target, key);
                }
            }
            Resource::Link(_) | Resource::Namespace(_) | Resource::Workload(_) => {}
        }
    }

    pub(crate) fn resource(&self, key: &ResourceKey) -> Option<&Resource> {
        self.resources.get(key)
    }

    /// If it holds for callers and workloads of this cluster.
    pub(crate) fn bound(&self, key: &ResourceKey) -> Option<&Resource> {
        self.resource(key).filter(|_| self.binds(key))
    }

    /// That hold for callers and workloads of this cluster.
    pub(crate) fn policies(&self) -> impl Iterator<Item = &TrafficPolicy> {
        let bound = self.resources.iter().filter(|(key, _)| self.binds(key));
        bound.filter_map(|(_, resource)| match resource {
            Resource::TrafficPolicy(policy) => Some(policy),
            _ => None,
        })
    }

    pub(crate) fn mesh(&self) -> Option<&Mesh> {
        match self.resource(self.mesh.as_ref()?)? {
            Resource::Mesh(mesh) => Some(mesh),
            _ => None,
        }
    }

    pub(crate) fn cluster(&self, name: &ClusterName) -> Option<&Cluster> {
        match self.resource(self.clusters.get(name)?)? {
            Resource::Cluster(cluster) => Some(cluster),
            _ => None,
        }
    }

    /// By name.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = &Cluster> {
        self.clusters.keys().filter_map(|name| self.cluster(name))
    }

    /// The link between two clusters; of several the first by name.
    pub(crate) fn link_between(&self, a: &ClusterName, b: &ClusterName) -> Option<&Link> {
        self.of_kind(Kind::Link)
            .find_map(|resource| match resource {
                Resource::Link(link) if link.other_side(a) == Some(b) => Some(link),
                _ => None,
            })
    }

    pub(crate) fn knows(&self, service: &ServiceName) -> bool {
        self.services.contains_key(service)
    }

    /// The service as declared, with its export.
    pub(crate) fn service(&self, name: &ServiceName) -> Option<Service> {
        match self.resource(self.services.get(name)?)? {
            Resource::Service(service) => Some(Service {
                exported: self.is_exported(name),
                ..service.clone()
            }),
            _ => None,
        }
    }

    /// By name.
    pub(crate) fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.keys()
    }

    pub(crate) fn is_exported(&self, service: &ServiceName) -> bool {
        self.exports.contains(service)
    }

    /// Routes that are bound to the service here, those of the mesh first, by (namespace, name).
    pub(crate) fn routes_to(&self, service: &ServiceName) -> impl Iterator<Item = &Route> {
        let keys = self.routes_to.of(service);
        keys.filter_map(|key| match self.resource(key) {
            Some(Resource::HttpRoute(route)) => Some(route),
            _ => None,
        })
    }

    /// Policies that reach the service or one of its routes here, each once, those of the mesh first, by
    /// (namespace, name).
    pub(crate) fn policies_for(&self, service: &ServiceName) -> Vec<&TrafficPolicy> {
        let mut targets = vec![
            Target::Mesh,
            Target::Namespace(service.namespace.clone()),
            Target::Service(service.clone()),
        ];
        targets.extend(self.routes_to(service).map(|route| Target::Route {
            namespace: route.namespace.clone(),
            name: route.name.clone(),
        }));
        let keys: BTreeSet<_> = targets
            .iter()
            .flat_map(|t| self.policies_at.of(t))
            .collect();
        let policy = |key| match self.resource(key) {
            Some(Resource::TrafficPolicy(policy)) => Some(policy),
            _ => None,
        };
        keys.into_iter().filter_map(policy).collect()
    }

    /// Declared services that a policy with this target reaches.
    pub(super) fn reached_by<'a>(&'a self, target: &'a Target) -> Vec<&'a ServiceName> {
        match target {
            Target::Mesh => self.services.keys().collect(),
            Target::Namespace(namespace) => {
                let inside = |service: &&ServiceName| service.namespace == *namespace;
                self.services.keys().filter(inside).collect()
            }
            Target::Service(service) => vec![service],
            Target::Route { namespace, name } => {
                let is_it = |key: &ResourceKey| {
                    key.kind == Kind::HttpRoute
                        && key.namespace.as_ref() == Some(namespace)
                        && key.name == *name
                        && self.binds(key)
                };
                let found = self.resources.iter().filter(|(key, _)| is_it(key));
                let routes = found.filter_map(|(_, resource)| match resource {
                    Resource::HttpRoute(route) => Some(route),
                    _ => None,
                });
                let parents = routes.flat_map(|route| &route.parents);
                parents.map(|(service, _)| service).collect()
            }
        }
    }

    /// Subsets of the service that some route names, without the whole. Of those that only another cluster's own routes
    /// name, a few: they are its own doing, and must not be everybody's load.
    pub(super) fn subsets_of(&self, service: &ServiceName) -> impl Iterator<Item = Subset> {
        let first = (service.clone(), Subset::default());
        let keys = self.subsets.keys_from(&first);
        let mut foreign: BTreeMap<&ClusterName, usize> = BTreeMap::new();
        let mut subsets = Vec::new();
        for named in keys.take_while(|(of, _)| of == service) {
            let counts = |key: &ResourceKey| match &key.origin {
                Origin::Cluster(cluster) if *cluster != self.own => {
                    self.clusters.contains_key(cluster)
                }
                _ => true,
            };
            let mut origins = self.subsets.of(named).filter(|key| counts(key));
            let by = origins.next().map(|first| {
                let rest = origins.find(|key| self.binds(key));
                rest.unwrap_or(first)
            });
            let Some(by) = by else {
                continue;
            };
            if !self.binds(by)
                && let Some(cluster) = by.origin.cluster()
            {
                let count = foreign.entry(cluster).or_default();
                *count += 1;
                if *count > MOST_FOREIGN_SUBSETS {
                    continue;
                }
            }
            subsets.push(named.1.clone());
        }
        subsets.into_iter()
    }

    /// Subsets that a cluster's own routes name.
    pub(super) fn subsets_by(&self, cluster: &ClusterName) -> Vec<(ServiceName, Subset)> {
        let own = |key: &ResourceKey| key.origin.cluster() == Some(cluster);
        let own = self.resources.iter().filter(|(key, _)| own(key));
        let routes = own.filter_map(|(_, resource)| match resource {
            Resource::HttpRoute(route) => Some(route),
            _ => None,
        });
        routes.flat_map(subsets).collect()
    }

    /// Everything, by key.
    pub(crate) fn all(&self) -> impl Iterator<Item = (ResourceKey, Resource)> {
        let resources = self.resources.iter();
        resources.map(|(key, resource)| (key.clone(), resource.clone()))
    }

    /// In the order of their keys.
    pub(crate) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Resource> {
        let of_kind = move |(key, _): &(&ResourceKey, _)| key.kind == kind;
        let resources = self.resources.iter().filter(of_kind);
        resources.map(|(_, resource)| resource)
    }
}
