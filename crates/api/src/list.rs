//! Lists of objects.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A list in the shape of the Kubernetes API, with one field more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectList {
    /// `<Kind>List`.
    pub kind: String,
    pub api_version: String,
    pub metadata: ListMeta,
    pub items: Vec<Value>,
    /// Clusters whose items are not in the list, because they did not answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreachable: Vec<UnreachableCluster>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListMeta {
    /// Where a watch goes on from.
    pub resource_version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnreachableCluster {
    pub cluster: String,
    /// Since anything was heard of it; `None`: nothing ever was.
    pub last_seen_ms: Option<u64>,
}
