//! Findings over a whole set of resources: what each one names, does it exist?
//!
//! A dangling reference is no error of the object that holds it: objects come in any order, and the
//! API accepts them and says in their conditions what is missing. This never changes anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use isthmus_model::{
    AppProtocol, Backend, ClusterName, Kind, Link, Namespace, Resource, ResourceKey, Route,
    Service, ServiceName, Target, TrafficPolicy,
};

use crate::FieldPath;
use crate::problem::did_you_mean;

/// Something about a set of resources that its author should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The resource that it is about.
    pub key: ResourceKey,
    pub path: FieldPath,
    pub severity: Severity,
    /// A sentence without a full stop.
    pub message: String,
    pub hint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// It works, but perhaps not as meant.
    Warning,
    /// A part of the resource has no effect, or requests to it fail.
    Error,
}

impl fmt::Display for Finding {
    /// `error: HTTPRoute/shop/a: spec.parentRefs[0]: message; hint`, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(
            f,
            "{severity}: {}: {}: {}",
            self.key, self.path, self.message
        )?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// All findings about `all`, which is everything there is. In the order of `all`.
pub fn check_references(all: &[(ResourceKey, Resource)]) -> Vec<Finding> {
    let set = Set::new(all);
    let mut findings = Findings::default();
    for (key, resource) in all {
        let mut about = findings.about(key);
        set.namespace(key, &mut about);
        match resource {
            Resource::HttpRoute(route) => set.route(route, &mut about),
            Resource::ServiceExport(service) => set.export(service, &mut about),
            Resource::TrafficPolicy(policy) => set.policy(policy, &mut about),
            Resource::Link(link) => set.link(key, link, &mut about),
            Resource::Cluster(cluster) => {
                set.links_of(&cluster.name, &mut about);
                set.granted(
                    cluster.namespaces.as_deref().unwrap_or_default(),
                    &mut about,
                );
            }
            Resource::Mesh(_) => set.mesh(key, &mut about),
            Resource::Namespace(_) | Resource::Service(_) | Resource::Workload(_) => {}
        }
    }
    findings.0
}

#[derive(Default)]
struct Findings(Vec<Finding>);

/// Findings about one resource.
struct About<'a> {
    key: &'a ResourceKey,
    findings: &'a mut Vec<Finding>,
}

impl Findings {
    fn about<'a>(&'a mut self, key: &'a ResourceKey) -> About<'a> {
        About {
            key,
            findings: &mut self.0,
        }
    }
}

impl About<'_> {
    fn error(&mut self, path: FieldPath, message: String, hint: Option<String>) {
        self.add(Severity::Error, path, message, hint);
    }

    fn warning(&mut self, path: FieldPath, message: String, hint: Option<String>) {
        self.add(Severity::Warning, path, message, hint);
    }

    fn add(&mut self, severity: Severity, path: FieldPath, message: String, hint: Option<String>) {
        self.findings.push(Finding {
            key: self.key.clone(),
            path,
            severity,
            message,
            hint,
        });
    }
}

fn spec() -> FieldPath {
    FieldPath::root().field("spec")
}

fn metadata(field: &str) -> FieldPath {
    FieldPath::root().field("metadata").field(field)
}

/// What there is, by name.
#[derive(Default)]
struct Set<'a> {
    mesh: Option<&'a ResourceKey>,
    clusters: BTreeSet<&'a ClusterName>,
    /// The first link of each pair, the names in order.
    links: BTreeMap<(&'a ClusterName, &'a ClusterName), &'a ResourceKey>,
    namespaces: BTreeSet<&'a Namespace>,
    services: BTreeMap<&'a ServiceName, &'a Service>,
    routes: BTreeSet<(&'a Namespace, &'a str)>,
}

impl<'a> Set<'a> {
    fn new(all: &'a [(ResourceKey, Resource)]) -> Self {
        let mut set = Self::default();
        for (key, resource) in all {
            match resource {
                Resource::Mesh(_) => {
                    set.mesh.get_or_insert(key);
                }
                Resource::Cluster(cluster) => {
                    set.clusters.insert(&cluster.name);
                }
                Resource::Link(link) => {
                    set.links.entry(pair(link)).or_insert(key);
                }
                Resource::Namespace(name) => {
                    set.namespaces.insert(name);
                }
                Resource::Service(service) => {
                    set.services.insert(&service.name, service);
                }
                Resource::HttpRoute(route) => {
                    set.routes.insert((&route.namespace, route.name.as_str()));
                }
                Resource::ServiceExport(_) | Resource::TrafficPolicy(_) | Resource::Workload(_) => {
                }
            }
        }
        set
    }

    fn namespace(&self, key: &ResourceKey, about: &mut About<'_>) {
        let Some(namespace) = &key.namespace else {
            return;
        };
        if key.kind != Kind::Workload && !self.namespaces.contains(namespace) {
            let message = format!("there is no namespace `{namespace}`");
            about.warning(
                metadata("namespace"),
                message,
                self.near_namespace(namespace),
            );
        }
    }

    fn mesh(&self, key: &ResourceKey, about: &mut About<'_>) {
        if let Some(first) = self.mesh.filter(|first| *first != key) {
            let message = format!("there is one mesh only, and it is `{}`", first.name);
            about.error(metadata("name"), message, None);
        }
    }

    fn route(&self, route: &Route, about: &mut About<'_>) {
        for (index, (name, port)) in route.parents.iter().enumerate() {
            let path = spec().field("parentRefs").index(index);
            let Some(service) = self.service(name, &path, about) else {
                continue;
            };
            match port {
                Some(number) => check_port(service, *number, &path, about),
                None if !service.ports.iter().any(|it| it.protocol.is_http()) => {
                    let message = format!("no port of {name} speaks HTTP: nothing is routed");
                    about.warning(path, message, Some("set `appProtocol: http`".to_owned()));
                }
                None => {}
            }
        }
        for (index, rule) in route.rules.iter().enumerate() {
            let path = spec().field("rules").index(index).field("backendRefs");
            if rule.backends.is_empty() {
                let message = "without backends every request of this rule is answered 500";
                about.warning(path.clone(), message.to_owned(), None);
            } else if rule.backends.iter().all(|backend| backend.weight == 0) {
                let message = "all weights are 0: every request of this rule is answered 500";
                about.warning(path.clone(), message.to_owned(), None);
            }
            for (index, backend) in rule.backends.iter().enumerate() {
                self.backend(backend, &path.index(index), about);
            }
        }
    }

    fn backend(&self, backend: &Backend, path: &FieldPath, about: &mut About<'_>) {
        let Some(service) = self.service(&backend.service, path, about) else {
            return;
        };
        if let Some(number) = backend.port {
            check_port(service, number, path, about);
        }
    }

    fn service(
        &self,
        name: &ServiceName,
        path: &FieldPath,
        about: &mut About<'_>,
    ) -> Option<&'a Service> {
        let found = self.services.get(name).copied();
        if found.is_none() {
            let message = format!("there is no service {name}");
            about.error(path.field("name"), message, self.near_service(name));
        }
        found
    }

    fn export(&self, name: &ServiceName, about: &mut About<'_>) {
        if !self.services.contains_key(name) {
            let message = format!("there is no service {name} to export");
            about.error(metadata("name"), message, self.near_service(name));
        }
    }

    fn policy(&self, policy: &TrafficPolicy, about: &mut About<'_>) {
        for (index, target) in policy.targets.iter().enumerate() {
            let path = spec().field("targetRefs").index(index);
            match target {
                Target::Mesh => {}
                Target::Namespace(name) if self.namespaces.contains(name) => {}
                Target::Namespace(name) => {
                    let message = format!("there is no namespace `{name}`");
                    about.error(path.field("name"), message, self.near_namespace(name));
                }
                Target::Service(name) => {
                    self.service(name, &path, about);
                }
                Target::Route { namespace, name } => {
                    if !self.routes.contains(&(namespace, name.as_str())) {
                        let there = self.routes.iter().filter(|(other, _)| *other == namespace);
                        let hint = did_you_mean(name.as_str(), there.map(|(_, name)| *name));
                        let message = format!("there is no HTTPRoute {namespace}/{name}");
                        about.error(path.field("name"), message, hint);
                    }
                }
            }
        }
    }

    fn link(&self, key: &ResourceKey, link: &Link, about: &mut About<'_>) {
        let path = spec().field("between");
        for (index, name) in [&link.between.0, &link.between.1].into_iter().enumerate() {
            if !self.clusters.contains(name) {
                let clusters = self.clusters.iter().map(|name| name.as_str());
                let hint = did_you_mean(name.as_str(), clusters);
                let message = format!("there is no cluster `{name}`");
                about.error(path.index(index), message, hint);
            }
        }
        if let Some(first) = self.links.get(&pair(link)).filter(|first| **first != key) {
            let message = format!("{first} is already between these clusters");
            about.error(path, message, None);
        }
    }

    /// Each pair without a link is found once, at the cluster whose name comes first.
    fn links_of(&self, name: &'a ClusterName, about: &mut About<'_>) {
        for other in self.clusters.iter().filter(|other| **other > name) {
            if !self.links.contains_key(&(name, *other)) {
                let message = format!("there is no link to cluster `{other}`");
                let hint = format!("add a Link with `between: [{name}, {other}]`");
                about.warning(metadata("name"), message, Some(hint));
            }
        }
    }

    fn granted(&self, namespaces: &[Namespace], about: &mut About<'_>) {
        for (index, name) in namespaces.iter().enumerate() {
            if !self.namespaces.contains(name) {
                let path = spec().field("namespaces").index(index);
                let message = format!("there is no namespace `{name}`");
                about.warning(path, message, self.near_namespace(name));
            }
        }
    }

    fn near_service(&self, name: &ServiceName) -> Option<String> {
        let there = self.services.keys();
        let names = there.filter(|other| other.namespace == name.namespace);
        did_you_mean(name.name.as_str(), names.map(|other| other.name.as_str()))
    }

    fn near_namespace(&self, name: &Namespace) -> Option<String> {
        let names = self.namespaces.iter().map(|name| name.as_str());
        did_you_mean(name.as_str(), names)
    }
}

fn check_port(service: &Service, number: u16, path: &FieldPath, about: &mut About<'_>) {
    let path = path.field("port");
    match service.find_port(Some(number)).map(|port| port.protocol) {
        Some(AppProtocol::Http1 | AppProtocol::Http2) => {}
        Some(AppProtocol::Tcp | AppProtocol::Undeclared) => {
            let message = format!("port {number} of {} does not speak HTTP", service.name);
            about.warning(path, message, Some("set `appProtocol: http`".to_owned()));
        }
        None => {
            let ports: Vec<String> = service
                .ports
                .iter()
                .map(|port| port.port.to_string())
                .collect();
            let message = format!("{} has no port {number}", service.name);
            let hint = format!("its ports are {}", ports.join(", "));
            about.error(path, message, Some(hint));
        }
    }
}

fn pair(link: &Link) -> (&ClusterName, &ClusterName) {
    let (one, other) = (&link.between.0, &link.between.1);
    (one.min(other), one.max(other))
}
