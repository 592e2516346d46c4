//! The mesh as this cluster sees it.

use std::time::Instant;

use isthmus_api::{
    AuthorityStatus, ClusterStatus, Contact, GatewayStatus, ProxyStatus, ServiceShare,
    ServiceStatus, StatusView,
};
use isthmus_model::{Cluster, ClusterName};
use isthmus_world::Store;

use super::publishing::ProxySession;
use super::{Core, Now};
use crate::authority::Group;

impl<S: Store> Core<S> {
    pub(super) fn status(&self, at: Now) -> StatusView {
        let now = at.monotonic;
        let group = self.authority.group();
        let leads = group.is_some_and(Group::leads);
        let way = self.way_to_authority(now);
        let reachable = leads || way.is_some();
        let leader = group.and_then(Group::leader).cloned();
        // Whoever is no member of it knows somebody who is.
        let authority = leader.or_else(|| way.map(|(_, cluster)| cluster));
        let only = || match self.authority.clusters().len() {
            1 => self.authority.clusters().first().cloned(),
            _ => None,
        };
        let authority = authority.or_else(only);
        let declared = self.index.declared();
        let connected = self.publishing.sessions().map(|(_, proxy)| (proxy, true));
        let gone = self.publishing.gone().map(|proxy| (proxy, false));
        let proxies = connected
            .chain(gone)
            .filter(|(proxy, _)| !proxy.process.is_empty());
        let mut proxies: Vec<_> = proxies
            .map(|(proxy, on)| self.proxy_status(proxy, on))
            .collect();
        proxies.sort_by(|a, b| a.process.cmp(&b.process));
        StatusView {
            mesh: self.settings.mesh.to_string(),
            trust_domain: self.settings.trust_domain.to_string(),
            cluster: self.settings.cluster.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            position: self.position().0,
            authority: AuthorityStatus {
                cluster: authority.map(|cluster| cluster.to_string()),
                reachable,
                lost_vote: self.lost_vote(),
            },
            clusters: declared
                .clusters()
                .map(|cluster| self.cluster_status(cluster, now))
                .collect(),
            services: declared
                .services()
                .map(|name| self.service_status(name))
                .collect(),
            proxies,
            certificates: self.certificate_status(at.wall),
            held: self.held_status(now),
        }
    }

    fn cluster_status(&self, cluster: &Cluster, now: Instant) -> ClusterStatus {
        let own = cluster.name == self.settings.cluster;
        let (contact, age_ms) = self.contact_of(&cluster.name, now);
        let rtt = self.replica.rtt(&cluster.name).filter(|_| !own);
        let gateways = self.index.gateways(&cluster.name).into_iter();
        ClusterStatus {
            name: cluster.name.to_string(),
            region: cluster.region.to_string(),
            contact,
            age_ms,
            rtt_ms: rtt.map(|rtt| rtt.smoothed.as_secs_f64() * 1000.0),
            traffic: cluster.traffic,
            behind: self.behind_status(&cluster.name, now),
            gateways: gateways
                .map(|gateway| GatewayStatus {
                    name: gateway.name.clone(),
                    address: gateway.address.to_string(),
                    healthy: gateway.healthy,
                })
                .collect(),
        }
    }

    /// Whether a cluster is heard, and for how many milliseconds it was not.
    pub(super) fn contact_of(&self, name: &ClusterName, now: Instant) -> (Contact, Option<u64>) {
        let (contact, age) = self.replica.contact(name, now);
        let contact = match contact {
            _ if *name == self.settings.cluster => Contact::Own,
            isthmus_replica::Contact::Never => Contact::Never,
            isthmus_replica::Contact::Live => Contact::Live,
            isthmus_replica::Contact::Stale => Contact::Stale,
            isthmus_replica::Contact::Lost => Contact::Lost,
        };
        let age = age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        (contact, age)
    }

    fn service_status(&self, name: &isthmus_model::ServiceName) -> ServiceStatus {
        let shares = self.index.whole_shares(name).into_iter();
        ServiceStatus {
            name: name.to_string(),
            exported: self.index.declared().is_exported(name),
            clusters: shares
                .map(|share| ServiceShare {
                    cluster: share.cluster.to_string(),
                    healthy: share.healthy,
                    total: share.total,
                })
                .collect(),
        }
    }

    fn proxy_status(&self, proxy: &ProxySession, connected: bool) -> ProxyStatus {
        ProxyStatus {
            process: proxy.process.clone(),
            identity: proxy.identity.to_string(),
            admission: proxy.admission.map(|admission| admission.to_string()),
            connected,
            position: proxy.position(self.position()).0,
            rejected: proxy.rejections(),
        }
    }
}
