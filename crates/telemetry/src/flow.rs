//! A flow: who calls whom, as one side of the call sees it, with its counters at hand.

use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

use isthmus_model::{ClusterName, Identity, ServiceName};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::RefusalReason;
use crate::histogram::{DurationHistogram, Durations};
use crate::tally::{Hand, Tally};

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

/// Who calls. One per caller and worker, that requests point to: names are counted by who holds them,
/// and requests that count all names anew would have every core write the same memory.
#[derive(Debug, Clone)]
pub struct Source {
    pub identity: Identity,
    /// By its account; `None` if that is no service's.
    pub service: Option<ServiceName>,
    pub cluster: ClusterName,
}

/// For flows, identities of one service in one cluster are the same.
impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        (&self.service, &self.cluster) == (&other.service, &other.cluster)
    }
}

impl Eq for Source {}

impl Hash for Source {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.service, &self.cluster).hash(state);
    }
}

/// Who calls whom. `None` is what the reporter does not know; it is shown as `unknown`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FlowKey {
    pub reporter: Reporter,
    pub source: Option<Rc<Source>>,
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
/// series, each in memory of its own. Nothing here formats or locks once an outcome has been seen.
#[derive(Debug)]
pub struct Flow {
    labels: FlowLabels,
    requests: Family<RequestLabels, Tally<1>>,
    overflow: Counter,
    seen: Vec<(Outcome, Hand<1>)>,
    duration: Durations,
    retries: Hand<1>,
    tcp_connections: Hand<1>,
    request_bytes: Hand<1>,
    response_bytes: Hand<1>,
}

/// Distinct outcomes of one flow; applications choose status codes, so there must be a bound.
const MAX_OUTCOMES: usize = 48;

impl Flow {
    /// A request has ended after `took`.
    pub fn count_request(&mut self, outcome: Outcome, took: Duration) {
        self.duration.observe(took);
        if let Some((_, counter)) = self.seen.iter().find(|(seen, _)| *seen == outcome) {
            counter.add(0, 1);
        } else {
            self.count_new(outcome);
        }
    }

    /// One attempt more.
    pub fn count_retry(&self) {
        self.retries.add(0, 1);
    }

    pub fn count_tcp_connection(&self) {
        self.tcp_connections.add(0, 1);
    }

    /// Bytes towards the destination.
    pub fn count_request_bytes(&self, bytes: u64) {
        self.request_bytes.add(0, bytes);
    }

    /// Bytes towards the source.
    pub fn count_response_bytes(&self, bytes: u64) {
        self.response_bytes.add(0, bytes);
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
            let counter = self.requests.get_or_create(&labels).hand();
            counter.add(0, 1);
            self.seen.push((outcome, counter));
        } else {
            self.overflow.inc();
            let other = labels(OTHER.to_owned(), OTHER, OTHER.to_owned());
            self.requests.get_or_create(&other).hand().add(0, 1);
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
        let source = key.source.as_ref();
        Self {
            reporter: key.reporter,
            source_service: show(source.and_then(|source| source.service.as_ref())),
            source_cluster: show(source.map(|source| &source.cluster)),
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
    pub(crate) requests: Family<RequestLabels, Tally<1>>,
    pub(crate) durations: Family<FlowLabels, DurationHistogram>,
    pub(crate) retries: Family<FlowLabels, Tally<1>>,
    pub(crate) tcp_connections: Family<FlowLabels, Tally<1>>,
    pub(crate) bytes: Family<BytesLabels, Tally<1>>,
    pub(crate) overflow: Counter,
}

impl FlowFamilies {
    pub(crate) fn flow(&self, labels: FlowLabels) -> Flow {
        let bytes = |direction| {
            let flow = labels.clone();
            self.bytes
                .get_or_create(&BytesLabels { flow, direction })
                .hand()
        };
        Flow {
            requests: self.requests.clone(),
            overflow: self.overflow.clone(),
            seen: Vec::new(),
            duration: self.durations.get_or_create(&labels).hand(),
            retries: self.retries.get_or_create(&labels).hand(),
            tcp_connections: self.tcp_connections.get_or_create(&labels).hand(),
            request_bytes: bytes("request"),
            response_bytes: bytes("response"),
            labels,
        }
    }
}
