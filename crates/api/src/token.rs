//! `POST /mesh/v1/tokens`: a join token for one process of the cluster that is asked.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenRequest {
    pub namespace: String,
    /// Service account of the process; its identity is made of namespace and account.
    pub account: String,
    /// The service that it runs; `None` for a gateway or a client without a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Default: one hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime_seconds: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenReply {
    pub token: String,
    pub cluster: String,
    pub identity: String,
    pub lifetime_seconds: u64,
}
