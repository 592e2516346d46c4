//! The policies that are compared: the valve, and what others do.

use std::time::Instant;

use isthmus_balance::{ClusterShare, ClusterTry, Endpoints, Outcome, Valve};
use isthmus_model::{Algorithm, ClusterName, OutlierSettings, TrafficSettings};

use crate::world::{CLUSTERS, WORKLOADS, name};

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
}

/// A try that is under way.
pub(crate) struct Ticket {
    try_: Option<ClusterTry>,
    cluster: usize,
    workload: usize,
    began: Instant,
}

impl Steering {
    pub(crate) fn new(policy: Policy, assumed: Option<f64>, now: Instant) -> Self {
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
                .map(|_| of(0..WORKLOADS, &settings.outlier))
                .collect(),
            everywhere: of(0..CLUSTERS * WORKLOADS, &no_ejection),
        }
    }

    pub(crate) fn observe(&mut self, shares: &[ClusterShare], now: Instant) {
        self.valve.observe(shares, now);
    }

    /// Chooses cluster and workload, and sets out.
    pub(crate) fn begin(
        &mut self,
        shares: &[ClusterShare],
        avoid: &[ClusterName],
        now: Instant,
        draw: u64,
    ) -> (usize, usize, Ticket) {
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
                let failed: Vec<usize> = (0..CLUSTERS * WORKLOADS)
                    .filter(|key| {
                        avoid.contains(&name(key / WORKLOADS))
                            || shares[key / WORKLOADS].healthy == 0
                    })
                    .collect();
                let picked = self.everywhere.pick(&failed, now, draw).expect("twelve");
                let key = *picked.key;
                self.everywhere.start(&key);
                return self.ticket(key / WORKLOADS, key % WORKLOADS, now);
            }
        };
        let picked = self.endpoints[cluster]
            .pick(&[], now, draw ^ 0x77)
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

    pub(crate) fn finish(
        &mut self,
        ticket: Ticket,
        outcome: Outcome,
        utilisation: Option<f64>,
        now: Instant,
    ) {
        let Ticket {
            try_,
            cluster,
            workload,
            began,
        } = ticket;
        let latency = now.saturating_duration_since(began);
        if self.policy == Policy::EverywhereEwma {
            let key = cluster * WORKLOADS + workload;
            self.everywhere.finish(&key, outcome, latency, now);
        } else {
            self.endpoints[cluster].finish(&workload, outcome, latency, now);
        }
        if let Some(mut try_) = try_ {
            if matches!(outcome, Outcome::Replied { .. }) {
                self.valve
                    .replied(&mut try_, outcome.evidence(), utilisation, now);
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
