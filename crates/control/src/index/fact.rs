//! Facts: what a cluster tells all others about itself, and their keys in its ledger.

use isthmus_model::{Admission, ClusterName, Gateway, ServiceName, Share};
use isthmus_wire::{Body, BodyError};

/// One thing that a cluster says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fact {
    Share(Share),
    Gateway(Gateway),
    /// Whom it admitted once is its own no more.
    Revoked(Admission),
}

/// Why an entry of another cluster's ledger is not a fact of that cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadFact {
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error("it is neither a share nor a gateway nor a revocation")]
    Kind,
    #[error("it is about cluster {0}, which alone may say so")]
    Foreign(ClusterName),
    #[error("its key should be {0:?}")]
    Key(String),
}

impl Fact {
    /// Reads an entry of `cluster`'s ledger.
    ///
    /// Errors: damaged bytes, another key than its own, or about somebody else.
    pub(crate) fn read(cluster: &ClusterName, key: &str, value: &[u8]) -> Result<Self, BadFact> {
        let fact = match Body::decode(value)? {
            Body::Share(share) if share.cluster != *cluster => {
                return Err(BadFact::Foreign(share.cluster));
            }
            Body::Share(share) => Self::Share(share),
            Body::Gateway(gateway) => Self::Gateway(gateway),
            Body::Revocation(admission) => Self::Revoked(admission),
            _ => return Err(BadFact::Kind),
        };
        match fact.key() {
            expected if expected == key => Ok(fact),
            expected => Err(BadFact::Key(expected)),
        }
    }

    /// Its key in the ledger of its cluster.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::Share(share) => format!("{}{}", share_prefix(&share.service), share.subset),
            Self::Gateway(gateway) => format!("gateway/{}", gateway.name),
            Self::Revoked(admission) => format!("revoked/{admission}"),
        }
    }
}

/// How the keys of all shares of a service begin.
pub(crate) fn share_prefix(service: &ServiceName) -> String {
    format!("share/{service}/")
}
