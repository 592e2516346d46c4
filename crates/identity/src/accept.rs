//! Is a proven peer the right one? One rule for each kind of meeting.
//!
//! The rules need what was dialled and what the mesh granted: both are config, never something that
//! a peer or a remote cluster says about itself.

use std::collections::BTreeSet;

use isthmus_model::{
    AccountName, Admission, Cluster, ClusterName, Identity, Namespace, SpiffeId, TrustDomain,
};

use crate::VerifiedPeer;

/// The namespace and account of every gateway.
const GATEWAY_NAMESPACE: &str = "isthmus-system";
const GATEWAY_ACCOUNT: &str = "gateway";

/// What the mesh says of a cluster and its processes.
#[derive(Debug, Clone, Copy)]
pub struct PeerCluster<'a> {
    /// As declared.
    pub cluster: &'a Cluster,
    /// Whom it admitted and takes for its own no more.
    pub revoked: &'a BTreeSet<Admission>,
}

/// Whom a caller means to reach.
#[derive(Debug, Clone, Copy)]
pub struct Callee<'a> {
    /// The cluster that was dialled.
    pub cluster: PeerCluster<'a>,
    /// The service's namespace.
    pub namespace: &'a Namespace,
    /// The service's declared service accounts.
    pub accounts: &'a [AccountName],
}

/// Which rule a proven peer breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unacceptable {
    #[error("the peer's certificate is of cluster {found}, cluster {dialled} was dialled")]
    OtherCluster {
        found: ClusterName,
        dialled: ClusterName,
    },
    #[error("the peer's certificate is of cluster {0}, which this mesh does not have")]
    UnknownCluster(ClusterName),
    #[error("cluster {cluster} speaks for namespace {namespace}, which it is not granted")]
    NamespaceNotGranted {
        cluster: ClusterName,
        namespace: Namespace,
    },
    #[error("the peer's admission {0} was revoked")]
    Revoked(Admission),
    #[error("the peer lives in namespace {found}, the service in {expected}")]
    OtherNamespace {
        found: Namespace,
        expected: Namespace,
    },
    #[error("the peer runs as {0}, which is none of the service's declared accounts")]
    AccountNotDeclared(AccountName),
    #[error("the peer is {0}, not a workload")]
    NotWorkload(SpiffeId),
    #[error("the peer is {0}, not a gateway")]
    NotGateway(SpiffeId),
    #[error("the peer is {0}, not a control plane")]
    NotControl(SpiffeId),
}

impl Unacceptable {
    /// A short stable word for counters and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::OtherCluster { .. } => "other-cluster",
            Self::UnknownCluster(_) => "unknown-cluster",
            Self::NamespaceNotGranted { .. } => "namespace-not-granted",
            Self::Revoked(_) => "revoked",
            Self::OtherNamespace { .. } => "other-namespace",
            Self::AccountNotDeclared(_) => "account-not-declared",
            Self::NotWorkload(_) => "not-a-workload",
            Self::NotGateway(_) => "not-a-gateway",
            Self::NotControl(_) => "not-a-control-plane",
        }
    }
}

/// The identity of every gateway of a trust domain; whose gateway it is, its issuing cluster says.
pub fn gateway_identity(trust_domain: &TrustDomain) -> Identity {
    let fits = "the name is a literal RFC 1123 label";
    Identity {
        trust_domain: trust_domain.clone(),
        namespace: Namespace::new(GATEWAY_NAMESPACE).expect(fits),
        account: AccountName::new(GATEWAY_ACCOUNT).expect(fits),
    }
}

/// A caller's rule for the workload it reached: issued by the cluster that was dialled, which is
/// granted the service's namespace, and running there as one of the service's accounts. So one
/// stolen cluster cannot impersonate the rest, and a gateway cannot swap services.
pub fn accept_callee<'p>(
    peer: &'p VerifiedPeer,
    callee: &Callee<'_>,
) -> Result<&'p Identity, Unacceptable> {
    check_cluster(peer, &callee.cluster.cluster.name)?;
    let identity = check_workload(peer)?;
    check_admitted(peer, callee.cluster)?;
    check_grant(callee.cluster.cluster, identity)?;
    if identity.namespace != *callee.namespace {
        return Err(Unacceptable::OtherNamespace {
            found: identity.namespace.clone(),
            expected: callee.namespace.clone(),
        });
    }
    if !callee.accounts.contains(&identity.account) {
        let account = identity.account.clone();
        return Err(Unacceptable::AccountNotDeclared(account));
    }
    Ok(identity)
}

/// A callee's or gateway's rule for whoever opened a session: a workload whose cluster is granted
/// its namespace. `find` looks a cluster up in the mesh's config; unknown ones are refused.
pub fn accept_caller<'p, 'c>(
    peer: &'p VerifiedPeer,
    find: impl FnOnce(&ClusterName) -> Option<PeerCluster<'c>>,
) -> Result<&'p Identity, Unacceptable> {
    let identity = check_workload(peer)?;
    let from =
        find(peer.cluster()).ok_or_else(|| Unacceptable::UnknownCluster(peer.cluster().clone()))?;
    check_admitted(peer, from)?;
    check_grant(from.cluster, identity)?;
    Ok(identity)
}

/// A caller's rule for the outer session: a gateway of the cluster that was dialled.
pub fn accept_gateway(peer: &VerifiedPeer, dialled: PeerCluster<'_>) -> Result<(), Unacceptable> {
    check_cluster(peer, &dialled.cluster.name)?;
    check_admitted(peer, dialled)?;
    let is_gateway = |identity: &Identity| {
        identity.namespace.as_str() == GATEWAY_NAMESPACE
            && identity.account.as_str() == GATEWAY_ACCOUNT
    };
    match peer.id() {
        SpiffeId::Workload(identity) if is_gateway(identity) => Ok(()),
        other => Err(Unacceptable::NotGateway(other.clone())),
    }
}

/// The control plane of `cluster`, and nobody else. (That a control plane's id and its issuing
/// cluster agree is part of verification.)
pub fn accept_control(peer: &VerifiedPeer, cluster: &ClusterName) -> Result<(), Unacceptable> {
    check_cluster(peer, cluster)?;
    match peer.id() {
        SpiffeId::Cluster(_) => Ok(()),
        other @ SpiffeId::Workload(_) => Err(Unacceptable::NotControl(other.clone())),
    }
}

fn check_cluster(peer: &VerifiedPeer, dialled: &ClusterName) -> Result<(), Unacceptable> {
    if peer.cluster() == dialled {
        return Ok(());
    }
    Err(Unacceptable::OtherCluster {
        found: peer.cluster().clone(),
        dialled: dialled.clone(),
    })
}

fn check_workload(peer: &VerifiedPeer) -> Result<&Identity, Unacceptable> {
    match peer.id() {
        SpiffeId::Workload(identity) => Ok(identity),
        other @ SpiffeId::Cluster(_) => Err(Unacceptable::NotWorkload(other.clone())),
    }
}

fn check_admitted(peer: &VerifiedPeer, from: PeerCluster<'_>) -> Result<(), Unacceptable> {
    match peer.admission() {
        Some(admission) if from.revoked.contains(&admission) => {
            Err(Unacceptable::Revoked(admission))
        }
        _ => Ok(()),
    }
}

fn check_grant(cluster: &Cluster, identity: &Identity) -> Result<(), Unacceptable> {
    if cluster.grants(&identity.namespace) {
        return Ok(());
    }
    Err(Unacceptable::NamespaceNotGranted {
        cluster: cluster.name.clone(),
        namespace: identity.namespace.clone(),
    })
}
