//! The name, type, labels and meaning of every metric.

/// How a metric's values are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows; restarts at zero with its process.
    Counter,
    Gauge,
    Histogram,
}

/// One metric family as it is exposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricName {
    /// The full name; counters end in `_total`.
    pub name: &'static str,
    pub kind: MetricKind,
    pub labels: &'static [&'static str],
    /// One sentence, with the unit.
    pub help: &'static str,
}

impl MetricName {
    /// What the registry is told: it adds a counter's `_total` itself.
    pub(crate) fn registered(&self) -> &'static str {
        self.name.strip_suffix("_total").unwrap_or(self.name)
    }
}

const FLOW: &[&str] = &[
    "reporter",
    "source_service",
    "source_cluster",
    "destination_service",
    "destination_cluster",
];

pub(crate) const REQUESTS: MetricName = MetricName {
    name: "isthmus_requests_total",
    kind: MetricKind::Counter,
    labels: &[
        "reporter",
        "source_service",
        "source_cluster",
        "destination_service",
        "destination_cluster",
        "response_code",
        "refusal",
        "grpc_response_status",
    ],
    help: "Requests that have ended, by the status the caller saw, the mesh's reason if it refused, and the status of gRPC calls",
};

pub(crate) const REQUEST_DURATION: MetricName = MetricName {
    name: "isthmus_request_duration_seconds",
    kind: MetricKind::Histogram,
    labels: FLOW,
    help: "Seconds from a request's first byte to the last byte of its reply, retries included",
};

pub(crate) const TCP_CONNECTIONS: MetricName = MetricName {
    name: "isthmus_tcp_connections_total",
    kind: MetricKind::Counter,
    labels: FLOW,
    help: "Plain TCP connections that were carried",
};

pub(crate) const BYTES: MetricName = MetricName {
    name: "isthmus_bytes_total",
    kind: MetricKind::Counter,
    labels: &[
        "reporter",
        "source_service",
        "source_cluster",
        "destination_service",
        "destination_cluster",
        "direction",
    ],
    help: "Bytes of bodies and of TCP streams; direction is request (towards the destination) or response",
};

pub(crate) const RETRIES: MetricName = MetricName {
    name: "isthmus_retries_total",
    kind: MetricKind::Counter,
    labels: FLOW,
    help: "Attempts beyond a request's first",
};

pub(crate) const STREAMS_OPEN: MetricName = MetricName {
    name: "isthmus_streams_open",
    kind: MetricKind::Gauge,
    labels: &["reporter"],
    help: "Streams between proxies that are open now",
};

pub(crate) const TLS_HANDSHAKES: MetricName = MetricName {
    name: "isthmus_tls_handshakes_total",
    kind: MetricKind::Counter,
    labels: &["kind"],
    help: "Handshakes with other proxies that proved who the peer is, `full` or `resumed`; whether it may is judged after that",
};

pub(crate) const TLS_REFUSED: MetricName = MetricName {
    name: "isthmus_tls_refused_total",
    kind: MetricKind::Counter,
    labels: &["reason"],
    help: "Handshakes refused because the peer's identity was missing, wrong or not trusted",
};

pub(crate) const MALFORMED: MetricName = MetricName {
    name: "isthmus_malformed_requests_total",
    kind: MetricKind::Counter,
    labels: &["reason"],
    help: "Requests that could not be read, or could be read in two ways, by what is wrong with their head or body",
};

pub(crate) const LEAF_EXPIRY: MetricName = MetricName {
    name: "isthmus_leaf_expiry_timestamp_seconds",
    kind: MetricKind::Gauge,
    labels: &[],
    help: "When this process's certificate ends, in seconds since 1970; it is renewed long before",
};

pub(crate) const SNAPSHOT_REFUSED: MetricName = MetricName {
    name: "isthmus_snapshot_refused_total",
    kind: MetricKind::Counter,
    labels: &["reason"],
    help: "Saved snapshots not used because they were damaged, foreign, expired or of an unknown version",
};

pub(crate) const CONNECTIONS_SHED: MetricName = MetricName {
    name: "isthmus_connections_shed_total",
    kind: MetricKind::Counter,
    labels: &["reason"],
    help: "Connections that were closed as soon as they came: no-descriptors, too-many of this process, too-many-of-source, no-memory; of a load balancer that did not say whose they are: proxy-header; because of a flood: http2-flood; or because hands were not shaken: too-many-handshakes at once, slow-handshake",
};

pub(crate) const MEMORY_TAKEN: MetricName = MetricName {
    name: "isthmus_memory_taken_bytes",
    kind: MetricKind::Gauge,
    labels: &[],
    help: "Bytes of the memory budget that are taken: by connections, requests, and what they send and do not read",
};

pub(crate) const MEMORY_LIMIT: MetricName = MetricName {
    name: "isthmus_memory_limit_bytes",
    kind: MetricKind::Gauge,
    labels: &[],
    help: "The memory budget in bytes: what this process may hold for others before it refuses what is new",
};

pub(crate) const DETECTED: MetricName = MetricName {
    name: "isthmus_protocol_detected_total",
    kind: MetricKind::Counter,
    labels: &["protocol", "by"],
    help: "Connections to ports whose protocol nobody has declared, by what their clients spoke and how that was told: by their first bytes, or because they had said nothing in time",
};

pub(crate) const LABEL_OVERFLOW: MetricName = MetricName {
    name: "isthmus_label_overflow_total",
    kind: MetricKind::Counter,
    labels: &[],
    help: "Label sets that were counted as 'other' because the bound on distinct ones was reached",
};

pub(crate) const BUILD_INFO: MetricName = MetricName {
    name: "isthmus_build_info",
    kind: MetricKind::Gauge,
    labels: &["version"],
    help: "Always 1; the version of this process stands in its label",
};

pub const CONFIG_POSITION: MetricName = MetricName {
    name: "isthmus_config_position",
    kind: MetricKind::Gauge,
    labels: &[],
    help: "Position of this cluster's copy of config",
};

pub const PROXIES_CONNECTED: MetricName = MetricName {
    name: "isthmus_proxies_connected",
    kind: MetricKind::Gauge,
    labels: &[],
    help: "Proxies and gateways with an open stream",
};

pub const RESOURCES_REJECTED: MetricName = MetricName {
    name: "isthmus_resources_rejected",
    kind: MetricKind::Gauge,
    labels: &[],
    help: "Resources that proxies and gateways reject, each counted for each of them",
};

pub const AUTHORITY_REACHABLE: MetricName = MetricName {
    name: "isthmus_authority_reachable",
    kind: MetricKind::Gauge,
    labels: &[],
    help: "1 when config can be written through this cluster",
};

pub const VOTE_LOST: MetricName = MetricName {
    name: "isthmus_vote_lost",
    kind: MetricKind::Gauge,
    labels: &[],
    help: "1 when this cluster has no vote on config any more though others may count on it",
};

pub const CLUSTER_CONTACT: MetricName = MetricName {
    name: "isthmus_cluster_contact",
    kind: MetricKind::Gauge,
    labels: &["cluster", "state"],
    help: "1 for the one state that another cluster is in: live, stale (silent for 3 s), lost (15 s), or never heard since the start",
};

pub const CLUSTER_SILENT: MetricName = MetricName {
    name: "isthmus_cluster_silent_seconds",
    kind: MetricKind::Gauge,
    labels: &["cluster"],
    help: "Seconds since another cluster was heard; not there when it was not heard since the start",
};

pub const CLUSTER_RTT: MetricName = MetricName {
    name: "isthmus_cluster_rtt_seconds",
    kind: MetricKind::Gauge,
    labels: &["cluster"],
    help: "Round trip to another cluster's control plane, smoothed",
};

pub const CLUSTER_BEHIND: MetricName = MetricName {
    name: "isthmus_cluster_changes_behind",
    kind: MetricKind::Gauge,
    labels: &["cluster"],
    help: "Changes that another cluster is told, and has saved none of for 10 s though it is heard; 0 while it gets on",
};

pub const REMOVALS_HELD: MetricName = MetricName {
    name: "isthmus_removals_held",
    kind: MetricKind::Gauge,
    labels: &["group"],
    help: "Workloads of a service, or gateways, that are not heard and shown as they were: too many at once",
};

pub const CERTIFICATE_EXPIRY: MetricName = MetricName {
    name: "isthmus_certificate_expiry_timestamp_seconds",
    kind: MetricKind::Gauge,
    labels: &["certificate"],
    help: "When a certificate ends that this cluster lives by, in seconds since 1970: of its control plane (renewed by itself), of the cluster (signed anew with the mesh key), of the mesh's root",
};

/// Every metric of a control plane, in the order of the reference page.
pub const CONTROL_METRICS: [MetricName; 11] = [
    CONFIG_POSITION,
    PROXIES_CONNECTED,
    RESOURCES_REJECTED,
    AUTHORITY_REACHABLE,
    VOTE_LOST,
    CLUSTER_CONTACT,
    CLUSTER_SILENT,
    CLUSTER_RTT,
    CLUSTER_BEHIND,
    REMOVALS_HELD,
    CERTIFICATE_EXPIRY,
];

/// Every metric of a process that carries traffic, in the order of the reference page.
pub const METRICS: [MetricName; 17] = [
    REQUESTS,
    REQUEST_DURATION,
    RETRIES,
    TCP_CONNECTIONS,
    BYTES,
    STREAMS_OPEN,
    TLS_HANDSHAKES,
    TLS_REFUSED,
    MALFORMED,
    LEAF_EXPIRY,
    SNAPSHOT_REFUSED,
    CONNECTIONS_SHED,
    MEMORY_TAKEN,
    MEMORY_LIMIT,
    DETECTED,
    LABEL_OVERFLOW,
    BUILD_INFO,
];
