//! The registry of one process: hands out recorders, renders what they counted.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};

use crate::flow::{Flow, FlowFamilies, FlowKey, FlowLabels, Reporter};
use crate::names::{self, MetricName};

/// The media type of `Metrics::encode`.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of one process. Shared by reference; recorders are taken from it once and kept.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    flows: FlowFamilies,
    known: Mutex<HashSet<FlowLabels>>,
    max_flows: usize,
    streams_open: Family<ReporterLabel, Gauge>,
    tls_handshakes: Family<KindLabel, Counter>,
    tls_refused: Family<ReasonLabel, Counter>,
    malformed: Family<ReasonLabel, Counter>,
    snapshot_refused: Family<ReasonLabel, Counter>,
    connections_shed: Family<ReasonLabel, Counter>,
    detected: Family<DetectedLabels, Counter>,
    leaf_expiry: Gauge,
    memory_taken: Gauge,
    memory_limit: Gauge,
}

impl Metrics {
    /// Distinct flows that a process of usual size tells apart: 2,000 flows are about 2 MiB.
    pub const DEFAULT_MAX_FLOWS: usize = 2_000;

    /// `version` is the process's own. Beyond `max_flows` distinct keys, flows count into one set
    /// of labels that are all `other`.
    pub fn new(version: &str, max_flows: usize) -> Self {
        let mut registry = Registry::default();
        let flows = FlowFamilies::default();
        register(&mut registry, names::REQUESTS, &flows.requests);
        register(&mut registry, names::REQUEST_DURATION, &flows.durations);
        register(&mut registry, names::RETRIES, &flows.retries);
        register(
            &mut registry,
            names::TCP_CONNECTIONS,
            &flows.tcp_connections,
        );
        register(&mut registry, names::BYTES, &flows.bytes);
        register(&mut registry, names::LABEL_OVERFLOW, &flows.overflow);

        let streams_open = Family::default();
        register(&mut registry, names::STREAMS_OPEN, &streams_open);
        let tls_handshakes = Family::default();
        register(&mut registry, names::TLS_HANDSHAKES, &tls_handshakes);
        let tls_refused = Family::default();
        register(&mut registry, names::TLS_REFUSED, &tls_refused);
        let malformed = Family::default();
        register(&mut registry, names::MALFORMED, &malformed);
        let snapshot_refused = Family::default();
        register(&mut registry, names::SNAPSHOT_REFUSED, &snapshot_refused);
        let connections_shed = Family::default();
        register(&mut registry, names::CONNECTIONS_SHED, &connections_shed);
        let detected = Family::default();
        register(&mut registry, names::DETECTED, &detected);

        let (memory_taken, memory_limit) = (Gauge::default(), Gauge::default());
        register(&mut registry, names::MEMORY_TAKEN, &memory_taken);
        register(&mut registry, names::MEMORY_LIMIT, &memory_limit);
        let leaf_expiry = Gauge::default();
        register(&mut registry, names::LEAF_EXPIRY, &leaf_expiry);

        let build = Family::<VersionLabel, Gauge>::default();
        let version = version.to_owned();
        build.get_or_create(&VersionLabel { version }).set(1);
        register(&mut registry, names::BUILD_INFO, &build);

        Self {
            registry,
            flows,
            known: Mutex::default(),
            max_flows,
            streams_open,
            tls_handshakes,
            tls_refused,
            malformed,
            snapshot_refused,
            connections_shed,
            detected,
            leaf_expiry,
            memory_taken,
            memory_limit,
        }
    }

    /// The recorder for `key`. Formats and locks: take it once per flow and worker, and keep it.
    pub fn flow(&self, key: &FlowKey) -> Flow {
        let labels = FlowLabels::new(key);
        let labels = if self.admit(&labels) {
            labels
        } else {
            self.flows.overflow.inc();
            FlowLabels::other(key.reporter)
        };
        self.flows.flow(labels)
    }

    /// The gauge of open streams: `inc` when one opens, `dec` when it ends.
    pub fn streams_open(&self, reporter: Reporter) -> Gauge {
        self.streams_open
            .get_or_create_owned(&ReporterLabel { reporter })
    }

    /// A handshake has proved who the peer is, perhaps by an earlier one.
    pub fn count_tls_handshake(&self, is_resumed: bool) {
        let kind = if is_resumed { "resumed" } else { "full" };
        self.tls_handshakes.get_or_create(&KindLabel { kind }).inc();
    }

    /// A handshake was refused. `reason` is one of a closed list, hence static.
    pub fn count_tls_refused(&self, reason: &'static str) {
        self.tls_refused
            .get_or_create(&ReasonLabel { reason })
            .inc();
    }

    /// A request was malformed. `reason` is one of a closed list, hence static.
    pub fn count_malformed(&self, reason: &'static str) {
        self.malformed.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// A saved snapshot was refused. `reason` is one of a closed list, hence static.
    pub fn count_snapshot_refused(&self, reason: &'static str) {
        self.snapshot_refused
            .get_or_create(&ReasonLabel { reason })
            .inc();
    }

    /// A connection was closed as soon as it came. `reason` is one of a closed list, hence static.
    pub fn count_connection_shed(&self, reason: &'static str) {
        self.connections_shed
            .get_or_create(&ReasonLabel { reason })
            .inc();
    }

    /// It was told what a client speaks on a port that is not declared. Both are of closed lists.
    pub fn count_detected(&self, protocol: &'static str, by: &'static str) {
        self.detected
            .get_or_create(&DetectedLabels { protocol, by })
            .inc();
    }

    /// The certificate of this process is valid until then.
    pub fn set_leaf_expiry(&self, until: SystemTime) {
        let since_1970 = until.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX);
        self.leaf_expiry.set(seconds);
    }

    /// Of the memory budget of this process, `taken` of `limit` bytes are taken.
    pub fn set_memory(&self, taken: u64, limit: u64) {
        let bytes = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.memory_taken.set(bytes(taken));
        self.memory_limit.set(bytes(limit));
    }

    /// Everything counted so far, as OpenMetrics text (`CONTENT_TYPE`).
    pub fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing into a string cannot fail");
        text
    }

    fn admit(&self, labels: &FlowLabels) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(labels) {
            return true;
        }
        let room = known.len() < self.max_flows;
        if room {
            known.insert(labels.clone());
        }
        room
    }
}

fn register(registry: &mut Registry, name: MetricName, metric: &(impl Metric + Clone)) {
    registry.register(name.registered(), name.help, metric.clone());
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReporterLabel {
    reporter: Reporter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DetectedLabels {
    protocol: &'static str,
    by: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VersionLabel {
    version: String,
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use isthmus_model::{AccountName, ClusterName, Identity, Namespace, ServiceName, TrustDomain};
    use proptest::prelude::*;

    use super::*;
    use crate::{METRICS, MetricKind, Outcome, RefusalReason, Source};

    /// The frontend of the shop.
    pub(crate) fn frontend(cluster: &str) -> Source {
        Source {
            identity: Identity {
                trust_domain: TrustDomain::new("example.org").unwrap(),
                namespace: Namespace::new("shop").unwrap(),
                account: AccountName::new("frontend").unwrap(),
            },
            service: Some(ServiceName::new("shop", "frontend").unwrap()),
            cluster: ClusterName::new(cluster).unwrap(),
        }
    }

    fn key(cluster: &str) -> FlowKey {
        FlowKey {
            reporter: Reporter::Source,
            source: Some(frontend(cluster).into()),
            destination_service: Some(ServiceName::new("shop", "cart").unwrap()),
            destination_cluster: None,
            outside: false,
        }
    }

    fn ended(status: u16) -> Outcome {
        Outcome {
            status: Some(status),
            refusal: None,
            grpc_status: None,
        }
    }

    /// The samples of one metric, `{labels} value` each.
    fn samples(text: &str, name: &str) -> Vec<String> {
        let mut lines: Vec<String> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.strip_prefix(name))
            .filter(|rest| rest.starts_with(['{', ' ']))
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    }

    fn filled() -> Metrics {
        let metrics = Metrics::new("1.2.3", 10);
        let mut flow = metrics.flow(&key("us-west"));
        flow.count_request(ended(200), Duration::from_millis(3));
        flow.count_request(ended(200), Duration::from_millis(4));
        let refused = Outcome {
            status: Some(503),
            refusal: Some(RefusalReason::NoHealthyWorkload),
            grpc_status: Some(14),
        };
        flow.count_request(refused, Duration::from_millis(1));
        flow.count_retry();
        flow.count_tcp_connection();
        flow.count_request_bytes(10);
        flow.count_response_bytes(20);
        metrics.streams_open(Reporter::Gateway).inc();
        metrics.count_tls_handshake(true);
        metrics.count_tls_refused("expired");
        metrics.count_malformed("bare-lf");
        metrics.count_snapshot_refused("foreign");
        metrics.count_connection_shed("too-many");
        metrics.count_detected("tcp", "timeout");
        metrics
    }

    #[test]
    fn what_was_counted_is_shown() {
        let text = filled().encode();
        let flow = "reporter=\"source\",source_service=\"shop/frontend\",source_cluster=\"us-west\",\
                    destination_service=\"shop/cart\",destination_cluster=\"unknown\"";
        assert_eq!(
            samples(&text, "isthmus_requests_total"),
            [
                format!(
                    "{{{flow},response_code=\"200\",refusal=\"\",grpc_response_status=\"\"}} 2"
                ),
                format!(
                    "{{{flow},response_code=\"503\",refusal=\"no-healthy-workload\",\
                     grpc_response_status=\"14\"}} 1"
                ),
            ]
        );
        assert_eq!(
            samples(&text, "isthmus_bytes_total"),
            [
                format!("{{{flow},direction=\"request\"}} 10"),
                format!("{{{flow},direction=\"response\"}} 20"),
            ]
        );
        assert_eq!(
            samples(&text, "isthmus_request_duration_seconds_sum"),
            [format!("{{{flow}}} 0.008")]
        );
        assert_eq!(
            samples(&text, "isthmus_request_duration_seconds_bucket").len(),
            16
        );
        assert!(
            text.contains(&format!("{{le=\"+Inf\",{flow}}} 3")),
            "{text}"
        );
        assert_eq!(
            samples(&text, "isthmus_build_info"),
            ["{version=\"1.2.3\"} 1"]
        );
        assert!(text.ends_with("# EOF\n"));
    }

    /// The table of names is what scrapers see: every family, its type and its labels.
    #[test]
    fn the_table_and_the_output_agree() {
        let text = filled().encode();
        let typed: BTreeSet<&str> = text
            .lines()
            .filter_map(|l| l.strip_prefix("# TYPE "))
            .collect();
        for metric in METRICS {
            let kind = match metric.kind {
                MetricKind::Counter => "counter",
                MetricKind::Gauge => "gauge",
                MetricKind::Histogram => "histogram",
            };
            let line = format!("{} {kind}", metric.registered());
            assert!(typed.contains(line.as_str()), "{line} in\n{text}");

            let sample = match metric.kind {
                MetricKind::Histogram => format!("{}_count", metric.name),
                MetricKind::Counter | MetricKind::Gauge => metric.name.to_owned(),
            };
            let first = &samples(&text, &sample)[0];
            let labels: Vec<&str> = first
                .split(['{', ',', '}'])
                .filter_map(|part| part.split_once("=\"").map(|(label, _)| label))
                .collect();
            assert_eq!(labels, metric.labels, "{}", metric.name);
        }
        assert_eq!(typed.len(), METRICS.len(), "a metric is not in the table");
    }

    #[test]
    fn flows_beyond_the_bound_are_other_and_counted() {
        let metrics = Metrics::new("0", 2);
        for cluster in ["a", "b", "c", "d", "a"] {
            let mut flow = metrics.flow(&key(cluster));
            flow.count_request(ended(200), Duration::ZERO);
        }
        let text = metrics.encode();
        let requests = samples(&text, "isthmus_requests_total");
        assert_eq!(requests.len(), 3, "{requests:?}");
        let other = requests
            .iter()
            .find(|line| line.contains("source_cluster=\"other\""));
        assert!(
            other.is_some_and(|line| line.ends_with(" 2")),
            "{requests:?}"
        );
        assert_eq!(samples(&text, "isthmus_label_overflow_total"), [" 2"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Whatever codes an application answers, no request is lost and series stay bounded.
        #[test]
        fn every_request_is_counted_once(codes in prop::collection::vec(0u16..1000, 0..400)) {
            let metrics = Metrics::new("0", 10);
            let mut flow = metrics.flow(&key("a"));
            for &code in &codes {
                flow.count_request(ended(code), Duration::from_micros(u64::from(code)));
            }
            let requests = samples(&metrics.encode(), "isthmus_requests_total");
            let counted: usize = requests
                .iter()
                .filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok())
                .sum();
            prop_assert_eq!(counted, codes.len());
            prop_assert!(requests.len() <= 49);
        }
    }
}
