//! What became of the requests, counted. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::report::{
    ClusterSummary, FailedRequest, FailureCount, LatencyMs, Report, RunFacts, SecondCount, Summary,
};

/// How one request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    /// From 0, in the order of the schedule.
    pub(super) number: u64,
    /// After the start of the run.
    pub(super) scheduled: Duration,
    /// From when it was due until its reply was complete, or it had failed.
    pub(super) took: Duration,
    /// What the head of the reply said; `None`: there was none.
    pub(super) head: Option<Head>,
    /// Why there is no whole reply.
    pub(super) broken: Option<Broken>,
}

/// The head of a reply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Cluster and workload that served it, as the mesh tells.
    pub(super) cluster: Option<String>,
    pub(super) workload: Option<String>,
    pub(super) attempts: Option<u32>,
    /// The mesh's own reason for its answer.
    pub(super) refusal: Option<String>,
    /// What it says of that reason.
    pub(super) detail: Option<String>,
}

/// Why the client has no whole reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// As many requests as may wait did.
    TooManyOpen,
    /// The caller's own proxy took no connection.
    NoConnection,
    /// The connection ended, or what came was not HTTP.
    ConnectionLost,
    Timeout,
    /// The run was cut short while it waited.
    Abandoned,
}

impl Broken {
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::TooManyOpen => "client-too-many-open",
            Self::NoConnection => "client-no-connection",
            Self::ConnectionLost => "client-connection-lost",
            Self::Timeout => "client-timeout",
            Self::Abandoned => "client-abandoned",
        }
    }
}

impl Ended {
    pub(super) fn cluster(&self) -> Option<&str> {
        self.head.as_ref()?.cluster.as_deref()
    }

    /// Why it counts as failed; `None`: it does not. A refusal by the mesh has the mesh's code; an
    /// error of the application has its status.
    pub(super) fn failure(&self) -> Option<String> {
        if let Some(broken) = self.broken {
            return Some(broken.code().to_owned());
        }
        let head = self.head.as_ref()?;
        match &head.refusal {
            Some(code) => Some(code.clone()),
            None if head.status >= 400 => Some(format!("status-{}", head.status)),
            None => None,
        }
    }

    fn retried(&self) -> bool {
        let attempts = self.head.as_ref().and_then(|head| head.attempts);
        attempts.is_some_and(|attempts| attempts > 1)
    }
}

/// Counts of a set of requests. Latencies are of those that did not fail: a quick refusal would
/// make the others look fast.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    pub(super) requests: u64,
    pub(super) failed: u64,
    pub(super) retried: u64,
    /// Microseconds.
    latency: Histogram<u64>,
}

/// What takes longer counts as this: an hour.
const LONGEST_MICROS: u64 = 3_600_000_000;

impl Counts {
    pub(super) fn new() -> Self {
        Self {
            requests: 0,
            failed: 0,
            retried: 0,
            latency: Histogram::new_with_bounds(1, LONGEST_MICROS, 3)
                .expect("the bounds are in order, and 3 is a precision that the histogram has"),
        }
    }

    pub(super) fn add(&mut self, ended: &Ended, failed: bool) {
        self.requests += 1;
        self.failed += u64::from(failed);
        self.retried += u64::from(ended.retried());
        if !failed {
            let micros = u64::try_from(ended.took.as_micros()).unwrap_or(u64::MAX);
            self.latency.saturating_record(micros);
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.retried += other.retried;
        self.latency
            .add(&other.latency)
            .expect("a histogram that grows holds whatever another one does");
    }

    /// Below which this share of the requests stayed; `None`: none has succeeded.
    pub(super) fn quantile(&self, share: f64) -> Option<Duration> {
        (!self.latency.is_empty())
            .then(|| Duration::from_micros(self.latency.value_at_quantile(share)))
    }

    fn summary(&self) -> Summary {
        let milliseconds = |share| self.quantile(share).map(super::report::milliseconds);
        let latency_ms = |p50| LatencyMs {
            p50,
            p90: milliseconds(0.9).unwrap_or(p50),
            p99: milliseconds(0.99).unwrap_or(p50),
            p999: milliseconds(0.999).unwrap_or(p50),
            max: milliseconds(1.0).unwrap_or(p50),
        };
        Summary {
            requests: self.requests,
            failed: self.failed,
            retried: self.retried,
            latency_ms: milliseconds(0.5).map(latency_ms),
        }
    }
}

/// Everything that is kept of a run.
#[derive(Debug)]
pub(super) struct Tally {
    /// Begins every id.
    run: String,
    /// `None`: no cluster served it.
    clusters: BTreeMap<Option<String>, Counts>,
    seconds: Vec<SecondCount>,
    /// Number of the request and why, in the order of their ends.
    failed: Vec<(u64, String)>,
}

impl Tally {
    pub(super) fn new(run: String) -> Self {
        Self {
            run,
            clusters: BTreeMap::new(),
            seconds: Vec::new(),
            failed: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, ended: &Ended) {
        let failure = ended.failure();
        let failed = failure.is_some();
        let cluster = ended.cluster().map(str::to_owned);
        let counts = self.clusters.entry(cluster).or_insert_with(Counts::new);
        counts.add(ended, failed);
        let second = self.second(ended.scheduled);
        second.requests += 1;
        match (failure, ended.cluster()) {
            (Some(reason), _) => {
                second.failed += 1;
                self.failed.push((ended.number, reason));
            }
            (None, Some(cluster)) => *second.served.entry(cluster.to_owned()).or_default() += 1,
            (None, None) => {}
        }
    }

    fn second(&mut self, scheduled: Duration) -> &mut SecondCount {
        let index = usize::try_from(scheduled.as_secs()).unwrap_or(usize::MAX);
        while self.seconds.len() <= index {
            self.seconds.push(SecondCount {
                second: self.seconds.len() as u64,
                ..SecondCount::default()
            });
        }
        &mut self.seconds[index]
    }

    pub(super) fn total(&self) -> Counts {
        let mut total = Counts::new();
        for counts in self.clusters.values() {
            total.merge(counts);
        }
        total
    }

    /// What a run comes to, with lists in a fixed order.
    pub(super) fn report(&self, facts: RunFacts) -> Report {
        let clusters = self.clusters.iter().map(|(cluster, counts)| {
            let cluster = cluster.clone();
            let summary = counts.summary();
            ClusterSummary { cluster, summary }
        });
        let mut clusters: Vec<ClusterSummary> = clusters.collect();
        clusters.sort_by_key(|summary| summary.cluster.is_none());
        let mut failed = self.failed.clone();
        failed.sort();
        let mut failures: BTreeMap<&str, u64> = BTreeMap::new();
        for (_, reason) in &failed {
            *failures.entry(reason).or_default() += 1;
        }
        let failures = failures.into_iter().map(|(reason, requests)| FailureCount {
            reason: reason.to_owned(),
            requests,
        });
        let mut failures: Vec<FailureCount> = failures.collect();
        failures.sort_by_key(|count| std::cmp::Reverse(count.requests));
        let failed = failed.into_iter().map(|(number, reason)| FailedRequest {
            id: request_id(&self.run, number),
            reason,
        });
        Report {
            facts,
            total: self.total().summary(),
            clusters,
            failures,
            failed: failed.collect(),
            seconds: self.seconds.clone(),
        }
    }
}

/// `x-request-id` of a request; people count from 1.
pub(super) fn request_id(run: &str, number: u64) -> String {
    format!("load-{run}-{}", number.saturating_add(1))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A reply of status 200 from a cluster, at 2 requests a second.
    pub(in super::super) fn ended(number: u64, cluster: &str, milliseconds: u64) -> Ended {
        Ended {
            number,
            scheduled: Duration::from_millis(number * 500),
            took: Duration::from_millis(milliseconds),
            head: Some(Head {
                status: 200,
                cluster: Some(cluster.to_owned()),
                attempts: Some(1),
                ..Head::default()
            }),
            broken: None,
        }
    }

    #[test]
    fn what_counts_as_failed() {
        let with = |change: fn(&mut Head)| {
            let mut ended = ended(0, "a", 1);
            ended.head.iter_mut().for_each(change);
            ended
        };
        let refused = with(|head| {
            head.status = 503;
            head.refusal = Some("overloaded".to_owned());
        });
        let mut cut = ended(0, "a", 1);
        cut.broken = Some(Broken::ConnectionLost);
        for (ended, expect) in [
            (with(|_| {}), None),
            (with(|head| head.status = 304), None),
            (with(|head| head.status = 404), Some("status-404")),
            (refused, Some("overloaded")),
            (cut, Some("client-connection-lost")),
        ] {
            assert_eq!(ended.failure().as_deref(), expect);
        }
    }

    #[test]
    fn the_total_is_what_the_clusters_have_together() {
        let mut tally = Tally::new("r".to_owned());
        for number in 0..1000 {
            let (cluster, took) = if number % 10 == 0 {
                ("far", 200)
            } else {
                ("near", 2)
            };
            tally.add(&ended(number, cluster, took));
        }
        let total = tally.total();
        assert_eq!((total.requests, total.failed), (1000, 0));
        for (share, expect) in [(0.5, 2), (0.9, 2), (0.91, 200), (1.0, 200)] {
            let found = total.quantile(share).unwrap().as_millis();
            assert_eq!(found, expect, "{share}");
        }
        let near = &tally.clusters[&Some("near".to_owned())];
        assert_eq!(
            (near.requests, near.quantile(1.0).unwrap().as_millis()),
            (900, 2)
        );
    }

    #[test]
    fn failures_have_no_part_in_latency() {
        let mut tally = Tally::new("r".to_owned());
        let mut failed = ended(0, "a", 30_000);
        failed.head = None;
        failed.broken = Some(Broken::Timeout);
        tally.add(&failed);
        assert_eq!(tally.total().quantile(0.5), None);
        tally.add(&ended(1, "a", 7));
        let total = tally.total();
        assert_eq!((total.requests, total.failed), (2, 1));
        assert_eq!(total.quantile(1.0).unwrap().as_millis(), 7);
    }
}
