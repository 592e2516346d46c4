//! Where the requests for one (service, port, subset) can go, and what has been learnt of it.
//!
//! The engines of `balance` decide; here they are fed: facts from the view, tunnels as they come
//! and go, and the outcome of every try. One per worker, so nothing is locked.

mod shares;
mod tried;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::HashMap;
use isthmus_balance::{
    Budget, ClusterShare, Decision, Endpoints, Hedgeable, Hedging, Inbound, Outcome, Relief, Valve,
    WorkloadView,
};
use isthmus_model::{
    Algorithm, ClusterName, Handle, Health, Percent, ServiceName, Subset, TrafficSettings,
};
use tokio::sync::{Mutex, OwnedMutexGuard};

use self::shares::Compiled;
pub(crate) use self::tried::Try;
use crate::links::Links;
use crate::mux::Link;
use crate::reach::{AFTER_FAILURE, Tunnel, Unreachable};
use crate::view::ServiceView;

/// Distinct workloads of one remote cluster that a worker keeps tunnels to.
pub(crate) const MAX_TUNNELS: usize = 4;

/// How long what was learnt of a destination is of use to the next who calls it.
const REMEMBER: Duration = Duration::from_mins(10);

/// What is called: the same workloads can be behind several of these.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct DestinationKey {
    pub(crate) service: ServiceName,
    pub(crate) port: u16,
    pub(crate) subset: Subset,
}

/// All destinations of one worker.
pub(crate) struct Destinations {
    all: RefCell<HashMap<DestinationKey, Rc<Destination>>>,
    budgets: RefCell<HashMap<ServiceName, Rc<RefCell<Budget>>>>,
    inbound: RefCell<Inbound>,
}

/// One destination.
pub(crate) struct Destination {
    pub(crate) key: DestinationKey,
    state: RefCell<State>,
    opening: RefCell<BTreeMap<ClusterName, Opening>>,
    /// Since when nobody has been seen to hold it, nor a tunnel of it to stand.
    unused: Cell<Option<Instant>>,
    /// Requests and connections that wait for a way to a workload.
    pending: Cell<u32>,
}

/// Somebody who waits for a way.
pub(crate) struct Pending<'d>(&'d Destination);

/// The opening of tunnels to one cluster.
#[derive(Default)]
struct Opening {
    /// One opens, the others wait.
    turn: Arc<Mutex<()>>,
    failed: Option<(Instant, Unreachable)>,
}

/// The right to open a tunnel to a cluster, for as long as it is held.
pub(crate) type Turn = OwnedMutexGuard<()>;

#[derive(Default)]
struct State {
    valve: Valve,
    groups: BTreeMap<ClusterName, Group>,
    /// The facts that were taken in last.
    seen: Option<Arc<ServiceView>>,
    compiled: Option<Compiled>,
}

/// The workloads of one cluster.
struct Group {
    endpoints: Endpoints<Handle>,
    hedging: Hedging,
    tunnels: BTreeMap<Handle, Links>,
}

impl Destinations {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            all: RefCell::default(),
            budgets: RefCell::default(),
            inbound: RefCell::new(Inbound::new(now)),
        }
    }

    /// This workload was asked something, perhaps again: what it asks others in turn may be repeated
    /// the less, so that retries do not multiply along a chain of services.
    pub(crate) fn on_inbound(&self, is_retry: bool, now: Instant) {
        self.inbound.borrow_mut().on_request(is_retry, now);
    }

    pub(crate) fn find(&self, key: &DestinationKey) -> Rc<Destination> {
        let mut all = self.all.borrow_mut();
        if let Some(found) = all.get(key) {
            found.unused.set(None);
            return Rc::clone(found);
        }
        let new = Rc::new(Destination {
            key: key.clone(),
            state: RefCell::default(),
            opening: RefCell::default(),
            unused: Cell::default(),
            pending: Cell::new(0),
        });
        all.insert(key.clone(), Rc::clone(&new));
        new
    }

    /// What retries to `service` may add.
    pub(crate) fn budget(&self, service: &ServiceName, now: Instant) -> Rc<RefCell<Budget>> {
        let mut budgets = self.budgets.borrow_mut();
        let new = || Rc::new(RefCell::new(Budget::new(now)));
        let budget = budgets.entry(service.clone()).or_insert_with(new);
        let inbound = self.inbound.borrow().retry_share(now);
        budget.borrow_mut().set_inbound_retry_share(inbound);
        Rc::clone(budget)
    }

    /// Closes tunnels that were not used for `idle` or are older than `life`, and forgets broken
    /// ones, and what nobody has called for [`REMEMBER`].
    pub(crate) fn tidy(&self, idle: Duration, life: Duration, now: Instant) {
        let mut all = self.all.borrow_mut();
        let before = all.len();
        all.retain(|_, destination| {
            let stands = destination.state.borrow_mut().tidy(idle, life, now);
            let is_used = stands || Rc::strong_count(destination) > 1;
            let unused = destination.unused.get().unwrap_or(now);
            destination.unused.set((!is_used).then_some(unused));
            is_used || now.saturating_duration_since(unused) < REMEMBER
        });
        if all.len() < before {
            let called: HashSet<_> = all.keys().map(|key| &key.service).collect();
            self.budgets
                .borrow_mut()
                .retain(|service, _| called.contains(service));
        }
    }

    pub(crate) fn drain(&self) {
        for destination in self.all.borrow().values() {
            for group in destination.state.borrow().groups.values() {
                group.tunnels.values().for_each(Links::drain);
            }
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let pending = &self.0.pending;
        pending.set(pending.get().saturating_sub(1));
    }
}

impl Destination {
    /// Somebody begins to wait for a way; `None`: `most` do so already.
    pub(crate) fn wait(&self, most: Option<u32>) -> Option<Pending<'_>> {
        let waiting = self.pending.get();
        if most.is_some_and(|most| waiting >= most) {
            return None;
        }
        self.pending.set(waiting.saturating_add(1));
        Some(Pending(self))
    }

    /// Takes in facts and settings, if they are new.
    pub(crate) fn observe(
        &self,
        service: &Arc<ServiceView>,
        shares: &[ClusterShare],
        settings: &TrafficSettings,
        now: Instant,
    ) {
        let mut state = self.state.borrow_mut();
        if state
            .seen
            .as_ref()
            .is_some_and(|seen| Arc::ptr_eq(seen, service))
        {
            return;
        }
        state.seen = Some(Arc::clone(service));
        state.valve.observe(shares, now);
        for group in state.groups.values_mut() {
            group
                .endpoints
                .configure(settings.algorithm, settings.outlier.clone());
        }
        if let Some(local) = shares.iter().find(|share| share.local) {
            let panics = panics(local, shares, settings.outlier.panic);
            let workloads = self.local(service).filter(|workload| {
                let last_resort = panics && workload.health == Health::Unhealthy;
                workload.health.takes_traffic() || last_resort
            });
            let handles = workloads.map(|workload| workload.handle.clone());
            state
                .group(&local.cluster, settings)
                .endpoints
                .set(handles, now);
        }
    }

    pub(crate) fn pick_cluster(
        &self,
        shares: &[ClusterShare],
        avoid: &[ClusterName],
        now: Instant,
        draw: u64,
    ) -> Decision {
        self.state
            .borrow()
            .valve
            .pick_cluster(shares, avoid, now, draw)
    }

    /// Chooses among the workloads of `cluster` that are known: healthy ones of the own cluster,
    /// those with a tunnel elsewhere. `algorithm`: of the request, since routes that lead here may differ;
    /// `key`: for those that hash, see [`isthmus_balance::hash_key`].
    pub(crate) fn pick_workload(
        &self,
        cluster: &ClusterName,
        algorithm: Algorithm,
        key: Option<u64>,
        avoid: &[Handle],
        now: Instant,
        draw: u64,
    ) -> Option<Handle> {
        let state = self.state.borrow();
        let group = state.groups.get(cluster)?;
        group
            .endpoints
            .pick_by(algorithm, key, avoid, now, draw)
            .map(|picked| picked.key.clone())
    }

    /// The workloads of `cluster` that are known here, with their state.
    pub(crate) fn describe(
        &self,
        cluster: &ClusterName,
        now: Instant,
    ) -> Vec<WorkloadView<Handle>> {
        let state = self.state.borrow();
        state
            .groups
            .get(cluster)
            .map_or_else(Vec::new, |group| group.endpoints.describe(now))
    }

    /// The tunnel to a workload of another cluster, if it stands.
    pub(crate) fn tunnel(&self, cluster: &ClusterName, handle: &Handle) -> Option<Link> {
        let state = self.state.borrow();
        let tunnels = state.groups.get(cluster)?.tunnels.get(handle)?;
        tunnels.pick().cloned()
    }

    /// Is there a tunnel to `cluster`?
    pub(crate) fn is_tunnelled(&self, cluster: &ClusterName) -> bool {
        self.state.borrow().is_tunnelled(cluster)
    }

    /// Workloads of `cluster` that tunnels stand to.
    pub(crate) fn tunnelled(&self, cluster: &ClusterName, now: Instant) -> Vec<Handle> {
        let mut state = self.state.borrow_mut();
        let Some(group) = state.groups.get_mut(cluster) else {
            return Vec::new();
        };
        group.drop_broken(now);
        group.tunnels.keys().cloned().collect()
    }

    pub(crate) fn add_tunnel(
        &self,
        cluster: &ClusterName,
        tunnel: Tunnel,
        settings: &TrafficSettings,
        now: Instant,
    ) {
        let mut state = self.state.borrow_mut();
        let group = state.group(cluster, settings);
        let links = group.tunnels.entry(tunnel.handle).or_default();
        links.add(tunnel.link, now);
        group.refresh(now);
    }

    /// Does a tunnel to `cluster` stand that takes a request, or whose workload may get no further one?
    pub(crate) fn has_way(&self, cluster: &ClusterName, now: Instant) -> bool {
        let mut state = self.state.borrow_mut();
        state.groups.get_mut(cluster).is_some_and(|group| {
            group.drop_broken(now);
            group.tunnels.values().any(|links| !links.wants_more())
        })
    }

    /// Workloads of `cluster` whose tunnels carry as many requests as they may, so that one more is to
    /// be opened.
    pub(crate) fn full(&self, cluster: &ClusterName) -> Vec<Handle> {
        let state = self.state.borrow();
        let group = state.groups.get(cluster);
        let tunnels = group.into_iter().flat_map(|group| &group.tunnels);
        tunnels
            .filter(|(_, links)| links.wants_more())
            .map(|(handle, _)| handle.clone())
            .collect()
    }

    /// Whom to wait for when a tunnel to `cluster` is being opened.
    pub(crate) fn turn(&self, cluster: &ClusterName) -> Arc<Mutex<()>> {
        let mut opening = self.opening.borrow_mut();
        Arc::clone(&opening.entry(cluster.clone()).or_default().turn)
    }

    /// The turn, for a tunnel that nobody waits for: only if nobody has it, and not again just after
    /// it has failed.
    pub(crate) fn spare_turn(&self, cluster: &ClusterName, now: Instant) -> Option<Turn> {
        let mut opening = self.opening.borrow_mut();
        let opening = opening.entry(cluster.clone()).or_default();
        let failed_lately = opening
            .failed
            .as_ref()
            .is_some_and(|(at, _)| now.saturating_duration_since(*at) < AFTER_FAILURE);
        if failed_lately {
            return None;
        }
        Arc::clone(&opening.turn).try_lock_owned().ok()
    }

    /// The first tunnel to `cluster` stands. If the cluster was left because it failed, this is the
    /// proof that it can be reached again.
    pub(crate) fn reached(&self, cluster: &ClusterName, now: Instant) {
        self.state.borrow_mut().valve.reached(cluster, now);
        let mut opening = self.opening.borrow_mut();
        opening.entry(cluster.clone()).or_default().failed = None;
    }

    /// No tunnel to `cluster` could be opened.
    pub(crate) fn not_reached(&self, cluster: &ClusterName, error: Unreachable, now: Instant) {
        let mut opening = self.opening.borrow_mut();
        opening.entry(cluster.clone()).or_default().failed = Some((now, error));
    }

    /// Why the last tunnel to `cluster` could not be opened, if it could not.
    pub(crate) fn why_not_reached(&self, cluster: &ClusterName) -> Option<Unreachable> {
        let opening = self.opening.borrow();
        let (_, error) = opening.get(cluster)?.failed.as_ref()?;
        Some(error.clone())
    }

    /// A try sets out to `cluster`.
    pub(crate) fn begin(self: &Rc<Self>, cluster: &ClusterName, now: Instant) -> Try {
        let cluster = self.state.borrow_mut().valve.begin(cluster, now);
        Try::begin(self, cluster, now)
    }

    /// When to ask [`Destination::may_hedge`]; `None`: never for this request.
    pub(crate) fn hedge_at(&self, cluster: &ClusterName, request: &Hedgeable) -> Option<Instant> {
        let state = self.state.borrow();
        state.groups.get(cluster)?.hedging.next_timeout(request)
    }

    /// May the request be sent to `cluster` once more? Draws on `budget` if so.
    pub(crate) fn may_hedge(
        &self,
        cluster: &ClusterName,
        request: &Hedgeable,
        budget: &mut Budget,
        percent: Percent,
        now: Instant,
    ) -> bool {
        let state = self.state.borrow();
        let utilisation = state.valve.utilisation(cluster, now);
        state.groups.get(cluster).is_some_and(|group| {
            let may = group
                .hedging
                .hedge(request, utilisation, budget, percent, now);
            may.is_ok()
        })
    }

    /// See [`Valve::leaves`].
    pub(crate) fn leaves(&self, failed: &ClusterName, elsewhere: &Decision) -> bool {
        self.state.borrow().valve.leaves(failed, elsewhere)
    }

    /// Are `workloads`, where this request has failed, all that are healthy in the cluster, as far as `decision` knows?
    pub(crate) fn has_failed_everywhere(
        &self,
        cluster: &ClusterName,
        decision: &Decision,
        workloads: &[Handle],
    ) -> bool {
        let state = self.state.borrow();
        let Some(group) = state.groups.get(cluster) else {
            return false;
        };
        let candidates = decision.candidates().iter();
        let mut shares = candidates.map(|considered| &considered.share);
        let share = shares.find(|share| share.cluster == *cluster);
        let failed = workloads
            .iter()
            .filter(|handle| group.endpoints.contains(handle));
        share.is_some_and(|share| failed.count() >= share.healthy as usize)
    }

    /// See [`Valve::relief`]: a try at `workload` of `failed` has ended.
    pub(crate) fn relief(
        &self,
        outcome: Outcome,
        failed: &ClusterName,
        workload: Option<&Handle>,
        next: &Decision,
        now: Instant,
    ) -> Relief {
        let state = self.state.borrow();
        let group = state.groups.get(failed);
        let is_ejected =
            |(handle, group): (&Handle, &Group)| group.endpoints.is_ejected(handle, now);
        let ejected = workload.zip(group).is_some_and(is_ejected);
        state.valve.relief(outcome, failed, ejected, next, now)
    }
}

/// Is so little of the own cluster healthy, and nothing elsewhere, that the rest is worth a try, too?
fn panics(local: &ClusterShare, shares: &[ClusterShare], below: Percent) -> bool {
    let serves = |share: &&ClusterShare| !share.local && share.barred.is_none();
    let elsewhere = shares.iter().filter(serves).any(|share| share.healthy > 0);
    let share = f64::from(local.healthy) / f64::from(local.total.max(1));
    !elsewhere && share < below.fraction()
}

impl State {
    fn is_tunnelled(&self, cluster: &ClusterName) -> bool {
        let group = self.groups.get(cluster);
        let mut tunnels = group.into_iter().flat_map(|group| group.tunnels.values());
        tunnels.any(|links| !links.is_empty())
    }

    fn group(&mut self, cluster: &ClusterName, settings: &TrafficSettings) -> &mut Group {
        self.groups.entry(cluster.clone()).or_insert_with(|| Group {
            endpoints: Endpoints::new(settings.algorithm, settings.outlier.clone()),
            hedging: Hedging::default(),
            tunnels: BTreeMap::new(),
        })
    }

    /// True: tunnels stand.
    fn tidy(&mut self, idle: Duration, life: Duration, now: Instant) -> bool {
        for group in self.groups.values_mut() {
            for links in group.tunnels.values_mut() {
                links.tidy(idle, life, now);
            }
            group.drop_broken(now);
        }
        let mut groups = self.groups.values();
        groups.any(|group| !group.tunnels.is_empty())
    }
}

impl Group {
    fn drop_broken(&mut self, now: Instant) {
        let before = self.tunnels.len();
        self.tunnels.retain(|_, links| {
            links.drop_leaving();
            !links.is_empty()
        });
        if self.tunnels.len() != before {
            self.refresh(now);
        }
    }

    fn refresh(&mut self, now: Instant) {
        self.endpoints.set(self.tunnels.keys().cloned(), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_that_nobody_calls_is_forgotten_in_the_end() {
        let start = Instant::now();
        let destinations = Destinations::new(start);
        let key = DestinationKey {
            service: ServiceName::new("shop", "cart").unwrap(),
            port: 80,
            subset: Subset::default(),
        };
        let kept = |at: Duration| {
            let idle = Duration::from_secs(90);
            destinations.tidy(idle, Duration::MAX, start + at);
            let kept = destinations.all.borrow().len();
            assert_eq!(destinations.budgets.borrow().len(), kept);
            kept
        };
        let second = Duration::from_secs(1);
        let held = destinations.find(&key);
        destinations.budget(&key.service, start);
        assert_eq!(kept(2 * REMEMBER), 1, "somebody holds it");
        drop(held);
        assert_eq!(kept(2 * REMEMBER + second), 1);
        assert_eq!(kept(3 * REMEMBER), 1);
        drop(destinations.find(&key));
        assert_eq!(kept(3 * REMEMBER + second), 1, "somebody has called it");
        assert_eq!(kept(4 * REMEMBER), 1);
        assert_eq!(kept(4 * REMEMBER + second), 0);
    }
}
