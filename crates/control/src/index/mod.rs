//! What one cluster knows, ready to be published: what people declared, what this cluster observed
//! of itself, and what the other clusters say about themselves.
//!
//! One owner applies changes; each says exactly which topics and which own facts it touched, and
//! only those are published. Pure: no clock, no store, no socket; nothing here waits.

mod declared;
mod fact;
mod multi;
mod topics;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use isthmus_model::{
    Admission, Cluster, ClusterName, Gateway, Handle, Kind, Resource, ResourceKey, ServiceName,
    Share, Subset, Workload,
};
use isthmus_wire::{Body, Topic};

pub(crate) use declared::Declared;
pub(crate) use fact::Fact;
use multi::Multi;

/// Everything that a cluster's control plane publishes from.
#[derive(Debug)]
pub(crate) struct Index {
    own: ClusterName,
    declared: Declared,
    workloads: BTreeMap<Handle, Workload>,
    workloads_of: Multi<ServiceName, Handle>,
    gateways: BTreeMap<String, Gateway>,
    revoked: BTreeSet<Admission>,
    foreign: BTreeMap<ClusterName, Foreign>,
    /// What this cluster tells the others about itself, by ledger key.
    own_facts: BTreeMap<String, Bytes>,
}

/// Of one cluster: every proxy keeps them all.
pub(crate) const MOST_REVOKED: usize = 10_000;

/// What another cluster says about itself.
#[derive(Debug, Default)]
struct Foreign {
    facts: BTreeMap<String, Fact>,
    contact: Contact,
}

/// What is known of the way to another cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Contact {
    /// Measured.
    pub rtt: Option<Duration>,
    /// How old its facts are; zero while they are live.
    pub age: Duration,
}

/// Something that is different now. `None` where a thing is gone.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    Config {
        key: ResourceKey,
        resource: Option<Resource>,
    },
    /// A workload of this cluster.
    Workload {
        handle: Handle,
        workload: Option<Workload>,
    },
    /// A gateway of this cluster.
    Gateway {
        name: String,
        gateway: Option<Gateway>,
    },
    /// Somebody whom this cluster admitted is its own no more, or forgotten.
    Revocation {
        admission: Admission,
        is_revoked: bool,
    },
    /// What another cluster says about itself.
    Fact {
        cluster: ClusterName,
        key: String,
        fact: Option<Fact>,
    },
    Contact {
        cluster: ClusterName,
        contact: Contact,
    },
}

/// What a change made different: publish this and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Touched {
    pub topics: BTreeSet<Topic>,
    /// Own facts by ledger key; `None`: gone.
    pub facts: BTreeMap<String, Option<Bytes>>,
}

impl Touched {
    pub(crate) fn merge(&mut self, other: Self) {
        self.topics.extend(other.topics);
        self.facts.extend(other.facts);
    }

    fn service(&mut self, service: &ServiceName) {
        self.topics.insert(Topic::Service(service.clone()));
    }
}

impl Index {
    pub(crate) fn new(own: ClusterName) -> Self {
        Self {
            declared: Declared::new(own.clone()),
            own,
            workloads: BTreeMap::new(),
            workloads_of: Multi::default(),
            gateways: BTreeMap::new(),
            revoked: BTreeSet::new(),
            foreign: BTreeMap::new(),
            own_facts: BTreeMap::new(),
        }
    }

    /// Makes the change and says what it touched. A change that changes nothing touches nothing.
    pub(crate) fn apply(&mut self, change: Change) -> Touched {
        let declares = matches!(&change, Change::Config { key, .. } if key.kind == Kind::Service);
        let mut touched = match change {
            Change::Config { key, resource } => self.apply_config(&key, resource.as_ref()),
            Change::Workload { handle, workload } => self.apply_workload(handle, workload.as_ref()),
            Change::Gateway { name, gateway } => self.apply_gateway(name, gateway.as_ref()),
            Change::Revocation {
                admission,
                is_revoked,
            } => self.apply_revocation(admission, is_revoked),
            Change::Fact { cluster, key, fact } => self.apply_fact(&cluster, key, fact),
            Change::Contact { cluster, contact } => self.apply_contact(&cluster, contact),
        };
        if !declares {
            // The topic of a service that nobody declared is empty, before and after.
            touched.topics.retain(|topic| match topic {
                Topic::Mesh => true,
                Topic::Service(service) => self.declared.knows(service),
            });
        }
        touched
    }

    fn apply_config(&mut self, key: &ResourceKey, resource: Option<&Resource>) -> Touched {
        let mut touched = Touched::default();
        let before = self.declared.replace(key, resource.cloned());
        if before.as_ref() == resource {
            return touched;
        }
        let mut subsets = BTreeSet::new();
        for version in [before.as_ref(), resource].into_iter().flatten() {
            self.reach(key, version, &mut touched, &mut subsets);
        }
        let services: BTreeSet<_> = subsets.into_iter().map(|(service, _)| service).collect();
        for service in &services {
            self.refresh_shares(service, &mut touched);
        }
        touched
    }

    /// The topics that a resource is part of, and the subsets that it names.
    fn reach(
        &self,
        key: &ResourceKey,
        resource: &Resource,
        touched: &mut Touched,
        subsets: &mut BTreeSet<(ServiceName, Subset)>,
    ) {
        match resource {
            Resource::Mesh(_) => {
                touched.topics.insert(Topic::Mesh);
            }
            Resource::Cluster(cluster) => {
                touched.topics.insert(Topic::Mesh);
                // Shares count while their cluster is declared, and what its own routes name.
                subsets.extend(self.declared.subsets_by(&cluster.name));
                for share in self.shares_from(&cluster.name) {
                    touched.service(&share.service);
                }
            }
            Resource::Link(link) => {
                if link.other_side(&self.own).is_some() {
                    touched.topics.insert(Topic::Mesh);
                }
            }
            Resource::Namespace(_) | Resource::Workload(_) => {}
            Resource::Service(service) => touched.service(&service.name),
            Resource::ServiceExport(service) => touched.service(service),
            Resource::HttpRoute(route) => {
                if self.declared.binds(key) {
                    for (service, _) in &route.parents {
                        touched.service(service);
                    }
                }
                subsets.extend(declared::subsets(route));
            }
            Resource::TrafficPolicy(_) if !self.declared.binds(key) => {}
            Resource::TrafficPolicy(policy) => {
                for target in &policy.targets {
                    for service in self.declared.reached_by(target) {
                        touched.service(service);
                    }
                }
            }
        }
    }

    fn apply_workload(&mut self, handle: Handle, workload: Option<&Workload>) -> Touched {
        let mut touched = Touched::default();
        let before = match workload {
            Some(workload) => self.workloads.insert(handle.clone(), workload.clone()),
            None => self.workloads.remove(&handle),
        };
        if before.as_ref() == workload {
            return touched;
        }
        if let Some(before) = &before {
            self.workloads_of.remove(&before.service, &handle);
        }
        if let Some(workload) = workload {
            let service = workload.service.clone();
            self.workloads_of.insert(service, handle);
        }
        for version in [before.as_ref(), workload].into_iter().flatten() {
            touched.service(&version.service);
            self.refresh_shares(&version.service, &mut touched);
        }
        touched
    }

    fn apply_gateway(&mut self, name: String, gateway: Option<&Gateway>) -> Touched {
        let mut touched = Touched::default();
        let before = match gateway {
            Some(gateway) => self.gateways.insert(name, gateway.clone()),
            None => self.gateways.remove(&name),
        };
        if before.as_ref() == gateway {
            return touched;
        }
        for version in before.iter().chain(gateway) {
            let key = Fact::Gateway(version.clone()).key();
            let value = gateway.map(|gateway| encode(&Body::Gateway(gateway.clone())));
            self.set_fact(key, value, &mut touched);
        }
        if self.declared.cluster(&self.own).is_some() {
            touched.topics.insert(Topic::Mesh);
        }
        touched
    }

    fn apply_revocation(&mut self, admission: Admission, is_revoked: bool) -> Touched {
        let mut touched = Touched::default();
        let differs = if is_revoked {
            self.revoked.insert(admission)
        } else {
            self.revoked.remove(&admission)
        };
        if !differs {
            return touched;
        }
        let value = is_revoked.then(|| encode(&Body::Revocation(admission)));
        self.set_fact(Fact::Revoked(admission).key(), value, &mut touched);
        if self.declared.cluster(&self.own).is_some() {
            touched.topics.insert(Topic::Mesh);
        }
        touched
    }

    fn apply_fact(&mut self, cluster: &ClusterName, key: String, fact: Option<Fact>) -> Touched {
        let mut touched = Touched::default();
        let facts = &mut self.foreign.entry(cluster.clone()).or_default().facts;
        let before = match fact.clone() {
            Some(fact) => facts.insert(key, fact),
            None => facts.remove(&key),
        };
        if before == fact || self.declared.cluster(cluster).is_none() {
            return touched;
        }
        for version in [before, fact].into_iter().flatten() {
            match version {
                Fact::Gateway(_) | Fact::Revoked(_) => {
                    touched.topics.insert(Topic::Mesh);
                }
                Fact::Share(share) => touched.service(&share.service),
            }
        }
        touched
    }

    fn apply_contact(&mut self, cluster: &ClusterName, contact: Contact) -> Touched {
        let mut touched = Touched::default();
        let foreign = self.foreign.entry(cluster.clone()).or_default();
        if foreign.contact != contact {
            foreign.contact = contact;
            if self.declared.cluster(cluster).is_some() {
                touched.topics.insert(Topic::Mesh);
            }
        }
        touched
    }

    pub(crate) fn declared(&self) -> &Declared {
        &self.declared
    }

    /// Workloads of this cluster, by handle.
    pub(crate) fn workloads(&self) -> impl Iterator<Item = &Workload> {
        self.workloads.values()
    }

    /// Workloads of this cluster that run the service, by handle.
    pub(crate) fn workloads_of(&self, service: &ServiceName) -> impl Iterator<Item = &Workload> {
        let handles = self.workloads_of.of(service);
        handles.filter_map(|handle| self.workloads.get(handle))
    }

    /// Gateways of any cluster, under their own addresses, by name.
    pub(crate) fn gateways(&self, cluster: &ClusterName) -> Vec<&Gateway> {
        if *cluster == self.own {
            return self.gateways.values().collect();
        }
        let facts = self.foreign_facts(cluster);
        facts
            .filter_map(|fact| match fact {
                Fact::Gateway(gateway) => Some(gateway),
                Fact::Share(_) | Fact::Revoked(_) => None,
            })
            .collect()
    }

    /// Whom a cluster has admitted and takes for its own no more.
    pub(crate) fn revoked(&self, cluster: &ClusterName) -> BTreeSet<Admission> {
        if *cluster == self.own {
            return self.revoked.clone();
        }
        let facts = self.foreign_facts(cluster);
        facts
            .filter_map(|fact| match fact {
                Fact::Revoked(admission) => Some(*admission),
                Fact::Share(_) | Fact::Gateway(_) => None,
            })
            // More are its own harm, and must not be that of every proxy.
            .take(MOST_REVOKED)
            .collect()
    }

    /// All that any cluster says about its part of a service, without subsets, by cluster.
    pub(crate) fn whole_shares(&self, service: &ServiceName) -> Vec<Share> {
        let own = self.share(service, Subset::default());
        let others = self.foreign.iter();
        let others = others.filter(|(name, _)| self.cluster(name).is_some());
        let others = others.flat_map(|(_, foreign)| foreign.facts.values());
        let foreign = others.filter_map(|fact| match fact {
            Fact::Share(share) if share.service == *service && share.subset.is_all() => {
                Some(share.clone())
            }
            Fact::Share(_) | Fact::Gateway(_) | Fact::Revoked(_) => None,
        });
        let mut shares: Vec<_> = foreign.chain((own.total > 0).then_some(own)).collect();
        shares.sort_by(|a, b| a.cluster.cmp(&b.cluster));
        shares
    }

    pub(crate) fn contact(&self, cluster: &ClusterName) -> Contact {
        let foreign = self.foreign.get(cluster);
        foreign.map(|foreign| foreign.contact).unwrap_or_default()
    }

    /// What this cluster tells the others about itself, by ledger key.
    pub(crate) fn own_facts(&self) -> &BTreeMap<String, Bytes> {
        &self.own_facts
    }

    fn cluster(&self, name: &ClusterName) -> Option<&Cluster> {
        self.declared.cluster(name)
    }

    fn foreign_facts(&self, cluster: &ClusterName) -> impl Iterator<Item = &Fact> {
        let foreign = self.foreign.get(cluster);
        foreign
            .into_iter()
            .flat_map(|foreign| foreign.facts.values())
    }

    fn shares_from(&self, cluster: &ClusterName) -> impl Iterator<Item = &Share> {
        self.foreign_facts(cluster).filter_map(|fact| match fact {
            Fact::Share(share) => Some(share),
            Fact::Gateway(_) | Fact::Revoked(_) => None,
        })
    }

    fn share(&self, service: &ServiceName, subset: Subset) -> Share {
        let (mut healthy, mut total) = (0_u32, 0_u32);
        for workload in self.workloads_of(service) {
            if subset.contains(&workload.labels) {
                total = total.saturating_add(1);
                healthy = healthy.saturating_add(workload.health.takes_traffic().into());
            }
        }
        Share {
            cluster: self.own.clone(),
            service: service.clone(),
            subset,
            healthy,
            total,
        }
    }

    /// Counts a service's workloads anew: in all, and for each subset that a route names. A service
    /// that does not run here has no shares; one that does has a share for every subset, zero
    /// included, so that a missing one means "not known".
    fn refresh_shares(&mut self, service: &ServiceName, touched: &mut Touched) {
        let mut shares = BTreeMap::new();
        if self.workloads_of.of(service).next().is_some() {
            let named = self.declared.subsets_of(service);
            for subset in named.chain(std::iter::once(Subset::default())) {
                let share = self.share(service, subset);
                let body = encode(&Body::Share(share.clone()));
                shares.insert(Fact::Share(share).key(), body);
            }
        }
        let prefix = fact::share_prefix(service);
        let known = self.own_facts.range(prefix.clone()..);
        let gone: Vec<String> = known
            .take_while(|(key, _)| key.starts_with(&prefix))
            .filter(|(key, _)| !shares.contains_key(*key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.set_fact(key, None, touched);
        }
        for (key, value) in shares {
            self.set_fact(key, Some(value), touched);
        }
    }

    fn set_fact(&mut self, key: String, value: Option<Bytes>, touched: &mut Touched) {
        let before = match value.clone() {
            Some(value) => self.own_facts.insert(key.clone(), value),
            None => self.own_facts.remove(&key),
        };
        if before != value {
            touched.facts.insert(key, value);
        }
    }
}

fn encode(body: &Body) -> Bytes {
    body.encode().into()
}

#[cfg(test)]
mod tests;
