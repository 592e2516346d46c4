//! `GET /mesh/v1/history`: the changes of config that were accepted, newest first.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What is asked for, in the query.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HistoryRequest {
    /// Of objects of this kind only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Changes below this position; without it, from the newest on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// At most this many changes; an answer may have fewer and still not be the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Only changes that were accepted and are void since the authority began anew without them, of those
    /// that the answering cluster had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<bool>,
    /// With each change the text that its hash is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<bool>,
}

/// Some of the changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryView {
    /// Who answers, from its own copy.
    pub cluster: String,
    /// Where its copy of config stands: that of the newest change, when the history is whole.
    pub position: u64,
    pub changes: Vec<ChangeView>,
    /// What the next request gives as `before`; `None`: the answering cluster knows no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// What this version cannot read, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<String>,
}

/// One change of one object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeView {
    /// Its place in the authority's log: the same in every cluster.
    pub position: u64,
    /// When the authority accepted it, RFC 3339.
    pub time: String,
    pub author: String,
    /// The cluster whose API was asked.
    pub cluster: String,
    /// `create`, `update` or `delete`.
    pub verb: String,
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub name: String,
    /// The cluster that the object is of; `None`: it is the mesh's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// The object as it was; `None`: there was none.
    pub before: Option<Value>,
    /// The object as it was made; `None`: it was deleted.
    pub after: Option<Value>,
    /// SHA-256, in hexadecimal, of a byte 1 and the record.
    pub hash: String,
    /// The hash of the change before this one; `None`: this is the first.
    pub previous: Option<String>,
    /// The record itself, JSON, if it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
}

impl ChangeView {
    /// `Kind/[namespace/]name`.
    pub fn object(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{}/{namespace}/{}", self.kind, self.name),
            None => format!("{}/{}", self.kind, self.name),
        }
    }
}
