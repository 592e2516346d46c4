//! `GET /mesh/v1/status`: the mesh as one cluster's control plane sees it.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusView {
    pub mesh: String,
    pub trust_domain: String,
    /// Who answers.
    pub cluster: String,
    pub version: String,
    /// The config position of the answering cluster's copy.
    pub position: u64,
    pub authority: AuthorityStatus,
    /// In name order, the answering one included.
    pub clusters: Vec<ClusterStatus>,
    pub services: Vec<ServiceStatus>,
    /// Proxies and gateways of the answering cluster.
    pub proxies: Vec<ProxyStatus>,
    /// Of the answering cluster: of its control plane, of the cluster, and of the mesh.
    #[serde(default)]
    pub certificates: Vec<CertificateStatus>,
    /// Workloads and gateways of the answering cluster that are shown as they were last heard of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<HeldStatus>,
}

/// More of a service's workloads in a cluster were missed at once than `removals` of the Mesh takes for gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldStatus {
    /// `namespace/name` of the service, or `gateways`.
    pub group: String,
    pub held: usize,
    /// All that the cluster remembers.
    pub total: usize,
    /// For how long.
    pub held_ms: u64,
    /// After which they are taken for gone.
    pub left_ms: u64,
}

/// `POST /mesh/v1/removals/release`: what the answering cluster holds is to be taken for gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReleaseRequest {
    /// `namespace/name` of the service whose workloads are meant. Left out: the cluster's gateways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseView {
    /// Who answers.
    pub cluster: String,
    /// So many were held.
    pub released: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    /// `control`, `cluster` or `root`.
    pub name: String,
    /// Seconds since 1970.
    pub not_before: u64,
    /// Seconds since 1970.
    pub not_after: u64,
    /// So little of its life is left that somebody should know.
    pub ends_soon: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorityStatus {
    /// Who leads it, or who would know. `None`: nobody, as far as is known.
    pub cluster: Option<String>,
    /// Can the answering cluster reach it now?
    pub reachable: bool,
    /// Why the answering cluster has no vote, though others may count on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_vote: Option<String>,
}

/// `GET /mesh/v1/authority`: whose control planes accept config, and who leads them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorityView {
    /// Who says so: whoever leads, if it can be reached.
    pub cluster: String,
    /// `None`: nobody, as far as is known.
    pub leader: Option<String>,
    /// How often a leader was sought. `None`: who answers does not vote.
    pub term: Option<u64>,
    /// Of the last change that is accepted.
    pub position: u64,
    /// Are changes of config accepted now?
    pub accepts: bool,
    /// Why not, or what else is wrong.
    pub reason: Option<String>,
    /// How often it began anew, as far as is known.
    #[serde(default)]
    pub resets: u64,
    /// In name order.
    pub voters: Vec<VoterView>,
}

/// `POST /mesh/v1/authority/reset`: the answering cluster is to accept config alone from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResetRequest {
    /// A [`ResetStatement`] as JSON.
    pub statement: String,
    /// Of the statement's bytes, with the mesh key, for [`RESET_PURPOSE`]; in hexadecimal.
    pub signature: String,
}

/// What the mesh key signs a [`ResetStatement`] for.
pub const RESET_PURPOSE: &str = "authority-reset";

/// What whoever holds the mesh key says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResetStatement {
    /// One more than the mesh has seen. Of two with one number, that with the higher `group` counts.
    pub number: u64,
    /// The cluster that accepts config from now on, with what it has.
    pub cluster: String,
    /// The last change that it has. What others have beyond that is void.
    pub position: u64,
    /// The new group is known by it: 64 random bits.
    pub group: u64,
    /// When it was signed, RFC 3339; only for people.
    pub time: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VoterView {
    pub cluster: String,
    pub part: VoterPart,
    pub leads: bool,
    /// As who answers sees it.
    pub contact: Contact,
    pub age_ms: Option<u64>,
    /// Decisions that it is not known to have. `None`: who answers does not lead.
    pub lacks: Option<u64>,
}

/// What a cluster is to the authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VoterPart {
    Votes,
    /// Config says that it is to vote, and it is being brought there.
    Joins,
    /// Config says that it is not to vote any more.
    Leaves,
}

/// `POST /mesh/v1/authority/leader`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TransferRequest {
    /// The voter that is to lead.
    pub cluster: String,
}

/// What is known of the way to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Contact {
    /// The answering cluster itself.
    Own,
    Live,
    Stale,
    Lost,
    /// Declared, never heard of.
    Never,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    pub name: String,
    pub region: String,
    pub contact: Contact,
    /// Since anything was heard of it.
    pub age_ms: Option<u64>,
    /// Round trip between the control planes, measured.
    pub rtt_ms: Option<f64>,
    /// What part of the requests that would go there does, in percent. A control plane that does not say so knows of no
    /// draining.
    #[serde(default = "all_traffic")]
    pub traffic: u8,
    /// It is heard, and does not get on with what the answering cluster tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<BehindStatus>,
    pub gateways: Vec<GatewayStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BehindStatus {
    /// What it does not get on with, such as `facts/us-west`.
    pub ledger: String,
    /// Changes of it that it has not said to have on disk.
    pub changes: u64,
    /// For how long it has saved none of them.
    pub stuck_ms: u64,
}

fn all_traffic() -> u8 {
    isthmus_model::ALL_TRAFFIC
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    pub name: String,
    pub address: String,
    pub healthy: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// `namespace/name`.
    pub name: String,
    pub exported: bool,
    pub clusters: Vec<ServiceShare>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceShare {
    pub cluster: String,
    pub healthy: u32,
    pub total: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyStatus {
    pub process: String,
    pub identity: String,
    /// How it came into the mesh, as its certificate says: 16 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admission: Option<String>,
    pub connected: bool,
    /// The config position that it has acknowledged.
    pub position: u64,
    /// `topic name: reason` of each resource that it rejects.
    pub rejected: Vec<String>,
}
