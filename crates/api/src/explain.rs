//! `POST /mesh/v1/explain`: where a request would go, and why.

use serde::{Deserialize, Serialize};

use crate::UnreachableCluster;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExplainRequest {
    /// `namespace/name` of the service that is called.
    pub service: String,
    /// `namespace/name` of the service that calls: one of its proxies is asked.
    pub source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    pub method: String,
    pub path: String,
    #[serde(default)]
    pub headers: Vec<HeaderPair>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderPair {
    pub name: String,
    pub value: String,
}

/// The decision of a real proxy, on its own view and balancer state; nothing was sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainReply {
    /// The proxy that answered.
    pub process: String,
    pub service: String,
    /// `namespace/name` of the HTTPRoute, or `default`.
    pub route: Option<String>,
    /// Name or number of its rule.
    pub rule: Option<String>,
    /// Set when the request would be refused before a backend is drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<RefusalView>,
    /// How the request would be treated, as far as anybody has said so: what is missing is the default.
    #[serde(default)]
    pub settings: Vec<SettingView>,
    /// Backends of the rule: one of them is drawn by weight.
    pub backends: Vec<BackendView>,
}

/// A setting and who has decided on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SettingView {
    /// As in the spec of a TrafficPolicy: `timeout.request`.
    pub field: String,
    pub value: String,
    /// `namespace/name` of the TrafficPolicy; `None`: the route's rule itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The cluster that the policy belongs to; `None`: the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Through which the policy reaches: `mesh`, `namespace shop`, `service shop/cart`, `route shop/split`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    #[serde(default)]
    pub enforced: bool,
}

/// Why the mesh would refuse a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalView {
    /// The stable code, as in `x-isthmus-refusal`.
    pub reason: String,
    /// For people; may be empty.
    pub detail: String,
}

/// One backend of the matched rule and what would become of a request that is drawn for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendView {
    pub service: String,
    /// `version=v2,tier=gold`, or `*` for all workloads of the service.
    pub subset: String,
    pub weight: u32,
    /// Set when a request that is drawn for it would be refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<RefusalView>,
    /// Every cluster that was looked at, nearest first.
    pub candidates: Vec<CandidateView>,
    /// What the request's own draw can make of them, nearest first: one, unless a cluster is in its
    /// slow start. None if it is refused before that.
    pub choices: Vec<ChoiceView>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CandidateView {
    pub cluster: String,
    pub healthy: u32,
    pub total: u32,
    pub rtt_ms: Option<f64>,
    pub age_ms: u64,
    /// Its facts are old, so that it ranks behind others.
    pub stale: bool,
    /// Why it is not used, or not for now; `None`: it can be.
    pub why_not: Option<String>,
}

/// Where a request can go, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChoiceView {
    /// `None`: there is none.
    pub cluster: Option<String>,
    /// Why this one.
    pub reason: String,
    /// How many of the requests go there: 1.0 is all of them.
    pub share: f64,
    /// The workloads that are known to the proxy, and those that it could open a tunnel to.
    pub workloads: Vec<WorkloadView>,
    /// A request would open a tunnel to one more workload of this cluster.
    pub opens_tunnel: bool,
    /// Set when the cluster was asked whom that tunnel could lead to, and did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreachable: Option<UnreachableCluster>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadView {
    pub handle: String,
    pub way: Way,
    /// A request could go there now. If not, it has failed too often and is out for a while.
    pub possible: bool,
    pub latency_ms: Option<f64>,
    pub in_flight: u32,
}

/// How the proxy reaches a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// It is in the proxy's own cluster.
    Direct,
    /// A tunnel stands.
    Tunnel,
    /// A tunnel would have to be opened first.
    NoTunnel,
}
