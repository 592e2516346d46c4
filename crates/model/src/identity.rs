//! Who somebody is: SPIFFE ids of workloads and of clusters.

use std::fmt;
use std::str::FromStr;

use crate::{AccountName, ClusterName, NameError, Namespace, TrustDomain};

/// A workload's identity, `spiffe://<trust-domain>/ns/<namespace>/sa/<account>` (SPIFFE-ID, in the
/// form that Istio and Kubernetes meshes share).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    pub trust_domain: TrustDomain,
    pub namespace: Namespace,
    pub account: AccountName,
}

/// A cluster's identity, `spiffe://<trust-domain>/cluster/<name>`: what its control plane and its
/// intermediate certificate authority are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterIdentity {
    pub trust_domain: TrustDomain,
    pub cluster: ClusterName,
}

/// Any SPIFFE id that the mesh gives out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SpiffeId {
    Workload(Identity),
    Cluster(ClusterIdentity),
}

/// Why a URI is not a SPIFFE id of a mesh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    #[error("it does not begin with spiffe://")]
    Scheme,
    #[error("its path is neither /ns/<namespace>/sa/<account> nor /cluster/<name>")]
    Path,
    #[error("{part}: {error}")]
    Part {
        part: &'static str,
        error: NameError,
    },
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(uri: &str) -> Result<Self, SpiffeError> {
        let rest = uri.strip_prefix("spiffe://").ok_or(SpiffeError::Scheme)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let trust_domain = |text: &str| TrustDomain::new(text).map_err(part("trust domain"));
        match parts[..] {
            [domain, "ns", namespace, "sa", account] => Ok(Self::Workload(Identity {
                trust_domain: trust_domain(domain)?,
                namespace: Namespace::new(namespace).map_err(part("namespace"))?,
                account: AccountName::new(account).map_err(part("service account"))?,
            })),
            [domain, "cluster", cluster] => Ok(Self::Cluster(ClusterIdentity {
                trust_domain: trust_domain(domain)?,
                cluster: ClusterName::new(cluster).map_err(part("cluster"))?,
            })),
            _ => Err(SpiffeError::Path),
        }
    }
}

fn part(part: &'static str) -> impl Fn(NameError) -> SpiffeError {
    move |error| SpiffeError::Part { part, error }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trust_domain,
            namespace,
            account,
        } = self;
        write!(f, "spiffe://{trust_domain}/ns/{namespace}/sa/{account}")
    }
}

impl fmt::Display for ClusterIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/cluster/{}", self.trust_domain, self.cluster)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(identity) => identity.fmt(f),
            Self::Cluster(identity) => identity.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spiffe_ids_round_trip_and_nothing_else_parses() {
        for good in [
            "spiffe://shop.mesh/ns/shop/sa/cart",
            "spiffe://shop.mesh/cluster/us-west",
        ] {
            assert_eq!(
                good.parse::<SpiffeId>().map(|id| id.to_string()),
                Ok(good.to_owned())
            );
        }
        for bad in [
            "",
            "https://shop.mesh/ns/shop/sa/cart",
            "spiffe://shop.mesh",
            "spiffe://shop.mesh/ns/shop/sa/cart/",
            "spiffe://shop.mesh/ns//sa/cart",
            "spiffe://shop.mesh/ns/shop/sa/../cart",
            "spiffe:///cluster/x",
            "spiffe://shop.mesh/cluster/x?y",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
    }
}
