//! What a proxy knows about each cluster of one (service, port, subset) from its own requests and
//! from the facts it was told: what changes it, and whether it makes a cluster hot. Choosing among
//! clusters so considered is [`crate::choice`].

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use isthmus_model::ClusterName;

use crate::breaker::{Breaker, Change, Gate, Pass};
use crate::choice::{ClusterShare, Considered, Decision, Hot};
use crate::constants::{EVIDENCE, STALE_AFTER};
use crate::limit::Limit;
use crate::outcome::{Evidence, Outcome};
use crate::ramp::{self, Ramp};

/// The state behind the choice of a cluster. One per (service, port, subset) that is called.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Valve {
    clusters: BTreeMap<ClusterName, ClusterState>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct ClusterState {
    breaker: Breaker,
    in_flight: u32,
    limit: Limit,
    /// Set while it gets back its share.
    ramp: Option<Ramp>,
    succeeded: Option<Instant>,
    /// What the last facts said: had it a healthy workload?
    was_healthy: Option<bool>,
}

/// A try that is on its way to a cluster. Invariant: every one is given back to
/// [`Valve::finish`], also when its request is dropped; else it counts as in flight for ever.
#[derive(Debug)]
#[must_use = "give it back to Valve::finish when the try ends"]
pub struct ClusterTry {
    cluster: ClusterName,
    pass: Pass,
}

impl ClusterTry {
    pub fn cluster(&self) -> &ClusterName {
        &self.cluster
    }
}

impl Valve {
    /// New facts have come. A cluster that had no healthy workload and has one again returns: its
    /// slow start begins, and an open breaker asks at once. A cluster seen for the first time, and
    /// one that is missing (which means unknown), changes nothing.
    pub fn observe(&mut self, shares: &[ClusterShare], now: Instant) {
        for share in shares {
            let state = self.state(&share.cluster);
            let healthy = share.healthy > 0;
            if healthy && state.was_healthy == Some(false) {
                state.ramp = Some(Ramp { since: now });
                state.breaker.invite(now);
            }
            state.was_healthy = Some(healthy);
        }
    }

    /// Chooses the cluster for a try. `avoid`: clusters where this request has failed. `draw`:
    /// uniformly distributed, one per request.
    ///
    /// Changes nothing: asked twice with the same state, it answers twice the same.
    pub fn pick_cluster(
        &self,
        shares: &[ClusterShare],
        avoid: &[ClusterName],
        now: Instant,
        draw: u64,
    ) -> Decision {
        let consider = |share| self.consider(share, avoid, now);
        Decision::among(shares.iter().map(consider).collect(), draw)
    }

    /// A try sets out to `cluster`.
    pub fn begin(&mut self, cluster: &ClusterName, now: Instant) -> ClusterTry {
        let state = self.state(cluster);
        state.in_flight = state.in_flight.saturating_add(1);
        ClusterTry {
            cluster: cluster.clone(),
            pass: state.breaker.begin(now),
        }
    }

    /// A try has ended.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a try ends once: it is consumed"
    )]
    pub fn finish(&mut self, ended: ClusterTry, outcome: Outcome, now: Instant) {
        let evidence = outcome.evidence();
        let state = self.state(&ended.cluster);
        state.in_flight = state.in_flight.saturating_sub(1);
        if evidence == Evidence::Success {
            state.succeeded = Some(now);
        }
        if state.breaker.finish(&ended.pass, evidence, now) == Change::Closed {
            state.ramp = Some(Ramp { since: now });
        }
    }

    /// A way to `cluster` was found where there was none: if the cluster was left because it failed,
    /// it returns. No request has to ask, which matters most for one that none would choose, as
    /// there is a nearer one: it must be of help when the nearer one dies.
    pub fn reached(&mut self, cluster: &ClusterName, now: Instant) {
        let state = self.state(cluster);
        if state.breaker.reached(now) == Change::Closed {
            state.ramp = Some(Ramp { since: now });
        }
    }

    /// Where a learner puts what it found.
    pub fn set_limit(&mut self, cluster: &ClusterName, limit: Limit) {
        self.state(cluster).limit = limit;
    }

    /// Requests on their way to `cluster`.
    pub fn in_flight(&self, cluster: &ClusterName) -> u32 {
        self.clusters
            .get(cluster)
            .map_or(0, |state| state.in_flight)
    }

    /// Is going from `failed` to what `next` chose an escape from a dead cluster to a living one? Its
    /// breaker is open, and the next is another and not hot. Such a retry moves a request and adds
    /// no load: see [`crate::Budget`].
    pub fn is_escape(&self, failed: &ClusterName, next: &Decision, now: Instant) -> bool {
        let out = self
            .clusters
            .get(failed)
            .is_some_and(|state| state.breaker.gate(now) != Gate::Closed);
        let to = next.chosen();
        out && to.is_some_and(|to| to.share.cluster != *failed && to.hot.is_none())
    }

    fn consider(&self, share: &ClusterShare, avoid: &[ClusterName], now: Instant) -> Considered {
        let unused = ClusterState::default();
        let state = self.clusters.get(&share.cluster).unwrap_or(&unused);
        let gate = state.breaker.gate(now);
        let hot = heat(share, state, gate, !avoid.is_empty());
        Considered {
            // Known once all are compared.
            rank: 0,
            trusted: share.age < STALE_AFTER || state.succeeded_lately(now),
            in_flight: state.in_flight,
            hot,
            probe: gate == Gate::MayProbe && hot.is_none(),
            slow_start: ramp::share(state.ramp, now),
            avoided: avoid.contains(&share.cluster),
            share: share.clone(),
        }
    }

    fn state(&mut self, cluster: &ClusterName) -> &mut ClusterState {
        self.clusters.entry(cluster.clone()).or_default()
    }
}

impl ClusterState {
    fn succeeded_lately(&self, now: Instant) -> bool {
        self.succeeded
            .is_some_and(|at| now.saturating_duration_since(at) <= EVIDENCE)
    }
}

/// The phases of the valve, the surest evidence first.
fn heat(share: &ClusterShare, state: &ClusterState, gate: Gate, is_retry: bool) -> Option<Hot> {
    if share.healthy == 0 {
        return Some(Hot::NoHealthyWorkload);
    }
    match gate {
        Gate::Open { remaining } => return Some(Hot::BreakerOpen { remaining }),
        Gate::Probing => return Some(Hot::Probing),
        Gate::MayProbe if !share.connected => return Some(Hot::Unreached),
        // A request that has failed once should go where it surely works.
        Gate::MayProbe if is_retry => {
            return Some(Hot::BreakerOpen {
                remaining: Duration::ZERO,
            });
        }
        Gate::MayProbe | Gate::Closed => {}
    }
    let in_flight = state.in_flight;
    let limit = state.limit.exceeded_by(in_flight)?;
    Some(Hot::OverLimit { in_flight, limit })
}
