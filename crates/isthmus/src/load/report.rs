//! What `load` reports: the stable shape of `-o json`, and a table for people. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::output::table;

/// The result of a run. docs/reference/load.md describes every field.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    #[serde(flatten)]
    pub(super) facts: RunFacts,
    pub(super) total: Summary,
    /// By serving cluster, in name order; requests that none served come last.
    pub(super) clusters: Vec<ClusterSummary>,
    /// The most frequent reason first.
    pub(super) failures: Vec<FailureCount>,
    /// Every failed request, in the order of the schedule.
    pub(super) failed: Vec<FailedRequest>,
    /// Every second of the schedule.
    pub(super) seconds: Vec<SecondCount>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RunFacts {
    pub(super) run: String,
    pub(super) service: String,
    pub(super) from: String,
    pub(super) identity: String,
    pub(super) method: String,
    pub(super) url: String,
    pub(super) rate_per_second: u32,
    /// RFC 3339: when the first request was due.
    pub(super) started: String,
    /// How long requests were started.
    pub(super) duration_ms: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ClusterSummary {
    /// `None`: no cluster served it.
    pub(super) cluster: Option<String>,
    #[serde(flatten)]
    pub(super) summary: Summary,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Summary {
    pub(super) requests: u64,
    pub(super) failed: u64,
    /// Sent more than once by the mesh.
    pub(super) retried: u64,
    /// `None`: all failed.
    pub(super) latency_ms: Option<LatencyMs>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct LatencyMs {
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) max: f64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct FailureCount {
    pub(super) reason: String,
    pub(super) requests: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct FailedRequest {
    pub(super) id: String,
    pub(super) reason: String,
}

/// Requests that were due in one second of the run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct SecondCount {
    pub(super) second: u64,
    pub(super) requests: u64,
    pub(super) failed: u64,
    /// Requests that did not fail, by the cluster that served them.
    pub(super) served: BTreeMap<String, u64>,
}

/// To the microsecond.
pub(super) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// The table at the end of a run.
pub(super) fn render(report: &Report) -> String {
    let RunFacts {
        run,
        from,
        identity,
        method,
        url,
        rate_per_second,
        duration_ms,
        ..
    } = &report.facts;
    let seconds = duration_ms / 1_000.0;
    let mut text = format!(
        "{method} {url} from {from}, {rate_per_second}/s for {seconds:.1} s\n\
         run {run}, as {identity}\n\n"
    );
    let clusters = report.clusters.iter().map(|each| {
        let name = each.cluster.as_deref().unwrap_or("nobody");
        row(name, &each.summary)
    });
    let headings = [
        "SERVED BY",
        "REQUESTS",
        "FAILED",
        "RETRIED",
        "P50",
        "P90",
        "P99",
        "P99.9",
        "MAX",
    ];
    text += &table(&headings, clusters.chain([row("all", &report.total)]));
    let failures = report.failures.iter().map(|failure| {
        let first = report
            .failed
            .iter()
            .find(|failed| failed.reason == failure.reason);
        [
            failure.reason.clone(),
            failure.requests.to_string(),
            first.map_or("-".to_owned(), |failed| failed.id.clone()),
        ]
    });
    let failures = table(&["FAILED BECAUSE", "REQUESTS", "FIRST"], failures);
    if !failures.is_empty() {
        text.push('\n');
        text += &failures;
    }
    text
}

fn row(name: &str, summary: &Summary) -> [String; 9] {
    let latency = |value: fn(&LatencyMs) -> f64| match &summary.latency_ms {
        Some(latency) => short_milliseconds(value(latency)),
        None => "-".to_owned(),
    };
    [
        name.to_owned(),
        summary.requests.to_string(),
        summary.failed.to_string(),
        summary.retried.to_string(),
        latency(|latency| latency.p50),
        latency(|latency| latency.p90),
        latency(|latency| latency.p99),
        latency(|latency| latency.p999),
        latency(|latency| latency.max),
    ]
}

fn short_milliseconds(milliseconds: f64) -> String {
    if milliseconds < 100.0 {
        format!("{milliseconds:.1} ms")
    } else {
        format!("{milliseconds:.0} ms")
    }
}

/// What has happened since the line before.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Progress<'a> {
    /// Since the start of the run.
    pub(super) elapsed: Duration,
    pub(super) requests: u64,
    pub(super) failed: u64,
    pub(super) in_flight: usize,
    pub(super) p50: Option<Duration>,
    pub(super) p99: Option<Duration>,
    /// `None`: no cluster served it.
    pub(super) served: &'a BTreeMap<Option<String>, u64>,
    /// In the whole run.
    pub(super) failed_in_all: u64,
}

/// One line, without an end.
pub(super) fn progress_line(progress: &Progress<'_>) -> String {
    let Progress {
        elapsed,
        requests,
        failed,
        in_flight,
        failed_in_all,
        ..
    } = progress;
    let mut text = format!(
        "{:>4} s  {requests} ended, {failed} failed ({failed_in_all} in all), {in_flight} open",
        elapsed.as_secs()
    );
    if let Some((p50, p99)) = progress.p50.zip(progress.p99) {
        let [p50, p99] = [p50, p99].map(|quantile| short_milliseconds(milliseconds(quantile)));
        // Writing into a string cannot fail.
        let _ = write!(text, "  p50 {p50}, p99 {p99}");
    }
    let mut between = "  ";
    for (cluster, count) in progress.served {
        if let Some(cluster) = cluster {
            // Writing into a string cannot fail.
            let _ = write!(text, "{between}{cluster} {count}");
            between = ", ";
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::tally::tests::ended;
    use super::super::tally::{Broken, Tally};
    use super::*;

    fn report() -> Report {
        let mut tally = Tally::new("k3f9".to_owned());
        for number in 0..4 {
            tally.add(&ended(number, "us-west", 2));
        }
        let mut retried = ended(4, "eu-central", 145);
        retried
            .head
            .iter_mut()
            .for_each(|head| head.attempts = Some(2));
        tally.add(&retried);
        let mut lost = ended(5, "", 9);
        lost.head = None;
        lost.broken = Some(Broken::Timeout);
        tally.add(&lost);
        tally.report(RunFacts {
            run: "k3f9".to_owned(),
            service: "shop/cart".to_owned(),
            from: "us-west".to_owned(),
            identity: "spiffe://shop.example/ns/shop/sa/load".to_owned(),
            method: "GET".to_owned(),
            url: "http://cart.shop.mesh/".to_owned(),
            rate_per_second: 2,
            started: "2026-01-01T00:00:00.000Z".to_owned(),
            duration_ms: 3000.0,
        })
    }

    #[test]
    fn people_see_a_table() {
        assert_eq!(
            render(&report()),
            "GET http://cart.shop.mesh/ from us-west, 2/s for 3.0 s\n\
             run k3f9, as spiffe://shop.example/ns/shop/sa/load\n\n\
             SERVED BY   REQUESTS  FAILED  RETRIED  P50     P90     P99     P99.9   MAX\n\
             eu-central  1         0       1        145 ms  145 ms  145 ms  145 ms  145 ms\n\
             us-west     4         0       0        2.0 ms  2.0 ms  2.0 ms  2.0 ms  2.0 ms\n\
             nobody      1         1       0        -       -       -       -       -\n\
             all         6         1       1        2.0 ms  145 ms  145 ms  145 ms  145 ms\n\n\
             FAILED BECAUSE  REQUESTS  FIRST\n\
             client-timeout  1         load-k3f9-6\n"
        );
    }

    #[test]
    fn programs_get_a_stable_shape() {
        let report = serde_json::to_value(report()).unwrap();
        for (pointer, expect) in [
            ("/run", serde_json::json!("k3f9")),
            ("/ratePerSecond", 2.into()),
            ("/total/requests", 6.into()),
            ("/clusters/1/cluster", "us-west".into()),
            ("/clusters/2/cluster", serde_json::Value::Null),
            ("/clusters/2/latencyMs", serde_json::Value::Null),
            ("/failures/0/reason", "client-timeout".into()),
            (
                "/failed",
                serde_json::json!([{"id": "load-k3f9-6", "reason": "client-timeout"}]),
            ),
            (
                "/seconds/2",
                serde_json::json!({"second": 2, "requests": 2, "failed": 1, "served": {"eu-central": 1}}),
            ),
        ] {
            assert_eq!(report.pointer(pointer), Some(&expect), "{pointer}");
        }
    }

    #[test]
    fn progress_is_one_line() {
        let served = BTreeMap::from([
            (None, 1),
            (Some("a".to_owned()), 190),
            (Some("b".to_owned()), 9),
        ]);
        let line = progress_line(&Progress {
            elapsed: Duration::from_millis(12_040),
            requests: 200,
            failed: 1,
            in_flight: 3,
            p50: Some(Duration::from_micros(1240)),
            p99: Some(Duration::from_millis(145)),
            served: &served,
            failed_in_all: 7,
        });
        assert_eq!(
            line,
            "  12 s  200 ended, 1 failed (7 in all), 3 open  p50 1.2 ms, p99 145 ms  a 190, b 9"
        );
    }
}
