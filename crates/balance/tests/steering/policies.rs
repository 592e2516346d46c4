//! The policies that are compared: the valve, and what others do.

use std::time::{Duration, Instant};

use isthmus_balance::{
    Attempts, Avoid, Budget, ClusterShare, ClusterTry, Endpoints, Outcome, Relief, Told, Valve,
    Verdict,
};
use isthmus_model::{Algorithm, ClusterName, OutlierSettings, TrafficSettings};

use crate::story::Layout;
use crate::world::{CLUSTERS, name};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    Valve,
    /// The nearest cluster that facts call healthy; another only when this request failed there.
    LocalityFailover,
    /// Power of two choices on peak-EWMA latency among all workloads of all clusters.
    EverywhereEwma,
}

/// One caller's state.
pub(crate) struct Steering {
    policy: Policy,
    valve: Valve,
    endpoints: Vec<Endpoints<usize>>,
    everywhere: Endpoints<usize>,
    workloads: usize,
    settings: TrafficSettings,
    budget: Budget,
}

/// Where a request has failed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Failed {
    clusters: Vec<ClusterName>,
    workloads: Vec<(usize, usize)>,
}

impl Failed {
    pub(crate) fn add(&mut self, avoid: Avoid, cluster: usize, workload: usize) {
        match avoid {
            Avoid::Cluster => self.clusters.push(name(cluster)),
            Avoid::Workload => self.workloads.push((cluster, workload)),
        }
    }
}

/// A try that is under way.
pub(crate) struct Ticket {
    try_: Option<ClusterTry>,
    cluster: usize,
    workload: usize,
    began: Instant,
}

impl Steering {
    pub(crate) fn new(policy: Policy, layout: Layout, assumed: Option<f64>, now: Instant) -> Self {
        let workloads = layout.workloads;
        let settings = TrafficSettings::default();
        // Workloads at different distances cannot be compared: nobody is ejected there.
        let no_ejection = OutlierSettings {
            consecutive_errors: 0,
            ..settings.outlier.clone()
        };
        let of = |keys, outlier: &OutlierSettings| {
            let mut endpoints = Endpoints::new(Algorithm::PeakEwma, outlier.clone());
            endpoints.set(keys, now);
            endpoints
        };
        let mut valve = Valve::default();
        if let Some(assumed) = assumed {
            (0..CLUSTERS).for_each(|cluster| valve.assume(&name(cluster), assumed));
        }
        Self {
            policy,
            valve,
            endpoints: (0..CLUSTERS)
                .map(|_| of(0..workloads, &settings.outlier))
                .collect(),
            everywhere: of(0..CLUSTERS * workloads, &no_ejection),
            workloads,
            budget: Budget::new(now),
            settings,
        }
    }

    /// A request comes, and has so many seconds.
    pub(crate) fn arrive(&mut self, timeout: f64, now: Instant) -> Attempts {
        self.budget.on_request(now);
        let mut settings = self.settings.clone();
        settings.timeout.request = Duration::from_secs_f64(timeout);
        Attempts::new(&settings, "GET", None, now)
    }

    /// What a further try stays away from.
    pub(crate) fn avoid(
        &self,
        attempts: &Attempts,
        failed: &Failed,
        outcome: Outcome,
        shares: &[ClusterShare],
        cluster: usize,
        now: Instant,
    ) -> Avoid {
        let mut beyond = failed.clusters.clone();
        beyond.push(name(cluster));
        let beyond = self.valve.pick_cluster(shares, &beyond, now, 0);
        if self.valve.leaves(&name(cluster), &beyond) {
            Avoid::Cluster
        } else {
            attempts.avoid(outcome)
        }
    }

    /// What becomes of a request whose try at `place` has ended so. What others do is held to no budget.
    pub(crate) fn judge(
        &mut self,
        attempts: &mut Attempts,
        failed: &Failed,
        outcome: Outcome,
        shares: &[ClusterShare],
        place: (usize, usize),
        now: Instant,
    ) -> Verdict {
        let (cluster, workload) = place;
        let relief = if self.policy == Policy::Valve {
            let next = self.valve.pick_cluster(shares, &failed.clusters, now, 0);
            let ejected = self.endpoints[cluster].is_ejected(&workload, now);
            self.valve
                .relief(outcome, &name(cluster), ejected, &next, now)
        } else {
            Relief::Moves
        };
        attempts.judge(outcome, relief, &mut self.budget, now)
    }

    pub(crate) fn observe(&mut self, shares: &[ClusterShare], now: Instant) {
        self.valve.observe(shares, now);
    }

    /// Chooses cluster and workload, and sets out.
    pub(crate) fn begin(
        &mut self,
        shares: &[ClusterShare],
        failed: &Failed,
        now: Instant,
        draw: u64,
    ) -> (usize, usize, Ticket) {
        let (avoid, workloads) = (&failed.clusters, self.workloads);
        let cluster = match self.policy {
            Policy::Valve => {
                let decision = self.valve.pick_cluster(shares, avoid, now, draw);
                let chosen = decision.chosen().expect("there are workloads");
                index(&chosen.share.cluster)
            }
            Policy::LocalityFailover => {
                let up =
                    |share: &&ClusterShare| share.healthy > 0 && !avoid.contains(&share.cluster);
                let nearest = shares.iter().filter(up).min_by_key(|share| share.rtt);
                index(&nearest.or(shares.first()).expect("three").cluster)
            }
            Policy::EverywhereEwma => {
                let left: Vec<usize> = (0..CLUSTERS * workloads)
                    .filter(|key| {
                        avoid.contains(&name(key / workloads))
                            || shares[key / workloads].healthy == 0
                    })
                    .collect();
                let picked = self.everywhere.pick(&left, now, draw).expect("twelve");
                let key = *picked.key;
                self.everywhere.start(&key);
                return self.ticket(key / workloads, key % workloads, now);
            }
        };
        let tried = failed.workloads.iter().filter(|(at, _)| *at == cluster);
        let tried: Vec<usize> = tried.map(|(_, workload)| *workload).collect();
        let picked = self.endpoints[cluster]
            .pick(&tried, now, draw ^ 0x77)
            .expect("four");
        let workload = *picked.key;
        self.endpoints[cluster].start(&workload);
        self.ticket(cluster, workload, now)
    }

    fn ticket(&mut self, cluster: usize, workload: usize, now: Instant) -> (usize, usize, Ticket) {
        let uses_valve = self.policy == Policy::Valve;
        let try_ = uses_valve.then(|| self.valve.begin(&name(cluster), now));
        (
            cluster,
            workload,
            Ticket {
                try_,
                cluster,
                workload,
                began: now,
            },
        )
    }

    pub(crate) fn finish(&mut self, ticket: Ticket, outcome: Outcome, told: Told, now: Instant) {
        let Ticket {
            try_,
            cluster,
            workload,
            began,
        } = ticket;
        let latency = now.saturating_duration_since(began);
        if self.policy == Policy::EverywhereEwma {
            let key = cluster * self.workloads + workload;
            self.everywhere.finish(&key, outcome, latency, now);
        } else {
            self.endpoints[cluster].finish(&workload, outcome, latency, now);
        }
        if let Some(mut try_) = try_ {
            if matches!(outcome, Outcome::Replied { .. }) {
                self.valve.replied(&mut try_, outcome.evidence(), told, now);
            }
            self.valve.finish(try_, outcome, now);
        }
    }
}

fn index(cluster: &ClusterName) -> usize {
    (0..CLUSTERS)
        .find(|at| name(*at) == *cluster)
        .expect("one of three")
}
