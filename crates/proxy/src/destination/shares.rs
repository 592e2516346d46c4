//! What the facts say of each cluster, as the engines of `balance` take it.

use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use isthmus_authz::Permit;
use isthmus_balance::{Barred, ClusterShare};
use isthmus_model::{ALL_TRAFFIC, AppProtocol, LocalityOrder, TrafficSettings, Workload};

use super::Destination;
use crate::view::{ServiceView, View};

/// What facts and settings say of each cluster: the same for every request that sees the same. All come of
/// one caller, whose worker this is.
pub(super) struct Compiled {
    view: Weak<View>,
    settings: Arc<TrafficSettings>,
    shares: Rc<[ClusterShare]>,
}

impl Compiled {
    /// What it points to cannot have become something else: both are held.
    fn is_of(&self, view: &Arc<View>, settings: &Arc<TrafficSettings>) -> bool {
        let same_view = std::ptr::eq(self.view.as_ptr(), Arc::as_ptr(view));
        same_view && Arc::ptr_eq(&self.settings, settings)
    }
}

impl Destination {
    /// What the facts say of each cluster, as seen by the caller, who holds `permit`.
    pub(crate) fn shares(
        &self,
        view: &Arc<View>,
        service: &ServiceView,
        permit: &Permit,
        settings: &Arc<TrafficSettings>,
    ) -> Rc<[ClusterShare]> {
        let state = self.state.borrow();
        let compiled = state.compiled.as_ref();
        let compiled = compiled.filter(|compiled| compiled.is_of(view, settings));
        let tunnels_are_as_then = |shares: &[ClusterShare]| {
            let mut remote = shares.iter().filter(|share| !share.local);
            remote.all(|share| share.connected == state.is_tunnelled(&share.cluster))
        };
        if let Some(Compiled { shares, .. }) = compiled
            && tunnels_are_as_then(shares)
        {
            return Rc::clone(shares);
        }
        drop(state);
        let shares = self.compile(view, service, permit, settings);
        self.state.borrow_mut().compiled = Some(Compiled {
            view: Arc::downgrade(view),
            settings: Arc::clone(settings),
            shares: Rc::clone(&shares),
        });
        shares
    }

    fn compile(
        &self,
        view: &View,
        service: &ServiceView,
        permit: &Permit,
        settings: &TrafficSettings,
    ) -> Rc<[ClusterShare]> {
        let own = view.own();
        let protocol = service.service.find_port(Some(self.key.port));
        let most = match protocol.map(|port| port.protocol) {
            Some(AppProtocol::Http1 | AppProtocol::Http2) => settings.limits.requests,
            Some(AppProtocol::Tcp | AppProtocol::Undeclared) | None => settings.limits.connections,
        };
        let count = |workloads: &mut dyn Iterator<Item = &Workload>| {
            workloads.fold((0, 0), |(healthy, total), workload| {
                (
                    healthy + u32::from(workload.health.takes_traffic()),
                    total + 1,
                )
            })
        };
        let (healthy, total) = count(&mut self.local(service));
        let local = ClusterShare {
            cluster: own.clone(),
            local: true,
            healthy,
            total,
            age: Duration::ZERO,
            rtt: Some(Duration::ZERO),
            connected: true,
            most,
            traffic: view
                .cluster(own)
                .map_or(ALL_TRAFFIC, |own| own.cluster.traffic),
            barred: None,
        };
        let remote = service
            .shares
            .iter()
            .filter(|share| share.cluster != *own && share.subset == self.key.subset);
        let remote = remote.filter_map(|share| {
            let cluster = view.cluster(&share.cluster)?;
            Some(ClusterShare {
                cluster: share.cluster.clone(),
                local: false,
                healthy: share.healthy,
                total: share.total,
                age: cluster.age,
                rtt: cluster.rtt,
                connected: self.is_tunnelled(&share.cluster),
                most,
                traffic: cluster.cluster.traffic,
                barred: if permit.reaches(&share.cluster).is_err() {
                    Some(Barred::NotExported)
                } else if settings.locality_order == LocalityOrder::LocalOnly {
                    Some(Barred::LocalOnly)
                } else {
                    None
                },
            })
        });
        (total > 0)
            .then_some(local)
            .into_iter()
            .chain(remote)
            .collect()
    }

    /// Workloads of the own cluster that belong here.
    pub(super) fn local<'s>(
        &'s self,
        service: &'s ServiceView,
    ) -> impl Iterator<Item = &'s Workload> {
        service
            .workloads
            .iter()
            .filter(|workload| self.key.subset.contains(&workload.labels))
    }
}
