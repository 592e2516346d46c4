//! Topics: the resources that a proxy gets when it subscribes.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use isthmus_delta::{Resource, ResourceName, Version};
use isthmus_model::{ClusterName, Gateway, Origin, ResourceKey, Route, ServiceName, TrafficPolicy};
use isthmus_wire::{Body, ClusterView, Topic};

use super::{Fact, Index};

impl Index {
    /// What is in a topic now; nothing when there is no such thing. Names are distinct and the
    /// version is a hash of the content, so that it means the same after a restart.
    pub(crate) fn resources(&self, topic: &Topic) -> Vec<Resource> {
        match topic {
            Topic::Mesh => self.mesh_topic(),
            Topic::Service(service) => self.service_topic(service),
        }
    }

    /// As which resources of which topics an object reaches proxies.
    pub(crate) fn appearances(&self, key: &ResourceKey) -> Vec<(Topic, ResourceName)> {
        let Some(object) = self.declared.bound(key) else {
            return Vec::new();
        };
        let in_service = |service: &ServiceName, name: &str| {
            (Topic::Service(service.clone()), ResourceName::new(name))
        };
        match object {
            isthmus_model::Resource::Mesh(_) => vec![(Topic::Mesh, ResourceName::new("mesh"))],
            isthmus_model::Resource::Cluster(cluster) => {
                let name = format!("cluster/{}", cluster.name);
                vec![(Topic::Mesh, ResourceName::new(&name))]
            }
            isthmus_model::Resource::Link(link) => (link.other_side(&self.own).into_iter())
                .map(|other| (Topic::Mesh, ResourceName::new(&format!("cluster/{other}"))))
                .collect(),
            isthmus_model::Resource::Service(service) => vec![in_service(&service.name, "service")],
            isthmus_model::Resource::ServiceExport(service) => vec![in_service(service, "service")],
            isthmus_model::Resource::HttpRoute(route) => {
                let name = route_name(route);
                let parents = route.parents.iter();
                parents
                    .map(|(service, _)| in_service(service, &name))
                    .collect()
            }
            isthmus_model::Resource::TrafficPolicy(policy) => {
                let name = policy_name(policy);
                let targets = policy.targets.iter();
                let services = targets.flat_map(|target| self.declared.reached_by(target));
                services.map(|service| in_service(service, &name)).collect()
            }
            isthmus_model::Resource::Namespace(_) | isthmus_model::Resource::Workload(_) => {
                Vec::new()
            }
        }
    }

    fn mesh_topic(&self) -> Vec<Resource> {
        let mesh = self.declared.mesh().cloned().map(Body::Mesh);
        let mut resources: Vec<_> = mesh.iter().map(|mesh| resource("mesh", mesh)).collect();
        for cluster in self.declared.clusters() {
            let name = format!("cluster/{}", cluster.name);
            let (gateways, rtt, age) = self.way_to(&cluster.name);
            let view = ClusterView {
                cluster: cluster.clone(),
                gateways,
                rtt,
                age,
                revoked: self.revoked(&cluster.name),
            };
            resources.push(resource(&name, &Body::Cluster(view)));
        }
        resources
    }

    /// Gateways under the addresses that this cluster dials, round-trip time, age of the facts.
    fn way_to(&self, cluster: &ClusterName) -> (Vec<Gateway>, Option<Duration>, Duration) {
        let link = self.declared.link_between(&self.own, cluster);
        let mut gateways: Vec<Gateway> = self.gateways(cluster).into_iter().cloned().collect();
        if let Some(link) = link {
            for gateway in &mut gateways {
                gateway.address = link.dial(&self.own, gateway.address);
            }
        }
        let contact = self.contact(cluster);
        let rtt = contact.rtt.or_else(|| link.and_then(|link| link.rtt));
        (gateways, rtt, contact.age)
    }

    fn service_topic(&self, name: &ServiceName) -> Vec<Resource> {
        let Some(service) = self.declared.service(name) else {
            return Vec::new();
        };
        let mut resources = vec![resource("service", &Body::Service(service))];
        for route in self.declared.routes_to(name) {
            resources.push(resource(&route_name(route), &Body::Route(route.clone())));
        }
        for policy in self.declared.policies_for(name) {
            resources.push(resource(
                &policy_name(policy),
                &Body::TrafficPolicy(policy.clone()),
            ));
        }
        for workload in self.workloads_of(name) {
            let name = format!("workload/{}", workload.handle);
            resources.push(resource(&name, &Body::Workload(workload.clone())));
        }
        // Also of a service that is not exported: a proxy that knows it to run elsewhere can say
        // that an export is what is missing.
        self.add_foreign_shares(name, &mut resources);
        resources
    }

    fn add_foreign_shares(&self, service: &ServiceName, resources: &mut Vec<Resource>) {
        let prefix = super::fact::share_prefix(service);
        for (cluster, foreign) in &self.foreign {
            if self.cluster(cluster).is_none() {
                continue;
            }
            let shares = foreign.facts.range(prefix.clone()..);
            for (_, fact) in shares.take_while(|(key, _)| key.starts_with(&prefix)) {
                if let Fact::Share(share) = fact {
                    let name = format!("share/{cluster}/{}", share.subset);
                    resources.push(resource(&name, &Body::Share(share.clone())));
                }
            }
        }
    }
}

fn route_name(route: &Route) -> String {
    let whose = whose(&route.origin);
    format!("{whose}route/{}/{}", route.namespace, route.name)
}

fn policy_name(policy: &TrafficPolicy) -> String {
    let whose = whose(&policy.origin);
    format!("{whose}policy/{}/{}", policy.namespace, policy.name)
}

/// The mesh and the own cluster may each have one of the same name.
fn whose(origin: &Origin) -> &'static str {
    match origin {
        Origin::Mesh => "",
        Origin::Cluster(_) => "own/",
    }
}

fn resource(name: &str, body: &Body) -> Resource {
    let body = body.encode();
    let hash = digest(&SHA256, &body);
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_ref()[..8]);
    Resource {
        name: ResourceName::new(name),
        version: Version(u64::from_be_bytes(first)),
        body: body.into(),
    }
}
