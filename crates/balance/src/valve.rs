//! What a proxy knows about each cluster of one (service, port, subset) from its own requests and
//! from the facts it was told. Changing it is here; choosing from it is [`crate::choice`].

use std::collections::BTreeMap;
use std::time::Instant;

use isthmus_model::ClusterName;

use crate::breaker::{Breaker, Change, Gate, Pass};
use crate::choice::{ClusterShare, Decision};
use crate::limit::Limit;

use crate::outcome::{Evidence, Outcome};
use crate::ramp::Ramp;

/// The state behind the choice of a cluster. One per (service, port, subset) that is called.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Valve {
    pub(crate) clusters: BTreeMap<ClusterName, ClusterState>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ClusterState {
    pub(crate) breaker: Breaker,
    pub(crate) in_flight: u32,
    pub(crate) limit: Limit,
    /// Set while it gets back its share.
    pub(crate) ramp: Option<Ramp>,
    pub(crate) succeeded: Option<Instant>,
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

    fn state(&mut self, cluster: &ClusterName) -> &mut ClusterState {
        self.clusters.entry(cluster.clone()).or_default()
    }
}
