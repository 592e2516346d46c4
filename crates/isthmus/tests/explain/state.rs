//! What a mesh is in, and whether a caller's proxy knows it.

use isthmus_lab::trouble::{Result, ensure};
use serde_json::Value;

use crate::agreement::{list, text};

pub(crate) const CLUSTERS: [&str; 3] = ["us-west", "eu-central", "ap-south"];

/// Of the link between two clusters, in ms. So different that no measurement on a busy machine makes
/// a farther cluster the nearer one.
pub(crate) fn round_trip(one: &str, other: &str) -> u32 {
    match (one, other) {
        ("us-west", "eu-central") | ("eu-central", "us-west") => 10,
        ("us-west", "ap-south") | ("ap-south", "us-west") => 200,
        ("eu-central", "ap-south") | ("ap-south", "eu-central") => 100,
        _ => 0,
    }
}

/// How much longer it may be measured, in ms.
const NOISE: f64 = 40.0;

/// Workloads of a service in a cluster, once all are there.
fn workloads(service: &str, cluster: &str) -> u64 {
    match (service, cluster) {
        ("frontend" | "payment", _) | ("cart", "us-west") => 1,
        ("catalog" | "vault", "eu-central") | ("ledger", "ap-south") => 1,
        ("cart", "eu-central") => 2,
        ("catalog", "ap-south") => 3,
        _ => 0,
    }
}

/// What all callers must know before the next request is drawn.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct State {
    /// Service and cluster: none of its workloads is healthy.
    pub(crate) sick: Option<(&'static str, &'static str)>,
    /// What was sick takes only a part of its requests yet.
    pub(crate) returning: bool,
    /// Nothing new is heard of it.
    pub(crate) lost: Option<&'static str>,
}

impl State {
    /// Errors: what of it is not so in a backend, as it was explained for a caller in `from`.
    pub(crate) fn is_seen(&self, from: &str, backend: &Value) -> Result<()> {
        let service = text(&backend["service"]).unwrap_or_default();
        let service = service.strip_prefix("shop/").unwrap_or_default();
        for cluster in CLUSTERS {
            let candidates = list(&backend["candidates"]);
            let found = candidates.iter().find(|found| found["cluster"] == cluster);
            let so = match found {
                Some(found) => self.is_so(from, service, cluster, found),
                None => workloads(service, cluster) == 0,
            };
            ensure(so, || {
                format!("{service} in {cluster} is seen as {found:?}")
            })?;
        }
        let choices = list(&backend["choices"]);
        ensure(self.returning || choices.len() == 1, || {
            format!("{service} is in its slow start: {choices:?}")
        })
    }

    fn is_so(&self, from: &str, service: &str, cluster: &str, candidate: &Value) -> bool {
        let total = workloads(service, cluster);
        let is_sick = self.sick == Some((service, cluster));
        let healthy = if is_sick { 0 } else { total };
        let lost = self.lost == Some(cluster);
        // Anything else would pass with time.
        let lasts = match text(&candidate["whyNot"]) {
            None => healthy > 0,
            Some("no-healthy-workload") => healthy == 0,
            Some(why_not) => ["not-exported", "local-only"].contains(&why_not),
        };
        let longer = candidate["rttMs"]
            .as_f64()
            .map(|rtt| rtt - f64::from(round_trip(from, cluster)));
        candidate["healthy"] == healthy
            && candidate["total"] == total
            && candidate["stale"] == lost
            && lasts
            && (lost || longer.is_some_and(|longer| longer < NOISE))
    }
}
