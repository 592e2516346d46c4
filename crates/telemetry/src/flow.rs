//! A flow: who calls whom, as one side of the call sees it, with its counters at hand.

use std::time::Duration;

use isthmus_model::{ClusterName, ServiceName};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::RefusalReason;
use crate::histogram::DurationHistogram;

/// Which side of a call counts it. One call is counted once by each side that it passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The caller's proxy.
    Source,
    /// The callee's proxy.
    Destination,
    /// A gateway on the way; it knows no request, only tunnels and bytes.
    Gateway,
}

impl Reporter {
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Gateway => "gateway",
        }
    }
}

/// Who calls whom. `None` is what the reporter does not know; it is shown as `unknown`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FlowKey {
    pub reporter: Reporter,
    pub source_service: Option<ServiceName>,
    pub source_cluster: Option<ClusterName>,
    pub destination_service: Option<ServiceName>,
    pub destination_cluster: Option<ClusterName>,
    /// The destination is no service of the mesh.
    pub outside: bool,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The status that the caller saw; `None` if it went away before there was one.
    pub status: Option<u16>,
    /// Set when the mesh, not the application, answered.
    pub refusal: Option<RefusalReason>,
    /// Of a gRPC call that has got one.
    pub grpc_status: Option<u16>,
}

/// The counters of one flow. Owned by one worker; flows of the same key count into the same
/// series, whoever holds them. Nothing here formats or locks once an outcome has been seen.
#[derive(Debug, Clone)]
pub struct Flow {
    labels: FlowLabels,
    requests: Family<RequestLabels, Counter>,
    overflow: Counter,
    seen: Vec<(Outcome, Counter)>,
    duration: DurationHistogram,
    retries: Counter,
    tcp_connections: Counter,
    request_bytes: Counter,
    response_bytes: Counter,
}

/// Distinct outcomes of one flow; applications choose status codes, so there must be a bound.
const MAX_OUTCOMES: usize = 48;

impl Flow {
    /// A request has ended after `took`.
    pub fn count_request(&mut self, outcome: Outcome, took: Duration) {
        self.duration.observe(took);
        if let Some((_, counter)) = self.seen.iter().find(|(seen, _)| *seen == outcome) {
            counter.inc();
        } else {
            self.count_new(outcome);
        }
    }

    /// One attempt more.
    pub fn count_retry(&self) {
        self.retries.inc();
    }

    pub fn count_tcp_connection(&self) {
        self.tcp_connections.inc();
    }

    /// Bytes towards the destination.
    pub fn count_request_bytes(&self, bytes: u64) {
        self.request_bytes.inc_by(bytes);
    }

    /// Bytes towards the source.
    pub fn count_response_bytes(&self, bytes: u64) {
        self.response_bytes.inc_by(bytes);
    }

    fn count_new(&mut self, outcome: Outcome) {
        let labels = |response_code: String, refusal, grpc_response_status| RequestLabels {
            flow: self.labels.clone(),
            response_code,
            refusal,
            grpc_response_status,
        };
        if self.seen.len() < MAX_OUTCOMES {
            let code = outcome.status.map_or("none".to_owned(), |s| s.to_string());
            let refusal = outcome.refusal.map_or("", RefusalReason::code);
            let grpc = outcome.grpc_status.map(|s| s.to_string());
            let labels = labels(code, refusal, grpc.unwrap_or_default());
            let counter = self.requests.get_or_create_owned(&labels);
            counter.inc();
            self.seen.push((outcome, counter));
        } else {
            self.overflow.inc();
            let other = labels(OTHER.to_owned(), OTHER, OTHER.to_owned());
            self.requests.get_or_create(&other).inc();
        }
    }
}

const OTHER: &str = "other";
const UNKNOWN: &str = "unknown";
/// Stands for the service where there is none: every host outside the mesh.
pub(crate) const OUTSIDE: &str = "outside";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct FlowLabels {
    reporter: Reporter,
    source_service: String,
    source_cluster: String,
    destination_service: String,
    destination_cluster: String,
}

impl FlowLabels {
    pub(crate) fn new(key: &FlowKey) -> Self {
        fn show(name: Option<&impl ToString>) -> String {
            name.map_or(UNKNOWN.to_owned(), ToString::to_string)
        }
        Self {
            reporter: key.reporter,
            source_service: show(key.source_service.as_ref()),
            source_cluster: show(key.source_cluster.as_ref()),
            destination_service: if key.outside {
                OUTSIDE.to_owned()
            } else {
                show(key.destination_service.as_ref())
            },
            destination_cluster: show(key.destination_cluster.as_ref()),
        }
    }

    /// The one set that stands for all that are too many.
    pub(crate) fn other(reporter: Reporter) -> Self {
        Self {
            reporter,
            source_service: OTHER.to_owned(),
            source_cluster: OTHER.to_owned(),
            destination_service: OTHER.to_owned(),
            destination_cluster: OTHER.to_owned(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    #[prometheus(flatten)]
    flow: FlowLabels,
    response_code: String,
    refusal: &'static str,
    grpc_response_status: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct BytesLabels {
    #[prometheus(flatten)]
    flow: FlowLabels,
    direction: &'static str,
}

impl EncodeLabelValue for Reporter {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.name(), encoder)
    }
}

/// The families that a flow counts into.
#[derive(Debug, Clone, Default)]
pub(crate) struct FlowFamilies {
    pub(crate) requests: Family<RequestLabels, Counter>,
    pub(crate) durations: Family<FlowLabels, DurationHistogram>,
    pub(crate) retries: Family<FlowLabels, Counter>,
    pub(crate) tcp_connections: Family<FlowLabels, Counter>,
    pub(crate) bytes: Family<BytesLabels, Counter>,
    pub(crate) overflow: Counter,
}

impl FlowFamilies {
    pub(crate) fn flow(&self, labels: FlowLabels) -> Flow {
        let bytes = |direction| {
            let flow = labels.clone();
            self.bytes
                .get_or_create_owned(&BytesLabels { flow, direction })
        };
        Flow {
            requests: self.requests.clone(),
            overflow: self.overflow.clone(),
            seen: Vec::new(),
            duration: self.durations.get_or_create_owned(&labels),
            retries: self.retries.get_or_create_owned(&labels),
            tcp_connections: self.tcp_connections.get_or_create_owned(&labels),
            request_bytes: bytes("request"),
            response_bytes: bytes("response"),
            labels,
        }
    }
}
