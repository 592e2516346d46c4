//! What a proxy knows about each cluster of one (service, port, subset) from its own requests and
//! from the facts it was told: what changes it, and whether it makes a cluster hot. Choosing among
//! clusters so considered is [`crate::choice`].

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use isthmus_model::ClusterName;

use crate::attempts::Relief;
use crate::breaker::{Breaker, Change, Gate, Pass};
use crate::choice::{ClusterShare, Considered, Decision, Hot};
use crate::constants::{
    BUSY_KEPT, EVIDENCE, HEDGE_KNOWN, SHED_WEIGHT, STALE_AFTER, WORKLOAD_FLOOR,
};
use crate::limit::{Held, Load, Room, Siblings, Told};
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
    load: Load,
    crew: Crew,
    rtt: Option<Duration>,
    local: bool,
    /// Set while it gets back its share.
    ramp: Option<Ramp>,
    succeeded: Option<Instant>,
    /// What part of the last requests it turned away, and when it last did so.
    sheds: f64,
    shed: Option<Instant>,
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
    held: Held,
}

/// The healthy workloads of a cluster: those that joined are counted in full only after the slow
/// start.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Crew {
    settled: u32,
    joined: u32,
    ramp: Option<Ramp>,
}

impl ClusterTry {
    pub fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// The way is found, and the request goes out now: what it took to find it is not latency.
    pub fn sent(&mut self, now: Instant) {
        self.held.sent(now);
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
            state.crew.change(share.healthy, now);
            (state.rtt, state.local) = (share.rtt, share.local);
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
        let known = self.clusters.values();
        let siblings = Siblings::of(known.map(|state| (&state.load, state.room(now))));
        let consider = |share| self.consider(share, avoid, siblings, now);
        Decision::among(shares.iter().map(consider).collect(), draw)
    }

    /// A try sets out to `cluster`.
    pub fn begin(&mut self, cluster: &ClusterName, now: Instant) -> ClusterTry {
        let state = self.state(cluster);
        state.in_flight = state.in_flight.saturating_add(1);
        let room = state.room(now);
        ClusterTry {
            cluster: cluster.clone(),
            pass: state.breaker.begin(now),
            held: state.load.begin(room, now),
        }
    }

    /// The request is still coming in: until all of it is there, the try waits for whoever sends it, and
    /// says nothing of the cluster.
    pub fn receive(&mut self, coming: &mut ClusterTry, now: Instant) {
        let state = self.clusters.entry(coming.cluster.clone()).or_default();
        state.load.set_aside(&mut coming.held, now);
    }

    /// All of the request is there, and nothing of the reply: from now on the try waits for the cluster.
    pub fn received(&mut self, coming: &mut ClusterTry, now: Instant) {
        let state = self.clusters.entry(coming.cluster.clone()).or_default();
        let room = state.room(now);
        coming.held = state.load.take_up(room, now);
    }

    /// The first byte of the reply is here; `evidence`: what its status says. `told`: what it says of its
    /// workload.
    pub fn replied(
        &mut self,
        replied: &mut ClusterTry,
        evidence: Evidence,
        told: Told,
        now: Instant,
    ) {
        let state = self.clusters.entry(replied.cluster.clone()).or_default();
        let held = &mut replied.held;
        state.load.told(told.utilisation, now);
        match evidence {
            Evidence::Success => state.load.replied(held, told.waited, now),
            Evidence::Failure => state.load.failed(held, now),
            Evidence::Neutral => state.load.dropped(held, now),
        }
    }

    /// How much of the cluster's capacity its replies say is in use, 0.0 to 1.0, if they do and it is not
    /// long ago: what [`crate::Hedging`] asks.
    pub fn utilisation(&self, cluster: &ClusterName, now: Instant) -> Option<f64> {
        self.clusters
            .get(cluster)?
            .load
            .utilisation(HEDGE_KNOWN, now)
    }

    /// A try has ended.
    pub fn finish(&mut self, mut ended: ClusterTry, outcome: Outcome, now: Instant) {
        let evidence = outcome.evidence();
        let state = self.state(&ended.cluster);
        state.in_flight = state.in_flight.saturating_sub(1);
        match evidence {
            Evidence::Success => {
                state.succeeded = Some(now);
                state.load.replied(&mut ended.held, None, now);
            }
            Evidence::Failure => state.load.failed(&mut ended.held, now),
            Evidence::Neutral => state.load.dropped(&mut ended.held, now),
        }
        let is_shed = matches!(outcome, Outcome::Shed | Outcome::Refused { .. });
        if is_shed && state.shed_of_late(now) <= 0.0 {
            // What was before is over.
            state.sheds = 0.0;
        }
        if is_shed || evidence == Evidence::Success {
            state.sheds += SHED_WEIGHT * (f64::from(u8::from(is_shed)) - state.sheds);
        }
        if is_shed {
            state.shed = Some(now);
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

    /// How many requests each workload of `cluster` is assumed to hold at once until this is learnt;
    /// without it, what was learnt of other clusters.
    pub fn assume(&mut self, cluster: &ClusterName, concurrency: f64) {
        self.state(cluster).load.assume(concurrency);
    }

    /// Should a retry leave `failed` as a whole for what `elsewhere` chose, to which it would go then?
    /// The last tries there have failed, one like the other, so it is hardly the fault of a workload; and
    /// another cluster has room.
    pub fn leaves(&self, failed: &ClusterName, elsewhere: &Decision) -> bool {
        self.keeps_failing(failed) && has_room_beyond(failed, elsewhere)
    }

    fn keeps_failing(&self, cluster: &ClusterName) -> bool {
        let state = self.clusters.get(cluster);
        state.is_some_and(|state| state.breaker.keeps_failing())
    }

    /// Requests on their way to `cluster`.
    pub fn in_flight(&self, cluster: &ClusterName) -> u32 {
        self.clusters
            .get(cluster)
            .map_or(0, |state| state.in_flight)
    }

    /// What going from `failed`, where a try ended with `outcome`, to what `next` chose would be.
    /// `ejected`: the workload that failed has been.
    pub fn relief(
        &self,
        outcome: Outcome,
        failed: &ClusterName,
        ejected: bool,
        next: &Decision,
        now: Instant,
    ) -> Relief {
        let state = self.clusters.get(failed);
        let is_out = state.is_some_and(|state| state.breaker.gate(now) != Gate::Closed);
        let to = next.chosen();
        let has_room = to.is_some_and(Considered::has_room);
        let elsewhere = has_room_beyond(failed, next);
        let nobody_has_it = match outcome {
            Outcome::Lost => to.is_some_and(Considered::works),
            Outcome::Shed | Outcome::Refused { .. } => elsewhere,
            _ => false,
        };
        if nobody_has_it || (is_out && elsewhere) || (ejected && has_room) {
            Relief::Moves
        } else if elsewhere && self.keeps_failing(failed) {
            Relief::Room
        } else {
            Relief::None
        }
    }

    fn consider(
        &self,
        share: &ClusterShare,
        avoid: &[ClusterName],
        siblings: Siblings,
        now: Instant,
    ) -> Considered {
        let unused = ClusterState::default();
        let state = self.clusters.get(&share.cluster).unwrap_or(&unused);
        let gate = state.breaker.gate(now);
        let room = state.room(now);
        let at_most = share.most.filter(|most| state.in_flight >= *most);
        let hot = broken(share, gate, !avoid.is_empty())
            .or((share.traffic == 0).then_some(Hot::Drained))
            .or(at_most.map(|limit| Hot::AtMost { limit }))
            .or_else(|| loaded(&state.load, room, siblings, now));
        Considered {
            // Known once all are compared.
            rank: 0,
            trusted: share.age < STALE_AFTER || state.succeeded_lately(now),
            in_flight: state.in_flight,
            predicted: predicted(share, &state.load, siblings, now),
            hot,
            probe: gate == Gate::MayProbe && hot.is_none(),
            slow_start: ramp::share(state.ramp, now),
            shed: state.shed_of_late(now),
            avoided: avoid.contains(&share.cluster),
            share: share.clone(),
        }
    }

    fn state(&mut self, cluster: &ClusterName) -> &mut ClusterState {
        self.clusters.entry(cluster.clone()).or_default()
    }
}

impl ClusterState {
    /// As it was when facts came last.
    fn room(&self, now: Instant) -> Room {
        let workloads = self.crew.size(now);
        Room {
            workloads: if workloads > 0.0 { workloads } else { 1.0 },
            rtt: self
                .rtt
                .filter(|_| !self.local)
                .unwrap_or_default()
                .as_secs_f64(),
            local: self.local,
        }
    }

    /// What part it turns away, as far as that says anything of now.
    fn shed_of_late(&self, now: Instant) -> f64 {
        let lately = |at| now.saturating_duration_since(at) < BUSY_KEPT;
        self.shed
            .filter(|at| lately(*at))
            .map_or(0.0, |_| self.sheds)
    }

    fn succeeded_lately(&self, now: Instant) -> bool {
        self.succeeded
            .is_some_and(|at| now.saturating_duration_since(at) <= EVIDENCE)
    }
}

impl Crew {
    /// New facts: `healthy` workloads. The first ones count in full, since there is nothing that
    /// they could be compared with.
    fn change(&mut self, healthy: u32, now: Instant) {
        let before = self.settled + self.joined;
        let over = self
            .ramp
            .is_some_and(|ramp| ramp::share(Some(ramp), now) >= 1.0);
        if before == 0 || over || healthy <= self.settled {
            self.settled = if before == 0 {
                healthy
            } else {
                before.min(healthy)
            };
            self.joined = healthy - self.settled;
            self.ramp = (self.joined > 0).then_some(Ramp { since: now });
        } else {
            self.joined = healthy - self.settled;
            self.ramp = if healthy > before {
                Some(Ramp { since: now })
            } else {
                self.ramp
            };
        }
    }

    /// New ones count [`WORKLOAD_FLOOR`] at first.
    fn size(self, now: Instant) -> f64 {
        let part = ramp::share(self.ramp, now).max(WORKLOAD_FLOOR);
        f64::from(self.settled) + f64::from(self.joined) * part
    }
}

/// Does it lead to another cluster than `failed`, which has room?
fn has_room_beyond(failed: &ClusterName, decision: &Decision) -> bool {
    let leaves = |to: &&Considered| to.share.cluster != *failed;
    decision
        .chosen()
        .filter(leaves)
        .is_some_and(Considered::has_room)
}

/// Away from a cluster that is down, the surest evidence first.
fn broken(share: &ClusterShare, gate: Gate, is_retry: bool) -> Option<Hot> {
    if share.healthy == 0 {
        return Some(Hot::NoHealthyWorkload);
    }
    match gate {
        Gate::Open { remaining } => Some(Hot::BreakerOpen { remaining }),
        Gate::Probing => Some(Hot::Probing),
        Gate::MayProbe if !share.connected => Some(Hot::Unreached),
        // A request that has failed once should go where it surely works.
        Gate::MayProbe if is_retry => Some(Hot::BreakerOpen {
            remaining: Duration::ZERO,
        }),
        Gate::MayProbe | Gate::Closed => None,
    }
}

/// Away from a cluster that holds all that it can.
fn loaded(load: &Load, room: Room, siblings: Siblings, now: Instant) -> Option<Hot> {
    let limit = load.exceeded(room, siblings, now)?;
    let waiting = load.waiting();
    Some(match load.full(room, now) {
        Some(utilisation) => Hot::Full { utilisation },
        None => Hot::OverLimit { waiting, limit },
    })
}

/// What was measured; else the way, and what such requests take in other clusters. The longest if
/// the way is unknown.
fn predicted(share: &ClusterShare, load: &Load, siblings: Siblings, now: Instant) -> Duration {
    let rtt = if share.local {
        Some(Duration::ZERO)
    } else {
        share.rtt
    };
    let guess = || Some(rtt?.as_secs_f64() + siblings.service);
    let seconds = load.predicted(now).or_else(guess);
    let length = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    length.unwrap_or(Duration::MAX)
}
