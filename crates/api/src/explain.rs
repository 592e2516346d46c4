//! `POST /mesh/v1/explain`: where a request would go, and why.

use serde::{Deserialize, Serialize};

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
    /// Set when the request would be refused before a cluster is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// Backends of the rule: one of them is drawn by weight.
    pub backends: Vec<BackendView>,
}

/// One backend of the matched rule and what would become of a request that is drawn for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendView {
    pub service: String,
    pub subset: String,
    pub weight: u32,
    pub candidates: Vec<CandidateView>,
    /// The cluster that takes it.
    pub cluster: Option<String>,
    /// Why this one.
    pub reason: String,
    /// Workloads that could take it.
    pub workloads: Vec<WorkloadChoice>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CandidateView {
    pub cluster: String,
    pub healthy: u32,
    pub total: u32,
    pub rtt_ms: Option<f64>,
    pub age_ms: u64,
    /// Why it would not be taken for now; `None`: it could be.
    pub hot: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadChoice {
    pub handle: String,
    pub latency_ms: Option<f64>,
    pub in_flight: u32,
}
