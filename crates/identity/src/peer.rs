//! Who is at the other end of a session.

use std::time::SystemTime;

use isthmus_model::{Admission, ClusterName, SpiffeId};

/// What the peer is in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerRole {
    Client,
    Server,
}

/// Who is at the other end, proven. Only [`crate::TrustBundle::verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedPeer {
    id: SpiffeId,
    cluster: ClusterName,
    admission: Option<Admission>,
    not_after: SystemTime,
}

impl VerifiedPeer {
    pub(crate) fn new(
        id: SpiffeId,
        cluster: ClusterName,
        admission: Option<Admission>,
        not_after: SystemTime,
    ) -> Self {
        Self {
            id,
            cluster,
            admission,
            not_after,
        }
    }

    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The cluster whose intermediate issued the peer's certificate.
    pub fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// How it came into the mesh; `None`: it is a control plane, which the mesh key signed in.
    pub fn admission(&self) -> Option<Admission> {
        self.admission
    }

    /// When the first certificate of the chain ends: what hangs on the peer ends then too.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}
