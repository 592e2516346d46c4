//! The specs of our own kinds, as they are written. What they mean is `resolve`'s.
//!
//! The comments on fields are the text of docs/reference/resources.md.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The mesh itself: one per trust domain.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MeshSpec {
    /// SPIFFE trust domain of every identity in the mesh.
    pub(crate) trust_domain: String,
    /// What becomes of requests of the mesh's programs to hosts outside of it. `Deny`: their proxies refuse
    /// them. `Allow`: they carry them, in nobody's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) egress: Option<EgressName>,
    /// Clusters whose control planes accept config together, five at most: a change is accepted when more
    /// than half of them have it, so that three survive the loss of any one. `isthmus authority add` and
    /// `remove` write it. Left out: the cluster that founded the mesh alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 5))]
    pub(crate) voters: Option<Vec<String>>,
    /// When workloads that their control plane does not hear any more are not taken for gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) removals: Option<RemovalsSpec>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RemovalsSpec {
    /// Where more than this part of a service's workloads in a cluster is missed at once, in percent, it may be the control
    /// plane that is cut off: those are shown as they were, unless nobody listens at their address. The same is
    /// done for a cluster's gateways. 100: never. Default: 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub(crate) hold_above: Option<u64>,
    /// How long, 10s to 24h. `isthmus release` ends it before. Default: 5m.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub(crate) hold_for: Option<String>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
pub(crate) enum EgressName {
    Deny,
    Allow,
}

/// A cluster of the mesh: a failure and locality domain with its own control plane.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClusterSpec {
    /// Where it is, such as `us-west`.
    pub(crate) region: String,
    /// Part of the region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) zone: Option<String>,
    /// Place on the map.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) coordinates: Option<Coordinates>,
    /// Legal area, such as an ISO 3166 country code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) jurisdiction: Option<String>,
    /// Where its control plane is reached (port 15012). Required, but `isthmus up` fills it in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "ip:port"))]
    pub(crate) control: Option<String>,
    /// Namespaces that its workloads may live in. Left out: all. Empty: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) namespaces: Option<Vec<String>>,
    /// Nobody believes it any more, and whoever it admitted. `isthmus revoke cluster` writes it. Only `false` takes
    /// it back: leaving it out does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) revoked: Option<bool>,
    /// What part of the requests that would go there does, in percent, where another cluster can take the rest.
    /// `isthmus cluster drain` lowers it step by step. Default: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub(crate) traffic: Option<u8>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Coordinates {
    /// Degrees, -90 to 90.
    pub(crate) latitude: f64,
    /// Degrees, -180 to 180.
    pub(crate) longitude: f64,
}

/// A way between two clusters.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LinkSpec {
    /// The names of the two clusters.
    #[schemars(length(equal = 2))]
    pub(crate) between: Vec<String>,
    /// Declared round-trip time; a measured one replaces it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub(crate) rtt: Option<String>,
    /// Addresses to dial instead of the other side's own, for relays and NAT.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) reach: Vec<ReachSpec>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReachSpec {
    /// The cluster that dials: one of `between`.
    pub(crate) from: String,
    /// An address of the other side, as that side knows it.
    #[schemars(extend("format" = "ip:port"))]
    pub(crate) address: String,
    /// What is dialled for it.
    #[schemars(extend("format" = "ip:port"))]
    pub(crate) via: String,
}

/// Stretches the service of the same namespace and name over all clusters that run it.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceExportSpec {
    /// Not supported yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exported_labels: Option<BTreeMap<String, String>>,
    /// Not supported yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exported_annotations: Option<BTreeMap<String, String>>,
}

/// How requests to services behave. Field by field, a narrower target outweighs a wider one, and of one width a
/// cluster's own policy that of the mesh; what is `enforced` outweighs both.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TrafficPolicySpec {
    /// What the policy is for: at least one.
    #[schemars(length(min = 1))]
    pub(crate) target_refs: Vec<TargetRef>,
    /// What this policy sets holds whatever narrower policies and routes say, and those of clusters. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) enforced: Option<bool>,
    /// How workloads are chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) load_balancing: Option<LoadBalancingSpec>,
    /// Which clusters are tried first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) locality: Option<LocalitySpec>,
    /// Trying again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retry: Option<RetrySpec>,
    /// How long things may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<TimeoutSpec>,
    /// Breaking the circuit: how much may be under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limits: Option<LimitsSpec>,
    /// Setting workloads aside that fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outlier: Option<OutlierSpec>,
    /// How a proxy checks the program beside it: `http`, `grpc` or `tcp`, exactly one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) health_check: Option<HealthCheckSpec>,
}

/// A reference as in GEP-713.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TargetRef {
    /// API group of `kind`, which is the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
    /// Kind of the target.
    pub(crate) kind: TargetKind,
    /// Name of the target.
    pub(crate) name: String,
    /// Of a Service or an HTTPRoute. Default: the policy's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
pub(crate) enum TargetKind {
    Mesh,
    Namespace,
    Service,
    #[serde(rename = "HTTPRoute")]
    HttpRoute,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LoadBalancingSpec {
    /// How one of several workloads is chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) algorithm: Option<AlgorithmName>,
    /// What `RingHash` and `Maglev` hash, exactly one: requests with the same go to the same workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hash_on: Option<HashOnSpec>,
}

/// What of a request is hashed.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HashOnSpec {
    /// The value of the header of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) header: Option<String>,
    /// The value of the cookie of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cookie: Option<String>,
    /// With `cookie`: a client that has none is given one for so long; `0s`: until it ends. Unset: it is
    /// not, and its requests go anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub(crate) cookie_ttl: Option<String>,
    /// The client's address. Written `source: {}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<SourceSpec>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct SourceSpec {}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
pub(crate) enum AlgorithmName {
    #[serde(rename = "PeakEWMA")]
    PeakEwma,
    RoundRobin,
    LeastRequest,
    RingHash,
    Maglev,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LocalitySpec {
    /// `Nearest`: the caller's own cluster, then the others by round-trip time. `LocalOnly`: the
    /// caller's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) order: Option<OrderName>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
pub(crate) enum OrderName {
    Nearest,
    LocalOnly,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RetrySpec {
    /// Tries after the first, at most 10; 0 switches retries off. Tries that found no way are not
    /// counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) attempts: Option<u32>,
    /// Retries allowed on top of the requests of any second, in percent of them: 0 to 100. A first retry
    /// that only moves a request away from a place that is lost does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) budget_percent: Option<u64>,
    /// What makes a try worth repeating.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) on: Option<Vec<RetryOnName>>,
    /// Send a request that is idempotent and has no body once more, to another workload, when its reply
    /// takes longer than 95 % of them do, and take the reply that comes first. Counts against the budget,
    /// and happens only where workloads are less than 60 % busy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hedge: Option<bool>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
pub(crate) enum RetryOnName {
    ConnectFailure,
    Refused,
    Reset,
    GatewayError,
    /// Calls of gRPC that end as UNAVAILABLE, whatever their method: only where that is safe.
    Unavailable,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TimeoutSpec {
    /// Until the whole reply, from the end of the request; of a stream (gRPC, server-sent events and
    /// their like) until the reply begins; `0s`: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub(crate) request: Option<String>,
    /// One try, of a stream until the reply begins; `0s`: as `request`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub(crate) per_try: Option<String>,
    /// Making a connection; above zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub(crate) connect: Option<String>,
    /// A TCP connection, an upgraded one, or a reply without a deadline, that carries nothing; `0s`:
    /// none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub(crate) idle: Option<String>,
}

/// What one caller's proxy may have under way at a time to the workloads of one cluster. More goes to
/// another cluster, or is refused (`overloaded`). How much a cluster can take is learnt without them.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LimitsSpec {
    /// TCP connections; above zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) connections: Option<u32>,
    /// Requests, or TCP connections, that wait for a way there; above zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pending: Option<u32>,
    /// Requests of HTTP; above zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) requests: Option<u32>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OutlierSpec {
    /// Failures in a row that eject a workload. One that fails far more often than its siblings, or
    /// takes far longer, is ejected, too. 0 switches all ejection off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) consecutive_errors: Option<u32>,
    /// Length of the first ejection; each further one lasts that much longer. Above zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub(crate) base_ejection: Option<String>,
    /// Share of a service's workloads that may be ejected, in percent: 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_ejected_percent: Option<u64>,
    /// If a smaller share of a cluster's workloads is usable than this, in percent, and no other
    /// cluster can serve, all of them are used: 0 (never) to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) panic_percent: Option<u64>,
}

/// How a proxy checks the program beside it.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HealthCheckSpec {
    /// GET answers 200 to 399.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) http: Option<HttpProbeSpec>,
    /// Connecting is enough. Written `tcp: {}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tcp: Option<TcpProbeSpec>,
    /// The gRPC health checking protocol answers SERVING.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) grpc: Option<GrpcProbeSpec>,
    /// Between two checks; at least 100 ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub(crate) interval: Option<String>,
    /// Above zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub(crate) timeout: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HttpProbeSpec {
    /// Begins with `/`.
    pub(crate) path: String,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GrpcProbeSpec {
    /// Which of the program's services; default: the program as a whole. Written `grpc: {}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct TcpProbeSpec {}

/// A running instance of a service. Its own cluster writes it; people read it. Its labels are
/// `metadata.labels`, its name is its handle.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WorkloadSpec {
    /// Name of its service, in the workload's own namespace.
    pub(crate) service: String,
    /// The cluster that it runs in.
    pub(crate) cluster: String,
    /// `spiffe://<trust-domain>/ns/<namespace>/sa/<account>`.
    pub(crate) identity: String,
    /// Where its proxy takes mesh traffic (port 15008).
    #[schemars(extend("format" = "ip:port"))]
    pub(crate) address: String,
    /// Part of its cluster's region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) zone: Option<String>,
}

/// What a workload's own proxy last saw of it.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WorkloadStatus {
    /// Only `Healthy` ones are sent requests.
    pub(crate) health: HealthName,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
pub(crate) enum HealthName {
    Starting,
    Healthy,
    Unhealthy,
    Draining,
}
